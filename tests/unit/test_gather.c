/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gather: what forge has put onto the end of frames is, cut, the same packets as a strict reader
 * wants them; what does not follow on a frame leaves it as it is.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "../../collector/forge.h"
#include "../../collector/sinks/gather.h"
#include "packet_check.h"

#define HEAD 54u /* Ethernet, IPv4, TCP */

/* One frame waits, as the last one of a batch does. */
struct rig {
	struct check check;
	struct forge_flow flow;
	uint16_t segment, waiting; /* of the frame at hand, of the one that waits */
	uint64_t said[2], frames, grown;
	size_t most, len;
	uint8_t frame[70000], scratch[FORGE_FRAME_MAX];
};

static uint8_t byte_at(int dir, uint64_t pos)
{
	return (uint8_t)(pos * 31 + (pos >> 9) + (unsigned)dir * 7);
}

static void leave(struct rig *r)
{
	if (!r->len)
		return;
	if (r->len > r->most)
		r->most = r->len;
	if (r->waiting)
		check_large(&r->check, r->frame, r->len, r->waiting, 1, true);
	else
		check_frame(&r->check, r->frame, r->len, 1, true);
	r->frames++;
	r->len = 0;
}

static void on_emit(void *ctx, struct span l2, uint64_t ts_ns, bool first)
{
	struct rig *r = ctx;

	(void)ts_ns;
	(void)first;
	leave(r);
	memcpy(r->frame, l2.p, l2.len);
	r->len = l2.len;
	r->waiting = r->segment;
}

static size_t on_more(void *ctx, struct span head, struct span payload, uint16_t segment,
		      uint16_t *ip_id)
{
	struct rig *r = ctx;
	size_t n = r->len ? gather(r->frame, r->len, head, payload.len, segment, ip_id) : 0;

	if (!n)
		return 0;
	memcpy(r->frame + r->len, payload.p, n);
	r->len += n;
	r->waiting = segment;
	r->grown++;
	return n;
}

static struct forge_out out_of(struct rig *r)
{
	return (struct forge_out){.emit = on_emit,
				  .more = on_more,
				  .ctx = r,
				  .segment = &r->segment,
				  .frame = r->scratch};
}

static struct rig *rig_new(uint8_t family, uint16_t vlan)
{
	struct rig *r = calloc(1, sizeof(*r));
	const struct frame_flow_open open = {.session = {1},
					     .family = family,
					     .client_addr = {10, 0, 0, 1},
					     .server_addr = {10, 0, 0, 2},
					     .client_port = 40000,
					     .server_port = 443};

	assert_non_null(r);
	forge_init(&r->flow, &open, 0, 1500);
	r->flow.vlan = vlan;
	r->check.mtu = 1500;
	r->check.is_large = true;
	r->check.pattern = byte_at;
	return r;
}

static void say(struct rig *r, enum flow_dir dir, size_t len, bool end)
{
	static uint8_t bytes[300000];
	struct forge_out out = out_of(r);

	for (size_t i = 0; i < len; i++)
		bytes[i] = byte_at((int)dir, r->said[dir] + i);
	r->said[dir] += len;
	forge_data(&r->flow, &out, dir, span_of(bytes, len), end, 1);
}

static void rig_end(struct rig *r)
{
	struct forge_out out = out_of(r);

	forge_fin(&r->flow, &out, FLOW_C2S, 1);
	forge_fin(&r->flow, &out, FLOW_S2C, 1);
	leave(r);
	assert_null(r->check.err);
	assert_int_equal(r->check.payload_bytes, r->said[0] + r->said[1]);
	assert_int_equal(check_open_flows(&r->check), 0);
	free(r);
}

static void test_what_grew_is_the_same_packets_when_it_is_cut(void **state)
{
	static const size_t lens[] = {1,     99,    1360, 1,    1460,  16384, 16384, 16384, 16384,
				      16384, 70000, 3,    2920, 64240, 1,     64239, 200000};

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		struct rig *r = rig_new(i & 1 ? 6 : 4, i & 2 ? 9 : 0);

		for (unsigned round = 0; round < 5; round++) {
			say(r, FLOW_C2S, 100, true);
			for (size_t k = 0; k < sizeof(lens) / sizeof(lens[0]); k++)
				say(r, FLOW_S2C, lens[(k + round) % 17], k % 3 > 0);
		}
		assert_true(r->grown > 20);
		assert_in_range(r->most, 64000, GATHER_MAX);
		rig_end(r);
	}
}

