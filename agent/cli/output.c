/* SPDX-License-Identifier: Apache-2.0 */
/*
 * output: one word for an output comes in, its target and the values of its keys go out. Each key
 * is described once, in the table below; what kinds of outputs there are is settings.c's business.
 */
#include "cli/output.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/value.h"

#define MTU_MIN        128u /* headers and the smallest segment that forge makes */
#define MTU_MAX        65535u
#define VNI_MAX        0xffffffu   /* 24 bits */
#define ROTATE_MIN     (64u << 10) /* smaller files cost more than they hold */
#define ROTATE_MAX     (1ull << 40)
#define ROTATE_MAX_S   (366u * 86400)
#define KEEP_MAX       (1ull << 50)
#define KEEP_FILES_MAX 100000u /* they are looked through at each new one */
#define VLAN_MAX       4094u   /* IEEE 802.1Q: 0 and 4095 name no VLAN */

struct key {
	const char *name;
	unsigned of; /* OF_… | … */
	bool bare;   /* needs no value: text is NULL then */
	/* `name` is for messages. */
	int (*take)(struct sink_conf *c, const char *name, const char *text);
};

/* What the keys mean */

static int take_u16(const char *name, const char *text, unsigned min, unsigned max, uint16_t *out)
{
	unsigned v;
	int err = value_number(name, text, min, max, &v);

	if (!err)
		*out = (uint16_t)v;
	return err;
}

static int take_mtu(struct sink_conf *c, const char *name, const char *text)
{
	return take_u16(name, text, MTU_MIN, MTU_MAX, &c->shape.mtu);
}

static int take_vlan(struct sink_conf *c, const char *name, const char *text)
{
	return take_u16(name, text, 1, VLAN_MAX, &c->shape.vlan);
}

static int take_dst_mac(struct sink_conf *c, const char *name, const char *text)
{
	return value_mac(name, text, (uint8_t *)c->shape.dst_mac);
}

static int take_src_mac(struct sink_conf *c, const char *name, const char *text)
{
	uint8_t mac[6];
	int err = value_mac(name, text, mac);

	if (err)
		return err;
	if (mac[0] & 1)
		return usage_error("%s: %s: is a group's address; nobody sends from one", name,
				   text);
	memcpy(c->shape.src_mac, mac, sizeof(mac));
	return 0;
}

static int take_h2(struct sink_conf *c, const char *name, const char *text)
{
	/* as enum sink_h2 */
	static const char *const ways[] = {"native", "http1", "serial", NULL};
	unsigned way;
	int err = value_choice(name, text, ways, &way);

	if (!err)
		c->shape.http1 = (uint16_t)way;
	return err;
}

/* Two servers' ports shown as one would let two connections of one client look like one. */
static int port_add(struct sink_shape *shape, const char *name, uint16_t real, uint16_t shown)
{
	if (shape->n_ports == SINK_PORTS_MAX)
		return usage_error("%s: at most %d ports", name, SINK_PORTS_MAX);
	for (unsigned i = 0; i < shape->n_ports; i++)
		if (shape->ports[i][0] == real || shape->ports[i][1] == shown)
			return usage_error("%s: %u:%u: each port may stand once on each side", name,
					   real, shown);
	shape->ports[shape->n_ports][0] = real;
	shape->ports[shape->n_ports++][1] = shown;
	return 0;
}

static int port_pair(struct sink_shape *shape, const char *name, char *pair)
{
	char *colon = strchr(pair, ':');
	uint16_t real, shown;
	int err;

	if (!colon)
		return usage_error("%s: %s: a port map is REAL:SHOWN, as in 443:80", name, pair);
	*colon = '\0';
	err = value_port(name, pair, &real);
	if (!err)
		err = value_port(name, colon + 1, &shown);
	return err ? err : port_add(shape, name, real, shown);
}

int output_port_map(struct sink_shape *shape, const char *name, const char *text)
{
	char *copy = NULL, *rest;
	int err = value_string(text, &copy);

	shape->n_ports = 0;
	for (rest = copy; !err && rest;)
		err = port_pair(shape, name, strsep(&rest, ","));
	free(copy);
	return err;
}

