/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of agent/sites/sites_nss.c: hand-made libraries with the tables of socket operations
 * in every arrangement that matters, and this system's NSS, if there is one, against its own code.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "sites/sites.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
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

#define TEXT  0x400000
#define DATA  0x402000
#define SLOTS 12

/* As in NSS's sslimpl.h. */
enum slot { CONNECT, ACCEPT, BIND, LISTEN, SHUTDOWN, CLOSE, RECV, SEND, READ, WRITE, PEER, NAME };

/* Where the functions lie in the text of the image: two source files, one after the other. */
#define DEF(slot) (0x000 + 0x20 * (slot))
#define SEC(slot) (0x400 + 0x20 * (slot))

struct image {
	Elf64_Ehdr eh;
	Elf64_Phdr ph[3];
	Elf64_Shdr sh[3];
	char str[64];
	Elf64_Sym sym[4];
	uint8_t text[0x800];
	struct data {
		uint64_t plain[SLOTS], secure[SLOTS], third[SLOTS];
		Elf64_Rela rela[3 * SLOTS];
		Elf64_Dyn dyn[3];
	} data;
};

static const struct image frame = {
	.eh = {.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
	       .e_type = ET_DYN,
	       .e_machine = THIS_MACHINE,
	       .e_version = EV_CURRENT,
	       .e_phoff = offsetof(struct image, ph),
	       .e_shoff = offsetof(struct image, sh),
	       .e_ehsize = sizeof(Elf64_Ehdr),
	       .e_phentsize = sizeof(Elf64_Phdr),
	       .e_phnum = 3,
	       .e_shentsize = sizeof(Elf64_Shdr),
	       .e_shnum = 3},
	.ph = {{.p_type = PT_LOAD,
		.p_flags = PF_R | PF_X,
		.p_offset = offsetof(struct image, text),
		.p_vaddr = TEXT,
		.p_filesz = 0x800,
		.p_memsz = 0x800},
	       {.p_type = PT_LOAD,
		.p_flags = PF_R | PF_W,
		.p_offset = offsetof(struct image, data),
		.p_vaddr = DATA,
		.p_filesz = sizeof(struct data),
		.p_memsz = sizeof(struct data)},
	       {.p_type = PT_DYNAMIC,
		.p_flags = PF_R | PF_W,
		.p_offset = offsetof(struct image, data.dyn),
		.p_vaddr = DATA + offsetof(struct data, dyn),
		.p_filesz = 3 * sizeof(Elf64_Dyn),
		.p_memsz = 3 * sizeof(Elf64_Dyn)}},
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
	.str = "\0SSL_ImportFD\0SSL_ForceHandshake",
	.sym = {{0},
		{.st_name = 1,
		 .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC),
		 .st_shndx = 1,
		 .st_value = TEXT + 0x7c0},
		{.st_name = 14,
		 .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC),
		 .st_shndx = 1,
		 .st_value = TEXT + 0x7e0}},
	.data.dyn = {{DT_RELA, {DATA + offsetof(struct data, rela)}},
		     {DT_RELASZ, {3 * SLOTS * sizeof(Elf64_Rela)}},
		     {DT_NULL, {0}}},
};

static bool is_shared(enum slot s)
{
	return s == BIND || s == LISTEN || s == PEER || s == NAME;
}

/* A table's pointers; a slot of 0 has none. */
static void put_table(struct image *im, int which, const uint64_t to[SLOTS])
{
	Elf64_Rela *r = &im->data.rela[which * SLOTS];

	memset(r, 0, SLOTS * sizeof(*r));
	for (int s = 0; s < SLOTS; s++) {
		r[s].r_offset = to[s] ? DATA + (uint64_t)(which * SLOTS + s) * 8 : DATA + 0x800;
		r[s].r_info = ELF64_R_INFO(0, RELATIVE);
		r[s].r_addend = (int64_t)to[s];
	}
}

static void fill(uint64_t to[SLOTS], bool secure)
{
	for (enum slot s = 0; s < SLOTS; s++)
		to[s] = TEXT + (secure && !is_shared(s) ? SEC(s) : DEF(s));
	to[ACCEPT] = 0;
}

/* Makes the function at `from` set its fourth argument to 0 and go on at `to`. */
static void put_forward(struct image *im, unsigned from, unsigned to)
{
#if defined(__x86_64__)
	int32_t far = (int32_t)to - (int32_t)from - 11;
	uint8_t code[11] = {0xf3, 0x0f, 0x1e, 0xfa, 0x31, 0xc9, 0xe9};

	memcpy(code + 7, &far, sizeof(far));
#else
	uint32_t words = (uint32_t)((int32_t)to - (int32_t)from - 8) / 4;
	uint32_t code[3] = {0xd503245f, 0x52800003, 0x14000000 | (words & 0x3ffffff)};
#endif
	memcpy(im->text + from, code, sizeof(code));
}

