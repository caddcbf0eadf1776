/* SPDX-License-Identifier: Apache-2.0 */
/*
 * control: connections come in, one question each, JSON goes out. Everything is bounded: clients,
 * the length of a question, the time either side may take. Never waits, never changes anything
 * that is asked about.
 */
#include "coverage/control.h"

#include "base/log.h"
#include "base/metrics.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <glob.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define PATIENCE_S 5 /* to ask, and to take the answer */
#define BACKLOG    16

static COUNTER_DEFINE(asked, "control_questions", "questions answered on the control socket");
static COUNTER_DEFINE(refused, "control_refused",
		      "control connections refused: not allowed, too many, or no question we know");

struct client {
	struct control *control; /* borrowed; NULL: the place is free */
	struct bufferevent *bev;
	bool is_answered;
};

struct control {
	struct event_base *base; /* borrowed */
	const struct control_question *questions;
	void *ctx;
	struct evconnlistener *listener;
	struct event *rest; /* after accept(2) failed */
	struct client clients[CONTROL_CLIENTS_MAX];
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

/* --- the directory ------------------------------------------------------------------------------
 */

static int check_directory(const char *dir)
{
	struct stat st;

	if (mkdir(dir, 0700) && errno != EEXIST)
		return -errno;
	if (lstat(dir, &st))
		return -errno;
	if (!S_ISDIR(st.st_mode))
		return -ENOTDIR;
	/* Whoever else may write there could pose as this agent, or take its socket away. */
	return (st.st_uid && st.st_uid != geteuid()) || st.st_mode & (S_IWGRP | S_IWOTH) ? -EPERM
											 : 0;
}

static int address_of(const char *path, struct sockaddr_un *a)
{
	*a = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(a->sun_path))
		return -ENAMETOOLONG;
	memcpy(a->sun_path, path, strlen(path) + 1);
	return 0;
}

/* A socket stands under its name only while somebody listens: who refuses is gone. */
static void remove_if_stale(const char *path)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un a;

	if (fd < 0)
		return;
	if (!address_of(path, &a) && connect(fd, (struct sockaddr *)&a, sizeof(a)) &&
	    errno == ECONNREFUSED)
		(void)unlink(path);
	close(fd);
}

static void remove_stale(const char *dir)
{
	char pattern[256];
	glob_t g = {0};

	snprintf(pattern, sizeof(pattern), "%s/" CONTROL_PATTERN, dir);
	if (!glob(pattern, GLOB_NOSORT, NULL, &g))
		for (size_t i = 0; i < g.gl_pathc; i++)
			remove_if_stale(g.gl_pathv[i]);
	globfree(&g);
}

/* Bound under another name first, so that nobody finds it before it listens. */
static int make_socket(const char *path)
{
	struct sockaddr_un a;
	char fresh[sizeof(a.sun_path) + 8];
	int fd, err;

	snprintf(fresh, sizeof(fresh), "%s.new", path);
	err = address_of(fresh, &a);
	if (err)
		return err;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	(void)unlink(fresh);
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) || chmod(fresh, 0600) ||
	    listen(fd, BACKLOG) || rename(fresh, path)) {
		err = -errno;
		(void)unlink(fresh);
		close(fd);
		return err;
	}
	return fd;
}

/* --- clients ------------------------------------------------------------------------------------
 */

static void drop(struct client *c)
{
	bufferevent_free(c->bev); /* closes the socket */
	*c = (struct client){.bev = NULL};
}

const struct control_question *control_parse(const struct control_question *table, const char *line,
					     size_t len)
{
	for (; table->name; table++)
		if (strlen(table->name) == len && !memcmp(table->name, line, len))
			return table;
	return NULL;
}

static void answer(struct client *c, json_t *json)
{
	char *words = json ? json_dumps(json, JSON_COMPACT) : NULL;

	c->is_answered = true;
	(void)bufferevent_disable(c->bev, EV_READ);
	if (words) {
		(void)bufferevent_write(c->bev, words, strlen(words));
		(void)bufferevent_write(c->bev, "\n", 1);
	}
	free(words);
	json_decref(json);
	if (!evbuffer_get_length(bufferevent_get_output(c->bev)))
		drop(c); /* out of memory */
}

static void refuse(struct client *c, const char *why)
{
	counter_inc(&refused);
	answer(c, json_pack("{s:s}", "error", why));
}

