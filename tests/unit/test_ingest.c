/* SPDX-License-Identifier: Apache-2.0 */
/* ingest: bytes of a link in, against a session table that only takes notes. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/log.h"
#include "ingest.h"
#include "said.h"
#include "zblock.h"

/* ---- a session table that takes notes; replaces session.c in this program ---- */

struct sessions {
	int unused;
};
struct session_origin {
	uint8_t agent[16];
};

static struct sessions table;
static struct session_origin origins[8];
static unsigned n_origins, n_gone;
static uint64_t offsets[4096]; /* of the data frames, in the order of arrival */
static unsigned n_data, n_opens;
static int fail_next;

struct session_origin *sessions_origin(struct sessions *t, const uint8_t agent[16],
				       struct span host)
{
	(void)t;
	(void)host;
	memcpy(origins[n_origins].agent, agent, 16);
	return &origins[n_origins++];
}

int sessions_frame(struct sessions *t, struct session_origin *o, const struct frame *f,
		   uint64_t now_ns)
{
	struct frame_data m;

	(void)t;
	(void)now_ns;
	assert_non_null(o);
	if (fail_next)
		return fail_next;
	if (f->type == FRAME_FLOW_OPEN)
		n_opens++;
	if (f->type == FRAME_DATA) {
		if (frame_get_data(f, &m))
			return -EBADMSG;
		offsets[n_data++] = m.offset;
	}
	return 0;
}

static char links[64]; /* what became of origins: + has a link, - has none */

void sessions_origin_link(struct sessions *t, struct session_origin *o, bool is_up)
{
	(void)t;
	(void)o;
	strncat(links, is_up ? "+" : "-", sizeof(links) - strlen(links) - 1);
}

void sessions_origin_gone(struct sessions *t, struct session_origin *o, uint64_t now_ns)
{
	(void)t;
	(void)o;
	(void)now_ns;
	n_gone++;
}

/* ---- one end of a link ---- */

struct peer {
	struct zblock_enc *enc;
	struct zblock_dec *dec;
	struct ingest *in;
	struct buf wire, frames, reply;
};

static struct ingest_hub *hub;
static struct crew *crew;

static int setup(void **state)
{
	(void)state;
	log_set_level(LOG_ERROR);
	links[0] = '\0';
	n_origins = n_gone = n_data = n_opens = 0;
	fail_next = 0;
	crew = crew_new_direct(&table);
	return crew ? ingest_hub_new(&hub, crew) : -ENOMEM;
}

static int teardown(void **state)
{
	(void)state;
	ingest_hub_free(hub);
	crew_free(crew);
	return 0;
}

static void peer_init(struct peer *p)
{
	*p = (struct peer){0};
	buf_init(&p->wire, 4u << 20);
	buf_init(&p->frames, ZBLOCK_RAW_MAX);
	buf_init(&p->reply, 1u << 20);
	assert_int_equal(zblock_enc_new(&p->enc, 1), 0);
	assert_int_equal(zblock_dec_new(&p->dec), 0);
	assert_int_equal(ingest_new(&p->in, hub, "test"), 0);
}

static void peer_fini(struct peer *p)
{
	ingest_free(p->in);
	zblock_enc_free(p->enc);
	zblock_dec_free(p->dec);
	buf_fini(&p->wire);
	buf_fini(&p->frames);
	buf_fini(&p->reply);
}

static void put(struct peer *p, enum zblock_kind kind, uint64_t seq)
{
	assert_false(p->frames.bad);
	assert_int_equal(zblock_encode(p->enc, kind, seq, buf_span(&p->frames), &p->wire), 0);
	buf_reset(&p->frames);
}

static void put_hello_of(struct peer *p, uint8_t agent, uint16_t version, uint64_t next_seq)
{
	struct frame_hello m = {.version = version, .n_links = 1, .next_seq = next_seq};

	m.agent[0] = agent;
	m.host = span_str("web1");
	m.software = span_str("test");
	frame_put_hello(&p->frames, &m);
	put(p, ZBLOCK_CONTROL, 0);
}

