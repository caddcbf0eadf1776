/* SPDX-License-Identifier: Apache-2.0 */
/*
 * capture_preload: source 2. Processes that have libsslcollector-preload.so come to a socket with
 * their ring (shimdoor), or are found in /proc; a thread of its own empties the rings and puts
 * events into a queue. Never writes into a process but to its ring's positions.
 */
#include "capture.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/queue.h"
#include "evqueue.h"
#include "process.h"
#include "preloaded/shimask.h"
#include "preloaded/shimdoor.h"
#include "preloaded/shimflow.h"
#include "preloaded/shimpeer.h"
#include "preloaded/shimring.h"
#include "preloaded/turn.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define NAP_MS        1   /* between two looks while there is traffic */
#define REST_MS       4   /* and when there was none for a while */
#define IDLE_NAPS     250 /* naps without an event: rest */
#define RECORDS_SHOWN 64
#define EMPTY_MS      500 /* no process at all */
#define RECORDS_MAX   512 /* of one ring before the next one's turn */
#define EVENT_MAX     (32u << 10)
#define POLL_BATCH    8192
#define BEAT_NS       (250 * NS_PER_MS)
#define SCAN_NS       (2 * NS_PER_S) /* for rings that nobody has announced */
#define QUIET_NS      (2 * NS_PER_S) /* nothing said: memory of bursts is given back */
#define CHECK_NS      (5 * NS_PER_S) /* whether processes still have their rings: exec */
#define PROCESSES     4096           /* at once: each costs an agent's descriptor and a mapping */
#define GONE          65536 /* records of a process that had ended; more are not looked at */
#define CATCH_UP      64
#define FINISH_MS     5000
#define LOST_MAX      (1ull << 40) /* between two looks: more is no count */
#define SEEN          (1u << 16)   /* processes that were looked at: see has_seen() */

static COUNTER_DEFINE(processes_served, "preload_processes",
		      "processes that the preloaded library mirrors (gauge)");
static COUNTER_DEFINE(processes_adopted, "preload_processes_adopted",
		      "processes that were found with a ring, after an agent before this one");
static COUNTER_DEFINE(records_seen, "preload_records", "records of preloaded programs");
static COUNTER_DEFINE(records_broken, "preload_records_broken",
		      "times when a ring made no sense and was emptied");
static COUNTER_DEFINE(records_abandoned, "preload_records_abandoned",
		      "records that a thread began and never finished");
static COUNTER_DEFINE(events_dropped, "preload_events_lost_stopping",
		      "events of preloaded programs for which there was no room while stopping");

/* In the order of enum sslc_shim_lost in proto/shim.h. */
static struct counter lost[] = {
	{.name = "preload_bytes_lost_ring_full",
	 .help = "plaintext bytes of preloaded programs: their ring was full, or the agent "
		 "stopped"},
	{.name = "preload_records_lost_ring_full",
	 .help = "other records of preloaded programs: their ring was full"},
	{.name = "preload_bytes_lost_objects",
	 .help = "plaintext bytes of preloaded programs: too many TLS objects"},
	{.name = "preload_calls_lost_nested",
	 .help = "TLS calls of preloaded programs nested too deep"},
	{.name = "preload_bytes_lost_no_ring",
	 .help = "plaintext bytes of preloaded programs: no descriptor was free to make a ring "
		 "with"},
};
#define N_LOST (sizeof(lost) / sizeof(lost[0]))

enum kind { KIND_STOP, KIND_DOOR, KIND_PROCESS };

struct watch { /* what an epoll event is about; first member of each */
	enum kind kind;
	int fd;
};

struct preloaded {
	struct watch watch; /* fd: the peer's pidfd */
	struct queue_node node;
	struct shimpeer *peer;
	struct shimproc *proc;
	uint32_t pid;                               /* 0: it has begun another program */
	uint64_t lost[N_LOST], lost_before[N_LOST]; /* counted; and before it came to us */
	uint64_t broken, abandoned;                 /* of the ring's, counted already */
	uint64_t active_ns;                         /* CLOCK_MONOTONIC of the last record */
	bool is_dead;
};

