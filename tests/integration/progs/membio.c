/* SPDX-License-Identifier: Apache-2.0 */
/*
 * membio: N TLS connections whose objects have no socket: memory BIOs or BIO pairs, with the socket
 * operations done around the TLS calls in a good order or in a misleading one.
 * membio server|client ADDR PORT CERT KEY N ROUNDS SIZE [OPTION…]
 * Each round the client sends a message of SIZE bytes ("random": up to 40000, another size each
 * time) and the server answers with as many. Each 32 bytes name connection, direction and offset.
 *   pair    BIO pairs        tls12 chacha cbc   versions and ciphers
 *   direct  receive, TLS, send, one connection after the other (without an option)
 *   batch   receive on all, read all, write all, send all
 *   lag     a receive on one connection, then the TLS calls of the one received on before it
 *   apart   one thread does the sockets, another one the TLS
 *   swap    two threads: each does the sockets of one half, and the TLS of the other half
 *   hold    wait for a line on stdin after the first round
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define BLOCK     32u
#define STAGE_MAX (4u << 20)

struct stage {
	uint8_t *p;
	size_t len;
};

struct conn {
	int fd;
	unsigned port, round;
	SSL *ssl;
	BIO *in, *out;           /* the network's side */
	struct stage recv, send; /* ciphertext between the socket and the BIOs */
	uint64_t got, sent, want;
	bool owes, ended;
};

static struct conn *conns;
static unsigned n_conns, n_rounds, size, hold;
static bool is_server, opt_pair, opt_tls12, held;
static const char *ciphers, *order = "direct";
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static volatile unsigned n_ended;

static void die(const char *what)
{
	fprintf(stderr, "membio: %s: %s\n", what, strerror(errno));
	ERR_print_errors_fp(stderr);
	exit(1);
}

static uint32_t message_len(const struct conn *c, unsigned round)
{
	uint32_t x = c->port * 2654435761u + round * 40503u;

	if (size)
		return size;
	x ^= x >> 15;
	x *= 2246822519u;
	x ^= x >> 13;
	return 1 + x % 40000;
}

/* Byte `at` of the stream that the connection carries in direction dir (0: from the client). */
static uint8_t content(const struct conn *c, unsigned dir, uint64_t at)
{
	static __thread struct {
		unsigned port, dir;
		uint64_t block;
		char text[BLOCK + 1];
	} last;

	if (last.port != c->port || last.dir != dir || last.block != at / BLOCK || !last.text[0]) {
		last.port = c->port;
		last.dir = dir;
		last.block = at / BLOCK;
		snprintf(last.text, sizeof(last.text), "<%05u %u %021llu>\n", c->port, dir,
			 (unsigned long long)last.block);
	}
	return (uint8_t)last.text[at % BLOCK];
}

/* --- sockets ------------------------------------------------------------------------------------
 */

static void append(struct stage *s, const void *p, size_t n)
{
	if (s->len + n > STAGE_MAX)
		die("stage full");
	memcpy(s->p + s->len, p, n);
	s->len += n;
}

static void take(struct stage *s, size_t n)
{
	memmove(s->p, s->p + n, s->len - n);
	s->len -= n;
}

static bool net_recv(struct conn *c)
{
	uint8_t buf[65536];
	ssize_t n = recv(c->fd, buf, sizeof(buf), MSG_DONTWAIT);

	if (n < 0 && errno == EAGAIN)
		return false;
	pthread_mutex_lock(&lock);
	if (n <= 0) {
		c->ended = true;
		n_ended++;
	} else {
		append(&c->recv, buf, (size_t)n);
	}
	pthread_mutex_unlock(&lock);
	return n > 0;
}

static void net_send(struct conn *c)
{
	ssize_t n;

	pthread_mutex_lock(&lock);
	if (c->send.len && !c->ended) {
		n = send(c->fd, c->send.p, c->send.len, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n > 0)
			take(&c->send, (size_t)n);
	}
	pthread_mutex_unlock(&lock);
}

/* --- TLS ----------------------------------------------------------------------------------------
 */

