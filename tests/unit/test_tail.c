/* SPDX-License-Identifier: Apache-2.0 */
/* tail: readers at any distance get the bytes that were put there, or learn that they are gone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "../../collector/sinks/tail.h"

#define CAP 1000u

/* The byte at each position: all positions within CAP of each other differ in a row of them. */
static uint8_t byte_at(uint64_t at)
{
	return (uint8_t)(at * 7 + at / 251);
}

static void put(struct tail *t, size_t n)
{
	uint64_t at = tail_end(t);
	uint8_t bytes[CAP];

	for (size_t i = 0; i < n; i++)
		bytes[i] = byte_at(at + i);
	tail_put(t, span_of(bytes, n));
	assert_int_equal(tail_end(t), at + n);
}

static void check(struct tail *t, uint64_t at, size_t max, size_t want)
{
	uint8_t bytes[CAP];

	assert_int_equal(tail_read(t, at, bytes, max), want);
	for (size_t i = 0; i < want; i++)
		assert_int_equal(bytes[i], byte_at(at + i));
}

static void test_each_reader_gets_what_was_put(void **state)
{
	struct tail *t;

	(void)state;
	assert_int_equal(tail_new(&t, CAP), 0);
	check(t, 0, CAP, 0);
	for (size_t n = 0; n < 200; n++) {
		uint64_t end;

		put(t, n * 37 % CAP);
		end = tail_end(t);
		for (uint64_t back = 0; back <= end && back <= CAP; back += 83)
			for (size_t max = 0; max <= CAP; max += 250)
				check(t, end - back, max, back < max ? back : max);
	}
	put(t, CAP);
	check(t, tail_end(t) - CAP, CAP, CAP);
	tail_free(t);
	tail_free(NULL);
}

static void test_a_reader_too_far_behind_learns_it(void **state)
{
	struct tail *t;
	uint8_t byte;

	(void)state;
	assert_int_equal(tail_new(&t, CAP), 0);
	put(t, CAP);
	assert_int_equal(tail_read(t, 0, &byte, 0), 0);
	put(t, 1);
	assert_int_equal(tail_read(t, 0, &byte, 0), -ESTALE);
	assert_int_equal(tail_read(t, 0, &byte, 1), -ESTALE);
	check(t, 1, CAP, CAP);
	tail_free(t);
}

static atomic_ullong seen;

/* Sometimes a little more ahead of the reader than the memory holds. */
static void *writer(void *ctx)
{
	for (unsigned i = 0; i < 20000; i++) {
		put(ctx, 1 + i % 90);
		for (unsigned k = 0; k < 1000000 && atomic_load(&seen) + CAP - 45 < tail_end(ctx);
		     k++)
			sched_yield();
	}
	return NULL;
}

static void test_a_reader_beside_the_writer_never_gets_other_bytes(void **state)
{
	struct tail *t;
	pthread_t thread;
	uint64_t at = 0, end = 0, got = 0;

	(void)state;
	for (unsigned i = 0; i < 20000; i++)
		end += 1 + i % 90;
	assert_int_equal(tail_new(&t, CAP), 0);
	assert_int_equal(pthread_create(&thread, NULL, writer, t), 0);
	while (at < end) { /* the writer ends, and this with it */
		uint8_t bytes[64];
		ssize_t n = tail_read(t, at, bytes, sizeof(bytes));

		if (n == -ESTALE)
			at = tail_end(t);
		for (ssize_t i = 0; i < n; i++)
			assert_int_equal(bytes[i], byte_at(at + (uint64_t)i));
		at += n > 0 ? (uint64_t)n : 0;
		got += n > 0 ? (uint64_t)n : 0;
		atomic_store(&seen, at);
		if (!n)
			sched_yield();
	}
	pthread_join(thread, NULL);
	assert_true(got > 10 * CAP);
	tail_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_reader_gets_what_was_put),
		cmocka_unit_test(test_a_reader_too_far_behind_learns_it),
		cmocka_unit_test(test_a_reader_beside_the_writer_never_gets_other_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
