/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "preloaded/shimflow.h"

/* What came out, one word an event. Flows are numbered in the order of their opening. */
static char seen[2048];
static uint64_t ids[16];
static unsigned n_ids;

static const uint8_t plaintext[SSLC_SHIM_CHUNK];

static unsigned number_of(uint64_t id)
{
	for (unsigned i = 0; i < n_ids; i++)
		if (ids[i] == id)
			return i + 1;
	return 0;
}

static void on_event(void *ctx, const struct sslc_event *ev, const uint8_t *bytes)
{
	static const char *const what[] = {"?",   "fin",  "rfin",    "eof",    "error",
					   "rst", "rsto", "timeout", "closed", "destroyed"};
	const struct sslc_ev_data *d = (const void *)ev;
	const struct sslc_ev_bind *b = (const void *)ev;
	const struct sslc_ev_gap *g = (const void *)ev;
	const struct sslc_ev_lost *l = (const void *)ev;
	const struct sslc_ev_sock *s = (const void *)ev;
	const struct sslc_ev_early *e = (const void *)ev;
	size_t n = strlen(seen), room = sizeof(seen) - n;
	char *to = seen + n;

	(void)ctx;
	assert_ptr_equal(bytes, ev->type == SSLC_EV_DATA ? plaintext : NULL);
	if (ev->type == SSLC_EV_DATA)
		assert_int_equal(ev->size, sizeof(*d) + d->len);
	if (number_of(ev->flow) == 0 && ev->flow)
		ids[n_ids++] = ev->flow;
	if (ev->type == SSLC_EV_OPEN) {
		assert_int_equal(((const struct sslc_ev_open *)ev)->conn.tgid / 100, 1);
	}
	switch (ev->type) {
	case SSLC_EV_OPEN:
		snprintf(to, room, "open%u%s ", number_of(ev->flow),
			 ((const struct sslc_ev_open *)ev)->flags & SSLC_OPEN_LATE ? "late" : "");
		break;
	case SSLC_EV_DATA:
		snprintf(to, room, "data%u:%s%d+%u ", number_of(ev->flow), d->dir ? "out" : "in",
			 (int)d->pos, d->len);
		break;
	case SSLC_EV_CLEAR:
		snprintf(to, room, "clear%u:%s%d+%u ", number_of(ev->flow), d->dir ? "out" : "in",
			 (int)d->pos, d->len);
		break;
	case SSLC_EV_BIND:
		snprintf(to, room, "bind%u:%d,%d ", number_of(ev->flow), (int)b->pos[0],
			 (int)b->pos[1]);
		break;
	case SSLC_EV_GAP:
		snprintf(to, room, "gap%u:%s%d+%d ", number_of(ev->flow), g->dir ? "out" : "in",
			 (int)g->pos, (int)g->len);
		break;
	case SSLC_EV_LOST:
		snprintf(to, room, "lost%u:%d,%d ", number_of(ev->flow), (int)l->pos[0],
			 (int)l->pos[1]);
		break;
	case SSLC_EV_SOCK:
		snprintf(to, room, "%s%u ", what[s->what], number_of(ev->flow));
		break;
	case SSLC_EV_EARLY:
		snprintf(to, room, "early%u:%u ", number_of(ev->flow), e->accepted);
		break;
	default:
		fail();
	}
}

/* The kernel: a descriptor's cookie, or why not. */
static struct {
	int fd;
	uint64_t cookie;
	int err;
} sockets[8];

static int on_take(void *ctx, void *process, const struct sslc_shim_rec *rec,
		   struct sslc_ev_open *out, uint64_t *cookie)
{
	(void)ctx;
	(void)process;
	for (int i = 0; i < 8; i++)
		if (sockets[i].fd == rec->fd && !sockets[i].err) {
			out->family = 4;
			*cookie = sockets[i].cookie;
			return 0;
		} else if (sockets[i].fd == rec->fd) {
			return sockets[i].err;
		}
	return -EBADF;
}

