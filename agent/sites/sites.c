/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sites: an open file in, the list of its probe sites out. Asks each library family's finder in
 * turn: a program may hold more than one. Never places a probe.
 */
#include "sites/sites.h"

#include "sites/elfsym.h"

#include <errno.h>
#include <stdlib.h>

static const struct {
	int (*find)(int fd, struct sites *out);
	unsigned family;
} finders[] = {
	{sites_openssl, SITES_OPENSSL},
	{sites_gnutls, SITES_GNUTLS},
	{sites_nss, SITES_NSS},
	{sites_go, SITES_GO},
};

int sites_add(struct sites *s, uint64_t offset, enum sslc_call call, unsigned at)
{
	struct site *v = realloc(s->v, (s->n + 1) * sizeof(*v));

	if (!v)
		return -ENOMEM;
	s->v = v;
	s->v[s->n++] = (struct site){.offset = offset, .function = offset, .call = call, .at = at};
	if (at & SITE_ENTRY && sslc_call_moves(call))
		s->movers++;
	return 0;
}

int sites_lookup(int fd, const struct site_symbol table[], size_t n, uint64_t offsets[])
{
	const char *names[SITES_SYMBOLS] = {0};

	if (n > SITES_SYMBOLS)
		return -E2BIG;
	for (size_t i = 0; i < n; i++)
		names[i] = table[i].name;
	return elfsym_offsets(fd, names, n, offsets);
}

int sites_add_found(struct sites *s, const struct site_symbol table[], size_t n,
		    const uint64_t offsets[])
{
	int err = 0;

	for (size_t i = 0; i < n && !err; i++) {
		if (!offsets[i])
			continue;
		err = sites_add(s, offsets[i], table[i].call,
				table[i].call == SSLC_CALL_FORGET ? SITE_ENTRY
								  : SITE_ENTRY | SITE_RETURN);
		if (!err)
			s->v[s->n - 1].name = table[i].name;
	}
	return err;
}

int sites_add_symbols(struct sites *s, int fd, const struct site_symbol table[], size_t n)
{
	uint64_t offsets[SITES_SYMBOLS];
	int err = sites_lookup(fd, table, n, offsets);

	return err < 0 ? err : sites_add_found(s, table, n, offsets);
}

int sites_find(int fd, struct sites *out)
{
	int err = 0;

	for (size_t i = 0; i < sizeof(finders) / sizeof(finders[0]) && !err; i++) {
		size_t before = out->movers;

		err = finders[i].find(fd, out);
		if (out->movers > before)
			out->families |= finders[i].family;
	}
	if (!err && !out->plain)
		err = sites_cheapen(out, fd);
	if (!err && out->records && out->families == SITES_OPENSSL)
		err = sites_records(out, fd);
	return err ? err : (int)out->movers;
}

void sites_fini(struct sites *s)
{
	free(s->v);
	free(s->around);
	*s = (struct sites){0};
}
