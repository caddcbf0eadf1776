/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unharmed: a program that notices when somebody changes what its TLS calls answer. Both ends of
 * its connections are in it, over TCP on loopback. unharmed CERT KEY WHAT load    two threads call
 * until SIGTERM: bytes, results, errno and error queue must be what they were in the first rounds;
 * "baseline" when those are done, "calls N" at the end talk    one exchange; "port P", "sent N
 * SHA256", "got N SHA256" as the connecting end says strict  the same, inside the strictest
 * sandbox: read, write and exit are all it may do block   waits inside SSL_read for bytes that
 * never come exec    a thread waits so, another one makes the process a "talk"
 *
 * Exchanges that something befalls on their way:
 *
 * refused, forbidden  a sandbox that refuses new files and sockets, or kills for them
 * rooted              an empty root directory, another user
 * closed              whatever descriptors are not the program's own are closed, one by one and all
 * full                no descriptor is left
 * fork, forked        children come and go; the exchange goes on in a child
 * vfork               children that share the memory close what they find, and become something
 * else alarm               a signal's handler makes TLS calls of its own; port and sums of those,
 * too storm               twenty children at a time, an exchange each, two hundred in all
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
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

static void enter_strict(const struct pair *p)
{
	(void)p;
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT))
		die("seccomp");
}

/* For what a library might want to do later, when it has lost its agent. */
static void enter_filter(uint32_t answer)
{
	static const uint32_t calls[] = {SYS_memfd_create, SYS_socket,  SYS_connect, SYS_openat,
					 SYS_ftruncate,    SYS_sendmsg, SYS_mmap,    SYS_madvise,
					 SYS_eventfd2,     SYS_fcntl};
	enum { N = sizeof(calls) / sizeof(calls[0]) };
	struct sock_filter code[N + 3];
	struct sock_fprog program = {.len = N + 3, .filter = code};

	code[0] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
					       offsetof(struct seccomp_data, nr));
	for (unsigned i = 0; i < N; i++)
		code[i + 1] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[i],
							   (unsigned char)(N - i), 0);
	code[N + 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	code[N + 2] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, answer);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		die("seccomp");
}

static void be_refused(const struct pair *p)
{
	(void)p;
	enter_filter(SECCOMP_RET_ERRNO | EPERM);
}

static void be_forbidden(const struct pair *p)
{
	(void)p;
	enter_filter(SECCOMP_RET_KILL_PROCESS);
}

static void be_rooted(const struct pair *p)
{
	char dir[] = "/tmp/unharmed.XXXXXX";

	(void)p;
	if (!mkdtemp(dir) || chdir(dir) || rmdir(dir) || chroot(".") || setgid(65534) ||
	    setuid(65534))
		die("chroot");
}

static void close_others(const struct pair *p)
{
	int last = SSL_get_fd(p->client);

	if (last < SSL_get_fd(p->server))
		last = SSL_get_fd(p->server);
	for (int fd = 3; fd < 4096; fd++)
		if (fd != SSL_get_fd(p->client) && fd != SSL_get_fd(p->server))
			close(fd);
	closefrom(last + 1);
}

static void use_all_descriptors(const struct pair *p)
{
	(void)p;
	while (dup(2) >= 0)
		;
	if (errno != EMFILE)
		die("dup");
}

static void wait_for(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) != pid || status)
		die("a child's status");
}

static void have_children(const struct pair *p)
{
	for (int i = 0; i < 50; i++) {
		pid_t pid = fork();

		if (pid < 0)
			die("fork");
		if (pid == 0) {
			close(SSL_get_fd(p->client));
			close(SSL_get_fd(p->server));
			_exit(0);
		}
		wait_for(pid);
	}
}

static void go_on_in_child(const struct pair *p)
{
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	if (pid == 0)
		return;
	close(SSL_get_fd(p->client));
	close(SSL_get_fd(p->server));
	wait_for(pid);
	_exit(0);
}

static void have_guests(const struct pair *p)
{
	for (int i = 0; i < 20; i++) {
		int fd[2] = {SSL_get_fd(p->client), SSL_get_fd(p->server)};
		pid_t pid = vfork();

		if (pid < 0)
			die("vfork");
		if (pid == 0) { /* as programs do it, though POSIX allows nothing here */
			close(fd[0]);
			closefrom(3);
			execl("/bin/true", "true", (char *)NULL);
			_exit(1);
		}
		wait_for(pid);
	}
}

