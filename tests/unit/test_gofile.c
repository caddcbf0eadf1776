/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of agent/sites/gofile.c, agent/sites/gocode.c and agent/sites/sites_go.c on programs
 * of our own making, with the runtime's table in each of its forms as golang.org/s/go12symtab and
 * runtime/symtab.go of the release say. Real programs are the integration test's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "sites/gocode.h"
#include "sites/gofile.h"
#include "sites/sites.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__x86_64__)
#define MACHINE EM_X86_64
/* cmp 16(%r14), %rsp; jbe; push %rbp; pop %rbp; ret; ret; int3 … */
static const uint8_t new_code[] = {0x49, 0x3b, 0x66, 0x10, 0x76, 0x04,
				   0x55, 0x5d, 0xc3, 0x90, 0xc3};
/* mov %fs:-8, %rcx; cmp 16(%rcx), %rsp; jbe; ret */
static const uint8_t old_code[] = {0x64, 0x48, 0x8b, 0x0c, 0x25, 0xf8, 0xff, 0xff, 0xff,
				   0x48, 0x3b, 0x61, 0x10, 0x76, 0x01, 0xc3, 0x90, 0xc3};
enum { NEW_ENTRY = 6, OLD_ENTRY = 15, FILLER = 0xcc };
#else
#define MACHINE  EM_AARCH64
/* ldr x16, [x28, #16]; cmp sp, x16; b.ls; ret; ret */
static const uint8_t new_code[] = {0x90, 0x0b, 0x40, 0xf9, 0xff, 0x63, 0x30, 0xeb, 0x49, 0x00,
				   0x00, 0x54, 0xc0, 0x03, 0x5f, 0xd6, 0xc0, 0x03, 0x5f, 0xd6};
#define old_code new_code
enum { NEW_ENTRY = 12, OLD_ENTRY = 12, FILLER = 0 };
#endif

#define TEXT   0x1000u /* file offset; the address is BASE more */
#define TABLE  0x2000u
#define END    0x4000u
#define BASE   0x400000u
#define STRIDE 64u

static const char *const names[] = {
	"runtime.text",
	"crypto/tls.(*Conn).Read",
	"crypto/tls.(*Conn).writeRecordLocked",
	"main.main",
	"crypto/tls.(*Conn).serverHandshake",
};
enum { N_NAMES = sizeof(names) / sizeof(names[0]), READ = 1, WRITE = 2, MAIN = 3, SERVER = 4 };

struct image {
	uint8_t *b; /* END bytes */
};

static void put32(uint8_t *p, uint64_t v)
{
	uint32_t n = (uint32_t)v;

	memcpy(p, &n, sizeof(n));
}

static void put64(uint8_t *p, uint64_t v)
{
	memcpy(p, &v, sizeof(v));
}

/* The table: header, names at 128, functions at 1024, their structures at 2048. */
static void put_table(uint8_t *t, unsigned since, bool with_text)
{
	static const struct {
		unsigned since;
		uint32_t magic;
	} forms[] = {{2, 0xfffffffb}, {16, 0xfffffffa}, {18, 0xfffffff0}, {20, 0xfffffff1}};
	uint32_t magic = 0, at = 128;
	uint8_t *list = since == 2 ? t + 16 : t + 1024;

	for (int i = 0; i < 4; i++)
		if (forms[i].since == since)
			magic = forms[i].magic;
	put32(t, magic);
	t[6] = 1;
	t[7] = 8;
	put64(t + 8, N_NAMES);
	if (since >= 18) {
		put64(t + 24, with_text ? BASE + TEXT : 0);
		put64(t + 32, 128);
		put64(t + 64, 1024);
	} else if (since == 16) {
		put64(t + 24, 128);
		put64(t + 56, 1024);
	} else {
		at = 512;
	}
	for (uint32_t i = 0; i <= N_NAMES; i++) {
		uint64_t begin = i * STRIDE, info = 2048 + i * 32;
		uint8_t *where = since == 2 ? t + info : list + info;

		if (since >= 18) {
			put32(list + i * 8, begin);
			put32(list + i * 8 + 4, info);
			put32(where, begin);
		} else {
			put64(list + i * 16, BASE + TEXT + begin);
			put64(list + i * 16 + 8, info);
			put64(where, BASE + TEXT + begin);
		}
		if (i == N_NAMES)
			break;
		put32(where + (since >= 18 ? 4 : 8), since == 2 ? at : at - 128);
		strcpy((char *)t + at, names[i]);
		at += (uint32_t)strlen(names[i]) + 1;
	}
}

