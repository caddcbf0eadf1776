/* SPDX-License-Identifier: Apache-2.0 */
/*
 * adjacent: TLS calls and socket operations of threads in, bindings of objects to flows out. Sees
 * lengths, never plaintext; keeps bounded state; prefers no binding to a wrong one.
 */
#include "match/adjacent.h"

#include "base/clock.h"
#include "base/hmap.h"
#include "base/metrics.h"
#include "base/queue.h"
#include "match/fit.h"
#include "match/whole.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static COUNTER_DEFINE(n_matched, "flow_bindings_matched",
		      "TLS objects without a socket that were bound to a connection");
static COUNTER_DEFINE(
	n_whole, "flow_bindings_whole",
	"part of flow_bindings_matched: by all that object and connection did, at its end");
static COUNTER_DEFINE(n_contradicted, "flow_bindings_contradicted",
		      "such bindings that later calls spoke against, and that were given up");
static COUNTER_DEFINE(n_evicted, "flow_bindings_evicted",
		      "such bindings given up: too many TLS objects at once");

#define WRITERS  8 /* objects that wrote on a thread since its last send */
#define UNREAD   8 /* flows that wait for their calls on a thread */
#define SIZES    3 /* different record lengths that say more than chance */
#define ENOUGH   3 /* pieces of evidence, from both directions */
#define ENOUGH_1 5 /* from one direction, with SIZES different lengths */
#define EQUALS   1 /* more of it when all its records were of one length */
#define DOUBT    2 /* more of it each time that evidence was refuted */
#define DOUBTS   8 /* at most so often */
#define QUIET_NS                                                                                   \
	(200 * NS_PER_MS)         /* a thread that did nothing for so long is between two tasks    \
				   */
#define DEBT_NS   (10 * NS_PER_S) /* what was left undone for so long never will be */
#define DEBT_MAX  1000000u        /* saturation; any value beyond real ones */
#define HANDSHAKE 22              /* TLS content types (RFC 8446, 5.1) */
#define CIPHER    20              /* change_cipher_spec */
#define APP       23

/* What speaks for an object belonging to a flow. */
struct claim {
	uint64_t flow; /* 0: nothing */
	unsigned n[2]; /* pieces of evidence, by enum sslc_dir */
	unsigned fits; /* those among them in which lengths were compared */
	uint16_t size[SIZES];
	unsigned sizes;
};

/* A TLS object that no socket operation was nested in. Made by its first call; the least recently
 * called goes when there are too many. */
struct object {
	struct hmap_node node; /* by conn without life */
	struct queue_node age;
	struct sslc_conn_id conn;
	uint64_t flow; /* bound to it; 0: not */
	struct claim claim;
	fit_ciphers ciphers;
	uint8_t doubts; /* how often evidence was refuted */
	bool over;      /* its flow has ended, or the kernel knows it: never bound here (again) */
	bool had_data;  /* no longer shaking hands */
	bool drained;   /* its last call for data found none: nothing is left inside */
	/* Calls being put together from their parts, by enum sslc_dir. */
	uint64_t pos[2];
	uint32_t call_len[2];
	bool started[2], spoilt[2];
	struct fit out;     /* writes, and the records that show them on the wire */
	bool out_sure;      /* out has matched: from now on it must */
	bool out_blocked;   /* the library holds part of a write back; its length is unknown */
	uint64_t out_epoch; /* of struct adjacent, when out began */
	bool rivalled;      /* a send on another thread may have been its own */
};

/* The records received on a flow that has an owner. */
struct line {
	struct hmap_node node;
	uint64_t flow;
	struct sslc_conn_id owner;
	struct fit in;
	bool sure;
	bool blind; /* records are missing in `in`: nothing is judged until all was read */
	uint64_t epoch;
};

/* The calls that follow a receive. */
struct window {
	uint64_t flow;              /* 0: none open */
	struct sslc_conn_id caller; /* once called */
	bool called, read;          /* by it */
	bool failed;                /* what it read does not fit */
	bool unknown;               /* the records are not known */
	bool shook;                 /* handshake records were among them */
	bool shaking;               /* the caller had not moved any data yet, nor does now */
	bool fresh;                 /* it had not before: its first data end the handshake */
	bool clean;                 /* it had nothing left of earlier receives */
	bool drained;               /* it has asked for more than there was */
	uint16_t size;              /* of the last application record */
	uint64_t sizes;             /* of all: see size_bit() */
	uint64_t rivals; /* the same of receives that other threads' calls may belong to */
	struct fit fit;
};

struct writer {
	struct sslc_conn_id conn;
	bool sure; /* it has written; else it shook hands, which may or may not say something */
};

struct thread {
	struct hmap_node node;
	struct queue_node age;
	struct queue_node busy; /* while a window is open, or something is unread or unsent */
	uint32_t tgid, tid;
	uint8_t seq;
	uint64_t last_ns;
	struct window win;
	/* Flows on which something was received that an unknown object will read. */
	uint64_t unread_flow[UNREAD];
	uint32_t unread;  /* how many; those beyond UNREAD are not listed */
	uint64_t debt_ns; /* since when something is unread or unsent */
	struct sslc_conn_id last_caller;
	struct writer writer[WRITERS];
	unsigned n_writers;
	bool more_writers;
	uint32_t unsent;  /* objects whose output is still to come, when its order is unknown */
	uint64_t partial; /* flow of a send that ended inside a record */
};

