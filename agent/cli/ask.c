/* SPDX-License-Identifier: Apache-2.0 */
/* ask: the sockets of a directory, one question each; JSON comes back. Bounded in bytes and time.
 */
#include "cli/ask.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "coverage/control.h"

#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define ANSWER_MAX (64u << 20) /* bytes: COVERAGE_PROCESSES_MAX rows are some MiB */
#define ANSWER_MS  10000       /* an agent that takes longer has other troubles */

static int connect_to(const char *path)
{
	const struct timeval patience = {.tv_sec = ANSWER_MS / 1000};
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd, err;

	if (strlen(path) >= sizeof(a.sun_path))
		return -ENAMETOOLONG;
	memcpy(a.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) ||
	    connect(fd, (struct sockaddr *)&a, sizeof(a))) {
		err = -errno;
		close(fd);
		return err;
	}
	return fd;
}

static int read_all(int fd, struct buf *in)
{
	uint64_t end_ns = clock_mono_ns() + ANSWER_MS * NS_PER_MS;
	char part[65536];
	ssize_t n;

	for (;;) {
		n = read(fd, part, sizeof(part));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : 0;
		wr_bytes(in, part, (size_t)n);
		if (in->bad)
			return -EMSGSIZE;
		if (clock_mono_ns() > end_ns)
			return -ETIMEDOUT;
	}
}

static int send_line(int fd, const char *question)
{
	char line[CONTROL_LINE_MAX + 1];
	int len = snprintf(line, sizeof(line), "%s\n", question);

	if (len >= (int)sizeof(line))
		return -EMSGSIZE;
	return send(fd, line, (size_t)len, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static int ask(const char *path, const char *question, json_t **out)
{
	struct buf in;
	int err, fd = connect_to(path);

	if (fd < 0)
		return fd;
	buf_init(&in, ANSWER_MAX);
	err = send_line(fd, question);
	if (!err)
		err = read_all(fd, &in);
	close(fd);
	if (!err) {
		*out = json_loadb((const char *)in.p, in.len, 0, NULL);
		err = json_is_object(*out) && !json_object_get(*out, "error") ? 0 : -EBADMSG;
	}
	buf_fini(&in);
	return err;
}

size_t ask_all(const char *dir, const char *question, json_t *answers[ASK_AGENTS_MAX])
{
	char pattern[4096];
	glob_t g = {0};
	size_t n = 0;

	if (access(dir, R_OK | X_OK) && errno != ENOENT)
		log_warn("%s: %s: %s: agents cannot be asked; run as root", question, dir,
			 strerror(errno));
	snprintf(pattern, sizeof(pattern), "%s/" CONTROL_PATTERN, dir);
	if (glob(pattern, 0, NULL, &g))
		g.gl_pathc = 0;
	for (size_t i = 0; i < g.gl_pathc && n < ASK_AGENTS_MAX; i++) {
		json_t *answer = NULL;
		int err = ask(g.gl_pathv[i], question, &answer);

		if (!err)
			answers[n++] = answer;
		else
			json_decref(answer);
		if (err && err != -ECONNREFUSED) /* that one is only a name that was left behind */
			log_warn("%s: %s: %s", question, g.gl_pathv[i], strerror(-err));
	}
	globfree(&g);
	return n;
}
