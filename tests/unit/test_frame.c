/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frame: every type against golden bytes that tests/vectors/make_frames.py put together without our
 * code; cut input, limits, fields out of range.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "frame.h"
#include "vector.h"

#define FLOW 0x0102030405060708ull
#define TS   0x1112131415161718ull
#define ID                                                                                         \
	{                                                                                          \
		0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xac,      \
			0xad, 0xae, 0xaf                                                           \
	}

static void put_hello(struct buf *b)
{
	frame_put_hello(b, &(struct frame_hello){.version = 1,
						 .agent = ID,
						 .link = 2,
						 .n_links = 5,
						 .next_seq = 0x2122232425262728ull,
						 .ts_ns = TS,
						 .host = span_str("web-1.example"),
						 .software = span_str("sslcollector 0.1.0")});
}

static void put_welcome(struct buf *b)
{
	frame_put_welcome(b, &(struct frame_welcome){.version = 1,
						     .collector = ID,
						     .n_workers = 4,
						     .resume_seq = 0x3132333435363738ull});
}

static void put_refused(struct buf *b)
{
	frame_put_refused(b, &(struct frame_refused){.code = REFUSE_TOKEN,
						     .text = span_str("token expired")});
}

static void put_flow_open(struct buf *b)
{
	frame_put_flow_open(
		b, &(struct frame_flow_open){.flow = FLOW,
					     .session = ID,
					     .ts_ns = TS,
					     .stream = 0x4142434445464748ull,
					     .transport = 6,
					     .family = 4,
					     .captured_end = FLOW_C2S,
					     .confidence = CONF_EXACT,
					     .client_addr = {192, 0, 2, 1, 9 /* not on the wire */},
					     .server_addr = {198, 51, 100, 7},
					     .client_port = 49152,
					     .server_port = 443,
					     .mss = 1460,
					     .flags = FLOW_OPEN_LATE | FLOW_OPEN_RESUMED,
					     .netns = 0xf0000098,
					     .pid = 4711,
					     .uid = 33,
					     .comm = span_str("curl"),
					     .exe = span_str("/usr/bin/curl"),
					     .container = span_str("docker-1")});
}

static void put_flow_open6(struct buf *b)
{
	frame_put_flow_open(
		b, &(struct frame_flow_open){.flow = FLOW,
					     .session = ID,
					     .ts_ns = TS,
					     .transport = 6,
					     .family = 6,
					     .captured_end = FLOW_S2C,
					     .confidence = CONF_INFERRED,
					     .client_addr = {0x20, 0x01, 0x0d, 0xb8, [15] = 0x01},
					     .server_addr = {0x20, 0x01, 0x0d, 0xb8, [15] = 0xff},
					     .client_port = 1024,
					     .server_port = 8443});
}

static void put_flow_meta(struct buf *b)
{
	frame_put_flow_meta(b, &(struct frame_flow_meta){.flow = FLOW,
							 .key = span_str("sni"),
							 .value = span_str("www.example")});
}

static void put_data(struct buf *b)
{
	frame_put_data(b, &(struct frame_data){.flow = FLOW,
					       .offset = 0x5152535455565758ull,
					       .ts_ns = TS,
					       .dir = FLOW_S2C,
					       .flags = FRAME_DATA_END,
					       .bytes = span_str("GET / HTTP/1.1\r\n")});
}

static void put_gap(struct buf *b)
{
	frame_put_gap(b, &(struct frame_gap){.flow = FLOW,
					     .offset = 0x6162636465666768ull,
					     .len = 0x100000000ull,
					     .ts_ns = TS,
					     .dir = FLOW_S2C});
}

static void put_flow_fin(struct buf *b)
{
	frame_put_flow_fin(b, &(struct frame_flow_fin){.flow = FLOW, .ts_ns = TS, .dir = FLOW_S2C});
}

static void put_flow_close(struct buf *b)
{
	frame_put_flow_close(
		b, &(struct frame_flow_close){.flow = FLOW, .ts_ns = TS, .end = FLOW_END_SHED});
}

