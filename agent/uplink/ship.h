/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ship: streams → frames → blocks. The pipeline thread appends frames; they are sealed into
 * numbered blocks; one uplink thread (tunnel, or the collector's half in the same process) takes
 * the blocks in order, and acknowledges them. What is not acknowledged stays, in memory, within a
 * bound. When the bound is reached whole flows are dropped, oldest queued first, counted, and the
 * peer is told with a flow-close frame (FLOW_END_SHED). Never does I/O but for its eventfd.
 */
#ifndef SSLC_AGENT_SHIP_H
#define SSLC_AGENT_SHIP_H

#include "frame.h"

struct ship;

#define SHIP_BLOCK_TARGET                                                                          \
	(256u << 10) /* a block is sealed at this size; below ZBLOCK_RAW_MAX by one frame */

/** max_bytes bounds the frames held, unsent and unacknowledged together. 0, -ENOMEM, -errno of
 * eventfd. */
int ship_new(struct ship **out, size_t max_bytes) WARN_UNUSED;
void ship_free(struct ship *s);

/* Producer side: one thread. Copies what it is given; never blocks for I/O. */
void ship_flow_open(struct ship *s, const struct frame_flow_open *m);
/** Any length: cut into frames of FRAME_DATA_MAX; m->flags apply to the last one. */
void ship_data(struct ship *s, const struct frame_data *m);
void ship_gap(struct ship *s, const struct frame_gap *m);
void ship_flow_fin(struct ship *s, const struct frame_flow_fin *m);
void ship_flow_close(struct ship *s, const struct frame_flow_close *m);
void ship_stats(struct ship *s, const struct frame_stats *m);
/** Seal the block being filled, if it holds anything, and wake the uplink. Call when input pauses.
 */
void ship_flush(struct ship *s);
/** About once a second: memory that is kept for later forgets what it held. */
void ship_tidy(struct ship *s);
/** True when little more fits: three quarters of the bound are in use. */
bool ship_is_crowded(struct ship *s);
/** True when nothing is held: all acknowledged. */
bool ship_is_empty(struct ship *s);

/* Uplink side: one thread. */
struct ship_block {
	uint64_t seq;       /* from 1 upwards, without holes */
	struct span frames; /* borrowed until ship_return() */
	uint64_t behind;    /* sealed blocks that come after it */
};
/** Readable (poll) while a sealed, unsent block may be there; ship_take() resets it when none is
 * left. */
int ship_wake_fd(const struct ship *s);
/** Borrow the next sealed block not sent yet. False when there is none. One block at a time. */
bool ship_take(struct ship *s, struct ship_block *out) WARN_UNUSED;
/** Hand the borrowed block back: sent (it waits for its ack), or not sent (it is next again). */
void ship_return(struct ship *s, bool sent);
/** Blocks up to seq are out of the collector's sinks: forget them. */
void ship_ack(struct ship *s, uint64_t seq);
/** Sequence number of the first block still held (or of the next one to be made). */
uint64_t ship_first_seq(struct ship *s);
/**
 * After a (re)connect: everything unacknowledged after `resume_seq` is to be sent again, in order.
 * When its sessions are unknown to the collector (new_collector, or a resume_seq below what was
 * acknowledged before), `reopen` receives flow-open frames (FLOW_OPEN_RESUMED set) for every flow
 * that is open or still has frames queued and whose own flow-open is not in a block to come; they
 * are to be sent as control frames before the first block. reopen may exceed one envelope: the
 * caller splits at frame borders. 0 or -ENOMEM/-EMSGSIZE.
 */
int ship_rewind(struct ship *s, uint64_t resume_seq, bool new_collector,
		struct buf *reopen) WARN_UNUSED;

#endif
