/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: bytes as events for agent/match/adjacent.c, well-formed ones in any order and with
 * any content. A flow is bound to one object at a time and an object to one flow, and what was
 * taken away stays away.
 */
#include "match/adjacent.h"

#include "base/buf.h"
#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

#define IDS     6 /* objects, and flows from 1 on: few, so that they meet */
#define THREADS 3

struct run {
	struct rd in;
	struct adjacent *a;
	uint64_t now_ns, pos[IDS][2];
	uint32_t life[IDS];
	bool over[IDS + 1]; /* flows that ended or are the kernel's */
	uint8_t seq[THREADS];
};

static void must(bool ok)
{
	if (!ok)
		abort();
}

static struct sslc_conn_id object(const struct run *r, unsigned n)
{
	return (struct sslc_conn_id){.ssl = n, .tgid = 1, .life = r->life[n]};
}

static uint64_t flow_of(const struct run *r, unsigned n)
{
	struct sslc_conn_id id = object(r, n);

	return adjacent_flow(r->a, &id);
}

static bool on_bind(void *ctx, const struct sslc_conn_id *conn, uint64_t flow)
{
	struct run *r = ctx;

	/* What an object wrote may be sent when it is gone, and another one lives at its address.
	 */
	must(flow && flow <= IDS && conn->ssl < IDS && conn->life <= r->life[conn->ssl]);
	must(conn->life < r->life[conn->ssl] || !flow_of(r, (unsigned)conn->ssl));
	for (unsigned i = 0; i < IDS; i++)
		must(flow_of(r, i) != flow);
	return !r->over[flow];
}

static void check(const struct run *r)
{
	for (unsigned i = 0; i < IDS; i++)
		for (unsigned k = 0; k < i; k++)
			must(!flow_of(r, i) || flow_of(r, i) != flow_of(r, k));
	for (unsigned i = 0; i < IDS; i++)
		must(!r->over[flow_of(r, i)]);
}

/* The event lives in exactly its own size, so that a read beyond it is seen by ASan. */
static void feed(struct run *r, const void *ev, size_t size)
{
	void *copy = malloc(size);

	must(copy != NULL);
	memcpy(copy, ev, size);
	adjacent_event(r->a, copy);
	free(copy);
}

static struct sslc_event header(struct run *r, uint32_t type, size_t size, uint64_t flow)
{
	r->now_ns += 1000;
	return (struct sslc_event){type, (uint32_t)size, r->now_ns, flow};
}

/* The number that is due, but for one time in 16. */
static uint8_t next_seq(struct run *r, unsigned tid)
{
	uint8_t how = rd_u8(&r->in);

	r->seq[tid] = (uint8_t)((r->seq[tid] + (how >= 0xf0 ? how & 3 : 0)) % 255 + 1);
	return r->seq[tid];
}

static void put_wire(struct run *r, unsigned tid)
{
	struct sslc_ev_wire ev = {.ev = header(r, SSLC_EV_WIRE, sizeof(ev), 0)};
	uint8_t how = rd_u8(&r->in);

	ev.ev.flow = 1 + how / 2 % IDS;
	ev.tgid = 1;
	ev.tid = tid;
	ev.dir = how & 1;
	ev.n_rec = how >> 6;
	if (how == 0xff)
		ev.n_rec = SSLC_WIRE_RECORDS;
	ev.seq = next_seq(r, tid);
	for (unsigned i = 0; i < ev.n_rec; i++) {
		uint8_t len = rd_u8(&r->in);

		ev.rec[i].type = len < 0xf0 ? 23 : len;
		ev.rec[i].len = len < 0x80 ? len + 17 : len < 0xc0 ? 16401 : rd_u16be(&r->in);
		if (len >= 0xfa)
			ev.rec[i].type = 22;
		else if (len >= 0xf8)
			ev.flags |= len & 7;
	}
	feed(r, &ev, sizeof(ev));
}

static void put_call(struct run *r, unsigned tid)
{
	struct sslc_ev_call ev = {.ev = header(r, SSLC_EV_CALL, sizeof(ev), 0)};
	uint8_t how = rd_u8(&r->in);

	ev.conn = object(r, how % IDS);
	ev.tid = tid;
	ev.call = how / IDS % SSLC_CALL_KINDS;
	ev.seq = next_seq(r, tid);
	feed(r, &ev, sizeof(ev));
}

static void put_data(struct run *r, unsigned tid)
{
	struct sslc_ev_data ev = {.ev = header(r, SSLC_EV_DATA, sizeof(ev), 0)};
	uint8_t how = rd_u8(&r->in), len = rd_u8(&r->in);
	unsigned n = how % IDS;

	ev.conn = object(r, n);
	ev.tid = tid;
	ev.dir = how / IDS & 1; /* any object, either way */
	ev.flags = how >= 0x20 ? SSLC_DATA_END : 0;
	ev.len = len < 0x80 ? len + 1u : len < 0xc0 ? 16384 : rd_u32be(&r->in);
	ev.pos = r->pos[n][ev.dir] + (how == 0x1f);
	r->pos[n][ev.dir] = ev.pos + ev.len;
	ev.seq = next_seq(r, tid);
	feed(r, &ev, sizeof(ev)); /* the bytes themselves are not looked at */
}

static void put_open(struct run *r, unsigned flow)
{
	struct sslc_ev_open ev = {.ev = header(r, SSLC_EV_OPEN, sizeof(ev), flow)};

	ev.conn.tgid = 1;
	ev.flags = SSLC_OPEN_CANDIDATE;
	feed(r, &ev, sizeof(ev));
}

static void put_end(struct run *r)
{
	uint8_t how = rd_u8(&r->in);
	unsigned n = how % IDS, flow = 1 + how / IDS % IDS;
	struct sslc_conn_id id = object(r, n);

	switch (how >> 6) {
	case 0:
		r->life[n]++;
		put_call(r, 0);
		break;
	case 1:
		adjacent_exact(r->a, &id, flow);
		must(!flow_of(r, n));
		r->over[flow] = true;
		break;
	case 2:
		adjacent_flow_ending(r->a, flow);
		adjacent_flow_end(r->a, flow);
		r->over[flow] = true;
		break;
	default:
		put_open(r, flow);
		r->now_ns += how * (NS_PER_S / 8);
		adjacent_tick(r->a, r->now_ns);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct run r = {.in = rd_from(span_of(data, size)), .now_ns = NS_PER_S};
	const struct adjacent_conf conf = {.bind = on_bind, .ctx = &r};

	must(!adjacent_new(&r.a, &conf));
	while (r.in.in.len && !r.in.bad) {
		uint8_t what = rd_u8(&r.in);
		unsigned tid = what / 8 % THREADS;

		if (what % 8 < 3)
			put_wire(&r, tid);
		else if (what % 8 < 5)
			put_data(&r, tid);
		else if (what % 8 < 7)
			put_call(&r, tid);
		else
			put_end(&r);
		check(&r);
	}
	adjacent_free(r.a);
	return 0;
}
