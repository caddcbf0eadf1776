/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sink_pcap: what it writes is read back with libpcap, which knows nothing of our writer; comments
 * with a small parser of their own. A full disk is a file size limit; the file stays readable.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pcap/pcap.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../collector/sink.h"
#include "base/log.h"
#include "base/metrics.h"

#define TS 1700000000123456789ull

static char dir[] = "/tmp/test_sink_pcap.XXXXXX";
static char path[128];

static struct frame_flow_open an_open(void)
{
	return (struct frame_flow_open){
		.flow = 77,
		.confidence = CONF_MATCHED,
		.family = 4,
		.pid = 1234,
		.comm = span_str("ng inx\\"),
		.exe = span_str("/usr/sbin/\x1b[2Jnginx\n\xff"),
	};
}

static const char *at(const char *name)
{
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static int open_sink(struct sink **s, const char *target)
{
	const struct sink_conf conf = {.kind = "pcap", .target = target};

	return sink_pcap_ops.open(s, &conf);
}

/* Frame number i: its own length and contents. */
static struct span frame(unsigned i, size_t len)
{
	static uint8_t bytes[70000];

	memset(bytes, (int)(i & 0xff), len);
	return span_of(bytes, len);
}

static void put(struct sink *s, unsigned i, size_t len, bool first)
{
	const struct frame_flow_open o = an_open();
	const struct sink_flow flow = {.open = &o, .host = "web 1"};

	sink_pcap_ops.packet(s, frame(i, len), TS + i * 1000ull, &flow, first);
}

/* Returns the packets of a file; every one must be whole and hold one repeated byte. */
static unsigned read_back(const char *name, bool nano)
{
	char err[PCAP_ERRBUF_SIZE] = "";
	pcap_t *p = nano ? pcap_open_offline_with_tstamp_precision(name, PCAP_TSTAMP_PRECISION_NANO,
								   err)
			 : pcap_open_offline(name, err);
	struct pcap_pkthdr *h;
	const u_char *data;
	unsigned n = 0;
	int ret;

	if (!p)
		fail_msg("libpcap: %s", err);
	assert_int_equal(pcap_datalink(p), DLT_EN10MB);
	while ((ret = pcap_next_ex(p, &h, &data)) == 1) {
		assert_int_equal(h->caplen, h->len);
		for (size_t i = 1; i < h->caplen; i++)
			assert_int_equal(data[i], data[0]);
		if (!n) {
			assert_int_equal(h->ts.tv_sec, 1700000000);
			assert_int_equal(h->ts.tv_usec, nano ? 123456789 : 123456);
		}
		n++;
	}
	if (ret != PCAP_ERROR_BREAK)
		fail_msg("after %u packets: %s", n, pcap_geterr(p));
	pcap_close(p);
	return n;
}

static size_t slurp(const char *name, uint8_t **out)
{
	FILE *f = fopen(name, "rb");
	struct stat st;

	assert_non_null(f);
	assert_int_equal(fstat(fileno(f), &st), 0);
	*out = malloc((size_t)st.st_size + 1);
	assert_non_null(*out);
	assert_int_equal(fread(*out, 1, (size_t)st.st_size, f), st.st_size);
	fclose(f);
	return (size_t)st.st_size;
}

static uint32_t u32_at(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, 4);
	return v;
}

static uint16_t u16_at(const uint8_t *p)
{
	uint16_t v;

	memcpy(&v, p, 2);
	return v;
}

/* The value of option `code` in the n-th block of `type`, its options starting at `fixed`; "" if
 * absent. */
