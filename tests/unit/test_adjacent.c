/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of agent/match/adjacent.c: scripts of calls and socket operations in, bindings out;
 * then programs that do both in random orders, where no binding may be wrong.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "match/adjacent.h"

#include "base/clock.h"
#include "counters.h"

#include <ctype.h>

#define TLS13   17 /* what a record adds to its plaintext */
#define QUIET   (300 * NS_PER_MS)
#define OBJECTS 20
#define THREADS 4

struct rig {
	struct adjacent *a;
	uint64_t ts_ns, bound[OBJECTS]; /* the last flow told for each object */
	unsigned tid, n_binds, n_wrong;
	uint8_t seq[THREADS];
	uint64_t pos[OBJECTS][2];
	uint32_t life[OBJECTS], tgid[THREADS];
	bool refuse, unnumbered;
};

static bool on_bind(void *ctx, const struct sslc_conn_id *conn, uint64_t flow)
{
	struct rig *r = ctx;

	r->n_binds++;
	r->n_wrong += flow != conn->ssl; /* object N truly belongs to flow N */
	r->bound[conn->ssl] = flow;
	return !r->refuse;
}

static struct rig *rig_new(void)
{
	struct rig *r = calloc(1, sizeof(*r));
	const struct adjacent_conf conf = {.bind = on_bind, .ctx = r};

	r->ts_ns = NS_PER_S;
	for (int i = 0; i < THREADS; i++)
		r->tgid[i] = 7;
	assert_int_equal(adjacent_new(&r->a, &conf), 0);
	return r;
}

static void rig_free(struct rig *r)
{
	adjacent_free(r->a);
	free(r);
}

/* The event lives in exactly its own size, so that a read beyond it is seen by ASan. */
static void feed(struct rig *r, const void *ev, size_t size)
{
	void *copy = malloc(size);

	memcpy(copy, ev, size);
	adjacent_event(r->a, copy);
	free(copy);
}

static struct sslc_event header(struct rig *r, uint32_t type, size_t size, uint64_t flow)
{
	r->ts_ns += 10000;
	return (struct sslc_event){type, (uint32_t)size, r->ts_ns, flow};
}

static struct sslc_conn_id object(struct rig *r, unsigned n)
{
	return (struct sslc_conn_id){
		.start_ns = 5, .ssl = n, .tgid = r->tgid[r->tid], .life = r->life[n]};
}

static uint8_t next_seq(struct rig *r)
{
	if (r->unnumbered)
		return 0;
	return r->seq[r->tid] = r->seq[r->tid] % 255 + 1;
}

static void feed_part(struct rig *r, unsigned n, unsigned dir, uint32_t len, bool end)
{
	struct sslc_ev_data *ev = calloc(1, sizeof(*ev) + len);

	ev->ev = header(r, SSLC_EV_DATA, sizeof(*ev) + len, 0);
	ev->conn = object(r, n);
	ev->pos = r->pos[n][dir];
	ev->tid = r->tid;
	ev->len = len;
	ev->dir = (uint8_t)dir;
	ev->flags = end ? SSLC_DATA_END : 0;
	ev->seq = r->unnumbered ? 0 : r->seq[r->tid];
	r->pos[n][dir] += len;
	feed(r, ev, ev->ev.size);
	free(ev);
}

static void feed_data(struct rig *r, unsigned n, unsigned dir, uint32_t len)
{
	next_seq(r);
	for (; len > 16384; len -= 16384)
		feed_part(r, n, dir, 16384, false);
	feed_part(r, n, dir, len, true);
}

static void feed_call(struct rig *r, unsigned n, unsigned call)
{
	struct sslc_ev_call ev = {.ev = header(r, SSLC_EV_CALL, sizeof(ev), 0),
				  .conn = object(r, n),
				  .tid = r->tid,
				  .call = (uint16_t)call,
				  .seq = next_seq(r)};

	feed(r, &ev, sizeof(ev));
}

