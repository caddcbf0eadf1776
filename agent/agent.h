/* SPDX-License-Identifier: Apache-2.0 */
/* agent: wires capture → flow → ship → uplink; start, drain, stop. */
#ifndef SSLC_AGENT_AGENT_H
#define SSLC_AGENT_AGENT_H

#include "capture.h"
#include "match/prelude.h"
#include "uplink/ship.h"

/* Where the blocks go: the tunnel, or the collector's half in this process. Runs a thread of its
 * own. */
struct uplink_ops {
	int (*start)(void *ctx, struct ship *ship); /* logs its own error */
	void (*stop)(void *ctx, unsigned drain_ms); /* also when start failed */
	void (*reopen)(void *ctx); /* its files may have been moved away; may be NULL */
};

struct agent_conf {
	const char *iface;  /* or "any" */
	const char *filter; /* pcap filter, or NULL */
	unsigned sources;   /* CAPTURE_… */
	unsigned n_rings;   /* see capture.h */
	size_t ring_bytes, backlog_bytes, queue_bytes, shim_bytes;
	enum sslc_shed shed;
	enum flow_hook flow_hook;
	enum probes probes;
	enum prelude_mode starttls;
	bool outer_tls;                          /* see struct capture_conf */
	unsigned max_overhead, overhead_retry_s; /* see struct capture_conf */
	const char *run_dir;                     /* where the control socket lies */
	bool quiet;                              /* standard error is for errors alone */
	const struct uplink_ops *uplink;
	void *uplink_ctx;
};

#define AGENT_DRAIN_MS 5000 /* how long a stop waits for the uplink */

/** Runs until SIGINT or SIGTERM. Exit status 0 or 1 (logged). */
int agent_run(const struct agent_conf *conf);

#endif
