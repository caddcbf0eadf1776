/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause OR Apache-2.0 */
/*
 * ring: what the kernel half and the reader of its ring buffer agree on: when a wake-up is worth
 * its price, and which connections are given up when the reader cannot keep up. Host-local; shared
 * memory between bpf/ and agent/. Needs __u32, __u64 from <linux/types.h> or bpf/types.h. Plain
 * functions of their arguments: tests/unit/test_ring.c.
 *
 * There are one or several ring buffers. Which one an event goes into:
 *
 * - By connection: what is told of a flow that is known, OPEN, DATA, BIND, SOCK, GAP, EARLY, CLEAR,
 *   LOST. Whoever tells a state that changes in an interrupt, or what a child does that goes on
 *   with its parent's socket, needs to know nothing but the flow.
 * - By process: what has no flow yet, DATA, EARLY, CALL; and WIRE, because its place among its
 *   thread's calls says which connection an object without a socket uses.
 *
 * What stands in one ring stands in the order in which room was taken for it. The reader merges
 * several by the events' ts_ns, and hands on what is in them in an order that a single ring could
 * have had: an event for which room was taken before another one's ts_ns was read comes before it,
 * whichever rings they are in. Whatever an event's program could know of is older than its ts_ns.
 * Why this holds:
 *
 * - ts_ns is read before room is taken, from a clock that is the same on all processors and does
 *   not go back. So whatever stands before an event in its own ring has a ts_ns that is older than
 *   the event's room, and the ring's next event is never the one that keeps it back.
 * - The reader works in rounds. It looks how far each ring has come, and then once more at each.
 *   It hands on the one with the least ts_ns of all rings' next events, again and again, until
 *   nothing is left of what it saw at the first look. So none of a round was stamped after the
 *   first look, and for all that is older room had been taken before the second.
 * - An event that is still being written holds all others back, as in a single ring.
 *
 * No clock of the reader's takes part. What several rings cost is that their memory cannot be lent
 * to the one that needs it. See agent/rings.h and tests/unit/test_rings.c.
 */
#ifndef SSLC_RING_H
#define SSLC_RING_H

/*
 * What the reader does now. It says so before it goes to rest; whoever wakes it says AWAKE, so that
 * one wake-up a rest is paid, not one an event.
 */
enum sslc_reader {
	SSLC_READER_AWAKE = 0,  /* it looks into the ring by itself: never woken */
	SSLC_READER_NAPS = 1,   /* it will look within milliseconds: woken when the ring fills */
	SSLC_READER_SLEEPS = 2, /* there was nothing for a while: woken by the next event */
};

#define SSLC_SHED_SAMPLES 8

#define SSLC_RINGS_MAX 8 /* a power of two, as their number is */

/* Of one ring. */
struct sslc_ring {
	__u64 high; /* most bytes that were in it at once */
	__u64 pad[7];
	/* Shedding; of the kernel half alone. Several CPUs write here without a lock: what may come
	 * of it is a step too many or too few. */
	__u64 line;    /* connections of this rank and above are shed */
	__u64 mark;    /* bytes in the ring at which the line moves next; 0: at first */
	__u64 step_ns; /* when it last moved */
	__u64 shed_ns; /* when a connection was last shed */
	__u64 sample[SSLC_SHED_SAMPLES]; /* ranks of connections that moved bytes lately; 0: none */
	__u64 pad2[4];
};

struct sslc_rings {
	__u32 reader; /* enum sslc_reader, of all rings; both sides write it */
	__u32 pad[15];
	struct sslc_ring ring[SSLC_RINGS_MAX];
};
_Static_assert(sizeof(struct sslc_ring) % 64 == 0, "a ring's words share no cache line");

/* Which of n rings. by: a flow, or a process. Not the bits by which sslc_shed_judge() samples. */
static inline __u32 sslc_ring_number(__u64 by, __u32 n)
{
	return (by * 0x9e3779b97f4a7c15ull) >> 58 & (n - 1);
}

