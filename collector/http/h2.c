/* SPDX-License-Identifier: Apache-2.0 */
/*
 * h2: see h2.h. A frame is a header of nine bytes, a prefix that belongs to its type, a body and
 * padding; each may be cut anywhere. Only header blocks are kept until they are whole.
 *
 * SETTINGS need no reading: encoders tell changes of their table in the blocks themselves, and a
 * watcher that keeps no frame needs no limit of its size.
 */
#include "http/h2.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/metrics.h"
#include "http/hpack.h"

static COUNTER_DEFINE(c_blocks_large, "http1_header_blocks_large",
		      "header blocks given up: more bytes or CONTINUATIONs than a limit");
static COUNTER_DEFINE(c_blocks_lost, "http1_header_blocks_lost",
		      "header blocks of which bytes are missing");
static COUNTER_DEFINE(c_fields_large, "http1_fields_large",
		      "header fields left out: their list is larger than a limit");

#define HEADER_LEN   9u
#define PREFACE_LEN  24u
#define PREFIX_MAX   8u
#define FIELD_EXTRA  32u         /* RFC 9113 6.5.2 */
#define GUESS_LEN    (16u << 10) /* the smallest SETTINGS_MAX_FRAME_SIZE, rarely raised */
#define GUESS_STREAM (1u << 24)  /* ids of real connections: far fewer streams */
#define GUESS_FRAMES 8u          /* so many headers in a row are enough */

enum frame_kind {
	KIND_DATA = 0,
	KIND_HEADERS = 1,
	KIND_PRIORITY = 2,
	KIND_RST_STREAM = 3,
	KIND_SETTINGS = 4,
	KIND_PUSH_PROMISE = 5,
	KIND_PING = 6,
	KIND_GOAWAY = 7,
	KIND_WINDOW_UPDATE = 8,
	KIND_CONTINUATION = 9,
};

#define FLAG_END_STREAM  0x01u /* DATA, HEADERS */
#define FLAG_ACK         0x01u /* SETTINGS, PING */
#define FLAG_END_HEADERS 0x04u
#define FLAG_PADDED      0x08u
#define FLAG_PRIORITY    0x20u

enum side_at {
	AT_SEEK,    /* frames are looked for at the beginning of a TLS call */
	AT_PREFACE, /* the client's first 24 bytes */
	AT_HEADER,
	AT_PREFIX, /* pad length, priority, promised id, error code */
	AT_BODY,
	AT_PADDING,
};

/* One direction. */
struct side {
	struct hpack *hpack;
	struct buf block; /* of the header block that is being collected */
	uint32_t block_stream, block_promised;
	uint32_t len, stream;   /* of the frame at hand */
	uint32_t left, padding; /* bytes to come of the part at hand; of the padding behind it */
	uint8_t kind, flags;
	uint8_t at;       /* enum side_at */
	uint8_t have_len; /* bytes of have[] */
	uint8_t have[HEADER_LEN];
	uint16_t continuations;
	bool in_block;    /* only CONTINUATION may follow */
	bool block_end;   /* END_STREAM of the HEADERS that began it */
	bool block_lost;  /* bytes of it are missing */
	bool block_large; /* it is given up */
	bool call_begins; /* the next byte is the first of a TLS call */
};

struct h2 {
	struct side side[2];
	const struct h2_ops *ops; /* borrowed, as the next two */
	void *ctx;
	struct h2_list *list;
};

/* Field lists */

void h2_list_init(struct h2_list *l)
{
	l->n = 0;
	l->size = 0;
	l->most = H2_LIST_MAX;
	l->blocks = 0;
	l->blocks_most = H2_BLOCKS_MAX;
	buf_init(&l->text, H2_LIST_MAX);
}

void h2_list_fini(struct h2_list *l)
{
	buf_cleanse(&l->text);
	l->n = 0;
}

void h2_list_reset(struct h2_list *l)
{
	if (l->text.len > 0)
		explicit_bzero(l->text.p, l->text.len);
	buf_reset(&l->text);
	l->n = 0;
	l->size = 0;
	l->most = H2_LIST_MAX;
}

