/* SPDX-License-Identifier: Apache-2.0 */
/* pass: what an aggregator lets through, cut anywhere, and what ends a pair of links. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "aggregate/pass.h"

static struct buf wire, frames;
static struct zblock_enc *enc;
static struct pass *p;
static struct pass_count count;
static const char *why;

static int setup(void **state)
{
	(void)state;
	buf_init(&wire, 8u << 20);
	buf_init(&frames, 2u << 20);
	assert_int_equal(zblock_enc_new(&enc, 1), 0);
	assert_int_equal(pass_new(&p), 0);
	why = NULL;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	pass_free(p);
	zblock_enc_free(enc);
	buf_fini(&wire);
	buf_fini(&frames);
	return 0;
}

/* ---- what may be said ---- */

static void put(enum zblock_kind kind, uint64_t seq)
{
	assert_int_equal(zblock_encode(enc, kind, seq, buf_span(&frames), &wire), 0);
	buf_reset(&frames);
}

static void put_hello(void)
{
	struct frame_hello m = {.version = SSLC_PROTO_VERSION, .link = 2, .n_links = 3};

	memset(m.agent, 0xa5, sizeof(m.agent));
	m.host = span_str("web\x1b[1");
	m.software = span_str("s");
	frame_put_hello(&frames, &m);
	put(ZBLOCK_CONTROL, 0);
}

static void put_block(uint64_t seq, size_t len)
{
	uint8_t bytes[1000];

	for (size_t at = 0; at < len; at += sizeof(bytes)) {
		struct frame_data m = {
			.flow = 1, .offset = at, .bytes = span_of(bytes, sizeof(bytes))};

		memset(bytes, (int)(at + seq), sizeof(bytes));
		frame_put_data(&frames, &m);
	}
	put(ZBLOCK_DATA, seq);
}

static void put_welcome(void)
{
	struct frame_welcome m = {.version = SSLC_PROTO_VERSION, .n_workers = 1};

	frame_put_welcome(&frames, &m);
	put(ZBLOCK_CONTROL, 0);
}

static void put_ack(uint64_t seq)
{
	struct frame_ack m = {.seq = seq};

	frame_put_ack(&frames, &m);
	put(ZBLOCK_CONTROL, 0);
}

static void put_refused(const char *text)
{
	struct frame_refused m = {.code = REFUSE_BUSY, .text = span_str(text)};

	frame_put_refused(&frames, &m);
	put(ZBLOCK_CONTROL, 0);
}

static int agent_says(void)
{
	int err = pass_agent(p, buf_span(&wire), &count, &why);

	buf_reset(&wire);
	return err;
}

static ssize_t collector_says(void)
{
	ssize_t n = pass_collector(p, buf_span(&wire), &why);

	buf_reset(&wire);
	return n;
}

/* Up to PASS_UP. */
static void greet(void)
{
	put_hello();
	assert_int_equal(agent_says(), 0);
	put_welcome();
	assert_true(collector_says() > 0);
	assert_int_equal(pass_state(p), PASS_UP);
}

/* ---- tests ---- */

static void test_a_hello_is_kept_as_it_came_and_read(void **state)
{
	uint8_t key[PASS_KEY_LEN];
	struct buf copy;

	(void)state;
	memset(key, 0xa5, 16);
	key[16] = 0;
	key[17] = 2;
	put_hello();
	buf_init(&copy, 4096);
	wr_bytes(&copy, wire.p, wire.len);
	for (size_t i = 0; i < copy.len; i++) { /* byte by byte */
		assert_int_equal(pass_state(p), PASS_HELLO);
		assert_int_equal(pass_agent(p, span_of(copy.p + i, 1), &count, &why), 0);
	}
	assert_int_equal(pass_state(p), PASS_ASKED);
	assert_true(span_eq(pass_hello(p), buf_span(&copy)));
	assert_memory_equal(pass_key(p), key, sizeof(key));
	assert_string_equal(pass_host(p), "web?[1");
	pass_hello_sent(p);
	assert_int_equal(pass_hello(p).len, 0);
	buf_fini(&copy);
}

static void test_blocks_go_on_however_they_are_cut(void **state)
{
	static const size_t pieces[] = {1, 7, 19, 20, 21, 4096, SIZE_MAX};

	(void)state;
	for (size_t k = 0; k < sizeof(pieces) / sizeof(pieces[0]); k++) {
		uint64_t blocks = 0;
		struct span left;

		teardown(NULL);
		setup(NULL);
		greet();
		for (uint64_t seq = 1; seq <= 5; seq++) {
			put_block(seq, seq == 3 ? 0 : 20000 * seq);
			put_ack(0); /* any control: pings, flows told again */
		}
		left = buf_span(&wire);
		while (left.len) {
			size_t n = left.len < pieces[k] ? left.len : pieces[k];

			assert_int_equal(pass_agent(p, span_of(left.p, n), &count, &why), 0);
			blocks += count.blocks;
			left = span_of(left.p + n, left.len - n);
		}
		assert_int_equal(blocks, 5);
	}
}

