/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of collector/sessions/session.c; of both ends of a connection in test_session_ends.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <cmocka.h>

#include "h2_build.h"
#include "session_rig.h"

static void test_connection_without_plaintext_makes_no_packet(void **state)
{
	struct rig *r = rig_new(NULL);
	struct frame_flow_open m = a_flow(1, 1, 5000);

	(void)state;
	put_open(r, r->a, &m);
	assert_int_equal(sessions_count(r->t), 1);
	put_fin(r, r->a, 1, FLOW_C2S, T0);
	put_fin(r, r->a, 1, FLOW_S2C, T0);
	put_close(r, r->a, 1, FLOW_END_FIN, T0);
	assert_int_equal(sessions_count(r->t), 0);
	m.flow = 2;
	put_open(r, r->a, &m);
	put_close(r, r->a, 2, FLOW_END_RST_C2S, T0);
	assert_int_equal(r->capture.check.packets, 0);
	assert_int_equal(sessions_tick(r->t, r->now), UINT64_MAX);
	assert_int_equal(grown(r, "session_flows"), 2);
	rig_free(r);
}

static void test_exchange_is_forged_and_closed(void **state)
{
	struct rig *r = rig_new(NULL);
	struct frame_flow_open m = a_flow(1, 1, 5000);
	struct check *c = &r->capture.check;

	(void)state;
	put_open(r, r->a, &m);
	put_data(r, r->a, 1, FLOW_C2S, 0, 100, T0 + 1);
	put_data(r, r->a, 1, FLOW_S2C, 0, 200000, T0 + 2);
	put_fin(r, r->a, 1, FLOW_S2C, T0 + 3);
	assert_int_equal(check_open_flows(c), 1);
	put_close(r, r->a, 1, FLOW_END_FIN, T0 + 4);
	assert_int_equal(check_open_flows(c), 0);
	assert_int_equal(c->payload_bytes, 200100);
	assert_int_equal(c->fins, 2);
	assert_int_equal(c->rsts, 0);
	assert_int_equal(c->gap, 0);
	assert_int_equal(r->capture.message_ends, 2);
	assert_int_equal(c->firsts, 3);
	assert_string_equal(r->capture.host, "web1");
	assert_string_equal(r->capture.comm, "nginx");
	assert_string_equal(r->capture.exe, "/usr/sbin/nginx");
	assert_int_equal(sessions_count(r->t), 0);
	assert_int_equal(grown(r, "session_bytes"), 200100);
	rig_free(r);
}

static void test_host_name_is_made_printable(void **state)
{
	struct rig *r = rig_new(NULL);
	struct frame_flow_open m = a_flow(1, 1, 5000);

	(void)state;
	put_open(r, r->b, &m);
	put_data(r, r->b, 1, FLOW_C2S, 0, 1, T0);
	assert_string_equal(r->capture.host, "db?2?");
	assert_ptr_equal(sessions_origin(r->t, (const uint8_t *)"bbbbbbbbbbbbbbbb", span_str("x")),
			 r->b);
	sessions_close_all(r->t, r->now);
	rig_free(r);
}

static void test_ends_become_fin_or_rst_of_the_right_side(void **state)
{
	static const struct {
		enum flow_end end;
		int rsts, dir;
	} cases[] = {
		{FLOW_END_FIN, 0, 1},   {FLOW_END_RST_C2S, 1, 0}, {FLOW_END_RST_S2C, 1, 1},
		{FLOW_END_EXIT, 1, 1},  {FLOW_END_IDLE, 1, 1},    {FLOW_END_SHED, 1, 1},
		{FLOW_END_AGENT, 1, 1},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct rig *r = rig_new(NULL);
		struct frame_flow_open m = a_flow(1, 1, 5000);

		put_open(r, r->a, &m);
		put_data(r, r->a, 1, FLOW_C2S, 0, 3000, T0);
		put_close(r, r->a, 1, cases[i].end, T0 + 9);
		assert_int_equal(r->capture.check.rsts, cases[i].rsts);
		assert_int_equal(r->capture.check.last_dir, cases[i].dir);
		assert_int_equal(r->capture.check.last_ts, T0 + 9);
		assert_int_equal(check_open_flows(&r->capture.check), 0);
		assert_int_equal(sessions_count(r->t), 0);
		rig_free(r);
	}
}

static void test_missing_range_becomes_a_gap(void **state)
{
	struct rig *r = rig_new(NULL);
	struct frame_flow_open m = a_flow(1, 1, 5000);

	(void)state;
	put_open(r, r->a, &m);
	put_data(r, r->a, 1, FLOW_C2S, 500, 100, T0); /* the beginning is missing */
	assert_int_equal(r->capture.check.gap, 500);
	put_data(r, r->a, 1, FLOW_C2S, 600, 100, T0);
	put_data(r, r->a, 1, FLOW_C2S, 800, 100, T0);
	assert_int_equal(r->capture.check.gap, 600);
	assert_int_equal(grown(r, "session_bytes_gap"), 600);
	assert_int_equal(grown(r, "session_bytes_gap_unannounced"), 600);
	rig_free(r);
}

