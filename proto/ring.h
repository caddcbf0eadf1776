/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause OR Apache-2.0 */
/*
 * ring: what the kernel half and the reader of its ring buffer agree on: when a wake-up is worth
 * its price. Host-local; shared memory between bpf/ and agent/. Needs __u32, __u64 from
 * <linux/types.h> or bpf/types.h. Plain functions of their arguments: tests/unit/test_ring.c.
 *
 * There is one ring buffer, so all events stand in it in the order in which room was taken for
 * them. Of one thread, of one TLS object and of one connection that is their own order; a lock of
 * some 30 ns guards it, inside of calls that cost microseconds to observe. Several rings would need
 * a rule by which a socket's end, told in interrupts, and the data of processes that share the
 * socket after fork(2) land in one of them, and the memory could not be lent to who needs it.
 */
#ifndef SSLC_RING_H
#define SSLC_RING_H

/*
 * What the reader does now. It says so before it goes to rest; whoever wakes it says AWAKE, so that
 * one wake-up a rest is paid, not one an event.
 */
enum sslc_reader {
	SSLC_READER_AWAKE = 0,  /* it looks into the ring by itself: never woken */
	SSLC_READER_NAPS = 1,   /* it will look within a millisecond: woken when the ring fills */
	SSLC_READER_SLEEPS = 2, /* there was nothing for a while: woken by the next event */
};

struct sslc_ring {
	__u32 reader; /* enum sslc_reader; both sides write it */
	__u32 pad[15];
	__u64 high; /* most bytes that were in the ring at once, since it was last set to 0 */
	__u64 pad2[7];
};

/* A nap ends early when this share of the ring is in use. */
#define SSLC_RING_WAKE(size) ((size) / 8)

/* Whether an event wakes the reader. fill, size: bytes in the ring, and its room. */
static inline int sslc_ring_wakes(__u32 reader, __u64 fill, __u64 size)
{
	if (reader == SSLC_READER_SLEEPS)
		return 1;
	return reader == SSLC_READER_NAPS && fill >= SSLC_RING_WAKE(size);
}

#endif
