/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ingest: link bytes → envelopes → frames → crew, and the answers to them. Knows which blocks
 * of an agent instance were processed, so that a block sent again after a lost link is emitted
 * once. Never touches a socket or a clock.
 */
#include "ingest.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/hmap.h"
#include "base/log.h"
#include "base/metrics.h"
#include "peer_clock.h"
#include "zblock.h"

#define LINKS_PER_AGENT_MAX 64    /* bounds what one agent instance makes us remember */
#define AGENTS_MAX          16384 /* agent instances remembered, gone ones included: about 20 MB */
#define HELLO_BYTES_MAX     4096  /* a hello and its envelope: what a stranger may make us hold */
#define PENDING_MAX         (ZBLOCK_HEADER_LEN + ZBLOCK_WIRE_MAX)
#define LINE_MS             100 /* at most one line so often about broken links */
#define LINKS_WISHED        1   /* one thread reads them all */

static COUNTER_DEFINE(n_blocks, "ingest_blocks", "blocks whose frames were processed");
static COUNTER_DEFINE(n_dups, "ingest_blocks_duplicate",
		      "blocks skipped: processed before a lost link");
static COUNTER_DEFINE(n_unknown, "ingest_frames_unknown",
		      "frames of a type we do not know, skipped");
static COUNTER_DEFINE(n_envelope, "link_broken_envelope",
		      "links closed: broken envelope or zstd data");
static COUNTER_DEFINE(n_frame, "link_broken_frame", "links closed: broken or misplaced frame");
static COUNTER_DEFINE(n_order, "link_broken_order", "links closed: hole in the block sequence");
static COUNTER_DEFINE(n_hello, "link_broken_hello", "links closed: no proper hello first");
static COUNTER_DEFINE(n_version, "link_refused_version", "links refused: protocol version");
static COUNTER_DEFINE(n_agents, "link_refused_agents", "links refused: too many agent instances");
static COUNTER_DEFINE(n_replaced, "link_replaced",
		      "links closed: the agent came back on a newer one");

struct agent {
	struct hmap_node node;
	uint8_t id[16];
	struct crew_origin *origin; /* borrowed from the crew */
	struct peer_clock clock;
	unsigned n_live; /* links of it that are connected */
	bool is_stamped; /* gone_ns is set: no link since then */
	uint64_t gone_ns;
	uint64_t last_seq[LINKS_PER_AGENT_MAX];   /* by link index; 0: no block seen */
	struct ingest *link[LINKS_PER_AGENT_MAX]; /* borrowed; the current one, or NULL */
};

struct ingest_hub {
	struct crew *crew; /* borrowed */
	struct hmap agents;
	uint8_t id[16];
	int64_t wall_ns; /* Unix time less monotonic time; 0: not known */
	struct log_rate broken_rate;
};

struct ingest {
	struct ingest_hub *hub; /* borrowed */
	struct agent *agent; /* owned by the hub; NULL before the hello and after a replacement */
	struct zblock_enc *enc;
	struct zblock_dec *dec;
	struct buf pending; /* an incomplete envelope */
	struct buf scratch; /* frames of one answer */
	uint16_t link;
	bool greeted, replaced, failed;
	bool has_block; /* a block arrived on this link: from here on no hole is allowed */
	bool ack_due;   /* a block came that `asked` does not cover */
	bool is_asked;  /* `asked` is not acknowledged yet: */
	uint64_t asked; /* the last block that came before */
	struct crew_mark mark;
	uint64_t next_seq; /* hello.next_seq */
	char name[192];
};

/* ---- hub ---- */

int ingest_hub_new(struct ingest_hub **out, struct crew *crew)
{
	struct ingest_hub *h = calloc(1, sizeof(*h));

	if (!h)
		return -ENOMEM;
	if (getrandom(h->id, sizeof(h->id), 0) != (ssize_t)sizeof(h->id)) {
		free(h);
		return -EIO;
	}
	h->crew = crew;
	hmap_init(&h->agents);
	*out = h;
	return 0;
}

