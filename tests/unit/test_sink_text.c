/* SPDX-License-Identifier: Apache-2.0 */
/* sink_text: lines are caught through a pipe (or a pseudo terminal) that stands for standard
 * output. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../../collector/sink.h"
#include "base/log.h"
#include "base/metrics.h"

#define TS 1700000000789012345ull /* 22:13:20.789012 UTC */

static struct frame_flow_open v4(uint64_t id)
{
	return (struct frame_flow_open){
		.flow = id,
		.family = 4,
		.pid = 1234,
		.client_addr = {10, 0, 0, 1},
		.server_addr = {10, 0, 0, 2},
		.client_port = 51514,
		.server_port = 443,
		.comm = span_str("nginx"),
	};
}

static int open_on(struct sink **s, int fd)
{
	const struct sink_conf conf = {.kind = "text"};
	int saved = dup(STDOUT_FILENO), ret;

	fflush(stdout);
	dup2(fd, STDOUT_FILENO);
	ret = sink_text_ops.open(s, &conf);
	dup2(saved, STDOUT_FILENO);
	close(saved);
	return ret;
}

struct catcher {
	struct sink *s;
	int fd;
};

static struct catcher begin(void)
{
	struct catcher c = {0};
	int p[2];

	assert_int_equal(pipe(p), 0);
	assert_int_equal(open_on(&c.s, p[1]), 0);
	close(p[1]);
	c.fd = p[0];
	return c;
}

/* What is there now. */
static const char *caught(const struct catcher *c)
{
	static char text[1 << 20];
	struct pollfd p = {.fd = c->fd, .events = POLLIN};
	size_t n = 0;
	ssize_t got;

	while (poll(&p, 1, 0) == 1 && (got = read(c->fd, text + n, sizeof(text) - 1 - n)) > 0)
		n += (size_t)got;
	text[n] = '\0';
	return text;
}

static void end(struct catcher *c)
{
	sink_text_ops.close(c->s);
	close(c->fd);
}

static void say(struct catcher *c, uint64_t flow, enum flow_dir dir, const void *p, size_t n,
		bool last)
{
	const struct frame_flow_open o = v4(flow);
	const struct sink_flow f = {.open = &o, .host = "web1"};

	sink_text_ops.message(c->s, &f, dir, span_of(p, n), last, TS);
}

#define SAY(c, flow, dir, text, last) say(c, flow, dir, text, sizeof(text) - 1, last)
#define C2S                           "22:13:20.789012 nginx[1234] 10.0.0.1:51514 > 10.0.0.2:443 "
#define S2C                           "22:13:20.789012 nginx[1234] 10.0.0.2:443 > 10.0.0.1:51514 "

static void test_a_message_is_one_line(void **state)
{
	struct catcher c = begin();

	(void)state;
	SAY(&c, 1, FLOW_C2S, "GET /index.html HTTP/1.1\r\nHost: x\r\n\r\n", true);
	assert_string_equal(caught(&c), C2S "GET /index.html HTTP/1.1 (37 bytes)\n");
	SAY(&c, 1, FLOW_S2C, "HTTP/1.1 200 OK\r\n\r\n", true);
	assert_string_equal(caught(&c), S2C "HTTP/1.1 200 OK (19 bytes)\n");
	SAY(&c, 1, FLOW_S2C, "ok\n", true);
	assert_string_equal(caught(&c), S2C "ok (3 bytes)\n");
	SAY(&c, 1, FLOW_S2C, "", true);
	assert_string_equal(caught(&c), "");
	end(&c);
}

static void test_binary_is_its_size(void **state)
{
	struct catcher c = begin();
	static uint8_t zeros[4096];

	(void)state;
	say(&c, 1, FLOW_C2S, zeros, sizeof(zeros), true);
	assert_string_equal(caught(&c), C2S "<4096 bytes>\n");
	SAY(&c, 1, FLOW_C2S, "ab\x01", true);
	assert_string_equal(caught(&c), C2S "<3 bytes>\n");
	SAY(&c, 1, FLOW_C2S, "\r\nabc", true);
	assert_string_equal(caught(&c), C2S "<5 bytes>\n");
	end(&c);
}

