/* SPDX-License-Identifier: Apache-2.0 */
/* elfsym: where functions lie in an ELF file. Input is foreign: any file, possibly broken. */
#ifndef SSLC_AGENT_ELFSYM_H
#define SSLC_AGENT_ELFSYM_H

#include <stddef.h>
#include <stdint.h>

/**
 * File offsets of defined function symbols, from .dynsym and .symtab. Versions (name@@VERSION) are
 * not part of the name.
 *
 * fd      an open file; its position is not used.
 * names   n of them; offsets[i] becomes 0 for a name that the file does not define.
 * Returns how many were found, -ENOEXEC when it is no ELF file of this machine's kind or a broken
 * one. Source: System V ABI, chapters 4 and 5; uprobes take file offsets
 * (Documentation/trace/uprobetracer.rst).
 */
int elfsym_offsets(int fd, const char *const names[], size_t n, uint64_t offsets[])
	__attribute__((warn_unused_result));

/**
 * The part of the file that is mapped executable around a file offset: inside it, distances in the
 * file are distances in memory.
 *
 * from, to    its first byte and the one after its last, both within the file.
 * Returns 0; -ENOENT when no executable segment holds the offset; -ENOEXEC as above.
 */
int elfsym_code(int fd, uint64_t offset, uint64_t *from, uint64_t *to)
	__attribute__((warn_unused_result));

#endif
