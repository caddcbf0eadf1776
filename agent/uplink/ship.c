/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ship: see ship.h. Frames in from the pipeline thread, numbered blocks out to the uplink thread.
 * Frames collect in `current`, whose memory is there from the start. A full one becomes a block as
 * it is, and other memory takes its place, that of the block freed last because it is still in the
 * cache; sealed before, its frames are copied into a block of exactly their size. One mutex guards
 * everything. Never does I/O but for the eventfd,
 * never looks into plaintext.
 *
 * Bytes held = frames in blocks and in current + flow records. An open flow's record counts for one
 * flow-close frame and its block beforehand, so that it can be closed however full the queue is.
 */
#include "uplink/ship.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/hmap.h"
#include "base/metrics.h"
#include "base/queue.h"

#define CURRENT_MAX                                                                                \
	(SHIP_BLOCK_TARGET + FRAME_HEADER_LEN + FRAME_BODY_MAX) /* sealed once over the target */
#define DATA_FRAME_FIXED                                                                           \
	(FRAME_HEADER_LEN + 28) /* a data frame without its payload; PROTOCOL.md 3 */
#define GAP_FRAME_LEN (FRAME_HEADER_LEN + 33)
#define FIN_FRAME_LEN (FRAME_HEADER_LEN + 17)
#define SHED_SHARE                                                                                 \
	4 /* a full queue frees this part of its bound at once, so that shedding stays rare */

_Static_assert(CURRENT_MAX <= 1u << 20, "a block fits into one envelope (ZBLOCK_RAW_MAX)");

static COUNTER_DEFINE(flows_shed, "ship_flows_shed", "flows dropped: queue full or out of memory");
static COUNTER_DEFINE(bytes_shed, "ship_bytes_shed",
		      "plaintext bytes of those flows, queued and later ones");
static COUNTER_DEFINE(bytes_queued, "ship_bytes_queued",
		      "bytes held now, not acknowledged (gauge)");
static COUNTER_DEFINE(blocks_resent, "ship_blocks_resent", "blocks sent again after a reconnect");
static COUNTER_DEFINE(bytes_lost_memory, "ship_bytes_lost_memory",
		      "plaintext bytes lost, out of memory");
static COUNTER_DEFINE(bytes_no_flow, "ship_bytes_no_flow",
		      "plaintext bytes of flows without a record: no room");

#define SPARES_MAX 8 /* what is sent and not acknowledged, on a link that is not far */

struct block {
	struct queue_node node;
	uint64_t seq;
	uint8_t *p; /* owned; NULL when shedding left nothing: an empty block keeps the sequence
		       whole */
	size_t len;
	bool is_large; /* CURRENT_MAX bytes are at p */
};

/* Memory of CURRENT_MAX bytes for the next `current`. */
struct spare {
	uint8_t *p;
	size_t stale; /* bytes that still are what they were; cleansed within a second */
};

struct flow {
	struct hmap_node node;   /* hash: the flow id */
	struct queue_node ended; /* in ship.closing, ship.owed or ship.gone */
	struct queue_node order; /* in ship.order, during one shedding pass */
	uint8_t *open;           /* owned: its encoded flow-open; NULL once shed */
	size_t open_len;
	uint64_t open_seq;  /* the block that carries its open */
	uint64_t close_seq; /* the block that carries its close, once closed and not shed */
	uint64_t pass;      /* shedding pass that `queued` belongs to */
	size_t queued;      /* bytes that shedding it would free from blocks */
	bool reserves;      /* CLOSE_RESERVE is counted for it */
	bool closed;        /* by the producer */
	bool shed;          /* later frames are dropped */
};

#define CLOSE_RESERVE (FRAME_CLOSE_LEN + sizeof(struct block))

struct ship {
	pthread_mutex_t lock;
	int wake_fd;
	bool woken; /* wake_fd is readable */
	size_t max_bytes, held;

	struct queue blocks; /* sealed, by seq */
	struct block *next;  /* first one not sent; NULL: none */
	struct block *lent;  /* to the uplink: neither freed nor changed */
	struct buf current;
	struct spare spares[SPARES_MAX];
	unsigned n_spares;
	uint64_t next_seq; /* of the block that `current` will be */
	uint64_t lent_seq; /* highest ever lent: what is beyond, the peer cannot know */
	uint64_t sent_seq; /* highest ever returned as sent */
	uint64_t acked_seq;

