/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hpack: see hpack.h. A block is cut into its representations (RFC 7541, 6), because the library
 * gives up for good at an index it does not have: those are told as unknown before it sees them.
 *
 * Index 62 is the newest entry, so entries made after we came are found whatever lies behind them.
 * The real table may be smaller than the one kept here: an encoder never names what it has evicted.
 */
#include "http/hpack.h"

#include <errno.h>
#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/metrics.h"

static COUNTER_DEFINE(
	c_unknown, "http1_fields_unknown",
	"header fields named by an index that is not known: shown as x-unknown-INDEX");
static COUNTER_DEFINE(c_large, "http1_fields_huge",
		      "header fields left out: more than 65000 bytes, encoded");

#define NAME_MAX_LEN 32u
/* One field, encoded: the library takes 64 KiB of a name or a value and gives up for good at more.
 */
#define FIELD_MAX 65000u

struct hpack {
	nghttp2_hd_inflater *inflater; /* NULL: it failed for good */
	bool late;                     /* the oldest entries are not known */
};

/* One representation: where its parts lie. */
struct rep {
	struct span whole, value; /* value: the string, with its length; empty when indexed */
	uint64_t index;           /* of the entry, or of the name; 0: the name is literal */
	uint8_t form;             /* the first byte's bits before the index */
	bool indexed, update;
};

/* An integer behind a prefix of `bits` bits (RFC 7541, 5.1). */
static uint64_t rd_int(struct rd *r, uint8_t first, unsigned bits)
{
	uint64_t mask = (1u << bits) - 1, v = first & mask;
	unsigned shift = 0;
	uint8_t b;

	if (v < mask)
		return v;
	do {
		b = rd_u8(r);
		v += (uint64_t)(b & 0x7f) << shift;
		shift += 7;
		if (shift > 35)
			r->bad = true;
	} while ((b & 0x80) && !r->bad);
	return v;
}

static void skip_string(struct rd *r)
{
	uint64_t len = rd_int(r, rd_u8(r), 7);

	rd_bytes(r, len);
}

static int rep_take(struct span *block, struct rep *out)
{
	struct rd r = rd_from(*block);
	uint8_t first = rd_u8(&r);
	unsigned bits;

	*out = (struct rep){.indexed = (first & 0x80) != 0, .update = (first & 0xe0) == 0x20};
	bits = out->indexed ? 7 : (first & 0x40) ? 6 : out->update ? 5 : 4;
	out->form = (uint8_t)(first >> bits << bits);
	out->index = rd_int(&r, first, bits);
	if (!out->indexed && !out->update) {
		if (out->index == 0)
			skip_string(&r);
		out->value = r.in;
		skip_string(&r);
		out->value.len -= r.in.len;
	}
	if (r.bad)
		return -EBADMSG;
	out->whole = span_of(block->p, block->len - r.in.len);
	*block = r.in;
	return 0;
}

/* Gives the library bytes of one representation; `field` is called when it is complete. */
static int feed(struct hpack *h, struct span in, hpack_field_fn field, void *ctx)
{
	while (in.len > 0) {
		nghttp2_nv nv;
		int flags = 0;
		ssize_t n = nghttp2_hd_inflate_hd2(h->inflater, &nv, &flags, in.p, in.len, 0);

		if (n < 0)
			return n == NGHTTP2_ERR_NOMEM ? -ENOMEM : -EBADMSG;
		in = span_of(in.p + n, in.len - (size_t)n);
		if (flags & NGHTTP2_HD_INFLATE_EMIT)
			field(ctx, span_of(nv.name, nv.namelen), span_of(nv.value, nv.valuelen));
		else if (n == 0)
			return -EBADMSG;
	}
	return 0;
}

static int feed_end(struct hpack *h)
{
	nghttp2_nv nv;
	int flags = 0;
	ssize_t n = nghttp2_hd_inflate_hd2(h->inflater, &nv, &flags, NULL, 0, 1);

	if (n < 0)
		return n == NGHTTP2_ERR_NOMEM ? -ENOMEM : -EBADMSG;
	return nghttp2_hd_inflate_end_headers(h->inflater) ? -EBADMSG : 0;
}

