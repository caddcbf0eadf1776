/* SPDX-License-Identifier: Apache-2.0 */
/* calls: what TLS calls have moved becomes records (preload/calls.c), each byte once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "preload.h"

#define OBJECTS 100u
#define MB      (1u << 20)
#define RECORD  16384u

/* --- what it needs of the rest of the library ---------------------------------------------------
 */

static struct sslc_shim_ring ring = {.gen = 1};
static struct own own = {.ring = &ring, .size = 16 * MB};
struct own *shim_own = &own;
bool shim_is_sandboxed;
uint8_t shim_bound[SSLC_SHIM_FDS];
uint32_t shim_gen[SSLC_SHIM_FDS];
uint32_t shim_clear[SSLC_SHIM_FDS];
_Atomic bool shim_has_loose;

static bool is_silent, is_full;
static uint64_t n_lost[SSLC_SHIM_LOST_KINDS];

/* As the agent sees one object. */
static uint64_t at[2], holes[2];
static unsigned n_binds, n_reached, n_forgotten;
static const uint8_t *want;  /* what it sends stands here */
static uint64_t watched_obj; /* 0: any */

static void take(const struct sslc_shim_rec *r, const uint8_t *p)
{
	if (watched_obj && r->obj != watched_obj)
		return;
	assert_true(r->pos >= at[r->dir]); /* not told twice */
	holes[r->dir] += r->pos - at[r->dir];
	if (p && want && r->dir == SSLC_DIR_OUT)
		assert_memory_equal(p, want + r->pos, r->len);
	at[r->dir] = r->pos + r->len;
}

uint32_t ring_watched(uint64_t *now_ns)
{
	*now_ns = 1;
	return is_silent ? 0 : ring.gen;
}

uint32_t ring_taken(uint64_t *now_ns)
{
	*now_ns = 1;
	return ring.gen;
}

void ring_count(enum sslc_shim_lost what, uint64_t n)
{
	n_lost[what] += n;
}

bool ring_put(const struct sslc_shim_rec *rec)
{
	n_binds += rec->type == SSLC_SHIM_BIND;
	n_reached += rec->type == SSLC_SHIM_REACHED;
	n_forgotten += rec->type == SSLC_SHIM_FORGET;
	return true;
}

bool ring_put_bytes(const struct sslc_shim_rec *rec, const void *bytes, uint64_t len)
{
	struct sslc_shim_rec r = *rec;

	r.len = (uint32_t)len;
	take(&r, bytes);
	return true;
}

static _Alignas(struct sslc_shim_rec) uint8_t room[sizeof(struct sslc_shim_rec) + SSLC_SHIM_CHUNK];

struct sslc_shim_rec *ring_room(uint32_t len, uint64_t *place)
{
	assert_true(len <= SSLC_SHIM_CHUNK);
	*place = 0;
	return (void *)room;
}

bool ring_has_room(void)
{
	return !is_full;
}

void ring_number_thread(void)
{
	shim_thread.number = 1;
}

void ring_bound(int fd)
{
	(void)fd;
}

void ring_wake(void)
{
}

void ring_set_up_late(void)
{
}

bool clear_tell(int fd, uint64_t ssl, uint32_t life)
{
	(void)fd;
	(void)ssl;
	(void)life;
	return true;
}

bool match_print(const uint8_t *header, const uint8_t *body, size_t n, uint64_t *out)
{
	(void)header;
	(void)body;
	(void)n;
	(void)out;
	return false;
}

void match_put_received(uint64_t print, int fd, uint32_t fd_gen)
{
	(void)print;
	(void)fd;
	(void)fd_gen;
}

void match_put_written(uint64_t print, uint64_t ssl, uint32_t life)
{
	(void)print;
	(void)ssl;
	(void)life;
}

bool match_take_received(uint64_t print, int *fd, uint32_t *fd_gen)
{
	(void)print;
	(void)fd;
	(void)fd_gen;
	return false;
}

bool match_take_written(uint64_t print, uint64_t *ssl, uint32_t *life)
{
	(void)print;
	(void)ssl;
	(void)life;
	return false;
}

/* --- calls --------------------------------------------------------------------------------------
 */

static uint64_t ssl_of(unsigned i)
{
	return 0x10000 + 0x100 * (uint64_t)i;
}

static int set_up(void **state)
{
	static bool was_set_up;

	(void)state;
	if (!was_set_up)
		assert_int_equal(calls_init(), 0);
	was_set_up = true;
	for (unsigned i = 0; i < OBJECTS; i++)
		call_forget(ssl_of(i));
	memset(&shim_thread, 0, sizeof(shim_thread));
	memset(n_lost, 0, sizeof(n_lost));
	memset(at, 0, sizeof(at));
	memset(holes, 0, sizeof(holes));
	n_binds = n_reached = n_forgotten = 0;
	is_silent = false;
	is_full = false;
	shim_has_loose = false;
	want = NULL;
	watched_obj = 0;
	return 0;
}

