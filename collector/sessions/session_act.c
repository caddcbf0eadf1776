/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session_act: what agents tell of one session → what the outlets and sinks are told of its
 * connection. Brings every direction into byte order, turns what is missing into gaps, and sees to
 * it that the IDS never meets two open connections on one tuple, nor one connection twice. Never
 * loses a byte without counting why.
 *
 * Both ends of a connection may be captured: whichever session sends first is forged, the other is
 * on standby, and speaks where the first has a hole, is too slow, or is lost.
 */
#include "sessions/session_act.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "sessions/session_pair.h"

static COUNTER_DEFINE(c_forged, "session_handshakes", "connections opened towards the sinks");
static COUNTER_DEFINE(c_bytes, "session_bytes", "plaintext bytes forged");
static COUNTER_DEFINE(c_gap, "session_bytes_gap", "bytes shown to the sinks as sequence gaps");
static COUNTER_DEFINE(c_gap_unannounced, "session_bytes_gap_unannounced",
		      "part of session_bytes_gap that no agent announced");
static COUNTER_DEFINE(c_duplicate, "session_bytes_duplicate", "bytes received again, not forged");
static COUNTER_DEFINE(c_lost_tuple, "session_bytes_lost_tuple_conflict",
		      "bytes of a connection whose tuple a newer one took");
static COUNTER_DEFINE(c_lost_transport, "session_bytes_lost_transport",
		      "bytes of a transport that is not TCP");
static COUNTER_DEFINE(c_lost_fin, "session_bytes_lost_after_fin",
		      "bytes after the direction's end");
static COUNTER_DEFINE(c_lost_memory, "session_bytes_lost_memory", "bytes lost for want of memory");
static COUNTER_DEFINE(c_conflicts, "session_tuple_conflicts",
		      "connections reset because a newer one took the tuple");
static COUNTER_DEFINE(c_lanes, "session_tuple_lanes",
		      "connections forged with a VLAN tag, their tuple being in use elsewhere");

#define LOST_NS       (3 * NS_PER_S) /* a link may come back */
#define SESSION_LANES 64             /* one tuple at the same time: untagged, and VLANs 1 to 63 */

static enum flow_dir peer_of(enum flow_dir dir)
{
	return dir == FLOW_C2S ? FLOW_S2C : FLOW_C2S;
}

/* Where the bytes of a session are counted that cannot be forged; NULL when they can, or could. */
static struct counter *session_silenced(const struct session *s)
{
	switch ((enum session_state)s->state) {
	case SESSION_DISPLACED:
		return &c_lost_tuple;
	case SESSION_FOREIGN:
		return &c_lost_transport;
	case SESSION_STANDBY:
	case SESSION_QUIET:
	case SESSION_LIVE:
		break;
	}
	return NULL;
}

/* Emission */

/* Borrows `open`, which is filled. */
static struct outlet_flow outlet_flow_of(const struct session *s, struct frame_flow_open *open)
{
	session_opened(s, open);
	return (struct outlet_flow){
		.who = {.open = open, .host = s->origin->host},
		.incarnation = s->incarnation,
		.lane = s->lane,
	};
}

bool session_is_over(const struct session *s)
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
	session_poke_cancel(t, &s->dir[dir]);
	pokes_add(&t->pokes, &s->dir[dir].poke, now_ns + t->conf.poke_ms * NS_PER_MS);
}

/* A side that has sent a packet since needs no poke any more. sent: OUTLET_SENT bits. */
static void pokes_settle(struct sessions *t, struct session *s, unsigned sent)
{
	for (int d = 0; d < 2; d++) {
		if (sent & OUTLET_SENT(d))
			session_poke_cancel(t, &s->dir[d]);
	}
}

/* After bytes of one direction went out. */
static void sent_now(struct sessions *t, struct session *s, enum flow_dir dir, unsigned sent,
		     uint64_t now_ns)
{
	s->active_ts_ns = s->last_ts_ns;
	pokes_settle(t, s, sent);
	poke_arm(t, s, dir, now_ns);
}

static void fin_tell(struct sessions *t, struct session *s, enum flow_dir dir, uint64_t ts_ns)
{
	struct frame_flow_open open;
	struct outlet_flow flow = outlet_flow_of(s, &open);

	pokes_settle(t, s, outlets_fin(&t->outlets, s->tail, &flow, dir, time_forward(s, ts_ns)));
}