static void test_announced_gaps_in_any_shape(void **state)
{
	struct rig *r = rig_new(NULL);
	struct frame_flow_open m = a_flow(1, 1, 5000);
	struct check *c = &r->capture.check;

	(void)state;
	put_open(r, r->a, &m);
	put_gap(r, r->a, 1, FLOW_S2C, 0, 1000, T0); /* first of all */
	assert_int_equal(c->gap, 1000);
	put_data(r, r->a, 1, FLOW_S2C, 1000, 10, T0);
	put_gap(r, r->a, 1, FLOW_S2C, 900, 210, T0); /* partly known */
	assert_int_equal(c->gap, 1100);
	put_gap(r, r->a, 1, FLOW_S2C, 0, 1110, T0); /* all known */
	assert_int_equal(c->gap, 1100);
	assert_int_equal(grown(r, "session_bytes_gap_unannounced"), 0);
	put_gap(r, r->a, 1, FLOW_S2C, 1200, 100, T0); /* with a missing range before it */
	assert_int_equal(c->gap, 1290);
	assert_int_equal(grown(r, "session_bytes_gap"), 1290);
	assert_int_equal(grown(r, "session_bytes_gap_unannounced"), 90);
	put_gap(r, r->a, 1, FLOW_S2C, 1300, 200u << 20, T0); /* more than a window */
	put_data(r, r->a, 1, FLOW_S2C, 1300 + (200u << 20), 10, T0);
	assert_int_equal(c->gap, 1290 + (200u << 20));
	rig_free(r);
}

static void test_offsets_beyond_64_bits_break_the_protocol(void **state)
{
	struct rig *r = rig_new(NULL);
	struct frame_flow_open m = a_flow(1, 1, 5000);
	struct frame_gap g = {.flow = 1, .offset = UINT64_MAX - 5, .len = 6, .ts_ns = T0};
	struct frame_data d = {
		.flow = 1, .offset = UINT64_MAX, .bytes = span_str("x"), .ts_ns = T0};

	(void)state;
	put_open(r, r->a, &m);
	frame_put_gap(&r->buf, &g);
	assert_int_equal(push(r, r->a), -EBADMSG);
	frame_put_data(&r->buf, &d);
	assert_int_equal(push(r, r->a), -EBADMSG);
	assert_int_equal(r->capture.check.packets, 0);
	rig_free(r);
}

static void test_cut_frames_break_the_protocol(void **state)
{
	struct rig *r = rig_new(NULL);
	uint8_t body[8] = {0, 0, 0, 0, 0, 0, 0, 1};

	(void)state;
	for (uint8_t type = FRAME_FLOW_OPEN; type <= FRAME_FLOW_CLOSE; type++) {
		struct frame f = {.type = type, .body = span_of(body, sizeof(body))};
		int want = type == FRAME_FLOW_META ? 0 : -EBADMSG;

		assert_int_equal(sessions_frame(r->t, r->a, &f, r->now), want);
	}
	assert_int_equal(sessions_count(r->t), 0);
	rig_free(r);
}

static void test_duplicates_and_overlaps_are_trimmed(void **state)
{
	struct rig *r = rig_new(NULL);
	struct frame_flow_open m = a_flow(1, 1, 5000);

	(void)state;
	put_open(r, r->a, &m);
	put_data(r, r->a, 1, FLOW_C2S, 0, 1000, T0);
	put_data(r, r->a, 1, FLOW_C2S, 0, 1000, T0);
	put_data(r, r->a, 1, FLOW_C2S, 300, 100, T0);
	put_data(r, r->a, 1, FLOW_C2S, 900, 200, T0);
	put_data(r, r->a, 1, FLOW_C2S, 1100, 100, T0);
	assert_int_equal(r->capture.check.payload_bytes, 1200);
	assert_int_equal(r->capture.check.gap, 0);
	assert_int_equal(grown(r, "session_bytes_duplicate"), 1200);
	assert_int_equal(grown(r, "session_bytes"), 1200);
	rig_free(r);
}

static void test_late_and_resumed_flows_start_at_their_first_offset(void **state)
{
	static const uint16_t flags[] = {FLOW_OPEN_LATE, FLOW_OPEN_RESUMED,
					 FLOW_OPEN_LATE | FLOW_OPEN_RESUMED};

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct rig *r = rig_new(NULL);
		struct frame_flow_open m = a_flow(1, 1, 5000);

		r->capture.check.pattern = NULL;
		m.flags = flags[i];
		put_open(r, r->a, &m);
		put_data(r, r->a, 1, FLOW_C2S, 1ull << 40, 100, T0);
		put_data(r, r->a, 1, FLOW_S2C, 77, 100, T0);
		assert_int_equal(r->capture.check.gap, 0);
		put_data(r, r->a, 1, FLOW_C2S, (1ull << 40) + 150, 100, T0);
		assert_int_equal(r->capture.check.gap, 50);
		put_data(r, r->a, 1, FLOW_S2C, 0, 177, T0); /* from before the beginning */
		assert_int_equal(r->capture.check.payload_bytes, 300);
		rig_free(r);
	}
}

static void test_opening_again_changes_nothing(void **state)
{
	struct rig *r = rig_new(NULL);
	struct frame_flow_open m = a_flow(1, 1, 5000);

	(void)state;
	put_open(r, r->a, &m);
	put_data(r, r->a, 1, FLOW_C2S, 0, 100, T0);
	m.flags = FLOW_OPEN_RESUMED;
	put_open(r, r->a, &m);
	assert_int_equal(sessions_count(r->t), 1);
	put_data(r, r->a, 1, FLOW_C2S, 100, 100, T0);
	assert_int_equal(r->capture.check.syns, 1);
	assert_int_equal(r->capture.check.gap, 0);
	assert_int_equal(grown(r, "session_opens_repeated"), 1);
	rig_free(r);
}

static void test_same_flow_number_of_two_agents_is_two_flows(void **state)
{
	struct rig *r = rig_new(NULL);
	struct frame_flow_open m = a_flow(1, 1, 5000), n = a_flow(1, 2, 5001);

	(void)state;
	put_open(r, r->a, &m);
	put_open(r, r->b, &n);
	put_data(r, r->a, 1, FLOW_C2S, 0, 100, T0);
	put_data(r, r->b, 1, FLOW_C2S, 0, 100, T0);
	assert_int_equal(r->capture.check.syns, 2);
	assert_int_equal(sessions_count(r->t), 2);
	rig_free(r);
}

