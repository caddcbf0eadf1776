/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rings: what it costs to put an event into a ring buffer while others do the same. Kernel programs
 * that do nothing else, run by threads, each as often as the ring has room for.
 * rings THREADS RINGS
 * Prints ns of a thread's CPU time for each event: the median of the runs.
 */
#include <bpf/bpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define RING_BYTES  (64u << 20)
#define EVENT_BYTES 136u /* as one with up to 64 bytes of plaintext */
#define RUNS        41u
#define THREADS_MAX 64u
#define RINGS_MAX   8u

/* linux/bpf.h */
enum { RESERVE = 131, SUBMIT = 132, NO_WAKEUP = 1 };

struct ring {
	int map, prog;
	uint64_t *taken;
	const uint64_t *put;
};

struct thread {
	pthread_t id;
	const struct ring *ring;
	unsigned events;
	uint64_t ns;
};

static pthread_barrier_t start;

static void die(const char *what)
{
	fprintf(stderr, "rings: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int load(int map)
{
	const struct bpf_insn code[] = {
		{.code = BPF_LD | BPF_DW | BPF_IMM,
		 .dst_reg = BPF_REG_1,
		 .src_reg = BPF_PSEUDO_MAP_FD,
		 .imm = map},
		{.imm = 0},
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_2, .imm = EVENT_BYTES},
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_3},
		{.code = BPF_JMP | BPF_CALL, .imm = RESERVE},
		{.code = BPF_JMP | BPF_JEQ | BPF_K, .dst_reg = BPF_REG_0, .off = 4},
		{.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = BPF_REG_1, .src_reg = BPF_REG_0},
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_2, .imm = NO_WAKEUP},
		{.code = BPF_JMP | BPF_CALL, .imm = SUBMIT},
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0},
		{.code = BPF_JMP | BPF_EXIT},
	};

	return bpf_prog_load(BPF_PROG_TYPE_SOCKET_FILTER, "put", "GPL", code,
			     sizeof(code) / sizeof(code[0]), NULL);
}

static void open_ring(struct ring *r)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	r->map = bpf_map_create(BPF_MAP_TYPE_RINGBUF, "ring", 0, 0, RING_BYTES, NULL);
	if (r->map < 0)
		die("ring buffer");
	r->prog = load(r->map);
	if (r->prog < 0)
		die("program");
	r->taken = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, r->map, 0);
	r->put = mmap(NULL, page, PROT_READ, MAP_SHARED, r->map, (off_t)page);
	if (r->taken == MAP_FAILED || r->put == MAP_FAILED)
		die("mmap");
}

static uint64_t cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void *put(void *ctx)
{
	struct thread *t = ctx;
	char packet[64] = {0};
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = packet, .data_size_in = sizeof(packet),
		    .repeat = (int)t->events);

	pthread_barrier_wait(&start);
	t->ns = cpu_ns();
	if (bpf_prog_test_run_opts(t->ring->prog, &opts))
		die("test run");
	t->ns = cpu_ns() - t->ns;
	return NULL;
}

/* ns for each event. */
static double run(struct thread *threads, unsigned n, struct ring *rings, unsigned n_rings)
{
	uint64_t ns = 0, events = 0, told = 0;

	pthread_barrier_init(&start, NULL, n);
	for (unsigned i = 0; i < n; i++) {
		threads[i] = (struct thread){
			.ring = &rings[i % n_rings],
			.events = RING_BYTES / (EVENT_BYTES + BPF_RINGBUF_HDR_SZ) / n - 1};
		if (pthread_create(&threads[i].id, NULL, put, &threads[i]))
			die("pthread_create");
	}
	for (unsigned i = 0; i < n; i++) {
		pthread_join(threads[i].id, NULL);
		ns += threads[i].ns;
		events += threads[i].events;
	}
	pthread_barrier_destroy(&start);
	for (unsigned i = 0; i < n_rings; i++) {
		uint64_t at = __atomic_load_n(rings[i].put, __ATOMIC_ACQUIRE);

		told += (at - *rings[i].taken) / (EVENT_BYTES + BPF_RINGBUF_HDR_SZ);
		__atomic_store_n(rings[i].taken, at, __ATOMIC_RELEASE);
	}
	if (told != events)
		die("not all events are in the rings");
	return (double)ns / (double)events;
}

static int compare(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

int main(int argc, char **argv)
{
	unsigned n = argc == 3 ? (unsigned)atoi(argv[1]) : 0;
	unsigned n_rings = argc == 3 ? (unsigned)atoi(argv[2]) : 0;
	static struct thread threads[THREADS_MAX];
	static struct ring rings[RINGS_MAX];
	const struct sched_param first = {.sched_priority = 1};
	double ns[RUNS];

	if (!n || n > THREADS_MAX || !n_rings || n_rings > RINGS_MAX) {
		fputs("usage: rings THREADS RINGS\n", stderr);
		return 2;
	}
	for (unsigned i = 0; i < n_rings; i++)
		open_ring(&rings[i]);
	/* Else threads would not run at the same time where others do, too. */
	if (sched_setscheduler(0, SCHED_FIFO, &first))
		die("sched_setscheduler");
	for (unsigned i = 0; i < RUNS; i++)
		ns[i] = run(threads, n, rings, n_rings);
	qsort(ns, RUNS, sizeof(ns[0]), compare);
	printf("%.1f\n", ns[RUNS / 2]);
	return 0;
}
