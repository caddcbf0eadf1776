/* SPDX-License-Identifier: Apache-2.0 */
/* doubt: unexplained connections in, by file; out: when they are too many. Looks at nothing else.
 */
#include "probes/doubt.h"

#include <errno.h>
#include <stdlib.h>

struct doubt {
	unsigned n;
	uint64_t since_ns; /* connections that were opened before count for nothing */
};

struct doubts {
	struct doubt *files; /* by number */
	unsigned n;
	uint64_t lost_ns;
};

int doubts_new(struct doubts **out)
{
	*out = calloc(1, sizeof(**out));
	return *out ? 0 : -ENOMEM;
}

void doubts_free(struct doubts *d)
{
	if (d)
		free(d->files);
	free(d);
}

void doubts_begin(struct doubts *d, unsigned file, uint64_t now_ns)
{
	if (file >= d->n) {
		struct doubt *files = realloc(d->files, (file + 1) * sizeof(*files));

		if (!files)
			return; /* it will never be doubted */
		d->files = files;
		while (d->n <= file)
			d->files[d->n++] = (struct doubt){.since_ns = UINT64_MAX};
	}
	d->files[file] = (struct doubt){.since_ns = now_ns + DOUBTS_GRACE_NS};
}

void doubts_lost(struct doubts *d, uint64_t now_ns)
{
	d->lost_ns = now_ns;
}

bool doubts_add(struct doubts *d, unsigned file, uint64_t opened_ns)
{
	struct doubt *f = file && file < d->n ? &d->files[file] : NULL;

	if (!f || opened_ns < f->since_ns || opened_ns <= d->lost_ns || ++f->n < DOUBTS_ENOUGH)
		return false;
	f->n = 0;
	return true;
}