	struct hmap flows;
	struct queue closing; /* closed flows, by close_seq: kept until that is acknowledged */
	struct queue owed;    /* shed flows whose close has still to be written */
	struct queue
		gone; /* during shedding: flows to forget once their frames are out of the blocks */
	struct queue order; /* during shedding: flows by the age of their oldest queued data */
	uint64_t pass;
	uint64_t ts_ns; /* newest stamp seen: this stage has no clock */
	struct buf scratch;
	bool futile; /* the last shedding pass freed too little and nothing has been released since
		      */
};

static void hold(struct ship *s, size_t n)
{
	s->held += n;
	counter_add(&bytes_queued, n);
}

static void unhold(struct ship *s, size_t n)
{
	s->held -= n;
	counter_add(&bytes_queued, (uint64_t)0 - n);
}

static void wake(struct ship *s)
{
	uint64_t one = 1;

	if (!s->woken)
		s->woken = write(s->wake_fd, &one, sizeof(one)) == sizeof(one);
}

static void unwake(struct ship *s)
{
	uint64_t n;

	if (s->woken)
		s->woken = read(s->wake_fd, &n, sizeof(n)) != sizeof(n);
}

/* Blocks */

static size_t block_cost(const struct block *b)
{
	return sizeof(*b) + b->len;
}

static void block_free(struct ship *s, struct block *b)
{
	if (b->is_large && s->n_spares < SPARES_MAX) {
		s->spares[s->n_spares++] = (struct spare){.p = b->p, .stale = b->len};
		b->p = NULL;
	}
	if (b->p)
		explicit_bzero(b->p, b->len);
	free(b->p);
	free(b);
}

static void spares_cleanse(struct ship *s)
{
	for (unsigned i = 0; i < s->n_spares; i++) {
		explicit_bzero(s->spares[i].p, s->spares[i].stale);
		s->spares[i].stale = 0;
	}
}

static void spares_free(struct ship *s)
{
	spares_cleanse(s);
	while (s->n_spares)
		free(s->spares[--s->n_spares].p);
}

static uint8_t *spare_take(struct ship *s)
{
	return s->n_spares ? s->spares[--s->n_spares].p : malloc(CURRENT_MAX);
}

static struct block *block_of(struct queue_node *n)
{
	return n ? queue_entry(n, struct block, node) : NULL;
}

static struct block *block_first(const struct ship *s)
{
	return block_of(queue_first(&s->blocks));
}

static struct block *block_next(const struct ship *s, const struct block *b)
{
	return block_of(queue_next(&s->blocks, &b->node));
}

static bool block_copy(struct block *b, const struct buf *from)
{
	b->p = malloc(from->len);
	if (b->p)
		memcpy(b->p, from->p, from->len);
	return b->p;
}

/* The block has the memory, `current` other one. */
static bool block_swap(struct ship *s, struct block *b)
{
	uint8_t *other = spare_take(s);

	if (!other)
		return false;
	b->is_large = true;
	b->p = s->current.p;
	s->current.p = other;
	return true;
}

/* A block of what is in `current`, which is empty then. NULL: out of memory. */
static struct block *block_new(struct ship *s)
{
	struct block *b = calloc(1, sizeof(*b));
	bool swap = s->current.len >= SHIP_BLOCK_TARGET;

	if (!b)
		return NULL;
	if (swap ? !block_swap(s, b) : !block_copy(b, &s->current)) {
		free(b);
		return NULL;
	}
	b->len = s->current.len;
	b->seq = s->next_seq;
	if (!swap)
		explicit_bzero(s->current.p, s->current.len);
	buf_reset(&s->current);
	return b;
}

/* Flows */

static struct flow *flow_find(const struct ship *s, uint64_t id)
{
	struct hmap_node *n = hmap_first(&s->flows, id);

	return n ? hmap_entry(n, struct flow, node) : NULL;
}

