/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of agent/sites/trial_store.c: what was kept is found again, and nothing else is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "sites/trial_store.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[] = "/tmp/test_trial_store.XXXXXX";
static const uint8_t library[TRIAL_DIGEST] = {1, 2, 3}, other[TRIAL_DIGEST] = {1, 2, 4};
static const struct trial_result result = {.send = {.offset = 4711, .buf = 6, .len = 2},
					   .handshake = {1, 2}};

static void path_of(const char *name, char *out, size_t room)
{
	snprintf(out, room, "%s/sites/%s", dir, name);
}

/* The only file there. */
static void stored_path(char *out, size_t room)
{
	char sites[64];
	struct dirent *e;
	DIR *d;

	path_of("", sites, sizeof(sites));
	d = opendir(sites);
	assert_non_null(d);
	while ((e = readdir(d)) && e->d_name[0] == '.')
		;
	assert_non_null(e);
	path_of(e->d_name, out, room);
	closedir(d);
}

static bool is_found(void)
{
	struct trial_result r = {.why = ""};

	if (!trial_store_get(library, &r))
		return false;
	assert_memory_equal(&r, &result, sizeof(r));
	return true;
}

static int keep_one(void **state)
{
	(void)state;
	trial_store_put(library, &result);
	return 0;
}

static void test_what_was_kept_is_found_and_for_nothing_else(void **state)
{
	struct trial_result r;
	char path[512];
	struct stat s;

	(void)state;
	assert_true(is_found());
	assert_false(trial_store_get(other, &r));
	stored_path(path, sizeof(path));
	assert_int_equal(stat(path, &s), 0);
	assert_int_equal(s.st_mode & 07777, 0600);
	path_of("", path, sizeof(path));
	assert_int_equal(stat(path, &s), 0);
	assert_int_equal(s.st_mode & 07777, 0700);
}

static void test_a_failure_is_not_kept(void **state)
{
	struct trial_result failed = {.why = "the experiment broke off"}, r;

	(void)state;
	trial_store_put(other, &failed);
	assert_false(trial_store_get(other, &r));
}

static void test_each_changed_byte_makes_it_garbage(void **state)
{
	char path[512];
	struct stat s;
	uint8_t byte;
	int fd;

	(void)state;
	stored_path(path, sizeof(path));
	fd = open(path, O_RDWR);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &s), 0);
	for (off_t i = 0; i < s.st_size; i++) {
		assert_int_equal(pread(fd, &byte, 1, i), 1);
		byte ^= 0x10;
		assert_int_equal(pwrite(fd, &byte, 1, i), 1);
		assert_false(is_found());
		byte ^= 0x10;
		assert_int_equal(pwrite(fd, &byte, 1, i), 1);
	}
	assert_true(is_found());
	assert_int_equal(ftruncate(fd, s.st_size - 1), 0);
	assert_false(is_found());
	assert_int_equal(ftruncate(fd, s.st_size + 1), 0);
	assert_false(is_found());
	close(fd);
}

static void test_a_result_under_another_librarys_name_is_not_taken(void **state)
{
	struct trial_result r;
	char path[512], to[512];
	size_t n;

	(void)state;
	stored_path(path, sizeof(path));
	snprintf(to, sizeof(to), "%s", path);
	n = strlen(to);
	to[n - 2 * TRIAL_DIGEST + 5] = '4'; /* the third byte: other */
	assert_int_equal(rename(path, to), 0);
	assert_false(trial_store_get(other, &r));
	assert_int_equal(rename(to, path), 0);
	assert_true(is_found());
}

static void test_what_others_may_write_is_not_taken(void **state)
{
	char path[512], sites[512], to[512];

	(void)state;
	stored_path(path, sizeof(path));
	path_of("", sites, sizeof(sites));
	assert_int_equal(chmod(path, 0620), 0);
	assert_false(is_found());
	assert_int_equal(chmod(path, 0600), 0);
	assert_int_equal(chmod(sites, 0702), 0);
	assert_false(is_found());
	assert_int_equal(chmod(sites, 0700), 0);
	assert_true(is_found());
	snprintf(to, sizeof(to), "%s/elsewhere", dir); /* nor what a link points to */
	assert_int_equal(rename(path, to), 0);
	assert_int_equal(symlink(to, path), 0);
	assert_false(is_found());
	assert_int_equal(unlink(path), 0);
	assert_int_equal(rename(to, path), 0);
	if (!geteuid()) {
		assert_int_equal(chown(path, 65534, 65534), 0);
		assert_false(is_found());
	}
}

static unsigned count_files(void)
{
	char sites[64];
	unsigned n = 0;
	struct dirent *e;
	DIR *d;

	path_of("", sites, sizeof(sites));
	d = opendir(sites);
	assert_non_null(d);
	while ((e = readdir(d)))
		n += e->d_name[0] != '.';
	closedir(d);
	return n;
}

static void test_there_are_never_too_many(void **state)
{
	uint8_t digest[TRIAL_DIGEST] = {9};
	unsigned most = 0, n;

	(void)state;
	for (unsigned i = 0; i < 300; i++) {
		digest[1] = (uint8_t)i;
		digest[2] = (uint8_t)(i >> 8);
		trial_store_put(digest, &result);
		n = count_files();
		most = n > most ? n : most;
	}
	assert_in_range(most, 200, 256);
	assert_in_range(count_files(), 1, 100);
}

static void test_without_a_directory_nothing_is_kept(void **state)
{
	(void)state;
	assert_int_equal(trial_store_open(NULL), 0);
	trial_store_put(library, &result);
	assert_false(is_found());
	assert_int_equal(trial_store_open(dir), 0);
}

static int set_up(void **state)
{
	(void)state;
	return !mkdtemp(dir) || trial_store_open(dir);
}

static int tear_down(void **state)
{
	char path[512], sites[64];
	struct dirent *e;
	DIR *d;

	(void)state;
	path_of("", sites, sizeof(sites));
	d = opendir(sites);
	while (d && (e = readdir(d))) {
		path_of(e->d_name, path, sizeof(path));
		(void)unlink(path);
	}
	if (d)
		closedir(d);
	return rmdir(sites) || rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_what_was_kept_is_found_and_for_nothing_else, keep_one),
		cmocka_unit_test_setup(test_a_failure_is_not_kept, keep_one),
		cmocka_unit_test_setup(test_each_changed_byte_makes_it_garbage, keep_one),
		cmocka_unit_test_setup(test_a_result_under_another_librarys_name_is_not_taken,
				       keep_one),
		cmocka_unit_test_setup(test_what_others_may_write_is_not_taken, keep_one),
		cmocka_unit_test(test_without_a_directory_nothing_is_kept),
		cmocka_unit_test_setup(test_there_are_never_too_many, keep_one),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