static void put_forwards(struct image *im, unsigned base)
{
	put_forward(im, base + 0x20 * READ, base + 0x20 * RECV);
	put_forward(im, base + 0x20 * WRITE, base + 0x20 * SEND);
}

/* The library as it comes out of a compiler. */
static struct image library(void)
{
	struct image im = frame;
	uint64_t to[SLOTS], none[SLOTS] = {0};

	fill(to, false);
	put_table(&im, 0, to);
	fill(to, true);
	put_table(&im, 1, to);
	put_table(&im, 2, none);
	put_forwards(&im, SEC(0));
	return im;
}

static int find(const struct image *im, struct sites *s)
{
	int fd = memfd_create("test_sites_nss", MFD_CLOEXEC), err;

	assert_true(fd >= 0);
	assert_true(write(fd, im, sizeof(*im)) == sizeof(*im));
	*s = (struct sites){0};
	err = sites_nss(fd, s);
	close(fd);
	return err;
}

static bool has(const struct sites *s, unsigned text, enum sslc_call call, unsigned at)
{
	for (size_t i = 0; i < s->n; i++)
		if (s->v[i].offset == offsetof(struct image, text) + text && s->v[i].call == call &&
		    s->v[i].at == at)
			return true;
	return false;
}

#define BOTH (SITE_ENTRY | SITE_RETURN)

static void test_functions_of_tls_sockets_are_found(void **state)
{
	struct image im = library();
	struct sites s;

	(void)state;
	assert_int_equal(find(&im, &s), 0);
	assert_int_equal(s.n, 4);
	assert_int_equal(s.movers, 2);
	assert_true(has(&s, SEC(RECV), SSLC_CALL_READ_FLAGS, BOTH));
	assert_true(has(&s, SEC(SEND), SSLC_CALL_WRITE, BOTH));
	assert_true(has(&s, SEC(CLOSE), SSLC_CALL_FORGET, SITE_ENTRY));
	assert_true(has(&s, 0x7e0, SSLC_CALL_BIND, BOTH));
	sites_fini(&s);
}

static void test_order_of_the_tables_does_not_matter(void **state)
{
	struct image im = library();
	uint64_t to[SLOTS];
	struct sites s;

	(void)state;
	fill(to, true);
	put_table(&im, 0, to);
	fill(to, false);
	put_table(&im, 1, to);
	assert_int_equal(find(&im, &s), 0);
	assert_true(has(&s, SEC(RECV), SSLC_CALL_READ_FLAGS, BOTH));
	sites_fini(&s);
}

/* Reading is a function of its own: it could call an inlined copy of receiving. */
static void test_functions_that_do_not_forward_are_probed_too(void **state)
{
	struct image im = library();
	struct sites s;

	(void)state;
	memset(im.text, 0x90, sizeof(im.text));
	assert_int_equal(find(&im, &s), 0);
	assert_int_equal(s.n, 6);
	assert_int_equal(s.movers, 4);
	assert_true(has(&s, SEC(RECV), SSLC_CALL_READ_FLAGS, BOTH));
	assert_true(has(&s, SEC(READ), SSLC_CALL_READ, BOTH));
	assert_true(has(&s, SEC(WRITE), SSLC_CALL_WRITE, BOTH));
	sites_fini(&s);
}

/* Functions are spread all over the text: only the forwarding ones tell. */
static void test_forwarding_alone_tells_which_table_it_is(void **state)
{
	struct image im = library();
	uint64_t to[SLOTS];
	struct sites s;

	(void)state;
	fill(to, true);
	to[CONNECT] = TEXT + DEF(ACCEPT); /* next to the others' */
	put_table(&im, 1, to);
	assert_int_equal(find(&im, &s), 0);
	assert_true(has(&s, SEC(RECV), SSLC_CALL_READ_FLAGS, BOTH));
	sites_fini(&s);
	memset(im.text, 0x90, sizeof(im.text));
	assert_int_equal(find(&im, &s), -ENOTSUP);
	assert_int_equal(s.n, 0);
	sites_fini(&s);
}

static void refused(struct image im)
{
	struct sites s;

	assert_int_equal(find(&im, &s), -ENOTSUP);
	assert_int_equal(s.n, 0);
	sites_fini(&s);
}

