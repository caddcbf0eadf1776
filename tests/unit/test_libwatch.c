/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of agent/probes/libwatch.c against the running kernel: files of our own making are
 * mapped by this process and its children. Needs the right to watch all processes; skipped, with
 * the reason, without.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "probes/libwatch.h"

#include "base/log.h"
#include "counters.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define WAIT_MS 2000

/* What was found of the files of this test; other programs' libraries are none of its business. */
struct rig {
	struct libwatch *watch;
	int epoll_fd;
	char dir[64], path[4096]; /* of the file under test */
	struct stat file;
	unsigned times;
	bool readable;            /* the descriptor that came with it could be read */
	bool is_dull;             /* say that it holds no TLS */
	unsigned forks, mappings; /* of the process that is watched */
	unsigned watched;
};

static void on_changed(void *ctx, unsigned pid, uint64_t ino)
{
	struct rig *r = ctx;

	r->forks += pid == r->watched && !ino;
	r->mappings += pid == r->watched && ino == r->file.st_ino;
}

static bool on_found(void *ctx, int fd, const char *path)
{
	struct rig *r = ctx;
	struct stat st;
	char first;

	assert_non_null(path);
	assert_int_equal(fstat(fd, &st), 0);
	assert_true(S_ISREG(st.st_mode));
	if (st.st_dev != r->file.st_dev || st.st_ino != r->file.st_ino)
		return false;
	r->times++;
	r->readable = pread(fd, &first, 1, 0) == 1 && first == 'L';
	return !r->is_dull;
}

static void make_file(struct rig *r, const char *name)
{
	static const char page[4096] = "Library";
	int fd;

	snprintf(r->path, sizeof(r->path), "%s/%s", r->dir, name);
	fd = open(r->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0700);
	assert_true(fd >= 0);
	assert_true(write(fd, page, sizeof(page)) == sizeof(page));
	assert_int_equal(fstat(fd, &r->file), 0);
	close(fd);
}

static int watch_or_reason(struct rig *r)
{
	int err;

	log_set_level((enum log_level) - 1); /* the line for the user is not what is tested */
	err = libwatch_open(&r->watch, r->epoll_fd, on_found, r);
	log_set_level(LOG_INFO);
	return err;
}

static int set_up(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));
	int err;

	snprintf(r->dir, sizeof(r->dir), "/tmp/test_libwatch.XXXXXX");
	assert_non_null(mkdtemp(r->dir));
	r->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	assert_true(r->epoll_fd >= 0);
	err = watch_or_reason(r);
	if (err) {
		print_message("SKIP: cannot watch mappings of all processes: %s\n", strerror(-err));
		assert_true(err == -EPERM || err == -EACCES || err == -ENOSYS || err == -ENOENT);
		r->watch = NULL;
	}
	*state = r;
	return 0;
}

static int tear_down(void **state)
{
	struct rig *r = *state;

	libwatch_close(r->watch);
	close(r->epoll_fd);
	unlink(r->path);
	rmdir(r->dir);
	free(r);
	return 0;
}

static struct rig *rig_or_skip(void **state, const char *name)
{
	struct rig *r = *state;

	if (!r->watch)
		skip();
	make_file(r, name);
	return r;
}

static void *map_file(const char *path, int prot)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	void *p = mmap(NULL, 4096, prot, MAP_PRIVATE, fd, 0);

	close(fd);
	return p;
}

static void map_here(const struct rig *r, int prot)
{
	assert_ptr_not_equal(map_file(r->path, prot), MAP_FAILED);
}

/* As the agent does: wait for the descriptors, take what is there. */
static void poll_until(struct rig *r, unsigned times, int ms)
{
	struct epoll_event ev;

	for (int left = ms; left > 0 && r->times < times; left -= 20) {
		if (epoll_wait(r->epoll_fd, &ev, 1, 20) > 0)
			libwatch_poll(r->watch);
	}
}

