/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of collector/http/outlet_http1.c and streams.c: bytes of HTTP/2 connections in,
 * packets to the independent reader of packet_check.h, and what each forged connection says as
 * text: '>' stands where the client begins to speak, '<' where the server does; F and R are FIN and
 * RST.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "counters.h"
#include "h2_build.h"
#include "outlet.h"
#include "packet_check.h"

#define TS     1700000000000000000ull
#define TOLD   64
#define CLIENT 5000

static unsigned parts = 1;

struct told {
	uint16_t port;
	int last; /* who spoke last */
	size_t len;
	char text[6000];
};

struct capture {
	struct sink sink; /* first: see sink.h */
	struct check check;
	struct told told[TOLD]; /* the forged connections, in the order of their SYNs */
	unsigned n;
	struct sink_stream stream; /* the last one that began */
	unsigned streams;
	bool blind; /* more connections than told[] holds */
};

struct rig {
	struct capture c;
	struct sink_set sinks;
	struct outlet_set set;
	struct frame_flow_open open;
	struct outlet_flow flow;
	struct buf b[2];
	uint64_t ts;
	_Alignas(8) uint8_t states[512];
};

static void put(struct told *t, const void *p, size_t len)
{
	if (len > sizeof(t->text) - 1 - t->len)
		len = sizeof(t->text) - 1 - t->len;
	memcpy(t->text + t->len, p, len);
	t->len += len;
}

static struct told *told_of(struct capture *c, const struct check_packet *k, int *dir)
{
	if (k->flags == CF_SYN) {
		assert_true(c->n < TOLD);
		c->told[c->n].port = k->sport;
		c->told[c->n].last = -1;
		c->n++;
	}
	for (unsigned i = c->n; i-- > 0;) {
		*dir = c->told[i].port == k->sport ? 0 : 1;
		if (c->told[i].port == k->sport || c->told[i].port == k->dport)
			return &c->told[i];
	}
	fail_msg("a packet of no connection");
	return NULL;
}

static void on_packet(struct sink *s, struct span l2, uint64_t ts_ns, const struct sink_flow *flow,
		      bool first)
{
	struct capture *c = (struct capture *)s;
	struct check_packet k;
	struct told *t;
	uint8_t *copy;
	int dir = 0;

	assert_int_equal(flow->open->client_port, CLIENT);
	if (c->blind)
		return;
	copy = malloc(l2.len); /* exact size: a read past the frame is seen by ASan */
	memcpy(copy, l2.p, l2.len);
	check_frame(&c->check, copy, l2.len, ts_ns, first);
	assert_true(check_parse(&c->check, &k, copy, l2.len));
	t = told_of(c, &k, &dir);
	if (k.len > 0 && t->last != dir)
		put(t, dir ? "<" : ">", 1);
	if (k.len > 0)
		t->last = dir;
	put(t, k.payload, k.len);
	if (k.flags & (CF_FIN | CF_RST))
		put(t, k.flags & CF_RST ? dir ? "<R" : ">R" : dir ? "<F" : ">F", 2);
	free(copy);
}

static void on_stream(struct sink *s, const struct sink_stream *stream, uint64_t ts_ns)
{
	struct capture *c = (struct capture *)s;

	(void)ts_ns;
	c->stream = *stream;
	c->streams++;
}

static const struct sink_ops ops = {.name = "test", .packet = on_packet, .stream = on_stream};

static void begin(struct rig *r)
{
	outlets_begin(&r->set, r->states, &r->flow, r->ts);
}

/* As captured from its beginning, or late. */
static struct rig *rig_new_as(uint16_t flags, enum sink_h2 form)
{
	struct rig *r = calloc(1, sizeof(*r));

	r->open = (struct frame_flow_open){.flow = 1,
					   .session = {7, 1},
					   .transport = 6,
					   .family = 4,
					   .client_addr = {10, 0, 0, 1},
					   .server_addr = {10, 0, 0, 2},
					   .client_port = CLIENT,
					   .server_port = 443,
					   .flags = flags};
	r->flow.who = (struct sink_flow){.open = &r->open, .host = "web1"};
	r->c.sink = (struct sink){.ops = &ops, .shape = {.http1 = (uint16_t)form}};
	r->c.check.mtu = 1500;
	r->sinks = (struct sink_set){.v = {&r->c.sink}, .n = 1};
	r->ts = TS;
	outlets_init(&r->set, &r->sinks);
	assert_int_equal(r->set.n, 1);
	assert_true(r->set.state_len <= sizeof(r->states));
	assert_int_equal(outlets_open(&r->set, &r->sinks, parts), 0);
	buf_init(&r->b[0], 1 << 20);
	buf_init(&r->b[1], 1 << 20);
	begin(r);
	return r;
}

static struct rig *rig_new(uint16_t flags)
{
	return rig_new_as(flags, SINK_H2_HTTP1);
}

static void rig_free(struct rig *r)
{
	outlets_forget(&r->set, r->states);
	outlets_close(&r->set);
	assert_null(r->c.check.err);
	buf_fini(&r->b[0]);
	buf_fini(&r->b[1]);
	free(r);
}

static void give(struct rig *r, enum flow_dir dir, struct span bytes)
{
	uint8_t *copy = malloc(bytes.len + 1);
	struct frame_flow_open *open = malloc(sizeof(*open)); /* only for this call */
	struct outlet_flow flow = r->flow;

	memcpy(copy, bytes.p, bytes.len);
	*open = r->open;
	flow.who.open = open;
	r->ts += 1000;
	(void)outlets_data(&r->set, r->states, &flow, dir, span_of(copy, bytes.len), true, r->ts);
	memset(open, 0xff, sizeof(*open));
	free(open);
	free(copy);
}

/* What was built of one side goes out as one TLS call. */
static void say(struct rig *r, enum flow_dir dir)
{
	assert_false(r->b[dir].bad);
	give(r, dir, buf_span(&r->b[dir]));
	buf_reset(&r->b[dir]);
}

/* A connection after its prefaces. */
static struct rig *started_as(enum sink_h2 form)
{
	struct rig *r = rig_new_as(0, form);

	h2_start(&r->b[0], &r->b[1]);
	say(r, FLOW_C2S);
	say(r, FLOW_S2C);
	assert_int_equal(r->c.n, 0); /* nothing was asked yet */
	return r;
}

static struct rig *started(void)
{
	return started_as(SINK_H2_HTTP1);
}

