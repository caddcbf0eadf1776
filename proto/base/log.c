/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log: see log.h. Parts of a line come from peers (host names, error texts), so
 * all but printable ASCII is replaced: no line can forge another one or drive a terminal.
 */
#include "log.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"

#define LOG_LINE_MAX                                                                               \
	1024 /* longer ones are cut; below PIPE_BUF, so that lines in a pipe never mix */
#define LOG_PREFIX    "sslcollector: "
#define SAME_AGAIN_MS 60000u

static atomic_int max_level = LOG_INFO;

void log_set_level(enum log_level level)
{
	atomic_store_explicit(&max_level, (int)level, memory_order_relaxed);
}

bool log_is_on(enum log_level level)
{
	return (int)level <= atomic_load_explicit(&max_level, memory_order_relaxed);
}

static void make_printable(char *p, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)p[i];

		if (c < 0x20 || c > 0x7e)
			p[i] = '?';
	}
}

static void write_all(const char *p, size_t len)
{
	ssize_t n;

	do
		n = write(STDERR_FILENO, p, len);
	while (n < 0 && errno == EINTR);
}

void log_vat(enum log_level level, const char *fmt, va_list ap)
{
	const size_t start = sizeof(LOG_PREFIX) - 1, room = LOG_LINE_MAX - start - 1;
	char line[LOG_LINE_MAX] = LOG_PREFIX;
	int saved = errno, n;

	if (!log_is_on(level))
		return;
	n = vsnprintf(line + start, room, fmt, ap);
	if (n < 0)
		n = 0;
	if ((size_t)n >= room)
		n = (int)room - 1;
	make_printable(line + start, (size_t)n);
	line[start + (size_t)n] = '\n';
	write_all(line, start + (size_t)n + 1);
	errno = saved;
}

void log_at(enum log_level level, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	log_vat(level, fmt, ap);
	va_end(ap);
}

bool log_rate_ok(struct log_rate *r, uint64_t period_ms, uint64_t *held)
{
	uint64_t now_ms = clock_mono_ns() / NS_PER_MS;

	if (now_ms < r->next_ms) {
		r->held++;
		return false;
	}
	*held = r->held;
	r->held = 0;
	r->next_ms = now_ms + period_ms;
	return true;
}

const char *log_advice(int err)
{
	return err == EMFILE || err == ENFILE ? ": raise LimitNOFILE or `ulimit -n`" : "";
}

bool log_same_ok(struct log_same *s, const char *text)
{
	uint64_t now_ns = clock_mono_ns();

	if (!strncmp(text, s->text, sizeof(s->text) - 1) &&
	    now_ns - s->at_ns < SAME_AGAIN_MS * NS_PER_MS)
		return false;
	snprintf(s->text, sizeof(s->text), "%s", text);
	s->at_ns = now_ns;
	return true;
}

void log_same_end(struct log_same *s)
{
	s->text[0] = '\0';
}
