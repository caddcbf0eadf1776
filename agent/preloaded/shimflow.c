/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shimflow: see shimflow.h. A connection is what the kernel says it is, known by its socket's
 * cookie; several descriptors, in several processes, may hold it. A process counts each object's
 * bytes from the object's beginning; a connection's own count goes on by the same steps, so that a
 * step too far is a hole of exact size.
 */
#include "preloaded/shimflow.h"

#include "base/hmap.h"
#include "base/metrics.h"
#include "base/queue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static COUNTER_DEFINE(bytes_gone, "preload_bytes_lost_gone",
		      "plaintext bytes of preloaded programs: the connection had ended before the "
		      "kernel could be asked whose it was");
static COUNTER_DEFINE(
	bytes_other, "preload_bytes_other",
	"plaintext bytes of preloaded programs on sockets other than TCP: not mirrored");
static COUNTER_DEFINE(bytes_late, "preload_bytes_lost_late",
		      "plaintext bytes of preloaded programs after their connection had ended");
static COUNTER_DEFINE(records_odd, "preload_records_malformed",
		      "records of preloaded programs that make no sense, ignored");
static COUNTER_DEFINE(
	tables_full, "preload_records_lost_tables",
	"records of preloaded programs: too many objects or descriptors, or no memory");

#define FORKED    4096u /* fork()s remembered: children come at once, or never */
#define ANCESTORS 8
#define STEP_MAX  (1ull << 48) /* bytes at once that an honest process may have lost */

struct sflow {
	struct hmap_node by_cookie, by_id;
	struct queue_node linger_q;
	uint64_t cookie, id;
	uint64_t pos[2]; /* by enum sslc_dir */
	uint64_t deadline_ns;
	unsigned holders;      /* descriptors */
	unsigned refs;         /* and objects, and a place in the queue */
	struct holder *latest; /* of them; NULL: gone */
	bool is_over;          /* told, and in no table any more */
	bool is_reset;
	bool is_cut;     /* what was said last is lost, nobody knows how much */
	bool is_skipped; /* what is not told of it is not lost */
	/* Its last holder, while it waits for heirs. */
	uint64_t process, born;
	int fd;
	uint32_t fd_gen;
};

/* A descriptor of a process. */
struct holder {
	struct hmap_node node;
	struct sflow *flow;
	const struct shimproc *process;
	int fd;
	uint32_t fd_gen;
	uint64_t born; /* shimproc.records then */
};

/* Bytes said before TLS on a connection that is not known yet. */
struct clear {
	struct clear *next;
	struct sslc_ev_data ev; /* its bytes follow */
};

enum fate { UNBOUND, BOUND, LOST, OTHER };

/* A TLS object of a process. */
struct object {
	struct hmap_node node;
	struct sflow *flow; /* while BOUND */
	uint64_t ssl;
	uint32_t life;
	enum fate fate;
	uint64_t next[2];  /* position expected, by enum sslc_dir */
	uint64_t loose[2]; /* bytes told without a connection */
	struct clear *clear, **clear_end;
	bool is_cut; /* not all of them */
};

struct shimproc {
	struct queue_node node;
	struct shimproc_conf conf;
	struct hmap objects, holders;
	uint64_t holes; /* bytes that were not told, as was seen */
	uint64_t id;    /* unlike a process's number not used again */
	uint64_t records;
	size_t clear_bytes; /* of memory, of all objects */
};

/* A child may come that knows this number. */
struct forked {
	uint64_t kin, process, records;
	uint64_t parents_kin; /* its parent's, of that process; or 0 */
};

struct shimflows {
	struct shimflows_conf conf;
	struct hmap by_cookie, by_id;
	struct queue lingering, processes;
	uint64_t last_id, last_process;
	struct forked forked[FORKED]; /* the last ones */
	uint32_t n_forked;
	struct object *binding; /* whose connection is about to be opened; or NULL */
};

int shimflows_new(struct shimflows **out, const struct shimflows_conf *conf)
{
	struct shimflows *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->conf = *conf;
	hmap_init(&t->by_cookie);
	hmap_init(&t->by_id);
	queue_init(&t->lingering);
	queue_init(&t->processes);
	*out = t;
	return 0;
}

