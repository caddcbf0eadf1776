/* SPDX-License-Identifier: Apache-2.0 */
/*
 * workers: see workers.h. Parcels in, sessions and sinks called. A round: some parcels, timers, one
 * flush; then what was taken is done with, which is what the collector acknowledges.
 */
#include "crew/workers.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "ingest.h"
#include "ledger.h"

#define ROUND_BYTES (512u << 10) /* between two flushes: what waits for one is not acknowledged */

static COUNTER_DEFINE(c_no_origin, "crew_bytes_lost_memory",
		      "bytes of frames lost: a worker had no memory for who sent them");

struct worker {
	struct sessions *sessions;
	struct ledger *ledger;  /* NULL: none */
	struct sink_set *sinks; /* borrowed */
	struct chute *in;       /* borrowed from the crew; NULL: there is but one worker */
	unsigned index;
	uint64_t tick_ns;   /* when the once-a-second work is due */
	atomic_bool reopen; /* files may have been moved away; said by any thread */
	bool is_over;       /* its last parcel came */
	bool is_running;    /* the thread is there */
	pthread_t thread;
};

struct workers {
	struct crew *crew;
	struct worker v[CREW_MAX];
	struct sink_set sinks[CREW_MAX];
	struct workers_conf conf;
	unsigned n;
	size_t max_sessions;
	uint64_t tick_ns;
};

/* ---- one worker ---- */

/* Timers and a flush. Returns ns until a timer is due; *second: the once-a-second work ran. */
static uint64_t worker_round(struct worker *w, bool *second)
{
	uint64_t now_ns = clock_mono_ns();
	uint64_t wait_ns = sessions_tick(w->sessions, now_ns);

	*second = now_ns >= w->tick_ns;
	if (*second) {
		w->tick_ns = now_ns + NS_PER_S;
		sinks_tick(w->sinks, now_ns);
	}
	if (atomic_exchange(&w->reopen, false))
		sinks_reopen(w->sinks);
	sinks_flush(w->sinks);
	ledger_flushed(w->ledger);
	if (wait_ns > w->tick_ns - now_ns)
		wait_ns = w->tick_ns - now_ns;
	return wait_ns < NS_PER_MS ? NS_PER_MS : wait_ns;
}

static struct session_origin *origin_of(struct worker *w, struct crew_origin *o)
{
	struct session_origin **mine = crew_origin_of(o, w->index);

	if (!*mine)
		*mine = sessions_origin(w->sessions, crew_origin_agent(o), crew_origin_host(o));
	return *mine;
}

static void take_frames(struct worker *w, struct session_origin *o, struct span frames)
{
	uint64_t now_ns = clock_mono_ns();

	while (frames.len) {
		struct frame f;
		ssize_t n = frame_decode(frames, &f);

		if (n <= 0 || sessions_frame(w->sessions, o, &f, now_ns)) {
			log_error("workers: a frame that was checked is refused bytes=%zu",
				  frames.len);
			return;
		}
		frames = span_of(frames.p + n, frames.len - (size_t)n);
	}
}

static void take_parcel(struct worker *w, const struct parcel *p)
{
	struct session_origin *o = p->to ? origin_of(w, p->to) : NULL;

	if (p->what == CREW_STOP)
		w->is_over = true;
	else if (!o)
		counter_add(&c_no_origin, p->body.len);
	else if (p->what == CREW_FRAMES)
		take_frames(w, o, p->body);
	else if (p->what == CREW_GONE)
		sessions_origin_gone(w->sessions, o, clock_mono_ns());
	else
		sessions_origin_link(w->sessions, o, p->what == CREW_LINK_UP);
}

/* False: there was none. */
static bool take_some(struct worker *w)
{
	struct parcel p;
	size_t bytes = 0;
	bool any = false;

	while (!w->is_over && bytes < ROUND_BYTES && chute_take(w->in, &p)) {
		take_parcel(w, &p);
		bytes += p.body.len;
		any = true;
	}
	return any;
}

static void *worker_main(void *ctx)
{
	struct worker *w = ctx;
	bool second;

	while (!w->is_over) {
		bool any = take_some(w);
		uint64_t wait_ns = worker_round(w, &second);

		chute_done(w->in);
		if (!any)
			chute_sleep(w->in, wait_ns);
	}
	sessions_close_all(w->sessions, clock_mono_ns());
	sinks_flush(w->sinks);
	return NULL;
}

static int worker_start(struct worker *w)
{
	char name[16];
	sigset_t all, old;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are the main thread's */
	err = -pthread_create(&w->thread, NULL, worker_main, w);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	w->is_running = !err;
	if (err)
		return err;
	snprintf(name, sizeof(name), "forge/%u", w->index);
	(void)pthread_setname_np(w->thread, name);
	return 0;
}

/* ---- all of them ---- */

