/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sink_tcp: readers on loopback; what they get is read by libpcap, which knows nothing of our
 * writer. Waits are bounded, and for what happens, not for a time.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pcap/pcap.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "../../collector/sink.h"
#include "base/log.h"
#include "counters.h"

#define WAIT_MS 10000
#define TS      1700000000123456789ull

static char target[32];

static struct sockaddr_in loopback(uint16_t port)
{
	return (struct sockaddr_in){.sin_family = AF_INET,
				    .sin_port = htons(port),
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

/* A socket that listens on a port of the kernel's choice. */
static int listener(uint16_t *port)
{
	struct sockaddr_in a = loopback(0);
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 5), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	*port = ntohs(a.sin_port);
	return fd;
}

static uint16_t open_server(struct sink **s, bool pcapng)
{
	struct sink_conf conf = {.kind = "pcap-over-ip", .target = target, .pcapng = pcapng};
	uint16_t port;
	int err = -EADDRINUSE;

	/* a port that was free a moment ago may be another's connection now */
	for (unsigned i = 0; i < 10 && err == -EADDRINUSE; i++) {
		close(listener(&port));
		snprintf(target, sizeof(target), "%u", port);
		err = sink_tcp_ops.open(s, &conf);
	}
	assert_int_equal(err, 0);
	return port;
}

static int join(uint16_t port)
{
	struct sockaddr_in a = loopback(port);
	struct timeval tv = {.tv_sec = WAIT_MS / 1000};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)), 0);
	return fd;
}

static void nap(void)
{
	(void)usleep(2000);
}

/* Until the counter has grown by n since `from`. */
static void until(const char *counter, uint64_t from, uint64_t n)
{
	for (unsigned i = 0; i < WAIT_MS / 2 && counter_named(counter) < from + n; i++)
		nap();
	assert_true(counter_named(counter) >= from + n);
}

static void put(struct sink *s, unsigned i, size_t len)
{
	static uint8_t bytes[70000];
	struct frame_flow_open o = {.pid = 7, .comm = span_str("curl"), .flow = 9};
	const struct sink_flow flow = {.open = &o, .host = "h"};

	memset(bytes, (int)(i & 0xff), len);
	s->ops->packet(s, span_of(bytes, len), TS + i * 1000ull, &flow, true);
}

static void put_some(struct sink *s, unsigned from, unsigned n)
{
	for (unsigned i = from; i < from + n; i++)
		put(s, i, 100 + i % 1000);
	s->ops->flush(s);
}

/* Reads n packets that begin with number `from`; the stream goes on. */
static pcap_t *read_packets(pcap_t *p, int fd, unsigned from, unsigned n)
{
	char err[PCAP_ERRBUF_SIZE] = "";
	struct pcap_pkthdr *h;
	const u_char *data;

	if (!p)
		p = pcap_fopen_offline(fdopen(fd, "rb"), err);
	if (!p)
		fail_msg("libpcap: %s", err);
	for (unsigned i = from; i < from + n; i++) {
		if (pcap_next_ex(p, &h, &data) != 1)
			fail_msg("packet %u of %u: %s", i, n, pcap_geterr(p));
		assert_int_equal(h->caplen, 100 + i % 1000);
		assert_int_equal(h->ts.tv_sec, 1700000000);
		assert_int_equal(h->ts.tv_usec, 123456 + i);
		for (size_t k = 0; k < h->caplen; k++)
			assert_int_equal(data[k], i & 0xff);
	}
	return p;
}

static void assert_ends(pcap_t *p)
{
	struct pcap_pkthdr *h;
	const u_char *data;

	assert_int_equal(pcap_next_ex(p, &h, &data), PCAP_ERROR_BREAK);
	pcap_close(p);
}

static void serve_three(bool pcapng)
{
	uint64_t begun = counter_named("sink_tcp_readers");
	struct sink *s;
	uint16_t port = open_server(&s, pcapng);
	int a, b, c;
	pcap_t *pa, *pb, *pc;

	put_some(s, 0, 10); /* nobody is there: nobody gets them */
	a = join(port);
	b = join(port);
	until("sink_tcp_readers", begun, 2);
	put_some(s, 0, 500);
	pa = read_packets(NULL, a, 0, 500);
	pb = read_packets(NULL, b, 0, 300);
	c = join(port); /* late */
	until("sink_tcp_readers", begun, 3);
	put_some(s, 500, 500);
	pc = read_packets(NULL, c, 500, 500);
	read_packets(pa, a, 500, 500);
	read_packets(pb, b, 300, 700);
	pcap_close(pb); /* leaves */
	put_some(s, 1000, 3);
	s->ops->close(s);
	read_packets(pa, a, 1000, 3);
	assert_ends(pa);
	read_packets(pc, c, 1000, 3);
	assert_ends(pc);
}

