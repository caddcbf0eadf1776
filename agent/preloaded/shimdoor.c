/* SPDX-License-Identifier: Apache-2.0 */
/* shimdoor: see shimdoor.h. The lock guards the list of those who were heard, nothing else. */
#include "preloaded/shimdoor.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/queue.h"
#include "preloaded/apart.h"
#include "preloaded/turn.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5 */
#endif

#define GUESTS    128 /* that have connected and said nothing yet */
#define GUEST_NS  NS_PER_S
#define LOOK_MS   250 /* for guests that say nothing */
#define BACKLOG   256
#define HEARD_MAX 256 /* and not taken yet: then nobody else is let in */
#define FULL_MS   1
#define PERCENT   10 /* of one processor */

static COUNTER_DEFINE(processes_refused, "preload_processes_refused",
		      "processes that came with a ring that could not be taken");

enum kind { KIND_STOP, KIND_DOOR, KIND_GUEST };

struct watch { /* what an epoll event is about; first member of each */
	enum kind kind;
	int fd;
};

struct guest {
	struct watch watch;
	struct queue_node node;
	struct ucred who; /* pid 0: not known */
	uint64_t since_ns;
};

struct shimdoor {
	struct shimask *asker;
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	bool has_path, running;
	struct watch door, stop_watch;
	int epoll_fd, heard_fd;
	pthread_t thread;
	atomic_bool stop;

	struct queue guests; /* of the thread */
	unsigned n_guests;

	pthread_mutex_t lock;
	struct queue heard;
	unsigned n_heard;
};

/* --- who was heard ------------------------------------------------------------------------------
 */

static void tell(struct shimdoor *d, struct shimpeer *p)
{
	const uint64_t one = 1;

	pthread_mutex_lock(&d->lock);
	queue_push(&d->heard, &p->node);
	d->n_heard++;
	pthread_mutex_unlock(&d->lock);
	(void)!write(d->heard_fd, &one, sizeof(one));
}

static bool is_full(struct shimdoor *d)
{
	bool is;

	pthread_mutex_lock(&d->lock);
	is = d->n_heard >= HEARD_MAX;
	pthread_mutex_unlock(&d->lock);
	return is;
}

struct shimpeer *shimdoor_take(struct shimdoor *d)
{
	struct shimpeer *p = NULL;
	struct queue_node *n;
	uint64_t told;

	pthread_mutex_lock(&d->lock);
	n = queue_first(&d->heard);
	if (n) {
		p = queue_entry(n, struct shimpeer, node);
		queue_remove(n);
		d->n_heard--;
	} else { /* under the lock: who is heard next tells anew */
		(void)!read(d->heard_fd, &told, sizeof(told));
	}
	pthread_mutex_unlock(&d->lock);
	return p;
}

int shimdoor_fd(const struct shimdoor *d)
{
	return d->heard_fd;
}

void shimdoor_refuse(int err)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static struct log_rate rate;
	uint64_t held;
	bool is_told;

	counter_inc(&processes_refused);
	pthread_mutex_lock(&lock);
	is_told = log_rate_ok(&rate, 10000, &held);
	pthread_mutex_unlock(&lock);
	if (is_told)
		log_info("preload: a process's ring was not taken: %s", strerror(-err));
}

/* --- who comes ----------------------------------------------------------------------------------
 */

static void send_away(struct shimdoor *d, struct guest *g)
{
	queue_remove(&g->node);
	d->n_guests--;
	close(g->watch.fd);
	free(g);
}

/* One message, one descriptor. -EAGAIN: nothing yet. */
static int hear(int fd, uint32_t uid, struct sslc_shim_hello *hello, int *memfd)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int) * 4)];
	} control;
	struct iovec iov = {.iov_base = hello, .iov_len = sizeof(*hello)};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = control.room,
			   .msg_controllen = sizeof(control.room)};
	int fds[4], n_fds = 0;
	ssize_t n;

	if (apart_is_crowded(uid)) /* what is brought is let go: processes are found all the same */
		m.msg_controllen = 0;
	n = recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0)
		return -errno;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n_fds = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(c), (size_t)n_fds * sizeof(int));
	}
	if (n == sizeof(*hello) && n_fds == 1 && !(m.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) &&
	    hello->magic == SSLC_SHIM_MAGIC && hello->version == SSLC_SHIM_VERSION &&
	    sslc_shim_is_size(hello->data_size) && fcntl(fds[0], F_GET_SEALS) >= 0) {
		*memfd = fds[0];
		return 0;
	}
	while (n_fds) /* a message without a byte may bring some, too */
		apart_close(fds[--n_fds], uid);
	return n ? -EPROTO : -ECONNRESET;
}

