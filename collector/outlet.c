/* SPDX-License-Identifier: Apache-2.0 */
/*
 * outlet: what happens to sessions in, packets to the sinks out. Gathers the sinks that want equal
 * packets, so that those are made once; and the native outlet, which shows what was captured as one
 * TCP connection. Knows nothing of the table of sessions, keeps no byte.
 */
#include "outlet.h"

#include <string.h>

#include "base/metrics.h"
#include "http/h2.h"

static COUNTER_DEFINE(c_prefaces, "forge_prefaces_invented",
		      "HTTP/2 connections joined late that were given a beginning");

#define MTU_DEFAULT 1500u /* of sinks that take any packet */
#define STATE_ALIGN 8u
#define TAG_LEN     4u /* IEEE 802.1Q */

_Static_assert(sizeof(struct sink_shape) % sizeof(uint16_t) == 0 &&
		       _Alignof(struct sink_shape) == _Alignof(uint16_t),
	       "no padding: compared as bytes");

/* Which sinks share packets */

/* 0: any. */
static uint32_t sink_mtu(const struct sink *s)
{
	uint32_t mtu = s->ops->mtu ? s->ops->mtu(s) : 0;

	if (s->shape.mtu && (!mtu || s->shape.mtu < mtu))
		mtu = s->shape.mtu;
	return mtu;
}

static uint32_t smallest_mtu(const struct outlet *o)
{
	uint32_t mtu = UINT32_MAX;

	for (unsigned i = 0; i < o->n; i++) {
		uint32_t m = sink_mtu(o->sinks[i]);

		if (m && m < mtu)
			mtu = m;
	}
	return mtu == UINT32_MAX ? MTU_DEFAULT : mtu;
}

/* But for the MTU. */
static struct sink_shape shape_of(const struct sink *s)
{
	struct sink_shape shape = s->shape;

	shape.mtu = 0;
	return shape;
}

static bool may_join(const struct outlet *o, const struct sink *s)
{
	struct sink_shape shape = shape_of(s);
	uint32_t mtu = sink_mtu(s);

	return memcmp(&o->shape, &shape, sizeof(shape)) == 0 && (!mtu || mtu == smallest_mtu(o));
}

static void link_init(struct forge_link *link, const struct sink_shape *shape)
{
	static const uint16_t none[3];

	*link = forge_link_default;
	if (memcmp(shape->dst_mac, none, sizeof(none)) != 0)
		memcpy(link->mac, shape->dst_mac, 6);
	if (memcmp(shape->src_mac, none, sizeof(none)) != 0)
		memcpy(link->mac + 6, shape->src_mac, 6);
	link->vlan = shape->vlan;
}

static struct outlet *outlet_add(struct outlet_set *set, const struct sink *s)
{
	struct outlet *o = &set->v[set->n++];

	*o = (struct outlet){.index = (uint8_t)(set->n - 1),
			     .ops = s->shape.http1 ? &outlet_http1_ops : &outlet_native_ops,
			     .shape = shape_of(s),
			     .frame = set->frame};
	link_init(&o->link, &o->shape);
	o->state_at = set->state_len;
	set->state_len += (o->ops->state_len + STATE_ALIGN - 1) / STATE_ALIGN * STATE_ALIGN;
	return o;
}

static void sink_join(struct outlet_set *set, struct sink *s)
{
	struct outlet *o = NULL;

	for (unsigned i = 0; !o && i < set->n; i++)
		o = may_join(&set->v[i], s) ? &set->v[i] : NULL;
	if (!o)
		o = outlet_add(set, s);
	o->sinks[o->n++] = s;
}

void outlets_init(struct outlet_set *set, const struct sink_set *sinks)
{
	memset(set, 0, sizeof(*set));
	/* Those that take any size come last: to where there is one already. */
	for (int any = 0; any < 2; any++)
		for (unsigned i = 0; i < sinks->n; i++)
			if (sinks->v[i]->ops->packet && (sink_mtu(sinks->v[i]) == 0) == any)
				sink_join(set, sinks->v[i]);
}

int outlets_open(struct outlet_set *set, const struct sink_set *sinks, unsigned parts)
{
	int err = 0;

	for (struct outlet *o = set->v; !err && o < set->v + set->n; o++)
		if (o->ops->open)
			err = o->ops->open(o, sinks, parts);
	return err;
}

