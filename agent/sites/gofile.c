/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gofile: a Go program in, file offsets of its functions out. Reads the table by which the runtime
 * itself finds functions (pclntab): by section, else by its first bytes. Every number in it is
 * checked against the table's end before it is used.
 */
#include "sites/gofile.h"

#include "sites/gocode.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define FUNCTIONS_MAX (4u << 20) /* the largest programs have some 200 000 */
#define SCAN_STEP     (1u << 20) /* bytes read at once while the table is looked for */
#define SAMPLE        64         /* functions that must look like such at a supposed place */
#define PROLOGUE      64         /* bytes that show it */

enum { HEADER = 72 }; /* 1.18; before: 64 and 16 */

/* A part of the table. */
struct part {
	const uint8_t *p;
	uint64_t len;
};

struct gotab {
	const struct elfview *e; /* borrowed */
	uint8_t *all;            /* owned: the table, and perhaps what follows it */
	uint64_t addr, len;
	unsigned since;
	uint64_t n_functions, text;
	struct part names, functions;
};

static uint32_t u32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static uint64_t u64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

/* --- finding it ---------------------------------------------------------------------------------
 */

/* Which form of table begins with these 8 bytes; 0: none. */
static unsigned form_of(const uint8_t *p)
{
	static const struct {
		uint32_t magic;
		unsigned since;
	} forms[] = {{0xfffffffb, 2}, {0xfffffffa, 16}, {0xfffffff0, 18}, {0xfffffff1, 20}};

	if (p[4] || p[5] || (p[6] != 1 && p[6] != 4) || p[7] != 8)
		return 0; /* two zeroes, size of an instruction, of a pointer */
	for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++)
		if (u32(p) == forms[i].magic)
			return forms[i].since;
	return 0;
}

static struct part part_at(const struct gotab *t, uint64_t from)
{
	return from < t->len ? (struct part){t->all + from, t->len - from} : (struct part){0};
}

/* Take the header apart. False: this is no table. */
static bool read_header(struct gotab *t)
{
	uint64_t names = 0, functions = 16;

	if (t->len < HEADER)
		return false;
	t->since = form_of(t->all);
	t->n_functions = u64(t->all + 8);
	if (t->since >= 18) {
		t->text = u64(t->all + 24);
		names = u64(t->all + 32);
		functions = u64(t->all + 64);
	} else if (t->since == 16) {
		names = u64(t->all + 24);
		functions = u64(t->all + 56);
	}
	if (!t->since || !t->n_functions || t->n_functions > FUNCTIONS_MAX)
		return false;
	t->names = part_at(t, names);
	t->functions = part_at(t, functions);
	return t->names.len &&
	       t->functions.len / (t->since >= 18 ? 8 : 16) > t->n_functions; /* and its end */
}

/* Load what is at offset, up to the segment's end. */
static bool load(struct gotab *t, uint64_t offset, uint64_t len)
{
	free(t->all);
	t->all = NULL;
	if (len > ELFVIEW_LOAD_MAX)
		len = ELFVIEW_LOAD_MAX;
	if (!elfview_addr(t->e, offset, &t->addr))
		return false;
	t->all = elfview_load(t->e, offset, len);
	t->len = len;
	return t->all && read_header(t);
}

/* The segment's bytes in steps; the table begins at a multiple of 8 (1.27), 32 before. */
static bool scan_segment(struct gotab *t, const Elf64_Phdr *ph)
{
	uint8_t *buf;

	for (uint64_t at = 0; at < ph->p_filesz; at += SCAN_STEP) {
		uint64_t len = ph->p_filesz - at < SCAN_STEP ? ph->p_filesz - at : SCAN_STEP;

		buf = elfview_load(t->e, ph->p_offset + at, len);
		for (uint64_t i = 0; buf && i + 8 <= len; i += 8)
			if (buf[i + 3] == 0xff && form_of(buf + i) &&
			    load(t, ph->p_offset + at + i, ph->p_filesz - at - i)) {
				free(buf);
				return true;
			}
		if (!buf)
			return false;
		free(buf);
	}
	return false;
}

static bool scan(struct gotab *t)
{
	for (size_t i = 0; i < t->e->n_ph; i++)
		if (t->e->ph[i].p_type == PT_LOAD && !(t->e->ph[i].p_flags & PF_X) &&
		    !(t->e->ph[i].p_offset % 8) && scan_segment(t, &t->e->ph[i]))
			return true;
	return false;
}

/* Whether to look further at all: each Go linker since 1.5 leaves one of these, whatever is
 * stripped. A file without sections may be anything. */
static bool is_go(const struct elfview *e)
{
	return !e->n_sh || elfview_section(e, ".go.buildinfo") ||
	       elfview_section(e, ".note.go.buildid") || elfview_section(e, ".gopclntab");
}

static int find_table(struct gotab *t)
{
	static const char *const sections[] = {".gopclntab", ".data.rel.ro.gopclntab"};

	if (!is_go(t->e))
		return -ESRCH;
	for (size_t i = 0; i < sizeof(sections) / sizeof(sections[0]); i++) {
		const Elf64_Shdr *sh = elfview_section(t->e, sections[i]);

		if (sh && load(t, sh->sh_offset, sh->sh_size))
			return 0;
	}
	if (scan(t))
		return 0;
	return t->e->n_sh ? -EOPNOTSUPP : -ESRCH;
}

/* --- functions ----------------------------------------------------------------------------------
 */

/*
 * A word of the table that is an address. In a position-independent program it may be zero in the
 * file and come from the dynamic relocations (R_*_RELATIVE); that of C linkers' output only.
 */
