/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rings: several ring buffers as one. Events come out in an order that a single ring could have
 * had: see proto/ring.h, which says why. Not for several threads at once.
 */
#ifndef SSLC_AGENT_RINGS_H
#define SSLC_AGENT_RINGS_H

#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ring.h"
#include "ringmap.h"

/** How many rings for so many processors, when all have so many bytes together. */
unsigned rings_choose(long processors, size_t bytes);

struct rings {
	struct ringmap map[SSLC_RINGS_MAX];
	unsigned n;

	/* Of several; by ring. */
	uint64_t until[SSLC_RINGS_MAX]; /* as far as it had come when the round began */
	const struct sslc_event *head[SSLC_RINGS_MAX]; /* its next event; NULL: to be looked up */
	unsigned first;                                /* the ring whose head rings_first() gave */
};

/** fds: n maps, borrowed, `size` bytes large each; n: 1 to SSLC_RINGS_MAX. 0, -errno. */
int rings_open(struct rings *r, const int *fds, unsigned n, size_t size)
	__attribute__((warn_unused_result));
/** Also after rings_open() failed, and of a zeroed one. */
void rings_close(struct rings *r);

/** As those of a single ring: see ringmap.h. */
const struct sslc_event *rings_first(struct rings *r);
void rings_pop(struct rings *r);
void rings_release(struct rings *r);

/** Whether there is anything that was not popped, be it still being written. */
bool rings_is_empty(const struct rings *r);
/** Bytes that were popped ever. */
uint64_t rings_at(const struct rings *r);
/** Bytes that were given back ever; any thread. */
uint64_t rings_taken(const struct rings *r);
/** Bytes that are in the fullest one; any thread. */
uint64_t rings_used(const struct rings *r);

/** How far each has come, and whether all up to there was given back. Any thread. */
void rings_mark(const struct rings *r, uint64_t marks[SSLC_RINGS_MAX]);
bool rings_passed(const struct rings *r, const uint64_t marks[SSLC_RINGS_MAX]);

#endif
