/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reader: order across the ring and the queue, whoever of the two threads took an event; what the
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

struct fixture {
	struct fakering ring;
	struct sslc_ring shared;
	int epoll_fd, wake_fd;
	struct reader *r;
	uint64_t put, got; /* numbers of events */
};

static void setup(struct fixture *f)
{
	*f = (struct fixture){.epoll_fd = epoll_create1(EPOLL_CLOEXEC),
			      .wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
	fakering_open(&f->ring);
	struct reader_conf conf = {.ring_fd = f->ring.fd,
				   .wake_fd = f->wake_fd,
				   .ring_bytes = FAKERING_SIZE,
				   .queue_bytes = 64 << 10,
				   .ring = &f->shared,
				   .epoll_fd = f->epoll_fd};

	assert_int_equal(reader_start(&f->r, &conf), 0);
}

static void teardown(struct fixture *f)
{
	reader_free(f->r);
	fakering_close(&f->ring);
	close(f->epoll_fd);
	close(f->wake_fd);
}

static void put(struct fixture *f, unsigned n, uint32_t size)
{
	while (n--)
		fakering_event(&f->ring, f->put++, size);
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
	fakering_put(&f.ring, &f, 24, BPF_RINGBUF_BUSY_BIT);
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

static void test_while_the_main_thread_is_away_events_go_on_in_their_order(void **state)
{
	struct reader_stats stats = {0};
	struct fixture f;

	(void)state;
	setup(&f);
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

static void test_at_the_end_nothing_is_left(void **state)
{
	struct fixture f;

	(void)state;
	setup(&f);
	put(&f, 10, 1000);
	reader_away(f.r);
	while (!reader_finish(f.r))
		(void)reader_take(f.r, 3, on_event, &f);
	while (reader_take(f.r, 3, on_event, &f))
		;
	assert_true(f.got == 10);
	teardown(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rests_get_short_and_then_long_when_nothing_comes),
		cmocka_unit_test(test_what_came_on_the_way_to_sleep_is_looked_at_soon),
		cmocka_unit_test(test_a_batch_that_is_full_leaves_no_rest),
		cmocka_unit_test(test_while_the_main_thread_is_away_events_go_on_in_their_order),
		cmocka_unit_test(test_when_nobody_looks_the_second_thread_does),
		cmocka_unit_test(test_at_the_end_nothing_is_left),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
