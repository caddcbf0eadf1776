/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reader: empties the kernel's ring buffers. The main thread takes events from where the kernel
 * half put them, in the order of rings.h. While it is away on longer work a second thread moves
 * them into a queue in memory, so that the rings have room. Does not look into events.
 */
#ifndef SSLC_AGENT_READER_H
#define SSLC_AGENT_READER_H

#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "event.h"
#include "ring.h"

struct reader;

struct reader_conf {
	unsigned n_rings;
	const int *ring_fds;      /* so many ring buffer maps; borrowed */
	const int *wake_fds;      /* readable (poll) when the kernel half wakes us: the same */
	size_t ring_bytes;        /* the size of each */
	size_t queue_bytes;       /* a power of two of at least EVQUEUE_MIN */
	struct sslc_rings *rings; /* shared with the kernel half; borrowed */
	/* Edge-triggered: readable when reader_take() is due; borrowed. */
	int epoll_fd;
};

struct reader_stats {
	uint64_t ring_used, ring_high; /* bytes in the fullest ring buffer now; in any, at most */
	uint64_t each_ring[SSLC_RINGS_MAX]; /* bytes that have passed */
	uint64_t ring_bytes, events;        /* that have passed */
	uint64_t queue_used, queue_high;
	uint64_t naps, sleeps; /* how often the main thread rested */
};

/** Starts the second thread; signals are not for it. 0, -errno. */
int reader_start(struct reader **out, const struct reader_conf *conf)
	__attribute__((warn_unused_result));
/**
 * Up to `max` events, in their order; how many there were. Each is borrowed during the call.
 * `max`: there may be more, come again soon. Less: conf.epoll_fd says when to come again.
 */
unsigned reader_take(struct reader *r, unsigned max,
		     void (*each)(void *ctx, const struct sslc_event *ev), void *ctx);
/** The main thread goes away for longer than the ring might have room; it is back. */
void reader_away(struct reader *r);
void reader_back(struct reader *r);
/** The end: reader_take() until this is true and there is nothing left to take. */
bool reader_finish(struct reader *r);
void reader_stats(const struct reader *r, struct reader_stats *out);
/** Ends the thread at once when it still runs. Accepts NULL. */
void reader_free(struct reader *r);

#endif
