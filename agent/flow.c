/* SPDX-License-Identifier: Apache-2.0 */
/*
 * flow: events in, frames out. A connection lives from its first TLS byte to the moment when no
 * process can read it any more; its end is told when the process has seen it, not when the kernel
 * has, because bytes that arrived before a FIN or RST may still be read after it. Never does I/O of
 * its own but for /proc at the start of a connection; never guesses an address.
 */
#include "flow.h"

#include "base/clock.h"
#include "base/hmap.h"
#include "base/metrics.h"
#include "base/queue.h"
#include "held.h"
#include "process.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

static COUNTER_DEFINE(flows_seen, "flow_connections", "connections seen to carry TLS");
static COUNTER_DEFINE(flows_filtered, "flow_connections_filtered",
		      "connections that -I or the filter left out");
static COUNTER_DEFINE(
	flows_standby, "flow_connections_standby",
	"connections seen from both ends on this host: the second end is not mirrored");
static COUNTER_DEFINE(flows_evicted, "flow_connections_evicted",
		      "connections given up: too many at once");
static COUNTER_DEFINE(
	flows_role_guess, "flow_connections_role_inferred",
	"connections whose client was inferred from listening sockets or port numbers");
static COUNTER_DEFINE(bytes_out, "flow_bytes", "plaintext bytes passed on");
static COUNTER_DEFINE(bytes_gap, "flow_bytes_gap",
		      "plaintext bytes told as a gap: lost in the kernel");
static COUNTER_DEFINE(bytes_filtered, "flow_bytes_filtered",
		      "plaintext bytes of connections left out");
static COUNTER_DEFINE(bytes_standby, "flow_bytes_standby", "plaintext bytes of second ends");
static COUNTER_DEFINE(
	bytes_unknown, "flow_bytes_lost_unknown",
	"plaintext bytes of connections whose opening was lost or that were given up");
static COUNTER_DEFINE(bytes_after_end, "flow_bytes_lost_after_end",
		      "plaintext bytes after the told end");
static COUNTER_DEFINE(bytes_late, "flow_bytes_lost_late",
		      "plaintext bytes at a position told already, or impossible");
static COUNTER_DEFINE(events_bad, "flow_events_malformed", "malformed events, ignored");

/* A source that jumps further is broken; offsets on the wire never wrap. */
#define OFFSET_MAX (1ull << 62)

enum verdict { WANTED, FILTERED, STANDBY };

enum ending {
	NOT_ENDING,
	ENDING_FIN,    /* closed gracefully; the process may still read */
	ENDING_RST_IN, /* reset by the peer; the process may still read */
	ENDED,         /* told; only the socket's destruction is waited for */
};

struct flow {
	struct hmap_node by_id, by_session;
	struct queue_node age;      /* least recently active first */
	struct queue_node ending_q; /* while ending, by deadline */
	uint64_t id;
	uint8_t session[16];
	uint64_t pos[2]; /* next position expected from the source, by enum sslc_dir */
	uint64_t off[2]; /* bytes told so far, by enum sslc_dir */
	uint64_t deadline_ns;
	enum verdict verdict;
	enum ending ending;
	bool local_is_client;
	bool remote_fin;  /* arrived; told when the process has read what came before it */
	bool local_fin;   /* sent after it: told after it */
	bool fin_told[2]; /* by enum sslc_dir: OUT is this end's own */
};

struct flows {
	struct flows_conf conf;
	struct hmap by_id, by_session;
	struct queue by_age, ending;
	struct held *held;
	uint64_t now_ns;
	int64_t wall_offset_ns;
};

