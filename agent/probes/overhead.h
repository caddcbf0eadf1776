/* SPDX-License-Identifier: Apache-2.0 */
/*
 * overhead: keeps what probes cost a process within a limit. Measures, asks the governor, and takes
 * probes off single processes and puts them on again.
 */
#ifndef SSLC_AGENT_OVERHEAD_H
#define SSLC_AGENT_OVERHEAD_H

#include <stdbool.h>
#include <stdint.h>

#include "probes/governor.h"

struct attach;
struct libwatch;
struct overhead;

#define OVERHEAD_MAX 256 /* processes without probes at the same time */

struct overhead_conf {
	struct governor_conf limits;
	struct attach *attach;  /* borrowed */
	struct libwatch *watch; /* borrowed; overhead_changed() is made to hear from it */
	void (*changed)(void *ctx, unsigned pid, uint64_t ino);
	/* Placing probes and taking them off takes the kernel some time: begins, is over. */
	void (*aside)(void *ctx, bool begins);
	int hitters_fd; /* the map of struct sslc_hits; borrowed */
	/* Its probes are gone. What it did before since_ns (monotonic) was seen. */
	void (*detached)(void *ctx, unsigned pid, uint64_t start_ticks, uint64_t since_ns,
			 const struct governor_verdict *why);
	/* It has probes again since until_ns: what has begun before was not seen in full. */
	void (*attached)(void *ctx, unsigned pid, uint64_t start_ticks, uint64_t until_ns);
	/* A process that was detached once is gone. */
	void (*gone)(void *ctx, unsigned pid, uint64_t start_ticks);
	void *ctx;
};

int overhead_new(struct overhead **out, const struct overhead_conf *conf)
	__attribute__((warn_unused_result));
void overhead_free(struct overhead *o);
/** About once a second. */
void overhead_tick(struct overhead *o, uint64_t now_ns);
/** From libwatch: a process is new, or has mapped a file. */
void overhead_changed(struct overhead *o, unsigned pid, uint64_t ino);

#endif