static void put_stats(struct buf *b)
{
	frame_put_stats(b, &(struct frame_stats){.name = span_str("ship_bytes_shed"),
						 .value = 0x7172737475767778ull});
}

static void put_ack(struct buf *b)
{
	frame_put_ack(b, &(struct frame_ack){.seq = 0x8182838485868788ull});
}

static void put_ping(struct buf *b)
{
	frame_put_ping(b, &(struct frame_ping){.ts_ns = TS}, false);
}

static void put_pong(struct buf *b)
{
	frame_put_ping(b, &(struct frame_ping){.ts_ns = TS}, true);
}

static void put_ping_clock(struct buf *b)
{
	frame_put_ping(
		b, &(struct frame_ping){.ts_ns = TS, .ahead_ns = -90000000001ll, .trip_ns = 250000},
		false);
}

static void put_pong_clock(struct buf *b)
{
	frame_put_ping(b, &(struct frame_ping){.ts_ns = TS, .came_ns = TS + 7, .left_ns = TS + 9},
		       true);
}

static void put_enroll(struct buf *b)
{
	frame_put_enroll(b, &(struct frame_enroll){.secret = ID,
						   .host = span_str("web-1.example"),
						   .csr_der = span_of("\x30\x03\x02\x01\x05", 5)});
}

static void put_enrolled(struct buf *b)
{
	frame_put_enrolled(b, &(struct frame_enrolled){.cert_pem = span_str("-----CERT-----\n"),
						       .ca_pem = span_str("-----CA-----\n")});
}

/* Decode as `type` and encode again. */
#define AGAIN(type, ...)                                                                           \
	static int again_##type(const struct frame *f, struct buf *b)                              \
	{                                                                                          \
		struct frame_##type m;                                                             \
		int err = frame_get_##type(f, &m);                                                 \
		if (!err)                                                                          \
			frame_put_##type(b, &m __VA_ARGS__);                                       \
		return err;                                                                        \
	}
AGAIN(hello)
AGAIN(welcome)
AGAIN(refused)
AGAIN(flow_open)
AGAIN(flow_meta)
AGAIN(data)
AGAIN(gap)
AGAIN(flow_fin)
AGAIN(flow_close)
AGAIN(stats)
AGAIN(ack)
AGAIN(ping, , f->type == FRAME_PONG)
AGAIN(enroll)
AGAIN(enrolled)

static const struct row {
	const char *vector;
	uint8_t type;
	void (*put)(struct buf *b);
	int (*again)(const struct frame *f, struct buf *b);
} rows[] = {
	{"frame_hello", 1, put_hello, again_hello},
	{"frame_welcome", 2, put_welcome, again_welcome},
	{"frame_refused", 3, put_refused, again_refused},
	{"frame_flow_open", 4, put_flow_open, again_flow_open},
	{"frame_flow_open6", 4, put_flow_open6, again_flow_open},
	{"frame_flow_meta", 5, put_flow_meta, again_flow_meta},
	{"frame_data", 6, put_data, again_data},
	{"frame_gap", 7, put_gap, again_gap},
	{"frame_flow_fin", 8, put_flow_fin, again_flow_fin},
	{"frame_flow_close", 9, put_flow_close, again_flow_close},
	{"frame_stats", 10, put_stats, again_stats},
	{"frame_ack", 11, put_ack, again_ack},
	{"frame_ping", 12, put_ping, again_ping},
	{"frame_pong", 13, put_pong, again_ping},
	{"frame_ping_clock", 12, put_ping_clock, again_ping},
	{"frame_pong_clock", 13, put_pong_clock, again_ping},
	{"frame_enroll", 14, put_enroll, again_enroll},
	{"frame_enrolled", 15, put_enrolled, again_enrolled},
};
#define N_ROWS (sizeof(rows) / sizeof(rows[0]))

static struct frame decoded(struct span in)
{
	struct frame f;

	assert_int_equal(frame_decode(in, &f), in.len);
	return f;
}

