/* SPDX-License-Identifier: Apache-2.0 */
/*
 * evqueue: events in, the same events out, between two threads. One puts, one takes; nobody waits
 * here, and nothing is dropped: who puts asks for room first.
 */
#ifndef SSLC_AGENT_EVQUEUE_H
#define SSLC_AGENT_EVQUEUE_H

#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "event.h"

struct evqueue;

#define EVQUEUE_MIN (64u << 10)

/**
 * bytes: memory for events, a power of two of at least EVQUEUE_MIN; it is taken from the system as
 * it is used, and given back when the queue is freed. -EINVAL, -ENOMEM.
 */
int evqueue_new(struct evqueue **out, size_t bytes) __attribute__((warn_unused_result));
/** After both threads are done with it. Accepts NULL. */
void evqueue_free(struct evqueue *q);

/* One thread. */
/** Whether an event of `size` bytes fits now, wherever the memory wraps. */
bool evqueue_fits(const struct evqueue *q, size_t size);
/**
 * A copy of the event's first `used` bytes (at most ev->size, at least its header), as an event of
 * that size. There is room: see evqueue_fits(). It is seen by the other side after
 * evqueue_publish().
 */
void evqueue_put(struct evqueue *q, const struct sslc_event *ev, size_t used);
/** The same of an event that stands in two pieces: n bytes at tail follow the first `used`. */
void evqueue_put_pieces(struct evqueue *q, const struct sslc_event *ev, size_t used,
			const void *tail, size_t n);
void evqueue_publish(struct evqueue *q);

/* The other thread. */
/** The first event, borrowed until evqueue_pop(); NULL: there is none. */
const struct sslc_event *evqueue_first(struct evqueue *q);
void evqueue_pop(struct evqueue *q);

/** Bytes in use now; most that were. Any thread. */
size_t evqueue_used(const struct evqueue *q);
size_t evqueue_high(const struct evqueue *q);

#endif
