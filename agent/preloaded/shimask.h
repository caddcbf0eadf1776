/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shimask: which connections the descriptors are that preloaded processes name, asked at once. A
 * connection may be over within a millisecond, and its records wait for their turn: so threads of
 * its own wait for the rings' bells (proto/shim.h), ask the kernel, and keep the answers until they
 * are wanted. Two of them, on different processors, where there are two: one of these may be busy
 * within the kernel for longer than a connection lasts, or taken from a virtual machine, while the
 * other goes on with the program. They come before all ordinary threads, each for a fifth of one
 * processor's time (turn.h), where the system grants that (CAP_SYS_NICE).
 */
#ifndef SSLC_AGENT_SHIMASK_H
#define SSLC_AGENT_SHIMASK_H

#include <linux/types.h>
#include <stdint.h>

#include "event.h"
#include "preloaded/shimring.h"
#include "preloaded/sockfacts.h"

struct shimask;
struct shimask_seat; /* one process */

/** Starts the threads. isn: copied; asked under a lock. */
int shimask_new(struct shimask **out, const struct sockfacts_isn *isn)
	__attribute__((warn_unused_result));
/** Every seat is empty. Accepts NULL. */
void shimask_free(struct shimask *a);

/** ring, pidfd: borrowed until shimask_leave(). NULL: out of memory. */
struct shimask_seat *shimask_join(struct shimask *a, const struct shimring *ring, int pidfd,
				  uint32_t pid);
/** The process is gone: nothing can be asked any more, the answers are kept. */
void shimask_dead(struct shimask_seat *seat);
/** Accepts NULL. */
void shimask_leave(struct shimask_seat *seat);

/** Ask about what has been named since: of processes that ring no bell. */
void shimask_look(struct shimask *a);
/** What the record's descriptor is: as struct shimflows_conf.take(). */
int shimask_take(struct shimask_seat *seat, const struct sslc_shim_rec *rec,
		 struct sslc_ev_open *out, uint64_t *cookie);

#endif
