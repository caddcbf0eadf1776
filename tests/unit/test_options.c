/* SPDX-License-Identifier: Apache-2.0 */
/* options: tables of argv (and a YAML file) → struct options, or one line on stderr. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../agent/cli/options.h"

#define WORDS_MAX 48

static char dir[] = "/tmp/test_options.XXXXXX";
static char config[64], errors[64];

static void write_file(const char *name, const char *text)
{
	FILE *f = fopen(name, "w");

	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

static char *read_file(const char *name)
{
	static char text[16384];
	FILE *f = fopen(name, "r");
	size_t n;

	assert_non_null(f);
	n = fread(text, 1, sizeof(text) - 1, f);
	text[n] = '\0';
	fclose(f);
	return text;
}

/* Words are divided by a bar; behind a backslash it is part of a word. The file is always named, so
 * that the host's own one has no say. */
static int parse(struct options *o, const char *line, const char *yaml)
{
	char copy[4096], *argv[WORDS_MAX + 4] = {"sslcollector", "--config", config};
	int argc = 3, saved = dup(STDERR_FILENO), fd, ret;

	write_file(config, yaml ? yaml : "");
	snprintf(copy, sizeof(copy), "%s", line);
	for (char *p = strstr(copy, "\\|"); p; p = strstr(p, "\\|")) {
		memmove(p, p + 1, strlen(p));
		*p = '\1';
	}
	for (char *p = copy; *line && p && argc < WORDS_MAX;)
		argv[argc++] = strsep(&p, "|");
	for (int i = 3; i < argc; i++)
		for (char *p = argv[i]; (p = strchr(p, '\1'));)
			*p = '|';
	fd = open(errors, O_RDWR | O_CREAT | O_TRUNC, 0600);
	dup2(fd, STDERR_FILENO);
	close(fd);
	ret = options_parse(o, argc, argv);
	dup2(saved, STDERR_FILENO);
	close(saved);
	return ret;
}

static void assert_refused(const char *line, const char *yaml, const char *reason)
{
	struct options o;
	int ret = parse(&o, line, yaml);
	const char *text = read_file(errors);
	size_t n = strlen(text);

	if (ret != -22 || !strstr(text, reason))
		fail_msg("'%s' + '%s' → %d: %s (wanted: %s)", line, yaml ? yaml : "", ret, text,
			 reason);
	assert_int_equal(strncmp(text, "sslcollector: ", 14), 0);
	assert_non_null(strstr(text, " (try --help)\n"));
	assert_ptr_equal(strchr(text, '\n'), text + n - 1); /* one line */
}

static size_t describe_mac(const char *name, const void *mac, char *out, size_t size)
{
	static const uint8_t none[6];
	const uint8_t *m = mac;

	return memcmp(m, none, 6) ? (size_t)snprintf(out, size, ",%s=%x:%x:%x:%x:%x:%x", name, m[0],
						     m[1], m[2], m[3], m[4], m[5])
				  : 0;
}

static size_t describe_shape(const struct sink_shape *s, char *out, size_t size)
{
	size_t n = 0;

	if (s->mtu)
		n += (size_t)snprintf(out + n, size - n, ",mtu=%u", s->mtu);
	if (s->vlan)
		n += (size_t)snprintf(out + n, size - n, ",vlan=%u", s->vlan);
	if (s->http1)
		n += (size_t)snprintf(out + n, size - n, ",h2=%s",
				      s->http1 == SINK_H2_SERIAL ? "serial" : "http1");
	n += describe_mac("src", s->src_mac, out + n, size - n);
	n += describe_mac("dst", s->dst_mac, out + n, size - n);
	for (unsigned i = 0; i < s->n_ports; i++)
		n += (size_t)snprintf(out + n, size - n, ",%u:%u", s->ports[i][0], s->ports[i][1]);
	return n;
}

static size_t describe_keys(const struct sink_conf *c, char *out, size_t size)
{
	const struct sink_rotation *r = &c->rotation;
	size_t n = 0;

	if (r->bytes || r->seconds)
		n += (size_t)snprintf(out + n, size - n, ",rotate=%llu/%u,keep=%llu/%u",
				      (unsigned long long)r->bytes, r->seconds,
				      (unsigned long long)r->keep_bytes, r->keep_files);
	if (c->with_reader)
		n += (size_t)snprintf(out + n, size - n, ",reader");
	if (c->pcapng)
		n += (size_t)snprintf(out + n, size - n, ",ng");
	if (c->large)
		n += (size_t)snprintf(out + n, size - n, ",large=%d", c->large);
	if (c->gso)
		n += (size_t)snprintf(out + n, size - n, ",gso");
	if (c->vni)
		n += (size_t)snprintf(out + n, size - n, ",vni=%u", c->vni);
	return n;
}

