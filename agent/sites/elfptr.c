/* SPDX-License-Identifier: Apache-2.0 */
/*
 * elfptr: a shared library in, the relocated places of its data out. Reads what the dynamic linker
 * reads, with every number checked against the file's size. Never maps or runs the file.
 */
#include "sites/elfptr.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#if defined(__x86_64__)
#define OUR_MACHINE  EM_X86_64
#define OUR_RELATIVE R_X86_64_RELATIVE
#elif defined(__aarch64__)
#define OUR_MACHINE  EM_AARCH64
#define OUR_RELATIVE R_AARCH64_RELATIVE
#else
#define OUR_MACHINE  EM_NONE
#define OUR_RELATIVE 0
#endif

#ifndef DT_RELR /* glibc 2.36 */
#define DT_RELRSZ 35
#define DT_RELR   36
#endif

#define SEGMENTS_MAX 64         /* program headers; libraries have about ten */
#define DYNAMIC_MAX  512        /* entries of the dynamic section; libraries have about thirty */
#define PLACES_MAX   (1u << 20) /* 16 MiB of memory; the largest TLS libraries have 20 000 */
#define RELR_BITS    63         /* places that one bitmap word describes */

struct file {
	int fd;
	uint64_t size;
	Elf64_Phdr seg[SEGMENTS_MAX];
	size_t n_seg;
	/* from the dynamic section: virtual address and bytes */
	uint64_t rela, rela_size, relr, relr_size;
};

static bool read_at(const struct file *f, uint64_t offset, void *out, size_t n)
{
	return offset < f->size && n <= f->size - offset &&
	       pread(f->fd, out, n, (off_t)offset) == (ssize_t)n;
}

/* File offset of n bytes at a virtual address, 0 when no segment with these flags holds them. */
static uint64_t offset_of(const struct file *f, uint64_t addr, uint64_t n, uint32_t flags)
{
	for (size_t i = 0; i < f->n_seg; i++) {
		const Elf64_Phdr *ph = &f->seg[i];
		uint64_t in = addr - ph->p_vaddr;

		if (ph->p_type != PT_LOAD || (ph->p_flags & flags) != flags || addr < ph->p_vaddr)
			continue;
		if (in < ph->p_filesz && n <= ph->p_filesz - in && ph->p_offset < f->size &&
		    in < f->size - ph->p_offset && n <= f->size - ph->p_offset - in)
			return ph->p_offset + in;
	}
	return 0;
}

static bool read_addr(const struct file *f, uint64_t addr, void *out, size_t n)
{
	uint64_t offset = offset_of(f, addr, n, 0);

	return offset && read_at(f, offset, out, n);
}

/* --- headers ------------------------------------------------------------------------------------
 */

static int read_segments(struct file *f)
{
	Elf64_Ehdr eh;
	struct stat st;

	if (fstat(f->fd, &st))
		return -ENOEXEC;
	f->size = (uint64_t)st.st_size;
	if (!read_at(f, 0, &eh, sizeof(eh)) || memcmp(eh.e_ident, ELFMAG, SELFMAG) ||
	    eh.e_ident[EI_CLASS] != ELFCLASS64 || eh.e_ident[EI_DATA] != ELFDATA2LSB ||
	    eh.e_machine != OUR_MACHINE || eh.e_type != ET_DYN ||
	    eh.e_phentsize != sizeof(Elf64_Phdr) || !eh.e_phnum || eh.e_phnum > SEGMENTS_MAX)
		return -ENOEXEC;
	f->n_seg = eh.e_phnum;
	return read_at(f, eh.e_phoff, f->seg, f->n_seg * sizeof(f->seg[0])) ? 0 : -ENOEXEC;
}

static void take_tag(struct file *f, const Elf64_Dyn *d)
{
	if (d->d_tag == DT_RELA)
		f->rela = d->d_un.d_ptr;
	else if (d->d_tag == DT_RELASZ)
		f->rela_size = d->d_un.d_val;
	else if (d->d_tag == DT_RELR)
		f->relr = d->d_un.d_ptr;
	else if (d->d_tag == DT_RELRSZ)
		f->relr_size = d->d_un.d_val;
}

static int read_dynamic(struct file *f)
{
	const Elf64_Phdr *ph = NULL;
	Elf64_Dyn d;

	for (size_t i = 0; i < f->n_seg; i++)
		if (f->seg[i].p_type == PT_DYNAMIC)
			ph = &f->seg[i];
	if (!ph)
		return -ENOEXEC;
	for (uint64_t i = 0; i < DYNAMIC_MAX && (i + 1) * sizeof(d) <= ph->p_filesz; i++) {
		if (!read_at(f, ph->p_offset + i * sizeof(d), &d, sizeof(d)))
			return -ENOEXEC;
		if (d.d_tag == DT_NULL)
			return 0;
		take_tag(f, &d);
	}
	return -ENOEXEC;
}

