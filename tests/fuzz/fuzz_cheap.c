/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: any bytes as a function for agent/sites/cheap.c. It ends, stays in its bounds, and
 * what it finds are instructions that kernels emulate.
 */
#include "sites/cheap.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* By the first byte, with REX.B and the two-byte conditional jumps. */
static bool is_emulated(const uint8_t *c, size_t left)
{
	if (left > 1 && c[0] == 0x41)
		return (c[1] & 0xf8) == 0x50;
	if (left > 1 && c[0] == 0x0f)
		return (c[1] & 0xf0) == 0x80;
	return (c[0] & 0xf8) == 0x50 || (c[0] & 0xf0) == 0x70 || c[0] == 0x90 || c[0] == 0xe9 ||
	       c[0] == 0xeb;
}

static void check(const uint8_t *code, size_t len, const struct cheap_place *p)
{
	if (p->at >= len || !is_emulated(code + p->at, len - p->at))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t room[CHEAP_FIRST] = {0};
	struct cheap_places p;
	enum cheap_kind kind;
	char text[96];

	if (size < CHEAP_FIRST) { /* a function of unknown size has that many bytes to look at */
		if (size)
			memcpy(room, data, size);
		(void)cheap_find(room, 0, 4, &p);
		return 0;
	}
	kind = cheap_find(data, size, 4, &p);
	cheap_describe(data, size, 0, text, sizeof(text));
	if (kind == CHEAP_NOTHING) {
		if (!p.why)
			abort();
		return 0;
	}
	check(data, size, &p.entry);
	if ((kind == CHEAP_RETURN && p.entry.sp) || (kind == CHEAP_PAIR && !p.n_exits) ||
	    p.n_exits > CHEAP_EXITS)
		abort();
	for (unsigned i = 0; kind == CHEAP_PAIR && i < p.n_exits; i++)
		check(data, size, &p.exit[i]);
	return 0;
}
