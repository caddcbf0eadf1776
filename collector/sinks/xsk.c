/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xsk: see xsk.h. Frames are written into memory shared with the kernel; rings carry their places
 * there and, once sent or dropped, back. Never maps or reads what the interface receives.
 */
#include "sinks/xsk.h"

#include <errno.h>
#include <linux/if_xdp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef AF_XDP
#define AF_XDP 44
#endif
#ifndef SOL_XDP
#define SOL_XDP 283
#endif

#define FRAMES    512u /* a power of two: rings of so many never overflow. 1 MiB at an MTU of 1500 */
#define FRAME_MIN 2048u /* sizes that the kernel takes: powers of two up to a page */
#define FRAME_MAX 4096u
#define SNDBUF    (8u << 20) /* all frames on their way at once, as the kernel accounts them */

/* One ring of the kernel's: single producer, single consumer. */
struct ring {
	void *map;
	size_t len;
	_Atomic uint32_t *producer, *consumer;
	void *desc;
};

struct xsk {
	int fd;
	uint8_t *area; /* FRAMES of frame_len */
	size_t frame_len;
	struct ring tx, done;
	uint32_t put;      /* our place in tx */
	uint32_t reaped;   /* our place in done */
	uint32_t tx_taken; /* the kernel's place in tx, as last seen */
	unsigned in_flight, n_free;
	uint16_t free[FRAMES]; /* a stack: the next frame is one that the cache still has */
	uint16_t len[FRAMES];  /* while on its way */
};

static int ring_map(struct ring *r, int fd, const struct xdp_ring_offset *at, size_t desc_len,
		    off_t what)
{
	size_t len = at->desc + FRAMES * desc_len;
	uint8_t *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, what);

	if (p == MAP_FAILED)
		return -errno;
	r->map = p;
	r->len = len;
	r->producer = (_Atomic uint32_t *)(void *)(p + at->producer);
	r->consumer = (_Atomic uint32_t *)(void *)(p + at->consumer);
	r->desc = p + at->desc;
	return 0;
}

