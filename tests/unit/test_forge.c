/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of collector/forge.c: every frame goes through the independent reader of
 * packet_check.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "forge.h"
#include "packet_check.h"

#define MB (1u << 20)

struct rig {
	struct check check;
	struct forge_flow flow;
	struct forge_out out;
	struct frame_flow_open open;
	uint64_t now;
	uint8_t frame[FORGE_FRAME_MAX];
	uint8_t kept[128];
	size_t kept_len;
};

static uint8_t pattern(int dir, uint64_t pos)
{
	return (uint8_t)(pos * 131 + (pos >> 8) * 7 + (unsigned)dir * 91);
}

static void on_emit(void *ctx, struct span l2, uint64_t ts_ns, bool first)
{
	struct rig *r = ctx;
	uint8_t *copy = malloc(l2.len); /* exact size: a read past the frame is seen by ASan */

	memcpy(copy, l2.p, l2.len);
	check_frame(&r->check, copy, l2.len, ts_ns, first);
	free(copy);
}

static struct rig *rig_new(uint8_t family, uint16_t mss, uint32_t mtu, uint32_t incarnation)
{
	struct rig *r = calloc(1, sizeof(*r));

	r->open = (struct frame_flow_open){
		.flow = 1,
		.session = {9, 8, 7, 6, 5, 4, 3, 2, 1, 1, 2, 3, 4, 5, 6, 7},
		.transport = 6,
		.family = family,
		.client_addr = {10, 1, 2, 3},
		.server_addr = {192, 0, 2, 7},
		.client_port = 40123,
		.server_port = 443,
		.mss = mss,
	};
	if (family == 6) {
		memset(r->open.client_addr, 0xfe, 16);
		memset(r->open.server_addr, 0x20, 16);
	}
	r->check.mtu = mtu > 65535 ? 65535 : mtu;
	r->check.pattern = pattern;
	r->out = (struct forge_out){.emit = on_emit, .ctx = r, .frame = r->frame};
	r->now = 1000;
	forge_init(&r->flow, &r->open, incarnation, mtu);
	return r;
}

static void rig_free(struct rig *r)
{
	assert_null(r->check.err);
	free(r);
}

/* `pos`: where the direction stands, so that the payload fits the pattern. */
static void send_at(struct rig *r, enum flow_dir dir, uint64_t pos, size_t len, bool end)
{
	uint8_t *p = malloc(len);

	for (size_t i = 0; i < len; i++)
		p[i] = pattern((int)dir, pos + i);
	forge_data(&r->flow, &r->out, dir, span_of(p, len), end, r->now += 10);
	free(p);
}

static struct check_side *side_of(struct rig *r, enum flow_dir dir)
{
	return &r->check.flow[0].side[dir];
}

/* Where frames are built in place: as large as was asked for, at an odd address. */
struct place {
	struct rig *rig;
	uint8_t *memory;
	size_t len;
	unsigned asked, used;
};

static uint8_t *place_room(void *ctx, size_t len)
{
	struct place *at = ctx;

	free(at->memory);
	at->memory = malloc(len + 1);
	at->len = len;
	return at->asked++ % 5 == 4 ? NULL : at->memory + 1;
}

static void on_emit_in_place(void *ctx, struct span l2, uint64_t ts_ns, bool first)
{
	struct place *at = ctx;

	assert_int_equal(l2.len, at->len);
	at->used += l2.p == at->memory + 1;
	on_emit(at->rig, l2, ts_ns, first);
}

static void test_frames_are_built_where_there_is_room(void **state)
{
	for (unsigned family = 4; family <= 6; family += 2) {
		struct rig *r = rig_new((uint8_t)family, 0, 1500, 0);
		struct place at = {.rig = r};
		size_t len, pos = 0;

		(void)state;
		r->out.emit = on_emit_in_place;
		r->out.room = place_room;
		r->out.ctx = &at;
		for (len = 1; len < 1600; pos += len, len++) /* each way a payload can end */
			send_at(r, FLOW_S2C, pos, len, true);
		assert_int_equal(at.asked, r->check.packets);
		assert_int_equal(at.used, at.asked - at.asked / 5);
		free(at.memory);
		rig_free(r);
	}
}

