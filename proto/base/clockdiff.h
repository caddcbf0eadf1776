/* SPDX-License-Identifier: Apache-2.0 */
/*
 * clockdiff: how far another host's clock is from ours, from the times at which packets left and
 * arrived (RFC 5905, section 8). An answer that took long may have waited on one way only; the
 * quickest one of the last minutes tells most, and is wrong by half of its round trip at worst. No
 * clock of its own, no I/O.
 */
#ifndef SSLC_BASE_CLOCKDIFF_H
#define SSLC_BASE_CLOCKDIFF_H

#include <stdbool.h>
#include <stdint.h>

#define CLOCKDIFF_SAMPLES 32
#define CLOCKDIFF_AGE_S                                                                            \
	300 /* clocks drift: by 30 ms in this time when one runs 100 ppm too fast                  \
	     */

struct clockdiff_sample {
	uint64_t at_ns; /* monotonic */
	int64_t ahead_ns;
	uint64_t trip_ns;
};

/* All zero: nothing is known. */
struct clockdiff {
	struct clockdiff_sample v[CLOCKDIFF_SAMPLES];
	unsigned n, next;
};

/** Wall times in ns: the question left here, came there, the answer left there, came here. */
struct clockdiff_stamps {
	uint64_t left, came, answered, back;
};

/**
 * One more exchange. One that the clocks cannot have made without a step in between lets all
 * earlier ones be forgotten. False: it makes no sense in itself, and is ignored.
 */
bool clockdiff_add(struct clockdiff *c, const struct clockdiff_stamps *s, uint64_t now_ns);
/** The best of the last minutes: how far the other clock is ahead of ours. False: none. */
bool clockdiff_best(const struct clockdiff *c, uint64_t now_ns, struct clockdiff_sample *out);

#endif