static void expect(const struct rig *r, unsigned i, const char *text)
{
	assert_true(i < r->c.n);
	assert_string_equal(r->c.told[i].text, text);
}

static void ask(struct rig *r, uint32_t stream, const char *path, bool end)
{
	char fields[256];

	snprintf(fields, sizeof(fields), ":method: %s\n:path: %s\n:authority: a\n",
		 end ? "GET" : "POST", path);
	h2_headers(&r->b[FLOW_C2S], stream, fields, end);
}

#define ASKED(path)  ">GET " path " HTTP/1.1\r\nHost: a\r\n\r\n"
#define POSTED(path) ">POST " path " HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
#define CHUNKED      "<HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

static void test_each_stream_has_a_connection_of_its_own(void **state)
{
	struct rig *r = started();

	(void)state;
	ask(r, 1, "/one", true);
	ask(r, 3, "/three", true);
	say(r, FLOW_C2S);
	h2_headers(&r->b[1], 3, ":status: 200\n", false);
	h2_data(&r->b[1], 3, "drei", false);
	h2_headers(&r->b[1], 1, ":status: 200\ncontent-length: 4\n", false);
	h2_data(&r->b[1], 1, "eins", true);
	h2_data(&r->b[1], 3, "!", true);
	say(r, FLOW_S2C);
	expect(r, 0, ASKED("/one") "<HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\neins>F<F");
	expect(r, 1, ASKED("/three") CHUNKED "4\r\ndrei\r\n1\r\n!\r\n0\r\n\r\n>F<F");
	assert_int_equal(r->c.n, 2);
	assert_int_not_equal(r->c.told[0].port, r->c.told[1].port);
	assert_int_not_equal(r->c.told[0].port, CLIENT);
	assert_int_equal(check_open_flows(&r->c.check), 0);
	assert_int_equal(r->c.streams, 2);
	assert_int_equal(r->c.stream.id, 3);
	assert_int_equal(r->c.stream.client_port, r->c.told[1].port);
	assert_int_equal(r->c.stream.server_port, 443);
	rig_free(r);
}

/* The prefaces cut into single bytes, and the server first. */
static void test_http2_is_recognized_however_it_begins(void **state)
{
	struct rig *r = rig_new(0);

	(void)state;
	h2_start(&r->b[0], &r->b[1]);
	say(r, FLOW_S2C);
	ask(r, 1, "/", true);
	for (size_t i = 0; i < r->b[0].len; i++)
		give(r, FLOW_C2S, span_of(r->b[0].p + i, 1));
	expect(r, 0, ASKED("/"));
	assert_int_equal(r->c.n, 1);
	rig_free(r);
}

static void test_all_else_is_shown_as_it_is(void **state)
{
	static const char *const firsts[] = {"GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSX",
					     "P", "PRI"};

	(void)state;
	for (size_t i = 0; i < sizeof(firsts) / sizeof(firsts[0]); i++) {
		struct rig *r = rig_new(0);
		char text[100];

		give(r, FLOW_C2S, span_str(firsts[i]));
		give(r, FLOW_S2C, span_str("answer"));
		(void)outlets_gap(&r->set, r->states, &r->flow, FLOW_S2C, 100, r->ts);
		(void)outlets_poke(&r->set, r->states, &r->flow, FLOW_S2C, r->ts);
		(void)outlets_fin(&r->set, r->states, &r->flow, FLOW_C2S, r->ts);
		(void)outlets_fin(&r->set, r->states, &r->flow, FLOW_S2C, r->ts);
		snprintf(text, sizeof(text), ">%s<answer>F<F", firsts[i]);
		expect(r, 0, text);
		assert_int_equal(r->c.told[0].port, CLIENT);
		assert_int_equal(r->c.check.gap, 100);
		assert_int_equal(r->c.streams, 0);
		rig_free(r);
	}
}

/* What waited goes out before the end, however it comes. */
static void test_what_was_held_is_shown_at_the_end(void **state)
{
	struct rig *r = rig_new(0);

	(void)state;
	give(r, FLOW_C2S, span_str("PRI * "));
	outlets_rst(&r->set, r->states, &r->flow, FLOW_S2C, r->ts + 5);
	expect(r, 0, ">PRI * <R");
	begin(r); /* and again */
	give(r, FLOW_S2C, span_of("\0\0\0\4\0\0\0\0\0", 9));
	assert_int_equal(r->c.n, 1);
	(void)outlets_fin(&r->set, r->states, &r->flow, FLOW_S2C, r->ts);
	assert_int_equal(r->c.n, 2);
	rig_free(r);
}

static void test_resets_and_goaway(void **state)
{
	struct rig *r = started();

	(void)state;
	ask(r, 1, "/1", true);
	ask(r, 3, "/3", true);
	ask(r, 5, "/5", true);
	ask(r, 7, "/7", false);
	say(r, FLOW_C2S);
	h2_headers(&r->b[1], 1, ":status: 200\n", false);
	h2_data(&r->b[1], 1, "part", false);
	h2_frame(&r->b[1], 3, 0, 1, "\0\0\0\2", 4);
	h2_frame(&r->b[1], 7, 0, 0, "\0\0\0\3\0\0\0\0", 8);
	say(r, FLOW_S2C);
	h2_frame(&r->b[0], 3, 0, 3, "\0\0\0\10", 4);
	say(r, FLOW_C2S);
	expect(r, 0, ASKED("/1") CHUNKED "4\r\npart\r\n<R"); /* no last chunk */
	expect(r, 1, ASKED("/3") ">R");
	expect(r, 2, ASKED("/5") "<R");
	expect(r, 3, POSTED("/7") "<R");
	assert_int_equal(check_open_flows(&r->c.check), 0);
	rig_free(r);
}