static void test_as_few_frames_as_can_be(void **state)
{
	struct rig *r = rig_new(4, 0);
	uint64_t before;

	(void)state;
	say(r, FLOW_C2S, 100, true);
	before = r->frames;
	for (unsigned i = 0; i < 6; i++)
		say(r, FLOW_S2C, 16384, true);
	leave(r);
	/* the request, the answer in two, the acknowledgement of the first of them */
	assert_int_equal(r->frames - before, 4);
	rig_end(r);
}

static void test_short_ones_grow_only_to_large_frames(void **state)
{
	struct rig *r = rig_new(4, 0);

	(void)state;
	for (unsigned i = 0; i < 14; i++)
		say(r, FLOW_S2C, 100, true); /* each alone: two of them are no large frame */
	assert_int_equal(r->grown, 0);
	say(r, FLOW_S2C, 1400, true);
	assert_int_equal(r->grown, 1);
	say(r, FLOW_S2C, 100, true);
	assert_int_equal(r->grown, 2);
	say(r, FLOW_C2S, 100, true);
	say(r, FLOW_S2C, 1400, true); /* the other side spoke */
	assert_int_equal(r->grown, 2);
	rig_end(r);
}

/* A gap, the other side's packets, an end: nothing goes on in front of them. */
static void test_nothing_grows_over_what_lies_between(void **state)
{
	struct rig *r = rig_new(4, 0);
	struct forge_out out = out_of(r);
	uint64_t grown;

	(void)state;
	say(r, FLOW_S2C, 5000, true);
	grown = r->grown;
	forge_gap(&r->flow, &out, FLOW_S2C, 1000, 1);
	r->said[FLOW_S2C] += 1000;
	say(r, FLOW_S2C, 5000, true);
	assert_int_equal(r->grown, grown);
	forge_poke(&r->flow, &out, FLOW_S2C, 1);
	say(r, FLOW_S2C, 5000, true);
	assert_int_equal(r->grown, grown);
	forge_fin(&r->flow, &out, FLOW_C2S, 1);
	say(r, FLOW_S2C, 5000, true);
	assert_int_equal(r->grown, grown);
	r->said[FLOW_S2C] -= 1000;
	rig_end(r);
}

/* Whatever byte of its headers differs that must not. */
static void test_what_is_not_its_next_does_not_go_there(void **state)
{
	struct rig *r = rig_new(4, 0);
	uint8_t front[HEAD + 3000], was[HEAD], head[HEAD];
	uint16_t id = 7;

	(void)state;
	say(r, FLOW_S2C, 3000, true);
	assert_int_equal(r->len, sizeof(front));
	memcpy(front, r->frame, sizeof(front));
	memcpy(was, front, HEAD);
	memcpy(head, front, HEAD);
	check_put(head + 38, check_be(front + 38, 4) >> 16);
	check_put(head + 40, check_be(front + 38, 4) + 3000);
	if (check_be(head + 38, 4) != check_be(front + 38, 4) + 3000)
		head[39]++; /* a carry */
	for (size_t i = 0; i < HEAD; i++) {
		bool is_free = (i >= 16 && i < 20) || i == 24 || i == 25 || i == 50 || i == 51 ||
			       i >= 52; /* lengths, id, checksums; the urgent pointer is 0 */

		head[i] ^= 0x40;
		if (!is_free)
			assert_int_equal(
				gather(front, sizeof(front), span_of(head, HEAD), 10, 1460, &id),
				0);
		head[i] ^= 0x40;
	}
	assert_memory_equal(front, was, HEAD);
	assert_int_equal(id, 7);
	assert_int_equal(gather(front, sizeof(front), span_of(head, HEAD - 1), 10, 1460, &id), 0);
	assert_int_equal(gather(front, HEAD, span_of(head, HEAD), 10, 1460, &id), 0);
	assert_int_equal(gather(front, sizeof(front), span_of(head, HEAD), 10, 1460, &id), 10);
	assert_int_equal((uint16_t)(id - check_be(was + 18, 2)), 3);
	rig_end(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_grew_is_the_same_packets_when_it_is_cut),
		cmocka_unit_test(test_as_few_frames_as_can_be),
		cmocka_unit_test(test_short_ones_grow_only_to_large_frames),
		cmocka_unit_test(test_nothing_grows_over_what_lies_between),
		cmocka_unit_test(test_what_is_not_its_next_does_not_go_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
