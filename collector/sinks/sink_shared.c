/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sink_shared: see sink_shared.h. Packets, messages and streams come in and are copied behind each
 * other; a flush, or the next one that does not fit, gives them to the real sink, which sees them
 * as if it had been called directly. What a connection is, is copied once for all that follow of
 * it.
 */
#include "sinks/sink_shared.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define SHARED_BATCH (256u << 10) /* a packet or message is less than a quarter of it */
#define SHARED_ALIGN 8u

enum item_kind { ITEM_FLOW, ITEM_PACKET, ITEM_MESSAGE, ITEM_STREAM };

/* What was copied; its bytes follow. Those after an ITEM_FLOW belong to it. */
struct item {
	uint32_t len; /* of the bytes */
	uint8_t kind;
	uint8_t dir;   /* of a message */
	bool is_first; /* of a packet: `first`, of a message: `end` */
	bool has_flow;
	uint64_t ts_ns;
};

struct shared {
	pthread_mutex_t lock; /* around all that is called of `real` */
	struct sink *real;    /* owned */
	unsigned refs;        /* under lock */
	unsigned joined;
};

struct hand_sink {
	struct sink sink;
	struct sink_ops ops; /* as many as the real one has */
	struct shared *to;
	bool is_first;
	/* What the next item belongs to; compared only. */
	bool has_flow;
	struct frame_flow_open open;
	const char *host;
	size_t len;
	_Alignas(SHARED_ALIGN) uint8_t batch[SHARED_BATCH];
};

/* ---- handing over ---- */

/* An ITEM_FLOW's bytes. */
struct flow_copy {
	struct frame_flow_open open; /* its spans point nowhere: the strings follow */
	size_t host_len;             /* its end included */
};

static const uint8_t *point_at(struct span *s, const uint8_t *at)
{
	s->p = at;
	return at + s->len;
}

static void flow_restore(struct flow_copy *c, struct sink_flow *flow, const uint8_t *p)
{
	memcpy(c, p, sizeof(*c));
	p = point_at(&c->open.comm, p + sizeof(*c));
	p = point_at(&c->open.exe, p);
	p = point_at(&c->open.container, p);
	*flow = (struct sink_flow){.open = &c->open, .host = (const char *)p};
}

static void give(struct sink *to, const struct item *i, const uint8_t *bytes,
		 const struct sink_flow *flow)
{
	struct sink_stream stream;

	switch (i->kind) {
	case ITEM_PACKET:
		to->ops->packet(to, span_of(bytes, i->len), i->ts_ns, flow, i->is_first);
		break;
	case ITEM_MESSAGE:
		to->ops->message(to, flow, (enum flow_dir)i->dir, span_of(bytes, i->len),
				 i->is_first, i->ts_ns);
		break;
	case ITEM_STREAM:
		memcpy(&stream, bytes, sizeof(stream));
		stream.flow = flow;
		to->ops->stream(to, &stream, i->ts_ns);
		break;
	}
}

static size_t item_size(size_t len)
{
	return sizeof(struct item) + (len + SHARED_ALIGN - 1) / SHARED_ALIGN * SHARED_ALIGN;
}

/* Under the lock. */
static void hand_over(struct hand_sink *s)
{
	struct sink_flow flow = {.open = NULL};
	struct flow_copy copy;

	for (size_t at = 0; at < s->len;) {
		const struct item *i = (const struct item *)(const void *)(s->batch + at);
		const uint8_t *bytes = s->batch + at + sizeof(*i);

		if (i->kind == ITEM_FLOW)
			flow_restore(&copy, &flow, bytes);
		else
			give(s->to->real, i, bytes, i->has_flow ? &flow : NULL);
		at += item_size(i->len);
	}
	s->len = 0;
	s->has_flow = false;
}

static void hand_over_locked(struct hand_sink *s)
{
	pthread_mutex_lock(&s->to->lock);
	hand_over(s);
	pthread_mutex_unlock(&s->to->lock);
}

/* ---- collecting ---- */

static size_t flow_size(const struct sink_flow *flow)
{
	const struct frame_flow_open *o = flow->open;

	return sizeof(struct flow_copy) + o->comm.len + o->exe.len + o->container.len +
	       (flow->host ? strlen(flow->host) : 0) + 1;
}

/* Contents, not places: the memory of a session that ended is soon another's. */
static bool is_same_flow(const struct hand_sink *s, const struct sink_flow *flow)
{
	return s->has_flow && s->host == flow->host &&
	       memcmp(&s->open, flow->open, sizeof(s->open)) == 0;
}

static uint8_t *item_add(struct hand_sink *s, const struct item *i)
{
	uint8_t *at = s->batch + s->len;

	memcpy(at, i, sizeof(*i));
	s->len += item_size(i->len);
	return at + sizeof(*i);
}

static uint8_t *put(uint8_t *at, const void *p, size_t len)
{
	if (len)
		memcpy(at, p, len);
	return at + len;
}

