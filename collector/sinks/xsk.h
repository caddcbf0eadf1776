/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xsk: frames out of an interface through an AF_XDP socket in copy mode. The kernel takes each
 * frame out of memory that both sides share and gives it to the driver as any other packet: no
 * program on the interface, nothing received, every kind of interface. A frame costs a third less
 * than through a packet socket, which parses what it is given. Used by one thread.
 */
#ifndef SSLC_COLLECTOR_XSK_H
#define SSLC_COLLECTOR_XSK_H

#include "base/buf.h"

struct xsk;

/* What became of frames since the last time it was asked. */
struct xsk_done {
	unsigned frames;     /* left the socket */
	uint64_t bytes;      /* of them */
	struct span dropped; /* with -EBUSY; borrowed, until the next xsk_take() */
};

/**
 * A socket on one of the interface's queues, 0 is the first, for frames of at most frame_max bytes.
 * 0; -EMSGSIZE: larger than this way can take; -EBUSY: the queue has such a socket, maybe our last
 * one that the kernel is still taking apart; another -errno: not possible here. Logs nothing.
 */
int xsk_open(struct xsk **out, int ifindex, unsigned queue, size_t frame_max) WARN_UNUSED;
/** A buffer of frame_max bytes to fill; NULL while all are on their way. */
uint8_t *xsk_take(struct xsk *x);
/** Back unsent. */
void xsk_give_back(struct xsk *x, uint8_t *frame);
/** Queue a buffer that was taken; leaves with xsk_kick(). */
void xsk_put(struct xsk *x, uint8_t *frame, size_t len);
/**
 * Let the kernel send, and fill `done`.
 * 0: nothing is queued any more. -EBUSY: the interface dropped one frame, which is not in `done`;
 * ask again for the rest. -EAGAIN: some are still queued, *moved tells whether any was taken.
 * Another -errno: the socket is of no use any more.
 */
int xsk_kick(struct xsk *x, struct xsk_done *done, bool *moved) WARN_UNUSED;
/** Each frame that was put and that the kernel has not looked at yet, in order; fn may change it
 * and returns its length. */
void xsk_waiting(struct xsk *x, size_t (*fn)(void *ctx, uint8_t *frame, size_t len), void *ctx);
/** The largest frame: at least what xsk_open() was asked for. */
size_t xsk_frame_max(const struct xsk *x);
/** Frames that were put and are not done: queued here, or on their way through a driver. */
unsigned xsk_in_flight(const struct xsk *x);
/** Accepts NULL. What is queued is lost. */
void xsk_close(struct xsk *x);

#endif