struct adjacent {
	struct adjacent_conf conf;
	struct hmap objects, threads, lines;
	struct queue objects_by_age, threads_by_age, busy;
	struct whole *whole;
	uint64_t epoch; /* goes up when events were lost: what was followed until then is unsure */
	uint64_t now_ns;
};

int adjacent_new(struct adjacent **out, const struct adjacent_conf *conf)
{
	struct adjacent *a = calloc(1, sizeof(*a));

	if (!a)
		return -ENOMEM;
	if (whole_new(&a->whole)) {
		free(a);
		return -ENOMEM;
	}
	a->conf = *conf;
	hmap_init(&a->objects);
	hmap_init(&a->threads);
	hmap_init(&a->lines);
	queue_init(&a->objects_by_age);
	queue_init(&a->threads_by_age);
	queue_init(&a->busy);
	*out = a;
	return 0;
}

/* --- lines --------------------------------------------------------------------------------------
 */

static struct line *line_find(const struct adjacent *a, uint64_t flow)
{
	uint64_t hash = hmap_hash(&flow, sizeof(flow));

	for (struct hmap_node *n = hmap_first(&a->lines, hash); n; n = hmap_next_same(n)) {
		struct line *l = hmap_entry(n, struct line, node);

		if (l->flow == flow)
			return l;
	}
	return NULL;
}

static struct line *line_new(struct adjacent *a, const struct object *o, uint64_t flow)
{
	struct line *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->flow = flow;
	l->owner = o->conn;
	l->epoch = a->epoch;
	fit_reset(&l->in, o->ciphers);
	if (hmap_insert(&a->lines, &l->node, hmap_hash(&flow, sizeof(flow)))) {
		free(l);
		return NULL;
	}
	return l;
}

static void line_free(struct adjacent *a, struct line *l)
{
	if (!l)
		return;
	hmap_remove(&a->lines, &l->node);
	free(l);
}

/* --- objects ------------------------------------------------------------------------------------
 */

static struct sslc_conn_id address(const struct sslc_conn_id *conn)
{
	struct sslc_conn_id key = *conn;

	key.life = 0;
	return key;
}

static bool is_same(const struct sslc_conn_id *a, const struct sslc_conn_id *b)
{
	return memcmp(a, b, sizeof(*a)) == 0;
}

/* Whatever lives at the address, this life or another one. */
static struct object *object_at(const struct adjacent *a, const struct sslc_conn_id *conn)
{
	struct sslc_conn_id key = address(conn);

	for (struct hmap_node *n = hmap_first(&a->objects, hmap_hash(&key, sizeof(key))); n;
	     n = hmap_next_same(n)) {
		struct object *o = hmap_entry(n, struct object, node);
		struct sslc_conn_id other = address(&o->conn);

		if (is_same(&other, &key))
			return o;
	}
	return NULL;
}

static struct object *object_find(const struct adjacent *a, const struct sslc_conn_id *conn)
{
	struct object *o = object_at(a, conn);

	return o && o->conn.life == conn->life ? o : NULL;
}

static void forget_claim(struct object *o)
{
	o->claim = (struct claim){0};
	o->ciphers = FIT_ANY;
}

/* What spoke for it was chance: it takes more the next time. */
static void refute(struct object *o)
{
	if ((o->claim.flow || o->flow) && o->doubts < DOUBTS)
		o->doubts++;
	forget_claim(o);
}

/* Writes and their records are followed from the next write on. */
static void out_restart(struct adjacent *a, struct object *o)
{
	fit_reset(&o->out, o->ciphers);
	o->out_sure = false;
	o->out_epoch = a->epoch;
}

/* The object is free again; what it is bound to, too. */
static void release(struct adjacent *a, struct object *o)
{
	if (o->flow)
		line_free(a, line_find(a, o->flow));
	o->flow = 0;
	forget_claim(o);
	out_restart(a, o);
}

static void contradict(struct adjacent *a, struct object *o)
{
	counter_inc(&n_contradicted);
	whole_blind(a->whole, o->conn.tgid, a->now_ns); /* its journal ended when it was bound */
	refute(o);
	release(a, o);
}

static void object_begin(struct adjacent *a, struct object *o, const struct sslc_conn_id *conn)
{
	struct hmap_node node = o->node;
	struct queue_node age = o->age;

	*o = (struct object){.node = node, .age = age, .conn = *conn, .ciphers = FIT_ANY};
	out_restart(a, o);
	whole_begin(a->whole, conn, a->now_ns);
}

static void object_free(struct adjacent *a, struct object *o)
{
	release(a, o);
	hmap_remove(&a->objects, &o->node);
	queue_remove(&o->age);
	free(o);
}

static struct object *object_new(struct adjacent *a, const struct sslc_conn_id *conn)
{
	struct sslc_conn_id key = address(conn);
	struct object *o;

	if (a->objects.count >= ADJACENT_OBJECTS) {
		o = queue_entry(queue_first(&a->objects_by_age), struct object, age);
		if (o->flow)
			counter_inc(&n_evicted);
		object_free(a, o);
	}
	o = calloc(1, sizeof(*o));
	if (!o)
		return NULL;
	object_begin(a, o, conn);
	if (hmap_insert(&a->objects, &o->node, hmap_hash(&key, sizeof(key)))) {
		free(o);
		return NULL;
	}
	return o;
}

