/* SPDX-License-Identifier: Apache-2.0 */
/*
 * http1: see http1.h. A head is read once for the fields that steer (what the request asks, how
 * long the body is) and then written field by field.
 */
#include "http/http1.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "base/metrics.h"

static COUNTER_DEFINE(c_escaped, "http1_bytes_escaped",
		      "bytes that HTTP/1.1 does not allow at their place, written as %xx");
static COUNTER_DEFINE(c_malformed, "http1_fields_malformed",
		      "header fields that break HTTP/2 and were left out");
static COUNTER_DEFINE(c_length, "http1_lengths_wrong",
		      "bodies that were not as long as their Content-Length");
static COUNTER_DEFINE(c_trailers, "http1_trailers_lost",
		      "trailer fields behind a body whose form has no place for them");
static COUNTER_DEFINE(c_placeholders, "http1_heads_incomplete",
		      "heads without a method, target or status that is known");

static COUNTER_DEFINE(c_interim, "http1_interim_omitted",
		      "interim answers other than 100, which Suricata takes for the answer");

#define WEBSOCKET_GUID "258EAFA5-E914-47DA-95CA-C5AB0DC85B11" /* RFC 6455, 1.3 */
#define KEY_LEN        24u                                    /* 16 bytes in base64 */
#define ACCEPT_LEN     28u                                    /* 20 bytes in base64 */

/* What steers a message. Spans borrow from the list; p is NULL for what is not there. */
struct head {
	struct span method, scheme, authority, path, protocol, status, host;
	uint64_t length;
	bool has_length, length_wrong;
	bool wants_trailers;
};

enum form { FORM_NO_BODY, FORM_LENGTH, FORM_CHUNKED, FORM_EMPTY };

static bool is(struct span s, const char *text)
{
	return span_eq(s, span_str(text));
}

static bool starts(struct span s, const char *text)
{
	size_t n = strlen(text);

	return s.len >= n && memcmp(s.p, text, n) == 0;
}

static void put(struct buf *out, const char *text)
{
	wr_bytes(out, text, strlen(text));
}

/* Bytes */

static bool is_alnum(uint8_t c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_token(uint8_t c) /* RFC 9110, 5.6.2 */
{
	return is_alnum(c) || (c && strchr("!#$%&'*+-.^_`|~", c));
}

static bool is_value(uint8_t c) /* RFC 9110, 5.5 */
{
	return c == '\t' || (c >= ' ' && c != 0x7f);
}

static bool is_target(uint8_t c) /* no byte that ends it or the line */
{
	return c > ' ' && c != 0x7f;
}

static bool is_target_part(uint8_t c) /* ... nor one that ends a scheme or a host */
{
	return c != ':' && is_target(c);
}

static void put_byte(struct buf *out, uint8_t c, bool (*allowed)(uint8_t c))
{
	char hex[4];

	if (allowed(c)) {
		wr_u8(out, c);
		return;
	}
	snprintf(hex, sizeof(hex), "%%%02x", c);
	put(out, hex);
	counter_inc(&c_escaped);
}

static void put_bytes(struct buf *out, struct span s, bool (*allowed)(uint8_t c))
{
	size_t i = 0;

	while (i < s.len) {
		size_t from = i;

		while (i < s.len && allowed(s.p[i]))
			i++;
		wr_bytes(out, s.p + from, i - from);
		if (i < s.len)
			put_byte(out, s.p[i++], allowed);
	}
}

/* Names */

/* The parts of names that are not written with a capital letter and small ones. */
static const char *const words[] = {"CH",  "CSRF", "DNS", "DNT", "ETag", "GPC", "ID",  "IP",
				    "MD5", "NEL",  "P3P", "TE",  "UA",   "WWW", "XSS", "WebSocket"};

static const char *word_of(struct span part)
{
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (strlen(words[i]) == part.len &&
		    strncasecmp(words[i], (const char *)part.p, part.len) == 0)
			return words[i];
	}
	return NULL;
}