static void test_a_long_line_is_cut(void **state)
{
	struct catcher c = begin();
	char text[300], wanted[400];

	(void)state;
	memset(text, 'a', sizeof(text));
	say(&c, 1, FLOW_C2S, text, 120, true);
	snprintf(wanted, sizeof(wanted), C2S "%.120s (120 bytes)\n", text);
	assert_string_equal(caught(&c), wanted);
	say(&c, 1, FLOW_C2S, text, 121, true);
	snprintf(wanted, sizeof(wanted), C2S "%.120s... (121 bytes)\n", text);
	assert_string_equal(caught(&c), wanted);
	end(&c);
}

static const char a_long_line[] =
	"one line without an end, longer than the 120 characters that may be shown: "
	"01234567890123456789012345678901234567890123456789";

static void test_pieces_give_the_line_of_the_whole(void **state)
{
	const char *const texts[] = {
		"GET / HTTP/1.1\r\nA: b\r\n\r\n",
		"\x00\x01\x02 binary",
		a_long_line,
		"short\x01of text",
	};
	struct catcher c = begin();
	char whole[512];

	(void)state;
	for (size_t t = 0; t < sizeof(texts) / sizeof(texts[0]); t++) {
		size_t len = t == 1 ? 10 : strlen(texts[t]);

		say(&c, 1, FLOW_C2S, texts[t], len, true);
		snprintf(whole, sizeof(whole), "%s", caught(&c));
		for (size_t cut = 1; cut < len; cut++) {
			say(&c, 1, FLOW_C2S, texts[t], cut, false);
			assert_string_equal(caught(&c), "");
			say(&c, 1, FLOW_C2S, texts[t] + cut, len - cut, true);
			assert_string_equal(caught(&c), whole);
		}
		for (size_t i = 0; i < len; i++)
			say(&c, 1, FLOW_C2S, texts[t] + i, 1, i == len - 1);
		assert_string_equal(caught(&c), whole);
	}
	end(&c);
}

static void test_directions_and_flows_do_not_mix(void **state)
{
	struct catcher c = begin();

	(void)state;
	SAY(&c, 1, FLOW_C2S, "one", false);
	SAY(&c, 1, FLOW_S2C, "two", false);
	SAY(&c, 1, FLOW_S2C, "+two", true);
	assert_string_equal(caught(&c), S2C "two+two (7 bytes)\n");
	SAY(&c, 1, FLOW_C2S, "+one", true);
	assert_string_equal(caught(&c), C2S "one+one (7 bytes)\n");
	end(&c);
}

/* Every unfinished message is shown once, whether its place was needed, it went stale or we stop.
 */
static void test_unfinished_messages_are_bounded_and_shown(void **state)
{
	struct catcher c = begin();
	unsigned lines = 0;

	(void)state;
	SAY(&c, 1, FLOW_C2S, "half", false);
	for (int i = 0; i < 3; i++)
		sink_text_ops.tick(c.s, 0);
	assert_string_equal(caught(&c), "");
	sink_text_ops.tick(c.s, 0);
	assert_string_equal(caught(&c), C2S "half (4+ bytes)\n");
	sink_text_ops.tick(c.s, 0);
	assert_string_equal(caught(&c), "");
	for (uint64_t flow = 0; flow < 700; flow++)
		SAY(&c, flow, FLOW_C2S, "half", false);
	sink_text_ops.flush(c.s);
	for (int i = 0; i < 5; i++)
		sink_text_ops.tick(c.s, 0);
	for (const char *p = caught(&c); (p = strstr(p, C2S "half (4+ bytes)\n")); p++)
		lines++;
	assert_int_equal(lines, 700);
	SAY(&c, 9, FLOW_C2S, "last", false);
	sink_text_ops.close(c.s);
	assert_string_equal(caught(&c), C2S "last (4+ bytes)\n");
	close(c.fd);
}

static void test_hostile_bytes_never_reach_the_terminal(void **state)
{
	struct catcher c = begin();
	struct frame_flow_open o = v4(1);
	const struct sink_flow f = {.open = &o, .host = "\x1b[2J"};
	uint8_t bytes[64], comm[255];
	unsigned n = 0;

	(void)state;
	for (unsigned b = 0; b < 256; b++) {
		memcpy(bytes, "GET /abcdefgh", 13);
		memset(bytes + 13, (int)b, sizeof(bytes) - 13);
		memset(comm, (int)b, sizeof(comm));
		o.comm = span_of(comm, sizeof(comm));
		sink_text_ops.message(c.s, &f, FLOW_C2S, span_of(bytes, sizeof(bytes)), true, TS);
		memset(bytes, (int)b, sizeof(bytes));
		sink_text_ops.message(c.s, &f, FLOW_C2S, span_of(bytes, sizeof(bytes)), true, TS);
		for (const char *p = caught(&c); *p; p++) {
			assert_true((*p >= ' ' && *p <= '~') || *p == '\n');
			n += *p == '\n';
		}
	}
	assert_int_equal(n, 512);
	end(&c);
}

