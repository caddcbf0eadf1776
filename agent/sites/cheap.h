/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cheap: instructions of a function that cost little to probe, and that tell as much as its first
 * instruction and its return do. Machine code in (foreign: any bytes), places out. Kernels emulate
 * a few instructions in place and single-step all others, with a second exception: ten times the
 * price. x86-64 only; elsewhere nothing is found.
 *
 * Where a probe lies is a matter of price alone: what is not certain is not taken.
 */
#ifndef SSLC_AGENT_CHEAP_H
#define SSLC_AGENT_CHEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CHEAP_FUNCTION 4096 /* bytes: of a longer one nothing is said */
#define CHEAP_EXITS    4
#define CHEAP_FIRST                                                                                \
	20 /* bytes: endbr64 and one instruction at most, when the size is not known               \
	    */

/* A place in the function. */
struct cheap_place {
	uint32_t at; /* offset of the instruction in code[] */
	uint32_t sp; /* bytes that the stack pointer is below where it was at the first instruction
		      */
};

struct cheap_places {
	struct cheap_place entry;
	struct cheap_place exit[CHEAP_EXITS]; /* CHEAP_PAIR */
	unsigned n_exits;
	const char *why; /* static: why it is no pair and no CHEAP_RETURN; NULL when it is */
};

enum cheap_kind {
	CHEAP_NOTHING,
	CHEAP_ENTRY,  /* an entry, and no exits */
	CHEAP_RETURN, /* the same, and a return probe may be placed there, too: sp is 0 */
	CHEAP_PAIR,   /* an entry and exits */
};

/**
 * The entry is an instruction that each call passes once, before anything else is done, with the
 * first `args` integer arguments still in their registers. Of the exits each call that returns
 * passes exactly one, with the result in its place. Return probes and exits cost the same: exits
 * are looked for only where no return probe can be.
 *
 * code   a function, which is entered at code[0] only.
 * len    its size in bytes; 0: not known, then code[] has CHEAP_FIRST bytes and nothing behind the
 *        first instruction (or endbr64 and the second) is looked at.
 */
enum cheap_kind cheap_find(const uint8_t *code, size_t len, unsigned args,
			   struct cheap_places *out);
#define CHEAP_INSTRUCTION 15 /* bytes of the longest */
/** Whether code[], CHEAP_INSTRUCTION bytes, begins with an instruction that kernels emulate. */
bool cheap_is(const uint8_t *code);
/** The instruction at the beginning of code[], which lies at `at`, for people; else "?". */
void cheap_describe(const uint8_t *code, size_t len, uint64_t at, char *out, size_t room);

#endif
