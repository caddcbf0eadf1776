/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hmap: see hmap.h. Buckets are picked by multiplication with 2^64 divided by the golden ratio, so
 * that a plain number (a flow id, an address) is good enough as a hash.
 */
#include "hmap.h"

#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/random.h>

#define HMAP_FIRST                                                                                 \
	16 /* buckets of the first allocation; must be at least 2 (bucket_of shifts by 64 - log2)  \
	    */

void hmap_init(struct hmap *m)
{
	*m = (struct hmap){0};
}

void hmap_fini(struct hmap *m)
{
	free(m->buckets);
	hmap_init(m);
}

static size_t bucket_of(uint64_t hash, size_t n_buckets)
{
	return hash * 0x9e3779b97f4a7c15ull >> (64 - __builtin_ctzll(n_buckets));
}

static void push(struct hmap_node **bucket, struct hmap_node *n)
{
	n->next = *bucket;
	*bucket = n;
}

/* Double the buckets. Without memory the old ones stay: chains get longer, nothing is lost. */
static void grow(struct hmap *m)
{
	size_t n = m->n_buckets ? m->n_buckets * 2 : HMAP_FIRST;
	struct hmap_node **to = calloc(n, sizeof(*to));

	if (!to)
		return;
	for (size_t i = 0; i < m->n_buckets; i++) {
		for (struct hmap_node *node = m->buckets[i], *next; node; node = next) {
			next = node->next;
			push(&to[bucket_of(node->hash, n)], node);
		}
	}
	free(m->buckets);
	m->buckets = to;
	m->n_buckets = n;
}

int hmap_insert(struct hmap *m, struct hmap_node *n, uint64_t hash)
{
	if (m->count >= m->n_buckets)
		grow(m);
	if (!m->n_buckets)
		return -ENOMEM;
	n->hash = hash;
	push(&m->buckets[bucket_of(hash, m->n_buckets)], n);
	m->count++;
	return 0;
}

void hmap_remove(struct hmap *m, struct hmap_node *n)
{
	struct hmap_node **at = &m->buckets[bucket_of(n->hash, m->n_buckets)];

	while (*at != n)
		at = &(*at)->next;
	*at = n->next;
	n->next = NULL;
	m->count--;
}

static struct hmap_node *same(struct hmap_node *n, uint64_t hash)
{
	while (n && n->hash != hash)
		n = n->next;
	return n;
}

struct hmap_node *hmap_first(const struct hmap *m, uint64_t hash)
{
	return m->n_buckets ? same(m->buckets[bucket_of(hash, m->n_buckets)], hash) : NULL;
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
		if (m->buckets[i])
			return m->buckets[i];
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