struct source {
	struct capture base;
	struct capture_conf conf;
	char path[108], size_path[108];
	bool has_size;
	struct watch door_watch, stop_watch;
	int epoll_fd, wake_fd;
	struct evqueue *queue;
	pthread_t thread;
	bool running;

	/* Of the thread. */
	struct shimflows *flows;
	struct shimask *asker;
	struct shimdoor *door;
	struct queue processes;
	unsigned n_processes;
	struct shimring_record record;
	uint64_t beat_ns, scan_ns, check_ns;
	uint32_t scans;      /* counts them */
	uint32_t seen[SEEN]; /* the last one that met this number */

	atomic_bool stop, finish, ended, starving;
	_Atomic uint64_t events, bytes, naps, rests;

	pthread_mutex_t skip_lock;
	uint64_t skip[256]; /* flows that are not wanted, from the main thread */
	unsigned n_skip;
};

/* --- events out ---------------------------------------------------------------------------------
 */

static void publish(struct source *s)
{
	const uint64_t one = 1;

	evqueue_publish(s->queue);
	atomic_thread_fence(memory_order_seq_cst); /* against source_poll(): one sees the other */
	if (atomic_load_explicit(&s->starving, memory_order_relaxed) &&
	    atomic_exchange(&s->starving, false))
		(void)!write(s->wake_fd, &one, sizeof(one));
}

/* drain() asks for room before it takes a record; the end of a process with many connections may
 * need more. */
static void on_event(void *ctx, const struct sslc_event *ev, const uint8_t *bytes)
{
	size_t n = bytes ? ((const struct sslc_ev_data *)ev)->len : 0;
	struct source *s = ctx;

	while (!evqueue_fits(s->queue, ev->size)) {
		if (atomic_load(&s->stop)) {
			counter_inc(&events_dropped);
			return;
		}
		publish(s);
		usleep(1000);
	}
	evqueue_put_pieces(s->queue, ev, ev->size - n, bytes, n);
	atomic_fetch_add_explicit(&s->events, 1, memory_order_relaxed);
}

static int on_take(void *ctx, void *process, const struct sslc_shim_rec *rec,
		   struct sslc_ev_open *out, uint64_t *cookie)
{
	const struct preloaded *p = process;

	(void)ctx;
	if (!p || !p->peer->seat) /* see replay() */
		return -ESRCH;
	return shimask_take(p->peer->seat, rec, out, cookie);
}

static void on_skip(void *ctx, void *process, int fd, uint32_t fd_gen)
{
	const struct preloaded *p = process;

	(void)ctx;
	__atomic_store_n(&p->peer->ring.shared->fd_skip[(uint32_t)fd & (SSLC_SHIM_FDS - 1)],
			 sslc_shim_skip(fd_gen, p->peer->ring.shared->gen), __ATOMIC_RELAXED);
}

/* --- processes ----------------------------------------------------------------------------------
 */

static int watch_fd(const struct source *s, struct watch *w)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = w};

	return epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, w->fd, &ev) ? -errno : 0;
}

static void count_lost(struct source *s, struct preloaded *p)
{
	const struct sslc_shim_ring *r = p->peer->ring.shared;

	for (size_t i = 0; i < N_LOST; i++) {
		uint64_t v = __atomic_load_n(&r->lost[i], __ATOMIC_RELAXED);

		if (v > p->lost[i] && v - p->lost[i] <= LOST_MAX)
			counter_add(&lost[i], v - p->lost[i]);
		p->lost[i] = v;
	}
	if (p->proc && !p->is_dead &&
	    (p->peer->ring.broken != p->broken || p->peer->ring.abandoned != p->abandoned))
		shimflows_torn(s->flows, p->proc);
	counter_add(&records_broken, p->peer->ring.broken - p->broken);
	counter_add(&records_abandoned, p->peer->ring.abandoned - p->abandoned);
	p->broken = p->peer->ring.broken;
	p->abandoned = p->peer->ring.abandoned;
}

static void set_dead(struct preloaded *p)
{
	p->is_dead = true;
	shimask_dead(p->peer->seat);
}

static uint64_t lost_of(const struct preloaded *p, enum sslc_shim_lost what)
{
	return p->lost[what] - p->lost_before[what];
}

