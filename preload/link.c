/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link: the agent's socket. One message, never waited for, at set-up only; then nothing remains
 * open. SSLCOLLECTOR_RUN_DIR names another directory, for tests; never in programs that run with
 * more rights than their caller.
 */
#include "preload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define RUN_DIR "/run/sslcollector"

/* As it was at load: programs clear their environment. */
static char dir[64];

static const char *run_dir(void)
{
	const char *named;

	if (!dir[0]) {
		named = secure_getenv("SSLCOLLECTOR_RUN_DIR");
		strncpy(dir, named && strlen(named) < sizeof(dir) ? named : RUN_DIR,
			sizeof(dir) - 1);
	}
	return dir;
}

uint64_t link_run_dir(void)
{
	return sslc_shim_hash(run_dir());
}

/* Empty when it does not fit. */
static void path_of(char *out, size_t size, const char *name)
{
	size_t n = strlen(run_dir()), m = strlen(name);

	out[0] = '\0';
	if (n + 1 + m >= size)
		return;
	memcpy(out, dir, n);
	out[n] = '/';
	memcpy(out + n + 1, name, m + 1);
}

uint64_t link_ring_size(void)
{
	uint64_t v = 0;
	char text[24];
	char path[108];
	ssize_t n;
	int fd;

	path_of(path, sizeof(path), SSLC_SHIM_SIZE);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
	if (fd < 0)
		return SSLC_SHIM_DATA;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	for (ssize_t i = 0; i < n && text[i] >= '0' && text[i] <= '9' && v <= SSLC_SHIM_DATA_MAX;
	     i++)
		v = v * 10 + (uint64_t)(text[i] - '0');
	return sslc_shim_is_size(v) ? v : SSLC_SHIM_DATA;
}

static bool hand_over(int s, int memfd, uint64_t data_size)
{
	struct sslc_shim_hello hello = {
		.magic = SSLC_SHIM_MAGIC, .version = SSLC_SHIM_VERSION, .data_size = data_size};
	struct iovec iov = {.iov_base = &hello, .iov_len = sizeof(hello)};
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control = {.room = {0}};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = control.room,
			   .msg_controllen = sizeof(control.room)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &memfd, sizeof(int));
	return sendmsg(s, &m, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)sizeof(hello);
}

int link_socket(void)
{
	return socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

bool link_announce(int s, int memfd, uint64_t data_size)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	bool done;

	path_of(a.sun_path, sizeof(a.sun_path), SSLC_SHIM_SOCKET);
	done = a.sun_path[0] && !connect(s, (struct sockaddr *)&a, sizeof(a)) &&
	       hand_over(s, memfd, data_size);
	close(s);
	return done;
}