static bool feed(struct conn *c)
{
	int n = 0;

	pthread_mutex_lock(&lock);
	if (c->recv.len)
		n = BIO_write(c->in, c->recv.p, (int)c->recv.len);
	if (n > 0)
		take(&c->recv, (size_t)n);
	pthread_mutex_unlock(&lock);
	return n > 0;
}

static bool drain(struct conn *c)
{
	uint8_t buf[65536];
	int n = BIO_read(c->out, buf, sizeof(buf));

	if (n <= 0)
		return false;
	pthread_mutex_lock(&lock);
	append(&c->send, buf, (size_t)n);
	pthread_mutex_unlock(&lock);
	return true;
}

static void message_done(struct conn *c)
{
	c->round++;
	c->want = message_len(c, c->round);
	if (is_server || c->round < n_rounds)
		c->owes = true;
}

static bool tls_read(struct conn *c)
{
	uint8_t buf[32768];
	int n = SSL_read(c->ssl, buf, sizeof(buf));

	if (n <= 0)
		return false;
	for (int i = 0; i < n; i++)
		if (buf[i] != content(c, !is_server ? 1 : 0, c->got++))
			die("another connection's byte");
	if (c->want < (uint64_t)n)
		die("more than asked for");
	c->want -= (uint64_t)n;
	if (!c->want)
		message_done(c);
	return true;
}

/* Everything that has arrived, as far as TLS goes. */
static void tls_in(struct conn *c)
{
	bool moved = true;

	for (int i = 0; i < 100000 && moved; i++) {
		moved = feed(c);
		if (!SSL_is_init_finished(c->ssl))
			SSL_do_handshake(c->ssl);
		else
			while (tls_read(c))
				moved = true;
		if (opt_pair)
			moved |= drain(c);
	}
}

static void tls_out(struct conn *c)
{
	uint32_t len = message_len(c, c->round - is_server);
	uint8_t *p;
	int n = -1;

	if (!SSL_is_init_finished(c->ssl) || !c->owes ||
	    (hold && !is_server && !held && c->round > 0))
		return;
	p = malloc(len);
	for (uint32_t i = 0; i < len; i++)
		p[i] = content(c, is_server, c->sent + i);
	for (int i = 0; i < 100000 && n <= 0; i++) {
		n = SSL_write(c->ssl, p, (int)len);
		if (n <= 0 && (SSL_get_error(c->ssl, n) != SSL_ERROR_WANT_WRITE || !drain(c)))
			die("SSL_write");
	}
	free(p);
	c->sent += len;
	c->owes = false;
}

static void work(struct conn *c)
{
	tls_in(c);
	tls_out(c);
	while (drain(c))
		;
	net_send(c);
}

static bool is_done(const struct conn *c)
{
	return c->ended || (!is_server && c->round >= n_rounds);
}

/* --- orders -------------------------------------------------------------------------------------
 */

/* The sockets of every step'th connection from first on; true when something is there to read. */
static void await(struct pollfd *pfd, unsigned first, unsigned step, int ms)
{
	unsigned n = 0;

	for (unsigned i = first; i < n_conns; i += step) {
		struct conn *c = &conns[i];

		pfd[n++] = (struct pollfd){.fd = c->ended ? -1 : c->fd,
					   .events = (short)(POLLIN | (c->send.len ? POLLOUT : 0))};
	}
	poll(pfd, n, ms);
}

static bool all_done(void)
{
	for (unsigned i = 0; i < n_conns; i++)
		if (!is_done(&conns[i]))
			return false;
	return true;
}

static void begin(void)
{
	for (unsigned i = 0; i < n_conns; i++) /* the client speaks first */
		if (!is_server)
			work(&conns[i]);
}

/* After the first round, a line on stdin lets the others begin. */
static void go_on(void)
{
	char line[16];

	if (!hold || held || is_server)
		return;
	for (unsigned i = 0; i < n_conns; i++)
		if (conns[i].round < 1)
			return;
	puts("held");
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		die("stdin");
	held = true;
	begin();
}

