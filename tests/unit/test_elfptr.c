/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of agent/sites/elfptr.c: this process's own libssl against what the dynamic linker has
 * made of its data; a hand-made file; broken copies of both.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "sites/elfptr.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#if defined(__x86_64__)
#define THIS_MACHINE EM_X86_64
#define RELATIVE     R_X86_64_RELATIVE
#define SYMBOLIC     R_X86_64_64
#else
#define THIS_MACHINE EM_AARCH64
#define RELATIVE     R_AARCH64_RELATIVE
#define SYMBOLIC     R_AARCH64_ABS64
#endif
#ifndef DT_RELR
#define DT_RELRSZ 35
#define DT_RELR   36
#endif

#define N(a) (sizeof(a) / sizeof((a)[0]))

static int memfile(const void *p, size_t len)
{
	int fd = memfd_create("test_elfptr", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_true(write(fd, p, len) == (ssize_t)len);
	return fd;
}

/* --- a file made by hand ------------------------------------------------------------------------
 */

#define TEXT 0x400000
#define DATA 0x401000

struct image {
	Elf64_Ehdr eh;
	Elf64_Phdr ph[3];
	uint8_t text[128];
	struct data {
		uint64_t word[160];
		Elf64_Rela rela[4];
		uint64_t relr[3];
		Elf64_Dyn dyn[5];
	} data;
};

#define DATA_AT(member) (DATA + offsetof(struct data, member))

static const struct image image = {
	.eh = {.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
	       .e_type = ET_DYN,
	       .e_machine = THIS_MACHINE,
	       .e_version = EV_CURRENT,
	       .e_phoff = offsetof(struct image, ph),
	       .e_ehsize = sizeof(Elf64_Ehdr),
	       .e_phentsize = sizeof(Elf64_Phdr),
	       .e_phnum = 3},
	.ph = {{.p_type = PT_LOAD,
		.p_flags = PF_R | PF_X,
		.p_offset = offsetof(struct image, text),
		.p_vaddr = TEXT,
		.p_filesz = 128,
		.p_memsz = 128},
	       {.p_type = PT_LOAD,
		.p_flags = PF_R | PF_W,
		.p_offset = offsetof(struct image, data),
		.p_vaddr = DATA,
		.p_filesz = sizeof(struct data),
		.p_memsz = sizeof(struct data) + 64},
	       {.p_type = PT_DYNAMIC,
		.p_flags = PF_R | PF_W,
		.p_offset = offsetof(struct image, data.dyn),
		.p_vaddr = DATA_AT(dyn),
		.p_filesz = 5 * sizeof(Elf64_Dyn),
		.p_memsz = 5 * sizeof(Elf64_Dyn)}},
	.data = {.word = {[5] = TEXT + 0x20, [6] = DATA, [7] = TEXT + 0x7f, [130] = TEXT},
		 .rela = {{DATA + 8 * 3, ELF64_R_INFO(0, RELATIVE), TEXT + 0x10},
			  {DATA + 8 * 1, ELF64_R_INFO(0, RELATIVE), TEXT},
			  {DATA + 8 * 2, ELF64_R_INFO(7, SYMBOLIC), 0},
			  {DATA + 8 * 4, ELF64_R_INFO(0, RELATIVE), DATA}},
		 /* the 6th word; of the 63 after it the first two; of the next 63 the 61st */
		 .relr = {DATA + 8 * 5, 1 | 1 << 1 | 1 << 2, 1 | 1ull << 62},
		 .dyn = {{DT_RELA, {DATA_AT(rela)}},
			 {DT_RELASZ, {4 * sizeof(Elf64_Rela)}},
			 {DT_RELR, {DATA_AT(relr)}},
			 {DT_RELRSZ, {3 * sizeof(uint64_t)}},
			 {DT_NULL, {0}}}},
};

static int query(const struct image *im, struct elfptrs *p)
{
	int fd = memfile(im, sizeof(*im)), err = elfptrs_read(fd, p);

	close(fd);
	return err;
}

static void test_both_kinds_of_table_are_told_in_order(void **state)
{
	const uint64_t text = offsetof(struct image, text);
	const struct elfptr want[] = {
		{DATA + 8 * 1, text},        {DATA + 8 * 2, 0},
		{DATA + 8 * 3, text + 0x10}, {DATA + 8 * 4, 0},
		{DATA + 8 * 5, text + 0x20}, {DATA + 8 * 6, 0},
		{DATA + 8 * 7, text + 0x7f}, {DATA + 8 * 130, text},
	};
	struct elfptrs p;

	(void)state;
	assert_int_equal(query(&image, &p), 0);
	assert_int_equal(p.n, N(want));
	for (size_t i = 0; i < N(want); i++) {
		assert_int_equal(p.v[i].at, want[i].at);
		assert_int_equal(p.v[i].to, want[i].to);
	}
	elfptrs_fini(&p);
	assert_null(p.v);
}

static void test_place_filled_in_twice_points_nowhere(void **state)
{
	struct image im = image;
	struct elfptrs p;

	(void)state;
	im.data.rela[1].r_offset = DATA + 8 * 5;
	assert_int_equal(query(&im, &p), 0);
	assert_int_equal(p.n, 7);
	for (size_t i = 0; i < p.n; i++)
		if (p.v[i].at == DATA + 8 * 5)
			assert_int_equal(p.v[i].to, 0);
	elfptrs_fini(&p);
}

static void test_library_without_relocations_has_no_pointers(void **state)
{
	struct image im = image;
	struct elfptrs p;

	(void)state;
	im.data.dyn[0].d_tag = im.data.dyn[2].d_tag = DT_DEBUG;
	assert_int_equal(query(&im, &p), 0);
	assert_int_equal(p.n, 0);
	elfptrs_fini(&p);
}

static void test_tables_outside_of_the_file_are_refused(void **state)
{
	static const uint64_t sizes[] = {sizeof(struct image) / 24 * 24, 24ull << 16, 1, 23,
					 UINT64_MAX / 24 * 24};
	struct image im = image;
	struct elfptrs p;

	(void)state;
	for (size_t i = 0; i < N(sizes); i++) {
		im.data.dyn[1].d_un.d_val = sizes[i];
		assert_true(query(&im, &p) < 0);
	}
	im = image;
	im.data.dyn[0].d_un.d_ptr = UINT64_MAX - 7;
	assert_int_equal(query(&im, &p), -ENOEXEC);
	im.data.dyn[0].d_un.d_ptr = DATA - 1;
	assert_int_equal(query(&im, &p), -ENOEXEC);
	im = image;
	im.data.dyn[2].d_un.d_ptr = DATA + sizeof(struct data); /* memory only */
	assert_int_equal(query(&im, &p), -ENOEXEC);
	im = image;
	im.ph[1].p_offset = UINT64_MAX - 16;
	assert_int_equal(query(&im, &p), -ENOEXEC);
	im = image;
	im.data.dyn[4].d_tag = DT_DEBUG; /* no end */
	assert_int_equal(query(&im, &p), -ENOEXEC);
}

/* A sparse file costs its owner nothing; a table as large as it says would cost us memory. */
static void test_huge_tables_of_a_sparse_file_are_not_read(void **state)
{
	const uint64_t huge = 24ull << 25;
	struct image im = image;
	struct elfptrs p;
	int fd;

	(void)state;
	im.ph[1].p_filesz = im.ph[1].p_memsz = huge + sizeof(im);
	im.data.dyn[1].d_un.d_val = huge;
	fd = memfile(&im, sizeof(im));
	assert_int_equal(ftruncate(fd, (off_t)(huge + 2 * sizeof(im))), 0);
	assert_int_equal(elfptrs_read(fd, &p), -EFBIG);
	close(fd);
}

/* Few bytes of bitmap describe many places. */
static void test_bitmaps_of_a_sparse_file_end_somewhere(void **state)
{
	const size_t words = 1u << 16;
	struct image im = image;
	uint64_t *map = malloc(words * sizeof(*map));
	struct elfptrs p;
	int fd;

	(void)state;
	assert_non_null(map);
	memset(map, 0xff, words * sizeof(*map));
	map[0] = DATA;
	im.ph[1].p_filesz = im.ph[1].p_memsz = 1ull << 30;
	im.data.dyn[2].d_un.d_ptr = DATA + sizeof(struct data);
	im.data.dyn[3].d_un.d_val = words * sizeof(*map);
	fd = memfile(&im, sizeof(im));
	assert_true(write(fd, map, words * sizeof(*map)) == (ssize_t)(words * sizeof(*map)));
	assert_int_equal(ftruncate(fd, 1 << 30), 0);
	assert_int_equal(elfptrs_read(fd, &p), -EFBIG);
	close(fd);
	free(map);
}

static void test_other_kinds_of_file_are_refused(void **state)
{
	struct image im;
	struct elfptrs p;

	(void)state;
	im = image;
	im.eh.e_type = ET_EXEC;
	assert_int_equal(query(&im, &p), -ENOEXEC);
	im = image;
	im.eh.e_machine = EM_386;
	assert_int_equal(query(&im, &p), -ENOEXEC);
	im = image;
	im.eh.e_ident[EI_DATA] = ELFDATA2MSB;
	assert_int_equal(query(&im, &p), -ENOEXEC);
	im = image;
	im.eh.e_ident[EI_CLASS] = ELFCLASS32;
	assert_int_equal(query(&im, &p), -ENOEXEC);
	im = image;
	im.eh.e_phnum = 0xffff;
	assert_int_equal(query(&im, &p), -ENOEXEC);
	im = image;
	im.eh.e_phoff = UINT64_MAX - 8;
	assert_int_equal(query(&im, &p), -ENOEXEC);
	im = image;
	im.ph[2].p_type = PT_NOTE;
	assert_int_equal(query(&im, &p), -ENOEXEC);
	assert_int_equal(elfptrs_read(-1, &p), -ENOEXEC);
}

static void test_memory_is_read_where_the_file_holds_it(void **state)
{
	int fd = memfile(&image, sizeof(image));
	uint64_t v = 0;

	(void)state;
	assert_true(elfptr_peek(fd, DATA + 8 * 130, &v, sizeof(v)));
	assert_int_equal(v, TEXT);
	assert_false(elfptr_peek(fd, DATA + sizeof(struct data), &v, sizeof(v)));
	assert_false(elfptr_peek(fd, DATA + sizeof(struct data) - 7, &v, sizeof(v)));
	assert_false(elfptr_peek(fd, 0, &v, sizeof(v)));
	assert_false(elfptr_peek(-1, DATA, &v, sizeof(v)));
	close(fd);
}

/* --- the real thing -----------------------------------------------------------------------------
 */

static int open_libssl(struct link_map **map)
{
	void *lib = dlopen("libssl.so.3", RTLD_NOW);
	int fd;

	assert_non_null(lib);
	assert_int_equal(dlinfo(lib, RTLD_DI_LINKMAP, map), 0);
	fd = open((*map)->l_name, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

#define BREAKPOINT 0xcc /* x86-64: an agent on this machine may have placed probes */

/* Each pointer to code, as it lies in this process: the code there is the file's. */
static void test_pointers_agree_with_the_dynamic_linker(void **state)
{
	struct link_map *map;
	int fd = open_libssl(&map);
	struct elfptrs p;
	size_t code = 0;

	(void)state;
	assert_int_equal(elfptrs_read(fd, &p), 0);
	for (size_t i = 0; i < p.n; i++) {
		const uint8_t *to = *(const uint8_t **)(map->l_addr + p.v[i].at);
		uint8_t file[16];

		if (!p.v[i].to)
			continue;
		assert_true(pread(fd, file, sizeof(file), (off_t)p.v[i].to) == sizeof(file));
		for (int k = 0; k < 4; k++) /* an entry at the segment's end may be short */
			assert_true(to[k] == file[k] || to[k] == BREAKPOINT);
		code++;
	}
	assert_true(code > 100);
	elfptrs_fini(&p);
	close(fd);
}

static void check_any(int fd, uint64_t size)
{
	struct elfptrs p = {0};
	int err = elfptrs_read(fd, &p);

	assert_true(err == 0 || err == -ENOEXEC || err == -EFBIG);
	for (size_t i = 0; i < p.n; i++) {
		assert_true(p.v[i].to < size);
		assert_true(!i || p.v[i - 1].at < p.v[i].at);
	}
	elfptrs_fini(&p);
}

static void test_broken_copies_never_point_beyond_the_file(void **state)
{
	uint64_t random = 88172645463325252ull;
	struct image im;

	(void)state;
	for (size_t len = 0; len < sizeof(image); len += 7) {
		int fd = memfile(&image, len);

		check_any(fd, len);
		close(fd);
	}
	for (int i = 0; i < 4000; i++) {
		int fd;

		im = image;
		for (int k = 0; k < 3; k++) {
			random ^= random << 13;
			random ^= random >> 7;
			random ^= random << 17;
			((uint8_t *)&im)[random % sizeof(im)] = (uint8_t)(random >> 40);
		}
		fd = memfile(&im, sizeof(im));
		check_any(fd, sizeof(im));
		close(fd);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_both_kinds_of_table_are_told_in_order),
		cmocka_unit_test(test_place_filled_in_twice_points_nowhere),
		cmocka_unit_test(test_library_without_relocations_has_no_pointers),
		cmocka_unit_test(test_tables_outside_of_the_file_are_refused),
		cmocka_unit_test(test_huge_tables_of_a_sparse_file_are_not_read),
		cmocka_unit_test(test_bitmaps_of_a_sparse_file_end_somewhere),
		cmocka_unit_test(test_other_kinds_of_file_are_refused),
		cmocka_unit_test(test_memory_is_read_where_the_file_holds_it),
		cmocka_unit_test(test_pointers_agree_with_the_dynamic_linker),
		cmocka_unit_test(test_broken_copies_never_point_beyond_the_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
