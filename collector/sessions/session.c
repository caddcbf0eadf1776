/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session: frames of all agents in, forge calls and sink messages out. Decodes frames, finds their
 * sessions, and lets time pass. Never does I/O, never reads a clock.
 *
 * What happens to a session is session_act.c; which there are and what finds them,
 * session_table.c; how the two ends of one connection complete each other, session_pair.c.
 */
#include "sessions/session.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "sessions/session_act.h"
#include "sessions/session_pair.h"

static COUNTER_DEFINE(c_flows, "session_flows", "flows announced by agents");
static COUNTER_DEFINE(c_lost_unknown, "session_bytes_lost_unknown_flow",
		      "bytes of a flow that is not in the table");
static COUNTER_DEFINE(c_frames_unknown, "session_frames_unknown_flow",
		      "frames for a flow that is not in the table");
static COUNTER_DEFINE(c_reopened, "session_opens_repeated", "flows announced again");
static COUNTER_DEFINE(c_no_memory, "session_opens_lost_memory", "flows refused for want of memory");
static COUNTER_DEFINE(c_evicted, "session_evicted", "sessions dropped at the table's limit");
static COUNTER_DEFINE(c_idled, "session_idle_resets", "connections reset because they were idle");
static COUNTER_DEFINE(c_pokes, "session_pokes",
		      "repeated acknowledgements that make an IDS inspect");

/* Frames */

static void evict_one(struct sessions *t, uint64_t now_ns)
{
	struct session *s = session_least_active(t);

	if (!s)
		return;
	counter_inc(&c_evicted);
	session_abort(t, s, now_ns);
}

static void flow_opened(struct sessions *t, struct session_origin *o,
			const struct frame_flow_open *m, uint64_t now_ns)
{
	if (session_find(t, o, m->flow)) {
		counter_inc(&c_reopened);
		return;
	}
	for (int i = 0; i < 3 && t->count >= t->conf.max_sessions;
	     i++) /* others may go on for it */
		evict_one(t, now_ns);
	counter_inc(session_add(t, o, m, now_ns) ? &c_flows : &c_no_memory);
}

static struct session *flow_known(struct sessions *t, struct session_origin *o, uint64_t flow)
{
	struct session *s = session_find(t, o, flow);

	if (!s)
		counter_inc(&c_frames_unknown);
	return s;
}

static int on_flow_open(struct sessions *t, struct session_origin *o, const struct frame *f,
			uint64_t now_ns)
{
	struct frame_flow_open m;
	int err = frame_get_flow_open(f, &m);

	if (err < 0)
		return err;
	flow_opened(t, o, &m, now_ns);
	return 0;
}

static int on_data(struct sessions *t, struct session_origin *o, const struct frame *f,
		   uint64_t now_ns)
{
	struct frame_data m;
	struct session *s;
	int err = frame_get_data(f, &m);

	if (err < 0)
		return err;
	if (m.offset > UINT64_MAX - m.bytes.len)
		return -EBADMSG;
	s = flow_known(t, o, m.flow);
	if (s)
		session_data(t, s, &m, now_ns);
	else
		counter_add(&c_lost_unknown, m.bytes.len);
	return 0;
}

static int on_gap(struct sessions *t, struct session_origin *o, const struct frame *f,
		  uint64_t now_ns)
{
	struct frame_gap m;
	struct session *s;
	int err = frame_get_gap(f, &m);

	if (err < 0)
		return err;
	if (m.offset > UINT64_MAX - m.len)
		return -EBADMSG;
	s = flow_known(t, o, m.flow);
	if (s)
		session_gap(t, s, &m, now_ns);
	return 0;
}

static int on_flow_fin(struct sessions *t, struct session_origin *o, const struct frame *f,
		       uint64_t now_ns)
{
	struct frame_flow_fin m;
	struct session *s;
	int err = frame_get_flow_fin(f, &m);

	if (err < 0)
		return err;
	s = flow_known(t, o, m.flow);
	if (s)
		session_told_fin(t, s, &m, now_ns);
	return 0;
}

static int on_flow_close(struct sessions *t, struct session_origin *o, const struct frame *f,
			 uint64_t now_ns)
{
	struct frame_flow_close m;
	struct session *s;
	int err = frame_get_flow_close(f, &m);

	if (err < 0)
		return err;
	s = flow_known(t, o, m.flow);
	if (s)
		session_close(t, s, &m, now_ns);
	return 0;
}

int sessions_frame(struct sessions *t, struct session_origin *o, const struct frame *f,
		   uint64_t now_ns)
{
	switch (f->type) {
	case FRAME_FLOW_OPEN:
		return on_flow_open(t, o, f, now_ns);
	case FRAME_DATA:
		return on_data(t, o, f, now_ns);
	case FRAME_GAP:
		return on_gap(t, o, f, now_ns);
	case FRAME_FLOW_FIN:
		return on_flow_fin(t, o, f, now_ns);
	case FRAME_FLOW_CLOSE:
		return on_flow_close(t, o, f, now_ns);
	default:
		return 0;
	}
}

/* Time. Of anything that may be due for very many at the same moment a bounded number is done at
 * once: frames have to be served in between. What is due lies in queues whose entries all wait
 * equally long, so that the first is due first and no step looks at the others. */

#define POKES_MAX  4096 /* packets, */
#define IDLES_MAX  1024 /* packets and states, */
#define STALLS_MAX 1024
#define MERGES_MAX 4096
#define GONE_MAX   1024

