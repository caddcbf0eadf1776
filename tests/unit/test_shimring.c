/* SPDX-License-Identifier: Apache-2.0 */
/* shimring: the library's writer (preload/ring.c) and the agent's reader meet in one process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "preload.h"
#include "preloaded/shimring.h"

#define SIZE SSLC_SHIM_DATA_MIN

/* --- what the writer needs of the rest of the library -------------------------------------------
 */

__thread struct thread shim_thread;
uint8_t shim_bound[SSLC_SHIM_FDS];
uint32_t shim_gen[SSLC_SHIM_FDS];
static int announced = -1;

uint64_t link_ring_size(void)
{
	return SIZE;
}

uint64_t link_run_dir(void)
{
	return sslc_shim_hash("/run/sslcollector");
}

int link_socket(void)
{
	return dup(0);
}

bool link_announce(int s, int memfd, uint64_t data_size)
{
	close(s);
	if (announced >= 0)
		close(announced);
	announced = dup(memfd);
	return data_size == SIZE;
}

/* A ring of this process's own, as a freshly forked child would make it. */
static void begin(struct shimring *r)
{
	memset(shim_bound, 0, sizeof(shim_bound));
	shim_own->was_tried = false;
	ring_set_up();
	assert_non_null(shim_own->ring);
	assert_int_equal(shimring_map(r, announced, SIZE), 0);
}

static struct shimring_record got;

static bool next(struct shimring *r, uint64_t now_ns)
{
	bool is = shimring_next(r, now_ns, false, &got);

	shimring_release(r);
	return is;
}

static struct sslc_shim_rec data_of(uint64_t obj, uint64_t pos)
{
	return (struct sslc_shim_rec){
		.type = SSLC_SHIM_DATA_BYTES, .dir = SSLC_DIR_OUT, .obj = obj, .pos = pos};
}

/* --- one thread ---------------------------------------------------------------------------------
 */

static void test_what_goes_in_comes_out(void **state)
{
	struct sslc_shim_rec rec = data_of(7, 100), bind = {.type = SSLC_SHIM_BIND, .fd = 3};
	static uint8_t bytes[40000];
	struct shimring r;

	(void)state;
	begin(&r);
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 31 + i / 251);
	bind.fd_gen = 5;
	bind.pos2 = 9;
	ring_put(&bind);
	ring_put_bytes(&rec, bytes, sizeof(bytes));
	assert_true(next(&r, 1));
	assert_int_equal(got.rec.type, SSLC_SHIM_BIND);
	assert_int_equal(got.rec.fd, 3);
	assert_int_equal(got.rec.fd_gen, 5);
	assert_int_equal(got.rec.pos2, 9);
	assert_int_not_equal(got.rec.thread, 0);
	for (size_t at = 0; at < sizeof(bytes); at += got.rec.len) {
		assert_true(next(&r, 1));
		assert_int_equal(got.rec.pos, 100 + at);
		assert_int_equal(got.rec.obj, 7);
		assert_int_equal(got.rec.dir, SSLC_DIR_OUT);
		assert_memory_equal(got.bytes, bytes + at, got.rec.len);
		assert_int_equal(!!(got.rec.flags & SSLC_SHIM_LAST),
				 at + got.rec.len == sizeof(bytes));
	}
	assert_false(next(&r, 1));
	shimring_unmap(&r);
}

