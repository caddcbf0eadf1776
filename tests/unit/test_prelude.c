/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of agent/match/prelude.c: order, times and modes, that cuts change nothing, both
 * bounds, and that what is not complete is not told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "match/prelude.h"

#include "counters.h"

#define SIDE  64
#define TOTAL 4096
#define LOST  3
#define IDLE  1000

#define C SSLC_DIR_OUT /* as a client's agent sees it */
#define S SSLC_DIR_IN

struct said {
	unsigned dir;
	const char *text;
};

/* Everything that was handed out, "DIR@TIME:BYTES;" a part, and by direction. */
struct told {
	char text[2048], side[2][1024];
	uint64_t bytes;
};

static struct prelude *make(enum prelude_mode mode)
{
	const struct prelude_conf conf = {
		.mode = mode, .side = SIDE, .total = TOTAL, .lost = LOST, .idle_ns = IDLE};
	struct prelude *p = NULL;

	assert_int_equal(prelude_new(&p, &conf), 0);
	return p;
}

/* The event lives in exactly its own size, so that a read beyond it is seen by ASan. */
static void put_bytes(struct prelude *p, uint64_t flow, unsigned dir, uint64_t pos,
		      const void *bytes, size_t len, uint64_t now_ns)
{
	struct sslc_ev_data *ev = calloc(1, sizeof(*ev) + len);

	ev->ev = (struct sslc_event){SSLC_EV_CLEAR, (uint32_t)(sizeof(*ev) + len), now_ns, flow};
	ev->pos = pos;
	ev->len = (uint32_t)len;
	ev->dir = (uint8_t)dir;
	memcpy(ev->data, bytes, len);
	prelude_put(p, ev, now_ns);
	free(ev);
}

static void put(struct prelude *p, uint64_t flow, unsigned dir, uint64_t pos, const char *text,
		uint64_t now_ns)
{
	put_bytes(p, flow, dir, pos, text, strlen(text), now_ns);
}

static void on_part(void *ctx, const struct prelude_part *part)
{
	struct told *t = ctx;
	char *side = t->side[part->dir];
	size_t at = strlen(t->text);

	assert_true(part->bytes.len > 0);
	snprintf(t->text + at, sizeof(t->text) - at, "%s@%llu:%.*s;", part->dir == C ? "C" : "S",
		 (unsigned long long)part->ts_ns, (int)part->bytes.len, part->bytes.p);
	snprintf(side + strlen(side), 1024 - strlen(side), "%.*s", (int)part->bytes.len,
		 part->bytes.p);
	t->bytes += part->bytes.len;
}

static struct told take(struct prelude *p, uint64_t flow)
{
	struct stitch_seam *seam;
	struct told t = {.bytes = 0};

	uint64_t sum = prelude_take(p, flow, true, on_part, &t, &seam);

	assert_int_equal(sum, t.bytes);
	assert_null(seam);
	return t;
}

static const struct said smtp[] = {
	{S, "220 s\r\n"},    {C, "EHLO c\r\n"}, {S, "250-s\r\n250 STARTTLS\r\n"},
	{C, "STARTTLS\r\n"}, {S, "220 go\r\n"},
};
#define N_SMTP (sizeof(smtp) / sizeof(smtp[0]))

/* Each said word in pieces of `piece` bytes. */
static void put_smtp(struct prelude *p, size_t piece)
{
	uint64_t pos[2] = {0, 0};

	for (size_t i = 0; i < N_SMTP; i++) {
		const struct said *w = &smtp[i];

		for (size_t at = 0, n; at < strlen(w->text); at += n, pos[w->dir] += n) {
			n = strlen(w->text) - at < piece ? strlen(w->text) - at : piece;
			put_bytes(p, 1, w->dir, pos[w->dir], w->text + at, n, 10 * (i + 1) + !!at);
		}
	}
}

static void test_keep_tells_all_in_order_with_its_time(void **state)
{
	struct prelude *p = make(PRELUDE_KEEP);
	uint64_t before = counter_named("flow_preludes");

	(void)state;
	put_smtp(p, 100);
	assert_string_equal(take(p, 1).text,
			    "S@10:220 s\r\n;C@20:EHLO c\r\n;S@30:250-s\r\n250 STARTTLS\r\n;"
			    "C@40:STARTTLS\r\n;S@50:220 go\r\n;");
	assert_int_equal(counter_named("flow_preludes"), before + 1);
	assert_string_equal(take(p, 1).text, ""); /* only once */
	assert_int_equal(counter_named("flow_bytes_prelude_held"), 0);
	prelude_free(p);
}

