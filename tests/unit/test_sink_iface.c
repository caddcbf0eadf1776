/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sink_iface: real frames through a veth pair in a network namespace of this process alone; what
 * arrives is read with a packet socket on the other end. Everything is done twice: as it is, and as
 * on a kernel without AF_XDP. Needs root.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "../../collector/forge.h"
#include "../../collector/sink.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "../../collector/sinks/offload.h"
#include "../../collector/sinks/xsk.h"
#include "packet_check.h"

#define PROTO 0x88b5 /* IEEE 802: local experiments; nothing else on the wire uses it */

static bool is_ready;
static bool is_plain; /* no AF_XDP */
static char errors[] = "/tmp/test_sink_iface.XXXXXX";

int __real_xsk_open(struct xsk **out, int ifindex, unsigned queue, size_t frame_max);
int __wrap_xsk_open(struct xsk **out, int ifindex, unsigned queue, size_t frame_max);

int __wrap_xsk_open(struct xsk **out, int ifindex, unsigned queue, size_t frame_max)
{
	return is_plain ? -EAFNOSUPPORT : __real_xsk_open(out, ifindex, queue, frame_max);
}

/* A sensor without CAP_NET_ADMIN. */
static bool keeps_offload;

int __real_offload_switch_off(const char *interface);
int __wrap_offload_switch_off(const char *interface);

int __wrap_offload_switch_off(const char *interface)
{
	return keeps_offload ? -EPERM : __real_offload_switch_off(interface);
}

/* An interface that does not know how to cut frames. */
static bool refuses_large;

int __real_sendmmsg(int fd, struct mmsghdr *m, unsigned n, int flags);
int __wrap_sendmmsg(int fd, struct mmsghdr *m, unsigned n, int flags);

int __wrap_sendmmsg(int fd, struct mmsghdr *m, unsigned n, int flags)
{
	for (unsigned i = 0; refuses_large && i < n; i++) {
		const struct msghdr *h = &m[i].msg_hdr;

		if (h->msg_iovlen < 2 || h->msg_iov[1].iov_len < 2000)
			continue;
		if (i > 0)
			return __real_sendmmsg(fd, m, i, flags);
		errno = EINVAL;
		return -1;
	}
	return __real_sendmmsg(fd, m, n, flags);
}

static void need_namespace(void)
{
	if (is_ready)
		return;
	print_message("SKIP: needs root for a network namespace with a veth pair\n");
	skip();
}

static void run(const char *command)
{
	if (system(command))
		fail_msg("failed: %s", command);
}

static void make_pair(void)
{
	run("ip link add sinkout type veth peer name sinkin");
	run("ip link set sinkin up mtu 9000 && ip link set sinkout up");
}

static void delete_pair(void)
{
	run("ip link del sinkout");
}

static int open_sink(struct sink **s, const char *name)
{
	const struct sink_conf conf = {.kind = "iface", .target = name, .large = SINK_NO};

	return sink_iface_ops.open(s, &conf);
}

static int open_sink_with(struct sink **s, enum sink_choice bypass, enum sink_choice xdp)
{
	const struct sink_conf conf = {.kind = "iface",
				       .target = "sinkout",
				       .bypass = bypass,
				       .xdp = xdp,
				       .large = SINK_NO};

	return sink_iface_ops.open(s, &conf);
}

static int open_receiver_on(const char *iface, uint16_t proto)
{
	int fd = socket(AF_PACKET, SOCK_RAW, htons(proto)), size = 4 << 20;
	struct sockaddr_ll from = {.sll_family = AF_PACKET,
				   .sll_protocol = htons(proto),
				   .sll_ifindex = (int)if_nametoindex(iface)};

	assert_true(fd >= 0);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)), 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&from, sizeof(from)), 0);
	return fd;
}

static int open_receiver_of(uint16_t proto)
{
	return open_receiver_on("sinkin", proto);
}

static int open_receiver(void)
{
	return open_receiver_of(PROTO);
}

static void fill(uint8_t *frame, uint32_t i, size_t len)
{
	memset(frame, (int)(i & 0xff), len);
	memset(frame, 0xff, 6);
	frame[12] = PROTO >> 8;
	frame[13] = PROTO & 0xff;
	memcpy(frame + 14, &i, sizeof(i));
}

static void put(struct sink *s, uint32_t i, size_t len)
{
	static uint8_t frame[70000];

	fill(frame, i, len);
	sink_iface_ops.packet(s, span_of(frame, len), 0, NULL, false);
}

/* Frames must arrive in order and whole. Returns how many came. */
static unsigned receive(int fd, uint32_t first, size_t len)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	uint8_t frame[70000];
	unsigned n = 0;

	while (poll(&p, 1, 200) == 1) {
		ssize_t got = recv(fd, frame, sizeof(frame), MSG_DONTWAIT);
		uint32_t i;

		if (got < 0)
			break;
		memcpy(&i, frame + 14, sizeof(i));
		assert_int_equal(got, len);
		assert_int_equal(i, first + n);
		assert_int_equal(frame[len - 1], i & 0xff);
		n++;
	}
	return n;
}

static uint64_t counter_value(const char *name)
{
	char *text = NULL, *p;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);
	uint64_t v = 0;

	metrics_dump(f, true);
	fclose(f);
	p = strstr(text, name);
	if (p)
		v = strtoull(p + strlen(name), NULL, 10);
	free(text);
	return v;
}

static int saved_stderr;

static void catch_log(void)
{
	int fd = open(errors, O_RDWR | O_CREAT | O_TRUNC, 0600);

	saved_stderr = dup(STDERR_FILENO);
	dup2(fd, STDERR_FILENO);
	close(fd);
}

static const char *caught_log(void)
{
	static char text[4096];
	int fd = open(errors, O_RDONLY);
	ssize_t n = read(fd, text, sizeof(text) - 1);

	close(fd);
	text[n > 0 ? n : 0] = '\0';
	dup2(saved_stderr, STDERR_FILENO);
	close(saved_stderr);
	return text;
}

