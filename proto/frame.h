/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frame: the units that agent and collector exchange. PROTOCOL.md section 3 is the specification.
 * Bytes in, shapes out, and back; no I/O, no clock.
 */
#ifndef SSLC_FRAME_H
#define SSLC_FRAME_H

#include "base/buf.h"

#define SSLC_PROTO_VERSION 1
#define SSLC_PORT          3005
#define SSLC_ALPN          "sslc/1"
#define SSLC_ALPN_ENROLL   "sslc-enroll/1"
#define FRAME_HEADER_LEN   8
#define FRAME_BODY_MAX     (64u << 10) /* one frame's body; protects the collector's memory */
#define FRAME_DATA_MAX     (32u << 10) /* payload bytes in one data frame */
#define FRAME_TEXT_MAX     255         /* names, comm, container, key: one length byte */
#define FRAME_EXE_MAX      1024        /* longer paths are cut; keeps a flow-open small */
#define FRAME_VALUE_MAX    4096        /* one fact of flow-meta */
#define FRAME_CERT_MAX     (16u << 10) /* certificate request, certificate, CA: each */
#define FRAME_CLOSE_LEN    (FRAME_HEADER_LEN + 17) /* one whole flow-close frame */

enum frame_type {
	FRAME_HELLO = 1,   /* agent → collector, first frame of a link */
	FRAME_WELCOME = 2, /* collector → agent, the answer */
	FRAME_REFUSED = 3, /* either → other: why this link ends now */
	FRAME_FLOW_OPEN = 4,
	FRAME_FLOW_META = 5,
	FRAME_DATA = 6,
	FRAME_GAP = 7,
	FRAME_FLOW_FIN = 8,   /* one direction ended */
	FRAME_FLOW_CLOSE = 9, /* the flow is over */
	FRAME_STATS = 10,
	FRAME_ACK = 11, /* collector → agent: blocks up to seq are out of the sinks */
	FRAME_PING = 12,
	FRAME_PONG = 13,
	FRAME_ENROLL = 14,   /* endpoint → collector: token and certificate request */
	FRAME_ENROLLED = 15, /* collector → endpoint: certificate and CA */
};

/* On the wire a direction is seen from the TCP connection, not from the captured process. */
enum flow_dir { FLOW_C2S = 0, FLOW_S2C = 1 };

enum flow_confidence { CONF_UNKNOWN = 0, CONF_INFERRED = 1, CONF_MATCHED = 2, CONF_EXACT = 3 };

/** "unknown", "inferred", "matched", "exact"; other numbers are unknown too. */
const char *frame_confidence(unsigned confidence);

enum flow_end {
	FLOW_END_FIN = 1,     /* graceful: both sides' FIN */
	FLOW_END_RST_C2S = 2, /* reset by the client */
	FLOW_END_RST_S2C = 3, /* reset by the server */
	FLOW_END_EXIT = 4,    /* the captured process is gone */
	FLOW_END_IDLE = 5,
	FLOW_END_SHED = 6,  /* the agent dropped the rest of this flow: its queue was full */
	FLOW_END_AGENT = 7, /* the agent stops or lost the flow */
};

struct frame {
	uint8_t type; /* enum frame_type, or one unknown to us */
	uint8_t flags;
	struct span body; /* borrowed from the input */
};

/**
 * Decode one frame from the front of `in`.
 *
 * in    received bytes: part of a frame, one, or several.
 * out   filled only on success; out->body borrows from `in` and dies with it.
 * Returns bytes consumed (> 0); 0 when the frame is not complete yet (nothing consumed);
 *         -EBADMSG for a bad header, -EMSGSIZE for a body over FRAME_BODY_MAX.
 * Source: PROTOCOL.md section 3.1. Allocates nothing. Fuzzed: tests/fuzz/fuzz_frame.c
 */
ssize_t frame_decode(struct span in, struct frame *out) WARN_UNUSED;

struct frame_hello {
	uint16_t version;       /* SSLC_PROTO_VERSION */
	uint8_t agent[16];      /* random, new for each start of the agent */
	uint16_t link, n_links; /* this link among the agent's links to this collector */
	uint64_t next_seq;      /* sequence number of the first block the agent can still send */
	uint64_t ts_ns;         /* agent's wall clock, for the collector to see the offset */
	struct span host;       /* host name; borrowed when decoded */
	struct span software;   /* "sslcollector 0.1.0" */
};

struct frame_welcome {
	uint16_t version;
	uint8_t collector[16]; /* random, new for each start: a change means sessions are gone */
	uint16_t n_workers;    /* links the collector would like; the agent may use fewer */
	uint64_t resume_seq; /* last block of this agent instance and link already emitted; 0: none
			      */
};

#define REFUSE_PROTOCOL   1 /* broken or unknown protocol version */
#define REFUSE_UNENROLLED 2 /* no certificate and not --insecure on both sides */
#define REFUSE_TOKEN      3 /* wrong, used or expired token */
#define REFUSE_BUSY       4 /* a bound of the collector is reached */
#define REFUSE_INTERNAL   5

struct frame_refused {
	uint16_t code;
	struct span text; /* one line for a person */
};

/* frame_flow_open.flags */
#define FLOW_OPEN_LATE 1u /* the connection was older than its first captured byte */
#define FLOW_OPEN_RESUMED                                                                          \
	2u /* told again to a new collector: offsets start where the first one says */

