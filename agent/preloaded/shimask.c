/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shimask: see shimask.h. One lock guards all of it; it lends its holder the priority of whoever
 * waits for it. The rings' own memory is read without it.
 */
#include "preloaded/shimask.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/queue.h"
#include "preloaded/apart.h"
#include "preloaded/turn.h"
#include "process.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

#define ANSWERS     32  /* kept of one process: what it names beyond is asked about in its turn */
#define BELLS_MAX   127 /* rings whose bell is waited for: FUTEX_WAITV_MAX, less our own */
#define STRANGE_MAX 4   /* more than one: files that took a socket's place just then */
#define NAP_NS      (1 * NS_PER_MS) /* between two looks where bells are not heard */
#define REST_NS     (4 * NS_PER_MS) /* and when nothing was named for a while */
#define IDLE_NAPS   250
#define THREADS     SSLC_SHIM_BELLS /* on different processors: one may be stuck, or taken away */
#define PERCENT     20              /* of one processor */
#define LOOKS       4096 /* at records of one ring before the next one: its owner may mean ill */
/* Looks at which nothing was named. Each honest ring is for something, though others may have found
 * it by then; a program that rings for nothing gets no more of them than these. */
#define VAIN_MAX    64
#define VAIN_PER_MS 5

struct answer {
	uint64_t at; /* its record's position */
	int fd, err;
	uint32_t fd_gen;
	struct sslc_ev_open open;
	uint64_t cookie;
};

struct shimask_seat {
	struct queue_node node;
	struct shimask *of;
	const struct shimring *ring;
	uint64_t ahead; /* how far it was asked */
	int pidfd;
	uint32_t pid;
	bool is_dead;
	unsigned n_strange; /* descriptors that it has named and that were no sockets */
	unsigned n;
	struct answer answers[ANSWERS];
};

struct asking { /* one of the threads */
	struct shimask *of;
	pthread_t thread;
	bool no_waitv; /* futex_waitv(2) came with Linux 5.16 */
};

struct shimask {
	struct sockfacts_isn isn;
	pthread_mutex_t lock;
	struct asking threads[THREADS];
	unsigned n_threads;
	struct queue seats;
	unsigned n_seats;
	uint32_t bell; /* a futex: the seats have changed, or it ends */
	atomic_bool stop;
};

/* --- asking -------------------------------------------------------------------------------------
 */

/* By its name, without touching it. */
static bool is_socket(uint32_t pid, int fd)
{
	char name[48], what[16];
	ssize_t n;

	snprintf(name, sizeof(name), "/proc/%u/fd/%d", pid, fd);
	n = readlink(name, what, sizeof(what));
	return n > 7 && !memcmp(what, "socket:", 7);
}

/* TLS may run over pipes; but who names other files on purpose could keep us busy with them. */
static int take(struct shimask_seat *seat, int fd, struct sslc_ev_open *out, uint64_t *cookie)
{
	int err;

	if (seat->n_strange > STRANGE_MAX ||
	    ((seat->n_strange || apart_is_crowded(APART_ANYBODY)) && !is_socket(seat->pid, fd)))
		return -EPROTONOSUPPORT;
	err = sockfacts_take(seat->pidfd, fd, &seat->of->isn, out, cookie);
	if (err != -ENOTSOCK)
		return err;
	seat->n_strange++;
	return -EPROTONOSUPPORT;
}

/* A number that was given away meanwhile says nothing, whatever it is now. */
static int ask(struct shimask_seat *seat, const struct sslc_shim_rec *rec, struct sslc_ev_open *out,
	       uint64_t *cookie)
{
	int err = take(seat, rec->fd, out, cookie);

	if (err == -EBADF && process_is_over(seat->pidfd))
		err = -ESRCH;
	return shimring_generation(seat->ring, rec->fd) == rec->fd_gen ? err : -ESTALE;
}

static bool has_answer(const struct shimask_seat *seat, const struct sslc_shim_rec *rec)
{
	for (unsigned i = 0; i < seat->n; i++)
		if (seat->answers[i].fd == rec->fd && seat->answers[i].fd_gen == rec->fd_gen &&
		    !seat->answers[i].err)
			return true;
	return false;
}

/* Those of records that have been taken. */
static void forget(struct shimask_seat *seat, uint64_t tail)
{
	unsigned n = 0;

	for (unsigned i = 0; i < seat->n; i++)
		if (seat->answers[i].at - tail <= seat->ring->size)
			seat->answers[n++] = seat->answers[i];
	seat->n = n;
}