static void agent_drop(struct ingest_hub *h, struct agent *a)
{
	hmap_remove(&h->agents, &a->node);
	peer_clock_forget(&a->clock);
	free(a);
}

void ingest_hub_free(struct ingest_hub *h)
{
	struct hmap_node *n;

	if (!h)
		return;
	while ((n = hmap_any(&h->agents, NULL)))
		agent_drop(h, hmap_entry(n, struct agent, node));
	hmap_fini(&h->agents);
	free(h);
}

void ingest_hub_tick(struct ingest_hub *h, uint64_t now_ns)
{
	struct hmap_node *n = hmap_any(&h->agents, NULL), *next;

	for (; n; n = next) {
		struct agent *a = hmap_entry(n, struct agent, node);

		next = hmap_any(&h->agents, n);
		if (a->n_live) {
			a->is_stamped = false;
		} else if (!a->is_stamped) {
			a->is_stamped = true;
			a->gone_ns = now_ns;
		} else if (now_ns - a->gone_ns >= INGEST_AGENT_GRACE_S * NS_PER_S) {
			crew_origin_gone(h->crew, a->origin, now_ns);
			agent_drop(h, a);
		}
	}
}

void ingest_hub_wall(struct ingest_hub *h, int64_t offset_ns)
{
	h->wall_ns = offset_ns;
}

void ingest_hub_clocks(const struct ingest_hub *h, FILE *out)
{
	for (struct hmap_node *n = hmap_any(&h->agents, NULL); n; n = hmap_any(&h->agents, n)) {
		const struct agent *a = hmap_entry(n, struct agent, node);

		for (unsigned i = 0; i < LINKS_PER_AGENT_MAX; i++) {
			if (!a->link[i])
				continue;
			peer_clock_print(&a->clock, a->link[i]->name, out);
			break;
		}
	}
}

static struct agent *agent_find(struct ingest_hub *h, const uint8_t id[16])
{
	struct hmap_node *n = hmap_first(&h->agents, hmap_hash(id, 16));

	for (; n; n = hmap_next_same(n)) {
		struct agent *a = hmap_entry(n, struct agent, node);

		if (memcmp(a->id, id, sizeof(a->id)) == 0)
			return a;
	}
	return NULL;
}

static struct agent *agent_make(struct ingest_hub *h, const struct frame_hello *m)
{
	struct agent *a;

	if (h->agents.count >= AGENTS_MAX)
		return NULL;
	a = calloc(1, sizeof(*a));
	if (!a)
		return NULL;
	memcpy(a->id, m->agent, sizeof(a->id));
	if (hmap_insert(&h->agents, &a->node, hmap_hash(a->id, sizeof(a->id)))) {
		free(a);
		return NULL;
	}
	a->origin = crew_origin(h->crew, m->agent, m->host);
	if (a->origin)
		return a;
	agent_drop(h, a);
	return NULL;
}

/* ---- link ---- */

int ingest_new(struct ingest **out, struct ingest_hub *h, const char *name)
{
	struct ingest *in = calloc(1, sizeof(*in));
	int err;

	if (!in)
		return -ENOMEM;
	in->hub = h;
	buf_init(&in->pending, PENDING_MAX);
	buf_init(&in->scratch, FRAME_HEADER_LEN + FRAME_BODY_MAX);
	snprintf(in->name, sizeof(in->name), "%s", name);
	err = zblock_enc_new(&in->enc, 0);
	if (!err)
		err = zblock_dec_new(&in->dec);
	if (err) {
		ingest_free(in);
		return err;
	}
	*out = in;
	return 0;
}

static void link_detach(struct ingest *in)
{
	struct agent *a = in->agent;

	if (!a)
		return;
	a->link[in->link] = NULL;
	if (!--a->n_live)
		crew_origin_link(in->hub->crew, a->origin, false);
	in->agent = NULL;
}