static void put_hello(struct peer *p)
{
	put_hello_of(p, 1, SSLC_PROTO_VERSION, 1);
}

static void put_data(struct peer *p, uint64_t seq, uint64_t offset)
{
	struct frame_data m = {.flow = 1, .offset = offset, .bytes = span_str("some plaintext")};

	frame_put_data(&p->frames, &m);
	put(p, ZBLOCK_DATA, seq);
}

static int send_all(struct peer *p)
{
	int err = ingest_bytes(p->in, buf_span(&p->wire), &p->reply, 1);

	buf_reset(&p->wire);
	return err;
}

/* The next answer's first frame; its body stays valid until the next call. */
static struct frame answer(struct peer *p)
{
	static uint8_t keep[FRAME_BODY_MAX];
	struct frame f = {0};
	struct zblock z;
	ssize_t n = zblock_decode(p->dec, buf_span(&p->reply), &z);

	assert_true(n > 0);
	assert_int_equal(z.kind, ZBLOCK_CONTROL);
	assert_int_equal(frame_decode(z.frames, &f), z.frames.len);
	memcpy(keep, f.body.p, f.body.len);
	f.body.p = keep;
	buf_consume(&p->reply, (size_t)n);
	return f;
}

static struct frame_welcome welcome(struct peer *p)
{
	struct frame f = answer(p);
	struct frame_welcome m;

	assert_int_equal(f.type, FRAME_WELCOME);
	assert_int_equal(frame_get_welcome(&f, &m), 0);
	return m;
}

static uint64_t ack(struct peer *p)
{
	struct frame f;
	struct frame_ack m;

	assert_int_equal(ingest_ack(p->in, &p->reply), TAKER_ACKED_ALL);
	f = answer(p);
	assert_int_equal(f.type, FRAME_ACK);
	assert_int_equal(frame_get_ack(&f, &m), 0);
	return m.seq;
}

static void greet(struct peer *p)
{
	peer_init(p);
	put_hello(p);
	assert_int_equal(send_all(p), 0);
	assert_true(ingest_is_greeted(p->in));
}

/* ---- tests ---- */

static void test_good_link_is_welcomed_and_acknowledged_after_the_flush(void **state)
{
	struct frame_welcome w;
	struct peer p;

	(void)state;
	greet(&p);
	w = welcome(&p);
	assert_int_equal(w.version, SSLC_PROTO_VERSION);
	assert_int_equal(w.resume_seq, 0);
	put_data(&p, 1, 0);
	put_data(&p, 2, 14);
	assert_int_equal(send_all(&p), 0);
	assert_int_equal(n_data, 2);
	assert_int_equal(p.reply.len, 0); /* no ack before the sinks are flushed */
	assert_int_equal(ack(&p), 2);
	assert_int_equal(ingest_ack(p.in, &p.reply), TAKER_ACKED_ALL);
	assert_int_equal(p.reply.len, 0); /* and each only once */
	peer_fini(&p);
}

static void test_link_cut_into_single_bytes_gives_the_same(void **state)
{
	struct peer p;

	(void)state;
	peer_init(&p);
	put_hello(&p);
	for (uint64_t i = 0; i < 20; i++)
		put_data(&p, i + 1, i);
	for (size_t i = 0; i < p.wire.len; i++)
		assert_int_equal(ingest_bytes(p.in, span_of(p.wire.p + i, 1), &p.reply, 1), 0);
	assert_int_equal(n_data, 20);
	for (uint64_t i = 0; i < 20; i++)
		assert_int_equal(offsets[i], i);
	(void)welcome(&p);
	assert_int_equal(ack(&p), 20);
	peer_fini(&p);
}

