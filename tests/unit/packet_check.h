/* SPDX-License-Identifier: Apache-2.0 */
/*
 * packet_check: a second, independent reader of forged frames. Parses Ethernet, IP and TCP with its
 * own code, recomputes checksums byte by byte and follows both sequence spaces of every connection
 * the way a strict receiver would. The first violated rule is kept in `err`; nothing here knows the
 * forger's code.
 */
#ifndef SSLC_TEST_PACKET_CHECK_H
#define SSLC_TEST_PACKET_CHECK_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK_FLOWS 512

enum check_flag { CF_FIN = 1, CF_SYN = 2, CF_RST = 4, CF_PSH = 8, CF_ACK = 16 };

/* One packet, taken apart. */
struct check_packet {
	uint8_t src[16], dst[16], family, flags;
	uint16_t sport, dport, ip_id, window, vlan;
	uint32_t seq, ack, mss, wscale, ip_len;
	bool has_mss, has_wscale, has_sack, has_other_option;
	const uint8_t *payload;
	size_t len;
};

struct check_side {
	uint32_t isn, nxt, acked,
		sent_nxt;     /* sent_nxt: behind its last packet, gaps not included */
	uint64_t window, pos; /* pos: payload offset of the next byte, gaps included */
	uint64_t bytes, gap;
	uint16_t ip_id, raw_window;
	bool fin;
};

struct check_flow {
	uint8_t addr[2][16], family; /* [0]: client */
	uint16_t port[2], vlan;
	int stage; /* 0 free, 1 SYN, 2 SYN-ACK, 3 ACK, 4 established */
	uint32_t mss;
	struct check_side side[2];
	uint64_t last_ts, generation;
};

struct check {
	struct check_flow flow[CHECK_FLOWS];
	unsigned n_flows;
	uint32_t mtu;
	uint64_t packets, syns, fins, rsts, bare_acks, repeated, payload_bytes, payload_hash, gap,
		firsts, pshs;
	uint64_t last_ts;
	int last_dir; /* 0 client, 1 server */
	uint8_t last_flags, last_payload_flags;
	struct check_flow *last;
	const char *err;
	bool quiet;
	bool is_large; /* acknowledgements are as rare as large frames allow */
	uint64_t err_packet;
	uint8_t macs[12];    /* destination, source; all zero: the forger's usual ones */
	uint16_t outer_vlan; /* a tag around all packets */
	/* When set: what the byte at an offset of a direction must be. */
	uint8_t (*pattern)(int dir, uint64_t pos);
};

static inline void check_fail(struct check *c, const char *what)
{
	if (c->err)
		return;
	c->err = what;
	c->err_packet = c->packets;
	if (!c->quiet)
		fprintf(stderr, "packet %llu: %s\n", (unsigned long long)c->packets, what);
}

#define CHECK(c, cond, what)                                                                       \
	do {                                                                                       \
		if (!(cond))                                                                       \
			check_fail((c), (what));                                                   \
	} while (0)

static inline uint32_t check_be(const uint8_t *p, int n)
{
	uint32_t v = 0;

	while (n--)
		v = v << 8 | *p++;
	return v;
}

static inline uint32_t check_sum(uint32_t sum, const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		sum += i & 1 ? p[i] : (uint32_t)p[i] << 8;
		sum = (sum & 0xffff) + (sum >> 16);
	}
	return sum;
}

