/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sink_encap: packets to a sensor elsewhere, each frame in a UDP datagram: VXLAN (RFC 7348) or
 * GENEVE (RFC 8926). Both directions of a connection leave from one source port, so that a receiver
 * that spreads datagrams over its queues keeps them in order; different connections from different
 * ones. Datagrams are not fragmented: the frames are made for what the path carries. What cannot
 * leave is counted under its reason, and its connection ends there (cut.h).
 */
#include "sink.h"

#include <errno.h>
#include <linux/if_ether.h>
#include <netdb.h>
#include <netinet/in.h>
#include <linux/udp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "sinks/cut.h"

#define ENCAP_PORTS     64 /* source ports: enough for the queues of any network card */
#define ENCAP_BATCH     64 /* frames a flush */
#define ENCAP_HEAD      8u /* of VXLAN, and of GENEVE without options */
#define ENCAP_SLOT      (ENCAP_HEAD + 65536u) /* more than the largest datagram; touched as used */
#define ENCAP_MTU_MIN   256u                  /* no path that is in use carries less than 576 */
#define ENCAP_RETRY_NS  50000
#define ENCAP_RETRY_MAX 8 /* tries in all for one flush, then frames are dropped */
#define ENCAP_SNDBUF    (1 << 20)
#define ENCAP_WARN_MS   30000
#define ENCAP_RESETS    32     /* of cut connections, at once before other packets */
#define ENCAP_CUT_AGE_S 600    /* a connection that was cut so long ago is over for any sensor */
#define ENCAP_ERRORS    64     /* answers taken from a socket's queue a second */
#define ENCAP_RUN_MAX   65000u /* bytes that go to the kernel as one datagram to be cut */

static COUNTER_DEFINE(c_packets, "sink_encap_packets", "packets sent in VXLAN or GENEVE");
static COUNTER_DEFINE(c_bytes, "sink_encap_bytes", "bytes of these packets");
static COUNTER_DEFINE(c_nobufs, "sink_encap_lost_nobufs",
		      "packets lost: the socket or the interface took no more");
static COUNTER_DEFINE(c_size, "sink_encap_lost_size", "packets lost: larger than the path's MTU");
static COUNTER_DEFINE(c_unreachable, "sink_encap_lost_unreachable",
		      "packets lost: there is no way to the receiver");
static COUNTER_DEFINE(c_fragmented, "sink_encap_fragmented",
		      "packets sent in fragments: the path's MTU had just shrunk");
static COUNTER_DEFINE(c_cut, "sink_encap_flows_cut",
		      "connections ended in a tunnel because it lost a packet of them");
static COUNTER_DEFINE(c_cut_packets, "sink_encap_lost_cut",
		      "packets lost: of connections that were cut before");
static COUNTER_DEFINE(c_resets, "sink_encap_resets",
		      "packets made to end connections that were cut");
static COUNTER_DEFINE(c_refused, "sink_encap_refused",
		      "answers that nothing listens on the receiver's port");

struct encap_sink {
	struct sink sink;
	char *name;
	struct sockaddr_storage to;
	socklen_t to_len;
	uint8_t head[ENCAP_HEAD]; /* before each frame */
	int fd[ENCAP_PORTS];      /* one source port each; all -1 while there is no way */
	uint32_t mtu;             /* of the frames inside */
	uint8_t *arena;           /* ENCAP_BATCH slots, each with `head` in front */
	unsigned n;               /* frames waiting in the batch */
	uint8_t via[ENCAP_BATCH]; /* which fd */
	struct iovec iov[ENCAP_BATCH];
	struct cut *cut; /* connections that have lost a packet here */
	uint64_t now_ns; /* of the last tick */
	bool is_led;     /* another worker's sink speaks of what is the same for all */
	bool gso;        /* the kernel may get several frames as one datagram, to cut it */
	bool is_jammed;  /* the last flush gave up: no waiting until a frame leaves again */
	bool is_failing; /* nothing has left since an error */
	struct log_rate nobufs_rate, size_rate, way_rate, refused_rate;
};

