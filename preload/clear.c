/* SPDX-License-Identifier: Apache-2.0 */
/*
 * clear: what is said on a connection before TLS begins on it (STARTTLS, CONNECT). It is kept here,
 * for TCP connections whose beginning was seen, and leaves the process only when TLS begins; what
 * is too long for that, or not whole, never does. Whether it is whole says the kernel: what the
 * socket has carried until then must be what was seen.
 */
#include "preload.h"

#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define TALKS   1024u               /* at once */
#define SIDE    SSLC_SHIM_CLEAR_MAX /* bytes of each direction */
#define PARTS   512u                /* changes of direction */
#define IDLE_NS 600000000000ull     /* STARTTLS comes soon, or never */
#define BLOCK   2048u               /* bytes of memory: few talks need two */
#define BLOCKS  3584u               /* of all talks, 7 MB: what they may cost a program */

/* shim_clear[fd]: NONE, or one of these, or a talk: its place and its serial number. */
#define FRESH_CLIENT 1u /* a new socket on which nothing was said yet */
#define FRESH_SERVER 2u
#define LOST         3u /* some of it is missing */
#define TALK         0x80000000u

/* What was said in one direction, until something was said in the other. Its bytes follow; it is in
 * one block, they may be in several. */
struct part {
	uint64_t ts_ns;
	uint32_t len, dir;
};

/* Named by 1 + its place; 0: none. */
struct block {
	_Atomic uint32_t next;
	uint32_t pad;
	uint8_t bytes[BLOCK - 8];
};
#define ROOM      (sizeof(((struct block *)0)->bytes))
#define PART_SIZE (sizeof(struct part))
_Static_assert(sizeof(struct block) == BLOCK, "of a page's size");

struct talk {
	_Atomic uint32_t busy; /* a thread is at it: nobody waits, who comes second loses it */
	uint32_t serial;
	uint32_t holders; /* descriptors; 0: free */
	uint32_t n_parts;
	uint32_t len[2];
	uint64_t active_ns;
	bool is_client, has_begun; /* TLS has, and what was said before is whole */
	uint32_t first, latest;    /* blocks */
	uint32_t used;             /* bytes of the latest */
	struct part *part;         /* the latest; n_parts > 0 */
};

uint32_t shim_clear[SSLC_SHIM_FDS];
static struct talk *talks;
static _Atomic uint32_t next_talk;
static struct block *blocks;
static _Atomic uint64_t spare_blocks;  /* one that was given back, and above it how often */
static _Atomic uint32_t n_blocks_used; /* that many were ever taken: only these cost memory */

void clear_init(void)
{
	const size_t size = BLOCKS * sizeof(*blocks) + TALKS * sizeof(*talks);
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return;
	(void)madvise(p, size, MADV_DONTDUMP);
	blocks = p;
	talks = (void *)(blocks + BLOCKS);
}

static bool is_wanted(void)
{
	const struct sslc_shim_ring *r = shim_own->ring;

	return talks && r && __atomic_load_n(&r->gen, __ATOMIC_RELAXED) &&
	       __atomic_load_n(&r->flags, __ATOMIC_RELAXED) & SSLC_SHIM_CLEAR;
}

/* --- memory -------------------------------------------------------------------------------------
 */

static struct block *block_at(uint32_t block)
{
	return &blocks[block - 1];
}

/* 0: there is none. */
static uint32_t take_block(void)
{
	uint64_t was = atomic_load(&spare_blocks), is;
	uint32_t block;

	do {
		block = (uint32_t)was;
		if (!block)
			break;
		/* Another thread may have taken it by now: then it is counted. */
		is = ((was >> 32) + 1) << 32 |
		     atomic_load_explicit(&block_at(block)->next, memory_order_relaxed);
	} while (!atomic_compare_exchange_weak(&spare_blocks, &was, is));
	if (!block && atomic_load(&n_blocks_used) < BLOCKS) {
		block = atomic_fetch_add(&n_blocks_used, 1) + 1;
		if (block > BLOCKS) {
			atomic_fetch_sub(&n_blocks_used, 1);
			return 0;
		}
	}
	if (block)
		atomic_store_explicit(&block_at(block)->next, 0, memory_order_relaxed);
	return block;
}

