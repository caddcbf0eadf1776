/* SPDX-License-Identifier: Apache-2.0 */
/*
 * outlet_http1: the outlet for those who cannot read HTTP/2. A connection that speaks it becomes
 * HTTP/1.1 connections (streams.c); all others, and what stops being HTTP/2 on the way,
 * are shown as they are. What is said before that is decided waits here: a client's first 24 bytes,
 * and a server's SETTINGS.
 */
#include "outlet.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/metrics.h"
#include "http/h2.h"
#include "http/pieces.h"
#include "http/streams.h"

static COUNTER_DEFINE(c_connections, "http1_connections", "HTTP/2 connections shown as HTTP/1.1");
static COUNTER_DEFINE(c_late, "http1_connections_late",
		      "of those, joined after they had begun: their header tables are not known");
static COUNTER_DEFINE(c_broken, "http1_connections_broken",
		      "of those, shown as they are from where they stopped being HTTP/2");

/* Until a client has spoken: a server's SETTINGS and what it may say with them. */
#define HELD_MAX (16u << 10)
/* A connection joined in the middle of a frame is looked at again when a TLS call begins, so often:
 * longer than one body, and too short for chance. */
#define WATCH_CALLS 64u

enum mode {
	MODE_CLOSED,    /* nothing is open */
	MODE_UNDECIDED, /* what was said waits in held */
	MODE_NATIVE,    /* it is shown as it is */
	MODE_STREAMS,
};

struct http1_state {
	struct streams_place place; /* NATIVE: the connection */
	union {
		struct buf *held;        /* UNDECIDED: NULL as long as nothing was said */
		struct streams *streams; /* STREAMS */
	};
	uint64_t begin_ns;
	uint8_t mode;        /* enum mode */
	bool holed;          /* bytes were missing before that was decided */
	uint8_t watch;       /* NATIVE, late: TLS calls that will be looked at */
	uint8_t call_begins; /* sides whose next byte is the first of a call, OUTLET_SENT bits */
	uint16_t natives;    /* how often it was shown as it is */
};

/* Its first bytes need not be the first that were said; nor when it was reset because idle. */
static bool is_late(const struct http1_state *st, const struct outlet_flow *flow)
{
	return st->holed || flow->incarnation > 0 ||
	       (flow->who.open->flags & (FLOW_OPEN_LATE | FLOW_OPEN_RESUMED)) != 0;
}

/* Held bytes */

static void held_free(struct buf *held)
{
	if (!held)
		return;
	buf_cleanse(held);
	free(held);
}

static int held_put(struct http1_state *st, struct piece head, struct span bytes)
{
	if (!st->held) {
		st->held = calloc(1, sizeof(*st->held));
		if (!st->held)
			return -ENOMEM;
		buf_init(st->held, HELD_MAX);
	}
	return pieces_put(st->held, head, bytes);
}

/* Modes */

static unsigned native_put(struct outlet *o, struct http1_state *st, const struct outlet_flow *flow,
			   const struct piece *head, struct span bytes)
{
	enum flow_dir dir = (enum flow_dir)head->dir;

	if (head->gap)
		return outlet_native_ops.gap(o, &st->place.forge, flow, dir, head->gap,
					     head->ts_ns);
	return outlet_native_ops.data(o, &st->place.forge, flow, dir, bytes, head->end,
				      head->ts_ns);
}

static void enter_native(struct outlet *o, struct http1_state *st, const struct outlet_flow *flow,
			 uint64_t ts_ns)
{
	struct buf *held = st->mode == MODE_UNDECIDED ? st->held : NULL;
	struct rd r = rd_from(held ? buf_span(held) : span_of(NULL, 0));
	struct outlet_flow own = *flow;
	struct piece head;
	struct span bytes;

	own.incarnation += (uint32_t)st->natives++ << 16; /* other sequence numbers each time */
	st->mode = MODE_NATIVE;
	st->held = NULL;
	outlet_forge_init(o, &st->place.forge, &own);
	streams_take_place(o->own, &st->place, ts_ns);
	outlet_native_ops.begin(o, &st->place.forge, &own, held ? st->begin_ns : ts_ns);
	while (pieces_next(&r, &head, &bytes))
		(void)native_put(o, st, flow, &head, bytes);
	held_free(held);
}

static int streams_put(struct http1_state *st, const struct piece *head, struct span bytes)
{
	enum flow_dir dir = (enum flow_dir)head->dir;

	if (head->gap)
		return streams_gap(st->streams, dir, head->gap, head->ts_ns);
	return streams_data(st->streams, dir, bytes, head->end, head->ts_ns);
}