static struct sslc_ev_wire a_wire(struct rig *r, uint64_t flow, unsigned dir)
{
	return (struct sslc_ev_wire){
		.ev = header(r, SSLC_EV_WIRE, sizeof(struct sslc_ev_wire), flow),
		.tgid = r->tgid[r->tid],
		.tid = r->tid,
		.len = 1000,
		.dir = (uint8_t)dir,
		.seq = next_seq(r)};
}

static void add_record(struct sslc_ev_wire *ev, unsigned type, unsigned len)
{
	assert_true(ev->n_rec < SSLC_WIRE_RECORDS);
	ev->rec[ev->n_rec++] =
		(struct sslc_wire_record){.len = (uint16_t)len, .type = (uint8_t)type};
}

static unsigned number(const char **s)
{
	unsigned n = 0;

	while (isdigit((unsigned char)**s))
		n = n * 10 + (unsigned)(*(*s)++ - '0');
	return n;
}

/*
 * Words separated by spaces:
 *   R3:100,20  received on flow 3: records with 100 and 20 bytes of plaintext; R3:H handshake
 *   records; R3:T a ticket; R3:? unknown; R3:!100 after operations that were not told; R3 the
 *   middle of a record. S3… the same, sent.
 *   r2=100     object 2 read 100 bytes, and then found no more; p2=100 did not ask for more; w2=100
 *   wrote; h2 shook hands; c2 read nothing; b2 could not write
 *   O1 flow 1 opens; E1 ends
 *   t1         on thread 1 from here on; q silence; L an event is lost; l2 object 2 is a new one
 */
static void feed_wire(struct rig *r, char what, unsigned flow, const char **s)
{
	struct sslc_ev_wire ev = a_wire(r, flow, what == 'S');

	while (**s && **s != ' ') {
		char c = *(*s)++;

		if (c == 'H')
			add_record(&ev, 22, 300);
		else if (c == 'T')
			add_record(&ev, 23, 250);
		else if (c == '?')
			ev.flags |= SSLC_WIRE_UNKNOWN;
		else if (c == '!')
			ev.flags |= SSLC_WIRE_MISSED;
		else if (isdigit((unsigned char)c))
			for ((*s)--, add_record(&ev, 23, number(s) + TLS13); 0;)
				;
	}
	feed(r, &ev, sizeof(ev));
}

static void open_flow(struct rig *r, unsigned n)
{
	struct sslc_ev_open ev = {.ev = header(r, SSLC_EV_OPEN, sizeof(ev), n),
				  .conn = {.start_ns = 5, .tgid = r->tgid[r->tid]},
				  .flags = SSLC_OPEN_CANDIDATE};

	feed(r, &ev, sizeof(ev));
}

static void word(struct rig *r, const char **s)
{
	char what = *(*s)++;
	unsigned n = number(s);

	if (**s == '=')
		(*s)++;
	switch (what) {
	case 'R':
	case 'S':
		feed_wire(r, what, n, s);
		break;
	case 'p':
		feed_data(r, n, SSLC_DIR_IN, number(s));
		break;
	case 'r':
		feed_data(r, n, SSLC_DIR_IN, number(s));
		feed_call(r, n, SSLC_CALL_READ);
		break;
	case 'w':
		feed_data(r, n, SSLC_DIR_OUT, number(s));
		break;
	case 'O':
		open_flow(r, n);
		break;
	case 'E':
		adjacent_flow_ending(r->a, n);
		break;
	case 'h':
		feed_call(r, n, SSLC_CALL_BIND);
		break;
	case 'c':
		feed_call(r, n, SSLC_CALL_READ);
		break;
	case 'b':
		feed_call(r, n, SSLC_CALL_WRITE);
		break;
	case 't':
		r->tid = n;
		break;
	case 'q':
		r->ts_ns += QUIET;
		adjacent_tick(r->a, r->ts_ns);
		break;
	case 'L':
		next_seq(r);
		break;
	case 'l':
		r->life[n]++;
		r->pos[n][0] = r->pos[n][1] = 0;
		break;
	default:
		fail_msg("unknown word %c", what);
	}
}