static void session_fin(struct sessions *t, struct session *s, enum flow_dir dir, uint64_t ts_ns)
{
	if (s->dir[dir].fin)
		return;
	s->dir[dir].fin = true;
	session_pair_passed(t, s, dir, UINT64_MAX); /* what lies beyond is told by nobody */
	if (s->state == SESSION_LIVE) /* else told when the connection is opened, if ever */
		fin_tell(t, s, dir, ts_ns);
}

/* Leaves the tuple free and the session in `state`. */
static void session_reset(struct sessions *t, struct session *s, enum flow_dir dir, uint64_t ts_ns,
			  enum session_state state)
{
	struct frame_flow_open open;
	struct outlet_flow flow = outlet_flow_of(s, &open);

	if (s->state == SESSION_LIVE && !session_is_over(s))
		outlets_rst(&t->outlets, s->tail, &flow, dir, time_forward(s, ts_ns));
	session_enter(t, s, state);
}

/* The other end of a connection that was reset, and lives: what it tells is another one to the IDS.
 */
static void twin_set_free(struct sessions *t, struct session *s)
{
	struct session *twin = session_twin(s);

	if (twin && session_has_closed(twin)) {
		session_drop(t, twin);
		return;
	}
	session_unpair(t, s);
	if (!twin)
		return;
	(void)time_forward(twin, s->last_ts_ns);
	if (twin->incarnation < s->incarnation)
		twin->incarnation = s->incarnation;
	session_enter(t, twin, SESSION_QUIET);
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
	struct session *twin = session_twin(owner);

	session_reset(t, owner, owner->open.captured_end, end_ns, SESSION_DISPLACED);
	if (twin && session_has_closed(twin)) /* nothing would end it any more */
		session_drop(t, twin);
	session_unpair(t, owner);
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

	if (owner && is_other_end(s, owner))
		session_pair(t, s, owner);
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
	struct frame_flow_open open;
	struct outlet_flow flow = outlet_flow_of(s, &open);

	outlets_begin(&t->outlets, s->tail, &flow, time_forward(s, ts_ns));
	counter_inc(&c_forged);
	for (int d = 0; d < 2; d++) {
		if (s->dir[d].fin)
			fin_tell(t, s, (enum flow_dir)d, ts_ns);
	}
}

/* Byte order */

/* Offsets count from 0, unless the first one we see may be anywhere. */
static bool may_start_anywhere(const struct session *s, enum flow_dir dir)
{
	return !s->dir[dir].started && s->open.flags & (FLOW_OPEN_LATE | FLOW_OPEN_RESUMED);
}

static void dir_start(struct session *s, enum flow_dir dir, uint64_t offset)
{
	if (may_start_anywhere(s, dir))
		s->dir[dir].expected = offset;
	s->dir[dir].started = true;
}

/* When something happens: in the connection's own time, and in ours. */
struct moment {
	uint64_t ts_ns, now_ns;
};

static void session_skip(struct sessions *t, struct session *s, enum flow_dir dir, uint64_t len,
			 const struct moment *m)
{
	struct frame_flow_open open;
	struct outlet_flow flow = outlet_flow_of(s, &open);
	unsigned sent;

	sent = outlets_gap(&t->outlets, s->tail, &flow, dir, len, time_forward(s, m->ts_ns));
	s->dir[dir].expected += len;
	s->dir[dir].started = true;
	session_pair_passed(t, s, dir, s->dir[dir].expected);
	counter_add(&c_gap, len);
	sent_now(t, s, dir, sent, m->now_ns);
}

/* The next bytes of the LIVE `s`; source: whose they are. */
static void session_forge(struct sessions *t, struct session *s, struct session *source,
			  const struct spare_part *part, const struct moment *m)
{
	struct frame_flow_open open;
	struct outlet_flow flow = outlet_flow_of(s, &open);
	uint64_t ts_ns = time_forward(s, m->ts_ns), len = part->bytes.len;
	enum flow_dir dir = part->dir;
	unsigned sent;

	sinks_message(t->sinks, &flow.who, dir, part->bytes, part->end, ts_ns);
	sent = outlets_data(&t->outlets, s->tail, &flow, dir, part->bytes, part->end, ts_ns);
	s->dir[dir].expected += len;
	s->dir[dir].started = true;
	session_pair_told(t, s, source, part);
	counter_add(&c_bytes, len);
	if (source != s)
		session_touch(t, s, m->now_ns);
	sent_now(t, s, dir, sent, m->now_ns);
}

