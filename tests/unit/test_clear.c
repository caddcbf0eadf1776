/* SPDX-License-Identifier: Apache-2.0 */
/* clear: what is kept of conversations before TLS (preload/clear.c), on true connections. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "preload.h"

/* --- what it needs of the rest of the library ---------------------------------------------------
 */

static struct sslc_shim_ring ring = {.gen = 1, .flags = SSLC_SHIM_CLEAR};
static struct own own = {.ring = &ring};
struct own *shim_own = &own;
bool shim_is_sandboxed;

static uint8_t told[2][SSLC_SHIM_CLEAR_MAX];
static uint64_t n_told[2];
static _Atomic uint64_t now;
static uint64_t order[1024]; /* of the parts: bytes, and the direction in the lowest bit */
static unsigned n_order;

uint32_t ring_watched(uint64_t *now_ns)
{
	*now_ns = ++now;
	return 1;
}

bool ring_put_bytes(const struct sslc_shim_rec *rec, const void *bytes, uint64_t len)
{
	static uint64_t ts_ns;

	assert_int_equal(rec->pos, n_told[rec->dir]);
	assert_true(len && len <= SSLC_SHIM_CLEAR_MAX - rec->pos);
	memcpy(told[rec->dir] + rec->pos, bytes, len);
	n_told[rec->dir] += len;
	if (!n_order || ts_ns != rec->ts_ns)
		order[n_order++] = rec->dir;
	ts_ns = rec->ts_ns;
	order[n_order - 1] += 2 * len;
	return true;
}

/* --- conversations ------------------------------------------------------------------------------
 */

static __thread uint64_t noise = 1;

static uint64_t draw(uint64_t below)
{
	noise = noise * 6364136223846793005ull + 1442695040888963407ull;
	return (noise >> 33) % below;
}

struct talk_ends {
	int near, far;
	uint8_t said[2][SSLC_SHIM_CLEAR_MAX];
	size_t n[2];
};

static void connect_both(struct talk_ends *t)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	int l = socket(AF_INET, SOCK_STREAM, 0);
	socklen_t len = sizeof(a);

	memset(t, 0, sizeof(*t));
	t->near = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(bind(l, (void *)&a, len) | listen(l, 1), 0);
	assert_int_equal(getsockname(l, (void *)&a, &len) | connect(t->near, (void *)&a, len), 0);
	t->far = accept(l, NULL, NULL);
	setsockopt(t->near, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
	setsockopt(t->far, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
	close(l);
	clear_fresh(t->near, true);
}

static void hang_up(struct talk_ends *t)
{
	clear_gone(t->near);
	close(t->near);
	close(t->far);
}

static bool is_hello(const uint8_t *p)
{
	return p[0] == 22;
}

/* What the library sees of it: in at most three pieces of memory; a hello in one. */
static void see(struct talk_ends *t, enum sslc_dir dir, uint8_t *p, size_t n)
{
	size_t a = is_hello(p) ? n : draw(n + 1), b = draw(n + 1 - a);
	struct iovec v[3] = {{p, a}, {p + a, b}, {p + a + b, n - a - b}};

	if (shim_clear[t->near])
		clear_op(t->near, dir, v, 3, n);
}

static void say(struct talk_ends *t, enum sslc_dir dir, const uint8_t *p, size_t n)
{
	int from = dir == SSLC_DIR_OUT ? t->near : t->far,
	    to = dir == SSLC_DIR_OUT ? t->far : t->near;
	uint8_t got[SSLC_SHIM_CLEAR_MAX];

	assert_int_equal(send(from, p, n, 0), n);
	assert_int_equal(recv(to, got, n, MSG_WAITALL), n);
	see(t, dir, got, n);
}

static void say_something(struct talk_ends *t, enum sslc_dir dir, size_t n)
{
	uint8_t *p = t->said[dir] + t->n[dir];

	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)('a' + draw(26));
	say(t, dir, p, n);
	t->n[dir] += n;
}

/* TLS begins. False: it is not told. */
static bool begin_tls(struct talk_ends *t)
{
	static const uint8_t hello[] = {22, 3, 1, 0, 1, 1};

	say(t, SSLC_DIR_OUT, hello, sizeof(hello));
	n_told[0] = n_told[1] = n_order = 0;
	return clear_tell(t->near, 1, 1);
}