struct relocations {
	Elf64_Rela *v; /* owned; sorted by place */
	size_t n;
};

static int by_place(const void *a, const void *b)
{
	const Elf64_Rela *x = a, *y = b;

	return (x->r_offset > y->r_offset) - (x->r_offset < y->r_offset);
}

static void read_relocations(const struct elfview *e, struct relocations *r)
{
	const Elf64_Shdr *sh = elfview_section(e, ".rela.dyn");

	if (!sh || sh->sh_entsize != sizeof(*r->v))
		return;
	r->v = elfview_load(e, sh->sh_offset, sh->sh_size);
	r->n = r->v ? sh->sh_size / sizeof(*r->v) : 0;
	if (r->n)
		qsort(r->v, r->n, sizeof(*r->v), by_place);
}

static uint64_t address_at(const struct gotab *t, const struct relocations *r, const uint8_t *p)
{
	Elf64_Rela key = {.r_offset = t->addr + (uint64_t)(p - t->all)};
	const Elf64_Rela *found;

	if (u64(p) || !r->n)
		return u64(p);
	found = bsearch(&key, r->v, r->n, sizeof(*r->v), by_place);
	return found ? (uint64_t)found->r_addend : 0;
}

/* Beginning of function i, relative to the text's (since 1.18) or absolute; i may be the end. */
static uint64_t begin_of(const struct gotab *t, const struct relocations *r, uint64_t i)
{
	return t->since >= 18 ? u32(t->functions.p + i * 8)
			      : address_at(t, r, t->functions.p + i * 16);
}

/* The name of function i; "" when it is out of bounds. */
static const char *name_of(const struct gotab *t, uint64_t i)
{
	uint64_t wide = t->since >= 18 ? 4 : 8, at;
	uint32_t name;

	at = wide == 4 ? u32(t->functions.p + i * 8 + 4) : u64(t->functions.p + i * 16 + 8);
	if (t->since == 2) { /* relative to the whole table, not to the list of functions */
		if (at > t->len || t->len - at < wide + 4)
			return "";
		name = u32(t->all + at + wide);
	} else {
		if (at > t->functions.len || t->functions.len - at < wide + 4)
			return "";
		name = u32(t->functions.p + at + wide);
	}
	/* the table has a 0 behind it: each name ends */
	return name < t->names.len ? (const char *)t->names.p + name : "";
}

/* --- where the text begins ----------------------------------------------------------------------
 */

static bool is_prologue(const struct gotab *t, uint64_t addr)
{
	uint64_t left = 0, offset = elfview_offset(t->e, addr, PF_X, &left);
	size_t n = left < PROLOGUE ? left : PROLOGUE;
	enum gocode_abi abi = GOCODE_REGISTERS;
	uint8_t code[PROLOGUE];

	return offset && elfview_read(t->e, offset, code, n) && gocode_entry(code, n, &abi) > 0;
}

/* Whether the functions begin where they would if the text began there: three of four check the
 * stack's size first, and hardly anything else does. */
static bool is_text(const struct gotab *t, uint64_t text)
{
	uint64_t step = t->n_functions / SAMPLE + 1;
	unsigned good = 0, tried = 0;

	for (uint64_t i = 0; i < t->n_functions; i += step) {
		tried++;
		good += is_prologue(t, text + u32(t->functions.p + i * 8));
		if (tried >= 8 && !good)
			return false;
	}
	return good * 5 >= tried * 2;
}

/* Since 1.26 the table does not say; in C linkers' output it is not where the section begins. */
static int find_text(struct gotab *t, const struct relocations *r)
{
	const Elf64_Shdr *sh = elfview_section(t->e, ".text");
	uint64_t header = address_at(t, r, t->all + 24);

	if (t->since < 18)
		return 0;
	if (header && is_text(t, header)) {
		t->text = header;
		return 0;
	}
	if (!sh)
		return -EOPNOTSUPP;
	for (uint64_t at = sh->sh_addr; at < sh->sh_addr + sh->sh_size; at += 16)
		if (is_text(t, at)) {
			t->text = at;
			return 0;
		}
	return -EOPNOTSUPP;
}

static size_t take(const struct gotab *t, const struct relocations *r, uint64_t i,
		   struct gofile_function *out)
{
	uint64_t from = begin_of(t, r, i), to = begin_of(t, r, i + 1), left = 0;

	if (from >= to)
		return 0;
	out->offset = elfview_offset(t->e, t->text + from, PF_X, &left);
	out->len = to - from;
	if (!out->offset || out->len > left)
		*out = (struct gofile_function){0};
	return out->offset != 0;
}

static int find_functions(const struct gotab *t, const struct relocations *r,
			  const char *const names[], size_t n, struct gofile_function out[])
{
	size_t found = 0;

	for (uint64_t i = 0; i < t->n_functions && found < n; i++) {
		const char *name = name_of(t, i);

		for (size_t k = 0; k < n; k++)
			if (!out[k].offset && !strcmp(name, names[k]))
				found += take(t, r, i, &out[k]);
	}
	return (int)found;
}

int gofile_find(const struct elfview *e, const char *const names[], size_t n,
		struct gofile_function out[], unsigned *since)
{
	struct gotab t = {.e = e};
	struct relocations r = {0};
	int err = find_table(&t);

	memset(out, 0, n * sizeof(*out));
	if (!err && e->type == ET_DYN)
		read_relocations(e, &r);
	if (!err)
		err = find_text(&t, &r);
	if (!err)
		err = find_functions(&t, &r, names, n, out);
	*since = t.since;
	free(r.v);
	free(t.all);
	return err;
}
