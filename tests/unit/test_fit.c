/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of agent/match/fit.c. Record lengths are those that OpenSSL 3.0 put on the wire. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "match/fit.h"

#define HANDSHAKE 22
#define APP       23

static struct fit fit;
static fit_ciphers ciphers;

static void reading(size_t n, const uint32_t len[])
{
	fit_reset(&fit, FIT_ANY);
	for (size_t i = 0; i < n; i++)
		assert_true(fit_add_record(&fit, APP, len[i]));
}
#define READING(...) reading(sizeof((uint32_t[]){__VA_ARGS__}) / 4, (uint32_t[]){__VA_ARGS__})

static void writing(size_t n, const uint32_t len[])
{
	fit_reset(&fit, FIT_ANY);
	for (size_t i = 0; i < n; i++)
		assert_true(fit_add_write(&fit, len[i]));
}
#define WRITING(...) writing(sizeof((uint32_t[]){__VA_ARGS__}) / 4, (uint32_t[]){__VA_ARGS__})

static void test_every_cipher_is_recognized_by_its_record_length(void **state)
{
	/* 100 bytes: TLS 1.3; AES-GCM, ChaCha20, CBC with SHA-1, SHA-256 and SHA-384 in TLS 1.2,
	 * with and without encrypt-then-MAC */
	static const uint32_t len[] = {117, 124, 116, 144, 160, 176, 148, 160, 176};

	(void)state;
	for (size_t i = 0; i < sizeof(len) / sizeof(len[0]); i++) {
		READING(len[i]);
		assert_true(fit_read(&fit, 100));
		assert_int_equal(fit_hits(&fit, true, &ciphers), 1);
		assert_true(fit_is_used_up(&fit));
		WRITING(100);
		assert_true(fit_record(&fit, APP, len[i]));
		assert_int_equal(fit_hits(&fit, true, &ciphers), 1);
	}
}

static void test_a_length_that_no_cipher_makes_is_no_hit(void **state)
{
	static const uint32_t len[] = {100, 101, 108, 118, 125, 143, 145, 400, 16640};

	(void)state;
	for (size_t i = 0; i < sizeof(len) / sizeof(len[0]); i++) {
		READING(len[i]);
		fit_read(&fit, 100);
		assert_int_equal(fit_hits(&fit, true, &ciphers), 0);
		WRITING(100);
		fit_record(&fit, APP, len[i]);
		assert_int_equal(fit_hits(&fit, true, &ciphers), 0);
	}
}

static void test_the_cipher_must_stay_the_same(void **state)
{
	(void)state;
	READING(117, 124);
	assert_true(fit_read(&fit, 100));
	assert_false(fit_read(&fit, 108)); /* 124 = 100 + 24 or 107 + 17 */
	READING(117, 124);
	assert_true(fit_read(&fit, 100));
	assert_true(fit_read(&fit, 107));
	assert_int_equal(fit_hits(&fit, true, &ciphers), 2);
}

static void test_a_read_of_nothing_that_arrived_does_not_fit(void **state)
{
	(void)state;
	fit_reset(&fit, FIT_ANY);
	assert_false(fit_read(&fit, 1));
	assert_false(fit_read(&fit, 1)); /* and stays spoilt */
}

static void test_small_reads_use_a_record_up(void **state)
{
	(void)state;
	READING(317, 67);
	for (int i = 0; i < 30; i++)
		assert_true(fit_read(&fit, 10));
	assert_true(fit_is_used_up(&fit) == false);
	assert_true(fit_read(&fit, 50));
	assert_true(fit_is_used_up(&fit));
}

static void test_hidden_handshake_messages_are_passed_over(void **state)
{
	(void)state;
	READING(250, 250, 117); /* two tickets, then data */
	assert_true(fit_read(&fit, 100));
	assert_true(fit_is_used_up(&fit));
	READING(250, 250, 67, 67); /* read in parts: not to be taken for parts of the tickets */
	assert_true(fit_read(&fit, 20));
	assert_true(fit_read(&fit, 30));
	assert_true(fit_read(&fit, 50));
	assert_true(fit_is_used_up(&fit));
}

static void test_only_so_many_are_passed_over(void **state)
{
	uint32_t len[FIT_SKIPS + 2];

	(void)state;
	for (int i = 0; i < FIT_SKIPS + 1; i++)
		len[i] = 40;
	len[FIT_SKIPS + 1] = 117;
	reading(FIT_SKIPS + 2, len);
	assert_false(fit_read(&fit, 100));
	reading(FIT_SKIPS + 1, len + 1);
	assert_true(fit_read(&fit, 100));
}

static void test_under_tls_1_2_nothing_is_passed_over(void **state)
{
	(void)state;
	READING(124);
	assert_true(fit_read(&fit, 100));
	fit_hits(&fit, true, &ciphers);
	fit_reset(&fit, ciphers);
	assert_true(fit_add_record(&fit, APP, 274));
	assert_true(fit_add_record(&fit, APP, 124));
	assert_true(fit_read(&fit, 100)); /* a part of the first */
	assert_false(fit_read(&fit, 200));
}

static void test_plain_handshake_records_hold_no_data(void **state)
{
	(void)state;
	fit_reset(&fit, FIT_ANY);
	assert_true(fit_add_record(&fit, HANDSHAKE, 117));
	assert_true(fit_add_record(&fit, APP, 217));
	assert_true(fit_add_record(&fit, 21, 19));
	assert_false(fit_is_used_up(&fit));
	assert_true(fit_read(&fit, 200));
	assert_true(fit_is_used_up(&fit));
	assert_false(fit_read(&fit, 100));
}

