/* SPDX-License-Identifier: Apache-2.0 */
/*
 * systemwide: see systemwide.h. The dynamic linker splits the file at blanks and colons and takes
 * what follows a # for a comment; a file that it cannot open, or that is another machine's, makes
 * it complain in each program. So the library is tried in a program of its own first, and what the
 * file names already must be there.
 */
#include "cli/systemwide.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define FILE_PATH "/etc/ld.so.preload"
#define FRESH     FILE_PATH ".sslcollector" /* becomes the file */
#define LIBRARY   "libsslcollector-preload.so"
#define TEXT_MAX  65536u
#define TRIAL_MS  10000 /* a program that says its version takes milliseconds */
#define SPACES    " \t\r\n\v\f:"

/* What 32-bit programs are started by. Each of them would complain about a 64-bit library. */
static const char *const small_linkers[] = {"/lib/ld-linux.so.2", "/lib/ld-linux-armhf.so.3",
					    "/lib/ld-linux.so.3", "/libx32/ld-linux-x32.so.2"};

/* The file, as it was found. */
struct found {
	char path[PATH_MAX];
	char *text; /* ends with a zero byte; "" when there is none */
	struct stat st;
	bool is_there;
};

static bool refuse(const char *format, ...) __attribute__((format(printf, 1, 2)));

static bool refuse(const char *format, ...)
{
	char text[PATH_MAX + 256];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	log_error("system-wide: %s", text);
	return false;
}

/* --- the file -----------------------------------------------------------------------------------
 */

static bool read_all(int fd, struct found *f)
{
	size_t have = 0;
	ssize_t n;

	f->text = malloc(TEXT_MAX + 1);
	if (!f->text)
		return refuse("%s", strerror(ENOMEM));
	while ((n = read(fd, f->text + have, TEXT_MAX - have)) > 0)
		have += (size_t)n;
	f->text[have] = '\0';
	if (n < 0)
		return refuse("%s: %s", f->path, strerror(errno));
	if (have == TEXT_MAX || strlen(f->text) != have)
		return refuse("%s: is no text of a sensible size; nothing was changed", f->path);
	return true;
}

/* False: logged. Whose file it is is not looked at yet. */
static bool find(const struct systemwide_conf *c, struct found *f)
{
	bool ok;
	int fd;

	snprintf(f->path, sizeof(f->path), "%s" FILE_PATH, c->root);
	f->text = NULL;
	f->is_there = false;
	if (lstat(f->path, &f->st)) {
		f->text = errno == ENOENT ? strdup("") : NULL;
		return f->text ? true : refuse("%s: %s", f->path, strerror(errno));
	}
	f->is_there = true;
	fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return refuse("%s: %s", f->path, strerror(errno));
	ok = read_all(fd, f);
	close(fd);
	return ok;
}

static bool is_safe(const struct stat *st, uid_t owner)
{
	return st->st_uid == owner && !(st->st_mode & (S_IWGRP | S_IWOTH));
}

/* Whether it is ours to replace: a link stands for a file that somebody else looks after. */
static bool may_replace(const struct systemwide_conf *c, const struct found *f)
{
	if (!f->is_there)
		return true;
	if (!S_ISREG(f->st.st_mode) || f->st.st_nlink != 1)
		return refuse("%s: is a link or no plain file; nothing was changed", f->path);
	if (!is_safe(&f->st, c->owner))
		return refuse("%s: is not root's, or others may write it; nothing was changed",
			      f->path);
	return true;
}

/* --- lines --------------------------------------------------------------------------------------
 */

/* The next name in a line, which *at is behind then; false: no more. */
static bool next_name(const char **at, const char *end, char out[PATH_MAX])
{
	const char *p = *at;
	size_t n;

	while (p < end && strchr(SPACES, *p))
		p++;
	for (n = 0; p + n < end && !strchr(SPACES "#", p[n]); n++)
		;
	*at = p + n;
	if (!n || n >= PATH_MAX)
		return false;
	memcpy(out, p, n);
	out[n] = '\0';
	return true;
}

