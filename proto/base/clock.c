/* SPDX-License-Identifier: Apache-2.0 */
/* clock: see clock.h. The only place that reads clocks. */
#include "clock.h"

#include <time.h>

#define OFFSET_SAMPLES 5 /* one of them is not likely to be interrupted */

static uint64_t read_ns(clockid_t id)
{
	struct timespec ts = {0};

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

uint64_t clock_mono_ns(void)
{
	return read_ns(CLOCK_MONOTONIC);
}

uint64_t clock_wall_ns(void)
{
	return read_ns(CLOCK_REALTIME);
}

int64_t clock_wall_offset_ns(void)
{
	uint64_t best = UINT64_MAX;
	int64_t offset = 0;

	for (int i = 0; i < OFFSET_SAMPLES; i++) {
		uint64_t before = clock_mono_ns();
		uint64_t wall = clock_wall_ns();
		uint64_t window = clock_mono_ns() - before;

		if (window >= best)
			continue;
		best = window;
		offset = (int64_t)(wall - (before + window / 2));
	}
	return offset;
}
