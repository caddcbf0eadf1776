/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probe_cost: the parts of tests/bench/probe_cost and tests/bench/rings that are not scripts.
 *
 * probe_cost run CERT KEY     TLS with itself in one thread: hands are shaken over a TCP
 * connection, for the objects to have one, and the rest goes through memory. Each line on stdin
 * measures once, with new objects: a line "SIZE WRITE_NS READ_NS" for each size, ns per call, then
 * "done". probe_cost busy CERT KEY   the same with 100 bytes, in bursts that all who run it begin
 * at the same time, each with a processor of its own; ns of CPU time. probe_cost empty FILE AT…
 * probes with an empty program, AT: entry:OFFSET or return:OFFSET, until stdin ends. Says "ready".
 */
#include <bpf/bpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PIPE_BYTES  (1u << 20) /* of one direction, in memory */
#define BATCH_BYTES (1u << 19) /* written before they are read: fits the pipe with its overhead */
#define BATCH_CALLS 64u
#define BATCHES     41u      /* for each size */
#define WARM_CALLS  8u       /* not measured: whoever mirrors them is woken */
#define REST_NS     8000000u /* between them: it is to follow */
#define BURST_SIZE  100
#define BURST_NS    8000000u   /* of CPU time; what it tells fits a ring */
#define BURST_EVERY 250000000u /* with time to empty it */
#define BURSTS      15u

static void die(const char *what)
{
	fprintf(stderr, "probe_cost: %s: %s\n", what, strerror(errno));
	ERR_print_errors_fp(stderr);
	exit(1);
}

/* --- run ----------------------------------------------------------------------------------------
 */

/* From the client to the server, or back. */
struct pipe {
	unsigned char v[PIPE_BYTES];
	size_t from, to;
};

/* One end's transport. */
struct transport {
	int fd;
	struct pipe *out, *in;
};

struct ends {
	SSL_CTX *ctx[2];
	SSL *client, *server;
	struct transport t[2];
};

static struct pipe pipes[2];
static bool is_shaking;

static clockid_t clock_used = CLOCK_MONOTONIC;

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(clock_used, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* --- their transport ----------------------------------------------------------------------------
 */

static int on_write(BIO *b, const char *data, size_t n, size_t *done)
{
	struct transport *t = BIO_get_data(b);

	if (is_shaking) {
		ssize_t r = send(t->fd, data, n, 0);

		*done = r > 0 ? (size_t)r : 0;
		return r > 0;
	}
	if (n > PIPE_BYTES - t->out->to)
		return 0;
	memcpy(t->out->v + t->out->to, data, n);
	t->out->to += n;
	*done = n;
	return 1;
}

static int take(struct transport *t, char *data, size_t room, size_t *done)
{
	size_t n = t->in->to - t->in->from;

	*done = n < room ? n : room;
	memcpy(data, t->in->v + t->in->from, *done);
	t->in->from += *done;
	if (t->in->from == t->in->to)
		t->in->from = t->in->to = 0;
	return *done > 0;
}

static int on_read(BIO *b, char *data, size_t room, size_t *done)
{
	struct transport *t = BIO_get_data(b);
	ssize_t r;
	int ok;

	BIO_clear_retry_flags(b);
	if (is_shaking) {
		r = recv(t->fd, data, room, MSG_DONTWAIT);
		*done = r > 0 ? (size_t)r : 0;
		ok = r > 0;
	} else {
		ok = take(t, data, room, done);
	}
	if (!ok)
		BIO_set_retry_read(b);
	return ok;
}

static long on_ctrl(BIO *b, int cmd, long n, void *p)
{
	(void)b, (void)n, (void)p;
	return cmd == BIO_CTRL_FLUSH;
}

static BIO *transport_bio(struct transport *t)
{
	static BIO_METHOD *m;
	BIO *b;

	if (!m) {
		m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "probe_cost");
		if (!m || !BIO_meth_set_write_ex(m, on_write) ||
		    !BIO_meth_set_read_ex(m, on_read) || !BIO_meth_set_ctrl(m, on_ctrl))
			die("BIO_meth_new");
	}
	b = BIO_new(m);
	if (!b)
		die("BIO_new");
	BIO_set_data(b, t);
	BIO_set_init(b, 1);
	return b;
}

