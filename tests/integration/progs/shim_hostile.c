/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shim_hostile DIR MS SEED: a program that comes to the agent at DIR as the preloaded library
 * would, and then says anything but the truth, for so many milliseconds: a ring full of noise,
 * positions that run in all directions, records whose lengths, descriptors and places are invented,
 * rings that are none, greetings that are none. Before each turn it takes a ring of its own, so
 * that one that was given up is not the end. Its one true connection is on loopback: "port P of P".
 * At the end "records N, rings N".
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/types.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../../proto/event.h"
#include "../../../proto/shim.h"

#define SIZE    SSLC_SHIM_DATA_MIN
#define SEALS   (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define TURN_MS 300
#define FDS_MAX 4
#define MANY    100000u /* operations in a row between two looks at the clock, at most */

struct ring {
	struct sslc_shim_ring *shared;
	uint8_t *data;
};

static struct sockaddr_un agent = {.sun_family = AF_UNIX};
static uint64_t noise, n_records, n_rings;
static int tcp = -1; /* the true connection's near end */

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t draw(void)
{
	noise ^= noise << 13;
	noise ^= noise >> 7;
	noise ^= noise << 17;
	return noise;
}

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

/* --- how it comes -------------------------------------------------------------------------------
 */

static int connect_agent(void)
{
	int s = socket(AF_UNIX, SOCK_SEQPACKET, 0);

	if (s < 0)
		die("socket");
	if (connect(s, (struct sockaddr *)&agent, sizeof(agent)))
		die("the agent does not listen");
	return s;
}

static void greet(const void *said, size_t len, const int *fds, unsigned n_fds)
{
	char room[CMSG_SPACE(sizeof(int) * FDS_MAX)] = {0};
	struct iovec iov = {.iov_base = (void *)(uintptr_t)said, .iov_len = len};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	int s = connect_agent();

	if (n_fds) {
		m.msg_control = room;
		m.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
		*CMSG_FIRSTHDR(&m) = (struct cmsghdr){.cmsg_level = SOL_SOCKET,
						      .cmsg_type = SCM_RIGHTS,
						      .cmsg_len = CMSG_LEN(sizeof(int) * n_fds)};
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)), fds, sizeof(int) * n_fds);
	}
	(void)!sendmsg(s, &m, MSG_NOSIGNAL);
	close(s);
}

static int make_file(uint64_t bytes, int seals)
{
	int fd = memfd_create(SSLC_SHIM_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || ftruncate(fd, (off_t)bytes) || (seals && fcntl(fd, F_ADD_SEALS, seals)))
		die("memfd");
	return fd;
}

static const struct sslc_shim_hello good = {
	.magic = SSLC_SHIM_MAGIC, .version = SSLC_SHIM_VERSION, .data_size = SIZE};

static struct ring make_ring(void)
{
	int fd = make_file(sslc_shim_bytes(SIZE), SEALS);
	struct ring r = {.shared = mmap(NULL, sslc_shim_bytes(SIZE), PROT_READ | PROT_WRITE,
					MAP_SHARED, fd, 0)};
	uint64_t end = now_ms() + 2000;

	if (r.shared == MAP_FAILED)
		die("mmap");
	r.data = (uint8_t *)r.shared + SSLC_SHIM_DATA_OFF;
	r.shared->magic = SSLC_SHIM_MAGIC;
	r.shared->version = SSLC_SHIM_VERSION;
	r.shared->rec_size = sizeof(struct sslc_shim_rec);
	r.shared->data_size = SIZE;
	r.shared->run_dir = draw();
	r.shared->gen = 1;
	greet(&good, sizeof(good), &fd, 1);
	close(fd);
	n_rings++;
	while (!__atomic_load_n(&r.shared->beat_ns, __ATOMIC_RELAXED) && now_ms() < end)
		usleep(1000);
	return r;
}

/* --- what it says -------------------------------------------------------------------------------
 */

static void scribble(const struct ring *r)
{
	uint64_t *words = (uint64_t *)(void *)r->shared;
	const size_t n = sslc_shim_bytes(SIZE) / sizeof(*words);

	for (unsigned i = 0; i < MANY; i++)
		words[draw() % n] = draw() % 3 ? draw() : draw() % 64;
}

static void scribble_in_head(const struct ring *r)
{
	uint64_t *words = (uint64_t *)(void *)r->shared;

	for (unsigned i = 0; i < MANY / 10; i++)
		words[draw() % 32] = draw() % 2 ? draw() : draw() % (2 * SIZE);
}

static uint64_t some(uint64_t small)
{
	switch (draw() % 4) {
	case 0:
		return draw();
	case 1:
		return draw() & ~(uint64_t)0 >> (draw() % 64);
	default:
		return draw() % small;
	}
}

static struct sslc_shim_rec invent(const struct ring *r, uint64_t at, uint32_t size)
{
	struct sslc_shim_rec rec = {
		.word = at | SSLC_SHIM_DONE,
		.size = size,
		.type = (uint16_t)(draw() % (SSLC_SHIM_TYPES + 1)),
		.dir = (uint8_t)(draw() % 16 ? draw() % 2 : draw()),
		.flags = (uint8_t)draw(),
		.ts_ns = draw() % 2 ? draw() : now_ms() * 1000000,
		.obj = 0x1000 + 16 * (draw() % 8 ? draw() % 8 : draw()),
		.life = (uint32_t)(draw() % 4),
		.thread = (uint32_t)draw(),
		.pos = some(1u << 20),
		.pos2 = some(16),
	};

