/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_frame: any bytes as a run of frames. Each frame goes through every decoder; what is decoded
 * is encoded and decoded again, and the second encoding must equal the first (the input itself may
 * carry bytes that decoders ignore). Frames cut short must be waited for, never misread.
 */
#include <stdlib.h>
#include <string.h>

#include "frame.h"

static void check(bool ok)
{
	if (!ok)
		abort();
}

static struct frame decode_own(const struct buf *b)
{
	struct frame f;

	check(frame_decode(buf_span(b), &f) == (ssize_t)b->len);
	return f;
}

#define ROUND_TRIP(kind, frame_type, ...)                                                          \
	static void round_trip_##kind(const struct frame *f, struct buf *one, struct buf *two)     \
	{                                                                                          \
		struct frame_##kind m;                                                             \
		struct frame again;                                                                \
                                                                                                   \
		if (frame_get_##kind(f, &m))                                                       \
			return;                                                                    \
		frame_put_##kind(one, &m __VA_ARGS__);                                             \
		check(!one->bad && one->len <= FRAME_HEADER_LEN + f->body.len);                    \
		again = decode_own(one);                                                           \
		check(again.type == frame_type);                                                   \
		check(frame_get_##kind(&again, &m) == 0);                                          \
		frame_put_##kind(two, &m __VA_ARGS__);                                             \
		check(span_eq(buf_span(one), buf_span(two)));                                      \
	}

ROUND_TRIP(hello, FRAME_HELLO)
ROUND_TRIP(welcome, FRAME_WELCOME)
ROUND_TRIP(refused, FRAME_REFUSED)
ROUND_TRIP(flow_open, FRAME_FLOW_OPEN)
ROUND_TRIP(flow_meta, FRAME_FLOW_META)
ROUND_TRIP(data, FRAME_DATA)
ROUND_TRIP(gap, FRAME_GAP)
ROUND_TRIP(flow_fin, FRAME_FLOW_FIN)
ROUND_TRIP(flow_close, FRAME_FLOW_CLOSE)
ROUND_TRIP(stats, FRAME_STATS)
ROUND_TRIP(ack, FRAME_ACK)
ROUND_TRIP(ping, FRAME_PING, , false)
ROUND_TRIP(enroll, FRAME_ENROLL)
ROUND_TRIP(enrolled, FRAME_ENROLLED)

static void (*const round_trips[])(const struct frame *, struct buf *, struct buf *) = {
	round_trip_hello,      round_trip_welcome,  round_trip_refused, round_trip_flow_open,
	round_trip_flow_meta,  round_trip_data,     round_trip_gap,     round_trip_flow_fin,
	round_trip_flow_close, round_trip_stats,    round_trip_ack,     round_trip_ping,
	round_trip_enroll,     round_trip_enrolled,
};

static void every_decoder(const struct frame *f)
{
	struct buf one, two;

	buf_init(&one, FRAME_HEADER_LEN + FRAME_BODY_MAX);
	buf_init(&two, FRAME_HEADER_LEN + FRAME_BODY_MAX);
	for (size_t i = 0; i < sizeof(round_trips) / sizeof(round_trips[0]); i++) {
		round_trips[i](f, &one, &two);
		buf_reset(&one);
		buf_reset(&two);
	}
	buf_fini(&one);
	buf_fini(&two);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct span in = span_of(data, len);
	struct frame f, cut;
	ssize_t n;

	while ((n = frame_decode(in, &f)) > 0) {
		check((size_t)n == FRAME_HEADER_LEN + f.body.len && (size_t)n <= in.len);
		check(frame_decode(span_of(in.p, (size_t)n - 1), &cut) == 0);
		every_decoder(&f);
		(void)frame_flow(&f);
		in = span_of(in.p + n, in.len - (size_t)n);
	}
	return 0;
}
