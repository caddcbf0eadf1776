/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of connections that are captured at both of their ends: session.c, session_pair.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "session_rig.h"

static void test_other_end_is_on_standby(void **state)
{
	struct rig *r = rig_new(NULL);
	struct frame_flow_open m = a_flow(1, 1, 5000), n = a_flow(9, 1, 5000);

	(void)state;
	n.captured_end = FLOW_C2S;
	put_open(r, r->a, &m);
	put_open(r, r->b, &n);
	put_data(r, r->b, 9, FLOW_C2S, 0, 100, T0); /* first to send */
	put_data(r, r->a, 1, FLOW_C2S, 0, 100, T0);
	put_data(r, r->a, 1, FLOW_S2C, 0, 50, T0);
	put_data(r, r->b, 9, FLOW_S2C, 0, 50, T0);
	put_close(r, r->b, 9, FLOW_END_FIN, T0);
	put_data(r, r->a, 1, FLOW_S2C, 50, 7, T0); /* no take-over */
	put_gap(r, r->a, 1, FLOW_S2C, 57, 7, T0);
	put_close(r, r->a, 1, FLOW_END_RST_C2S, T0);
	assert_int_equal(r->capture.check.payload_bytes, 150);
	assert_int_equal(r->capture.check.syns, 1);
	assert_int_equal(r->capture.check.rsts, 0);
	assert_int_equal(grown(r, "session_bytes_standby"), 157);
	assert_int_equal(sessions_count(r->t), 0);
	rig_free(r);
}

/* Late, but the opposite end: no successor of the first agent. */
static void test_other_end_that_joins_late_is_on_standby(void **state)
{
	struct rig *r = rig_new(NULL);
	struct frame_flow_open m = a_flow(1, 1, 5000), n = a_flow(9, 1, 5000);

	(void)state;
	n.captured_end = FLOW_C2S;
	n.flags = FLOW_OPEN_LATE;
	put_open(r, r->a, &m);
	put_data(r, r->a, 1, FLOW_C2S, 0, 100, T0);
	put_open(r, r->b, &n);
	put_data(r, r->b, 9, FLOW_C2S, 50, 50, T0);
	assert_int_equal(r->capture.check.rsts, 0);
	assert_int_equal(grown(r, "session_bytes_standby"), 50);
	rig_free(r);
}

/* A short connection is over at one end before the other end's first byte arrives. */
static void test_other_end_that_comes_after_the_close_is_not_told_again(void **state)
{
	struct rig *r = rig_new(NULL);
	struct frame_flow_open m = a_flow(1, 1, 5000), n = a_flow(9, 1, 5000);

	(void)state;
	put_open(r, r->a, &m);
	put_data(r, r->a, 1, FLOW_C2S, 0, 100, T0);
	put_close(r, r->a, 1, FLOW_END_FIN, T0);
	n.captured_end = FLOW_C2S;
	put_open(r, r->b, &n);
	r->now += 5 * NS_PER_S;
	sessions_tick(r->t, r->now);
	put_data(r, r->b, 9, FLOW_C2S, 0, 100, T0);
	put_close(r, r->b, 9, FLOW_END_FIN, T0);
	assert_int_equal(r->capture.check.syns, 1);
	assert_int_equal(grown(r, "session_bytes_standby"), 100);
	r->now += 60 * NS_PER_S; /* forgotten: the number is free again */
	sessions_tick(r->t, r->now);
	n.flow = 10;
	put_open(r, r->b, &n);
	put_data(r, r->b, 10, FLOW_C2S, 0, 100, T0);
	assert_int_equal(r->capture.check.syns, 2);
	rig_free(r);
}

/* The agent gave the flow up: its connection may live on, and the other end may tell the rest. */
static void test_other_end_goes_on_when_the_first_was_given_up(void **state)
{
	static const enum flow_end ends[] = {FLOW_END_AGENT, FLOW_END_SHED, FLOW_END_IDLE};

	(void)state;
	for (size_t i = 0; i < 6; i++) {
		struct rig *r = rig_new(NULL);
		struct frame_flow_open m = a_flow(1, 1, 5000), n = a_flow(9, 1, 5000);
		bool closed = i >= 3; /* both FINs were told before */

		put_open(r, r->a, &m);
		put_data(r, r->a, 1, FLOW_C2S, 0, 100, T0);
		if (closed) {
			put_fin(r, r->a, 1, FLOW_C2S, T0);
			put_fin(r, r->a, 1, FLOW_S2C, T0);
		}
		put_close(r, r->a, 1, ends[i % 3], T0);
		n.captured_end = FLOW_C2S;
		put_open(r, r->b, &n);
		put_data(r, r->b, 9, FLOW_C2S, 0, 100, T0);
		assert_int_equal(r->capture.check.syns, closed ? 1 : 2);
		sessions_close_all(r->t, r->now);
		rig_free(r);
	}
}

