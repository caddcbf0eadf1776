/* SPDX-License-Identifier: Apache-2.0 */
/* turn: see turn.h, and sched_setattr(2). */
#include "preloaded/turn.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NORMAL   0 /* SCHED_OTHER */
#define FIFO     1 /* SCHED_FIFO */
#define RESET    1 /* SCHED_FLAG_RESET_ON_FORK: threads that it makes are ordinary ones */
#define LOWEST   1 /* of SCHED_FIFO's priorities: who needs one knows why */
#define SLICE_NS 100000
#define MOST_NS  ((int64_t)(10 * NS_PER_MS)) /* kept of a share that was not used */
#define AGAIN_NS (MOST_NS / 4)               /* so much there must be to come first again */

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
				.flags = RESET,
				.nice = getpriority(PRIO_PROCESS, 0),
				.runtime_ns = SLICE_NS};

	(void)syscall(SYS_sched_setattr, 0, &how, 0);
}

static bool come_first(void)
{
	const struct how how = {
		.size = sizeof(how), .policy = FIFO, .flags = RESET, .priority = LOWEST};

	return !syscall(SYS_sched_setattr, 0, &how, 0);
}

static uint64_t used_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

bool turn_count(struct turn *t, uint64_t now_ns, uint64_t used)
{
	uint64_t more_ns = now_ns - t->since_ns < NS_PER_S ? now_ns - t->since_ns : NS_PER_S;

	t->left_ns += (int64_t)(more_ns * t->percent / 100) - (int64_t)(used - t->used_ns);
	if (t->left_ns > MOST_NS)
		t->left_ns = MOST_NS;
	if (t->left_ns < -MOST_NS) /* one long look is not held against it for ever */
		t->left_ns = -MOST_NS;
	t->since_ns = now_ns;
	t->used_ns = used;
	return t->left_ns > (t->is_first ? 0 : AGAIN_NS);
}

void turn_begin(struct turn *t, unsigned percent)
{
	*t = (struct turn){.percent = percent,
			   .since_ns = clock_mono_ns(),
			   .used_ns = used_ns(),
			   .left_ns = MOST_NS};
	(void)turn_over(t);
}

uint64_t turn_over(struct turn *t)
{
	bool is_first;

	if (t->is_refused)
		return 0;
	is_first = turn_count(t, clock_mono_ns(), used_ns());
	if (is_first && !t->is_first && !come_first()) {
		log_debug("preload: no real-time scheduling: %s", strerror(errno));
		t->is_refused = true;
		is_first = false;
		turn_soon();
	} else if (!is_first && t->is_first) {
		turn_soon();
	}
	t->is_first = is_first;
	if (is_first || t->is_refused)
		return 0;
	return (uint64_t)(AGAIN_NS - t->left_ns) * 100 / t->percent + 1;
}
