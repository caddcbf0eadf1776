/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session: frames of all agents in, forge calls and sink messages out. Brings every direction into
 * byte order, turns what is missing into gaps, and sees to it that the IDS never meets two open
 * connections on one tuple, nor one connection twice. Never does I/O, never reads a clock, never
 * loses a byte without counting why.
 *
 * Both ends of a connection may be captured: whichever session sends first is forged, the other is
 * on standby until its own end. There is no take-over when the first one is lost.
 *
 * Here is what happens to a session; which there are and what finds them is session_table.c.
 */
#include "session.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "session_table.h"

static COUNTER_DEFINE(c_flows, "session_flows", "flows announced by agents");
static COUNTER_DEFINE(c_forged, "session_handshakes", "connections opened towards the sinks");
static COUNTER_DEFINE(c_bytes, "session_bytes", "plaintext bytes forged");
static COUNTER_DEFINE(c_gap, "session_bytes_gap", "bytes shown to the sinks as sequence gaps");
static COUNTER_DEFINE(c_gap_unannounced, "session_bytes_gap_unannounced",
		      "part of session_bytes_gap that no agent announced");
static COUNTER_DEFINE(c_duplicate, "session_bytes_duplicate", "bytes received again, not forged");
static COUNTER_DEFINE(c_standby, "session_bytes_standby",
		      "bytes of a connection that is forged from its other end");
static COUNTER_DEFINE(c_lost_tuple, "session_bytes_lost_tuple_conflict",
		      "bytes of a connection whose tuple a newer one took");
static COUNTER_DEFINE(c_lost_transport, "session_bytes_lost_transport",
		      "bytes of a transport that is not TCP");
static COUNTER_DEFINE(c_lost_fin, "session_bytes_lost_after_fin",
		      "bytes after the direction's end");
static COUNTER_DEFINE(c_lost_unknown, "session_bytes_lost_unknown_flow",
		      "bytes of a flow that is not in the table");
static COUNTER_DEFINE(c_lost_memory, "session_bytes_lost_memory", "bytes lost for want of memory");
static COUNTER_DEFINE(c_frames_unknown, "session_frames_unknown_flow",
		      "frames for a flow that is not in the table");
static COUNTER_DEFINE(c_reopened, "session_opens_repeated", "flows announced again");
static COUNTER_DEFINE(c_no_memory, "session_opens_lost_memory", "flows refused for want of memory");
static COUNTER_DEFINE(c_conflicts, "session_tuple_conflicts",
		      "connections reset because a newer one took the tuple");
static COUNTER_DEFINE(c_lanes, "session_tuple_lanes",
		      "connections forged with a VLAN tag, their tuple being in use elsewhere");
static COUNTER_DEFINE(c_evicted, "session_evicted", "sessions dropped at the table's limit");
static COUNTER_DEFINE(c_idled, "session_idle_resets", "connections reset because they were idle");
static COUNTER_DEFINE(c_pokes, "session_pokes",
		      "repeated acknowledgements that make an IDS inspect");

#define SESSION_LANES 64 /* one tuple at the same time: untagged, and VLANs 1 to 63 */

static enum flow_dir peer_of(enum flow_dir dir)
{
	return dir == FLOW_C2S ? FLOW_S2C : FLOW_C2S;
}

static struct session *session_of_dir(struct session_dir *d)
{
	return (struct session *)(void *)((char *)(d - d->index) - offsetof(struct session, dir));
}

/* Where the bytes of a session are counted that cannot be forged; NULL when they can. */
static struct counter *session_silenced(const struct session *s)
{
	switch ((enum session_state)s->state) {
	case SESSION_STANDBY:
		return &c_standby;
	case SESSION_DISPLACED:
		return &c_lost_tuple;
	case SESSION_FOREIGN:
		return &c_lost_transport;
	case SESSION_QUIET:
	case SESSION_LIVE:
		break;
	}
	return NULL;
}

/* Emission */

