/* SPDX-License-Identifier: Apache-2.0 */
/*
 * elfview: an open file in, its headers and bytes out. Reads with pread() and checks each length
 * against the file's size before anything is allocated.
 */
#include "sites/elfview.h"

#include <errno.h>
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

#define SEGMENTS_MAX 512   /* linked programs have a dozen */
#define SECTIONS_MAX 16384 /* linked programs have 50; -ffunction-sections kept, some thousand */
#define NAMES_MAX    (1u << 20) /* of sections */

bool elfview_read(const struct elfview *e, uint64_t offset, void *out, size_t len)
{
	size_t done = 0;

	if (offset > e->size || len > e->size - offset)
		return false;
	while (done < len) {
		ssize_t n = pread(e->fd, (char *)out + done, len - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false; /* cut short meanwhile */
		done += (size_t)n;
	}
	return true;
}

void *elfview_load(const struct elfview *e, uint64_t offset, uint64_t len)
{
	char *p;

	if (offset > e->size || len > e->size - offset || len > ELFVIEW_LOAD_MAX)
		return NULL;
	p = malloc(len + 1);
	if (!p)
		return NULL;
	if (!elfview_read(e, offset, p, len)) {
		free(p);
		return NULL;
	}
	p[len] = '\0';
	return p;
}

/* Sections are optional: a file without, or with broken ones, runs as well. */
static void read_sections(struct elfview *e, const Elf64_Ehdr *eh)
{
	Elf64_Shdr names;

	if (!eh->e_shnum || eh->e_shnum > SECTIONS_MAX || eh->e_shentsize != sizeof(*e->sh))
		return;
	e->sh = elfview_load(e, eh->e_shoff, eh->e_shnum * sizeof(*e->sh));
	if (!e->sh)
		return;
	e->n_sh = eh->e_shnum;
	if (eh->e_shstrndx >= e->n_sh)
		return;
	names = e->sh[eh->e_shstrndx];
	if (names.sh_type != SHT_STRTAB || names.sh_size > NAMES_MAX)
		return;
	e->names = elfview_load(e, names.sh_offset, names.sh_size);
	e->names_len = e->names ? names.sh_size : 0;
}

static bool is_ours(const Elf64_Ehdr *eh)
{
	return !memcmp(eh->e_ident, ELFMAG, SELFMAG) && eh->e_ident[EI_CLASS] == ELFCLASS64 &&
	       eh->e_ident[EI_DATA] == ELFDATA2LSB && eh->e_machine == OUR_MACHINE &&
	       (eh->e_type == ET_DYN || eh->e_type == ET_EXEC) && eh->e_phnum &&
	       eh->e_phnum <= SEGMENTS_MAX && eh->e_phentsize == sizeof(Elf64_Phdr);
}

int elfview_open(struct elfview *e, int fd)
{
	Elf64_Ehdr eh;
	struct stat st;

	*e = (struct elfview){.fd = fd};
	if (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_size < 0)
		return -ENOEXEC;
	e->size = (uint64_t)st.st_size;
	if (!elfview_read(e, 0, &eh, sizeof(eh)) || !is_ours(&eh))
		return -ENOEXEC;
	e->type = eh.e_type;
	e->n_ph = eh.e_phnum;
	e->ph = elfview_load(e, eh.e_phoff, e->n_ph * sizeof(*e->ph));
	if (!e->ph)
		return -ENOEXEC;
	read_sections(e, &eh);
	return 0;
}

void elfview_close(struct elfview *e)
{
	free(e->ph);
	free(e->sh);
	free(e->names);
	*e = (struct elfview){.fd = -1};
}

static bool is_in_file(const struct elfview *e, const Elf64_Shdr *sh)
{
	return sh->sh_type != SHT_NOBITS && sh->sh_type != SHT_NULL && sh->sh_offset <= e->size &&
	       sh->sh_size <= e->size - sh->sh_offset;
}

const Elf64_Shdr *elfview_section(const struct elfview *e, const char *name)
{
	for (size_t i = 0; e->names && i < e->n_sh; i++)
		if (e->sh[i].sh_name < e->names_len && is_in_file(e, &e->sh[i]) &&
		    !strcmp(e->names + e->sh[i].sh_name, name))
			return &e->sh[i];
	return NULL;
}

const Elf64_Shdr *elfview_section_type(const struct elfview *e, Elf64_Word type)
{
	for (size_t i = 0; i < e->n_sh; i++)
		if (e->sh[i].sh_type == type && is_in_file(e, &e->sh[i]))
			return &e->sh[i];
	return NULL;
}

uint64_t elfview_offset(const struct elfview *e, uint64_t addr, Elf64_Word flags, uint64_t *left)
{
	for (size_t i = 0; i < e->n_ph; i++) {
		const Elf64_Phdr *ph = &e->ph[i];
		uint64_t in = addr - ph->p_vaddr, have = ph->p_filesz;

		if (ph->p_type != PT_LOAD || (ph->p_flags & flags) != flags ||
		    ph->p_offset >= e->size)
			continue;
		if (have > e->size - ph->p_offset)
			have = e->size - ph->p_offset;
		if (addr < ph->p_vaddr || in >= have)
			continue;
		if (left)
			*left = have - in;
		return ph->p_offset + in;
	}
	return 0;
}

bool elfview_addr(const struct elfview *e, uint64_t offset, uint64_t *addr)
{
	for (size_t i = 0; i < e->n_ph; i++) {
		const Elf64_Phdr *ph = &e->ph[i];

		if (ph->p_type == PT_LOAD && offset >= ph->p_offset &&
		    offset - ph->p_offset < ph->p_filesz) {
			*addr = offset - ph->p_offset + ph->p_vaddr;
			return true;
		}
	}
	return false;
}
