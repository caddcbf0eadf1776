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

#if defined(__x86_64__)
#define OUR_MACHINE EM_X86_64
#elif defined(__aarch64__)
#define OUR_MACHINE EM_AARCH64
#else
#define OUR_MACHINE EM_NONE
#endif

/* Offset of a virtual address, 0 when no executable segment's file part holds it. */
static uint64_t offset_of(Elf *elf, uint64_t addr)
{
	size_t n = 0;
	GElf_Phdr ph;

	if (elf_getphdrnum(elf, &n))
		return 0;
	for (size_t i = 0; i < n; i++) {
		if (!gelf_getphdr(elf, (int)i, &ph) || ph.p_type != PT_LOAD || !(ph.p_flags & PF_X))
			continue;
		if (addr >= ph.p_vaddr && addr - ph.p_vaddr < ph.p_filesz)
			return addr - ph.p_vaddr + ph.p_offset;
	}
	return 0;
}

static size_t take_symbol(Elf *elf, const GElf_Sym *sym, const char *name,
			  const char *const names[], size_t n, uint64_t offsets[])
{
	unsigned type = GELF_ST_TYPE(sym->st_info);

	if (!name || !sym->st_value || sym->st_shndx == SHN_UNDEF ||
	    (type != STT_FUNC && type != STT_GNU_IFUNC))
		return 0;
	for (size_t i = 0; i < n; i++) {
		if (offsets[i] || strcmp(name, names[i]) != 0)
			continue;
		offsets[i] = type == STT_FUNC ? offset_of(elf, sym->st_value) : 0;
		return offsets[i] ? 1 : 0;
	}
	return 0;
}

static size_t scan_table(Elf *elf, Elf_Scn *scn, const char *const names[], size_t n,
			 uint64_t offsets[])
{
	size_t found = 0;
	GElf_Shdr sh;
	Elf_Data *data;
	GElf_Sym sym;

	if (!gelf_getshdr(scn, &sh) || (sh.sh_type != SHT_DYNSYM && sh.sh_type != SHT_SYMTAB) ||
	    !sh.sh_entsize)
		return 0;
	data = elf_getdata(scn, NULL);
	if (!data)
		return 0;
	for (size_t i = 0; i < sh.sh_size / sh.sh_entsize && found < n; i++) {
		if (!gelf_getsym(data, (int)i, &sym))
			break;
		found += take_symbol(elf, &sym, elf_strptr(elf, sh.sh_link, sym.st_name), names, n,
				     offsets);
	}
	return found;
}

static bool is_ours(Elf *elf)
{
	GElf_Ehdr eh;

	return elf_kind(elf) == ELF_K_ELF && gelf_getclass(elf) == ELFCLASS64 &&
	       gelf_getehdr(elf, &eh) && eh.e_machine == OUR_MACHINE &&
	       (eh.e_type == ET_DYN || eh.e_type == ET_EXEC);
}

int elfsym_offsets(int fd, const char *const names[], size_t n, uint64_t offsets[])
{
	size_t found = 0;
	Elf_Scn *scn = NULL;
	Elf *elf;

	memset(offsets, 0, n * sizeof(*offsets));
	if (elf_version(EV_CURRENT) == EV_NONE)
		return -ENOEXEC;
	elf = elf_begin(fd, ELF_C_READ, NULL);
	if (!elf || !is_ours(elf)) {
		elf_end(elf);
		return -ENOEXEC;
	}
	while (found < n && (scn = elf_nextscn(elf, scn)))
		found += scan_table(elf, scn, names, n, offsets);
	elf_end(elf);
	return (int)found;
}