static void option_of(const char *name, uint32_t type, unsigned n, uint16_t code, char *out,
		      size_t size)
{
	uint8_t *file, *p, *end;
	size_t len = slurp(name, &file);

	*out = '\0';
	for (p = file; p < file + len; p += u32_at(p + 4)) {
		assert_int_equal(u32_at(p + 4) % 4, 0);
		assert_int_equal(u32_at(p + 4), u32_at(p + u32_at(p + 4) - 4));
		if (u32_at(p) == type && !n--)
			break;
	}
	assert_true(p < file + len);
	end = p + u32_at(p + 4) - 4;
	p += type == 6 ? 28 + (u32_at(p + 20) + 3) / 4 * 4 : type == 1 ? 16 : 24;
	while (p < end && u16_at(p)) {
		if (u16_at(p) == code)
			snprintf(out, size, "%.*s", (int)u16_at(p + 2), (char *)p + 4);
		p += 4 + (u16_at(p + 2) + 3) / 4 * 4;
	}
	free(file);
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

static void test_pcapng_is_read_by_libpcap(void **state)
{
	struct sink *s = NULL;
	struct stat st;

	(void)state;
	assert_int_equal(open_sink(&s, at("a.pcapng")), 0);
	for (unsigned i = 0; i < 70; i++)
		put(s, i, 54 + i, i % 7 == 0);
	put(s, 70, 65553, true);
	sink_pcap_ops.flush(s);
	assert_int_equal(read_back(path, true), 71); /* a reader that follows sees all of it now */
	put(s, 71, 60, false);
	sink_pcap_ops.close(s);
	assert_int_equal(read_back(path, true), 72);
	assert_int_equal(read_back(path, false), 72);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
}

static void test_pcapng_names_process_and_writer(void **state)
{
	struct sink *s = NULL;
	char text[512];

	(void)state;
	assert_int_equal(open_sink(&s, at("b.pcapng")), 0);
	put(s, 0, 61, true);
	put(s, 1, 62, false);
	sink_pcap_ops.packet(s, frame(2, 63), TS, NULL, true); /* nothing known about it */
	sink_pcap_ops.close(s);
	option_of(path, 6, 0, 1, text, sizeof(text));
	assert_string_equal(
		text,
		"pid=1234 comm=ng\\x20inx\\x5c "
		"exe=/usr/sbin/\\x1b[2Jnginx\\x0a\\xff host=web\\x201 flow=77 confidence=matched");
	option_of(path, 6, 1, 1, text, sizeof(text));
	assert_string_equal(text, "");
	option_of(path, 6, 2, 1, text, sizeof(text));
	assert_string_equal(text, "");
	option_of(path, 1, 0, 2, text, sizeof(text));
	assert_string_equal(text, "sslcollector");
	option_of(path, 1, 0, 9, text, sizeof(text));
	assert_string_equal(text, "\x09");
	option_of(path, 0x0a0d0d0a, 0, 4, text, sizeof(text));
	assert_int_equal(strncmp(text, "sslcollector ", 13), 0);
	option_of(path, 0x0a0d0d0a, 0, 3, text, sizeof(text));
	assert_int_equal(strncmp(text, "Linux ", 6), 0);
	assert_int_equal(read_back(path, true), 3);
}

static void test_a_comment_tells_the_port_that_is_not_shown(void **state)
{
	const struct sink_shape shape = {.n_ports = 2, .ports = {{8443, 8080}, {443, 80}}};
	struct sink *s = NULL;
	struct frame_flow_open o = an_open();
	const struct sink_flow flow = {.open = &o, .host = "h"};
	char text[512];

	(void)state;
	assert_int_equal(open_sink(&s, at("port.pcapng")), 0);
	s->shape = shape;
	o.server_port = 443;
	sink_pcap_ops.packet(s, frame(0, 61), TS, &flow, true);
	o.server_port = 80;
	sink_pcap_ops.packet(s, frame(1, 61), TS, &flow, true);
	sink_pcap_ops.close(s);
	option_of(path, 6, 0, 1, text, sizeof(text));
	assert_non_null(strstr(text, " confidence=matched port=443"));
	option_of(path, 6, 1, 1, text, sizeof(text));
	assert_null(strstr(text, "port="));
}

static void test_the_longest_names_fit_a_comment(void **state)
{
	char exe[1024], comm[255];
	struct frame_flow_open o = an_open();
	const struct sink_flow flow = {.open = &o, .host = "h"};
	struct sink *s = NULL;
	static char text[20000];

	(void)state;
	memset(exe, 1, sizeof(exe));
	memset(comm, 2, sizeof(comm));
	o.exe = span_of(exe, sizeof(exe));
	o.comm = span_of(comm, sizeof(comm));
	assert_int_equal(open_sink(&s, at("c.pcapng")), 0);
	sink_pcap_ops.packet(s, frame(0, 60), TS, &flow, true);
	sink_pcap_ops.close(s);
	option_of(path, 6, 0, 1, text, sizeof(text));
	assert_non_null(strstr(text, "\\x01 host=h flow=77"));
	assert_int_equal(read_back(path, true), 1);
}

static void test_classic_is_read_by_libpcap(void **state)
{
	struct sink *s = NULL;
	uint8_t *file;
	size_t len;

	(void)state;
	assert_int_equal(open_sink(&s, at("d.pcap")), 0);
	for (unsigned i = 0; i < 50; i++)
		put(s, i, 60 + i, true);
	sink_pcap_ops.flush(s);
	assert_int_equal(read_back(path, false), 50);
	sink_pcap_ops.close(s);
	len = slurp(path, &file);
	assert_int_equal(u32_at(file), 0xa1b2c3d4); /* microseconds, native byte order */
	assert_int_equal(u32_at(file + 16), 262144);
	assert_int_equal(len, 24 + 50 * 16 + 50 * 60 + 49 * 50 / 2);
	free(file);
}

static void set_limit(rlim_t bytes)
{
	struct rlimit r;

	assert_int_equal(getrlimit(RLIMIT_FSIZE, &r), 0);
	r.rlim_cur = bytes;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &r), 0);
}

