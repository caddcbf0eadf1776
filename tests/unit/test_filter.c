/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of agent/filter.c: verdicts of expressions for both ends of a connection; interfaces
 * in a network namespace of our own, with an address and a route, when there is the privilege for
 * one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "filter.h"

#include "base/log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/ipv6.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <net/route.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define OUTER "sslctfv0" /* the interface under test; the kernel names its other end veth0 */

static uint32_t own_netns(void)
{
	struct stat st;

	assert_int_equal(stat("/proc/self/ns/net", &st), 0);
	return (uint32_t)st.st_ino;
}

/* A connection seen at its client's end. */
static struct sslc_ev_open connection(const char *client, unsigned client_port, const char *server,
				      unsigned server_port)
{
	struct sslc_ev_open ev = {
		.family = strchr(client, ':') ? 6 : 4,
		.role = SSLC_ROLE_CLIENT,
		.netns = own_netns(),
		.local_port = (uint16_t)client_port,
		.remote_port = (uint16_t)server_port,
	};
	int family = ev.family == 4 ? AF_INET : AF_INET6;

	assert_int_equal(inet_pton(family, client, ev.local_addr), 1);
	assert_int_equal(inet_pton(family, server, ev.remote_addr), 1);
	return ev;
}

/* The same connection seen at its server's end. */
static struct sslc_ev_open at_server(const struct sslc_ev_open *ev)
{
	struct sslc_ev_open o = *ev;

	o.role = SSLC_ROLE_SERVER;
	o.local_port = ev->remote_port;
	o.remote_port = ev->local_port;
	memcpy(o.local_addr, ev->remote_addr, 16);
	memcpy(o.remote_addr, ev->local_addr, 16);
	return o;
}

/* The verdict, which must not depend on the end that is captured. */
static bool wants(const char *expr, struct sslc_ev_open ev)
{
	struct sslc_ev_open other = at_server(&ev);
	struct filter *f = NULL;
	bool verdict;

	assert_int_equal(filter_new(&f, "any", expr), 0);
	verdict = filter_wants(f, &ev);
	assert_int_equal(filter_wants(f, &other), verdict);
	filter_free(f);
	return verdict;
}

static void test_any_without_expression_takes_all(void **state)
{
	struct sslc_ev_open ev = connection("10.0.0.1", 40000, "192.0.2.7", 443);

	(void)state;
	assert_true(wants(NULL, ev));
	ev.netns++; /* a container's */
	assert_true(wants(NULL, ev));
	assert_true(wants(NULL, connection("2001:db8::1", 1, "2001:db8::2", 65535)));
}

static void test_expressions_about_ports(void **state)
{
	struct sslc_ev_open ev = connection("10.0.0.1", 40000, "192.0.2.7", 443);

	(void)state;
	assert_true(wants("port 443", ev));
	assert_true(wants("tcp dst port 443", ev)); /* judged on the SYN: towards the server */
	assert_false(wants("src port 443", ev));
	assert_true(wants("src port 40000", ev));
	assert_false(wants("not port 443", ev));
	assert_true(wants("portrange 400-500", ev));
	assert_false(wants("udp port 443", ev));
	assert_true(wants("tcp[tcpflags] == tcp-syn", ev));
}

static void test_expressions_about_hosts_and_nets(void **state)
{
	struct sslc_ev_open ev = connection("10.9.1.1", 40000, "192.0.2.7", 443);

	(void)state;
	assert_true(wants("host 192.0.2.7", ev));
	assert_true(wants("dst host 192.0.2.7", ev));
	assert_false(wants("src host 192.0.2.7", ev));
	assert_true(wants("src net 10.9.0.0/16", ev));
	assert_false(wants("port 443 and not net 10.9.0.0/16", ev));
	assert_true(wants("port 443 and not net 10.8.0.0/16", ev));
	assert_false(wants("ip6", ev));
	assert_true(wants("", ev));
}

