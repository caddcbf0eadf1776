/* SPDX-License-Identifier: Apache-2.0 */
/*
 * prelude: see prelude.h. A record a connection: its bytes in the order in which they moved, as
 * parts with a small header each. A record that has lost something keeps no bytes, but stays as
 * long as there is room, so that a later byte is not taken for the connection's first one.
 */
#include "match/prelude.h"

#include "base/hmap.h"
#include "base/metrics.h"
#include "base/queue.h"
#include "match/stitch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static COUNTER_DEFINE(told, "flow_preludes", "connections told from before TLS began on them");
static COUNTER_DEFINE(stitched, "flow_preludes_stitched",
		      "of those, connections whose exchange about TLS was taken out");
static COUNTER_DEFINE(
	lost, "flow_preludes_lost",
	"connections told from inside TLS only: their beginning was not kept in full");
static COUNTER_DEFINE(given_up, "flow_preludes_given_up",
		      "beginnings of connections given up: too much memory, or silent too long");
static COUNTER_DEFINE(held_now, "flow_bytes_prelude_held",
		      "bytes of connections that may begin TLS, kept now");

struct part {
	uint64_t ts_ns;
	uint32_t len;
	uint32_t dir;
	/* its bytes follow, padded to 8 */
};

struct talk {
	struct hmap_node node;
	struct queue_node age; /* least recently active first */
	uint64_t flow;
	uint64_t active_ns;
	struct buf parts;
	size_t last;   /* where the last part begins in them */
	size_t len[2]; /* by enum sslc_dir */
	bool lost;     /* in the queue of these, and without bytes */
};

struct prelude {
	struct prelude_conf conf;
	struct hmap talks;
	struct queue by_age, by_age_lost;
	size_t memory, bytes, n_lost;
};

int prelude_new(struct prelude **out, const struct prelude_conf *conf)
{
	struct prelude *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->conf = *conf;
	hmap_init(&p->talks);
	queue_init(&p->by_age);
	queue_init(&p->by_age_lost);
	*out = p;
	return 0;
}

/* --- records ------------------------------------------------------------------------------------
 */

static uint64_t hash_flow(uint64_t flow)
{
	return hmap_hash(&flow, sizeof(flow));
}

static struct talk *find(const struct prelude *p, uint64_t flow)
{
	for (struct hmap_node *n = hmap_first(&p->talks, hash_flow(flow)); n;
	     n = hmap_next_same(n)) {
		struct talk *t = hmap_entry(n, struct talk, node);

		if (t->flow == flow)
			return t;
	}
	return NULL;
}

static void drop_bytes(struct prelude *p, struct talk *t)
{
	p->memory -= t->parts.len;
	p->bytes -= t->len[0] + t->len[1];
	t->len[0] = t->len[1] = 0;
	buf_cleanse(&t->parts);
	counter_set(&held_now, p->bytes);
}

static void forget(struct prelude *p, struct talk *t)
{
	drop_bytes(p, t);
	if (t->lost)
		p->n_lost--;
	else
		p->memory -= sizeof(*t);
	hmap_remove(&p->talks, &t->node);
	queue_remove(&t->age);
	free(t);
}

/* Some of it is missing: the rest is of no use. */
static void lose(struct prelude *p, struct talk *t)
{
	if (t->lost)
		return;
	drop_bytes(p, t);
	t->lost = true;
	p->memory -= sizeof(*t);
	p->n_lost++;
	queue_push(&p->by_age_lost, &t->age);
	if (p->n_lost > p->conf.lost)
		forget(p, queue_entry(queue_first(&p->by_age_lost), struct talk, age));
}

static void lose_oldest(struct prelude *p)
{
	counter_inc(&given_up);
	lose(p, queue_entry(queue_first(&p->by_age), struct talk, age));
}

static struct talk *make(struct prelude *p, uint64_t flow)
{
	struct talk *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->flow = flow;
	/* A part is at least a byte long, so its header and padding outweigh it by 31 at most. */
	buf_init(&t->parts, 2 * 32 * p->conf.side);
	if (hmap_insert(&p->talks, &t->node, hash_flow(flow))) {
		free(t);
		return NULL;
	}
	queue_push(&p->by_age, &t->age);
	p->memory += sizeof(*t);
	return t;
}