static void describe(const struct options *o, char *out, size_t size)
{
	static const char *const modes[] = {
		"agent",  "alone",  "collector", "aggregator", "enroll",  "token", "coverage",
		"status", "doctor", "run",       "enable",     "disable", "help",  "version"};
	size_t n = (size_t)snprintf(out, size, "%s", modes[o->mode]);

#define SHOW(fmt, member, deflt)                                                                   \
	if (o->member != (deflt))                                                                  \
	n += (size_t)snprintf(out + n, size - n, " " #member "=" fmt, o->member)
	SHOW("%s", iface, NULL);
	SHOW("%s", filter, NULL);
	SHOW("%s", host, NULL);
	SHOW("%u", port, 3005);
	SHOW("%u", onward_port, 3005);
	SHOW("%d", onward, false);
	SHOW("%s", token, NULL);
	SHOW("%s", listen_addr, NULL);
	if (o->state_dir && strcmp(o->state_dir, "/var/lib/sslcollector") != 0)
		n += (size_t)snprintf(out + n, size - n, " state_dir=%s", o->state_dir);
	if (o->run_dir && strcmp(o->run_dir, "/run/sslcollector") != 0)
		n += (size_t)snprintf(out + n, size - n, " run_dir=%s", o->run_dir);
	SHOW("%d", json, false);
	SHOW("%u", n_files, 0);
	SHOW("%u", n_units, 0);
	SHOW("%d", system_wide, 0);
	SHOW("%s", ca, NULL);
	SHOW("%s", cert, NULL);
	SHOW("%s", key, NULL);
	SHOW("%d", insecure, false);
	SHOW("%d", zstd_level, 1);
	SHOW("%zu", queue_bytes, 67108864);
	SHOW("%zu", ring_bytes, 67108864);
	SHOW("%u", n_rings, 0);
	SHOW("%zu", backlog_bytes, 16777216);
	SHOW("%zu", shim_bytes, 16777216);
	SHOW("%u", sources, 3);
	SHOW("%d", shed, SSLC_SHED_NEWEST);
	SHOW("%u", max_overhead, 0);
	SHOW("%u", overhead_retry_s, 60);
	SHOW("%u", max_sessions, 0);
	SHOW("%d", nice, INT_MIN);
	SHOW("%u", workers, 0);
	SHOW("%d", flow_hook, FLOW_HOOK_AUTO);
	SHOW("%d", probes, PROBES_AUTO);
	SHOW("%d", starttls, PRELUDE_STITCH);
	SHOW("%d", outer_tls, false);
	SHOW("%u", token_ttl_s, 3600);
	SHOW("%d", verbose, false);
#undef SHOW
	for (unsigned i = 0; i < o->n_sinks; i++) {
		n += (size_t)snprintf(out + n, size - n, " %s:%s", o->sinks[i].kind,
				      o->sinks[i].target);
		n += describe_shape(&o->sinks[i].shape, out + n, size - n);
		if (o->sinks[i].bypass)
			n += (size_t)snprintf(out + n, size - n, ",bypass=%d", o->sinks[i].bypass);
		if (o->sinks[i].xdp)
			n += (size_t)snprintf(out + n, size - n, ",xdp=%d", o->sinks[i].xdp);
		n += describe_keys(&o->sinks[i], out + n, size - n);
	}
}

static void assert_taken(const char *line, const char *yaml, const char *wanted)
{
	struct options o;
	char got[1024];
	int ret = parse(&o, line, yaml);

	if (ret)
		fail_msg("'%s' + '%s' refused: %s", line, yaml ? yaml : "", read_file(errors));
	describe(&o, got, sizeof(got));
	options_fini(&o);
	if (strcmp(got, wanted) != 0)
		fail_msg("'%s' + '%s' gave '%s', wanted '%s'", line, yaml ? yaml : "", got, wanted);
	assert_string_equal(read_file(errors), "");
}

static void test_the_spellings_choose_the_mode(void **state)
{
	(void)state;
	assert_taken("-I|eth0|-t|ids1", NULL, "agent iface=eth0 host=ids1");
	assert_taken("-C|-o|ids0", NULL, "collector iface:ids0");
	assert_taken("-I|eth0|-o|eth1", NULL, "alone iface=eth0 iface:eth1");
	assert_taken("-I|any", NULL, "alone iface=any text:-");
	assert_taken("--interface=any|--to|ids1:99", NULL, "agent iface=any host=ids1 port=99");
	assert_taken("--collect|--output|a|--output|b|--write|x.pcap|--print", NULL,
		     "collector iface:a iface:b pcap:x.pcap text:-");
	assert_taken("-I|eth0|-w|-", NULL, "alone iface=eth0 pcap:-");
	assert_taken("-h|--nonsense", NULL, "help");
	assert_taken("-I|eth0|-V", NULL, "version");
}

static void test_values_are_read(void **state)
{
	(void)state;
	assert_taken("-I|e|-t|h|port|443|and|not|host|::1", NULL,
		     "agent iface=e filter=port 443 and not host ::1 host=h");
	assert_taken("-I|e|-t|h|--|-x", NULL, "agent iface=e filter=-x host=h");
	assert_taken("-I|e|-t|[::1]", NULL, "agent iface=e host=::1");
	assert_taken("-I|e|-t|[2001:db8::7]:4000|-p|4000", NULL,
		     "agent iface=e host=2001:db8::7 port=4000");
	assert_taken("-I|e|-t|h|-p|65535", NULL, "agent iface=e host=h port=65535");
	assert_taken("-C|--print|--listen|[::]|-p|1", NULL,
		     "collector port=1 listen_addr=:: text:-");
	assert_taken("-C|--print|--listen|fe80::1%eth0", NULL,
		     "collector listen_addr=fe80::1%eth0 text:-");
	assert_taken("-I|e|-t|h|--ca|a|--cert|b|--key|c", NULL,
		     "agent iface=e host=h ca=a cert=b key=c");
	assert_taken("-I|e|-t|h|--insecure|--compress|19|--queue|1G|--ring|65K|-v", NULL,
		     "agent iface=e host=h insecure=1 zstd_level=19 queue_bytes=1073741824 "
		     "ring_bytes=131072 verbose=1");
	assert_taken("-I|e|-t|h|--rings|8", "rings: 2\n", "agent iface=e host=h n_rings=8");
	assert_taken("-I|e|-t|h|--ring|128K", "rings: 2\n",
		     "agent iface=e host=h ring_bytes=131072 n_rings=2");
	assert_taken("-I|e|-t|h|--shed|oldest", NULL, "agent iface=e host=h shed=1");
	assert_taken("-I|e|-t|h", "shed: none\n", "agent iface=e host=h shed=2");
	assert_taken("-I|e|-t|h|--nice|-20", "nice: 3\n", "agent iface=e host=h nice=-20");
	assert_taken("-I|e|-t|h", "nice: 19\n", "agent iface=e host=h nice=19");
	assert_taken("-C|-w|f|--workers|16", "workers: 3\n", "collector workers=16 pcap:f");
	assert_taken("-I|e|-w|f", "workers: 3\n", "alone iface=e workers=3 pcap:f");
	assert_taken("-I|e|-t|h|--max-overhead|15%", NULL, "agent iface=e host=h max_overhead=15");
	assert_taken("-I|e|-t|h", "max-overhead: 1%:2m\n",
		     "agent iface=e host=h max_overhead=1 overhead_retry_s=120");
	assert_taken("-I|e|-t|h|--backlog|65K", NULL, "agent iface=e host=h backlog_bytes=131072");
	assert_taken("-I|e|-t|h|--preload-ring|300K|--capture|preload", NULL,
		     "agent iface=e host=h shim_bytes=524288 sources=2");
	assert_taken("-I|e|-t|h", "capture: bpf\npreload-ring: 256K\n",
		     "agent iface=e host=h shim_bytes=262144 sources=1");
	assert_refused("-I|e|--capture|ebpf", NULL, "--capture: ebpf");
	assert_refused("-I|e|--preload-ring|1K", NULL, "must be 256K to 256M");
	assert_taken("-I|e|-t|h|--compress|0|--queue|1048576|--ring|1g", NULL,
		     "agent iface=e host=h zstd_level=0 queue_bytes=1048576 ring_bytes=1073741824");
	assert_taken("-C|--print|--state-dir|/s", NULL, "collector state_dir=/s text:-");
}

static void test_the_flow_hook_has_four_names(void **state)
{
	_Static_assert(FLOW_HOOK_TRACEPOINT == 1 && FLOW_HOOK_FEXIT == 2 && FLOW_HOOK_KPROBE == 3,
		       "the numbers below");

	(void)state;
	assert_taken("-I|e|-t|h|--flow-hook|auto", "flow-hook: kprobe\n", "agent iface=e host=h");
	assert_taken("-I|e|-t|h|--flow-hook|tracepoint", NULL, "agent iface=e host=h flow_hook=1");
	assert_taken("-I|e|--flow-hook=fexit", NULL, "alone iface=e flow_hook=2 text:-");
	assert_taken("-I|e", "flow-hook: kprobe\n", "alone iface=e flow_hook=3 text:-");
	assert_taken("-C|--print", "flow-hook: kprobe\n", "collector text:-");
	assert_refused("-I|e|--flow-hook|fentry", NULL,
		       "--flow-hook: fentry: must be one of auto, tracepoint, fexit, kprobe (");
	assert_refused("-I|e|--flow-hook|auto", "flow-hook: Auto\n",
		       "test.yaml: flow-hook: Auto: must be one of auto");
	assert_refused("-I|e|--max-overhead|10", NULL, "--max-overhead: 10: a share is a number");
	assert_refused("-I|e|--max-overhead|%", NULL, "--max-overhead: %: a share is a number");
	assert_refused("-I|e|--max-overhead|10%5m", NULL, "a share is a number with %");
	assert_refused("-I|e|--max-overhead|100%", NULL, "must be 1% to 99%");
	assert_refused("-I|e|--max-overhead|0%:5m", NULL, "must be 1% to 99%");
	assert_refused("-I|e", "max-overhead: 5%:0s\n", "max-overhead: 0s: must be 1s to 1d");
	assert_refused("-C|--print|--max-overhead|5%", NULL,
		       "--max-overhead: has no meaning with -C");
	assert_refused("-C|--print|--flow-hook|auto", NULL, "--flow-hook: has no meaning with -C");
	assert_refused("token|--flow-hook|auto", NULL, "--flow-hook: has no meaning with token");
}

static void test_what_stands_around_tls_has_its_words(void **state)
{
	_Static_assert(PRELUDE_INNER == 1 && PRELUDE_KEEP == 2, "the numbers below");

	(void)state;
	assert_taken("-I|e|--starttls|stitch|--tls-in-tls|peel", NULL, "alone iface=e text:-");
	assert_taken("-I|e|--starttls=inner", "tls-in-tls: outer\n",
		     "alone iface=e starttls=1 outer_tls=1 text:-");
	assert_taken("-I|e|-t|h|--tls-in-tls|outer", "starttls: keep\n",
		     "agent iface=e host=h starttls=2 outer_tls=1");
	assert_taken("-I|e|--starttls|stitch", "starttls: keep\n", "alone iface=e text:-");
	assert_refused("-I|e|--starttls|join", NULL,
		       "--starttls: join: must be one of stitch, inner, keep (");
	assert_refused("-I|e", "tls-in-tls: inner\n",
		       "test.yaml: tls-in-tls: inner: must be one of peel, outer");
	assert_refused("-C|--print|--starttls|keep", NULL, "--starttls: has no meaning with -C");
	assert_refused("-C|--print|--tls-in-tls|peel", NULL,
		       "--tls-in-tls: has no meaning with -C");
}

static void test_probes_have_five_names(void **state)
{
	_Static_assert(PROBES_RECORDS == 1 && PROBES_PAIRS == 2 && PROBES_PLAIN == 4,
		       "the numbers below");

	(void)state;
	assert_taken("-I|e|-t|h|--probes|auto", "probes: plain\n", "agent iface=e host=h");
	assert_taken("-I|e|-t|h|--probes|records", NULL, "agent iface=e host=h probes=1");
	assert_taken("-I|e|-t|h", "probes: pairs\n", "agent iface=e host=h probes=2");
	assert_taken("-I|e|-t|h|--probes=plain", NULL, "agent iface=e host=h probes=4");
	assert_taken("doctor|--probes|records", NULL, "doctor probes=1");
	assert_refused("-I|e|--probes|record", NULL,
		       "--probes: record: must be one of auto, records, pairs, first, plain (");
	assert_refused("-C|--print|--probes|auto", NULL, "--probes: has no meaning with -C");
}

/* Captures what the help says; it begins a line of its own for each option that has one. */
static void test_the_help_lists_the_options(void **state)
{
	static const char *const lines[] = {
		"\nWhere from\n  -I, --interface IFACE   mirror ",
		"\n  -C, --collect           receive ",
		"\n      --listen ADDR       -C: ",
		"\n  -t, --to HOST[:PORT]    send ",
		"\n\nFor tests and odd kernels\n      --flow-hook HOOK    ",
		"\n\n      --config FILE       default /etc/sslcollector/sslcollector.yaml\n",
		"\n  -V, --version           the version\n\nEnrolment\n",
	};
	int saved, fd;

	(void)state;
	fflush(stdout);
	saved = dup(STDOUT_FILENO);
	fd = open(errors, O_RDWR | O_CREAT | O_TRUNC, 0600);
	dup2(fd, STDOUT_FILENO);
	close(fd);
	options_print_help();
	fflush(stdout);
	dup2(saved, STDOUT_FILENO);
	close(saved);
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
		if (!strstr(read_file(errors), lines[i]))
			fail_msg("the help lacks '%s'", lines[i]);
}

static void test_subcommands_are_for_people(void **state)
{
	(void)state;
	assert_taken("enroll|ids1|ABCD-EF", NULL, "enroll host=ids1 token=ABCD-EF");
	assert_taken("enroll|-C|ids1|T", NULL, "enroll host=ids1 onward=1 token=T");
	assert_taken("enroll|[::1]:7|T|--state-dir|/s", NULL,
		     "enroll host=::1 port=7 token=T state_dir=/s");
	assert_taken("enroll|ids1|T|-p|8", NULL, "enroll host=ids1 port=8 token=T");
	assert_taken("token", NULL, "token");
	assert_taken("token|--expires|90", NULL, "token token_ttl_s=90");
	assert_taken("token|--expires|30d", NULL, "token token_ttl_s=2592000");
	assert_refused("enroll|ids1", NULL, "enroll: needs HOST[:PORT] and TOKEN");
	assert_refused("enroll|ids1|T|x", NULL, "enroll: needs HOST[:PORT] and TOKEN");
	assert_refused("enroll|ids1|T|-I|eth0", NULL, "-I: has no meaning with enroll");
	assert_refused("token|x", NULL, "token: takes no further word, but got x");
	assert_refused("token|-p|1", NULL, "-p: has no meaning with token");
	assert_refused("token|--expires|31d", NULL, "--expires: 31d: must be 1s to 30d");
	assert_refused("token|--expires|1w", NULL, "--expires: 1w: a duration");
	assert_refused("token|--expires|0", NULL, "must be 1s");
	assert_taken("coverage", NULL, "coverage");
	assert_taken("coverage|--json|--run-dir|/r", NULL, "coverage run_dir=/r json=1");
	assert_taken("coverage", "run-dir: /r\ninterface: any\nto: h\n", "coverage run_dir=/r");
	assert_taken("doctor", NULL, "doctor");
	assert_taken("doctor|a|b", "interface: any\nto: h\n", "doctor n_files=2");
	assert_refused("doctor|--json", NULL, "--json: has no meaning with doctor");
	assert_taken("-I|e|--run-dir|/r", NULL, "alone iface=e run_dir=/r text:-");
	assert_taken("status|--json|--run-dir|/r", NULL, "status run_dir=/r json=1");
	assert_refused("status|x", NULL, "status: takes no further word, but got x");
	assert_refused("status|--ring|1M", NULL, "--ring: has no meaning with status");
	assert_taken("run|--|curl|-v", NULL, "run");
	assert_taken("run|--run-dir|/r|--|ls", "interface: any\nto: h\n", "run run_dir=/r");
	assert_refused("run", NULL, "run: what?");
	assert_refused("run|-I|e|--|ls", NULL, "-I: has no meaning with run");
	assert_taken("enable|web|mail|--run-dir|/r", "interface: any\nto: h\n",
		     "enable run_dir=/r n_units=2");
	assert_taken("disable|web", NULL, "disable n_units=1");
	assert_taken("enable|--system-wide", NULL, "enable system_wide=1");
	assert_taken("disable|--system-wide", NULL, "disable system_wide=1");
	assert_refused("enable|--system-wide|web", NULL, "enable: --system-wide with services");
	assert_refused("run|--system-wide|--|ls", NULL, "--system-wide: has no meaning with run");
	assert_refused("enable", NULL, "enable: which service?");
	assert_refused("disable", NULL, "disable: which service?");
	assert_refused("enable|web|-I|e", NULL, "-I: has no meaning with enable");
	assert_refused("coverage|x", NULL, "coverage: takes no further word, but got x");
	assert_refused("coverage|-I|e", NULL, "-I: has no meaning with coverage");
	assert_refused("-I|e|--json", NULL, "--json: has no meaning with -I without -t");
	assert_refused("-C|--print|--run-dir|/r", NULL, "--run-dir: has no meaning with -C");
}

static void test_wrong_usage_is_one_line_that_says_what_to_do(void **state)
{
	static const char *const rows[][2] = {
		{"", "say what to mirror with -I"},
		{"-t|ids1", "say what to mirror with -I"},
		{"-o|eth1", "say what to mirror with -I"},
		{"-C", "-C: where to?"},
		{"-C|-t|ids1|-o|x", "-C -t with an output: "},
		{"-C|-t|ids1|--print", "-C -t with an output: "},
		{"-C|-t|ids1|-I|e", "-C with -I e"},
		{"-C|-t|ids1|--port-map|1:2", "--port-map: has no meaning with -C -t"},
		{"-C|-t|ids1|--queue|1M", "--queue: has no meaning with -C -t"},
		{"-C|-I|eth0|-o|x", "-C with -I eth0"},
		{"-I|e|-t|h|-o|x", "-t with an output: "},
		{"-I|e|-t|h|--print", "-t with an output: "},
		{"-I|e|-o|e", "-o e: is the monitored interface"},
		{"-I|e|-o|lo", "-o lo: this host would receive"},
		{"-C|-o|lo", "-o lo: this host would receive"},
		{"-I|e|-o|x|-o|x", "x: the same output is named twice"},
		{"-C|-w|-|-w|-", "-: the same output is named twice"},
		{"-I|e|-w|-|--print", "standard output is taken"},
		{"-I|e|-t|h|--ca|f", "missing: --cert --key"},
		{"-I|e|-t|h|--cert|f", "missing: --ca --key"},
		{"-I|e|-t|h|--key|f|--ca|f", "missing: --cert"},
		{"-I|e|-t|h:0", "0: a port is 1 to 65535"},
		{"-I|e|-t|h:65536", "65536: a port"},
		{"-I|e|-t|h:", ": a port"},
		{"-I|e|-t|:3005", "a host name or address is needed"},
		{"-I|e|-t|::1", "written [ADDR]"},
		{"-I|e|-t|[::1", "written [ADDR]"},
		{"-I|e|-t|[::1]x", "written [ADDR]"},
		{"-I|e|-t|[]:1", "a host name or address"},
		{"-I|e|-t|h:1|-p|2", "two different ports"},
		{"-I|e|-t|h|-p|x", "-p: x: a port"},
		{"-I|e|-t|h|-p|99999999999999999999999", "a port"},
		{"-I|e|-t|h|--compress|20", "--compress: 20: a level is 0 to 19"},
		{"-I|e|-t|h|--compress|-1", "--compress: -1"},
		{"-C|--print|--max-sessions|999",
		 "--max-sessions: 999: must be a number from 1000 to 100000000"},
		{"-C|--print|--max-sessions|1M", "--max-sessions: 1M: "},
		{"-I|e|-t|h|--max-sessions|5000", "--max-sessions: has no meaning"},
		{"-I|e|-t|h|--nice|-21", "--nice: -21: a nice value is -20 to 19"},
		{"-I|e|-t|h|--nice|20", "--nice: 20"},
		{"-C|-w|f|--workers|0", "--workers: 0"},
		{"-C|-w|f|--workers|17", "--workers: 17"},
		{"-I|e|-t|h|--workers|2", "--workers"},
		{"-I|e|-t|h|--rings|3", "--rings: 3: "},
		{"-I|e|-t|h|--rings|8|--ring|256K",
		 "--rings 8: a --ring of 256 KiB is too small for so many: each needs 64"},
		{"-C|-w|f|--rings|2", "--rings"},
		{"-I|e|-t|h|--nice|-", "--nice: -"},
		{"-I|e|-t|h|--queue|64X", "--queue: 64X: a size"},
		{"-I|e|-t|h|--queue|64MM", "a size"},
		{"-I|e|-t|h|--queue|K", "a size"},
		{"-I|e|-t|h|--queue|1023K", "must be 1024K to 65536M"},
		{"-I|e|-t|h|--queue|18446744073709551615G", "a size"},
		{"-I|e|-t|h|--ring|1025M", "--ring: 1025M: must be 64K to 1024M"},
		{"-I|interface-name-far-too-long", "not an interface name"},
		{"-I|e|-o|a/b", "-o: a/b: not an interface name"},
		{"-I|a|-I|b", "-I: given twice"},
		{"-I|", "-I: its value is empty"},
		{"-I|e|-w|", "-w: its value is empty"},
		{"-I", "-I: needs a value"},
		{"--ring", "--ring: needs a value"},
		{"-Z", "-Z: no such option"},
		{"--zzz", "--zzz: no such option"},
		{"--in", "--in: no such option, or not clear which"},
		{"--collect=yes", "--collect=yes: takes no value"},
		{"-C|--print|port|443", "a filter: has no meaning with -C"},
		{"-C|--print|--ring|1M", "--ring: has no meaning with -C"},
		{"-I|e|--print|--listen|::", "--listen: has no meaning with -I without -t"},
		{"-I|e|-t|h|--expires|1h", "--expires: has no meaning with -t"},
		{"-C|--print|--listen|name", "--listen: name: an IP address"},
		{"-C|--print|--listen|1.2.3.4:5", "an IP address"},
		{"-C|-o|1|-o|2|-o|3|-o|4|-o|5|-o|6|-o|7|-o|8|-o|9|-o|a|-o|b|-o|c|-o|d|-o|e|-o|f|-o|"
		 "g|-o|h",
		 "at most 16 outputs"},
		{"-C|-o|1|-o|2|-o|3|-o|4|-o|5|-o|6|-o|7|-o|8|-o|9|-o|a|-o|b|-o|c|-o|d|-o|e|-o|f|-o|"
		 "g|-w|h",
		 "at most 16 outputs"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		assert_refused(rows[i][0], NULL, rows[i][1]);
}

static void test_an_output_has_keys(void **state)
{
	(void)state;
	assert_taken("-C|-o|x,vlan=7,mtu=9000,src-mac=02:00:00:00:0a:0B,dst-mac=ff:ff:ff:ff:ff:ff",
		     NULL,
		     "collector iface:x,mtu=9000,vlan=7,src=2:0:0:0:a:b,dst=ff:ff:ff:ff:ff:ff");
	assert_taken("-C|-o|x,port-map=443:80,port-map=8443:8080|--print", NULL,
		     "collector iface:x,443:80,8443:8080 text:-");
	assert_taken("-C|-o|x,port-map=443:80|-w|f|--port-map|993:143,465:25", NULL,
		     "collector iface:x,443:80 pcap:f,993:143,465:25");
	assert_taken("-C|-o|x|--max-sessions|4000000", NULL,
		     "collector max_sessions=4000000 iface:x");
	assert_taken("-I|e|--print", "max-sessions: 1000\n",
		     "alone iface=e max_sessions=1000 text:-");
	assert_taken("-C|-o|x,gso,mtu=1400,bypass=no", NULL,
		     "collector iface:x,mtu=1400,bypass=2,large=1");
	assert_taken("-C|-o|x,gso=yes|-o|y,gso=no|-o|z", NULL,
		     "collector iface:x,large=1 iface:y,large=2 iface:z");
	assert_taken("-C|-o|x,bypass=no,xdp=no|-o|y,xdp=yes", NULL,
		     "collector iface:x,bypass=2,xdp=2 iface:y,xdp=1");
	assert_taken("-C|-w|a\\,b\\\\c\\d,mtu=128", NULL, "collector pcap:a,b\\c\\d,mtu=128");
	assert_taken("-C|-o|x\\|y\\|xy,vlan=3|-o|z", NULL, "collector fan:x|y|xy,vlan=3 iface:z");
	assert_taken("-C|-o|x,h2=http1|-w|f,h2=native|-w|g,h2=serial|--stream-log|l", NULL,
		     "collector iface:x,h2=http1 pcap:f pcap:g,h2=serial streams:l");
	assert_taken("", "collect: yes\noutput: [\"x,vlan=4094\"]\nport-map: 443:80\n",
		     "collector iface:x,vlan=4094,443:80");
}

static void test_other_outputs_have_their_words(void **state)
{
	(void)state;
	assert_taken("-C|-w|a,rotate-size=64K,rotate-time=1h,keep-size=1M,keep-files=9|-w|b,"
		     "rotate-time=2",
		     NULL,
		     "collector pcap:a,rotate=65536/3600,keep=1048576/9 "
		     "pcap:b,rotate=0/2,keep=0/0");
	assert_taken("-I|e|-w|-,stop-with-reader", NULL, "alone iface=e pcap:-,reader");
	assert_taken("-C|--pcap-over-ip|57012|--pcap-over-ip|[::1]:57013,format=pcapng", NULL,
		     "collector pcap-over-ip:57012 pcap-over-ip:[::1]:57013,ng");
	assert_taken("-I|e|--pcap-over-ip|0.0.0.0:1,mtu=9000,format=pcap", NULL,
		     "alone iface=e pcap-over-ip:0.0.0.0:1,mtu=9000");
	assert_taken("-C|--pcap-over-ip-to|host:99", NULL, "collector pcap-over-ip-to:host:99");
	assert_taken("-C|--vxlan|host,vni=1,gso", NULL, "collector vxlan:host,gso,vni=1");
	assert_taken("-C|--vxlan|host,vni=1|--geneve|[2001:db8::1]:99,vni=16777215,vlan=5", NULL,
		     "collector vxlan:host,vni=1 geneve:[2001:db8::1]:99,vlan=5,vni=16777215");
	assert_taken("", "collect: yes\npcap-over-ip: [57012]\nvxlan: [\"h:1,vni=2\"]\n",
		     "collector pcap-over-ip:57012 vxlan:h:1,vni=2");
	/* an output of the command line replaces all of the file's */
	assert_taken("-C|--geneve|h,vni=3", "pcap-over-ip: [57012]\nvxlan: [\"h:1,vni=2\"]\n",
		     "collector geneve:h,vni=3");
	assert_taken("-I|e|-t|h", "pcap-over-ip-to: [\"h:1\"]\n", "agent iface=e host=h");
}

static void test_wrong_words_of_other_outputs_are_told(void **state)
{
	static const char *const rows[][2] = {
		{"-C|-w|a,rotate-size=63K", "-w a: rotate-size: 63K: must be 64K to 1048576M"},
		{"-C|-w|a,rotate-size=1h", "-w a: rotate-size: 1h"},
		{"-C|-w|a,rotate-time=1M", "-w a: rotate-time: 1M"},
		{"-C|-w|a,rotate-time=367d", "must be 1s to 366d"},
		{"-C|-w|a,keep-size=1G", "-w a: keep-size and keep-files need rotate-size or "},
		{"-C|-w|a,keep-files=1", "-w a: keep-size and keep-files need rotate-size or "},
		{"-C|-w|a,rotate-size=1M,keep-files=0", "keep-files: 0: must be a number from 1"},
		{"-C|-w|a,rotate-size=1M,keep-size=2047K",
		 "-w a: keep-size: must be at least twice rotate-size"},
		{"-C|-w|-,rotate-size=1M", "-w -: standard output cannot be rotated"},
		{"-C|-w|-,stop-with-reader=1", "-w -: stop-with-reader: takes no value"},
		{"-C|-o|x,rotate-size=1M", "-o x: rotate-size: is no key of this output"},
		{"-C|--pcap-over-ip|0", "--pcap-over-ip: 0: [ADDR:]PORT is needed"},
		{"-C|--pcap-over-ip|host", "--pcap-over-ip: host: [ADDR:]PORT is needed"},
		{"-C|--pcap-over-ip|::1:80", "--pcap-over-ip: ::1:80: [ADDR:]PORT is needed"},
		{"-C|--pcap-over-ip|host:80", "--pcap-over-ip: host: "},
		{"-C|--pcap-over-ip|80,format=cap", "format: cap: must be one of pcap, pcapng"},
		{"-C|--pcap-over-ip|80|--pcap-over-ip|80", "80: the same output is named twice"},
		{"-C|--pcap-over-ip-to|host", "--pcap-over-ip-to: host: which port? Say HOST:PORT"},
		{"-C|--vxlan|host", "--vxlan host: which network? Add its number: host,vni=1"},
		{"-C|--vxlan|host,vni=1,gso=yes", "--vxlan host: gso: takes no value"},
		{"-C|--vxlan|host,vni=0", "--vxlan host: vni: 0: must be a number from 1 to "},
		{"-C|--geneve|host,vni=16777216", "must be a number from 1 to 16777215"},
		{"-C|--geneve|::1,vni=1", "--geneve: ::1: an IPv6 address is written [ADDR]"},
		{"-I|e|-t|h|--vxlan|h,vni=1", "-t with an output: "},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		assert_refused(rows[i][0], NULL, rows[i][1]);
}

static void test_wrong_keys_of_an_output_are_told(void **state)
{
	static const char *const rows[][2] = {
		{"-C|-o|x,colour=1",
		 "-o x: colour: is no key of this output; there are mtu, vlan, src-mac, dst-mac"},
		{"-C|-w|a,b", "-w a: b: is no key of this output; there are mtu, vlan"},
		{"-C|-o|x,", "-o x: : is no key"},
		{"-C|-o|x,vlan=1,", "-o x: : is no key"},
		{"-C|-o|,vlan=1", "-o: ,vlan=1: names no output before its keys"},
		{"-C|-o|x,vlan", "-o x: vlan: needs a value"},
		{"-C|-o|x,vlan=", "-o x: vlan: needs a value"},
		{"-C|-o|x,vlan=0", "-o x: vlan: 0: must be a number from 1 to 4094"},
		{"-C|-o|x,vlan=4095", "1 to 4094"},
		{"-C|-o|x,mtu=127", "-o x: mtu: 127: must be a number from 128 to 65535"},
		{"-C|-o|x,mtu=65536", "128 to 65535"},
		{"-C|-o|x,mtu=1k", "mtu: 1k"},
		{"-C|-o|x,bypass=maybe", "-o x: bypass: maybe: must be one of yes, no"},
		{"-C|-o|x,xdp", "-o x: xdp: needs a value"},
		{"-C|-o|x,gso=maybe", "-o x: gso"},
		{"-C|-o|x,gso=", "-o x: gso: needs a value"},
		{"-C|-o|x,gso=yes,xdp=yes", "-o x: gso with xdp=yes"},
		{"-C|-o|x,bypass=yes,gso", "-o x: gso with bypass=yes"},
		{"-C|-w|f,gso", "-w f: gso: is no key of this output"},
		{"-C|-w|f,xdp=no", "-w f: xdp: is no key of this output"},
		{"-C|-o|x,xdp=yes,bypass=no", "-o x: xdp=yes with bypass=no"},
		{"-C|-o|x,src-mac=02:00:00:00:00", "an Ethernet address is written"},
		{"-C|-o|x,src-mac=02:00:00:00:00:00:00", "an Ethernet address is written"},
		{"-C|-o|x,src-mac=02-00-00-00-00-01", "an Ethernet address is written"},
		{"-C|-o|x,src-mac=02:00:00:00:00:0g", "an Ethernet address is written"},
		{"-C|-o|x,dst-mac=00:00:00:00:00:00", "an Ethernet address is written"},
		{"-C|-o|x,src-mac=03:00:00:00:00:01", "is a group's address"},
		{"-C|-o|x,port-map=443", "443: a port map is REAL:SHOWN"},
		{"-C|-o|x,port-map=443:0", "0: a port is 1 to 65535"},
		{"-C|-o|x|--port-map|443:80,", "a port map is REAL:SHOWN"},
		{"-C|-o|x|--port-map|443:80,8443:80", "8443:80: each port may stand once"},
		{"-C|-o|x|--port-map|443:80,443:81", "443:81: each port may stand once"},
		{"-C|-o|x|--port-map|1:1,2:2,3:3,4:4,5:5,6:6,7:7,8:8,9:9,10:1,11:11,12:12,13:13,14:"
		 "14,"
		 "15:15,16:16,17:17",
		 "each port may stand once"},
		{"-C|-o|x|--port-map|1:1,2:2,3:3,4:4,5:5,6:6,7:7,8:8,9:9,10:10,11:11,12:12,13:13,"
		 "14:"
		 "14,15:15,16:16,17:17",
		 "--port-map: at most 16 ports"},
		{"-C|-o|x,h2=http2", "-o x: h2: http2: must be one of native, http1, serial"},
		{"-C|-o|x,h2", "-o x: h2: needs a value"},
		{"-I|e|-t|h|--stream-log|l", "--stream-log: has no meaning with -t"},
		{"-C|--stream-log|l", "-C: where to?"},
		{"-I|e|-t|h|--port-map|443:80", "--port-map: has no meaning with -t"},
		{"-I|e|-o|e,vlan=3", "-o e: is the monitored interface"},
		{"-C|-o|lo,vlan=3", "-o lo: this host would receive"},
		{"-C|-o|x,vlan=3|-o|x", "x: the same output is named twice"},
		{"-C|-o|x\\|y\\|x", "x: the same output is named twice"},
		{"-C|-o|x\\|y|-o|y", "y: the same output is named twice"},
		{"-C|-o|y|-o|x\\|y,vlan=3", "y: the same output is named twice"},
		{"-C|-o|x\\|lo", "-o lo: this host would receive"},
		{"-I|e|-o|x\\|e", "-o e: is the monitored interface"},
		{"-C|-o|x\\|", "-o: an interface's name is empty"},
		{"-C|-o|\\|x", "-o: an interface's name is empty"},
		{"-C|-o|x\\|a/b", "-o: a/b: not an interface name"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		assert_refused(rows[i][0], NULL, rows[i][1]);
	assert_refused("", "collect: yes\nwrite: [\"f,vlan=5000\"]\n", ": write f: vlan: 5000");
}

static void test_a_message_carries_no_terminal_escape(void **state)
{
	struct options o;

	(void)state;
	assert_int_equal(parse(&o, "-I|e|-t|h:\x1b[2J\n", NULL), -22);
	assert_null(strchr(read_file(errors), 0x1b));
	assert_non_null(strstr(read_file(errors), "?[2J?"));
}

static void test_the_file_supplies_what_was_not_said(void **state)
{
	(void)state;
	assert_taken("", "interface: any\nto: ids1:4000\nqueue: 2M\n",
		     "agent iface=any host=ids1 port=4000 queue_bytes=2097152");
	assert_taken("", "collect: yes\noutput: [ids0, ids1]\nwrite:\n  - a.pcap\nlisten: \"::\"\n",
		     "collector listen_addr=:: iface:ids0 iface:ids1 pcap:a.pcap");
	assert_taken("", "interface: e\nfilter: port 443\nverbose: on\nprint: True\n",
		     "alone iface=e filter=port 443 verbose=1 text:-");
	assert_taken("-I|e", "to: ids1\nstate-dir: /s\nring: 1M\ncompress: 3\ninsecure: no\n",
		     "agent iface=e host=ids1 state_dir=/s zstd_level=3 ring_bytes=1048576");
	assert_taken("-I|e|-t|h", "ca: 1\ncert: 2\nkey: 3\n",
		     "agent iface=e host=h ca=1 cert=2 key=3");
	assert_taken("token", "expires: 2m\ncollect: yes\n", "token token_ttl_s=120");
	assert_taken("enroll|h|T", "port: 77\nto: other:1\ninterface: e\n",
		     "enroll host=h port=77 token=T");
	assert_taken("-I|e", "# nothing\n", "alone iface=e text:-");
}

static void test_the_command_line_wins(void **state)
{
	static const char agent[] = "interface: any\nto: ids1:4000\nfilter: port 1\n";
	static const char by_port[] = "interface: any\nto: ids1\nport: 5\n";
	static const char onward[] = "collect: yes\nto: h:6\nport: 5\n";
	static const char sensor[] = "collect: true\noutput: [ids0]\nwrite: [f]\nprint: true\n";

	(void)state;
	assert_taken("-I|e|port|2", agent, "agent iface=e filter=port 2 host=ids1 port=4000");
	assert_taken("-p|6", agent, "agent iface=any filter=port 1 host=ids1 port=6");
	assert_taken("-t|h", agent, "agent iface=any filter=port 1 host=h");
	assert_taken("-t|h", by_port, "agent iface=any host=h port=5");
	assert_taken("-t|h:9", by_port, "agent iface=any host=h port=9");
	assert_refused("-I|e", "to: h:1\nport: 2\n", "two different ports");
	assert_taken("-t|h:9", agent, "agent iface=any filter=port 1 host=h port=9");
	assert_taken("-w|-", agent, "alone iface=any filter=port 1 pcap:-");
	assert_taken("-C|--print", by_port, "collector port=5 text:-");
	assert_refused("-C", by_port, "-C: where to?");
	assert_taken("", onward, "aggregator host=h port=5 onward_port=6");
	assert_taken("-C", onward, "aggregator host=h port=5 onward_port=6");
	assert_taken("-t|g", onward, "aggregator host=g port=5");
	assert_taken("-w|f", onward, "collector port=5 pcap:f");
	assert_taken("-t|h:9", sensor, "aggregator host=h onward_port=9");
	assert_taken("-C", sensor, "collector iface:ids0 pcap:f text:-");
	assert_taken("-w|g", sensor, "collector pcap:g");
	assert_taken("-I|e|-t|h", sensor, "agent iface=e host=h");
	assert_taken("-I|e|-o|x", sensor, "alone iface=e iface:x");
	assert_taken("-I|e|-t|h|--ca|1|--cert|2|--key|3", "ca: 7\ncert: 8\nkey: 9\n",
		     "agent iface=e host=h ca=1 cert=2 key=3");
}

static void test_a_wrong_file_is_named(void **state)
{
	static const char *const rows[][2] = {
		{"prot: 1\n", "test.yaml: there is no setting named prot"},
		{"insecure: flase\n",
		 "test.yaml: setting 'insecure' (line: 1, column: 11): yes or no"},
		{"verbose: yes\noutput: eth1\n",
		 "test.yaml: setting 'output' (line: 2, column: 9): a list"},
		{"port:\n", "test.yaml: setting 'port' (line: 1"},
		{"port: 1\nport: 2\n", "Mapping field already seen: port"},
		{"port: 0\n", "test.yaml: port: 0: a port is 1 to 65535"},
		{"queue: lots\n", "test.yaml: queue: lots: a size"},
		{"config: x\n", "test.yaml: there is no setting named config"},
		{"help: yes\n", "test.yaml: there is no setting named help"},
		{"ring: 1\n", "test.yaml: ring: 1: must be 64K"},
		{"compress: 99\n", "test.yaml: compress: 99: a level"},
		{"expires: 9y\n", "test.yaml: expires: 9y: a duration"},
		{"to: ::1\n", "test.yaml: to: ::1: an IPv6 address"},
		{"listen: name\n", "test.yaml: listen: name: an IP address"},
		{"interface: a/b\n", "test.yaml: interface: a/b: not an interface name"},
		{"output: [a/b]\n", "test.yaml: output: a/b: not an interface name"},
		{"port: \"4\n", "test.yaml: "},
		{"- a\n", "test.yaml: Expecting MAPPING"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		assert_refused("-I|e", rows[i][0], rows[i][1]);
	assert_refused("", "collect: yes\nto: h\nprint: yes\n", "-C -t with an output: ");
}

static void test_a_named_file_must_be_there(void **state)
{
	char *argv[] = {"sslcollector", "--config", "/nonexistent/x.yaml", "-I", "e"};
	struct options o;
	int saved = dup(STDERR_FILENO), fd = open(errors, O_RDWR | O_CREAT | O_TRUNC, 0600);

	(void)state;
	dup2(fd, STDERR_FILENO);
	close(fd);
	assert_int_equal(options_parse(&o, 5, argv), -22);
	dup2(saved, STDERR_FILENO);
	close(saved);
	assert_string_equal(read_file(errors),
			    "sslcollector: /nonexistent/x.yaml: cannot read: No such file "
			    "or directory (try --help)\n");
}

/* The packaged file says nothing as it is, and each example in it is legal by itself. */
static void test_the_packaged_file_is_legal(void **state)
{
	static const char name[] = VECTORS "/../../packaging/conf/sslcollector.yaml";
	char *text = strdup(read_file(name)), *rest = text, *line, yaml[512];
	int n = 0;

	(void)state;
	assert_taken("-I|e", text, "alone iface=e text:-");
	while ((line = strsep(&rest, "\n"))) {
		struct options o;
		int ret;

		if (line[0] != '#' || line[1] < 'a' || line[1] > 'z')
			continue;
		snprintf(yaml, sizeof(yaml), "%s\nca: a\ncert: b\nkey: c\n", line + 1);
		if (!strncmp(line, "#ca", 3) || !strncmp(line, "#cert", 5) ||
		    !strncmp(line, "#key", 4))
			snprintf(yaml, sizeof(yaml), "%s\n", line + 1);
		ret = parse(&o, "token", yaml);
		if (ret && !strstr(read_file(errors), "--ca, --cert and --key go together"))
			fail_msg("%s: %s", line, read_file(errors));
		options_fini(&o);
		n++;
	}
	free(text);
	assert_int_equal(n, 37); /* as many keys as the parser knows */
}

static int make_dir(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(config, sizeof(config), "%s/test.yaml", dir);
	snprintf(errors, sizeof(errors), "%s/stderr", dir);
	return 0;
}

static int remove_dir(void **state)
{
	(void)state;
	unlink(config);
	unlink(errors);
	return rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_spellings_choose_the_mode),
		cmocka_unit_test(test_values_are_read),
		cmocka_unit_test(test_the_flow_hook_has_four_names),
		cmocka_unit_test(test_probes_have_five_names),
		cmocka_unit_test(test_what_stands_around_tls_has_its_words),
		cmocka_unit_test(test_the_help_lists_the_options),
		cmocka_unit_test(test_subcommands_are_for_people),
		cmocka_unit_test(test_wrong_usage_is_one_line_that_says_what_to_do),
		cmocka_unit_test(test_an_output_has_keys),
		cmocka_unit_test(test_other_outputs_have_their_words),
		cmocka_unit_test(test_wrong_words_of_other_outputs_are_told),
		cmocka_unit_test(test_wrong_keys_of_an_output_are_told),
		cmocka_unit_test(test_a_message_carries_no_terminal_escape),
		cmocka_unit_test(test_the_file_supplies_what_was_not_said),
		cmocka_unit_test(test_the_command_line_wins),
		cmocka_unit_test(test_a_wrong_file_is_named),
		cmocka_unit_test(test_a_named_file_must_be_there),
		cmocka_unit_test(test_the_packaged_file_is_legal),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