/* -1: it is gone. is_sure: it is this one, and not one that has its number by now. */
static int pidfd_of(const struct guest *g, bool *is_sure)
{
	int fd = -1;
	socklen_t len = sizeof(fd);

	*is_sure = !getsockopt(g->watch.fd, SOL_SOCKET, SO_PEERPIDFD, &fd, &len);
	if (*is_sure || g->who.pid <= 0)
		return fd;
	return (int)syscall(SYS_pidfd_open, g->who.pid, 0);
}

/* First it is asked about its connections; who it is can be asked a moment later. */
static int meet(struct shimdoor *d, const struct guest *g, int memfd, uint64_t data_size)
{
	struct shimpeer *p;
	bool is_sure;
	int err, pidfd = pidfd_of(g, &is_sure);

	err = shimpeer_new(&p, (uint32_t)g->who.pid, g->who.uid, pidfd, memfd, data_size);
	if (err) {
		if (pidfd >= 0)
			close(pidfd);
		return err;
	}
	if (pidfd >= 0)
		err = shimpeer_ask(p, d->asker);
	if (err) {
		shimpeer_free(p);
		return err;
	}
	if (shimpeer_meet(p, is_sure))
		shimpeer_forget(p);
	tell(d, p);
	return 0;
}

/* False: it is gone. */
static bool on_guest(struct shimdoor *d, struct guest *g)
{
	struct sslc_shim_hello hello;
	int memfd = -1, err = hear(g->watch.fd, g->who.uid, &hello, &memfd);

	if (err == -EAGAIN)
		return true;
	if (!err)
		err = meet(d, g, memfd, hello.data_size);
	if (memfd >= 0)
		close(memfd);
	if (err && err != -ECONNRESET)
		shimdoor_refuse(err);
	send_away(d, g);
	return false;
}

/* Who comes speaks at once, and comes again only when it begins another program: a process that
 * keeps others waiting by standing in the door gives up its oldest place. */
static void make_room(struct shimdoor *d, pid_t pid)
{
	struct queue_node *n, *oldest = NULL;
	unsigned same = 0;

	for (n = queue_first(&d->guests); n; n = queue_next(&d->guests, n))
		if (queue_entry(n, struct guest, node)->who.pid == pid && !same++)
			oldest = n;
	if (same > 1)
		send_away(d, queue_entry(oldest, struct guest, node));
}

static int watch_fd(const struct shimdoor *d, struct watch *w)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = w};

	return epoll_ctl(d->epoll_fd, EPOLL_CTL_ADD, w->fd, &ev) ? -errno : 0;
}

static bool receive(struct shimdoor *d, int fd)
{
	struct guest *g = calloc(1, sizeof(*g));
	socklen_t len = sizeof(g->who);

	if (!g) {
		close(fd);
		return false;
	}
	g->watch = (struct watch){.kind = KIND_GUEST, .fd = fd};
	g->since_ns = clock_mono_ns();
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &g->who, &len))
		g->who.pid = 0;
	make_room(d, g->who.pid);
	queue_push(&d->guests, &g->node);
	d->n_guests++;
	if (on_guest(d, g) && watch_fd(d, &g->watch))
		send_away(d, g);
	return true;
}

static void on_door(struct shimdoor *d)
{
	int fd;

	for (int i = 0; i < BACKLOG && d->n_guests < GUESTS && !is_full(d); i++) {
		fd = accept4(d->door.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0 || !receive(d, fd))
			return;
	}
}

/* --- the thread ---------------------------------------------------------------------------------
 */

static void expire_guests(struct shimdoor *d)
{
	uint64_t now_ns = clock_mono_ns();
	struct queue_node *n;

	while ((n = queue_first(&d->guests))) {
		struct guest *g = queue_entry(n, struct guest, node);

		if (now_ns - g->since_ns < GUEST_NS)
			break;
		send_away(d, g);
	}
}

/* most_ns: 0: there is no need to wake up. */
static int wait_ms(const struct shimdoor *d, uint64_t most_ns)
{
	uint64_t ms = (most_ns + NS_PER_MS - 1) / NS_PER_MS;

	if (d->n_guests && (!ms || ms > LOOK_MS))
		return LOOK_MS;
	return ms ? (int)(ms < LOOK_MS ? ms : LOOK_MS) : -1;
}