static struct flow *flow_of_ended(struct queue_node *n)
{
	return n ? queue_entry(n, struct flow, ended) : NULL;
}

static bool flow_is_known_to_peer(const struct ship *s, const struct flow *f)
{
	return f->open_seq <= s->lent_seq;
}

static void flow_unreserve(struct ship *s, struct flow *f)
{
	if (f->reserves)
		unhold(s, CLOSE_RESERVE);
	f->reserves = false;
}

static void flow_forget_open(struct ship *s, struct flow *f)
{
	unhold(s, f->open_len);
	free(f->open);
	f->open = NULL;
	f->open_len = 0;
}

static void flow_free(struct ship *s, struct flow *f)
{
	flow_unreserve(s, f);
	flow_forget_open(s, f);
	unhold(s, sizeof(*f));
	queue_remove(&f->ended);
	hmap_remove(&s->flows, &f->node);
	free(f);
}

/* A record with a copy of its encoded flow-open. NULL: out of memory. */
static struct flow *flow_new(struct ship *s, uint64_t id, struct span open)
{
	struct flow *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	f->open = malloc(open.len);
	if (!f->open || hmap_insert(&s->flows, &f->node, id)) {
		free(f->open);
		free(f);
		return NULL;
	}
	memcpy(f->open, open.p, open.len);
	f->open_len = open.len;
	f->open_seq = s->next_seq;
	f->reserves = true;
	hold(s, sizeof(*f) + open.len + CLOSE_RESERVE);
	return f;
}

/* Shedding */

/* From now on the flow's frames are unwanted; shed_frames() takes them out of the blocks. */
static void flow_shed(struct ship *s, struct flow *f)
{
	f->shed = true;
	counter_inc(&flows_shed);
	flow_forget_open(s, f);
	if (flow_is_known_to_peer(s, f)) {
		queue_push(&s->owed, &f->ended);
		return;
	}
	flow_unreserve(s, f);
	if (f->closed)
		queue_push(&s->gone, &f->ended);
}

/* Does this frame leave the queue when its flow is shed? What tells the peer of its begin and end
 * stays. */
static bool frame_leaves(const struct ship *s, const struct flow *f, const struct frame *frame)
{
	struct frame_flow_close m;

	if (frame->type == FRAME_FLOW_OPEN)
		return !flow_is_known_to_peer(s, f);
	if (frame->type == FRAME_FLOW_CLOSE)
		return frame_get_flow_close(frame, &m) || m.end != FLOW_END_SHED;
	return true;
}

/* The next frame of our own encoding; its length, or 0 at the end. */
static size_t next_frame(struct span in, size_t at, struct frame *frame)
{
	ssize_t n = at < in.len ? frame_decode(span_of(in.p + at, in.len - at), frame) : 0;

	return n > 0 ? (size_t)n : 0;
}

static void count_data(struct counter *c, const struct frame *frame)
{
	struct frame_data m;

	if (frame->type == FRAME_DATA && !frame_get_data(frame, &m))
		counter_add(c, m.bytes.len);
}

/* Move what stays to the front, cleanse the rest. Returns the new length. */
static size_t compact(struct ship *s, uint8_t *p, size_t len, struct counter *lost)
{
	size_t kept = 0, n;
	struct frame frame;

	for (size_t at = 0; (n = next_frame(span_of(p, len), at, &frame)); at += n) {
		const struct flow *f = flow_find(s, frame_flow(&frame));

		if (f && f->shed && frame_leaves(s, f, &frame)) {
			count_data(lost, &frame);
			continue;
		}
		if (kept != at)
			memmove(p + kept, p + at, n);
		kept += n;
	}
	unhold(s, len - kept);
	if (kept < len)
		explicit_bzero(p + kept, len - kept);
	return kept;
}

static void block_shrink(struct block *b, size_t len)
{
	uint8_t *p = NULL;

	if (len == b->len)
		return;
	b->len = len;
	b->is_large = false;
	if (len)
		p = realloc(b->p, len);
	else
		free(b->p);
	b->p = p || !len ? p : b->p;
}

/*
 * Take the frames of shed flows out of everything that is not sent. A sent block stays as it is:
 * the peer may have it, and what it has is not lost.
 */
