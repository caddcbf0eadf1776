/* SPDX-License-Identifier: Apache-2.0 */
/*
 * zblock: golden envelopes (tests/vectors/make_frames.py: zstd streams assembled by hand), round
 * trips, cut and broken input, limits. What we compress is also read by libzstd directly, as one
 * stream.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>
#include <cmocka.h>

#include "frame.h"
#include "vector.h"
#include "zblock.h"

static struct zblock_dec *dec_new(void)
{
	struct zblock_dec *d = NULL;

	assert_int_equal(zblock_dec_new(&d), 0);
	return d;
}

static struct zblock_enc *enc_new(int level)
{
	struct zblock_enc *e = NULL;

	assert_int_equal(zblock_enc_new(&e, level), 0);
	return e;
}

/* What a decoder that gets only the first `len` bytes answers. */
static ssize_t decode_first(struct span in, size_t len)
{
	struct zblock_dec *d = dec_new();
	struct zblock z;
	ssize_t n = zblock_decode(d, span_of(in.p, len), &z);

	zblock_dec_free(d);
	return n;
}

static void test_control_and_stored_envelopes_equal_the_golden_bytes(void **state)
{
	struct span frames = vector_read("frame_ping"), want = vector_read("zblock_control");
	struct zblock_enc *e = enc_new(0);
	struct buf b;

	(void)state;
	buf_init(&b, 1 << 16);
	assert_int_equal(zblock_encode(e, ZBLOCK_CONTROL, 0, frames, &b), 0);
	assert_true(span_eq(buf_span(&b), want));
	vector_free(frames);
	vector_free(want);
	buf_reset(&b);
	frames = vector_read("frame_data");
	want = vector_read("zblock_stored");
	assert_int_equal(zblock_encode(e, ZBLOCK_DATA, 1, frames, &b), 0);
	assert_true(span_eq(buf_span(&b), want));
	vector_free(frames);
	vector_free(want);
	buf_fini(&b);
	zblock_enc_free(e);
}

static void test_golden_zstd_stream_decodes_block_by_block(void **state)
{
	struct span in = vector_read("zblock_zstd"), data = vector_read("frame_data"), left = in;
	static const size_t want_len[] = {52, 0, 108};
	struct zblock_dec *d = dec_new();
	struct zblock z;

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		ssize_t n = zblock_decode(d, left, &z);

		assert_true(n > 0);
		assert_int_equal(z.kind, ZBLOCK_DATA);
		assert_int_equal(z.seq, i + 1);
		assert_int_equal(z.frames.len, want_len[i]);
		if (i == 0)
			assert_true(span_eq(z.frames, data));
		left = span_of(left.p + n, left.len - (size_t)n);
	}
	assert_int_equal(z.frames.p[107], 7); /* the run */
	assert_int_equal(left.len, 0);
	zblock_dec_free(d);
	vector_free(in);
	vector_free(data);
}

static void test_a_window_over_the_limit_is_refused(void **state)
{
	struct span in = vector_read("zblock_window");

	(void)state;
	assert_int_equal(decode_first(in, in.len), -EBADMSG);
	vector_free(in);
}

static void test_decode_waits_when_an_envelope_is_cut(void **state)
{
	static const char *const names[] = {"zblock_control", "zblock_stored", "zblock_zstd",
					    "zblock_window"};

	(void)state;
	for (size_t i = 0; i < 4; i++) {
		struct span in = vector_read(names[i]);
		size_t first = ZBLOCK_HEADER_LEN + (in.p[6] << 8 | in.p[7]);

		for (size_t len = 0; len < first; len++)
			assert_int_equal(decode_first(in, len), 0);
		assert_true(decode_first(in, first) != 0);
		vector_free(in);
	}
}

/* Deterministic bytes; `noise` 0: text-like, 255: incompressible. */
static void fill(uint8_t *p, size_t len, uint32_t seed, uint8_t noise)
{
	for (size_t i = 0; i < len; i++) {
		seed = seed * 1664525u + 1013904223u;
		p[i] = (uint8_t)("GET /index.html "[i % 16] ^ (seed >> 24 & noise));
	}
}

#define BLOCKS 40

static size_t block_len(unsigned i)
{
	return i == 7 ? ZBLOCK_RAW_MAX : i % 5 == 3 ? 0 : 1 + i * 7919u % 70000;
}

