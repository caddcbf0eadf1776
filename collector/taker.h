/* SPDX-License-Identifier: Apache-2.0 */
/*
 * taker: what acceptor needs of those who take what agents say: ingest, or an aggregator that
 * passes it on. One taker a link.
 */
#ifndef SSLC_COLLECTOR_TAKER_H
#define SSLC_COLLECTOR_TAKER_H

#include "base/buf.h"

struct link; /* one agent's, past its handshake */

enum taker_acked {
	TAKER_ACKED_ALL,  /* that came in so far */
	TAKER_ACKED_SOME, /* all that had come when it was asked before: there is more */
	TAKER_ACK_WAITS,  /* for others: ask again in the next round */
};

struct taker_ops {
	/* `hub` as in acceptor_conf; name: the peer for log lines, to be copied. 0 or -errno. */
	int (*open)(void **out, void *hub, struct link *l, const char *name);
	void (*close)(void *taker); /* the link is gone, or soon will be: no word to it any more */
	/* What came in; answers are appended to `reply`. 0; -errno: send `reply`, then close. */
	int (*bytes)(void *taker, struct span bytes, struct buf *reply, uint64_t now_ns);
	bool (*is_greeted)(const void *taker);  /* its hello was accepted */
	bool (*is_replaced)(const void *taker); /* a newer link has taken over: close this one */
	/* Outputs are flushed: acknowledge. NULL: it does so by itself. */
	enum taker_acked (*flushed)(void *taker, struct buf *reply);
	/* The peer has read what acceptor_send() said was much. NULL: not asked for. */
	void (*drained)(void *taker);
};

#endif
