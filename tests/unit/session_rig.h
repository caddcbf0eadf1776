/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests of collector/sessions/session.c: encoded frames in, packets out to a sink that hands
 * each one to the independent reader of packet_check.h.
 */
#ifndef SSLC_TESTS_SESSION_RIG_H
#define SSLC_TESTS_SESSION_RIG_H

#include "base/clock.h"
#include "base/metrics.h"
#include "packet_check.h"
#include "sessions/session.h"

#define T0 1700000000000000000ull /* the agents' wall clock */

struct capture {
	struct sink sink; /* first: see sink.h */
	struct check check;
	uint32_t mtu;
	uint64_t messages, message_bytes, message_hash, message_ends;
	char host[256], comm[64], exe[64];
	uint64_t last_ts_ns;
};

struct rig {
	struct capture capture;
	struct sink_set set;
	struct sessions *t;
	struct session_origin *a, *b;
	struct buf buf;
	uint64_t now; /* the collector's clock */
	char *before; /* counters when the rig was made */
};

static inline uint8_t pattern(int dir, uint64_t pos)
{
	return (uint8_t)(pos * 131 + (pos >> 8) * 7 + (unsigned)dir * 91);
}

static inline void on_packet(struct sink *s, struct span l2, uint64_t ts_ns,
			     const struct sink_flow *flow, bool first)
{
	struct capture *c = (struct capture *)s;
	uint8_t *copy = malloc(l2.len);

	c->last_ts_ns = ts_ns;
	memcpy(copy, l2.p, l2.len);
	check_frame(&c->check, copy, l2.len, ts_ns, first);
	free(copy);
	snprintf(c->host, sizeof(c->host), "%s", flow->host);
	snprintf(c->comm, sizeof(c->comm), "%.*s", (int)flow->open->comm.len,
		 (const char *)flow->open->comm.p);
	snprintf(c->exe, sizeof(c->exe), "%.*s", (int)flow->open->exe.len,
		 (const char *)flow->open->exe.p);
}

static inline void on_message(struct sink *s, const struct sink_flow *flow, enum flow_dir dir,
			      struct span bytes, bool end, uint64_t ts_ns)
{
	struct capture *c = (struct capture *)s;

	(void)flow, (void)dir, (void)ts_ns;
	c->messages++;
	c->message_ends += end;
	c->message_bytes += bytes.len;
	c->message_hash = check_hash(c->message_hash, bytes.p, bytes.len);
}

static inline uint32_t capture_mtu(const struct sink *s)
{
	return ((const struct capture *)s)->mtu;
}

static const struct sink_ops capture_ops = {
	.name = "capture",
	.packet = on_packet,
	.message = on_message,
	.mtu = capture_mtu,
};

static char *counters(void)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	metrics_dump(f, true);
	fclose(f);
	return text;
}

static uint64_t counter_in(const char *text, const char *name)
{
	char key[128];
	const char *at;

	snprintf(key, sizeof(key), "counter %s ", name);
	at = strstr(text, key);
	return at ? strtoull(at + strlen(key), NULL, 10) : 0;
}

/* How much a counter grew since the rig was made. */
static uint64_t grown(struct rig *r, const char *name)
{
	char *text = counters();
	uint64_t v = counter_in(text, name) - counter_in(r->before, name);

	free(text);
	return v;
}

static inline struct rig *rig_new_as(const struct session_conf *conf, enum sink_h2 form)
{
	struct rig *r = calloc(1, sizeof(*r));

	r->capture.sink.shape.http1 = (uint16_t)form;
	r->capture.sink.ops = &capture_ops;
	r->capture.mtu = r->capture.check.mtu = 1500;
	r->capture.check.pattern = pattern;
	r->set.v[0] = &r->capture.sink;
	r->set.n = 1;
	r->now = 1000 * NS_PER_S;
	r->before = counters();
	buf_init(&r->buf, 1 << 20);
	assert_int_equal(sessions_new(&r->t, conf, &r->set), 0);
	r->a = sessions_origin(r->t, (const uint8_t *)"aaaaaaaaaaaaaaaa", span_str("web1"));
	r->b = sessions_origin(r->t, (const uint8_t *)"bbbbbbbbbbbbbbbb", span_str("db 2\n"));
	assert_non_null(r->a);
	assert_non_null(r->b);
	return r;
}

