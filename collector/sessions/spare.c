/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spare: see spare.h. Each direction's parts are in a queue by offset, because an end tells each
 * direction in order.
 */
#include "sessions/spare.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/queue.h"

struct kept {
	struct queue_node node; /* in spare.dir[] */
	struct spare_part part; /* its bytes point into bytes[] */
	size_t len;             /* of bytes[] */
	uint8_t bytes[];
};

struct spare {
	struct queue dir[2];
	uint64_t bytes;
	size_t held;
};

struct spare *spare_new(void)
{
	struct spare *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	queue_init(&p->dir[FLOW_C2S]);
	queue_init(&p->dir[FLOW_S2C]);
	return p;
}

static struct kept *kept_of(struct queue_node *n)
{
	return n ? queue_entry(n, struct kept, node) : NULL;
}

static struct kept *first(const struct spare *p, enum flow_dir dir)
{
	return kept_of(queue_first(&p->dir[dir]));
}

static uint64_t end_of(const struct kept *k)
{
	return k->part.offset + k->part.bytes.len;
}

static void kept_free(struct spare *p, struct kept *k)
{
	queue_remove(&k->node);
	p->bytes -= k->part.bytes.len;
	p->held -= sizeof(*k) + k->len;
	explicit_bzero(k->bytes, k->len);
	free(k);
}

void spare_free(struct spare *p)
{
	struct kept *k;

	if (!p)
		return;
	for (int d = 0; d < 2; d++)
		while ((k = first(p, (enum flow_dir)d)))
			kept_free(p, k);
	free(p);
}

int spare_put(struct spare *p, const struct spare_part *part)
{
	struct kept *k = calloc(1, sizeof(*k) + part->bytes.len);

	if (!k)
		return -ENOMEM;
	memcpy(k->bytes, part->bytes.p, part->bytes.len);
	k->part = *part;
	k->part.bytes.p = k->bytes;
	k->len = part->bytes.len;
	p->held += sizeof(*k) + k->len;
	p->bytes += k->len;
	queue_push(&p->dir[part->dir], &k->node);
	return 0;
}

/* The part without what lies before `offset`. */
static struct spare_part beyond(const struct spare_part *part, uint64_t offset)
{
	struct spare_part out = *part;
	uint64_t seen = offset > part->offset ? offset - part->offset : 0;

	out.offset += seen;
	out.bytes = span_of(out.bytes.p + seen, out.bytes.len - seen);
	return out;
}

static const struct kept *holder(const struct spare *p, enum flow_dir dir, uint64_t offset)
{
	struct queue_node *n = queue_first(&p->dir[dir]);

	while (n && end_of(kept_of(n)) <= offset)
		n = queue_next(&p->dir[dir], n);
	return kept_of(n);
}

bool spare_at(const struct spare *p, enum flow_dir dir, uint64_t offset, struct spare_part *out)
{
	const struct kept *k = holder(p, dir, offset);

	if (!k || k->part.offset > offset)
		return false;
	*out = beyond(&k->part, offset);
	return true;
}

uint64_t spare_next(const struct spare *p, enum flow_dir dir, uint64_t offset)
{
	const struct kept *k = holder(p, dir, offset);

	if (!k)
		return UINT64_MAX;
	return k->part.offset > offset ? k->part.offset : offset;
}

uint64_t spare_passed(struct spare *p, enum flow_dir dir, uint64_t offset)
{
	uint64_t before = p->bytes;
	struct kept *k;

	while ((k = first(p, dir)) && end_of(k) <= offset)
		kept_free(p, k);
	if (k && k->part.offset < offset) {
		p->bytes -= offset - k->part.offset;
		k->part = beyond(&k->part, offset);
	}
	return before - p->bytes;
}

bool spare_is_alike(const struct spare *p, enum flow_dir dir, uint64_t offset, struct span bytes,
		    uint64_t *ts_ns)
{
	uint64_t end = offset + bytes.len;
	struct queue_node *n = queue_first(&p->dir[dir]);

	for (; n && kept_of(n)->part.offset < end; n = queue_next(&p->dir[dir], n)) {
		const struct kept *k = kept_of(n);
		uint64_t from = k->part.offset > offset ? k->part.offset : offset;
		uint64_t to = end_of(k) < end ? end_of(k) : end;

		if (from >= to)
			continue;
		*ts_ns = k->part.ts_ns;
		if (memcmp(k->part.bytes.p + (from - k->part.offset), bytes.p + (from - offset),
			   to - from) != 0)
			return false;
	}
	return true;
}

uint64_t spare_bytes(const struct spare *p)
{
	return p->bytes;
}

size_t spare_held(const struct spare *p)
{
	return p->held;
}

uint64_t spare_since(const struct spare *p)
{
	const struct kept *c2s = first(p, FLOW_C2S), *s2c = first(p, FLOW_S2C);
	uint64_t a = c2s ? c2s->part.arrived_ns : UINT64_MAX;
	uint64_t b = s2c ? s2c->part.arrived_ns : UINT64_MAX;

	return a < b ? a : b;
}