unsigned workers_default(void)
{
	cpu_set_t set;
	long n = sched_getaffinity(0, sizeof(set), &set) ? sysconf(_SC_NPROCESSORS_ONLN)
							 : CPU_COUNT(&set);

	return n < 1 ? 1 : n > CREW_MAX ? CREW_MAX : (unsigned)n;
}

/* Streams of HTTP/2 that are shown as connections have client ports that nobody else must have. */
static bool shows_own_ports(const struct workers_conf *conf)
{
	bool any = false;

	for (unsigned i = 0; i < conf->n_sinks; i++)
		any = any || conf->sinks[i].shape.http1;
	return any;
}

static int worker_open(struct workers *all, unsigned index)
{
	const struct session_conf conf = {.max_sessions = all->max_sessions / all->n,
					  .parts = all->n};
	struct worker *w = &all->v[index];

	w->index = index;
	w->sinks = &all->sinks[index];
	if (all->n > 1)
		w->in = crew_chute(all->crew, index);
	return sessions_new(&w->sessions, &conf, w->sinks);
}

static int crew_open(struct workers *w)
{
	int err = 0;

	if (w->n > 1)
		err = crew_new(&w->crew, w->n, !shows_own_ports(&w->conf), w->max_sessions);
	for (unsigned i = 0; !err && i < w->n; i++)
		err = worker_open(w, i);
	if (!err && w->n == 1) {
		w->crew = crew_new_direct(w->v[0].sessions);
		err = w->crew ? 0 : -ENOMEM;
	}
	return err;
}

int workers_open(struct workers **out, const struct workers_conf *conf)
{
	struct workers *w = calloc(1, sizeof(*w));
	int err;

	if (!w)
		return -ENOMEM;
	w->conf = *conf;
	w->n = conf->n ? conf->n : 1;
	w->max_sessions = conf->max_sessions ? conf->max_sessions : SESSION_MAX;
	err = sinks_open_for(w->sinks, w->n, conf->sinks, conf->n_sinks);
	if (!err) {
		ledgers_settle(conf->state_dir, &w->sinks[0]);
		err = crew_open(w);
	}
	if (err) {
		workers_close(w);
		return err;
	}
	*out = w;
	return 0;
}

static bool has_live(const struct sink_set *sinks)
{
	bool any = false;

	for (unsigned i = 0; i < sinks->n; i++)
		any |= sinks->v[i]->place != 0;
	return any;
}

/* So that the next run can end what is open. */
static void worker_keep(struct worker *w, const char *state_dir)
{
	int err = has_live(w->sinks) ? ledger_open(&w->ledger, state_dir) : 0;

	if (err && !w->index)
		log_info("collector: what is open at the outputs is not written down: after a kill "
			 "it stays open there: %s path=%s",
			 strerror(-err), state_dir);
	sessions_keep(w->sessions, w->ledger);
}

int workers_start(struct workers *w)
{
	int err = 0;

	for (unsigned i = 0; i < w->n; i++)
		worker_keep(&w->v[i], w->conf.state_dir);
	for (unsigned i = 0; !err && w->n > 1 && i < w->n; i++)
		err = worker_start(&w->v[i]);
	return err;
}

struct crew *workers_crew(struct workers *w)
{
	return w->crew;
}

uint64_t workers_round(struct workers *w, bool *second)
{
	uint64_t now_ns;

	if (w->n == 1)
		return worker_round(&w->v[0], second);
	crew_fd_clear(w->crew);
	now_ns = clock_mono_ns();
	*second = now_ns >= w->tick_ns;
	if (*second) {
		w->tick_ns = now_ns + NS_PER_S;
		crew_tidy(w->crew);
	}
	return w->tick_ns - now_ns;
}

void workers_reopen(struct workers *w)
{
	atomic_store(&w->v[0].reopen, true); /* files are there once: see sink_shared.h */
	if (w->v[0].in)
		chute_wake(w->v[0].in);
}

static void threads_stop(struct workers *w)
{
	if (w->n > 1 && w->v[0].is_running)
		crew_stop(w->crew);
	for (unsigned i = 0; i < w->n; i++)
		if (w->v[i].is_running)
			pthread_join(w->v[i].thread, NULL);
}

void workers_close(struct workers *w)
{
	if (!w)
		return;
	threads_stop(w);
	if (w->n == 1 && w->v[0].sessions) {
		sessions_close_all(w->v[0].sessions, clock_mono_ns());
		sinks_flush(w->v[0].sinks);
	}
	for (unsigned i = 0; i < w->n; i++) {
		sessions_free(w->v[i].sessions);
		ledger_close(w->v[i].ledger);
	}
	for (unsigned i = w->n; i--;)
		sinks_close(&w->sinks[i]);
	crew_free(w->crew);
	free(w);
}
