/* SPDX-License-Identifier: Apache-2.0 */
/*
 * buf: bytes. `struct span` borrows, `struct buf` owns and grows to a limit given at init.
 * rd reads shapes from a span and never past its end; wr appends shapes to a buf.
 */
#ifndef SSLC_BASE_BUF_H
#define SSLC_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define WARN_UNUSED __attribute__((warn_unused_result))

struct span {
	const uint8_t *p; /* borrowed */
	size_t len;
};

/** A span over `len` bytes at `p`. */
static inline struct span span_of(const void *p, size_t len)
{
	return (struct span){.p = p, .len = len};
}

/** A span over a C string, without its terminator. */
struct span span_str(const char *s);
/** A peer's words on their way to a terminal: `out` becomes a string of printable ASCII, cut to
 * `size` bytes. */
void span_print(struct span s, char *out, size_t size);
/** True when both spans hold the same bytes. */
bool span_eq(struct span a, struct span b);

struct buf {
	uint8_t *p; /* owned */
	size_t len, cap;
	size_t max; /* growth beyond this many bytes fails */
	bool bad;   /* an append failed (limit or memory): contents up to len stay valid */
};

/** An empty buf that may grow to `max` bytes. Allocates nothing yet. */
void buf_init(struct buf *b, size_t max);
/** Release the memory and return to the state after buf_init(). */
void buf_fini(struct buf *b);
/** Like buf_fini(), but overwrites the contents first: for plaintext and key material. */
void buf_cleanse(struct buf *b);
/** Forget the contents and `bad`, keep the memory. */
void buf_reset(struct buf *b);
/** Make room for `n` more bytes. 0, or -EMSGSIZE over the limit, -ENOMEM; sets b->bad on failure.
 */
int buf_reserve(struct buf *b, size_t n);
/** Drop `n` bytes (at most len) from the front. Moves the rest. */
void buf_consume(struct buf *b, size_t n);
/** Borrow the contents. */
static inline struct span buf_span(const struct buf *b)
{
	return span_of(b->p, b->len);
}

/* Appending. Each sets b->bad instead of returning an error: check once at the end of a shape. */
void wr_bytes(struct buf *b, const void *p, size_t n);
void wr_zero(struct buf *b, size_t n);
void wr_u8(struct buf *b, uint8_t v);
void wr_u16be(struct buf *b, uint16_t v);
void wr_u32be(struct buf *b, uint32_t v);
void wr_u64be(struct buf *b, uint64_t v);
/** Overwrite 4 bytes at `off` (which must be within len): lengths known only afterwards. */
void wr_u32be_at(struct buf *b, size_t off, uint32_t v);

/* Reading: a read past the end sets r.bad, yields zero or an empty span, and consumes nothing. */
struct rd {
	struct span in; /* what is left */
	bool bad;
};

static inline struct rd rd_from(struct span in)
{
	return (struct rd){.in = in};
}
uint8_t rd_u8(struct rd *r);
uint16_t rd_u16be(struct rd *r);
uint32_t rd_u32be(struct rd *r);
uint64_t rd_u64be(struct rd *r);
struct span rd_bytes(struct rd *r, size_t n);
/** Copy exactly n bytes to out; zeroes out when there are fewer. */
void rd_copy(struct rd *r, void *out, size_t n);

#endif
