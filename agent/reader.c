/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reader: the ring buffer's only consumer, a thread of its own. While there is traffic it looks
 * every millisecond and costs the probed programs no wake-up; when there is none it sleeps, and the
 * next event wakes it. What it has copied is published in the queue, and the main thread told once.
 */
#include "reader.h"

#include "base/metrics.h"
#include "evqueue.h"

#include <bpf/libbpf.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define NAP_MS     1
#define IDLE_NAPS  4           /* without an event: sleep */
#define SLEEP_MS   1000        /* see sleep_until_woken() */
#define EVENT_MAX  (32u << 10) /* of one event; more than the kernel half makes */
#define PUBLISH_AT (64u << 10) /* bytes copied before the other side sees them */

static COUNTER_DEFINE(events_broken, "capture_events_broken", "events of impossible size, ignored");
static COUNTER_DEFINE(waits_full, "capture_queue_full",
		      "times when events had to stay in the kernel: the queue behind it was full");

struct reader {
	struct reader_conf conf;
	struct ring_buffer *rb;
	const volatile uint64_t *consumer, *producer; /* positions in the ring: mapped */
	size_t page;
	struct evqueue *queue;
	int epoll_fd, stop_fd, wake_fd;
	pthread_t thread;
	bool running;
	size_t unpublished;
	atomic_bool starving; /* the main thread found the queue empty */
	atomic_bool stop, ended;
	_Atomic uint64_t stop_at; /* 0, or the ring's position after which the thread ends */
	_Atomic uint64_t events, naps, sleeps;
};

/* --- the thread ---------------------------------------------------------------------------------
 */

static void publish(struct reader *r)
{
	const uint64_t one = 1;

	r->unpublished = 0;
	evqueue_publish(r->queue);
	atomic_thread_fence(memory_order_seq_cst); /* against reader_take(): one sees the other */
	if (atomic_load_explicit(&r->starving, memory_order_relaxed) &&
	    atomic_exchange(&r->starving, false))
		(void)!write(r->wake_fd, &one, sizeof(one));
}

/* Data events are as large as their room in the ring; only their bytes go on. */
static size_t used_bytes(const struct sslc_event *ev)
{
	const struct sslc_ev_data *d = (const void *)ev;

	if ((ev->type == SSLC_EV_DATA || ev->type == SSLC_EV_CLEAR) && ev->size >= sizeof(*d) &&
	    d->len <= ev->size - sizeof(*d))
		return sizeof(*d) + d->len;
	return ev->size;
}

/* Returns < 0 when the next event might not fit; this one is taken in any case. */
static int on_record(void *ctx, void *data, size_t size)
{
	const struct sslc_event *ev = data;
	struct reader *r = ctx;

	if (size < sizeof(*ev) || size > EVENT_MAX || ev->size > size || ev->size < sizeof(*ev) ||
	    !ev->type) {
		counter_inc(&events_broken);
		return 0;
	}
	atomic_fetch_add_explicit(&r->events, 1, memory_order_relaxed);
	evqueue_put(r->queue, ev, used_bytes(ev));
	r->unpublished += ev->size;
	if (r->unpublished >= PUBLISH_AT)
		publish(r);
	return evqueue_fits(r->queue, EVENT_MAX) ? 0 : -EAGAIN;
}

/* Everything that is in the ring, or as much as fits. Returns whether there was anything. */
static bool drain(struct reader *r)
{
	uint64_t before = *r->consumer;

	if (!evqueue_fits(r->queue, EVENT_MAX)) {
		counter_inc(&waits_full);
		return false;
	}
	(void)ring_buffer__consume(r->rb);
	if (r->unpublished)
		publish(r);
	return *r->consumer != before;
}

static void rest(struct reader *r, int ms)
{
	struct epoll_event ev[2];

	(void)epoll_wait(r->epoll_fd, ev, 2, ms);
	__atomic_store_n(&r->conf.ring->reader, SSLC_READER_AWAKE, __ATOMIC_SEQ_CST);
}

static void nap(struct reader *r)
{
	atomic_fetch_add_explicit(&r->naps, 1, memory_order_relaxed);
	__atomic_store_n(&r->conf.ring->reader, SSLC_READER_NAPS, __ATOMIC_SEQ_CST);
	rest(r, NAP_MS);
}

/*
 * Whoever has taken room in the ring before the word was out may not wake us: then the ring is not
 * empty. On machines where the kernel half's load may overtake its store, and it stores nothing
 * else in between, one event may wait for the next one, SLEEP_MS at most.
 */
static void sleep_until_woken(struct reader *r)
{
	__atomic_store_n(&r->conf.ring->reader, SSLC_READER_SLEEPS, __ATOMIC_SEQ_CST);
	if (*r->producer != *r->consumer) {
		nap(r);
		return;
	}
	atomic_fetch_add_explicit(&r->sleeps, 1, memory_order_relaxed);
	rest(r, SLEEP_MS);
}

static bool is_over(struct reader *r)
{
	uint64_t stop_at = atomic_load(&r->stop_at);

	return atomic_load(&r->stop) || (stop_at && *r->consumer >= stop_at);
}

