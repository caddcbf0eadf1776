/* SPDX-License-Identifier: Apache-2.0 */
/*
 * crew: see crew.h. The frame that opens a flow names its addresses, and they its worker; later
 * ones name the flow alone, so that is remembered until it is closed. Frames of a block for one
 * worker are copied into one parcel. Frames are checked here, where a link can be closed for them:
 * workers are given none that they could refuse.
 */
#include "crew/crew.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/hmap.h"
#include "base/metrics.h"
#include "base/queue.h"
#include "zblock.h"

#define CHUTE_SIZE                                                                                 \
	(4u << 20) /* what may wait for one worker; a block is a quarter of it at most             \
		    */
#define NOBODY CREW_MAX

static COUNTER_DEFINE(c_forgotten, "crew_flows_forgotten",
		      "flows whose worker was forgotten at the limit: their bytes are lost");

/* Which worker a flow is with. */
struct route {
	struct hmap_node by_flow;
	struct queue_node order;
	struct crew_origin *origin; /* borrowed */
	uint64_t flow;
	unsigned worker;
};

struct crew_origin {
	struct session_origin *of[CREW_MAX]; /* borrowed; each its worker's */
	struct hmap routes;
	struct route *last; /* the one used last, or NULL */
	struct queue_node node;
	struct crew_mark gone;
	uint8_t agent[16];
	size_t host_len;
	uint8_t host[]; /* as the agent says it */
};

struct hand {
	struct chute *chute;
	uint8_t *at; /* of the parcel that is being filled; NULL: none */
	size_t len;
};

struct crew {
	struct sessions *direct; /* borrowed; NULL: there are workers */
	struct hand v[CREW_MAX];
	unsigned n;
	bool with_ports;
	int fd;
	struct queue origins, leaving; /* an origin is in one of them */
	struct queue order;            /* of all origins' routes: least recently used first */
	size_t n_routes, max_routes;
	/* Between crew_begin() and crew_end(). */
	struct crew_origin *origin;
	size_t left; /* bytes of frames that may still come */
};

static struct crew *crew_alloc(void)
{
	struct crew *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->fd = -1;
	queue_init(&c->origins);
	queue_init(&c->leaving);
	queue_init(&c->order);
	return c;
}

struct crew *crew_new_direct(struct sessions *t)
{
	struct crew *c = crew_alloc();

	if (c)
		c->direct = t;
	return c;
}

int crew_new(struct crew **out, unsigned n, bool with_ports, size_t max_flows)
{
	struct crew *c = crew_alloc();
	int err = 0;

	_Static_assert(ZBLOCK_RAW_MAX <= CHUTE_SIZE / 4, "a block's frames are one parcel at most");
	if (!c)
		return -ENOMEM;
	c->with_ports = with_ports;
	c->max_routes = max_flows;
	c->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (c->fd < 0)
		err = -errno;
	for (; !err && c->n < n; c->n += !err)
		err = chute_new(&c->v[c->n].chute, CHUTE_SIZE, c->fd);
	if (err) {
		crew_free(c);
		return err;
	}
	*out = c;
	return 0;
}

/* ---- origins ---- */

static void route_drop(struct crew *c, struct route *r)
{
	struct crew_origin *o = r->origin;

	if (o->last == r)
		o->last = NULL;
	hmap_remove(&o->routes, &r->by_flow);
	queue_remove(&r->order);
	free(r);
	c->n_routes--;
}

static void routes_drop(struct crew *c, struct crew_origin *o)
{
	struct hmap_node *n = hmap_any(&o->routes, NULL), *next;

	for (; n; n = next) {
		next = hmap_any(&o->routes, n);
		route_drop(c, hmap_entry(n, struct route, by_flow));
	}
}

static void origin_free(struct crew *c, struct crew_origin *o)
{
	routes_drop(c, o);
	hmap_fini(&o->routes);
	queue_remove(&o->node);
	free(o);
}

static struct crew_origin *origin_new(struct crew *c, const uint8_t agent[16], struct span host)
{
	struct crew_origin *o = calloc(1, sizeof(*o) + host.len);

	if (!o)
		return NULL;
	hmap_init(&o->routes);
	memcpy(o->agent, agent, sizeof(o->agent));
	o->host_len = host.len;
	if (host.len)
		memcpy(o->host, host.p, host.len);
	queue_push(&c->origins, &o->node);
	return o;
}

struct crew_origin *crew_origin(struct crew *c, const uint8_t agent[16], struct span host)
{
	struct crew_origin *o = origin_new(c, agent, host);