static void test_a_name_cannot_forge_a_tuple(void **state)
{
	struct catcher c = begin();
	struct frame_flow_open o = v4(1);
	const struct sink_flow f = {.open = &o, .host = "h"};

	(void)state;
	o.comm = span_str("x[1] 1.2.3.4\n");
	sink_text_ops.message(c.s, &f, FLOW_C2S, span_str("hello"), true, TS);
	assert_string_equal(caught(&c), "22:13:20.789012 x[1]\\x201.2.3.4\\x0a[1234] "
					"10.0.0.1:51514 > 10.0.0.2:443 hello (5 bytes)\n");
	end(&c);
}

static void test_ipv6_is_in_brackets(void **state)
{
	struct catcher c = begin();
	struct frame_flow_open o = v4(1);
	const struct sink_flow f = {.open = &o, .host = "h"};

	(void)state;
	o.family = 6;
	memset(o.client_addr, 0, 16);
	o.client_addr[15] = 1;
	memset(o.server_addr, 0xfe, 16);
	sink_text_ops.message(c.s, &f, FLOW_S2C, span_str("hello"), true, TS);
	assert_string_equal(caught(&c),
			    "22:13:20.789012 nginx[1234] "
			    "[fefe:fefe:fefe:fefe:fefe:fefe:fefe:fefe]:443 > [::1]:51514 "
			    "hello (5 bytes)\n");
	end(&c);
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

static void test_a_reader_that_goes_away_costs_only_lines(void **state)
{
	struct catcher c = begin();
	uint64_t lost = counter_value("sink_text_lost");

	(void)state;
	close(c.fd);
	for (int i = 0; i < 3; i++)
		SAY(&c, 1, FLOW_C2S, "hello", true);
	sink_text_ops.close(c.s);
	assert_int_equal(counter_value("sink_text_lost") - lost, 3);
}

static void test_a_slow_reader_loses_whole_lines_and_blocks_nobody(void **state)
{
	struct catcher c = begin();
	uint64_t lost = counter_value("sink_text_lost"), lines = 0;
	struct timespec t0, t1;
	const char *p;

	(void)state;
	clock_gettime(CLOCK_MONOTONIC, &t0);
	for (unsigned i = 0; i < 20000; i++)
		SAY(&c, 1, FLOW_C2S, "hello", true);
	clock_gettime(CLOCK_MONOTONIC, &t1);
	assert_in_range(t1.tv_sec - t0.tv_sec, 0, 5);
	lost = counter_value("sink_text_lost") - lost;
	assert_in_range(lost, 1, 19000);
	for (int i = 0; i < 20; i++) {
		for (p = caught(&c); *p;
		     p++) /* ends of lines: one may be cut where the pipe was full */
			lines += *p == '\n';
		sink_text_ops.flush(c.s);
	}
	assert_int_equal(lines, 20000 - lost);
	end(&c);
}

static int use_utc(void **state)
{
	(void)state;
	log_set_level(LOG_ERROR);
	return setenv("TZ", "UTC", 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_message_is_one_line),
		cmocka_unit_test(test_binary_is_its_size),
		cmocka_unit_test(test_a_long_line_is_cut),
		cmocka_unit_test(test_pieces_give_the_line_of_the_whole),
		cmocka_unit_test(test_directions_and_flows_do_not_mix),
		cmocka_unit_test(test_unfinished_messages_are_bounded_and_shown),
		cmocka_unit_test(test_hostile_bytes_never_reach_the_terminal),
		cmocka_unit_test(test_a_name_cannot_forge_a_tuple),
		cmocka_unit_test(test_ipv6_is_in_brackets),
		cmocka_unit_test(test_a_reader_that_goes_away_costs_only_lines),
		cmocka_unit_test(test_a_slow_reader_loses_whole_lines_and_blocks_nobody),
	};

	return cmocka_run_group_tests(tests, use_utc, NULL);
}
