/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of agent/sites/elfsym.c: the libssl of this very program, against the dynamic linker
 * and the kernel's own list of mappings; a hand-made file; broken copies of both.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "sites/elfsym.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#if defined(__x86_64__)
#define THIS_MACHINE  EM_X86_64
#define OTHER_MACHINE EM_AARCH64
#else
#define THIS_MACHINE  EM_AARCH64
#define OTHER_MACHINE EM_X86_64
#endif

#define N(a) (sizeof(a) / sizeof((a)[0]))

static const char *const ssl_names[] = {"SSL_read",     "SSL_write",    "SSL_read_ex",
					"SSL_write_ex", "SSL_free",     "SSL_peek",
					"SSL_connect",  "SSL_shutdown", "SSL_CTX_new"};

/* --- the real thing -----------------------------------------------------------------------------
 */

/* File and offset behind an address of this process, as the kernel sees it (proc(5), maps). */
static uint64_t mapped_offset(const void *addr, char path[4096])
{
	unsigned long long start, end, off;
	uint64_t found = 0;
	char line[4400], perms[5];
	FILE *f = fopen("/proc/self/maps", "re");

	assert_non_null(f);
	while (!found && fgets(line, sizeof(line), f))
		if (sscanf(line, "%llx-%llx %4s %llx %*x:%*x %*u %4095s", &start, &end, perms, &off,
			   path) == 5 &&
		    (uintptr_t)addr >= start && (uintptr_t)addr < end)
			found = (uintptr_t)addr - start + off;
	fclose(f);
	return found;
}

