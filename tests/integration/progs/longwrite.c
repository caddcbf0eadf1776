/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A TLS client that gives many bytes to SSL_write at once, on a socket that does not wait and has
 * little room, so that the call is interrupted again and again.
 *
 * longwrite ADDR PORT SIZE whole|parts
 * parts: with SSL_MODE_ENABLE_PARTIAL_WRITE. Byte i is i * 7 + i / 65521. Prints "port PORT calls
 * N".
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int wait_for(int fd, SSL *ssl, int ret)
{
	int why = SSL_get_error(ssl, ret);
	struct pollfd p = {.fd = fd, .events = why == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT};

	if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE)
		return -1;
	return poll(&p, 1, 20000) == 1 ? 0 : -1;
}

static unsigned char digit(size_t v, size_t place)
{
	while (place--)
		v /= 10;
	return (unsigned char)('0' + v % 10);
}

int main(int argc, char **argv)
{
	struct sockaddr_in a = {.sin_family = AF_INET};
	socklen_t len = sizeof(a);
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	int fd = socket(AF_INET, SOCK_STREAM, 0), ret, n = 0, room = 65536;
	size_t size, at = 0;
	unsigned char *p;
	SSL *ssl;

	if (argc != 5 || !ctx || fd < 0)
		return 2;
	size = strtoul(argv[3], NULL, 10);
	p = malloc(size + 1);
	a.sin_port = htons((unsigned short)atoi(argv[2]));
	if (!p || setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)) ||
	    inet_pton(AF_INET, argv[1], &a.sin_addr) != 1 ||
	    connect(fd, (struct sockaddr *)&a, sizeof(a)))
		return 2;
	for (size_t i = 0; i < size; i++)
		p[i] = i % 16 == 15 ? '\n' : digit(i / 16, 14 - i % 16);
	if (!strcmp(argv[4], "parts"))
		SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE);
	ssl = SSL_new(ctx);
	if (!ssl || !SSL_set_fd(ssl, fd) || SSL_connect(ssl) != 1)
		return 2;
	if (fcntl(fd, F_SETFL, O_NONBLOCK))
		return 2;
	while (at < size) {
		ret = SSL_write(ssl, p + at, (int)(size - at));
		n++;
		if (ret > 0)
			at += (size_t)ret;
		else if (wait_for(fd, ssl, ret))
			return 1;
	}
	if (getsockname(fd, (struct sockaddr *)&a, &len))
		return 2;
	printf("port %d calls %d\n", ntohs(a.sin_port), n);
	SSL_shutdown(ssl);
	close(fd);
	return 0;
}