static void test_the_end_of_the_connection_resets_what_is_unfinished(void **state)
{
	struct rig *r = started();

	(void)state;
	ask(r, 1, "/1", true);
	ask(r, 3, "/3", false);
	ask(r, 7, "/7", true);
	h2_headers(&r->b[0], 9, ":method: CONNECT\n:authority: a:1\n", false);
	say(r, FLOW_C2S);
	h2_headers(&r->b[1], 9, ":status: 200\n", false);
	h2_headers(&r->b[1], 7, ":status: 200\ncontent-length: 1\n", false);
	h2_data(&r->b[1], 7, "x", false); /* all of it, but for the empty frame that says so */
	say(r, FLOW_S2C);
	(void)outlets_fin(&r->set, r->states, &r->flow, FLOW_C2S, r->ts);
	h2_headers(&r->b[1], 1, ":status: 204\n", true);
	h2_data(&r->b[1], 9, "raw", false);
	say(r, FLOW_S2C);
	(void)outlets_fin(&r->set, r->states, &r->flow, FLOW_S2C, r->ts);
	expect(r, 0, ASKED("/1") "<HTTP/1.1 204 No Content\r\n\r\n>F<F");
	expect(r, 1, POSTED("/3") ">R");
	expect(r, 2, ASKED("/7") "<HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx>F<F");
	expect(r, 3, ">CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n<HTTP/1.1 200 OK\r\n\r\n>Fraw<F");
	assert_int_equal(check_open_flows(&r->c.check), 0);
	rig_free(r);
}

static void test_push_is_a_request_and_its_answer(void **state)
{
	struct rig *r = started();
	struct buf block;

	(void)state;
	buf_init(&block, 1 << 10);
	ask(r, 1, "/", true);
	say(r, FLOW_C2S);
	wr_u32be(&block, 2);
	h2_literals(&block, ":method: GET\n:path: /a.css\n:authority: a\n");
	h2_frame(&r->b[1], 5, H2_END_HEADERS, 1, block.p, block.len);
	h2_headers(&r->b[1], 2, ":status: 200\ncontent-length: 1\n", false);
	h2_data(&r->b[1], 2, "x", true);
	say(r, FLOW_S2C);
	expect(r, 1, ASKED("/a.css") "<HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx>F<F");
	assert_true(r->c.stream.pushed);
	assert_int_equal(r->c.stream.id, 2);
	buf_fini(&block);
	rig_free(r);
}

/* Sizes that an HTTP/1.1 reader would take for another message. */
static void test_a_stream_that_breaks_http_is_reset_and_others_go_on(void **state)
{
	uint64_t lost = counter_named("http1_bytes_lost_unknown");
	struct rig *r = started();

	(void)state;
	ask(r, 1, "/1", true);
	ask(r, 3, "/3", true);
	say(r, FLOW_C2S);
	h2_headers(&r->b[1], 1, ":status: 200\ncontent-length: 2\n", false);
	h2_data(&r->b[1], 1, "xyHTTP/1.1 200 OK\r\n\r\n", false);
	h2_data(&r->b[1], 1, "more", true);
	h2_headers(&r->b[1], 3, ":status: 200\n", true);
	say(r, FLOW_S2C);
	expect(r, 0, ASKED("/1") "<HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n<R");
	expect(r, 1, ASKED("/3") "<HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n>F<F");
	assert_int_equal(counter_named("http1_bytes_lost_unknown") - lost, 25);
	rig_free(r);
}

static void test_hole_in_a_body_is_a_hole_of_its_length(void **state)
{
	struct rig *r = started();
	struct buf *b = &r->b[1];

	(void)state;
	ask(r, 1, "/1", true);
	say(r, FLOW_C2S);
	h2_headers(b, 1, ":status: 200\n", false);
	say(r, FLOW_S2C);
	h2_data(b, 1, "0123456789", true);
	give(r, FLOW_S2C, span_of(b->p, 12));
	(void)outlets_gap(&r->set, r->states, &r->flow, FLOW_S2C, 4, r->ts);
	give(r, FLOW_S2C, span_of(b->p + 16, 3));
	expect(r, 0, ASKED("/1") CHUNKED "a\r\n012789\r\n0\r\n\r\n>F<F");
	assert_int_equal(r->c.check.gap, 4);
	rig_free(r);
}

static void test_hole_across_frames_resets_those_it_may_concern(void **state)
{
	struct rig *r = started();

	(void)state;
	ask(r, 1, "/1", true);
	ask(r, 3, "/3", false);
	say(r, FLOW_C2S);
	(void)outlets_gap(&r->set, r->states, &r->flow, FLOW_C2S, 100, r->ts);
	expect(r, 1, POSTED("/3") ">R"); /* its body may be in there */
	h2_headers(&r->b[1], 1, ":status: 200\n", true);
	say(r, FLOW_S2C);
	expect(r, 0, ASKED("/1") "<HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n>F<F");
	ask(r, 9, "/9", true);
	say(r, FLOW_C2S);
	expect(r, 2, ASKED("/9"));
	rig_free(r);
}

static void test_what_stops_being_http2_is_shown_from_there(void **state)
{
	uint64_t before = counter_named("http1_connections_broken");
	struct rig *r = started();

	(void)state;
	ask(r, 1, "/1", true);
	say(r, FLOW_C2S);
	give(r, FLOW_S2C, span_of("\0\0\1\0\0\0\0\0\0x", 10));
	give(r, FLOW_C2S, span_str("and so on"));
	(void)outlets_fin(&r->set, r->states, &r->flow, FLOW_C2S, r->ts);
	(void)outlets_fin(&r->set, r->states, &r->flow, FLOW_S2C, r->ts);
	expect(r, 0, ASKED("/1") "<R");
	assert_int_equal(r->c.told[1].port, CLIENT);
	assert_memory_equal(r->c.told[1].text, "<\0\0\1\0\0\0\0\0\0x>and so on>F<F", 25);
	assert_int_equal(counter_named("http1_connections_broken") - before, 1);
	rig_free(r);
}

static void test_late_join(void **state)
{
	uint64_t heads = counter_named("http1_heads_lost_unknown");
	struct rig *r = rig_new(FLOW_OPEN_LATE);

	(void)state;
	(void)outlets_gap(&r->set, r->states, &r->flow, FLOW_C2S, 100, r->ts);
	h2_data(&r->b[1], 5, "of a stream that began before", true);
	say(r, FLOW_S2C);
	h2_headers(&r->b[0], 7, "trailer-of: 7\n", true); /* no request */
	h2_frame(&r->b[0], 1, H2_END_HEADERS | H2_END_STREAM, 9, "\x82\x84\xc0\xbe", 4);
	say(r, FLOW_C2S);
	h2_frame(&r->b[1], 1, H2_END_HEADERS | H2_END_STREAM, 9, "\x88", 1);
	say(r, FLOW_S2C);
	expect(r, 0,
	       ">GET / HTTP/1.1\r\nX-Unknown-64: \r\nX-Unknown-62: \r\n\r\n"
	       "<HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n>F<F");
	assert_int_equal(r->c.n, 1);
	assert_int_equal(counter_named("http1_heads_lost_unknown") - heads, 1);
	rig_free(r);
}

