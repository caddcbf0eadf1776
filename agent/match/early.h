/* SPDX-License-Identifier: Apache-2.0 */
/*
 * early: a client's 0-RTT bytes, held until it is known what became of them. The server may reject
 * them, and the client then sends them again as ordinary data, or not at all: mirrored at once they
 * would be mirrored twice, or never have been said. Bounded for one connection and for all.
 */
#ifndef SSLC_AGENT_EARLY_H
#define SSLC_AGENT_EARLY_H

#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "event.h"

/* Of one connection: bytes in the order in which they were written, then perhaps a hole. NULL: it
 * has none. */
struct early;
struct early_pool; /* bounds all of them, must outlive them */

struct early_limits {
	size_t per_flow; /* bytes of plaintext */
	size_t total;    /* bytes of memory, event headers included */
};

int early_pool_new(struct early_pool **out, const struct early_limits *limits)
	__attribute__((warn_unused_result));
void early_pool_free(struct early_pool *p);

/**
 * Keep a copy of the event's bytes behind those of *e, which is made when NULL. What does not fit
 * becomes, with all that follows, a hole of exact size. 0; -ENOMEM when there is no *e: nothing is
 * remembered.
 */
int early_put(struct early_pool *p, struct early **e, const struct sslc_ev_data *ev)
	__attribute__((warn_unused_result));
/** The next `len` bytes are known to be missing: they and what follows become a hole. As above. */
int early_skip(struct early_pool *p, struct early **e, uint64_t len)
	__attribute__((warn_unused_result));
/** Bytes and hole together; 0 when e is NULL. */
uint64_t early_span(const struct early *e);

/** The library says that the server did not take them. Not final: it says so before the handshake
 * is over, too. */
void early_reject(struct early *e);

/**
 * Whether the bytes are void, asked when something else moves on the connection (next: the event,
 * NULL when it is not data) or the connection ends. They are when the library said so last, or,
 * when it was never asked, if the client now writes the same again from their start. Else they were
 * taken: a client that has not asked cannot know that it has something to repeat.
 */
bool early_is_void(const struct early *e, const struct sslc_ev_data *next);

/**
 * Hand out the bytes in order, to `each`, and free *e, which becomes NULL. Returns the size of the
 * hole behind them.
 */
uint64_t early_take(struct early_pool *p, struct early **e,
		    void (*each)(void *ctx, const struct sslc_ev_data *ev), void *ctx);
/** Free *e, which becomes NULL, without handing anything out; counts its bytes as void. */
void early_drop(struct early_pool *p, struct early **e);

#endif
