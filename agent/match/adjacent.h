/* SPDX-License-Identifier: Apache-2.0 */
/*
 * adjacent: which connection a TLS object without a socket of its own uses (memory BIOs, BIO
 * pairs). TLS calls and socket operations of a thread in, in their order; bindings out.
 *
 * What counts as evidence, and what does not:
 *   reading  After a receive on F the thread's next TLS calls are X's alone, and what X read fits
 *            the records that this receive completed.
 *   writing  X alone has written or shaken hands on the thread since its last send, the next send
 *            is on F, and the records that it completed fit what X wrote.
 *   ambiguity is never evidence. Receives on several flows without a TLS call in between, writes of
 *            several objects before a send: nothing is concluded until they must be over.
 * X is bound to F when nothing has spoken against it, F has no other owner, and the evidence either
 * comes from both directions or from records of many different lengths. Later calls are checked
 * against F's records as long as the binding lives; one that does not fit ends it. What is not
 * bound when F ends is compared in whole: see whole.h.
 */
#ifndef SSLC_AGENT_ADJACENT_H
#define SSLC_AGENT_ADJACENT_H

#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "event.h"

struct adjacent;

struct adjacent_conf {
	/* The object belongs to the flow. False: that flow is not to be had. */
	bool (*bind)(void *ctx, const struct sslc_conn_id *conn, uint64_t flow);
	void *ctx;
};

#define ADJACENT_OBJECTS 16384 /* the least recently called goes beyond */
#define ADJACENT_THREADS 4096

int adjacent_new(struct adjacent **out, const struct adjacent_conf *conf)
	__attribute__((warn_unused_result));
void adjacent_free(struct adjacent *a);
/**
 * One well-formed event: OPEN, CALL, WIRE, or DATA without a flow; others are ignored. A binding
 * that the event refutes is gone when this returns, so DATA is to be delivered after it.
 */
void adjacent_event(struct adjacent *a, const struct sslc_event *ev);
/** The flow that the object is bound to, or 0. */
uint64_t adjacent_flow(const struct adjacent *a, const struct sslc_conn_id *conn);
/** The kernel saw the object use the flow: no guess about either of them stands any more. */
void adjacent_exact(struct adjacent *a, const struct sslc_conn_id *conn, uint64_t flow);
/** Nothing more comes for this flow: conclude what can be concluded (bind() may be called). */
void adjacent_flow_ending(struct adjacent *a, uint64_t flow);
/** The flow is gone; an object bound to it has no other one. */
void adjacent_flow_end(struct adjacent *a, uint64_t flow);
/** Conclude where a thread has been silent for a while. now_ns: CLOCK_MONOTONIC. */
void adjacent_tick(struct adjacent *a, uint64_t now_ns);

#endif
