/* SPDX-License-Identifier: Apache-2.0 */
/*
 * zblock: see zblock.h; PROTOCOL.md section 2. Frames in, envelopes out, and back. All compressed
 * blocks of a link are one zstd stream, so a small block profits from what came before it. No I/O;
 * never looks into frames.
 */
#include "zblock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#define FLAG_ZSTD 1u
#define WINDOW_LOG                                                                                 \
	19 /* 512 KiB: what a link costs the collector, whatever level the agent chose             \
	    */

/* Data that do not get smaller: compressed or encrypted before. Tried again after 2, 4, ... blocks.
 */
#define POOR(raw_len) ((raw_len) / 16 * 15)
#define JUDGED_FROM   4096u /* bytes; less says little */
#define POOR_ROWS_MAX 6

struct zblock_enc {
	ZSTD_CCtx *zstd;    /* NULL: stored */
	unsigned poor_rows; /* times in a row that it was not worth it */
	unsigned skip;      /* blocks that are not tried */
	bool spent;
};

struct zblock_dec {
	ZSTD_DCtx *zstd;   /* NULL until the first compressed block */
	struct buf frames; /* of the last envelope */
	bool spent;
};

int zblock_enc_new(struct zblock_enc **out, int level)
{
	struct zblock_enc *e = calloc(1, sizeof(*e));

	if (!e)
		return -ENOMEM;
	if (level > 0) {
		e->zstd = ZSTD_createCCtx();
		if (!e->zstd ||
		    ZSTD_isError(ZSTD_CCtx_setParameter(e->zstd, ZSTD_c_compressionLevel, level)) ||
		    ZSTD_isError(ZSTD_CCtx_setParameter(e->zstd, ZSTD_c_windowLog, WINDOW_LOG))) {
			zblock_enc_free(e);
			return -ENOMEM;
		}
	}
	*out = e;
	return 0;
}

void zblock_enc_free(struct zblock_enc *e)
{
	if (!e)
		return;
	ZSTD_freeCCtx(e->zstd);
	free(e);
}

/* Compress all of `frames` and flush, so that the peer can decode without waiting for more. */
static int compress(struct zblock_enc *e, struct span frames, struct buf *out)
{
	ZSTD_inBuffer in = {.src = frames.p, .size = frames.len};
	size_t left;

	do {
		size_t want = ZSTD_compressBound(in.size - in.pos) + 64, room = out->max - out->len;

		if (!room)
			return -EMSGSIZE;
		if (buf_reserve(out, want < room ? want : room))
			return -ENOMEM;
		ZSTD_outBuffer to = {.dst = out->p + out->len, .size = out->cap - out->len};

		left = ZSTD_compressStream2(e->zstd, &to, &in, ZSTD_e_flush);
		if (ZSTD_isError(left))
			return -EIO;
		out->len += to.pos;
	} while (left || in.pos < in.size);
	return 0;
}

static void put_header(struct buf *b, enum zblock_kind kind, bool zstd, size_t raw_len,
		       uint64_t seq)
{
	wr_u8(b, (uint8_t)kind);
	wr_u8(b, zstd ? FLAG_ZSTD : 0);
	wr_u16be(b, 0);
	wr_u32be(b, (uint32_t)raw_len); /* wire_len: right when stored, else written when known */
	wr_u32be(b, (uint32_t)raw_len);
	wr_u64be(b, seq);
}

static void judge(struct zblock_enc *e, size_t raw_len, size_t wire_len)
{
	if (raw_len < JUDGED_FROM)
		return;
	if (wire_len < POOR(raw_len))
		e->poor_rows = 0;
	else if (e->poor_rows < POOR_ROWS_MAX)
		e->poor_rows++;
	e->skip = e->poor_rows ? 1u << e->poor_rows : 0;
}

bool zblock_enc_pays(struct zblock_enc *e)
{
	if (!e->zstd)
		return false;
	if (e->skip) {
		e->skip--;
		return false;
	}
	return true;
}

static int encode(struct zblock_enc *e, enum zblock_kind kind, uint64_t seq, struct span frames,
		  struct buf *out)
{
	const bool zstd = e->zstd && kind == ZBLOCK_DATA && frames.len;
	const size_t start = out->len;
	int err;

	if (frames.len > ZBLOCK_RAW_MAX)
		return -EMSGSIZE;
	put_header(out, kind, zstd, frames.len, seq);
	if (!zstd) {
		wr_bytes(out, frames.p, frames.len);
		return out->bad ? -EMSGSIZE : 0;
	}
	if (out->bad)
		return -EMSGSIZE;
	err = compress(e, frames, out);
	if (err)
		return err;
	size_t wire_len = out->len - start - ZBLOCK_HEADER_LEN;

	wr_u32be_at(out, start + 4, (uint32_t)wire_len);
	judge(e, frames.len, wire_len);
	return wire_len > ZBLOCK_WIRE_MAX ? -EMSGSIZE : 0;
}

int zblock_encode(struct zblock_enc *e, enum zblock_kind kind, uint64_t seq, struct span frames,
		  struct buf *out)
{
	const size_t start = out->len;
	int err = e->spent ? -EIO : encode(e, kind, seq, frames, out);

	if (err) {
		out->len = start;
		e->spent = true;
	}
	return err;
}

