/* SPDX-License-Identifier: Apache-2.0 */
/*
 * elfview: a quick look into an ELF file by a few small reads. Input is foreign: any file, possibly
 * broken, possibly changing while it is read. Never maps the file: a file cut short meanwhile would
 * kill us.
 */
#ifndef SSLC_AGENT_ELFVIEW_H
#define SSLC_AGENT_ELFVIEW_H

#include <elf.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct elfview {
	int fd;        /* borrowed */
	uint64_t size; /* of the file */
	Elf64_Half type;
	size_t n_ph, n_sh;
	Elf64_Phdr *ph; /* owned */
	Elf64_Shdr *sh; /* owned; NULL without sections, or when they are broken */
	char *names;    /* owned: of the sections, ends in 0; NULL without */
	size_t names_len;
};

/**
 * Read the headers. 0; -ENOEXEC when it is no ELF file of this machine's kind or a broken one,
 * -ENOMEM. On error there is nothing to close.
 */
int elfview_open(struct elfview *e, int fd) __attribute__((warn_unused_result));
void elfview_close(struct elfview *e);

/** Exactly len bytes at offset. False when the file has not so many. */
bool elfview_read(const struct elfview *e, uint64_t offset, void *out, size_t len)
	__attribute__((warn_unused_result));
/**
 * The same, allocated, with a 0 behind it; free() it. NULL: not so many there, more than
 * ELFVIEW_LOAD_MAX, or no memory.
 */
void *elfview_load(const struct elfview *e, uint64_t offset, uint64_t len);
/** The largest programs' string and function tables have some 100 MiB. */
#define ELFVIEW_LOAD_MAX (256ull << 20)

/** The first section of that name, whose bytes are in the file; NULL: none. */
const Elf64_Shdr *elfview_section(const struct elfview *e, const char *name);
/** The first section of that type. */
const Elf64_Shdr *elfview_section_type(const struct elfview *e, Elf64_Word type);

/**
 * Where the byte of a virtual address lies in the file; *left (NULL allowed): how many follow it in
 * the same segment. flags: those that the segment must have, PF_X say. 0: nowhere.
 */
uint64_t elfview_offset(const struct elfview *e, uint64_t addr, Elf64_Word flags, uint64_t *left);
/** The other way round. False: no segment loads this byte. */
bool elfview_addr(const struct elfview *e, uint64_t offset, uint64_t *addr);

#endif
