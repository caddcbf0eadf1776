/* SPDX-License-Identifier: Apache-2.0 */
/*
 * held: data events without a connection in, the same events out once there is one. Memory is
 * bounded for one TLS object and for all; plaintext is cleansed when it is dropped.
 */
#include "match/held.h"

#include "base/buf.h"
#include "base/hmap.h"
#include "base/metrics.h"
#include "base/queue.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static COUNTER_DEFINE(lost_unbound, "flow_bytes_lost_unbound",
		      "plaintext bytes whose TCP connection could not be found");
static COUNTER_DEFINE(held_now, "flow_bytes_held",
		      "plaintext bytes waiting for their connection now");

struct object {
	struct hmap_node node;
	struct queue_node age; /* by first byte */
	struct sslc_conn_id conn;
	uint64_t since_ns;
	struct buf events; /* struct sslc_ev_data and its bytes, each padded to 8 */
	size_t bytes;      /* of plaintext */
	bool full; /* something was dropped: so is all after it, and no hole is left inside */
};

struct held {
	struct held_limits limits;
	held_lost_fn lost;
	void *ctx; /* borrowed; for lost */
	struct hmap objects;
	struct queue by_age;
	size_t bytes;  /* of plaintext */
	size_t memory; /* objects and events */
};

int held_new(struct held **out, const struct held_limits *limits, held_lost_fn lost, void *ctx)
{
	struct held *h = calloc(1, sizeof(*h));

	if (!h)
		return -ENOMEM;
	h->limits = *limits;
	h->lost = lost;
	h->ctx = ctx;
	hmap_init(&h->objects);
	queue_init(&h->by_age);
	*out = h;
	return 0;
}

static struct object *find(const struct held *h, const struct sslc_conn_id *conn, uint64_t hash)
{
	for (struct hmap_node *n = hmap_first(&h->objects, hash); n; n = hmap_next_same(n)) {
		struct object *o = hmap_entry(n, struct object, node);

		if (memcmp(&o->conn, conn, sizeof(*conn)) == 0)
			return o;
	}
	return NULL;
}

static void forget(struct held *h, struct object *o)
{
	hmap_remove(&h->objects, &o->node);
	queue_remove(&o->age);
	h->bytes -= o->bytes;
	h->memory -= sizeof(*o) + o->events.len;
	counter_set(&held_now, h->bytes);
	buf_cleanse(&o->events);
	free(o);
}

static void lose(struct held *h, const struct sslc_conn_id *conn, uint64_t bytes)
{
	counter_add(&lost_unbound, bytes);
	if (h->lost && bytes)
		h->lost(h->ctx, conn, bytes);
}

/*
 * What has waited longest is the least likely to find its connection: it goes first, but for
 * `keep`. False when that does not help.
 */
static bool make_room(struct held *h, size_t need, const struct object *keep)
{
	struct queue_node *n;

	while (h->memory + need > h->limits.total && (n = queue_first(&h->by_age))) {
		struct object *o = queue_entry(n, struct object, age);

		if (o == keep)
			return false;
		lose(h, &o->conn, o->bytes);
		forget(h, o);
	}
	return h->memory + need <= h->limits.total;
}

static struct object *find_or_make(struct held *h, const struct sslc_conn_id *conn, uint64_t now_ns)
{
	uint64_t hash = hmap_hash(conn, sizeof(*conn));
	struct object *o = find(h, conn, hash);

	if (o || !make_room(h, sizeof(*o), NULL))
		return o;
	o = calloc(1, sizeof(*o));
	if (!o)
		return NULL;
	o->conn = *conn;
	o->since_ns = now_ns;
	buf_init(&o->events,
		 4 * h->limits.per_object + 4096); /* headers may outweigh one-byte calls */
	if (hmap_insert(&h->objects, &o->node, hash)) {
		free(o);
		return NULL;
	}
	queue_push(&h->by_age, &o->age);
	h->memory += sizeof(*o);
	return o;
}

static bool has_room(struct held *h, struct object *o, size_t len, size_t padded)
{
	if (!o->full)
		o->full = o->bytes + len > h->limits.per_object || !make_room(h, padded, o) ||
			  buf_reserve(&o->events, padded);
	return !o->full;
}

void held_put(struct held *h, const struct sslc_ev_data *ev, uint64_t now_ns)
{
	size_t size = sizeof(*ev) + ev->len, padded = (size + 7) & ~(size_t)7;
	struct object *o = find_or_make(h, &ev->conn, now_ns);

	if (!o || !has_room(h, o, ev->len, padded)) {
		lose(h, &ev->conn, ev->len);
		return;
	}
	wr_bytes(&o->events, ev, size);
	wr_zero(&o->events, padded - size);
	o->bytes += ev->len;
	h->bytes += ev->len;
	h->memory += padded;
	counter_set(&held_now, h->bytes);
}

void held_take(struct held *h, const struct sslc_conn_id *conn,
	       void (*each)(void *ctx, const struct sslc_ev_data *ev), void *ctx)
{
	struct object *o = find(h, conn, hmap_hash(conn, sizeof(*conn)));

	if (!o)
		return;
	for (size_t at = 0; at < o->events.len;) {
		const struct sslc_ev_data *ev = (const void *)(o->events.p + at);

		each(ctx, ev);
		at += (sizeof(*ev) + ev->len + 7) & ~(size_t)7;
	}
	forget(h, o);
}

void held_expire(struct held *h, uint64_t now_ns)
{
	struct queue_node *n;

	while ((n = queue_first(&h->by_age))) {
		struct object *o = queue_entry(n, struct object, age);

		if (now_ns < o->since_ns || now_ns - o->since_ns < h->limits.wait_ns)
			return;
		lose(h, &o->conn, o->bytes);
		forget(h, o);
	}
}

void held_free(struct held *h)
{
	struct queue_node *n;

	if (!h)
		return;
	while ((n = queue_first(&h->by_age)))
		forget(h, queue_entry(n, struct object, age));
	hmap_fini(&h->objects);
	free(h);
}
