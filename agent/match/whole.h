/* SPDX-License-Identifier: Apache-2.0 */
/*
 * whole: which TLS object a connection belonged to, told from all that both did. Lengths and times
 * of records and of calls in, at most one object out; for exchanges too short for adjacent.h.
 *
 * A journal keeps what one object or one flow did from its first byte on. When a flow ends, it and
 * an object belong together if
 *   exact    every record of the flow is explained by the object's calls and every call by the
 *            records, in both directions, in their order, under one cipher, nothing read before it
 *            was received; only the handshake's hidden messages stand before the data, and only an
 *            alert after them
 *   unique   no other object of the process can have used the flow, and no other flow of the
 *            process can have carried the object, as far as lengths and times show.
 * For a wrong answer both the true object and the true flow would have to be out of sight. So a
 * process of which anything was not seen meanwhile gives no answer.
 */
#ifndef SSLC_AGENT_WHOLE_H
#define SSLC_AGENT_WHOLE_H

#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "event.h"

struct whole;

#define WHOLE_JOURNALS 4096 /* the least recently active one goes beyond; 1.3 KiB each */
#define WHOLE_ITEMS    32   /* records or calls of one direction; longer ones are never exact */
#define WHOLE_RIVALS   64   /* objects or flows compared for one answer; with more there is none */

int whole_new(struct whole **out) __attribute__((warn_unused_result));
void whole_free(struct whole *w);
/** A connection is known; without it, or when its records do not begin with a handshake, it is one
 * that was not seen in whole. */
void whole_open(struct whole *w, const struct sslc_ev_open *ev);
/** A socket operation on a flow that no object is bound to. */
void whole_wire(struct whole *w, const struct sslc_ev_wire *ev);
/** The first call of an object follows. */
void whole_begin(struct whole *w, const struct sslc_conn_id *conn, uint64_t ts_ns);
/** A call of an object that is bound to nothing; len: bytes that it moved, or 0. Reading nothing
 * says that nothing was left. */
void whole_call(struct whole *w, const struct sslc_conn_id *conn, uint32_t tid, uint64_t ts_ns,
		enum sslc_dir dir, uint32_t len);
/** What the object moves is not known exactly: it may have used any flow. */
void whole_doubt(struct whole *w, const struct sslc_conn_id *conn);
/** Something of this process was not seen. */
void whole_blind(struct whole *w, uint32_t tgid, uint64_t ts_ns);
/** It is known by other means what the object, the flow belongs to. */
void whole_drop_object(struct whole *w, const struct sslc_conn_id *conn);
void whole_drop_flow(struct whole *w, uint64_t flow);
/** The flow has ended: whether *out is filled with the one object that it belonged to. */
bool whole_match(struct whole *w, uint64_t flow, uint64_t now_ns, struct sslc_conn_id *out);

#endif
