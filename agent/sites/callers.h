/* SPDX-License-Identifier: Apache-2.0 */
/* callers: from where a function without a symbol is called. Input is foreign: any file. x86-64. */
#ifndef SSLC_AGENT_CALLERS_H
#define SSLC_AGENT_CALLERS_H

#include <stddef.h>
#include <stdint.h>

struct elfview;

struct caller {
	uint64_t call;     /* file offset of the call instruction, 5 bytes */
	uint64_t function; /* that of the function it is in */
};

/**
 * Every direct call of the function at a file offset.
 *
 * Returns how many; -E2BIG when there are more than max; -ENOTSUP when it may be reached in another
 * way, too (a jump, a pointer), or when anything is not certain; -ENOMEM.
 */
int callers_find(const struct elfview *e, uint64_t offset, struct caller out[], size_t max)
	__attribute__((warn_unused_result));

#endif
