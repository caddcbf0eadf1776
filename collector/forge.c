/* SPDX-License-Identifier: Apache-2.0 */
/*
 * forge: one session's bytes in, Ethernet/IP/TCP frames out, one at a time through a callback.
 * Builds what an IDS needs to believe a stream: handshake, right checksums, segments within the
 * window, acknowledgements behind the data, an end. Allocates nothing, keeps no payload, reads no
 * clock.
 */
#include "forge.h"

#include <arpa/inet.h>
#include <string.h>

#include "base/metrics.h"

static COUNTER_DEFINE(packets, "forge_packets", "Ethernet frames forged");
static COUNTER_DEFINE(payload_bytes, "forge_payload_bytes", "TCP payload bytes in forged frames");

#define ETH_LEN 14u
#define TAG_LEN 4u /* IEEE 802.1Q */
#define IP4_LEN 20u
#define IP6_LEN 40u
#define TCP_LEN 20u
#define TTL     64
#define WINDOW  65535u
#define WINDOW_UPDATE                                                                              \
	(WINDOW - 1) /* differs, or a bare repeated ACK would look like a sign of packet loss */
#define WSCALE 10u   /* 65535 << 10: nothing we have in flight ever comes near 64 MiB */
#define GAP_STEP                                                                                   \
	(32u << 20)      /* sequence numbers in one jump: half the window, so each ACK is inside */
#define MTU_MAX   65535u /* the IPv4 total length is 16 bits wide */
#define LARGE_MAX 65535u /* of IP in one large frame */
#define MSS_MIN   88u    /* Linux' smallest (TCP_MIN_MSS); below, headers only multiply packets */
#define SEQ_SPACE (1ull << 32)

#define TH_FIN 0x01u
#define TH_SYN 0x02u
#define TH_RST 0x04u
#define TH_PSH 0x08u
#define TH_ACK 0x10u

/* Locally administered. No station ever sends from the destination: a switch does not learn it, so
 * it floods. */
const struct forge_link forge_link_default = {
	.mac = {0x02, 0x73, 0x73, 0x6c, 0x63, 0x02, 0x02, 0x73, 0x73, 0x6c, 0x63, 0x01},
};

struct segment {
	enum flow_dir dir;
	uint8_t flags;
	bool first, update;
	struct span options, payload;
};

static enum flow_dir peer_of(enum flow_dir dir)
{
	return dir == FLOW_C2S ? FLOW_S2C : FLOW_C2S;
}

static void put_u16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static void put_u32(uint8_t *p, uint32_t v)
{
	put_u16(p, v >> 16);
	put_u16(p + 2, v);
}

/*
 * Ones' complement sums (RFC 1071) are kept in host byte order and unfolded: 16-bit words may be
 * added eight bytes at a time, and 64 KiB of 32-bit halves cannot overflow 64 bits.
 */
static uint64_t sum_word(uint64_t w)
{
	return (w & UINT32_MAX) + (w >> 32);
}

static uint64_t sum_tail(const uint8_t *src, size_t len)
{
	uint64_t w = 0;

	if (len > 0)
		memcpy(&w, src, len);
	return sum_word(w);
}

static uint64_t sum_bytes(const uint8_t *src, size_t len)
{
	uint64_t sum = 0, w;

	for (; len >= sizeof(w); src += sizeof(w), len -= sizeof(w)) {
		memcpy(&w, src, sizeof(w));
		sum += sum_word(w);
	}
	return sum + sum_tail(src, len);
}

/* Two words in one register of any 64-bit machine. */
typedef uint64_t pair __attribute__((vector_size(16)));

/* The payload is read once: four independent sums keep the adders busy while the bytes are stored.
 */
static uint64_t sum_copy(uint8_t *dst, const uint8_t *src, size_t len)
{
	pair sum[4] = {0}, w[4];

	for (; len >= sizeof(w); dst += sizeof(w), src += sizeof(w), len -= sizeof(w)) {
		memcpy(w, src, sizeof(w));
		memcpy(dst, w, sizeof(w));
		for (int i = 0; i < 4; i++)
			sum[i] += (w[i] & UINT32_MAX) + (w[i] >> 32);
	}
	if (len > 0)
		memcpy(dst, src, len);
	sum[0] += sum[1] + sum[2] + sum[3];
	return sum[0][0] + sum[0][1] + sum_bytes(src, len);
}

