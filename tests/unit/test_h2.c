/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of collector/http/h2.c: frames made by hand, told as lines of text. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "counters.h"
#include "http/h2.h"
#include "h2_build.h"

struct rig {
	struct h2 *h2;
	struct h2_list list;
	char told[1 << 16];
	size_t len;
};

__attribute__((format(printf, 2, 3))) static void tell(struct rig *r, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	r->len += (size_t)vsnprintf(r->told + r->len, sizeof(r->told) - r->len, fmt, ap);
	va_end(ap);
	assert_true(r->len < sizeof(r->told));
}

static const char *who(enum flow_dir dir)
{
	return dir == FLOW_C2S ? "c" : "s";
}

static void tell_list(struct rig *r, const struct h2_list *list)
{
	if (list->n > 20) {
		tell(r, " %u fields", list->n);
		return;
	}
	for (unsigned i = 0; i < list->n; i++) {
		struct span n = h2_name(list, i), v = h2_value(list, i);

		tell(r, " %.*s=%.*s", (int)n.len, (const char *)n.p, (int)v.len, (const char *)v.p);
	}
}

static void on_headers(void *ctx, enum flow_dir dir, uint32_t stream, const struct h2_list *list,
		       bool end)
{
	tell(ctx, "%s%u head", who(dir), stream);
	tell_list(ctx, list);
	tell(ctx, end ? " end\n" : "\n");
}

static void on_push(void *ctx, uint32_t stream, uint32_t promised, const struct h2_list *list)
{
	tell(ctx, "s%u push %u", stream, promised);
	tell_list(ctx, list);
	tell(ctx, "\n");
}

static void on_headers_lost(void *ctx, enum flow_dir dir, uint32_t stream, uint32_t promised)
{
	tell(ctx, "%s%u head lost %u\n", who(dir), stream, promised);
}

static void on_data_begin(void *ctx, enum flow_dir dir, uint32_t stream, uint32_t len)
{
	tell(ctx, "%s%u data %u [", who(dir), stream, len);
}

static void on_data(void *ctx, enum flow_dir dir, uint32_t stream, struct span bytes)
{
	(void)dir, (void)stream;
	tell(ctx, "%.*s", (int)bytes.len, (const char *)bytes.p);
}

static void on_data_gap(void *ctx, enum flow_dir dir, uint32_t stream, uint32_t len)
{
	(void)dir, (void)stream;
	tell(ctx, "<%u>", len);
}

static void on_data_end(void *ctx, enum flow_dir dir, uint32_t stream, bool end)
{
	(void)dir, (void)stream;
	tell(ctx, end ? "] end\n" : "]\n");
}

static void on_reset(void *ctx, enum flow_dir dir, uint32_t stream, uint32_t code)
{
	tell(ctx, "%s%u reset %u\n", who(dir), stream, code);
}

static void on_goaway(void *ctx, enum flow_dir dir, uint32_t last)
{
	tell(ctx, "%s goaway %u\n", who(dir), last);
}

static void on_lost(void *ctx, enum flow_dir dir)
{
	tell(ctx, "%s lost\n", who(dir));
}

static void on_unframed(void *ctx, enum flow_dir dir, size_t len)
{
	tell(ctx, "%s unframed %zu\n", who(dir), len);
}

static const struct h2_ops ops = {on_headers, on_push,     on_headers_lost, on_data_begin,
				  on_data,    on_data_gap, on_data_end,     on_reset,
				  on_goaway,  on_lost,     on_unframed};

static struct rig *rig_new(bool late)
{
	struct rig *r = calloc(1, sizeof(*r));

	h2_list_init(&r->list);
	assert_int_equal(h2_new(&r->h2, late, &ops, r, &r->list), 0);
	return r;
}

static void rig_free(struct rig *r)
{
	h2_free(r->h2);
	h2_list_fini(&r->list);
	free(r);
}

/* In memory of exactly their size, so that a read behind them is seen by ASan. */
static int give(struct rig *r, enum flow_dir dir, struct span bytes, size_t piece)
{
	int err = 0;

	for (size_t at = 0; at < bytes.len && !err;) {
		size_t n = bytes.len - at < piece ? bytes.len - at : piece;
		uint8_t *copy = malloc(n);

		memcpy(copy, bytes.p + at, n);
		err = h2_bytes(r->h2, dir, span_of(copy, n), at + n == bytes.len);
		free(copy);
		at += n;
	}
	return err;
}

static void give_buf(struct rig *r, enum flow_dir dir, struct buf *b)
{
	assert_false(b->bad);
	assert_int_equal(give(r, dir, buf_span(b), SIZE_MAX), 0);
	buf_reset(b);
}

