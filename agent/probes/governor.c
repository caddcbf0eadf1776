/* SPDX-License-Identifier: Apache-2.0 */
/*
 * governor: totals of CPU time in, who is to be detached and when to try again out. One record a
 * process; the caller tells when it is gone.
 */
#include "probes/governor.h"

#include "base/clock.h"
#include "base/hmap.h"

#include <errno.h>
#include <stdlib.h>

struct governed {
	struct hmap_node node; /* by pid */
	struct governor_use last;
	uint64_t last_ns, calm_ns; /* end of the last window; of the last one over the limit */
	unsigned over;             /* windows in a row */
	unsigned tries;            /* how often it was detached */
	bool is_detached;
	uint64_t until_ns;
};

struct governor {
	struct governor_conf conf;
	struct hmap processes;
};

int governor_new(struct governor **out, const struct governor_conf *conf)
{
	struct governor *g = calloc(1, sizeof(*g));

	if (!g)
		return -ENOMEM;
	g->conf = *conf;
	hmap_init(&g->processes);
	*out = g;
	return 0;
}

static struct governed *find(const struct governor *g, unsigned pid)
{
	uint64_t hash = hmap_hash(&pid, sizeof(pid));

	for (struct hmap_node *n = hmap_first(&g->processes, hash); n; n = hmap_next_same(n)) {
		struct governed *p = hmap_entry(n, struct governed, node);

		if (p->last.pid == pid)
			return p;
	}
	return NULL;
}

static struct governed *find_or_make(struct governor *g, const struct governor_use *use,
				     uint64_t now_ns)
{
	struct governed *p = find(g, use->pid);

	if (p && p->last.start_ticks == use->start_ticks)
		return p;
	if (p)
		governor_forget(g, use->pid);
	p = calloc(1, sizeof(*p));
	if (!p || hmap_insert(&g->processes, &p->node, hmap_hash(&use->pid, sizeof(use->pid)))) {
		free(p);
		return NULL;
	}
	p->last = *use;
	p->last_ns = p->calm_ns = now_ns;
	return p;
}

/* What the window that ends now took. False: it was idle, or nothing can be said. */
static bool is_busy(const struct governed *p, const struct governor_use *use, uint64_t now_ns)
{
	return use->cpu_ns > p->last.cpu_ns && use->probe_ns >= p->last.probe_ns &&
	       (use->cpu_ns - p->last.cpu_ns) * GOVERNOR_IDLE >= now_ns - p->last_ns;
}

static unsigned retry_s(const struct governor *g, unsigned tries)
{
	uint64_t s = g->conf.retry_s;

	for (unsigned i = 0; i < tries && s < GOVERNOR_RETRY_MAX; i++)
		s *= 2;
	return s < GOVERNOR_RETRY_MAX || s == g->conf.retry_s ? (unsigned)s : GOVERNOR_RETRY_MAX;
}

static void detach(const struct governor *g, struct governed *p, uint64_t now_ns,
		   struct governor_verdict *v)
{
	if (now_ns - p->calm_ns > GOVERNOR_CALM_S * NS_PER_S)
		p->tries = 0;
	v->retry_s = retry_s(g, p->tries++);
	p->until_ns = now_ns + v->retry_s * NS_PER_S;
	p->is_detached = true;
	p->over = 0;
}

bool governor_window(struct governor *g, const struct governor_use *use, uint64_t now_ns,
		     struct governor_verdict *v)
{
	struct governed *p = find_or_make(g, use, now_ns);
	uint64_t probe, cpu;
	bool is_over;

	if (!p || p->is_detached || now_ns <= p->last_ns)
		return false;
	probe = use->probe_ns - p->last.probe_ns;
	cpu = use->cpu_ns - p->last.cpu_ns;
	is_over = is_busy(p, use, now_ns) && probe * 100 > cpu * g->conf.percent;
	p->last = *use;
	p->last_ns = now_ns;
	p->over = is_over ? p->over + 1 : 0;
	if (p->over < GOVERNOR_WINDOWS)
		return false;
	v->percent = (unsigned)(probe * 100 / cpu);
	if (v->percent > 100) /* estimated and measured times do not meet exactly */
		v->percent = 100;
	detach(g, p, now_ns, v);
	return true;
}

unsigned governor_due(struct governor *g, uint64_t now_ns)
{
	for (struct hmap_node *n = hmap_any(&g->processes, NULL); n;
	     n = hmap_any(&g->processes, n)) {
		struct governed *p = hmap_entry(n, struct governed, node);

		if (!p->is_detached || now_ns < p->until_ns)
			continue;
		p->is_detached = false;
		p->last_ns = p->calm_ns = now_ns;
		p->last.probe_ns = UINT64_MAX; /* the first window begins with the next one */
		return p->last.pid;
	}
	return 0;
}

void governor_keep(struct governor *g, unsigned pid)
{
	struct governed *p = find(g, pid);

	if (p)
		p->is_detached = false;
}

void governor_forget(struct governor *g, unsigned pid)
{
	struct governed *p = find(g, pid);

	if (!p)
		return;
	hmap_remove(&g->processes, &p->node);
	free(p);
}

void governor_free(struct governor *g)
{
	struct hmap_node *n;

	if (!g)
		return;
	while ((n = hmap_any(&g->processes, NULL))) {
		hmap_remove(&g->processes, n);
		free(hmap_entry(n, struct governed, node));
	}
	hmap_fini(&g->processes);
	free(g);
}