/* The libssl of this process, open; its path in `path`. */
static int open_libssl(char path[4096])
{
	void *lib = dlopen("libssl.so.3", RTLD_NOW);
	int fd;

	assert_non_null(lib);
	assert_int_not_equal(mapped_offset(dlsym(lib, "SSL_read"), path), 0);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void test_offsets_agree_with_the_dynamic_linker(void **state)
{
	char path[4096], other[4096];
	int fd = open_libssl(path);
	void *lib = dlopen(path, RTLD_NOW);
	uint64_t offsets[N(ssl_names)];

	(void)state;
	assert_int_equal(elfsym_offsets(fd, ssl_names, N(ssl_names), offsets), N(ssl_names));
	for (size_t i = 0; i < N(ssl_names); i++) {
		assert_int_equal(offsets[i], mapped_offset(dlsym(lib, ssl_names[i]), other));
		assert_string_equal(path, other);
	}
	close(fd);
}

static void test_file_position_is_neither_used_nor_needed(void **state)
{
	char path[4096];
	int fd = open_libssl(path);
	uint64_t a[1], b[1];

	(void)state;
	assert_int_equal(elfsym_offsets(fd, ssl_names, 1, a), 1);
	assert_true(lseek(fd, 12345, SEEK_SET) == 12345);
	assert_int_equal(elfsym_offsets(fd, ssl_names, 1, b), 1);
	assert_int_equal(a[0], b[0]);
	close(fd);
}

static void test_names_that_are_not_defined_here_are_zero(void **state)
{
	/* BIO_new is only used by libssl, libcrypto defines it; the second is in nobody's table. */
	static const char *const names[] = {"BIO_new", "SSL_rea", "SSL_read", "SSL_read_exx", ""};
	char path[4096];
	int fd = open_libssl(path);
	uint64_t offsets[5] = {1, 1, 1, 1, 1};

	(void)state;
	assert_int_equal(elfsym_offsets(fd, names, 5, offsets), 1);
	assert_int_equal(offsets[0] | offsets[1] | offsets[3] | offsets[4], 0);
	assert_int_not_equal(offsets[2], 0);
	assert_int_equal(elfsym_offsets(fd, names, 0, offsets), 0);
	close(fd);
}

/* --- broken copies ------------------------------------------------------------------------------
 */

static int memfile(const void *p, size_t len)
{
	int fd = memfd_create("test_elfsym", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_true(write(fd, p, len) == (ssize_t)len);
	return fd;
}

/* Whatever is in the file, what is returned must be consistent and within it. */
static int check_any(int fd, uint64_t size)
{
	uint64_t offsets[N(ssl_names)];
	int n = elfsym_offsets(fd, ssl_names, N(ssl_names), offsets), found = 0;

	for (size_t i = 0; i < N(ssl_names); i++) {
		if (offsets[i] >= size)
			assert_int_equal(offsets[i], 0);
		found += offsets[i] != 0;
	}
	if (n < 0)
		assert_int_equal(n, -ENOEXEC);
	else
		assert_int_equal(n, found);
	return n;
}

static uint8_t *read_libssl(size_t *size)
{
	char path[4096];
	int fd = open_libssl(path);
	struct stat st;
	uint8_t *p;

	assert_int_equal(fstat(fd, &st), 0);
	p = malloc((size_t)st.st_size);
	assert_true(read(fd, p, (size_t)st.st_size) == st.st_size);
	close(fd);
	*size = (size_t)st.st_size;
	return p;
}

static void test_truncated_copies_never_point_beyond_themselves(void **state)
{
	size_t size, step;
	uint8_t *p = read_libssl(&size);
	int fd = memfile(p, size);

	(void)state;
	for (size_t len = size; len > 0; len -= step) {
		step = len > 4096 ? (len - 1) % 4096 + 1 : len > 256 ? 64 : 1;
		assert_int_equal(ftruncate(fd, (off_t)len), 0);
		check_any(fd, len);
	}
	close(fd);
	free(p);
}

static void flip(int fd, const uint8_t *p, size_t size, size_t at)
{
	static const uint8_t with[] = {0x01, 0x80, 0xff, 0x00};

	for (size_t i = 0; i < N(with); i++) {
		uint8_t v = with[i] ? p[at] ^ with[i] : 0xff;

		assert_true(pwrite(fd, &v, 1, (off_t)at) == 1);
		check_any(fd, size);
	}
	assert_true(pwrite(fd, p + at, 1, (off_t)at) == 1);
}

static void flip_all(int fd, const uint8_t *p, size_t size, size_t from, size_t len)
{
	for (size_t i = 0; i < len && from + i < size; i++)
		flip(fd, p, size, from + i);
}

static void test_flipped_bytes_never_point_beyond_the_file(void **state)
{
	size_t size;
	uint8_t *p = read_libssl(&size);
	Elf64_Ehdr eh;
	int fd = memfile(p, size);
	uint64_t random = 88172645463325252ull;

	(void)state;
	memcpy(&eh, p, sizeof(eh));
	flip_all(fd, p, size, 0, sizeof(eh));
	flip_all(fd, p, size, eh.e_phoff, (size_t)eh.e_phnum * sizeof(Elf64_Phdr));
	flip_all(fd, p, size, eh.e_shoff,
		 6 * sizeof(Elf64_Shdr)); /* .dynsym and .dynstr are there */
	for (int i = 0; i < 500; i++) {
		random ^= random << 13;
		random ^= random >> 7;
		random ^= random << 17;
		flip(fd, p, size, random % size);
	}
	assert_int_equal(check_any(fd, size), N(ssl_names)); /* all is as it was */
	close(fd);
	free(p);
}

/* --- a file made by hand ------------------------------------------------------------------------
 */

#define VADDR 0x400000

/* One segment with code, one with data, a table of dynamic symbols; the layout of a small library.
 */
struct image {
	Elf64_Ehdr eh;
	Elf64_Phdr ph[2];
	uint8_t text[128], data[64];
	char str[64];
	Elf64_Sym sym[4];
	Elf64_Shdr sh[3];
};

static const struct image image = {
	.eh = {.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
	       .e_type = ET_DYN,
	       .e_machine = THIS_MACHINE,
	       .e_version = EV_CURRENT,
	       .e_phoff = offsetof(struct image, ph),
	       .e_shoff = offsetof(struct image, sh),
	       .e_ehsize = sizeof(Elf64_Ehdr),
	       .e_phentsize = sizeof(Elf64_Phdr),
	       .e_phnum = 2,
	       .e_shentsize = sizeof(Elf64_Shdr),
	       .e_shnum = 3},
	.ph = {{.p_type = PT_LOAD,
		.p_flags = PF_R | PF_X,
		.p_offset = offsetof(struct image, text),
		.p_vaddr = VADDR,
		.p_filesz = 128,
		.p_memsz = 256},
	       {.p_type = PT_LOAD,
		.p_flags = PF_R | PF_W,
		.p_offset = offsetof(struct image, data),
		.p_vaddr = VADDR + 0x1000,
		.p_filesz = 64,
		.p_memsz = 64}},
	.str = "\0SSL_read\0SSL_write\0SSL_free",
	.sym = {{0},
		{.st_name = 1,
		 .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC),
		 .st_shndx = 1,
		 .st_value = VADDR + 0x10},
		{.st_name = 10,
		 .st_info = ELF64_ST_INFO(STB_WEAK, STT_FUNC),
		 .st_shndx = 1,
		 .st_value = VADDR + 0x7f},
		{.st_name = 20,
		 .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC),
		 .st_shndx = 1,
		 .st_value = VADDR}},
	.sh = {{0},
	       {.sh_type = SHT_DYNSYM,
		.sh_offset = offsetof(struct image, sym),
		.sh_size = 4 * sizeof(Elf64_Sym),
		.sh_entsize = sizeof(Elf64_Sym),
		.sh_link = 2,
		.sh_info = 1,
		.sh_addralign = 8},
	       {.sh_type = SHT_STRTAB,
		.sh_offset = offsetof(struct image, str),
		.sh_size = 64,
		.sh_addralign = 1}},
};