static int take_yes_no(const char *name, const char *text, enum sink_choice *out)
{
	static const char *const words[] = {"yes", "no", NULL};
	unsigned no;
	int err = value_choice(name, text, words, &no);

	if (!err)
		*out = no ? SINK_NO : SINK_YES;
	return err;
}

static int take_bypass(struct sink_conf *c, const char *name, const char *text)
{
	return take_yes_no(name, text, &c->bypass);
}

static int take_xdp(struct sink_conf *c, const char *name, const char *text)
{
	return take_yes_no(name, text, &c->xdp);
}

static int take_gso(struct sink_conf *c, const char *name, const char *text)
{
	if (text)
		return take_yes_no(name, text, &c->large);
	c->large = SINK_YES;
	return 0;
}

/* Said once a pair, for commas divide keys here. */
static int take_port_map(struct sink_conf *c, const char *name, const char *text)
{
	char *copy = NULL;
	int err = value_string(text, &copy);

	if (!err)
		err = port_pair(&c->shape, name, copy);
	free(copy);
	return err;
}

/* Files */

static int take_rotate_size(struct sink_conf *c, const char *name, const char *text)
{
	size_t bytes = 0;
	int err = value_size(name, text, ROTATE_MIN, ROTATE_MAX, &bytes);

	c->rotation.bytes = bytes;
	return err;
}

static int take_rotate_time(struct sink_conf *c, const char *name, const char *text)
{
	return value_duration(name, text, ROTATE_MAX_S, &c->rotation.seconds);
}

static int take_keep_size(struct sink_conf *c, const char *name, const char *text)
{
	size_t bytes = 0;
	int err = value_size(name, text, 2 * ROTATE_MIN, KEEP_MAX, &bytes);

	c->rotation.keep_bytes = bytes;
	return err;
}

static int take_keep_files(struct sink_conf *c, const char *name, const char *text)
{
	return value_number(name, text, 1, KEEP_FILES_MAX, &c->rotation.keep_files);
}

static int take_stop_with_reader(struct sink_conf *c, const char *name, const char *text)
{
	c->with_reader = true;
	return text ? usage_error("%s: takes no value", name) : 0;
}

/* What they mean together. */
static int check_rotation(const struct sink_conf *c, const char *name)
{
	const struct sink_rotation *r = &c->rotation;
	bool rotates = r->bytes || r->seconds;

	if ((r->keep_bytes || r->keep_files) && !rotates)
		return usage_error("%s %s: keep-size and keep-files need rotate-size or "
				   "rotate-time",
				   name, c->target);
	if (rotates && !strcmp(c->target, "-"))
		return usage_error("%s -: standard output cannot be rotated", name);
	if (r->keep_bytes && r->keep_bytes < 2 * r->bytes)
		return usage_error("%s %s: keep-size: must be at least twice rotate-size: one file "
				   "finished, one being written",
				   name, c->target);
	return 0;
}

/* Streams and tunnels */

static int take_format(struct sink_conf *c, const char *name, const char *text)
{
	static const char *const words[] = {"pcap", "pcapng", NULL};
	unsigned which = 0;
	int err = value_choice(name, text, words, &which);

	c->pcapng = which == 1;
	return err;
}

static int take_vni(struct sink_conf *c, const char *name, const char *text)
{
	return value_number(name, text, 1, VNI_MAX, &c->vni);
}

static int take_tunnel_gso(struct sink_conf *c, const char *name, const char *text)
{
	c->gso = true;
	return text ? usage_error("%s: takes no value", name) : 0;
}

/* Tells apart what sensors must not mix: it has to be said. */
static int check_vni(const struct sink_conf *c, const char *name)
{
	return c->vni ? 0
		      : usage_error("%s %s: which network? Add its number: %s,vni=1", name,
				    c->target, c->target);
}

