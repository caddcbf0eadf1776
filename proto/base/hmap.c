/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hmap: see hmap.h. Linear hashing (Litwin, 1980): a full table splits one bucket, so that no
 * insert waits until a million nodes have moved, and no second array is needed meanwhile. The
 * buckets lie in segments, each as large as all before it, which never move.
 *
 * Hashes are multiplied with 2^64 divided by the golden ratio, so that a plain number (a flow id,
 * an address) is good enough as one; the upper bytes, on which all of its bits have an effect,
 * count first.
 */
#include "hmap.h"

#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/random.h>

#define HMAP_FIRST 16u /* buckets of the first segment, a power of two */

void hmap_init(struct hmap *m)
{
	*m = (struct hmap){0};
}

void hmap_fini(struct hmap *m)
{
	for (unsigned i = 0; i < m->n_segments; i++)
		free(m->segments[i]);
	free(m->segments);
	hmap_init(m);
}

static unsigned log2_of(size_t n)
{
	return 63u - (unsigned)__builtin_clzll(n);
}

/* Beyond the first segment, segment k begins at bucket HMAP_FIRST << (k - 1). */
static struct hmap_node **bucket_at(const struct hmap *m, size_t i)
{
	unsigned log;

	if (i < HMAP_FIRST)
		return &m->segments[0][i];
	log = log2_of(i);
	return &m->segments[log - log2_of(HMAP_FIRST) + 1][i - ((size_t)1 << log)];
}

/* Buckets that have not been split yet hold what will be in their other half, too. */
static size_t bucket_of(uint64_t hash, size_t n_buckets)
{
	size_t mask = ((size_t)2 << log2_of(n_buckets - 1)) - 1;
	size_t i = (size_t)__builtin_bswap64(hash * 0x9e3779b97f4a7c15ull) & mask;

	return i < n_buckets ? i : i & mask >> 1;
}

static void push(struct hmap_node **bucket, struct hmap_node *n)
{
	n->next = *bucket;
	*bucket = n;
}

static int segment_add(struct hmap *m)
{
	size_t n = m->n_segments ? HMAP_FIRST << (m->n_segments - 1) : HMAP_FIRST;
	struct hmap_node ***all = realloc(m->segments, (m->n_segments + 1) * sizeof(*m->segments));

	if (!all)
		return -ENOMEM;
	m->segments = all;
	all[m->n_segments] = calloc(n, sizeof(**all));
	if (!all[m->n_segments])
		return -ENOMEM;
	m->n_segments++;
	return 0;
}

/* The bucket that holds what will be in bucket `at`. */
static struct hmap_node **half_of(const struct hmap *m, size_t at)
{
	return bucket_at(m, at - ((size_t)1 << log2_of(at)));
}

/* Bucket `at`, the first one that is not in use, takes its share of the one that held it. */
static void split(struct hmap *m, size_t at)
{
	struct hmap_node **from = half_of(m, at);
	struct hmap_node **to = bucket_at(m, at), *rest = *from, *next;

	*from = NULL;
	m->n_buckets++;
	for (; rest; rest = next) {
		next = rest->next;
		push(bucket_of(rest->hash, m->n_buckets) == at ? to : from, rest);
	}
	__builtin_prefetch(*half_of(m, at + 4)); /* it is looked at soon */
}

/* Twice as many buckets as nodes: each node that is looked at in vain is far from the cache.
 * Without memory the buckets stay as they are: chains get longer, nothing is lost. */
static void grow(struct hmap *m)
{
	size_t room = m->n_segments ? (size_t)HMAP_FIRST << (m->n_segments - 1) : 0;

	if (m->n_buckets == room && segment_add(m) < 0)
		return;
	if (m->n_buckets)
		split(m, m->n_buckets);
	else
		m->n_buckets = HMAP_FIRST;
}