static void test_unknown_and_closed_flows_are_counted(void **state)
{
	struct rig *r = rig_new(NULL);
	struct frame_flow_open m = a_flow(1, 1, 5000);

	(void)state;
	put_data(r, r->a, 7, FLOW_C2S, 0, 100, T0);
	put_gap(r, r->a, 7, FLOW_C2S, 0, 100, T0);
	put_fin(r, r->a, 7, FLOW_C2S, T0);
	put_close(r, r->a, 7, FLOW_END_FIN, T0);
	put_open(r, r->a, &m);
	put_close(r, r->a, 1, FLOW_END_FIN, T0);
	put_data(r, r->a, 1, FLOW_C2S, 0, 11, T0);
	assert_int_equal(r->capture.check.packets, 0);
	assert_int_equal(grown(r, "session_frames_unknown_flow"), 5);
	assert_int_equal(grown(r, "session_bytes_lost_unknown_flow"), 111);
	rig_free(r);
}

static void test_bytes_after_the_fin_are_counted(void **state)
{
	struct rig *r = rig_new(NULL);
	struct frame_flow_open m = a_flow(1, 1, 5000);

	(void)state;
	put_open(r, r->a, &m);
	put_fin(r, r->a, 1, FLOW_C2S, T0); /* told before any byte: emitted behind the handshake */
	put_data(r, r->a, 1, FLOW_S2C, 0, 100, T0);
	assert_int_equal(r->capture.check.fins, 1);
	put_data(r, r->a, 1, FLOW_C2S, 0, 33, T0);
	put_gap(r, r->a, 1, FLOW_C2S, 0, 33, T0);
	assert_int_equal(grown(r, "session_bytes_lost_after_fin"), 33);
	assert_int_equal(r->capture.check.payload_bytes, 100);
	put_fin(r, r->a, 1, FLOW_S2C, T0);
	assert_int_equal(check_open_flows(&r->capture.check), 0);
	put_fin(r, r->a, 1, FLOW_S2C, T0);
	put_close(r, r->a, 1, FLOW_END_RST_C2S, T0); /* over already */
	assert_int_equal(r->capture.check.rsts, 0);
	rig_free(r);
}

static void test_stale_tuple_is_reset_before_the_new_syn(void **state)
{
	struct rig *r = rig_new(NULL);
	struct frame_flow_open m = a_flow(1, 1, 5000), n = a_flow(2, 2, 5000);

	(void)state;
	n.captured_end = FLOW_C2S; /* the client's host: the same network as the server's */
	put_open(r, r->a, &m);
	put_data(r, r->a, 1, FLOW_C2S, 0, 100, T0 + 50);
	put_open(r, r->b, &n);
	assert_int_equal(r->capture.check.rsts, 0); /* announced is not yet taken */
	put_data(r, r->b, 2, FLOW_C2S, 0, 100, T0);
	assert_int_equal(r->capture.check.rsts, 1);
	assert_int_equal(r->capture.check.syns, 2);
	assert_true(r->capture.check.last_ts >= T0 + 50);
	put_data(r, r->a, 1, FLOW_C2S, 100, 55, T0);
	put_fin(r, r->a, 1, FLOW_C2S, T0);
	put_close(r, r->a, 1, FLOW_END_RST_C2S, T0);
	assert_int_equal(r->capture.check.rsts, 1);
	assert_int_equal(check_open_flows(&r->capture.check), 1);
	assert_int_equal(grown(r, "session_bytes_lost_tuple_conflict"), 55);
	put_data(r, r->b, 2, FLOW_C2S, 100, 100, T0);
	assert_int_equal(r->capture.check.payload_bytes, 300);
	rig_free(r);
}

/* An IDS sorts the ends of a tuple: a connection the other way round is in the way as well. */
static void test_swapped_roles_collide(void **state)
{
	struct rig *r = rig_new(NULL);
	struct frame_flow_open m = a_flow(1, 1, 5000), n = a_flow(2, 2, 443);

	(void)state;
	memcpy(n.client_addr, m.server_addr, 16);
	memcpy(n.server_addr, m.client_addr, 16);
	n.server_port = 5000;
	put_open(r, r->a, &m);
	put_open(r, r->a, &n);
	put_data(r, r->a, 1, FLOW_C2S, 0, 100, T0);
	put_data(r, r->a, 2, FLOW_C2S, 0, 100, T0);
	assert_int_equal(r->capture.check.rsts, 1);
	rig_free(r);
}

static void test_tuple_is_free_after_the_close(void **state)
{
	struct rig *r = rig_new(NULL);

	(void)state;
	for (uint8_t i = 1; i < 50; i++) {
		struct frame_flow_open m = a_flow(i, i, 5000);

		put_open(r, r->a, &m);
		put_data(r, r->a, i, FLOW_C2S, 0, 100, T0 + i);
		if (i % 3)
			put_close(r, r->a, i, i % 2 ? FLOW_END_FIN : FLOW_END_RST_S2C, T0 + i);
	}
	assert_int_equal(r->capture.check.payload_bytes, 4900);
	assert_int_equal(r->capture.check.syns, 49);
	rig_free(r);
}