static inline void check_put(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static inline uint64_t check_hash(uint64_t h, const uint8_t *p, size_t len)
{
	if (!h)
		h = 0xcbf29ce484222325ull;
	for (size_t i = 0; i < len; i++)
		h = (h ^ p[i]) * 0x100000001b3ull;
	return h;
}

static inline void check_options(struct check *c, struct check_packet *k, const uint8_t *p,
				 size_t len)
{
	size_t i = 0;

	while (i < len) {
		size_t n = p[i] <= 1 ? 1 : i + 1 < len ? p[i + 1] : 0;

		if (n == 0 || i + n > len) {
			check_fail(c, "broken TCP option");
			return;
		}
		if (p[i] == 2 && n == 4) {
			k->has_mss = true;
			k->mss = check_be(p + i + 2, 2);
		} else if (p[i] == 3 && n == 3) {
			k->has_wscale = true;
			k->wscale = p[i + 2];
		} else if (p[i] == 4 && n == 2) {
			k->has_sack = true;
		} else if (p[i] > 1) {
			k->has_other_option = true;
		}
		i += n;
	}
}

/* The network header; returns the TCP segment or NULL. */
static inline const uint8_t *check_ip(struct check *c, struct check_packet *k, const uint8_t *ip,
				      size_t len, size_t *tcp_len, uint32_t *pseudo)
{
	k->family = ip[0] >> 4;
	k->ip_len = (uint32_t)len;
	if (k->family == 4) {
		CHECK(c, ip[0] == 0x45 && ip[1] == 0, "IPv4 version, header length or TOS");
		CHECK(c, check_be(ip + 2, 2) == len, "IPv4 total length");
		k->ip_id = (uint16_t)check_be(ip + 4, 2);
		CHECK(c, check_be(ip + 6, 2) == 0x4000, "DF only");
		CHECK(c, ip[8] == 64 && ip[9] == 6, "TTL or protocol");
		CHECK(c, check_sum(0, ip, 20) == 0xffff, "IPv4 header checksum");
		memcpy(k->src, ip + 12, 4);
		memcpy(k->dst, ip + 16, 4);
		*pseudo = check_sum(0, ip + 12, 8);
		*tcp_len = len - 20;
		return ip + 20;
	}
	CHECK(c, k->family == 6 && len >= 60, "IP version");
	CHECK(c, check_be(ip + 4, 2) == len - 40, "IPv6 payload length");
	CHECK(c, ip[6] == 6 && ip[7] == 64, "next header or hop limit");
	memcpy(k->src, ip + 8, 16);
	memcpy(k->dst, ip + 24, 16);
	*pseudo = check_sum(0, ip + 8, 32);
	*tcp_len = len - 40;
	return ip + 40;
}

static inline bool check_parse(struct check *c, struct check_packet *k, const uint8_t *p,
			       size_t len)
{
	static const uint8_t none[12],
		usual[12] = {2, 0x73, 0x73, 0x6c, 0x63, 2, 2, 0x73, 0x73, 0x6c, 0x63, 1};
	const uint8_t *macs = memcmp(c->macs, none, 12) ? c->macs : usual;
	const uint8_t *tcp;
	uint32_t pseudo = 0, type;
	size_t tcp_len = 0, header;

	memset(k, 0, sizeof(*k));
	if (len < 54 || memcmp(p, macs, 12) != 0) {
		check_fail(c, "short frame or wrong MAC addresses");
		return false;
	}
	type = check_be(p + 12, 2);
	if (c->outer_vlan) {
		CHECK(c, type == 0x8100 && check_be(p + 14, 2) == c->outer_vlan, "the outer tag");
		p += 4;
		len -= 4;
		type = check_be(p + 12, 2);
	}
	if (type == 0x8100) {
		k->vlan = (uint16_t)check_be(p + 14, 2);
		CHECK(c, k->vlan > 0 && k->vlan < 4095, "VLAN id, priority or DEI");
		p += 4;
		len -= 4;
		type = check_be(p + 12, 2);
	}
	tcp = check_ip(c, k, p + 14, len - 14, &tcp_len, &pseudo);
	CHECK(c, type == (k->family == 4 ? 0x0800u : 0x86ddu), "Ethernet type");
	CHECK(c, k->ip_len <= c->mtu, "packet larger than the MTU");
	if (c->err)
		return false;
	pseudo += 6 + (uint32_t)tcp_len;
	CHECK(c, check_sum(pseudo, tcp, tcp_len) == 0xffff, "TCP checksum");
	k->sport = (uint16_t)check_be(tcp, 2);
	k->dport = (uint16_t)check_be(tcp + 2, 2);
	k->seq = check_be(tcp + 4, 4);
	k->ack = check_be(tcp + 8, 4);
	header = (size_t)(tcp[12] >> 4) * 4;
	k->flags = tcp[13];
	k->window = (uint16_t)check_be(tcp + 14, 2);
	CHECK(c, header >= 20 && header <= tcp_len, "TCP data offset");
	CHECK(c, check_be(tcp + 18, 2) == 0 && (tcp[12] & 15) == 0,
	      "urgent pointer or reserved bits");
	if (c->err)
		return false;
	check_options(c, k, tcp + 20, header - 20);
	k->payload = tcp + header;
	k->len = tcp_len - header;
	return true;
}

/* *dir: 0 when the client sent it. */
static inline struct check_flow *check_find(struct check *c, const struct check_packet *k, int *dir)
{
	for (unsigned i = 0; i < c->n_flows; i++) {
		struct check_flow *f = &c->flow[i];

		if (f->family != k->family || f->vlan != k->vlan)
			continue;
		for (int d = 0; d < 2; d++) {
			if (f->port[d] == k->sport && f->port[!d] == k->dport &&
			    !memcmp(f->addr[d], k->src, 16) && !memcmp(f->addr[!d], k->dst, 16)) {
				*dir = d;
				return f;
			}
		}
	}
	return NULL;
}

static inline void check_syn(struct check *c, struct check_flow *f, const struct check_packet *k)
{
	uint64_t generation = f->generation, last_ts = f->last_ts;

	memset(f, 0, sizeof(*f));
	memcpy(f->addr[0], k->src, 16);
	memcpy(f->addr[1], k->dst, 16);
	f->port[0] = k->sport;
	f->port[1] = k->dport;
	f->family = k->family;
	f->vlan = k->vlan;
	f->generation = generation + 1;
	f->last_ts = last_ts;
	f->stage = 1;
	f->mss = k->mss;
	f->side[0].isn = k->seq;
	f->side[0].nxt = f->side[0].acked = k->seq + 1;
	f->side[0].window = k->window; /* never scaled in a SYN */
	f->side[0].ip_id = (uint16_t)(k->ip_id + 1);
	CHECK(c, k->flags == CF_SYN && k->ack == 0 && k->len == 0,
	      "first packet is not a plain SYN");
	CHECK(c, k->seq != 0 && k->window == 65535, "client ISN or window");
	CHECK(c,
	      k->has_mss && k->has_sack && k->has_wscale && k->wscale == 10 && !k->has_other_option,
	      "SYN options");
	CHECK(c, k->mss + (k->family == 4 ? 40 : 60) <= c->mtu || k->mss == 88, "MSS against MTU");
	c->syns++;
}

static inline void check_handshake(struct check *c, struct check_flow *f,
				   const struct check_packet *k, int dir)
{
	struct check_side *me = &f->side[dir], *peer = &f->side[!dir];

	CHECK(c, k->len == 0, "payload in the handshake");
	if (k->flags == (CF_RST | CF_ACK)) { /* refused, or given up before it was complete */
		CHECK(c, dir == 1 || f->stage > 1, "RST from who has just asked");
		CHECK(c, f->stage == 1 || k->seq == me->nxt, "sequence number of a RST");
		CHECK(c, k->ack == peer->nxt, "acknowledgement of a RST");
		c->rsts++;
		f->stage = 0;
		return;
	}
	if (f->stage == 1) {
		me->isn = k->seq;
		me->nxt = me->acked = k->seq + 1;
		me->ip_id = k->ip_id;
		CHECK(c, dir == 1 && k->flags == (CF_SYN | CF_ACK),
		      "second packet is not a SYN-ACK");
		CHECK(c, k->seq != 0 && k->seq != peer->isn && k->window == 65535,
		      "server ISN or window");
		CHECK(c,
		      k->has_mss && k->mss == f->mss && k->has_sack && k->has_wscale &&
			      k->wscale == 10 && !k->has_other_option,
		      "SYN-ACK options");
		me->window = k->window;
	} else {
		CHECK(c, dir == (f->stage == 2 ? 0 : 1) && k->flags == CF_ACK, "handshake order");
		CHECK(c, k->seq == me->nxt, "handshake sequence number");
		CHECK(c, k->window == (f->stage == 2 ? 65535 : 65534), "handshake window");
		me->window = (uint64_t)k->window << 10;
		me->raw_window = k->window;
		me->sent_nxt = k->seq;
	}
	CHECK(c, k->ack == peer->nxt, "handshake acknowledgement");
	f->stage++;
}

/* An acknowledgement beyond what was sent says: these bytes exist, nobody has them. */
static inline void check_ack(struct check *c, struct check_flow *f, const struct check_packet *k,
			     int dir)
{
	struct check_side *peer = &f->side[!dir];
	uint32_t ahead = k->ack - peer->nxt;

	if (ahead != 0) {
		CHECK(c, ahead <= f->side[dir].window, "acknowledgement outside of the window");
		CHECK(c, (k->flags == CF_ACK || k->flags == (CF_RST | CF_ACK)) && k->len == 0,
		      "gap acknowledged by other than a bare ACK");
		CHECK(c, peer->acked == peer->nxt,
		      "gap before the data in front of it was acknowledged");
		CHECK(c, !peer->fin, "gap after FIN");
		peer->nxt = k->ack;
		peer->gap += ahead;
		peer->pos += ahead;
		c->gap += ahead;
	}
	peer->acked = k->ack;
}

static inline void check_payload(struct check *c, struct check_flow *f,
				 const struct check_packet *k, int dir)
{
	struct check_side *me = &f->side[dir];
	uint32_t flight, limit = f->mss > 16384 ? f->mss : 16384;

	if (c->is_large)
		limit = 65535 + 49152;

	CHECK(c, k->len <= f->mss, "segment larger than the MSS");
	CHECK(c, !me->fin, "data after FIN");
	if (c->pattern) {
		for (size_t i = 0; i < k->len; i++)
			CHECK(c, k->payload[i] == c->pattern(dir, me->pos + i),
			      "payload at its offset");
	}
	me->nxt += (uint32_t)k->len;
	me->pos += k->len;
	me->bytes += k->len;
	flight = me->nxt - me->acked;
	CHECK(c, flight <= f->side[!dir].window, "window exceeded");
	CHECK(c, flight <= limit, "too many bytes without an acknowledgement");
	c->payload_bytes += k->len;
	c->last_payload_flags = k->flags;
	c->pshs += (k->flags & CF_PSH) != 0;
	c->payload_hash = check_hash(c->payload_hash, k->payload, k->len);
}

static inline void check_established(struct check *c, struct check_flow *f,
				     const struct check_packet *k, int dir)
{
	struct check_side *me = &f->side[dir], *peer = &f->side[!dir];
	bool was_acked = peer->acked == k->ack;

	CHECK(c, !(k->flags & CF_SYN) && (k->flags & CF_ACK), "flags of an established connection");
	CHECK(c, k->seq == me->nxt, "sequence number");
	CHECK(c, !(k->flags & CF_PSH) || k->len > 0, "PSH without payload");
	me->window = (uint64_t)k->window << 10;
	/* A bare ACK that repeats the last one in every field would be a duplicate (RFC 5681, 2).
	 */
	CHECK(c, k->window >= 65534, "window");
	CHECK(c,
	      k->window != me->raw_window || k->seq != me->sent_nxt || !was_acked ||
		      k->flags != CF_ACK || k->len > 0,
	      "duplicate ACK");
	me->raw_window = k->window;
	me->sent_nxt = k->seq + (uint32_t)k->len + (k->flags & CF_FIN ? 1 : 0);
	check_ack(c, f, k, dir);
	if (k->len > 0)
		check_payload(c, f, k, dir);
	if (k->flags == CF_ACK && k->len == 0) {
		c->bare_acks++;
		c->repeated += was_acked;
	}
	if (k->flags & CF_FIN) {
		CHECK(c, !me->fin && k->len == 0, "second FIN, or FIN with data");
		me->fin = true;
		me->nxt++;
		c->fins++;
	}
	if (k->flags & CF_RST) {
		CHECK(c, k->len == 0, "RST with data");
		c->rsts++;
		f->stage = 0;
	}
	if (me->fin && peer->fin && me->acked == me->nxt && peer->acked == peer->nxt)
		f->stage = 0;
}

/* One whole frame. */
static inline void check_frame(struct check *c, const uint8_t *p, size_t len, uint64_t ts_ns,
			       bool first)
{
	struct check_packet k;
	struct check_flow *f;
	int dir = 0;

	c->packets++;
	c->firsts += first;
	if (!check_parse(c, &k, p, len))
		return;
	f = check_find(c, &k, &dir);
	if (!f) {
		if (c->n_flows == CHECK_FLOWS) {
			check_fail(c, "more tuples than the checker holds");
			return;
		}
		f = &c->flow[c->n_flows++];
	}
	if (f->stage == 0) {
		CHECK(c, first, "SYN not marked as first");
		check_syn(c, f, &k);
		f->last_ts = ts_ns;
		dir = 0;
	} else {
		CHECK(c, ts_ns >= f->last_ts, "time runs backwards");
		CHECK(c, !k.has_mss || f->stage == 1, "options outside of the handshake");
		if (f->stage > 1 || dir == 0)
			CHECK(c, k.family == 6 || k.ip_id == f->side[dir].ip_id, "IP id");
		if (f->stage < 4)
			check_handshake(c, f, &k, dir);
		else
			check_established(c, f, &k, dir);
		f->side[dir].ip_id = (uint16_t)(k.ip_id + 1);
		f->last_ts = ts_ns;
	}
	c->last = f;
	c->last_ts = ts_ns;
	c->last_dir = dir;
	c->last_flags = k.flags;
}

/*
 * One large frame as a network stack cuts it (GSO): the payload in parts of `segment` bytes, each
 * with the headers, an IP id, a sequence number and checksums of its own, PSH on the last alone.
 * What the checksum of the whole begins with must be right.
 */
static inline void check_large(struct check *c, const uint8_t *p, size_t len, uint16_t segment,
			       uint64_t ts_ns, bool first)
{
	size_t ip = 14, tcp, head, addrs, at;
	uint32_t sum, seq;
	bool is_ip6;

	while (check_be(p + ip - 2, 2) == 0x8100)
		ip += 4;
	is_ip6 = p[ip] >> 4 == 6;
	tcp = ip + (is_ip6 ? 40 : 20);
	addrs = is_ip6 ? 32 : 8;
	head = tcp + (size_t)(p[tcp + 12] >> 4) * 4;
	sum = check_sum(6 + (uint32_t)(len - tcp), p + tcp - addrs, addrs);
	CHECK(c, len > head + segment, "a large frame of one segment");
	CHECK(c, check_be(p + tcp + 16, 2) == sum,
	      "what the checksum of a large frame begins with");
	seq = check_be(p + tcp + 4, 4);
	for (at = head; at < len; at += segment) {
		size_t n = len - at < segment ? len - at : segment, whole = head + n;
		uint8_t *f = (uint8_t *)malloc(whole);

		memcpy(f, p, head);
		memcpy(f + head, p + at, n);
		if (is_ip6) {
			check_put(f + ip + 4, (uint32_t)(whole - tcp));
		} else {
			check_put(f + ip + 2, (uint32_t)(whole - ip));
			check_put(f + ip + 4,
				  check_be(p + ip + 4, 2) + (uint32_t)((at - head) / segment));
			check_put(f + ip + 10, 0);
			check_put(f + ip + 10, ~check_sum(0, f + ip, 20));
		}
		check_put(f + tcp + 4, (seq + (uint32_t)(at - head)) >> 16);
		check_put(f + tcp + 6, seq + (uint32_t)(at - head));
		if (at + n < len)
			f[tcp + 13] &= (uint8_t)~CF_PSH;
		check_put(f + tcp + 16, 0);
		sum = check_sum(6 + (uint32_t)(whole - tcp), f + tcp - addrs, addrs);
		check_put(f + tcp + 16, ~check_sum(sum, f + tcp, whole - tcp));
		check_frame(c, f, whole, ts_ns, first && at == head);
		free(f);
	}
}

static inline unsigned check_open_flows(const struct check *c)
{
	unsigned n = 0;

	for (unsigned i = 0; i < c->n_flows; i++)
		n += c->flow[i].stage != 0;
	return n;
}

#endif