static void test_every_type_encodes_to_the_golden_bytes(void **state)
{
	(void)state;
	for (size_t i = 0; i < N_ROWS; i++) {
		struct span want = vector_read(rows[i].vector);
		struct buf b;

		buf_init(&b, FRAME_BODY_MAX);
		rows[i].put(&b);
		assert_false(b.bad);
		assert_int_equal(b.len, want.len);
		assert_memory_equal(b.p, want.p, want.len);
		buf_fini(&b);
		vector_free(want);
	}
}

static void test_every_type_decodes_and_encodes_to_the_same_bytes(void **state)
{
	(void)state;
	for (size_t i = 0; i < N_ROWS; i++) {
		struct span in = vector_read(rows[i].vector);
		struct frame f = decoded(in);
		struct buf b;

		buf_init(&b, FRAME_BODY_MAX);
		assert_int_equal(f.type, rows[i].type);
		assert_int_equal(rows[i].again(&f, &b), 0);
		assert_true(span_eq(buf_span(&b), in));
		buf_fini(&b);
		vector_free(in);
	}
}

static void test_decoded_fields_hold_the_golden_values(void **state)
{
	struct span in = vector_read("frame_flow_open");
	struct frame f = decoded(in);
	struct frame_flow_open m;

	(void)state;
	assert_int_equal(frame_get_flow_open(&f, &m), 0);
	assert_true(m.flow == FLOW && m.ts_ns == TS && m.stream == 0x4142434445464748ull);
	assert_memory_equal(m.session,
			    "\xa0\xa1\xa2\xa3\xa4\xa5\xa6\xa7\xa8\xa9\xaa\xab\xac\xad\xae\xaf", 16);
	assert_int_equal(m.transport, 6);
	assert_int_equal(m.family, 4);
	assert_int_equal(m.captured_end, FLOW_C2S);
	assert_int_equal(m.confidence, CONF_EXACT);
	assert_memory_equal(m.client_addr, "\xc0\x00\x02\x01\0\0\0\0\0\0\0\0\0\0\0\0", 16);
	assert_memory_equal(m.server_addr, "\xc6\x33\x64\x07\0\0\0\0\0\0\0\0\0\0\0\0", 16);
	assert_int_equal(m.client_port, 49152);
	assert_int_equal(m.server_port, 443);
	assert_int_equal(m.mss, 1460);
	assert_int_equal(m.flags, FLOW_OPEN_LATE | FLOW_OPEN_RESUMED);
	assert_true(m.netns == 0xf0000098u && m.pid == 4711 && m.uid == 33);
	assert_true(span_eq(m.comm, span_str("curl")));
	assert_true(span_eq(m.exe, span_str("/usr/bin/curl")));
	assert_true(span_eq(m.container, span_str("docker-1")));
	vector_free(in);
}

static void test_decode_waits_when_a_frame_is_cut(void **state)
{
	(void)state;
	for (size_t i = 0; i < N_ROWS; i++) {
		struct span in = vector_read(rows[i].vector);
		struct frame f = {.type = 77};

		for (size_t len = 0; len < in.len; len++)
			assert_int_equal(frame_decode(span_of(in.p, len), &f), 0);
		assert_int_equal(f.type, 77); /* written only on success */
		vector_free(in);
	}
}

static void test_a_body_cut_anywhere_is_refused_by_every_type(void **state)
{
	(void)state;
	for (size_t i = 0; i < N_ROWS; i++) {
		struct span in = vector_read(rows[i].vector);
		struct frame f = decoded(in);
		bool is_ping = f.type == FRAME_PING || f.type == FRAME_PONG;
		size_t whole = is_ping ? 8 : in.len - FRAME_HEADER_LEN; /* the rest need not be */
		struct buf b;

		buf_init(&b, FRAME_BODY_MAX);
		for (size_t len = 0; len < whole; len++) {
			f.body.len = len;
			assert_int_equal(rows[i].again(&f, &b), -EBADMSG);
		}
		buf_fini(&b);
		vector_free(in);
	}
}

