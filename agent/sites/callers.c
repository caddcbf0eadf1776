/* SPDX-License-Identifier: Apache-2.0 */
/*
 * callers: an ELF file and a function in it in, the calls of that function out. Looks at all the
 * file's code for a distance that leads there, and at all its bytes for the address: what refers to
 * the function in any other way than by a call ends the search.
 */
#include "sites/callers.h"

#include "sites/elfframe.h"
#include "sites/elfview.h"
#include "sites/x86code.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define FILE_MAX (16u << 20) /* read as a whole; TLS libraries have some MiB */
#define CALL     0xe8        /* call with a distance of 4 bytes */

struct search {
	const struct elfview *e;
	const uint8_t *bytes;  /* the whole file */
	uint64_t offset, addr; /* of the function */
	struct caller *out;
	size_t n, max;
};

/* Relocations and pointers hold the address as 8 bytes, aligned. */
static bool has_pointer(const struct search *s)
{
	for (uint64_t at = 0; at + 8 <= s->e->size; at += 8)
		if (!memcmp(s->bytes + at, &s->addr, 8))
			return true;
	return false;
}

/* Whether an instruction of the function around it begins there. */
static bool is_instruction(const struct search *s, uint64_t at, uint64_t *function)
{
	uint64_t size = elfframe_around(s->e, at, function);

	return size && *function <= s->e->size && size <= s->e->size - *function &&
	       x86code_begins(s->bytes + *function, size, at - *function);
}

static int take(struct search *s, uint64_t at)
{
	uint64_t function;

	if (!at || s->bytes[at - 1] != CALL || !is_instruction(s, at - 1, &function))
		return -ENOTSUP;
	if (s->n == s->max)
		return -E2BIG;
	s->out[s->n++] = (struct caller){.call = at - 1, .function = function};
	return 0;
}

/* A jump whose distance is the byte at `at` (the opcodes: jcc, loops, jmp). */
static bool is_short_jump(const struct search *s, uint64_t at)
{
	uint8_t op = s->bytes[at - 1];

	return ((op & 0xf0) == 0x70 || (op & 0xfc) == 0xe0 || op == 0xeb) &&
	       at + 1 + (uint64_t)(int64_t)(int8_t)s->bytes[at] == s->offset;
}

/* From the code around the function; what it does inside itself are no calls. */
static bool has_short_jump(const struct search *s)
{
	uint64_t size = elfframe_size(s->e, s->offset);
	uint64_t from = s->offset > 256 ? s->offset - 256 : 1, to = s->offset + 256;

	for (uint64_t at = from; at < to && at < s->e->size; at++)
		if ((at < s->offset || at >= s->offset + size) && is_short_jump(s, at))
			return true;
	return !size;
}

/* Each place of one executable segment whose 4 bytes are the distance to the function. A distance
 * of 0 is that of any four zeros that happen to lie in front of it. */
static int search_segment(struct search *s, const Elf64_Phdr *ph)
{
	uint64_t from = ph->p_offset, to = ph->p_filesz;
	int err = 0;

	if (from > s->e->size)
		return -ENOTSUP;
	to = from + (to < s->e->size - from ? to : s->e->size - from);
	for (uint64_t at = from; at + 4 <= to && !err; at++) {
		uint64_t next = at - ph->p_offset + ph->p_vaddr + 4;
		int32_t distance;

		memcpy(&distance, s->bytes + at, sizeof(distance));
		if (distance && next + (uint64_t)(int64_t)distance == s->addr)
			err = take(s, at);
	}
	return err;
}

static int search(struct search *s)
{
	int err = has_pointer(s) || has_short_jump(s) ? -ENOTSUP : 0;

	for (size_t i = 0; i < s->e->n_ph && !err; i++)
		if (s->e->ph[i].p_type == PT_LOAD && s->e->ph[i].p_flags & PF_X)
			err = search_segment(s, &s->e->ph[i]);
	return err ? err : (int)s->n;
}

int callers_find(const struct elfview *e, uint64_t offset, struct caller out[], size_t max)
{
	struct search s = {.e = e, .offset = offset, .out = out, .max = max};
	uint8_t *bytes;
	int n;

	if (!elfview_addr(e, offset, &s.addr) || e->size > FILE_MAX)
		return -ENOTSUP;
	bytes = elfview_load(e, 0, e->size);
	if (!bytes)
		return -ENOMEM;
	s.bytes = bytes;
	n = search(&s);
	free(bytes);
	return n;
}
