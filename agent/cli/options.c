/* SPDX-License-Identifier: Apache-2.0 */
/*
 * options: argv comes in and becomes one `struct settings`, conf.c reads the file into another;
 * they are merged, a mode is chosen, and `struct options` leaves. What settings mean together is
 * decided here; each by itself is described in settings.c. Opens nothing.
 */
#include "cli/options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/conf.h"
#include "frame.h"
#include "cli/settings.h"
#include "shim.h"
#include "cli/value.h"

#ifndef SSLC_VERSION
#define SSLC_VERSION "unknown"
#endif

#define COMPRESS_DEFAULT  1
#define QUEUE_DEFAULT     (64ull << 20)
#define RING_DEFAULT      (64ull << 20)
#define BACKLOG_DEFAULT   (16ull << 20)
#define RETRY_DEFAULT_S   60
#define EXPIRES_DEFAULT_S 3600

#define LONG_OPTION 256 /* getopt's answer for row 0 of the table; letters are below */

struct cli {
	struct settings set;                  /* borrows from argv and from lists[] */
	char *lists[SETTINGS_MAX][SINKS_MAX]; /* one for each row of the table */
	char **words;                         /* what is not an option */
	int n_words;
};

static bool yes = true;

void options_print_help(void)
{
	fputs("sslcollector mirrors what this host's programs say inside TLS, as plain packets.\n"
	      "\n"
	      "  sslcollector -I <iface> -t <host[:port]>   endpoint: send to a collector\n"
	      "  sslcollector -C -o <iface>                 sensor: receive, put packets on "
	      "<iface>\n"
	      "  sslcollector -C -t <host[:port]>           in between: receive, pass on to a "
	      "collector\n"
	      "  sslcollector -I <iface1> -o <iface2>       endpoint alone: packets out of "
	      "<iface2>\n"
	      "\n"
	      "A filter in tcpdump's language may follow: sslcollector -I eth0 -t ids1 'port "
	      "443'.\n"
	      "With -I and neither -t nor an output, messages are printed.\n"
	      "\n",
	      stdout);
	settings_print_help();
	fputs("\n"
	      "Enrolment\n"
	      "  sslcollector token [--expires 1h]          at the collector: print a new token\n"
	      "  sslcollector enroll HOST[:PORT] TOKEN      at the endpoint: get a certificate "
	      "with it\n"
	      "  sslcollector enroll -C HOST[:PORT] TOKEN   the same for a collector that passes "
	      "on\n"
	      "\n"
	      "Programs\n"
	      "  sslcollector run -- COMMAND...             run it with the preloaded library, for "
	      "an agent here\n"
	      "  sslcollector enable UNIT...                the same for services, from their next "
	      "start on\n"
	      "  sslcollector enable --system-wide          the same for every program of this "
	      "host\n"
	      "  sslcollector disable UNIT...|--system-wide  no longer\n"
	      "\n"
	      "Questions\n"
	      "  sslcollector coverage [--json]             which programs are mirrored, and why "
	      "others are not\n"
	      "  sslcollector status [--json]               how full the buffers are, and what "
	      "was lost\n"
	      "  sslcollector doctor [FILE...]              where TLS libraries are probed, and "
	      "at what price\n",
	      stdout);
}

void options_print_version(void)
{
	puts("sslcollector " SSLC_VERSION);
}

/* The command line */

struct spelling { /* the table as getopt wants it */
	char letters[2 + 2 * SETTINGS_MAX];
	struct option names[SETTINGS_MAX];
};

/* 0 when there is none. */
static char letter_of(const struct setting *d)
{
	return d->spoken[0] == '-' && d->spoken[1] != '-' ? d->spoken[1] : '\0';
}

static void make_spelling(struct spelling *s)
{
	struct option *name = s->names;
	char *letter = s->letters;

	memset(s, 0, sizeof(*s));
	*letter++ = ':'; /* tell a missing value from an unknown option */
	for (const struct setting *d = settings_table; d->name; d++) {
		bool has_value = d->kind != KIND_FLAG;

		if (d->place == PLACE_FILE)
			continue;
		*name++ = (struct option){.name = d->name,
					  .has_arg = has_value ? required_argument : no_argument,
					  .val = LONG_OPTION + (int)(d - settings_table)};
		if (!letter_of(d))
			continue;
		*letter++ = letter_of(d);
		if (has_value)
			*letter++ = ':';
	}
}

