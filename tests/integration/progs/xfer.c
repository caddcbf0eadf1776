/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xfer: one TLS connection, both directions at once, with the difficult ways to call the library.
 * xfer server|client ADDR PORT CERT KEY SENDSPEC RECVTOTAL [nonblock] [partial] [ex] [tiny] [tls12]
 * [pauseMS: wait before the connection is used first]
 * SENDSPEC: SIZE[xCOUNT],…  one SSL_write for each. Prints "sent N SHA256", "got N SHA256", "port
 * P" and how often a call had to be repeated. Counts only what the library says it took.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct job {
	size_t size, count;
};

static bool opt_nonblock, opt_partial, opt_ex, opt_tiny, opt_tls12, is_server;
static struct job jobs[64];
static size_t n_jobs, n_retries, n_partial;
static unsigned opt_pause_ms;
static uint64_t prng = 88172645463325252ull;

static void die(const char *what)
{
	fprintf(stderr, "xfer: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint8_t next_byte(void)
{
	prng ^= prng << 13;
	prng ^= prng >> 7;
	prng ^= prng << 17;
	return (uint8_t)(prng >> 32);
}

static void read_spec(char *spec)
{
	for (char *w = strtok(spec, ","); w && n_jobs < 64; w = strtok(NULL, ",")) {
		char *x = strchr(w, 'x');

		jobs[n_jobs].size = strtoull(w, NULL, 10);
		jobs[n_jobs++].count = x ? strtoull(x + 1, NULL, 10) : 1;
	}
}

static void shrink(int fd)
{
	int n = 4096;

	if (!opt_tiny)
		return;
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &n, sizeof(n));
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &n, sizeof(n));
}

static socklen_t address(struct sockaddr_storage *ss, const char *addr, int port)
{
	struct sockaddr_in *v4 = (void *)ss;
	struct sockaddr_in6 *v6 = (void *)ss;

	memset(ss, 0, sizeof(*ss));
	if (inet_pton(AF_INET, addr, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons((uint16_t)port);
		return sizeof(*v4);
	}
	if (inet_pton(AF_INET6, addr, &v6->sin6_addr) != 1)
		die("address");
	v6->sin6_family = AF_INET6;
	v6->sin6_port = htons((uint16_t)port);
	return sizeof(*v6);
}

static int tcp_open(const char *addr, int port)
{
	struct sockaddr_storage ss;
	socklen_t len = address(&ss, addr, port);
	int fd = socket(ss.ss_family, SOCK_STREAM, 0), one = 1, peer;

	if (fd < 0)
		die("socket");
	shrink(fd);
	if (!is_server) {
		if (connect(fd, (struct sockaddr *)&ss, len))
			die("connect");
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		return fd;
	}
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&ss, len) || listen(fd, 1))
		die("listen");
	puts("listening");
	fflush(stdout);
	peer = accept(fd, NULL, NULL);
	if (peer < 0)
		die("accept");
	close(fd);
	shrink(peer);
	return peer;
}

static SSL *tls_open(int fd, const char *cert, const char *key)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_method());
	SSL *ssl;

	if (opt_tls12)
		SSL_CTX_set_max_proto_version(ctx, TLS1_2_VERSION);
	if (is_server && (SSL_CTX_use_certificate_file(ctx, cert, SSL_FILETYPE_PEM) != 1 ||
			  SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1))
		die("certificate");
	ssl = SSL_new(ctx);
	SSL_set_fd(ssl, fd);
	SSL_set_mode(ssl, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	if (opt_partial)
		SSL_set_mode(ssl, SSL_MODE_ENABLE_PARTIAL_WRITE);
	if ((is_server ? SSL_accept(ssl) : SSL_connect(ssl)) != 1)
		die("handshake");
	return ssl;
}

/* Bytes taken, 0 when it has to be repeated. */
static size_t write_some(SSL *ssl, const uint8_t *p, size_t len)
{
	size_t done = 0;
	int ret;

	if (opt_ex) {
		ret = SSL_write_ex(ssl, p, len, &done);
	} else {
		ret = SSL_write(ssl, p, (int)len);
		done = ret > 0 ? (size_t)ret : 0;
	}
	if (ret > 0) {
		n_partial += done < len;
		return done;
	}
	ret = SSL_get_error(ssl, ret);
	if (ret != SSL_ERROR_WANT_WRITE && ret != SSL_ERROR_WANT_READ)
		die("write");
	n_retries++;
	return 0;
}

/* Bytes read, 0 when none are there now, -1 at the end. */
static ssize_t read_some(SSL *ssl, uint8_t *p, size_t len)
{
	size_t done = 0;
	int ret;

	if (opt_ex) {
		ret = SSL_read_ex(ssl, p, len, &done);
	} else {
		ret = SSL_read(ssl, p, (int)len);
		done = ret > 0 ? (size_t)ret : 0;
	}
	if (ret > 0)
		return (ssize_t)done;
	ret = SSL_get_error(ssl, ret);
	if (ret == SSL_ERROR_WANT_READ || ret == SSL_ERROR_WANT_WRITE)
		return 0;
	if (ret != SSL_ERROR_ZERO_RETURN)
		fprintf(stderr, "xfer: read: error %d\n", ret);
	return -1;
}

struct half {
	EVP_MD_CTX *md;
	size_t total;
};

