/* SPDX-License-Identifier: Apache-2.0 */
/*
 * value: words of the user come in, typed values go out, or one line that says what is wrong with
 * the word. Knows no option and opens nothing: whether an interface or a host exists is not asked
 * here.
 */
#include "cli/value.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_MAX_LEN 512

/* The words quoted in the line may have been pasted. */
int usage_error(const char *fmt, ...)
{
	char line[LINE_MAX_LEN];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	for (char *c = line; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			*c = '?';
	fprintf(stderr, "sslcollector: %s (try --help)\n", line);
	return -EINVAL;
}

int value_string(const char *text, char **out)
{
	char *copy = strdup(text);

	if (!copy)
		return usage_error("out of memory");
	*out = copy;
	return 0;
}

/* Digits and at most one suffix letter out of `units`. False when it is no such number or
 * overflows. */
static bool parse_number(const char *text, const char *units, const uint64_t *factors,
			 uint64_t *out)
{
	uint64_t v = 0, factor = 1;
	const char *p = text, *unit;

	for (; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(v, 10, &v) ||
		    __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
			return false;
	if (p == text)
		return false;
	if (*p) {
		unit = strchr(units, *p);
		if (!unit || p[1])
			return false;
		factor = factors[unit - units];
	}
	return !__builtin_mul_overflow(v, factor, out);
}

int value_level(const char *name, const char *text, int max, int *out)
{
	uint64_t v;

	if (!parse_number(text, "", NULL, &v) || v > (uint64_t)max)
		return usage_error("%s: %s: a level is 0 to %d", name, text, max);
	*out = (int)v;
	return 0;
}

int value_nice(const char *name, const char *text, int *out)
{
	bool negative = text[0] == '-';
	uint64_t v;

	if (!parse_number(text + negative, "", NULL, &v) || v > (negative ? 20u : 19u))
		return usage_error("%s: %s: a nice value is -20 to 19", name, text);
	*out = negative ? -(int)v : (int)v;
	return 0;
}

int value_number(const char *name, const char *text, unsigned min, unsigned max, unsigned *out)
{
	uint64_t v;

	if (!parse_number(text, "", NULL, &v) || v < min || v > max)
		return usage_error("%s: %s: must be a number from %u to %u", name, text, min, max);
	*out = (unsigned)v;
	return 0;
}

static int hex_digit(char c)
{
	static const char digits[] = "00112233445566778899aAbBcCdDeEfF";
	const char *at = c ? strchr(digits, c) : NULL;

	return at ? (int)(at - digits) / 2 : -1;
}

/* Two digits an octet, colons between them. */
static bool parse_mac(const char *text, uint8_t out[6])
{
	for (int i = 0; i < 6; i++, text += 3) {
		int high = hex_digit(text[0]), low = high < 0 ? -1 : hex_digit(text[1]);

		if (low < 0 || text[2] != (i < 5 ? ':' : '\0'))
			return false;
		out[i] = (uint8_t)(high << 4 | low);
	}
	return true;
}

int value_mac(const char *name, const char *text, uint8_t out[6])
{
	static const uint8_t zero[6];
	uint8_t mac[6];

	if (!parse_mac(text, mac) || !memcmp(mac, zero, sizeof(mac)))
		return usage_error("%s: %s: an Ethernet address is written 02:00:00:00:00:01", name,
				   text);
	memcpy(out, mac, sizeof(mac));
	return 0;
}

int value_size(const char *name, const char *text, uint64_t min, uint64_t max, size_t *out)
{
	static const uint64_t factors[] = {1ull << 10, 1ull << 10, 1ull << 20,
					   1ull << 20, 1ull << 30, 1ull << 30};
	uint64_t v;

	if (!parse_number(text, "KkMmGg", factors, &v))
		return usage_error("%s: %s: a size is a number with K, M or G, as in 64M", name,
				   text);
	if (v < min || v > max)
		return usage_error("%s: %s: must be %lluK to %lluM", name, text,
				   (unsigned long long)min >> 10, (unsigned long long)max >> 20);
	*out = (size_t)v;
	return 0;
}

int value_duration(const char *name, const char *text, unsigned max_s, unsigned *out)
{
	static const uint64_t factors[] = {1, 60, 3600, 86400};
	uint64_t v;

	if (!parse_number(text, "smhd", factors, &v))
		return usage_error("%s: %s: a duration is a number with s, m, h or d, as in 1h",
				   name, text);
	if (!v || v > max_s)
		return usage_error("%s: %s: must be 1s to %ud", name, text, max_s / 86400);
	*out = (unsigned)v;
	return 0;
}

int value_share(const char *name, const char *text, unsigned max_s, unsigned *percent,
		unsigned *seconds)
{
	char *end;
	unsigned long v = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end != '%' || (end[1] && end[1] != ':'))
		return usage_error("%s: %s: a share is a number with %%, as in 10%%, or 10%%:5m",
				   name, text);
	if (!v || v > 99)
		return usage_error("%s: %s: must be 1%% to 99%%", name, text);
	if (end[1] && value_duration(name, end + 2, max_s, seconds))
		return -EINVAL;
	*percent = (unsigned)v;
	return 0;
}

int value_port(const char *name, const char *text, uint16_t *out)
{
	uint64_t v;

	if (!parse_number(text, "", NULL, &v) || !v || v > 65535)
		return usage_error("%s: %s: a port is 1 to 65535", name, text);
	*out = (uint16_t)v;
	return 0;
}

static int bad_ipv6(const char *name, const char *text)
{
	return usage_error("%s: %s: an IPv6 address is written [ADDR] or [ADDR]:PORT", name, text);
}

int value_host(const char *name, const char *text, char **host, uint16_t *port)
{
	const char *begin = text, *end, *colon;

	if (*text == '[') {
		begin = text + 1;
		end = strchr(begin, ']');
		if (!end || (end[1] && end[1] != ':'))
			return bad_ipv6(name, text);
		colon = end[1] ? end + 1 : NULL;
	} else {
		colon = strchr(text, ':');
		end = colon ? colon : text + strlen(text);
		if (colon && strchr(colon + 1, ':'))
			return bad_ipv6(name, text);
	}
	if (end == begin || memchr(begin, ' ', (size_t)(end - begin)))
		return usage_error("%s: %s: a host name or address is needed", name, text);
	if (colon && value_port(name, colon + 1, port))
		return -EINVAL;
	*host = strndup(begin, (size_t)(end - begin));
	return *host ? 0 : usage_error("out of memory");
}

static bool is_address(const char *text)
{
	uint8_t bin[sizeof(struct in6_addr)];
	char plain[INET6_ADDRSTRLEN];
	size_t n = strcspn(text, "%"); /* fe80::1%eth0 */

	if (n >= sizeof(plain))
		return false;
	memcpy(plain, text, n);
	plain[n] = '\0';
	return inet_pton(AF_INET6, plain, bin) == 1 ||
	       (!text[n] && inet_pton(AF_INET, plain, bin) == 1);
}

int value_address(const char *name, const char *text, char **out)
{
	size_t n = strlen(text);
	bool brackets = n > 1 && *text == '[' && text[n - 1] == ']';
	char *plain = brackets ? strndup(text + 1, n - 2) : strdup(text);

	if (!plain)
		return usage_error("out of memory");
	if (!is_address(plain)) {
		free(plain);
		return usage_error("%s: %s: an IP address is needed (the port is told by itself)",
				   name, text);
	}
	*out = plain;
	return 0;
}

int value_iface(const char *name, const char *text)
{
	if (strlen(text) < IFNAMSIZ && !strpbrk(text, "/ \t"))
		return 0;
	return usage_error("%s: %s: not an interface name; list them with `ip link`", name, text);
}

int value_choice(const char *name, const char *text, const char *const *words, unsigned *out)
{
	char all[128] = "";
	size_t n = 0;

	for (unsigned i = 0; words[i]; i++) {
		if (!strcmp(text, words[i])) {
			*out = i;
			return 0;
		}
		if (n < sizeof(all))
			n += (size_t)snprintf(all + n, sizeof(all) - n, "%s%s", n ? ", " : "",
					      words[i]);
	}
	return usage_error("%s: %s: must be one of %s", name, text, all);
}