static int skipped_fd;

static void on_skip(void *ctx, void *process, int fd, uint32_t fd_gen)
{
	(void)ctx;
	(void)process;
	skipped_fd = fd + (int)fd_gen * 1000;
}

static struct shimflows *t;
static struct shimproc *p, *q;
static uint64_t clock_ns;

static void leave(struct shimproc *who, bool has_heirs)
{
	shimflows_leave(t, who, &(struct shimproc_end){.now_ns = clock_ns, .has_heirs = has_heirs});
}

static int begin(void **state)
{
	const struct shimflows_conf conf = {.event = on_event, .take = on_take, .skip = on_skip};
	const struct shimproc_conf one = {.pid = 101, .start_ns = 1}, two = {.pid = 102, .kin = 9};

	(void)state;
	memset(sockets, 0, sizeof(sockets));
	for (int i = 0; i < 8; i++)
		sockets[i].fd = -1;
	sockets[0].fd = 5;
	sockets[0].cookie = 500;
	sockets[1].fd = 6;
	sockets[1].cookie = 600;
	n_ids = 0;
	seen[0] = '\0';
	clock_ns = 1000;
	assert_int_equal(shimflows_new(&t, &conf), 0);
	p = shimflows_join(t, &one);
	q = shimflows_join(t, &two);
	return p && q ? 0 : -1;
}

static int end(void **state)
{
	(void)state;
	if (p)
		leave(p, false);
	if (q)
		leave(q, false);
	shimflows_free(t);
	return 0;
}

static struct shimring_record r = {.bytes = plaintext};

static void put(struct shimproc *to, enum sslc_shim_type type, uint64_t obj, int fd, uint32_t gen,
		uint64_t pos, uint64_t pos2)
{
	r.rec = (struct sslc_shim_rec){.type = (uint16_t)type,
				       .obj = obj,
				       .life = 1,
				       .fd = fd,
				       .fd_gen = gen,
				       .pos = pos,
				       .pos2 = pos2,
				       .ts_ns = ++clock_ns};
	shimflows_record(t, to, &r);
}

static void put_bytes(struct shimproc *to, enum sslc_shim_type type, uint64_t obj, uint8_t dir,
		      uint64_t pos, uint32_t len)
{
	r.rec = (struct sslc_shim_rec){.type = (uint16_t)type,
				       .obj = obj,
				       .life = 1,
				       .dir = dir,
				       .pos = pos,
				       .len = len,
				       .ts_ns = ++clock_ns};
	shimflows_record(t, to, &r);
}

static void put_data(struct shimproc *to, uint64_t obj, uint8_t dir, uint64_t pos, uint32_t len)
{
	put_bytes(to, SSLC_SHIM_DATA_BYTES, obj, dir, pos, len);
}

static void put_clear(struct shimproc *to, uint64_t obj, uint8_t dir, uint64_t pos, uint32_t len)
{
	put_bytes(to, SSLC_SHIM_CLEAR_BYTES, obj, dir, pos, len);
}

#define assert_seen(what)                                                                          \
	do {                                                                                       \
		assert_string_equal(seen, what);                                                   \
		seen[0] = '\0';                                                                    \
	} while (0)

static void bind_to(struct shimproc *to, uint64_t obj, int fd, uint32_t gen, uint64_t in,
		    uint64_t out)
{
	put(to, SSLC_SHIM_BIND, obj, fd, gen, in, out);
}

static void ends(struct shimproc *to, int fd, uint32_t gen, enum sslc_sock_what what)
{
	put(to, SSLC_SHIM_END, 0, fd, gen, 0, what);
}

/* --- tests --------------------------------------------------------------------------------------
 */

