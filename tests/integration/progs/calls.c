/* SPDX-License-Identifier: Apache-2.0 */
/*
 * calls: one conversation over TLS, by the ways to call OpenSSL that are not plain read and write.
 * calls server|client ADDR PORT CERT KEY WAY. Prints, a connection, "port P", "sent N SHA256" and
 * "got N SHA256": what the library said it took and gave. Fails when the way was not really gone.
 */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* Who speaks, how much. Ends with a word of the server, so that the client closes first. */
static const struct turn {
	bool client;
	size_t n;
} turns[] = {{true, 100}, {false, 200}, {true, 20000}, {false, 30000}, {true, 1}, {false, 5}};
enum { N_TURNS = sizeof(turns) / sizeof(turns[0]), MIDDLE = 2 };
#define CBC_TIMES 10 /* long enough for several records at once, and for what is left of them */

struct half {
	EVP_MD_CTX *md;
	size_t total;
};

struct talk {
	SSL *ssl;
	BIO *bio;     /* BIO_f_ssl, with WAY "bio" */
	int fd, port; /* the client's */
	struct half sent, got;
	size_t turn;
	pthread_mutex_t lock; /* "threads": whose turn it is, and the object */
	pthread_cond_t next;
};

static const char *way, *cert, *key, *addr;
static bool is_server;
static int port, listener = -1;
static uint64_t prng;
static unsigned n_retries;
/* since 3.3, which need not be the version that this is built with */
static int (*write_ex2)(SSL *, const void *, size_t, uint64_t flags, size_t *written);

static void die(const char *what)
{
	fprintf(stderr, "calls: %s: %s\n", what, strerror(errno));
	ERR_print_errors_fp(stderr);
	exit(1);
}

static bool is_way(const char *name)
{
	return !strcmp(way, name);
}

static void count(struct half *h, const uint8_t *p, size_t n)
{
	EVP_DigestUpdate(h->md, p, n);
	h->total += n;
}

static void tell(const char *what, const struct half *h)
{
	uint8_t out[32];

	EVP_DigestFinal_ex(h->md, out, NULL);
	printf("%s %zu ", what, h->total);
	for (int i = 0; i < 32; i++)
		printf("%02x", out[i]);
	putchar('\n');
}

/* --- one call -----------------------------------------------------------------------------------
 */

/* Wait for what the library wants, and go on; dies of any other error. */
static void retry(struct talk *t, int ret)
{
	int err = SSL_get_error(t->ssl, ret);
	struct pollfd p = {.fd = t->fd, .events = err == SSL_ERROR_WANT_WRITE ? POLLOUT : POLLIN};

	if (err != SSL_ERROR_WANT_READ && err != SSL_ERROR_WANT_WRITE)
		die("call");
	n_retries++;
	if (poll(&p, 1, 20000) <= 0)
		die("nothing for 20 s");
}

static int write_call(struct talk *t, const uint8_t *p, size_t n)
{
	size_t done = 0;

	if (t->bio)
		return BIO_write(t->bio, p, (int)n);
	if (is_way("ex2"))
		return write_ex2(t->ssl, p, n, 0, &done) == 1 ? (int)done : -1;
	if (is_way("ex") || is_way("zero"))
		return SSL_write_ex(t->ssl, p, n, &done) == 1 ? (int)done : -1;
	return SSL_write(t->ssl, p, (int)n);
}

static int read_call(struct talk *t, uint8_t *p, size_t n)
{
	size_t done = 0;

	if (t->bio)
		return BIO_read(t->bio, p, (int)n);
	if (is_way("ex"))
		return SSL_read_ex(t->ssl, p, n, &done) == 1 ? (int)done : -1;
	return SSL_read(t->ssl, p, (int)n);
}

/* The same bytes again, and some of them twice: none of that is data. */
static void peek(struct talk *t)
{
	uint8_t few[3], many[4096];
	size_t done;

	if (is_way("peek"))
		for (int i = 0; i < 2; i++)
			if (SSL_peek(t->ssl, few, sizeof(few)) <= 0 ||
			    SSL_peek(t->ssl, many, sizeof(many)) <= 0)
				die("SSL_peek");
	if (is_way("peek_ex"))
		for (int i = 0; i < 2; i++)
			if (SSL_peek_ex(t->ssl, many, sizeof(many), &done) != 1 || !done)
				die("SSL_peek_ex");
}

static void write_nothing(struct talk *t)
{
	size_t done;

	if (!is_way("zero"))
		return;
	SSL_write(t->ssl, "", 0); /* what it answers differs by version; it sends nothing */
	SSL_write_ex(t->ssl, "", 0, &done);
	ERR_clear_error();
}

