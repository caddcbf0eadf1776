/* SPDX-License-Identifier: Apache-2.0 */
/*
 * held: plaintext whose connection is not known yet. Waits, bounded in bytes and time, by TLS
 * object; is handed out when the object is bound, or dropped and counted. Never guesses.
 */
#ifndef SSLC_AGENT_HELD_H
#define SSLC_AGENT_HELD_H

#include <linux/types.h>
#include <stddef.h>
#include <stdint.h>

#include "event.h"

struct held;

struct held_limits {
	size_t per_object; /* bytes of plaintext */
	size_t total;      /* bytes of memory, event headers included */
	uint64_t wait_ns;
};

/* lost: called with what is dropped because its connection was not found, or there was no room;
 * may be NULL. */
typedef void (*held_lost_fn)(void *ctx, const struct sslc_conn_id *conn, uint64_t bytes);

int held_new(struct held **out, const struct held_limits *limits, held_lost_fn lost, void *ctx)
	__attribute__((warn_unused_result));
void held_free(struct held *h);
/** Keep a copy of the event's bytes; over a limit they are dropped and counted. */
void held_put(struct held *h, const struct sslc_ev_data *ev, uint64_t now_ns);
/** Hand out, in order, all that waits for this TLS object, and forget it. */
void held_take(struct held *h, const struct sslc_conn_id *conn,
	       void (*each)(void *ctx, const struct sslc_ev_data *ev), void *ctx);
/** Drop what has waited too long. */
void held_expire(struct held *h, uint64_t now_ns);

#endif
