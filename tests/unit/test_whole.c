/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of agent/match/whole.c: scripts of calls and socket operations in, the object of a
 * flow out; then programs that do both in random orders, where no answer may be wrong.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "match/whole.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TLS13   17 /* what a record adds to its plaintext */
#define OBJECTS 16
#define PROCESS 7

struct rig {
	struct whole *w;
	uint64_t ts_ns;
	unsigned tid, found, n_found, n_wrong; /* object N truly belongs to flow N */
};

static struct rig *rig_new(void)
{
	struct rig *r = calloc(1, sizeof(*r));

	assert_non_null(r);
	r->ts_ns = 1000;
	assert_int_equal(whole_new(&r->w), 0);
	return r;
}

static void rig_free(struct rig *r)
{
	whole_free(r->w);
	free(r);
}

static uint64_t tick(struct rig *r)
{
	return r->ts_ns += 1000;
}

static struct sslc_conn_id object(unsigned n)
{
	return (struct sslc_conn_id){.start_ns = 5, .ssl = n, .tgid = PROCESS};
}

static void call(struct rig *r, unsigned n, unsigned dir, uint32_t len)
{
	struct sslc_conn_id id = object(n);

	whole_call(r->w, &id, r->tid, tick(r), dir, len);
}

static void begin(struct rig *r, unsigned n)
{
	struct sslc_conn_id id = object(n);

	whole_begin(r->w, &id, tick(r));
}

static void open_flow(struct rig *r, unsigned n, uint32_t flags)
{
	struct sslc_ev_open ev = {.ev = {SSLC_EV_OPEN, sizeof(ev), tick(r), n},
				  .conn = {.start_ns = 5, .tgid = PROCESS},
				  .flags = SSLC_OPEN_CANDIDATE | flags};

	whole_open(r->w, &ev);
}

static void wire(struct rig *r, unsigned n, unsigned dir, unsigned type, uint32_t len)
{
	struct sslc_ev_wire ev = {.ev = {SSLC_EV_WIRE, sizeof(ev), tick(r), n},
				  .tgid = PROCESS,
				  .tid = r->tid,
				  .len = len + 5,
				  .dir = (uint8_t)dir,
				  .n_rec = 1,
				  .rec = {{.len = (uint16_t)len, .type = (uint8_t)type}}};

	whole_wire(r->w, &ev);
}

