/* SPDX-License-Identifier: Apache-2.0 */
/* clockdiff: see clockdiff.h. */
#include "base/clockdiff.h"

#include <string.h>

#include "base/clock.h"

/* RFC 5905 allows a clock to be wrong by 500 ppm at most; two of them. */
#define DRIFT_PER_S 1000000u /* ns */

static uint64_t distance(int64_t a, int64_t b)
{
	return a > b ? (uint64_t)a - (uint64_t)b : (uint64_t)b - (uint64_t)a;
}

/* The true difference lies within half a round trip of each. */
static bool agree(const struct clockdiff_sample *a, const struct clockdiff_sample *b)
{
	uint64_t age_ns = b->at_ns - a->at_ns;

	return distance(a->ahead_ns, b->ahead_ns) <=
	       a->trip_ns / 2 + b->trip_ns / 2 + (age_ns / NS_PER_S + 1) * DRIFT_PER_S;
}

bool clockdiff_add(struct clockdiff *c, const struct clockdiff_stamps *s, uint64_t now_ns)
{
	__int128 there = (__int128)s->came - s->left, back = (__int128)s->answered - s->back;
	__int128 trip = there - back, ahead = (there + back) / 2;
	struct clockdiff_sample now = {.at_ns = now_ns}, best;

	if (s->back < s->left || s->answered < s->came || trip < 0 || ahead > INT64_MAX ||
	    ahead < -INT64_MAX)
		return false;
	now.trip_ns = (uint64_t)trip;
	now.ahead_ns = (int64_t)ahead;
	if (clockdiff_best(c, now_ns, &best) && !agree(&best, &now))
		memset(c, 0, sizeof(*c));
	c->v[c->next] = now;
	c->next = (c->next + 1) % CLOCKDIFF_SAMPLES;
	c->n += c->n < CLOCKDIFF_SAMPLES;
	return true;
}

bool clockdiff_best(const struct clockdiff *c, uint64_t now_ns, struct clockdiff_sample *out)
{
	const struct clockdiff_sample *best = NULL;

	for (unsigned i = 0; i < c->n; i++) {
		const struct clockdiff_sample *s = &c->v[i];

		if (now_ns - s->at_ns > CLOCKDIFF_AGE_S * NS_PER_S)
			continue;
		if (!best || s->trip_ns < best->trip_ns)
			best = s;
	}
	if (best)
		*out = *best;
	return best != NULL;
}
