/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of collector/outlet.c: sinks that want packets of several shapes, each with the
 * independent reader of packet_check.h behind it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "outlet.h"
#include "packet_check.h"

#define TS 1700000000000000000ull

struct capture {
	struct sink sink; /* first: see sink.h */
	struct check check;
	uint32_t mtu;
	uint8_t room[2048];
	unsigned rooms, built_there;
};

static void on_packet(struct sink *s, struct span l2, uint64_t ts_ns, const struct sink_flow *flow,
		      bool first)
{
	struct capture *c = (struct capture *)s;

	assert_string_equal(flow->host, "web1");
	c->built_there += l2.p == c->room;
	check_frame(&c->check, l2.p, l2.len, ts_ns, first);
}

static uint8_t *room(struct sink *s, size_t len)
{
	struct capture *c = (struct capture *)s;

	c->rooms++;
	return len <= sizeof(c->room) ? c->room : NULL;
}

static uint32_t mtu(const struct sink *s)
{
	return ((const struct capture *)s)->mtu;
}

static const struct sink_ops iface_like = {
	.name = "iface", .packet = on_packet, .mtu = mtu, .room = room};
static const struct sink_ops file_like = {.name = "file", .packet = on_packet};
static const struct sink_ops text_like = {.name = "text"};

/* Up to four outputs and a session. */
struct rig {
	struct capture c[4];
	struct sink_set sinks;
	struct outlet_set set;
	struct frame_flow_open open;
	struct outlet_flow flow;
	_Alignas(8) uint8_t states[512];
};

static struct capture *add(struct rig *r, const struct sink_ops *ops, uint32_t own_mtu,
			   const struct sink_shape *shape)
{
	struct capture *c = &r->c[r->sinks.n];

	c->sink = (struct sink){.ops = ops};
	if (shape)
		c->sink.shape = *shape;
	c->mtu = own_mtu;
	c->check.mtu = own_mtu;
	r->sinks.v[r->sinks.n++] = &c->sink;
	return c;
}

static struct rig *rig_new(void)
{
	struct rig *r = calloc(1, sizeof(*r));

	r->open = (struct frame_flow_open){.flow = 1,
					   .session = {7, 1},
					   .transport = 6,
					   .family = 4,
					   .client_addr = {10, 0, 0, 1},
					   .server_addr = {10, 0, 0, 2},
					   .client_port = 5000,
					   .server_port = 443};
	r->flow.who = (struct sink_flow){.open = &r->open, .host = "web1"};
	return r;
}

/* A request, an answer and the end. */
static void converse(struct rig *r)
{
	static const uint8_t zero[20000];

	assert_true(r->set.state_len <= sizeof(r->states));
	outlets_begin(&r->set, r->states, &r->flow, TS);
	assert_int_equal(outlets_data(&r->set, r->states, &r->flow, FLOW_C2S, span_of(zero, 100),
				      true, TS + 1),
			 OUTLET_SENT_BOTH);
	(void)outlets_data(&r->set, r->states, &r->flow, FLOW_S2C, span_of(zero, sizeof(zero)),
			   true, TS + 2);
	(void)outlets_gap(&r->set, r->states, &r->flow, FLOW_S2C, 500, TS + 3);
	assert_int_equal(outlets_poke(&r->set, r->states, &r->flow, FLOW_S2C, TS + 4),
			 r->set.n ? OUTLET_SENT(FLOW_S2C) : OUTLET_SENT_BOTH);
	(void)outlets_fin(&r->set, r->states, &r->flow, FLOW_C2S, TS + 5);
	(void)outlets_fin(&r->set, r->states, &r->flow, FLOW_S2C, TS + 6);
	outlets_rst(&r->set, r->states, &r->flow, FLOW_S2C, TS + 7); /* has ended: nothing */
	outlets_forget(&r->set, r->states);
}

static void assert_whole(const struct capture *c)
{
	assert_null(c->check.err);
	assert_int_equal(c->check.payload_bytes, 20100);
	assert_int_equal(c->check.gap, 500);
	assert_int_equal(c->check.fins, 2);
	assert_int_equal(c->check.rsts, 0);
	assert_int_equal(check_open_flows(&c->check), 0);
}

static void test_outputs_of_one_shape_share_their_packets(void **state)
{
	static const struct sink_shape tagged = {.vlan = 9};
	struct rig *r = rig_new();
	struct capture *file = add(r, &file_like, 9000, NULL),
		       *iface = add(r, &iface_like, 9000, NULL);
	struct capture *other = add(r, &iface_like, 9000, &tagged);

	(void)state;
	add(r, &text_like, 0, NULL);
	outlets_init(&r->set, &r->sinks);
	assert_int_equal(r->set.n, 2);
	assert_int_equal(r->set.state_len, 2 * sizeof(struct forge_flow));
	other->check.outer_vlan = 9;
	converse(r);
	assert_whole(file);
	assert_whole(iface);
	assert_whole(other);
	assert_int_equal(file->check.flow[0].mss, 8960); /* a file takes what the others need */
	assert_int_equal(file->check.packets, iface->check.packets);
	assert_int_equal(iface->rooms, 0); /* two readers: copied anyway */
	assert_int_equal(other->built_there, other->check.packets - 3); /* all small ones */
	free(r);
}