static unsigned count_of(const char *text, const char *what)
{
	unsigned n = 0;

	for (; (text = strstr(text, what)); text++)
		n++;
	return n;
}

static void test_frames_arrive_whole_and_in_order(void **state)
{
	uint64_t packets, bytes;
	struct sink *s = NULL;
	int fd;

	(void)state;
	need_namespace();
	make_pair();
	fd = open_receiver();
	packets = counter_value("sink_iface_packets");
	bytes = counter_value("sink_iface_bytes");
	assert_int_equal(open_sink(&s, "sinkout"), 0);
	assert_int_equal(sink_iface_ops.mtu(s), 1500);
	for (uint32_t i = 0; i < 200; i++) /* three full batches and a rest */
		put(s, i, 1514);
	assert_int_equal(receive(fd, 0, 1514), 192);
	sink_iface_ops.flush(s);
	assert_int_equal(receive(fd, 192, 1514), 8);
	put(s, 7, 60);
	sink_iface_ops.close(s); /* flushes */
	assert_int_equal(receive(fd, 7, 60), 1);
	assert_int_equal(counter_value("sink_iface_packets") - packets, 201);
	assert_int_equal(counter_value("sink_iface_bytes") - bytes, 200 * 1514 + 60);
	close(fd);
	delete_pair();
}

/* The interface's queue takes one AF_XDP socket: the second sink has to do without. */
static void test_two_sinks_on_one_interface_both_send(void **state)
{
	struct sink *a = NULL, *b = NULL;
	const char *log;
	int fd;

	(void)state;
	need_namespace();
	make_pair();
	fd = open_receiver();
	catch_log();
	assert_int_equal(open_sink(&a, "sinkout"), 0);
	assert_int_equal(open_sink(&b, "sinkout"), 0);
	for (unsigned i = 0; i < 6; i++)
		sink_iface_ops.tick(b, 0);
	log = caught_log();
	assert_int_equal(count_of(log, "through AF_XDP"), is_plain ? 0 : 1);
	assert_int_equal(count_of(log, "through a packet socket"), is_plain ? 2 : 1);
	for (uint32_t i = 0; i < 100; i++)
		put(a, i, 1514);
	sink_iface_ops.flush(a);
	for (uint32_t i = 100; i < 200; i++)
		put(b, i, 1514);
	sink_iface_ops.flush(b);
	assert_int_equal(receive(fd, 0, 1514), 200);
	sink_iface_ops.close(b);
	sink_iface_ops.close(a);
	close(fd);
	delete_pair();
}

/* Many more than there are buffers, and flushes between them at any place. */
static void test_frames_built_in_place_arrive(void **state)
{
	struct sink *s = NULL;
	uint32_t sent = 0;
	int fd;

	(void)state;
	need_namespace();
	make_pair();
	fd = open_receiver();
	assert_int_equal(open_sink(&s, "sinkout"), 0);
	assert_null(sink_iface_ops.room(s, 1519)); /* no frame of this interface is so large */
	for (unsigned round = 0; round < 40; round++) {
		for (unsigned i = 0; i < 37; i++) {
			uint8_t *frame = sink_iface_ops.room(s, 1514);

			assert_non_null(frame);
			assert_ptr_equal(frame, sink_iface_ops.room(s, 60));
			if (i == 20)
				sink_iface_ops.flush(s); /* the place may be another now */
			frame = sink_iface_ops.room(s, 1514);
			fill(frame, sent++, 1514);
			sink_iface_ops.packet(s, span_of(frame, 1514), 0, NULL, false);
		}
		if (round == 17)
			sink_iface_ops.tick(s, 0);
		sink_iface_ops.flush(s);
		assert_int_equal(receive(fd, sent - 37, 1514), 37);
	}
	assert_true(sent > 1024);
	sink_iface_ops.close(s);
	close(fd);
	delete_pair();
}

static void test_a_tag_may_exceed_the_mtu(void **state)
{
	const uint8_t tag[4] = {0x81, 0x00, 0x00, 0x05};
	uint64_t lost, packets;
	uint8_t frame[1519];
	struct sink *s = NULL;

	(void)state;
	need_namespace();
	make_pair();
	lost = counter_value("sink_iface_lost_size");
	packets = counter_value("sink_iface_packets");
	assert_int_equal(open_sink(&s, "sinkout"), 0);
	fill(frame, 0, sizeof(frame));
	memcpy(frame + 12, tag, sizeof(tag));
	sink_iface_ops.packet(s, span_of(frame, 1518), 0, NULL, false);
	sink_iface_ops.packet(s, span_of(frame, 1519), 0, NULL, false);
	sink_iface_ops.flush(s);
	assert_int_equal(counter_value("sink_iface_lost_size") - lost, 1);
	assert_int_equal(counter_value("sink_iface_packets") - packets, 1);
	sink_iface_ops.close(s);
	delete_pair();
}

static void test_a_frame_over_the_mtu_is_counted_and_the_rest_goes_on(void **state)
{
	uint64_t lost;
	struct sink *s = NULL;
	int fd;

	(void)state;
	need_namespace();
	make_pair();
	fd = open_receiver();
	lost = counter_value("sink_iface_lost_size");
	assert_int_equal(open_sink(&s, "sinkout"), 0);
	put(s, 0, 100);
	put(s, 99, 1515);
	put(s, 1, 100);
	run("ip link set sinkout mtu 1000"); /* behind the sink's back */
	put(s, 98, 1200);
	put(s, 2, 100);
	sink_iface_ops.flush(s);
	assert_int_equal(receive(fd, 0, 100), 3);
	assert_int_equal(counter_value("sink_iface_lost_size") - lost, 2);
	run("ip link set sinkout mtu 9000");
	put(s, 3, 100); /* waits in the batch while the batch grows */
	sink_iface_ops.tick(s, 0);
	assert_int_equal(sink_iface_ops.mtu(s), 9000);
	assert_int_equal(receive(fd, 3, 100), 1);
	put(s, 4, 9014);
	sink_iface_ops.flush(s);
	assert_int_equal(receive(fd, 4, 9014), 1);
	sink_iface_ops.close(s);
	close(fd);
	delete_pair();
}

