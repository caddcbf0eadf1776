/* SPDX-License-Identifier: Apache-2.0 */
/*
 * overhead: hits of probes and CPU clocks in; out: probes taken off a process, and put on again
 * later. A kernel cannot leave one process out, so a file that such a process has mapped gets
 * probes for each of the others, and for every new one as libwatch meets it.
 */
#include "probes/overhead.h"

#include "probes/attach.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "probes/libwatch.h"
#include "process.h"

#include <linux/types.h>

#include "calls.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define WINDOW_NS   900000000ull /* no shorter, however often somebody asks */
#define HITTERS_MAX 8192         /* steps through the map, which changes meanwhile */

static COUNTER_DEFINE(detached, "capture_processes_detached",
		      "times a process lost its probes: too much of its CPU time went into them");
static COUNTER_DEFINE(attached, "capture_processes_reattached", "times it got them again");
static COUNTER_DEFINE(out_now, "capture_processes_out",
		      "processes without probes for that reason now (gauge)");

/* A process without probes, or one that was. */
struct out {
	unsigned pid;
	uint64_t start_ticks;
	bool is_out;
};

struct overhead {
	struct overhead_conf conf;
	struct governor *governor;
	struct out out[OVERHEAD_MAX];
	unsigned n;
	uint64_t last_ns; /* end of the last window */
	int n_cpus;
	struct sslc_hits *hits; /* one for each processor */
};

int overhead_new(struct overhead **out, const struct overhead_conf *conf)
{
	struct overhead *o = calloc(1, sizeof(*o));
	int err;

	if (!o)
		return -ENOMEM;
	o->conf = *conf;
	o->n_cpus = libbpf_num_possible_cpus();
	o->hits = calloc(o->n_cpus > 0 ? (size_t)o->n_cpus : 1, sizeof(*o->hits));
	err = o->hits && o->n_cpus > 0 ? governor_new(&o->governor, &conf->limits) : -ENOMEM;
	if (err) {
		overhead_free(o);
		return err;
	}
	*out = o;
	return 0;
}

void overhead_free(struct overhead *o)
{
	if (!o)
		return;
	governor_free(o->governor);
	free(o->hits);
	free(o);
}

/* --- who has mapped what ------------------------------------------------------------------------
 */

struct seeking {
	unsigned pid;
	uint64_t dev, ino; /* of the file that is sought */
	bool found;
};

/* The device of a mapping and stat's may differ for one file (btrfs, overlayfs). */
static bool is_same_file(const struct seeking *s, const struct process_file *f)
{
	char name[4200];
	struct stat st;

	if (f->ino != s->ino)
		return false;
	if (f->dev == s->dev)
		return true;
	snprintf(name, sizeof(name), "/proc/%u/root%s", s->pid, f->path);
	return !stat(name, &st) && st.st_dev == s->dev && st.st_ino == s->ino;
}

static void on_mapped(void *ctx, const struct process_file *f)
{
	struct seeking *s = ctx;

	s->found = s->found || is_same_file(s, f);
}

static bool has_mapped(const struct overhead *o, unsigned pid, unsigned number)
{
	struct seeking s = {.pid = pid};

	attach_identity(o->conf.attach, number, &s.dev, &s.ino);
	(void)process_files(pid, on_mapped, &s);
	return s.found;
}

static struct out *find_out(struct overhead *o, unsigned pid)
{
	for (unsigned i = 0; i < o->n; i++)
		if (o->out[i].pid == pid)
			return &o->out[i];
	return NULL;
}

static bool is_same(unsigned pid, uint64_t start_ticks)
{
	struct process_stat st;

	return process_stat(pid, &st) && st.start_ticks == start_ticks;
}

static bool is_out(struct overhead *o, unsigned pid)
{
	const struct out *x = find_out(o, pid);

	return x && x->is_out && is_same(pid, x->start_ticks);
}

/* All that have mapped a file, but those that are to be left alone. */
struct users {
	struct overhead *o;
	unsigned number;
	unsigned *pids; /* owned by the caller */
	size_t n;
	bool failed;
};