static void test_what_does_not_fit_is_counted_and_other_records_still_go(void **state)
{
	static const uint8_t bytes[10000];
	struct sslc_shim_rec rec = data_of(1, 0), end = {.type = SSLC_SHIM_END, .fd = 1};
	uint64_t in = 0, out = 0, lost;
	struct shimring r;

	(void)state;
	begin(&r);
	for (int i = 0; i < 40; i++, in += sizeof(bytes)) {
		rec.pos = in;
		ring_put_bytes(&rec, bytes, sizeof(bytes));
	}
	ring_put(&end);
	while (next(&r, 1) && got.rec.type == SSLC_SHIM_DATA_BYTES) {
		assert_int_equal(got.rec.pos, out);
		out += got.rec.len;
	}
	assert_int_equal(got.rec.type, SSLC_SHIM_END);
	lost = r.shared->lost[SSLC_SHIM_LOST_FULL];
	assert_true(lost > 0);
	assert_int_equal(out + lost, in);
	for (int i = 0; i < 5000; i++) /* more than fit, and none of them bytes */
		ring_put(&end);
	for (out = 0; next(&r, 1); out++)
		;
	assert_int_equal(out, SIZE / sizeof(end));
	assert_int_equal(out + r.shared->lost[SSLC_SHIM_LOST_EVENTS], 5000);
	shimring_unmap(&r);
}

static void test_an_empty_ring_uses_the_same_memory_again(void **state)
{
	static uint8_t bytes[SSLC_SHIM_CHUNK];
	struct sslc_shim_rec rec = data_of(1, 0);
	struct shimring r;
	struct stat before, after;

	(void)state;
	begin(&r);
	for (int i = 0; i < 300; i++) {
		memset(bytes, i, sizeof(bytes));
		ring_put_bytes(&rec, bytes, sizeof(bytes));
		assert_true(next(&r, 1));
		assert_memory_equal(got.bytes, bytes, sizeof(bytes));
		shimring_rewind(&r);
	}
	assert_true(r.high < SIZE / 4);
	assert_true(r.tail > SIZE * 250u);
	for (int i = 0; i < 14; i++) /* a burst, and quiet after it */
		ring_put_bytes(&rec, bytes, sizeof(bytes));
	while (next(&r, 1))
		;
	assert_true(r.high > SIZE / 2);
	assert_false(shimring_rests(&r));
	shimring_rewind(&r);
	assert_true(shimring_rests(&r));
	assert_int_equal(fstat(announced, &before), 0);
	shimring_trim(&r);
	assert_int_equal(fstat(announced, &after), 0);
	assert_true(after.st_blocks < before.st_blocks / 2 + 8);
	ring_put_bytes(&rec, bytes, sizeof(bytes));
	assert_false(shimring_rests(&r));
	assert_true(next(&r, 1));
	assert_memory_equal(got.bytes, bytes, sizeof(bytes));
	assert_int_equal(r.broken, 0);
	shimring_unmap(&r);
}

/* --- threads ------------------------------------------------------------------------------------
 */

#define THREADS 4
#define EACH    20000u

static uint32_t len_of(uint64_t obj, uint64_t n)
{
	return (uint32_t)((n * 2654435761u + obj * 40503u) >> 8) % 700 + 1;
}

static void *write_many(void *obj)
{
	struct sslc_shim_rec rec = data_of((uint64_t)(uintptr_t)obj, 0);
	uint8_t bytes[701];

	for (uint64_t n = 0; n < EACH; n++) {
		memset(bytes, (int)(n + rec.obj), sizeof(bytes));
		rec.ts_ns = n;
		ring_put_bytes(&rec, bytes, len_of(rec.obj, n));
		if (n % 128 == 0)
			usleep(50); /* the reader's turn, on few processors */
	}
	return NULL;
}

