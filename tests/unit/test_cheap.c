/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of agent/sites/cheap.c, agent/sites/elfframe.c and agent/sites/sites_cheap.c:
 * functions assembled by hand, one for each reason to refuse, and the TLS libraries of this
 * machine.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/types.h>

#include "sites/cheap.h"
#include "sites/elfframe.h"
#include "sites/elfview.h"
#include "sites/sites.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__)

/* sub rsp,24; mov rax,fs:40; mov [rsp+8],rax; xor eax,eax; test edx,edx */
#define FRAME                                                                                      \
	0x48, 0x83, 0xec, 24, 0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0, 0x48, 0x89, 0x44, 0x24, \
		8, 0x31, 0xc0, 0x85, 0xd2
#define FRAME_LEN 22
/* mov rdx,[rsp+8]; sub rdx,fs:40 */
#define CHECK   0x48, 0x8b, 0x54, 0x24, 8, 0x64, 0x48, 0x2b, 0x14, 0x25, 0x28, 0, 0, 0
#define UNFRAME 0x48, 0x83, 0xc4, 24
#define CALL    0xe8, 0, 1, 0, 0

static enum cheap_kind find(const uint8_t *code, size_t len, unsigned args, struct cheap_places *p)
{
	enum cheap_kind kind = cheap_find(code, len, args, p);

	if (kind != CHEAP_NOTHING)
		assert_true(p->entry.at < len);
	return kind;
}

static void assert_refused(const uint8_t *code, size_t len, enum cheap_kind want, const char *why)
{
	struct cheap_places p;

	assert_int_equal(find(code, len, 4, &p), want);
	assert_non_null(p.why);
	if (!strstr(p.why, why))
		fail_msg("%s, not %s", p.why, why);
}
#define REFUSED(want, why, ...)                                                                    \
	assert_refused((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}),     \
		       want, why)

/* The shape of SSL_read: an error path that comes back to the check, and one that dies. */
static const uint8_t usual[] = {
	FRAME,                                       /* 0 */
	0x78,    57 - 24,                            /* 22: js 57 */
	CALL,                                        /* 24 */
	0x85,    0xc0,          0x7e, 36 - 33,       /* 29: test eax,eax; jle 36 */
	0x8b,    0x04,          0x24,                /* 33: mov eax,[rsp] */
	CHECK,                                       /* 36 */
	0x75,    69 - 52,                            /* 50: jne 69 */
	UNFRAME, 0xc3,                               /* 52 */
	CALL,                                        /* 57 */
	0xb8,    0xff,          0xff, 0xff,    0xff, /* 62: mov eax,-1 */
	0xeb,    256 + 36 - 69,                      /* 67: jmp 36 */
	CALL,                                        /* 69: does not return */
};

static void test_a_pair_is_found_around_a_frame_with_a_stack_protector(void **state)
{
	struct cheap_places p;

	(void)state;
	assert_int_equal(find(usual, sizeof(usual), 4, &p), CHEAP_PAIR);
	assert_null(p.why);
	assert_int_equal(p.entry.at, FRAME_LEN);
	assert_int_equal(p.entry.sp, 24);
	assert_int_equal(p.n_exits, 1);
	assert_int_equal(p.exit[0].at, 50);
	assert_int_equal(p.exit[0].sp, 24);
}

static void test_each_return_gets_its_own_exit(void **state)
{
	/* sub rsp,8; test edi,edi; je 14; nop; add rsp,8; ret; nop; add rsp,8; ret */
	static const uint8_t code[] = {0x48, 0x83, 0xec, 8,    0x85, 0xff, 0x74, 6,    0x90, 0x48,
				       0x83, 0xc4, 8,    0xc3, 0x90, 0x48, 0x83, 0xc4, 8,    0xc3};
	struct cheap_places p;

	(void)state;
	assert_int_equal(find(code, sizeof(code), 4, &p), CHEAP_PAIR);
	assert_int_equal(p.entry.at, 6);
	assert_int_equal(p.n_exits, 2);
	assert_int_equal(p.exit[0].at, 8);
	assert_int_equal(p.exit[1].at, 14);
	assert_int_equal(p.exit[1].sp, 8);
}