static void test_idle_session_is_reset_and_opens_again(void **state)
{
	struct session_conf conf = {.idle_s = 10};
	struct rig *r = rig_new(&conf);
	struct frame_flow_open m = a_flow(1, 1, 5000);
	struct check *c = &r->capture.check;
	uint32_t isn, turn;

	(void)state;
	put_open(r, r->a, &m);
	put_data(r, r->a, 1, FLOW_C2S, 0, 100, T0);
	for (turn = 1; turn < 4; turn++) {
		isn = c->flow[0].side[0].isn;
		r->now += 9 * NS_PER_S;
		assert_true(sessions_tick(r->t, r->now) <= NS_PER_S);
		assert_int_equal(c->rsts, turn - 1);
		r->now += NS_PER_S;
		assert_int_equal(sessions_tick(r->t, r->now), UINT64_MAX);
		assert_int_equal(c->rsts, turn);
		assert_int_equal(c->last_dir, 1); /* the captured end */
		assert_int_equal(c->last_ts, T0 + turn * 10 * NS_PER_S);
		assert_int_equal(sessions_count(r->t), 1);
		c->pattern = NULL;
		put_data(r, r->a, 1, FLOW_C2S, turn * 100, 100, T0 + turn * 10 * NS_PER_S);
		assert_int_equal(c->syns, turn + 1);
		assert_int_equal(c->gap, 0);
		assert_true(isn != c->flow[0].side[0].isn);
	}
	put_fin(r, r->a, 1, FLOW_C2S, T0);
	r->now += 20 * NS_PER_S;
	sessions_tick(r->t, r->now);
	put_data(r, r->a, 1, FLOW_S2C, 0, 10, T0); /* the FIN is told again */
	assert_int_equal(c->fins, 2);
	put_close(r, r->a, 1, FLOW_END_FIN, T0);
	assert_int_equal(check_open_flows(c), 0);
	assert_int_equal(grown(r, "session_idle_resets"), 4);
	rig_free(r);
}

static void test_limit_drops_the_least_recently_active(void **state)
{
	struct session_conf conf = {.max_sessions = 3};
	struct rig *r = rig_new(&conf);

	(void)state;
	for (uint8_t i = 1; i <= 3; i++) {
		struct frame_flow_open m = a_flow(i, i, (uint16_t)(5000 + i));

		put_open(r, r->a, &m);
		r->now += NS_PER_MS;
		put_data(r, r->a, i, FLOW_C2S, 0, 10, T0);
	}
	r->now += NS_PER_MS;
	put_data(r, r->a, 1, FLOW_S2C, 0, 10, T0); /* now 2 is the oldest */
	struct frame_flow_open m = a_flow(4, 4, 5004);

	put_open(r, r->a, &m);
	assert_int_equal(sessions_count(r->t), 3);
	assert_int_equal(r->capture.check.rsts, 1);
	assert_int_equal(grown(r, "session_evicted"), 1);
	put_data(r, r->a, 1, FLOW_S2C, 10, 10, T0);
	put_data(r, r->a, 3, FLOW_S2C, 0, 10, T0);
	put_data(r, r->a, 2, FLOW_S2C, 0, 9, T0);
	assert_int_equal(grown(r, "session_bytes_lost_unknown_flow"), 9);
	rig_free(r);
}

static void test_quiet_sessions_go_before_younger_live_ones(void **state)
{
	struct session_conf conf = {.max_sessions = 2};
	struct rig *r = rig_new(&conf);

	(void)state;
	for (uint8_t i = 1; i <= 2; i++) {
		struct frame_flow_open m = a_flow(i, i, (uint16_t)(5000 + i));

		put_open(r, r->a, &m);
		r->now += NS_PER_MS;
	}
	put_data(r, r->a, 2, FLOW_C2S, 0, 10, T0);
	for (uint8_t i = 3; i <= 9; i++) {
		struct frame_flow_open m = a_flow(i, i, (uint16_t)(5000 + i));

		r->now += NS_PER_MS;
		put_data(r, r->a, 2, FLOW_C2S, 10u * (i - 2), 10, T0);
		r->now += NS_PER_MS;
		put_open(r, r->a, &m);
	}
	assert_int_equal(r->capture.check.rsts, 0);
	assert_int_equal(grown(r, "session_evicted"), 7);
	rig_free(r);
}

static void test_agent_gone_resets_its_flows_only(void **state)
{
	struct rig *r = rig_new(NULL);

	(void)state;
	for (uint8_t i = 1; i <= 6; i++) {
		struct frame_flow_open m = a_flow(i, i, (uint16_t)(5000 + i));

		put_open(r, i & 1 ? r->a : r->b, &m);
		if (i < 5)
			put_data(r, i & 1 ? r->a : r->b, i, FLOW_C2S, 0, 10, T0);
	}
	sessions_origin_gone(r->t, r->a, r->now);
	assert_int_equal(r->capture.check.rsts, 2);
	assert_int_equal(sessions_count(r->t), 3);
	put_data(r, r->b, 2, FLOW_C2S, 10, 10, T0);
	sessions_close_all(r->t, r->now);
	assert_int_equal(r->capture.check.rsts, 4);
	assert_int_equal(check_open_flows(&r->capture.check), 0);
	sessions_close_all(r->t, r->now);
	assert_int_equal(r->capture.check.rsts, 4);
	rig_free(r);
}

/* More than is done for them at once. */
#define CROWD 5000u

static unsigned crowd_rsts;

static void count_rst(struct sink *s, struct span l2, uint64_t ts_ns, const struct sink_flow *flow,
		      bool first)
{
	(void)s, (void)ts_ns, (void)flow, (void)first;
	crowd_rsts += (l2.p[14 + 20 + 13] & 4) != 0;
}

static const struct sink_ops crowd_ops = {.name = "crowd", .packet = count_rst};

static struct frame_flow_open a_flow_of_many(unsigned i)
{
	struct frame_flow_open m = a_flow(i + 1, 1, (uint16_t)(1024 + i));

