/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shown: the forged connections on which streams of HTTP/2 are shown: their client ports, their
 * packets, and pokes of those that are silent. Text comes from streams.c, forge.c makes packets of
 * it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "http/streams_parts.h"

/* As clients' systems choose them: below are servers' ports, by which tshark and others guess what
 * a connection speaks. */
#define PORT_MIN   32768u
#define PORT_TRIES 16u
/* An IDS forgets a connection after 600 s of silence, and then does not believe the rest. */
#define QUIET_NS (300 * NS_PER_S)

/* Ports */

static uint64_t mix(uint64_t v) /* splitmix64's: every bit of the input reaches every bit */
{
	v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9ull;
	v = (v ^ v >> 27) * 0x94d049bb133111ebull;
	return v ^ v >> 31;
}

/*
 * Streams of one connection have one port after the other, so that none comes twice soon; promised
 * ones are half a turn away. The same for the same stream each time: with two mirrors, and in
 * tests.
 */
static uint16_t port_of(const struct frame_flow_open *open, uint32_t id, unsigned attempt)
{
	uint32_t turn = 65536u - PORT_MIN;
	uint64_t half[2];

	memcpy(half, open->session, sizeof(half));
	half[0] = mix(half[0] ^ mix(half[1] + attempt));
	return (uint16_t)(PORT_MIN + (half[0] + id / 2 + (id % 2 ? 0 : turn / 2)) % turn);
}

/* A client port under which nothing is open, and which is not the real one. */
static int port_choose(const struct streams *c, struct shown *sh, uint32_t id)
{
	const struct frame_flow_open *open = c->flow.who.open;
	struct forge_flow *f = &sh->place.forge;

	for (unsigned i = 0; i < PORT_TRIES; i++) {
		f->port[FLOW_C2S] = port_of(open, id, i);
		if (f->port[FLOW_C2S] != open->client_port && !streams_place_find(c->hub, f))
			return streams_place_take(c->hub, &sh->place);
	}
	return -EADDRINUSE;
}

/* Forged connections */

static void said_now(struct shown *sh, enum flow_dir dir)
{
	struct shown_said *said = &sh->said[dir];

	said->ip_id = sh->place.forge.side[dir].ip_id;
	said->ts_ns = sh->of->ts_ns;
	queue_push(&sh->of->said[dir], &said->node);
}

static void touch(struct shown *sh)
{
	sh->active_ns = sh->of->ts_ns;
	queue_push(&sh->of->order, &sh->order);
}

static struct outlet_emission emission_of(const struct shown *sh)
{
	return (struct outlet_emission){.outlet = sh->of->outlet, .who = &sh->of->flow.who};
}

void shown_put(struct shown *sh, enum flow_dir dir, struct span text, bool end)
{
	struct outlet_emission e = emission_of(sh);
	struct forge_out out = outlet_out(&e);

	forge_fit(&sh->place.forge, outlet_mtu(e.outlet, &sh->of->flow)); /* as the native outlet */
	forge_data(&sh->place.forge, &out, dir, text, end, sh->of->ts_ns);
	said_now(sh, dir);
	touch(sh);
}

void shown_gap(struct shown *sh, enum flow_dir dir, uint64_t len)
{
	struct outlet_emission e = emission_of(sh);
	struct forge_out out = outlet_out(&e);

	forge_gap(&sh->place.forge, &out, dir, len, sh->of->ts_ns);
	touch(sh);
}

void shown_fin(struct shown *sh, enum flow_dir dir)
{
	struct outlet_emission e = emission_of(sh);
	struct forge_out out = outlet_out(&e);

	forge_fin(&sh->place.forge, &out, dir, sh->of->ts_ns);
}

void shown_rst(struct shown *sh, enum flow_dir dir)
{
	struct outlet_emission e = emission_of(sh);
	struct forge_out out = outlet_out(&e);

	forge_rst(&sh->place.forge, &out, dir, sh->of->ts_ns);
}

void shown_fins(struct shown *sh, enum flow_dir dir)
{
	shown_fin(sh, dir);
	shown_fin(sh, peer_of(dir));
}

void shown_free(struct shown *sh)
{
	struct streams *c = sh->of;

	if (c->serial == sh)
		c->serial = NULL;
	queue_remove(&sh->order);
	queue_remove(&sh->said[FLOW_C2S].node);
	queue_remove(&sh->said[FLOW_S2C].node);
	streams_leave_place(c->hub, &sh->place);
	free(sh);
}

void shown_session_of(uint8_t session[16], const struct streams *c, uint32_t id)
{
	memcpy(session, c->flow.who.open->session, 16);
	for (int i = 0; i < 4; i++)
		session[i] ^= (uint8_t)(id >> (8 * i));
}

struct shown *shown_new(struct streams *c, uint32_t id)
{
	struct shown *sh = calloc(1, sizeof(*sh));
	struct frame_flow_open open = *c->flow.who.open;
	struct outlet_flow flow = c->flow;

	if (!sh)
		return NULL;
	sh->of = c;
	sh->place.is_stream = true;
	sh->said[FLOW_S2C].dir = FLOW_S2C;
	shown_session_of(open.session, c, id);
	flow.who.open = &open;
	outlet_forge_init(c->outlet, &sh->place.forge, &flow);
	if (port_choose(c, sh, id) < 0) {
		free(sh);
		return NULL;
	}
	touch(sh);
	return sh;
}

/* Pokes */

static void shown_poke(struct shown *sh, enum flow_dir dir)
{
	struct outlet_emission e = emission_of(sh);
	struct forge_out out = outlet_out(&e);

	queue_remove(&sh->said[dir].node);
	if (sh->said[dir].ip_id == sh->place.forge.side[dir].ip_id)
		forge_poke(&sh->place.forge, &out, dir, sh->of->ts_ns);
}

void shown_pokes_run(struct streams *c, enum flow_dir dir, uint64_t until_ns)
{
	struct queue_node *n;

	while ((n = queue_first(&c->said[dir])) != NULL) {
		struct shown_said *said = queue_entry(n, struct shown_said, node);

		if (said->ts_ns > until_ns)
			return;
		shown_poke(queue_entry(said - said->dir, struct shown, said), dir);
	}
}

void shown_quiet_run(struct streams *c)
{
	struct queue_node *n;

	while ((n = queue_first(&c->order)) != NULL) {
		struct shown *sh = queue_entry(n, struct shown, order);

		if (!streams_is_since(c, sh->active_ns, QUIET_NS))
			return;
		touch(sh);
		sh->said[FLOW_C2S].ip_id = sh->place.forge.side[FLOW_C2S].ip_id;
		shown_poke(sh, FLOW_C2S);
	}
}