static void shake_hands(uint64_t ssl, int fd)
{
	static const uint8_t hello[] = {22, 3, 3, 0, 2, 1, 0};
	int place = call_begin(ssl, SSLC_CALL_BIND);

	call_used_socket(fd, SSLC_DIR_OUT, hello, sizeof(hello));
	call_end(place, ssl, SSLC_CALL_BIND, NULL, 0);
}

static const uint8_t record[5 + RECORD + 22] = {23, 3, 3, (RECORD + 22) >> 8, (RECORD + 22) & 255};

static void pass_records(uint64_t bytes)
{
	for (; bytes; bytes -= RECORD)
		call_passed(SSLC_DIR_OUT, record, sizeof(record));
}

/* A call with so many bytes, of which so many leave in records and that says to have moved n. */
static void write_some(uint64_t ssl, const uint8_t *p, uint64_t len, uint64_t leaves, uint64_t n)
{
	int place = call_begin_write(ssl, SSLC_CALL_WRITE_EX, p, len);

	pass_records(leaves);
	call_end(place, ssl, SSLC_CALL_WRITE_EX, p, n);
}

/* The records of a quick call are not seen by take(). */
static void write_quickly(uint64_t ssl, const uint8_t *p, uint64_t n)
{
	int place = call_begin_write(ssl, SSLC_CALL_WRITE_EX, p, n);
	bool is_quick = shim_thread.quick;

	memset(room, 0, sizeof(struct sslc_shim_rec));
	call_end(place, ssl, SSLC_CALL_WRITE_EX, p, n);
	if (is_quick && ((struct sslc_shim_rec *)(void *)room)->len)
		take((void *)room, room + sizeof(struct sslc_shim_rec));
}

static uint8_t *make_bytes(size_t n)
{
	uint8_t *p = malloc(n);

	assert_non_null(p);
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)(i * 7 + i / 65521);
	return p;
}

/* --- tests --------------------------------------------------------------------------------------
 */

static void test_a_call_on_no_object_leaves_no_trace(void **state)
{
	int place;

	(void)state;
	for (int i = 0; i < 3; i++) {
		place = call_begin(0, SSLC_CALL_BIND); /* SSL_shutdown(NULL) */
		call_end(place, 0, SSLC_CALL_BIND, NULL, 0);
		call_forget(0);
		call_early_server(0);
	}
	assert_false(shim_has_loose); /* it has found a free place, and taken it for an object */
	assert_int_equal(n_forgotten, 0);
	assert_null(shim_thread.last);
}

static void test_long_writes_that_are_interrupted_are_told_once(void **state)
{
	uint8_t *p = make_bytes(2 * MB);

	(void)state;
	for (unsigned i = 0; i < OBJECTS; i++)
		shake_hands(ssl_of(i), 10 + (int)i);
	want = p;
	watched_obj = ssl_of(0);
	for (unsigned i = 0; i < OBJECTS; i++) /* all of them wait at the same time */
		write_some(ssl_of(i), p, 2 * MB, MB, 0);
	assert_true(at[SSLC_DIR_OUT] > MB / 2); /* told while it lasted */
	write_some(ssl_of(0), p, 2 * MB, MB, 2 * MB);
	assert_int_equal(at[SSLC_DIR_OUT], 2 * MB);
	for (unsigned i = 1; i < OBJECTS; i++) { /* also those for which there was no place */
		watched_obj = ssl_of(i);
		at[SSLC_DIR_OUT] = 0;
		holes[SSLC_DIR_OUT] = 0;
		write_some(ssl_of(i), p, 2 * MB, MB, 2 * MB);
		assert_int_equal(at[SSLC_DIR_OUT], 2 * MB);
		/* What was told before this loop has watched. */
		assert_true(holes[SSLC_DIR_OUT] == 0 || holes[SSLC_DIR_OUT] > MB / 2);
	}
	free(p);
}

static void test_a_shorter_write_goes_on_with_a_long_one(void **state)
{
	uint8_t *p = make_bytes(2 * MB);

	(void)state;
	shake_hands(ssl_of(0), 10);
	want = p;
	write_some(ssl_of(0), p, 2 * MB, MB / 2, 0);
	assert_true(at[SSLC_DIR_OUT] > MB / 4);
	write_some(ssl_of(0), p, 3 * MB / 4, MB / 4, 3 * MB / 4);
	assert_int_equal(at[SSLC_DIR_OUT], 3 * MB / 4);
	write_quickly(ssl_of(0), p + 3 * MB / 4, 1000);
	assert_int_equal(at[SSLC_DIR_OUT], 3 * MB / 4 + 1000);
	assert_int_equal(holes[SSLC_DIR_OUT], 0);
	free(p);
}

/* Something else than records goes out in between. */
static void test_a_long_write_that_cannot_be_followed_is_told_once(void **state)
{
	static const uint8_t other[100] = {1, 2, 3, 4, 5, 6};
	uint8_t *p = make_bytes(2 * MB);
	int place;

	(void)state;
	shake_hands(ssl_of(0), 10);
	want = p;
	for (unsigned i = 0; i < 3; i++) {
		place = call_begin_write(ssl_of(0), SSLC_CALL_WRITE, p, 2 * MB);
		pass_records(MB / 4);
		for (unsigned k = 0; k < 3; k++)
			call_passed(SSLC_DIR_OUT, other, sizeof(other));
		call_end(place, ssl_of(0), SSLC_CALL_WRITE, p, i < 2 ? 0 : 1000);
		assert_true(at[SSLC_DIR_OUT] > MB / 8);
	}
	write_some(ssl_of(0), p + 1000, 2 * MB - 1000, 0, 2 * MB - 1000);
	assert_int_equal(at[SSLC_DIR_OUT], 2 * MB);
	assert_int_equal(holes[SSLC_DIR_OUT], 0);
	free(p);
}

