/* SPDX-License-Identifier: Apache-2.0 */
/*
 * x86code: what a function does before it first hands control on. Machine code in (foreign: any
 * bytes), the calls and jumps that its paths end in out, with what is known of the arguments there.
 * x86-64 only; elsewhere every function answers -ENOTSUP.
 */
#ifndef SSLC_AGENT_X86CODE_H
#define SSLC_AGENT_X86CODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define X86CODE_ARGS     6   /* in registers: System V ABI, x86-64, 3.2.3 */
#define X86CODE_EXITS    16  /* of one function, more are -E2BIG: far above what a wrapper has */
#define X86CODE_FUNCTION 512 /* bytes that are worth reading: wrappers are shorter */

enum x86code_kind {
	X86CODE_UNKNOWN,
	X86CODE_ARG,     /* an argument of the function itself, unchanged */
	X86CODE_ARG_INT, /* its lower 32 bits, extended */
	X86CODE_FRAME,   /* an address in the function's stack frame */
	X86CODE_ZERO,
};

struct x86code_value {
	uint8_t kind; /* enum x86code_kind */
	uint8_t arg;  /* which one, counted from 0; else 0 */
};

enum x86code_way {
	X86CODE_END,  /* returns, or does what cannot be followed */
	X86CODE_CALL, /* the return address is in the function */
	X86CODE_JUMP, /* out of the function: a tail call, or a part of it that lies elsewhere */
};

struct x86code_exit {
	enum x86code_way way;
	uint64_t target; /* in the terms of `at` */
	struct x86code_value arg[X86CODE_ARGS];
};

/**
 * Follow each path from the first of `len` bytes of code to its first call or way out.
 *
 * at    where code[0] lies, in any terms in which distances are right (address, file offset).
 * out   room for X86CODE_EXITS.
 * Returns how many there are; -E2BIG when there are more, or the paths are too long; -ENOTSUP.
 */
int x86code_exits(const uint8_t *code, size_t len, uint64_t at, struct x86code_exit out[])
	__attribute__((warn_unused_result));
/**
 * Where the instructions of a whole function of `len` bytes call or jump to outside of it, each
 * place once. at: as above.
 *
 * Returns how many; -E2BIG when there are more than `max`; -EILSEQ when a byte is no instruction or
 * one goes to a computed place; -ENOTSUP.
 */
int x86code_targets(const uint8_t *code, size_t len, uint64_t at, uint64_t out[], size_t max)
	__attribute__((warn_unused_result));
/** Whether an instruction begins at `pos` when all before it are read one after the other. */
bool x86code_begins(const uint8_t *code, size_t len, uint64_t pos);
/**
 * Length of the mark for indirect jumps (endbr64) that the code begins with, 0 when there is none
 * but a valid instruction; -EILSEQ when there is neither; -ENOTSUP.
 */
int x86code_mark(const uint8_t *code, size_t len) __attribute__((warn_unused_result));

#endif