static void test_a_long_write_becomes_full_records_and_a_rest(void **state)
{
	(void)state;
	WRITING(40000, 5);
	assert_true(fit_record(&fit, APP, 16384 + 17));
	assert_int_equal(fit_hits(&fit, true, &ciphers), 0); /* ends inside of the write */
	assert_int_equal(fit_hits(&fit, false, &ciphers), 1);
	assert_true(fit_record(&fit, APP, 16384 + 17));
	assert_true(fit_record(&fit, APP, 40000 - 2 * 16384 + 17));
	assert_int_equal(fit_hits(&fit, true, &ciphers), 3);
	assert_true(fit_record(&fit, APP, 22));
	assert_int_equal(fit_hits(&fit, true, &ciphers), 4);
}

static void test_smaller_records_fit_once_the_cipher_is_known(void **state)
{
	(void)state;
	WRITING(1400, 3000);
	assert_true(fit_record(&fit, APP, 1417));
	assert_true(fit_record(&fit, APP, 1417));
	assert_true(fit_record(&fit, APP, 1417));
	assert_true(fit_record(&fit, APP, 217));
	assert_int_equal(fit_hits(&fit, true, &ciphers), 2);
}

static void test_tickets_may_come_between_writes_not_inside_of_one(void **state)
{
	(void)state;
	WRITING(100, 20000);
	assert_true(fit_record(&fit, APP, 250));
	assert_true(fit_record(&fit, APP, 117));
	assert_true(fit_record(&fit, APP, 250));
	assert_true(fit_record(&fit, APP, 16401));
	assert_true(fit_record(&fit, APP, 3633));
	assert_int_equal(fit_hits(&fit, true, &ciphers), 3);
	WRITING(20000);
	assert_true(fit_record(&fit, APP, 16401));
	assert_true(fit_record(&fit, APP, 3633));
	assert_int_equal(fit_hits(&fit, true, &ciphers), 2);
	WRITING(20000);
	assert_true(fit_record(&fit, APP, 16401));
	assert_true(fit_record(&fit, APP, 5000)); /* 3616 bytes were left */
	assert_int_equal(fit_hits(&fit, true, &ciphers), 0);
}

static void test_it_is_bounded(void **state)
{
	(void)state;
	fit_reset(&fit, FIT_ANY);
	for (int i = 0; i < FIT_ITEMS; i++)
		assert_true(fit_add_write(&fit, 100));
	assert_false(fit_add_write(&fit, 100));
	assert_true(fit_record(&fit, APP, 117));
	assert_false(fit_add_write(&fit, 100)); /* it may have been a ticket */
	for (int i = 0; i < FIT_ITEMS - 1; i++)
		assert_true(fit_record(&fit, APP, 117));
}

static void test_it_goes_on_beyond_two_to_the_32(void **state)
{
	(void)state;
	fit_reset(&fit, FIT_ANY);
	fit.first = fit.next = UINT32_MAX - 5;
	fit_reset(&fit, FIT_ANY);
	for (uint32_t i = 0; i < 20; i++) {
		assert_true(fit_add_record(&fit, APP, i + 18));
		assert_true(fit_read(&fit, i + 1));
		assert_true(fit_is_used_up(&fit));
	}
}

static void test_a_record_holds_what_reads_of_it_can_use_up(void **state)
{
	(void)state;
	for (unsigned c = 0; c < FIT_CIPHERS; c++)
		for (uint32_t len = 1; len <= 200; len++) {
			uint32_t lo = 1, hi = 0;
			bool some = fit_plain(c, len, &lo, &hi);

			assert_true(some ? lo <= hi && hi < len : lo == 1 && hi == 0);
			for (uint32_t plain = 1; plain <= 200; plain++) {
				struct fit f = {.next = 0};

				fit_reset(&f, (fit_ciphers)(1u << c));
				assert_true(fit_add_record(&f, 23, len));
				assert_int_equal(fit_read(&f, plain) && fit_is_used_up(&f),
						 some && lo <= plain && plain <= hi);
			}
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_record_holds_what_reads_of_it_can_use_up),
		cmocka_unit_test(test_every_cipher_is_recognized_by_its_record_length),
		cmocka_unit_test(test_a_length_that_no_cipher_makes_is_no_hit),
		cmocka_unit_test(test_the_cipher_must_stay_the_same),
		cmocka_unit_test(test_a_read_of_nothing_that_arrived_does_not_fit),
		cmocka_unit_test(test_small_reads_use_a_record_up),
		cmocka_unit_test(test_hidden_handshake_messages_are_passed_over),
		cmocka_unit_test(test_only_so_many_are_passed_over),
		cmocka_unit_test(test_under_tls_1_2_nothing_is_passed_over),
		cmocka_unit_test(test_plain_handshake_records_hold_no_data),
		cmocka_unit_test(test_a_long_write_becomes_full_records_and_a_rest),
		cmocka_unit_test(test_smaller_records_fit_once_the_cipher_is_known),
		cmocka_unit_test(test_tickets_may_come_between_writes_not_inside_of_one),
		cmocka_unit_test(test_it_is_bounded),
		cmocka_unit_test(test_it_goes_on_beyond_two_to_the_32),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
