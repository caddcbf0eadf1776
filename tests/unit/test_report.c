/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of agent/cli/report.c: answers of agents as text in, tables and arrays out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cli/report.h"

#include <stdlib.h>
#include <string.h>

static json_t *parse(const char *text)
{
	json_error_t error;
	json_t *j = json_loads(text, JSON_DECODE_ANY, &error);

	if (!j)
		fail_msg("%s: %s", text, error.text);
	return j;
}

/* Up to two agents' answers and what was seen without them, as one array. */
static json_t *merge(const char *one, const char *two, const char *own)
{
	json_t *answers[2] = {one ? parse(one) : NULL, two ? parse(two) : NULL}, *mine = parse(own);
	json_t *rows = report_merge(answers, (one != NULL) + (two != NULL), mine);

	assert_non_null(rows);
	json_decref(answers[0]);
	json_decref(answers[1]);
	json_decref(mine);
	return rows;
}

static void assert_table(json_t *rows, const char *wanted)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	report_print(f, rows);
	fclose(f);
	assert_string_equal(text, wanted);
	free(text);
	json_decref(rows);
}

#define AGENT(id) "{\"agent\":{\"pid\":" #id "},"
#define FLOWS(exact, matched, inferred, filtered, missed)                                          \
	"\"flows\":{\"exact\":" #exact ",\"matched\":" #matched ",\"inferred\":" #inferred         \
	",\"filtered\":" #filtered ",\"standby\":0,\"missed\":" #missed ",\"late\":0}"
#define NGINX                                                                                      \
	"{\"pid\":20,\"start\":5,\"command\":\"nginx\",\"alive\":true,\"tls\":[\"OpenSSL\"],"      \
	"\"captured_by\":\"bpf\",\"bytes\":{\"exact\":1000,\"matched\":24},"                       \
	"\"reason\":\"captured\",\"words\":\"mirrored\"," FLOWS(10, 1, 0, 0, 0) "}"
#define JAVA                                                                                       \
	"{\"pid\":3,\"start\":9,\"command\":\"java\",\"alive\":false,\"tls\":[\"Java\"],"          \
	"\"captured_by\":null,\"bytes\":{\"exact\":0},\"reason\":\"java\","                        \
	"\"words\":\"out of reach\"," FLOWS(0, 0, 0, 0, 2) "}"
#define LIBSSL                                                                                     \
	"{\"path\":\"/lib/libssl.so.3\",\"dev\":1,\"ino\":2,\"functions\":4,\"why_not\":null}"

static void test_one_agents_answer_becomes_a_table(void **state)
{
	(void)state;
	assert_table(merge(AGENT(7) "\"processes\":[" NGINX "," JAVA "],\"libraries\":[" LIBSSL
				    ",{\"path\":\"/lib/libssl.so.0\",\"dev\":1,\"ino\":3,"
				    "\"functions\":-8,\"why_not\":\"broken\"}]}",
			   NULL, "{}"),
		     "PID  COMMAND      LIBRARY  CAPTURED BY  FLOWS   BYTES  CONFIDENCE           "
		     "REASON\n"
		     "3    java (gone)  Java     none         0 of 2  0      -                    "
		     "java: out of reach\n"
		     "20   nginx        OpenSSL  bpf          11      1024   exact 10, matched 1  "
		     "-\n"
		     "\n"
		     "LIBRARY FILE      PROBED  REMARK\n"
		     "/lib/libssl.so.0  no      broken\n"
		     "/lib/libssl.so.3  yes     -\n");
}

static void test_nothing_is_a_table_too(void **state)
{
	(void)state;
	assert_table(merge(NULL, NULL, "{\"processes\":[],\"libraries\":[]}"),
		     "PID  COMMAND  LIBRARY  CAPTURED BY  FLOWS  BYTES  CONFIDENCE  REASON\n");
}

