/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unharmed: a program that notices when somebody changes what its TLS calls answer. Both ends of
 * its connections are in it, over TCP on loopback. unharmed CERT KEY WHAT load    two threads call
 * until SIGTERM: bytes, results, errno and error queue must be what they were in the first rounds;
 * "baseline" when those are done, "calls N" at the end talk    one exchange; "port P", "sent N
 * SHA256", "got N SHA256" as the connecting end says strict  the same, inside the strictest
 * sandbox: read, write and exit are all it may do block   waits inside SSL_read for bytes that
 * never come exec    a thread waits so, another one makes the process a "talk"
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BASELINE_ROUNDS 200
#define ROUND_BYTES     3000

/* What a call answers, besides bytes. */
struct answer {
	int ret, error, errno_after;
	unsigned long queue;
};

enum { WRITE, READ, READ_NOTHING, READ_EX_NOTHING, WRITE_BAD_LENGTH, PEEK_NOTHING, N_CALLS };

struct pair {
	SSL *client, *server;
	int port;
};

static const char *cert, *key;
static char **args;
static volatile sig_atomic_t stopped;
static atomic_ulong n_calls;
static atomic_uint n_baselines;

static void die(const char *what)
{
	fprintf(stderr, "unharmed: %s: %s\n", what, strerror(errno));
	ERR_print_errors_fp(stderr);
	_exit(1); /* other threads go on */
}

/* --- a connection with itself -------------------------------------------------------------------
 */

static void tcp_pair(int fd[2], int *client_port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t len = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM, 0);

	fd[0] = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(l, (void *)&a, sizeof(a)) || listen(l, 1) || getsockname(l, (void *)&a, &len) ||
	    connect(fd[0], (void *)&a, sizeof(a)) || getsockname(fd[0], (void *)&a, &len))
		die("connect");
	fd[1] = accept(l, NULL, NULL);
	close(l);
	*client_port = ntohs(a.sin_port);
}

static void set_blocking(const struct pair *p, bool blocking)
{
	fcntl(SSL_get_fd(p->client), F_SETFL, blocking ? 0 : O_NONBLOCK);
	fcntl(SSL_get_fd(p->server), F_SETFL, blocking ? 0 : O_NONBLOCK);
}

static void pair_open(struct pair *p)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_method());
	int fd[2], a = 0, b = 0;

	if (SSL_CTX_use_certificate_file(ctx, cert, SSL_FILETYPE_PEM) != 1 ||
	    SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1)
		die("certificate");
	SSL_CTX_set_num_tickets(ctx, 0);
	tcp_pair(fd, &p->port);
	p->client = SSL_new(ctx);
	p->server = SSL_new(ctx);
	SSL_set_fd(p->client, fd[0]);
	SSL_set_fd(p->server, fd[1]);
	SSL_set_connect_state(p->client);
	SSL_set_accept_state(p->server);
	set_blocking(p, false);
	for (int i = 0; i < 100000 && (a != 1 || b != 1); i++) {
		a = SSL_do_handshake(p->client);
		b = SSL_do_handshake(p->server);
	}
	if (a != 1 || b != 1)
		die("handshake");
	SSL_CTX_free(ctx);
}

static void pair_close(struct pair *p)
{
	int fd[2] = {SSL_get_fd(p->client), SSL_get_fd(p->server)};

	SSL_shutdown(p->client);
	SSL_shutdown(p->server);
	SSL_free(p->client);
	SSL_free(p->server);
	close(fd[0]);
	close(fd[1]);
}

/* --- load ---------------------------------------------------------------------------------------
 */

static struct answer answer(SSL *ssl, int ret)
{
	struct answer a = {.ret = ret, .errno_after = errno};

	a.error = SSL_get_error(ssl, ret);
	a.queue = ERR_get_error();
	ERR_clear_error();
	atomic_fetch_add(&n_calls, 1);
	return a;
}

static void compare(struct answer *want, struct answer got, bool first, const char *what)
{
	if (first)
		*want = got;
	if (memcmp(want, &got, sizeof(got)) == 0)
		return;
	fprintf(stderr, "unharmed: %s: ret %d error %d errno %d queue %lx, was %d %d %d %lx\n",
		what, got.ret, got.error, got.errno_after, got.queue, want->ret, want->error,
		want->errno_after, want->queue);
	_exit(1);
}

static void read_nothing(SSL *ssl, struct answer *want, bool first)
{
	size_t done = 4711;
	char c;
	int ret;

	errno = EXDEV;
	ret = SSL_read(ssl, &c, 1);
	compare(&want[READ_NOTHING], answer(ssl, ret), first, "SSL_read of nothing");
	errno = EXDEV;
	ret = SSL_read_ex(ssl, &c, 1, &done);
	compare(&want[READ_EX_NOTHING], answer(ssl, ret), first, "SSL_read_ex of nothing");
	if (done != 4711)
		die("SSL_read_ex wrote a length");
	errno = EXDEV;
	ret = SSL_peek(ssl, &c, 1);
	compare(&want[PEEK_NOTHING], answer(ssl, ret), first, "SSL_peek of nothing");
}