/* What is not HTTP/2 any more is shown as it is from here on; its streams end. */
static void leave_streams(struct outlet *o, struct http1_state *st, const struct outlet_flow *flow,
			  const struct piece *at)
{
	counter_inc(&c_broken);
	streams_rst(st->streams, (enum flow_dir)at->dir, at->ts_ns);
	streams_free(st->streams);
	enter_native(o, st, flow, at->ts_ns);
}

/* NATIVE or STREAMS. */
static unsigned decided_put(struct outlet *o, struct http1_state *st,
			    const struct outlet_flow *flow, const struct piece *head,
			    struct span bytes)
{
	if (st->mode == MODE_STREAMS) {
		if (streams_put(st, head, bytes) == 0)
			return 0; /* each stream has pokes of its own */
		leave_streams(o, st, flow, head);
	}
	return native_put(o, st, flow, head, bytes);
}

static void enter_streams(struct outlet *o, struct http1_state *st, const struct outlet_flow *flow,
			  uint64_t ts_ns)
{
	struct buf *held = st->mode == MODE_UNDECIDED ? st->held : NULL;
	struct rd r = rd_from(held ? buf_span(held) : span_of(NULL, 0));
	bool late = is_late(st, flow);
	struct streams *streams;
	struct piece head;
	struct span bytes;

	if (streams_new(&streams, o->own, o, flow, late) < 0) {
		enter_native(o, st, flow, ts_ns);
		return;
	}
	st->mode = MODE_STREAMS;
	st->streams = streams;
	counter_inc(&c_connections);
	if (late)
		counter_inc(&c_late);
	while (pieces_next(&r, &head, &bytes))
		(void)decided_put(o, st, flow, &head, bytes);
	held_free(held);
}

/* Joined in the middle of a frame, and here is the beginning of one. */
static bool is_found(const struct http1_state *st, enum flow_dir dir, struct span bytes)
{
	return st->watch > 0 && (st->call_begins & OUTLET_SENT(dir)) && h2_is_framed(bytes);
}

static void native_to_streams(struct outlet *o, struct http1_state *st,
			      const struct outlet_flow *flow, enum flow_dir dir, uint64_t ts_ns)
{
	outlet_native_ops.rst(o, &st->place.forge, flow, dir, ts_ns);
	streams_leave_place(o->own, &st->place);
	st->watch = 0;
	enter_streams(o, st, flow, ts_ns);
}

/* All that one side has said: what is held of it, and `bytes`. At most as much as decides. */
static struct span said_by(const struct http1_state *st, enum flow_dir dir, struct span bytes,
			   uint8_t *joined, size_t size)
{
	struct rd r = rd_from(st->held ? buf_span(st->held) : span_of(NULL, 0));
	struct piece head;
	struct span before;
	size_t len = 0;

	while (pieces_next(&r, &head, &before)) {
		size_t n = before.len < size - len ? before.len : size - len;

		if (head.dir != dir)
			continue;
		memcpy(joined + len, before.p, n);
		len += n;
	}
	if (len == 0)
		return bytes;
	if (bytes.len < size - len)
		size = len + bytes.len;
	memcpy(joined + len, bytes.p, size - len);
	return span_of(joined, size);
}

static enum h2_guess guess(const struct http1_state *st, const struct outlet_flow *flow,
			   enum flow_dir dir, struct span bytes)
{
	uint8_t joined[sizeof(H2_PREFACE)];
	struct span said = said_by(st, dir, bytes, joined, sizeof(joined));

	if (is_late(st, flow) && h2_is_framed(bytes))
		return H2_YES;
	return dir == FLOW_C2S ? h2_is_preface(said) : h2_is_server_preface(said);
}

/* What struct outlet_ops asks for */

static void http1_forget(struct outlet *o, void *state)
{
	struct http1_state *st = state;

	if (st->mode == MODE_UNDECIDED)
		held_free(st->held);
	else if (st->mode == MODE_STREAMS)
		streams_free(st->streams);
	else if (st->mode == MODE_NATIVE)
		streams_leave_place(o->own, &st->place);
	st->mode = MODE_CLOSED;
}

static void http1_move(struct outlet *o, void *to, void *from, const struct outlet_flow *flow)
{
	struct http1_state *new = to, *old = from;

	*new = *old;
	streams_move_place(o->own, &new->place, &old->place);
	if (new->mode == MODE_STREAMS)
		streams_move(new->streams, flow);
}

static void http1_begin(struct outlet *o, void *state, const struct outlet_flow *flow,
			uint64_t ts_ns)
{
	struct http1_state *st = state;

	(void)flow;
	http1_forget(o, st);
	st->mode = MODE_UNDECIDED;
	st->held = NULL;
	st->holed = false;
	st->watch = 0;
	st->call_begins = OUTLET_SENT_BOTH;
	st->begin_ns = ts_ns;
}

