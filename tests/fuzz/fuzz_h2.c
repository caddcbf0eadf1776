/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: an HTTP/2 connection for collector/http/h2.c, hpack.c, http1.c, streams.c and
 * outlet_http1.c. Told to h2.c as it is and byte by byte: both must come to the same. Each list of
 * fields is written as a head, which must end where its text ends and nowhere before. Told to the
 * outlet, in both forms: a strict reader of HTTP/1.1 must find in each connection that it shows as
 * many requests as streams, as many answers, and not a byte more.
 */
#include <stdlib.h>
#include <string.h>

#include "http/h2.h"
#include "http/http1.h"
#include "outlet.h"

#define TS 1700000000000000000ull

static void must(bool ok)
{
	if (!ok)
		abort();
}

/* What h2.c says, as one number. */
struct told {
	uint64_t hash;
};

static void add(struct told *t, const void *p, size_t len)
{
	const uint8_t *b = p;

	for (size_t i = 0; i < len; i++)
		t->hash = (t->hash ^ b[i]) * 0x100000001b3ull;
}

static void add_number(struct told *t, uint64_t n)
{
	add(t, &n, sizeof(n));
}

static void add_event(void *ctx, char what, enum flow_dir dir, uint32_t stream, uint64_t n)
{
	add_number(ctx, (uint64_t)(unsigned char)what << 40 | (uint64_t)dir << 32 | stream);
	add_number(ctx, n);
}

static void add_list(void *ctx, const struct h2_list *list)
{
	for (unsigned i = 0; i < list->n; i++) {
		struct span n = h2_name(list, i), v = h2_value(list, i);

		add(ctx, n.p, n.len);
		add_number(ctx, n.len);
		add(ctx, v.p, v.len);
		add_number(ctx, v.len);
	}
}

/* Lines end with CR LF, the last one is empty, and there is no CR, LF or NUL beside. */
static void check_head(struct span text)
{
	size_t line = 0;

	for (size_t i = 0; i < text.len; i++) {
		if (text.p[i] != '\r') {
			must(text.p[i] != '\n' && text.p[i] != '\0');
			continue;
		}
		must(i + 1 < text.len && text.p[i + 1] == '\n');
		must(i != line || i + 2 == text.len);
		line = i + 2;
		i++;
	}
	must(line == text.len && text.len > 4);
}

static void write_head(enum flow_dir dir, const struct h2_list *list, bool end)
{
	struct http1 x = {0};
	struct buf out;

	buf_init(&out, 1 << 20);
	if (http1_headers(&x, dir, list, end, &out) == 0 && out.len > 0)
		check_head(buf_span(&out));
	buf_fini(&out);
}

static void on_headers(void *ctx, enum flow_dir dir, uint32_t stream, const struct h2_list *list,
		       bool end)
{
	add_event(ctx, 'h', dir, stream, end);
	add_list(ctx, list);
	write_head(dir, list, end);
}

static void on_push(void *ctx, uint32_t stream, uint32_t promised, const struct h2_list *list)
{
	add_event(ctx, 'p', FLOW_S2C, stream, promised);
	add_list(ctx, list);
}

static void on_headers_lost(void *ctx, enum flow_dir dir, uint32_t stream, uint32_t promised)
{
	add_event(ctx, 'x', dir, stream, promised);
}

static void on_data_begin(void *ctx, enum flow_dir dir, uint32_t stream, uint32_t len)
{
	add_event(ctx, 'd', dir, stream, len);
}

static void on_data(void *ctx, enum flow_dir dir, uint32_t stream, struct span bytes)
{
	(void)dir, (void)stream;
	add(ctx, bytes.p, bytes.len);
}

static void on_data_gap(void *ctx, enum flow_dir dir, uint32_t stream, uint32_t len)
{
	add_event(ctx, 'g', dir, stream, len);
}

static void on_data_end(void *ctx, enum flow_dir dir, uint32_t stream, bool end)
{
	add_event(ctx, 'e', dir, stream, end);
}

static void on_reset(void *ctx, enum flow_dir dir, uint32_t stream, uint32_t code)
{
	add_event(ctx, 'r', dir, stream, code);
}

static void on_goaway(void *ctx, enum flow_dir dir, uint32_t last)
{
	add_event(ctx, 'a', dir, 0, last);
}

static void on_lost(void *ctx, enum flow_dir dir)
{
	add_event(ctx, 'l', dir, 0, 0);
}

