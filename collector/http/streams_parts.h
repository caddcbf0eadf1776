/* SPDX-License-Identifier: Apache-2.0 */
/*
 * streams_parts: what streams.c, which knows the streams of an HTTP/2 connection, and shown.c,
 * which makes the forged connections on which they are shown, have in common.
 */
#ifndef SSLC_COLLECTOR_STREAMS_PARTS_H
#define SSLC_COLLECTOR_STREAMS_PARTS_H

#include "base/queue.h"
#include "http/h2.h"
#include "http/http1.h"
#include "http/streams.h"

struct shown_said {             /* of one direction */
	struct queue_node node; /* in streams.said[], who spoke first in front */
	uint64_t ts_ns;
	uint16_t ip_id; /* unchanged: it has sent nothing since */
	uint8_t dir;    /* enum flow_dir: this struct's place in shown.said[] */
};

/* A forged connection. */
struct shown {
	struct queue_node order;    /* in streams.order, least recently active first */
	struct streams_place place; /* is_stream */
	struct streams *of;         /* borrowed */
	struct stream *speaker;     /* the same; NULL: serial, and nobody's turn */
	struct shown_said said[2];
	uint64_t active_ns;
};

struct stream {
	struct hmap_node by_id;
	struct queue_node all;  /* in streams.all */
	struct queue_node turn; /* in streams.turns, while it needs the serial connection */
	struct streams *of;     /* borrowed */
	struct shown *on;       /* owned, but for the serial one; NULL: not yet */
	struct buf held;        /* what it has said that may not be shown yet: pieces */
	struct http1 http;
	uint64_t begin_ns;
	uint64_t early_lost; /* bytes behind those in held */
	uint32_t id;
	bool pushed;
	bool is_early;  /* a tunnel, not open yet: what its client says is held */
	bool is_over;   /* all is said and waits for its turn: not in by_id any more */
	bool is_hidden; /* it cannot be shown at all */
};

struct streams {
	struct streams_hub *hub; /* borrowed, as the next */
	struct outlet *outlet;
	struct outlet_flow flow; /* of `open`; its strings live as long as the session */
	struct frame_flow_open open;
	struct h2 *h2;
	struct hmap by_id;
	struct queue all;            /* struct stream, as they began */
	struct queue turns;          /* ... who speaks on the serial connection in front */
	struct queue order, said[2]; /* struct shown */
	struct shown *serial;        /* NULL: none is open */
	size_t held;                 /* bytes */
	uint64_t ts_ns;              /* of the call */
	uint32_t last[2];            /* highest id: [FLOW_C2S]: of requests, [FLOW_S2C]: promised */
	uint8_t goaways[2];
	bool is_ended;         /* a side of the connection has said that it sends no more */
	enum flow_dir end_dir; /* the first one */
};

struct streams_hub {
	const struct sink_set *sinks; /* borrowed */
	struct hmap by_tuple;
	struct h2_list list;
	/* Text that waits for more of the same direction of the same stream. */
	struct buf pending;
	struct stream *pending_of; /* NULL: none waits */
	enum flow_dir pending_dir;
	size_t count, held;
	unsigned parts; /* hubs that share the bounds */
};

/* An agent gives the times: they may be anywhere, and the sum of two of them nowhere. */
static inline bool streams_is_since(const struct streams *c, uint64_t from_ns, uint64_t len_ns)
{
	return c->ts_ns > from_ns && c->ts_ns - from_ns >= len_ns;
}

static inline enum flow_dir peer_of(enum flow_dir dir)
{
	return dir == FLOW_C2S ? FLOW_S2C : FLOW_C2S;
}

/* streams.c */

/** Who has the tuple of `f`, or NULL. */
struct streams_place *streams_place_find(const struct streams_hub *hub, const struct forge_flow *f);
/** 0 or -ENOMEM: it is in no index, then. */
int streams_place_take(struct streams_hub *hub, struct streams_place *p);

/* shown.c */

/** That of stream `id`, or that begins with it. NULL: no port or no memory is left. */
struct shown *shown_new(struct streams *c, uint32_t id);
/** Of each stream's own: its sequence numbers, its invented key. */
void shown_session_of(uint8_t session[16], const struct streams *c, uint32_t id);
/** Emits nothing. */
void shown_free(struct shown *sh);
/** end: nothing follows for the moment. */
void shown_put(struct shown *sh, enum flow_dir dir, struct span text, bool end);
void shown_gap(struct shown *sh, enum flow_dir dir, uint64_t len);
void shown_fin(struct shown *sh, enum flow_dir dir);
/** Both sides; no effect on one that has ended. `dir` first. */
void shown_fins(struct shown *sh, enum flow_dir dir);
void shown_rst(struct shown *sh, enum flow_dir dir);
/** Pokes of those who spoke last before `until_ns`. */
void shown_pokes_run(struct streams *c, enum flow_dir dir, uint64_t until_ns);
/** While others speak, the silent ones are not forgotten. */
void shown_quiet_run(struct streams *c);

#endif