static void test_a_ping_says_all_about_clocks_or_nothing(void **state)
{
	struct span in = vector_read("frame_ping_clock");
	struct frame f = decoded(in);
	struct frame_ping m;

	(void)state;
	for (size_t len = 8; len <= in.len - FRAME_HEADER_LEN; len++) {
		bool all = len == in.len - FRAME_HEADER_LEN;

		f.body.len = len;
		assert_int_equal(frame_get_ping(&f, &m), 0);
		assert_true(m.ts_ns == TS);
		assert_true(m.ahead_ns == (all ? -90000000001ll : 0));
		assert_int_equal(m.trip_ns, all ? 250000 : 0);
	}
	vector_free(in);
}

static void test_bytes_after_the_known_fields_are_ignored(void **state)
{
	(void)state;
	for (size_t i = 0; i < N_ROWS; i++) {
		struct span in = vector_read(rows[i].vector);
		struct frame f = decoded(in);
		struct buf longer, b;

		buf_init(&longer, FRAME_BODY_MAX);
		buf_init(&b, FRAME_BODY_MAX);
		wr_bytes(&longer, f.body.p, f.body.len);
		wr_bytes(&longer, "from a later version", 20);
		f.body = buf_span(&longer);
		assert_int_equal(rows[i].again(&f, &b), 0);
		assert_true(span_eq(buf_span(&b), in));
		buf_fini(&b);
		buf_fini(&longer);
		vector_free(in);
	}
}

static void test_a_full_buf_takes_no_part_of_a_frame(void **state)
{
	(void)state;
	for (size_t i = 0; i < N_ROWS; i++) {
		struct span want = vector_read(rows[i].vector);

		for (size_t max = 3; max < 3 + want.len; max++) {
			struct buf b;

			buf_init(&b, max);
			wr_bytes(&b, "abc", 3);
			rows[i].put(&b);
			assert_true(b.bad);
			assert_int_equal(b.len, 3);
			buf_fini(&b);
		}
		vector_free(want);
	}
}

static void test_a_run_of_frames_is_decoded_one_by_one(void **state)
{
	struct buf b;
	struct frame f;
	ssize_t n;
	size_t at = 0, count = 0;

	(void)state;
	buf_init(&b, FRAME_BODY_MAX);
	for (size_t i = 0; i < N_ROWS; i++)
		rows[i].put(&b);
	for (; (n = frame_decode(span_of(b.p + at, b.len - at), &f)) > 0; at += (size_t)n)
		assert_int_equal(f.type, rows[count++].type);
	assert_int_equal(n, 0);
	assert_int_equal(count, N_ROWS);
	buf_fini(&b);
}

static void test_a_bad_header_is_refused_at_once(void **state)
{
	struct frame f;

	(void)state;
	assert_int_equal(frame_decode(span_of("\0\0\0\0\0\0\0\x01", 8), &f), -EBADMSG);
	assert_int_equal(frame_decode(span_of("\6\0\1\0\0\0\0\x01", 8), &f), -EBADMSG);
	assert_int_equal(frame_decode(span_of("\6\0\0\1\0\0\0\x01", 8), &f), -EBADMSG);
	assert_int_equal(frame_decode(span_of("\6\0\0\0\0\1\0\x01", 8), &f), -EMSGSIZE);
	assert_int_equal(frame_decode(span_of("\6\0\0\0\xff\xff\xff\xff", 8), &f), -EMSGSIZE);
	assert_int_equal(frame_decode(span_of("\6\0\0\0\0\1\0\0", 8), &f),
			 0); /* 65536: allowed, incomplete */
}

static void test_an_unknown_type_is_decoded_and_can_be_skipped(void **state)
{
	struct frame f;

	(void)state;
	assert_int_equal(frame_decode(span_of("\xc8\x05\0\0\0\0\0\x02hi", 10), &f), 10);
	assert_int_equal(f.type, 200);
	assert_int_equal(f.flags, 5);
	assert_true(span_eq(f.body, span_str("hi")));
	assert_true(frame_flow(&f) == 0);
}

