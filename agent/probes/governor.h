/* SPDX-License-Identifier: Apache-2.0 */
/*
 * governor: which processes lose too much of their CPU time to probes. Decides by numbers; detaches
 * nothing itself.
 */
#ifndef SSLC_AGENT_GOVERNOR_H
#define SSLC_AGENT_GOVERNOR_H

#include <stdbool.h>
#include <stdint.h>

struct governor;

struct governor_conf {
	unsigned percent; /* of a process's CPU time in probes */
	unsigned retry_s; /* how long it is left alone the first time; twice as long each time after
			   */
};

#define GOVERNOR_WINDOWS   3    /* in a row: a burst is no burden */
#define GOVERNOR_IDLE      100  /* less than 1 in so many of a processor: nobody suffers */
#define GOVERNOR_RETRY_MAX 3600 /* seconds */
#define GOVERNOR_CALM_S    600  /* after so long within the limit, the next time is a first one */

/* One process, as it is now. */
struct governor_use {
	unsigned pid;
	uint64_t start_ticks; /* numbers are used again */
	uint64_t probe_ns;    /* CPU time in probes, since any moment */
	uint64_t cpu_ns;      /* all of its CPU time */
};

struct governor_verdict {
	unsigned percent; /* of the CPU time of the last window that went into probes */
	unsigned retry_s; /* how long it is to be left alone */
};

int governor_new(struct governor **out, const struct governor_conf *conf)
	__attribute__((warn_unused_result));
void governor_free(struct governor *g);
/** At the end of each window of about a second, for each process that is probed. True: detach it.
 */
bool governor_window(struct governor *g, const struct governor_use *use, uint64_t now_ns,
		     struct governor_verdict *v);
/** A detached process whose time is over: it is to be probed again. 0: none, or none more. */
unsigned governor_due(struct governor *g, uint64_t now_ns);
/** Detaching it failed: it stays as it is, and is judged again later. */
void governor_keep(struct governor *g, unsigned pid);
/** The process is gone. */
void governor_forget(struct governor *g, unsigned pid);

#endif
