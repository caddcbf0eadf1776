/* SPDX-License-Identifier: Apache-2.0 */
/* fakering: memory that looks like a BPF ring buffer, and a kernel half that writes into it. After
 * cmocka.h. */
#ifndef SSLC_TEST_FAKERING_H
#define SSLC_TEST_FAKERING_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "event.h"

#define FAKERING_SIZE (128u << 10)

struct fakering {
	int fd;
	size_t page;
	uint8_t *p; /* two pages of positions, then the records twice */
};

static inline uint64_t *fakering_consumer(struct fakering *r)
{
	return (uint64_t *)(void *)r->p;
}

static inline uint64_t *fakering_producer(struct fakering *r)
{
	return (uint64_t *)(void *)(r->p + r->page);
}

static inline void fakering_open(struct fakering *r)
{
	size_t len;

	r->page = (size_t)sysconf(_SC_PAGESIZE);
	len = 2 * r->page + 2 * FAKERING_SIZE;
	r->fd = memfd_create("fakering", MFD_CLOEXEC);
	assert_true(r->fd >= 0 && !ftruncate(r->fd, (off_t)len));
	r->p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, 0);
	assert_true(r->p != MAP_FAILED);
}

static inline void fakering_close(struct fakering *r)
{
	munmap(r->p, 2 * r->page + 2 * FAKERING_SIZE);
	close(r->fd);
}

static inline void fakering_store(struct fakering *r, uint64_t at, const void *p, size_t len)
{
	uint8_t *data = r->p + 2 * r->page;

	for (size_t i = 0; i < len; i++) {
		size_t to = (at + i) % FAKERING_SIZE;

		data[to] = data[to + FAKERING_SIZE] = ((const uint8_t *)p)[i];
	}
}

/* A record of `len` bytes with `flags`; where it stands. */
static inline uint64_t fakering_put(struct fakering *r, const void *p, uint32_t len, uint32_t flags)
{
	uint64_t at = *fakering_producer(r), next = at + ((len + BPF_RINGBUF_HDR_SZ + 7) & ~7u);
	uint32_t word = len | flags, pad = 0;

	assert_true(next - __atomic_load_n(fakering_consumer(r), __ATOMIC_ACQUIRE) <=
		    FAKERING_SIZE);
	fakering_store(r, at + BPF_RINGBUF_HDR_SZ, p, len);
	fakering_store(r, at + 4, &pad, sizeof(pad));
	fakering_store(r, at, &word, sizeof(word));
	__atomic_store_n(fakering_producer(r), next, __ATOMIC_RELEASE);
	return at;
}

/* An event of `size` bytes that carries a number. */
static inline uint64_t fakering_event_at(struct fakering *r, uint64_t ts_ns, uint64_t number,
					 uint32_t size)
{
	uint8_t room[32768] = {0};
	struct sslc_event ev = {.type = SSLC_EV_SOCK, .size = size, .ts_ns = ts_ns, .flow = number};

	memcpy(room, &ev, sizeof(ev));
	return fakering_put(r, room, size, 0);
}

static inline uint64_t fakering_event(struct fakering *r, uint64_t number, uint32_t size)
{
	return fakering_event_at(r, 1, number, size);
}

#endif
