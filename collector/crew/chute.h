/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chute: parcels from one thread to another, in order, through memory of a fixed size. One thread
 * puts, one takes; no locks. What is full makes the one who puts wait: nothing is dropped. Two
 * descriptors wake whoever sleeps.
 */
#ifndef SSLC_COLLECTOR_CHUTE_H
#define SSLC_COLLECTOR_CHUTE_H

#include "base/buf.h"

struct chute;

struct parcel {
	unsigned what;    /* the users' own numbering, from 1 */
	void *to;         /* the users' own */
	struct span body; /* borrowed until chute_done() */
};

/**
 * size: bytes of memory, a power of two; a parcel may take up to a quarter of it. told_fd: an
 * eventfd that chute_done() writes to when it was asked for by chute_want(); borrowed. 0, -ENOMEM,
 * -errno.
 */
int chute_new(struct chute **out, size_t size, int told_fd) WARN_UNUSED;
/** What was in it is overwritten. Accepts NULL. */
void chute_free(struct chute *c);

/* Who puts. */

/** Where up to `max` bytes of the next parcel go. Waits until there is room. */
uint8_t *chute_room(struct chute *c, size_t max);
/** The parcel with the first `len` bytes there is on its way. */
void chute_put(struct chute *c, unsigned what, void *to, size_t len);
/** A position behind all that was put: see chute_is_past(). */
uint64_t chute_position(const struct chute *c);
/** Everything that was put before `position` is done with. */
bool chute_is_past(const struct chute *c, uint64_t position);
/** As soon as chute_is_past(position), told_fd becomes readable. False: it is already. */
bool chute_want(struct chute *c, uint64_t position);
/** About once a second: memory that nothing lies in forgets what it held. */
void chute_tidy(struct chute *c);

/* Who takes. */

/** The next parcel, if there is one. */
bool chute_take(struct chute *c, struct parcel *out) WARN_UNUSED;
/** All that was taken is done with: its effects are where they belong. */
void chute_done(struct chute *c);
/** Sleep until there is a parcel, chute_wake(), or wait_ns are over. */
void chute_sleep(struct chute *c, uint64_t wait_ns);
/** From any thread: ends a chute_sleep(), or the next one. */
void chute_wake(struct chute *c);

#endif
