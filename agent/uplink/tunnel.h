/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tunnel: the uplink to a collector. A thread of its own with a TLS client: resolve, connect,
 * verify, hello, send blocks from ship, take acks, back off and come again. Never touches flows.
 */
#ifndef SSLC_AGENT_TUNNEL_H
#define SSLC_AGENT_TUNNEL_H

#include "base/tls.h"
#include "uplink/ship.h"

struct tunnel_conf {
	const char *host; /* name or address */
	uint16_t port;
	struct tls_files files; /* own PKI; all NULL: those that enrolment left in state_dir */
	const char *state_dir;
	bool insecure;
	int zstd_level; /* 0: none */
};

struct tunnel;

/**
 * Starts the thread. Errors that waiting cannot mend (no credentials, unreadable files) are
 * returned at once, logged with what to do; an unreachable collector is not an error: it is tried
 * again with back-off.
 */
int tunnel_start(struct tunnel **out, const struct tunnel_conf *conf,
		 struct ship *ship) WARN_UNUSED;
/** Wait at most `drain_ms` until ship is empty, then stop and free. Accepts NULL. */
void tunnel_stop(struct tunnel *t, unsigned drain_ms);

#endif
