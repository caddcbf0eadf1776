/* SPDX-License-Identifier: Apache-2.0 */
/*
 * names: the strings that a flow-open carries (program, container), each combination kept once,
 * however many sessions have it. One thread.
 */
#ifndef SSLC_COLLECTOR_NAMES_H
#define SSLC_COLLECTOR_NAMES_H

#include "base/hmap.h"
#include "frame.h"

struct names; /* one combination */

struct names_set {
	struct hmap all;
	size_t memory; /* of all combinations; their buckets are not in it */
};

void names_init(struct names_set *set);
/** After the last names_drop(). */
void names_fini(struct names_set *set);
/** The strings of `m`, kept until names_drop(). NULL: out of memory. */
struct names *names_keep(struct names_set *set, const struct frame_flow_open *m) WARN_UNUSED;
void names_drop(struct names_set *set, struct names *n);
/** Fills the strings of `out`, which borrows them. */
void names_get(const struct names *n, struct frame_flow_open *out);

#endif
