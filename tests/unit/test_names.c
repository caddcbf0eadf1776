/* SPDX-License-Identifier: Apache-2.0 */
/* names: equal strings are kept once, others apart, all until their last user goes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "sessions/names.h"

static struct frame_flow_open said(const char *comm, const char *exe, const char *container)
{
	return (struct frame_flow_open){
		.comm = span_str(comm), .exe = span_str(exe), .container = span_str(container)};
}

static void assert_names(const struct names *n, const char *comm, const char *exe,
			 const char *container)
{
	struct frame_flow_open got = {.flow = 7};

	names_get(n, &got);
	assert_true(span_eq(got.comm, span_str(comm)));
	assert_true(span_eq(got.exe, span_str(exe)));
	assert_true(span_eq(got.container, span_str(container)));
	assert_int_equal(got.flow, 7);
}

static void test_equal_strings_are_kept_once(void **state)
{
	char comm[] = "nginx";
	struct frame_flow_open m = said(comm, "/usr/sbin/nginx", "3f4e");
	struct names_set set;
	struct names *a, *b;

	(void)state;
	names_init(&set);
	a = names_keep(&set, &m);
	comm[0] = 'N'; /* it was a copy */
	m = said("nginx", "/usr/sbin/nginx", "3f4e");
	b = names_keep(&set, &m);
	assert_ptr_equal(a, b);
	assert_names(a, "nginx", "/usr/sbin/nginx", "3f4e");
	names_drop(&set, a);
	assert_names(b, "nginx", "/usr/sbin/nginx", "3f4e");
	assert_int_equal(set.all.count, 1);
	names_drop(&set, b);
	assert_int_equal(set.all.count, 0);
	assert_int_equal(set.memory, 0);
	names_fini(&set);
}

/* The same bytes in a row, divided elsewhere, are other strings. */
static void test_where_one_string_ends_counts(void **state)
{
	const struct frame_flow_open m[] = {said("ab", "c", ""), said("a", "bc", ""),
					    said("a", "b", "c"), said("abc", "", ""),
					    said("", "", "abc"), said("", "", "")};
	struct names *n[6];
	struct names_set set;

	(void)state;
	names_init(&set);
	for (int i = 0; i < 6; i++)
		n[i] = names_keep(&set, &m[i]);
	assert_int_equal(set.all.count, 6);
	assert_names(n[1], "a", "bc", "");
	assert_names(n[5], "", "", "");
	for (int i = 0; i < 6; i++)
		names_drop(&set, n[i]);
	assert_int_equal(set.memory, 0);
	names_fini(&set);
}

static void test_the_longest_strings_fit_and_longer_ones_are_cut(void **state)
{
	static uint8_t long_one[4096];
	struct frame_flow_open m = {.comm = span_of(long_one, 255),
				    .exe = span_of(long_one, 1024),
				    .container = span_of(long_one, 255)};
	struct frame_flow_open got;
	struct names_set set;
	struct names *a, *b;

	(void)state;
	memset(long_one, 'x', sizeof(long_one));
	names_init(&set);
	a = names_keep(&set, &m);
	m.comm = m.exe = m.container = span_of(long_one, sizeof(long_one));
	b = names_keep(&set, &m);
	assert_ptr_equal(a, b);
	names_get(a, &got);
	assert_int_equal(got.comm.len, FRAME_TEXT_MAX);
	assert_int_equal(got.exe.len, FRAME_EXE_MAX);
	assert_int_equal(got.container.len, FRAME_TEXT_MAX);
	names_drop(&set, a);
	names_drop(&set, b);
	names_fini(&set);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_equal_strings_are_kept_once),
		cmocka_unit_test(test_where_one_string_ends_counts),
		cmocka_unit_test(test_the_longest_strings_fit_and_longer_ones_are_cut),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