/* The same literal with the placeholder as its name, so that it is an entry under that name. */
static int feed_renamed(struct hpack *h, const struct rep *rep, struct span name,
			hpack_field_fn field, void *ctx)
{
	uint8_t head[2] = {rep->form, (uint8_t)name.len};
	int err = feed(h, span_of(head, sizeof(head)), field, ctx);

	if (!err)
		err = feed(h, name, field, ctx);
	return err ? err : feed(h, rep->value, field, ctx);
}

static int feed_unknown(struct hpack *h, const struct rep *rep, hpack_field_fn field, void *ctx)
{
	char name[NAME_MAX_LEN];
	int n = snprintf(name, sizeof(name), "x-unknown-%llu", (unsigned long long)rep->index);
	struct span span = span_of(name, (size_t)n);

	counter_inc(&c_unknown);
	if (!rep->indexed)
		return feed_renamed(h, rep, span, field, ctx);
	field(ctx, span, span_of("", 0));
	return 0;
}

/* A table larger than ours: what ours evicts and the real one keeps becomes unknown. */
static int feed_update(struct hpack *h, const struct rep *rep, hpack_field_fn field, void *ctx)
{
	static const uint8_t largest[] = {0x3f, 0xe1, 0xff, 0x03}; /* HPACK_TABLE_MAX */

	if (rep->index <= HPACK_TABLE_MAX)
		return feed(h, rep->whole, field, ctx);
	h->late = true;
	return feed(h, span_of(largest, sizeof(largest)), field, ctx);
}

/* The entry it makes empties a table that it does not fit into (RFC 7541, 4.4). Whether it does not
 * is not known, so nothing in it is. */
static int skip_large(struct hpack *h, const struct rep *rep)
{
	counter_inc(&c_large);
	return rep->form == 0x40 ? hpack_forget(h) : 0;
}

static int feed_rep(struct hpack *h, const struct rep *rep, hpack_field_fn field, void *ctx)
{
	if (rep->whole.len > FIELD_MAX)
		return skip_large(h, rep);
	if (rep->update)
		return feed_update(h, rep, field, ctx);
	if (h->late && rep->index > nghttp2_hd_inflate_get_num_table_entries(h->inflater))
		return feed_unknown(h, rep, field, ctx);
	return feed(h, rep->whole, field, ctx);
}

static void no_field(void *ctx, struct span name, struct span value)
{
	(void)ctx;
	(void)name;
	(void)value;
}

/*
 * What the other side's settings allow need not be known: an encoder tells each change of its
 * table's size in a block (RFC 7541, 4.2). One that is late may have been told long ago: the
 * largest size then evicts nothing that is still in use.
 */
static int inflater_open(struct hpack *h)
{
	struct rep largest = {.update = true, .index = (uint64_t)HPACK_TABLE_MAX + 1};
	int err;

	if (nghttp2_hd_inflate_new(&h->inflater)) {
		h->inflater = NULL;
		return -ENOMEM;
	}
	if (nghttp2_hd_inflate_change_table_size(h->inflater, HPACK_TABLE_MAX))
		return -ENOMEM;
	if (!h->late)
		return 0;
	err = feed_update(h, &largest, no_field, NULL);
	return err ? err : feed_end(h);
}

int hpack_new(struct hpack **out, bool late)
{
	struct hpack *h = calloc(1, sizeof(*h));

	if (!h)
		return -ENOMEM;
	h->late = late;
	if (inflater_open(h)) {
		hpack_free(h);
		return -ENOMEM;
	}
	*out = h;
	return 0;
}

static void inflater_close(struct hpack *h)
{
	if (h->inflater)
		nghttp2_hd_inflate_del(h->inflater);
	h->inflater = NULL;
}

void hpack_free(struct hpack *h)
{
	if (!h)
		return;
	inflater_close(h);
	free(h);
}

int hpack_forget(struct hpack *h)
{
	inflater_close(h);
	h->late = true;
	return inflater_open(h);
}

int hpack_block(struct hpack *h, struct span block, hpack_field_fn field, void *ctx)
{
	struct rep rep;
	int err = h->inflater ? 0 : -EBADMSG;

	while (!err && block.len > 0) {
		err = rep_take(&block, &rep);
		if (!err)
			err = feed_rep(h, &rep, field, ctx);
	}
	if (!err)
		err = feed_end(h);
	if (err)
		inflater_close(h); /* its table no longer is the encoder's */
	return err;
}
