/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ring: the one way out. Whoever has filled an event hands it over here, and the reader is woken
 * when it is worth it: see proto/ring.h. What does not fit is counted by the caller.
 */
#ifndef SSLC_BPF_RING_H
#define SSLC_BPF_RING_H

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 << 20); /* set again at load */
} events SEC(".maps");

/* Set by the agent before load: the ring's size. */
const volatile __u64 ring_bytes = 64 << 20;

const volatile __u32 shed_how = SSLC_SHED_NEWEST;

/* Shared with the agent's reader. */
struct sslc_ring ring = {.line = SSLC_SHED_ABOVE};

/* Bytes in it. */
static __always_inline __u64 ring_fill(void)
{
	return bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA);
}

/* The flags with which an event is submitted, when room was taken for it and so much is in use. */
static __always_inline __u64 ring_wake_at(__u64 fill)
{
	if (fill > ring.high)
		ring.high = fill;
	if (!sslc_ring_wakes(*(volatile __u32 *)&ring.reader, fill, ring_bytes))
		return BPF_RB_NO_WAKEUP;
	*(volatile __u32 *)&ring.reader = SSLC_READER_AWAKE;
	return BPF_RB_FORCE_WAKEUP;
}

static __always_inline __u64 ring_wake(void)
{
	return ring_wake_at(ring_fill());
}

static __always_inline void ring_submit(void *ev)
{
	bpf_ringbuf_submit(ev, ring_wake());
}

/* No room for data, whoever's they are. */
static __always_inline bool ring_is_full_at(__u64 fill)
{
	return fill >= SSLC_RING_DATA_MAX(ring_bytes);
}

static __always_inline bool ring_is_full(void)
{
	return ring_is_full_at(ring_fill());
}

/* Global, for a stack frame of its own. */
__noinline int ring_judge(__u64 flow, __u64 fill)
{
	return sslc_shed_judge(&ring, sslc_shed_rank(flow, shed_how), fill, ring_bytes,
			       bpf_ktime_get_ns());
}

/* Whether a connection that moves bytes now is given up. */
static __always_inline bool ring_sheds(__u64 flow, __u64 fill)
{
	return shed_how != SSLC_SHED_NONE && !sslc_shed_is_calm(&ring, fill, ring_bytes) &&
	       ring_judge(flow, fill);
}

#endif
