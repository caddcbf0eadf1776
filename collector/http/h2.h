/* SPDX-License-Identifier: Apache-2.0 */
/*
 * h2: both directions' bytes of one HTTP/2 connection in, with gaps; what its streams say out, in
 * order (RFC 9113). A watcher, not an endpoint: it keeps no stream states, checks no flow control,
 * and believes nothing that would cost memory without bound. No I/O, no clock.
 */
#ifndef SSLC_COLLECTOR_H2_H
#define SSLC_COLLECTOR_H2_H

#include "frame.h"

/* HEADERS or PUSH_PROMISE with its CONTINUATIONs, before decoding. Go's servers take 1 MiB of
 * fields, all others far less; a connection holds at most two of these. */
#define H2_BLOCK_MAX         (256u << 10)
#define H2_BLOCKS_MAX        (64u << 20) /* unfinished ones of all connections that share a list */
#define H2_CONTINUATIONS_MAX 256u /* of one block: an endless one costs work without progress */
/* Decoded, as RFC 9113 6.5.2 counts them (32 bytes more a field). A byte of a block can stand for
 * 64 KiB of fields, each of which becomes packets: beyond what nearly all servers take there are at
 * most two for each of the block's. */
#define H2_LIST_MAX   (256u << 10)
#define H2_LIST_FREE  (64u << 10)
#define H2_FIELDS_MAX 1024u

struct h2_field {
	uint32_t name, name_len, value, value_len; /* places in h2_list.text */
};

/* The fields of one block: scratch that many connections of one thread share. */
struct h2_list {
	struct buf text;
	size_t size;   /* RFC 9113 6.5.2 */
	size_t most;   /* of size; H2_LIST_MAX after a reset */
	size_t blocks; /* bytes of unfinished blocks, of all connections; at most: */
	size_t blocks_most;
	unsigned n;
	struct h2_field v[H2_FIELDS_MAX];
};

void h2_list_init(struct h2_list *l);
void h2_list_fini(struct h2_list *l);
/** Empties it; what was in it is overwritten. */
void h2_list_reset(struct h2_list *l);
/** Copies one field; false when it is left out because the list is full (counted). */
bool h2_list_add(struct h2_list *l, struct span name, struct span value);
static inline struct span h2_name(const struct h2_list *l, unsigned i)
{
	return span_of(l->text.p + l->v[i].name, l->v[i].name_len);
}
static inline struct span h2_value(const struct h2_list *l, unsigned i)
{
	return span_of(l->text.p + l->v[i].value, l->v[i].value_len);
}

/* What is told. `dir` is the sender's. Lists and bytes are valid during the call. */
struct h2_ops {
	/* A message's head, an interim one, or trailers. end: the sender says no more. */
	void (*headers)(void *ctx, enum flow_dir dir, uint32_t stream, const struct h2_list *list,
			bool end);
	/* The server promises `promised` as an answer to the request in `list`. */
	void (*push)(void *ctx, uint32_t stream, uint32_t promised, const struct h2_list *list);
	/* A block was lost, or is larger than H2_BLOCK_MAX: nobody knows what it said. promised: 0,
	 * or what it promised. */
	void (*headers_lost)(void *ctx, enum flow_dir dir, uint32_t stream, uint32_t promised);
	/* One DATA frame: begin with the length without padding, its bytes in pieces, holes in it
	 * of known length, its end. */
	void (*data_begin)(void *ctx, enum flow_dir dir, uint32_t stream, uint32_t len);
	void (*data)(void *ctx, enum flow_dir dir, uint32_t stream, struct span bytes);
	void (*data_gap)(void *ctx, enum flow_dir dir, uint32_t stream, uint32_t len);
	void (*data_end)(void *ctx, enum flow_dir dir, uint32_t stream, bool end);
	void (*reset)(void *ctx, enum flow_dir dir, uint32_t stream, uint32_t code);
	/* The peer's streams above `last` will not be processed by the sender. */
	void (*goaway)(void *ctx, enum flow_dir dir, uint32_t last);
	/* Whole frames are missing: what any stream said in this direction since is not known. */
	void (*lost)(void *ctx, enum flow_dir dir);
	/* Bytes between two frames that could not be told apart, after a loss. */
	void (*unframed)(void *ctx, enum flow_dir dir, size_t len);
};

struct h2;

#define H2_PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

enum h2_guess { H2_NO, H2_MAYBE, H2_YES };

/** Whether a client that begins with `bytes` speaks HTTP/2. MAYBE: more bytes will tell. */
enum h2_guess h2_is_preface(struct span bytes);
/** Whether a server that begins with `bytes` may speak HTTP/2: SETTINGS first. Never YES. */
enum h2_guess h2_is_server_preface(struct span bytes);
/** Whether `bytes`, the beginning of a TLS call in the middle of a connection, is a run of frames.
 */
bool h2_is_framed(struct span bytes);

/**
 * late: frames (or the preface) are looked for at the beginnings of TLS calls, and
 * header tables are not known. ops, ctx and list are borrowed. 0 or -ENOMEM.
 */
int h2_new(struct h2 **out, bool late, const struct h2_ops *ops, void *ctx,
	   struct h2_list *list) WARN_UNUSED;
void h2_free(struct h2 *h); /* accepts NULL */
/**
 * The next bytes of a direction. end: the last of a TLS call.
 * 0; -EBADMSG when this is not HTTP/2 (any more), -ENOMEM: nothing more may be given.
 * Fuzzed: tests/fuzz/fuzz_h2.c
 */
int h2_bytes(struct h2 *h, enum flow_dir dir, struct span bytes, bool end) WARN_UNUSED;
/** The next `len` bytes of a direction are missing. As h2_bytes(). */
int h2_gap(struct h2 *h, enum flow_dir dir, uint64_t len) WARN_UNUSED;

#endif
