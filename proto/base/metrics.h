/* SPDX-License-Identifier: Apache-2.0 */
/*
 * metrics: named counters. A counter is a static object registered on first use; adding is one
 * relaxed atomic. metrics_dump() prints every registered counter, sorted by name, as
 * "sslcollector: counter NAME VALUE", zero values too when `all`.
 */
#ifndef SSLC_BASE_METRICS_H
#define SSLC_BASE_METRICS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct counter {
	const char *name; /* "stage_what_reason", as listed in sslcollector.8 */
	const char *help;
	_Atomic uint64_t value;
	struct counter *next; /* registry, private */
	atomic_bool registered;
};

#define COUNTER_DEFINE(var, cname, chelp) struct counter var = {.name = (cname), .help = (chelp)}

/** Make the counter visible to metrics_dump(). Idempotent. */
void counter_register(struct counter *c);
static inline void counter_add(struct counter *c, uint64_t n)
{
	if (!atomic_load_explicit(&c->registered, memory_order_relaxed))
		counter_register(c);
	atomic_fetch_add_explicit(&c->value, n, memory_order_relaxed);
}
static inline void counter_inc(struct counter *c)
{
	counter_add(c, 1);
}
static inline uint64_t counter_get(const struct counter *c)
{
	return atomic_load_explicit(&c->value, memory_order_relaxed);
}
/** For gauges and for counters kept elsewhere (the kernel): overwrite the value. */
static inline void counter_set(struct counter *c, uint64_t v)
{
	if (!atomic_load_explicit(&c->registered, memory_order_relaxed))
		counter_register(c);
	atomic_store_explicit(&c->value, v, memory_order_relaxed);
}
/** Every counter, by name. `each` must not touch the registry: no counter's first use. */
void metrics_each(void (*each)(void *ctx, const struct counter *c), void *ctx);
/** One line a counter; `all` includes those that are zero. */
void metrics_dump(FILE *out, bool all);

#endif