static enum log_level level_of(const struct encap_sink *s)
{
	return s->is_led ? LOG_DEBUG : LOG_INFO;
}

/* Headers */

static void put_vni(uint8_t *p, uint32_t vni)
{
	p[0] = (uint8_t)(vni >> 16);
	p[1] = (uint8_t)(vni >> 8);
	p[2] = (uint8_t)vni;
}

/* RFC 7348, section 5: the I flag, and a VNI that is valid by it. */
static void head_vxlan(uint8_t head[ENCAP_HEAD], uint32_t vni)
{
	head[0] = 0x08;
	put_vni(head + 4, vni);
}

/* RFC 8926, section 3.4: no options; Transparent Ethernet Bridging. */
static void head_geneve(uint8_t head[ENCAP_HEAD], uint32_t vni)
{
	head[2] = ETH_P_TEB >> 8;
	head[3] = ETH_P_TEB & 0xff;
	put_vni(head + 4, vni);
}

/* What is around the IP packet inside. */
static uint32_t overhead(const struct encap_sink *s)
{
	return (s->to.ss_family == AF_INET6 ? 40 : 20) + sizeof(struct udphdr) + ENCAP_HEAD +
	       ETH_HLEN;
}

/* Which way */

static uint16_t get_u16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

/*
 * By the addresses and ports that the frame shows: what an IDS takes for one connection stays in
 * order. Frames that forge does not make go the first way.
 */
static unsigned way_of(struct span l2)
{
	struct frame_flow_open o = {.flow = 0};
	size_t ip = ETH_HLEN, addr = 16, tcp;
	uint16_t type = 0;

	while (ip + 4 <= l2.len && (type = get_u16(l2.p + ip - 2)) == ETH_P_8021Q)
		ip += 4;
	if (type == ETH_P_IP)
		addr = 4;
	else if (type != ETH_P_IPV6)
		return 0;
	tcp = ip + (type == ETH_P_IP ? 20 : 40); /* no options */
	if (tcp + 4 > l2.len)
		return 0;
	memcpy(o.client_addr, l2.p + tcp - 2 * addr, addr);
	memcpy(o.server_addr, l2.p + tcp - addr, addr);
	o.client_port = get_u16(l2.p + tcp);
	o.server_port = get_u16(l2.p + tcp + 2);
	return sink_flow_choice(&o, ENCAP_PORTS);
}

/* Sockets */

static void sockets_close(struct encap_sink *s)
{
	for (unsigned i = 0; i < ENCAP_PORTS; i++) {
		if (s->fd[i] >= 0)
			close(s->fd[i]);
		s->fd[i] = -1;
	}
}

/* Not fragmented; and over IPv4 without a checksum, as the RFCs have it: all that is inside has
 * one. */
static int socket_prepare(const struct encap_sink *s, int fd)
{
	int one = 1, sndbuf = ENCAP_SNDBUF, discover = IP_PMTUDISC_DO;
	bool v6 = s->to.ss_family == AF_INET6;

	(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &sndbuf, sizeof(sndbuf));
	/* else a packet that the interface's queue drops would count as sent */
	(void)setsockopt(fd, v6 ? IPPROTO_IPV6 : IPPROTO_IP, v6 ? IPV6_RECVERR : IP_RECVERR, &one,
			 sizeof(one));
	if (v6) {
		discover = IPV6_PMTUDISC_DO;
		return setsockopt(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, &discover, sizeof(discover));
	}
	if (!s->gso) /* what is cut needs one */
		(void)setsockopt(fd, SOL_SOCKET, SO_NO_CHECK, &one, sizeof(one));
	return setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &discover, sizeof(discover));
}

