/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: any bytes as machine code for agent/sites/x86code.c. It ends, and stays in its
 * bounds. */
#include "sites/x86code.h"

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct x86code_exit out[X86CODE_EXITS];
	int n = x86code_exits(data, size, 0x1000, out), mark = x86code_mark(data, size);

	uint64_t to[4];
	int targets = x86code_targets(data, size, 0x1000, to, 4);

	if (n == -ENOTSUP)
		return 0;
	if (targets > 4 || (targets < 0 && targets != -E2BIG && targets != -EILSEQ))
		abort();
	for (int i = 0; i < targets; i++)
		if (to[i] >= 0x1000 && to[i] - 0x1000 < size)
			abort();
	if (n != -E2BIG && (n < 1 || n > X86CODE_EXITS))
		abort();
	for (int i = 0; i < n; i++)
		for (int k = 0; k < X86CODE_ARGS; k++)
			if (out[i].arg[k].kind > X86CODE_ZERO || out[i].arg[k].arg >= X86CODE_ARGS)
				abort();
	if (mark != 0 && mark != 4 && mark != -EILSEQ)
		abort();
	return 0;
}