/* The sink writes until the limit, waits, goes on when there is room: nothing is missing. */
static void full_and_back(const char *name)
{
	uint64_t lost = counter_value("sink_pcap_lost_disk");
	struct sink *s = NULL;
	unsigned before;

	assert_int_equal(open_sink(&s, at(name)), 0);
	set_limit(10000);
	for (unsigned i = 0; i < 100; i++)
		put(s, i, 1000, true);
	sink_pcap_ops.flush(s);
	before = read_back(path, false);
	assert_in_range(before, 5, 9); /* whole packets only, as many as there was room for */
	sink_pcap_ops.tick(s, 0);
	assert_int_equal(read_back(path, false), before);
	set_limit(RLIM_INFINITY);
	sink_pcap_ops.tick(s, 0);
	assert_int_equal(read_back(path, false), 100);
	put(s, 100, 60, false);
	sink_pcap_ops.close(s);
	assert_int_equal(read_back(path, false), 101);
	assert_int_equal(counter_value("sink_pcap_lost_disk"), lost);
}

static void test_full_disk_keeps_pcapng_readable_and_goes_on(void **state)
{
	(void)state;
	full_and_back("e.pcapng");
}

static void test_full_disk_keeps_classic_readable_and_goes_on(void **state)
{
	(void)state;
	full_and_back("f.pcap");
}

/* 10000 × 1000 bytes are more than the sink keeps: written + lost = given. */
static void full_until_the_end(const char *name)
{
	uint64_t lost = counter_value("sink_pcap_lost_disk");
	uint64_t written = counter_value("sink_pcap_packets");
	struct sink *s = NULL;
	unsigned n;

	assert_int_equal(open_sink(&s, at(name)), 0);
	set_limit(20000);
	for (unsigned i = 0; i < 10000; i++)
		put(s, i, 1000, i % 3 == 0);
	sink_pcap_ops.flush(s);
	assert_in_range(counter_value("sink_pcap_lost_disk") - lost, 1000, 9990);
	sink_pcap_ops.close(s);
	set_limit(RLIM_INFINITY);
	n = read_back(path, false);
	assert_in_range(n, 10, 19);
	assert_int_equal(counter_value("sink_pcap_packets") - written, n);
	assert_int_equal(counter_value("sink_pcap_lost_disk") - lost, 10000 - n);
}

static void test_full_disk_counts_what_is_lost(void **state)
{
	(void)state;
	full_until_the_end("g.pcapng");
	full_until_the_end("h.pcap");
}

static void test_a_disk_that_is_full_at_the_start_is_an_error(void **state)
{
	struct sink *s = NULL;

	(void)state;
	set_limit(10);
	assert_int_not_equal(open_sink(&s, at("i.pcapng")), 0);
	set_limit(RLIM_INFINITY);
	assert_null(s);
}