static void test_stitch_is_the_same_for_every_cut(void **state)
{
	uint64_t before = counter_named("flow_preludes_stitched");

	(void)state;
	for (size_t piece = 1; piece < 32; piece++) {
		struct prelude *p = make(PRELUDE_STITCH);

		put_smtp(p, piece);
		assert_string_equal(take(p, 1).text, "S@10:220 s\r\n;");
		prelude_free(p);
	}
	assert_int_equal(counter_named("flow_preludes_stitched"), before + 31);
}

static void test_flows_do_not_mix(void **state)
{
	struct prelude *p = make(PRELUDE_STITCH);

	(void)state;
	put(p, 1, C, 0, "one", 1);
	put(p, 2, C, 0, "two", 2);
	put(p, 1, S, 0, "ONE", 3);
	assert_string_equal(take(p, 2).text, "C@2:two;");
	assert_string_equal(take(p, 1).text, "C@1:one;S@3:ONE;");
	prelude_free(p);
}

static const char hello[] = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03random";

static void test_a_hello_in_what_moved_last_is_not_told(void **state)
{
	struct prelude *p = make(PRELUDE_KEEP);
	char both[64] = "PROXY x\r\n";

	(void)state;
	memcpy(both + 9, hello, sizeof(hello) - 1);
	put_bytes(p, 1, S, 0, both, 9 + sizeof(hello) - 1, 1);
	assert_string_equal(take(p, 1).text, "S@1:PROXY x\r\n;");
	put_bytes(p, 1, S, 0, both, 9 + 5, 1); /* only the record's header was read */
	assert_string_equal(take(p, 1).text, "S@1:PROXY x\r\n;");
	put_bytes(p, 1, S, 0, both, 9, 1);
	put_bytes(p, 1, S, 9, hello, 5, 2);
	put_bytes(p, 1, S, 14, hello + 5, sizeof(hello) - 6, 3);
	assert_string_equal(take(p, 1).text, "S@1:PROXY x\r\n;");
	put_bytes(p, 1, C, 0, hello, sizeof(hello) - 1, 3); /* nothing else: nothing to tell */
	assert_string_equal(take(p, 1).text, "");
	prelude_free(p);
}

/* A client cannot hide its next words behind something that looks like TLS. */
static void test_a_hello_that_was_answered_is_told(void **state)
{
	struct prelude *p = make(PRELUDE_KEEP);
	struct told t;

	(void)state;
	put_bytes(p, 1, C, 0, hello, sizeof(hello) - 1, 1);
	put(p, 1, C, sizeof(hello) - 1, "evil", 1);
	put(p, 1, S, 0, "500 what\r\n", 2);
	t = take(p, 1);
	assert_int_equal(t.bytes, sizeof(hello) - 1 + 4 + 10);
	prelude_free(p);
}

static void test_a_hole_loses_the_beginning(void **state)
{
	struct prelude *p = make(PRELUDE_STITCH);
	uint64_t before = counter_named("flow_preludes_lost");

	(void)state;
	put(p, 1, C, 0, "one", 1);
	put(p, 1, C, 4, "two", 1);
	put(p, 1, S, 0, "ONE", 1);
	assert_string_equal(take(p, 1).text, "");
	put(p, 2, S, 7, "late", 1);
	put(p, 2, C, 0, "one", 1);
	assert_string_equal(take(p, 2).text, "");
	assert_int_equal(counter_named("flow_preludes_lost"), before + 2);
	assert_string_equal(take(p, 3).text, ""); /* TLS from its first byte */
	assert_int_equal(counter_named("flow_preludes_lost"), before + 2);
	assert_int_equal(counter_named("flow_bytes_prelude_held"), 0);
	prelude_free(p);
}