static void test_threads_do_not_disturb_each_other(void **state)
{
	uint64_t seen[THREADS + 1] = {0}, bytes = 0, all = 0, records = 0;
	pthread_t t[THREADS];
	struct shimring r;
	int idle = 0;

	(void)state;
	begin(&r);
	for (uintptr_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&t[i], NULL, write_many, (void *)(i + 1)), 0);
	while (idle < 200) {
		if (!next(&r, 1)) {
			idle++;
			shimring_rewind(&r);
			usleep(1000);
			continue;
		}
		idle = 0;
		assert_in_range(got.rec.obj, 1, THREADS);
		assert_true(got.rec.ts_ns + 1 >
			    seen[got.rec.obj]); /* in order, perhaps with gaps */
		seen[got.rec.obj] = got.rec.ts_ns + 1;
		assert_int_equal(got.rec.len, len_of(got.rec.obj, got.rec.ts_ns));
		for (uint32_t i = 0; i < got.rec.len; i++)
			assert_int_equal(got.bytes[i], (uint8_t)(got.rec.ts_ns + got.rec.obj));
		bytes += got.rec.len;
		records++;
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	for (uint64_t obj = 1; obj <= THREADS; obj++)
		for (uint64_t n = 0; n < EACH; n++)
			all += len_of(obj, n);
	assert_true(records > 1000);
	assert_int_equal(bytes + r.shared->lost[SSLC_SHIM_LOST_FULL], all);
	assert_int_equal(r.broken + r.abandoned, 0);
	shimring_unmap(&r);
}

/* --- writers that stop in the middle ------------------------------------------------------------
 */

static struct sslc_shim_rec *record_at(const struct shimring *r, uint64_t pos)
{
	return (void *)((uint8_t *)r->shared + SSLC_SHIM_DATA_OFF + (pos & (r->size - 1)));
}

static void test_a_record_that_is_never_finished_is_left_after_a_while(void **state)
{
	struct sslc_shim_rec rec = data_of(1, 0);
	struct shimring r;

	(void)state;
	begin(&r);
	for (int with_size = 0; with_size < 2; with_size++) {
		struct sslc_shim_rec *dead = record_at(&r, r.tail);

		ring_put_bytes(&rec, "first", 5);
		ring_put_bytes(&rec, "second", 6);
		if (with_size) {
			dead->word = r.tail | SSLC_SHIM_BUSY;
		} else { /* not even begun */
			dead->word = 0;
			dead->size = 0;
		}
		assert_false(next(&r, 1000));
		assert_false(next(&r, 1000 + SSLC_SHIM_STALL_NS));
		assert_true(next(&r, 1002 + SSLC_SHIM_STALL_NS));
		assert_memory_equal(got.bytes, "second", 6);
		assert_int_equal(r.abandoned, with_size + 1);
		assert_false(next(&r, 1002 + SSLC_SHIM_STALL_NS));
	}
	ring_put_bytes(&rec, "third", 5);
	record_at(&r, r.tail)->word = r.tail | SSLC_SHIM_BUSY;
	assert_false(shimring_next(&r, 1, true, &got)); /* the process is gone: at once */
	assert_int_equal(r.tail, r.shared->head);
	shimring_unmap(&r);
}

/* --- processes that mean ill --------------------------------------------------------------------
 */

#define LARGE (8u << 20)

