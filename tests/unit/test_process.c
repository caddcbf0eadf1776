/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of agent/process.c: this process, one that is gone, and control groups under other
 * names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "process.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define HEX64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

/* Id of a process that has been waited for: nobody has it. */
static unsigned gone_pid(void)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid)
		_exit(0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	return (unsigned)pid;
}

static void test_exe_is_the_path_of_the_program(void **state)
{
	char want[4096] = "", got[4096];

	(void)state;
	assert_true(readlink("/proc/self/exe", want, sizeof(want) - 1) > 0);
	process_exe((unsigned)getpid(), got, sizeof(got));
	assert_string_equal(got, want);
}

static void test_exe_is_cut_to_the_room_there_is(void **state)
{
	char want[4096], got[6] = "zzzzz";

	(void)state;
	process_exe((unsigned)getpid(), want, sizeof(want));
	process_exe((unsigned)getpid(), got, sizeof(got));
	assert_int_equal(strlen(got), 5);
	assert_memory_equal(got, want, 5);
}

static void test_process_that_is_gone_has_no_facts(void **state)
{
	struct sslc_ev_open open = {.family = 4, .local_port = 443};
	unsigned pid = gone_pid();
	char exe[64] = "old", container[64] = "old";

	(void)state;
	process_exe(pid, exe, sizeof(exe));
	process_container(pid, container, sizeof(container));
	assert_string_equal(exe, "");
	assert_string_equal(container, "");
	assert_false(process_listens(pid, &open));
	process_exe(0, exe, sizeof(exe));
	assert_string_equal(exe, "");
}

struct group_case {
	const char *text, *id;
};

static const struct group_case group_cases[] = {
	{"0::/user.slice/user-1000.slice/session-3.scope\n", ""},
	{"0::/\n", ""},
	{"", ""},
	{"0::/system.slice/docker-" HEX64 ".scope\n", "0123456789ab"},
	{"12:pids:/docker/" HEX64 "\n11:cpu:/docker/" HEX64 "\n", "0123456789ab"},
	{"1:name=systemd:/\n0::/kubepods/besteffort/pod3ff0e8f6-90f2-4a50-b3a2-9b6f0a8f5d41/" HEX64
	 "\n",
	 "0123456789ab"},
	{"0::/a0" HEX64 "\n", ""},              /* longer than an id */
	{"0::/abcdefabcdefabcdefabcdef\n", ""}, /* shorter */
	{"0::/libpod-" HEX64, "0123456789ab"},  /* without the line's end */
};

/* In a mount namespace of our own, where /proc/PID/cgroup is a file of ours. Returns an exit
 * status. */
static int check_group(const char *file, const struct group_case *c)
{
	char proc[64], got[64] = "old", small[4] = "old";
	FILE *f = fopen(file, "w");

	if (!f || fputs(c->text, f) < 0 || fclose(f))
		return 77;
	snprintf(proc, sizeof(proc), "/proc/%d/cgroup", (int)getpid());
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount(file, proc, NULL, MS_BIND, NULL))
		return 77;
	process_container((unsigned)getpid(), got, sizeof(got));
	process_container((unsigned)getpid(), small, sizeof(small));
	if (strcmp(got, c->id) != 0 || strlen(small) >= sizeof(small) ||
	    strncmp(small, c->id, 3) != 0)
		return 1;
	return 0;
}

static void test_container_is_found_in_the_group_names_of_many_runtimes(void **state)
{
	char file[] = "/tmp/test_process.XXXXXX";
	int status, fd = mkstemp(file);

	(void)state;
	assert_true(fd >= 0);
	close(fd);
	for (size_t i = 0; i < sizeof(group_cases) / sizeof(group_cases[0]); i++) {
		pid_t pid = fork();

		if (!pid)
			_exit(check_group(file, &group_cases[i]));
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (!WIFEXITED(status) || WEXITSTATUS(status))
			break;
	}
	unlink(file);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77) {
		print_message("SKIP: mounting over /proc/PID/cgroup needs root\n");
		skip();
	}
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* A TCP socket bound to a port of its own choice on the loopback; listening when asked. */
static int bound_socket(int family, bool v6only, bool listening, uint16_t *port)
{
	struct sockaddr_in6 a6 = {.sin6_family = AF_INET6};
	struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	struct sockaddr *a = family == AF_INET ? (struct sockaddr *)&a4 : (struct sockaddr *)&a6;
	socklen_t len = family == AF_INET ? sizeof(a4) : sizeof(a6);
	int only = v6only, fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	if (family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof(only));
	assert_int_equal(bind(fd, a, len), 0);
	if (listening)
		assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(getsockname(fd, a, &len), 0);
	*port = ntohs(family == AF_INET ? a4.sin_port : a6.sin6_port);
	return fd;
}

static bool listens(uint16_t port, uint8_t family)
{
	struct sslc_ev_open open = {.family = family, .local_port = port};

	return process_listens((unsigned)getpid(), &open);
}

