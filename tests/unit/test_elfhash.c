/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of agent/sites/elfhash.c against GNU ld's work: one small library, with either kind of
 * hash table. tests/vectors/elf_gnu.so, elf_sysv.so: gcc -shared -nostdlib -Wl,--hash-style=….
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "sites/elfhash.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__x86_64__)
#define OURS(test) cmocka_unit_test(test)
#else
#define OURS(test) /* the vectors are x86-64's */
#endif

static const char *const names[] = {"SSL_read", "SSL_write", "SSL_free", "last",
				    "SSL_peek", "data",      "local",    "SSL_rea"};
enum { N = sizeof(names) / sizeof(names[0]), DEFINED = 4 };

static const char *const vectors[] = {VECTORS "/elf_gnu.so", VECTORS "/elf_sysv.so"};

static int find(int fd, uint64_t offsets[N])
{
	struct elfview e;
	int n = elfview_open(&e, fd);

	if (n)
		return n;
	n = elfhash_find(&e, names, N, offsets);
	elfview_close(&e);
	return n;
}

/* The dynamic linker finds the same. (An agent may have put its probes on what it has mapped.) */
static void check_places(const char *path, const uint64_t offsets[N])
{
	void *lib = dlopen(path, RTLD_LAZY);

	assert_non_null(lib);
	for (int i = 0; i < DEFINED; i++) {
		const uint8_t *at = dlsym(lib, names[i]);
		Dl_info info;

		assert_true(dladdr(at, &info));
		assert_int_equal(at - (const uint8_t *)info.dli_fbase, offsets[i]);
	}
	dlclose(lib);
}

__attribute__((unused)) static void test_defined_functions_are_found_and_no_others(void **state)
{
	uint64_t offsets[N];

	(void)state;
	for (int v = 0; v < 2; v++) {
		int fd = open(vectors[v], O_RDONLY | O_CLOEXEC);

		assert_true(fd >= 0);
		assert_int_equal(find(fd, offsets), DEFINED);
		for (int i = DEFINED; i < N; i++) /* imported, data, not exported, part of a name */
			assert_int_equal(offsets[i], 0);
		check_places(vectors[v], offsets);
		close(fd);
	}
}

/* A copy with one byte changed, cut at len. */
static int changed(const uint8_t *b, size_t len, size_t at)
{
	int fd = memfd_create("test_elfhash", MFD_CLOEXEC);
	uint8_t c = at < len ? (uint8_t)~b[at] : 0;

	assert_int_equal(write(fd, b, len), len);
	if (at < len)
		assert_int_equal(pwrite(fd, &c, 1, (off_t)at), 1);
	return fd;
}

static void check_bounds(const uint8_t *b, size_t len, size_t at)
{
	int fd = changed(b, len, at), n, found = 0;
	uint64_t offsets[N] = {0};

	n = find(fd, offsets);
	close(fd);
	for (int i = 0; i < N; i++) {
		assert_true(!offsets[i] || offsets[i] < len);
		found += offsets[i] != 0;
	}
	assert_true(n < 0 || n == found);
}

__attribute__((unused)) static void test_broken_files_never_point_beyond_themselves(void **state)
{
	static uint8_t b[16384];

	(void)state;
	for (int v = 0; v < 2; v++) {
		int fd = open(vectors[v], O_RDONLY | O_CLOEXEC);
		ssize_t n = read(fd, b, sizeof(b));

		assert_true(n > 1000 && n < (ssize_t)sizeof(b));
		close(fd);
		for (size_t len = 0; len < (size_t)n; len += 13)
			check_bounds(b, len, len);
		for (size_t at = 0; at < 2048; at++)
			check_bounds(b, (size_t)n, at);
	}
}

static void test_what_is_no_elf_file_is_refused(void **state)
{
	uint64_t offsets[N];
	int fd = changed((const uint8_t *)"#!/bin/sh\nexit 0\n", 17, 17);

	(void)state;
	assert_int_equal(find(fd, offsets), -ENOEXEC);
	close(fd);
	fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	assert_int_equal(find(fd, offsets), -ENOEXEC);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		OURS(test_defined_functions_are_found_and_no_others),
		OURS(test_broken_files_never_point_beyond_themselves),
		cmocka_unit_test(test_what_is_no_elf_file_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