static void put_name_part(struct buf *out, struct span part)
{
	const char *word = word_of(part);

	if (word) {
		put(out, word);
	} else if (part.len > 0) {
		uint8_t c = part.p[0];

		put_byte(out, c >= 'a' && c <= 'z' ? (uint8_t)(c - 'a' + 'A') : c, is_token);
		put_bytes(out, span_of(part.p + 1, part.len - 1), is_token);
	}
}

/* As HTTP/1.1 programs write them: rules for them often look at the case. */
static void put_name(struct buf *out, struct span name)
{
	const uint8_t *dash;

	while ((dash = memchr(name.p, '-', name.len)) != NULL) {
		size_t n = (size_t)(dash - name.p);

		put_name_part(out, span_of(name.p, n));
		wr_u8(out, '-');
		name = span_of(dash + 1, name.len - n - 1);
	}
	put_name_part(out, name);
}

static void put_field(struct buf *out, struct span name, struct span value)
{
	put_name(out, name);
	put(out, ": ");
	put_bytes(out, value, is_value);
	put(out, "\r\n");
}

static void put_line(struct buf *out, const char *name, const char *value)
{
	put_field(out, span_str(name), span_str(value));
}

/* Reading a head */

static void keep_first(struct span *kept, struct span value)
{
	if (kept->p)
		counter_inc(&c_malformed);
	else
		*kept = value;
}

static void head_pseudo(struct head *h, struct span name, struct span value)
{
	if (is(name, ":method"))
		keep_first(&h->method, value);
	else if (is(name, ":scheme"))
		keep_first(&h->scheme, value);
	else if (is(name, ":authority"))
		keep_first(&h->authority, value);
	else if (is(name, ":path"))
		keep_first(&h->path, value);
	else if (is(name, ":protocol"))
		keep_first(&h->protocol, value);
	else if (is(name, ":status"))
		keep_first(&h->status, value);
	else
		counter_inc(&c_malformed);
}

/* Digits alone, and one value: whatever else a length could be read as is none. */
static void head_length(struct head *h, struct span value)
{
	uint64_t v = 0;

	if (value.len == 0 || value.len > 18)
		h->length_wrong = true;
	for (size_t i = 0; i < value.len && !h->length_wrong; i++) {
		h->length_wrong = value.p[i] < '0' || value.p[i] > '9';
		v = v * 10 + (uint64_t)(value.p[i] - '0');
	}
	if (h->has_length && v != h->length)
		h->length_wrong = true;
	h->length = v;
	h->has_length = true;
}

static void head_read(struct head *h, const struct h2_list *list)
{
	memset(h, 0, sizeof(*h));
	for (unsigned i = 0; i < list->n; i++) {
		struct span name = h2_name(list, i), value = h2_value(list, i);

		if (starts(name, ":"))
			head_pseudo(h, name, value);
		else if (is(name, "host"))
			keep_first(&h->host, value);
		else if (is(name, "content-length"))
			head_length(h, value);
		else if (is(name, "trailer") ||
			 (is(name, "content-type") && starts(value, "application/grpc")))
			h->wants_trailers = true;
	}
	if (h->length_wrong) {
		counter_inc(&c_length);
		h->has_length = false;
	}
}

/* Writing fields */

static bool is_websocket(const struct http1 *x)
{
	return strcmp(x->protocol, "websocket") == 0;
}

/* Of a connection, not of a message (RFC 9113, 8.2.2): in HTTP/1.1 they would mean something. */
static bool is_of_connection(struct span name, struct span value)
{
	static const char *const names[] = {"connection",        "keep-alive", "proxy-connection",
					    "transfer-encoding", "upgrade",    "http2-settings"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (is(name, names[i]))
			return true;
	}
	return is(name, "te") && !is(value, "trailers");
}

/* Names are compared in lower case, as HTTP/2 writes them: one that is not may mean the same. */
static bool is_lower(struct span name)
{
	for (size_t i = 0; i < name.len; i++) {
		if (name.p[i] >= 'A' && name.p[i] <= 'Z')
			return false;
	}
	return true;
}