static void test_an_interface_that_goes_away_is_waited_for(void **state)
{
	uint64_t lost;
	struct sink *s = NULL;
	const char *log;
	int fd;

	(void)state;
	need_namespace();
	make_pair();
	assert_int_equal(open_sink(&s, "sinkout"), 0);
	lost = counter_value("sink_iface_lost_gone");
	catch_log();
	delete_pair();
	for (uint32_t i = 0; i < 100; i++)
		put(s, i, 100);
	sink_iface_ops.flush(s);
	sink_iface_ops.tick(s, 0);
	put(s, 0, 100);
	assert_int_equal(counter_value("sink_iface_lost_gone") - lost, 101);
	make_pair();
	fd = open_receiver();
	sink_iface_ops.tick(s, 0);
	for (uint32_t i = 0; i < 10; i++)
		put(s, i, 100);
	sink_iface_ops.flush(s);
	log = caught_log();
	assert_int_equal(count_of(log, "interface sinkout is gone: "), 1);
	assert_int_equal(count_of(log, "interface sinkout is back"), 1);
	assert_int_equal(receive(fd, 0, 100), 10);
	sink_iface_ops.close(s);
	close(fd);
	delete_pair();
}

static void test_an_idle_sink_notices_a_new_interface_of_the_same_name(void **state)
{
	struct sink *s = NULL;
	int fd;

	(void)state;
	need_namespace();
	make_pair();
	assert_int_equal(open_sink(&s, "sinkout"), 0);
	delete_pair();
	make_pair();
	fd = open_receiver();
	catch_log();
	sink_iface_ops.tick(s, 0);
	(void)caught_log();
	put(s, 0, 100);
	sink_iface_ops.flush(s);
	assert_int_equal(receive(fd, 0, 100), 1);
	sink_iface_ops.close(s);
	close(fd);
	delete_pair();
}

static void test_an_interface_that_is_down_is_waited_for(void **state)
{
	uint64_t lost;
	struct sink *s = NULL;
	const char *log;
	int fd;

	(void)state;
	need_namespace();
	make_pair();
	run("ip link set sinkout down");
	lost = counter_value("sink_iface_lost_gone");
	catch_log();
	assert_int_equal(open_sink(&s, "sinkout"), 0);
	put(s, 0, 100);
	sink_iface_ops.tick(s, 0);
	put(s, 0, 100);
	run("ip link set sinkout up");
	sink_iface_ops.tick(s, 0);
	fd = open_receiver();
	put(s, 0, 100);
	sink_iface_ops.flush(s);
	assert_int_equal(receive(fd, 0, 100), 1);
	run("ip link set sinkout down");
	put(s, 0, 100);
	sink_iface_ops.flush(s);
	run("ip link set sinkout up");
	sink_iface_ops.tick(s, 0);
	put(s, 1, 100);
	sink_iface_ops.flush(s);
	log = caught_log();
	assert_int_equal(receive(fd, 1, 100), 1);
	assert_int_equal(count_of(log, "until `ip link set sinkout up`"), 1);
	assert_int_equal(count_of(log, "interface sinkout is down: Network is down"), 1);
	assert_int_equal(count_of(log, "interface sinkout is back"), 2);
	assert_int_equal(counter_value("sink_iface_lost_gone") - lost, 3);
	sink_iface_ops.close(s);
	close(fd);
	delete_pair();
}

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void test_a_dead_peer_costs_packets_but_no_time(void **state)
{
	uint64_t lost, t0;
	struct sink *s = NULL;
	int fd;

	(void)state;
	need_namespace();
	make_pair();
	assert_int_equal(open_sink(&s, "sinkout"), 0);
	run("ip link set sinkin down");
	lost = counter_value("sink_iface_lost_nobufs");
	catch_log();
	t0 = now_ms();
	for (uint32_t i = 0; i < 6400; i++)
		put(s, i, 100);
	assert_in_range(now_ms() - t0, 0,
			2000); /* 6400 frames with all their tries would take longer */
	assert_int_equal(counter_value("sink_iface_lost_nobufs") - lost, 6400);
	assert_int_equal(count_of(caught_log(), "takes no more packets"), 1);
	run("ip link set sinkin up");
	fd = open_receiver();
	put(s, 0, 100);
	sink_iface_ops.flush(s);
	assert_int_equal(receive(fd, 0, 100), 1);
	sink_iface_ops.close(s);
	close(fd);
	delete_pair();
}

/* Forged connections */

struct talk {
	struct sink *s;
	struct forge_flow flow;
	uint16_t segment;
	uint8_t frame[FORGE_FRAME_MAX];
};

static void to_sink(void *ctx, struct span l2, uint64_t ts_ns, bool first)
{
	struct talk *t = ctx;

	sink_iface_ops.packet(t->s, l2, ts_ns, NULL, first);
}

static uint8_t *room_of_sink(void *ctx, size_t len)
{
	return sink_iface_ops.room(((struct talk *)ctx)->s, len);
}

static struct forge_out out_of(struct talk *t)
{
	return (struct forge_out){
		.emit = to_sink, .room = room_of_sink, .ctx = t, .frame = t->frame};
}

static struct talk *talk_new(struct sink *s, uint16_t client_port)
{
	struct talk *t = calloc(1, sizeof(*t));
	const struct frame_flow_open open = {.session = {1, (uint8_t)client_port},
					     .family = 4,
					     .client_addr = {10, 0, 0, 1},
					     .server_addr = {10, 0, 0, 2},
					     .client_port = client_port,
					     .server_port = 443};

	t->s = s;
	forge_init(&t->flow, &open, 0, 1500);
	return t;
}

static void say(struct talk *t, enum flow_dir dir, size_t len)
{
	static const uint8_t zero[100000];
	struct forge_out out = out_of(t);

	forge_data(&t->flow, &out, dir, span_of(zero, len), true, 0);
}

