/* SPDX-License-Identifier: Apache-2.0 */
/* chute: parcels of one thread in, the same out in another, in order, whatever their sizes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "crew/chute.h"

#define SIZE    (64u << 10)
#define LARGEST (SIZE / 4)
#define MANY    20000u
#define FIT     3u /* of the largest */

static int told_fd;
static struct chute *chute;

static int setup(void **state)
{
	(void)state;
	told_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return told_fd < 0 ? -1 : chute_new(&chute, SIZE, told_fd);
}

static int teardown(void **state)
{
	(void)state;
	chute_free(chute);
	close(told_fd);
	return 0;
}

static size_t len_of(unsigned i)
{
	return (i * 2654435761u >> 8) % (i % 7 ? 300 : LARGEST);
}

static void put(unsigned i)
{
	uint8_t *at = chute_room(chute, LARGEST);
	size_t len = len_of(i);

	memset(at, (int)(i & 0xff), len);
	chute_put(chute, i + 1, &chute, len);
}

static bool is_whole(const struct parcel *p, unsigned i)
{
	bool same = p->what == i + 1 && p->to == &chute && p->body.len == len_of(i);

	for (size_t n = 0; same && n < p->body.len; n++)
		same = p->body.p[n] == (i & 0xff);
	return same;
}

static void *take_many(void *ctx)
{
	unsigned *good = ctx;
	struct parcel p;

	for (unsigned i = 0; i < MANY;) {
		if (!chute_take(chute, &p)) {
			chute_done(chute);
			chute_sleep(chute, NS_PER_S);
			continue;
		}
		*good += is_whole(&p, i++);
		if (i % 5 == 0)
			chute_done(chute);
	}
	chute_done(chute);
	return NULL;
}

static void test_parcels_arrive_in_order_and_none_is_lost_when_it_is_full(void **state)
{
	pthread_t thread;
	unsigned good = 0;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, take_many, &good), 0);
	for (unsigned i = 0; i < MANY; i++)
		put(i);
	pthread_join(thread, NULL);
	assert_int_equal(good, MANY);
	assert_true(chute_is_past(chute, chute_position(chute)));
}

static void *put_until_full(void *ctx)
{
	for (unsigned i = 0; i < 8; i++) { /* each a quarter and its head */
		uint8_t *at = chute_room(chute, LARGEST);

		memset(at, 1, LARGEST);
		chute_put(chute, 1, NULL, LARGEST);
		__atomic_add_fetch((unsigned *)ctx, 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

static void test_who_puts_waits_until_what_was_taken_is_done_with(void **state)
{
	pthread_t thread;
	struct parcel p;
	unsigned n_put = 0;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, put_until_full, &n_put), 0);
	for (unsigned ms = 0; ms < 10000 && __atomic_load_n(&n_put, __ATOMIC_SEQ_CST) < FIT; ms++)
		usleep(1000);
	usleep(20000);
	for (unsigned i = 0; i < FIT; i++)
		assert_true(chute_take(chute, &p));
	assert_false(chute_take(chute, &p));
	usleep(20000);
	assert_int_equal(__atomic_load_n(&n_put, __ATOMIC_SEQ_CST), FIT); /* taken, not done */
	for (unsigned i = FIT; i < 8; i++) {
		chute_done(chute);
		while (!chute_take(chute, &p))
			chute_sleep(chute, NS_PER_S);
	}
	pthread_join(thread, NULL);
	assert_int_equal(n_put, 8);
}

static bool is_told(void)
{
	struct pollfd p = {.fd = told_fd, .events = POLLIN};

	return poll(&p, 1, 0) > 0;
}

static void test_who_asks_is_told_once_it_is_done_and_not_before(void **state)
{
	struct parcel p;
	uint64_t at;

	(void)state;
	put(1);
	at = chute_position(chute);
	put(2);
	assert_true(chute_want(chute, at));
	assert_false(is_told());
	assert_true(chute_take(chute, &p));
	assert_false(is_told());
	assert_false(chute_is_past(chute, at));
	chute_done(chute);
	assert_true(chute_is_past(chute, at));
	assert_true(is_told());
	assert_false(chute_want(chute, at));
	assert_false(chute_is_past(chute, chute_position(chute)));
}

static void test_a_wake_before_the_sleep_counts(void **state)
{
	uint64_t began = clock_mono_ns();

	(void)state;
	chute_wake(chute);
	chute_sleep(chute, 5 * NS_PER_S);
	assert_true(clock_mono_ns() - began < 4 * NS_PER_S);
	began = clock_mono_ns();
	chute_sleep(chute, 20 * NS_PER_MS);
	assert_true(clock_mono_ns() - began >= 19 * NS_PER_MS);
}

static void test_memory_that_nothing_lies_in_is_overwritten(void **state)
{
	uint8_t *at = chute_room(chute, 8);
	struct parcel p;

	(void)state;
	memcpy(at, "plain", 5);
	chute_put(chute, 1, NULL, 5);
	assert_true(chute_take(chute, &p));
	chute_tidy(chute);
	assert_memory_equal(p.body.p, "plain", 5); /* not done with */
	chute_done(chute);
	chute_tidy(chute);
	assert_memory_equal(at, "\0\0\0\0\0", 5);
	put(1);
	assert_true(chute_take(chute, &p));
	assert_true(is_whole(&p, 1));
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_parcels_arrive_in_order_and_none_is_lost_when_it_is_full),
		T(test_who_puts_waits_until_what_was_taken_is_done_with),
		T(test_who_asks_is_told_once_it_is_done_and_not_before),
		T(test_a_wake_before_the_sleep_counts),
		T(test_memory_that_nothing_lies_in_is_overwritten),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
