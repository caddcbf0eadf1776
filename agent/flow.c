/* SPDX-License-Identifier: Apache-2.0 */
/*
 * flow: events in, frames out. A connection lives from its first TLS byte to the moment when no
 * process can read it any more; its end is told when the process has seen it, not when the kernel
 * has, because bytes that arrived before a FIN or RST may still be read after it. Never does I/O of
 * its own but for /proc at the start of a connection; never guesses an address.
 */
#include "flow.h"

#include "match/adjacent.h"
#include "match/audit.h"
#include "base/clock.h"
#include "base/hmap.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/queue.h"
#include "match/early.h"
#include "match/held.h"
#include "process.h"
#include "match/stitch.h"

#include <errno.h>
#include <inttypes.h>
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
static COUNTER_DEFINE(flows_unmatched, "flow_connections_unmatched",
		      "connections that carried TLS records, but no TLS call was found for");
static COUNTER_DEFINE(bytes_out, "flow_bytes", "plaintext bytes passed on");
static COUNTER_DEFINE(bytes_prelude, "flow_bytes_prelude",
		      "part of flow_bytes: what was said before TLS began");
static COUNTER_DEFINE(
	bytes_gap, "flow_bytes_gap",
	"plaintext bytes told as a gap: lost in the kernel, or 0-RTT beyond what is held");
static COUNTER_DEFINE(
	bytes_sendfile, "flow_bytes_gap_sendfile",
	"plaintext bytes told as a gap: sent by SSL_sendfile() and the like, never in the "
	"program's memory");
static COUNTER_DEFINE(bytes_assumed, "flow_bytes_early_assumed",
		      "0-RTT plaintext bytes passed on without knowing that the server took them");
static COUNTER_DEFINE(bytes_filtered, "flow_bytes_filtered",
		      "plaintext bytes of connections left out");
static COUNTER_DEFINE(bytes_standby, "flow_bytes_standby", "plaintext bytes of second ends");
static COUNTER_DEFINE(
	bytes_unknown, "flow_bytes_lost_unknown",
	"plaintext bytes of connections whose opening was lost or that were given up");
static COUNTER_DEFINE(bytes_after_end, "flow_bytes_lost_after_end",
		      "plaintext bytes after the told end");
static COUNTER_DEFINE(
	bytes_unsent, "flow_bytes_unsent",
	"plaintext bytes that were written to connections already broken, and so never "
	"sent: not passed on");
static COUNTER_DEFINE(
	bytes_unsent_told, "flow_bytes_unsent_told",
	"plaintext bytes passed on, or counted as lost, of records that were made just before "
	"their connection broke: no send took them");
static COUNTER_DEFINE(bytes_late, "flow_bytes_lost_late",
		      "plaintext bytes at a position told already, or impossible");
static COUNTER_DEFINE(flows_audited, "flow_connections_audited",
		      "connections whose socket's own byte counts were held against what was "
		      "captured");
static COUNTER_DEFINE(flows_late, "flow_connections_late",
		      "connections on which TLS had begun before they were watched");
static COUNTER_DEFINE(flows_missed, "flow_connections_unexplained",
		      "those whose socket carried more than their TLS calls explain: part of their "
		      "plaintext was not captured");
static COUNTER_DEFINE(flows_double, "flow_connections_double",
		      "those whose TLS calls said more than their socket carried");
static COUNTER_DEFINE(
	flows_paused, "flow_connections_paused",
	"connections closed for the mirror: their process was not probed for a while");
static COUNTER_DEFINE(bytes_paused, "flow_bytes_lost_paused",
		      "plaintext bytes of connections that began before their process was probed "
		      "again");
static COUNTER_DEFINE(events_bad, "flow_events_malformed", "malformed events, ignored");

#define FLOW_PAUSE_MS 2000 /* for what is in the ring when probes are taken off */

/* A source that jumps further is broken; offsets on the wire never wrap. */
#define OFFSET_MAX (1ull << 62)

enum verdict {
	WANTED,
	FILTERED,
	STANDBY,
	CANDIDATE, /* not judged: TLS was seen on the wire only, no TLS object is known for it */
};

enum ending {
	NOT_ENDING,
	ENDING_FIN,    /* closed gracefully; the process may still read */
	ENDING_RST_IN, /* reset by the peer; the process may still read */
	ENDED,         /* told; only the socket's destruction is waited for */
};

/* What is kept of a connection whose records went through sockets outside of TLS calls. */
struct candidate {
	struct sslc_ev_open open;
	struct sslc_conn_id owner; /* the last TLS object that adjacent.c bound to it */
	uint64_t pos[2];           /* next position expected of it, by enum sslc_dir */
	/* Ends that came before the connection was told. */
	uint8_t fin[2], n_fin; /* enum sslc_dir, in their order */
	bool closed;
	enum flow_end end;
};

/* A connection's addresses, the client's first: the same at both ends. */
struct tuple {
	uint8_t client[16], server[16];
	uint16_t client_port, server_port;
	uint32_t family;
};

struct flow {
	struct hmap_node by_id, by_session, by_tuple;
	struct tuple tuple;
	bool has_isn;               /* its session id is that of the connection, at either end */
	struct stitch_seam *seam;   /* NULL: bytes from inside TLS stay as they are */
	struct queue_node age;      /* least recently active first */
	struct queue_node ending_q; /* while ending, by deadline */
	uint64_t id;
	uint8_t session[16];
	uint64_t pos[2]; /* next position expected from the source, by enum sslc_dir */
	uint64_t off[2]; /* bytes told so far, by enum sslc_dir */
	uint64_t deadline_ns;
	struct candidate *candidate; /* NULL once socket operations inside of TLS calls were seen */
	enum verdict verdict;
	enum ending ending;
	bool local_is_client;
	bool remote_fin;     /* arrived; told when the process has read what came before it */
	bool local_fin;      /* sent after it: told after it */
	bool fin_told[2];    /* by enum sslc_dir: OUT is this end's own */
	bool is_shut;        /* its socket takes no more bytes from the process */
	uint32_t ahead;      /* bytes of the last record told that may not have been sent; or 0 */
	struct early *early; /* owned; 0-RTT bytes that stand at off[SSLC_DIR_OUT], not told yet */

