/* SPDX-License-Identifier: Apache-2.0 */
/*
 * iflink: see iflink.h. One request and one answer of rtnetlink(7); its attributes are read with a
 * bound, although they come from the kernel.
 */
#include "sinks/iflink.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <linux/if_link.h>
#include <linux/if_packet.h>
#include <linux/rtnetlink.h>
#include <net/ethernet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"

#define ANSWER_MAX 32768 /* a link with its statistics takes some 2 KiB */

/* Calls fn for each attribute of `in`. */
static void each_attr(struct span in, void (*fn)(void *ctx, unsigned type, struct span value),
		      void *ctx)
{
	while (in.len >= sizeof(struct rtattr)) {
		struct rtattr a;
		size_t whole;

		memcpy(&a, in.p, sizeof(a));
		if (a.rta_len < sizeof(a) || a.rta_len > in.len)
			return;
		fn(ctx, a.rta_type & ~(unsigned)NLA_F_NESTED,
		   span_of(in.p + sizeof(a), a.rta_len - sizeof(a)));
		whole = RTA_ALIGN(a.rta_len);
		in = whole < in.len ? span_of(in.p + whole, in.len - whole) : span_of(NULL, 0);
	}
}

struct answer {
	struct iflink link;
	bool is_elsewhere;
};

static void on_info(void *ctx, unsigned type, struct span value)
{
	struct answer *a = ctx;

	if (type == IFLA_INFO_KIND)
		snprintf(a->link.kind, sizeof(a->link.kind), "%.*s", (int)value.len,
			 (const char *)value.p);
}

static void on_attr(void *ctx, unsigned type, struct span value)
{
	struct answer *a = ctx;
	uint32_t index;

	if (type == IFLA_LINK && value.len == sizeof(index)) {
		memcpy(&index, value.p, sizeof(index));
		a->link.peer = (int)index;
	} else if (type == IFLA_LINK_NETNSID) {
		a->is_elsewhere = true;
	} else if (type == IFLA_STATS64 &&
		   value.len >= offsetof(struct rtnl_link_stats64, tx_dropped) + 8) {
		memcpy(&a->link.tx_dropped,
		       value.p + offsetof(struct rtnl_link_stats64, tx_dropped), 8);
	} else if (type == IFLA_LINKINFO) {
		each_attr(value, on_info, a);
	}
}

static int parse_answer(struct span in, struct iflink *out)
{
	struct answer a = {.is_elsewhere = false};
	const size_t head = NLMSG_SPACE(sizeof(struct ifinfomsg));
	struct nlmsghdr h;
	int err = 0;

	if (in.len < sizeof(h))
		return -EIO;
	memcpy(&h, in.p, sizeof(h));
	if (h.nlmsg_type == NLMSG_ERROR && in.len >= NLMSG_LENGTH(sizeof(err))) {
		memcpy(&err, in.p + NLMSG_HDRLEN, sizeof(err));
		return err ? err : -EIO;
	}
	if (h.nlmsg_type != RTM_NEWLINK || h.nlmsg_len > in.len || h.nlmsg_len < head)
		return -EIO;
	each_attr(span_of(in.p + head, h.nlmsg_len - head), on_attr, &a);
	if (a.is_elsewhere || strcmp(a.link.kind, "veth") != 0)
		a.link.peer = 0;
	*out = a.link;
	return 0;
}

int iflink_query(int ifindex, struct iflink *out)
{
	struct {
		struct nlmsghdr h;
		struct ifinfomsg m;
	} ask = {.h = {.nlmsg_len = sizeof(ask),
		       .nlmsg_type = RTM_GETLINK,
		       .nlmsg_flags = NLM_F_REQUEST},
		 .m = {.ifi_family = AF_UNSPEC, .ifi_index = ifindex}};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), err;
	uint8_t answer[ANSWER_MAX];
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = send(fd, &ask, sizeof(ask), 0);
	if (n >= 0) /* the kernel answers within send(): nothing to wait for */
		n = recv(fd, answer, sizeof(answer), MSG_DONTWAIT);
	err = n < 0 ? -errno : parse_answer(span_of(answer, (size_t)n), out);
	close(fd);
	return err;
}

/* "sk RefCnt Type Proto Iface …", a line a socket. A socket for one protocol alone never sees what
 * is sent; one for all interfaces is not there for this one. */
bool iflink_is_listened(int ifindex)
{
	FILE *f = fopen("/proc/self/net/packet", "re");
	bool found = false;
	char line[256];
	unsigned proto;
	int at;

	if (!f)
		return false;
	while (!found && fgets(line, sizeof(line), f))
		found = sscanf(line, "%*s %*s %*s %x %d", &proto, &at) == 2 && proto == ETH_P_ALL &&
			at == ifindex;
	fclose(f);
	return found;
}

int iflink_listen(int ifindex)
{
	/* Frames on their way out are shown to sockets for all protocols only. */
	struct sockaddr_ll from = {
		.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = ifindex};
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), err;

	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&from, sizeof(from))) {
		err = -errno;
		close(fd);
		return err;
	}
	return fd;
}

bool iflink_saw(int fd, struct span frame, unsigned wait_ms)
{
	uint64_t now_ns = clock_mono_ns(), end_ns = now_ns + wait_ms * NS_PER_MS;
	struct pollfd p = {.fd = fd, .events = POLLIN};
	uint8_t got[256];

	for (; now_ns <= end_ns; now_ns = clock_mono_ns()) {
		ssize_t n = recv(fd, got, sizeof(got), 0);

		if (n < 0 && poll(&p, 1, (int)((end_ns - now_ns) / NS_PER_MS)) <= 0)
			return false;
		if (n >= 0 && (size_t)n == frame.len && !memcmp(got, frame.p, frame.len))
			return true;
	}
	return false;
}

static bool is_link_local(const struct sockaddr *sa)
{
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)sa;

	return sa->sa_family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&in6->sin6_addr);
}

static bool is_ip_of(const struct ifaddrs *a, const char *name)
{
	if (!a->ifa_addr || strcmp(a->ifa_name, name))
		return false;
	return a->ifa_addr->sa_family == AF_INET ||
	       (a->ifa_addr->sa_family == AF_INET6 && !is_link_local(a->ifa_addr));
}

/* Every interface that is up has a link-local IPv6 address: that one says nothing about its use. */
bool iflink_is_addressed(const char *name)
{
	struct ifaddrs *all = NULL;
	bool found = false;

	if (getifaddrs(&all))
		return false;
	for (struct ifaddrs *a = all; a && !found; a = a->ifa_next)
		found = is_ip_of(a, name);
	freeifaddrs(all);
	return found;
}