	if (!o || !c->direct)
		return o;
	o->of[0] = sessions_origin(c->direct, agent, host);
	if (o->of[0])
		return o;
	origin_free(c, o);
	return NULL;
}

static void tell_all(struct crew *c, enum crew_what what, struct crew_origin *o)
{
	for (unsigned i = 0; i < c->n; i++) {
		(void)chute_room(c->v[i].chute, 0);
		chute_put(c->v[i].chute, what, o, 0);
	}
}

void crew_origin_link(struct crew *c, struct crew_origin *o, bool is_up)
{
	if (c->direct)
		sessions_origin_link(c->direct, o->of[0], is_up);
	else
		tell_all(c, is_up ? CREW_LINK_UP : CREW_LINK_DOWN, o);
}

void crew_origin_gone(struct crew *c, struct crew_origin *o, uint64_t now_ns)
{
	if (c->direct) {
		sessions_origin_gone(c->direct, o->of[0], now_ns);
		origin_free(c, o);
		return;
	}
	tell_all(c, CREW_GONE, o);
	routes_drop(c, o);
	crew_mark(c, &o->gone);
	queue_push(&c->leaving, &o->node);
}

/* Those that no worker speaks of any more. */
static void leaving_free(struct crew *c)
{
	struct queue_node *n;

	while ((n = queue_first(&c->leaving))) {
		struct crew_origin *o = queue_entry(n, struct crew_origin, node);

		for (unsigned i = 0; i < c->n; i++)
			if (!chute_is_past(c->v[i].chute, o->gone.at[i]))
				return;
		origin_free(c, o);
	}
}

const uint8_t *crew_origin_agent(const struct crew_origin *o)
{
	return o->agent;
}

struct span crew_origin_host(const struct crew_origin *o)
{
	return span_of(o->host, o->host_len);
}

struct session_origin **crew_origin_of(struct crew_origin *o, unsigned worker)
{
	return &o->of[worker];
}

/* ---- which worker ---- */

static uint64_t flow_hash(uint64_t flow)
{
	return hmap_hash(&flow, sizeof(flow));
}

/* Mostly it is already. */
static void route_is_latest(struct crew *c, struct route *r)
{
	if (c->order.head.prev != &r->order)
		queue_push(&c->order, &r->order);
	r->origin->last = r;
}

static struct route *route_find(struct crew *c, struct crew_origin *o, uint64_t flow)
{
	struct hmap_node *n;

	if (o->last && o->last->flow == flow) {
		route_is_latest(c, o->last);
		return o->last;
	}
	for (n = hmap_first(&o->routes, flow_hash(flow)); n; n = hmap_next_same(n)) {
		struct route *r = hmap_entry(n, struct route, by_flow);

		if (r->flow != flow)
			continue;
		route_is_latest(c, r);
		return r;
	}
	return NULL;
}

/* Without memory the flow is opened, and what follows does not find it: counted there. */
static void route_add(struct crew *c, struct crew_origin *o, uint64_t flow, unsigned worker)
{
	struct queue_node *oldest = queue_first(&c->order);
	struct route *r;

	if (c->n_routes >= c->max_routes && oldest) {
		counter_inc(&c_forgotten);
		route_drop(c, queue_entry(oldest, struct route, order));
	}
	r = calloc(1, sizeof(*r));
	if (!r)
		return;
	r->origin = o;
	r->flow = flow;
	r->worker = worker;
	if (hmap_insert(&o->routes, &r->by_flow, flow_hash(flow))) {
		free(r);
		return;
	}
	route_is_latest(c, r);
	c->n_routes++;
}

static unsigned by_addresses(const struct crew *c, const struct frame_flow_open *m)
{
	struct frame_flow_open key = *m;

	if (!c->with_ports)
		key.client_port = key.server_port = 0;
	return sink_flow_choice(&key, c->n);
}

static int place_open(struct crew *c, struct crew_origin *o, const struct frame *f, unsigned *w)
{
	struct frame_flow_open m;
	struct route *r;

	if (frame_get_flow_open(f, &m) < 0)
		return -EBADMSG;
	r = route_find(c, o, m.flow);
	*w = r ? r->worker : by_addresses(c, &m);
	if (!r)
		route_add(c, o, m.flow, *w);
	return 0;
}

/* As the table would: what it refuses never gets there. */
static int check_flow_frame(const struct frame *f)
{
	struct frame_data data;
	struct frame_gap gap;
	struct frame_flow_fin fin;
	struct frame_flow_close end;

	switch (f->type) {
	case FRAME_DATA:
		return frame_get_data(f, &data) < 0 || data.offset > UINT64_MAX - data.bytes.len
			       ? -EBADMSG
			       : 0;
	case FRAME_GAP:
		return frame_get_gap(f, &gap) < 0 || gap.offset > UINT64_MAX - gap.len ? -EBADMSG
										       : 0;
	case FRAME_FLOW_FIN:
		return frame_get_flow_fin(f, &fin) < 0 ? -EBADMSG : 0;
	default:
		return frame_get_flow_close(f, &end) < 0 ? -EBADMSG : 0;
	}
}

