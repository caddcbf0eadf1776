/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of agent/cli/systemwide.c, in a directory that stands for the root of a system. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cli/systemwide.h"
#include "tree.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define LINES   "etc/ld.so.preload"
#define LIBRARY "/usr/lib/libsslcollector-preload.so"

static char root[] = "/tmp/test_systemwideXXXXXX";
static struct systemwide_conf conf = {.root = root, .library = LIBRARY, .trial = "/bin/true"};

/* A program whose exit status and words on stderr are these; put(root, ) makes its file. */
static void put_trial(const char *script)
{
	put(root, "trial", script);
	assert_int_equal(chmod(under(root, "trial"), 0755), 0);
}

/* A library that the linker takes: any that is there. */
static int make_root(void **state)
{
	static const char *const dirs[] = {"etc", "lib", "usr", "usr/lib", "usr/other"};
	char command[512];

	(void)state;
	if (plant(root, dirs, sizeof(dirs) / sizeof(dirs[0])))
		return -1;
	conf.owner = getuid();
	snprintf(
		command, sizeof(command),
		"cp \"$(ldd /bin/sh | sed -n 's/.*libc.so.* => \\([^ ]*\\) .*/\\1/p')\" %s" LIBRARY,
		root);
	return system(command);
}

static int remove_root(void **state)
{
	(void)state;
	return uproot(root);
}

static int clean(void **state)
{
	(void)state;
	(void)unlink(under(root, LINES));
	conf.library = LIBRARY;
	conf.trial = "/bin/true";
	return 0;
}

static void refused_with(const char *text)
{
	put(root, LINES, text);
	assert_int_equal(systemwide_enable(&conf), 1);
	assert_string_equal(get(root, LINES), text);
}

static void test_the_line_comes_and_goes(void **state)
{
	struct stat st;

	(void)state;
	assert_int_equal(systemwide_enable(&conf), 0);
	assert_string_equal(get(root, LINES), LIBRARY "\n");
	assert_int_equal(stat(under(root, LINES), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0644);
	assert_int_equal(systemwide_enable(&conf), 0); /* is there already */
	assert_string_equal(get(root, LINES), LIBRARY "\n");
	assert_null(get(root, LINES ".sslcollector"));
	assert_int_equal(systemwide_disable(&conf), 0);
	assert_null(get(root, LINES));
	assert_int_equal(systemwide_disable(&conf), 0);
}

static void test_other_lines_stay_as_they_are(void **state)
{
	static const char text[] = "# mine\n /usr/lib/a.so:/usr/lib/b.so # both\n\n$LIB/c.so d.so";

	(void)state;
	put(root, "usr/lib/a.so", "");
	put(root, "usr/lib/b.so", "");
	put(root, LINES, text);
	assert_int_equal(chmod(under(root, LINES), 0640), 0);
	assert_int_equal(systemwide_enable(&conf), 0);
	assert_memory_equal(get(root, LINES), text, sizeof(text) - 1);
	assert_string_equal(get(root, LINES) + sizeof(text) - 1, "\n" LIBRARY "\n");
	assert_int_equal(systemwide_disable(&conf), 0);
	assert_memory_equal(get(root, LINES), text, sizeof(text) - 1);
	assert_string_equal(get(root, LINES) + sizeof(text) - 1, "\n");
}

static void test_a_line_of_ours_from_elsewhere_goes_too(void **state)
{
	(void)state;
	refused_with("/opt/libsslcollector-preload.so\n");
	assert_int_equal(systemwide_disable(&conf), 0);
	assert_null(get(root, LINES));
	put(root, LINES, "# kept\n" LIBRARY " " LIBRARY "\n");
	assert_int_equal(systemwide_disable(&conf), 0);
	assert_string_equal(get(root, LINES), "# kept\n");
}

static void test_a_line_shared_with_others_is_nobodys_to_change(void **state)
{
	static const char *const texts[] = {"/usr/lib/a.so:" LIBRARY "\n", LIBRARY " # mine\n"};

	(void)state;
	put(root, "usr/lib/a.so", "");
	for (size_t i = 0; i < 2; i++) {
		refused_with(texts[i]);
		assert_int_equal(systemwide_disable(&conf), 1);
		assert_string_equal(get(root, LINES), texts[i]);
	}
	put(root, LINES, "# " LIBRARY "\n"); /* a comment only */
	assert_int_equal(systemwide_disable(&conf), 0);
	assert_string_equal(get(root, LINES), "# " LIBRARY "\n");
}

static void test_a_file_that_names_what_is_not_there_is_refused(void **state)
{
	(void)state;
	refused_with("/usr/lib/nothere.so\n");
	refused_with("x.so\t/usr/lib/nothere.so");
}

static void test_doubtful_files_are_refused(void **state)
{
	(void)state;
	put(root, "etc/real", "");
	assert_int_equal(symlink("real", under(root, LINES)), 0);
	assert_int_equal(systemwide_enable(&conf), 1);
	assert_string_equal(get(root, "etc/real"), "");
	put(root, "etc/real", LIBRARY "\n");
	assert_int_equal(systemwide_disable(&conf), 1);
	assert_string_equal(get(root, "etc/real"), LIBRARY "\n");
	assert_int_equal(unlink(under(root, LINES)), 0);
	put(root, LINES, "\n");
	assert_int_equal(chmod(under(root, LINES), 0664), 0);
	assert_int_equal(systemwide_enable(&conf), 1);
	assert_int_equal(chmod(under(root, LINES), 0644), 0);
	conf.owner++;
	assert_int_equal(systemwide_enable(&conf), 1);
	conf.owner--;
	assert_int_equal(systemwide_enable(&conf), 0);
}

static void test_a_library_that_others_could_replace_is_refused(void **state)
{
	static const char *const paths[] = {"usr", "usr/lib", "usr/lib/libsslcollector-preload.so"};

	(void)state;
	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		assert_int_equal(chmod(under(root, paths[i]), 0777), 0);
		assert_int_equal(systemwide_enable(&conf), 1);
		assert_int_equal(chmod(under(root, paths[i]), 0755), 0);
	}
	assert_int_equal(symlink("../lib/libsslcollector-preload.so",
				 under(root, "usr/other/libsslcollector-preload.so")),
			 0);
	conf.library = "/usr/other/libsslcollector-preload.so";
	assert_int_equal(systemwide_enable(&conf), 1);
	assert_int_equal(unlink(under(root, "usr/other/libsslcollector-preload.so")), 0);
	conf.library = "/usr/nothere/libsslcollector-preload.so";
	assert_int_equal(systemwide_enable(&conf), 1);
	conf.library = "usr/lib/libsslcollector-preload.so";
	assert_int_equal(systemwide_enable(&conf), 1);
	conf.library = "/usr/l b/libsslcollector-preload.so";
	assert_int_equal(systemwide_enable(&conf), 1);
	assert_null(get(root, LINES));
}