/* NULL when getopt's answer is none of them. */
static const struct setting *find_option(int c)
{
	for (const struct setting *d = settings_table; d->name; d++)
		if (c == LONG_OPTION + (int)(d - settings_table) || (c && c == letter_of(d)))
			return d;
	return NULL;
}

static int bad_option(int c, char **argv)
{
	const char *word = argv[optind - 1];

	if (c == ':' && optopt && optopt < LONG_OPTION)
		return usage_error("-%c: needs a value", optopt);
	if (c == ':')
		return usage_error("%s: needs a value", word);
	if (optopt && !strncmp(word, "--", 2))
		return usage_error("%s: takes no value", word);
	if (optopt)
		return usage_error("-%c: no such option", optopt);
	return usage_error("%s: no such option, or not clear which", word);
}

static int take_option(struct cli *cli, const struct setting *d, char *value)
{
	struct said *v = settings_slot(&cli->set, d);

	if (d->kind == KIND_FLAG) {
		v->flag = &yes;
		return 0;
	}
	if (!*value)
		return usage_error("%s: its value is empty", d->spoken);
	if (d->kind == KIND_WORD) {
		if (v->word)
			return usage_error("%s: given twice", d->spoken);
		v->word = value;
		return 0;
	}
	if (v->n == SINKS_MAX)
		return usage_error("%s %s: at most %d outputs are possible", d->spoken, value,
				   SINKS_MAX);
	v->words = cli->lists[d - settings_table];
	v->words[v->n++] = value;
	return 0;
}

/* Up to the first -h or -V, which make the rest indifferent. */
static int parse_argv(struct cli *cli, int argc, char **argv)
{
	const struct setting *d;
	struct spelling s;
	int c, err = 0;

	make_spelling(&s);
	optind = 0; /* glibc: forget an earlier run */
	opterr = 0;
	while (!cli->set.help.any && !cli->set.version.any &&
	       (c = getopt_long(argc, argv, s.letters, s.names, NULL)) != -1) {
		d = find_option(c);
		err = d ? take_option(cli, d, optarg) : bad_option(c, argv);
		if (err)
			return err;
	}
	cli->words = argv + optind;
	cli->n_words = argc - optind;
	return 0;
}

/* Together with the file */

static bool has_output(const struct settings *s)
{
	return s->output.n || s->write.n || s->pcap_over_ip.n || s->pcap_over_ip_to.n ||
	       s->vxlan.n || s->geneve.n || settings_is_on(&s->print);
}

/*
 * Where from and where to belong together: what the command line says about them replaces what the
 * file says against it. `sslcollector -I eth0 -w -` on a host that is configured to send to a
 * collector means: not to the collector, this once. Own certificates are three parts of one thing.
 */
static void forget_contradicted(struct settings *file, const struct settings *cli)
{
	static const struct said nothing;

	if (settings_is_on(&cli->collect)) {
		file->interface = file->filter = nothing;
		if (!settings_is_on(&file->collect))
			file->to = nothing; /* an endpoint's */
	}
	if (cli->interface.any)
		file->collect = nothing;
	if (cli->to.any || has_output(cli))
		file->output = file->write = file->pcap_over_ip = file->pcap_over_ip_to =
			file->vxlan = file->geneve = file->print = nothing;
	if (has_output(cli))
		file->to = nothing;
	if (cli->ca.any || cli->cert.any || cli->key.any)
		file->ca = file->cert = file->key = nothing;
}

/*
 * Values of the file are checked by themselves first, also those that the command line overrides:
 * so that a message names the file, and a mistake in it does not wait for the day it matters.
 */
static int check_file(struct settings *file, const char *name)
{
	struct options scratch = {0};
	int err = settings_take(file, ~0u, name, &scratch);

	options_fini(&scratch);
	return err;
}

/* Modes */

/* An option said on the command line that means nothing in this mode is a misunderstanding. */
static int check_fits(enum options_mode mode, struct settings *cli)
{
	static const char *const names[] = {
		[MODE_AGENT] = "-t",          [MODE_ALONE] = "-I without -t",
		[MODE_COLLECTOR] = "-C",      [MODE_AGGREGATOR] = "-C -t",
		[MODE_ENROLL] = "enroll",     [MODE_TOKEN] = "token",
		[MODE_COVERAGE] = "coverage", [MODE_DOCTOR] = "doctor",
		[MODE_STATUS] = "status",     [MODE_RUN] = "run",
		[MODE_ENABLE] = "enable",     [MODE_DISABLE] = "disable",
	};

	for (const struct setting *d = settings_table; d->name; d++)
		if (settings_slot(cli, d)->any && !(d->modes & IN(mode)))
			return usage_error("%s: has no meaning with %s", d->spoken, names[mode]);
	return 0;
}

