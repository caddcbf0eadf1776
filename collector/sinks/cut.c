/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut: see cut.h. All that is known of a connection is in its frames: the first one that was lost
 * has the sequence number that the other side waits for.
 */
#include "sinks/cut.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/hmap.h"
#include "base/queue.h"

#define ETH_LEN 14u
#define TAG_LEN 4u
#define TCP_LEN 20u
#define TH_SYN  0x02u
#define TH_RST  0x04u
#define TH_ACK  0x10u

/* Ends sorted: both directions are one connection. */
struct key {
	uint8_t addr[2][16];
	uint16_t port[2];
	uint16_t vlan[2];
	uint16_t family;
};
_Static_assert(sizeof(struct key) == 42, "hashed and compared as bytes");

struct flow {
	struct hmap_node by_key;
	struct queue_node order, waiting;
	struct key key;
	uint64_t cut_ns;
	uint8_t rst[CUT_FRAME_MAX];
	uint8_t rst_len; /* 0: its SYN was lost, nobody knows of it */
};

struct cut {
	struct hmap by_key;
	struct queue order;   /* first cut first */
	struct queue waiting; /* their RST has not left */
};

/* Frames */

struct parts {
	struct key key;
	size_t ip_at, tcp_at;
	uint8_t flags;
};

static uint16_t load_u16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static void store_u16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

/* Up to two tags; returns where the Ethernet type is. */
static size_t parse_tags(struct span l2, struct key *k)
{
	size_t at = 12;

	for (unsigned i = 0; i < 2 && at + TAG_LEN + 2 <= l2.len && load_u16(l2.p + at) == 0x8100;
	     i++, at += TAG_LEN)
		k->vlan[i] = load_u16(l2.p + at + 2);
	return at;
}

static void sort_ends(struct key *k, const uint8_t *src, const uint8_t *dst, size_t addr_len,
		      const uint8_t *ports)
{
	int order = memcmp(src, dst, addr_len);
	int first = order > 0 || (order == 0 && memcmp(ports, ports + 2, 2) > 0) ? 1 : 0;

	memcpy(k->addr[first], src, addr_len);
	memcpy(k->addr[!first], dst, addr_len);
	k->port[first] = load_u16(ports);
	k->port[!first] = load_u16(ports + 2);
}

/* False: no TCP segment as forge makes them. */
static bool parse(struct span l2, struct parts *out)
{
	size_t type_at, addr_len;
	uint16_t type;
	bool is_ip6;

	memset(out, 0, sizeof(*out));
	if (l2.len < ETH_LEN)
		return false;
	type_at = parse_tags(l2, &out->key);
	type = load_u16(l2.p + type_at);
	is_ip6 = type == 0x86dd;
	out->key.family = is_ip6 ? 6 : 4;
	out->ip_at = type_at + 2;
	out->tcp_at = out->ip_at + (is_ip6 ? 40 : 20);
	if ((!is_ip6 && type != 0x0800) || l2.len < out->tcp_at + TCP_LEN ||
	    l2.p[out->ip_at + (is_ip6 ? 6 : 9)] != 6)
		return false;
	addr_len = is_ip6 ? 16 : 4;
	sort_ends(&out->key, l2.p + out->tcp_at - 2 * addr_len, l2.p + out->tcp_at - addr_len,
		  addr_len, l2.p + out->tcp_at);
	out->flags = l2.p[out->tcp_at + 13];
	return true;
}

static uint32_t sum_of(uint32_t sum, const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i += 2) /* headers are of even length */
		sum += load_u16(p + i);
	return sum;
}

static void store_sum(uint8_t *p, uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	store_u16(p, (uint16_t)~sum);
}

/* The lost frame's headers with RST in place of what it carried: the sequence number is the one
 * that the other side expects. Returns the length. */
static size_t make_rst(uint8_t *out, struct span lost, const struct parts *k)
{
	uint8_t *ip = out + k->ip_at, *tcp = out + k->tcp_at;
	size_t addrs = k->key.family == 6 ? 32 : 8;

	memcpy(out, lost.p, k->tcp_at + TCP_LEN);
	tcp[12] = TCP_LEN / 4 << 4;
	tcp[13] = TH_RST | TH_ACK;
	store_u16(tcp + 16, 0);
	if (k->key.family == 6) {
		store_u16(ip + 4, TCP_LEN);
	} else {
		store_u16(ip + 2, 20 + TCP_LEN);
		store_u16(ip + 10, 0);
		store_sum(ip + 10, sum_of(0, ip, 20));
	}
	store_sum(tcp + 16, sum_of(sum_of(6 + TCP_LEN, tcp - addrs, addrs), tcp, TCP_LEN));
	return k->tcp_at + TCP_LEN;
}