static void test_a_library_that_the_linker_complains_about_is_refused(void **state)
{
	(void)state;
	put(root, "usr/other/libsslcollector-preload.so", "no library");
	conf.library = "/usr/other/libsslcollector-preload.so";
	assert_int_equal(systemwide_enable(&conf), 1);
	assert_null(get(root, LINES));
	assert_int_equal(unlink(under(root, "usr/other/libsslcollector-preload.so")), 0);
}

static void test_programs_that_fail_with_it_bring_the_file_back(void **state)
{
	char trial[256];

	(void)state;
	snprintf(trial, sizeof(trial), "%s", under(root, "trial"));
	conf.trial = trial;
	put_trial("#!/bin/sh\nexit 3\n");
	assert_int_equal(systemwide_enable(&conf), 1);
	assert_null(get(root, LINES));
	/* Only once the line is there, which is then without LD_PRELOAD. */
	put_trial("#!/bin/sh\n[ \"$LD_PRELOAD\" ] || echo oh >&2\n");
	refused_with("# mine\n");
}

/* The trial is in the midst of the change when the terminal or systemd ends us. */
static void test_a_signal_does_not_leave_a_line_that_was_not_tried(void **state)
{
	char script[512];
	int status;
	pid_t pid;

	(void)state;
	snprintf(script, sizeof(script),
		 "#!/bin/sh\n[ -e %s/" LINES " ] || exit 0\nkill -TERM $PPID; sleep 0.1; exit 1\n",
		 root);
	put_trial(script);
	conf.trial = strdup(under(root, "trial"));
	pid = fork();
	if (!pid)
		_exit(systemwide_enable(&conf));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
	assert_null(get(root, LINES));
	free((char *)conf.trial);
}

static void test_hosts_with_32_bit_programs_are_refused(void **state)
{
	(void)state;
	put(root, "lib/ld-linux.so.2", "");
	assert_int_equal(systemwide_enable(&conf), 1);
	assert_null(get(root, LINES));
	assert_int_equal(unlink(under(root, "lib/ld-linux.so.2")), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_the_line_comes_and_goes, clean),
		cmocka_unit_test_teardown(test_other_lines_stay_as_they_are, clean),
		cmocka_unit_test_teardown(test_a_line_of_ours_from_elsewhere_goes_too, clean),
		cmocka_unit_test_teardown(test_a_line_shared_with_others_is_nobodys_to_change,
					  clean),
		cmocka_unit_test_teardown(test_a_file_that_names_what_is_not_there_is_refused,
					  clean),
		cmocka_unit_test_teardown(test_doubtful_files_are_refused, clean),
		cmocka_unit_test_teardown(test_a_library_that_others_could_replace_is_refused,
					  clean),
		cmocka_unit_test_teardown(test_a_library_that_the_linker_complains_about_is_refused,
					  clean),
		cmocka_unit_test_teardown(test_programs_that_fail_with_it_bring_the_file_back,
					  clean),
		cmocka_unit_test_teardown(test_a_signal_does_not_leave_a_line_that_was_not_tried,
					  clean),
		cmocka_unit_test_teardown(test_hosts_with_32_bit_programs_are_refused, clean),
	};

	return cmocka_run_group_tests(tests, make_root, remove_root);
}
