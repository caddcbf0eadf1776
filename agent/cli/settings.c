/* SPDX-License-Identifier: Apache-2.0 */
/*
 * settings: the table of what can be said, and where each word goes. Words come in, checked one by
 * one they go out into struct options. What two of them mean together is options.c's business.
 */
#include "cli/settings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/output.h"
#include "shim.h"
#include "cli/value.h"

#define COMPRESS_MAX         19 /* zstd's levels above need far more memory at both ends */
#define QUEUE_MIN            (1ull << 20)  /* one block must fit */
#define QUEUE_MAX            (64ull << 30) /* a slip of the finger, not a queue */
#define RING_MAX             (1ull << 30)  /* the kernel's ring buffer has 32-bit positions */
#define OVERHEAD_RETRY_MAX_S 86400u        /* a day without a mirror */
#define WORKERS_MAX          16            /* CREW_MAX of the collector */
#define EXPIRES_MAX_S        (30u * 86400) /* a token is a key that lies around */

/* Where each word goes */

static int take_interface(struct options *o, const char *name, const char *word)
{
	int err = value_iface(name, word);

	return err ? err : value_string(word, &o->iface);
}

static int take_filter(struct options *o, const char *name, const char *word)
{
	(void)name;
	return value_string(word, &o->filter);
}

static int take_listen(struct options *o, const char *name, const char *word)
{
	return value_address(name, word, &o->listen_addr);
}

static int take_port(struct options *o, const char *name, const char *word)
{
	return value_port(name, word, &o->port);
}

static int take_to(struct options *o, const char *name, const char *word)
{
	return value_host(name, word, &o->host,
			  o->mode == MODE_AGGREGATOR ? &o->onward_port : &o->port);
}

static int check_sink(const struct options *o, const struct sink_conf *c)
{
	if (o->n_sinks == SINKS_MAX)
		return usage_error("%s: at most %d outputs are possible", c->target, SINKS_MAX);
	for (unsigned i = 0; i < o->n_sinks; i++)
		if (!strcmp(o->sinks[i].kind, c->kind) && !strcmp(o->sinks[i].target, c->target))
			return usage_error("%s: the same output is named twice", c->target);
	return 0;
}

/* What c->target reaches goes over to `o`, or is freed. */
static int add_sink_take(struct options *o, const struct sink_conf *c)
{
	int err = check_sink(o, c);

	if (err)
		free((char *)c->target);
	else
		o->sinks[o->n_sinks++] = *c;
	return err;
}

/* An interface may be in one output, once. */
static int check_iface(const struct options *o, const char *name, const char *iface)
{
	int err = *iface ? value_iface(name, iface)
			 : usage_error("%s: an interface's name is empty", name);

	for (unsigned i = 0; !err && i < o->n_sinks; i++)
		if (options_has_iface(&o->sinks[i], iface))
			err = usage_error("%s: the same output is named twice", iface);
	return err;
}

/* IFACE, or IFACE|IFACE... */
static int check_ifaces(const struct options *o, const char *name, const char *target)
{
	char *copy = NULL, *rest;
	int err = value_string(target, &copy);

	for (rest = copy; !err && rest;) {
		const char *iface = strsep(&rest, "|");
		const struct sink_conf others = {.kind = "fan", .target = rest ? rest : ""};

		err = check_iface(o, name, iface);
		if (!err && options_has_iface(&others, iface))
			err = usage_error("%s: the same output is named twice", iface);
	}
	free(copy);
	return err;
}

static int take_output(struct options *o, const char *name, const char *word)
{
	struct sink_conf c = {.kind = "iface"};
	int err = output_parse(&c, name, OF_IFACE, word);

	if (err)
		return err;
	if (strchr(c.target, '|'))
		c.kind = "fan";
	err = check_ifaces(o, name, c.target);
	if (err)
		free((char *)c.target);
	return err ? err : add_sink_take(o, &c);
}

static int take_write(struct options *o, const char *name, const char *word)
{
	struct sink_conf c = {.kind = "pcap"};
	int err = output_parse(&c, name, OF_FILE, word);

	return err ? err : add_sink_take(o, &c);
}

