/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sink_fan: packets onto one of several interfaces, IFACE|IFACE..., for sensors that share the
 * work. Each connection is wholly on one of them, both directions, chosen by its addresses and
 * ports: no state, and the same choice after a restart and at every collector with the same list.
 * What is lost on one interface is lost for its connections only: they do not move.
 */
#include "sink.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

struct fan_sink {
	struct sink sink;
	struct sink_set to;
};

static struct sink *fan_pick(struct sink *sink, const struct sink_flow *flow)
{
	struct fan_sink *s = (struct fan_sink *)sink;

	return s->to.v[sink_flow_choice(flow->open, s->to.n)];
}

static void fan_packet(struct sink *sink, struct span l2, uint64_t ts_ns,
		       const struct sink_flow *flow, bool first)
{
	struct sink *to = fan_pick(sink, flow);

	to->ops->packet(to, l2, ts_ns, flow, first);
}

static void fan_flush(struct sink *sink)
{
	sinks_flush(&((struct fan_sink *)sink)->to);
}

static void fan_tick(struct sink *sink, uint64_t now_ns)
{
	sinks_tick(&((struct fan_sink *)sink)->to, now_ns);
}

/* The smallest: which interface a connection goes to must not change its packets. */
static uint32_t fan_mtu(const struct sink *sink)
{
	const struct sink_set *to = &((const struct fan_sink *)sink)->to;
	uint32_t mtu = UINT32_MAX;

	for (unsigned i = 0; i < to->n; i++)
		if (to->v[i]->ops->mtu(to->v[i]) < mtu)
			mtu = to->v[i]->ops->mtu(to->v[i]);
	return mtu;
}

/* An outlet decides before it knows which. */
static bool fan_cuts(const struct sink *sink)
{
	const struct sink_set *to = &((const struct fan_sink *)sink)->to;
	bool all = true;

	for (unsigned i = 0; all && i < to->n; i++)
		all = to->v[i]->ops->cuts(to->v[i]);
	return all;
}

static void fan_close(struct sink *sink)
{
	struct fan_sink *s = (struct fan_sink *)sink;

	if (!s)
		return;
	sinks_close(&s->to);
	free(s);
}

static int open_all(struct fan_sink *s, const struct sink_conf *conf, char *names)
{
	struct sink_conf one[SINKS_MAX];
	unsigned n = 0;

	for (char *rest = names; rest; n++) {
		if (n == SINKS_MAX) {
			log_error("sink_fan: %s: at most %d interfaces are possible", conf->target,
				  SINKS_MAX);
			return -E2BIG;
		}
		one[n] = *conf;
		one[n].kind = "iface";
		one[n].leader =
			conf->leader ? ((const struct fan_sink *)conf->leader)->to.v[n] : NULL;
		one[n].target = strsep(&rest, "|");
	}
	return sinks_open(&s->to, one, n);
}

static int fan_open(struct sink **out, const struct sink_conf *conf)
{
	struct fan_sink *s = calloc(1, sizeof(*s));
	char *names = strdup(conf->target);
	int err = -ENOMEM;

	if (s && names) {
		s->sink.ops = &sink_fan_ops;
		err = open_all(s, conf, names);
		for (unsigned i = 0; i < s->to.n; i++)
			s->sink.place = sink_place(s->sink.place, &s->to.v[i]->place,
						   sizeof(s->to.v[i]->place));
	}
	free(names); /* an interface keeps its name itself */
	if (err)
		fan_close(&s->sink);
	else
		*out = &s->sink;
	return err;
}

const struct sink_ops sink_fan_ops = {
	.name = "fan",
	.open = fan_open,
	.pick = fan_pick,
	.packet = fan_packet,
	.flush = fan_flush,
	.tick = fan_tick,
	.mtu = fan_mtu,
	.cuts = fan_cuts,
	.is_many = true,
	.close = fan_close,
};
