/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gofile: where functions lie in a program that Go's tools have built, stripped or not: the runtime
 * keeps a table of them. Input is foreign: any file, possibly broken.
 */
#ifndef SSLC_AGENT_GOFILE_H
#define SSLC_AGENT_GOFILE_H

#include "sites/elfview.h"

#include <stddef.h>
#include <stdint.h>

struct gofile_function {
	uint64_t offset; /* in the file; 0: not there */
	uint64_t len;    /* bytes up to the next function: padding included */
};

/**
 * Look up functions by their full names, "crypto/tls.(*Conn).Read".
 *
 * since  filled with the version that the table's form came with: 2 (Go 1.2), 16, 18 or 20. It
 *        tells how arguments are passed where the code does not.
 * Returns how many were found; -ESRCH when it is no Go program, -EOPNOTSUPP when it is one whose
 * table could not be read, -ENOMEM.
 * Source: golang.org/s/go12symtab, runtime/symtab.go (pcHeader) of 1.16, 1.18, 1.20 and 1.26.
 */
int gofile_find(const struct elfview *e, const char *const names[], size_t n,
		struct gofile_function out[], unsigned *since) __attribute__((warn_unused_result));

#endif
