/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/types.h>

#include "ring.h"

#define SIZE (1u << 20)

static void test_a_sleeping_reader_is_woken_by_the_first_event(void **state)
{
	(void)state;
	assert_true(sslc_ring_wakes(SSLC_READER_SLEEPS, 0, SIZE));
	assert_true(sslc_ring_wakes(SSLC_READER_SLEEPS, SIZE, SIZE));
}

static void test_a_napping_reader_is_woken_when_the_ring_fills(void **state)
{
	(void)state;
	assert_false(sslc_ring_wakes(SSLC_READER_NAPS, 0, SIZE));
	assert_false(sslc_ring_wakes(SSLC_READER_NAPS, SSLC_RING_WAKE(SIZE) - 1, SIZE));
	assert_true(sslc_ring_wakes(SSLC_READER_NAPS, SSLC_RING_WAKE(SIZE), SIZE));
}

static void test_a_reader_that_is_awake_is_left_alone(void **state)
{
	(void)state;
	assert_false(sslc_ring_wakes(SSLC_READER_AWAKE, SIZE, SIZE));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_sleeping_reader_is_woken_by_the_first_event),
		cmocka_unit_test(test_a_napping_reader_is_woken_when_the_ring_fills),
		cmocka_unit_test(test_a_reader_that_is_awake_is_left_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