/* The kernel chooses the ports, in its ephemeral range. */
static int sockets_open(struct encap_sink *s)
{
	int err = 0;

	for (unsigned i = 0; !err && i < ENCAP_PORTS; i++) {
		s->fd[i] = socket(s->to.ss_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		if (s->fd[i] < 0 || socket_prepare(s, s->fd[i]) ||
		    connect(s->fd[i], (struct sockaddr *)&s->to, s->to_len))
			err = -errno;
	}
	if (err)
		sockets_close(s);
	return err;
}

/* What came back is told by sends as well; the queue only takes memory. */
static void errors_drain(const struct encap_sink *s)
{
	uint8_t nothing[1];

	for (unsigned i = 0; i < ENCAP_PORTS && s->fd[i] >= 0; i++)
		for (unsigned n = 0; n < ENCAP_ERRORS; n++)
			if (recv(s->fd[i], nothing, sizeof(nothing),
				 MSG_ERRQUEUE | MSG_TRUNC | MSG_DONTWAIT) < 0)
				break;
}

static void mtu_refresh(struct encap_sink *s)
{
	bool v6 = s->to.ss_family == AF_INET6;
	int path = 0;
	socklen_t len = sizeof(path);
	uint32_t mtu;

	if (s->fd[0] < 0 || getsockopt(s->fd[0], v6 ? IPPROTO_IPV6 : IPPROTO_IP,
				       v6 ? IPV6_MTU : IP_MTU, &path, &len))
		return;
	if (path > 65535)
		path = 65535; /* what a datagram's length can say */
	mtu = (uint32_t)path > ENCAP_MTU_MIN + overhead(s) ? (uint32_t)path - overhead(s)
							   : ENCAP_MTU_MIN;
	if (mtu != s->mtu && s->mtu)
		log_at(level_of(s), "sink_encap: %s: the path's MTU is now %d", s->name, path);
	s->mtu = mtu;
}

static void no_way(struct encap_sink *s, int err, unsigned packets)
{
	uint64_t held;

	counter_add(&c_unreachable, packets);
	s->is_failing = true;
	if (s->is_led && !packets)
		return;
	if (log_rate_ok(&s->way_rate, ENCAP_WARN_MS, &held))
		log_warn("sink_encap: %s: cannot be reached: %s; packets are counted as lost "
			 "total=%llu",
			 s->name, strerror(-err), (unsigned long long)counter_get(&c_unreachable));
}

/* Connections that have lost a packet */

static struct span frame_of(const struct iovec *v)
{
	return span_of((uint8_t *)v->iov_base + ENCAP_HEAD, v->iov_len - ENCAP_HEAD);
}

static bool frame_lost(struct encap_sink *s, struct span l2)
{
	bool is_new = cut_lost(s->cut, l2, s->now_ns);

	if (is_new)
		counter_inc(&c_cut);
	return is_new;
}

/* v[0] is lost: none of its connection's may follow. Returns how many of the n are left, it
 * included. */
static unsigned way_lost(struct encap_sink *s, struct iovec *v, unsigned n)
{
	unsigned kept = 1;

	if (!frame_lost(s, frame_of(v)))
		return n;
	for (unsigned i = 1; i < n; i++) {
		struct span l2 = frame_of(&v[i]);
		size_t len =
			cut_replace(s->cut, (uint8_t *)v[i].iov_base + ENCAP_HEAD, l2.len, false);

		if (len != l2.len)
			counter_inc(&c_cut_packets);
		if (!len)
			continue;
		if (len != l2.len)
			counter_inc(&c_resets);
		v[kept] = v[i];
		v[kept++].iov_len = ENCAP_HEAD + len;
	}
	return kept;
}

/* What is told of a cut connection: that it is over. */
static void resets_send(struct encap_sink *s)
{
	uint8_t datagram[ENCAP_HEAD + CUT_FRAME_MAX];

	memcpy(datagram, s->head, ENCAP_HEAD);
	for (unsigned i = 0; i < ENCAP_RESETS; i++) {
		struct span rst = cut_next(s->cut);
		int fd;

		if (!rst.len)
			break;
		memcpy(datagram + ENCAP_HEAD, rst.p, rst.len);
		/* the first error may be an answer to what was sent before */
		fd = s->fd[way_of(rst)];
		if (send(fd, datagram, ENCAP_HEAD + rst.len, 0) < 0 &&
		    send(fd, datagram, ENCAP_HEAD + rst.len, 0) < 0) {
			(void)frame_lost(s, span_of(datagram + ENCAP_HEAD, rst.len));
			break; /* it waits for the next time */
		}
		counter_inc(&c_resets);
		counter_inc(&c_packets);
		counter_add(&c_bytes, rst.len);
	}
}

/* Sending */

static void lose_nobufs(struct encap_sink *s)
{
	uint64_t held;

	counter_inc(&c_nobufs);
	s->is_jammed = true;
	if (log_rate_ok(&s->nobufs_rate, ENCAP_WARN_MS, &held))
		log_warn("sink_encap: %s: takes no more packets; they are counted as lost "
			 "total=%llu",
			 s->name, (unsigned long long)counter_get(&c_nobufs));
}

static void lose_size(struct encap_sink *s)
{
	uint64_t held;

	counter_inc(&c_size);
	if (log_rate_ok(&s->size_rate, ENCAP_WARN_MS, &held))
		log_warn("sink_encap: %s: packets larger than the path's MTU are lost total=%llu",
			 s->name, (unsigned long long)counter_get(&c_size));
	mtu_refresh(s);
}

/* An answer to an earlier datagram. A sensor that only listens to its interface sees them all the
 * same. */
static void refused(struct encap_sink *s)
{
	uint64_t held;

	counter_inc(&c_refused);
	if (log_rate_ok(&s->refused_rate, ENCAP_WARN_MS, &held))
		log_info(
			"sink_encap: %s: its host says that nothing listens on that port; a sensor "
			"on its interface sees the packets all the same",
			s->name);
}

static void pause_a_little(void)
{
	struct timespec t = {.tv_nsec = ENCAP_RETRY_NS};

	(void)nanosleep(&t, NULL);
}

struct patience {
	unsigned tries;   /* that waited for a full queue */
	unsigned answers; /* to what was sent before: as many as datagrams at most */
	bool again;       /* the last error may have been an answer, too */
};

/* What a failed send means for its first frame. True: it is lost; false: it is tried again. */
static bool send_failed(struct encap_sink *s, int err, struct patience *p)
{
	switch (err) {
	case -EINTR:
		return false;
	case -ECONNREFUSED:
		refused(s);
		if (p->answers++ < ENCAP_BATCH)
			return false;
		no_way(s, err, 1);
		return true;
	case -ENOBUFS:
	case -EAGAIN:
		if (!s->is_jammed && p->tries++ < ENCAP_RETRY_MAX) {
			pause_a_little();
			return false;
		}
		lose_nobufs(s);
		return true;
	case -EMSGSIZE:
		lose_size(s);
		return true;
	default: /* ENETUNREACH, EHOSTUNREACH, EPERM of a packet filter …, or such an answer */
		p->again = !p->again;
		if (p->again)
			return false;
		no_way(s, err, 1);
		return true;
	}
}

/* What one sendmmsg(2) takes: messages of one frame, or of several that the kernel cuts. */
struct burst {
	struct mmsghdr m[ENCAP_BATCH];
	unsigned frames[ENCAP_BATCH]; /* in each message */
	union {
		struct cmsghdr head; /* for its alignment */
		uint8_t bytes[CMSG_SPACE(sizeof(uint16_t))];
	} control[ENCAP_BATCH];
	unsigned n;
};

/* How many frames from the first on the kernel can cut again: equal ones, and a last smaller one.
 */
static unsigned run_len(const struct iovec *v, unsigned n)
{
	size_t total = v[0].iov_len;
	unsigned k = 1;

	while (k < n && v[k].iov_len == v[0].iov_len && total + v[k].iov_len <= ENCAP_RUN_MAX)
		total += v[k++].iov_len;
	if (k < n && v[k].iov_len < v[0].iov_len && total + v[k].iov_len <= ENCAP_RUN_MAX)
		k++;
	return k;
}

static void message_add(struct burst *b, struct iovec *v, unsigned frames)
{
	struct msghdr *h = &b->m[b->n].msg_hdr;
	uint16_t size = (uint16_t)v[0].iov_len;

	*h = (struct msghdr){.msg_iov = v, .msg_iovlen = frames};
	if (frames > 1) {
		h->msg_control = b->control[b->n].bytes;
		h->msg_controllen = sizeof(b->control[b->n].bytes);
		*CMSG_FIRSTHDR(h) = (struct cmsghdr){.cmsg_level = IPPROTO_UDP,
						     .cmsg_type = UDP_SEGMENT,
						     .cmsg_len = CMSG_LEN(sizeof(size))};
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(h)), &size, sizeof(size));
	}
	b->frames[b->n++] = frames;
}

