/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session: frames of all agents in, forge calls and sink messages out. Brings every direction into
 * byte order, turns what is missing into gaps, and sees to it that the IDS never meets two open
 * connections on one tuple, nor one connection twice. Never does I/O, never reads a clock, never
 * loses a byte without counting why.
 *
 * Both ends of a connection may be captured: whichever session sends first is forged, the other is
 * on standby until its own end. There is no take-over when the first one is lost.
 */
#include "session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/hmap.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/queue.h"
#include "forge.h"

static COUNTER_DEFINE(c_flows, "session_flows", "flows announced by agents");
static COUNTER_DEFINE(c_active, "session_active", "sessions in the table now (gauge)");
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
static COUNTER_DEFINE(c_evicted, "session_evicted", "sessions dropped at the table's limit");
static COUNTER_DEFINE(c_idled, "session_idle_resets", "connections reset because they were idle");
static COUNTER_DEFINE(c_pokes, "session_pokes",
		      "repeated acknowledgements that make an IDS inspect");

#define HOST_MAX 255u /* a DNS name's limit; longer is no host name */

/*
 * A short connection often arrives whole from one end before the other end's first byte. Its id is
 * remembered for so long: longer than two healthy tunnels differ. 65536 of 80 bytes bound the
 * memory.
 */
#define GHOST_NS  (10 * NS_PER_S)
#define GHOST_MAX 65536u

enum session_state {
	SESSION_QUIET,   /* nothing of it is open at the IDS: no byte yet, or reset because idle */
	SESSION_LIVE,    /* owns its tuple; the handshake is out. May already have had both FINs */
	SESSION_STANDBY, /* the same connection is, or was, forged from its other end */
	SESSION_DISPLACED, /* a newer connection took the tuple; this one was reset */
	SESSION_FOREIGN,   /* not TCP: nothing can be forged */
};

static const char *const state_names[] = {
	[SESSION_QUIET] = "quiet",     [SESSION_LIVE] = "live",
	[SESSION_STANDBY] = "standby", [SESSION_DISPLACED] = "displaced",
	[SESSION_FOREIGN] = "foreign",
};

struct session_dir {
	uint64_t expected; /* offset of the next byte */
	uint64_t poke_ns;  /* when to poke, while in t->pokes */
	struct queue_node poke;
	uint16_t poke_id; /* the side's ip_id when armed: unchanged = it sent nothing since */
	bool started;     /* expected means something */
	bool fin;         /* no byte may follow */
	uint8_t index;    /* enum flow_dir: this struct's place in session.dir[] */
};

/* One captured end of one connection, in one allocation with its strings. Owned by the table. */
struct session {
	struct hmap_node by_flow;
	struct hmap_node by_tuple; /* in the index only while LIVE */
	struct queue_node order;   /* in t->live or t->rest, least recently active first */
	struct queue_node of_origin;
	struct session_origin *origin; /* borrowed */
	uint64_t active_ns;            /* last byte, or the opening */
	struct session_dir dir[2];
	uint64_t active_ts_ns;   /* the flow's own time at its last byte */
	struct forge_flow forge; /* begun when LIVE is entered; its time goes on in the next one */
	uint32_t incarnation;
	uint8_t state;               /* enum session_state */
	struct frame_flow_open open; /* its spans point into strings[] */
	uint8_t strings[];
};

_Static_assert(sizeof(struct session) <= 432,
	       "with usual strings an idle session stays within 512 bytes");

struct session_origin {
	struct hmap_node by_agent;
	struct queue sessions;
	uint8_t agent[16];
	char host[HOST_MAX + 1];
};

/* The id of a connection that was forged to its end. */
struct ghost {
	struct hmap_node by_id;
	struct queue_node order;
	uint64_t until_ns;
	uint8_t id[16];
};