static void test_what_is_not_a_file_is_refused(void **state)
{
	struct sink *s = NULL;
	uint8_t *file;

	(void)state;
	assert_int_equal(open_sink(&s, dir), -EINVAL);
	assert_int_equal(open_sink(&s, "/dev/null"), -EINVAL);
	assert_int_equal(open_sink(&s, "/nonexistent/x"), -ENOENT);
	assert_int_equal(symlink("a.pcapng", at("link")), 0);
	assert_int_equal(open_sink(&s, path), -EINVAL);
	unlink(path);
	assert_true(slurp(at("a.pcapng"), &file) > 1000); /* not even truncated */
	free(file);
}

static void test_a_file_of_somebody_else_is_not_filled(void **state)
{
	struct sink *s = NULL;
	struct stat st;

	(void)state;
	if (geteuid()) {
		print_message("SKIP: needs root to make a file of another user\n");
		skip();
	}
	close(open(at("j.pcapng"), O_CREAT | O_WRONLY, 0666));
	assert_int_equal(truncate(path, 5), 0);
	assert_int_equal(chown(path, 65534, 65534), 0);
	assert_int_equal(open_sink(&s, path), -EINVAL);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, 5);
}

static void test_an_existing_file_starts_anew(void **state)
{
	struct sink *s = NULL;

	(void)state;
	assert_int_equal(open_sink(&s, at("a.pcapng")), 0);
	put(s, 0, 60, true);
	sink_pcap_ops.close(s);
	assert_int_equal(read_back(path, true), 1);
}

static void drain(int fd, const char *name)
{
	int out = open(name, O_WRONLY | O_CREAT | O_APPEND, 0600);
	struct pollfd p = {.fd = fd, .events = POLLIN};
	char bytes[65536];
	ssize_t n;

	while (poll(&p, 1, 0) == 1 && (n = read(fd, bytes, sizeof(bytes))) > 0)
		assert_int_equal(write(out, bytes, (size_t)n), n);
	close(out);
}

static void test_each_reader_of_a_fifo_gets_a_whole_file(void **state)
{
	uint64_t lost = counter_value("sink_pcap_lost_reader");
	struct sink *s = NULL;
	char copy[160];
	int fd;

	(void)state;
	assert_int_equal(mkfifo(at("fifo"), 0600), 0);
	assert_int_equal(open_sink(&s, path), 0); /* does not hang */
	put(s, 0, 60, true);
	assert_int_equal(counter_value("sink_pcap_lost_reader"), lost + 1);
	for (unsigned round = 0; round < 2; round++) {
		snprintf(copy, sizeof(copy), "%s/copy%u", dir, round);
		fd = open(path, O_RDONLY | O_NONBLOCK);
		sink_pcap_ops.tick(s, 0);
		for (unsigned i = 0; i < 10; i++)
			put(s, i, 60, true);
		sink_pcap_ops.flush(s);
		drain(fd, copy);
		close(fd);
		put(s, 0, 60, true);
		sink_pcap_ops.flush(s); /* EPIPE; this process lives on */
	}
	sink_pcap_ops.close(s);
	assert_int_equal(counter_value("sink_pcap_lost_reader"), lost + 3);
	for (unsigned round = 0; round < 2; round++) {
		snprintf(copy, sizeof(copy), "%s/copy%u", dir, round);
		/* time stamps of the first packet are those of frame 0 */
		assert_int_equal(read_back(copy, true), 10);
	}
}

/* Standard output becomes `fd` for the time that a sink is opened. */
static int open_on_stdout(struct sink **s, int fd)
{
	int saved = dup(STDOUT_FILENO), ret;

	fflush(stdout);
	dup2(fd, STDOUT_FILENO);
	ret = open_sink(s, "-");
	dup2(saved, STDOUT_FILENO);
	close(saved);
	return ret;
}

