/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: bytes as a sequence of events, well-formed and not, for agent/flow.c. Every frame
 * that comes out must decode, belong to an open flow, and follow its direction's offset without a
 * step.
 */
#include "flow.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

#define IDS 8 /* flow ids and TLS objects in play: few, so that they meet */

struct model {
	bool open, closed, fin[2];
	uint64_t off[2];
};

struct run {
	struct rd in;
	struct ship *ship;
	struct flows *flows;
	struct model flow[IDS];
	uint64_t now_ns;
	uint64_t pos[IDS][2]; /* of objects without a socket, by enum sslc_dir */
	uint8_t seq[2];       /* of threads */
};

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void on_skip(void *ctx, uint64_t flow)
{
	(void)ctx;
	must(flow != 0);
}

/* --- frames out ---------------------------------------------------------------------------------
 */

static void check_open(struct run *r, const struct frame *f)
{
	struct frame_flow_open m;

	must(!frame_get_flow_open(f, &m) && m.flow < IDS);
	must(!r->flow[m.flow].open || r->flow[m.flow].closed);
	r->flow[m.flow] = (struct model){.open = true};
}

static void advance(struct run *r, uint64_t flow, unsigned dir, uint64_t offset, uint64_t len)
{
	struct model *m = &r->flow[flow];

	must(flow < IDS && m->open && !m->closed && !m->fin[dir] && m->off[dir] == offset);
	m->off[dir] += len;
}

static void check_fin(struct run *r, const struct frame *f)
{
	struct frame_flow_fin m;

	must(!frame_get_flow_fin(f, &m));
	advance(r, m.flow, m.dir, r->flow[m.flow].off[m.dir], 0);
	r->flow[m.flow].fin[m.dir] = true;
}

static void check_close(struct run *r, const struct frame *f)
{
	struct frame_flow_close m;

	must(!frame_get_flow_close(f, &m) && m.flow < IDS);
	must(r->flow[m.flow].open && !r->flow[m.flow].closed);
	r->flow[m.flow].closed = true;
}

static void check(struct run *r, const struct frame *f)
{
	struct frame_data d;
	struct frame_gap g;

	switch (f->type) {
	case FRAME_FLOW_OPEN:
		check_open(r, f);
		break;
	case FRAME_DATA:
		must(!frame_get_data(f, &d));
		advance(r, d.flow, d.dir, d.offset, d.bytes.len);
		break;
	case FRAME_GAP:
		must(!frame_get_gap(f, &g));
		advance(r, g.flow, g.dir, g.offset, g.len);
		break;
	case FRAME_FLOW_FIN:
		check_fin(r, f);
		break;
	case FRAME_FLOW_CLOSE:
		check_close(r, f);
		break;
	default:
		abort();
	}
}

static void drain(struct run *r)
{
	struct ship_block b;
	struct frame f;
	ssize_t n;

	ship_flush(r->ship);
	while (ship_take(r->ship, &b)) {
		for (struct span in = b.frames; in.len;
		     in = span_of(in.p + n, in.len - (size_t)n)) {
			n = frame_decode(in, &f);
			must(n > 0);
			check(r, &f);
		}
		ship_return(r->ship, true);
		ship_ack(r->ship, b.seq);
	}
}

/* --- events in ----------------------------------------------------------------------------------
 */

/* The event lives in exactly its own size, so that a read beyond it is seen by ASan. */
static void feed(struct run *r, const void *ev, size_t size)
{
	void *copy = malloc(size);

	must(copy != NULL);
	memcpy(copy, ev, size);
	flows_event(r->flows, copy);
	free(copy);
}

static struct sslc_event header(struct run *r, uint32_t type, size_t size)
{
	uint8_t id = rd_u8(&r->in);

	r->now_ns += (uint64_t)(id >> 4) * NS_PER_MS;
	return (struct sslc_event){type, (uint32_t)size, r->now_ns, id % IDS};
}

/* tgid 0 has no /proc entry: no input makes the run depend on this machine's processes. */
static struct sslc_conn_id conn(struct run *r)
{
	return (struct sslc_conn_id){.ssl = rd_u8(&r->in) % IDS};
}