bool h2_list_add(struct h2_list *l, struct span name, struct span value)
{
	size_t size = name.len + value.len + FIELD_EXTRA;

	if (l->n == H2_FIELDS_MAX || size > l->most - l->size ||
	    buf_reserve(&l->text, name.len + value.len + 1) < 0) { /* so that text.p is not NULL */
		l->text.bad = false;
		counter_inc(&c_fields_large);
		return false;
	}
	l->v[l->n++] = (struct h2_field){
		.name = (uint32_t)l->text.len,
		.name_len = (uint32_t)name.len,
		.value = (uint32_t)(l->text.len + name.len),
		.value_len = (uint32_t)value.len,
	};
	l->size += size;
	wr_bytes(&l->text, name.p, name.len);
	wr_bytes(&l->text, value.p, value.len);
	return true;
}

static void on_field(void *ctx, struct span name, struct span value)
{
	h2_list_add(ctx, name, value);
}

/* Frame headers */

static uint32_t get_u24(const uint8_t *p)
{
	return (uint32_t)p[0] << 16 | (uint32_t)p[1] << 8 | p[2];
}

static uint32_t get_u31(const uint8_t *p)
{
	return ((uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3]) &
	       0x7fffffffu;
}

static bool has_stream(uint8_t kind)
{
	return kind != KIND_SETTINGS && kind != KIND_PING && kind != KIND_GOAWAY;
}

/* Flags that RFC 9113 gives a meaning. */
static uint8_t flags_of(uint8_t kind)
{
	static const uint8_t flags[] = {
		[KIND_DATA] = FLAG_END_STREAM | FLAG_PADDED,
		[KIND_HEADERS] = FLAG_END_STREAM | FLAG_END_HEADERS | FLAG_PADDED | FLAG_PRIORITY,
		[KIND_SETTINGS] = FLAG_ACK,
		[KIND_PUSH_PROMISE] = FLAG_END_HEADERS | FLAG_PADDED,
		[KIND_PING] = FLAG_ACK,
		[KIND_CONTINUATION] = FLAG_END_HEADERS,
	};

	return kind < sizeof(flags) ? flags[kind] : 0;
}

static bool is_len_right(uint8_t kind, uint32_t len)
{
	switch (kind) {
	case KIND_PRIORITY:
		return len == 5;
	case KIND_RST_STREAM:
	case KIND_WINDOW_UPDATE:
		return len == 4;
	case KIND_SETTINGS:
		return len % 6 == 0;
	case KIND_PING:
		return len == 8;
	case KIND_GOAWAY:
		return len >= 8;
	default:
		return true;
	}
}

/* Of extensions that programs really use: ALTSVC, ORIGIN, PRIORITY_UPDATE. */
static bool is_extension(uint8_t kind)
{
	return kind == 0x0a || kind == 0x0c || kind == 0x10;
}

/* Nine bytes that a connection could have here. Stricter than the standard: a guess. */
static bool is_likely_header(const uint8_t *p)
{
	uint32_t len = get_u24(p), stream = get_u31(p + 5);
	uint8_t kind = p[3], flags = p[4];

	if (len > GUESS_LEN || (kind > KIND_CONTINUATION && !is_extension(kind)) ||
	    (flags & ~flags_of(kind)) || !is_len_right(kind, len) || (p[5] & 0x80) ||
	    stream > GUESS_STREAM)
		return false;
	if (kind == KIND_HEADERS && len == 0)
		return false;
	return kind == KIND_WINDOW_UPDATE || is_extension(kind) ||
	       has_stream(kind) == (stream != 0);
}

bool h2_is_framed(struct span bytes)
{
	unsigned i;

	for (i = 0; i < GUESS_FRAMES && bytes.len >= HEADER_LEN; i++) {
		size_t whole = HEADER_LEN + get_u24(bytes.p);

		if (!is_likely_header(bytes.p))
			return false;
		if (whole >= bytes.len)
			return true;
		bytes = span_of(bytes.p + whole, bytes.len - whole);
	}
	return i > 0;
}

enum h2_guess h2_is_preface(struct span bytes)
{
	size_t n = bytes.len < PREFACE_LEN ? bytes.len : PREFACE_LEN;

	if (memcmp(bytes.p, H2_PREFACE, n) != 0)
		return H2_NO;
	return n == PREFACE_LEN ? H2_YES : H2_MAYBE;
}

enum h2_guess h2_is_server_preface(struct span bytes)
{
	/* A length of at most 16384, SETTINGS, no flags, stream 0. */
	static const uint8_t like[HEADER_LEN] = {0, 0, 0, KIND_SETTINGS, 0, 0, 0, 0, 0};
	size_t n = bytes.len < HEADER_LEN ? bytes.len : HEADER_LEN;

