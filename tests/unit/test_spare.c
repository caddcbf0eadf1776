/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of collector/sessions/spare.c: what is kept of one end, and what is left of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <cmocka.h>
#include <string.h>

#include "sessions/spare.h"

static void put(struct spare *p, enum flow_dir dir, uint64_t offset, const char *text,
		uint64_t arrived_ns)
{
	struct spare_part part = {
		.dir = dir,
		.offset = offset,
		.bytes = span_str(text),
		.ts_ns = 1000 + offset,
		.arrived_ns = arrived_ns,
	};

	assert_int_equal(spare_put(p, &part), 0);
}

static void assert_at(struct spare *p, enum flow_dir dir, uint64_t offset, const char *text)
{
	struct spare_part part;

	assert_true(spare_at(p, dir, offset, &part));
	assert_int_equal(part.offset, offset);
	assert_int_equal(part.bytes.len, strlen(text));
	assert_memory_equal(part.bytes.p, text, strlen(text));
}

static void test_parts_are_found_by_offset_and_direction(void **state)
{
	struct spare *p = spare_new();
	struct spare_part part;

	(void)state;
	put(p, FLOW_C2S, 10, "hello", 7);
	put(p, FLOW_C2S, 20, "world", 8);
	assert_at(p, FLOW_C2S, 10, "hello");
	assert_at(p, FLOW_C2S, 12, "llo");
	assert_at(p, FLOW_C2S, 24, "d");
	assert_false(spare_at(p, FLOW_C2S, 9, &part));
	assert_false(spare_at(p, FLOW_C2S, 15, &part));
	assert_false(spare_at(p, FLOW_S2C, 10, &part));
	assert_int_equal(spare_next(p, FLOW_C2S, 0), 10);
	assert_int_equal(spare_next(p, FLOW_C2S, 13), 13);
	assert_int_equal(spare_next(p, FLOW_C2S, 15), 20);
	assert_true(spare_next(p, FLOW_C2S, 25) == UINT64_MAX);
	assert_true(spare_next(p, FLOW_S2C, 0) == UINT64_MAX);
	spare_free(p);
}

static void test_what_was_passed_is_forgotten_and_counted(void **state)
{
	struct spare *p = spare_new();
	size_t empty = spare_held(p);

	(void)state;
	put(p, FLOW_C2S, 10, "hello", 7);
	put(p, FLOW_C2S, 20, "world", 8);
	put(p, FLOW_S2C, 0, "x", 9);
	assert_int_equal(spare_bytes(p), 11);
	assert_int_equal(spare_since(p), 7);
	assert_int_equal(spare_passed(p, FLOW_C2S, 12), 2);
	assert_at(p, FLOW_C2S, 12, "llo");
	assert_int_equal(spare_passed(p, FLOW_C2S, 21), 4);
	assert_int_equal(spare_since(p), 8);
	assert_int_equal(spare_passed(p, FLOW_C2S, UINT64_MAX), 4);
	assert_int_equal(spare_since(p), 9);
	assert_int_equal(spare_passed(p, FLOW_S2C, 1), 1);
	assert_int_equal(spare_bytes(p), 0);
	assert_int_equal(spare_held(p), empty);
	assert_true(spare_since(p) == UINT64_MAX);
	spare_free(p);
}

static void test_only_what_both_have_is_compared(void **state)
{
	struct spare *p = spare_new();
	uint64_t ts_ns = 0;

	(void)state;
	put(p, FLOW_C2S, 10, "hello", 7);
	put(p, FLOW_C2S, 20, "world", 8);
	assert_true(spare_is_alike(p, FLOW_C2S, 0, span_str("elsewhere"), &ts_ns));
	assert_true(spare_is_alike(p, FLOW_S2C, 10, span_str("other"), &ts_ns));
	assert_int_equal(ts_ns, 0);
	assert_true(spare_is_alike(p, FLOW_C2S, 8, span_str("..hello12345wo"), &ts_ns));
	assert_int_equal(ts_ns, 1020);
	assert_false(spare_is_alike(p, FLOW_C2S, 14, span_str("o.....x"), &ts_ns));
	spare_free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parts_are_found_by_offset_and_direction),
		cmocka_unit_test(test_what_was_passed_is_forgotten_and_counted),
		cmocka_unit_test(test_only_what_both_have_is_compared),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
