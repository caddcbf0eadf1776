/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agent: the event loop of the host side. The capture source's descriptor, the signals and a clock
 * come in; events go to flow, blocks to the uplink's thread. Never waits for the network or the
 * disk here. When the queue of blocks fills although the collector acknowledges, it is we who are
 * too fast: events stay in the kernel's ring buffer for a while, which lends its room, too, and
 * gives up connections only as long as it must. Those that the queue has to give up never come
 * back.
 */
#include "agent.h"

#include "base/clock.h"
#include "base/hangup.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/nofile.h"
#include "base/notify.h"
#include "base/rss.h"
#include "capture.h"
#include "coverage/control.h"
#include "coverage/coverage.h"
#include "filter.h"
#include "flow.h"
#include "cli/status.h"

#include <errno.h>
#include <event2/event.h>
#include <inttypes.h>
#include <openssl/rand.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEARCH_MAX   (64ull << 20)  /* bytes of one unknown program: tens of milliseconds, once */
#define SEARCH_TOTAL (512ull << 20) /* of all of them; what is beyond has no known TLS code */
/* Between two blocks of a busy host: each costs both ends a system call, a wake-up and an answer,
 * however little is in it. What comes after a silence goes at once. */
#define FLUSH_GAP_NS 500000ull
#define HOLD_MS      2
#define STUCK_NS     250000000ull /* nothing was acknowledged: no rate that could be kept to */

#define DESCRIPTORS_MIN 128 /* of which an agent beside a handful of libraries has 100 open */

#define SIGNALS 4
#define SOURCES 2

struct agent {
	const struct agent_conf *conf; /* borrowed */
	struct event_base *base;
	struct event *input[SOURCES], *more, *tick, *flush, *sig[SIGNALS];
	enum hangup hangup;
	uint64_t flushed_ns;             /* CLOCK_MONOTONIC of the last flush */
	uint64_t first_seq;              /* oldest block of the queue, */
	uint64_t moved_ns;               /* and when it was found to be another one than before */
	struct capture *source[SOURCES]; /* in the order of enum capture_source; NULL: not used */
	struct filter *filter;
	struct flows *flows;
	struct ship *ship;
	struct coverage *coverage;
	struct control *control; /* NULL: nobody can ask */
	bool failed;
};

static void on_event(void *ctx, const struct sslc_event *ev)
{
	flows_event(((struct agent *)ctx)->flows, ev);
}

static void skip_flow(void *ctx, uint64_t flow)
{
	struct agent *a = ctx;

	for (int i = 0; i < SOURCES; i++)
		if (a->source[i])
			a->source[i]->ops->skip_flow(a->source[i], flow);
}

/* --- who is covered -----------------------------------------------------------------------------
 */

static void on_opened(void *ctx, const struct flow_account *account)
{
	coverage_opened(((struct agent *)ctx)->coverage, account);
}

static void on_ended(void *ctx, const struct flow_account *account)
{
	coverage_ended(((struct agent *)ctx)->coverage, account);
}

static void on_unbound(void *ctx, const struct sslc_conn_id *conn, uint64_t bytes)
{
	coverage_unbound(((struct agent *)ctx)->coverage, conn, bytes);
}

static void on_unexplained(void *ctx, unsigned file, uint64_t opened_ns)
{
	struct agent *a = ctx;

	if (a->source[0])
		a->source[0]->ops->doubt(a->source[0], file, opened_ns);
}

static void on_file(void *ctx, int fd, const char *path, const struct capture_file *found)
{
	struct stat st;

	if (!fstat(fd, &st))
		coverage_file(((struct agent *)ctx)->coverage, st.st_dev, st.st_ino, path, found);
}

static void add_up_coverage(struct agent *a)
{
	coverage_live_begin(a->coverage);
	flows_each(a->flows, coverage_live, a->coverage);
	coverage_count(a->coverage);
}

static json_t *answer_coverage(void *ctx)
{
	struct agent *a = ctx;
	json_t *all;

	add_up_coverage(a);
	all = coverage_json(a->coverage);
	if (all)
		json_object_set_new(all, "agent",
				    json_pack("{s:i, s:s, s:s, s:s?}", "pid", (int)getpid(),
					      "version", SSLC_VERSION, "interface", a->conf->iface,
					      "filter", a->conf->filter));
	return all;
}