static void test_a_connection_opens_speaks_and_ends(void **state)
{
	(void)state;
	bind_to(p, 1, 5, 0, 0, 0);
	put_data(p, 1, SSLC_DIR_OUT, 0, 10);
	put_data(p, 1, SSLC_DIR_IN, 0, 20);
	put_data(p, 1, SSLC_DIR_OUT, 10, 5);
	ends(p, 5, 0, SSLC_SOCK_EOF);
	put(p, SSLC_SHIM_FORGET, 1, 0, 0, 20, 15);
	ends(p, 5, 0, SSLC_SOCK_DESTROYED);
	assert_seen("open1 data1:out0+10 data1:in0+20 data1:out10+5 eof1 fin1 destroyed1 ");
	assert_int_equal(shimflows_count(t), 0);
}

static void test_holes_have_their_exact_size(void **state)
{
	(void)state;
	bind_to(p, 1, 5, 0, 1000, 2000); /* joined in its midst */
	put_data(p, 1, SSLC_DIR_IN, 1000, 1);
	put_data(p, 1, SSLC_DIR_IN, 1101, 1);
	put(p, SSLC_SHIM_GAP, 1, 0, 0, 2003, 50); /* direction: in */
	put(p, SSLC_SHIM_FORGET, 1, 0, 0, 2100, 2007);
	assert_seen("open1 data1:in0+1 data1:in101+1 gap1:in1003+50 lost1:1100,7 ");
	put_data(p, 2, SSLC_DIR_IN, 0, 1);
	put_data(p, 2, SSLC_DIR_IN, 1ull << 60, 1); /* nobody loses that much */
	put_data(p, 2, SSLC_DIR_IN, 0, 1);          /* nor goes back */
	assert_seen("data0:in0+1 ");
}

static void test_an_object_that_is_bound_late_says_so(void **state)
{
	(void)state;
	put_data(p, 1, SSLC_DIR_OUT, 0, 7);
	bind_to(p, 1, 5, 0, 0, 7);
	put_data(p, 1, SSLC_DIR_OUT, 7, 2);
	assert_seen("data0:out0+7 open1 bind1:0,7 data1:out0+2 ");
}

static void test_objects_follow_each_other_on_one_connection(void **state)
{
	(void)state;
	bind_to(p, 1, 5, 0, 0, 0);
	put_data(p, 1, SSLC_DIR_OUT, 0, 10);
	bind_to(p, 2, 5, 0, 0, 0);
	put_data(p, 2, SSLC_DIR_OUT, 0, 3);
	assert_seen("open1 data1:out0+10 data1:out10+3 ");
	bind_to(p, 1, 6, 0, 0, 10); /* and one object uses another one */
	put_data(p, 1, SSLC_DIR_OUT, 10, 4);
	assert_seen("open2 data2:out0+4 ");
}

static void test_a_number_that_is_used_again_is_another_connection(void **state)
{
	(void)state;
	bind_to(p, 1, 5, 0, 0, 0);
	sockets[0].cookie = 501;
	bind_to(p, 2, 5, 1, 0, 0); /* the end of generation 0 was not told */
	ends(p, 5, 0, SSLC_SOCK_EOF);
	ends(p, 5, 1, SSLC_SOCK_EOF);
	assert_seen("open1 rsto1 destroyed1 open2 eof2 ");
	put_data(p, 1, SSLC_DIR_OUT, 0, 1); /* after its end */
	assert_seen("");
}

static void test_what_the_kernel_does_not_confirm_is_not_told(void **state)
{
	(void)state;
	for (int i = 0; i < 3; i++) {
		sockets[0].err = (const int[]){-EBADF, -ESTALE, -EPROTONOSUPPORT}[i];
		bind_to(p, 10 + (uint64_t)i, 5, (uint32_t)i, 0, 0);
		put_data(p, 10 + (uint64_t)i, SSLC_DIR_OUT, 0, 10);
		ends(p, 5, (uint32_t)i, SSLC_SOCK_DESTROYED);
	}
	assert_seen("");
	assert_int_equal(shimflows_count(t), 0);
}