static const char *const image_names[3] = {"SSL_read", "SSL_write", "SSL_free"};

static int query(const struct image *im, uint64_t offsets[3])
{
	int fd = memfile(im, sizeof(*im)), n = elfsym_offsets(fd, image_names, 3, offsets);

	close(fd);
	return n;
}

static void test_address_becomes_an_offset_through_its_segment(void **state)
{
	const uint64_t text = offsetof(struct image, text);
	uint64_t offsets[3];

	(void)state;
	assert_int_equal(query(&image, offsets), 3);
	assert_int_equal(offsets[0], text + 0x10);
	assert_int_equal(offsets[1], text + 0x7f);
	assert_int_equal(offsets[2], text);
}

static void test_full_symbol_table_and_fixed_addresses_serve_too(void **state)
{
	struct image im = image;
	uint64_t offsets[3];

	(void)state;
	im.sh[1].sh_type = SHT_SYMTAB; /* a program linked statically */
	im.eh.e_type = ET_EXEC;
	assert_int_equal(query(&im, offsets), 3);
}

static void test_symbols_without_code_in_the_file_are_not_found(void **state)
{
	struct image im = image;
	uint64_t offsets[3];

	(void)state;
	im.sym[1].st_value = VADDR + 0x80;   /* memory only: beyond p_filesz */
	im.sym[2].st_value = VADDR + 0x1008; /* in data */
	im.sym[3].st_value = VADDR - 1;
	assert_int_equal(query(&im, offsets), 0);
	im = image;
	im.sym[1].st_shndx = SHN_UNDEF;
	im.sym[2].st_info = ELF64_ST_INFO(STB_GLOBAL, STT_OBJECT);
	im.sym[3].st_info =
		ELF64_ST_INFO(STB_GLOBAL, STT_GNU_IFUNC); /* a resolver, not the function */
	assert_int_equal(query(&im, offsets), 0);
	assert_int_equal(offsets[0] | offsets[1] | offsets[2], 0);
}

static void test_segment_that_claims_to_lie_beyond_the_file_gives_no_offset(void **state)
{
	static const uint64_t starts[] = {sizeof(struct image), 1ull << 40, UINT64_MAX - 0x10,
					  UINT64_MAX};
	struct image im = image;
	uint64_t offsets[3];

	(void)state;
	for (size_t i = 0; i < N(starts); i++) {
		im.ph[0].p_offset = starts[i];
		assert_int_equal(query(&im, offsets), 0);
		assert_int_equal(offsets[0] | offsets[1] | offsets[2], 0);
	}
	im = image;
	im.ph[0].p_filesz = im.ph[0].p_memsz =
		UINT64_MAX; /* the segment ends long after the file */
	im.sym[1].st_value = VADDR + sizeof(im);
	assert_int_equal(query(&im, offsets), 2);
	assert_int_equal(offsets[0], 0);
}

static void test_names_that_run_out_of_their_table_are_not_read(void **state)
{
	struct image im = image;
	uint64_t offsets[3];

	(void)state;
	im.sym[1].st_name = UINT32_MAX;
	im.sym[2].st_name = 64;
	memset(im.str + 20, 'x', sizeof(im.str) - 20); /* the third has no end */
	assert_int_equal(query(&im, offsets), 0);
	im = image;
	im.sh[1].sh_link = 77;
	assert_true(query(&im, offsets) <= 0);
	im = image;
	im.sh[1].sh_entsize = 1; /* more entries than there is room for */
	assert_int_equal(query(&im, offsets), 3);
}

