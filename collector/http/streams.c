/* SPDX-License-Identifier: Apache-2.0 */
/*
 * streams: see streams.h. h2.c tells what the frames say, http1.c how that is written, forge.c
 * makes packets of it. What is here: which streams there are, their ports, and their ends.
 */
#include "http/streams.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/queue.h"
#include "http/h2.h"
#include "http/http1.h"

static COUNTER_DEFINE(c_streams, "http1_streams", "HTTP/2 streams shown as HTTP/1.1 connections");
static COUNTER_DEFINE(c_active, "http1_streams_active", "of those, open now (gauge)");
static COUNTER_DEFINE(c_refused, "http1_streams_refused",
		      "streams not shown: too many at once, or no port or memory was left");
static COUNTER_DEFINE(c_malformed, "http1_streams_malformed",
		      "streams reset because what they say breaks HTTP");
static COUNTER_DEFINE(c_reset_lost, "http1_streams_lost",
		      "streams reset because frames are missing that may be theirs");
static COUNTER_DEFINE(c_conflicts, "http1_conflicts",
		      "streams reset because a real connection came with the port chosen for them");
static COUNTER_DEFINE(c_lost_unknown, "http1_bytes_lost_unknown",
		      "body bytes of streams whose beginning was not seen, or that were reset");
static COUNTER_DEFINE(c_heads_unknown, "http1_heads_lost_unknown",
		      "heads and trailers of such streams");
static COUNTER_DEFINE(c_unframed, "http1_bytes_lost_unframed",
		      "bytes after a loss, before the next frame that could be told from others");

#define PENDING_MAX  (512u << 10) /* a head whose every byte is escaped, and some body */
#define PENDING_FULL (32u << 10)  /* passed on without waiting for the end of the call */
/* As clients' systems choose them: below are servers' ports, by which tshark and others guess what
 * a connection speaks. */
#define PORT_MIN   32768u
#define PORT_TRIES 16u
/* An IDS forgets a connection after 600 s of silence, and then does not believe the rest. */
#define QUIET_NS (300 * NS_PER_S)
/* A stream may wait while others speak: it is poked after so long. */
#define POKE_NS (5 * NS_PER_MS)

struct stream_said {            /* of one direction */
	struct queue_node node; /* in streams.said[], who spoke first in front */
	uint64_t ts_ns;
	uint16_t ip_id; /* unchanged: it has sent nothing since */
	uint8_t dir;    /* enum flow_dir: this struct's place in stream.said[] */
};

struct stream {
	struct hmap_node by_id;
	struct queue_node order;    /* in streams.order, least recently active first */
	struct streams_place place; /* is_stream */
	struct streams *of;         /* borrowed */
	struct stream_said said[2];
	struct http1 http;
	uint64_t active_ns;
	uint32_t id;
};

struct streams {
	struct streams_hub *hub; /* borrowed, as the next */
	struct outlet *outlet;
	struct outlet_flow flow; /* what it points to lives as long as the session */
	struct h2 *h2;
	struct hmap by_id;
	struct queue order, said[2];
	uint64_t ts_ns;   /* of the call */
	uint32_t last[2]; /* highest id: [FLOW_C2S]: of requests, [FLOW_S2C]: promised */
};

struct streams_hub {
	const struct sink_set *sinks; /* borrowed */
	struct hmap by_tuple;
	struct h2_list list;
	/* Text that waits for more of the same direction of the same stream. */
	struct buf pending;
	struct stream *pending_of; /* NULL: none waits */
	enum flow_dir pending_dir;
	size_t count;
};

static enum flow_dir peer_of(enum flow_dir dir)
{
	return dir == FLOW_C2S ? FLOW_S2C : FLOW_C2S;
}

/* Tuples */

struct tuple_key {
	uint8_t addr[2][16];
	uint16_t port[2];
	uint16_t vlan;
	uint8_t family, pad;
};
_Static_assert(sizeof(struct tuple_key) == 40, "hashed and compared as bytes");

/* An IDS does not tell the ends of a tuple apart. */
static void tuple_key_of(struct tuple_key *k, const struct forge_flow *f)
{
	int order = memcmp(f->addr[0], f->addr[1], 16);
	int first = order > 0 || (order == 0 && f->port[0] > f->port[1]) ? 1 : 0;

	memset(k, 0, sizeof(*k));
	for (int i = 0; i < 2; i++) {
		memcpy(k->addr[i], f->addr[i ^ first], 16);
		k->port[i] = f->port[i ^ first];
	}
	k->vlan = f->vlan;
	k->family = f->family;
}