void shimflows_free(struct shimflows *t)
{
	if (!t)
		return;
	shimflows_tick(t, UINT64_MAX);
	hmap_fini(&t->by_cookie);
	hmap_fini(&t->by_id);
	free(t);
}

struct shimproc *shimflows_join(struct shimflows *t, const struct shimproc_conf *conf)
{
	struct shimproc *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->conf = *conf;
	p->id = ++t->last_process;
	queue_push(&t->processes, &p->node);
	hmap_init(&p->objects);
	hmap_init(&p->holders);
	return p;
}

static struct sslc_conn_id conn_id(const struct shimproc *p, uint64_t ssl, uint32_t life)
{
	return (struct sslc_conn_id){
		.start_ns = p->conf.start_ns, .ssl = ssl, .tgid = p->conf.pid, .life = life};
}

static void emit(const struct shimflows *t, void *ev, size_t size, enum sslc_event_type type,
		 uint64_t flow, uint64_t ts_ns)
{
	*(struct sslc_event *)ev = (struct sslc_event){
		.type = type, .size = (uint32_t)size, .ts_ns = ts_ns, .flow = flow};
	t->conf.event(t->conf.ctx, ev, NULL);
}

/* --- connections --------------------------------------------------------------------------------
 */

static uint64_t hash64(uint64_t v)
{
	return hmap_hash(&v, sizeof(v));
}

static struct sflow *find_cookie(const struct shimflows *t, uint64_t cookie)
{
	for (struct hmap_node *n = hmap_first(&t->by_cookie, hash64(cookie)); n;
	     n = hmap_next_same(n)) {
		struct sflow *f = hmap_entry(n, struct sflow, by_cookie);

		if (f->cookie == cookie)
			return f;
	}
	return NULL;
}

/* As next_flow() in bpf/maps.bpf.h makes them. */
static uint64_t next_id(struct shimflows *t, uint64_t now_ns)
{
	uint64_t id = now_ns << 13 | SSLC_FLOW_PRELOAD;

	if (id <= t->last_id)
		id = t->last_id + (1u << 13);
	t->last_id = id;
	return id;
}

/* --- before TLS ---------------------------------------------------------------------------------
 */

/* They come right before the record BIND of their object. */
static void on_clear(struct shimproc *p, struct object *o, const struct shimring_record *r)
{
	size_t size = sizeof(struct clear) + r->rec.len;
	struct clear *c;

	if (o->fate != UNBOUND)
		return;
	c = size <= SHIMFLOW_CLEAR_MAX - p->clear_bytes ? calloc(1, size) : NULL;
	if (!c) {
		counter_inc(&tables_full);
		o->is_cut = true;
		return;
	}
	c->ev.conn = conn_id(p, o->ssl, o->life);
	c->ev.ev.ts_ns = r->rec.ts_ns;
	c->ev.pos = r->rec.pos;
	c->ev.tid = r->rec.thread;
	c->ev.len = r->rec.len;
	c->ev.dir = r->rec.dir;
	memcpy(c->ev.data, r->bytes, r->rec.len);
	if (!o->clear)
		o->clear_end = &o->clear;
	*o->clear_end = c;
	o->clear_end = &c->next;
	p->clear_bytes += size;
}

/* A byte where none can be: the stages behind know then that some are missing. */
static void tell_cut(const struct shimflows *t, const struct shimproc *p, const struct object *o,
		     uint64_t flow, uint64_t ts_ns)
{
	_Alignas(struct sslc_ev_data)
		uint8_t room[sizeof(struct sslc_ev_data) + sizeof(uint64_t)] = {0};
	struct sslc_ev_data *cut = (void *)room;

	cut->conn = conn_id(p, o->ssl, o->life);
	cut->pos = SSLC_SHIM_CLEAR_MAX;
	cut->len = 1;
	emit(t, cut, sizeof(room), SSLC_EV_CLEAR, flow, ts_ns);
}

/* flow: 0: nobody's. */
static void take_clear(const struct shimflows *t, struct shimproc *p, struct object *o,
		       uint64_t flow)
{
	struct clear *c;

	while ((c = o->clear)) {
		if (flow)
			emit(t, &c->ev, sizeof(c->ev) + c->ev.len, SSLC_EV_CLEAR, flow,
			     c->ev.ev.ts_ns);
		o->clear = c->next;
		p->clear_bytes -= sizeof(*c) + c->ev.len;
		explicit_bzero(c->ev.data, c->ev.len);
		free(c);
	}
}

