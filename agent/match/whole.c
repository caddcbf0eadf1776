/* SPDX-License-Identifier: Apache-2.0 */
/*
 * whole: journals of objects and flows in, the pair that belongs together out. Keeps lengths and
 * times, never plaintext; bounded in memory and, for one answer, in work.
 */
#include "match/whole.h"

#include "base/hmap.h"
#include "base/queue.h"
#include "match/fit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define HANDSHAKE   22 /* TLS content types (RFC 8446, 5.1) */
#define APPLICATION 23
#define ALERT_LEN   2
/* Handshake messages and tickets that TLS 1.3 hides before the first data of a direction: four of a
 * server, one more when it asks for a certificate, and its tickets. */
#define HIDDEN_MAX 10
/* What every socket takes at once: when something was sent, all that was written before it was, too
 */
#define BACKLOG_MIN 4096
#define CALLS_MAX   16   /* of an object, from its first one on, whose times are kept */
#define BUCKETS     1024 /* of processes; a power of two */

struct item {
	uint64_t ts_ns;
	uint32_t len; /* of an application record, or moved by a call */
};

struct side {
	struct item v[WHOLE_ITEMS];
	uint8_t n;
	bool more; /* and others after them */
};

struct journal {
	struct hmap_node node;    /* by flow or conn */
	struct queue_node in_age; /* least recently active first */
	struct queue_node in_bucket;
	struct sslc_conn_id conn; /* of an object; of a flow: tgid only */
	uint64_t flow;            /* 0: an object's */
	uint64_t first_ns, last_ns;
	uint32_t tid;
	bool has_tid, mixed; /* several threads, or processes, were at work on it */
	bool opaque;         /* it may be anything */
	bool begun;          /* a flow's first record was seen */
	uint64_t sent;       /* bytes */
	struct side side[2]; /* by enum sslc_dir */
	uint64_t drained;    /* bit c: after c reads of an object nothing was left to read */
	uint64_t heard_ns;   /* when a flow first received; 0: not before it sent data */
	uint64_t called_ns[CALLS_MAX]; /* when an object was called */
	uint8_t n_called;
	bool shook; /* the first call of an object moved nothing: its handshake's are seen */
};

struct bucket {
	struct queue journals;
	uint64_t blind_ns; /* when something of its processes was last missed */
};

struct whole {
	struct hmap by_key;
	struct queue by_age;
	struct bucket buckets[BUCKETS];
};

int whole_new(struct whole **out)
{
	struct whole *w = calloc(1, sizeof(*w));

	if (!w)
		return -ENOMEM;
	hmap_init(&w->by_key);
	queue_init(&w->by_age);
	for (unsigned i = 0; i < BUCKETS; i++)
		queue_init(&w->buckets[i].journals);
	*out = w;
	return 0;
}

/* --- journals -----------------------------------------------------------------------------------
 */

static struct bucket *bucket_of(struct whole *w, uint32_t tgid)
{
	return &w->buckets[hmap_hash(&tgid, sizeof(tgid)) % BUCKETS];
}

static uint64_t key_hash(const struct sslc_conn_id *conn, uint64_t flow)
{
	return flow ? hmap_hash(&flow, sizeof(flow)) : hmap_hash(conn, sizeof(*conn));
}

static struct journal *find(const struct whole *w, const struct sslc_conn_id *conn, uint64_t flow)
{
	for (struct hmap_node *n = hmap_first(&w->by_key, key_hash(conn, flow)); n;
	     n = hmap_next_same(n)) {
		struct journal *j = hmap_entry(n, struct journal, node);

		if (j->flow == flow && (flow || memcmp(&j->conn, conn, sizeof(*conn)) == 0))
			return j;
	}
	return NULL;
}

static void drop(struct whole *w, struct journal *j)
{
	if (!j)
		return;
	hmap_remove(&w->by_key, &j->node);
	queue_remove(&j->in_age);
	queue_remove(&j->in_bucket);
	free(j);
}

void whole_blind(struct whole *w, uint32_t tgid, uint64_t ts_ns)
{
	struct bucket *b = bucket_of(w, tgid);

	if (ts_ns > b->blind_ns)
		b->blind_ns = ts_ns;
}

static void evict_oldest(struct whole *w)
{
	struct journal *j = queue_entry(queue_first(&w->by_age), struct journal, in_age);

	whole_blind(w, j->conn.tgid, j->last_ns);
	drop(w, j);
}