static void on_read(struct bufferevent *bev, void *ctx)
{
	struct evbuffer *in = bufferevent_get_input(bev);
	const struct control_question *q;
	struct client *c = ctx;
	size_t len = 0;
	char *line = evbuffer_readln(in, &len, EVBUFFER_EOL_LF);

	if (!line && evbuffer_get_length(in) < CONTROL_LINE_MAX)
		return;
	q = line && len < CONTROL_LINE_MAX ? control_parse(c->control->questions, line, len) : NULL;
	free(line);
	if (q) {
		counter_inc(&asked);
		answer(c, q->answer(c->control->ctx));
	} else {
		refuse(c, "no such question");
	}
}

static void on_written(struct bufferevent *bev, void *ctx)
{
	struct client *c = ctx;

	(void)bev;
	if (c->is_answered)
		drop(c);
}

static void on_end(struct bufferevent *bev, short what, void *ctx)
{
	(void)bev;
	(void)what; /* closed, failed, or too slow */
	drop(ctx);
}

static bool is_allowed(int fd)
{
	struct ucred who;
	socklen_t len = sizeof(who);

	return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) &&
	       (!who.uid || who.uid == geteuid());
}

static struct client *free_place(struct control *t)
{
	for (int i = 0; i < CONTROL_CLIENTS_MAX; i++)
		if (!t->clients[i].bev)
			return &t->clients[i];
	return NULL;
}

static void on_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *addr,
		      int addr_len, void *ctx)
{
	const struct timeval patience = {.tv_sec = PATIENCE_S};
	struct control *t = ctx;
	struct client *c = is_allowed(fd) ? free_place(t) : NULL;

	(void)l;
	(void)addr;
	(void)addr_len;
	if (c)
		c->bev = bufferevent_socket_new(t->base, fd, BEV_OPT_CLOSE_ON_FREE);
	if (!c || !c->bev) {
		counter_inc(&refused);
		close(fd);
		return;
	}
	c->control = t;
	bufferevent_setcb(c->bev, on_read, on_written, on_end, c);
	bufferevent_set_timeouts(c->bev, &patience, &patience);
	bufferevent_setwatermark(c->bev, EV_READ, 0, CONTROL_LINE_MAX);
	(void)bufferevent_enable(c->bev, EV_READ | EV_WRITE);
}

/* Out of descriptors, mostly: the connection stays pending, and to ask again at once would spin. */
static void on_accept_error(struct evconnlistener *l, void *ctx)
{
	const struct timeval second = {.tv_sec = 1};
	struct control *t = ctx;

	(void)evconnlistener_disable(l);
	(void)event_add(t->rest, &second);
}

static void on_rested(evutil_socket_t fd, short what, void *ctx)
{
	struct control *t = ctx;

	(void)fd;
	(void)what;
	(void)evconnlistener_enable(t->listener);
}

/* --- open and close -----------------------------------------------------------------------------
 */

static int listen_at(struct control *t)
{
	int fd = make_socket(t->path);

	if (fd < 0)
		return fd;
	t->rest = event_new(t->base, -1, 0, on_rested, t);
	t->listener =
		t->rest ? evconnlistener_new(t->base, on_accept, t, LEV_OPT_CLOSE_ON_FREE, 0, fd)
			: NULL;
	if (!t->listener) {
		close(fd);
		return -ENOMEM;
	}
	evconnlistener_set_error_cb(t->listener, on_accept_error);
	return 0;
}

int control_open(struct control **out, struct event_base *base, const char *dir,
		 const struct control_question *questions, void *ctx)
{
	struct control *t;
	int err = check_directory(dir);

	if (err)
		return err;
	t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	t->base = base;
	t->questions = questions;
	t->ctx = ctx;
	if (snprintf(t->path, sizeof(t->path), "%s/agent-%d.sock", dir, (int)getpid()) >=
	    (int)sizeof(t->path)) {
		t->path[0] = '\0';
		err = -ENAMETOOLONG;
		goto fail;
	}
	remove_stale(dir);
	err = listen_at(t);
	if (err)
		goto fail;
	*out = t;
	return 0;
fail:
	control_close(t);
	return err;
}

void control_close(struct control *t)
{
	if (!t)
		return;
	if (t->listener) {
		(void)unlink(t->path);
		evconnlistener_free(t->listener);
	}
	if (t->rest)
		event_free(t->rest);
	for (int i = 0; i < CONTROL_CLIENTS_MAX; i++)
		if (t->clients[i].bev)
			drop(&t->clients[i]);
	free(t);
}
