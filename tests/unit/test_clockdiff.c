/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of proto/base/clockdiff.c: two clocks and a network that are made up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/clockdiff.h"

#define WALL 1700000000000000000ull
#define MS   ((int64_t)NS_PER_MS)

struct world {
	struct clockdiff diff;
	uint64_t now_ns;  /* monotonic, here */
	int64_t ahead_ns; /* what is true */
	uint32_t seed;
};

static int64_t chance(struct world *w, int64_t below)
{
	w->seed = w->seed * 1664525u + 1013904223u;
	return (int64_t)(w->seed >> 8) % below;
}

/* One exchange that takes so long there and back; the other host thinks for 1 ms. */
static void ask(struct world *w, int64_t there_ns, int64_t back_ns)
{
	struct clockdiff_stamps s = {.left = WALL + w->now_ns};

	s.came = s.left + (uint64_t)(there_ns + w->ahead_ns);
	s.answered = s.came + NS_PER_MS;
	s.back = s.left + (uint64_t)(there_ns + MS + back_ns);
	w->now_ns += (uint64_t)(there_ns + MS + back_ns);
	assert_true(clockdiff_add(&w->diff, &s, w->now_ns));
}

static struct clockdiff_sample best(const struct world *w)
{
	struct clockdiff_sample got;

	assert_true(clockdiff_best(&w->diff, w->now_ns, &got));
	return got;
}

static void assert_near(const struct world *w, int64_t within_ns)
{
	int64_t off = best(w).ahead_ns - w->ahead_ns;

	if (off < -within_ns || off > within_ns)
		fail_msg("wrong by %lld ns", (long long)off);
}

static void test_equal_ways_tell_the_exact_difference(void **state)
{
	struct world w = {.ahead_ns = -90000 * MS};

	(void)state;
	ask(&w, 20 * MS, 20 * MS);
	assert_near(&w, 0);
	assert_int_equal(best(&w).trip_ns, 40 * MS);
}

static void test_unequal_ways_are_wrong_by_half_a_round_trip_at_most(void **state)
{
	struct world w = {.ahead_ns = 5000 * MS};

	(void)state;
	ask(&w, 200 * MS, 0);
	assert_near(&w, 100 * MS);
	assert_int_equal(best(&w).trip_ns, 200 * MS);
}

/* Uploads fill the way there; now and then it is empty. */
static void test_the_quickest_exchange_is_believed(void **state)
{
	struct world w = {.ahead_ns = 2500 * MS, .seed = 7};

	(void)state;
	for (int i = 0; i < 25; i++) {
		bool empty = i % 8 == 5;

		ask(&w, empty ? 3 * MS : 50 * MS + chance(&w, 2000 * MS), 2 * MS + chance(&w, MS));
		w.now_ns += 10 * NS_PER_S;
	}
	assert_near(&w, MS);
	assert_true(best(&w).trip_ns < 7 * (uint64_t)MS);
}

static void test_what_is_old_is_forgotten(void **state)
{
	struct world w = {0};
	struct clockdiff_sample got;

	(void)state;
	ask(&w, MS, MS);
	w.now_ns += CLOCKDIFF_AGE_S * NS_PER_S;
	ask(&w, 30 * MS, 30 * MS);
	assert_int_equal(best(&w).trip_ns, 60 * MS);
	w.now_ns += CLOCKDIFF_AGE_S * NS_PER_S + 1;
	assert_false(clockdiff_best(&w.diff, w.now_ns, &got));
}

static void test_more_than_it_keeps_replaces_the_oldest(void **state)
{
	struct world w = {.ahead_ns = 7 * MS};

	(void)state;
	ask(&w, MS, MS);
	for (int i = 0; i < CLOCKDIFF_SAMPLES; i++)
		ask(&w, 10 * MS, 10 * MS);
	assert_int_equal(best(&w).trip_ns, 20 * MS);
}

static void test_a_clock_that_was_set_is_noticed_at_once(void **state)
{
	struct world w = {.ahead_ns = 3600000 * MS};

	(void)state;
	for (int i = 0; i < 5; i++)
		ask(&w, MS, MS);
	w.ahead_ns = 0;
	ask(&w, 100 * MS, 20 * MS);
	assert_near(&w, 60 * MS);
}

static void test_drift_is_no_step(void **state)
{
	struct world w = {0};

	(void)state;
	ask(&w, MS, MS);
	for (int i = 0; i < 20; i++) { /* 100 ppm */
		w.now_ns += 10 * NS_PER_S;
		w.ahead_ns += MS;
		ask(&w, 5 * MS, 5 * MS);
	}
	assert_int_equal(best(&w).trip_ns, 2 * MS); /* the first one still counts */
}

static void test_stamps_without_sense_are_ignored(void **state)
{
	static const struct clockdiff_stamps none[] = {
		{.left = 10, .came = 5, .answered = 6, .back = 9},    /* back before it left */
		{.left = 10, .came = 50, .answered = 40, .back = 20}, /* answered before it came */
		{.left = 10, .came = 50, .answered = 80, .back = 20}, /* longer there than away */
		{.left = 10, .came = UINT64_MAX, .answered = UINT64_MAX, .back = 10}, /* too far */
	};
	struct clockdiff c = {0};
	struct clockdiff_sample got;

	(void)state;
	for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++)
		assert_false(clockdiff_add(&c, &none[i], 1));
	assert_false(clockdiff_best(&c, 1, &got));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_equal_ways_tell_the_exact_difference),
		cmocka_unit_test(test_unequal_ways_are_wrong_by_half_a_round_trip_at_most),
		cmocka_unit_test(test_the_quickest_exchange_is_believed),
		cmocka_unit_test(test_what_is_old_is_forgotten),
		cmocka_unit_test(test_more_than_it_keeps_replaces_the_oldest),
		cmocka_unit_test(test_a_clock_that_was_set_is_noticed_at_once),
		cmocka_unit_test(test_drift_is_no_step),
		cmocka_unit_test(test_stamps_without_sense_are_ignored),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