/* For a network stack that cuts frames. */
struct cutter {
	struct rig *rig;
	uint16_t segment;
	unsigned large;
};

static void on_emit_large(void *ctx, struct span l2, uint64_t ts_ns, bool first)
{
	struct cutter *c = ctx;

	if (c->segment)
		check_large(&c->rig->check, l2.p, l2.len, c->segment, ts_ns, first);
	else
		on_emit(c->rig, l2, ts_ns, first);
	c->large += c->segment > 0;
}

static void test_large_frames_are_the_same_packets_when_they_are_cut(void **state)
{
	static const size_t lens[] = {100, 1460, 1461, 16384, 70000, 200000, 2920};

	(void)state;
	for (unsigned family = 4; family <= 6; family += 2) {
		struct rig *r = rig_new((uint8_t)family, 0, 1500, 0);
		struct cutter c = {.rig = r};
		uint64_t pos = 0;

		r->check.is_large = true;
		r->out.emit = on_emit_large;
		r->out.ctx = &c;
		r->out.segment = &c.segment;
		r->flow.vlan = family == 4 ? 12 : 0;
		for (size_t i = 0; i < sizeof(lens) / sizeof(lens[0]); pos += lens[i++])
			send_at(r, FLOW_S2C, pos, lens[i], true);
		forge_gap(&r->flow, &r->out, FLOW_S2C, 5000, r->now);
		send_at(r, FLOW_S2C, pos + 5000, 5000, false);
		forge_fin(&r->flow, &r->out, FLOW_S2C, r->now);
		forge_rst(&r->flow, &r->out, FLOW_C2S, r->now);
		assert_int_equal(r->check.payload_bytes, pos + 5000);
		assert_int_equal(r->check.pshs, 7);
		assert_int_equal(check_open_flows(&r->check), 0);
		assert_int_equal(c.large, family == 4 ? 10 : 11); /* 1460: one of IPv4, two of 6 */
		rig_free(r);
	}
}

static void test_handshake_is_syn_synack_ack_and_window_update(void **state)
{
	struct rig *r = rig_new(4, 0, 1500, 0);

	(void)state;
	forge_handshake(&r->flow, &r->out, 5);
	assert_int_equal(r->check.packets, 4);
	assert_int_equal(r->check.flow[0].stage, 4);
	assert_int_equal(r->check.flow[0].mss, 1460);
	assert_int_equal(r->check.firsts, 1);
	forge_handshake(&r->flow, &r->out, 6); /* once */
	assert_int_equal(r->check.packets, 4);
	assert_int_equal(r->flow.state, FORGE_ESTABLISHED);
	rig_free(r);
}

static void on_emit_keep_first(void *ctx, struct span l2, uint64_t ts_ns, bool first)
{
	struct rig *r = ctx;

	(void)ts_ns, (void)first;
	if (r->kept_len == 0 && l2.len <= sizeof(r->kept)) {
		memcpy(r->kept, l2.p, l2.len);
		r->kept_len = l2.len;
	}
}

/* Computed apart from this code, from RFC 791, 1071 and 9293. */
static const uint8_t golden_syn[66] = {
	0x02, 0x73, 0x73, 0x6c, 0x63, 0x02, 0x02, 0x73, 0x73, 0x6c, 0x63, 0x01, 0x08, 0x00,
	0x45, 0x00, 0x00, 0x34, 0x12, 0x34, 0x40, 0x00, 0x40, 0x06, 0x5a, 0x85, 0x0a, 0x01,
	0x02, 0x03, 0xc0, 0x00, 0x02, 0x07, 0x9c, 0xbb, 0x01, 0xbb, 0x01, 0x02, 0x03, 0x04,
	0x00, 0x00, 0x00, 0x00, 0x80, 0x02, 0xff, 0xff, 0xfe, 0x86, 0x00, 0x00, 0x02, 0x04,
	0x05, 0xb4, 0x04, 0x02, 0x01, 0x03, 0x03, 0x0a, 0x01, 0x01,
};