static void encode_many(int level, struct buf *out, uint8_t *raw)
{
	struct zblock_enc *e = enc_new(level);

	for (unsigned i = 0; i < BLOCKS; i++) {
		fill(raw, block_len(i), i, i % 3 ? 0 : 255);
		assert_int_equal(
			zblock_encode(e, ZBLOCK_DATA, i + 1, span_of(raw, block_len(i)), out), 0);
		assert_int_equal(zblock_encode(e, ZBLOCK_CONTROL, 0, span_of(raw, 3), out), 0);
	}
	zblock_enc_free(e);
}

static void decode_many(const struct buf *in, uint8_t *raw)
{
	struct zblock_dec *d = dec_new();
	struct span left = buf_span(in);
	struct zblock z;

	for (unsigned i = 0; i < 2 * BLOCKS; i++) {
		ssize_t n = zblock_decode(d, left, &z);

		assert_true(n > 0);
		fill(raw, block_len(i / 2), i / 2, i / 2 % 3 ? 0 : 255);
		assert_int_equal(z.seq, i % 2 ? 0 : i / 2 + 1);
		if (i % 2)
			assert_int_equal(z.frames.len, 3);
		else
			assert_true(span_eq(z.frames, span_of(raw, block_len(i / 2))));
		left = span_of(left.p + n, left.len - (size_t)n);
	}
	assert_int_equal(left.len, 0);
	zblock_dec_free(d);
}

static void test_blocks_of_every_size_and_level_come_back(void **state)
{
	static const int levels[] = {0, 1, 3, 9};
	uint8_t *raw = malloc(ZBLOCK_RAW_MAX);

	(void)state;
	assert_non_null(raw);
	for (size_t i = 0; i < 4; i++) {
		struct buf b;

		buf_init(&b, 16 << 20);
		encode_many(levels[i], &b, raw);
		decode_many(&b, raw);
		buf_fini(&b);
	}
	free(raw);
}

static void test_bytes_that_do_not_compress_stay_within_the_wire_limit(void **state)
{
	uint8_t *raw = malloc(ZBLOCK_RAW_MAX);
	struct zblock_enc *e = enc_new(1);
	struct buf b;

	(void)state;
	assert_non_null(raw);
	buf_init(&b, ZBLOCK_HEADER_LEN + ZBLOCK_WIRE_MAX);
	fill(raw, ZBLOCK_RAW_MAX, 1, 255);
	for (unsigned i = 1; i < 4; i++) {
		buf_reset(&b);
		assert_int_equal(zblock_encode(e, ZBLOCK_DATA, i, span_of(raw, ZBLOCK_RAW_MAX), &b),
				 0);
		assert_true(b.len > ZBLOCK_RAW_MAX);
	}
	buf_fini(&b);
	zblock_enc_free(e);
	free(raw);
}

static void test_the_second_alike_block_is_much_smaller_than_the_first(void **state)
{
	struct zblock_enc *e = enc_new(1);
	uint8_t raw[2000];
	struct buf b;
	size_t first;

	(void)state;
	fill(raw, sizeof(raw), 5, 63);
	buf_init(&b, 1 << 16);
	assert_int_equal(zblock_encode(e, ZBLOCK_DATA, 1, span_of(raw, sizeof(raw)), &b), 0);
	first = b.len;
	assert_int_equal(zblock_encode(e, ZBLOCK_DATA, 2, span_of(raw, sizeof(raw)), &b), 0);
	assert_true(b.len - first < first / 10);
	buf_fini(&b);
	zblock_enc_free(e);
}

static void test_a_stored_block_is_its_header_and_then_the_bytes(void **state)
{
	struct span frames = vector_read("frame_data"), want = vector_read("zblock_stored");
	struct zblock_enc *e = enc_new(1);
	struct buf b;

	(void)state;
	buf_init(&b, 1 << 16);
	assert_int_equal(zblock_encode_stored(e, 1, frames.len, &b), 0);
	wr_bytes(&b, frames.p, frames.len);
	assert_true(span_eq(buf_span(&b), want));
	assert_int_equal(zblock_encode_stored(e, 2, ZBLOCK_RAW_MAX + 1, &b), -EMSGSIZE);
	assert_int_equal(zblock_encode_stored(e, 2, 1, &b), -EIO); /* spent */
	buf_fini(&b);
	zblock_enc_free(e);
	vector_free(frames);
	vector_free(want);
}