/* One worker thread's. */
struct sessions {
	struct session_conf conf;
	struct sink_set *sinks; /* borrowed */
	struct hmap by_flow, by_tuple, by_agent, by_ghost;
	struct queue live, rest; /* all sessions: LIVE ones, the others */
	struct queue pokes;      /* struct session_dir, earliest deadline first */
	struct queue ghosts;     /* earliest end first */
	size_t count;
	uint8_t frame[FORGE_FRAME_MAX]; /* forge's scratch */
};

/* What forge's callback needs. */
struct emission {
	struct sessions *t;
	struct session *s;
};

static enum flow_dir peer_of(enum flow_dir dir)
{
	return dir == FLOW_C2S ? FLOW_S2C : FLOW_C2S;
}

static struct session *session_of_dir(struct session_dir *d)
{
	return (struct session *)(void *)((char *)(d - d->index) - offsetof(struct session, dir));
}

/* Keys */

struct flow_key {
	const struct session_origin *origin;
	uint64_t flow;
};

static uint64_t flow_hash(const struct session_origin *o, uint64_t flow)
{
	struct flow_key key = {.origin = o, .flow = flow};

	return hmap_hash(&key, sizeof(key));
}

static struct session *flow_find(const struct sessions *t, const struct session_origin *o,
				 uint64_t flow)
{
	struct hmap_node *n = hmap_first(&t->by_flow, flow_hash(o, flow));

	for (; n; n = hmap_next_same(n)) {
		struct session *s = hmap_entry(n, struct session, by_flow);

		if (s->origin == o && s->open.flow == flow)
			return s;
	}
	return NULL;
}

/* An IDS does not tell the ends of a tuple apart: endpoints are sorted, so that swapped roles
 * collide. */
struct tuple_key {
	uint8_t addr[2][16];
	uint16_t port[2];
	uint8_t transport, family;
	uint8_t pad[2];
};
_Static_assert(sizeof(struct tuple_key) == 40, "hashed and compared as bytes");

static void tuple_key_of(struct tuple_key *k, const struct frame_flow_open *m)
{
	size_t len = m->family == 6 ? 16 : 4;
	int order = memcmp(m->client_addr, m->server_addr, len);
	int client = order > 0 || (order == 0 && m->client_port > m->server_port) ? 1 : 0;

	memset(k, 0, sizeof(*k));
	memcpy(k->addr[client], m->client_addr, len);
	memcpy(k->addr[!client], m->server_addr, len);
	k->port[client] = m->client_port;
	k->port[!client] = m->server_port;
	k->transport = m->transport;
	k->family = m->family;
}

static struct session *tuple_owner(const struct sessions *t, const struct tuple_key *key,
				   uint64_t hash)
{
	struct hmap_node *n = hmap_first(&t->by_tuple, hash);

	for (; n; n = hmap_next_same(n)) {
		struct session *s = hmap_entry(n, struct session, by_tuple);
		struct tuple_key other;

		tuple_key_of(&other, &s->open);
		if (memcmp(&other, key, sizeof(other)) == 0)
			return s;
	}
	return NULL;
}

/* Connections that were forged to their end */

static struct ghost *ghost_find(const struct sessions *t, const uint8_t id[16])
{
	struct hmap_node *n = hmap_first(&t->by_ghost, hmap_hash(id, 16));

	for (; n; n = hmap_next_same(n)) {
		struct ghost *g = hmap_entry(n, struct ghost, by_id);

		if (memcmp(g->id, id, 16) == 0)
			return g;
	}
	return NULL;
}

static void ghost_free(struct sessions *t, struct ghost *g)
{
	hmap_remove(&t->by_ghost, &g->by_id);
	queue_remove(&g->order);
	free(g);
}

static void ghosts_expire(struct sessions *t, uint64_t now_ns)
{
	struct queue_node *n;

	while ((n = queue_first(&t->ghosts)) != NULL) {
		struct ghost *g = queue_entry(n, struct ghost, order);

		if (g->until_ns > now_ns && t->by_ghost.count <= GHOST_MAX)
			return;
		ghost_free(t, g);
	}
}