static void play(struct rig *r, const char *s)
{
	while (*s) {
		if (*s == ' ')
			s++;
		else
			word(r, &s);
	}
}

static uint64_t flow_of(struct rig *r, unsigned n)
{
	struct sslc_conn_id id = object(r, n);

	return adjacent_flow(r->a, &id);
}

/* --- scripts ------------------------------------------------------------------------------------
 */

/* After the script, object 1 belongs to `flow` (0: to none), and no binding was ever wrong. */
static void expect(const char *script, uint64_t flow)
{
	struct rig *r = rig_new();

	play(r, script);
	if (flow_of(r, 1) != flow)
		fail_msg("%s: object 1 is bound to %u", script, (unsigned)flow_of(r, 1));
	assert_int_equal(r->n_wrong, 0);
	rig_free(r);
}

#define SERVER "h1 R1:H h1 S1:H R1:H h1 S1:T "
#define BOUND  SERVER "R1:100 r1=100 w1=50 S1:50 "

static void test_a_server_is_bound_by_its_first_exchange(void **state)
{
	(void)state;
	expect(SERVER "R1:100 r1=100 w1=200", 1); /* even before the answer is seen on the wire */
	expect(SERVER "R1:100 p1=100", 0);        /* nobody knows yet what else is read */
	expect(SERVER "R1:100 r1=100", 1);
	expect(SERVER "R1:100 p1=100 R1:5", 1);
	expect(SERVER "R1:100 p1=100 q", 1);
	expect("h1 S1:H R1:H h1 S1:H w1=80 S1:80", 1); /* a client */
}

static void test_a_connection_joined_in_its_midst_is_bound_too(void **state)
{
	(void)state;
	expect("r1=50 R1:100 r1=100 w1=200 S1:200 R1:7 r1=7", 1);
	expect("p1=50 R1:100 p1=100 w1=200 S1:200 R1:7 r1=7 w1=1 S1:1",
	       0); /* was all read before? */
	expect("w1=200 S1:200 R1:7 r1=7 w1=3 S1:3 R1:7 r1=7", 1);
}

static void test_one_direction_of_equal_lengths_is_not_enough(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	for (int i = 0; i < 50; i++)
		play(r, "R1:100 r1=100 c1 ");
	assert_int_equal(flow_of(r, 1), 0);
	for (int i = 0; i < 50; i++)
		play(r, "w2=100 S2:100 ");
	assert_int_equal(flow_of(r, 2), 0);
	assert_int_equal(r->n_binds, 0);
	rig_free(r);
}

static void test_one_direction_of_different_lengths_is(void **state)
{
	(void)state;
	expect("c1 R1:10 r1=10 R1:20 r1=20 R1:30 r1=30 R1:40 r1=40 R1:50 r1=50 q", 1);
	expect("w1=10 S1:10 w1=20 S1:20 w1=30 S1:30 w1=40 S1:40 w1=50 S1:50", 1);
}

static void test_handshakes_alone_bind_nothing(void **state)
{
	(void)state;
	expect("h1 R1:H h1 S1:H R1:H h1 S1:H R1:H h1 S1:H R1:H h1 S1:H q", 0);
}

static void test_what_does_not_fit_is_no_evidence(void **state)
{
	(void)state;
	expect(SERVER "R1:100 r1=99 w1=10 S1:11 R1:100 r1=98 w1=10 S1:13 q", 0);
	expect(SERVER "R1:? r1=99 w1=10 S1:? R1:? r1=101 w1=10 S1:? q", 0);
}

static void test_receives_on_two_flows_before_the_calls_are_none(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	for (int i = 0; i < 50; i++)
		play(r, "R1:100 R2:100 r1=100 c1 r2=100 c2 w1=100 w2=100 S1:100 S2:100 ");
	for (int i = 0; i < 50; i++)
		play(r, "R1:100 R2:100 r1=100 R3:100 r2=100 r3=100 ");
	assert_int_equal(r->n_binds, 0);
	rig_free(r);
}