static struct object *object_get(struct adjacent *a, const struct sslc_conn_id *conn)
{
	struct object *o = object_at(a, conn);

	if (!o) {
		o = object_new(a, conn);
	} else if (o->conn.life != conn->life) { /* the one before is dead */
		release(a, o);
		object_begin(a, o, conn);
	}
	if (o)
		queue_push(&a->objects_by_age, &o->age);
	return o;
}

uint64_t adjacent_flow(const struct adjacent *a, const struct sslc_conn_id *conn)
{
	const struct object *o = object_find(a, conn);

	return o ? o->flow : 0;
}

/* --- evidence -----------------------------------------------------------------------------------
 */

/* One piece of evidence. */
struct evidence {
	uint64_t flow;
	enum sslc_dir dir;
	bool fits;           /* lengths were compared; else it was a handshake */
	fit_ciphers ciphers; /* with which they fit */
	uint16_t size;       /* of one of the records */
};

static bool is_enough(const struct object *o)
{
	const struct claim *c = &o->claim;
	unsigned sum = c->n[0] + c->n[1], more = o->doubts * DOUBT + (c->sizes < 2 ? EQUALS : 0);

	return c->fits && ((c->n[0] && c->n[1] && sum >= ENOUGH + more) ||
			   (c->fits >= ENOUGH_1 + more && c->sizes >= SIZES));
}

static void bind_object(struct adjacent *a, struct object *o, uint64_t flow)
{
	struct line *l = line_find(a, flow);
	struct object *owner = l ? object_find(a, &l->owner) : NULL;

	if (owner) { /* two claims: neither is to be trusted */
		refute(o);
		contradict(a, owner);
		return;
	}
	forget_claim(o);
	l = line_new(a, o, flow);
	if (!l || !a->conf.bind(a->conf.ctx, &o->conn, flow)) {
		line_free(a, l);
		return;
	}
	o->flow = flow;
	whole_drop_object(a->whole, &o->conn);
	whole_drop_flow(a->whole, flow);
	counter_inc(&n_matched);
}

static void note_size(struct claim *c, uint16_t size)
{
	for (unsigned i = 0; i < c->sizes; i++)
		if (c->size[i] == size)
			return;
	if (c->sizes < SIZES)
		c->size[c->sizes++] = size;
}

static void speak_for(struct adjacent *a, struct object *o, const struct evidence *e)
{
	struct claim *c = &o->claim;
	fit_ciphers both = o->ciphers & e->ciphers;

	if (o->flow || o->over)
		return;
	if (c->flow != e->flow || !both) {
		refute(o);
		c->flow = e->flow;
		both = e->ciphers;
	}
	o->ciphers = both;
	c->n[e->dir]++;
	if (e->fits) {
		c->fits++;
		note_size(c, e->size);
	}
	if (is_enough(o)) {
		bind_object(a, o, e->flow);
		o->ciphers = o->flow ? both : FIT_ANY;
	}
}

static void speak_against(struct object *o, uint64_t flow)
{
	if (!o->flow && o->claim.flow == flow)
		refute(o);
}

/* --- reading ------------------------------------------------------------------------------------
 */

static bool shakes_hands(const struct sslc_ev_wire *ev)
{
	for (unsigned i = 0; i < ev->n_rec; i++)
		if (ev->rec[i].type == HANDSHAKE || ev->rec[i].type == CIPHER)
			return true;
	return false;
}

#define SHOOK 1ull /* in place of a size: handshake records */
#define ALL   (~0ull)

/* A record's length in a set of such: 63 classes. Different lengths may look equal, not the
 * reverse.
 */
static uint64_t size_bit(uint32_t len)
{
	return 2ull << (len * 2654435761u >> 16) % 63;
}

static uint64_t sizes_of(const struct sslc_ev_wire *ev)
{
	uint64_t sizes = shakes_hands(ev) ? SHOOK : 0;

	if (ev->flags & (SSLC_WIRE_UNKNOWN | SSLC_WIRE_MORE))
		return ALL;
	for (unsigned i = 0; i < ev->n_rec; i++)
		if (ev->rec[i].type == APP)
			sizes |= size_bit(ev->rec[i].len);
	return sizes;
}

/* Its place among the flows that wait on the thread; UNREAD: it does not. */
static unsigned find_unread(const struct thread *t, uint64_t flow)
{
	unsigned n = t->unread < UNREAD ? t->unread : UNREAD;

	for (unsigned i = 0; i < n; i++)
		if (t->unread_flow[i] == flow)
			return i;
	return UNREAD;
}

/* What was received on the flow waits to be read by an unknown object, some time. */
static void owe_read(const struct adjacent *a, struct thread *t, uint64_t flow)
{
	if (line_find(a, flow) || find_unread(t, flow) < UNREAD)
		return;
	if (!t->unread && !t->unsent)
		t->debt_ns = a->now_ns;
	if (t->unread < UNREAD)
		t->unread_flow[t->unread] = flow;
	t->unread += t->unread < DEBT_MAX;
}

/* One flow waits no more; which one, if it is not listed, is not known. */
static void settle_read(struct thread *t, unsigned at)
{
	unsigned n = t->unread < UNREAD ? t->unread : UNREAD;

	if (!n)
		return;
	at = at < n ? at : 0;
	if (t->unread <= UNREAD)
		memmove(t->unread_flow + at, t->unread_flow + at + 1,
			(n - at - 1) * sizeof(t->unread_flow[0]));
	t->unread--;
}