/* Threads of a process that has ended. */
static void cut_writers(struct source *s, const struct preloaded *p)
{
	for (unsigned i = 0; i < SSLC_SHIM_WRITERS; i++) {
		uint64_t ssl = __atomic_load_n(&p->peer->ring.shared->writing[i], __ATOMIC_RELAXED);

		if (ssl)
			shimflows_writing(s->flows, p->proc, ssl);
	}
}

static void leave(struct source *s, struct preloaded *p)
{
	struct shimproc_end end = {
		.now_ns = clock_mono_ns(),
		.has_heirs = __atomic_load_n(&p->peer->ring.shared->forks, __ATOMIC_RELAXED)};

	count_lost(s, p);
	end.lost = lost_of(p, SSLC_SHIM_LOST_FULL) + lost_of(p, SSLC_SHIM_LOST_NO_RING);
	end.is_torn = lost_of(p, SSLC_SHIM_LOST_EVENTS) || p->peer->ring.broken;
	if (p->is_dead)
		cut_writers(s, p);
	shimflows_leave(s->flows, p->proc, &end);
}

static void drop(struct source *s, struct preloaded *p)
{
	if (p->proc) {
		leave(s, p);
		if (p->pid)
			s->conf.on_process(s->conf.ctx, p->pid, false);
		queue_remove(&p->node);
		s->n_processes--;
		counter_set(&processes_served, s->n_processes);
	}
	shimpeer_free(p->peer);
	free(p);
}

/* Up to a fair number of records. True: there may be more. */
static bool drain(struct source *s, struct preloaded *p)
{
	uint64_t now_ns = clock_mono_ns(), tail = p->peer->ring.tail;
	unsigned n = 0;

	while (n < RECORDS_MAX && evqueue_fits(s->queue, EVENT_MAX) &&
	       shimring_next(&p->peer->ring, now_ns, p->is_dead, &s->record)) {
		shimflows_record(s->flows, p->proc, &s->record);
		if (!(++n % RECORDS_SHOWN)) { /* both sides go on meanwhile */
			shimring_release(&p->peer->ring);
			publish(s);
		}
	}
	if (p->peer->ring.tail != tail) {
		shimring_release(&p->peer->ring);
		p->active_ns = now_ns;
	} else if (!p->is_dead) {
		shimring_rewind(&p->peer->ring);
		tail = p->peer->ring.tail;
	}
	counter_add(&records_seen, n);
	atomic_fetch_add_explicit(&s->bytes, p->peer->ring.tail - tail, memory_order_relaxed);
	return n == RECORDS_MAX || !evqueue_fits(s->queue, EVENT_MAX);
}

static bool has_others(const struct sslc_shim_ring *r)
{
	uint64_t beat = __atomic_load_n(&r->beat_ns, __ATOMIC_RELAXED), now = clock_mono_ns();

	return __atomic_load_n(&r->gen, __ATOMIC_RELAXED) && beat < now + NS_PER_S &&
	       now < beat + SSLC_SHIM_SILENT_NS;
}

/* What is in it was written for an agent that is gone: its connections are not known here. */
static int adopt(const struct source *s, struct preloaded *p)
{
	struct sslc_shim_ring *r = p->peer->ring.shared;

	if (r->run_dir != sslc_shim_hash(s->conf.run_dir))
		return -EXDEV;
	if (has_others(r))
		return -EBUSY;
	shimring_skip_all(&p->peer->ring);
	for (size_t i = 0; i < N_LOST; i++) /* nor was what it lost then lost here */
		p->lost[i] = p->lost_before[i] = __atomic_load_n(&r->lost[i], __ATOMIC_RELAXED);
	__atomic_store_n(&r->gen, (uint32_t)clock_mono_ns() | SSLC_SHIM_ADOPTED, __ATOMIC_RELEASE);
	counter_inc(&processes_adopted);
	return 0;
}

static struct preloaded *find_process(const struct source *s, uint32_t pid)
{
	for (struct queue_node *n = queue_first(&s->processes); n;
	     n = queue_next(&s->processes, n)) {
		struct preloaded *p = queue_entry(n, struct preloaded, node);

		if (p->pid == pid)
			return p;
	}
	return NULL;
}

