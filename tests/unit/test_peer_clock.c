/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of collector/peer_clock.c: which differences people are told, and how often. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "counters.h"
#include "peer_clock.h"
#include "said.h"

#define MINUTE (61 * NS_PER_S)

/* Lines on standard error about the agent, after a ping of it. */
static unsigned lines_of(struct peer_clock *c, int64_t ahead_ms, uint64_t trip_ms, uint64_t now_ns)
{
	/* The agent speaks of ours. */
	struct frame_ping m = {.ahead_ns = -ahead_ms * (int64_t)NS_PER_MS,
			       .trip_ns = trip_ms * NS_PER_MS};
	struct said said = said_begin();

	peer_clock_ping(c, &m, "10.0.0.1:5 (web1)", now_ns);
	return said_lines(&said, "clock: of an agent");
}

static void test_a_second_that_is_certain_is_told_once(void **state)
{
	struct peer_clock c = {0};

	(void)state;
	assert_int_equal(lines_of(&c, 999, 1, MINUTE), 0);
	assert_int_equal(lines_of(&c, 2000, 2100, MINUTE), 0); /* may be the way */
	assert_int_equal(counter_named("link_clocks_off"), 0);
	assert_int_equal(lines_of(&c, 2000, 10, MINUTE), 1);
	assert_int_equal(counter_named("link_clocks_off"), 1);
	for (unsigned i = 2; i < 10; i++)
		assert_int_equal(lines_of(&c, 2000 + i * 50, 10, i * MINUTE), 0);
	peer_clock_forget(&c);
	assert_int_equal(counter_named("link_clocks_off"), 0);
}

static void test_much_change_is_told_again_and_not_too_often(void **state)
{
	struct peer_clock c = {0};

	(void)state;
	assert_int_equal(lines_of(&c, -3000, 10, MINUTE), 1);
	assert_int_equal(lines_of(&c, -3900, 10, 2 * MINUTE), 0);
	assert_int_equal(lines_of(&c, 3900, 10, 3 * MINUTE), 1);
	assert_int_equal(lines_of(&c, 390000, 10, 3 * MINUTE + 1), 0);
	assert_int_equal(lines_of(&c, 390000, 10, 4 * MINUTE), 1);
	peer_clock_forget(&c);
}

static void test_agreement_is_told_when_it_is_back(void **state)
{
	struct peer_clock c = {0};

	(void)state;
	assert_int_equal(lines_of(&c, 3000, 10, MINUTE), 1);
	assert_int_equal(lines_of(&c, 800, 10, 2 * MINUTE), 1); /* changed, not over */
	assert_true(c.is_off);
	assert_int_equal(lines_of(&c, 20, 10, 3 * MINUTE), 1);
	assert_false(c.is_off);
	assert_int_equal(counter_named("link_clocks_off"), 0);
}

static void test_what_changes_within_the_quiet_minute_is_told_after_it(void **state)
{
	struct peer_clock c = {0};

	(void)state;
	assert_int_equal(lines_of(&c, 3000, 10, MINUTE), 1);
	assert_int_equal(lines_of(&c, 20, 10, MINUTE + NS_PER_S), 0);
	assert_false(c.is_off);
	assert_int_equal(lines_of(&c, 20, 10, 2 * MINUTE), 1);
	assert_int_equal(lines_of(&c, 3000, 10, 2 * MINUTE + NS_PER_S), 0);
	assert_int_equal(lines_of(&c, 20, 10, 2 * MINUTE + 2 * NS_PER_S), 0);
	assert_int_equal(lines_of(&c, 20, 10, 3 * MINUTE), 0); /* as was told */
	assert_int_equal(counter_named("link_clocks_off"), 0);
}

static void test_pings_that_say_nothing_change_nothing(void **state)
{
	struct peer_clock c = {0};
	struct frame_ping worst = {.ahead_ns = INT64_MIN, .trip_ns = 1};
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	(void)state;
	assert_int_equal(lines_of(&c, 5000, 0, MINUTE), 0);
	peer_clock_ping(&c, &worst, "x", MINUTE);
	worst = (struct frame_ping){.ahead_ns = INT64_MAX, .trip_ns = UINT64_MAX};
	peer_clock_ping(&c, &worst, "x", MINUTE);
	peer_clock_print(&c, "web1", f);
	assert_false(c.is_off);
	assert_int_equal(lines_of(&c, -1500, 3, MINUTE), 1);
	peer_clock_print(&c, "web1", f);
	fclose(f);
	assert_string_equal(text, "sslcollector: clock web1 ahead_ms=-1500.000 trip_ms=3.000\n");
	free(text);
	peer_clock_forget(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_second_that_is_certain_is_told_once),
		cmocka_unit_test(test_much_change_is_told_again_and_not_too_often),
		cmocka_unit_test(test_agreement_is_told_when_it_is_back),
		cmocka_unit_test(test_what_changes_within_the_quiet_minute_is_told_after_it),
		cmocka_unit_test(test_pings_that_say_nothing_change_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
