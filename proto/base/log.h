/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log: one line to stderr, "sslcollector: stage: what: cause key=value". Never plaintext, keys or
 * credentials. Thread-safe: a line is one write(2).
 */
#ifndef SSLC_BASE_LOG_H
#define SSLC_BASE_LOG_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/** Lines above this level are not written. Default LOG_INFO. */
void log_set_level(enum log_level level);
bool log_is_on(enum log_level level);
void log_at(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void log_vat(enum log_level level, const char *fmt, va_list ap);

#define log_error(...) log_at(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_at(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_at(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_at(LOG_DEBUG, __VA_ARGS__)

/** What to do about an errno, to stand behind its text; "": nobody knows. */
const char *log_advice(int err);

/* At most one line a `period_ms`; the next line written says how many were held back. */
struct log_rate {
	uint64_t next_ms;
	uint64_t held;
};
/** True when a line may be written now (CLOCK_MONOTONIC); *held says how many were suppressed. */
bool log_rate_ok(struct log_rate *r, uint64_t period_ms, uint64_t *held);

/* Trouble that lasts: once, and again only when it changes or a minute has passed. */
struct log_same {
	char text[512]; /* "": there is none */
	uint64_t at_ns;
};
/** Whether `text` is to be written now. */
bool log_same_ok(struct log_same *s, const char *text);
/** It is over: the same trouble would be news. */
void log_same_end(struct log_same *s);

#endif
