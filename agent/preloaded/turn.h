/* SPDX-License-Identifier: Apache-2.0 */
/* turn: when the calling thread gets a processor that others want, too. */
#ifndef SSLC_AGENT_TURN_H
#define SSLC_AGENT_TURN_H

#include <stdbool.h>
#include <stdint.h>

/** Little at a time, and soon: since Linux 6.12 that can be asked for without taking more. */
void turn_soon(void);

/**
 * A thread that comes before all ordinary ones (SCHED_FIFO, CAP_SYS_NICE), for a share of one
 * processor's time; while it wants more it is an ordinary one, which waits for its turn as
 * turn_soon() says and is not stopped.
 */
struct turn {
	unsigned percent;
	bool is_first, is_refused;  /* by the system: it is ordinary for good */
	uint64_t since_ns, used_ns; /* the last look's time, and CPU time of the thread by then */
	int64_t left_ns;            /* of its share: CPU time that it may use at once */
};

/** percent: of one processor. Of the calling thread, which alone may use it. */
void turn_begin(struct turn *t, unsigned percent);
/**
 * Before each wait. Returns for how many ns the wait may last at most, so that the thread comes
 * first again in time; 0: for ever.
 */
uint64_t turn_over(struct turn *t);

/** The share's account alone, for tests: at now_ns the thread had used so much. True: first. */
bool turn_count(struct turn *t, uint64_t now_ns, uint64_t used_ns);

#endif