static struct session *session_of_dir(struct session_dir *d)
{
	return (struct session *)(void *)((char *)(d - d->index) - offsetof(struct session, dir));
}

static uint64_t poke_all(struct sessions *t, struct pokes *pokes, uint64_t now_ns)
{
	uint64_t wait_ns;

	for (unsigned i = 0; i < POKES_MAX; i++) {
		struct poke *p = pokes_due(pokes, now_ns, &wait_ns);
		struct session_dir *d;

		if (!p)
			return wait_ns;
		d = (struct session_dir *)(void *)((char *)p - offsetof(struct session_dir, poke));
		session_poke(t, session_of_dir(d), (enum flow_dir)d->index, now_ns);
		counter_inc(&c_pokes);
	}
	return 0;
}

static uint64_t pokes_run(struct sessions *t, uint64_t now_ns)
{
	return poke_all(t, &t->pokes, now_ns);
}

static uint64_t waits_run(struct sessions *t, uint64_t now_ns)
{
	return poke_all(t, &t->waits, now_ns);
}

static uint64_t idle_run(struct sessions *t, uint64_t now_ns)
{
	for (unsigned i = 0; i < IDLES_MAX; i++) {
		struct queue_node *n = queue_first(&t->live);
		struct session *s = n ? queue_entry(n, struct session, order) : NULL;
		uint64_t due_ns = s ? s->active_ns + t->conf.idle_s * NS_PER_S : UINT64_MAX;

		if (due_ns > now_ns)
			return s ? due_ns - now_ns : UINT64_MAX;
		if (!session_is_over(s))
			counter_inc(&c_idled);
		session_give_up(t, s, now_ns);
	}
	return 0;
}

static uint64_t stalls_run(struct sessions *t, uint64_t now_ns)
{
	struct session *s;
	uint64_t next_ns = 0;

	for (unsigned i = 0; i < STALLS_MAX; i++) {
		s = session_stalled(t, now_ns, &next_ns);
		if (!s)
			return next_ns;
		session_merge(t, s, false, now_ns);
	}
	return 0;
}

/* What its flows waited for will not come, or later: other ends speak. Each flow comes last once it
 * was looked at. True when all were. */
static bool origin_lost(struct sessions *t, struct session_origin *o, uint64_t now_ns)
{
	if (!o->lost_ns) {
		o->lost_ns = now_ns;
		o->to_merge = o->n_sessions;
	}
	for (unsigned i = 0; o->to_merge && t->n_pairs && i < MERGES_MAX; i++, o->to_merge--) {
		struct queue_node *n = queue_first(&o->sessions);
		struct session *s, *live;

		if (!n)
			break;
		queue_push(&o->sessions, n);
		s = queue_entry(n, struct session, of_origin);
		live = s->state == SESSION_LIVE ? s : session_twin(s);
		if (live && live->state == SESSION_LIVE)
			session_merge(t, live, true, now_ns);
	}
	if (!t->n_pairs || queue_first(&o->sessions) == NULL)
		o->to_merge = 0;
	return !o->to_merge;
}

static uint64_t losses_run(struct sessions *t, uint64_t now_ns)
{
	bool all = true;

	if (!t->has_lost)
		return UINT64_MAX;
	for (struct hmap_node *n = hmap_any(&t->by_agent, NULL); n; n = hmap_any(&t->by_agent, n)) {
		struct session_origin *o = hmap_entry(n, struct session_origin, by_agent);

		if (o->is_lost && (!o->lost_ns || o->to_merge))
			all = origin_lost(t, o, now_ns) && all;
	}
	t->has_lost = !all;
	return all ? UINT64_MAX : 0;
}

/* Agents that are gone for good. */
static uint64_t gone_run(struct sessions *t, uint64_t now_ns)
{
	struct queue_node *first;
	unsigned i = 0;

	while ((first = queue_first(&t->going)) != NULL) {
		struct session_origin *o = queue_entry(first, struct session_origin, going);
		struct queue_node *n;

		while ((n = queue_first(&o->sessions)) != NULL) {
			if (i++ == GONE_MAX)
				return 0;
			session_abort(t, queue_entry(n, struct session, of_origin), now_ns);
		}
		session_origin_free(t, o);
	}
	return UINT64_MAX;
}

uint64_t sessions_tick(struct sessions *t, uint64_t now_ns)
{
	uint64_t (*const all[])(struct sessions * t, uint64_t now_ns) = {
		pokes_run, waits_run, idle_run, losses_run, gone_run, stalls_run,
	};
	uint64_t wait_ns = UINT64_MAX;

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		uint64_t next_ns = all[i](t, now_ns);

		wait_ns = next_ns < wait_ns ? next_ns : wait_ns;
	}
	session_ghosts_expire(t, now_ns);
	session_memory_tell(t);
	return wait_ns;
}

void sessions_origin_link(struct sessions *t, struct session_origin *o, bool is_up)
{
	o->is_lost = !is_up;
	o->lost_ns = 0;
	o->to_merge = 0;
	t->has_lost = t->has_lost || !is_up;
}

void sessions_origin_gone(struct sessions *t, struct session_origin *o, uint64_t now_ns)
{
	session_origin_leave(t, o);
	(void)gone_run(t, now_ns);
}

void sessions_close_all(struct sessions *t, uint64_t now_ns)
{
	struct queue_node *n;

	while ((n = queue_first(&t->live)) != NULL) {
		struct session *s = queue_entry(n, struct session, order);

		session_give_up(t, s, now_ns);
	}
}
