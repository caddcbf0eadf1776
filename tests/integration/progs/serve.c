/* SPDX-License-Identifier: Apache-2.0 */
/*
 * serve ADDR PORT CERT KEY SIZE: HTTPS, one connection after the other: reads a request, answers
 * SIZE bytes, closes after the client. To be linked with OpenSSL's archives. Says "listening".
 */
#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static int listen_at(const char *addr, const char *port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (inet_pton(AF_INET, addr, &a.sin_addr) != 1 ||
	    bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 16)) {
		perror("serve");
		exit(1);
	}
	return fd;
}

static void serve(SSL *ssl, size_t size)
{
	char request[4096], head[128], *body = calloc(1, size);
	int n = SSL_accept(ssl) == 1 ? SSL_read(ssl, request, sizeof(request)) : 0;

	if (n > 0) {
		memset(body, 'b', size);
		n = snprintf(head, sizeof(head),
			     "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n"
			     "Connection: close\r\n\r\n",
			     size);
		SSL_write(ssl, head, n);
		SSL_write(ssl, body, (int)size);
	} else {
		ERR_print_errors_fp(stderr);
	}
	free(body);
}

/* What one end has not read when it closes resets the connection: the client's close_notify here,
 * and one of ours there, as the length has told the client where the answer ends. */
static void await_end(int c)
{
	const struct timeval limit = {.tv_sec = 2};
	char rest[4096];

	setsockopt(c, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	for (int i = 0; i < 100 && recv(c, rest, sizeof(rest), 0) > 0; i++)
		;
}

int main(int argc, char **argv)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
	int fd;

	if (argc != 6 || SSL_CTX_use_certificate_chain_file(ctx, argv[3]) != 1 ||
	    SSL_CTX_use_PrivateKey_file(ctx, argv[4], SSL_FILETYPE_PEM) != 1)
		return 2;
	signal(SIGPIPE, SIG_IGN);
	fd = listen_at(argv[1], argv[2]);
	puts("listening");
	fflush(stdout);
	for (;;) {
		int c = accept(fd, NULL, NULL);
		SSL *ssl = SSL_new(ctx);

		SSL_set_fd(ssl, c);
		serve(ssl, strtoul(argv[5], NULL, 10));
		SSL_free(ssl);
		await_end(c);
		close(c);
	}
}