static void test_syn_equals_golden_bytes(void **state)
{
	struct rig *r = rig_new(4, 0, 1500, 0);

	(void)state;
	r->out.emit = on_emit_keep_first;
	r->flow.side[FLOW_C2S].isn = r->flow.side[FLOW_C2S].nxt = 0x01020304;
	r->flow.side[FLOW_C2S].ip_id = 0x1234;
	forge_handshake(&r->flow, &r->out, 5);
	assert_int_equal(r->kept_len, sizeof(golden_syn));
	assert_memory_equal(r->kept, golden_syn, sizeof(golden_syn));
	rig_free(r);
}

static void test_isns_are_deterministic_nonzero_and_differ(void **state)
{
	struct forge_flow a, b;
	struct frame_flow_open open = {.family = 4};
	uint32_t incarnation;

	(void)state;
	for (incarnation = 0; incarnation < 20000; incarnation++) {
		open.session[incarnation % 16] ^= (uint8_t)incarnation;
		forge_init(&a, &open, incarnation, 1500);
		forge_init(&b, &open, incarnation, 9000);
		assert_true(a.side[0].isn != 0 && a.side[1].isn != 0);
		assert_true(a.side[0].isn != a.side[1].isn);
		assert_int_equal(a.side[0].isn, b.side[0].isn);
		assert_int_equal(a.side[1].isn, b.side[1].isn);
		forge_init(&b, &open, incarnation + 1, 1500);
		assert_true(a.side[0].isn != b.side[0].isn);
		open.session[15] ^= 1;
		forge_init(&b, &open, incarnation, 1500);
		assert_true(a.side[0].isn != b.side[0].isn && a.side[1].isn != b.side[1].isn);
	}
}

/* All zero bytes hash to zero: both numbers must be repaired. */
static void test_isns_of_a_zero_session_are_valid(void **state)
{
	struct frame_flow_open open = {.family = 4};
	struct forge_flow f;

	(void)state;
	forge_init(&f, &open, 0, 1500);
	assert_true(f.side[0].isn != 0 && f.side[1].isn != 0 && f.side[0].isn != f.side[1].isn);
}

static void check_mss(uint8_t family, uint16_t real, uint32_t mtu, uint32_t want)
{
	struct frame_flow_open open = {.family = family, .mss = real};
	struct forge_flow f;

	forge_init(&f, &open, 0, mtu);
	assert_int_equal(f.mss, want);
}

static void test_mss_follows_connection_and_output(void **state)
{
	(void)state;
	check_mss(4, 0, 1500, 1460);
	check_mss(6, 0, 1500, 1440);
	check_mss(4, 1400, 1500, 1400);
	check_mss(4, 65483, 1500, 1460);
	check_mss(4, 300, 1500, 300);
	check_mss(4, 88, 1500, 88);
	check_mss(4, 1, 1500, 88);
	check_mss(4, 0, 0, 88);
	check_mss(6, 0, 59, 88);
	check_mss(4, 0, 65535, 65495);
	check_mss(4, 0, UINT32_MAX, 65495);
	check_mss(6, 0, UINT32_MAX, 65475);
	check_mss(4, 65535, UINT32_MAX, 65495);
}

static void test_messages_of_all_sizes_arrive_whole(void **state)
{
	static const size_t sizes[] = {1,     2,     3,     7,      31,        33,    87,
				       88,    89,    1439,  1440,   1441,      1459,  1460,
				       1461,  2919,  2920,  16383,  16384,     16385, 17520,
				       65483, 65536, 99999, 200000, 5 * MB + 1};
	static const uint32_t mtus[] = {128, 576, 1500, 9001, 65535, 70000};

	(void)state;
	for (int family = 4; family <= 6; family += 2) {
		for (size_t m = 0; m < sizeof(mtus) / sizeof(mtus[0]); m++) {
			struct rig *r =
				rig_new((uint8_t)family, 0, mtus[m] == 128 ? 148 : mtus[m], 0);
			uint64_t pos[2] = {0, 0}, n = 0;

			for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
				size_t len = sizes[i] > MB && mtus[m] < 1500 ? MB / 4 : sizes[i];
				enum flow_dir dir = i & 1 ? FLOW_S2C : FLOW_C2S;

				send_at(r, dir, pos[dir], len, true);
				pos[dir] += len;
				n++;
				assert_int_equal(side_of(r, dir)->acked, side_of(r, dir)->nxt);
				assert_int_equal(r->check.last_dir,
						 !dir); /* the peer's ACK is last */
			}
			assert_int_equal(r->check.payload_bytes, pos[0] + pos[1]);
			assert_int_equal(r->check.gap, 0);
			assert_int_equal(r->check.firsts, 1 + n);
			rig_free(r);
		}
	}
}