/* Returns the size of the largest frame; large ones are checked as what they stand for. */
static size_t receive_talks(int fd, struct check *k)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	static uint8_t frame[70000];
	unsigned failed = 0;
	size_t most = 0;

	while (failed < 3 && poll(&p, 1, 200) == 1) {
		ssize_t got = recv(fd, frame, sizeof(frame), MSG_DONTWAIT);

		if (got > 0 && (frame[12] != 8 || frame[13] != 0))
			continue; /* IPv6 of the kernel's own */
		if (got > 1518)
			check_large(k, frame, (size_t)got, 1460, k->packets, true);
		else if (got > 0)
			check_frame(k, frame, (size_t)got, k->packets, true);
		else
			failed++;
		if (got > 0 && (size_t)got > most)
			most = (size_t)got;
	}
	return most;
}

/* Large frames */

static void large_to_sink(void *ctx, struct span l2, uint64_t ts_ns, bool first)
{
	struct talk *t = ctx;
	const struct sink_flow flow = {.segment = t->segment};

	sink_iface_ops.packet(t->s, l2, ts_ns, &flow, first);
}

static size_t more_to_sink(void *ctx, struct span head, struct span payload, uint16_t segment,
			   uint16_t *ip_id)
{
	return sink_iface_ops.more(((struct talk *)ctx)->s, head, payload, segment, ip_id);
}

static void say_large(struct talk *t, enum flow_dir dir, size_t len)
{
	static const uint8_t zero[100000];
	struct forge_out out = out_of(t);

	out.emit = large_to_sink;
	out.more = more_to_sink;
	out.segment = &t->segment;
	forge_data(&t->flow, &out, dir, span_of(zero, len), true, 0);
}

static void test_large_frames_arrive_whole_or_cut(void **state)
{
	const struct sink_conf conf = {.kind = "iface", .target = "sinkout", .large = SINK_YES};

	(void)state;
	need_namespace();
	for (int cut = 0; cut <= !system("command -v ethtool >/dev/null"); cut++) {
		struct check *k = calloc(1, sizeof(*k));
		struct sink *s = NULL;
		uint64_t cuts, dropped;
		struct talk *t;
		int fd;

		make_pair();
		if (cut)
			run("ethtool -K sinkout tso off tx off >/dev/null");
		fd = open_receiver_of(ETH_P_IP);
		k->mtu = 1500;
		k->is_large = true;
		assert_int_equal(sink_iface_ops.open(&s, &conf), 0);
		assert_true(sink_iface_ops.cuts(s));
		t = talk_new(s, 1111);
		say_large(t, FLOW_C2S, 100);
		say_large(t, FLOW_S2C, 100000);
		for (unsigned i = 0; i < 100; i++)
			say_large(t, FLOW_S2C, 16384);
		sink_iface_ops.flush(s);
		assert_int_equal(receive_talks(fd, k), cut ? 1514 : 64240 + 54);
		assert_null(k->err);
		assert_int_equal(k->payload_bytes, 100 + 100000 + 100 * 16384);
		assert_int_equal(check_open_flows(k), 1);
		cuts = counter_value("sink_iface_flows_cut");
		dropped = counter_value("sink_iface_lost_dropped");
		run("ip link set sinkin down");
		catch_log();
		say_large(t, FLOW_S2C, 100000);
		sink_iface_ops.tick(s, 0);
		(void)caught_log();
		/* through a queue it is not known whose packets were dropped */
		assert_int_equal(counter_value("sink_iface_flows_cut") - cuts, cut ? 0 : 1);
		assert_int_equal(counter_value("sink_iface_lost_dropped") > dropped, cut);
		sink_iface_ops.close(s);
		free(t);
		free(k);
		close(fd);
		delete_pair();
	}
}

static void test_where_large_frames_are_refused_others_follow(void **state)
{
	const struct sink_conf conf = {.kind = "iface", .target = "sinkout", .large = SINK_YES};
	struct check *k = calloc(1, sizeof(*k));
	struct sink *s = NULL;
	struct talk *t;
	int fd;

	(void)state;
	need_namespace();
	make_pair();
	fd = open_receiver_of(ETH_P_IP);
	k->mtu = 1500;
	assert_int_equal(sink_iface_ops.open(&s, &conf), 0);
	t = talk_new(s, 1111);
	say_large(t, FLOW_C2S, 100);
	refuses_large = true;
	catch_log();
	say_large(t, FLOW_S2C, 50000);
	sink_iface_ops.flush(s);
	assert_int_equal(count_of(caught_log(), "takes no large frames: Invalid argument"), 1);
	refuses_large = false;
	assert_false(sink_iface_ops.cuts(s));
	say_large(t, FLOW_S2C, 50000);
	free(t);
	t = talk_new(s, 2222);
	say(t, FLOW_S2C, 50000);
	sink_iface_ops.flush(s);
	assert_int_equal(receive_talks(fd, k), 1514);
	assert_null(k->err);
	assert_int_equal(k->payload_bytes, 100 + 50000);
	assert_int_equal(k->rsts, 1); /* of which a large one was lost */
	assert_int_equal(check_open_flows(k), 1);
	sink_iface_ops.close(s);
	free(t);
	free(k);
	close(fd);
	delete_pair();
}

/* A tag in front of IP must not confuse who cuts. The kernel takes it off where frames arrive. */
static void test_large_frames_may_have_tags(void **state)
{
	const struct sink_conf conf = {.kind = "iface", .target = "sinkout", .large = SINK_YES};
	struct check *k = calloc(1, sizeof(*k));
	struct sink *s = NULL;
	struct talk *t;
	int fd;

	(void)state;
	need_namespace();
	k->mtu = 1500;
	k->is_large = true;
	for (int cut = 0; cut <= !system("command -v ethtool >/dev/null"); cut++) {
		make_pair();
		if (cut)
			run("ethtool -K sinkout tso off tx off >/dev/null");
		fd = open_receiver_on("sinkin", ETH_P_ALL);
		assert_int_equal(sink_iface_ops.open(&s, &conf), 0);
		t = talk_new(s, (uint16_t)(2000 + cut));
		t->flow.vlan = 9;
		say_large(t, FLOW_S2C, 50000);
		sink_iface_ops.flush(s);
		assert_int_equal(receive_talks(fd, k), cut ? 1514 : 50000 + 54);
		assert_null(k->err);
		assert_int_equal(k->payload_bytes, (cut + 1) * 50000);
		sink_iface_ops.close(s);
		free(t);
		close(fd);
		delete_pair();
	}
	free(k);
}