static void test_what_was_left_unread_does_not_meet_the_next_receive(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	play(r, "w2=9 S3:H ");
	for (int i = 0; i < 50; i++)
		play(r, "R1:100 R2:100 r1=100 c1 R3:100 r2=100 c2 w2=100 S3:100 R1:5 r1=5 r3=100 ");
	assert_int_equal(r->n_binds, 0);
	rig_free(r);
}

static void test_several_writers_before_a_send_are_none(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	for (int i = 0; i < 50; i++)
		play(r, "R1:7 r1=7 w1=100 w2=100 S1:100 w3=100 S2:100 S3:100 R3:7 r3=7 q ");
	assert_int_equal(r->n_wrong, 0);
	assert_int_equal(flow_of(r, 3), 0);
	rig_free(r);
}

static void test_one_receive_behind_is_contradicted_by_the_sends(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	play(r, "R1:100 ");
	for (int i = 0; i < 50; i++)
		play(r, "R2:100 r1=100 c1 w1=100 S1:100 R3:100 r2=100 c2 w2=100 S2:100 "
			"R1:100 r3=100 c3 w3=100 S3:100 ");
	assert_int_equal(r->n_wrong, 0);
	rig_free(r);
}

static void test_a_send_that_ends_in_a_record_goes_on(void **state)
{
	(void)state;
	expect(SERVER "R1:100 r1=100 c1 l1 " SERVER "w1=300 S1 S1:300 R1:9 r1=9 c1", 1);
	expect("w1=300 S1 S2:300 R1:9 r1=9 c1 w1=300 S1 S2:300 R1:9 r1=9 c1", 0);
}

static void test_a_request_sent_from_inside_the_handshake_leaves_nothing_unread(void **state)
{
	(void)state;
	/* two at once, as node does it; flow 2 is silent while object 1 is answered at length */
	expect("c1 S1:H b1 c2 S2:H b2 b1 b2 R1:H6,400,52 w1=86 c1 S1:52,86 R2:H6,400,52 w2=81 c2 "
	       "S2:52,81 R1:16384,16384 p1=16384 p1=16384 c1 R1:16384 p1=16384 c1 R1:900 p1=900 c1 "
	       "q",
	       1);
}

static void test_long_writes_are_bound_by_their_first_records(void **state)
{
	(void)state;
	expect("R1:H h1 S1:H w1=270177 S1:16384,16384 R1:1 r1=1 c1", 1);
}

static void test_two_claims_on_a_flow_cancel_each_other(void **state)
{
	struct rig *r = rig_new();
	uint64_t before = counter_named("flow_bindings_contradicted");

	(void)state;
	play(r, BOUND);
	assert_int_equal(flow_of(r, 1), 1);
	/* object 2 reads what flow 1 received, again and again, and of different lengths */
	play(r, "c2 R1:10 r2=10 c2 R1:20 r2=20 c2 R1:30 r2=30 c2 R1:40 r2=40 c2 R1:50 r2=50 c2 ");
	assert_int_equal(flow_of(r, 1), 0);
	assert_int_equal(flow_of(r, 2), 0);
	assert_int_equal(counter_named("flow_bindings_contradicted"), before + 1);
	play(r, "q R1:100 r1=100 w1=50 S1:50 R1:60 r1=60 w1=1 S1:1 "
		"R1:7 r1=7 w1=50 S1:50 ");
	assert_int_equal(flow_of(r, 1), 1); /* fresh evidence */
	rig_free(r);
}