int flows_new(struct flows **out, const struct flows_conf *conf)
{
	static const struct held_limits limits = {
		.per_object = FLOW_HELD_MAX,
		.total = FLOW_HELD_ALL_MAX,
		.wait_ns = FLOW_HELD_MS * NS_PER_MS,
	};
	struct flows *t = calloc(1, sizeof(*t));
	int err;

	if (!t)
		return -ENOMEM;
	t->conf = *conf;
	hmap_init(&t->by_id);
	hmap_init(&t->by_session);
	queue_init(&t->by_age);
	queue_init(&t->ending);
	err = held_new(&t->held, &limits);
	if (err) {
		free(t);
		return err;
	}
	*out = t;
	return 0;
}

static uint64_t hash_id(uint64_t id)
{
	return hmap_hash(&id, sizeof(id));
}

static struct flow *find(const struct flows *t, uint64_t id)
{
	for (struct hmap_node *n = hmap_first(&t->by_id, hash_id(id)); n; n = hmap_next_same(n)) {
		struct flow *f = hmap_entry(n, struct flow, by_id);

		if (f->id == id)
			return f;
	}
	return NULL;
}

/* The flow that speaks for this session on this host, or NULL. */
static struct flow *find_session(const struct flows *t, const uint8_t session[16])
{
	for (struct hmap_node *n = hmap_first(&t->by_session, hmap_hash(session, 16)); n;
	     n = hmap_next_same(n)) {
		struct flow *f = hmap_entry(n, struct flow, by_session);

		if (memcmp(f->session, session, 16) == 0)
			return f;
	}
	return NULL;
}

static void forget(struct flows *t, struct flow *f)
{
	hmap_remove(&t->by_id, &f->by_id);
	if (f->verdict == WANTED)
		hmap_remove(&t->by_session, &f->by_session);
	queue_remove(&f->age);
	queue_remove(&f->ending_q);
	free(f);
}

static uint64_t wall(const struct flows *t, uint64_t mono_ns)
{
	return mono_ns + (uint64_t)t->wall_offset_ns;
}

/* enum sslc_dir as seen from the connection. */
static enum flow_dir wire_dir(const struct flow *f, unsigned dir)
{
	return (dir == SSLC_DIR_OUT) == f->local_is_client ? FLOW_C2S : FLOW_S2C;
}

/* --- opening ------------------------------------------------------------------------------------
 */

/* PROTOCOL.md 3.5: the same 16 bytes at both ends of one connection. */
static void session_id(const struct flows *t, const struct sslc_ev_open *ev,
		       const struct frame_flow_open *m, uint8_t out[16])
{
	bool client = m->captured_end == FLOW_C2S;
	size_t alen = m->family == 4 ? 4 : 16;
	uint8_t digest[EVP_MAX_MD_SIZE];
	struct buf b;

	buf_init(&b, 128);
	if (ev->flags & SSLC_OPEN_ISN_VALID) {
		wr_u8(&b, m->transport);
		wr_u8(&b, m->family);
		wr_bytes(&b, m->client_addr, alen);
		wr_u16be(&b, m->client_port);
		wr_bytes(&b, m->server_addr, alen);
		wr_u16be(&b, m->server_port);
		wr_u32be(&b, client ? ev->iss : ev->irs);
		wr_u32be(&b, client ? ev->irs : ev->iss);
	} else {
		wr_bytes(&b, t->conf.agent, sizeof(t->conf.agent));
		wr_u64be(&b, ev->ev.flow);
	}
	if (b.bad || !EVP_Digest(b.p, b.len, digest, NULL, EVP_sha256(), NULL))
		memcpy(digest, &ev->ev.flow, sizeof(ev->ev.flow));
	memcpy(out, digest, 16);
	buf_fini(&b);
}

/*
 * Who connected, when the kernel's counters cannot tell any more (this end has sent its FIN): the
 * end whose port is listened on is the server; else, the lower port.
 */
static enum sslc_role infer_role(const struct sslc_ev_open *ev)
{
	if (process_listens(ev->conn.tgid, ev))
		return SSLC_ROLE_SERVER;
	return ev->local_port < ev->remote_port ? SSLC_ROLE_SERVER : SSLC_ROLE_CLIENT;
}