static void test_who_does_not_begin_with_a_hello_is_broken(void **state)
{
	uint8_t zeros[64] = {0};

	(void)state;
	assert_int_equal(pass_agent(p, span_of(zeros, sizeof(zeros)), &count, &why), -EPROTO);
	teardown(NULL);
	setup(NULL);
	put_block(1, 1000);
	assert_int_equal(agent_says(), -EPROTO);
	teardown(NULL);
	setup(NULL);
	put_ack(1);
	assert_int_equal(agent_says(), -EPROTO);
	assert_string_equal(why, "not a hello first");
	teardown(NULL);
	setup(NULL);
	wr_zero(&frames, 5000); /* an envelope that promises more than a hello takes */
	put(ZBLOCK_CONTROL, 0);
	assert_int_equal(pass_agent(p, span_of(wire.p, ZBLOCK_HEADER_LEN), &count, &why), -EPROTO);
	assert_string_equal(why, "too many bytes before hello");
}

static void test_nothing_may_come_before_the_welcome(void **state)
{
	(void)state;
	put_hello();
	put_block(1, 100);
	assert_int_equal(agent_says(), -EPROTO);
	assert_string_equal(why, "does not wait for the welcome");
}

static void test_broken_envelopes_of_an_agent_are_found(void **state)
{
	(void)state;
	greet();
	put_block(1, 1000);
	wr_bytes(&wire, "nonsense that is no header", 26);
	assert_int_equal(agent_says(), -EBADMSG);
	assert_string_equal(why, "broken envelope");
}

static void test_answers_go_on_when_they_are_whole(void **state)
{
	size_t first, all;

	(void)state;
	put_hello();
	assert_int_equal(agent_says(), 0);
	put_welcome();
	first = wire.len;
	put_ack(7);
	all = wire.len;
	for (size_t n = 0; n < first; n++)
		assert_int_equal(pass_collector(p, span_of(wire.p, n), &why), 0);
	assert_int_equal(pass_state(p), PASS_ASKED);
	assert_int_equal(pass_collector(p, span_of(wire.p, first + 5), &why), first);
	assert_int_equal(pass_state(p), PASS_UP);
	assert_int_equal(pass_collector(p, span_of(wire.p + first, all - first), &why),
			 all - first);
}

static void test_a_refusal_goes_on_and_is_the_last(void **state)
{
	size_t first;

	(void)state;
	put_hello();
	assert_int_equal(agent_says(), 0);
	put_refused("no\nroom");
	first = wire.len;
	put_ack(1);
	assert_int_equal(collector_says(), first);
	assert_int_equal(pass_state(p), PASS_REFUSED);
	assert_string_equal(pass_refusal(p), "no?room");
}

static void test_what_no_collector_says_does_not_go_on(void **state)
{
	struct frame_hello hello = {.version = 1, .n_links = 1};

	(void)state;
	put_hello();
	assert_int_equal(agent_says(), 0);
	put_ack(1);
	assert_int_equal(collector_says(), -EPROTO); /* before the welcome */
	teardown(NULL);
	setup(NULL);
	greet();
	put_welcome();
	assert_int_equal(collector_says(), -EPROTO); /* a second one */
	teardown(NULL);
	setup(NULL);
	greet();
	put_block(1, 100);
	assert_int_equal(collector_says(), -EPROTO);
	assert_string_equal(why, "a block from a collector");
	teardown(NULL);
	setup(NULL);
	greet();
	frame_put_hello(&frames, &hello);
	put(ZBLOCK_CONTROL, 0);
	assert_int_equal(collector_says(), -EPROTO);
	teardown(NULL);
	setup(NULL);
	greet();
	wr_bytes(&frames, "half a frame", 5);
	put(ZBLOCK_CONTROL, 0);
	assert_int_equal(collector_says(), -EBADMSG);
	teardown(NULL);
	setup(NULL);
	greet();
	wr_bytes(&wire, "nonsense that is no header", 26);
	assert_true(collector_says() < 0);
}

static void test_unknown_frames_of_a_collector_are_the_agents_affair(void **state)
{
	(void)state;
	greet();
	wr_u8(&frames, 200);
	wr_zero(&frames, 7);
	put(ZBLOCK_CONTROL, 0);
	assert_true(collector_says() > 0);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_a_hello_is_kept_as_it_came_and_read),
		T(test_blocks_go_on_however_they_are_cut),
		T(test_who_does_not_begin_with_a_hello_is_broken),
		T(test_nothing_may_come_before_the_welcome),
		T(test_broken_envelopes_of_an_agent_are_found),
		T(test_answers_go_on_when_they_are_whole),
		T(test_a_refusal_goes_on_and_is_the_last),
		T(test_what_no_collector_says_does_not_go_on),
		T(test_unknown_frames_of_a_collector_are_the_agents_affair),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
