/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: a ring whose process means ill. The input is the ring's positions and its data; what
 * agent/preloaded/shimring.c lets through goes on into agent/preloaded/shimflow.c, whose events
 * have to be sound.
 */
#include "preloaded/shimflow.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SIZE    4096u /* smaller than any real one: laps are short */
#define ROUNDS  3
#define RECORDS 4096

static uint64_t opened, bytes;

static void on_event(void *ctx, const struct sslc_event *ev, const uint8_t *payload)
{
	const struct sslc_ev_data *d = (const void *)ev;
	volatile uint8_t sum = 0;

	(void)ctx;
	if (ev->type == SSLC_EV_OPEN)
		opened++;
	if (ev->type != SSLC_EV_DATA && ev->type != SSLC_EV_CLEAR)
		return;
	if (d->dir > 1 || !d->len || d->len > ev->size - sizeof(*d) || d->len > SSLC_SHIM_CHUNK)
		abort();
	if (ev->type == SSLC_EV_CLEAR)
		payload = d->data;
	for (uint32_t i = 0; i < d->len; i++)
		sum = (uint8_t)(sum + payload[i]);
	bytes += d->len;
}

static int on_take(void *ctx, void *process, const struct sslc_shim_rec *rec,
		   struct sslc_ev_open *out, uint64_t *cookie)
{
	(void)ctx;
	(void)process;
	if (rec->fd < 0)
		abort();
	if (rec->fd % 7 == 6)
		return rec->fd & 1 ? -EBADF : -EPROTONOSUPPORT;
	out->family = 4;
	*cookie = (uint64_t)rec->fd % 5;
	return 0;
}

static void on_skip(void *ctx, void *process, int fd, uint32_t fd_gen)
{
	(void)ctx;
	(void)process;
	(void)fd;
	(void)fd_gen;
}

/* Records as a process would write them, so that the input needs to get less right: each word that
 * is BUSY or DONE names its position. */
static void name_positions(uint8_t *ring, uint64_t base)
{
	for (uint64_t at = 0; at < SIZE; at += SSLC_SHIM_ALIGN) {
		uint64_t word;

		memcpy(&word, ring + at, sizeof(word));
		if ((word & 0xff) != SSLC_SHIM_BUSY && (word & 0xff) != SSLC_SHIM_DONE)
			continue;
		word = (base + at) | (word & 3);
		memcpy(ring + at, &word, sizeof(word));
	}
}

/* Both halves are one memory in a real ring. */
static void lay(uint8_t *memory, const uint8_t *data, size_t size, uint64_t base)
{
	uint8_t *ring = memory + SSLC_SHIM_DATA_OFF;

	memset(ring, 0, SIZE);
	memcpy(ring, data, size < SIZE ? size : SIZE);
	name_positions(ring, base);
	memcpy(ring + SIZE, ring, SIZE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t *memory;
	static struct shimring_record rec;
	const struct shimflows_conf conf = {.event = on_event, .take = on_take, .skip = on_skip};
	const struct shimproc_conf one = {.pid = 1, .comm = "fuzz"};
	struct sslc_shim_ring *r;
	struct shimflows *t;
	struct shimproc *p;
	struct sslc_shim_rec ahead;
	struct shimring ring;
	uint64_t head, far = 0;

	if (!memory)
		memory = aligned_alloc(64, SSLC_SHIM_DATA_OFF + 2 * SIZE);
	if (!memory || size < sizeof(head) || shimflows_new(&t, &conf))
		return 0;
	r = (void *)memory;
	memset(memory, 0, SSLC_SHIM_DATA_OFF);
	p = shimflows_join(t, &one);
	memcpy(&head, data, sizeof(head));
	shimring_of_memory(&ring, memory, SIZE);
	for (uint64_t i = 0; i < ROUNDS; i++) {
		lay(memory, data + sizeof(head), size - sizeof(head), ring.tail & ~(SIZE - 1ull));
		/* Mostly possible ones. */
		r->head = head & 0x8000 ? head : ring.tail + (head % (SIZE + 64));
		for (int n = 0; n < RECORDS; n++) {
			unsigned looks = (unsigned)n % 16;

			if (n % 3 == 0 && shimring_ahead(&ring, &far, &looks, &ahead) &&
			    ahead.fd < 0)
				abort();
			if (looks > (unsigned)n % 16)
				abort();
			if (!shimring_next(&ring, i * 2 * SSLC_SHIM_STALL_NS, head & 0x4000, &rec))
				break;
			if (!rec.rec.type || rec.rec.type >= SSLC_SHIM_TYPES || rec.rec.dir > 1)
				abort();
			shimflows_record(t, p, &rec);
		}
		shimring_release(&ring);
		shimring_rewind(&ring);
		shimring_trim(&ring);
		shimflows_tick(t, i * SHIMFLOW_LINGER_NS);
	}
	shimflows_writing(t, p, head & 0xff);
	shimflows_leave(t, p,
			&(struct shimproc_end){.now_ns = 1,
					       .lost = head >> 60,
					       .has_heirs = head & 0x2000,
					       .is_torn = head & 0x1000});
	shimflows_free(t);
	return 0;
}