static void test_a_slow_reader_costs_packets_but_not_the_format(void **state)
{
	uint64_t lost = counter_value("sink_pcap_lost_reader"), n_lost;
	uint64_t written = counter_value("sink_pcap_packets");
	struct sink *s = NULL;
	int p[2];

	(void)state;
	assert_int_equal(pipe(p), 0);
	assert_int_equal(open_on_stdout(&s, p[1]), 0);
	close(p[1]);
	for (unsigned i = 0; i < 6000; i++) /* 6 MB: pipe and buffer are full, nobody reads */
		put(s, i, 1000, false);
	n_lost = counter_value("sink_pcap_lost_reader") - lost;
	assert_in_range(n_lost, 1, 5000);
	for (unsigned i = 0; i < 1000; i++) { /* now somebody does */
		drain(p[0], at("slow"));
		sink_pcap_ops.flush(s);
	}
	put(s, 1, 1000, true);
	sink_pcap_ops.close(s);
	drain(p[0], at("slow"));
	close(p[0]);
	assert_int_equal(counter_value("sink_pcap_packets") - written, 6001 - n_lost);
	assert_int_equal(read_back(at("slow"), true), 6001 - n_lost);
}

static void test_a_reader_that_goes_away_costs_only_its_packets(void **state)
{
	uint64_t lost = counter_value("sink_pcap_lost_reader");
	struct sink *s = NULL;
	int p[2];

	(void)state;
	assert_int_equal(pipe(p), 0);
	assert_int_equal(open_on_stdout(&s, p[1]), 0);
	close(p[1]);
	close(p[0]);
	for (unsigned i = 0; i < 5; i++) {
		put(s, i, 60, true);
		sink_pcap_ops.flush(s);
		sink_pcap_ops.tick(s, 0);
	}
	sink_pcap_ops.close(s);
	assert_int_equal(counter_value("sink_pcap_lost_reader") - lost, 5);
}

static void test_a_terminal_gets_no_packets(void **state)
{
	struct sink *s = NULL;
	int master, slave;

	(void)state;
	assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
	assert_int_equal(open_on_stdout(&s, slave), -EINVAL);
	close(master);
	close(slave);
}

static void test_a_set_opens_all_or_none(void **state)
{
	char a[160], b[160];
	const struct sink_conf conf[] = {{.kind = "pcap", .target = a},
					 {.kind = "pcap", .target = b}};
	const struct sink_conf bad[] = {{.kind = "pcap", .target = a},
					{.kind = "tape", .target = "x"}};
	struct sink_set set;

	(void)state;
	snprintf(a, sizeof(a), "%s/set.pcap", dir);
	snprintf(b, sizeof(b), "%s/set.pcapng", dir);
	assert_int_equal(sinks_open(&set, bad, 2), -EINVAL);
	assert_int_equal(set.n, 0);
	assert_int_equal(sinks_open(&set, conf, 17), -E2BIG);
	assert_int_equal(sinks_open(&set, conf, 2), 0);
	for (unsigned i = 0; i < set.n; i++)
		sink_pcap_ops.packet(set.v[i], frame(0, 60), TS, NULL, true);
	sinks_message(&set, NULL, FLOW_C2S, span_str("x"), true, TS); /* nobody wants it */
	sinks_flush(&set);
	sinks_tick(&set, 0);
	assert_int_equal(read_back(a, false), 1);
	assert_int_equal(read_back(b, true), 1);
	sinks_close(&set);
	assert_int_equal(set.n, 0);
}

/* Rotation */

static int open_rotated(struct sink **s, const char *name, struct sink_rotation rotation)
{
	const struct sink_conf conf = {.kind = "pcap", .target = name, .rotation = rotation};

	return sink_pcap_ops.open(s, &conf);
}

/* Finished files of STEM in the order of their names, at most 32 with their paths; their number. */
static unsigned finished(const char *stem, char names[32][300])
{
	struct dirent **v;
	int n = scandir(dir, &v, NULL, alphasort);
	unsigned found = 0;

	for (int i = 0; i < n; i++) {
		if (!strncmp(v[i]->d_name, stem, strlen(stem)) && strchr(v[i]->d_name, 'Z') &&
		    found < 32)
			snprintf(names[found++], 300, "%s/%s", dir, v[i]->d_name);
		free(v[i]);
	}
	free(v);
	return found;
}

/* Like read_back(), for files that do not begin with frame 0: their packets, each whole. */
static unsigned count_packets(const char *name)
{
	char err[PCAP_ERRBUF_SIZE] = "";
	pcap_t *p = pcap_open_offline(name, err);
	struct pcap_pkthdr *h;
	const u_char *data;
	unsigned n = 0;
	int ret;

	if (!p)
		fail_msg("libpcap: %s: %s", name, err);
	while ((ret = pcap_next_ex(p, &h, &data)) == 1)
		n++;
	assert_int_equal(ret, PCAP_ERROR_BREAK);
	pcap_close(p);
	return n;
}

