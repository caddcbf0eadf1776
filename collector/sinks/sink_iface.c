/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sink_iface: packets onto a network interface. Frames come in, are copied into a batch and leave
 * together: through an AF_XDP socket where there can be one (xsk.h), else with one sendmmsg(2) a
 * batch. Neither socket receives anything. A frame that cannot leave is counted under its reason;
 * an interface that goes away is waited for. Where the kernel cuts large frames before anyone sees
 * them, it gets such: several packets of a connection at the price of one. Of several workers'
 * sinks on one interface, one tests it, watches it and speaks of it; the others send the same way.
 */
#include "sink.h"

#include <errno.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if_arp.h>
#include <net/if.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "sinks/cut.h"
#include "forge.h"
#include "sinks/gather.h"
#include "sinks/iflink.h"
#include "sinks/offload.h"
#include "sinks/xsk.h"

#define IFACE_BATCH     64           /* frames a flush: more gains nothing (measured on veth) */
#define IFACE_LARGE     (512u << 10) /* bytes of a flush with large frames: the cache holds them */
#define IFACE_ALIGN     64u
#define IFACE_MTU_MIN   68     /* RFC 791: what every link carries; smaller is no Ethernet */
#define IFACE_MTU_MAX   65535u /* bounds the batch memory */
#define IFACE_RETRY_NS  50000  /* a full queue of a 10 Gbit/s port drains in some hundred µs: */
#define IFACE_RETRY_MAX 8      /* tries in all for one flush, then frames are dropped */
#define IFACE_SNDBUF    (8u << 20) /* holds a batch of the largest frames on their way */
#define IFACE_WARN_MS   10000      /* between two lines about the same trouble */
#define IFACE_TAG_LEN   4          /* an 802.1Q tag may exceed the MTU, on every Ethernet */
#define IFACE_KICK      16  /* frames that every kernel takes at once from an AF_XDP socket */
#define IFACE_XSK_TRIES 5   /* once a second: the kernel takes an old AF_XDP socket apart later */
#define IFACE_RESETS    32  /* of cut connections, at once before other packets */
#define IFACE_LARGE_S   60  /* after packets were dropped, until frames are large again */
#define IFACE_CUT_AGE_S 600 /* then no sensor remembers a connection that was reset */
#define IFACE_SEEN_MS   20  /* until a test frame is received: no network lies between */
#define IFACE_TEST_TYPE 0x88b6 /* IEEE 802: local experiments */
#define IFACE_DRAIN_MS  20     /* a driver may still send from our memory when the sink is closed */

static COUNTER_DEFINE(c_packets, "sink_iface_packets", "packets sent on interfaces");
static COUNTER_DEFINE(c_bytes, "sink_iface_bytes", "bytes sent on interfaces");
static COUNTER_DEFINE(c_nobufs, "sink_iface_lost_nobufs",
		      "packets lost: the interface's queue was full, or its peer or cable is down");
static COUNTER_DEFINE(c_gone, "sink_iface_lost_gone",
		      "packets lost: the interface was gone or down");
static COUNTER_DEFINE(c_size, "sink_iface_lost_size",
		      "packets lost: larger than the interface's MTU");
static COUNTER_DEFINE(c_dropped, "sink_iface_lost_dropped",
		      "part of sink_iface_packets that the interface dropped afterwards");
static COUNTER_DEFINE(c_cut, "sink_iface_flows_cut",
		      "connections that ended on an interface because a packet of theirs was lost");
static COUNTER_DEFINE(c_cut_packets, "sink_iface_lost_cut",
		      "packets lost: of connections that were cut before");
static COUNTER_DEFINE(c_resets, "sink_iface_resets",
		      "packets made to end connections that were cut");

/* From the cheapest on. */
enum way {
	WAY_XDP,    /* AF_XDP; where there is none, as the next */
	WAY_DIRECT, /* past the interface's queue, and past whoever listens on it */
	WAY_SEEN,   /* as any program's packets: who listens on the interface sees them */
};

struct iface_sink {
	struct sink sink;
	char name[IFNAMSIZ];
	enum sink_choice bypass, xdp; /* as configured */
	enum way way;                 /* while attached */
	/* Of several workers: who looks after the interface. NULL: this one. Borrowed. */
	const struct iface_sink *leader;
	unsigned queue;      /* for AF_XDP: a socket each */
	atomic_uint led;     /* led_by(), for those whose leader this is */
	bool is_ruled_out;   /* the cheaper ways failed a test */
	uint64_t tx_dropped; /* the interface's own count when it was last looked at */
	int ifindex;
	uint32_t mtu;
	int fd;             /* -1 exactly while the interface is gone or down */
	struct xsk *xsk;    /* NULL: frames go through fd */
	unsigned xsk_tries; /* to get one, while its queue is busy */
	uint8_t *slot;      /* of xsk, where the next frame goes; NULL: not chosen yet */
	uint8_t *arena;     /* the batch, for fd: one frame behind the other */
	size_t arena_len, arena_used;
	size_t slot_len; /* mtu, Ethernet header, tag; of large frames: the largest */
	struct mmsghdr msg[IFACE_BATCH];
	struct iovec iov[IFACE_BATCH];
	/* Large frames, cut by the kernel: each frame has a header of ours in front. */
	enum sink_choice large; /* as configured */
	bool gso;               /* there is room for them */
	bool cuts;              /* fd takes them */
	bool is_refused;        /* the interface does not, for now */
	bool was_cut;           /* with SINK_AUTO: when it was last looked at; see is_cut_here() */
	uint64_t large_ns;      /* with SINK_AUTO: not before */
	struct virtio_net_hdr head[IFACE_BATCH];
	struct iovec both[IFACE_BATCH][2];
	unsigned n;     /* frames waiting in the batch */
	bool is_jammed; /* the last flush gave up: no waiting until a frame leaves again */
	uint64_t lost_gone;
	struct cut *cut; /* connections that have lost a packet here */
	uint64_t now_ns; /* of the last tick */
	struct log_rate nobufs_rate, size_rate;
};

