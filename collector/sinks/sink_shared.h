/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sink_shared: one output for several workers. Each has a sink of its own, which collects what it
 * is given and hands it over at once, so that the one output, a file or a connection, is locked
 * once a batch and not once a packet. What one worker gives stays in order.
 */
#ifndef SSLC_COLLECTOR_SINK_SHARED_H
#define SSLC_COLLECTOR_SINK_SHARED_H

#include "sink.h"

struct shared;

/** Takes `real`, which is closed with the last worker's sink, or when this fails. 0, -ENOMEM. */
int shared_new(struct shared **out, struct sink *real) WARN_UNUSED;
/** A worker's sink; the first one passes on ticks and what is said about files. 0, -ENOMEM. */
int shared_join(struct sink **out, struct shared *s) WARN_UNUSED;
/** After the last shared_join(). */
void shared_unref(struct shared *s);

#endif
