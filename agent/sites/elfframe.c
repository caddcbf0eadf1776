/* SPDX-License-Identifier: Apache-2.0 */
/*
 * elfframe: an ELF file in, the extent of one function out. Reads the sorted table of
 * .eh_frame_hdr by a few small reads; nothing is believed that the entry found does not repeat.
 */
#include "sites/elfframe.h"

#include "sites/elfview.h"

#include <stdbool.h>

/* .eh_frame_hdr as linkers write it: other encodings are refused. */
#define HDR_VERSION       1
#define PCREL_SDATA4      0x1b
#define UDATA4            0x03
#define DATAREL_SDATA4    0x3b
#define FUNCTION_SIZE_MAX (1u << 20)

struct header {
	uint8_t version, frame_enc, count_enc, table_enc;
	int32_t frame;
	uint32_t count;
};
_Static_assert(sizeof(struct header) == 12, "as it is in the file");

/* One line of the table: both relative to the header's address. */
struct line {
	int32_t function, entry;
};

/* The beginning of a frame description entry. */
struct entry {
	uint32_t len, cie;
	int32_t function; /* relative to this field's address */
	uint32_t size;
};
_Static_assert(sizeof(struct entry) == 16, "as it is in the file");

static const Elf64_Phdr *table_segment(const struct elfview *e)
{
	for (size_t i = 0; i < e->n_ph; i++)
		if (e->ph[i].p_type == PT_GNU_EH_FRAME)
			return &e->ph[i];
	return NULL;
}

static bool read_header(const struct elfview *e, const Elf64_Phdr *ph, struct header *h)
{
	return ph->p_filesz >= sizeof(*h) && elfview_read(e, ph->p_offset, h, sizeof(*h)) &&
	       h->version == HDR_VERSION && h->frame_enc == PCREL_SDATA4 &&
	       h->count_enc == UDATA4 && h->table_enc == DATAREL_SDATA4 &&
	       h->count <= (ph->p_filesz - sizeof(*h)) / sizeof(struct line);
}

/* The last line of those that begin at or before `want`; the table is sorted by function. */
static bool find_line(const struct elfview *e, const Elf64_Phdr *ph, uint32_t count, int64_t want,
		      struct line *out)
{
	uint32_t from = 0, to = count;
	bool found = false;

	while (from < to) {
		uint32_t mid = from + (to - from) / 2;
		uint64_t at = ph->p_offset + sizeof(struct header) + mid * sizeof(*out);
		struct line l;

		if (!elfview_read(e, at, &l, sizeof(l)))
			return false;
		if (l.function > want) {
			to = mid;
			continue;
		}
		*out = l;
		found = true;
		from = mid + 1;
	}
	return found;
}

/* Address and size of the function around an address, as its own entry says. */
static uint64_t find_function(const struct elfview *e, uint64_t addr, uint64_t *start)
{
	const Elf64_Phdr *ph = table_segment(e);
	struct entry entry;
	uint64_t at, where;
	struct header h;
	struct line l;

	if (!ph || !read_header(e, ph, &h) ||
	    !find_line(e, ph, h.count, (int64_t)(addr - ph->p_vaddr), &l))
		return 0;
	at = ph->p_vaddr + (uint64_t)(int64_t)l.entry;
	where = elfview_offset(e, at, PF_R, NULL);
	if (!where || !elfview_read(e, where, &entry, sizeof(entry)) || !entry.cie)
		return 0;
	*start = ph->p_vaddr + (uint64_t)(int64_t)l.function;
	at += offsetof(struct entry, function);
	if (at + (uint64_t)(int64_t)entry.function != *start || addr - *start >= entry.size)
		return 0;
	return entry.size <= FUNCTION_SIZE_MAX ? entry.size : 0;
}

uint64_t elfframe_around(const struct elfview *e, uint64_t offset, uint64_t *start)
{
	uint64_t addr, first, size;

	if (!elfview_addr(e, offset, &addr))
		return 0;
	size = find_function(e, addr, &first);
	if (!size || addr - first > offset)
		return 0;
	*start = offset - (addr - first);
	return size;
}

uint64_t elfframe_size(const struct elfview *e, uint64_t offset)
{
	uint64_t start, size = elfframe_around(e, offset, &start);

	return size && start == offset ? size : 0;
}