static void expect(struct rig *r, const char *told)
{
	assert_string_equal(r->told, told);
	r->len = 0;
	r->told[0] = '\0';
}

/* A connection after its prefaces, with nothing told yet. */
static struct rig *begun(struct buf *b)
{
	struct rig *r = rig_new(false);
	struct buf s;

	buf_init(b, 1 << 21);
	buf_init(&s, 1 << 10);
	h2_start(b, &s);
	give_buf(r, FLOW_C2S, b);
	give_buf(r, FLOW_S2C, &s);
	buf_fini(&s);
	expect(r, "");
	return r;
}

static void end(struct rig *r, struct buf *b)
{
	buf_fini(b);
	rig_free(r);
}

/* Every kind of frame; padding, priority and CONTINUATION too. */
static void put_everything(struct buf *b)
{
	static const uint8_t padded[] = "\3hello\0\0\0", zeros[8];
	struct buf block;

	buf_init(&block, 1 << 10);
	h2_headers(b, 1, ":method: GET\n:path: /a\n", false);
	h2_data(b, 1, "body", false);
	h2_frame(b, 0, H2_PADDED | H2_END_STREAM, 1, padded, 9);
	h2_frame(b, 2, 0, 3, zeros, 5);      /* PRIORITY */
	h2_frame(b, 6, 0, 0, zeros, 8);      /* PING */
	h2_frame(b, 8, 0, 0, "\0\0\1\0", 4); /* WINDOW_UPDATE */
	h2_frame(b, 77, 255, 9, "whatever", 8);
	wr_bytes(&block, "\2\0\0\0\1\7", 6); /* pad length, priority */
	h2_literals(&block, "a: 1\n");
	wr_bytes(&block, "\0\0", 2);
	h2_frame(b, 1, H2_PADDED | H2_PRIORITY, 3, block.p, block.len);
	h2_frame(b, 9, 0, 3, NULL, 0);
	buf_reset(&block);
	h2_literals(&block, "b: 2\nc: 3\n");
	h2_frame(b, 9, 0, 3, block.p, 3);
	h2_frame(b, 9, H2_END_HEADERS, 3, block.p + 3, block.len - 3);
	h2_frame(b, 3, 0, 3, "\0\0\0\10", 4);            /* RST_STREAM */
	h2_frame(b, 7, 0, 0, "\0\0\0\5\0\0\0\0bye", 11); /* GOAWAY */
	h2_frame(b, 0, 0, 5, NULL, 0);
	buf_fini(&block);
}

static const char everything[] = "c1 head :method=GET :path=/a\n"
				 "c1 data 4 [body]\n"
				 "c1 data 5 [hello] end\n"
				 "c3 head a=1 b=2 c=3\n"
				 "c3 reset 8\n"
				 "c goaway 5\n"
				 "c5 data 0 []\n";

static void test_every_kind_of_frame(void **state)
{
	struct buf b;
	struct rig *r = begun(&b);

	(void)state;
	put_everything(&b);
	give_buf(r, FLOW_C2S, &b);
	expect(r, everything);
	end(r, &b);
}

static void test_bytes_may_be_cut_anywhere(void **state)
{
	(void)state;
	for (size_t piece = 1; piece < 40; piece++) {
		struct rig *r = rig_new(false);
		struct buf b, s;

		buf_init(&b, 1 << 16);
		buf_init(&s, 1 << 10);
		h2_start(&b, &s);
		put_everything(&b);
		assert_int_equal(give(r, FLOW_C2S, buf_span(&b), piece), 0);
		expect(r, everything);
		buf_fini(&b);
		buf_fini(&s);
		rig_free(r);
	}
}

static void test_push(void **state)
{
	struct buf b, block;
	struct rig *r = begun(&b);

	(void)state;
	buf_init(&block, 1 << 10);
	wr_u32be(&block, 2);
	h2_literals(&block, ":path: /style.css\n");
	h2_frame(&b, 5, H2_END_HEADERS, 1, block.p, block.len);
	give_buf(r, FLOW_S2C, &b);
	expect(r, "s1 push 2 :path=/style.css\n");
	h2_frame(&b, 5, H2_END_HEADERS, 1, block.p, block.len);
	assert_int_equal(give(r, FLOW_C2S, buf_span(&b), SIZE_MAX), -EBADMSG);
	buf_fini(&block);
	end(r, &b);
}