/* The first bytes were lost on the way: what follows is looked at as of a connection joined late.
 */
static void test_hole_before_anything_was_decided(void **state)
{
	struct rig *r = rig_new(0);

	(void)state;
	(void)outlets_gap(&r->set, r->states, &r->flow, FLOW_C2S, 100, r->ts);
	assert_int_equal(r->c.n, 0);
	ask(r, 5, "/5", true);
	say(r, FLOW_C2S);
	expect(r, 0, ASKED("/5"));
	rig_free(r);
	r = rig_new(0);
	(void)outlets_gap(&r->set, r->states, &r->flow, FLOW_C2S, 100, r->ts);
	give(r, FLOW_C2S, span_str("rest of a request"));
	expect(r, 0, ">rest of a request");
	assert_int_equal(r->c.check.gap, 100);
	assert_int_equal(r->c.told[0].port, CLIENT);
	rig_free(r);
}

static void test_late_join_in_the_middle_of_a_frame(void **state)
{
	struct rig *r = rig_new(FLOW_OPEN_LATE);

	(void)state;
	give(r, FLOW_S2C, span_str("the rest of a body"));
	ask(r, 5, "/5", true);
	say(r, FLOW_C2S);
	h2_headers(&r->b[1], 5, ":status: 204\n", true);
	say(r, FLOW_S2C);
	expect(r, 0, "<the rest of a body>R");
	expect(r, 1, ASKED("/5") "<HTTP/1.1 204 No Content\r\n\r\n>F<F");
	assert_int_equal(r->c.told[0].port, CLIENT);
	/* And what is no HTTP/2 then is shown in a connection of other sequence numbers. */
	give(r, FLOW_C2S, span_of("\0\0\1\0\0\0\0\0\0x", 10));
	assert_int_equal(r->c.n, 3);
	assert_int_equal(r->c.told[2].port, CLIENT);
	rig_free(r);
	/* Nobody looks for ever. */
	r = rig_new(FLOW_OPEN_LATE);
	for (int i = 0; i < 70; i++)
		give(r, FLOW_S2C, span_str("some other protocol"));
	ask(r, 5, "/5", true);
	say(r, FLOW_C2S);
	assert_int_equal(r->c.n, 1);
	rig_free(r);
}

/* The other end's agent tells the rest: another session, whose memory is elsewhere. */
static void test_a_connection_goes_on_as_another_session(void **state)
{
	(void)state;
	for (int native = 0; native < 2; native++) {
		struct rig *r = native ? rig_new(0) : started();
		uint8_t *states = aligned_alloc(8, sizeof(r->states));
		struct frame_flow_open open = r->open;
		struct outlet_flow flow = r->flow;

		memset(states, 0, sizeof(r->states));
		if (native)
			give(r, FLOW_C2S, span_str("GET / HTTP/1.1"));
		ask(r, 1, "/1", true);
		say(r, FLOW_C2S);
		flow.who.open = &open;
		outlets_move(&r->set, states, r->states, &flow);
		memset(&r->open, 0xff, sizeof(r->open)); /* nobody looks at it any more */
		h2_headers(&r->b[1], 1, ":status: 204\n", true);
		(void)outlets_data(&r->set, states, &flow, FLOW_S2C, buf_span(&r->b[1]), true,
				   r->ts);
		if (!native)
			expect(r, 0, ASKED("/1") "<HTTP/1.1 204 No Content\r\n\r\n>F<F");
		outlets_rst(&r->set, states, &flow, FLOW_S2C, r->ts);
		assert_int_equal(check_open_flows(&r->c.check), 0);
		outlets_forget(&r->set, states);
		free(states);
		rig_free(r);
	}
}

static void test_large_bodies(void **state)
{
	struct rig *r = started();
	size_t len = 300000;
	char *body = malloc(len + 1);

	(void)state;
	memset(body, 'b', len);
	body[len] = '\0';
	ask(r, 1, "/1", false);
	h2_data(&r->b[0], 1, body, true);
	say(r, FLOW_C2S);
	h2_headers(&r->b[1], 1, ":status: 200\ncontent-length: 300000\n", false);
	h2_data(&r->b[1], 1, body, true);
	say(r, FLOW_S2C);
	assert_int_equal(check_open_flows(&r->c.check), 0);
	assert_int_equal(r->c.check.fins, 2);
	assert_true(r->c.check.payload_bytes > 600000 && r->c.check.payload_bytes < 600500);
	free(body);
	rig_free(r);
}

/* 600 s without a packet, and an IDS has forgotten it. */
static void test_silent_streams_are_poked_while_others_speak(void **state)
{
	struct rig *r = started();
	uint64_t bare;

	(void)state;
	ask(r, 1, "/1", false);
	say(r, FLOW_C2S);
	(void)outlets_poke(&r->set, r->states, &r->flow, FLOW_C2S, r->ts += 1000000);
	bare = r->c.check.bare_acks;
	(void)outlets_poke(&r->set, r->states, &r->flow, FLOW_C2S, r->ts += 1000000);
	assert_int_equal(r->c.check.bare_acks, bare); /* once */
	for (int i = 0; i < 10; i++) {
		r->ts += 100 * NS_PER_S;
		h2_frame(&r->b[1], 6, 0, 0, "01234567", 8);
		say(r, FLOW_S2C);
	}
	assert_int_equal(r->c.check.bare_acks - bare, 3);
	rig_free(r);
}

/* An agent may say any time. */
static void test_the_end_of_time_ends_nothing_else(void **state)
{
	struct rig *r = started_as(SINK_H2_SERIAL);
	uint64_t late = counter_named("http1_serial_left_late");

	(void)state;
	r->ts = UINT64_MAX - NS_PER_S;
	ask(r, 1, "/1", true);
	ask(r, 3, "/3", true);
	say(r, FLOW_C2S);
	r->ts = UINT64_MAX - NS_PER_MS;
	h2_frame(&r->b[1], 6, 0, 0, "01234567", 8);
	say(r, FLOW_S2C);
	(void)outlets_poke(&r->set, r->states, &r->flow, FLOW_C2S, r->ts);
	expect(r, 0, ASKED("/1"));
	assert_int_equal(r->c.n, 1);
	assert_int_equal(counter_named("http1_serial_left_late"), late);
	rig_free(r);
}

