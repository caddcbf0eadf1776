/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ingest: link bytes → envelopes → frames → crew → sessions. One struct a link; decides what is
 * protocol and what is not; writes the answers (welcome, ack, pong, refused) into a buffer. No
 * sockets: acceptor moves the bytes. Emitted once: blocks already seen from this agent instance and
 * link are skipped.
 */
#ifndef SSLC_COLLECTOR_INGEST_H
#define SSLC_COLLECTOR_INGEST_H

#include <stdio.h>

#include "crew/crew.h"
#include "taker.h"

struct ingest_hub; /* what all links of one collector share: agents seen, their last sequence
		      numbers */
struct ingest;     /* one link */

int ingest_hub_new(struct ingest_hub **out, struct crew *crew) WARN_UNUSED; /* crew borrowed */
void ingest_hub_free(struct ingest_hub *h);
/**
 * About once a second. An agent whose links are all gone for `grace` (INGEST_AGENT_GRACE_S) has its
 * flows reset and is forgotten.
 */
void ingest_hub_tick(struct ingest_hub *h, uint64_t now_ns);
#define INGEST_AGENT_GRACE_S 60
/** What the clock on the wall is ahead of the monotonic one now: agents compare theirs with it. */
void ingest_hub_wall(struct ingest_hub *h, int64_t offset_ns);
/** One line for each agent whose clock has been compared with ours. */
void ingest_hub_clocks(const struct ingest_hub *h, FILE *out);

/** name: the peer for log lines, e.g. "10.0.0.7:41822 (web1)"; copied. */
int ingest_new(struct ingest **out, struct ingest_hub *h, const char *name) WARN_UNUSED;
void ingest_free(struct ingest *in);
/**
 * Received bytes in, answers appended to `reply`. Keeps incomplete envelopes (bounded by
 * ZBLOCK_WIRE_MAX). 0: go on. -EBADMSG, -EMSGSIZE, -EPROTO: send what is in `reply`, then close;
 * logged and counted here.
 */
int ingest_bytes(struct ingest *in, struct span bytes, struct buf *reply,
		 uint64_t now_ns) WARN_UNUSED;
/** True once this link's hello was accepted. */
bool ingest_is_greeted(const struct ingest *in);
/** True when a newer link of the same agent and index took over: close this one, nothing is lost.
 */
bool ingest_is_replaced(const struct ingest *in);
/** Append a control envelope that carries a refusal: for links that end before or without a hello.
 */
int ingest_put_refused(struct buf *reply, uint16_t code, const char *text) WARN_UNUSED;
/** Appends an ack for what has left the sinks since the last one, if anything; see taker.h. It
 * waits until crew_fd() is readable. */
enum taker_acked ingest_ack(struct ingest *in, struct buf *reply);
/** A link of the acceptor; its hub is a struct ingest_hub. */
extern const struct taker_ops ingest_taker;
/** A block's frames that never crossed a tunnel: an endpoint alone. Same checks, same effects. */
int ingest_frames(struct crew *c, struct crew_origin *o, struct span frames,
		  uint64_t now_ns) WARN_UNUSED;

#endif
