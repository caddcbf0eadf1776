/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of agent/sites/sites_openssl.c: the libssl of this very program, and a hand-made
 * library whose functions are changed one by one until nothing is proven any more.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/types.h>

#include "sites/sites.h"

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PUBLIC_MOVERS 5 /* SSL_read, _ex, SSL_write, _ex, _ex2 */

static const struct site *site_at(const struct sites *s, uint64_t offset)
{
	for (size_t i = 0; i < s->n; i++)
		if (s->v[i].offset == offset)
			return &s->v[i];
	return NULL;
}

static size_t movers(const struct sites *s)
{
	size_t n = 0;

	for (size_t i = 0; i < s->n; i++)
		n += sslc_call_moves(s->v[i].call) && s->v[i].call != SSLC_CALL_SENDFILE;
	return n;
}

/* --- the real thing -----------------------------------------------------------------------------
 */

static void test_libssl_is_probed_where_all_its_calls_meet_or_at_each_of_them(void **state)
{
	void *lib = dlopen("libssl.so.3", RTLD_NOW);
	struct sites s = {0};
	Dl_info info;
	int fd, n;

	(void)state;
	assert_non_null(lib);
	assert_true(dladdr(dlsym(lib, "SSL_read"), &info));
	fd = open(info.dli_fname, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(sites_openssl(fd, &s), 0);
	n = (int)movers(&s);
	print_message("%s: %d functions\n", info.dli_fname, n);
	assert_true(n == 2 || n == PUBLIC_MOVERS || n == PUBLIC_MOVERS - 1);
	assert_in_range(s.movers, n, n + 1); /* SSL_sendfile came with 3.0 */
	sites_fini(&s);
	close(fd);
}

/* --- a library made by hand ---------------------------------------------------------------------
 */

#if defined(__x86_64__)

#define SLOT 48 /* bytes of code a function */
enum { READ, READ_EX, WRITE, WRITE_EX, WRITE_EX2, PEEK, PEEK_EX, FREE, N_NAMED };
enum { INNER_READ = N_NAMED, INNER_WRITE, INNER_PEEK, OTHER, N_SLOTS };

static const char *const names[N_NAMED] = {"SSL_read",     "SSL_read_ex",   "SSL_write",
					   "SSL_write_ex", "SSL_write_ex2", "SSL_peek",
					   "SSL_peek_ex",  "SSL_free"};

struct image {
	Elf64_Ehdr eh;
	Elf64_Phdr ph;
	uint8_t text[N_SLOTS][SLOT];
	char str[128];
	Elf64_Sym sym[N_NAMED + 1];
	Elf64_Shdr sh[3];
};
#define VADDR 0x10000u

static uint64_t slot_offset(int slot)
{
	return offsetof(struct image, text) + (uint64_t)slot * SLOT;
}

static void put(struct image *im, int slot, const uint8_t *code, size_t len)
{
	memset(im->text[slot], 0xcc, SLOT);
	memcpy(im->text[slot], code, len);
}
#define PUT(im, slot, ...)                                                                         \
	put(im, slot, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

/* Let the call or jump whose 4 bytes of distance begin at `at` go to another slot. */
static void aim(struct image *im, int slot, size_t at, int to)
{
	int32_t rel = (to - slot) * SLOT - (int32_t)at - 4;

	memcpy(im->text[slot] + at, &rel, sizeof(rel));
}

/* int f(s, buf, n, result): sub rsp,8; call to; add rsp,8; ret */
static void put_ex(struct image *im, int slot, int to)
{
	PUT(im, slot, 0x48, 0x83, 0xec, 8, 0xe8, 0, 0, 0, 0, 0x48, 0x83, 0xc4, 8, 0xc3);
	aim(im, slot, 5, to);
}

/* sub rsp,24; test edx,edx; js …; mov rcx,rsp; movsxd rdx,edx; call to */
static void put_plain(struct image *im, int slot, int to)
{
	PUT(im, slot, 0x48, 0x83, 0xec, 24, 0x85, 0xd2, 0x78, 11, 0x48, 0x89, 0xe1, 0x48, 0x63,
	    0xd2, 0xe8, 0, 0, 0, 0, 0xe8, 0, 0, 0, 0);
	aim(im, slot, 15, to);
	aim(im, slot, 20, OTHER);
}

/* The same with flags: endbr64; sub rsp,24; xor ecx,ecx; movsxd rdx,edx; mov r8,rsp; call to */
static void put_plain2(struct image *im, int slot, int to)
{
	PUT(im, slot, 0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x83, 0xec, 24, 0x31, 0xc9, 0x48, 0x63, 0xd2,
	    0x49, 0x89, 0xe0, 0xe8, 0, 0, 0, 0);
	aim(im, slot, 17, to);
}

/* mov r8,rcx; xor ecx,ecx; jmp to */
static void put_tail(struct image *im, int slot, int to)
{
	PUT(im, slot, 0x49, 0x89, 0xc8, 0x31, 0xc9, 0xe9, 0, 0, 0, 0);
	aim(im, slot, 6, to);
}

static void add_symbol(struct image *im, int i)
{
	static uint32_t at;

	if (!i)
		at = 1;
	strcpy(im->str + at, names[i]);
	im->sym[i + 1] = (Elf64_Sym){.st_name = at,
				     .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC),
				     .st_shndx = 1,
				     .st_value = VADDR + (uint64_t)i * SLOT};
	at += (uint32_t)strlen(names[i]) + 1;
}

static void image_init(struct image *im)
{
	memset(im, 0, sizeof(*im));
	memset(im->text, 0xcc, sizeof(im->text));
	im->eh = (Elf64_Ehdr){.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64,
					  ELFDATA2LSB, EV_CURRENT},
			      .e_type = ET_DYN,
			      .e_machine = EM_X86_64,
			      .e_version = EV_CURRENT,
			      .e_phoff = offsetof(struct image, ph),
			      .e_shoff = offsetof(struct image, sh),
			      .e_ehsize = sizeof(Elf64_Ehdr),
			      .e_phentsize = sizeof(Elf64_Phdr),
			      .e_phnum = 1,
			      .e_shentsize = sizeof(Elf64_Shdr),
			      .e_shnum = 3};
	im->ph = (Elf64_Phdr){.p_type = PT_LOAD,
			      .p_flags = PF_R | PF_X,
			      .p_offset = offsetof(struct image, text),
			      .p_vaddr = VADDR,
			      .p_filesz = sizeof(im->text),
			      .p_memsz = sizeof(im->text)};
	for (int i = 0; i < N_NAMED; i++)
		add_symbol(im, i);
	im->sh[1] = (Elf64_Shdr){.sh_type = SHT_DYNSYM,
				 .sh_offset = offsetof(struct image, sym),
				 .sh_size = sizeof(im->sym),
				 .sh_entsize = sizeof(Elf64_Sym),
				 .sh_link = 2,
				 .sh_addralign = 8};
	im->sh[2] = (Elf64_Shdr){.sh_type = SHT_STRTAB,
				 .sh_offset = offsetof(struct image, str),
				 .sh_size = sizeof(im->str),
				 .sh_addralign = 1};
	put_plain(im, READ, INNER_READ);
	put_ex(im, READ_EX, INNER_READ);
	put_plain(im, PEEK, INNER_PEEK);
	put_ex(im, PEEK_EX, INNER_PEEK);
	PUT(im, INNER_READ, 0x55, 0xc3);                          /* push rbp; ret */
	PUT(im, INNER_WRITE, 0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0xc3); /* the same, marked */
}

