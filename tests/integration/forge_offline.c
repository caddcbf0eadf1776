/* SPDX-License-Identifier: Apache-2.0 */
/*
 * forge_offline: writes what the collector's session and forge stages make of one prepared case
 * into a pcap file, for forge_offline.sh to show to tshark and Suricata.  forge_offline CASE FILE
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "ledger.h"
#include "sessions/session.h"

#define T0       1700000000000000000ull
#define BODY_LEN 200000u

/* One file is all the outputs there are. */

static FILE *out;
static uint32_t out_mtu = 1500;

struct world {
	struct sink file;
	struct sink_set set;
	struct sessions *t;
	struct session_origin *agent;
	struct buf buf;
	uint64_t now, offset[8][2];
	uint8_t family;
};

/* As an interface does: small frames are built in the sink's own memory. */
static uint8_t *file_room(struct sink *s, size_t len)
{
	static uint8_t room[1000];

	(void)s;
	return len <= sizeof(room) ? room : NULL;
}

/* Classic pcap with nanoseconds, native byte order. */
static void file_packet(struct sink *s, struct span l2, uint64_t ts_ns,
			const struct sink_flow *flow, bool first)
{
	uint32_t record[4] = {(uint32_t)(ts_ns / NS_PER_S), (uint32_t)(ts_ns % NS_PER_S),
			      (uint32_t)l2.len, (uint32_t)l2.len};

	(void)s, (void)flow, (void)first;
	fwrite(record, sizeof(record), 1, out);
	fwrite(l2.p, l2.len, 1, out);
}

/* Nobody reads messages here. */
void sinks_message(struct sink_set *set, const struct sink_flow *flow, enum flow_dir dir,
		   struct span bytes, bool end, uint64_t ts_ns)
{
	(void)set, (void)flow, (void)dir, (void)bytes, (void)end, (void)ts_ns;
}

/* Nothing that is live is written down. */
void ledger_outlet(struct ledger *l, unsigned index, const struct forge_link *link,
		   struct sink *const *sinks, unsigned n)
{
	(void)l, (void)index, (void)link, (void)sinks, (void)n;
}

void ledger_keep(struct ledger *l, unsigned index, struct forge_flow *f,
		 const struct frame_flow_open *open)
{
	(void)l, (void)index, (void)f, (void)open;
}

static uint32_t file_mtu(const struct sink *s)
{
	(void)s;
	return out_mtu;
}

void sinks_stream(const struct sink_set *set, const struct sink_stream *stream, uint64_t ts_ns)
{
	(void)set;
	(void)stream;
	(void)ts_ns;
}

static const struct sink_ops file_ops = {
	.name = "file", .room = file_room, .packet = file_packet, .mtu = file_mtu};

static void die(const char *what)
{
	fprintf(stderr, "forge_offline: %s\n", what);
	exit(1);
}

static void push(struct world *w)
{
	struct frame f;

	if (frame_decode(buf_span(&w->buf), &f) <= 0 ||
	    sessions_frame(w->t, w->agent, &f, w->now) < 0)
		die("frame refused");
	buf_reset(&w->buf);
}

static uint64_t wall(const struct world *w)
{
	return T0 + w->now;
}

/* Time passes in steps of 1 ms, as an event loop would see it. */
static void wait_ms(struct world *w, unsigned ms)
{
	while (ms--) {
		w->now += NS_PER_MS;
		(void)sessions_tick(w->t, w->now);
	}
}

static void open_flow(struct world *w, uint64_t flow, uint16_t port)
{
	struct frame_flow_open m = {
		.flow = flow,
		.session = {0x51, (uint8_t)flow, 3, 4},
		.ts_ns = wall(w),
		.transport = 6,
		.family = w->family,
		.captured_end = FLOW_S2C,
		.client_addr = {10, 20, 0, 1},
		.server_addr = {10, 20, 0, 2},
		.client_port = port,
		.server_port = 443,
	};

	if (w->family == 6) {
		m.client_addr[0] = m.server_addr[0] = 0xfd;
		m.client_addr[15] = 1;
	}
	frame_put_flow_open(&w->buf, &m);
	push(w);
}

static void say(struct world *w, uint64_t flow, enum flow_dir dir, const char *p, size_t len)
{
	struct frame_data m = {.flow = flow, .dir = (uint8_t)dir, .ts_ns = wall(w)};

	while (len > 0) {
		size_t n = len < 16384 ? len : 16384;

		m.offset = w->offset[flow][dir];
		m.bytes = span_of(p, n);
		m.flags = FRAME_DATA_END;
		frame_put_data(&w->buf, &m);
		push(w);
		w->offset[flow][dir] += n;
		p += n;
		len -= n;
	}
}