static int take_serve(struct options *o, const char *name, const char *word)
{
	struct sink_conf c = {.kind = "pcap-over-ip"};
	char host[256], *checked = NULL;
	uint16_t port = 0;
	int err = output_parse(&c, name, OF_STREAM, word);

	if (err)
		return err;
	if (sink_split_address(c.target, host, &port) || !port)
		err = usage_error("%s: %s: [ADDR:]PORT is needed, as in 57012 or [::]:57012", name,
				  c.target);
	else if (host[0])
		err = value_address(name, host, &checked);
	free(checked);
	if (err)
		free((char *)c.target);
	return err ? err : add_sink_take(o, &c);
}

/* HOST[:PORT] with keys; port: 0 when one has to be said. */
static int take_receiver(struct options *o, const char *name, const char *word, const char *kind,
			 unsigned of, uint16_t port)
{
	struct sink_conf c = {.kind = kind};
	char *host = NULL;
	int err = output_parse(&c, name, of, word);

	if (err)
		return err;
	err = value_host(name, c.target, &host, &port);
	if (!err && !port)
		err = usage_error("%s: %s: which port? Say HOST:PORT", name, c.target);
	free(host);
	if (err)
		free((char *)c.target);
	return err ? err : add_sink_take(o, &c);
}

static int take_serve_to(struct options *o, const char *name, const char *word)
{
	return take_receiver(o, name, word, "pcap-over-ip-to", OF_STREAM, 0);
}

static int take_vxlan(struct options *o, const char *name, const char *word)
{
	return take_receiver(o, name, word, "vxlan", OF_TUNNEL, 4789);
}

static int take_geneve(struct options *o, const char *name, const char *word)
{
	return take_receiver(o, name, word, "geneve", OF_TUNNEL, 6081);
}

static int take_print(struct options *o, const char *name, const char *word)
{
	struct sink_conf c = {.kind = "text"};
	char *target = NULL;
	int err = value_string("-", &target);

	(void)name;
	(void)word;
	c.target = target;
	return err ? err : add_sink_take(o, &c);
}

static int take_port_map(struct options *o, const char *name, const char *word)
{
	return output_port_map(&o->port_map, name, word);
}

static int take_stream_log(struct options *o, const char *name, const char *word)
{
	struct sink_conf c = {.kind = "streams"};
	char *target = NULL;
	int err = value_string(word, &target);

	(void)name;
	c.target = target;
	return err ? err : add_sink_take(o, &c);
}

static int take_state_dir(struct options *o, const char *name, const char *word)
{
	(void)name;
	return value_string(word, &o->state_dir);
}

static int take_ca(struct options *o, const char *name, const char *word)
{
	(void)name;
	return value_string(word, &o->ca);
}

static int take_cert(struct options *o, const char *name, const char *word)
{
	(void)name;
	return value_string(word, &o->cert);
}

static int take_key(struct options *o, const char *name, const char *word)
{
	(void)name;
	return value_string(word, &o->key);
}

static int take_system_wide(struct options *o, const char *name, const char *word)
{
	(void)name;
	(void)word;
	o->system_wide = true;
	return 0;
}

static int take_insecure(struct options *o, const char *name, const char *word)
{
	(void)name;
	(void)word;
	o->insecure = true;
	return 0;
}

static int take_expires(struct options *o, const char *name, const char *word)
{
	return value_duration(name, word, EXPIRES_MAX_S, &o->token_ttl_s);
}

static int take_compress(struct options *o, const char *name, const char *word)
{
	return value_level(name, word, COMPRESS_MAX, &o->zstd_level);
}

static int take_queue(struct options *o, const char *name, const char *word)
{
	return value_size(name, word, QUEUE_MIN, QUEUE_MAX, &o->queue_bytes);
}

/* Rounded up to a power of two. */
static int take_rounded_in(const char *name, const char *word, size_t min, size_t max, size_t *out)
{
	size_t wanted, bytes = min;
	int err = value_size(name, word, min, max, &wanted);

	if (err)
		return err;
	while (bytes < wanted)
		bytes <<= 1;
	*out = bytes;
	return 0;
}

static int take_rounded(const char *name, const char *word, size_t *out)
{
	return take_rounded_in(name, word, RING_MIN, RING_MAX, out);
}

static int take_preload_ring(struct options *o, const char *name, const char *word)
{
	return take_rounded_in(name, word, SSLC_SHIM_DATA_MIN, SSLC_SHIM_DATA_MAX, &o->shim_bytes);
}