static void test_no_byte_beyond_a_call_s_is_read(void **state)
{
	const size_t size = MB + RECORD;
	int place;
	uint8_t *p =
		mmap(NULL, size + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)state;
	assert_true(p != MAP_FAILED);
	assert_int_equal(mprotect(p + size, 4096, PROT_NONE), 0);
	shake_hands(ssl_of(0), 10);
	is_full = true; /* nothing is told of the first one while it lasts */
	place = call_begin_write(ssl_of(0), SSLC_CALL_WRITE, p, 8 * MB);
	pass_records(4 * MB);
	call_passed(SSLC_DIR_OUT, record, 100);
	call_end(place, ssl_of(0), SSLC_CALL_WRITE, p, 0);
	is_full = false;
	place = call_begin_write(ssl_of(0), SSLC_CALL_WRITE, p, size);
	call_passed(SSLC_DIR_OUT, record + 100, 1000);
	call_end(place, ssl_of(0), SSLC_CALL_WRITE, p, size);
	assert_int_equal(at[SSLC_DIR_OUT], size);
	munmap(p, size + 4096);
}

static void test_a_long_write_that_begins_anew_is_not_told_again(void **state)
{
	uint8_t *p = make_bytes(2 * MB);

	(void)state;
	shake_hands(ssl_of(0), 10);
	want = p;
	(void)call_begin_write(ssl_of(0), SSLC_CALL_WRITE, p, 2 * MB);
	pass_records(MB);
	shim_thread.depth = 0; /* longjmp() out of a callback */
	assert_true(at[SSLC_DIR_OUT] > MB / 2);
	write_some(ssl_of(0), p, 2 * MB, MB, 2 * MB);
	assert_int_equal(at[SSLC_DIR_OUT], 2 * MB);
	assert_int_equal(holes[SSLC_DIR_OUT], 0);
	free(p);
}

/* An agent that was stopped for a while goes on as if nothing had been. */
static void test_what_is_said_to_a_stopped_agent_is_a_hole(void **state)
{
	uint8_t *p = make_bytes(10000);

	(void)state;
	shake_hands(ssl_of(0), 10);
	want = p;
	write_quickly(ssl_of(0), p, 100);
	is_silent = true;
	write_quickly(ssl_of(0), p + 100, 5000);
	assert_int_equal(at[SSLC_DIR_OUT], 100);
	assert_int_equal(n_lost[SSLC_SHIM_LOST_FULL], 5000);
	is_silent = false;
	write_quickly(ssl_of(0), p + 5100, 7);
	assert_int_equal(at[SSLC_DIR_OUT], 5107);
	assert_int_equal(holes[SSLC_DIR_OUT], 5000);
	is_silent = true; /* and so are the last ones */
	write_quickly(ssl_of(0), p + 5107, 10);
	assert_true(call_closes(10));
	assert_int_equal(n_reached, 1);
	call_forget(ssl_of(0));
	assert_int_equal(n_forgotten, 1);
	assert_int_equal(n_binds, 1);
	free(p);
}

static void test_calls_nested_too_deep_are_counted(void **state)
{
	/* Frames of one stack, the innermost lowest. */
	static const uintptr_t top = 1 << 20;
	int place[CALL_DEPTH + 1];

	(void)state;
	for (int i = 0; i <= CALL_DEPTH; i++)
		place[i] =
			call_begin_at(ssl_of((unsigned)i), SSLC_CALL_READ, top - 64 * (uintptr_t)i);
	assert_int_equal(n_lost[SSLC_SHIM_LOST_DEEP], 1);
	for (int i = CALL_DEPTH; i >= 0; i--)
		call_end(place[i], ssl_of((unsigned)i), SSLC_CALL_READ, NULL, 0);
	assert_int_equal(shim_thread.depth, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_a_call_on_no_object_leaves_no_trace, set_up),
		cmocka_unit_test_setup(test_long_writes_that_are_interrupted_are_told_once, set_up),
		cmocka_unit_test_setup(test_a_shorter_write_goes_on_with_a_long_one, set_up),
		cmocka_unit_test_setup(test_a_long_write_that_cannot_be_followed_is_told_once,
				       set_up),
		cmocka_unit_test_setup(test_no_byte_beyond_a_call_s_is_read, set_up),
		cmocka_unit_test_setup(test_a_long_write_that_begins_anew_is_not_told_again,
				       set_up),
		cmocka_unit_test_setup(test_what_is_said_to_a_stopped_agent_is_a_hole, set_up),
		cmocka_unit_test_setup(test_calls_nested_too_deep_are_counted, set_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
