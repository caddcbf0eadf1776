/* SPDX-License-Identifier: Apache-2.0 */
/* metrics: registration, dump format and order; log: one printable line; clock. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/rss.h"

static COUNTER_DEFINE(later, "test_b_later", "second in the alphabet");
static COUNTER_DEFINE(earlier, "test_a_earlier", "first in the alphabet");
static COUNTER_DEFINE(silent, "test_c_silent", "stays zero");
static COUNTER_DEFINE(shared, "test_d_shared", "added to by two threads");

static void dump_is(bool all, const char *want)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	assert_non_null(f);
	metrics_dump(f, all);
	fclose(f);
	assert_string_equal(text, want);
	free(text);
}

static void test_dump_prints_registered_counters_sorted_by_name(void **state)
{
	(void)state;
	dump_is(true, "");
	counter_add(&later, 5);
	counter_inc(&earlier);
	counter_register(&silent);
	counter_register(&silent);
	counter_inc(&earlier);
	dump_is(false, "sslcollector: counter test_a_earlier 2\n"
		       "sslcollector: counter test_b_later 5\n");
	dump_is(true, "sslcollector: counter test_a_earlier 2\n"
		      "sslcollector: counter test_b_later 5\n"
		      "sslcollector: counter test_c_silent 0\n");
	counter_set(&later, UINT64_MAX);
	dump_is(false, "sslcollector: counter test_a_earlier 2\n"
		       "sslcollector: counter test_b_later 18446744073709551615\n");
}

static void *add_many(void *arg)
{
	(void)arg;
	for (int i = 0; i < 100000; i++)
		counter_inc(&shared);
	return NULL;
}

static void test_threads_lose_no_count(void **state)
{
	pthread_t t[2];

	(void)state;
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&t[i], NULL, add_many, NULL), 0);
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(counter_get(&shared), 200000);
}

/* What `write` writes to stderr. */
static size_t stderr_of(void (*write_lines)(void), char *out, size_t max)
{
	int p[2], saved = dup(STDERR_FILENO);
	ssize_t n;

	assert_int_equal(pipe(p), 0);
	dup2(p[1], STDERR_FILENO);
	close(p[1]);
	write_lines();
	dup2(saved, STDERR_FILENO);
	close(saved);
	n = read(p[0], out, max);
	close(p[0]);
	return n < 0 ? 0 : (size_t)n;
}

static void lines_of_each_level(void)
{
	log_set_level(LOG_WARN);
	log_error("tunnel: connect: %s host=%s", "refused", "a\nsslcollector: forged \x1b[2J");
	log_info("not written");
	log_set_level(LOG_INFO);
	log_info("ready");
	log_debug("not written either");
}

static void test_a_log_line_has_a_prefix_and_no_control_characters(void **state)
{
	char out[4096];
	size_t n = stderr_of(lines_of_each_level, out, sizeof(out) - 1);

	(void)state;
	out[n] = '\0';
	assert_string_equal(
		out, "sslcollector: tunnel: connect: refused host=a?sslcollector: forged ?[2J\n"
		     "sslcollector: ready\n");
}

static void a_long_line(void)
{
	char text[3000];

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	log_error("%s", text);
}

static void test_a_long_log_line_is_cut_and_still_one_line(void **state)
{
	char out[4096];
	size_t n = stderr_of(a_long_line, out, sizeof(out));

	(void)state;
	assert_in_range(n, 1000, 1024);
	assert_int_equal(out[n - 1], '\n');
	assert_ptr_equal(memchr(out, '\n', n), out + n - 1);
}

static void test_log_rate_lets_one_through_and_counts_the_rest(void **state)
{
	struct log_rate r = {0};
	uint64_t held = 99;

	(void)state;
	assert_true(log_rate_ok(&r, 3600000, &held));
	assert_int_equal(held, 0);
	assert_false(log_rate_ok(&r, 3600000, &held));
	assert_false(log_rate_ok(&r, 3600000, &held));
	r.next_ms = 0; /* the hour is over */
	assert_true(log_rate_ok(&r, 3600000, &held));
	assert_int_equal(held, 2);
}

static void test_wall_offset_turns_monotonic_into_wall_time(void **state)
{
	uint64_t wall = clock_wall_ns();
	uint64_t made = clock_mono_ns() + (uint64_t)clock_wall_offset_ns();

	(void)state;
	assert_true(made + NS_PER_S > wall && made < wall + 5 * NS_PER_S);
	assert_true(wall > 1600000000ull * NS_PER_S);
}

static void take_memory(void *ctx, const struct counter *c)
{
	if (!strcmp(c->name, "process_memory_bytes"))
		*(uint64_t *)ctx = counter_get(c);
}

static void test_memory_that_is_used_is_told(void **state)
{
	enum { MORE = 64 << 20 };
	uint64_t before = 0, after = 0;
	char *more = malloc(MORE);

	(void)state;
	assert_non_null(more);
	rss_tell();
	metrics_each(take_memory, &before);
	for (size_t i = 0; i < MORE; i += 4096)
		((volatile char *)more)[i] = 1;
	rss_tell();
	metrics_each(take_memory, &after);
	free(more);
	assert_in_range(before, 100 << 10, UINT32_MAX);
	assert_in_range(after - before, MORE / 2, MORE * 2ull);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_dump_prints_registered_counters_sorted_by_name),
		cmocka_unit_test(test_threads_lose_no_count),
		cmocka_unit_test(test_a_log_line_has_a_prefix_and_no_control_characters),
		cmocka_unit_test(test_a_long_log_line_is_cut_and_still_one_line),
		cmocka_unit_test(test_log_rate_lets_one_through_and_counts_the_rest),
		cmocka_unit_test(test_wall_offset_turns_monotonic_into_wall_time),
		cmocka_unit_test(test_memory_that_is_used_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