	memcpy(m.session + 4, &i, sizeof(i));
	return m;
}

/* All of them, captured at their servers by `a`, each with ten bytes. */
static struct rig *rig_with_crowd(const struct session_conf *conf)
{
	struct rig *r = rig_new(conf);

	r->capture.sink.ops = &crowd_ops;
	crowd_rsts = 0;
	for (unsigned i = 0; i < CROWD; i++) {
		struct frame_flow_open m = a_flow_of_many(i);

		put_open(r, r->a, &m);
		put_data(r, r->a, i + 1, FLOW_C2S, 0, 10, T0);
	}
	return r;
}

/* What is due for very many at the same moment is done, in several rounds. */
static void test_a_crowd_is_served_in_rounds(void **state)
{
	struct session_conf conf = {.idle_s = 10};
	struct rig *r = rig_with_crowd(&conf);
	unsigned rounds = 0;

	(void)state;
	r->now += 2 * NS_PER_MS;
	assert_int_equal(sessions_tick(r->t, r->now), 0);
	assert_in_range(grown(r, "session_pokes"), CROWD / 2, CROWD - 1);
	assert_true(sessions_tick(r->t, r->now) > NS_PER_S);
	assert_int_equal(grown(r, "session_pokes"), CROWD);
	assert_in_range(sessions_memory(r->t), CROWD * 200, CROWD * 512);
	assert_int_equal(grown(r, "session_memory_bytes"), sessions_memory(r->t));
	assert_int_equal(grown(r, "session_active"), CROWD);

	r->now += 10 * NS_PER_S;
	for (unsigned before = 0; sessions_tick(r->t, r->now) == 0; rounds++, before = crowd_rsts)
		assert_in_range(crowd_rsts - before, 1, CROWD / 2);
	assert_in_range(rounds, 2, 10);
	assert_int_equal(crowd_rsts, CROWD);
	assert_int_equal(sessions_count(r->t), CROWD);
	rig_free(r);
}

static void test_an_agent_with_a_crowd_goes_in_rounds(void **state)
{
	struct rig *r = rig_with_crowd(NULL);
	size_t before;

	(void)state;
	sessions_origin_gone(r->t, r->a, r->now);
	before = sessions_count(r->t);
	assert_in_range(before, CROWD / 2, CROWD - 1);
	/* The same agent is another one now, and goes on with a connection that is left. */
	struct session_origin *again =
		sessions_origin(r->t, (const uint8_t *)"aaaaaaaaaaaaaaaa", span_str("web1"));
	struct frame_flow_open m = a_flow_of_many(CROWD - 1);

	assert_ptr_not_equal(again, r->a);
	put_open(r, again, &m);
	put_data(r, again, CROWD, FLOW_C2S, 0, 10, T0);
	assert_int_equal(grown(r, "session_flows"), CROWD + 1);
	while (sessions_count(r->t) > 1) {
		before = sessions_count(r->t);
		sessions_tick(r->t, r->now);
		assert_in_range(before - sessions_count(r->t), 1, CROWD / 2);
	}
	assert_int_equal(crowd_rsts, CROWD - 1);
	sessions_close_all(r->t, r->now);
	assert_int_equal(crowd_rsts, CROWD);
	rig_free(r);
}

static void test_other_ends_of_a_crowd_speak_in_rounds(void **state)
{
	struct rig *r = rig_with_crowd(NULL);
	uint64_t before;

	(void)state;
	for (unsigned i = 0; i < CROWD; i++) {
		struct frame_flow_open m = a_flow_of_many(i);

		m.captured_end = FLOW_C2S;
		put_open(r, r->b, &m);
		put_data(r, r->b, i + 1, FLOW_C2S, 0, 20, T0);
	}
	assert_int_equal(grown(r, "session_bytes"), CROWD * 10);
	sessions_origin_link(r->t, r->a, false);
	assert_int_equal(sessions_tick(r->t, r->now), 0);
	before = grown(r, "session_bytes");
	assert_in_range(before, CROWD * 15, CROWD * 20 - 1);
	assert_true(sessions_tick(r->t, r->now) > 0);
	assert_int_equal(grown(r, "session_bytes"), CROWD * 20);
	rig_free(r);
}

static void test_poke_comes_after_silence_of_that_side(void **state)
{
	struct rig *r = rig_new(NULL);
	struct frame_flow_open m = a_flow(1, 1, 5000);
	struct check *c = &r->capture.check;
	uint64_t packets;

	(void)state;
	put_open(r, r->a, &m);
	put_data(r, r->a, 1, FLOW_C2S, 0, 100, T0);
	packets = c->packets;
	assert_int_equal(sessions_tick(r->t, r->now), 2 * NS_PER_MS);
	r->now += NS_PER_MS;
	assert_int_equal(sessions_tick(r->t, r->now), NS_PER_MS);
	put_data(r, r->a, 1, FLOW_C2S, 100, 100, T0 + NS_PER_MS); /* starts the wait anew */
	packets += 2;
	r->now += NS_PER_MS + NS_PER_MS / 2;
	assert_int_equal(sessions_tick(r->t, r->now), NS_PER_MS / 2);
	assert_int_equal(c->packets, packets);
	r->now += NS_PER_MS / 2;
	assert_true(sessions_tick(r->t, r->now) > NS_PER_S); /* once */
	assert_int_equal(c->packets, packets + 1);
	assert_int_equal(c->last_dir, 0);
	assert_int_equal(c->last_flags, CF_ACK);
	assert_int_equal(c->last_ts, T0 + 3 * NS_PER_MS);
	assert_int_equal(c->repeated, 1);
	rig_free(r);
}

