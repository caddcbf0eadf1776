/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sockfacts: see sockfacts.h. The descriptor is held for the few microseconds of some questions:
 * while it is, the process's own close() would not end the connection.
 */
#include "preloaded/sockfacts.h"

#include "preloaded/apart.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif
#ifndef SO_COOKIE
#define SO_COOKIE 57
#endif
#ifndef SIOCGSKNS
#define SIOCGSKNS 0x894C
#endif
#ifndef SIOCOUTQNSD
#define SIOCOUTQNSD 0x894B
#endif

#define CLOSE_NS 1000000 /* longest wait for a socket to end */

enum { STATE_ESTABLISHED = 1, STATE_CLOSE_WAIT = 8 }; /* include/net/tcp_states.h */

static int option(int s, int level, int name)
{
	socklen_t len = sizeof(int);
	int v = -1;

	return getsockopt(s, level, name, &v, &len) ? -1 : v;
}

/* IPv4-mapped IPv6 is IPv4 (RFC 4291, 2.5.5.2). */
static bool put_address(const struct sockaddr_storage *a, uint8_t addr[16], uint16_t *port,
			uint8_t *family)
{
	const struct sockaddr_in6 *six = (const void *)a;
	const struct sockaddr_in *four = (const void *)a;

	memset(addr, 0, 16);
	if (a->ss_family == AF_INET) {
		memcpy(addr, &four->sin_addr, 4);
		*port = ntohs(four->sin_port);
		*family = 4;
		return true;
	}
	if (a->ss_family != AF_INET6)
		return false;
	*port = ntohs(six->sin6_port);
	*family = IN6_IS_ADDR_V4MAPPED(&six->sin6_addr) ? 4 : 6;
	if (*family == 4)
		memcpy(addr, six->sin6_addr.s6_addr + 12, 4);
	else
		memcpy(addr, &six->sin6_addr, 16);
	return true;
}

static int put_tuple(int s, struct sslc_ev_open *out)
{
	struct sockaddr_storage local, remote;
	socklen_t n = sizeof(local), m = sizeof(remote);
	uint8_t family;

	if (getsockname(s, (struct sockaddr *)&local, &n) ||
	    getpeername(s, (struct sockaddr *)&remote, &m))
		return -errno;
	if (!put_address(&local, out->local_addr, &out->local_port, &family) ||
	    !put_address(&remote, out->remote_addr, &out->remote_port, &out->family) ||
	    family != out->family)
		return -EPROTONOSUPPORT;
	return 0;
}

static bool tcp_info(int s, struct tcp_info *out)
{
	socklen_t len = sizeof(*out);

	return !getsockopt(s, IPPROTO_TCP, TCP_INFO, out, &len) &&
	       len >= offsetof(struct tcp_info, tcpi_bytes_retrans) +
			       sizeof(out->tcpi_bytes_retrans);
}

/*
 * Who connected: see read_isn() in bpf/sock.bpf.h. Bytes acknowledged count the client's SYN:
 * acknowledged + in flight - sent is 1 at the client, 0 at the server. Read twice, because
 * acknowledgements arrive meanwhile.
 */
static void put_role(int s, struct sslc_ev_open *out)
{
	struct tcp_info a, b;
	int queued, unsent;
	uint64_t syn;

	if (!tcp_info(s, &a))
		return;
	out->mss = (uint16_t)a.tcpi_snd_mss;
	for (int i = 0; i < 4; i++, a = b) {
		if (a.tcpi_state != STATE_ESTABLISHED && a.tcpi_state != STATE_CLOSE_WAIT)
			return;
		if (ioctl(s, SIOCOUTQ, &queued) || ioctl(s, SIOCOUTQNSD, &unsent) ||
		    !tcp_info(s, &b))
			return;
		if (a.tcpi_bytes_acked != b.tcpi_bytes_acked ||
		    a.tcpi_bytes_sent != b.tcpi_bytes_sent)
			continue;
		syn = a.tcpi_bytes_acked + (uint64_t)(queued - unsent) -
		      (a.tcpi_bytes_sent - a.tcpi_bytes_retrans);
		if (syn > 1)
			return;
		out->role = syn ? SSLC_ROLE_CLIENT : SSLC_ROLE_SERVER;
		out->flags |= SSLC_OPEN_ROLE_EXACT;
		return;
	}
}

static void put_namespace(int s, struct sslc_ev_open *out)
{
	int ns = ioctl(s, SIOCGSKNS);
	struct stat st;

	if (ns < 0)
		return;
	if (!fstat(ns, &st))
		out->netns = (uint32_t)st.st_ino;
	close(ns);
}

int sockfacts_of(int s, struct sslc_ev_open *out, uint64_t *cookie)
{
	int domain = option(s, SOL_SOCKET, SO_DOMAIN), err;
	socklen_t len = sizeof(*cookie);

	if (domain < 0 && errno == ENOTSOCK)
		return -ENOTSOCK;
	if ((domain != AF_INET && domain != AF_INET6) ||
	    option(s, SOL_SOCKET, SO_PROTOCOL) != IPPROTO_TCP)
		return -EPROTONOSUPPORT;
	if (getsockopt(s, SOL_SOCKET, SO_COOKIE, cookie, &len))
		return -errno;
	err = put_tuple(s, out);
	if (err)
		return err;
	put_role(s, out);
	put_namespace(s, out);
	return 0;
}

static void wake_up(int sig)
{
	(void)sig;
}

/* Of this thread; a signal of its own that ends what it waits for. */
static bool make_timer(timer_t *out)
{
	struct sigaction sa = {.sa_handler = wake_up}; /* without SA_RESTART */
	struct sigevent how = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN};
	sigset_t mine;

	how.sigev_notify_thread_id = gettid();
	sigemptyset(&mine);
	sigaddset(&mine, SIGRTMIN);
	return !sigaction(SIGRTMIN, &sa, NULL) && !timer_create(CLOCK_MONOTONIC, &how, out) &&
	       !pthread_sigmask(SIG_UNBLOCK, &mine, NULL);
}

/*
 * When the process has closed its own descriptor meanwhile, ours is the last one, and close() waits
 * as long as the process has asked for by SO_LINGER; unless a signal comes.
 */
void sockfacts_close(int s)
{
	static const struct itimerspec never,
		soon = {.it_value.tv_nsec = CLOSE_NS, .it_interval.tv_nsec = CLOSE_NS};
	static _Thread_local bool was_tried, has_timer;
	static _Thread_local timer_t timer;

	if (!was_tried)
		has_timer = make_timer(&timer);
	was_tried = true;
	if (has_timer)
		(void)timer_settime(timer, 0, &soon, NULL);
	close(s);
	if (has_timer)
		(void)timer_settime(timer, 0, &never, NULL);
}

int sockfacts_take(int pidfd, int fd, const struct sockfacts_isn *isn, struct sslc_ev_open *out,
		   uint64_t *cookie)
{
	int s = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0), err;

	if (s < 0)
		return -errno;
	err = sockfacts_of(s, out, cookie);
	if (err == -ENOTSOCK) {
		apart_close(s, APART_ANYBODY);
		return err;
	}
	if (!err && isn->read && isn->read(isn->ctx, s, &out->iss, &out->irs))
		out->flags |= SSLC_OPEN_ISN_VALID;
	sockfacts_close(s);
	return err;
}
