/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main: the one binary. Reads its options, closes the doors through which plaintext could leave by
 * accident, and runs the agent, the collector, or both in one process. The only file that knows
 * both.
 */
#include "agent.h"
#include "cli/doctor.h"
#include "cli/enable.h"
#include "uplink/enroll.h"
#include "cli/extcap.h"
#include "cli/options.h"
#include "cli/report.h"
#include "cli/run.h"
#include "cli/settings.h"
#include "cli/status.h"
#include "cli/systemwide.h"
#include "sites/trial.h"
#include "sites/trial_store.h"
#include "uplink/tunnel.h"

#include "../collector/collector.h"
#include "base/log.h"
#include "base/pki.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#define NICE_FAVOURED (-5) /* three times the share of one with 0 */

/* --- uplink 1: a collector elsewhere ------------------------------------------------------------
 */

struct remote {
	struct tunnel_conf conf;
	struct tunnel *tunnel;
};

static int remote_start(void *ctx, struct ship *ship)
{
	struct remote *r = ctx;

	return tunnel_start(&r->tunnel, &r->conf, ship);
}

static void remote_stop(void *ctx, unsigned drain_ms)
{
	struct remote *r = ctx;

	tunnel_stop(r->tunnel, drain_ms);
	r->tunnel = NULL;
}

static const struct uplink_ops remote_ops = {.start = remote_start, .stop = remote_stop};

/* --- uplink 2: the collector's half in this process ---------------------------------------------
 */

#define PUMP_BLOCKS 8 /* at most 2 MiB: so much of the queue is sent and not acknowledged */

struct local {
	struct workers_conf conf;
	uint64_t acked;
	struct collector_local *collector;
	struct ship *ship;
	pthread_t thread;
	bool running;
	atomic_bool stop;
};

/*
 * What is queued goes through the sinks, and is acknowledged once they are flushed. Not all of it
 * at once: while more comes in as fast as it goes out, nothing would ever be acknowledged, and the
 * queue would fill with what has long been sent.
 */
static int pump(struct local *l, unsigned most)
{
	struct ship_block b;
	uint64_t out;
	int wait_ms;

	for (unsigned i = 0; i < most && ship_take(l->ship, &b); i++) {
		if (collector_local_frames(l->collector, b.seq, b.frames))
			log_error("agent: a block of our own was refused seq=%llu",
				  (unsigned long long)b.seq);
		ship_return(l->ship, true);
	}
	wait_ms = collector_local_tick(l->collector, &out);
	if (out != l->acked)
		ship_ack(l->ship, out);
	l->acked = out;
	return wait_ms;
}

static void *local_thread(void *ctx)
{
	struct local *l = ctx;
	struct pollfd p[2] = {{.fd = ship_wake_fd(l->ship), .events = POLLIN},
			      {.fd = collector_local_fd(l->collector), .events = POLLIN}};

	while (!atomic_load(&l->stop)) {
		int wait_ms = pump(l, PUMP_BLOCKS);

		(void)poll(p, 2, wait_ms);
	}
	pump(l, UINT_MAX);
	collector_local_settle(l->collector);
	pump(l, 0);
	return NULL;
}

static int local_start(void *ctx, struct ship *ship)
{
	struct local *l = ctx;
	sigset_t all, old;
	int err;

	l->ship = ship;
	err = collector_local_new(&l->collector, &l->conf);
	if (err)
		return err;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are the main thread's */
	err = -pthread_create(&l->thread, NULL, local_thread, l);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	l->running = !err;
	return err;
}

static void local_stop(void *ctx, unsigned drain_ms)
{
	struct local *l = ctx;

	for (unsigned waited = 0; l->running && !ship_is_empty(l->ship) && waited < drain_ms;
	     waited += 10)
		usleep(10000);
	atomic_store(&l->stop, true);
	if (l->running)
		pthread_join(l->thread, NULL);
	l->running = false;
	collector_local_free(l->collector);
	l->collector = NULL;
}

static void local_reopen(void *ctx)
{
	struct local *l = ctx;

	collector_local_reopen(l->collector);
}

static const struct uplink_ops local_ops = {
	.start = local_start, .stop = local_stop, .reopen = local_reopen};

/* --- modes --------------------------------------------------------------------------------------
 */

static struct tls_files own_files(const struct options *o)
{
	return (struct tls_files){.ca = o->ca, .cert = o->cert, .key = o->key};
}

static int run_agent(const struct options *o)
{
	struct remote remote = {.conf = {.host = o->host,
					 .port = o->port,
					 .files = own_files(o),
					 .state_dir = o->state_dir,
					 .insecure = o->insecure,
					 .zstd_level = o->zstd_level}};
	struct local local = {.conf = {.sinks = o->sinks,
				       .n_sinks = o->n_sinks,
				       .n = o->workers,
				       .state_dir = o->state_dir,
				       .max_sessions = o->max_sessions}};
	struct agent_conf conf = {
		.iface = o->iface,
		.filter = o->filter,
		.sources = o->sources,
		.n_rings = o->n_rings,
		.ring_bytes = o->ring_bytes,
		.shim_bytes = o->shim_bytes,
		.backlog_bytes = o->backlog_bytes,
		.shed = o->shed,
		.queue_bytes = o->queue_bytes,
		.flow_hook = o->flow_hook,
		.probes = o->probes,
		.starttls = o->starttls,
		.outer_tls = o->outer_tls,
		.max_overhead = o->max_overhead,
		.overhead_retry_s = o->overhead_retry_s,
		.run_dir = o->run_dir,
		.quiet = o->quiet,
		.uplink = o->mode == MODE_AGENT ? &remote_ops : &local_ops,
		.uplink_ctx = o->mode == MODE_AGENT ? (void *)&remote : (void *)&local,
	};
	int err = trial_store_open(o->state_dir);

	if (err)
		log_debug("agent: experiments are not kept: %s", strerror(-err));
	return agent_run(&conf);
}