static const char *line_end(const char *line)
{
	return line + strcspn(line, "\n");
}

static bool is_library(const char *name)
{
	const char *slash = strrchr(name, '/');

	return !strcmp(slash ? slash + 1 : name, LIBRARY);
}

enum line { LINE_OTHER, LINE_OURS, LINE_MIXED };

static enum line judge_line(const char *line)
{
	const char *end = line_end(line);
	char name[PATH_MAX];
	unsigned ours = 0, others = 0;

	while (next_name(&line, end, name)) {
		ours += is_library(name);
		others += !is_library(name);
	}
	if (!ours)
		return LINE_OTHER;
	return others || memchr(line, '#', (size_t)(end - line)) ? LINE_MIXED : LINE_OURS;
}

/* How many lines are of this kind. */
static unsigned count_lines(const char *text, enum line kind)
{
	unsigned n = 0;

	for (; *text; text = line_end(text), text += *text == '\n')
		n += judge_line(text) == kind;
	return n;
}

/* What each program complains about already is no ground to build on. */
static bool others_are_there(const struct systemwide_conf *c, const struct found *f)
{
	char name[PATH_MAX], path[2 * PATH_MAX];

	for (const char *line = f->text; *line; line = line_end(line), line += *line == '\n') {
		const char *at = line;

		while (next_name(&at, line_end(line), name)) {
			snprintf(path, sizeof(path), "%s%s", c->root, name);
			if (name[0] == '/' && !strchr(name, '$') && access(path, R_OK))
				return refuse("%s names %s, which is not there; mend that first",
					      f->path, name);
		}
	}
	return true;
}

/* --- the library --------------------------------------------------------------------------------
 */

/* Whoever could replace it, or a directory on the way, could do so in every program of root's. */
static bool is_trusted(const struct systemwide_conf *c)
{
	char path[2 * PATH_MAX];
	size_t skip = strlen(c->root);
	struct stat st;

	if (c->library[0] != '/' || strpbrk(c->library, SPACES "#$") || !is_library(c->library))
		return refuse("%s: this path cannot stand in " FILE_PATH, c->library);
	snprintf(path, sizeof(path), "%s%s", c->root, c->library);
	if (lstat(path, &st) || !S_ISREG(st.st_mode))
		return refuse("%s: is no plain file", path);
	for (;;) {
		char *slash = strrchr(path + skip, '/');

		if (!is_safe(&st, c->owner))
			return refuse("%s: is not root's, or others may write it: install the "
				      "library where only root may write",
				      path);
		if (!slash)
			return true;
		*slash = '\0';
		if (lstat(path[0] ? path : "/", &st) || !S_ISDIR(st.st_mode))
			return refuse("%s: is no directory", path);
	}
}

static bool all_are_64(const struct systemwide_conf *c)
{
	char path[PATH_MAX];

	for (size_t i = 0; i < sizeof(small_linkers) / sizeof(small_linkers[0]); i++) {
		snprintf(path, sizeof(path), "%s%s", c->root, small_linkers[i]);
		if (!access(path, F_OK))
			return refuse("%s is there: 32-bit programs, which would all complain "
				      "about the library; use `enable UNIT` or `run`",
				      path);
	}
	return true;
}

/* Its words on stderr, which the linker complains on too; -1: it did not end, or not with 0. */
static ssize_t trial_says(int fd, pid_t pid, char *out, size_t room)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	size_t have = 0;
	ssize_t n = 1;
	int status;

	while (n > 0 && have < room && poll(&p, 1, TRIAL_MS) == 1) {
		n = read(fd, out + have, room - have);
		have += n > 0 ? (size_t)n : 0;
	}
	if (n)
		kill(pid, SIGKILL);
	if (waitpid(pid, &status, 0) != pid || status)
		return -1;
	return (ssize_t)have;
}