/* A process that has the file mapped; it ends when told so. */
static pid_t start_child(const struct rig *r)
{
	int ready[2];
	char c;
	pid_t pid;

	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* a failed test leaves nobody behind */
		if (map_file(r->path, PROT_READ | PROT_EXEC) == MAP_FAILED ||
		    write(ready[1], "", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(ready[1]);
	assert_true(read(ready[0], &c, 1) == 1);
	close(ready[0]);
	return pid;
}

static void stop_child(pid_t pid)
{
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void test_scan_finds_what_is_mapped_and_says_it_once(void **state)
{
	struct rig *r = rig_or_skip(state, "libssl-scan.so.3");
	pid_t pid = start_child(r);

	libwatch_scan(r->watch);
	assert_int_equal(r->times, 1);
	assert_true(r->readable);
	libwatch_scan(r->watch);
	poll_until(r, 2, 100); /* the kernel's record of the same mapping */
	assert_int_equal(r->times, 1);
	stop_child(pid);
}

static void test_scan_finds_the_librarys_standard_place(void **state)
{
	struct rig *r = *state;

	if (!r->watch)
		skip();
	if (stat("/usr/lib/x86_64-linux-gnu/libssl.so.3", &r->file) &&
	    stat("/usr/lib/aarch64-linux-gnu/libssl.so.3", &r->file) &&
	    stat("/usr/lib64/libssl.so.3", &r->file)) {
		print_message("SKIP: no libssl.so.3 where distributions put it\n");
		skip();
	}
	libwatch_scan(r->watch);
	libwatch_scan(r->watch);
	assert_int_equal(r->times, 1);
}

static void test_new_mapping_is_reported_when_it_happens(void **state)
{
	struct rig *r = rig_or_skip(state, "libssl.so.1.1");

	map_here(r, PROT_READ | PROT_EXEC);
	poll_until(r, 1, WAIT_MS);
	assert_int_equal(r->times, 1);
	assert_true(r->readable);
	map_here(r, PROT_READ | PROT_EXEC); /* a second mapping of the same file says nothing new */
	poll_until(r, 2, 200);
	assert_int_equal(r->times, 1);
}

static void test_other_process_is_watched_too(void **state)
{
	struct rig *r = rig_or_skip(state, "libssl.so");
	pid_t pid = start_child(r);

	poll_until(r, 1, WAIT_MS);
	assert_int_equal(r->times, 1);
	stop_child(pid);
}

static void test_deleted_file_is_found_through_its_mapping(void **state)
{
	struct rig *r = rig_or_skip(state, "libssl-deleted.so.3");

	map_here(r, PROT_READ | PROT_EXEC);
	assert_int_equal(unlink(r->path), 0);
	poll_until(r, 1, WAIT_MS);
	assert_int_equal(r->times, 1);
	assert_true(r->readable);
}

static void test_mapping_without_code_is_no_library_in_use(void **state)
{
	struct rig *r = rig_or_skip(state, "libssl-data.so.3");

	map_here(r, PROT_READ);
	poll_until(r, 1, 200);
	libwatch_scan(r->watch);
	assert_int_equal(r->times, 0);
}

static void test_names_do_not_matter(void **state)
{
	struct rig *r = rig_or_skip(state, "a program");

	map_here(r, PROT_READ | PROT_EXEC);
	poll_until(r, 1, WAIT_MS);
	assert_int_equal(r->times, 1);
	libwatch_scan(r->watch);
	assert_int_equal(r->times, 1);
	assert_true(libwatch_is_library("/usr/lib/libssl.so.3"));
	assert_true(libwatch_is_library("libgnutls.so.30"));
	assert_false(libwatch_is_library("/opt/libssl.so/program"));
	assert_false(libwatch_is_library("/tmp/libssl-notes.txt"));
}

/* File systems give the number of a deleted file to the next one. */
static void test_number_used_again_is_another_file(void **state)
{
	struct rig *r = rig_or_skip(state, "first");
	struct stat first = r->file;
	void *p = map_file(r->path, PROT_READ | PROT_EXEC);

	r->is_dull = true;
	poll_until(r, 1, WAIT_MS);
	assert_int_equal(r->times, 1);
	munmap(p, 4096);
	for (int i = 0; i < 16; i++) {
		assert_int_equal(unlink(r->path), 0);
		make_file(r, "again");
		if (r->file.st_ino == first.st_ino)
			break;
	}
	if (r->file.st_ino != first.st_ino) {
		print_message("SKIP: this file system does not use numbers again at once\n");
		skip();
	}
	map_here(r, PROT_READ | PROT_EXEC);
	poll_until(r, 2, WAIT_MS);
	assert_int_equal(r->times, 2);
	map_here(r, PROT_READ | PROT_EXEC);
	poll_until(r, 3, 200);
	assert_int_equal(r->times, 2);
}

/* The first process that used the library is gone before anybody could look; the next one counts.
 */
static void test_library_is_found_although_its_first_process_is_gone(void **state)
{
	struct rig *r = rig_or_skip(state, "libssl-brief.so.3");

	stop_child(start_child(r));
	poll_until(r, 1, 200);
	assert_int_equal(r->times, 0); /* nobody is left to find it through */
	pid_t pid = start_child(r);

	poll_until(r, 1, WAIT_MS);
	assert_int_equal(r->times, 1);
	stop_child(pid);
}

static void test_processes_are_followed_while_it_is_wanted(void **state)
{
	struct rig *r = rig_or_skip(state, "libssl-followed.so.3");
	pid_t pid;

	libwatch_follow(r->watch, on_changed);
	pid = start_child(r);
	r->watched = (unsigned)pid;
	for (int i = 0; i < 100 && (!r->forks || !r->mappings); i++) {
		libwatch_poll(r->watch);
		usleep(10000);
	}
	assert_int_equal(r->forks, 1);
	assert_int_equal(r->mappings, 1);
	libwatch_scan(r->watch); /* as after a loss: whoever lives may be new */
	assert_int_equal(r->forks, 2);
	stop_child(pid);
	libwatch_follow(r->watch, NULL);
	pid = start_child(r);
	r->watched = (unsigned)pid;
	poll_until(r, 9, 100);
	assert_int_equal(r->forks, 2);
	stop_child(pid);
}

static void stay_on_this_cpu(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(sched_getcpu(), &set);
	assert_int_equal(sched_setaffinity(0, sizeof(set), &set), 0);
}

/* More mappings than the buffer of one CPU holds, the one that matters among the lost. */
static void test_overrun_is_counted_and_made_good_by_a_scan(void **state)
{
	struct rig *r = rig_or_skip(state, "libssl-late.so.3");
	uint64_t overruns = counter_named("capture_watch_overruns");
	char noise[4096];
	cpu_set_t before;
	int fd;

	assert_int_equal(sched_getaffinity(0, sizeof(before), &before), 0);
	stay_on_this_cpu();
	snprintf(noise, sizeof(noise),
		 "%s.a-long-name-makes-a-long-record-and-fills-the-buffer-sooner", r->dir);
	fd = open(noise, O_RDWR | O_CREAT | O_CLOEXEC, 0700);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 4096), 0);
	for (int i = 0; i < 2000; i++) {
		void *p = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);

		assert_ptr_not_equal(p, MAP_FAILED);
		munmap(p, 4096);
	}
	close(fd);
	unlink(noise);
	map_here(r, PROT_READ | PROT_EXEC);
	poll_until(r, 1, 500);
	assert_int_equal(r->times, 1);
	assert_true(counter_named("capture_watch_overruns") > overruns);
	assert_int_equal(sched_setaffinity(0, sizeof(before), &before), 0);
}

