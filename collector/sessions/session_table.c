/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session_table: see session_table.h; of session.h, the life of the table and its origins. Flows,
 * tuples and ids in, sessions out. Never emits, never looks at a byte that was mirrored.
 */
#include "sessions/session_table.h"
#include "sessions/session_pair.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"

/* Sums over all tables. */
static COUNTER_DEFINE(c_active, "session_active", "sessions in the table now (gauge)");
static COUNTER_DEFINE(c_memory, "session_memory_bytes", "memory of the session table (gauge)");

/*
 * A short connection often arrives whole from one end before the other end's first byte. Its id is
 * remembered for so long: longer than two healthy tunnels differ. 65536 of 80 bytes bound the
 * memory.
 */
#define GHOST_NS  (10 * NS_PER_S)
#define GHOST_MAX 65536u

/* The id of a connection that was forged to its end. */
struct ghost {
	struct hmap_node by_id;
	struct queue_node order;
	uint64_t until_ns;
	uint8_t id[16];
};

static const char *const state_names[] = {
	[SESSION_QUIET] = "quiet",     [SESSION_LIVE] = "live",
	[SESSION_STANDBY] = "standby", [SESSION_DISPLACED] = "displaced",
	[SESSION_FOREIGN] = "foreign",
};

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

struct session *session_find(const struct sessions *t, const struct session_origin *o,
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
	uint8_t lane;
	uint8_t pad;
};
_Static_assert(sizeof(struct tuple_key) == 40, "hashed and compared as bytes");

static void tuple_key_of(struct tuple_key *k, const struct session *s)
{
	const struct session_open *m = &s->open;
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
	k->lane = s->lane;
}

struct session *session_tuple_owner(const struct sessions *t, const struct session *s)
{
	struct tuple_key key;
	struct hmap_node *n;

	tuple_key_of(&key, s);
	n = hmap_first(&t->by_tuple, hmap_hash(&key, sizeof(key)));
	for (; n; n = hmap_next_same(n)) {
		struct session *owner = hmap_entry(n, struct session, by_tuple);
		struct tuple_key other;

		tuple_key_of(&other, owner);
		if (memcmp(&other, &key, sizeof(other)) == 0)
			return owner;
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

bool session_has_ghost(const struct sessions *t, const struct session *s)
{
	return ghost_find(t, s->open.session) != NULL;
}

static void ghost_free(struct sessions *t, struct ghost *g)
{
	hmap_remove(&t->by_ghost, &g->by_id);
	queue_remove(&g->order);
	free(g);
}

void session_ghosts_expire(struct sessions *t, uint64_t now_ns)
{
	struct queue_node *n;

	while ((n = queue_first(&t->ghosts)) != NULL) {
		struct ghost *g = queue_entry(n, struct ghost, order);

		if (g->until_ns > now_ns && t->by_ghost.count <= GHOST_MAX / t->conf.parts)
			return;
		ghost_free(t, g);
	}
}

void session_ghost_leave(struct sessions *t, const struct session *s, uint64_t now_ns)
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
	session_ghosts_expire(t, now_ns);
}

/* States */

void session_poke_cancel(struct sessions *t, struct session_dir *d)
{
	pokes_remove(d->in_waits ? &t->waits : &t->pokes, &d->poke);
	d->in_waits = false;
}

void session_enter(struct sessions *t, struct session *s, enum session_state state)
{
	if (s->state == SESSION_LIVE && state != SESSION_LIVE) {
		hmap_remove(&t->by_tuple, &s->by_tuple);
		session_poke_cancel(t, &s->dir[FLOW_C2S]);
		session_poke_cancel(t, &s->dir[FLOW_S2C]);
		s->incarnation++;
	}
	if (log_is_on(LOG_DEBUG))
		log_debug("session: flow %llu: %s -> %s host=%s", (unsigned long long)s->open.flow,
			  state_names[s->state], state_names[state], s->origin->host);
	s->state = (uint8_t)state;
	queue_push(state == SESSION_LIVE ? &t->live : &t->rest, &s->order);
}

int session_enter_live(struct sessions *t, struct session *s)
{
	struct tuple_key key;
	int err;

	tuple_key_of(&key, s);
	err = hmap_insert(&t->by_tuple, &s->by_tuple, hmap_hash(&key, sizeof(key)));
	if (err < 0)
		return err;
	session_enter(t, s, SESSION_LIVE);
	return 0;
}

void session_touch(struct sessions *t, struct session *s, uint64_t now_ns)
{
	s->active_ns = now_ns;
	queue_push(s->state == SESSION_LIVE ? &t->live : &t->rest, &s->order);
}

/* Sessions */

static void open_keep(struct session_open *to, const struct frame_flow_open *m)
{
	*to = (struct session_open){
		.flow = m->flow,
		.ts_ns = m->ts_ns,
		.transport = m->transport,
		.family = m->family,
		.captured_end = m->captured_end,
		.confidence = m->confidence,
		.client_port = m->client_port,
		.server_port = m->server_port,
		.mss = m->mss,
		.flags = m->flags,
		.netns = m->netns,
		.pid = m->pid,
		.uid = m->uid,
	};
	memcpy(to->session, m->session, sizeof(to->session));
	memcpy(to->client_addr, m->client_addr, sizeof(to->client_addr));
	memcpy(to->server_addr, m->server_addr, sizeof(to->server_addr));
}

void session_opened(const struct session *s, struct frame_flow_open *out)
{
	const struct session_open *o = &s->open;

	*out = (struct frame_flow_open){
		.flow = o->flow,
		.ts_ns = o->ts_ns,
		.transport = o->transport,
		.family = o->family,
		.captured_end = o->captured_end,
		.confidence = o->confidence,
		.client_port = o->client_port,
		.server_port = o->server_port,
		.mss = o->mss,
		.flags = o->flags,
		.netns = o->netns,
		.pid = o->pid,
		.uid = o->uid,
	};
	memcpy(out->session, o->session, sizeof(out->session));
	memcpy(out->client_addr, o->client_addr, sizeof(out->client_addr));
	memcpy(out->server_addr, o->server_addr, sizeof(out->server_addr));
	names_get(o->names, out);
}

static struct session *session_new(struct sessions *t, const struct frame_flow_open *m)
{
	struct session *s = calloc(1, sizeof(*s) + t->outlets.state_len);

