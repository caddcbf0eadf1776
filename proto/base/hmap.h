/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hmap: an intrusive chained hash table that grows bucket by bucket. The user's struct embeds a
 * struct hmap_node and owns itself; the table owns only its buckets. One thread.
 */
#ifndef SSLC_BASE_HMAP_H
#define SSLC_BASE_HMAP_H

#include <stddef.h>
#include <stdint.h>

struct hmap_node {
	struct hmap_node *next;
	uint64_t hash;
};

struct hmap {
	struct hmap_node ***segments;
	unsigned n_segments;
	size_t n_buckets; /* in use; 0 before the first insert */
	size_t count;
};

void hmap_init(struct hmap *m);
/** Free the buckets; the nodes are the caller's. */
void hmap_fini(struct hmap *m);
/** Insert (duplicates are the caller's affair). 0, or -ENOMEM when there is no bucket yet. */
int hmap_insert(struct hmap *m, struct hmap_node *n, uint64_t hash)
	__attribute__((warn_unused_result));
/** Remove a node that is in the table. */
void hmap_remove(struct hmap *m, struct hmap_node *n);
/** First node with this hash, or NULL; go on with hmap_next_same(). The caller compares keys. */
struct hmap_node *hmap_first(const struct hmap *m, uint64_t hash);
struct hmap_node *hmap_next_same(const struct hmap_node *n);
/** Bytes that its buckets take. */
size_t hmap_memory(const struct hmap *m);
/** Walk all nodes: hmap_any(m, NULL) is the first; NULL after the last. The node passed in must
 * still be in the table: fetch the successor before removing one. */
struct hmap_node *hmap_any(const struct hmap *m, const struct hmap_node *prev);
/** SipHash-2-4 (Aumasson and Bernstein, 2012) under a per-process random key: safe for foreign
 * keys. */
uint64_t hmap_hash(const void *p, size_t len);

#define hmap_entry(node, type, member) ((type *)(void *)((char *)(node)-offsetof(type, member)))

#endif