static void test_expressions_about_ipv6(void **state)
{
	struct sslc_ev_open ev = connection("2001:db8:1::5", 40000, "2001:db8:2::7", 8443);

	(void)state;
	assert_true(wants("ip6", ev));
	assert_false(wants("ip", ev));
	assert_true(wants("tcp port 8443", ev));
	assert_true(wants("dst host 2001:db8:2::7", ev));
	assert_true(wants("src net 2001:db8:1::/48", ev));
	assert_false(wants("not src net 2001:db8:1::/48", ev));
	assert_false(wants("host 2001:db8:2::8", ev));
}

static int new_fails(const char *iface, const char *expr)
{
	struct filter *f = (void *)1;
	int err;

	log_set_level((enum log_level) - 1); /* the line for the user is not what is tested */
	err = filter_new(&f, iface, expr);
	log_set_level(LOG_INFO);
	assert_ptr_equal(f, (void *)1); /* written only on success */
	return err;
}

static void test_wrong_expressions_are_refused(void **state)
{
	(void)state;
	assert_int_equal(new_fails("any", "port"), -EINVAL);
	assert_int_equal(new_fails("any", "prot 443"), -EINVAL);
	assert_int_equal(new_fails("any", "port 443 and"), -EINVAL);
	assert_int_equal(new_fails("any", "net 10.0.0.0/33"), -EINVAL);
	assert_int_equal(new_fails("any", "((port 443)"), -EINVAL);
	assert_int_equal(new_fails("lo", "no such thing"), -EINVAL);
}

static void test_unknown_interfaces_are_refused(void **state)
{
	(void)state;
	assert_int_equal(new_fails("sslc-nowhere0", NULL), -ENODEV);
	assert_int_equal(new_fails("", NULL), -ENODEV);
	assert_int_equal(new_fails("an-interface-name-that-is-far-too-long", NULL), -ENODEV);
}

static void test_loopback_takes_what_stays_on_this_host(void **state)
{
	struct sslc_ev_open ev = connection("127.0.0.1", 40000, "127.0.0.1", 443);
	struct sslc_ev_open out = connection("10.255.254.253", 40000, "192.0.2.7", 443);
	struct filter *f;

	(void)state;
	assert_int_equal(filter_new(&f, "lo", "port 443"), 0);
	assert_true(filter_wants(f, &ev));
	assert_false(filter_wants(f, &out));
	ev.remote_port = 444; /* both conditions hold */
	assert_false(filter_wants(f, &ev));
	filter_free(f);
	filter_free(NULL);
}

static void test_named_interface_refuses_another_network_namespace(void **state)
{
	struct sslc_ev_open ev = connection("127.0.0.1", 40000, "127.0.0.1", 443);
	struct filter *f;

	(void)state;
	assert_int_equal(filter_new(&f, "lo", NULL), 0);
	assert_true(filter_wants(f, &ev));
	ev.netns++;
	assert_false(filter_wants(f, &ev));
	filter_free(f);
}

/* --- a network namespace of our own -------------------------------------------------------------
 */

/* A pair of connected interfaces, OUTER and one that the kernel names. 0 or -errno. */
static int make_veth(void)
{
	struct {
		struct nlmsghdr h;
		struct ifinfomsg i;
		struct rtattr name;
		char name_text[12];
		struct rtattr info, kind;
		char kind_text[8];
	} q = {
		.h = {.nlmsg_len = sizeof(q),
		      .nlmsg_type = RTM_NEWLINK,
		      .nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK},
		.name = {RTA_LENGTH(sizeof(q.name_text)), IFLA_IFNAME},
		.name_text = OUTER,
		.info = {RTA_LENGTH(sizeof(q.kind) + sizeof(q.kind_text)), IFLA_LINKINFO},
		.kind = {RTA_LENGTH(5), IFLA_INFO_KIND},
		.kind_text = "veth",
	};
	struct {
		struct nlmsghdr h;
		struct nlmsgerr e;
		char rest[512];
	} a = {.e.error = -EIO};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	if (fd < 0 || send(fd, &q, sizeof(q), 0) < 0 || recv(fd, &a, sizeof(a), 0) < 0)
		a.e.error = -errno;
	if (fd >= 0)
		close(fd);
	return a.e.error;
}