static void test_what_breaks_a_connection(void **state)
{
	static const struct {
		uint8_t kind, flags;
		uint32_t stream;
		const char *payload;
		size_t len;
	} frames[] = {
		{0, 0, 0, "x", 1},        /* DATA of no stream */
		{1, 4, 0, NULL, 0},       /* HEADERS of no stream */
		{9, 4, 1, NULL, 0},       /* CONTINUATION of nothing */
		{0, 8, 1, "\5abc", 4},    /* more padding than frame */
		{0, 8, 1, NULL, 0},       /* no room for its length */
		{1, 0x24, 1, "abc", 3},   /* no room for its priority */
		{3, 0, 1, "abc", 3},      /* RST_STREAM of 3 bytes */
		{4, 0, 0, "abcde", 5},    /* SETTINGS of 5 bytes */
		{4, 0, 1, NULL, 0},       /* SETTINGS of a stream */
		{6, 0, 0, "abc", 3},      /* PING of 3 bytes */
		{7, 0, 0, "abc", 3},      /* GOAWAY of 3 bytes */
		{1, 4, 1, "\x80", 1},     /* a block that is none */
		{5, 4, 1, "\0\0\0\0", 4}, /* promises stream 0 */
	};

	(void)state;
	for (size_t i = 0; i < sizeof(frames) / sizeof(frames[0]); i++) {
		struct buf b;
		struct rig *r = begun(&b);

		h2_frame(&b, frames[i].kind, frames[i].flags, frames[i].stream, frames[i].payload,
			 frames[i].len);
		if (give(r, FLOW_S2C, buf_span(&b), SIZE_MAX) != -EBADMSG)
			fail_msg("frame %zu was taken", i);
		end(r, &b);
	}
}

static void test_a_block_is_not_interrupted(void **state)
{
	struct buf b;
	struct rig *r = begun(&b);

	(void)state;
	h2_frame(&b, 1, 0, 1, NULL, 0);
	h2_data(&b, 1, "x", false);
	assert_int_equal(give(r, FLOW_C2S, buf_span(&b), SIZE_MAX), -EBADMSG);
	end(r, &b);
}

static void test_wrong_preface(void **state)
{
	struct rig *r = rig_new(false);

	(void)state;
	assert_int_equal(h2_bytes(r->h2, FLOW_C2S, span_str("PRI * HTTP/3.0\r\n"), true), -EBADMSG);
	rig_free(r);
}

static void test_hole_within_data_is_told_with_its_length(void **state)
{
	struct buf b;
	struct rig *r = begun(&b);

	(void)state;
	h2_data(&b, 1, "0123456789", true);
	h2_headers(&b, 3, "a: 1\n", true);
	assert_int_equal(give(r, FLOW_S2C, span_of(b.p, 12), SIZE_MAX), 0);
	assert_int_equal(h2_gap(r->h2, FLOW_S2C, 5), 0);
	assert_int_equal(give(r, FLOW_S2C, span_of(b.p + 17, b.len - 17), SIZE_MAX), 0);
	expect(r, "s1 data 10 [012<5>89] end\ns3 head a=1 end\n");
	/* To the end of the frame: the next one begins right behind the hole. */
	assert_int_equal(give(r, FLOW_S2C, span_of(b.p, 12), SIZE_MAX), 0);
	assert_int_equal(h2_gap(r->h2, FLOW_S2C, 7), 0);
	assert_int_equal(give(r, FLOW_S2C, span_of(b.p + 19, b.len - 19), 1), 0);
	expect(r, "s1 data 10 [012<7>] end\ns3 head a=1 end\n");
	end(r, &b);
}

static void test_hole_within_a_block_loses_it_and_the_table(void **state)
{
	static const uint8_t indexing[] = "\x40\1a\1b", indexed[] = "\xbe";
	struct buf b;
	struct rig *r = begun(&b);

	(void)state;
	h2_frame(&b, 1, H2_END_HEADERS, 1, indexing, 5);
	h2_frame(&b, 1, H2_END_HEADERS, 3, indexed, 1);
	give_buf(r, FLOW_C2S, &b);
	expect(r, "c1 head a=b\nc3 head a=b\n");
	h2_frame(&b, 1, H2_END_HEADERS, 5, indexing, 5);
	assert_int_equal(give(r, FLOW_C2S, span_of(b.p, 10), SIZE_MAX), 0);
	assert_int_equal(h2_gap(r->h2, FLOW_C2S, 2), 0);
	assert_int_equal(give(r, FLOW_C2S, span_of(b.p + 12, 2), SIZE_MAX), 0);
	expect(r, "c5 head lost 0\n");
	buf_reset(&b);
	h2_frame(&b, 1, H2_END_HEADERS, 7, indexed, 1);
	give_buf(r, FLOW_C2S, &b);
	expect(r, "c7 head x-unknown-62=\n");
	end(r, &b);
}

