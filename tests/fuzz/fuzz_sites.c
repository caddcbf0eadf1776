/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: any bytes as a program file for agent/sites/sites.c. Probes would lie within the
 * file. */
#include <linux/types.h>

#include "sites/sites.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd = memfd_create("fuzz_sites", MFD_CLOEXEC), n;
	struct sites s = {.pairs = true};

	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		abort();
	n = sites_find(fd, &s);
	close(fd);
	for (size_t i = 0; i < s.n; i++)
		if (!s.v[i].offset || s.v[i].offset >= size || s.v[i].call >= SSLC_CALL_KINDS)
			abort();
	if (n >= 0 && (size_t)n != s.movers)
		abort();
	sites_fini(&s);
	return 0;
}
