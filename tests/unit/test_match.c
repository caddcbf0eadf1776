/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "preload.h"

static uint8_t record[5 + 64];

static uint64_t print_of(uint8_t type, uint16_t len, uint8_t seed)
{
	uint64_t print = 0;

	record[0] = type;
	record[1] = record[2] = 3;
	record[3] = (uint8_t)(len >> 8);
	record[4] = (uint8_t)len;
	for (unsigned i = 0; i < 64; i++)
		record[5 + i] = (uint8_t)(seed + i * 7);
	if (type == 22)
		record[5] = 2; /* ServerHello */
	return match_print(record, record + 5, len < 64 ? len : 64, &print) ? print : 0;
}

static void test_only_random_records_have_a_print(void **state)
{
	static const uint8_t retry[] = {0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11};
	uint64_t print;

	(void)state;
	assert_int_not_equal(print_of(23, 17, 1), 0);
	assert_int_not_equal(print_of(23, 16384, 1), 0);
	assert_int_not_equal(print_of(22, 100, 1), 0);
	assert_int_equal(print_of(23, 15, 1), 0); /* too short to be encrypted */
	assert_int_equal(print_of(20, 1, 1), 0);
	assert_int_equal(print_of(21, 19, 1), 0);
	assert_int_not_equal(print_of(22, 100, 1), 0);
	record[5] = 11; /* Certificate: the same on many connections */
	assert_false(match_print(record, record + 5, 64, &print));
	(void)print_of(22, 100, 1);
	memcpy(record + 11, retry, sizeof(retry));
	assert_false(match_print(record, record + 5, 64, &print));
	(void)print_of(23, 100, 1);
	assert_false(match_print(record, record + 5, 31, &print)); /* cut */
}

static void test_prints_tell_records_apart(void **state)
{
	uint64_t a = print_of(23, 40, 1), b;

	(void)state;
	assert_int_equal(a, print_of(23, 40, 1));
	assert_int_not_equal(a, print_of(23, 41, 1));
	assert_int_not_equal(a, print_of(22, 40, 1));
	assert_int_not_equal(a, print_of(23, 40, 2));
	(void)print_of(23, 40, 1);
	record[5 + 31] ^= 1;
	assert_true(match_print(record, record + 5, 40, &b));
	assert_int_not_equal(a, b);
	record[5 + 31] ^= 1;
	record[5 + 32] ^= 1; /* beyond what is looked at */
	assert_true(match_print(record, record + 5, 40, &b));
	assert_int_equal(a, b);
}

static void test_a_record_is_taken_once(void **state)
{
	uint64_t print = print_of(23, 100, 9), ssl;
	uint32_t tag;
	int fd;

	(void)state;
	match_put_received(print, 7, 3);
	assert_false(match_take_written(print, &ssl, &tag)); /* each direction for itself */
	assert_true(match_take_received(print, &fd, &tag));
	assert_int_equal(fd, 7);
	assert_int_equal(tag, 3);
	assert_false(match_take_received(print, &fd, &tag));
	match_put_written(print, 0x1000, 5);
	match_put_written(print, 0x1000, 5);
	assert_true(match_take_written(print, &ssl, &tag));
	assert_int_equal(ssl, 0x1000);
	assert_int_equal(tag, 5);
}

static void test_what_two_have_is_nobodys(void **state)
{
	uint64_t print = print_of(23, 100, 17), other = print_of(23, 100, 18);
	uint32_t tag;
	int fd;

	(void)state;
	match_put_received(print, 7, 3);
	match_put_received(print, 8, 1);
	assert_false(match_take_received(print, &fd, &tag));
	match_put_received(print, 7, 3); /* nor does one of them get it later */
	assert_false(match_take_received(print, &fd, &tag));
	match_put_received(other, 9, 1);
	assert_true(match_take_received(other, &fd, &tag));
	assert_int_equal(fd, 9);
}

static int begin(void **state)
{
	(void)state;
	match_init();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_only_random_records_have_a_print),
		cmocka_unit_test(test_prints_tell_records_apart),
		cmocka_unit_test(test_a_record_is_taken_once),
		cmocka_unit_test(test_what_two_have_is_nobodys),
	};

	return cmocka_run_group_tests(tests, begin, NULL);
}