static int run_collector(const struct options *o)
{
	struct collector_conf conf = {
		.listen_addr = o->listen_addr,
		.port = o->port,
		.state_dir = o->state_dir,
		.files = own_files(o),
		.insecure = o->insecure,
		.sinks = o->sinks,
		.n_sinks = o->n_sinks,
		.onward = o->host,
		.onward_port = o->onward_port,
		.max_sessions = o->max_sessions,
		.workers = o->workers,
	};

	return collector_run(&conf);
}

static int print_token(const struct options *o)
{
	char token[PKI_TOKEN_STRLEN];
	int err = pki_collector_init(o->state_dir);

	if (err >= 0)
		err = pki_token_new(o->state_dir, o->token_ttl_s, token);
	if (err < 0) {
		log_error("token: cannot make one in %s: %s", o->state_dir, strerror(-err));
		return 1;
	}
	puts(token);
	return 0;
}

/* A core file or a debugger of the same user would hold other programs' plaintext. */
static void close_doors(void)
{
	const struct rlimit none = {0, 0};

	(void)setrlimit(RLIMIT_CORE, &none);
#ifndef __SANITIZE_ADDRESS__ /* its leak check attaches to us like a debugger */
	(void)prctl(PR_SET_DUMPABLE, 0);
#endif
	(void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

/*
 * On a host without an idle CPU everyone gets the same share. Those who forge then fall behind
 * those who speak, and what they cannot keep is lost; so they come a little before the others.
 * Whoever started us with a priority has decided.
 */
static void set_priority(const struct options *o)
{
	bool said = o->nice != NICE_DEFAULT;

	if (!said && getpriority(PRIO_PROCESS, 0) != 0)
		return;
	if (setpriority(PRIO_PROCESS, 0, said ? o->nice : NICE_FAVOURED) && said)
		log_warn("nice: %d: %s: goes on with %d", o->nice, strerror(errno),
			 getpriority(PRIO_PROCESS, 0));
}

/* No environment tells them where the agent is. */
static bool is_default_place(const struct options *o)
{
	bool is = !strcmp(o->run_dir, RUN_DIR_DEFAULT);

	if (!is)
		log_error("enable: --run-dir %s: with --system-wide programs look in %s only",
			  o->run_dir, RUN_DIR_DEFAULT);
	return is;
}

static int run_enable(const struct options *o)
{
	char library[PATH_MAX];
	const struct enable_conf conf = {.root = "", .library = library, .run_dir = o->run_dir};

	const struct systemwide_conf all = {
		.root = "", .library = library, .trial = "/proc/self/exe", .owner = 0};

	if (o->mode == MODE_DISABLE)
		return o->system_wide ? systemwide_disable(&all)
				      : disable_units(&conf, o->units, o->n_units);
	if (!run_find_library(library)) {
		log_error("enable: libsslcollector-preload.so is neither beside this program nor "
			  "installed");
		return 1;
	}
	if (o->system_wide)
		return is_default_place(o) ? systemwide_enable(&all) : 1;
	return enable_units(&conf, o->units, o->n_units);
}

static int run(const struct options *o)
{
	switch (o->mode) {
	case MODE_AGENT:
	case MODE_ALONE:
		set_priority(o);
		return run_agent(o);
	case MODE_COLLECTOR:
	case MODE_AGGREGATOR:
		set_priority(o);
		return run_collector(o);
	case MODE_ENROLL:
		return enroll_run(o->host, o->port, o->token, o->state_dir, o->onward);
	case MODE_TOKEN:
		return print_token(o);
	case MODE_COVERAGE:
		return report_run(o->run_dir, o->json);
	case MODE_STATUS:
		return status_run(o->run_dir, o->json);
	case MODE_DOCTOR:
		return trial_store_open(o->state_dir) ? 1
						      : doctor_run(o->files, o->n_files, o->probes);
	case MODE_RUN:
		return run_command(o->run_dir, o->command);
	case MODE_ENABLE:
	case MODE_DISABLE:
		return run_enable(o);
	case MODE_HELP:
		options_print_help();
		return 0;
	case MODE_VERSION:
		options_print_version();
		return 0;
	}
	return 2;
}

int main(int argc, char **argv)
{
	bool for_wireshark = extcap_is_asked(argc, argv);
	struct options o;
	int status;

	if (for_wireshark) {
		close_doors();
		status = extcap_answer(argc, argv, &argv, &argc);
		if (status >= 0)
			return status;
	}
	if (argc == 2 && !strcmp(argv[1], TRIAL_WORD))
		return trial_child();
	if (options_parse(&o, argc, argv))
		return 2;
	if (o.verbose)
		log_set_level(LOG_DEBUG);
	o.quiet = for_wireshark; /* which takes all that is said there for an error */
	if (for_wireshark)
		log_set_level(LOG_ERROR);
	if (o.mode != MODE_RUN) /* another program keeps what it was given */
		close_doors();
	status = run(&o);
	options_fini(&o);
	return status;
}
