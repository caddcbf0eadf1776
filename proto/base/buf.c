/* SPDX-License-Identifier: Apache-2.0 */
/*
 * buf: see buf.h. Growth copies by hand and not with realloc(), which would leave the old bytes,
 * perhaps somebody's plaintext, in freed memory.
 */
#include "buf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BUF_FIRST 64 /* smallest allocation: one small frame */

struct span span_str(const char *s)
{
	return span_of(s, strlen(s));
}

void span_print(struct span s, char *out, size_t size)
{
	size_t n = s.len < size - 1 ? s.len : size - 1;

	for (size_t i = 0; i < n; i++)
		out[i] = (char)(s.p[i] >= 0x20 && s.p[i] < 0x7f ? s.p[i] : '?');
	out[n] = '\0';
}

bool span_eq(struct span a, struct span b)
{
	return a.len == b.len && (a.len == 0 || memcmp(a.p, b.p, a.len) == 0);
}

void buf_init(struct buf *b, size_t max)
{
	*b = (struct buf){.max = max};
}

void buf_fini(struct buf *b)
{
	free(b->p);
	buf_init(b, b->max);
}

void buf_cleanse(struct buf *b)
{
	if (b->p)
		explicit_bzero(b->p, b->cap);
	buf_fini(b);
}

void buf_reset(struct buf *b)
{
	b->len = 0;
	b->bad = false;
}

static size_t grown_cap(const struct buf *b, size_t want)
{
	size_t cap = b->cap < BUF_FIRST ? BUF_FIRST : b->cap;

	while (cap < want && cap <= b->max / 2)
		cap *= 2;
	if (cap < want || cap > b->max)
		cap = b->max;
	return cap;
}

int buf_reserve(struct buf *b, size_t n)
{
	if (n <= b->cap - b->len)
		return 0;
	if (n > b->max || b->len > b->max - n) {
		b->bad = true;
		return -EMSGSIZE;
	}
	size_t cap = grown_cap(b, b->len + n);
	uint8_t *p = malloc(cap);

	if (!p) {
		b->bad = true;
		return -ENOMEM;
	}
	if (b->p) {
		memcpy(p, b->p, b->len);
		explicit_bzero(b->p, b->len);
		free(b->p);
	}
	b->p = p;
	b->cap = cap;
	return 0;
}

void buf_consume(struct buf *b, size_t n)
{
	if (n > b->len)
		n = b->len;
	b->len -= n;
	if (n && b->len)
		memmove(b->p, b->p + n, b->len);
}

/* Room for n bytes at the end, counted as written; NULL when there is none or an earlier append
 * failed. */
static uint8_t *extend(struct buf *b, size_t n)
{
	if (b->bad || buf_reserve(b, n))
		return NULL;
	uint8_t *p = b->p + b->len;

	b->len += n;
	return p;
}

void wr_bytes(struct buf *b, const void *p, size_t n)
{
	uint8_t *to = n ? extend(b, n) : NULL;

	if (to)
		memcpy(to, p, n);
}

void wr_zero(struct buf *b, size_t n)
{
	uint8_t *to = n ? extend(b, n) : NULL;

	if (to)
		memset(to, 0, n);
}

static void wr_be(struct buf *b, uint64_t v, size_t n)
{
	uint8_t *to = extend(b, n);

	for (size_t i = 0; to && i < n; i++)
		to[i] = (uint8_t)(v >> 8 * (n - 1 - i));
}

void wr_u8(struct buf *b, uint8_t v)
{
	wr_be(b, v, 1);
}

void wr_u16be(struct buf *b, uint16_t v)
{
	wr_be(b, v, 2);
}

void wr_u32be(struct buf *b, uint32_t v)
{
	wr_be(b, v, 4);
}

void wr_u64be(struct buf *b, uint64_t v)
{
	wr_be(b, v, 8);
}

void wr_u32be_at(struct buf *b, size_t off, uint32_t v)
{
	if (b->len < 4 || off > b->len - 4)
		return; /* only after a failed append, which b->bad tells */
	for (size_t i = 0; i < 4; i++)
		b->p[off + i] = (uint8_t)(v >> 8 * (3 - i));
}

struct span rd_bytes(struct rd *r, size_t n)
{
	if (r->bad || n > r->in.len) {
		r->bad = true;
		return span_of(NULL, 0);
	}
	struct span out = span_of(r->in.p, n);

	if (n)
		r->in = span_of(r->in.p + n, r->in.len - n);
	return out;
}

static uint64_t rd_be(struct rd *r, size_t n)
{
	struct span s = rd_bytes(r, n);
	uint64_t v = 0;

	for (size_t i = 0; i < s.len; i++)
		v = v << 8 | s.p[i];
	return v;
}

uint8_t rd_u8(struct rd *r)
{
	return (uint8_t)rd_be(r, 1);
}

uint16_t rd_u16be(struct rd *r)
{
	return (uint16_t)rd_be(r, 2);
}

uint32_t rd_u32be(struct rd *r)
{
	return (uint32_t)rd_be(r, 4);
}

uint64_t rd_u64be(struct rd *r)
{
	return rd_be(r, 8);
}

void rd_copy(struct rd *r, void *out, size_t n)
{
	struct span s = rd_bytes(r, n);

	if (s.len)
		memcpy(out, s.p, s.len);
	else if (n)
		memset(out, 0, n);
}
