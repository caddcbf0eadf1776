/* SPDX-License-Identifier: Apache-2.0 */
/* hmap: insert, find, remove, walk, grow; SipHash against its authors' vectors. Includes hmap.c for
 * its keyed hash and to make calloc() fail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static bool calloc_fails;

static void *failing_calloc(size_t n, size_t size)
{
	return calloc_fails ? NULL : calloc(n, size);
}
#define calloc failing_calloc
#include "base/hmap.c"
#undef calloc

#define N 10000

struct item {
	struct hmap_node node;
	unsigned key;
	unsigned visits;
};

static struct item items[N];

static void fill(struct hmap *m, uint64_t step)
{
	hmap_init(m);
	for (unsigned i = 0; i < N; i++) {
		items[i] = (struct item){.key = i};
		assert_int_equal(hmap_insert(m, &items[i].node, i * step), 0);
	}
}

static struct item *find(const struct hmap *m, unsigned key, uint64_t hash)
{
	struct hmap_node *n = hmap_first(m, hash);

	while (n && hmap_entry(n, struct item, node)->key != key)
		n = hmap_next_same(n);
	return n ? hmap_entry(n, struct item, node) : NULL;
}

static void test_find_gives_what_was_inserted_and_nothing_else(void **state)
{
	struct hmap m;

	(void)state;
	fill(&m, 1);
	assert_int_equal(m.count, N);
	for (unsigned i = 0; i < N; i++)
		assert_ptr_equal(find(&m, i, i), &items[i]);
	assert_null(hmap_first(&m, N));
	hmap_fini(&m);
	assert_null(hmap_first(&m, 1));
	assert_null(hmap_any(&m, NULL));
}

static void test_walk_visits_every_node_once(void **state)
{
	struct hmap m;
	unsigned n = 0;

	(void)state;
	fill(&m, 4096);
	for (struct hmap_node *at = hmap_any(&m, NULL); at; at = hmap_any(&m, at), n++)
		hmap_entry(at, struct item, node)->visits++;
	assert_int_equal(n, N);
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(items[i].visits, 1);
	hmap_fini(&m);
}

static void test_removed_nodes_are_gone_and_others_stay(void **state)
{
	struct hmap m;

	(void)state;
	fill(&m, 64);
	for (unsigned i = 0; i < N; i += 2)
		hmap_remove(&m, &items[i].node);
	assert_int_equal(m.count, N / 2);
	for (unsigned i = 0; i < N; i++)
		assert_ptr_equal(find(&m, i, i * 64ull), i % 2 ? &items[i] : NULL);
	for (struct hmap_node *at; (at = hmap_any(&m, NULL));)
		hmap_remove(&m, at);
	assert_int_equal(m.count, 0);
	hmap_fini(&m);
}

static void test_equal_hashes_are_told_apart_by_the_caller(void **state)
{
	struct hmap m;
	unsigned n = 0;

	(void)state;
	fill(&m, 0);
	for (struct hmap_node *at = hmap_first(&m, 0); at; at = hmap_next_same(at))
		n++;
	assert_int_equal(n, N);
	assert_ptr_equal(find(&m, 17, 0), &items[17]);
	hmap_fini(&m);
}

static void test_steps_of_a_power_of_two_do_not_pile_up(void **state)
{
	struct hmap m;

	(void)state;
	fill(&m, 1ull << 20); /* addresses, ids with a worker number in the low bits */
	for (size_t i = 0; i < m.n_buckets; i++) {
		unsigned chain = 0;

		for (const struct hmap_node *n = *bucket_at(&m, i); n; n = n->next)
			chain++;
		assert_in_range(chain, 0, 16);
	}
	hmap_fini(&m);
}

