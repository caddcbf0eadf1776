/* SPDX-License-Identifier: Apache-2.0 */
/*
 * zero_rtt: both ends of TLS 1.3 with 0-RTT data.
 * zero_rtt server ADDR PORT CERT KEY N [answer_early]   serves N connections, one after the other
 * zero_rtt client ADDR PORT SESSION BYTES [WHAT …]      one connection; SESSION: file to resume
 * from and to keep the new session in; BYTES: of 0-RTT, 0: none. WHAT: ask (whether it was
 * accepted), resend (when it was not, or, not having asked, in any case), pieces (several early
 * writes). Prints "port P", the client "early accepted|rejected|none", and each "sent N SHA256" and
 * "got N SHA256": what arrives at the application of the other end.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define EARLY_MAX 200000

struct half {
	EVP_MD_CTX *md;
	size_t total;
};

static struct half sent, got;
static const char *session_file, *addr;
static int port;
static bool answer_early, ask, resend, pieces;

static void die(const char *what)
{
	fprintf(stderr, "zero_rtt: %s: %s\n", what, strerror(errno));
	ERR_print_errors_fp(stderr);
	exit(1);
}

static void half_init(struct half *h)
{
	h->md = EVP_MD_CTX_new();
	h->total = 0;
	EVP_DigestInit_ex(h->md, EVP_sha256(), NULL);
}

static void count(struct half *h, const void *p, size_t n)
{
	EVP_DigestUpdate(h->md, p, n);
	h->total += n;
}

static void tell(const char *what, struct half *h)
{
	uint8_t out[32];

	EVP_DigestFinal_ex(h->md, out, NULL);
	printf("%s %zu ", what, h->total);
	for (int i = 0; i < 32; i++)
		printf("%02x", out[i]);
	putchar('\n');
}

static void send_text(SSL *ssl, const char *text)
{
	size_t n = strlen(text);

	if (SSL_write(ssl, text, (int)n) != (int)n)
		die("SSL_write");
	count(&sent, text, n);
}

static void receive_to_end(SSL *ssl, const char *until)
{
	char in[20000];
	int n;

	while ((n = SSL_read(ssl, in, sizeof(in) - 1)) > 0) {
		count(&got, in, (size_t)n);
		in[n] = '\0';
		if (until && strstr(in, until))
			return;
	}
}

/* Close without a reset: see that the peer has closed first. */
static void end(SSL *ssl, int fd)
{
	char in[100];

	SSL_shutdown(ssl);
	shutdown(fd, SHUT_WR);
	while (read(fd, in, sizeof(in)) > 0)
		;
	close(fd);
	SSL_free(ssl);
}

/* --- server -------------------------------------------------------------------------------------
 */

static void read_early(SSL *ssl)
{
	static const char hello[] = "half a round trip earlier\n";
	static char in[3000];
	size_t n;
	int ret;

	while ((ret = SSL_read_early_data(ssl, in, sizeof(in), &n)) ==
	       SSL_READ_EARLY_DATA_SUCCESS) {
		count(&got, in, n);
		if (!answer_early)
			continue;
		answer_early = false;
		if (SSL_write_early_data(ssl, hello, sizeof(hello) - 1, &n) != 1)
			die("SSL_write_early_data");
		count(&sent, hello, n);
	}
	if (ret != SSL_READ_EARLY_DATA_FINISH)
		die("SSL_read_early_data");
}

static void serve(SSL *ssl, int fd)
{
	struct sockaddr_in a;
	socklen_t len = sizeof(a);
	char text[100];

	half_init(&sent);
	half_init(&got);
	getpeername(fd, (void *)&a, &len);
	SSL_set_fd(ssl, fd);
	SSL_set_accept_state(ssl);
	read_early(ssl);
	if (SSL_accept(ssl) != 1)
		die("SSL_accept");
	receive_to_end(ssl, "the end");
	snprintf(text, sizeof(text), "%zu bytes came\n", got.total);
	send_text(ssl, text);
	end(ssl, fd);
	printf("port %d\n", ntohs(a.sin_port));
	tell("sent", &sent);
	tell("got", &got);
	fflush(stdout);
}

