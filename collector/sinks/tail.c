/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tail: a ring of bytes under a lock that is held for one copy at a time.
 */
#include "sinks/tail.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct tail {
	pthread_mutex_t lock;
	uint8_t *mem; /* position p lies at p % cap */
	size_t cap;
	uint64_t end; /* bytes appended since the beginning */
};

int tail_new(struct tail **out, size_t cap)
{
	struct tail *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->cap = cap;
	t->mem = malloc(cap); /* pages are taken as they are written */
	if (!t->mem) {
		free(t);
		return -ENOMEM;
	}
	pthread_mutex_init(&t->lock, NULL);
	*out = t;
	return 0;
}

void tail_free(struct tail *t)
{
	if (!t)
		return;
	explicit_bzero(t->mem, t->end < t->cap ? (size_t)t->end : t->cap);
	free(t->mem);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

/* Bytes from position `at` to the end of the memory. */
static size_t straight(const struct tail *t, uint64_t at)
{
	return t->cap - (size_t)(at % t->cap);
}

void tail_put(struct tail *t, struct span bytes)
{
	size_t n;

	assert(bytes.len <= t->cap);
	if (!bytes.len)
		return;
	pthread_mutex_lock(&t->lock);
	n = straight(t, t->end);
	if (n > bytes.len)
		n = bytes.len;
	memcpy(t->mem + t->end % t->cap, bytes.p, n);
	memcpy(t->mem, bytes.p + n, bytes.len - n);
	t->end += bytes.len;
	pthread_mutex_unlock(&t->lock);
}

uint64_t tail_end(struct tail *t)
{
	uint64_t end;

	pthread_mutex_lock(&t->lock);
	end = t->end;
	pthread_mutex_unlock(&t->lock);
	return end;
}

static ssize_t copy_out(const struct tail *t, uint64_t at, uint8_t *out, size_t max)
{
	size_t n = (size_t)(t->end - at), first;

	if (n > t->cap)
		return -ESTALE;
	if (n > max)
		n = max;
	first = straight(t, at);
	if (first > n)
		first = n;
	memcpy(out, t->mem + at % t->cap, first);
	memcpy(out + first, t->mem, n - first);
	return (ssize_t)n;
}

ssize_t tail_read(struct tail *t, uint64_t at, void *out, size_t max)
{
	ssize_t n;

	pthread_mutex_lock(&t->lock);
	n = copy_out(t, at, out, max);
	pthread_mutex_unlock(&t->lock);
	return n;
}
