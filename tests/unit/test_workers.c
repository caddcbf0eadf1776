/* SPDX-License-Identifier: Apache-2.0 */
/*
 * workers: the same frames to one worker and to several; what they write is read back with libpcap
 * and followed by the independent reader of packet_check.h.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pcap/pcap.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "counters.h"
#include "crew/workers.h"
#include "ingest.h"
#include "packet_check.h"

#define T0    1700000000000000000ull
#define FLOWS 100u
#define TURNS 12u
#define OPEN  10u /* of them are not closed */
#define SAID  3000u

static char path[] = "/tmp/test_workers.XXXXXX";

static uint8_t pattern(int dir, uint64_t pos)
{
	return (uint8_t)(pos * 31 + (pos >> 8) * 7 + (unsigned)dir * 91);
}

/* ---- what agents say ---- */

static struct buf block;

static void put_open(unsigned i, uint64_t flow)
{
	struct frame_flow_open m = {.flow = flow,
				    .ts_ns = T0,
				    .transport = 6,
				    .family = 4,
				    .client_port = (uint16_t)(20000 + i),
				    .server_port = 443,
				    .comm = span_str("nginx")};

	memcpy(m.client_addr, "\x0a\1\0\1", 4);
	memcpy(m.server_addr, "\x0a\2\0\1", 4);
	memcpy(m.session, &i, sizeof(i));
	frame_put_flow_open(&block, &m);
}

static void put_data(uint64_t flow, enum flow_dir dir, unsigned turn)
{
	static uint8_t bytes[SAID];
	const struct frame_data m = {.flow = flow,
				     .dir = dir,
				     .offset = (uint64_t)turn * SAID,
				     .ts_ns = T0 + turn * 1000000ull + dir * 1000u,
				     .bytes = span_of(bytes, SAID)};

	for (unsigned n = 0; n < SAID; n++)
		bytes[n] = pattern(dir, m.offset + n);
	frame_put_data(&block, &m);
}

static void put_end(uint64_t flow)
{
	const struct frame_flow_close m = {
		.flow = flow, .ts_ns = T0 + TURNS * 1000000ull, .end = FLOW_END_FIN};

	frame_put_flow_close(&block, &m);
}

static void give(struct workers *w, struct crew_origin *o)
{
	bool second;

	assert_false(block.bad);
	assert_int_equal(ingest_frames(workers_crew(w), o, buf_span(&block), clock_mono_ns()), 0);
	buf_reset(&block);
	(void)workers_round(w, &second);
}

/* Both hosts of each connection tell of it. */
static void tell_all(struct workers *w)
{
	struct crew_origin *o[2] = {
		crew_origin(workers_crew(w), (const uint8_t *)"aaaaaaaaaaaaaaaa", span_str("web1")),
		crew_origin(workers_crew(w), (const uint8_t *)"bbbbbbbbbbbbbbbb", span_str("db1")),
	};

	for (unsigned host = 0; host < 2; host++) {
		assert_non_null(o[host]);
		crew_origin_link(workers_crew(w), o[host], true);
		for (unsigned i = 0; i < FLOWS; i++)
			put_open(i, i + 1);
		give(w, o[host]);
	}
	for (unsigned turn = 0; turn < TURNS; turn++) {
		for (unsigned host = 0; host < 2; host++) {
			for (unsigned i = 0; i < FLOWS; i++) {
				put_data(i + 1, FLOW_C2S, turn);
				put_data(i + 1, FLOW_S2C, turn);
			}
			give(w, o[host]);
		}
	}
	for (unsigned host = 0; host < 2; host++) {
		for (unsigned i = OPEN; i < FLOWS; i++)
			put_end(i + 1);
		give(w, o[host]);
	}
}

/* ---- what became of it ---- */

struct seen {
	uint64_t digest[FLOWS]; /* of a connection's packets, in their order */
	unsigned packets[FLOWS], rsts, fins;
};

static void note(struct seen *s, const struct check_packet *p)
{
	unsigned i = (p->sport == 443 ? p->dport : p->sport) - 20000u;
	const uint32_t head[] = {p->sport, p->dport, p->seq, p->ack, p->flags, p->window};

	assert_in_range(i, 0, FLOWS - 1);
	s->rsts += (p->flags & CF_RST) != 0;
	s->fins += (p->flags & CF_FIN) != 0;
	if (p->flags == CF_ACK && !p->len)
		return; /* how many of those there are is a matter of time: pokes */
	s->packets[i]++;
	s->digest[i] = check_hash(s->digest[i], (const uint8_t *)head, sizeof(head));
	s->digest[i] = check_hash(s->digest[i], p->payload, p->len);
}

static void read_back(struct seen *s)
{
	static struct check check;
	char err[PCAP_ERRBUF_SIZE];
	pcap_t *p = pcap_open_offline_with_tstamp_precision(path, PCAP_TSTAMP_PRECISION_NANO, err);
	struct pcap_pkthdr *h;
	const u_char *data;

	assert_non_null(p);
	memset(&check, 0, sizeof(check));
	check.mtu = 1500;
	check.pattern = pattern;
	while (pcap_next_ex(p, &h, &data) == 1) {
		struct check_packet one;
		uint64_t ts_ns = (uint64_t)h->ts.tv_sec * NS_PER_S + (uint64_t)h->ts.tv_usec;

		assert_true(check_parse(&check, &one, data, h->caplen));
		check_frame(&check, data, h->caplen, ts_ns, one.flags == CF_SYN);
		assert_null(check.err);
		note(s, &one);
	}
	pcap_close(p);
}