/* Another stream's bytes do not keep one waiting. */
static void test_pokes_do_not_wait_for_silence(void **state)
{
	struct rig *r = started();
	uint64_t repeated;

	(void)state;
	ask(r, 1, "/1", false);
	ask(r, 3, "/3", false);
	say(r, FLOW_C2S);
	repeated = r->c.check.repeated;
	for (int i = 0; i < 10; i++) {
		r->ts += NS_PER_MS;
		h2_data(&r->b[0], 3, "x", false);
		say(r, FLOW_C2S);
	}
	assert_int_equal(r->c.check.repeated - repeated, 1);
	rig_free(r);
}

static void test_reset_of_the_connection_resets_all_streams(void **state)
{
	struct rig *r = started();

	(void)state;
	for (uint32_t i = 0; i < TOLD - 1; i++)
		ask(r, 1 + 2 * i, "/", i % 2);
	say(r, FLOW_C2S);
	assert_int_equal(r->c.n, TOLD - 1);
	outlets_rst(&r->set, r->states, &r->flow, FLOW_S2C, r->ts);
	assert_int_equal(r->c.check.rsts, TOLD - 1);
	assert_int_equal(check_open_flows(&r->c.check), 0);
	r->flow.incarnation = 1; /* it goes on after it was reset because idle */
	begin(r);
	ask(r, 201, "/201", true);
	say(r, FLOW_C2S);
	expect(r, TOLD - 1, ASKED("/201"));
	rig_free(r);
}

static void test_too_many_streams_are_refused(void **state)
{
	uint64_t before = counter_named("http1_streams_refused");
	struct rig *r = started();

	(void)state;
	r->c.blind = true;
	for (uint32_t i = 0; i < 5000; i++)
		ask(r, 1 + 2 * i, "/", false);
	h2_data(&r->b[0], 9999, "xyz", true);
	say(r, FLOW_C2S);
	assert_int_equal(counter_named("http1_streams_refused") - before, 5000 - 4096);
	assert_int_equal(r->c.streams, 4096);
	rig_free(r);
}

/* Of so many workers each has its part, so that all of them keep to the bounds. */
static void test_workers_share_the_bounds(void **state)
{
	uint64_t refused = counter_named("http1_streams_refused");
	uint64_t large = counter_named("http1_serial_left_large");
	uint64_t blocks = counter_named("http1_header_blocks_large");
	char *body = malloc(60001);
	struct rig *r;

	(void)state;
	memset(body, 'b', 60000);
	body[60000] = '\0';
	parts = 512; /* 512 streams, 128 KiB that wait or are unfinished */
	r = started();
	r->c.blind = true;
	for (uint32_t i = 0; i < 600; i++)
		ask(r, 1 + 2 * i, "/", false);
	say(r, FLOW_C2S);
	assert_int_equal(counter_named("http1_streams_refused") - refused, 600 - 512);
	for (unsigned i = 0; i < 3; i++)
		h2_frame(&r->b[FLOW_C2S], i ? 9 : 1, 0, 3001, body, 60000);
	say(r, FLOW_C2S);
	assert_int_equal(counter_named("http1_header_blocks_large") - blocks, 1);
	rig_free(r);
	r = started_as(SINK_H2_SERIAL);
	ask(r, 1, "/1", true);
	ask(r, 3, "/3", false);
	h2_data(&r->b[0], 3, body, false);
	h2_data(&r->b[0], 3, body, false);
	say(r, FLOW_C2S);
	assert_int_equal(r->c.n, 1);
	h2_data(&r->b[0], 3, body, false);
	say(r, FLOW_C2S);
	assert_int_equal(r->c.n, 2);
	assert_int_equal(counter_named("http1_serial_left_large") - large, 1);
	parts = 1;
	free(body);
	rig_free(r);
}

/* Each is a look at all streams: not thousands of them. */
static void test_goaways_are_heard_so_often(void **state)
{
	struct rig *r = started();

	(void)state;
	ask(r, 1, "/1", true);
	say(r, FLOW_C2S);
	for (int i = 0; i < 8; i++)
		h2_frame(&r->b[1], 7, 0, 0, "\0\0\0\1\0\0\0\0", 8);
	say(r, FLOW_S2C);
	expect(r, 0, ASKED("/1"));
	ask(r, 3, "/3", true);
	say(r, FLOW_C2S);
	h2_frame(&r->b[1], 7, 0, 0, "\0\0\0\0\0\0\0\0", 8);
	h2_headers(&r->b[1], 1, ":status: 204\n", true);
	say(r, FLOW_S2C);
	expect(r, 0, ASKED("/1") "<HTTP/1.1 204 No Content\r\n\r\n>F<F");
	expect(r, 1, ASKED("/3"));
	rig_free(r);
}

/* Another reader's requests would be in the client's bytes before the answer, or behind a no. */
static void test_a_tunnel_is_silent_until_it_is_open(void **state)
{
	uint64_t lost = counter_named("http1_bytes_lost_early");
	struct rig *r = started();

	(void)state;
	for (uint32_t i = 1; i < 7; i += 2) {
		h2_headers(&r->b[0], i, ":method: CONNECT\n:authority: a:1\n", false);
		h2_data(&r->b[0], i, "GET /evil", false);
	}
	say(r, FLOW_C2S);
	expect(r, 0, ">CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n");
	h2_data(&r->b[0], 1, " HTTP", true);
	h2_data(&r->b[0], 3, " HTTP", false);
	say(r, FLOW_C2S);
	h2_headers(&r->b[1], 1, ":status: 200\n", false);
	h2_data(&r->b[1], 1, "hello", true);
	h2_headers(&r->b[1], 3, ":status: 403\n", false);
	say(r, FLOW_S2C);
	h2_data(&r->b[0], 3, "/1.1", false);
	say(r, FLOW_C2S);
	h2_data(&r->b[1], 3, "no", true);
	h2_frame(&r->b[1], 3, 0, 5, "\0\0\0\7", 4);
	say(r, FLOW_S2C);
	h2_data(&r->b[0], 3, "", true);
	say(r, FLOW_C2S);
	expect(r, 0,
	       ">CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n<HTTP/1.1 200 OK\r\n\r\n"
	       ">GET /evil HTTP>F<hello<F");
	expect(r, 1,
	       ">CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n<HTTP/1.1 403 Forbidden\r\n"
	       "Transfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n>F<F");
	expect(r, 2, ">CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n<R");
	assert_int_equal(counter_named("http1_bytes_lost_early") - lost, 14 + 4 + 9);
	assert_int_equal(counter_named("http1_bytes_held"), 0);
	assert_int_equal(check_open_flows(&r->c.check), 0);
	rig_free(r);
}

