/* SPDX-License-Identifier: Apache-2.0 */
/*
 * elfptr: the pointers to code that lie in an ELF file's data. Input is foreign: any file, possibly
 * broken.
 */
#ifndef SSLC_AGENT_ELFPTR_H
#define SSLC_AGENT_ELFPTR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct elfptr {
	uint64_t at; /* where the pointer lies: virtual address */
	uint64_t to; /* file offset of the code that it points to; 0: not to code of this file */
};

struct elfptrs {
	struct elfptr *v; /* owned; by `at`, each place once */
	size_t n;
};

/**
 * Every place of the file that the dynamic linker fills in, from the tables that it goes by itself
 * (program headers, DT_RELA, DT_RELR; no section headers needed).
 *
 * fd   an open file; its position is not used.
 * Returns 0, and *out is the caller's to give to elfptrs_fini(); -ENOEXEC when it is no shared
 * library of this machine's kind, or a broken one; -EFBIG when its tables are beyond all measure;
 * -ENOMEM. Source: System V ABI, chapter 5; its supplements for x86-64 and AArch64.
 */
int elfptrs_read(int fd, struct elfptrs *out) __attribute__((warn_unused_result));
void elfptrs_fini(struct elfptrs *p);

/**
 * Read n bytes of the file as they will lie in memory at a virtual address. False when the file
 * does not hold them all.
 */
bool elfptr_peek(int fd, uint64_t addr, void *out, size_t n);

#endif
