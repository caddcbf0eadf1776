/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ship: order, acknowledgement, resending, a new collector, shedding of whole flows, lost memory,
 * and two threads. The peer here keeps, for each flow, what a collector would have got. Includes
 * ship.c to make malloc() fail and to read its counters.
 */
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static size_t malloc_limit = (size_t)-1; /* larger requests fail */

static void *limited_malloc(size_t n)
{
	return n > malloc_limit ? NULL : malloc(n);
}
#define malloc limited_malloc
#include "uplink/ship.c"
#undef malloc

#define FLOWS 64

struct peer { /* what has arrived, by flow id */
	struct {
		unsigned opens, retold, fins, closes, end;
		uint64_t bytes, gaps;
	} flow[FLOWS];
	uint64_t last_seq;
	unsigned stats, unknown; /* frames of a flow not open at that moment */
};

static void peer_data(struct peer *p, const struct frame *f)
{
	struct frame_data m;

	assert_int_equal(frame_get_data(f, &m), 0);
	assert_true(m.offset ==
		    p->flow[m.flow].bytes + p->flow[m.flow].gaps); /* no byte missing, none twice */
	for (size_t i = 0; i < m.bytes.len; i++)
		if (m.bytes.p[i] != (uint8_t)((m.offset + i) * 7 + m.flow))
			fail_msg("wrong byte at %lu", (unsigned long)(m.offset + i));
	p->flow[m.flow].bytes += m.bytes.len;
}

static void peer_frame(struct peer *p, const struct frame *f)
{
	uint64_t id = frame_flow(f);
	struct frame_flow_open open;
	struct frame_flow_close close_m;
	struct frame_gap gap;

	assert_in_range(id, 0, FLOWS - 1);
	if (f->type == FRAME_FLOW_OPEN) {
		assert_int_equal(frame_get_flow_open(f, &open), 0);
		p->flow[id].opens++;
		p->flow[id].retold += open.flags & FLOW_OPEN_RESUMED ? 1 : 0;
		return;
	}
	p->unknown += id && p->flow[id].opens == p->flow[id].closes;
	if (f->type == FRAME_DATA) {
		peer_data(p, f);
	} else if (f->type == FRAME_GAP) {
		assert_int_equal(frame_get_gap(f, &gap), 0);
		p->flow[id].gaps += gap.len;
	} else if (f->type == FRAME_FLOW_FIN) {
		p->flow[id].fins++;
	} else if (f->type == FRAME_FLOW_CLOSE) {
		assert_int_equal(frame_get_flow_close(f, &close_m), 0);
		p->flow[id].closes++;
		p->flow[id].end = close_m.end;
	} else {
		assert_int_equal(f->type, FRAME_STATS);
		p->stats++;
	}
}

static void peer_frames(struct peer *p, struct span in)
{
	struct frame f;
	size_t at = 0;
	ssize_t n;

	while (at < in.len && (n = frame_decode(span_of(in.p + at, in.len - at), &f)) > 0) {
		peer_frame(p, &f);
		at += (size_t)n;
	}
	assert_int_equal(at, in.len);
}

/* Send all blocks there are. Returns how many. */
static unsigned send_all(struct ship *s, struct peer *p)
{
	struct ship_block b;
	unsigned n = 0;

	for (; ship_take(s, &b); n++) {
		if (b.seq > p->last_seq) {
			assert_true(b.seq == p->last_seq + 1 || !p->last_seq);
			peer_frames(p, b.frames);
			p->last_seq = b.seq;
		}
		ship_return(s, true);
	}
	return n;
}

static struct ship *ship_of(size_t max)
{
	struct ship *s = NULL;

	assert_int_equal(ship_new(&s, max), 0);
	return s;
}

static void open_flow(struct ship *s, uint64_t id)
{
	ship_flow_open(s, &(struct frame_flow_open){.flow = id,
						    .ts_ns = 1,
						    .transport = 6,
						    .family = 4,
						    .comm = span_str("curl")});
}