/* Without a conclusion. */
static void drop_window(const struct adjacent *a, struct thread *t)
{
	if (t->win.flow && !t->win.called)
		owe_read(a, t, t->win.flow);
	t->win.flow = 0;
}

/* exclusive: nobody else was called on the thread before it went on to another socket operation. */
static void judge_window(struct adjacent *a, const struct window *w, bool exclusive)
{
	struct object *o = w->called && !w->unknown ? object_find(a, &w->caller) : NULL;
	struct evidence e = {.flow = w->flow, .dir = SSLC_DIR_IN, .size = w->size};

	if (!o)
		return;
	if (w->failed)
		speak_against(o, w->flow);
	if (w->failed || (!exclusive && !fit_is_used_up(&w->fit)))
		return;
	e.fits = fit_hits(&w->fit, true, &e.ciphers);
	if (e.fits ? !w->clean : w->read || !w->shook || !w->shaking)
		return;
	if (w->rivals & (e.fits ? w->sizes & ~SHOOK : SHOOK))
		return;
	if (!e.fits)
		e.ciphers = FIT_ANY;
	speak_for(a, o, &e);
}

/* Whether the records of the window went where we think: nothing of them waits any more. */
static bool is_digested(const struct adjacent *a, const struct window *w)
{
	const struct object *o = w->called ? object_find(a, &w->caller) : NULL;

	if (!(w->sizes & ~SHOOK) || fit_is_used_up(&w->fit))
		return true;
	return w->drained && o &&
	       (w->read || w->shaking || (w->fresh && w->shook) || o->flow == w->flow ||
		o->claim.flow == w->flow);
}

static void close_window(struct adjacent *a, struct thread *t, bool exclusive)
{
	struct window *w = &t->win;

	if (!w->flow)
		return;
	judge_window(a, w, exclusive);
	if (!is_digested(a, w))
		owe_read(a, t, w->flow);
	w->flow = 0;
}

/* An object is called on the thread. A window closes when a second one is, unless that is known to
 * belong elsewhere. */
static void window_call(struct adjacent *a, struct thread *t, const struct object *o, bool writes)
{
	struct window *w = &t->win;

	if (!o->flow && !is_same(&t->last_caller, &o->conn))
		settle_read(t, find_unread(t, o->claim.flow));
	t->last_caller = o->conn;
	if (!w->flow || (o->flow && o->flow != w->flow))
		return;
	if (!w->called) {
		w->called = true;
		w->caller = o->conn;
		w->shaking = !o->had_data && !writes;
		w->fresh = !o->had_data;
		w->clean = o->drained;
	} else if (!is_same(&w->caller, &o->conn)) {
		close_window(a, t, false);
	}
}

static bool is_caller(const struct window *w, const struct object *o)
{
	return w->flow && w->called && is_same(&w->caller, &o->conn);
}

/* The caller goes on to other things, and has left nothing of the receive. */
static void window_done(struct adjacent *a, struct thread *t, const struct object *o)
{
	if (is_caller(&t->win, o) && fit_is_used_up(&t->win.fit))
		close_window(a, t, false);
}

/* A bound object has read: these bytes must have been in its flow's records. */
static void check_read(struct adjacent *a, struct object *o, uint32_t len)
{
	struct line *l = line_find(a, o->flow);
	fit_ciphers ciphers;

	if (!l)
		return;
	if (l->blind || l->epoch != a->epoch)
		return;
	if (fit_read(&l->in, len)) {
		l->sure = l->sure || fit_hits(&l->in, true, &ciphers);
		return;
	}
	if (l->sure) {
		contradict(a, o);
		return;
	}
	fit_reset(&l->in, o->ciphers);
}

static void on_read(struct adjacent *a, struct thread *t, struct object *o, uint32_t len)
{
	struct window *w = &t->win;

	if (o->flow)
		check_read(a, o, len);
	window_call(a, t, o, false);
	o->drained = false;
	if (!is_caller(w, o))
		return;
	w->read = true;
	w->drained = false;
	if (!w->failed && !fit_read(&w->fit, len))
		w->failed = true;
}

/* --- writing ------------------------------------------------------------------------------------
 */

/* Those that are bound by now are known to send elsewhere, or are checked there. */
static void drop_bound_writers(const struct adjacent *a, struct thread *t)
{
	unsigned n = 0;

	for (unsigned i = 0; i < t->n_writers; i++) {
		const struct object *o = object_find(a, &t->writer[i].conn);

		if (!o || !o->flow)
			t->writer[n++] = t->writer[i];
	}
	t->n_writers = n;
}

static void add_writer(const struct adjacent *a, struct thread *t, const struct object *o,
		       bool sure)
{
	if (o->flow)
		return;
	drop_bound_writers(a, t);
	for (unsigned i = 0; i < t->n_writers; i++)
		if (is_same(&t->writer[i].conn, &o->conn)) {
			t->writer[i].sure |= sure;
			return;
		}
	if (t->n_writers == WRITERS)
		t->more_writers = true;
	else
		t->writer[t->n_writers++] = (struct writer){o->conn, sure};
}

static void on_write(struct adjacent *a, struct object *o, uint32_t len)
{
	if (o->out_epoch != a->epoch || o->out_blocked)
		out_restart(a, o);
	if (o->out_blocked) /* part of it has been sent before: which, is not known */
		o->out_blocked = false;
	else if (!fit_add_write(&o->out, len))
		out_restart(a, o);
}