static int take_capture(struct options *o, const char *name, const char *word)
{
	static const char *const words[] = {"bpf", "preload", "bpf,preload", NULL};
	unsigned which;
	int err = value_choice(name, word, words, &which);

	if (!err)
		o->sources = which + 1;
	return err;
}
_Static_assert(CAPTURE_BPF == 1 && CAPTURE_PRELOAD == 2, "places of the words, counted from 1");

/* The kernel takes powers of two only. */
static int take_ring(struct options *o, const char *name, const char *word)
{
	return take_rounded(name, word, &o->ring_bytes);
}

static int take_rings(struct options *o, const char *name, const char *word)
{
	static const char *const words[] = {"1", "2", "4", "8", NULL};
	unsigned which;
	int err = value_choice(name, word, words, &which);

	if (!err)
		o->n_rings = 1u << which;
	return err;
}
_Static_assert(1 << 3 == SSLC_RINGS_MAX, "the last of the words");

static int take_backlog(struct options *o, const char *name, const char *word)
{
	return take_rounded(name, word, &o->backlog_bytes);
}

static int take_shed(struct options *o, const char *name, const char *word)
{
	static const char *const words[] = {
		[SSLC_SHED_NEWEST] = "newest",
		[SSLC_SHED_OLDEST] = "oldest",
		[SSLC_SHED_NONE] = "none",
		[SSLC_SHED_NONE + 1] = NULL,
	};
	unsigned shed;
	int err = value_choice(name, word, words, &shed);

	if (!err)
		o->shed = (enum sslc_shed)shed;
	return err;
}

static int take_max_overhead(struct options *o, const char *name, const char *word)
{
	return value_share(name, word, OVERHEAD_RETRY_MAX_S, &o->max_overhead,
			   &o->overhead_retry_s);
}

#define SESSIONS_MIN                                                                               \
	1000u /* fewer, and each new connection might end one that still says something */
#define SESSIONS_MOST 100000000u

static int take_max_sessions(struct options *o, const char *name, const char *word)
{
	return value_number(name, word, SESSIONS_MIN, SESSIONS_MOST, &o->max_sessions);
}

static int take_workers(struct options *o, const char *name, const char *word)
{
	return value_number(name, word, 1, WORKERS_MAX, &o->workers);
}

static int take_nice(struct options *o, const char *name, const char *word)
{
	return value_nice(name, word, &o->nice);
}

static int take_probes(struct options *o, const char *name, const char *word)
{
	static const char *const words[] = {
		[PROBES_AUTO] = "auto",   [PROBES_RECORDS] = "records", [PROBES_PAIRS] = "pairs",
		[PROBES_FIRST] = "first", [PROBES_PLAIN] = "plain",     [PROBES_PLAIN + 1] = NULL,
	};
	unsigned probes;
	int err = value_choice(name, word, words, &probes);

	if (!err)
		o->probes = (enum probes)probes;
	return err;
}

static int take_flow_hook(struct options *o, const char *name, const char *word)
{
	static const char *const words[] = {
		[FLOW_HOOK_AUTO] = "auto",     [FLOW_HOOK_TRACEPOINT] = "tracepoint",
		[FLOW_HOOK_FEXIT] = "fexit",   [FLOW_HOOK_KPROBE] = "kprobe",
		[FLOW_HOOK_KPROBE + 1] = NULL,
	};
	unsigned hook;
	int err = value_choice(name, word, words, &hook);

	if (!err)
		o->flow_hook = (enum flow_hook)hook;
	return err;
}

static int take_run_dir(struct options *o, const char *name, const char *word)
{
	(void)name;
	return value_string(word, &o->run_dir);
}

static int take_json(struct options *o, const char *name, const char *word)
{
	(void)name;
	(void)word;
	o->json = true;
	return 0;
}

static int take_starttls(struct options *o, const char *name, const char *word)
{
	static const char *const words[] = {
		[PRELUDE_STITCH] = "stitch",
		[PRELUDE_INNER] = "inner",
		[PRELUDE_KEEP] = "keep",
		[PRELUDE_KEEP + 1] = NULL,
	};
	unsigned mode;
	int err = value_choice(name, word, words, &mode);

	if (!err)
		o->starttls = (enum prelude_mode)mode;
	return err;
}

