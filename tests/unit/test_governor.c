/* SPDX-License-Identifier: Apache-2.0 */
/* Who is detached, when, and for how long. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/clock.h"
#include "probes/governor.h"

static const struct governor_conf conf = {.percent = 10, .retry_s = 60};

/* One process, whose clocks go on by windows of a second. */
struct rig {
	struct governor *g;
	struct governor_use use;
	uint64_t now_ns;
	struct governor_verdict v;
};

static int open_rig(void **state)
{
	static struct rig r;

	r = (struct rig){.use = {.pid = 7, .start_ticks = 1}, .now_ns = 1000 * NS_PER_S};
	*state = &r;
	return governor_new(&r.g, &conf);
}

static int close_rig(void **state)
{
	governor_free(((struct rig *)*state)->g);
	return 0;
}

/* A second in which it used so many ms of CPU time, and so many of these in probes. */
static bool second(struct rig *r, unsigned cpu_ms, unsigned probe_ms)
{
	r->now_ns += NS_PER_S;
	r->use.cpu_ns += cpu_ms * NS_PER_MS;
	r->use.probe_ns += probe_ms * NS_PER_MS;
	return governor_window(r->g, &r->use, r->now_ns, &r->v);
}

/* Until it is detached; in how many windows over the limit. */
static unsigned until_detached(struct rig *r)
{
	for (unsigned i = 1; i < 20; i++)
		if (second(r, 500, 170))
			return i;
	return 0;
}

static void test_three_windows_in_a_row_are_too_many(void **state)
{
	struct rig *r = *state;

	assert_false(second(r, 500, 170)); /* the first one only begins to count */
	assert_false(second(r, 500, 170));
	assert_false(second(r, 500, 170));
	assert_true(second(r, 500, 170));
	assert_int_equal(r->v.percent, 34);
	assert_int_equal(r->v.retry_s, 60);
}

static void test_a_calm_window_begins_the_row_anew(void **state)
{
	struct rig *r = *state;

	for (int i = 0; i < 10; i++) {
		assert_false(second(r, 500, 170));
		assert_false(second(r, 500, 170));
		assert_false(second(r, 500, 50)); /* the limit itself is allowed */
	}
}

static void test_an_idle_process_is_left_in_peace(void **state)
{
	struct rig *r = *state;

	for (int i = 0; i < 10; i++)
		assert_false(second(r, 9, 8));
	for (int i = 0; i < 10; i++)
		assert_false(second(r, 0, 0));
	assert_int_equal(until_detached(r), 3);
}

static void test_it_is_left_alone_twice_as_long_each_time(void **state)
{
	static const unsigned want[] = {60, 120, 240, 480, 960, 1920, 3600, 3600};
	struct rig *r = *state;

	for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
		assert_int_not_equal(until_detached(r), 0);
		assert_int_equal(r->v.retry_s, want[i]);
		assert_false(second(r, 500, 0));
		assert_int_equal(governor_due(r->g, r->now_ns + (want[i] - 2) * NS_PER_S), 0);
		r->now_ns += want[i] * NS_PER_S;
		assert_int_equal(governor_due(r->g, r->now_ns), 7);
		assert_int_equal(governor_due(r->g, r->now_ns), 0);
	}
}

static void test_after_ten_calm_minutes_the_next_time_is_a_first_one(void **state)
{
	struct rig *r = *state;

	assert_int_not_equal(until_detached(r), 0);
	r->now_ns += 60 * NS_PER_S;
	assert_int_equal(governor_due(r->g, r->now_ns), 7);
	for (int i = 0; i < 700; i++)
		assert_false(second(r, 500, 10));
	assert_int_not_equal(until_detached(r), 0);
	assert_int_equal(r->v.retry_s, 60);
}

static void test_another_process_with_its_number_begins_anew(void **state)
{
	struct rig *r = *state;

	assert_int_not_equal(until_detached(r), 0);
	r->use = (struct governor_use){.pid = 7, .start_ticks = 2};
	assert_false(second(r, 500, 10));
	r->now_ns += 3600 * NS_PER_S;
	assert_int_equal(governor_due(r->g, r->now_ns), 0); /* it never was detached */
	assert_int_not_equal(until_detached(r), 0);
	assert_int_equal(r->v.retry_s, 60);
}

static void test_one_that_could_not_be_detached_is_judged_again(void **state)
{
	struct rig *r = *state;

	assert_int_not_equal(until_detached(r), 0);
	governor_keep(r->g, 7);
	assert_int_equal(until_detached(r), 3);
	governor_forget(r->g, 7);
	governor_forget(r->g, 7);
	assert_int_equal(governor_due(r->g, UINT64_MAX), 0);
}

static void test_more_than_all_is_told_as_all(void **state)
{
	struct rig *r = *state;

	for (int i = 0; i < 3; i++)
		assert_false(second(r, 100, 150));
	assert_true(second(r, 100, 150));
	assert_int_equal(r->v.percent, 100);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_rig, close_rig)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_three_windows_in_a_row_are_too_many),
		TEST(test_a_calm_window_begins_the_row_anew),
		TEST(test_an_idle_process_is_left_in_peace),
		TEST(test_it_is_left_alone_twice_as_long_each_time),
		TEST(test_after_ten_calm_minutes_the_next_time_is_a_first_one),
		TEST(test_another_process_with_its_number_begins_anew),
		TEST(test_one_that_could_not_be_detached_is_judged_again),
		TEST(test_more_than_all_is_told_as_all),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