/* What one says for all. */
static enum log_level level_of(const struct iface_sink *s, enum log_level level)
{
	return s->leader ? LOG_DEBUG : level;
}

struct iface_info {
	int ifindex;
	uint32_t mtu;
	unsigned flags; /* IFF_UP, IFF_LOOPBACK */
	bool is_ethernet;
	uint8_t mac[6];
};

static int query_fields(int fd, const char *name, struct iface_info *info)
{
	struct ifreq req;

	memset(&req, 0, sizeof(req));
	snprintf(req.ifr_name, sizeof(req.ifr_name), "%s", name);
	if (ioctl(fd, SIOCGIFINDEX, &req))
		return -errno;
	info->ifindex = req.ifr_ifindex;
	if (ioctl(fd, SIOCGIFFLAGS, &req))
		return -errno;
	info->flags = (unsigned short)req.ifr_flags;
	if (ioctl(fd, SIOCGIFHWADDR, &req))
		return -errno;
	info->is_ethernet = req.ifr_hwaddr.sa_family == ARPHRD_ETHER;
	memcpy(info->mac, req.ifr_hwaddr.sa_data, sizeof(info->mac));
	if (ioctl(fd, SIOCGIFMTU, &req))
		return -errno;
	info->mtu = (uint32_t)req.ifr_mtu;
	if (info->mtu > IFACE_MTU_MAX)
		info->mtu = IFACE_MTU_MAX;
	return info->mtu < IFACE_MTU_MIN ? -EINVAL : 0;
}

static int iface_query(const char *name, struct iface_info *info)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int err;

	if (fd < 0 && errno == EAFNOSUPPORT)
		fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	err = query_fields(fd, name, info);
	close(fd);
	return err;
}

/* Frames begin where cache lines do. */
static size_t round_up(size_t len)
{
	return (len + IFACE_ALIGN - 1) / IFACE_ALIGN * IFACE_ALIGN;
}

static void arena_cleanse(struct iface_sink *s)
{
	if (s->arena)
		explicit_bzero(s->arena, s->arena_len);
	free(s->arena);
	s->arena = NULL;
	s->arena_used = 0;
}

/* Room for the present MTU. The batch must be empty. */
static int arena_resize(struct iface_sink *s, uint32_t mtu)
{
	size_t slot_len = (s->gso ? IFACE_MTU_MAX + IFACE_TAG_LEN : mtu) + ETH_HLEN + IFACE_TAG_LEN;
	size_t len = s->gso ? IFACE_LARGE : IFACE_BATCH * round_up(slot_len);
	uint8_t *arena = calloc(1, len);

	if (!arena)
		return -ENOMEM;
	arena_cleanse(s);
	s->arena = arena;
	s->arena_len = len;
	if (s->slot && s->xsk)
		xsk_give_back(s->xsk, s->slot);
	s->slot = NULL;
	s->slot_len = slot_len;
	s->mtu = mtu;
	return 0;
}

/* Where the kernel finds the frames of the batch. */
static void batch_layout(struct iface_sink *s)
{
	for (unsigned i = 0; i < IFACE_BATCH; i++) {
		s->both[i][0] =
			(struct iovec){.iov_base = &s->head[i], .iov_len = sizeof(s->head[i])};
		s->msg[i].msg_hdr =
			s->cuts ? (struct msghdr){.msg_iov = s->both[i], .msg_iovlen = 2}
				: (struct msghdr){.msg_iov = &s->iov[i], .msg_iovlen = 1};
	}
}

/* A packet socket that only sends. */
static int packet_socket(int ifindex, enum way way)
{
	struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = ifindex};
	int bypass = way != WAY_SEEN, sndbuf = IFACE_SNDBUF, err;
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	/* past the queueing discipline: a drop is reported to us instead of only to a counter */
	if (setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &bypass, sizeof(bypass)) ||
	    bind(fd, (struct sockaddr *)&to, sizeof(to))) {
		err = -errno;
		close(fd);
		return err;
	}
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &sndbuf, sizeof(sndbuf)))
		(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &sndbuf, sizeof(sndbuf));
	return fd;
}

/* The faster way, where it exists. The batch must be empty. */
static void xsk_attach(struct iface_sink *s)
{
	int err = s->way == WAY_XDP ? xsk_open(&s->xsk, s->ifindex, s->queue, s->slot_len)
				    : -EOPNOTSUPP;

	if (!err)
		s->xsk_tries = 0;
	else if (err != -EBUSY)
		s->xsk_tries = 0;
	else if (s->xsk_tries)
		s->xsk_tries--;
	if (!s->xsk_tries)
		log_at(level_of(s, LOG_INFO),
		       "sink_iface: interface %s: packets leave through %s%s", s->name,
		       err ? "a packet socket" : "AF_XDP",
		       s->way == WAY_SEEN ? "; who listens on the interface itself sees them" : "");
}

/* Nobody receives what is sent on a dummy, and a bridge is where people listen to its network. */
static bool is_watched(const struct iface_sink *s, const struct iflink *link)
{
	if (s->bypass != SINK_AUTO)
		return s->bypass == SINK_NO;
	return !strcmp(link->kind, "dummy") || !strcmp(link->kind, "bridge") ||
	       iflink_is_listened(s->ifindex);
}

static bool is_switched_off(struct iface_sink *s)
{
	int err = offload_switch_off(s->name);

	if (!err)
		return true;
	s->large_ns = UINT64_MAX;
	log_info("sink_iface: interface %s: its checksum offload cannot be switched off: %s: "
		 "packets leave one by one",
		 s->name, strerror(-err));
	return false;
}

