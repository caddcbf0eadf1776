/* SPDX-License-Identifier: Apache-2.0 */
/* Probes on a library of our own process's children, exchanged while they are there. With privilege
 * only. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/types.h>
#include <openssl/ssl.h>
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "probes/attach.h"
#include "calls.h"
#include "event.h"
#include "ring.h"
#include "capture.skel.h"

struct fixture {
	struct capture_bpf *skel;
	struct attach *a;
	int fd; /* of libssl */
	int err;
};

static int quiet(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	(void)level;
	(void)fmt;
	(void)ap;
	return 0;
}

static int open_fixture(void **state)
{
	static struct fixture f;
	struct btf *btf = btf__load_vmlinux_btf();
	Dl_info where;

	*state = &f;
	libbpf_set_print(quiet);
	f.fd = dladdr((void *)(uintptr_t)SSL_read, &where) ? open(where.dli_fname, O_RDONLY) : -1;
	f.err = libbpf_get_error(btf) ? -ENOTSUP : 0;
	if (f.err)
		return 0;
	f.skel = capture_bpf__open();
	f.err = f.skel ? attach_new(&f.a, f.skel, btf, PROBES_PAIRS) : -ENOMEM;
	for (struct bpf_program *p = NULL;
	     !f.err && (p = bpf_object__next_program(f.skel->obj, p));)
		if (bpf_program__expected_attach_type(p) != 48) /* uprobe_multi */
			bpf_program__set_autoload(p, false);
	if (!f.err)
		f.err = capture_bpf__load(f.skel);
	btf__free(btf);
	return 0;
}

static int close_fixture(void **state)
{
	struct fixture *f = *state;

	attach_free(f->a);
	capture_bpf__destroy(f->skel);
	close(f->fd);
	return 0;
}

/* Without privilege, or before Linux 6.6. */
static struct fixture *of(void **state)
{
	struct fixture *f = *state;

	if (f->err || f->fd < 0 || attach_check_process(f->a)) {
		print_message("no privilege, or no probes for one process: not tested\n");
		skip();
	}
	return f;
}

/* A child that calls SSL_read on nothing, again and again. */
static int calling_child(void)
{
	int pid = fork();

	if (pid)
		return pid;
	(void)close_range(3, ~0u, 0); /* links live as long as a descriptor of theirs */
	alarm(30);
	for (char c;;) {
		SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
		SSL *ssl = SSL_new(ctx);

		for (int i = 0; i < 20; i++) {
			(void)SSL_read(ssl, &c, 1);
			usleep(1000);
		}
		SSL_free(ssl);
		SSL_CTX_free(ctx);
	}
}

static void stop(int pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* A thread has a stack of calls once it has called. */
static bool is_seen(const struct fixture *f, int pid, bool wait)
{
	uint64_t key = (uint64_t)pid << 32 | (unsigned)pid;
	int map = bpf_map__fd(f->skel->maps.calls);
	struct calls cs;

	bpf_map_delete_elem(map, &key);
	for (int i = 0; i < (wait ? 400 : 40); i++) {
		usleep(5000);
		if (!bpf_map_lookup_elem(map, &key, &cs))
			return true;
	}
	return false;
}

static unsigned probe_libssl(struct fixture *f)
{
	struct attach_found found;

	if (!attach_count(f->a)) {
		assert_in_range(attach_file(f->a, f->fd, &found), 1, 100);
		assert_int_equal(found.number, 1);
		assert_int_equal(found.tier, ATTACH_PAIRS);
	}
	return 1;
}

static void test_file_keeps_its_identity(void **state)
{
	struct fixture *f = of(state);
	unsigned number = probe_libssl(f);
	uint64_t dev, ino;
	struct stat st;

	attach_identity(f->a, number, &dev, &ino);
	assert_int_equal(fstat(f->fd, &st), 0);
	assert_true(st.st_dev == dev && st.st_ino == ino);
	assert_int_equal(fstat(attach_fd(f->a, number), &st), 0);
	assert_true(st.st_ino == ino);
}

static void test_probes_of_one_process_leave_others_alone(void **state)
{
	struct fixture *f = of(state);
	unsigned number = probe_libssl(f);
	int one = calling_child(), other = calling_child();
	unsigned pids[] = {(unsigned)one, 99999999};

	assert_true(is_seen(f, one, true) && is_seen(f, other, true));
	assert_int_equal(attach_split(f->a, number, pids, 2), 0);
	assert_true(attach_is_split(f->a, number));
	attach_forget_calls(f->a, (unsigned)other);
	assert_true(is_seen(f, one, true));
	assert_false(is_seen(f, other, false));
	assert_int_equal(attach_add(f->a, number, (unsigned)other), 0);
	assert_int_equal(attach_add(f->a, number, (unsigned)other), 0);
	assert_true(is_seen(f, other, true));
	attach_remove(f->a, number, (unsigned)one);
	assert_false(is_seen(f, one, false));
	assert_int_equal(attach_add(f->a, number, 99999999), -ESRCH);
	assert_int_equal(attach_share(f->a, number), 0);
	assert_false(attach_is_split(f->a, number));
	assert_true(is_seen(f, one, true) && is_seen(f, other, true));
	stop(one);
	stop(other);
}

/* A child that waits in SSL_read until the other end of its socket is closed. */
static int waiting_child(int *end)
{
	int pair[2], pid;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	*end = pair[0];
	pid = fork();
	if (!pid) {
		SSL *ssl;
		char c;

		(void)dup2(pair[1], 3);
		(void)close_range(4, ~0u, 0);
		alarm(30);
		(void)signal(SIGPIPE, SIG_IGN);
		ssl = SSL_new(SSL_CTX_new(TLS_server_method()));
		SSL_set_fd(ssl, 3);
		SSL_set_accept_state(ssl);
		(void)SSL_read(ssl, &c, 1);
		pause();
	}
	close(pair[1]);
	return pid;
}

/* How many calls its only thread is in. */
static bool becomes(const struct fixture *f, int pid, unsigned depth)
{
	uint64_t key = (uint64_t)pid << 32 | (unsigned)pid;
	struct calls cs;

	for (int i = 0; i < 400; i++) {
		usleep(5000);
		if (!bpf_map_lookup_elem(bpf_map__fd(f->skel->maps.calls), &key, &cs) &&
		    cs.depth == depth)
			return true;
	}
	return false;
}

/* A call that was entered under the first tier leaves under the last: through the old exits. */
static void test_each_tier_shows_all_calls_and_the_last_has_none_below(void **state)
{
	struct fixture *f = of(state);
	unsigned number = probe_libssl(f);
	int end, waits = waiting_child(&end), pid = calling_child(), tier, last = ATTACH_PAIRS;

	assert_true(becomes(f, waits, 1));
	while ((tier = attach_next_tier(f->a, number)) > 0) {
		assert_true(tier > last);
		assert_true(is_seen(f, pid, true));
		attach_tick(f->a);
		last = tier;
	}
	assert_int_equal(tier, -ENOENT);
	assert_int_equal(last, ATTACH_PLAIN);
	assert_int_equal(attach_next_tier(f->a, 7), -ENOENT);
	assert_int_equal(shutdown(end, SHUT_WR), 0);
	assert_true(becomes(f, waits, 0));
	attach_tick(f->a);
	close(end);
	stop(pid);
	stop(waits);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_file_keeps_its_identity),
		cmocka_unit_test(test_probes_of_one_process_leave_others_alone),
		cmocka_unit_test(test_each_tier_shows_all_calls_and_the_last_has_none_below),
	};

	return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