static inline struct rig *rig_new(const struct session_conf *conf)
{
	return rig_new_as(conf, SINK_H2_NATIVE);
}

static inline void rig_free(struct rig *r)
{
	struct check *c = &r->capture.check;

	assert_null(c->err);
	assert_int_equal(c->payload_bytes, r->capture.message_bytes);
	assert_int_equal(c->payload_hash, r->capture.message_hash);
	sessions_free(r->t);
	buf_fini(&r->buf);
	free(r->before);
	free(r);
}

static inline int push(struct rig *r, struct session_origin *o)
{
	struct frame f;
	int err;

	assert_false(r->buf.bad);
	assert_int_equal(frame_decode(buf_span(&r->buf), &f), r->buf.len);
	err = sessions_frame(r->t, o, &f, r->now);
	buf_reset(&r->buf);
	return err;
}

static inline struct frame_flow_open a_flow(uint64_t flow, uint8_t id, uint16_t client_port)
{
	struct frame_flow_open m = {
		.flow = flow,
		.session = {id, 1, 2, 3},
		.ts_ns = T0,
		.transport = 6,
		.family = 4,
		.captured_end = FLOW_S2C,
		.confidence = CONF_EXACT,
		.client_addr = {10, 0, 0, 1},
		.server_addr = {10, 0, 0, 2},
		.client_port = client_port,
		.server_port = 443,
		.comm = span_str("nginx"),
		.exe = span_str("/usr/sbin/nginx"),
	};

	return m;
}

static inline void put_open(struct rig *r, struct session_origin *o,
			    const struct frame_flow_open *m)
{
	frame_put_flow_open(&r->buf, m);
	assert_int_equal(push(r, o), 0);
}

static inline void put_data(struct rig *r, struct session_origin *o, uint64_t flow,
			    enum flow_dir dir, uint64_t offset, size_t len, uint64_t ts_ns)
{
	struct frame_data m = {.flow = flow, .dir = (uint8_t)dir, .ts_ns = ts_ns};

	while (len > 0) {
		size_t n = len < FRAME_DATA_MAX ? len : FRAME_DATA_MAX;
		uint8_t *p = malloc(n);

		for (size_t i = 0; i < n; i++)
			p[i] = pattern((int)dir, offset + i);
		m.offset = offset;
		m.bytes = span_of(p, n);
		m.flags = n == len ? FRAME_DATA_END : 0;
		frame_put_data(&r->buf, &m);
		assert_int_equal(push(r, o), 0);
		free(p);
		offset += n;
		len -= n;
	}
}

static inline void put_gap(struct rig *r, struct session_origin *o, uint64_t flow,
			   enum flow_dir dir, uint64_t offset, uint64_t len, uint64_t ts_ns)
{
	struct frame_gap m = {
		.flow = flow, .offset = offset, .len = len, .ts_ns = ts_ns, .dir = (uint8_t)dir};

	frame_put_gap(&r->buf, &m);
	assert_int_equal(push(r, o), 0);
}

static inline void put_fin(struct rig *r, struct session_origin *o, uint64_t flow,
			   enum flow_dir dir, uint64_t ts_ns)
{
	struct frame_flow_fin m = {.flow = flow, .ts_ns = ts_ns, .dir = (uint8_t)dir};

	frame_put_flow_fin(&r->buf, &m);
	assert_int_equal(push(r, o), 0);
}

static inline void put_close(struct rig *r, struct session_origin *o, uint64_t flow,
			     enum flow_end end, uint64_t ts_ns)
{
	struct frame_flow_close m = {.flow = flow, .ts_ns = ts_ns, .end = (uint8_t)end};

	frame_put_flow_close(&r->buf, &m);
	assert_int_equal(push(r, o), 0);
}

static uint64_t rng_state;

/* xorshift64 (Marsaglia, 2003) */
static inline uint32_t rnd(uint32_t below)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return (uint32_t)(rng_state >> 32) % below;
}

#endif