static void one_round(struct pair *p, struct answer *want, bool first)
{
	static __thread unsigned char out[ROUND_BYTES], in[ROUND_BYTES];
	static __thread unsigned seed;
	struct pollfd ready = {.fd = SSL_get_fd(p->server), .events = POLLIN};
	int ret;

	for (size_t i = 0; i < sizeof(out); i++)
		out[i] = (unsigned char)(seed++ * 2654435761u >> 24);
	read_nothing(p->server, want, first);
	errno = EXDEV;
	ret = SSL_write(p->client, out, sizeof(out));
	compare(&want[WRITE], answer(p->client, ret), first, "SSL_write");
	errno = EXDEV;
	ret = SSL_write(p->client, out, -1);
	compare(&want[WRITE_BAD_LENGTH], answer(p->client, ret), first, "SSL_write of -1");
	if (poll(&ready, 1, 20000) != 1)
		die("poll");
	errno = EXDEV;
	ret = SSL_read(p->server, in, sizeof(in));
	compare(&want[READ], answer(p->server, ret), first, "SSL_read");
	if (memcmp(in, out, sizeof(in)) != 0)
		die("bytes");
}

static void *load_thread(void *unused)
{
	struct answer want[N_CALLS];
	struct pair p;

	(void)unused;
	pair_open(&p);
	for (unsigned long i = 0; !stopped; i++) {
		one_round(&p, want, i == 0);
		if (i == BASELINE_ROUNDS && atomic_fetch_add(&n_baselines, 1) == 1) {
			puts("baseline");
			fflush(stdout);
		}
		if (i % 16 == 0)
			usleep(1000); /* others have work to do on this machine */
	}
	pair_close(&p);
	return NULL;
}

static void on_term(int sig)
{
	(void)sig;
	stopped = 1;
}

static void load(void)
{
	pthread_t t[2];

	signal(SIGTERM, on_term);
	for (int i = 0; i < 2; i++)
		if (pthread_create(&t[i], NULL, load_thread, NULL))
			die("thread");
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	printf("calls %lu\n", atomic_load(&n_calls));
}

/* --- one exchange -------------------------------------------------------------------------------
 */

struct half {
	EVP_MD_CTX *md;
	size_t total;
	char line[128];
};

static void half_init(struct half *h)
{
	h->md = EVP_MD_CTX_new();
	EVP_DigestInit_ex(h->md, EVP_sha256(), NULL);
}

static void half_end(struct half *h, const char *what)
{
	unsigned char d[32];
	int n = snprintf(h->line, sizeof(h->line), "%s %zu ", what, h->total);

	EVP_DigestFinal_ex(h->md, d, NULL);
	for (int i = 0; i < 32; i++)
		n += snprintf(h->line + n, sizeof(h->line) - (size_t)n, "%02x", d[i]);
	snprintf(h->line + n, sizeof(h->line) - (size_t)n, "\n");
}

static void move(SSL *from, SSL *to, struct half *h, unsigned char fill)
{
	unsigned char buf[1500], in[1500];

	memset(buf, fill, sizeof(buf));
	if (SSL_write(from, buf, sizeof(buf)) != sizeof(buf) ||
	    SSL_read(to, in, sizeof(in)) != sizeof(in) || memcmp(in, buf, sizeof(in)) != 0)
		die("bytes");
	EVP_DigestUpdate(h->md, buf, sizeof(buf));
	h->total += sizeof(buf);
}

static void say(const char *line)
{
	if (write(1, line, strlen(line)) < 0)
		die("write");
}

static void enter_strict(void)
{
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT))
		die("seccomp");
}

static void talk(bool strict)
{
	struct half sent = {0}, got = {0};
	struct pair p;
	char line[32];

	pair_open(&p);
	set_blocking(&p, true);
	half_init(&sent);
	half_init(&got);
	for (unsigned i = 0; i < 60; i++) {
		if (i == 20 && strict) /* by now nothing has to be allocated any more */
			enter_strict();
		move(p.client, p.server, &sent, (unsigned char)i);
		move(p.server, p.client, &got, (unsigned char)~i);
	}
	half_end(&sent, "sent");
	half_end(&got, "got");
	snprintf(line, sizeof(line), "port %d\n", p.port);
	say(line);
	say(sent.line);
	say(got.line);
	if (strict) /* exit_group() is not allowed */
		syscall(SYS_exit, 0);
	pair_close(&p);
}

/* --- cut short ----------------------------------------------------------------------------------
 */

static void *block(void *unused)
{
	struct pair p;
	char c;

	(void)unused;
	pair_open(&p);
	set_blocking(&p, true);
	say("blocked\n");
	if (SSL_read(p.client, &c, 1) != 0)
		die("something came");
	return NULL;
}

static void exec_during_call(void)
{
	char talk_word[] = "talk";
	pthread_t t;

	if (pthread_create(&t, NULL, block, NULL))
		die("thread");
	usleep(300000);
	for (int fd = 3; fd < 64; fd++)
		fcntl(fd, F_SETFD, FD_CLOEXEC);
	args[3] = talk_word;
	execv("/proc/self/exe", args);
	die("exec");
}

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	args = argv;
	cert = argv[1];
	key = argv[2];
	if (!strcmp(argv[3], "load"))
		load();
	else if (!strcmp(argv[3], "block"))
		block(NULL);
	else if (!strcmp(argv[3], "exec"))
		exec_during_call();
	else
		talk(!strcmp(argv[3], "strict"));
	return 0;
}
