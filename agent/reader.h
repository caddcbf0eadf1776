/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reader: empties the kernel's ring buffer. The main thread takes events from where the kernel half
 * put them. While it is away on longer work a second thread moves them into a queue in memory, so
 * that the ring has room. Does not look into events.
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
	int ring_fd;            /* the ring buffer map; borrowed */
	int wake_fd;            /* readable (poll) when the kernel half wakes us: the same */
	size_t ring_bytes;      /* its size */
	size_t queue_bytes;     /* a power of two of at least EVQUEUE_MIN */
	struct sslc_ring *ring; /* shared with the kernel half; borrowed */
	/* Edge-triggered: readable when reader_take() is due; borrowed. */
	int epoll_fd;
};

struct reader_stats {
	uint64_t ring_used, ring_high; /* bytes in the ring buffer now, and at most */
	uint64_t ring_bytes, events;   /* that have passed */
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
