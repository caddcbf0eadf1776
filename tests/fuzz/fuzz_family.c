/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: any bytes as a file's name and as a file for agent/coverage/family.c. */
#include "coverage/family.h"

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd = memfd_create("fuzz_family", MFD_CLOEXEC), family;
	char *name = calloc(1, size + 1);
	uint64_t bytes = 0;

	if (fd < 0 || !name || write(fd, data, size) != (ssize_t)size)
		abort();
	memcpy(name, data, size);
	family = family_by_name(name);
	if (family < -1 || family >= FAMILIES)
		abort();
	family = family_by_content(fd, size, &bytes);
	if ((family < 0 && family != -ENOENT) || family >= FAMILIES || bytes > 2 * size)
		abort();
	close(fd);
	free(name);
	return 0;
}
