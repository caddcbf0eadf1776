/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session_pair: see session_pair.h. What the connection has told is its LIVE session's `expected`;
 * how far each end has told is in the pair. Kept is only what lies beyond the former, so in a
 * healthy pair next to nothing.
 */
#include "sessions/session_pair.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/metrics.h"

static COUNTER_DEFINE(c_standby, "session_bytes_standby",
		      "bytes of a connection that is forged from its other end");
static COUNTER_DEFINE(c_takeovers, "session_takeovers",
		      "connections that went on from their other end");
static COUNTER_DEFINE(c_filled, "session_bytes_filled", "bytes forged that only the other end had");
static COUNTER_DEFINE(c_differ, "session_ends_differ",
		      "connections whose ends told different bytes: neither speaks for the other");

/* One end. */
struct end {
	struct session *s;     /* borrowed; NULL: gone, or not there yet */
	struct spare *spare;   /* owned; NULL: nothing is kept */
	uint64_t said[2];      /* by direction: behind what it told, or said that it is missing */
	bool fin[2];           /* it tells no more of it */
	bool closed;           /* it tells no more, */
	uint8_t how;           /* enum flow_end, */
	uint64_t closed_ts_ns; /* since then, by its host's clock */
	int64_t skew_ns;       /* the connection's time minus that */
};

/* Lives as long as one of the two. */
struct pair {
	struct end v[2];
	bool are_apart;            /* offsets, or bytes, are not the same */
	struct queue_node waiting; /* in t->waiting while something is kept: last changed comes last
				    */
};

static int place_of(const struct session *s)
{
	return s->pair->v[1].s == s;
}

static struct end *end_of(const struct session *s)
{
	return s->pair ? &s->pair->v[place_of(s)] : NULL;
}

size_t session_pair_size(void)
{
	return sizeof(struct pair);
}

struct session *session_twin(const struct session *s)
{
	return s->pair ? s->pair->v[!place_of(s)].s : NULL;
}

struct session *session_heir(const struct session *s)
{
	return s->pair && !s->pair->are_apart ? session_twin(s) : NULL;
}

/* What is kept ------------------------------------------------------------------------------- */

static bool has_any(const struct pair *p)
{
	return (p->v[0].spare && spare_bytes(p->v[0].spare)) ||
	       (p->v[1].spare && spare_bytes(p->v[1].spare));
}

/* After something was kept of an end, or forgotten. `held`: before. */
static void held_changed(struct sessions *t, struct pair *p, const struct end *e, size_t held)
{
	t->held += spare_held(e->spare) - held;
	if (has_any(p))
		queue_push(&t->waiting, &p->waiting);
	else
		queue_remove(&p->waiting);
}

static void forget_kept(struct sessions *t, struct pair *p, struct end *e)
{
	if (!e->spare)
		return;
	counter_add(&c_standby, spare_bytes(e->spare));
	t->held -= spare_held(e->spare);
	spare_free(e->spare);
	e->spare = NULL;
	if (!has_any(p))
		queue_remove(&p->waiting);
}

/* Returns how many bytes were forgotten. */
static uint64_t pass(struct sessions *t, struct pair *p, struct end *e, enum flow_dir dir,
		     uint64_t offset)
{
	uint64_t n;
	size_t held;

	if (!e->spare)
		return 0;
	held = spare_held(e->spare);
	n = spare_passed(e->spare, dir, offset);
	if (n)
		held_changed(t, p, e, held);
	return n;
}

/* Coming together, and apart ------------------------------------------------------------------- */

static bool is_late(const struct session *s)
{
	return s->open.flags & FLOW_OPEN_LATE;
}

static void enter_pair(struct pair *p, struct end *e, struct session *s)
{
	*e = (struct end){.s = s, .said = {s->dir[0].expected, s->dir[1].expected}};
	s->pair = p;
}

