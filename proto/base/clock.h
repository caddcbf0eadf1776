/* SPDX-License-Identifier: Apache-2.0 */
/* clock: time in nanoseconds. */
#ifndef SSLC_BASE_CLOCK_H
#define SSLC_BASE_CLOCK_H

#include <stdint.h>

#define NS_PER_MS 1000000ull
#define NS_PER_S  1000000000ull

/** CLOCK_MONOTONIC: what bpf_ktime_get_ns() reads. */
uint64_t clock_mono_ns(void);
/** CLOCK_REALTIME, Unix epoch. */
uint64_t clock_wall_ns(void);
/** wall - mono, sampled with the smallest of a few windows: add it to a monotonic stamp. */
int64_t clock_wall_offset_ns(void);

#endif