static uint16_t fold(uint64_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

static void put_checksum(uint8_t *p, uint64_t sum)
{
	uint16_t sum16 = (uint16_t)~fold(sum);

	memcpy(p, &sum16, sizeof(sum16));
}

static uint32_t ip_len(const struct forge_flow *f)
{
	return f->family == 6 ? IP6_LEN : IP4_LEN;
}

/* A tag, if there is one. Returns where the next one, or the type of what follows, goes. */
static uint8_t *put_tag(uint8_t *p, uint16_t vlan)
{
	if (!vlan)
		return p;
	put_u16(p, 0x8100);
	put_u16(p + 2, vlan);
	return p + TAG_LEN;
}

static const struct forge_link *link_of(const struct forge_out *out)
{
	return out->link ? out->link : &forge_link_default;
}

/* Returns where the IP header goes. */
static uint8_t *put_ethernet(uint8_t *p, const struct forge_link *link, const struct forge_flow *f)
{
	uint8_t *type;

	memcpy(p, link->mac, sizeof(link->mac));
	type = put_tag(put_tag(p + 12, link->vlan), f->vlan);
	put_u16(type, f->family == 6 ? 0x86dd : 0x0800);
	return type + 2;
}

/* Returns the sum of the addresses, for the pseudo header. */
static uint64_t put_ip4(uint8_t *p, struct forge_flow *f, enum flow_dir dir, uint32_t tcp_len)
{
	put_u16(p, 0x4500);
	put_u16(p + 2, IP4_LEN + tcp_len);
	put_u16(p + 4, f->side[dir].ip_id);
	put_u16(p + 6, 0x4000); /* DF */
	p[8] = TTL;
	p[9] = IPPROTO_TCP;
	put_u16(p + 10, 0);
	memcpy(p + 12, f->addr[dir], 4);
	memcpy(p + 16, f->addr[peer_of(dir)], 4);
	put_checksum(p + 10, sum_bytes(p, IP4_LEN));
	return sum_bytes(p + 12, 8);
}

static uint64_t put_ip6(uint8_t *p, const struct forge_flow *f, enum flow_dir dir, uint32_t tcp_len)
{
	put_u32(p, 0x60000000);
	put_u16(p + 4, tcp_len);
	p[6] = IPPROTO_TCP;
	p[7] = TTL;
	memcpy(p + 8, f->addr[dir], 16);
	memcpy(p + 24, f->addr[peer_of(dir)], 16);
	return sum_bytes(p + 8, 32);
}

static void put_tcp(uint8_t *p, const struct forge_flow *f, const struct segment *seg)
{
	const struct forge_side *me = &f->side[seg->dir], *peer = &f->side[peer_of(seg->dir)];
	uint32_t len = TCP_LEN + (uint32_t)seg->options.len;

	put_u16(p, f->port[seg->dir]);
	put_u16(p + 2, f->port[peer_of(seg->dir)]);
	put_u32(p + 4, me->nxt);
	put_u32(p + 8, seg->flags & TH_ACK ? peer->nxt : 0);
	p[12] = (uint8_t)(len / 4 << 4);
	p[13] = seg->flags;
	put_u16(p + 14, seg->update ? WINDOW_UPDATE : WINDOW);
	put_u32(p + 16, 0); /* checksum, urgent pointer */
	if (seg->options.len > 0)
		memcpy(p + TCP_LEN, seg->options.p, seg->options.len);
}

/* The rest of the checksum is made where the frame is cut. sum: of the pseudo header. */
static void put_large(uint8_t *tcp, const struct segment *seg, uint32_t head_len, uint64_t sum)
{
	uint16_t sum16 = fold(sum);

	memcpy(tcp + 16, &sum16, sizeof(sum16));
	memcpy(tcp + head_len, seg->payload.p, seg->payload.len);
}

static bool is_large(const struct forge_flow *f, const struct segment *seg)
{
	return seg->payload.len > f->mss;
}

/* SYN and FIN each take one sequence number (RFC 9293, 3.4). Each packet that a large frame becomes
 * has its own IP id. */
static void account(struct forge_flow *f, const struct segment *seg)
{
	struct forge_side *me = &f->side[seg->dir], *peer = &f->side[peer_of(seg->dir)];
	size_t n = is_large(f, seg) ? (seg->payload.len - 1) / f->mss + 1 : 1;

	me->nxt += (uint32_t)seg->payload.len + (seg->flags & (TH_SYN | TH_FIN) ? 1 : 0);
	me->ip_id = (uint16_t)(me->ip_id + n);
	me->updated = seg->update;
	me->in_run = seg->payload.len > 0;
	peer->in_run = false;
	if (seg->flags & TH_ACK)
		peer->acked = peer->nxt;
	counter_add(&packets, n);
	if (seg->payload.len > 0)
		counter_add(&payload_bytes, seg->payload.len);
}

static void flow_keep(struct forge_flow *f, struct forge_out *out)
{
	if (out->keep)
		out->keep(out->ctx, f);
}

/* All that is around TCP. Returns where that goes; *sum: of the pseudo header. */
static uint8_t *put_around(uint8_t *frame, struct forge_flow *f, const struct forge_out *out,
			   enum flow_dir dir, uint32_t tcp_len, uint64_t *sum)
{
	uint8_t *ip = put_ethernet(frame, link_of(out), f);

	*sum = f->family == 6 ? put_ip6(ip, f, dir, tcp_len) : put_ip4(ip, f, dir, tcp_len);
	*sum += (uint64_t)htons(IPPROTO_TCP) + htons((uint16_t)tcp_len);
	return ip + ip_len(f);
}

static void emit(struct forge_flow *f, struct forge_out *out, const struct segment *seg)
{
	uint32_t head_len = TCP_LEN + (uint32_t)seg->options.len;
	uint32_t tcp_len = head_len + (uint32_t)seg->payload.len;
	size_t tags = (link_of(out)->vlan ? TAG_LEN : 0) + (f->vlan ? TAG_LEN : 0);
	size_t len = ETH_LEN + tags + ip_len(f) + tcp_len;
	uint8_t *frame = out->room ? out->room(out->ctx, len) : NULL, *tcp;
	uint64_t sum;

	if (!frame)
		frame = out->frame;
	tcp = put_around(frame, f, out, seg->dir, tcp_len, &sum);
	put_tcp(tcp, f, seg);
	if (out->segment)
		*out->segment = is_large(f, seg) ? f->mss : 0;
	if (is_large(f, seg)) {
		put_large(tcp, seg, head_len, sum);
	} else {
		sum += sum_bytes(tcp, head_len);
		sum += sum_copy(tcp + head_len, seg->payload.p, seg->payload.len);
		put_checksum(tcp + 16, sum);
	}
	account(f, seg);
	if (seg->payload.len > 0 || seg->flags & (TH_SYN | TH_FIN))
		flow_keep(f, out);
	out->emit(out->ctx, span_of(frame, len), f->last_ts_ns, seg->first);
}

/* On the end of the last frame, if that may grow. Returns how many bytes went there. */
static size_t emit_more(struct forge_flow *f, struct forge_out *out, const struct segment *seg)
{
	struct forge_side *me = &f->side[seg->dir];
	uint16_t ip_id = me->ip_id;
	uint8_t *tcp;
	uint64_t sum;
	size_t n;

	if (!out->segment || !out->more || !me->in_run)
		return 0;
	tcp = put_around(out->frame, f, out, seg->dir, TCP_LEN + (uint32_t)seg->payload.len, &sum);
	put_tcp(tcp, f, seg);
	n = out->more(out->ctx, span_of(out->frame, (size_t)(tcp + TCP_LEN - out->frame)),
		      seg->payload, f->mss, &ip_id);
	if (!n)
		return 0;
	me->nxt += (uint32_t)n;
	counter_add(&packets, (uint16_t)(ip_id - me->ip_id));
	me->ip_id = ip_id;
	counter_add(&payload_bytes, n);
	flow_keep(f, out);
	return n;
}

static void emit_bare(struct forge_flow *f, struct forge_out *out, enum flow_dir dir, uint8_t flags)
{
	struct segment seg = {.dir = dir, .flags = flags};

	emit(f, out, &seg);
}

/* A bare ACK that acknowledges nothing new. */
static void emit_update(struct forge_flow *f, struct forge_out *out, enum flow_dir dir)
{
	struct segment seg = {.dir = dir, .flags = TH_ACK, .update = !f->side[dir].updated};

	emit(f, out, &seg);
}

/* The peer acknowledges what `dir` has sent so far. */
static void emit_ack_of(struct forge_flow *f, struct forge_out *out, enum flow_dir dir)
{
	emit_bare(f, out, peer_of(dir), TH_ACK);
}

static void flow_ended(struct forge_flow *f, struct forge_out *out)
{
	f->state = FORGE_CLOSED;
	flow_keep(f, out);
}

static uint32_t in_flight(const struct forge_flow *f, enum flow_dir dir)
{
	return f->side[dir].nxt - f->side[dir].acked;
}

static void time_forward(struct forge_flow *f, uint64_t ts_ns)
{
	if (ts_ns > f->last_ts_ns)
		f->last_ts_ns = ts_ns;
}

static uint64_t load_u64be(const uint8_t *p)
{
	uint64_t v = 0;

	for (int i = 0; i < 8; i++)
		v = v << 8 | p[i];
	return v;
}

/* MurmurHash3's finalizer: every input bit reaches every output bit. No secret: both ends must
 * agree. */
static uint64_t mix(uint64_t v)
{
	v = (v ^ v >> 33) * 0xff51afd7ed558ccdull;
	v = (v ^ v >> 33) * 0xc4ceb9fe1a85ec53ull;
	return v ^ v >> 33;
}

static void choose_isns(struct forge_flow *f, const uint8_t session[16], uint32_t incarnation)
{
	uint64_t h = mix(mix(load_u64be(session) + incarnation) ^ load_u64be(session + 8));
	uint32_t client = (uint32_t)(h >> 32), server = (uint32_t)h;

	if (client == 0)
		client = 1;
	while (server == 0 || server == client)
		server += 0x9e3779b9u;
	f->side[FLOW_C2S].isn = client;
	f->side[FLOW_S2C].isn = server;
}

static uint16_t choose_mss(uint8_t family, uint16_t real, uint32_t mtu)
{
	uint32_t headers = (family == 6 ? IP6_LEN : IP4_LEN) + TCP_LEN;
	uint32_t mss;

	if (mtu > MTU_MAX)
		mtu = MTU_MAX;
	mss = mtu > headers ? mtu - headers : 0;
	if (real > 0 && real < mss)
		mss = real;
	return (uint16_t)(mss < MSS_MIN ? MSS_MIN : mss);
}

void forge_init(struct forge_flow *f, const struct frame_flow_open *open, uint32_t incarnation,
		uint32_t mtu)
{
	memset(f, 0, sizeof(*f));
	memcpy(f->addr[FLOW_C2S], open->client_addr, 16);
	memcpy(f->addr[FLOW_S2C], open->server_addr, 16);
	f->port[FLOW_C2S] = open->client_port;
	f->port[FLOW_S2C] = open->server_port;
	f->family = open->family;
	f->mss = choose_mss(open->family, open->mss, mtu);
	f->state = FORGE_NEW;
	choose_isns(f, open->session, incarnation);
	for (int d = 0; d < 2; d++) {
		f->side[d].nxt = f->side[d].acked = f->side[d].isn;
		f->side[d].ip_id = (uint16_t)f->side[d].isn;
	}
}

void forge_fit(struct forge_flow *f, uint32_t mtu)
{
	f->mss = choose_mss(f->family, f->mss, mtu);
}

static void emit_syn(struct forge_flow *f, struct forge_out *out, enum flow_dir dir, uint8_t flags)
{
	uint8_t options[] = {2,
			     4,
			     (uint8_t)(f->mss >> 8),
			     (uint8_t)f->mss, /* maximum segment size */
			     4,
			     2, /* SACK permitted */
			     1,
			     3,
			     3,
			     WSCALE, /* no-op, window scale */
			     1,
			     1}; /* padding */
	struct segment seg = {
		.dir = dir,
		.flags = flags,
		.first = dir == FLOW_C2S,
		.options = span_of(options, sizeof(options)),
	};

	emit(f, out, &seg);
}

void forge_handshake(struct forge_flow *f, struct forge_out *out, uint64_t ts_ns)
{
	if (f->state != FORGE_NEW)
		return;
	time_forward(f, ts_ns);
	f->state = FORGE_ESTABLISHED;
	emit_syn(f, out, FLOW_C2S, TH_SYN);
	emit_syn(f, out, FLOW_S2C, TH_SYN | TH_ACK);
	emit_bare(f, out, FLOW_C2S, TH_ACK);
	/* The window in a SYN-ACK is never scaled (RFC 7323, 2.2): this one opens the full window.
	 */
	emit_update(f, out, FLOW_S2C);
}

static bool may_send(const struct forge_flow *f, enum flow_dir dir)
{
	return f->state == FORGE_ESTABLISHED && !f->side[dir].fin_sent;
}

/* Payload of one frame: a segment's, or as many segments' as fit an IP packet. */
static size_t frame_payload(const struct forge_flow *f, const struct forge_out *out)
{
	return out->segment ? (LARGE_MAX - ip_len(f) - TCP_LEN) / f->mss * f->mss : f->mss;
}

/* Between large frames acknowledgements would be as many packets again; a poke brings a missing one
 * soon. */
static bool wants_ack(const struct forge_flow *f, const struct forge_out *out, enum flow_dir dir,
		      bool last)
{
	if (out->segment)
		return in_flight(f, dir) > FORGE_ACK_EVERY_LARGE;
	return last || in_flight(f, dir) + f->mss > FORGE_ACK_EVERY;
}

/* One frame from the front of `rest`. */
static void emit_data(struct forge_flow *f, struct forge_out *out, enum flow_dir dir,
		      struct span *rest, bool end)
{
	struct forge_side *me = &f->side[dir];
	size_t most = frame_payload(f, out), n = rest->len < most ? rest->len : most;
	bool last = end && n == rest->len;
	struct segment seg = {
		.dir = dir,
		.flags = TH_ACK | (last ? TH_PSH : 0),
		.first = !me->in_message,
		.payload = span_of(rest->p, n),
	};
	size_t more = emit_more(f, out, &seg);

	if (more) {
		n = more;
		last = end && n == rest->len;
	} else {
		emit(f, out, &seg);
	}
	me->in_message = !last;
	*rest = span_of(rest->p + n, rest->len - n);
	if (wants_ack(f, out, dir, last))
		emit_ack_of(f, out, dir);
}

void forge_data(struct forge_flow *f, struct forge_out *out, enum flow_dir dir, struct span bytes,
		bool end, uint64_t ts_ns)
{
	forge_handshake(f, out, ts_ns);
	if (!may_send(f, dir))
		return;
	time_forward(f, ts_ns);
	while (bytes.len > 0)
		emit_data(f, out, dir, &bytes, end);
}

void forge_gap(struct forge_flow *f, struct forge_out *out, enum flow_dir dir, uint64_t len,
	       uint64_t ts_ns)
{
	forge_handshake(f, out, ts_ns);
	if (!may_send(f, dir) || len == 0)
		return;
	time_forward(f, ts_ns);
	if (in_flight(f, dir) > 0)
		emit_ack_of(f, out, dir);
	/* Nobody can count how often sequence numbers wrapped: one full turn shows the same as
	 * many, and a length that a peer invented costs a bounded number of packets. */
	if (len > SEQ_SPACE)
		len = SEQ_SPACE + len % SEQ_SPACE;
	while (len > 0) {
		uint32_t step = len < GAP_STEP ? (uint32_t)len : GAP_STEP;

		f->side[dir].nxt += step;
		flow_keep(f, out);
		emit_ack_of(f, out, dir);
		len -= step;
	}
}

void forge_poke(struct forge_flow *f, struct forge_out *out, enum flow_dir dir, uint64_t ts_ns)
{
	if (f->state != FORGE_ESTABLISHED)
		return;
	time_forward(f, ts_ns);
	if (in_flight(f, dir) > 0) /* without the peer's acknowledgement an IDS would still wait */
		emit_ack_of(f, out, dir);
	emit_update(f, out, dir);
}

void forge_fin(struct forge_flow *f, struct forge_out *out, enum flow_dir dir, uint64_t ts_ns)
{
	if (!may_send(f, dir))
		return;
	time_forward(f, ts_ns);
	f->side[dir].fin_sent = true;
	emit_bare(f, out, dir, TH_FIN | TH_ACK);
	emit_ack_of(f, out, dir);
	if (f->side[peer_of(dir)].fin_sent)
		flow_ended(f, out);
}

void forge_rst(struct forge_flow *f, struct forge_out *out, enum flow_dir dir, uint64_t ts_ns)
{
	if (f->state != FORGE_ESTABLISHED)
		return;
	time_forward(f, ts_ns);
	for (int d = 0; out->segment && d < 2; d++) {
		if (in_flight(f, (enum flow_dir)d) > 0) /* else an IDS never looks at it */
			emit_ack_of(f, out, (enum flow_dir)d);
	}
	emit_bare(f, out, dir, TH_RST | TH_ACK);
	flow_ended(f, out);
}

void forge_rst_unknown(struct forge_flow *f, struct forge_out *out, enum flow_dir dir,
		       uint64_t ts_ns)
{
	f->state = FORGE_ESTABLISHED;
	time_forward(f, ts_ns);
	emit_ack_of(f, out, dir);
	emit_ack_of(f, out, peer_of(dir));
	forge_rst(f, out, dir, ts_ns);
}