	if (n == HEADER_LEN && !is_likely_header(bytes.p))
		return H2_NO;
	for (size_t i = 0; i < n; i++) {
		if (i != 1 && i != 2 && bytes.p[i] != like[i])
			return H2_NO;
	}
	return H2_MAYBE;
}

/* Header blocks */

static void block_begin(struct side *s, uint32_t promised)
{
	s->in_block = true;
	s->block_stream = s->stream;
	s->block_promised = promised;
	s->block_end = s->kind == KIND_HEADERS && (s->flags & FLAG_END_STREAM);
	s->continuations = 0;
}

static void block_drop(struct h2 *h, struct side *s)
{
	h->list->blocks -= s->block.len;
	buf_cleanse(&s->block);
}

static void block_give_up(struct h2 *h, struct side *s)
{
	if (!s->block_large)
		counter_inc(&c_blocks_large);
	s->block_large = true;
	block_drop(h, s);
}

static void block_put(struct h2 *h, struct side *s, struct span bytes)
{
	if (s->block_large || s->block_lost)
		return;
	if (bytes.len > h->list->blocks_most - h->list->blocks ||
	    buf_reserve(&s->block, bytes.len) < 0) {
		block_give_up(h, s);
		return;
	}
	wr_bytes(&s->block, bytes.p, bytes.len);
	h->list->blocks += bytes.len;
}

static void block_forget(struct h2 *h, struct side *s)
{
	block_drop(h, s);
	s->in_block = s->block_lost = s->block_large = false;
}

/* The block that is not known may have changed the table. */
static int block_skip(struct h2 *h, enum flow_dir dir)
{
	struct side *s = &h->side[dir];

	if (s->block_lost)
		counter_inc(&c_blocks_lost);
	h->ops->headers_lost(h->ctx, dir, s->block_stream, s->block_promised);
	block_forget(h, s);
	return hpack_forget(s->hpack);
}

static int block_end(struct h2 *h, enum flow_dir dir)
{
	struct side *s = &h->side[dir];
	int err;

	if (s->block_lost || s->block_large)
		return block_skip(h, dir);
	if (H2_LIST_FREE + 2 * s->block.len < H2_LIST_MAX)
		h->list->most = H2_LIST_FREE + 2 * s->block.len;
	err = hpack_block(s->hpack, buf_span(&s->block), on_field, h->list);
	if (!err && s->block_promised)
		h->ops->push(h->ctx, s->block_stream, s->block_promised, h->list);
	else if (!err)
		h->ops->headers(h->ctx, dir, s->block_stream, h->list, s->block_end);
	h2_list_reset(h->list);
	block_forget(h, s);
	return err;
}

/* Parts of a frame */

static uint32_t prefix_len(uint8_t kind, uint8_t flags)
{
	uint32_t pad = flags & FLAG_PADDED ? 1 : 0;

	switch (kind) {
	case KIND_DATA:
		return pad;
	case KIND_HEADERS:
		return pad + (flags & FLAG_PRIORITY ? 5 : 0);
	case KIND_PUSH_PROMISE:
		return pad + 4;
	case KIND_RST_STREAM:
		return 4;
	case KIND_GOAWAY:
		return 8;
	default:
		return 0;
	}
}

static bool is_padded(const struct side *s)
{
	return (s->flags & FLAG_PADDED) &&
	       (s->kind == KIND_DATA || s->kind == KIND_HEADERS || s->kind == KIND_PUSH_PROMISE);
}

static bool is_of_block(uint8_t kind)
{
	return kind == KIND_HEADERS || kind == KIND_PUSH_PROMISE || kind == KIND_CONTINUATION;
}

static void enter(struct side *s, enum side_at at, uint32_t left)
{
	s->at = (uint8_t)at;
	s->left = left;
	s->have_len = 0;
}

static int frame_end(struct h2 *h, enum flow_dir dir)
{
	struct side *s = &h->side[dir];

	enter(s, AT_HEADER, HEADER_LEN);
	if (s->kind == KIND_DATA)
		h->ops->data_end(h->ctx, dir, s->stream, s->flags & FLAG_END_STREAM);
	if (is_of_block(s->kind) && (s->flags & FLAG_END_HEADERS))
		return block_end(h, dir);
	return 0;
}