static pid_t start_trial(const struct systemwide_conf *c, char *const *environment, int err_fd)
{
	char *argv[] = {(char *)c->trial, (char *)"--version", NULL};
	posix_spawn_file_actions_t files;
	pid_t pid = -1;

	if (posix_spawn_file_actions_init(&files))
		return -1;
	if (posix_spawn_file_actions_addopen(&files, 1, "/dev/null", O_WRONLY, 0) ||
	    posix_spawn_file_actions_adddup2(&files, err_fd, 2) ||
	    posix_spawn(&pid, c->trial, &files, NULL, argv, environment))
		pid = -1;
	posix_spawn_file_actions_destroy(&files);
	return pid;
}

/* Whether a program starts as it should: preload, or NULL for what the file says now. */
static bool is_harmless(const struct systemwide_conf *c, const char *preload)
{
	char variable[2 * PATH_MAX + 16] = "SSLCOLLECTOR_PRELOAD=off", said[512];
	char *environment[] = {variable, NULL};
	ssize_t n = -1;
	pid_t pid;
	int fds[2];

	if (preload)
		snprintf(variable, sizeof(variable), "LD_PRELOAD=%s%s", c->root, preload);
	if (pipe2(fds, O_CLOEXEC))
		return refuse("%s", strerror(errno));
	pid = start_trial(c, environment, fds[1]);
	close(fds[1]);
	if (pid > 0)
		n = trial_says(fds[0], pid, said, sizeof(said));
	close(fds[0]);
	if (n > 0)
		log_error("system-wide: a program says with it: %.*s", (int)n, said);
	return !n ? true : refuse("%s: a program with it does not start as it should", c->library);
}

/* --- changes ------------------------------------------------------------------------------------
 */

static bool write_whole(int fd, const char *text)
{
	size_t len = strlen(text), done = 0;

	while (done < len) {
		ssize_t n = write(fd, text + done, len - done);

		if (n < 0)
			return false;
		done += (size_t)n;
	}
	return !fsync(fd);
}

static bool put_fresh(const char *path, const char *text, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	bool done;

	if (fd < 0)
		return false;
	done = write_whole(fd, text) && !fchmod(fd, mode);
	return !close(fd) && done;
}

/* Somebody else may have written it meanwhile. */
static bool is_as_found(const struct found *f)
{
	struct stat st;

	if (lstat(f->path, &st))
		return !f->is_there && errno == ENOENT;
	return f->is_there && st.st_ino == f->st.st_ino && st.st_size == f->st.st_size &&
	       st.st_mtim.tv_sec == f->st.st_mtim.tv_sec &&
	       st.st_mtim.tv_nsec == f->st.st_mtim.tv_nsec;
}

/* All of the text or none of it; a file without a name in it need not be. */
static bool replace(const struct systemwide_conf *c, const struct found *f, const char *text)
{
	char fresh[PATH_MAX];
	bool done;

	if (!is_as_found(f))
		return refuse("%s: somebody else is writing it; try again", f->path);
	if (!text[strspn(text, SPACES)])
		return unlink(f->path) ? refuse("%s: %s", f->path, strerror(errno)) : true;
	snprintf(fresh, sizeof(fresh), "%s" FRESH, c->root);
	(void)unlink(fresh);
	done = put_fresh(fresh, text, f->is_there ? f->st.st_mode & 07777 : 0644) &&
	       !rename(fresh, f->path);
	if (done)
		return true;
	refuse("%s: %s", f->path, strerror(errno));
	(void)unlink(fresh);
	return false;
}

static char *with_line(const char *text, const char *library)
{
	size_t n = strlen(text);
	char *out;

	if (asprintf(&out, "%s%s%s\n", text, n && text[n - 1] != '\n' ? "\n" : "", library) < 0)
		return NULL;
	return out;
}

static char *without_lines(const char *text)
{
	char *out = malloc(strlen(text) + 1), *to = out;

	for (const char *end; out && *text; text = end) {
		end = line_end(text);
		end += *end == '\n';
		if (judge_line(text) == LINE_OURS)
			continue;
		memcpy(to, text, (size_t)(end - text));
		to += end - text;
	}
	if (out)
		*to = '\0';
	return out;
}