/* *w: NOBODY when no table wants it. */
static int place(struct crew *c, struct crew_origin *o, const struct frame *f, unsigned *w)
{
	uint64_t flow = frame_flow(f);
	struct route *r;
	int err;

	*w = NOBODY;
	switch (f->type) {
	case FRAME_FLOW_OPEN:
		return place_open(c, o, f, w);
	case FRAME_DATA:
	case FRAME_GAP:
	case FRAME_FLOW_FIN:
	case FRAME_FLOW_CLOSE:
		break;
	default:
		return 0;
	}
	err = check_flow_frame(f);
	if (err)
		return err;
	r = route_find(c, o, flow);
	*w = r ? r->worker : (unsigned)(flow % c->n); /* whose table counts what is unknown */
	if (r && f->type == FRAME_FLOW_CLOSE)
		route_drop(c, r);
	return 0;
}

/* ---- frames ---- */

void crew_begin(struct crew *c, struct crew_origin *o, size_t len)
{
	c->origin = o;
	c->left = len;
}

/* Where it lies, its head included. */
static struct span frame_bytes(const struct frame *f)
{
	return span_of(f->body.p - FRAME_HEADER_LEN, FRAME_HEADER_LEN + f->body.len);
}

static void hand_add(struct crew *c, struct hand *h, struct span bytes)
{
	if (!h->at) {
		h->at = chute_room(h->chute, c->left);
		h->len = 0;
	}
	memcpy(h->at + h->len, bytes.p, bytes.len);
	h->len += bytes.len;
}

int crew_frame(struct crew *c, const struct frame *f, uint64_t now_ns)
{
	struct span bytes = frame_bytes(f);
	unsigned w;
	int err;

	if (c->direct)
		return sessions_frame(c->direct, c->origin->of[0], f, now_ns);
	err = place(c, c->origin, f, &w);
	if (err)
		return err;
	if (w != NOBODY)
		hand_add(c, &c->v[w], bytes);
	c->left -= bytes.len;
	return 0;
}

void crew_end(struct crew *c)
{
	for (unsigned i = 0; i < c->n; i++) {
		struct hand *h = &c->v[i];

		if (h->at)
			chute_put(h->chute, CREW_FRAMES, c->origin, h->len);
		h->at = NULL;
	}
	c->origin = NULL;
}

/* ---- what has become of it ---- */

void crew_mark(const struct crew *c, struct crew_mark *m)
{
	for (unsigned i = 0; i < c->n; i++)
		m->at[i] = chute_position(c->v[i].chute);
}

bool crew_is_past(struct crew *c, const struct crew_mark *m)
{
	for (unsigned i = 0; i < c->n; i++)
		if (!chute_is_past(c->v[i].chute, m->at[i]) && chute_want(c->v[i].chute, m->at[i]))
			return false;
	return true;
}

int crew_fd(const struct crew *c)
{
	return c->fd;
}

void crew_fd_clear(const struct crew *c)
{
	uint64_t n;

	if (c->fd >= 0 && read(c->fd, &n, sizeof(n)) < 0)
		return; /* EAGAIN: it was */
}

void crew_settle(struct crew *c)
{
	struct pollfd p = {.fd = c->fd, .events = POLLIN};
	struct crew_mark m;

	crew_mark(c, &m);
	while (!crew_is_past(c, &m)) {
		(void)poll(&p, 1, -1);
		crew_fd_clear(c);
	}
}

void crew_tidy(struct crew *c)
{
	leaving_free(c);
	for (unsigned i = 0; i < c->n; i++)
		chute_tidy(c->v[i].chute);
}

void crew_stop(struct crew *c)
{
	tell_all(c, CREW_STOP, NULL);
}

struct chute *crew_chute(const struct crew *c, unsigned worker)
{
	return c->v[worker].chute;
}

void crew_free(struct crew *c)
{
	struct queue_node *n;

	if (!c)
		return;
	while ((n = queue_first(&c->origins)) || (n = queue_first(&c->leaving)))
		origin_free(c, queue_entry(n, struct crew_origin, node));
	for (unsigned i = 0; i < c->n; i++)
		chute_free(c->v[i].chute);
	if (c->fd >= 0)
		close(c->fd);
	free(c);
}