/* Without memory there is none: at worst the other end is forged as well. */
static void ghost_leave(struct sessions *t, const struct session *s, uint64_t now_ns)
{
	struct ghost *g = ghost_find(t, s->open.session);

	if (!g) {
		g = calloc(1, sizeof(*g));
		if (!g)
			return;
		memcpy(g->id, s->open.session, 16);
		if (hmap_insert(&t->by_ghost, &g->by_id, hmap_hash(g->id, 16)) < 0) {
			free(g);
			return;
		}
	}
	g->until_ns = now_ns + GHOST_NS;
	queue_push(&t->ghosts, &g->order);
	ghosts_expire(t, now_ns);
}

/* States */

/* The only place where a session changes its state; entering and leaving LIVE moves tuple and
 * queue. */
static void session_enter(struct sessions *t, struct session *s, enum session_state state)
{
	if (s->state == SESSION_LIVE && state != SESSION_LIVE) {
		hmap_remove(&t->by_tuple, &s->by_tuple);
		queue_remove(&s->dir[FLOW_C2S].poke);
		queue_remove(&s->dir[FLOW_S2C].poke);
		s->incarnation++;
	}
	if (log_is_on(LOG_DEBUG))
		log_debug("session: flow %llu: %s -> %s host=%s", (unsigned long long)s->open.flow,
			  state_names[s->state], state_names[state], s->origin->host);
	s->state = (uint8_t)state;
	queue_push(state == SESSION_LIVE ? &t->live : &t->rest, &s->order);
}