static int choose_collector(const struct settings *s)
{
	if (s->to.any && has_output(s))
		return usage_error("-C -t with an output: a collector either passes on or makes "
				   "packets itself; say one of them");
	if (s->interface.any)
		return usage_error("-C with -I %s: a collector monitors no interface; say one of "
				   "them, or run two sslcollector",
				   s->interface.word);
	if (!s->to.any && !has_output(s))
		return usage_error("-C: where to? Add -o IFACE, -w FILE, --print or another "
				   "output, or -t HOST");
	return 0;
}

static int choose_mode(const struct settings *s, enum options_mode *mode)
{
	*mode = s->to.any ? MODE_AGGREGATOR : MODE_COLLECTOR;
	if (settings_is_on(&s->collect))
		return choose_collector(s);
	if (!s->interface.any)
		return usage_error("say what to mirror with -I IFACE (or -I any), or -C to be a "
				   "collector");
	if (s->to.any && has_output(s))
		return usage_error("-t with an output: an endpoint either sends to a "
				   "collector or makes packets itself; say one of them");
	*mode = s->to.any ? MODE_AGENT : MODE_ALONE;
	return 0;
}

/* Both -t HOST:PORT and -p were said: the same, or the command line's against the file's. */
static int settle_port(struct options *o, const struct settings *s, const struct settings *cli)
{
	uint16_t port;
	int err;

	if (!s->port.any)
		return 0;
	err = value_port("-p", s->port.word, &port);
	if (err || port == o->port)
		return err;
	if (!cli->to.any == !cli->port.any)
		return usage_error("-t %s with -p %s: two different ports", s->to.word,
				   s->port.word);
	if (cli->port.any)
		o->port = port;
	return 0;
}

static int check_files(const struct settings *s)
{
	int n = !!s->ca.any + !!s->cert.any + !!s->key.any;

	if (!n || n == 3)
		return 0;
	return usage_error("--ca, --cert and --key go together; missing:%s%s%s",
			   s->ca.any ? "" : " --ca", s->cert.any ? "" : " --cert",
			   s->key.any ? "" : " --key");
}

bool options_has_iface(const struct sink_conf *c, const char *iface)
{
	size_t len = strlen(iface), n;

	if (strcmp(c->kind, "iface") != 0 && strcmp(c->kind, "fan") != 0)
		return false;
	for (const char *p = c->target; *p; p += n + (p[n] == '|')) {
		n = strcspn(p, "|");
		if (n == len && !memcmp(p, iface, len))
			return true;
	}
	return false;
}

static int check_output(const struct options *o, const struct sink_conf *c)
{
	if (options_has_iface(c, "lo"))
		return usage_error("-o lo: this host would receive its own mirrored packets; "
				   "choose an interface that carries nothing else");
	if (o->iface && options_has_iface(c, o->iface))
		return usage_error("-o %s: is the monitored interface: mirrored packets would mix "
				   "with the real ones of the same connection and damage both; "
				   "choose another",
				   o->iface);
	return 0;
}

static int check_outputs(const struct options *o)
{
	bool text = false, to_stdout = false;
	int err = 0;

	for (unsigned i = 0; !err && i < o->n_sinks; i++) {
		const struct sink_conf *c = &o->sinks[i];

		err = check_output(o, c);
		text |= !strcmp(c->kind, "text");
		to_stdout |= !strcmp(c->kind, "pcap") && !strcmp(c->target, "-");
	}
	if (!err && text && to_stdout)
		return usage_error("--print: standard output is taken by -w -");
	return err;
}

/* What is said once for all outputs. */
static void spread_port_map(struct options *o)
{
	for (unsigned i = 0; i < o->n_sinks; i++) {
		struct sink_shape *shape = &o->sinks[i].shape;

		if (shape->n_ports)
			continue;
		shape->n_ports = o->port_map.n_ports;
		memcpy(shape->ports, o->port_map.ports, sizeof(shape->ports));
	}
}