static void test_an_agent_knows_better_than_proc(void **state)
{
	json_t *rows = merge(
		AGENT(7) "\"processes\":[" NGINX "]}", NULL,
		"{\"processes\":[{\"pid\":20,\"start\":5,\"command\":\"nginx\",\"alive\":true,"
		"\"reason\":\"idle\"},{\"pid\":20,\"start\":6,\"command\":\"next\"},"
		"{\"pid\":21,\"start\":5,\"command\":\"nginx\"}]}");

	(void)state;
	assert_int_equal(json_array_size(rows), 3);
	for (size_t i = 0; i < 3; i++) {
		json_t *row = json_array_get(rows, i);
		const char *reason = json_string_value(json_object_get(row, "reason"));
		json_t *agent = json_object_get(row, "agent");

		assert_string_equal(json_string_value(json_object_get(row, "kind")), "process");
		if (reason) {
			assert_string_equal(reason, "captured");
			assert_int_equal(json_integer_value(agent), 7);
		} else {
			assert_true(json_is_null(agent));
		}
	}
	json_decref(rows);
}

/* Filters of two agents may differ: what each mirrors stands in a row of its own. */
static void test_two_agents_that_mirror_have_a_row_each(void **state)
{
	json_t *rows = merge(AGENT(8) "\"processes\":[" NGINX "]}",
			     AGENT(7) "\"processes\":[" NGINX "]}", "{}");
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	(void)state;
	report_print(f, rows);
	fclose(f);
	assert_non_null(strstr(text, "AGENT  FLOWS"));
	assert_non_null(strstr(text, "bpf          7      11"));
	assert_true(strstr(text, "bpf          8      11") >
		    strstr(text, "bpf          7      11"));
	free(text);
	json_decref(rows);
}

static void test_of_two_agents_the_one_that_mirrors_speaks(void **state)
{
	static const char filtered[] =
		"\"processes\":[{\"pid\":20,\"start\":5,\"command\":\"nginx\","
		"\"reason\":\"filtered\"," FLOWS(0, 0, 0, 3, 0) "}]}";
	char one[1024], two[1024];

	(void)state;
	snprintf(one, sizeof(one), "%s%s", AGENT(8), filtered);
	snprintf(two, sizeof(two), "%s\"processes\":[%s]}", AGENT(7), NGINX);
	for (int i = 0; i < 2; i++) {
		json_t *rows = i ? merge(one, two, "{}") : merge(two, one, "{}");

		assert_int_equal(json_array_size(rows), 1);
		assert_int_equal(
			json_integer_value(json_object_get(json_array_get(rows, 0), "agent")), 7);
		json_decref(rows);
	}
}

static void test_a_library_that_one_agent_probes_is_probed(void **state)
{
	static const char failed[] = "\"libraries\":[{\"path\":\"/lib/libssl.so.3\",\"dev\":1,"
				     "\"ino\":2,\"functions\":-13,\"why_not\":\"x\"}]}";
	char one[1024];
	json_t *rows;

	(void)state;
	snprintf(one, sizeof(one), "%s%s", AGENT(8), failed);
	rows = merge(one, AGENT(7) "\"libraries\":[" LIBSSL "]}", "{}");
	assert_int_equal(json_array_size(rows), 1);
	assert_int_equal(json_integer_value(json_object_get(json_array_get(rows, 0), "functions")),
			 4);
	json_decref(rows);
}

static void test_what_a_program_holds_is_added_to_an_agents_row(void **state)
{
	(void)state;
	assert_table(
		merge(AGENT(7) "\"processes\":[{\"pid\":1,\"start\":2,\"command\":\"node\","
			       "\"tls\":[],\"reason\":\"captured\"," FLOWS(
				       1, 0, 0, 0, 0) ",\"captured_by\":\"bpf\"}]}",
		      NULL,
		      "{\"processes\":[{\"pid\":1,\"start\":2,\"tls\":[\"OpenSSL (static)\"],"
		      "\"reason\":\"idle\"}]}"),
		"PID  COMMAND  LIBRARY           CAPTURED BY  FLOWS  BYTES  CONFIDENCE  REASON\n"
		"1    node     OpenSSL (static)  bpf          1      0      exact       -\n");
}