static struct outlet_flow outlet_flow_of(const struct session *s)
{
	return (struct outlet_flow){
		.who = {.open = &s->open, .host = s->origin->host},
		.incarnation = s->incarnation,
		.lane = s->lane,
	};
}

/* Both sides have ended it: nothing more is to be told. */
static bool session_is_over(const struct session *s)
{
	return s->dir[FLOW_C2S].fin && s->dir[FLOW_S2C].fin;
}

/* What happens at ts_ns happens then, or when the last thing happened. */
static uint64_t time_forward(struct session *s, uint64_t ts_ns)
{
	if (ts_ns > s->last_ts_ns)
		s->last_ts_ns = ts_ns;
	return s->last_ts_ns;
}

/* The flow's own time now, for packets that no frame caused. */
static uint64_t flow_time(const struct session *s, uint64_t now_ns)
{
	uint64_t passed = now_ns > s->active_ns ? now_ns - s->active_ns : 0;

	return s->active_ts_ns + passed;
}

static void poke_arm(struct sessions *t, struct session *s, enum flow_dir dir, uint64_t now_ns)
{
	s->dir[dir].poke_ns = now_ns + t->conf.poke_ms * NS_PER_MS;
	queue_push(&t->pokes, &s->dir[dir].poke);
}

/* A side that has sent a packet since needs no poke any more. sent: OUTLET_SENT bits. */
static void pokes_settle(struct session *s, unsigned sent)
{
	for (int d = 0; d < 2; d++) {
		if (sent & OUTLET_SENT(d) && queue_is_in(&s->dir[d].poke))
			queue_remove(&s->dir[d].poke);
	}
}

/* After bytes of one direction went out. */
static void sent_now(struct sessions *t, struct session *s, enum flow_dir dir, unsigned sent,
		     uint64_t now_ns)
{
	s->active_ts_ns = s->last_ts_ns;
	pokes_settle(s, sent);
	poke_arm(t, s, dir, now_ns);
}

static void fin_tell(struct sessions *t, struct session *s, enum flow_dir dir, uint64_t ts_ns)
{
	struct outlet_flow flow = outlet_flow_of(s);

	pokes_settle(s, outlets_fin(&t->outlets, s->tail, &flow, dir, time_forward(s, ts_ns)));
}

static void session_fin(struct sessions *t, struct session *s, enum flow_dir dir, uint64_t ts_ns)
{
	if (s->dir[dir].fin)
		return;
	s->dir[dir].fin = true;
	if (s->state == SESSION_LIVE) /* else told when the connection is opened, if ever */
		fin_tell(t, s, dir, ts_ns);
}

/* Leaves the tuple free and the session in `state`. */
static void session_reset(struct sessions *t, struct session *s, enum flow_dir dir, uint64_t ts_ns,
			  enum session_state state)
{
	struct outlet_flow flow = outlet_flow_of(s);

	if (s->state == SESSION_LIVE && !session_is_over(s))
		outlets_rst(&t->outlets, s->tail, &flow, dir, time_forward(s, ts_ns));
	session_enter(t, s, state);
}

/* For ends that no frame told: the captured end resets. */
static void session_abort(struct sessions *t, struct session *s, uint64_t now_ns)
{
	session_reset(t, s, s->open.captured_end, flow_time(s, now_ns), SESSION_QUIET);
	session_drop(t, s);
}

/* Opening towards the sinks */

/*
 * The same connection seen again is its other end, on standby; but an agent that was restarted sees
 * the same end late, while its former self has not been given up yet: then the new one goes on.
 */
static bool is_other_end(const struct session *s, const struct session *owner)
{
	bool late = (s->open.flags & (FLOW_OPEN_LATE | FLOW_OPEN_RESUMED)) != 0;

	if (memcmp(s->open.session, owner->open.session, 16) != 0)
		return false;
	return s->open.captured_end != owner->open.captured_end || s->origin == owner->origin ||
	       !late;
}