static void give_block(uint32_t block)
{
	uint64_t was = atomic_load(&spare_blocks), is;

	do {
		atomic_store_explicit(&block_at(block)->next, (uint32_t)was, memory_order_relaxed);
		is = ((was >> 32) + 1) << 32 | block;
	} while (!atomic_compare_exchange_weak(&spare_blocks, &was, is));
}

/* --- talks --------------------------------------------------------------------------------------
 */

static bool enter(struct talk *t)
{
	uint32_t none = 0;

	return atomic_compare_exchange_strong_explicit(&t->busy, &none, 1, memory_order_acquire,
						       memory_order_relaxed);
}

static void leave(struct talk *t)
{
	atomic_store_explicit(&t->busy, 0, memory_order_release);
}

static void cleanse(struct talk *t)
{
	for (uint32_t next, b = t->first; b; b = next) {
		next = block_at(b)->next;
		explicit_bzero(block_at(b)->bytes, b == t->latest ? t->used : ROOM);
		give_block(b);
	}
	t->first = t->latest = t->used = 0;
	t->len[0] = t->len[1] = 0;
	t->n_parts = 0;
	t->has_begun = false;
	t->holders = 0;
	t->serial++;
}

static uint32_t name_of(const struct talk *t)
{
	return TALK | (t->serial & 0x7fff) << 16 | (uint32_t)(t - talks);
}
_Static_assert(TALKS <= 65536, "name_of() has 16 bits for it");

/* Entered. NULL: it was given up, or another thread is at it. */
static struct talk *talk_of(uint32_t name)
{
	struct talk *t = name & TALK ? &talks[name & 0xffff] : NULL;

	if (!t || !enter(t))
		return NULL;
	if (t->holders && name_of(t) == name)
		return t;
	leave(t);
	return NULL;
}

/* Entered. A free one, or one that was silent for too long. */
static struct talk *make(uint64_t now_ns, bool is_client)
{
	for (uint32_t i = 0; i < TALKS; i++) {
		struct talk *t = &talks[atomic_fetch_add(&next_talk, 1) % TALKS];

		if (!enter(t))
			continue;
		if (t->holders && now_ns - t->active_ns > IDLE_NS && now_ns > t->active_ns)
			cleanse(t);
		if (!t->holders) {
			t->holders = 1;
			t->is_client = is_client;
			t->active_ns = now_ns;
			return t;
		}
		leave(t);
	}
	return NULL;
}

static bool is_tcp(int fd)
{
	socklen_t len = sizeof(int), len2 = sizeof(int);
	int domain, protocol;

	return !getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) &&
	       (domain == AF_INET || domain == AF_INET6) &&
	       !getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &len2) &&
	       protocol == IPPROTO_TCP;
}

/*
 * Whether the socket has carried so many bytes, of which this operation's are the last. The
 * client's SYN counts as a byte acknowledged (see put_role() in agent/preloaded/sockfacts.c). Asked
 * again when an acknowledgement arrived meanwhile.
 */
static bool has_carried(int fd, bool is_client, uint64_t in, uint64_t out)
{
	struct tcp_info a;
	socklen_t len;
	int unread, unacked;

	for (int i = 0; i < 4; i++) {
		len = sizeof(a);
		if (ioctl(fd, SIOCOUTQ, &unacked) || ioctl(fd, SIOCINQ, &unread) ||
		    getsockopt(fd, IPPROTO_TCP, TCP_INFO, &a, &len) ||
		    len < offsetof(struct tcp_info, tcpi_bytes_received) + 8)
			return false;
		if (a.tcpi_bytes_received - (uint64_t)unread == in &&
		    a.tcpi_bytes_acked + (uint64_t)unacked - is_client == out)
			return true;
	}
	return false;
}

/* --- operations ---------------------------------------------------------------------------------
 */

/* A ClientHello, or the header of one. */
static bool is_hello(const uint8_t *p, size_t n)
{
	return n >= 5 && p[0] == 22 && p[1] == 3 && p[2] <= 4 && (n < 6 || p[5] == 1 || p[5] == 2);
}

static bool is_server_hello(const uint8_t *p, size_t n)
{
	return n >= 6 && p[5] == 2;
}