static struct streams_place *place_find(const struct streams_hub *hub, const struct forge_flow *f)
{
	struct tuple_key key, other;
	struct hmap_node *n;

	tuple_key_of(&key, f);
	n = hmap_first(&hub->by_tuple, hmap_hash(&key, sizeof(key)));
	for (; n; n = hmap_next_same(n)) {
		struct streams_place *p = hmap_entry(n, struct streams_place, by_tuple);

		tuple_key_of(&other, &p->forge);
		if (memcmp(&other, &key, sizeof(other)) == 0)
			return p;
	}
	return NULL;
}

static int place_take(struct streams_hub *hub, struct streams_place *p)
{
	struct tuple_key key;
	int err;

	tuple_key_of(&key, &p->forge);
	err = hmap_insert(&hub->by_tuple, &p->by_tuple, hmap_hash(&key, sizeof(key)));
	p->is_taken = !err;
	return err;
}

void streams_leave_place(struct streams_hub *hub, struct streams_place *p)
{
	if (p->is_taken)
		hmap_remove(&hub->by_tuple, &p->by_tuple);
	p->is_taken = false;
}

void streams_move_place(struct streams_hub *hub, struct streams_place *to,
			struct streams_place *from)
{
	bool taken = from->is_taken;

	streams_leave_place(hub, from);
	*to = *from;
	if (taken)
		(void)place_take(hub, to); /* the index has just lost an entry */
}

static uint64_t mix(uint64_t v) /* splitmix64's: every bit of the input reaches every bit */
{
	v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9ull;
	v = (v ^ v >> 27) * 0x94d049bb133111ebull;
	return v ^ v >> 31;
}

/*
 * Streams of one connection have one port after the other, so that none comes twice soon; promised
 * ones are half a turn away. The same for the same stream each time: with two mirrors, and in
 * tests.
 */
static uint16_t port_of(const struct frame_flow_open *open, uint32_t id, unsigned attempt)
{
	uint32_t turn = 65536u - PORT_MIN;
	uint64_t half[2];

	memcpy(half, open->session, sizeof(half));
	half[0] = mix(half[0] ^ mix(half[1] + attempt));
	return (uint16_t)(PORT_MIN + (half[0] + id / 2 + (id % 2 ? 0 : turn / 2)) % turn);
}

/* A client port under which nothing is open, and which is not the real one. */
static int port_choose(const struct streams *c, struct stream *s)
{
	const struct frame_flow_open *open = c->flow.who.open;
	struct forge_flow *f = &s->place.forge;

	for (unsigned i = 0; i < PORT_TRIES; i++) {
		f->port[FLOW_C2S] = port_of(open, s->id, i);
		if (f->port[FLOW_C2S] != open->client_port && !place_find(c->hub, f))
			return place_take(c->hub, &s->place);
	}
	return -EADDRINUSE;
}

/* Packets */

static void said_now(struct stream *s, enum flow_dir dir)
{
	struct stream_said *said = &s->said[dir];

	said->ip_id = s->place.forge.side[dir].ip_id;
	said->ts_ns = s->of->ts_ns;
	queue_push(&s->of->said[dir], &said->node);
}

static void touch(struct stream *s)
{
	s->active_ns = s->of->ts_ns;
	queue_push(&s->of->order, &s->order);
}

/* What waits goes out. end: nothing follows for the moment. */
static void flush(struct streams_hub *hub, bool end)
{
	struct stream *s = hub->pending_of;
	struct outlet_emission e;
	struct forge_out out;

	hub->pending_of = NULL;
	if (!s || hub->pending.len == 0)
		return;
	e = (struct outlet_emission){.outlet = s->of->outlet, .who = &s->of->flow.who};
	out = outlet_out(&e);
	forge_fit(&s->place.forge, outlet_mtu(e.outlet, &s->of->flow)); /* as the native outlet */
	forge_data(&s->place.forge, &out, hub->pending_dir, buf_span(&hub->pending), end,
		   s->of->ts_ns);
	buf_reset(&hub->pending);
	said_now(s, hub->pending_dir);
	touch(s);
}