static void flow_add(struct hand_sink *s, const struct sink_flow *flow)
{
	const char *host = flow->host ? flow->host : "";
	struct flow_copy c = {.open = *flow->open, .host_len = strlen(host) + 1};
	const struct item i = {.kind = ITEM_FLOW, .len = (uint32_t)flow_size(flow)};
	uint8_t *at = item_add(s, &i);

	at = put(at, &c, sizeof(c));
	at = put(at, c.open.comm.p, c.open.comm.len);
	at = put(at, c.open.exe.p, c.open.exe.len);
	at = put(at, c.open.container.p, c.open.container.len);
	(void)put(at, host, c.host_len);
	memcpy(&s->open, flow->open, sizeof(s->open));
	s->host = flow->host;
	s->has_flow = true;
}

static void collect(struct hand_sink *s, struct item i, struct span bytes,
		    const struct sink_flow *flow)
{
	size_t need;

	i.len = (uint32_t)bytes.len;
	i.has_flow = flow && flow->open;
	need = item_size(i.len) + (i.has_flow ? item_size(flow_size(flow)) : 0);
	if (need > SHARED_BATCH - s->len)
		hand_over_locked(s);
	if (i.has_flow && !is_same_flow(s, flow))
		flow_add(s, flow);
	(void)put(item_add(s, &i), bytes.p, bytes.len);
}

static void hand_packet(struct sink *sink, struct span l2, uint64_t ts_ns,
			const struct sink_flow *flow, bool first)
{
	collect((struct hand_sink *)sink,
		(struct item){.kind = ITEM_PACKET, .is_first = first, .ts_ns = ts_ns}, l2, flow);
}

static void hand_message(struct sink *sink, const struct sink_flow *flow, enum flow_dir dir,
			 struct span bytes, bool end, uint64_t ts_ns)
{
	collect((struct hand_sink *)sink,
		(struct item){
			.kind = ITEM_MESSAGE, .dir = (uint8_t)dir, .is_first = end, .ts_ns = ts_ns},
		bytes, flow);
}

static void hand_stream(struct sink *sink, const struct sink_stream *stream, uint64_t ts_ns)
{
	collect((struct hand_sink *)sink, (struct item){.kind = ITEM_STREAM, .ts_ns = ts_ns},
		span_of(stream, sizeof(*stream)), stream->flow);
}

/* The first one also for what a slow reader has left to be written. */
static void hand_flush(struct sink *sink)
{
	struct hand_sink *s = (struct hand_sink *)sink;
	struct sink *real = s->to->real;

	if (!s->len && !s->is_first)
		return;
	pthread_mutex_lock(&s->to->lock);
	hand_over(s);
	if (real->ops->flush)
		real->ops->flush(real);
	pthread_mutex_unlock(&s->to->lock);
}

static void hand_tick(struct sink *sink, uint64_t now_ns)
{
	struct hand_sink *s = (struct hand_sink *)sink;

	if (!s->is_first)
		return;
	pthread_mutex_lock(&s->to->lock);
	hand_over(s);
	s->to->real->ops->tick(s->to->real, now_ns);
	pthread_mutex_unlock(&s->to->lock);
}

static void hand_reopen(struct sink *sink)
{
	struct hand_sink *s = (struct hand_sink *)sink;

	if (!s->is_first)
		return;
	pthread_mutex_lock(&s->to->lock);
	hand_over(s);
	s->to->real->ops->reopen(s->to->real);
	pthread_mutex_unlock(&s->to->lock);
}

static void hand_close(struct sink *sink)
{
	struct hand_sink *s = (struct hand_sink *)sink;
	struct shared *to;

	if (!s)
		return;
	to = s->to;
	hand_over_locked(s);
	explicit_bzero(s->batch, sizeof(s->batch)); /* held plaintext */
	free(s);
	shared_unref(to);
}

/* ---- opening ---- */

int shared_new(struct shared **out, struct sink *real)
{
	struct shared *s = calloc(1, sizeof(*s));

	if (!s) {
		real->ops->close(real);
		return -ENOMEM;
	}
	pthread_mutex_init(&s->lock, NULL);
	s->real = real;
	s->refs = 1;
	*out = s;
	return 0;
}

static struct sink_ops ops_for(const struct sink_ops *real)
{
	return (struct sink_ops){
		.name = real->name,
		.packet = real->packet ? hand_packet : NULL,
		.message = real->message ? hand_message : NULL,
		.stream = real->stream ? hand_stream : NULL,
		.flush = hand_flush,
		.tick = real->tick ? hand_tick : NULL,
		.reopen = real->reopen ? hand_reopen : NULL,
		.close = hand_close,
	};
}

int shared_join(struct sink **out, struct shared *to)
{
	struct hand_sink *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->ops = ops_for(to->real->ops);
	s->sink.ops = &s->ops;
	s->sink.shape = to->real->shape;
	s->sink.place = to->real->place;
	s->to = to;
	s->is_first = to->joined++ == 0;
	pthread_mutex_lock(&to->lock);
	to->refs++;
	pthread_mutex_unlock(&to->lock);
	*out = &s->sink;
	return 0;
}

void shared_unref(struct shared *s)
{
	bool was_last;

	pthread_mutex_lock(&s->lock);
	was_last = --s->refs == 0;
	pthread_mutex_unlock(&s->lock);
	if (!was_last)
		return;
	s->real->ops->close(s->real);
	pthread_mutex_destroy(&s->lock);
	free(s);
}