static void session_touch(struct sessions *t, struct session *s, uint64_t now_ns)
{
	s->active_ns = now_ns;
	queue_push(s->state == SESSION_LIVE ? &t->live : &t->rest, &s->order);
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

static struct sink_flow sink_flow_of(const struct session *s)
{
	return (struct sink_flow){.open = &s->open, .host = s->origin->host};
}

static void on_packet(void *ctx, struct span l2, uint64_t ts_ns, bool first)
{
	struct emission *e = ctx;
	struct sink_flow flow = sink_flow_of(e->s);

	sinks_packet(e->t->sinks, l2, ts_ns, &flow, first);
}

static struct forge_out out_of(struct emission *e)
{
	return (struct forge_out){.emit = on_packet, .ctx = e, .frame = e->t->frame};
}

/* The flow's own time now, for packets that no frame caused. */
static uint64_t flow_time(const struct session *s, uint64_t now_ns)
{
	uint64_t passed = now_ns > s->active_ns ? now_ns - s->active_ns : 0;

	return s->active_ts_ns + passed;
}

static void poke_arm(struct sessions *t, struct session *s, enum flow_dir dir, uint64_t now_ns)
{
	s->dir[dir].poke_id = s->forge.side[dir].ip_id;
	s->dir[dir].poke_ns = now_ns + t->conf.poke_ms * NS_PER_MS;
	queue_push(&t->pokes, &s->dir[dir].poke);
}

/* A side that has sent a packet since needs no poke any more. */
static void pokes_settle(struct session *s)
{
	for (int d = 0; d < 2; d++) {
		if (queue_is_in(&s->dir[d].poke) && s->dir[d].poke_id != s->forge.side[d].ip_id)
			queue_remove(&s->dir[d].poke);
	}
}

/* After bytes of one direction went out. */
static void sent_now(struct sessions *t, struct session *s, enum flow_dir dir, uint64_t now_ns)
{
	s->active_ts_ns = s->forge.last_ts_ns;
	pokes_settle(s);
	poke_arm(t, s, dir, now_ns);
}

static void session_fin(struct sessions *t, struct session *s, enum flow_dir dir, uint64_t ts_ns)
{
	struct emission e = {.t = t, .s = s};
	struct forge_out out = out_of(&e);

	s->dir[dir].fin = true;
	if (s->state != SESSION_LIVE)
		return; /* told when the connection is opened, if ever */
	forge_fin(&s->forge, &out, dir, ts_ns);
	pokes_settle(s);
}

/* Leaves the tuple free and the session in `state`. */
static void session_reset(struct sessions *t, struct session *s, enum flow_dir dir, uint64_t ts_ns,
			  enum session_state state)
{
	struct emission e = {.t = t, .s = s};
	struct forge_out out = out_of(&e);

	if (s->state == SESSION_LIVE)
		forge_rst(&s->forge, &out, dir, ts_ns);
	session_enter(t, s, state);
}

static void session_drop(struct sessions *t, struct session *s)
{
	session_enter(t, s, SESSION_QUIET);
	queue_remove(&s->order);
	queue_remove(&s->of_origin);
	hmap_remove(&t->by_flow, &s->by_flow);
	free(s);
	counter_set(&c_active, --t->count);
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
	uint64_t end_ns = owner->forge.last_ts_ns > ts_ns ? owner->forge.last_ts_ns : ts_ns;

	session_reset(t, owner, owner->open.captured_end, end_ns, SESSION_DISPLACED);
	/* One tuple is one flow to the IDS: its end must not be later than the new beginning. */
	if (s->forge.last_ts_ns < end_ns)
		s->forge.last_ts_ns = end_ns;
	if (s->incarnation < owner->incarnation)
		s->incarnation = owner->incarnation;
	counter_inc(&c_conflicts);
}

/* The tuple becomes ours: LIVE, or STANDBY when its connection is already told. 0 or -ENOMEM. */
static int tuple_acquire(struct sessions *t, struct session *s, uint64_t ts_ns)
{
	struct tuple_key key;
	struct session *owner;
	uint64_t hash;
	int err;

	tuple_key_of(&key, &s->open);
	hash = hmap_hash(&key, sizeof(key));
	owner = tuple_owner(t, &key, hash);
	if ((owner && is_other_end(s, owner)) ||
	    (s->incarnation == 0 && ghost_find(t, s->open.session))) {
		session_enter(t, s, SESSION_STANDBY);
		return 0;
	}
	if (owner)
		owner_displace(t, owner, s, ts_ns);
	err = hmap_insert(&t->by_tuple, &s->by_tuple, hash);
	if (err < 0)
		return err;
	session_enter(t, s, SESSION_LIVE);
	return 0;
}

/* Handshake, and the ends that were told before any byte. */
static void session_handshake(struct sessions *t, struct session *s, uint64_t ts_ns)
{
	struct emission e = {.t = t, .s = s};
	struct forge_out out = out_of(&e);
	uint64_t last_ts_ns = s->forge.last_ts_ns;

	forge_init(&s->forge, &s->open, s->incarnation, sinks_mtu(t->sinks));
	s->forge.last_ts_ns = last_ts_ns;
	forge_handshake(&s->forge, &out, ts_ns);
	counter_inc(&c_forged);
	for (int d = 0; d < 2; d++) {
		if (s->dir[d].fin)
			session_fin(t, s, (enum flow_dir)d, ts_ns);
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
	struct emission e = {.t = t, .s = s};
	struct forge_out out = out_of(&e);

	forge_gap(&s->forge, &out, dir, len, ts_ns);
	s->dir[dir].expected += len;
	counter_add(&c_gap, len);
	sent_now(t, s, dir, now_ns);
}

static void session_forge(struct sessions *t, struct session *s, const struct frame_data *m,
			  uint64_t now_ns)
{
	struct emission e = {.t = t, .s = s};
	struct forge_out out = out_of(&e);
	struct sink_flow flow = sink_flow_of(s);
	uint64_t ts_ns = m->ts_ns > s->forge.last_ts_ns ? m->ts_ns : s->forge.last_ts_ns;
	bool end = (m->flags & FRAME_DATA_END) != 0;

	sinks_message(t->sinks, &flow, m->dir, m->bytes, end, ts_ns);
	forge_data(&s->forge, &out, m->dir, m->bytes, end, ts_ns);
	s->dir[m->dir].expected += m->bytes.len;
	counter_add(&c_bytes, m->bytes.len);
	sent_now(t, s, m->dir, now_ns);
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
	bool was_closed = s->forge.state == FORGE_CLOSED;

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
		told = told && was_closed; /* else it may live on and be announced again */
		break;
	}
	if (told)
		ghost_leave(t, s, now_ns);
	session_drop(t, s);
}

/* Frames */

static void evict_one(struct sessions *t, uint64_t now_ns)
{
	struct queue_node *live = queue_first(&t->live), *rest = queue_first(&t->rest);
	struct session *a = live ? queue_entry(live, struct session, order) : NULL;
	struct session *b = rest ? queue_entry(rest, struct session, order) : NULL;

	if (!a || (b && b->active_ns <= a->active_ns))
		a = b;
	if (!a)
		return;
	counter_inc(&c_evicted);
	session_abort(t, a, now_ns);
}

static struct span keep_string(uint8_t **at, struct span from)
{
	struct span kept = span_of(*at, from.len);

	if (from.len > 0)
		memcpy(*at, from.p, from.len);
	*at += from.len;
	return kept;
}

static struct session *session_new(const struct frame_flow_open *m)
{
	struct session *s = calloc(1, sizeof(*s) + m->comm.len + m->exe.len + m->container.len);
	uint8_t *at;

	if (!s)
		return NULL;
	at = s->strings;
	s->dir[FLOW_S2C].index = FLOW_S2C;
	s->open = *m;
	s->open.comm = keep_string(&at, m->comm);
	s->open.exe = keep_string(&at, m->exe);
	s->open.container = keep_string(&at, m->container);
	return s;
}

static void flow_opened(struct sessions *t, struct session_origin *o,
			const struct frame_flow_open *m, uint64_t now_ns)
{
	struct session *s;

	if (flow_find(t, o, m->flow)) {
		counter_inc(&c_reopened);
		return;
	}
	if (t->count >= t->conf.max_sessions)
		evict_one(t, now_ns);
	s = session_new(m);
	if (!s || hmap_insert(&t->by_flow, &s->by_flow, flow_hash(o, m->flow)) < 0) {
		free(s);
		counter_inc(&c_no_memory);
		return;
	}
	s->origin = o;
	s->active_ns = now_ns;
	queue_push(&o->sessions, &s->of_origin);
	session_enter(t, s, m->transport == 6 ? SESSION_QUIET : SESSION_FOREIGN);
	counter_inc(&c_flows);
	counter_set(&c_active, ++t->count);
}

static struct session *flow_known(struct sessions *t, struct session_origin *o, uint64_t flow)
{
	struct session *s = flow_find(t, o, flow);

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
	struct emission e = {.t = t, .s = s};
	struct forge_out out = out_of(&e);

	queue_remove(&s->dir[dir].poke);
	forge_poke(&s->forge, &out, dir, flow_time(s, now_ns));
	pokes_settle(s);
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
		if (s->forge.state == FORGE_ESTABLISHED)
			counter_inc(&c_idled);
		session_reset(t, s, s->open.captured_end, flow_time(s, now_ns), SESSION_QUIET);
	}
	return UINT64_MAX;
}

