/* SPDX-License-Identifier: Apache-2.0 */
/*
 * flow: which connection, which bytes. Events of the capture sources in, frames out through ship.
 * Keeps one record a connection: its tuple, what is known of its end, and how far each direction
 * has come.
 */
#ifndef SSLC_AGENT_FLOW_H
#define SSLC_AGENT_FLOW_H

#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "event.h"
#include "filter.h"
#include "match/prelude.h"
#include "uplink/ship.h"

struct flows;

/* What became of a connection; each has one fate at a time. */
enum flow_fate {
	FLOW_MIRRORED,
	FLOW_FILTERED,
	FLOW_STANDBY,
	FLOW_UNMATCHED, /* TLS was seen on it, and no TLS call to go with it */
	FLOW_FATES,
};

/* One connection, for whoever adds up by process. */
struct flow_account {
	uint64_t start_ns; /* of the process, as in struct sslc_conn_id */
	uint32_t tgid;
	uint8_t fate;        /* enum flow_fate */
	uint8_t confidence;  /* enum flow_confidence */
	bool by_preload;     /* told by the preloaded library, not seen in the kernel */
	bool is_late;        /* TLS had begun before it was watched */
	bool is_unexplained; /* its socket carried more than its TLS calls explain: audit.h */
	uint64_t bytes;      /* plaintext told so far */
	/* Of the thread that opened it, 16 bytes as the kernel keeps it; only in `opened`, else
	 * NULL; borrowed. */
	const char *comm;
};
typedef void (*flow_account_fn)(void *ctx, const struct flow_account *a);

struct flows_conf {
	struct ship *ship;     /* borrowed */
	struct filter *filter; /* borrowed; NULL: everything */
	enum prelude_mode starttls;
	uint8_t agent[16]; /* this agent instance, for session ids without sequence numbers */
	void (*skip)(void *ctx, uint64_t flow); /* a flow's bytes are not wanted */
	/* A connection was announced, and again when it was judged later; and it is forgotten.
	 * NULL: nobody asks. */
	flow_account_fn opened, ended;
	/* Plaintext whose connection was not found in time; NULL: nobody asks. */
	void (*unbound)(void *ctx, const struct sslc_conn_id *conn, uint64_t bytes);
	/* A connection that was opened at that time carried more than the TLS calls of a probed
	 * file (struct sslc_ev_sock) explain. NULL: nobody asks. */
	void (*unexplained)(void *ctx, unsigned file, uint64_t opened_ns);
	void *ctx;
};

#define FLOWS_MAX         131072      /* records; the least recently active one goes beyond */
#define FLOW_HELD_MAX     (16u << 20) /* bytes of one TLS object that wait for their connection */
#define FLOW_HELD_ALL_MAX (32u << 20) /* of all together */
#define FLOW_HELD_MS      10000       /* how long they wait */
#define FLOW_EARLY_MAX                                                                             \
	(64u << 10) /* 0-RTT bytes of one connection that wait for the server's decision */
#define FLOW_EARLY_ALL_MAX (16u << 20) /* of all together */
#define FLOW_PRELUDE_MAX                                                                           \
	16384u /* bytes of one direction before TLS: what the kernel half copies at most */
#define FLOW_PRELUDE_ALL_MAX (16u << 20) /* bytes of memory of all together */
#define FLOW_PRELUDE_LOST    16384       /* records of those that were not kept in full */
#define FLOW_PRELUDE_IDLE_S  600         /* STARTTLS comes soon, or never */
#define FLOW_GRACE_MS        60000 /* a closed socket whose process neither reads on nor closes it */

#define FLOW_PAUSES_MAX 512 /* processes that were not probed for a while, and live */

int flows_new(struct flows **out, const struct flows_conf *conf) WARN_UNUSED;
void flows_free(struct flows *t);
/** One event. Malformed ones (lengths, directions) are counted and ignored. */
void flows_event(struct flows *t, const struct sslc_event *ev);
/** Expiry, and the clock's offset. now_ns: CLOCK_MONOTONIC; wall_offset_ns: see
 * clock_wall_offset_ns(). */
void flows_tick(struct flows *t, uint64_t now_ns, int64_t wall_offset_ns);
/**
 * A process is not probed any more; all that it did before since_ns (monotonic) was seen. Its
 * connections are told no further: where later bytes stand will not be known. start_ticks: see
 * process_ticks(). False: there are too many such processes.
 */
bool flows_pause(struct flows *t, uint32_t tgid, uint64_t start_ticks, uint64_t since_ns);
/** It is probed again: connections that begin from now on are told. */
void flows_resume(struct flows *t, uint32_t tgid, uint64_t start_ticks, uint64_t until_ns);
/** The process is gone. */
void flows_pause_forget(struct flows *t, uint32_t tgid, uint64_t start_ticks);
/** The agent stops: close what is open. */
void flows_close_all(struct flows *t, uint64_t now_ns);
size_t flows_count(const struct flows *t);
/** The accounts of all connections that live now. */
void flows_each(const struct flows *t, flow_account_fn each, void *ctx);

#endif