/* A table of the dynamic section, whole. NULL with *err 0: there is none. */
static void *read_table(const struct file *f, uint64_t addr, uint64_t size, size_t entry, int *err)
{
	void *p;

	*err = 0;
	if (!addr || !size)
		return NULL;
	if (size % entry || size / entry > PLACES_MAX) {
		*err = size % entry ? -ENOEXEC : -EFBIG;
		return NULL;
	}
	if (!offset_of(f, addr, size, 0)) {
		*err = -ENOEXEC;
		return NULL;
	}
	p = malloc(size);
	if (!p)
		*err = -ENOMEM;
	else if (!read_addr(f, addr, p, size))
		*err = -ENOEXEC;
	if (*err) {
		free(p);
		return NULL;
	}
	return p;
}

/* --- places -------------------------------------------------------------------------------------
 */

static int add(struct elfptrs *p, size_t *room, uint64_t at, uint64_t to)
{
	size_t more = *room ? 2 * *room : 1024;
	struct elfptr *v;

	if (p->n == *room) {
		if (more > PLACES_MAX)
			return -EFBIG;
		v = realloc(p->v, more * sizeof(*v));
		if (!v)
			return -ENOMEM;
		p->v = v;
		*room = more;
	}
	p->v[p->n++] = (struct elfptr){.at = at, .to = to};
	return 0;
}

static int take_rela(const struct file *f, struct elfptrs *p, size_t *room)
{
	int err;
	Elf64_Rela *r = read_table(f, f->rela, f->rela_size, sizeof(*r), &err);

	for (size_t i = 0; r && !err && i < f->rela_size / sizeof(*r); i++) {
		bool relative = ELF64_R_TYPE(r[i].r_info) == OUR_RELATIVE;
		uint64_t to = (uint64_t)r[i].r_addend;

		err = add(p, room, r[i].r_offset, relative ? offset_of(f, to, 1, PF_X) : 0);
	}
	free(r);
	return err;
}

/* The pointer is in its place already, only the library's address is still to be added. */
static int take_relr_place(const struct file *f, struct elfptrs *p, size_t *room, uint64_t at)
{
	uint64_t to;

	if (!read_addr(f, at, &to, sizeof(to)))
		return 0;
	return add(p, room, at, offset_of(f, to, 1, PF_X));
}

/*
 * An even word is a place; an odd one is a bitmap of the 63 places that follow those told so far.
 */
static int take_relr(const struct file *f, struct elfptrs *p, size_t *room)
{
	int err;
	uint64_t *r = read_table(f, f->relr, f->relr_size, sizeof(*r), &err), next = 0;

	for (size_t i = 0; r && !err && i < f->relr_size / sizeof(*r); i++) {
		if (!(r[i] & 1)) {
			err = take_relr_place(f, p, room, r[i]);
			next = r[i] + sizeof(uint64_t);
			continue;
		}
		for (unsigned bit = 0; bit < RELR_BITS && !err; bit++)
			if (r[i] >> (bit + 1) & 1)
				err = take_relr_place(f, p, room, next + bit * sizeof(uint64_t));
		next += RELR_BITS * sizeof(uint64_t);
	}
	free(r);
	return err;
}

static int by_place(const void *a, const void *b)
{
	const struct elfptr *x = a, *y = b;

	return x->at < y->at ? -1 : x->at > y->at;
}

/* A place that is filled in twice points nowhere that could be told. */
static void sort(struct elfptrs *p)
{
	size_t n = 0;

	if (!p->n)
		return;
	qsort(p->v, p->n, sizeof(p->v[0]), by_place);
	for (size_t i = 1; i < p->n; i++) {
		if (p->v[i].at == p->v[n].at)
			p->v[n].to = 0;
		else
			p->v[++n] = p->v[i];
	}
	p->n = n + 1;
}

int elfptrs_read(int fd, struct elfptrs *out)
{
	struct file f = {.fd = fd};
	struct elfptrs p = {0};
	size_t room = 0;
	int err = read_segments(&f);

	if (!err)
		err = read_dynamic(&f);
	if (!err)
		err = take_rela(&f, &p, &room);
	if (!err)
		err = take_relr(&f, &p, &room);
	if (err) {
		elfptrs_fini(&p);
		return err;
	}
	sort(&p);
	*out = p;
	return 0;
}

void elfptrs_fini(struct elfptrs *p)
{
	free(p->v);
	*p = (struct elfptrs){0};
}

bool elfptr_peek(int fd, uint64_t addr, void *out, size_t n)
{
	struct file f = {.fd = fd};

	return !read_segments(&f) && read_addr(&f, addr, out, n);
}
