/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trial: an open file in, the child's answer out, checked: what it names must be an instruction in
 * the file's code that kernels emulate. Results are kept by the file's content.
 */
#include "sites/trial.h"

#include "sites/cheap.h"
#include "sites/elfview.h"
#include "sites/trial_store.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define KEPT      64    /* results; then the oldest goes */
#define CHILD_MS  40000 /* all of them together: who starts us does not wait for long */
#define FILE_FD   3
#define NAME_ROOM 4096

struct kept {
	uint8_t digest[TRIAL_DIGEST];
	struct trial_result result;
};

static struct kept kept[KEPT];
static unsigned n_kept;
static bool is_allowed, is_fresh;
static uint64_t spent_ns; /* by experiments */
static pthread_mutex_t kept_lock = PTHREAD_MUTEX_INITIALIZER;

static int no(struct trial_result *out, const char *why)
{
	*out = (struct trial_result){.why = ""};
	snprintf(out->why, sizeof(out->why), "%s", why);
	return 0;
}

/* --- what may be run ----------------------------------------------------------------------------
 */

/* A file that any program of this host would run, too. NULL, or why it is not. */
static const char *distrust(int fd)
{
	char link[64], path[NAME_ROOM];
	struct stat s, named;
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	if (n <= 0 || fstat(fd, &s))
		return "its name is not known";
	path[n] = '\0';
	if (stat(path, &named) || named.st_dev != s.st_dev || named.st_ino != s.st_ino)
		return "it is not a file of this mount namespace, or was replaced";
	if (!S_ISREG(s.st_mode) || s.st_uid || s.st_mode & (S_IWGRP | S_IWOTH))
		return "others than root may write it";
	return NULL;
}

/* --- the child ----------------------------------------------------------------------------------
 */

/* In a fork of a program with threads: system calls only. */
static void become_child(int file, int out)
{
	static char *const argv[] = {(char *)"sslcollector", (char *)TRIAL_WORD, NULL};
	static char *const env[] = {(char *)"OPENSSL_CONF=/dev/null", NULL};
	sigset_t none;
	int null;

	file = fcntl(file, F_DUPFD, 10);
	out = fcntl(out, F_DUPFD, 10);
	null = open("/dev/null", O_RDWR);
	if (file < 0 || out < 0 || null < 0 || dup2(null, 0) < 0 || dup2(out, 1) < 0 ||
	    dup2(null, 2) < 0 || dup2(file, FILE_FD) < 0)
		_exit(1);
	(void)syscall(SYS_close_range, FILE_FD + 1, ~0u, 0);
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	execve("/proc/self/exe", argv, env);
	_exit(1);
}

/* All of the answer, or less of it. */
static size_t receive(int fd, void *out, size_t room)
{
	uint64_t begin_ns = clock_mono_ns(), end_ns = begin_ns + CHILD_MS * NS_PER_MS - spent_ns;
	size_t have = 0;

	while (have < room) {
		uint64_t now = clock_mono_ns();
		struct pollfd p = {.fd = fd, .events = POLLIN};
		ssize_t n;

		if (now >= end_ns || poll(&p, 1, (int)((end_ns - now) / NS_PER_MS) + 1) < 0)
			break;
		n = read(fd, (char *)out + have, room - have);
		if (n <= 0)
			break;
		have += (size_t)n;
	}
	spent_ns += clock_mono_ns() - begin_ns;
	return have;
}

static int ask_child(int fd, struct trial_result *out)
{
	int pipe_fd[2], status;
	size_t n;
	pid_t pid;

	if (spent_ns >= CHILD_MS * NS_PER_MS)
		return no(out, "there was no time left for another experiment");
	if (pipe2(pipe_fd, O_CLOEXEC))
		return no(out, "no pipe to a child");
	pid = fork();
	if (pid == 0)
		become_child(fd, pipe_fd[1]);
	close(pipe_fd[1]);
	n = pid > 0 ? receive(pipe_fd[0], out, sizeof(*out)) : 0;
	close(pipe_fd[0]);
	if (pid > 0) {
		(void)kill(pid, SIGKILL);
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
	}
	if (n != sizeof(*out))
		return no(out, "the experiment broke off");
	out->why[sizeof(out->why) - 1] = '\0';
	return 0;
}

