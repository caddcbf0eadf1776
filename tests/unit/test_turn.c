/* SPDX-License-Identifier: Apache-2.0 */
/* turn: the account of a thread's share. Times are the test's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sched.h>
#include <string.h>

#include "base/clock.h"
#include "preloaded/turn.h"

#define US 1000ull
#define MS (1000 * US)

static struct turn t;
static uint64_t now_ns, used_ns;

static bool after(uint64_t passed_ns, uint64_t worked_ns)
{
	now_ns += passed_ns;
	used_ns += worked_ns;
	t.is_first = turn_count(&t, now_ns, used_ns);
	return t.is_first;
}

static int begin(void **state)
{
	(void)state;
	now_ns = 50 * MS;
	used_ns = 7 * MS;
	t = (struct turn){.percent = 20, .since_ns = now_ns, .used_ns = used_ns, .is_first = true};
	(void)after(1000 * MS, 0);
	return 0;
}

static void test_within_its_share_it_stays_first(void **state)
{
	(void)state;
	for (int i = 0; i < 10000; i++)
		assert_true(after(250 * US, 49 * US));
}

static void test_a_burst_is_allowed_and_more_is_not(void **state)
{
	unsigned n = 0;

	(void)state;
	while (n < 1000 && after(100 * US, 100 * US))
		n++;
	assert_in_range(n, 110, 130); /* 10 ms, and a fifth of what passes meanwhile */
}

static void test_it_comes_first_again_when_it_rests(void **state)
{
	unsigned n = 0;

	(void)state;
	assert_false(after(20 * MS, 20 * MS));
	while (n < 1000 && !after(1 * MS, 0))
		n++;
	assert_in_range(n, 30, 60); /* from -6 ms to 2.5 ms by 0.2 ms */
	assert_true(after(1 * MS, 0));
}

/* Over a long time it has its share first, whatever it wants. */
static void test_greed_gets_the_share(void **state)
{
	uint64_t first_ns = 0;

	(void)state;
	for (int i = 0; i < 100000; i++) {
		bool was = t.is_first;

		(void)after(50 * US, was ? 50 * US : 0); /* others keep it from working */
		first_ns += was ? 50 * US : 0;
	}
	assert_in_range(first_ns, 5000 * MS * 19 / 100, 5000 * MS * 21 / 100);
}

static void test_one_long_look_is_not_held_against_it_for_ever(void **state)
{
	(void)state;
	assert_false(after(900 * MS, 900 * MS));
	for (int i = 0; i < 70; i++)
		(void)after(1 * MS, 0);
	assert_true(t.is_first);
}

/* Ordinary or not, as the system grants it: never stuck, and a wait that is bounded when ordinary.
 */
static void test_the_thread_itself(void **state)
{
	struct turn own;
	uint64_t most_ns = 0;

	(void)state;
	turn_begin(&own, 10);
	assert_true(own.is_refused || sched_getscheduler(0) == (SCHED_FIFO | SCHED_RESET_ON_FORK));
	for (uint64_t end = clock_mono_ns() + 200 * MS; clock_mono_ns() < end && !most_ns;)
		most_ns = turn_over(&own);
	if (own.is_refused) {
		assert_int_equal(most_ns, 0);
		return;
	}
	assert_in_range(most_ns, 1, 200 * MS);
	assert_int_equal(sched_getscheduler(0) & ~SCHED_RESET_ON_FORK, SCHED_OTHER);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_within_its_share_it_stays_first, begin),
		cmocka_unit_test_setup(test_a_burst_is_allowed_and_more_is_not, begin),
		cmocka_unit_test_setup(test_it_comes_first_again_when_it_rests, begin),
		cmocka_unit_test_setup(test_greed_gets_the_share, begin),
		cmocka_unit_test_setup(test_one_long_look_is_not_held_against_it_for_ever, begin),
		cmocka_unit_test(test_the_thread_itself),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