static struct sflow *open_flow(struct shimflows *t, struct shimproc *p,
			       const struct sslc_shim_rec *r, struct sslc_ev_open *ev,
			       uint64_t cookie)
{
	struct sflow *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	f->cookie = cookie;
	f->id = next_id(t, r->ts_ns);
	if (hmap_insert(&t->by_cookie, &f->by_cookie, hash64(cookie))) {
		free(f);
		return NULL;
	}
	if (hmap_insert(&t->by_id, &f->by_id, hash64(f->id))) {
		hmap_remove(&t->by_cookie, &f->by_cookie);
		free(f);
		return NULL;
	}
	ev->conn = conn_id(p, r->obj, r->life);
	ev->flags |= r->flags & SSLC_SHIM_LATE ? SSLC_OPEN_LATE : 0;
	ev->tid = p->conf.pid;
	ev->uid = p->conf.uid;
	memcpy(ev->comm, p->conf.comm, sizeof(ev->comm));
	if (t->binding)
		take_clear(t, p, t->binding, f->id);
	if (t->binding && (t->binding->is_cut || r->flags & SSLC_SHIM_CUT))
		tell_cut(t, p, t->binding, f->id, r->ts_ns);
	emit(t, ev, sizeof(*ev), SSLC_EV_OPEN, f->id, r->ts_ns);
	return f;
}

static void put_flow(struct sflow *f)
{
	if (f && !--f->refs)
		free(f);
}

static void tell_sock(const struct shimflows *t, const struct sflow *f, enum sslc_sock_what what,
		      uint64_t ts_ns)
{
	struct sslc_ev_sock ev = {.what = what};

	emit(t, &ev, sizeof(ev), SSLC_EV_SOCK, f->id, ts_ns);
}

static void end_flow(struct shimflows *t, struct sflow *f, uint64_t ts_ns)
{
	if (f->is_over)
		return;
	if (!f->is_reset)
		tell_sock(t, f, f->is_cut ? SSLC_SOCK_RST_OUT : SSLC_SOCK_LOCAL_FIN, ts_ns);
	tell_sock(t, f, SSLC_SOCK_DESTROYED, ts_ns);
	f->is_over = true;
	if (queue_is_in(&f->linger_q)) {
		queue_remove(&f->linger_q);
		f->refs--; /* not the last: the caller has one */
	}
	hmap_remove(&t->by_cookie, &f->by_cookie);
	hmap_remove(&t->by_id, &f->by_id);
}

/* One descriptor less. is_shared: somebody may have it whom we do not know yet. */
static void release(struct shimflows *t, struct shimproc *p, struct holder *h, bool is_shared,
		    uint64_t ts_ns)
{
	struct sflow *f = h->flow;

	hmap_remove(&p->holders, &h->node);
	if (f->latest == h)
		f->latest = NULL;
	f->process = p->id;
	f->born = h->born;
	f->fd = h->fd;
	f->fd_gen = h->fd_gen;
	free(h);
	f->holders--;
	if (!f->holders && is_shared && !f->is_over) {
		if (!queue_is_in(&f->linger_q))
			f->refs++;
		f->deadline_ns = ts_ns + SHIMFLOW_LINGER_NS;
		queue_push(&t->lingering, &f->linger_q);
	} else if (!f->holders) {
		end_flow(t, f, ts_ns);
	}
	put_flow(f);
}

void shimflows_tick(struct shimflows *t, uint64_t now_ns)
{
	struct queue_node *n;

	while ((n = queue_first(&t->lingering))) {
		struct sflow *f = queue_entry(n, struct sflow, linger_q);

		if (now_ns < f->deadline_ns)
			break;
		queue_remove(n);
		if (!f->holders)
			end_flow(t, f, f->deadline_ns);
		put_flow(f);
	}
}

/* --- descriptors --------------------------------------------------------------------------------
 */