void ingest_free(struct ingest *in)
{
	if (!in)
		return;
	link_detach(in);
	zblock_enc_free(in->enc);
	zblock_dec_free(in->dec);
	buf_cleanse(&in->pending);
	buf_fini(&in->scratch);
	free(in);
}

bool ingest_is_greeted(const struct ingest *in)
{
	return in->greeted;
}

bool ingest_is_replaced(const struct ingest *in)
{
	return in->replaced;
}

/* Log, count, and give the error back: how every link that breaks the protocol ends. */
static int broken(struct ingest *in, struct counter *c, int err, const char *what)
{
	uint64_t held;

	counter_inc(c);
	if (!log_rate_ok(&in->hub->broken_rate, LINE_MS, &held))
		return err;
	if (held)
		log_warn("ingest: link closed: %s peer=%s (and %" PRIu64 " lines like it)", what,
			 in->name, held);
	else
		log_warn("ingest: link closed: %s peer=%s", what, in->name);
	return err;
}

/* What stands in in->scratch goes out as one control envelope. */
static int answer(struct ingest *in, struct buf *reply)
{
	int err;

	if (in->scratch.bad)
		return -EMSGSIZE;
	err = zblock_encode(in->enc, ZBLOCK_CONTROL, 0, buf_span(&in->scratch), reply);
	buf_reset(&in->scratch);
	return err;
}

int ingest_put_refused(struct buf *reply, uint16_t code, const char *text)
{
	struct frame_refused m = {.code = code, .text = span_str(text)};
	struct zblock_enc *enc = NULL;
	struct buf b;
	int err;

	buf_init(&b, FRAME_HEADER_LEN + FRAME_BODY_MAX);
	frame_put_refused(&b, &m);
	err = b.bad ? -EMSGSIZE : zblock_enc_new(&enc, 0);
	if (!err)
		err = zblock_encode(enc, ZBLOCK_CONTROL, 0, buf_span(&b), reply);
	zblock_enc_free(enc);
	buf_fini(&b);
	return err;
}

static int refuse(struct ingest *in, struct counter *c, uint16_t code, const char *text,
		  struct buf *reply)
{
	struct frame_refused m = {.code = code, .text = span_str(text)};

	frame_put_refused(&in->scratch, &m);
	if (answer(in, reply))
		log_debug("ingest: refusal not sent peer=%s", in->name);
	return broken(in, c, -EPROTO, text);
}

static int hello_check(struct ingest *in, const struct frame_hello *m, struct buf *reply)
{
	char text[96];

	if (m->version != SSLC_PROTO_VERSION) {
		snprintf(text, sizeof(text), "protocol version %u, this collector speaks %u",
			 m->version, SSLC_PROTO_VERSION);
		return refuse(in, &n_version, REFUSE_PROTOCOL, text, reply);
	}
	if (m->link >= m->n_links || m->n_links > LINKS_PER_AGENT_MAX)
		return refuse(in, &n_hello, REFUSE_PROTOCOL, "link index out of range", reply);
	return 0;
}

/* The newest link of an agent and index is the one that counts; the older is most likely dead. */
static void link_attach(struct ingest *in, struct agent *a, const struct frame_hello *m)
{
	struct ingest *old = a->link[m->link];

	if (old) {
		counter_inc(&n_replaced);
		log_info("ingest: link replaced by a newer one of the same agent peer=%s by=%s",
			 old->name, in->name);
		link_detach(old);
		old->replaced = true;
	}
	in->agent = a;
	in->link = m->link;
	in->next_seq = m->next_seq;
	in->greeted = true;
	a->link[m->link] = in;
	a->n_live++;
	crew_origin_link(in->hub->crew, a->origin, true);
	a->is_stamped = false;
}

