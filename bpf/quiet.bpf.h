/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * quiet: what lets most socket operations pass without looking anything up. Two tables of one word
 * a place, in which whoever comes later takes the place of others: what is not found there costs
 * time and nothing else.
 *
 * A thread is quiet while it is in no TLS call and none of its objects is without a connection
 * (calls.loose_ns). Only the thread itself says that it is, and takes it back before it is not any
 * more. A socket is settled for a process while it is WIRE_BOUND by it: a child that goes on with
 * it has an object of its own, which nobody has met yet. What such a thread does with such a socket
 * is nobody's business.
 */
#ifndef SSLC_BPF_QUIET_H
#define SSLC_BPF_QUIET_H

#define QUIET_SHIFT 52
#define QUIET_SLOTS (1u << (64 - QUIET_SHIFT))

volatile __u64 quiet[QUIET_SLOTS] = {};
volatile __u64 settled[QUIET_SLOTS] = {};

/* Grows with each process that turns out to be Go's: goroutines take their calls from thread to
 * thread, so that none of its threads is quiet any more. */
volatile __u32 quiet_epoch = 1;

static __always_inline __u32 quiet_slot(__u64 v)
{
	return (v * 0x9e3779b97f4a7c15ull) >> QUIET_SHIFT;
}

/* Process and thread numbers have 22 bits (PID_MAX_LIMIT): the epoch is in the others. */
static __always_inline __u64 quiet_word(__u64 tid, __u32 epoch)
{
	return tid ^ (__u64)(epoch & 0x3ff) << 54 ^ (__u64)(epoch >> 10 & 0x3ff) << 22;
}

static __always_inline bool is_quiet(__u64 tid)
{
	return quiet[quiet_slot(tid)] == quiet_word(tid, quiet_epoch);
}

/* epoch: as it was before the thread was looked at. */
static __always_inline void quiet_begins(__u64 tid, __u32 epoch)
{
	quiet[quiet_slot(tid)] = quiet_word(tid, epoch);
}

static __always_inline void quiet_ends(__u64 tid)
{
	quiet[quiet_slot(tid)] = 0;
}

/*
 * Sockets by how far they are from the table. The verifier takes the difference of two pointers for
 * a number, but no pointer for one, nor the difference of a number and a pointer: hence two ways.
 */
static __always_inline __u64 settled_word(const struct sock *sk)
{
	__u64 at = (__u64)sk, base = (__u64)settled;

	barrier_var(at);
	barrier_var(base);
	at -= base;
	barrier_var(at);
	return at;
}

/* Differences of two sockets need no more bits than there is memory: 4 TiB. Process numbers have
 * the other 22. */
#define SETTLED_TGID 42

static __always_inline bool is_settled_socket(const struct sock *sk, __u64 tid)
{
	__u64 word = settled_word(sk);

	return settled[quiet_slot(word)] == (word ^ tid >> 32 << SETTLED_TGID);
}

static __always_inline void settled_begins(const struct sock *sk, __u64 tid)
{
	__u64 word = settled_word(sk);

	settled[quiet_slot(word)] = word ^ tid >> 32 << SETTLED_TGID;
}

/* key: struct sock *, as a number or not. For a stack frame of its own. */
static __noinline void settled_ends(__u64 key)
{
	__u64 base = (__u64)settled, from[2] = {key, base}, to[2] = {}, word;

	if (bpf_probe_read_kernel(to, sizeof(to), from))
		return;
	word = to[0] - to[1];
	if (!((settled[quiet_slot(word)] ^ word) << (64 - SETTLED_TGID))) /* whose ever */
		settled[quiet_slot(word)] = 0;
}

#endif