/*
 * Whether the kernel cuts large frames before anyone sees them. An interface that leaves that to
 * others is told not to, if it is one that only hands packets on and is there for nothing else.
 */
static bool is_cut_here(struct iface_sink *s, const struct iflink *link)
{
	int on;

	if (s->now_ns < s->large_ns || (strcmp(link->kind, "veth") && strcmp(link->kind, "dummy")))
		return false;
	on = offload_is_on(s->name);
	if (on > 0 && s->was_cut)
		log_warn("sink_iface: interface %s: somebody has switched on its checksum offload: "
			 "packets of the last second may have come to a sensor too large, or with "
			 "unfinished checksums",
			 s->name);
	s->was_cut = false;
	if (on < 0 || (on > 0 && (iflink_is_addressed(s->name) || !is_switched_off(s))))
		return false;
	if (on > 0)
		log_info("sink_iface: interface %s: its checksum and segmentation offload are "
			 "switched off: so many packets can leave at once (gso=no does without)",
			 s->name);
	s->was_cut = true;
	return true;
}

/* Cutting is done in the interface's queue. */
static bool is_cut_first(const struct iface_sink *s)
{
	return s->large == SINK_AUTO && s->gso && !s->is_refused;
}

#define LED_REFUSED 16u /* beyond each enum way */

static unsigned led_by(const struct iface_sink *s)
{
	return (unsigned)s->way | (s->large == SINK_AUTO && s->is_refused ? LED_REFUSED : 0);
}

static bool choose_refused(struct iface_sink *s, const struct iflink *link)
{
	if (s->large != SINK_AUTO || !s->gso)
		return false;
	return s->leader ? atomic_load(&s->leader->led) & LED_REFUSED : !is_cut_here(s, link);
}

static enum way choose_way(const struct iface_sink *s, const struct iflink *link)
{
	if (s->leader)
		return (enum way)(atomic_load(&s->leader->led) & ~LED_REFUSED);
	if (is_watched(s, link) || is_cut_first(s))
		return WAY_SEEN;
	return s->xdp == SINK_NO || s->gso ? WAY_DIRECT : WAY_XDP;
}

static int way_open(struct iface_sink *s, bool is_up)
{
	const int one = 1;
	int fd = packet_socket(s->ifindex, s->way);

	if (fd < 0)
		return fd;
	s->fd = fd;
	s->cuts = s->gso && !setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof(one));
	batch_layout(s);
	s->is_jammed = false;
	s->xsk_tries = IFACE_XSK_TRIES;
	if (is_up)
		xsk_attach(s);
	return 0;
}

static void iface_detach(struct iface_sink *s)
{
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
	xsk_close(s->xsk);
	s->xsk = NULL;
	s->slot = NULL;
	s->xsk_tries = 0;
}

/* A frame as it is, on fd. */
static ssize_t send_one(const struct iface_sink *s, struct span l2)
{
	struct virtio_net_hdr head = {0};
	struct iovec both[] = {{&head, sizeof(head)}, {(void *)l2.p, l2.len}};
	struct msghdr m = {.msg_iov = s->cuts ? both : both + 1, .msg_iovlen = s->cuts ? 2 : 1};

	return sendmsg(s->fd, &m, 0);
}

/* The self-check: does a frame arrive where one can look? */

static bool xsk_send_test(struct iface_sink *s, struct span l2)
{
	uint8_t *frame = xsk_take(s->xsk);
	struct xsk_done done;
	bool moved;
	int err = -EAGAIN;

	if (!frame)
		return false;
	memcpy(frame, l2.p, l2.len);
	xsk_put(s->xsk, frame, l2.len);
	for (unsigned i = 0; err && err != -EBUSY && i < IFACE_RETRY_MAX; i++)
		err = xsk_kick(s->xsk, &done, &moved);
	return !err;
}

/* No IP, and none of the counted packets. */
static struct span make_test(uint8_t frame[ETH_ZLEN])
{
	static const char text[] = "sslcollector tests its output interface";
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	memset(frame, 0, ETH_ZLEN);
	memcpy(frame, forge_link_default.mac, sizeof(forge_link_default.mac));
	frame[12] = IFACE_TEST_TYPE >> 8;
	frame[13] = IFACE_TEST_TYPE & 0xff;
	memcpy(frame + 14, text, sizeof(text) - 1);
	memcpy(frame + 54, &t.tv_nsec, 4); /* this one, not another's */
	return span_of(frame, ETH_ZLEN);
}

/* False: it left and did not arrive. True as well when that cannot be seen, or nothing leaves. */
static bool is_test_seen(struct iface_sink *s, const struct iflink *link)
{
	int at = s->way == WAY_SEEN ? s->ifindex : link->peer;
	int fd = at ? iflink_listen(at) : -1;
	uint8_t frame[ETH_ZLEN];
	struct span l2 = make_test(frame);
	bool left, seen;

	left = s->xsk ? xsk_send_test(s, l2) : send_one(s, l2) >= 0;
	seen = fd < 0 || !left || iflink_saw(fd, l2, IFACE_SEEN_MS);
	if (fd >= 0)
		close(fd);
	if (!left)
		log_warn("sink_iface: interface %s: a test frame did not leave: is its cable or "
			 "its other end down?",
			 s->name);
	else if (fd >= 0 && seen)
		log_debug("sink_iface: interface %s: a test frame arrived", s->name);
	return seen;
}

/* False: there is no other way. */
static bool next_way(struct iface_sink *s)
{
	if (s->way == WAY_SEEN || (s->way == WAY_XDP && s->xdp == SINK_YES) ||
	    (s->way == WAY_DIRECT && s->bypass == SINK_YES))
		return false;
	iface_detach(s);
	s->way++;
	s->is_ruled_out = true;
	return true;
}