/* Where the next text of this direction is appended. */
static struct buf *text_of(struct stream *s, enum flow_dir dir)
{
	struct streams_hub *hub = s->of->hub;

	if (hub->pending_of != s || hub->pending_dir != dir)
		flush(hub, true);
	hub->pending_of = s;
	hub->pending_dir = dir;
	return &hub->pending;
}

/* Streams */

static uint64_t id_hash(uint32_t id)
{
	return hmap_hash(&id, sizeof(id));
}

static struct stream *stream_find(const struct streams *c, uint32_t id)
{
	struct hmap_node *n = hmap_first(&c->by_id, id_hash(id));

	for (; n; n = hmap_next_same(n)) {
		struct stream *s = hmap_entry(n, struct stream, by_id);

		if (s->id == id)
			return s;
	}
	return NULL;
}

/* Emits nothing. */
static void stream_free(struct stream *s)
{
	struct streams *c = s->of;

	if (c->hub->pending_of == s) {
		c->hub->pending_of = NULL;
		buf_reset(&c->hub->pending);
	}
	hmap_remove(&c->by_id, &s->by_id);
	queue_remove(&s->order);
	queue_remove(&s->said[FLOW_C2S].node);
	queue_remove(&s->said[FLOW_S2C].node);
	streams_leave_place(c->hub, &s->place);
	free(s);
	counter_set(&c_active, --c->hub->count);
}

static void stream_reset(struct stream *s, enum flow_dir dir)
{
	struct outlet_emission e = {.outlet = s->of->outlet, .who = &s->of->flow.who};
	struct forge_out out = outlet_out(&e);

	if (s->of->hub->pending_of == s)
		flush(s->of->hub, true);
	forge_rst(&s->place.forge, &out, dir, s->of->ts_ns);
	stream_free(s);
}

static void stream_fin(struct stream *s, enum flow_dir dir)
{
	struct outlet_emission e = {.outlet = s->of->outlet, .who = &s->of->flow.who};
	struct forge_out out = outlet_out(&e);

	if (s->of->hub->pending_of == s)
		flush(s->of->hub, true);
	forge_fin(&s->place.forge, &out, dir, s->of->ts_ns);
}

/* After something was said: whether that was all. A tunnel's sides end one by one. */
static void stream_settle(struct stream *s, enum flow_dir dir, bool was_tunnel)
{
	if (!http1_is_done(&s->http, dir))
		return;
	if (was_tunnel)
		stream_fin(s, dir);
	if (!http1_is_done(&s->http, peer_of(dir)))
		return;
	stream_fin(s, FLOW_C2S); /* no effect twice */
	stream_fin(s, FLOW_S2C);
	stream_free(s);
}

/* The result of http1.c for text that began at `from`. */
static void stream_said(struct stream *s, enum flow_dir dir, int err, struct buf *text, size_t from,
			bool was_tunnel)
{
	if (!err) {
		if (text->len >= PENDING_FULL)
			flush(s->of->hub, false);
		stream_settle(s, dir, was_tunnel);
		return;
	}
	text->len = from; /* nothing of what is wrong */
	text->bad = false;
	counter_inc(&c_malformed);
	stream_reset(s, dir);
}

static void stream_forge_init(struct streams *c, struct stream *s)
{
	struct frame_flow_open open = *c->flow.who.open;
	struct outlet_flow flow = c->flow;

	/* Sequence numbers of its own. */
	for (int i = 0; i < 4; i++)
		open.session[i] ^= (uint8_t)(s->id >> (8 * i));
	memcpy(s->http.nonce, open.session, sizeof(s->http.nonce));
	flow.who.open = &open;
	outlet_forge_init(c->outlet, &s->place.forge, &flow);
}

static struct stream *stream_new(struct streams *c, uint32_t id)
{
	struct stream *s;

	if (c->by_id.count >= STREAMS_MAX_CONN || c->hub->count >= STREAMS_MAX_HUB)
		return NULL;
	s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	s->of = c;
	s->id = id;
	s->place.is_stream = true;
	s->said[FLOW_S2C].dir = FLOW_S2C;
	stream_forge_init(c, s);
	if (port_choose(c, s) < 0) {
		free(s);
		return NULL;
	}
	if (hmap_insert(&c->by_id, &s->by_id, id_hash(id)) < 0) {
		streams_leave_place(c->hub, &s->place);
		free(s);
		return NULL;
	}
	touch(s);
	counter_set(&c_active, ++c->hub->count);
	return s;
}

