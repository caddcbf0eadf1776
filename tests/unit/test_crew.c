/* SPDX-License-Identifier: Apache-2.0 */
/* crew: frames in, parcels for workers out; the workers are this test. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include <poll.h>

#include "counters.h"
#include "crew/crew.h"
#include "ingest.h"
#include "zblock.h"

#define N       4u
#define NOWHERE N
#define MOST    1000u /* flows */

static struct crew *crew;
static struct crew_origin *web, *db;
static struct buf block;

static void begin(bool with_ports)
{
	assert_int_equal(crew_new(&crew, N, with_ports, MOST), 0);
	web = crew_origin(crew, (const uint8_t *)"aaaaaaaaaaaaaaaa", span_str("web1"));
	db = crew_origin(crew, (const uint8_t *)"bbbbbbbbbbbbbbbb", span_str("db 2"));
	assert_non_null(web);
	assert_non_null(db);
	buf_init(&block, 1u << 20);
}

static int setup(void **state)
{
	(void)state;
	begin(true);
	return 0;
}

static int setup_without_ports(void **state)
{
	(void)state;
	begin(false);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	crew_free(crew);
	buf_fini(&block);
	return 0;
}

static void put_open(uint64_t flow, uint16_t client_port, bool swapped)
{
	struct frame_flow_open m = {.flow = flow, .transport = 6, .family = 4, .server_port = 443};

	memcpy(m.client_addr, "\x0a\1\0\1", 4);
	memcpy(m.server_addr, "\x0a\2\0\1", 4);
	m.client_port = client_port;
	if (swapped) {
		memcpy(m.client_addr, "\x0a\2\0\1", 4);
		memcpy(m.server_addr, "\x0a\1\0\1", 4);
		m.client_port = 443;
		m.server_port = client_port;
	}
	frame_put_flow_open(&block, &m);
}

static void put_data(uint64_t flow, uint64_t offset)
{
	const struct frame_data m = {.flow = flow, .offset = offset, .bytes = span_str("x")};

	frame_put_data(&block, &m);
}

static void put_close(uint64_t flow)
{
	const struct frame_flow_close m = {.flow = flow, .end = FLOW_END_FIN};

	frame_put_flow_close(&block, &m);
}

/* All frames of the block, of one origin. */
static int give(struct crew_origin *o)
{
	struct span in = buf_span(&block);
	struct frame f;
	int err = 0;

	crew_begin(crew, o, in.len);
	while (!err && in.len) {
		ssize_t n = frame_decode(in, &f);

		assert_true(n > 0);
		err = crew_frame(crew, &f, 1);
		in = span_of(in.p + n, in.len - (size_t)n);
	}
	crew_end(crew);
	buf_reset(&block);
	return err;
}

struct got {
	unsigned parcels, opens, datas, closes;
	uint64_t offset; /* of the last data frame */
	bool in_order;
	struct crew_origin *from;
};

static struct got take(unsigned worker)
{
	struct got g = {.in_order = true};
	struct parcel p;

	while (chute_take(crew_chute(crew, worker), &p)) {
		g.parcels++;
		g.from = p.to;
		assert_int_equal(p.what, CREW_FRAMES);
		while (p.body.len) {
			struct frame_data m;
			struct frame f;
			ssize_t n = frame_decode(p.body, &f);

			assert_true(n > 0);
			g.opens += f.type == FRAME_FLOW_OPEN;
			g.closes += f.type == FRAME_FLOW_CLOSE;
			if (f.type == FRAME_DATA && !frame_get_data(&f, &m)) {
				g.in_order &= !g.datas++ || m.offset > g.offset;
				g.offset = m.offset;
			}
			p.body = span_of(p.body.p + n, p.body.len - (size_t)n);
		}
	}
	chute_done(crew_chute(crew, worker));
	return g;
}

/* Whose parcel it was; the others must have none. */
static unsigned taker(struct got *out)
{
	unsigned who = NOWHERE;

	for (unsigned i = 0; i < N; i++) {
		struct got g = take(i);

		if (!g.parcels)
			continue;
		assert_int_equal(who, NOWHERE);
		who = i;
		*out = g;
	}
	return who;
}