/* As versions before 3.3 are built: SSL_write_ex2 is not there. */
static struct image old_library(void)
{
	struct image im;

	image_init(&im);
	im.sym[WRITE_EX2 + 1].st_shndx = SHN_UNDEF;
	put_plain(&im, WRITE, INNER_WRITE);
	put_ex(&im, WRITE_EX, INNER_WRITE);
	return im;
}

static struct image new_library(void)
{
	struct image im;

	image_init(&im);
	put_plain2(&im, WRITE, INNER_WRITE);
	put_tail(&im, WRITE_EX, -1); /* the procedure linkage table lies before */
	put_ex(&im, WRITE_EX2, INNER_WRITE);
	return im;
}

static struct sites find(const struct image *im)
{
	int fd = memfd_create("image", MFD_CLOEXEC);
	struct sites s = {0};

	assert_true(fd >= 0 && write(fd, im, sizeof(*im)) == sizeof(*im));
	assert_int_equal(sites_openssl(fd, &s), 0);
	close(fd);
	assert_non_null(site_at(&s, slot_offset(PEEK)));
	assert_int_equal(site_at(&s, slot_offset(PEEK))->call, SSLC_CALL_BIND);
	assert_int_equal(site_at(&s, slot_offset(FREE))->at, SITE_ENTRY);
	return s;
}

