/* SPDX-License-Identifier: Apache-2.0 */
/*
 * outlet: what happens to sessions → packets of one shape → the sinks that want that shape. The
 * session stage knows order, gaps, tuples and ends; it tells every outlet what happened, and each
 * makes of it what its sinks want to see. A kind of outlet is a struct outlet_ops in its own file.
 * Used by one thread; no I/O, no clock.
 */
#ifndef SSLC_COLLECTOR_OUTLET_H
#define SSLC_COLLECTOR_OUTLET_H

#include "forge.h"
#include "ledger.h"
#include "sink.h"

struct outlet;

/* One session, as outlets know it; borrowed, valid during the call. */
struct outlet_flow {
	struct sink_flow who;
	uint32_t incarnation; /* how often the session was begun before */
	uint16_t lane;        /* VLAN tag that keeps equal tuples apart; 0: none */
};

/* Sides that have sent a packet in a call: they need no poke any more. */
#define OUTLET_SENT(dir) (1u << (dir))
#define OUTLET_SENT_BOTH 3u
/* Beside those, of poke(): something waits to be shown, and time alone will not show it: poke()
 * again within OUTLET_WAIT_MS. */
#define OUTLET_WAITS   4u
#define OUTLET_WAIT_MS 1000u

/*
 * `state` is the outlet's own memory in each session: state_len bytes, aligned for any type, all
 * zero before the first begin(). Times never run backwards within a session. Between begin() and
 * rst(), or fin() of both sides, the session is open at this outlet.
 */
struct outlet_ops {
	const char *name;
	size_t state_len;
	/* What all sessions share, o->own; `sinks`: of all outlets, borrowed; parts: as in
	 * outlets_open(). 0 or -ENOMEM. Both may be NULL. close: after the last forget(). */
	int (*open)(struct outlet *o, const struct sink_set *sinks, unsigned parts);
	void (*close)(struct outlet *o);
	/* The connection is there and its first bytes follow. May come again after its end. */
	void (*begin)(struct outlet *o, void *state, const struct outlet_flow *flow,
		      uint64_t ts_ns);
	/* Bytes of one direction in order, 1 or more. end: last of a TLS call.
	 * These four return OUTLET_SENT bits. */
	unsigned (*data)(struct outlet *o, void *state, const struct outlet_flow *flow,
			 enum flow_dir dir, struct span bytes, bool end, uint64_t ts_ns);
	/* The next len bytes are known to nobody. */
	unsigned (*gap)(struct outlet *o, void *state, const struct outlet_flow *flow,
			enum flow_dir dir, uint64_t len, uint64_t ts_ns);
	/* One side sends no more. Once a side. */
	unsigned (*fin)(struct outlet *o, void *state, const struct outlet_flow *flow,
			enum flow_dir dir, uint64_t ts_ns);
	/* The sender of the last bytes of a direction has been silent for a moment. */
	unsigned (*poke)(struct outlet *o, void *state, const struct outlet_flow *flow,
			 enum flow_dir dir, uint64_t ts_ns);
	/* The connection ends from one side, and its tuple is free. No effect when it has ended. */
	void (*rst)(struct outlet *o, void *state, const struct outlet_flow *flow,
		    enum flow_dir dir, uint64_t ts_ns);
	/* The same connection goes on as another session, that of `flow`: `to` is all zero and
	 * becomes what `from` was. NULL: the bytes are copied. */
	void (*move)(struct outlet *o, void *to, void *from, const struct outlet_flow *flow);
	/* The session goes, begun or not: free what `state` reaches. Emits nothing. May be NULL. */
	void (*forget)(struct outlet *o, void *state);
};

/* What was captured, as one TCP connection; the state is a struct forge_flow. */
extern const struct outlet_ops outlet_native_ops;
/* The same, but for HTTP/2: HTTP/1.1 connections. */
extern const struct outlet_ops outlet_http1_ops;

struct outlet {
	const struct outlet_ops *ops;
	struct sink_shape shape; /* of its sinks, but for the MTU: see outlet_mtu() */
	struct forge_link link;
	struct sink *sinks[SINKS_MAX]; /* borrowed */
	unsigned n;
	uint8_t index;         /* in its set */
	size_t state_at;       /* of its state in the memory of a session */
	uint8_t *frame;        /* forge's scratch, borrowed from the set */
	void *own;             /* from open() */
	struct ledger *ledger; /* borrowed; NULL: what is open here is not written down */
};

struct outlet_set {
	struct outlet v[SINKS_MAX];
	unsigned n;
	size_t state_len; /* what a session keeps for all of them; a multiple of 8 */
	uint8_t frame[FORGE_FRAME_MAX];
};

/* For the session stage. `states`: a session's memory of state_len bytes. */

/** An outlet for each shape that the packet sinks of `sinks` want; they must outlive it. */
void outlets_init(struct outlet_set *set, const struct sink_set *sinks);
/** Makes what each of them needs. parts: sets that share the bounds of memory. 0 or -ENOMEM. */
int outlets_open(struct outlet_set *set, const struct sink_set *sinks, unsigned parts) WARN_UNUSED;
/** From now on what is open at live sinks is written down. l is borrowed; NULL: no more. */
void outlets_keep(struct outlet_set *set, struct ledger *l);
/** After the last session, or a failed outlets_open(). */
void outlets_close(struct outlet_set *set);
void outlets_begin(struct outlet_set *set, uint8_t *states, const struct outlet_flow *flow,
		   uint64_t ts_ns);
/** These four return the sides that have sent a packet at every outlet: OUTLET_SENT bits; and
 * OUTLET_WAITS if it is so at one. */
unsigned outlets_data(struct outlet_set *set, uint8_t *states, const struct outlet_flow *flow,
		      enum flow_dir dir, struct span bytes, bool end, uint64_t ts_ns);
unsigned outlets_gap(struct outlet_set *set, uint8_t *states, const struct outlet_flow *flow,
		     enum flow_dir dir, uint64_t len, uint64_t ts_ns);
unsigned outlets_fin(struct outlet_set *set, uint8_t *states, const struct outlet_flow *flow,
		     enum flow_dir dir, uint64_t ts_ns);
unsigned outlets_poke(struct outlet_set *set, uint8_t *states, const struct outlet_flow *flow,
		      enum flow_dir dir, uint64_t ts_ns);
void outlets_rst(struct outlet_set *set, uint8_t *states, const struct outlet_flow *flow,
		 enum flow_dir dir, uint64_t ts_ns);
/** The states of a session become those of another one; what was in `to` is forgotten. */
void outlets_move(struct outlet_set *set, uint8_t *to, uint8_t *from,
		  const struct outlet_flow *flow);
void outlets_forget(struct outlet_set *set, uint8_t *states);

/* For kinds of outlets. */

/* What forge's callback needs; lives during one call. */
struct outlet_emission {
	struct outlet *outlet;
	const struct sink_flow *who;
	uint16_t segment; /* of the frame at hand: see sink_flow */
};

/** Frames that forge makes with the result go to the outlet's sinks. `e` must live as long. */
struct forge_out outlet_out(struct outlet_emission *e);
/** A flow of this outlet with the addresses, shown ports and tag of `flow`; nothing is emitted. */
void outlet_forge_init(const struct outlet *o, struct forge_flow *f,
		       const struct outlet_flow *flow);
/** The largest IP packet of a new flow: what all its sinks take now, less what its tags need. */
uint32_t outlet_mtu(const struct outlet *o, const struct outlet_flow *flow);

#endif
