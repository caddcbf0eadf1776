/* SPDX-License-Identifier: Apache-2.0 */
/*
 * collector: wires acceptor → ingest → crew → session → forge → sinks; or acceptor → aggregate →
 * the next collector. Options in, exit status out. One loop and thread for the links; behind the
 * crew as many as there are workers, or with one this one as well. Each round: what the links
 * brought, with one worker timers and one flush of the sinks, then the acknowledgements of what was
 * flushed.
 */
#include "collector.h"

#include <errno.h>
#include <event2/event.h>
#include <inttypes.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "acceptor.h"
#include "aggregate/aggregate.h"
#include "base/clock.h"
#include "base/hangup.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/nofile.h"
#include "base/notify.h"
#include "base/pki.h"
#include "base/rss.h"
#include "crew/workers.h"
#include "ingest.h"

#define FIRST_TOKEN_TTL_S 3600
#define DESCRIPTORS       (4 * ACCEPTOR_LINKS_MAX) /* a link takes one, passed on two */

struct collector {
	struct workers *workers;
	struct ingest_hub *hub;
	struct aggregate *aggregate; /* instead of these two; NULL: packets are made here */
	struct acceptor *acceptor;
	struct event_base *base;
	struct event *sigint, *sigterm, *sigusr1, *sighup, *timer;
	struct event *told; /* by workers; NULL: there is but one */
	enum hangup hangup;
	bool stop;
};

/* ---- one collector ---- */

static void on_stop(evutil_socket_t fd, short what, void *ctx)
{
	struct collector *c = ctx;

	(void)fd;
	(void)what;
	c->stop = true;
}

static void on_usr1(evutil_socket_t fd, short what, void *ctx)
{
	struct collector *c = ctx;

	(void)fd;
	(void)what;
	rss_tell();
	metrics_dump(stderr, true);
	if (c->hub)
		ingest_hub_clocks(c->hub, stderr);
}

static void on_hup(evutil_socket_t fd, short what, void *ctx)
{
	struct collector *c = ctx;

	(void)fd;
	(void)what;
	if (c->hangup == HANGUP_ENDS)
		c->stop = true;
	else if (c->workers)
		workers_reopen(c->workers);
}

static void on_timer(evutil_socket_t fd, short what, void *ctx)
{
	(void)fd;
	(void)what;
	(void)ctx; /* its only work is to end event_base_loop() */
}

static void on_told(evutil_socket_t fd, short what, void *ctx)
{
	struct collector *c = ctx;

	(void)fd;
	(void)what;
	crew_fd_clear(workers_crew(c->workers)); /* what it means is looked at in each round */
}

static struct event *signal_new(struct collector *c, int sig, event_callback_fn fn)
{
	struct event *ev = evsignal_new(c->base, sig, fn, c);

	if (ev && event_add(ev, NULL)) {
		event_free(ev);
		ev = NULL;
	}
	return ev;
}

/* Pokes are due after 2 ms: epoll's own millisecond timers would round up. */
static struct event_base *base_new(void)
{
	struct event_config *conf = event_config_new();
	struct event_base *base = NULL;

	if (conf && event_config_set_flag(conf, EVENT_BASE_FLAG_PRECISE_TIMER) == 0)
		base = event_base_new_with_config(conf);
	if (conf)
		event_config_free(conf);
	return base;
}

static int told_open(struct collector *c)
{
	int fd = c->workers ? crew_fd(workers_crew(c->workers)) : -1;

	if (fd < 0)
		return 0;
	c->told = event_new(c->base, fd, EV_READ | EV_PERSIST, on_told, c);
	return c->told && !event_add(c->told, NULL) ? 0 : -ENOMEM;
}

static int loop_open(struct collector *c)
{
	c->sigint = signal_new(c, SIGINT, on_stop);
	c->sigterm = signal_new(c, SIGTERM, on_stop);
	c->sigusr1 = signal_new(c, SIGUSR1, on_usr1);
	c->hangup = hangup_means();
	if (c->hangup != HANGUP_IGNORED)
		c->sighup = signal_new(c, SIGHUP, on_hup);
	c->timer = evtimer_new(c->base, on_timer, c);
	return c->sigint && c->sigterm && c->sigusr1 && c->timer ? told_open(c) : -ENOMEM;
}

static void loop_close(struct collector *c)
{
	struct event *const all[] = {c->sigint, c->sigterm, c->sigusr1,
				     c->sighup, c->timer,   c->told};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (all[i])
			event_free(all[i]);
	if (c->base)
		event_base_free(c->base);
}