static bool is_live(const struct outlet *o)
{
	bool any = false;

	for (unsigned i = 0; i < o->n; i++)
		any |= o->sinks[i]->place != 0;
	return any;
}

void outlets_keep(struct outlet_set *set, struct ledger *l)
{
	for (struct outlet *o = set->v; o < set->v + set->n; o++) {
		o->ledger = l && is_live(o) ? l : NULL;
		if (o->ledger)
			ledger_outlet(l, o->index, &o->link, o->sinks, o->n);
	}
}

void outlets_close(struct outlet_set *set)
{
	for (struct outlet *o = set->v; o < set->v + set->n; o++)
		if (o->ops->close)
			o->ops->close(o);
}

/* To each of them */

static void *state_of(const struct outlet *o, uint8_t *states)
{
	return states + o->state_at;
}

void outlets_begin(struct outlet_set *set, uint8_t *states, const struct outlet_flow *flow,
		   uint64_t ts_ns)
{
	for (struct outlet *o = set->v; o < set->v + set->n; o++)
		o->ops->begin(o, state_of(o, states), flow, ts_ns);
}

unsigned outlets_data(struct outlet_set *set, uint8_t *states, const struct outlet_flow *flow,
		      enum flow_dir dir, struct span bytes, bool end, uint64_t ts_ns)
{
	unsigned sent = OUTLET_SENT_BOTH;

	for (struct outlet *o = set->v; o < set->v + set->n; o++)
		sent &= o->ops->data(o, state_of(o, states), flow, dir, bytes, end, ts_ns);
	return sent;
}

unsigned outlets_gap(struct outlet_set *set, uint8_t *states, const struct outlet_flow *flow,
		     enum flow_dir dir, uint64_t len, uint64_t ts_ns)
{
	unsigned sent = OUTLET_SENT_BOTH;

	for (struct outlet *o = set->v; o < set->v + set->n; o++)
		sent &= o->ops->gap(o, state_of(o, states), flow, dir, len, ts_ns);
	return sent;
}

unsigned outlets_fin(struct outlet_set *set, uint8_t *states, const struct outlet_flow *flow,
		     enum flow_dir dir, uint64_t ts_ns)
{
	unsigned sent = OUTLET_SENT_BOTH;

	for (struct outlet *o = set->v; o < set->v + set->n; o++)
		sent &= o->ops->fin(o, state_of(o, states), flow, dir, ts_ns);
	return sent;
}

unsigned outlets_poke(struct outlet_set *set, uint8_t *states, const struct outlet_flow *flow,
		      enum flow_dir dir, uint64_t ts_ns)
{
	unsigned sent = OUTLET_SENT_BOTH, waits = 0;

	for (struct outlet *o = set->v; o < set->v + set->n; o++) {
		unsigned bits = o->ops->poke(o, state_of(o, states), flow, dir, ts_ns);

		sent &= bits;
		waits |= bits & OUTLET_WAITS;
	}
	return sent | waits;
}

void outlets_rst(struct outlet_set *set, uint8_t *states, const struct outlet_flow *flow,
		 enum flow_dir dir, uint64_t ts_ns)
{
	for (struct outlet *o = set->v; o < set->v + set->n; o++)
		o->ops->rst(o, state_of(o, states), flow, dir, ts_ns);
}

static void outlet_move(struct outlet *o, uint8_t *to, uint8_t *from,
			const struct outlet_flow *flow)
{
	memset(state_of(o, to), 0, o->ops->state_len);
	if (o->ops->move)
		o->ops->move(o, state_of(o, to), state_of(o, from), flow);
	else
		memcpy(state_of(o, to), state_of(o, from), o->ops->state_len);
	memset(state_of(o, from), 0, o->ops->state_len);
}

void outlets_move(struct outlet_set *set, uint8_t *to, uint8_t *from,
		  const struct outlet_flow *flow)
{
	outlets_forget(set, to);
	for (struct outlet *o = set->v; o < set->v + set->n; o++)
		outlet_move(o, to, from, flow);
}