static void test_every_cut_in_two_gives_the_same(void **state)
{
	struct peer p;
	size_t len;

	(void)state;
	peer_init(&p);
	put_hello(&p);
	put_data(&p, 1, 7);
	len = p.wire.len;
	peer_fini(&p);
	for (size_t cut = 0; cut <= len; cut++) {
		(void)teardown(NULL);
		(void)setup(NULL);
		peer_init(&p);
		put_hello(&p);
		put_data(&p, 1, 7);
		assert_int_equal(ingest_bytes(p.in, span_of(p.wire.p, cut), &p.reply, 1), 0);
		assert_int_equal(
			ingest_bytes(p.in, span_of(p.wire.p + cut, len - cut), &p.reply, 1), 0);
		assert_int_equal(n_data, 1);
		assert_int_equal(offsets[0], 7);
		peer_fini(&p);
	}
}

static void test_resumed_link_skips_blocks_it_has_seen(void **state)
{
	struct frame_welcome first, again;
	struct peer p;

	(void)state;
	greet(&p);
	first = welcome(&p);
	for (uint64_t i = 1; i <= 3; i++)
		put_data(&p, i, i);
	assert_int_equal(send_all(&p), 0);
	peer_fini(&p); /* lost before the ack */

	greet(&p);
	again = welcome(&p);
	assert_int_equal(again.resume_seq, 3);
	assert_memory_equal(first.collector, again.collector, 16);
	for (uint64_t i = 2; i <= 5; i++)
		put_data(&p, i, i);
	assert_int_equal(send_all(&p), 0);
	assert_int_equal(n_data, 5);
	for (uint64_t i = 1; i <= 5; i++)
		assert_int_equal(offsets[i - 1], i);
	assert_int_equal(ack(&p), 5);
	assert_int_equal(n_origins, 1);
	peer_fini(&p);
}

static void test_duplicates_alone_are_acknowledged_again(void **state)
{
	struct peer p;

	(void)state;
	greet(&p);
	put_data(&p, 1, 0);
	assert_int_equal(send_all(&p), 0);
	peer_fini(&p);
	greet(&p);
	(void)welcome(&p);
	put_data(&p, 1, 0);
	assert_int_equal(send_all(&p), 0);
	assert_int_equal(n_data, 1);
	assert_int_equal(ack(&p), 1);
	peer_fini(&p);
}

static void test_hole_is_accepted_only_at_the_start_of_what_we_know(void **state)
{
	struct peer p;

	(void)state;
	greet(&p); /* the collector was restarted: the agent goes on at 41 */
	put_data(&p, 41, 0);
	put_data(&p, 42, 1);
	assert_int_equal(send_all(&p), 0);
	put_data(&p, 44, 2);
	assert_int_equal(send_all(&p), -EPROTO);
	assert_int_equal(n_data, 2);
	peer_fini(&p);

	greet(&p); /* a known agent, a first block that neither follows nor is announced */
	put_data(&p, 50, 3);
	assert_int_equal(send_all(&p), -EPROTO);
	peer_fini(&p);

	peer_init(&p); /* announced in the hello: another collector had the blocks in between */
	put_hello_of(&p, 1, SSLC_PROTO_VERSION, 50);
	put_data(&p, 50, 3);
	assert_int_equal(send_all(&p), 0);
	assert_int_equal(n_data, 3);
	peer_fini(&p);
}

static void test_block_without_number_is_refused(void **state)
{
	struct peer p;

	(void)state;
	greet(&p);
	put_data(&p, 0, 0);
	assert_true(send_all(&p) < 0);
	assert_int_equal(n_data, 0);
	peer_fini(&p);
}

static void test_second_hello_is_refused(void **state)
{
	struct peer p;

	(void)state;
	greet(&p);
	put_hello(&p);
	assert_int_equal(send_all(&p), -EPROTO);
	put_data(&p, 1, 0); /* and nothing after it counts */
	assert_int_equal(send_all(&p), -EPROTO);
	assert_int_equal(n_data, 0);
	peer_fini(&p);
}

static void test_wrong_version_is_told_why(void **state)
{
	struct frame_refused m;
	struct frame f;
	struct peer p;

	(void)state;
	peer_init(&p);
	put_hello_of(&p, 1, SSLC_PROTO_VERSION + 1, 1);
	assert_int_equal(send_all(&p), -EPROTO);
	assert_false(ingest_is_greeted(p.in));
	f = answer(&p);
	assert_int_equal(f.type, FRAME_REFUSED);
	assert_int_equal(frame_get_refused(&f, &m), 0);
	assert_int_equal(m.code, REFUSE_PROTOCOL);
	assert_true(m.text.len > 0);
	peer_fini(&p);
}

