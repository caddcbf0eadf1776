/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of agent/sites/callers.c and agent/sites/elfframe.c: a small file made by hand, whose
 * code is changed until nothing is certain any more.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "sites/callers.h"
#include "sites/elfframe.h"
#include "sites/elfview.h"

#include <elf.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__x86_64__)

#define SLOT                                                                                       \
	256 /* bytes of code a function: short jumps do not reach from one to the next but one */
#define VADDR 0x10000u
enum { TARGET, NEXT, ONE, TWO, N_FUNCTIONS };

struct entry { /* one .eh_frame entry each */
	uint32_t len, cie;
	int32_t function;
	uint32_t size;
};

struct image {
	Elf64_Ehdr eh;
	Elf64_Phdr ph[2];
	uint64_t pointer;
	uint8_t text[N_FUNCTIONS][SLOT];
	struct {
		uint8_t kinds[4];
		int32_t frame;
		uint32_t count;
		struct {
			int32_t function, entry;
		} line[N_FUNCTIONS];
	} table;
	struct entry entry[N_FUNCTIONS];
};

static uint64_t at(int function)
{
	return offsetof(struct image, text) + (uint64_t)function * SLOT;
}

static void put_call(struct image *im, int function, size_t where, uint8_t opcode)
{
	int32_t distance = (int32_t)(at(TARGET) - (at(function) + where + 5));

	im->text[function][where] = opcode;
	memcpy(&im->text[function][where + 1], &distance, 4);
}

static struct image make(void)
{
	static const uint64_t table = offsetof(struct image, table);
	struct image im = {0};

	im.eh = (Elf64_Ehdr){.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64,
					 ELFDATA2LSB, EV_CURRENT},
			     .e_type = ET_DYN,
			     .e_machine = EM_X86_64,
			     .e_version = EV_CURRENT,
			     .e_phoff = offsetof(struct image, ph),
			     .e_ehsize = sizeof(Elf64_Ehdr),
			     .e_phentsize = sizeof(Elf64_Phdr),
			     .e_phnum = 2};
	im.ph[0] = (Elf64_Phdr){.p_type = PT_LOAD,
				.p_flags = PF_R | PF_X,
				.p_vaddr = VADDR,
				.p_filesz = sizeof(im),
				.p_memsz = sizeof(im)};
	im.ph[1] = (Elf64_Phdr){.p_type = PT_GNU_EH_FRAME,
				.p_flags = PF_R,
				.p_offset = table,
				.p_vaddr = VADDR + table,
				.p_filesz = sizeof(im.table)};
	memcpy(im.table.kinds, (const uint8_t[]){1, 0x1b, 0x03, 0x3b}, 4);
	im.table.count = N_FUNCTIONS;
	memset(im.text, 0x90, sizeof(im.text));
	for (int i = 0; i < N_FUNCTIONS; i++) {
		uint64_t e = offsetof(struct image, entry) + (uint64_t)i * sizeof(struct entry);

		im.table.line[i].function = (int32_t)(at(i) - table);
		im.table.line[i].entry = (int32_t)(e - table);
		im.entry[i] = (struct entry){.len = 12,
					     .cie = 1,
					     .function = (int32_t)(at(i) - (e + 8)),
					     .size = SLOT - 16};
	}
	put_call(&im, ONE, 7, 0xe8);
	put_call(&im, TWO, 0, 0xe8);
	return im;
}

static struct elfview view(const struct image *im)
{
	int fd = memfd_create("image", MFD_CLOEXEC);
	struct elfview e;

	assert_true(fd >= 0 && write(fd, im, sizeof(*im)) == sizeof(*im));
	assert_int_equal(elfview_open(&e, fd), 0);
	return e;
}

static int find(const struct image *im, struct caller out[], size_t max)
{
	struct elfview e = view(im);
	int n = callers_find(&e, at(TARGET), out, max);

	close(e.fd);
	elfview_close(&e);
	return n;
}

static void test_each_call_is_found_with_its_function(void **state)
{
	struct image im = make();
	struct caller c[4];

	(void)state;
	assert_int_equal(find(&im, c, 4), 2);
	assert_int_equal(c[0].call, at(ONE) + 7);
	assert_int_equal(c[0].function, at(ONE));
	assert_int_equal(c[1].call, at(TWO));
	assert_int_equal(find(&im, c, 1), -E2BIG);
}

static void assert_uncertain(const struct image *im)
{
	struct caller c[4];

	assert_int_equal(find(im, c, 4), -ENOTSUP);
}

static void test_any_other_way_to_get_there_ends_the_search(void **state)
{
	struct image im = make();

	(void)state;
	put_call(&im, TWO, 100, 0xe9); /* jmp */
	assert_uncertain(&im);
	im = make();
	put_call(&im, TWO, 100, 0x05); /* the end of lea rax,[rip+…] */
	im.text[TWO][99] = 0x8d;
	im.text[TWO][98] = 0x48;
	assert_uncertain(&im);
	im = make();
	im.pointer = VADDR + at(TARGET);
	assert_uncertain(&im);
	im = make();
	im.text[TARGET][SLOT - 10] = 0xeb; /* a jump of its own: no call */
	im.text[NEXT][0] = 0xc3;
	assert_int_equal(find(&im, (struct caller[4]){{0}}, 4), 2);
	im.entry[TARGET].size = 16;
	im.text[TARGET][40] = 0x75; /* from behind the function's end */
	im.text[TARGET][41] = (uint8_t)-42;
	assert_uncertain(&im);
}

static void test_a_call_inside_another_instruction_is_none(void **state)
{
	struct image im = make();

	(void)state;
	put_call(&im, TWO, 100, 0xe8);
	im.text[TWO][99] = 0xb8; /* mov eax, imm32: the call begins in its midst */
	assert_uncertain(&im);
	im = make();
	im.entry[TWO].size = 0; /* in no function */
	assert_uncertain(&im);
	im = make();
	im.text[TWO][0] = 0x06; /* no instruction before it */
	put_call(&im, TWO, 1, 0xe8);
	assert_uncertain(&im);
}

static void test_a_table_that_contradicts_itself_is_not_believed(void **state)
{
	struct image im = make();
	struct elfview e = view(&im);
	uint64_t start;

	(void)state;
	assert_int_equal(elfframe_size(&e, at(ONE)), SLOT - 16);
	assert_int_equal(elfframe_around(&e, at(ONE) + 100, &start), SLOT - 16);
	assert_int_equal(start, at(ONE));
	assert_int_equal(elfframe_size(&e, at(ONE) + 100), 0);
	assert_int_equal(elfframe_size(&e, at(ONE) + SLOT - 1), 0); /* padding */
	assert_int_equal(elfframe_size(&e, 0), 0);
	elfview_close(&e);
	im.entry[ONE].function += 4;
	e = view(&im);
	assert_int_equal(elfframe_size(&e, at(ONE)), 0);
	elfview_close(&e);
	im = make();
	im.table.count = 0x7fffffff;
	e = view(&im);
	assert_int_equal(elfframe_size(&e, at(ONE)), 0);
	elfview_close(&e);
	im = make();
	im.table.kinds[3] = 0; /* addresses as they are */
	e = view(&im);
	assert_int_equal(elfframe_size(&e, at(ONE)), 0);
	elfview_close(&e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_call_is_found_with_its_function),
		cmocka_unit_test(test_any_other_way_to_get_there_ends_the_search),
		cmocka_unit_test(test_a_call_inside_another_instruction_is_none),
		cmocka_unit_test(test_a_table_that_contradicts_itself_is_not_believed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void)
{
	return 0; /* x86-64 only */
}

#endif