static int take_tls_in_tls(struct options *o, const char *name, const char *word)
{
	static const char *const words[] = {"peel", "outer", NULL};
	unsigned outer;
	int err = value_choice(name, word, words, &outer);

	if (!err)
		o->outer_tls = outer;
	return err;
}

static int take_verbose(struct options *o, const char *name, const char *word)
{
	(void)name;
	(void)word;
	o->verbose = true;
	return 0;
}

/* The table */

#define MIRROR (IN(MODE_AGENT) | IN(MODE_ALONE))
#define ACCEPT (IN(MODE_COLLECTOR) | IN(MODE_AGGREGATOR))
#define TUNNEL (IN(MODE_AGENT) | ACCEPT)
#define RUN    (MIRROR | TUNNEL)
#define SHOW   (IN(MODE_ALONE) | IN(MODE_COLLECTOR))
#define ASK    (IN(MODE_COVERAGE) | IN(MODE_STATUS))
#define SHIM   (IN(MODE_RUN) | IN(MODE_ENABLE) | IN(MODE_DISABLE))
#define PEOPLE (IN(MODE_ENROLL) | IN(MODE_TOKEN) | ASK | IN(MODE_DOCTOR) | SHIM)
#define EVERY  (RUN | PEOPLE)

#define AT(member) offsetof(struct settings, member)

static const char from[] = "Where from";
static const char into[] = "Where to (outputs may be repeated and combined)";
static const char what[] = "What";
static const char who[] = "Who may";
static const char much[] = "How much";
static const char odd[] = "For tests and odd kernels";
static const char rest[] = "";

