/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut: what becomes of a connection of which an output could not send a packet. It ends there, with
 * a RST at the first place that is missing, and nothing of it follows: half a stream that a sensor
 * takes for a whole one, or a hole it waits at, is worse than an end. A new connection of the same
 * addresses and ports begins anew. Works on frames alone: lost and later ones in, RSTs out; no I/O.
 * Used by one thread.
 */
#ifndef SSLC_COLLECTOR_CUT_H
#define SSLC_COLLECTOR_CUT_H

#include <stdbool.h>

#include "base/buf.h"

struct cut;

#define CUT_FRAME_MAX 82u    /* Ethernet, two tags, IPv6, TCP without options */
#define CUT_FLOWS_MAX 16384u /* some 4 MiB; beyond, the one that was cut first is forgotten */

/** 0 or -ENOMEM. */
int cut_new(struct cut **out) WARN_UNUSED;
/** Accepts NULL. */
void cut_free(struct cut *c);
/** Whether any connection is cut: as long as none is, no frame needs to be shown to cut_drops(). */
bool cut_any(const struct cut *c);
/**
 * A frame did not leave, none of its connection's that come behind it may. Frames that are no TCP
 * segments are ignored. Returns true when this cut a connection that was whole until now.
 */
bool cut_lost(struct cut *c, struct span l2, uint64_t now_ns);
/** Whether a frame that is about to be sent belongs to a cut connection and must be dropped. A SYN
 * makes the connection whole again, once its RST has left. */
bool cut_drops(struct cut *c, struct span l2);
/** The RST that has to leave next, at most CUT_FRAME_MAX bytes; empty when there is none. It counts
 * as left until cut_lost() is told otherwise. */
struct span cut_next(struct cut *c);
/**
 * What becomes of a frame that waits to be sent, maybe behind a lost one; there is room for
 * CUT_FRAME_MAX bytes. Returns its length: as it was, when its connection is not cut; of the RST
 * that is there now; or 0: it must not be sent. must: it cannot be taken back: a RST in any case,
 * also a second one.
 */
size_t cut_replace(struct cut *c, uint8_t *frame, size_t len, bool must);
/** Forget those that were cut `age_ns` ago or earlier. */
void cut_expire(struct cut *c, uint64_t now_ns, uint64_t age_ns);

#endif
