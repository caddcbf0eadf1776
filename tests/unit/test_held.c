/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of agent/match/held.c: order, identity, both bounds, expiry, and that no loss is
 * silent. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "match/held.h"

#include "counters.h"

#define LOST "flow_bytes_lost_unbound"
#define NOW  "flow_bytes_held"

static const struct sslc_conn_id conn_a = {.start_ns = 11, .ssl = 0x5500001000, .tgid = 7};
static const struct sslc_conn_id conn_b = {.start_ns = 11, .ssl = 0x5500001000, .tgid = 8};

/* Everything that held_take() handed out, one line an event: "DIR@POS:BYTES;". */
struct taken {
	char text[4096];
	size_t events, bytes;
};

static void on_each(void *ctx, const struct sslc_ev_data *ev)
{
	struct taken *t = ctx;
	size_t at = strlen(t->text);

	assert_int_equal((uintptr_t)ev % 8, 0);
	t->events++;
	t->bytes += ev->len;
	if (at + ev->len + 40 < sizeof(t->text))
		snprintf(t->text + at, sizeof(t->text) - at, "%u@%llu:%.*s;", ev->dir,
			 (unsigned long long)ev->pos, (int)ev->len, (const char *)ev->data);
}

static struct {
	uint64_t bytes, calls;
	struct sslc_conn_id last;
} told;

static void on_lost(void *ctx, const struct sslc_conn_id *conn, uint64_t bytes)
{
	assert_ptr_equal(ctx, &told);
	told.bytes += bytes;
	told.calls++;
	told.last = *conn;
}

static struct held *make(size_t per_object, size_t total, uint64_t wait_ns)
{
	const struct held_limits limits = {
		.per_object = per_object, .total = total, .wait_ns = wait_ns};
	struct held *h = NULL;

	assert_int_equal(held_new(&h, &limits, on_lost, &told), 0);
	return h;
}

/* The event lives in exactly its own size, so that a read beyond it is seen by ASan. */
static void put(struct held *h, const struct sslc_conn_id *conn, uint64_t pos, size_t len,
		uint64_t now_ns)
{
	struct sslc_ev_data *ev = calloc(1, sizeof(*ev) + len);

	ev->ev.type = SSLC_EV_DATA;
	ev->ev.size = (uint32_t)(sizeof(*ev) + len);
	ev->conn = *conn;
	ev->pos = pos;
	ev->len = (uint32_t)len;
	ev->dir = SSLC_DIR_OUT;
	for (size_t i = 0; i < len; i++)
		ev->data[i] = (uint8_t)('a' + (pos + i) % 26);
	held_put(h, ev, now_ns);
	free(ev);
}

static struct taken take(struct held *h, const struct sslc_conn_id *conn)
{
	struct taken t = {0};

	held_take(h, conn, on_each, &t);
	return t;
}

static void test_take_hands_out_in_order_and_only_once(void **state)
{
	struct held *h = make(1000, 1000, 10);
	struct taken t;

	(void)state;
	put(h, &conn_a, 0, 3, 1);
	put(h, &conn_a, 3, 1, 1);
	put(h, &conn_a, 4, 8, 1);
	assert_int_equal(counter_named(NOW), 12);
	t = take(h, &conn_a);
	assert_string_equal(t.text, "1@0:abc;1@3:d;1@4:efghijkl;");
	assert_int_equal(counter_named(NOW), 0);
	assert_int_equal(take(h, &conn_a).events, 0);
	held_free(h);
}

static void test_same_pointer_in_two_processes_is_two_objects(void **state)
{
	struct sslc_conn_id reborn = conn_a;
	struct held *h = make(1000, 1000, 10);

	(void)state;
	reborn.start_ns++;
	put(h, &conn_a, 0, 2, 1);
	put(h, &conn_b, 5, 2, 1);
	assert_int_equal(take(h, &reborn).events, 0);
	assert_string_equal(take(h, &conn_b).text, "1@5:fg;");
	assert_string_equal(take(h, &conn_a).text, "1@0:ab;");
	held_free(h);
}