static int on_hello(struct ingest *in, const struct frame *f, struct buf *reply)
{
	struct frame_welcome w = {.version = SSLC_PROTO_VERSION, .n_workers = LINKS_WISHED};
	struct frame_hello m;
	struct agent *a;
	int err;

	if (in->greeted)
		return broken(in, &n_hello, -EPROTO, "second hello");
	if (frame_get_hello(f, &m))
		return broken(in, &n_hello, -EBADMSG, "broken hello");
	err = hello_check(in, &m, reply);
	if (err)
		return err;
	a = agent_find(in->hub, m.agent);
	if (!a)
		a = agent_make(in->hub, &m);
	if (!a)
		return refuse(in, &n_agents, REFUSE_BUSY, "too many agents at this collector",
			      reply);
	link_attach(in, a, &m);
	memcpy(w.collector, in->hub->id, sizeof(w.collector));
	w.resume_seq = a->last_seq[in->link];
	if (w.resume_seq)
		crew_settle(in->hub->crew); /* which acknowledges as well */
	frame_put_welcome(&in->scratch, &w);
	return answer(in, reply);
}

static int on_ping(struct ingest *in, const struct frame *f, struct buf *reply, uint64_t now_ns)
{
	struct frame_ping m, pong;

	if (frame_get_ping(f, &m))
		return broken(in, &n_frame, -EBADMSG, "broken ping");
	peer_clock_ping(&in->agent->clock, &m, in->name, now_ns);
	pong = (struct frame_ping){.ts_ns = m.ts_ns};
	if (in->hub->wall_ns) /* it leaves with what else is written in this round */
		pong.came_ns = pong.left_ns = now_ns + (uint64_t)in->hub->wall_ns;
	frame_put_ping(&in->scratch, &pong, true);
	return answer(in, reply);
}

static int on_flow(struct ingest *in, const struct frame *f, uint64_t now_ns)
{
	struct crew *c = in->hub->crew;
	int err;

	crew_begin(c, in->agent->origin, FRAME_HEADER_LEN + f->body.len);
	err = crew_frame(c, f, now_ns);
	crew_end(c);
	return err ? broken(in, &n_frame, -EBADMSG, "broken flow frame") : 0;
}

static int on_refused(struct ingest *in, const struct frame *f)
{
	struct frame_refused m;
	char text[64];

	if (frame_get_refused(f, &m))
		return broken(in, &n_frame, -EBADMSG, "broken refusal");
	snprintf(text, sizeof(text), "the agent ended it, code %u", m.code);
	return broken(in, &n_frame, -EPROTO, text);
}

/* A control frame: the link's own affairs, and flows told again to a new collector. */
static int control_frame(struct ingest *in, const struct frame *f, struct buf *reply,
			 uint64_t now_ns)
{
	if (!in->greeted && f->type != FRAME_HELLO)
		return broken(in, &n_hello, -EPROTO, "not a hello first");
	switch (f->type) {
	case FRAME_HELLO:
		return on_hello(in, f, reply);
	case FRAME_PING:
		return on_ping(in, f, reply, now_ns);
	case FRAME_PONG:
	case FRAME_STATS:
		return 0;
	case FRAME_FLOW_OPEN:
	case FRAME_FLOW_META:
		return on_flow(in, f, now_ns);
	case FRAME_REFUSED:
		return on_refused(in, f);
	case FRAME_DATA:
	case FRAME_GAP:
	case FRAME_FLOW_FIN:
	case FRAME_FLOW_CLOSE:
	case FRAME_WELCOME:
	case FRAME_ACK:
	case FRAME_ENROLL:
	case FRAME_ENROLLED:
		return broken(in, &n_frame, -EPROTO, "frame not allowed in a control envelope");
	default:
		counter_inc(&n_unknown);
		return 0;
	}
}

static int block_frame(struct crew *c, const struct frame *f, uint64_t now_ns)
{
	switch (f->type) {
	case FRAME_FLOW_OPEN:
	case FRAME_FLOW_META:
	case FRAME_DATA:
	case FRAME_GAP:
	case FRAME_FLOW_FIN:
	case FRAME_FLOW_CLOSE:
	case FRAME_STATS:
		return crew_frame(c, f, now_ns) ? -EBADMSG : 0;
	case FRAME_HELLO:
	case FRAME_WELCOME:
	case FRAME_REFUSED:
	case FRAME_ACK:
	case FRAME_PING:
	case FRAME_PONG:
	case FRAME_ENROLL:
	case FRAME_ENROLLED:
		return -EPROTO;
	default:
		counter_inc(&n_unknown);
		return 0;
	}
}

