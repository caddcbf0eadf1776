/* SPDX-License-Identifier: Apache-2.0 */
/*
 * threads: N TLS connections at once inside one process, each with a thread for either end, so that
 * many threads are in the same functions of the library and are preempted there.
 * threads ADDR PORT CERT KEY N ROUNDS MAX
 * Each round the client sends a message of 1 to MAX bytes and the server sends it back. Each 32
 * bytes name connection, round and offset. Prints for each connection what its client got and sent:
 * "conn LOCAL REMOTE N SHA256 N SHA256".
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BLOCK     32
#define CONNS_MAX 512u

static struct sockaddr_in where = {.sin_family = AF_INET};
static SSL_CTX *ctx;
static unsigned n_conns, n_rounds, max;
static int listener;

static void die(const char *what)
{
	fprintf(stderr, "threads: %s: %s\n", what, strerror(errno));
	ERR_print_errors_fp(stderr);
	exit(1);
}

static uint32_t message_len(unsigned port, unsigned round)
{
	uint32_t x = port * 2654435761u + round * 40503u;

	x ^= x >> 15;
	x *= 2246822519u;
	x ^= x >> 13;
	return 1 + x % max;
}

static void write_message(uint8_t *out, size_t n, unsigned port, unsigned round)
{
	char text[2 * BLOCK]; /* its numbers always fit a block */

	for (size_t at = 0; at < n; at += BLOCK) {
		snprintf(text, sizeof(text), "<%05u %08u %014zu>\n", port, round, at / BLOCK);
		memcpy(out + at, text, n - at < BLOCK ? n - at : BLOCK);
	}
}

static void send_all(SSL *ssl, const uint8_t *p, size_t n)
{
	if (SSL_write(ssl, p, (int)n) != (int)n)
		die("SSL_write");
}

static void receive_all(SSL *ssl, uint8_t *p, size_t n)
{
	for (size_t at = 0; at < n;) {
		int ret = SSL_read(ssl, p + at, (int)(n - at));

		if (ret <= 0)
			die("SSL_read");
		at += (size_t)ret;
	}
}

static SSL *session(int fd)
{
	const int one = 1;
	SSL *ssl = SSL_new(ctx);

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (!ssl || SSL_set_fd(ssl, fd) != 1)
		die("SSL_new");
	return ssl;
}

static unsigned port_of(const struct sockaddr_in *a)
{
	return ntohs(a->sin_port);
}

/* --- server -------------------------------------------------------------------------------------
 */

static void *echo(void *arg)
{
	struct sockaddr_in peer;
	socklen_t len = sizeof(peer);
	int fd = (int)(intptr_t)arg;
	SSL *ssl = session(fd);
	uint8_t *message = malloc(max), end;

	if (!message || getpeername(fd, (void *)&peer, &len) || SSL_accept(ssl) != 1)
		die("SSL_accept");
	for (unsigned round = 0; round < n_rounds; round++) {
		uint32_t n = message_len(port_of(&peer), round);

		receive_all(ssl, message, n);
		send_all(ssl, message, n);
	}
	if (SSL_read(ssl, &end, 1) > 0)
		die("more than agreed");
	SSL_shutdown(ssl);
	SSL_free(ssl);
	close(fd);
	free(message);
	return NULL;
}

static void *serve(void *arg)
{
	pthread_t threads[CONNS_MAX];

	(void)arg;
	for (unsigned i = 0; i < n_conns; i++) {
		int fd = accept(listener, NULL, NULL);

		if (fd < 0 || pthread_create(&threads[i], NULL, echo, (void *)(intptr_t)fd))
			die("accept");
	}
	for (unsigned i = 0; i < n_conns; i++)
		pthread_join(threads[i], NULL);
	return NULL;
}

/* --- client -------------------------------------------------------------------------------------
 */

/* The same bytes in both directions. */
static void tell(unsigned port, size_t total, EVP_MD_CTX *md)
{
	uint8_t sum[32];
	char hex[65];

	EVP_DigestFinal_ex(md, sum, NULL);
	for (int i = 0; i < 32; i++)
		snprintf(hex + 2 * i, 3, "%02x", sum[i]);
	printf("conn 127.0.0.1:%u 127.0.0.1:%u %zu %s %zu %s\n", port, port_of(&where), total, hex,
	       total, hex);
}

static size_t exchange(SSL *ssl, unsigned port, unsigned round, EVP_MD_CTX *md)
{
	uint32_t n = message_len(port, round);
	uint8_t *sent = malloc(n), *got = malloc(n);

	if (!sent || !got)
		die("memory");
	write_message(sent, n, port, round);
	send_all(ssl, sent, n);
	receive_all(ssl, got, n);
	if (memcmp(sent, got, n))
		die("the echo differs");
	EVP_DigestUpdate(md, sent, n);
	free(sent);
	free(got);
	return n;
}

static void *talk(void *arg)
{
	struct sockaddr_in me;
	socklen_t len = sizeof(me);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	SSL *ssl = session(fd);
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	size_t total = 0;
	uint8_t end;

	(void)arg;
	if (connect(fd, (void *)&where, sizeof(where)) || getsockname(fd, (void *)&me, &len) ||
	    SSL_connect(ssl) != 1 || !EVP_DigestInit_ex(md, EVP_sha256(), NULL))
		die("connect");
	for (unsigned round = 0; round < n_rounds; round++)
		total += exchange(ssl, port_of(&me), round, md);
	SSL_shutdown(ssl);
	if (SSL_read(ssl, &end, 1) > 0)
		die("more than agreed");
	SSL_free(ssl);
	close(fd);
	tell(port_of(&me), total, md);
	EVP_MD_CTX_free(md);
	return NULL;
}

static void listen_there(void)
{
	const int one = 1;

	listener = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (void *)&where, sizeof(where)) || listen(listener, (int)n_conns))
		die("listen");
}

int main(int argc, char **argv)
{
	pthread_t server, clients[CONNS_MAX];

	if (argc != 8 || inet_pton(AF_INET, argv[1], &where.sin_addr) != 1)
		return 2;
	where.sin_port = htons((uint16_t)atoi(argv[2]));
	n_conns = (unsigned)atoi(argv[5]);
	n_rounds = (unsigned)atoi(argv[6]);
	max = (unsigned)atoi(argv[7]);
	if (!n_conns || n_conns > CONNS_MAX || !max)
		return 2;
	ctx = SSL_CTX_new(TLS_method());
	if (SSL_CTX_use_certificate_file(ctx, argv[3], SSL_FILETYPE_PEM) != 1 ||
	    SSL_CTX_use_PrivateKey_file(ctx, argv[4], SSL_FILETYPE_PEM) != 1)
		die("certificate");
	listen_there();
	if (pthread_create(&server, NULL, serve, NULL))
		die("threads");
	for (unsigned i = 0; i < n_conns; i++)
		if (pthread_create(&clients[i], NULL, talk, NULL))
			die("threads");
	for (unsigned i = 0; i < n_conns; i++)
		pthread_join(clients[i], NULL);
	pthread_join(server, NULL);
	return 0;
}