static void on_pause(void *ctx, const struct capture_pause *p)
{
	struct agent *a = ctx;

	coverage_pause(a->coverage, p);
	if (p->is_gone)
		flows_pause_forget(a->flows, p->pid, p->start_ticks);
	else if (p->until_ns)
		flows_resume(a->flows, p->pid, p->start_ticks, p->until_ns);
	else if (!flows_pause(a->flows, p->pid, p->start_ticks, p->since_ns))
		log_warn("agent: connections of process %u may be told with holes", p->pid);
}

/* Each source's counters, as they are now. */
static void tick_sources(struct agent *a)
{
	for (int i = 0; i < SOURCES; i++)
		if (a->source[i])
			a->source[i]->ops->tick(a->source[i]);
}

static void add_fill(struct capture_fill *to, const struct capture_fill *from)
{
	to->size += from->size;
	to->used += from->used;
	to->high += from->high;
}

static json_t *answer_status(void *ctx)
{
	struct capture_stats all = {.events = 0}, one;
	struct agent *a = ctx;

	if (a->source[0])
		a->source[0]->ops->count_hits(a->source[0]);
	tick_sources(a);
	for (int i = 0; i < SOURCES; i++) {
		if (!a->source[i])
			continue;
		a->source[i]->ops->stats(a->source[i], &one);
		add_fill(&all.ring, &one.ring);
		add_fill(&all.queue, &one.queue);
		all.n_rings += one.n_rings; /* the same has them */
		for (int k = 0; k < SSLC_RINGS_MAX; k++)
			all.each_ring[k] += one.each_ring[k];
		all.events += one.events;
		all.ring_bytes += one.ring_bytes;
		all.naps += one.naps;
		all.sleeps += one.sleeps;
		all.entries += one.entries;
		all.exits += one.exits;
		all.entries_s += one.entries_s;
		all.exits_s += one.exits_s;
		all.program_ns += one.program_ns; /* one source alone has probes */
		all.counted_ms += one.counted_ms; /* the same */
	}
	return status_json(&all);
}

static const struct control_question questions[] = {
	{"coverage", answer_coverage},
	{"status", answer_status},
	{.name = NULL},
};

/* The mirror does without: whoever asks will be told that nobody answers. */
static void open_control(struct agent *a)
{
	int err = control_open(&a->control, a->base, a->conf->run_dir, questions, a);

	if (err)
		log_warn("agent: no control socket in %s: %s: `sslcollector coverage` will not "
			 "reach this agent",
			 a->conf->run_dir,
			 err == -EPERM ? "others may write to that directory" : strerror(-err));
}

static void flush(struct agent *a)
{
	a->flushed_ns = clock_mono_ns();
	ship_flush(a->ship);
}

static void on_flush(evutil_socket_t fd, short what, void *ctx)
{
	(void)fd;
	(void)what;
	flush(ctx);
}

static void flush_soon(struct agent *a)
{
	const struct timeval gap = {.tv_usec = FLUSH_GAP_NS / 1000};

	if (event_pending(a->flush, EV_TIMEOUT, NULL))
		return;
	if (clock_mono_ns() - a->flushed_ns >= FLUSH_GAP_NS || event_add(a->flush, &gap))
		flush(a);
}

static bool keeps_up(struct agent *a)
{
	uint64_t now_ns = clock_mono_ns(), seq = ship_first_seq(a->ship);

	if (seq != a->first_seq)
		a->moved_ns = now_ns;
	a->first_seq = seq;
	return !ship_is_crowded(a->ship) || now_ns - a->moved_ns > STUCK_NS;
}

static void come_later(struct agent *a)
{
	const struct timeval hold = {.tv_usec = HOLD_MS * 1000};

	for (int i = 0; i < SOURCES; i++) /* they would be readable all the time */
		if (a->input[i])
			event_del(a->input[i]);
	event_add(a->more, &hold);
}

/* n: events of the sources before it. */
static int poll_source(struct agent *a, int i, int n, bool *more)
{
	bool has_more = false;
	int got;

	if (!a->source[i])
		return n;
	event_add(a->input[i], NULL);
	got = a->source[i]->ops->poll(a->source[i], &has_more);
	*more |= has_more;
	return got < 0 ? got : n + got;
}

/* Take a batch. What it leaves in the ring comes next, after signals and the clock had their turn.
 */