static void rotate_by_size(const char *name, const char *stem)
{
	char names[32][300];
	struct sink *s = NULL;
	struct stat st;
	unsigned n, sum = 0;

	assert_int_equal(open_rotated(&s, at(name), (struct sink_rotation){.bytes = 10000}), 0);
	for (unsigned i = 0; i < 100; i++)
		put(s, i, 1000, false);
	sink_pcap_ops.flush(s);
	n = finished(stem, names);
	assert_in_range(n, 11, 13);
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(stat(names[i], &st), 0);
		assert_in_range(st.st_size, 8000, 10000);
		assert_int_equal(st.st_mode & 07777, 0600);
		sum += count_packets(names[i]);
	}
	assert_int_equal(sum + count_packets(path), 100);
	sink_pcap_ops.close(s);
	assert_int_equal(stat(path, &st), -1); /* it got its lasting name like the others */
	assert_int_equal(finished(stem, names), n + 1);
	/* the first packet's time is in the name; the others were begun in its millisecond */
	assert_non_null(strstr(names[0], "-20231114T221320.123Z."));
	assert_non_null(strstr(names[1], "-20231114T221320.124Z."));
}

static void test_a_full_file_makes_room_for_the_next(void **state)
{
	(void)state;
	rotate_by_size("r.pcapng", "r-");
	rotate_by_size("q.pcap", "q-");
}

static void test_an_old_file_makes_room_for_the_next(void **state)
{
	const struct sink_rotation hourly = {.seconds = 3600};
	char names[32][300];
	struct sink *s = NULL;

	(void)state;
	assert_int_equal(open_rotated(&s, at("t.pcapng"), hourly), 0);
	for (uint64_t h = 1; h < 5; h++)
		sink_pcap_ops.tick(s, h * 3601000000000ull);
	assert_int_equal(finished("t-", names), 0); /* nothing to keep */
	put(s, 0, 60, true);
	sink_pcap_ops.tick(s, 100000000000000ull);
	sink_pcap_ops.tick(s, 103599000000000ull);
	assert_int_equal(finished("t-", names), 0);
	sink_pcap_ops.tick(s, 103600000000000ull);
	assert_int_equal(finished("t-", names), 1);
	assert_int_equal(read_back(names[0], true), 1);
	sink_pcap_ops.close(s);
	assert_int_equal(finished("t-", names), 1); /* the last one was empty */
}

static void test_only_so_many_files_are_kept(void **state)
{
	const struct sink_rotation keep = {.bytes = 5000, .keep_files = 3};
	uint64_t removed = counter_value("sink_pcap_files_removed");
	char names[32][300];
	struct sink *s = NULL;

	(void)state;
	assert_int_equal(open_rotated(&s, at("n.pcapng"), keep), 0);
	for (unsigned i = 0; i < 100; i++)
		put(s, i, 1000, false);
	assert_int_equal(finished("n-", names), 3);
	assert_true(counter_value("sink_pcap_files_removed") - removed > 10);
	/* the newest: together with the file being written they hold the last packets */
	assert_null(strstr(names[0], "20.123Z"));
	sink_pcap_ops.close(s);
	assert_int_equal(finished("n-", names), 4);
	/* another run, with less patience, looks at once */
	assert_int_equal(
		open_rotated(&s, path, (struct sink_rotation){.bytes = 5000, .keep_files = 2}), 0);
	sink_pcap_ops.tick(s, 0);
	assert_int_equal(finished("n-", names), 2);
	sink_pcap_ops.close(s);
}