/* How many were named. */
static unsigned ask_ahead(struct shimask_seat *seat)
{
	struct sslc_shim_rec rec;
	unsigned asked = 0, looks = LOOKS;
	struct answer *a;

	if (seat->is_dead || (!seat->n && shimring_head(seat->ring) == seat->ahead))
		return 0;
	if (seat->n)
		forget(seat, shimring_shown_tail(seat->ring));
	while (seat->n < ANSWERS && shimring_ahead(seat->ring, &seat->ahead, &looks, &rec)) {
		asked++;
		if (has_answer(seat, &rec))
			continue;
		a = &seat->answers[seat->n++];
		*a = (struct answer){
			.at = seat->ahead - rec.size, .fd = rec.fd, .fd_gen = rec.fd_gen};
		a->err = ask(seat, &rec, &a->open, &a->cookie);
	}
	return asked;
}

static unsigned ask_all(struct shimask *a)
{
	unsigned asked = 0;

	for (struct queue_node *n = queue_first(&a->seats); n; n = queue_next(&a->seats, n))
		asked += ask_ahead(queue_entry(n, struct shimask_seat, node));
	return asked;
}

void shimask_look(struct shimask *a)
{
	pthread_mutex_lock(&a->lock);
	(void)ask_all(a);
	pthread_mutex_unlock(&a->lock);
}

int shimask_take(struct shimask_seat *seat, const struct sslc_shim_rec *rec,
		 struct sslc_ev_open *out, uint64_t *cookie)
{
	int err = -ESRCH;

	pthread_mutex_lock(&seat->of->lock);
	for (unsigned i = 0; i < seat->n && err; i++) { /* kept: other objects may name it */
		const struct answer *a = &seat->answers[i];

		if (a->fd != rec->fd || a->fd_gen != rec->fd_gen)
			continue;
		*out = a->open;
		*cookie = a->cookie;
		err = a->err;
	}
	if (err == -ESRCH && !seat->is_dead)
		err = ask(seat, rec, out, cookie);
	pthread_mutex_unlock(&seat->of->lock);
	return err;
}

/* --- the thread ---------------------------------------------------------------------------------
 */

static struct timespec timespec_of(uint64_t ns)
{
	return (struct timespec){.tv_sec = (time_t)(ns / NS_PER_S),
				 .tv_nsec = (long)(ns % NS_PER_S)};
}

/* Says that we wait, then looks once more for what was named before that was known. Returns how
 * many bells there are; 0: not to be heard here. */
static unsigned set_bells(const struct asking *t, struct futex_waitv *v)
{
	struct shimask *a = t->of;
	unsigned n = 0;

	v[n++] = (struct futex_waitv){.val = __atomic_load_n(&a->bell, __ATOMIC_SEQ_CST),
				      .uaddr = (uintptr_t)&a->bell,
				      .flags = FUTEX_32 | FUTEX_PRIVATE_FLAG};
	if (t->no_waitv || a->n_seats > BELLS_MAX)
		return 0;
	for (struct queue_node *q = queue_first(&a->seats); q; q = queue_next(&a->seats, q)) {
		struct shimask_seat *seat = queue_entry(q, struct shimask_seat, node);
		struct sslc_shim_ring *r = seat->ring->shared;

		__atomic_store_n(&r->rests, 1, __ATOMIC_SEQ_CST);
		v[n++] = (struct futex_waitv){.val = __atomic_load_n(&r->bell, __ATOMIC_SEQ_CST),
					      .uaddr = (uintptr_t)&r->bell,
					      .flags = FUTEX_32};
	}
	return n;
}

/* The rings stay mapped: who takes one away rings our bell and waits for the lock, and then for us
 * to have left the call. */
static void wait_for_bells(struct asking *t, struct futex_waitv *v, unsigned n, bool has_seats,
			   bool is_idle, uint64_t most_ns)
{
	struct timespec nap = timespec_of(is_idle ? REST_NS : NAP_NS);
	struct timespec until = timespec_of(clock_mono_ns() + most_ns);

	if (n && syscall(SYS_futex_waitv, v, n, 0, most_ns ? &until : NULL, CLOCK_MONOTONIC) < 0 &&
	    errno == ENOSYS)
		t->no_waitv = true;
	else if (!n)
		(void)syscall(SYS_futex, &t->of->bell, FUTEX_WAIT_PRIVATE, (uint32_t)v[0].val,
			      has_seats ? &nap : NULL, NULL, 0);
}

/* How many looks in vain there may still be, after another one. False: none. */
struct patience {
	unsigned left;
	uint64_t since_ns;
};

static bool is_patient(struct patience *p, unsigned asked)
{
	uint64_t now_ns = clock_mono_ns(), more = (now_ns - p->since_ns) * VAIN_PER_MS / NS_PER_MS;

	if (more) {
		p->left = more + p->left < VAIN_MAX ? p->left + (unsigned)more : VAIN_MAX;
		p->since_ns = now_ns;
	}
	if (!asked && p->left)
		p->left--;
	return asked || p->left;
}