/* More than is kept: a hole of its size. */
static void test_what_is_said_into_a_tunnel_too_early_is_bounded(void **state)
{
	uint64_t lost = counter_named("http1_bytes_lost_early");
	struct rig *r = started();
	char *text = malloc(60001);

	(void)state;
	memset(text, 'x', 60000);
	text[60000] = '\0';
	h2_headers(&r->b[0], 1, ":method: CONNECT\n:authority: a:1\n", false);
	for (int i = 0; i < 100; i++) {
		h2_data(&r->b[0], 1, text, i == 99);
		say(r, FLOW_C2S);
	}
	assert_true(counter_named("http1_bytes_held") < 4u << 20);
	h2_headers(&r->b[1], 1, ":status: 200\n", false);
	say(r, FLOW_S2C);
	lost = counter_named("http1_bytes_lost_early") - lost;
	assert_true(lost > 1000000 && lost < 2500000);
	assert_int_equal(r->c.check.gap, lost);
	assert_int_equal(counter_named("http1_bytes_held"), 0);
	free(text);
	rig_free(r);
}

/* All of its length was announced, not all of it has come. */
static void test_the_end_within_a_frame_is_a_reset(void **state)
{
	struct rig *r = started();

	(void)state;
	ask(r, 1, "/1", true);
	say(r, FLOW_C2S);
	h2_headers(&r->b[1], 1, ":status: 200\ncontent-length: 10\n", false);
	h2_data(&r->b[1], 1, "0123456789", true);
	give(r, FLOW_S2C, span_of(r->b[1].p, r->b[1].len - 3));
	(void)outlets_fin(&r->set, r->states, &r->flow, FLOW_S2C, r->ts);
	expect(r, 0, ASKED("/1") "<HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456<R");
	rig_free(r);
}

/* One after the other */

#define NONE(status) "<HTTP/1.1 " status "\r\nContent-Length: 0\r\n\r\n"

static void answer(struct rig *r, uint32_t stream, const char *text, bool end)
{
	char fields[64];

	snprintf(fields, sizeof(fields), ":status: 200\ncontent-length: %zu\n", strlen(text));
	h2_headers(&r->b[FLOW_S2C], stream, fields, false);
	h2_data(&r->b[FLOW_S2C], stream, text, end);
}

static void test_serial_streams_share_a_connection_in_the_order_of_requests(void **state)
{
	struct rig *r = started_as(SINK_H2_SERIAL);

	(void)state;
	ask(r, 1, "/1", true);
	ask(r, 3, "/3", false);
	ask(r, 5, "/5", true);
	say(r, FLOW_C2S);
	assert_int_equal(r->c.streams, 1); /* the others' time will come */
	answer(r, 5, "V", true);
	answer(r, 1, "I", true);
	say(r, FLOW_S2C);
	assert_int_equal(r->c.streams, 2);
	h2_data(&r->b[0], 3, "body", true);
	say(r, FLOW_C2S);
	answer(r, 3, "III", true);
	say(r, FLOW_S2C);
	ask(r, 7, "/7", true);
	say(r, FLOW_C2S);
	answer(r, 7, "VII", true);
	say(r, FLOW_S2C);
	(void)outlets_fin(&r->set, r->states, &r->flow, FLOW_S2C, r->ts);
	(void)outlets_fin(&r->set, r->states, &r->flow, FLOW_C2S, r->ts);
	expect(r, 0,
	       ASKED("/1") "<HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nI" POSTED(
		       "/3") "4\r\nbody\r\n0\r\n\r\n"
			     "<HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nIII" ASKED(
				     "/5") "<HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nV" ASKED("/7") "<HTTP/1.1 200 OK\r\nContent-Length: "
													"3\r\n\r\nVII<F>F");
	assert_int_equal(r->c.n, 1);
	assert_int_equal(r->c.streams, 4);
	assert_int_equal(r->c.stream.id, 7);
	assert_int_equal(r->c.stream.client_port, r->c.told[0].port);
	assert_int_equal(check_open_flows(&r->c.check), 0);
	assert_int_equal(counter_named("http1_bytes_held"), 0);
	rig_free(r);
}

/* A connection with half a message on it is of no use; who waits is seen nevertheless. */
static void test_serial_goes_on_elsewhere_after_a_reset(void **state)
{
	struct rig *r = started_as(SINK_H2_SERIAL);

	(void)state;
	for (uint32_t i = 1; i < 9; i += 2)
		ask(r, i, "/", true);
	say(r, FLOW_C2S);
	answer(r, 1, "part", false);
	h2_frame(&r->b[1], 3, 0, 1, "\0\0\0\2", 4);
	say(r, FLOW_S2C);
	h2_frame(&r->b[0], 3, 0, 5, "\0\0\0\10", 4); /* which waits, behind 3 */
	say(r, FLOW_C2S);
	answer(r, 7, "7", true);
	answer(r, 3, "3", true);
	say(r, FLOW_S2C);
	expect(r, 0, ASKED("/") "<HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npart<R");
	expect(r, 1,
	       ASKED("/") "<HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n3" ASKED(
		       "/") "<HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n7");
	expect(r, 2, ASKED("/") ">R");
	assert_int_equal(r->c.n, 3);
	outlets_rst(&r->set, r->states, &r->flow, FLOW_C2S, r->ts);
	assert_int_equal(check_open_flows(&r->c.check), 0);
	rig_free(r);
}

static void test_serial_leaves_tunnels_alone(void **state)
{
	struct rig *r = started_as(SINK_H2_SERIAL);

	(void)state;
	ask(r, 1, "/1", true);
	h2_headers(&r->b[0], 3, ":method: CONNECT\n:authority: a:1\n", false);
	ask(r, 5, "/5", true);
	say(r, FLOW_C2S);
	h2_headers(&r->b[1], 3, ":status: 200\n", false);
	h2_data(&r->b[1], 3, "raw", false);
	h2_headers(&r->b[1], 5, ":status: 200\n", true);
	h2_headers(&r->b[1], 1, ":status: 200\n", true);
	say(r, FLOW_S2C);
	expect(r, 0, ASKED("/1") NONE("200 OK") ASKED("/5") NONE("200 OK"));
	expect(r, 1, ">CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n<HTTP/1.1 200 OK\r\n\r\nraw");
	outlets_rst(&r->set, r->states, &r->flow, FLOW_C2S, r->ts);
	assert_int_equal(check_open_flows(&r->c.check), 0);
	rig_free(r);
}