static struct holder *find_holder(const struct shimproc *p, int fd)
{
	for (struct hmap_node *n = hmap_first(&p->holders, hash64((uint64_t)fd)); n;
	     n = hmap_next_same(n)) {
		struct holder *h = hmap_entry(n, struct holder, node);

		if (h->fd == fd)
			return h;
	}
	return NULL;
}

static bool hold(struct shimproc *p, const struct sslc_shim_rec *r, struct sflow *f)
{
	struct holder *h = p->holders.count < SHIMFLOW_FDS_MAX ? calloc(1, sizeof(*h)) : NULL;

	if (!h || hmap_insert(&p->holders, &h->node, hash64((uint64_t)r->fd))) {
		free(h);
		return false;
	}
	h->fd = r->fd;
	h->fd_gen = r->fd_gen;
	h->flow = f;
	h->process = p;
	h->born = p->records;
	f->latest = h;
	f->holders++;
	f->refs++;
	return true;
}

static const struct forked *find_forked(const struct shimflows *t, uint64_t kin)
{
	for (uint32_t i = 0; kin && i < FORKED && i < t->n_forked; i++)
		if (t->forked[i].kin == kin)
			return &t->forked[i];
	return NULL;
}

/* What a descriptor was when its process made a child. is_gone: the process has left. */
static struct sflow *held_then(const struct shimflows *t, const struct forked *by,
			       const struct sslc_shim_rec *r, bool *is_gone)
{
	struct queue_node *n;

	*is_gone = true;
	for (n = queue_first(&t->processes); n; n = queue_next(&t->processes, n)) {
		const struct shimproc *other = queue_entry(n, struct shimproc, node);
		const struct holder *h;

		if (other->id != by->process)
			continue;
		*is_gone = false;
		h = find_holder(other, r->fd);
		if (h && h->fd_gen == r->fd_gen && h->born <= by->records && !h->flow->is_over)
			return h->flow;
	}
	for (n = queue_first(&t->lingering); n; n = queue_next(&t->lingering, n)) {
		struct sflow *f = queue_entry(n, struct sflow, linger_q);

		if (f->process == by->process && f->fd == r->fd && f->fd_gen == r->fd_gen &&
		    f->born <= by->records)
			return f;
	}
	return NULL;
}

/*
 * What the parent's descriptor was when it made this child, by the word of a child that is gone.
 * Where the parent is gone, too, it is what its own parent's was then, of the same generation.
 */
static struct sflow *parents(const struct shimflows *t, const struct shimproc *p,
			     const struct sslc_shim_rec *r)
{
	const struct forked *by = find_forked(t, p->conf.kin);
	bool is_gone = true;

	for (int i = 0; by && is_gone && i < ANCESTORS; i++) {
		struct sflow *f = held_then(t, by, r, &is_gone);

		if (f)
			return f;
		by = find_forked(t, by->parents_kin);
	}
	return NULL;
}

static void on_fork(struct shimflows *t, const struct shimproc *p, const struct sslc_shim_rec *r)
{
	t->forked[t->n_forked % FORKED] = (struct forked){
		.kin = r->pos, .process = p->id, .records = p->records, .parents_kin = p->conf.kin};
	t->n_forked = t->n_forked + 1 < 2 * FORKED ? t->n_forked + 1 : FORKED;
}

/*
 * The connection that a descriptor of the process stands for; NULL: *err says why not. It is asked
 * for at each new generation only.
 */
static struct sflow *flow_of(struct shimflows *t, struct shimproc *p, const struct sslc_shim_rec *r,
			     int *err)
{
	struct holder *h = find_holder(p, r->fd);
	struct sslc_ev_open ev = {.ev.type = 0};
	struct sflow *f;
	uint64_t cookie;

	if (h && h->fd_gen == r->fd_gen)
		return h->flow;
	if (h) { /* its end was not told */
		h->flow->is_cut = true;
		release(t, p, h, false, r->ts_ns);
	}
	*err = t->conf.take(t->conf.ctx, p->conf.process, r, &ev, &cookie);
	f = !*err                                         ? find_cookie(t, cookie)
	    : *err == -ESRCH && r->type == SSLC_SHIM_HOLD ? parents(t, p, r)
							  : NULL;
	if (*err && !f)
		return NULL;
	if (!f && r->type == SSLC_SHIM_HOLD) /* nobody has used it yet */
		return NULL;
	if (!f)
		f = open_flow(t, p, r, &ev, cookie);
	if (!f || !hold(p, r, f)) {
		*err = -ENOMEM;
		counter_inc(&tables_full);
		if (f && !f->refs) {
			f->refs++;
			end_flow(t, f, r->ts_ns);
			put_flow(f);
		}
		return NULL;
	}
	return f;
}

