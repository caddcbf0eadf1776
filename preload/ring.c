/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ring: records into the memory that the agent reads. Room is taken with one compare-and-swap, and
 * a record counts when its last word is written; nobody waits. System calls are
 * made at set-up only, and once a connection to wake the reader.
 */
#include "preload.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

#define RETRY_NS 100000000u /* for lack of descriptors */
#define SPARE    16         /* that many are left to the program while we try */

static struct own nobody;
struct own *shim_own = &nobody;
bool shim_is_sandboxed;

/* Where the ring of this process, or of its parent, is mapped: not wiped. */
static void *mapped;
static size_t mapped_len;
static bool mapped_before; /* not the first: this is a child */

static uint32_t threads; /* numbers given */

/* --- set-up -------------------------------------------------------------------------------------
 */

static bool make_own_page(void)
{
	void *p;

	if (shim_own != &nobody)
		return true;
	p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return false;
	if (madvise(p, 4096, MADV_WIPEONFORK)) { /* before Linux 4.14: a child could not be told */
		munmap(p, 4096);
		return false;
	}
	shim_own = p;
	return true;
}

void ring_prepare(void)
{
	(void)make_own_page();
}

/* Beyond the limit a program is killed (SIGXFSZ). */
static bool is_allowed(uint64_t bytes)
{
	struct rlimit most;

	return !getrlimit(RLIMIT_FSIZE, &most) && most.rlim_cur >= bytes;
}

/*
 * Whether the system gives no more memory than it has: a page that is touched for the first time
 * may be missing then. Asked once, where /proc can still be seen; children inherit the answer.
 */
static bool is_strict(void)
{
	static _Atomic int known; /* 1: no, 2: yes */
	char mode = '0';
	int fd;

	if (!known) {
		fd = open("/proc/sys/vm/overcommit_memory", O_RDONLY | O_CLOEXEC);
		if (fd >= 0) {
			(void)!read(fd, &mode, 1);
			close(fd);
		}
		known = mode == '2' ? 2 : 1;
	}
	return known == 2;
}

