/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sites_nss: an open file in, the probe sites of NSS's functions in it out.
 *
 * Programs read and write through NSPR (PR_Read, PR_Send, ...), which serves files and plain
 * sockets too. The functions that move plaintext have no symbols, but the library calls them
 * through one of two constant tables of twelve pointers each: struct sslSocketOps of its sslimpl.h,
 * for sockets with TLS and for sockets without. The tables are found by their shape, and what is
 * probed is only ever called for sockets with TLS. The first argument there is the connection
 * itself, whatever layers lie on top of it. Never goes by version; takes nothing that is not
 * proven.
 */
#include "sites/sites.h"

#include "base/log.h"
#include "sites/elfptr.h"
#include "sites/elfsym.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

/* Of a table. Accepting has never had a function. */
enum slot { CONNECT, ACCEPT, BIND, LISTEN, SHUTDOWN, CLOSE, RECV, SEND, READ, WRITE, PEER, NAME };
#define SLOTS 12

struct ops {
	uint64_t at;        /* virtual address */
	uint64_t to[SLOTS]; /* file offsets; ACCEPT: 0 */
};

#define OPS_MAX 64 /* arrays of pointers that look like a table; a library has just the two */

/* Without TLS these need nothing of their own. */
static const enum slot shared[] = {BIND, LISTEN, PEER, NAME};
static const enum slot own[] = {CONNECT, SHUTDOWN, CLOSE, RECV, SEND, READ, WRITE};
#define N(array) (sizeof(array) / sizeof((array)[0]))

/* --- tables -------------------------------------------------------------------------------------
 */

static bool are_own(const struct ops *o)
{
	for (size_t i = 0; i < N(own); i++)
		for (size_t j = 0; j < i; j++)
			if (o->to[own[i]] == o->to[own[j]])
				return false;
	return true;
}

/* Eleven pointers to code and a hole, from the i-th place on. */
static bool read_ops(const struct elfptrs *p, size_t i, struct ops *o)
{
	o->at = p->v[i].at;
	for (enum slot s = 0; s < SLOTS; s++) {
		if (s == ACCEPT) {
			o->to[s] = 0;
			continue;
		}
		if (i >= p->n || p->v[i].at != o->at + s * sizeof(uint64_t) || !p->v[i].to)
			return false;
		o->to[s] = p->v[i++].to;
	}
	return are_own(o);
}

/* How many there are; OPS_MAX: perhaps more. */
static size_t find_ops(const struct elfptrs *p, struct ops v[OPS_MAX])
{
	size_t n = 0;

	for (size_t i = 0; i < p->n && n < OPS_MAX; i++)
		if (read_ops(p, i, &v[n]))
			n++;
	return n;
}

static bool are_pair(const struct ops *a, const struct ops *b)
{
	for (size_t i = 0; i < N(shared); i++)
		if (a->to[shared[i]] != b->to[shared[i]])
			return false;
	for (size_t i = 0; i < N(own); i++)
		for (size_t j = 0; j < N(own); j++)
			if (a->to[own[i]] == b->to[own[j]])
				return false;
	return true;
}

static bool has_hole(int fd, const struct ops *o)
{
	uint64_t hole;

	return elfptr_peek(fd, o->at + ACCEPT * sizeof(hole), &hole, sizeof(hole)) && !hole;
}

/* The only two that belong together. */
static bool find_pair(int fd, const struct ops v[], size_t n, const struct ops *pair[2])
{
	size_t found = 0;

	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; j < i; j++)
			if (are_pair(&v[j], &v[i])) {
				pair[0] = &v[j];
				pair[1] = &v[i];
				found++;
			}
	return n < OPS_MAX && found == 1 && has_hole(fd, pair[0]) && has_hole(fd, pair[1]);
}

/* --- which of the two is for TLS ----------------------------------------------------------------
 */

/*
 * Whether a function does nothing but set its fourth argument to 0 and go on in another: reading is
 * receiving with no flags.
 */