static void put_open(struct run *r)
{
	struct sslc_ev_open ev = {.ev = header(r, SSLC_EV_OPEN, sizeof(ev))};
	uint8_t how = rd_u8(&r->in);

	ev.conn = conn(r);
	ev.family = how & 1 ? 4 : 6;
	ev.role = (how >> 1) & 3;
	ev.flags = how >> 3;
	ev.local_port = rd_u8(&r->in) % 3;
	ev.remote_port = rd_u8(&r->in) % 3;
	ev.local_addr[0] = ev.local_port ? 1 : 2; /* both ends of one connection come up often */
	ev.remote_addr[0] = ev.remote_port ? 1 : 2;
	ev.iss = rd_u8(&r->in) % 2;
	ev.irs = rd_u8(&r->in) % 2;
	rd_copy(&r->in, ev.comm, rd_u8(&r->in) % (sizeof(ev.comm) + 1));
	feed(r, &ev, sizeof(ev));
}

static uint64_t position(struct run *r)
{
	uint8_t how = rd_u8(&r->in);

	return how < 0xf0 ? how : rd_u64be(&r->in);
}

static void put_data(struct run *r, uint32_t type)
{
	union {
		uint8_t bytes[sizeof(struct sslc_ev_data) + 16];
		struct sslc_ev_data d;
	} ev = {{0}};
	uint8_t how = rd_u8(&r->in);

	ev.d.ev = header(r, type, sizeof(ev.d));
	ev.d.conn = conn(r);
	ev.d.pos = position(r);
	ev.d.len = 1 + rd_u8(&r->in) % 16u;
	ev.d.dir = how & 1;
	ev.d.flags = how >> 1;
	ev.d.ev.size += ev.d.len;
	feed(r, &ev, ev.d.ev.size);
}

static void put_bind(struct run *r)
{
	struct sslc_ev_bind ev = {.ev = header(r, SSLC_EV_BIND, sizeof(ev))};

	ev.conn = conn(r);
	feed(r, &ev, sizeof(ev));
}

static void put_lost(struct run *r, uint64_t flow, uint64_t in, uint64_t out)
{
	struct sslc_ev_lost ev = {.ev = {SSLC_EV_LOST, sizeof(ev), r->now_ns, flow},
				  .pos = {in, out}};

	feed(r, &ev, sizeof(ev));
}

static void put_gap(struct run *r)
{
	struct sslc_ev_gap ev = {.ev = header(r, SSLC_EV_GAP, sizeof(ev))};

	ev.conn = conn(r);
	ev.pos = position(r);
	ev.len = position(r);
	ev.dir = rd_u8(&r->in) % 3;
	if (ev.dir == 2)
		put_lost(r, ev.ev.flow, ev.pos, ev.len);
	else
		feed(r, &ev, sizeof(ev));
}

static void put_early(struct run *r)
{
	struct sslc_ev_early ev = {.ev = header(r, SSLC_EV_EARLY, sizeof(ev))};

	ev.conn = conn(r);
	ev.accepted = rd_u8(&r->in) % 2;
	feed(r, &ev, sizeof(ev));
}

static void put_sock(struct run *r)
{
	struct sslc_ev_sock ev = {.ev = header(r, SSLC_EV_SOCK, sizeof(ev))};

	ev.what = rd_u8(&r->in) % 12u;
	ev.failed = rd_u8(&r->in);
	feed(r, &ev, sizeof(ev));
}

/* Mostly the number that is due. */
static uint8_t next_seq(struct run *r, unsigned tid)
{
	r->seq[tid] = (uint8_t)((r->seq[tid] + (rd_u8(&r->in) == 0xff)) % 255 + 1);
	return r->seq[tid];
}

static void put_call(struct run *r, uint64_t ssl, unsigned tid)
{
	struct sslc_ev_call ev = {.ev = {SSLC_EV_CALL, sizeof(ev), r->now_ns, 0}};

	ev.conn.ssl = ssl;
	ev.tid = tid;
	ev.call = SSLC_CALL_READ;
	ev.seq = next_seq(r, tid);
	feed(r, &ev, sizeof(ev));
}

static void put_loose(struct run *r, uint64_t ssl, unsigned tid, unsigned dir, unsigned len)
{
	union {
		uint8_t bytes[sizeof(struct sslc_ev_data) + 16];
		struct sslc_ev_data d;
	} ev = {{0}};

	ev.d.ev = (struct sslc_event){SSLC_EV_DATA, (uint32_t)(sizeof(ev.d) + len), r->now_ns, 0};
	ev.d.conn.ssl = ssl;
	ev.d.pos = r->pos[ssl][dir];
	ev.d.tid = tid;
	ev.d.len = len;
	ev.d.dir = (uint8_t)dir;
	ev.d.flags = SSLC_DATA_END;
	ev.d.seq = next_seq(r, tid);
	r->pos[ssl][dir] += len;
	feed(r, &ev, ev.d.ev.size);
}