static void test_both_ends_of_a_connection_meet_in_one_worker(void **state)
{
	struct got g;

	(void)state;
	for (uint16_t port = 40000; port < 40050; port++) {
		unsigned first;

		put_open(port, port, false);
		assert_int_equal(give(web), 0);
		first = taker(&g);
		assert_int_not_equal(first, NOWHERE);
		assert_ptr_equal(g.from, web);
		put_open(port + 1000u, port, false);
		assert_int_equal(give(db), 0);
		assert_int_equal(taker(&g), first);
		assert_ptr_equal(g.from, db);
		put_open(port + 2000u, port, true); /* the same addresses, the other way round */
		assert_int_equal(give(db), 0);
		assert_int_equal(taker(&g), first);
	}
}

static void test_connections_are_shared_out(void **state)
{
	unsigned opens[N];

	(void)state;
	for (uint16_t port = 1; port <= 400; port++)
		put_open(port, port, false);
	assert_int_equal(give(web), 0);
	for (unsigned i = 0; i < N; i++) {
		struct got g = take(i);

		assert_int_equal(g.parcels, 1); /* one a block */
		opens[i] = g.opens;
		assert_in_range(opens[i], 60, 140);
	}
	assert_int_equal(opens[0] + opens[1] + opens[2] + opens[3], 400);
}

static void test_where_ports_are_made_up_the_addresses_alone_count(void **state)
{
	struct got g;

	(void)state;
	for (uint16_t port = 1; port <= 100; port++)
		put_open(port, port, port % 2);
	assert_int_equal(give(web), 0);
	assert_int_not_equal(taker(&g), NOWHERE);
	assert_int_equal(g.opens, 100);
}

static void test_frames_follow_their_flow_in_order(void **state)
{
	unsigned datas = 0, closes = 0;

	(void)state;
	for (uint16_t port = 1; port <= 64; port++)
		put_open(port, port, false);
	assert_int_equal(give(web), 0);
	for (unsigned i = 0; i < N; i++)
		(void)take(i);
	for (unsigned n = 0; n < 1000; n++)
		put_data(1 + n % 64, n);
	for (uint16_t port = 1; port <= 64; port++)
		put_close(port);
	assert_int_equal(give(web), 0);
	for (unsigned i = 0; i < N; i++) {
		struct got g = take(i);

		assert_true(g.in_order);
		datas += g.datas;
		closes += g.closes;
		if (i == 0)
			assert_in_range(g.datas, 1, 999);
	}
	assert_int_equal(datas, 1000);
	assert_int_equal(closes, 64);
}

static void test_a_flow_told_again_stays_with_its_worker(void **state)
{
	struct got g;
	unsigned first;

	(void)state;
	put_open(7, 1000, false);
	assert_int_equal(give(web), 0);
	first = taker(&g);
	for (uint16_t port = 1001; port < 1030; port++) {
		put_open(7, port, false);
		put_data(7, 1);
		assert_int_equal(give(web), 0);
		assert_int_equal(taker(&g), first);
	}
}

static void test_what_no_table_would_take_is_refused_and_what_came_before_counts(void **state)
{
	const struct frame_data far = {.flow = 1, .offset = UINT64_MAX, .bytes = span_str("xx")};
	struct got g;

	(void)state;
	put_open(1, 1000, false);
	put_data(1, 0);
	frame_put_data(&block, &far);
	put_data(1, 1);
	assert_int_equal(give(web), -EBADMSG);
	assert_int_not_equal(taker(&g), NOWHERE);
	assert_int_equal(g.opens, 1);
	assert_int_equal(g.datas, 1);
}

static void test_frames_of_a_flow_nobody_knows_reach_a_table_that_counts_them(void **state)
{
	struct got g;

	(void)state;
	put_data(12345, 0);
	assert_int_equal(give(web), 0);
	assert_int_not_equal(taker(&g), NOWHERE);
	assert_int_equal(g.datas, 1);
}

static void test_the_flow_used_least_recently_is_forgotten_at_the_limit(void **state)
{
	uint64_t before = counter_named("crew_flows_forgotten");
	unsigned kept, moved = 0;
	struct got g;

	(void)state;
	put_open(N, 7, false);
	put_data(N, 0);
	assert_int_equal(give(web), 0);
	kept = taker(&g);
	for (unsigned i = 0; i < MOST; i++) {
		put_open(1000 + i, (uint16_t)(1000 + i), false);
		put_data(N, 1 + i); /* in use all the time */
	}
	assert_int_equal(give(web), 0);
	assert_int_equal(counter_named("crew_flows_forgotten"), before + 1);
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(take(i).datas, i == kept ? MOST : 0);
	for (unsigned i = 0; i < MOST; i++)
		put_close(1000 + i);
	put_close(N);
	assert_int_equal(give(web), 0);
	for (unsigned i = 0; i < N; i++)
		moved += take(i).closes;
	assert_int_equal(moved, MOST + 1);
}

