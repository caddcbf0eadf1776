/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ringmap: see ringmap.h. Two pages of positions, which only grow, and the records: eight bytes of
 * length and flags, then the event, at multiples of eight. The records are mapped twice in a row,
 * so that none is ever cut.
 */
#include "ringmap.h"

#include "base/metrics.h"

#include <errno.h>
#include <linux/bpf.h>
#include <sys/mman.h>
#include <unistd.h>

#define EVENT_MAX  (32u << 10) /* of one event; more than the kernel half makes */
#define RELEASE_AT (64u << 10) /* bytes popped that the kernel is told of at the latest */

static COUNTER_DEFINE(events_broken, "capture_events_broken", "events of impossible size, ignored");

int ringmap_open(struct ringmap *m, int fd, size_t size)
{
	*m = (struct ringmap){.size = size, .page = (size_t)sysconf(_SC_PAGESIZE)};
	m->first = mmap(NULL, m->page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (m->first == MAP_FAILED) {
		m->first = NULL;
		return -errno;
	}
	m->second = mmap(NULL, m->page + 2 * size, PROT_READ, MAP_SHARED, fd, (off_t)m->page);
	if (m->second == MAP_FAILED) {
		m->second = NULL;
		return -errno;
	}
	m->consumer = m->first;
	m->producer = m->second;
	m->data = (const uint8_t *)m->second + m->page;
	m->at = m->seen = ringmap_taken(m);
	return 0;
}

void ringmap_close(struct ringmap *m)
{
	if (m->first)
		munmap(m->first, m->page);
	if (m->second)
		munmap(m->second, m->page + 2 * m->size);
	*m = (struct ringmap){0};
}

uint64_t ringmap_taken(const struct ringmap *m)
{
	return __atomic_load_n(m->consumer, __ATOMIC_RELAXED);
}

uint64_t ringmap_put(const struct ringmap *m)
{
	return __atomic_load_n(m->producer, __ATOMIC_ACQUIRE);
}

void ringmap_release(struct ringmap *m)
{
	__atomic_store_n(m->consumer, m->at, __ATOMIC_RELEASE);
}

static bool is_sound(const struct sslc_event *ev, size_t len)
{
	return len >= sizeof(*ev) && len <= EVENT_MAX && ev->size <= len &&
	       ev->size >= sizeof(*ev) && ev->type;
}

void ringmap_look(struct ringmap *m)
{
	m->seen = ringmap_put(m);
}

const struct sslc_event *ringmap_known(struct ringmap *m)
{
	while (m->at != m->seen) {
		const uint8_t *p = m->data + (m->at & (m->size - 1));
		const struct sslc_event *ev = (const void *)(p + BPF_RINGBUF_HDR_SZ);
		uint32_t word, len;

		word = __atomic_load_n((const uint32_t *)(const void *)p, __ATOMIC_ACQUIRE);
		if (word & BPF_RINGBUF_BUSY_BIT)
			return NULL;
		len = word & ~BPF_RINGBUF_DISCARD_BIT;
		m->step = (len + BPF_RINGBUF_HDR_SZ + 7) & ~(size_t)7;
		if (!(word & BPF_RINGBUF_DISCARD_BIT)) {
			if (is_sound(ev, len))
				return ev;
			counter_inc(&events_broken);
		}
		ringmap_pop(m);
	}
	return NULL;
}

const struct sslc_event *ringmap_first(struct ringmap *m)
{
	const struct sslc_event *ev = ringmap_known(m);

	if (ev || m->at != m->seen)
		return ev;
	ringmap_look(m);
	return ringmap_known(m);
}

void ringmap_pop(struct ringmap *m)
{
	m->at += m->step;
	if (m->at - ringmap_taken(m) >= RELEASE_AT)
		ringmap_release(m);
}