static void test_signs_that_contradict_are_refused(void **state)
{
	struct image im = library();

	(void)state;
	put_forwards(&im, DEF(0)); /* both forward */
	refused(im);
	im = library();
	memset(im.text + 0x400, 0x90, 0x400);
	put_forwards(&im, DEF(0)); /* the one that lies among the shared ones forwards */
	refused(im);
}

static void test_table_that_is_not_the_only_one_is_refused(void **state)
{
	struct image im = library();
	uint64_t to[SLOTS];

	(void)state;
	fill(to, true);
	for (enum slot s = 0; s < SLOTS; s++)
		if (!is_shared(s) && s != ACCEPT)
			to[s] += 0x200;
	put_table(&im, 2, to);
	refused(im);
}

static void test_tables_of_another_shape_are_refused(void **state)
{
	struct image im;
	uint64_t to[SLOTS];

	(void)state;
	for (enum slot s = 0; s < SLOTS; s++) {
		fill(to, true);
		im = library();
		to[s] = s == ACCEPT ? TEXT + 0x700 : 0; /* a pointer more or less */
		put_table(&im, 1, to);
		refused(im);
		if (s == ACCEPT)
			continue;
		fill(to, true);
		im = library();
		to[s] = DATA; /* no code */
		put_table(&im, 1, to);
		refused(im);
		fill(to, true);
		im = library();
		/* shared where it should not be, or the other way round */
		to[s] = TEXT + (is_shared(s) ? SEC(s) : DEF(s));
		put_table(&im, 1, to);
		refused(im);
		im = library();
		im.data.rela[SLOTS + s].r_info = ELF64_R_INFO(3, SYMBOLIC);
		refused(im);
	}
	im = library();
	im.data.secure[ACCEPT] = 1; /* not empty */
	refused(im);
	fill(to, true);
	im = library();
	to[READ] = to[RECV];
	put_table(&im, 1, to);
	refused(im);
}

static void test_other_libraries_are_none_of_its_business(void **state)
{
	struct image im = library();
	struct sites s;

	(void)state;
	im.str[1] = 'X';
	assert_int_equal(find(&im, &s), 0);
	assert_int_equal(s.n, 0);
}

static void test_broken_libraries_are_refused(void **state)
{
	struct image im = library();
	uint64_t random = 88172645463325252ull;
	struct sites s;

	(void)state;
	im.data.dyn[1].d_un.d_val = 1 << 20;
	assert_int_equal(find(&im, &s), -ENOEXEC);
	for (int i = 0; i < 4000; i++) {
		im = library();
		for (int k = 0; k < 2; k++) {
			random ^= random << 13;
			random ^= random >> 7;
			random ^= random << 17;
			((uint8_t *)&im)[random % sizeof(im)] = (uint8_t)(random >> 40);
		}
		(void)!find(&im, &s);
		for (size_t n = 0; n < s.n; n++)
			assert_true(s.v[n].offset < sizeof(im));
		sites_fini(&s);
	}
}

/* --- the real thing -----------------------------------------------------------------------------
 */

static int open_nss(void)
{
	static const char *const names[] = {"/usr/lib/x86_64-linux-gnu/libssl3.so",
					    "/usr/lib/aarch64-linux-gnu/libssl3.so",
					    "/usr/lib64/libssl3.so", "/usr/lib/libssl3.so"};
	int fd = -1;

	for (size_t i = 0; fd < 0 && i < sizeof(names) / sizeof(names[0]); i++)
		fd = open(names[i], O_RDONLY | O_CLOEXEC);
	return fd;
}

static void test_functions_of_this_systems_nss_are_found(void **state)
{
	struct sites s = {0};
	int fd = open_nss();

	(void)state;
	if (fd < 0)
		skip();
	assert_int_equal(sites_nss(fd, &s), 0);
	assert_true(s.movers == 2 || s.movers == 4);
	assert_int_equal(s.n, s.movers + 3); /* closing, and two ways to do the handshake */
	close(fd);
	sites_fini(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_functions_of_tls_sockets_are_found),
		cmocka_unit_test(test_order_of_the_tables_does_not_matter),
		cmocka_unit_test(test_functions_that_do_not_forward_are_probed_too),
		cmocka_unit_test(test_forwarding_alone_tells_which_table_it_is),
		cmocka_unit_test(test_signs_that_contradict_are_refused),
		cmocka_unit_test(test_table_that_is_not_the_only_one_is_refused),
		cmocka_unit_test(test_tables_of_another_shape_are_refused),
		cmocka_unit_test(test_other_libraries_are_none_of_its_business),
		cmocka_unit_test(test_broken_libraries_are_refused),
		cmocka_unit_test(test_functions_of_this_systems_nss_are_found),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
