/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stubtls: a program and, with -DLIBRARY, the library it is linked with, which has the names of
 * OpenSSL's functions and encrypts nothing: where there is no OpenSSL for a C library, what stands
 * before it can still be tried. Plain bytes in records as TLS has them.
 *
 * stubtls PORT LIBRARY    four connections to itself on 127.0.0.1: by the functions that it is
 *                         linked with, by those that dlsym() finds, in a child of fork(), and in
 *                         one of syscall(). A line "conn FROM" for each: its port. The n-th
 *                         says n times "question n" and hears n times "answer n", each a line.
 */
#include <stddef.h>

#define RECORD_MAX 4096

struct ssl_st {
	int fd;
};

void *SSL_new(void *ctx);
int SSL_set_fd(struct ssl_st *ssl, int fd);
int SSL_connect(struct ssl_st *ssl);
int SSL_write(struct ssl_st *ssl, const void *buf, int n);
int SSL_read(struct ssl_st *ssl, void *buf, int n);
void SSL_free(struct ssl_st *ssl);

#include <arpa/inet.h>
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* RFC 8446, 5.1 */
static inline int put_record(int fd, int type, const void *p, size_t n)
{
	unsigned char r[5 + RECORD_MAX] = {(unsigned char)type, 3, 3, (unsigned char)(n >> 8),
					   (unsigned char)n};

	memcpy(r + 5, p, n);
	return write(fd, r, 5 + n) == (ssize_t)(5 + n) ? (int)n : -1;
}

static inline int get_record(int fd, void *p, size_t room)
{
	unsigned char head[5];
	size_t n;

	if (recv(fd, head, sizeof(head), MSG_WAITALL) != sizeof(head))
		return -1;
	n = (size_t)head[3] << 8 | head[4];
	return n <= room && recv(fd, p, n, MSG_WAITALL) == (ssize_t)n ? (int)n : -1;
}

#ifdef LIBRARY

void *SSL_new(void *ctx)
{
	(void)ctx;
	return calloc(1, sizeof(struct ssl_st));
}

int SSL_set_fd(struct ssl_st *ssl, int fd)
{
	ssl->fd = fd;
	return 1;
}

int SSL_connect(struct ssl_st *ssl)
{
	return put_record(ssl->fd, 22, "\1hello", 6) > 0 ? 1 : -1;
}

int SSL_write(struct ssl_st *ssl, const void *buf, int n)
{
	return put_record(ssl->fd, 23, buf, (size_t)n);
}

int SSL_read(struct ssl_st *ssl, void *buf, int n)
{
	return get_record(ssl->fd, buf, (size_t)n);
}

void SSL_free(struct ssl_st *ssl)
{
	free(ssl);
}

#else

typedef int write_fn(struct ssl_st *, const void *, int);
typedef int read_fn(struct ssl_st *, void *, int);

static void need(int ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	exit(1);
}

/* The client's end, and the server's, which knows nothing of the library. */
static int connect_to(int listener, int *server)
{
	struct sockaddr_in a;
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	need(!getsockname(listener, (struct sockaddr *)&a, &len), "getsockname");
	need(!connect(fd, (struct sockaddr *)&a, sizeof(a)), "connect");
	*server = accept(listener, NULL, NULL);
	need(*server >= 0, "accept");
	return fd;
}

static void talk(int listener, int number, write_fn *say, read_fn *hear)
{
	char question[32], answer[32], got[RECORD_MAX];
	int server, fd = connect_to(listener, &server), n;
	struct ssl_st *ssl = SSL_new(NULL);
	struct sockaddr_in a;
	socklen_t len = sizeof(a);

	need(ssl && SSL_set_fd(ssl, fd) == 1 && SSL_connect(ssl) == 1, "SSL_connect");
	need(get_record(server, got, sizeof(got)) == 6, "hello");
	snprintf(question, sizeof(question), "question %d\n", number);
	snprintf(answer, sizeof(answer), "answer %d\n", number);
	for (int i = 0; i < number; i++) {
		need(say(ssl, question, (int)strlen(question)) == (int)strlen(question), "say");
		n = get_record(server, got, sizeof(got));
		need(n == (int)strlen(question) && !memcmp(got, question, (size_t)n), "question");
		need(put_record(server, 23, answer, strlen(answer)) > 0, "answer");
		n = hear(ssl, got, sizeof(got));
		need(n == (int)strlen(answer) && !memcmp(got, answer, (size_t)n), "hear");
	}
	need(!getsockname(fd, (struct sockaddr *)&a, &len), "getsockname");
	printf("conn %d\n", ntohs(a.sin_port));
	fflush(stdout);
	usleep(300000); /* so long that an agent on a busy machine can ask whose it is */
	SSL_free(ssl);
	close(fd);
	close(server);
}

static void in_child(pid_t child, int listener, int number)
{
	int status;

	if (!child) {
		talk(listener, number, SSL_write, SSL_read);
		_exit(0);
	}
	need(waitpid(child, &status, 0) == child && !status, "child");
}

int main(int argc, char **argv)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	void *h = argc == 3 ? dlopen(argv[2], RTLD_NOW) : NULL;

	need(!!h && !dlsym(h, "SSL_nothing"), "usage: stubtls PORT LIBRARY");
	a.sin_port = htons((in_port_t)atoi(argv[1]));
	(void)setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	need(!bind(listener, (struct sockaddr *)&a, sizeof(a)) && !listen(listener, 4), "listen");
	talk(listener, 1, SSL_write, SSL_read);
	talk(listener, 2, (write_fn *)dlsym(h, "SSL_write"),
	     (read_fn *)dlsym(RTLD_NEXT, "SSL_read"));
	in_child(fork(), listener, 3);
	in_child((pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0), listener, 4);
	return 0;
}

#endif