static void tell(const char *what, struct half *h)
{
	uint8_t out[32];

	EVP_DigestFinal_ex(h->md, out, NULL);
	printf("%s %zu ", what, h->total);
	for (int i = 0; i < 32; i++)
		printf("%02x", out[i]);
	putchar('\n');
}

static void count(struct half *h, const uint8_t *p, size_t n)
{
	EVP_DigestUpdate(h->md, p, n);
	h->total += n;
}

/* The current call's buffer: fresh bytes for every call, sent from `done` onwards. */
struct out {
	uint8_t *buf;
	size_t job, turn, len, done;
};

static bool next_call(struct out *o)
{
	while (o->job < n_jobs && o->turn == jobs[o->job].count) {
		o->job++;
		o->turn = 0;
	}
	if (o->job == n_jobs)
		return false;
	o->turn++;
	o->len = jobs[o->job].size;
	o->done = 0;
	for (size_t i = 0; i < o->len; i++)
		o->buf[i] = next_byte();
	return true;
}

static void wait_for(int fd, bool more_out)
{
	struct pollfd p = {.fd = fd, .events = (short)(POLLIN | (more_out ? POLLOUT : 0))};

	if (poll(&p, 1, 20000) == 0)
		die("nothing for 20 s");
}

static void move_nonblocking(SSL *ssl, int fd, struct half *sent, struct half *got, size_t expect)
{
	static uint8_t in[70000];
	struct out o = {.buf = malloc(8u << 20)};
	bool more = next_call(&o);

	fcntl(fd, F_SETFL, O_NONBLOCK);
	while (more || got->total < expect) {
		size_t w = more ? write_some(ssl, o.buf + o.done, o.len - o.done) : 0;
		ssize_t r = 0;

		if (got->total < expect) /* what follows is the peer's goodbye */
			r = read_some(ssl, in, 1 + got->total % sizeof(in));
		if (r > 0)
			count(got, in, (size_t)r);
		if (w) {
			count(sent, o.buf + o.done, w);
			o.done += w;
			if (o.done == o.len)
				more = next_call(&o);
		}
		if (r < 0)
			die("peer left early");
		if (!w && !r)
			wait_for(fd, more);
	}
	free(o.buf);
}

static void send_blocking(SSL *ssl, struct half *sent)
{
	struct out o = {.buf = malloc(8u << 20)};

	while (next_call(&o)) {
		while (o.done < o.len) {
			size_t w = write_some(ssl, o.buf + o.done, o.len - o.done);

			count(sent, o.buf + o.done, w);
			o.done += w;
		}
	}
	free(o.buf);
}

static void recv_blocking(SSL *ssl, struct half *got, size_t expect)
{
	static uint8_t in[70000];

	while (got->total < expect) {
		ssize_t r = read_some(ssl, in, 1 + got->total % sizeof(in));

		if (r < 0)
			die("peer left early");
		count(got, in, (size_t)r);
	}
}

static void options(int argc, char **argv)
{
	for (int i = 8; i < argc; i++) {
		opt_nonblock |= !strcmp(argv[i], "nonblock");
		opt_partial |= !strcmp(argv[i], "partial");
		opt_ex |= !strcmp(argv[i], "ex");
		opt_tiny |= !strcmp(argv[i], "tiny");
		opt_tls12 |= !strcmp(argv[i], "tls12");
		if (!strncmp(argv[i], "pause", 5))
			opt_pause_ms = (unsigned)atoi(argv[i] + 5);
	}
}

static int client_port(int fd)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);

	if (is_server)
		getpeername(fd, (struct sockaddr *)&ss, &len);
	else
		getsockname(fd, (struct sockaddr *)&ss, &len);
	return ntohs(((struct sockaddr_in *)&ss)->sin_port); /* same place in sockaddr_in6 */
}

int main(int argc, char **argv)
{
	struct half sent = {.md = EVP_MD_CTX_new()}, got = {.md = EVP_MD_CTX_new()};
	size_t expect;
	SSL *ssl;
	int fd;

	if (argc < 8)
		return 2;
	is_server = !strcmp(argv[1], "server");
	options(argc, argv);
	read_spec(argv[6]);
	expect = strtoull(argv[7], NULL, 10);
	if (is_server)
		prng ^= 0x9e3779b97f4a7c15ull;
	EVP_DigestInit_ex(sent.md, EVP_sha256(), NULL);
	EVP_DigestInit_ex(got.md, EVP_sha256(), NULL);
	usleep(opt_pause_ms * 1000);
	fd = tcp_open(argv[2], atoi(argv[3]));
	ssl = tls_open(fd, argv[4], argv[5]);
	if (opt_nonblock) {
		move_nonblocking(ssl, fd, &sent, &got, expect);
	} else if (is_server) {
		recv_blocking(ssl, &got, expect);
		send_blocking(ssl, &sent);
	} else {
		send_blocking(ssl, &sent);
		recv_blocking(ssl, &got, expect);
	}
	fcntl(fd, F_SETFL, 0);
	/* The second call waits for the peer's close_notify: nothing is left unread at close. */
	if (SSL_shutdown(ssl) == 0)
		SSL_shutdown(ssl);
	tell("sent", &sent);
	tell("got", &got);
	printf("port %d\nretries %zu partial %zu\n", client_port(fd), n_retries, n_partial);
	SSL_free(ssl);
	close(fd);
	return 0;
}