/* How conversations begin that no TLS follows; CONNECT is not among them. */
static bool is_other(const uint8_t *p, size_t n)
{
	static const char words[][5] = {"GET ", "POST", "HEAD", "PUT ", "DELE",
					"OPTI", "PATC", "PRI ", "SSH-"};

	for (size_t i = 0; n >= 4 && i < sizeof(words) / sizeof(words[0]); i++)
		if (!memcmp(p, words[i], 4))
			return true;
	return false;
}

/* So many bytes in a row, where they may be written. NULL: there is no memory. */
static void *room_for(struct talk *t, uint32_t bytes)
{
	uint32_t block;

	if (!t->latest || bytes > ROOM - t->used) {
		block = take_block();
		if (!block)
			return NULL;
		if (t->latest)
			block_at(t->latest)->next = block;
		else
			t->first = block;
		t->latest = block;
		t->used = 0;
	}
	t->used += bytes;
	return block_at(t->latest)->bytes + t->used - bytes;
}

static uint32_t aligned(uint32_t at)
{
	return (at + _Alignof(struct part) - 1) & ~(uint32_t)(_Alignof(struct part) - 1);
}
_Static_assert(ROOM % _Alignof(struct part) == 0, "aligned() stays inside");

static bool begin_part(struct talk *t, enum sslc_dir dir, uint64_t ts_ns)
{
	struct part *p = NULL;

	t->used = aligned(t->used);
	if (t->n_parts < PARTS)
		p = room_for(t, PART_SIZE);
	if (!p)
		return false;
	*p = (struct part){.ts_ns = ts_ns, .dir = dir};
	t->part = p;
	t->n_parts++;
	return true;
}

static bool append_bytes(struct talk *t, const uint8_t *p, size_t n)
{
	uint32_t now, left;
	void *to;

	for (; n; p += now, n -= now) {
		left = t->used < ROOM ? ROOM - t->used : ROOM;
		now = n < left ? (uint32_t)n : left;
		to = room_for(t, now);
		if (!to)
			return false;
		memcpy(to, p, now);
		t->part->len += now;
		t->len[t->part->dir] += now;
	}
	return true;
}

/* False: there is no room. */
static bool append(struct talk *t, enum sslc_dir dir, const struct iovec *v, size_t n_v, size_t n,
		   uint64_t ts_ns)
{
	if (n > SIDE - t->len[dir])
		return false;
	if ((!t->n_parts || t->part->dir != dir) && !begin_part(t, dir, ts_ns))
		return false;
	t->active_ns = ts_ns;
	for (size_t i = 0; i < n_v && n; i++) {
		size_t m = v[i].iov_len < n ? v[i].iov_len : n;

		if (!append_bytes(t, v[i].iov_base, m))
			return false;
		n -= m;
	}
	return true;
}

/* TLS begins with this operation. */
static bool begin(struct talk *t, int fd, enum sslc_dir dir, size_t n)
{
	uint64_t in = t->len[SSLC_DIR_IN] + (dir == SSLC_DIR_IN ? n : 0);
	uint64_t out = t->len[SSLC_DIR_OUT] + (dir == SSLC_DIR_OUT ? n : 0);

	t->has_begun = !shim_is_sandboxed && has_carried(fd, t->is_client, in, out);
	return t->has_begun;
}

/* The new state of the descriptor. */
static uint32_t first_op(int fd, uint32_t was, enum sslc_dir dir, const struct iovec *v, size_t n_v,
			 size_t n, uint64_t now_ns)
{
	struct talk *t;
	uint32_t is = LOST;

	if (is_other(v->iov_base,
		     v->iov_len < n ? v->iov_len : n)) /* beyond it is what was before */
		return 0;
	if (shim_is_sandboxed)
		return LOST;
	if (!is_tcp(fd))
		return 0;
	t = make(now_ns, was == FRESH_CLIENT);
	if (!t)
		return LOST;
	if (append(t, dir, v, n_v, n, now_ns))
		is = name_of(t);
	else
		cleanse(t);
	leave(t);
	return is;
}