static void assert_internal(const struct image *im, enum sslc_call write_call)
{
	struct sites s = find(im);
	const struct site *rd = site_at(&s, slot_offset(INNER_READ));
	const struct site *wr = site_at(&s, slot_offset(INNER_WRITE) + 4);

	assert_non_null(rd);
	assert_non_null(wr);
	assert_int_equal(rd->call, SSLC_CALL_READ_EX);
	assert_int_equal(wr->call, write_call);
	assert_int_equal(rd->at, SITE_ENTRY | SITE_RETURN);
	assert_int_equal(wr->at, SITE_ENTRY | SITE_RETURN);
	assert_int_equal(movers(&s), 2);
	sites_fini(&s);
}

static void assert_public(const struct image *im)
{
	bool has_ex2 = im->sym[WRITE_EX2 + 1].st_shndx != SHN_UNDEF;
	struct sites s = find(im);

	assert_int_equal(movers(&s), has_ex2 ? PUBLIC_MOVERS : PUBLIC_MOVERS - 1);
	assert_int_equal(site_at(&s, slot_offset(READ))->call, SSLC_CALL_READ);
	assert_int_equal(site_at(&s, slot_offset(READ_EX))->call, SSLC_CALL_READ_EX);
	assert_int_equal(site_at(&s, slot_offset(WRITE))->call, SSLC_CALL_WRITE);
	assert_int_equal(site_at(&s, slot_offset(WRITE_EX))->call, SSLC_CALL_WRITE_EX);
	if (has_ex2)
		assert_int_equal(site_at(&s, slot_offset(WRITE_EX2))->call, SSLC_CALL_WRITE_EX2);
	sites_fini(&s);
}

static void test_functions_that_all_calls_go_through_are_taken_instead(void **state)
{
	struct image before = old_library(), since = new_library();

	(void)state;
	assert_internal(&before, SSLC_CALL_WRITE_EX);
	assert_internal(&since, SSLC_CALL_WRITE_EX2);
}

static void test_write_ex_may_call_with_flags_by_itself(void **state)
{
	struct image im = new_library();

	(void)state;
	/* sub rsp,8; mov r8,rcx; xor ecx,ecx; call */
	PUT(&im, WRITE_EX, 0x48, 0x83, 0xec, 8, 0x49, 0x89, 0xc8, 0x31, 0xc9, 0xe8, 0, 0, 0, 0);
	aim(&im, WRITE_EX, 10, INNER_WRITE);
	assert_internal(&im, SSLC_CALL_WRITE_EX2);
}

static void test_one_call_elsewhere_and_nothing_is_proven(void **state)
{
	static const int plain[] = {READ, WRITE}, ex[] = {READ_EX, WRITE_EX};
	struct image im;

	(void)state;
	for (int i = 0; i < 2; i++) {
		im = old_library();
		put_plain(&im, plain[i], OTHER);
		assert_public(&im);
		im = old_library();
		put_ex(&im, ex[i], OTHER);
		assert_public(&im);
	}
	im = new_library();
	put_ex(&im, WRITE_EX2, OTHER);
	assert_public(&im);
}

