/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sites_cheap: the sites that the finders of C libraries have named come in, as entry and return of
 * whole functions; the same calls leave, probed where it costs least. Where a probe lies is a
 * matter of price alone: what is seen stays the same.
 */
#include "sites/sites.h"

#include "sites/cheap.h"
#include "sites/elfframe.h"
#include "sites/elfview.h"

#include <errno.h>

/* How many of its arguments an entry's program reads. */
static unsigned arguments(enum sslc_call call)
{
	if (call == SSLC_CALL_WRITE_EX2)
		return 5;
	if (call == SSLC_CALL_READ_EX || call == SSLC_CALL_WRITE_EX ||
	    call == SSLC_CALL_READ_FLAGS || call == SSLC_CALL_RECV_TYPED)
		return 4;
	return sslc_call_moves(call) ? 3 : 1;
}

/* A whole function, with its return unless that means nothing. Go's finder knows better. */
static bool is_whole(const struct site *s)
{
	return s->at == (SITE_ENTRY | SITE_RETURN) ||
	       (s->at == SITE_ENTRY && s->call == SSLC_CALL_FORGET);
}

/* The site has become the entry of a pair: add the exits. */
static int take_pair(struct sites *s, size_t i, const struct cheap_places *p)
{
	const struct site f = s->v[i];
	size_t movers = s->movers;

	for (unsigned k = 0; k < p->n_exits; k++) {
		struct site *x;
		int err = sites_add(s, f.function + p->exit[k].at, f.call, SITE_EXIT);

		if (err)
			return err;
		x = &s->v[s->n - 1];
		x->sp = (int32_t)p->exit[k].sp;
		x->name = f.name;
		x->function = f.function;
		x->price = SITE_PAIR;
	}
	s->v[i].at = SITE_ENTRY;
	s->v[i].price = SITE_PAIR;
	s->movers = movers;
	return 0;
}

/* Whether to take the places that were found in the function of a site. */
static bool suits(const struct sites *s, struct site *site, enum cheap_kind kind)
{
	if (site->at == SITE_ENTRY)
		return kind != CHEAP_NOTHING;
	if (kind == CHEAP_PAIR && !s->pairs)
		site->why = "pairs need Linux 6.6";
	return kind == CHEAP_RETURN || (kind == CHEAP_PAIR && s->pairs);
}

static int cheapen(struct sites *s, size_t i, const struct elfview *e)
{
	struct site *site = &s->v[i];
	uint64_t size = elfframe_size(e, site->function);
	size_t len = size && size <= CHEAP_FUNCTION ? size : CHEAP_FIRST;
	uint8_t code[CHEAP_FUNCTION];
	struct cheap_places p;
	enum cheap_kind kind;

	if (!elfview_read(e, site->function, code, len))
		return 0;
	kind = cheap_find(code, size, arguments(site->call), &p);
	site->why = p.why;
	if (!suits(s, site, kind))
		return 0;
	site->offset = site->function + p.entry.at;
	site->sp = (int32_t)p.entry.sp;
	if (site->at == SITE_ENTRY)
		site->why = NULL;
	if (site->at == SITE_ENTRY || kind == CHEAP_RETURN) {
		site->price = SITE_FIRST;
		return 0;
	}
	return take_pair(s, i, &p);
}

int sites_cheapen(struct sites *s, int fd)
{
	size_t n = s->n;
	struct elfview e;
	int err = n ? elfview_open(&e, fd) : 0;

	if (!n || err)
		return err == -ENOMEM ? err : 0;
	for (size_t i = 0; i < n && !err; i++)
		if (is_whole(&s->v[i]))
			err = cheapen(s, i, &e);
	elfview_close(&e);
	return err;
}
