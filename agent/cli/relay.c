/* SPDX-License-Identifier: Apache-2.0 */
/*
 * relay: reads and writes wait; a thread beside them sees that the FIFO's reader is gone or that a
 * signal came, and ends the connection, which ends the copying.
 */
#include "cli/relay.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pcap/pcap.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/log.h"

#define RELAY_CONNECT_S 10
#define RELAY_CHUNK     (64u << 10)
#define RELAY_END_MS    1000 /* for a write that waits for a reader who does not read */

struct relay {
	int sock, fifo, signals;
	atomic_bool ended; /* on purpose */
};

/* Connecting */

static int connect_one(const struct addrinfo *a)
{
	struct timeval tv = {.tv_sec = RELAY_CONNECT_S};
	int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1, err;

	if (fd < 0)
		return -errno;
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)); /* connect(2) minds it */
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	if (!connect(fd, a->ai_addr, a->ai_addrlen))
		return fd;
	err = errno == EINPROGRESS ? -ETIMEDOUT : -errno;
	close(fd);
	return err;
}

static int connect_to(const char *host, uint16_t port)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	struct addrinfo *list = NULL;
	char service[8];
	int err, fd = -EHOSTUNREACH;

	snprintf(service, sizeof(service), "%u", port);
	err = getaddrinfo(host, service, &hints, &list);
	if (err) {
		log_error("extcap: %s: %s", host, gai_strerror(err));
		return -EHOSTUNREACH;
	}
	for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next)
		fd = connect_one(a);
	freeaddrinfo(list);
	if (fd < 0)
		log_error("extcap: %s port %u: cannot connect: %s; does sslcollector run there "
			  "with --pcap-over-ip?",
			  host, port, strerror(-fd));
	return fd;
}

/* The watcher */

static void *watch(void *ctx)
{
	struct relay *r = ctx;
	struct pollfd p[2] = {{.fd = r->fifo}, {.fd = r->signals, .events = POLLIN}};

	while (poll(p, 2, -1) < 0 && errno == EINTR)
		;
	atomic_store(&r->ended, true);
	(void)shutdown(r->sock, SHUT_RDWR);
	(void)poll(NULL, 0, RELAY_END_MS);
	_exit(0);
}

static bool start_watcher(struct relay *r)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, watch, r)) {
		log_error("extcap: no thread to be had");
		return false;
	}
	pthread_detach(thread);
	return true;
}

/* Copying */

static bool write_all(int fd, const uint8_t *p, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno != EINTR)
			return false;
		p += n > 0 ? n : 0;
		len -= n > 0 ? (size_t)n : 0;
	}
	return true;
}

static int copy(struct relay *r)
{
	static uint8_t chunk[RELAY_CHUNK];
	ssize_t n;

	do {
		n = recv(r->sock, chunk, sizeof(chunk), 0);
		if (n > 0 && !write_all(r->fifo, chunk, (size_t)n))
			return 0; /* its reader has gone */
	} while (n > 0 || (n < 0 && errno == EINTR));
	return n < 0 && !atomic_load(&r->ended) ? -errno : 0;
}

/* From the stream's packets those that pass. */
static int pass(struct relay *r, pcap_t *p, pcap_dumper_t *dump)
{
	struct pcap_pkthdr *h;
	const u_char *data;
	int got = 1;

	if (pcap_dump_flush(dump)) /* its reader waits for the header */
		return 0;
	while (got == 1) {
		got = pcap_next_ex(p, &h, &data);
		if (got == 1)
			pcap_dump((u_char *)dump, h, data);
		if (got == 1 && pcap_dump_flush(dump))
			return 0; /* its reader has gone */
	}
	return got == PCAP_ERROR_BREAK || atomic_load(&r->ended) ? 0 : -EIO;
}

static int filter_set(pcap_t *p, const char *filter)
{
	struct bpf_program prog;
	int err = 0;

	if (pcap_compile(p, &prog, filter, 1, PCAP_NETMASK_UNKNOWN)) {
		log_error("extcap: filter: %s", pcap_geterr(p));
		return -EINVAL;
	}
	if (pcap_setfilter(p, &prog))
		err = -ENOMEM;
	pcap_freecode(&prog);
	return err;
}

/* libpcap owns the descriptors from here on. */
static int copy_packets(struct relay *r, const char *filter)
{
	char why[PCAP_ERRBUF_SIZE] = "out of memory";
	FILE *in = fdopen(r->sock, "rb"), *out = fdopen(r->fifo, "wb");
	pcap_t *p = in && out ? pcap_fopen_offline(in, why) : NULL;
	pcap_dumper_t *dump = NULL;
	int err;

	if (!p) {
		log_error("extcap: not a capture: %s", why);
		return -EIO;
	}
	err = filter_set(p, filter);
	if (!err)
		dump = pcap_dump_fopen(p, out); /* writes the header: no reader, no dump */
	if (dump) {
		err = pass(r, p, dump);
		pcap_dump_close(dump);
	}
	pcap_close(p);
	return err;
}

int relay_run(const char *host, uint16_t port, const char *fifo, const char *filter)
{
	struct relay r = {.fifo = -1, .signals = -1};
	sigset_t set;
	int err = -EIO;

	signal(SIGPIPE, SIG_IGN);
	r.sock = connect_to(host, port); /* until here a signal just ends us */
	if (r.sock < 0)
		return 1;
	r.fifo = open(fifo, O_WRONLY | O_CLOEXEC | O_NOCTTY); /* waits for its reader */
	if (r.fifo < 0) {
		log_error("extcap: %s: cannot open: %s", fifo, strerror(errno));
		return 1;
	}
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	r.signals = signalfd(-1, &set, SFD_CLOEXEC);
	if (r.signals < 0 || !start_watcher(&r))
		return 1;
	err = filter ? copy_packets(&r, filter) : copy(&r);
	if (err)
		log_error("extcap: %s port %u: %s", host, port, strerror(-err));
	return err ? 1 : 0;
}