static void test_hole_across_frames_is_survived_at_the_next_call(void **state)
{
	struct buf b;
	struct rig *r = begun(&b);

	(void)state;
	h2_data(&b, 1, "0123456789", false);
	assert_int_equal(give(r, FLOW_S2C, span_of(b.p, 12), SIZE_MAX), 0);
	assert_int_equal(h2_gap(r->h2, FLOW_S2C, 50), 0);
	expect(r, "s1 data 10 [012s lost\n");
	assert_int_equal(h2_gap(r->h2, FLOW_S2C, 50), 0); /* no difference */
	assert_int_equal(give(r, FLOW_S2C, span_str("tail of something"), SIZE_MAX), 0);
	expect(r, "s unframed 17\n");
	buf_reset(&b);
	h2_headers(&b, 3, "a: 1\n", true);
	h2_data(&b, 1, "x", true);
	give_buf(r, FLOW_S2C, &b);
	expect(r, "s3 head a=1 end\ns1 data 1 [x] end\n");
	h2_data(&b, 1, "other way", true);
	give_buf(r, FLOW_C2S, &b);
	expect(r, "c1 data 9 [other way] end\n");
	end(r, &b);
}

static void test_late_join_finds_the_first_frame(void **state)
{
	struct rig *r = rig_new(true);
	struct buf b;

	(void)state;
	buf_init(&b, 1 << 10);
	assert_int_equal(give(r, FLOW_S2C, span_str("...rest of a body..."), SIZE_MAX), 0);
	h2_frame(&b, 1, H2_END_HEADERS, 7, "\x88\xc0", 2);
	give_buf(r, FLOW_S2C, &b);
	h2_frame(&b, 1, H2_END_HEADERS, 9, "\x82\xbe", 2);
	give_buf(r, FLOW_C2S, &b);
	expect(r, "s unframed 20\ns7 head :status=200 x-unknown-64=\n"
		  "c9 head :method=GET x-unknown-62=\n");
	end(r, &b);
}

static void test_late_join_may_see_the_preface(void **state)
{
	struct rig *r = rig_new(true);
	struct buf b, s;

	(void)state;
	buf_init(&b, 1 << 10);
	buf_init(&s, 1 << 10);
	h2_start(&b, &s);
	h2_headers(&b, 1, "a: 1\n", true);
	give_buf(r, FLOW_C2S, &b);
	expect(r, "c1 head a=1 end\n");
	buf_fini(&s);
	end(r, &b);
}

static void test_large_blocks_are_given_up_and_the_connection_goes_on(void **state)
{
	uint64_t before = counter_named("http1_header_blocks_large");
	char *large = malloc(100000);
	struct buf b;
	struct rig *r = begun(&b);

	(void)state;
	memset(large, 'a', 100000);
	h2_frame(&b, 1, 0, 1, large, 100000);
	h2_frame(&b, 9, 0, 1, large, 100000);
	h2_frame(&b, 9, 0, 1, large, 100000);
	h2_frame(&b, 9, H2_END_HEADERS, 1, large, 100000);
	h2_headers(&b, 3, "a: 1\n", true);
	give_buf(r, FLOW_C2S, &b);
	expect(r, "c1 head lost 0\nc3 head a=1 end\n");
	h2_frame(&b, 1, 0, 5, NULL, 0);
	for (int i = 0; i < 1000; i++)
		h2_frame(&b, 9, 0, 5, NULL, 0);
	h2_frame(&b, 9, H2_END_HEADERS, 5, NULL, 0);
	give_buf(r, FLOW_C2S, &b);
	expect(r, "c5 head lost 0\n");
	assert_int_equal(counter_named("http1_header_blocks_large") - before, 2);
	free(large);
	end(r, &b);
}

/* One entry of the table, named again and again (RFC 9113, 10.5.1). */
static void test_few_bytes_do_not_become_many_fields(void **state)
{
	uint64_t before = counter_named("http1_fields_large");
	char value[2000], indexed[900];
	struct buf b, block;
	struct rig *r = begun(&b);

	(void)state;
	memset(value, 'v', sizeof(value));
	memset(indexed, 0xbe, sizeof(indexed));
	buf_init(&block, 1 << 20);
	wr_bytes(&block, "\x40\1n", 3);
	h2_string(&block, value, sizeof(value));
	wr_bytes(&block, indexed, sizeof(indexed));
	h2_frame(&b, 1, H2_END_HEADERS, 1, block.p, block.len);
	give_buf(r, FLOW_C2S, &b);
	expect(r, "c1 head 35 fields\n"); /* 64 KiB, and twice the block */
	buf_fini(&block);
	assert_true(counter_named("http1_fields_large") > before);
	h2_list_reset(&r->list);
	for (int i = 0; i < 2000; i++)
		h2_list_add(&r->list, span_str("n"), span_str("v"));
	assert_int_equal(r->list.n, H2_FIELDS_MAX);
	end(r, &b);
}

