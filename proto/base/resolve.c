/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resolve: see resolve.h. A host name in, getaddrinfo()'s list out, by way of a detached thread
 * that may outlive whoever asked; the two meet in a reference count and an eventfd.
 */
#include "resolve.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"

/* The thread writes list and err before `done`; the caller reads them after it. */
struct resolve {
	atomic_int refs;
	atomic_bool done;
	char *host, service[8];
	struct addrinfo *list;
	int err; /* of getaddrinfo() */
	int fd;  /* eventfd, readable when done */
};

void resolve_unref(struct resolve *r)
{
	if (!r || atomic_fetch_sub(&r->refs, 1) != 1)
		return;
	if (r->list)
		freeaddrinfo(r->list);
	if (r->fd >= 0)
		close(r->fd);
	free(r->host);
	free(r);
}

struct resolve *resolve_ref(struct resolve *r)
{
	atomic_fetch_add(&r->refs, 1);
	return r;
}

static void lookup(struct resolve *r)
{
	static const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
					      .ai_flags = AI_ADDRCONFIG};
	static const struct addrinfo literal = {.ai_socktype = SOCK_STREAM,
						.ai_flags = AI_NUMERICHOST};

	r->err = getaddrinfo(r->host, r->service, &literal, &r->list);
	if (r->err)
		r->err = getaddrinfo(r->host, r->service, &hints, &r->list);
}

static void *resolve_main(void *arg)
{
	struct resolve *r = arg;
	uint64_t one = 1;

	lookup(r);
	atomic_store(&r->done, true);
	if (write(r->fd, &one, sizeof(one)) < 0)
		log_debug("tunnel: resolve: %s", strerror(errno));
	resolve_unref(r);
	return NULL;
}

struct resolve *resolve_new(const char *host, uint16_t port)
{
	struct resolve *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	atomic_init(&r->refs, 1);
	snprintf(r->service, sizeof(r->service), "%u", port);
	r->host = strdup(host);
	r->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (r->host && r->fd >= 0)
		return r;
	resolve_unref(r);
	return NULL;
}

bool resolve_start(struct resolve *r)
{
	pthread_t thread;

	atomic_fetch_add(&r->refs, 1);
	if (pthread_create(&thread, NULL, resolve_main, r)) {
		resolve_unref(r);
		return false;
	}
	pthread_detach(thread);
	return true;
}

int resolve_fd(const struct resolve *r)
{
	return r->fd;
}

bool resolve_is_done(const struct resolve *r)
{
	return atomic_load(&r->done);
}

int resolve_error(const struct resolve *r)
{
	return r->err;
}

const struct addrinfo *resolve_list(const struct resolve *r)
{
	return r->list;
}