static int area_map(struct xsk *x)
{
	void *p = mmap(NULL, FRAMES * x->frame_len, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return -errno;
	x->area = p;
	for (unsigned i = 0; i < FRAMES; i++)
		x->free[i] = (uint16_t)(FRAMES - 1 - i);
	x->n_free = FRAMES;
	return 0;
}

static int option(int fd, int name, const void *value, socklen_t len)
{
	return setsockopt(fd, SOL_XDP, name, value, len) ? -errno : 0;
}

/* The fill ring serves reception alone, but without one the kernel binds no socket. */
static int rings_open(struct xsk *x)
{
	struct xdp_umem_reg area = {.addr = (uintptr_t)x->area,
				    .len = FRAMES * x->frame_len,
				    .chunk_size = (uint32_t)x->frame_len};
	const int fill = 2, frames = FRAMES, sndbuf = SNDBUF;
	struct xdp_mmap_offsets at;
	socklen_t len = sizeof(at);
	int err = option(x->fd, XDP_UMEM_REG, &area, sizeof(area));

	if (!err)
		err = option(x->fd, XDP_UMEM_FILL_RING, &fill, sizeof(fill));
	if (!err)
		err = option(x->fd, XDP_UMEM_COMPLETION_RING, &frames, sizeof(frames));
	if (!err)
		err = option(x->fd, XDP_TX_RING, &frames, sizeof(frames));
	if (!err && getsockopt(x->fd, SOL_XDP, XDP_MMAP_OFFSETS, &at, &len))
		err = -errno;
	if (!err && len != sizeof(at)) /* a kernel before 5.4: without the flags */
		err = -EOPNOTSUPP;
	if (!err)
		err = ring_map(&x->tx, x->fd, &at.tx, sizeof(struct xdp_desc), XDP_PGOFF_TX_RING);
	if (!err)
		err = ring_map(&x->done, x->fd, &at.cr, sizeof(uint64_t),
			       (off_t)XDP_UMEM_PGOFF_COMPLETION_RING);
	if (setsockopt(x->fd, SOL_SOCKET, SO_SNDBUFFORCE, &sndbuf, sizeof(sndbuf)))
		(void)setsockopt(x->fd, SOL_SOCKET, SO_SNDBUF, &sndbuf, sizeof(sndbuf));
	return err;
}

static int xsk_bind(const struct xsk *x, int ifindex, unsigned queue)
{
	struct sockaddr_xdp to = {.sxdp_family = AF_XDP,
				  .sxdp_flags = XDP_COPY,
				  .sxdp_ifindex = (uint32_t)ifindex,
				  .sxdp_queue_id = queue};

	return bind(x->fd, (struct sockaddr *)&to, sizeof(to)) ? -errno : 0;
}

int xsk_open(struct xsk **out, int ifindex, unsigned queue, size_t frame_max)
{
	struct xsk *x;
	int err;

	if (frame_max > FRAME_MAX)
		return -EMSGSIZE;
	x = calloc(1, sizeof(*x));
	if (!x)
		return -ENOMEM;
	x->frame_len = frame_max > FRAME_MIN ? FRAME_MAX : FRAME_MIN;
	x->fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
	err = x->fd < 0 ? -errno : area_map(x);
	if (!err)
		err = rings_open(x);
	if (!err)
		err = xsk_bind(x, ifindex, queue);
	if (err) {
		xsk_close(x);
		return err;
	}
	*out = x;
	return 0;
}

uint8_t *xsk_take(struct xsk *x)
{
	return x->n_free ? x->area + x->free[--x->n_free] * x->frame_len : NULL;
}

void xsk_give_back(struct xsk *x, uint8_t *frame)
{
	x->free[x->n_free++] = (uint16_t)((size_t)(frame - x->area) / x->frame_len);
}

/* There are as many places as frames: one that was taken always has a place. */
void xsk_put(struct xsk *x, uint8_t *frame, size_t len)
{
	struct xdp_desc *d = (struct xdp_desc *)x->tx.desc + x->put++ % FRAMES;
	size_t at = (size_t)(frame - x->area);

	*d = (struct xdp_desc){.addr = at, .len = (uint32_t)len};
	x->len[at / x->frame_len] = (uint16_t)len;
	x->in_flight++;
}

/* Frames that are done become free. Returns the last one. */
static struct span reap(struct xsk *x, struct xsk_done *done)
{
	uint32_t end = atomic_load_explicit(x->done.producer, memory_order_acquire);
	struct span last = {0};

	for (; x->reaped != end; x->reaped++) {
		uint64_t at = ((const uint64_t *)x->done.desc)[x->reaped % FRAMES];
		unsigned i = (unsigned)(at / x->frame_len) % FRAMES;

		last = span_of(x->area + i * x->frame_len, x->len[i]);
		done->frames++;
		done->bytes += last.len;
		x->in_flight--;
		x->free[x->n_free++] = (uint16_t)i;
	}
	atomic_store_explicit(x->done.consumer, end, memory_order_release);
	return last;
}

int xsk_kick(struct xsk *x, struct xsk_done *done, bool *moved)
{
	uint32_t taken;
	struct span last;
	int err;

	*done = (struct xsk_done){0};
	atomic_store_explicit(x->tx.producer, x->put, memory_order_release);
	err = sendto(x->fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 ? -errno : 0;
	last = reap(x, done);
	taken = atomic_load_explicit(x->tx.consumer, memory_order_acquire);
	*moved = done->frames > 0 || taken != x->tx_taken;
	x->tx_taken = taken;
	if (err == -EBUSY && done->frames) { /* the last that is done is the one dropped */
		done->frames--;
		done->bytes -= last.len;
		done->dropped = last;
	}
	return err == -ENOBUFS ? -EAGAIN : err;
}

/* The kernel looks at the ring within xsk_kick() only. */
void xsk_waiting(struct xsk *x, size_t (*fn)(void *ctx, uint8_t *frame, size_t len), void *ctx)
{
	uint32_t at = atomic_load_explicit(x->tx.consumer, memory_order_acquire);

	for (; at != x->put; at++) {
		struct xdp_desc *d = (struct xdp_desc *)x->tx.desc + at % FRAMES;

		d->len = (uint32_t)fn(ctx, x->area + d->addr, d->len);
		x->len[d->addr / x->frame_len] = (uint16_t)d->len;
	}
}

size_t xsk_frame_max(const struct xsk *x)
{
	return x->frame_len;
}

unsigned xsk_in_flight(const struct xsk *x)
{
	return x->in_flight;
}

static void ring_unmap(const struct ring *r)
{
	if (r->map)
		munmap(r->map, r->len);
}

void xsk_close(struct xsk *x)
{
	if (!x)
		return;
	ring_unmap(&x->tx);
	ring_unmap(&x->done);
	if (x->fd >= 0)
		close(x->fd);
	if (x->area) {
		explicit_bzero(x->area, FRAMES * x->frame_len); /* held plaintext */
		munmap(x->area, FRAMES * x->frame_len);
	}
	free(x);
}