static void test_unfinished_message_is_acknowledged_every_16_kib_only(void **state)
{
	struct rig *r = rig_new(4, 0, 1500, 0);

	(void)state;
	send_at(r, FLOW_C2S, 0, 1000, false);
	assert_int_equal(r->check.packets, 5);
	assert_int_equal(r->check.last_flags, CF_ACK); /* no PSH */
	send_at(r, FLOW_C2S, 1000, 1000, false);
	assert_int_equal(r->check.packets, 6);
	assert_int_equal(r->check.firsts, 2); /* one SYN, one message */
	send_at(r, FLOW_C2S, 2000, 14000, false);
	assert_true(side_of(r, FLOW_C2S)->acked > side_of(r, FLOW_C2S)->isn + 1);
	send_at(r, FLOW_C2S, 16000, 1, true);
	assert_int_equal(side_of(r, FLOW_C2S)->acked, side_of(r, FLOW_C2S)->nxt);
	assert_int_equal(r->check.firsts, 2);
	send_at(r, FLOW_C2S, 16001, 1, true);
	assert_int_equal(r->check.firsts, 3);
	rig_free(r);
}

static void test_psh_only_on_the_last_segment(void **state)
{
	struct rig *r = rig_new(4, 0, 1500, 0);

	(void)state;
	send_at(r, FLOW_S2C, 0, 1460 * 3, true);
	assert_int_equal(r->check.packets, 4 + 3 + 1); /* handshake, segments, ACK */
	assert_int_equal(r->check.pshs, 1);
	assert_int_equal(r->check.last_payload_flags, CF_ACK | CF_PSH);
	send_at(r, FLOW_S2C, 1460 * 3, 5, false);
	assert_int_equal(r->check.pshs, 1);
	send_at(r, FLOW_S2C, 1460 * 3 + 5, 5, true);
	assert_int_equal(r->check.pshs, 2);
	rig_free(r);
}

static void test_data_of_the_other_side_acknowledges(void **state)
{
	struct rig *r = rig_new(4, 0, 1500, 0);

	(void)state;
	send_at(r, FLOW_C2S, 0, 100, false);
	send_at(r, FLOW_S2C, 0, 100, false);
	assert_int_equal(side_of(r, FLOW_C2S)->acked, side_of(r, FLOW_C2S)->nxt);
	assert_int_equal(r->check.packets, 6);
	rig_free(r);
}

static void test_sequence_numbers_wrap(void **state)
{
	(void)state;
	for (uint32_t before = 0; before < 4000; before += 37) {
		struct rig *r = rig_new(6, 0, 1500, 0);

		for (int d = 0; d < 2; d++) {
			struct forge_side *s = &r->flow.side[d];

			s->isn = s->nxt = s->acked = UINT32_MAX - before - (uint32_t)d;
		}
		send_at(r, FLOW_C2S, 0, 3000, true);
		send_at(r, FLOW_S2C, 0, 40000, true);
		forge_gap(&r->flow, &r->out, FLOW_C2S, 5000, r->now);
		send_at(r, FLOW_C2S, 8000, 3000, true);
		forge_fin(&r->flow, &r->out, FLOW_C2S, r->now);
		forge_fin(&r->flow, &r->out, FLOW_S2C, r->now);
		assert_int_equal(check_open_flows(&r->check), 0);
		assert_int_equal(r->check.payload_bytes, 46000);
		rig_free(r);
	}
}

