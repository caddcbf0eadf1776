/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pokes: who waits for a poke, and until when. All wait equally long, so that the order in which
 * they began is the order in which they are due: a ring, in which whoever does not wait any more
 * leaves a hole. Each operation takes constant time, a wheel of timers would be no better; and a
 * session that has been silent keeps nothing but its number. Measured beside the other queues by
 * tests/bench/sessions.
 */
#ifndef SSLC_COLLECTOR_POKES_H
#define SSLC_COLLECTOR_POKES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One who may wait, inside the caller's struct; must not move while it waits. */
struct poke {
	uint32_t number; /* of its place; 0: does not wait */
};

struct pokes {
	struct poke_place *ring;
	uint32_t size;     /* of the ring, a power of two; 0: none */
	uint32_t from, to; /* numbers in use: from the first one that waits, before `to` */
};

void pokes_init(struct pokes *p);
void pokes_fini(struct pokes *p);
/**
 * Waits from now on until due_ns, which is not before that of anybody else; not until when it
 * waited for. Without memory it does not wait: it is not poked, then.
 */
void pokes_add(struct pokes *p, struct poke *who, uint64_t due_ns);
/** Does not wait any more. */
void pokes_remove(struct pokes *p, struct poke *who);
static inline bool poke_waits(const struct poke *who)
{
	return who->number != 0;
}
/**
 * The first one who waits, when it is due; it goes on waiting. NULL: nobody is. *wait_ns: ns until
 * somebody is, UINT64_MAX when nobody waits.
 */
struct poke *pokes_due(struct pokes *p, uint64_t now_ns, uint64_t *wait_ns);
size_t pokes_memory(const struct pokes *p);

#endif
