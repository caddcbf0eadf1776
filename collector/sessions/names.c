/* SPDX-License-Identifier: Apache-2.0 */
/* names: see names.h. Strings in, a shared copy of them out; counts who has it. */
#include "sessions/names.h"

#include <stdlib.h>
#include <string.h>

enum { COMM, EXE, CONTAINER, N_STRINGS };

/* Hashed and compared as bytes, as far as it is filled. */
struct key {
	uint16_t len[N_STRINGS];
	uint8_t text[FRAME_TEXT_MAX + FRAME_EXE_MAX + FRAME_TEXT_MAX];
};
_Static_assert(offsetof(struct key, text) == N_STRINGS * sizeof(uint16_t), "no padding");

struct names {
	struct hmap_node node;
	size_t n_users;
	size_t len;    /* of key[] */
	uint8_t key[]; /* the front of a struct key */
};

void names_init(struct names_set *set)
{
	hmap_init(&set->all);
	set->memory = 0;
}

void names_fini(struct names_set *set)
{
	hmap_fini(&set->all);
}

/* Returns how many bytes of it count. Longer strings than a frame may have are cut. */
static size_t key_of(struct key *k, const struct frame_flow_open *m)
{
	const struct span from[N_STRINGS] = {m->comm, m->exe, m->container};
	static const size_t most[N_STRINGS] = {FRAME_TEXT_MAX, FRAME_EXE_MAX, FRAME_TEXT_MAX};
	size_t at = 0;

	for (int i = 0; i < N_STRINGS; i++) {
		size_t n = from[i].len < most[i] ? from[i].len : most[i];

		k->len[i] = (uint16_t)n;
		if (n > 0)
			memcpy(k->text + at, from[i].p, n);
		at += n;
	}
	return offsetof(struct key, text) + at;
}

static size_t memory_of(size_t key_len)
{
	return sizeof(struct names) + key_len;
}

static struct names *names_new(struct names_set *set, const struct key *key, size_t len,
			       uint64_t hash)
{
	struct names *n = malloc(memory_of(len));

	if (!n)
		return NULL;
	n->n_users = 1;
	n->len = len;
	memcpy(n->key, key, len);
	if (hmap_insert(&set->all, &n->node, hash) < 0) {
		free(n);
		return NULL;
	}
	set->memory += memory_of(len);
	return n;
}

struct names *names_keep(struct names_set *set, const struct frame_flow_open *m)
{
	struct key key;
	size_t len = key_of(&key, m);
	uint64_t hash = hmap_hash(&key, len);
	struct hmap_node *at = hmap_first(&set->all, hash);

	for (; at; at = hmap_next_same(at)) {
		struct names *n = hmap_entry(at, struct names, node);

		if (n->len == len && memcmp(n->key, &key, len) == 0) {
			n->n_users++;
			return n;
		}
	}
	return names_new(set, &key, len, hash);
}

void names_drop(struct names_set *set, struct names *n)
{
	if (--n->n_users)
		return;
	hmap_remove(&set->all, &n->node);
	set->memory -= memory_of(n->len);
	free(n);
}

void names_get(const struct names *n, struct frame_flow_open *out)
{
	const uint8_t *text = n->key + offsetof(struct key, text);
	uint16_t len[N_STRINGS];

	memcpy(len, n->key, sizeof(len));
	out->comm = span_of(text, len[COMM]);
	out->exe = span_of(text + len[COMM], len[EXE]);
	out->container = span_of(text + len[COMM] + len[EXE], len[CONTAINER]);
}
