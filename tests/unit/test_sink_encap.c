/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sink_encap: what arrives at a UDP socket on loopback. Headers are checked byte by byte, as the
 * RFCs draw them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../collector/sink.h"
#include "base/log.h"
#include "counters.h"

static char target[64];

/* A socket on loopback, and its address in `target`. */
static int receiver(int family)
{
	struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(family, SOCK_DGRAM, 0), big = 1 << 22;
	struct sockaddr *a = family == AF_INET6 ? (void *)&a6 : (void *)&a4;
	socklen_t len = family == AF_INET6 ? sizeof(a6) : sizeof(a4);

	if (fd < 0 || bind(fd, a, len))
		return -1;
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &big, sizeof(big));
	assert_int_equal(getsockname(fd, a, &len), 0);
	if (family == AF_INET6)
		snprintf(target, sizeof(target), "[::1]:%u", ntohs(a6.sin6_port));
	else
		snprintf(target, sizeof(target), "127.0.0.1:%u", ntohs(a4.sin_port));
	return fd;
}

static struct sink *open_sink(const struct sink_ops *ops, uint32_t vni)
{
	const struct sink_conf conf = {.kind = ops->name, .target = target, .vni = vni};
	struct sink *s = NULL;

	assert_int_equal(ops->open(&s, &conf), 0);
	return s;
}

/* One datagram; its source port. */
static uint16_t take(int fd, uint8_t *out, size_t size, ssize_t want)
{
	struct sockaddr_storage from;
	socklen_t len = sizeof(from);
	struct pollfd p = {.fd = fd, .events = POLLIN};

	assert_int_equal(poll(&p, 1, 5000), 1);
	assert_int_equal(recvfrom(fd, out, size, 0, (struct sockaddr *)&from, &len), want);
	return from.ss_family == AF_INET6 ? ntohs(((struct sockaddr_in6 *)&from)->sin6_port)
					  : ntohs(((struct sockaddr_in *)&from)->sin_port);
}

static void put(struct sink *s, const struct frame_flow_open *o, uint8_t fill, size_t len)
{
	const struct sink_flow flow = {.open = o, .host = "h"};
	static uint8_t bytes[70000];

	memset(bytes, fill, len);
	s->ops->packet(s, span_of(bytes, len), 1, o ? &flow : NULL, false);
}

static void check_head(const struct sink_ops *ops, int family, const uint8_t want[8], uint32_t mtu)
{
	uint8_t got[70000];
	int fd = receiver(family);
	struct sink *s;

	if (fd < 0) {
		print_message("SKIP: no loopback of family %d\n", family);
		skip();
	}
	s = open_sink(ops, 0xabcdef);
	assert_int_equal(ops->mtu(s), mtu);
	put(s, NULL, 7, 100);
	put(s, NULL, 8, mtu + 14); /* the largest: it goes as it is */
	ops->flush(s);
	take(fd, got, sizeof(got), 108);
	assert_memory_equal(got, want, 8);
	for (unsigned i = 8; i < 108; i++)
		assert_int_equal(got[i], 7);
	take(fd, got, sizeof(got), (ssize_t)mtu + 22);
	assert_memory_equal(got, want, 8);
	ops->close(s);
	close(fd);
}

/* 65535 less outer IP, UDP, the header, inner Ethernet. */
static void test_vxlan_is_as_rfc_7348_draws_it(void **state)
{
	static const uint8_t want[8] = {0x08, 0, 0, 0, 0xab, 0xcd, 0xef, 0};

	(void)state;
	check_head(&sink_vxlan_ops, AF_INET, want, 65535 - 50);
	check_head(&sink_vxlan_ops, AF_INET6, want, 65535 - 70);
}

static void test_geneve_is_as_rfc_8926_draws_it(void **state)
{
	static const uint8_t want[8] = {0, 0, 0x65, 0x58, 0xab, 0xcd, 0xef, 0};

	(void)state;
	check_head(&sink_geneve_ops, AF_INET, want, 65535 - 50);
	check_head(&sink_geneve_ops, AF_INET6, want, 65535 - 70);
}

/* A frame of connection i, from its client or from its server: IPv6, in a VLAN, when i is odd. The
 * number stands in its last byte. */
static void put_frame(struct sink *s, unsigned i, bool back, uint8_t flags, uint8_t number)
{
	uint8_t f[14 + 4 + 40 + 20 + 1] = {0}, *ip = f + 14, *tcp;
	unsigned len = i % 2 ? 16 : 4;

	if (i % 2) {
		memcpy(f + 12, (uint8_t[]){0x81, 0, 0, 9, 0x86, 0xdd}, 6);
		ip += 4;
		tcp = ip + 40;
		memcpy(ip, (uint8_t[]){0x60, 0, 0, 0, 0, 21, 6, 64}, 8);
	} else {
		f[12] = 8;
		tcp = ip + 20;
		memcpy(ip, (uint8_t[]){0x45, 0, 0, 41, 0, 0, 0, 0, 64, 6}, 10);
	}
	tcp[-2 * (int)len + (back ? (int)len : 0)] = 10;
	tcp[-1 - (back ? 0 : (int)len)] = (uint8_t)i;
	tcp[-2 * (int)len + (back ? 0 : (int)len)] = 99;
	tcp[back ? 2 : 0] = (uint8_t)(128 + i / 256);
	tcp[back ? 3 : 1] = (uint8_t)i;
	tcp[back ? 0 : 2] = 443 >> 8;
	tcp[back ? 1 : 3] = 443 & 0xff;
	tcp[12] = 0x50;
	tcp[13] = flags;
	tcp[20] = number;
	s->ops->packet(s, span_of(f, (size_t)(tcp + 21 - f)), 1, NULL, false);
}