/* Take the interface as it is now; it must be up. */
static int iface_attach(struct iface_sink *s, const struct iface_info *info)
{
	struct iflink link = {.peer = 0};
	int err;

	if (info->mtu != s->mtu) {
		err = arena_resize(s, info->mtu);
		if (err)
			return err;
	}
	s->ifindex = info->ifindex;
	if (iflink_query(s->ifindex, &link) < 0)
		link.kind[0] = '\0'; /* nothing known of it: as of hardware */
	s->tx_dropped = link.tx_dropped;
	s->is_refused = choose_refused(s, &link);
	s->way = choose_way(s, &link);
	s->is_ruled_out = false;
	do {
		err = way_open(s, info->flags & IFF_UP);
		atomic_store(&s->led, led_by(s));
		if (err || !(info->flags & IFF_UP) || s->leader || is_test_seen(s, &link))
			return err;
		log_warn("sink_iface: interface %s: a test frame left and did not arrive", s->name);
	} while (next_way(s));
	return 0;
}

static void lose_gone(struct iface_sink *s, uint64_t packets)
{
	s->lost_gone += packets;
	counter_add(&c_gone, packets);
}

static bool frame_lost(struct iface_sink *s, struct span l2)
{
	bool is_new = cut_lost(s->cut, l2, s->now_ns);

	if (is_new)
		counter_inc(&c_cut);
	return is_new;
}

static size_t waiting_lost(void *ctx, uint8_t *frame, size_t len)
{
	(void)frame_lost(ctx, span_of(frame, len));
	return len;
}

static void iface_gone(struct iface_sink *s, int err)
{
	unsigned under_way = s->xsk ? xsk_in_flight(s->xsk) : 0;

	if (s->xsk)
		xsk_waiting(s->xsk, waiting_lost, s);
	iface_detach(s);
	s->lost_gone = 0;
	s->was_cut = false; /* a new one of that name has its offload */
	log_at(level_of(s, LOG_ERROR),
	       "sink_iface: interface %s is %s: %s; packets for it are counted as lost until it is "
	       "back",
	       s->name, err == -ENETDOWN ? "down" : "gone", strerror(-err));
	lose_gone(s, under_way);
}

/* Sending */

/* That a frame is, or becomes. */
static unsigned packets_of(const struct virtio_net_hdr *head, size_t len)
{
	return head->gso_type ? (unsigned)((len - head->hdr_len - 1) / head->gso_size + 1) : 1;
}

static unsigned packets_at(const struct iface_sink *s, unsigned at)
{
	return packets_of(&s->head[at], s->iov[at].iov_len);
}

static void frames_sent(struct iface_sink *s, unsigned from, unsigned n)
{
	uint64_t packets = 0, bytes = 0;

	for (unsigned i = from; i < from + n; i++) {
		unsigned parts = packets_at(s, i);

		packets += parts;
		bytes += s->iov[i].iov_len + (parts - 1) * (uint64_t)s->head[i].hdr_len;
	}
	counter_add(&c_packets, packets);
	counter_add(&c_bytes, bytes);
	s->is_jammed = false;
}

static void lose_nobufs(struct iface_sink *s, unsigned packets)
{
	uint64_t held;

	counter_add(&c_nobufs, packets);
	s->is_jammed = true;
	if (log_rate_ok(&s->nobufs_rate, IFACE_WARN_MS, &held))
		log_warn("sink_iface: interface %s: takes no more packets (queue full, or the "
			 "other end "
			 "is down); they are counted as lost, their connections end total=%llu",
			 s->name, (unsigned long long)counter_get(&c_nobufs));
}

static void lose_size(struct iface_sink *s, size_t len, unsigned packets)
{
	uint64_t held;

	counter_add(&c_size, packets);
	if (log_rate_ok(&s->size_rate, IFACE_WARN_MS, &held))
		log_warn("sink_iface: interface %s: packet larger than its MTU is lost bytes=%zu "
			 "mtu=%u "
			 "total=%llu",
			 s->name, len, s->mtu, (unsigned long long)counter_get(&c_size));
}

/* With all frames of the batch from `at` on. */
static void batch_gone(struct iface_sink *s, unsigned at, int err)
{
	uint64_t packets = 0;

	for (unsigned i = at; i < s->n; i++) {
		(void)frame_lost(s, span_of(s->iov[i].iov_base, s->iov[i].iov_len));
		packets += packets_at(s, i);
	}
	iface_gone(s, err);
	lose_gone(s, packets);
}

/* Not known whose they were: no connection can be ended for it. */
static void lose_unseen(struct iface_sink *s, uint64_t packets)
{
	uint64_t held;

	counter_add(&c_dropped, packets);
	if (log_rate_ok(&s->nobufs_rate, IFACE_WARN_MS, &held))
		log_warn("sink_iface: interface %s: dropped packets that it had taken total=%llu",
			 s->name, (unsigned long long)counter_get(&c_dropped));
}

static void retry_pause(void)
{
	struct timespec t = {.tv_nsec = IFACE_RETRY_NS};

	(void)nanosleep(&t, NULL);
}

/* A frame that waits, maybe behind a lost one of its connection. Returns what cut_replace() does.
 */
static size_t look_again(struct iface_sink *s, uint8_t *frame, size_t len, bool must,
			 unsigned packets)
{
	size_t now = cut_replace(s->cut, frame, len, must);

	if (now != len)
		counter_add(&c_cut_packets, packets);
	if (now != len && now > 0)
		counter_inc(&c_resets);
	return now;
}

static size_t look_again_queued(void *ctx, uint8_t *frame, size_t len)
{
	return look_again(ctx, frame, len, true, 1);
}

static void batch_move(struct iface_sink *s, unsigned to, unsigned from)
{
	s->iov[to] = s->iov[from];
	s->head[to] = s->head[from];
}

