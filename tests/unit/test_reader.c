/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reader: order across the rings and the queue, whoever of the two threads took an event; what the
 * kernel half is told before a rest, and that a rest ends.
 */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <cmocka.h>

#include "fakering.h"
#include "reader.h"

#define RINGS 2u

struct fixture {
	struct fakering ring[RINGS]; /* one is used unless a test says otherwise */
	unsigned n_rings;
	struct sslc_rings shared;
	int epoll_fd, wake_fd;
	struct reader *r;
	uint64_t put, got; /* numbers of events */
};

static void setup_with(struct fixture *f, unsigned n_rings)
{
	int ring_fds[RINGS], wake_fds[RINGS];

	*f = (struct fixture){.epoll_fd = epoll_create1(EPOLL_CLOEXEC),
			      .wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
	f->n_rings = n_rings;
	for (unsigned i = 0; i < n_rings; i++) {
		fakering_open(&f->ring[i]);
		ring_fds[i] = f->ring[i].fd;
		wake_fds[i] = i == n_rings - 1 ? f->wake_fd : eventfd(0, EFD_CLOEXEC);
	}
	struct reader_conf conf = {.n_rings = n_rings,
				   .ring_fds = ring_fds,
				   .wake_fds = wake_fds,
				   .ring_bytes = FAKERING_SIZE,
				   .queue_bytes = 64 << 10,
				   .rings = &f->shared,
				   .epoll_fd = f->epoll_fd};

	assert_int_equal(reader_start(&f->r, &conf), 0);
	for (unsigned i = 0; i + 1 < n_rings; i++)
		close(wake_fds[i]);
}

static void setup(struct fixture *f)
{
	setup_with(f, 1);
}

static void teardown(struct fixture *f)
{
	reader_free(f->r);
	for (unsigned i = 0; i < f->n_rings; i++)
		fakering_close(&f->ring[i]);
	close(f->epoll_fd);
	close(f->wake_fd);
}

static void put(struct fixture *f, unsigned n, uint32_t size)
{
	while (n--) {
		struct fakering *to = &f->ring[f->put * 7 / 3 % f->n_rings];

		fakering_event_at(to, f->put + 1, f->put, size);
		f->put++;
	}
}

static void on_event(void *ctx, const struct sslc_event *ev)
{
	struct fixture *f = ctx;

	assert_true(ev->flow == f->got);
	f->got++;
}

static bool is_due(struct fixture *f, int ms)
{
	struct pollfd p = {.fd = f->epoll_fd, .events = POLLIN};
	struct epoll_event ev[4];
	bool due = poll(&p, 1, ms) == 1;

	(void)epoll_wait(f->epoll_fd, ev, 4, 0); /* clears the edge */
	return due;
}

static void test_rests_get_short_and_then_long_when_nothing_comes(void **state)
{
	struct reader_stats stats;
	struct fixture f;

	(void)state;
	setup(&f);
	put(&f, 3, 100);
	assert_int_equal(reader_take(f.r, 100, on_event, &f), 3);
	assert_int_equal(f.shared.reader, SSLC_READER_NAPS);
	for (unsigned i = 0; i < 2; i++) {
		assert_true(is_due(&f, 1000));
		assert_int_equal(f.shared.reader, SSLC_READER_NAPS);
		assert_int_equal(reader_take(f.r, 100, on_event, &f), 0);
	}
	assert_int_equal(reader_take(f.r, 100, on_event, &f), 0);
	assert_int_equal(f.shared.reader, SSLC_READER_SLEEPS);
	assert_false(is_due(&f, 100));
	assert_int_equal(eventfd_write(f.wake_fd, 1), 0); /* as the kernel half does */
	assert_true(is_due(&f, 1000));
	reader_stats(f.r, &stats);
	assert_int_equal(stats.events, 3);
	assert_int_equal(stats.sleeps, 1);
	teardown(&f);
}

static void test_what_came_on_the_way_to_sleep_is_looked_at_soon(void **state)
{
	struct fixture f;

	(void)state;
	setup(&f);
	for (unsigned i = 0; i < 5; i++)
		(void)reader_take(f.r, 100, on_event, &f);
	/* Being written: not told yet, but whoever writes it did not see that we sleep. */
	fakering_put(&f.ring[0], &f, 24, BPF_RINGBUF_BUSY_BIT);
	assert_int_equal(reader_take(f.r, 100, on_event, &f), 0);
	assert_int_equal(f.shared.reader, SSLC_READER_NAPS);
	assert_true(is_due(&f, 1000));
	teardown(&f);
}

static void test_a_batch_that_is_full_leaves_no_rest(void **state)
{
	struct fixture f;

	(void)state;
	setup(&f);
	put(&f, 10, 100);
	assert_int_equal(reader_take(f.r, 6, on_event, &f), 6);
	assert_int_equal(f.shared.reader, SSLC_READER_AWAKE);
	assert_int_equal(reader_take(f.r, 6, on_event, &f), 4);
	assert_int_equal(f.shared.reader, SSLC_READER_NAPS);
	teardown(&f);
}

static void away(unsigned n_rings)
{
	struct reader_stats stats = {0};
	struct fixture f;

	setup_with(&f, n_rings);
	put(&f, 5, 1000);
	assert_int_equal(reader_take(f.r, 2, on_event, &f), 2);
	for (unsigned round = 0; round < 20; round++) {
		reader_away(f.r);
		put(&f, 20, 1000);
		for (unsigned i = 0; i < 2000 && !stats.queue_used; i++) {
			usleep(1000);
			reader_stats(f.r, &stats);
		}
		assert_true(stats.queue_used > 0);
		put(&f, 3, 1000);
		reader_back(f.r);
		put(&f, 3, 1000);
		assert_true(is_due(&f, 1000));
		(void)reader_take(f.r, 10, on_event, &f);
		(void)reader_take(f.r, 100, on_event, &f);
		assert_true(f.got == f.put);
		reader_stats(f.r, &stats);
		assert_true(stats.queue_used == 0 && stats.ring_used == 0);
	}
	teardown(&f);
}

static void test_while_the_main_thread_is_away_events_go_on_in_their_order(void **state)
{
	(void)state;
	away(1);
}

static void test_so_they_do_in_several_rings(void **state)
{
	(void)state;
	away(2);
}

static void test_any_ring_wakes_and_the_fullest_one_counts(void **state)
{
	struct reader_stats stats;
	struct fixture f;

	(void)state;
	setup_with(&f, 2);
	for (unsigned i = 0; i < 5; i++)
		(void)reader_take(f.r, 100, on_event, &f);
	assert_int_equal(f.shared.reader, SSLC_READER_SLEEPS);
	(void)is_due(&f, 10);
	assert_int_equal(eventfd_write(f.wake_fd, 1), 0); /* of the second one */
	assert_true(is_due(&f, 1000));
	fakering_event_at(&f.ring[1], 1, 0, 100);
	f.shared.ring[0].high = 500;
	f.shared.ring[1].high = 700;
	reader_stats(f.r, &stats);
	assert_int_equal(stats.ring_used, 112);
	assert_int_equal(stats.ring_high, 700);
	assert_int_equal(reader_take(f.r, 100, on_event, &f), 1);
	/* On the way to sleep something comes into the second one alone. */
	for (unsigned i = 0; i < 4; i++)
		(void)reader_take(f.r, 100, on_event, &f);
	fakering_put(&f.ring[1], &f, 24, BPF_RINGBUF_BUSY_BIT);
	assert_int_equal(reader_take(f.r, 100, on_event, &f), 0);
	assert_int_equal(f.shared.reader, SSLC_READER_NAPS);
	teardown(&f);
}

static void test_when_nobody_looks_the_second_thread_does(void **state)
{
	struct reader_stats stats = {0};
	struct fixture f;

	(void)state;
	setup(&f);
	put(&f, 10, 100);
	assert_int_equal(reader_take(f.r, 100, on_event, &f), 10);
	put(&f, 50, 1000);
	for (unsigned i = 0; i < 2000 && !stats.queue_used; i++) {
		usleep(1000);
		reader_stats(f.r, &stats);
	}
	assert_true(stats.queue_used > 0);
	assert_true(is_due(&f, 1000));
	put(&f, 5, 1000);
	assert_int_equal(reader_take(f.r, 100, on_event, &f), 55);
	assert_true(f.got == f.put);
	teardown(&f);
}

static void at_the_end(unsigned n_rings)
{
	struct fixture f;

	setup_with(&f, n_rings);
	put(&f, 10, 1000);
	reader_away(f.r);
	while (!reader_finish(f.r))
		(void)reader_take(f.r, 3, on_event, &f);
	while (reader_take(f.r, 3, on_event, &f))
		;
	assert_true(f.got == 10);
	teardown(&f);
}

static void test_at_the_end_nothing_is_left(void **state)
{
	(void)state;
	at_the_end(1);
	at_the_end(2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rests_get_short_and_then_long_when_nothing_comes),
		cmocka_unit_test(test_what_came_on_the_way_to_sleep_is_looked_at_soon),
		cmocka_unit_test(test_a_batch_that_is_full_leaves_no_rest),
		cmocka_unit_test(test_while_the_main_thread_is_away_events_go_on_in_their_order),
		cmocka_unit_test(test_so_they_do_in_several_rings),
		cmocka_unit_test(test_any_ring_wakes_and_the_fullest_one_counts),
		cmocka_unit_test(test_when_nobody_looks_the_second_thread_does),
		cmocka_unit_test(test_at_the_end_nothing_is_left),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
