/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tail: the last bytes of a stream, for readers that each have a position of their own. One thread
 * appends, others read. Appending never waits for a reader: one that falls behind more than the
 * memory holds learns so and has lost its place.
 */
#ifndef SSLC_COLLECTOR_TAIL_H
#define SSLC_COLLECTOR_TAIL_H

#include "base/buf.h"

struct tail;

/** A tail of `cap` bytes. 0 or -ENOMEM. */
int tail_new(struct tail **out, size_t cap) WARN_UNUSED;
/** Overwrites what it held: plaintext. Accepts NULL. */
void tail_free(struct tail *t);
/** Append; at most `cap` bytes at once. */
void tail_put(struct tail *t, struct span bytes);
/** Position behind the last byte: where a reader begins that wants only what comes. */
uint64_t tail_end(struct tail *t);
/**
 * Copy at most `max` bytes from position `at` on. Returns their number, 0 when there are none yet,
 * or -ESTALE when `at` is no longer held.
 */
ssize_t tail_read(struct tail *t, uint64_t at, void *out, size_t max) WARN_UNUSED;

#endif