/* Printed to a person at the first start, once; never through the log. */
static int print_first_token(const struct collector_conf *conf)
{
	char token[PKI_TOKEN_STRLEN], host[256] = "";
	int err = pki_token_new(conf->state_dir, FIRST_TOKEN_TTL_S, token);

	if (err)
		return err;
	if (gethostname(host, sizeof(host) - 1) || !host[0])
		snprintf(host, sizeof(host), "COLLECTOR");
	fprintf(stderr,
		"sslcollector: this collector has a new certificate authority. To enrol an "
		"endpoint, run "
		"there:\n"
		"    sslcollector enroll %s",
		host);
	if (conf->port != SSLC_PORT)
		fprintf(stderr, ":%u", conf->port);
	fprintf(stderr,
		" %s\n"
		"The token works once and for one hour. `sslcollector token` prints another.\n",
		token);
	explicit_bzero(token, sizeof(token));
	return 0;
}

struct credentials {
	struct tls_files files;
	char ca[4096], cert[4096], key[4096];
	bool own; /* the administrator's PKI: nothing to enrol with */
};

static int state_dir_files(struct credentials *cr, const char *dir)
{
	const int size = (int)sizeof(cr->ca);

	if (snprintf(cr->ca, sizeof(cr->ca), "%s/ca.pem", dir) >= size ||
	    snprintf(cr->cert, sizeof(cr->cert), "%s/collector.pem", dir) >= size ||
	    snprintf(cr->key, sizeof(cr->key), "%s/collector.key", dir) >= size)
		return -ENAMETOOLONG;
	cr->files = (struct tls_files){.ca = cr->ca, .cert = cr->cert, .key = cr->key};
	return 0;
}

static int credentials_open(struct credentials *cr, const struct collector_conf *conf)
{
	const struct tls_files *f = &conf->files;
	int made;

	cr->own = f->ca || f->cert || f->key;
	if (cr->own) {
		cr->files = *f;
		if (f->cert && f->key && (f->ca || conf->insecure))
			return 0;
		log_error("collector: own certificates: --ca, --cert and --key belong together");
		return -EINVAL;
	}
	made = pki_collector_init(conf->state_dir);
	if (made < 0)
		return made;
	if (made && !conf->insecure) {
		made = print_first_token(conf);
		if (made)
			return made;
	} else if (!conf->insecure) {
		log_info("collector: to enrol an endpoint, print a token: sslcollector token");
	}
	return state_dir_files(cr, conf->state_dir);
}

/* Packets are made elsewhere. */
static int onward_open(struct collector *c, const struct collector_conf *conf)
{
	char dir[4096];
	const struct dialer_conf dc = {
		.base = c->base,
		.host = conf->onward,
		.port = conf->onward_port,
		.files = conf->files,
		.dir = dir,
		.insecure = conf->insecure,
	};
	int err = pki_upstream_dir(conf->state_dir, dir, sizeof(dir));

	return err ? err : aggregate_open(&c->aggregate, &dc);
}

static int collector_open(struct collector *c, const struct collector_conf *conf)
{
	const struct workers_conf wc = {.sinks = conf->sinks,
					.n_sinks = conf->n_sinks,
					.n = conf->workers ? conf->workers : workers_default(),
					.state_dir = conf->state_dir,
					.max_sessions = conf->max_sessions};
	struct credentials cr = {0};
	struct acceptor_conf ac = {
		.listen_addr = conf->listen_addr,
		.port = conf->port,
		.insecure = conf->insecure,
	};
	int err;

	c->base = base_new();
	if (!c->base)
		return -ENOMEM;
	/* Where to first: what is wrong there must not leave a certificate authority behind. */
	err = conf->onward ? onward_open(c, conf) : workers_open(&c->workers, &wc);
	if (!err)
		err = credentials_open(&cr, conf);
	if (!err && c->workers)
		err = workers_start(c->workers);
	if (!err)
		err = loop_open(c);
	if (!err && !c->aggregate)
		err = ingest_hub_new(&c->hub, workers_crew(c->workers));
	if (err)
		return err;
	if (c->hub)
		ingest_hub_wall(c->hub, clock_wall_offset_ns());
	ac.base = c->base;
	ac.ops = c->aggregate ? &aggregate_taker : &ingest_taker;
	ac.hub = c->aggregate ? (void *)c->aggregate : (void *)c->hub;
	ac.files = cr.files;
	ac.enroll_dir = cr.own ? NULL : conf->state_dir;
	return acceptor_open(&c->acceptor, &ac);
}