static const struct key keys[] = {
	{"mtu", OF_PACKETS, false, take_mtu},
	{"vlan", OF_PACKETS, false, take_vlan},
	{"src-mac", OF_PACKETS, false, take_src_mac},
	{"dst-mac", OF_PACKETS, false, take_dst_mac},
	{"port-map", OF_PACKETS, false, take_port_map},
	{"h2", OF_PACKETS, false, take_h2},
	{"bypass", OF_IFACE, false, take_bypass},
	{"xdp", OF_IFACE, false, take_xdp},
	{"gso", OF_IFACE, true, take_gso},
	{"vni", OF_TUNNEL, false, take_vni},
	{"gso", OF_TUNNEL, true, take_tunnel_gso},
	{"format", OF_STREAM, false, take_format},
	{"rotate-size", OF_FILE, false, take_rotate_size},
	{"rotate-time", OF_FILE, false, take_rotate_time},
	{"keep-size", OF_FILE, false, take_keep_size},
	{"keep-files", OF_FILE, false, take_keep_files},
	{"stop-with-reader", OF_FILE, true, take_stop_with_reader},
	{.name = NULL},
};

/* The word's parts */

/* Up to a comma that is not escaped, into `out`, which has room. Returns the comma or the end. */
static const char *unescape(char *out, const char *in)
{
	while (*in && *in != ',') {
		if (*in == '\\' && (in[1] == ',' || in[1] == '\\'))
			in++;
		*out++ = *in++;
	}
	*out = '\0';
	return in;
}

static int unknown_key(const char *name, const char *target, unsigned of, const char *key)
{
	char all[256] = "";
	size_t n = 0;

	for (const struct key *k = keys; k->name; k++)
		if (k->of & of && n < sizeof(all))
			n += (size_t)snprintf(all + n, sizeof(all) - n, "%s%s", n ? ", " : "",
					      k->name);
	return usage_error("%s %s: %s: is no key of this output; there are %s (a comma in the "
			   "name before them is written \\,)",
			   name, target, key, all);
}

static int take_key(struct sink_conf *c, const char *name, unsigned of, char *part)
{
	char *text = strchr(part, '='), label[320];
	const struct key *k = keys;

	if (text)
		*text++ = '\0';
	while (k->name && (strcmp(k->name, part) != 0 || !(k->of & of)))
		k++;
	if (!k->name)
		return unknown_key(name, c->target, of, part);
	snprintf(label, sizeof(label), "%s %s: %s", name, c->target, part);
	if (text ? !*text : !k->bare)
		return usage_error("%s: needs a value", label);
	return k->take(c, label, text);
}

static int take_keys(struct sink_conf *c, const char *name, unsigned of, const char *text)
{
	char *copy = NULL, *rest;
	int err = value_string(text, &copy);

	for (rest = copy; !err && rest;)
		err = take_key(c, name, of, strsep(&rest, ","));
	free(copy);
	return err;
}

/* What the keys mean together. */
static int check_keys(const struct sink_conf *c, const char *name)
{
	if (c->bypass == SINK_NO && c->xdp == SINK_YES)
		return usage_error("%s %s: xdp=yes with bypass=no: AF_XDP always passes by those "
				   "who listen on the interface",
				   name, c->target);
	if (c->large == SINK_YES && (c->bypass == SINK_YES || c->xdp == SINK_YES))
		return usage_error("%s %s: gso with %s=yes: large frames are cut in the queue that "
				   "is passed by then",
				   name, c->target, c->xdp == SINK_YES ? "xdp" : "bypass");
	return 0;
}

int output_parse(struct sink_conf *out, const char *name, unsigned of, const char *word)
{
	struct sink_conf c = {.kind = out->kind};
	char *target = NULL;
	const char *rest;
	int err = value_string(word, &target);

	if (err)
		return err;
	rest = unescape(target, word);
	c.target = target;
	if (!*target)
		err = usage_error("%s: %s: names no output before its keys", name, word);
	if (!err && *rest)
		err = take_keys(&c, name, of, rest + 1);
	if (!err)
		err = check_keys(&c, name);
	if (!err && of == OF_FILE)
		err = check_rotation(&c, name);
	if (!err && of == OF_TUNNEL)
		err = check_vni(&c, name);
	if (err)
		free(target);
	else
		*out = c;
	return err;
}