/* NULL when it cannot be shown. */
static struct stream *stream_open(struct streams *c, uint32_t id, bool pushed)
{
	struct stream *s = stream_new(c, id);
	struct sink_stream told;

	if (!s) {
		counter_inc(&c_refused);
		return NULL;
	}
	counter_inc(&c_streams);
	told = (struct sink_stream){
		.flow = &c->flow.who,
		.id = id,
		.pushed = pushed,
		.client_port = s->place.forge.port[FLOW_C2S],
		.server_port = s->place.forge.port[FLOW_S2C],
	};
	sinks_stream(c->hub->sinks, &told, c->ts_ns);
	return s;
}

/* A request says what it wants. Trailers of one that began before we came do not. */
static bool is_request(const struct h2_list *list)
{
	for (unsigned i = 0; i < list->n; i++) {
		if (list->v[i].name_len > 0 && h2_name(list, i).p[0] == ':')
			return true;
	}
	return false;
}

/* What h2.c tells */

static void head_put(struct stream *s, enum flow_dir dir, const struct h2_list *list, bool end)
{
	struct buf *text = text_of(s, dir);
	bool was_tunnel = s->http.way[dir].part == HTTP1_TUNNEL;
	size_t from = text->len;

	stream_said(s, dir, http1_headers(&s->http, dir, list, end, text), text, from, was_tunnel);
}

static void on_headers(void *ctx, enum flow_dir dir, uint32_t id, const struct h2_list *list,
		       bool end)
{
	struct streams *c = ctx;
	struct stream *s = stream_find(c, id);

	if (!s && dir == FLOW_C2S && id % 2 == 1 && id > c->last[FLOW_C2S] && is_request(list)) {
		c->last[FLOW_C2S] = id;
		s = stream_open(c, id, false);
	}
	if (s)
		head_put(s, dir, list, end);
	else
		counter_inc(&c_heads_unknown);
}

static void on_push(void *ctx, uint32_t id, uint32_t promised, const struct h2_list *list)
{
	struct streams *c = ctx;
	struct stream *s = NULL;

	(void)id;
	if (promised % 2 == 0 && promised > c->last[FLOW_S2C] && is_request(list)) {
		c->last[FLOW_S2C] = promised;
		s = stream_open(c, promised, true);
	}
	if (s)
		head_put(s, FLOW_C2S, list, true);
	else
		counter_inc(&c_heads_unknown);
}

static void on_headers_lost(void *ctx, enum flow_dir dir, uint32_t id, uint32_t promised)
{
	struct stream *s = promised ? NULL : stream_find(ctx, id);

	counter_inc(&c_heads_unknown);
	if (!s)
		return;
	counter_inc(&c_reset_lost);
	stream_reset(s, dir);
}

static void on_data_begin(void *ctx, enum flow_dir dir, uint32_t id, uint32_t len)
{
	struct stream *s = stream_find(ctx, id);
	struct buf *text;
	size_t from;

	if (!s)
		return;
	text = text_of(s, dir);
	from = text->len;
	stream_said(s, dir, http1_data_begin(&s->http, dir, len, text), text, from, false);
}

static void on_data(void *ctx, enum flow_dir dir, uint32_t id, struct span bytes)
{
	struct stream *s = stream_find(ctx, id);
	struct buf *text;

	if (!s) {
		counter_add(&c_lost_unknown, bytes.len);
		return;
	}
	while (bytes.len > 0) {
		size_t n = bytes.len < PENDING_FULL ? bytes.len : PENDING_FULL;

		text = text_of(s, dir);
		wr_bytes(text, bytes.p, n);
		if (text->bad) {
			text->bad = false;
			counter_inc(&c_refused);
			counter_add(&c_lost_unknown, bytes.len);
			stream_reset(s, dir);
			return;
		}
		if (text->len >= PENDING_FULL)
			flush(s->of->hub, false);
		bytes = span_of(bytes.p + n, bytes.len - n);
	}
}