static int block_frames(struct crew *c, struct span frames, uint64_t now_ns)
{
	while (frames.len) {
		struct frame f;
		ssize_t n = frame_decode(frames, &f);
		int err;

		if (n <= 0)
			return n ? (int)n : -EBADMSG; /* an envelope holds whole frames */
		err = block_frame(c, &f, now_ns);
		if (err)
			return err;
		frames = span_of(frames.p + n, frames.len - (size_t)n);
	}
	return 0;
}

/* What comes before a broken frame counts. */
int ingest_frames(struct crew *c, struct crew_origin *o, struct span frames, uint64_t now_ns)
{
	int err;

	crew_begin(c, o, frames.len);
	err = block_frames(c, frames, now_ns);
	crew_end(c);
	return err;
}

static int on_control(struct ingest *in, struct span frames, struct buf *reply, uint64_t now_ns)
{
	while (frames.len) {
		struct frame f;
		ssize_t n = frame_decode(frames, &f);
		int err;

		if (n <= 0)
			return broken(in, &n_frame, n ? (int)n : -EBADMSG, "broken frame");
		err = control_frame(in, &f, reply, now_ns);
		if (err)
			return err;
		frames = span_of(frames.p + n, frames.len - (size_t)n);
	}
	return 0;
}

/*
 * A hole means that bytes would be missing without a gap frame. It is honest in two cases, both
 * only for a link's first block: we never saw this agent (the collector was restarted), or the
 * hello said so.
 */
static bool seq_is_next(const struct ingest *in, uint64_t seq, uint64_t last)
{
	if (seq == last + 1)
		return true;
	return !in->has_block && (last == 0 || seq == in->next_seq);
}

static int on_block(struct ingest *in, const struct zblock *z, uint64_t now_ns)
{
	uint64_t *last;

	if (!in->greeted)
		return broken(in, &n_hello, -EPROTO, "data before hello");
	last = &in->agent->last_seq[in->link];
	if (z->seq == 0)
		return broken(in, &n_order, -EPROTO, "block without a sequence number");
	in->ack_due = true;
	if (z->seq <= *last) {
		counter_inc(&n_dups);
		return 0;
	}
	if (!seq_is_next(in, z->seq, *last))
		return broken(in, &n_order, -EPROTO, "hole in the block sequence");
	in->has_block = true;
	/* Before its frames: a block that turns out broken in the middle must not come again. */
	*last = z->seq;
	counter_inc(&n_blocks);
	if (ingest_frames(in->hub->crew, in->agent->origin, z->frames, now_ns))
		return broken(in, &n_frame, -EBADMSG, "broken frame in a block");
	return 0;
}

static int on_envelope(struct ingest *in, const struct zblock *z, struct buf *reply,
		       uint64_t now_ns)
{
	switch (z->kind) {
	case ZBLOCK_CONTROL:
		return on_control(in, z->frames, reply, now_ns);
	case ZBLOCK_DATA:
		return on_block(in, z, now_ns);
	}
	return broken(in, &n_envelope, -EBADMSG, "unknown kind of envelope");
}

/* All whole envelopes at the front of `s`; *used says how far they reach. */
static int take_envelopes(struct ingest *in, struct span s, size_t *used, struct buf *reply,
			  uint64_t now_ns)
{
	*used = 0;
	while (*used < s.len) {
		struct zblock z;
		ssize_t n = zblock_decode(in->dec, span_of(s.p + *used, s.len - *used), &z);
		int err;

		if (n < 0)
			return broken(in, &n_envelope, (int)n, "broken envelope");
		if (n == 0)
			return 0;
		err = on_envelope(in, &z, reply, now_ns);
		if (err)
			return err;
		*used += (size_t)n;
	}
	return 0;
}