static void burst_build(struct burst *b, struct iovec *v, unsigned n, bool gso)
{
	b->n = 0;
	for (unsigned at = 0; at < n; at += b->frames[b->n - 1])
		message_add(b, v + at, gso ? run_len(v + at, n - at) : 1);
}

static void sent(struct encap_sink *s, const struct iovec *v, unsigned n)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < n; i++)
		bytes += v[i].iov_len - ENCAP_HEAD;
	counter_add(&c_packets, n);
	counter_add(&c_bytes, bytes);
	s->is_jammed = s->is_failing = false;
}

/* A message of several frames failed where one frame may not: true when that is to be tried. */
static bool try_singly(struct encap_sink *s, const struct burst *b, int err)
{
	if (b->frames[0] == 1 || (err != -EIO && err != -EINVAL && err != -EMSGSIZE))
		return false;
	if (err != -EMSGSIZE && s->gso) {
		s->gso = false;
		log_warn("sink_encap: %s: gso: the way there does not cut datagrams: %s; each is "
			 "sent by itself",
			 s->name, strerror(-err));
	}
	return true;
}

static void fragments_set(const struct encap_sink *s, int fd, bool may)
{
	bool v6 = s->to.ss_family == AF_INET6;
	int discover = v6 ? (may ? IPV6_PMTUDISC_DONT : IPV6_PMTUDISC_DO)
			  : (may ? IP_PMTUDISC_DONT : IP_PMTUDISC_DO);

	(void)setsockopt(fd, v6 ? IPPROTO_IPV6 : IPPROTO_IP,
			 v6 ? IPV6_MTU_DISCOVER : IP_MTU_DISCOVER, &discover, sizeof(discover));
}

