/* SPDX-License-Identifier: Apache-2.0 */
/* ringmap: events in place and in order, around the end of the memory; what is given back and when.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "fakering.h"
#include "ringmap.h"

struct both {
	struct fakering ring;
	struct ringmap map;
};

static void open_both(struct both *b)
{
	fakering_open(&b->ring);
	assert_int_equal(ringmap_open(&b->map, b->ring.fd, FAKERING_SIZE), 0);
}

static void close_both(struct both *b)
{
	ringmap_close(&b->map);
	fakering_close(&b->ring);
}

static void assert_next(struct both *b, uint64_t number)
{
	const struct sslc_event *ev = ringmap_first(&b->map);

	assert_non_null(ev);
	assert_true(ev->flow == number);
	ringmap_pop(&b->map);
}

static void test_events_come_in_order_around_the_end_of_the_memory(void **state)
{
	struct both b;
	uint64_t n = 0;

	(void)state;
	open_both(&b);
	for (unsigned round = 0; round < 300; round++) {
		uint32_t size = 24 + round * 37 % 3000;

		fakering_event(&b.ring, n, size);
		fakering_event(&b.ring, n + 1, 24);
		assert_next(&b, n++);
		assert_next(&b, n++);
		assert_null(ringmap_first(&b.map));
		ringmap_release(&b.map);
		assert_true(ringmap_taken(&b.map) == ringmap_put(&b.map));
	}
	assert_true(ringmap_put(&b.map) > 2 * FAKERING_SIZE);
	close_both(&b);
}

static void test_nothing_is_told_before_it_is_written(void **state)
{
	struct sslc_event ev = {.type = SSLC_EV_SOCK, .size = sizeof(ev), .flow = 7};
	uint32_t ready = sizeof(ev);
	struct both b;
	uint64_t at;

	(void)state;
	open_both(&b);
	at = fakering_put(&b.ring, &ev, sizeof(ev), BPF_RINGBUF_BUSY_BIT);
	fakering_event(&b.ring, 8, 24);
	assert_null(ringmap_first(&b.map));
	fakering_store(&b.ring, at, &ready, sizeof(ready));
	assert_next(&b, 7);
	assert_next(&b, 8);
	close_both(&b);
}

static void test_what_was_taken_back_or_is_no_event_is_passed_over(void **state)
{
	struct sslc_event liar = {.type = SSLC_EV_SOCK, .size = 4000, .flow = 9};
	struct sslc_event none = {.type = 0, .size = sizeof(none), .flow = 9};
	struct both b;

	(void)state;
	open_both(&b);
	fakering_put(&b.ring, &none, sizeof(none), BPF_RINGBUF_DISCARD_BIT);
	fakering_put(&b.ring, &none, 8, 0); /* less than a header */
	fakering_put(&b.ring, &none, sizeof(none), 0);
	fakering_put(&b.ring, &liar, sizeof(liar), 0); /* says that it is longer than its record */
	fakering_event(&b.ring, 1, 24);
	assert_next(&b, 1);
	assert_null(ringmap_first(&b.map));
	close_both(&b);
}

static void test_room_is_given_back_when_asked_or_when_it_is_much(void **state)
{
	struct both b;

	(void)state;
	open_both(&b);
	for (unsigned i = 0; i < 3; i++)
		fakering_event(&b.ring, i, 20000);
	for (unsigned i = 0; i < 3; i++)
		assert_next(&b, i);
	assert_true(ringmap_taken(&b.map) == 0);
	ringmap_release(&b.map);
	assert_true(ringmap_taken(&b.map) == ringmap_put(&b.map));
	for (unsigned i = 0; i < 3; i++)
		fakering_event(&b.ring, i, 21840);
	for (unsigned i = 0; i < 3; i++)
		assert_next(&b, i);
	assert_true(ringmap_taken(&b.map) == ringmap_put(&b.map));
	close_both(&b);
}

static void test_a_map_that_cannot_be_mapped_is_an_error(void **state)
{
	struct ringmap m;

	(void)state;
	assert_true(ringmap_open(&m, -1, FAKERING_SIZE) < 0);
	ringmap_close(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_events_come_in_order_around_the_end_of_the_memory),
		cmocka_unit_test(test_nothing_is_told_before_it_is_written),
		cmocka_unit_test(test_what_was_taken_back_or_is_no_event_is_passed_over),
		cmocka_unit_test(test_room_is_given_back_when_asked_or_when_it_is_much),
		cmocka_unit_test(test_a_map_that_cannot_be_mapped_is_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