static void test_a_socket_lives_until_its_last_holder_closes_it(void **state)
{
	(void)state;
	bind_to(p, 1, 5, 0, 0, 0);
	put(q, SSLC_SHIM_HOLD, 0, 5, 0, 0, 0);
	ends(p, 5, 0, SSLC_SOCK_DESTROYED);
	assert_seen("open1 ");
	bind_to(q, 1, 5, 0, 0, 0);
	put_data(q, 1, SSLC_DIR_IN, 0, 3);
	assert_seen("data1:in0+3 ");
	leave(q, false);
	q = NULL;
	assert_seen("fin1 destroyed1 ");
}

static void test_a_childs_word_may_be_late(void **state)
{
	(void)state;
	bind_to(p, 1, 5, 0, 0, 0);
	put_data(p, 1, SSLC_DIR_OUT, 0, 3);
	r.rec.flags = 0;
	r.rec = (struct sslc_shim_rec){.type = SSLC_SHIM_END,
				       .fd = 5,
				       .pos2 = SSLC_SOCK_DESTROYED,
				       .flags = SSLC_SHIM_FORKED,
				       .ts_ns = clock_ns};
	shimflows_record(t, p, &r);
	shimflows_tick(t, clock_ns + SHIMFLOW_LINGER_NS - 1);
	put(q, SSLC_SHIM_HOLD, 0, 5, 0, 0, 0);
	shimflows_tick(t, clock_ns + SHIMFLOW_LINGER_NS * 2);
	bind_to(q, 1, 5, 0, 0, 3);
	put_data(q, 1, SSLC_DIR_OUT, 3, 4);
	assert_seen("open1 data1:out0+3 data1:out3+4 ");
	leave(q, true);
	q = NULL;
	assert_seen("");
	shimflows_tick(t, clock_ns + SHIMFLOW_LINGER_NS);
	assert_seen("fin1 destroyed1 ");
}

static void test_last_bytes_that_were_lost_are_a_hole_before_the_end(void **state)
{
	(void)state;
	bind_to(p, 1, 5, 0, 0, 0);
	put_data(p, 1, SSLC_DIR_OUT, 0, 3);
	put(p, SSLC_SHIM_REACHED, 1, 0, 0, 4, 10);
	ends(p, 5, 0, SSLC_SOCK_DESTROYED);
	assert_seen("open1 data1:out0+3 lost1:4,10 fin1 destroyed1 ");
	shimflows_leave(t, p, &(struct shimproc_end){.now_ns = clock_ns, .lost = 11});
	p = NULL;
	assert_seen("");
}

static void test_who_lost_more_than_was_seen_ends_by_a_reset(void **state)
{
	(void)state;
	for (uint64_t i = 0; i < 2; i++) {
		bind_to(i ? q : p, 1, 5 + (int)i, 0, 0, 0);
		put_data(i ? q : p, 1, SSLC_DIR_OUT, 0, 3);
		put_data(i ? q : p, 1, SSLC_DIR_OUT, 13, 1); /* ten are missing */
	}
	shimflows_leave(t, p, &(struct shimproc_end){.now_ns = clock_ns, .lost = 10});
	shimflows_leave(t, q, &(struct shimproc_end){.now_ns = clock_ns, .lost = 11});
	p = q = NULL;
	assert_seen("open1 data1:out0+3 data1:out13+1 open2 data2:out0+3 data2:out13+1 "
		    "fin1 destroyed1 rsto2 destroyed2 ");
}

static void test_who_is_killed_while_it_sends_ends_by_a_reset(void **state)
{
	(void)state;
	bind_to(p, 1, 5, 0, 0, 0);
	bind_to(p, 2, 6, 0, 0, 0);
	shimflows_writing(t, p, 2);
	shimflows_writing(t, p, 3);
	ends(p, 5, 0, SSLC_SOCK_DESTROYED);
	leave(p, false);
	p = NULL;
	assert_seen("open1 open2 fin1 destroyed1 rsto2 destroyed2 ");
}

