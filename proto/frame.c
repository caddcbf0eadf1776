/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frame: see frame.h. Shapes in, bytes out, and back; PROTOCOL.md section 3. Every encoder knows
 * the length of its body beforehand: it reserves once and fills, so a frame is in the buf as a
 * whole or not at all. No I/O, no clock, no allocation but the buf's.
 */
#include "frame.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <string.h>

#define HELLO_FIXED     38 /* bytes of a body before its first length-prefixed field */
#define FLOW_OPEN_FIXED 96
#define DATA_FIXED      28

/* A frame being written: its room was reserved beforehand, so nothing here can fail. */
struct put {
	uint8_t *at, *end;
};

static void put_be(struct put *w, uint64_t v, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		w->at[i] = (uint8_t)(v >> 8 * (n - 1 - i));
	w->at += n;
}

static void put_u8(struct put *w, uint8_t v)
{
	*w->at++ = v;
}

static void put_u16(struct put *w, uint16_t v)
{
	put_be(w, v, 2);
}

static void put_u32(struct put *w, uint32_t v)
{
	put_be(w, v, 4);
}

static void put_u64(struct put *w, uint64_t v)
{
	uint64_t be = htobe64(v);

	memcpy(w->at, &be, sizeof(be));
	w->at += sizeof(be);
}

static void put_bytes(struct put *w, const void *p, size_t n)
{
	if (n)
		memcpy(w->at, p, n);
	w->at += n;
}

static void put_text8(struct put *w, struct span s)
{
	put_u8(w, (uint8_t)s.len);
	put_bytes(w, s.p, s.len);
}

static void put_text16(struct put *w, struct span s)
{
	put_u16(w, (uint16_t)s.len);
	put_bytes(w, s.p, s.len);
}

/* Reserve the frame, write its header. False when the buf is full: nothing is written. */
static bool put_begin(struct put *w, struct buf *b, enum frame_type type, size_t body_len)
{
	assert(body_len <= FRAME_BODY_MAX);
	if (b->bad || buf_reserve(b, FRAME_HEADER_LEN + body_len))
		return false;
	w->at = b->p + b->len;
	w->end = w->at + FRAME_HEADER_LEN + body_len;
	b->len += FRAME_HEADER_LEN + body_len;
	put_u8(w, (uint8_t)type);
	put_u8(w, 0);
	put_u16(w, 0);
	put_u32(w, (uint32_t)body_len);
	return true;
}

static void put_end(const struct put *w)
{
	(void)w;
	assert(w->at == w->end);
}

static struct span cut(struct span s, size_t max)
{
	return span_of(s.p, s.len < max ? s.len : max);
}

ssize_t frame_decode(struct span in, struct frame *out)
{
	struct rd r = rd_from(in);
	uint8_t type = rd_u8(&r), flags = rd_u8(&r);
	uint16_t reserved = rd_u16be(&r);
	uint32_t len = rd_u32be(&r);

	if (r.bad)
		return 0;
	if (!type || reserved)
		return -EBADMSG;
	if (len > FRAME_BODY_MAX)
		return -EMSGSIZE;
	struct span body = rd_bytes(&r, len);

	if (r.bad)
		return 0;
	*out = (struct frame){.type = type, .flags = flags, .body = body};
	return (ssize_t)(FRAME_HEADER_LEN + len);
}

uint64_t frame_flow(const struct frame *f)
{
	struct rd r = rd_from(f->body);

	return f->type >= FRAME_FLOW_OPEN && f->type <= FRAME_FLOW_CLOSE ? rd_u64be(&r) : 0;
}

void frame_put_hello(struct buf *b, const struct frame_hello *m)
{
	struct span host = cut(m->host, FRAME_TEXT_MAX),
		    software = cut(m->software, FRAME_TEXT_MAX);
	struct put w;

	if (!put_begin(&w, b, FRAME_HELLO, HELLO_FIXED + 2 + host.len + software.len))
		return;
	put_u16(&w, m->version);
	put_bytes(&w, m->agent, sizeof(m->agent));
	put_u16(&w, m->link);
	put_u16(&w, m->n_links);
	put_u64(&w, m->next_seq);
	put_u64(&w, m->ts_ns);
	put_text8(&w, host);
	put_text8(&w, software);
	put_end(&w);
}