static void on_end(struct shimflows *t, struct shimproc *p, const struct sslc_shim_rec *r)
{
	struct holder *h = find_holder(p, r->fd);

	if (!h || h->fd_gen != r->fd_gen)
		return; /* not known: told at a time when nobody listened */
	switch (r->pos2) {
	case SSLC_SOCK_DESTROYED:
		release(t, p, h, r->flags & SSLC_SHIM_FORKED, r->ts_ns);
		return;
	case SSLC_SOCK_RST_IN:
	case SSLC_SOCK_TIMEOUT:
		h->flow->is_reset = true;
		break;
	case SSLC_SOCK_LOCAL_FIN:
	case SSLC_SOCK_EOF:
	case SSLC_SOCK_ERROR:
		break;
	default:
		counter_inc(&records_odd);
		return;
	}
	if (!h->flow->is_over)
		tell_sock(t, h->flow, (enum sslc_sock_what)r->pos2, r->ts_ns);
}

/* --- objects ------------------------------------------------------------------------------------
 */

static struct object *find_object(const struct shimproc *p, uint64_t ssl, uint32_t life)
{
	for (struct hmap_node *n = hmap_first(&p->objects, hash64(ssl)); n; n = hmap_next_same(n)) {
		struct object *o = hmap_entry(n, struct object, node);

		if (o->ssl == ssl && o->life == life)
			return o;
	}
	return NULL;
}

static struct object *get_object(struct shimproc *p, const struct sslc_shim_rec *r)
{
	struct object *o = find_object(p, r->obj, r->life);

	if (o)
		return o;
	o = p->objects.count < SHIMFLOW_OBJECTS_MAX ? calloc(1, sizeof(*o)) : NULL;
	if (!o || hmap_insert(&p->objects, &o->node, hash64(r->obj))) {
		counter_inc(&tables_full);
		free(o);
		return NULL;
	}
	o->ssl = r->obj;
	o->life = r->life;
	return o;
}

static void drop_object(const struct shimflows *t, struct shimproc *p, struct object *o)
{
	take_clear(t, p, o, 0);
	put_flow(o->flow);
	hmap_remove(&p->objects, &o->node);
	free(o);
}

/* What it said before it had a connection comes first. */
static void tell_bind(const struct shimflows *t, const struct shimproc *p, struct object *o,
		      uint64_t ts_ns)
{
	struct sslc_ev_bind ev = {.conn = conn_id(p, o->ssl, o->life)};

	if (!(o->loose[0] | o->loose[1]))
		return;
	memcpy(ev.pos, o->loose, sizeof(ev.pos));
	o->loose[0] = o->loose[1] = 0;
	emit(t, &ev, sizeof(ev), SSLC_EV_BIND, o->flow->id, ts_ns);
}

static void on_bind(struct shimflows *t, struct shimproc *p, const struct sslc_shim_rec *r)
{
	struct object *o = get_object(p, r);
	struct sflow *f;
	int err = 0;

	if (!o)
		return;
	t->binding = o;
	f = flow_of(t, p, r, &err);
	t->binding = NULL;
	take_clear(t, p, o, 0);
	if (f)
		f->refs++;
	put_flow(o->flow);
	o->flow = f;
	o->next[SSLC_DIR_IN] = r->pos;
	o->next[SSLC_DIR_OUT] = r->pos2;
	if (f) {
		o->fate = BOUND;
		tell_bind(t, p, o, r->ts_ns);
	} else {
		o->fate = err == -EPROTONOSUPPORT ? OTHER : LOST;
	}
}

static void count_untold(const struct object *o, uint64_t n)
{
	counter_add(o->fate == OTHER  ? &bytes_other
		    : o->fate == LOST ? &bytes_gone
				      : &bytes_late,
		    n);
}

