/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chute: see chute.h. A ring of parcels, each with a head in front, whole and not divided: what is
 * left at the ring's end is passed by. Positions only grow; a place is a position modulo the size.
 *
 * Who is about to sleep says so first and looks once more; who has news looks then whether one
 * sleeps. Both in one total order (seq_cst), so at least one of the two sees the other.
 */
#include "crew/chute.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

#define CACHE_LINE 64u
#define PASS_BY    0u /* no parcel: go on at the ring's beginning */
#define LOOK_MS    1000

struct head {
	uint64_t step; /* to the next one */
	uint64_t len;
	void *to;
	unsigned what;
};
_Static_assert(sizeof(struct head) <= CACHE_LINE, "whatever is left at the end has room for one");

struct chute {
	uint8_t *p;
	size_t size;
	int told_fd, wake_fd;
	/* The one's who puts. */
	uint64_t next;  /* where its next parcel begins */
	uint64_t freed; /* as it last saw `done` */
	uint64_t stale; /* bytes from the ring's beginning that may hold something */
	_Alignas(CACHE_LINE) _Atomic uint64_t filled; /* up to here there are parcels */
	_Atomic uint64_t wanted;                      /* when to write told_fd; 0: not */
	/* The one's who takes. */
	_Alignas(CACHE_LINE) _Atomic uint64_t done; /* up to here the memory is free again */
	_Atomic bool sleeps;
	uint64_t taken;
};

static struct head *head_at(const struct chute *c, uint64_t position)
{
	return (struct head *)(void *)(c->p + (position & (c->size - 1)));
}

static uint64_t step_of(size_t len)
{
	return CACHE_LINE + (len + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
}

int chute_new(struct chute **out, size_t size, int told_fd)
{
	struct chute *c = aligned_alloc(CACHE_LINE, sizeof(*c));
	int err = -ENOMEM;

	if (!c)
		return err;
	memset(c, 0, sizeof(*c));
	c->size = size;
	c->told_fd = told_fd;
	c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (c->wake_fd < 0) {
		err = -errno;
		free(c);
		return err;
	}
	c->p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (c->p == MAP_FAILED) {
		c->p = NULL;
		chute_free(c);
		return err;
	}
	*out = c;
	return 0;
}

void chute_free(struct chute *c)
{
	if (!c)
		return;
	if (c->p) {
		explicit_bzero(c->p, c->stale);
		munmap(c->p, c->size);
	}
	close(c->wake_fd);
	free(c);
}

static void tell(int fd)
{
	uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) < 0)
		return; /* EAGAIN: it is readable as it is */
}

/* ---- who puts ---- */

static bool has_room(struct chute *c, uint64_t until)
{
	if (until <= c->freed + c->size)
		return true;
	c->freed = atomic_load_explicit(&c->done, memory_order_acquire);
	return until <= c->freed + c->size;
}

static void wait_past(struct chute *c, uint64_t position)
{
	struct pollfd p = {.fd = c->told_fd, .events = POLLIN};
	uint64_t n;

	while (chute_want(c, position))
		if (poll(&p, 1, LOOK_MS) > 0 && read(c->told_fd, &n, sizeof(n)) < 0 &&
		    errno != EAGAIN)
			return; /* cannot be: it is an eventfd */
}

static void wait_room(struct chute *c, uint64_t until)
{
	while (!has_room(c, until))
		wait_past(c, until - c->size);
}

/* What is left at the ring's end is of no use now. */
static void pass_by(struct chute *c, uint64_t left)
{
	wait_room(c, c->next + CACHE_LINE);
	*head_at(c, c->next) = (struct head){.step = left, .what = PASS_BY};
	c->next += left;
}

static bool is_empty(struct chute *c)
{
	return atomic_load_explicit(&c->done, memory_order_acquire) == c->next;
}

/* Nothing is on its way, and the ring's beginning may still be in the cache. What is passed by
 * counts as full until it is taken with the next parcel, so both must fit. */
static bool may_begin_again(struct chute *c, uint64_t place, uint64_t step)
{
	return place > c->size / 8 && place >= step && is_empty(c);
}

uint8_t *chute_room(struct chute *c, size_t max)
{
	uint64_t place = c->next & (c->size - 1), left = c->size - place;

	assert(step_of(max) <= c->size / 4 + CACHE_LINE);
	if (left < step_of(max) || may_begin_again(c, place, step_of(max)))
		pass_by(c, left);
	wait_room(c, c->next + step_of(max));
	return (uint8_t *)head_at(c, c->next) + CACHE_LINE;
}

void chute_put(struct chute *c, unsigned what, void *to, size_t len)
{
	uint64_t end = (c->next & (c->size - 1)) + step_of(len);

	*head_at(c, c->next) =
		(struct head){.step = step_of(len), .len = len, .to = to, .what = what};
	if (end > c->stale)
		c->stale = end;
	c->next += step_of(len);
	atomic_store(&c->filled, c->next);
	if (atomic_load(&c->sleeps) && atomic_exchange(&c->sleeps, false))
		tell(c->wake_fd);
}

uint64_t chute_position(const struct chute *c)
{
	return atomic_load_explicit(&c->filled, memory_order_relaxed);
}

bool chute_is_past(const struct chute *c, uint64_t position)
{
	return atomic_load(&c->done) >= position;
}

bool chute_want(struct chute *c, uint64_t position)
{
	uint64_t old = atomic_load(&c->wanted);

	if (!old || position < old)
		atomic_store(&c->wanted, position);
	return !chute_is_past(c, position);
}

void chute_tidy(struct chute *c)
{
	if (!c->stale || !is_empty(c))
		return;
	explicit_bzero(c->p, c->stale);
	c->stale = 0;
}

/* ---- who takes ---- */

bool chute_take(struct chute *c, struct parcel *out)
{
	uint64_t filled = atomic_load_explicit(&c->filled, memory_order_acquire);
	const struct head *h;

	if (c->taken == filled)
		return false;
	h = head_at(c, c->taken);
	if (h->what == PASS_BY) { /* a parcel follows: they are published together */
		c->taken += h->step;
		h = head_at(c, c->taken);
	}
	*out = (struct parcel){.what = h->what,
			       .to = h->to,
			       .body = span_of((const uint8_t *)h + CACHE_LINE, h->len)};
	c->taken += h->step;
	return true;
}

void chute_done(struct chute *c)
{
	uint64_t wanted;

	if (atomic_load_explicit(&c->done, memory_order_relaxed) == c->taken)
		return;
	atomic_store(&c->done, c->taken);
	wanted = atomic_load(&c->wanted);
	if (wanted && wanted <= c->taken && atomic_compare_exchange_strong(&c->wanted, &wanted, 0))
		tell(c->told_fd);
}

void chute_sleep(struct chute *c, uint64_t wait_ns)
{
	const struct timespec t = {.tv_sec = (time_t)(wait_ns / NS_PER_S),
				   .tv_nsec = (long)(wait_ns % NS_PER_S)};
	struct pollfd p = {.fd = c->wake_fd, .events = POLLIN};
	uint64_t n;

	atomic_store(&c->sleeps, true);
	if (atomic_load(&c->filled) == c->taken && ppoll(&p, 1, &t, NULL) > 0 &&
	    read(c->wake_fd, &n, sizeof(n)) < 0)
		n = 0; /* somebody's news of before: nothing is lost by it */
	atomic_store(&c->sleeps, false);
}

void chute_wake(struct chute *c)
{
	tell(c->wake_fd);
}