static void test_a_call_that_does_not_fit_ends_the_binding(void **state)
{
	(void)state;
	expect(BOUND "R1:100 r1=100", 1);
	expect(BOUND "R1:100 r1=100 R1:100 r1=101", 0);
	expect(BOUND "R1:100 r1=100 r1=100", 0); /* nothing of that arrived */
	expect(BOUND "R1:100 r1=100 R1:100 r1=300 q R1:7 r1=7 w1=8 S1:8 R1:9 r1=9",
	       0); /* it takes more the second time */
	expect(BOUND
	       "R1:100 r1=100 R1:100 r1=300 q R1:7 r1=7 w1=8 S1:8 R1:9 r1=9 w1=1 S1:1 R1:9 r1=9",
	       1);
	/* a record may be a hidden handshake message; not all of them can */
	expect(BOUND "w1=5 S1:6 S1:6 S1:6 S1:6 S1:6 S1:6 S1:6 S1:6", 1);
	expect(BOUND "w1=5 S1:6 S1:6 S1:6 S1:6 S1:6 S1:6 S1:6 S1:6 S1:6", 0);
}

static void test_bound_objects_may_be_called_in_any_order(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	play(r, BOUND "q R2:H h2 S2:H R2:H h2 S2:T R2:100 r2=100 w2=50 S2:50 ");
	for (int i = 0; i < 50; i++)
		play(r,
		     "R1:100 R2:70 r2=70 r1=100 w1=33 w2=44 S2:44 S1:33 R1:5 p1=2 R2:8 r1=3 r2=8 ");
	assert_int_equal(flow_of(r, 1), 1);
	assert_int_equal(flow_of(r, 2), 2);
	rig_free(r);
}

static void test_nothing_is_concluded_across_a_lost_event(void **state)
{
	(void)state;
	expect(SERVER "R1:100 L r1=100 c1 q", 0);
	expect("h1 R1:H h1 S1:H w1=100 L S1:100 R1:3 L r1=3 c1 q", 0);
	expect(BOUND "L R1:100 r1=30 w1=5 S1:6", 1); /* nor is anything refuted */
	expect(BOUND "R1:!100 r1=999 w1=5 S1:!6", 1);
	expect(BOUND "R1:? r1=999 w1=5 S1:?", 1);
}

static void test_events_without_numbers_bind_nothing(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	play(r, BOUND);
	r->unnumbered = true;
	play(r, "h2 R2:H h2 S2:H R2:H h2 S2:T R2:100 r2=100 w2=50 S2:50 R1:8 r1=9 ");
	r->unnumbered = false;
	assert_int_equal(flow_of(r, 2), 0);
	assert_int_equal(flow_of(r, 1), 1);
	rig_free(r);
}

static void test_calls_with_parts_lost_are_not_compared(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	play(r, BOUND);
	r->pos[1][SSLC_DIR_OUT] += 16384;
	play(r, "w1=20000 S1:16384,16384,3616 ");
	r->pos[1][SSLC_DIR_IN] += 70;
	play(r, "R1:100 r1=30 ");
	assert_int_equal(flow_of(r, 1), 1);
	play(r, "R1:100 r1=100 w1=11 S1:11 ");
	assert_int_equal(flow_of(r, 1), 1);
	rig_free(r);
}

static void test_a_write_that_was_held_back_is_not_compared(void **state)
{
	(void)state;
	expect(BOUND "b1 S1:16384 b1 S1:16384 w1=40000 S1:7232 R1:9 r1=9 w1=40 S1:40", 1);
}

static void test_other_threads_that_may_have_caused_it_void_the_evidence(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	/* each thread serves the other one's sockets, in lockstep and with equal lengths */
	for (int i = 0; i < 50; i++)
		play(r, "t0 R1:100 t1 R2:100 t0 r2=100 c2 t1 r1=100 c1 t0 w2=100 t1 w1=100 "
			"t0 S1:100 t1 S2:100 ");
	assert_int_equal(r->n_binds, 0);
	rig_free(r);
	r = rig_new();
	for (int i = 0; i < 50; i++)
		play(r, "t0 R1:100 t1 R2:100 t0 r2=100 w2=100 S1:100 t1 r1=100 w1=100 S2:100 ");
	assert_int_equal(r->n_binds, 0);
	rig_free(r);
}