/* The peer is ours from here on, also where it is refused. */
static int serve(struct source *s, struct shimpeer *peer, bool is_found)
{
	struct preloaded *p = calloc(1, sizeof(*p)), *old = find_process(s, peer->facts.pid);
	int err = 0;

	if (!p) {
		shimpeer_free(peer);
		return -ENOMEM;
	}
	p->watch = (struct watch){.kind = KIND_PROCESS, .fd = peer->pidfd};
	p->peer = peer;
	p->pid = peer->facts.pid;
	if (old && old->peer->ino == peer->ino)
		err = -EEXIST;
	else if (s->n_processes >= PROCESSES)
		err = -EMFILE;
	else if (is_found)
		err = adopt(s, p);
	if (!err && !peer->seat)
		err = shimpeer_ask(peer, s->asker);
	if (!err)
		err = watch_fd(s, &p->watch);
	if (err)
		goto fail;
	peer->facts.process = p;
	p->proc = shimflows_join(s->flows, &peer->facts);
	if (!p->proc) {
		err = -ENOMEM;
		goto fail;
	}
	if (old) { /* it has begun another program; what it said before still counts */
		set_dead(old);
		old->pid = 0;
	}
	s->conf.on_process(s->conf.ctx, p->pid, true);
	queue_push(&s->processes, &p->node);
	s->n_processes++;
	counter_set(&processes_served, s->n_processes);
	peer->ring.shared->flags = (s->conf.outer_tls ? SSLC_SHIM_OUTER : 0) |
				   (s->conf.inner_only ? 0 : SSLC_SHIM_CLEAR);
	peer->ring.shared->beat_ns = clock_mono_ns();
	log_debug("preload: process %u (%.16s) is mirrored by its library", p->pid,
		  peer->facts.comm);
	return 0;
fail:
	drop(s, p);
	return err;
}

static void each_process(struct source *s, void (*each)(struct source *s, struct preloaded *p))
{
	struct queue_node *n = queue_first(&s->processes), *next;

	for (; n; n = next) {
		next = queue_next(&s->processes, n);
		each(s, queue_entry(n, struct preloaded, node));
	}
}

/* What it said before another one of its family ended. */
static void catch_up(struct source *s, struct preloaded *p)
{
	for (unsigned i = 0; i < CATCH_UP && drain(s, p); i++)
		;
}

/* --- who comes ----------------------------------------------------------------------------------
 */

/*
 * It ended, or began another program, before it was heard. What it said about its parent's
 * connections is told; the rest is counted.
 */
static void replay(struct source *s, struct shimpeer *peer)
{
	struct preloaded p = {.peer = peer, .is_dead = true};

	p.proc = shimflows_join(s->flows, &peer->facts);
	for (unsigned i = 0; p.proc && i < GONE; i++) {
		if (!shimring_next(&peer->ring, 0, true, &s->record))
			break;
		shimflows_record(s->flows, p.proc, &s->record);
	}
	if (p.proc)
		leave(s, &p);
	shimpeer_free(peer);
}

static void take_heard(struct source *s)
{
	struct shimpeer *peer;
	int err;

	while ((peer = shimdoor_take(s->door))) {
		if (peer->pidfd >= 0) {
			err = serve(s, peer, false);
			if (err)
				shimdoor_refuse(err);
		} else {
			each_process(s, catch_up);
			replay(s, peer);
		}
	}
}

/* Looked at when its number was not there the last time. */
static bool has_seen(struct source *s, uint32_t pid)
{
	uint32_t *last = &s->seen[pid & (SEEN - 1)];
	bool is_known = *last && s->scans - *last <= 1;

	*last = s->scans;
	return is_known;
}

/* A ring that nobody has announced. */
static int take_found(struct source *s, uint32_t pid, const char *path)
{
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0), memfd, err;
	struct shimpeer *peer;

	if (pidfd < 0)
		return -errno;
	memfd = open(path, O_RDWR | O_CLOEXEC);
	err = memfd < 0 ? -errno : shimpeer_new(&peer, pid, 0, pidfd, memfd, 0);
	if (memfd >= 0)
		close(memfd);
	if (err) {
		close(pidfd);
		return err;
	}
	err = shimpeer_meet(peer, false);
	if (!err)
		return serve(s, peer, true);
	shimpeer_free(peer);
	return err;
}

