/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reader: the ring buffers' only consumer. While there is traffic the main thread comes every
 * millisecond, and less often the more it finds, so the probed programs pay no wake-up; when there
 * is none it sleeps, and the next event wakes it. The second thread has work only while the main
 * thread is away: because it said so, or because nobody has looked since the last round although
 * there are events. Who holds the lock takes from the rings, and what is in the queue is older.
 */
#include "reader.h"

#include "base/clock.h"
#include "base/metrics.h"
#include "evqueue.h"
#include "rings.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define NAP_MS 1
/* What it costs both ends to pass something on is paid once in it; but after longer ones the
 * reader's turns are so long that programs on its processor wait for it. */
#define NAP_MAX_MS 2
/* From so many events or bytes of the ring in a millisecond on naps get longer. */
#define BUSY_EVENTS 4
#define BUSY_BYTES  (8u << 10)
#define IDLE_NAPS   2    /* without an event: sleep */
#define SLEEP_MS    1000 /* see sleep_until_woken() */
/* The second thread's rounds: with traffic a nap of the main thread is well within one. */
#define WATCH_MS      20
#define WATCH_IDLE_MS 100

static COUNTER_DEFINE(waits_full, "capture_queue_full",
		      "times when events had to stay in the kernel: the queue behind it was full");

struct reader {
	struct reader_conf conf;
	int timer_fd;
	pthread_t thread;
	bool running;
	pthread_cond_t go; /* away or stop were set */

	pthread_mutex_t lock; /* guards what follows */
	bool away, stop;
	struct rings rings;
	struct evqueue *queue;
	uint64_t takes; /* how often the main thread looked */

	/* Of the main thread. */
	unsigned idle, nap_ms;
	uint64_t rested_at; /* bytes of the rings until then */
	bool finishes;
	uint64_t stop_at[SSLC_RINGS_MAX]; /* positions after which all is told */
	uint64_t events, naps, sleeps;
};

/* The main thread is due. */
static void come_again(struct reader *r, uint64_t ns)
{
	const struct itimerspec in = {
		.it_value = {.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)}};

	(void)timerfd_settime(r->timer_fd, 0, &in, NULL);
}

/* --- the second thread --------------------------------------------------------------------------
 */

/* Data events are as large as their room in the ring; only their bytes go on. */
static size_t used_bytes(const struct sslc_event *ev)
{
	const struct sslc_ev_data *d = (const void *)ev;

	if ((ev->type == SSLC_EV_DATA || ev->type == SSLC_EV_CLEAR) && ev->size >= sizeof(*d) &&
	    d->len <= ev->size - sizeof(*d))
		return sizeof(*d) + d->len;
	return ev->size;
}

/* Everything that is in the rings goes into the queue, or as much as fits. */
static void move(struct reader *r)
{
	const struct sslc_event *ev;

	while ((ev = rings_first(&r->rings))) {
		size_t used = used_bytes(ev);

		if (!evqueue_fits(r->queue, used)) {
			counter_inc(&waits_full);
			break;
		}
		evqueue_put(r->queue, ev, used);
		rings_pop(&r->rings);
	}
	rings_release(&r->rings);
	evqueue_publish(r->queue);
	come_again(r, 1);
}

/* Until something is said, or a round is over. */
static void wait_round(struct reader *r, unsigned ms)
{
	uint64_t end_ns = clock_mono_ns() + ms * NS_PER_MS;
	const struct timespec end = {.tv_sec = (time_t)(end_ns / NS_PER_S),
				     .tv_nsec = (long)(end_ns % NS_PER_S)};

	(void)pthread_cond_timedwait(&r->go, &r->lock, &end);
}

static void *run(void *ctx)
{
	struct reader *r = ctx;
	uint64_t takes = 0;
	bool alone = false; /* nobody looked during the last round */

	pthread_mutex_lock(&r->lock);
	while (!r->stop) {
		bool works = (r->away || alone) && !rings_is_empty(&r->rings);

		if (works)
			move(r);
		if (works)
			wait_round(r, NAP_MS);
		else
			wait_round(r, alone ? WATCH_IDLE_MS : WATCH_MS);
		alone = r->takes == takes;
		takes = r->takes;
	}
	pthread_mutex_unlock(&r->lock);
	return NULL;
}

static void tell_thread(struct reader *r, bool *what)
{
	pthread_mutex_lock(&r->lock);
	*what = true;
	pthread_cond_signal(&r->go);
	pthread_mutex_unlock(&r->lock);
}