/* The agent was killed and started anew: the same end of the same connection, seen late. */
static void test_restarted_agent_goes_on(void **state)
{
	struct rig *r = rig_new(NULL);
	struct frame_flow_open m = a_flow(1, 1, 5000), n = a_flow(9, 1, 5000);

	(void)state;
	put_open(r, r->a, &m);
	put_data(r, r->a, 1, FLOW_C2S, 0, 100, T0);
	n.flags = FLOW_OPEN_LATE;
	put_open(r, r->b, &n);
	put_data(r, r->b, 9, FLOW_S2C, 0, 100, T0);
	assert_int_equal(r->capture.check.rsts, 1);
	assert_int_equal(r->capture.check.syns, 2);
	sessions_origin_gone(r->t, r->a, r->now);
	assert_int_equal(r->capture.check.rsts, 1);
	put_data(r, r->b, 9, FLOW_S2C, 100, 100, T0);
	assert_int_equal(r->capture.check.payload_bytes, 300);
	rig_free(r);
}

/* --- the other end goes on ----------------------------------------------------------------------
 */

/* The server's end at a, flow 1; the client's at b, flow 9. a is the first to send. */
static struct rig *rig_ends(uint16_t flags)
{
	struct rig *r = rig_new(NULL);
	struct frame_flow_open m = a_flow(1, 1, 5000), n = a_flow(9, 1, 5000);

	n.captured_end = FLOW_C2S;
	n.flags = flags;
	put_open(r, r->a, &m);
	put_open(r, r->b, &n);
	put_data(r, r->a, 1, FLOW_C2S, 0, 100, T0);
	put_data(r, r->b, 9, FLOW_C2S, 0, 100, T0);
	return r;
}

/* One connection, of so many bytes and missing ones. */
static void assert_told(struct rig *r, uint64_t bytes, uint64_t gap)
{
	assert_int_equal(r->capture.check.payload_bytes, bytes);
	assert_int_equal(grown(r, "session_bytes_gap"), gap);
	assert_int_equal(r->capture.check.syns, 1);
	assert_int_equal(r->capture.check.rsts, 0);
}

static void test_a_hole_is_filled_from_the_other_end(void **state)
{
	(void)state;
	for (int order = 0; order < 3; order++) {
		struct rig *r = rig_ends(0);

		if (order == 0) /* it was there before */
			put_data(r, r->b, 9, FLOW_C2S, 100, 100, T0);
		put_gap(r, r->a, 1, FLOW_C2S, 100, 50, T0);
		if (order == 1)
			put_data(r, r->b, 9, FLOW_C2S, 100, 100, T0);
		put_data(r, r->a, 1, FLOW_C2S, 150, 100, T0);
		if (order == 2)
			put_data(r, r->b, 9, FLOW_C2S, 100, 100, T0);
		assert_told(r, 250, 0);
		put_data(r, r->b, 9, FLOW_C2S, 200, 50, T0);
		put_data(r, r->a, 1, FLOW_S2C, 0, 10, T0);
		put_data(r, r->b, 9, FLOW_S2C, 0, 10, T0);
		assert_told(r, 260, 0);
		put_close(r, r->a, 1, FLOW_END_FIN, T0);
		put_close(r, r->b, 9, FLOW_END_FIN, T0);
		assert_told(r, 260, 0);
		assert_int_equal(sessions_count(r->t), 0);
		rig_free(r);
	}
}

static void test_what_both_miss_is_a_gap(void **state)
{
	struct rig *r = rig_ends(0);

	(void)state;
	put_gap(r, r->a, 1, FLOW_C2S, 100, 100, T0); /* a: from 200 on */
	put_data(r, r->a, 1, FLOW_C2S, 200, 10, T0);
	put_data(r, r->b, 9, FLOW_C2S, 100, 20, T0); /* b: 100 to 119, and from 150 on */
	put_gap(r, r->b, 9, FLOW_C2S, 120, 30, T0);
	put_data(r, r->b, 9, FLOW_C2S, 150, 60, T0);
	assert_told(r, 180, 30);
	rig_free(r);
}

