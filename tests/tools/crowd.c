/* SPDX-License-Identifier: Apache-2.0 */
/*
 * crowd: what very many sessions cost the collector, in memory and in time. Frames as of an agent
 * go to a session table whose one output only counts packets; no network, no clock but for
 * measuring.
 *
 * crowd [-n SESSIONS] [-p] [-u] [-k DIR]
 *   -n  default 1000000
 *   -p  both ends of each connection are captured: two sessions a connection
 *   -u  each session has strings of its own, not one of 24 programs
 *   -k  what is open is written down in DIR (ledger.h)
 * Prints one "NAME VALUE" a line; times are CPU time. Status 1: a byte or a session was lost on the
 * way.
 */
#include <getopt.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "ledger.h"
#include "sessions/session.h"

#define PROGRAMS     24u
#define OPENS_A_TICK 64u /* the loop's rounds under load: many frames, then timers */
#define TOUCHES      1000000u
#define IDLE_S       540u

struct crowd {
	struct sink sink; /* counts */
	uint64_t packets, bytes;
	struct sink_set set;
	struct sessions *t;
	struct ledger *ledger; /* NULL: none */
	struct session_origin *origin[2];
	struct buf buf;
	uint64_t now_ns;
	unsigned n;
	bool pairs, own_strings;
	const char *dir;
};

static void on_packet(struct sink *s, struct span l2, uint64_t ts_ns, const struct sink_flow *flow,
		      bool first)
{
	struct crowd *c = (struct crowd *)(void *)s;

	(void)ts_ns, (void)flow, (void)first;
	c->packets++;
	c->bytes += l2.len;
}

static const struct sink_ops ops = {.name = "crowd", .packet = on_packet};

/* KiB, as /proc/self/status says it. */
static uint64_t memory(const char *name)
{
	FILE *f = fopen("/proc/self/status", "re");
	char line[256];
	uint64_t kib = 0;

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, strlen(name)))
			kib = strtoull(line + strlen(name) + 1, NULL, 10);
	if (f)
		fclose(f);
	return kib;
}

/* What this program itself took: others run, too. */
static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static void tell(const char *name, double value)
{
	printf("%s %.1f\n", name, value);
	fflush(stdout);
}

static void frames(struct crowd *c, unsigned end)
{
	struct span left = buf_span(&c->buf);

	while (left.len) {
		struct frame f;
		ssize_t n = frame_decode(left, &f);

		if (n <= 0 || sessions_frame(c->t, c->origin[end], &f, c->now_ns))
			abort();
		left = span_of(left.p + n, left.len - (size_t)n);
	}
	buf_reset(&c->buf);
}

/* Addresses, ports and programs as of a busy proxy: connection `i` of many. */
static void put_open(struct crowd *c, unsigned i, unsigned end)
{
	static const char id[] = "3f4e1c9a7d02";
	char comm[32], exe[64];
	unsigned program = c->own_strings ? i : i % PROGRAMS;
	struct frame_flow_open m = {
		.flow = i + 1ull,
		.ts_ns = c->now_ns,
		.transport = 6,
		.family = 4,
		.captured_end = (uint8_t)end,
		.confidence = CONF_EXACT,
		.client_addr = {10, (uint8_t)(i >> 22), (uint8_t)(i >> 14), 1},
		.server_addr = {10, 0, 0, 2},
		.client_port = (uint16_t)(1024 + i % 16384),
		.server_port = 443,
		.mss = 1460,
		.netns = 4026531840u,
		.pid = 1000 + program,
		.uid = 33,
		.container = span_of(id, sizeof(id) - 1),
	};

	memcpy(m.session, &i, sizeof(i));
	m.session[15] = 1;
	snprintf(comm, sizeof(comm), "worker-%u", program);
	snprintf(exe, sizeof(exe), "/usr/lib/service/bin/server-%u", program);
	m.comm = span_str(comm);
	m.exe = span_str(exe);
	frame_put_flow_open(&c->buf, &m);
}

static void put_data(struct crowd *c, unsigned i, enum flow_dir dir, uint64_t offset)
{
	static const uint8_t text[64] = "GET / HTTP/1.1\r\n";
	struct frame_data m = {.flow = i + 1ull,
			       .offset = offset,
			       .ts_ns = c->now_ns,
			       .dir = (uint8_t)dir,
			       .flags = FRAME_DATA_END,
			       .bytes = span_of(text, sizeof(text))};

	frame_put_data(&c->buf, &m);
}

/* A connection with a request and an answer of 64 bytes. */
static void open_one(struct crowd *c, unsigned i, unsigned end)
{
	put_open(c, i, end);
	put_data(c, i, FLOW_C2S, 0);
	put_data(c, i, FLOW_S2C, 0);
	frames(c, end);
}

/* What the loop does between frames. */
static uint64_t go_round(struct crowd *c)
{
	uint64_t wait_ns = sessions_tick(c->t, c->now_ns);

	ledger_flushed(c->ledger);
	return wait_ns;
}

/* Nothing but the clock: its pokes are done, nobody is idle for long enough. */
static void settle(struct crowd *c)
{
	for (int i = 0; i < 100000 && go_round(c) < 2 * NS_PER_MS; i++)
		c->now_ns += NS_PER_MS;
}