static void open_auto(struct sink **s)
{
	const struct sink_conf conf = {.kind = "iface", .target = "sinkout"};

	catch_log();
	assert_int_equal(sink_iface_ops.open(s, &conf), 0);
}

/* Nobody there has to be prepared for anything. */
static void test_a_veth_gets_many_packets_at_once_by_itself(void **state)
{
	struct check *k = calloc(1, sizeof(*k));
	uint64_t given, sent;
	struct sink *s = NULL;
	struct talk *t;
	int fd;

	(void)state;
	need_namespace();
	make_pair();
	fd = open_receiver_of(ETH_P_IP);
	k->mtu = 1500;
	k->is_large = true; /* they are acknowledged as such */
	assert_int_equal(offload_is_on("sinkout"), 1);
	open_auto(&s);
	assert_int_equal(count_of(caught_log(), "offload are switched off"), 1);
	assert_int_equal(offload_is_on("sinkout"), 0);
	assert_int_equal(offload_is_on("sinkin"), 1);
	assert_true(sink_iface_ops.cuts(s));
	given = counter_value("forge_packets");
	sent = counter_value("sink_iface_packets");
	t = talk_new(s, 1111);
	say_large(t, FLOW_C2S, 100);
	say_large(t, FLOW_S2C, 100000);
	for (unsigned i = 0; i < 100; i++)
		say_large(t, FLOW_S2C, 1000);
	sink_iface_ops.flush(s);
	assert_int_equal(receive_talks(fd, k), 1514);
	assert_null(k->err);
	assert_int_equal(k->payload_bytes, 100 + 100000 + 100 * 1000);
	assert_int_equal(k->packets, counter_value("forge_packets") - given);
	assert_int_equal(k->packets, counter_value("sink_iface_packets") - sent);
	assert_int_equal(check_open_flows(k), 1);
	sink_iface_ops.close(s);
	free(t);
	free(k);
	close(fd);
	delete_pair();
}

static void test_an_interface_with_an_address_keeps_its_offload(void **state)
{
	struct sink *s = NULL;

	(void)state;
	need_namespace();
	make_pair();
	run("ip addr add 192.0.2.1/24 dev sinkout");
	open_auto(&s);
	assert_int_equal(count_of(caught_log(), "switched off"), 0);
	assert_false(sink_iface_ops.cuts(s));
	assert_int_equal(offload_is_on("sinkout"), 1);
	sink_iface_ops.close(s);
	assert_int_equal(offload_switch_off("sinkout"), 0); /* somebody else's decision */
	open_auto(&s);
	assert_int_equal(count_of(caught_log(), "switched off"), 0);
	assert_true(sink_iface_ops.cuts(s));
	sink_iface_ops.close(s);
	delete_pair();
}

static void test_offload_that_comes_back_is_told(void **state)
{
	struct sink *s = NULL;

	(void)state;
	need_namespace();
	if (system("command -v ethtool >/dev/null"))
		skip();
	make_pair();
	open_auto(&s);
	sink_iface_ops.tick(s, NS_PER_S);
	assert_int_equal(count_of(caught_log(), "somebody has switched on"), 0);
	run("ethtool -K sinkout tx on tso on >/dev/null");
	assert_int_equal(offload_is_on("sinkout"), 1);
	catch_log();
	sink_iface_ops.tick(s, 2 * NS_PER_S);
	assert_int_equal(count_of(caught_log(), "somebody has switched on"), 1);
	assert_int_equal(offload_is_on("sinkout"), 0);
	assert_true(sink_iface_ops.cuts(s));
	sink_iface_ops.close(s);
	delete_pair();
}

/* Both when it is opened, and when it comes back later: one line, and packets as ever. */
static void test_offload_that_cannot_be_switched_off_is_left_alone(void **state)
{
	struct sink *s = NULL;
	const char *log;

	(void)state;
	need_namespace();
	if (system("command -v ethtool >/dev/null"))
		skip();
	make_pair();
	keeps_offload = true;
	open_auto(&s);
	assert_int_equal(count_of(caught_log(), "cannot be switched off: Operation not"), 1);
	assert_false(sink_iface_ops.cuts(s));
	sink_iface_ops.close(s);
	keeps_offload = false;
	open_auto(&s);
	(void)caught_log();
	assert_true(sink_iface_ops.cuts(s));
	keeps_offload = true;
	run("ethtool -K sinkout tx on tso on >/dev/null");
	catch_log();
	for (unsigned i = 1; i < 4; i++)
		sink_iface_ops.tick(s, i * NS_PER_S);
	log = caught_log();
	assert_int_equal(count_of(log, "somebody has switched on"), 1);
	assert_int_equal(count_of(log, "cannot be switched off: Operation not"), 1);
	assert_false(sink_iface_ops.cuts(s));
	keeps_offload = false;
	sink_iface_ops.close(s);
	delete_pair();
}