static void test_a_lost_agent_is_followed_by_the_other_end(void **state)
{
	(void)state;
	for (int early = 0; early < 2; early++) {
		struct rig *r = rig_ends(0);

		if (early)
			put_data(r, r->b, 9, FLOW_C2S, 100, 100, T0);
		sessions_origin_link(r->t, r->a, false);
		sessions_tick(r->t, r->now);
		if (!early)
			put_data(r, r->b, 9, FLOW_C2S, 100, 100, T0);
		assert_told(r, 200, 0);
		sessions_origin_link(r->t, r->a, true); /* it comes back, and tells what it had */
		put_data(r, r->a, 1, FLOW_C2S, 100, 150, T0);
		put_data(r, r->b, 9, FLOW_C2S, 200, 50, T0);
		assert_told(r, 250, 0);
		sessions_origin_gone(r->t, r->a, r->now);
		put_data(r, r->b, 9, FLOW_S2C, 0, 50, T0);
		put_close(r, r->b, 9, FLOW_END_FIN, T0);
		assert_told(r, 300, 0);
		rig_free(r);
	}
}

static void test_who_gives_up_is_followed_by_the_other_end(void **state)
{
	static const enum flow_end ends[] = {FLOW_END_AGENT, FLOW_END_SHED, FLOW_END_IDLE};

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct rig *r = rig_ends(0);

		put_close(r, r->a, 1, ends[i], T0);
		put_data(r, r->b, 9, FLOW_C2S, 100, 100, T0);
		put_close(r, r->b, 9, FLOW_END_FIN, T0);
		assert_told(r, 200, 0);
		assert_int_equal(sessions_count(r->t), 0);
		rig_free(r);
	}
}

/* A program that ends without having read everything: the other end has sent it all the same. */
static void test_an_end_that_knows_less_does_not_end_the_connection(void **state)
{
	(void)state;
	for (int how = 0; how < 3; how++) {
		struct rig *r = rig_ends(0);

		put_data(r, r->b, 9, FLOW_C2S, 100, 100, T0);
		if (how == 0)
			put_fin(r, r->a, 1, FLOW_C2S, T0);
		if (how == 2) /* all that the other end will ever tell */
			put_close(r, r->b, 9, FLOW_END_FIN, T0);
		put_close(r, r->a, 1, FLOW_END_FIN, T0);
		if (how < 2)
			put_close(r, r->b, 9, FLOW_END_FIN, T0);
		assert_told(r, 200, 0);
		assert_int_equal(sessions_count(r->t), 0);
		rig_free(r);
	}
}

/* It waits for the other end to say what lies before its bytes, and has nothing more to say itself.
 */
static void test_an_end_that_closed_does_not_outlive_its_connection(void **state)
{
	struct frame_flow_open m = a_flow(2, 2, 5000);
	struct rig *r = rig_ends(0);

	(void)state;
	put_data(r, r->b, 9, FLOW_C2S, 200, 100, T0);
	put_close(r, r->b, 9, FLOW_END_FIN, T0);
	assert_told(r, 100, 0);
	assert_int_equal(sessions_count(r->t), 2);
	put_open(r, r->a, &m); /* the tuple is used again before that came */
	put_data(r, r->a, 2, FLOW_C2S, 0, 10, T0);
	assert_int_equal(sessions_count(r->t), 2);
	put_close(r, r->a, 1, FLOW_END_FIN, T0);
	put_close(r, r->a, 2, FLOW_END_FIN, T0);
	assert_int_equal(sessions_count(r->t), 0);
	rig_free(r);
}

/* The same, of an agent that is lost, and another one that tells its end of the connection. */
static void test_an_end_that_closed_makes_room_for_another(void **state)
{
	struct rig *r = rig_ends(0);
	struct frame_flow_open m = a_flow(7, 1, 5000);
	struct session_origin *c =
		sessions_origin(r->t, (const uint8_t *)"cccccccccccccccc", span_str("web1"));

	(void)state;
	m.captured_end = FLOW_C2S;
	put_data(r, r->b, 9, FLOW_C2S, 200, 100, T0);
	put_close(r, r->b, 9, FLOW_END_FIN, T0);
	sessions_origin_link(r->t, r->b, false);
	put_open(r, c, &m);
	put_data(r, c, 7, FLOW_C2S, 0, 150, T0);
	put_close(r, c, 7, FLOW_END_FIN, T0);
	put_close(r, r->a, 1, FLOW_END_FIN, T0);
	assert_int_equal(sessions_count(r->t), 0);
	rig_free(r);
}