static void shed_frames(struct ship *s, struct counter *lost)
{
	struct flow *f;

	for (struct block *b = s->next; b; b = block_next(s, b))
		if (b != s->lent && b->len)
			block_shrink(b, compact(s, b->p, b->len, lost));
	if (s->current.len)
		s->current.len = compact(s, s->current.p, s->current.len, lost);
	while ((f = flow_of_ended(queue_first(&s->gone))))
		flow_free(s, f);
}

/* What would shedding each flow free? Orders them by their first data. */
static void weigh(struct ship *s, struct span frames)
{
	struct frame frame;
	size_t n;

	for (size_t at = 0; (n = next_frame(frames, at, &frame)); at += n) {
		struct flow *f = flow_find(s, frame_flow(&frame));

		if (!f || f->shed)
			continue;
		if (f->pass != s->pass)
			f->queued = 0;
		f->pass = s->pass;
		if (frame_leaves(s, f, &frame))
			f->queued += n;
		if (frame.type == FRAME_DATA && !queue_is_in(&f->order))
			queue_push(&s->order, &f->order);
	}
}

/* Drop whole flows, those with the oldest queued data first, until SHED_SHARE of the bound is free.
 */
static void shed_oldest(struct ship *s)
{
	size_t freed = 0;
	struct queue_node *n;

	s->pass++;
	for (struct block *b = s->next; b; b = block_next(s, b))
		if (b != s->lent)
			weigh(s, span_of(b->p, b->len));
	weigh(s, buf_span(&s->current));
	while ((n = queue_first(&s->order))) {
		struct flow *f = queue_entry(n, struct flow, order);

		queue_remove(n);
		if (freed >= s->max_bytes / SHED_SHARE)
			continue;
		freed += f->queued + f->open_len;
		flow_shed(s, f);
	}
	shed_frames(s, &bytes_shed);
}

static bool fits(const struct ship *s, size_t need)
{
	return s->held + need + sizeof(struct block) <= s->max_bytes;
}

/* Room for `need` more bytes, by shedding if it must be. May shed the very flow that asks. */
static bool make_room(struct ship *s, size_t need)
{
	if (!fits(s, need) && !s->futile)
		shed_oldest(s);
	s->futile = !fits(s, need);
	return !s->futile;
}

/* Out of memory: the frames in `current` cannot become a block. Their flows are dropped as a whole.
 */
static void lose_current(struct ship *s)
{
	struct span frames = buf_span(&s->current);
	struct frame frame;
	size_t n;

	for (size_t at = 0; (n = next_frame(frames, at, &frame)); at += n) {
		struct flow *f = flow_find(s, frame_flow(&frame));

		if (f && !f->shed)
			flow_shed(s, f);
	}
	shed_frames(s, &bytes_lost_memory);
	if (s->current.len >= SHIP_BLOCK_TARGET) { /* nothing but closes and statistics */
		unhold(s, s->current.len);
		buf_reset(&s->current);
	}
}

/* `current` becomes the newest block. False when memory is short: its flows are gone. */
static bool seal(struct ship *s)
{
	if (!s->current.len)
		return true;
	struct block *b = block_new(s);

	if (!b) {
		lose_current(s);
		return false;
	}
	s->next_seq++;
	hold(s, sizeof(*b));
	queue_push(&s->blocks, &b->node);
	if (!s->next)
		s->next = b;
	wake(s);
	return true;
}

/* A frame was put into `current`, which was `before` bytes long. False when it was lost at once. */
static bool appended(struct ship *s, size_t before)
{
	assert(!s->current.bad); /* seal() and lose_current() leave room for any frame */
	hold(s, s->current.len - before);
	return s->current.len < SHIP_BLOCK_TARGET || seal(s);
}

/* The close frame of a flow, from the room that was reserved when it was opened. */
static bool append_close(struct ship *s, struct flow *f, uint64_t ts_ns, enum flow_end end)
{
	struct frame_flow_close m = {.flow = f->node.hash, .ts_ns = ts_ns, .end = (uint8_t)end};
	size_t before = s->current.len;

	flow_unreserve(s, f);
	frame_put_flow_close(&s->current, &m);
	return appended(s, before);
}