static int check_rings(const struct options *o)
{
	if (o->ring_bytes / (o->n_rings ? o->n_rings : 1) >= RING_MIN)
		return 0;
	return usage_error("--rings %u: a --ring of %zu KiB is too small for so many: each needs "
			   "%llu",
			   o->n_rings, o->ring_bytes >> 10, RING_MIN >> 10);
}

static int take_run(struct options *o, struct settings *s, struct settings *cli)
{
	int err = choose_mode(s, &o->mode);

	if (!err)
		err = check_fits(o->mode, cli);
	if (err)
		return err;
	if (o->mode == MODE_ALONE && !has_output(s))
		s->print.flag = &yes;
	err = settings_take(s, IN(o->mode), NULL, o);
	if (!err && o->mode == MODE_AGENT)
		err = settle_port(o, s, cli);
	if (!err)
		err = check_rings(o);
	if (!err)
		spread_port_map(o);
	return err ? err : check_outputs(o);
}

/* The filter: all words, as tcpdump takes them. The caller frees it. */
static char *join(char **words, int n)
{
	size_t len = 1;
	char *out, *end;

	for (int i = 0; i < n; i++)
		len += strlen(words[i]) + 1;
	out = malloc(len);
	if (!out)
		return NULL;
	end = out;
	for (int i = 0; i < n; i++) {
		if (i)
			*end++ = ' ';
		end = stpcpy(end, words[i]);
	}
	*end = '\0';
	return out;
}

static int take_filtered_run(struct options *o, struct settings *s, struct cli *cli)
{
	char *filter = join(cli->words, cli->n_words);
	int err;

	if (!filter)
		return usage_error("out of memory");
	cli->set.filter.word = filter;
	s->filter.word = filter;
	err = take_run(o, s, &cli->set);
	free(filter);
	return err;
}

static int take_enroll(struct options *o, struct settings *s, struct cli *cli)
{
	int err;

	o->mode = MODE_ENROLL;
	o->onward = settings_is_on(&cli->set.collect);
	err = check_fits(o->mode, &cli->set);
	if (err)
		return err;
	if (cli->n_words != 3)
		return usage_error("enroll: needs HOST[:PORT] and TOKEN (sslcollector token prints "
				   "one at the collector)");
	if (!*cli->words[2])
		return usage_error("enroll: the token is empty");
	err = settings_take(s, IN(o->mode), NULL, o);
	cli->set.to.word = s->to.word = cli->words[1];
	if (!err)
		err = value_host("enroll", s->to.word, &o->host, &o->port);
	if (!err)
		err = settle_port(o, s, &cli->set);
	return err ? err : value_string(cli->words[2], &o->token);
}

static int take_token(struct options *o, struct settings *s, struct cli *cli)
{
	int err;

	o->mode = MODE_TOKEN;
	if (cli->n_words != 1)
		return usage_error("token: takes no further word, but got %s", cli->words[1]);
	err = check_fits(o->mode, &cli->set);
	return err ? err : settings_take(s, IN(o->mode), NULL, o);
}

/* A question without further words. */
static int take_question(enum options_mode mode, struct options *o, struct settings *s,
			 struct cli *cli)
{
	int err;

	o->mode = mode;
	if (cli->n_words != 1)
		return usage_error("%s: takes no further word, but got %s", cli->words[0],
				   cli->words[1]);
	err = check_fits(o->mode, &cli->set);
	return err ? err : settings_take(s, IN(o->mode), NULL, o);
}

static int take_doctor(struct options *o, struct settings *s, struct cli *cli)
{
	int err;

	o->mode = MODE_DOCTOR;
	o->files = cli->words + 1;
	o->n_files = (unsigned)cli->n_words - 1;
	err = check_fits(o->mode, &cli->set);
	return err ? err : settings_take(s, IN(o->mode), NULL, o);
}

static int take_command(struct options *o, struct settings *s, struct cli *cli)
{
	int err;

	o->mode = MODE_RUN;
	o->command = cli->words + 1;
	if (cli->n_words < 2)
		return usage_error("run: what? Say: sslcollector run -- COMMAND [ARGUMENT...]");
	err = check_fits(o->mode, &cli->set);
	return err ? err : settings_take(s, IN(o->mode), NULL, o);
}

static int take_units(enum options_mode mode, struct options *o, struct settings *s,
		      struct cli *cli)
{
	int err;