#define FRAME_LEN(i) ((i) % 2 ? 79 : 55)

static void test_a_connection_has_one_source_port_in_both_directions(void **state)
{
	uint8_t got[256];
	uint16_t port[200];
	unsigned others = 0;
	int fd = receiver(AF_INET);
	struct sink *s = open_sink(&sink_vxlan_ops, 1);

	(void)state;
	for (unsigned i = 0; i < 200; i++) {
		put_frame(s, i, false, 0x10, 1);
		put_frame(s, i, true, 0x10, 2);
		s->ops->flush(s);
		port[i] = take(fd, got, sizeof(got), 8 + FRAME_LEN(i));
		assert_int_equal(take(fd, got, sizeof(got), 8 + FRAME_LEN(i)), port[i]);
		assert_in_range(port[i], 1024, 65535);
		others += i && port[i] != port[i - 1];
	}
	assert_true(others > 150);
	s->ops->close(s);
	close(fd);
}

/* In one flush, with many connections in between: each keeps its order. */
static void test_frames_of_a_connection_keep_their_order(void **state)
{
	uint64_t sent = counter_named("sink_encap_packets");
	unsigned next[5] = {0};
	uint8_t got[256];
	int fd = receiver(AF_INET);
	struct sink *s = open_sink(&sink_geneve_ops, 1);

	(void)state;
	for (unsigned i = 0; i < 150; i++)
		put_frame(s, 2 * (i % 5), i / 5 % 2, 0x10, (uint8_t)i);
	s->ops->flush(s);
	for (unsigned i = 0; i < 150; i++) {
		take(fd, got, sizeof(got), 8 + 55);
		assert_int_equal(got[62] / 5, next[got[62] % 5]++);
	}
	assert_int_equal(counter_named("sink_encap_packets"), sent + 150);
	s->ops->close(s);
	close(fd);
}

/* Of all lengths, in runs of equal ones with shorter and longer ones between them. */
static void test_what_the_kernel_cuts_arrives_as_it_was(void **state)
{
	uint64_t sent = counter_named("sink_encap_packets");
	struct sink_conf conf = {.kind = "vxlan", .target = target, .vni = 1, .gso = true};
	uint8_t got[70000];
	int fd = receiver(AF_INET);
	struct sink *s = NULL;

	(void)state;
	assert_int_equal(sink_vxlan_ops.open(&s, &conf), 0);
	for (unsigned i = 0; i < 600; i++) {
		size_t len = i % 13 < 9 ? 1464 : i % 13 == 9 ? 700 : i % 13 == 10 ? 54 : 9000;

		put(s, NULL, (uint8_t)i, len);
		if (i % 50 == 49)
			s->ops->flush(s);
		if (i % 50 != 49)
			continue;
		for (unsigned k = i - 49; k <= i; k++) {
			len = k % 13 < 9 ? 1464 : k % 13 == 9 ? 700 : k % 13 == 10 ? 54 : 9000;
			take(fd, got, sizeof(got), (ssize_t)len + 8);
			assert_int_equal(got[0], 8);
			for (size_t b = 8; b < len + 8; b++)
				assert_int_equal(got[b], (uint8_t)k);
		}
	}
	assert_int_equal(counter_named("sink_encap_packets"), sent + 600);
	put(s, NULL, 1, 65485 + 15); /* too large, first of a run: alone lost */
	put(s, NULL, 2, 60);
	s->ops->flush(s);
	take(fd, got, sizeof(got), 68);
	s->ops->close(s);
	close(fd);
}

static void test_a_frame_can_be_built_where_it_leaves(void **state)
{
	uint8_t got[256], *room;
	int fd = receiver(AF_INET);
	struct sink *s = open_sink(&sink_vxlan_ops, 1);

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		room = s->ops->room(s, 90);
		assert_non_null(room);
		memset(room, (int)i, 90);
		s->ops->packet(s, span_of(room, 90), 1, NULL, false);
	}
	s->ops->flush(s);
	for (unsigned i = 0; i < 3; i++) {
		take(fd, got, sizeof(got), 98);
		assert_int_equal(got[8], i);
		assert_int_equal(got[97], i);
	}
	assert_null(s->ops->room(s, 100000));
	s->ops->close(s);
	close(fd);
}

