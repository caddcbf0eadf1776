/* SPDX-License-Identifier: Apache-2.0 */
/* collector: wires acceptor → ingest → session → forge → sinks into one event loop. */
#ifndef SSLC_COLLECTOR_COLLECTOR_H
#define SSLC_COLLECTOR_COLLECTOR_H

#include "crew/workers.h"
#include "base/tls.h"

struct collector_conf {
	const char *listen_addr; /* NULL: all addresses, IPv6 and IPv4 */
	uint16_t port;
	const char *state_dir;  /* CA, certificate, tokens; made with mode 0700 when absent */
	struct tls_files files; /* own PKI; all NULL: the state directory's */
	bool insecure;
	const struct sink_conf *sinks; /* borrowed */
	unsigned n_sinks;
	const char *onward; /* pass on to the collector on this host; then there are no sinks */
	uint16_t onward_port;
	size_t max_sessions; /* at the same time; 0: the default */
	unsigned workers;    /* threads that forge; 0: the default */
};

/** Runs until SIGINT or SIGTERM, then closes every forged connection. Exit status 0 or 1 (logged).
 */
int collector_run(const struct collector_conf *conf);

/* The collector's half inside an endpoint that works alone: same sessions, same sinks, no tunnel.
 */
struct collector_local;
int collector_local_new(struct collector_local **out, const struct workers_conf *conf) WARN_UNUSED;
/** One block of frames from this process, number `seq`. Waits while there is too much to do. */
int collector_local_frames(struct collector_local *c, uint64_t seq, struct span frames) WARN_UNUSED;
/**
 * After some of them, and when it is time. *out: all blocks up to this one have left the sinks; 0:
 * none. Returns ms until the next call is due, at most 1000.
 */
int collector_local_tick(struct collector_local *c, uint64_t *out);
/** Readable when collector_local_tick() may tell of more blocks; -1: never. */
int collector_local_fd(const struct collector_local *c);
/** Wait until collector_local_tick() will tell of all. */
void collector_local_settle(struct collector_local *c);
/** Files that were moved away are begun anew, within a second. From any thread. */
void collector_local_reopen(struct collector_local *c);
/** Reset what is open, flush, close the sinks. Accepts NULL. */
void collector_local_free(struct collector_local *c);

#endif