static int make_memfd(uint64_t bytes)
{
	int fd = memfd_create(SSLC_SHIM_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);

	if (fd < 0 && errno == EINVAL) /* before Linux 6.3 */
		fd = memfd_create(SSLC_SHIM_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -1;
	if (ftruncate(fd, (off_t)bytes) || (is_strict() && fallocate(fd, 0, 0, (off_t)bytes)) ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
		close(fd);
		return -1;
	}
	return fd;
}

/* The head, and the data twice in a row. */
static uint8_t *map_ring(int fd, uint64_t size)
{
	size_t len = SSLC_SHIM_DATA_OFF + 2 * (size_t)size;
	uint8_t *p = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	const int prot = PROT_READ | PROT_WRITE, how = MAP_SHARED | MAP_FIXED;

	if (p == MAP_FAILED)
		return NULL;
	if (mmap(p, SSLC_SHIM_DATA_OFF + size, prot, how, fd, 0) == MAP_FAILED ||
	    mmap(p + SSLC_SHIM_DATA_OFF + size, size, prot, how, fd, SSLC_SHIM_DATA_OFF) ==
		    MAP_FAILED) {
		munmap(p, len);
		return NULL;
	}
	/* Not into core files: what is in it was said in confidence. */
	(void)madvise(p, len, MADV_DONTDUMP);
	mapped = p;
	mapped_len = len;
	return p;
}

static bool without_counter; /* not wiped: children are in the same sandbox */

void ring_without_counter(void)
{
	without_counter = true;
}

static inline uint64_t now(void)
{
	struct timespec t;

	clock_gettime(without_counter ? CLOCK_MONOTONIC_COARSE : CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint32_t generations; /* not wiped: a child's differs from its parent's */
static uint64_t kin;         /* nor this: of the fork() that is going on, or made this child */

void ring_bound(int fd)
{
	__atomic_store_n(&shim_own->ring->fd_gen[sock_slot(fd)],
			 __atomic_load_n(&shim_gen[sock_slot(fd)], __ATOMIC_ACQUIRE),
			 __ATOMIC_RELEASE);
}

static void publish(struct sslc_shim_ring *r, uint64_t size)
{
	r->magic = SSLC_SHIM_MAGIC;
	r->version = SSLC_SHIM_VERSION;
	r->rec_size = sizeof(struct sslc_shim_rec);
	r->data_size = size;
	r->run_dir = link_run_dir();
	r->flags = SSLC_SHIM_CLEAR;
	r->beat_ns = now();
	r->kin = kin;
	r->is_kept = is_strict();
	kin = 0;
	r->lost[SSLC_SHIM_LOST_NO_RING] = shim_own->missed;
	*shim_own = (struct own){.data = (uint8_t *)r + SSLC_SHIM_DATA_OFF,
				 .size = size,
				 .pid = getpid(),
				 .was_tried = true};
	__atomic_store_n(&shim_own->ring, r, __ATOMIC_RELEASE);
}

/* The agent learns from it that a connection goes on when the parent closes it. */
static void tell_held(void)
{
	struct sslc_shim_rec rec = {.type = SSLC_SHIM_HOLD, .ts_ns = now()};

	for (uint32_t i = 0; i < SSLC_SHIM_FDS; i++) {
		if (!shim_bound[i])
			continue;
		ring_bound((int)i);
		rec.fd = (int)i;
		rec.fd_gen = shim_gen[i];
		(void)ring_put(&rec);
	}
}

static bool lacks_descriptors(int err)
{
	return err == EMFILE || err == ENFILE;
}

/* agent: a socket, or -1. */
static void make_ring(int fd, int agent, uint64_t size)
{
	struct sslc_shim_ring *r = (void *)map_ring(fd, size);
	bool is_child = mapped_before;
	uint32_t said = ++generations;

	if (!r) {
		if (agent >= 0)
			close(agent);
		return;
	}
	publish(r, size);
	/* Said before it is known: what is written from now on waits in the ring. */
	__atomic_store_n(&r->gen, said, __ATOMIC_RELEASE);
	if (is_child)
		tell_held();
	if (agent < 0 || !link_announce(agent, fd, size))
		(void)__atomic_compare_exchange_n(&r->gen, &said, 0, false, __ATOMIC_RELAXED,
						  __ATOMIC_RELAXED);
}

/* False: no descriptor is free. */
static bool set_up(void)
{
	uint64_t size = link_ring_size(), bytes;
	bool is_short;
	int fd, agent;

	if (size > SSLC_SHIM_DATA_KEPT && is_strict())
		size = SSLC_SHIM_DATA_KEPT;
	bytes = sslc_shim_bytes(size);
	fd = is_allowed(bytes) ? make_memfd(bytes) : -1;
	if (fd < 0)
		return !lacks_descriptors(errno);
	agent = link_socket();
	is_short = agent < 0 && lacks_descriptors(errno);
	if (!is_short)
		make_ring(fd, agent, size);
	close(fd);
	return !is_short;
}

/* What is the parent's is of no use here. */
static void leave_parents(void)
{
	if (mapped)
		munmap(mapped, mapped_len);
	mapped_before |= mapped != NULL;
	mapped = NULL;
}

/* Without the number children that end early are not told. */
void ring_forks(bool is_wanted)
{
	struct sslc_shim_rec rec = {.type = SSLC_SHIM_FORK};
	int saved = errno;

	kin = 0;
	if (is_wanted && !shim_is_sandboxed && ring_watched((uint64_t *)&rec.ts_ns) &&
	    getrandom(&kin, sizeof(kin), GRND_NONBLOCK) == sizeof(kin)) {
		rec.pos = kin;
		(void)ring_put(&rec);
	}
	errno = saved;
}

void ring_set_up(void)
{
	int saved = errno;

	if (!shim_is_sandboxed && make_own_page() &&
	    !__atomic_exchange_n(&shim_own->was_tried, true, __ATOMIC_ACQ_REL)) {
		leave_parents();
		shim_own->is_waiting = !set_up();
		if (shim_own->is_waiting) {
			shim_own->retry_ns = now() + RETRY_NS;
			__atomic_store_n(&shim_own->was_tried, false, __ATOMIC_RELEASE);
		}
	}
	errno = saved;
}

/* The program's own descriptors come first: the last ones are not taken from it, not even for a
 * moment. Numbers are given from the lowest on. */
static bool has_spare_descriptors(void)
{
	struct rlimit most;
	int limit, n = SPARE;

	if (getrlimit(RLIMIT_NOFILE, &most))
		return false;
	limit = most.rlim_cur > INT32_MAX ? INT32_MAX : (int)most.rlim_cur;
	if (limit < 4 * SPARE)
		n = limit / 4;
	for (int i = 1; i <= n; i++)
		if (fcntl(limit - i, F_GETFD) >= 0)
			return false;
	return true;
}

static bool may_retry(void)
{
	int saved = errno;
	bool may = now() >= shim_own->retry_ns && has_spare_descriptors();

	errno = saved;
	return may;
}

void ring_set_up_late(void)
{
	if (shim_own != &nobody && !shim_own->was_tried && (!shim_own->is_waiting || may_retry()))
		ring_set_up();
}

/* --- records ------------------------------------------------------------------------------------
 */

HOT uint32_t ring_watched(uint64_t *now_ns)
{
	struct sslc_shim_ring *r = shim_own->ring;
	uint32_t gen = r ? __atomic_load_n(&r->gen, __ATOMIC_RELAXED) : 0;

	if (!gen)
		return 0;
	*now_ns = now();
	if (*now_ns - __atomic_load_n(&r->beat_ns, __ATOMIC_RELAXED) > SSLC_SHIM_SILENT_NS &&
	    *now_ns > __atomic_load_n(&r->beat_ns, __ATOMIC_RELAXED))
		return 0;
	return gen;
}

uint32_t ring_taken(uint64_t *now_ns)
{
	const struct sslc_shim_ring *r = shim_own->ring;
	uint32_t gen = r ? __atomic_load_n(&r->gen, __ATOMIC_RELAXED) : 0;

	if (gen)
		*now_ns = now();
	return gen;
}

void ring_count(enum sslc_shim_lost what, uint64_t n)
{
	struct sslc_shim_ring *r = shim_own->ring;

	if (r)
		__atomic_fetch_add(&r->lost[what], n, __ATOMIC_RELAXED);
}

COLD void ring_number_thread(void)
{
	if (!shim_thread.number)
		shim_thread.number = __atomic_add_fetch(&threads, 1, __ATOMIC_RELAXED);
}

/* NULL: no room. most: of the ring's bytes that may be in use then. */
static inline struct sslc_shim_rec *reserve(const struct own *o, uint32_t size, uint64_t most,
					    uint64_t *at)
{
	struct sslc_shim_ring *r = o->ring;
	__u64 head = __atomic_load_n(&r->head, __ATOMIC_RELAXED), tail;
	struct sslc_shim_rec *rec;

	do {
		tail = __atomic_load_n(&r->tail, __ATOMIC_ACQUIRE);
		/* An old head may lie behind a new tail: then it is no longer the head. */
		for (int i = 0; (int64_t)(head - tail) < 0 && i < 64; i++)
			head = __atomic_load_n(&r->head, __ATOMIC_ACQUIRE);
		if (head - tail + size > most)
			return NULL;
	} while (!__atomic_compare_exchange_n(&r->head, &head, head + size, false, __ATOMIC_ACQ_REL,
					      __ATOMIC_RELAXED));
	rec = (void *)(o->data + (head & (o->size - 1)));
	__atomic_store_n(&rec->size, size, __ATOMIC_RELAXED);
	__atomic_store_n(&rec->word, head | SSLC_SHIM_BUSY, __ATOMIC_RELEASE);
	*at = head;
	return rec;
}

/* Everything behind the two members that reserve() has written. */
static void fill(struct sslc_shim_rec *to, const struct sslc_shim_rec *from)
{
	const size_t at = offsetof(struct sslc_shim_rec, type);

	memcpy((char *)to + at, (const char *)from + at, sizeof(*to) - at);
	ring_number_thread();
	to->thread = shim_thread.number;
}

bool ring_put(const struct sslc_shim_rec *rec)
{
	const struct own *o = shim_own;
	struct sslc_shim_rec *to;
	uint64_t at;

	if (!o->ring)
		return false;
	to = reserve(o, sizeof(*to), o->size, &at);
	if (!to) {
		ring_count(SSLC_SHIM_LOST_EVENTS, 1);
		return false;
	}
	fill(to, rec);
	ring_commit(to, at);
	return true;
}

bool ring_is_own(void)
{
	return shim_is_sandboxed || !shim_own->ring || shim_own->pid == getpid();
}

void ring_wake(void)
{
	struct sslc_shim_ring *r = shim_own->ring;
	int saved = errno;

	if (!r || shim_is_sandboxed || !__atomic_load_n(&r->rests, __ATOMIC_SEQ_CST))
		return;
	__atomic_store_n(&r->rests, 0, __ATOMIC_RELAXED);
	__atomic_fetch_add(&r->bell, 1, __ATOMIC_SEQ_CST);
	(void)syscall(SYS_futex, &r->bell, FUTEX_WAKE, SSLC_SHIM_BELLS, NULL, NULL, 0);
	errno = saved;
}

bool ring_has_room(void)
{
	const struct sslc_shim_ring *r = shim_own->ring;

	return r && __atomic_load_n(&r->head, __ATOMIC_RELAXED) -
				    __atomic_load_n(&r->tail, __ATOMIC_RELAXED) <
			    shim_own->size / 2;
}

static uint32_t size_with(uint32_t len)
{
	return (sizeof(struct sslc_shim_rec) + len + SSLC_SHIM_ALIGN - 1) & ~(SSLC_SHIM_ALIGN - 1);
}

HOT struct sslc_shim_rec *ring_room(uint32_t len, uint64_t *at)
{
	const struct own *o = shim_own;

	return o->ring ? reserve(o, size_with(len), sslc_shim_data_max(o->size), at) : NULL;
}

bool ring_put_bytes(const struct sslc_shim_rec *rec, const void *bytes, uint64_t len)
{
	const uint64_t most = sslc_shim_data_max(shim_own->size);
	const struct own *o = shim_own;
	struct sslc_shim_rec part = *rec, *to;
	const uint8_t *p = bytes;
	uint64_t at;

	if (!o->ring)
		return false;
	while (len) {
		uint32_t n = len < SSLC_SHIM_CHUNK ? (uint32_t)len : SSLC_SHIM_CHUNK;

		to = reserve(o, size_with(n), most, &at);
		if (!to) { /* nor for what is left of the call */
			ring_count(SSLC_SHIM_LOST_FULL, len);
			return false;
		}
		part.len = n;
		if (n == len && !(part.flags & SSLC_SHIM_PART))
			part.flags |= SSLC_SHIM_LAST;
		fill(to, &part);
		memcpy(to + 1, p, n);
		ring_commit(to, at);
		part.pos += n;
		p += n;
		len -= n;
	}
	return true;
}
