/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gather: see gather.h. What may differ between the two: IP's length, id and checksum, TCP's
 * sequence number, checksum and PSH. All else is the same, or the frame stays as it is.
 */
#include "sinks/gather.h"

#include <string.h>

#define ETH_LEN 14u
#define TAG_LEN 4u
#define IP4_LEN 20u
#define IP6_LEN 40u
#define TCP_LEN 20u
#define TH_PSH  0x08u
#define TH_ACK  0x10u

struct place {
	size_t ip, tcp, payload;
	bool is_ip6;
};

static uint32_t load_u16(const uint8_t *p)
{
	return (uint32_t)p[0] << 8 | p[1];
}

static uint32_t load_u32(const uint8_t *p)
{
	return load_u16(p) << 16 | load_u16(p + 2);
}

static void store_u16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static uint32_t sum_of(uint32_t sum, const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i += 2) /* headers are of even length */
		sum += load_u16(p + i);
	return sum;
}

static uint32_t fold(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* False: no TCP segment of payload without options. `len`: of the headers at least. */
static bool find(struct place *at, const uint8_t *p, size_t len)
{
	size_t type = ETH_LEN - 2;

	for (unsigned i = 0; i < 2 && len > type + TAG_LEN && load_u16(p + type) == 0x8100; i++)
		type += TAG_LEN;
	if (len < type + 2 + IP4_LEN + TCP_LEN)
		return false;
	at->is_ip6 = load_u16(p + type) == 0x86dd;
	at->ip = type + 2;
	at->tcp = at->ip + (at->is_ip6 ? IP6_LEN : IP4_LEN);
	at->payload = at->tcp + TCP_LEN;
	return (at->is_ip6 || load_u16(p + type) == 0x0800) && len >= at->payload &&
	       p[at->ip + (at->is_ip6 ? 6 : 9)] == 6 && p[at->tcp + 12] == TCP_LEN / 4 << 4 &&
	       (p[at->tcp + 13] & ~TH_PSH) == TH_ACK;
}

/* The same but for what differs from packet to packet. */
static bool is_same_ip(const uint8_t *a, const uint8_t *b, bool is_ip6)
{
	if (is_ip6)
		return !memcmp(a, b, 4) && !memcmp(a + 6, b + 6, IP6_LEN - 6);
	return !memcmp(a, b, 2) && !memcmp(a + 6, b + 6, 4) && !memcmp(a + 12, b + 12, 8);
}

/* b goes on where a ends; both tell the other side the same. */
static bool is_next(const uint8_t *a, const uint8_t *b, size_t payload)
{
	return !memcmp(a, b, 4) && load_u32(b + 4) == load_u32(a + 4) + (uint32_t)payload &&
	       !memcmp(a + 8, b + 8, 4) && !memcmp(a + 14, b + 14, 2);
}

static void put_lengths(uint8_t *p, const struct place *at, size_t len)
{
	uint8_t *ip = p + at->ip, *tcp = p + at->tcp;
	size_t addrs = at->is_ip6 ? 32 : 8;
	uint32_t tcp_len = (uint32_t)(len - at->tcp);

	if (at->is_ip6) {
		store_u16(ip + 4, tcp_len);
	} else {
		store_u16(ip + 2, IP4_LEN + tcp_len);
		store_u16(ip + 10, 0);
		store_u16(ip + 10, ~fold(sum_of(0, ip, IP4_LEN)));
	}
	store_u16(tcp + 16, fold(sum_of(6 + tcp_len, tcp - addrs, addrs)));
}

/* How many of `more` bytes there is room for; 0 as well when it would not be a large frame. */
static size_t fitting(size_t header, size_t payload, size_t more, uint16_t segment)
{
	size_t most = (GATHER_MAX - header) / segment * segment;

	if (payload >= most)
		return 0;
	if (more > most - payload)
		more = most - payload;
	return payload + more > segment ? more : 0;
}

size_t gather(uint8_t *front, size_t len, struct span head, size_t payload, uint16_t segment,
	      uint16_t *ip_id)
{
	struct place a, b;
	size_t n;

	if (!find(&a, front, len) || !find(&b, head.p, head.len) || a.tcp != b.tcp ||
	    a.is_ip6 != b.is_ip6 || len == a.payload || memcmp(front, head.p, a.ip) != 0 ||
	    !is_same_ip(front + a.ip, head.p + b.ip, a.is_ip6) ||
	    !is_next(front + a.tcp, head.p + b.tcp, len - a.payload))
		return 0;
	n = fitting(a.payload, len - a.payload, payload, segment);
	if (!n)
		return 0;
	front[a.tcp + 13] = n == payload ? head.p[b.tcp + 13] : TH_ACK;
	put_lengths(front, &a, len + n);
	if (!a.is_ip6)
		*ip_id = (uint16_t)(load_u16(front + a.ip + 4) +
				    (len - a.payload + n + segment - 1) / segment);
	return n;
}
