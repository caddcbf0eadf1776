/* SPDX-License-Identifier: Apache-2.0 */
/*
 * peer_clock: what an agent has found out about its clock and ours, and whether people should know.
 * Never corrects anything: what is mirrored keeps the times that its agent gave it.
 */
#ifndef SSLC_COLLECTOR_PEER_CLOCK_H
#define SSLC_COLLECTOR_PEER_CLOCK_H

#include <stdio.h>

#include "frame.h"

#define PEER_CLOCK_OFF_NS 1000000000 /* so far off that tools which join logs by time miss */

/* One agent's; all zero: nothing is known. */
struct peer_clock {
	int64_t ahead_ns;  /* the agent's is ahead of ours */
	uint64_t trip_ns;  /* the estimate is wrong by half of it at worst; 0: not known */
	int64_t told_ns;   /* what the last line said */
	uint64_t quiet_ns; /* no line before then */
	bool is_off, told_off;
};

/** A ping of the agent, whose name for lines is `peer`. */
void peer_clock_ping(struct peer_clock *c, const struct frame_ping *m, const char *peer,
		     uint64_t now_ns);
/** One line, when something is known. */
void peer_clock_print(const struct peer_clock *c, const char *peer, FILE *out);
/** The agent is gone. */
void peer_clock_forget(struct peer_clock *c);

#endif