void outlets_forget(struct outlet_set *set, uint8_t *states)
{
	for (struct outlet *o = set->v; o < set->v + set->n; o++)
		if (o->ops->forget)
			o->ops->forget(o, state_of(o, states));
}

/* Packets */

static struct sink *sink_for(struct sink *s, const struct sink_flow *who)
{
	return s->ops->pick ? s->ops->pick(s, who) : s;
}

static void on_packet(void *ctx, struct span l2, uint64_t ts_ns, bool first)
{
	const struct outlet_emission *e = ctx;
	const struct outlet *o = e->outlet;
	const struct sink_flow *who = e->who;
	struct sink_flow large;

	if (e->segment) {
		large = *who;
		large.segment = e->segment;
		who = &large;
	}
	for (unsigned i = 0; i < o->n; i++) {
		struct sink *s = sink_for(o->sinks[i], who);

		s->ops->packet(s, l2, ts_ns, who, first);
	}
}

static bool takes_large(const struct outlet *o)
{
	bool all = o->shape.gso != 0;

	for (unsigned i = 0; all && i < o->n; i++)
		all = o->sinks[i]->ops->cuts && o->sinks[i]->ops->cuts(o->sinks[i]);
	return all;
}

static uint8_t *room_for(void *ctx, size_t len)
{
	const struct outlet_emission *e = ctx;
	struct sink *s;

	if (e->outlet->n != 1) /* several sinks: it is copied anyway */
		return NULL;
	s = sink_for(e->outlet->sinks[0], e->who);
	return s->ops->room ? s->ops->room(s, len) : NULL;
}

static size_t more_for(void *ctx, struct span head, struct span payload, uint16_t mss,
		       uint16_t *ip_id)
{
	const struct outlet_emission *e = ctx;
	struct sink *s;

	if (e->outlet->n != 1)
		return 0;
	s = sink_for(e->outlet->sinks[0], e->who);
	return s->ops->more ? s->ops->more(s, head, payload, mss, ip_id) : 0;
}

static void keep_for(void *ctx, struct forge_flow *f)
{
	const struct outlet_emission *e = ctx;

	ledger_keep(e->outlet->ledger, e->outlet->index, f, e->who->open);
}

struct forge_out outlet_out(struct outlet_emission *e)
{
	return (struct forge_out){.emit = on_packet,
				  .room = room_for,
				  .more = more_for,
				  .ctx = e,
				  .link = &e->outlet->link,
				  .segment = takes_large(e->outlet) ? &e->segment : NULL,
				  .keep = e->outlet->ledger ? keep_for : NULL,
				  .frame = e->outlet->frame};
}

/* A link carries one tag beyond its MTU, not two; a tunnel none. */
uint32_t outlet_mtu(const struct outlet *o, const struct outlet_flow *flow)
{
	unsigned tags = (o->shape.vlan ? 1 : 0) + (flow->lane ? 1 : 0), free = tags ? 1 : 0;

	for (unsigned i = 0; i < o->n; i++)
		if (o->sinks[i]->ops->counts_tags)
			free = 0;
	return smallest_mtu(o) - TAG_LEN * (tags - free);
}

void outlet_forge_init(const struct outlet *o, struct forge_flow *f, const struct outlet_flow *flow)
{
	forge_init(f, flow->who.open, flow->incarnation, outlet_mtu(o, flow));
	f->port[FLOW_S2C] = sink_port(&o->shape, f->port[FLOW_S2C]);
	f->vlan = flow->lane;
}

/* The native outlet: one TCP connection of the same bytes */

/* Each packet of a side takes one number. */
struct counted {
	uint16_t id[2];
};

static struct counted count_from(const struct forge_flow *f)
{
	return (struct counted){{f->side[FLOW_C2S].ip_id, f->side[FLOW_S2C].ip_id}};
}

static unsigned sent_since(const struct forge_flow *f, struct counted before)
{
	return (f->side[FLOW_C2S].ip_id != before.id[FLOW_C2S] ? OUTLET_SENT(FLOW_C2S) : 0) |
	       (f->side[FLOW_S2C].ip_id != before.id[FLOW_S2C] ? OUTLET_SENT(FLOW_S2C) : 0);
}