static void test_data_before_hello_is_refused(void **state)
{
	struct peer p;

	(void)state;
	peer_init(&p);
	put_data(&p, 1, 0);
	assert_int_equal(send_all(&p), -EPROTO);
	assert_int_equal(n_data, 0);
	peer_fini(&p);
}

static void test_much_before_hello_is_refused(void **state)
{
	uint8_t noise[FRAME_DATA_MAX] = {0};
	struct frame_data m = {.flow = 1, .bytes = span_of(noise, sizeof(noise))};
	uint32_t x = 1;
	struct peer p;

	(void)state;
	for (size_t i = 0; i < sizeof(noise); i++) {
		x = x * 1664525 + 1013904223;
		noise[i] = (uint8_t)(x >> 24);
	}
	peer_init(&p);
	frame_put_data(&p.frames, &m);
	put(&p, ZBLOCK_CONTROL, 0);
	p.wire.len -= 1; /* an envelope that never ends */
	assert_int_equal(send_all(&p), -EPROTO);
	peer_fini(&p);
}

static void test_half_frame_in_a_block_breaks_the_link_and_is_not_repeated(void **state)
{
	struct frame_data m = {.flow = 1, .offset = 9, .bytes = span_str("x")};
	struct peer p;

	(void)state;
	greet(&p);
	(void)welcome(&p);
	frame_put_data(&p.frames, &m);
	frame_put_data(&p.frames, &m);
	p.frames.len -= 1;
	put(&p, ZBLOCK_DATA, 1);
	assert_int_equal(send_all(&p), -EBADMSG);
	assert_int_equal(n_data, 1);
	peer_fini(&p);
	greet(&p); /* what of it was emitted must not be emitted again */
	assert_int_equal(welcome(&p).resume_seq, 1);
	peer_fini(&p);
}

static void test_frame_the_sessions_reject_breaks_the_link(void **state)
{
	struct peer p;

	(void)state;
	greet(&p);
	fail_next = -EBADMSG;
	put_data(&p, 1, 0);
	assert_int_equal(send_all(&p), -EBADMSG);
	peer_fini(&p);
}

/* Whoever may connect may do so without end: the log is not theirs to fill. */
static void test_many_broken_links_are_few_lines(void **state)
{
	struct said said = said_begin();
	struct peer p;
	unsigned lines;

	(void)state;
	log_set_level(LOG_WARN);
	for (unsigned i = 0; i < 200; i++) {
		peer_init(&p);
		put_data(&p, 1, 0);
		if (send_all(&p) == 0)
			break;
		peer_fini(&p);
	}
	lines = said_lines(&said, "link closed: data before hello");
	log_set_level(LOG_ERROR);
	assert_in_range(lines, 1, 50);
}

/* Any one byte of the stream changed: never a crash; and after an error, silence for good. */
static void test_garbage_at_each_byte_never_harms(void **state)
{
	struct peer p;
	size_t len;

	(void)state;
	greet(&p);
	put_data(&p, 1, 0);
	put_data(&p, 2, 1);
	len = p.wire.len;
	peer_fini(&p);
	for (size_t i = 0; i < len; i++) {
		for (unsigned bit = 0; bit < 8; bit++) {
			int err;

			(void)teardown(NULL);
			(void)setup(NULL);
			greet(&p);
			put_data(&p, 1, 0);
			put_data(&p, 2, 1);
			p.wire.p[i] ^= (uint8_t)(1u << bit);
			err = send_all(&p);
			assert_true(err <= 0);
			assert_true(n_data <= 2);
			if (err) {
				put_data(&p, 3, 2);
				assert_true(send_all(&p) < 0);
			}
			peer_fini(&p);
		}
	}
}