static void test_listener_is_seen_only_while_it_listens(void **state)
{
	uint16_t port;
	int fd = bound_socket(AF_INET, false, false, &port);

	(void)state;
	assert_true(fd >= 0);
	assert_false(listens(port, 4)); /* bound, not listening */
	assert_int_equal(listen(fd, 1), 0);
	assert_true(listens(port, 4));
	assert_false(listens(port, 6)); /* it cannot have taken an IPv6 client */
	close(fd);
	assert_false(listens(port, 4));
}

static void test_established_socket_is_no_listener(void **state)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t len = sizeof(a);
	uint16_t port;
	int server = bound_socket(AF_INET, false, true, &port),
	    fd = socket(AF_INET, SOCK_STREAM, 0);

	(void)state;
	a.sin_port = htons(port);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	assert_false(listens(ntohs(a.sin_port), 4));
	assert_true(listens(port, 4));
	close(fd);
	close(server);
}

static void test_ipv6_listener_takes_clients_of_both_families(void **state)
{
	uint16_t port;
	int fd = bound_socket(AF_INET6, false, true, &port);

	(void)state;
	if (fd < 0) {
		print_message("SKIP: no IPv6 here\n");
		skip();
	}
	assert_true(listens(port, 6));
	assert_true(listens(port, 4));
	close(fd);
}

static void test_stat_tells_name_and_start(void **state)
{
	struct process_stat st, parent;

	(void)state;
	assert_true(process_stat((unsigned)getpid(), &st));
	assert_string_equal(st.comm, "test_process");
	assert_false(st.is_kernel);
	assert_true(process_stat(1, &parent));
	assert_true(parent.start_ticks <= st.start_ticks);
	assert_false(process_stat(gone_pid(), &st));
	assert_false(process_stat(0, &st));
}

/* A child with that name, waiting; the caller kills it. */
static pid_t child_named(const char *name)
{
	int ready[2];
	char c;
	pid_t pid;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	if (!pid) {
		prctl(PR_SET_NAME, name);
		(void)!write(ready[1], "", 1);
		pause();
		_exit(0);
	}
	assert_int_equal(read(ready[0], &c, 1), 1);
	close(ready[0]);
	close(ready[1]);
	return pid;
}

static void test_stat_is_not_led_astray_by_a_name(void **state)
{
	static const char *const names[] = {") R 1 2 3 4", "(((", ") Z (", "a b\nc", ""};
	struct process_stat own, st;

	(void)state;
	assert_true(process_stat((unsigned)getpid(), &own));
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		pid_t pid = child_named(names[i]);
		bool ok = process_stat((unsigned)pid, &st);

		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		assert_true(ok);
		assert_string_equal(st.comm, names[i]);
		assert_true(st.start_ticks >= own.start_ticks &&
			    st.start_ticks < own.start_ticks + 6000);
	}
}

static void test_stat_of_a_zombie_is_none(void **state)
{
	siginfo_t info;
	struct process_stat st;
	pid_t pid = fork();

	(void)state;
	if (!pid)
		_exit(0);
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
	assert_false(process_stat((unsigned)pid, &st));
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void test_ticks_are_what_proc_says(void **state)
{
	(void)state;
	assert_int_equal(process_ticks(0), 0);
	assert_int_equal(process_ticks(1999999999), 199); /* USER_HZ is 100 everywhere */
	assert_int_equal(process_ticks(12345678901234), 1234567);
}

struct sought {
	struct stat st;
	unsigned n_found, n_named;
};

static void on_mapped(void *ctx, const struct process_file *f)
{
	struct sought *s = ctx;

	s->n_found += f->dev == s->st.st_dev && f->ino == s->st.st_ino;
	s->n_named += strstr(f->path, "/test_process") != NULL;
}

static void test_files_are_those_that_are_executed(void **state)
{
	struct sought s = {.n_found = 0};

	(void)state;
	assert_int_equal(stat("/proc/self/exe", &s.st), 0);
	assert_true(process_files((unsigned)getpid(), on_mapped, &s));
	assert_true(s.n_found >= 1);
	assert_int_equal(s.n_named, s.n_found);
	assert_false(process_files(gone_pid(), on_mapped, &s));
}

static void on_pid(void *ctx, unsigned pid)
{
	if (pid == (unsigned)getpid())
		++*(unsigned *)ctx;
}

static void test_each_process_is_named_once(void **state)
{
	unsigned n = 0;

	(void)state;
	assert_int_equal(process_each(on_pid, &n), 0);
	assert_int_equal(n, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_exe_is_the_path_of_the_program),
		cmocka_unit_test(test_exe_is_cut_to_the_room_there_is),
		cmocka_unit_test(test_process_that_is_gone_has_no_facts),
		cmocka_unit_test(test_container_is_found_in_the_group_names_of_many_runtimes),
		cmocka_unit_test(test_listener_is_seen_only_while_it_listens),
		cmocka_unit_test(test_established_socket_is_no_listener),
		cmocka_unit_test(test_ipv6_listener_takes_clients_of_both_families),
		cmocka_unit_test(test_stat_tells_name_and_start),
		cmocka_unit_test(test_stat_is_not_led_astray_by_a_name),
		cmocka_unit_test(test_stat_of_a_zombie_is_none),
		cmocka_unit_test(test_ticks_are_what_proc_says),
		cmocka_unit_test(test_files_are_those_that_are_executed),
		cmocka_unit_test(test_each_process_is_named_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