/* The frame at `at` is lost: none of its connection's may follow. */
static void batch_lost(struct iface_sink *s, unsigned at)
{
	unsigned kept = at + 1;

	if (!frame_lost(s, span_of(s->iov[at].iov_base, s->iov[at].iov_len)))
		return;
	for (unsigned i = at + 1; i < s->n; i++) {
		uint8_t *frame = s->iov[i].iov_base;
		size_t len = look_again(s, frame, s->iov[i].iov_len, false, packets_at(s, i));

		if (!len && s->xsk)
			xsk_give_back(s->xsk, frame);
		if (!len)
			continue;
		batch_move(s, kept, i);
		if (len != s->iov[i].iov_len)
			memset(&s->head[kept], 0, sizeof(s->head[kept]));
		s->iov[kept].iov_len = len;
		s->both[kept][1] = s->iov[kept];
		kept++;
	}
	s->n = kept;
}

/* An interface that does not cut frames itself has them cut in its queue. */
static bool take_queue(struct iface_sink *s)
{
	const int bypass = 0;
	struct iface_info info;

	if (s->way == WAY_SEEN || s->is_jammed || iface_query(s->name, &info) ||
	    !(info.flags & IFF_RUNNING) || /* else its other end is down: the queue would hide it */
	    setsockopt(s->fd, SOL_PACKET, PACKET_QDISC_BYPASS, &bypass, sizeof(bypass)))
		return false;
	s->way = WAY_SEEN;
	s->is_ruled_out = true;
	atomic_store(&s->led, led_by(s));
	log_at(level_of(s, LOG_INFO),
	       "sink_iface: interface %s: large frames take the way through its queue", s->name);
	return true;
}

/* Large frames are not for this interface: the next ones come as usual. */
static void refuse_large(struct iface_sink *s, int err)
{
	s->is_refused = true;
	s->large_ns = UINT64_MAX;
	log_at(level_of(s, LOG_WARN),
	       "sink_iface: interface %s: takes no large frames: %s; packets come one by one",
	       s->name, strerror(-err));
}

/*
 * What a failed send means for the frame at `at`. Returns how many frames to go on by: 0 tries the
 * same one again.
 */
static unsigned send_failed(struct iface_sink *s, unsigned at, int err, unsigned *tries)
{
	switch (err) {
	case -EINTR:
		return 0;
	case -ENOBUFS:
	case -EAGAIN:
		if (s->head[at].gso_type && take_queue(s))
			return 0;
		if (!s->is_jammed && (*tries)++ < IFACE_RETRY_MAX) {
			retry_pause();
			return 0;
		}
		lose_nobufs(s, packets_at(s, at));
		batch_lost(s, at);
		return 1;
	case -EINVAL:
	case -EOPNOTSUPP:
		if (!s->head[at].gso_type) {
			batch_gone(s, at, err);
			return s->n - at;
		}
		if (!s->is_refused)
			refuse_large(s, err);
		lose_size(s, s->iov[at].iov_len, packets_at(s, at));
		batch_lost(s, at);
		return 1;
	case -EMSGSIZE:
		lose_size(s, s->iov[at].iov_len, packets_at(s, at));
		batch_lost(s, at);
		return 1;
	default: /* ENXIO, ENODEV, ENETDOWN, and what else makes the socket useless */
		batch_gone(s, at, err);
		return s->n - at;
	}
}

static void batch_flush(struct iface_sink *s)
{
	unsigned at = 0, tries = 0;

	for (unsigned i = 0; s->cuts && i < s->n; i++)
		s->both[i][1] = s->iov[i];
	while (at < s->n) {
		int n = sendmmsg(s->fd, s->msg + at, s->n - at, 0);

		if (n > 0) {
			frames_sent(s, at, (unsigned)n);
			at += (unsigned)n;
		} else {
			at += send_failed(s, at, n ? -errno : -EAGAIN, &tries);
		}
	}
	s->n = 0;
	s->arena_used = 0;
}

static size_t frame_max(struct span l2, size_t mtu)
{
	bool tagged = l2.len > 13 && l2.p[12] == 0x81 && l2.p[13] == 0x00;

	return mtu + ETH_HLEN + (tagged ? IFACE_TAG_LEN : 0);
}

/*
 * An AF_XDP socket compares no length with the MTU, which may have shrunk since the last tick.
 * False when the interface is gone, with all that was given.
 */
static bool xsk_put_batch(struct iface_sink *s)
{
	struct ifreq req;

	memset(&req, 0, sizeof(req));
	memcpy(req.ifr_name, s->name, sizeof(req.ifr_name));
	if (ioctl(s->fd, SIOCGIFMTU, &req)) {
		batch_gone(s, 0, -errno);
		s->n = 0;
		return false;
	}
	for (unsigned i = 0; i < s->n; i++) {
		const struct iovec *v = &s->iov[i];

		if (v->iov_len <=
		    frame_max(span_of(v->iov_base, v->iov_len), (size_t)req.ifr_mtu)) {
			xsk_put(s->xsk, v->iov_base, v->iov_len);
		} else {
			lose_size(s, v->iov_len, 1);
			batch_lost(s, i);
			xsk_give_back(s->xsk, v->iov_base);
		}
	}
	s->n = 0;
	return true;
}

/* How long a flush goes on that is not taken as a whole. */
struct patience {
	unsigned turns; /* that need not show progress: not every kernel tells how much it took */
	unsigned tries; /* that waited for a full queue */
};