struct frame_flow_open {
	uint64_t flow;        /* unique within the agent instance */
	uint8_t session[16];  /* equal at both ends of one TCP connection; see PROTOCOL.md 3.5 */
	uint64_t ts_ns;       /* Unix epoch */
	uint64_t stream;      /* 0 for TCP; QUIC stream id later */
	uint8_t transport;    /* IANA protocol number: 6 */
	uint8_t family;       /* 4 or 6 */
	uint8_t captured_end; /* enum flow_dir of the bytes this host sends: FLOW_C2S: client */
	uint8_t confidence;   /* enum flow_confidence */
	uint8_t client_addr[16], server_addr[16]; /* network order, IPv4 in the first 4 bytes */
	uint16_t client_port, server_port;        /* host order */
	uint16_t mss;                             /* real MSS of the connection, 0 unknown */
	uint16_t flags;
	uint32_t netns, pid, uid;
	struct span comm, exe, container; /* borrowed when decoded; at most 255, 1024, 255 bytes */
};

/* frame_data.flags */
#define FRAME_DATA_END 1u /* the last byte of one TLS call: a message boundary */

struct frame_data {
	uint64_t flow, offset; /* offset: position of bytes.p[0] in its direction, from 0 */
	uint64_t ts_ns;
	uint8_t dir; /* enum flow_dir */
	uint8_t flags;
	struct span bytes; /* 1 .. FRAME_DATA_MAX; borrowed when decoded */
};

struct frame_gap {
	uint64_t flow, offset, len, ts_ns;
	uint8_t dir;
};

struct frame_flow_fin {
	uint64_t flow, ts_ns;
	uint8_t dir; /* the side that sends no more */
};

struct frame_flow_close {
	uint64_t flow, ts_ns;
	uint8_t end; /* enum flow_end */
};

struct frame_flow_meta { /* key=value facts about a flow, e.g. "sni", "alpn" */
	uint64_t flow;
	struct span key, value; /* at most 255, 4096 bytes */
};

struct frame_stats {      /* one counter of the agent */
	struct span name; /* at most 255 bytes */
	uint64_t value;
};

struct frame_ack {
	uint64_t seq;
};

struct frame_ping {
	uint64_t ts_ns; /* returned unchanged in the pong */
	/* All of these 0: not said, as by those of earlier versions. */
	uint64_t came_ns, left_ns; /* pong: by the answering side's clock, of ping and pong */
	int64_t ahead_ns;          /* ping: the other side's clock is so far ahead, as known */
	uint64_t trip_ns;          /* from exchanges that took so long; 0: not known yet */
};

struct frame_enroll {
	uint8_t secret[16];
	struct span host;
	struct span csr_der; /* PKCS#10 (RFC 2986) */
};

struct frame_enrolled {
	struct span cert_pem, ca_pem;
};

/*
 * Encoding appends one whole frame to `b`; on a full buf b->bad is set and b->len is unchanged.
 * Text over its maximum is cut to it; data or certificates over theirs, or data of no bytes, set
 * b->bad. Decoding checks every length and enumerated field of f->body and returns 0 or -EBADMSG;
 * bytes after the known fields are ignored (a later version may add some). Spans borrow from the
 * body.
 */
void frame_put_hello(struct buf *b, const struct frame_hello *m);
void frame_put_welcome(struct buf *b, const struct frame_welcome *m);
void frame_put_refused(struct buf *b, const struct frame_refused *m);
void frame_put_flow_open(struct buf *b, const struct frame_flow_open *m);
void frame_put_flow_meta(struct buf *b, const struct frame_flow_meta *m);
void frame_put_data(struct buf *b, const struct frame_data *m);
void frame_put_gap(struct buf *b, const struct frame_gap *m);
void frame_put_flow_fin(struct buf *b, const struct frame_flow_fin *m);
void frame_put_flow_close(struct buf *b, const struct frame_flow_close *m);
void frame_put_stats(struct buf *b, const struct frame_stats *m);
void frame_put_ack(struct buf *b, const struct frame_ack *m);
void frame_put_ping(struct buf *b, const struct frame_ping *m, bool pong);
void frame_put_enroll(struct buf *b, const struct frame_enroll *m);
void frame_put_enrolled(struct buf *b, const struct frame_enrolled *m);

int frame_get_hello(const struct frame *f, struct frame_hello *m) WARN_UNUSED;
int frame_get_welcome(const struct frame *f, struct frame_welcome *m) WARN_UNUSED;
int frame_get_refused(const struct frame *f, struct frame_refused *m) WARN_UNUSED;
int frame_get_flow_open(const struct frame *f, struct frame_flow_open *m) WARN_UNUSED;
int frame_get_flow_meta(const struct frame *f, struct frame_flow_meta *m) WARN_UNUSED;
int frame_get_data(const struct frame *f, struct frame_data *m) WARN_UNUSED;
int frame_get_gap(const struct frame *f, struct frame_gap *m) WARN_UNUSED;
int frame_get_flow_fin(const struct frame *f, struct frame_flow_fin *m) WARN_UNUSED;
int frame_get_flow_close(const struct frame *f, struct frame_flow_close *m) WARN_UNUSED;
int frame_get_stats(const struct frame *f, struct frame_stats *m) WARN_UNUSED;
int frame_get_ack(const struct frame *f, struct frame_ack *m) WARN_UNUSED;
int frame_get_ping(const struct frame *f, struct frame_ping *m) WARN_UNUSED;
int frame_get_enroll(const struct frame *f, struct frame_enroll *m) WARN_UNUSED;
int frame_get_enrolled(const struct frame *f, struct frame_enrolled *m) WARN_UNUSED;

/** The flow a frame speaks of (open, meta, data, gap, fin, close), without a full decode; 0 for
 * others. */
uint64_t frame_flow(const struct frame *f);

#endif
