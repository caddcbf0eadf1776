/* SPDX-License-Identifier: Apache-2.0 */
/* pieces: see pieces.h. */
#include "http/pieces.h"

int pieces_put(struct buf *b, struct piece piece, struct span bytes)
{
	int err = buf_reserve(b, sizeof(piece) + bytes.len);

	if (err) {
		b->bad = false;
		return err;
	}
	piece.len = (uint32_t)bytes.len;
	wr_bytes(b, &piece, sizeof(piece));
	wr_bytes(b, bytes.p, bytes.len);
	return 0;
}

bool pieces_next(struct rd *r, struct piece *piece, struct span *bytes)
{
	if (r->in.len == 0)
		return false;
	rd_copy(r, piece, sizeof(*piece));
	*bytes = rd_bytes(r, piece->len);
	return !r->bad;
}