static bool remove_lines(const struct systemwide_conf *c, const struct found *f)
{
	char *text = without_lines(f->text);
	bool done = text ? replace(c, f, text) : refuse("%s", strerror(ENOMEM));

	free(text);
	return done;
}

/* Once more as programs really start from now on; else all is as before. */
static bool add_and_try(const struct systemwide_conf *c, const struct found *f, const char *text)
{
	struct found now = {.text = NULL};
	bool done = replace(c, f, text);

	if (done && !is_harmless(c, NULL)) {
		done = false;
		if (find(c, &now))
			(void)remove_lines(c, &now);
		free(now.text);
	}
	return done;
}

/* What would end us waits meanwhile: a line that was not tried must not stay. */
static bool add_line(const struct systemwide_conf *c, const struct found *f)
{
	char *text = with_line(f->text, c->library);
	sigset_t ending, before;
	bool done;

	if (!text)
		return refuse("%s", strerror(ENOMEM));
	sigemptyset(&ending);
	sigaddset(&ending, SIGHUP);
	sigaddset(&ending, SIGINT);
	sigaddset(&ending, SIGTERM);
	sigprocmask(SIG_BLOCK, &ending, &before);
	done = add_and_try(c, f, text);
	sigprocmask(SIG_SETMASK, &before, NULL);
	free(text);
	return done;
}

/* --- commands -----------------------------------------------------------------------------------
 */

static void warn_and_tell(const struct found *f)
{
	log_warn("system-wide: each program that starts from now on on this host loads the "
		 "library, those of root and with setuid too; services have it after a restart");
	printf("%s: line added\nundo with: sslcollector disable --system-wide\n", f->path);
}

static bool is_enabled(const struct systemwide_conf *c, const struct found *f)
{
	char name[PATH_MAX];

	for (const char *line = f->text; *line; line = line_end(line), line += *line == '\n') {
		const char *at = line;

		if (judge_line(line) == LINE_OURS && next_name(&at, line_end(line), name) &&
		    !strcmp(name, c->library))
			return true;
	}
	return false;
}

/* Others than glibc's linker do not look at the file. */
static bool is_read(void)
{
#ifdef __GLIBC__
	return true;
#else
	return refuse("this C library does not read " FILE_PATH);
#endif
}

static bool enable(const struct systemwide_conf *c, const struct found *f)
{
	if (count_lines(f->text, LINE_OURS) || count_lines(f->text, LINE_MIXED))
		return refuse("%s names another " LIBRARY " already; "
			      "sslcollector disable --system-wide first",
			      f->path);
	if (!is_read() || !may_replace(c, f) || !others_are_there(c, f) || !is_trusted(c) ||
	    !all_are_64(c) || !is_harmless(c, c->library) || !add_line(c, f))
		return false;
	warn_and_tell(f);
	return true;
}

int systemwide_enable(const struct systemwide_conf *c)
{
	struct found f;
	bool ok = find(c, &f);

	if (ok && is_enabled(c, &f))
		printf("%s: the line is there already\n", f.path);
	else
		ok = ok && enable(c, &f);
	free(f.text);
	return ok ? 0 : 1;
}

static bool disable(const struct systemwide_conf *c, const struct found *f)
{
	if (count_lines(f->text, LINE_MIXED))
		return refuse("%s names " LIBRARY " beside something else in a line: take it "
			      "away by hand",
			      f->path);
	if (!count_lines(f->text, LINE_OURS)) {
		printf("%s: no line of ours\n", f->path);
		return true;
	}
	if (!may_replace(c, f) || !remove_lines(c, f))
		return false;
	printf("%s: line removed; programs that run keep the library until they end\n", f->path);
	return true;
}

int systemwide_disable(const struct systemwide_conf *c)
{
	struct found f;
	bool ok = find(c, &f) && disable(c, &f);

	free(f.text);
	return ok ? 0 : 1;
}