static void test_threads_at_work_on_their_own_are_bound(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	for (int i = 1; i < 20; i++) {
		char script[400];

		snprintf(script, sizeof(script),
			 "t0 R1:%d t1 R2:%d t0 r1=%d t1 r2=%d t0 w1=%d t1 w2=%d t0 S1:%d t1 S2:%d ",
			 i * 11, i * 13, i * 11, i * 13, i * 7, i * 3, i * 7, i * 3);
		play(r, script);
	}
	assert_int_equal(flow_of(r, 1), 1);
	assert_int_equal(flow_of(r, 2), 2);
	rig_free(r);
	r = rig_new(); /* of two processes, at the same time, with equal lengths */
	r->tgid[1] = 8;
	for (int i = 0; i < 5; i++)
		play(r, "t0 R1:90 t1 R2:90 t0 r1=90 t1 r2=90 t0 w1=90 t1 w2=90 t0 S1:90 t1 S2:90 ");
	assert_int_equal(flow_of(r, 2), 2);
	r->tid = 0;
	assert_int_equal(flow_of(r, 1), 1);
	rig_free(r);
}

static void test_a_new_object_at_the_address_starts_anew(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	play(r, BOUND "l1 h1 ");
	assert_int_equal(flow_of(r, 1), 0);
	play(r, "q R1:100 r1=100 w1=50 S1:50 R1:100 r1=100 c1 ");
	assert_int_equal(flow_of(r, 1), 1); /* the flow is free again */
	rig_free(r);
}

static void test_an_object_ends_with_its_flow(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	play(r, BOUND);
	adjacent_flow_ending(r->a, 1);
	assert_int_equal(flow_of(r, 1), 1);
	adjacent_flow_end(r->a, 1);
	assert_int_equal(flow_of(r, 1), 0);
	play(r, "q R2:100 r1=100 w1=50 S2:50 R2:100 r1=100 w1=50 S2:50 q ");
	assert_int_equal(flow_of(r, 1), 0);
	rig_free(r);
}

static void test_the_last_exchange_is_concluded_when_the_flow_ends(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	play(r, SERVER "R1:100 p1=100 ");
	assert_int_equal(flow_of(r, 1), 0);
	adjacent_flow_ending(r->a, 1);
	assert_int_equal(flow_of(r, 1), 1);
	rig_free(r);
}

/* What node says when it has two connections at once, the answer to the first request late. */
#define TWO                                                                                        \
	"c2 O2 S2:H b2 c1 O1 S1:H b1 b2 b1 R2:H6,400,79,52 w2=86 c2 S2:52,86 "                     \
	"R1:H6,400,79,52 w1=81 c1 S1:52,81 R1:265 c1 R1:95,2 r1=95 S1:2 c1 "

static void test_a_short_exchange_is_bound_at_its_end(void **state)
{
	uint64_t before = counter_named("flow_bindings_whole");

	(void)state;
	expect(TWO, 0);
	expect(TWO "E1", 1);
	assert_int_equal(counter_named("flow_bindings_whole"), before + 1);
	expect(TWO "L c1 E1", 0);
	expect(TWO "b1 E1", 0);               /* part of a write is held back */
	expect(TWO "R3:5 E1", 0);             /* a flow that was not told to open */
	expect(TWO "l1 c1 E1", 0);            /* the object is gone, another one lives there */
	expect(TWO "t1 L L R2:5 r2=5 E1", 0); /* what this thread did before is not known */
	assert_int_equal(counter_named("flow_bindings_whole"), before + 1);
}

static void test_what_the_kernel_saw_beats_every_guess(void **state)
{
	struct rig *r = rig_new();
	struct sslc_conn_id one = object(r, 1), two = object(r, 2);
	uint64_t before = counter_named("flow_bindings_contradicted");

	(void)state;
	play(r, BOUND);
	adjacent_exact(r->a, &one, 1);
	assert_int_equal(counter_named("flow_bindings_contradicted"), before);
	assert_int_equal(flow_of(r, 1), 0); /* not this module's any more */
	play(r, "q " BOUND);
	assert_int_equal(flow_of(r, 1), 0);
	rig_free(r);

	r = rig_new();
	play(r, BOUND);
	adjacent_exact(r->a, &two, 1);
	assert_int_equal(flow_of(r, 1), 0);
	assert_int_equal(counter_named("flow_bindings_contradicted"), before + 1);
	rig_free(r);
}