static void test_no_poke_when_that_side_sent_anything_else(void **state)
{
	struct rig *r = rig_new(NULL);
	struct frame_flow_open m = a_flow(1, 1, 5000);
	struct check *c = &r->capture.check;

	(void)state;
	put_open(r, r->a, &m);
	put_data(r, r->a, 1, FLOW_C2S, 0, 100, T0);
	put_data(r, r->a, 1, FLOW_S2C, 0, 100, T0); /* the client acknowledges: it needs no poke */
	r->now += 10 * NS_PER_MS;
	sessions_tick(r->t, r->now);
	assert_int_equal(grown(r, "session_pokes"), 1);
	assert_int_equal(c->last_dir, 1);
	put_data(r, r->a, 1, FLOW_S2C, 100, 100, T0);
	put_close(r, r->a, 1, FLOW_END_FIN, T0);
	r->now += 10 * NS_PER_MS;
	assert_int_equal(sessions_tick(r->t, r->now), UINT64_MAX);
	assert_int_equal(grown(r, "session_pokes"), 1);
	rig_free(r);
}

static void test_both_sides_are_poked_when_both_wait(void **state)
{
	struct session_conf conf = {.poke_ms = 5};
	struct rig *r = rig_new(&conf);
	struct frame_flow_open m = a_flow(1, 1, 5000);
	struct frame_data d = {.flow = 1, .ts_ns = T0, .dir = FLOW_S2C, .bytes = span_str("x")};

	(void)state;
	r->capture.check.pattern = NULL;
	put_open(r, r->a, &m);
	put_data(r, r->a, 1, FLOW_C2S, 0, 100, T0);
	r->now += NS_PER_MS;
	frame_put_data(&r->buf, &d); /* unfinished: the client does not acknowledge yet */
	assert_int_equal(push(r, r->a), 0);
	r->now += 4 * NS_PER_MS;
	/* The client's poke acknowledges the server's byte, the server's follows for its own sake.
	 */
	assert_int_equal(sessions_tick(r->t, r->now), NS_PER_MS);
	assert_int_equal(grown(r, "session_pokes"), 1);
	assert_int_equal(r->capture.check.last_dir, 0);
	r->now += NS_PER_MS;
	sessions_tick(r->t, r->now);
	assert_int_equal(grown(r, "session_pokes"), 2);
	assert_int_equal(r->capture.check.last_dir, 1);
	rig_free(r);
}

/* What an outlet holds back is shown after some time, whether or not anything is said then. */
static void test_an_outlet_with_something_to_show_is_asked_again(void **state)
{
	struct rig *r = rig_new_as(NULL, SINK_H2_SERIAL);
	struct frame_flow_open m = a_flow(1, 1, 5000);
	struct frame_data d = {.flow = 1, .ts_ns = T0, .flags = FRAME_DATA_END};
	struct check *c = &r->capture.check;
	struct buf client, server;

	(void)state;
	c->pattern = NULL;
	buf_init(&client, 1 << 10);
	buf_init(&server, 1 << 10);
	h2_start(&client, &server);
	h2_headers(&client, 1, ":method: GET\n:path: /1\n", true);
	h2_headers(&client, 3, ":method: GET\n:path: /3\n", true);
	d.bytes = buf_span(&client);
	put_open(r, r->a, &m);
	frame_put_data(&r->buf, &d);
	assert_int_equal(push(r, r->a), 0);
	r->now += 2 * NS_PER_MS;
	assert_int_equal(sessions_tick(r->t, r->now), NS_PER_S);
	assert_int_equal(check_open_flows(c), 1);
	for (int i = 0; i < 4; i++) {
		r->now += NS_PER_S;
		assert_int_equal(sessions_tick(r->t, r->now), NS_PER_S);
		assert_int_equal(check_open_flows(c), 1);
	}
	r->now += NS_PER_S;
	assert_true(sessions_tick(r->t, r->now) > NS_PER_S); /* nothing waits any more */
	assert_int_equal(check_open_flows(c), 2);
	put_close(r, r->a, 1, FLOW_END_RST_C2S, T0 + 7 * NS_PER_S);
	assert_int_equal(check_open_flows(c), 0);
	buf_fini(&client);
	buf_fini(&server);
	r->capture.message_bytes = c->payload_bytes; /* shown in another form */
	r->capture.message_hash = c->payload_hash;
	rig_free(r);
}

static void test_time_of_a_flow_is_monotone(void **state)
{
	struct rig *r = rig_new(NULL);
	struct frame_flow_open m = a_flow(1, 1, 5000);

	(void)state;
	put_open(r, r->a, &m);
	put_data(r, r->a, 1, FLOW_C2S, 0, 100, T0 + 100);
	put_data(r, r->a, 1, FLOW_S2C, 0, 100, T0);
	put_data(r, r->a, 1, FLOW_C2S, 100, 100, 0);
	put_close(r, r->a, 1, FLOW_END_FIN, 5);
	assert_int_equal(r->capture.check.last_ts, T0 + 100);
	rig_free(r);
}

static void test_mtu_is_asked_for_every_handshake(void **state)
{
	struct rig *r = rig_new(NULL);
	struct frame_flow_open m = a_flow(1, 1, 5000), n = a_flow(2, 2, 5001);

	(void)state;
	n.mss = 536;
	put_open(r, r->a, &m);
	put_open(r, r->a, &n);
	r->capture.mtu = r->capture.check.mtu = 9000;
	put_data(r, r->a, 1, FLOW_C2S, 0, 100, T0);
	assert_int_equal(r->capture.check.flow[0].mss, 8960);
	put_data(r, r->a, 2, FLOW_C2S, 0, 10000, T0);
	assert_int_equal(r->capture.check.flow[1].mss, 536);
	rig_free(r);
}

