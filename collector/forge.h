/* SPDX-License-Identifier: Apache-2.0 */
/*
 * forge: one session's bytes → Ethernet/IP/TCP frames that an IDS believes. Time is an argument;
 * output goes to a callback. Knows nothing of tables, agents or files.
 */
#ifndef SSLC_COLLECTOR_FORGE_H
#define SSLC_COLLECTOR_FORGE_H

#include "frame.h"

#define FORGE_ACK_EVERY                                                                            \
	(16u << 10) /* at most this many bytes of one direction without an acknowledgement */

#define FORGE_ACK_EVERY_LARGE                                                                      \
	(48u << 10) /* the same where large frames are made; without one for each message */

enum forge_state {
	FORGE_NEW,         /* nothing emitted yet: no SYN before the first byte */
	FORGE_ESTABLISHED, /* handshake emitted */
	FORGE_CLOSED,      /* FINs acknowledged or RST emitted; the tuple is free again */
};

struct forge_flow; /* see below: allocated inside struct session */

/* What is around IP, the same for all packets of an output. */
struct forge_link {
	uint8_t mac[12]; /* destination, source */
	uint16_t vlan;   /* 802.1Q tag outside of the flow's own; 0: none */
};
extern const struct forge_link forge_link_default;

/* Where frames go. `first`: SYN, or the first segment of a message. */
struct forge_out {
	void (*emit)(void *ctx, struct span l2, uint64_t ts_ns, bool first);
	/* Where emit() would like the next frame of `len` bytes to be built, to spare a copy; NULL:
	 * no wish. May be NULL. */
	uint8_t *(*room)(void *ctx, size_t len);
	void *ctx;
	const struct forge_link *link; /* borrowed; NULL: the default */
	/* Large frames for a network stack that cuts them into segments (GSO); NULL: none. Set
	 * before emit(): how many bytes of payload its segments have, its TCP checksum being that
	 * of the pseudo header alone; 0: a frame as usual. */
	uint16_t *segment;
	/* With large frames: payload that may go onto the end of the last frame, when that is the
	 * same side's and has not left yet. head: the headers that it would have in a frame of its
	 * own. Returns how many bytes went there, from the front; then *ip_id is the id of the
	 * side's next packet. May be NULL. */
	size_t (*more)(void *ctx, struct span head, struct span payload, uint16_t segment,
		       uint16_t *ip_id);
	/* The flow was begun, or its numbers went on: before the packet that shows it is emitted.
	 * Or it has ended: after its last one. May be NULL. */
	void (*keep)(void *ctx, struct forge_flow *f);
	uint8_t *frame; /* caller's scratch of FORGE_FRAME_MAX bytes, borrowed */
};
#define FORGE_FRAME_MAX (65535u + 22u) /* Ethernet, two tags, the largest IP packet */

struct forge_side {
	uint32_t isn;
	uint32_t nxt;   /* next sequence number this side sends */
	uint32_t acked; /* what the other side has acknowledged of it */
	uint16_t ip_id; /* of the next packet: +1 for every packet of this side */
	bool fin_sent : 1;
	bool in_message : 1; /* a message began and its last byte has not been sent */
	bool in_run : 1;     /* the flow's last packet was payload of this side */
	bool updated : 1;    /* its last packet had the window of an update */
};

struct forge_flow {
	uint8_t addr[2][16];       /* [FLOW_C2S]: client, [FLOW_S2C]: server */
	uint16_t port[2];          /* host order */
	uint16_t mss;              /* payload bytes a segment */
	uint16_t vlan;             /* 802.1Q tag; 0: none */
	uint8_t family;            /* 4 or 6 */
	uint8_t state;             /* enum forge_state */
	uint32_t kept;             /* for whoever is told by forge_out.keep(); 0 at first */
	struct forge_side side[2]; /* by who sends */
	uint64_t last_ts_ns;       /* time never runs backwards within a flow */
};

/**
 * Prepare a flow. session: 16 bytes, the source of both ISNs (deterministic: PROTOCOL.md 3.5),
 * mixed with incarnation (0 for the first handshake of a session, +1 for each further one). mtu: of
 * the output.
 */
void forge_init(struct forge_flow *f, const struct frame_flow_open *open, uint32_t incarnation,
		uint32_t mtu);
/** Segments from now on fit into `mtu`; they become smaller only, as a TCP's do. */
void forge_fit(struct forge_flow *f, uint32_t mtu);
/** Handshake and window update. Called implicitly by the first data or gap. */
void forge_handshake(struct forge_flow *f, struct forge_out *out, uint64_t ts_ns);
/** Segments, PSH on the last when end, an ACK from the peer when end and every FORGE_ACK_EVERY
 * bytes. Large frames: only every FORGE_ACK_EVERY_LARGE. */
void forge_data(struct forge_flow *f, struct forge_out *out, enum flow_dir dir, struct span bytes,
		bool end, uint64_t ts_ns);
/** Sequence numbers advance over `len` bytes that nobody has; acknowledged like data. */
void forge_gap(struct forge_flow *f, struct forge_out *out, enum flow_dir dir, uint64_t len,
	       uint64_t ts_ns);
/**
 * A bare repeated ACK of the data's sender, so that an IDS inspects now. Its window differs by one
 * from that of the packet before: a window update to the reader, not a duplicate ACK. Acknowledges
 * the data first if needed.
 */
void forge_poke(struct forge_flow *f, struct forge_out *out, enum flow_dir dir, uint64_t ts_ns);
/** FIN of one side and its ACK. The flow is CLOSED after both. No effect before the handshake or
 * twice. */
void forge_fin(struct forge_flow *f, struct forge_out *out, enum flow_dir dir, uint64_t ts_ns);
/**
 * The end of a connection that is known no more than this: what another process forged, and had
 * told to be next. Maybe not all of that has left, so each side acknowledges what the other one may
 * have sent: what is missing is a gap to an IDS, and the RST from `dir` has the right number. f:
 * all zero but for addresses, ports, tag, family and side[].nxt; CLOSED afterwards.
 */
void forge_rst_unknown(struct forge_flow *f, struct forge_out *out, enum flow_dir dir,
		       uint64_t ts_ns);
/** RST from one side with the right sequence number. CLOSED afterwards. No effect unless
 * ESTABLISHED. */
void forge_rst(struct forge_flow *f, struct forge_out *out, enum flow_dir dir, uint64_t ts_ns);

#endif
