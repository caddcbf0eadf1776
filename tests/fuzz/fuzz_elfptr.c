/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: any bytes as a file for agent/sites/elfptr.c. What it tells lies within the file, in
 * order. */
#include "sites/elfptr.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct elfptrs p = {0};
	int fd = memfd_create("fuzz_elfptr", MFD_CLOEXEC), err;
	uint64_t word;

	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		abort();
	err = elfptrs_read(fd, &p);
	for (size_t i = 0; i < p.n; i++) {
		if (err || p.v[i].to >= size || (i && p.v[i - 1].at >= p.v[i].at))
			abort();
		(void)elfptr_peek(fd, p.v[i].at, &word, sizeof(word));
		if (i == 64) /* enough: each costs several reads */
			break;
	}
	elfptrs_fini(&p);
	close(fd);
	return 0;
}