/* Both ends of one connection */

static bool is_live(const struct session *s)
{
	return s && s->state == SESSION_LIVE;
}

/* The end of a direction waits for what lies before it. */
static void fins_tell(struct sessions *t, struct session *s)
{
	for (int d = 0; d < 2; d++) {
		enum flow_dir dir = (enum flow_dir)d;

		if (session_has_fin(s, dir) && !session_is_ahead(s, dir) &&
		    !session_has_more(s, dir))
			session_fin(t, s, dir, s->last_ts_ns);
	}
}

void session_merge(struct sessions *t, struct session *s, bool waits, uint64_t now_ns)
{
	struct session_step step;

	while (session_next_step(s, waits, &step)) {
		struct moment m = {.ts_ns = s->last_ts_ns, .now_ns = now_ns};

		if (step.gap && may_start_anywhere(s, step.dir)) {
			s->dir[step.dir].expected += step.gap;
			continue;
		}
		if (step.gap) {
			session_skip(t, s, step.dir, step.gap, &m);
			continue;
		}
		m.ts_ns = step.part.ts_ns + (uint64_t)session_skew_ns(step.source);
		session_forge(t, s, step.source, &step.part, &m);
	}
	fins_tell(t, s);
}

/* What ends */

/* The end of a session in any state but STANDBY. */
static void close_told(struct sessions *t, struct session *s, enum flow_end how, uint64_t ts_ns,
		       uint64_t now_ns)
{
	enum flow_dir captured = s->open.captured_end;
	bool told = s->state == SESSION_LIVE;
	bool was_over = session_is_over(s);

	switch (how) {
	case FLOW_END_FIN:
		session_fin(t, s, captured, ts_ns);
		session_fin(t, s, peer_of(captured), ts_ns);
		break;
	case FLOW_END_RST_C2S:
		session_reset(t, s, FLOW_C2S, ts_ns, SESSION_QUIET);
		break;
	case FLOW_END_RST_S2C:
		session_reset(t, s, FLOW_S2C, ts_ns, SESSION_QUIET);
		break;
	case FLOW_END_EXIT:
		session_reset(t, s, captured, ts_ns, SESSION_QUIET);
		break;
	case FLOW_END_IDLE:
	case FLOW_END_SHED:
	case FLOW_END_AGENT:
		session_reset(t, s, captured, ts_ns, SESSION_QUIET);
		told = told && was_over; /* else it may live on and be announced again */
		if (!was_over)
			twin_set_free(t, s);
		break;
	}
	if (told)
		session_ghost_leave(t, s, now_ns);
	session_drop(t, s);
}

static bool is_given_up(enum flow_end how)
{
	return how == FLOW_END_IDLE || how == FLOW_END_SHED || how == FLOW_END_AGENT;
}

/*
 * The LIVE session has ended by its own account. What it lacks, and the end, may come from the
 * other one: then that is LIVE now.
 */
static void live_close(struct sessions *t, struct session *s, enum flow_end how,
		       const struct moment *m)
{
	struct session *heir = session_is_over(s) ? NULL : session_heir(s);
	bool lacks = session_has_any_more(s) || session_is_ahead(s, FLOW_C2S) ||
		     session_is_ahead(s, FLOW_S2C);
	uint64_t ts_ns = m->ts_ns;

	session_said_close(s, how, m->ts_ns);
	session_merge(t, s, true, m->now_ns);
	if (heir && !session_has_closed(heir) &&
	    (is_given_up(how) || (lacks && !heir->origin->is_lost))) {
		session_swap(t, s, heir);
		if (!session_has_any_more(heir))
			session_drop(t, s);
		session_merge(t, heir, true, m->now_ns);
		return;
	}
	session_merge(t, s, false, m->now_ns);
	if (heir && is_given_up(how))
		how = session_closed_how(heir, &ts_ns);
	close_told(t, s, how, ts_ns, m->now_ns);
}

/* An agent was started anew: what its former self told goes on from the other end, not from here.
 */
static void heir_goes_on(struct sessions *t, struct session *s, uint64_t now_ns)
{
	struct session *owner = choose_lane(t, s), *heir = owner ? session_heir(owner) : NULL;

	if (!heir || is_other_end(s, owner) || !is_other_end(s, heir) || session_is_over(owner) ||
	    session_has_closed(heir))
		return;
	session_swap(t, owner, heir);
	session_merge(t, heir, true, now_ns);
}

