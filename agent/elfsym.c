/* SPDX-License-Identifier: Apache-2.0 */
/*
 * elfsym: an ELF file and function names in, file offsets out. libelf checks the file's structure;
 * addresses become offsets through the executable segment that holds them. Never maps or runs the
 * file.
 */
#include "elfsym.h"

#include <errno.h>
#include <gelf.h>
#include <libelf.h>
#include <stdbool.h>
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

int elfsym_offsets(int fd, const char *const names[], size_t n, uint64_t offsets[])
{
	struct query q = {.names = names, .n = n, .offsets = offsets};
	size_t found = 0;
	Elf_Scn *scn = NULL;
	struct stat st;

	memset(offsets, 0, n * sizeof(*offsets));
	if (elf_version(EV_CURRENT) == EV_NONE || fstat(fd, &st) || !is_ours(fd))
		return -ENOEXEC;
	q.size = (uint64_t)st.st_size;
	q.elf = elf_begin(fd, ELF_C_READ, NULL);
	if (!q.elf || elf_kind(q.elf) != ELF_K_ELF) {
		elf_end(q.elf);
		return -ENOEXEC;
	}
	while (found < n && (scn = elf_nextscn(q.elf, scn)))
		found = scan_table(&q, scn, found);
	elf_end(q.elf);
	return (int)found;
}
