/* SPDX-License-Identifier: Apache-2.0 */
/*
 * filter: a connection's tuple and namespace in, a verdict out. Asks the kernel for addresses and
 * routes; builds the SYN that a pcap filter is judged on. Never sees plaintext.
 */
#include "filter.h"

#include "base/log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <pcap/pcap.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define ADDRS_MAX 256 /* addresses of one interface that are remembered */
#define ETHER_LEN 14

struct address {
	uint8_t family; /* 4 or 6 */
	uint8_t bytes[16];
};

struct filter {
	char iface[IF_NAMESIZE]; /* empty: any */
	unsigned ifindex;
	uint32_t netns; /* our own */
	struct address addrs[ADDRS_MAX];
	size_t n_addrs;
	bool has_program;
	struct bpf_program program; /* libpcap's, classic BPF */
	int route_fd;
};

static void add_address(struct filter *f, const struct sockaddr *sa)
{
	struct address *a = &f->addrs[f->n_addrs];

	if (f->n_addrs == ADDRS_MAX || !sa)
		return;
	memset(a, 0, sizeof(*a));
	if (sa->sa_family == AF_INET) {
		a->family = 4;
		memcpy(a->bytes, &((const struct sockaddr_in *)(const void *)sa)->sin_addr, 4);
	} else if (sa->sa_family == AF_INET6) {
		a->family = 6;
		memcpy(a->bytes, &((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr, 16);
	} else {
		return;
	}
	f->n_addrs++;
}

/* getifaddrs() names an address by its label, "eth0:1", where it has one. */
static bool is_label_of(const char *label, const char *iface)
{
	size_t n = strcspn(label, ":");

	return strlen(iface) == n && strncmp(label, iface, n) == 0;
}

void filter_refresh(struct filter *f)
{
	struct ifaddrs *list = NULL;

	if (!f->iface[0])
		return;
	f->ifindex = if_nametoindex(f->iface);
	if (getifaddrs(&list))
		return;
	f->n_addrs = 0;
	for (struct ifaddrs *i = list; i; i = i->ifa_next)
		if (is_label_of(i->ifa_name, f->iface))
			add_address(f, i->ifa_addr);
	freeifaddrs(list);
}

static uint32_t own_netns(void)
{
	struct stat st;

	return stat("/proc/self/ns/net", &st) ? 0 : (uint32_t)st.st_ino;
}

static int compile(struct filter *f, const char *expr)
{
	pcap_t *p = pcap_open_dead(DLT_EN10MB, 65535);
	int err = 0;

	if (!p)
		return -ENOMEM;
	if (pcap_compile(p, &f->program, expr, 1, PCAP_NETMASK_UNKNOWN)) {
		log_error("filter: '%s': %s (see pcap-filter(7))", expr, pcap_geterr(p));
		err = -EINVAL;
	} else {
		f->has_program = true;
	}
	pcap_close(p);
	return err;
}

int filter_new(struct filter **out, const char *iface, const char *expr)
{
	struct filter *f = calloc(1, sizeof(*f));
	int err = 0;

	if (!f)
		return -ENOMEM;
	f->route_fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (f->route_fd < 0) {
		err = -errno;
		log_error("filter: cannot ask for routes: %s", strerror(-err));
		goto fail;
	}
	f->netns = own_netns();
	if (strcmp(iface, "any") != 0) {
		if (strlen(iface) >= sizeof(f->iface) || !if_nametoindex(iface)) {
			log_error("filter: no interface '%s' here: `ip link` lists them, `-I any` "
				  "takes all",
				  iface);
			err = -ENODEV;
			goto fail;
		}
		snprintf(f->iface, sizeof(f->iface), "%s", iface);
		filter_refresh(f);
	}
	if (expr)
		err = compile(f, expr);
	if (err)
		goto fail;
	*out = f;
	return 0;
fail:
	filter_free(f);
	return err;
}

void filter_free(struct filter *f)
{
	if (!f)
		return;
	if (f->has_program)
		pcap_freecode(&f->program);
	if (f->route_fd >= 0)
		close(f->route_fd);
	free(f);
}

static size_t put_attr(struct nlmsghdr *h, unsigned short type, const void *p, size_t len)
{
	struct rtattr *a = (struct rtattr *)(void *)((char *)h + NLMSG_ALIGN(h->nlmsg_len));

	a->rta_type = type;
	a->rta_len = (unsigned short)RTA_LENGTH(len);
	memcpy(RTA_DATA(a), p, len);
	h->nlmsg_len = (uint32_t)(NLMSG_ALIGN(h->nlmsg_len) + RTA_ALIGN(a->rta_len));
	return h->nlmsg_len;
}

/* Interface that the kernel would use to reach the peer; 0 when it does not say (rtnetlink(7)). */
static unsigned route_interface(const struct filter *f, const struct sslc_ev_open *open)
{
	size_t alen = open->family == 4 ? 4 : 16;
	struct {
		struct nlmsghdr h;
		struct rtmsg r;
		char room[128];
	} q = {.h = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct rtmsg)),
		     .nlmsg_type = RTM_GETROUTE,
		     .nlmsg_flags = NLM_F_REQUEST},
	       .r = {.rtm_family = open->family == 4 ? AF_INET : AF_INET6,
		     .rtm_dst_len = (unsigned char)(alen * 8),
		     .rtm_src_len = (unsigned char)(alen * 8)}};
	union {
		struct nlmsghdr h;
		char bytes[4096];
	} a;
	ssize_t n;

	put_attr(&q.h, RTA_DST, open->remote_addr, alen);
	put_attr(&q.h, RTA_SRC, open->local_addr, alen);
	if (send(f->route_fd, &q, q.h.nlmsg_len, 0) < 0)
		return 0;
	n = recv(f->route_fd, &a, sizeof(a), 0); /* the kernel answers within send() */
	if (n < (ssize_t)NLMSG_LENGTH(sizeof(struct rtmsg)) || a.h.nlmsg_type != RTM_NEWROUTE)
		return 0;
	int left = (int)RTM_PAYLOAD(&a.h);
	for (struct rtattr *t = RTM_RTA(NLMSG_DATA(&a.h)); RTA_OK(t, left); t = RTA_NEXT(t, left))
		if (t->rta_type == RTA_OIF)
			return *(unsigned *)RTA_DATA(t);
	return 0;
}

