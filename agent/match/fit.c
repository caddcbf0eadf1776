/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fit: lengths of calls and of records in, whether they fit out. Bounded; keeps no bytes of either.
 * Sources: RFC 8446 5.2 to 5.4 (TLS 1.3), RFC 5246 6.2.3 (CBC, AEAD), RFC 7366 (encrypt-then-MAC).
 */
#include "match/fit.h"

#include <string.h>

#define APPLICATION 23
#define PLAIN_MAX   16384u /* of one record (RFC 8446, 5.1) */
/* An item is the length of a write, or that of a record, with its type above and a mark. */
#define TYPE_SHIFT 24
#define LEN_MASK   ((1u << TYPE_SHIFT) - 1)
#define RECORD     (1u << 31)

struct cipher {
	uint8_t fixed;      /* bytes that an AEAD adds; 0: CBC */
	uint8_t block, mac; /* of CBC, in bytes; the initialisation vector is one block */
	bool mac_last;      /* encrypt-then-MAC: the MAC is outside of the padding */
};

static const struct cipher ciphers[] = {
	{.fixed = 17}, /* TLS 1.3: tag and content type */
	{.fixed = 9},  /* TLS 1.3, CCM_8 */
	{.fixed = 24}, /* TLS 1.2, GCM and CCM: nonce and tag */
	{.fixed = 16}, /* TLS 1.2, ChaCha20-Poly1305; CCM_8 */
	{.block = 16, .mac = 20},
	{.block = 16, .mac = 32},
	{.block = 16, .mac = 48},
	{.block = 16, .mac = 20, .mac_last = true},
	{.block = 16, .mac = 32, .mac_last = true},
	{.block = 16, .mac = 48, .mac_last = true},
	{.block = 8, .mac = 20},
	{.block = 8, .mac = 20, .mac_last = true},
};
#define N_CIPHERS (sizeof(ciphers) / sizeof(ciphers[0]))
#define TLS13     ((fit_ciphers)3) /* the ciphers under which other messages look like data */

static uint32_t record_len(const struct cipher *c, uint32_t plain)
{
	uint32_t in = c->mac_last ? plain : plain + c->mac;

	if (c->fixed)
		return plain + c->fixed;
	in = (in / c->block + 1) * c->block; /* at least one byte of padding */
	return c->block + in + (c->mac_last ? c->mac : 0);
}

_Static_assert(N_CIPHERS == FIT_CIPHERS, "told in fit.h");

bool fit_hides(unsigned cipher)
{
	return TLS13 >> cipher & 1;
}

bool fit_plain(unsigned cipher, uint32_t len, uint32_t *lo, uint32_t *hi)
{
	const struct cipher *c = &ciphers[cipher];
	uint32_t outside = c->block + (c->mac_last ? c->mac : 0), inside = c->mac_last ? 0 : c->mac;
	uint32_t most; /* with one byte of padding, which counts the others */

	if (c->fixed) {
		if (len < c->fixed)
			return false;
		*lo = *hi = len - c->fixed;
		return true;
	}
	if (len <= outside || (len - outside) % c->block || len - outside <= inside)
		return false;
	most = len - outside - inside - 1;
	*lo = most < c->block - 1u ? 0 : most - (c->block - 1u);
	*hi = most;
	return true;
}

/* The ciphers of `set` under which `plain` bytes make a record of `len`. */
static fit_ciphers exact(fit_ciphers set, uint32_t plain, uint32_t len)
{
	fit_ciphers out = 0;

	for (size_t i = 0; i < N_CIPHERS; i++)
		if (set & 1u << i && record_len(&ciphers[i], plain) == len)
			out |= (fit_ciphers)(1u << i);
	return out;
}

/* Those under which a record of `len` holds more than `plain` bytes, or can. */
static fit_ciphers holds_more(fit_ciphers set, uint32_t plain, uint32_t len)
{
	fit_ciphers out = 0;

	for (size_t i = 0; i < N_CIPHERS; i++)
		if (set & 1u << i && record_len(&ciphers[i], plain + 1) <= len)
			out |= (fit_ciphers)(1u << i);
	return out;
}

/* --- spots --------------------------------------------------------------------------------------
 */

struct spots {
	struct fit_spot v[FIT_SPOTS];
	uint8_t n;
};

/* The readings with the fewest assumptions stay when there are too many. */
static void keep(struct spots *s, struct fit_spot spot)
{
	unsigned worst = 0;

	if (!spot.ciphers || spot.skips > FIT_SKIPS)
		return;
	for (unsigned i = 0; i < s->n; i++) {
		struct fit_spot *o = &s->v[i];

		if (o->item == spot.item && o->done == spot.done) {
			o->ciphers |= spot.ciphers;
			o->hits = o->hits > spot.hits ? o->hits : spot.hits;
			o->skips = o->skips < spot.skips ? o->skips : spot.skips;
			return;
		}
		if (o->skips > s->v[worst].skips)
			worst = i;
	}
	if (s->n < FIT_SPOTS)
		s->v[s->n++] = spot;
	else if (s->v[worst].skips > spot.skips)
		s->v[worst] = spot;
}