void frame_put_welcome(struct buf *b, const struct frame_welcome *m)
{
	struct put w;

	if (!put_begin(&w, b, FRAME_WELCOME, 28))
		return;
	put_u16(&w, m->version);
	put_bytes(&w, m->collector, sizeof(m->collector));
	put_u16(&w, m->n_workers);
	put_u64(&w, m->resume_seq);
	put_end(&w);
}

void frame_put_refused(struct buf *b, const struct frame_refused *m)
{
	struct span text = cut(m->text, FRAME_TEXT_MAX);
	struct put w;

	if (!put_begin(&w, b, FRAME_REFUSED, 2 + 1 + text.len))
		return;
	put_u16(&w, m->code);
	put_text8(&w, text);
	put_end(&w);
}

static void put_addr(struct put *w, const uint8_t addr[16], uint8_t family)
{
	static const uint8_t zero[12];

	put_bytes(w, addr, family == 4 ? 4 : 16);
	if (family == 4)
		put_bytes(w, zero, sizeof(zero));
}

static void put_tuple(struct put *w, const struct frame_flow_open *m)
{
	put_u8(w, m->transport);
	put_u8(w, m->family);
	put_u8(w, m->captured_end);
	put_u8(w, m->confidence);
	put_addr(w, m->client_addr, m->family);
	put_addr(w, m->server_addr, m->family);
	put_u16(w, m->client_port);
	put_u16(w, m->server_port);
}

void frame_put_flow_open(struct buf *b, const struct frame_flow_open *m)
{
	struct span comm = cut(m->comm, FRAME_TEXT_MAX), exe = cut(m->exe, FRAME_EXE_MAX);
	struct span container = cut(m->container, FRAME_TEXT_MAX);
	struct put w;

	if (!put_begin(&w, b, FRAME_FLOW_OPEN,
		       FLOW_OPEN_FIXED + 4 + comm.len + exe.len + container.len))
		return;
	put_u64(&w, m->flow);
	put_bytes(&w, m->session, sizeof(m->session));
	put_u64(&w, m->ts_ns);
	put_u64(&w, m->stream);
	put_tuple(&w, m);
	put_u16(&w, m->mss);
	put_u16(&w, m->flags);
	put_u32(&w, m->netns);
	put_u32(&w, m->pid);
	put_u32(&w, m->uid);
	put_text8(&w, comm);
	put_text16(&w, exe);
	put_text8(&w, container);
	put_end(&w);
}

void frame_put_flow_meta(struct buf *b, const struct frame_flow_meta *m)
{
	struct span key = cut(m->key, FRAME_TEXT_MAX), value = cut(m->value, FRAME_VALUE_MAX);
	struct put w;

	if (!put_begin(&w, b, FRAME_FLOW_META, 8 + 3 + key.len + value.len))
		return;
	put_u64(&w, m->flow);
	put_text8(&w, key);
	put_text16(&w, value);
	put_end(&w);
}

void frame_put_data(struct buf *b, const struct frame_data *m)
{
	struct put w;

	if (!m->bytes.len || m->bytes.len > FRAME_DATA_MAX) {
		b->bad = true;
		return;
	}
	if (!put_begin(&w, b, FRAME_DATA, DATA_FIXED + m->bytes.len))
		return;
	put_u64(&w, m->flow);
	put_u64(&w, m->offset);
	put_u64(&w, m->ts_ns);
	put_u8(&w, m->dir);
	put_u8(&w, m->flags);
	put_text16(&w, m->bytes);
	put_end(&w);
}

void frame_put_gap(struct buf *b, const struct frame_gap *m)
{
	struct put w;

	if (!put_begin(&w, b, FRAME_GAP, 33))
		return;
	put_u64(&w, m->flow);
	put_u64(&w, m->offset);
	put_u64(&w, m->len);
	put_u64(&w, m->ts_ns);
	put_u8(&w, m->dir);
	put_end(&w);
}