static void fill_open(const struct flows *t, const struct sslc_ev_open *ev,
		      struct frame_flow_open *m)
{
	bool client = ev->role == SSLC_ROLE_CLIENT;

	*m = (struct frame_flow_open){
		.flow = ev->ev.flow,
		.ts_ns = wall(t, ev->ev.ts_ns),
		.transport = 6, /* TCP */
		.family = ev->family,
		.captured_end = client ? FLOW_C2S : FLOW_S2C,
		/* addresses are always the socket's own; who connected may be inferred */
		.confidence = ev->flags & SSLC_OPEN_ROLE_EXACT ? CONF_EXACT : CONF_INFERRED,
		.client_port = client ? ev->local_port : ev->remote_port,
		.server_port = client ? ev->remote_port : ev->local_port,
		.mss = ev->mss,
		.netns = ev->netns,
		.pid = ev->conn.tgid,
		.uid = ev->uid,
	};
	memcpy(m->client_addr, client ? ev->local_addr : ev->remote_addr, 16);
	memcpy(m->server_addr, client ? ev->remote_addr : ev->local_addr, 16);
}

/* Session id, process and verdict of a new flow; tells the peer when it is wanted. */
static void judge(struct flows *t, struct flow *f, struct sslc_ev_open *ev)
{
	char exe[1024], container[64];
	struct frame_flow_open m;

	f->local_is_client = ev->role == SSLC_ROLE_CLIENT;
	fill_open(t, ev, &m);
	session_id(t, ev, &m, m.session);
	memcpy(f->session, m.session, 16);
	if (t->conf.filter && !filter_wants(t->conf.filter, ev)) {
		counter_inc(&flows_filtered);
		f->verdict = FILTERED;
	} else if (find_session(t, f->session) ||
		   hmap_insert(&t->by_session, &f->by_session, hmap_hash(f->session, 16))) {
		counter_inc(&flows_standby);
		f->verdict = STANDBY;
	}
	if (f->verdict != WANTED) {
		t->conf.skip(t->conf.ctx, f->id);
		return;
	}
	process_exe(ev->conn.tgid, exe, sizeof(exe));
	process_container(ev->conn.tgid, container, sizeof(container));
	m.comm = span_of(ev->comm, strnlen(ev->comm, sizeof(ev->comm)));
	m.exe = span_str(exe);
	m.container = span_str(container);
	ship_flow_open(t->conf.ship, &m);
}

static void tell_close(struct flows *t, struct flow *f, enum flow_end end, uint64_t ts_ns);

static void evict_oldest(struct flows *t)
{
	struct flow *f = queue_entry(queue_first(&t->by_age), struct flow, age);

	counter_inc(&flows_evicted);
	tell_close(t, f, FLOW_END_AGENT, t->now_ns);
	forget(t, f);
}

static void on_open(struct flows *t, const struct sslc_ev_open *in)
{
	struct sslc_ev_open ev = *in;
	struct flow *f;

	if (!ev.ev.flow || find(t, ev.ev.flow) || (ev.family != 4 && ev.family != 6)) {
		counter_inc(&events_bad);
		return;
	}
	if (t->by_id.count >= FLOWS_MAX)
		evict_oldest(t);
	f = calloc(1, sizeof(*f));
	if (!f || hmap_insert(&t->by_id, &f->by_id, hash_id(ev.ev.flow))) {
		free(f);
		return; /* its bytes will be counted as unknown */
	}
	counter_inc(&flows_seen);
	f->id = ev.ev.flow;
	queue_push(&t->by_age, &f->age);
	if (!(ev.flags & SSLC_OPEN_ROLE_EXACT)) {
		counter_inc(&flows_role_guess);
		if (ev.role == SSLC_ROLE_UNKNOWN)
			ev.role = infer_role(&ev);
	}
	judge(t, f, &ev);
}

