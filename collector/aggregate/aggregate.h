/* SPDX-License-Identifier: Apache-2.0 */
/*
 * aggregate: a collector that passes on to another one. For each link of an agent a link of its
 * own to the next collector; what either side says goes to the other as it is, so that hello,
 * block numbers and acknowledgements are between the agent and the last collector, and nothing has
 * to be kept here. Runs in its event base's thread.
 */
#ifndef SSLC_COLLECTOR_AGGREGATE_H
#define SSLC_COLLECTOR_AGGREGATE_H

#include "aggregate/dial.h"
#include "taker.h"

struct aggregate;

/** Who says hello while the same link of the same agent is passed on takes its place. 0, or -errno
 * (logged). */
int aggregate_open(struct aggregate **out, const struct dialer_conf *conf) WARN_UNUSED;
/** A link of the acceptor; its hub is a struct aggregate. */
extern const struct taker_ops aggregate_taker;
/**
 * Once a round of the loop: frees what has ended and, about once a second (*second), ends links to
 * collectors that are silent or late. Returns ns until it wants to be called again.
 */
uint64_t aggregate_round(struct aggregate *a, uint64_t now_ns, bool *second);
/** After the acceptor is closed. Accepts NULL. */
void aggregate_close(struct aggregate *a);

#endif