/* -p stands before -t: a port that is part of the host's name replaces it. */
/* clang-format off */
const struct setting settings_table[] = {
	{"interface", "-I", KIND_WORD, PLACE_BOTH, MIRROR, AT(interface), take_interface,
		from, "IFACE", "mirror connections that use IFACE; any: all of them"},
	{"filter", "a filter", KIND_WORD, PLACE_FILE, MIRROR, AT(filter), take_filter,
		from, NULL, NULL},
	{"collect", "-C", KIND_FLAG, PLACE_BOTH, ACCEPT | IN(MODE_ENROLL), AT(collect), NULL,
		from, NULL, "receive from endpoints"},
	{"listen", "--listen", KIND_WORD, PLACE_BOTH, ACCEPT, AT(listen), take_listen,
		from, "ADDR", "-C: address to listen on (default: all)"},
	{"port", "-p", KIND_WORD, PLACE_BOTH, TUNNEL | IN(MODE_ENROLL), AT(port), take_port,
		from, "PORT", "tunnel port, at both ends (default 3005)"},

	{"to", "-t", KIND_WORD, PLACE_BOTH, IN(MODE_AGENT) | IN(MODE_AGGREGATOR), AT(to), take_to,
		into, "HOST[:PORT]", "send to the collector at HOST; IPv6 as [ADDR]:PORT; -C: pass on to it"},
	{"output", "-o", KIND_LIST, PLACE_BOTH, RUN, AT(output), take_output,
		into, "IFACE,...", "packets onto IFACE, which should carry nothing else; A|B: shared out"},
	{"write", "-w", KIND_LIST, PLACE_BOTH, RUN, AT(write), take_write,
		into, "FILE,...", "packets into FILE: pcapng, or pcap if it ends in .pcap; -: stdout"},
	{"pcap-over-ip", "--pcap-over-ip", KIND_LIST, PLACE_BOTH, RUN, AT(pcap_over_ip), take_serve,
		into, "[ADDR:]PORT", "a capture for all who connect, on loopback without ADDR"},
	{"pcap-over-ip-to", "--pcap-over-ip-to", KIND_LIST, PLACE_BOTH, RUN, AT(pcap_over_ip_to),
		take_serve_to, into, "HOST:PORT", "the same, to one receiver that is connected to"},
	{"vxlan", "--vxlan", KIND_LIST, PLACE_BOTH, RUN, AT(vxlan), take_vxlan,
		into, "HOST,vni=N", "packets in VXLAN to HOST[:PORT] (default port 4789)"},
	{"geneve", "--geneve", KIND_LIST, PLACE_BOTH, RUN, AT(geneve), take_geneve,
		into, "HOST,vni=N", "packets in GENEVE to HOST[:PORT] (default port 6081)"},
	{"print", "--print", KIND_FLAG, PLACE_BOTH, RUN, AT(print), take_print,
		into, NULL, "one line a message on stdout"},
	{"port-map", "--port-map", KIND_WORD, PLACE_BOTH, SHOW, AT(port_map), take_port_map,
		into, "A:B,...", "packets show server port A as B"},
	{"stream-log", "--stream-log", KIND_WORD, PLACE_BOTH, SHOW, AT(stream_log), take_stream_log,
		into, "FILE", "with h2=http1 or serial: a line of JSON for each HTTP/2 stream"},

	{"starttls", "--starttls", KIND_WORD, PLACE_BOTH, MIRROR, AT(starttls), take_starttls,
		what, "MODE", "what is said before TLS: stitch (default), inner (nothing), keep"},
	{"tls-in-tls", "--tls-in-tls", KIND_WORD, PLACE_BOTH, MIRROR, AT(tls_in_tls),
		take_tls_in_tls,
		what, "MODE", "through an HTTPS proxy: peel (default) or outer"},

	{"state-dir", "--state-dir", KIND_WORD, PLACE_BOTH, EVERY, AT(state_dir), take_state_dir,
		who, "DIR", "keys and certificates (default " STATE_DIR_DEFAULT ")"},
	{"ca", "--ca", KIND_WORD, PLACE_BOTH, TUNNEL, AT(ca), take_ca,
		who, "FILE", "own certificates instead: the authority,"},
	{"cert", "--cert", KIND_WORD, PLACE_BOTH, TUNNEL, AT(cert), take_cert,
		who, "FILE", "this host's certificate,"},
	{"key", "--key", KIND_WORD, PLACE_BOTH, TUNNEL, AT(key), take_key,
		who, "FILE", "and its key"},
	{"insecure", "--insecure", KIND_FLAG, PLACE_BOTH, TUNNEL, AT(insecure), take_insecure,
		who, NULL, "accept any peer; must be said at both ends"},
	{"expires", "--expires", KIND_WORD, PLACE_BOTH, IN(MODE_TOKEN), AT(expires), take_expires,
		who, NULL, NULL},

	{"compress", "--compress", KIND_WORD, PLACE_BOTH, IN(MODE_AGENT), AT(compress), take_compress,
		much, "N", "zstd level of the tunnel, 0 to 19; 0: none (default 1)"},
	{"queue", "--queue", KIND_WORD, PLACE_BOTH, MIRROR, AT(queue), take_queue,
		much, "SIZE", "memory for what is not acknowledged yet (default 64M)"},
	{"ring", "--ring", KIND_WORD, PLACE_BOTH, MIRROR, AT(ring), take_ring,
		much, "SIZE", "memory between kernel and agent (default 64M)"},
	{"rings", "--rings", KIND_WORD, PLACE_BOTH, MIRROR, AT(rings), take_rings,
		much, "N", "in so many pieces: 1, 2, 4, 8 (default: by processors)"},
	{"backlog", "--backlog", KIND_WORD, PLACE_BOTH, MIRROR, AT(backlog), take_backlog,
		much, "SIZE", "memory for events read and not looked at yet (default 16M)"},
	{"shed", "--shed", KIND_WORD, PLACE_BOTH, MIRROR, AT(shed), take_shed,
		much, "WHICH", "connections given up first: newest (default), oldest, none"},

	{"preload-ring", "--preload-ring", KIND_WORD, PLACE_BOTH, MIRROR, AT(preload_ring),
		take_preload_ring,
		much, "SIZE", "memory between each preloaded program and agent (default 16M)"},
	{"max-overhead", "--max-overhead", KIND_WORD, PLACE_BOTH, MIRROR, AT(max_overhead),
		take_max_overhead,
		much, "N%", "no probes for a while where they take more of a process's CPU"},
	{"max-sessions", "--max-sessions", KIND_WORD, PLACE_BOTH, SHOW, AT(max_sessions),
		take_max_sessions,
		much, "N", "connections shown at the same time (default 1048576)"},
	{"nice", "--nice", KIND_WORD, PLACE_BOTH, RUN, AT(nice), take_nice,
		much, "N", "its own threads' priority, -20 to 19 (default -5)"},

	{"workers", "--workers", KIND_WORD, PLACE_BOTH, SHOW, AT(workers), take_workers,
		much, "N", "threads that make packets (default 1; -C: one a processor)"},

	{"flow-hook", "--flow-hook", KIND_WORD, PLACE_BOTH, MIRROR, AT(flow_hook), take_flow_hook,
		odd, "HOOK", "what tells a call's socket: auto, tracepoint, fexit, kprobe"},
	{"capture", "--capture", KIND_WORD, PLACE_BOTH, MIRROR, AT(capture), take_capture,
		odd, "WHICH", "bpf, preload, or bpf,preload (default)"},
	{"probes", "--probes", KIND_WORD, PLACE_BOTH, MIRROR | IN(MODE_DOCTOR), AT(probes),
		take_probes, odd, "WHERE", "auto (records), pairs, first, plain"},

	{"config", "--config", KIND_WORD, PLACE_ARGV, EVERY, AT(config), NULL,
		rest, "FILE", "default " CONFIG_DEFAULT},
	{"run-dir", "--run-dir", KIND_WORD, PLACE_BOTH, MIRROR | ASK | SHIM, AT(run_dir),
		take_run_dir, rest, "DIR", "where agents answer (default " RUN_DIR_DEFAULT ")"},
	{"json", "--json", KIND_FLAG, PLACE_ARGV, ASK, AT(json), take_json,
		rest, NULL, NULL},
	{"system-wide", "--system-wide", KIND_FLAG, PLACE_ARGV, IN(MODE_ENABLE) | IN(MODE_DISABLE),
		AT(system_wide), take_system_wide, rest, NULL, NULL},
	{"verbose", "-v", KIND_FLAG, PLACE_BOTH, EVERY, AT(verbose), take_verbose,
		rest, NULL, "say more"},
	{"help", "-h", KIND_FLAG, PLACE_ARGV, EVERY, AT(help), NULL,
		rest, NULL, "this text"},
	{"version", "-V", KIND_FLAG, PLACE_ARGV, EVERY, AT(version), NULL,
		rest, NULL, "the version"},
	{.name = NULL},
};
/* clang-format on */

