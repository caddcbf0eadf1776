/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rings: see rings.h. There are few of them: whatever is asked of all is asked one after the other.
 */
#include "rings.h"

#include <string.h>

#define PER_RING    4          /* processors */
#define RING_USEFUL (1u << 20) /* a ring that is smaller is no better than a part of one */

unsigned rings_choose(long processors, size_t bytes)
{
	unsigned n = 1;

	while (n < SSLC_RINGS_MAX && (long)n * PER_RING < processors &&
	       bytes / (2 * n) >= RING_USEFUL)
		n *= 2;
	return n;
}

int rings_open(struct rings *r, const int *fds, unsigned n, size_t size)
{
	int err = 0;

	memset(r, 0, sizeof(*r));
	for (; r->n < n && !err; r->n++)
		err = ringmap_open(&r->map[r->n], fds[r->n], size);
	for (unsigned i = 0; i < n && !err; i++)
		r->until[i] = r->map[i].at;
	return err;
}

void rings_close(struct rings *r)
{
	for (unsigned i = 0; i < r->n; i++)
		ringmap_close(&r->map[i]);
	r->n = 0;
}

/* --- the order ----------------------------------------------------------------------------------
 */

/* Something is left of what was there when the round began. */
static bool is_in_round(const struct rings *r)
{
	for (unsigned i = 0; i < r->n; i++)
		if ((int64_t)(r->until[i] - r->map[i].at) > 0)
			return true;
	return false;
}

/* The second look is later than all of the first one. */
static bool begin_round(struct rings *r)
{
	for (unsigned i = 0; i < r->n; i++)
		r->until[i] = ringmap_put(&r->map[i]);
	if (!is_in_round(r))
		return false;
	for (unsigned i = 0; i < r->n; i++)
		ringmap_look(&r->map[i]);
	return true;
}

/* The ring's next event. False: it is being written, and nothing is known of it. */
static bool look_up(struct rings *r, unsigned i)
{
	if (r->head[i])
		return true;
	r->head[i] = ringmap_known(&r->map[i]);
	return r->head[i] || r->map[i].at == r->map[i].seen;
}

/* NULL: something is being written; or the round has ended with what was no event. */
static const struct sslc_event *first_of_several(struct rings *r)
{
	const struct sslc_event *ev = NULL;

	for (unsigned i = 0; i < r->n; i++) {
		if (!look_up(r, i))
			return NULL;
		if (r->head[i] && (!ev || r->head[i]->ts_ns < ev->ts_ns)) {
			ev = r->head[i];
			r->first = i;
		}
	}
	return is_in_round(r) ? ev : NULL;
}

const struct sslc_event *rings_first(struct rings *r)
{
	const struct sslc_event *ev;

	if (r->n == 1)
		return ringmap_first(&r->map[0]);
	do {
		if (!is_in_round(r) && !begin_round(r))
			return NULL;
		ev = first_of_several(r);
	} while (!ev && !is_in_round(r));
	return ev;
}

void rings_pop(struct rings *r)
{
	r->head[r->first] = NULL;
	ringmap_pop(&r->map[r->first]);
}

/* --- all of them --------------------------------------------------------------------------------
 */

void rings_release(struct rings *r)
{
	for (unsigned i = 0; i < r->n; i++)
		ringmap_release(&r->map[i]);
}

bool rings_is_empty(const struct rings *r)
{
	for (unsigned i = 0; i < r->n; i++)
		if (ringmap_put(&r->map[i]) != r->map[i].at)
			return false;
	return true;
}

uint64_t rings_at(const struct rings *r)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < r->n; i++)
		sum += r->map[i].at;
	return sum;
}

uint64_t rings_taken(const struct rings *r)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < r->n; i++)
		sum += ringmap_taken(&r->map[i]);
	return sum;
}

uint64_t rings_used(const struct rings *r)
{
	uint64_t most = 0;

	for (unsigned i = 0; i < r->n; i++) {
		uint64_t taken = ringmap_taken(&r->map[i]), put = ringmap_put(&r->map[i]);

		most = put - taken > most ? put - taken : most;
	}
	return most;
}

void rings_mark(const struct rings *r, uint64_t marks[SSLC_RINGS_MAX])
{
	for (unsigned i = 0; i < r->n; i++)
		marks[i] = ringmap_put(&r->map[i]);
}

bool rings_passed(const struct rings *r, const uint64_t marks[SSLC_RINGS_MAX])
{
	for (unsigned i = 0; i < r->n; i++)
		if (ringmap_taken(&r->map[i]) < marks[i])
			return false;
	return true;
}
