/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of collector/sinks/cut.c: a forged conversation loses any one packet on its way; the
 * reader of packet_check.h must see a sound connection up to there, its end, and nothing else of
 * it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "sinks/cut.h"
#include "forge.h"
#include "packet_check.h"

#define FRAMES_MAX 200

/* A conversation as forge makes it. */
struct talk {
	uint8_t bytes[FRAMES_MAX][1600];
	size_t len[FRAMES_MAX];
	unsigned n;
	struct forge_flow flow;
	struct forge_link link;
	uint8_t frame[FORGE_FRAME_MAX];
};

static void keep(void *ctx, struct span l2, uint64_t ts_ns, bool first)
{
	struct talk *t = ctx;

	(void)ts_ns, (void)first;
	assert_true(t->n < FRAMES_MAX && l2.len <= sizeof(t->bytes[0]));
	memcpy(t->bytes[t->n], l2.p, l2.len);
	t->len[t->n++] = l2.len;
}

static struct span frame_of(struct talk *t, unsigned i)
{
	return span_of(t->bytes[i], t->len[i]);
}

/* Appended to what was said before. */
static void converse(struct talk *t, uint8_t family, uint32_t incarnation, uint16_t vlan)
{
	static const uint8_t zero[5000];
	struct forge_out out = {.emit = keep, .ctx = t, .frame = t->frame, .link = &t->link};
	struct frame_flow_open m = {.session = {3},
				    .family = family,
				    .client_addr = {10, 0, 0, 1},
				    .server_addr = {10, 0, 0, 2},
				    .client_port = 5000,
				    .server_port = 443};

	t->link = forge_link_default;
	t->link.vlan = vlan;
	forge_init(&t->flow, &m, incarnation, 1500);
	t->flow.vlan = vlan ? 9 : 0;
	forge_data(&t->flow, &out, FLOW_C2S, span_of(zero, 100), true, 1);
	forge_data(&t->flow, &out, FLOW_S2C, span_of(zero, sizeof(zero)), true, 2);
	forge_data(&t->flow, &out, FLOW_C2S, span_of(zero, 300), true, 3);
	forge_gap(&t->flow, &out, FLOW_S2C, 700, 3);
	forge_data(&t->flow, &out, FLOW_S2C, span_of(zero, 2000), true, 4);
	forge_fin(&t->flow, &out, FLOW_S2C, 5);
	forge_fin(&t->flow, &out, FLOW_C2S, 6);
}

static struct check *a_check(uint16_t vlan)
{
	struct check *k = calloc(1, sizeof(*k));

	k->mtu = 1500;
	k->outer_vlan = vlan;
	return k;
}

static void see(struct check *k, struct span l2)
{
	uint8_t *copy = malloc(l2.len); /* for the sanitizer */

	memcpy(copy, l2.p, l2.len);
	check_frame(k, copy, l2.len, k->packets, true);
	free(copy);
}

/* What an output does: asks before it sends, tells what it could not. Frame `lose` is lost. */
static void send_all(struct talk *t, struct cut *c, struct check *k, unsigned lose)
{
	for (unsigned i = 0; i < t->n; i++) {
		struct span l2 = frame_of(t, i), rst;

		if (i == lose) {
			assert_true(cut_lost(c, l2, 7));
			assert_false(cut_lost(c, l2, 8));
		} else if (!cut_any(c) || !cut_drops(c, l2)) {
			see(k, l2);
		}
		rst = cut_next(c);
		if (!rst.len)
			continue;
		assert_true(rst.len <= CUT_FRAME_MAX);
		see(k, rst);
	}
}

static void lose_each(uint8_t family, uint16_t vlan)
{
	struct talk *t = calloc(1, sizeof(*t));
	unsigned first;

	converse(t, family, 0, vlan);
	first = t->n;
	converse(t, family, 1, vlan);
	for (unsigned lose = 0; lose < first; lose++) {
		struct check *k = a_check(vlan);
		struct cut *c;

		assert_int_equal(cut_new(&c), 0);
		send_all(t, c, k, lose);
		assert_null(k->err);
		assert_int_equal(check_open_flows(k), 0);
		/* the second conversation is whole, the first one in front of the loss */
		assert_int_equal(k->syns, lose == 0 ? 1 : 2);
		assert_int_equal(k->rsts, lose == 0 ? 0 : 1);
		assert_true(k->payload_bytes >= 7400);
		assert_int_equal(k->gap, lose + 6 < first ? k->gap : 1400);
		assert_false(cut_any(c));
		cut_free(c);
		free(k);
	}
	free(t);
}

static void test_a_connection_ends_where_a_packet_is_missing(void **state)
{
	(void)state;
	lose_each(4, 0);
	lose_each(6, 0);
	lose_each(4, 7);
	lose_each(6, 7);
}

/* As long as the end has not been told, a new beginning would be taken for a part of the old one.
 */