static void close_flow(struct ship *s, uint64_t id)
{
	ship_flow_close(s, &(struct frame_flow_close){.flow = id, .ts_ns = 3, .end = FLOW_END_FIN});
}

/* `len` bytes of flow `id` at `offset`, which peer_data() knows. */
static void send_data(struct ship *s, uint64_t id, uint64_t offset, size_t len)
{
	uint8_t *p = malloc(len);

	assert_non_null(p);
	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)((offset + i) * 7 + id);
	ship_data(s, &(struct frame_data){.flow = id,
					  .offset = offset,
					  .ts_ns = 2,
					  .flags = FRAME_DATA_END,
					  .bytes = span_of(p, len)});
	free(p);
}

static bool is_readable(struct ship *s)
{
	struct pollfd p = {.fd = ship_wake_fd(s), .events = POLLIN};

	return poll(&p, 1, 0) == 1;
}

static void test_frames_arrive_in_order_and_are_forgotten_when_acknowledged(void **state)
{
	struct ship *s = ship_of(1 << 20);
	struct peer p = {0};

	(void)state;
	assert_true(ship_is_empty(s));
	open_flow(s, 1);
	send_data(s, 1, 0, 1000);
	ship_gap(s, &(struct frame_gap){.flow = 1, .offset = 1000, .len = 50, .dir = 0});
	send_data(s, 1, 1050, 10);
	ship_flow_fin(s, &(struct frame_flow_fin){.flow = 1});
	close_flow(s, 1);
	ship_stats(s, &(struct frame_stats){.name = span_str("x"), .value = 3});
	assert_false(ship_is_empty(s));
	assert_int_equal(send_all(s, &p), 0); /* not sealed yet */
	ship_flush(s);
	ship_flush(s); /* nothing more */
	assert_int_equal(send_all(s, &p), 1);
	assert_int_equal(p.flow[1].opens, 1);
	assert_int_equal(p.flow[1].bytes, 1010);
	assert_int_equal(p.flow[1].gaps, 50);
	assert_int_equal(p.flow[1].fins, 1);
	assert_int_equal(p.flow[1].end, FLOW_END_FIN);
	assert_int_equal(p.stats, 1);
	assert_int_equal(p.unknown, 0);
	assert_false(ship_is_empty(s));
	assert_int_equal(ship_first_seq(s), 1);
	ship_ack(s, 1);
	assert_true(ship_is_empty(s));
	assert_int_equal(ship_first_seq(s), 2);
	assert_int_equal(s->held, 0);
	assert_int_equal(s->flows.count, 0);
	assert_int_equal(counter_get(&bytes_queued), 0);
	ship_free(s);
}

static void test_the_wake_descriptor_is_readable_while_a_block_waits(void **state)
{
	struct ship *s = ship_of(1 << 20);
	struct ship_block b;

	(void)state;
	assert_false(is_readable(s));
	open_flow(s, 1);
	assert_false(is_readable(s));
	ship_flush(s);
	assert_true(is_readable(s));
	assert_true(ship_take(s, &b));
	ship_return(s, false);
	assert_true(is_readable(s));
	assert_true(ship_take(s, &b));
	assert_int_equal(b.seq, 1);
	ship_return(s, true);
	assert_false(ship_take(s, &b));
	assert_false(is_readable(s));
	ship_free(s);
}

static void test_long_data_is_cut_and_only_its_last_frame_ends_the_message(void **state)
{
	struct ship *s = ship_of(1 << 20);
	struct ship_block b;
	struct frame f;
	struct frame_data m;
	size_t at = 0, frames = 0;

	(void)state;
	open_flow(s, 1);
	send_data(s, 1, 0, 2 * FRAME_DATA_MAX + 1);
	ship_flush(s);
	assert_true(ship_take(s, &b));
	while (at < b.frames.len) {
		at += (size_t)frame_decode(span_of(b.frames.p + at, b.frames.len - at), &f);
		if (f.type != FRAME_DATA)
			continue;
		assert_int_equal(frame_get_data(&f, &m), 0);
		assert_int_equal(m.offset, frames * FRAME_DATA_MAX);
		assert_int_equal(m.flags, ++frames == 3 ? FRAME_DATA_END : 0);
	}
	assert_int_equal(frames, 3);
	ship_return(s, true);
	ship_free(s);
}