static void test_frame_flow_is_the_flow_of_flow_frames_only(void **state)
{
	(void)state;
	for (size_t i = 0; i < N_ROWS; i++) {
		struct span in = vector_read(rows[i].vector);
		struct frame f = decoded(in);
		bool has = rows[i].type >= FRAME_FLOW_OPEN && rows[i].type <= FRAME_FLOW_CLOSE;

		assert_true(frame_flow(&f) == (has ? FLOW : 0));
		f.body.len = 7;
		assert_true(frame_flow(&f) == 0);
		vector_free(in);
	}
}

/* One byte of a golden body changed. */
static int with_byte(const char *name, int (*again)(const struct frame *, struct buf *), size_t at,
		     uint8_t v)
{
	struct span in = vector_read(name);
	struct frame f = decoded(in);
	struct buf b;
	int err;

	((uint8_t *)(uintptr_t)f.body.p)[at] = v;
	buf_init(&b, FRAME_BODY_MAX);
	err = again(&f, &b);
	buf_fini(&b);
	vector_free(in);
	return err;
}

static void test_fields_out_of_range_are_refused(void **state)
{
	(void)state;
	assert_int_equal(with_byte("frame_flow_open", again_flow_open, 41, 5),
			 -EBADMSG); /* family */
	assert_int_equal(with_byte("frame_flow_open", again_flow_open, 41, 6), 0);
	assert_int_equal(with_byte("frame_flow_open", again_flow_open, 42, 2),
			 -EBADMSG); /* captured_end */
	assert_int_equal(with_byte("frame_flow_open", again_flow_open, 43, 4),
			 -EBADMSG);                                             /* confidence */
	assert_int_equal(with_byte("frame_data", again_data, 24, 2), -EBADMSG); /* dir */
	assert_int_equal(with_byte("frame_data", again_data, 25, 0xff),
			 0); /* flags: unknown ones pass */
	assert_int_equal(with_byte("frame_data", again_data, 27, 0), -EBADMSG); /* no bytes */
	assert_int_equal(with_byte("frame_gap", again_gap, 32, 2), -EBADMSG);
	assert_int_equal(with_byte("frame_gap", again_gap, 19, 0), -EBADMSG); /* no length */
	assert_int_equal(with_byte("frame_flow_fin", again_flow_fin, 16, 2), -EBADMSG);
	assert_int_equal(with_byte("frame_flow_close", again_flow_close, 16, 0), -EBADMSG);
	assert_int_equal(with_byte("frame_flow_close", again_flow_close, 16, 7), 0);
	assert_int_equal(with_byte("frame_flow_close", again_flow_close, 16, 8), -EBADMSG);
	assert_int_equal(with_byte("frame_flow_meta", again_flow_meta, 8, 0),
			 -EBADMSG);                                               /* empty key */
	assert_int_equal(with_byte("frame_hello", again_hello, 19, 5), -EBADMSG); /* link 5 of 5 */
	assert_int_equal(with_byte("frame_hello", again_hello, 1, 9),
			 0); /* a later version can say hello */
}

static void test_flow_zero_is_refused(void **state)
{
	struct frame f = {.type = FRAME_FLOW_CLOSE,
			  .body = span_of("\0\0\0\0\0\0\0\0TTTTTTTT\1", 17)};
	struct frame_flow_close m;

	(void)state;
	assert_int_equal(frame_get_flow_close(&f, &m), -EBADMSG);
}

static void test_a_position_beyond_64_bits_is_refused(void **state)
{
	struct frame_data d = {.flow = 1, .offset = UINT64_MAX - 3, .bytes = span_str("abcd")};
	struct frame_gap g = {.flow = 1, .offset = 2, .len = UINT64_MAX - 1};
	struct buf b, again;
	struct frame f;

	(void)state;
	buf_init(&b, 1000);
	buf_init(&again, 1000);
	frame_put_data(&b, &d);
	f = decoded(buf_span(&b));
	assert_int_equal(again_data(&f, &again), -EBADMSG);
	buf_reset(&b);
	frame_put_gap(&b, &g);
	f = decoded(buf_span(&b));
	assert_int_equal(again_gap(&f, &again), -EBADMSG);
	buf_fini(&b);
	buf_fini(&again);
}

