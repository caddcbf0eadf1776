/* SPDX-License-Identifier: Apache-2.0 */
/* metrics: see metrics.h. The registry is a list sorted by name; counters are never taken out of
 * it. */
#include "metrics.h"

#include <inttypes.h>
#include <pthread.h>
#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct counter *registry; /* under lock */

static void insert_sorted(struct counter *c)
{
	struct counter **at = &registry;

	while (*at && strcmp((*at)->name, c->name) <= 0)
		at = &(*at)->next;
	c->next = *at;
	*at = c;
}

void counter_register(struct counter *c)
{
	pthread_mutex_lock(&lock);
	if (!atomic_load_explicit(&c->registered, memory_order_relaxed)) {
		insert_sorted(c);
		atomic_store_explicit(&c->registered, true, memory_order_relaxed);
	}
	pthread_mutex_unlock(&lock);
}

void metrics_each(void (*each)(void *ctx, const struct counter *c), void *ctx)
{
	pthread_mutex_lock(&lock);
	for (const struct counter *c = registry; c; c = c->next)
		each(ctx, c);
	pthread_mutex_unlock(&lock);
}

void metrics_dump(FILE *out, bool all)
{
	pthread_mutex_lock(&lock);
	for (const struct counter *c = registry; c; c = c->next) {
		uint64_t v = counter_get(c);

		if (all || v)
			fprintf(out, "sslcollector: counter %s %" PRIu64 "\n", c->name, v);
	}
	pthread_mutex_unlock(&lock);
}