#if defined(__x86_64__)
static bool forwards(int fd, uint64_t from, uint64_t to)
{
	static const uint8_t mark[] = {0xf3, 0x0f, 0x1e, 0xfa}; /* endbr64 */
	uint8_t code[11], *p = code;
	int32_t far;

	if (pread(fd, code, sizeof(code), (off_t)from) != sizeof(code))
		return false;
	if (!memcmp(p, mark, sizeof(mark)))
		p += sizeof(mark);
	if (p[0] != 0x31 || p[1] != 0xc9) /* xor %ecx,%ecx */
		return false;
	p += 2;
	if (p[0] == 0xeb) /* jmp, near and far: the distance counts from its end */
		return from + (uint64_t)(p + 2 - code) + (uint64_t)(int64_t)(int8_t)p[1] == to;
	memcpy(&far, p + 1, sizeof(far));
	return p[0] == 0xe9 && from + (uint64_t)(p + 5 - code) + (uint64_t)(int64_t)far == to;
}
#elif defined(__aarch64__)
static bool forwards(int fd, uint64_t from, uint64_t to)
{
	uint32_t code[3], *p = code;
	int64_t words;

	if (pread(fd, code, sizeof(code), (off_t)from) != sizeof(code))
		return false;
	if (*p == 0xd503245f) /* bti c */
		p++;
	if (p[0] != 0x52800003 || p[1] >> 26 != 0x05) /* mov w3,#0; b */
		return false;
	words = (int64_t)((uint64_t)p[1] << 38) >> 38; /* 26 bits, signed */
	return from + (uint64_t)((const char *)(p + 1) - (const char *)code) +
		       (uint64_t)(4 * words) ==
	       to;
}
#else
static bool forwards(int fd, uint64_t from, uint64_t to)
{
	(void)fd;
	(void)from;
	(void)to;
	return false;
}
#endif

/*
 * The functions of sockets without TLS, those that both tables use among them, are one source file,
 * and so lie together; those with TLS are another one's.
 */
static bool lies_apart(const struct ops *o)
{
	uint64_t first = UINT64_MAX, last = 0;

	for (size_t i = 0; i < N(own); i++) {
		uint64_t at = o->to[own[i]];

		first = at < first ? at : first;
		last = at > last ? at : last;
	}
	for (size_t i = 0; i < N(shared); i++)
		if (o->to[shared[i]] > first && o->to[shared[i]] < last)
			return false;
	return true;
}

enum sign { NOT, MAYBE, SURELY };

static enum sign is_secure(int fd, const struct ops *o, const struct ops *other)
{
	bool mine =
		forwards(fd, o->to[READ], o->to[RECV]) && forwards(fd, o->to[WRITE], o->to[SEND]);
	bool theirs = forwards(fd, other->to[READ], other->to[RECV]) ||
		      forwards(fd, other->to[WRITE], other->to[SEND]);
	bool apart = lies_apart(o) && !lies_apart(other);
	bool apart_theirs = lies_apart(other) && !lies_apart(o);

	if (theirs || apart_theirs)
		return NOT;
	return mine ? SURELY : apart ? MAYBE : NOT;
}

static const struct ops *find_secure(int fd, const struct elfptrs *p, struct ops v[OPS_MAX],
				     enum sign *sign)
{
	const struct ops *pair[2] = {NULL, NULL};

	if (!find_pair(fd, v, find_ops(p, v), pair))
		return NULL;
	*sign = is_secure(fd, pair[0], pair[1]);
	if (*sign)
		return pair[0];
	*sign = is_secure(fd, pair[1], pair[0]);
	return *sign ? pair[1] : NULL;
}

/* --- sites --------------------------------------------------------------------------------------
 */

static int add_ops(struct sites *out, const struct ops *o, enum sign sign)
{
	int err = sites_add(out, o->to[RECV], SSLC_CALL_READ_FLAGS, SITE_ENTRY | SITE_RETURN);

	if (!err)
		err = sites_add(out, o->to[SEND], SSLC_CALL_WRITE, SITE_ENTRY | SITE_RETURN);
	if (!err && sign != SURELY) /* else they end in those two */
		err = sites_add(out, o->to[READ], SSLC_CALL_READ, SITE_ENTRY | SITE_RETURN);
	if (!err && sign != SURELY)
		err = sites_add(out, o->to[WRITE], SSLC_CALL_WRITE, SITE_ENTRY | SITE_RETURN);
	if (!err)
		err = sites_add(out, o->to[CLOSE], SSLC_CALL_FORGET, SITE_ENTRY);
	return err;
}

int sites_nss(int fd, struct sites *out)
{
	/* Their object is the descriptor, not the connection: they only say that TLS is spoken. */
	static const struct site_symbol table[] = {
		{"SSL_ForceHandshake", SSLC_CALL_BIND},
		{"SSL_ForceHandshakeWithTimeout", SSLC_CALL_BIND},
	};
	static const char *const mark[] = {"SSL_ImportFD"}; /* makes a socket one with TLS */
	struct elfptrs p = {0};
	struct ops v[OPS_MAX];
	const struct ops *o;
	enum sign sign;
	uint64_t at;
	int err = elfsym_offsets(fd, mark, 1, &at);

	if (err <= 0)
		return err;
	err = elfptrs_read(fd, &p);
	if (err)
		return err;
	o = find_secure(fd, &p, v, &sign);
	elfptrs_fini(&p);
	if (!o) {
		log_debug("sites: NSS: no table of socket operations that could be told for sure");
		return -ENOTSUP;
	}
	log_debug("sites: NSS: table of socket operations at %#llx", (unsigned long long)o->at);
	err = add_ops(out, o, sign);
	return err ? err : sites_add_symbols(out, fd, table, N(table));
}