static void test_a_block_is_sealed_at_its_target_size(void **state)
{
	struct ship *s = ship_of(8 << 20);
	struct peer p = {0};
	struct ship_block b;

	(void)state;
	open_flow(s, 1);
	send_data(s, 1, 0, 1 << 20);
	assert_true(is_readable(s));
	assert_true(ship_take(s, &b));
	assert_in_range(b.frames.len, SHIP_BLOCK_TARGET, CURRENT_MAX);
	ship_return(s, false);
	ship_flush(s);
	assert_int_equal(send_all(s, &p), 4);
	assert_int_equal(p.flow[1].bytes, 1 << 20);
	ship_free(s);
}

static void test_memory_of_full_blocks_is_used_again_and_forgets_what_it_held(void **state)
{
	struct ship *s = ship_of(8 << 20);
	static const uint8_t zero[1000];
	struct peer p = {0};
	const uint8_t *mine;

	(void)state;
	open_flow(s, 1);
	send_data(s, 1, 0, 1 << 20); /* four full blocks */
	ship_flush(s);
	assert_int_equal(send_all(s, &p), 4);
	assert_int_equal(s->n_spares, 0);
	ship_ack(s, p.last_seq);
	assert_int_equal(s->n_spares, 4);
	mine = s->spares[3].p;
	assert_memory_not_equal(mine, zero, sizeof(zero));
	ship_tidy(s);
	for (unsigned i = 0; i < 4; i++)
		for (size_t at = 0; at < SHIP_BLOCK_TARGET; at += sizeof(zero))
			assert_memory_equal(s->spares[i].p + at, zero, sizeof(zero));
	send_data(s, 1, 1 << 20, 300 << 10);
	assert_ptr_equal(s->current.p, mine); /* the one freed last comes first */
	ship_flush(s);
	send_all(s, &p);
	assert_int_equal(p.flow[1].bytes, (1 << 20) + (300 << 10));
	ship_free(s);
}

static void test_how_much_waits_is_told(void **state)
{
	struct ship *s = ship_of(1 << 20);
	struct peer p = {0};
	struct ship_block b;

	(void)state;
	open_flow(s, 1);
	ship_flush(s);
	for (unsigned i = 0; i < 3; i++) {
		assert_false(ship_is_crowded(s));
		send_data(s, 1, i * 250000, 250000);
		ship_flush(s);
	}
	assert_false(ship_is_crowded(s));
	send_data(s, 1, 750000, 50000);
	assert_true(ship_is_crowded(s));
	assert_true(ship_take(s, &b));
	assert_int_equal(b.behind, 3);
	ship_return(s, false);
	ship_flush(s);
	assert_int_equal(send_all(s, &p), 5);
	assert_true(ship_is_crowded(s)); /* until it is acknowledged */
	ship_ack(s, p.last_seq);
	assert_false(ship_is_crowded(s));
	ship_free(s);
}