static void test_gap_advances_and_is_acknowledged(void **state)
{
	static const uint64_t gaps[] = {
		1, 1000, 65536, 32u << 20, (64u << 20) + 1, 1ull << 31, (1ull << 32) - 1};

	(void)state;
	for (size_t i = 0; i < sizeof(gaps) / sizeof(gaps[0]); i++) {
		struct rig *r = rig_new(4, 0, 1500, 0);

		send_at(r, FLOW_S2C, 0, 777, false); /* unacknowledged when the gap comes */
		forge_gap(&r->flow, &r->out, FLOW_S2C, gaps[i], r->now);
		assert_int_equal(r->check.gap, gaps[i]);
		send_at(r, FLOW_S2C, 777 + gaps[i], 500, true);
		assert_int_equal(r->check.flow[0].side[1].pos, 777 + gaps[i] + 500);
		rig_free(r);
	}
}

static void test_gap_of_any_length_costs_few_packets(void **state)
{
	static const uint64_t gaps[] = {1ull << 32, (1ull << 32) + 5, 1ull << 40, UINT64_MAX};

	(void)state;
	for (size_t i = 0; i < sizeof(gaps) / sizeof(gaps[0]); i++) {
		struct rig *r = rig_new(4, 0, 1500, 0);

		r->check.pattern = NULL;
		forge_gap(&r->flow, &r->out, FLOW_C2S, gaps[i], r->now);
		assert_true(r->check.packets < 300);
		assert_true(r->check.gap >= 1ull << 32);
		assert_int_equal(r->check.gap % (1ull << 32), gaps[i] % (1ull << 32));
		send_at(r, FLOW_C2S, 0, 500, true);
		rig_free(r);
	}
}

static void test_poke_repeats_the_senders_ack(void **state)
{
	struct rig *r = rig_new(4, 0, 1500, 0);

	(void)state;
	forge_poke(&r->flow, &r->out, FLOW_C2S, 1);
	assert_int_equal(r->check.packets, 0);
	send_at(r, FLOW_C2S, 0, 100, true);
	forge_poke(&r->flow, &r->out, FLOW_C2S, r->now + 5);
	assert_int_equal(r->check.packets, 7);
	assert_int_equal(r->check.last_dir, 0);
	assert_int_equal(r->check.last_flags, CF_ACK);
	assert_int_equal(r->check.last_ts, r->now + 5);
	send_at(r, FLOW_C2S, 100, 100,
		false); /* not acknowledged: the poke is of no use without that */
	forge_poke(&r->flow, &r->out, FLOW_C2S, r->now + 5);
	assert_int_equal(side_of(r, FLOW_C2S)->acked, side_of(r, FLOW_C2S)->nxt);
	assert_int_equal(r->check.last_dir, 0);
	rig_free(r);
}

static void close_in_order(enum flow_dir a, enum flow_dir b)
{
	struct rig *r = rig_new(4, 0, 1500, 0);

	forge_fin(&r->flow, &r->out, a, 1);
	assert_int_equal(r->check.packets, 0); /* nothing before the handshake */
	send_at(r, a, 0, 10, true);
	forge_fin(&r->flow, &r->out, a, r->now);
	forge_fin(&r->flow, &r->out, a, r->now); /* once */
	assert_int_equal(r->check.fins, 1);
	assert_int_equal(r->flow.state, FORGE_ESTABLISHED);
	send_at(r, b, 0, 5000, true); /* the other side still talks */
	send_at(r, a, 10, 10, true);  /* the closed one cannot */
	forge_gap(&r->flow, &r->out, a, 10, r->now);
	assert_int_equal(r->check.payload_bytes, 5010);
	forge_fin(&r->flow, &r->out, b, r->now);
	assert_int_equal(r->flow.state, FORGE_CLOSED);
	assert_int_equal(check_open_flows(&r->check), 0);
	assert_int_equal(r->check.last_dir, a); /* the last word is an ACK */
	r->check.packets = 0;
	forge_rst(&r->flow, &r->out, a, r->now);
	forge_poke(&r->flow, &r->out, a, r->now);
	send_at(r, b, 5000, 10, true);
	forge_gap(&r->flow, &r->out, b, 10, r->now);
	assert_int_equal(r->check.packets, 0);
	rig_free(r);
}

