/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ring: the one way out. Whoever has filled an event hands it over here, and the reader is woken
 * when it is worth it. Each function takes the flow, 0 for what goes by process: they say which
 * ring it is, as proto/ring.h has it. ts_ns is read before ring_reserve(). What does not fit is
 * counted by the caller.
 */
#ifndef SSLC_BPF_RING_H
#define SSLC_BPF_RING_H

struct ring_map {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 << 20); /* set again at load */
} events SEC(".maps");

/* `events`, and those that the agent has made; nobody looks when there is one. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, SSLC_RINGS_MAX);
	__uint(key_size, sizeof(__u32));
	__array(values, struct ring_map);
} more_events SEC(".maps");

/* Set by the agent before load: how many, and the size of each. Where there is one the verifier
 * takes out all that would choose. */
const volatile __u32 n_rings = 1;
const volatile __u64 ring_bytes = 64 << 20;

const volatile __u32 shed_how = SSLC_SHED_NEWEST;

/* Shared with the agent's reader. */
struct sslc_rings rings = {.ring = {[0 ... SSLC_RINGS_MAX - 1] = {.line = SSLC_SHED_ABOVE}}};

static __always_inline __u32 ring_number(__u64 flow)
{
	if (n_rings == 1)
		return 0;
	return sslc_ring_number(flow ? flow : bpf_get_current_pid_tgid() >> 32, n_rings);
}

/* A map; NULL cannot be. */
static __always_inline void *ring_map(__u64 flow)
{
	__u32 number;

	if (n_rings == 1)
		return &events;
	number = ring_number(flow);
	return bpf_map_lookup_elem(&more_events, &number);
}

static __always_inline struct sslc_ring *ring_state(__u64 flow)
{
	__u32 number = ring_number(flow);

	barrier_var(number); /* 5.10 forgets its bound */
	return &rings.ring[number & (SSLC_RINGS_MAX - 1)];
}

/* Bytes in it. */
static __always_inline __u64 ring_fill(__u64 flow)
{
	void *map = ring_map(flow);

	return map ? bpf_ringbuf_query(map, BPF_RB_AVAIL_DATA) : 0;
}

static __always_inline void *ring_reserve(__u64 flow, __u64 size)
{
	void *map = ring_map(flow);

	return map ? bpf_ringbuf_reserve(map, size, 0) : NULL;
}

/* The flags with which an event is submitted, when room was taken for it and so much is in use. */
static __always_inline __u64 ring_wake_at(__u64 flow, __u64 fill)
{
	struct sslc_ring *r = ring_state(flow);

	if (fill > r->high)
		r->high = fill;
	if (!sslc_ring_wakes(*(volatile __u32 *)&rings.reader, fill, ring_bytes))
		return BPF_RB_NO_WAKEUP;
	*(volatile __u32 *)&rings.reader = SSLC_READER_AWAKE;
	return BPF_RB_FORCE_WAKEUP;
}

static __always_inline void ring_submit(__u64 flow, void *ev)
{
	bpf_ringbuf_submit(ev, ring_wake_at(flow, ring_fill(flow)));
}

static __always_inline long ring_output(__u64 flow, void *ev, __u64 size)
{
	void *map = ring_map(flow);

	return map ? bpf_ringbuf_output(map, ev, size, ring_wake_at(flow, ring_fill(flow))) : -1;
}

/* No room for data, whoever's they are. */
static __always_inline bool ring_is_full_at(__u64 fill)
{
	return fill >= SSLC_RING_DATA_MAX(ring_bytes);
}

static __always_inline bool ring_is_full(__u64 flow)
{
	return ring_is_full_at(ring_fill(flow));
}

/* Global, for a stack frame of its own. */
__noinline int ring_judge(__u64 flow, __u64 fill)
{
	return sslc_shed_judge(ring_state(flow), sslc_shed_rank(flow, shed_how), fill, ring_bytes,
			       bpf_ktime_get_ns());
}

/* Whether a connection that moves bytes now is given up. */
static __always_inline bool ring_sheds(__u64 flow, __u64 fill)
{
	return shed_how != SSLC_SHED_NONE &&
	       !sslc_shed_is_calm(ring_state(flow), fill, ring_bytes) && ring_judge(flow, fill);
}

#endif
