/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rings: the order of events in several rings; what holds it up, and what may not. And threads that
 * write while it reads: what one of them did after another one comes after it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <cmocka.h>

#include <pthread.h>

#include "fakering.h"
#include "rings.h"

#define RINGS 4u

struct several {
	struct fakering ring[RINGS];
	struct rings all;
};

static void setup(struct several *s)
{
	int fds[RINGS];

	for (unsigned i = 0; i < RINGS; i++) {
		fakering_open(&s->ring[i]);
		fds[i] = s->ring[i].fd;
	}
	assert_int_equal(rings_open(&s->all, fds, RINGS, FAKERING_SIZE), 0);
}

static void teardown(struct several *s)
{
	rings_close(&s->all);
	for (unsigned i = 0; i < RINGS; i++)
		fakering_close(&s->ring[i]);
}

static struct sslc_event event(uint64_t ts_ns, uint64_t number)
{
	return (struct sslc_event){
		.type = SSLC_EV_SOCK, .size = 24, .ts_ns = ts_ns, .flow = number};
}

static uint64_t put(struct several *s, unsigned ring, uint64_t ts_ns, uint64_t number)
{
	struct sslc_event ev = event(ts_ns, number);

	return fakering_put(&s->ring[ring], &ev, sizeof(ev), 0);
}

static uint64_t put_busy(struct several *s, unsigned ring, uint64_t ts_ns, uint64_t number)
{
	struct sslc_event ev = event(ts_ns, number);

	return fakering_put(&s->ring[ring], &ev, sizeof(ev), BPF_RINGBUF_BUSY_BIT);
}

static void put_discarded(struct several *s, unsigned ring)
{
	struct sslc_event ev = event(1, 0);

	fakering_put(&s->ring[ring], &ev, sizeof(ev), BPF_RINGBUF_DISCARD_BIT);
}

static void written(struct several *s, unsigned ring, uint64_t at)
{
	uint32_t ready = sizeof(struct sslc_event);

	fakering_store(&s->ring[ring], at, &ready, sizeof(ready));
}

static void assert_next(struct several *s, uint64_t number)
{
	const struct sslc_event *ev = rings_first(&s->all);

	assert_non_null(ev);
	assert_int_equal(ev->flow, number);
	rings_pop(&s->all);
}

static void test_events_come_by_their_time(void **state)
{
	struct several s;

	(void)state;
	setup(&s);
	put(&s, 2, 30, 3);
	put(&s, 0, 10, 1);
	put(&s, 2, 60, 6);
	put(&s, 1, 20, 2);
	put(&s, 0, 50, 5);
	put(&s, 1, 40, 4);
	for (uint64_t n = 1; n <= 6; n++)
		assert_next(&s, n);
	assert_null(rings_first(&s.all));
	assert_false(rings_passed(&s.all, (uint64_t[SSLC_RINGS_MAX]){64, 64, 64}));
	rings_release(&s.all);
	assert_true(rings_passed(&s.all, (uint64_t[SSLC_RINGS_MAX]){64, 64, 64}));
	assert_int_equal(rings_taken(&s.all), 6 * 32);
	assert_int_equal(rings_at(&s.all), 6 * 32);
	assert_true(rings_is_empty(&s.all));
	teardown(&s);
}

static void test_in_a_ring_the_order_is_its_own(void **state)
{
	struct several s;

	(void)state;
	setup(&s);
	put(&s, 0, 100, 2);
	put(&s, 0, 50, 3); /* its time was read early, its room taken late */
	put(&s, 1, 70, 1);
	put(&s, 1, 110, 4);
	for (uint64_t n = 1; n <= 4; n++)
		assert_next(&s, n);
	teardown(&s);
}

static void test_what_is_being_written_holds_all_others_up(void **state)
{
	struct several s;
	uint64_t at;

	(void)state;
	setup(&s);
	at = put_busy(&s, 1, 20, 2);
	put(&s, 0, 10, 1);
	put(&s, 3, 30, 3);
	assert_null(rings_first(&s.all));
	assert_false(rings_is_empty(&s.all));
	written(&s, 1, at);
	for (uint64_t n = 1; n <= 3; n++)
		assert_next(&s, n);
	teardown(&s);
}