static void put(struct talk *t, size_t n)
{
	uint8_t *p = malloc(n);

	for (size_t i = 0; i < n; i++) {
		prng ^= prng << 13;
		prng ^= prng >> 7;
		prng ^= prng << 17;
		p[i] = (uint8_t)(prng >> 32);
	}
	write_nothing(t);
	for (size_t at = 0; at < n;) {
		int ret = write_call(t, p + at, n - at);

		if (ret <= 0) {
			retry(t, ret);
			continue;
		}
		count(&t->sent, p + at, (size_t)ret);
		at += (size_t)ret;
	}
	free(p);
}

static void get(struct talk *t, size_t n)
{
	static uint8_t in[7000];

	for (size_t at = 0; at < n;) {
		int ret;

		peek(t);
		ret = read_call(t, in, n - at < sizeof(in) ? n - at : sizeof(in));
		if (ret <= 0) {
			retry(t, ret);
			continue;
		}
		count(&t->got, in, (size_t)ret);
		at += (size_t)ret;
	}
}

/* --- in the middle of the conversation ----------------------------------------------------------
 */

static void renegotiate(struct talk *t)
{
	if (!is_server && (SSL_renegotiate(t->ssl) != 1 || SSL_do_handshake(t->ssl) != 1))
		die("renegotiation");
}

static void ask_for_certificate(struct talk *t)
{
	if (is_server &&
	    (SSL_verify_client_post_handshake(t->ssl) != 1 || SSL_do_handshake(t->ssl) != 1))
		die("post-handshake authentication");
}

static void middle(struct talk *t)
{
	if (is_way("renegotiation"))
		renegotiate(t);
	else if (is_way("key_update") && SSL_key_update(t->ssl, SSL_KEY_UPDATE_REQUESTED) != 1)
		die("key update");
	else if (is_way("auth"))
		ask_for_certificate(t);
}

static bool is_nonblock(void)
{
	return is_way("nonblock") || is_way("cbc_nonblock");
}

static void check_way(struct talk *t)
{
	if (is_way("renegotiation") && !is_server && SSL_total_renegotiations(t->ssl) < 1)
		die("nothing was renegotiated");
	if (is_way("auth") && is_server && !SSL_get_peer_certificate(t->ssl))
		die("no certificate came");
	if (is_nonblock() && !n_retries)
		die("no call had to be repeated");
}

/* --- conversation -------------------------------------------------------------------------------
 */

static bool is_cbc(void)
{
	return is_way("cbc") || is_way("cbc_nonblock");
}

static void take_turn(struct talk *t)
{
	const struct turn *turn = &turns[t->turn];
	size_t n = is_cbc() ? turn->n * CBC_TIMES : turn->n;

	if (t->turn == MIDDLE)
		middle(t);
	if (turn->client != is_server)
		put(t, n);
	else
		get(t, n);
	t->turn++;
}

/* Threads take turns in turns. */
static void *speak(void *arg)
{
	struct talk *t = arg;
	static unsigned n_threads;
	unsigned me;

	pthread_mutex_lock(&t->lock);
	me = n_threads++ % 2;
	while (t->turn < N_TURNS) {
		if (t->turn / 2 % 2 != me) {
			pthread_cond_wait(&t->next, &t->lock);
			continue;
		}
		take_turn(t);
		pthread_cond_broadcast(&t->next);
	}
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

static void converse_in_threads(struct talk *t)
{
	pthread_t a, b;

	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->next, NULL);
	if (pthread_create(&a, NULL, speak, t) || pthread_create(&b, NULL, speak, t))
		die("threads");
	pthread_join(a, NULL);
	pthread_join(b, NULL);
}

/* The client first. Each reads to the end: a close with bytes unread would be a reset. */
static void say_goodbye(struct talk *t)
{
	uint8_t rest[16];

	fcntl(t->fd, F_SETFL, 0);
	if (!is_server)
		SSL_shutdown(t->ssl);
	if (SSL_read(t->ssl, rest, sizeof(rest)) > 0)
		die("more than agreed");
	if (is_server)
		SSL_shutdown(t->ssl);
	shutdown(t->fd, SHUT_WR);
	if (read(t->fd, rest, sizeof(rest)) != 0)
		die("no end");
}

static void converse(struct talk *t)
{
	if (is_way("threads"))
		converse_in_threads(t);
	while (t->turn < N_TURNS)
		take_turn(t);
	check_way(t);
	say_goodbye(t);
	printf("port %d\n", t->port);
	tell("sent", &t->sent);
	tell("got", &t->got);
	fflush(stdout);
}

/* --- connection ---------------------------------------------------------------------------------
 */

static int client_port(int fd)
{
	struct sockaddr_in a;
	socklen_t len = sizeof(a);

	if (is_server ? getpeername(fd, (void *)&a, &len) : getsockname(fd, (void *)&a, &len))
		die("port");
	return ntohs(a.sin_port);
}