uint64_t sessions_tick(struct sessions *t, uint64_t now_ns)
{
	uint64_t poke = pokes_run(t, now_ns), idle = idle_run(t, now_ns);

	ghosts_expire(t, now_ns);
	return poke < idle ? poke : idle;
}

/* The table and its origins */

int sessions_new(struct sessions **out, const struct session_conf *conf, struct sink_set *sinks)
{
	struct sessions *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	if (conf)
		t->conf = *conf;
	if (t->conf.idle_s == 0)
		t->conf.idle_s = SESSION_IDLE_S;
	if (t->conf.poke_ms == 0)
		t->conf.poke_ms = SESSION_POKE_MS;
	if (t->conf.max_sessions == 0)
		t->conf.max_sessions = SESSION_MAX;
	t->sinks = sinks;
	hmap_init(&t->by_flow);
	hmap_init(&t->by_tuple);
	hmap_init(&t->by_agent);
	hmap_init(&t->by_ghost);
	queue_init(&t->live);
	queue_init(&t->rest);
	queue_init(&t->pokes);
	queue_init(&t->ghosts);
	*out = t;
	return 0;
}

static void origin_free(struct sessions *t, struct session_origin *o)
{
	struct queue_node *n;

	while ((n = queue_first(&o->sessions)) != NULL)
		session_drop(t, queue_entry(n, struct session, of_origin));
	hmap_remove(&t->by_agent, &o->by_agent);
	free(o);
}