int zblock_encode_stored(struct zblock_enc *e, uint64_t seq, size_t len, struct buf *out)
{
	if (e->spent)
		return -EIO;
	if (len > ZBLOCK_RAW_MAX || buf_reserve(out, ZBLOCK_HEADER_LEN)) {
		e->spent = true;
		return -EMSGSIZE;
	}
	put_header(out, ZBLOCK_DATA, false, len, seq);
	return 0;
}

int zblock_dec_new(struct zblock_dec **out)
{
	struct zblock_dec *d = calloc(1, sizeof(*d));

	if (!d)
		return -ENOMEM;
	buf_init(&d->frames, ZBLOCK_RAW_MAX + 1); /* one more: see decompress() */
	*out = d;
	return 0;
}

void zblock_dec_free(struct zblock_dec *d)
{
	if (!d)
		return;
	ZSTD_freeDCtx(d->zstd);
	buf_cleanse(&d->frames);
	free(d);
}

static int zstd_open(struct zblock_dec *d)
{
	if (d->zstd)
		return 0;
	d->zstd = ZSTD_createDCtx();
	if (!d->zstd ||
	    ZSTD_isError(ZSTD_DCtx_setParameter(d->zstd, ZSTD_d_windowLogMax, WINDOW_LOG)))
		return -ENOMEM;
	return 0;
}

/* The output has one byte more than was promised: zstd has kept nothing back only if it is not
 * filled. */
static int decompress(struct zblock_dec *d, struct span wire, size_t raw_len)
{
	ZSTD_inBuffer in = {.src = wire.p, .size = wire.len};
	ZSTD_outBuffer to = {.size = raw_len + 1};

	if (zstd_open(d) || buf_reserve(&d->frames, raw_len + 1))
		return -ENOMEM;
	to.dst = d->frames.p;
	while (in.pos < in.size && to.pos < to.size)
		if (ZSTD_isError(ZSTD_decompressStream(d->zstd, &to, &in)))
			return -EBADMSG;
	if (in.pos < in.size || to.pos != raw_len)
		return -EBADMSG;
	d->frames.len = raw_len;
	return 0;
}

static int head_check(const struct zblock_head *h)
{
	if (h->kind != ZBLOCK_CONTROL && h->kind != ZBLOCK_DATA)
		return -EBADMSG;
	if (h->raw_len > ZBLOCK_RAW_MAX || h->wire_len > ZBLOCK_WIRE_MAX)
		return -EMSGSIZE;
	if ((h->kind == ZBLOCK_CONTROL) != (h->seq == 0))
		return -EBADMSG;
	if (h->zstd)
		return h->kind == ZBLOCK_DATA && h->raw_len && h->wire_len ? 0 : -EBADMSG;
	return h->wire_len == h->raw_len ? 0 : -EBADMSG;
}

ssize_t zblock_head(struct span in, struct zblock_head *out)
{
	struct rd r = rd_from(in);
	struct zblock_head h = {.kind = (enum zblock_kind)rd_u8(&r)};
	uint8_t flags = rd_u8(&r);
	uint16_t reserved = rd_u16be(&r);
	int err;

	h.zstd = flags & FLAG_ZSTD;
	h.wire_len = rd_u32be(&r);
	h.raw_len = rd_u32be(&r);
	h.seq = rd_u64be(&r);
	if (r.bad)
		return 0;
	err = flags & ~FLAG_ZSTD || reserved ? -EBADMSG : head_check(&h);
	if (err)
		return err;
	*out = h;
	return ZBLOCK_HEADER_LEN;
}

ssize_t zblock_walk(struct zblock_walk *w, struct span in, struct zblock_head *out, bool *began)
{
	size_t n = in.len < w->left ? in.len : w->left;
	ssize_t got;

	*began = false;
	if (n) {
		w->left -= (uint32_t)n;
		return (ssize_t)n;
	}
	n = sizeof(w->head) - w->n_head;
	if (n > in.len)
		n = in.len;
	if (n)
		memcpy(w->head + w->n_head, in.p, n);
	w->n_head += (unsigned)n;
	got = zblock_head(span_of(w->head, w->n_head), out);
	if (got < 0)
		return got;
	if (got) {
		*began = true;
		w->n_head = 0;
		w->left = out->wire_len;
	}
	return (ssize_t)n;
}

static int unpack(struct zblock_dec *d, const struct zblock_head *h, struct span wire)
{
	buf_reset(&d->frames);
	if (h->zstd)
		return decompress(d, wire, h->raw_len);
	wr_bytes(&d->frames, wire.p, wire.len);
	return d->frames.bad ? -ENOMEM : 0;
}

static ssize_t decode(struct zblock_dec *d, struct span in, struct zblock *out)
{
	struct zblock_head h;
	ssize_t n = zblock_head(in, &h);
	int err;

	if (n <= 0)
		return n;
	if (in.len - (size_t)n < h.wire_len)
		return 0;
	err = unpack(d, &h, span_of(in.p + n, h.wire_len));
	if (err)
		return err;
	*out = (struct zblock){.kind = h.kind, .seq = h.seq, .frames = buf_span(&d->frames)};
	return n + (ssize_t)h.wire_len;
}

ssize_t zblock_decode(struct zblock_dec *d, struct span in, struct zblock *out)
{
	ssize_t n = d->spent ? -EBADMSG : decode(d, in, out);

	d->spent |= n < 0;
	return n;
}