/* Whose packets are dropped in a queue nobody knows. */
static void test_after_drops_packets_are_single_for_a_while(void **state)
{
	struct sink *s = NULL;
	uint64_t dropped, cut;
	struct talk *t;

	(void)state;
	need_namespace();
	make_pair();
	open_auto(&s);
	sink_iface_ops.tick(s, NS_PER_S);
	t = talk_new(s, 1111);
	say_large(t, FLOW_S2C, 50000);
	run("ip link set sinkin down");
	dropped = counter_value("sink_iface_lost_dropped");
	say_large(t, FLOW_S2C, 50000);
	catch_log();
	sink_iface_ops.tick(s, 2 * NS_PER_S);
	assert_true(counter_value("sink_iface_lost_dropped") > dropped);
	assert_int_equal(count_of(caught_log(), "one by one for a while"), 1);
	assert_false(sink_iface_ops.cuts(s));
	cut = counter_value("sink_iface_flows_cut");
	say(t, FLOW_S2C, 5000);
	sink_iface_ops.flush(s);
	assert_int_equal(counter_value("sink_iface_flows_cut"), cut + 1);
	run("ip link set sinkin up");
	sink_iface_ops.tick(s, 3 * NS_PER_S);
	sink_iface_ops.tick(s, 61 * NS_PER_S);
	assert_false(sink_iface_ops.cuts(s));
	sink_iface_ops.tick(s, 62 * NS_PER_S);
	assert_true(sink_iface_ops.cuts(s));
	(void)caught_log();
	sink_iface_ops.close(s);
	free(t);
	delete_pair();
}

static void test_a_connection_that_lost_a_packet_ends(void **state)
{
	struct check *k = calloc(1, sizeof(*k));
	uint64_t cut, lost, given, sent, jammed, resets;
	struct talk *broken, *later;
	struct forge_out out;
	struct sink *s = NULL;
	int fd;

	(void)state;
	need_namespace();
	make_pair();
	fd = open_receiver_of(ETH_P_IP);
	k->mtu = 1500;
	cut = counter_value("sink_iface_flows_cut");
	lost = counter_value("sink_iface_lost_cut");
	given = counter_value("forge_packets");
	sent = counter_value("sink_iface_packets");
	jammed = counter_value("sink_iface_lost_nobufs");
	resets = counter_value("sink_iface_resets");
	assert_int_equal(open_sink(&s, "sinkout"), 0);
	broken = talk_new(s, 1111);
	later = talk_new(s, 2222);
	say(broken, FLOW_C2S, 100);
	sink_iface_ops.flush(s);
	run("ip link set sinkin down");
	catch_log();
	say(broken, FLOW_S2C, 100000); /* more than a batch, ... */
	sink_iface_ops.flush(s);
	say(broken, FLOW_C2S, 100); /* and later ones */
	sink_iface_ops.flush(s);
	(void)caught_log();
	assert_int_equal(counter_value("sink_iface_flows_cut") - cut, 1);
	run("ip link set sinkin up");
	sink_iface_ops.tick(s, 0);
	say(broken, FLOW_S2C, 5000);
	say(later, FLOW_C2S, 100);
	sink_iface_ops.flush(s);
	(void)receive_talks(fd, k);
	assert_null(k->err);
	assert_int_equal(k->payload_bytes, 200);
	assert_int_equal(k->rsts, 1);
	assert_int_equal(check_open_flows(k), 1);
	assert_int_equal(k->flow[0].stage, 0); /* the broken one */
	out = out_of(broken);
	forge_fin(&broken->flow, &out, FLOW_C2S, 0);
	forge_fin(&broken->flow, &out, FLOW_S2C, 0);
	out = out_of(later);
	forge_fin(&later->flow, &out, FLOW_C2S, 0);
	forge_rst(&later->flow, &out, FLOW_S2C, 0);
	free(broken);
	broken = talk_new(s, 1111);
	say(broken, FLOW_C2S, 3000); /* the same addresses and ports again */
	sink_iface_ops.flush(s);
	(void)receive_talks(fd, k);
	assert_null(k->err);
	assert_int_equal(k->payload_bytes, 3200);
	assert_int_equal(k->syns, 3);
	assert_int_equal(counter_value("sink_iface_flows_cut") - cut, 1);
	/* each packet that was forged, or made here, was sent or is counted */
	assert_int_equal(counter_value("forge_packets") - given +
				 counter_value("sink_iface_resets") - resets,
			 counter_value("sink_iface_packets") - sent +
				 counter_value("sink_iface_lost_cut") - lost +
				 counter_value("sink_iface_lost_nobufs") - jammed);
	sink_iface_ops.close(s);
	free(broken);
	free(later);
	free(k);
	close(fd);
	delete_pair();
}

static void test_connections_of_a_lost_interface_end_when_it_is_back(void **state)
{
	struct check *k = calloc(1, sizeof(*k));
	uint64_t cut;
	struct talk *t;
	struct sink *s = NULL;
	int fd;

	(void)state;
	need_namespace();
	make_pair();
	fd = open_receiver_of(ETH_P_IP);
	k->mtu = 1500;
	cut = counter_value("sink_iface_flows_cut");
	assert_int_equal(open_sink(&s, "sinkout"), 0);
	t = talk_new(s, 1111);
	say(t, FLOW_C2S, 100);
	sink_iface_ops.flush(s);
	catch_log();
	run("ip link set sinkout down");
	say(t, FLOW_S2C, 100);
	sink_iface_ops.flush(s);
	say(t, FLOW_S2C, 100);
	assert_int_equal(counter_value("sink_iface_flows_cut") - cut, 1);
	run("ip link set sinkout up");
	sink_iface_ops.tick(s, 0);
	(void)caught_log();
	say(t, FLOW_S2C, 100);
	sink_iface_ops.flush(s);
	(void)receive_talks(fd, k);
	assert_null(k->err);
	assert_int_equal(k->payload_bytes, 100);
	assert_int_equal(k->rsts, 1);
	assert_int_equal(check_open_flows(k), 0);
	sink_iface_ops.close(s);
	free(t);
	free(k);
	close(fd);
	delete_pair();
}

/* All protocols: such a socket also sees what is sent. */
static unsigned seen_of(int fd, uint32_t first)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	uint8_t frame[70000];
	unsigned n = 0;

	while (poll(&p, 1, 100) == 1 && recv(fd, frame, sizeof(frame), MSG_DONTWAIT) > 0) {
		uint32_t i;

		memcpy(&i, frame + 14, sizeof(i));
		n += frame[12] == PROTO >> 8 && frame[13] == (PROTO & 0xff) && i == first + n;
	}
	return n;
}