static void test_every_length_survives_padding(void **state)
{
	struct held *h = make(10000, 10000, 10);
	struct taken t;
	size_t sum = 0;

	(void)state;
	for (size_t len = 1; len <= 33; len++) {
		put(h, &conn_a, sum, len, 1);
		sum += len;
	}
	t = take(h, &conn_a);
	assert_int_equal(t.events, 33);
	assert_int_equal(t.bytes, sum);
	held_free(h);
}

static void test_bytes_over_the_object_limit_are_counted(void **state)
{
	struct held *h = make(10, 1000, 10);
	uint64_t lost = counter_named(LOST);

	(void)state;
	put(h, &conn_a, 0, 10, 1);
	put(h, &conn_a, 10, 1, 1);
	assert_int_equal(counter_named(LOST), lost + 1);
	put(h, &conn_b, 0, 10, 1); /* another object has its own limit */
	assert_int_equal(counter_named(LOST), lost + 1);
	assert_int_equal(take(h, &conn_a).bytes, 10);
	assert_int_equal(take(h, &conn_b).bytes, 10);
	held_free(h);
}

static void test_bytes_over_the_total_limit_are_counted(void **state)
{
	struct held *h = make(1000, 1500, 10);
	uint64_t lost = counter_named(LOST);
	struct sslc_conn_id id = conn_a;
	size_t kept = 0;

	(void)state;
	for (int i = 0; i < 20; i++, id.ssl++)
		put(h, &id, 0, 100, 1);
	id = conn_a;
	for (int i = 0; i < 20; i++, id.ssl++)
		kept += take(h, &id).bytes;
	assert_in_range(kept, 100, 1500);
	assert_int_equal(kept + counter_named(LOST) - lost, 2000);
	put(h, &conn_b, 0, 100, 1); /* there is room again */
	assert_int_equal(take(h, &conn_b).bytes, 100);
	held_free(h);
}

/* One program whose objects never find a connection must not use up what others wait in. */
static void test_what_waited_longest_makes_room(void **state)
{
	struct held *h = make(1000, 1500, 10);
	struct sslc_conn_id id = conn_a;

	(void)state;
	for (int i = 0; i < 20; i++, id.ssl++)
		put(h, &id, 0, 100, 1);
	id.ssl--;
	assert_int_equal(take(h, &id).bytes, 100); /* the last one is there */
	assert_int_equal(take(h, &conn_a).bytes, 0);
	held_free(h);
}

/* Many tiny calls fill the object's memory before its limit of plaintext: what is lost then is
 * counted. */
static void test_no_byte_is_lost_silently_when_memory_fills(void **state)
{
	struct held *h = make(100, 100000, 10);
	uint64_t lost = counter_named(LOST), pos = 0;
	struct taken t;

	(void)state;
	for (int i = 0; i < 200; i++) {
		size_t len = i % 3 == 0 ? 40 : 1;

		put(h, &conn_a, pos, len, 1);
		pos += len;
	}
	t = take(h, &conn_a);
	assert_int_equal(t.bytes + counter_named(LOST) - lost, pos);
	held_free(h);
}

static void test_no_tiny_byte_is_lost_silently_when_memory_fills(void **state)
{
	/* 4 * 1000 + 4096 bytes of memory: some hundred events of one byte, then one that does not
	 * fit, then one that would. */
	struct held *h = make(1000, 100000, 10);
	uint64_t lost = counter_named(LOST), pos = 0;
	struct taken t;

	(void)state;
	for (int i = 0; i < 99; i++)
		put(h, &conn_a, pos++, 1, 1);
	put(h, &conn_a, pos, 300, 1);
	pos += 300;
	for (int i = 0; i < 5; i++)
		put(h, &conn_a, pos++, 1, 1);
	t = take(h, &conn_a);
	assert_int_equal(t.bytes + counter_named(LOST) - lost, pos);
	held_free(h);
}