void sessions_free(struct sessions *t)
{
	struct hmap_node *o;
	struct queue_node *g;

	if (!t)
		return;
	while ((o = hmap_any(&t->by_agent, NULL)) != NULL)
		origin_free(t, hmap_entry(o, struct session_origin, by_agent));
	while ((g = queue_first(&t->ghosts)) != NULL)
		ghost_free(t, queue_entry(g, struct ghost, order));
	hmap_fini(&t->by_flow);
	hmap_fini(&t->by_tuple);
	hmap_fini(&t->by_agent);
	hmap_fini(&t->by_ghost);
	explicit_bzero(t->frame, sizeof(t->frame)); /* held plaintext */
	free(t);
}

static struct session_origin *origin_find(const struct sessions *t, const uint8_t agent[16],
					  uint64_t hash)
{
	struct hmap_node *n = hmap_first(&t->by_agent, hash);

	for (; n; n = hmap_next_same(n)) {
		struct session_origin *o = hmap_entry(n, struct session_origin, by_agent);

		if (memcmp(o->agent, agent, 16) == 0)
			return o;
	}
	return NULL;
}

static void copy_printable(char *out, size_t size, struct span in)
{
	size_t n = in.len < size - 1 ? in.len : size - 1;

	for (size_t i = 0; i < n; i++)
		out[i] = in.p[i] > 0x20 && in.p[i] < 0x7f ? (char)in.p[i] : '?';
	out[n] = '\0';
}

struct session_origin *sessions_origin(struct sessions *t, const uint8_t agent[16],
				       struct span host)
{
	uint64_t hash = hmap_hash(agent, 16);
	struct session_origin *o = origin_find(t, agent, hash);

	if (o)
		return o;
	o = calloc(1, sizeof(*o));
	if (!o)
		return NULL;
	memcpy(o->agent, agent, sizeof(o->agent));
	copy_printable(o->host, sizeof(o->host), host);
	queue_init(&o->sessions);
	if (hmap_insert(&t->by_agent, &o->by_agent, hash) < 0) {
		free(o);
		return NULL;
	}
	return o;
}

void sessions_origin_gone(struct sessions *t, struct session_origin *o, uint64_t now_ns)
{
	struct queue_node *n;

	while ((n = queue_first(&o->sessions)) != NULL)
		session_abort(t, queue_entry(n, struct session, of_origin), now_ns);
	origin_free(t, o);
}

void sessions_close_all(struct sessions *t, uint64_t now_ns)
{
	struct queue_node *n;

	while ((n = queue_first(&t->live)) != NULL) {
		struct session *s = queue_entry(n, struct session, order);

		session_reset(t, s, s->open.captured_end, flow_time(s, now_ns), SESSION_QUIET);
	}
}

size_t sessions_count(const struct sessions *t)
{
	return t->count;
}
