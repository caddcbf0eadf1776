/* SPDX-License-Identifier: Apache-2.0 */
/*
 * elfhash: functions by name through the hash table with which the dynamic linker finds them: a few
 * small reads, however large the file. Input is foreign: any file, possibly broken.
 */
#ifndef SSLC_AGENT_ELFHASH_H
#define SSLC_AGENT_ELFHASH_H

#include "sites/elfview.h"

#include <stddef.h>
#include <stdint.h>

/**
 * File offsets of functions among the dynamic symbols that the file defines; offsets[i] becomes 0
 * for others. Versions are not part of the name.
 *
 * Returns how many were found; -ENODATA when the file has dynamic symbols but no hash table to look
 * in.
 * Source: System V ABI, 5, Hash Table; DT_GNU_HASH as in glibc's elf/dl-lookup.c.
 */
int elfhash_find(const struct elfview *e, const char *const names[], size_t n, uint64_t offsets[])
	__attribute__((warn_unused_result));

#endif