static void on_unframed(void *ctx, enum flow_dir dir, size_t len)
{
	(void)ctx, (void)dir, (void)len;
}

static const struct h2_ops ops = {on_headers, on_push,     on_headers_lost, on_data_begin,
				  on_data,    on_data_gap, on_data_end,     on_reset,
				  on_goaway,  on_lost,     on_unframed};

/* One thing that happens: bytes of a direction, or a hole. */
struct step {
	enum flow_dir dir;
	bool gap, end;
	struct span bytes;
};

static bool step_take(struct rd *in, struct step *s)
{
	uint8_t how = rd_u8(in);

	*s = (struct step){.dir = how & 1 ? FLOW_S2C : FLOW_C2S, .gap = how & 2, .end = !(how & 4)};
	s->bytes = rd_bytes(in, how & 8 ? rd_u16be(in) : rd_u8(in));
	return !in->bad && s->bytes.len > 0;
}

/* In memory of exactly their size, so that a read beyond them is seen by ASan. */
static uint8_t *copy_of(struct span bytes)
{
	uint8_t *copy = malloc(bytes.len);

	must(copy != NULL);
	memcpy(copy, bytes.p, bytes.len);
	return copy;
}

static int give_h2(struct h2 *h, const struct step *s, size_t piece)
{
	int err = 0;

	if (s->gap)
		return h2_gap(h, s->dir, s->bytes.len);
	for (size_t at = 0, n; at < s->bytes.len && !err; at += n) {
		uint8_t *copy;

		n = s->bytes.len - at < piece ? s->bytes.len - at : piece;
		copy = copy_of(span_of(s->bytes.p + at, n));
		err = h2_bytes(h, s->dir, span_of(copy, n), s->end && at + n == s->bytes.len);
		free(copy);
	}
	return err;
}

/* *holes: something was missing, so that it matters where calls begin. */
static uint64_t run_h2(struct rd in, bool late, size_t piece, bool *holes)
{
	struct told told = {0xcbf29ce484222325ull};
	struct h2_list list;
	struct step s;
	struct h2 *h;
	int err = 0;

	h2_list_init(&list);
	must(h2_new(&h, late, &ops, &told, &list) == 0);
	while (!err && step_take(&in, &s)) {
		*holes |= s.gap;
		err = give_h2(h, &s, piece);
	}
	h2_free(h);
	h2_list_fini(&list);
	return told.hash;
}

#define CLIENT     5000
#define SHOWN_MOST 512

/* A connection that is shown. */
struct shown {
	uint16_t port;
	unsigned streams;
	uint32_t next[2]; /* sequence numbers */
	struct buf text[2];
	bool holed, reset;
	uint8_t fins;
};

struct rig {
	struct sink sink; /* first: see sink.h */
	struct shown *shown[SHOWN_MOST];
	unsigned n;
	struct sink_set sinks;
	struct outlet_set set;
	struct frame_flow_open open;
	struct outlet_flow flow;
	_Alignas(8) uint8_t states[512];
};

static struct shown *shown_at(struct rig *r, uint16_t port)
{
	for (unsigned i = r->n; i-- > 0;)
		if (r->shown[i]->port == port)
			return r->shown[i]->reset || r->shown[i]->fins == 3 ? NULL : r->shown[i];
	return NULL;
}

static void on_stream(struct sink *sink, const struct sink_stream *stream, uint64_t ts_ns)
{
	struct rig *r = (struct rig *)sink;
	struct shown *s = shown_at(r, stream->client_port);

	(void)ts_ns;
	must(stream->client_port != CLIENT && (!s || stream->serial));
	if (!s && r->n < SHOWN_MOST) {
		s = r->shown[r->n++] = calloc(1, sizeof(*s));
		must(s != NULL);
		s->port = stream->client_port;
		buf_init(&s->text[0], 1 << 26);
		buf_init(&s->text[1], 1 << 26);
	}
	if (s)
		s->streams++;
}

