/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a hostile peer of the tunnel can say: the input goes, cut into pieces, into zblock_decode()
 * and into ingest_bytes(), once as it is and once behind a proper hello. The session table does
 * nothing but decode the frames it is given.
 */
#include <stdlib.h>

#include "base/log.h"
#include "hello.h"
#include "ingest.h"

struct sessions {
	int unused;
};
struct session_origin {
	int unused;
};

static struct sessions table;
static struct session_origin origin;

struct session_origin *sessions_origin(struct sessions *t, const uint8_t agent[16],
				       struct span host)
{
	(void)t;
	(void)agent;
	(void)host;
	return &origin;
}

int sessions_frame(struct sessions *t, struct session_origin *o, const struct frame *f,
		   uint64_t now_ns)
{
	struct frame_flow_open open;
	struct frame_data data;

	(void)t;
	(void)o;
	(void)now_ns;
	if (f->type == FRAME_FLOW_OPEN)
		return frame_get_flow_open(f, &open);
	return f->type == FRAME_DATA ? frame_get_data(f, &data) : 0;
}

void sessions_origin_link(struct sessions *t, struct session_origin *o, bool is_up)
{
	(void)t;
	(void)o;
	(void)is_up;
}

void sessions_origin_gone(struct sessions *t, struct session_origin *o, uint64_t now_ns)
{
	(void)t;
	(void)o;
	(void)now_ns;
}

static void decode(struct span in)
{
	struct zblock_dec *dec;
	struct zblock z;
	ssize_t n;

	if (zblock_dec_new(&dec))
		abort();
	while ((n = zblock_decode(dec, in, &z)) > 0) {
		if ((size_t)n > in.len || z.frames.len > ZBLOCK_RAW_MAX)
			abort();
		in = span_of(in.p + n, in.len - (size_t)n);
	}
	zblock_dec_free(dec);
}

static void ingest(struct span in, size_t piece, bool greeted)
{
	struct crew *crew = crew_new_direct(&table);
	struct ingest_hub *hub;
	struct ingest *link;
	struct buf hello, reply;

	buf_init(&hello, 4096);
	buf_init(&reply, 4u << 20);
	put_hello(&hello);
	if (!crew || ingest_hub_new(&hub, crew) || ingest_new(&link, hub, "fuzz"))
		abort();
	if (greeted && ingest_bytes(link, buf_span(&hello), &reply, 1))
		abort(); /* a proper hello is always welcome */
	while (in.len) {
		if (ingest_bytes(link, cut_front(&in, piece), &reply, 1))
			break;
		(void)ingest_ack(link, &reply);
		buf_reset(&reply);
	}
	ingest_free(link);
	ingest_hub_free(hub);
	crew_free(crew);
	buf_fini(&hello);
	buf_fini(&reply);
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
	size_t piece;

	if (!size)
		return 0;
	piece = data[0] ? data[0] : SIZE_MAX;
	decode(span_of(data + 1, size - 1));
	ingest(span_of(data + 1, size - 1), piece, false);
	ingest(span_of(data + 1, size - 1), piece, true);
	return 0;
}
