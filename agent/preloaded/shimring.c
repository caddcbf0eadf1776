/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shimring: see shimring.h. Nothing that is read from the ring is used before it was copied, and
 * nothing is read twice; a position or size that cannot be right ends the matter: the ring is
 * emptied, and what follows is looked at anew.
 */
#include "preloaded/shimring.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

static size_t map_bytes(uint64_t size)
{
	return SSLC_SHIM_DATA_OFF + 2 * (size_t)size;
}

/* With these seals no access can fail, whatever the process does to the file. */
static int check_file(int fd, uint64_t *data_size)
{
	int seals = fcntl(fd, F_GET_SEALS);
	struct stat st;

	if (seals < 0 || (seals & SEALS) != SEALS || seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE))
		return -EPERM;
	if (fstat(fd, &st))
		return -errno;
	if (!*data_size && st.st_size > (off_t)SSLC_SHIM_DATA_OFF)
		*data_size = (uint64_t)st.st_size - SSLC_SHIM_DATA_OFF;
	if (!sslc_shim_is_size(*data_size) || (uint64_t)st.st_size != sslc_shim_bytes(*data_size))
		return -EINVAL;
	return 0;
}

static int map_twice(int fd, uint64_t size, uint8_t **out)
{
	const int prot = PROT_READ | PROT_WRITE, how = MAP_SHARED | MAP_FIXED;
	uint8_t *p = mmap(NULL, map_bytes(size), PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int err;

	if (p == MAP_FAILED)
		return -errno;
	if (mmap(p, SSLC_SHIM_DATA_OFF + size, prot, how, fd, 0) == MAP_FAILED ||
	    mmap(p + SSLC_SHIM_DATA_OFF + size, size, prot, how, fd, SSLC_SHIM_DATA_OFF) ==
		    MAP_FAILED) {
		err = -errno;
		munmap(p, map_bytes(size));
		return err;
	}
	*out = p;
	return 0;
}

int shimring_map(struct shimring *s, int fd, uint64_t data_size)
{
	const struct sslc_shim_ring *r;
	uint8_t *p = NULL;
	int err = check_file(fd, &data_size);

	if (!err)
		err = map_twice(fd, data_size, &p);
	if (err)
		return err;
	shimring_of_memory(s, p, data_size);
	s->is_mapped = true;
	r = s->shared;
	if (r->magic == SSLC_SHIM_MAGIC && r->version == SSLC_SHIM_VERSION &&
	    r->rec_size == sizeof(struct sslc_shim_rec) && r->data_size == data_size)
		return 0;
	shimring_unmap(s);
	return -EPROTO;
}

void shimring_unmap(struct shimring *s)
{
	if (s->is_mapped)
		munmap(s->shared, map_bytes(s->size));
	s->is_mapped = false;
	s->shared = NULL;
}

void shimring_of_memory(struct shimring *s, void *memory, uint64_t size)
{
	*s = (struct shimring){.shared = memory, .size = size};
	s->tail = __atomic_load_n(&s->shared->tail, __ATOMIC_ACQUIRE) &
		  ~(uint64_t)(SSLC_SHIM_ALIGN - 1);
}

static const uint8_t *at(const struct shimring *s, uint64_t pos)
{
	return (const uint8_t *)s->shared + SSLC_SHIM_DATA_OFF + (pos & (s->size - 1));
}

static uint64_t word_at(const struct shimring *s, uint64_t pos)
{
	return __atomic_load_n((const uint64_t *)(const void *)at(s, pos), __ATOMIC_ACQUIRE);
}

static bool is_size(uint64_t size, uint64_t room)
{
	return size >= sizeof(struct sslc_shim_rec) && !(size & (SSLC_SHIM_ALIGN - 1)) &&
	       size <= sizeof(struct sslc_shim_rec) + SSLC_SHIM_CHUNK && size <= room;
}

/* Of records in a row whose sizes are not known: a thread each, killed in the same instant. */
#define UNFINISHED_MAX (64u * (sizeof(struct sslc_shim_rec) + SSLC_SHIM_CHUNK))

static void give_up(struct shimring *s, uint64_t head)
{
	s->broken++;
	s->stalled_ns = 0;
	s->tail = head & ~(uint64_t)(SSLC_SHIM_ALIGN - 1);
}

/* The record at the tail will never be finished: to the next one that names its own place. That is
 * not far, unless nothing in the ring makes sense. */
static void abandon(struct shimring *s, uint64_t head)
{
	uint64_t pos = s->tail, word = word_at(s, pos);
	uint32_t size = __atomic_load_n(
		&((const struct sslc_shim_rec *)(const void *)at(s, pos))->size, __ATOMIC_RELAXED);

	s->abandoned++;
	s->stalled_ns = 0;
	if (word == (pos | SSLC_SHIM_BUSY) && is_size(size, head - pos)) {
		s->tail = pos + size;
		return;
	}
	for (pos += SSLC_SHIM_ALIGN; pos != head; pos += SSLC_SHIM_ALIGN) {
		if (pos - s->tail > UNFINISHED_MAX) {
			give_up(s, head);
			return;
		}
		word = word_at(s, pos);
		if (word == (pos | SSLC_SHIM_BUSY) || word == (pos | SSLC_SHIM_DONE))
			break;
	}
	s->tail = pos;
}

static bool has_waited(struct shimring *s, uint64_t now_ns)
{
	if (!s->stalled_ns)
		s->stalled_ns = now_ns ? now_ns : 1;
	return now_ns > s->stalled_ns && now_ns - s->stalled_ns > SSLC_SHIM_STALL_NS;
}

/* out holds a copy of the header. */
static bool is_sound(const struct sslc_shim_rec *r, uint64_t room)
{
	if (!is_size(r->size, room) || r->dir > 1 || !r->type || r->type >= SSLC_SHIM_TYPES)
		return false;
	switch (r->type) {
	case SSLC_SHIM_DATA_BYTES:
	case SSLC_SHIM_CLEAR_BYTES:
		return r->len && r->len <= r->size - sizeof(*r);
	case SSLC_SHIM_BIND:
	case SSLC_SHIM_END:
	case SSLC_SHIM_HOLD:
		return r->fd >= 0;
	default:
		return true;
	}
}

bool shimring_next(struct shimring *s, uint64_t now_ns, bool is_dead, struct shimring_record *out)
{
	uint64_t head = __atomic_load_n(&s->shared->head, __ATOMIC_ACQUIRE);

	while (s->tail != head) {
		if (head - s->tail > s->size || head & (SSLC_SHIM_ALIGN - 1)) {
			give_up(s, head);
			return false;
		}
		if (word_at(s, s->tail) != (s->tail | SSLC_SHIM_DONE)) {
			if (!is_dead && !has_waited(s, now_ns))
				return false;
			abandon(s, head);
			continue;
		}
		s->stalled_ns = 0;
		memcpy(&out->rec, at(s, s->tail), sizeof(out->rec));
		if (!is_sound(&out->rec, head - s->tail)) {
			give_up(s, head);
			return false;
		}
		out->bytes = at(s, s->tail) + sizeof(out->rec);
		s->tail += out->rec.size;
		if (((s->tail - 1) & (s->size - 1)) > s->high)
			s->high = (s->tail - 1) & (s->size - 1);
		return true;
	}
	return false;
}

uint64_t shimring_head(const struct shimring *s)
{
	return __atomic_load_n(&s->shared->head, __ATOMIC_ACQUIRE);
}

uint64_t shimring_shown_tail(const struct shimring *s)
{
	return __atomic_load_n(&s->shared->tail, __ATOMIC_ACQUIRE) &
	       ~(uint64_t)(SSLC_SHIM_ALIGN - 1);
}

/* A record may be overwritten while it is copied: who asks about what it names asks in vain. */
bool shimring_ahead(const struct shimring *s, uint64_t *ahead, unsigned *looks,
		    struct sslc_shim_rec *out)
{
	uint64_t tail = shimring_shown_tail(s), pos = *ahead,
		 head = __atomic_load_n(&s->shared->head, __ATOMIC_ACQUIRE);
	bool found = false;

	if (pos - tail > s->size) /* behind the tail, or never set */
		pos = tail;
	while (!found && *looks && pos != head && head - pos <= s->size &&
	       word_at(s, pos) == (pos | SSLC_SHIM_DONE)) {
		--*looks;
		memcpy(out, at(s, pos), sizeof(*out));
		if (!is_sound(out, head - pos))
			break;
		pos += out->size;
		found = out->type == SSLC_SHIM_BIND || out->type == SSLC_SHIM_HOLD;
	}
	*ahead = pos;
	return found;
}

void shimring_release(struct shimring *s)
{
	__atomic_store_n(&s->shared->tail, s->tail, __ATOMIC_RELEASE);
}

static bool is_at_beginning(const struct shimring *s)
{
	return (s->tail & (s->size - 1)) < s->size / SSLC_SHIM_QUIET;
}

bool shimring_rests(const struct shimring *s)
{
	return shimring_head(s) == s->tail && is_at_beginning(s);
}

void shimring_rewind(struct shimring *s)
{
	__u64 pos = s->tail, next = (pos | (s->size - 1)) + 1;

	if (is_at_beginning(s))
		return;
	/* A thread that takes room meanwhile wins, and nothing is moved. */
	if (__atomic_compare_exchange_n(&s->shared->head, &pos, next, false, __ATOMIC_ACQ_REL,
					__ATOMIC_RELAXED)) {
		s->tail = next;
		shimring_release(s);
	}
}

/*
 * While the tail that is shown lies so far back threads find room for a last record at most, and
 * that begins before what is given back ends: two chunks are left alone.
 */
void shimring_trim(struct shimring *s)
{
	uint64_t keep = s->size / SSLC_SHIM_QUIET, from = 2 * keep;

	if (s->high <= from || !s->is_mapped || s->shared->is_kept ||
	    (s->tail & (s->size - 1)) > keep / 2 ||
	    __atomic_load_n(&s->shared->head, __ATOMIC_ACQUIRE) != s->tail)
		return;
	s->high = 0;
	__atomic_store_n(&s->shared->tail, s->tail - (s->size - keep), __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&s->shared->head, __ATOMIC_SEQ_CST) - s->tail <= keep / 2)
		(void)madvise((uint8_t *)s->shared + SSLC_SHIM_DATA_OFF + from, s->size - from,
			      MADV_REMOVE);
	shimring_release(s);
}

void shimring_skip_all(struct shimring *s)
{
	s->tail = __atomic_load_n(&s->shared->head, __ATOMIC_ACQUIRE) &
		  ~(uint64_t)(SSLC_SHIM_ALIGN - 1);
	s->stalled_ns = 0;
	shimring_release(s);
}

uint32_t shimring_generation(const struct shimring *s, int fd)
{
	return __atomic_load_n(&s->shared->fd_gen[(uint32_t)fd & (SSLC_SHIM_FDS - 1)],
			       __ATOMIC_ACQUIRE);
}