static void test_an_end_that_was_not_told_is_no_good_one(void **state)
{
	(void)state;
	bind_to(p, 1, 5, 0, 0, 0);
	sockets[0].cookie = 501;
	bind_to(p, 2, 5, 1, 0, 0);
	bind_to(q, 2, 6, 1, 0, 0);
	shimflows_torn(t, q);
	ends(q, 6, 1, SSLC_SOCK_DESTROYED);
	assert_seen("open1 rsto1 destroyed1 open2 open3 rsto3 destroyed3 ");
}

/* Nobody can be asked about it any more. */
static void test_a_child_that_is_gone_is_believed_about_its_parents_connections(void **state)
{
	(void)state;
	bind_to(p, 1, 5, 0, 0, 0);
	bind_to(p, 2, 6, 4, 0, 0);
	put(p, SSLC_SHIM_FORK, 0, 0, 0, 9, 0);
	sockets[0].err = sockets[1].err = -ESRCH;
	put(q, SSLC_SHIM_HOLD, 0, 5, 0, 0, 0);
	put(q, SSLC_SHIM_HOLD, 0, 6, 3, 0, 0); /* another one, closed long ago */
	bind_to(q, 1, 5, 0, 0, 0);
	bind_to(q, 2, 6, 3, 0, 0);
	put_data(q, 1, SSLC_DIR_OUT, 0, 3);
	put_data(q, 2, SSLC_DIR_OUT, 0, 3);
	bind_to(q, 3, 6, 4, 0, 0); /* and this is no word about the parent's */
	put_data(q, 3, SSLC_DIR_OUT, 0, 3);
	assert_seen("open1 open2 data1:out0+3 ");
}

/* It never had it, though it may guess the numbers. */
static void test_but_not_about_what_the_parent_got_later(void **state)
{
	(void)state;
	bind_to(p, 1, 6, 0, 0, 0);
	put(p, SSLC_SHIM_FORK, 0, 0, 0, 9, 0);
	bind_to(p, 2, 5, 0, 0, 0);
	r.rec = (struct sslc_shim_rec){.type = SSLC_SHIM_END,
				       .fd = 6,
				       .pos2 = SSLC_SOCK_DESTROYED,
				       .flags = SSLC_SHIM_FORKED,
				       .ts_ns = clock_ns};
	shimflows_record(t, p, &r);
	sockets[1].cookie = 601;
	bind_to(p, 3, 6, 1, 0, 0);
	sockets[0].err = sockets[1].err = -ESRCH;
	put(q, SSLC_SHIM_HOLD, 0, 5, 0, 0, 0);
	put(q, SSLC_SHIM_HOLD, 0, 6, 1, 0, 0);
	bind_to(q, 1, 5, 0, 0, 0);
	bind_to(q, 2, 6, 1, 0, 0);
	put_data(q, 1, SSLC_DIR_OUT, 0, 3);
	put_data(q, 2, SSLC_DIR_OUT, 0, 3);
	assert_seen("open1 open2 open3 ");
}

static void test_nobody_else_is(void **state)
{
	const struct shimproc_conf three = {.pid = 103, .kin = 8};
	struct shimproc *stranger = shimflows_join(t, &three);

	(void)state;
	bind_to(p, 1, 5, 0, 0, 0);
	put(p, SSLC_SHIM_FORK, 0, 0, 0, 9, 0);
	sockets[0].err = -ESRCH;
	put(stranger, SSLC_SHIM_HOLD, 0, 5, 0, 0, 0);
	bind_to(stranger, 1, 5, 0, 0, 0);
	put_data(stranger, 1, SSLC_DIR_OUT, 0, 3);
	leave(stranger, false);
	sockets[0].err = -EBADF; /* the process is there, and has no such descriptor */
	put(q, SSLC_SHIM_HOLD, 0, 5, 0, 0, 0);
	bind_to(q, 1, 5, 0, 0, 0);
	put_data(q, 1, SSLC_DIR_OUT, 0, 3);
	assert_seen("open1 ");
}

