/* SPDX-License-Identifier: Apache-2.0 */
/*
 * early: data events of 0-RTT in, the same events out in their order, or nothing. Knows nothing of
 * connections but what was said about these bytes. Plaintext is cleansed when it is dropped.
 */
#include "match/early.h"

#include "base/buf.h"
#include "base/metrics.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static COUNTER_DEFINE(held_now, "flow_bytes_early_held",
		      "0-RTT plaintext bytes waiting for the server's decision now");
static COUNTER_DEFINE(bytes_void, "flow_bytes_early_rejected",
		      "0-RTT plaintext bytes that the server rejected: not mirrored");
static COUNTER_DEFINE(overflows, "flow_early_overflows",
		      "connections with more 0-RTT data than is held: the rest is told as a gap");

struct early {
	struct buf events; /* struct sslc_ev_data and its bytes, each padded to 8 */
	size_t bytes;      /* of plaintext */
	uint64_t hole;
	bool rejected;
};

struct early_pool {
	struct early_limits limits;
	size_t bytes;  /* of plaintext */
	size_t memory; /* objects and events */
};

int early_pool_new(struct early_pool **out, const struct early_limits *limits)
{
	struct early_pool *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->limits = *limits;
	*out = p;
	return 0;
}

void early_pool_free(struct early_pool *p)
{
	free(p);
}

static struct early *get(struct early_pool *p, struct early **e)
{
	if (*e)
		return *e;
	*e = calloc(1, sizeof(**e));
	if (!*e)
		return NULL;
	buf_init(&(*e)->events, 4 * p->limits.per_flow + 4096); /* headers may outweigh the bytes */
	p->memory += sizeof(**e);
	return *e;
}

static bool has_room(const struct early_pool *p, struct early *e, size_t len, size_t padded)
{
	return e->bytes + len <= p->limits.per_flow && p->memory + padded <= p->limits.total &&
	       !buf_reserve(&e->events, padded);
}

int early_put(struct early_pool *p, struct early **e, const struct sslc_ev_data *ev)
{
	size_t size = sizeof(*ev) + ev->len, padded = (size + 7) & ~(size_t)7;
	struct early *h = get(p, e);

	if (!h)
		return -ENOMEM;
	if (h->hole || !has_room(p, h, ev->len, padded)) {
		if (!h->hole)
			counter_inc(&overflows);
		h->hole += ev->len;
		return 0;
	}
	wr_bytes(&h->events, ev, size);
	wr_zero(&h->events, padded - size);
	h->bytes += ev->len;
	p->bytes += ev->len;
	p->memory += padded;
	counter_set(&held_now, p->bytes);
	return 0;
}

int early_skip(struct early_pool *p, struct early **e, uint64_t len)
{
	struct early *h = get(p, e);

	if (!h)
		return -ENOMEM;
	h->hole += len;
	return 0;
}

uint64_t early_span(const struct early *e)
{
	return e ? e->bytes + e->hole : 0;
}

void early_reject(struct early *e)
{
	e->rejected = true;
}

/* The beginning of the held bytes is the beginning of these. */
static bool is_repeated(const struct early *e, const struct sslc_ev_data *next)
{
	const uint8_t *want = next->data;
	size_t left = next->len;

	for (size_t at = 0; at < e->events.len && left;) {
		const struct sslc_ev_data *ev = (const void *)(e->events.p + at);
		size_t n = ev->len < left ? ev->len : left;

		if (memcmp(ev->data, want, n) != 0)
			return false;
		want += n;
		left -= n;
		at += (sizeof(*ev) + ev->len + 7) & ~(size_t)7;
	}
	return e->bytes > 0;
}

bool early_is_void(const struct early *e, const struct sslc_ev_data *next)
{
	return e->rejected || (next && next->dir == SSLC_DIR_OUT && is_repeated(e, next));
}

static void release(struct early_pool *p, struct early **e)
{
	p->bytes -= (*e)->bytes;
	p->memory -= sizeof(**e) + (*e)->events.len;
	counter_set(&held_now, p->bytes);
	buf_cleanse(&(*e)->events);
	free(*e);
	*e = NULL;
}

uint64_t early_take(struct early_pool *p, struct early **e,
		    void (*each)(void *ctx, const struct sslc_ev_data *ev), void *ctx)
{
	uint64_t hole = (*e)->hole;

	for (size_t at = 0; at < (*e)->events.len;) {
		const struct sslc_ev_data *ev = (const void *)((*e)->events.p + at);

		each(ctx, ev);
		at += (sizeof(*ev) + ev->len + 7) & ~(size_t)7;
	}
	release(p, e);
	return hole;
}

void early_drop(struct early_pool *p, struct early **e)
{
	if (!*e)
		return;
	counter_add(&bytes_void, (*e)->bytes + (*e)->hole);
	release(p, e);
}