static void test_who_falls_behind_is_passed(void **state)
{
	struct rig *r = rig_ends(0);

	(void)state;
	put_data(r, r->b, 9, FLOW_C2S, 100, 100, T0);
	r->now += 999 * NS_PER_MS;
	assert_true(sessions_tick(r->t, r->now) <= NS_PER_MS);
	assert_told(r, 100, 0);
	r->now += NS_PER_MS;
	sessions_tick(r->t, r->now);
	assert_told(r, 200, 0);
	put_data(r, r->a, 1, FLOW_C2S, 100, 100, T0);
	put_data(r, r->a, 1, FLOW_C2S, 200, 6 << 20, T0); /* at once: too much to be kept */
	assert_true(r->capture.check.payload_bytes > 6 << 20);
	put_data(r, r->b, 9, FLOW_C2S, 200, 6 << 20, T0);
	assert_told(r, 200 + (6 << 20), 0);
	rig_free(r);
}

static void test_ends_that_cannot_be_compared_do_not_replace_each_other(void **state)
{
	(void)state;
	for (int differ = 0; differ < 2; differ++) {
		struct rig *r = rig_ends(differ ? 0 : FLOW_OPEN_LATE);
		struct frame_data m = {
			.flow = 9, .dir = FLOW_C2S, .offset = 100, .bytes = span_str("x")};

		frame_put_data(&r->buf, &m);
		assert_int_equal(push(r, r->b), 0);
		put_data(r, r->a, 1, FLOW_C2S, 100, 50, T0);
		put_gap(r, r->a, 1, FLOW_C2S, 150, 50, T0);
		put_data(r, r->b, 9, FLOW_C2S, 101, 200, T0);
		assert_told(r, 150, 50);
		assert_int_equal(grown(r, "session_ends_differ"), differ);
		rig_free(r);
	}
}

/* What was captured late can only begin anew, when the other end is lost for good. */
static void test_a_late_end_goes_on_as_another_connection(void **state)
{
	struct rig *r = rig_ends(FLOW_OPEN_LATE);

	(void)state;
	r->capture.check.pattern = NULL;
	sessions_origin_link(r->t, r->a, false);
	sessions_tick(r->t, r->now);
	r->now += 4 * NS_PER_S;
	sessions_tick(r->t, r->now);
	put_data(r, r->b, 9, FLOW_C2S, 100, 100, T0);
	assert_int_equal(r->capture.check.rsts, 1);
	put_data(r, r->b, 9, FLOW_C2S, 200, 100, T0);
	assert_int_equal(r->capture.check.syns, 2);
	assert_int_equal(grown(r, "session_bytes_gap"), 0);
	assert_int_equal(r->capture.check.payload_bytes, 300);
	sessions_close_all(r->t, r->now);
	rig_free(r);
}

/* Clocks that differ by seconds: the connection's time goes on as it was. */
static void test_times_of_another_host_are_shifted(void **state)
{
	static const int64_t skews[] = {-5, 0, 7};

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		uint64_t there = T0 + (uint64_t)(skews[i] * (int64_t)NS_PER_S);
		struct rig *r = rig_ends(0);

		put_data(r, r->a, 1, FLOW_C2S, 100, 100, T0 + NS_PER_S);
		put_data(r, r->b, 9, FLOW_C2S, 100, 100, there + NS_PER_S);
		put_close(r, r->a, 1, FLOW_END_AGENT, T0 + NS_PER_S);
		put_data(r, r->b, 9, FLOW_C2S, 200, 100, there + 2 * NS_PER_S);
		assert_told(r, 300, 0);
		assert_int_equal(r->capture.last_ts_ns, T0 + 2 * NS_PER_S);
		rig_free(r);
	}
}

/* A new collector is told of both ends where they are: neither offset is a hole. */
static void test_ends_that_resume_begin_where_they_are(void **state)
{
	struct frame_flow_open m = a_flow(1, 1, 5000), n = a_flow(9, 1, 5000);
	struct rig *r = rig_new(NULL);

	(void)state;
	r->capture.check.pattern = NULL;
	m.flags = n.flags = FLOW_OPEN_RESUMED;
	n.captured_end = FLOW_C2S;
	put_open(r, r->a, &m);
	put_open(r, r->b, &n);
	put_data(r, r->a, 1, FLOW_C2S, 1000, 100, T0);
	put_data(r, r->b, 9, FLOW_C2S, 1000, 100, T0);
	put_data(r, r->b, 9, FLOW_S2C, 500, 50, T0);
	r->now += NS_PER_S;
	sessions_tick(r->t, r->now);
	assert_told(r, 150, 0);
	put_data(r, r->a, 1, FLOW_S2C, 500, 70, T0); /* 50 of them are told already */
	assert_told(r, 170, 0);
	sessions_close_all(r->t, r->now);
	rig_free(r);
}