static void set_up(const char *iface)
{
	struct ifreq r = {.ifr_flags = IFF_UP | IFF_RUNNING};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", iface);
	assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &r), 0);
	close(fd);
}

static void set_address4(const char *iface, const char *addr)
{
	struct ifreq r = {0};
	struct sockaddr_in *a = (struct sockaddr_in *)&r.ifr_addr;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", iface);
	a->sin_family = AF_INET;
	assert_int_equal(inet_pton(AF_INET, addr, &a->sin_addr), 1);
	assert_int_equal(ioctl(fd, SIOCSIFADDR, &r), 0);
	assert_int_equal(inet_pton(AF_INET, "255.255.255.0", &a->sin_addr), 1);
	assert_int_equal(ioctl(fd, SIOCSIFNETMASK, &r), 0);
	close(fd);
}

static int set_address6(const char *iface, const char *addr)
{
	struct in6_ifreq r = {.ifr6_prefixlen = 64, .ifr6_ifindex = (int)if_nametoindex(iface)};
	int err = 0, fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	assert_int_equal(inet_pton(AF_INET6, addr, &r.ifr6_addr), 1);
	if (fd < 0 || ioctl(fd, SIOCSIFADDR, &r))
		err = -errno;
	if (fd >= 0)
		close(fd);
	return err;
}

static void set_route(const char *net, const char *gateway)
{
	struct rtentry r = {.rt_flags = RTF_UP | RTF_GATEWAY};
	struct sockaddr_in *dst = (struct sockaddr_in *)&r.rt_dst,
			   *gw = (struct sockaddr_in *)&r.rt_gateway,
			   *mask = (struct sockaddr_in *)&r.rt_genmask;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	dst->sin_family = gw->sin_family = mask->sin_family = AF_INET;
	assert_int_equal(inet_pton(AF_INET, net, &dst->sin_addr), 1);
	assert_int_equal(inet_pton(AF_INET, gateway, &gw->sin_addr), 1);
	assert_int_equal(inet_pton(AF_INET, "255.255.255.0", &mask->sin_addr), 1);
	assert_int_equal(ioctl(fd, SIOCADDRT, &r), 0);
	close(fd);
}

struct own_net {
	int back; /* the namespace we came from */
	struct filter *f;
};

/*
 * OUTER has 10.77.1.1/24 and the way to 198.51.100.0/24; lo has 10.88.1.1/24 besides its own.
 */
static int enter_own_net(void **state)
{
	struct own_net *o = calloc(1, sizeof(*o));
	int err = 0;

	o->back = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	if (o->back < 0 || unshare(CLONE_NEWNET))
		err = -errno;
	else
		err = make_veth();
	if (err) {
		print_message("SKIP: no network namespace with interfaces of our own: %s\n",
			      strerror(-err));
		if (o->back >= 0) {
			(void)!setns(o->back, CLONE_NEWNET);
			close(o->back);
		}
		free(o);
		*state = NULL;
		return 0;
	}
	set_up("lo");
	set_up(OUTER);
	set_up("veth0");
	set_address4(OUTER, "10.77.1.1");
	set_address4("lo:1", "10.88.1.1");
	set_route("198.51.100.0", "10.77.1.2");
	assert_int_equal(filter_new(&o->f, OUTER, NULL), 0);
	*state = o;
	return 0;
}

static int leave_own_net(void **state)
{
	struct own_net *o = *state;

	if (!o)
		return 0;
	filter_free(o->f);
	assert_int_equal(setns(o->back, CLONE_NEWNET), 0);
	close(o->back);
	free(o);
	return 0;
}

static struct filter *filter_or_skip(void **state)
{
	if (!*state)
		skip();
	return ((struct own_net *)*state)->f;
}

static bool verdict(struct filter *f, const char *local, const char *remote)
{
	struct sslc_ev_open ev = connection(local, 40000, remote, 443), server = at_server(&ev);
	bool first = filter_wants(f, &ev);

	/* Who connected is not what makes a connection one of this interface. */
	memcpy(server.local_addr, ev.local_addr, 16);
	memcpy(server.remote_addr, ev.remote_addr, 16);
	assert_int_equal(filter_wants(f, &server), first);
	return first;
}