_Static_assert(sizeof(settings_table) / sizeof(settings_table[0]) <= SETTINGS_MAX,
	       "others keep arrays of that size");

void settings_merge(struct settings *s, struct settings *file)
{
	for (const struct setting *d = settings_table; d->name; d++)
		if (!settings_slot(s, d)->any)
			*settings_slot(s, d) = *settings_slot(file, d);
}

static int take_one(const struct setting *d, const struct said *v, const char *name,
		    struct options *o)
{
	int err = 0;

	if (d->kind == KIND_FLAG)
		return settings_is_on(v) ? d->take(o, name, NULL) : 0;
	if (d->kind == KIND_WORD)
		return v->word ? d->take(o, name, v->word) : 0;
	for (unsigned i = 0; !err && i < v->n; i++)
		err = d->take(o, name, v->words[i]);
	return err;
}

int settings_take(struct settings *s, unsigned modes, const char *file, struct options *o)
{
	char label[256];
	int err = 0;

	for (const struct setting *d = settings_table; d->name; d++) {
		if (!d->take || !(d->modes & modes))
			continue;
		if (file)
			snprintf(label, sizeof(label), "%s: %s", file, d->name);
		err = take_one(d, settings_slot(s, d), file ? label : d->spoken, o);
		if (err)
			break;
	}
	return err;
}

static void print_option(const struct setting *d)
{
	char letter[] = "   ", name[32];

	if (d->spoken[1] != '-')
		snprintf(letter, sizeof(letter), "-%c,", d->spoken[1]);
	snprintf(name, sizeof(name), "%s%s%s", d->name, d->value ? " " : "",
		 d->value ? d->value : "");
	/* where the name is long, its words begin below, where all others do */
	if (strlen(name) > 18)
		printf("  %s --%s\n%26s%s\n", letter, name, "", d->help);
	else
		printf("  %s --%-17s %s\n", letter, name, d->help);
}

void settings_print_help(void)
{
	const char *group = NULL;

	for (const struct setting *d = settings_table; d->name; d++) {
		if (!d->help)
			continue;
		if (d->group != group)
			printf("%s%s%s", group ? "\n" : "", d->group, *d->group ? "\n" : "");
		group = d->group;
		print_option(d);
	}
}
