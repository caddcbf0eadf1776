/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target of collector/sessions/session.c and forge.c: the input is a run of frames of two
 * agents, with time passing in between. Looks for crashes and leaks only; the packets go to a sink
 * that ignores them.
 */
#include <stdlib.h>

#include "base/clock.h"
#include "sessions/session.h"

static void on_packet(struct sink *s, struct span l2, uint64_t ts_ns, const struct sink_flow *flow,
		      bool first)
{
	(void)s, (void)ts_ns, (void)first;
	if (l2.len < 54 || flow->host[0] != 'h')
		abort();
}

static const struct sink_ops ops = {.name = "none", .packet = on_packet};

/* Each frame is preceded by one byte: which agent, how much time has passed, whether one is gone.
 */
static void feed(struct sessions *t, struct span in)
{
	static const uint8_t id[2][16] = {{1}, {2}};
	uint64_t now = NS_PER_S;

	while (in.len > 1) {
		uint8_t how = in.p[0];
		struct session_origin *o = sessions_origin(t, id[how & 1], span_str("h"));
		struct frame f;
		ssize_t n = frame_decode(span_of(in.p + 1, in.len - 1), &f);

		if (n <= 0 || !o)
			return;
		if (how & 2)
			now += 3 * NS_PER_MS;
		if (how & 4)
			now += 7 * NS_PER_S;
		if (how & 8)
			sessions_origin_link(t, o, how & 16);
		if (how & 6)
			(void)sessions_tick(t, now);
		if (sessions_frame(t, o, &f, now) == 0 && (how & 0xf0) == 0xf0)
			sessions_origin_gone(t, o, now);
		in = span_of(in.p + 1 + n, in.len - 1 - (size_t)n);
	}
	sessions_close_all(t, now);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct session_conf conf = {.idle_s = 5, .max_sessions = 3};
	struct sink sink = {.ops = &ops};
	struct sink_set set = {.v = {&sink}, .n = 1};
	struct sessions *t;

	if (sessions_new(&t, &conf, &set) < 0)
		return 0;
	feed(t, span_of(data, size));
	sessions_free(t);
	return 0;
}