static void put_ten(struct sink *s)
{
	for (uint32_t i = 0; i < 10; i++)
		put(s, i, 100);
	sink_iface_ops.flush(s);
}

static void test_who_listens_on_the_interface_itself_sees_packets(void **state)
{
	struct sink *s = NULL;
	int peer, own;

	(void)state;
	need_namespace();
	make_pair();
	peer = open_receiver();
	assert_int_equal(open_sink(&s, "sinkout"), 0);
	own = open_receiver_on("sinkout", ETH_P_ALL);
	put_ten(s); /* nobody was there when it was opened */
	assert_int_equal(seen_of(own, 0), 0);
	assert_int_equal(receive(peer, 0, 100), 10);
	catch_log();
	sink_iface_ops.tick(s, 0);
	put_ten(s);
	assert_int_equal(seen_of(own, 0), 10);
	assert_int_equal(receive(peer, 0, 100), 10);
	close(own);
	sink_iface_ops.tick(s, 0);
	assert_int_equal(count_of(caught_log(), "who listens on the interface itself sees them"),
			 1);
	own = open_receiver_on("sinkout", PROTO); /* never sees what is sent: does not count */
	sink_iface_ops.tick(s, 0);
	put_ten(s);
	assert_int_equal(seen_of(own, 0), 0);
	assert_int_equal(receive(peer, 0, 100), 10);
	sink_iface_ops.close(s);
	close(own);

	own = open_receiver_on("sinkout", ETH_P_ALL);
	assert_int_equal(open_sink_with(&s, SINK_YES, SINK_AUTO), 0);
	put_ten(s);
	assert_int_equal(receive(peer, 0, 100), 10);
	sink_iface_ops.tick(s, 0);
	put_ten(s);
	assert_int_equal(receive(peer, 0, 100), 10);
	assert_int_equal(seen_of(own, 0), 0);
	sink_iface_ops.close(s);
	assert_int_equal(open_sink_with(&s, SINK_NO, SINK_AUTO), 0);
	put_ten(s);
	assert_int_equal(seen_of(own, 0), 10);
	sink_iface_ops.close(s);
	assert_int_equal(receive(peer, 0, 100), 10);
	close(own);
	close(peer);
	delete_pair();
}

/* Past no queue, a packet counts as sent that the interface then drops. */
static void test_what_the_interface_drops_later_is_counted(void **state)
{
	uint64_t dropped;
	struct sink *s = NULL;

	(void)state;
	need_namespace();
	make_pair();
	assert_int_equal(open_sink_with(&s, SINK_NO, SINK_AUTO), 0);
	dropped = counter_value("sink_iface_lost_dropped");
	run("ip link set sinkin down");
	catch_log();
	put_ten(s);
	sink_iface_ops.tick(s, 0);
	assert_int_equal(count_of(caught_log(), "dropped packets that it had taken"), 1);
	/* the kernel sends now and then as well */
	assert_in_range(counter_value("sink_iface_lost_dropped") - dropped, 10, 20);
	sink_iface_ops.close(s);
	delete_pair();
}

static void test_a_test_frame_that_does_not_leave_is_told(void **state)
{
	struct sink *s = NULL;
	uint64_t lost;
	int own;

	(void)state;
	need_namespace();
	make_pair();
	lost = counter_value("sink_iface_lost_nobufs");
	run("ip link set sinkin down");
	catch_log();
	assert_int_equal(open_sink(&s, "sinkout"), 0);
	assert_int_equal(count_of(caught_log(), "a test frame did not leave"), 1);
	sink_iface_ops.close(s);
	own = open_receiver_on("sinkout", ETH_P_ALL);
	catch_log();
	assert_int_equal(open_sink(&s, "sinkout"), 0);
	assert_int_equal(count_of(caught_log(), "a test frame left and did not arrive"), 1);
	sink_iface_ops.close(s);
	close(own);
	run("ip link set sinkin up");
	catch_log();
	assert_int_equal(open_sink(&s, "sinkout"), 0);
	assert_int_equal(count_of(caught_log(), "test frame"), 0);
	sink_iface_ops.close(s);
	assert_int_equal(counter_value("sink_iface_lost_nobufs"),
			 lost); /* no packet of anybody's */
	delete_pair();
}

static void test_af_xdp_can_be_switched_off(void **state)
{
	struct sink *s = NULL;
	int fd;

	(void)state;
	need_namespace();
	make_pair();
	fd = open_receiver();
	catch_log();
	assert_int_equal(open_sink_with(&s, SINK_AUTO, SINK_NO), 0);
	sink_iface_ops.tick(s, 0);
	put_ten(s);
	assert_int_equal(count_of(caught_log(), "through AF_XDP"), 0);
	assert_int_equal(receive(fd, 0, 100), 10);
	sink_iface_ops.close(s);
	close(fd);
	delete_pair();
}

/* Which of two interfaces each of 64 connections goes to, both directions; -1: none. */
static void share_out(struct sink *s, const int fd[2], int where[64])
{
	uint8_t frame[70000];

	for (unsigned i = 0; i < 128; i++) {
		bool back = i % 2 == 1;
		struct frame_flow_open o = {.family = 4,
					    .client_addr = {10, 0, 0, back ? 2 : 1},
					    .server_addr = {10, 0, 0, back ? 1 : 2},
					    .client_port = (uint16_t)(back ? 443 : 5000 + i / 2),
					    .server_port = (uint16_t)(back ? 5000 + i / 2 : 443)};
		const struct sink_flow flow = {.open = &o};

		fill(frame, i, 100);
		sink_fan_ops.packet(s, span_of(frame, 100), 0, &flow, false);
		if (i % 60 == 0)
			sink_fan_ops.flush(s);
	}
	sink_fan_ops.flush(s);
	memset(where, -1, 64 * sizeof(*where));
	for (int at = 0; at < 2; at++) {
		struct pollfd p = {.fd = fd[at], .events = POLLIN};
		uint32_t i;

		while (poll(&p, 1, 100) == 1 && recv(fd[at], frame, sizeof(frame), 0) == 100) {
			memcpy(&i, frame + 14, sizeof(i));
			assert_true(where[i / 2] == (i % 2 ? at : -1));
			where[i / 2] = at;
		}
	}
}