static bool on_interface(const struct filter *f, const struct sslc_ev_open *open)
{
	if (open->netns != f->netns)
		return false;
	for (size_t i = 0; i < f->n_addrs; i++)
		if (f->addrs[i].family == open->family &&
		    memcmp(f->addrs[i].bytes, open->local_addr, open->family == 4 ? 4 : 16) == 0)
			return true;
	return f->ifindex && route_interface(f, open) == f->ifindex;
}

/* The SYN of this connection as an Ethernet frame; returns its length. */
static size_t make_syn(uint8_t frame[128], const struct sslc_ev_open *open)
{
	bool local_is_client = open->role != SSLC_ROLE_SERVER;
	const uint8_t *src = local_is_client ? open->local_addr : open->remote_addr;
	const uint8_t *dst = local_is_client ? open->remote_addr : open->local_addr;
	struct tcphdr tcp = {.th_off = 5, .th_flags = TH_SYN};
	size_t at = ETHER_LEN;

	memset(frame, 0, 128);
	if (open->family == 4) {
		struct iphdr ip = {.version = 4,
				   .ihl = 5,
				   .ttl = 64,
				   .protocol = IPPROTO_TCP,
				   .tot_len = htons(40)};

		frame[12] = 0x08; /* 0x0800: IPv4 */
		memcpy(&ip.saddr, src, 4);
		memcpy(&ip.daddr, dst, 4);
		memcpy(frame + at, &ip, sizeof(ip));
		at += sizeof(ip);
	} else {
		struct ip6_hdr ip = {.ip6_flow = htonl(6u << 28),
				     .ip6_plen = htons(20),
				     .ip6_nxt = IPPROTO_TCP,
				     .ip6_hlim = 64};

		frame[12] = 0x86; /* 0x86dd: IPv6 */
		frame[13] = 0xdd;
		memcpy(&ip.ip6_src, src, 16);
		memcpy(&ip.ip6_dst, dst, 16);
		memcpy(frame + at, &ip, sizeof(ip));
		at += sizeof(ip);
	}
	tcp.th_sport = htons(local_is_client ? open->local_port : open->remote_port);
	tcp.th_dport = htons(local_is_client ? open->remote_port : open->local_port);
	memcpy(frame + at, &tcp, sizeof(tcp));
	return at + sizeof(tcp);
}

static bool program_accepts(const struct filter *f, const struct sslc_ev_open *open)
{
	uint8_t frame[128];
	struct pcap_pkthdr h = {0};

	h.caplen = h.len = (bpf_u_int32)make_syn(frame, open);
	return pcap_offline_filter(&f->program, &h, frame) != 0;
}

bool filter_wants(struct filter *f, const struct sslc_ev_open *open)
{
	if (f->iface[0] && !on_interface(f, open))
		return false;
	return !f->has_program || program_accepts(f, open);
}
