/* SPDX-License-Identifier: Apache-2.0 */
/* Preloaded: the clock on the wall is SKEW_S seconds ahead. */
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t id, struct timespec *t)
{
	static int (*real)(clockid_t, struct timespec *);
	const char *skew = getenv("SKEW_S");
	int ret;

	if (!real)
		real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
	ret = real(id, t);
	if (ret == 0 && id == CLOCK_REALTIME && skew)
		t->tv_sec += atoi(skew);
	return ret;
}