/* A nap ends early when this share of the ring is in use. */
#define SSLC_RING_WAKE(size) ((size) / 8)

/* Whether an event wakes the reader. fill, size: bytes in the ring, and its room. */
static inline int sslc_ring_wakes(__u32 reader, __u64 fill, __u64 size)
{
	if (reader == SSLC_READER_SLEEPS)
		return 1;
	return reader == SSLC_READER_NAPS && fill >= SSLC_RING_WAKE(size);
}

/*
 * Shedding, in each ring on its own: connections as wholes, instead of pieces of all. Connections
 * have a rank, and those at and above a line are shed. The line stands above all; from the time
 * when three quarters of the ring are in use it comes down by one step for each further 1/128, but
 * only once in a millisecond, in which the last step shows what it was good for. A step goes to the
 * highest rank among those that moved bytes lately: about a ninth of the connections below the
 * line. When only a quarter is in use the line goes up again. A connection that was shed stays so
 * until none was for SSLC_SHED_REST_NS: then it goes on, behind a gap of exact size.
 */
enum sslc_shed {
	SSLC_SHED_NEWEST = 0,
	SSLC_SHED_OLDEST = 1,
	SSLC_SHED_NONE = 2, /* whatever does not fit is lost: holes in any connection */
};

#define SSLC_SHED_ABOVE       (~0ull) /* the line's place when nothing is shed */
#define SSLC_SHED_REST_NS     2000000000ull
#define SSLC_SHED_STEP_NS     1000000ull
#define SSLC_SHED_CALM(size)  ((size) / 4)
#define SSLC_SHED_LOOK(size)  ((size) / 2) /* from here on samples are taken */
#define SSLC_SHED_BEGIN(size) ((size) / 4 * 3)
#define SSLC_SHED_STEP(size)  ((size) / 128)
/* Above it only connections' opening and closing go in, so that those are not lost. */
#define SSLC_RING_DATA_MAX(size) ((size) / 16 * 15)

/* flow: its birth, in units that only grow (see next_flow() in bpf/maps.bpf.h). */
static inline __u64 sslc_shed_rank(__u64 flow, enum sslc_shed how)
{
	return how == SSLC_SHED_OLDEST ? ~flow : flow;
}

/* Whether the policy has nothing to say: so it is nearly always. */
static inline int sslc_shed_is_calm(const struct sslc_ring *r, __u64 fill, __u64 size)
{
	return fill < SSLC_SHED_CALM(size) && r->line == SSLC_SHED_ABOVE;
}

static inline void sslc_shed_reset(struct sslc_ring *r)
{
	r->line = SSLC_SHED_ABOVE;
	r->mark = 0;
	for (int i = 0; i < SSLC_SHED_SAMPLES; i++)
		r->sample[i] = 0;
}

static inline void sslc_shed_step(struct sslc_ring *r)
{
	__u64 best = 0, line = r->line;

	for (int i = 0; i < SSLC_SHED_SAMPLES; i++)
		if (r->sample[i] < line && r->sample[i] > best)
			best = r->sample[i];
	if (best)
		r->line = best;
}

/*
 * A connection that is not shed yet moves bytes while `fill` of the ring's `size` bytes are in use:
 * whether it is shed from now on.
 */
static inline int sslc_shed_judge(struct sslc_ring *r, __u64 rank, __u64 fill, __u64 size,
				  __u64 now_ns)
{
	if (fill < SSLC_SHED_CALM(size)) {
		sslc_shed_reset(r);
		return 0;
	}
	if (rank >= r->line)
		return 1;
	if (fill < SSLC_SHED_LOOK(size))
		return 0;
	r->sample[(rank * 0x9e3779b97f4a7c15ull) >> 61] = rank;
	if (fill >= (r->mark ? r->mark : SSLC_SHED_BEGIN(size)) &&
	    now_ns - r->step_ns >= SSLC_SHED_STEP_NS) {
		r->mark = fill + SSLC_SHED_STEP(size);
		r->step_ns = now_ns;
		sslc_shed_step(r);
	}
	return rank >= r->line;
}

#endif