/* Take the new readings; items that none of them needs any more go. */
static bool settle(struct fit *f, const struct spots *s)
{
	uint32_t first = f->next;

	memcpy(f->spot, s->v, s->n * sizeof(s->v[0]));
	f->n_spots = s->n;
	for (unsigned i = 0; i < s->n; i++)
		if (f->next - s->v[i].item > f->next - first)
			first = s->v[i].item;
	f->first = first;
	return s->n != 0;
}

static uint32_t item(const struct fit *f, uint32_t i)
{
	return f->v[i % FIT_ITEMS];
}

static bool has_data(uint32_t v)
{
	return !(v & RECORD) || (v & ~RECORD) >> TYPE_SHIFT == APPLICATION;
}

static bool add(struct fit *f, uint32_t v)
{
	if (f->next - f->first >= FIT_ITEMS)
		return false;
	f->v[f->next++ % FIT_ITEMS] = v;
	return true;
}

static void hit(struct fit_spot *s)
{
	s->skips = 0;
	if (s->hits < UINT8_MAX)
		s->hits++;
}

void fit_reset(struct fit *f, fit_ciphers set)
{
	f->first = f->next;
	f->n_spots = 1;
	f->spot[0] = (struct fit_spot){.item = f->next, .ciphers = set};
}

bool fit_add_record(struct fit *f, unsigned type, uint32_t len)
{
	return len <= LEN_MASK && add(f, RECORD | (type & 0x7fu) << TYPE_SHIFT | len);
}

bool fit_add_write(struct fit *f, uint32_t len)
{
	return len < RECORD && add(f, len);
}

/* --- steps --------------------------------------------------------------------------------------
 */

/* One reading of a call that returned len bytes; records may lie before those that it read. */
static void read_from(const struct fit *f, struct fit_spot s, uint32_t len, struct spots *out)
{
	for (; s.item != f->next && s.skips <= FIT_SKIPS; s.item++) {
		uint32_t have = item(f, s.item) & LEN_MASK;
		struct fit_spot end = s, part = s;

		if (!has_data(item(f, s.item)))
			continue;
		end.ciphers = exact(s.ciphers, s.done + len, have);
		end.item++;
		end.done = 0;
		hit(&end);
		keep(out, end);
		part.ciphers = holds_more(s.ciphers, s.done + len, have);
		part.done += len;
		keep(out, part);
		if (s.done)
			return; /* a record that data came from is no handshake message */
		s.ciphers &= TLS13;
		s.skips++;
	}
}

bool fit_read(struct fit *f, uint32_t len)
{
	struct spots out = {.n = 0};

	if (len <= PLAIN_MAX)
		for (unsigned i = 0; i < f->n_spots; i++)
			read_from(f, f->spot[i], len, &out);
	return settle(f, &out);
}

static bool is_one(fit_ciphers set)
{
	return set && !(set & (set - 1));
}

/*
 * A record shorter than the call needs: OpenSSL can be told to make such. Looked at only once the
 * cipher is known; before, nearly every length would do.
 */
static void write_part(struct fit_spot s, uint32_t left, uint32_t len, struct spots *out)
{
	for (size_t i = 0; i < N_CIPHERS; i++) {
		uint32_t fixed = ciphers[i].fixed;

		if (s.ciphers != 1u << i || !fixed || len < fixed || len - fixed >= left ||
		    len - fixed >= PLAIN_MAX)
			continue;
		s.done += len - fixed;
		keep(out, s);
		return;
	}
}

static void write_into(const struct fit *f, struct fit_spot s, uint32_t len, struct spots *out)
{
	uint32_t left = s.item == f->next ? 0 : item(f, s.item) - s.done;
	uint32_t most = left < PLAIN_MAX ? left : PLAIN_MAX;
	struct fit_spot full = s, skip = s;

	if (left) {
		full.ciphers = exact(s.ciphers, most, len);
		full.item += most == left;
		full.done = most == left ? 0 : s.done + most;
		hit(&full);
		keep(out, full);
		if (is_one(s.ciphers))
			write_part(s, left, len, out);
	}
	skip.ciphers &= TLS13;
	skip.skips++;
	if (!s.done)
		keep(out, skip);
}

bool fit_record(struct fit *f, unsigned type, uint32_t len)
{
	struct spots out = {.n = 0};

	if (type != APPLICATION)
		return f->n_spots != 0;
	for (unsigned i = 0; i < f->n_spots; i++)
		write_into(f, f->spot[i], len, &out);
	return settle(f, &out);
}

unsigned fit_hits(const struct fit *f, bool whole, fit_ciphers *set)
{
	unsigned most = 0;

	*set = 0;
	for (unsigned i = 0; i < f->n_spots; i++) {
		const struct fit_spot *s = &f->spot[i];

		if (!s->hits || (whole && s->done))
			continue;
		*set |= s->ciphers;
		most = s->hits > most ? s->hits : most;
	}
	return most;
}

/* Nothing after this place but records that no call returns. */
static bool is_end(const struct fit *f, uint32_t at)
{
	while (at != f->next && !has_data(item(f, at)))
		at++;
	return at == f->next;
}

bool fit_is_used_up(const struct fit *f)
{
	for (unsigned i = 0; i < f->n_spots; i++)
		if (f->spot[i].hits && !f->spot[i].done && is_end(f, f->spot[i].item))
			return true;
	return false;
}
