/* SPDX-License-Identifier: Apache-2.0 */
/* extcap: Wireshark's calls, as it makes them, and what it is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../agent/cli/extcap.h"
#include "base/log.h"

static char **own;
static int n_own;

/* Words are divided by '|'. */
static int split(const char *line, char *copy, char **argv)
{
	int argc = 0;

	strcpy(copy, line);
	argv[argc++] = "/x/sslcollector";
	for (char *p = copy; *line && p;)
		argv[argc++] = strsep(&p, "|");
	argv[argc] = NULL;
	return argc;
}

static bool is_asked(const char *line)
{
	char copy[512], *argv[32];
	int argc = split(line, copy, argv);

	return extcap_is_asked(argc, argv);
}

/* What it says on standard output, and its status. */
static const char *answer(const char *line, int *status)
{
	static char copy[512], text[4096];
	char *argv[32];
	int argc = split(line, copy, argv), saved = dup(STDOUT_FILENO);
	FILE *f = tmpfile();
	size_t n;

	fflush(stdout);
	dup2(fileno(f), STDOUT_FILENO);
	own = NULL;
	*status = extcap_answer(argc, argv, &own, &n_own);
	fflush(stdout);
	dup2(saved, STDOUT_FILENO);
	close(saved);
	rewind(f);
	n = fread(text, 1, sizeof(text) - 1, f);
	text[n] = '\0';
	fclose(f);
	return text;
}

static void assert_says(const char *line, int want, const char *text)
{
	int status;
	const char *got = answer(line, &status);

	assert_int_equal(status, want);
	if (text ? !strstr(got, text) : *got)
		fail_msg("'%s' says '%s'", line, got);
}

static void test_its_calls_are_told_from_ours(void **state)
{
	(void)state;
	assert_true(is_asked("--extcap-interfaces|--extcap-version=4.0"));
	assert_true(is_asked("--capture|--extcap-interface|sslcollector|--fifo|/tmp/f"));
	assert_true(is_asked("--capture|--mirror|eth0|--extcap-interface=sslcollector"));
	assert_false(is_asked(""));
	assert_false(is_asked("-I|any|--capture|preload|-w|x"));
	assert_false(is_asked("run|--|tool|--extcap-interfaces"));
	assert_false(is_asked("run|--run-dir|d|--|tool|--extcap-interfaces"));
	assert_false(is_asked("-I|any|--|--extcap-interfaces"));
	assert_false(is_asked("-I|any|host|a|--extcap-interfaces"));
}

static void test_questions_are_answered_in_its_grammar(void **state)
{
	(void)state;
	assert_says("--extcap-interfaces|--extcap-version=4.0", 0,
		    "}\ninterface {value=sslcollector}{display=TLS plaintext of this host}\n"
		    "interface {value=sslcollector-remote}{display=");
	assert_says("--extcap-interface|sslcollector|--extcap-dlts", 0,
		    "dlt {number=1}{name=EN10MB}{display=Ethernet}\n");
	assert_says("--extcap-interface=sslcollector-remote|--extcap-dlts", 0, "{number=1}");
	assert_says("--extcap-interface|sslcollector|--extcap-config", 0,
		    "arg {number=0}{call=--mirror}{display=");
	assert_says("--extcap-interface|sslcollector-remote|--extcap-config", 0,
		    "arg {number=0}{call=--collector}{display=Collector}{type=string}"
		    "{required=true}{default=127.0.0.1:57012}");
	assert_says("--extcap-interface|sslcollector|--extcap-capture-filter|port 443", 0, NULL);
	assert_says("--extcap-interface|sslcollector|--extcap-capture-filter|", 0, NULL);
	assert_says("--extcap-interface|sslcollector|--extcap-capture-filter|port and", 0,
		    "syntax error");
	assert_says("--extcap-interface|sslcollector|--of-a-later-version=1|--extcap-dlts", 0,
		    "{number=1}");
	assert_says("--extcap-interface|eth0|--extcap-dlts", 1, NULL);
	assert_says("--extcap-dlts", 1, NULL);
	assert_says("--capture|--extcap-interface|sslcollector", 1, NULL);
}

static void assert_captures(const char *line, const char *want)
{
	char got[512] = "";
	int status;

	assert_string_equal(answer(line, &status), "");
	assert_int_equal(status, -1);
	for (int i = 0; i < n_own; i++)
		snprintf(got + strlen(got), sizeof(got) - strlen(got), "%s%s", i ? "|" : "",
			 own[i]);
	assert_null(own[n_own]);
	assert_string_equal(got, want);
	free(own[4]);
}

static void test_a_capture_of_this_host_is_an_ordinary_run(void **state)
{
	(void)state;
	assert_captures("--capture|--extcap-interface|sslcollector|--fifo|/tmp/f",
			"/x/sslcollector|-I|any|-w|/tmp/f,stop-with-reader");
	assert_captures("--capture|--extcap-interface|sslcollector|--fifo|/a,b\\c|--mirror|eth0|"
			"--extcap-capture-filter|-x or port 443",
			"/x/sslcollector|-I|eth0|-w|/a\\,b\\\\c,stop-with-reader|--|-x or port "
			"443");
	assert_captures("--capture|--extcap-interface|sslcollector|--fifo|/f|"
			"--extcap-capture-filter|",
			"/x/sslcollector|-I|any|-w|/f,stop-with-reader");
}

static void test_a_collector_that_cannot_be_is_refused(void **state)
{
	(void)state;
	assert_says("--capture|--extcap-interface|sslcollector-remote|--fifo|/f|--collector|host",
		    2, NULL);
	assert_says("--capture|--extcap-interface|sslcollector-remote|--fifo|/f|--collector|"
		    "127.0.0.1:1",
		    1, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_its_calls_are_told_from_ours),
		cmocka_unit_test(test_questions_are_answered_in_its_grammar),
		cmocka_unit_test(test_a_capture_of_this_host_is_an_ordinary_run),
		cmocka_unit_test(test_a_collector_that_cannot_be_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