static void test_a_flow_that_is_refused_stays_free(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	r->refuse = true;
	play(r, BOUND BOUND);
	assert_int_equal(flow_of(r, 1), 0);
	assert_true(r->n_binds > 0);
	r->refuse = false;
	play(r, "q " BOUND BOUND);
	assert_int_equal(flow_of(r, 1), 1);
	rig_free(r);
}

static void test_the_least_recently_called_object_goes(void **state)
{
	struct rig *r = rig_new();
	uint64_t before = counter_named("flow_bindings_evicted");

	(void)state;
	play(r, BOUND);
	for (unsigned i = 0; i < ADJACENT_OBJECTS; i++) {
		struct sslc_ev_call ev = {.ev = header(r, SSLC_EV_CALL, sizeof(ev), 0),
					  .conn = {.start_ns = 6, .ssl = i, .tgid = 9},
					  .tid = 100 + i % (ADJACENT_THREADS + 10),
					  .seq = 1};

		feed(r, &ev, sizeof(ev));
	}
	assert_int_equal(flow_of(r, 1), 0);
	assert_int_equal(counter_named("flow_bindings_evicted"), before + 1);
	rig_free(r);
}

/* --- programs in random orders ------------------------------------------------------------------
 */

/* A program with N connections, each a queue of messages between the wire, the library and back. */
struct program {
	struct rig *r;
	uint64_t rng;
	unsigned n, threads;
	bool equal;
	struct {
		uint32_t arrived[8], unread[8], unsent[8];
		unsigned n_arrived, n_unread, n_unsent;
	} conn[OBJECTS];
};

static uint32_t chance(struct program *p, uint32_t n)
{
	p->rng ^= p->rng << 13;
	p->rng ^= p->rng >> 7;
	p->rng ^= p->rng << 17;
	return (uint32_t)(p->rng >> 33) % n;
}

static uint32_t a_len(struct program *p)
{
	return p->equal ? 100 : 1 + chance(p, 16000);
}

static void wire_step(struct program *p, unsigned i, unsigned dir, uint32_t v[], unsigned *n)
{
	struct sslc_ev_wire ev = a_wire(p->r, i, dir);

	if (!chance(p, 8))
		add_record(&ev, 22, 300);
	for (unsigned k = 0; k < *n; k++)
		add_record(&ev, 23, v[k] + TLS13);
	*n = 0;
	feed(p->r, &ev, sizeof(ev));
}

/* Whatever is possible now, done in any order by any thread. */
static void any_step(struct program *p)
{
	unsigned i = 1 + chance(p, p->n), kind = chance(p, 4);

	p->r->tid = chance(p, p->threads);
	if (kind == 0 && p->conn[i].n_unread < 4) { /* receive */
		p->conn[i].arrived[0] = a_len(p);
		p->conn[i].n_arrived = 1;
		p->conn[i].unread[p->conn[i].n_unread++] = p->conn[i].arrived[0];
		wire_step(p, i, SSLC_DIR_IN, p->conn[i].arrived, &p->conn[i].n_arrived);
	} else if (kind == 1 && p->conn[i].n_unread) {
		feed_data(p->r, i, SSLC_DIR_IN, p->conn[i].unread[0]);
		memmove(p->conn[i].unread, p->conn[i].unread + 1, 7 * sizeof(uint32_t));
		p->conn[i].n_unread--;
		if (chance(p, 2)) /* what else arrived was not given to the library yet */
			feed_call(p->r, i, SSLC_CALL_READ);
	} else if (kind == 2 && p->conn[i].n_unsent < 4) {
		uint32_t len = a_len(p);

		p->conn[i].unsent[p->conn[i].n_unsent++] = len;
		feed_data(p->r, i, SSLC_DIR_OUT, len);
	} else if (kind == 3 && p->conn[i].n_unsent) {
		wire_step(p, i, SSLC_DIR_OUT, p->conn[i].unsent, &p->conn[i].n_unsent);
	}
	if (!chance(p, 10))
		feed_call(p->r, i, SSLC_CALL_READ);
	if (!chance(p, 40))
		p->r->ts_ns += QUIET;
}