static void test_after_a_break_only_what_is_missing_is_sent_again(void **state)
{
	struct ship *s = ship_of(1 << 20);
	struct peer p = {0};
	struct ship_block b;
	struct buf reopen;
	uint64_t before = counter_get(&blocks_resent);

	(void)state;
	buf_init(&reopen, 1 << 16);
	open_flow(s, 1);
	for (uint64_t i = 0; i < 5; i++) {
		send_data(s, 1, i * 100, 100);
		ship_flush(s);
	}
	assert_int_equal(send_all(s, &p), 5);
	ship_ack(s, 1);
	assert_int_equal(ship_rewind(s, 3, false, &reopen), 0);
	assert_int_equal(reopen.len, 0);
	assert_int_equal(ship_first_seq(s), 4);
	assert_true(is_readable(s));
	assert_true(ship_take(s, &b));
	assert_int_equal(b.seq, 4);
	ship_return(s, true);
	assert_true(ship_take(s, &b));
	assert_int_equal(b.seq, 5);
	ship_return(s, true);
	assert_false(ship_take(s, &b));
	assert_int_equal(counter_get(&blocks_resent) - before, 2);
	ship_free(s);
	buf_fini(&reopen);
}

static void test_an_acknowledgement_of_what_was_never_sent_frees_nothing(void **state)
{
	struct ship *s = ship_of(1 << 20);
	struct peer p = {0};
	struct buf reopen;

	(void)state;
	buf_init(&reopen, 1 << 16);
	open_flow(s, 1);
	send_data(s, 1, 0, 100);
	ship_flush(s);
	ship_ack(s, 99);
	assert_int_equal(ship_rewind(s, UINT64_MAX, false, &reopen), 0);
	assert_int_equal(ship_first_seq(s), 1);
	assert_int_equal(send_all(s, &p), 1);
	assert_int_equal(p.flow[1].bytes, 100);
	ship_free(s);
	buf_fini(&reopen);
}

static void test_a_lent_block_stays_valid_until_it_is_returned(void **state)
{
	struct ship *s = ship_of(1 << 20);
	struct peer p = {0};
	struct ship_block b;

	(void)state;
	open_flow(s, 1);
	send_data(s, 1, 0, 100);
	ship_flush(s);
	assert_true(ship_take(s, &b));
	ship_ack(s, 1);
	peer_frames(&p, b.frames); /* a sanitizer would see freed memory */
	assert_int_equal(p.flow[1].bytes, 100);
	ship_return(s, true);
	assert_true(ship_is_empty(s));
	ship_free(s);
}

static void test_a_new_collector_is_told_the_open_flows_it_cannot_know(void **state)
{
	struct ship *s = ship_of(1 << 20);
	struct peer old = {0}, new = {0};
	struct buf reopen;

	(void)state;
	buf_init(&reopen, 1 << 16);
	open_flow(s, 1); /* open, acknowledged */
	open_flow(s, 2); /* acknowledged, its close is not */
	open_flow(s, 3); /* over and done with */
	send_data(s, 1, 0, 100);
	close_flow(s, 3);
	ship_flush(s);
	send_all(s, &old);
	ship_ack(s, 1);
	open_flow(s, 4); /* its open is in a block that will be sent again */
	close_flow(s, 2);
	ship_flush(s);
	send_all(s, &old);
	assert_int_equal(ship_rewind(s, 0, true, &reopen), 0);
	peer_frames(&new, buf_span(&reopen));
	assert_int_equal(new.flow[1].retold, 1);
	assert_int_equal(new.flow[2].retold, 1);
	assert_int_equal(new.flow[3].opens, 0);
	assert_int_equal(new.flow[4].opens, 0);
	assert_int_equal(send_all(s, &new), 1);
	assert_int_equal(new.flow[4].opens, 1);
	assert_int_equal(new.flow[4].retold, 0);
	assert_int_equal(new.flow[2].closes, 1);
	assert_int_equal(new.unknown, 0);
	ship_free(s);
	buf_fini(&reopen);
}

static void test_a_collector_that_forgot_what_it_acknowledged_is_told_too(void **state)
{
	struct ship *s = ship_of(1 << 20);
	struct peer p = {0}, later = {0};
	struct buf reopen;

	(void)state;
	buf_init(&reopen, 1 << 16);
	open_flow(s, 1);
	ship_flush(s);
	send_all(s, &p);
	ship_ack(s, 1);
	assert_int_equal(ship_rewind(s, 1, false, &reopen), 0);
	assert_int_equal(reopen.len, 0);
	assert_int_equal(ship_rewind(s, 0, false, &reopen), 0);
	peer_frames(&later, buf_span(&reopen));
	assert_int_equal(later.flow[1].retold, 1);
	assert_int_equal(ship_first_seq(s), 2); /* what was acknowledged stays so */
	ship_free(s);
	buf_fini(&reopen);
}