/* The memory behind one-byte calls is bounded by `total` too: an event is more than its bytes. */
static void test_total_limit_covers_headers(void **state)
{
	struct held *h = make(100000, 8000, 10);
	struct sslc_conn_id id = conn_a;
	size_t events = 0;

	(void)state;
	for (int i = 0; i < 1000; i++, id.ssl++)
		put(h, &id, 0, 1, 1);
	id = conn_a;
	for (int i = 0; i < 1000; i++, id.ssl++)
		events += take(h, &id).events;
	assert_in_range(events, 1, 8000 / sizeof(struct sslc_ev_data));
	held_free(h);
}

static void test_expire_drops_what_waited_too_long_and_counts_it(void **state)
{
	struct held *h = make(1000, 1000, 100);
	uint64_t lost = counter_named(LOST);

	(void)state;
	put(h, &conn_a, 0, 5, 1000);
	put(h, &conn_b, 0, 7, 1050);
	put(h, &conn_a, 5, 1, 1090); /* the first byte's age counts */
	held_expire(h, 1099);
	assert_int_equal(counter_named(NOW), 13);
	held_expire(h, 1100);
	assert_int_equal(counter_named(NOW), 7);
	assert_int_equal(counter_named(LOST), lost + 6);
	assert_int_equal(take(h, &conn_a).events, 0);
	assert_int_equal(take(h, &conn_b).bytes, 7);
	held_free(h);
}

static void test_expire_keeps_what_came_after_its_clock(void **state)
{
	struct held *h = make(1000, 1000, 100);

	(void)state;
	put(h, &conn_a, 0, 5, 2000);
	held_expire(h, 1999); /* a stamp newer than the tick: it has not waited at all */
	assert_int_equal(take(h, &conn_a).bytes, 5);
	held_free(h);
}

static void test_free_accepts_null_and_forgets_what_waits(void **state)
{
	struct held *h = make(1000, 1000, 100);

	(void)state;
	put(h, &conn_a, 0, 5, 1);
	held_free(h); /* LeakSanitizer watches */
	assert_int_equal(counter_named(NOW), 0);
	held_free(NULL);
}

static void test_owner_of_what_is_lost_is_named(void **state)
{
	const struct sslc_conn_id a = {.tgid = 1, .ssl = 5}, b = {.tgid = 2, .ssl = 5};
	struct held *h = make(100, 100000, 10);
	uint64_t before = counter_named(LOST);

	(void)state;
	memset(&told, 0, sizeof(told));
	put(h, &a, 0, 60, 0);
	put(h, &b, 0, 70, 1);
	put(h, &b, 70, 31, 1); /* one byte more than one object may hold */
	assert_int_equal(told.bytes, 31);
	assert_memory_equal(&told.last, &b, sizeof(b));
	held_expire(h, 10);
	assert_int_equal(told.bytes, 31 + 60);
	assert_memory_equal(&told.last, &a, sizeof(a));
	held_expire(h, 11);
	assert_int_equal(told.bytes, 31 + 60 + 70);
	assert_int_equal(told.calls, 3);
	assert_int_equal(counter_named(LOST) - before, told.bytes);
	held_free(h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_owner_of_what_is_lost_is_named),
		cmocka_unit_test(test_take_hands_out_in_order_and_only_once),
		cmocka_unit_test(test_same_pointer_in_two_processes_is_two_objects),
		cmocka_unit_test(test_every_length_survives_padding),
		cmocka_unit_test(test_bytes_over_the_object_limit_are_counted),
		cmocka_unit_test(test_bytes_over_the_total_limit_are_counted),
		cmocka_unit_test(test_what_waited_longest_makes_room),
		cmocka_unit_test(test_no_byte_is_lost_silently_when_memory_fills),
		cmocka_unit_test(test_no_tiny_byte_is_lost_silently_when_memory_fills),
		cmocka_unit_test(test_total_limit_covers_headers),
		cmocka_unit_test(test_expire_drops_what_waited_too_long_and_counts_it),
		cmocka_unit_test(test_expire_keeps_what_came_after_its_clock),
		cmocka_unit_test(test_free_accepts_null_and_forgets_what_waits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