static struct shimring make_large(void)
{
	struct shimring r;
	void *p = mmap(NULL, SSLC_SHIM_DATA_OFF + 2 * LARGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	assert_true(p != MAP_FAILED);
	shimring_of_memory(&r, p, LARGE);
	return r;
}

static void free_large(struct shimring *r)
{
	munmap(r->shared, SSLC_SHIM_DATA_OFF + 2 * LARGE);
}

static void test_a_ring_in_which_nothing_is_a_record_is_not_searched_to_its_end(void **state)
{
	struct shimring r = make_large();
	unsigned char is_there[LARGE / 4096];
	size_t n = 0;

	(void)state;
	r.shared->head = LARGE;
	assert_false(next(&r, 1));
	assert_false(next(&r, 2 + SSLC_SHIM_STALL_NS));
	assert_int_equal(r.broken, 1);
	assert_int_equal(r.tail, LARGE);
	assert_int_equal(mincore((char *)r.shared + SSLC_SHIM_DATA_OFF, LARGE, is_there), 0);
	for (size_t i = 0; i < sizeof(is_there); i++)
		n += is_there[i] & 1;
	assert_true(n < sizeof(is_there) / 4); /* each look at a page may make it */
	free_large(&r);
}

static void test_looks_ahead_are_as_many_as_were_asked_for(void **state)
{
	struct shimring r = make_large();
	struct sslc_shim_rec rec;
	uint64_t ahead = 0, n = 0;
	unsigned looks;

	(void)state;
	for (uint64_t pos = 0; pos < LARGE; pos += sizeof(rec), n++) {
		rec = (struct sslc_shim_rec){.word = pos | SSLC_SHIM_DONE,
					     .size = sizeof(rec),
					     .type = SSLC_SHIM_FORGET};
		if (pos + 2 * sizeof(rec) >= LARGE)
			rec.type = SSLC_SHIM_BIND;
		memcpy(record_at(&r, pos), &rec, sizeof(rec));
	}
	r.shared->head = LARGE;
	for (uint64_t i = 0; i < n / 1000; i++) {
		looks = 1000;
		assert_false(shimring_ahead(&r, &ahead, &looks, &rec));
		assert_int_equal(looks, 0);
	}
	for (unsigned i = 1; i <= 2; i++) { /* those of others count, too */
		looks = 1000;
		assert_true(shimring_ahead(&r, &ahead, &looks, &rec));
		assert_int_equal(rec.type, SSLC_SHIM_BIND);
	}
	assert_int_equal(looks, 999);
	assert_false(shimring_ahead(&r, &ahead, &looks, &rec));
	free_large(&r);
}

static void test_nonsense_empties_the_ring(void **state)
{
	static const struct {
		uint32_t size;
		uint16_t type;
		uint8_t dir;
		uint32_t len; /* or fd */
	} rows[] = {
		{63, SSLC_SHIM_FORGET, 0, 0},
		{16, SSLC_SHIM_FORGET, 0, 0},
		{72, SSLC_SHIM_FORGET, 0, 0},
		{1u << 31, SSLC_SHIM_DATA_BYTES, 0, 1},
		{SSLC_SHIM_CHUNK + 80, SSLC_SHIM_DATA_BYTES, 0, 1},
		{4096, SSLC_SHIM_DATA_BYTES, 0, 1}, /* beyond the head */
		{64, SSLC_SHIM_DATA_BYTES, 0, 1},
		{80, SSLC_SHIM_DATA_BYTES, 0, 17},
		{80, SSLC_SHIM_DATA_BYTES, 0, 0},
		{80, SSLC_SHIM_DATA_BYTES, 0, UINT32_MAX},
		{80, SSLC_SHIM_DATA_BYTES, 2, 1},
		{64, SSLC_SHIM_PAD, 0, 0},
		{64, SSLC_SHIM_TYPES, 0, 0},
		{64, SSLC_SHIM_BIND, 0, UINT32_MAX},
		{64, SSLC_SHIM_END, 0, 1u << 31},
	};
	struct sslc_shim_rec rec = data_of(1, 0);
	struct shimring r;

	(void)state;
	begin(&r);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct sslc_shim_rec *bad = record_at(&r, r.tail);

		ring_put_bytes(&rec, "0123456789abcdef", 16);
		bad->size = rows[i].size;
		bad->type = rows[i].type;
		bad->dir = rows[i].dir;
		bad->len = rows[i].len;
		assert_false(next(&r, 1));
		assert_int_equal(r.broken, i + 1);
		ring_put_bytes(&rec, "good", 4);
		assert_true(next(&r, 1));
		assert_memory_equal(got.bytes, "good", 4);
	}
	r.shared->head += SIZE + 16;
	assert_false(next(&r, 1));
	r.shared->head += 8;
	assert_false(next(&r, 1));
	r.shared->head = 0; /* backwards */
	assert_false(next(&r, 1));
	assert_int_equal(r.broken, sizeof(rows) / sizeof(rows[0]) + 3);
	shimring_unmap(&r);
}

static int memfd_of(uint64_t size, int seals)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

static void assert_not_mapped(int fd, uint64_t size, int why)
{
	struct shimring r;

	assert_int_equal(shimring_map(&r, fd, size), why);
	close(fd);
}

