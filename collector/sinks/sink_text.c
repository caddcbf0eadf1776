/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sink_text: one readable line a message on standard output. Bytes of a message come in, in one
 * piece or several; when its last piece is there, the line goes out: time, process, who to whom,
 * the first line of text or the number of bytes. Never lets a foreign byte reach the terminal that
 * is not printable ASCII, never waits long for a reader, remembers a bounded number of unfinished
 * messages.
 */
#include "sink.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hmap.h"
#include "base/log.h"
#include "base/metrics.h"

#define TEXT_LINE_MAX 120          /* characters of a message's first line */
#define TEXT_PROBE    8            /* a message is text when these are, or all up to its line end */
#define TEXT_COMM_MAX 16u          /* bytes of a process name: the kernel's TASK_COMM_LEN */
#define TEXT_PENDING  256          /* unfinished messages remembered; a power of two; 120 KiB */
#define TEXT_STALE    3            /* ticks without a byte: shown as far as it came */
#define TEXT_OUT_MAX  (256u << 10) /* lines that wait for a slow reader */
#define TEXT_STALL_MS 100   /* such a reader holds up all other outputs so long, once a tick */
#define TEXT_CLOSE_MS 1000  /* the same for the last lines */
#define TEXT_WARN_MS  30000 /* between two lines about the same slow reader */
#define TEXT_SPAN_MAX 1024  /* one finished line: head, text, size */

static COUNTER_DEFINE(c_lines, "sink_text_lines", "messages printed");
static COUNTER_DEFINE(c_lost, "sink_text_lost", "messages not printed: reader gone or too slow");

struct text_key {
	uint8_t session[16];
	uint64_t flow;
	uint64_t dir; /* enum flow_dir; this wide so that the struct has no padding to hash */
};

struct text_msg {
	struct text_key key;
	bool is_used;
	unsigned age;   /* ticks since its last byte */
	uint64_t ts_ns; /* of its first byte */
	uint64_t total; /* bytes so far */
	size_t n_prefix;
	uint8_t prefix[TEXT_LINE_MAX +
		       1]; /* its first bytes; one more shows that the line goes on */
	char head[4 * TEXT_COMM_MAX + 2 * INET6_ADDRSTRLEN + 64]; /* process and tuple */
};

struct text_sink {
	struct sink sink;
	int fd;         /* -1 once the reader is gone */
	struct buf out; /* lines not written yet */
	bool waited;    /* for a slow reader, since the last tick */
	struct log_rate trouble_rate;
	struct text_msg pending[TEXT_PENDING];
};

_Static_assert(sizeof(struct text_key) == 32, "hashed and compared as bytes: no padding");

/* Output */

static uint64_t count_lines(struct span text)
{
	uint64_t n = 0;

	for (size_t i = 0; i < text.len; i++)
		n += text.p[i] == '\n';
	return n;
}

static void lose_buffered(struct text_sink *s)
{
	counter_add(&c_lost, count_lines(buf_span(&s->out)));
	buf_reset(&s->out);
}

static void write_failed(struct text_sink *s, int err)
{
	uint64_t held;

	lose_buffered(s);
	if (err == -EPIPE) {
		log_error("sink_text: standard output: the reader is gone; messages are counted as "
			  "lost");
		close(s->fd);
		s->fd = -1;
	} else if (log_rate_ok(&s->trouble_rate, TEXT_WARN_MS, &held)) {
		log_error("sink_text: standard output: cannot write: %s; messages are counted as "
			  "lost",
			  strerror(-err));
	}
}

static void text_push(struct text_sink *s, unsigned wait_ms)
{
	size_t n;
	int err;

	if (s->fd < 0 || !s->out.len)
		return;
	n = sink_write(s->fd, buf_span(&s->out), wait_ms, &err);
	counter_add(&c_lines, count_lines(span_of(s->out.p, n)));
	buf_consume(&s->out, n);
	if (err && err != -EAGAIN)
		write_failed(s, err);
}

static bool has_room(const struct text_sink *s, size_t n)
{
	return n <= s->out.max - s->out.len;
}