/* What a failed kick means. False: another one makes no sense now. */
static bool kick_again(struct iface_sink *s, int err, bool moved, struct patience *p)
{
	switch (err) {
	case -EINTR:
		return true;
	case -EBUSY: /* see xsk_dropped() */
		return true;
	case -EAGAIN:
		if (moved)
			return true;
		if (p->turns > 0) {
			p->turns--;
			return true;
		}
		if (!s->is_jammed && p->tries++ < IFACE_RETRY_MAX) {
			retry_pause();
			return true;
		}
		s->is_jammed = true; /* what is queued waits for the next flush */
		return false;
	default: /* ENXIO, ENETDOWN, and what else makes the socket useless */
		iface_gone(s, err);
		return false;
	}
}

/* The other way, as often as a full queue is asked. */
static bool send_plain(struct iface_sink *s, struct span l2)
{
	for (unsigned i = 0; i < IFACE_RETRY_MAX; i++) {
		if (send_one(s, l2) >= 0)
			return true;
		if (s->is_jammed || (errno != ENOBUFS && errno != EAGAIN && errno != EINTR))
			return false;
		retry_pause();
	}
	return false;
}

/* The interface dropped a frame; those behind it have not been looked at yet. */
static void xsk_dropped(struct iface_sink *s, struct span l2)
{
	if (l2.len > 0 && send_plain(s, l2)) {
		counter_inc(&c_packets);
		counter_add(&c_bytes, l2.len);
		s->is_jammed = false;
		return;
	}
	lose_nobufs(s, 1);
	if (frame_lost(s, l2))
		xsk_waiting(s->xsk, look_again_queued, s);
}

static void xsk_flush(struct iface_sink *s)
{
	struct patience p = {0};
	bool moved, again = true;

	if (!xsk_put_batch(s))
		return;
	p.turns = xsk_in_flight(s->xsk) / IFACE_KICK + 1;
	while (again) {
		struct xsk_done done;
		int err = xsk_kick(s->xsk, &done, &moved);

		counter_add(&c_packets, done.frames);
		counter_add(&c_bytes, done.bytes);
		if (done.frames > 0)
			s->is_jammed = false;
		if (err == -EBUSY)
			xsk_dropped(s, done.dropped);
		again = err && kick_again(s, err, moved, &p);
	}
}

/* A driver may still be sending from the memory that goes with the socket. */
static void xsk_detach(struct iface_sink *s)
{
	struct timespec t = {.tv_nsec = NS_PER_MS};

	for (unsigned i = 0; s->xsk && i < IFACE_DRAIN_MS && xsk_in_flight(s->xsk) > 0; i++) {
		if (i > 0)
			(void)nanosleep(&t, NULL);
		xsk_flush(s);
	}
	for (unsigned n = s->xsk ? xsk_in_flight(s->xsk) : 0; n > 0; n--)
		lose_nobufs(s, 1);
	xsk_close(s->xsk);
	s->xsk = NULL;
	s->slot = NULL;
}

static void flush_now(struct iface_sink *s)
{
	if (s->xsk && (s->n > 0 || xsk_in_flight(s->xsk) > 0))
		xsk_flush(s);
	else if (!s->xsk)
		batch_flush(s);
}

static uint8_t *arena_next(struct iface_sink *s, size_t len)
{
	if (s->arena_used + len > s->arena_len)
		batch_flush(s);
	return s->arena + s->arena_used;
}

/* Where the next frame goes; NULL when every place is taken by frames that wait. */
static uint8_t *slot_next(struct iface_sink *s, size_t len)
{
	if (!s->xsk)
		return arena_next(s, len);
	if (!s->slot) {
		s->slot = xsk_take(s->xsk);
		if (!s->slot) {
			xsk_flush(s);
			s->slot = s->xsk ? xsk_take(s->xsk) : NULL;
		}
	}
	return s->slot;
}

static uint8_t *iface_room(struct sink *sink, size_t len)
{
	struct iface_sink *s = (struct iface_sink *)sink;

	return s->fd >= 0 && len <= s->slot_len ? slot_next(s, len) : NULL;
}

/* Where the TCP header of a forged frame is. */
static size_t tcp_offset(struct span l2, bool *is_ip6)
{
	size_t at = 12;

	while (at + 6 < l2.len && l2.p[at] == 0x81 && l2.p[at + 1] == 0)
		at += IFACE_TAG_LEN;
	*is_ip6 = l2.p[at] == 0x86;
	return at + 2 + (*is_ip6 ? 40 : 20);
}

/* What the kernel has to know of a large frame; native byte order. */
static struct virtio_net_hdr head_of(struct span l2, uint16_t segment)
{
	bool is_ip6;
	size_t tcp = tcp_offset(l2, &is_ip6);

	return (struct virtio_net_hdr){
		.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
		.gso_type = is_ip6 ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4,
		.hdr_len = (uint16_t)(tcp + (l2.p[tcp + 12] >> 4) * 4u),
		.gso_size = segment,
		.csum_start = (uint16_t)tcp,
		.csum_offset = 16,
	};
}

static void batch_add(struct iface_sink *s, struct span l2, const struct virtio_net_hdr *head)
{
	uint8_t *slot = slot_next(s, l2.len);

	if (s->fd < 0) {
		lose_gone(s, packets_of(head, l2.len));
		(void)frame_lost(s, l2);
		return;
	}
	if (!slot) {
		lose_nobufs(s, packets_of(head, l2.len));
		(void)frame_lost(s, l2);
		return;
	}
	if (slot != l2.p)
		memcpy(slot, l2.p, l2.len);
	s->head[s->n] = *head;
	s->iov[s->n++] = (struct iovec){.iov_base = slot, .iov_len = l2.len};
	if (s->xsk)
		s->slot = NULL;
	else
		s->arena_used += round_up(l2.len);
	if (s->n == IFACE_BATCH)
		flush_now(s);
}

