/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trial_steps: a library of this process, watched instruction by instruction. Its code is replaced
 * by a copy that breakpoints can be set in; nobody else's is touched, and probes that lie on the
 * file do not fire here. x86-64 only, one thread only.
 */
#ifndef SSLC_AGENT_TRIAL_STEPS_H
#define SSLC_AGENT_TRIAL_STEPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The state in front of an instruction. */
struct trial_state {
	uint64_t pc;      /* file offset */
	uint64_t reg[16]; /* as instructions number them */
	const uint8_t *code;
};

struct trial_watcher {
	/* While stepping: each instruction of the library. */
	void (*step)(void *ctx, const struct trial_state *s);
	/* While stepping: the library calls out, to an address. */
	void (*out)(void *ctx, uint64_t address, const struct trial_state *s);
	/* A breakpoint. */
	void (*hit)(void *ctx, unsigned which, const struct trial_state *s);
	/* A watched function is entered. */
	void (*enter)(void *ctx, const struct trial_state *s);
	void *ctx;
};

/** Take over the library that holds an address. fd: its file. 0 or -errno. */
int trial_steps_open(const void *inside, int fd, const struct trial_watcher *w)
	__attribute__((warn_unused_result));
/** From the next call into the library until it returns from it, each of its instructions. */
void trial_steps_begin(void);
/** No more of them. */
void trial_steps_end(void);
/**
 * A breakpoint at a file offset, where an instruction lies that trial_steps_cheap() knows. hit()
 * is given their numbers, from 0. 0, -ENOSPC or -EINVAL.
 */
int trial_steps_break(uint64_t offset) __attribute__((warn_unused_result));
#define TRIAL_BREAKS 1024
/** Take it away again. */
void trial_steps_unbreak(uint64_t offset);
/** Watch the function at a file offset. 0, -ENOSPC or -EINVAL. */
int trial_steps_watch(uint64_t offset) __attribute__((warn_unused_result));
void trial_steps_unwatch(uint64_t offset);
/** The library is not running: none of those has been entered. To be told before each call. */
void trial_steps_calm(void);
/** Whether one of those has been entered and not yet left. */
bool trial_steps_is_inside(void);
/** Length of the instruction when it is one of those that are emulated in place, else 0. */
unsigned trial_steps_cheap(const uint8_t *code);

#endif