/* q is gone, too, and has left; its own parent goes on with the connection. */
static void test_a_grandchild_is_believed_about_its_grandparents(void **state)
{
	const struct shimproc_conf grandchild = {.pid = 103, .kin = 8};
	struct shimproc *g;

	(void)state;
	bind_to(p, 1, 5, 0, 0, 0);
	put(p, SSLC_SHIM_FORK, 0, 0, 0, 9, 0);
	bind_to(p, 2, 6, 0, 0, 0);
	sockets[0].err = sockets[1].err = -ESRCH;
	put(q, SSLC_SHIM_HOLD, 0, 5, 0, 0, 0);
	put(q, SSLC_SHIM_FORK, 0, 0, 0, 8, 0);
	g = shimflows_join(t, &grandchild);
	put(g, SSLC_SHIM_HOLD, 0, 6, 0, 0, 0); /* which q never had */
	leave(q, true);
	q = NULL;
	put(g, SSLC_SHIM_HOLD, 0, 6, 0, 0, 0); /* nor its parent then */
	put(g, SSLC_SHIM_HOLD, 0, 5, 0, 0, 0);
	bind_to(g, 1, 5, 0, 0, 0);
	bind_to(g, 2, 6, 0, 0, 0);
	put_data(g, 1, SSLC_DIR_OUT, 0, 3);
	put_data(g, 2, SSLC_DIR_OUT, 0, 3);
	leave(g, false);
	assert_seen("open1 open2 data1:out0+3 ");
}

static void test_the_parent_may_have_closed_it_by_then(void **state)
{
	(void)state;
	bind_to(p, 1, 5, 0, 0, 0);
	put(p, SSLC_SHIM_FORK, 0, 0, 0, 9, 0);
	r.rec = (struct sslc_shim_rec){.type = SSLC_SHIM_END,
				       .fd = 5,
				       .pos2 = SSLC_SOCK_DESTROYED,
				       .flags = SSLC_SHIM_FORKED,
				       .ts_ns = clock_ns};
	shimflows_record(t, p, &r);
	sockets[0].err = -ESRCH;
	put(q, SSLC_SHIM_HOLD, 0, 5, 0, 0, 0);
	bind_to(q, 1, 5, 0, 0, 0);
	put_data(q, 1, SSLC_DIR_OUT, 0, 3);
	leave(q, false);
	q = NULL;
	assert_seen("open1 data1:out0+3 fin1 destroyed1 ");
}

static void test_a_reset_is_no_end_of_ours(void **state)
{
	(void)state;
	bind_to(p, 1, 5, 0, 0, 0);
	ends(p, 5, 0, SSLC_SOCK_RST_IN);
	ends(p, 5, 0, SSLC_SOCK_ERROR);
	ends(p, 5, 0, 99);
	ends(p, 5, 0, SSLC_SOCK_DESTROYED);
	assert_seen("open1 rst1 error1 destroyed1 ");
}

static void test_what_was_said_before_tls_comes_first(void **state)
{
	(void)state;
	put_clear(p, 1, SSLC_DIR_IN, 0, 10);
	put_clear(p, 1, SSLC_DIR_OUT, 0, 20);
	put_clear(p, 2, SSLC_DIR_IN, 0, 30); /* another one's, between them */
	assert_seen("");
	bind_to(p, 1, 5, 0, 0, 0);
	put_data(p, 1, SSLC_DIR_OUT, 0, 3);
	assert_seen("clear1:in0+10 clear1:out0+20 open1 data1:out0+3 ");
	bind_to(p, 2, 6, 0, 0, 0);
	assert_seen("clear2:in0+30 open2 ");
	put_clear(p, 3, SSLC_DIR_IN, 0, 10); /* a connection that is known already */
	bind_to(p, 3, 6, 0, 0, 0);
	assert_seen("");
	put_clear(p, 3, SSLC_DIR_IN, 0, 10); /* and an object that has one */
	bind_to(p, 3, 5, 0, 0, 0);
	assert_seen("");
}