/* --- bytes in -----------------------------------------------------------------------------------
 */

static size_t padded(size_t len)
{
	return (len + 7) & ~(size_t)7;
}

static struct part *part_at(const struct talk *t, size_t at)
{
	return (void *)(t->parts.p + at);
}

/* Bytes that follow others of the same direction lengthen their part. */
static int append(struct talk *t, const struct sslc_ev_data *ev)
{
	struct part *last, fresh = {.ts_ns = ev->ev.ts_ns, .len = ev->len, .dir = ev->dir};

	if (buf_reserve(&t->parts, sizeof(fresh) + padded(ev->len) + 8))
		return -ENOMEM;
	last = t->parts.len ? part_at(t, t->last) : NULL;
	if (last && last->dir == ev->dir) {
		t->parts.len = t->last + sizeof(*last) + last->len;
		last->len += ev->len;
	} else {
		t->last = t->parts.len;
		wr_bytes(&t->parts, &fresh, sizeof(fresh));
	}
	wr_bytes(&t->parts, ev->data, ev->len);
	wr_zero(&t->parts, padded(t->parts.len) - t->parts.len);
	return t->parts.bad ? -ENOMEM : 0;
}

static void keep(struct prelude *p, struct talk *t, const struct sslc_ev_data *ev)
{
	size_t before = t->parts.len;

	if (ev->pos != t->len[ev->dir] || ev->len > p->conf.side - t->len[ev->dir] ||
	    append(t, ev)) {
		t->parts.len = before;
		lose(p, t);
		return;
	}
	t->len[ev->dir] += ev->len;
	p->bytes += ev->len;
	p->memory += t->parts.len - before;
	counter_set(&held_now, p->bytes);
}

void prelude_put(struct prelude *p, const struct sslc_ev_data *ev, uint64_t now_ns)
{
	struct talk *t = find(p, ev->ev.flow);

	if (!t)
		t = make(p, ev->ev.flow);
	if (!t || t->lost)
		return;
	t->active_ns = now_ns;
	queue_push(&p->by_age, &t->age);
	keep(p, t, ev);
	while (p->memory > p->conf.total)
		lose_oldest(p);
}

/* --- bytes out ----------------------------------------------------------------------------------
 */

/* The two directions, each in one piece. */
struct sides {
	struct stitch_side side[2]; /* by enum sslc_dir */
	uint8_t *memory;
	size_t all; /* bytes of both */
};

static int sides_init(struct sides *s, const struct talk *t)
{
	size_t all = t->len[0] + t->len[1];

	s->all = all;
	s->memory = calloc(2, all ? all : 1);
	if (!s->memory)
		return -ENOMEM;
	s->side[0] = (struct stitch_side){.p = s->memory, .gone = (bool *)s->memory + all};
	s->side[1] = (struct stitch_side){.p = s->side[0].p + t->len[0],
					  .gone = s->side[0].gone + t->len[0]};
	for (size_t at = 0; at < t->parts.len;) {
		const struct part *part = part_at(t, at);
		struct stitch_side *side = &s->side[part->dir];

		memcpy(side->p + side->len, part + 1, part->len);
		side->len += part->len;
		at += sizeof(*part) + padded(part->len);
	}
	return 0;
}

static void sides_fini(struct sides *s)
{
	explicit_bzero(s->memory, s->all);
	free(s->memory);
}

/*
 * How a ClientHello or ServerHello begins (RFC 8446, 4 and 5.1), or as much of it as there is, its
 * record's header at least. Both lengths and the inner version are looked at, so that other bytes
 * do not pass for one.
 */
static bool is_hello(const uint8_t *p, size_t len)
{
	size_t record = len >= 5 ? (size_t)p[3] << 8 | p[4] : 0, hello;

	if (record < 42 || record > 16384 + 256 || p[0] != 22 || p[1] != 3 || p[2] > 4)
		return false;
	if (len < 11)
		return len == 5 || (len > 5 && (p[5] == 1 || p[5] == 2));
	hello = (size_t)p[6] << 16 | (size_t)p[7] << 8 | p[8];
	return (p[5] == 1 || p[5] == 2) && hello >= 38 && p[9] == 3 && p[10] <= 4;
}

