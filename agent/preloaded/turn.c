/* SPDX-License-Identifier: Apache-2.0 */
/* turn: see turn.h, and sched_setattr(2). */
#include "preloaded/turn.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NORMAL     0 /* SCHED_OTHER */
#define DEADLINE   6 /* SCHED_DEADLINE */
#define RESET      1 /* SCHED_FLAG_RESET_ON_FORK: else such a thread cannot make others */
#define PERIOD_NS  (10 * NS_PER_MS)
#define RUNTIME_NS (2 * NS_PER_MS) /* of each period */
#define SLICE_NS   100000

struct how { /* struct sched_attr, its first version */
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime_ns, deadline_ns, period_ns;
};

void turn_soon(void)
{
	const struct how how = {.size = sizeof(how),
				.policy = NORMAL,
				.nice = getpriority(PRIO_PROCESS, 0),
				.runtime_ns = SLICE_NS};

	(void)syscall(SYS_sched_setattr, 0, &how, 0);
}

void turn_first(void)
{
	const struct how how = {.size = sizeof(how),
				.policy = DEADLINE,
				.flags = RESET,
				.runtime_ns = RUNTIME_NS,
				.deadline_ns = PERIOD_NS,
				.period_ns = PERIOD_NS};

	if (!syscall(SYS_sched_setattr, 0, &how, 0))
		return;
	log_debug("preload: no deadline scheduling: %s", strerror(errno));
	turn_soon();
}