static bool is_broken(struct span name, struct span value)
{
	return name.len == 0 || !is_lower(name) || is_of_connection(name, value);
}

/* HTTP/2 may cut a cookie into crumbs (RFC 9113, 8.2.3). */
static void put_cookies(struct buf *out, const struct h2_list *list)
{
	bool first = true;

	put(out, "Cookie: ");
	for (unsigned i = 0; i < list->n; i++) {
		if (!is(h2_name(list, i), "cookie"))
			continue;
		if (!first)
			put(out, "; ");
		first = false;
		put_bytes(out, h2_value(list, i), is_value);
	}
	put(out, "\r\n");
}

/* Of a handshake that HTTP/2 does not have (RFC 8441, 5): the writer of the head invents it. */
static bool is_key(struct span name)
{
	return is(name, "sec-websocket-key") || is(name, "sec-websocket-accept");
}

/* All fields but those that the writer of the head gives itself. */
static void put_fields(struct buf *out, const struct http1 *x, const struct h2_list *list,
		       bool crumbs)
{
	bool cookies = false, keyed = is_websocket(x);

	for (unsigned i = 0; i < list->n; i++) {
		struct span name = h2_name(list, i), value = h2_value(list, i);

		if (starts(name, ":") || is(name, "host") || is(name, "content-length"))
			continue;
		if (is_broken(name, value) || (keyed && is_key(name))) {
			counter_inc(&c_malformed);
		} else if (!crumbs || !is(name, "cookie")) {
			put_field(out, name, value);
		} else if (!cookies) {
			put_cookies(out, list);
			cookies = true;
		}
	}
}

static void put_length(struct buf *out, uint64_t length)
{
	char text[24];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)length);
	put_line(out, "content-length", text);
}

/* How the body is told; the field for it; what is expected from now on. */
static void put_form(struct http1_way *way, const struct head *h, enum form form, bool end,
		     struct buf *out)
{
	way->left = 0;
	switch (form) {
	case FORM_NO_BODY:
		way->part = HTTP1_NO_BODY;
		break;
	case FORM_EMPTY:
		put_length(out, 0);
		way->part = HTTP1_NO_BODY;
		break;
	case FORM_LENGTH:
		put_length(out, h->length);
		way->part = HTTP1_LENGTH;
		way->left = h->length;
		break;
	case FORM_CHUNKED:
		put_line(out, "transfer-encoding", "chunked");
		way->part = HTTP1_CHUNKED;
		break;
	}
	if (end)
		way->part = HTTP1_DONE;
	put(out, "\r\n");
}

/* A head that is all: no body follows. */
static enum form form_at_end(const struct head *h, bool expected)
{
	if (h->has_length && h->length > 0)
		counter_inc(&c_length);
	return h->has_length || expected ? FORM_EMPTY : FORM_NO_BODY;
}

static enum form form_of_body(const struct head *h)
{
	return h->has_length && !h->wants_trailers ? FORM_LENGTH : FORM_CHUNKED;
}

/* Requests */

static void key_of(const struct http1 *x, char key[KEY_LEN + 1])
{
	EVP_EncodeBlock((unsigned char *)key, x->nonce, sizeof(x->nonce));
}

/* Kept as it will be written: in the request and in its answer. */
static void keep_protocol(struct http1 *x, struct span protocol)
{
	size_t n = 0;

	for (; n < protocol.len && n < HTTP1_PROTOCOL_MAX - 1 && is_token(protocol.p[n]); n++)
		x->protocol[n] = (char)protocol.p[n];
	x->protocol[n] = '\0';
}

/*
 * A path begins with a slash or is an asterisk (RFC 9113, 8.3.1). In HTTP/1.1 another one could
 * name a host, and the reader would believe it rather than the Host field.
 */
static void put_target(struct buf *out, const struct http1 *x, struct span target)
{
	bool names_host = x->connect && !x->protocol[0];

	if (target.len == 0)
		put(out, "x-unknown");
	else
		put_bytes(out, target,
			  names_host || starts(target, "/") ? is_target : is_target_part);
}