static void test_each_mtu_has_its_segments(void **state)
{
	static const struct sink_shape small = {.mtu = 576}, large = {.mtu = 65535};
	struct rig *r = rig_new();
	struct capture *a = add(r, &iface_like, 1500, NULL), *b = add(r, &iface_like, 9000, &small);
	struct capture *c = add(r, &iface_like, 1400, &large),
		       *d = add(r, &file_like, 65535, &large);

	(void)state;
	outlets_init(&r->set, &r->sinks);
	assert_int_equal(r->set.n, 4);
	b->check.mtu = 576;
	converse(r);
	assert_whole(a);
	assert_whole(b);
	assert_whole(c);
	assert_whole(d);
	assert_int_equal(a->check.flow[0].mss, 1460);
	assert_int_equal(b->check.flow[0].mss, 536);
	assert_int_equal(c->check.flow[0].mss, 1360); /* more than an interface takes is no use */
	assert_int_equal(d->check.flow[0].mss, 65495);
	free(r);
}

static void test_a_path_that_carries_less_gets_smaller_segments(void **state)
{
	static const uint8_t zero[20000];
	struct rig *r = rig_new();
	struct capture *a = add(r, &iface_like, 1450, NULL);

	(void)state;
	outlets_init(&r->set, &r->sinks);
	outlets_begin(&r->set, r->states, &r->flow, TS);
	(void)outlets_data(&r->set, r->states, &r->flow, FLOW_S2C, span_of(zero, sizeof(zero)),
			   true, TS + 1);
	assert_null(a->check.err);
	a->mtu = a->check.mtu = 1350; /* the check refuses what is larger */
	(void)outlets_data(&r->set, r->states, &r->flow, FLOW_S2C, span_of(zero, sizeof(zero)),
			   true, TS + 2);
	a->mtu = 1450; /* never larger again */
	(void)outlets_data(&r->set, r->states, &r->flow, FLOW_S2C, span_of(zero, sizeof(zero)),
			   true, TS + 3);
	assert_null(a->check.err);
	assert_int_equal(a->check.payload_bytes, 3 * sizeof(zero));
	free(r);
}

static void test_a_tunnel_has_no_room_for_tags(void **state)
{
	static const struct sink_ops tunnel_like = {
		.name = "vxlan", .packet = on_packet, .mtu = mtu, .counts_tags = true};
	static const struct sink_shape tagged = {.vlan = 9};
	struct rig *r = rig_new();
	struct capture *a = add(r, &tunnel_like, 1450, NULL);
	struct capture *b = add(r, &tunnel_like, 1450, &tagged);

	(void)state;
	outlets_init(&r->set, &r->sinks);
	b->check.outer_vlan = 9;
	converse(r);
	assert_int_equal(a->check.flow[0].mss, 1410);
	assert_int_equal(b->check.flow[0].mss, 1406);
	r->flow.lane = 3;
	memset(r->states, 0, sizeof(r->states));
	a->check = (struct check){.mtu = 1450};
	b->check = (struct check){.mtu = 1450, .outer_vlan = 9};
	converse(r);
	assert_int_equal(a->check.flow[0].mss, 1406);
	assert_int_equal(b->check.flow[0].mss, 1402);
	free(r);
}

static void test_a_file_alone_has_segments_of_an_ethernet(void **state)
{
	struct rig *r = rig_new();
	struct capture *a = add(r, &file_like, 1500, NULL), *b = add(r, &file_like, 1500, NULL);

	(void)state;
	outlets_init(&r->set, &r->sinks);
	assert_int_equal(r->set.n, 1);
	converse(r);
	assert_whole(a);
	assert_whole(b);
	assert_int_equal(a->check.flow[0].mss, 1460);
	free(r);
}

static void test_addresses_tags_and_ports_are_the_outputs(void **state)
{
	static const uint8_t macs[12] = {2, 9, 9, 9, 9, 1, 2, 9, 9, 9, 9, 2};
	struct sink_shape shape = {.vlan = 4094, .n_ports = 2, .ports = {{8443, 8080}, {443, 80}}};
	struct rig *r = rig_new();
	struct capture *a, *plain = add(r, &iface_like, 1500, NULL);

	(void)state;
	memcpy(shape.dst_mac, macs, 6);
	memcpy(shape.src_mac, macs + 6, 6);
	a = add(r, &iface_like, 1500, &shape);
	memcpy(a->check.macs, macs, 12);
	a->check.outer_vlan = 4094;
	r->flow.lane = 5;
	outlets_init(&r->set, &r->sinks);
	converse(r);
	assert_whole(a);
	assert_whole(plain);
	assert_int_equal(a->check.flow[0].port[1], 80);
	assert_int_equal(a->check.flow[0].vlan, 5);   /* inside of the output's own */
	assert_int_equal(a->check.flow[0].mss, 1456); /* two tags: the link allows for one */
	assert_int_equal(plain->check.flow[0].port[1], 443);
	assert_int_equal(plain->check.flow[0].vlan, 5);
	assert_int_equal(plain->check.flow[0].mss, 1460);
	assert_int_equal(sink_port(&shape, 8443), 8080);
	assert_int_equal(sink_port(&shape, 8080), 8080);
	free(r);
}