static void test_a_lost_end_is_told_again_before_a_new_beginning(void **state)
{
	struct talk *t = calloc(1, sizeof(*t));
	struct check *k = a_check(0);
	struct cut *c;
	struct span rst;
	unsigned first;

	(void)state;
	converse(t, 4, 0, 0);
	first = t->n;
	converse(t, 4, 1, 0);
	assert_int_equal(cut_new(&c), 0);
	for (unsigned i = 0; i < 5; i++)
		see(k, frame_of(t, i));
	assert_true(cut_lost(c, frame_of(t, 5), 1));
	assert_true(cut_drops(c, frame_of(t, 6)));
	assert_true(cut_drops(c, frame_of(t, first))); /* the SYN, and with it all that follows */
	assert_true(cut_drops(c, frame_of(t, first + 1)));
	rst = cut_next(c);
	assert_false(cut_lost(c, rst, 2));
	assert_true(cut_drops(c, frame_of(t, first)));
	see(k, cut_next(c));
	assert_int_equal(cut_next(c).len, 0);
	assert_true(cut_drops(c, frame_of(t, first + 1)));
	assert_false(cut_drops(c, frame_of(t, first)));
	assert_false(cut_drops(c, frame_of(t, first + 1)));
	assert_null(k->err);
	assert_int_equal(k->rsts, 1);
	cut_free(c);
	free(k);
	free(t);
}

static void test_a_frame_that_waits_becomes_the_end(void **state)
{
	struct talk *t = calloc(1, sizeof(*t)), *other = calloc(1, sizeof(*other));
	struct check *k = a_check(0);
	struct cut *c;

	(void)state;
	converse(t, 4, 0, 0);
	converse(other, 6, 0, 0);
	assert_int_equal(cut_new(&c), 0);
	assert_int_equal(cut_replace(c, t->bytes[7], t->len[7], true), t->len[7]);
	for (unsigned i = 0; i < 6; i++)
		see(k, frame_of(t, i));
	assert_true(cut_lost(c, frame_of(t, 6), 1));
	t->len[7] = cut_replace(c, t->bytes[7], t->len[7], false);
	see(k, frame_of(t, 7));
	assert_null(k->err);
	assert_int_equal(k->rsts, 1);
	assert_int_equal(check_open_flows(k), 0);
	assert_int_equal(cut_next(c).len, 0);
	assert_int_equal(cut_replace(c, t->bytes[8], t->len[8], false), 0);
	assert_int_equal(cut_replace(c, t->bytes[8], t->len[8], true), 54);
	assert_memory_equal(t->bytes[8], t->bytes[7], 54);
	assert_int_equal(cut_replace(c, other->bytes[7], other->len[7], false), other->len[7]);
	/* nobody knows the connection: still none of its bytes */
	assert_true(cut_lost(c, frame_of(other, 0), 1));
	assert_int_equal(cut_replace(c, other->bytes[5], other->len[5], false), 0);
	assert_int_equal(cut_replace(c, other->bytes[5], other->len[5], true), 74);
	assert_int_equal(other->bytes[5][54 + 13], CF_RST | CF_ACK);
	cut_free(c);
	free(k);
	free(t);
	free(other);
}

static void test_what_is_no_segment_is_ignored(void **state)
{
	struct talk *t = calloc(1, sizeof(*t));
	struct cut *c;

	(void)state;
	converse(t, 4, 0, 0);
	assert_int_equal(cut_new(&c), 0);
	for (size_t len = 0; len < 54; len++)
		assert_false(cut_lost(c, span_of(t->bytes[5], len), 1));
	t->bytes[5][23] = 17;
	assert_false(cut_lost(c, frame_of(t, 5), 1));
	t->bytes[5][12] = 0x88;
	assert_false(cut_lost(c, frame_of(t, 5), 1));
	assert_false(cut_drops(c, frame_of(t, 5)));
	assert_false(cut_any(c));
	cut_free(c);
	cut_free(NULL);
	free(t);
}

static void test_the_oldest_is_forgotten(void **state)
{
	struct talk *t = calloc(1, sizeof(*t));
	struct cut *c;

	(void)state;
	converse(t, 4, 0, 0);
	assert_int_equal(cut_new(&c), 0);
	for (unsigned i = 0; i < CUT_FLOWS_MAX + 1; i++) {
		t->bytes[6][34] = (uint8_t)(i >> 8);
		t->bytes[6][35] = (uint8_t)i;
		assert_true(cut_lost(c, frame_of(t, 6), i));
	}
	assert_true(cut_drops(c, frame_of(t, 6)));
	t->bytes[6][34] = t->bytes[6][35] = 0;
	assert_false(cut_drops(c, frame_of(t, 6)));
	cut_expire(c, CUT_FLOWS_MAX, 1);
	assert_true(cut_any(c));
	cut_expire(c, CUT_FLOWS_MAX + 1, 1);
	assert_false(cut_any(c));
	assert_int_equal(cut_next(c).len, 0);
	cut_free(c);
	free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_connection_ends_where_a_packet_is_missing),
		cmocka_unit_test(test_a_lost_end_is_told_again_before_a_new_beginning),
		cmocka_unit_test(test_a_frame_that_waits_becomes_the_end),
		cmocka_unit_test(test_what_is_no_segment_is_ignored),
		cmocka_unit_test(test_the_oldest_is_forgotten),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