static void test_what_was_taken_back_or_is_no_event_is_passed_over(void **state)
{
	struct several s;
	uint64_t at;

	(void)state;
	setup(&s);
	put_discarded(&s, 0);
	put_discarded(&s, 1);
	assert_null(rings_first(&s.all));
	put_discarded(&s, 0);
	put(&s, 3, 1, 1);
	put_discarded(&s, 3);
	at = put_busy(&s, 2, 2, 2);
	assert_null(rings_first(&s.all));
	written(&s, 2, at);
	assert_next(&s, 1);
	assert_next(&s, 2);
	assert_null(rings_first(&s.all));
	rings_release(&s.all);
	assert_int_equal(rings_used(&s.all), 0);
	teardown(&s);
}

static void test_what_comes_during_a_round_may_stay_for_the_next(void **state)
{
	struct several s;

	(void)state;
	setup(&s);
	put(&s, 0, 10, 1);
	put(&s, 1, 40, 4);
	assert_next(&s, 1);
	put(&s, 0, 20, 2); /* not seen yet: whoever wrote it knew nothing of number 4 */
	assert_next(&s, 4);
	assert_next(&s, 2);
	assert_null(rings_first(&s.all));
	teardown(&s);
}

static void test_a_round_that_ends_with_what_is_no_event_tells_nothing_of_the_next(void **state)
{
	uint32_t discarded = sizeof(struct sslc_event) | BPF_RINGBUF_DISCARD_BIT;
	struct several s;
	uint64_t at;

	(void)state;
	setup(&s);
	put_discarded(&s, 1);
	at = put_busy(&s, 0, 5, 0);
	put(&s, 1, 50, 2);
	assert_null(rings_first(&s.all));
	/* As if all but the first had come between the two looks, and others since. */
	s.all.until[0] = 0;
	s.all.until[1] = 32;
	fakering_store(&s.ring[0], at, &discarded, sizeof(discarded));
	put(&s, 2, 40, 1);
	assert_next(&s, 1);
	assert_next(&s, 2);
	teardown(&s);
}

static void test_the_fullest_ring_says_how_much_is_in_use(void **state)
{
	uint64_t marks[SSLC_RINGS_MAX];
	struct several s;

	(void)state;
	setup(&s);
	put(&s, 0, 10, 1);
	put(&s, 3, 20, 2);
	put(&s, 3, 30, 3);
	assert_int_equal(rings_used(&s.all), 64);
	rings_mark(&s.all, marks);
	put(&s, 3, 40, 4);
	for (uint64_t n = 1; n <= 3; n++) {
		assert_false(rings_passed(&s.all, marks));
		assert_next(&s, n);
		rings_release(&s.all);
	}
	assert_true(rings_passed(&s.all, marks));
	assert_false(rings_is_empty(&s.all));
	teardown(&s);
}

static void test_a_ring_that_cannot_be_mapped_is_an_error(void **state)
{
	struct fakering ring;
	struct rings all;

	(void)state;
	fakering_open(&ring);
	assert_true(rings_open(&all, (int[]){ring.fd, -1}, 2, FAKERING_SIZE) < 0);
	rings_close(&all);
	fakering_close(&ring);
}

static void test_how_many_there_are_follows_from_processors_and_memory(void **state)
{
	(void)state;
	assert_int_equal(rings_choose(1, 64 << 20), 1);
	assert_int_equal(rings_choose(4, 64 << 20), 1);
	assert_int_equal(rings_choose(5, 64 << 20), 2);
	assert_int_equal(rings_choose(8, 64 << 20), 2);
	assert_int_equal(rings_choose(9, 64 << 20), 4);
	assert_int_equal(rings_choose(16, 64 << 20), 4);
	assert_int_equal(rings_choose(17, 64 << 20), 8);
	assert_int_equal(rings_choose(512, 64 << 20), 8);
	assert_int_equal(rings_choose(512, 4 << 20), 4);
	assert_int_equal(rings_choose(512, 1 << 20), 1);
	assert_int_equal(rings_choose(-1, 64 << 20), 1);
}

/* --- threads ------------------------------------------------------------------------------------
 */

#define GROUPS     2u
#define MEMBERS    2u
#define EACH       40000u
#define ROOM       64u /* bytes of two events with their headers */
#define ROOM_TRIES 200000u

