/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of collector/http/http1.c: field lists in, the text that would be on the wire out. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "counters.h"
#include "http/http1.h"

struct rig {
	struct http1 x;
	struct h2_list list;
	struct buf out;
};

static struct rig *rig_new(void)
{
	struct rig *r = calloc(1, sizeof(*r));

	h2_list_init(&r->list);
	buf_init(&r->out, 1 << 16);
	return r;
}

static void rig_free(struct rig *r)
{
	h2_list_fini(&r->list);
	buf_fini(&r->out);
	free(r);
}

/* "name: value\n"... */
static int head(struct rig *r, enum flow_dir dir, const char *fields, bool end)
{
	h2_list_reset(&r->list);
	while (*fields) {
		const char *colon = strstr(fields + 1, ": "), *line = strchr(colon, '\n');

		h2_list_add(&r->list, span_of(fields, (size_t)(colon - fields)),
			    span_of(colon + 2, (size_t)(line - colon - 2)));
		fields = line + 1;
	}
	return http1_headers(&r->x, dir, &r->list, end, &r->out);
}

static int body(struct rig *r, enum flow_dir dir, const char *text, bool end)
{
	int err = http1_data_begin(&r->x, dir, strlen(text), &r->out);

	if (err)
		return err;
	wr_bytes(&r->out, text, strlen(text));
	return http1_data_end(&r->x, dir, end, &r->out);
}

static void expect(struct rig *r, const char *text)
{
	wr_u8(&r->out, 0);
	assert_string_equal((const char *)r->out.p, text);
	buf_reset(&r->out);
}

#define GET  ":method: GET\n:scheme: https\n:authority: a.example\n:path: /x?y=1\n"
#define POST ":method: POST\n:scheme: https\n:authority: a.example\n:path: /up\n"

/* After a request, which the answer needs. */
static struct rig *asked(const char *request)
{
	struct rig *r = rig_new();

	assert_int_equal(head(r, FLOW_C2S, request, true), 0);
	buf_reset(&r->out);
	return r;
}

static void test_request(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	assert_int_equal(head(r, FLOW_C2S,
			      GET "user-agent: curl\naccept: */*\nx-request-id: 7\n"
				  "sec-ch-ua: \"x\"\nte: trailers\n",
			      true),
			 0);
	expect(r, "GET /x?y=1 HTTP/1.1\r\n"
		  "Host: a.example\r\n"
		  "User-Agent: curl\r\n"
		  "Accept: */*\r\n"
		  "X-Request-ID: 7\r\n"
		  "Sec-CH-UA: \"x\"\r\n"
		  "TE: trailers\r\n"
		  "\r\n");
	assert_true(http1_is_done(&r->x, FLOW_C2S));
	rig_free(r);
}

static void test_body_of_a_known_length(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	assert_int_equal(head(r, FLOW_C2S, POST "content-length: 5\n", false), 0);
	assert_int_equal(body(r, FLOW_C2S, "ab", false), 0);
	assert_int_equal(body(r, FLOW_C2S, "cde", true), 0);
	expect(r, "POST /up HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nabcde");
	assert_true(http1_is_done(&r->x, FLOW_C2S));
	rig_free(r);
}

static void test_body_in_chunks_with_trailers(void **state)
{
	struct rig *r = asked(POST);

	(void)state;
	assert_int_equal(head(r, FLOW_S2C, ":status: 200\n", false), 0);
	assert_int_equal(body(r, FLOW_S2C, "hello", false), 0);
	assert_int_equal(body(r, FLOW_S2C, "", false), 0); /* a chunk of none would end it */
	assert_int_equal(body(r, FLOW_S2C, "0123456789abcdef", false), 0);
	assert_int_equal(head(r, FLOW_S2C, "grpc-status: 0\ncontent-length: 9\n:x: 1\n", true), 0);
	expect(r, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
		  "5\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\nGrpc-Status: 0\r\n\r\n");
	assert_true(http1_is_done(&r->x, FLOW_S2C));
	rig_free(r);
}

