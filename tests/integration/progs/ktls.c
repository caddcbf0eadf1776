/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ktls: TLS whose records the kernel makes, and a file that goes out without ever being in this
 * process. ktls server|client ADDR PORT CERT KEY tls12|tls13 FILE. The client writes, sends FILE by
 * SSL_sendfile(), writes again; the server answers. Prints "sent N SHA256" and "got N SHA256" (the
 * file not counted in sent), "file N", and "kernel SEND RECEIVE": 1 where the kernel does the work.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

struct half {
	EVP_MD_CTX *md;
	size_t total;
};

static struct half sent, got;
static bool is_server;

static void die(const char *what)
{
	fprintf(stderr, "ktls: %s: %s\n", what, strerror(errno));
	ERR_print_errors_fp(stderr);
	exit(1);
}

static void half_init(struct half *h)
{
	h->md = EVP_MD_CTX_new();
	EVP_DigestInit_ex(h->md, EVP_sha256(), NULL);
}

static void tell(const char *what, struct half *h)
{
	unsigned char out[32];

	EVP_DigestFinal_ex(h->md, out, NULL);
	printf("%s %zu ", what, h->total);
	for (int i = 0; i < 32; i++)
		printf("%02x", out[i]);
	putchar('\n');
}

static int tcp_open(const char *addr, const char *port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1, l = fd;

	inet_pton(AF_INET, addr, &a.sin_addr);
	if (!is_server) {
		if (connect(fd, (void *)&a, sizeof(a)))
			die("connect");
		return fd;
	}
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (void *)&a, sizeof(a)) || listen(fd, 1))
		die("listen");
	fd = accept(l, NULL, NULL);
	close(l);
	usleep(300000); /* on one host the end that speaks first is mirrored: that is the client */
	return fd;
}

static SSL *tls_open(int fd, const char *cert, const char *key, int version)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_method());
	SSL *ssl;

	SSL_CTX_set_options(ctx, SSL_OP_ENABLE_KTLS);
	SSL_CTX_set_min_proto_version(ctx, version);
	SSL_CTX_set_max_proto_version(ctx, version);
	SSL_CTX_set_cipher_list(ctx, "ECDHE-ECDSA-AES128-GCM-SHA256");
	SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256");
	if (SSL_CTX_use_certificate_file(ctx, cert, SSL_FILETYPE_PEM) != 1 ||
	    SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1)
		die("certificate");
	ssl = SSL_new(ctx);
	SSL_set_fd(ssl, fd);
	if ((is_server ? SSL_accept(ssl) : SSL_connect(ssl)) != 1)
		die("handshake");
	return ssl;
}

static void put(SSL *ssl, size_t n, unsigned char salt)
{
	unsigned char *p = malloc(n);

	for (size_t i = 0; i < n; i++)
		p[i] = (unsigned char)((i * 2654435761u >> 13) + salt);
	if (SSL_write(ssl, p, (int)n) != (int)n)
		die("SSL_write");
	EVP_DigestUpdate(sent.md, p, n);
	sent.total += n;
	free(p);
}

static void get(SSL *ssl, size_t n)
{
	unsigned char in[5000];

	for (size_t at = 0; at < n;) {
		int ret = SSL_read(ssl, in, (int)(n - at < sizeof(in) ? n - at : sizeof(in)));

		if (ret <= 0)
			die("SSL_read");
		EVP_DigestUpdate(got.md, in, (size_t)ret);
		got.total += (size_t)ret;
		at += (size_t)ret;
	}
}

static void send_file(SSL *ssl, int file, size_t size)
{
	for (size_t at = 0; at < size;) {
		ossl_ssize_t n = SSL_sendfile(ssl, file, (off_t)at, size - at, 0);

		if (n <= 0)
			die("SSL_sendfile");
		at += (size_t)n;
	}
}

int main(int argc, char **argv)
{
	int fd, file;
	struct stat st;
	SSL *ssl;

	if (argc != 8)
		return 2;
	is_server = !strcmp(argv[1], "server");
	half_init(&sent);
	half_init(&got);
	file = open(argv[7], O_RDONLY);
	if (file < 0 || fstat(file, &st))
		die(argv[7]);
	fd = tcp_open(argv[2], argv[3]);
	ssl = tls_open(fd, argv[4], argv[5],
		       strcmp(argv[6], "tls12") ? TLS1_3_VERSION : TLS1_2_VERSION);
	printf("kernel %d %d\nfile %lld\n", (int)BIO_get_ktls_send(SSL_get_wbio(ssl)),
	       (int)BIO_get_ktls_recv(SSL_get_rbio(ssl)), (long long)st.st_size);
	fflush(stdout);
	if (is_server) {
		get(ssl, 25000 + (size_t)st.st_size + 700);
		put(ssl, 40000, 5);
		get(ssl, 3);
	} else {
		put(ssl, 25000, 1);
		send_file(ssl, file, (size_t)st.st_size);
		put(ssl, 700, 2);
		get(ssl, 40000);
		put(ssl, 3, 3);
	}
	SSL_shutdown(ssl);
	close(fd);
	tell("sent", &sent);
	tell("got", &got);
	return 0;
}