/* An answer that never ends keeps its connection; the others get another one. */
static void test_serial_does_not_wait_for_ever(void **state)
{
	uint64_t late = counter_named("http1_serial_left_late");
	struct rig *r = started_as(SINK_H2_SERIAL);

	(void)state;
	ask(r, 1, "/endless", true);
	ask(r, 3, "/3", true);
	say(r, FLOW_C2S);
	r->ts += NS_PER_S;
	ask(r, 5, "/5", true);
	say(r, FLOW_C2S);
	assert_true(outlets_poke(&r->set, r->states, &r->flow, FLOW_C2S, r->ts) & OUTLET_WAITS);
	assert_int_equal(r->c.n, 1);
	r->ts += 4 * NS_PER_S;
	assert_true(outlets_poke(&r->set, r->states, &r->flow, FLOW_C2S, r->ts) & OUTLET_WAITS);
	expect(r, 1, ASKED("/3"));
	assert_int_equal(r->c.n, 2);
	h2_headers(&r->b[1], 3, ":status: 200\n", true);
	h2_headers(&r->b[1], 5, ":status: 200\n", true);
	h2_headers(&r->b[1], 1, ":status: 200\n", true);
	say(r, FLOW_S2C);
	expect(r, 0, ASKED("/endless") NONE("200 OK") ">F<F");
	expect(r, 1, ASKED("/3") NONE("200 OK") ASKED("/5") NONE("200 OK"));
	assert_false(outlets_poke(&r->set, r->states, &r->flow, FLOW_C2S, r->ts) & OUTLET_WAITS);
	assert_int_equal(counter_named("http1_serial_left_late") - late, 1);
	(void)outlets_fin(&r->set, r->states, &r->flow, FLOW_C2S, r->ts);
	assert_int_equal(check_open_flows(&r->c.check), 0);
	rig_free(r);
}

static void test_serial_holds_so_much_and_no_more(void **state)
{
	uint64_t large = counter_named("http1_serial_left_large");
	struct rig *r = started_as(SINK_H2_SERIAL);
	char *body = malloc(60001);

	(void)state;
	memset(body, 'b', 60000);
	body[60000] = '\0';
	ask(r, 1, "/slow", true);
	ask(r, 3, "/large", true);
	ask(r, 5, "/5", true);
	say(r, FLOW_C2S);
	h2_headers(&r->b[1], 3, ":status: 200\ncontent-length: 6000000\n", false);
	for (int i = 0; i < 100; i++) {
		h2_data(&r->b[1], 3, body, i == 99);
		say(r, FLOW_S2C);
		assert_true(counter_named("http1_bytes_held") <= 4u << 20);
	}
	assert_int_equal(counter_named("http1_serial_left_large") - large, 1);
	assert_int_equal(r->c.n, 2);
	assert_int_equal(r->c.check.fins, 2); /* that of /large */
	assert_true(r->c.check.payload_bytes > 6000000 && r->c.check.payload_bytes < 6000300);
	h2_headers(&r->b[1], 5, ":status: 200\n", true);
	h2_headers(&r->b[1], 1, ":status: 200\n", true);
	say(r, FLOW_S2C);
	expect(r, 0, ASKED("/slow") NONE("200 OK") ASKED("/5") NONE("200 OK"));
	outlets_rst(&r->set, r->states, &r->flow, FLOW_C2S, r->ts);
	assert_int_equal(check_open_flows(&r->c.check), 0);
	assert_int_equal(counter_named("http1_bytes_held"), 0);
	free(body);
	rig_free(r);
}

/* Nothing that waits is forgotten, whatever ends. */
static void test_serial_ends(void **state)
{
	(void)state;
	for (int how = 0; how < 4; how++) {
		struct rig *r = started_as(SINK_H2_SERIAL);

		ask(r, 1, "/1", how == 0);
		ask(r, 3, "/3", true);
		ask(r, 5, "/5", false);
		say(r, FLOW_C2S);
		h2_headers(&r->b[1], 3, ":status: 200\n", true);
		say(r, FLOW_S2C);
		if (how == 0) { /* 1 and 3 are answered after the client's end, 5 cannot be */
			(void)outlets_fin(&r->set, r->states, &r->flow, FLOW_C2S, r->ts);
			h2_headers(&r->b[1], 1, ":status: 200\n", true);
			say(r, FLOW_S2C);
			expect(r, 0, ASKED("/1") NONE("200 OK") ASKED("/3") NONE("200 OK") ">F<F");
			expect(r, 1, POSTED("/5") ">R");
		} else if (how == 1) {
			(void)outlets_fin(&r->set, r->states, &r->flow, FLOW_C2S, r->ts);
			expect(r, 0, POSTED("/1") ">R");
		} else if (how == 2) {
			outlets_rst(&r->set, r->states, &r->flow, FLOW_S2C, r->ts);
			expect(r, 0, POSTED("/1") "<R");
			expect(r, 1, ASKED("/3") NONE("200 OK") ">F<F");
			expect(r, 2, POSTED("/5") "<R");
		} else { /* what broke is shown as it is, and so is what waited */
			give(r, FLOW_S2C, span_of("\0\0\1\0\0\0\0\0\0x", 10));
			assert_int_equal(r->c.n, 4);
			outlets_rst(&r->set, r->states, &r->flow, FLOW_S2C, r->ts);
		}
		assert_int_equal(r->c.streams, 3);
		assert_int_equal(check_open_flows(&r->c.check), 0);
		assert_int_equal(counter_named("http1_bytes_held"), 0);
		assert_int_equal(counter_named("http1_streams_active"), 0);
		rig_free(r);
	}
}

/* An IDS does not look at all of a long connection. */
static void test_serial_connections_do_not_become_long(void **state)
{
	struct rig *r = started_as(SINK_H2_SERIAL);
	char *body = malloc(300001);

	(void)state;
	memset(body, 'b', 300000);
	body[300000] = '\0';
	for (uint32_t i = 1; i < 9; i += 2) {
		ask(r, i, "/", i != 3);
		if (i == 3)
			h2_data(&r->b[0], i, body, true);
		say(r, FLOW_C2S);
		answer(r, i, i == 3 ? "" : body, true);
		say(r, FLOW_S2C);
	}
	/* 1, 3 and 5 are 600000 bytes of answers. */
	assert_int_equal(r->c.n, 2);
	assert_int_equal(r->c.check.fins, 2);
	outlets_rst(&r->set, r->states, &r->flow, FLOW_C2S, r->ts);
	assert_int_equal(check_open_flows(&r->c.check), 0);
	free(body);
	rig_free(r);
}

