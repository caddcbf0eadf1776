/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of agent/match/early.c: order, both bounds, what makes bytes void, and that nothing
 * leaks.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "match/early.h"

#include "counters.h"

#define NOW       "flow_bytes_early_held"
#define REJECTED  "flow_bytes_early_rejected"
#define OVERFLOWS "flow_early_overflows"

struct taken {
	char text[4096];
};

static void on_each(void *ctx, const struct sslc_ev_data *ev)
{
	struct taken *t = ctx;
	size_t at = strlen(t->text);

	assert_int_equal((uintptr_t)ev % 8, 0);
	snprintf(t->text + at, sizeof(t->text) - at, "%.*s;", (int)ev->len, (const char *)ev->data);
}

static struct early_pool *make(size_t per_flow, size_t total)
{
	const struct early_limits limits = {.per_flow = per_flow, .total = total};
	struct early_pool *p = NULL;

	assert_int_equal(early_pool_new(&p, &limits), 0);
	return p;
}

/* In exactly its own size, so that a read beyond it is seen by ASan. */
static struct sslc_ev_data *event(unsigned dir, const char *text)
{
	size_t len = strlen(text);
	struct sslc_ev_data *ev = calloc(1, sizeof(*ev) + len);

	ev->ev.type = SSLC_EV_DATA;
	ev->ev.size = (uint32_t)(sizeof(*ev) + len);
	ev->dir = (uint8_t)dir;
	ev->len = (uint32_t)len;
	memcpy(ev->data, text, len);
	return ev;
}

static void put(struct early_pool *p, struct early **e, const char *text)
{
	struct sslc_ev_data *ev = event(SSLC_DIR_OUT, text);

	assert_int_equal(early_put(p, e, ev), 0);
	free(ev);
}

static bool is_void(const struct early *e, unsigned dir, const char *next)
{
	struct sslc_ev_data *ev = event(dir, next);
	bool is = early_is_void(e, ev);

	free(ev);
	return is;
}

static void takes(struct early_pool *p, struct early **e, const char *text, uint64_t hole)
{
	struct taken t = {""};

	assert_int_equal(early_take(p, e, on_each, &t), hole);
	assert_string_equal(t.text, text);
	assert_null(*e);
	assert_int_equal(early_span(*e), 0);
}

static void test_bytes_come_out_in_order_once(void **state)
{
	struct early_pool *p = make(1000, 10000);
	struct early *e = NULL;

	(void)state;
	assert_int_equal(early_span(e), 0);
	put(p, &e, "GET / HTTP/1.1");
	put(p, &e, "x");
	put(p, &e, "12345678");
	assert_int_equal(early_span(e), 23);
	assert_int_equal(counter_named(NOW), 23);
	takes(p, &e, "GET / HTTP/1.1;x;12345678;", 0);
	assert_int_equal(counter_named(NOW), 0);
	early_pool_free(p);
}

static void test_two_connections_do_not_meet(void **state)
{
	struct early_pool *p = make(1000, 10000);
	struct early *a = NULL, *b = NULL;

	(void)state;
	put(p, &a, "one");
	put(p, &b, "two");
	put(p, &a, "three");
	takes(p, &b, "two;", 0);
	takes(p, &a, "one;three;", 0);
	early_pool_free(p);
}

static void test_rejected_bytes_are_void_and_counted(void **state)
{
	uint64_t before = counter_named(REJECTED);
	struct early_pool *p = make(1000, 10000);
	struct early *e = NULL;

	(void)state;
	put(p, &e, "lost labour");
	assert_false(early_is_void(e, NULL));
	early_reject(e);
	assert_true(early_is_void(e, NULL));
	assert_true(is_void(e, SSLC_DIR_IN, "anything"));
	early_drop(p, &e);
	assert_null(e);
	early_drop(p, &e); /* there is none */
	assert_int_equal(counter_named(REJECTED), before + 11);
	assert_int_equal(counter_named(NOW), 0);
	early_pool_free(p);
}