static unsigned wrong_in_random_order(uint64_t seed, unsigned n, unsigned threads, bool equal)
{
	struct program p = {
		.r = rig_new(), .rng = seed, .n = n, .threads = threads, .equal = equal};
	unsigned wrong;

	for (int i = 0; i < 400; i++)
		any_step(&p);
	wrong = p.r->n_wrong;
	rig_free(p.r);
	return wrong;
}

static void test_no_order_of_things_makes_a_wrong_binding(void **state)
{
	unsigned wrong = 0;
	const char *more = getenv("ADJACENT_SEEDS");
	uint64_t seeds = more ? strtoull(more, NULL, 10) : 60;

	(void)state;
	for (uint64_t s = 1; s <= seeds; s++)
		for (unsigned n = 2; n <= 12; n += 5)
			for (unsigned threads = 1; threads <= 3; threads++)
				for (unsigned equal = 0; equal < 2; equal++) {
					unsigned w = wrong_in_random_order(
						s * 0x9e3779b97f4a7c15ull, n, threads, equal);
					if (w && more)
						print_message(
							"seed %u n %u threads %u equal %u: %u\n",
							(unsigned)s, n, threads, equal, w);
					wrong += w;
				}
	assert_int_equal(wrong, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_server_is_bound_by_its_first_exchange),
		cmocka_unit_test(test_a_connection_joined_in_its_midst_is_bound_too),
		cmocka_unit_test(test_one_direction_of_equal_lengths_is_not_enough),
		cmocka_unit_test(test_one_direction_of_different_lengths_is),
		cmocka_unit_test(test_handshakes_alone_bind_nothing),
		cmocka_unit_test(test_what_does_not_fit_is_no_evidence),
		cmocka_unit_test(test_receives_on_two_flows_before_the_calls_are_none),
		cmocka_unit_test(test_what_was_left_unread_does_not_meet_the_next_receive),
		cmocka_unit_test(test_several_writers_before_a_send_are_none),
		cmocka_unit_test(test_one_receive_behind_is_contradicted_by_the_sends),
		cmocka_unit_test(test_a_send_that_ends_in_a_record_goes_on),
		cmocka_unit_test(
			test_a_request_sent_from_inside_the_handshake_leaves_nothing_unread),
		cmocka_unit_test(test_long_writes_are_bound_by_their_first_records),
		cmocka_unit_test(test_two_claims_on_a_flow_cancel_each_other),
		cmocka_unit_test(test_a_call_that_does_not_fit_ends_the_binding),
		cmocka_unit_test(test_bound_objects_may_be_called_in_any_order),
		cmocka_unit_test(test_nothing_is_concluded_across_a_lost_event),
		cmocka_unit_test(test_events_without_numbers_bind_nothing),
		cmocka_unit_test(test_calls_with_parts_lost_are_not_compared),
		cmocka_unit_test(test_a_write_that_was_held_back_is_not_compared),
		cmocka_unit_test(test_other_threads_that_may_have_caused_it_void_the_evidence),
		cmocka_unit_test(test_threads_at_work_on_their_own_are_bound),
		cmocka_unit_test(test_a_new_object_at_the_address_starts_anew),
		cmocka_unit_test(test_an_object_ends_with_its_flow),
		cmocka_unit_test(test_the_last_exchange_is_concluded_when_the_flow_ends),
		cmocka_unit_test(test_a_short_exchange_is_bound_at_its_end),
		cmocka_unit_test(test_what_the_kernel_saw_beats_every_guess),
		cmocka_unit_test(test_a_flow_that_is_refused_stays_free),
		cmocka_unit_test(test_the_least_recently_called_object_goes),
		cmocka_unit_test(test_no_order_of_things_makes_a_wrong_binding),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
