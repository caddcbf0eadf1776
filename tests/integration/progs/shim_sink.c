/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shim_sink: the part of tests/bench/shim that is not a script.
 *
 * shim_sink drain DIR   an agent that throws everything away: takes the ring of the first process
 *                       that comes to DIR/preload.sock and empties it each millisecond, until stdin
 *                       ends. Says "listening", "taken" and at the end "lost BYTES".
 */
#include <linux/types.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "../../../proto/event.h"
#include "../../../proto/shim.h"

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int listen_in(const char *dir)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int s = socket(AF_UNIX, SOCK_SEQPACKET, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s/" SSLC_SHIM_SOCKET, dir);
	if (s < 0 || bind(s, (struct sockaddr *)&a, sizeof(a)) || listen(s, 8))
		die("listen");
	puts("listening");
	fflush(stdout);
	return s;
}

static struct sslc_shim_ring *take(int s)
{
	char room[CMSG_SPACE(sizeof(int))];
	struct sslc_shim_hello hello;
	struct iovec iov = {.iov_base = &hello, .iov_len = sizeof(hello)};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = room,
			   .msg_controllen = sizeof(room)};
	int c = accept(s, NULL, NULL), fd;
	void *p;

	if (c < 0 || recvmsg(c, &m, 0) != sizeof(hello) || !CMSG_FIRSTHDR(&m))
		die("hello");
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(fd));
	p = mmap(NULL, sizeof(struct sslc_shim_ring), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		die("mmap");
	puts("taken");
	fflush(stdout);
	return p;
}

static int drain(const char *dir)
{
	struct pollfd in = {.fd = 0, .events = POLLIN};
	struct sslc_shim_ring *r = take(listen_in(dir));

	while (!poll(&in, 1, 1)) {
		__atomic_store_n(&r->beat_ns, now_ns(), __ATOMIC_RELAXED);
		__atomic_store_n(&r->tail, __atomic_load_n(&r->head, __ATOMIC_ACQUIRE),
				 __ATOMIC_RELEASE);
	}
	printf("lost %llu\n", (unsigned long long)r->lost[SSLC_SHIM_LOST_FULL]);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "drain"))
		return drain(argv[2]);
	return 2;
}