static void on_input(evutil_socket_t fd, short what, void *ctx)
{
	struct agent *a = ctx;
	bool more = false;
	int n = 0;

	(void)fd;
	(void)what;
	if (!keeps_up(a)) {
		come_later(a);
		return;
	}
	for (int i = 0; i < SOURCES && n >= 0; i++)
		n = poll_source(a, i, n, &more);
	if (n < 0) {
		log_error("agent: reading events failed: %s", strerror(-n));
		a->failed = true;
		event_base_loopbreak(a->base);
		return;
	}
	if (n > 0)
		flush_soon(a);
	if (more)
		event_active(a->more, EV_TIMEOUT, 0);
}

static void on_tick(evutil_socket_t fd, short what, void *ctx)
{
	struct agent *a = ctx;

	(void)fd;
	(void)what;
	tick_sources(a);
	filter_refresh(a->filter);
	flows_tick(a->flows, clock_mono_ns(), clock_wall_offset_ns());
	coverage_tick(a->coverage, clock_mono_ns());
	ship_flush(a->ship);
	ship_tidy(a->ship);
}

static void on_signal(evutil_socket_t sig, short what, void *ctx)
{
	struct agent *a = ctx;

	(void)what;
	if (sig == SIGHUP && a->hangup == HANGUP_REOPENS) {
		if (a->conf->uplink->reopen)
			a->conf->uplink->reopen(a->conf->uplink_ctx);
		return;
	}
	if (sig != SIGUSR1) {
		event_base_loopbreak(a->base);
		return;
	}
	tick_sources(a);
	add_up_coverage(a);
	rss_tell();
	metrics_dump(stderr, true);
}

static int open_stages(struct agent *a)
{
	const struct agent_conf *conf = a->conf;
	const struct coverage_conf cc = {
		.has_agent = true, .search_max = SEARCH_MAX, .search_total = SEARCH_TOTAL};
	struct flows_conf fc = {.skip = skip_flow,
				.opened = on_opened,
				.ended = on_ended,
				.unbound = on_unbound,
				.unexplained = on_unexplained,
				.starttls = conf->starttls,
				.ctx = a};
	int err;

	err = coverage_new(&a->coverage, &cc);
	if (!err)
		err = filter_new(&a->filter, conf->iface, conf->filter);
	if (!err)
		err = ship_new(&a->ship, conf->queue_bytes);
	if (err)
		return err;
	fc.ship = a->ship;
	fc.filter = a->filter;
	if (RAND_bytes(fc.agent, sizeof(fc.agent)) != 1)
		return -EIO;
	err = flows_new(&a->flows, &fc);
	if (err)
		return err;
	flows_tick(a->flows, clock_mono_ns(), clock_wall_offset_ns());
	return 0;
}

/* The kernel half leaves processes alone that tell their calls themselves. From the other source's
 * thread, between its open and its close. */
static void on_process(void *ctx, uint32_t pid, bool begins)
{
	struct capture *bpf = ((struct agent *)ctx)->source[0];

	if (bpf)
		bpf->ops->leave_process(bpf, pid, begins);
}

static bool on_isn(void *ctx, int s, uint32_t *iss, uint32_t *irs)
{
	struct capture *bpf = ((struct agent *)ctx)->source[0];

	return bpf && bpf->ops->isn(bpf, s, iss, irs);
}

static int open_sources(struct agent *a)
{
	const struct agent_conf *conf = a->conf;
	struct capture_conf cc = {.flow_hook = conf->flow_hook,
				  .probes = conf->probes,
				  .inner_only = conf->starttls == PRELUDE_INNER,
				  .outer_tls = conf->outer_tls,
				  .n_rings = conf->n_rings,
				  .ring_bytes = conf->ring_bytes,
				  .queue_bytes = conf->backlog_bytes,
				  .shim_bytes = conf->shim_bytes,
				  .run_dir = conf->run_dir,
				  .shed = conf->shed,
				  .on_event = on_event,
				  .on_file = on_file,
				  .on_process = on_process,
				  .isn = on_isn,
				  .on_pause = on_pause,
				  .max_overhead = conf->max_overhead,
				  .overhead_retry_s = conf->overhead_retry_s,
				  .ctx = a};
	int err = 0;

	if (conf->sources & CAPTURE_BPF)
		err = capture_bpf_ops.open(&a->source[0], &cc);
	if (err || !(conf->sources & CAPTURE_PRELOAD))
		return err;
	err = capture_preload_ops.open(&a->source[1], &cc);
	if (!err)
		return 0;
	log_at(conf->sources == CAPTURE_PRELOAD ? LOG_ERROR : LOG_INFO,
	       "agent: preloaded programs are not mirrored: %s: %s", conf->run_dir,
	       err == -EADDRINUSE ? "another agent serves them there" : strerror(-err));
	return conf->sources == CAPTURE_PRELOAD ? err : 0;
}