/* A length would leave no place for what comes behind. */
static void test_grpc_and_announced_trailers_are_chunked(void **state)
{
	struct rig *r = asked(POST);

	(void)state;
	assert_int_equal(head(r, FLOW_S2C,
			      ":status: 200\ncontent-type: application/grpc+proto\n"
			      "content-length: 2\n",
			      false),
			 0);
	assert_int_equal(body(r, FLOW_S2C, "ab", true), 0);
	expect(r, "HTTP/1.1 200 OK\r\nContent-Type: application/grpc+proto\r\n"
		  "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n");
	rig_free(r);
	r = asked(POST);
	assert_int_equal(head(r, FLOW_S2C, ":status: 200\ntrailer: x\ncontent-length: 2\n", false),
			 0);
	expect(r, "HTTP/1.1 200 OK\r\nTrailer: x\r\nTransfer-Encoding: chunked\r\n\r\n");
	rig_free(r);
	/* gRPC's answer without a body: its trailers are the head. */
	r = asked(POST);
	assert_int_equal(head(r, FLOW_S2C, ":status: 200\ngrpc-status: 12\n", true), 0);
	expect(r, "HTTP/1.1 200 OK\r\nGrpc-Status: 12\r\nContent-Length: 0\r\n\r\n");
	rig_free(r);
}

