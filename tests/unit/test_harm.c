/* SPDX-License-Identifier: Apache-2.0 */
/* The experiment itself: what a sandboxed child may do, and what kills it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "probes/harm.h"

static int make_system_call(void)
{
	return (int)syscall(SYS_getppid);
}

static void test_function_without_system_calls_survives(void **state)
{
	(void)state;
	assert_int_equal(harm_sandboxed_survives(harm_canary), 1);
}

static void test_function_that_makes_one_is_killed(void **state)
{
	(void)state;
	assert_int_equal(harm_sandboxed_survives(make_system_call), 0);
}

static void test_offset_names_the_bytes_of_the_function(void **state)
{
	uint64_t offset = harm_canary_offset();
	uint8_t bytes[4];
	int fd = open("/proc/self/exe", O_RDONLY);

	(void)state;
	assert_int_not_equal(offset, 0);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, bytes, sizeof(bytes), (off_t)offset), sizeof(bytes));
	assert_memory_equal(bytes, (const void *)(uintptr_t)harm_canary, sizeof(bytes));
	close(fd);
}

static void test_threaded_child_tells_its_second_thread(void **state)
{
	struct harm_threaded c;
	char path[64];

	(void)state;
	assert_int_equal(harm_threaded_start(&c), 0);
	assert_int_equal(harm_threaded_call(&c), 0);
	assert_int_not_equal(c.tid, c.pid);
	snprintf(path, sizeof(path), "/proc/%d/task/%u", c.pid, c.tid);
	assert_int_equal(access(path, F_OK), 0); /* it lives on */
	harm_threaded_stop(&c);
	assert_int_not_equal(access(path, F_OK), 0);
}

static bool has_shadow_stacks(const char *text)
{
	char path[64];
	int fd = memfd_create("cpuinfo", 0);
	bool has;

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	has = harm_has_shadow_stacks(path);
	close(fd);
	return has;
}

static void test_shadow_stacks_are_told_by_the_processors_flags(void **state)
{
	(void)state;
	assert_false(
		has_shadow_stacks("processor\t: 0\nflags\t\t: fpu vme ibt\nbugs\t: user_shstk\n"));
	assert_true(has_shadow_stacks("processor\t: 0\nflags\t\t: fpu user_shstk ibt\n"));
	assert_true(has_shadow_stacks("")); /* not known: careful */
	assert_true(harm_has_shadow_stacks("/proc/self/no such file"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_function_without_system_calls_survives),
		cmocka_unit_test(test_function_that_makes_one_is_killed),
		cmocka_unit_test(test_threaded_child_tells_its_second_thread),
		cmocka_unit_test(test_threaded_child_tells_its_second_thread),
		cmocka_unit_test(test_shadow_stacks_are_told_by_the_processors_flags),
		cmocka_unit_test(test_offset_names_the_bytes_of_the_function),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
