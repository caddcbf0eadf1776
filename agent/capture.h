/* SPDX-License-Identifier: Apache-2.0 */
/* capture: what a source of plaintext is. It delivers struct sslc_event, in order for each flow. */
#ifndef SSLC_AGENT_CAPTURE_H
#define SSLC_AGENT_CAPTURE_H

#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "event.h"
#include "ring.h"

struct capture;

/* Sources, as bits. */
#define CAPTURE_BPF     1u
#define CAPTURE_PRELOAD 2u

/* How the kernel tells which socket a TLS call uses, best first. */
enum flow_hook {
	FLOW_HOOK_AUTO,       /* the first of the following that works here */
	FLOW_HOOK_TRACEPOINT, /* sock:sock_send_length and sock_recv_length, since 6.3 */
	FLOW_HOOK_FEXIT,      /* exits of tcp_sendmsg and tcp_recvmsg, since 5.5 */
	FLOW_HOOK_KPROBE,     /* kprobes on the same */
};

/* The best tier that probes may have: see attach.h. */
enum probes {
	PROBES_AUTO, /* as PROBES_RECORDS */
	PROBES_RECORDS,
	PROBES_PAIRS,
	PROBES_FIRST,
	PROBES_PLAIN,
};

/* What came of probing a file. */
struct capture_file {
	int functions;       /* that are probed now; 0: none of ours inside; or -errno */
	const char *why_not; /* static text: TLS code that is not probed; NULL: none was seen */
	const char *tier;    /* static: how it is probed, attach_tier_word(); NULL: it is not */
	const char *lowered_from; /* the same, before connections went unexplained; NULL: never */
};

/* A process whose probes were taken off, since they cost it too much. */
struct capture_pause {
	unsigned pid;
	uint64_t start_ticks; /* of the process */
	uint64_t since_ns;    /* monotonic: what it did before was seen */
	uint64_t until_ns;    /* it is probed again: what has begun before was not seen in full; 0:
			       * not yet */
	unsigned percent, limit, retry_s; /* of its CPU time; tried again after */
	bool is_gone;                     /* the process has ended: nothing is left to be said */
};

struct capture_conf {
	enum flow_hook flow_hook;
	enum probes probes;
	bool inner_only;   /* what stands before TLS on a connection is not wanted */
	bool outer_tls;    /* of TLS inside TLS the outer one is wanted, not the inner one */
	unsigned n_rings;  /* kernel ring buffers: 1, 2, 4 or 8; 0: as rings_choose() says */
	size_t ring_bytes; /* of all of them; a power of two */
	enum sslc_shed shed;
	size_t queue_bytes;  /* of the queue behind it; a power of two of at least EVQUEUE_MIN */
	size_t shim_bytes;   /* of each preloaded process's ring; see sslc_shim_is_size() */
	const char *run_dir; /* where preloaded processes look for the agent; borrowed */
	/* One event; ev->size bytes, borrowed during the call. */
	void (*on_event)(void *ctx, const struct sslc_event *ev);
	/* A file was looked at; all borrowed. */
	void (*on_file)(void *ctx, int fd, const char *path, const struct capture_file *found);
	/* This source begins, or ceases, to tell a process's calls: others shall leave them alone.
	 * Any thread. */
	void (*on_process)(void *ctx, uint32_t pid, bool begins);
	/* The initial sequence numbers, sent and received, of a TCP socket of this process; false:
	 * nobody can tell. Any thread, one at a time. NULL: nobody ever can. */
	bool (*isn)(void *ctx, int s, uint32_t *iss, uint32_t *irs);
	/* Probes of a process were taken off, or put on again. */
	void (*on_pause)(void *ctx, const struct capture_pause *p);
	unsigned max_overhead;     /* percent of a process's CPU time; 0: no limit */
	unsigned overhead_retry_s; /* how long a process is left alone the first time */
	void *ctx;
};

/* How full a buffer is, in bytes. */
struct capture_fill {
	uint64_t size, used, high;
};

struct capture_stats {
	/* The kernel's, and the one behind it. Of several rings: the size of all; the rest is the
	 * fullest one's, times their number. */
	struct capture_fill ring, queue;
	unsigned n_rings;
	uint64_t each_ring[SSLC_RINGS_MAX]; /* bytes that went through it */
	uint64_t events, ring_bytes;        /* that went through the ring */
	uint64_t naps, sleeps;              /* rests of the thread that empties it */
	uint64_t entries, exits;            /* probes that were hit */
	uint64_t entries_s, exits_s;        /* of these in the last second */
	uint64_t counted_ms;                /* for so long they have been counted */
	uint64_t program_ns;                /* mean time of a probe's program; 0: not known yet */
};

struct capture_ops {
	const char *name;                                                   /* "bpf", "preload" */
	int (*open)(struct capture **out, const struct capture_conf *conf); /* logs its own error */
	int (*fd)(const struct capture *c); /* readable when poll() has work */
	/* Deliver what is there; events delivered, or -errno. *more: call again soon. */
	int (*poll)(struct capture *c, bool *more);
	void (*finish)(struct capture *c); /* deliver all that has happened so far, and no more */
	void (*stats)(const struct capture *c, struct capture_stats *out);
	void (*count_hits)(struct capture *c); /* somebody asks: count hits of probes for a while */
	void (*skip_flow)(struct capture *c,
			  uint64_t flow); /* its bytes are not wanted: stop copying them */
	/* Another source tells the process's TLS calls, or does no longer. Any thread. NULL: of no
	 * meaning here. */
	void (*leave_process)(struct capture *c, uint32_t pid, bool to_other);
	/* As in struct capture_conf. NULL: this source cannot tell. */
	bool (*isn)(struct capture *c, int s, uint32_t *iss, uint32_t *irs);
	/* A connection that was opened at that time carried more than the calls of a probed file
	 * (struct sslc_ev_sock) explain. */
	void (*doubt)(struct capture *c, unsigned file, uint64_t opened_ns);
	void (*tick)(struct capture *c);  /* about once a second: rescan, read loss counters */
	void (*close)(struct capture *c); /* accepts NULL */
};

struct capture { /* first member of each source's own struct */
	const struct capture_ops *ops;
};

extern const struct capture_ops capture_bpf_ops;
/* open(): -EADDRINUSE when another agent serves this run directory. */
extern const struct capture_ops capture_preload_ops;

#endif