static void put_request_line(struct buf *out, const struct http1 *x, const struct head *h)
{
	struct span target = x->connect && !x->protocol[0] ? h->authority : h->path;
	bool known = h->method.len > 0 && target.len > 0;

	if (!known)
		counter_inc(&c_placeholders);
	if (x->protocol[0])
		put(out, "GET");
	else
		put_bytes(out, h->method.len ? h->method : span_str("UNKNOWN"), is_token);
	wr_u8(out, ' ');
	put_target(out, x, target);
	put(out, " HTTP/1.1\r\n");
}

static void put_upgrade(struct buf *out, const struct http1 *x)
{
	put_line(out, "upgrade", x->protocol);
	put_line(out, "connection", "Upgrade");
}

static void put_key(struct buf *out, const struct http1 *x)
{
	char key[KEY_LEN + 1];

	key_of(x, key);
	put_line(out, "sec-websocket-key", key);
}

static enum form form_of_request(const struct http1 *x, const struct head *h, bool end)
{
	bool expected = is(h->method, "POST") || is(h->method, "PUT") || is(h->method, "PATCH");

	if (x->connect)
		return FORM_NO_BODY;
	return end ? form_at_end(h, expected) : form_of_body(h);
}

static int request_head(struct http1 *x, const struct h2_list *list, bool end, struct buf *out)
{
	struct http1_way *way = &x->way[FLOW_C2S];
	struct span host;
	struct head h;

	head_read(&h, list);
	x->is_head = is(h.method, "HEAD");
	x->connect = is(h.method, "CONNECT");
	if (x->connect)
		keep_protocol(x, h.protocol);
	put_request_line(out, x, &h);
	host = h.authority.len ? h.authority : h.host;
	if (h.host.p && !span_eq(host, h.host))
		counter_inc(&c_malformed); /* two hosts: the one that HTTP/2 asks first */
	if (host.p)
		put_field(out, span_str("host"), host);
	if (x->protocol[0])
		put_upgrade(out, x);
	if (is_websocket(x))
		put_key(out, x);
	put_fields(out, x, list, true);
	put_form(way, &h, form_of_request(x, &h, end), end, out);
	if (x->connect && !end)
		way->part = HTTP1_TUNNEL;
	return 0;
}

/* Answers */

struct reason {
	uint16_t status;
	const char *text;
};

static const char *reason_of(unsigned status)
{
	static const struct reason reasons[] = {
		{100, "Continue"},
		{101, "Switching Protocols"},
		{102, "Processing"},
		{103, "Early Hints"},
		{200, "OK"},
		{201, "Created"},
		{202, "Accepted"},
		{203, "Non-Authoritative Information"},
		{204, "No Content"},
		{205, "Reset Content"},
		{206, "Partial Content"},
		{207, "Multi-Status"},
		{208, "Already Reported"},
		{226, "IM Used"},
		{300, "Multiple Choices"},
		{301, "Moved Permanently"},
		{302, "Found"},
		{303, "See Other"},
		{304, "Not Modified"},
		{305, "Use Proxy"},
		{307, "Temporary Redirect"},
		{308, "Permanent Redirect"},
		{400, "Bad Request"},
		{401, "Unauthorized"},
		{402, "Payment Required"},
		{403, "Forbidden"},
		{404, "Not Found"},
		{405, "Method Not Allowed"},
		{406, "Not Acceptable"},
		{407, "Proxy Authentication Required"},
		{408, "Request Timeout"},
		{409, "Conflict"},
		{410, "Gone"},
		{411, "Length Required"},
		{412, "Precondition Failed"},
		{413, "Content Too Large"},
		{414, "URI Too Long"},
		{415, "Unsupported Media Type"},
		{416, "Range Not Satisfiable"},
		{417, "Expectation Failed"},
		{421, "Misdirected Request"},
		{422, "Unprocessable Content"},
		{423, "Locked"},
		{424, "Failed Dependency"},
		{425, "Too Early"},
		{426, "Upgrade Required"},
		{428, "Precondition Required"},
		{429, "Too Many Requests"},
		{431, "Request Header Fields Too Large"},
		{451, "Unavailable For Legal Reasons"},
		{500, "Internal Server Error"},
		{501, "Not Implemented"},
		{502, "Bad Gateway"},
		{503, "Service Unavailable"},
		{504, "Gateway Timeout"},
		{505, "HTTP Version Not Supported"},
		{506, "Variant Also Negotiates"},
		{507, "Insufficient Storage"},
		{508, "Loop Detected"},
		{511, "Network Authentication Required"},
	};

	for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++) {
		if (reasons[i].status == status)
			return reasons[i].text;
	}
	return "Unknown";
}