static void end_thread(struct reader *r)
{
	if (!r->running)
		return;
	tell_thread(r, &r->stop);
	pthread_join(r->thread, NULL);
	r->running = false;
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

/* --- rest ---------------------------------------------------------------------------------------
 */

/* What the kernel half sees before it decides whether its event wakes us. */
static void say(struct reader *r, enum sslc_reader state)
{
	__atomic_store_n(&r->conf.rings->reader, state, __ATOMIC_SEQ_CST);
}

static void nap(struct reader *r)
{
	r->naps++;
	say(r, SSLC_READER_NAPS);
	come_again(r, r->nap_ms * NS_PER_MS);
}

/*
 * Whoever has taken room in a ring before the word was out may not wake us: then that ring is not
 * empty. On machines where the kernel half's load may overtake its store, and it stores nothing
 * else in between, one event may wait for the next one, SLEEP_MS at most.
 */
static void sleep_until_woken(struct reader *r)
{
	say(r, SSLC_READER_SLEEPS);
	if (rings_used(&r->rings)) {
		nap(r);
		return;
	}
	r->sleeps++;
	come_again(r, SLEEP_MS * NS_PER_MS);
}

static bool is_busy(const struct reader *r, unsigned n)
{
	return n >= BUSY_EVENTS * r->nap_ms ||
	       rings_at(&r->rings) - r->rested_at >= (uint64_t)BUSY_BYTES * r->nap_ms;
}

/* n: events since the last rest. */
static void rest(struct reader *r, unsigned n)
{
	r->idle = n ? 0 : r->idle + 1;
	if (!is_busy(r, n))
		r->nap_ms = NAP_MS;
	else
		r->nap_ms = r->nap_ms * 2 < NAP_MAX_MS ? r->nap_ms * 2 : NAP_MAX_MS;
	r->rested_at = rings_at(&r->rings);
	if (r->idle <= IDLE_NAPS)
		nap(r);
	else
		sleep_until_woken(r);
}

/* --- the main thread ----------------------------------------------------------------------------
 */

unsigned reader_take(struct reader *r, unsigned max,
		     void (*each)(void *ctx, const struct sslc_event *ev), void *ctx)
{
	const struct sslc_event *ev;
	unsigned n = 0;

	pthread_mutex_lock(&r->lock);
	say(r, SSLC_READER_AWAKE);
	r->takes++;
	for (; n < max && (ev = evqueue_first(r->queue)); n++) {
		each(ctx, ev);
		evqueue_pop(r->queue);
	}
	for (; n < max && (ev = rings_first(&r->rings)); n++) {
		each(ctx, ev);
		rings_pop(&r->rings);
	}
	rings_release(&r->rings);
	r->events += n;
	if (n < max)
		rest(r, n);
	pthread_mutex_unlock(&r->lock);
	return n;
}

void reader_away(struct reader *r)
{
	tell_thread(r, &r->away);
}

void reader_back(struct reader *r)
{
	pthread_mutex_lock(&r->lock);
	r->away = false;
	pthread_mutex_unlock(&r->lock);
	come_again(r, 1); /* for what is in the queue */
}

bool reader_finish(struct reader *r)
{
	end_thread(r);
	if (!r->finishes)
		rings_mark(&r->rings, r->stop_at);
	r->finishes = true;
	return rings_passed(&r->rings, r->stop_at);
}

/* That were in any ring at once. */
static uint64_t most_high(const struct reader *r)
{
	uint64_t most = 0;

	for (unsigned i = 0; i < r->conf.n_rings; i++) {
		uint64_t high = *(volatile __u64 *)&r->conf.rings->ring[i].high;

		most = high > most ? high : most;
	}
	return most;
}

void reader_stats(const struct reader *r, struct reader_stats *out)
{
	*out = (struct reader_stats){
		.ring_used = rings_used(&r->rings),
		.ring_high = most_high(r),
		.ring_bytes = rings_taken(&r->rings),
		.events = r->events,
		.queue_used = evqueue_used(r->queue),
		.queue_high = evqueue_high(r->queue),
		.naps = r->naps,
		.sleeps = r->sleeps,
	};
	for (unsigned i = 0; i < r->rings.n; i++)
		out->each_ring[i] = ringmap_taken(&r->rings.map[i]);
}

/* --- begin and end ------------------------------------------------------------------------------
 */

/* Edge-triggered: a nap that found the ring not empty would be none otherwise, and nobody has to
 * read the timer. */
static int watch(struct reader *r)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLET};

	r->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (r->timer_fd < 0 || epoll_ctl(r->conf.epoll_fd, EPOLL_CTL_ADD, r->timer_fd, &ev))
		return -errno;
	for (unsigned i = 0; i < r->conf.n_rings; i++)
		if (epoll_ctl(r->conf.epoll_fd, EPOLL_CTL_ADD, r->conf.wake_fds[i], &ev))
			return -errno;
	return 0;
}

int reader_start(struct reader **out, const struct reader_conf *conf)
{
	struct reader *r = calloc(1, sizeof(*r));
	pthread_condattr_t attr;
	int err;

	if (!r)
		return -ENOMEM;
	r->conf = *conf;
	r->timer_fd = -1;
	r->nap_ms = NAP_MS;
	pthread_mutex_init(&r->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&r->go, &attr);
	pthread_condattr_destroy(&attr);
	err = evqueue_new(&r->queue, conf->queue_bytes);
	if (!err)
		err = rings_open(&r->rings, conf->ring_fds, conf->n_rings, conf->ring_bytes);
	if (!err)
		err = watch(r);
	if (!err)
		err = start_thread(r);
	if (err) {
		reader_free(r);
		return err;
	}
	come_again(r, 1);
	*out = r;
	return 0;
}

void reader_free(struct reader *r)
{
	if (!r)
		return;
	end_thread(r);
	rings_close(&r->rings);
	evqueue_free(r->queue);
	if (r->timer_fd >= 0)
		close(r->timer_fd);
	pthread_cond_destroy(&r->go);
	pthread_mutex_destroy(&r->lock);
	free(r);
}
