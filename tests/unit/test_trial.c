/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of agent/sites/trial.c and agent/sites/trial_steps.c: what is refused without an
 * experiment, and that both sides agree on which instructions are emulated. The experiment itself
 * is made by tests/integration/test_calls.py.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "sites/cheap.h"
#include "sites/trial.h"
#include "sites/trial_steps.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static void test_nothing_is_run_before_it_is_allowed(void **state)
{
	struct trial_result r;
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(trial_run(fd, &r), 0);
	assert_string_equal(
		r.why, "experiments are made at the start, with the libraries that are installed");
	assert_int_equal(r.send.offset, 0);
	close(fd);
}

/* The file is removed again at once. */
static int made(char *name)
{
	int fd = mkstemp(name);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, "no library", 10), 10);
	return fd;
}

static void test_a_file_that_has_gone_or_that_others_may_write_is_not_run(void **state)
{
	char gone[] = "/tmp/test_trial.XXXXXX", open_to_all[] = "/tmp/test_trial.XXXXXX";
	struct trial_result r;
	int fd = made(gone);

	(void)state;
	trial_allow(true);
	unlink(gone);
	assert_int_equal(trial_run(fd, &r), 0);
	assert_string_equal(r.why, "it is not a file of this mount namespace, or was replaced");
	close(fd);
	fd = made(open_to_all);
	assert_int_equal(fchmod(fd, 0666), 0);
	assert_int_equal(trial_run(fd, &r), 0);
	unlink(open_to_all);
	assert_string_equal(r.why, "others than root may write it");
	close(fd);
}

#if defined(__x86_64__)
static void test_both_know_the_same_instructions(void **state)
{
	static const struct {
		uint8_t code[CHEAP_INSTRUCTION];
		unsigned len; /* 0: not emulated */
	} known[] = {
		{{0x55}, 1},                   /* push rbp */
		{{0x41, 0x57}, 2},             /* push r15 */
		{{0x90}, 1},                   /* nop */
		{{0x75, 0x10}, 2},             /* jnz */
		{{0xeb, 0x10}, 2},             /* jmp */
		{{0xe9, 1, 2, 3, 4}, 5},       /* jmp */
		{{0x0f, 0x84, 1, 2, 3, 4}, 6}, /* jz */
		{{0xe8, 1, 2, 3, 4}, 0},       /* call: see harm.h */
		{{0x5d}, 0},                   /* pop rbp */
		{{0xc3}, 0},                   /* ret */
		{{0x48, 0x89, 0xe5}, 0},       /* mov rbp, rsp */
		{{0x41, 0x5f}, 0},             /* pop r15 */
		{{0x0f, 0x94, 0xc0}, 0},       /* setz al */
	};

	(void)state;
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		assert_int_equal(trial_steps_cheap(known[i].code), known[i].len);
		assert_int_equal(cheap_is(known[i].code), known[i].len != 0);
	}
}
#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_is_run_before_it_is_allowed),
		cmocka_unit_test(test_a_file_that_has_gone_or_that_others_may_write_is_not_run),
#if defined(__x86_64__)
		cmocka_unit_test(test_both_know_the_same_instructions),
#endif
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