static uint16_t get_u16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static void on_packet(struct sink *sink, struct span l2, uint64_t ts_ns,
		      const struct sink_flow *flow, bool first)
{
	const uint8_t *tcp = l2.p + 34, *text = tcp + tcp[12] / 16 * 4;
	int dir = get_u16(tcp) == 443;
	struct shown *s = shown_at((struct rig *)sink, get_u16(dir ? tcp + 2 : tcp));
	size_t len = (size_t)(l2.p + l2.len - text);
	uint32_t seq = (uint32_t)get_u16(tcp + 4) << 16 | get_u16(tcp + 6);

	(void)ts_ns, (void)first;
	must(l2.len >= 54 && text <= l2.p + l2.len && flow->host[0] == 'h');
	if (!s)
		return;
	if (tcp[13] & 2) { /* SYN */
		s->next[dir] = seq + 1;
		return;
	}
	s->holed |= seq != s->next[dir];
	s->next[dir] = seq + (uint32_t)len;
	wr_bytes(&s->text[dir], text, len);
	s->reset |= (tcp[13] & 4) != 0;
	s->fins |= tcp[13] & 1 ? (uint8_t)(1 << dir) : 0;
}

static const struct sink_ops sink_ops = {
	.name = "strict", .packet = on_packet, .stream = on_stream};

/* The strict reader. Where a connection was reset, what it says may end anywhere. */
enum read { READ_ALL, READ_PART };

/* Up to CR LF. */
static enum read read_line(struct span *in, struct span *line)
{
	const uint8_t *end = memmem(in->p, in->len, "\r\n", 2);

	if (!end)
		return READ_PART;
	*line = span_of(in->p, (size_t)(end - in->p));
	*in = span_of(end + 2, in->len - line->len - 2);
	return READ_ALL;
}

struct head {
	struct span start;
	uint64_t length;
	bool chunked, has_length;
};

static bool begins(struct span s, const char *text)
{
	return s.len >= strlen(text) && memcmp(s.p, text, strlen(text)) == 0;
}

static enum read read_head(struct span *in, struct head *h)
{
	struct span line;

	*h = (struct head){0};
	if (read_line(in, &h->start) != READ_ALL)
		return READ_PART;
	for (;;) {
		if (read_line(in, &line) != READ_ALL)
			return READ_PART;
		if (line.len == 0)
			break;
		must(memchr(line.p, ':', line.len) != NULL && line.p[0] > ' ');
		if (begins(line, "Content-Length: ")) {
			must(!h->has_length);
			h->has_length = true;
			h->length = strtoull((const char *)line.p + 16, NULL, 10);
		} else if (begins(line, "Transfer-Encoding: ")) {
			must(!h->chunked && begins(line, "Transfer-Encoding: chunked"));
			h->chunked = true;
		}
	}
	must(!h->chunked || !h->has_length);
	return READ_ALL;
}

static enum read read_chunks(struct span *in)
{
	struct span line;
	uint64_t len;

	do {
		char *end;

		if (read_line(in, &line) != READ_ALL)
			return READ_PART;
		len = strtoull((const char *)line.p, &end, 16);
		must(line.len > 0 && end == (const char *)line.p + line.len);
		if (len > 0 && in->len < len + 2)
			return READ_PART;
		must(len == 0 || memcmp(in->p + len, "\r\n", 2) == 0);
		if (len > 0)
			*in = span_of(in->p + len + 2, in->len - len - 2);
	} while (len > 0);
	do { /* trailers */
		if (read_line(in, &line) != READ_ALL)
			return READ_PART;
		must(!begins(line, "Content-Length:") && !begins(line, "Transfer-Encoding:"));
	} while (line.len > 0);
	return READ_ALL;
}

static enum read read_body(struct span *in, const struct head *h)
{
	if (h->chunked)
		return read_chunks(in);
	if (in->len < h->length)
		return READ_PART;
	*in = span_of(in->p + h->length, in->len - h->length);
	return READ_ALL;
}

/* One request. upgrade: what follows is not HTTP, if the server agrees. */
static enum read read_request(struct span *in, bool *head, bool *upgrade)
{
	struct span from = *in;
	struct head h;
	unsigned spaces = 0;

	if (read_head(in, &h) != READ_ALL)
		return READ_PART;
	for (size_t i = 0; i < h.start.len; i++)
		spaces += h.start.p[i] == ' ';
	must(spaces == 2 && memcmp(h.start.p + h.start.len - 9, " HTTP/1.1", 9) == 0);
	*head = begins(h.start, "HEAD ");
	*upgrade = begins(h.start, "CONNECT ") ||
		   memmem(from.p, from.len - in->len, "\r\nUpgrade: ", 11) != NULL;
	return read_body(in, &h);
}

/* One final answer, and those before it. opened: the protocol changes. */
static enum read read_answer(struct span *in, bool to_head, bool upgrade, bool *opened)
{
	unsigned long status;
	struct head h;