static int tcp_open(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1, small = 4096;

	inet_pton(AF_INET, addr, &a.sin_addr);
	if (is_server && listener < 0) {
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		if (bind(fd, (void *)&a, sizeof(a)) || listen(fd, 4))
			die("listen");
		listener = fd;
		puts("listening");
		fflush(stdout);
	}
	if (is_server)
		fd = accept(listener, NULL, NULL);
	else if (connect(fd, (void *)&a, sizeof(a)))
		die("connect");
	if (is_nonblock()) {
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
		fcntl(fd, F_SETFL, O_NONBLOCK);
	}
	return fd;
}

static int accept_any(int ok, X509_STORE_CTX *ctx)
{
	(void)ok, (void)ctx;
	return 1;
}

static SSL_CTX *context(void)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_method());

	if (is_way("renegotiation") || is_cbc())
		SSL_CTX_set_max_proto_version(ctx, TLS1_2_VERSION);
	if (is_cbc() && SSL_CTX_set_cipher_list(ctx, "ECDHE-ECDSA-AES128-SHA") != 1)
		die("cipher");
	if (is_cbc())
		SSL_CTX_set_options(ctx, SSL_OP_NO_ENCRYPT_THEN_MAC);
#ifdef SSL_OP_ALLOW_CLIENT_RENEGOTIATION
	SSL_CTX_set_options(ctx, SSL_OP_ALLOW_CLIENT_RENEGOTIATION);
#endif
	if (SSL_CTX_use_certificate_file(ctx, cert, SSL_FILETYPE_PEM) != 1 ||
	    SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1)
		die("certificate");
	SSL_CTX_set_mode(ctx, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	if (is_way("auth") && is_server)
		SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_POST_HANDSHAKE, accept_any);
	if (is_way("auth") && !is_server)
		SSL_CTX_set_post_handshake_auth(ctx, 1);
	return ctx;
}

static void set_transport(SSL *ssl, int fd)
{
	if (is_way("rfd_wfd")) {
		SSL_set_rfd(ssl, fd);
		SSL_set_wfd(ssl, dup(fd));
	} else if (is_way("set0")) {
		SSL_set0_rbio(ssl, BIO_new_socket(fd, BIO_NOCLOSE));
		SSL_set0_wbio(ssl, BIO_new_socket(fd, BIO_NOCLOSE));
	} else {
		SSL_set_fd(ssl, fd);
	}
}

static void handshake(struct talk *t)
{
	int ret;

	if (is_server)
		SSL_set_accept_state(t->ssl);
	else
		SSL_set_connect_state(t->ssl);
	while (!t->bio && (ret = SSL_do_handshake(t->ssl)) != 1)
		retry(t, ret);
}

static void talk_init(struct talk *t, SSL *ssl)
{
	*t = (struct talk){.ssl = ssl, .fd = tcp_open()};
	t->port = client_port(t->fd);
	t->sent.md = EVP_MD_CTX_new();
	t->got.md = EVP_MD_CTX_new();
	EVP_DigestInit_ex(t->sent.md, EVP_sha256(), NULL);
	EVP_DigestInit_ex(t->got.md, EVP_sha256(), NULL);
	set_transport(ssl, t->fd);
	if (is_way("bio")) {
		t->bio = BIO_new(BIO_f_ssl());
		BIO_set_ssl(t->bio, ssl, BIO_NOCLOSE);
	}
	handshake(t);
}

/* The connection goes on in a child, as a server that serves each client in a process does it. */
static void converse_in_child(struct talk *t)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		converse(t);
		exit(0);
	}
	if (waitpid(pid, &status, 0) != pid || status)
		die("child");
}

int main(int argc, char **argv)
{
	int n_talks;
	struct talk t;
	SSL *ssl;

	if (argc != 7)
		return 2;
	is_server = !strcmp(argv[1], "server");
	addr = argv[2];
	port = atoi(argv[3]);
	cert = argv[4];
	key = argv[5];
	way = argv[6];
	prng = is_server ? 88172645463325252ull : 0x9e3779b97f4a7c15ull;
	*(void **)&write_ex2 = dlsym(RTLD_DEFAULT, "SSL_write_ex2");
	if (is_way("ex2") && !write_ex2)
		die("SSL_write_ex2");
	ssl = SSL_new(context());
	n_talks = is_way("reuse") || is_way("set0") || is_way("rfd_wfd") ? 3 : 1;
	for (int i = 0; i < n_talks; i++) {
		if (i && SSL_clear(ssl) != 1)
			die("SSL_clear");
		talk_init(&t, ssl);
		if (is_way("fork"))
			converse_in_child(&t);
		else
			converse(&t);
		close(t.fd);
	}
	SSL_free(ssl);
	return 0;
}