static void test_unknown_frames_are_skipped(void **state)
{
	static const uint8_t body[3] = {1, 2, 3};
	struct peer p;
	size_t at;

	(void)state;
	greet(&p);
	(void)welcome(&p);
	frame_put_data(&p.frames, &(struct frame_data){.flow = 1, .bytes = span_of(body, 3)});
	at = 0;
	for (size_t i = 0; i < FRAME_HEADER_LEN; i++) /* find the type byte by its value */
		if (p.frames.p[i] == FRAME_DATA)
			at = i;
	p.frames.p[at] = 200;
	put(&p, ZBLOCK_DATA, 1);
	assert_int_equal(send_all(&p), 0);
	assert_int_equal(n_data, 0);
	assert_int_equal(ack(&p), 1);
	peer_fini(&p);
}

static void test_ping_comes_back_unchanged(void **state)
{
	struct frame_ping ping = {.ts_ns = 0x1122334455667788}, pong;
	struct frame f;
	struct peer p;

	(void)state;
	greet(&p);
	(void)welcome(&p);
	frame_put_ping(&p.frames, &ping, false);
	put(&p, ZBLOCK_CONTROL, 0);
	assert_int_equal(send_all(&p), 0);
	f = answer(&p);
	assert_int_equal(f.type, FRAME_PONG);
	assert_int_equal(frame_get_ping(&f, &pong), 0);
	assert_int_equal(pong.ts_ns, ping.ts_ns);
	assert_int_equal(pong.came_ns, 0); /* the time is not known */
	peer_fini(&p);
}

static void test_ping_learns_the_time_and_tells_of_the_clock(void **state)
{
	struct frame_ping ping = {.ts_ns = 5, .ahead_ns = 700, .trip_ns = 40000}, pong;
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);
	struct frame f;
	struct peer p;

	(void)state;
	ingest_hub_wall(hub, 1000000);
	greet(&p);
	(void)welcome(&p);
	ingest_hub_clocks(hub, out);
	frame_put_ping(&p.frames, &ping, false);
	put(&p, ZBLOCK_CONTROL, 0);
	assert_int_equal(send_all(&p), 0);
	f = answer(&p);
	assert_int_equal(frame_get_ping(&f, &pong), 0);
	assert_true(pong.came_ns >= 1000000 && pong.came_ns < 1000000 + NS_PER_S);
	assert_int_equal(pong.left_ns, pong.came_ns);
	assert_int_equal(pong.trip_ns, 0);
	ingest_hub_clocks(hub, out);
	fclose(out);
	assert_non_null(strstr(text, "ahead_ms=-0.001 trip_ms=0.040\n"));
	assert_ptr_equal(strchr(text, '\n'), text + len - 1); /* one line */
	free(text);
	peer_fini(&p);
}

static void test_reopened_flows_come_as_control_and_data_may_not(void **state)
{
	struct frame_flow_open o = {
		.flow = 1, .transport = 6, .family = 4, .confidence = CONF_EXACT};
	struct frame_data m = {.flow = 1, .bytes = span_str("x")};
	struct peer p;

	(void)state;
	greet(&p);
	frame_put_flow_open(&p.frames, &o);
	put(&p, ZBLOCK_CONTROL, 0);
	assert_int_equal(send_all(&p), 0);
	assert_int_equal(n_opens, 1);
	frame_put_data(&p.frames, &m);
	put(&p, ZBLOCK_CONTROL, 0);
	assert_int_equal(send_all(&p), -EPROTO);
	assert_int_equal(n_data, 0);
	peer_fini(&p);
}

static void test_newer_link_replaces_the_old_one_without_touching_flows(void **state)
{
	struct peer old, now;

	(void)state;
	greet(&old);
	put_data(&old, 1, 0);
	assert_int_equal(send_all(&old), 0);
	greet(&now);
	assert_true(ingest_is_replaced(old.in));
	assert_false(ingest_is_replaced(now.in));
	put_data(&old, 2, 1);
	assert_int_equal(send_all(&old), -EPROTO);
	put_data(&now, 2, 1);
	assert_int_equal(send_all(&now), 0);
	assert_int_equal(n_data, 2);
	peer_fini(&old); /* must not detach the new one */
	put_data(&now, 3, 2);
	assert_int_equal(send_all(&now), 0);
	assert_string_equal(links, "+-+"); /* without a tick between: it was never lost */
	ingest_hub_tick(hub, 1);
	ingest_hub_tick(hub, 1 + 2 * INGEST_AGENT_GRACE_S * NS_PER_S);
	assert_int_equal(n_gone, 0);
	peer_fini(&now);
}