/* Connections */

static struct flow *flow_find(const struct cut *c, const struct key *key)
{
	struct hmap_node *n = hmap_first(&c->by_key, hmap_hash(key, sizeof(*key)));

	for (; n; n = hmap_next_same(n)) {
		struct flow *f = hmap_entry(n, struct flow, by_key);

		if (!memcmp(&f->key, key, sizeof(*key)))
			return f;
	}
	return NULL;
}

static void flow_forget(struct cut *c, struct flow *f)
{
	hmap_remove(&c->by_key, &f->by_key);
	queue_remove(&f->order);
	queue_remove(&f->waiting);
	free(f);
}

static struct flow *flow_add(struct cut *c, const struct key *key, uint64_t now_ns)
{
	struct flow *f;

	if (c->by_key.count >= CUT_FLOWS_MAX)
		flow_forget(c, queue_entry(queue_first(&c->order), struct flow, order));
	f = calloc(1, sizeof(*f));
	if (!f)
		return NULL;
	f->key = *key;
	f->cut_ns = now_ns;
	if (hmap_insert(&c->by_key, &f->by_key, hmap_hash(key, sizeof(*key))) < 0) {
		free(f);
		return NULL;
	}
	queue_push(&c->order, &f->order);
	return f;
}

int cut_new(struct cut **out)
{
	struct cut *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	hmap_init(&c->by_key);
	queue_init(&c->order);
	queue_init(&c->waiting);
	*out = c;
	return 0;
}

void cut_free(struct cut *c)
{
	struct queue_node *n;

	if (!c)
		return;
	while ((n = queue_first(&c->order)) != NULL)
		flow_forget(c, queue_entry(n, struct flow, order));
	hmap_fini(&c->by_key);
	free(c);
}

bool cut_any(const struct cut *c)
{
	return c->by_key.count > 0;
}

bool cut_lost(struct cut *c, struct span l2, uint64_t now_ns)
{
	struct parts k;
	struct flow *f;

	if (!parse(l2, &k))
		return false;
	f = flow_find(c, &k.key);
	if (f) {
		if (k.flags & TH_RST && f->rst_len > 0) /* ours, or as good as ours */
			queue_push(&c->waiting, &f->waiting);
		return false;
	}
	f = flow_add(c, &k.key, now_ns);
	if (!f)
		return false;
	if ((k.flags & (TH_SYN | TH_ACK)) == TH_SYN)
		return true;
	f->rst_len = (uint8_t)make_rst(f->rst, l2, &k);
	queue_push(&c->waiting, &f->waiting);
	return !(k.flags & TH_RST);
}

bool cut_drops(struct cut *c, struct span l2)
{
	struct parts k;
	struct flow *f;

	if (!parse(l2, &k))
		return false;
	f = flow_find(c, &k.key);
	if (f && (k.flags & (TH_SYN | TH_ACK)) == TH_SYN && !queue_is_in(&f->waiting)) {
		flow_forget(c, f);
		f = NULL;
	}
	return f != NULL;
}

struct span cut_next(struct cut *c)
{
	struct queue_node *n = queue_first(&c->waiting);
	struct flow *f;

	if (!n)
		return span_of(NULL, 0);
	f = queue_entry(n, struct flow, waiting);
	queue_remove(&f->waiting);
	return span_of(f->rst, f->rst_len);
}

/* Of a connection that nobody knows of, too, what waits is not sent as it is. */
static size_t rst_instead(const struct flow *f, uint8_t *frame, size_t len, const struct parts *k)
{
	uint8_t rst[CUT_FRAME_MAX];
	size_t rst_len = f->rst_len;

	if (rst_len > 0)
		memcpy(rst, f->rst, rst_len);
	else
		rst_len = make_rst(rst, span_of(frame, len), k);
	memcpy(frame, rst, rst_len);
	return rst_len;
}

size_t cut_replace(struct cut *c, uint8_t *frame, size_t len, bool must)
{
	struct parts k;
	struct flow *f = parse(span_of(frame, len), &k) ? flow_find(c, &k.key) : NULL;

	if (!f)
		return len;
	if (!must && !queue_is_in(&f->waiting))
		return 0;
	queue_remove(&f->waiting);
	return rst_instead(f, frame, len, &k);
}

void cut_expire(struct cut *c, uint64_t now_ns, uint64_t age_ns)
{
	struct queue_node *n;

	while ((n = queue_first(&c->order)) != NULL) {
		struct flow *f = queue_entry(n, struct flow, order);

		if (now_ns < f->cut_ns || now_ns - f->cut_ns < age_ns)
			return;
		flow_forget(c, f);
	}
}