/* Two outputs that want different packets are told the same. */
static void test_each_look_of_packets_has_its_own_connection(void **state)
{
	struct rig *r = rig_new(NULL);
	struct frame_flow_open m = a_flow(1, 1, 5000), n = a_flow(2, 2, 5000);
	struct capture *other = calloc(1, sizeof(*other));
	struct check *c[2] = {&r->capture.check, &other->check};

	(void)state;
	sessions_free(r->t);
	other->sink = (struct sink){.ops = &capture_ops, .shape = {.mtu = 600, .vlan = 77}};
	other->mtu = 9000;
	other->check.mtu = 600;
	other->check.outer_vlan = 77;
	other->check.pattern = pattern;
	r->set.v[r->set.n++] = &other->sink;
	assert_int_equal(sessions_new(&r->t, NULL, &r->set), 0);
	r->a = sessions_origin(r->t, (const uint8_t *)"aaaaaaaaaaaaaaaa", span_str("web1"));
	put_open(r, r->a, &m);
	put_data(r, r->a, 1, FLOW_C2S, 0, 3000, T0 + 1);
	put_data(r, r->a, 1, FLOW_S2C, 0, 50000, T0 + 2);
	put_gap(r, r->a, 1, FLOW_S2C, 50000, 100, T0 + 3);
	(void)sessions_tick(r->t, r->now + NS_PER_S); /* pokes both */
	put_close(r, r->a, 1, FLOW_END_FIN, T0 + 2 * NS_PER_S);
	put_open(r, r->a, &n); /* the same tuple */
	put_data(r, r->a, 2, FLOW_C2S, 0, 10, T0 + 3 * NS_PER_S);
	sessions_close_all(r->t, r->now);
	for (int i = 0; i < 2; i++) {
		assert_null(c[i]->err);
		assert_int_equal(c[i]->payload_bytes, 53010);
		assert_int_equal(c[i]->gap, 100);
		assert_int_equal(c[i]->fins, 2);
		assert_int_equal(c[i]->rsts, 1);
		assert_int_equal(check_open_flows(c[i]), 0);
		assert_int_equal(c[i]->last->mss, i ? 560 : 1460);
	}
	assert_int_equal(c[0]->repeated, c[1]->repeated);
	assert_int_equal(grown(r, "session_bytes"), 53010); /* told once */
	assert_int_equal(other->message_bytes, 53010);
	rig_free(r);
	free(other);
}

static void test_other_transports_are_counted_not_forged(void **state)
{
	struct rig *r = rig_new(NULL);
	struct frame_flow_open m = a_flow(1, 1, 5000);

	(void)state;
	m.transport = 17;
	m.stream = 4;
	put_open(r, r->a, &m);
	put_data(r, r->a, 1, FLOW_C2S, 0, 100, T0);
	put_close(r, r->a, 1, FLOW_END_FIN, T0);
	assert_int_equal(r->capture.check.packets, 0);
	assert_int_equal(grown(r, "session_bytes_lost_transport"), 100);
	rig_free(r);
}

/* Every byte that came in is accounted for by exactly one counter. */
static uint64_t accounted(struct rig *r)
{
	static const char *const names[] = {
		"session_bytes",
		"session_bytes_duplicate",
		"session_bytes_standby",
		"session_bytes_lost_tuple_conflict",
		"session_bytes_lost_after_fin",
		"session_bytes_lost_unknown_flow",
		"session_bytes_lost_transport",
		"session_bytes_lost_memory",
	};
	uint64_t sum = 0;

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		sum += grown(r, names[i]);
	return sum;
}

static void storm_open(struct rig *r, struct session_origin *o, uint64_t flow)
{
	struct frame_flow_open m = a_flow(flow, (uint8_t)rnd(6), (uint16_t)(5000 + rnd(5)));

	m.family = rnd(3) ? 4 : 6;
	m.captured_end = (uint8_t)rnd(2);
	m.flags = rnd(4) ? 0 : (uint16_t)(1 + rnd(3));
	m.mss = rnd(3) ? 0 : (uint16_t)rnd(3000);
	m.transport = rnd(30) ? 6 : 17;
	put_open(r, o, &m);
}

static void storm_frame(struct rig *r, struct session_origin *o, uint64_t *pos, uint64_t *sent)
{
	uint64_t flow = 1 + rnd(8), ts = T0 + rnd(1000) * NS_PER_MS;
	enum flow_dir dir = (enum flow_dir)rnd(2);
	uint64_t *at = &pos[flow * 2 + dir];
	uint32_t len = 1 + rnd(rnd(8) ? 600 : 40000);

	switch (rnd(24)) {
	case 0:
	case 1:
		storm_open(r, o, flow);
		break;
	case 2:
		put_close(r, o, flow, (enum flow_end)(1 + rnd(7)), ts);
		break;
	case 3:
		put_fin(r, o, flow, dir, ts);
		break;
	case 4:
		put_gap(r, o, flow, dir, *at + rnd(2) * rnd(100),
			rnd(20) ? 1 + rnd(5000) : 1 + (1ull << (20 + rnd(20))), ts);
		break;
	case 5:
		*at = rnd(2) ? 0 : rnd(100000);
		break;
	default:
		put_data(r, o, flow, dir, *at, len, ts);
		*sent += len;
		*at += rnd(9) ? len : rnd(2 * len);
	}
}