static void open_all(struct crowd *c)
{
	uint64_t worst = 0, began = cpu_ns(), before = began;
	unsigned ends = c->pairs ? 2 : 1;

	for (unsigned i = 0; i < c->n / ends; i++) {
		uint64_t now;

		for (unsigned end = 0; end < ends; end++)
			open_one(c, i, end);
		if (i % OPENS_A_TICK)
			continue;
		c->now_ns += NS_PER_MS;
		go_round(c);
		now = cpu_ns();
		worst = now - before > worst ? now - before : worst;
		before = now;
	}
	tell("open_ns", (double)(cpu_ns() - began) / c->n);
	tell("open_round_worst_us", (double)worst / 1e3); /* of 64 */
	settle(c);
}

static void touch(struct crowd *c)
{
	unsigned ends = c->pairs ? 2 : 1, n = c->n / ends;
	uint64_t i = 1;
	uint64_t began = cpu_ns();

	for (unsigned k = 0; k < TOUCHES; k++) {
		i = i * 6364136223846793005ull + 1442695040888963407ull; /* Knuth's, of MMIX */
		put_data(c, (unsigned)((i >> 33) % n), FLOW_C2S, 64);
		frames(c, 0);
		if (k % OPENS_A_TICK)
			continue;
		c->now_ns += NS_PER_MS;
		go_round(c);
	}
	tell("touch_and_poke_ns", (double)(cpu_ns() - began) / TOUCHES);
	settle(c);
}

static void tick_idle(struct crowd *c)
{
	enum { TICKS = 1000 };
	uint64_t began = cpu_ns();

	for (int i = 0; i < TICKS; i++)
		go_round(c);
	tell("tick_idle_ns", (double)(cpu_ns() - began) / TICKS);
}

/* All of them are idle for too long at the same moment. */
static void expire(struct crowd *c)
{
	uint64_t worst = 0, began = cpu_ns(), before = began, rounds = 0, wait, packets;

	c->now_ns += (IDLE_S + 1) * NS_PER_S;
	packets = c->packets;
	do {
		uint64_t now;

		wait = go_round(c);
		now = cpu_ns();
		worst = now - before > worst ? now - before : worst;
		before = now;
		rounds++;
	} while (wait == 0);
	tell("expire_ns", (double)(cpu_ns() - began) / c->n);
	tell("expire_rounds", (double)rounds);
	tell("expire_round_worst_us", (double)worst / 1e3);
	tell("expire_packets", (double)(c->packets - packets));
}

/* The agent is gone for good. */
static void leave(struct crowd *c)
{
	uint64_t began = cpu_ns(), worst = 0, before, now;

	for (unsigned end = 0; end < (c->pairs ? 2 : 1); end++) {
		before = cpu_ns();
		sessions_origin_gone(c->t, c->origin[end], c->now_ns);
		now = cpu_ns();
		worst = now - before > worst ? now - before : worst;
	}
	while (sessions_count(c->t)) {
		before = cpu_ns();
		go_round(c);
		now = cpu_ns();
		worst = now - before > worst ? now - before : worst;
	}
	tell("gone_ns", (double)(cpu_ns() - began) / c->n);
	tell("gone_round_worst_us", (double)worst / 1e3);
}

static bool take_options(struct crowd *c, int argc, char **argv)
{
	int o;

	while ((o = getopt(argc, argv, "n:puk:")) != -1) {
		if (o == 'n')
			c->n = (unsigned)strtoul(optarg, NULL, 10);
		else if (o == 'p')
			c->pairs = true;
		else if (o == 'u')
			c->own_strings = true;
		else if (o == 'k')
			c->dir = optarg;
		else
			return false;
	}
	return c->n >= 2 && optind == argc;
}

static void measure(struct crowd *c)
{
	double n = c->n;
	uint64_t before = memory("VmRSS"), after;

	open_all(c);
	if (sessions_count(c->t) != c->n) {
		fprintf(stderr, "crowd: %zu sessions of %u\n", sessions_count(c->t), c->n);
		exit(1);
	}
	after = memory("VmRSS");
	tell("rss_bytes_a_session", (double)(after - before) * 1024 / n);
	tell("rss_mb", (double)after * 1024 / 1e6);
	tell("peak_mb", (double)memory("VmHWM") * 1024 / 1e6);
	tick_idle(c);
	touch(c);
	expire(c);
	leave(c);
	malloc_trim(0);
	tell("rss_mb_without", (double)memory("VmRSS") * 1024 / 1e6);
}

int main(int argc, char **argv)
{
	static struct crowd c = {
		.sink.ops = &ops, .sink.place = 1, .n = 1000000, .now_ns = 1000 * NS_PER_S};
	struct session_conf conf = {.idle_s = IDLE_S, .max_sessions = SIZE_MAX};

	if (!take_options(&c, argc, argv)) {
		fprintf(stderr, "usage: crowd [-n SESSIONS] [-p] [-u] [-k DIR]\n");
		return 2;
	}
	c.set.v[c.set.n++] = &c.sink;
	buf_init(&c.buf, 1 << 16);
	if (sessions_new(&c.t, &conf, &c.set))
		return 1;
	c.origin[0] = sessions_origin(c.t, (const uint8_t *)"one end of them.", span_str("web1"));
	c.origin[1] = sessions_origin(c.t, (const uint8_t *)"the other end...", span_str("db2"));
	if (!c.origin[0] || !c.origin[1])
		return 1;
	if (c.dir && ledger_open(&c.ledger, c.dir))
		return 1;
	sessions_keep(c.t, c.ledger);
	measure(&c);
	sessions_free(c.t);
	ledger_close(c.ledger);
	buf_fini(&c.buf);
	return 0;
}