static void test_files_take_no_more_than_their_budget(void **state)
{
	const struct sink_rotation keep = {.bytes = 5000, .keep_bytes = 20000};
	char names[32][300], other[300];
	struct sink *s = NULL;
	struct stat st;
	off_t sum = 0;
	unsigned n;

	(void)state;
	/* neither of these is ours, whatever it looks like */
	snprintf(other, sizeof(other), "%s/b-20200101T000000.000Z.pcapng.gz", dir);
	close(open(other, O_CREAT | O_WRONLY, 0600));
	assert_int_equal(open_rotated(&s, at("b.pcapng"), keep), 0);
	for (unsigned i = 0; i < 100; i++) {
		put(s, i, 1000, false);
		n = finished("b-", names);
		sum = 0;
		for (unsigned k = 0; k < n; k++)
			if (strcmp(names[k], other) && !stat(names[k], &st))
				sum += st.st_size;
		assert_int_equal(stat(path, &st), 0);
		assert_in_range(sum + st.st_size, 0, 20000);
	}
	assert_true(sum > 10000);
	sink_pcap_ops.close(s);
	assert_int_equal(stat(other, &st), 0);
}

static void test_a_file_that_was_left_behind_is_kept(void **state)
{
	const struct sink_rotation size = {.bytes = 5000};
	char names[32][300];
	struct sink *s = NULL;

	(void)state;
	assert_int_equal(open_sink(&s, at("l.pcapng")), 0);
	put(s, 0, 60, true);
	sink_pcap_ops.close(s); /* not rotated: under its own name */
	assert_int_equal(open_rotated(&s, path, size), 0);
	assert_int_equal(finished("l-", names), 1);
	assert_int_equal(read_back(names[0], true), 1);
	assert_int_equal(count_packets(path), 0);
	sink_pcap_ops.close(s);
}

static void test_a_full_disk_keeps_the_file_until_there_is_room(void **state)
{
	uint64_t lost = counter_value("sink_pcap_lost_disk");
	char names[32][300];
	struct sink *s = NULL;
	unsigned n, sum = 0;

	(void)state;
	assert_int_equal(open_rotated(&s, at("v.pcapng"), (struct sink_rotation){.bytes = 10000}),
			 0);
	set_limit(5000);
	for (unsigned i = 0; i < 50; i++)
		put(s, i, 1000, false);
	sink_pcap_ops.tick(s, 0);
	assert_int_equal(finished("v-", names), 0);
	set_limit(RLIM_INFINITY);
	sink_pcap_ops.tick(s, 0);
	put(s, 50, 1000, false);
	sink_pcap_ops.close(s);
	n = finished("v-", names);
	assert_int_equal(n, 2);
	for (unsigned i = 0; i < n; i++)
		sum += count_packets(names[i]);
	assert_int_equal(sum, 51);
	assert_int_equal(counter_value("sink_pcap_lost_disk"), lost);
}

static void test_a_directory_without_room_for_a_new_file_keeps_the_old_one(void **state)
{
	char names[32][300], blocked[300];
	struct sink *s = NULL;

	(void)state;
	assert_int_equal(open_rotated(&s, at("w.pcapng"), (struct sink_rotation){.bytes = 5000}),
			 0);
	snprintf(blocked, sizeof(blocked), "%s.new", path);
	assert_int_equal(mkdir(blocked, 0700), 0); /* where the next file should be made */
	for (unsigned i = 0; i < 20; i++)
		put(s, i, 1000, false);
	assert_int_equal(finished("w-", names), 0);
	sink_pcap_ops.flush(s);
	assert_int_equal(count_packets(path), 20);
	assert_int_equal(rmdir(blocked), 0);
	sink_pcap_ops.tick(s, 0);
	put(s, 20, 1000, false);
	assert_int_equal(finished("w-", names), 1);
	assert_int_equal(count_packets(names[0]), 20);
	sink_pcap_ops.close(s);
}

static void test_reopen_begins_a_new_file_when_the_old_one_was_moved(void **state)
{
	char moved[160];
	struct sink *s = NULL;

	(void)state;
	assert_int_equal(open_sink(&s, at("hup.pcapng")), 0);
	snprintf(moved, sizeof(moved), "%s/hup.1", dir);
	for (unsigned i = 0; i < 3; i++)
		put(s, i, 60, true);
	sink_pcap_ops.reopen(s); /* it is still there: nothing happens */
	put(s, 3, 60, true);
	sink_pcap_ops.flush(s);
	assert_int_equal(rename(path, moved), 0);
	put(s, 4, 60, true); /* still the old one's */
	sink_pcap_ops.reopen(s);
	put(s, 5, 60, true);
	sink_pcap_ops.close(s);
	assert_int_equal(count_packets(moved), 5);
	assert_int_equal(count_packets(path), 1);
}