static void *run(void *ctx)
{
	struct patience patience = {.left = VAIN_MAX, .since_ns = clock_mono_ns()};
	struct futex_waitv v[1 + BELLS_MAX];
	struct turn turn;
	unsigned n, asked, idle = 0;
	struct asking *t = ctx;
	struct shimask *a = t->of;
	bool has_seats;

	turn_begin(&turn, PERCENT);
	for (;;) {
		pthread_mutex_lock(&a->lock);
		n = set_bells(t, v);
		asked = ask_all(a);
		idle = asked ? 0 : idle + 1;
		has_seats = a->n_seats;
		pthread_mutex_unlock(&a->lock);
		/* Once its own bell was read: from then on one that rings is not slept through. */
		if (atomic_load(&a->stop))
			return NULL;
		if (!is_patient(&patience, asked))
			n = 0;
		wait_for_bells(t, v, n, has_seats, idle > IDLE_NAPS, turn_over(&turn));
	}
}

static void ring_own_bell(struct shimask *a)
{
	__atomic_fetch_add(&a->bell, 1, __ATOMIC_SEQ_CST);
	(void)syscall(SYS_futex, &a->bell, FUTEX_WAKE_PRIVATE, THREADS, NULL, NULL, 0);
}

/* --- seats --------------------------------------------------------------------------------------
 */

struct shimask_seat *shimask_join(struct shimask *a, const struct shimring *ring, int pidfd,
				  uint32_t pid)
{
	struct shimask_seat *seat = calloc(1, sizeof(*seat));

	if (!seat)
		return NULL;
	seat->of = a;
	seat->ring = ring;
	seat->pidfd = pidfd;
	seat->pid = pid;
	seat->ahead = ring->tail;
	pthread_mutex_lock(&a->lock);
	queue_push(&a->seats, &seat->node);
	a->n_seats++;
	(void)ask_ahead(seat);
	pthread_mutex_unlock(&a->lock);
	ring_own_bell(a);
	return seat;
}

void shimask_dead(struct shimask_seat *seat)
{
	pthread_mutex_lock(&seat->of->lock);
	seat->is_dead = true;
	pthread_mutex_unlock(&seat->of->lock);
}

/* The kernel looks at a bell's memory only while it goes to wait: when it is gone by then, the wait
 * fails, and the bells are set anew. */
void shimask_leave(struct shimask_seat *seat)
{
	struct shimask *a;

	if (!seat)
		return;
	a = seat->of;
	pthread_mutex_lock(&a->lock);
	queue_remove(&seat->node);
	a->n_seats--;
	pthread_mutex_unlock(&a->lock);
	ring_own_bell(a);
	free(seat);
}

/* --- open, close --------------------------------------------------------------------------------
 */

/* Every second one of the processors that we may use. False: there is only one. */
static bool processors_of(unsigned number, cpu_set_t *out)
{
	cpu_set_t all;
	unsigned n = 0;

	CPU_ZERO(out);
	if (sched_getaffinity(0, sizeof(all), &all) || CPU_COUNT(&all) < THREADS)
		return false;
	for (int i = 0; i < CPU_SETSIZE; i++)
		if (CPU_ISSET(i, &all) && n++ % THREADS == number)
			CPU_SET(i, out);
	return true;
}

static int start_one(struct shimask *a)
{
	struct asking *t = &a->threads[a->n_threads];
	cpu_set_t processors;
	pthread_attr_t how;
	int err;

	t->of = a;
	err = -pthread_attr_init(&how);
	if (err)
		return err;
	if (processors_of(a->n_threads, &processors))
		err = -pthread_attr_setaffinity_np(&how, sizeof(processors), &processors);
	else if (a->n_threads)
		goto done;
	if (!err)
		err = -pthread_create(&t->thread, &how, run, t);
	if (!err)
		a->n_threads++;
done:
	pthread_attr_destroy(&how);
	return err;
}

static int start(struct shimask *a)
{
	sigset_t all, old;
	int err = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are the main thread's */
	for (unsigned i = 0; i < THREADS && !err; i++)
		err = start_one(a);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return err;
}

static void stop(struct shimask *a)
{
	atomic_store(&a->stop, true);
	ring_own_bell(a);
	for (unsigned i = 0; i < a->n_threads; i++)
		pthread_join(a->threads[i].thread, NULL);
}

int shimask_new(struct shimask **out, const struct sockfacts_isn *isn)
{
	struct shimask *a = calloc(1, sizeof(*a));
	pthread_mutexattr_t how;
	int err;

	if (!a)
		return -ENOMEM;
	pthread_mutexattr_init(&how);
	pthread_mutexattr_setprotocol(&how, PTHREAD_PRIO_INHERIT);
	err = -pthread_mutex_init(&a->lock, &how);
	pthread_mutexattr_destroy(&how);
	if (err) {
		free(a);
		return err;
	}
	a->isn = *isn;
	queue_init(&a->seats);
	err = start(a);
	if (err) {
		stop(a);
		pthread_mutex_destroy(&a->lock);
		free(a);
		return err;
	}
	*out = a;
	return 0;
}

void shimask_free(struct shimask *a)
{
	if (!a)
		return;
	stop(a);
	pthread_mutex_destroy(&a->lock);
	free(a);
}