static void test_rewind_says_when_reopen_is_too_small(void **state)
{
	struct ship *s = ship_of(1 << 20);
	struct peer p = {0};
	struct buf reopen;

	(void)state;
	buf_init(&reopen, 50);
	open_flow(s, 1);
	ship_flush(s);
	send_all(s, &p);
	ship_ack(s, 1);
	assert_int_equal(ship_rewind(s, 1, true, &reopen), -EMSGSIZE);
	buf_fini(&reopen);
	ship_free(s);
}

/* Queue 100 KiB for each flow from..to in turn, sealed in blocks. */
static void queue_flows(struct ship *s, unsigned from, unsigned to)
{
	for (unsigned id = from; id <= to; id++) {
		open_flow(s, id);
		send_data(s, id, 0, 100 << 10);
		ship_flush(s);
		assert_true(s->held <= s->max_bytes);
	}
}

static void test_a_full_queue_drops_whole_flows_oldest_first_and_counts_them(void **state)
{
	struct ship *s = ship_of(1 << 20);
	struct peer p = {0};
	uint64_t flows = counter_get(&flows_shed), bytes = counter_get(&bytes_shed), arrived = 0;
	unsigned shed = 0;

	(void)state;
	queue_flows(s, 1, 20);
	for (unsigned id = 1; id <= 20; id++)
		close_flow(s, id);
	ship_flush(s);
	send_all(s, &p);
	for (unsigned id = 1; id <= 20; id++) {
		arrived += p.flow[id].bytes;
		shed += !p.flow[id].opens;
		if (p.flow[id].opens) { /* whole, or not at all; once one is there all newer ones
					   are */
			assert_int_equal(p.flow[id].bytes, 100 << 10);
			assert_int_equal(p.flow[id].end, FLOW_END_FIN);
			assert_int_equal(shed, counter_get(&flows_shed) - flows);
		}
	}
	assert_in_range(shed, 10, 14);
	assert_int_equal(p.unknown, 0);
	assert_int_equal(arrived + counter_get(&bytes_shed) - bytes, 20 * (100 << 10));
	ship_ack(s, p.last_seq);
	assert_true(ship_is_empty(s));
	assert_int_equal(s->held, 0);
	assert_int_equal(s->flows.count, 0);
	ship_free(s);
}

static void test_a_flow_that_the_peer_knows_gets_a_close_when_it_is_shed(void **state)
{
	struct ship *s = ship_of(1 << 20);
	struct peer p = {0};
	uint64_t bytes = counter_get(&bytes_shed);

	(void)state;
	open_flow(s, 30);
	send_data(s, 30, 0, 1000);
	ship_flush(s);
	send_all(s, &p);
	ship_ack(s, 1);
	send_data(s, 30, 1000, 1000); /* oldest queued data */
	queue_flows(s, 1, 12);
	send_data(s, 30, 2000, 500); /* after its end: dropped and counted */
	close_flow(s, 30);           /* the producer's close adds nothing */
	ship_flush(s);
	send_all(s, &p);
	assert_int_equal(p.flow[30].bytes, 1000);
	assert_int_equal(p.flow[30].closes, 1);
	assert_int_equal(p.flow[30].end, FLOW_END_SHED);
	assert_int_equal(p.unknown, 0);
	assert_true(counter_get(&bytes_shed) - bytes >= 1500);
	ship_ack(s, p.last_seq);
	assert_null(flow_find(s, 30));
	ship_free(s);
}