static void *run(void *ctx)
{
	struct reader *r = ctx;
	unsigned idle = 0;

	while (!is_over(r)) {
		idle = drain(r) ? 0 : idle + 1;
		if (idle <= IDLE_NAPS)
			nap(r);
		else
			sleep_until_woken(r);
	}
	atomic_store(&r->ended, true);
	return NULL;
}

/* --- the main thread ----------------------------------------------------------------------------
 */

/* The ring's two positions: the first words of its first two pages. */
static int map_positions(struct reader *r)
{
	uint8_t *p;

	r->page = (size_t)sysconf(_SC_PAGESIZE);
	p = mmap(NULL, 2 * r->page, PROT_READ, MAP_SHARED, r->conf.ring_fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	r->consumer = (const volatile void *)p;
	r->producer = (const volatile void *)(p + r->page);
	return 0;
}

/* Edge-triggered: a nap that found the ring not empty would be none otherwise. */
static int watch(struct reader *r)
{
	struct epoll_event ring = {.events = EPOLLIN | EPOLLET}, stop = {.events = EPOLLIN};

	r->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	r->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (r->epoll_fd < 0 || r->stop_fd < 0 || r->wake_fd < 0 ||
	    epoll_ctl(r->epoll_fd, EPOLL_CTL_ADD, r->conf.ring_fd, &ring) ||
	    epoll_ctl(r->epoll_fd, EPOLL_CTL_ADD, r->stop_fd, &stop))
		return -errno;
	return 0;
}

static int start_thread(struct reader *r)
{
	sigset_t all, old;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are the main thread's */
	err = -pthread_create(&r->thread, NULL, run, r);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	r->running = !err;
	return err;
}

int reader_start(struct reader **out, const struct reader_conf *conf)
{
	struct reader *r = calloc(1, sizeof(*r));
	int err;

	if (!r)
		return -ENOMEM;
	r->conf = *conf;
	r->epoll_fd = r->stop_fd = r->wake_fd = -1;
	atomic_store(&r->starving, true);
	err = evqueue_new(&r->queue, conf->queue_bytes);
	if (!err)
		err = map_positions(r);
	if (!err)
		err = watch(r);
	if (!err) {
		r->rb = ring_buffer__new(conf->ring_fd, on_record, r, NULL);
		err = r->rb ? start_thread(r) : -errno;
	}
	if (err) {
		reader_free(r);
		return err;
	}
	*out = r;
	return 0;
}

int reader_fd(const struct reader *r)
{
	return r->wake_fd;
}

/* Nothing was there: ask to be told, and look again, for what came in between. */
static const struct sslc_event *first_or_starve(struct reader *r)
{
	const struct sslc_event *ev = evqueue_first(r->queue);
	uint64_t n;

	if (ev)
		return ev;
	(void)!read(r->wake_fd, &n, sizeof(n));
	atomic_store(&r->starving, true);
	atomic_thread_fence(memory_order_seq_cst);
	return evqueue_first(r->queue);
}

unsigned reader_take(struct reader *r, unsigned max,
		     void (*each)(void *ctx, const struct sslc_event *ev), void *ctx)
{
	const struct sslc_event *ev;
	unsigned n = 0;

	while (n < max && (ev = n ? evqueue_first(r->queue) : first_or_starve(r))) {
		each(ctx, ev);
		evqueue_pop(r->queue);
		n++;
	}
	return n;
}

static void end_thread(struct reader *r)
{
	const uint64_t one = 1;

	if (!r->running)
		return;
	(void)!write(r->stop_fd, &one, sizeof(one));
	pthread_join(r->thread, NULL);
	r->running = false;
}

bool reader_finish(struct reader *r)
{
	const uint64_t one = 1;

	if (!r->running)
		return true;
	if (!atomic_load(&r->stop_at)) {
		/* At least 1: position 0 means that nothing has ever been there. */
		atomic_store(&r->stop_at, *r->producer ? *r->producer : 1);
		if (!*r->producer)
			atomic_store(&r->stop, true);
		(void)!write(r->stop_fd, &one, sizeof(one));
	}
	if (!atomic_load(&r->ended))
		return false;
	end_thread(r);
	return true;
}

void reader_stats(const struct reader *r, struct reader_stats *out)
{
	*out = (struct reader_stats){
		.ring_used = *r->producer - *r->consumer,
		.ring_high = *(volatile __u64 *)&r->conf.ring->high,
		.ring_bytes = *r->consumer,
		.events = atomic_load_explicit(&r->events, memory_order_relaxed),
		.queue_used = evqueue_used(r->queue),
		.queue_high = evqueue_high(r->queue),
		.naps = atomic_load_explicit(&r->naps, memory_order_relaxed),
		.sleeps = atomic_load_explicit(&r->sleeps, memory_order_relaxed),
	};
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

void reader_free(struct reader *r)
{
	if (!r)
		return;
	atomic_store(&r->stop, true);
	end_thread(r);
	ring_buffer__free(r->rb);
	if (r->consumer)
		munmap((void *)r->consumer, 2 * r->page);
	evqueue_free(r->queue);
	close_fd(r->epoll_fd);
	close_fd(r->stop_fd);
	close_fd(r->wake_fd);
	free(r);
}
