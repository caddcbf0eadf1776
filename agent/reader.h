/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reader: a thread that moves events out of the kernel's ring buffer into a queue in memory, so
 * that the ring has room whatever else the program is doing. It does not look into them.
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
	size_t queue_bytes;     /* a power of two of at least EVQUEUE_MIN */
	struct sslc_ring *ring; /* shared with the kernel half; borrowed */
};

struct reader_stats {
	uint64_t ring_used, ring_high; /* bytes in the ring buffer now, and at most */
	uint64_t ring_bytes, events;   /* that have passed */
	uint64_t queue_used, queue_high;
	uint64_t naps, sleeps; /* how often the thread rested */
};

/** Starts the thread; signals are not for it. 0, -errno. */
int reader_start(struct reader **out, const struct reader_conf *conf)
	__attribute__((warn_unused_result));
/** Readable (poll) when events are in the queue and reader_take() had found it empty. */
int reader_fd(const struct reader *r);
/** Up to `max` events, in their order; how many there were. Each is borrowed during the call. */
unsigned reader_take(struct reader *r, unsigned max,
		     void (*each)(void *ctx, const struct sslc_event *ev), void *ctx);
/**
 * What is in the ring now is still moved; then the thread ends. It needs room in the queue:
 * reader_take() until this is true.
 */
bool reader_finish(struct reader *r);
void reader_stats(const struct reader *r, struct reader_stats *out);
/** Ends the thread at once when it still runs. Accepts NULL. */
void reader_free(struct reader *r);

#endif