static bool write_owed(struct ship *s)
{
	bool ok = true;
	struct flow *f;

	while (ok && (f = flow_of_ended(queue_first(&s->owed)))) {
		bool closed = f->closed;

		queue_remove(&f->ended);
		ok = append_close(s, f, s->ts_ns, FLOW_END_SHED);
		if (closed)
			flow_free(s,
				  f); /* shed and no longer queued anywhere: nobody else frees it */
	}
	return ok;
}

/* Room for a frame of flow f, or f is shed. False: drop the frame. */
static bool flow_room(struct ship *s, struct flow *f, size_t frame_len)
{
	if (f->shed)
		return false;
	if (!make_room(s, frame_len) && !f->shed) {
		flow_shed(s, f);
		shed_frames(s, &bytes_shed);
	}
	write_owed(s);
	return !f->shed;
}

/* An open flow, or NULL. Notes the time. */
static struct flow *flow_open_find(struct ship *s, uint64_t id, uint64_t ts_ns)
{
	s->ts_ns = ts_ns;
	write_owed(s); /* may free flows: look for this one afterwards */
	struct flow *f = flow_find(s, id);

	return f && !f->closed ? f : NULL;
}

/* Producer side */

static int ship_open_fds(struct ship *s)
{
	s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return s->wake_fd < 0 ? -errno : 0;
}

int ship_new(struct ship **out, size_t max_bytes)
{
	struct ship *s = calloc(1, sizeof(*s));
	int err;

	if (!s)
		return -ENOMEM;
	pthread_mutex_init(&s->lock, NULL);
	s->max_bytes = max_bytes;
	s->next_seq = 1;
	queue_init(&s->blocks);
	queue_init(&s->closing);
	queue_init(&s->owed);
	queue_init(&s->gone);
	queue_init(&s->order);
	hmap_init(&s->flows);
	buf_init(&s->scratch, FRAME_HEADER_LEN + FRAME_BODY_MAX);
	buf_init(&s->current, CURRENT_MAX);
	err = ship_open_fds(s);
	if (err)
		goto fail;
	err = buf_reserve(&s->current, CURRENT_MAX);
	if (err)
		goto fail;
	*out = s;
	return 0;
fail:
	ship_free(s);
	return err;
}