static void test_what_is_too_large_is_counted_and_the_rest_goes(void **state)
{
	uint64_t lost = counter_named("sink_encap_lost_size");
	uint8_t got[256];
	int fd = receiver(AF_INET);
	struct sink *s = open_sink(&sink_vxlan_ops, 1);

	(void)state;
	put(s, NULL, 1, 65485 + 15);
	put(s, NULL, 2, 60);
	put(s, NULL, 3, 69000);
	s->ops->flush(s);
	take(fd, got, sizeof(got), 68);
	assert_int_equal(got[8], 2);
	assert_int_equal(counter_named("sink_encap_lost_size"), lost + 2);
	s->ops->close(s);
	close(fd);
}

/* ICMP tells that the port is closed: nothing is lost by that, and when it opens all arrives. */
static void test_a_port_without_a_listener_stops_nothing(void **state)
{
	uint64_t sent = counter_named("sink_encap_packets"),
		 r = counter_named("sink_encap_refused");
	uint64_t lost = counter_named("sink_encap_lost_unreachable");
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = receiver(AF_INET), one = 1;
	struct sink *s = open_sink(&sink_vxlan_ops, 1);
	uint8_t got[256];

	(void)state;
	close(fd);
	for (unsigned i = 0; i < 300; i++) {
		put(s, NULL, (uint8_t)i, 60);
		s->ops->flush(s);
	}
	assert_int_equal(counter_named("sink_encap_packets"), sent + 300);
	assert_true(counter_named("sink_encap_refused") > r);
	assert_int_equal(counter_named("sink_encap_lost_unreachable"), lost);
	a.sin_port = htons((uint16_t)atoi(strchr(target, ':') + 1));
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)), 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	put(s, NULL, 9, 60);
	s->ops->flush(s);
	take(fd, got, sizeof(got), 68);
	assert_int_equal(got[8], 9);
	s->ops->close(s);
	close(fd);
}

/* A broadcast address is none for a socket that did not ask for it: any error would do. */
static void test_no_way_is_counted_and_tried_again(void **state)
{
	uint64_t lost = counter_named("sink_encap_lost_unreachable");
	struct sink *s;

	(void)state;
	snprintf(target, sizeof(target), "255.255.255.255");
	s = open_sink(&sink_geneve_ops, 1);
	assert_int_equal(s->ops->mtu(s), 1450);
	assert_null(s->ops->room(s, 60));
	for (unsigned i = 0; i < 100; i++)
		put(s, NULL, 1, 60);
	s->ops->flush(s);
	s->ops->tick(s, 0);
	assert_int_equal(counter_named("sink_encap_lost_unreachable"), lost + 100);
	s->ops->close(s);
}

static void test_a_connection_ends_where_it_lost_a_packet(void **state)
{
	uint64_t lost = counter_named("sink_encap_lost_unreachable");
	uint64_t cut = counter_named("sink_encap_flows_cut"),
		 behind = counter_named("sink_encap_lost_cut");
	struct sink *s;

	(void)state;
	snprintf(target, sizeof(target), "255.255.255.255");
	s = open_sink(&sink_vxlan_ops, 1);
	for (unsigned c = 0; c < 3; c++)
		for (unsigned i = 0; i < 10; i++)
			put_frame(s, c, i % 2, 0x10, 0);
	assert_int_equal(counter_named("sink_encap_flows_cut"), cut + 3);
	assert_int_equal(counter_named("sink_encap_lost_unreachable"), lost + 3);
	assert_int_equal(counter_named("sink_encap_lost_cut"), behind + 27);
	s->ops->close(s);
}

static void test_a_host_without_an_address_is_an_error(void **state)
{
	struct sink_conf conf = {.kind = "vxlan", .target = "no such host", .vni = 1};
	struct sink *s = NULL;

	(void)state;
	assert_true(sink_vxlan_ops.open(&s, &conf) < 0);
	conf.target = "4789";
	assert_true(sink_vxlan_ops.open(&s, &conf) < 0);
	assert_null(s);
}

static int quiet(void **state)
{
	(void)state;
	log_set_level(LOG_ERROR);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_vxlan_is_as_rfc_7348_draws_it),
		cmocka_unit_test(test_geneve_is_as_rfc_8926_draws_it),
		cmocka_unit_test(test_a_connection_has_one_source_port_in_both_directions),
		cmocka_unit_test(test_frames_of_a_connection_keep_their_order),
		cmocka_unit_test(test_what_the_kernel_cuts_arrives_as_it_was),
		cmocka_unit_test(test_a_frame_can_be_built_where_it_leaves),
		cmocka_unit_test(test_what_is_too_large_is_counted_and_the_rest_goes),
		cmocka_unit_test(test_a_port_without_a_listener_stops_nothing),
		cmocka_unit_test(test_no_way_is_counted_and_tried_again),
		cmocka_unit_test(test_a_connection_ends_where_it_lost_a_packet),
		cmocka_unit_test(test_a_host_without_an_address_is_an_error),
	};

	return cmocka_run_group_tests(tests, quiet, NULL);
}