static void test_half_close_in_either_order(void **state)
{
	(void)state;
	close_in_order(FLOW_C2S, FLOW_S2C);
	close_in_order(FLOW_S2C, FLOW_C2S);
}

static void test_rst_has_the_right_sequence_number(void **state)
{
	(void)state;
	for (int dir = 0; dir < 2; dir++) {
		struct rig *r = rig_new(6, 0, 1500, 3);

		forge_rst(&r->flow, &r->out, (enum flow_dir)dir, 1);
		assert_int_equal(r->check.packets, 0);
		send_at(r, FLOW_C2S, 0, 4000, false);
		forge_fin(&r->flow, &r->out, FLOW_S2C, r->now);
		forge_rst(&r->flow, &r->out, (enum flow_dir)dir, r->now);
		assert_int_equal(r->check.rsts, 1);
		assert_int_equal(r->check.last_dir, dir);
		assert_int_equal(r->flow.state, FORGE_CLOSED);
		rig_free(r);
	}
}

static void test_time_never_runs_backwards(void **state)
{
	struct rig *r = rig_new(4, 0, 1500, 0);

	(void)state;
	r->now = 1000000;
	send_at(r, FLOW_C2S, 0, 10, true);
	r->now = 10;
	send_at(r, FLOW_S2C, 0, 10, true);
	assert_int_equal(r->check.last_ts, 1000010);
	r->now = 0;
	forge_poke(&r->flow, &r->out, FLOW_S2C, 0);
	forge_fin(&r->flow, &r->out, FLOW_S2C, 0);
	assert_int_equal(r->check.last_ts, 1000010);
	rig_free(r);
}

/* The tests above mean something only because this one passes. */
static void test_reader_notices_every_broken_byte(void **state)
{
	struct check *scratch = malloc(sizeof(*scratch));
	struct rig *r = rig_new(4, 0, 1500, 0);

	(void)state;
	send_at(r, FLOW_C2S, 0, 11, true);
	r->out.emit = on_emit_keep_first;
	send_at(r, FLOW_C2S, 11, 12, false);
	assert_int_equal(r->kept_len, 66);
	r->check.quiet = true;
	for (size_t at = 0; at <= r->kept_len; at++) {
		*scratch = r->check;
		r->kept[at % 66] ^= at < 66 ? 0x10 : 0; /* at last, an intact one */
		check_frame(scratch, r->kept, r->kept_len, r->now, false);
		assert_int_equal(scratch->err != NULL, at < 66);
		r->kept[at % 66] ^= at < 66 ? 0x10 : 0;
	}
	free(scratch);
	rig_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_large_frames_are_the_same_packets_when_they_are_cut),
		cmocka_unit_test(test_handshake_is_syn_synack_ack_and_window_update),
		cmocka_unit_test(test_frames_are_built_where_there_is_room),
		cmocka_unit_test(test_syn_equals_golden_bytes),
		cmocka_unit_test(test_isns_are_deterministic_nonzero_and_differ),
		cmocka_unit_test(test_isns_of_a_zero_session_are_valid),
		cmocka_unit_test(test_mss_follows_connection_and_output),
		cmocka_unit_test(test_messages_of_all_sizes_arrive_whole),
		cmocka_unit_test(test_unfinished_message_is_acknowledged_every_16_kib_only),
		cmocka_unit_test(test_psh_only_on_the_last_segment),
		cmocka_unit_test(test_data_of_the_other_side_acknowledges),
		cmocka_unit_test(test_sequence_numbers_wrap),
		cmocka_unit_test(test_gap_advances_and_is_acknowledged),
		cmocka_unit_test(test_gap_of_any_length_costs_few_packets),
		cmocka_unit_test(test_poke_repeats_the_senders_ack),
		cmocka_unit_test(test_half_close_in_either_order),
		cmocka_unit_test(test_rst_has_the_right_sequence_number),
		cmocka_unit_test(test_time_never_runs_backwards),
		cmocka_unit_test(test_reader_notices_every_broken_byte),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
