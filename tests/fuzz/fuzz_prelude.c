/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: a conversation before TLS for agent/match/prelude.c and agent/match/stitch.c, told
 * twice: as it is, and cut otherwise. Both must come to the same bytes, and never to more than was
 * said.
 */
#include "match/prelude.h"
#include "match/stitch.h"

#include <stdlib.h>
#include <string.h>

#define SIDE 4096

struct told {
	uint8_t bytes[2][SIDE];
	size_t len[2];
	struct stitch_seam *seam;
};

static void must(bool ok)
{
	if (!ok)
		abort();
}

/* The event lives in exactly its own size, so that a read beyond it is seen by ASan. */
static void put(struct prelude *p, unsigned dir, uint64_t pos, struct span bytes)
{
	struct sslc_ev_data *ev = calloc(1, sizeof(*ev) + bytes.len);

	must(ev != NULL);
	ev->ev = (struct sslc_event){SSLC_EV_CLEAR, (uint32_t)(sizeof(*ev) + bytes.len), 1, 1};
	ev->pos = pos;
	ev->len = (uint32_t)bytes.len;
	ev->dir = (uint8_t)dir;
	memcpy(ev->data, bytes.p, bytes.len);
	prelude_put(p, ev, 1);
	free(ev);
}

static void on_part(void *ctx, const struct prelude_part *part)
{
	struct told *t = ctx;

	must(part->bytes.len && part->bytes.len <= SIDE - t->len[part->dir]);
	memcpy(t->bytes[part->dir] + t->len[part->dir], part->bytes.p, part->bytes.len);
	t->len[part->dir] += part->bytes.len;
}

/* Words: direction, length, bytes. An end stands behind them: direction 255. */
static void talk(struct prelude *p, struct rd *in, size_t piece, uint64_t said[2])
{
	said[0] = said[1] = 0;
	while (in->in.len && !in->bad && in->in.p[0] != 255) {
		unsigned dir = rd_u8(in) & 1;
		struct span word = rd_bytes(in, rd_u8(in));

		for (size_t at = 0, n; at < word.len; at += n, said[dir] += n) {
			n = word.len - at < piece ? word.len - at : piece;
			put(p, dir, said[dir], span_of(word.p + at, n));
		}
	}
	(void)rd_u8(in);
}

static void run(struct rd *in, uint8_t how, size_t piece, struct told *t)
{
	const struct prelude_conf conf = {
		.mode = how & 1 ? PRELUDE_STITCH : PRELUDE_KEEP,
		.side = SIDE,
		.total = 1u << 20,
		.lost = 2,
		.idle_ns = 10,
	};
	struct prelude *p = NULL;
	uint64_t said[2], sum;

	*t = (struct told){.seam = NULL};
	must(!prelude_new(&p, &conf));
	talk(p, in, piece, said);
	sum = prelude_take(p, 1, how & 2, on_part, t, &t->seam);
	must(sum == t->len[0] + t->len[1] && t->len[0] <= said[0] && t->len[1] <= said[1]);
	must(!prelude_drop(p, 1));
	prelude_free(p);
}

/* What follows from inside TLS, whole and byte by byte. */
static void check_seam(struct stitch_seam *whole, struct stitch_seam *cut, struct rd *in)
{
	bool client = rd_u8(in) & 1, more[2] = {true, true};
	size_t len = in->in.len;
	uint8_t *a = malloc(len + 1), *b = malloc(len + 1);

	must(a && b);
	memcpy(a, in->in.p, len);
	memcpy(b, in->in.p, len);
	more[0] = stitch_seam(whole, client, a, len);
	for (size_t i = 0; i < len; i++)
		more[1] = stitch_seam(cut, client, b + i, 1);
	must(!memcmp(a, b, len) && (!len || more[0] == more[1]));
	free(a);
	free(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rd in = rd_from(span_of(data, size)), again;
	static struct told whole, cut; /* large */
	uint8_t how = rd_u8(&in);

	again = in;
	run(&in, how, SIZE_MAX, &whole);
	run(&again, how, 1 + (how >> 2), &cut);
	for (int d = 0; d < 2; d++)
		must(whole.len[d] == cut.len[d] &&
		     !memcmp(whole.bytes[d], cut.bytes[d], cut.len[d]));
	must(!whole.seam == !cut.seam);
	if (whole.seam && !in.bad && in.in.len)
		check_seam(whole.seam, cut.seam, &in);
	free(whole.seam);
	free(cut.seam);
	return 0;
}
