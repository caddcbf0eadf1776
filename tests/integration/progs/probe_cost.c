/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probe_cost: the parts of tests/bench/probe_cost that are not a script.
 *
 * probe_cost run CERT KEY     TLS through a BIO pair in one thread. Each line on stdin measures
 * once: a line "SIZE WRITE_NS READ_NS" for each size, ns per call, then "done". probe_cost empty
 * FILE AT…   probes with an empty program, AT: entry:OFFSET or return:OFFSET, until stdin ends.
 * Says "ready".
 */
#include <bpf/bpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PIPE_BYTES  (1u << 20) /* of one direction of the BIO pair */
#define BATCH_BYTES (1u << 19) /* written before they are read: fits the pair with its overhead */
#define BATCH_CALLS 64u
#define BATCHES_MAX 4096u
#define MEASURE_NS  150000000u /* for each size */

static void die(const char *what)
{
	fprintf(stderr, "probe_cost: %s: %s\n", what, strerror(errno));
	ERR_print_errors_fp(stderr);
	exit(1);
}

/* --- run ----------------------------------------------------------------------------------------
 */

struct ends {
	SSL *client, *server;
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static SSL *end_new(const SSL_METHOD *method, const char *cert, const char *key)
{
	SSL_CTX *ctx = SSL_CTX_new(method);
	SSL *ssl;

	if (!ctx || (cert && (SSL_CTX_use_certificate_chain_file(ctx, cert) != 1 ||
			      SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1)))
		die("certificate");
	ssl = SSL_new(ctx);
	SSL_CTX_free(ctx);
	if (!ssl)
		die("SSL_new");
	return ssl;
}

static void shake_hands(struct ends *e)
{
	BIO *a, *b;

	if (!BIO_new_bio_pair(&a, PIPE_BYTES, &b, PIPE_BYTES))
		die("BIO_new_bio_pair");
	SSL_set_bio(e->client, a, a);
	SSL_set_bio(e->server, b, b);
	SSL_set_connect_state(e->client);
	SSL_set_accept_state(e->server);
	for (int i = 0; i < 20; i++) {
		int c = SSL_do_handshake(e->client), s = SSL_do_handshake(e->server);

		if (c == 1 && s == 1)
			return;
	}
	die("handshake");
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
	static uint64_t write_ns[BATCHES_MAX], read_ns[BATCHES_MAX];
	unsigned calls = BATCH_BYTES / (unsigned)size;
	uint64_t end = now_ns() + MEASURE_NS;
	size_t n = 0;

	if (calls > BATCH_CALLS)
		calls = BATCH_CALLS;
	while (now_ns() < end && n < BATCHES_MAX) {
		batch(e, size, calls, &write_ns[n], &read_ns[n]);
		n++;
	}
	printf("%d %llu %llu\n", size, (unsigned long long)median(write_ns, n),
	       (unsigned long long)median(read_ns, n));
}

static int run(const char *cert, const char *key)
{
	static const int sizes[] = {100, 1000, 16000};
	struct ends e = {.client = end_new(TLS_client_method(), NULL, NULL),
			 .server = end_new(TLS_server_method(), cert, key)};
	char line[64];

	shake_hands(&e);
	while (fgets(line, sizeof(line), stdin)) {
		for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
			measure(&e, sizes[i]);
		puts("done");
		fflush(stdout);
	}
	SSL_free(e.client);
	SSL_free(e.server);
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
	if (argc >= 4 && !strcmp(argv[1], "empty"))
		return empty(argv[2], argv + 3);
	fputs("usage: probe_cost run CERT KEY | probe_cost empty FILE AT...\n", stderr);
	return 2;
}
