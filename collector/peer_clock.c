/* SPDX-License-Identifier: Apache-2.0 */
/* peer_clock: see peer_clock.h. Estimates in, a line in the log now and then. */
#include "peer_clock.h"

#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"

static COUNTER_DEFINE(c_off, "link_clocks_off",
		      "agents whose clock differs from ours by more than a second (gauge)");

#define QUIET_NS (60 * NS_PER_S) /* between two lines about one agent */

static uint64_t size_of(int64_t v)
{
	return v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
}

static double ms(int64_t ns)
{
	return (double)ns / 1e6;
}

static void enter(struct peer_clock *c, bool is_off)
{
	if (is_off != c->is_off)
		counter_add(&c_off, is_off ? 1 : UINT64_MAX);
	c->is_off = is_off;
}

/* By more than a second and by more than half. */
static bool has_changed(const struct peer_clock *c)
{
	uint64_t by = (uint64_t)c->ahead_ns - (uint64_t)c->told_ns;

	if (c->ahead_ns < c->told_ns)
		by = 0 - by;
	return by > PEER_CLOCK_OFF_NS && by > size_of(c->told_ns) / 2;
}

static void tell(struct peer_clock *c, const char *peer, uint64_t now_ns)
{
	c->told_ns = c->ahead_ns;
	c->told_off = c->is_off;
	c->quiet_ns = now_ns + QUIET_NS;
	if (c->is_off)
		log_warn("clock: of an agent: differs from ours, and so do the times of what it "
			 "mirrors peer=%s ahead_ms=%.0f trip_ms=%.1f",
			 peer, ms(c->ahead_ns), ms((int64_t)c->trip_ns));
	else
		log_info("clock: of an agent: agrees with ours again peer=%s", peer);
}

void peer_clock_ping(struct peer_clock *c, const struct frame_ping *m, const char *peer,
		     uint64_t now_ns)
{
	uint64_t size;

	if (!m->trip_ns || m->trip_ns > INT64_MAX || m->ahead_ns == INT64_MIN)
		return;
	c->ahead_ns = -m->ahead_ns; /* it speaks of ours */
	c->trip_ns = m->trip_ns;
	size = size_of(c->ahead_ns);
	/* Only what is certain; and not to and fro at the limit. */
	if (!c->is_off && size > PEER_CLOCK_OFF_NS + c->trip_ns / 2)
		enter(c, true);
	else if (c->is_off && size < PEER_CLOCK_OFF_NS / 2)
		enter(c, false);
	if ((c->is_off != c->told_off || (c->is_off && has_changed(c))) && now_ns >= c->quiet_ns)
		tell(c, peer, now_ns);
}

void peer_clock_print(const struct peer_clock *c, const char *peer, FILE *out)
{
	if (c->trip_ns)
		fprintf(out, "sslcollector: clock %s ahead_ms=%.3f trip_ms=%.3f\n", peer,
			ms(c->ahead_ns), ms((int64_t)c->trip_ns));
}

void peer_clock_forget(struct peer_clock *c)
{
	enter(c, false);
	memset(c, 0, sizeof(*c));
}
