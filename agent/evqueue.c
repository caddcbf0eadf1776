/* SPDX-License-Identifier: Apache-2.0 */
/*
 * evqueue: a ring of bytes between one thread that puts and one that takes. Each event stands in
 * one piece, at a multiple of 8, headed by its own size; what is left at the end of the memory is
 * skipped by a mark. Positions only grow.
 */
#include "evqueue.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SKIP 0u /* sslc_event.type of the mark: go on at the beginning */

struct evqueue {
	uint8_t *p;
	size_t size, mask;
	_Alignas(64) uint64_t put; /* of the thread that puts: what is not published yet, too */
	_Atomic uint64_t in, high; /* bytes of events put, and most at once */
	_Alignas(64) _Atomic uint64_t head; /* published */
	_Alignas(64) _Atomic uint64_t tail; /* taken */
	_Atomic uint64_t out;               /* bytes of events taken */
	uint64_t seen;                      /* of the thread that takes: head as last seen */
};

static size_t padded(size_t n)
{
	return (n + 7) & ~(size_t)7;
}

int evqueue_new(struct evqueue **out, size_t bytes)
{
	struct evqueue *q;

	if (bytes < EVQUEUE_MIN || bytes & (bytes - 1))
		return -EINVAL;
	q = aligned_alloc(_Alignof(struct evqueue), sizeof(*q));
	if (!q)
		return -ENOMEM;
	memset(q, 0, sizeof(*q));
	q->p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (q->p == MAP_FAILED) {
		free(q);
		return -ENOMEM;
	}
	q->size = bytes;
	q->mask = bytes - 1;
	*out = q;
	return 0;
}

/* The kernel clears pages before anybody else gets them. */
void evqueue_free(struct evqueue *q)
{
	if (!q)
		return;
	munmap(q->p, q->size);
	free(q);
}

/* An event may need as much again, less 8, for the skipped end. */
static bool has_room(const struct evqueue *q, size_t need, uint64_t tail)
{
	size_t at = q->put & q->mask, end = q->size - at;

	if (end < need)
		need += end;
	return q->put + need - tail <= q->size;
}

bool evqueue_fits(const struct evqueue *q, size_t size)
{
	return has_room(q, padded(size), atomic_load_explicit(&q->tail, memory_order_acquire));
}

/* Leave the rest of the memory alone and go on at its beginning. 8 bytes for the mark are there:
 * all sizes are multiples of it. */
static void skip_end(struct evqueue *q, size_t at)
{
	((struct sslc_event *)(void *)(q->p + at))->type = SKIP;
	q->put += q->size - at;
}

void evqueue_put_pieces(struct evqueue *q, const struct sslc_event *ev, size_t used,
			const void *tail, size_t n)
{
	bool is_empty = q->put == atomic_load_explicit(&q->tail, memory_order_acquire);
	size_t need = padded(used + n), at = q->put & q->mask;
	struct sslc_event *to;

	assert(used >= sizeof(*ev) && used + n <= ev->size);
	/* An empty queue begins anew, and uses half of its memory in quiet times. Not earlier:
	 * until the other side has passed the mark there is room for `at` bytes. */
	if (q->size - at < need || (is_empty && at >= q->size / 2)) {
		skip_end(q, at);
		at = 0;
	}
	to = (void *)(q->p + at);
	memcpy(to, ev, used);
	if (n)
		memcpy((char *)to + used, tail, n);
	to->size = (uint32_t)(used + n);
	q->put += need;
	atomic_store_explicit(&q->in, q->in + need, memory_order_relaxed);
}

void evqueue_put(struct evqueue *q, const struct sslc_event *ev, size_t used)
{
	evqueue_put_pieces(q, ev, used, NULL, 0);
}

void evqueue_publish(struct evqueue *q)
{
	size_t used = evqueue_used(q);

	if (used > atomic_load_explicit(&q->high, memory_order_relaxed))
		atomic_store_explicit(&q->high, used, memory_order_relaxed);
	atomic_store_explicit(&q->head, q->put, memory_order_release);
}

const struct sslc_event *evqueue_first(struct evqueue *q)
{
	uint64_t tail = atomic_load_explicit(&q->tail, memory_order_relaxed);
	const struct sslc_event *ev;

	if (tail == q->seen)
		q->seen = atomic_load_explicit(&q->head, memory_order_acquire);
	if (tail == q->seen)
		return NULL;
	ev = (const void *)(q->p + (tail & q->mask));
	if (ev->type != SKIP)
		return ev;
	/* What follows the mark was published with it. */
	atomic_store_explicit(&q->tail, tail + q->size - (tail & q->mask), memory_order_release);
	return (const void *)q->p;
}

void evqueue_pop(struct evqueue *q)
{
	uint64_t tail = atomic_load_explicit(&q->tail, memory_order_relaxed);
	const struct sslc_event *ev = (const void *)(q->p + (tail & q->mask));

	atomic_store_explicit(&q->out, q->out + padded(ev->size), memory_order_relaxed);
	atomic_store_explicit(&q->tail, tail + padded(ev->size), memory_order_release);
}

size_t evqueue_used(const struct evqueue *q)
{
	uint64_t out = atomic_load_explicit(&q->out, memory_order_relaxed);

	return atomic_load_explicit(&q->in, memory_order_relaxed) - out;
}

size_t evqueue_high(const struct evqueue *q)
{
	return atomic_load_explicit(&q->high, memory_order_relaxed);
}