static void test_connections_are_shared_out_among_interfaces(void **state)
{
	const struct sink_conf conf = {.kind = "fan", .target = "sinkout|fanout"};
	const struct sink_conf bad = {.kind = "fan", .target = "sinkout|nosuch0"};
	int fd[2], first[64], later[64];
	unsigned n[2] = {0};
	struct sink *s = NULL;

	(void)state;
	need_namespace();
	make_pair();
	run("ip link add fanout type veth peer name fanin && "
	    "ip link set fanin up && ip link set fanout up mtu 1400");
	fd[0] = open_receiver();
	fd[1] = open_receiver_on("fanin", PROTO);
	catch_log();
	assert_int_equal(sink_fan_ops.open(&s, &bad), -ENODEV);
	assert_int_equal(sink_fan_ops.open(&s, &conf), 0);
	assert_int_equal(sink_fan_ops.mtu(s), 1400);
	share_out(s, fd, first);
	for (unsigned i = 0; i < 64; i++)
		n[first[i] == 1]++;
	assert_in_range(n[0], 16, 48);
	run("ip link set fanout down");
	share_out(s, fd, later);
	for (unsigned i = 0; i < 64; i++)
		assert_int_equal(later[i], first[i] == 0 ? 0 : -1);
	run("ip link set fanout up");
	sink_fan_ops.tick(s, 0);
	share_out(s, fd, later);
	assert_memory_equal(first, later, sizeof(first));
	sink_fan_ops.close(s);
	assert_int_equal(count_of(caught_log(), "interface fanout is down"), 1);
	close(fd[0]);
	close(fd[1]);
	run("ip link del fanout");
	delete_pair();
}

static void test_what_cannot_work_is_refused(void **state)
{
	struct sink *s = NULL;
	const char *log;

	(void)state;
	need_namespace();
	catch_log();
	assert_int_equal(open_sink(&s, "nosuch0"), -ENODEV);
	assert_int_equal(open_sink(&s, "lo"), -EINVAL);
	assert_int_equal(open_sink(&s, "a-name-that-is-too-long"), -EINVAL);
	assert_int_equal(open_sink(&s, ""), -EINVAL);
	log = caught_log();
	assert_int_equal(count_of(log, "nosuch0 does not exist; list interfaces with `ip link`"),
			 1);
	assert_int_equal(count_of(log, "\n"), 4);
	assert_null(s);
}

static void test_an_address_on_the_interface_is_warned_of(void **state)
{
	struct sink *s = NULL;

	(void)state;
	need_namespace();
	make_pair();
	catch_log();
	assert_int_equal(open_sink(&s, "sinkout"), 0);
	sink_iface_ops.close(s);
	assert_int_equal(count_of(caught_log(), "has an IP address"),
			 0); /* link-local alone is silent */
	run("ip addr add 192.0.2.1/24 dev sinkout && ip addr add 192.0.2.2/24 dev sinkout");
	catch_log();
	assert_int_equal(open_sink(&s, "sinkout"), 0);
	sink_iface_ops.close(s);
	assert_int_equal(count_of(caught_log(), "has an IP address"), 1);
	delete_pair();
}

static int enter_namespace(void **state)
{
	int fd = mkstemp(errors);

	(void)state;
	if (fd < 0)
		return -1;
	close(fd);
	is_ready = !unshare(CLONE_NEWNET) && !system("ip link add sinkx type veth peer name sinky "
						     "2>/dev/null && ip link del sinkx && "
						     "ip link set lo up");
	return 0;
}

static int remove_file(void **state)
{
	(void)state;
	return unlink(errors);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_frames_arrive_whole_and_in_order),
		cmocka_unit_test(test_two_sinks_on_one_interface_both_send),
		cmocka_unit_test(test_frames_built_in_place_arrive),
		cmocka_unit_test(test_a_tag_may_exceed_the_mtu),
		cmocka_unit_test(test_a_frame_over_the_mtu_is_counted_and_the_rest_goes_on),
		cmocka_unit_test(test_an_interface_that_goes_away_is_waited_for),
		cmocka_unit_test(test_an_idle_sink_notices_a_new_interface_of_the_same_name),
		cmocka_unit_test(test_an_interface_that_is_down_is_waited_for),
		cmocka_unit_test(test_a_dead_peer_costs_packets_but_no_time),
		cmocka_unit_test(test_large_frames_arrive_whole_or_cut),
		cmocka_unit_test(test_large_frames_may_have_tags),
		cmocka_unit_test(test_where_large_frames_are_refused_others_follow),
		cmocka_unit_test(test_a_veth_gets_many_packets_at_once_by_itself),
		cmocka_unit_test(test_an_interface_with_an_address_keeps_its_offload),
		cmocka_unit_test(test_offload_that_comes_back_is_told),
		cmocka_unit_test(test_offload_that_cannot_be_switched_off_is_left_alone),
		cmocka_unit_test(test_after_drops_packets_are_single_for_a_while),
		cmocka_unit_test(test_a_connection_that_lost_a_packet_ends),
		cmocka_unit_test(test_connections_of_a_lost_interface_end_when_it_is_back),
		cmocka_unit_test(test_connections_are_shared_out_among_interfaces),
		cmocka_unit_test(test_who_listens_on_the_interface_itself_sees_packets),
		cmocka_unit_test(test_what_the_interface_drops_later_is_counted),
		cmocka_unit_test(test_a_test_frame_that_does_not_leave_is_told),
		cmocka_unit_test(test_af_xdp_can_be_switched_off),
		cmocka_unit_test(test_what_cannot_work_is_refused),
		cmocka_unit_test(test_an_address_on_the_interface_is_warned_of),
	};

	int failed = cmocka_run_group_tests_name("as it is", tests, enter_namespace, NULL);

	is_plain = true;
	return failed + cmocka_run_group_tests_name("packet socket", tests, NULL, remove_file);
}
