/* SPDX-License-Identifier: Apache-2.0 */
/*
 * calls: what returned TLS calls moved → records. Keeps for each TLS object how far it has come and
 * which descriptor it uses. A TLS object is used by one thread at a time; objects of different
 * threads share nothing but the table, whose places are taken and left atomically.
 */
#include "preload.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define PLACES  8u /* of objects whose addresses have the same hash */
#define BUCKETS 8192u

/* struct object.flags */
#define OBJ_BOUND        1u    /* fd is valid */
#define OBJ_LOOSE        2u    /* one of its calls ended without a socket: memory BIOs? */
#define OBJ_EARLY_SENT   4u    /* 0-RTT data were written, their acceptance was not told yet */
#define OBJ_EARLY_SERVER 8u    /* reads them */
#define OBJ_CARRIES      16u   /* calls of another object contain its calls, on the same socket */
#define OBJ_CONTAINS     32u   /* the reverse */
#define OBJ_DIRECT       64u   /* was bound by an operation in no other object's call */
#define OBJ_MATCHED      128u  /* was bound by its records: it has no socket of its own */
#define OBJ_SHORT        256u  /* its last bytes in were lost; twice that: out */
#define OBJ_LONG         1024u /* of a long write some was told, and it has not ended: longs[] */

struct object {
	uint64_t ssl; /* 0: free */
	uint32_t life;
	uint32_t gen; /* the agent's, when it was last told of fd */
	uint64_t pos[2];
	int fd;
	uint32_t fd_gen;
	uint32_t flags;
	uint32_t tried;     /* records whose descriptor was looked for */
	uint32_t missed[2]; /* of pos: moved while there was no ring, and not told as such yet */
	_Atomic uint64_t found; /* where its records went, by whichever thread: see found_of() */
};
_Static_assert(sizeof(struct object) == 64, "one line of the cache");

__thread struct thread shim_thread __attribute__((tls_model("initial-exec")));

static struct object (*objects)[PLACES];
static uint32_t lives;

/* Place of the object that was last bound to each descriptor. */
static uint16_t last_bound[SSLC_SHIM_FDS];
_Static_assert(PLACES *BUCKETS == 1u << 16, "last_bound[] names each place");

