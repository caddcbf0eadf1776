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

#define NORMAL    0         /* SCHED_OTHER */
#define DEADLINE  6         /* SCHED_DEADLINE */
#define RESET     1         /* SCHED_FLAG_RESET_ON_FORK: else such a thread cannot make others */
#define PERIOD_NS NS_PER_MS /* of which it may be without its turn once its share is used up */
#define LEAST_NS  25000     /* a share of a period: less is not worth asking for */
#define SLICE_NS  100000

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

void turn_first(unsigned percent)
{
	struct how how = {.size = sizeof(how),
			  .policy = DEADLINE,
			  .flags = RESET,
			  .runtime_ns = PERIOD_NS * percent / 100,
			  .deadline_ns = PERIOD_NS,
			  .period_ns = PERIOD_NS};

	for (; how.runtime_ns >= LEAST_NS; how.runtime_ns /= 2) {
		if (!syscall(SYS_sched_setattr, 0, &how, 0))
			return;
		if (errno != EBUSY)
			break;
	}
	log_debug("preload: no deadline scheduling: %s", strerror(errno));
	turn_soon();
}