static void test_one_tuple_in_several_networks_is_told_apart_by_vlan(void **state)
{
	struct rig *r = rig_new(NULL);
	struct frame_flow_open m = a_flow(1, 1, 5000), n = a_flow(2, 2, 5000),
			       o = a_flow(3, 3, 5000), late = a_flow(4, 4, 5000);

	(void)state;
	m.netns = 7;
	n.netns = 8; /* another namespace of the same host */
	put_open(r, r->a, &m);
	put_open(r, r->a, &n);
	put_open(r, r->b, &o); /* another host with the same end */
	put_data(r, r->a, 1, FLOW_C2S, 0, 100, T0);
	assert_int_equal(r->capture.check.last->vlan, 0);
	put_data(r, r->a, 2, FLOW_C2S, 0, 100, T0);
	assert_int_equal(r->capture.check.last->vlan, 1);
	put_data(r, r->b, 3, FLOW_C2S, 0, 100, T0);
	assert_int_equal(r->capture.check.last->vlan, 2);
	put_data(r, r->a, 1, FLOW_C2S, 100, 100, T0);
	assert_int_equal(r->capture.check.last->vlan, 0);
	assert_int_equal(check_open_flows(&r->capture.check), 3);
	assert_int_equal(grown(r, "session_tuple_lanes"), 2);
	assert_int_equal(grown(r, "session_tuple_conflicts"), 0);
	late.netns = 7; /* the first one's end was lost: same place, same tuple */
	put_open(r, r->a, &late);
	put_data(r, r->a, 4, FLOW_C2S, 0, 100, T0);
	assert_int_equal(r->capture.check.last->vlan, 0);
	assert_int_equal(grown(r, "session_tuple_conflicts"), 1);
	assert_int_equal(check_open_flows(&r->capture.check), 3);
	rig_free(r);
}

static void test_storms_of_frames_always_give_valid_packets(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 400; seed++) {
		struct session_conf conf = {.idle_s = 1, .max_sessions = seed % 3 ? 1000 : 5};
		struct rig *r = rig_new(&conf);
		uint64_t pos[2][18] = {{0}}, sent = 0;

		rng_state = seed * 0x9e3779b97f4a7c15ull;
		r->capture.check.pattern = NULL;
		for (int i = 0; i < 400 && !r->capture.check.err; i++) {
			bool second = rnd(2);

			if (!rnd(4)) {
				r->now += rnd(rnd(20) ? 3 : 2000) * NS_PER_MS;
				assert_true(sessions_tick(r->t, r->now) > 0);
			}
			if (!rnd(40))
				sessions_origin_link(r->t, rnd(2) ? r->a : r->b, rnd(2));
			if (!rnd(150)) {
				sessions_origin_gone(r->t, r->b, r->now);
				r->b = sessions_origin(r->t, (const uint8_t *)"bbbbbbbbbbbbbbbb",
						       span_str("h"));
			}
			storm_frame(r, second ? r->b : r->a, pos[second], &sent);
			assert_true(sessions_count(r->t) <= conf.max_sessions);
		}
		sessions_close_all(r->t, r->now);
		assert_int_equal(check_open_flows(&r->capture.check), 0);
		assert_int_equal(accounted(r), sent);
		assert_int_equal(grown(r, "session_bytes"), r->capture.check.payload_bytes);
		rig_free(r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_connection_without_plaintext_makes_no_packet),
		cmocka_unit_test(test_exchange_is_forged_and_closed),
		cmocka_unit_test(test_host_name_is_made_printable),
		cmocka_unit_test(test_ends_become_fin_or_rst_of_the_right_side),
		cmocka_unit_test(test_missing_range_becomes_a_gap),
		cmocka_unit_test(test_announced_gaps_in_any_shape),
		cmocka_unit_test(test_offsets_beyond_64_bits_break_the_protocol),
		cmocka_unit_test(test_cut_frames_break_the_protocol),
		cmocka_unit_test(test_duplicates_and_overlaps_are_trimmed),
		cmocka_unit_test(test_late_and_resumed_flows_start_at_their_first_offset),
		cmocka_unit_test(test_opening_again_changes_nothing),
		cmocka_unit_test(test_same_flow_number_of_two_agents_is_two_flows),
		cmocka_unit_test(test_unknown_and_closed_flows_are_counted),
		cmocka_unit_test(test_bytes_after_the_fin_are_counted),
		cmocka_unit_test(test_stale_tuple_is_reset_before_the_new_syn),
		cmocka_unit_test(test_one_tuple_in_several_networks_is_told_apart_by_vlan),
		cmocka_unit_test(test_swapped_roles_collide),
		cmocka_unit_test(test_tuple_is_free_after_the_close),
		cmocka_unit_test(test_idle_session_is_reset_and_opens_again),
		cmocka_unit_test(test_limit_drops_the_least_recently_active),
		cmocka_unit_test(test_quiet_sessions_go_before_younger_live_ones),
		cmocka_unit_test(test_agent_gone_resets_its_flows_only),
		cmocka_unit_test(test_a_crowd_is_served_in_rounds),
		cmocka_unit_test(test_an_agent_with_a_crowd_goes_in_rounds),
		cmocka_unit_test(test_other_ends_of_a_crowd_speak_in_rounds),
		cmocka_unit_test(test_poke_comes_after_silence_of_that_side),
		cmocka_unit_test(test_no_poke_when_that_side_sent_anything_else),
		cmocka_unit_test(test_both_sides_are_poked_when_both_wait),
		cmocka_unit_test(test_an_outlet_with_something_to_show_is_asked_again),
		cmocka_unit_test(test_time_of_a_flow_is_monotone),
		cmocka_unit_test(test_mtu_is_asked_for_every_handshake),
		cmocka_unit_test(test_each_look_of_packets_has_its_own_connection),
		cmocka_unit_test(test_other_transports_are_counted_not_forged),
		cmocka_unit_test(test_storms_of_frames_always_give_valid_packets),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
