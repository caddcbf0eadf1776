/* SPDX-License-Identifier: Apache-2.0 */
/*
 * streams: see streams.h. h2.c tells what the frames say, http1.c how that is written, shown.c
 * makes connections of it. What is here: which streams there are, who is shown where, and their
 * ends.
 *
 * Serial form: one connection for one stream after the other. Who has to wait for a turn says what
 * it says into memory, already as text of HTTP/1.1. A connection on which a stream was reset is of
 * no use to the others, which go on on another one. Nobody but those in front of the queue is ever
 * shown on it, so what each of them says stays in one piece.
 */
#include "http/streams.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "http/pieces.h"
#include "http/streams_parts.h"

static COUNTER_DEFINE(c_streams, "http1_streams", "HTTP/2 streams shown as HTTP/1.1");
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
static COUNTER_DEFINE(c_apart_late, "http1_serial_left_late",
		      "h2=serial: streams that kept a connection to themselves: others waited");
static COUNTER_DEFINE(c_apart_large, "http1_serial_left_large",
		      "h2=serial: streams that got one of their own: too much waited to be shown");
static COUNTER_DEFINE(c_held, "http1_bytes_held", "text that waits to be shown (gauge)");
static COUNTER_DEFINE(c_lost_early, "http1_bytes_lost_early",
		      "bytes said into a tunnel that was not opened, or too many before it was");
static COUNTER_DEFINE(c_unframed, "http1_bytes_lost_unframed",
		      "bytes after a loss, before the next frame that could be told from others");

#define PENDING_MAX  (512u << 10) /* a head whose every byte is escaped, and some body */
#define PENDING_FULL (32u << 10)  /* passed on without waiting for the end of the call */
/* Of one direction. Real connections have one or two; each is a look at all streams. */
#define GOAWAYS_MAX 8u
/* What waits, of one connection and of all: a sensor's memory against answers that come out of
 * order. */
#define HELD_MAX_CONN (4u << 20)
#define HELD_MAX_HUB  (64u << 20)
/* How long one stream may keep others from being shown: an IDS that sees them late is late. */
#define SERIAL_WAIT_NS (5 * NS_PER_S)
/* When one side of a serial connection has said so much, the next stream begins another one:
 * Suricata looks at the first MiB of each side of a connection only, unless told otherwise. */
#define SERIAL_BYTES (512u << 10)
/* A stream may wait while others speak: it is poked after so long. */
#define POKE_NS (5 * NS_PER_MS)

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

struct streams_place *streams_place_find(const struct streams_hub *hub, const struct forge_flow *f)
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

int streams_place_take(struct streams_hub *hub, struct streams_place *p)
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
		(void)streams_place_take(hub, to); /* the index has just lost an entry */
}

/* What may not be shown yet */

static void held_count(struct stream *s, size_t added, size_t removed)
{
	s->of->held += added - removed;
	s->of->hub->held += added - removed;
	counter_add(&c_held, (uint64_t)added - removed);
}

static void held_drop(struct stream *s)
{
	held_count(s, 0, s->held.len);
	buf_cleanse(&s->held);
}

/* It will not be shown. */
static void held_lose(struct stream *s, struct counter *reason)
{
	struct rd r = rd_from(buf_span(&s->held));
	struct piece piece;
	struct span bytes;

	while (pieces_next(&r, &piece, &bytes))
		counter_add(reason, bytes.len);
	held_drop(s);
}

static void held_show(struct stream *s)
{
	struct rd r = rd_from(buf_span(&s->held));
	struct piece piece;
	struct span bytes;

	while (pieces_next(&r, &piece, &bytes)) {
		if (piece.gap)
			shown_gap(s->on, (enum flow_dir)piece.dir, piece.gap);
		else
			shown_put(s->on, (enum flow_dir)piece.dir, bytes, piece.end);
	}
	held_drop(s);
}