static void test_a_cheap_first_instruction_takes_entry_and_return(void **state)
{
	static const uint8_t pushes[] = {0x55, 0xff, 0xe0}; /* whatever follows */
	static const uint8_t marked[] = {0xf3, 0x0f, 0x1e, 0xfa, 0x41, 0x57, 0xc3};
	static const uint8_t alone[CHEAP_FIRST] = {0x55};
	struct cheap_places p;

	(void)state;
	assert_int_equal(find(pushes, sizeof(pushes), 4, &p), CHEAP_RETURN);
	assert_int_equal(p.entry.at, 0);
	assert_int_equal(find(marked, sizeof(marked), 4, &p), CHEAP_RETURN);
	assert_int_equal(p.entry.at, 4);
	assert_int_equal(cheap_find(alone, 0, 4, &p), CHEAP_RETURN); /* of unknown size */
}

static void test_a_return_probe_may_be_where_the_stack_has_not_moved(void **state)
{
	/* test rdi,rdi; je 6; ret; jmp elsewhere */
	static const uint8_t code[] = {0x48, 0x85, 0xff, 0x74, 1, 0xc3, 0xe9, 0, 1, 0, 0};
	struct cheap_places p;

	(void)state;
	assert_int_equal(find(code, sizeof(code), 4, &p), CHEAP_RETURN);
	assert_int_equal(p.entry.at, 3);
	assert_int_equal(p.entry.sp, 0);
}

static void test_a_frame_pointer_is_followed(void **state)
{
	/* mov r11,rax (not cheap); sub rsp,8; mov rbp,rsp; sub rsp,64; js +0; nop; lea rsp,[rbp+0];
	 * add rsp,8; ret */
	static const uint8_t code[] = {0x49, 0x89, 0xc3, 0x48, 0x83, 0xec, 8, 0x48, 0x89,
				       0xe5, 0x48, 0x83, 0xec, 64,   0x78, 0, 0x90, 0x48,
				       0x8d, 0x65, 0,    0x48, 0x83, 0xc4, 8, 0xc3};
	struct cheap_places p;

	(void)state;
	assert_int_equal(find(code, sizeof(code), 4, &p), CHEAP_PAIR);
	assert_int_equal(p.entry.sp, 72);
	assert_int_equal(p.exit[0].sp, 72);
}

static void test_arguments_must_still_be_there(void **state)
{
	/* sub rsp,8; mov rdx,rcx; js; nop; add rsp,8; ret */
	static const uint8_t code[] = {0x48, 0x83, 0xec, 8,    0x48, 0x89, 0xca, 0x78,
				       0,    0x90, 0x48, 0x83, 0xc4, 8,    0xc3};
	struct cheap_places p;

	(void)state;
	assert_int_equal(find(code, sizeof(code), 2, &p), CHEAP_PAIR);
	assert_int_equal(find(code, sizeof(code), 3, &p), CHEAP_NOTHING);
	REFUSED(CHEAP_NOTHING, "overwritten", 0x48, 0x83, 0xec, 8, 0x31, 0xff, 0x78, 0, 0x90, 0x48,
		0x83, 0xc4, 8, 0xc3); /* xor edi,edi */
	REFUSED(CHEAP_NOTHING, "overwritten", 0x48, 0x83, 0xec, 8, 0x0f, 0xa2, 0x78, 0, 0x90, 0x48,
		0x83, 0xc4, 8, 0xc3); /* cpuid writes what it does not name */
}

static void test_nothing_is_done_before_the_entry(void **state)
{
	struct cheap_places p;
	/* sub rsp,8; mov [rsp],rdi; js; nop; add rsp,8; ret */
	static const uint8_t own[] = {0x48, 0x83, 0xec, 8,    0x48, 0x89, 0x3c, 0x24,
				      0x78, 0,    0x90, 0x48, 0x83, 0xc4, 8,    0xc3};

	(void)state;
	assert_int_equal(find(own, sizeof(own), 4, &p), CHEAP_PAIR);
	/* mov [rdi],rsi */
	REFUSED(CHEAP_NOTHING, "memory", 0x48, 0x83, 0xec, 8, 0x48, 0x89, 0x37, 0x78, 0, 0x90, 0x48,
		0x83, 0xc4, 8, 0xc3);
	/* mov [rbp+8],rsi, which may be anywhere */
	REFUSED(CHEAP_NOTHING, "memory", 0x48, 0x83, 0xec, 8, 0x48, 0x89, 0x75, 8, 0x78, 0, 0x90,
		0x48, 0x83, 0xc4, 8, 0xc3);
}