static void test_interface_takes_its_own_address(void **state)
{
	struct filter *f = filter_or_skip(state);

	assert_true(verdict(f, "10.77.1.1", "203.0.113.9")); /* wherever the peer is */
	assert_false(verdict(f, "127.0.0.1", "127.0.0.1"));
	assert_false(verdict(f, "10.77.1.9", "10.77.1.2")); /* nobody's address */
}

static void test_interface_takes_peers_that_are_routed_through_it(void **state)
{
	struct filter *f = filter_or_skip(state);

	assert_true(verdict(f, "10.88.1.1", "198.51.100.5"));
	assert_true(verdict(f, "10.88.1.1", "10.77.1.200"));
	assert_false(verdict(f, "10.88.1.1", "203.0.113.9")); /* no route there */
	assert_false(verdict(f, "10.88.1.1", "10.88.1.1"));
}

static void test_loopback_takes_connections_of_the_host_with_itself(void **state)
{
	struct filter *lo;

	(void)filter_or_skip(state);
	assert_int_equal(filter_new(&lo, "lo", NULL), 0);
	assert_true(verdict(lo, "10.77.1.1", "10.77.1.1")); /* its packets go through lo */
	assert_false(verdict(lo, "10.77.1.1", "198.51.100.5"));
	filter_free(lo);
}

static void test_new_address_counts_after_a_refresh(void **state)
{
	struct filter *f = filter_or_skip(state);

	assert_false(verdict(f, "10.99.1.1", "203.0.113.9"));
	set_address4(OUTER ":2", "10.99.1.1");
	assert_false(verdict(f, "10.99.1.1", "203.0.113.9"));
	filter_refresh(f);
	assert_true(verdict(f, "10.99.1.1", "203.0.113.9"));
}

static void test_ipv6_addresses_and_routes_count(void **state)
{
	struct filter *f = filter_or_skip(state);

	if (set_address6(OUTER, "2001:db8:77::1")) {
		print_message("SKIP: no IPv6 here\n");
		skip();
	}
	assert_int_equal(set_address6("lo", "2001:db8:88::1"), 0);
	filter_refresh(f);
	assert_true(verdict(f, "2001:db8:77::1", "2001:db8:ffff::9"));
	assert_true(verdict(f, "2001:db8:88::1", "2001:db8:77::2"));
	assert_false(verdict(f, "2001:db8:88::1", "2001:db8:88::1"));
	assert_false(verdict(f, "2001:db8:88::1", "2001:db8:ffff::9"));
}

static void test_refused_in_the_namespace_that_we_came_from(void **state)
{
	struct filter *f = filter_or_skip(state);
	struct sslc_ev_open ev = connection("10.77.1.1", 40000, "198.51.100.5", 443);
	struct stat st;

	assert_true(filter_wants(f, &ev));
	assert_int_equal(fstat(((struct own_net *)*state)->back, &st), 0);
	ev.netns = (uint32_t)st.st_ino;
	assert_false(filter_wants(f, &ev));
}

int main(void)
{
#define OWN_NET(test) cmocka_unit_test_setup_teardown(test, enter_own_net, leave_own_net)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_any_without_expression_takes_all),
		cmocka_unit_test(test_expressions_about_ports),
		cmocka_unit_test(test_expressions_about_hosts_and_nets),
		cmocka_unit_test(test_expressions_about_ipv6),
		cmocka_unit_test(test_wrong_expressions_are_refused),
		cmocka_unit_test(test_unknown_interfaces_are_refused),
		cmocka_unit_test(test_loopback_takes_what_stays_on_this_host),
		cmocka_unit_test(test_named_interface_refuses_another_network_namespace),
		OWN_NET(test_interface_takes_its_own_address),
		OWN_NET(test_interface_takes_peers_that_are_routed_through_it),
		OWN_NET(test_loopback_takes_connections_of_the_host_with_itself),
		OWN_NET(test_new_address_counts_after_a_refresh),
		OWN_NET(test_ipv6_addresses_and_routes_count),
		OWN_NET(test_refused_in_the_namespace_that_we_came_from),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
