/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: an HTTP/2 connection for collector/http/h2.c, hpack.c, http1.c, streams.c and
 * outlet_http1.c. Told to h2.c as it is and byte by byte: both must come to the same. Each list of
 * fields is written as a head, which must end where its text ends and nowhere before. Told to the
 * outlet, whose packets nobody looks at.
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

static void on_packet(struct sink *s, struct span l2, uint64_t ts_ns, const struct sink_flow *flow,
		      bool first)
{
	(void)s, (void)ts_ns, (void)first;
	must(l2.len >= 54 && flow->host[0] == 'h');
}

static const struct sink_ops sink_ops = {.name = "none", .packet = on_packet};

struct rig {
	struct sink sink;
	struct sink_set sinks;
	struct outlet_set set;
	struct frame_flow_open open;
	struct outlet_flow flow;
	_Alignas(8) uint8_t states[512];
};

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
					   .client_port = 5000,
					   .server_port = 443,
					   .flags = late ? FLOW_OPEN_LATE : 0};
	r->flow.who = (struct sink_flow){.open = &r->open, .host = "h"};
	r->sink = (struct sink){.ops = &sink_ops, .shape = {.http1 = (uint16_t)form}};
	r->sinks = (struct sink_set){.v = {&r->sink}, .n = 1};
	outlets_init(&r->set, &r->sinks);
	must(outlets_open(&r->set, &r->sinks) == 0);
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