static void put_wire(struct run *r, uint64_t flow, unsigned tid, unsigned dir, unsigned len)
{
	struct sslc_ev_wire ev = {.ev = {SSLC_EV_WIRE, sizeof(ev), r->now_ns, flow}};

	ev.tid = tid;
	ev.dir = (uint8_t)dir;
	ev.n_rec = 1;
	ev.rec[0].len = (uint16_t)(len ? len + 17 : 300);
	ev.rec[0].type = len ? 23 : 22;
	ev.seq = next_seq(r, tid);
	feed(r, &ev, sizeof(ev));
}

/* What an object without a socket does, in an order that binds it, or one step of it. */
static void put_exchange(struct run *r)
{
	uint8_t how = rd_u8(&r->in), what = rd_u8(&r->in);
	uint64_t ssl = how % IDS, flow = 1 + (how / IDS) % (IDS - 1);
	unsigned tid = what & 1, len = 1 + what % 16;

	if (how >= 0xc0 || how & 1)
		put_call(r, ssl, tid);
	if (how >= 0xc0 || how & 2)
		put_wire(r, flow, tid, SSLC_DIR_IN, what & 0x40 ? len : 0);
	if (how >= 0xc0 || how & 4)
		put_loose(r, ssl, tid, SSLC_DIR_IN, len);
	if (how >= 0xc0 || how & 8)
		put_call(r, ssl, tid);
	if (how >= 0xc0 || how & 16)
		put_loose(r, ssl, tid, SSLC_DIR_OUT, len);
	if (how >= 0xc0 || how & 32)
		put_wire(r, flow, tid, SSLC_DIR_OUT, len);
}

/* Anything at all after a header that speaks true only about its size. */
static void put_raw(struct run *r)
{
	uint8_t bytes[160] = {0};
	size_t size = sizeof(struct sslc_event) +
		      rd_u8(&r->in) % (sizeof(bytes) - sizeof(struct sslc_event));
	struct sslc_event ev = header(r, rd_u8(&r->in) % 11u, size);

	if (ev.type == SSLC_EV_OPEN)
		ev.type = SSLC_EV_DATA; /* an open names a process: only put_open() chooses it */
	memcpy(bytes, &ev, sizeof(ev));
	rd_copy(&r->in, bytes + sizeof(ev), size - sizeof(ev));
	feed(r, bytes, size);
}

static void tick(struct run *r)
{
	r->now_ns += rd_u8(&r->in) * NS_PER_S;
	flows_tick(r->flows, r->now_ns, rd_u8(&r->in));
}

static void step(struct run *r)
{
	switch (rd_u8(&r->in) % 13) {
	case 0:
		put_open(r);
		break;
	case 1:
	case 2:
		put_data(r, SSLC_EV_DATA);
		break;
	case 3:
		put_bind(r);
		break;
	case 4:
	case 5:
		put_sock(r);
		break;
	case 6:
		put_raw(r);
		break;
	case 8:
		put_gap(r);
		break;
	case 9:
		put_early(r);
		break;
	case 10:
	case 11:
		put_exchange(r);
		break;
	case 12:
		put_data(r, SSLC_EV_CLEAR);
		break;
	default:
		tick(r);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct run r = {.in = rd_from(span_of(data, size)), .now_ns = NS_PER_S};
	struct flows_conf conf = {.skip = on_skip, .starttls = size / 2 % 3};

	must(!ship_new(&r.ship, 8u << 20));
	conf.ship = r.ship;
	must(!flows_new(&r.flows, &conf));
	while (r.in.in.len && !r.in.bad) {
		step(&r);
		drain(&r);
	}
	if (size % 2) {
		flows_close_all(r.flows, r.now_ns);
		drain(&r);
		must(!flows_count(r.flows));
		for (int i = 0; i < IDS; i++)
			must(r.flow[i].open == r.flow[i].closed);
	}
	flows_free(r.flows);
	ship_free(r.ship);
	return 0;
}
