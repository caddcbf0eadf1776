/* SPDX-License-Identifier: Apache-2.0 */
/* sink_shared: what workers give, and what the one sink behind it is given; that one takes notes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "sinks/sink_shared.h"

#define MANY  5000u
#define HANDS 3u

struct noter {
	struct sink sink;
	char text[1024]; /* of what was said in words */
	unsigned next[HANDS], out_of_order, packets;
};

static struct noter *noter;
static unsigned n_closed;

static void say(struct noter *s, const char *word, const struct sink_flow *flow, struct span bytes,
		bool flag, uint64_t ts_ns)
{
	size_t at = strlen(s->text);

	snprintf(s->text + at, sizeof(s->text) - at, "%s %.*s %d %u", word, (int)bytes.len,
		 (const char *)bytes.p, flag, (unsigned)ts_ns);
	at = strlen(s->text);
	if (flow)
		snprintf(s->text + at, sizeof(s->text) - at, " %s/%.*s/%.*s/%.*s/%u", flow->host,
			 (int)flow->open->comm.len, (const char *)flow->open->comm.p,
			 (int)flow->open->exe.len, (const char *)flow->open->exe.p,
			 (int)flow->open->container.len, (const char *)flow->open->container.p,
			 (unsigned)flow->open->flow);
	strncat(s->text, "\n", sizeof(s->text) - strlen(s->text) - 1);
}

/* Packets of threads are numbered; others are words. */
static void note_packet(struct sink *sink, struct span l2, uint64_t ts_ns,
			const struct sink_flow *flow, bool first)
{
	struct noter *s = (struct noter *)sink;
	unsigned who = (unsigned)(ts_ns >> 32), n = (unsigned)ts_ns;

	s->packets++;
	if (!who)
		say(s, "packet", flow, l2, first, ts_ns);
	else if (s->next[who - 1]++ != n || flow->open->flow != n / 7 || l2.len != n % 1400)
		s->out_of_order++;
}

static void note_message(struct sink *sink, const struct sink_flow *flow, enum flow_dir dir,
			 struct span bytes, bool end, uint64_t ts_ns)
{
	say((struct noter *)sink, dir == FLOW_C2S ? "ask" : "answer", flow, bytes, end, ts_ns);
}

static void note_stream(struct sink *sink, const struct sink_stream *stream, uint64_t ts_ns)
{
	char text[32];

	snprintf(text, sizeof(text), "%u:%u", stream->id, stream->client_port);
	say((struct noter *)sink, "stream", stream->flow, span_str(text), stream->pushed, ts_ns);
}

static void note_flush(struct sink *sink)
{
	say((struct noter *)sink, "flush", NULL, span_str(""), false, 0);
}

static void note_tick(struct sink *sink, uint64_t now_ns)
{
	say((struct noter *)sink, "tick", NULL, span_str(""), false, now_ns);
}

static void note_reopen(struct sink *sink)
{
	say((struct noter *)sink, "reopen", NULL, span_str(""), false, 0);
}

static void note_close(struct sink *sink)
{
	(void)sink;
	n_closed++;
}

static const struct sink_ops all_ops = {.name = "noter",
					.packet = note_packet,
					.message = note_message,
					.stream = note_stream,
					.flush = note_flush,
					.tick = note_tick,
					.reopen = note_reopen,
					.close = note_close};
static const struct sink_ops few_ops = {
	.name = "noter", .message = note_message, .close = note_close};

static struct sink *hands[HANDS];

static void begin(const struct sink_ops *ops)
{
	struct shared *shared;

	noter = calloc(1, sizeof(*noter));
	noter->sink.ops = ops;
	noter->sink.shape.mtu = 1234;
	n_closed = 0;
	assert_int_equal(shared_new(&shared, &noter->sink), 0);
	for (unsigned i = 0; i < HANDS; i++)
		assert_int_equal(shared_join(&hands[i], shared), 0);
	shared_unref(shared);
	assert_int_equal(hands[1]->shape.mtu, 1234);
}

static void finish(void)
{
	for (unsigned i = 0; i < HANDS; i++) {
		assert_int_equal(n_closed, 0);
		hands[i]->ops->close(hands[i]);
	}
	assert_int_equal(n_closed, 1);
	free(noter);
}

static struct frame_flow_open an_open(uint64_t flow, const char *comm)
{
	return (struct frame_flow_open){.flow = flow,
					.comm = span_str(comm),
					.exe = span_str("/bin/x"),
					.container = span_str("pod")};
}