/* --- bytes --------------------------------------------------------------------------------------
 */

static void tell_gap(struct flows *t, struct flow *f, unsigned dir, uint64_t len, uint64_t ts_ns)
{
	struct frame_gap m = {
		.flow = f->id,
		.offset = f->off[dir],
		.len = len,
		.ts_ns = wall(t, ts_ns),
		.dir = wire_dir(f, dir),
	};

	counter_add(&bytes_gap, len);
	f->off[dir] += len;
	ship_gap(t->conf.ship, &m);
}

static void tell_data(struct flows *t, struct flow *f, const struct sslc_ev_data *ev)
{
	struct frame_data m = {
		.flow = f->id,
		.offset = f->off[ev->dir],
		.ts_ns = wall(t, ev->ev.ts_ns),
		.dir = wire_dir(f, ev->dir),
		.flags = ev->flags & SSLC_DATA_END ? FRAME_DATA_END : 0,
		.bytes = span_of(ev->data, ev->len),
	};

	counter_add(&bytes_out, ev->len);
	f->off[ev->dir] += ev->len;
	ship_data(t->conf.ship, &m);
}

/* Why this flow's bytes do not go out now, or NULL. */
static struct counter *not_wanted(const struct flow *f, unsigned dir)
{
	if (f->verdict == FILTERED)
		return &bytes_filtered;
	if (f->verdict == STANDBY)
		return &bytes_standby;
	if (f->ending == ENDED || f->fin_told[dir])
		return &bytes_after_end;
	return NULL;
}

/* Bytes at their position; `pos` says how far each direction has come in the source's counting. */
static void tell_at(struct flows *t, struct flow *f, uint64_t pos[2], const struct sslc_ev_data *ev)
{
	if (ev->pos < pos[ev->dir]) {
		counter_add(&bytes_late, ev->len);
		return;
	}
	if (f->off[ev->dir] > OFFSET_MAX || ev->pos - pos[ev->dir] > OFFSET_MAX - f->off[ev->dir]) {
		counter_inc(&events_bad);
		counter_add(&bytes_late, ev->len);
		return;
	}
	if (ev->pos > pos[ev->dir])
		tell_gap(t, f, ev->dir, ev->pos - pos[ev->dir], ev->ev.ts_ns);
	pos[ev->dir] = ev->pos + ev->len;
	tell_data(t, f, ev);
}

static void on_data(struct flows *t, const struct sslc_ev_data *ev)
{
	struct counter *why;
	struct flow *f;

	if (!ev->ev.flow) {
		held_put(t->held, ev, t->now_ns);
		return;
	}
	f = find(t, ev->ev.flow);
	why = f ? not_wanted(f, ev->dir) : &bytes_unknown;
	if (why) {
		counter_add(why, ev->len);
		return;
	}
	queue_push(&t->by_age, &f->age);
	tell_at(t, f, f->pos, ev);
}

struct bound {
	struct flows *t;
	struct flow *f;
	uint64_t pos[2]; /* of the TLS object, by enum sslc_dir */
};

/* Bytes that were read before their connection was known: they come before all others of it. */
static void on_held(void *ctx, const struct sslc_ev_data *ev)
{
	struct bound *b = ctx;
	struct counter *why = b->f ? not_wanted(b->f, ev->dir) : &bytes_unknown;

	if (why)
		counter_add(why, ev->len);
	else
		tell_at(b->t, b->f, b->pos, ev);
}

static void on_bind(struct flows *t, const struct sslc_ev_bind *ev)
{
	struct bound b = {.t = t, .f = find(t, ev->ev.flow)};

	held_take(t->held, &ev->conn, on_held, &b);
	for (unsigned dir = 0; b.f && dir < 2; dir++) /* not held any more, or never */
		if (!not_wanted(b.f, dir) && ev->pos[dir] > b.pos[dir] && ev->pos[dir] < OFFSET_MAX)
			tell_gap(t, b.f, dir, ev->pos[dir] - b.pos[dir], ev->ev.ts_ns);
}

