/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of agent/sites/x86code.c: small functions in the bytes that assemblers make of them
 * (Intel SDM, volume 2), what compilers emit for wrappers, and code that nobody should have to run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "sites/x86code.h"

#include <errno.h>
#include <string.h>

#define AT 0x4000ull

#if defined(__x86_64__)

#define SUB_RSP_8   0x48, 0x83, 0xec, 0x08
#define SUB_RSP_24  0x48, 0x83, 0xec, 0x18
#define ENDBR64     0xf3, 0x0f, 0x1e, 0xfa
#define CALL(rel)   0xe8, (rel)&0xff, ((rel) >> 8) & 0xff, 0, 0
#define JMP(rel)    0xe9, (rel)&0xff, ((rel) >> 8) & 0xff, 0, 0
#define RET         0xc3
#define EXITS(code) exits(code, sizeof(code))

static struct x86code_exit out[X86CODE_EXITS];

static int exits(const uint8_t *code, size_t len)
{
	memset(out, 0xee, sizeof(out));
	return x86code_exits(code, len, AT, out);
}

static void assert_value(const struct x86code_exit *e, int i, enum x86code_kind kind, int arg)
{
	assert_int_equal(e->arg[i].kind, kind);
	assert_int_equal(e->arg[i].arg, arg);
}

static const struct x86code_exit *exit_to(int n, uint64_t target)
{
	for (int i = 0; i < n; i++)
		if (out[i].way != X86CODE_END && out[i].target == target)
			return &out[i];
	return NULL;
}

static void test_arguments_that_nobody_touched_are_handed_on(void **state)
{
	static const uint8_t code[] = {ENDBR64, SUB_RSP_8, CALL(0x100), RET};

	(void)state;
	assert_int_equal(EXITS(code), 1);
	assert_int_equal(out[0].way, X86CODE_CALL);
	assert_int_equal(out[0].target, AT + 13 + 0x100);
	for (int i = 0; i < X86CODE_ARGS; i++)
		assert_value(&out[0], i, X86CODE_ARG, i);
}

static void test_both_sides_of_a_branch_are_followed(void **state)
{
	/* int f(s, buf, int n): if (n < 0) error(); else g(s, buf, (size_t)n, &local) */
	static const uint8_t code[] = {SUB_RSP_24,  0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0,
				       0,           0,    0x48, 0x89, 0x44, 0x24, 0x08, /* canary */
				       0x31,        0xc0,       /* xor eax,eax */
				       0x85,        0xd2,       /* test edx,edx */
				       0x78,        0x0b,       /* js error */
				       0x48,        0x89, 0xe1, /* mov rcx,rsp */
				       0x48,        0x63, 0xd2, /* movsxd rdx,edx */
				       CALL(0x200),             /* g */
				       CALL(0x300)};            /* error */
	const uint64_t end = AT + sizeof(code);
	const struct x86code_exit *g;
	int n;

	(void)state;
	n = EXITS(code);
	assert_int_equal(n, 2);
	g = exit_to(n, end - 5 + 0x200);
	assert_non_null(g);
	assert_value(g, 0, X86CODE_ARG, 0);
	assert_value(g, 1, X86CODE_ARG, 1);
	assert_value(g, 2, X86CODE_ARG_INT, 2);
	assert_value(g, 3, X86CODE_FRAME, 0);
	assert_value(g, 4, X86CODE_ARG, 4);
	assert_non_null(exit_to(n, end + 0x300));
}

static void test_arguments_are_followed_through_other_registers(void **state)
{
	static const uint8_t code[] = {0x55,   0x48, 0x89, 0xe5,       /* push rbp; mov rbp,rsp */
				       0x41,   0x54, 0x53,             /* push r12; push rbx */
				       0x48,   0x89, 0xfb,             /* mov rbx,rdi */
				       0x49,   0x89, 0xf4,             /* mov r12,rsi */
				       0x4c,   0x89, 0xe7,             /* mov rdi,r12 */
				       0x48,   0x89, 0xde,             /* mov rsi,rbx */
				       0x89,   0xd2,                   /* mov edx,edx */
				       0x48,   0x8d, 0x4d, 0xf0,       /* lea rcx,[rbp-16] */
				       0x41,   0xb8, 0,    0,    0, 0, /* mov r8d,0 */
				       0x4d,   0x31, 0xc9,             /* xor r9,r9 */
				       CALL(0)};

	(void)state;
	assert_int_equal(EXITS(code), 1);
	assert_value(&out[0], 0, X86CODE_ARG, 1);
	assert_value(&out[0], 1, X86CODE_ARG, 0);
	assert_value(&out[0], 2, X86CODE_ARG_INT, 2);
	assert_value(&out[0], 3, X86CODE_FRAME, 0);
	assert_value(&out[0], 4, X86CODE_ZERO, 0);
	assert_value(&out[0], 5, X86CODE_ZERO, 0);
}

