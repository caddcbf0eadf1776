/* SPDX-License-Identifier: Apache-2.0 */
/*
 * enroll_server: the collector's half of enrolment. One struct a connection with the enrolment
 * ALPN: an envelope with token and signing request in, an envelope with certificate or refusal out.
 * No sockets: acceptor moves the bytes. PROTOCOL.md describes the exchange.
 */
#ifndef SSLC_COLLECTOR_ENROLL_SERVER_H
#define SSLC_COLLECTOR_ENROLL_SERVER_H

#include "base/buf.h"

struct enroll_server;

/** name: the peer for log lines; copied. state_dir: borrowed; NULL: refuse all (own PKI). 0 or
 * -ENOMEM. */
int enroll_server_new(struct enroll_server **out, const char *state_dir,
		      const char *name) WARN_UNUSED;
void enroll_server_free(struct enroll_server *e);
/**
 * Received bytes in, the answer appended to `reply`. now_s: Unix time, for the token's expiry.
 * 0: more bytes are needed. 1: done, send `reply`, then close. Negative: the same, but it was
 * refused or broken; logged and counted here.
 */
int enroll_server_bytes(struct enroll_server *e, struct span bytes, struct buf *reply,
			uint64_t now_s) WARN_UNUSED;

#endif