/* As tables do: an agent with very many flows leaves the others theirs. */
static void test_an_agent_loses_no_flows_to_its_own_when_another_one_fills_the_table(void **state)
{
	uint64_t before = counter_named("crew_flows_forgotten");
	unsigned worker[20];
	struct got g;

	(void)state;
	for (unsigned i = 0; i < MOST; i++)
		put_open(1 + i, (uint16_t)(1000 + i), false);
	assert_int_equal(give(web), 0);
	for (unsigned i = 0; i < N; i++)
		(void)take(i);
	for (unsigned i = 0; i < 20; i++) {
		put_open(1 + i, (uint16_t)(5000 + i), false);
		assert_int_equal(give(db), 0);
		worker[i] = taker(&g);
	}
	assert_int_equal(counter_named("crew_flows_forgotten"), before + 20);
	for (unsigned i = 0; i < 20; i++) {
		put_data(1 + i, 0);
		assert_int_equal(give(db), 0);
		assert_int_equal(taker(&g), worker[i]);
		assert_ptr_equal(g.from, db);
	}
}

/* ... and the one flow that it speaks on all the time. */
static void test_a_flow_in_use_is_not_the_least_recent_one_of_all(void **state)
{
	unsigned kept;
	struct got g;

	(void)state;
	put_open(N + 1, 7, false); /* worker 1 has the data of it, once it is forgotten */
	assert_int_equal(give(db), 0);
	kept = taker(&g);
	assert_int_not_equal(kept, 1);
	for (unsigned i = 0; i < 2 * MOST; i++) {
		put_open(1 + i, (uint16_t)(1000 + i), false);
		assert_int_equal(give(web), 0);
		(void)taker(&g);
		put_data(N + 1, i);
		assert_int_equal(give(db), 0);
		assert_int_equal(taker(&g), kept);
	}
}

static bool is_told(void)
{
	struct pollfd p = {.fd = crew_fd(crew), .events = POLLIN};
	bool told = poll(&p, 1, 0) > 0;

	crew_fd_clear(crew);
	return told;
}

static void test_a_mark_is_passed_when_all_workers_are_done(void **state)
{
	struct crew_mark m;

	(void)state;
	for (uint16_t port = 1; port <= 64; port++)
		put_open(port, port, false);
	assert_int_equal(give(web), 0);
	crew_mark(crew, &m);
	assert_int_equal(give(web), 0); /* an empty block has nothing to wait for */
	for (unsigned i = 0; i < N; i++) {
		assert_false(crew_is_past(crew, &m));
		assert_false(is_told());
		(void)take(N - 1 - i); /* the first one is what is waited for */
		assert_int_equal(is_told(), i == N - 1);
	}
	assert_true(crew_is_past(crew, &m));
	for (uint16_t port = 1; port <= 64; port++)
		put_data(port, 1);
	assert_int_equal(give(web), 0);
	assert_true(crew_is_past(crew, &m)); /* what came later does not matter */
	crew_mark(crew, &m);
	assert_false(crew_is_past(crew, &m));
}

static void test_everybody_hears_of_an_origin_and_it_stays_until_they_have(void **state)
{
	struct parcel p;

	(void)state;
	crew_origin_link(crew, web, true);
	crew_origin_link(crew, web, false);
	crew_origin_gone(crew, web, 1);
	for (unsigned i = 0; i < N; i++) {
		static const enum crew_what want[] = {CREW_LINK_UP, CREW_LINK_DOWN, CREW_GONE};

		crew_tidy(crew); /* a sanitizer sees it when that is too early */
		for (unsigned n = 0; n < 3; n++) {
			assert_true(chute_take(crew_chute(crew, i), &p));
			assert_int_equal(p.what, want[n]);
			assert_ptr_equal(p.to, web);
			assert_memory_equal(crew_origin_agent(web), "aaaaaaaaaaaaaaaa", 16);
			assert_true(span_eq(crew_origin_host(web), span_str("web1")));
		}
		chute_done(crew_chute(crew, i));
	}
	crew_tidy(crew);
}

/* ---- a link ---- */

static void send(struct ingest *in, struct zblock_enc *enc, enum zblock_kind kind, uint64_t seq,
		 struct buf *reply)
{
	struct buf wire;

	buf_init(&wire, 2u << 20);
	assert_int_equal(zblock_encode(enc, kind, seq, buf_span(&block), &wire), 0);
	assert_int_equal(ingest_bytes(in, buf_span(&wire), reply, 1), 0);
	buf_fini(&wire);
	buf_reset(&block);
}