/*
 * A frame that was made before the path's MTU shrank. The few of that moment go in fragments: they
 * are all that is left to be told of their bytes, and later ones fit.
 */
static bool send_fragmented(struct encap_sink *s, int fd, const struct iovec *v)
{
	bool ok;

	fragments_set(s, fd, true);
	ok = send(fd, v->iov_base, v->iov_len, 0) >= 0;
	fragments_set(s, fd, false);
	if (!ok)
		return false;
	counter_inc(&c_fragmented);
	sent(s, v, 1);
	mtu_refresh(s);
	return true;
}

/* The frames of one way, in order. */
static void send_way(struct encap_sink *s, int fd, struct iovec *v, unsigned n)
{
	struct patience p = {0};
	bool gso = s->gso;
	unsigned at = 0;
	struct burst b;

	while (at < n) {
		int done, err;

		burst_build(&b, v + at, n - at, gso);
		done = sendmmsg(fd, b.m, b.n, 0);
		err = done < 0 ? -errno : -EAGAIN;
		for (int i = 0; i < done; i++) {
			sent(s, v + at, b.frames[i]);
			at += b.frames[i];
			p.again = false;
		}
		if (done <= 0 && try_singly(s, &b, err)) {
			gso = false;
		} else if (done <= 0 && err == -EMSGSIZE && send_fragmented(s, fd, v + at)) {
			at++;
		} else if (done <= 0 && send_failed(s, err, &p)) {
			n = at + way_lost(s, v + at, n - at);
			at++;
		}
	}
}

