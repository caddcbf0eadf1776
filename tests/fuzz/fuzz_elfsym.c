/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: any bytes as a file for agent/sites/elfsym.c. What it finds lies within the file. */
#include "sites/elfsym.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const names[] = {"SSL_read", "SSL_write", "SSL_free", "SSL_read_ex"};
	enum { N = sizeof(names) / sizeof(names[0]) };
	uint64_t offsets[N];
	int fd = memfd_create("fuzz_elfsym", MFD_CLOEXEC), n, found = 0;

	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		abort();
	n = elfsym_offsets(fd, names, N, offsets);
	close(fd);
	for (int i = 0; i < N; i++) {
		if (offsets[i] >= size && offsets[i])
			abort();
		found += offsets[i] != 0;
	}
	if (n >= 0 && n != found)
		abort();
	return 0;
}