/* Without memory the process is one that was not seen. */
static void begin(struct whole *w, const struct sslc_conn_id *conn, uint64_t flow, uint64_t ts_ns)
{
	struct journal *j;

	if (find(w, conn, flow)) {
		whole_blind(w, conn->tgid, ts_ns);
		return;
	}
	if (w->by_key.count >= WHOLE_JOURNALS)
		evict_oldest(w);
	j = calloc(1, sizeof(*j));
	if (!j || hmap_insert(&w->by_key, &j->node, key_hash(conn, flow))) {
		free(j);
		whole_blind(w, conn->tgid, ts_ns);
		return;
	}
	j->conn = *conn;
	j->flow = flow;
	j->first_ns = j->last_ns = ts_ns;
	queue_push(&w->by_age, &j->in_age);
	queue_push(&bucket_of(w, conn->tgid)->journals, &j->in_bucket);
}

void whole_begin(struct whole *w, const struct sslc_conn_id *conn, uint64_t ts_ns)
{
	begin(w, conn, 0, ts_ns);
}

void whole_open(struct whole *w, const struct sslc_ev_open *ev)
{
	struct sslc_conn_id process = {.tgid = ev->conn.tgid};

	if (ev->flags & SSLC_OPEN_CANDIDATE && !(ev->flags & SSLC_OPEN_LATE))
		begin(w, &process, ev->ev.flow, ev->ev.ts_ns);
}

void whole_drop_object(struct whole *w, const struct sslc_conn_id *conn)
{
	drop(w, find(w, conn, 0));
}

void whole_drop_flow(struct whole *w, uint64_t flow)
{
	drop(w, flow ? find(w, NULL, flow) : NULL);
}

static void note_item(struct side *s, uint64_t ts_ns, uint32_t len)
{
	if (s->n < WHOLE_ITEMS)
		s->v[s->n++] = (struct item){ts_ns, len};
	else
		s->more = true;
}

static void note_thread(struct whole *w, struct journal *j, uint32_t tid, uint64_t ts_ns)
{
	j->mixed |= j->has_tid && j->tid != tid;
	j->has_tid = true;
	j->tid = tid;
	if (ts_ns > j->last_ns)
		j->last_ns = ts_ns;
	queue_push(&w->by_age, &j->in_age);
}

void whole_wire(struct whole *w, const struct sslc_ev_wire *ev)
{
	struct journal *j = find(w, NULL, ev->ev.flow);

	if (!j || j->conn.tgid != ev->tgid)
		whole_blind(w, ev->tgid, ev->ev.ts_ns);
	if (!j)
		return;
	note_thread(w, j, ev->tid, ev->ev.ts_ns);
	if (ev->dir == SSLC_DIR_IN && !j->heard_ns && !j->side[SSLC_DIR_OUT].n)
		j->heard_ns = ev->ev.ts_ns;
	j->opaque |= ev->flags || j->conn.tgid != ev->tgid;
	if (ev->n_rec && !j->begun) { /* data come first where TLS had begun before */
		j->begun = true;
		j->opaque |= ev->rec[0].type != HANDSHAKE;
	}
	j->sent += ev->dir == SSLC_DIR_OUT ? ev->len : 0;
	for (unsigned i = 0; i < ev->n_rec; i++)
		if (ev->rec[i].type == APPLICATION)
			note_item(&j->side[ev->dir], ev->ev.ts_ns, ev->rec[i].len);
}

void whole_call(struct whole *w, const struct sslc_conn_id *conn, uint32_t tid, uint64_t ts_ns,
		enum sslc_dir dir, uint32_t len)
{
	struct journal *j = find(w, conn, 0);

	if (!j) {
		whole_blind(w, conn->tgid, ts_ns);
		return;
	}
	note_thread(w, j, tid, ts_ns);
	j->shook |= !j->n_called && !len;
	if (j->n_called < CALLS_MAX)
		j->called_ns[j->n_called++] = ts_ns;
	if (len)
		note_item(&j->side[dir], ts_ns, len);
	else if (dir == SSLC_DIR_IN && !j->side[dir].more)
		j->drained |= 1ull << j->side[dir].n;
}

void whole_doubt(struct whole *w, const struct sslc_conn_id *conn)
{
	struct journal *j = find(w, conn, 0);

	if (j)
		j->opaque = true;
}

/* --- one direction ------------------------------------------------------------------------------
 */

struct plain {
	uint64_t ts_ns;
	uint32_t lo, hi; /* bytes of plaintext that a record can hold */
};

/*
 * All ways to read the records of one direction as calls, under one cipher. calls[i]: a set, bit c
 * says that the first i records can be what the first c calls moved.
 */
struct grid {
	struct plain rec[WHOLE_ITEMS];
	const struct side *call;
	unsigned n_rec;
	uint64_t calls[WHOLE_ITEMS + 1];
	uint64_t drained; /* of the object */
	bool hides;       /* records may be messages of TLS itself */
	bool strict;      /* such stand before the data only */
	bool timed;       /* a record is sent after the call that gave its data */
	bool inside;      /* everything is explained if the last record or call is not done yet */
};