static void test_close_accepts_null_and_leaves_no_descriptor(void **state)
{
	struct rig *r = *state;
	int before, after;

	libwatch_close(NULL);
	if (!r->watch)
		skip();
	libwatch_close(r->watch);
	before = dup(r->epoll_fd);
	close(before);
	assert_int_equal(watch_or_reason(r), 0);
	libwatch_close(r->watch);
	r->watch = NULL;
	after = dup(r->epoll_fd);
	close(after);
	assert_int_equal(before, after);
}

int main(void)
{
#define WATCHING(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		WATCHING(test_scan_finds_what_is_mapped_and_says_it_once),
		WATCHING(test_scan_finds_the_librarys_standard_place),
		WATCHING(test_new_mapping_is_reported_when_it_happens),
		WATCHING(test_other_process_is_watched_too),
		WATCHING(test_deleted_file_is_found_through_its_mapping),
		WATCHING(test_mapping_without_code_is_no_library_in_use),
		WATCHING(test_names_do_not_matter),
		WATCHING(test_number_used_again_is_another_file),
		WATCHING(test_library_is_found_although_its_first_process_is_gone),
		WATCHING(test_processes_are_followed_while_it_is_wanted),
		WATCHING(test_overrun_is_counted_and_made_good_by_a_scan),
		WATCHING(test_close_accepts_null_and_leaves_no_descriptor),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