	/* For its account. */
	uint64_t start_ns, opened_ns, bytes;
	uint32_t tgid;
	uint8_t confidence; /* enum flow_confidence */
	bool is_late;
	struct audit audit[2]; /* by enum sslc_dir */
	bool is_unexplained;
	bool is_unwanted; /* CANDIDATE, and the filter would leave it out */
	bool is_paused;   /* some of its calls were not seen: nothing is told any more */
};

/* A process whose calls were not seen for a while. */
struct pause {
	uint32_t tgid;
	uint64_t start_ticks;
	uint64_t since_ns; /* all before was seen */
	uint64_t until_ns; /* UINT64_MAX: it is not seen yet */
};

struct flows {
	struct flows_conf conf;
	struct hmap by_id, by_session, by_tuple; /* the latter two: of those WANTED */
	struct queue by_age, ending;
	struct held *held;
	struct early_pool *early;
	struct adjacent *adjacent;
	struct prelude *prelude; /* NULL: not wanted */
	struct pause pauses[FLOW_PAUSES_MAX];
	unsigned n_pauses;
	uint64_t paused_ns; /* when the last one was said; 0: all connections know */
	uint64_t now_ns;
	int64_t wall_offset_ns;
};

static bool on_match(void *ctx, const struct sslc_conn_id *conn, uint64_t flow);

static int prelude_open(struct flows *t)
{
	const struct prelude_conf conf = {
		.mode = t->conf.starttls,
		.side = FLOW_PRELUDE_MAX,
		.total = FLOW_PRELUDE_ALL_MAX,
		.lost = FLOW_PRELUDE_LOST,
		.idle_ns = FLOW_PRELUDE_IDLE_S * NS_PER_S,
	};

	return conf.mode == PRELUDE_INNER ? 0 : prelude_new(&t->prelude, &conf);
}

int flows_new(struct flows **out, const struct flows_conf *conf)
{
	static const struct held_limits limits = {
		.per_object = FLOW_HELD_MAX,
		.total = FLOW_HELD_ALL_MAX,
		.wait_ns = FLOW_HELD_MS * NS_PER_MS,
	};
	static const struct early_limits early = {
		.per_flow = FLOW_EARLY_MAX,
		.total = FLOW_EARLY_ALL_MAX,
	};
	struct flows *t = calloc(1, sizeof(*t));
	struct adjacent_conf ac = {.bind = on_match, .ctx = t};
	int err;

	if (!t)
		return -ENOMEM;
	t->conf = *conf;
	hmap_init(&t->by_id);
	hmap_init(&t->by_session);
	hmap_init(&t->by_tuple);
	queue_init(&t->by_age);
	queue_init(&t->ending);
	err = held_new(&t->held, &limits, conf->unbound, conf->ctx);
	if (!err)
		err = early_pool_new(&t->early, &early);
	if (!err)
		err = adjacent_new(&t->adjacent, &ac);
	if (!err)
		err = prelude_open(t);
	if (err) {
		early_pool_free(t->early);
		held_free(t->held);
		free(t);
		return err;
	}
	*out = t;
	return 0;
}