/* Its members do one thing after the other, as threads do that hand something on. */
struct group {
	pthread_mutex_t lock;
	uint64_t number;
};

struct world {
	struct several s;
	pthread_mutex_t lock[RINGS]; /* the kernel's */
	struct group group[GROUPS];
};

struct member {
	struct world *w;
	unsigned group;
	uint32_t random;
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint32_t next_random(uint32_t *random)
{
	return *random = *random * 1664525u + 1013904223u;
}

static void wait_for_room(struct fakering *r)
{
	for (unsigned i = 0; i < ROOM_TRIES; i++) {
		uint64_t taken = __atomic_load_n(fakering_consumer(r), __ATOMIC_ACQUIRE);

		if (*fakering_producer(r) + ROOM - taken <= FAKERING_SIZE)
			return;
		usleep(50);
	}
}

static void say(struct member *m)
{
	uint32_t random = next_random(&m->random) >> 8;
	struct group *g = &m->w->group[m->group];
	struct sslc_event ev;
	unsigned ring;

	pthread_mutex_lock(&g->lock);
	ev = event(now_ns(), g->number++ * GROUPS + m->group);
	ring = random % RINGS;
	if (random % 64 == 0)
		usleep(1); /* between its time and its room */
	pthread_mutex_lock(&m->w->lock[ring]);
	wait_for_room(&m->w->s.ring[ring]);
	if (random / 64 % 4 == 0)
		put_discarded(&m->w->s, ring);
	fakering_put(&m->w->s.ring[ring], &ev, sizeof(ev), 0);
	pthread_mutex_unlock(&m->w->lock[ring]);
	pthread_mutex_unlock(&g->lock);
}

static void *speak(void *ctx)
{
	struct member *m = ctx;

	for (unsigned i = 0; i < EACH; i++)
		say(m);
	return NULL;
}

static void test_what_happened_after_something_comes_after_it(void **state)
{
	uint64_t next[GROUPS] = {0}, end_ns = now_ns() + 50000000000u, n = 0;
	pthread_t threads[GROUPS * MEMBERS];
	static struct member members[GROUPS * MEMBERS];
	static struct world w;
	unsigned taken = 0;

	(void)state;
	setup(&w.s);
	for (unsigned i = 0; i < RINGS; i++)
		pthread_mutex_init(&w.lock[i], NULL);
	for (unsigned i = 0; i < GROUPS; i++)
		pthread_mutex_init(&w.group[i].lock, NULL);
	for (unsigned i = 0; i < GROUPS * MEMBERS; i++) {
		members[i] = (struct member){.w = &w, .group = i % GROUPS, .random = i};
		assert_int_equal(pthread_create(&threads[i], NULL, speak, &members[i]), 0);
	}
	while (n < GROUPS * MEMBERS * EACH && now_ns() < end_ns) {
		const struct sslc_event *ev = rings_first(&w.s.all);

		if (!ev) {
			rings_release(&w.s.all);
			sched_yield();
			continue;
		}
		assert_int_equal(ev->flow / GROUPS, next[ev->flow % GROUPS]++);
		rings_pop(&w.s.all);
		n++;
		if (++taken % 100 == 0)
			rings_release(&w.s.all);
	}
	assert_int_equal(n, GROUPS * MEMBERS * EACH);
	for (unsigned i = 0; i < GROUPS * MEMBERS; i++)
		pthread_join(threads[i], NULL);
	teardown(&w.s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_events_come_by_their_time),
		cmocka_unit_test(test_in_a_ring_the_order_is_its_own),
		cmocka_unit_test(test_what_is_being_written_holds_all_others_up),
		cmocka_unit_test(test_what_was_taken_back_or_is_no_event_is_passed_over),
		cmocka_unit_test(test_what_comes_during_a_round_may_stay_for_the_next),
		cmocka_unit_test(
			test_a_round_that_ends_with_what_is_no_event_tells_nothing_of_the_next),
		cmocka_unit_test(test_the_fullest_ring_says_how_much_is_in_use),
		cmocka_unit_test(test_a_ring_that_cannot_be_mapped_is_an_error),
		cmocka_unit_test(test_how_many_there_are_follows_from_processors_and_memory),
		cmocka_unit_test(test_what_happened_after_something_comes_after_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
