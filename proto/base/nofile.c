/* SPDX-License-Identifier: Apache-2.0 */
/* nofile: see nofile.h. */
#include "nofile.h"

#include <sys/resource.h>

uint64_t nofile_raise(uint64_t most)
{
	struct rlimit l;
	rlim_t before;

	if (getrlimit(RLIMIT_NOFILE, &l))
		return UINT64_MAX; /* not known: whoever opens one is told */
	before = l.rlim_cur;
	if (l.rlim_cur < most)
		l.rlim_cur = l.rlim_max < most ? l.rlim_max : (rlim_t)most;
	return setrlimit(RLIMIT_NOFILE, &l) ? before : l.rlim_cur;
}