static void direct(struct pollfd *pfd)
{
	while (!all_done()) {
		await(pfd, 0, 1, 100);
		for (unsigned i = 0; i < n_conns; i++) {
			if (pfd[i].revents & POLLOUT)
				net_send(&conns[i]);
			if (pfd[i].revents & ~POLLOUT && net_recv(&conns[i]))
				work(&conns[i]);
		}
		go_on();
	}
}

static void batch(struct pollfd *pfd)
{
	while (!all_done()) {
		await(pfd, 0, 1, 100);
		poll(NULL, 0, 2); /* let more come in */
		for (unsigned i = 0; i < n_conns; i++)
			if (!conns[i].ended)
				net_recv(&conns[i]);
		for (unsigned i = 0; i < n_conns; i++)
			tls_in(&conns[i]);
		for (unsigned i = 0; i < n_conns; i++)
			tls_out(&conns[i]);
		for (unsigned i = 0; i < n_conns; i++)
			while (drain(&conns[i]))
				;
		for (unsigned i = 0; i < n_conns; i++)
			net_send(&conns[i]);
	}
}

static void lag(struct pollfd *pfd)
{
	struct conn *last = NULL;

	while (!all_done()) {
		await(pfd, 0, 1, last ? 3 : 100);
		if (last && !pfd[0].revents) { /* nobody else came: it cannot wait forever */
			work(last);
			last = NULL;
		}
		for (unsigned i = 0; i < n_conns; i++) {
			if (!(pfd[i].revents & ~POLLOUT) || !net_recv(&conns[i]))
				continue;
			if (last)
				work(last);
			last = &conns[i];
		}
		for (unsigned i = 0; i < n_conns; i++)
			net_send(&conns[i]);
	}
}

static void sockets_of(struct pollfd *pfd, unsigned first, unsigned step)
{
	await(pfd, first, step, 1);
	for (unsigned i = first, n = 0; i < n_conns; i += step, n++) {
		if (pfd[n].revents & ~POLLOUT)
			net_recv(&conns[i]);
	}
}

static void tls_of(unsigned first, unsigned step)
{
	for (unsigned i = first; i < n_conns; i += step) {
		struct conn *c = &conns[i];

		if (!c->recv.len && !c->owes)
			continue;
		tls_in(c);
		tls_out(c);
		while (drain(c))
			;
	}
}

static void *apart_tls(void *arg)
{
	while (!all_done()) {
		tls_of(0, 1);
		poll(NULL, 0, 1);
	}
	return arg;
}

static void apart(struct pollfd *pfd)
{
	pthread_t other;

	if (pthread_create(&other, NULL, apart_tls, NULL))
		die("thread");
	while (!all_done()) {
		sockets_of(pfd, 0, 1);
		for (unsigned i = 0; i < n_conns; i++)
			net_send(&conns[i]);
	}
	pthread_join(other, NULL);
}

static void *swap_half(void *arg)
{
	unsigned me = (unsigned)(uintptr_t)arg;
	struct pollfd *pfd = calloc(n_conns, sizeof(*pfd));

	while (!all_done()) {
		sockets_of(pfd, me, 2);
		tls_of(1 - me, 2);
		for (unsigned i = me; i < n_conns; i += 2)
			net_send(&conns[i]);
	}
	free(pfd);
	return NULL;
}

static void swap(struct pollfd *pfd)
{
	pthread_t other;

	(void)pfd;
	if (pthread_create(&other, NULL, swap_half, (void *)1))
		die("thread");
	swap_half(NULL);
	pthread_join(other, NULL);
}

/* --- set-up -------------------------------------------------------------------------------------
 */

static SSL_CTX *context(const char *cert, const char *key)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_method());

	if (opt_tls12)
		SSL_CTX_set_max_proto_version(ctx, TLS1_2_VERSION);
	if (ciphers && !SSL_CTX_set_cipher_list(ctx, ciphers))
		die("ciphers");
	if (is_server && (SSL_CTX_use_certificate_file(ctx, cert, SSL_FILETYPE_PEM) != 1 ||
			  SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1))
		die("certificate");
	return ctx;
}