void session_pair(struct sessions *t, struct session *s, struct session *owner)
{
	struct session *other = session_twin(owner);
	struct end *free_end;

	if (other && other->origin->is_lost && session_has_closed(other))
		session_drop(t, other); /* nothing would end it any more */
	else if (other && other->origin->is_lost)
		session_unpair(t, other);
	if (!owner->pair) {
		struct pair *p = calloc(1, sizeof(*p));

		if (!p)
			return;
		t->n_pairs++;
		enter_pair(p, &p->v[0], owner);
	}
	free_end = &owner->pair->v[!place_of(owner)];
	if (free_end->s || s->pair)
		return;
	enter_pair(owner->pair, free_end, s);
	s->pair->are_apart = is_late(s) || is_late(owner);
}

void session_unpair(struct sessions *t, struct session *s)
{
	struct pair *p = s->pair;

	if (!p)
		return;
	for (int i = 0; i < 2; i++) {
		struct end *e = &p->v[i];

		if (!e->s || e->s == s || e->s->state != SESSION_LIVE)
			forget_kept(t, p, e);
		for (int d = 0; e->s && e->s->state == SESSION_STANDBY && d < 2; d++)
			e->s->dir[d].expected = e->said[d];
	}
	p->v[place_of(s)].s = NULL;
	s->pair = NULL;
	if (p->v[0].s || p->v[1].s)
		return;
	t->n_pairs--;
	free(p);
}

void session_swap(struct sessions *t, struct session *from, struct session *to)
{
	uint32_t incarnation = from->incarnation;
	struct frame_flow_open open;
	struct outlet_flow flow;
	int err;

	session_enter(t, from, SESSION_STANDBY);
	to->lane = from->lane;
	to->incarnation = incarnation;
	to->last_ts_ns = from->last_ts_ns;
	to->active_ts_ns = from->active_ts_ns;
	for (int d = 0; d < 2; d++) {
		session_said(from, (enum flow_dir)d, from->dir[d].expected);
		to->dir[d].expected = from->dir[d].expected;
		to->dir[d].started = true;
		to->dir[d].fin = from->dir[d].fin;
	}
	session_opened(to, &open);
	flow = (struct outlet_flow){.who = {.open = &open, .host = to->origin->host},
				    .incarnation = to->incarnation,
				    .lane = to->lane};
	outlets_move(&t->outlets, to->tail, from->tail, &flow);
	err = session_enter_live(t, to);
	assert(!err); /* the index has just lost an entry: there is room for one */
	(void)err;
	counter_inc(&c_takeovers);
}

/* What ends say -------------------------------------------------------------------------------- */

void session_said(struct session *s, enum flow_dir dir, uint64_t end)
{
	struct end *e = end_of(s);

	if (e && end > e->said[dir])
		e->said[dir] = end;
}

void session_said_fin(struct session *s, enum flow_dir dir)
{
	struct end *e = end_of(s);

	if (e)
		e->fin[dir] = true;
}

void session_said_close(struct session *s, enum flow_end how, uint64_t ts_ns)
{
	struct end *e = end_of(s);

	if (!e)
		return;
	e->closed = true;
	e->how = (uint8_t)how;
	e->closed_ts_ns = ts_ns;
}

bool session_has_closed(const struct session *s)
{
	const struct end *e = end_of(s);

	return e && e->closed;
}

enum flow_end session_closed_how(const struct session *s, uint64_t *ts_ns)
{
	const struct end *e = end_of(s);

	*ts_ns = e->closed_ts_ns + (uint64_t)e->skew_ns;
	return (enum flow_end)e->how;
}

bool session_is_ahead(const struct session *s, enum flow_dir dir)
{
	const struct end *e = end_of(s);

	return e && e->said[dir] > s->dir[dir].expected;
}

bool session_has_fin(const struct session *s, enum flow_dir dir)
{
	const struct end *e = end_of(s);

	return e && e->fin[dir];
}

/* The one of the two that is LIVE; NULL: neither is. */
static struct session *live_of(struct session *s)
{
	struct session *live = s->state == SESSION_LIVE ? s : session_twin(s);