static void test_what_is_missing_before_tls_is_said(void **state)
{
	(void)state;
	put_clear(p, 1, SSLC_DIR_IN, 0, 10);
	r.rec = (struct sslc_shim_rec){.type = SSLC_SHIM_BIND,
				       .obj = 1,
				       .life = 1,
				       .fd = 5,
				       .flags = SSLC_SHIM_CUT,
				       .ts_ns = ++clock_ns};
	shimflows_record(t, p, &r);
	assert_seen("clear1:in0+10 clear1:in16384+1 open1 ");
	for (uint64_t i = 0; i < SHIMFLOW_CLEAR_MAX / 16384 + 1; i++)
		put_clear(p, 100 + i, SSLC_DIR_IN, 0, 16384);
	bind_to(p, 100 + SHIMFLOW_CLEAR_MAX / 16384, 6, 0, 0, 0);
	assert_seen("clear2:in16384+1 open2 ");
	put(p, SSLC_SHIM_FORGET, 100, 0, 0, 0, 0); /* gives back what it had, as the end does */
}

static void test_unwanted_bytes_stay_in_the_process(void **state)
{
	(void)state;
	bind_to(p, 1, 6, 4, 0, 0);
	shimflows_skip(t, ids[0]);
	assert_int_equal(skipped_fd, 4006);
	skipped_fd = 0;
	shimflows_skip(t, ids[0] + 1);
	ends(p, 6, 4, SSLC_SOCK_DESTROYED);
	shimflows_skip(t, ids[0]);
	assert_int_equal(skipped_fd, 0);
}

static void test_early_data_are_told_with_their_connection(void **state)
{
	(void)state;
	put(p, SSLC_SHIM_EARLY, 1, 0, 0, 0, 1);
	bind_to(p, 1, 5, 0, 0, 0);
	put(p, SSLC_SHIM_EARLY, 1, 0, 0, 0, 1);
	put(p, SSLC_SHIM_EARLY, 1, 0, 0, 0, 0);
	assert_seen("open1 early1:1 early1:0 ");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
	const struct CMUnitTest tests[] = {
		TEST(test_a_connection_opens_speaks_and_ends),
		TEST(test_holes_have_their_exact_size),
		TEST(test_an_object_that_is_bound_late_says_so),
		TEST(test_objects_follow_each_other_on_one_connection),
		TEST(test_a_number_that_is_used_again_is_another_connection),
		TEST(test_what_the_kernel_does_not_confirm_is_not_told),
		TEST(test_a_socket_lives_until_its_last_holder_closes_it),
		TEST(test_a_childs_word_may_be_late),
		TEST(test_a_reset_is_no_end_of_ours),
		TEST(test_what_was_said_before_tls_comes_first),
		TEST(test_what_is_missing_before_tls_is_said),
		TEST(test_unwanted_bytes_stay_in_the_process),
		TEST(test_early_data_are_told_with_their_connection),
		TEST(test_a_grandchild_is_believed_about_its_grandparents),
		TEST(test_the_parent_may_have_closed_it_by_then),
		TEST(test_but_not_about_what_the_parent_got_later),
		TEST(test_nobody_else_is),
		TEST(test_a_child_that_is_gone_is_believed_about_its_parents_connections),
		TEST(test_an_end_that_was_not_told_is_no_good_one),
		TEST(test_who_is_killed_while_it_sends_ends_by_a_reset),
		TEST(test_who_lost_more_than_was_seen_ends_by_a_reset),
		TEST(test_last_bytes_that_were_lost_are_a_hole_before_the_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