/* Append what fits behind the incomplete envelope, then decode from there. */
static int feed_pending(struct ingest *in, struct span *bytes, struct buf *reply, uint64_t now_ns)
{
	size_t room = PENDING_MAX - in->pending.len, used = 0;
	size_t n = bytes->len < room ? bytes->len : room;
	int err;

	if (!n)
		return broken(in, &n_envelope, -EMSGSIZE, "envelope too large");
	wr_bytes(&in->pending, bytes->p, n);
	if (in->pending.bad)
		return -ENOMEM;
	*bytes = span_of(bytes->p + n, bytes->len - n);
	err = take_envelopes(in, buf_span(&in->pending), &used, reply, now_ns);
	buf_consume(&in->pending, used);
	return err;
}

static int feed(struct ingest *in, struct span bytes, struct buf *reply, uint64_t now_ns)
{
	int err = 0;

	while (bytes.len && !err) {
		size_t used = 0;

		if (!in->pending.len) { /* the usual case: decode where the bytes lie */
			err = take_envelopes(in, bytes, &used, reply, now_ns);
			bytes = span_of(bytes.p + used, bytes.len - used);
		}
		if (!err && bytes.len)
			err = feed_pending(in, &bytes, reply, now_ns);
		if (!err && !in->greeted && in->pending.len > HELLO_BYTES_MAX)
			err = broken(in, &n_hello, -EPROTO, "too many bytes before hello");
	}
	return err;
}

int ingest_bytes(struct ingest *in, struct span bytes, struct buf *reply, uint64_t now_ns)
{
	int err;

	if (in->replaced || in->failed)
		return -EPROTO;
	err = feed(in, bytes, reply, now_ns);
	if (!err && reply->bad)
		err = broken(in, &n_envelope, -EMSGSIZE, "answers do not fit");
	in->failed = err != 0;
	return err;
}

/* All blocks that came: wait for those, whatever comes meanwhile. */
static void ask(struct ingest *in)
{
	in->ack_due = false;
	in->is_asked = true;
	in->asked = in->agent->last_seq[in->link];
	crew_mark(in->hub->crew, &in->mark);
}

static void put_ack(struct ingest *in, struct buf *reply)
{
	const struct frame_ack m = {.seq = in->asked};

	in->is_asked = false;
	frame_put_ack(&in->scratch, &m);
	if (answer(in, reply))
		log_warn("ingest: ack not sent peer=%s", in->name);
}

enum taker_acked ingest_ack(struct ingest *in, struct buf *reply)
{
	if (!in->agent || (!in->is_asked && !in->ack_due))
		return TAKER_ACKED_ALL;
	if (!in->is_asked)
		ask(in);
	if (!crew_is_past(in->hub->crew, &in->mark))
		return TAKER_ACK_WAITS;
	put_ack(in, reply);
	return in->ack_due ? TAKER_ACKED_SOME : TAKER_ACKED_ALL;
}

/* ---- as a taker ---- */

static int taker_open(void **out, void *hub, struct link *l, const char *name)
{
	struct ingest *in = NULL;
	int err = ingest_new(&in, hub, name);

	(void)l;
	if (!err)
		*out = in;
	return err;
}

static void taker_close(void *taker)
{
	ingest_free(taker);
}

static int taker_bytes(void *taker, struct span bytes, struct buf *reply, uint64_t now_ns)
{
	return ingest_bytes(taker, bytes, reply, now_ns);
}

static bool taker_is_greeted(const void *taker)
{
	return ingest_is_greeted(taker);
}

static bool taker_is_replaced(const void *taker)
{
	return ingest_is_replaced(taker);
}

static enum taker_acked taker_flushed(void *taker, struct buf *reply)
{
	return ingest_ack(taker, reply);
}

const struct taker_ops ingest_taker = {
	.open = taker_open,
	.close = taker_close,
	.bytes = taker_bytes,
	.is_greeted = taker_is_greeted,
	.is_replaced = taker_is_replaced,
	.flushed = taker_flushed,
};
