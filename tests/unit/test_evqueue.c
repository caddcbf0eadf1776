/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "evqueue.h"

#define ROOM_MAX 16384

static union {
	struct sslc_ev_data ev;
	uint8_t room[sizeof(struct sslc_ev_data) + ROOM_MAX];
} one;

/* Bytes of an event that is told apart by n, and of which all bytes follow from n. */
static uint32_t len_of(uint64_t n)
{
	return (uint32_t)((n * 2654435761u) >> 7) % ROOM_MAX + 1;
}

static size_t fill(uint64_t n)
{
	uint32_t len = len_of(n);

	one.ev.ev.type = SSLC_EV_DATA;
	one.ev.ev.size = (uint32_t)sizeof(one.ev) + ROOM_MAX;
	one.ev.ev.ts_ns = n;
	one.ev.len = len;
	memset(one.ev.data, (int)(n & 0xff), len);
	return sizeof(one.ev) + len;
}

static void assert_is(const struct sslc_event *ev, uint64_t n)
{
	const struct sslc_ev_data *d = (const void *)ev;

	assert_non_null(ev);
	assert_int_equal(ev->ts_ns, n);
	assert_int_equal(ev->size, sizeof(*d) + len_of(n));
	assert_int_equal(d->len, len_of(n));
	assert_int_equal(d->data[0], n & 0xff);
	assert_memory_equal(d->data, d->data + d->len / 2, d->len - d->len / 2);
}

static void test_sizes_that_are_no_power_of_two_are_refused(void **state)
{
	struct evqueue *q = NULL;

	(void)state;
	assert_int_equal(evqueue_new(&q, EVQUEUE_MIN / 2), -EINVAL);
	assert_int_equal(evqueue_new(&q, EVQUEUE_MIN + 8), -EINVAL);
	assert_null(q);
}

static void test_what_was_put_is_taken_in_order_however_it_wraps(void **state)
{
	struct evqueue *q;
	uint64_t put = 0, taken = 0;

	(void)state;
	assert_int_equal(evqueue_new(&q, EVQUEUE_MIN), 0);
	for (int round = 0; round < 2000; round++) {
		while (evqueue_fits(q, sizeof(one))) {
			size_t used = fill(put++);

			if (put % 2) /* its last bytes stand elsewhere */
				evqueue_put_pieces(q, &one.ev.ev, used - put % 9,
						   (uint8_t *)&one + used - put % 9, put % 9);
			else
				evqueue_put(q, &one.ev.ev, used);
		}
		evqueue_publish(q);
		for (uint64_t stop = taken + 1 + put % 3; taken < stop && taken < put; taken++) {
			assert_is(evqueue_first(q), taken);
			evqueue_pop(q);
		}
	}
	assert_true(put > 2000 && evqueue_high(q) <= EVQUEUE_MIN);
	for (; taken < put; taken++) {
		assert_is(evqueue_first(q), taken);
		evqueue_pop(q);
	}
	assert_null(evqueue_first(q));
	assert_int_equal(evqueue_used(q), 0);
	evqueue_free(q);
}

static void test_nothing_is_seen_before_it_is_published(void **state)
{
	struct evqueue *q;

	(void)state;
	assert_int_equal(evqueue_new(&q, EVQUEUE_MIN), 0);
	evqueue_put(q, &one.ev.ev, fill(7));
	assert_null(evqueue_first(q));
	evqueue_publish(q);
	assert_is(evqueue_first(q), 7);
	assert_is(evqueue_first(q), 7);
	evqueue_pop(q);
	assert_null(evqueue_first(q));
	evqueue_free(q);
}

static void test_an_idle_queue_uses_half_of_its_memory(void **state)
{
	const size_t size = 1u << 20;
	const void *lowest = NULL, *highest = NULL;
	struct evqueue *q;

	(void)state;
	assert_int_equal(evqueue_new(&q, size), 0);
	for (uint64_t n = 0; n < 1000; n++) {
		const struct sslc_event *ev;

		evqueue_put(q, &one.ev.ev, fill(n));
		evqueue_publish(q);
		ev = evqueue_first(q);
		assert_is(ev, n);
		lowest = !lowest || (const void *)ev < lowest ? ev : lowest;
		highest = (const void *)ev > highest ? ev : highest;
		evqueue_pop(q);
	}
	assert_true((const uint8_t *)highest - (const uint8_t *)lowest <= (long)(size / 2));
	assert_true(evqueue_high(q) <= sizeof(one));
	evqueue_free(q);
}

#define CROSSING 200000

static void *put_all(void *ctx)
{
	struct evqueue *q = ctx;

	for (uint64_t n = 0; n < CROSSING;) {
		if (!evqueue_fits(q, sizeof(one))) {
			evqueue_publish(q);
			sched_yield();
			continue;
		}
		evqueue_put(q, &one.ev.ev, fill(n++));
		if (n % 5 == 0)
			evqueue_publish(q);
	}
	evqueue_publish(q);
	return NULL;
}

static void test_events_cross_between_threads_whole_and_in_order(void **state)
{
	const struct sslc_event *ev;
	struct evqueue *q;
	pthread_t thread;

	(void)state;
	assert_int_equal(evqueue_new(&q, EVQUEUE_MIN), 0);
	assert_int_equal(pthread_create(&thread, NULL, put_all, q), 0);
	for (uint64_t n = 0; n < CROSSING;) {
		ev = evqueue_first(q);
		if (!ev) {
			sched_yield();
			continue;
		}
		assert_is(ev, n++);
		evqueue_pop(q);
	}
	pthread_join(thread, NULL);
	assert_null(evqueue_first(q));
	evqueue_free(q);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes_that_are_no_power_of_two_are_refused),
		cmocka_unit_test(test_what_was_put_is_taken_in_order_however_it_wraps),
		cmocka_unit_test(test_nothing_is_seen_before_it_is_published),
		cmocka_unit_test(test_an_idle_queue_uses_half_of_its_memory),
		cmocka_unit_test(test_events_cross_between_threads_whole_and_in_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