	if (rec.type == SSLC_SHIM_DATA_BYTES) {
		rec.len = draw() % 8 ? (uint32_t)(draw() % (size + 1)) : (uint32_t)draw();
	} else {
		rec.fd = draw() % 4 ? tcp : (int32_t)some(64);
		rec.fd_gen = draw() % 4 ? r->shared->fd_gen[tcp] : (uint32_t)(draw() % 4);
	}
	return rec;
}

/* Records that are well-formed in most respects: what stands in them is not. */
static void lie(const struct ring *r)
{
	for (unsigned i = 0; i < MANY / 50; i++) {
		uint64_t head = r->shared->head & ~(uint64_t)(SSLC_SHIM_ALIGN - 1);
		uint64_t tail = __atomic_load_n(&r->shared->tail, __ATOMIC_ACQUIRE);
		uint32_t size = (uint32_t)(sizeof(struct sslc_shim_rec) + draw() % 512) &
				~(SSLC_SHIM_ALIGN - 1);
		struct sslc_shim_rec rec = invent(r, head, size);
		uint64_t at = head % SIZE;

		if (head - tail + size > SIZE || at + size > SIZE) {
			r->shared->head = head + (at + size > SIZE ? SIZE - at : 0);
			usleep(500);
			continue;
		}
		if (draw() % 64 == 0)
			rec.size = (uint32_t)some(1u << 16);
		if (draw() % 256 == 0)
			rec.word = some(SIZE);
		if (draw() % 512 == 0)
			r->shared->fd_gen[tcp]++;
		memcpy(r->data + at, &rec, sizeof(rec));
		__atomic_store_n(&r->shared->head, head + size, __ATOMIC_RELEASE);
		n_records++;
	}
}

/* Files that are no rings, and greetings that are none. */
static void come_wrong(const struct ring *r)
{
	const int fds[] = {make_file(sslc_shim_bytes(SIZE), 0),
			   make_file(sslc_shim_bytes(SIZE), SEALS),
			   make_file(sslc_shim_bytes(SIZE), SEALS | F_SEAL_WRITE),
			   make_file(4096, SEALS),
			   open("/dev/zero", O_RDWR),
			   open("/", O_RDONLY),
			   tcp};
	struct sslc_shim_hello bad = good;
	uint8_t text[200];

	(void)r;
	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		greet(&good, sizeof(good), &fds[i], 1);
	greet(&good, sizeof(good), fds, FDS_MAX);
	greet(&good, sizeof(good), NULL, 0);
	for (unsigned i = 0; i < 50; i++) {
		for (size_t k = 0; k < sizeof(text); k++)
			text[k] = (uint8_t)draw();
		greet(text, draw() % sizeof(text), fds, (unsigned)(draw() % (FDS_MAX + 1)));
		bad.data_size = some(1u << 30);
		greet(&bad, sizeof(bad), &fds[1], 1);
	}
	for (size_t i = 0; i < 6; i++)
		close(fds[i]);
}

/* Many that say nothing, and many that end at once. */
static void crowd(const struct ring *r)
{
	int idle[100];

	(void)r;
	for (size_t i = 0; i < 100; i++)
		idle[i] = connect_agent();
	for (size_t i = 0; i < 20; i++) {
		pid_t pid = fork();

		if (pid == 0) {
			struct ring mine = make_ring();

			lie(&mine);
			_exit(0);
		}
	}
	while (wait(NULL) > 0)
		;
	for (size_t i = 0; i < 100; i++)
		close(idle[i]);
}

/* --- one true connection ------------------------------------------------------------------------
 */

static void connect_truly(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t len = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM, 0), port;

	tcp = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(l, (void *)&a, sizeof(a)) || listen(l, 1) || getsockname(l, (void *)&a, &len) ||
	    connect(tcp, (void *)&a, sizeof(a)))
		die("connect");
	port = ntohs(a.sin_port);
	if (getsockname(tcp, (void *)&a, &len))
		die("getsockname");
	printf("port %d of %d\n", ntohs(a.sin_port), port);
	fflush(stdout);
}

/* Says nothing, and rings for it. */
static void ring_only(uint64_t end)
{
	struct ring r = make_ring();

	while (now_ms() < end) {
		__atomic_fetch_add(&r.shared->bell, 1, __ATOMIC_SEQ_CST);
		(void)syscall(SYS_futex, &r.shared->bell, FUTEX_WAKE, 1, NULL, NULL, 0);
	}
}

int main(int argc, char **argv)
{
	static void (*const ways[])(const struct ring *r) = {lie, scribble, scribble_in_head,
							     come_wrong, crowd};
	uint64_t end;

	if (argc != 4 || strlen(argv[1]) > 80)
		return 2;
	snprintf(agent.sun_path, sizeof(agent.sun_path), "%s/" SSLC_SHIM_SOCKET, argv[1]);
	noise = strtoull(argv[3], NULL, 10) * 0x9e3779b97f4a7c15ull + 1;
	connect_truly();
	end = now_ms() + strtoull(argv[2], NULL, 10);
	if (!strcmp(argv[3], "bell")) {
		ring_only(end);
		return 0;
	}
	for (unsigned turn = 0; now_ms() < end; turn++) {
		struct ring r = make_ring();
		uint64_t until = now_ms() + TURN_MS;

		do
			ways[turn % 2 ? draw() % 5 : 0](&r);
		while (now_ms() < until);
		munmap(r.shared, sslc_shim_bytes(SIZE));
	}
	printf("records %llu, rings %llu\n", (unsigned long long)n_records,
	       (unsigned long long)n_rings);
	return 0;
}