	if (!s)
		return NULL;
	open_keep(&s->open, m);
	s->open.names = names_keep(&t->names, m);
	if (!s->open.names) {
		free(s);
		return NULL;
	}
	s->dir[FLOW_S2C].index = FLOW_S2C;
	return s;
}

static void session_free(struct sessions *t, struct session *s)
{
	names_drop(&t->names, s->open.names);
	free(s);
}

struct session *session_add(struct sessions *t, struct session_origin *o,
			    const struct frame_flow_open *m, uint64_t now_ns)
{
	struct session *s = session_new(t, m);

	if (!s)
		return NULL;
	if (hmap_insert(&t->by_flow, &s->by_flow, flow_hash(o, m->flow)) < 0) {
		session_free(t, s);
		return NULL;
	}
	s->origin = o;
	s->active_ns = now_ns;
	queue_push(&o->sessions, &s->of_origin);
	o->n_sessions++;
	session_enter(t, s, m->transport == 6 ? SESSION_QUIET : SESSION_FOREIGN);
	t->count++;
	counter_inc(&c_active);
	return s;
}

void session_drop(struct sessions *t, struct session *s)
{
	struct session *twin = session_twin(s);
	bool was_last = twin && twin->state == SESSION_STANDBY && session_has_closed(twin);

	session_unpair(t, s);
	session_enter(t, s, SESSION_QUIET);
	queue_remove(&s->order);
	queue_remove(&s->of_origin);
	s->origin->n_sessions--;
	hmap_remove(&t->by_flow, &s->by_flow);
	outlets_forget(&t->outlets, s->tail);
	session_free(t, s);
	t->count--;
	counter_add(&c_active, UINT64_MAX); /* one less */
	if (was_last)
		session_drop(t, twin);
}

/* What malloc(3) of the C library takes for itself, and to which multiple. */
#define MALLOC_OWN   8u
#define MALLOC_ALIGN 16u

static size_t allocated(size_t n)
{
	return (n + MALLOC_OWN + MALLOC_ALIGN - 1) / MALLOC_ALIGN * MALLOC_ALIGN;
}

size_t sessions_memory(const struct sessions *t)
{
	return t->count * allocated(sizeof(struct session) + t->outlets.state_len) +
	       hmap_memory(&t->by_flow) + hmap_memory(&t->by_tuple) + hmap_memory(&t->by_agent) +
	       t->by_agent.count * allocated(sizeof(struct session_origin)) + t->names.memory +
	       hmap_memory(&t->names.all) + pokes_memory(&t->pokes) + pokes_memory(&t->waits) +
	       t->by_ghost.count * allocated(sizeof(struct ghost)) + hmap_memory(&t->by_ghost) +
	       t->n_pairs * allocated(session_pair_size()) + t->held;
}

void session_memory_tell(struct sessions *t)
{
	size_t now = sessions_memory(t);

	counter_add(&c_memory, (uint64_t)now - t->memory); /* modulo 2^64: less, too */
	t->memory = now;
}

struct session *session_least_active(const struct sessions *t)
{
	struct queue_node *live = queue_first(&t->live), *rest = queue_first(&t->rest);
	struct session *a = live ? queue_entry(live, struct session, order) : NULL;
	struct session *b = rest ? queue_entry(rest, struct session, order) : NULL;