/* --- calls in a handler -------------------------------------------------------------------------
 */

static struct pair handlers;
static struct half handlers_sent;
static volatile sig_atomic_t n_alarms;

/* Nothing in it allocates: both objects have their buffers by now. */
static void on_alarm(int sig)
{
	static unsigned char out[700], in[700];
	int saved = errno;

	(void)sig;
	memset(out, n_alarms++, sizeof(out));
	if (SSL_write(handlers.client, out, sizeof(out)) != sizeof(out) ||
	    SSL_read(handlers.server, in, sizeof(in)) != sizeof(in) ||
	    memcmp(in, out, sizeof(in)) != 0)
		die("bytes in the handler");
	errno = saved;
}

static void set_alarms(const struct pair *p)
{
	struct sigaction act = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
	const struct itimerval often = {{.tv_usec = 500}, {.tv_usec = 500}};

	(void)p;
	pair_open(&handlers);
	set_blocking(&handlers, true);
	on_alarm(0);
	if (sigaction(SIGALRM, &act, NULL) || setitimer(ITIMER_REAL, &often, NULL))
		die("alarm");
}

/* What the handler's calls have moved is known by how often it came. */
static void end_alarms(void)
{
	const struct itimerval never = {{0}, {0}};
	unsigned char out[700];
	char line[32];

	setitimer(ITIMER_REAL, &never, NULL);
	half_init(&handlers_sent);
	for (int i = 0; i < n_alarms; i++) {
		memset(out, i, sizeof(out));
		EVP_DigestUpdate(handlers_sent.md, out, sizeof(out));
		handlers_sent.total += sizeof(out);
	}
	half_end(&handlers_sent, "sent");
	snprintf(line, sizeof(line), "port %d\n", handlers.port);
	say(line);
	say(handlers_sent.line);
	pair_close(&handlers);
}

/* --- what befalls it ----------------------------------------------------------------------------
 */

static const struct event {
	const char *name;
	void (*befall)(const struct pair *p);
	unsigned rounds;
} events[] = {
	{"talk", NULL, 60},
	{"strict", enter_strict, 60},
	{"refused", be_refused, 60},
	{"forbidden", be_forbidden, 60},
	{"rooted", be_rooted, 60},
	{"closed", close_others, 60},
	{"full", use_all_descriptors, 60},
	{"fork", have_children, 60},
	{"forked", go_on_in_child, 60},
	{"vfork", have_guests, 60},
	{"alarm", set_alarms, 3000},
};

static void count_descriptors(void)
{
	unsigned n = 0;
	char line[32];

	for (int fd = 0; fd < 65536; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	snprintf(line, sizeof(line), "descriptors %u\n", n);
	say(line);
}

static void talk(const struct event *e)
{
	struct half sent = {0}, got = {0};
	struct pair p;
	char all[300];

	pair_open(&p);
	set_blocking(&p, true);
	half_init(&sent);
	half_init(&got);
	for (unsigned i = 0; i < e->rounds; i++) {
		if (i == 20) { /* by now nothing has to be allocated any more */
			count_descriptors();
			if (e->befall)
				e->befall(&p);
		}
		move(p.client, p.server, &sent, (unsigned char)i);
		move(p.server, p.client, &got, (unsigned char)~i);
	}
	if (e->befall == set_alarms)
		end_alarms();
	half_end(&sent, "sent");
	half_end(&got, "got");
	snprintf(all, sizeof(all), "port %d\n%s%s", p.port, sent.line, got.line);
	say(all);                      /* at once: other processes say theirs */
	if (e->befall == enter_strict) /* exit_group() is not allowed */
		syscall(SYS_exit, 0);
	pair_close(&p);
}

static void storm(void)
{
	static const struct event one = {"one of a storm", NULL, 19};

	for (int i = 0; i < 200; i++) {
		pid_t pid = fork();
		int status;

		if (pid < 0)
			die("fork");
		if (pid == 0) {
			talk(&one);
			_exit(0);
		}
		if (i >= 20 && (wait(&status) < 0 || status))
			die("a child's status");
	}
	for (int status; wait(&status) > 0;)
		if (status)
			die("a child's status");
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
	else if (!strcmp(argv[3], "storm"))
		storm();
	for (size_t i = 0; i < sizeof(events) / sizeof(events[0]); i++)
		if (!strcmp(argv[3], events[i].name))
			talk(&events[i]);
	return 0;
}