/* --- ends ---------------------------------------------------------------------------------------
 */

static void tell_fin(struct flows *t, struct flow *f, unsigned dir, uint64_t ts_ns)
{
	struct frame_flow_fin m = {.flow = f->id, .ts_ns = wall(t, ts_ns), .dir = wire_dir(f, dir)};

	if (f->verdict != WANTED || f->fin_told[dir] || f->ending == ENDED)
		return;
	f->fin_told[dir] = true;
	ship_flow_fin(t->conf.ship, &m);
}

/* The peer's FIN becomes visible when the process has read all before it, or will read no more. */
static void tell_remote_fin(struct flows *t, struct flow *f, uint64_t ts_ns)
{
	if (f->remote_fin)
		tell_fin(t, f, SSLC_DIR_IN, ts_ns);
	if (f->local_fin)
		tell_fin(t, f, SSLC_DIR_OUT, ts_ns);
}

static void tell_close(struct flows *t, struct flow *f, enum flow_end end, uint64_t ts_ns)
{
	struct frame_flow_close m = {.flow = f->id, .ts_ns = wall(t, ts_ns), .end = (uint8_t)end};

	if (f->verdict != WANTED || f->ending == ENDED)
		return;
	f->ending = ENDED;
	queue_remove(&f->ending_q);
	ship_flow_close(t->conf.ship, &m);
}

static enum flow_end reset_by(const struct flow *f, unsigned dir)
{
	return wire_dir(f, dir) == FLOW_C2S ? FLOW_END_RST_C2S : FLOW_END_RST_S2C;
}

/* The end that was held back is due. */
static void settle(struct flows *t, struct flow *f, uint64_t ts_ns)
{
	if (f->ending == ENDING_RST_IN) {
		tell_close(t, f, reset_by(f, SSLC_DIR_IN), ts_ns);
	} else if (f->ending == ENDING_FIN) {
		tell_remote_fin(t, f, ts_ns);
		tell_close(t, f, FLOW_END_FIN, ts_ns);
	}
}

static void hold_end(struct flows *t, struct flow *f, enum ending ending, uint64_t ts_ns)
{
	if (f->ending != NOT_ENDING)
		return;
	f->ending = ending;
	f->deadline_ns = ts_ns + FLOW_GRACE_MS * NS_PER_MS;
	queue_push(&t->ending, &f->ending_q);
	/* All has been read, and nothing can be written after both FINs. After a reset a write that
	 * the kernel took before it may still return. */
	if (ending == ENDING_FIN && f->fin_told[SSLC_DIR_IN])
		settle(t, f, ts_ns);
}

/* After the peer's FIN the process may still be reading, as after shutdown(SHUT_WR). */
static void on_local_fin(struct flows *t, struct flow *f, uint64_t ts_ns)
{
	if (f->remote_fin && !f->fin_told[SSLC_DIR_IN])
		f->local_fin = true;
	else
		tell_fin(t, f, SSLC_DIR_OUT, ts_ns);
}

static void on_eof(struct flows *t, struct flow *f, uint64_t ts_ns)
{
	/* After a reset whose error send() has taken, receive says 0 too. */
	if (f->ending != ENDING_RST_IN)
		f->remote_fin = true;
	tell_remote_fin(t, f, ts_ns);
	settle(t, f, ts_ns);
}

static void on_destroyed(struct flows *t, struct flow *f, uint64_t ts_ns)
{
	if (f->ending == NOT_ENDING)
		f->ending = ENDING_FIN;
	settle(t, f, ts_ns);
	forget(t, f);
}