static void test_data_over_its_limit_is_refused_both_ways(void **state)
{
	static const uint8_t bytes[FRAME_DATA_MAX + 1];
	struct frame_data d = {.flow = 1, .bytes = span_of(bytes, FRAME_DATA_MAX)};
	struct buf b;
	struct frame f;

	(void)state;
	buf_init(&b, 1 << 20);
	frame_put_data(&b, &d);
	assert_false(b.bad);
	f = decoded(buf_span(&b));
	assert_int_equal(frame_get_data(&f, &d), 0);
	assert_int_equal(d.bytes.len, FRAME_DATA_MAX);
	d.bytes = span_of(bytes, FRAME_DATA_MAX + 1);
	buf_reset(&b);
	frame_put_data(&b, &d);
	assert_true(b.bad);
	assert_int_equal(b.len, 0);
	buf_reset(&b);
	d.bytes.len = 0;
	frame_put_data(&b, &d);
	assert_true(b.bad);

	buf_reset(&b); /* by hand: 32769 bytes */
	wr_u64be(&b, 1);
	wr_zero(&b, 18);
	wr_u16be(&b, FRAME_DATA_MAX + 1);
	wr_bytes(&b, bytes, FRAME_DATA_MAX + 1);
	f = (struct frame){.type = FRAME_DATA, .body = buf_span(&b)};
	assert_int_equal(frame_get_data(&f, &d), -EBADMSG);
	buf_fini(&b);
}

static void test_long_text_is_cut_and_long_certificates_are_refused(void **state)
{
	static char text[20000];
	struct frame_flow_open o = {.flow = 1, .family = 4};
	struct frame_enrolled e = {.cert_pem = span_of(text, FRAME_CERT_MAX + 1)};
	struct buf b;
	struct frame f;

	(void)state;
	memset(text, 'x', sizeof(text));
	o.comm = o.exe = o.container = span_of(text, sizeof(text));
	buf_init(&b, 1 << 20);
	frame_put_flow_open(&b, &o);
	f = decoded(buf_span(&b));
	assert_int_equal(frame_get_flow_open(&f, &o), 0);
	assert_int_equal(o.comm.len, FRAME_TEXT_MAX);
	assert_int_equal(o.exe.len, FRAME_EXE_MAX);
	assert_int_equal(o.container.len, FRAME_TEXT_MAX);
	buf_reset(&b);
	frame_put_enrolled(&b, &e);
	assert_true(b.bad);
	assert_int_equal(b.len, 0);
	buf_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_type_encodes_to_the_golden_bytes),
		cmocka_unit_test(test_every_type_decodes_and_encodes_to_the_same_bytes),
		cmocka_unit_test(test_decoded_fields_hold_the_golden_values),
		cmocka_unit_test(test_decode_waits_when_a_frame_is_cut),
		cmocka_unit_test(test_a_body_cut_anywhere_is_refused_by_every_type),
		cmocka_unit_test(test_a_ping_says_all_about_clocks_or_nothing),
		cmocka_unit_test(test_bytes_after_the_known_fields_are_ignored),
		cmocka_unit_test(test_a_full_buf_takes_no_part_of_a_frame),
		cmocka_unit_test(test_a_run_of_frames_is_decoded_one_by_one),
		cmocka_unit_test(test_a_bad_header_is_refused_at_once),
		cmocka_unit_test(test_an_unknown_type_is_decoded_and_can_be_skipped),
		cmocka_unit_test(test_frame_flow_is_the_flow_of_flow_frames_only),
		cmocka_unit_test(test_fields_out_of_range_are_refused),
		cmocka_unit_test(test_flow_zero_is_refused),
		cmocka_unit_test(test_a_position_beyond_64_bits_is_refused),
		cmocka_unit_test(test_data_over_its_limit_is_refused_both_ways),
		cmocka_unit_test(test_long_text_is_cut_and_long_certificates_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