static void test_peek_that_ends_where_a_read_does_proves_nothing(void **state)
{
	struct image im = old_library();

	(void)state;
	put_plain(&im, PEEK, INNER_READ);
	assert_public(&im);
	im = old_library();
	put_ex(&im, PEEK_EX, INNER_READ);
	assert_public(&im);
	im = old_library();
	PUT(&im, PEEK, 0xeb, 0xfe); /* one that cannot be read */
	assert_public(&im);
}

static void test_reading_and_writing_in_one_function_proves_nothing(void **state)
{
	struct image im = old_library();

	(void)state;
	put_plain(&im, WRITE, INNER_READ);
	put_ex(&im, WRITE_EX, INNER_READ);
	assert_public(&im);
}

static void test_arguments_that_do_not_arrive_prove_nothing(void **state)
{
	struct image im = old_library();

	(void)state;
	/* inc rdi; call */
	PUT(&im, READ_EX, 0x48, 0xff, 0xc7, 0xe8, 0, 0, 0, 0);
	aim(&im, READ_EX, 4, INNER_READ);
	assert_public(&im);
	/* call; call: the second would be one of other arguments */
	im = old_library();
	PUT(&im, READ_EX, 0x85, 0xd2, 0x74, 5, 0xe8, 0, 0, 0, 0, 0xe8, 0, 0, 0, 0);
	aim(&im, READ_EX, 5, INNER_READ);
	aim(&im, READ_EX, 10, OTHER);
	assert_public(&im);
	/* the result where the flags are expected: xor ecx,ecx; movsxd rdx,edx; call */
	im = new_library();
	PUT(&im, WRITE, 0x31, 0xc9, 0x48, 0x63, 0xd2, 0xe8, 0, 0, 0, 0);
	aim(&im, WRITE, 6, INNER_WRITE);
	assert_public(&im);
	im = new_library();
	put_plain(&im, WRITE, INNER_WRITE);
	assert_public(&im);
}

static void test_internal_function_must_be_code_of_the_same_segment(void **state)
{
	struct image im = old_library();

	(void)state;
	PUT(&im, INNER_READ, 0x06); /* no instruction in 64-bit mode */
	assert_public(&im);
	im = old_library();
	im.ph.p_filesz = im.ph.p_memsz = INNER_READ * SLOT;
	assert_public(&im);
	im = old_library();
	for (int slot = READ; slot <= READ_EX; slot++) { /* far before the file */
		int32_t rel = INT32_MIN / 2 - slot * SLOT;

		memcpy(im.text[slot] + (slot == READ ? 15 : 5), &rel, sizeof(rel));
	}
	assert_public(&im);
}

static void test_functions_that_are_not_there_prove_nothing(void **state)
{
	static const int need[] = {READ_EX, WRITE_EX, PEEK_EX};
	struct sites s;

	(void)state;
	for (int i = 0; i < 3; i++) {
		struct image im = old_library();

		im.sym[need[i] + 1].st_shndx = SHN_UNDEF;
		s = find(&im);
		assert_non_null(site_at(&s, slot_offset(READ)));
		assert_non_null(site_at(&s, slot_offset(WRITE)));
		assert_null(site_at(&s, slot_offset(INNER_READ)));
		sites_fini(&s);
	}
}

#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_libssl_is_probed_where_all_its_calls_meet_or_at_each_of_them),
#if defined(__x86_64__)
		cmocka_unit_test(test_functions_that_all_calls_go_through_are_taken_instead),
		cmocka_unit_test(test_write_ex_may_call_with_flags_by_itself),
		cmocka_unit_test(test_one_call_elsewhere_and_nothing_is_proven),
		cmocka_unit_test(test_peek_that_ends_where_a_read_does_proves_nothing),
		cmocka_unit_test(test_reading_and_writing_in_one_function_proves_nothing),
		cmocka_unit_test(test_arguments_that_do_not_arrive_prove_nothing),
		cmocka_unit_test(test_internal_function_must_be_code_of_the_same_segment),
		cmocka_unit_test(test_functions_that_are_not_there_prove_nothing),
#endif
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
