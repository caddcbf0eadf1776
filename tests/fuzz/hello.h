/* SPDX-License-Identifier: Apache-2.0 */
/* What fuzz targets of links say before their input, so that it gets further. */
#ifndef SSLC_FUZZ_HELLO_H
#define SSLC_FUZZ_HELLO_H

#include <stdlib.h>

#include "frame.h"
#include "zblock.h"

/* As one control envelope behind what `out` has. */
static inline void put_control(struct buf *out, const struct buf *frames)
{
	struct zblock_enc *enc;

	if (zblock_enc_new(&enc, 0) || zblock_encode(enc, ZBLOCK_CONTROL, 0, buf_span(frames), out))
		abort();
	zblock_enc_free(enc);
}

/* A proper one. */
static inline void put_hello(struct buf *out)
{
	struct frame_hello m = {.version = SSLC_PROTO_VERSION, .n_links = 1};
	struct buf b;

	m.host = span_str("h");
	m.software = span_str("s");
	buf_init(&b, 4096);
	frame_put_hello(&b, &m);
	put_control(out, &b);
	buf_fini(&b);
}

/* Up to `most` bytes from the front of *in. */
static inline struct span cut_front(struct span *in, size_t most)
{
	struct span piece = span_of(in->p, in->len < most ? in->len : most);

	*in = span_of(in->p + piece.len, in->len - piece.len);
	return piece;
}

#endif