static void assert_told(const struct talk_ends *t)
{
	for (int d = 0; d < 2; d++) {
		assert_int_equal(n_told[d], t->n[d]);
		assert_memory_equal(told[d], t->said[d], t->n[d]);
	}
}

static int set_up(void **state)
{
	(void)state;
	clear_init();
	return 0;
}

static void test_talks_of_any_size_are_told_as_they_were(void **state)
{
	struct talk_ends t;

	(void)state;
	for (int round = 0; round < 30; round++) {
		uint64_t want[1024];
		unsigned n_want = 0;
		size_t most = round % 3 == 0 ? 3 : round % 3 == 1 ? 200 : 5000;

		connect_both(&t);
		for (int i = 0; i < 300; i++) {
			enum sslc_dir dir = (enum sslc_dir)draw(2);
			size_t n = 1 + draw(most);

			if (n > SSLC_SHIM_CLEAR_MAX - t.n[dir])
				continue;
			say_something(&t, dir, n);
			if (!n_want || (want[n_want - 1] & 1) != (uint64_t)dir)
				want[n_want++] = (uint64_t)dir;
			want[n_want - 1] += 2 * n;
		}
		assert_true(begin_tls(&t));
		assert_told(&t);
		assert_int_equal(n_order, n_want);
		assert_memory_equal(order, want, n_want * sizeof(*want));
		hang_up(&t);
	}
}

static void test_what_is_too_long_is_not_told_and_leaves_no_trace(void **state)
{
	struct talk_ends t;

	(void)state;
	for (int round = 0; round < 3; round++) {
		connect_both(&t);
		for (int i = 0; i < 16; i++)
			say_something(&t, SSLC_DIR_IN, 1024);
		t.n[SSLC_DIR_IN] = 0;
		say_something(&t, SSLC_DIR_IN, 1);
		assert_false(begin_tls(&t));
		assert_int_equal(n_told[0] + n_told[1], 0);
		hang_up(&t);
	}
}

static void
test_when_memory_is_used_up_later_ones_are_not_told_and_then_it_is_there_again(void **state)
{
	enum { MANY = 300 };
	static struct talk_ends t[MANY];
	unsigned whole = 0;

	(void)state;
	for (int round = 0; round < 2; round++, whole = 0) {
		for (int i = 0; i < MANY; i++) {
			connect_both(&t[i]);
			for (int k = 0; k < 14; k++) {
				say_something(&t[i], SSLC_DIR_IN, 1024);
				say_something(&t[i], SSLC_DIR_OUT, 1024);
			}
		}
		for (int i = 0; i < MANY; i++) {
			if (begin_tls(&t[i])) {
				assert_told(&t[i]);
				whole++;
			}
			hang_up(&t[i]);
		}
		/* 7 MB of 2 KB each, and 15 of them for 28 KB and 28 parts */
		assert_in_range(whole, 220, 250);
	}
}

static void *talk_all_the_time(void *result)
{
	struct talk_ends *t = calloc(1, sizeof(*t));
	static const uint8_t hello[] = {22, 3, 1, 0, 1, 1};

	for (int i = 0; i < 200; i++) {
		connect_both(t);
		for (int k = 0; k < 12; k++)
			say_something(t, (enum sslc_dir)(k % 2), 1000);
		say(t, SSLC_DIR_OUT, hello, sizeof(hello));
		*(unsigned *)result += (shim_clear[t->near] & 0x80000000u) != 0;
		hang_up(t);
	}
	free(t);
	return NULL;
}

static void test_threads_share_the_memory(void **state)
{
	unsigned whole[4] = {0};
	pthread_t thread[4];

	(void)state;
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, talk_all_the_time, &whole[i]), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	for (int i = 0; i < 4; i++)
		assert_int_equal(whole[i], 200);
	test_when_memory_is_used_up_later_ones_are_not_told_and_then_it_is_there_again(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_talks_of_any_size_are_told_as_they_were),
		cmocka_unit_test(test_what_is_too_long_is_not_told_and_leaves_no_trace),
		cmocka_unit_test(
			test_when_memory_is_used_up_later_ones_are_not_told_and_then_it_is_there_again),
		cmocka_unit_test(test_threads_share_the_memory),
	};
	struct rlimit files;

	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max < 2048 ? files.rlim_max : 2048;
	setrlimit(RLIMIT_NOFILE, &files);
	return cmocka_run_group_tests(tests, set_up, NULL);
}