/* How far beyond what was expected; false: the process contradicts itself. */
static bool step(const struct object *o, unsigned dir, uint64_t pos, uint64_t len, uint64_t *out)
{
	*out = pos - o->next[dir];
	return *out <= STEP_MAX && len <= STEP_MAX;
}

/* Where the bytes stand in their connection, or with their object. */
static uint64_t place(struct object *o, unsigned dir, uint64_t hole, uint64_t len)
{
	uint64_t *pos = o->fate == BOUND ? &o->flow->pos[dir] : &o->loose[dir], at = *pos + hole;

	*pos = at + len;
	o->next[dir] += hole + len;
	return at;
}

/* So many bytes of it come in no record. */
static void see_hole(struct shimproc *p, const struct object *o, uint64_t hole)
{
	if (!o->flow || !o->flow->is_skipped)
		p->holes += hole;
}

static bool is_telling(const struct object *o)
{
	return o->fate == UNBOUND || (o->fate == BOUND && !o->flow->is_over);
}

static void on_data(struct shimflows *t, struct shimproc *p, const struct shimring_record *r)
{
	struct object *o = get_object(p, &r->rec);
	struct sslc_ev_data ev;
	uint64_t hole;

	if (!o)
		return;
	if (!step(o, r->rec.dir, r->rec.pos, r->rec.len, &hole)) {
		counter_inc(&records_odd);
		return;
	}
	see_hole(p, o, hole);
	if (!is_telling(o)) {
		o->next[r->rec.dir] += hole + r->rec.len;
		count_untold(o, r->rec.len);
		return;
	}
	ev = (struct sslc_ev_data){
		.ev = {.type = SSLC_EV_DATA,
		       .size = (uint32_t)sizeof(ev) + r->rec.len,
		       .ts_ns = r->rec.ts_ns,
		       .flow = o->flow ? o->flow->id : 0},
		.conn = conn_id(p, o->ssl, o->life),
		.pos = place(o, r->rec.dir, hole, r->rec.len),
		.tid = r->rec.thread,
		.len = r->rec.len,
		.dir = r->rec.dir,
		.flags = (r->rec.flags & SSLC_SHIM_LAST ? SSLC_DATA_END : 0) |
			 (r->rec.flags & SSLC_SHIM_0RTT ? SSLC_DATA_EARLY : 0),
	};
	t->conf.event(t->conf.ctx, &ev.ev, r->bytes);
}

static void on_gap(struct shimflows *t, struct shimproc *p, const struct sslc_shim_rec *r)
{
	struct object *o = get_object(p, r);
	struct sslc_ev_gap ev;
	uint64_t hole;

	if (!o)
		return;
	if (!r->pos2 || !step(o, r->dir, r->pos, r->pos2, &hole)) {
		counter_inc(&records_odd);
		return;
	}
	see_hole(p, o, hole);
	if (o->fate != BOUND || o->flow->is_over) {
		o->next[r->dir] += hole + r->pos2;
		count_untold(o, r->pos2);
		return;
	}
	ev = (struct sslc_ev_gap){.conn = conn_id(p, o->ssl, o->life),
				  .pos = place(o, r->dir, hole, r->pos2),
				  .len = r->pos2,
				  .tid = r->thread,
				  .dir = r->dir};
	emit(t, &ev, sizeof(ev), SSLC_EV_GAP, o->flow->id, r->ts_ns);
}

/* What was lost at its end has nothing behind it that would show the hole. */
static void on_reached(struct shimflows *t, struct shimproc *p, const struct sslc_shim_rec *r)
{
	struct object *o = find_object(p, r->obj, r->life);
	struct sslc_ev_lost ev;
	uint64_t in, out;

	if (!o || !step(o, SSLC_DIR_IN, r->pos, 0, &in) ||
	    !step(o, SSLC_DIR_OUT, r->pos2, 0, &out) || !(in | out))
		return;
	see_hole(p, o, in + out);
	o->next[SSLC_DIR_IN] += in;
	o->next[SSLC_DIR_OUT] += out;
	if (o->fate != BOUND || o->flow->is_over)
		return;
	ev = (struct sslc_ev_lost){.pos = {0}};
	o->flow->pos[SSLC_DIR_IN] += in;
	o->flow->pos[SSLC_DIR_OUT] += out;
	memcpy(ev.pos, o->flow->pos, sizeof(ev.pos));
	emit(t, &ev, sizeof(ev), SSLC_EV_LOST, o->flow->id, r->ts_ns);
}

