/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What hostile peers of an aggregator can say, on both sides: the input goes, cut into pieces, as
 * an agent's into pass_agent(), with and without a proper hello and welcome before it, and as a
 * collector's into pass_collector(). What goes on must not depend on the pieces.
 */
#include <stdlib.h>
#include <string.h>

#include "aggregate/pass.h"
#include "base/log.h"
#include "hello.h"

static void greet(struct pass *p, bool welcome)
{
	struct frame_welcome answer = {.version = SSLC_PROTO_VERSION};
	struct buf frames, wire;
	struct pass_count n;
	const char *why;

	buf_init(&frames, 4096);
	buf_init(&wire, 4096);
	put_hello(&wire);
	if (pass_agent(p, buf_span(&wire), &n, &why) || pass_state(p) != PASS_ASKED)
		abort();
	buf_reset(&wire);
	frame_put_welcome(&frames, &answer);
	put_control(&wire, &frames);
	if (welcome && (pass_collector(p, buf_span(&wire), &why) != (ssize_t)wire.len ||
			pass_state(p) != PASS_UP))
		abort();
	buf_fini(&frames);
	buf_fini(&wire);
}

static struct pass *pass_at(enum pass_state state)
{
	struct pass *p;

	if (pass_new(&p))
		abort();
	if (state != PASS_HELLO)
		greet(p, state == PASS_UP);
	return p;
}

struct result {
	int err;
	uint64_t blocks;
	enum pass_state state;
};

static struct result agent(struct span in, size_t piece, enum pass_state state)
{
	struct pass *p = pass_at(state);
	struct result r = {0};

	while (in.len && !r.err) {
		struct pass_count c;
		const char *why = NULL;

		r.err = pass_agent(p, cut_front(&in, piece), &c, &why);
		if (r.err && !why)
			abort();
		r.blocks += c.blocks;
	}
	if (pass_hello(p).len > PASS_HELLO_MAX)
		abort();
	r.state = pass_state(p);
	pass_free(p);
	return r;
}

/* As aggregate does: what is not whole stays in front of what comes. Returns what went on. */
static size_t collector(struct span in, size_t piece, enum pass_state state)
{
	struct pass *p = pass_at(state);
	size_t came = 0, gone = 0;

	while (came < in.len) {
		const char *why = NULL;
		ssize_t n;

		came = in.len - came < piece ? in.len : came + piece;
		n = pass_collector(p, span_of(in.p + gone, came - gone), &why);
		if (n < 0 && !why)
			abort();
		if (n < 0)
			break;
		if ((size_t)n > came - gone)
			abort();
		gone += (size_t)n;
		if (pass_state(p) == PASS_REFUSED)
			break;
	}
	pass_free(p);
	return gone;
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	log_set_level(LOG_ERROR);
	return 0;
}

/* The first byte says how the rest is cut. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct span in;
	size_t piece;

	if (!size)
		return 0;
	piece = data[0] ? data[0] : SIZE_MAX;
	in = span_of(data + 1, size - 1);
	for (enum pass_state s = PASS_HELLO; s <= PASS_UP; s++) {
		struct result whole = agent(in, SIZE_MAX, s), cut = agent(in, piece, s);

		/* a hello with more behind it in one piece is refused, in two perhaps later */
		if (whole.state != cut.state || (s == PASS_UP && whole.blocks != cut.blocks) ||
		    !whole.err != !cut.err)
			abort();
		(void)collector(in, piece, s);
		(void)collector(in, SIZE_MAX, s);
	}
	return 0;
}
