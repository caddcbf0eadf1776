/* SPDX-License-Identifier: Apache-2.0 */
/*
 * zblock: a run of frames as it crosses the tunnel. PROTOCOL.md section 2. An envelope is either
 * control (frames as they are, no sequence number) or a block (numbered, one zstd stream a link,
 * flushed at each block's end so that a block can be decoded as soon as it has arrived).
 */
#ifndef SSLC_ZBLOCK_H
#define SSLC_ZBLOCK_H

#include "base/buf.h"

#define ZBLOCK_HEADER_LEN 20
#define ZBLOCK_RAW_MAX                                                                             \
	(1u << 20) /* bytes of frames in one envelope; bounds what a peer can make us hold */
#define ZBLOCK_WIRE_MAX (ZBLOCK_RAW_MAX + (ZBLOCK_RAW_MAX >> 7) + 1024)

enum zblock_kind { ZBLOCK_CONTROL = 1, ZBLOCK_DATA = 2 };

struct zblock_enc; /* one a link and direction; holds the zstd stream */
struct zblock_dec;

/** level 0: store uncompressed; 1..: zstd level. 0, or -ENOMEM. */
int zblock_enc_new(struct zblock_enc **out, int level) WARN_UNUSED;
void zblock_enc_free(struct zblock_enc *e);
/**
 * Append one envelope that carries `frames` (at most ZBLOCK_RAW_MAX bytes) to `out`.
 * seq is written as given: 0 for ZBLOCK_CONTROL, from 1 upwards without holes for ZBLOCK_DATA.
 * 0, -EMSGSIZE (frames or out too large), -EIO (zstd). After an error the encoder is spent.
 */
int zblock_encode(struct zblock_enc *e, enum zblock_kind kind, uint64_t seq, struct span frames,
		  struct buf *out) WARN_UNUSED;

/**
 * Whether the next block is better compressed, as far as the last ones tell. Asked once a block;
 * who is told false gives it to zblock_encode_stored().
 */
bool zblock_enc_pays(struct zblock_enc *e);
/**
 * Append the header of a block whose `len` bytes of frames, as they are, the caller sends behind
 * it. Errors as above.
 */
int zblock_encode_stored(struct zblock_enc *e, uint64_t seq, size_t len,
			 struct buf *out) WARN_UNUSED;

struct zblock {
	enum zblock_kind kind;
	uint64_t seq;
	struct span frames; /* borrowed from the decoder until its next call */
};

int zblock_dec_new(struct zblock_dec **out) WARN_UNUSED;
void zblock_dec_free(struct zblock_dec *d);
/**
 * Decode one envelope from the front of `in`. Same return convention as frame_decode():
 * bytes consumed; 0: incomplete; -EBADMSG broken header or zstd data, -EMSGSIZE over a limit.
 * After an error the decoder is spent. Fuzzed: tests/fuzz/fuzz_tunnel.c
 */
ssize_t zblock_decode(struct zblock_dec *d, struct span in, struct zblock *out) WARN_UNUSED;

struct zblock_head { /* an envelope's header; see PROTOCOL.md section 2 */
	enum zblock_kind kind;
	bool zstd;
	uint32_t wire_len, raw_len;
	uint64_t seq;
};

/** One header from the front of `in`: ZBLOCK_HEADER_LEN; 0: incomplete; or errors as above. */
ssize_t zblock_head(struct span in, struct zblock_head *out) WARN_UNUSED;

/* For who passes envelopes on as they are: where the one that is under way ends. All zero at a
 * link's begin. */
struct zblock_walk {
	uint8_t head[ZBLOCK_HEADER_LEN];
	unsigned n_head; /* bytes of it that have come, while it is incomplete */
	uint32_t left;   /* bytes behind it that have not */
};

/**
 * Go over received bytes, cut anywhere: to the end of a header, then to the end of what belongs to
 * it. Returns bytes consumed (all of a non-empty `in` at most), or zblock_decode()'s errors for a
 * broken header. *began: a header was completed, and is in `out`. Keeps nothing but the header.
 */
ssize_t zblock_walk(struct zblock_walk *w, struct span in, struct zblock_head *out,
		    bool *began) WARN_UNUSED;

#endif