static void connect_both(struct transport t[2])
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	socklen_t len = sizeof(at);

	t[0].fd = socket(AF_INET, SOCK_STREAM, 0);
	if (listener < 0 || t[0].fd < 0 || bind(listener, (struct sockaddr *)&at, len) ||
	    listen(listener, 1) || getsockname(listener, (struct sockaddr *)&at, &len) ||
	    connect(t[0].fd, (struct sockaddr *)&at, len))
		die("connect");
	t[1].fd = accept(listener, NULL, NULL);
	if (t[1].fd < 0)
		die("accept");
	close(listener);
}

/* --- two ends -----------------------------------------------------------------------------------
 */

static SSL_CTX *ctx_new(const SSL_METHOD *method, const char *cert, const char *key)
{
	SSL_CTX *ctx = SSL_CTX_new(method);

	if (!ctx || (cert && (SSL_CTX_use_certificate_chain_file(ctx, cert) != 1 ||
			      SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1)))
		die("certificate");
	SSL_CTX_set_num_tickets(ctx, 0); /* nothing is left on the connection */
	return ctx;
}

static SSL *end_new(SSL_CTX *ctx, struct transport *t)
{
	SSL *ssl = SSL_new(ctx);
	BIO *b = transport_bio(t);

	if (!ssl)
		die("SSL_new");
	SSL_set_bio(ssl, b, b);
	return ssl;
}

static void shake_hands(struct ends *e)
{
	connect_both(e->t);
	for (int i = 0; i < 2; i++) {
		pipes[i].from = pipes[i].to = 0;
		e->t[i].out = &pipes[i];
		e->t[i].in = &pipes[!i];
	}
	e->client = end_new(e->ctx[0], &e->t[0]);
	e->server = end_new(e->ctx[1], &e->t[1]);
	SSL_set_connect_state(e->client);
	SSL_set_accept_state(e->server);
	is_shaking = true;
	for (int i = 0; i < 1000 && is_shaking; i++) {
		int c = SSL_do_handshake(e->client), s = SSL_do_handshake(e->server);

		is_shaking = c != 1 || s != 1;
	}
	if (is_shaking)
		die("handshake");
}

static void part(struct ends *e)
{
	SSL_free(e->client);
	SSL_free(e->server);
	close(e->t[0].fd);
	close(e->t[1].fd);
}

/* One batch: ns per call. */
static void batch(const struct ends *e, int size, unsigned calls, uint64_t *write_ns,
		  uint64_t *read_ns)
{
	static char out[16384], in[16384];
	uint64_t t0 = now_ns(), t1, t2;

	for (unsigned i = 0; i < calls; i++)
		if (SSL_write(e->client, out, size) != size)
			die("SSL_write");
	t1 = now_ns();
	for (unsigned i = 0; i < calls; i++)
		if (SSL_read(e->server, in, size) != size)
			die("SSL_read");
	t2 = now_ns();
	*write_ns = (t1 - t0) / calls;
	*read_ns = (t2 - t1) / calls;
}