_Static_assert(WHOLE_ITEMS < 64, "sets of calls");

static void mark(struct grid *g, unsigned rec, unsigned call)
{
	g->calls[rec] |= 1ull << call;
}

/* Record i, and what else was read of it, by calls from c on. */
static void read_record(struct grid *g, unsigned i, unsigned c)
{
	const struct plain *r = &g->rec[i];
	uint64_t sum = 0;

	for (unsigned k = c; sum <= r->hi; k++) {
		if (sum >= r->lo && (k > c || !g->strict || !r->hi))
			mark(g, i + 1, k);
		if (k > c && g->drained >> k & 1)
			return; /* what is left of the record would have been read */
		if (k == g->call->n) {
			g->inside = true;
			return;
		}
		if (g->call->v[k].ts_ns < r->ts_ns)
			return; /* read before it was received */
		sum += g->call->v[k].len;
	}
}

/* Call c, in as many records as it took from i on. */
static void send_call(struct grid *g, unsigned i, unsigned c)
{
	const struct item *call = &g->call->v[c];
	uint64_t lo = 0, hi = 0;

	for (unsigned k = i; lo <= call->len; k++) {
		if (k > i && hi >= call->len)
			mark(g, k, c + 1);
		if (k == g->n_rec) {
			g->inside |= k > i && lo < call->len;
			return;
		}
		if (g->timed && g->rec[k].ts_ns < call->ts_ns)
			return; /* sent before it was written */
		lo += g->rec[k].lo;
		hi += g->rec[k].hi;
	}
}

static bool may_hide(const struct grid *g, unsigned i, unsigned c)
{
	return g->hides && (!g->strict || (!c && i < HIDDEN_MAX));
}

static void explain(struct grid *g, enum sslc_dir dir)
{
	g->inside = false;
	memset(g->calls, 0, sizeof(g->calls));
	mark(g, 0, 0);
	for (unsigned i = 0; i <= g->n_rec; i++)
		for (unsigned c = 0; c <= g->call->n; c++) {
			if (!(g->calls[i] >> c & 1))
				continue;
			if (i < g->n_rec && may_hide(g, i, c))
				mark(g, i + 1, c);
			if (dir == SSLC_DIR_IN && i < g->n_rec)
				read_record(g, i, c);
			else if (dir == SSLC_DIR_OUT && c < g->call->n)
				send_call(g, i, c);
		}
}

/* False: the flow cannot use this cipher. */
static bool fill(struct grid *g, const struct side *recs, unsigned cipher)
{
	g->n_rec = recs->n;
	g->hides = fit_hides(cipher);
	for (unsigned i = 0; i < recs->n; i++) {
		struct plain *p = &g->rec[i];

		p->ts_ns = recs->v[i].ts_ns;
		if (!fit_plain(cipher, recs->v[i].len, &p->lo, &p->hi))
			return false;
	}
	return true;
}

/* Every record and every call is explained, but for an alert at the end. */
static bool is_exact(struct grid *g, enum sslc_dir dir)
{
	unsigned n = g->n_rec;
	uint64_t all = 1ull << g->call->n;

	g->strict = true;
	explain(g, dir);
	if (!n || !g->call->n)
		return false;
	return g->calls[n] & all ||
	       (g->hides && g->rec[n - 1].lo == ALERT_LEN && g->calls[n - 1] & all);
}

/* All that was read can have been received on the flow; more may have been. */
static bool can_read(struct grid *g, bool more)
{
	uint64_t all = 1ull << g->call->n;
	bool read = false;

	g->strict = false;
	explain(g, SSLC_DIR_IN);
	for (unsigned i = 0; i <= g->n_rec; i++)
		read |= (g->calls[i] & all) != 0;
	return read || g->inside || (more && g->calls[g->n_rec]);
}

/* What was written may have had to wait for other bytes of the flow, or for another thread. */
static bool can_wait(const struct grid *g, const struct journal *flow)
{
	return !g->timed || flow->sent > BACKLOG_MIN;
}

/* Calls from c on were not sent: nothing else was after them. */
static bool can_stay(const struct grid *g, unsigned c, const struct journal *flow)
{
	if (c == g->call->n || !g->n_rec || can_wait(g, flow))
		return true;
	return g->call->v[c].ts_ns > g->rec[g->n_rec - 1].ts_ns;
}

/* All that was sent on the flow can have been written; more may have been. */
static bool can_send(struct grid *g, const struct journal *flow)
{
	const struct side *recs = &flow->side[SSLC_DIR_OUT];

	g->strict = false;
	explain(g, SSLC_DIR_OUT);
	for (unsigned c = 0; c <= g->call->n; c++)
		if (g->calls[g->n_rec] >> c & 1 && (recs->more || can_stay(g, c, flow)))
			return true;
	for (unsigned i = 0; i <= g->n_rec && g->call->more; i++)
		if (g->calls[i] >> g->call->n & 1)
			return true;
	return g->inside && can_wait(g, flow);
}

