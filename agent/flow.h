/* SPDX-License-Identifier: Apache-2.0 */
/*
 * flow: which connection, which bytes. Events of the capture sources in, frames out through ship.
 * Keeps one record a connection: its tuple, what is known of its end, and how far each direction
 * has come.
 */
#ifndef SSLC_AGENT_FLOW_H
#define SSLC_AGENT_FLOW_H

#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "event.h"
#include "filter.h"
#include "ship.h"

struct flows;

struct flows_conf {
	struct ship *ship;     /* borrowed */
	struct filter *filter; /* borrowed; NULL: everything */
	uint8_t agent[16];     /* this agent instance, for session ids without sequence numbers */
	void (*skip)(void *ctx, uint64_t flow); /* a flow's bytes are not wanted */
	void *ctx;
};

#define FLOWS_MAX         131072       /* records; the least recently active one goes beyond */
#define FLOW_HELD_MAX     (256u << 10) /* bytes of one TLS object that wait for their connection */
#define FLOW_HELD_ALL_MAX (16u << 20)  /* of all together */
#define FLOW_HELD_MS      10000        /* how long they wait */
#define FLOW_GRACE_MS     60000 /* a closed socket whose process neither reads on nor closes it */

int flows_new(struct flows **out, const struct flows_conf *conf) WARN_UNUSED;
void flows_free(struct flows *t);
/** One event. Malformed ones (lengths, directions) are counted and ignored. */
void flows_event(struct flows *t, const struct sslc_event *ev);
/** Expiry, and the clock's offset. now_ns: CLOCK_MONOTONIC; wall_offset_ns: see
 * clock_wall_offset_ns(). */
void flows_tick(struct flows *t, uint64_t now_ns, int64_t wall_offset_ns);
/** The agent stops: close what is open. */
void flows_close_all(struct flows *t, uint64_t now_ns);
size_t flows_count(const struct flows *t);

#endif
