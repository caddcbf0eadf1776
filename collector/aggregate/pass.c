/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pass: see pass.h; PROTOCOL.md section 4.8. The agent's bytes are gone over by their envelopes'
 * headers alone; the collector's answers are small and looked at, so that nonsense stays here.
 */
#include "pass.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct pass {
	enum pass_state state;
	struct zblock_walk walk; /* over what follows the hello */
	struct zblock_dec *dec;  /* of the hello, then of answers: never a block */
	struct buf hello;
	size_t hello_len; /* of it; 0: not known yet */
	uint8_t key[PASS_KEY_LEN];
	char host[64], refusal[256];
};

/* ---- life ---- */

int pass_new(struct pass **out)
{
	struct pass *p = calloc(1, sizeof(*p));
	int err;

	if (!p)
		return -ENOMEM;
	buf_init(&p->hello, PASS_HELLO_MAX);
	err = zblock_dec_new(&p->dec);
	if (err) {
		pass_free(p);
		return err;
	}
	*out = p;
	return 0;
}

void pass_free(struct pass *p)
{
	if (!p)
		return;
	zblock_dec_free(p->dec);
	buf_cleanse(&p->hello);
	free(p);
}

enum pass_state pass_state(const struct pass *p)
{
	return p->state;
}

const uint8_t *pass_key(const struct pass *p)
{
	return p->key;
}

const char *pass_host(const struct pass *p)
{
	return p->host;
}

const char *pass_refusal(const struct pass *p)
{
	return p->refusal;
}

static int broken(int err, const char **why, const char *text)
{
	*why = text;
	return err;
}

/* ---- the agent's side ---- */

static int on_hello(struct pass *p, const struct zblock *z, const char **why)
{
	struct frame_hello m;
	struct frame f;

	if (z->kind != ZBLOCK_CONTROL || frame_decode(z->frames, &f) <= 0 ||
	    f.type != FRAME_HELLO || frame_get_hello(&f, &m))
		return broken(-EPROTO, why, "not a hello first");
	memcpy(p->key, m.agent, sizeof(m.agent));
	p->key[16] = (uint8_t)(m.link >> 8);
	p->key[17] = (uint8_t)m.link;
	span_print(m.host, p->host, sizeof(p->host));
	p->state = PASS_ASKED;
	return 0;
}

/* Up to `want` bytes of it, out of *in. Whether it has so many. */
static bool collect(struct pass *p, struct span *in, size_t want)
{
	size_t n = want > p->hello.len ? want - p->hello.len : 0;

	if (n > in->len)
		n = in->len;
	wr_bytes(&p->hello, in->p, n);
	*in = span_of(in->p + n, in->len - n);
	return p->hello.len >= want;
}

static int take_hello(struct pass *p, struct span *in, const char **why)
{
	struct zblock_head h;
	struct zblock z;

	if (!p->hello_len) {
		if (!collect(p, in, ZBLOCK_HEADER_LEN))
			return p->hello.bad ? broken(-ENOMEM, why, "out of memory") : 0;
		if (zblock_head(buf_span(&p->hello), &h) <= 0 || h.kind != ZBLOCK_CONTROL)
			return broken(-EPROTO, why, "not a hello first");
		if (h.wire_len > PASS_HELLO_MAX - ZBLOCK_HEADER_LEN)
			return broken(-EPROTO, why, "too many bytes before hello");
		p->hello_len = ZBLOCK_HEADER_LEN + h.wire_len;
	}
	if (!collect(p, in, p->hello_len))
		return p->hello.bad ? broken(-ENOMEM, why, "out of memory") : 0;
	if (zblock_decode(p->dec, buf_span(&p->hello), &z) <= 0)
		return broken(-EPROTO, why, "not a hello first");
	return on_hello(p, &z, why);
}

static int walk(struct pass *p, struct span in, struct pass_count *c, const char **why)
{
	while (in.len) {
		struct zblock_head h;
		bool began;
		ssize_t n = zblock_walk(&p->walk, in, &h, &began);

		if (n < 0)
			return broken((int)n, why, "broken envelope");
		c->blocks += began && h.kind == ZBLOCK_DATA;
		in = span_of(in.p + n, in.len - (size_t)n);
	}
	return 0;
}

int pass_agent(struct pass *p, struct span in, struct pass_count *n, const char **why)
{
	int err = 0;

	*n = (struct pass_count){0};
	if (p->state == PASS_HELLO)
		err = take_hello(p, &in, why);
	if (err || !in.len)
		return err;
	if (p->state == PASS_ASKED) /* PROTOCOL.md 4.2: all else follows the welcome */
		return broken(-EPROTO, why, "does not wait for the welcome");
	return walk(p, in, n, why);
}

struct span pass_hello(const struct pass *p)
{
	return buf_span(&p->hello);
}

void pass_hello_sent(struct pass *p)
{
	buf_cleanse(&p->hello);
}

/* ---- the collector's side ---- */

static int on_welcome(struct pass *p, const struct frame *f, const char **why)
{
	struct frame_welcome m;

	if (p->state != PASS_ASKED || frame_get_welcome(f, &m))
		return broken(-EPROTO, why, "a welcome in the wrong place, or a broken one");
	p->state = PASS_UP;
	return 0;
}

static int on_refused(struct pass *p, const struct frame *f, const char **why)
{
	struct frame_refused m;

	if (frame_get_refused(f, &m))
		return broken(-EBADMSG, why, "a broken refusal");
	span_print(m.text, p->refusal, sizeof(p->refusal));
	p->state = PASS_REFUSED;
	return 0;
}

static int on_answer(struct pass *p, const struct frame *f, const char **why)
{
	switch (f->type) {
	case FRAME_WELCOME:
		return on_welcome(p, f, why);
	case FRAME_REFUSED:
		return on_refused(p, f, why);
	case FRAME_HELLO:
	case FRAME_FLOW_OPEN:
	case FRAME_FLOW_META:
	case FRAME_DATA:
	case FRAME_GAP:
	case FRAME_FLOW_FIN:
	case FRAME_FLOW_CLOSE:
	case FRAME_STATS:
	case FRAME_ENROLL:
	case FRAME_ENROLLED:
		return broken(-EPROTO, why, "a frame that no collector sends");
	default: /* ack, ping, pong, and types of a later version: the agent's */
		return p->state == PASS_UP
			       ? 0
			       : broken(-EPROTO, why, "neither a welcome nor a refusal first");
	}
}

static int on_envelope(struct pass *p, const struct zblock *z, const char **why)
{
	struct span left = z->frames;

	if (z->kind != ZBLOCK_CONTROL)
		return broken(-EPROTO, why, "a block from a collector");
	while (left.len && p->state != PASS_REFUSED) {
		struct frame f;
		ssize_t n = frame_decode(left, &f);
		int err;

		if (n <= 0)
			return broken(-EBADMSG, why, "a broken frame");
		err = on_answer(p, &f, why);
		if (err)
			return err;
		left = span_of(left.p + n, left.len - (size_t)n);
	}
	return 0;
}

ssize_t pass_collector(struct pass *p, struct span in, const char **why)
{
	size_t used = 0;

	while (used < in.len && p->state != PASS_REFUSED) {
		struct zblock z;
		ssize_t n = zblock_decode(p->dec, span_of(in.p + used, in.len - used), &z);
		int err;

		if (n < 0)
			return broken((int)n, why, "a broken envelope");
		if (n == 0)
			break;
		err = on_envelope(p, &z, why);
		if (err)
			return err;
		used += (size_t)n;
	}
	return (ssize_t)used;
}