static void test_only_sealed_rings_of_our_making_are_mapped(void **state)
{
	const int all = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
	const uint64_t bytes = sslc_shim_bytes(SIZE);

	(void)state;
	assert_not_mapped(memfd_of(bytes, F_SEAL_GROW | F_SEAL_SEAL), SIZE, -EPERM);
	assert_not_mapped(memfd_of(bytes, F_SEAL_SHRINK | F_SEAL_SEAL), SIZE, -EPERM);
	assert_not_mapped(memfd_of(bytes, all | F_SEAL_WRITE), SIZE, -EPERM);
	assert_not_mapped(open("/dev/null", O_RDWR), SIZE, -EPERM);
	assert_not_mapped(memfd_of(bytes - 4096, all), SIZE, -EINVAL);
	assert_not_mapped(memfd_of(bytes, all), SIZE * 2, -EINVAL);
	assert_not_mapped(memfd_of(bytes, all), SIZE + 4096, -EINVAL);
	assert_not_mapped(memfd_of(4096, all), 0, -EINVAL);
	assert_not_mapped(memfd_of(bytes, all), SIZE, -EPROTO); /* zeros */
}

/* --- fork ---------------------------------------------------------------------------------------
 */

static void test_a_child_never_writes_into_its_parents_ring(void **state)
{
	struct sslc_shim_rec rec = data_of(1, 0);
	struct shimring r, child;
	int status;
	pid_t pid;

	(void)state;
	begin(&r);
	shim_bound[5] = SOCK_BOUND;
	shim_gen[5] = 77;
	pid = fork();
	if (!pid) {
		uint32_t parents = r.shared->gen;
		bool ok = !shim_own->ring; /* before anything was set up */

		ring_put_bytes(&rec, "lost", 4);
		ring_set_up();
		ring_put_bytes(&rec, "mine", 4);
		ok = ok && !shimring_map(&child, announced, SIZE) && child.shared->gen &&
		     child.shared->gen != parents && shimring_next(&child, 1, false, &got) &&
		     got.rec.type == SSLC_SHIM_HOLD && got.rec.fd == 5 && got.rec.fd_gen == 77 &&
		     shimring_next(&child, 1, false, &got) && !memcmp(got.bytes, "mine", 4) &&
		     !shimring_next(&child, 1, false, &got);
		_exit(ok ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_false(next(&r, 1));
	shimring_unmap(&r);
}

static void test_nothing_is_written_for_an_agent_that_is_gone(void **state)
{
	uint64_t now_ns;
	struct shimring r;

	(void)state;
	begin(&r);
	assert_int_not_equal(ring_watched(&now_ns), 0);
	r.shared->beat_ns = now_ns - SSLC_SHIM_SILENT_NS - 1;
	assert_int_equal(ring_watched(&now_ns), 0);
	r.shared->beat_ns = now_ns;
	assert_int_not_equal(ring_watched(&now_ns), 0);
	r.shared->gen = 0;
	assert_int_equal(ring_watched(&now_ns), 0);
	shimring_unmap(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_goes_in_comes_out),
		cmocka_unit_test(test_what_does_not_fit_is_counted_and_other_records_still_go),
		cmocka_unit_test(test_an_empty_ring_uses_the_same_memory_again),
		cmocka_unit_test(test_threads_do_not_disturb_each_other),
		cmocka_unit_test(test_a_record_that_is_never_finished_is_left_after_a_while),
		cmocka_unit_test(
			test_a_ring_in_which_nothing_is_a_record_is_not_searched_to_its_end),
		cmocka_unit_test(test_looks_ahead_are_as_many_as_were_asked_for),
		cmocka_unit_test(test_nonsense_empties_the_ring),
		cmocka_unit_test(test_only_sealed_rings_of_our_making_are_mapped),
		cmocka_unit_test(test_a_child_never_writes_into_its_parents_ring),
		cmocka_unit_test(test_nothing_is_written_for_an_agent_that_is_gone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