/* Onto the last frame of the batch, behind which the arena is free. */
static size_t iface_more(struct sink *sink, struct span head, struct span payload, uint16_t segment,
			 uint16_t *ip_id)
{
	struct iface_sink *s = (struct iface_sink *)sink;
	struct iovec *v;
	uint8_t *end;
	size_t n;

	if (!s->cuts || s->n == 0 || cut_any(s->cut) ||
	    (s->head[s->n - 1].gso_type && s->head[s->n - 1].gso_size != segment))
		return 0;
	v = &s->iov[s->n - 1];
	end = (uint8_t *)v->iov_base + v->iov_len;
	n = (size_t)(s->arena + s->arena_len - end);
	n = gather(v->iov_base, v->iov_len, head, payload.len < n ? payload.len : n, segment,
		   ip_id);
	if (!n)
		return 0;
	memcpy(end, payload.p, n);
	v->iov_len += n;
	s->arena_used = round_up((size_t)(end + n - s->arena));
	s->head[s->n - 1] = head_of(span_of(v->iov_base, v->iov_len), segment);
	return n;
}

/* What does not leave asks again. */
static void resets_put(struct iface_sink *s)
{
	const struct virtio_net_hdr plain = {0};

	for (unsigned i = 0; s->fd >= 0 && i < IFACE_RESETS; i++) {
		struct span rst = cut_next(s->cut);

		if (!rst.len)
			return;
		counter_inc(&c_resets);
		batch_add(s, rst, &plain);
	}
}

static void iface_flush(struct sink *sink)
{
	struct iface_sink *s = (struct iface_sink *)sink;

	if (cut_any(s->cut) && !s->is_jammed)
		resets_put(s);
	flush_now(s);
}

/* Why a frame cannot leave: it is counted. */
static bool is_lost(struct iface_sink *s, struct span l2, const struct virtio_net_hdr *head)
{
	/* on the wire: of a large frame, of its first packet */
	size_t longest = head->gso_type ? head->hdr_len + (size_t)head->gso_size : l2.len;
	unsigned packets = packets_of(head, l2.len);

	if (s->fd < 0) {
		lose_gone(s, packets);
		(void)frame_lost(s, l2);
	} else if (cut_any(s->cut) && cut_drops(s->cut, l2)) {
		counter_add(&c_cut_packets, packets);
	} else if (longest > frame_max(l2, s->mtu) || l2.len > s->slot_len) {
		lose_size(s, l2.len, packets);
		(void)frame_lost(s, l2);
	} else {
		return false;
	}
	return true;
}

static void iface_packet(struct sink *sink, struct span l2, uint64_t ts_ns,
			 const struct sink_flow *flow, bool first)
{
	struct iface_sink *s = (struct iface_sink *)sink;
	struct virtio_net_hdr head = {0};

	(void)ts_ns;
	(void)first;
	if (flow && flow->segment)
		head = head_of(l2, flow->segment);
	if (!is_lost(s, l2, &head))
		batch_add(s, l2, &head);
}

/* Once a second */

/* Slots for another MTU; the batch is empty. */
static void mtu_changed(struct iface_sink *s, uint32_t mtu)
{
	if (arena_resize(s, mtu))
		return;
	log_at(level_of(s, LOG_INFO), "sink_iface: interface %s: MTU is now %u", s->name, s->mtu);
	if (s->xsk && s->slot_len <= xsk_frame_max(s->xsk))
		return;
	xsk_detach(s);
	if (s->fd < 0)
		return;
	s->xsk_tries = IFACE_XSK_TRIES;
	xsk_attach(s);
}

static void attach_anew(struct iface_sink *s, const struct iface_info *info)
{
	xsk_detach(s);
	iface_detach(s);
	if (iface_attach(s, info))
		iface_gone(s, -ENODEV);
}

/* The way that the first worker's sink has found. */
static void follow(struct iface_sink *s, const struct iface_info *info)
{
	if (!s->is_ruled_out && atomic_load(&s->leader->led) != led_by(s))
		attach_anew(s, info);
}

/* What is dropped in the queue was nobody's: one by one and past it, packets are missed at once,
 * and their connections end. */
static void be_exact(struct iface_sink *s)
{
	if (!is_cut_first(s))
		return;
	s->large_ns = s->now_ns + IFACE_LARGE_S * NS_PER_S;
	s->was_cut = false;
	log_warn("sink_iface: interface %s: packets leave one by one for a while, so that those "
		 "it drops are known",
		 s->name);
}

/* Who came to listen on the interface itself shall see packets; when all have gone, they are
 * cheaper. */
static void look_around(struct iface_sink *s, const struct iface_info *info)
{
	struct iflink link;
	uint64_t dropped;

	if (iflink_query(s->ifindex, &link))
		return;
	dropped = link.tx_dropped - s->tx_dropped;
	s->tx_dropped = link.tx_dropped;
	if (s->way == WAY_SEEN && dropped > 0) { /* the other ways tell it at once */
		lose_unseen(s, dropped);
		be_exact(s);
	}
	if (s->large == SINK_AUTO)
		s->is_refused = choose_refused(s, &link);
	atomic_store(&s->led, led_by(s));
	if (!s->is_ruled_out && (choose_way(s, &link) == WAY_SEEN) != (s->way == WAY_SEEN))
		attach_anew(s, info);
}

static void try_again(struct iface_sink *s, const struct iface_info *info)
{
	if (!(info->flags & IFF_UP) || iface_attach(s, info))
		return;
	log_at(level_of(s, LOG_INFO), "sink_iface: interface %s is back lost=%llu", s->name,
	       (unsigned long long)s->lost_gone);
}