/* 0: none that is known. */
static unsigned status_of(const struct head *h)
{
	unsigned v = 0;

	if (h->status.len != 3)
		return 0;
	for (size_t i = 0; i < 3; i++) {
		if (h->status.p[i] < '0' || h->status.p[i] > '9')
			return 0;
		v = v * 10 + (unsigned)(h->status.p[i] - '0');
	}
	return v;
}

static void put_status_line(struct buf *out, unsigned status)
{
	char text[64];

	if (status == 0)
		counter_inc(&c_placeholders);
	snprintf(text, sizeof(text), "HTTP/1.1 %03u %s\r\n", status, reason_of(status));
	put(out, text);
}

/* Sec-WebSocket-Accept (RFC 6455, 4.2.2). */
static void put_accept(const struct http1 *x, struct buf *out)
{
	char text[KEY_LEN + sizeof(WEBSOCKET_GUID)], accept[ACCEPT_LEN + 1];
	unsigned char hash[EVP_MAX_MD_SIZE];
	unsigned n = 0;

	key_of(x, text);
	memcpy(text + KEY_LEN, WEBSOCKET_GUID, sizeof(WEBSOCKET_GUID));
	if (EVP_Digest(text, sizeof(text) - 1, hash, &n, EVP_sha1(), NULL) != 1 || n != 20)
		return;
	EVP_EncodeBlock((unsigned char *)accept, hash, 20);
	put_line(out, "sec-websocket-accept", accept);
}

static void tunnel_head(struct http1 *x, unsigned status, const struct h2_list *list, bool end,
			struct buf *out)
{
	put_status_line(out, x->protocol[0] ? 101 : status);
	if (x->protocol[0])
		put_upgrade(out, x);
	if (is_websocket(x))
		put_accept(x, out);
	put_fields(out, x, list, false);
	put(out, "\r\n");
	x->opened = true;
	x->way[FLOW_S2C].part = end ? HTTP1_DONE : HTTP1_TUNNEL;
}

/*
 * 101 does not exist in HTTP/2: what follows would be hidden from a reader who believes it. And
 * libhtp 0.5, Suricata 7's reader, knows no interim answer but 100: it takes 103 for the answer,
 * and the answer for one that nobody asked for.
 */
static int interim_head(const struct http1 *x, unsigned status, const struct h2_list *list,
			bool end, struct buf *out)
{
	if (end || status == 101)
		return -EBADMSG;
	if (status != 100) {
		counter_inc(&c_interim);
		return 0;
	}
	put_status_line(out, status);
	put_fields(out, x, list, false);
	put(out, "\r\n");
	return 0;
}

static enum form form_of_answer(const struct http1 *x, const struct head *h, unsigned status,
				bool end, bool *length)
{
	*length = h->has_length && (x->is_head || status == 304);
	if (x->is_head || status == 304 || status == 204)
		return FORM_NO_BODY;
	return end ? form_at_end(h, true) : form_of_body(h);
}