static void look_at(void *ctx, unsigned pid)
{
	struct source *s = ctx;
	char path[PATH_MAX];
	int err;

	if (has_seen(s, pid) || find_process(s, pid) || !shimpeer_find(pid, path))
		return;
	err = take_found(s, pid, path);
	if (err == -EBUSY)
		s->seen[pid & (SEEN - 1)] = 0; /* its agent may go */
	log_debug("preload: found process %u with a ring: %s", pid, err ? strerror(-err) : "taken");
}

static void scan(struct source *s)
{
	s->scans++;
	(void)process_each(look_at, s);
}

/* --- the thread ---------------------------------------------------------------------------------
 */

static void take_skips(struct source *s)
{
	pthread_mutex_lock(&s->skip_lock);
	for (unsigned i = 0; i < s->n_skip; i++)
		shimflows_skip(s->flows, s->skip[i]);
	s->n_skip = 0;
	pthread_mutex_unlock(&s->skip_lock);
}

static void beat(struct source *s, struct preloaded *p)
{
	__atomic_store_n(&p->peer->ring.shared->beat_ns, s->beat_ns, __ATOMIC_RELAXED);
	count_lost(s, p);
	if (s->beat_ns - p->active_ns > QUIET_NS)
		shimring_trim(&p->peer->ring);
}

static void check(struct source *s, struct preloaded *p)
{
	(void)s;
	if (!p->is_dead && !shimpeer_has_ring(p->peer))
		set_dead(p);
}

static void on_clock(struct source *s)
{
	uint64_t now_ns = clock_mono_ns();

	if (now_ns - s->beat_ns >= BEAT_NS) {
		s->beat_ns = now_ns;
		each_process(s, beat);
		shimflows_tick(s->flows, now_ns);
		take_skips(s);
	}
	if (now_ns - s->scan_ns >= SCAN_NS) {
		s->scan_ns = now_ns;
		scan(s);
	}
	if (now_ns - s->check_ns >= CHECK_NS) {
		s->check_ns = now_ns;
		each_process(s, check);
	}
}

/* True: there was something. *more: and it was not all. */
static bool drain_all(struct source *s, bool *more)
{
	struct queue_node *n = queue_first(&s->processes), *next;
	uint64_t before = atomic_load_explicit(&s->bytes, memory_order_relaxed);

	*more = false;
	shimask_look(s->asker);
	for (; n; n = next) {
		struct preloaded *p = queue_entry(n, struct preloaded, node);
		bool is_more;

		next = queue_next(&s->processes, n);
		if (!p->is_dead && shimring_rests(&p->peer->ring))
			continue; /* of thousands nearly all do */
		is_more = drain(s, p);
		*more |= is_more;
		if (p->is_dead && !is_more)
			drop(s, p);
	}
	publish(s);
	return atomic_load_explicit(&s->bytes, memory_order_relaxed) != before;
}

static void wait_for(struct source *s, int ms)
{
	struct epoll_event ev[32];
	int n = epoll_wait(s->epoll_fd, ev, 32, ms);

	for (int i = 0; i < n; i++) {
		struct watch *w = ev[i].data.ptr;

		if (w->kind == KIND_DOOR)
			take_heard(s);
		else if (w->kind == KIND_PROCESS)
			set_dead((struct preloaded *)w);
	}
}

static void detach(struct source *s, struct preloaded *p)
{
	(void)s;
	__atomic_store_n(&p->peer->ring.shared->gen, 0, __ATOMIC_RELEASE);
}

static void *run(void *ctx)
{
	struct source *s = ctx;
	unsigned idle = 0;
	bool more = false;
	int ms;

	turn_soon();
	while (!atomic_load(&s->stop) && !atomic_load(&s->finish)) {
		ms = more ? 0 : !s->n_processes ? EMPTY_MS : idle < IDLE_NAPS ? NAP_MS : REST_MS;
		atomic_fetch_add_explicit(idle < IDLE_NAPS ? &s->naps : &s->rests, 1,
					  memory_order_relaxed);
		wait_for(s, ms);
		idle = drain_all(s, &more) ? 0 : idle + 1;
		if (more && !evqueue_fits(s->queue, EVENT_MAX))
			usleep(1000);
		on_clock(s);
	}
	shimdoor_close(s->door);
	take_heard(s);
	each_process(s, detach);
	do
		(void)drain_all(s, &more);
	while (more && !atomic_load(&s->stop));
	atomic_store(&s->ended, true);
	return NULL;
}