/*
 * TLS may have begun in the same operation that brought the last plain bytes. It can only have done
 * so in what moved last: somebody who sends words that look like TLS gets a plain answer.
 */
static void cut_hello(const struct talk *t, struct sides *s)
{
	const struct part *last = part_at(t, t->last);
	struct stitch_side *side = &s->side[last->dir];

	for (size_t i = side->len - last->len; i < side->len; i++) {
		if (is_hello(side->p + i, side->len - i))
			side->len = i;
	}
}

/* What is left of a part, moved together. `at` is where it begins in its direction. */
static size_t squeeze(struct stitch_side *s, size_t at, size_t len)
{
	size_t n = 0;

	for (size_t i = at; i < at + len && i < s->len; i++)
		if (!s->gone[i])
			s->p[at + n++] = s->p[i];
	return n;
}

static uint64_t hand_out(const struct talk *t, struct sides *s,
			 void (*each)(void *ctx, const struct prelude_part *part), void *ctx)
{
	size_t at[2] = {0, 0};
	uint64_t sum = 0;

	for (size_t i = 0; i < t->parts.len;) {
		const struct part *part = part_at(t, i);
		struct stitch_side *side = &s->side[part->dir];
		struct prelude_part out = {.ts_ns = part->ts_ns, .dir = part->dir};

		out.bytes =
			span_of(side->p + at[part->dir], squeeze(side, at[part->dir], part->len));
		if (out.bytes.len)
			each(ctx, &out);
		sum += out.bytes.len;
		at[part->dir] += part->len;
		i += sizeof(*part) + padded(part->len);
	}
	return sum;
}

static uint64_t tell(const struct prelude *p, const struct talk *t, bool local_is_client,
		     void (*each)(void *ctx, const struct prelude_part *part), void *ctx,
		     struct stitch_seam **seam)
{
	struct stitch_side *client, *server;
	struct sides s = {.memory = NULL};
	uint64_t sum;

	if (sides_init(&s, t)) {
		counter_inc(&lost);
		return 0;
	}
	client = &s.side[local_is_client ? SSLC_DIR_OUT : SSLC_DIR_IN];
	server = &s.side[local_is_client ? SSLC_DIR_IN : SSLC_DIR_OUT];
	cut_hello(t, &s);
	if (p->conf.mode == PRELUDE_STITCH && stitch(client, server, seam))
		counter_inc(&stitched);
	sum = hand_out(t, &s, each, ctx);
	sides_fini(&s);
	counter_inc(&told);
	return sum;
}

uint64_t prelude_take(struct prelude *p, uint64_t flow, bool local_is_client,
		      void (*each)(void *ctx, const struct prelude_part *part), void *ctx,
		      struct stitch_seam **seam)
{
	struct talk *t = find(p, flow);
	uint64_t sum = 0;

	*seam = NULL;
	if (!t)
		return 0;
	if (t->lost)
		counter_inc(&lost);
	else
		sum = tell(p, t, local_is_client, each, ctx, seam);
	forget(p, t);
	return sum;
}

uint64_t prelude_drop(struct prelude *p, uint64_t flow)
{
	struct talk *t = find(p, flow);
	uint64_t bytes;

	if (!t)
		return 0;
	bytes = t->len[0] + t->len[1];
	forget(p, t);
	return bytes;
}

void prelude_expire(struct prelude *p, uint64_t now_ns)
{
	struct queue_node *n;

	while ((n = queue_first(&p->by_age))) {
		struct talk *t = queue_entry(n, struct talk, age);

		if (now_ns < t->active_ns || now_ns - t->active_ns < p->conf.idle_ns)
			return;
		lose_oldest(p);
	}
}

void prelude_free(struct prelude *p)
{
	struct hmap_node *n;

	if (!p)
		return;
	while ((n = hmap_any(&p->talks, NULL)))
		forget(p, hmap_entry(n, struct talk, node));
	hmap_fini(&p->talks);
	free(p);
}