static void test_a_terminal_gets_no_escapes(void **state)
{
	(void)state;
	assert_table(merge(NULL, NULL,
			   "{\"processes\":[{\"pid\":1,\"command\":\"a\\u001b[2Jb\\u00e9\\n\","
			   "\"tls\":[\"x\\u0007\"],\"reason\":\"r\\r\",\"words\":\"\\u009b\"}]}"),
		     "PID  COMMAND    LIBRARY  CAPTURED BY  FLOWS  BYTES  CONFIDENCE  REASON\n"
		     "1    a?[2Jb???  x?       none         0      0      -           r?: ??\n");
}

static void test_a_probed_program_without_a_name_shows_its_file(void **state)
{
	(void)state;
	assert_table(merge(NULL, NULL,
			   "{\"processes\":[{\"pid\":1,\"command\":\"node\",\"tls\":[],"
			   "\"libraries\":[\"/usr/bin/node\"],\"reason\":\"idle\",\"words\":\"w\"}"
			   "]}"),
		     "PID  COMMAND  LIBRARY  CAPTURED BY  FLOWS  BYTES  CONFIDENCE  REASON\n"
		     "1    node     node     none         0      0      -           idle: w\n");
}

static void test_long_names_do_not_fit_and_do_no_harm(void **state)
{
	json_t *own = json_object(), *tls = json_array(), *rows;
	char *text = NULL, *name = malloc(100000);
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	(void)state;
	memset(name, 'n', 99999);
	name[99999] = '\0';
	for (int i = 0; i < 100; i++)
		json_array_append_new(tls, json_string(name));
	json_object_set_new(own, "processes",
			    json_pack("[{s:i, s:s, s:o}]", "pid", 1, "command", name, "tls", tls));
	rows = report_merge(NULL, 0, own);
	report_print(f, rows);
	fclose(f);
	assert_true(len < 4096);
	free(text);
	free(name);
	json_decref(rows);
	json_decref(own);
}

static void test_answers_of_any_shape_are_survived(void **state)
{
	static const char *const shapes[] = {
		"[]",
		"1",
		"null",
		"{\"processes\":1,\"libraries\":\"x\"}",
		"{\"processes\":[1,null,\"x\",[],{}],\"libraries\":[1,null,{}]}",
		"{\"agent\":5,\"processes\":[{\"pid\":\"1\"},{\"pid\":-4},{\"pid\":1.5}]}",
		"{\"agent\":{\"pid\":[]},\"processes\":[{\"pid\":4,\"flows\":[],\"bytes\":7,"
		"\"tls\":{},\"libraries\":[3],\"command\":9,\"reason\":null}]}",
		"{\"processes\":[{\"pid\":9223372036854775807,\"start\":-1,"
		"\"flows\":{\"exact\":-5}}]}",
	};
	char *text = NULL;
	size_t len = 0;

	(void)state;
	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		json_t *rows = merge(shapes[i], shapes[i], shapes[i]);
		FILE *f = open_memstream(&text, &len);

		report_print(f, rows);
		fclose(f);
		assert_memory_equal(text, "PID", 3);
		free(text);
		json_decref(rows);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_agents_answer_becomes_a_table),
		cmocka_unit_test(test_nothing_is_a_table_too),
		cmocka_unit_test(test_an_agent_knows_better_than_proc),
		cmocka_unit_test(test_two_agents_that_mirror_have_a_row_each),
		cmocka_unit_test(test_of_two_agents_the_one_that_mirrors_speaks),
		cmocka_unit_test(test_a_library_that_one_agent_probes_is_probed),
		cmocka_unit_test(test_what_a_program_holds_is_added_to_an_agents_row),
		cmocka_unit_test(test_a_terminal_gets_no_escapes),
		cmocka_unit_test(test_a_probed_program_without_a_name_shows_its_file),
		cmocka_unit_test(test_long_names_do_not_fit_and_do_no_harm),
		cmocka_unit_test(test_answers_of_any_shape_are_survived),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