static void test_whatever_else_is_done_to_an_argument_makes_it_unknown(void **state)
{
	static const uint8_t code[] = {0x48,   0xff, 0xc7,                /* inc rdi */
				       0x48,   0x8b, 0x36,                /* mov rsi,[rsi] */
				       0xb2,   0x01,                      /* mov dl,1 */
				       0x48,   0x0f, 0x44, 0xc8,          /* cmove rcx,rax */
				       0x4c,   0x8d, 0x44, 0x0c, 0x08,    /* lea r8,[rsp+rcx+8] */
				       0x41,   0xb9, 7,    0,    0,    0, /* mov r9d,7 */
				       CALL(0)};

	(void)state;
	assert_int_equal(EXITS(code), 1);
	for (int i = 0; i < X86CODE_ARGS; i++)
		assert_value(&out[0], i, X86CODE_UNKNOWN, 0);
}

static void test_instructions_that_write_a_register_without_naming_it_count(void **state)
{
	static const uint8_t mul[] = {0x48, 0xf7, 0xe7, CALL(0)}; /* mul rdi: rdx is written */
	static const uint8_t movs[] = {0xf3, 0xa4, CALL(0)};      /* rep movsb: rdi, rsi, rcx */

	(void)state;
	assert_int_equal(EXITS(mul), 1);
	assert_value(&out[0], 0, X86CODE_ARG, 0);
	assert_value(&out[0], 2, X86CODE_UNKNOWN, 0);
	assert_int_equal(EXITS(movs), 1);
	assert_value(&out[0], 0, X86CODE_UNKNOWN, 0);
	assert_value(&out[0], 1, X86CODE_UNKNOWN, 0);
	assert_value(&out[0], 2, X86CODE_ARG, 2);
	assert_value(&out[0], 3, X86CODE_UNKNOWN, 0);
}

static void test_tail_call_is_a_jump_out(void **state)
{
	static const uint8_t code[] = {ENDBR64,    0x49, 0x89, 0xc8, /* mov r8,rcx */
				       0x31,       0xc9,             /* xor ecx,ecx */
				       JMP(0x1000)};

	(void)state;
	assert_int_equal(EXITS(code), 1);
	assert_int_equal(out[0].way, X86CODE_JUMP);
	assert_int_equal(out[0].target, AT + sizeof(code) + 0x1000);
	assert_value(&out[0], 3, X86CODE_ZERO, 0);
	assert_value(&out[0], 4, X86CODE_ARG, 3);
}

static void test_jump_to_before_the_function_is_a_jump_out(void **state)
{
	static const uint8_t code[] = {0xeb, 0xf0}; /* jmp -16 */

	(void)state;
	assert_int_equal(EXITS(code), 1);
	assert_int_equal(out[0].way, X86CODE_JUMP);
	assert_int_equal(out[0].target, AT + 2 - 16);
}

static void test_all_places_outside_are_listed_once(void **state)
{
	/* call A; jz over the next; call B; jmp A; jmp to the beginning */
	static const uint8_t code[] = {CALL(0x100),     0x74, 5,   CALL(0x200),
				       JMP(0x100 - 12), 0xeb, 0xed};
	static const uint8_t indirect[] = {0xff, 0xd0}, bad[] = {0x06}, cut[] = {0xe8, 0, 0};
	uint64_t to[2];

	(void)state;
	assert_int_equal(x86code_targets(code, sizeof(code), AT, to, 2), 2);
	assert_int_equal(to[0], AT + 5 + 0x100);
	assert_int_equal(to[1], AT + 12 + 0x200);
	assert_int_equal(x86code_targets(code, sizeof(code), AT, to, 1), -E2BIG);
	assert_int_equal(x86code_targets(code, 0, AT, to, 1), 0);
	assert_int_equal(x86code_targets(indirect, sizeof(indirect), AT, to, 2), -EILSEQ);
	assert_int_equal(x86code_targets(bad, sizeof(bad), AT, to, 2), -EILSEQ);
	assert_int_equal(x86code_targets(cut, sizeof(cut), AT, to, 2), -EILSEQ);
}

