/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of collector/sinks/sink_streams.c: its lines are read with a JSON parser. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <jansson.h>
#include <cmocka.h>

#include "counters.h"
#include "sink.h"

#define TS 1700000000123456789ull

struct rig {
	char dir[32], path[64], moved[64];
	struct sink *sink;
	struct frame_flow_open open;
	struct sink_flow flow;
};

static struct rig *rig_new(const char *path)
{
	struct rig *r = calloc(1, sizeof(*r));
	struct sink_conf conf = {.kind = "streams"};

	snprintf(r->dir, sizeof(r->dir), "/tmp/test_streams.XXXXXX");
	assert_non_null(mkdtemp(r->dir));
	snprintf(r->path, sizeof(r->path), "%s/log", r->dir);
	snprintf(r->moved, sizeof(r->moved), "%s/moved", r->dir);
	conf.target = path ? path : r->path;
	assert_int_equal(sink_streams_ops.open(&r->sink, &conf), 0);
	r->open = (struct frame_flow_open){.family = 4,
					   .client_addr = {10, 0, 0, 1},
					   .server_addr = {10, 0, 0, 2},
					   .client_port = 5000,
					   .server_port = 443,
					   .pid = 77,
					   .comm = span_of("a\"\n\xff", 4)};
	r->flow = (struct sink_flow){.open = &r->open, .host = "web\"1"};
	return r;
}

static void rig_free(struct rig *r)
{
	r->sink->ops->close(r->sink);
	unlink(r->path);
	unlink(r->moved);
	rmdir(r->dir);
	free(r);
}

static void tell(struct rig *r, uint32_t id)
{
	struct sink_stream s = {.flow = &r->flow,
				.id = id,
				.pushed = true,
				.client_port = 40000,
				.server_port = 80};

	r->sink->ops->stream(r->sink, &s, TS);
}

static const char *text_of(json_t *line, const char *key)
{
	return json_string_value(json_object_get(line, key));
}

static json_int_t number_of(json_t *line, const char *key)
{
	return json_integer_value(json_object_get(line, key));
}

static unsigned count_lines(const char *path)
{
	FILE *f = fopen(path, "r");
	unsigned n = 0;
	int c;

	assert_non_null(f);
	while ((c = fgetc(f)) != EOF)
		n += c == '\n';
	fclose(f);
	return n;
}

static void test_a_line_says_which_is_which(void **state)
{
	struct rig *r = rig_new(NULL);
	struct stat st;
	json_t *line, *real;

	(void)state;
	tell(r, 3);
	r->sink->ops->flush(r->sink);
	assert_int_equal(stat(r->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	line = json_load_file(r->path, 0, NULL);
	assert_non_null(line);
	assert_string_equal(text_of(line, "timestamp"), "2023-11-14T22:13:20.123456Z");
	assert_string_equal(text_of(line, "src_ip"), "10.0.0.1");
	assert_string_equal(text_of(line, "dest_ip"), "10.0.0.2");
	assert_string_equal(text_of(line, "host"), "web\"1");
	assert_string_equal(text_of(line, "comm"), "a\"\\x0a\\xff");
	assert_int_equal(number_of(line, "src_port"), 40000);
	assert_int_equal(number_of(line, "dest_port"), 80);
	assert_int_equal(number_of(line, "stream_id"), 3);
	assert_int_equal(number_of(line, "pid"), 77);
	assert_true(json_is_true(json_object_get(line, "pushed")));
	assert_true(json_is_false(json_object_get(line, "serial")));
	real = json_object_get(line, "real");
	assert_int_equal(number_of(real, "src_port"), 5000);
	assert_int_equal(number_of(real, "dest_port"), 443);
	assert_string_not_equal(text_of(line, "community_id"), text_of(real, "community_id"));
	json_decref(line);
	rig_free(r);
}

static void test_a_file_that_was_moved_away_is_made_anew(void **state)
{
	struct rig *r = rig_new(NULL);

	(void)state;
	tell(r, 1);
	tell(r, 3);
	r->sink->ops->flush(r->sink);
	assert_int_equal(rename(r->path, r->moved), 0);
	r->sink->ops->tick(r->sink, 0);
	tell(r, 5);
	r->sink->ops->flush(r->sink);
	assert_int_equal(count_lines(r->moved), 2);
	assert_int_equal(count_lines(r->path), 1);
	rig_free(r);
}

static void test_what_is_not_taken_is_counted(void **state)
{
	uint64_t before = counter_named("sink_streams_lost");
	struct rig *r = rig_new("/dev/full");

	(void)state;
	for (uint32_t i = 0; i < 10000; i++)
		tell(r, i);
	r->sink->ops->flush(r->sink);
	r->sink->ops->tick(r->sink, 0);
	rig_free(r);
	assert_int_equal(counter_named("sink_streams_lost") - before, 10000);
}

static void test_a_link_is_not_followed(void **state)
{
	struct sink_conf conf = {.kind = "streams", .target = "/tmp/test_streams.link"};
	struct sink *sink;

	(void)state;
	unlink(conf.target);
	assert_int_equal(symlink("/dev/null", conf.target), 0);
	assert_true(sink_streams_ops.open(&sink, &conf) < 0);
	unlink(conf.target);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_line_says_which_is_which),
		cmocka_unit_test(test_a_file_that_was_moved_away_is_made_anew),
		cmocka_unit_test(test_what_is_not_taken_is_counted),
		cmocka_unit_test(test_a_link_is_not_followed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
