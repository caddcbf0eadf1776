/* SPDX-License-Identifier: Apache-2.0 */
/* queue: an intrusive doubly linked list with O(1) removal: LRU orders and deadline queues. */
#ifndef SSLC_BASE_QUEUE_H
#define SSLC_BASE_QUEUE_H

#include <stdbool.h>
#include <stddef.h>

struct queue_node {
	struct queue_node *prev, *next; /* both NULL while in no queue */
};

struct queue {
	struct queue_node head; /* sentinel */
};

static inline void queue_init(struct queue *q)
{
	q->head.prev = q->head.next = &q->head;
}

static inline bool queue_is_in(const struct queue_node *n)
{
	return n->next != NULL;
}

static inline struct queue_node *queue_first(const struct queue *q)
{
	return q->head.next == &q->head ? NULL : q->head.next;
}

static inline struct queue_node *queue_next(const struct queue *q, const struct queue_node *n)
{
	return n->next == &q->head ? NULL : n->next;
}

static inline void queue_remove(struct queue_node *n)
{
	if (!queue_is_in(n))
		return;
	n->prev->next = n->next;
	n->next->prev = n->prev;
	n->prev = n->next = NULL;
}

/** Append; a node that is already in a queue is moved. */
static inline void queue_push(struct queue *q, struct queue_node *n)
{
	queue_remove(n);
	n->prev = q->head.prev;
	n->next = &q->head;
	q->head.prev->next = n;
	q->head.prev = n;
}

#define queue_entry(node, type, member) ((type *)(void *)((char *)(node)-offsetof(type, member)))

#endif