/* What began before we came has no turn. */
static void test_serial_late_join(void **state)
{
	struct rig *r = rig_new_as(FLOW_OPEN_LATE, SINK_H2_SERIAL);

	(void)state;
	h2_data(&r->b[1], 5, "of a stream that began before", true);
	say(r, FLOW_S2C);
	h2_frame(&r->b[0], 1, H2_END_HEADERS | H2_END_STREAM, 9, "\x82\x84\xbe", 3);
	h2_frame(&r->b[0], 1, H2_END_HEADERS | H2_END_STREAM, 11, "\x82\x84", 2);
	h2_headers(&r->b[0], 13,
		   ":method: CONNECT\n:protocol: connect-udp\n:path: /u\n:authority: a\n", false);
	h2_data(&r->b[0], 13, "datagram", false);
	say(r, FLOW_C2S);
	h2_headers(&r->b[1], 13, ":status: 200\n", false);
	h2_frame(&r->b[1], 1, H2_END_HEADERS | H2_END_STREAM, 11, "\x88", 1);
	h2_frame(&r->b[1], 1, H2_END_HEADERS | H2_END_STREAM, 9, "\x88", 1);
	say(r, FLOW_S2C);
	expect(r, 0,
	       ">GET / HTTP/1.1\r\nX-Unknown-62: \r\n\r\n" NONE(
		       "200 OK") ">GET / HTTP/1.1\r\n\r\n" NONE("200 OK"));
	expect(r, 1,
	       ">GET /u HTTP/1.1\r\nHost: a\r\nUpgrade: connect-udp\r\nConnection: Upgrade\r\n\r\n"
	       "<HTTP/1.1 101 Switching Protocols\r\nUpgrade: connect-udp\r\nConnection: "
	       "Upgrade\r\n\r\n>datagram");
	assert_int_equal(r->c.n, 2);
	rig_free(r);
}

/* A hole in what waits stays where it is. */
static void test_serial_keeps_holes(void **state)
{
	struct rig *r = started_as(SINK_H2_SERIAL);
	struct buf *b = &r->b[1];

	(void)state;
	ask(r, 1, "/1", true);
	ask(r, 3, "/3", true);
	say(r, FLOW_C2S);
	h2_headers(b, 3, ":status: 200\n", false);
	say(r, FLOW_S2C);
	h2_data(b, 3, "0123456789", true);
	give(r, FLOW_S2C, span_of(b->p, 12));
	(void)outlets_gap(&r->set, r->states, &r->flow, FLOW_S2C, 4, r->ts);
	give(r, FLOW_S2C, span_of(b->p + 16, 3));
	buf_reset(b);
	assert_int_equal(r->c.check.gap, 0);
	h2_headers(b, 1, ":status: 200\n", true);
	say(r, FLOW_S2C);
	expect(r, 0, ASKED("/1") NONE("200 OK") ASKED("/3") CHUNKED "a\r\n012789\r\n0\r\n\r\n");
	assert_int_equal(r->c.check.gap, 4);
	/* Frames are lost: nobody knows how the next message begins. */
	ask(r, 5, "/5", true);
	ask(r, 7, "/7", true);
	say(r, FLOW_C2S);
	(void)outlets_gap(&r->set, r->states, &r->flow, FLOW_S2C, 4, r->ts);
	expect(r, 1, ASKED("/7") "<R");
	assert_int_equal(check_open_flows(&r->c.check), 0);
	rig_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_stream_has_a_connection_of_its_own),
		cmocka_unit_test(test_http2_is_recognized_however_it_begins),
		cmocka_unit_test(test_all_else_is_shown_as_it_is),
		cmocka_unit_test(test_what_was_held_is_shown_at_the_end),
		cmocka_unit_test(test_resets_and_goaway),
		cmocka_unit_test(test_the_end_of_the_connection_resets_what_is_unfinished),
		cmocka_unit_test(test_push_is_a_request_and_its_answer),
		cmocka_unit_test(test_a_stream_that_breaks_http_is_reset_and_others_go_on),
		cmocka_unit_test(test_hole_in_a_body_is_a_hole_of_its_length),
		cmocka_unit_test(test_hole_across_frames_resets_those_it_may_concern),
		cmocka_unit_test(test_what_stops_being_http2_is_shown_from_there),
		cmocka_unit_test(test_late_join),
		cmocka_unit_test(test_hole_before_anything_was_decided),
		cmocka_unit_test(test_late_join_in_the_middle_of_a_frame),
		cmocka_unit_test(test_a_connection_goes_on_as_another_session),
		cmocka_unit_test(test_large_bodies),
		cmocka_unit_test(test_silent_streams_are_poked_while_others_speak),
		cmocka_unit_test(test_the_end_of_time_ends_nothing_else),
		cmocka_unit_test(test_pokes_do_not_wait_for_silence),
		cmocka_unit_test(test_reset_of_the_connection_resets_all_streams),
		cmocka_unit_test(test_too_many_streams_are_refused),
		cmocka_unit_test(test_workers_share_the_bounds),
		cmocka_unit_test(test_goaways_are_heard_so_often),
		cmocka_unit_test(test_a_tunnel_is_silent_until_it_is_open),
		cmocka_unit_test(test_what_is_said_into_a_tunnel_too_early_is_bounded),
		cmocka_unit_test(test_the_end_within_a_frame_is_a_reset),
		cmocka_unit_test(test_serial_streams_share_a_connection_in_the_order_of_requests),
		cmocka_unit_test(test_serial_goes_on_elsewhere_after_a_reset),
		cmocka_unit_test(test_serial_leaves_tunnels_alone),
		cmocka_unit_test(test_serial_does_not_wait_for_ever),
		cmocka_unit_test(test_serial_holds_so_much_and_no_more),
		cmocka_unit_test(test_serial_ends),
		cmocka_unit_test(test_serial_keeps_holes),
		cmocka_unit_test(test_serial_connections_do_not_become_long),
		cmocka_unit_test(test_serial_late_join),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