/* A send on the flow of a bound object: the records must be what it wrote. */
static void check_send(struct adjacent *a, struct object *o, const struct sslc_ev_wire *ev)
{
	fit_ciphers ciphers;

	if (o->out_epoch != a->epoch || ev->flags)
		out_restart(a, o);
	for (unsigned i = 0; i < ev->n_rec && !ev->flags; i++) {
		if (!o->out_sure && o->out.first == o->out.next)
			continue;
		if (fit_record(&o->out, ev->rec[i].type, ev->rec[i].len)) {
			o->out_sure = o->out_sure || fit_hits(&o->out, true, &ciphers);
			continue;
		}
		if (o->out_sure) {
			contradict(a, o);
			return;
		}
		out_restart(a, o);
	}
}

/* Whether what the object wrote fits the records of the send, one of them to the byte. */
static bool fits_writes(const struct adjacent *a, const struct object *o,
			const struct sslc_ev_wire *ev)
{
	struct fit out = o->out;
	fit_ciphers ciphers;

	if (o->out_blocked || o->out_epoch != a->epoch)
		return false;
	for (unsigned i = 0; i < ev->n_rec; i++)
		if (!fit_record(&out, ev->rec[i].type, ev->rec[i].len))
			return false;
	return fit_hits(&out, false, &ciphers);
}

/*
 * The only object whose output this send can be, or NULL; *sure counts those who surely wrote.
 * Others that shake hands meanwhile have no data to send: they do not stand in the way of one whose
 * data are in the send.
 */
static struct object *only_writer(const struct adjacent *a, struct thread *t,
				  const struct sslc_ev_wire *ev, unsigned *sure)
{
	unsigned at = 0;
	struct object *o;

	*sure = 0;
	drop_bound_writers(a, t);
	for (unsigned i = 0; i < t->n_writers; i++) {
		*sure += t->writer[i].sure;
		at = t->writer[i].sure ? i : at;
	}
	if (!t->n_writers || t->more_writers || (t->n_writers > 1 && *sure != 1))
		return NULL;
	o = object_find(a, &t->writer[at].conn);
	return o && (t->n_writers == 1 || fits_writes(a, o, ev)) ? o : NULL;
}

static void forget_writers(struct adjacent *a, struct thread *t)
{
	for (unsigned i = 0; i < t->n_writers; i++) {
		struct object *o = object_find(a, &t->writer[i].conn);

		if (o && !o->flow)
			out_restart(a, o);
		if (o)
			o->rivalled = false;
	}
	t->n_writers = 0;
	t->more_writers = false;
	t->partial = 0;
}

static uint16_t last_size(const struct sslc_ev_wire *ev)
{
	uint16_t size = 0;

	for (unsigned i = 0; i < ev->n_rec; i++)
		if (ev->rec[i].type == APP)
			size = ev->rec[i].len;
	return size;
}

/* Whether the records of the send are what the object wrote; what they show is kept. */
static bool fit_send(struct adjacent *a, struct object *o, const struct sslc_ev_wire *ev)
{
	bool fits = o->out_epoch == a->epoch && !o->out_blocked;

	for (unsigned i = 0; fits && i < ev->n_rec; i++)
		fits = fit_record(&o->out, ev->rec[i].type, ev->rec[i].len);
	return fits;
}

/* Whether the send may as well be what this object did on another thread of the process. */
static bool is_rival(const struct adjacent *a, const struct object *o,
		     const struct sslc_ev_wire *ev)
{
	if (o->out_blocked || o->out_epoch != a->epoch)
		return true;
	if (o->out.first == o->out.next)
		return shakes_hands(ev);
	return fits_writes(a, o, ev);
}

/* The same of all other threads of the process; those that may are told so. */
static bool has_rivals(struct adjacent *a, const struct thread *t, const struct sslc_ev_wire *ev)
{
	bool found = false;

	for (struct queue_node *n = queue_first(&a->busy); n; n = queue_next(&a->busy, n)) {
		struct thread *u = queue_entry(n, struct thread, busy);

		if (u == t || u->tgid != t->tgid)
			continue;
		found |= u->unsent || u->more_writers;
		for (unsigned i = 0; i < u->n_writers; i++) {
			struct object *o = object_find(a, &u->writer[i].conn);

			if (!o || o->flow || !is_rival(a, o, ev))
				continue;
			o->rivalled = true;
			found = true;
		}
	}
	return found;
}

/* A send that only o can have caused on its thread, on a flow without an owner. */
static void judge_send(struct adjacent *a, const struct thread *t, struct object *o,
		       const struct sslc_ev_wire *ev)
{
	struct evidence e = {.flow = ev->ev.flow, .dir = SSLC_DIR_OUT, .size = last_size(ev)};
	bool wrote = o->out.first != o->out.next;

	if (has_rivals(a, t, ev) || o->rivalled)
		return;
	if (!wrote && !o->out_blocked && !o->had_data && shakes_hands(ev)) {
		e.ciphers = FIT_ANY;
		speak_for(a, o, &e);
		return;
	}
	if (!wrote || o->out_blocked)
		return;
	if (!fit_send(a, o, ev)) {
		speak_against(o, e.flow);
		return;
	}
	e.fits = fit_hits(&o->out, false, &e.ciphers);
	if (!e.fits)
		return;
	speak_for(a, o, &e);
	o->out_sure = o->flow != 0;
}

