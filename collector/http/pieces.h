/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pieces: what a connection said, in order, kept in a buf until it may be shown: bytes of either
 * direction, and holes in them.
 */
#ifndef SSLC_COLLECTOR_PIECES_H
#define SSLC_COLLECTOR_PIECES_H

#include "frame.h"

struct piece { /* each stands before its bytes */
	uint64_t ts_ns;
	uint64_t gap; /* not 0: so many bytes are missing, and none follow */
	uint32_t len;
	uint8_t dir; /* enum flow_dir */
	bool end;    /* last of a message */
};

/** Appends one. 0, or as buf_reserve(): nothing is appended then. */
int pieces_put(struct buf *b, struct piece piece, struct span bytes) WARN_UNUSED;
/** The next one of what `r` has left; `bytes` borrows from it. False behind the last. */
bool pieces_next(struct rd *r, struct piece *piece, struct span *bytes);

#endif