static void owner_displace(struct sessions *t, struct session *owner, struct session *s,
			   uint64_t ts_ns)
{
	uint64_t end_ns = owner->last_ts_ns > ts_ns ? owner->last_ts_ns : ts_ns;

	session_reset(t, owner, owner->open.captured_end, end_ns, SESSION_DISPLACED);
	/* One tuple is one flow to the IDS: its end must not be later than the new beginning. */
	(void)time_forward(s, end_ns);
	if (s->incarnation < owner->incarnation)
		s->incarnation = owner->incarnation;
	counter_inc(&c_conflicts);
}

/*
 * Private addresses exist many times: in each network namespace, on each host. An agent knows its
 * own sockets; of two hosts it is certain only when both have the same end of the tuple.
 */
static bool is_elsewhere(const struct session *s, const struct session *owner)
{
	if (memcmp(s->open.session, owner->open.session, 16) == 0)
		return false;
	if (s->origin == owner->origin)
		return s->open.netns != owner->open.netns;
	return s->open.captured_end == owner->open.captured_end &&
	       (s->open.netns != owner->open.netns ||
		strcmp(s->origin->host, owner->origin->host) != 0);
}

/*
 * Such connections at the same time are one flow to an IDS unless something tells them apart: all
 * but the first get a VLAN tag. Returns the owner of the chosen lane, which s has to displace or to
 * stand by; NULL when the lane is free.
 */
static struct session *choose_lane(const struct sessions *t, struct session *s)
{
	struct session *owner;

	for (s->lane = 0; s->lane < SESSION_LANES; s->lane++) {
		owner = session_tuple_owner(t, s);
		if (!owner || is_other_end(s, owner) || !is_elsewhere(s, owner))
			return owner;
	}
	s->lane = 0;
	return session_tuple_owner(t, s);
}

/* The tuple becomes ours: LIVE, or STANDBY when its connection is already told. 0 or -ENOMEM. */
static int tuple_acquire(struct sessions *t, struct session *s, uint64_t ts_ns)
{
	struct session *owner = choose_lane(t, s);

	if ((owner && is_other_end(s, owner)) || (s->incarnation == 0 && session_has_ghost(t, s))) {
		session_enter(t, s, SESSION_STANDBY);
		return 0;
	}
	if (owner)
		owner_displace(t, owner, s, ts_ns);
	if (s->lane)
		counter_inc(&c_lanes);
	return session_enter_live(t, s);
}

/* Handshake, and the ends that were told before any byte. */
static void session_handshake(struct sessions *t, struct session *s, uint64_t ts_ns)
{
	struct outlet_flow flow = outlet_flow_of(s);

	outlets_begin(&t->outlets, s->tail, &flow, time_forward(s, ts_ns));
	counter_inc(&c_forged);
	for (int d = 0; d < 2; d++) {
		if (s->dir[d].fin)
			fin_tell(t, s, (enum flow_dir)d, ts_ns);
	}
}

/* True when bytes of this session can be forged now; otherwise len bytes are counted. */
static bool session_ready(struct sessions *t, struct session *s, enum flow_dir dir, uint64_t len,
			  uint64_t ts_ns)
{
	struct counter *silenced = session_silenced(s);

	if (!silenced && s->dir[dir].fin)
		silenced = &c_lost_fin;
	if (!silenced && s->state == SESSION_QUIET) {
		if (tuple_acquire(t, s, ts_ns) < 0)
			silenced = &c_lost_memory;
		else if (s->state == SESSION_LIVE)
			session_handshake(t, s, ts_ns);
		else
			silenced = session_silenced(s);
	}
	if (silenced)
		counter_add(silenced, len);
	return !silenced;
}

/* Byte order */

/* Offsets count from 0, unless the first one we see may be anywhere. */
static void dir_start(struct session *s, enum flow_dir dir, uint64_t offset)
{
	if (s->dir[dir].started)
		return;
	s->dir[dir].started = true;
	if (s->open.flags & (FLOW_OPEN_LATE | FLOW_OPEN_RESUMED))
		s->dir[dir].expected = offset;
}

