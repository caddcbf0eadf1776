/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: any bytes as a program for agent/sites/gofile.c and agent/sites/sites_go.c. What is
 * found lies within the file. */
#include "sites/elfview.h"
#include "sites/gofile.h"
#include "sites/sites.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void look_up(int fd, size_t size)
{
	static const char *const names[] = {"crypto/tls.(*Conn).Read", "main.main"};
	struct gofile_function f[2];
	struct elfview e;
	unsigned since;
	int n, found = 0;

	if (elfview_open(&e, fd))
		return;
	n = gofile_find(&e, names, 2, f, &since);
	for (int i = 0; i < 2; i++) {
		if (f[i].offset > size || f[i].len > size - f[i].offset)
			abort();
		found += f[i].offset != 0;
	}
	if (n > 0 && n != found)
		abort();
	elfview_close(&e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd = memfd_create("fuzz_gofile", MFD_CLOEXEC), err;
	struct sites s = {0};

	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		abort();
	look_up(fd, size);
	err = sites_go(fd, &s);
	close(fd);
	for (size_t i = 0; i < s.n; i++)
		if (!s.v[i].offset || s.v[i].offset >= size || s.v[i].at & SITE_RETURN)
			abort();
	if (err && s.n)
		abort();
	sites_fini(&s);
	return 0;
}
