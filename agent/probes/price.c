/* SPDX-License-Identifier: Apache-2.0 */
/*
 * price: probes on functions of a child in, nanoseconds of one exception out. The least of a few
 * rounds: other programs disturb upwards only.
 */
#include "probes/price.h"

#include "probes/attach.h"
#include "probes/harm.h"
#include "sites/sites.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define ROUNDS 5

/* One way of probing one of the two functions. */
struct kind {
	bool stepped;
	unsigned at; /* SITE_… */
};

/* What one call costs, less the time of the programs that it runs. */
static int measure_once(struct attach *a, const struct harm_threaded *child, bool stepped,
			unsigned programs, double *ns)
{
	struct sslc_tally before, after;
	double call = 0, program = 0;
	int err;

	attach_tally(a, &before);
	err = harm_threaded_time(child, stepped, &call);
	attach_tally(a, &after);
	if (after.samples > before.samples)
		program = (double)(after.ns - before.ns) / (double)(after.samples - before.samples);
	*ns = call > program * programs ? call - program * programs : 0;
	return err;
}

/* The function is probed in the child only; the call is one that moves nothing and says nothing. */
static int measure(struct attach *a, const struct harm_threaded *child, int self,
		   const struct kind *k, double *least)
{
	struct site site = {.offset = k->stepped ? harm_stepped_offset() : harm_emulated_offset(),
			    .call = SSLC_CALL_EARLY_STATUS,
			    .at = k->at};
	struct sites sites = {.v = &site, .n = 1};
	unsigned programs = k->at & SITE_RETURN ? 2 : 1;
	struct attach_set *set = NULL;
	int err = site.offset ? attach_sites(a, self, &sites, (unsigned)child->pid, &set) : -ENOENT;
	double ns;

	*least = 1e9;
	for (int i = 0; i < ROUNDS && !err; i++) {
		err = measure_once(a, child, k->stepped, programs, &ns);
		if (!err && ns < *least)
			*least = ns;
	}
	attach_set_free(set);
	return err;
}

int price_measure(struct attach *a, uint32_t ns[SSLC_PRICES])
{
	static const struct kind kinds[] = {
		{false, SITE_ENTRY}, {true, SITE_ENTRY}, {false, SITE_ENTRY | SITE_RETURN}};
	struct harm_threaded child;
	double got[3] = {0};
	int err, self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

	if (self < 0)
		return -errno;
	err = harm_threaded_start(&child);
	if (err) {
		close(self);
		return err;
	}
	for (int i = 0; i < 3 && !err; i++)
		err = measure(a, &child, self, &kinds[i], &got[i]);
	harm_threaded_stop(&child);
	close(self);
	if (err)
		return err;
	ns[SSLC_PRICE_NONE] = 0;
	ns[SSLC_PRICE_EMULATED] = (uint32_t)got[0];
	ns[SSLC_PRICE_STEPPED] = (uint32_t)got[1];
	ns[SSLC_PRICE_RETURN] = got[2] > got[0] ? (uint32_t)(got[2] - got[0]) : 0;
	return 0;
}