/*
 * True when bytes of this session can be forged now, or kept because it is on standby; otherwise
 * len bytes are counted.
 */
static bool session_ready(struct sessions *t, struct session *s, enum flow_dir dir, uint64_t len,
			  uint64_t ts_ns, uint64_t now_ns)
{
	struct counter *silenced = session_silenced(s);

	if (!silenced && s->dir[dir].fin && s->state != SESSION_STANDBY)
		silenced = &c_lost_fin;
	if (!silenced && s->state == SESSION_QUIET) {
		heir_goes_on(t, s, now_ns);
		if (tuple_acquire(t, s, ts_ns) < 0)
			silenced = &c_lost_memory;
		else if (s->state == SESSION_LIVE)
			session_handshake(t, s, ts_ns);
	}
	if (silenced)
		counter_add(silenced, len);
	return !silenced;
}

/* Without what has been told before, which is counted. */
static struct spare_part cut_seen(const struct session *s, const struct spare_part *all)
{
	uint64_t expected = s->dir[all->dir].expected;
	uint64_t seen = expected > all->offset ? expected - all->offset : 0;
	struct spare_part part = *all;

	if (seen > all->bytes.len)
		seen = all->bytes.len;
	part.offset += seen;
	part.bytes = span_of(all->bytes.p + seen, all->bytes.len - seen);
	counter_add(&c_duplicate, seen);
	return part;
}

/* What the LIVE end tells goes on at once, unless it has a hole that the other end may fill. */
static void live_data(struct sessions *t, struct session *s, const struct spare_part *all,
		      uint64_t now_ns)
{
	struct moment m = {.ts_ns = all->ts_ns + (uint64_t)session_skew_ns(s), .now_ns = now_ns};
	struct session_dir *d = &s->dir[all->dir];
	struct spare_part part = cut_seen(s, all);

	if (part.bytes.len && session_heir(s) &&
	    (part.offset > d->expected || session_is_ahead(s, part.dir))) {
		bool is_kept = session_keep(t, s, &part);

		session_merge(t, s, is_kept, now_ns); /* without room nobody is waited for */
		if (is_kept)
			return;
		part = cut_seen(s, &part);
	}
	if (d->fin)
		counter_add(&c_lost_fin, part.bytes.len);
	if (d->fin || part.bytes.len == 0)
		return;
	if (part.offset > d->expected) {
		counter_add(&c_gap_unannounced, part.offset - d->expected);
		session_skip(t, s, part.dir, part.offset - d->expected, &m);
	}
	session_forge(t, s, s, &part, &m);
	if (session_twin(s))
		session_merge(t, s, true, now_ns);
}

/* The LIVE end is lost, and what this one tells has no place in what that told: it begins anew. */
static void leave_lost(struct sessions *t, struct session *s, uint64_t now_ns)
{
	struct session *live = session_heir(s) ? NULL : session_twin(s);

	if (is_live(live) && live->origin->lost_ns && now_ns - live->origin->lost_ns > LOST_NS)
		session_give_up(t, live, now_ns);
}

static void standby_data(struct sessions *t, struct session *s, const struct spare_part *part,
			 uint64_t now_ns)
{
	struct session *live = session_twin(s);

	(void)session_keep(t, s, part);
	if (is_live(live))
		session_merge(t, live, !session_is_outrun(live), now_ns);
}

void session_data(struct sessions *t, struct session *s, const struct frame_data *m,
		  uint64_t now_ns)
{
	struct spare_part part = {
		.dir = (enum flow_dir)m->dir,
		.offset = m->offset,
		.bytes = m->bytes,
		.end = m->flags & FRAME_DATA_END,
		.ts_ns = m->ts_ns,
		.arrived_ns = now_ns,
	};

	if (!session_silenced(s) && !s->dir[m->dir].fin)
		dir_start(s, part.dir, m->offset);
	session_touch(t, s, now_ns);
	leave_lost(t, s, now_ns);
	if (!session_ready(t, s, part.dir, part.bytes.len, m->ts_ns, now_ns))
		return;
	if (s->state == SESSION_LIVE)
		live_data(t, s, &part, now_ns);
	else
		standby_data(t, s, &part, now_ns);
}