static void test_answers_without_a_body(void **state)
{
	struct rig *r = asked(":method: HEAD\n:authority: a\n:path: /\n");

	(void)state;
	assert_int_equal(head(r, FLOW_S2C, ":status: 200\ncontent-length: 77\n", true), 0);
	expect(r, "HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n");
	rig_free(r);
	r = asked(GET);
	assert_int_equal(head(r, FLOW_S2C, ":status: 304\ncontent-length: 77\n", false), 0);
	assert_int_equal(body(r, FLOW_S2C, "", true), 0);
	expect(r, "HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\n\r\n");
	rig_free(r);
	r = asked(GET);
	assert_int_equal(head(r, FLOW_S2C, ":status: 204\ncontent-length: 77\n", false), 0);
	expect(r, "HTTP/1.1 204 No Content\r\n\r\n");
	assert_int_equal(body(r, FLOW_S2C, "x", true), -EBADMSG);
	rig_free(r);
	r = asked(GET);
	assert_int_equal(head(r, FLOW_S2C, ":status: 404\n", true), 0);
	expect(r, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
	rig_free(r);
	r = rig_new();
	assert_int_equal(head(r, FLOW_C2S, POST, true), 0);
	expect(r, "POST /up HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n");
	rig_free(r);
}

static void test_interim_answers(void **state)
{
	uint64_t before = counter_named("http1_interim_omitted");
	struct rig *r = asked(GET);

	(void)state;
	assert_int_equal(head(r, FLOW_S2C, ":status: 100\na: b\n", false), 0);
	assert_int_equal(head(r, FLOW_S2C, ":status: 103\nlink: </a.css>\n", false), 0);
	assert_int_equal(counter_named("http1_interim_omitted") - before, 1);
	assert_int_equal(head(r, FLOW_S2C, ":status: 200\ncontent-length: 0\n", false), 0);
	assert_int_equal(body(r, FLOW_S2C, "", true), 0);
	expect(r, "HTTP/1.1 100 Continue\r\nA: b\r\n\r\n"
		  "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
	rig_free(r);
	r = asked(GET);
	assert_int_equal(head(r, FLOW_S2C, ":status: 101\n", false), -EBADMSG);
	assert_int_equal(r->out.len, 0);
	rig_free(r);
	r = asked(GET);
	assert_int_equal(head(r, FLOW_S2C, ":status: 100\n", true), -EBADMSG);
	rig_free(r);
}

static void test_cookie_crumbs_are_joined(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	assert_int_equal(
		head(r, FLOW_C2S, GET "cookie: a=1\naccept: x\ncookie: b=2\ncookie: c\n", true), 0);
	expect(r, "GET /x?y=1 HTTP/1.1\r\nHost: a.example\r\nCookie: a=1; b=2; c\r\nAccept: x\r\n"
		  "\r\n");
	rig_free(r);
	r = asked(GET);
	assert_int_equal(head(r, FLOW_S2C, ":status: 200\nset-cookie: a\nset-cookie: b\n", true),
			 0);
	expect(r, "HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 0\r\n\r\n");
	rig_free(r);
}

static void test_connection_fields_are_dropped(void **state)
{
	uint64_t before = counter_named("http1_fields_malformed");
	struct rig *r = rig_new();

	(void)state;
	assert_int_equal(head(r, FLOW_C2S,
			      GET "connection: close\nkeep-alive: 1\nproxy-connection: x\n"
				  "transfer-encoding: chunked\nupgrade: h2c\nte: gzip\n"
				  "Transfer-Encoding: chunked\nhost: b.example\n"
				  ":path: /second\n:odd: 1\n",
			      true),
			 0);
	expect(r, "GET /x?y=1 HTTP/1.1\r\nHost: a.example\r\n\r\n");
	assert_int_equal(counter_named("http1_fields_malformed") - before, 10);
	rig_free(r);
	r = rig_new();
	assert_int_equal(head(r, FLOW_C2S, ":method: GET\n:path: /\nhost: b.example\n", true), 0);
	expect(r, "GET / HTTP/1.1\r\nHost: b.example\r\n\r\n");
	rig_free(r);
}

/* A name or value that holds the end of a line must not begin another one. */
static void test_nothing_is_smuggled(void **state)
{
	uint64_t before = counter_named("http1_bytes_escaped");
	struct rig *r = rig_new();

	(void)state;
	h2_list_reset(&r->list);
	h2_list_add(&r->list, span_str(":method"), span_str("GET / HTTP/1.1\r\nX:"));
	h2_list_add(&r->list, span_str(":path"), span_str("/a b\r\nc\x7f"));
	h2_list_add(&r->list, span_str(":authority"), span_of("a\0b", 3));
	h2_list_add(&r->list, span_str("x: y\r\nz"), span_str("1\r\nhost: evil\r\n\r\nGET"));
	h2_list_add(&r->list, span_str("content-length "), span_str("5"));
	h2_list_add(&r->list, span_str("tab"), span_str("a\tb\xc3\xa4"));
	assert_int_equal(http1_headers(&r->x, FLOW_C2S, &r->list, true, &r->out), 0);
	expect(r, "GET%20%2f%20HTTP%2f1.1%0d%0aX%3a /a%20b%0d%0ac%7f HTTP/1.1\r\n"
		  "Host: a%00b\r\n"
		  "X%3a%20y%0d%0az: 1%0d%0ahost: evil%0d%0a%0d%0aGET\r\n"
		  "Content-Length%20: 5\r\n"
		  "Tab: a\tb\xc3\xa4\r\n"
		  "\r\n");
	assert_true(counter_named("http1_bytes_escaped") > before);
	rig_free(r);
}

static void test_lengths_that_could_be_read_two_ways_become_chunks(void **state)
{
	static const char *const lengths[] = {
		"content-length: 5\ncontent-length: 6\n",
		"content-length: +5\n",
		"content-length: 5, 5\n",
		"content-length: 0x5\n",
		"content-length: 99999999999999999999\n",
		"content-length: \n",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		uint64_t before = counter_named("http1_lengths_wrong");
		char fields[256];
		struct rig *r = rig_new();

		snprintf(fields, sizeof(fields), POST "%s", lengths[i]);
		assert_int_equal(head(r, FLOW_C2S, fields, false), 0);
		expect(r, "POST /up HTTP/1.1\r\nHost: a.example\r\n"
			  "Transfer-Encoding: chunked\r\n\r\n");
		assert_int_equal(counter_named("http1_lengths_wrong") - before, 1);
		rig_free(r);
	}
}

static void test_bodies_that_are_not_as_long_as_said_break_the_exchange(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	assert_int_equal(head(r, FLOW_C2S, POST "content-length: 5\n", false), 0);
	assert_int_equal(body(r, FLOW_C2S, "abc", false), 0);
	assert_int_equal(body(r, FLOW_C2S, "def", false), -EBADMSG);
	rig_free(r);
	r = rig_new();
	assert_int_equal(head(r, FLOW_C2S, POST "content-length: 5\n", false), 0);
	assert_int_equal(body(r, FLOW_C2S, "abc", true), -EBADMSG);
	rig_free(r);
	r = rig_new(); /* the head is all: there is no body, whatever it says */
	assert_int_equal(head(r, FLOW_C2S, POST "content-length: 5\n", true), 0);
	expect(r, "POST /up HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n");
	rig_free(r);
}

static void test_what_comes_out_of_order_breaks_the_exchange(void **state)
{
	struct rig *r = asked(GET);

	(void)state;
	assert_int_equal(body(r, FLOW_S2C, "x", false), -EBADMSG); /* before any head */
	assert_int_equal(body(r, FLOW_C2S, "x", false), -EBADMSG); /* behind the end */
	assert_int_equal(head(r, FLOW_C2S, "a: b\n", true), -EBADMSG);
	assert_int_equal(head(r, FLOW_S2C, ":status: 200\n", false), 0);
	assert_int_equal(head(r, FLOW_S2C, "a: b\n", false), -EBADMSG); /* trailers are an end */
	rig_free(r);
}

static void test_trailers_without_a_place_are_counted(void **state)
{
	uint64_t before = counter_named("http1_trailers_lost");
	struct rig *r = asked(GET);

	(void)state;
	assert_int_equal(head(r, FLOW_S2C, ":status: 200\ncontent-length: 1\n", false), 0);
	assert_int_equal(body(r, FLOW_S2C, "x", false), 0);
	assert_int_equal(head(r, FLOW_S2C, "a: b\nc: d\n", true), 0);
	expect(r, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx");
	assert_int_equal(counter_named("http1_trailers_lost") - before, 2);
	assert_true(http1_is_done(&r->x, FLOW_S2C));
	rig_free(r);
}

static void test_connect_is_a_tunnel(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	assert_int_equal(head(r, FLOW_C2S, ":method: CONNECT\n:authority: db:5432\n", false), 0);
	assert_int_equal(head(r, FLOW_S2C, ":status: 200\ncontent-length: 3\n", false), 0);
	assert_int_equal(body(r, FLOW_C2S, "any", false), 0);
	assert_int_equal(body(r, FLOW_S2C, "thing", true), 0);
	expect(r, "CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n"
		  "HTTP/1.1 200 OK\r\n\r\nanything");
	assert_true(http1_is_done(&r->x, FLOW_S2C));
	assert_false(http1_is_done(&r->x, FLOW_C2S));
	rig_free(r);
}

/* A reader of HTTP/1.1 who sees the refusal takes what follows for requests. */
static void test_what_is_said_into_a_refused_tunnel_is_not_part_of_the_exchange(void **state)
{
	static const char *const requests[] = {
		":method: CONNECT\n:authority: db:5432\n",
		":method: CONNECT\n:protocol: websocket\n:path: /\n:authority: a\n",
	};

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		struct rig *r = rig_new();

		assert_int_equal(head(r, FLOW_C2S, requests[i], false), 0);
		assert_true(http1_is_early(&r->x));
		buf_reset(&r->out);
		assert_int_equal(head(r, FLOW_S2C, ":status: 403\n", true), 0);
		expect(r, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
		assert_int_equal(r->x.way[FLOW_C2S].part, HTTP1_REFUSED);
		assert_false(http1_is_early(&r->x));
		assert_int_equal(http1_data_begin(&r->x, FLOW_C2S, 5, &r->out), 0);
		assert_int_equal(http1_data_end(&r->x, FLOW_C2S, true, &r->out), 0);
		expect(r, "");
		assert_true(http1_is_done(&r->x, FLOW_C2S));
		rig_free(r);
	}
}

/* "GET http://b/ HTTP/1.1" is a request to b, whatever Host says; and so is one of "b:80". */
static void test_targets_that_name_a_host_are_escaped(void **state)
{
	static const struct {
		const char *path, *written;
	} targets[] = {
		{"http://b/x", "http%3a//b/x"},         {"b:80", "b%3a80"}, {"*", "*"},
		{"/a:b?c=http://d", "/a:b?c=http://d"}, {"x", "x"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(targets) / sizeof(targets[0]); i++) {
		struct rig *r = rig_new();
		char fields[100], text[100];

		snprintf(fields, sizeof(fields), ":method: OPTIONS\n:path: %s\n:authority: a\n",
			 targets[i].path);
		snprintf(text, sizeof(text), "OPTIONS %s HTTP/1.1\r\nHost: a\r\n\r\n",
			 targets[i].written);
		assert_int_equal(head(r, FLOW_C2S, fields, true), 0);
		expect(r, text);
		rig_free(r);
	}
}

static void test_a_frame_that_has_not_ended_is_not_whole(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	assert_int_equal(head(r, FLOW_C2S, POST "content-length: 5\n", false), 0);
	assert_false(http1_is_whole(&r->x, FLOW_C2S));
	assert_int_equal(http1_data_begin(&r->x, FLOW_C2S, 5, &r->out), 0);
	assert_false(http1_is_whole(&r->x, FLOW_C2S)); /* all is announced, nothing has come */
	assert_int_equal(http1_data_end(&r->x, FLOW_C2S, false, &r->out), 0);
	assert_true(http1_is_whole(&r->x, FLOW_C2S));
	rig_free(r);
}

/* The key is that of RFC 6455, 1.3, and so is its answer. */
static void test_websocket(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	memcpy(r->x.nonce, "the sample nonce", 16);
	assert_int_equal(head(r, FLOW_C2S,
			      ":method: CONNECT\n:protocol: websocket\n:scheme: https\n"
			      ":path: /chat\n:authority: a\nsec-websocket-version: 13\n"
			      "sec-websocket-key: another\n",
			      false),
			 0);
	expect(r, "GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
		  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
		  "\r\n");
	assert_int_equal(head(r, FLOW_S2C,
			      ":status: 200\nserver: x\nsec-websocket-accept: another\n", false),
			 0);
	assert_int_equal(body(r, FLOW_S2C, "\x81\2hi", false), 0);
	expect(r, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
		  "Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
		  "Server: x\r\n\r\n\x81\2hi");
	rig_free(r);
	r = rig_new();
	assert_int_equal(head(r, FLOW_C2S,
			      ":method: CONNECT\n:protocol: connect-udp\n:path: /u/\n"
			      ":authority: a\n",
			      false),
			 0);
	assert_int_equal(head(r, FLOW_S2C, ":status: 403\n", true), 0);
	expect(r, "GET /u/ HTTP/1.1\r\nHost: a\r\nUpgrade: connect-udp\r\nConnection: Upgrade\r\n"
		  "\r\nHTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
	rig_free(r);
}

static void test_what_is_not_known_is_not_guessed(void **state)
{
	uint64_t before = counter_named("http1_heads_incomplete");
	struct rig *r = rig_new();

	(void)state;
	assert_int_equal(head(r, FLOW_C2S, ":scheme: https\nx-unknown-70: \n", true), 0);
	expect(r, "UNKNOWN x-unknown HTTP/1.1\r\nX-Unknown-70: \r\n\r\n");
	assert_int_equal(head(r, FLOW_S2C, "x-unknown-62: \n", true), 0);
	expect(r, "HTTP/1.1 000 Unknown\r\nX-Unknown-62: \r\nContent-Length: 0\r\n\r\n");
	assert_int_equal(counter_named("http1_heads_incomplete") - before, 2);
	rig_free(r);
}

static void test_full_output_is_an_error(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	buf_fini(&r->out);
	buf_init(&r->out, 30);
	assert_int_equal(head(r, FLOW_C2S, GET, true), -EMSGSIZE);
	rig_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_request),
		cmocka_unit_test(test_body_of_a_known_length),
		cmocka_unit_test(test_body_in_chunks_with_trailers),
		cmocka_unit_test(test_grpc_and_announced_trailers_are_chunked),
		cmocka_unit_test(test_answers_without_a_body),
		cmocka_unit_test(test_interim_answers),
		cmocka_unit_test(test_cookie_crumbs_are_joined),
		cmocka_unit_test(test_connection_fields_are_dropped),
		cmocka_unit_test(test_nothing_is_smuggled),
		cmocka_unit_test(test_lengths_that_could_be_read_two_ways_become_chunks),
		cmocka_unit_test(test_bodies_that_are_not_as_long_as_said_break_the_exchange),
		cmocka_unit_test(test_what_comes_out_of_order_breaks_the_exchange),
		cmocka_unit_test(test_trailers_without_a_place_are_counted),
		cmocka_unit_test(test_connect_is_a_tunnel),
		cmocka_unit_test(
			test_what_is_said_into_a_refused_tunnel_is_not_part_of_the_exchange),
		cmocka_unit_test(test_targets_that_name_a_host_are_escaped),
		cmocka_unit_test(test_a_frame_that_has_not_ended_is_not_whole),
		cmocka_unit_test(test_websocket),
		cmocka_unit_test(test_what_is_not_known_is_not_guessed),
		cmocka_unit_test(test_full_output_is_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