/* One end's story: what it tells of the two directions, and where. */
struct teller {
	uint64_t at[2];
	uint8_t has[2][2000];
};

static void tell_some(struct rig *r, struct teller *w, struct session_origin *o, uint64_t flow)
{
	enum flow_dir dir = (enum flow_dir)rnd(2);
	uint64_t from = w->at[dir], to = from, most = 1 + rnd(60);

	if (from == sizeof(w->has[0]))
		return;
	while (to < sizeof(w->has[0]) && to - from < most && w->has[dir][to] == w->has[dir][from])
		to++;
	if (w->has[dir][from])
		put_data(r, o, flow, dir, from, to - from, T0);
	else if (rnd(2))
		put_gap(r, o, flow, dir, from, to - from, T0);
	w->at[dir] = to; /* a gap may also show by what comes behind it */
}

static void make_story(struct teller *w)
{
	memset(w, 0, sizeof(*w));
	for (int d = 0; d < 2; d++)
		for (size_t at = 0; at < sizeof(w->has[0]);) {
			size_t end = at + 1 + rnd(200);
			bool has = rnd(3);

			for (; at < end && at < sizeof(w->has[0]); at++)
				w->has[d][at] = !at || has || at + 1 == sizeof(w->has[0]);
		}
}

/* Whatever comes in whatever order: told is what either end has, once; missing what neither has. */
static void test_two_ends_make_one_whole(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 300; seed++) {
		struct frame_flow_open m = a_flow(1, 1, 5000), n = a_flow(9, 1, 5000);
		struct rig *r = rig_new(NULL);
		struct teller a, b;
		uint64_t bytes = 0;

		rng_state = seed * 0x9e3779b97f4a7c15ull;
		make_story(&a);
		make_story(&b);
		n.captured_end = FLOW_C2S;
		put_open(r, r->a, &m);
		put_open(r, r->b, &n);
		put_data(r, r->a, 1, FLOW_C2S, 0, 1, T0); /* then each knows of the other */
		put_data(r, r->b, 9, FLOW_C2S, 0, 1, T0);
		for (int i = 0; i < 3000; i++) {
			bool second = rnd(100) < 20 + seed % 60;

			tell_some(r, second ? &b : &a, second ? r->b : r->a, second ? 9 : 1);
		}
		put_close(r, r->a, 1, FLOW_END_FIN, T0);
		put_close(r, r->b, 9, FLOW_END_FIN, T0);
		for (size_t i = 0; i < sizeof(a.has[0]); i++)
			bytes += (a.has[0][i] || b.has[0][i]) + (a.has[1][i] || b.has[1][i]);
		assert_told(r, bytes, 4000 - bytes);
		assert_int_equal(sessions_count(r->t), 0);
		rig_free(r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_other_end_is_on_standby),
		cmocka_unit_test(test_other_end_that_joins_late_is_on_standby),
		cmocka_unit_test(test_other_end_that_comes_after_the_close_is_not_told_again),
		cmocka_unit_test(test_other_end_goes_on_when_the_first_was_given_up),
		cmocka_unit_test(test_restarted_agent_goes_on),
		cmocka_unit_test(test_a_hole_is_filled_from_the_other_end),
		cmocka_unit_test(test_what_both_miss_is_a_gap),
		cmocka_unit_test(test_a_lost_agent_is_followed_by_the_other_end),
		cmocka_unit_test(test_who_gives_up_is_followed_by_the_other_end),
		cmocka_unit_test(test_an_end_that_knows_less_does_not_end_the_connection),
		cmocka_unit_test(test_an_end_that_closed_does_not_outlive_its_connection),
		cmocka_unit_test(test_an_end_that_closed_makes_room_for_another),
		cmocka_unit_test(test_who_falls_behind_is_passed),
		cmocka_unit_test(test_ends_that_cannot_be_compared_do_not_replace_each_other),
		cmocka_unit_test(test_a_late_end_goes_on_as_another_connection),
		cmocka_unit_test(test_times_of_another_host_are_shifted),
		cmocka_unit_test(test_ends_that_resume_begin_where_they_are),
		cmocka_unit_test(test_two_ends_make_one_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