static void on_data_gap(void *ctx, enum flow_dir dir, uint32_t id, uint32_t len)
{
	struct streams *c = ctx;
	struct stream *s = stream_find(c, id);
	struct outlet_emission e = {.outlet = c->outlet, .who = &c->flow.who};
	struct forge_out out = outlet_out(&e);

	if (!s)
		return;
	flush(c->hub, false);
	forge_gap(&s->place.forge, &out, dir, len, c->ts_ns);
	touch(s);
}

static void on_data_end(void *ctx, enum flow_dir dir, uint32_t id, bool end)
{
	struct stream *s = stream_find(ctx, id);
	struct buf *text;
	bool was_tunnel;
	size_t from;

	if (!s)
		return;
	was_tunnel = s->http.way[dir].part == HTTP1_TUNNEL;
	text = text_of(s, dir);
	from = text->len;
	stream_said(s, dir, http1_data_end(&s->http, dir, end, text), text, from, was_tunnel);
}

static void on_reset(void *ctx, enum flow_dir dir, uint32_t id, uint32_t code)
{
	struct stream *s = stream_find(ctx, id);

	(void)code;
	if (s)
		stream_reset(s, dir);
}

/* Calls `which` for each stream; those for which it is true are reset from `dir`. */
static unsigned reset_each(struct streams *c, enum flow_dir dir,
			   bool (*which)(const struct stream *s, enum flow_dir dir, uint32_t arg),
			   uint32_t arg)
{
	struct queue_node *n = queue_first(&c->order), *next;
	unsigned count = 0;

	flush(c->hub, true); /* or it would move its stream in the queue */
	for (n = queue_first(&c->order); n; n = next) {
		struct stream *s = queue_entry(n, struct stream, order);

		next = queue_next(&c->order, n);
		if (!which(s, dir, arg))
			continue;
		stream_reset(s, dir);
		count++;
	}
	return count;
}

static bool is_refused(const struct stream *s, enum flow_dir dir, uint32_t last)
{
	return s->id % 2 == (dir == FLOW_S2C ? 1 : 0) && s->id > last;
}

static void on_goaway(void *ctx, enum flow_dir dir, uint32_t last)
{
	reset_each(ctx, dir, is_refused, last);
}

static bool is_unfinished(const struct stream *s, enum flow_dir dir, uint32_t arg)
{
	(void)arg;
	return !http1_is_done(&s->http, dir);
}

static void on_lost(void *ctx, enum flow_dir dir)
{
	counter_add(&c_reset_lost, reset_each(ctx, dir, is_unfinished, 0));
}

static void on_unframed(void *ctx, enum flow_dir dir, size_t len)
{
	(void)ctx, (void)dir;
	counter_add(&c_unframed, len);
}

static const struct h2_ops on_h2 = {
	.headers = on_headers,
	.push = on_push,
	.headers_lost = on_headers_lost,
	.data_begin = on_data_begin,
	.data = on_data,
	.data_gap = on_data_gap,
	.data_end = on_data_end,
	.reset = on_reset,
	.goaway = on_goaway,
	.lost = on_lost,
	.unframed = on_unframed,
};

/* Pokes */

static void stream_poke(struct stream *s, enum flow_dir dir)
{
	struct outlet_emission e = {.outlet = s->of->outlet, .who = &s->of->flow.who};
	struct forge_out out = outlet_out(&e);

	queue_remove(&s->said[dir].node);
	if (s->said[dir].ip_id == s->place.forge.side[dir].ip_id)
		forge_poke(&s->place.forge, &out, dir, s->of->ts_ns);
}

/* Those who spoke last before `until_ns`. */
static void pokes_run(struct streams *c, enum flow_dir dir, uint64_t until_ns)
{
	struct queue_node *n;

	while ((n = queue_first(&c->said[dir])) != NULL) {
		struct stream_said *said = queue_entry(n, struct stream_said, node);

		if (said->ts_ns > until_ns)
			return;
		stream_poke(queue_entry(said - said->dir, struct stream, said), dir);
	}
}

/* While others speak, the silent ones are not forgotten. */
static void quiet_run(struct streams *c)
{
	struct queue_node *n;

	while ((n = queue_first(&c->order)) != NULL) {
		struct stream *s = queue_entry(n, struct stream, order);

		if (s->active_ns + QUIET_NS > c->ts_ns)
			return;
		touch(s);
		s->said[FLOW_C2S].ip_id = s->place.forge.side[FLOW_C2S].ip_id;
		stream_poke(s, FLOW_C2S);
	}
}