static int open_with(struct workers **w, unsigned n)
{
	const struct sink_conf sink = {.kind = "pcap", .target = path};
	const struct workers_conf conf = {
		.sinks = &sink, .n_sinks = 1, .n = n, .state_dir = "/nonexistent"};
	int err = workers_open(w, &conf);

	return err ? err : workers_start(*w);
}

static void run_with(unsigned n, struct seen *s)
{
	struct workers *w;

	memset(s, 0, sizeof(*s));
	buf_init(&block, 1u << 20);
	assert_int_equal(truncate(path, 0), 0);
	assert_int_equal(open_with(&w, n), 0);
	tell_all(w);
	workers_close(w);
	buf_fini(&block);
	read_back(s);
}

static void test_four_workers_show_each_connection_as_one_does(void **state)
{
	static struct seen one, four;
	uint64_t bytes = counter_named("session_bytes");

	(void)state;
	run_with(1, &one);
	bytes = counter_named("session_bytes") - bytes;
	assert_int_equal(bytes, (uint64_t)FLOWS * TURNS * SAID * 2);
	run_with(4, &four);
	assert_int_equal(counter_named("session_bytes"), 2 * bytes);
	assert_int_equal(one.fins, (FLOWS - OPEN) * 2);
	assert_int_equal(four.fins, one.fins);
	assert_int_equal(one.rsts, OPEN); /* reset at the end */
	assert_int_equal(four.rsts, OPEN);
	assert_memory_equal(one.packets, four.packets, sizeof(one.packets));
	assert_memory_equal(one.digest, four.digest, sizeof(one.digest));
	assert_int_equal(counter_named("session_active"), 0);
}

/* Whether what was given before is in the file when its mark is passed. */
static void test_what_is_past_has_been_written(void **state)
{
	struct crew_mark m;
	struct workers *w;
	struct seen s = {.rsts = 0};
	struct crew_origin *o;

	(void)state;
	buf_init(&block, 1u << 20);
	assert_int_equal(truncate(path, 0), 0);
	assert_int_equal(open_with(&w, 3), 0);
	o = crew_origin(workers_crew(w), (const uint8_t *)"aaaaaaaaaaaaaaaa", span_str("web1"));
	assert_non_null(o);
	for (unsigned i = 0; i < FLOWS; i++) {
		put_open(i, i + 1);
		put_data(i + 1, FLOW_C2S, 0);
	}
	give(w, o);
	crew_mark(workers_crew(w), &m);
	for (unsigned i = 0; i < 100 && !crew_is_past(workers_crew(w), &m); i++) {
		struct pollfd p = {.fd = crew_fd(workers_crew(w)), .events = POLLIN};

		assert_int_equal(poll(&p, 1, 20000), 1);
		crew_fd_clear(workers_crew(w));
	}
	assert_true(crew_is_past(workers_crew(w), &m));
	read_back(&s);
	for (unsigned i = 0; i < FLOWS; i++)
		assert_int_equal(s.packets[i], 2 + (SAID + 1459) / 1460); /* SYN, SYN-ACK, data */
	workers_close(w);
	buf_fini(&block);
}

static void test_an_origin_that_is_gone_has_its_connections_reset(void **state)
{
	static struct seen s;
	struct workers *w;
	struct crew_origin *o;
	bool second;

	(void)state;
	buf_init(&block, 1u << 20);
	assert_int_equal(truncate(path, 0), 0);
	assert_int_equal(open_with(&w, 4), 0);
	for (unsigned turn = 0; turn < 3; turn++) { /* it comes back under the same name */
		o = crew_origin(workers_crew(w), (const uint8_t *)"aaaaaaaaaaaaaaaa",
				span_str("web1"));
		assert_non_null(o);
		for (unsigned i = 0; i < FLOWS; i++) {
			put_open(i, i + 1);
			put_data(i + 1, FLOW_C2S, 0);
		}
		give(w, o);
		crew_origin_gone(workers_crew(w), o, clock_mono_ns());
		crew_settle(workers_crew(w));
		crew_tidy(workers_crew(w));
		(void)workers_round(w, &second);
		assert_int_equal(counter_named("session_active"), 0);
	}
	workers_close(w);
	buf_fini(&block);
	read_back(&s);
	assert_int_equal(s.rsts, 3 * FLOWS);
}

/* Three times as much as may wait for a worker. */
static void test_who_gives_too_much_waits_and_nothing_is_lost(void **state)
{
	uint64_t bytes = counter_named("session_bytes");
	struct crew_origin *o;
	struct workers *w;

	(void)state;
	buf_init(&block, 1u << 20);
	assert_int_equal(open_with(&w, 2), 0);
	o = crew_origin(workers_crew(w), (const uint8_t *)"aaaaaaaaaaaaaaaa", span_str("web1"));
	assert_non_null(o);
	put_open(0, 1);
	for (unsigned turn = 0; turn < 4000; turn++) {
		put_data(1, FLOW_S2C, turn);
		if (block.len > 900000)
			give(w, o);
	}
	give(w, o);
	workers_close(w);
	assert_int_equal(counter_named("session_bytes") - bytes, 4000 * SAID);
	assert_int_equal(truncate(path, 0), 0);
	buf_fini(&block);
}

static int setup(void **state)
{
	int fd = mkstemp(path);

	(void)state;
	log_set_level(LOG_ERROR);
	return fd < 0 ? -1 : close(fd);
}

static int teardown(void **state)
{
	(void)state;
	return unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_four_workers_show_each_connection_as_one_does),
		cmocka_unit_test(test_what_is_past_has_been_written),
		cmocka_unit_test(test_who_gives_too_much_waits_and_nothing_is_lost),
		cmocka_unit_test(test_an_origin_that_is_gone_has_its_connections_reset),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