static void lose(struct world *w, uint64_t flow, enum flow_dir dir, uint64_t len)
{
	struct frame_gap m = {.flow = flow, .dir = (uint8_t)dir, .ts_ns = wall(w), .len = len};

	m.offset = w->offset[flow][dir];
	frame_put_gap(&w->buf, &m);
	push(w);
	w->offset[flow][dir] += len;
}

static void finish(struct world *w, uint64_t flow, enum flow_end end)
{
	struct frame_flow_close m = {.flow = flow, .ts_ns = wall(w), .end = (uint8_t)end};

	frame_put_flow_close(&w->buf, &m);
	push(w);
}

static void request(struct world *w, uint64_t flow, const char *path)
{
	char text[256];
	int n = snprintf(text, sizeof(text),
			 "GET %s HTTP/1.1\r\nHost: example.test\r\nUser-Agent: forge\r\n\r\n",
			 path);

	say(w, flow, FLOW_C2S, text, (size_t)n);
}

static void response(struct world *w, uint64_t flow, size_t len, size_t lost)
{
	char head[128], *body = malloc(len);
	int n = snprintf(
		head, sizeof(head),
		"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n\r\n", len);

	if (!body)
		die("out of memory");
	memset(body, 'a', len);
	say(w, flow, FLOW_S2C, head, (size_t)n);
	if (lost > 0) {
		say(w, flow, FLOW_S2C, body, 5000);
		lose(w, flow, FLOW_S2C, lost);
		say(w, flow, FLOW_S2C, body, len - lost - 5000);
	} else {
		say(w, flow, FLOW_S2C, body, len);
	}
	free(body);
}

/* `pause` ms after each message: from 2 ms on, each gets a poke. */
static void exchange(struct world *w, uint64_t flow, uint16_t port, unsigned pause)
{
	open_flow(w, flow, port);
	request(w, flow, "/evil");
	wait_ms(w, pause);
	response(w, flow, BODY_LEN, 0);
	wait_ms(w, pause);
	request(w, flow, "/second");
	wait_ms(w, pause);
	response(w, flow, 20, 0);
	wait_ms(w, pause);
}

static void run_case(struct world *w, const char *name)
{
	if (!strcmp(name, "plain")) {
		exchange(w, 1, 40001, 0);
		finish(w, 1, FLOW_END_FIN);
	} else if (!strcmp(name, "plain6")) {
		w->family = 6;
		exchange(w, 1, 40001, 0);
		finish(w, 1, FLOW_END_FIN);
	} else if (!strcmp(name, "poke")) {
		exchange(w, 1, 40001, 5);
		finish(w, 1, FLOW_END_FIN);
	} else if (!strcmp(name, "reset")) {
		exchange(w, 1, 40001, 5);
		finish(w, 1, FLOW_END_RST_C2S);
	} else if (!strcmp(name, "gap")) {
		open_flow(w, 1, 40001);
		request(w, 1, "/first");
		response(w, 1, 100000, 36000);
		request(w, 1, "/evil");
		response(w, 1, 20, 0);
		finish(w, 1, FLOW_END_FIN);
	} else if (!strcmp(name, "reuse")) {
		exchange(w, 1, 40001, 0); /* never closed */
		w->now += NS_PER_S;
		exchange(w, 2, 40001, 0);
		finish(w, 2, FLOW_END_FIN);
	} else if (!strcmp(name, "jumbo")) {
		out_mtu = 65535;
		exchange(w, 1, 40001, 0);
		finish(w, 1, FLOW_END_FIN);
	} else {
		die("no such case");
	}
}

int main(int argc, char **argv)
{
	static const uint32_t head[] = {0xa1b23c4d, 2 | 4 << 16, 0,
					0,          262144,      1}; /* version 2.4, Ethernet */
	struct world w = {.family = 4, .now = NS_PER_S};

	if (argc != 3)
		die("usage: forge_offline CASE FILE");
	out = fopen(argv[2], "wb");
	if (!out)
		die("cannot write the file");
	fwrite(head, sizeof(head), 1, out);
	w.file.ops = &file_ops;
	w.set = (struct sink_set){.v = {&w.file}, .n = 1};
	buf_init(&w.buf, 1 << 20);
	if (sessions_new(&w.t, NULL, &w.set) < 0)
		die("out of memory");
	w.agent = sessions_origin(w.t, (const uint8_t *)"forge-offline-01", span_str("host"));
	run_case(&w, argv[1]);
	sessions_close_all(w.t, w.now);
	sessions_free(w.t);
	buf_fini(&w.buf);
	return fclose(out) ? 1 : 0;
}
