/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dial: connections from an aggregator to the next collector: resolve, connect, TLS, verify. A
 * dialer is for one collector; it looks the name up once for all who ask at the same time, and
 * leaves a collector alone for a while that did not answer. Runs in its event base's thread.
 */
#ifndef SSLC_COLLECTOR_DIAL_H
#define SSLC_COLLECTOR_DIAL_H

#include <event2/bufferevent.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/tls.h"

#define DIAL_TEXT_MAX 512

struct dialer_conf { /* pointers borrowed until dialer_close() */
	struct event_base *base;
	const char *host; /* name or address */
	uint16_t port;
	struct tls_files files; /* own PKI; all NULL: those that enrolment left in dir */
	const char *dir;
	bool insecure;
};

struct dialer;
struct dial; /* one attempt */

/** 0, or -errno: credentials are missing or not readable; logged with what to do. */
int dialer_open(struct dialer **out, const struct dialer_conf *conf) WARN_UNUSED;
/** All its dials are over. Accepts NULL. */
void dialer_close(struct dialer *d);
/** "HOST:PORT", for people. */
const char *dialer_where(const struct dialer *d);
/** A connection that was made was of no use: leave the collector alone for a while. */
void dialer_hold(struct dialer *d, const char *why);
/** Why there is no point in trying right now; NULL: there is. */
const char *dialer_held(const struct dialer *d, uint64_t now_ns);

/**
 * Begin. `done` is called once, never from within dial_start(): with a bufferevent that is
 * connected, verified, disabled, without callbacks and the caller's; or with NULL and one line that
 * says why not. NULL when out of memory.
 */
typedef void dial_done(void *ctx, struct bufferevent *bev, const char *why);
struct dial *dial_start(struct dialer *d, dial_done *done, void *ctx);
/** Not interested any more; not after `done`. Accepts NULL. */
void dial_cancel(struct dial *dial);

/**
 * What a BEV_EVENT_* of a connection of this dialer means: one line. In TLS 1.3 a collector that
 * does not accept our certificate says so after the handshake.
 */
void dialer_cause(const struct dialer *d, struct bufferevent *bev, short what, char *out,
		  size_t size);

#endif
