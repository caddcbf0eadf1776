/* SPDX-License-Identifier: Apache-2.0 */
/* rss: see rss.h. The second number of /proc/self/statm (proc(5)), in pages. */
#include "rss.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "metrics.h"

static COUNTER_DEFINE(c_memory, "process_memory_bytes",
		      "resident memory of this process when it was asked for (gauge)");

void rss_tell(void)
{
	FILE *f = fopen("/proc/self/statm", "re");
	uint64_t pages;

	if (!f)
		return;
	if (fscanf(f, "%*s %" SCNu64, &pages) == 1)
		counter_set(&c_memory, pages * (uint64_t)sysconf(_SC_PAGESIZE));
	fclose(f);
}