/* It has a connection from now on. */
static void stream_attach(struct stream *s, struct shown *sh)
{
	struct streams *c = s->of;
	struct sink_stream told = {
		.flow = &c->flow.who,
		.id = s->id,
		.pushed = s->pushed,
		.serial = sh == c->serial,
		.client_port = sh->place.forge.port[FLOW_C2S],
		.server_port = sh->place.forge.port[FLOW_S2C],
	};

	s->on = sh;
	sh->speaker = s;
	sinks_stream(c->hub->sinks, &told, c->ts_ns);
	held_show(s);
}

/* Takes the place in the queue from it; it gets `sh`, or is not shown. */
static void stream_show(struct stream *s, struct shown *sh)
{
	if (sh) {
		stream_attach(s, sh);
		return;
	}
	queue_remove(&s->turn);
	s->is_hidden = true;
	counter_inc(&c_refused);
	held_lose(s, &c_lost_unknown);
}

static void stream_show_apart(struct stream *s)
{
	queue_remove(&s->turn);
	stream_show(s, shown_new(s->of, s->id));
}

static void stream_put(struct stream *s, enum flow_dir dir, struct span text, uint64_t gap,
		       bool end)
{
	if (s->is_hidden)
		counter_add(&c_lost_unknown, text.len);
	else if (gap)
		shown_gap(s->on, dir, gap);
	else
		shown_put(s->on, dir, text, end);
}

static bool is_held(const struct stream *s, enum flow_dir dir)
{
	return (!s->on && !s->is_hidden) || (s->is_early && dir == FLOW_C2S);
}

/* False: there is no room. */
static bool hold(struct stream *s, struct piece piece, struct span text)
{
	size_t before = s->held.len, more = sizeof(piece) + text.len;

	if (s->early_lost || more > HELD_MAX_CONN - s->of->held ||
	    more > HELD_MAX_HUB / s->of->hub->parts - s->of->hub->held ||
	    pieces_put(&s->held, piece, text) < 0)
		return false;
	held_count(s, s->held.len - before, 0);
	return true;
}

/* gap: not 0: so many bytes are missing, and there is no text. */
static void stream_say(struct stream *s, enum flow_dir dir, struct span text, uint64_t gap,
		       bool end)
{
	struct piece piece = {.gap = gap, .dir = (uint8_t)dir, .end = end};

	if (is_held(s, dir)) {
		if (hold(s, piece, text))
			return;
		if (s->on) { /* a tunnel that may never be one */
			s->early_lost += text.len + gap;
			counter_add(&c_lost_early, text.len);
			return;
		}
		counter_inc(&c_apart_large);
		stream_show_apart(s);
	}
	stream_put(s, dir, text, gap, end);
}