static void test_all_arrives_in_order_as_if_it_had_been_given_directly(void **state)
{
	struct frame_flow_open open = an_open(1, "curl");
	struct sink_flow flow = {.open = &open, .host = "web"};
	const struct sink_stream stream = {.flow = &flow, .id = 3, .client_port = 50000};
	struct sink *s;

	(void)state;
	begin(&all_ops);
	s = hands[1];
	s->ops->packet(s, span_str("one"), 1, &flow, true);
	s->ops->packet(s, span_str("two"), 2, &flow, false);
	open = an_open(2, "nginx"); /* another connection where the first one was */
	s->ops->message(s, &flow, FLOW_S2C, span_str("three"), true, 3);
	s->ops->stream(s, &stream, 4);
	s->ops->packet(s, span_str("five"), 5, NULL, false);
	flow.host = "db";
	s->ops->message(s, &flow, FLOW_C2S, span_str(""), false, 6);
	memset(&open, 0, sizeof(open)); /* borrowed: until here */
	assert_string_equal(noter->text, "");
	s->ops->flush(s);
	assert_string_equal(noter->text, "packet one 1 1 web/curl//bin/x/pod/1\n"
					 "packet two 0 2 web/curl//bin/x/pod/1\n"
					 "answer three 1 3 web/nginx//bin/x/pod/2\n"
					 "stream 3:50000 0 4 web/nginx//bin/x/pod/2\n"
					 "packet five 0 5\n"
					 "ask  0 6 db/nginx//bin/x/pod/2\n"
					 "flush  0 0\n");
	finish();
}

static void test_ticks_and_words_about_files_come_once(void **state)
{
	(void)state;
	begin(&all_ops);
	for (unsigned i = 0; i < HANDS; i++) {
		hands[i]->ops->tick(hands[i], 7);
		hands[i]->ops->reopen(hands[i]);
		hands[i]->ops->flush(hands[i]); /* the others have nothing to flush */
	}
	assert_string_equal(noter->text, "tick  0 7\nreopen  0 0\nflush  0 0\n");
	finish();
}

static void test_it_can_what_the_real_one_can(void **state)
{
	(void)state;
	begin(&few_ops);
	assert_null(hands[0]->ops->packet);
	assert_null(hands[0]->ops->stream);
	assert_null(hands[0]->ops->tick);
	assert_null(hands[0]->ops->reopen);
	assert_non_null(hands[0]->ops->message);
	finish();
}

static void test_what_is_left_is_handed_over_at_the_end(void **state)
{
	const struct frame_flow_open open = an_open(1, "curl");
	const struct sink_flow flow = {.open = &open, .host = "web"};

	(void)state;
	begin(&all_ops);
	hands[2]->ops->packet(hands[2], span_str("last"), 1, &flow, false);
	for (unsigned i = 0; i < HANDS; i++)
		hands[i]->ops->close(hands[i]);
	assert_string_equal(noter->text, "packet last 0 1 web/curl//bin/x/pod/1\n");
	assert_int_equal(n_closed, 1);
	free(noter);
}

static void *give_many(void *ctx)
{
	static const uint8_t zeros[1500];
	struct sink *s = *(struct sink **)ctx;
	uint64_t who = (uint64_t)((struct sink **)ctx - hands) + 1;

	for (unsigned n = 0; n < MANY; n++) {
		const struct frame_flow_open open = an_open(n / 7, "curl");
		const struct sink_flow flow = {.open = &open, .host = "web"};

		s->ops->packet(s, span_of(zeros, n % 1400), who << 32 | n, &flow, false);
		if (n % 1000 == 999)
			s->ops->flush(s);
	}
	return NULL;
}

static void test_threads_do_not_disturb_each_other(void **state)
{
	pthread_t thread[HANDS];

	(void)state;
	begin(&all_ops);
	for (unsigned i = 0; i < HANDS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, give_many, &hands[i]), 0);
	for (unsigned i = 0; i < HANDS; i++)
		pthread_join(thread[i], NULL);
	assert_int_equal(noter->packets, HANDS * MANY);
	assert_int_equal(noter->out_of_order, 0);
	finish();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_arrives_in_order_as_if_it_had_been_given_directly),
		cmocka_unit_test(test_ticks_and_words_about_files_come_once),
		cmocka_unit_test(test_it_can_what_the_real_one_can),
		cmocka_unit_test(test_what_is_left_is_handed_over_at_the_end),
		cmocka_unit_test(test_threads_do_not_disturb_each_other),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