static void *run(void *ctx)
{
	struct shimdoor *d = ctx;
	struct turn turn;

	turn_begin(&turn, PERCENT);
	while (!atomic_load(&d->stop)) {
		struct epoll_event ev[32];
		bool is_somebody_there = false;
		int n;

		if (is_full(d) || d->n_guests >= GUESTS) /* the door stays ready meanwhile */
			usleep(FULL_MS * 1000);
		n = epoll_wait(d->epoll_fd, ev, 32, wait_ms(d, turn_over(&turn)));
		for (int i = 0; i < n; i++) {
			struct watch *w = ev[i].data.ptr;

			if (w->kind == KIND_DOOR)
				is_somebody_there = true;
			else if (w->kind == KIND_GUEST)
				(void)on_guest(d, (struct guest *)w);
		}
		if (is_somebody_there) /* after the guests: it may send some away */
			on_door(d);
		expire_guests(d);
	}
	return NULL;
}

/* --- open, close --------------------------------------------------------------------------------
 */

/* Whether somebody listens there. Who refuses is gone. */
static bool is_served(const struct sockaddr_un *a)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool is = fd >= 0 &&
		  (!connect(fd, (const struct sockaddr *)a, sizeof(*a)) || errno == EAGAIN);

	if (fd >= 0)
		close(fd);
	return is;
}

static int listen_at(struct shimdoor *d)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	memcpy(a.sun_path, d->path, sizeof(a.sun_path));
	if (is_served(&a))
		return -EADDRINUSE;
	(void)unlink(d->path);
	d->door.fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (d->door.fd < 0 || bind(d->door.fd, (struct sockaddr *)&a, sizeof(a)))
		return -errno;
	d->has_path = true;
	/* Anybody's program may be mirrored; who comes is known by the kernel's word. */
	if (chmod(d->path, 0666) || listen(d->door.fd, BACKLOG))
		return -errno;
	return 0;
}

static int start(struct shimdoor *d)
{
	sigset_t all, old;
	int err;

	d->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	d->heard_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	d->stop_watch.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (d->epoll_fd < 0 || d->heard_fd < 0 || d->stop_watch.fd < 0)
		return -errno;
	err = watch_fd(d, &d->stop_watch);
	if (!err)
		err = watch_fd(d, &d->door);
	if (err)
		return err;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are the main thread's */
	err = -pthread_create(&d->thread, NULL, run, d);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	d->running = !err;
	return err;
}

int shimdoor_open(struct shimdoor **out, const char *path, struct shimask *asker)
{
	struct shimdoor *d = calloc(1, sizeof(*d));
	int err = 0;

	if (!d)
		return -ENOMEM;
	d->asker = asker;
	d->epoll_fd = d->heard_fd = -1;
	d->door = (struct watch){.kind = KIND_DOOR, .fd = -1};
	d->stop_watch = (struct watch){.kind = KIND_STOP, .fd = -1};
	pthread_mutex_init(&d->lock, NULL);
	queue_init(&d->guests);
	queue_init(&d->heard);
	if (strlen(path) < sizeof(d->path))
		memcpy(d->path, path, strlen(path) + 1);
	else
		err = -ENAMETOOLONG;
	if (!err)
		err = listen_at(d);
	if (!err)
		err = start(d);
	if (err) {
		shimdoor_free(d);
		return err;
	}
	*out = d;
	return 0;
}

void shimdoor_close(struct shimdoor *d)
{
	const uint64_t one = 1;

	if (!d->running)
		return;
	atomic_store(&d->stop, true);
	(void)!write(d->stop_watch.fd, &one, sizeof(one));
	pthread_join(d->thread, NULL);
	d->running = false;
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

void shimdoor_free(struct shimdoor *d)
{
	struct shimpeer *p;
	struct queue_node *n;

	if (!d)
		return;
	shimdoor_close(d);
	if (d->has_path)
		(void)unlink(d->path);
	while ((n = queue_first(&d->guests)))
		send_away(d, queue_entry(n, struct guest, node));
	while ((p = shimdoor_take(d)))
		shimpeer_free(p);
	close_fd(d->door.fd);
	close_fd(d->stop_watch.fd);
	close_fd(d->heard_fd);
	close_fd(d->epoll_fd);
	pthread_mutex_destroy(&d->lock);
	free(d);
}