static int compare(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

static uint64_t median(uint64_t *v, size_t n)
{
	qsort(v, n, sizeof(*v), compare);
	return v[n / 2];
}

/* The medians of many batches: one that was interrupted does not count. */
static void measure(const struct ends *e, int size)
{
	static uint64_t write_ns[BATCHES], read_ns[BATCHES];
	const struct timespec rest = {.tv_nsec = REST_NS};
	unsigned calls = BATCH_BYTES / (unsigned)size;

	if (calls > BATCH_CALLS)
		calls = BATCH_CALLS;
	for (unsigned n = 0; n < BATCHES; n++) {
		batch(e, size, WARM_CALLS, &write_ns[n], &read_ns[n]);
		batch(e, size, calls, &write_ns[n], &read_ns[n]);
		nanosleep(&rest, NULL);
	}
	printf("%d %llu %llu\n", size, (unsigned long long)median(write_ns, BATCHES),
	       (unsigned long long)median(read_ns, BATCHES));
}

static int run(const char *cert, const char *key)
{
	static const int sizes[] = {100, 1000, 16000};
	struct ends e = {.ctx = {ctx_new(TLS_client_method(), NULL, NULL),
				 ctx_new(TLS_server_method(), cert, key)}};
	char line[64];

	while (fgets(line, sizeof(line), stdin)) {
		shake_hands(&e);
		for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
			measure(&e, sizes[i]);
		part(&e);
		puts("done");
		fflush(stdout);
	}
	SSL_CTX_free(e.ctx[0]);
	SSL_CTX_free(e.ctx[1]);
	return 0;
}

/* --- busy ---------------------------------------------------------------------------------------
 */

static void wait_for_burst(void)
{
	struct timespec now, rest = {0};

	clock_gettime(CLOCK_REALTIME, &now);
	rest.tv_nsec = BURST_EVERY - now.tv_nsec % BURST_EVERY;
	nanosleep(&rest, NULL);
}

static void burst(const struct ends *e, uint64_t *write_ns, uint64_t *read_ns)
{
	uint64_t end = now_ns() + BURST_NS, sum[2] = {0}, batches = 0;

	for (; now_ns() < end; batches++) {
		batch(e, BURST_SIZE, BATCH_CALLS, write_ns, read_ns);
		sum[0] += *write_ns;
		sum[1] += *read_ns;
	}
	*write_ns = sum[0] / batches;
	*read_ns = sum[1] / batches;
}

static int busy(const char *cert, const char *key)
{
	struct ends e = {.ctx = {ctx_new(TLS_client_method(), NULL, NULL),
				 ctx_new(TLS_server_method(), cert, key)}};
	const struct sched_param first = {.sched_priority = 1};
	uint64_t write_ns[BURSTS], read_ns[BURSTS];
	char line[64];

	/* Else they would not be busy at the same time where others are, too. */
	if (sched_setscheduler(0, SCHED_FIFO, &first))
		die("sched_setscheduler");
	clock_used = CLOCK_THREAD_CPUTIME_ID;
	while (fgets(line, sizeof(line), stdin)) {
		shake_hands(&e);
		for (unsigned i = 0; i < BURSTS; i++) {
			wait_for_burst();
			burst(&e, &write_ns[i], &read_ns[i]);
		}
		part(&e);
		printf("%d %llu %llu\ndone\n", BURST_SIZE,
		       (unsigned long long)median(write_ns, BURSTS),
		       (unsigned long long)median(read_ns, BURSTS));
		fflush(stdout);
	}
	SSL_CTX_free(e.ctx[0]);
	SSL_CTX_free(e.ctx[1]);
	return 0;
}

/* --- empty --------------------------------------------------------------------------------------
 */

#define TRACE_UPROBE_MULTI  48 /* enum bpf_attach_type, 6.6 */
#define UPROBE_MULTI_RETURN 1u

static int empty_program(void)
{
	const struct bpf_insn code[] = {
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0},
		{.code = BPF_JMP | BPF_EXIT},
	};
	LIBBPF_OPTS(bpf_prog_load_opts, opts,
		    .expected_attach_type = (enum bpf_attach_type)TRACE_UPROBE_MULTI);

	return bpf_prog_load(BPF_PROG_TYPE_KPROBE, "empty", "GPL", code, 2, &opts);
}

static void link_empty(int prog, const char *file, uint64_t offset, bool at_return)
{
	struct {
		uint32_t prog_fd, target_fd, attach_type, flags;
		uint64_t path, offsets, ref_ctr_offsets, cookies;
		uint32_t count, multi_flags, pid, pad;
	} attr = {
		.prog_fd = (uint32_t)prog,
		.attach_type = TRACE_UPROBE_MULTI,
		.path = (uintptr_t)file,
		.offsets = (uintptr_t)&offset,
		.count = 1,
		.multi_flags = at_return ? UPROBE_MULTI_RETURN : 0,
	};

	if (syscall(SYS_bpf, BPF_LINK_CREATE, &attr, sizeof(attr)) < 0)
		die("BPF_LINK_CREATE");
}

static int empty(const char *file, char **at)
{
	int prog = empty_program();

	if (prog < 0)
		die("BPF_PROG_LOAD");
	for (; *at; at++) {
		bool at_return = !strncmp(*at, "return:", 7);
		const char *offset = strchr(*at, ':');

		if (!offset)
			die(*at);
		link_empty(prog, file, strtoull(offset + 1, NULL, 0), at_return);
	}
	puts("ready");
	fflush(stdout);
	while (getchar() != EOF)
		;
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "run"))
		return run(argv[2], argv[3]);
	if (argc == 4 && !strcmp(argv[1], "busy"))
		return busy(argv[2], argv[3]);
	if (argc >= 4 && !strcmp(argv[1], "empty"))
		return empty(argv[2], argv + 3);
	fputs("usage: probe_cost run|busy CERT KEY | probe_cost empty FILE AT...\n", stderr);
	return 2;
}