static void encap_flush(struct sink *sink)
{
	struct encap_sink *s = (struct encap_sink *)sink;
	uint64_t left = s->n == ENCAP_BATCH ? UINT64_MAX : (1ull << s->n) - 1;
	struct iovec v[ENCAP_BATCH];

	if (cut_any(s->cut) && s->fd[0] >= 0 && !s->is_jammed)
		resets_send(s);
	while (left) {
		unsigned first = (unsigned)__builtin_ctzll(left), way = s->via[first], n = 0;

		for (unsigned i = first; i < s->n; i++) {
			if (!(left >> i & 1) || s->via[i] != way)
				continue;
			v[n++] = s->iov[i];
			left &= ~(1ull << i);
		}
		send_way(s, s->fd[way], v, n);
	}
	s->n = 0;
}
_Static_assert(ENCAP_BATCH == 64, "one bit each; and no more than the kernel cuts at once");

static uint8_t *slot(const struct encap_sink *s)
{
	return s->arena + s->n * ENCAP_SLOT + ENCAP_HEAD;
}

static uint8_t *encap_room(struct sink *sink, size_t len)
{
	struct encap_sink *s = (struct encap_sink *)sink;

	return s->fd[0] >= 0 && len <= ENCAP_SLOT - ENCAP_HEAD ? slot(s) : NULL;
}

static void encap_packet(struct sink *sink, struct span l2, uint64_t ts_ns,
			 const struct sink_flow *flow, bool first)
{
	struct encap_sink *s = (struct encap_sink *)sink;

	(void)ts_ns;
	(void)flow;
	(void)first;
	if (cut_any(s->cut) && cut_drops(s->cut, l2)) {
		counter_inc(&c_cut_packets);
		return;
	}
	if (s->fd[0] < 0) {
		counter_inc(&c_unreachable);
		(void)frame_lost(s, l2);
		return;
	}
	if (l2.len > ENCAP_SLOT - ENCAP_HEAD) {
		lose_size(s);
		(void)frame_lost(s, l2);
		return;
	}
	if (l2.p != slot(s))
		memcpy(slot(s), l2.p, l2.len);
	memcpy(slot(s) - ENCAP_HEAD, s->head, ENCAP_HEAD);
	s->iov[s->n] =
		(struct iovec){.iov_base = slot(s) - ENCAP_HEAD, .iov_len = ENCAP_HEAD + l2.len};
	s->via[s->n++] = (uint8_t)way_of(l2);
	if (s->n == ENCAP_BATCH)
		encap_flush(sink);
}

/* Once a second */

/* Also when addresses of this host have changed, and with them the sockets' own. */
static void find_way(struct encap_sink *s)
{
	bool had = s->fd[0] >= 0;
	int err;

	sockets_close(s);
	err = sockets_open(s);
	if (err)
		no_way(s, err, 0);
	else if (!had)
		log_at(level_of(s), "sink_encap: %s: there is a way again", s->name);
	s->is_failing = err != 0;
}

static void encap_tick(struct sink *sink, uint64_t now_ns)
{
	struct encap_sink *s = (struct encap_sink *)sink;

	s->now_ns = now_ns;
	s->is_jammed = false;
	encap_flush(sink);
	errors_drain(s);
	cut_expire(s->cut, now_ns, ENCAP_CUT_AGE_S * NS_PER_S);
	if (s->is_failing)
		find_way(s);
	mtu_refresh(s);
}

static uint32_t encap_mtu(const struct sink *sink)
{
	return ((const struct encap_sink *)sink)->mtu;
}

/* Opening */