static void test_unfinished_blocks_share_a_limit(void **state)
{
	uint64_t before = counter_named("http1_header_blocks_large");
	struct buf b;
	struct rig *r = begun(&b);

	(void)state;
	h2_frame(&b, 1, 0, 1, "abc", 3);
	give_buf(r, FLOW_C2S, &b);
	assert_int_equal(r->list.blocks, 3);
	r->list.blocks = H2_BLOCKS_MAX - 2; /* others' */
	h2_frame(&b, 9, H2_END_HEADERS, 1, "abc", 3);
	give_buf(r, FLOW_C2S, &b);
	expect(r, "c1 head lost 0\n");
	assert_int_equal(r->list.blocks, H2_BLOCKS_MAX - 5);
	assert_int_equal(counter_named("http1_header_blocks_large") - before, 1);
	end(r, &b);
}

static void test_a_field_may_be_empty(void **state)
{
	struct buf b;
	struct rig *r = begun(&b);

	(void)state;
	h2_frame(&b, 1, H2_END_HEADERS, 1, "\0\0\0", 3);
	give_buf(r, FLOW_C2S, &b);
	expect(r, "c1 head =\n");
	end(r, &b);
}

static void test_guesses(void **state)
{
	struct buf b;

	(void)state;
	assert_int_equal(h2_is_preface(span_str("P")), H2_MAYBE);
	assert_int_equal(h2_is_preface(span_str(H2_PREFACE)), H2_YES);
	assert_int_equal(h2_is_preface(span_str(H2_PREFACE "more")), H2_YES);
	assert_int_equal(h2_is_preface(span_str("POST / HTTP/1.1\r\n")), H2_NO);
	assert_int_equal(h2_is_server_preface(span_str("220 mail")), H2_NO);
	assert_int_equal(h2_is_server_preface(span_of("\0\0\6\4\0\0\0\0\0", 9)), H2_MAYBE);
	assert_int_equal(h2_is_server_preface(span_of("\0\0\7\4\0\0\0\0\0", 9)), H2_NO);
	assert_int_equal(h2_is_server_preface(span_of("\0\0\6", 3)), H2_MAYBE);
	assert_false(h2_is_framed(span_str("GET / HTTP/1.1\r\nHost: a\r\n\r\n")));
	assert_false(h2_is_framed(span_str("HTTP/1.1 200 OK\r\n\r\n")));
	assert_false(h2_is_framed(span_of("\0\0\0\0\0\0\0\0\0\0\0\0", 12)));
	assert_false(h2_is_framed(span_of("\0\0\4\10\0", 5)));
	buf_init(&b, 1 << 10);
	h2_frame(&b, 0x10, 0, 0, "\0\0\0\1u=0", 7); /* PRIORITY_UPDATE (RFC 9218) */
	h2_data(&b, 1, "x", true);
	assert_true(h2_is_framed(buf_span(&b)));
	wr_bytes(&b, "\0\0", 2);
	assert_true(h2_is_framed(buf_span(&b)));
	wr_bytes(&b, "no frame at all", 15);
	assert_false(h2_is_framed(buf_span(&b)));
	buf_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_kind_of_frame),
		cmocka_unit_test(test_bytes_may_be_cut_anywhere),
		cmocka_unit_test(test_push),
		cmocka_unit_test(test_what_breaks_a_connection),
		cmocka_unit_test(test_a_block_is_not_interrupted),
		cmocka_unit_test(test_wrong_preface),
		cmocka_unit_test(test_hole_within_data_is_told_with_its_length),
		cmocka_unit_test(test_hole_within_a_block_loses_it_and_the_table),
		cmocka_unit_test(test_hole_across_frames_is_survived_at_the_next_call),
		cmocka_unit_test(test_late_join_finds_the_first_frame),
		cmocka_unit_test(test_late_join_may_see_the_preface),
		cmocka_unit_test(test_large_blocks_are_given_up_and_the_connection_goes_on),
		cmocka_unit_test(test_few_bytes_do_not_become_many_fields),
		cmocka_unit_test(test_unfinished_blocks_share_a_limit),
		cmocka_unit_test(test_a_field_may_be_empty),
		cmocka_unit_test(test_guesses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