int hmap_insert(struct hmap *m, struct hmap_node *n, uint64_t hash)
{
	for (int i = 0; i < 2 && m->count * 2 >= m->n_buckets; i++)
		grow(m);
	if (!m->n_buckets)
		return -ENOMEM;
	n->hash = hash;
	push(bucket_at(m, bucket_of(hash, m->n_buckets)), n);
	m->count++;
	return 0;
}

void hmap_remove(struct hmap *m, struct hmap_node *n)
{
	struct hmap_node **at = bucket_at(m, bucket_of(n->hash, m->n_buckets));

	while (*at != n)
		at = &(*at)->next;
	*at = n->next;
	n->next = NULL;
	m->count--;
}

size_t hmap_memory(const struct hmap *m)
{
	return m->n_buckets * sizeof(struct hmap_node *);
}

static struct hmap_node *same(struct hmap_node *n, uint64_t hash)
{
	while (n && n->hash != hash)
		n = n->next;
	return n;
}

struct hmap_node *hmap_first(const struct hmap *m, uint64_t hash)
{
	return m->n_buckets ? same(*bucket_at(m, bucket_of(hash, m->n_buckets)), hash) : NULL;
}

struct hmap_node *hmap_next_same(const struct hmap_node *n)
{
	return same(n->next, n->hash);
}

struct hmap_node *hmap_any(const struct hmap *m, const struct hmap_node *prev)
{
	if (prev && prev->next)
		return prev->next;
	for (size_t i = prev ? bucket_of(prev->hash, m->n_buckets) + 1 : 0; i < m->n_buckets; i++)
		if (*bucket_at(m, i))
			return *bucket_at(m, i);
	return NULL;
}

struct sip {
	uint64_t a, b, c, d;
};

static uint64_t rotl(uint64_t v, unsigned by)
{
	return v << by | v >> (64 - by);
}

static void sip_rounds(struct sip *s, unsigned n)
{
	while (n--) {
		s->a += s->b;
		s->c += s->d;
		s->b = rotl(s->b, 13) ^ s->a;
		s->d = rotl(s->d, 16) ^ s->c;
		s->a = rotl(s->a, 32);
		s->c += s->b;
		s->a += s->d;
		s->b = rotl(s->b, 17) ^ s->c;
		s->d = rotl(s->d, 21) ^ s->a;
		s->c = rotl(s->c, 32);
	}
}

static uint64_t le64(const uint8_t *p, size_t n)
{
	uint64_t v = 0;

	memcpy(&v, p, n);
	return le64toh(v);
}

static void sip_word(struct sip *s, uint64_t word)
{
	s->d ^= word;
	sip_rounds(s, 2);
	s->a ^= word;
}

static uint64_t siphash(const uint8_t key[16], const uint8_t *p, size_t len)
{
	uint64_t k0 = le64(key, 8), k1 = le64(key + 8, 8);
	struct sip s = {/* "somepseudorandomlygeneratedbytes" */
			.a = k0 ^ 0x736f6d6570736575ull,
			.b = k1 ^ 0x646f72616e646f6dull,
			.c = k0 ^ 0x6c7967656e657261ull,
			.d = k1 ^ 0x7465646279746573ull};
	size_t i = 0;

	for (; len - i >= 8; i += 8)
		sip_word(&s, le64(p + i, 8));
	sip_word(&s, (uint64_t)len << 56 | le64(p + i, len - i));
	s.c ^= 0xff;
	sip_rounds(&s, 4);
	return s.a ^ s.b ^ s.c ^ s.d;
}

static uint8_t process_key[16];
static pthread_once_t process_key_once = PTHREAD_ONCE_INIT;

static void process_key_make(void)
{
	const void *given =
		(const void *)getauxval(AT_RANDOM); /* 16 random bytes that every exec gets */

	if (getrandom(process_key, sizeof(process_key), 0) != sizeof(process_key) && given)
		memcpy(process_key, given, sizeof(process_key));
}

uint64_t hmap_hash(const void *p, size_t len)
{
	pthread_once(&process_key_once, process_key_make);
	return siphash(process_key, p, len);
}