int calls_init(void)
{
	void *p = mmap(NULL, BUCKETS * sizeof(*objects), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return -errno;
	objects = p;
	return 0;
}

static struct object *bucket_of(uint64_t ssl)
{
	return objects[(ssl >> 4) * 0x9e3779b97f4a7c15ull >> 51];
}
_Static_assert(BUCKETS == 1u << (64 - 51), "bucket_of() shifts");

static COLD struct object *look_for(uint64_t ssl)
{
	struct object *b = ssl && objects ? bucket_of(ssl) : NULL;

	for (unsigned i = 0; b && i < PLACES; i++)
		if (__atomic_load_n(&b[i].ssl, __ATOMIC_ACQUIRE) == ssl)
			return shim_thread.last = &b[i];
	return NULL;
}

/* 0, a pointer that leads nowhere, is no object, though free places have that number. */
static struct object *find(uint64_t ssl)
{
	struct object *o = shim_thread.last;

	if (LIKELY(o && __atomic_load_n(&o->ssl, __ATOMIC_ACQUIRE) == ssl && ssl))
		return o;
	return look_for(ssl);
}

static struct object *get(uint64_t ssl)
{
	struct object *b = ssl && objects ? bucket_of(ssl) : NULL, *o = find(ssl);

	for (unsigned i = 0; b && !o && i < PLACES; i++) {
		uint64_t none = 0;

		if (!__atomic_compare_exchange_n(&b[i].ssl, &none, ssl, false, __ATOMIC_ACQ_REL,
						 __ATOMIC_RELAXED))
			continue;
		o = &b[i];
		o->life = __atomic_add_fetch(&lives, 1, __ATOMIC_RELAXED);
	}
	return o;
}

static struct sslc_shim_rec record_of(const struct object *o, enum sslc_shim_type type,
				      uint64_t ts_ns)
{
	return (struct sslc_shim_rec){
		.type = (uint16_t)type, .ts_ns = ts_ns, .obj = o->ssl, .life = o->life};
}

/* Of those that go out the peer may have bytes before they return. */
static enum sslc_dir direction(enum sslc_call kind)
{
	switch (kind) {
	case SSLC_CALL_WRITE:
	case SSLC_CALL_WRITE_EX:
	case SSLC_CALL_WRITE_EX2:
	case SSLC_CALL_SEND:
	case SSLC_CALL_SENDFILE:
	case SSLC_CALL_SEND_FILE:
	case SSLC_CALL_EARLY_WRITE:
		return SSLC_DIR_OUT;
	default:
		return SSLC_DIR_IN;
	}
}

/* Here the calls for 0-RTT data tell their bytes themselves: what they call inside the library may
 * not come by. */
static bool moves(enum sslc_call kind)
{
	return sslc_call_moves(kind) || kind == SSLC_CALL_EARLY_READ ||
	       kind == SSLC_CALL_EARLY_WRITE;
}

/* --- which descriptor ---------------------------------------------------------------------------
 */

static uint32_t generation_of(int fd)
{
	return __atomic_load_n(&shim_gen[sock_slot(fd)], __ATOMIC_ACQUIRE);
}

static void tell_bind(struct object *o, uint32_t gen, uint64_t ts_ns, bool is_late)
{
	struct sslc_shim_rec rec = record_of(o, SSLC_SHIM_BIND, ts_ns);

	rec.flags = is_late ? SSLC_SHIM_LATE : 0;
	if (o->fd < (int)SSLC_SHIM_FDS && UNLIKELY(shim_clear[o->fd]))
		rec.flags |= clear_tell(o->fd, o->ssl, o->life) ? 0 : SSLC_SHIM_CUT;
	rec.fd = o->fd;
	rec.fd_gen = o->fd_gen;
	rec.pos = o->pos[SSLC_DIR_IN] - o->missed[SSLC_DIR_IN];
	rec.pos2 = o->pos[SSLC_DIR_OUT] - o->missed[SSLC_DIR_OUT];
	o->missed[SSLC_DIR_IN] = o->missed[SSLC_DIR_OUT] = 0;
	last_bound[sock_slot(o->fd)] = (uint16_t)(o - objects[0]);
	o->gen = gen;
	shim_bound[sock_slot(o->fd)] |= SOCK_BOUND;
	ring_bound(o->fd);
	(void)ring_put(&rec);
	ring_wake();
}

/* The first bytes of a TLS record (RFC 8446, 5.1; content types 20 to 23, versions 3.0 to 3.4). */
static bool is_record(const uint8_t *p, size_t len)
{
	return len >= 3 && p[0] >= 20 && p[0] <= 23 && p[1] == 3 && p[2] <= 4;
}

/* ClientHello or ServerHello: TLS begins here. p: a record, perhaps its header only. */
static bool is_hello(const uint8_t *p, size_t len)
{
	return p[0] == 22 && (len < 6 || p[5] == 1 || p[5] == 2);
}

/* An object that did without a socket so far: its callbacks may use others', and only an operation
 * that goes the way of the call is its own. */
static bool is_stranger(const struct object *o, const struct call *c, enum sslc_dir dir)
{
	return o->flags & OBJ_LOOSE && !(o->flags & OBJ_BOUND) &&
	       (!moves(c->kind) || direction(c->kind) != dir);
}

/* Of calls that contain each other the innermost uses the socket; for the others it is theirs only
 * when they have none of their own. Else a signal's handler has interrupted them. */
static bool is_interrupted(const struct object *o, const struct call *c, const struct call *inner)
{
	return c->ssl != inner->ssl && o->flags & OBJ_BOUND && o->flags & OBJ_DIRECT;
}

/* It has no socket: those that are used inside its calls are others'. */
static bool is_matched(const struct object *o)
{
	return o->flags & OBJ_MATCHED && generation_of(o->fd) == o->fd_gen;
}

static void bind_object(const struct call *c, const struct call *inner, int fd, enum sslc_dir dir,
			const uint8_t *p, size_t len, uint32_t gen, uint64_t ts_ns)
{
	struct object *o = get(c->ssl);
	uint32_t fd_gen = generation_of(fd);

	if (!o || is_matched(o) || is_stranger(o, c, dir) || is_interrupted(o, c, inner))
		return;
	if (o->flags & OBJ_BOUND && o->fd == fd && o->fd_gen == fd_gen && o->gen == gen)
		return;
	/* One that is bound elsewhere or nowhere is bound where a record begins: every flight
	 * begins with one. Not every socket that is used inside a TLS call carries it. */
	if (!is_record(p, len))
		return;
	o->fd = fd;
	o->fd_gen = fd_gen;
	o->flags |= OBJ_BOUND | (c->ssl == inner->ssl ? OBJ_DIRECT : 0);
	tell_bind(o, gen, ts_ns, !is_hello(p, len));
}

/* So it is with nearly all: nothing to tell, and no need to know what time it is. */
static bool is_as_told(const struct object *o, int fd)
{
	const struct sslc_shim_ring *r = shim_own->ring;

	return o && r && o->flags & OBJ_BOUND && o->fd == fd && o->fd_gen == generation_of(fd) &&
	       o->gen == __atomic_load_n(&r->gen, __ATOMIC_RELAXED);
}

void call_used_socket(int fd, enum sslc_dir dir, const void *p, size_t len)
{
	const struct thread *t = &shim_thread;
	uint64_t now_ns;
	uint32_t gen;

	if (t->depth == 1 && LIKELY(is_as_told(find(t->v[0].ssl), fd)))
		return;
	gen = ring_watched(&now_ns);
	if (!gen)
		return;
	for (uint32_t i = t->depth; i--;)
		bind_object(&t->v[i], &t->v[t->depth - 1], fd, dir, p, len, gen, now_ns);
}

/* --- objects without a socket -------------------------------------------------------------------
 */

/*
 * The object is used by one thread, and what it has written is sent by another, perhaps: that one
 * leaves word where. The lower bits of the descriptor's generation and of the object's life show
 * that both are the same still.
 */
#define FOUND_BITS   20
#define FOUND_INSIDE (1ull << 63) /* inside another object, on that one's descriptor */
#define FOUND_LATE   (1ull << 62) /* by a record in the midst of the connection */
#define FOUND_FD_MAX (1 << 22)

static uint64_t found_of(int fd, uint32_t fd_gen, uint32_t life)
{
	const uint64_t mask = (1u << FOUND_BITS) - 1;

	return (uint64_t)fd << 2 * FOUND_BITS | (fd_gen & mask) << FOUND_BITS | (life & mask);
}

static void bind_matched(struct object *o, int fd, uint32_t fd_gen, uint32_t gen, uint64_t ts_ns,
			 bool is_late)
{
	o->fd = fd;
	o->fd_gen = fd_gen;
	o->flags |= OBJ_BOUND | OBJ_DIRECT | OBJ_MATCHED;
	tell_bind(o, gen, ts_ns, is_late);
}

/* On the object's own thread. */
static void bind_found(struct object *o, uint32_t gen, uint64_t ts_ns)
{
	uint64_t v = atomic_load_explicit(&o->found, memory_order_acquire);
	int fd = (int)(v >> 2 * FOUND_BITS & (FOUND_FD_MAX - 1));
	uint32_t fd_gen = generation_of(fd);

	atomic_store_explicit(&o->found, 0, memory_order_relaxed);
	if (o->flags & OBJ_BOUND ||
	    (v & ~(FOUND_INSIDE | FOUND_LATE)) != found_of(fd, fd_gen, o->life))
		return;
	if (v & FOUND_INSIDE)
		o->flags |= OBJ_CONTAINS;
	bind_matched(o, fd, fd_gen, gen, ts_ns, v & FOUND_LATE);
}

/* Of objects whose first records have met no descriptor only some are looked at from then on:
 * perhaps they never use one. */
#define TRIES  64u
#define RARELY 8u

static bool is_tried(struct object *o)
{
	return o && (++o->tried < TRIES || !(o->tried % RARELY));
}

static void wrote(const struct call *c, const uint8_t *p, uint64_t n)
{
	struct object *o;
	uint64_t print;

	if (n < 5 || !is_record(p, n))
		return;
	o = get(c->ssl);
	if (is_tried(o) && match_print(p, p + 5, n - 5, &print))
		match_put_written(print, o->ssl, o->life);
}

/* libssl asks for a record's header, and then for its body. */
static void took(const struct call *c, const uint8_t *p, uint64_t n)
{
	struct thread *t = &shim_thread;
	const uint8_t *header = p;
	uint64_t print, now_ns, of = t->header_of;
	struct object *o = get(c->ssl);
	uint32_t fd_gen, gen;
	int fd;

	t->header_of = 0;
	if (of == c->ssl) {
		header = t->header;
	} else if (n == 5 && is_record(p, n)) {
		if (!is_tried(o))
			return;
		memcpy(t->header, p, 5);
		t->header_of = c->ssl;
		return;
	} else if (n < 5 || !is_record(p, n)) {
		return;
	} else {
		p += 5;
		n -= 5;
	}
	if (!o || !match_print(header, p, n, &print) || !match_take_received(print, &fd, &fd_gen) ||
	    generation_of(fd) != fd_gen)
		return;
	gen = ring_watched(&now_ns);
	if (gen)
		bind_matched(o, fd, fd_gen, gen, now_ns, header[0] != 22);
}

/* The object has written what now goes through this descriptor. */
static void leave_word(uint64_t ssl, uint32_t life, int fd, uint32_t fd_gen, uint64_t flags)
{
	struct object *o = find(ssl);

	if (o && o->life == life && fd < FOUND_FD_MAX)
		atomic_store_explicit(&o->found, found_of(fd, fd_gen, life) | flags,
				      memory_order_release);
}

void call_met(int fd, enum sslc_dir dir, const uint8_t *p, size_t n)
{
	uint64_t print, ssl, now_ns;
	uint32_t life;

	if (LIKELY(n < 5 || !is_record(p, n)) || !ring_watched(&now_ns) ||
	    !match_print(p, p + 5, n - 5, &print))
		return;
	if (dir == SSLC_DIR_IN)
		match_put_received(print, fd, generation_of(fd));
	else if (match_take_written(print, &ssl, &life))
		leave_word(ssl, life, fd, generation_of(fd), is_hello(p, n) ? 0 : FOUND_LATE);
}

/* What one object sends as plaintext may be another one's record: TLS inside TLS. */
static void meet_inside(struct object *o, const uint8_t *p, uint64_t n)
{
	uint64_t print, ssl;
	uint32_t life;

	if (LIKELY(n < 5 || !is_record(p, n)) || !(o->flags & OBJ_BOUND) ||
	    !match_print(p, p + 5, n - 5, &print) || !match_take_written(print, &ssl, &life) ||
	    ssl == o->ssl)
		return;
	o->flags |= OBJ_CARRIES;
	leave_word(ssl, life, o->fd, o->fd_gen, FOUND_INSIDE);
}

/* Another agent, or another process: a child that goes on with its parent's. */
static void bind_again(struct object *o, uint32_t gen, uint64_t ts_ns)
{
	if (generation_of(o->fd) == o->fd_gen)
		tell_bind(o, gen, ts_ns, true);
	else
		o->flags &= ~OBJ_BOUND;
}

/* --- which call ---------------------------------------------------------------------------------
 */

/*
 * Whether a call answers for the bytes of those inside it that work on the same object. Those that
 * go the other way are a program's own, made in a callback.
 */
static bool covers(enum sslc_call kind, enum sslc_dir dir)
{
	if (kind == SSLC_CALL_SEND_FILE)
		return false;
	if (kind == SSLC_CALL_UNCORK)
		return true;
	return moves(kind) && direction(kind) == dir;
}

static bool share_socket(const struct object *a, const struct object *b)
{
	return a->flags & b->flags & OBJ_BOUND && a->fd == b->fd && a->fd_gen == b->fd_gen;
}

/*
 * Whether a call's bytes are not to be told. One TLS connection may run inside another, on the same
 * socket: calls on the inner one's object contain calls on the outer one's, which carry the inner
 * one's records. One of them is told.
 */
static bool is_told_elsewhere(struct object *o, enum sslc_dir dir, const struct call *by)
{
	uint32_t wanted = shim_own->ring->flags;
	struct object *around;

	if (by && by->ssl != o->ssl) {
		around = find(by->ssl);
		if (around && share_socket(around, o)) {
			around->flags |= OBJ_CONTAINS;
			o->flags |= OBJ_CARRIES;
		}
	} else if (by && covers(by->kind, dir)) {
		return true;
	}
	return o->flags & (wanted & SSLC_SHIM_OUTER ? OBJ_CONTAINS : OBJ_CARRIES);
}

static bool is_skipped(const struct object *o)
{
	return o->flags & OBJ_BOUND &&
	       __atomic_load_n(&shim_own->ring->fd_skip[sock_slot(o->fd)], __ATOMIC_RELAXED) ==
		       sslc_shim_skip(o->fd_gen, o->gen);
}

static uint8_t early_flag(struct object *o, enum sslc_call kind)
{
	if (kind != SSLC_CALL_EARLY_WRITE || o->flags & OBJ_EARLY_SERVER)
		return 0;
	o->flags |= OBJ_EARLY_SENT;
	return SSLC_SHIM_0RTT;
}

static void tell(struct object *o, enum sslc_call kind, const void *buf, uint64_t n, uint64_t ts_ns,
		 bool is_end)
{
	enum sslc_dir dir = direction(kind);
	bool is_gap = kind == SSLC_CALL_SENDFILE || kind == SSLC_CALL_SEND_FILE;
	struct sslc_shim_rec rec =
		record_of(o, is_gap ? SSLC_SHIM_GAP : SSLC_SHIM_DATA_BYTES, ts_ns);

	rec.dir = (uint8_t)dir;
	rec.flags = early_flag(o, kind) | (is_end ? 0 : SSLC_SHIM_PART);
	rec.pos = o->pos[dir];
	o->pos[dir] += n;
	if (is_skipped(o))
		return;
	if (is_gap)
		rec.pos2 = n;
	if (is_gap ? ring_put(&rec) : ring_put_bytes(&rec, buf, n))
		o->flags &= ~(OBJ_SHORT << dir);
	else
		o->flags |= OBJ_SHORT << dir;
}

static struct sslc_shim_rec record_of_reached(const struct object *o, enum sslc_shim_type type,
					      uint64_t ts_ns)
{
	struct sslc_shim_rec rec = record_of(o, type, ts_ns);

	rec.pos = o->pos[SSLC_DIR_IN];
	rec.pos2 = o->pos[SSLC_DIR_OUT];
	return rec;
}

bool call_closes(int fd)
{
	uint16_t at = last_bound[sock_slot(fd)];
	const struct object *o = objects ? &objects[at / PLACES][at % PLACES] : NULL;
	struct sslc_shim_rec rec;
	uint64_t now_ns;

	if (!o || !(o->flags & (OBJ_SHORT | OBJ_SHORT << 1)) || !o->ssl ||
	    !(o->flags & OBJ_BOUND) || o->fd != fd || o->fd_gen != generation_of(fd) ||
	    ring_taken(&now_ns) != o->gen)
		return true;
	rec = record_of_reached(o, SSLC_SHIM_REACHED, now_ns);
	return ring_put(&rec);
}

/* --- long calls ---------------------------------------------------------------------------------
 */

/*
 * A write of many megabytes does not fit into the ring at once, but the agent reads while the call
 * lasts: what a record has carried is told when the record has been written. How much that was is
 * in the record's length, but for what TLS adds, so a little less is taken; the rest is told when
 * the call returns. One that was interrupted is called again, with the same bytes.
 */
#define OVERHEAD 96u /* at most: IV, MAC and padding of TLS 1.2 in CBC mode */
#define LONGS    64u /* at once; others are told when they have returned */

static struct long_write {
	_Atomic uint64_t ssl; /* 0: free */
	uint64_t told, sent;  /* bytes; more may have left in records than were told */
	uint64_t left;        /* of the record that is being written, those still to come */
} longs[LONGS];

static struct long_write *find_long(const struct object *o)
{
	for (unsigned i = 0; i < LONGS; i++)
		if (atomic_load_explicit(&longs[i].ssl, memory_order_relaxed) == o->ssl)
			return &longs[i];
	return NULL;
}

/* NULL: there is no place. */
static struct long_write *begin_long(struct object *o)
{
	struct long_write *w = o->flags & OBJ_LONG ? find_long(o) : NULL;

	for (unsigned i = 0; !w && i < LONGS; i++) {
		uint64_t none = 0;

		if (!atomic_compare_exchange_strong(&longs[i].ssl, &none, o->ssl))
			continue;
		w = &longs[i];
		w->told = w->sent = w->left = 0;
		o->flags |= OBJ_LONG;
	}
	return w;
}

static void end_long(struct object *o, struct long_write *w)
{
	o->flags &= ~OBJ_LONG;
	if (w)
		atomic_store_explicit(&w->ssl, 0, memory_order_release);
}

void call_is_long(int at, const void *buf, uint64_t len)
{
	struct call *c = &shim_thread.v[0];
	struct object *o;

	if (at || !shim_own->ring)
		return;
	o = find(c->ssl);
	if (!o || !(o->flags & OBJ_BOUND) || o->flags & (OBJ_CARRIES | OBJ_CONTAINS))
		return;
	c->wrote = begin_long(o);
	if (!c->wrote)
		return;
	c->buf = buf;
	c->len = len;
	shim_thread.quick = 0;
}

/* What is told of it is known to have left, and fits into the ring; the rest waits. */
static void tell_part(struct call *c, struct object *o)
{
	struct long_write *w = c->wrote;
	uint64_t now_ns, n;
	uint32_t gen;

	if (w->sent > c->len) /* one that was interrupted may have been longer */
		w->sent = c->len > w->told ? c->len : w->told;
	if (w->sent <= w->told || !ring_has_room())
		return;
	gen = ring_watched(&now_ns);
	if (!gen || o->gen != gen) {
		c->len = 0;
		return;
	}
	n = w->sent - w->told;
	if (n > shim_own->size / 8)
		n = shim_own->size / 8;
	tell(o, c->kind, c->buf + w->told, n, now_ns, false);
	w->told += n;
}

/* Bytes of the object's records went out, inside the call. */
static void write_goes_on(struct call *c, struct object *o, const uint8_t *p, uint64_t n)
{
	struct long_write *w = c->wrote;
	uint64_t carried, now;

	while (n && c->len) {
		now = w->left < n ? w->left : n;
		w->left -= now;
		p += now;
		n -= now;
		if (!n)
			break;
		if (n < 5 || !is_record(p, n)) {
			c->len = 0; /* cannot be followed */
			return;
		}
		carried = (uint64_t)p[3] << 8 | p[4];
		w->left = 5 + carried;
		if (p[0] == 23 && carried > OVERHEAD)
			w->sent += carried - OVERHEAD;
	}
	if (c->len)
		tell_part(c, o);
}

/* It has returned, or a shorter one that goes on with it: so many of these n bytes were told
 * already. More than it says to have moved: they have left, and the next call will say so. */
static uint64_t told_before(int at, struct object *o, enum sslc_call kind, uint64_t n)
{
	struct long_write *w;
	uint64_t told;

	if (LIKELY(at || !(o->flags & OBJ_LONG)) || direction(kind) != SSLC_DIR_OUT)
		return 0;
	w = find_long(o);
	told = w ? w->told : 0;
	if (told <= n) {
		end_long(o, w);
		return told;
	}
	w->told -= n;
	w->sent -= n;
	return n;
}

void call_passed(enum sslc_dir dir, const uint8_t *p, uint64_t n)
{
	struct call *c = &shim_thread.v[shim_thread.depth - 1];
	struct object *o;

	if (!__atomic_load_n(&shim_own->ring->gen, __ATOMIC_RELAXED))
		return;
	o = find(c->ssl);
	if (LIKELY(o && o->flags & OBJ_BOUND)) {
		if (UNLIKELY(c->wrote) && dir == SSLC_DIR_OUT)
			write_goes_on(c, o, p, n);
		return;
	}
	if (dir == SSLC_DIR_OUT)
		wrote(c, p, n);
	else
		took(c, p, n);
}

/* The outermost call on this thread, when `at` is inside it. */
static struct call *around(int at)
{
	return at ? &shim_thread.v[0] : NULL;
}

static void be_loose(struct object *o)
{
	o->flags |= OBJ_LOOSE;
	if (UNLIKELY(!atomic_load_explicit(&shim_has_loose, memory_order_relaxed)))
		atomic_store_explicit(&shim_has_loose, true, memory_order_relaxed);
}

/* So many bytes of it are told by no record, which the next one shows. is_bound: as was told to the
 * agent that will take that; else the next BIND says from where on. */
static void miss(struct object *o, enum sslc_dir dir, uint64_t n, bool is_bound)
{
	uint32_t *missed = &o->missed[dir];

	o->pos[dir] += n;
	o->flags |= OBJ_SHORT << dir;
	if (!is_bound)
		*missed = n > UINT32_MAX - *missed ? UINT32_MAX : *missed + (uint32_t)n;
}

/* The agent gives no sign of life. It may be gone, or be stopped and go on: what it knows of has a
 * hole then. */
static COLD void call_unheard(int at, uint64_t ssl, enum sslc_call kind, uint64_t n)
{
	uint32_t gen = __atomic_load_n(&shim_own->ring->gen, __ATOMIC_RELAXED);
	struct object *o = gen ? find(ssl) : NULL;
	bool is_bound = o && o->flags & OBJ_BOUND;

	if (!o || (is_bound && o->gen != gen) || is_told_elsewhere(o, direction(kind), around(at)))
		return;
	n -= told_before(at, o, kind, n);
	miss(o, direction(kind), n, is_bound);
	if (!is_skipped(o))
		ring_count(SSLC_SHIM_LOST_FULL, n);
}

void call_moved(int at, uint64_t ssl, enum sslc_call kind, const void *buf, uint64_t n)
{
	struct call *by = around(at);
	int saved = errno;
	uint64_t now_ns, before;
	uint32_t gen = ring_watched(&now_ns);
	struct object *o = gen ? get(ssl) : NULL;

	if (!gen) {
		call_unheard(at, ssl, kind, n);
		return;
	}
	if (!o) {
		ring_count(SSLC_SHIM_LOST_OBJECTS, n);
		return;
	}
	if (UNLIKELY(atomic_load_explicit(&o->found, memory_order_relaxed)))
		bind_found(o, gen, now_ns);
	if (o->flags & OBJ_BOUND && o->gen != gen)
		bind_again(o, gen, now_ns);
	if (!at && !(o->flags & OBJ_BOUND))
		be_loose(o);
	if (direction(kind) == SSLC_DIR_OUT && buf &&
	    atomic_load_explicit(&shim_has_loose, memory_order_relaxed))
		meet_inside(o, buf, n);
	if (!is_told_elsewhere(o, direction(kind), by)) {
		if (by && by->ssl == ssl && by->kind == SSLC_CALL_SEND_FILE)
			by->told += n;
		before = told_before(at, o, kind, n);
		if (n > before)
			tell(o, kind, buf ? (const uint8_t *)buf + before : NULL, n - before,
			     now_ns, true);
	}
	errno = saved;
}

/* Of connections that the parent had: of those that begin now nothing is known yet. */
static void call_missed(int at, uint64_t ssl, enum sslc_call kind, uint64_t n)
{
	struct call *by = around(at);
	struct object *o = find(ssl);

	if (by && by->ssl == ssl && covers(by->kind, direction(kind)))
		return;
	__atomic_fetch_add(&shim_own->missed, n, __ATOMIC_RELAXED);
	if (o)
		miss(o, direction(kind), n, false);
}

static void call_moved_nothing(uint64_t ssl)
{
	struct object *o = find(ssl);
	uint64_t now_ns;
	uint32_t gen;

	if (o && UNLIKELY(shim_thread.v[0].wrote && !shim_thread.v[0].wrote->sent))
		end_long(o, shim_thread.v[0].wrote);
	if (!o || LIKELY(o->flags & OBJ_BOUND))
		return;
	be_loose(o);
	if (atomic_load_explicit(&o->found, memory_order_relaxed)) {
		gen = ring_watched(&now_ns);
		if (gen)
			bind_found(o, gen, now_ns);
	}
}

/* --- each call ----------------------------------------------------------------------------------
 */

static void set_writing(struct sslc_shim_ring *r, const struct thread *t, uint64_t ssl)
{
	__atomic_store_n(&r->writing[sslc_shim_writer(t->number)], ssl, __ATOMIC_RELAXED);
}

/* A signal's handler may come in between, with calls of its own: it finds this one's frame. */
static int enter(struct thread *t, uint64_t ssl, enum sslc_call kind, uintptr_t sp)
{
	uint32_t at = t->depth;
	struct call *c = &t->v[at];

	c->sp = sp;
	atomic_signal_fence(memory_order_seq_cst);
	t->depth = at + 1;
	atomic_signal_fence(memory_order_seq_cst);
	c->sp = sp;
	c->ssl = ssl;
	c->kind = kind;
	c->told = 0;
	c->wrote = NULL;
	return (int)at;
}

static COLD int begin_slowly(uint64_t ssl, enum sslc_call kind, uintptr_t sp)
{
	struct thread *t = &shim_thread;
	int at;

	t->quick = 0;
	if (!shim_own->ring)
		ring_set_up_late();
	while (t->depth && t->v[t->depth - 1].sp <= sp) /* left by longjmp() */
		t->depth--;
	if (t->depth >= CALL_DEPTH) {
		ring_count(SSLC_SHIM_LOST_DEEP, 1);
		return CALL_DEPTH;
	}
	at = enter(t, ssl, kind, sp);
	if (!at && direction(kind) == SSLC_DIR_OUT && shim_own->ring) {
		ring_number_thread();
		set_writing(shim_own->ring, t, ssl);
	}
	return at;
}

/* 0-RTT data are told in another way. */
static bool is_early(enum sslc_call kind)
{
	return kind == SSLC_CALL_EARLY_READ || kind == SSLC_CALL_EARLY_WRITE;
}

/* Bound, and nothing else that counts when plaintext is told. */
static bool is_plain(const struct object *o)
{
	const uint32_t ignored =
		OBJ_DIRECT | OBJ_LOOSE | OBJ_MATCHED | OBJ_EARLY_SENT | OBJ_EARLY_SERVER;

	return (o->flags & ~ignored) == OBJ_BOUND;
}

HOT int call_begin_at(uint64_t ssl, enum sslc_call kind, uintptr_t sp)
{
	struct sslc_shim_ring *r = shim_own->ring;
	struct thread *t = &shim_thread;
	struct object *o;

	if (UNLIKELY(!r || t->depth || !t->number || is_early(kind)))
		return begin_slowly(ssl, kind, sp);
	(void)enter(t, ssl, kind, sp);
	if (direction(kind) == SSLC_DIR_OUT)
		set_writing(r, t, ssl);
	t->quick = 0;
	o = find(ssl);
	if (LIKELY(o && is_plain(o) && o->fd < (int)SSLC_SHIM_FDS &&
		   o->gen == __atomic_load_n(&r->gen, __ATOMIC_RELAXED) &&
		   !atomic_load_explicit(&shim_has_loose, memory_order_relaxed))) {
		t->quick_gen = o->fd_gen;
		t->quick = (uint32_t)o->fd + 1;
	}
	return 0;
}

/* Of a quick call; false: it is to be told as others are. */
static bool tell_quickly(const struct thread *t, uint64_t ssl, enum sslc_call kind, const void *buf,
			 uint64_t n)
{
	struct object *o = t->last;
	enum sslc_dir dir = direction(kind);
	struct sslc_shim_rec *rec;
	uint64_t at, now_ns;

	if (UNLIKELY(!o || o->ssl != ssl || !is_plain(o) || n > SSLC_SHIM_CHUNK || !buf ||
		     ring_watched(&now_ns) != o->gen))
		return false;
	if (UNLIKELY(is_skipped(o))) {
		o->pos[dir] += n;
		return true;
	}
	rec = ring_room((uint32_t)n, &at);
	if (UNLIKELY(!rec))
		return false;
	rec->type = SSLC_SHIM_DATA_BYTES;
	rec->dir = (uint8_t)dir;
	rec->flags = SSLC_SHIM_LAST;
	rec->ts_ns = now_ns;
	rec->obj = ssl;
	rec->life = o->life;
	rec->thread = t->number;
	rec->pos = o->pos[dir];
	rec->len = (uint32_t)n;
	rec->pad = 0;
	rec->pos2 = 0;
	o->pos[dir] += n;
	memcpy(rec + 1, buf, n);
	ring_commit(rec, at);
	return true;
}

static COLD void end_slowly(int at, uint64_t ssl, enum sslc_call kind, const void *buf, uint64_t n)
{
	if (n && shim_own->ring)
		call_moved(at, ssl, kind, buf, n);
	else if (n && shim_own->is_waiting)
		call_missed(at, ssl, kind, n);
	else if (!at && shim_own->ring)
		call_moved_nothing(ssl);
}

HOT void call_end(int at, uint64_t ssl, enum sslc_call kind, const void *buf, uint64_t n)
{
	struct sslc_shim_ring *r = shim_own->ring;
	struct thread *t = &shim_thread;

	if (UNLIKELY(!t->quick || at || (n && !tell_quickly(t, ssl, kind, buf, n))))
		end_slowly(at, ssl, kind, buf, n);
	t->quick = 0;
	if (!at && r && direction(kind) == SSLC_DIR_OUT && t->number)
		set_writing(r, t, 0);
	if (t->depth > (uint32_t)at)
		t->depth = (uint32_t)at;
}

void call_forget(uint64_t ssl)
{
	struct object *o = find(ssl);
	struct sslc_shim_rec rec;
	int saved = errno;
	uint64_t now_ns;

	if (!o)
		return;
	if (o->flags & OBJ_LONG)
		end_long(o, find_long(o));
	if (o->gen && ring_taken(&now_ns) == o->gen) {
		rec = record_of_reached(o, SSLC_SHIM_FORGET, now_ns);
		(void)ring_put(&rec);
	}
	memset((char *)o + sizeof(o->ssl), 0, sizeof(*o) - sizeof(o->ssl));
	__atomic_store_n(&o->ssl, 0, __ATOMIC_RELEASE);
	errno = saved;
}

void call_early_server(uint64_t ssl)
{
	struct object *o = shim_own->ring ? get(ssl) : NULL;

	if (o)
		o->flags |= OBJ_EARLY_SERVER;
}

/* Before the handshake is over libraries say "rejected" too, so only acceptance ends the matter. */
void call_early_status(uint64_t ssl, int status)
{
	struct object *o = find(ssl);
	struct sslc_shim_rec rec;
	int saved = errno;
	uint64_t now_ns;

	if (!o || !(o->flags & OBJ_EARLY_SENT) || (status != 1 && status != 2))
		return;
	if (ring_watched(&now_ns)) {
		rec = record_of(o, SSLC_SHIM_EARLY, now_ns);
		rec.pos2 = status == 2;
		(void)ring_put(&rec);
		if (status == 2)
			o->flags &= ~OBJ_EARLY_SENT;
	}
	errno = saved;
}