/* Goes on to the next part that has bytes. */
static int part_end(struct h2 *h, enum flow_dir dir)
{
	struct side *s = &h->side[dir];

	if (s->at == AT_BODY)
		enter(s, AT_PADDING, s->padding);
	return s->left > 0 ? 0 : frame_end(h, dir);
}

/* The prefix is whole: what it says, and what is left behind it. */
static int prefix_end(struct h2 *h, enum flow_dir dir)
{
	struct side *s = &h->side[dir];
	const uint8_t *p = s->have;
	uint32_t prefix = prefix_len(s->kind, s->flags), padding = 0;

	if (is_padded(s))
		padding = *p++;
	if (padding > s->len - prefix)
		return -EBADMSG;
	if (s->kind == KIND_RST_STREAM)
		h->ops->reset(h->ctx, dir, s->stream,
			      (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 |
				      p[3]);
	if (s->kind == KIND_GOAWAY)
		h->ops->goaway(h->ctx, dir, get_u31(p));
	if (s->kind == KIND_PUSH_PROMISE && (dir == FLOW_C2S || get_u31(p) == 0))
		return -EBADMSG;
	if (s->kind == KIND_HEADERS || s->kind == KIND_PUSH_PROMISE)
		block_begin(s, s->kind == KIND_PUSH_PROMISE ? get_u31(p) : 0);
	if (s->kind == KIND_DATA)
		h->ops->data_begin(h->ctx, dir, s->stream, s->len - prefix - padding);
	s->padding = padding;
	enter(s, AT_BODY, s->len - prefix - padding);
	return s->left > 0 ? 0 : part_end(h, dir);
}

static int continuation_begin(struct h2 *h, struct side *s)
{
	if (!s->in_block || s->stream != s->block_stream)
		return -EBADMSG;
	if (++s->continuations > H2_CONTINUATIONS_MAX) {
		s->continuations = H2_CONTINUATIONS_MAX;
		block_give_up(h, s);
	}
	return 0;
}

/* The nine bytes are whole. */
static int header_end(struct h2 *h, enum flow_dir dir)
{
	struct side *s = &h->side[dir];
	uint32_t prefix;

	s->len = get_u24(s->have);
	s->kind = s->have[3];
	s->flags = s->have[4];
	s->stream = get_u31(s->have + 5);
	if (s->in_block != (s->kind == KIND_CONTINUATION))
		return -EBADMSG;
	if (s->kind <= KIND_CONTINUATION && s->kind != KIND_WINDOW_UPDATE &&
	    has_stream(s->kind) != (s->stream != 0))
		return -EBADMSG;
	prefix = prefix_len(s->kind, s->flags);
	if (!is_len_right(s->kind, s->len) || s->len < prefix)
		return -EBADMSG;
	if (s->kind == KIND_CONTINUATION && continuation_begin(h, s) < 0)
		return -EBADMSG;
	enter(s, AT_PREFIX, prefix);
	return prefix > 0 ? 0 : prefix_end(h, dir);
}

static int preface_end(struct h2 *h, enum flow_dir dir)
{
	enter(&h->side[dir], AT_HEADER, HEADER_LEN);
	return 0;
}

static void body_put(struct h2 *h, enum flow_dir dir, struct span bytes)
{
	struct side *s = &h->side[dir];

	if (s->kind == KIND_DATA)
		h->ops->data(h->ctx, dir, s->stream, bytes);
	else if (is_of_block(s->kind))
		block_put(h, s, bytes);
}

/* Some bytes of the part at hand, never more than it has left. */
static int part_put(struct h2 *h, enum flow_dir dir, struct span bytes)
{
	struct side *s = &h->side[dir];

	switch ((enum side_at)s->at) {
	case AT_PREFACE:
		if (memcmp(bytes.p, &H2_PREFACE[PREFACE_LEN - s->left], bytes.len) != 0)
			return -EBADMSG;
		break;
	case AT_HEADER:
	case AT_PREFIX:
		memcpy(s->have + s->have_len, bytes.p, bytes.len);
		s->have_len = (uint8_t)(s->have_len + bytes.len);
		break;
	case AT_BODY:
		body_put(h, dir, bytes);
		break;
	case AT_PADDING:
	case AT_SEEK:
		break;
	}
	s->left -= (uint32_t)bytes.len;
	if (s->left > 0)
		return 0;
	switch ((enum side_at)s->at) {
	case AT_PREFACE:
		return preface_end(h, dir);
	case AT_HEADER:
		return header_end(h, dir);
	case AT_PREFIX:
		return prefix_end(h, dir);
	default:
		return part_end(h, dir);
	}
}

/* After a loss. True when frames begin at the front of `bytes`. */
static bool seek(struct h2 *h, enum flow_dir dir, struct span bytes)
{
	struct side *s = &h->side[dir];

	if (s->call_begins && dir == FLOW_C2S && h2_is_preface(bytes) == H2_YES) {
		enter(s, AT_PREFACE, PREFACE_LEN);
		return true;
	}
	if (s->call_begins && h2_is_framed(bytes)) {
		enter(s, AT_HEADER, HEADER_LEN);
		return true;
	}
	h->ops->unframed(h->ctx, dir, bytes.len);
	return false;
}

int h2_bytes(struct h2 *h, enum flow_dir dir, struct span bytes, bool end)
{
	struct side *s = &h->side[dir];
	int err = 0;

	if (s->at == AT_SEEK && !seek(h, dir, bytes)) {
		s->call_begins = end;
		return 0;
	}
	while (bytes.len > 0 && !err) {
		size_t n = bytes.len < s->left ? bytes.len : s->left;

		err = part_put(h, dir, span_of(bytes.p, n));
		bytes = span_of(bytes.p + n, bytes.len - n);
	}
	s->call_begins = end;
	return err;
}

/* A hole within the body or the padding of the frame at hand. */
static int frame_gap(struct h2 *h, enum flow_dir dir, uint32_t len)
{
	struct side *s = &h->side[dir];

	if (s->at == AT_BODY && s->kind == KIND_DATA)
		h->ops->data_gap(h->ctx, dir, s->stream, len);
	else if (s->at == AT_BODY && is_of_block(s->kind))
		s->block_lost = true;
	s->left -= len;
	return s->left > 0 ? 0 : part_end(h, dir);
}

/* Nobody knows how many frames lie in the hole, nor where the next one begins. */
static int frames_lost(struct h2 *h, enum flow_dir dir)
{
	struct side *s = &h->side[dir];
	int err = 0;

	if (s->in_block) {
		s->block_lost = true;
		err = block_skip(h, dir);
	}
	enter(s, AT_SEEK, 0);
	h->ops->lost(h->ctx, dir);
	return err ? err : hpack_forget(s->hpack);
}

static bool is_within_frame(const struct side *s, uint64_t len)
{
	return (s->at == AT_BODY && len <= (uint64_t)s->left + s->padding) ||
	       (s->at == AT_PADDING && len <= s->left);
}

int h2_gap(struct h2 *h, enum flow_dir dir, uint64_t len)
{
	struct side *s = &h->side[dir];
	int err = 0;

	if (len == 0)
		return 0;
	s->call_begins = true; /* perhaps: the bytes themselves will tell */
	if (s->at == AT_SEEK)
		return 0;
	if (!is_within_frame(s, len))
		return frames_lost(h, dir);
	while (len > 0 && !err) {
		uint32_t n = len < s->left ? (uint32_t)len : s->left;

		err = frame_gap(h, dir, n);
		len -= n;
	}
	return err;
}

int h2_new(struct h2 **out, bool late, const struct h2_ops *ops, void *ctx, struct h2_list *list)
{
	struct h2 *h = calloc(1, sizeof(*h));

	if (!h)
		return -ENOMEM;
	h->ops = ops;
	h->ctx = ctx;
	h->list = list;
	for (int d = 0; d < 2; d++) {
		struct side *s = &h->side[d];

		buf_init(&s->block, H2_BLOCK_MAX);
		s->call_begins = true;
		enter(s, late ? AT_SEEK : AT_HEADER, late ? 0 : HEADER_LEN);
		if (hpack_new(&s->hpack, late) < 0) {
			h2_free(h);
			return -ENOMEM;
		}
	}
	if (!late)
		enter(&h->side[FLOW_C2S], AT_PREFACE, PREFACE_LEN);
	*out = h;
	return 0;
}

void h2_free(struct h2 *h)
{
	if (!h)
		return;
	for (int d = 0; d < 2; d++) {
		block_drop(h, &h->side[d]);
		hpack_free(h->side[d].hpack);
	}
	free(h);
}