	return !a || (b && b->active_ns <= a->active_ns) ? b : a;
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
	if (t->conf.parts == 0)
		t->conf.parts = 1;
	t->sinks = sinks;
	outlets_init(&t->outlets, sinks);
	if (outlets_open(&t->outlets, sinks, t->conf.parts) < 0) {
		outlets_close(&t->outlets);
		free(t);
		return -ENOMEM;
	}
	hmap_init(&t->by_flow);
	hmap_init(&t->by_tuple);
	hmap_init(&t->by_agent);
	hmap_init(&t->by_ghost);
	queue_init(&t->live);
	queue_init(&t->rest);
	pokes_init(&t->pokes);
	pokes_init(&t->waits);
	names_init(&t->names);
	queue_init(&t->ghosts);
	queue_init(&t->waiting);
	queue_init(&t->going);
	*out = t;
	return 0;
}

void sessions_keep(struct sessions *t, struct ledger *l)
{
	outlets_keep(&t->outlets, l);
}

void session_origin_free(struct sessions *t, struct session_origin *o)
{
	struct queue_node *n;

	while ((n = queue_first(&o->sessions)) != NULL)
		session_drop(t, queue_entry(n, struct session, of_origin));
	if (queue_is_in(&o->going))
		queue_remove(&o->going);
	else
		hmap_remove(&t->by_agent, &o->by_agent);
	free(o);
}

void session_origin_leave(struct sessions *t, struct session_origin *o)
{
	hmap_remove(&t->by_agent, &o->by_agent);
	queue_push(&t->going, &o->going);
}

void sessions_free(struct sessions *t)
{
	struct hmap_node *o;
	struct queue_node *g;

	if (!t)
		return;
	while ((g = queue_first(&t->going)) != NULL)
		session_origin_free(t, queue_entry(g, struct session_origin, going));
	while ((o = hmap_any(&t->by_agent, NULL)) != NULL)
		session_origin_free(t, hmap_entry(o, struct session_origin, by_agent));
	while ((g = queue_first(&t->ghosts)) != NULL)
		ghost_free(t, queue_entry(g, struct ghost, order));
	hmap_fini(&t->by_flow);
	hmap_fini(&t->by_tuple);
	hmap_fini(&t->by_agent);
	hmap_fini(&t->by_ghost);
	names_fini(&t->names);
	pokes_fini(&t->pokes);
	pokes_fini(&t->waits);
	counter_add(&c_memory, -(uint64_t)t->memory);
	outlets_close(&t->outlets);
	explicit_bzero(&t->outlets, sizeof(t->outlets)); /* held plaintext */
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

size_t sessions_count(const struct sessions *t)
{
	return t->count;
}