	do {
		if (read_head(in, &h) != READ_ALL)
			return READ_PART;
		must(begins(h.start, "HTTP/1.1 "));
		status = strtoul((const char *)h.start.p + 9, NULL, 10);
	} while (status == 100);
	must(status < 100 || status > 199 || (status == 101 && upgrade));
	*opened = upgrade && (status == 101 || (status >= 200 && status < 300));
	if (*opened || to_head || status == 204 || status == 304)
		return READ_ALL;
	return read_body(in, &h);
}

static void check_shown(const struct shown *s)
{
	struct span in[2] = {buf_span(&s->text[0]), buf_span(&s->text[1])};
	bool whole = s->fins == 3, head = false, upgrade = false, opened = false;
	unsigned requests = 0;

	if (s->holed)
		return;
	while (in[0].len > 0 && !upgrade) {
		requests++;
		if (read_request(&in[0], &head, &upgrade) != READ_ALL) {
			must(!whole);
			break;
		}
		if (in[1].len == 0 || read_answer(&in[1], head, upgrade, &opened) != READ_ALL) {
			must(!whole);
			break;
		}
	}
	must(requests <= s->streams);
	must(!whole || requests == s->streams);
	must(!whole || opened || (in[0].len == 0 && in[1].len == 0));
	must(!upgrade || opened || in[0].len == 0);
}

static void check_all(struct rig *r)
{
	for (unsigned i = 0; i < r->n; i++) {
		struct shown *s = r->shown[i];

		check_shown(s);
		buf_fini(&s->text[0]);
		buf_fini(&s->text[1]);
		free(s);
	}
}

static void give_outlet(struct rig *r, const struct step *s, uint64_t ts_ns)
{
	uint8_t *copy;

	if (s->gap) {
		(void)outlets_gap(&r->set, r->states, &r->flow, s->dir, s->bytes.len, ts_ns);
		(void)outlets_poke(&r->set, r->states, &r->flow, s->dir, ts_ns);
		return;
	}
	copy = copy_of(s->bytes);
	(void)outlets_data(&r->set, r->states, &r->flow, s->dir, span_of(copy, s->bytes.len),
			   s->end, ts_ns);
	free(copy);
}

static void run_outlet(struct rd in, bool late, uint8_t how, enum sink_h2 form)
{
	struct rig *r = calloc(1, sizeof(*r));
	uint64_t ts_ns = TS;
	struct step s;

	must(r != NULL);
	r->open = (struct frame_flow_open){.family = 4,
					   .client_addr = {10, 0, 0, 1},
					   .server_addr = {10, 0, 0, 2},
					   .client_port = CLIENT,
					   .server_port = 443,
					   .flags = late ? FLOW_OPEN_LATE : 0};
	r->flow.who = (struct sink_flow){.open = &r->open, .host = "h"};
	r->sink = (struct sink){.ops = &sink_ops, .shape = {.http1 = (uint16_t)form}};
	r->sinks = (struct sink_set){.v = {&r->sink}, .n = 1};
	outlets_init(&r->set, &r->sinks);
	must(outlets_open(&r->set, &r->sinks, 1) == 0);
	must(r->set.state_len <= sizeof(r->states));
	outlets_begin(&r->set, r->states, &r->flow, ts_ns);
	while (step_take(&in, &s))
		give_outlet(r, &s, ts_ns += 1000000);
	if (how & 2)
		(void)outlets_fin(&r->set, r->states, &r->flow, FLOW_C2S, ts_ns);
	if (how & 4)
		(void)outlets_fin(&r->set, r->states, &r->flow, FLOW_S2C, ts_ns);
	if (how & 8)
		outlets_rst(&r->set, r->states, &r->flow, FLOW_S2C, ts_ns);
	outlets_forget(&r->set, r->states);
	outlets_close(&r->set);
	check_all(r);
	free(r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rd in = rd_from(span_of(data, size));
	uint8_t how = rd_u8(&in);
	bool late = how & 1, holes = false;
	uint64_t whole = run_h2(in, late, SIZE_MAX, &holes);
	uint64_t pieces = run_h2(in, late, 1, &holes);

	must(late || holes || whole == pieces);
	run_outlet(in, late, how, SINK_H2_HTTP1);
	run_outlet(in, late, how, SINK_H2_SERIAL);
	return 0;
}