static void test_each_reader_gets_a_header_and_whole_packets(void **state)
{
	(void)state;
	serve_three(false);
}

static void test_pcapng_is_served_when_it_is_wanted(void **state)
{
	(void)state;
	serve_three(true);
}

static void test_a_reader_that_sends_or_half_closes_is_served_on(void **state)
{
	uint64_t begun = counter_named("sink_tcp_readers");
	struct sink *s;
	uint16_t port = open_server(&s, false);
	int fd = join(port);
	pcap_t *p;

	(void)state;
	until("sink_tcp_readers", begun, 1);
	assert_int_equal(send(fd, "GET / HTTP/1.0\r\n\r\n", 18, 0), 18);
	assert_int_equal(shutdown(fd, SHUT_WR), 0);
	put_some(s, 0, 50);
	p = read_packets(NULL, fd, 0, 50);
	s->ops->close(s);
	assert_ends(p);
}

/* One does not read; the other gets all, and the one that gives packets never waits. */
static void test_a_slow_reader_is_dropped_and_stops_nobody(void **state)
{
	uint64_t begun = counter_named("sink_tcp_readers");
	uint64_t dropped = counter_named("sink_tcp_readers_dropped");
	struct sink *s;
	uint16_t port = open_server(&s, false);
	int slow = join(port), good = join(port), small = 4096;
	pcap_t *p = NULL;
	char bytes[65536];
	ssize_t n;

	(void)state;
	assert_int_equal(setsockopt(slow, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)), 0);
	until("sink_tcp_readers", begun, 2);
	for (unsigned i = 0; i < 100000 && counter_named("sink_tcp_readers_dropped") == dropped;
	     i += 1000) { /* the timestamps of read_packets() end at 876543 */
		put_some(s, i, 1000);
		p = read_packets(p, good, i, 1000);
	}
	assert_int_equal(counter_named("sink_tcp_readers_dropped"), dropped + 1);
	while ((n = recv(slow, bytes, sizeof(bytes), 0)) > 0)
		;
	assert_int_equal(n, -1); /* reset: it must not take what it has for all */
	assert_int_equal(errno, ECONNRESET);
	close(slow);
	s->ops->close(s);
	assert_ends(p);
}

static void test_there_is_a_limit_of_readers(void **state)
{
	uint64_t begun = counter_named("sink_tcp_readers");
	uint64_t refused = counter_named("sink_tcp_readers_refused");
	struct sink *s;
	uint16_t port = open_server(&s, false);
	int fd[33];
	char byte;

	(void)state;
	for (unsigned i = 0; i < 32; i++)
		fd[i] = join(port);
	until("sink_tcp_readers", begun, 32);
	fd[32] = join(port);
	until("sink_tcp_readers_refused", refused, 1);
	assert_int_equal(recv(fd[32], &byte, 1, 0), 0);
	/* one leaves without a word: there is room again */
	close(fd[0]);
	fd[0] = -1;
	for (unsigned i = 0; i < 100 && counter_named("sink_tcp_readers") < begun + 33; i++) {
		close(fd[32]);
		refused = counter_named("sink_tcp_readers_refused");
		fd[32] = join(port);
		for (unsigned k = 0; k < WAIT_MS / 2; k++) { /* for the answer to this one */
			if (counter_named("sink_tcp_readers") == begun + 33 ||
			    counter_named("sink_tcp_readers_refused") > refused)
				break;
			nap();
		}
	}
	assert_int_equal(recv(fd[32], &byte, 1, 0), 1);
	for (unsigned i = 1; i <= 32; i++)
		close(fd[i]);
	s->ops->close(s);
}

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Who connects waits in the kernel's queue, which would wake the thread without end. */
static void test_out_of_descriptors_it_waits_and_takes_them_later(void **state)
{
	uint64_t begun = counter_named("sink_tcp_readers");
	uint64_t failed = counter_named("sink_tcp_accept_failed"), before, since;
	struct rlimit files, few;
	struct sink *s;
	uint16_t port = open_server(&s, false);
	struct sockaddr_in to = loopback(port);
	int fd = join(port), second, spare;

	(void)state;
	until("sink_tcp_readers", begun, 1);
	second = socket(AF_INET, SOCK_STREAM, 0);
	spare = dup(second); /* the next number, */
	close(spare);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
	few = files;
	few.rlim_cur = (rlim_t)spare; /* which there is not */
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	assert_int_equal(connect(second, (struct sockaddr *)&to, sizeof(to)), 0);
	until("sink_tcp_accept_failed", failed, 1);
	before = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	since = clock_ns(CLOCK_MONOTONIC);
	for (unsigned i = 0; i < 150; i++)
		nap();
	assert_true(clock_ns(CLOCK_PROCESS_CPUTIME_ID) - before < 100000000); /* of 300 ms */
	since = clock_ns(CLOCK_MONOTONIC) - since;
	assert_true(counter_named("sink_tcp_accept_failed") < failed + 4 + since / 50000000);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
	until("sink_tcp_readers", begun, 2);
	close(fd);
	close(second);
	s->ops->close(s);
}