	o->mode = mode;
	o->units = cli->words + 1;
	o->n_units = (unsigned)cli->n_words - 1;
	if (!o->n_units && !settings_is_on(&cli->set.system_wide))
		return usage_error("%s: which service? Say: sslcollector %s nginx.service",
				   cli->words[0], cli->words[0]);
	if (o->n_units && settings_is_on(&cli->set.system_wide))
		return usage_error("%s: --system-wide with services: it is for every program; say "
				   "one of them",
				   cli->words[0]);
	err = check_fits(o->mode, &cli->set);
	return err ? err : settings_take(s, IN(o->mode), NULL, o);
}

static int take_words(struct options *o, struct settings *s, struct cli *cli)
{
	if (!cli->n_words)
		return take_run(o, s, &cli->set);
	if (!strcmp(cli->words[0], "enroll"))
		return take_enroll(o, s, cli);
	if (!strcmp(cli->words[0], "token"))
		return take_token(o, s, cli);
	if (!strcmp(cli->words[0], "coverage"))
		return take_question(MODE_COVERAGE, o, s, cli);
	if (!strcmp(cli->words[0], "status"))
		return take_question(MODE_STATUS, o, s, cli);
	if (!strcmp(cli->words[0], "doctor"))
		return take_doctor(o, s, cli);
	if (!strcmp(cli->words[0], "run"))
		return take_command(o, s, cli);
	if (!strcmp(cli->words[0], "enable"))
		return take_units(MODE_ENABLE, o, s, cli);
	if (!strcmp(cli->words[0], "disable"))
		return take_units(MODE_DISABLE, o, s, cli);
	return take_filtered_run(o, s, cli);
}

static int build(struct options *o, struct cli *cli, const struct settings *file)
{
	struct settings s = cli->set, said;
	int err;

	if (file) {
		said = *file; /* a copy: what is forgotten in it still belongs to conf.c */
		forget_contradicted(&said, &cli->set);
		settings_merge(&s, &said);
	}
	err = check_files(&s);
	if (!err)
		err = take_words(o, &s, cli);
	if (!err && !o->state_dir)
		err = value_string(STATE_DIR_DEFAULT, &o->state_dir);
	if (!err && !o->run_dir)
		err = value_string(RUN_DIR_DEFAULT, &o->run_dir);
	return err;
}

static int read_and_build(struct options *o, struct cli *cli)
{
	const char *named = cli->set.config.word, *name = named ? named : CONFIG_DEFAULT;
	struct settings *file = NULL;
	int err = 0;

	if (named || !access(name, F_OK) || errno != ENOENT)
		err = conf_load(&file, name);
	if (!err && file)
		err = check_file(file, name);
	if (!err)
		err = build(o, cli, file);
	conf_free(file);
	return err;
}

int options_parse(struct options *o, int argc, char **argv)
{
	struct cli cli = {.words = NULL};
	int err;

	*o = (struct options){
		.port = SSLC_PORT,
		.onward_port = SSLC_PORT,
		.zstd_level = COMPRESS_DEFAULT,
		.queue_bytes = QUEUE_DEFAULT,
		.ring_bytes = RING_DEFAULT,
		.backlog_bytes = BACKLOG_DEFAULT,
		.sources = CAPTURE_BPF | CAPTURE_PRELOAD,
		.shim_bytes = SSLC_SHIM_DATA,
		.overhead_retry_s = RETRY_DEFAULT_S,
		.nice = NICE_DEFAULT,
		.token_ttl_s = EXPIRES_DEFAULT_S,
	};
	err = parse_argv(&cli, argc, argv);
	if (err)
		return err;
	if (cli.set.help.any || cli.set.version.any) {
		o->mode = cli.set.help.any ? MODE_HELP : MODE_VERSION;
		return 0;
	}
	err = read_and_build(o, &cli);
	if (err)
		options_fini(o);
	return err;
}

void options_fini(struct options *o)
{
	for (unsigned i = 0; i < o->n_sinks; i++)
		free((char *)o->sinks[i].target);
	free(o->iface);
	free(o->filter);
	free(o->host);
	if (o->token)
		explicit_bzero(o->token, strlen(o->token)); /* a credential */
	free(o->token);
	free(o->listen_addr);
	free(o->state_dir);
	free(o->run_dir);
	free(o->ca);
	free(o->cert);
	free(o->key);
	memset(o, 0, sizeof(*o));
}