static void test_a_block_emptied_by_shedding_keeps_its_number(void **state)
{
	struct ship *s = ship_of(1 << 20);
	struct peer p = {0};
	struct ship_block b;

	(void)state;
	queue_flows(s, 1, 11); /* the first blocks lose all they hold */
	assert_true(ship_take(s, &b));
	assert_int_equal(b.seq, 1);
	assert_int_equal(b.frames.len, 0);
	ship_return(s, false);
	assert_int_equal(send_all(s, &p), 11); /* send_all() checks that there is no hole */
	ship_free(s);
}

static void test_a_lent_block_is_not_changed_by_shedding(void **state)
{
	struct ship *s = ship_of(1 << 20);
	struct peer p = {0}, all = {0};
	struct ship_block b;

	(void)state;
	open_flow(s, 40);
	send_data(s, 40, 0, 50 << 10);
	ship_flush(s);
	assert_true(ship_take(s, &b));
	queue_flows(s, 1, 15);
	peer_frames(&p, b.frames);
	assert_int_equal(p.flow[40].bytes, 50 << 10);
	ship_return(s, false);
	ship_flush(s);
	send_all(s, &all);
	assert_int_equal(all.flow[40].bytes, 50 << 10);
	assert_int_equal(all.unknown, 0);
	ship_free(s);
}

static void test_a_single_flow_over_the_bound_is_shed(void **state)
{
	struct ship *s = ship_of(1 << 20);
	struct peer p = {0};
	uint64_t bytes = counter_get(&bytes_shed);

	(void)state;
	open_flow(s, 1);
	send_data(s, 1, 0, 3 << 20);
	send_data(s, 1, 3 << 20, 100);
	close_flow(s, 1);
	ship_flush(s);
	send_all(s, &p);
	assert_int_equal(p.flow[1].opens, 0);
	assert_int_equal(counter_get(&bytes_shed) - bytes, (3 << 20) + 100);
	open_flow(s, 2); /* and there is room again */
	send_data(s, 2, 0, 1000);
	ship_flush(s);
	send_all(s, &p);
	assert_int_equal(p.flow[2].bytes, 1000);
	ship_free(s);
}

static void test_too_many_flows_for_the_bound_are_refused_and_counted(void **state)
{
	struct ship *s = ship_of(5000);
	uint64_t flows = counter_get(&flows_shed), lost = counter_get(&bytes_no_flow);
	struct peer p = {0};
	unsigned opens = 0;

	(void)state;
	for (unsigned id = 1; id < FLOWS; id++) {
		open_flow(s, id);
		assert_true(s->held <= 5000);
	}
	send_data(s, FLOWS - 1, 0, 77);
	for (unsigned id = 1; id < FLOWS; id++) {
		close_flow(s, id);
		ship_flush(s); /* a block each: within the bound all the same */
		assert_true(s->held <= 5000);
	}
	send_all(s, &p);
	for (unsigned id = 1; id < FLOWS; id++) {
		opens += p.flow[id].opens;
		assert_int_equal(p.flow[id].opens, p.flow[id].closes);
	}
	assert_in_range(opens, 5, 20);
	assert_int_equal(counter_get(&flows_shed) - flows, FLOWS - 1 - opens);
	assert_int_equal(counter_get(&bytes_no_flow) - lost, 77);
	ship_free(s);
}

static void test_frames_of_a_flow_that_is_not_open_are_counted_not_sent(void **state)
{
	struct ship *s = ship_of(1 << 20);
	uint64_t lost = counter_get(&bytes_no_flow);

	(void)state;
	send_data(s, 9, 0, 10);
	close_flow(s, 9);
	open_flow(s, 1);
	close_flow(s, 1);
	send_data(s, 1, 0, 5);
	assert_int_equal(counter_get(&bytes_no_flow) - lost, 15);
	ship_free(s);
}