void ship_free(struct ship *s)
{
	struct queue_node *q;
	struct hmap_node *n;

	if (!s)
		return;
	while ((n = hmap_any(&s->flows, NULL)))
		flow_free(s, hmap_entry(n, struct flow, node));
	while ((q = queue_first(&s->blocks))) {
		queue_remove(q);
		unhold(s, block_cost(block_of(q)));
		block_free(s, block_of(q));
	}
	unhold(s, s->current.len);
	assert(!s->held);
	hmap_fini(&s->flows);
	spares_free(s);
	buf_cleanse(&s->current);
	buf_fini(&s->scratch);
	if (s->wake_fd >= 0)
		close(s->wake_fd);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static void flow_open(struct ship *s, const struct frame_flow_open *m)
{
	struct flow *f;
	size_t before;

	buf_reset(&s->scratch);
	frame_put_flow_open(&s->scratch, m);
	if (s->scratch.bad || !make_room(s, sizeof(*f) + CLOSE_RESERVE + 2 * s->scratch.len)) {
		counter_inc(&flows_shed);
		return;
	}
	write_owed(s);
	f = flow_new(s, m->flow, buf_span(&s->scratch));
	if (!f) {
		counter_inc(&flows_shed);
		return;
	}
	before = s->current.len;
	wr_bytes(&s->current, s->scratch.p, s->scratch.len);
	appended(s, before);
}

void ship_flow_open(struct ship *s, const struct frame_flow_open *m)
{
	pthread_mutex_lock(&s->lock);
	s->ts_ns = m->ts_ns;
	if (!flow_find(s, m->flow))
		flow_open(s, m);
	write_owed(s);
	pthread_mutex_unlock(&s->lock);
}

/* One frame's worth. False when the flow takes no more. */
static bool put_data(struct ship *s, struct flow *f, const struct frame_data *m)
{
	size_t before;

	if (!flow_room(s, f, DATA_FRAME_FIXED + m->bytes.len))
		return false;
	before = s->current.len;
	frame_put_data(&s->current, m);
	appended(s, before);
	return true;
}

static void data(struct ship *s, struct flow *f, const struct frame_data *m)
{
	struct span left = m->bytes;
	struct frame_data part = *m;

	while (left.len) {
		size_t n = left.len < FRAME_DATA_MAX ? left.len : FRAME_DATA_MAX;

		part.bytes = span_of(left.p, n);
		part.flags = n == left.len ? m->flags : 0;
		if (!put_data(s, f, &part))
			break;
		part.offset += n;
		left = span_of(left.p + n, left.len - n);
	}
	counter_add(&bytes_shed, left.len);
}

void ship_data(struct ship *s, const struct frame_data *m)
{
	pthread_mutex_lock(&s->lock);
	struct flow *f = flow_open_find(s, m->flow, m->ts_ns);

	if (f)
		data(s, f, m);
	else
		counter_add(&bytes_no_flow, m->bytes.len);
	write_owed(s);
	pthread_mutex_unlock(&s->lock);
}

void ship_gap(struct ship *s, const struct frame_gap *m)
{
	pthread_mutex_lock(&s->lock);
	struct flow *f = flow_open_find(s, m->flow, m->ts_ns);

	if (f && flow_room(s, f, GAP_FRAME_LEN)) {
		size_t before = s->current.len;

		frame_put_gap(&s->current, m);
		appended(s, before);
	}
	write_owed(s);
	pthread_mutex_unlock(&s->lock);
}

void ship_flow_fin(struct ship *s, const struct frame_flow_fin *m)
{
	pthread_mutex_lock(&s->lock);
	struct flow *f = flow_open_find(s, m->flow, m->ts_ns);

	if (f && flow_room(s, f, FIN_FRAME_LEN)) {
		size_t before = s->current.len;

		frame_put_flow_fin(&s->current, m);
		appended(s, before);
	}
	write_owed(s);
	pthread_mutex_unlock(&s->lock);
}

static void flow_close(struct ship *s, struct flow *f, const struct frame_flow_close *m)
{
	f->closed = true;
	if (!f->shed) {
		f->close_seq = s->next_seq;
		queue_push(&s->closing, &f->ended);
		append_close(s, f, m->ts_ns, (enum flow_end)m->end); /* may shed and free f */
	} else if (!queue_is_in(&f->ended)) {
		flow_free(s, f); /* the peer was told of the shedding, or never of the flow */
	}
}

void ship_flow_close(struct ship *s, const struct frame_flow_close *m)
{
	pthread_mutex_lock(&s->lock);
	struct flow *f = flow_open_find(s, m->flow, m->ts_ns);

	if (f)
		flow_close(s, f, m);
	write_owed(s);
	pthread_mutex_unlock(&s->lock);
}

void ship_stats(struct ship *s, const struct frame_stats *m)
{
	pthread_mutex_lock(&s->lock);
	/* No flow is shed for a statistic: a later one repeats it. */
	if (fits(s, FRAME_HEADER_LEN + 1 + FRAME_TEXT_MAX + 8)) {
		size_t before = s->current.len;

		frame_put_stats(&s->current, m);
		appended(s, before);
	}
	pthread_mutex_unlock(&s->lock);
}

void ship_flush(struct ship *s)
{
	pthread_mutex_lock(&s->lock);
	write_owed(s);
	seal(s);
	pthread_mutex_unlock(&s->lock);
}

void ship_tidy(struct ship *s)
{
	pthread_mutex_lock(&s->lock);
	spares_cleanse(s);
	pthread_mutex_unlock(&s->lock);
}

bool ship_is_crowded(struct ship *s)
{
	pthread_mutex_lock(&s->lock);
	bool crowded = s->held > s->max_bytes / 4 * 3;

	pthread_mutex_unlock(&s->lock);
	return crowded;
}

bool ship_is_empty(struct ship *s)
{
	pthread_mutex_lock(&s->lock);
	bool empty = !queue_first(&s->blocks) && !s->current.len && !queue_first(&s->owed);

	pthread_mutex_unlock(&s->lock);
	return empty;
}

/* Uplink side */

int ship_wake_fd(const struct ship *s)
{
	return s->wake_fd;
}

bool ship_take(struct ship *s, struct ship_block *out)
{
	pthread_mutex_lock(&s->lock);
	struct block *b = s->lent ? NULL : s->next;

	if (b) {
		s->lent = b;
		if (b->seq > s->lent_seq)
			s->lent_seq = b->seq;
		*out = (struct ship_block){.seq = b->seq,
					   .frames = span_of(b->p, b->len),
					   .behind = s->next_seq - 1 - b->seq};
	} else {
		unwake(s);
	}
	pthread_mutex_unlock(&s->lock);
	return b;
}

/* Forget what is acknowledged: blocks, and the flows whose close was in them. */
static void release(struct ship *s)
{
	struct block *b;
	struct flow *f;

	while ((b = block_first(s)) && b != s->lent && b->seq <= s->acked_seq) {
		if (b == s->next)
			s->next = block_next(s, b);
		queue_remove(&b->node);
		unhold(s, block_cost(b));
		block_free(s, b);
	}
	while ((f = flow_of_ended(queue_first(&s->closing))) && f->close_seq <= s->acked_seq)
		flow_free(s, f);
	s->futile = false;
}

void ship_return(struct ship *s, bool sent)
{
	pthread_mutex_lock(&s->lock);
	struct block *b = s->lent;

	s->lent = NULL;
	if (b && sent) {
		s->next = block_next(s, b);
		if (b->seq <= s->sent_seq)
			counter_inc(&blocks_resent);
		else
			s->sent_seq = b->seq;
	}
	release(s);
	if (s->next)
		wake(s);
	pthread_mutex_unlock(&s->lock);
}

/* What was never lent cannot be acknowledged, whatever the peer says. */
static void note_ack(struct ship *s, uint64_t seq)
{
	if (seq > s->lent_seq)
		seq = s->lent_seq;
	if (seq > s->acked_seq)
		s->acked_seq = seq;
	release(s);
}

void ship_ack(struct ship *s, uint64_t seq)
{
	pthread_mutex_lock(&s->lock);
	note_ack(s, seq);
	pthread_mutex_unlock(&s->lock);
}

uint64_t ship_first_seq(struct ship *s)
{
	pthread_mutex_lock(&s->lock);
	const struct block *b = block_first(s);
	uint64_t seq = b ? b->seq : s->next_seq;

	pthread_mutex_unlock(&s->lock);
	return seq;
}

static int retell(const struct flow *f, struct buf *reopen)
{
	struct frame frame;
	struct frame_flow_open m;
	int err = buf_reserve(reopen, f->open_len);

	if (err)
		return err;
	if (frame_decode(span_of(f->open, f->open_len), &frame) <= 0 ||
	    frame_get_flow_open(&frame, &m))
		return 0; /* cannot be: we encoded it */
	m.flags |= FLOW_OPEN_RESUMED;
	frame_put_flow_open(reopen, &m);
	return 0;
}

/* Flows whose flow-open is still in a block to come are told there, in their place in the order. */
static int retell_all(const struct ship *s, struct buf *reopen)
{
	int err = 0;

	for (struct hmap_node *n = hmap_any(&s->flows, NULL); n && !err;
	     n = hmap_any(&s->flows, n)) {
		const struct flow *f = hmap_entry(n, struct flow, node);

		if (!f->shed && f->open_seq <= s->acked_seq)
			err = retell(f, reopen);
	}
	return err;
}

int ship_rewind(struct ship *s, uint64_t resume_seq, bool new_collector, struct buf *reopen)
{
	int err = 0;

	pthread_mutex_lock(&s->lock);
	/* A collector that forgot what it has acknowledged has forgotten the flows too. */
	bool forgot = new_collector || resume_seq < s->acked_seq;

	s->lent = NULL;
	note_ack(s, resume_seq);
	s->next = block_first(s);
	if (s->next)
		wake(s);
	if (forgot)
		err = retell_all(s, reopen);
	pthread_mutex_unlock(&s->lock);
	return err;
}