static void put_section(uint8_t *b, unsigned i, uint32_t name, uint32_t type, uint64_t offset,
			uint64_t len)
{
	Elf64_Shdr sh = {.sh_name = name,
			 .sh_type = type,
			 .sh_addr = BASE + offset,
			 .sh_offset = offset,
			 .sh_size = len};

	memcpy(b + 0x200 + i * sizeof(sh), &sh, sizeof(sh));
}

static void put_segment(uint8_t *b, unsigned i, uint32_t flags, uint64_t offset, uint64_t len)
{
	Elf64_Phdr ph = {.p_type = PT_LOAD,
			 .p_flags = flags,
			 .p_offset = offset,
			 .p_vaddr = BASE + offset,
			 .p_filesz = len,
			 .p_memsz = len};

	memcpy(b + 64 + i * sizeof(ph), &ph, sizeof(ph));
}

static struct image make(unsigned since, bool with_text, const char *table_section)
{
	static const char strings[] = "\0.text\0.go.buildinfo\0.shstrtab\0";
	Elf64_Ehdr eh = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
			 .e_type = ET_EXEC,
			 .e_machine = MACHINE,
			 .e_phoff = 64,
			 .e_shoff = 0x200,
			 .e_phentsize = sizeof(Elf64_Phdr),
			 .e_phnum = 2,
			 .e_shnum = 5,
			 .e_shentsize = sizeof(Elf64_Shdr),
			 .e_shstrndx = 3};
	struct image im = {.b = calloc(1, END)};
	const uint8_t *code = since < 18 ? old_code : new_code;
	size_t len = since < 18 ? sizeof(old_code) : sizeof(new_code);

	assert_non_null(im.b);
	memcpy(im.b, &eh, sizeof(eh));
	put_segment(im.b, 0, PF_R | PF_X, TEXT, TABLE - TEXT);
	put_segment(im.b, 1, PF_R, TABLE, END - TABLE);
	put_section(im.b, 1, 1, SHT_PROGBITS, TEXT, TABLE - TEXT);
	put_section(im.b, 2, 7, SHT_PROGBITS, TABLE, 32);
	memcpy(im.b + 0x400, strings, sizeof(strings));
	strcpy((char *)im.b + 0x400 + sizeof(strings), table_section);
	put_section(im.b, 3, 21, SHT_STRTAB, 0x400, 256);
	put_section(im.b, 4, sizeof(strings), SHT_PROGBITS, TABLE + 64, END - TABLE - 64);
	memset(im.b + TEXT, FILLER, TABLE - TEXT);
	for (unsigned i = 0; i < N_NAMES; i++)
		memcpy(im.b + TEXT + i * STRIDE, code, len);
	put_table(im.b + TABLE + 64, since, with_text);
	return im;
}

static int to_file(const struct image *im, size_t len)
{
	int fd = memfd_create("test_gofile", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, im->b, len), len);
	return fd;
}

static int find(const struct image *im, size_t len, struct gofile_function out[N_NAMES],
		unsigned *since)
{
	int fd = to_file(im, len), n;
	struct elfview e;

	n = elfview_open(&e, fd);
	if (!n) {
		n = gofile_find(&e, names, N_NAMES, out, since);
		elfview_close(&e);
	}
	close(fd);
	return n;
}

static void check_found(struct image im, unsigned form)
{
	struct gofile_function f[N_NAMES];
	unsigned since = 0;

	assert_int_equal(find(&im, END, f, &since), N_NAMES);
	assert_int_equal(since, form);
	for (unsigned i = 0; i < N_NAMES; i++) {
		assert_int_equal(f[i].offset, TEXT + i * STRIDE);
		assert_int_equal(f[i].len, STRIDE);
	}
	free(im.b);
}

static void test_functions_are_found_in_each_form_of_the_table(void **state)
{
	(void)state;
	check_found(make(2, true, ".gopclntab"), 2);
	check_found(make(16, true, ".gopclntab"), 16);
	check_found(make(18, true, ".gopclntab"), 18);
	check_found(make(20, true, ".data.rel.ro.gopclntab"), 20);
}

