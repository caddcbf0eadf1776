/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: any bytes on the control socket of agent/coverage/control.c, in two pieces. The
 * answer is nothing or one line of JSON, and the socket answers the next one.
 */
#include "coverage/control.h"

#include <event2/event.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static json_t *answer(void *ctx)
{
	(void)ctx;
	return json_pack("{s:i}", "n", 1);
}

static const struct control_question questions[] = {{"coverage", answer}, {.name = NULL}};
static struct event_base *base;
static struct control *control;
static struct sockaddr_un address = {.sun_family = AF_UNIX};

static void clean_up(void)
{
	control_close(control);
	event_base_free(base);
	*strrchr(address.sun_path, '/') = '\0';
	rmdir(address.sun_path);
}

static void start(void)
{
	char dir[] = "/tmp/fuzz_control.XXXXXX";

	signal(SIGPIPE, SIG_IGN);
	base = event_base_new();
	if (!base || !mkdtemp(dir) || control_open(&control, base, dir, questions, NULL))
		abort();
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/agent-%d.sock", dir,
		 (int)getpid());
	atexit(clean_up);
}

static void turn(void)
{
	for (int i = 0; i < 4; i++)
		event_base_loop(base, EVLOOP_NONBLOCK);
}

static size_t ask(const uint8_t *data, size_t size, char *out, size_t room)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	size_t half = size / 2;
	ssize_t n;

	if (connect(fd, (struct sockaddr *)&address, sizeof(address)))
		abort();
	(void)!send(fd, data, half, MSG_NOSIGNAL);
	turn();
	(void)!send(fd, data + half, size - half, MSG_NOSIGNAL);
	turn();
	n = recv(fd, out, room, 0);
	close(fd);
	turn();
	return n > 0 ? (size_t)n : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char out[256];
	json_t *j;
	size_t n;

	if (!control)
		start();
	n = ask(data, size, out, sizeof(out));
	j = n ? json_loadb(out, n, 0, NULL) : NULL;
	if (n && (!j || out[n - 1] != '\n'))
		abort();
	json_decref(j);
	if (ask((const uint8_t *)"coverage\n", 9, out, sizeof(out)) != 8)
		abort();
	return 0;
}