static void collector_loop(struct collector *c)
{
	uint64_t wait_ns = NS_PER_MS, ack_ns;
	bool second = false;

	while (!c->stop) {
		struct timeval tv = {.tv_sec = (time_t)(wait_ns / NS_PER_S),
				     .tv_usec = (suseconds_t)(wait_ns % NS_PER_S / 1000)};

		event_add(c->timer, &tv);
		if (event_base_loop(c->base, EVLOOP_ONCE) < 0) {
			log_error("collector: event loop: %s", strerror(errno));
			return;
		}
		wait_ns = c->aggregate ? aggregate_round(c->aggregate, clock_mono_ns(), &second)
				       : workers_round(c->workers, &second);
		ack_ns = acceptor_flushed(c->acceptor, clock_mono_ns());
		if (ack_ns < wait_ns)
			wait_ns = ack_ns;
		if (!second)
			continue;
		if (c->hub) {
			ingest_hub_wall(c->hub, clock_wall_offset_ns());
			ingest_hub_tick(c->hub, clock_mono_ns());
		}
		acceptor_tick(c->acceptor, clock_mono_ns());
	}
}

int collector_run(const struct collector_conf *conf)
{
	struct collector c = {0};
	bool done = false;
	int err;

	signal(SIGPIPE, SIG_IGN);
	(void)nofile_raise(DESCRIPTORS);
	err = collector_open(&c, conf);
	if (!err) {
		log_info("collector: listening port=%u%s%s%s", acceptor_port(c.acceptor),
			 conf->onward ? ", passing on to " : "", conf->onward ? conf->onward : "",
			 conf->insecure ? " (insecure: anyone may send)" : "");
		notify_ready();
		collector_loop(&c);
		done = c.stop;
		notify_stopping();
		acceptor_stop(c.acceptor);
	} else if (err == -ENOMEM) {
		log_error("collector: not started: out of memory"); /* all else was logged below */
	}
	/* Links first: nothing may come in while the forged connections are closed. */
	acceptor_close(c.acceptor);
	ingest_hub_free(c.hub);
	aggregate_close(c.aggregate);
	loop_close(&c);
	workers_close(c.workers);
	if (!err)
		metrics_dump(stderr, false);
	return done ? 0 : 1;
}

/* ---- an endpoint alone ---- */

struct collector_local {
	struct workers *workers;
	struct crew_origin *origin; /* borrowed from the crew */
	uint64_t given;             /* the last block's number */
	uint64_t out, asked;        /* all before them is out, or will be when `mark` is passed */
	struct crew_mark mark;
};

int collector_local_new(struct collector_local **out, const struct workers_conf *conf)
{
	static const uint8_t self[16] = {0}; /* the only origin of this crew */
	struct collector_local *c = calloc(1, sizeof(*c));
	char host[256] = "";
	int err;

	if (!c)
		return -ENOMEM;
	err = workers_open(&c->workers, conf);
	if (!err)
		err = workers_start(c->workers);
	if (err)
		goto fail;
	if (gethostname(host, sizeof(host) - 1))
		host[0] = '\0';
	c->origin = crew_origin(workers_crew(c->workers), self, span_str(host));
	if (!c->origin) {
		err = -ENOMEM;
		goto fail;
	}
	*out = c;
	return 0;
fail:
	collector_local_free(c);
	return err;
}

int collector_local_frames(struct collector_local *c, uint64_t seq, struct span frames)
{
	c->given = seq;
	return ingest_frames(workers_crew(c->workers), c->origin, frames, clock_mono_ns());
}

/* False: what was asked for is not out yet. */
static bool look(struct collector_local *c)
{
	struct crew *crew = workers_crew(c->workers);

	if (c->asked == c->out) {
		c->asked = c->given;
		crew_mark(crew, &c->mark);
	}
	if (!crew_is_past(crew, &c->mark))
		return false;
	c->out = c->asked;
	return true;
}

int collector_local_tick(struct collector_local *c, uint64_t *out)
{
	uint64_t wait_ns;
	bool second;

	wait_ns = workers_round(c->workers, &second);
	if (look(c) && c->given != c->out)
		(void)look(c); /* what came meanwhile is waited for as well */
	*out = c->out;
	/* Rounded up: called a little late rather than twice. At most a second. */
	return (int)((wait_ns + NS_PER_MS - 1) / NS_PER_MS);
}

int collector_local_fd(const struct collector_local *c)
{
	return crew_fd(workers_crew(c->workers));
}

void collector_local_settle(struct collector_local *c)
{
	crew_settle(workers_crew(c->workers));
}

void collector_local_reopen(struct collector_local *c)
{
	workers_reopen(c->workers);
}

void collector_local_free(struct collector_local *c)
{
	if (!c)
		return;
	workers_close(c->workers);
	free(c);
}