static void test_other_kinds_of_file_are_refused(void **state)
{
	struct image im;
	uint64_t offsets[3];

	(void)state;
	im = image;
	im.eh.e_ident[EI_CLASS] = ELFCLASS32;
	assert_int_equal(query(&im, offsets), -ENOEXEC);
	im = image;
	im.eh.e_machine = OTHER_MACHINE;
	assert_int_equal(query(&im, offsets), -ENOEXEC);
	im = image;
	im.eh.e_type = ET_REL;
	assert_int_equal(query(&im, offsets), -ENOEXEC);
	im.eh.e_type = ET_CORE;
	assert_int_equal(query(&im, offsets), -ENOEXEC);
	im = image;
	im.eh.e_ident[EI_MAG1] = 'l';
	assert_int_equal(query(&im, offsets), -ENOEXEC);
	im = image;
	im.eh.e_ident[EI_DATA] = ELFDATA2MSB;
	assert_int_equal(query(&im, offsets), -ENOEXEC);
}

static void refused(int fd)
{
	uint64_t offsets[3] = {1, 1, 1};

	assert_int_equal(elfsym_offsets(fd, image_names, 3, offsets), -ENOEXEC);
	assert_int_equal(offsets[0] | offsets[1] | offsets[2], 0);
	if (fd >= 0)
		close(fd);
}

static void test_what_is_no_program_at_all_is_refused(void **state)
{
	int ends[2];

	(void)state;
	refused(memfile("", 0));
	refused(memfile("\x7f"
			"ELF",
			4));
	refused(memfile("#!/bin/sh\necho libssl\n", 22));
	refused(memfile("!<arch>\n", 8));
	refused(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	refused(-1);
	assert_int_equal(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
	refused(ends[0]);
	close(ends[1]);
}

static long peak_kib(void)
{
	struct rusage u;

	assert_int_equal(getrusage(RUSAGE_SELF, &u), 0);
	return u.ru_maxrss;
}

/* A sparse file costs its owner nothing; a table as large as it says would cost us as much memory.
 */
static void test_huge_tables_of_a_sparse_file_are_not_read(void **state)
{
	const uint64_t huge = 768ull << 20;
	struct image im = image;
	uint64_t offsets[3];
	long before = peak_kib();
	int fd;

	(void)state;
	im.sh[1].sh_offset = sizeof(im) & ~7ull;
	im.sh[1].sh_size = huge;
	fd = memfile(&im, sizeof(im));
	assert_int_equal(ftruncate(fd, (off_t)(huge + sizeof(im))), 0);
	assert_true(elfsym_offsets(fd, image_names, 3, offsets) <= 0);
	im = image;
	im.sh[2].sh_size = huge;
	assert_true(pwrite(fd, &im, sizeof(im), 0) == sizeof(im));
	assert_true(elfsym_offsets(fd, image_names, 3, offsets) <= 0);
	im = image;
	im.eh.e_shnum =
		0; /* extended numbering: the number of sections stands in the first one's size */
	im.sh[0].sh_size = huge / sizeof(Elf64_Shdr);
	assert_true(pwrite(fd, &im, sizeof(im), 0) == sizeof(im));
	assert_int_equal(elfsym_offsets(fd, image_names, 3, offsets), -ENOEXEC);
	close(fd);
	assert_in_range(peak_kib() - before, 0, 256 << 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_huge_tables_of_a_sparse_file_are_not_read),
		cmocka_unit_test(test_offsets_agree_with_the_dynamic_linker),
		cmocka_unit_test(test_file_position_is_neither_used_nor_needed),
		cmocka_unit_test(test_names_that_are_not_defined_here_are_zero),
		cmocka_unit_test(test_truncated_copies_never_point_beyond_themselves),
		cmocka_unit_test(test_flipped_bytes_never_point_beyond_the_file),
		cmocka_unit_test(test_address_becomes_an_offset_through_its_segment),
		cmocka_unit_test(test_full_symbol_table_and_fixed_addresses_serve_too),
		cmocka_unit_test(test_symbols_without_code_in_the_file_are_not_found),
		cmocka_unit_test(test_segment_that_claims_to_lie_beyond_the_file_gives_no_offset),
		cmocka_unit_test(test_names_that_run_out_of_their_table_are_not_read),
		cmocka_unit_test(test_other_kinds_of_file_are_refused),
		cmocka_unit_test(test_what_is_no_program_at_all_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