/* --- open ---------------------------------------------------------------------------------------
 */

/* Others must come through; what lies in it is protected by itself. */
static int make_directory(const char *dir)
{
	struct stat st;

	if (mkdir(dir, 0711) && errno != EEXIST)
		return -errno;
	if (stat(dir, &st))
		return -errno;
	if (!S_ISDIR(st.st_mode))
		return -ENOTDIR;
	if ((st.st_uid && st.st_uid != geteuid()) || st.st_mode & (S_IWGRP | S_IWOTH))
		return -EPERM;
	if ((st.st_mode & 0111) != 0111 && chmod(dir, (st.st_mode & 0777) | 0111))
		return -errno;
	return 0;
}

static int write_size(struct source *s)
{
	char text[24], fresh[128];
	int fd, n = snprintf(text, sizeof(text), "%zu\n", s->conf.shim_bytes), err = 0;

	snprintf(fresh, sizeof(fresh), "%s.new", s->size_path);
	(void)unlink(fresh);
	s->has_size = true;
	fd = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
	if (fd < 0)
		return -errno;
	if (write(fd, text, (size_t)n) != n || fchmod(fd, 0644) || rename(fresh, s->size_path))
		err = errno ? -errno : -EIO;
	close(fd);
	return err;
}

static int make_paths(struct source *s)
{
	const char *dir = s->conf.run_dir;

	if (snprintf(s->path, sizeof(s->path), "%s/" SSLC_SHIM_SOCKET, dir) >=
		    (int)sizeof(s->path) ||
	    snprintf(s->size_path, sizeof(s->size_path), "%s/" SSLC_SHIM_SIZE, dir) >=
		    (int)sizeof(s->size_path))
		return -ENAMETOOLONG;
	return 0;
}

static int start_thread(struct source *s)
{
	sigset_t all, old;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are the main thread's */
	err = -pthread_create(&s->thread, NULL, run, s);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	s->running = !err;
	return err;
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

static void end_thread(struct source *s)
{
	const uint64_t one = 1;

	if (!s->running)
		return;
	(void)!write(s->stop_watch.fd, &one, sizeof(one));
	pthread_join(s->thread, NULL);
	s->running = false;
}

static void source_close(struct capture *c)
{
	struct source *s = (struct source *)c;
	struct queue_node *n;

	if (!s)
		return;
	atomic_store(&s->stop, true);
	end_thread(s);
	shimdoor_free(s->door);
	if (s->has_size)
		(void)unlink(s->size_path);
	while ((n = queue_first(&s->processes)))
		drop(s, queue_entry(n, struct preloaded, node));
	shimask_free(s->asker);
	shimflows_free(s->flows);
	evqueue_free(s->queue);
	close_fd(s->stop_watch.fd);
	close_fd(s->wake_fd);
	close_fd(s->epoll_fd);
	pthread_mutex_destroy(&s->skip_lock);
	free(s);
}

static int make_parts(struct source *s)
{
	const struct shimflows_conf fc = {
		.event = on_event, .take = on_take, .skip = on_skip, .ctx = s};
	const struct sockfacts_isn isn = {.read = s->conf.isn, .ctx = s->conf.ctx};
	int err = evqueue_new(&s->queue, s->conf.queue_bytes);

	if (!err)
		err = shimflows_new(&s->flows, &fc);
	if (!err)
		err = shimask_new(&s->asker, &isn);
	if (err)
		return err;
	s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->stop_watch.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->epoll_fd < 0 || s->wake_fd < 0 || s->stop_watch.fd < 0)
		return -errno;
	err = watch_fd(s, &s->stop_watch);
	if (!err)
		err = shimdoor_open(&s->door, s->path, s->asker);
	if (err)
		return err;
	s->door_watch.fd = shimdoor_fd(s->door);
	return watch_fd(s, &s->door_watch);
}

