/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of agent/match/audit.c: what plaintext explains, and what it does not. */
#include "match/audit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static enum audit_verdict judge(uint64_t plain, uint64_t calls, uint64_t wire)
{
	const struct audit a = {.plain = plain, .calls = calls, .wire = wire};

	return audit_judge(&a, 1);
}

static void test_a_handshake_needs_no_plaintext(void **state)
{
	(void)state;
	assert_int_equal(judge(0, 0, 0), AUDIT_FITS);
	assert_int_equal(judge(0, 0, 9000), AUDIT_FITS);
	assert_int_equal(judge(0, 0, AUDIT_ALLOWANCE + 1), AUDIT_MISSED);
}

static void test_small_records_are_dear(void **state)
{
	(void)state;
	/* 100,000 calls of one byte in TLS 1.3: 5 of header, 1 of type, 16 of tag */
	assert_int_equal(judge(100000, 100000, 100000 * 23 + 3000), AUDIT_FITS);
	assert_int_equal(judge(100000, 10, 100000 * 23 + 3000), AUDIT_MISSED);
}

static void test_one_call_of_many_records(void **state)
{
	(void)state;
	/* 50 MB in records of 16 KiB, and in such of 1 KiB */
	assert_int_equal(judge(50000000, 1, 50000000 + 3052 * 22 + 3000), AUDIT_FITS);
	assert_int_equal(judge(50000000, 1, 50000000 + 48829 * 22 + 3000), AUDIT_FITS);
	assert_int_equal(judge(50000000, 1, 100000000), AUDIT_MISSED);
}

static void test_more_than_there_was(void **state)
{
	(void)state;
	assert_int_equal(judge(1000000, 10, 1000000 - AUDIT_ALLOWANCE), AUDIT_FITS);
	assert_int_equal(judge(1000000, 10, 1000000 - AUDIT_ALLOWANCE - 1), AUDIT_DOUBLE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_handshake_needs_no_plaintext),
		cmocka_unit_test(test_small_records_are_dear),
		cmocka_unit_test(test_one_call_of_many_records),
		cmocka_unit_test(test_more_than_there_was),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
