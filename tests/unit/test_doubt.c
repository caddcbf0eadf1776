/* SPDX-License-Identifier: Apache-2.0 */
/* How many unexplained connections are enough, and which do not count. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "probes/doubt.h"

#define FROM  5000000000ull
#define LATER (FROM + DOUBTS_GRACE_NS)

static int open_doubts(void **state)
{
	return doubts_new((struct doubts **)state);
}

static int close_doubts(void **state)
{
	doubts_free(*state);
	return 0;
}

static void test_the_third_connection_is_one_too_many(void **state)
{
	struct doubts *d = *state;

	doubts_begin(d, 7, FROM);
	assert_false(doubts_add(d, 7, LATER));
	assert_false(doubts_add(d, 7, LATER + 1));
	assert_true(doubts_add(d, 7, LATER + 2));
	assert_false(doubts_add(d, 7, LATER + 3)); /* it begins anew */
}

static void test_files_are_judged_each_by_itself(void **state)
{
	struct doubts *d = *state;

	doubts_begin(d, 2, FROM);
	doubts_begin(d, 5, FROM);
	for (int i = 0; i < 2; i++) {
		assert_false(doubts_add(d, 2, LATER));
		assert_false(doubts_add(d, 5, LATER));
	}
	assert_true(doubts_add(d, 2, LATER));
	assert_true(doubts_add(d, 5, LATER));
}

static void test_connections_older_than_the_probes_do_not_count(void **state)
{
	struct doubts *d = *state;

	doubts_begin(d, 1, FROM);
	for (int i = 0; i < 9; i++)
		assert_false(doubts_add(d, 1, LATER - 1));
	doubts_begin(d, 1, LATER); /* lowered */
	for (int i = 0; i < 9; i++)
		assert_false(doubts_add(d, 1, LATER + 1));
}

static void test_connections_during_which_calls_were_lost_do_not_count(void **state)
{
	struct doubts *d = *state;

	doubts_begin(d, 1, FROM);
	doubts_lost(d, LATER + 100);
	for (int i = 0; i < 9; i++)
		assert_false(doubts_add(d, 1, LATER + 100));
	assert_false(doubts_add(d, 1, LATER + 101));
}

static void test_unknown_files_are_never_doubted(void **state)
{
	struct doubts *d = *state;

	doubts_begin(d, 3, FROM);
	for (int i = 0; i < 9; i++) {
		assert_false(doubts_add(d, 0, LATER));
		assert_false(doubts_add(d, 2, LATER));
		assert_false(doubts_add(d, 4, LATER));
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_doubts, close_doubts)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_the_third_connection_is_one_too_many),
		TEST(test_files_are_judged_each_by_itself),
		TEST(test_connections_older_than_the_probes_do_not_count),
		TEST(test_connections_during_which_calls_were_lost_do_not_count),
		TEST(test_unknown_files_are_never_doubted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