void frame_put_flow_fin(struct buf *b, const struct frame_flow_fin *m)
{
	struct put w;

	if (!put_begin(&w, b, FRAME_FLOW_FIN, 17))
		return;
	put_u64(&w, m->flow);
	put_u64(&w, m->ts_ns);
	put_u8(&w, m->dir);
	put_end(&w);
}

void frame_put_flow_close(struct buf *b, const struct frame_flow_close *m)
{
	struct put w;

	if (!put_begin(&w, b, FRAME_FLOW_CLOSE, FRAME_CLOSE_LEN - FRAME_HEADER_LEN))
		return;
	put_u64(&w, m->flow);
	put_u64(&w, m->ts_ns);
	put_u8(&w, m->end);
	put_end(&w);
}

void frame_put_stats(struct buf *b, const struct frame_stats *m)
{
	struct span name = cut(m->name, FRAME_TEXT_MAX);
	struct put w;

	if (!put_begin(&w, b, FRAME_STATS, 1 + name.len + 8))
		return;
	put_text8(&w, name);
	put_u64(&w, m->value);
	put_end(&w);
}

static void put_number(struct buf *b, enum frame_type type, uint64_t v)
{
	struct put w;

	if (!put_begin(&w, b, type, 8))
		return;
	put_u64(&w, v);
	put_end(&w);
}

void frame_put_ack(struct buf *b, const struct frame_ack *m)
{
	put_number(b, FRAME_ACK, m->seq);
}

void frame_put_ping(struct buf *b, const struct frame_ping *m, bool pong)
{
	bool said = m->came_ns || m->left_ns || m->ahead_ns || m->trip_ns;
	struct put w;

	if (!put_begin(&w, b, pong ? FRAME_PONG : FRAME_PING, said ? 40 : 8))
		return;
	put_u64(&w, m->ts_ns);
	if (said) {
		put_u64(&w, m->came_ns);
		put_u64(&w, m->left_ns);
		put_u64(&w, (uint64_t)m->ahead_ns);
		put_u64(&w, m->trip_ns);
	}
	put_end(&w);
}

void frame_put_enroll(struct buf *b, const struct frame_enroll *m)
{
	struct span host = cut(m->host, FRAME_TEXT_MAX);
	struct put w;

	if (m->csr_der.len > FRAME_CERT_MAX) {
		b->bad = true;
		return;
	}
	if (!put_begin(&w, b, FRAME_ENROLL, sizeof(m->secret) + 3 + host.len + m->csr_der.len))
		return;
	put_bytes(&w, m->secret, sizeof(m->secret));
	put_text8(&w, host);
	put_text16(&w, m->csr_der);
	put_end(&w);
}

void frame_put_enrolled(struct buf *b, const struct frame_enrolled *m)
{
	struct put w;

	if (m->cert_pem.len > FRAME_CERT_MAX || m->ca_pem.len > FRAME_CERT_MAX) {
		b->bad = true;
		return;
	}
	if (!put_begin(&w, b, FRAME_ENROLLED, 4 + m->cert_pem.len + m->ca_pem.len))
		return;
	put_text16(&w, m->cert_pem);
	put_text16(&w, m->ca_pem);
	put_end(&w);
}

/* Decoders fill a local shape and copy it out only when all of it is valid. */

static struct span rd_text8(struct rd *r)
{
	return rd_bytes(r, rd_u8(r));
}

static struct span rd_text16(struct rd *r, size_t max)
{
	struct span s = rd_bytes(r, rd_u16be(r));

	r->bad |= s.len > max;
	return s;
}

/* An enumerated field: values from lo to hi are known. */
static uint8_t rd_enum(struct rd *r, uint8_t lo, uint8_t hi)
{
	uint8_t v = rd_u8(r);

	r->bad |= v < lo || v > hi;
	return v;
}