static bool make_room(struct text_sink *s, size_t n)
{
	uint64_t held;

	if (!has_room(s, n)) {
		text_push(s, s->waited ? 0 : TEXT_STALL_MS);
		s->waited = true;
	}
	if (s->fd < 0)
		return false;
	if (!has_room(s, n) && log_rate_ok(&s->trouble_rate, TEXT_WARN_MS, &held))
		log_warn("sink_text: standard output: its reader is too slow; messages are counted "
			 "as "
			 "lost");
	return has_room(s, n);
}

static void put_line(struct text_sink *s, struct span line)
{
	if (s->fd < 0 || !make_room(s, line.len) || buf_reserve(&s->out, line.len)) {
		s->out.bad = false;
		counter_inc(&c_lost);
		return;
	}
	wr_bytes(&s->out, line.p, line.len);
	text_push(s, 0);
}

/* Lines */

static bool is_printable(uint8_t c)
{
	return (c >= ' ' && c <= '~') || c == '\t';
}

static bool is_line_end(uint8_t c)
{
	return c == '\n' || c == '\r';
}

/* Length of the first line when the message begins with text, else 0. */
static size_t first_line(const struct text_msg *m)
{
	size_t n = 0;

	while (n < m->n_prefix && !is_line_end(m->prefix[n])) {
		if (n < TEXT_PROBE && !is_printable(m->prefix[n]))
			return 0;
		n++;
	}
	return n;
}

static size_t put_text(const struct text_msg *m, size_t n, char *out)
{
	bool is_cut = n > TEXT_LINE_MAX;
	size_t len = is_cut ? TEXT_LINE_MAX : n;

	for (size_t i = 0; i < len; i++) {
		uint8_t c = m->prefix[i];

		out[i] = c == '\t' ? ' ' : is_printable(c) ? (char)c : '.';
	}
	if (is_cut) {
		memcpy(out + len, "...", 3);
		len += 3;
	}
	return len;
}

static size_t put_time(uint64_t ts_ns, char *out, size_t size)
{
	time_t t = (time_t)(ts_ns / NS_PER_S);
	struct tm tm;
	int n;

	if (!localtime_r(&t, &tm))
		memset(&tm, 0, sizeof(tm));
	n = snprintf(out, size, "%02d:%02d:%02d.%06u ", tm.tm_hour, tm.tm_min, tm.tm_sec,
		     (unsigned)(ts_ns % NS_PER_S / 1000));
	return (size_t)n;
}

/* is_whole: its last piece has come; else the size is followed by a plus. */
static void print_msg(struct text_sink *s, const struct text_msg *m, bool is_whole)
{
	char line[TEXT_SPAN_MAX];
	size_t text = first_line(m), n;

	_Static_assert(sizeof(m->head) + TEXT_LINE_MAX + 128 < TEXT_SPAN_MAX, "a line always fits");
	n = put_time(m->ts_ns, line, sizeof(line));
	n += (size_t)snprintf(line + n, sizeof(line) - n, "%s ", m->head);
	if (text)
		n += put_text(m, text, line + n);
	n += (size_t)snprintf(line + n, sizeof(line) - n, "%s%llu%s bytes%s\n", text ? " (" : "<",
			      (unsigned long long)m->total, is_whole ? "" : "+", text ? ")" : ">");
	put_line(s, span_of(line, n));
}

static void format_end(const struct frame_flow_open *o, enum flow_dir end, char *out, size_t size)
{
	const uint8_t *addr = end == FLOW_C2S ? o->client_addr : o->server_addr;
	unsigned port = end == FLOW_C2S ? o->client_port : o->server_port;
	char text[INET6_ADDRSTRLEN] = "?";

	(void)inet_ntop(o->family == 6 ? AF_INET6 : AF_INET, addr, text, sizeof(text));
	snprintf(out, size, o->family == 6 ? "[%s]:%u" : "%s:%u", text, port);
}

/* nginx[1234] 10.0.0.1:51514 > 10.0.0.2:443, in the direction of the bytes. */
static void format_head(struct text_msg *m, const struct frame_flow_open *o, enum flow_dir dir)
{
	char from[INET6_ADDRSTRLEN + 9], to[INET6_ADDRSTRLEN + 9];
	size_t n = o->comm.len < TEXT_COMM_MAX ? o->comm.len : TEXT_COMM_MAX;
	struct buf comm;

	buf_init(&comm, 4 * TEXT_COMM_MAX);
	sink_put_word(&comm, span_of(o->comm.p, n));
	format_end(o, dir, from, sizeof(from));
	format_end(o, dir == FLOW_C2S ? FLOW_S2C : FLOW_C2S, to, sizeof(to));
	snprintf(m->head, sizeof(m->head), "%.*s[%u] %s > %s", (int)comm.len,
		 comm.len ? (const char *)comm.p : "", o->pid, from, to);
	buf_fini(&comm);
}