static void session_skip(struct sessions *t, struct session *s, enum flow_dir dir, uint64_t len,
			 uint64_t ts_ns, uint64_t now_ns)
{
	struct outlet_flow flow = outlet_flow_of(s);
	unsigned sent;

	sent = outlets_gap(&t->outlets, s->tail, &flow, dir, len, time_forward(s, ts_ns));
	s->dir[dir].expected += len;
	counter_add(&c_gap, len);
	sent_now(t, s, dir, sent, now_ns);
}

static void session_forge(struct sessions *t, struct session *s, const struct frame_data *m,
			  uint64_t now_ns)
{
	struct outlet_flow flow = outlet_flow_of(s);
	uint64_t ts_ns = time_forward(s, m->ts_ns);
	enum flow_dir dir = (enum flow_dir)m->dir;
	bool end = (m->flags & FRAME_DATA_END) != 0;
	unsigned sent;

	sinks_message(t->sinks, &flow.who, dir, m->bytes, end, ts_ns);
	sent = outlets_data(&t->outlets, s->tail, &flow, dir, m->bytes, end, ts_ns);
	s->dir[dir].expected += m->bytes.len;
	counter_add(&c_bytes, m->bytes.len);
	sent_now(t, s, dir, sent, now_ns);
}

/* Cuts off what has been seen before. The number of bytes that remain. */
static uint64_t trim_seen(const struct session *s, enum flow_dir dir, uint64_t *offset,
			  uint64_t len)
{
	uint64_t seen = s->dir[dir].expected > *offset ? s->dir[dir].expected - *offset : 0;

	if (seen > len)
		seen = len;
	*offset += seen;
	return len - seen;
}

static void session_data(struct sessions *t, struct session *s, struct frame_data *m,
			 uint64_t now_ns)
{
	struct session_dir *d = &s->dir[m->dir];
	uint64_t len;

	if (!session_silenced(s) && !d->fin) {
		dir_start(s, m->dir, m->offset);
		len = trim_seen(s, m->dir, &m->offset, m->bytes.len);
		counter_add(&c_duplicate, m->bytes.len - len);
		m->bytes = span_of(m->bytes.p + (m->bytes.len - len), len);
		if (len == 0)
			return;
	}
	session_touch(t, s, now_ns);
	if (!session_ready(t, s, m->dir, m->bytes.len, m->ts_ns))
		return;
	if (m->offset > d->expected) {
		counter_add(&c_gap_unannounced, m->offset - d->expected);
		session_skip(t, s, m->dir, m->offset - d->expected, m->ts_ns, now_ns);
	}
	session_forge(t, s, m, now_ns);
}

static void session_gap(struct sessions *t, struct session *s, const struct frame_gap *m,
			uint64_t now_ns)
{
	struct session_dir *d = &s->dir[m->dir];
	uint64_t offset = m->offset, len;

	if (session_silenced(s) || d->fin)
		return; /* bytes that nobody has and nobody would be shown */
	dir_start(s, m->dir, m->offset);
	len = trim_seen(s, m->dir, &offset, m->len);
	if (len == 0)
		return;
	session_touch(t, s, now_ns);
	if (!session_ready(t, s, m->dir, 0, m->ts_ns))
		return;
	counter_add(&c_gap_unannounced, offset - d->expected);
	session_skip(t, s, m->dir, offset + len - d->expected, m->ts_ns, now_ns);
}