static void test_what_cannot_be_followed_is_an_end(void **state)
{
	static const uint8_t ret[] = {RET}, indirect[] = {0xff, 0xe0}, pointer[] = {0xff, 0x50, 8},
			     trap[] = {0xcc}, kernel[] = {0x0f, 0x05}, bad[] = {0x06},
			     cut[] = {0xe8, 0, 0};

	(void)state;
	assert_int_equal(EXITS(ret), 1);
	assert_int_equal(out[0].way, X86CODE_END);
	assert_int_equal(EXITS(indirect), 1);
	assert_int_equal(out[0].way, X86CODE_END);
	assert_int_equal(EXITS(pointer), 1);
	assert_int_equal(out[0].way, X86CODE_END);
	assert_int_equal(EXITS(trap), 1);
	assert_int_equal(out[0].way, X86CODE_END);
	assert_int_equal(EXITS(kernel), 1);
	assert_int_equal(out[0].way, X86CODE_END);
	assert_int_equal(EXITS(bad), 1);
	assert_int_equal(out[0].way, X86CODE_END);
	assert_int_equal(EXITS(cut), 1);
	assert_int_equal(out[0].way, X86CODE_END);
	assert_int_equal(exits(cut, 0), 1);
	assert_int_equal(out[0].way, X86CODE_END);
}

static void test_code_without_end_is_given_up(void **state)
{
	static const uint8_t loop[] = {0xeb, 0xfe};
	uint8_t nops[X86CODE_FUNCTION], branches[X86CODE_FUNCTION];

	(void)state;
	assert_int_equal(EXITS(loop), -E2BIG);
	memset(nops, 0x90, sizeof(nops));
	assert_int_equal(EXITS(nops), -E2BIG);
	for (size_t i = 0; i < sizeof(branches); i += 2) { /* je to the next but one */
		branches[i] = 0x74;
		branches[i + 1] = 2;
	}
	assert_int_equal(EXITS(branches), -E2BIG);
	memset(branches + 1, 0xfe, 1); /* je to itself, and on */
	assert_int_equal(EXITS(branches), -E2BIG);
}

static void test_many_ways_out_are_given_up(void **state)
{
	uint8_t code[X86CODE_FUNCTION] = {0};

	(void)state;
	for (size_t i = 0; i < 2 * (X86CODE_EXITS + 1); i += 2) { /* je to before the function */
		code[i] = 0x74;
		code[i + 1] = 0x80;
	}
	assert_int_equal(EXITS(code), -E2BIG);
}

static void test_mark_is_told_from_code_and_from_no_code(void **state)
{
	static const uint8_t marked[] = {ENDBR64, 0x55}, push[] = {0x55}, bad[] = {0x06},
			     prefixed[] = {0xf3, ENDBR64};

	(void)state;
	assert_int_equal(x86code_mark(marked, sizeof(marked)), 4);
	assert_int_equal(x86code_mark(push, 1), 0);
	assert_int_equal(x86code_mark(prefixed, sizeof(prefixed)), 0);
	assert_int_equal(x86code_mark(bad, 1), -EILSEQ);
	assert_int_equal(x86code_mark(marked, 3), -EILSEQ);
	assert_int_equal(x86code_mark(push, 0), -EILSEQ);
}

static void test_any_bytes_are_survived(void **state)
{
	uint64_t random = 88172645463325252ull;
	uint8_t code[96];

	(void)state;
	for (int turn = 0; turn < 200000; turn++) {
		int n;

		for (size_t i = 0; i < sizeof(code); i++) {
			random ^= random << 13;
			random ^= random >> 7;
			random ^= random << 17;
			code[i] = (uint8_t)(random >> 32);
		}
		n = exits(code, turn % sizeof(code));
		assert_true(n == -E2BIG || (n > 0 && n <= X86CODE_EXITS));
	}
}

#else

static void test_other_machines_are_not_supported(void **state)
{
	static const uint8_t code[16];
	struct x86code_exit out[X86CODE_EXITS];

	(void)state;
	assert_int_equal(x86code_exits(code, sizeof(code), AT, out), -ENOTSUP);
	assert_int_equal(x86code_mark(code, sizeof(code)), -ENOTSUP);
}

#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
#if defined(__x86_64__)
		cmocka_unit_test(test_arguments_that_nobody_touched_are_handed_on),
		cmocka_unit_test(test_both_sides_of_a_branch_are_followed),
		cmocka_unit_test(test_arguments_are_followed_through_other_registers),
		cmocka_unit_test(test_whatever_else_is_done_to_an_argument_makes_it_unknown),
		cmocka_unit_test(test_instructions_that_write_a_register_without_naming_it_count),
		cmocka_unit_test(test_tail_call_is_a_jump_out),
		cmocka_unit_test(test_jump_to_before_the_function_is_a_jump_out),
		cmocka_unit_test(test_all_places_outside_are_listed_once),
		cmocka_unit_test(test_what_cannot_be_followed_is_an_end),
		cmocka_unit_test(test_code_without_end_is_given_up),
		cmocka_unit_test(test_many_ways_out_are_given_up),
		cmocka_unit_test(test_mark_is_told_from_code_and_from_no_code),
		cmocka_unit_test(test_any_bytes_are_survived),
#else
		cmocka_unit_test(test_other_machines_are_not_supported),
#endif
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