static void others_run(struct streams *c)
{
	uint64_t until_ns = c->ts_ns > POKE_NS ? c->ts_ns - POKE_NS : 0;

	pokes_run(c, FLOW_C2S, until_ns);
	pokes_run(c, FLOW_S2C, until_ns);
	quiet_run(c);
}

/* The connection */

int streams_new(struct streams **out, struct streams_hub *hub, struct outlet *o,
		const struct outlet_flow *flow, bool late)
{
	struct streams *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->hub = hub;
	c->outlet = o;
	c->flow = *flow;
	hmap_init(&c->by_id);
	queue_init(&c->order);
	queue_init(&c->said[FLOW_C2S]);
	queue_init(&c->said[FLOW_S2C]);
	if (h2_new(&c->h2, late, &on_h2, c, &hub->list) < 0) {
		free(c);
		return -ENOMEM;
	}
	*out = c;
	return 0;
}

void streams_move(struct streams *c, const struct outlet_flow *flow)
{
	c->flow = *flow;
}

void streams_free(struct streams *c)
{
	struct queue_node *n;

	if (!c)
		return;
	while ((n = queue_first(&c->order)) != NULL)
		stream_free(queue_entry(n, struct stream, order));
	hmap_fini(&c->by_id);
	h2_free(c->h2);
	free(c);
}

int streams_data(struct streams *c, enum flow_dir dir, struct span bytes, bool end, uint64_t ts_ns)
{
	int err;

	c->ts_ns = ts_ns;
	err = h2_bytes(c->h2, dir, bytes, end);
	flush(c->hub, true);
	others_run(c);
	return err;
}

int streams_gap(struct streams *c, enum flow_dir dir, uint64_t len, uint64_t ts_ns)
{
	int err;

	c->ts_ns = ts_ns;
	err = h2_gap(c->h2, dir, len);
	flush(c->hub, true);
	return err;
}

void streams_fin(struct streams *c, enum flow_dir dir, uint64_t ts_ns)
{
	struct queue_node *n, *next;

	c->ts_ns = ts_ns;
	for (n = queue_first(&c->order); n; n = next) {
		struct stream *s = queue_entry(n, struct stream, order);

		next = queue_next(&c->order, n);
		if (http1_is_whole(&s->http, dir)) {
			bool was_tunnel = s->http.way[dir].part == HTTP1_TUNNEL;

			s->http.way[dir].part = HTTP1_DONE;
			stream_settle(s, dir, was_tunnel);
		}
	}
	reset_each(c, dir, is_unfinished, 0);
}

void streams_poke(struct streams *c, enum flow_dir dir, uint64_t ts_ns)
{
	c->ts_ns = ts_ns;
	pokes_run(c, dir, ts_ns);
}

static bool is_any(const struct stream *s, enum flow_dir dir, uint32_t arg)
{
	(void)s, (void)dir, (void)arg;
	return true;
}

void streams_rst(struct streams *c, enum flow_dir dir, uint64_t ts_ns)
{
	c->ts_ns = ts_ns;
	reset_each(c, dir, is_any, 0);
}

/* The hub */

int streams_hub_new(struct streams_hub **out, const struct sink_set *sinks)
{
	struct streams_hub *hub = calloc(1, sizeof(*hub));

	if (!hub)
		return -ENOMEM;
	hub->sinks = sinks;
	hmap_init(&hub->by_tuple);
	h2_list_init(&hub->list);
	buf_init(&hub->pending, PENDING_MAX);
	*out = hub;
	return 0;
}

void streams_hub_free(struct streams_hub *hub)
{
	if (!hub)
		return;
	hmap_fini(&hub->by_tuple);
	h2_list_fini(&hub->list);
	buf_cleanse(&hub->pending);
	free(hub);
}

void streams_take_place(struct streams_hub *hub, struct streams_place *p, uint64_t ts_ns)
{
	struct streams_place *before = place_find(hub, &p->forge);

	if (before && before->is_stream) {
		struct stream *s = hmap_entry(before, struct stream, place);

		if (s->of->ts_ns < ts_ns)
			s->of->ts_ns = ts_ns;
		counter_inc(&c_conflicts);
		stream_reset(s, FLOW_S2C);
	}
	(void)place_take(hub, p); /* without memory it is not: at worst a stream takes it as well */
}