static int open_loop(struct agent *a)
{
	static const int signals[SIGNALS] = {SIGINT, SIGTERM, SIGUSR1, SIGHUP};
	const struct timeval second = {.tv_sec = 1};

	a->base = event_base_new();
	if (!a->base)
		return -ENOMEM;
	for (int i = 0; i < SOURCES; i++) {
		if (!a->source[i])
			continue;
		a->input[i] = event_new(a->base, a->source[i]->ops->fd(a->source[i]),
					EV_READ | EV_PERSIST, on_input, a);
		if (!a->input[i] || event_add(a->input[i], NULL))
			return -ENOMEM;
	}
	a->more = event_new(a->base, -1, 0, on_input, a);
	a->tick = event_new(a->base, -1, EV_PERSIST, on_tick, a);
	a->flush = event_new(a->base, -1, 0, on_flush, a);
	if (!a->more || !a->tick || !a->flush || event_add(a->tick, &second))
		return -ENOMEM;
	a->hangup = hangup_means();
	for (int i = 0; i < SIGNALS - (a->hangup == HANGUP_IGNORED); i++) {
		a->sig[i] = evsignal_new(a->base, signals[i], on_signal, a);
		if (!a->sig[i] || event_add(a->sig[i], NULL))
			return -ENOMEM;
	}
	return 0;
}

/* What is in the ring now is still told; then every flow ends. */
static void drain(struct agent *a)
{
	for (int i = 0; i < SOURCES; i++)
		if (a->source[i])
			a->source[i]->ops->finish(a->source[i]);
	tick_sources(a);
	flows_close_all(a->flows, clock_mono_ns());
	add_up_coverage(a);
	ship_flush(a->ship);
}

static void close_all(struct agent *a)
{
	for (int i = 0; i < SIGNALS; i++)
		if (a->sig[i])
			event_free(a->sig[i]);
	for (int i = 0; i < SOURCES; i++)
		if (a->input[i])
			event_free(a->input[i]);
	if (a->more)
		event_free(a->more);
	if (a->tick)
		event_free(a->tick);
	if (a->flush)
		event_free(a->flush);
	control_close(a->control);
	if (a->base)
		event_base_free(a->base);
	for (int i = SOURCES; i--;) /* the second one's thread may speak to the first */
		if (a->source[i])
			a->source[i]->ops->close(a->source[i]);
	flows_free(a->flows);
	coverage_free(a->coverage);
	filter_free(a->filter);
	ship_free(a->ship);
}

/* Asked to stop before the loop runs: it stops there, in order. */
static void hold_signals(int how)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(how, &set, NULL);
}

/* Before anything fails for lack of them, and is taken for a kernel that cannot do it. */
static int take_descriptors(void)
{
	uint64_t n = nofile_raise(UINT64_MAX);

	if (n >= DESCRIPTORS_MIN)
		return 0;
	log_error("agent: %" PRIu64 " descriptors are too few, it takes %d at least%s", n,
		  DESCRIPTORS_MIN, log_advice(EMFILE));
	return -EMFILE;
}

int agent_run(const struct agent_conf *conf)
{
	struct agent a = {.conf = conf};
	bool started = false;
	int err;

	signal(SIGPIPE, SIG_IGN);
	hold_signals(SIG_BLOCK);
	err = take_descriptors();
	if (!err)
		err = open_stages(&a);
	if (!err) {
		/* Before any probe is placed: wrong outputs or credentials must not cost programs
		 * anything. */
		started = true;
		err = conf->uplink->start(conf->uplink_ctx, a.ship);
	}
	if (!err)
		err = open_sources(&a);
	if (!err)
		err = open_loop(&a);
	if (!err) {
		open_control(&a);
		hold_signals(SIG_UNBLOCK);
		if (!conf->quiet)
			notify_ready();
		event_base_dispatch(a.base);
		notify_stopping();
		drain(&a);
	}
	if (started)
		conf->uplink->stop(conf->uplink_ctx, err ? 0 : AGENT_DRAIN_MS);
	if (!err && !conf->quiet)
		metrics_dump(stderr, false);
	close_all(&a);
	return err || a.failed ? 1 : 0;
}