static void test_text_is_found_when_the_table_does_not_say_where(void **state)
{
	(void)state;
	check_found(make(20, false, ".gopclntab"), 20);
}

static void test_table_without_section_is_found_by_its_first_bytes(void **state)
{
	(void)state;
	check_found(make(2, true, ".other"), 2);
	check_found(make(20, false, ".other"), 20);
}

static void test_other_programs_are_no_go_programs(void **state)
{
	struct image im = make(20, true, ".gopclntab");
	struct gofile_function f[N_NAMES];
	unsigned since;

	(void)state;
	memcpy(im.b + 0x400 + 8, "xx", 2);  /* .go.buildinfo */
	memcpy(im.b + 0x400 + 34, "xx", 2); /* .gopclntab */
	assert_int_equal(find(&im, END, f, &since), -ESRCH);
	free(im.b);
}

static void test_go_program_with_an_unknown_table_is_told(void **state)
{
	struct image im = make(20, true, ".gopclntab");
	struct sites s = {0};
	int fd;

	(void)state;
	im.b[TABLE + 64] = 0xe0;
	fd = to_file(&im, END);
	assert_int_equal(sites_go(fd, &s), 0);
	assert_int_equal(s.n, 0);
	assert_non_null(s.why_not);
	sites_fini(&s);
	close(fd);
	free(im.b);
}

static void count_sites(const struct sites *s, enum sslc_call call, unsigned at, unsigned want)
{
	unsigned n = 0;

	for (size_t i = 0; i < s->n; i++)
		n += s->v[i].call == call && s->v[i].at == at;
	assert_int_equal(n, want);
}

static void check_sites(unsigned since, enum sslc_call read, unsigned entry)
{
	struct image im = make(since, true, ".gopclntab");
	int fd = to_file(&im, END);
	struct sites s = {0};

	assert_int_equal(sites_go(fd, &s), 0);
	assert_null(s.why_not);
	assert_int_equal(s.movers, 2);
	assert_int_equal(s.v[0].offset, TEXT + READ * STRIDE + entry);
	for (enum sslc_call c = read; c <= read + 2; c++) { /* read, write, bind */
		count_sites(&s, c, SITE_ENTRY, 1);
		count_sites(&s, c, SITE_EXIT, 2);
		count_sites(&s, c, SITE_RETURN, 0);
	}
	assert_int_equal(s.n, 9);
	sites_fini(&s);
	close(fd);
	free(im.b);
}

static void test_each_return_instruction_is_a_site_and_never_a_return_probe(void **state)
{
	(void)state;
	check_sites(20, SSLC_CALL_GO_READ, NEW_ENTRY);
	check_sites(2, SSLC_CALL_GO_OLD_READ, OLD_ENTRY);
}

/* One function that is not understood, and none is probed. */
static void test_all_functions_or_none(void **state)
{
	struct image im = make(20, true, ".gopclntab");
	struct sites s = {0};
	int fd;

	(void)state;
	memset(im.b + TEXT + SERVER * STRIDE, 0x90, 16);
	fd = to_file(&im, END);
	assert_int_equal(sites_go(fd, &s), 0);
	assert_int_equal(s.n, 0);
	assert_int_equal(s.movers, 0);
	assert_non_null(s.why_not);
	sites_fini(&s);
	close(fd);
	free(im.b);
}

static void check_bounds(const struct image *im, size_t len)
{
	struct gofile_function f[N_NAMES] = {0};
	unsigned since;

	if (find(im, len, f, &since) <= 0)
		return;
	for (unsigned i = 0; i < N_NAMES; i++)
		assert_true(f[i].offset <= len && f[i].len <= len - f[i].offset);
}

static void test_broken_files_never_point_beyond_themselves(void **state)
{
	static const unsigned forms[] = {2, 16, 18, 20};

	(void)state;
	for (unsigned k = 0; k < 4; k++) {
		struct image im = make(forms[k], k != 3, ".gopclntab");

		for (size_t len = 0; len < END; len += 61)
			check_bounds(&im, len);
		for (size_t at = 0; at < TABLE + 64 + 3400;
		     at += at < TABLE && at > 0x500 ? 97 : 1) {
			im.b[at] ^= 0xff;
			check_bounds(&im, END);
			im.b[at] ^= 0xff;
		}
		free(im.b);
	}
}