static void on_process(void *ctx, unsigned pid)
{
	struct users *u = ctx;
	unsigned *pids;

	if (u->failed || is_out(u->o, pid) || !has_mapped(u->o, pid, u->number))
		return;
	pids = realloc(u->pids, (u->n + 1) * sizeof(*pids));
	if (!pids) {
		u->failed = true;
		return;
	}
	u->pids = pids;
	u->pids[u->n++] = pid;
}

static int split(struct overhead *o, unsigned number)
{
	struct users u = {.o = o, .number = number};
	int err = process_each(on_process, &u);

	if (!err && u.failed)
		err = -ENOMEM;
	if (!err)
		err = attach_split(o->conf.attach, number, u.pids, u.n);
	free(u.pids);
	return err;
}

/* --- off and on ---------------------------------------------------------------------------------
 */

static bool any_is_split(const struct overhead *o)
{
	for (unsigned i = 1; i <= attach_count(o->conf.attach); i++)
		if (attach_is_split(o->conf.attach, i))
			return true;
	return false;
}

/* Whether anybody who is to be left alone has mapped the file. */
static bool is_avoided(struct overhead *o, unsigned number)
{
	for (unsigned i = 0; i < o->n; i++)
		if (is_out(o, o->out[i].pid) && has_mapped(o, o->out[i].pid, number))
			return true;
	return false;
}

/* Files that nobody is to be kept from any more; and the process, if any, into those that are. */
static void join(struct overhead *o, unsigned pid)
{
	o->conf.aside(o->conf.ctx, true);
	for (unsigned i = 1; i <= attach_count(o->conf.attach); i++) {
		int err = 0;

		if (!attach_is_split(o->conf.attach, i))
			continue;
		if (!is_avoided(o, i))
			err = attach_share(o->conf.attach, i);
		else if (pid && has_mapped(o, pid, i))
			err = attach_add(o->conf.attach, i, pid);
		if (err && err != -ESRCH)
			log_warn("overhead: probes of process %u again: %s", pid, strerror(-err));
	}
	o->conf.aside(o->conf.ctx, false);
	if (!any_is_split(o))
		libwatch_follow(o->conf.watch, NULL);
}

/* New processes must be heard of before the probes of all are gone. Files taken off, or -errno. */
static int take_off(struct overhead *o, unsigned pid)
{
	int n = 0, err = 0;

	libwatch_follow(o->conf.watch, o->conf.changed);
	for (unsigned i = 1; i <= attach_count(o->conf.attach) && !err; i++) {
		if (!has_mapped(o, pid, i))
			continue;
		n++;
		if (attach_is_split(o->conf.attach, i))
			attach_remove(o->conf.attach, i, pid);
		else
			err = split(o, i);
	}
	return err ? err : n;
}

static void count_out(const struct overhead *o)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < o->n; i++)
		n += o->out[i].is_out;
	counter_set(&out_now, n);
}

static struct out *make_out(struct overhead *o, const struct governor_use *use)
{
	struct out *x = find_out(o, use->pid);

	if (!x && o->n == OVERHEAD_MAX)
		return NULL;
	if (!x)
		x = &o->out[o->n++];
	*x = (struct out){.pid = use->pid, .start_ticks = use->start_ticks, .is_out = true};
	return x;
}

static void let_go(struct overhead *o, const struct governor_use *use,
		   const struct governor_verdict *v)
{
	struct out *x = make_out(o, use);
	uint64_t since_ns = clock_mono_ns();
	int n;

	o->conf.aside(o->conf.ctx, true);
	n = x ? take_off(o, use->pid) : -ENOSPC;
	o->conf.aside(o->conf.ctx, false);
	if (n <= 0) {
		log_warn("overhead: process %u: %u %% of its CPU time goes into probes, and they "
			 "cannot be taken off: %s",
			 use->pid, v->percent, n ? strerror(-n) : "its library is not found");
		if (x)
			x->is_out = false;
		join(o, use->pid);
		governor_keep(o->governor, use->pid);
		return;
	}
	attach_forget_calls(o->conf.attach, use->pid);
	counter_inc(&detached);
	log_warn("overhead: process %u: %u %% of its CPU time went into probes, limit %u %%: none "
		 "for %u s",
		 use->pid, v->percent, o->conf.limits.percent, v->retry_s);
	o->conf.detached(o->conf.ctx, use->pid, use->start_ticks, since_ns, v);
}

