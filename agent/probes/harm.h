/* SPDX-License-Identifier: Apache-2.0 */
/* harm: would our probes hurt a program? Found out by experiment on a child of our own. */
#ifndef SSLC_AGENT_HARM_H
#define SSLC_AGENT_HARM_H

#include <stdbool.h>
#include <stdint.h>

/**
 * Whether programs may have shadow stacks here, by the flags of a file like /proc/cpuinfo; true
 * when it cannot be read. A call instruction with a probe on it is emulated, and no kernel is known
 * to put it on the shadow stack, too: its return would kill the program.
 */
bool harm_has_shadow_stacks(const char *cpuinfo);
/** A function that does nothing, for a return probe to be placed on. */
int harm_canary(void);
/** Where it lies in /proc/self/exe: file offset, or 0 when that cannot be told. */
uint64_t harm_canary_offset(void);
/* Two more: the first instruction of one is emulated by kernels that have a probe on it, that of
 * the other is single-stepped. */
int harm_emulated(void);
int harm_stepped(void);
uint64_t harm_emulated_offset(void);
uint64_t harm_stepped_offset(void);
/**
 * Call fn in a child whose seccomp filter kills it for any system call but exit. From 6.11 on
 * x86-64 a probed return is a system call of its own, which such filters did not let pass until the
 * kernel was mended: sandboxed programs died of a return probe. Distributions mended older versions
 * too, so only an experiment tells. 1: it lives; 0: it was killed; -errno when there could be no
 * child.
 */
int harm_sandboxed_survives(int (*fn)(void)) __attribute__((warn_unused_result));

/* A child with a second thread, which calls what it is told to. */
struct harm_threaded {
	int pid;
	unsigned tid; /* of the second thread, once it has called the canary */
	int to, from; /* pipes; owned */
};
/** 0 or -errno. */
int harm_threaded_start(struct harm_threaded *c) __attribute__((warn_unused_result));
/** The canary. Returns when the call is over; the thread lives on. 0 or -errno. */
int harm_threaded_call(struct harm_threaded *c) __attribute__((warn_unused_result));
#define HARM_CALLS 2048
/** HARM_CALLS calls of harm_emulated() or harm_stepped(): ns of one. 0 or -errno. */
int harm_threaded_time(const struct harm_threaded *c, bool stepped, double *ns)
	__attribute__((warn_unused_result));
void harm_threaded_stop(struct harm_threaded *c);

#endif