static void end_flow(struct rig *r, unsigned n)
{
	struct sslc_conn_id id;

	r->found = 0;
	if (!whole_match(r->w, n, tick(r), &id))
		return;
	r->found = (unsigned)id.ssl;
	r->n_found++;
	r->n_wrong += r->found != n;
	whole_drop_object(r->w, &id);
	whole_drop_flow(r->w, n);
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
 *   o1 object 1 is called for the first time; O1 flow 1 opens; L1 in the midst of TLS
 *   S1:H sent on flow 1: a handshake record; S1:100 one with 100 bytes of plaintext; S1=100 one
 *   of 100 bytes; R1… the same, received
 *   w1=100 object 1 wrote 100 bytes; r1=100 read them; d1 found nothing more; D1 moved what is not
 *   known
 *   t1 on thread 1 from here on; B something of the process is lost; X1 object 1 is bound elsewhere
 *   E1 flow 1 ends
 */
static void feed_wire(struct rig *r, unsigned n, unsigned dir, const char **s)
{
	char how = *(*s)++;

	if (**s == 'H') {
		(*s)++;
		wire(r, n, dir, 22, 300);
	} else {
		wire(r, n, dir, 23, number(s) + (how == ':' ? TLS13 : 0));
	}
}

static void word(struct rig *r, const char **s)
{
	char what = *(*s)++;
	unsigned n = number(s);
	struct sslc_conn_id id = object(n);

	switch (what) {
	case 'o':
		begin(r, n);
		break;
	case 'O':
		open_flow(r, n, 0);
		break;
	case 'L':
		open_flow(r, n, SSLC_OPEN_LATE);
		break;
	case 'S':
		feed_wire(r, n, SSLC_DIR_OUT, s);
		break;
	case 'R':
		feed_wire(r, n, SSLC_DIR_IN, s);
		break;
	case 'w':
		(*s)++;
		call(r, n, SSLC_DIR_OUT, number(s));
		break;
	case 'r':
		(*s)++;
		call(r, n, SSLC_DIR_IN, number(s));
		break;
	case 'd':
		call(r, n, SSLC_DIR_IN, 0);
		break;
	case 'D':
		whole_doubt(r->w, &id);
		break;
	case 't':
		r->tid = n;
		break;
	case 'B':
		whole_blind(r->w, PROCESS, tick(r));
		break;
	case 'X':
		whole_drop_object(r->w, &id);
		break;
	case 'E':
		end_flow(r, n);
		break;
	default:
		fail_msg("unknown word %c", what);
	}
}

/* After the script, the flow that ended last has this object (0: none), and none was wrong. */
static void expect(const char *script, unsigned found)
{
	struct rig *r = rig_new();

	for (const char *s = script; *s;) {
		if (*s == ' ')
			s++;
		else
			word(r, &s);
	}
	if (r->found != found)
		fail_msg("%s: object %u", script, r->found);
	assert_int_equal(r->n_wrong, 0);
	rig_free(r);
}

/* --- scripts ------------------------------------------------------------------------------------
 */

#define CLIENT1 "o1 O1 d1 S1:H R1:H R1:6 R1:400 R1:79 R1:52 d1 S1:52 "
#define CLIENT2 "o2 O2 d2 S2:H R2:H R2:6 R2:400 R2:79 R2:52 d2 S2:52 "
/* both at once: each may be either's */
#define BOTH  "o1 o2 O1 O2 d1 d2 S1:H S2:H R1:H R1:6 R1:400 R2:H R2:6 R2:400 d1 d2 S1:52 S2:52 "
#define ALONE CLIENT1 "w1=86 S1:86 R1:265 R1:95 r1=95 "

static void test_one_exchange_is_enough_when_all_of_it_was_seen(void **state)
{
	(void)state;
	expect(ALONE "E1", 1);
	expect(ALONE "R1:2 S1:2 d1 E1", 1);                           /* both said goodbye */
	expect("o1 O1 R1:H S1:H w1=10 S1=34 R1=44 r1=20 E1", 1);      /* TLS 1.2, GCM */
	expect("o1 O1 R1:H S1:H w1=10 S1=48 R1=64 r1=7 r1=13 E1", 1); /* CBC, SHA-1 */
	expect(CLIENT1 "w1=40000 S1:16384 S1:16384 S1:7232 R1:9 r1=9 E1", 1); /* long calls */
}

static void test_both_directions_must_have_said_something(void **state)
{
	(void)state;
	expect(CLIENT1 "E1", 0);
	expect(CLIENT1 "w1=86 S1:86 E1", 0);
	expect(CLIENT1 "R1:95 r1=95 E1", 0);
}

static void test_what_is_not_explained_leaves_a_doubt(void **state)
{
	(void)state;
	expect(CLIENT1 "w1=86 S1:86 R1:95 R1:265 r1=95 E1", 0);          /* never read */
	expect(CLIENT1 "w1=86 S1:86 w1=86 R1:95 r1=95 E1", 0);           /* never sent */
	expect(CLIENT1 "w1=86 S1:86 R1:95 r1=94 E1", 0);                 /* left unread */
	expect(CLIENT1 "w1=86 S1:87 R1:95 r1=95 E1", 0);                 /* another length */
	expect(CLIENT1 "w1=86 S1:86 R1:95 r1=95 R1:70 R1:9 r1=9 E1", 0); /* a record between */
	expect(CLIENT1 "w1=86 S1:86 r1=95 R1:95 E1", 0);                 /* read before it came */
	expect(CLIENT1 "S1:86 w1=86 R1:95 r1=95 E1", 0);  /* sent before it was written */
	expect(CLIENT1 "w1=86 S1=110 R1:95 r1=95 E1", 0); /* under two ciphers */
}

static void test_what_was_not_seen_from_its_beginning_is_not_known(void **state)
{
	(void)state;
	expect("o1 L1 S1:H R1:H w1=86 S1:86 R1:95 r1=95 E1", 0);
	expect("o1 O1 S1:86 w1=86 S1:86 R1:95 r1=95 E1", 0);
	expect("o1 S1:H R1:H w1=86 S1:86 R1:95 r1=95 E1", 0);
	expect("O1 S1:H R1:H w1=86 S1:86 R1:95 r1=95 E1", 0);
	expect(CLIENT1 "w1=86 S1:86 D1 R1:95 r1=95 E1", 0);
}

static void test_what_was_missed_meanwhile_leaves_a_doubt(void **state)
{
	(void)state;
	expect(ALONE "B E1", 0);
	expect(CLIENT1 "B w1=86 S1:86 R1:95 r1=95 E1", 0);
	expect("B " ALONE "E1", 1);
	expect(CLIENT1 "w1=86 S1:86 r3=5 R1:95 r1=95 E1", 0); /* of an object that is not known */
	expect(CLIENT1 "w1=86 S1:86 S3:5 R1:95 r1=95 E1", 0); /* of such a flow */
	expect("o3 D3 " ALONE "E1", 1);                       /* before */
	expect("o3 D3 " CLIENT1 "d3 w1=86 S1:86 R1:95 r1=95 E1", 0);    /* and at the same time */
	expect("o3 D3 " CLIENT1 "d3 X3 w1=86 S1:86 R1:95 r1=95 E1", 1); /* but known otherwise */
}

static void test_two_at_once_are_told_apart_by_any_length(void **state)
{
	(void)state;
	/* in the order in which node does it */
	expect(CLIENT1 CLIENT2 "w1=86 S1:86 w2=81 S2:81 R2:95 r2=95 S2:2 d2 E2", 2);
	expect(CLIENT1 CLIENT2 "w1=86 S1:86 w2=81 S2:81 R1:9 r1=9 S1:2 d1 R2:95 r2=95 E1", 1);
	/* what was received is read when both have come */
	expect(CLIENT1 CLIENT2 "w1=80 w2=80 S2:80 S1:80 R1:9 R2:8 r2=8 r1=9 d1 d2 E1", 1);
	expect(CLIENT1 CLIENT2 "w1=80 w2=80 S2:80 S1:80 R1:9 R2:8 r2=8 r1=9 d1 d2 E1 E2", 2);
}

static void test_two_that_look_the_same_are_not_told_apart(void **state)
{
	(void)state;
	expect(BOTH "w1=80 w2=80 S2:80 S1:80 R1:9 R2:9 r2=9 r1=9 d1 d2 E1", 0);
	expect(BOTH "w1=80 w2=80 S2:80 S1:80 R1:9 R2:9 r2=9 r1=9 d1 d2 E1 E2", 0);
	/* the first record of flow 1 may have been a hidden message of object 2 */
	expect(BOTH "w1=80 S1:80 w2=80 S2:80 R1:9 r1=9 d1 R2:9 r2=9 d2 E1", 0);
	/* but not when object 2 was not called to make it: times tell */
	expect(CLIENT1 CLIENT2 "w1=80 S1:80 w2=80 S2:80 R1:9 r1=9 d1 R2:9 r2=9 d2 E1", 1);
	expect("o2 o1 O1 O2 d1 d2 S1:H R1:H d1 w1=80 S1:52 S1:80 S2:H R2:H w2=80 d2 S2:52 S2:80 "
	       "R1:9 r1=9 d1 R2:9 r2=9 d2 E1",
	       1);
	/* nor on several threads, where a call may tell of itself after its record was sent */
	expect(BOTH "w1=80 S1:80 t1 w2=80 S2:80 R2:9 R1:9 t0 r1=9 t1 r2=9 E1", 0);
}

static void test_a_rival_that_says_less_is_one_still(void **state)
{
	(void)state;
	/* object 2 can have used flow 1: its own flow shows the same so far */
	expect(BOTH "w1=80 w2=80 S1:80 R1:9 r1=9 d1 E1", 0);
	/* it moved nothing */
	expect(BOTH "w1=80 S1:80 R1:9 r1=9 d1 E1", 1);
	/* its record would have been sent with the others */
	expect(BOTH "w2=70 w1=80 S1:80 R1:9 r1=9 d1 E1", 1);
	/* flow 2 has ended, and can have carried object 1 */
	expect(BOTH "w1=80 S2:80 S1:80 R2:9 R1:9 r1=9 d1 E2 E1", 0);
}

static void test_too_many_rivals_give_no_answer(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	for (unsigned i = 0; i <= WHOLE_RIVALS; i++) {
		begin(r, 100 + i);
		call(r, 100 + i, SSLC_DIR_OUT, 77);
	}
	for (const char *s = ALONE; *s;)
		if (*s == ' ')
			s++;
		else
			word(r, &s);
	end_flow(r, 1);
	assert_int_equal(r->found, 1); /* those before do not count */
	begin(r, 2);
	open_flow(r, 2, 0);
	wire(r, 2, SSLC_DIR_OUT, 22, 300);
	for (unsigned i = 0; i <= WHOLE_RIVALS; i++)
		call(r, 100 + i, SSLC_DIR_OUT, 77);
	call(r, 2, SSLC_DIR_OUT, 86);
	wire(r, 2, SSLC_DIR_OUT, 23, 86 + TLS13);
	wire(r, 2, SSLC_DIR_IN, 23, 95 + TLS13);
	call(r, 2, SSLC_DIR_IN, 95);
	end_flow(r, 2);
	assert_int_equal(r->found, 0);
	rig_free(r);
}

static void test_a_journal_that_had_to_go_leaves_a_doubt(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	begin(r, 1);
	open_flow(r, 1, 0);
	wire(r, 1, SSLC_DIR_OUT, 22, 300);
	begin(r, 3);
	for (unsigned i = 0; i < WHOLE_JOURNALS; i++) { /* of other processes, and object 3 goes */
		struct sslc_conn_id id = {.ssl = i, .tgid = 100 + i};

		whole_begin(r->w, &id, tick(r));
		if (i < WHOLE_JOURNALS / 2)
			continue;
		call(r, 1, SSLC_DIR_OUT, 86);
		wire(r, 1, SSLC_DIR_OUT, 23, 86 + TLS13);
		wire(r, 1, SSLC_DIR_IN, 23, 95 + TLS13);
		call(r, 1, SSLC_DIR_IN, 95);
	}
	end_flow(r, 1);
	assert_int_equal(r->found, 0);
	rig_free(r);
}

static void test_long_ones_are_left_to_others(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	begin(r, 1);
	open_flow(r, 1, 0);
	wire(r, 1, SSLC_DIR_OUT, 22, 300);
	for (unsigned i = 0; i < WHOLE_ITEMS + 1; i++) {
		call(r, 1, SSLC_DIR_OUT, 100 + i);
		wire(r, 1, SSLC_DIR_OUT, 23, 100 + i + TLS13);
		wire(r, 1, SSLC_DIR_IN, 23, 200 + i + TLS13);
		call(r, 1, SSLC_DIR_IN, 200 + i);
	}
	end_flow(r, 1);
	assert_int_equal(r->found, 0);
	rig_free(r);
}

/* --- programs in random orders ------------------------------------------------------------------
 */

enum fault {
	NO_FAULT,
	OBJECTS_UNSEEN, /* some objects are of a library that nobody watches */
	FLOWS_UNSEEN,   /* some use no TCP connection */
	EVENTS_LOST,    /* and it is known that they were */
	FAULTS,
};

struct conn {
	uint32_t unread[8], unsent[8];
	unsigned n_unread, n_unsent, messages, shaken;
	bool has_object, has_flow, is_over;
};

struct program {
	struct rig *r;
	uint64_t rng;
	unsigned n, threads, lengths; /* how many different ones */
	enum fault fault;
	struct conn conn[OBJECTS];
};

static uint32_t chance(struct program *p, uint32_t n)
{
	p->rng ^= p->rng << 13;
	p->rng ^= p->rng >> 7;
	p->rng ^= p->rng << 17;
	return (uint32_t)(p->rng >> 33) % n;
}

/* An event that is lost is one that the process was blind for. */
static bool is_seen(struct program *p)
{
	if (p->fault != EVENTS_LOST || chance(p, 60))
		return true;
	whole_blind(p->r->w, PROCESS, tick(p->r));
	return false;
}

static void do_call(struct program *p, unsigned i, unsigned dir, uint32_t len)
{
	if (p->conn[i].has_object && is_seen(p))
		call(p->r, i, dir, len);
}

static void do_wire(struct program *p, unsigned i, unsigned dir, unsigned type, uint32_t len)
{
	if (p->conn[i].has_flow && is_seen(p))
		wire(p->r, i, dir, type, len);
}

static void start(struct program *p, unsigned i)
{
	struct conn *c = &p->conn[i];

	c->has_object = p->fault != OBJECTS_UNSEEN || chance(p, 3);
	c->has_flow = p->fault != FLOWS_UNSEEN || chance(p, 3);
	if (c->has_object)
		begin(p->r, i);
	if (c->has_flow)
		open_flow(p->r, i, 0);
}

/* The handshake's next step; connections shake hands at the same time. */
static void shake(struct program *p, unsigned i)
{
	switch (p->conn[i].shaken++) {
	case 0:
		do_call(p, i, SSLC_DIR_IN, 0);
		break;
	case 1:
		do_wire(p, i, SSLC_DIR_OUT, 22, 300);
		break;
	case 2:
		do_wire(p, i, SSLC_DIR_IN, 22, 120);
		do_wire(p, i, SSLC_DIR_IN, 23, 400);
		do_wire(p, i, SSLC_DIR_IN, 23, 69);
		break;
	case 3:
		do_call(p, i, SSLC_DIR_IN, 0);
		break;
	default:
		do_wire(p, i, SSLC_DIR_OUT, 23, 69);
	}
}

static void flush(struct program *p, unsigned i)
{
	struct conn *c = &p->conn[i];

	for (unsigned k = 0; k < c->n_unsent; k++)
		do_wire(p, i, SSLC_DIR_OUT, 23, c->unsent[k] + TLS13);
	c->n_unsent = 0;
}

/* Some say goodbye, some read what is left, some do neither. */
static void stop(struct program *p, unsigned i)
{
	struct conn *c = &p->conn[i];

	if (chance(p, 3))
		flush(p, i);
	for (unsigned k = 0; k < c->n_unread && c->n_unread && chance(p, 8); k++)
		do_call(p, i, SSLC_DIR_IN, c->unread[k]);
	if (!c->n_unsent && chance(p, 2))
		do_wire(p, i, SSLC_DIR_OUT, 23, 2 + TLS13);
	c->is_over = true;
	if (c->has_flow)
		end_flow(p->r, i);
}

static void any_step(struct program *p)
{
	unsigned i = 1 + chance(p, p->n), kind = chance(p, 5);
	struct conn *c = &p->conn[i];
	uint32_t len = 100 + 10 * chance(p, p->lengths);

	if (c->is_over)
		return;
	p->r->tid = chance(p, p->threads);
	if (c->shaken < 5) {
		shake(p, i);
	} else if (kind == 0 && c->n_unread < 3 && c->messages++ < 6) {
		c->unread[c->n_unread++] = len;
		do_wire(p, i, SSLC_DIR_IN, 23, len + TLS13);
	} else if (kind == 1 && c->n_unread) {
		do_call(p, i, SSLC_DIR_IN, c->unread[0]);
		memmove(c->unread, c->unread + 1, 7 * sizeof(uint32_t));
		if (!--c->n_unread)
			do_call(p, i, SSLC_DIR_IN, 0);
	} else if (kind == 2 && c->n_unsent < 3 && c->messages++ < 6) {
		c->unsent[c->n_unsent++] = len;
		do_call(p, i, SSLC_DIR_OUT, len);
	} else if (kind == 3) {
		flush(p, i);
	} else if (kind == 4 && c->messages && !chance(p, 6)) {
		stop(p, i);
	}
}

static struct rig *run(struct program *p)
{
	p->r = rig_new();
	for (unsigned i = 1; i <= p->n; i++)
		start(p, i);
	for (unsigned i = 0; i < 60 * p->n; i++)
		any_step(p);
	return p->r;
}

static void test_no_order_of_things_gives_a_wrong_answer(void **state)
{
	const char *more = getenv("WHOLE_SEEDS");
	uint64_t seeds = more ? strtoull(more, NULL, 10) : 100;
	unsigned found[FAULTS] = {0};

	(void)state;
	for (uint64_t s = 1; s <= seeds; s++)
		for (unsigned n = 2; n <= 12; n += 5)
			for (unsigned k = 0; k < 3 * 3 * FAULTS; k++) {
				struct program p = {.rng = s * 0x9e3779b97f4a7c15ull + k,
						    .n = n,
						    .threads = 1 + k % 3,
						    .lengths = 1u << 3 * (k / 3 % 3),
						    .fault = k / 9};
				struct rig *r = run(&p);

				found[p.fault] += r->n_found;
				if (r->n_wrong)
					fail_msg("seed %u, %u connections, %u: %u wrong",
						 (unsigned)s, n, k, r->n_wrong);
				rig_free(r);
			}
	for (unsigned f = 0; f < FAULTS; f++) {
		print_message("fault %u: %u found\n", f, found[f]);
		assert_true(found[f] > 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_exchange_is_enough_when_all_of_it_was_seen),
		cmocka_unit_test(test_both_directions_must_have_said_something),
		cmocka_unit_test(test_what_is_not_explained_leaves_a_doubt),
		cmocka_unit_test(test_what_was_not_seen_from_its_beginning_is_not_known),
		cmocka_unit_test(test_what_was_missed_meanwhile_leaves_a_doubt),
		cmocka_unit_test(test_two_at_once_are_told_apart_by_any_length),
		cmocka_unit_test(test_two_that_look_the_same_are_not_told_apart),
		cmocka_unit_test(test_a_rival_that_says_less_is_one_still),
		cmocka_unit_test(test_too_many_rivals_give_no_answer),
		cmocka_unit_test(test_a_journal_that_had_to_go_leaves_a_doubt),
		cmocka_unit_test(test_long_ones_are_left_to_others),
		cmocka_unit_test(test_no_order_of_things_gives_a_wrong_answer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