static void live_gap(struct sessions *t, struct session *s, const struct frame_gap *m,
		     uint64_t now_ns)
{
	struct moment at = {.ts_ns = m->ts_ns + (uint64_t)session_skew_ns(s), .now_ns = now_ns};
	enum flow_dir dir = (enum flow_dir)m->dir;
	uint64_t expected = s->dir[dir].expected, end = m->offset + m->len;

	session_said(s, dir, end);
	if (session_heir(s)) {
		session_merge(t, s, true, now_ns);
	} else if (end > expected) {
		counter_add(&c_gap_unannounced, m->offset > expected ? m->offset - expected : 0);
		session_skip(t, s, dir, end - expected, &at);
	}
}

void session_gap(struct sessions *t, struct session *s, const struct frame_gap *m, uint64_t now_ns)
{
	enum flow_dir dir = (enum flow_dir)m->dir;
	struct session *live;

	if (session_silenced(s) || (s->dir[dir].fin && s->state != SESSION_STANDBY))
		return; /* bytes that nobody has and nobody would be shown */
	dir_start(s, dir, m->offset);
	session_touch(t, s, now_ns);
	if (!session_ready(t, s, dir, 0, m->ts_ns, now_ns))
		return;
	live = session_twin(s);
	if (s->state == SESSION_LIVE) {
		live_gap(t, s, m, now_ns);
		return;
	}
	session_said(s, dir, m->offset + m->len);
	if (is_live(live))
		session_merge(t, live, true, now_ns);
}

void session_told_fin(struct sessions *t, struct session *s, const struct frame_flow_fin *m,
		      uint64_t now_ns)
{
	struct session *live = is_live(s) ? s : session_twin(s);
	enum flow_dir dir = (enum flow_dir)m->dir;

	session_said_fin(s, dir);
	if (is_live(s))
		(void)time_forward(s, m->ts_ns + (uint64_t)session_skew_ns(s));
	if (session_heir(s) && is_live(live))
		session_merge(t, live, true, now_ns);
	else
		session_fin(t, s, dir, m->ts_ns + (uint64_t)session_skew_ns(s));
}

/* What the other end waited for does not come any more. */
static void standby_drop(struct sessions *t, struct session *s, uint64_t now_ns)
{
	struct session *live = session_twin(s);

	session_drop(t, s);
	if (is_live(live))
		session_merge(t, live, true, now_ns);
}

static void standby_close(struct sessions *t, struct session *s, enum flow_end how, uint64_t ts_ns,
			  uint64_t now_ns)
{
	struct session *live = session_heir(s);

	session_said_close(s, how, ts_ns);
	if (is_live(live))
		session_merge(t, live, true, now_ns);
	if (!is_live(live) || !session_has_any_more(live))
		standby_drop(t, s, now_ns);
}

void session_close(struct sessions *t, struct session *s, const struct frame_flow_close *m,
		   uint64_t now_ns)
{
	struct moment at = {.ts_ns = m->ts_ns + (uint64_t)session_skew_ns(s), .now_ns = now_ns};
	enum flow_end how = (enum flow_end)m->end;

	if (s->state == SESSION_STANDBY)
		standby_close(t, s, how, m->ts_ns, now_ns);
	else if (s->state == SESSION_LIVE)
		live_close(t, s, how, &at);
	else
		close_told(t, s, how, m->ts_ns, now_ns);
}

void session_abort(struct sessions *t, struct session *s, uint64_t now_ns)
{
	struct moment m = {.ts_ns = flow_time(s, now_ns), .now_ns = now_ns};

	if (s->state == SESSION_LIVE)
		live_close(t, s, FLOW_END_AGENT, &m);
	else
		standby_drop(t, s, now_ns);
}

void session_give_up(struct sessions *t, struct session *s, uint64_t now_ns)
{
	session_reset(t, s, s->open.captured_end, flow_time(s, now_ns), SESSION_QUIET);
	twin_set_free(t, s);
}

void session_poke(struct sessions *t, struct session *s, enum flow_dir dir, uint64_t now_ns)
{
	struct frame_flow_open open;
	struct outlet_flow flow = outlet_flow_of(s, &open);
	unsigned sent;

	session_poke_cancel(t, &s->dir[dir]);
	if (session_is_over(s))
		return;
	sent = outlets_poke(&t->outlets, s->tail, &flow, dir,
			    time_forward(s, flow_time(s, now_ns)));
	pokes_settle(t, s, sent);
	if (!(sent & OUTLET_WAITS))
		return;
	s->dir[dir].in_waits = true;
	pokes_add(&t->waits, &s->dir[dir].poke, now_ns + OUTLET_WAIT_MS * NS_PER_MS);
}