static void iface_tick(struct sink *sink, uint64_t now_ns)
{
	struct iface_sink *s = (struct iface_sink *)sink;
	struct iface_info info;
	int err;

	s->now_ns = now_ns;
	cut_expire(s->cut, now_ns, IFACE_CUT_AGE_S * NS_PER_S);
	resets_put(s); /* also when jammed: who knows */
	iface_flush(sink);
	err = iface_query(s->name, &info);
	if (err == -ENODEV && s->fd >= 0)
		iface_gone(s, err);
	if (err)
		return;
	if (s->fd >= 0 && info.ifindex != s->ifindex) /* another one of that name */
		iface_gone(s, -ENODEV);
	if (s->fd < 0)
		try_again(s, &info);
	else if (info.mtu != s->mtu)
		mtu_changed(s, info.mtu);
	else if (!s->xsk && s->xsk_tries)
		xsk_attach(s);
	else if (s->leader)
		follow(s, &info);
	else
		look_around(s, &info);
}

static bool iface_cuts(const struct sink *sink)
{
	const struct iface_sink *s = (const struct iface_sink *)sink;

	return s->cuts && !s->is_refused;
}

static uint32_t iface_mtu(const struct sink *sink)
{
	return ((const struct iface_sink *)sink)->mtu;
}

/* Opening */

static void warn_if_addressed(const char *name)
{
	if (iflink_is_addressed(name))
		log_warn(
			"sink_iface: interface %s has an IP address: real packets on it damage the "
			"mirrored connections, and mirrored packets may reach its network; use an "
			"interface that carries nothing else",
			name);
}

static int refuse_query(const char *name, int err)
{
	if (err == -ENODEV)
		log_error("sink_iface: interface %s does not exist; list interfaces with `ip link`",
			  name);
	else
		log_error("sink_iface: interface %s: cannot ask for its properties: %s", name,
			  strerror(-err));
	return err;
}

static int refuse_attach(const char *name, int err)
{
	if (err == -EPERM || err == -EACCES)
		log_error("sink_iface: interface %s: no permission to send packets: run as root or "
			  "with "
			  "CAP_NET_RAW",
			  name);
	else
		log_error("sink_iface: interface %s: cannot open: %s", name, strerror(-err));
	return err;
}

static int check_name(const char *name)
{
	if (*name && strlen(name) < IFNAMSIZ)
		return 0;
	log_error("sink_iface: %s: not an interface name; list interfaces with `ip link`", name);
	return -EINVAL;
}

static int check_kind(const char *name, const struct iface_info *info)
{
	if (info->flags & IFF_LOOPBACK)
		log_error("sink_iface: interface %s: this host would receive its own mirrored "
			  "packets; "
			  "use an interface that carries nothing else",
			  name);
	else if (!info->is_ethernet)
		log_error("sink_iface: interface %s: does not carry Ethernet frames; use a network "
			  "card, a veth pair or a bridge",
			  name);
	else
		return 0;
	return -EINVAL;
}

/* Attach once in any case: missing permission shows now, not when the interface comes up. */
static int first_attach(struct iface_sink *s, const struct iface_info *info)
{
	int err = iface_attach(s, info);

	if (err)
		return refuse_attach(s->name, err);
	if (!s->leader)
		warn_if_addressed(s->name);
	if (!(info->flags & IFF_UP)) {
		log_at(level_of(s, LOG_WARN),
		       "sink_iface: interface %s is down: packets for it are counted as lost "
		       "until "
		       "`ip link set %s up`",
		       s->name, s->name);
		iface_detach(s);
	}
	return 0;
}

static void iface_close(struct sink *sink)
{
	struct iface_sink *s = (struct iface_sink *)sink;

	if (!s)
		return;
	iface_flush(sink);
	xsk_detach(s);
	iface_detach(s);
	arena_cleanse(s);
	cut_free(s->cut);
	free(s);
}

/* Whether there shall be room for large frames. */
static void choose_large(struct iface_sink *s, const struct sink_conf *conf,
			 const struct iface_info *info)
{
	struct iflink link;

	s->large = conf->large;
	if (s->large == SINK_AUTO && (s->xdp == SINK_YES || s->bypass == SINK_YES))
		s->large = SINK_NO; /* those pass by the queue */
	if (s->leader)
		s->gso = s->leader->gso;
	else if (s->large == SINK_AUTO)
		s->gso = !iflink_query(info->ifindex, &link) && is_cut_here(s, &link);
	else
		s->gso = s->large == SINK_YES;
}

static int iface_open(struct sink **out, const struct sink_conf *conf)
{
	struct iface_sink *s = NULL;
	struct iface_info info;
	int err = check_name(conf->target);

	if (err)
		return err;
	err = iface_query(conf->target, &info);
	if (err)
		return refuse_query(conf->target, err);
	err = check_kind(conf->target, &info);
	if (err)
		return err;
	s = calloc(1, sizeof(*s));
	if (!s)
		return refuse_attach(conf->target, -ENOMEM);
	s->sink.ops = &sink_iface_ops;
	s->fd = -1;
	s->bypass = conf->bypass;
	s->xdp = conf->xdp;
	s->leader = (const struct iface_sink *)conf->leader;
	s->queue = conf->index;
	snprintf(s->name, sizeof(s->name), "%s", conf->target);
	/* By its name alone another one could be taken for it: of a container, or made anew. */
	s->sink.place =
		sink_place(sink_place(0, s->name, strlen(s->name)), info.mac, sizeof(info.mac));
	err = cut_new(&s->cut);
	if (err) {
		(void)refuse_attach(s->name, err);
		goto fail;
	}
	choose_large(s, conf, &info);
	err = first_attach(s, &info);
	if (err)
		goto fail;
	*out = &s->sink;
	return 0;
fail:
	iface_close(&s->sink);
	return err;
}

const struct sink_ops sink_iface_ops = {
	.name = "iface",
	.open = iface_open,
	.room = iface_room,
	.more = iface_more,
	.packet = iface_packet,
	.flush = iface_flush,
	.tick = iface_tick,
	.mtu = iface_mtu,
	.cuts = iface_cuts,
	.is_many = true,
	.close = iface_close,
};