/* --- threads ------------------------------------------------------------------------------------
 */

static struct thread *thread_find(const struct adjacent *a, const uint32_t key[2], uint64_t hash)
{
	for (struct hmap_node *n = hmap_first(&a->threads, hash); n; n = hmap_next_same(n)) {
		struct thread *t = hmap_entry(n, struct thread, node);

		if (t->tgid == key[0] && t->tid == key[1])
			return t;
	}
	return NULL;
}

static void thread_free(struct adjacent *a, struct thread *t)
{
	hmap_remove(&a->threads, &t->node);
	queue_remove(&t->age);
	queue_remove(&t->busy);
	free(t);
}

static struct thread *thread_new(struct adjacent *a, const uint32_t key[2], uint64_t hash,
				 uint8_t seq)
{
	struct thread *t;

	if (a->threads.count >= ADJACENT_THREADS)
		thread_free(a, queue_entry(queue_first(&a->threads_by_age), struct thread, age));
	t = calloc(1, sizeof(*t));
	if (!t)
		return NULL;
	t->tgid = key[0];
	t->tid = key[1];
	t->seq = seq == 1 ? 255 : seq - 1;
	t->last_ns = a->now_ns;
	if (hmap_insert(&a->threads, &t->node, hash)) {
		free(t);
		return NULL;
	}
	return t;
}

/* Events of the thread are missing: nothing that spans them can be concluded. */
static void thread_restart(struct adjacent *a, struct thread *t)
{
	t->win.flow = 0;
	forget_writers(a, t);
	t->unread = t->unsent = 0;
	a->epoch++;
	whole_blind(a->whole, t->tgid, a->now_ns);
}

static struct thread *thread_get(struct adjacent *a, uint32_t tgid, uint32_t tid, uint8_t seq,
				 bool may_repeat)
{
	const uint32_t key[2] = {tgid, tid};
	uint64_t hash = hmap_hash(key, sizeof(key));
	struct thread *t = thread_find(a, key, hash);

	if (seq && !t) {
		t = thread_new(a, key, hash, seq);
		if (seq != 1) /* others before it were not seen */
			whole_blind(a->whole, tgid, a->now_ns);
	}
	if (!seq || !t) {
		whole_blind(a->whole, tgid, a->now_ns);
		return NULL;
	}
	queue_push(&a->threads_by_age, &t->age);
	if (seq != t->seq % 255 + 1 && !(may_repeat && seq == t->seq))
		thread_restart(a, t);
	t->seq = seq;
	if (a->now_ns - t->debt_ns > DEBT_NS)
		t->unread = t->unsent = 0;
	t->last_ns = a->now_ns;
	return t;
}

static void note_busy(struct adjacent *a, struct thread *t)
{
	if (!t->win.flow && !t->unread && !t->unsent && !t->n_writers)
		queue_remove(&t->busy);
	else if (!queue_is_in(&t->busy))
		queue_push(&a->busy, &t->busy);
}

/* --- socket operations --------------------------------------------------------------------------
 */

static void open_window(struct thread *t, uint64_t flow)
{
	t->win = (struct window){.flow = flow};
	fit_reset(&t->win.fit, FIT_ANY);
}

/*
 * What was received last waits for its calls: when something else is received meanwhile, the order
 * of the calls is anybody's guess, until so many objects were called.
 */
static void next_window(struct adjacent *a, struct thread *t, uint64_t flow)
{
	struct window *w = &t->win;
	bool uncalled = w->flow && !w->called;

	if (uncalled && w->flow == flow)
		return;
	if (!uncalled)
		close_window(a, t, true);
	drop_window(a, t);
	if (t->unread == 1 && !find_unread(t, flow))
		t->unread = 0; /* it goes on where it was left */
	if (!t->unread)
		open_window(t, flow);
	else
		owe_read(a, t, flow);
}

static void line_receive(struct adjacent *a, struct line *l, const struct sslc_ev_wire *ev)
{
	struct object *o = object_find(a, &l->owner);

	if (!o)
		return;
	l->blind = (l->blind && !o->drained) || ev->flags || l->epoch != a->epoch;
	l->epoch = a->epoch;
	l->sure = l->sure && !l->blind;
	if (!l->sure)
		fit_reset(&l->in, o->ciphers);
	for (unsigned i = 0; i < ev->n_rec && !l->blind; i++)
		l->blind = !fit_add_record(&l->in, ev->rec[i].type, ev->rec[i].len);
}

/*
 * Several threads of a process may have received and not read yet: whose calls are whose shows only
 * where the lengths differ.
 */
static void meet_rivals(struct adjacent *a, struct thread *t, const struct sslc_ev_wire *ev)
{
	for (struct queue_node *n = queue_first(&a->busy); n; n = queue_next(&a->busy, n)) {
		struct thread *u = queue_entry(n, struct thread, busy);

		if (u == t || u->tgid != t->tgid || u->win.flow == ev->ev.flow)
			continue;
		if (u->win.flow && !u->win.read)
			u->win.rivals |= sizes_of(ev);
		if (u->unread)
			t->win.rivals = ALL;
		else if (u->win.flow && !u->win.read && !line_find(a, u->win.flow))
			t->win.rivals |= u->win.sizes;
	}
}

