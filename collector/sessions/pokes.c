/* SPDX-License-Identifier: Apache-2.0 */
/* pokes: see pokes.h. Numbers go on for ever and wrap; a place is its number modulo the size. */
#include "sessions/pokes.h"

#include <stdlib.h>

#define SIZE_FIRST 64u
#define SIZE_KEPT  4096u      /* a larger ring goes when nobody waits */
#define SIZE_MOST  (1u << 30) /* numbers of 32 bits stay apart */

struct poke_place {
	struct poke *who; /* borrowed; NULL: a hole */
	uint64_t due_ns;
};

void pokes_init(struct pokes *p)
{
	*p = (struct pokes){.from = 1, .to = 1};
}

void pokes_fini(struct pokes *p)
{
	free(p->ring);
	pokes_init(p);
}

static struct poke_place *place(const struct pokes *p, uint32_t number)
{
	return &p->ring[number & (p->size - 1)];
}

static bool grow(struct pokes *p)
{
	struct pokes bigger = *p;

	if (p->size >= SIZE_MOST)
		return false;
	bigger.size = p->size ? p->size * 2 : SIZE_FIRST;
	bigger.ring = malloc(bigger.size * sizeof(*p->ring));
	if (!bigger.ring)
		return false;
	for (uint32_t i = p->from; i != p->to; i++)
		*place(&bigger, i) = *place(p, i);
	free(p->ring);
	*p = bigger;
	return true;
}

/* The holes in front, and a ring that was needed for a moment only. */
static void tidy(struct pokes *p)
{
	while (p->from != p->to && !place(p, p->from)->who)
		p->from++;
	if (p->from != p->to || p->size <= SIZE_KEPT)
		return;
	free(p->ring);
	p->ring = NULL;
	p->size = 0;
}

static bool push(struct pokes *p, struct poke *who, uint64_t due_ns)
{
	if (p->to - p->from == p->size && !grow(p))
		return false;
	*place(p, p->to++) = (struct poke_place){.who = who, .due_ns = due_ns};
	return true;
}

void pokes_add(struct pokes *p, struct poke *who, uint64_t due_ns)
{
	pokes_remove(p, who);
	if (p->to == 0 && !push(p, NULL, due_ns)) /* the number that nobody has */
		return;
	if (push(p, who, due_ns))
		who->number = p->to - 1;
}

void pokes_remove(struct pokes *p, struct poke *who)
{
	if (!poke_waits(who))
		return;
	place(p, who->number)->who = NULL;
	who->number = 0;
	tidy(p);
}

struct poke *pokes_due(struct pokes *p, uint64_t now_ns, uint64_t *wait_ns)
{
	const struct poke_place *first;

	*wait_ns = UINT64_MAX;
	tidy(p);
	if (p->from == p->to)
		return NULL;
	first = place(p, p->from);
	*wait_ns = first->due_ns > now_ns ? first->due_ns - now_ns : 0;
	return *wait_ns ? NULL : first->who;
}

size_t pokes_memory(const struct pokes *p)
{
	return p->size * sizeof(struct poke_place);
}