static void test_too_long_a_direction_loses_the_beginning(void **state)
{
	struct prelude *p = make(PRELUDE_KEEP);
	uint64_t before = counter_named("flow_preludes_lost");
	char text[SIDE + 2];

	(void)state;
	memset(text, 'x', sizeof(text));
	put_bytes(p, 1, C, 0, text, SIDE, 1);
	put_bytes(p, 1, S, 0, text, SIDE, 1);
	assert_int_equal(take(p, 1).bytes, 2 * SIDE);
	put_bytes(p, 1, C, 0, text, SIDE, 1);
	put_bytes(p, 1, C, SIDE, text, 1, 1);
	assert_int_equal(take(p, 1).bytes, 0);
	put_bytes(p, 1, C, 0, text, SIDE + 1, 1);
	assert_int_equal(take(p, 1).bytes, 0);
	assert_int_equal(counter_named("flow_preludes_lost"), before + 2);
	prelude_free(p);
}

static void test_memory_is_bounded_the_oldest_go(void **state)
{
	struct prelude *p = make(PRELUDE_KEEP);
	uint64_t before = counter_named("flow_preludes_given_up"), up;
	uint64_t lost = counter_named("flow_preludes_lost");

	(void)state;
	for (uint64_t flow = 1; flow <= 100; flow++) {
		put(p, flow, C, 0, "hello", flow);
		put(p, 1, S, flow - 1, "x", flow); /* but the first one goes on talking */
		if (flow > SIDE - 2)
			prelude_drop(p, 1);
	}
	up = counter_named("flow_preludes_given_up") - before;
	assert_true(up > 50 && up < 95);
	assert_int_equal(take(p, 100).bytes, 5);
	assert_int_equal(take(p, 2).bytes, 0); /* not even its record is left */
	assert_int_equal(counter_named("flow_preludes_lost"), lost);
	put(p, up + 1, S, 0, "x", 200); /* the last one that was given up: its record is */
	assert_int_equal(take(p, up + 1).bytes, 0);
	assert_int_equal(counter_named("flow_preludes_lost"), lost + 1);
	prelude_free(p);
	assert_int_equal(counter_named("flow_bytes_prelude_held"), 0);
}

static void test_silence_and_drop_forget(void **state)
{
	struct prelude *p = make(PRELUDE_KEEP);
	uint64_t before = counter_named("flow_preludes_given_up");

	(void)state;
	put(p, 1, C, 0, "one", 1);
	put(p, 2, C, 0, "two", 1);
	put(p, 2, S, 0, "TWO", 500);
	prelude_expire(p, IDLE);
	assert_int_equal(counter_named("flow_preludes_given_up"), before);
	prelude_expire(p, IDLE + 1);
	assert_int_equal(counter_named("flow_preludes_given_up"), before + 1);
	assert_int_equal(prelude_drop(p, 2), 6);
	assert_int_equal(prelude_drop(p, 2), 0);
	assert_string_equal(take(p, 1).text, "");
	assert_string_equal(take(p, 2).text, "");
	put(p, 2, C, 0, "again", 2); /* another connection with the number of one that is over */
	assert_string_equal(take(p, 2).text, "C@2:again;");
	prelude_free(p);
}

static void test_roles_are_the_connections_not_the_agents(void **state)
{
	struct prelude *p = make(PRELUDE_STITCH);
	struct stitch_seam *seam;
	struct told t = {.bytes = 0};

	(void)state;
	put(p, 1, SSLC_DIR_OUT, 0, "220 s\r\n250-s\r\n250 STARTTLS\r\n220 go\r\n", 1);
	put(p, 1, SSLC_DIR_IN, 0, "EHLO c\r\nSTARTTLS\r\n", 2);
	prelude_take(p, 1, false, on_part, &t, &seam);
	assert_string_equal(t.side[SSLC_DIR_OUT], "220 s\r\n");
	assert_string_equal(t.side[SSLC_DIR_IN], "");
	prelude_free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_keep_tells_all_in_order_with_its_time),
		cmocka_unit_test(test_stitch_is_the_same_for_every_cut),
		cmocka_unit_test(test_flows_do_not_mix),
		cmocka_unit_test(test_a_hello_in_what_moved_last_is_not_told),
		cmocka_unit_test(test_a_hello_that_was_answered_is_told),
		cmocka_unit_test(test_a_hole_loses_the_beginning),
		cmocka_unit_test(test_too_long_a_direction_loses_the_beginning),
		cmocka_unit_test(test_memory_is_bounded_the_oldest_go),
		cmocka_unit_test(test_silence_and_drop_forget),
		cmocka_unit_test(test_roles_are_the_connections_not_the_agents),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
