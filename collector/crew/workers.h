/* SPDX-License-Identifier: Apache-2.0 */
/*
 * workers: the threads that forge. Each has a table of sessions, timers and sinks of its own, and
 * takes its parcels from the crew; outputs that can be there only once are shared (sink_shared.h).
 * With one worker there is no thread: whoever calls does the work.
 */
#ifndef SSLC_COLLECTOR_WORKERS_H
#define SSLC_COLLECTOR_WORKERS_H

#include "crew/crew.h"

struct workers;

struct workers_conf { /* all borrowed until workers_close() */
	const struct sink_conf *sinks;
	unsigned n_sinks;
	unsigned n;            /* 1 to CREW_MAX; 0: 1 */
	const char *state_dir; /* what is open at the outputs is written down there */
	size_t max_sessions;   /* of all workers, at the same time; 0: the default */
};

/** One for each processor that this process may use; 1 to CREW_MAX. */
unsigned workers_default(void);
/**
 * Opens the outputs; what an earlier run left open there is ended first. 0, or -errno (logged but
 * -ENOMEM).
 */
int workers_open(struct workers **out, const struct workers_conf *conf) WARN_UNUSED;
/** Before the first frame: from here on what is open is written down, and threads run. 0 or -errno.
 */
int workers_start(struct workers *w) WARN_UNUSED;
/** Where frames go; borrowed. */
struct crew *workers_crew(struct workers *w);
/**
 * When something came in, and when it is time. Of one worker all timers, and a flush. Returns ns
 * until it wants to be called again, at most a second; *second: the once-a-second work is due.
 */
uint64_t workers_round(struct workers *w, bool *second);
/** Files that were moved away are begun anew, within a second. From any thread. */
void workers_reopen(struct workers *w);
/** What was given is forged, what is open is reset; flush, close the sinks. Accepts NULL. */
void workers_close(struct workers *w);

#endif
