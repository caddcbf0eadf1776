/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/metrics.h"
#include "cli/status.h"

static COUNTER_DEFINE(lost, "test_bytes_lost", "what speaks of loss");
static COUNTER_DEFINE(not_lost, "test_bytes_lost_none", "the same, zero");
static COUNTER_DEFINE(unseen, "test_connections_unexplained", "what was never seen is lost, too");
static COUNTER_DEFINE(told, "flow_bytes", "plaintext");
static COUNTER_DEFINE(other, "test_events", "what does not");

static const struct capture_stats stats = {
	.ring = {.size = 1 << 20, .used = 1 << 10, .high = 1 << 18},
	.queue = {.size = 1 << 16, .high = 1 << 15},
	.events = 7,
	.ring_bytes = 5000000000,
	.naps = 2,
	.sleeps = 3,
	.entries = 1000,
	.exits = 900,
	.entries_s = 50,
	.exits_s = 40,
	.program_ns = 321,
	.counted_ms = 20500,
};

static char *printed(json_t *const answers[], size_t n)
{
	size_t len;
	char *text;
	FILE *f = open_memstream(&text, &len);

	status_print(f, answers, n);
	fclose(f);
	return text;
}

static void test_an_answer_has_buffers_and_only_losses(void **state)
{
	json_t *a, *l;

	(void)state;
	counter_add(&lost, 99);
	counter_add(&not_lost, 0);
	counter_add(&unseen, 2);
	counter_add(&other, 5);
	counter_add(&told, 12345);
	a = status_json(&stats);
	assert_non_null(a);
	l = json_object_get(a, "lost");
	assert_int_equal(json_integer_value(json_object_get(l, "test_bytes_lost")), 99);
	assert_int_equal(json_integer_value(json_object_get(l, "test_connections_unexplained")), 2);
	assert_int_equal(json_object_size(l), 2);
	assert_int_equal(json_integer_value(json_object_get(json_object_get(a, "ring"), "high")),
			 1 << 18);
	assert_int_equal(json_integer_value(json_object_get(a, "bytes")), 5000000000);
	assert_int_equal(json_integer_value(json_object_get(a, "sleeps")), 3);
	l = json_object_get(a, "probes");
	assert_int_equal(json_integer_value(json_object_get(l, "exits_s")), 40);
	assert_int_equal(json_integer_value(json_object_get(l, "plaintext")), 12345);
	json_decref(a);
}

static void test_an_answer_is_told_in_lines(void **state)
{
	json_t *a = status_json(&stats);
	char *text = printed(&a, 1), want[512];

	(void)state;
	snprintf(want, sizeof(want),
		 "agent %d\n"
		 "  ring     1024 KiB, in use 1 (0.1 %%), at most 256 (25.0 %%)\n"
		 "  backlog  64 KiB, in use 0 (0.0 %%), at most 32 (50.0 %%)\n"
		 "  events   7, 5000000000 bytes of the ring\n"
		 "  probes   1000 entries (50 a second), 900 exits (40) in 20 s, 321 ns each "
		 "without "
		 "the exception\n"
		 "  told     12345 bytes of plaintext\n"
		 "  lost     test_bytes_lost 99\n"
		 "  lost     test_connections_unexplained 2\n",
		 (int)getpid());
	assert_string_equal(text, want);
	free(text);
	json_decref(a);
}

static void test_several_rings_are_told_as_one(void **state)
{
	struct capture_stats several = stats;
	json_t *a;
	char *text;

	(void)state;
	several.n_rings = 4;
	several.each_ring[3] = 77;
	a = status_json(&several);
	text = printed(&a, 1);
	assert_int_equal(json_array_size(json_object_get(a, "rings")), 4);
	assert_int_equal(json_integer_value(json_array_get(json_object_get(a, "rings"), 3)), 77);
	assert_non_null(strstr(text, "  4 rings  1024 KiB, in use 1 (0.1 %)"));
	free(text);
	json_decref(a);
}

static void test_clocks_that_were_compared_are_told(void **state)
{
	static COUNTER_DEFINE(trip, "tunnel_trip_us", "");
	static COUNTER_DEFINE(behind, "tunnel_clock_behind_us", "");
	json_t *a = status_json(&stats);
	char *text;

	(void)state;
	assert_true(json_is_null(json_object_get(a, "clock")));
	json_decref(a);
	counter_set(&trip, 1250);
	counter_set(&behind, 90000400);
	a = status_json(&stats);
	assert_int_equal(
		json_integer_value(json_object_get(json_object_get(a, "clock"), "ahead_us")),
		-90000400);
	text = printed(&a, 1);
	assert_non_null(strstr(text, "  clock    the collector's is 90000.4 ms behind, round trip "
				     "1.2 ms\n"));
	free(text);
	json_decref(a);
}

static void test_what_is_missing_in_an_answer_is_nothing(void **state)
{
	json_t *a = json_pack("{s:s, s:[]}", "ring", "full", "lost");
	char *text = printed(&a, 1);

	(void)state;
	assert_non_null(strstr(text, "ring     0 KiB, in use 0 (0.0 %), at most 0 (0.0 %)"));
	assert_non_null(strstr(text, "lost     nothing"));
	free(text);
	json_decref(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_an_answer_has_buffers_and_only_losses),
		cmocka_unit_test(test_an_answer_is_told_in_lines),
		cmocka_unit_test(test_several_rings_are_told_as_one),
		cmocka_unit_test(test_clocks_that_were_compared_are_told),
		cmocka_unit_test(test_what_is_missing_in_an_answer_is_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