/* --- its answer ---------------------------------------------------------------------------------
 */

static bool is_source(uint8_t source)
{
	return source < TRIAL_SOURCES;
}

static bool is_place(const struct elfview *e, const struct trial_place *p)
{
	uint8_t code[CHEAP_INSTRUCTION];
	uint64_t addr;

	return elfview_addr(e, p->offset, &addr) && elfview_offset(e, addr, PF_X, NULL) &&
	       elfview_read(e, p->offset, code, sizeof(code)) && cheap_is(code) &&
	       is_source(p->buf) && is_source(p->len) && is_source(p->ssl) &&
	       (is_source(p->guard) || p->guard == TRIAL_NONE);
}

static bool is_code(const struct elfview *e, uint64_t offset)
{
	uint64_t addr;

	return offset && elfview_addr(e, offset, &addr) && elfview_offset(e, addr, PF_X, NULL);
}

/* The child has run foreign code: nothing is taken on trust. */
static int check(int fd, struct trial_result *r)
{
	struct elfview e;
	bool ok;

	if (r->why[0])
		return 0;
	if (elfview_open(&e, fd))
		return no(r, "the file changes");
	ok = is_place(&e, &r->send) && is_place(&e, &r->receive) &&
	     r->send.offset != r->receive.offset &&
	     (!r->batch.offset || !memcmp(&r->batch, &r->send, sizeof(r->send)) ||
	      (is_place(&e, &r->batch) && r->batch.offset != r->send.offset &&
	       r->batch.offset != r->receive.offset)) &&
	     is_code(&e, r->handshake[0]) && is_code(&e, r->handshake[1]);
	elfview_close(&e);
	return ok ? 0 : no(r, "the experiment's answer makes no sense");
}

/* --- results ------------------------------------------------------------------------------------
 */

static bool recall(const uint8_t digest[TRIAL_DIGEST], struct trial_result *out)
{
	bool found = false;

	pthread_mutex_lock(&kept_lock);
	for (unsigned i = 0; i < n_kept && i < KEPT && !found; i++) {
		found = !memcmp(kept[i].digest, digest, TRIAL_DIGEST);
		if (found)
			*out = kept[i].result;
	}
	pthread_mutex_unlock(&kept_lock);
	return found;
}

static void keep(const uint8_t digest[TRIAL_DIGEST], const struct trial_result *r)
{
	pthread_mutex_lock(&kept_lock);
	memcpy(kept[n_kept % KEPT].digest, digest, TRIAL_DIGEST);
	kept[n_kept % KEPT].result = *r;
	n_kept = n_kept + 1 < 2 * KEPT ? n_kept + 1 : KEPT;
	pthread_mutex_unlock(&kept_lock);
}

void trial_allow(bool allowed)
{
	is_allowed = allowed;
}

void trial_afresh(void)
{
	is_fresh = true;
}

/* Of an earlier run of this program. */
static bool find_stored(const uint8_t digest[TRIAL_DIGEST], int fd, struct trial_result *out)
{
	return !is_fresh && trial_store_get(digest, out) && !check(fd, out) && !out->why[0];
}

int trial_run(int fd, struct trial_result *out)
{
	uint8_t digest[TRIAL_DIGEST];
	const char *why;
	int err;

	if (!trial_store_digest(fd, digest))
		return no(out, "it is too large, or cannot be read");
	if (recall(digest, out))
		return 0;
	if (find_stored(digest, fd, out)) {
		keep(digest, out);
		return 0;
	}
	why = is_allowed
		      ? distrust(fd)
		      : "experiments are made at the start, with the libraries that are installed";
	if (why)
		return no(out, why);
	err = ask_child(fd, out);
	if (!err)
		err = check(fd, out);
	if (!err) {
		keep(digest, out);
		trial_store_put(digest, out);
	}
	return err;
}