static void test_without_memory_for_a_block_its_flows_are_dropped_and_counted(void **state)
{
	struct ship *s = ship_of(8 << 20);
	struct peer p = {0};
	uint64_t lost = counter_get(&bytes_lost_memory), shed = counter_get(&bytes_shed);

	(void)state;
	open_flow(s, 1);
	ship_flush(s);
	send_all(s, &p); /* flow 1 is known */
	malloc_limit = 1000;
	open_flow(s, 2); /* flow 2 is not */
	send_data(s, 2, 0, 3000);
	send_data(s, 1, 0, 5000);
	ship_flush(s);
	malloc_limit = (size_t)-1;
	assert_int_equal(counter_get(&bytes_lost_memory) - lost, 8000);
	send_data(s, 1, 5000, 10);
	assert_int_equal(counter_get(&bytes_shed) - shed, 10);
	close_flow(s, 1);
	close_flow(s, 2);
	open_flow(s, 3);
	send_data(s, 3, 0, 20);
	ship_flush(s);
	send_all(s, &p);
	assert_int_equal(p.flow[1].bytes, 0);
	assert_int_equal(p.flow[1].end, FLOW_END_SHED);
	assert_int_equal(p.flow[1].closes, 1);
	assert_int_equal(p.flow[2].opens, 0);
	assert_int_equal(p.flow[3].bytes, 20);
	assert_int_equal(p.unknown, 0);
	ship_ack(s, p.last_seq);
	assert_null(flow_find(s, 1));
	assert_null(flow_find(s, 2));
	ship_free(s);
}

static void test_without_memory_for_a_record_the_flow_is_not_opened(void **state)
{
	struct ship *s = ship_of(8 << 20);
	struct peer p = {0};
	uint64_t flows = counter_get(&flows_shed);

	(void)state;
	malloc_limit = 10;
	open_flow(s, 1);
	malloc_limit = (size_t)-1;
	send_data(s, 1, 0, 10);
	close_flow(s, 1);
	ship_flush(s);
	assert_int_equal(counter_get(&flows_shed) - flows, 1);
	assert_int_equal(send_all(s, &p), 0);
	ship_free(s);
}

static void test_memory_short_while_much_is_queued_never_breaks_the_bound(void **state)
{
	struct ship *s = ship_of(300 << 10);
	struct peer p = {0};
	struct buf reopen;
	uint32_t dice = 1;
	uint64_t offset[FLOWS] = {0}, gone = 0;
	bool is_open[FLOWS] = {false};

	(void)state;
	buf_init(&reopen, 1 << 20);
	for (unsigned i = 0; i < 20000; i++) {
		unsigned id = 1 + (dice = dice * 1664525u + 1013904223u) / 65536 % (FLOWS - 1),
			 what = dice >> 8 & 63;

		malloc_limit = what == 60 ? 200 : (size_t)-1;
		if (!is_open[id] && p.flow[id].opens == 0 && !flow_find(s, id)) {
			open_flow(s, id);
			is_open[id] = true;
		} else if (what < 56) {
			send_data(s, id, offset[id], 1 + (dice >> 7) % 9000);
			offset[id] += 1 + (dice >> 7) % 9000;
		} else if (what < 61) {
			ship_flush(s);
		} else if (what == 61) {
			struct ship_block b;

			if (ship_take(s, &b)) {
				gone = b.seq;
				ship_return(s, dice & 1);
			}
		} else if (what == 62) {
			ship_ack(s, gone);
		} else if (!(dice & 7)) {
			buf_reset(&reopen);
			assert_int_equal(ship_rewind(s, gone / 2, true, &reopen), 0);
		} else {
			close_flow(s, id);
		}
		assert_true(s->held <= s->max_bytes + 8 * CLOSE_RESERVE);
	}
	malloc_limit = (size_t)-1;
	ship_free(s);
	assert_int_equal(counter_get(&bytes_queued), 0); /* everything held was accounted for */
	buf_fini(&reopen);
}

#define THREAD_FLOWS 40
#define THREAD_BYTES (256 << 10)