/* --- pairs --------------------------------------------------------------------------------------
 */

enum match {
	CANNOT,
	CAN,
	EXACT,
};

static bool is_closed(const struct journal *j)
{
	return !j->opaque && !j->side[0].more && !j->side[1].more;
}

static bool is_timed(const struct journal *o, const struct journal *f)
{
	return !o->mixed && !f->mixed && o->tid == f->tid;
}

/*
 * The first record with data, or with a message hidden as such, needs the peer's part of the key:
 * the object was called after that had come, and before the record went.
 */
static bool was_called_for(const struct journal *o, const struct journal *f)
{
	const struct side *sent = &f->side[SSLC_DIR_OUT];

	if (!is_timed(o, f) || !o->shook || !f->heard_ns || !sent->n)
		return true;
	for (unsigned i = 0; i < o->n_called; i++)
		if (o->called_ns[i] > f->heard_ns)
			return o->called_ns[i] < sent->v[0].ts_ns;
	return o->n_called == CALLS_MAX; /* perhaps later */
}

static enum match match_with(const struct journal *o, const struct journal *f, unsigned cipher)
{
	struct grid in = {.call = &o->side[SSLC_DIR_IN], .drained = o->drained};
	struct grid out = {.call = &o->side[SSLC_DIR_OUT]};

	out.timed = is_timed(o, f);
	if (!fill(&in, &f->side[SSLC_DIR_IN], cipher) ||
	    !fill(&out, &f->side[SSLC_DIR_OUT], cipher) ||
	    !can_read(&in, f->side[SSLC_DIR_IN].more) || !can_send(&out, f))
		return CANNOT;
	if (is_closed(o) && is_closed(f) && is_exact(&in, SSLC_DIR_IN) &&
	    is_exact(&out, SSLC_DIR_OUT))
		return EXACT;
	return CAN;
}

static enum match match(const struct journal *o, const struct journal *f)
{
	enum match best = CANNOT;

	if (o->opaque || f->opaque)
		return CAN;
	if (!was_called_for(o, f))
		return CANNOT;
	for (unsigned c = 0; c < FIT_CIPHERS && best != EXACT; c++) {
		enum match m = match_with(o, f, c);

		best = m > best ? m : best;
	}
	return best;
}

/* Whether both lived at the same time: an object is called while its flow lives. */
static bool meet(const struct journal *a, const struct journal *b)
{
	return a->conn.tgid == b->conn.tgid && a->first_ns <= b->last_ns &&
	       b->first_ns <= a->last_ns;
}

/* An object that moved nothing explains nothing: whatever else moved data has a flow of its own. */
static bool is_idle(const struct journal *j)
{
	return !j->flow && !j->opaque && !j->side[0].n && !j->side[1].n;
}

/*
 * The one journal of the other kind that can belong to j, or NULL: there is none, or several, or
 * too many to look at.
 */
static struct journal *only_match(struct whole *w, const struct journal *j, enum match *how)
{
	struct bucket *b = bucket_of(w, j->conn.tgid);
	struct journal *found = NULL;
	unsigned seen = 0;

	for (struct queue_node *n = queue_first(&b->journals); n; n = queue_next(&b->journals, n)) {
		struct journal *k = queue_entry(n, struct journal, in_bucket);
		enum match m;

		if (!k->flow == !j->flow || !meet(j, k) || is_idle(k))
			continue;
		if (++seen > WHOLE_RIVALS)
			return NULL;
		m = j->flow ? match(k, j) : match(j, k);
		if (m != CANNOT && found)
			return NULL;
		if (m != CANNOT) {
			found = k;
			*how = m;
		}
	}
	return found;
}

bool whole_match(struct whole *w, uint64_t flow, uint64_t now_ns, struct sslc_conn_id *out)
{
	struct journal *f = flow ? find(w, NULL, flow) : NULL, *o;
	enum match how = CANNOT;

	if (!f)
		return false;
	f->last_ns = now_ns > f->last_ns ? now_ns : f->last_ns;
	o = is_closed(f) ? only_match(w, f, &how) : NULL;
	if (!o || how != EXACT || only_match(w, o, &how) != f)
		return false;
	if (bucket_of(w, f->conn.tgid)->blind_ns >=
	    (f->first_ns < o->first_ns ? f->first_ns : o->first_ns))
		return false;
	*out = o->conn;
	return true;
}

void whole_free(struct whole *w)
{
	struct queue_node *n;

	if (!w)
		return;
	while ((n = queue_first(&w->by_age)))
		drop(w, queue_entry(n, struct journal, in_age));
	hmap_fini(&w->by_key);
	free(w);
}