static int answer_head(struct http1 *x, const struct h2_list *list, bool end, struct buf *out)
{
	struct head h;
	unsigned status;
	enum form form;
	bool length;

	head_read(&h, list);
	status = status_of(&h);
	if (status >= 100 && status < 200)
		return interim_head(x, status, list, end, out);
	if (x->connect && status >= 200 && status < 300) {
		tunnel_head(x, status, list, end, out);
		return 0;
	}
	/* In HTTP/1.1 what follows would be the next request. */
	if (x->way[FLOW_C2S].part == HTTP1_TUNNEL)
		x->way[FLOW_C2S].part = HTTP1_REFUSED;
	put_status_line(out, status);
	put_fields(out, x, list, false);
	form = form_of_answer(x, &h, status, end, &length);
	if (length)
		put_length(out, h.length); /* of the body that is not sent */
	put_form(&x->way[FLOW_S2C], &h, form, end, out);
	return 0;
}

/* Bodies */

static int body_end(struct http1_way *way, struct buf *out)
{
	enum http1_part part = way->part;

	if (part == HTTP1_HEAD)
		return -EBADMSG;
	if (part == HTTP1_LENGTH && way->left > 0) {
		counter_inc(&c_length);
		return -EBADMSG;
	}
	if (part == HTTP1_CHUNKED)
		put(out, "0\r\n\r\n");
	way->part = HTTP1_DONE;
	return 0;
}

/* Fields that steer a message have no business behind it (RFC 9110, 6.5.1). */
static bool is_trailer(struct span name, struct span value)
{
	return !starts(name, ":") && !is(name, "host") && !is(name, "content-length") &&
	       !is(name, "trailer") && !is_broken(name, value);
}

static int trailers(struct http1_way *way, const struct h2_list *list, bool end, struct buf *out)
{
	if (!end || way->part == HTTP1_DONE)
		return -EBADMSG;
	if (way->part != HTTP1_CHUNKED) {
		counter_add(&c_trailers, list->n);
		return body_end(way, out);
	}
	put(out, "0\r\n");
	for (unsigned i = 0; i < list->n; i++) {
		if (is_trailer(h2_name(list, i), h2_value(list, i)))
			put_field(out, h2_name(list, i), h2_value(list, i));
		else
			counter_inc(&c_malformed);
	}
	put(out, "\r\n");
	way->part = HTTP1_DONE;
	return 0;
}

static int result(int err, const struct buf *out)
{
	return !err && out->bad ? -EMSGSIZE : err;
}

int http1_headers(struct http1 *x, enum flow_dir dir, const struct h2_list *list, bool end,
		  struct buf *out)
{
	int err;

	if (x->way[dir].part != HTTP1_HEAD)
		err = trailers(&x->way[dir], list, end, out);
	else if (dir == FLOW_C2S)
		err = request_head(x, list, end, out);
	else
		err = answer_head(x, list, end, out);
	return result(err, out);
}

int http1_data_begin(struct http1 *x, enum flow_dir dir, uint64_t len, struct buf *out)
{
	struct http1_way *way = &x->way[dir];
	char text[24];

	if (way->part == HTTP1_HEAD)
		return -EBADMSG;
	if (len == 0)
		return 0;
	switch ((enum http1_part)way->part) {
	case HTTP1_LENGTH:
		if (len > way->left) {
			counter_inc(&c_length);
			return -EBADMSG;
		}
		way->left -= len;
		way->in_frame = true;
		return 0;
	case HTTP1_CHUNKED:
		snprintf(text, sizeof(text), "%llx\r\n", (unsigned long long)len);
		put(out, text);
		way->in_frame = true;
		return result(0, out);
	case HTTP1_TUNNEL:
	case HTTP1_REFUSED:
		return 0;
	default:
		counter_inc(&c_length);
		return -EBADMSG;
	}
}

int http1_data_end(struct http1 *x, enum flow_dir dir, bool end, struct buf *out)
{
	struct http1_way *way = &x->way[dir];
	int err = 0;

	if (way->in_frame && way->part == HTTP1_CHUNKED)
		put(out, "\r\n");
	way->in_frame = false;
	if (end)
		err = way->part == HTTP1_DONE ? -EBADMSG : body_end(way, out);
	return result(err, out);
}
