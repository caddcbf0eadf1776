/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause OR Apache-2.0 */
/*
 * calls: what a probe's cookie says, and a thread's stack of TLS calls. The kernel half keeps the
 * stack; the agent looks at it when it exchanges probes. Needs __u8 .. __u64, __s32, __s64.
 */
#ifndef SSLC_CALLS_H
#define SSLC_CALLS_H

#define CALL_DEPTH 4 /* a power of two, for the verifier's sake */
#define CALL_MASK  (CALL_DEPTH - 1)
#define MAX_CALLS  16384

/* One TLS call that has been entered and not yet left. */
struct call {
	__u64 sp; /* stack pointer at entry: names the call when it returns */
	__u64 ssl;
	__u64 buf;
	__u64 len;  /* asked for */
	__u64 outp; /* size_t * of the _ex and _ex2 calls */
	__u32 kind; /* enum sslc_call */
	__u32 file; /* number of the probed file; 0: not known */
};

/* A thread's stack of them. Made at the first call, removed at thread exit. */
struct calls {
	__u32 depth;
	__u32 seq;      /* see sslc_ev_wire */
	__u64 loose_ns; /* last time when an object without a connection was called here */
	struct call v[CALL_DEPTH];
};

/*
 * A cookie, since Linux 6.6: which function was called (enum sslc_call, 8 bits); how far below the
 * stack pointer of its first instruction the present one is (32 bits, signed); the number of the
 * file that the probe is on (16 bits, 0: not told); what a hit costs (2 bits, enum sslc_price);
 * whose turn it is, for probes on records (1 bit). The upper 5 bits are free.
 */
#define SSLC_FILES_MAX 0xffffu
/* Files with smaller numbers can have probes on records. */
#define SSLC_RECORD_FILES 256u

enum sslc_price {
	SSLC_PRICE_NONE,
	SSLC_PRICE_EMULATED, /* one exception */
	SSLC_PRICE_STEPPED,  /* two */
	SSLC_PRICE_RETURN,   /* what a return probe adds to an entry's */
	SSLC_PRICES,
};

/* Hits of probes, on one processor. */
struct sslc_tally {
	__u64 entries, exits;
	__u64 ns, samples; /* of those programs that were timed */
};

/* Those of one process, on one processor. */
struct sslc_hits {
	__u64 n, ns; /* exceptions included */
};

static inline __u64 sslc_cookie(__u32 call, __s32 sp, __u32 file, enum sslc_price price)
{
	return (__u64)price << 56 | (__u64)(file & SSLC_FILES_MAX) << 40 | (__u64)(__u32)sp << 8 |
	       (call & 0xff);
}

/* While two probes of a file see a record, the one whose turn it is not does nothing. */
static inline __u64 sslc_cookie_in_turn(__u64 cookie, __u32 turn)
{
	return cookie | (__u64)(turn & 1) << 58;
}

static inline __u32 sslc_cookie_turn(__u64 cookie)
{
	return cookie >> 58 & 1;
}

static inline __u32 sslc_cookie_call(__u64 cookie)
{
	return cookie & 0xff;
}

static inline __s64 sslc_cookie_sp(__u64 cookie)
{
	return (__s64)(cookie << 24) >> 32;
}

static inline enum sslc_price sslc_cookie_price(__u64 cookie)
{
	return (enum sslc_price)(cookie >> 56 & (SSLC_PRICES - 1));
}

static inline __u32 sslc_cookie_file(__u64 cookie)
{
	return cookie >> 40 & SSLC_FILES_MAX;
}

#endif