static int source_open(struct capture **out, const struct capture_conf *conf)
{
	struct source *s = calloc(1, sizeof(*s));
	int err;

	if (!s)
		return -ENOMEM;
	s->base.ops = &capture_preload_ops;
	s->conf = *conf;
	s->epoll_fd = s->wake_fd = -1;
	s->door_watch = (struct watch){.kind = KIND_DOOR, .fd = -1};
	s->stop_watch = (struct watch){.kind = KIND_STOP, .fd = -1};
	atomic_store(&s->starving, true);
	pthread_mutex_init(&s->skip_lock, NULL);
	queue_init(&s->processes);
	err = make_paths(s);
	if (!err)
		err = make_directory(conf->run_dir);
	if (!err)
		err = make_parts(s);
	if (!err)
		err = write_size(s);
	if (!err) {
		scan(s); /* before anybody is told that we are ready */
		s->scan_ns = clock_mono_ns();
		err = start_thread(s);
	}
	if (err) {
		source_close(&s->base);
		return err;
	}
	*out = &s->base;
	return 0;
}

/* --- the main thread ----------------------------------------------------------------------------
 */

static int source_fd(const struct capture *c)
{
	return ((const struct source *)c)->wake_fd;
}

/* Nothing was there: ask to be told, and look again, for what came in between. */
static const struct sslc_event *first_or_starve(struct source *s)
{
	const struct sslc_event *ev = evqueue_first(s->queue);
	uint64_t n;

	if (ev)
		return ev;
	(void)!read(s->wake_fd, &n, sizeof(n));
	atomic_store(&s->starving, true);
	atomic_thread_fence(memory_order_seq_cst);
	return evqueue_first(s->queue);
}

static int source_poll(struct capture *c, bool *more)
{
	struct source *s = (struct source *)c;
	const struct sslc_event *ev;
	int n = 0;

	while (n < POLL_BATCH && (ev = n ? evqueue_first(s->queue) : first_or_starve(s))) {
		s->conf.on_event(s->conf.ctx, ev);
		evqueue_pop(s->queue);
		n++;
	}
	*more = n > 0; /* until it was found empty nobody is told of what comes */
	return n;
}

static void source_finish(struct capture *c)
{
	uint64_t end_ns = clock_mono_ns() + FINISH_MS * NS_PER_MS;
	struct source *s = (struct source *)c;
	const uint64_t one = 1;
	bool is_over, more;
	int n;

	atomic_store(&s->finish, true);
	(void)!write(s->stop_watch.fd, &one, sizeof(one));
	do {
		is_over = atomic_load(&s->ended);
		n = source_poll(c, &more);
		if (!n && !is_over)
			usleep(1000);
	} while ((n || !is_over) && clock_mono_ns() < end_ns);
}

static void source_stats(const struct capture *c, struct capture_stats *out)
{
	const struct source *s = (const struct source *)c;

	*out = (struct capture_stats){
		.queue = {s->conf.queue_bytes, evqueue_used(s->queue), evqueue_high(s->queue)},
		.events = atomic_load_explicit(&s->events, memory_order_relaxed),
		.ring_bytes = atomic_load_explicit(&s->bytes, memory_order_relaxed),
		.naps = atomic_load_explicit(&s->naps, memory_order_relaxed),
		.sleeps = atomic_load_explicit(&s->rests, memory_order_relaxed),
	};
}

/* Bytes that are copied all the same are left out later: it may come late, or not at all. */
static void source_skip_flow(struct capture *c, uint64_t flow)
{
	struct source *s = (struct source *)c;

	pthread_mutex_lock(&s->skip_lock);
	if (s->n_skip < sizeof(s->skip) / sizeof(s->skip[0]))
		s->skip[s->n_skip++] = flow;
	pthread_mutex_unlock(&s->skip_lock);
}

static void source_tick(struct capture *c)
{
	(void)c; /* the thread has a clock of its own */
}

const struct capture_ops capture_preload_ops = {
	.name = "preload",
	.open = source_open,
	.fd = source_fd,
	.poll = source_poll,
	.finish = source_finish,
	.stats = source_stats,
	.skip_flow = source_skip_flow,
	.tick = source_tick,
	.close = source_close,
};