static void test_a_port_that_is_taken_is_an_error(void **state)
{
	uint16_t port;
	int fd = listener(&port);
	struct sink_conf conf = {.kind = "pcap-over-ip", .target = target};
	struct sink *s = NULL;

	(void)state;
	snprintf(target, sizeof(target), "127.0.0.1:%u", port);
	assert_int_equal(sink_tcp_ops.open(&s, &conf), -EADDRINUSE);
	assert_null(s);
	close(fd);
}

static int take_call(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	struct timeval tv = {.tv_sec = WAIT_MS / 1000};
	int got;

	assert_int_equal(poll(&p, 1, WAIT_MS), 1);
	got = accept(fd, NULL, NULL);
	assert_true(got >= 0);
	assert_int_equal(setsockopt(got, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)), 0);
	return got;
}

static void test_a_receiver_is_called_again_and_again(void **state)
{
	uint64_t begun = counter_named("sink_tcp_readers");
	uint64_t lost = counter_named("sink_tcp_lost_gone");
	struct sink_conf conf = {.kind = "pcap-over-ip-to", .target = target};
	struct sink *s = NULL;
	uint16_t port;
	int fd = listener(&port), call;
	pcap_t *p;

	(void)state;
	snprintf(target, sizeof(target), "localhost:%u", port);
	assert_int_equal(sink_dial_ops.open(&s, &conf), 0);
	for (unsigned round = 0; round < 2; round++) {
		call = take_call(fd);
		until("sink_tcp_readers", begun, round + 1);
		put_some(s, 0, 50);
		p = read_packets(NULL, call, 0, 50);
		assert_int_equal(counter_named("sink_tcp_lost_gone"), lost);
		pcap_close(p); /* hangs up */
		for (unsigned i = 0; i < WAIT_MS && counter_named("sink_tcp_lost_gone") == lost;
		     i++) {
			put_some(s, 0, 1);
			nap();
		}
		assert_true(counter_named("sink_tcp_lost_gone") > lost);
		lost = counter_named("sink_tcp_lost_gone");
	}
	close(fd);
	s->ops->close(s);
}

static void test_addresses_are_split(void **state)
{
	static const struct {
		const char *text, *host;
		int port;
	} rows[] = {
		{"57012", "", 57012},
		{"127.0.0.1:1", "127.0.0.1", 1},
		{"[::1]:65535", "::1", 65535},
		{"[::1]", "::1", 9},
		{"host.example", "host.example", 9},
		{"host:80", "host", 80},
		{"0", NULL, 0},
		{"65536", NULL, 0},
		{"", NULL, 0},
		{":80", NULL, 0},
		{"[::1", NULL, 0},
		{"[::1]80", NULL, 0},
		{"[]:80", NULL, 0},
		{"::1", NULL, 0},
		{"host:", NULL, 0},
		{"host:8x", NULL, 0},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		char host[256];
		uint16_t port = 9;
		int err = sink_split_address(rows[i].text, host, &port);

		if (!rows[i].host) {
			if (err != -EINVAL)
				fail_msg("%s was taken", rows[i].text);
			continue;
		}
		assert_int_equal(err, 0);
		assert_string_equal(host, rows[i].host);
		assert_int_equal(port, rows[i].port);
	}
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
		cmocka_unit_test(test_each_reader_gets_a_header_and_whole_packets),
		cmocka_unit_test(test_pcapng_is_served_when_it_is_wanted),
		cmocka_unit_test(test_a_reader_that_sends_or_half_closes_is_served_on),
		cmocka_unit_test(test_a_slow_reader_is_dropped_and_stops_nobody),
		cmocka_unit_test(test_there_is_a_limit_of_readers),
		cmocka_unit_test(test_out_of_descriptors_it_waits_and_takes_them_later),
		cmocka_unit_test(test_a_port_that_is_taken_is_an_error),
		cmocka_unit_test(test_a_receiver_is_called_again_and_again),
		cmocka_unit_test(test_addresses_are_split),
	};

	return cmocka_run_group_tests(tests, quiet, NULL);
}