static void test_without_packet_outputs_nothing_is_kept(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	add(r, &text_like, 0, NULL);
	outlets_init(&r->set, &r->sinks);
	assert_int_equal(r->set.n, 0);
	assert_int_equal(r->set.state_len, 0);
	converse(r);
	free(r);
}

/* Without its beginning an IDS would not take it for HTTP/2. */
static void test_late_http2_is_given_a_beginning(void **state)
{
	static const uint8_t framed[] = {0, 0, 1, 1, 5, 0, 0, 0, 9, 0x82};

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		struct rig *r = rig_new();
		struct capture *c = add(r, &file_like, 0, NULL);

		c->check.mtu = 1500;
		r->open.flags = i == 1 ? 0 : FLOW_OPEN_LATE;
		outlets_init(&r->set, &r->sinks);
		outlets_begin(&r->set, r->states, &r->flow, TS);
		if (i == 2) /* what came before is a hole: too late */
			(void)outlets_gap(&r->set, r->states, &r->flow, FLOW_C2S, 5, TS);
		(void)outlets_data(&r->set, r->states, &r->flow, FLOW_C2S,
				   span_of(framed, sizeof(framed)), true, TS);
		(void)outlets_data(&r->set, r->states, &r->flow, FLOW_C2S,
				   span_of(framed, sizeof(framed)), true, TS);
		assert_null(c->check.err);
		assert_int_equal(c->check.flow[0].side[0].bytes, 20 + (i == 0 ? 33 : 0));
		assert_int_equal(c->check.flow[0].side[1].bytes, i == 0 ? 9 : 0);
		free(r);
	}
}

/* A kind of outlet with memory of its own. */

static unsigned begun, forgotten;

static void own_begin(struct outlet *o, void *state, const struct outlet_flow *flow, uint64_t ts_ns)
{
	void **own = state;

	(void)o, (void)flow, (void)ts_ns;
	if (!*own)
		*own = malloc(1);
	begun++;
}

static unsigned own_data(struct outlet *o, void *state, const struct outlet_flow *flow,
			 enum flow_dir dir, struct span bytes, bool end, uint64_t ts_ns)
{
	(void)o, (void)state, (void)flow, (void)bytes, (void)end, (void)ts_ns;
	return OUTLET_SENT(dir);
}

static void own_rst(struct outlet *o, void *state, const struct outlet_flow *flow,
		    enum flow_dir dir, uint64_t ts_ns)
{
	(void)o, (void)state, (void)flow, (void)dir, (void)ts_ns;
}

static void own_forget(struct outlet *o, void *state)
{
	void **own = state;

	(void)o;
	forgotten += *own != NULL;
	free(*own);
}

static const struct outlet_ops own_ops = {.name = "own",
					  .state_len = sizeof(void *),
					  .begin = own_begin,
					  .data = own_data,
					  .rst = own_rst,
					  .forget = own_forget};

static void test_a_side_has_sent_when_it_has_everywhere(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	add(r, &iface_like, 1500, NULL);
	outlets_init(&r->set, &r->sinks);
	r->set.v[1] = r->set.v[0];
	r->set.v[1].ops = &own_ops;
	r->set.v[1].state_at = r->set.state_len;
	r->set.n = 2;
	outlets_begin(&r->set, r->states, &r->flow, TS);
	outlets_rst(&r->set, r->states, &r->flow, FLOW_C2S, TS);
	outlets_begin(&r->set, r->states, &r->flow, TS);
	assert_int_equal(
		outlets_data(&r->set, r->states, &r->flow, FLOW_C2S, span_str("x"), true, TS),
		OUTLET_SENT(FLOW_C2S)); /* the native one's server has acknowledged */
	outlets_forget(&r->set, r->states);
	assert_int_equal(begun, 2);
	assert_int_equal(forgotten, 1);
	free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_late_http2_is_given_a_beginning),
		cmocka_unit_test(test_outputs_of_one_shape_share_their_packets),
		cmocka_unit_test(test_each_mtu_has_its_segments),
		cmocka_unit_test(test_a_path_that_carries_less_gets_smaller_segments),
		cmocka_unit_test(test_a_tunnel_has_no_room_for_tags),
		cmocka_unit_test(test_a_file_alone_has_segments_of_an_ethernet),
		cmocka_unit_test(test_addresses_tags_and_ports_are_the_outputs),
		cmocka_unit_test(test_without_packet_outputs_nothing_is_kept),
		cmocka_unit_test(test_a_side_has_sent_when_it_has_everywhere),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
