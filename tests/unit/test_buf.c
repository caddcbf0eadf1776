/* SPDX-License-Identifier: Apache-2.0 */
/* buf: growth, limits, failing allocation; rd and wr shapes. Includes buf.c to make malloc() fail.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static int mallocs_left = -1; /* -1: never fail */

static void *failing_malloc(size_t n)
{
	if (!mallocs_left)
		return NULL;
	if (mallocs_left > 0)
		mallocs_left--;
	return malloc(n);
}
#define malloc failing_malloc
#include "base/buf.c"
#undef malloc

static void test_span_eq_compares_bytes_and_lengths(void **state)
{
	(void)state;
	assert_true(span_eq(span_str("abc"), span_of("abc", 3)));
	assert_false(span_eq(span_str("abc"), span_str("abd")));
	assert_false(span_eq(span_str("abc"), span_str("ab")));
	assert_true(span_eq(span_of(NULL, 0), span_str("")));
}

static void test_shapes_are_big_endian(void **state)
{
	static const uint8_t want[] = {1,  2,  3,  4,  5,  6,   7,   8, 9, 10,
				       11, 12, 13, 14, 15, 'x', 'y', 0, 0};
	struct buf b;

	(void)state;
	buf_init(&b, 64);
	wr_u8(&b, 0x01);
	wr_u16be(&b, 0x0203);
	wr_u32be(&b, 0x04050607);
	wr_u64be(&b, 0x08090a0b0c0d0e0full);
	wr_bytes(&b, "xy", 2);
	wr_zero(&b, 2);
	assert_false(b.bad);
	assert_int_equal(b.len, sizeof(want));
	assert_memory_equal(b.p, want, sizeof(want));
	wr_u32be_at(&b, 1, 0xa1a2a3a4);
	assert_memory_equal(b.p, "\x01\xa1\xa2\xa3\xa4\x06", 6);
	wr_u32be_at(&b, 16, 0xffffffff); /* one byte too far: not written */
	assert_memory_equal(b.p + 15, "xy\0\0", 4);
	buf_fini(&b);
}

static void test_reading_gives_back_what_was_written(void **state)
{
	static const uint8_t in[] = {1,  2,  3,  4,  5,  6,  7,   8,   9,
				     10, 11, 12, 13, 14, 15, 'x', 'y', 'z'};
	struct rd r = rd_from(span_of(in, sizeof(in)));
	uint8_t copy[2];

	(void)state;
	assert_int_equal(rd_u8(&r), 0x01);
	assert_int_equal(rd_u16be(&r), 0x0203);
	assert_int_equal(rd_u32be(&r), 0x04050607);
	assert_true(rd_u64be(&r) == 0x08090a0b0c0d0e0full);
	rd_copy(&r, copy, 2);
	assert_memory_equal(copy, "xy", 2);
	assert_true(span_eq(rd_bytes(&r, 1), span_str("z")));
	assert_false(r.bad);
	assert_int_equal(r.in.len, 0);
	assert_int_equal(rd_bytes(&r, 0).len, 0);
	assert_false(r.bad);
}

static void test_read_past_the_end_is_zero_sets_bad_and_consumes_nothing(void **state)
{
	struct rd r = rd_from(span_str("abc"));
	uint8_t copy[4] = "####";

	(void)state;
	assert_int_equal(rd_u32be(&r), 0);
	assert_true(r.bad);
	assert_int_equal(r.in.len, 3);
	assert_int_equal(rd_u8(&r), 0); /* once bad, always bad */
	rd_copy(&r, copy, 4);
	assert_memory_equal(copy, "\0\0\0\0", 4);
	assert_null(rd_bytes(&r, SIZE_MAX).p);
}

static void test_append_beyond_the_limit_leaves_contents_and_sets_bad(void **state)
{
	struct buf b;

	(void)state;
	buf_init(&b, 5);
	wr_u32be(&b, 7);
	wr_u16be(&b, 8);
	assert_true(b.bad);
	assert_int_equal(b.len, 4);
	wr_u8(&b, 9); /* would fit, but a shape with a hole is worse than none */
	assert_int_equal(b.len, 4);
	buf_reset(&b);
	assert_false(b.bad);
	wr_bytes(&b, "12345", 5);
	assert_false(b.bad);
	assert_int_equal(buf_reserve(&b, 1), -EMSGSIZE);
	buf_fini(&b);
	assert_int_equal(buf_reserve(&b, SIZE_MAX), -EMSGSIZE);
	assert_int_equal(b.max, 5);
	buf_fini(&b);
}

static void test_growth_reaches_exactly_the_limit(void **state)
{
	struct buf b;

	(void)state;
	buf_init(&b, 1000);
	for (int i = 0; i < 1000; i++)
		wr_u8(&b, (uint8_t)i);
	assert_false(b.bad);
	assert_int_equal(b.len, 1000);
	assert_true(b.cap <= 1000);
	for (int i = 0; i < 1000; i++)
		assert_int_equal(b.p[i], (uint8_t)i);
	wr_u8(&b, 0);
	assert_true(b.bad);
	buf_fini(&b);
	assert_null(b.p);
}

static void test_failed_allocation_keeps_contents_and_sets_bad(void **state)
{
	struct buf b;

	(void)state;
	buf_init(&b, 1000);
	wr_bytes(&b, "keep", 4);
	mallocs_left = 0;
	assert_int_equal(buf_reserve(&b, 500), -ENOMEM);
	mallocs_left = -1;
	assert_true(b.bad);
	assert_true(span_eq(buf_span(&b), span_str("keep")));
	buf_cleanse(&b);
	assert_false(b.bad);
	assert_int_equal(b.cap, 0);
}

static void test_consume_moves_the_rest_to_the_front(void **state)
{
	struct buf b;

	(void)state;
	buf_init(&b, 100);
	buf_consume(&b, 0);
	wr_bytes(&b, "hello world", 11);
	buf_consume(&b, 6);
	assert_true(span_eq(buf_span(&b), span_str("world")));
	buf_consume(&b, 99);
	assert_int_equal(b.len, 0);
	buf_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_span_eq_compares_bytes_and_lengths),
		cmocka_unit_test(test_shapes_are_big_endian),
		cmocka_unit_test(test_reading_gives_back_what_was_written),
		cmocka_unit_test(test_read_past_the_end_is_zero_sets_bad_and_consumes_nothing),
		cmocka_unit_test(test_append_beyond_the_limit_leaves_contents_and_sets_bad),
		cmocka_unit_test(test_growth_reaches_exactly_the_limit),
		cmocka_unit_test(test_failed_allocation_keeps_contents_and_sets_bad),
		cmocka_unit_test(test_consume_moves_the_rest_to_the_front),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