static void on_forget(struct shimflows *t, struct shimproc *p, const struct sslc_shim_rec *r)
{
	struct object *o = find_object(p, r->obj, r->life);

	on_reached(t, p, r);
	if (o)
		drop_object(t, p, o);
}

static void on_early(const struct shimflows *t, const struct shimproc *p,
		     const struct sslc_shim_rec *r)
{
	const struct object *o = find_object(p, r->obj, r->life);
	struct sslc_ev_early ev;

	if (!o || o->fate != BOUND || o->flow->is_over)
		return;
	ev = (struct sslc_ev_early){.conn = conn_id(p, o->ssl, o->life), .accepted = r->pos2 == 1};
	emit(t, &ev, sizeof(ev), SSLC_EV_EARLY, o->flow->id, r->ts_ns);
}

void shimflows_record(struct shimflows *t, struct shimproc *p, const struct shimring_record *r)
{
	struct object *o;
	int err = 0;

	p->records++;
	switch (r->rec.type) {
	case SSLC_SHIM_CLEAR_BYTES:
		o = get_object(p, &r->rec);
		if (o)
			on_clear(p, o, r);
		break;
	case SSLC_SHIM_DATA_BYTES:
		on_data(t, p, r);
		break;
	case SSLC_SHIM_BIND:
		on_bind(t, p, &r->rec);
		break;
	case SSLC_SHIM_HOLD:
		(void)flow_of(t, p, &r->rec, &err);
		break;
	case SSLC_SHIM_END:
		on_end(t, p, &r->rec);
		break;
	case SSLC_SHIM_FORGET:
		on_forget(t, p, &r->rec);
		break;
	case SSLC_SHIM_FORK:
		on_fork(t, p, &r->rec);
		break;
	case SSLC_SHIM_REACHED:
		on_reached(t, p, &r->rec);
		break;
	case SSLC_SHIM_GAP:
		on_gap(t, p, &r->rec);
		break;
	case SSLC_SHIM_EARLY:
		on_early(t, p, &r->rec);
		break;
	default:
		counter_inc(&records_odd);
	}
}

/* --- the rest -----------------------------------------------------------------------------------
 */

void shimflows_writing(struct shimflows *t, struct shimproc *p, uint64_t ssl)
{
	(void)t;
	for (struct hmap_node *n = hmap_first(&p->objects, hash64(ssl)); n; n = hmap_next_same(n)) {
		const struct object *o = hmap_entry(n, struct object, node);

		if (o->ssl == ssl && o->flow)
			o->flow->is_cut = true;
	}
}

void shimflows_torn(struct shimflows *t, struct shimproc *p)
{
	(void)t;
	for (struct hmap_node *n = hmap_any(&p->holders, NULL); n; n = hmap_any(&p->holders, n))
		hmap_entry(n, struct holder, node)->flow->is_cut = true;
}

void shimflows_leave(struct shimflows *t, struct shimproc *p, const struct shimproc_end *end)
{
	struct hmap_node *n;

	if (end->is_torn || end->lost > p->holes)
		shimflows_torn(t, p);
	while ((n = hmap_any(&p->holders, NULL)))
		release(t, p, hmap_entry(n, struct holder, node), end->has_heirs, end->now_ns);
	while ((n = hmap_any(&p->objects, NULL)))
		drop_object(t, p, hmap_entry(n, struct object, node));
	hmap_fini(&p->holders);
	hmap_fini(&p->objects);
	queue_remove(&p->node);
	free(p);
}

void shimflows_skip(struct shimflows *t, uint64_t flow)
{
	for (struct hmap_node *n = hmap_first(&t->by_id, hash64(flow)); n; n = hmap_next_same(n)) {
		struct sflow *f = hmap_entry(n, struct sflow, by_id);
		const struct holder *h = f->latest;

		if (f->id != flow)
			continue;
		f->is_skipped = true;
		if (h)
			t->conf.skip(t->conf.ctx, h->process->conf.process, h->fd, h->fd_gen);
	}
}

size_t shimflows_count(const struct shimflows *t)
{
	return t->by_cookie.count;
}