/* The kernel half counts them up: nobody can choose them. */
static uint64_t hash_id(uint64_t id)
{
	return id;
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

/*
 * Without initial sequence numbers the session id cannot tell that both ends are seen, or that two
 * sources see one of them: a living connection with the same addresses can. The same source never
 * sees one end twice.
 */
static bool has_twin(const struct flows *t, const struct flow *f)
{
	uint64_t hash = hmap_hash(&f->tuple, sizeof(f->tuple));

	for (struct hmap_node *n = hmap_first(&t->by_tuple, hash); n; n = hmap_next_same(n)) {
		struct flow *o = hmap_entry(n, struct flow, by_tuple);

		if (!memcmp(&o->tuple, &f->tuple, sizeof(f->tuple)) &&
		    !(o->has_isn && f->has_isn) && o->ending != ENDED &&
		    (o->local_is_client != f->local_is_client || o->has_isn != f->has_isn))
			return true;
	}
	return false;
}

static bool index_flow(struct flows *t, struct flow *f)
{
	if (hmap_insert(&t->by_session, &f->by_session, hmap_hash(f->session, 16)))
		return false;
	if (!hmap_insert(&t->by_tuple, &f->by_tuple, hmap_hash(&f->tuple, sizeof(f->tuple))))
		return true;
	hmap_remove(&t->by_session, &f->by_session);
	return false;
}

static struct flow_account account_of(const struct flow *f, const char *comm)
{
	static const uint8_t fates[] = {
		[WANTED] = FLOW_MIRRORED,
		[FILTERED] = FLOW_FILTERED,
		[STANDBY] = FLOW_STANDBY,
		[CANDIDATE] = FLOW_UNMATCHED,
	};

	return (struct flow_account){
		.start_ns = f->start_ns,
		.tgid = f->tgid,
		.fate = f->is_unwanted ? FLOW_FILTERED : fates[f->verdict],
		.confidence = f->confidence,
		.by_preload = (f->id & SSLC_FLOW_SOURCE) == SSLC_FLOW_PRELOAD,
		.is_late = f->is_late || f->is_paused,
		.is_unexplained = f->is_unexplained,
		.bytes = f->bytes,
		.comm = comm,
	};
}

static void tell_account(const struct flows *t, flow_account_fn to, const struct flow *f,
			 const char *comm)
{
	struct flow_account a = account_of(f, comm);

	if (to)
		to(t->conf.ctx, &a);
}

static void forget(struct flows *t, struct flow *f)
{
	early_drop(t->early, &f->early);
	adjacent_flow_end(t->adjacent, f->id);
	if (f->verdict == CANDIDATE)
		counter_inc(&flows_unmatched);
	tell_account(t, t->conf.ended, f, NULL);
	hmap_remove(&t->by_id, &f->by_id);
	if (f->verdict == WANTED) {
		hmap_remove(&t->by_session, &f->by_session);
		hmap_remove(&t->by_tuple, &f->by_tuple);
	}
	queue_remove(&f->age);
	queue_remove(&f->ending_q);
	free(f->candidate);
	free(f->seam);
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

static void fill_open(const struct flows *t, const struct sslc_ev_open *ev, bool matched,
		      struct frame_flow_open *m)
{
	bool client = ev->role == SSLC_ROLE_CLIENT;
	enum flow_confidence best = matched ? CONF_MATCHED : CONF_EXACT;

	*m = (struct frame_flow_open){
		.flow = ev->ev.flow,
		.ts_ns = wall(t, ev->ev.ts_ns),
		.transport = 6, /* TCP */
		.family = ev->family,
		.captured_end = client ? FLOW_C2S : FLOW_S2C,
		/* addresses are always the socket's own; who connected may be inferred, and
		 * that the bytes are of this connection, matched */
		.confidence = ev->flags & SSLC_OPEN_ROLE_EXACT ? best : CONF_INFERRED,
		.client_port = client ? ev->local_port : ev->remote_port,
		.server_port = client ? ev->remote_port : ev->local_port,
		.mss = ev->mss,
		.flags = ev->flags & SSLC_OPEN_LATE ? FLOW_OPEN_LATE : 0,
		.netns = ev->netns,
		.pid = ev->conn.tgid,
		.uid = ev->uid,
	};
	memcpy(m->client_addr, client ? ev->local_addr : ev->remote_addr, 16);
	memcpy(m->server_addr, client ? ev->remote_addr : ev->local_addr, 16);
}

static struct tuple tuple_of(const struct frame_flow_open *m)
{
	struct tuple out = {
		.client_port = m->client_port, .server_port = m->server_port, .family = m->family};

	_Static_assert(sizeof(out) == 40, "no padding: it is compared as memory");
	memcpy(out.client, m->client_addr, 16);
	memcpy(out.server, m->server_addr, 16);
	return out;
}

static void complete_role(struct sslc_ev_open *ev)
{
	if (ev->flags & SSLC_OPEN_ROLE_EXACT)
		return;
	counter_inc(&flows_role_guess);
	if (ev->role == SSLC_ROLE_UNKNOWN)
		ev->role = infer_role(ev);
}

struct teller {
	struct flows *t;
	struct flow *f;
};

static void on_prelude(void *ctx, const struct prelude_part *part)
{
	const struct teller *x = ctx;
	struct frame_data m = {
		.flow = x->f->id,
		.offset = x->f->off[part->dir],
		.ts_ns = wall(x->t, part->ts_ns),
		.dir = wire_dir(x->f, part->dir),
		.flags = FRAME_DATA_END,
		.bytes = part->bytes,
	};

	x->f->off[part->dir] += part->bytes.len;
	ship_data(x->t->conf.ship, &m);
}

/* What was said before TLS goes first: the positions of what follows are counted from its end. */
static void tell_prelude(struct flows *t, struct flow *f)
{
	struct teller x = {.t = t, .f = f};
	uint64_t n;

	if (!t->prelude)
		return;
	n = prelude_take(t->prelude, f->id, f->local_is_client, on_prelude, &x, &f->seam);
	counter_add(&bytes_out, n);
	counter_add(&bytes_prelude, n);
}

static uint64_t drop_prelude(struct flows *t, uint64_t flow)
{
	return t->prelude ? prelude_drop(t->prelude, flow) : 0;
}

/* Session id, process and verdict of a new flow; tells the peer when it is wanted. */
static void judge(struct flows *t, struct flow *f, struct sslc_ev_open *ev, bool matched)
{
	char exe[1024], container[64];
	struct frame_flow_open m;

	complete_role(ev);
	f->verdict = WANTED;
	f->is_unwanted = false;
	f->local_is_client = ev->role == SSLC_ROLE_CLIENT;
	fill_open(t, ev, matched, &m);
	f->confidence = m.confidence;
	session_id(t, ev, &m, m.session);
	memcpy(f->session, m.session, 16);
	f->has_isn = ev->flags & SSLC_OPEN_ISN_VALID;
	f->tuple = tuple_of(&m);
	if (t->conf.filter && !filter_wants(t->conf.filter, ev)) {
		counter_inc(&flows_filtered);
		f->verdict = FILTERED;
	} else if (find_session(t, f->session) || has_twin(t, f) || !index_flow(t, f)) {
		counter_inc(&flows_standby);
		f->verdict = STANDBY;
	}
	tell_account(t, t->conf.opened, f, ev->comm);
	if (f->verdict != WANTED) {
		counter_add(f->verdict == FILTERED ? &bytes_filtered : &bytes_standby,
			    drop_prelude(t, f->id));
		t->conf.skip(t->conf.ctx, f->id);
		return;
	}
	process_exe(ev->conn.tgid, exe, sizeof(exe));
	process_container(ev->conn.tgid, container, sizeof(container));
	m.comm = span_of(ev->comm, strnlen(ev->comm, sizeof(ev->comm)));
	m.exe = span_str(exe);
	m.container = span_str(container);
	ship_flow_open(t->conf.ship, &m);
	tell_prelude(t, f);
}

static void tell_close(struct flows *t, struct flow *f, enum flow_end end, uint64_t ts_ns);

static void evict_oldest(struct flows *t)
{
	struct flow *f = queue_entry(queue_first(&t->by_age), struct flow, age);

	counter_inc(&flows_evicted);
	tell_close(t, f, FLOW_END_AGENT, t->now_ns);
	forget(t, f);
}

/* Nothing is said of it, and nobody asked about it, before a TLS object is bound to it. */
static bool keep_candidate(struct flow *f, const struct sslc_ev_open *ev)
{
	f->candidate = calloc(1, sizeof(*f->candidate));
	if (!f->candidate)
		return false;
	f->candidate->open = *ev;
	f->verdict = CANDIDATE;
	return true;
}

static struct pause *find_pause(struct flows *t, uint32_t tgid, uint64_t start_ticks)
{
	for (unsigned i = 0; i < t->n_pauses; i++)
		if (t->pauses[i].tgid == tgid && t->pauses[i].start_ticks == start_ticks)
			return &t->pauses[i];
	return NULL;
}

/* It had no probes for a while, or has none now. */
static bool was_paused(struct flows *t, const struct sslc_conn_id *conn)
{
	return t->n_pauses && find_pause(t, conn->tgid, process_ticks(conn->start_ns));
}

static void on_open(struct flows *t, const struct sslc_ev_open *in)
{
	struct sslc_ev_open ev = *in;
	struct flow *f;
	bool is_paused;

	if (!ev.ev.flow || find(t, ev.ev.flow) || (ev.family != 4 && ev.family != 6)) {
		counter_inc(&events_bad);
		return;
	}
	if (t->by_id.count >= FLOWS_MAX)
		evict_oldest(t);
	f = calloc(1, sizeof(*f));
	is_paused = ev.flags & SSLC_OPEN_LATE && was_paused(t, &ev.conn);
	if (!f || ((ev.flags & SSLC_OPEN_CANDIDATE || is_paused) && !keep_candidate(f, &ev)) ||
	    hmap_insert(&t->by_id, &f->by_id, hash_id(ev.ev.flow))) {
		if (f)
			free(f->candidate);
		free(f);
		return; /* its bytes will be counted as unknown */
	}
	counter_inc(&flows_seen);
	f->id = ev.ev.flow;
	f->start_ns = ev.conn.start_ns;
	f->opened_ns = ev.ev.ts_ns;
	f->tgid = ev.conn.tgid;
	f->is_late = ev.flags & SSLC_OPEN_LATE;
	f->is_paused = is_paused;
	if (f->is_late) {
		counter_inc(&flows_late);
		log_debug("flow: process %" PRIu32 ": TLS had begun before it was watched",
			  f->tgid);
	}
	queue_push(&t->by_age, &f->age);
	if (!f->candidate) {
		judge(t, f, &ev, false);
		return;
	}
	f->is_unwanted = t->conf.filter && !filter_wants(t->conf.filter, &ev);
	tell_account(t, t->conf.opened, f, ev.comm);
}

/* --- bytes --------------------------------------------------------------------------------------
 */

static void drop_seam(struct flow *f)
{
	free(f->seam);
	f->seam = NULL;
}

static void tell_gap(struct flows *t, struct flow *f, unsigned dir, uint64_t len, uint64_t ts_ns,
		     struct counter *why)
{
	struct frame_gap m = {
		.flow = f->id,
		.offset = f->off[dir],
		.len = len,
		.ts_ns = wall(t, ts_ns),
		.dir = wire_dir(f, dir),
	};

	drop_seam(f);
	counter_add(why, len);
	f->off[dir] += len;
	f->audit[dir].plain += len;
	f->audit[dir].calls += why == &bytes_sendfile ? 1 : len; /* at most: nobody counted them */
	ship_gap(t->conf.ship, &m);
}

/* The first bytes from inside TLS, altered so that they go on where what was told before ended. */
static void tell_seam(struct flows *t, struct flow *f, struct frame_data *m)
{
	uint8_t *copy = malloc(m->bytes.len);
	bool from_client = m->dir == FLOW_C2S;

	if (!copy) {
		drop_seam(f);
		ship_data(t->conf.ship, m);
		return;
	}
	memcpy(copy, m->bytes.p, m->bytes.len);
	m->bytes.p = copy;
	if (!stitch_seam(f->seam, from_client, copy, m->bytes.len))
		drop_seam(f);
	ship_data(t->conf.ship, m);
	explicit_bzero(copy, m->bytes.len);
	free(copy);
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
	f->bytes += ev->len;
	f->audit[ev->dir].plain += ev->len;
	f->audit[ev->dir].calls += (ev->flags & SSLC_DATA_END) != 0;
	if (ev->dir == SSLC_DIR_OUT)
		f->ahead = ev->flags & SSLC_DATA_AHEAD ? ev->len : 0;
	if (f->seam)
		tell_seam(t, f, &m);
	else
		ship_data(t->conf.ship, &m);
}

struct early_ctx {
	struct flows *t;
	struct flow *f;
};

static void on_early_bytes(void *ctx, const struct sslc_ev_data *ev)
{
	struct early_ctx *c = ctx;

	tell_data(c->t, c->f, ev);
}

static void tell_early(struct flows *t, struct flow *f, uint64_t ts_ns)
{
	struct early_ctx c = {t, f};
	uint64_t hole = early_take(t->early, &f->early, on_early_bytes, &c);

	if (hole)
		tell_gap(t, f, SSLC_DIR_OUT, hole, ts_ns, &bytes_gap);
}

/* Something else is about to be told of this connection; next: what, if it is data. */
static void settle_early(struct flows *t, struct flow *f, const struct sslc_ev_data *next,
			 uint64_t ts_ns)
{
	if (!f->early)
		return;
	if (early_is_void(f->early, next)) {
		early_drop(t->early, &f->early);
	} else {
		counter_add(&bytes_assumed, early_span(f->early));
		tell_early(t, f, ts_ns);
	}
}

/* Why this flow's bytes do not go out now, or NULL. */
static struct counter *not_wanted(const struct flow *f, unsigned dir)
{
	if (f->verdict == FILTERED)
		return &bytes_filtered;
	if (f->verdict == STANDBY)
		return &bytes_standby;
	if (f->is_paused)
		return &bytes_paused;
	if (f->ending == ENDED || f->fin_told[dir])
		return &bytes_after_end;
	return NULL;
}

/* A record of a connection that had broken before it was made; pos: where it is told from next. */
static bool take_unsent(struct flow *f, uint64_t pos[2], const struct sslc_ev_data *ev)
{
	if (!f->is_shut || !(ev->flags & SSLC_DATA_AHEAD) || ev->dir != SSLC_DIR_OUT ||
	    f->verdict != WANTED || f->is_paused)
		return false;
	counter_add(&bytes_unsent, ev->len);
	f->ahead = 0;
	if (ev->pos >= pos[ev->dir] && ev->pos < OFFSET_MAX)
		pos[ev->dir] = ev->pos + ev->len;
	return true;
}

/*
 * Whether what comes next may stand at `at`; `pos` is how far its direction has come in the
 * source's counting.
 */
static bool is_in_place(const struct flow *f, unsigned dir, uint64_t pos, uint64_t at)
{
	uint64_t told = f->off[dir] + (dir == SSLC_DIR_OUT ? early_span(f->early) : 0);

	return at >= pos && told <= OFFSET_MAX && at - pos <= OFFSET_MAX - told;
}

static void count_misplaced(uint64_t pos, uint64_t at, uint64_t len)
{
	if (at >= pos)
		counter_inc(&events_bad);
	counter_add(&bytes_late, len);
}

static void tell_hole(struct flows *t, struct flow *f, unsigned dir, uint64_t len, uint64_t ts_ns,
		      bool early)
{
	if (!early || early_skip(t->early, &f->early, len))
		tell_gap(t, f, dir, len, ts_ns, &bytes_gap);
}

/* Bytes at their position; `pos` says how far each direction has come in the source's counting. */
static void tell_at(struct flows *t, struct flow *f, uint64_t pos[2], const struct sslc_ev_data *ev)
{
	bool early = ev->flags & SSLC_DATA_EARLY && ev->dir == SSLC_DIR_OUT;

	if (!is_in_place(f, ev->dir, pos[ev->dir], ev->pos)) {
		count_misplaced(pos[ev->dir], ev->pos, ev->len);
		return;
	}
	if (!early)
		settle_early(t, f, ev, ev->ev.ts_ns);
	if (ev->pos > pos[ev->dir])
		tell_hole(t, f, ev->dir, ev->pos - pos[ev->dir], ev->ev.ts_ns, early);
	pos[ev->dir] = ev->pos + ev->len;
	if (!early)
		tell_data(t, f, ev);
	else if (early_put(t->early, &f->early, ev))
		tell_gap(t, f, ev->dir, ev->len, ev->ev.ts_ns, &bytes_gap);
}

static void tell_ends(struct flows *t, struct flow *f, uint64_t ts_ns);

/* --- processes that were not probed for a while -------------------------------------------------
 */

bool flows_pause(struct flows *t, uint32_t tgid, uint64_t start_ticks, uint64_t since_ns)
{
	struct pause *p = find_pause(t, tgid, start_ticks);

	if (!p && t->n_pauses == FLOW_PAUSES_MAX)
		return false;
	if (!p)
		p = &t->pauses[t->n_pauses++];
	*p = (struct pause){.tgid = tgid,
			    .start_ticks = start_ticks,
			    .since_ns = since_ns,
			    .until_ns = UINT64_MAX};
	t->paused_ns = t->now_ns;
	return true;
}

void flows_resume(struct flows *t, uint32_t tgid, uint64_t start_ticks, uint64_t until_ns)
{
	struct pause *p = find_pause(t, tgid, start_ticks);

	if (p)
		p->until_ns = until_ns;
}

void flows_pause_forget(struct flows *t, uint32_t tgid, uint64_t start_ticks)
{
	struct pause *p = find_pause(t, tgid, start_ticks);

	if (p)
		*p = t->pauses[--t->n_pauses];
}

/* A candidate is told by nobody then, and counted as such. */
static void pause_flow(struct flows *t, struct flow *f, uint64_t ts_ns)
{
	if (f->verdict == WANTED && f->ending != ENDED) {
		counter_inc(&flows_paused);
		tell_close(t, f, FLOW_END_AGENT, ts_ns);
	}
	f->is_paused = true;
	t->conf.skip(t->conf.ctx, f->id);
}

/* Something happened on a connection at ts_ns, in a call of that process: was all before it seen?
 */
static void check_pause(struct flows *t, struct flow *f, uint32_t tgid, uint64_t start_ns,
			uint64_t ts_ns)
{
	const struct pause *p;

	if (!t->n_pauses || f->is_paused)
		return;
	p = find_pause(t, tgid, process_ticks(start_ns));
	if (p && f->opened_ns <= p->until_ns && ts_ns > p->since_ns)
		pause_flow(t, f, p->since_ns);
}

static void check_pause_of(struct flows *t, struct flow *f, const struct sslc_conn_id *conn,
			   uint64_t ts_ns)
{
	check_pause(t, f, f->tgid, f->start_ns, ts_ns);
	check_pause(t, f, conn->tgid, conn->start_ns, ts_ns);
}

/* Those on which nothing happens any more are closed, too, once what is in the ring was told. */
static void check_pauses(struct flows *t)
{
	if (!t->paused_ns || t->now_ns - t->paused_ns < FLOW_PAUSE_MS * NS_PER_MS)
		return;
	t->paused_ns = 0;
	for (struct queue_node *n = queue_first(&t->by_age); n; n = queue_next(&t->by_age, n)) {
		struct flow *f = queue_entry(n, struct flow, age);

		check_pause(t, f, f->tgid, f->start_ns, t->now_ns);
	}
}

/* --- bytes and objects --------------------------------------------------------------------------
 */

/* The kernel saw a TLS object use the connection: from now on it counts positions for it. */
static void make_exact(struct flows *t, struct flow *f, const struct sslc_conn_id *conn,
		       uint64_t ts_ns)
{
	if (!f->candidate || f->is_paused)
		return;
	adjacent_exact(t->adjacent, conn, f->id);
	if (f->verdict == CANDIDATE) {
		judge(t, f, &f->candidate->open, false);
		tell_ends(t, f, ts_ns);
	}
	free(f->candidate);
	f->candidate = NULL;
}

/* Bytes of an object without a connection of its own. */
static void on_loose_data(struct flows *t, const struct sslc_ev_data *ev)
{
	struct flow *f = find(t, adjacent_flow(t->adjacent, &ev->conn));
	struct counter *why;

	if (f)
		check_pause_of(t, f, &ev->conn, ev->ev.ts_ns);
	why = f ? not_wanted(f, ev->dir) : NULL;
	if (!f) {
		held_put(t->held, ev, t->now_ns);
	} else if (take_unsent(f, f->candidate->pos, ev)) {
		return;
	} else if (why) {
		counter_add(why, ev->len);
	} else {
		queue_push(&t->by_age, &f->age);
		tell_at(t, f, f->candidate->pos, ev);
	}
}

static void on_data(struct flows *t, const struct sslc_ev_data *ev)
{
	struct counter *why;
	struct flow *f;

	if (!ev->ev.flow) {
		on_loose_data(t, ev);
		return;
	}
	f = find(t, ev->ev.flow);
	if (f)
		check_pause_of(t, f, &ev->conn, ev->ev.ts_ns);
	if (f)
		make_exact(t, f, &ev->conn, ev->ev.ts_ns);
	if (f && take_unsent(f, f->pos, ev))
		return;
	why = f ? not_wanted(f, ev->dir) : &bytes_unknown;
	if (why) {
		counter_add(why, ev->len);
		return;
	}
	queue_push(&t->by_age, &f->age);
	tell_at(t, f, f->pos, ev);
}

/* Before TLS has begun. What comes after the connection was told from its beginning is too late. */
static void on_clear(struct flows *t, const struct sslc_ev_data *ev)
{
	if (!ev->ev.flow)
		counter_inc(&events_bad);
	else if (t->prelude && find(t, ev->ev.flow))
		counter_add(&bytes_late, ev->len);
	else if (t->prelude)
		prelude_put(t->prelude, ev, t->now_ns);
}

struct bound {
	struct flows *t;
	struct flow *f;
	uint64_t pos[2]; /* of the TLS object, by enum sslc_dir */
};

static bool is_owner(const struct flow *f, const struct sslc_conn_id *conn)
{
	return f->candidate && memcmp(&f->candidate->owner, conn, sizeof(*conn)) == 0;
}

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

	if (b.f)
		check_pause_of(t, b.f, &ev->conn, ev->ev.ts_ns);
	if (b.f && is_owner(b.f, &ev->conn)) /* matched before: its bytes were told already */
		memcpy(b.pos, b.f->candidate->pos, sizeof(b.pos));
	if (b.f)
		make_exact(t, b.f, &ev->conn, ev->ev.ts_ns);
	held_take(t->held, &ev->conn, on_held, &b);
	for (unsigned dir = 0; b.f && dir < 2; dir++) /* not held any more, or never */
		if (!not_wanted(b.f, dir) && ev->pos[dir] > b.pos[dir] && ev->pos[dir] < OFFSET_MAX)
			tell_hole(t, b.f, dir, ev->pos[dir] - b.pos[dir], ev->ev.ts_ns,
				  dir == SSLC_DIR_OUT && b.f->early);
}

/* Bytes that only the kernel has seen. Their place is known, and their number. */
static void on_gap(struct flows *t, const struct sslc_ev_gap *ev)
{
	struct flow *f = find(t, ev->ev.flow);
	struct counter *why;

	if (f)
		check_pause_of(t, f, &ev->conn, ev->ev.ts_ns);
	if (f)
		make_exact(t, f, &ev->conn, ev->ev.ts_ns);
	why = f ? not_wanted(f, ev->dir) : &bytes_unknown;
	if (why) {
		counter_add(why, ev->len);
		return;
	}
	if (ev->len > OFFSET_MAX || !is_in_place(f, ev->dir, f->pos[ev->dir], ev->pos) ||
	    !is_in_place(f, ev->dir, f->pos[ev->dir], ev->pos + ev->len)) {
		count_misplaced(f->pos[ev->dir], ev->pos, ev->len);
		return;
	}
	queue_push(&t->by_age, &f->age);
	settle_early(t, f, NULL, ev->ev.ts_ns);
	if (ev->pos > f->pos[ev->dir])
		tell_gap(t, f, ev->dir, ev->pos - f->pos[ev->dir], ev->ev.ts_ns, &bytes_gap);
	f->pos[ev->dir] = ev->pos + ev->len;
	tell_gap(t, f, ev->dir, ev->len, ev->ev.ts_ns, &bytes_sendfile);
}

/* The kernel gave up this connection, or part of it: what it has not told by now is lost. */
static void on_lost(struct flows *t, const struct sslc_ev_lost *ev)
{
	struct flow *f = find(t, ev->ev.flow);

	if (!f || f->candidate)
		return;
	for (unsigned dir = 0; dir < 2; dir++) {
		if (not_wanted(f, dir) || ev->pos[dir] == f->pos[dir])
			continue;
		if (!is_in_place(f, dir, f->pos[dir], ev->pos[dir])) {
			counter_inc(&events_bad);
			continue;
		}
		settle_early(t, f, NULL, ev->ev.ts_ns);
		tell_gap(t, f, dir, ev->pos[dir] - f->pos[dir], ev->ev.ts_ns, &bytes_gap);
		f->pos[dir] = ev->pos[dir];
	}
}

static void on_early(struct flows *t, const struct sslc_ev_early *ev)
{
	struct flow *f = find(t, ev->ev.flow ? ev->ev.flow : adjacent_flow(t->adjacent, &ev->conn));

	if (!f || !f->early)
		return;
	if (ev->accepted)
		tell_early(t, f, ev->ev.ts_ns);
	else
		early_reject(f->early);
}

/* A TLS object without a socket of its own was found to use this connection. */
static bool on_match(void *ctx, const struct sslc_conn_id *conn, uint64_t flow)
{
	struct flows *t = ctx;
	struct bound b = {.t = t, .f = find(t, flow)};
	struct candidate *c = b.f ? b.f->candidate : NULL;

	if (!c)
		return false;
	check_pause_of(t, b.f, conn, t->now_ns);
	if (b.f->is_paused)
		return false;
	if (!is_owner(b.f, conn)) {
		c->owner = *conn;
		c->pos[0] = c->pos[1] = 0;
	}
	if (b.f->verdict == CANDIDATE) {
		c->open.conn = *conn;
		judge(t, b.f, &c->open, true);
	}
	memcpy(b.pos, c->pos, sizeof(b.pos));
	held_take(t->held, conn, on_held, &b);
	memcpy(c->pos, b.pos, sizeof(b.pos));
	tell_ends(t, b.f, t->now_ns);
	return true;
}

/* --- ends ---------------------------------------------------------------------------------------
 */

static void tell_fin(struct flows *t, struct flow *f, unsigned dir, uint64_t ts_ns)
{
	struct frame_flow_fin m = {.flow = f->id, .ts_ns = wall(t, ts_ns), .dir = wire_dir(f, dir)};
	struct candidate *c = f->candidate;

	if (f->verdict == CANDIDATE && c->n_fin < 2 && (!c->n_fin || c->fin[0] != dir))
		c->fin[c->n_fin++] = (uint8_t)dir;
	if (f->verdict != WANTED || f->fin_told[dir] || f->ending == ENDED)
		return;
	if (dir == SSLC_DIR_OUT)
		settle_early(t, f, NULL, ts_ns);
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

	if (f->verdict == CANDIDATE && !f->candidate->closed) {
		f->candidate->closed = true;
		f->candidate->end = end;
	}
	if (f->verdict != WANTED || f->ending == ENDED)
		return;
	settle_early(t, f, NULL, ts_ns);
	f->ending = ENDED;
	queue_remove(&f->ending_q);
	ship_flow_close(t->conf.ship, &m);
}

/* What ended while the connection was a candidate. */
static void tell_ends(struct flows *t, struct flow *f, uint64_t ts_ns)
{
	struct candidate *c = f->candidate;

	for (unsigned i = 0; i < c->n_fin; i++)
		tell_fin(t, f, c->fin[i], ts_ns);
	if (c->closed)
		tell_close(t, f, c->end, ts_ns);
	c->n_fin = 0;
	c->closed = false;
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
	adjacent_flow_ending(t->adjacent, f->id);
	if (f->ending == NOT_ENDING)
		f->ending = ENDING_FIN;
	settle(t, f, ts_ns);
	forget(t, f);
}

/* Before the end is settled. A connection's second layer is not known here: allowed for. */
static void audit(const struct flows *t, struct flow *f, const struct sslc_ev_sock *ev)
{
	if (!ev->is_counted || f->verdict != WANTED || f->candidate || f->is_paused)
		return;
	counter_inc(&flows_audited);
	for (unsigned dir = 0; dir < 2; dir++) {
		bool is_known = f->is_unexplained;
		enum audit_verdict v;

		f->audit[dir].wire = ev->moved[dir];
		v = audit_judge(&f->audit[dir], 2);
		f->is_unexplained |= v == AUDIT_MISSED;
		if (v != AUDIT_FITS)
			log_debug("flow: process %" PRIu32 ", %s: %" PRIu64 " bytes in %" PRIu64
				  " calls, the socket carried %" PRIu64,
				  f->tgid, dir == SSLC_DIR_IN ? "in" : "out", f->audit[dir].plain,
				  f->audit[dir].calls, f->audit[dir].wire);
		if (v == AUDIT_DOUBLE)
			counter_inc(&flows_double);
		if (f->is_unexplained && !is_known && !f->is_late && t->conf.unexplained)
			t->conf.unexplained(t->conf.ctx, ev->file[dir], f->opened_ns);
	}
	if (f->is_unexplained)
		counter_inc(&flows_missed);
}

/*
 * A send has failed on a connection that broke: of the last record nothing that can be read has
 * left, if the send began with it, as its length tells. An alert (RFC 8446, 6: two bytes) is
 * taken for no record that is longer.
 */
#define AHEAD_SHORT (2 + AUDIT_RECORD)

static void on_send_error(struct flow *f, const struct sslc_ev_sock *ev)
{
	uint32_t last = ev->ahead ? ev->ahead : f->ahead;

	if (last > AHEAD_SHORT && ev->failed > last && ev->failed - last <= AUDIT_RECORD)
		counter_add(&bytes_unsent_told, last);
	f->ahead = 0;
	f->is_shut = true;
}

static void on_sock(struct flows *t, const struct sslc_ev_sock *ev)
{
	struct flow *f = find(t, ev->ev.flow);
	uint64_t ts_ns = ev->ev.ts_ns;

	if (ev->what == SSLC_SOCK_DESTROYED)
		(void)drop_prelude(t, ev->ev.flow);
	if (!f)
		return;
	check_pause(t, f, f->tgid, f->start_ns, ts_ns);
	switch (ev->what) {
	case SSLC_SOCK_LOCAL_FIN:
		f->is_shut = true;
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
		f->is_shut = true;
		hold_end(t, f, ENDING_RST_IN, ts_ns);
		break;
	case SSLC_SOCK_RST_OUT:
	case SSLC_SOCK_TIMEOUT:
		f->is_shut = true;
		tell_close(t, f, reset_by(f, SSLC_DIR_OUT), ts_ns);
		break;
	case SSLC_SOCK_CLOSED:
		f->is_shut = true;
		hold_end(t, f, ENDING_FIN, ts_ns);
		break;
	case SSLC_SOCK_SEND_ERROR:
		on_send_error(f, ev);
		break;
	case SSLC_SOCK_DESTROYED:
		audit(t, f, ev);
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
	const struct sslc_ev_gap *gap = (const void *)ev;
	const struct sslc_ev_wire *w = (const void *)ev;

	switch (ev->type) {
	case SSLC_EV_OPEN:
		return ev->size >= sizeof(struct sslc_ev_open);
	case SSLC_EV_DATA:
	case SSLC_EV_CLEAR:
		return ev->size >= sizeof(*d) && d->len <= ev->size - sizeof(*d) && d->len &&
		       d->dir <= 1;
	case SSLC_EV_BIND:
		return ev->size >= sizeof(struct sslc_ev_bind);
	case SSLC_EV_SOCK:
		return ev->size >= sizeof(struct sslc_ev_sock);
	case SSLC_EV_GAP:
		return ev->size >= sizeof(*gap) && gap->len && gap->dir <= 1;
	case SSLC_EV_EARLY:
		return ev->size >= sizeof(struct sslc_ev_early);
	case SSLC_EV_LOST:
		return ev->size >= sizeof(struct sslc_ev_lost);
	case SSLC_EV_CALL:
		return ev->size >= sizeof(struct sslc_ev_call);
	case SSLC_EV_WIRE:
		return ev->size >= sizeof(*w) && ev->flow && w->dir <= 1 &&
		       w->n_rec <= SSLC_WIRE_RECORDS;
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
	adjacent_event(t->adjacent, ev);
	switch (ev->type) {
	case SSLC_EV_OPEN:
		on_open(t, (const void *)ev);
		break;
	case SSLC_EV_DATA:
		on_data(t, (const void *)ev);
		break;
	case SSLC_EV_CLEAR:
		on_clear(t, (const void *)ev);
		break;
	case SSLC_EV_BIND:
		on_bind(t, (const void *)ev);
		break;
	case SSLC_EV_SOCK:
		on_sock(t, (const void *)ev);
		break;
	case SSLC_EV_GAP:
		on_gap(t, (const void *)ev);
		break;
	case SSLC_EV_EARLY:
		on_early(t, (const void *)ev);
		break;
	case SSLC_EV_LOST:
		on_lost(t, (const void *)ev);
		break;
	}
}

void flows_tick(struct flows *t, uint64_t now_ns, int64_t wall_offset_ns)
{
	struct queue_node *n;

	t->now_ns = now_ns;
	t->wall_offset_ns = wall_offset_ns;
	adjacent_tick(t->adjacent, now_ns);
	held_expire(t->held, now_ns);
	if (t->prelude)
		prelude_expire(t->prelude, now_ns);
	check_pauses(t);
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

	adjacent_tick(t->adjacent, UINT64_MAX);
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

void flows_each(const struct flows *t, flow_account_fn each, void *ctx)
{
	for (struct queue_node *n = queue_first(&t->by_age); n; n = queue_next(&t->by_age, n)) {
		struct flow_account a = account_of(queue_entry(n, struct flow, age), NULL);

		each(ctx, &a);
	}
}

void flows_free(struct flows *t)
{
	struct queue_node *n;

	if (!t)
		return;
	while ((n = queue_first(&t->by_age)))
		forget(t, queue_entry(n, struct flow, age));
	held_free(t->held);
	early_pool_free(t->early);
	adjacent_free(t->adjacent);
	prelude_free(t->prelude);
	hmap_fini(&t->by_id);
	hmap_fini(&t->by_session);
	hmap_fini(&t->by_tuple);
	free(t);
}