static void *produce(void *arg)
{
	struct ship *s = arg;

	for (uint64_t id = 1; id <= THREAD_FLOWS; id++) {
		open_flow(s, id);
		for (uint64_t at = 0; at < THREAD_BYTES; at += 4096) {
			send_data(s, id, at, 4096);
			if (at % (64 << 10) == 0)
				ship_flush(s);
		}
		close_flow(s, id);
	}
	ship_flush(s);
	return NULL;
}

static void test_two_threads_lose_nothing_over_breaks(void **state)
{
	struct ship *s = ship_of(64 << 20);
	struct peer *p = calloc(1, sizeof(*p));
	struct buf reopen;
	pthread_t producer;
	unsigned rounds = 0;

	(void)state;
	assert_non_null(p);
	buf_init(&reopen, 1 << 20);
	assert_int_equal(pthread_create(&producer, NULL, produce, s), 0);
	while (!p->flow[THREAD_FLOWS].closes) {
		struct pollfd pfd = {.fd = ship_wake_fd(s), .events = POLLIN};

		assert_true(poll(&pfd, 1, 30000) == 1);
		send_all(s, p);
		if (++rounds % 3 == 0)
			assert_int_equal(ship_rewind(s, p->last_seq > 2 ? p->last_seq - 2 : 0,
						     false, &reopen),
					 0);
		else
			ship_ack(s, p->last_seq);
	}
	pthread_join(producer, NULL);
	send_all(s, p);
	ship_ack(s, p->last_seq);
	for (unsigned id = 1; id <= THREAD_FLOWS; id++) {
		assert_int_equal(p->flow[id].bytes, THREAD_BYTES);
		assert_int_equal(p->flow[id].closes, 1);
	}
	assert_int_equal(p->unknown, 0);
	assert_true(ship_is_empty(s));
	ship_free(s);
	buf_fini(&reopen);
	free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_frames_arrive_in_order_and_are_forgotten_when_acknowledged),
		cmocka_unit_test(test_the_wake_descriptor_is_readable_while_a_block_waits),
		cmocka_unit_test(test_long_data_is_cut_and_only_its_last_frame_ends_the_message),
		cmocka_unit_test(test_a_block_is_sealed_at_its_target_size),
		cmocka_unit_test(test_memory_of_full_blocks_is_used_again_and_forgets_what_it_held),
		cmocka_unit_test(test_how_much_waits_is_told),
		cmocka_unit_test(test_after_a_break_only_what_is_missing_is_sent_again),
		cmocka_unit_test(test_an_acknowledgement_of_what_was_never_sent_frees_nothing),
		cmocka_unit_test(test_a_lent_block_stays_valid_until_it_is_returned),
		cmocka_unit_test(test_a_new_collector_is_told_the_open_flows_it_cannot_know),
		cmocka_unit_test(test_a_collector_that_forgot_what_it_acknowledged_is_told_too),
		cmocka_unit_test(test_rewind_says_when_reopen_is_too_small),
		cmocka_unit_test(test_a_full_queue_drops_whole_flows_oldest_first_and_counts_them),
		cmocka_unit_test(test_a_flow_that_the_peer_knows_gets_a_close_when_it_is_shed),
		cmocka_unit_test(test_a_block_emptied_by_shedding_keeps_its_number),
		cmocka_unit_test(test_a_lent_block_is_not_changed_by_shedding),
		cmocka_unit_test(test_a_single_flow_over_the_bound_is_shed),
		cmocka_unit_test(test_too_many_flows_for_the_bound_are_refused_and_counted),
		cmocka_unit_test(test_frames_of_a_flow_that_is_not_open_are_counted_not_sent),
		cmocka_unit_test(test_without_memory_for_a_block_its_flows_are_dropped_and_counted),
		cmocka_unit_test(test_without_memory_for_a_record_the_flow_is_not_opened),
		cmocka_unit_test(test_memory_short_while_much_is_queued_never_breaks_the_bound),
		cmocka_unit_test(test_two_threads_lose_nothing_over_breaks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