static void native_begin(struct outlet *o, void *state, const struct outlet_flow *flow,
			 uint64_t ts_ns)
{
	struct outlet_emission e = {.outlet = o, .who = &flow->who};
	struct forge_out out = outlet_out(&e);
	struct forge_flow *f = state;

	outlet_forge_init(o, f, flow);
	forge_handshake(f, &out, ts_ns);
}

/* Nothing has been said yet, nor is anything missing. */
static bool is_silent(const struct forge_flow *f)
{
	return f->side[FLOW_C2S].nxt == f->side[FLOW_C2S].isn + 1 &&
	       f->side[FLOW_S2C].nxt == f->side[FLOW_S2C].isn + 1;
}

static bool is_late(const struct outlet_flow *flow)
{
	return (flow->who.open->flags & (FLOW_OPEN_LATE | FLOW_OPEN_RESUMED)) != 0;
}

/*
 * HTTP/2 that is joined late is for an IDS no HTTP/2 without its beginning: Suricata gives such a
 * connection up. The client's preface and settings of both sides say nothing that was not said.
 */
static void invent_preface(struct forge_flow *f, struct forge_out *out, uint64_t ts_ns)
{
	static const uint8_t client[] = H2_PREFACE "\0\0\0\4\0\0\0\0";
	struct span preface = span_of(client, sizeof(client)); /* with the last 0 */

	forge_data(f, out, FLOW_C2S, preface, true, ts_ns);
	forge_data(f, out, FLOW_S2C, span_of(client + preface.len - 9, 9), true, ts_ns);
	counter_inc(&c_prefaces);
}

static unsigned native_data(struct outlet *o, void *state, const struct outlet_flow *flow,
			    enum flow_dir dir, struct span bytes, bool end, uint64_t ts_ns)
{
	struct outlet_emission e = {.outlet = o, .who = &flow->who};
	struct forge_out out = outlet_out(&e);
	struct forge_flow *f = state;
	struct counted before = count_from(f);
	uint32_t nxt = f->side[dir].nxt;

	forge_fit(f, outlet_mtu(o, flow)); /* a path may carry less than it did */
	if (is_late(flow) && is_silent(f) && h2_is_framed(bytes))
		invent_preface(f, &out, ts_ns);
	forge_data(f, &out, dir, bytes, end, ts_ns);
	/* Bytes on the end of a large frame need not make it another packet. */
	return sent_since(f, before) | (f->side[dir].nxt != nxt ? OUTLET_SENT(dir) : 0);
}

static unsigned native_gap(struct outlet *o, void *state, const struct outlet_flow *flow,
			   enum flow_dir dir, uint64_t len, uint64_t ts_ns)
{
	struct outlet_emission e = {.outlet = o, .who = &flow->who};
	struct forge_out out = outlet_out(&e);
	struct counted before = count_from(state);

	forge_gap(state, &out, dir, len, ts_ns);
	return sent_since(state, before);
}

static unsigned native_fin(struct outlet *o, void *state, const struct outlet_flow *flow,
			   enum flow_dir dir, uint64_t ts_ns)
{
	struct outlet_emission e = {.outlet = o, .who = &flow->who};
	struct forge_out out = outlet_out(&e);
	struct counted before = count_from(state);

	forge_fin(state, &out, dir, ts_ns);
	return sent_since(state, before);
}

static unsigned native_poke(struct outlet *o, void *state, const struct outlet_flow *flow,
			    enum flow_dir dir, uint64_t ts_ns)
{
	struct outlet_emission e = {.outlet = o, .who = &flow->who};
	struct forge_out out = outlet_out(&e);
	struct counted before = count_from(state);

	forge_poke(state, &out, dir, ts_ns);
	return sent_since(state, before);
}

static void native_rst(struct outlet *o, void *state, const struct outlet_flow *flow,
		       enum flow_dir dir, uint64_t ts_ns)
{
	struct outlet_emission e = {.outlet = o, .who = &flow->who};
	struct forge_out out = outlet_out(&e);

	forge_rst(state, &out, dir, ts_ns);
}

const struct outlet_ops outlet_native_ops = {
	.name = "native",
	.state_len = sizeof(struct forge_flow),
	.begin = native_begin,
	.data = native_data,
	.gap = native_gap,
	.fin = native_fin,
	.poke = native_poke,
	.rst = native_rst,
};