static void server(const char *cert, const char *key, int n)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());

	if (SSL_CTX_use_certificate_file(ctx, cert, SSL_FILETYPE_PEM) != 1 ||
	    SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1)
		die("certificate");
	SSL_CTX_set_max_early_data(ctx, EARLY_MAX);
	SSL_CTX_set_recv_max_early_data(ctx, EARLY_MAX);
	SSL_CTX_set_session_id_context(ctx, (const void *)"zero", 4);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	inet_pton(AF_INET, addr, &a.sin_addr);
	if (bind(fd, (void *)&a, sizeof(a)) || listen(fd, 4))
		die("listen");
	puts("listening");
	fflush(stdout);
	for (int i = 0; i < n; i++)
		serve(SSL_new(ctx), accept(fd, NULL, NULL));
}

/* --- client -------------------------------------------------------------------------------------
 */

static int keep_session(SSL *ssl, SSL_SESSION *s)
{
	FILE *f = fopen(session_file, "w");

	(void)ssl;
	if (!f || !PEM_write_SSL_SESSION(f, s))
		die("session");
	fclose(f);
	return 0;
}

static void take_session(SSL *ssl)
{
	FILE *f = fopen(session_file, "r");
	SSL_SESSION *s = f ? PEM_read_SSL_SESSION(f, NULL, NULL, NULL) : NULL;

	if (!s || SSL_set_session(ssl, s) != 1)
		die("session");
	fclose(f);
	SSL_SESSION_free(s);
}

static void write_early(SSL *ssl, const char *p, size_t n)
{
	size_t done, piece = pieces ? n / 5 + 1 : n;

	for (size_t at = 0; at < n; at += done) {
		size_t want = n - at < piece ? n - at : piece;

		if (SSL_write_early_data(ssl, p + at, want, &done) != 1)
			die("SSL_write_early_data");
	}
}

/* What the server's application gets of the early bytes, and what becomes of them. */
static const char *settle_early(SSL *ssl, const char *p, size_t n)
{
	bool taken;

	if (!n)
		return "none";
	/* not asked: whether the session was taken up says the same, and nobody watches that */
	taken = ask ? SSL_get_early_data_status(ssl) == SSL_EARLY_DATA_ACCEPTED
		    : SSL_session_reused(ssl);
	if (taken) {
		count(&sent, p, n);
	} else if (resend) {
		if (SSL_write(ssl, p, (int)n) != (int)n)
			die("SSL_write");
		count(&sent, p, n);
	}
	return taken ? "accepted" : "rejected";
}

static void client(size_t n_early)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	SSL *ssl = SSL_new(ctx);
	socklen_t len = sizeof(a);
	char *early = malloc(n_early + 1);
	const char *fate;

	for (size_t i = 0; i < n_early; i++)
		early[i] = (char)('a' + i * 7 % 26);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
	SSL_CTX_sess_set_new_cb(ctx, keep_session);
	half_init(&sent);
	half_init(&got);
	inet_pton(AF_INET, addr, &a.sin_addr);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(fd, (void *)&a, sizeof(a)))
		die("connect");
	getsockname(fd, (void *)&a, &len);
	SSL_set_fd(ssl, fd);
	SSL_set_connect_state(ssl);
	if (n_early) {
		take_session(ssl);
		write_early(ssl, early, n_early);
	}
	if (SSL_do_handshake(ssl) != 1)
		die("handshake");
	fate = settle_early(ssl, early, n_early);
	send_text(ssl, "this is the end\n");
	receive_to_end(ssl, NULL);
	end(ssl, fd);
	printf("port %d\nearly %s\n", ntohs(a.sin_port), fate);
	tell("sent", &sent);
	tell("got", &got);
}

int main(int argc, char **argv)
{
	if (argc < 6)
		return 2;
	addr = argv[2];
	port = atoi(argv[3]);
	if (!strcmp(argv[1], "server")) {
		answer_early = argc > 7;
		server(argv[4], argv[5], atoi(argv[6]));
		return 0;
	}
	session_file = argv[4];
	for (int i = 6; i < argc; i++) {
		ask |= !strcmp(argv[i], "ask");
		resend |= !strcmp(argv[i], "resend");
		pieces |= !strcmp(argv[i], "pieces");
	}
	client(strtoull(argv[5], NULL, 10));
	return 0;
}