static void test_what_is_not_certain_is_refused(void **state)
{
	(void)state;
	REFUSED(CHEAP_NOTHING, "computed", 0x48, 0x83, 0xec, 8, 0xff, 0xe0); /* jmp rax */
	REFUSED(CHEAP_NOTHING, "not known", 0x48, 0x83, 0xec, 8, 0x06);      /* invalid */
	REFUSED(CHEAP_NOTHING, "elsewhere", 0x48, 0x83, 0xec, 8, 0x74, 100, 0x90, 0xc3);
	REFUSED(CHEAP_NOTHING, "elsewhere", 0x48, 0x83, 0xec, 8);                 /* no end */
	REFUSED(CHEAP_NOTHING, "unusual", 0x48, 0x83, 0xec, 8, 0x0f, 0x05, 0xc3); /* syscall */
	REFUSED(CHEAP_NOTHING, "unusual", 0x48, 0x83, 0xec, 8, 0xcc, 0xc3);       /* int3 */
	/* jump into the midst of mov eax,imm */
	REFUSED(CHEAP_NOTHING, "overlap", 0x48, 0x83, 0xec, 8, 0x74, 1, 0xb8, 0x90, 0x90, 0x90,
		0x90, 0x48, 0x83, 0xc4, 8, 0xc3);
	/* the same, the jump coming first: jmp +1; mov …, reached from behind */
	REFUSED(CHEAP_NOTHING, "overlap", 0x48, 0x83, 0xec, 8, 0x75, 3, 0xeb, 2, 0xc3, 0xb8, 0x90,
		0x90, 0x90, 0x90, 0xeb, 0xf9);
}

static void test_an_unclear_stack_is_refused(void **state)
{
	(void)state;
	REFUSED(CHEAP_NOTHING, "frame", 0x48, 0x83, 0xe4, 0xf0, 0xc3);    /* and rsp,-16 */
	REFUSED(CHEAP_NOTHING, "frame", 0x48, 0x83, 0xec, 8, 0x90, 0xc3); /* ret one word early */
	REFUSED(CHEAP_NOTHING, "frame", 0x48, 0x29, 0xc4, 0xc3);          /* sub rsp,rax */
	REFUSED(CHEAP_NOTHING, "frame", 0x48, 0x89, 0xec, 0xc3);          /* mov rsp,rbp: unknown */
	REFUSED(CHEAP_NOTHING, "frame", 0xc2, 8, 0);                      /* ret 8 */
	REFUSED(CHEAP_NOTHING, "frame", 0x48, 0x83, 0xc4, 8, 0xc3);       /* above its beginning */
	REFUSED(CHEAP_NOTHING, "odd", 0x31, 0xc0, 0x66, 0x50, 0xc3);      /* push ax */
	REFUSED(CHEAP_NOTHING, "odd", 0x31, 0xc0, 0x5c, 0xc3);            /* pop rsp */
	/* sub rsp,8; je 10; sub rsp,8; both ways meet */
	REFUSED(CHEAP_NOTHING, "frame", 0x48, 0x83, 0xec, 8, 0x74, 4, 0x48, 0x83, 0xec, 8, 0x48,
		0x83, 0xc4, 8, 0xc3);
}

static void test_an_entry_passed_twice_is_refused(void **state)
{
	(void)state;
	/* sub rsp,8; js (2 further); nop; jne back to js */
	REFUSED(CHEAP_NOTHING, "leads back", 0x48, 0x83, 0xec, 8, 0x78, 1, 0x90, 0x75, 0xfb, 0x48,
		0x83, 0xc4, 8, 0xc3);
	/* … back to the very beginning */
	REFUSED(CHEAP_NOTHING, "leads back", 0x31, 0xc0, 0x85, 0xff, 0x75, 0xfa, 0xc3);
}