static uint64_t rd_flow(struct rd *r)
{
	uint64_t flow = rd_u64be(r);

	r->bad |= !flow;
	return flow;
}

int frame_get_hello(const struct frame *f, struct frame_hello *m)
{
	struct rd r = rd_from(f->body);
	struct frame_hello v = {.version = rd_u16be(&r)};

	rd_copy(&r, v.agent, sizeof(v.agent));
	v.link = rd_u16be(&r);
	v.n_links = rd_u16be(&r);
	v.next_seq = rd_u64be(&r);
	v.ts_ns = rd_u64be(&r);
	v.host = rd_text8(&r);
	v.software = rd_text8(&r);
	if (r.bad || v.link >= v.n_links)
		return -EBADMSG;
	*m = v;
	return 0;
}

int frame_get_welcome(const struct frame *f, struct frame_welcome *m)
{
	struct rd r = rd_from(f->body);
	struct frame_welcome v = {.version = rd_u16be(&r)};

	rd_copy(&r, v.collector, sizeof(v.collector));
	v.n_workers = rd_u16be(&r);
	v.resume_seq = rd_u64be(&r);
	if (r.bad)
		return -EBADMSG;
	*m = v;
	return 0;
}

int frame_get_refused(const struct frame *f, struct frame_refused *m)
{
	struct rd r = rd_from(f->body);
	struct frame_refused v = {.code = rd_u16be(&r)};

	v.text = rd_text8(&r);
	if (r.bad)
		return -EBADMSG;
	*m = v;
	return 0;
}

static void rd_addr(struct rd *r, uint8_t addr[16], uint8_t family)
{
	rd_copy(r, addr, 16);
	if (family == 4)
		memset(addr + 4, 0, 12);
}

static void rd_tuple(struct rd *r, struct frame_flow_open *v)
{
	v->transport = rd_u8(r);
	v->family = rd_u8(r);
	r->bad |= v->family != 4 && v->family != 6;
	v->captured_end = rd_enum(r, FLOW_C2S, FLOW_S2C);
	v->confidence = rd_enum(r, CONF_UNKNOWN, CONF_EXACT);
	rd_addr(r, v->client_addr, v->family);
	rd_addr(r, v->server_addr, v->family);
	v->client_port = rd_u16be(r);
	v->server_port = rd_u16be(r);
}

int frame_get_flow_open(const struct frame *f, struct frame_flow_open *m)
{
	struct rd r = rd_from(f->body);
	struct frame_flow_open v = {.flow = rd_flow(&r)};

	rd_copy(&r, v.session, sizeof(v.session));
	v.ts_ns = rd_u64be(&r);
	v.stream = rd_u64be(&r);
	rd_tuple(&r, &v);
	v.mss = rd_u16be(&r);
	v.flags = rd_u16be(&r);
	v.netns = rd_u32be(&r);
	v.pid = rd_u32be(&r);
	v.uid = rd_u32be(&r);
	v.comm = rd_text8(&r);
	v.exe = rd_text16(&r, FRAME_EXE_MAX);
	v.container = rd_text8(&r);
	if (r.bad)
		return -EBADMSG;
	*m = v;
	return 0;
}

int frame_get_flow_meta(const struct frame *f, struct frame_flow_meta *m)
{
	struct rd r = rd_from(f->body);
	struct frame_flow_meta v = {.flow = rd_flow(&r)};

	v.key = rd_text8(&r);
	v.value = rd_text16(&r, FRAME_VALUE_MAX);
	if (r.bad || !v.key.len)
		return -EBADMSG;
	*m = v;
	return 0;
}

int frame_get_data(const struct frame *f, struct frame_data *m)
{
	struct rd r = rd_from(f->body);
	struct frame_data v = {.flow = rd_flow(&r)};

	v.offset = rd_u64be(&r);
	v.ts_ns = rd_u64be(&r);
	v.dir = rd_enum(&r, FLOW_C2S, FLOW_S2C);
	v.flags = rd_u8(&r);
	v.bytes = rd_text16(&r, FRAME_DATA_MAX);
	if (r.bad || !v.bytes.len || v.offset > UINT64_MAX - v.bytes.len)
		return -EBADMSG;
	*m = v;
	return 0;
}