/* How many of `n` blocks are compressed; a decoder gets them all. */
static unsigned n_compressed(struct zblock_enc *e, struct zblock_dec *d, uint64_t *seq, unsigned n,
			     unsigned bits)
{
	static uint8_t raw[1 << 16];
	unsigned compressed = 0;
	struct zblock z;
	struct buf b;

	buf_init(&b, 1 << 20);
	for (unsigned i = 0; i < n; i++) {
		fill(raw, sizeof(raw), (uint32_t)++ * seq, (uint8_t)bits);
		buf_reset(&b);
		if (zblock_enc_pays(e)) {
			compressed++;
			assert_int_equal(
				zblock_encode(e, ZBLOCK_DATA, *seq, span_of(raw, sizeof(raw)), &b),
				0);
		} else {
			assert_int_equal(zblock_encode_stored(e, *seq, sizeof(raw), &b), 0);
			wr_bytes(&b, raw, sizeof(raw));
		}
		assert_true(zblock_decode(d, buf_span(&b), &z) == (ssize_t)b.len);
		assert_true(span_eq(z.frames, span_of(raw, sizeof(raw))));
	}
	buf_fini(&b);
	return compressed;
}

static void test_what_does_not_compress_is_tried_now_and_then_only(void **state)
{
	struct zblock_enc *e = enc_new(1), *none = enc_new(0);
	struct zblock_dec *d = dec_new();
	uint64_t seq = 0;

	(void)state;
	assert_int_equal(n_compressed(e, d, &seq, 20, 7), 20);
	assert_in_range(n_compressed(e, d, &seq, 1000, 255), 5, 25);
	/* Found out by the next try, and never in doubt from then on. */
	assert_in_range(n_compressed(e, d, &seq, 200, 7), 130, 200);
	assert_int_equal(n_compressed(e, d, &seq, 20, 7), 20);
	assert_false(zblock_enc_pays(none));
	zblock_enc_free(e);
	zblock_enc_free(none);
	zblock_dec_free(d);
}

static void test_our_blocks_are_one_stream_for_any_zstd_reader(void **state)
{
	struct zblock_enc *e = enc_new(3);
	ZSTD_DCtx *z = ZSTD_createDCtx();
	uint8_t raw[3000], back[4000];
	struct buf b;

	(void)state;
	buf_init(&b, 1 << 16);
	for (uint32_t i = 0; i < 5; i++) {
		ZSTD_outBuffer to = {.dst = back, .size = sizeof(back)};
		ZSTD_inBuffer in;

		fill(raw, sizeof(raw), i, 15);
		buf_reset(&b);
		assert_int_equal(
			zblock_encode(e, ZBLOCK_DATA, i + 1, span_of(raw, sizeof(raw)), &b), 0);
		assert_int_equal(b.p[1], 1);
		in = (ZSTD_inBuffer){.src = b.p + 20, .size = b.len - 20};
		assert_false(ZSTD_isError(ZSTD_decompressStream(z, &to, &in)));
		assert_int_equal(in.pos, in.size);
		assert_true(span_eq(span_of(back, to.pos), span_of(raw, sizeof(raw))));
	}
	ZSTD_freeDCtx(z);
	buf_fini(&b);
	zblock_enc_free(e);
}

/* The header of zblock_stored (or _zstd) with one field changed. */
static ssize_t with_u32(const char *name, size_t at, uint32_t v)
{
	struct span in = vector_read(name);
	struct buf b;
	ssize_t n;

	buf_init(&b, 1 << 16);
	wr_bytes(&b, in.p, in.len);
	wr_u32be_at(&b, at, v);
	n = decode_first(buf_span(&b), b.len);
	buf_fini(&b);
	vector_free(in);
	return n;
}

