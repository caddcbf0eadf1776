/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session_table: which sessions there are, and what finds them: private to session.c and
 * session_table.c. A flow of an origin finds its session, a tuple its owner, an id the connection
 * that was forged to its end; queues keep who was active last. Bytes and packets are session.c's:
 * nothing here emits.
 */
#ifndef SSLC_COLLECTOR_SESSION_TABLE_H
#define SSLC_COLLECTOR_SESSION_TABLE_H

#include "base/hmap.h"
#include "base/queue.h"
#include "outlet.h"
#include "sessions/names.h"
#include "sessions/pokes.h"
#include "sessions/session.h"

#define HOST_MAX 255u /* a DNS name's limit; longer is no host name */

enum session_state {
	SESSION_QUIET,   /* nothing of it is open at the IDS: no byte yet, or reset because idle */
	SESSION_LIVE,    /* owns its tuple; the handshake is out. May already have had both FINs */
	SESSION_STANDBY, /* the same connection is, or was, forged from its other end */
	SESSION_DISPLACED, /* a newer connection took the tuple; this one was reset */
	SESSION_FOREIGN,   /* not TCP: nothing can be forged */
};

struct session_dir {
	uint64_t expected; /* offset of the next byte */
	struct poke poke;  /* in t->pokes, or in t->waits */
	bool in_waits;
	bool started;  /* expected means something */
	bool fin;      /* no byte may follow */
	uint8_t index; /* enum flow_dir: this struct's place in session.dir[] */
};

/* What its flow-open said, as in struct frame_flow_open. Of TCP, `stream` is always 0. */
struct session_open {
	uint64_t flow;
	uint8_t session[16];
	uint64_t ts_ns;
	uint8_t transport, family, captured_end, confidence;
	uint8_t client_addr[16], server_addr[16];
	uint16_t client_port, server_port, mss, flags;
	uint32_t netns, pid, uid;
	struct names *names; /* its strings */
};

/* One captured end of one connection, in one allocation with what the outlets keep of it. Owned by
 * the table. */
struct session {
	struct pair *pair; /* with its other end: session_pair.c's; NULL: none was seen */
	struct hmap_node by_flow;
	struct hmap_node by_tuple; /* in the index only while LIVE */
	struct queue_node order;   /* in t->live or t->rest, least recently active first */
	struct queue_node of_origin;
	struct session_origin *origin; /* borrowed */
	uint64_t active_ns;            /* last byte, or the opening */
	struct session_dir dir[2];
	uint64_t last_ts_ns;   /* the flow's own time, which never runs backwards */
	uint64_t active_ts_ns; /* the same at its last byte */
	uint32_t incarnation;  /* how often LIVE was left */
	uint8_t state;         /* enum session_state */
	uint8_t lane;          /* VLAN tag while the tuple is in use elsewhere, else 0 */
	struct session_open open;
	_Alignas(8) uint8_t tail[]; /* the outlets' states, begun when LIVE is entered */
};

_Static_assert(
	sizeof(struct session) + sizeof(struct forge_flow) <= 328,
	"a million idle sessions stay within 400 MB, both ends of each connection within 450");

struct session_origin {
	struct hmap_node by_agent;
	struct queue_node going; /* in t->going once it is gone, until its sessions are */
	struct queue sessions;
	size_t n_sessions;
	size_t to_merge; /* of those, from the first on: nothing came of them since it was lost */
	uint8_t agent[16];
	char host[HOST_MAX + 1];
	bool is_lost;     /* nothing comes from it now: others go on in its place, */
	uint64_t lost_ns; /* since then; 0: not yet */
};

/* One worker thread's. */
struct sessions {
	struct session_conf conf;
	struct sink_set *sinks; /* borrowed; for messages */
	struct hmap by_flow, by_tuple, by_agent, by_ghost;
	struct queue live, rest; /* all sessions: LIVE ones, the others */
	struct pokes pokes;      /* the directions' */
	struct pokes waits;      /* ... of what OUTLET_WAITS */
	struct queue ghosts;     /* earliest end first */
	struct queue waiting;    /* struct pair: see session_pair.c */
	struct queue going;      /* origins that are gone: not found any more */
	struct names_set names;
	size_t n_pairs;
	size_t held;    /* memory that is kept by all pairs */
	size_t memory;  /* as told last */
	uint64_t order; /* parts that were kept */
	bool has_lost;  /* origins that were lost, and not all that follows is done */
	size_t count;
	struct outlet_set outlets; /* for packets */
};

/** The session of an origin's flow; NULL when it is not in the table. */
struct session *session_find(const struct sessions *t, const struct session_origin *o,
			     uint64_t flow);
/**
 * A session for a flow that is not in the table; copies what `m` borrows. QUIET, or FOREIGN when it
 * is not TCP. NULL when out of memory.
 */
struct session *session_add(struct sessions *t, struct session_origin *o,
			    const struct frame_flow_open *m, uint64_t now_ns);
/** It does not wait for a poke any more. */
void session_poke_cancel(struct sessions *t, struct session_dir *d);
/** What its flow-open said; borrows the strings. */
void session_opened(const struct session *s, struct frame_flow_open *out);
/** Out of the table and freed, and so is its other end when that has nothing more to tell; emits
 * nothing. */
void session_drop(struct sessions *t, struct session *s);
/** The one that has been without a byte for longest, in any state; NULL when there is none. */
struct session *session_least_active(const struct sessions *t);

/**
 * The only place where a session changes its state; moves it to its queue. Leaving LIVE gives the
 * tuple back and forgets the pokes; LIVE is entered by session_enter_live().
 */
void session_enter(struct sessions *t, struct session *s, enum session_state state);
/** LIVE, with the tuple, which must be free. 0, or -ENOMEM with nothing changed. */
int session_enter_live(struct sessions *t, struct session *s) __attribute__((warn_unused_result));
/** It has a byte now: the most recently active one. */
void session_touch(struct sessions *t, struct session *s, uint64_t now_ns);

/** Who is LIVE on the tuple and lane of `s`, in either role; NULL when it is free. */
struct session *session_tuple_owner(const struct sessions *t, const struct session *s);
/** Remember that the connection of `s` was forged to its end, for a few seconds.
 * Without memory it is not: at worst the other end is forged as well. */
void session_ghost_leave(struct sessions *t, const struct session *s, uint64_t now_ns);
/** Whether the connection of `s` was forged to its end a short time ago, from either end. */
bool session_has_ghost(const struct sessions *t, const struct session *s);
/** Forget those whose time is over. */
void session_ghosts_expire(struct sessions *t, uint64_t now_ns);

/** Drops its sessions and forgets it; emits nothing. */
void session_origin_free(struct sessions *t, struct session_origin *o);
/** It is gone, and not found any more; its sessions still are there. */
void session_origin_leave(struct sessions *t, struct session_origin *o);
/** Tell what the table takes. */
void session_memory_tell(struct sessions *t);

#endif
