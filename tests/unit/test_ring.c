/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/types.h>
#include <stdbool.h>

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

static struct sslc_ring fresh(void)
{
	return (struct sslc_ring){.line = SSLC_SHED_ABOVE};
}

static __u64 now_ns = 5000000000;

/* Enough time for a step goes by each time. */
static bool judge(struct sslc_ring *r, __u64 rank, __u64 fill)
{
	now_ns += SSLC_SHED_STEP_NS;
	return sslc_shed_judge(r, rank, fill, SIZE, now_ns);
}

static void test_nothing_is_shed_below_the_first_mark(void **state)
{
	struct sslc_ring r = fresh();

	(void)state;
	for (__u64 fill = 0; fill < SSLC_SHED_BEGIN(SIZE); fill += 1000)
		for (__u64 flow = 1; flow < 100; flow++)
			assert_false(judge(&r, flow, fill));
	assert_int_equal(r.line, SSLC_SHED_ABOVE);
}

static void test_the_newest_goes_first(void **state)
{
	struct sslc_ring r = fresh();
	__u64 fill = SSLC_SHED_BEGIN(SIZE);

	(void)state;
	for (__u64 flow = 1; flow <= 4; flow++)
		assert_false(judge(&r, flow, fill - 1));
	assert_false(judge(&r, 1, fill));
	assert_true(judge(&r, 4, fill));
	assert_false(judge(&r, 3, fill));
	assert_true(judge(&r, 5, fill)); /* younger than the line */
}

static void test_the_oldest_goes_first_when_wanted(void **state)
{
	struct sslc_ring r = fresh();
	__u64 fill = SSLC_SHED_BEGIN(SIZE);

	(void)state;
	for (__u64 flow = 1; flow <= 4; flow++)
		(void)judge(&r, sslc_shed_rank(flow, SSLC_SHED_OLDEST), fill - 1);
	(void)judge(&r, sslc_shed_rank(4, SSLC_SHED_OLDEST), fill);
	assert_true(judge(&r, sslc_shed_rank(1, SSLC_SHED_OLDEST), fill));
	assert_false(judge(&r, sslc_shed_rank(2, SSLC_SHED_OLDEST), fill));
}

static void test_more_are_shed_the_more_the_ring_fills(void **state)
{
	struct sslc_ring r = fresh();
	bool shed[1000] = {false};
	unsigned n = 0, at_half = 0;

	(void)state;
	for (__u64 fill = SSLC_SHED_LOOK(SIZE); fill < SSLC_RING_DATA_MAX(SIZE); fill += 256)
		for (unsigned i = 0; i < 7; i++) {
			__u64 flow = (fill * 31 + i * 137) % 1000 + 1;

			if (!shed[flow - 1])
				n += shed[flow - 1] = judge(&r, flow, fill);
			if (fill < SSLC_SHED_BEGIN(SIZE) +
					   (SSLC_RING_DATA_MAX(SIZE) - SSLC_SHED_BEGIN(SIZE)) / 2)
				at_half = n;
		}
	assert_in_range(at_half, 200, 900);
	assert_in_range(n, at_half + 1, 1000);
	for (unsigned i = 0; i < 1000; i++) /* none that is older than one that stays */
		assert_true(!shed[i] || i + 1 >= r.line);
}

static void test_one_step_a_millisecond(void **state)
{
	struct sslc_ring r = fresh();
	__u64 fill = SSLC_SHED_BEGIN(SIZE);

	(void)state;
	for (__u64 flow = 1; flow <= 4; flow++)
		assert_false(judge(&r, flow, fill - 1));
	(void)judge(&r, 1, fill);
	assert_int_equal(r.line, 4);
	fill += 2 * SSLC_SHED_STEP(SIZE);
	assert_false(sslc_shed_judge(&r, 3, fill, SIZE, now_ns + SSLC_SHED_STEP_NS - 1));
	assert_true(sslc_shed_judge(&r, 3, fill, SIZE, now_ns + SSLC_SHED_STEP_NS));
}

static void test_the_line_stays_until_the_ring_is_calm(void **state)
{
	struct sslc_ring r = fresh();

	(void)state;
	assert_true(sslc_shed_is_calm(&r, 0, SIZE));
	(void)judge(&r, 7, SSLC_SHED_BEGIN(SIZE));
	assert_true(judge(&r, 7, SSLC_SHED_CALM(SIZE)));
	assert_false(sslc_shed_is_calm(&r, SSLC_SHED_CALM(SIZE), SIZE));
	assert_false(sslc_shed_is_calm(&r, 0, SIZE));
	assert_false(judge(&r, 7, SSLC_SHED_CALM(SIZE) - 1));
	assert_true(sslc_shed_is_calm(&r, 0, SIZE));
	assert_false(judge(&r, 7, SSLC_SHED_LOOK(SIZE))); /* from the beginning */
}

static void test_old_samples_are_forgotten_in_the_calm(void **state)
{
	struct sslc_ring r = fresh();

	(void)state;
	(void)judge(&r, 900, SSLC_SHED_BEGIN(SIZE));
	(void)judge(&r, 900, 0);
	(void)judge(&r, 5, SSLC_SHED_BEGIN(SIZE));
	assert_int_equal(r.line, 5);
}

static void test_flows_are_spread_over_all_rings(void **state)
{
	unsigned n[SSLC_RINGS_MAX] = {0}, samples = 0;

	(void)state;
	for (__u64 i = 0; i < 8000; i++) { /* as next_flow() names them: 50 us apart, on 16 CPUs */
		__u64 flow = (1000000000000 + i * 50000) << 13 | i % 16;

		assert_int_equal(sslc_ring_number(flow, 1), 0);
		assert_true(sslc_ring_number(flow, 2) == (sslc_ring_number(flow, 8) & 1));
		n[sslc_ring_number(flow, 8)]++;
		if (!sslc_ring_number(flow, 8)) /* the places of shed samples in one of them */
			samples |= 1u << ((flow * 0x9e3779b97f4a7c15ull) >> 61);
	}
	for (unsigned i = 0; i < SSLC_RINGS_MAX; i++)
		assert_in_range(n[i], 800, 1200);
	assert_int_equal(samples, 0xff);
	for (__u64 tgid = 1000; tgid < 1100; tgid++) /* processes too */
		n[sslc_ring_number(tgid, 8)] = 0;
	for (unsigned i = 0; i < SSLC_RINGS_MAX; i++)
		assert_int_equal(n[i], 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_flows_are_spread_over_all_rings),
		cmocka_unit_test(test_nothing_is_shed_below_the_first_mark),
		cmocka_unit_test(test_the_newest_goes_first),
		cmocka_unit_test(test_the_oldest_goes_first_when_wanted),
		cmocka_unit_test(test_more_are_shed_the_more_the_ring_fills),
		cmocka_unit_test(test_one_step_a_millisecond),
		cmocka_unit_test(test_the_line_stays_until_the_ring_is_calm),
		cmocka_unit_test(test_old_samples_are_forgotten_in_the_calm),
		cmocka_unit_test(test_a_sleeping_reader_is_woken_by_the_first_event),
		cmocka_unit_test(test_a_napping_reader_is_woken_when_the_ring_fills),
		cmocka_unit_test(test_a_reader_that_is_awake_is_left_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
