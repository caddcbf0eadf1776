/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of agent/cli/enable.c, in a directory that stands for the root of a system. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cli/enable.h"
#include "tree.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DROP_IN "etc/systemd/system/web.service.d"
#define FILE_IN DROP_IN "/50-sslcollector-preload.conf"

static char root[] = "/tmp/test_enableXXXXXX";
static struct enable_conf conf = {
	.root = root, .library = "/usr/lib/x.so", .run_dir = "/run/sslcollector"};

static int make_root(void **state)
{
	static const char *const dirs[] = {
		"etc",     "etc/systemd",     "etc/systemd/system",    "usr",
		"usr/lib", "usr/lib/systemd", "usr/lib/systemd/system"};

	(void)state;
	if (plant(root, dirs, sizeof(dirs) / sizeof(dirs[0])))
		return -1;
	put(root, "usr/lib/systemd/system/web.service", "[Service]\nExecStart=/bin/web\n");
	put(root, "usr/lib/systemd/system/own.service",
	    "[Service]\nEnvironment=LD_PRELOAD=/a.so\n");
	put(root, "usr/lib/systemd/system/tmpl@.service", "[Service]\nExecStart=/bin/t %i\n");
	return 0;
}

static int remove_root(void **state)
{
	(void)state;
	return uproot(root);
}

static int enable(const char *unit)
{
	char *units[] = {(char *)unit};

	return enable_units(&conf, units, 1);
}

static int disable(const char *unit)
{
	char *units[] = {(char *)unit};

	return disable_units(&conf, units, 1);
}

static void test_a_service_gets_its_drop_in_and_loses_it(void **state)
{
	struct stat st;

	(void)state;
	assert_int_equal(enable("web"), 0);
	assert_non_null(strstr(get(root, FILE_IN),
			       "\n[Service]\nEnvironment=\"LD_PRELOAD=/usr/lib/x.so\"\n"));
	assert_null(strstr(get(root, FILE_IN), "RUN_DIR"));
	assert_int_equal(stat(under(root, FILE_IN), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0644);
	assert_int_equal(enable("web.service"), 0); /* again: no harm, and its own line is none */
	assert_null(get(root, FILE_IN ".new"));
	assert_int_equal(disable("web"), 0);
	assert_int_equal(access(under(root, DROP_IN), F_OK), -1);
	assert_int_equal(disable("web"), 0);
}

static void test_another_run_directory_is_told(void **state)
{
	struct enable_conf other = conf;
	char *units[] = {"web"};

	(void)state;
	other.run_dir = "/run/other";
	assert_int_equal(enable_units(&other, units, 1), 0);
	assert_non_null(
		strstr(get(root, FILE_IN), "\nEnvironment=\"SSLCOLLECTOR_RUN_DIR=/run/other\"\n"));
	other.run_dir = "/run/%i";
	assert_int_equal(enable_units(&other, units, 1), 1);
	assert_int_equal(disable("web"), 0);
}

static void test_other_drop_ins_stay(void **state)
{
	(void)state;
	assert_int_equal(mkdir(under(root, DROP_IN), 0755), 0);
	put(root, DROP_IN "/mine.conf", "[Service]\n# LD_PRELOAD=no\n");
	assert_int_equal(enable("web"), 0);
	assert_int_equal(disable("web"), 0);
	assert_non_null(get(root, DROP_IN "/mine.conf"));
	put(root, DROP_IN "/mine.conf", "[Service]\nEnvironment=LD_PRELOAD=/b.so\n");
	assert_int_equal(enable("web"), 1);
	assert_null(get(root, FILE_IN));
	assert_int_equal(unlink(under(root, DROP_IN "/mine.conf")), 0);
	assert_int_equal(rmdir(under(root, DROP_IN)), 0);
}

static void test_units_that_cannot_be_enabled_leave_the_others_alone(void **state)
{
	static const char *const bad[] = {"own",      "nothere", "../web", "",
					  ".service", "a b",     "we/b"};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		char *units[] = {"web", (char *)bad[i]};

		assert_int_equal(enable_units(&conf, units, 2), 1);
		assert_null(get(root, FILE_IN));
	}
	assert_int_equal(disable("../web"), 1);
}

static void test_an_instance_of_a_template_is_a_unit(void **state)
{
	(void)state;
	assert_int_equal(enable("tmpl@one"), 0);
	assert_non_null(
		get(root, "etc/systemd/system/tmpl@one.service.d/50-sslcollector-preload.conf"));
	assert_int_equal(disable("tmpl@one.service"), 0);
	assert_int_equal(enable("other@one"), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_service_gets_its_drop_in_and_loses_it),
		cmocka_unit_test(test_another_run_directory_is_told),
		cmocka_unit_test(test_other_drop_ins_stay),
		cmocka_unit_test(test_units_that_cannot_be_enabled_leave_the_others_alone),
		cmocka_unit_test(test_an_instance_of_a_template_is_a_unit),
	};

	return cmocka_run_group_tests(tests, make_root, remove_root);
}