static void on_sock(struct flows *t, const struct sslc_ev_sock *ev)
{
	struct flow *f = find(t, ev->ev.flow);
	uint64_t ts_ns = ev->ev.ts_ns;

	if (!f)
		return;
	switch (ev->what) {
	case SSLC_SOCK_LOCAL_FIN:
		on_local_fin(t, f, ts_ns);
		break;
	case SSLC_SOCK_REMOTE_FIN:
		f->remote_fin = true;
		break;
	case SSLC_SOCK_EOF:
		on_eof(t, f, ts_ns);
		break;
	case SSLC_SOCK_ERROR:
		settle(t, f, ts_ns);
		break;
	case SSLC_SOCK_RST_IN:
		hold_end(t, f, ENDING_RST_IN, ts_ns);
		break;
	case SSLC_SOCK_RST_OUT:
	case SSLC_SOCK_TIMEOUT:
		tell_close(t, f, reset_by(f, SSLC_DIR_OUT), ts_ns);
		break;
	case SSLC_SOCK_CLOSED:
		hold_end(t, f, ENDING_FIN, ts_ns);
		break;
	case SSLC_SOCK_DESTROYED:
		on_destroyed(t, f, ts_ns);
		break;
	default:
		counter_inc(&events_bad);
	}
}

/* --- the rest -----------------------------------------------------------------------------------
 */

static bool is_well_formed(const struct sslc_event *ev)
{
	const struct sslc_ev_data *d = (const void *)ev;

	switch (ev->type) {
	case SSLC_EV_OPEN:
		return ev->size >= sizeof(struct sslc_ev_open);
	case SSLC_EV_DATA:
		return ev->size >= sizeof(*d) && d->len <= ev->size - sizeof(*d) && d->len &&
		       d->dir <= 1;
	case SSLC_EV_BIND:
		return ev->size >= sizeof(struct sslc_ev_bind);
	case SSLC_EV_SOCK:
		return ev->size >= sizeof(struct sslc_ev_sock);
	default:
		return false;
	}
}

void flows_event(struct flows *t, const struct sslc_event *ev)
{
	if (!is_well_formed(ev)) {
		counter_inc(&events_bad);
		return;
	}
	if (ev->ts_ns > t->now_ns)
		t->now_ns = ev->ts_ns;
	switch (ev->type) {
	case SSLC_EV_OPEN:
		on_open(t, (const void *)ev);
		break;
	case SSLC_EV_DATA:
		on_data(t, (const void *)ev);
		break;
	case SSLC_EV_BIND:
		on_bind(t, (const void *)ev);
		break;
	case SSLC_EV_SOCK:
		on_sock(t, (const void *)ev);
		break;
	}
}

void flows_tick(struct flows *t, uint64_t now_ns, int64_t wall_offset_ns)
{
	struct queue_node *n;

	t->now_ns = now_ns;
	t->wall_offset_ns = wall_offset_ns;
	held_expire(t->held, now_ns);
	while ((n = queue_first(&t->ending))) {
		struct flow *f = queue_entry(n, struct flow, ending_q);

		if (now_ns < f->deadline_ns)
			break;
		queue_remove(n);
		settle(t, f, now_ns);
	}
}

void flows_close_all(struct flows *t, uint64_t now_ns)
{
	struct queue_node *n;

	held_expire(t->held, UINT64_MAX); /* what is not bound by now never will be */
	while ((n = queue_first(&t->by_age))) {
		struct flow *f = queue_entry(n, struct flow, age);

		settle(t, f, now_ns);
		tell_close(t, f, FLOW_END_AGENT, now_ns);
		forget(t, f);
	}
}

size_t flows_count(const struct flows *t)
{
	return t->by_id.count;
}

void flows_free(struct flows *t)
{
	struct queue_node *n;

	if (!t)
		return;
	while ((n = queue_first(&t->by_age)))
		forget(t, queue_entry(n, struct flow, age));
	held_free(t->held);
	hmap_fini(&t->by_id);
	hmap_fini(&t->by_session);
	free(t);
}