static void open_tls(struct conn *c, SSL_CTX *ctx)
{
	BIO *inside, *outside;

	c->ssl = SSL_new(ctx);
	if (opt_pair) {
		if (!BIO_new_bio_pair(&inside, 0, &outside, 0))
			die("BIO pair");
		SSL_set_bio(c->ssl, inside, inside);
		c->in = c->out = outside;
	} else {
		c->in = BIO_new(BIO_s_mem());
		c->out = BIO_new(BIO_s_mem());
		SSL_set_bio(c->ssl, c->in, c->out);
	}
	if (is_server)
		SSL_set_accept_state(c->ssl);
	else
		SSL_set_connect_state(c->ssl);
	c->recv.p = malloc(STAGE_MAX);
	c->send.p = malloc(STAGE_MAX);
	c->want = message_len(c, 0);
	c->owes = !is_server;
}

static int listen_on(const struct sockaddr_in *sa)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (const void *)sa, sizeof(*sa)) || listen(fd, 512))
		die("listen");
	puts("listening");
	fflush(stdout);
	return fd;
}

static void open_all(const char *addr, unsigned port)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)}, us;
	socklen_t len = sizeof(us);
	int one = 1, listener = -1;

	inet_pton(AF_INET, addr, &sa.sin_addr);
	if (is_server)
		listener = listen_on(&sa);
	for (unsigned i = 0; i < n_conns; i++) {
		struct conn *c = &conns[i];

		c->fd = is_server ? accept(listener, (void *)&us, &len)
				  : socket(AF_INET, SOCK_STREAM, 0);
		if (c->fd < 0 || (!is_server && (connect(c->fd, (void *)&sa, sizeof(sa)) ||
						 getsockname(c->fd, (void *)&us, &len))))
			die("connection");
		setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		c->port = ntohs(us.sin_port);
	}
}

static void read_options(int argc, char **argv)
{
	for (int i = 9; i < argc; i++) {
		opt_pair |= !strcmp(argv[i], "pair");
		hold |= !strcmp(argv[i], "hold");
		opt_tls12 |= !strcmp(argv[i], "tls12") || !strcmp(argv[i], "cbc") ||
			     !strcmp(argv[i], "chacha");
		if (!strcmp(argv[i], "cbc"))
			ciphers = "ECDHE-ECDSA-AES256-SHA384";
		else if (!strcmp(argv[i], "chacha"))
			ciphers = "ECDHE-ECDSA-CHACHA20-POLY1305";
		else if (strchr("bdlas", argv[i][0]))
			order = argv[i];
	}
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(struct pollfd *pfd);
	} orders[] = {{"direct", direct},
		      {"batch", batch},
		      {"lag", lag},
		      {"apart", apart},
		      {"swap", swap}};
	struct rlimit files = {4096, 4096};
	struct pollfd *pfd;
	SSL_CTX *ctx;

	if (argc < 9)
		return 2;
	alarm(90);
	setrlimit(RLIMIT_NOFILE, &files);
	is_server = !strcmp(argv[1], "server");
	n_conns = (unsigned)atoi(argv[6]);
	n_rounds = (unsigned)atoi(argv[7]);
	size = (unsigned)atoi(argv[8]);
	read_options(argc, argv);
	conns = calloc(n_conns, sizeof(*conns));
	pfd = calloc(n_conns, sizeof(*pfd));
	ctx = context(argv[4], argv[5]);
	open_all(argv[2], (unsigned)atoi(argv[3]));
	for (unsigned i = 0; i < n_conns; i++)
		open_tls(&conns[i], ctx);
	begin();
	for (unsigned i = 0; i < sizeof(orders) / sizeof(orders[0]); i++)
		if (!strcmp(order, orders[i].name))
			orders[i].run(pfd);
	for (unsigned i = 0; i < n_conns; i++) {
		printf("flow %u %llu %llu\n", conns[i].port, (unsigned long long)conns[i].sent,
		       (unsigned long long)conns[i].got);
		close(conns[i].fd);
		SSL_free(conns[i].ssl);
	}
	puts("done");
	return 0;
}