static void test_reopen_finishes_a_rotated_file(void **state)
{
	char names[32][300];
	struct sink *s = NULL;

	(void)state;
	assert_int_equal(open_rotated(&s, at("hr.pcapng"), (struct sink_rotation){.bytes = 100000}),
			 0);
	sink_pcap_ops.reopen(s);
	assert_int_equal(finished("hr-", names), 0);
	put(s, 0, 60, true);
	sink_pcap_ops.reopen(s);
	assert_int_equal(finished("hr-", names), 1);
	assert_int_equal(read_back(names[0], true), 1);
	sink_pcap_ops.close(s);
}

static volatile sig_atomic_t ended;

static void on_term(int sig)
{
	(void)sig;
	ended++;
}

static void test_a_reader_that_goes_away_may_end_everything(void **state)
{
	const struct sink_conf conf = {.kind = "pcap", .target = path, .with_reader = true};
	struct sink *s = NULL;
	int fd;

	(void)state;
	signal(SIGTERM, on_term);
	assert_int_equal(mkfifo(at("last"), 0600), 0);
	assert_int_equal(sink_pcap_ops.open(&s, &conf), 0);
	sink_pcap_ops.tick(s, 0);
	assert_int_equal(ended, 0); /* it has not come yet */
	fd = open(path, O_RDONLY | O_NONBLOCK);
	sink_pcap_ops.tick(s, 0);
	put(s, 0, 60, true);
	sink_pcap_ops.flush(s);
	sink_pcap_ops.tick(s, 0);
	assert_int_equal(ended, 0);
	close(fd);
	sink_pcap_ops.tick(s, 0); /* without a packet that would tell */
	assert_int_equal(ended, 1);
	sink_pcap_ops.close(s);
	signal(SIGTERM, SIG_DFL);
}

static int make_dir(void **state)
{
	(void)state;
	log_set_level(LOG_ERROR);
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	char command[64];

	(void)state;
	snprintf(command, sizeof(command), "rm -r %s", dir);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pcapng_is_read_by_libpcap),
		cmocka_unit_test(test_pcapng_names_process_and_writer),
		cmocka_unit_test(test_a_comment_tells_the_port_that_is_not_shown),
		cmocka_unit_test(test_the_longest_names_fit_a_comment),
		cmocka_unit_test(test_classic_is_read_by_libpcap),
		cmocka_unit_test(test_full_disk_keeps_pcapng_readable_and_goes_on),
		cmocka_unit_test(test_full_disk_keeps_classic_readable_and_goes_on),
		cmocka_unit_test(test_full_disk_counts_what_is_lost),
		cmocka_unit_test(test_a_disk_that_is_full_at_the_start_is_an_error),
		cmocka_unit_test(test_what_is_not_a_file_is_refused),
		cmocka_unit_test(test_a_file_of_somebody_else_is_not_filled),
		cmocka_unit_test(test_an_existing_file_starts_anew),
		cmocka_unit_test(test_each_reader_of_a_fifo_gets_a_whole_file),
		cmocka_unit_test(test_a_slow_reader_costs_packets_but_not_the_format),
		cmocka_unit_test(test_a_reader_that_goes_away_costs_only_its_packets),
		cmocka_unit_test(test_a_terminal_gets_no_packets),
		cmocka_unit_test(test_a_full_file_makes_room_for_the_next),
		cmocka_unit_test(test_an_old_file_makes_room_for_the_next),
		cmocka_unit_test(test_only_so_many_files_are_kept),
		cmocka_unit_test(test_files_take_no_more_than_their_budget),
		cmocka_unit_test(test_a_file_that_was_left_behind_is_kept),
		cmocka_unit_test(test_a_full_disk_keeps_the_file_until_there_is_room),
		cmocka_unit_test(test_a_directory_without_room_for_a_new_file_keeps_the_old_one),
		cmocka_unit_test(test_reopen_begins_a_new_file_when_the_old_one_was_moved),
		cmocka_unit_test(test_reopen_finishes_a_rotated_file),
		cmocka_unit_test(test_a_reader_that_goes_away_may_end_everything),
		cmocka_unit_test(test_a_set_opens_all_or_none),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
