/* SPDX-License-Identifier: Apache-2.0 */
/*
 * value: one word of the user → a number, size, duration, port, host, address, interface or choice.
 * `name` is how the message names what it was said for: "--ring", or "FILE: ring". All return 0, or
 * -EINVAL after one line on stderr; strings given out are the caller's to free.
 */
#ifndef SSLC_AGENT_VALUE_H
#define SSLC_AGENT_VALUE_H

#include <stddef.h>
#include <stdint.h>

/** Wrong usage: one line on stderr, without terminal escapes. Always -EINVAL. */
int usage_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/** A copy. */
int value_string(const char *text, char **out) __attribute__((warn_unused_result));
/** 0 to max, which the message calls a level. */
int value_level(const char *name, const char *text, int max, int *out)
	__attribute__((warn_unused_result));
/** -20, the most favoured, to 19. */
int value_nice(const char *name, const char *text, int *out) __attribute__((warn_unused_result));
/** A number from min to max. */
int value_number(const char *name, const char *text, unsigned min, unsigned max, unsigned *out)
	__attribute__((warn_unused_result));
/** 02:00:00:00:00:01, not all zero. */
int value_mac(const char *name, const char *text, uint8_t out[6])
	__attribute__((warn_unused_result));
/** 64M: bytes, min to max. */
int value_size(const char *name, const char *text, uint64_t min, uint64_t max, size_t *out)
	__attribute__((warn_unused_result));
/** 1h: seconds, 1 to max_s. */
int value_duration(const char *name, const char *text, unsigned max_s, unsigned *out)
	__attribute__((warn_unused_result));
/**
 * 10%, 10%:5m: percent, 1 to 99, and seconds, 1 to max_s; *seconds is left alone when none are
 * said.
 */
int value_share(const char *name, const char *text, unsigned max_s, unsigned *percent,
		unsigned *seconds) __attribute__((warn_unused_result));
int value_port(const char *name, const char *text, uint16_t *out)
	__attribute__((warn_unused_result));
/** HOST, HOST:PORT, [ADDR] or [ADDR]:PORT. *port is left alone when none is said. */
int value_host(const char *name, const char *text, char **host, uint16_t *port)
	__attribute__((warn_unused_result));
/** An IP address, IPv6 also in brackets or with a scope; a copy without brackets. */
int value_address(const char *name, const char *text, char **out)
	__attribute__((warn_unused_result));
/** Checks only that it can be an interface's name. */
int value_iface(const char *name, const char *text) __attribute__((warn_unused_result));
/** *out is the index of `text` in `words`, which NULL ends. */
int value_choice(const char *name, const char *text, const char *const *words, unsigned *out)
	__attribute__((warn_unused_result));

#endif