static void test_broken_headers_are_refused(void **state)
{
	(void)state;
	assert_int_equal(with_u32("zblock_stored", 0, 0x02000000), 72);       /* as it is */
	assert_int_equal(with_u32("zblock_stored", 0, 0x00000000), -EBADMSG); /* kind */
	assert_int_equal(with_u32("zblock_stored", 0, 0x03000000), -EBADMSG);
	assert_int_equal(with_u32("zblock_stored", 0, 0x02020000), -EBADMSG); /* unknown flag */
	assert_int_equal(with_u32("zblock_stored", 0, 0x02000001), -EBADMSG); /* reserved */
	assert_int_equal(with_u32("zblock_stored", 0, 0x01000000),
			 -EBADMSG);                                   /* control with a number */
	assert_int_equal(with_u32("zblock_stored", 16, 0), -EBADMSG); /* block without one */
	assert_int_equal(with_u32("zblock_stored", 4, 51),
			 -EBADMSG); /* stored, yet lengths differ */
	assert_int_equal(with_u32("zblock_stored", 4, ZBLOCK_WIRE_MAX + 1), -EMSGSIZE);
	assert_int_equal(with_u32("zblock_stored", 8, ZBLOCK_RAW_MAX + 1), -EMSGSIZE);
	assert_int_equal(with_u32("zblock_stored", 0, 0x02010000), -EBADMSG); /* not zstd inside */
	assert_int_equal(with_u32("zblock_control", 0, 0x01010000),
			 -EBADMSG); /* compressed control */
}

static void test_lengths_that_lie_about_zstd_data_are_refused(void **state)
{
	(void)state;
	assert_int_equal(with_u32("zblock_zstd", 8, 52), 20 + 6 + 3 + 52);
	assert_int_equal(with_u32("zblock_zstd", 8, 51), -EBADMSG); /* more comes out */
	assert_int_equal(with_u32("zblock_zstd", 8, 53), -EBADMSG); /* less comes out */
	assert_int_equal(with_u32("zblock_zstd", 8, 0), -EBADMSG);
	assert_int_equal(with_u32("zblock_zstd", 4, 60), -EBADMSG); /* cut inside the zstd block */
}

static void test_a_spent_decoder_stays_spent(void **state)
{
	struct span good = vector_read("zblock_stored");
	struct zblock_dec *d = dec_new();
	struct zblock z;

	(void)state;
	assert_int_equal(
		zblock_decode(d, span_of("\xff\xff\xff\xff\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20),
			      &z),
		-EBADMSG);
	assert_int_equal(zblock_decode(d, good, &z), -EBADMSG);
	zblock_dec_free(d);
	vector_free(good);
}

static void test_frames_or_output_over_a_limit_fail_and_spend_the_encoder(void **state)
{
	static const uint8_t raw[ZBLOCK_RAW_MAX + 1];
	struct buf b;

	(void)state;
	for (int level = 0; level < 2; level++) {
		struct zblock_enc *e = enc_new(level);

		buf_init(&b, 2 << 20);
		assert_int_equal(zblock_encode(e, ZBLOCK_DATA, 1, span_of(raw, sizeof(raw)), &b),
				 -EMSGSIZE);
		assert_int_equal(b.len, 0);
		assert_int_equal(zblock_encode(e, ZBLOCK_DATA, 1, span_of(raw, 1), &b), -EIO);
		zblock_enc_free(e);
		buf_fini(&b);
		for (size_t max = 0; max < 24; max += 23) {
			e = enc_new(level);
			buf_init(&b, max);
			assert_int_equal(zblock_encode(e, ZBLOCK_DATA, 1, span_of(raw, 4), &b),
					 -EMSGSIZE);
			assert_int_equal(b.len, 0);
			zblock_enc_free(e);
			buf_fini(&b);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_control_and_stored_envelopes_equal_the_golden_bytes),
		cmocka_unit_test(test_golden_zstd_stream_decodes_block_by_block),
		cmocka_unit_test(test_a_window_over_the_limit_is_refused),
		cmocka_unit_test(test_decode_waits_when_an_envelope_is_cut),
		cmocka_unit_test(test_blocks_of_every_size_and_level_come_back),
		cmocka_unit_test(test_bytes_that_do_not_compress_stay_within_the_wire_limit),
		cmocka_unit_test(test_the_second_alike_block_is_much_smaller_than_the_first),
		cmocka_unit_test(test_a_stored_block_is_its_header_and_then_the_bytes),
		cmocka_unit_test(test_what_does_not_compress_is_tried_now_and_then_only),
		cmocka_unit_test(test_our_blocks_are_one_stream_for_any_zstd_reader),
		cmocka_unit_test(test_broken_headers_are_refused),
		cmocka_unit_test(test_lengths_that_lie_about_zstd_data_are_refused),
		cmocka_unit_test(test_a_spent_decoder_stays_spent),
		cmocka_unit_test(test_frames_or_output_over_a_limit_fail_and_spend_the_encoder),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