/* Never more than two buckets are split at a time, and each node is where it is looked for. */
static void test_growth_is_spread_over_the_inserts(void **state)
{
	struct hmap m;

	(void)state;
	hmap_init(&m);
	for (unsigned i = 0; i < N; i++) {
		size_t before = m.n_buckets;

		items[i] = (struct item){.key = i};
		assert_int_equal(hmap_insert(&m, &items[i].node, i * 0x100000001ull), 0);
		assert_in_range(m.n_buckets, before, before ? before + 2 : HMAP_FIRST);
		assert_in_range(m.count, 1, m.n_buckets / 2 + 1);
		assert_int_equal(hmap_memory(&m), m.n_buckets * sizeof(void *));
		if (i % 97)
			continue;
		for (unsigned k = 0; k <= i; k++)
			assert_ptr_equal(find(&m, k, k * 0x100000001ull), &items[k]);
	}
	for (size_t i = 0; i < m.n_buckets; i++)
		for (const struct hmap_node *n = *bucket_at(&m, i); n; n = n->next)
			assert_int_equal(bucket_of(n->hash, m.n_buckets), i);
	hmap_fini(&m);
}

static void test_numbers_that_differ_only_at_the_top_do_not_pile_up(void **state)
{
	struct hmap m;

	(void)state;
	fill(&m, 1ull << 48); /* ids with a worker number in the high bits */
	for (size_t i = 0; i < m.n_buckets; i++) {
		unsigned chain = 0;

		for (const struct hmap_node *n = *bucket_at(&m, i); n; n = n->next)
			chain++;
		assert_in_range(chain, 0, 16);
	}
	hmap_fini(&m);
}

static void test_without_memory_first_insert_fails_and_later_ones_chain(void **state)
{
	struct hmap m;

	(void)state;
	hmap_init(&m);
	calloc_fails = true;
	assert_int_equal(hmap_insert(&m, &items[0].node, 0), -ENOMEM);
	assert_int_equal(m.count, 0);
	calloc_fails = false;
	assert_int_equal(hmap_insert(&m, &items[0].node, 0), 0);
	calloc_fails = true;
	for (unsigned i = 1; i < 1000; i++) {
		items[i].key = i;
		assert_int_equal(hmap_insert(&m, &items[i].node, i), 0);
	}
	calloc_fails = false;
	assert_int_equal(m.n_buckets, HMAP_FIRST);
	assert_ptr_equal(find(&m, 999, 999), &items[999]);
	hmap_fini(&m);
}

/* Aumasson and Bernstein, "SipHash: a fast short-input PRF", appendix A: key 00..0f, input 00..0e;
 * and the first rows of vectors_sip64 in the reference implementation (outputs as little-endian
 * bytes). */
static void test_siphash_gives_the_published_values(void **state)
{
	static const struct {
		size_t len;
		uint64_t want;
	} rows[] = {
		{0, 0x726fdb47dd0e0e31ull},  {1, 0x74f839c593dc67fdull},
		{7, 0xab0200f58b01d137ull},  {8, 0x93f5f5799a932462ull},
		{15, 0xa129ca6149be45e5ull}, {63, 0x958a324ceb064572ull},
	};
	uint8_t key[16], in[64];

	(void)state;
	for (uint8_t i = 0; i < 16; i++)
		key[i] = i;
	for (uint8_t i = 0; i < 64; i++)
		in[i] = i;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		assert_true(siphash(key, in, rows[i].len) == rows[i].want);
}

static void test_process_key_is_random_and_stays(void **state)
{
	static const uint8_t zero[16];

	(void)state;
	assert_true(hmap_hash("abc", 3) == hmap_hash("abc", 3));
	assert_true(hmap_hash("abc", 3) != hmap_hash("abd", 3));
	assert_memory_not_equal(process_key, zero, sizeof(zero));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_find_gives_what_was_inserted_and_nothing_else),
		cmocka_unit_test(test_walk_visits_every_node_once),
		cmocka_unit_test(test_removed_nodes_are_gone_and_others_stay),
		cmocka_unit_test(test_equal_hashes_are_told_apart_by_the_caller),
		cmocka_unit_test(test_steps_of_a_power_of_two_do_not_pile_up),
		cmocka_unit_test(test_growth_is_spread_over_the_inserts),
		cmocka_unit_test(test_numbers_that_differ_only_at_the_top_do_not_pile_up),
		cmocka_unit_test(test_without_memory_first_insert_fails_and_later_ones_chain),
		cmocka_unit_test(test_siphash_gives_the_published_values),
		cmocka_unit_test(test_process_key_is_random_and_stays),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