/* Messages */

static void msg_begin(struct text_msg *m, const struct text_key *key,
		      const struct frame_flow_open *o, uint64_t ts_ns)
{
	m->key = *key;
	m->is_used = true;
	m->ts_ns = ts_ns;
	m->total = 0;
	m->n_prefix = 0;
	format_head(m, o, (enum flow_dir)key->dir);
}

static void msg_add(struct text_msg *m, struct span bytes)
{
	size_t room = sizeof(m->prefix) - m->n_prefix;
	size_t n = bytes.len < room ? bytes.len : room;

	if (n)
		memcpy(m->prefix + m->n_prefix, bytes.p, n);
	m->n_prefix += n;
	m->total += bytes.len;
	m->age = 0;
}

static void msg_print_unfinished(struct text_sink *s, struct text_msg *m)
{
	if (m->is_used)
		print_msg(s, m, false);
	m->is_used = false;
}

static struct text_key key_of(const struct frame_flow_open *o, enum flow_dir dir)
{
	struct text_key key = {.flow = o->flow, .dir = dir};

	memcpy(key.session, o->session, sizeof(key.session));
	return key;
}

static void text_message(struct sink *sink, const struct sink_flow *flow, enum flow_dir dir,
			 struct span bytes, bool end, uint64_t ts_ns)
{
	struct text_sink *s = (struct text_sink *)sink;
	struct text_key key = key_of(flow->open, dir);
	struct text_msg *m = &s->pending[hmap_hash(&key, sizeof(key)) & (TEXT_PENDING - 1)];
	struct text_msg whole;

	if (!m->is_used || memcmp(&m->key, &key, sizeof(key))) {
		if (end)
			m = &whole; /* the usual case: one piece, nothing to remember */
		else
			msg_print_unfinished(s, m); /* another one needs its place */
		msg_begin(m, &key, flow->open, ts_ns);
	}
	msg_add(m, bytes);
	if (!end)
		return;
	if (m->total)
		print_msg(s, m, true);
	m->is_used = false;
}

static void text_flush(struct sink *sink)
{
	text_push((struct text_sink *)sink, 0);
}

static void text_tick(struct sink *sink, uint64_t now_ns)
{
	struct text_sink *s = (struct text_sink *)sink;

	(void)now_ns;
	s->waited = false;
	for (size_t i = 0; i < TEXT_PENDING; i++)
		if (s->pending[i].is_used && ++s->pending[i].age > TEXT_STALE)
			msg_print_unfinished(s, &s->pending[i]);
	text_push(s, 0);
}

static void text_close(struct sink *sink)
{
	struct text_sink *s = (struct text_sink *)sink;

	if (!s)
		return;
	for (size_t i = 0; i < TEXT_PENDING; i++)
		msg_print_unfinished(s, &s->pending[i]);
	text_push(s, TEXT_CLOSE_MS);
	if (s->fd >= 0)
		close(s->fd);
	buf_cleanse(&s->out);
	explicit_bzero(s->pending, sizeof(s->pending));
	free(s);
}

static int text_open(struct sink **out, const struct sink_conf *conf)
{
	struct text_sink *s = calloc(1, sizeof(*s));
	int fd;

	(void)conf;
	if (!s) {
		log_error("sink_text: out of memory");
		return -ENOMEM;
	}
	sink_ignore_write_signals();
	fd = sink_stdout_open();
	if (fd < 0) {
		log_error("sink_text: standard output: cannot open: %s", strerror(-fd));
		free(s);
		return fd;
	}
	s->sink.ops = &sink_text_ops;
	s->fd = fd;
	buf_init(&s->out, TEXT_OUT_MAX);
	*out = &s->sink;
	return 0;
}

const struct sink_ops sink_text_ops = {
	.name = "text",
	.open = text_open,
	.message = text_message,
	.flush = text_flush,
	.tick = text_tick,
	.close = text_close,
};