static void on_receive(struct adjacent *a, struct thread *t, const struct sslc_ev_wire *ev)
{
	struct line *l = line_find(a, ev->ev.flow);
	struct window *w = &t->win;

	if (l)
		line_receive(a, l, ev);
	next_window(a, t, ev->ev.flow);
	if (!l)
		meet_rivals(a, t, ev);
	if (!w->flow)
		return;
	w->sizes |= sizes_of(ev);
	for (unsigned i = 0; i < ev->n_rec; i++)
		if (!fit_add_record(&w->fit, ev->rec[i].type, ev->rec[i].len))
			w->unknown = true;
	w->unknown |= (ev->flags & (SSLC_WIRE_UNKNOWN | SSLC_WIRE_MORE)) != 0;
	w->shook |= shakes_hands(ev);
	if (last_size(ev))
		w->size = last_size(ev);
}

static bool has_hit(const struct fit *f)
{
	fit_ciphers ciphers;

	return fit_hits(f, false, &ciphers);
}

/* One of the writers, or an earlier one, has sent; the others are still to come. */
static void owe_sends(const struct adjacent *a, struct thread *t, unsigned writers)
{
	unsigned done = t->partial == 0 && t->unsent + writers;

	if (!t->unread && !t->unsent)
		t->debt_ns = a->now_ns;
	if (t->unsent < DEBT_MAX)
		t->unsent += writers - done;
}

/* Evidence from a send on a flow without an owner, if there is any in it. */
static void weigh_send(struct adjacent *a, struct thread *t, const struct sslc_ev_wire *ev)
{
	unsigned sure;
	struct object *o = only_writer(a, t, ev, &sure);
	bool clear = !t->unsent && (!t->partial || t->partial == ev->ev.flow) && !ev->flags;

	if (o && clear && ev->n_rec)
		judge_send(a, t, o, ev);
	else if (!o || !clear)
		owe_sends(a, t, sure);
	if (o && clear && (!ev->n_rec || (has_hit(&o->out) && !fit_is_used_up(&o->out))))
		t->partial = ev->ev.flow; /* it goes on with the next send */
	else
		forget_writers(a, t);
}

static void on_send(struct adjacent *a, struct thread *t, const struct sslc_ev_wire *ev)
{
	struct line *l;
	struct object *owner;

	if (t->win.flow && t->win.called)
		close_window(a, t, true);
	else if (t->win.flow != ev->ev.flow)
		drop_window(a, t);
	l = line_find(a, ev->ev.flow);
	owner = l ? object_find(a, &l->owner) : NULL;
	if (owner)
		check_send(a, owner, ev);
	else
		weigh_send(a, t, ev);
}

static void on_wire(struct adjacent *a, const struct sslc_ev_wire *ev)
{
	struct thread *t = thread_get(a, ev->tgid, ev->tid, ev->seq, false);

	if (!t)
		return;
	if (!line_find(a, ev->ev.flow))
		whole_wire(a->whole, ev);
	if (ev->dir == SSLC_DIR_IN)
		on_receive(a, t, ev);
	else
		on_send(a, t, ev);
	note_busy(a, t);
}

/* --- TLS calls ----------------------------------------------------------------------------------
 */

static bool is_writing(uint32_t call)
{
	return call == SSLC_CALL_WRITE || call == SSLC_CALL_WRITE_EX ||
	       call == SSLC_CALL_WRITE_EX2 || call == SSLC_CALL_SEND ||
	       call == SSLC_CALL_AROUND_OUT;
}

static bool is_reading(uint32_t call)
{
	return call == SSLC_CALL_READ || call == SSLC_CALL_READ_EX ||
	       call == SSLC_CALL_READ_FLAGS || call == SSLC_CALL_RECV ||
	       call == SSLC_CALL_AROUND_IN;
}

/* The object has asked for data, and there is none left in it. */
static void on_drained(struct thread *t, struct object *o)
{
	unsigned at = find_unread(t, o->flow ? o->flow : o->claim.flow);

	o->drained = true;
	t->win.drained |= is_caller(&t->win, o);
	if (at < UNREAD)
		settle_read(t, at);
}

/* Its journal goes on; len: 0 when the call moved nothing. */
static void note_call(struct adjacent *a, const struct object *o, uint32_t tid, unsigned dir,
		      uint32_t len)
{
	if (!o->flow && !o->over)
		whole_call(a->whole, &o->conn, tid, a->now_ns, dir, len);
}

static void on_call(struct adjacent *a, const struct sslc_ev_call *ev)
{
	struct thread *t = thread_get(a, ev->conn.tgid, ev->tid, ev->seq, false);
	struct object *o = t ? object_get(a, &ev->conn) : NULL;

	if (!o)
		return;
	note_call(a, o, ev->tid, is_reading(ev->call) ? SSLC_DIR_IN : SSLC_DIR_OUT, 0);
	window_call(a, t, o, is_writing(ev->call));
	window_done(a, t, o);
	if (!is_writing(ev->call))
		on_drained(t, o);
	if (is_writing(ev->call) && o->had_data) {
		out_restart(a, o);
		o->out_blocked = true;
		whole_doubt(a->whole, &o->conn);
		add_writer(a, t, o, true);
	} else if (!o->had_data) {
		add_writer(a, t, o, false);
	}
	note_busy(a, t);
}