static void test_bytes_that_are_written_again_were_void(void **state)
{
	struct early_pool *p = make(1000, 10000);
	struct early *e = NULL;

	(void)state;
	put(p, &e, "GET /a");
	put(p, &e, "b HTTP");
	assert_true(is_void(e, SSLC_DIR_OUT, "GET /ab HTTP"));
	assert_true(is_void(e, SSLC_DIR_OUT, "GET /ab HTTP and more"));
	assert_true(is_void(e, SSLC_DIR_OUT, "GET /ab"));
	assert_true(is_void(e, SSLC_DIR_OUT, "GET"));
	assert_false(is_void(e, SSLC_DIR_OUT, "GET /ac HTTP"));
	assert_false(is_void(e, SSLC_DIR_OUT, "GET /ab HTTQ and more"));
	assert_false(is_void(e, SSLC_DIR_OUT, "POST"));
	assert_false(is_void(e, SSLC_DIR_IN, "GET /ab HTTP")); /* an echo is no repetition */
	early_drop(p, &e);
	early_pool_free(p);
}

static void test_what_exceeds_a_connections_share_becomes_a_hole(void **state)
{
	uint64_t before = counter_named(OVERFLOWS);
	struct early_pool *p = make(10, 10000);
	struct early *e = NULL;

	(void)state;
	put(p, &e, "12345678");
	put(p, &e, "90");
	put(p, &e, "a");
	put(p, &e, "");
	put(p, &e, "bc"); /* would not follow what was kept */
	assert_int_equal(early_span(e), 13);
	assert_int_equal(counter_named(OVERFLOWS), before + 1);
	takes(p, &e, "12345678;90;", 3);
	early_pool_free(p);
}

static void test_nothing_is_kept_behind_a_hole(void **state)
{
	uint64_t overflows = counter_named(OVERFLOWS), before = counter_named(REJECTED);
	struct early_pool *p = make(1000, 10000);
	struct early *e = NULL;

	(void)state;
	put(p, &e, "head");
	assert_int_equal(early_skip(p, &e, 1ull << 40), 0);
	put(p, &e, "tail");
	assert_int_equal(early_span(e), (1ull << 40) + 8);
	takes(p, &e, "head;", (1ull << 40) + 4);
	assert_int_equal(counter_named(OVERFLOWS), overflows); /* lost before it came here */
	assert_int_equal(early_skip(p, &e, 5), 0);
	assert_false(is_void(e, SSLC_DIR_OUT, "none to compare with"));
	early_drop(p, &e);
	assert_int_equal(counter_named(REJECTED), before + 5);
	early_pool_free(p);
}

static void test_all_connections_share_one_bound(void **state)
{
	struct early_pool *p = make(1000, 2000);
	struct early *e[64] = {NULL};
	uint64_t held = 0, holes = 0;

	(void)state;
	for (int i = 0; i < 64; i++)
		put(p, &e[i], "sixteen letters.");
	held = counter_named(NOW);
	assert_in_range(held, 16, 2000);
	for (int i = 0; i < 64; i++) {
		struct taken t = {""};

		holes += early_take(p, &e[i], on_each, &t);
	}
	assert_int_equal(held + holes, 64 * 16);
	assert_int_equal(counter_named(NOW), 0);
	put(p, &e[0], "room again");
	takes(p, &e[0], "room again;", 0);
	early_pool_free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bytes_come_out_in_order_once),
		cmocka_unit_test(test_two_connections_do_not_meet),
		cmocka_unit_test(test_rejected_bytes_are_void_and_counted),
		cmocka_unit_test(test_bytes_that_are_written_again_were_void),
		cmocka_unit_test(test_what_exceeds_a_connections_share_becomes_a_hole),
		cmocka_unit_test(test_nothing_is_kept_behind_a_hole),
		cmocka_unit_test(test_all_connections_share_one_bound),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
