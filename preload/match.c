/* SPDX-License-Identifier: Apache-2.0 */
/*
 * match: which descriptor a TLS object without a socket uses (memory BIOs, BIO pairs). A record
 * goes through both: a receive gives the bytes that the library reads a moment later, and what the
 * library has written is what a send takes. Records are known by a hash of their first bytes, of
 * which enough are random; two places with the same one are no match.
 *
 * Nobody waits: a place in use is passed by, and the next record is another chance.
 */
#include "preload.h"

#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>

#define PLACES 4096u /* records on their way, of each direction; the later one takes the place */
#define HEADER 5u    /* RFC 8446, 5.1 */
#define BODY   32u   /* so many bytes of a record are looked at, if it has them */

/* A record that a descriptor has received, or that an object has written. */
struct place {
	_Atomic uint32_t busy;
	uint32_t tag; /* of a descriptor its generation, of an object its life */
	uint64_t print;
	uint64_t who; /* the descriptor or the object; NOBODY */
	uint64_t pad;
};
#define NOBODY UINT64_MAX /* two of them: no match */

_Atomic bool shim_has_loose;
static struct place *received, *written;
static uint64_t secret[2]; /* so that no peer can choose what its records look like here */

void match_init(void)
{
	const void *random = (const void *)getauxval(AT_RANDOM);
	void *p = mmap(NULL, 2 * PLACES * sizeof(*received), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return;
	if (random)
		memcpy(secret, random, sizeof(secret));
	received = p;
	written = received + PLACES;
}

static uint64_t mix(uint64_t a, uint64_t b)
{
	__extension__ unsigned __int128 v = (unsigned __int128)a * b;

	return (uint64_t)v ^ (uint64_t)(v >> 64);
}

/* All but the fixed "random" of a HelloRetryRequest (RFC 8446, 4.1.3), which many have. */
static bool is_unique(const uint8_t *body, size_t n)
{
	static const uint8_t retry[] = {0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11};

	return n == BODY && (body[0] == 1 || body[0] == 2) &&
	       memcmp(body + 6, retry, sizeof(retry)) != 0;
}

/*
 * Of handshake messages in the clear only the two hellos are random; all application data are
 * encrypted, and the shortest has 16 random bytes.
 */
bool match_print(const uint8_t *header, const uint8_t *body, size_t n, uint64_t *out)
{
	size_t len = (size_t)header[3] << 8 | header[4], use = len < BODY ? len : BODY;
	uint64_t w[BODY / 8] = {0}, h = secret[0] | 1;

	if (n < use || use < 16 || (header[0] != 22 && header[0] != 23))
		return false;
	if (header[0] == 22 && !is_unique(body, use))
		return false;
	memcpy(w, body, use);
	for (size_t i = 0; i < BODY / 8; i++)
		h = mix(h ^ w[i], secret[1] ^ 0x9e3779b97f4a7c15ull * (i + 1));
	*out = mix(h ^ len, 0xd6e8feb86659fd93ull ^ header[0]) | 1; /* 0: a free place */
	return true;
}

static struct place *enter(struct place *table, uint64_t print)
{
	struct place *p = table ? &table[print >> 52] : NULL;
	uint32_t none = 0;

	return p && atomic_compare_exchange_strong_explicit(
			    &p->busy, &none, 1, memory_order_acquire, memory_order_relaxed)
		       ? p
		       : NULL;
}
_Static_assert(PLACES == 1u << (64 - 52), "enter() shifts");

static void leave(struct place *p)
{
	atomic_store_explicit(&p->busy, 0, memory_order_release);
}

static void put(struct place *table, uint64_t print, uint64_t who, uint32_t tag)
{
	struct place *p = enter(table, print);

	if (!p)
		return;
	if (p->print == print && (p->who != who || p->tag != tag))
		who = NOBODY;
	p->print = print;
	p->who = who;
	p->tag = tag;
	leave(p);
}

/* Takes it out, but for one that two have. */
static bool take(struct place *table, uint64_t print, uint64_t *who, uint32_t *tag)
{
	struct place *p = enter(table, print);
	bool is = p && p->print == print && p->who != NOBODY;

	if (is) {
		*who = p->who;
		*tag = p->tag;
		p->print = 0;
	}
	if (p)
		leave(p);
	return is;
}

void match_put_written(uint64_t print, uint64_t ssl, uint32_t life)
{
	put(written, print, ssl, life);
}

bool match_take_written(uint64_t print, uint64_t *ssl, uint32_t *life)
{
	return take(written, print, ssl, life);
}

void match_put_received(uint64_t print, int fd, uint32_t fd_gen)
{
	put(received, print, (uint64_t)fd, fd_gen);
}

bool match_take_received(uint64_t print, int *fd, uint32_t *fd_gen)
{
	uint64_t who;

	if (!take(received, print, &who, fd_gen))
		return false;
	*fd = (int)who;
	return true;
}