	return live && live->state == SESSION_LIVE ? live : NULL;
}

/* False when there is no room. */
static bool put(struct sessions *t, struct pair *p, struct end *e, const struct spare_part *part)
{
	size_t held;

	if (!e->spare)
		e->spare = spare_new();
	if (!e->spare || t->held >= PAIR_HELD_MAX / t->conf.parts)
		return false;
	held = spare_held(e->spare);
	if (spare_put(e->spare, part))
		return false;
	held_changed(t, p, e, held);
	return true;
}

bool session_keep(struct sessions *t, struct session *s, const struct spare_part *part)
{
	const struct session *live = live_of(s);
	struct end *e = live ? end_of(s) : NULL;
	uint64_t len = part->bytes.len, end = part->offset + len, told, seen;
	struct spare_part rest = *part;
	bool is_kept = true;

	if (!e) {
		counter_add(&c_standby, len);
		return false;
	}
	told = live->dir[part->dir].expected;
	if (end <= told)
		e->skew_ns = (int64_t)(live->last_ts_ns - part->ts_ns);
	if (told < e->said[part->dir])
		told = e->said[part->dir]; /* told again, after a reconnect */
	seen = told > part->offset ? told - part->offset : 0;
	if (seen > len || s->pair->are_apart || live->dir[part->dir].fin)
		seen = len;
	rest.offset += seen;
	rest.bytes = span_of(part->bytes.p + seen, len - seen);
	rest.order = t->order++;
	if (rest.bytes.len)
		is_kept = put(t, s->pair, e, &rest);
	if (!is_kept && s == live)
		return false;
	session_said(s, part->dir, end);
	counter_add(&c_standby, is_kept ? seen : len);
	return is_kept;
}

/* What the connection says --------------------------------------------------------------------- */

static bool end_has(const struct end *e, enum flow_dir dir, uint64_t at, struct spare_part *out)
{
	return e->spare && spare_at(e->spare, dir, at, out);
}

static bool end_will_tell(const struct end *e, enum flow_dir dir, uint64_t at)
{
	return e->s && e->said[dir] <= at && !e->fin[dir] && !e->closed && !e->s->origin->is_lost;
}