static void session_close(struct sessions *t, struct session *s, const struct frame_flow_close *m,
			  uint64_t now_ns)
{
	enum flow_dir captured = s->open.captured_end;
	bool told = s->state == SESSION_LIVE;
	bool was_over = session_is_over(s);

	switch ((enum flow_end)m->end) {
	case FLOW_END_FIN:
		session_fin(t, s, captured, m->ts_ns);
		session_fin(t, s, peer_of(captured), m->ts_ns);
		break;
	case FLOW_END_RST_C2S:
		session_reset(t, s, FLOW_C2S, m->ts_ns, SESSION_QUIET);
		break;
	case FLOW_END_RST_S2C:
		session_reset(t, s, FLOW_S2C, m->ts_ns, SESSION_QUIET);
		break;
	case FLOW_END_EXIT:
		session_reset(t, s, captured, m->ts_ns, SESSION_QUIET);
		break;
	case FLOW_END_IDLE:
	case FLOW_END_SHED:
	case FLOW_END_AGENT:
		session_reset(t, s, captured, m->ts_ns, SESSION_QUIET);
		told = told && was_over; /* else it may live on and be announced again */
		break;
	}
	if (told)
		session_ghost_leave(t, s, now_ns);
	session_drop(t, s);
}

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
	if (t->count >= t->conf.max_sessions)
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

static int on_flow_fin(struct sessions *t, struct session_origin *o, const struct frame *f)
{
	struct frame_flow_fin m;
	struct session *s;
	int err = frame_get_flow_fin(f, &m);

	if (err < 0)
		return err;
	s = flow_known(t, o, m.flow);
	if (s)
		session_fin(t, s, m.dir, m.ts_ns);
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
		return on_flow_fin(t, o, f);
	case FRAME_FLOW_CLOSE:
		return on_flow_close(t, o, f, now_ns);
	default:
		return 0;
	}
}

/* Time */

static void poke_due(struct sessions *t, struct session *s, enum flow_dir dir, uint64_t now_ns)
{
	struct outlet_flow flow = outlet_flow_of(s);

	queue_remove(&s->dir[dir].poke);
	if (!session_is_over(s))
		pokes_settle(s, outlets_poke(&t->outlets, s->tail, &flow, dir,
					     time_forward(s, flow_time(s, now_ns))));
	counter_inc(&c_pokes);
}

static uint64_t pokes_run(struct sessions *t, uint64_t now_ns)
{
	struct queue_node *n;

	while ((n = queue_first(&t->pokes)) != NULL) {
		struct session_dir *d = queue_entry(n, struct session_dir, poke);

		if (d->poke_ns > now_ns)
			return d->poke_ns - now_ns;
		poke_due(t, session_of_dir(d), (enum flow_dir)d->index, now_ns);
	}
	return UINT64_MAX;
}

static uint64_t idle_run(struct sessions *t, uint64_t now_ns)
{
	struct queue_node *n;

	while ((n = queue_first(&t->live)) != NULL) {
		struct session *s = queue_entry(n, struct session, order);
		uint64_t due_ns = s->active_ns + t->conf.idle_s * NS_PER_S;

		if (due_ns > now_ns)
			return due_ns - now_ns;
		if (!session_is_over(s))
			counter_inc(&c_idled);
		session_reset(t, s, s->open.captured_end, flow_time(s, now_ns), SESSION_QUIET);
	}
	return UINT64_MAX;
}

uint64_t sessions_tick(struct sessions *t, uint64_t now_ns)
{
	uint64_t poke = pokes_run(t, now_ns), idle = idle_run(t, now_ns);

	session_ghosts_expire(t, now_ns);
	return poke < idle ? poke : idle;
}

void sessions_origin_gone(struct sessions *t, struct session_origin *o, uint64_t now_ns)
{
	struct queue_node *n;

	while ((n = queue_first(&o->sessions)) != NULL)
		session_abort(t, queue_entry(n, struct session, of_origin), now_ns);
	session_origin_free(t, o);
}

void sessions_close_all(struct sessions *t, uint64_t now_ns)
{
	struct queue_node *n;

	while ((n = queue_first(&t->live)) != NULL) {
		struct session *s = queue_entry(n, struct session, order);

		session_reset(t, s, s->open.captured_end, flow_time(s, now_ns), SESSION_QUIET);
	}
}