static void take_back(struct overhead *o, unsigned pid)
{
	struct out *x = find_out(o, pid);

	if (!x)
		return;
	x->is_out = false;
	join(o, pid);
	counter_inc(&attached);
	log_info("overhead: process %u: probed again", pid);
	o->conf.attached(o->conf.ctx, pid, x->start_ticks, clock_mono_ns());
}

void overhead_changed(struct overhead *o, unsigned pid, uint64_t ino)
{
	uint64_t dev, its_ino;
	int err = 0;

	for (unsigned i = 1; i <= attach_count(o->conf.attach); i++) {
		if (!attach_is_split(o->conf.attach, i))
			continue;
		attach_identity(o->conf.attach, i, &dev, &its_ino);
		if ((ino && ino != its_ino) || is_out(o, pid) || !has_mapped(o, pid, i))
			continue;
		o->conf.aside(o->conf.ctx, true);
		err = attach_add(o->conf.attach, i, pid);
		o->conf.aside(o->conf.ctx, false);
		if (err && err != -ESRCH)
			log_warn("overhead: probes of the new process %u: %s", pid, strerror(-err));
	}
}

/* --- measuring ----------------------------------------------------------------------------------
 */

static bool cpu_time(unsigned pid, uint64_t *ns)
{
	struct timespec t;
	clockid_t clock;

	if (clock_getcpuclockid((pid_t)pid, &clock) || clock_gettime(clock, &t))
		return false;
	*ns = (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
	return true;
}

static bool use_of(struct overhead *o, unsigned pid, struct governor_use *use)
{
	struct process_stat st;

	if (bpf_map_lookup_elem(o->conf.hitters_fd, &pid, o->hits) || !process_stat(pid, &st))
		return false;
	*use = (struct governor_use){.pid = pid, .start_ticks = st.start_ticks};
	for (int i = 0; i < o->n_cpus; i++)
		use->probe_ns += o->hits[i].ns;
	return cpu_time(pid, &use->cpu_ns);
}

static void judge(struct overhead *o, unsigned pid, uint64_t now_ns)
{
	struct governor_verdict v;
	struct governor_use use;

	if (!use_of(o, pid, &use)) {
		governor_forget(o->governor, pid);
		bpf_map_delete_elem(o->conf.hitters_fd, &pid);
	} else if (governor_window(o->governor, &use, now_ns, &v)) {
		let_go(o, &use, &v);
	}
}

static void judge_all(struct overhead *o, uint64_t now_ns)
{
	unsigned pid, next;
	bool more = !bpf_map_get_next_key(o->conf.hitters_fd, NULL, &next);

	for (unsigned i = 0; more && i < HITTERS_MAX; i++) {
		pid = next;
		more = !bpf_map_get_next_key(o->conf.hitters_fd, &pid, &next);
		judge(o, pid, now_ns);
	}
}

static void bury_dead(struct overhead *o)
{
	bool was_out = false;

	for (unsigned i = 0; i < o->n;) {
		struct out x = o->out[i];

		if (is_same(x.pid, x.start_ticks)) {
			i++;
			continue;
		}
		was_out |= x.is_out;
		o->out[i] = o->out[--o->n];
		governor_forget(o->governor, x.pid);
		o->conf.gone(o->conf.ctx, x.pid, x.start_ticks);
	}
	if (was_out)
		join(o, 0);
}

void overhead_tick(struct overhead *o, uint64_t now_ns)
{
	unsigned pid;

	if (now_ns - o->last_ns < WINDOW_NS)
		return;
	o->last_ns = now_ns;
	bury_dead(o);
	while ((pid = governor_due(o->governor, now_ns)))
		take_back(o, pid);
	judge_all(o, now_ns);
	count_out(o);
}