/* What waits for more of the same goes out. end: nothing follows for the moment. */
static void flush(struct streams_hub *hub, bool end)
{
	struct stream *s = hub->pending_of;

	hub->pending_of = NULL;
	if (!s || hub->pending.len == 0)
		return;
	stream_say(s, hub->pending_dir, buf_span(&hub->pending), 0, end);
	buf_reset(&hub->pending);
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

/* Emits nothing. The serial connection stays. */
static void stream_free(struct stream *s)
{
	struct streams *c = s->of;

	if (c->hub->pending_of == s) {
		c->hub->pending_of = NULL;
		buf_reset(&c->hub->pending);
	}
	if (!s->is_over)
		hmap_remove(&c->by_id, &s->by_id);
	queue_remove(&s->all);
	queue_remove(&s->turn);
	held_drop(s);
	if (s->on && s->on == c->serial)
		s->on->speaker = NULL;
	else if (s->on)
		shown_free(s->on);
	free(s);
	c->hub->count--;
	counter_add(&c_active, UINT64_MAX); /* one less */
}

static void stream_flush(struct stream *s)
{
	if (s->of->hub->pending_of == s)
		flush(s->of->hub, true);
}

/* One that waits is seen nevertheless, on a connection of its own: somebody has asked for it. */
static void stream_reset(struct stream *s, enum flow_dir dir)
{
	stream_flush(s);
	if (s->is_early)
		held_lose(s, &c_lost_early);
	else if (!s->on && !s->is_hidden)
		stream_show_apart(s);
	if (s->on && s->is_over)
		shown_fins(s->on, FLOW_C2S);
	else if (s->on)
		shown_rst(s->on, dir);
	if (s->on && s->on == s->of->serial)
		s->of->serial = NULL; /* of no use to others */
	stream_free(s);
}

/* Both sides have said all. */
static void stream_end(struct stream *s)
{
	stream_flush(s);
	if (!s->on && !s->is_hidden) {
		hmap_remove(&s->of->by_id, &s->by_id);
		s->is_over = true;
		return;
	}
	if (s->on && s->on != s->of->serial)
		shown_fins(s->on, FLOW_C2S);
	stream_free(s);
}

/* After something was said: whether that was all. A tunnel's sides end one by one. */
static void stream_settle(struct stream *s, enum flow_dir dir, bool was_tunnel)
{
	if (!http1_is_done(&s->http, dir))
		return;
	if (was_tunnel && s->on && !s->is_early) {
		stream_flush(s);
		shown_fin(s->on, dir);
	}
	if (http1_is_done(&s->http, peer_of(dir)))
		stream_end(s);
}

/* The server has answered a client that spoke into a tunnel before it was one. */
static void early_end(struct stream *s)
{
	stream_flush(s); /* the answer comes first */
	s->is_early = false;
	if (!s->http.opened || !s->on) {
		held_lose(s, &c_lost_early);
		return;
	}
	held_show(s);
	if (s->early_lost)
		shown_gap(s->on, FLOW_C2S, s->early_lost);
	if (http1_is_done(&s->http, FLOW_C2S))
		shown_fin(s->on, FLOW_C2S);
}

/* The result of http1.c for text that began at `from`. */
static void stream_said(struct stream *s, enum flow_dir dir, int err, struct buf *text, size_t from,
			bool was_tunnel)
{
	if (!err) {
		if (text->len >= PENDING_FULL)
			flush(s->of->hub, false);
		if (s->is_early && s->http.way[FLOW_S2C].part != HTTP1_HEAD)
			early_end(s);
		stream_settle(s, dir, was_tunnel);
		return;
	}
	text->len = from; /* nothing of what is wrong */
	text->bad = false;
	counter_inc(&c_malformed);
	stream_reset(s, dir);
}

static struct stream *stream_new(struct streams *c, uint32_t id, bool pushed)
{
	struct stream *s;

	if (c->by_id.count >= STREAMS_MAX_CONN || c->hub->count >= STREAMS_MAX_HUB / c->hub->parts)
		return NULL;
	s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	s->of = c;
	s->id = id;
	s->pushed = pushed;
	s->begin_ns = c->ts_ns;
	buf_init(&s->held, HELD_MAX_CONN);
	shown_session_of(s->http.nonce, c, id);
	if (hmap_insert(&c->by_id, &s->by_id, id_hash(id)) < 0) {
		free(s);
		return NULL;
	}
	queue_push(&c->all, &s->all);
	c->hub->count++;
	counter_inc(&c_active);
	return s;
}

static bool has_said_much(const struct shown *sh)
{
	const struct forge_side *side = sh->place.forge.side;

	return side[FLOW_C2S].nxt - side[FLOW_C2S].isn > SERIAL_BYTES ||
	       side[FLOW_S2C].nxt - side[FLOW_S2C].isn > SERIAL_BYTES;
}

static void serial_show(struct stream *s)
{
	struct streams *c = s->of;

	if (c->serial && has_said_much(c->serial)) {
		shown_fins(c->serial, FLOW_C2S);
		shown_free(c->serial);
	}
	if (!c->serial)
		c->serial = shown_new(c, s->id);
	stream_show(s, c->serial);
}

/* NULL when it cannot be shown. alone: on a connection of its own, whatever the form. */
static struct stream *stream_open(struct streams *c, uint32_t id, bool pushed, bool alone)
{
	struct stream *s = stream_new(c, id, pushed);

	if (!s) {
		counter_inc(&c_refused);
		return NULL;
	}
	if (alone || c->outlet->shape.http1 != SINK_H2_SERIAL) {
		stream_show_apart(s);
	} else {
		queue_push(&c->turns, &s->turn);
		if (queue_first(&c->turns) == &s->turn)
			serial_show(s);
	}
	if (s->is_hidden) {
		stream_free(s);
		return NULL;
	}
	counter_inc(&c_streams);
	return s;
}

/* Those whose turn has come and who have said all are done with. Who speaks now, or NULL. */
static struct queue_node *serial_next(struct streams *c)
{
	struct queue_node *n;

	while ((n = queue_first(&c->turns)) != NULL) {
		struct stream *s = queue_entry(n, struct stream, turn);

		if (!s->on)
			serial_show(s);
		if (s->is_over)
			stream_free(s);
		else if (s->on)
			return n;
	}
	return NULL;
}

static bool has_waited(const struct streams *c, struct queue_node *turn)
{
	return streams_is_since(c, queue_entry(turn, struct stream, turn)->begin_ns,
				SERIAL_WAIT_NS);
}

/* Who is next, once who spoke has said all, or has let others wait for too long. */
static void serial_run(struct streams *c)
{
	struct queue_node *n, *next;

	flush(c->hub, true);
	while ((n = serial_next(c)) != NULL) {
		next = queue_next(&c->turns, n);
		if (!next || !has_waited(c, next))
			return;
		queue_remove(n); /* from now on the connection is its own */
		c->serial = NULL;
		counter_inc(&c_apart_late);
	}
	if (c->is_ended && c->serial) {
		shown_fins(c->serial, c->end_dir);
		shown_free(c->serial);
	}
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

static bool is_tunnel(const struct h2_list *list)
{
	for (unsigned i = 0; i < list->n; i++) {
		if (span_eq(h2_name(list, i), span_str(":method")))
			return span_eq(h2_value(list, i), span_str("CONNECT"));
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
		s = stream_open(c, id, false, is_tunnel(list));
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
		s = stream_open(c, promised, true, is_tunnel(list));
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
	if (dir == FLOW_C2S && http1_is_early(&s->http)) {
		flush(s->of->hub, true); /* its request */
		s->is_early = true;
	}
	text = text_of(s, dir);
	from = text->len;
	stream_said(s, dir, http1_data_begin(&s->http, dir, len, text), text, from, false);
}

static void on_data(void *ctx, enum flow_dir dir, uint32_t id, struct span bytes)
{
	struct stream *s = stream_find(ctx, id);
	struct buf *text;

	if (!s || s->http.way[dir].part == HTTP1_REFUSED) {
		counter_add(s ? &c_lost_early : &c_lost_unknown, bytes.len);
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

	if (!s || s->http.way[dir].part == HTTP1_REFUSED)
		return;
	flush(c->hub, false);
	stream_say(s, dir, span_of(NULL, 0), len, false);
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
	struct queue_node *n, *next;
	unsigned count = 0;

	flush(c->hub, true);
	for (n = queue_first(&c->all); n; n = next) {
		struct stream *s = queue_entry(n, struct stream, all);

		next = queue_next(&c->all, n);
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
	struct streams *c = ctx;

	if (c->goaways[dir] == GOAWAYS_MAX)
		return;
	c->goaways[dir]++;
	reset_each(c, dir, is_refused, last);
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

static void others_run(struct streams *c)
{
	uint64_t until_ns = c->ts_ns > POKE_NS ? c->ts_ns - POKE_NS : 0;

	shown_pokes_run(c, FLOW_C2S, until_ns);
	shown_pokes_run(c, FLOW_S2C, until_ns);
	shown_quiet_run(c);
}

/* The connection */

/* The caller's is gone after the call. */
static void flow_keep(struct streams *c, const struct outlet_flow *flow)
{
	c->flow = *flow;
	c->open = *flow->who.open;
	c->flow.who.open = &c->open;
}

int streams_new(struct streams **out, struct streams_hub *hub, struct outlet *o,
		const struct outlet_flow *flow, bool late)
{
	struct streams *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->hub = hub;
	c->outlet = o;
	flow_keep(c, flow);
	hmap_init(&c->by_id);
	queue_init(&c->all);
	queue_init(&c->turns);
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
	flow_keep(c, flow);
}

void streams_free(struct streams *c)
{
	struct queue_node *n;

	if (!c)
		return;
	while ((n = queue_first(&c->all)) != NULL)
		stream_free(queue_entry(n, struct stream, all));
	if (c->serial)
		shown_free(c->serial);
	hmap_fini(&c->by_id);
	h2_free(c->h2);
	free(c);
}

int streams_data(struct streams *c, enum flow_dir dir, struct span bytes, bool end, uint64_t ts_ns)
{
	int err;

	c->ts_ns = ts_ns;
	err = h2_bytes(c->h2, dir, bytes, end);
	serial_run(c);
	others_run(c);
	return err;
}

int streams_gap(struct streams *c, enum flow_dir dir, uint64_t len, uint64_t ts_ns)
{
	int err;

	c->ts_ns = ts_ns;
	err = h2_gap(c->h2, dir, len);
	serial_run(c);
	return err;
}

void streams_fin(struct streams *c, enum flow_dir dir, uint64_t ts_ns)
{
	struct queue_node *n, *next;

	c->ts_ns = ts_ns;
	for (n = queue_first(&c->all); n; n = next) {
		struct stream *s = queue_entry(n, struct stream, all);

		next = queue_next(&c->all, n);
		if (!s->is_over && http1_is_whole(&s->http, dir)) {
			bool was_tunnel = s->http.way[dir].part == HTTP1_TUNNEL;

			s->http.way[dir].part = HTTP1_DONE;
			stream_settle(s, dir, was_tunnel);
		}
	}
	reset_each(c, dir, is_unfinished, 0);
	if (!c->is_ended)
		c->end_dir = dir;
	c->is_ended = true;
	serial_run(c);
}

bool streams_poke(struct streams *c, enum flow_dir dir, uint64_t ts_ns)
{
	struct queue_node *n;

	c->ts_ns = ts_ns;
	serial_run(c);
	shown_pokes_run(c, dir, ts_ns);
	n = queue_first(&c->turns);
	return n && queue_next(&c->turns, n);
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
	if (!c->serial)
		return;
	shown_rst(c->serial, dir);
	shown_free(c->serial);
}

/* The hub */

int streams_hub_new(struct streams_hub **out, const struct sink_set *sinks, unsigned parts)
{
	struct streams_hub *hub = calloc(1, sizeof(*hub));

	if (!hub)
		return -ENOMEM;
	hub->sinks = sinks;
	hub->parts = parts;
	hmap_init(&hub->by_tuple);
	h2_list_init(&hub->list);
	hub->list.blocks_most = H2_BLOCKS_MAX / parts;
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
	struct streams_place *before = streams_place_find(hub, &p->forge);

	if (before && before->is_stream) {
		struct shown *sh = hmap_entry(before, struct shown, place);

		if (sh->of->ts_ns < ts_ns)
			sh->of->ts_ns = ts_ns;
		counter_inc(&c_conflicts);
		if (sh->speaker) {
			stream_reset(sh->speaker, FLOW_S2C);
		} else {
			shown_rst(sh, FLOW_S2C);
			shown_free(sh);
		}
	}
	(void)streams_place_take(
		hub, p); /* without memory it is not: at worst a stream takes it as well */
}