static uint32_t later_op(int fd, uint32_t was, enum sslc_dir dir, const struct iovec *v, size_t n_v,
			 size_t n, uint64_t now_ns)
{
	const uint8_t *p = v->iov_base;
	size_t len = v->iov_len < n ? v->iov_len : n;
	struct talk *t = talk_of(was);
	bool is_good;

	if (!t)
		return LOST;
	if (t->has_begun) {
		leave(t);
		return was;
	}
	/* The client's comes first: else it stood behind other bytes. */
	if (is_hello(p, len))
		is_good = !is_server_hello(p, len) && begin(t, fd, dir, n);
	else
		is_good = (t->len[dir] || !is_other(p, len)) && append(t, dir, v, n_v, n, now_ns);
	if (!is_good)
		cleanse(t);
	leave(t);
	return is_good ? was : LOST;
}

void clear_op(int fd, enum sslc_dir dir, const struct iovec *v, size_t n_v, size_t n)
{
	uint32_t was = shim_clear[fd];
	int saved = errno;
	uint64_t now_ns;

	for (; n_v && !v->iov_len; n_v--)
		v++;
	if (was == LOST || !n_v)
		return;
	if (!(was & TALK) && is_hello(v->iov_base, v->iov_len < n ? v->iov_len : n)) {
		shim_clear[fd] = 0; /* TLS from its first byte on */
	} else if (!ring_watched(&now_ns)) {
		clear_gone(fd);
		shim_clear[fd] = LOST; /* an agent may come, or go on */
	} else if (was & TALK) {
		shim_clear[fd] = later_op(fd, was, dir, v, n_v, n, now_ns);
	} else {
		shim_clear[fd] = first_op(fd, was, dir, v, n_v, n, now_ns);
	}
	errno = saved;
}

/* --- descriptors --------------------------------------------------------------------------------
 */

void clear_fresh(int fd, bool is_client)
{
	if (fd >= 0 && fd < (int)SSLC_SHIM_FDS && is_wanted())
		shim_clear[fd] = is_client ? FRESH_CLIENT : FRESH_SERVER;
}

void clear_gone(int fd)
{
	struct talk *t = talk_of(shim_clear[fd]);

	shim_clear[fd] = 0;
	if (!t)
		return;
	if (!--t->holders)
		cleanse(t);
	leave(t);
}

void clear_dup(int from, int to)
{
	uint32_t is = shim_clear[from];
	struct talk *t = talk_of(is);
	uint64_t now_ns;

	if ((is == FRESH_CLIENT || is == FRESH_SERVER) && ring_watched(&now_ns))
		t = make(now_ns, is == FRESH_CLIENT);
	if (t)
		t->holders++;
	shim_clear[from] = shim_clear[to] = t ? name_of(t) : LOST;
	if (t)
		leave(t);
}

/* Where what was appended with room for so many bytes lies. */
static const void *next_room(uint32_t *block, uint32_t *used, uint32_t bytes)
{
	if (bytes > ROOM - *used) {
		*block = block_at(*block)->next;
		*used = 0;
	}
	*used += bytes;
	return block_at(*block)->bytes + *used - bytes;
}

static bool tell(const struct talk *t, struct sslc_shim_rec *rec)
{
	uint32_t block = t->first, used = 0, left, now, here;
	uint64_t pos[2] = {0, 0};
	const struct part *part;

	for (uint32_t i = 0; i < t->n_parts; i++) {
		used = aligned(used);
		part = next_room(&block, &used, PART_SIZE);
		rec->ts_ns = part->ts_ns;
		rec->dir = (uint8_t)part->dir;
		for (left = part->len; left; left -= now) {
			here = used < ROOM ? ROOM - used : ROOM;
			now = left < here ? left : here;
			rec->pos = pos[part->dir];
			if (!ring_put_bytes(rec, next_room(&block, &used, now), now))
				return false;
			pos[part->dir] += now;
		}
	}
	return true;
}

bool clear_tell(int fd, uint64_t ssl, uint32_t life)
{
	struct sslc_shim_rec rec = {.type = SSLC_SHIM_CLEAR_BYTES, .obj = ssl, .life = life};
	uint32_t was = shim_clear[fd];
	struct talk *t = talk_of(was);
	bool is_whole = t && t->has_begun && tell(t, &rec);

	if (t)
		leave(t);
	clear_gone(fd);
	/* Operations on a fresh one do not come by here: there is nothing to be told. */
	return is_whole || was == FRESH_CLIENT || was == FRESH_SERVER;
}