static int resolve_name(struct encap_sink *s, const char *target, uint16_t port)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_DGRAM};
	struct addrinfo *list = NULL;
	char host[256], service[8];
	int err = sink_split_address(target, host, &port);

	if (err || !host[0])
		return -EINVAL;
	snprintf(service, sizeof(service), "%u", port);
	err = getaddrinfo(host, service, &hints, &list);
	if (err) {
		log_error("sink_encap: %s: %s", target, gai_strerror(err));
		return -EHOSTUNREACH;
	}
	memcpy(&s->to, list->ai_addr, list->ai_addrlen);
	s->to_len = list->ai_addrlen;
	freeaddrinfo(list);
	return 0;
}

static void encap_close(struct sink *sink)
{
	struct encap_sink *s = (struct encap_sink *)sink;

	if (!s)
		return;
	if (s->fd[0] >= 0)
		encap_flush(sink);
	sockets_close(s);
	cut_free(s->cut);
	if (s->arena)
		explicit_bzero(s->arena, ENCAP_BATCH * ENCAP_SLOT);
	free(s->arena);
	free(s->name);
	free(s);
}

static struct encap_sink *encap_alloc(const struct sink_ops *ops, const char *target)
{
	struct encap_sink *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->sink.ops = ops;
	for (unsigned i = 0; i < ENCAP_PORTS; i++)
		s->fd[i] = -1;
	s->arena = calloc(ENCAP_BATCH, ENCAP_SLOT);
	s->name = strdup(target);
	if (s->arena && s->name && !cut_new(&s->cut))
		return s;
	encap_close(&s->sink);
	return NULL;
}

/* With the VNI, which is in the head. */
static uint64_t place_of(const struct encap_sink *s)
{
	uint64_t kind = sink_place(0, s->sink.ops->name, strlen(s->sink.ops->name));

	return sink_place(sink_place(kind, &s->to, s->to_len), s->head, sizeof(s->head));
}

static int encap_open(struct sink **out, const struct sink_conf *conf, const struct sink_ops *ops,
		      uint16_t port, void (*head)(uint8_t *, uint32_t))
{
	struct encap_sink *s = encap_alloc(ops, conf->target);
	int err = -ENOMEM;

	if (!s)
		goto fail;
	head(s->head, conf->vni);
	s->gso = conf->gso;
	s->is_led = conf->leader != NULL;
	err = resolve_name(s, conf->target, port);
	if (err)
		goto fail;
	s->sink.place = place_of(s);
	s->mtu = ETH_DATA_LEN - overhead(s); /* until there is a way */
	err = sockets_open(s);
	if (err == -EMFILE || err == -ENFILE || err == -ENOMEM)
		goto fail;
	if (err)
		no_way(s, err, 0);
	mtu_refresh(s);
	*out = &s->sink;
	return 0;
fail:
	log_error("sink_encap: %s: not opened: %s%s", conf->target, strerror(-err),
		  log_advice(-err));
	if (s)
		encap_close(&s->sink);
	return err;
}

static int vxlan_open(struct sink **out, const struct sink_conf *conf)
{
	return encap_open(out, conf, &sink_vxlan_ops, 4789, head_vxlan);
}

static int geneve_open(struct sink **out, const struct sink_conf *conf)
{
	return encap_open(out, conf, &sink_geneve_ops, 6081, head_geneve);
}

const struct sink_ops sink_vxlan_ops = {
	.name = "vxlan",
	.open = vxlan_open,
	.room = encap_room,
	.packet = encap_packet,
	.flush = encap_flush,
	.tick = encap_tick,
	.mtu = encap_mtu,
	.counts_tags = true,
	.is_many = true,
	.close = encap_close,
};

const struct sink_ops sink_geneve_ops = {
	.name = "geneve",
	.open = geneve_open,
	.room = encap_room,
	.packet = encap_packet,
	.flush = encap_flush,
	.tick = encap_tick,
	.mtu = encap_mtu,
	.counts_tags = true,
	.is_many = true,
	.close = encap_close,
};