static void test_exits_that_could_lie_are_refused(void **state)
{
	(void)state;
	/* a way joins behind the last cheap instruction: sub; je 7; nop; add; ret */
	REFUSED(CHEAP_ENTRY, "leads to its return", 0x48, 0x83, 0xec, 8, 0x74, 1, 0x90, 0x48, 0x83,
		0xc4, 8, 0xc3);
	/* the result changes behind it: nop; mov eax,[rsp] */
	REFUSED(CHEAP_ENTRY, "result", 0x48, 0x83, 0xec, 8, 0x78, 0, 0x90, 0x8b, 0x04, 0x24, 0x48,
		0x83, 0xc4, 8, 0xc3);
	/* it is a branch like any other: jne to a second return */
	REFUSED(CHEAP_ENTRY, "leads to its return", 0x48, 0x83, 0xec, 8, 0x78, 0, 0x75, 5, 0x48,
		0x83, 0xc4, 8, 0xc3, 0x48, 0x83, 0xc4, 8, 0xc3);
	/* a call behind it */
	REFUSED(CHEAP_ENTRY, "leads to its return", 0x48, 0x83, 0xec, 8, 0x78, 0, 0x90, CALL, 0x48,
		0x83, 0xc4, 8, 0xc3);
	/* the entry itself is the only one */
	REFUSED(CHEAP_ENTRY, "leads to its return", 0x48, 0x83, 0xec, 8, 0x90, 0x48, 0x83, 0xc4, 8,
		0xc3);
	/* it also ends in a jump to another function */
	REFUSED(CHEAP_ENTRY, "another function", 0x48, 0x83, 0xec, 8, 0x74, 6, 0x90, 0x48, 0x83,
		0xc4, 8, 0xc3, 0x48, 0x83, 0xc4, 8, 0xe9, 0, 1, 0, 0);
	/* it never returns */
	REFUSED(CHEAP_ENTRY, "not return", 0x48, 0x83, 0xec, 8, 0x90, 0x0f, 0x0b);
}

static void test_a_stack_check_that_does_not_die_is_a_branch_like_others(void **state)
{
	struct cheap_places p;
	uint8_t code[sizeof(usual)];

	(void)state;
	memcpy(code, usual, sizeof(usual));
	code[51] = 62 - 52; /* jne to mov eax,-1; jmp 36 */
	assert_int_equal(find(code, sizeof(code), 4, &p), CHEAP_ENTRY);
	memcpy(code, usual, sizeof(usual));
	code[46] = 0x30; /* compares with fs:48 */
	assert_int_equal(find(code, sizeof(code), 4, &p), CHEAP_ENTRY);
}

static void test_too_much_code_is_refused(void **state)
{
	static uint8_t code[CHEAP_FUNCTION + 1] = {0x31, 0xc0};
	struct cheap_places p;

	(void)state;
	assert_int_equal(cheap_find(code, sizeof(code), 4, &p), CHEAP_NOTHING);
	assert_string_equal(p.why, "it is too long");
	assert_int_equal(cheap_find(code, 0, 4, &p), CHEAP_NOTHING);
	assert_string_equal(p.why, "its size is not known");
	memset(code + 2, 0x74, CHEAP_FUNCTION - 2); /* je, each to another place */
	assert_int_equal(cheap_find(code, CHEAP_FUNCTION, 4, &p), CHEAP_NOTHING);
}

static void test_instructions_are_told_with_their_place(void **state)
{
	static const uint8_t js[] = {0x78, 0x2f};
	char text[64];

	(void)state;
	cheap_describe(js, sizeof(js), 22, text, sizeof(text));
	assert_string_equal(text, "js 0x47");
	cheap_describe(js, 1, 22, text, sizeof(text));
	assert_string_equal(text, "?");
}

/* --- the libraries of this machine --------------------------------------------------------------
 */

static int open_library_of(const char *lib, const char *symbol, uint64_t *offset)
{
	void *l = dlopen(lib, RTLD_NOW);
	struct elfview e;
	Dl_info info;
	int fd;

	if (!l || !dladdr(dlsym(l, symbol), &info))
		return -1;
	fd = open(info.dli_fname, O_RDONLY | O_CLOEXEC);
	assert_int_equal(elfview_open(&e, fd), 0);
	*offset = elfview_offset(&e, (uintptr_t)info.dli_saddr - (uintptr_t)info.dli_fbase, PF_X,
				 NULL);
	elfview_close(&e);
	return fd;
}

static void test_the_unwind_table_knows_functions_by_their_beginning(void **state)
{
	uint64_t offset, size;
	struct elfview e;
	int fd = open_library_of("libssl.so.3", "SSL_read", &offset);

	(void)state;
	if (fd < 0)
		skip();
	assert_int_equal(elfview_open(&e, fd), 0);
	size = elfframe_size(&e, offset);
	assert_in_range(size, 32, 512);
	assert_int_equal(elfframe_size(&e, offset + 1), 0);
	assert_int_equal(elfframe_size(&e, 0), 0);
	assert_int_equal(elfframe_size(&e, e.size), 0);
	elfview_close(&e);
	close(fd);
}

