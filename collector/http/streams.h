/* SPDX-License-Identifier: Apache-2.0 */
/*
 * streams: what happens on one HTTP/2 connection in, forged HTTP/1.1 connections out: one for each
 * of its streams, or one for all, one after the other (sink.h: SINK_H2_SERIAL). Addresses and the
 * server's port are the real ones, the client's port is another one for each connection, for
 * answers do not come in the order of requests. No I/O, no clock.
 */
#ifndef SSLC_COLLECTOR_STREAMS_H
#define SSLC_COLLECTOR_STREAMS_H

#include "base/hmap.h"
#include "outlet.h"

struct streams;
struct streams_hub;

/* A server that allows more streams at once shows the others to nobody (RFC 9113 asks for at least
 * 100, gRPC servers often set no limit). Of all hubs of an output: some 100 MiB. */
#define STREAMS_MAX_CONN 4096u
#define STREAMS_MAX_HUB  (256u << 10)

/* A tuple that is open at an outlet's sinks. */
struct streams_place {
	struct hmap_node by_tuple;
	struct forge_flow forge;
	bool is_taken;  /* it is in the index */
	bool is_stream; /* it is part of a stream; else of a connection that is shown as it is */
};

/* What all connections of an outlet share. */

/** sinks: of all outlets, told of each stream. Borrowed. parts: hubs that share the bounds of
 * memory. 0 or -ENOMEM. */
int streams_hub_new(struct streams_hub **out, const struct sink_set *sinks,
		    unsigned parts) WARN_UNUSED;
void streams_hub_free(struct streams_hub *hub); /* accepts NULL */
/** A connection takes its real tuple, p->forge's: a stream that happens to have it is reset. */
void streams_take_place(struct streams_hub *hub, struct streams_place *p, uint64_t ts_ns);
void streams_leave_place(struct streams_hub *hub, struct streams_place *p);
/** `to`, which is in no index, becomes what `from` was. */
void streams_move_place(struct streams_hub *hub, struct streams_place *to,
			struct streams_place *from);

/* One connection. The strings of `flow` must stay valid for as long as the connection. */

/** late: its beginning was not seen. 0 or -ENOMEM. */
int streams_new(struct streams **out, struct streams_hub *hub, struct outlet *o,
		const struct outlet_flow *flow, bool late) WARN_UNUSED;
/** It goes on as another session. */
void streams_move(struct streams *c, const struct outlet_flow *flow);
void streams_free(struct streams *c); /* emits nothing; accepts NULL */
/**
 * The next bytes of a direction, or a hole. end: last of a TLS call. 0; -EBADMSG, -ENOMEM: this is
 * no HTTP/2 that can be followed: streams_rst(), then streams_free().
 */
int streams_data(struct streams *c, enum flow_dir dir, struct span bytes, bool end,
		 uint64_t ts_ns) WARN_UNUSED;
int streams_gap(struct streams *c, enum flow_dir dir, uint64_t len, uint64_t ts_ns) WARN_UNUSED;
/** One side of the connection sends no more: what it has not finished is reset. */
void streams_fin(struct streams *c, enum flow_dir dir, uint64_t ts_ns);
/** Inspection now of what `dir` said last: FORGING's poke, of each stream that needs one. True when
 * something waits to be shown: to be called again within some seconds. */
bool streams_poke(struct streams *c, enum flow_dir dir, uint64_t ts_ns);
/** All that are open are reset from one side. */
void streams_rst(struct streams *c, enum flow_dir dir, uint64_t ts_ns);

#endif
