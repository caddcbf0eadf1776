/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ringmap: a BPF ring buffer as its one consumer sees it: events are read where the kernel half put
 * them, and their room is given back in larger pieces, because each time takes a cache line from
 * whoever is about to put the next one. Not for several threads at once.
 * Source: include/uapi/linux/bpf.h and kernel/bpf/ringbuf.c, since 5.8.
 */
#ifndef SSLC_AGENT_RINGMAP_H
#define SSLC_AGENT_RINGMAP_H

#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "event.h"

struct ringmap {
	/* Mapped; see ringmap_open(). */
	uint64_t *consumer;       /* ours to write */
	const uint64_t *producer; /* the kernel's */
	const uint8_t *data;      /* size bytes, and the same again behind them */
	size_t size;

	uint64_t at, seen; /* next record; the kernel's position as last seen */
	size_t step;       /* of the record that ringmap_first() gave */
	void *first, *second;
	size_t page;
};

/** fd: the map, borrowed, `size` bytes large. 0, -errno. */
int ringmap_open(struct ringmap *m, int fd, size_t size) __attribute__((warn_unused_result));
/** Also after ringmap_open() failed, and of a zeroed one. */
void ringmap_close(struct ringmap *m);

/**
 * The next event, whole, borrowed until ringmap_pop(). NULL: there is none, or it is being written
 * still. What the kernel half took back, or what cannot be an event, is passed over (the latter is
 * counted).
 */
const struct sslc_event *ringmap_first(struct ringmap *m);
/** The same in two steps: see how far the kernel half has come; the next event up to there. */
void ringmap_look(struct ringmap *m);
const struct sslc_event *ringmap_known(struct ringmap *m);
void ringmap_pop(struct ringmap *m);
/** Give back the room of all that was popped. */
void ringmap_release(struct ringmap *m);

/** Bytes that were taken from the ring ever, and put into it. Any thread. */
uint64_t ringmap_taken(const struct ringmap *m);
uint64_t ringmap_put(const struct ringmap *m);

#endif
