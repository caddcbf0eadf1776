/* SPDX-License-Identifier: Apache-2.0 */
/* counters: what metrics_dump() says about one counter, for tests of modules that keep theirs to
 * themselves. */
#ifndef SSLC_TEST_COUNTERS_H
#define SSLC_TEST_COUNTERS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/metrics.h"

/* Value of a counter by its public name; 0 as long as nothing has touched it. */
static inline uint64_t counter_named(const char *name)
{
	unsigned long long value = 0, v;
	char *text = NULL, have[128];
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	metrics_dump(f, true);
	fclose(f);
	for (char *save = NULL, *line = strtok_r(text, "\n", &save); line;
	     line = strtok_r(NULL, "\n", &save))
		if (sscanf(line, "sslcollector: counter %127s %llu", have, &v) == 2 &&
		    !strcmp(have, name))
			value = v;
	free(text);
	return value;
}

#endif