/* The number in the answer, which is an ack. */
static uint64_t acked(struct zblock_dec *dec, struct buf *reply)
{
	struct frame_ack m = {.seq = 0};
	struct zblock z;
	struct frame f;

	assert_true(zblock_decode(dec, buf_span(reply), &z) > 0);
	assert_true(frame_decode(z.frames, &f) > 0);
	assert_int_equal(f.type, FRAME_ACK);
	assert_int_equal(frame_get_ack(&f, &m), 0);
	buf_reset(reply);
	return m.seq;
}

static void put_spread(bool with_open, uint64_t offset)
{
	for (uint16_t port = 1; port <= 64; port++) {
		if (with_open)
			put_open(port, port, false);
		put_data(port, offset);
	}
}

static void take_all(void)
{
	struct parcel p;

	for (unsigned i = 0; i < N; i++) {
		while (chute_take(crew_chute(crew, i), &p))
			;
		chute_done(crew_chute(crew, i));
	}
}

static void test_a_block_is_acknowledged_when_its_last_worker_is_done(void **state)
{
	const struct frame_hello hello = {.version = SSLC_PROTO_VERSION,
					  .n_links = 1,
					  .next_seq = 1,
					  .host = span_str("web1"),
					  .software = span_str("test")};
	struct ingest_hub *hub;
	struct zblock_enc *enc;
	struct zblock_dec *dec;
	struct ingest *in;
	struct buf reply;
	struct zblock z;

	(void)state;
	buf_init(&reply, 1u << 20);
	assert_int_equal(ingest_hub_new(&hub, crew), 0);
	assert_int_equal(ingest_new(&in, hub, "test"), 0);
	assert_int_equal(zblock_enc_new(&enc, 1), 0);
	assert_int_equal(zblock_dec_new(&dec), 0);
	frame_put_hello(&block, &hello);
	take_all();
	send(in, enc, ZBLOCK_CONTROL, 0, &reply);
	take_all();                                                /* that it has a link now */
	assert_true(zblock_decode(dec, buf_span(&reply), &z) > 0); /* the welcome */
	buf_reset(&reply);

	put_spread(true, 0);
	send(in, enc, ZBLOCK_DATA, 1, &reply);
	for (unsigned i = 0; i < N; i++) {
		assert_int_equal(ingest_ack(in, &reply), TAKER_ACK_WAITS);
		assert_int_equal(reply.len, 0);
		assert_int_equal(take(i).opens > 0, true);
		if (i == 0) { /* comes meanwhile: what was asked for is not put off by it */
			put_spread(false, 1);
			send(in, enc, ZBLOCK_DATA, 2, &reply);
		}
	}
	assert_int_equal(ingest_ack(in, &reply), TAKER_ACKED_SOME);
	assert_int_equal(acked(dec, &reply), 1);
	assert_int_equal(ingest_ack(in, &reply), TAKER_ACK_WAITS);
	take_all();
	assert_int_equal(ingest_ack(in, &reply), TAKER_ACKED_ALL);
	assert_int_equal(acked(dec, &reply), 2);
	assert_int_equal(ingest_ack(in, &reply), TAKER_ACKED_ALL);
	assert_int_equal(reply.len, 0);

	ingest_free(in);
	ingest_hub_free(hub);
	zblock_enc_free(enc);
	zblock_dec_free(dec);
	buf_fini(&reply);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_both_ends_of_a_connection_meet_in_one_worker),
		T(test_connections_are_shared_out),
		cmocka_unit_test_setup_teardown(
			test_where_ports_are_made_up_the_addresses_alone_count, setup_without_ports,
			teardown),
		T(test_frames_follow_their_flow_in_order),
		T(test_a_flow_told_again_stays_with_its_worker),
		T(test_what_no_table_would_take_is_refused_and_what_came_before_counts),
		T(test_frames_of_a_flow_nobody_knows_reach_a_table_that_counts_them),
		T(test_the_flow_used_least_recently_is_forgotten_at_the_limit),
		T(test_an_agent_loses_no_flows_to_its_own_when_another_one_fills_the_table),
		T(test_a_flow_in_use_is_not_the_least_recent_one_of_all),
		T(test_a_mark_is_passed_when_all_workers_are_done),
		T(test_a_block_is_acknowledged_when_its_last_worker_is_done),
		T(test_everybody_hears_of_an_origin_and_it_stays_until_they_have),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
