/* SPDX-License-Identifier: Apache-2.0 */
/*
 * acceptor: the TLS server. Sockets in; received bytes go to their taker (or to enrolment, by
 * ALPN), answers go back. Decides who may connect, how long a peer may be silent, and how much may
 * wait for it. Runs in its event base's thread.
 */
#ifndef SSLC_COLLECTOR_ACCEPTOR_H
#define SSLC_COLLECTOR_ACCEPTOR_H

#include <event2/event.h>

#include "base/tls.h"
#include "taker.h"

#define ACCEPTOR_LINKS_MAX                                                                         \
	4096 /* links past their handshake; beyond: REFUSE_BUSY. Bounds memory                     \
	      */
#define ACCEPTOR_HANDSHAKES_MAX                                                                    \
	1024                    /* strangers may hold so many sockets, never the links' own        \
				 */
#define ACCEPTOR_HANDSHAKE_S 10 /* for TLS, and again for the hello or the enrolment request */
#define ACCEPTOR_SILENT_S    30 /* the agent pings each 5 s */

struct acceptor_conf { /* all pointers borrowed until acceptor_close() */
	struct event_base *base;
	const struct taker_ops *ops;
	void *hub;               /* the takers' */
	const char *listen_addr; /* NULL: all addresses, IPv6 and IPv4 */
	uint16_t port;           /* 0: any free one, see acceptor_port() */
	struct tls_files files;
	bool insecure; /* ask for no certificate */
	const char
		*enroll_dir; /* state directory that signs; NULL: own PKI, enrolment is refused */
	unsigned max_links;  /* 0: ACCEPTOR_LINKS_MAX */
};

struct acceptor;

/** Listens. 0, or -errno (logged, with what to do). */
int acceptor_open(struct acceptor **out, const struct acceptor_conf *conf) WARN_UNUSED;
/** The port it listens on. */
uint16_t acceptor_port(const struct acceptor *a);
/**
 * Sinks are flushed: acknowledge what came in, when it is much or has waited for ACCEPTOR_ACK_MS:
 * an answer costs both ends a TLS record and a wake-up. Cheap when nothing came in. Returns ns
 * until it wants to be called again; UINT64_MAX: when something came in.
 */
uint64_t acceptor_flushed(struct acceptor *a, uint64_t now_ns);
#define ACCEPTOR_ACK_MS    5
#define ACCEPTOR_ACK_BYTES (256u << 10)
/** About once a second: close links that are silent, late, or replaced by newer ones. */
void acceptor_tick(struct acceptor *a, uint64_t now_ns);
/*
 * For takers, at any time between open() and close(), though not from within bytes().
 */
/** Bytes to the agent. False: it is behind, and not read either until drained(). */
bool acceptor_send(struct link *l, struct span bytes);
/** Its hello was accepted meanwhile. */
void acceptor_greeted(struct link *l);
/** Do not read it, or read it again. It may stay silent for that long. Also from bytes(). */
void acceptor_hold(struct link *l, bool hold);
/** End it after these last words. The taker is closed when this returns. */
void acceptor_end(struct link *l, struct span last_words);
/** Accept nobody any more; links go on. */
void acceptor_stop(struct acceptor *a);
/** Close all links and free. Accepts NULL. */
void acceptor_close(struct acceptor *a);

#endif
