/* SPDX-License-Identifier: Apache-2.0 */
/*
 * crew: which worker gets which frame. A connection is wholly one worker's: both directions, both
 * ends when two hosts tell of it, and whatever has the same addresses and ports. Frames come in
 * from one thread, which reads the links, or is the agent's; they leave through a chute for each
 * worker. A crew of one has neither: its only table is called directly. No locks.
 */
#ifndef SSLC_COLLECTOR_CREW_H
#define SSLC_COLLECTOR_CREW_H

#include "crew/chute.h"
#include "sessions/session.h"

#define CREW_MAX 16

struct crew;
struct crew_origin; /* one agent instance */

/* All but crew_free() and crew_chute() are the one thread's that has the frames. */

/** The thread that calls is the crew. `t` is borrowed. NULL: out of memory. */
struct crew *crew_new_direct(struct sessions *t);
/**
 * n workers, 2 to CREW_MAX. with_ports: false when outputs show ports of their own choice, which
 * must meet others of the same addresses. max_flows: that are remembered; no fewer than tables hold
 * sessions. 0, -ENOMEM, -errno.
 */
int crew_new(struct crew **out, unsigned n, bool with_ports, size_t max_flows) WARN_UNUSED;
/** After the workers. Accepts NULL. */
void crew_free(struct crew *c);

/** As of session.h, and to all workers. NULL: out of memory. */
struct crew_origin *crew_origin(struct crew *c, const uint8_t agent[16], struct span host);
void crew_origin_link(struct crew *c, struct crew_origin *o, bool is_up);
void crew_origin_gone(struct crew *c, struct crew_origin *o, uint64_t now_ns);

/** Before the frames of one block of an origin, `len` bytes in all, and after them. */
void crew_begin(struct crew *c, struct crew_origin *o, size_t len);
void crew_end(struct crew *c);
/** Between them: one frame, as from frame_decode(). 0, -EBADMSG as sessions_frame(). Waits while
 * its worker has too much to do. */
int crew_frame(struct crew *c, const struct frame *f, uint64_t now_ns) WARN_UNUSED;

/* What was given so far. */
struct crew_mark {
	uint64_t at[CREW_MAX];
};
void crew_mark(const struct crew *c, struct crew_mark *m);
/**
 * True when all of it has left the workers' sinks; else crew_fd() becomes readable when it may
 * have. Of a crew of one it is what its caller says: true.
 */
bool crew_is_past(struct crew *c, const struct crew_mark *m);
/** Readable when there is something to ask; -1: never. */
int crew_fd(const struct crew *c);
/** Until the next time. */
void crew_fd_clear(const struct crew *c);
/** Wait for everything that was given. */
void crew_settle(struct crew *c);
/** About once a second. */
void crew_tidy(struct crew *c);
/** Everybody's last parcel. */
void crew_stop(struct crew *c);

/* For the workers, 0 to n - 1. */

enum crew_what {
	CREW_FRAMES = 1, /* of an origin, whole ones */
	CREW_LINK_UP,    /* it has a link */
	CREW_LINK_DOWN,
	CREW_GONE, /* it does not come back */
	CREW_STOP, /* no parcel follows */
};
struct chute *crew_chute(const struct crew *c, unsigned worker);
/** What sessions_origin() is to be told, and a place that is this worker's alone. */
const uint8_t *crew_origin_agent(const struct crew_origin *o);
struct span crew_origin_host(const struct crew_origin *o);
struct session_origin **crew_origin_of(struct crew_origin *o, unsigned worker);

#endif
