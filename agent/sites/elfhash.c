/* SPDX-License-Identifier: Apache-2.0 */
/*
 * elfhash: an ELF file and function names in, file offsets out. Follows addresses of the dynamic
 * section through the segments, as the dynamic linker does; sections are not looked at.
 */
#include "sites/elfhash.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define DYNAMIC_MAX 65536 /* bytes; some 40 entries are usual */
#define CHAIN_MAX   1024  /* symbols of one bucket: a handful, but in a file made to waste time */
#define LONGEST     256   /* of the names that are looked for */

struct tables {
	const struct elfview *e; /* borrowed */
	uint64_t symbols, strings, gnu, sysv;
};

static bool read_at(const struct elfview *e, uint64_t addr, void *out, size_t len)
{
	uint64_t left = 0, offset = elfview_offset(e, addr, 0, &left);

	return offset && left >= len && elfview_read(e, offset, out, len);
}

static void take_dynamic(struct tables *t, const Elf64_Dyn *d, size_t n)
{
	for (size_t i = 0; i < n && d[i].d_tag != DT_NULL; i++) {
		if (d[i].d_tag == DT_SYMTAB)
			t->symbols = d[i].d_un.d_ptr;
		else if (d[i].d_tag == DT_STRTAB)
			t->strings = d[i].d_un.d_ptr;
		else if (d[i].d_tag == DT_GNU_HASH)
			t->gnu = d[i].d_un.d_ptr;
		else if (d[i].d_tag == DT_HASH)
			t->sysv = d[i].d_un.d_ptr;
	}
}

/* False: not linked dynamically. */
static bool read_dynamic(struct tables *t)
{
	for (size_t i = 0; i < t->e->n_ph; i++) {
		const Elf64_Phdr *ph = &t->e->ph[i];
		Elf64_Dyn *d;

		if (ph->p_type != PT_DYNAMIC)
			continue;
		d = ph->p_filesz <= DYNAMIC_MAX ? elfview_load(t->e, ph->p_offset, ph->p_filesz)
						: NULL;
		if (d)
			take_dynamic(t, d, ph->p_filesz / sizeof(*d));
		free(d);
		return true;
	}
	return false;
}

/* The offset of symbol i when it is the function of that name, else 0. */
static uint64_t symbol_offset(const struct tables *t, uint32_t i, const char *name)
{
	size_t len = strlen(name) + 1;
	char found[LONGEST];
	Elf64_Sym sym;

	if (len > sizeof(found) ||
	    !read_at(t->e, t->symbols + (uint64_t)i * sizeof(sym), &sym, sizeof(sym)) ||
	    sym.st_shndx == SHN_UNDEF || !sym.st_value || ELF64_ST_TYPE(sym.st_info) != STT_FUNC ||
	    !read_at(t->e, t->strings + sym.st_name, found, len) || memcmp(found, name, len) != 0)
		return 0;
	return elfview_offset(t->e, sym.st_value, PF_X, NULL);
}

static uint64_t find_gnu(const struct tables *t, const char *name)
{
	uint32_t head[4]; /* buckets, first symbol, words of the filter, its shift */
	uint32_t hash = 5381, i, link, bits = 64;
	uint64_t filter, buckets, offset;

	if (!read_at(t->e, t->gnu, head, sizeof(head)) || !head[0] || !head[2] || head[3] > 31)
		return 0;
	for (const char *c = name; *c; c++)
		hash = hash * 33 + (unsigned char)*c;
	if (!read_at(t->e, t->gnu + 16 + (uint64_t)(hash / bits % head[2]) * 8, &filter, 8) ||
	    !(filter >> hash % bits & 1) || !(filter >> (hash >> head[3]) % bits & 1))
		return 0;
	buckets = t->gnu + 16 + (uint64_t)head[2] * 8;
	if (!read_at(t->e, buckets + (uint64_t)(hash % head[0]) * 4, &i, 4) || i < head[1])
		return 0;
	for (unsigned n = 0; n < CHAIN_MAX; n++, i++) {
		if (!read_at(t->e, buckets + ((uint64_t)head[0] + i - head[1]) * 4, &link, 4))
			return 0;
		offset = (link | 1) == (hash | 1) ? symbol_offset(t, i, name) : 0;
		if (offset || link & 1) /* the chain's last */
			return offset;
	}
	return 0;
}

static uint32_t sysv_hash(const char *name)
{
	uint32_t h = 0, top;

	for (; *name; name++) {
		h = (h << 4) + (unsigned char)*name;
		top = h & 0xf0000000u;
		h = (h ^ top >> 24) & ~top;
	}
	return h;
}

static uint64_t find_sysv(const struct tables *t, const char *name)
{
	uint32_t head[2], i; /* buckets, chains */
	uint64_t offset = 0;

	if (!read_at(t->e, t->sysv, head, sizeof(head)) || !head[0] ||
	    !read_at(t->e, t->sysv + 8 + (uint64_t)(sysv_hash(name) % head[0]) * 4, &i, 4))
		return 0;
	for (unsigned n = 0; n < CHAIN_MAX && i && i < head[1] && !offset; n++) {
		offset = symbol_offset(t, i, name);
		if (!read_at(t->e, t->sysv + 8 + ((uint64_t)head[0] + i) * 4, &i, 4))
			break;
	}
	return offset;
}

int elfhash_find(const struct elfview *e, const char *const names[], size_t n, uint64_t offsets[])
{
	struct tables t = {.e = e};
	int found = 0;

	memset(offsets, 0, n * sizeof(*offsets));
	if (!read_dynamic(&t)) /* or made to be looked at, not to be run */
		return elfview_section_type(e, SHT_DYNSYM) ? -ENODATA : 0;
	if (!t.symbols || !t.strings || (!t.gnu && !t.sysv))
		return -ENODATA;
	for (size_t i = 0; i < n; i++) {
		offsets[i] = t.gnu ? find_gnu(&t, names[i]) : find_sysv(&t, names[i]);
		found += offsets[i] != 0;
	}
	return found;
}
