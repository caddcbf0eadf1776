/* SPDX-License-Identifier: Apache-2.0 */
/* vector: a file of tests/vectors as a span; include after cmocka.h. The caller frees it. */
#ifndef SSLC_TESTS_VECTOR_H
#define SSLC_TESTS_VECTOR_H

#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"

static struct span vector_read(const char *name)
{
	char path[512];
	uint8_t *p = malloc(1 << 16);
	size_t len;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s.bin", VECTORS, name);
	f = fopen(path, "rb");
	if (!f)
		fail_msg("cannot read %s", path);
	assert_non_null(p);
	len = fread(p, 1, 1 << 16, f);
	fclose(f);
	p = realloc(p, len); /* exactly its size, so that a sanitizer sees a read past its end */
	assert_non_null(p);
	return span_of(p, len);
}

static inline void vector_free(struct span s)
{
	free((void *)(uintptr_t)s.p);
}

#endif