/* Bytes of one call come in parts; a part that is missing spoils the call. */
static bool is_complete(struct object *o, const struct sslc_ev_data *ev)
{
	unsigned d = ev->dir;

	if (o->started[d] && ev->pos != o->pos[d])
		o->spoilt[d] = true;
	o->started[d] = true;
	o->pos[d] = ev->pos + ev->len;
	if (o->call_len[d] > UINT32_MAX - ev->len)
		o->spoilt[d] = true;
	o->call_len[d] += ev->len;
	return ev->flags & SSLC_DATA_END;
}

/* Part of the call is not known. */
static void on_spoilt(struct adjacent *a, struct thread *t, struct object *o, unsigned dir)
{
	struct line *l = line_find(a, o->flow);

	if (dir == SSLC_DIR_OUT) {
		out_restart(a, o);
		return;
	}
	if (l) {
		l->sure = false;
		fit_reset(&l->in, o->ciphers);
	}
	drop_window(a, t);
}

static void on_data(struct adjacent *a, const struct sslc_ev_data *ev)
{
	struct thread *t = thread_get(a, ev->conn.tgid, ev->tid, ev->seq, true);
	struct object *o = t ? object_get(a, &ev->conn) : NULL;
	uint32_t len;

	if (!o)
		return;
	if (ev->dir == SSLC_DIR_OUT && !o->call_len[ev->dir]) {
		window_call(a, t, o, true);
		window_done(a, t, o);
		add_writer(a, t, o, true);
	}
	note_busy(a, t);
	if (!is_complete(o, ev))
		return;
	len = o->call_len[ev->dir];
	o->call_len[ev->dir] = 0;
	o->had_data = true;
	note_call(a, o, ev->tid, ev->dir, len);
	if (o->spoilt[ev->dir] || ev->flags & SSLC_DATA_EARLY)
		whole_doubt(a->whole, &o->conn);
	if (o->spoilt[ev->dir])
		on_spoilt(a, t, o, ev->dir);
	else if (ev->dir == SSLC_DIR_IN)
		on_read(a, t, o, len);
	else
		on_write(a, o, len);
	o->spoilt[ev->dir] = false;
}

void adjacent_event(struct adjacent *a, const struct sslc_event *ev)
{
	if (ev->ts_ns > a->now_ns)
		a->now_ns = ev->ts_ns;
	if (ev->type == SSLC_EV_WIRE)
		on_wire(a, (const void *)ev);
	else if (ev->type == SSLC_EV_CALL && !ev->flow)
		on_call(a, (const void *)ev);
	else if (ev->type == SSLC_EV_DATA && !ev->flow)
		on_data(a, (const void *)ev);
	else if (ev->type == SSLC_EV_OPEN)
		whole_open(a->whole, (const void *)ev);
}

/* --- the rest -----------------------------------------------------------------------------------
 */

void adjacent_exact(struct adjacent *a, const struct sslc_conn_id *conn, uint64_t flow)
{
	struct object *o = object_find(a, conn);
	struct line *l = line_find(a, flow);
	struct object *owner = l ? object_find(a, &l->owner) : NULL;

	whole_drop_object(a->whole, conn);
	whole_drop_flow(a->whole, flow);
	if (owner && owner != o)
		contradict(a, owner);
	if (!o)
		return;
	if (o->flow && o->flow != flow)
		contradict(a, o);
	release(a, o);
	o->over = true;
}

/* Short exchanges leave little evidence while they last; at the end there is all of it. */
static void match_whole(struct adjacent *a, uint64_t flow)
{
	struct sslc_conn_id conn;
	struct object *o;

	if (line_find(a, flow) || !whole_match(a->whole, flow, a->now_ns, &conn))
		return;
	o = object_find(a, &conn);
	if (!o || o->flow || o->over)
		return;
	bind_object(a, o, flow);
	if (o->flow)
		counter_inc(&n_whole);
}

void adjacent_flow_ending(struct adjacent *a, uint64_t flow)
{
	for (struct queue_node *n = queue_first(&a->busy), *next; n; n = next) {
		struct thread *t = queue_entry(n, struct thread, busy);

		next = queue_next(&a->busy, n);
		if (t->win.flow == flow)
			close_window(a, t, true);
	}
	match_whole(a, flow);
}

void adjacent_flow_end(struct adjacent *a, uint64_t flow)
{
	struct line *l = line_find(a, flow);
	struct object *o = l ? object_find(a, &l->owner) : NULL;

	if (!o)
		return;
	release(a, o);
	o->over = true;
}

void adjacent_tick(struct adjacent *a, uint64_t now_ns)
{
	for (struct queue_node *n = queue_first(&a->busy), *next; n; n = next) {
		struct thread *t = queue_entry(n, struct thread, busy);

		next = queue_next(&a->busy, n);
		if (now_ns <= t->last_ns || now_ns - t->last_ns <= QUIET_NS)
			continue;
		close_window(a, t, true);
		if (now_ns - t->debt_ns > DEBT_NS)
			t->unread = t->unsent = 0;
		note_busy(a, t);
	}
}

void adjacent_free(struct adjacent *a)
{
	struct queue_node *n;

	if (!a)
		return;
	while ((n = queue_first(&a->threads_by_age)))
		thread_free(a, queue_entry(n, struct thread, age));
	while ((n = queue_first(&a->objects_by_age)))
		object_free(a, queue_entry(n, struct object, age));
	hmap_fini(&a->objects);
	hmap_fini(&a->threads);
	hmap_fini(&a->lines);
	whole_free(a->whole);
	free(a);
}
