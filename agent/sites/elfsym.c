/* SPDX-License-Identifier: Apache-2.0 */
/*
 * elfsym: an ELF file and function names in, file offsets out. First by the dynamic linker's hash
 * table; only a file that has none, or whose table of all symbols has such a name, is read in full,
 * by libelf, which checks its structure. Addresses become offsets through the executable segment
 * that holds them. Never maps or runs the file.
 */
#include "sites/elfsym.h"

#include "sites/elfhash.h"
#include "sites/elfview.h"

#include <errno.h>
#include <gelf.h>
#include <libelf.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#if defined(__x86_64__)
#define OUR_MACHINE EM_X86_64
#elif defined(__aarch64__)
#define OUR_MACHINE EM_AARCH64
#else
#define OUR_MACHINE EM_NONE
#endif

/* One symbol or string table: libelf reads it into memory as a whole. The largest programs have
 * some 100 MiB. */
#define TABLE_MAX (256u << 20)

/* Offset of a virtual address, 0 when no executable segment's file part holds it. */
static uint64_t offset_of(Elf *elf, uint64_t size, uint64_t addr)
{
	size_t n = 0;
	GElf_Phdr ph;

	if (elf_getphdrnum(elf, &n))
		return 0;
	for (size_t i = 0; i < n; i++) {
		if (!gelf_getphdr(elf, (int)i, &ph) || ph.p_type != PT_LOAD || !(ph.p_flags & PF_X))
			continue;
		if (addr >= ph.p_vaddr && addr - ph.p_vaddr < ph.p_filesz && ph.p_offset < size &&
		    addr - ph.p_vaddr < size - ph.p_offset)
			return addr - ph.p_vaddr + ph.p_offset;
	}
	return 0;
}

/* What is looked for, and what was found. */
struct query {
	Elf *elf;
	uint64_t size; /* of the file */
	const char *const *names;
	size_t n;
	uint64_t *offsets;
};

static size_t take_symbol(const struct query *q, const GElf_Sym *sym, const char *name)
{
	unsigned type = GELF_ST_TYPE(sym->st_info);

	if (!name || !sym->st_value || sym->st_shndx == SHN_UNDEF ||
	    (type != STT_FUNC && type != STT_GNU_IFUNC))
		return 0;
	for (size_t i = 0; i < q->n; i++) {
		if (q->offsets[i] || strcmp(name, q->names[i]) != 0)
			continue;
		q->offsets[i] = type == STT_FUNC ? offset_of(q->elf, q->size, sym->st_value) : 0;
		return q->offsets[i] ? 1 : 0;
	}
	return 0;
}

static bool is_table(Elf *elf, const GElf_Shdr *sh)
{
	GElf_Shdr names;

	return (sh->sh_type == SHT_DYNSYM || sh->sh_type == SHT_SYMTAB) && sh->sh_entsize &&
	       sh->sh_size <= TABLE_MAX && gelf_getshdr(elf_getscn(elf, sh->sh_link), &names) &&
	       names.sh_size <= TABLE_MAX;
}

static size_t scan_table(const struct query *q, Elf_Scn *scn, size_t found)
{
	GElf_Shdr sh;
	Elf_Data *data;
	GElf_Sym sym;

	if (!gelf_getshdr(scn, &sh) || !is_table(q->elf, &sh))
		return found;
	data = elf_getdata(scn, NULL);
	if (!data)
		return found;
	for (size_t i = 0; i < sh.sh_size / sh.sh_entsize && found < q->n; i++) {
		if (!gelf_getsym(data, (int)i, &sym))
			break;
		found += take_symbol(q, &sym, elf_strptr(q->elf, sh.sh_link, sym.st_name));
	}
	return found;
}

/*
 * By the bytes of the header, before libelf reads more. No linked file has so many sections that
 * their number needs extended numbering (e_shnum 0): libelf would allocate for as many as a sparse
 * file claims.
 */
static bool is_ours(int fd)
{
	Elf64_Ehdr eh;

	return pread(fd, &eh, sizeof(eh), 0) == sizeof(eh) &&
	       !memcmp(eh.e_ident, ELFMAG, SELFMAG) && eh.e_ident[EI_CLASS] == ELFCLASS64 &&
	       eh.e_ident[EI_DATA] == ELFDATA2LSB && eh.e_machine == OUR_MACHINE &&
	       (eh.e_type == ET_DYN || eh.e_type == ET_EXEC) && (eh.e_shnum || !eh.e_shoff);
}