static void test_agent_is_forgotten_after_the_grace_and_not_before(void **state)
{
	uint64_t t = 5 * NS_PER_S;
	struct peer p;

	(void)state;
	greet(&p);
	put_data(&p, 1, 0);
	assert_int_equal(send_all(&p), 0);
	peer_fini(&p);
	ingest_hub_tick(hub, t);
	ingest_hub_tick(hub, t + INGEST_AGENT_GRACE_S * NS_PER_S - 1);
	assert_int_equal(n_gone, 0);
	ingest_hub_tick(hub, t + INGEST_AGENT_GRACE_S * NS_PER_S);
	assert_int_equal(n_gone, 1);
	greet(&p);
	assert_int_equal(welcome(&p).resume_seq, 0);
	peer_fini(&p);
}

static void test_refusal_is_one_control_envelope(void **state)
{
	struct frame_refused m;
	struct frame f;
	struct peer p;

	(void)state;
	peer_init(&p);
	assert_int_equal(ingest_put_refused(&p.reply, REFUSE_BUSY, "full"), 0);
	f = answer(&p);
	assert_int_equal(frame_get_refused(&f, &m), 0);
	assert_int_equal(m.code, REFUSE_BUSY);
	assert_true(span_eq(m.text, span_str("full")));
	assert_int_equal(p.reply.len, 0);
	peer_fini(&p);
}

static void test_frames_of_this_process_meet_the_same_checks(void **state)
{
	static const uint8_t id[16] = {0};
	struct frame_data m = {.flow = 1, .offset = 3, .bytes = span_str("x")};
	struct crew_origin *o = crew_origin(crew, id, span_str("here"));
	struct buf b;

	(void)state;
	assert_non_null(o);
	buf_init(&b, 4096);
	frame_put_data(&b, &m);
	assert_int_equal(ingest_frames(crew, o, buf_span(&b), 1), 0);
	assert_int_equal(n_data, 1);
	assert_int_equal(ingest_frames(crew, o, span_of(b.p, b.len - 1), 1), -EBADMSG);
	buf_reset(&b);
	frame_put_ack(&b, &(struct frame_ack){.seq = 1});
	assert_int_equal(ingest_frames(crew, o, buf_span(&b), 1), -EPROTO);
	buf_fini(&b);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_good_link_is_welcomed_and_acknowledged_after_the_flush),
		T(test_link_cut_into_single_bytes_gives_the_same),
		T(test_every_cut_in_two_gives_the_same),
		T(test_resumed_link_skips_blocks_it_has_seen),
		T(test_duplicates_alone_are_acknowledged_again),
		T(test_hole_is_accepted_only_at_the_start_of_what_we_know),
		T(test_block_without_number_is_refused),
		T(test_second_hello_is_refused),
		T(test_wrong_version_is_told_why),
		T(test_data_before_hello_is_refused),
		T(test_much_before_hello_is_refused),
		T(test_half_frame_in_a_block_breaks_the_link_and_is_not_repeated),
		T(test_frame_the_sessions_reject_breaks_the_link),
		T(test_many_broken_links_are_few_lines),
		T(test_garbage_at_each_byte_never_harms),
		T(test_unknown_frames_are_skipped),
		T(test_ping_comes_back_unchanged),
		T(test_ping_learns_the_time_and_tells_of_the_clock),
		T(test_reopened_flows_come_as_control_and_data_may_not),
		T(test_newer_link_replaces_the_old_one_without_touching_flows),
		T(test_agent_is_forgotten_after_the_grace_and_not_before),
		T(test_refusal_is_one_control_envelope),
		T(test_frames_of_this_process_meet_the_same_checks),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
