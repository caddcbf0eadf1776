/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session: the table of mirrored connections. Frames of all agents in, forge calls and sink
 * messages out. Keeps byte order, real gaps, stale tuples, pokes, idle expiry and limits. No I/O,
 * no clock of its own. Owned by one worker thread.
 */
#ifndef SSLC_COLLECTOR_SESSION_H
#define SSLC_COLLECTOR_SESSION_H

#include "frame.h"
#include "sink.h"

struct sessions;
struct session_origin; /* one agent instance */

struct session_conf {        /* 0 in a member: its default */
	uint32_t idle_s;     /* RST after so long without a byte; default SESSION_IDLE_S */
	uint32_t poke_ms;    /* default SESSION_POKE_MS */
	size_t max_sessions; /* the least recently active one is reset beyond; default SESSION_MAX
			      */
	unsigned parts;      /* tables that share the bounds of memory; default 1 */
};
#define SESSION_IDLE_S  540 /* below Suricata's established timeout of 600 s */
#define SESSION_POKE_MS 2
#define SESSION_MAX     (1u << 20)

/** conf may be NULL: defaults. sinks is borrowed and must outlive the table. 0 or -ENOMEM. */
int sessions_new(struct sessions **out, const struct session_conf *conf,
		 struct sink_set *sinks) WARN_UNUSED;
/** What is open at live outputs is written down from now on. Before the first frame; l is borrowed.
 */
struct ledger;
void sessions_keep(struct sessions *t, struct ledger *l);
/** Frees without emitting; call sessions_close_all() first. */
void sessions_free(struct sessions *t);
/** The origin for an agent instance: found or made. host is made printable. NULL when out of
 * memory. */
struct session_origin *sessions_origin(struct sessions *t, const uint8_t agent[16],
				       struct span host);
/**
 * One frame of a block. Flow frames act; others are ignored. 0; -EBADMSG when the frame breaks the
 * protocol (the link should be closed). A frame for an unknown or closed flow is counted, not an
 * error.
 */
int sessions_frame(struct sessions *t, struct session_origin *o, const struct frame *f,
		   uint64_t now_ns) WARN_UNUSED;
/**
 * Whether an origin has a link. Without one, connections that are captured at their other end, too,
 * go on from there at the next tick.
 */
void sessions_origin_link(struct sessions *t, struct session_origin *o, bool is_up);
/** Reset all flows of an origin (the agent is gone for good) and forget it; of many flows the rest
 * is done by the next ticks. */
void sessions_origin_gone(struct sessions *t, struct session_origin *o, uint64_t now_ns);
/** Pokes and idle expiry that are due, a bounded number at once. Returns ns until the next
 * deadline, 0 when there is more to do now, UINT64_MAX when there is none. */
uint64_t sessions_tick(struct sessions *t, uint64_t now_ns);
/** RST every forged connection that is still open: clean stop. */
void sessions_close_all(struct sessions *t, uint64_t now_ns);
size_t sessions_count(const struct sessions *t);
/** Bytes that the table takes, with what the allocator adds; without what outlets allocate for a
 * session, and the sinks. */
size_t sessions_memory(const struct sessions *t);

#endif