static int open_elf(int fd, Elf **elf, uint64_t *size)
{
	struct stat st;

	if (elf_version(EV_CURRENT) == EV_NONE || fstat(fd, &st) || !is_ours(fd))
		return -ENOEXEC;
	*elf = elf_begin(fd, ELF_C_READ, NULL);
	if (!*elf || elf_kind(*elf) != ELF_K_ELF) {
		elf_end(*elf);
		return -ENOEXEC;
	}
	*size = (uint64_t)st.st_size;
	return 0;
}

/* Every symbol of every table, by libelf. */
static int scan(int fd, const char *const names[], size_t n, uint64_t offsets[])
{
	struct query q = {.names = names, .n = n, .offsets = offsets};
	size_t found = 0;
	Elf_Scn *scn = NULL;
	int err;

	memset(offsets, 0, n * sizeof(*offsets));
	err = open_elf(fd, &q.elf, &q.size);
	if (err)
		return err;
	while (found < n && (scn = elf_nextscn(q.elf, scn)))
		found = scan_table(&q, scn, found);
	elf_end(q.elf);
	return (int)found;
}

static bool is_at(const char *text, size_t len, const char *name)
{
	size_t n = strlen(name) + 1;

	return n <= len && !memcmp(text, name, n);
}

static unsigned begin_of(const char *p)
{
	return (unsigned)(uint8_t)p[0] << 8 | (uint8_t)p[1];
}

/* Large programs have megabytes of names, and events wait meanwhile: they are passed once for all
 * that is sought. A name may be the end of another one. */
static bool has_any(const char *text, size_t len, const char *const names[], size_t n)
{
	uint8_t begins[(1u << 16) / 8] = {0};
	bool found = false;

	for (size_t i = 0; i < n; i++)
		begins[begin_of(names[i]) / 8] |= (uint8_t)(1u << begin_of(names[i]) % 8);
	for (size_t at = 0; at + 1 < len && !found; at++) {
		unsigned begin = begin_of(text + at);

		if (!(begins[begin / 8] & 1u << begin % 8))
			continue;
		for (size_t i = 0; i < n && !found; i++)
			found = is_at(text + at, len - at, names[i]);
	}
	return found;
}

/* Whether the table of all symbols, if it is there at all, has one of these names. */
static bool may_define(const struct elfview *e, const char *const names[], size_t n)
{
	const Elf64_Shdr *table = elfview_section_type(e, SHT_SYMTAB), *strings;
	char *text = NULL;
	bool found = false;

	if (!table || table->sh_link >= e->n_sh)
		return false;
	strings = &e->sh[table->sh_link];
	if (strings->sh_type == SHT_STRTAB)
		text = elfview_load(e, strings->sh_offset, strings->sh_size);
	found = text && has_any(text, strings->sh_size, names, n);
	free(text);
	return found;
}

int elfsym_offsets(int fd, const char *const names[], size_t n, uint64_t offsets[])
{
	struct elfview e;
	int found = is_ours(fd) ? elfview_open(&e, fd) : -ENOEXEC;
	bool scan_all;

	memset(offsets, 0, n * sizeof(*offsets));
	if (found)
		return found;
	found = elfhash_find(&e, names, n, offsets);
	scan_all = found < 0 || (!found && may_define(&e, names, n));
	elfview_close(&e);
	return scan_all ? scan(fd, names, n, offsets) : found;
}

int elfsym_code(int fd, uint64_t offset, uint64_t *from, uint64_t *to)
{
	uint64_t size, len;
	int err, found = -ENOENT;
	size_t n = 0;
	GElf_Phdr ph;
	Elf *elf;

	err = open_elf(fd, &elf, &size);
	if (err)
		return err;
	if (elf_getphdrnum(elf, &n))
		n = 0;
	for (size_t i = 0; i < n && found; i++) {
		if (!gelf_getphdr(elf, (int)i, &ph) || ph.p_type != PT_LOAD ||
		    !(ph.p_flags & PF_X) || ph.p_offset >= size)
			continue;
		len = ph.p_filesz < size - ph.p_offset ? ph.p_filesz : size - ph.p_offset;
		if (offset < ph.p_offset || offset - ph.p_offset >= len)
			continue;
		*from = ph.p_offset;
		*to = ph.p_offset + len;
		found = 0;
	}
	elf_end(elf);
	return found;
}