static unsigned http1_data(struct outlet *o, void *state, const struct outlet_flow *flow,
			   enum flow_dir dir, struct span bytes, bool end, uint64_t ts_ns)
{
	struct piece head = {.ts_ns = ts_ns, .dir = (uint8_t)dir, .end = end};
	struct http1_state *st = state;

	if (st->mode == MODE_CLOSED)
		return OUTLET_SENT_BOTH;
	if (st->mode == MODE_UNDECIDED) {
		enum h2_guess is = guess(st, flow, dir, bytes);

		if (is == H2_MAYBE && held_put(st, head, bytes) == 0)
			return 0;
		if (is == H2_YES)
			enter_streams(o, st, flow, ts_ns);
		else
			enter_native(o, st, flow, ts_ns);
		if (is == H2_NO && is_late(st, flow))
			st->watch = WATCH_CALLS;
	} else if (is_found(st, dir, bytes)) {
		native_to_streams(o, st, flow, dir, ts_ns);
	}
	if (end && st->watch > 0)
		st->watch--;
	st->call_begins =
		(uint8_t)((st->call_begins & ~OUTLET_SENT(dir)) | (end ? OUTLET_SENT(dir) : 0));
	return decided_put(o, st, flow, &head, bytes);
}

static unsigned http1_gap(struct outlet *o, void *state, const struct outlet_flow *flow,
			  enum flow_dir dir, uint64_t len, uint64_t ts_ns)
{
	struct piece head = {.ts_ns = ts_ns, .gap = len, .dir = (uint8_t)dir};
	struct http1_state *st = state;

	if (st->mode == MODE_CLOSED)
		return OUTLET_SENT_BOTH;
	if (st->mode == MODE_UNDECIDED) {
		st->holed = true;
		if (held_put(st, head, span_of(NULL, 0)) == 0)
			return 0;
		enter_native(o, st, flow, ts_ns);
	}
	return decided_put(o, st, flow, &head, span_of(NULL, 0));
}

static void close_native(struct outlet *o, struct http1_state *st)
{
	streams_leave_place(o->own, &st->place);
	st->mode = MODE_CLOSED;
}

static unsigned http1_fin(struct outlet *o, void *state, const struct outlet_flow *flow,
			  enum flow_dir dir, uint64_t ts_ns)
{
	struct http1_state *st = state;
	unsigned sent;

	if (st->mode == MODE_UNDECIDED)
		enter_native(o, st, flow, ts_ns);
	if (st->mode == MODE_STREAMS)
		streams_fin(st->streams, dir, ts_ns);
	if (st->mode != MODE_NATIVE)
		return OUTLET_SENT_BOTH;
	sent = outlet_native_ops.fin(o, &st->place.forge, flow, dir, ts_ns);
	if (st->place.forge.state == FORGE_CLOSED)
		close_native(o, st);
	return sent;
}

static unsigned http1_poke(struct outlet *o, void *state, const struct outlet_flow *flow,
			   enum flow_dir dir, uint64_t ts_ns)
{
	struct http1_state *st = state;

	if (st->mode == MODE_STREAMS && streams_poke(st->streams, dir, ts_ns))
		return OUTLET_WAITS;
	if (st->mode != MODE_NATIVE)
		return 0;
	return outlet_native_ops.poke(o, &st->place.forge, flow, dir, ts_ns);
}

static void http1_rst(struct outlet *o, void *state, const struct outlet_flow *flow,
		      enum flow_dir dir, uint64_t ts_ns)
{
	struct http1_state *st = state;

	if (st->mode == MODE_UNDECIDED && st->held)
		enter_native(o, st, flow, ts_ns);
	if (st->mode == MODE_NATIVE) {
		outlet_native_ops.rst(o, &st->place.forge, flow, dir, ts_ns);
		close_native(o, st);
	} else if (st->mode == MODE_STREAMS) {
		streams_rst(st->streams, dir, ts_ns);
		streams_free(st->streams);
	}
	st->streams = NULL;
	st->mode = MODE_CLOSED;
}

static int http1_open(struct outlet *o, const struct sink_set *sinks, unsigned parts)
{
	struct streams_hub *hub;
	int err = streams_hub_new(&hub, sinks, parts);

	if (!err)
		o->own = hub;
	return err;
}

static void http1_close(struct outlet *o)
{
	streams_hub_free(o->own);
}

const struct outlet_ops outlet_http1_ops = {
	.name = "http1",
	.state_len = sizeof(struct http1_state),
	.open = http1_open,
	.close = http1_close,
	.begin = http1_begin,
	.data = http1_data,
	.gap = http1_gap,
	.fin = http1_fin,
	.poke = http1_poke,
	.rst = http1_rst,
	.move = http1_move,
	.forget = http1_forget,
};