#if defined(__x86_64__)
static int entry_of(const char *code, size_t len, enum gocode_abi *abi)
{
	return gocode_entry((const uint8_t *)code, len, abi);
}

static void test_entry_lies_behind_the_check_of_the_stack(void **state)
{
	/* lea -0x158(%rsp), %r12; cmp 16(%r14), %r12; jbe (near); sub */
	static const char large[] = "\x4c\x8d\xa4\x24\xa8\xfe\xff\xff\x4d\x3b\x66\x10"
				    "\x0f\x86\xed\x08\x00\x00\x48\x81\xec\xd8\x01\x00\x00";
	/* mov $-8, %rcx; mov %fs:(%rcx), %rcx; lea -16(%rsp), %rax; cmp 16(%rcx), %rax; jbe; nop */
	static const char old_pie[] = "\x48\xc7\xc1\xf8\xff\xff\xff\x64\x48\x8b\x09"
				      "\x48\x8d\x44\x24\xf0\x48\x3b\x41\x10\x76\x00\x90";
	enum gocode_abi abi = GOCODE_STACK;

	(void)state;
	assert_int_equal(entry_of(large, sizeof(large) - 1, &abi), 18);
	assert_int_equal(abi, GOCODE_REGISTERS);
	assert_int_equal(entry_of(old_pie, sizeof(old_pie) - 1, &abi), 22);
	assert_int_equal(abi, GOCODE_STACK);
	for (size_t len = 0; len < 19; len++)
		assert_int_equal(entry_of(large, len, &abi), -ENOEXEC);
}

static void test_other_beginnings_are_refused(void **state)
{
	/* push %rbp; mov %rsp, %rbp */
	static const char c[] = "\x55\x48\x89\xe5\x49\x3b\x66\x10\x76\x00\x90";
	/* g elsewhere in thread-local storage: mov %fs:-16, %rcx; cmp 16(%rcx), %rsp; jbe */
	static const char tls[] =
		"\x64\x48\x8b\x0c\x25\xf0\xff\xff\xff\x48\x3b\x61\x10\x76\x00\x90";
	/* cmp 16(%r14), %rsp; ja */
	static const char ja[] = "\x49\x3b\x66\x10\x77\x00\x90";
	enum gocode_abi abi = GOCODE_STACK;

	(void)state;
	assert_int_equal(entry_of(c, sizeof(c) - 1, &abi), -ENOEXEC);
	assert_int_equal(entry_of(tls, sizeof(tls) - 1, &abi), -ENOEXEC);
	assert_int_equal(entry_of(ja, sizeof(ja) - 1, &abi), -ENOEXEC);
}

/* c3 inside another instruction is no return; what is no instruction makes all doubtful. */
static void test_returns_are_instructions_not_bytes(void **state)
{
	static const uint8_t code[] = {0xb8, 0xc3, 0xc3, 0xc3, 0xc3, 0xc3, 0x90, 0xc2, 0x08, 0x00};
	static const uint8_t bad[] = {0xc3, 0x06, 0xc3}; /* push %es: not in 64-bit mode */
	uint32_t at[4];

	(void)state;
	assert_int_equal(gocode_returns(code, sizeof(code), at, 4), 2);
	assert_int_equal(at[0], 5);
	assert_int_equal(at[1], 7);
	assert_int_equal(gocode_returns(code, sizeof(code), at, 1), -E2BIG);
	assert_int_equal(gocode_returns(bad, sizeof(bad), at, 4), -ENOEXEC);
}
#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_functions_are_found_in_each_form_of_the_table),
		cmocka_unit_test(test_text_is_found_when_the_table_does_not_say_where),
		cmocka_unit_test(test_table_without_section_is_found_by_its_first_bytes),
		cmocka_unit_test(test_other_programs_are_no_go_programs),
		cmocka_unit_test(test_go_program_with_an_unknown_table_is_told),
		cmocka_unit_test(test_each_return_instruction_is_a_site_and_never_a_return_probe),
		cmocka_unit_test(test_all_functions_or_none),
		cmocka_unit_test(test_broken_files_never_point_beyond_themselves),
#if defined(__x86_64__)
		cmocka_unit_test(test_entry_lies_behind_the_check_of_the_stack),
		cmocka_unit_test(test_other_beginnings_are_refused),
		cmocka_unit_test(test_returns_are_instructions_not_bytes),
#endif
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