/* Where it goes on, when it does not have what is at `at`; UINT64_MAX: nothing is known of it. */
static uint64_t end_next(const struct end *e, enum flow_dir dir, uint64_t at)
{
	uint64_t next = e->spare ? spare_next(e->spare, dir, at) : UINT64_MAX;

	return next == UINT64_MAX && e->said[dir] > at ? e->said[dir] : next;
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static bool dir_step(const struct session *s, enum flow_dir dir, bool waits,
		     struct session_step *out)
{
	static const struct end nobody = {.s = NULL};
	const struct pair *p = s->pair;
	const struct end *own = end_of(s), *other = &p->v[!place_of(s)];
	uint64_t at = s->dir[dir].expected, next;

	*out = (struct session_step){.dir = dir};
	if (s->dir[dir].fin)
		return false;
	out->source = own->s;
	if (end_has(own, dir, at, &out->part))
		return true;
	if (waits && end_will_tell(own, dir, at))
		return false;
	if (p->are_apart)
		other = &nobody;
	out->source = other->s;
	if (end_has(other, dir, at, &out->part))
		return true;
	if (waits && end_will_tell(other, dir, at))
		return false;
	next = smaller(end_next(own, dir, at), end_next(other, dir, at));
	out->gap = next == UINT64_MAX ? 0 : next - at;
	return out->gap;
}

bool session_next_step(const struct session *s, bool waits, struct session_step *out)
{
	struct session_step c2s, s2c;
	bool has_c2s, has_s2c;

	if (!s->pair)
		return false;
	has_c2s = dir_step(s, FLOW_C2S, waits, &c2s);
	has_s2c = dir_step(s, FLOW_S2C, waits, &s2c);
	if (!has_c2s && !has_s2c)
		return false;
	if (!has_s2c || (has_c2s && (c2s.gap || (!s2c.gap && c2s.part.order < s2c.part.order))))
		*out = c2s;
	else
		*out = s2c;
	return true;
}

/* Bytes that are told are not counted; those that were kept of the other end, too, are. */
static void pass_told(struct sessions *t, struct pair *p, struct end *e, bool is_source,
		      const struct spare_part *part)
{
	uint64_t len = part->bytes.len, n;

	n = pass(t, p, e, part->dir, part->offset + len);
	counter_add(&c_standby, !is_source ? n : n > len ? n - len : 0);
}

static void compare(struct session *s, struct end *e, const struct spare_part *part)
{
	uint64_t ts_ns = 0;
	bool alike = spare_is_alike(e->spare, part->dir, part->offset, part->bytes, &ts_ns);

	if (ts_ns)
		e->skew_ns = (int64_t)(s->last_ts_ns - ts_ns);
	if (alike || s->pair->are_apart)
		return;
	counter_inc(&c_differ);
	s->pair->are_apart = true;
}

void session_pair_told(struct sessions *t, struct session *s, struct session *source,
		       const struct spare_part *part)
{
	struct spare_part told = *part; /* what it borrows may go first */
	struct pair *p = s->pair;

	if (!p)
		return;
	if (source != s)
		counter_add(&c_filled, part->bytes.len);
	session_said(source, part->dir, part->offset + part->bytes.len);
	for (int i = 0; i < 2; i++)
		if (p->v[i].s != source && p->v[i].spare)
			compare(s, &p->v[i], part);
	for (int i = 0; i < 2; i++)
		pass_told(t, p, &p->v[i], p->v[i].s == source, &told);
	if (p->are_apart)
		forget_kept(t, p, &p->v[!place_of(s)]);
}

void session_pair_passed(struct sessions *t, struct session *s, enum flow_dir dir, uint64_t offset)
{
	if (!s->pair || s->state != SESSION_LIVE)
		return;
	for (int i = 0; i < 2; i++)
		counter_add(&c_standby, pass(t, s->pair, &s->pair->v[i], dir, offset));
}

bool session_has_more(const struct session *s, enum flow_dir dir)
{
	uint64_t at = s->dir[dir].expected;

	for (int i = 0; s->pair && i < 2; i++)
		if (s->pair->v[i].spare && spare_next(s->pair->v[i].spare, dir, at) != UINT64_MAX)
			return true;
	return false;
}

bool session_has_any_more(const struct session *s)
{
	return session_has_more(s, FLOW_C2S) || session_has_more(s, FLOW_S2C);
}

bool session_is_outrun(const struct session *s)
{
	const struct session *other = session_heir(s);
	const struct spare *spare = other ? s->pair->v[!place_of(s)].spare : NULL;

	if (!other || other->origin->is_lost)
		return false;
	return s->origin->lost_ns || (spare && spare_held(spare) > PAIR_AHEAD_MAX);
}

int64_t session_skew_ns(const struct session *s)
{
	const struct end *e = end_of(s);

	return e ? e->skew_ns : 0;
}

static uint64_t kept_since(const struct end *e)
{
	return e->spare ? spare_since(e->spare) : UINT64_MAX;
}

struct session *session_stalled(const struct sessions *t, uint64_t now_ns, uint64_t *next_ns)
{
	struct queue_node *n = queue_first(&t->waiting);
	const struct pair *p;
	uint64_t due_ns;

	*next_ns = UINT64_MAX;
	if (!n)
		return NULL;
	p = queue_entry(n, struct pair, waiting);
	due_ns = smaller(kept_since(&p->v[0]), kept_since(&p->v[1])) + PAIR_STALL_NS;
	if (due_ns > now_ns) {
		*next_ns = due_ns - now_ns;
		return NULL;
	}
	return p->v[0].s && p->v[0].s->state == SESSION_LIVE ? p->v[0].s : p->v[1].s;
}
