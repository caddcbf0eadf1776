/* SPDX-License-Identifier: Apache-2.0 */
/*
 * doubt: when the probes of a file are not to be believed any more, by connections whose socket
 * carried more than the TLS calls explain.
 */
#ifndef SSLC_AGENT_DOUBT_H
#define SSLC_AGENT_DOUBT_H

#include <stdbool.h>
#include <stdint.h>

struct doubts;

#define DOUBTS_ENOUGH 3 /* connections: one may be odd, and two the same odd program */
/* Calls that were going on when probes were placed are not seen to end. */
#define DOUBTS_GRACE_NS 1000000000ull

int doubts_new(struct doubts **out) __attribute__((warn_unused_result));
void doubts_free(struct doubts *d);
/** The probes of a file are new. now_ns: monotonic, as everywhere here. */
void doubts_begin(struct doubts *d, unsigned file, uint64_t now_ns);
/** Calls were lost in the kernel: connections that are open now prove nothing. */
void doubts_lost(struct doubts *d, uint64_t now_ns);
/**
 * A connection that was opened at that time was not explained by the calls of this file. True when
 * it was one too many; it begins anew then.
 */
bool doubts_add(struct doubts *d, unsigned file, uint64_t opened_ns);

#endif