/* Each function is entered once, left by a return probe or by exits, and where it was said. */
static void check_sites(const char *lib, const char *symbol)
{
	struct sites plain = {0}, pairs = {.pairs = true};
	uint64_t offset;
	int fd = open_library_of(lib, symbol, &offset), n;

	if (fd < 0)
		return;
	n = sites_find(fd, &plain);
	assert_true(n > 0);
	assert_int_equal(sites_find(fd, &pairs), n);
	assert_int_equal(pairs.movers, plain.movers);
	for (size_t i = 0; i < plain.n; i++) {
		const struct site *a = &plain.v[i], *b = &pairs.v[i];

		assert_int_not_equal(a->price, SITE_PAIR);
		assert_int_equal(a->sp, a->at == SITE_ENTRY ? a->sp : 0);
		assert_int_equal(a->function, b->function);
		assert_int_equal(a->call, b->call);
		assert_int_equal(b->at, b->price == SITE_PAIR ? SITE_ENTRY : a->at);
		assert_true(b->offset >= b->function);
	}
	for (size_t i = plain.n; i < pairs.n; i++)
		assert_int_equal(pairs.v[i].at, SITE_EXIT);
	sites_fini(&plain);
	sites_fini(&pairs);
	close(fd);
}

static void test_gnutls_receives_in_one_function_or_in_the_public_ones(void **state)
{
	struct sites s = {.pairs = true};
	uint64_t offset;
	size_t typed = 0, public = 0;
	int fd = open_library_of("libgnutls.so.30", "gnutls_record_recv", &offset);

	(void)state;
	if (fd < 0)
		skip();
	assert_true(sites_find(fd, &s) > 0);
	for (size_t i = 0; i < s.n; i++) {
		typed += s.v[i].call == SSLC_CALL_RECV_TYPED;
		public += s.v[i].function == offset;
	}
	print_message("%zu internal, %zu public\n", typed, public);
	assert_true((typed > 0) != (public > 0));
	sites_fini(&s);
	close(fd);
}

static void test_libraries_keep_their_functions_whatever_the_price(void **state)
{
	(void)state;
	check_sites("libssl.so.3", "SSL_read");
	check_sites("libgnutls.so.30", "gnutls_init");
}

#else

static void test_nothing_is_found_elsewhere(void **state)
{
	static const uint8_t code[CHEAP_FIRST] = {0};
	struct cheap_places p;

	(void)state;
	assert_int_equal(cheap_find(code, sizeof(code), 4, &p), CHEAP_NOTHING);
	assert_non_null(p.why);
}

#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
#if defined(__x86_64__)
		cmocka_unit_test(test_a_pair_is_found_around_a_frame_with_a_stack_protector),
		cmocka_unit_test(test_each_return_gets_its_own_exit),
		cmocka_unit_test(test_a_cheap_first_instruction_takes_entry_and_return),
		cmocka_unit_test(test_a_return_probe_may_be_where_the_stack_has_not_moved),
		cmocka_unit_test(test_a_frame_pointer_is_followed),
		cmocka_unit_test(test_arguments_must_still_be_there),
		cmocka_unit_test(test_nothing_is_done_before_the_entry),
		cmocka_unit_test(test_what_is_not_certain_is_refused),
		cmocka_unit_test(test_an_unclear_stack_is_refused),
		cmocka_unit_test(test_an_entry_passed_twice_is_refused),
		cmocka_unit_test(test_exits_that_could_lie_are_refused),
		cmocka_unit_test(test_a_stack_check_that_does_not_die_is_a_branch_like_others),
		cmocka_unit_test(test_too_much_code_is_refused),
		cmocka_unit_test(test_instructions_are_told_with_their_place),
		cmocka_unit_test(test_the_unwind_table_knows_functions_by_their_beginning),
		cmocka_unit_test(test_gnutls_receives_in_one_function_or_in_the_public_ones),
		cmocka_unit_test(test_libraries_keep_their_functions_whatever_the_price),
#else
		cmocka_unit_test(test_nothing_is_found_elsewhere),
#endif
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