int frame_get_gap(const struct frame *f, struct frame_gap *m)
{
	struct rd r = rd_from(f->body);
	struct frame_gap v = {.flow = rd_flow(&r)};

	v.offset = rd_u64be(&r);
	v.len = rd_u64be(&r);
	v.ts_ns = rd_u64be(&r);
	v.dir = rd_enum(&r, FLOW_C2S, FLOW_S2C);
	if (r.bad || !v.len || v.offset > UINT64_MAX - v.len)
		return -EBADMSG;
	*m = v;
	return 0;
}

int frame_get_flow_fin(const struct frame *f, struct frame_flow_fin *m)
{
	struct rd r = rd_from(f->body);
	struct frame_flow_fin v = {.flow = rd_flow(&r)};

	v.ts_ns = rd_u64be(&r);
	v.dir = rd_enum(&r, FLOW_C2S, FLOW_S2C);
	if (r.bad)
		return -EBADMSG;
	*m = v;
	return 0;
}

int frame_get_flow_close(const struct frame *f, struct frame_flow_close *m)
{
	struct rd r = rd_from(f->body);
	struct frame_flow_close v = {.flow = rd_flow(&r)};

	v.ts_ns = rd_u64be(&r);
	v.end = rd_enum(&r, FLOW_END_FIN, FLOW_END_AGENT);
	if (r.bad)
		return -EBADMSG;
	*m = v;
	return 0;
}

int frame_get_stats(const struct frame *f, struct frame_stats *m)
{
	struct rd r = rd_from(f->body);
	struct frame_stats v = {.name = rd_text8(&r)};

	v.value = rd_u64be(&r);
	if (r.bad || !v.name.len)
		return -EBADMSG;
	*m = v;
	return 0;
}

int frame_get_ack(const struct frame *f, struct frame_ack *m)
{
	struct rd r = rd_from(f->body);
	struct frame_ack v = {.seq = rd_u64be(&r)};

	if (r.bad)
		return -EBADMSG;
	*m = v;
	return 0;
}

int frame_get_ping(const struct frame *f, struct frame_ping *m)
{
	struct rd r = rd_from(f->body);
	struct frame_ping v = {.ts_ns = rd_u64be(&r)};

	if (r.bad)
		return -EBADMSG;
	if (r.in.len >= 32) {
		v.came_ns = rd_u64be(&r);
		v.left_ns = rd_u64be(&r);
		v.ahead_ns = (int64_t)rd_u64be(&r);
		v.trip_ns = rd_u64be(&r);
	}
	*m = v;
	return 0;
}

int frame_get_enroll(const struct frame *f, struct frame_enroll *m)
{
	struct rd r = rd_from(f->body);
	struct frame_enroll v = {0};

	rd_copy(&r, v.secret, sizeof(v.secret));
	v.host = rd_text8(&r);
	v.csr_der = rd_text16(&r, FRAME_CERT_MAX);
	if (r.bad)
		return -EBADMSG;
	*m = v;
	return 0;
}

int frame_get_enrolled(const struct frame *f, struct frame_enrolled *m)
{
	struct rd r = rd_from(f->body);
	struct frame_enrolled v = {0};

	v.cert_pem = rd_text16(&r, FRAME_CERT_MAX);
	v.ca_pem = rd_text16(&r, FRAME_CERT_MAX);
	if (r.bad)
		return -EBADMSG;
	*m = v;
	return 0;
}

const char *frame_confidence(unsigned confidence)
{
	static const char *const names[] = {[CONF_UNKNOWN] = "unknown",
					    [CONF_INFERRED] = "inferred",
					    [CONF_MATCHED] = "matched",
					    [CONF_EXACT] = "exact"};

	return names[confidence < sizeof(names) / sizeof(names[0]) ? confidence : CONF_UNKNOWN];
}
