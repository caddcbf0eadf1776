/* SPDX-License-Identifier: Apache-2.0 */
/*
 * options: argv and the YAML file come in as two `struct settings` of plain words, are merged,
 * checked once and leave as `struct options`. Wrong usage is one line on stderr. Opens nothing but
 * the file.
 */
#include "options.h"

#include <arpa/inet.h>
#include <cyaml/cyaml.h>
#include <errno.h>
#include <getopt.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "frame.h"

#ifndef SSLC_VERSION
#define SSLC_VERSION "unknown"
#endif

#define CONFIG_DEFAULT    "/etc/sslcollector/sslcollector.yaml"
#define STATE_DIR_DEFAULT "/var/lib/sslcollector"
#define COMPRESS_DEFAULT  1
#define COMPRESS_MAX      19 /* zstd's levels above need far more memory at both ends */
#define QUEUE_DEFAULT     (64ull << 20)
#define QUEUE_MIN         (1ull << 20)  /* one block must fit */
#define QUEUE_MAX         (64ull << 30) /* a slip of the finger, not a queue */
#define RING_DEFAULT      (64ull << 20)
#define RING_MIN          (64ull << 10) /* one large TLS record with its headers must fit */
#define RING_MAX          (1ull << 30)  /* the kernel's ring buffer has 32-bit positions */
#define EXPIRES_DEFAULT   3600
#define EXPIRES_MAX       (30ull * 86400) /* a token is a key that lies around */
#define LINE_MAX_LEN      512

/* What was said, word by word; NULL: not said. `cli` borrows from argv, `file` belongs to libcyaml.
 */
struct settings {
	char *interface, *to, *port, *listen, *filter, *state_dir, *ca, *cert, *key;
	char *compress, *queue, *ring, *expires;
	char **output, **write;
	unsigned output_count, write_count;
	bool *collect, *insecure, *print, *verbose;
};

struct cli {
	struct settings set;
	char *output[SINKS_MAX], *write[SINKS_MAX];
	char *config;
	char **words; /* what is not an option */
	int n_words;
};

static bool yes = true;

/* Messages */

static int fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* One line, no terminal escapes: the words quoted in it may have been pasted. */
static int fail(const char *fmt, ...)
{
	char line[LINE_MAX_LEN];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	for (char *c = line; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			*c = '?';
	fprintf(stderr, "sslcollector: %s (try --help)\n", line);
	return -EINVAL;
}

void options_print_help(void)
{
	fputs("sslcollector mirrors what this host's programs say inside TLS, as plain packets.\n"
	      "\n"
	      "  sslcollector -I <iface> -t <host[:port]>   endpoint: send to a collector\n"
	      "  sslcollector -C -o <iface>                 sensor: receive, put packets on "
	      "<iface>\n"
	      "  sslcollector -I <iface1> -o <iface2>       endpoint alone: packets out of "
	      "<iface2>\n"
	      "\n"
	      "A filter in tcpdump's language may follow: sslcollector -I eth0 -t ids1 'port "
	      "443'.\n"
	      "With -I and neither -t nor an output, messages are printed.\n"
	      "\n"
	      "Where from\n"
	      "  -I, --interface IFACE   mirror connections that use IFACE; any: all of them\n"
	      "  -C, --collect           receive from endpoints\n"
	      "      --listen ADDR       -C: address to listen on (default: all)\n"
	      "  -p, --port PORT         tunnel port, at both ends (default 3005)\n"
	      "\n"
	      "Where to (outputs may be repeated and combined)\n"
	      "  -t, --to HOST[:PORT]    send to the collector at HOST; IPv6 as [ADDR]:PORT\n"
	      "  -o, --output IFACE      packets onto IFACE, which should carry nothing else\n"
	      "  -w, --write FILE        packets into FILE: pcapng, or pcap if it ends in .pcap; "
	      "-: stdout\n"
	      "      --print             one line a message on stdout\n"
	      "\n"
	      "Who may\n"
	      "      --state-dir DIR     keys and certificates (default " STATE_DIR_DEFAULT ")\n"
	      "      --ca FILE           own certificates instead: the authority,\n"
	      "      --cert FILE         this host's certificate,\n"
	      "      --key FILE          and its key\n"
	      "      --insecure          accept any peer; must be said at both ends\n"
	      "\n"
	      "How much\n"
	      "      --compress N        zstd level of the tunnel, 0 to 19; 0: none (default 1)\n"
	      "      --queue SIZE        memory for what is not acknowledged yet (default 64M)\n"
	      "      --ring SIZE         memory between kernel and agent (default 64M)\n"
	      "\n"
	      "      --config FILE       default " CONFIG_DEFAULT "\n"
	      "  -v, --verbose           say more\n"
	      "  -h, --help              this text\n"
	      "  -V, --version           the version\n"
	      "\n"
	      "Enrolment\n"
	      "  sslcollector token [--expires 1h]          at the collector: print a new token\n"
	      "  sslcollector enroll HOST[:PORT] TOKEN      at the endpoint: get a certificate "
	      "with it\n",
	      stdout);
}

void options_print_version(void)
{
	puts("sslcollector " SSLC_VERSION);
}

/* The command line */

enum {
	OPT_LISTEN = 256,
	OPT_STATE_DIR,
	OPT_CA,
	OPT_CERT,
	OPT_KEY,
	OPT_INSECURE,
	OPT_COMPRESS,
	OPT_QUEUE,
	OPT_RING,
	OPT_EXPIRES,
	OPT_PRINT,
	OPT_CONFIG
};

static const struct option long_options[] = {
	{"interface", required_argument, NULL, 'I'},
	{"to", required_argument, NULL, 't'},
	{"collect", no_argument, NULL, 'C'},
	{"output", required_argument, NULL, 'o'},
	{"write", required_argument, NULL, 'w'},
	{"print", no_argument, NULL, OPT_PRINT},
	{"port", required_argument, NULL, 'p'},
	{"listen", required_argument, NULL, OPT_LISTEN},
	{"state-dir", required_argument, NULL, OPT_STATE_DIR},
	{"ca", required_argument, NULL, OPT_CA},
	{"cert", required_argument, NULL, OPT_CERT},
	{"key", required_argument, NULL, OPT_KEY},
	{"insecure", no_argument, NULL, OPT_INSECURE},
	{"compress", required_argument, NULL, OPT_COMPRESS},
	{"queue", required_argument, NULL, OPT_QUEUE},
	{"ring", required_argument, NULL, OPT_RING},
	{"expires", required_argument, NULL, OPT_EXPIRES},
	{"config", required_argument, NULL, OPT_CONFIG},
	{"verbose", no_argument, NULL, 'v'},
	{"help", no_argument, NULL, 'h'},
	{"version", no_argument, NULL, 'V'},
	{NULL, 0, NULL, 0},
};

static int set_once(char **slot, const char *name, char *value)
{
	if (*slot)
		return fail("%s: given twice", name);
	if (!*value)
		return fail("%s: its value is empty", name);
	*slot = value;
	return 0;
}

static int add_to(char **list, unsigned *n, const char *name, char *value)
{
	if (*n == SINKS_MAX)
		return fail("%s %s: at most %d outputs are possible", name, value, SINKS_MAX);
	if (!*value)
		return fail("%s: its value is empty", name);
	list[(*n)++] = value;
	return 0;
}

static int bad_option(int c, char **argv)
{
	const char *word = argv[optind - 1];

	if (c == ':' && optopt && optopt < 256)
		return fail("-%c: needs a value", optopt);
	if (c == ':')
		return fail("%s: needs a value", word);
	if (optopt && !strncmp(word, "--", 2))
		return fail("%s: takes no value", word);
	if (optopt)
		return fail("-%c: no such option", optopt);
	return fail("%s: no such option, or not clear which", word);
}

/* 0, 1 when everything is said (--help, --version), or -EINVAL. */
static int take_option(struct cli *cli, struct options *o, int c, char **argv)
{
	struct settings *s = &cli->set;

	switch (c) {
	case 'I':
		return set_once(&s->interface, "-I", optarg);
	case 't':
		return set_once(&s->to, "-t", optarg);
	case 'C':
		s->collect = &yes;
		return 0;
	case 'o':
		return add_to(cli->output, &s->output_count, "-o", optarg);
	case 'w':
		return add_to(cli->write, &s->write_count, "-w", optarg);
	case OPT_PRINT:
		s->print = &yes;
		return 0;
	case 'p':
		return set_once(&s->port, "-p", optarg);
	case OPT_LISTEN:
		return set_once(&s->listen, "--listen", optarg);
	case OPT_STATE_DIR:
		return set_once(&s->state_dir, "--state-dir", optarg);
	case OPT_CA:
		return set_once(&s->ca, "--ca", optarg);
	case OPT_CERT:
		return set_once(&s->cert, "--cert", optarg);
	case OPT_KEY:
		return set_once(&s->key, "--key", optarg);
	case OPT_INSECURE:
		s->insecure = &yes;
		return 0;
	case OPT_COMPRESS:
		return set_once(&s->compress, "--compress", optarg);
	case OPT_QUEUE:
		return set_once(&s->queue, "--queue", optarg);
	case OPT_RING:
		return set_once(&s->ring, "--ring", optarg);
	case OPT_EXPIRES:
		return set_once(&s->expires, "--expires", optarg);
	case OPT_CONFIG:
		return set_once(&cli->config, "--config", optarg);
	case 'v':
		s->verbose = &yes;
		return 0;
	case 'h':
		o->mode = MODE_HELP;
		return 1;
	case 'V':
		o->mode = MODE_VERSION;
		return 1;
	default:
		return bad_option(c, argv);
	}
}

static int parse_argv(struct cli *cli, struct options *o, int argc, char **argv)
{
	int c, ret;

	optind = 0; /* glibc: forget an earlier run */
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":I:t:Co:w:p:vhV", long_options, NULL)) != -1) {
		ret = take_option(cli, o, c, argv);
		if (ret)
			return ret;
	}
	cli->set.output = cli->output;
	cli->set.write = cli->write;
	cli->words = argv + optind;
	cli->n_words = argc - optind;
	return 0;
}

/* The file: keys are the long options' names */

/* libcyaml's own booleans take any unknown word for true: not for a key named insecure. */
static const cyaml_strval_t booleans[] = {
	{"false", 0}, {"true", 1}, {"no", 0}, {"yes", 1}, {"off", 0}, {"on", 1},
};

#define WORD(key, member)                                                                          \
	CYAML_FIELD_STRING_PTR(key, CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct settings,     \
			       member, 1, CYAML_UNLIMITED)
#define LIST(key, member)                                                                          \
	CYAML_FIELD_SEQUENCE(key, CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct settings,       \
			     member, &word, 0, SINKS_MAX)
#define FLAG(key, member)                                                                          \
	CYAML_FIELD_ENUM_PTR(key,                                                                  \
			     CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL | CYAML_FLAG_STRICT |        \
				     CYAML_FLAG_CASE_INSENSITIVE,                                  \
			     struct settings, member, booleans, CYAML_ARRAY_LEN(booleans))

static const cyaml_schema_value_t word = {
	CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char, 1, CYAML_UNLIMITED),
};

static const cyaml_schema_field_t file_fields[] = {
	WORD("interface", interface),
	WORD("to", to),
	FLAG("collect", collect),
	LIST("output", output),
	LIST("write", write),
	FLAG("print", print),
	WORD("port", port),
	WORD("listen", listen),
	WORD("filter", filter),
	WORD("state-dir", state_dir),
	WORD("ca", ca),
	WORD("cert", cert),
	WORD("key", key),
	FLAG("insecure", insecure),
	WORD("compress", compress),
	WORD("queue", queue),
	WORD("ring", ring),
	WORD("expires", expires),
	FLAG("verbose", verbose),
	CYAML_FIELD_END,
};

static const cyaml_schema_value_t file_schema = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct settings, file_fields),
};

/* libcyaml tells an error in several lines: the first says what, the first "in …" says where. */
struct yaml_trouble {
	char what[160], where[160];
};

static void keep_line(char *out, size_t size, const char *text)
{
	snprintf(out, size, "%s", text + strspn(text, " "));
	out[strcspn(out, "\n")] = '\0';
}

static void yaml_log(cyaml_log_t level, void *ctx, const char *fmt, va_list args)
{
	struct yaml_trouble *t = ctx;
	char line[160];
	va_list again;

	va_copy(again, args);
	log_vat(LOG_DEBUG, fmt, again);
	va_end(again);
	vsnprintf(line, sizeof(line), fmt, args);
	if (level != CYAML_LOG_ERROR || strstr(line, "Backtrace"))
		return;
	if (!strncmp(line, "  in ", 5) && !*t->where)
		keep_line(t->where, sizeof(t->where), line);
	else if (!*t->what)
		keep_line(t->what, sizeof(t->what), line);
}

static cyaml_config_t yaml_config(struct yaml_trouble *t)
{
	return (cyaml_config_t){
		.log_fn = yaml_log,
		.log_ctx = t,
		.mem_fn = cyaml_mem,
		.log_level = CYAML_LOG_WARNING,
	};
}

/* libcyaml's words for what users get wrong most often → ours. */
static const char *yaml_reason(const char *what)
{
	static const char prefix[] = "Load: ";

	if (strstr(what, "Expecting SEQUENCE"))
		return "a list is needed: [a, b]";
	if (strstr(what, "Invalid ENUM value"))
		return "yes or no is needed";
	if (strstr(what, "STRING length < 1"))
		return "has no value";
	return strncmp(what, prefix, sizeof(prefix) - 1) ? what : what + sizeof(prefix) - 1;
}

static int yaml_failed(const char *name, const struct yaml_trouble *t, cyaml_err_t err)
{
	static const char unknown[] = "Unexpected key: ", in_field[] = "in mapping field";
	const char *what = yaml_reason(*t->what ? t->what : cyaml_strerror(err));

	if (!strncmp(what, unknown,
		     sizeof(unknown) - 1)) /* the place would be the mapping's start */
		return fail("%s: there is no setting named %s", name, what + sizeof(unknown) - 1);
	if (!strncmp(t->where, in_field, sizeof(in_field) - 1))
		return fail("%s: setting%s: %s", name, t->where + sizeof(in_field) - 1, what);
	return fail("%s: %s%s%s", name, what, *t->where ? " " : "", t->where);
}

/* 0; *out stays NULL when there is no file or nothing in it. */
static int load_file(struct settings **out, const char *explicit_name)
{
	const char *name = explicit_name ? explicit_name : CONFIG_DEFAULT;
	struct yaml_trouble t = {.what = "", .where = ""};
	cyaml_config_t conf = yaml_config(&t);
	cyaml_err_t err;

	if (access(name, R_OK)) {
		if (!explicit_name && errno == ENOENT)
			return 0;
		return fail("%s: cannot read: %s", name, strerror(errno));
	}
	err = cyaml_load_file(name, &conf, &file_schema, (cyaml_data_t **)out, NULL);
	return err == CYAML_OK ? 0 : yaml_failed(name, &t, err);
}

static void free_file(struct settings *file)
{
	struct yaml_trouble t = {.what = "", .where = ""};
	cyaml_config_t conf = yaml_config(&t);

	if (file)
		cyaml_free(&conf, &file_schema, file, 0);
}

/* Merging */

static bool is_on(const bool *flag)
{
	return flag && *flag;
}

static bool has_output(const struct settings *s)
{
	return s->output_count || s->write_count || is_on(s->print);
}

/*
 * Where from and where to belong together: what the command line says about them replaces what the
 * file says against it. `sslcollector -I eth0 -w -` on a host that is configured to send to a
 * collector means: not to the collector, this once.
 */
static void forget_contradicted(struct settings *file, const struct settings *cli)
{
	if (is_on(cli->collect)) {
		file->interface = NULL;
		file->filter = NULL;
		file->to = NULL;
	}
	if (cli->interface || cli->to)
		file->collect = NULL;
	if (cli->to || has_output(cli)) {
		file->output_count = 0;
		file->write_count = 0;
		file->print = NULL;
	}
	if (has_output(cli))
		file->to = NULL;
}

#define PICK(member)                                                                               \
	do {                                                                                       \
		if (!s->member)                                                                    \
			s->member = file->member;                                                  \
	} while (0)

static void merge(struct settings *s, const struct settings *file)
{
	PICK(interface);
	PICK(to);
	PICK(port);
	PICK(listen);
	PICK(filter);
	PICK(state_dir);
	PICK(compress);
	PICK(queue);
	PICK(ring);
	PICK(expires);
	PICK(collect);
	PICK(insecure);
	PICK(print);
	PICK(verbose);
	if (!s->ca && !s->cert && !s->key) { /* three parts of one thing */
		s->ca = file->ca;
		s->cert = file->cert;
		s->key = file->key;
	}
	if (!s->output_count && file->output_count) {
		s->output = file->output;
		s->output_count = file->output_count;
	}
	if (!s->write_count && file->write_count) {
		s->write = file->write;
		s->write_count = file->write_count;
	}
}

/* Values */

static int keep(char **out, const char *value)
{
	if (!value)
		return 0;
	*out = strdup(value);
	return *out ? 0 : fail("out of memory");
}

/* Digits and at most one suffix letter out of `units`. False when it is no such number or
 * overflows. */
static bool parse_number(const char *text, const char *units, const uint64_t *factors,
			 uint64_t *out)
{
	uint64_t v = 0, factor = 1;
	const char *p = text, *unit;

	for (; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(v, 10, &v) ||
		    __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
			return false;
	if (p == text)
		return false;
	if (*p) {
		unit = strchr(units, *p);
		if (!unit || p[1])
			return false;
		factor = factors[unit - units];
	}
	return !__builtin_mul_overflow(v, factor, out);
}

static int take_port(const char *name, const char *text, uint16_t *out)
{
	uint64_t v;

	if (!parse_number(text, "", NULL, &v) || !v || v > 65535)
		return fail("%s: %s: a port is 1 to 65535", name, text);
	*out = (uint16_t)v;
	return 0;
}

static int take_size(const char *name, const char *text, uint64_t min, uint64_t max, size_t *out)
{
	static const uint64_t factors[] = {1ull << 10, 1ull << 10, 1ull << 20,
					   1ull << 20, 1ull << 30, 1ull << 30};
	uint64_t v;

	if (!text)
		return 0;
	if (!parse_number(text, "KkMmGg", factors, &v))
		return fail("%s: %s: a size is a number with K, M or G, as in 64M", name, text);
	if (v < min || v > max)
		return fail("%s: %s: must be %lluK to %lluM", name, text,
			    (unsigned long long)min >> 10, (unsigned long long)max >> 20);
	*out = (size_t)v;
	return 0;
}

static int take_duration(const char *name, const char *text, unsigned *out)
{
	static const uint64_t factors[] = {1, 60, 3600, 86400};
	uint64_t v;

	if (!text)
		return 0;
	if (!parse_number(text, "smhd", factors, &v))
		return fail("%s: %s: a duration is a number with s, m, h or d, as in 1h", name,
			    text);
	if (!v || v > EXPIRES_MAX)
		return fail("%s: %s: must be 1s to %llud", name, text, EXPIRES_MAX / 86400);
	*out = (unsigned)v;
	return 0;
}

static int take_compress(const char *name, const char *text, int *out)
{
	uint64_t v;

	if (!text)
		return 0;
	if (!parse_number(text, "", NULL, &v) || v > COMPRESS_MAX)
		return fail("%s: %s: a level is 0 to %d", name, text, COMPRESS_MAX);
	*out = (int)v;
	return 0;
}

static size_t round_up_power_of_two(size_t v)
{
	size_t p = 1;

	while (p < v)
		p <<= 1;
	return p;
}

/* HOST, HOST:PORT, [ADDR] or [ADDR]:PORT. *port stays 0 when it is not said. */
static int split_host(const char *name, const char *text, char **host, uint16_t *port)
{
	const char *begin = text, *end, *colon;

	if (*text == '[') {
		begin = text + 1;
		end = strchr(begin, ']');
		if (!end || (end[1] && end[1] != ':'))
			return fail("%s: %s: an IPv6 address is written [ADDR] or [ADDR]:PORT",
				    name, text);
		colon = end[1] ? end + 1 : NULL;
	} else {
		colon = strchr(text, ':');
		end = colon ? colon : text + strlen(text);
		if (colon && strchr(colon + 1, ':'))
			return fail("%s: %s: an IPv6 address is written [ADDR] or [ADDR]:PORT",
				    name, text);
	}
	if (end == begin || memchr(begin, ' ', (size_t)(end - begin)))
		return fail("%s: %s: a host name or address is needed", name, text);
	*host = strndup(begin, (size_t)(end - begin));
	if (!*host)
		return fail("out of memory");
	return colon ? take_port(name, colon + 1, port) : 0;
}

static bool is_address(const char *text)
{
	uint8_t bin[sizeof(struct in6_addr)];
	char plain[INET6_ADDRSTRLEN];
	size_t n = strcspn(text, "%"); /* fe80::1%eth0 */

	if (n >= sizeof(plain))
		return false;
	memcpy(plain, text, n);
	plain[n] = '\0';
	return inet_pton(AF_INET6, plain, bin) == 1 ||
	       (!text[n] && inet_pton(AF_INET, plain, bin) == 1);
}

static int take_listen(const char *name, const char *text, char **out)
{
	size_t n;

	if (!text)
		return 0;
	n = strlen(text);
	*out = *text == '[' && text[n - 1] == ']' ? strndup(text + 1, n - 2) : strdup(text);
	if (!*out)
		return fail("out of memory");
	if (!is_address(*out))
		return fail("%s: %s: an IP address is needed (the port is told by itself)", name,
			    text);
	return 0;
}

static int check_iface(const char *name, const char *iface)
{
	if (strlen(iface) < IFNAMSIZ && !strpbrk(iface, "/ \t"))
		return 0;
	return fail("%s: %s: not an interface name; list them with `ip link`", name, iface);
}

/*
 * Values of the file are checked by themselves first, also those that the command line overrides:
 * so that a message names the file, and a mistake in it does not wait for the day it matters.
 */
struct file_check {
	const char *file;
	char label[256];
};

static const char *label(struct file_check *c, const char *key)
{
	snprintf(c->label, sizeof(c->label), "%s: %s", c->file, key);
	return c->label;
}

static int check_file_words(struct file_check *c, const struct settings *f, struct options *o)
{
	uint16_t port = 0;
	int err = 0;

	if (f->interface)
		err = check_iface(label(c, "interface"), f->interface);
	for (unsigned i = 0; !err && i < f->output_count; i++)
		err = check_iface(label(c, "output"), f->output[i]);
	if (!err && f->to)
		err = split_host(label(c, "to"), f->to, &o->host, &port);
	if (!err && f->port)
		err = take_port(label(c, "port"), f->port, &port);
	return err ? err : take_listen(label(c, "listen"), f->listen, &o->listen_addr);
}

static int check_file_amounts(struct file_check *c, const struct settings *f, struct options *o)
{
	int err = take_compress(label(c, "compress"), f->compress, &o->zstd_level);

	if (!err)
		err = take_size(label(c, "queue"), f->queue, QUEUE_MIN, QUEUE_MAX, &o->queue_bytes);
	if (!err)
		err = take_size(label(c, "ring"), f->ring, RING_MIN, RING_MAX, &o->ring_bytes);
	return err ? err : take_duration(label(c, "expires"), f->expires, &o->token_ttl_s);
}

static int check_file(const char *name, const struct settings *file)
{
	struct file_check c = {.file = name};
	struct options scratch = {0};
	int err = check_file_words(&c, file, &scratch);

	if (!err)
		err = check_file_amounts(&c, file, &scratch);
	options_fini(&scratch);
	return err;
}

/* Outputs */

static int add_sink(struct options *o, const char *kind, const char *target)
{
	struct sink_conf *c = &o->sinks[o->n_sinks];

	if (o->n_sinks == SINKS_MAX)
		return fail("%s: at most %d outputs are possible", target, SINKS_MAX);
	for (unsigned i = 0; i < o->n_sinks; i++)
		if (!strcmp(o->sinks[i].kind, kind) && !strcmp(o->sinks[i].target, target))
			return fail("%s: the same output is named twice", target);
	c->target = strdup(target);
	if (!c->target)
		return fail("out of memory");
	c->kind = kind;
	o->n_sinks++;
	return 0;
}

static int add_iface(struct options *o, const char *iface)
{
	int err = check_iface("-o", iface);

	if (err)
		return err;
	if (!strcmp(iface, "lo"))
		return fail("-o lo: this host would receive its own mirrored packets; choose an "
			    "interface "
			    "that carries nothing else");
	if (o->iface && !strcmp(iface, o->iface))
		return fail("-o %s: is the monitored interface: mirrored packets would mix with "
			    "the real "
			    "ones of the same connection and damage both; choose another",
			    iface);
	return add_sink(o, "iface", iface);
}

static int take_outputs(struct options *o, const struct settings *s)
{
	bool stdout_taken = false;
	int err = 0;

	for (unsigned i = 0; !err && i < s->output_count; i++)
		err = add_iface(o, s->output[i]);
	for (unsigned i = 0; !err && i < s->write_count; i++) {
		stdout_taken |= !strcmp(s->write[i], "-");
		err = add_sink(o, "pcap", s->write[i]);
	}
	if (!err && is_on(s->print) && stdout_taken)
		return fail("--print: standard output is taken by -w -");
	if (!err && (is_on(s->print) || (o->mode == MODE_ALONE && !o->n_sinks)))
		err = add_sink(o, "text", "-");
	return err;
}

/* Modes */

#define IN(mode) (1u << (mode))

/* An option said on the command line that means nothing in this mode is a misunderstanding. */
static int check_fits(enum options_mode mode, const struct settings *cli)
{
	const unsigned mirror = IN(MODE_AGENT) | IN(MODE_ALONE);
	const unsigned tunnel = IN(MODE_AGENT) | IN(MODE_COLLECTOR);
	const unsigned people = IN(MODE_ENROLL) | IN(MODE_TOKEN);
	const struct {
		const void *said;
		const char *name;
		unsigned modes;
	} rules[] = {
		{cli->interface, "-I", mirror},
		{cli->to, "-t", IN(MODE_AGENT)},
		{cli->collect, "-C", IN(MODE_COLLECTOR)},
		{cli->output_count ? cli->output : NULL, "-o", ~people},
		{cli->write_count ? cli->write : NULL, "-w", ~people},
		{cli->print, "--print", ~people},
		{cli->port, "-p", tunnel | IN(MODE_ENROLL)},
		{cli->listen, "--listen", IN(MODE_COLLECTOR)},
		{cli->filter, "a filter", mirror},
		{cli->ca, "--ca", tunnel},
		{cli->cert, "--cert", tunnel},
		{cli->key, "--key", tunnel},
		{cli->insecure, "--insecure", tunnel},
		{cli->compress, "--compress", IN(MODE_AGENT)},
		{cli->queue, "--queue", mirror},
		{cli->ring, "--ring", mirror},
		{cli->expires, "--expires", IN(MODE_TOKEN)},
	};
	static const char *const names[] = {
		[MODE_AGENT] = "-t",      [MODE_ALONE] = "-I without -t", [MODE_COLLECTOR] = "-C",
		[MODE_ENROLL] = "enroll", [MODE_TOKEN] = "token",
	};

	for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++)
		if (rules[i].said && !(rules[i].modes & IN(mode)))
			return fail("%s: has no meaning with %s", rules[i].name, names[mode]);
	return 0;
}

static int choose_mode(const struct settings *s, enum options_mode *mode)
{
	if (is_on(s->collect)) {
		if (s->to)
			return fail("-C with -t: passing on to a further collector is not "
				    "available in this "
				    "version; use -C with -o, -w or --print");
		if (s->interface)
			return fail("-C with -I %s: a collector monitors no interface; say one of "
				    "them, or run "
				    "two sslcollector",
				    s->interface);
		if (!has_output(s))
			return fail("-C: where to? Add -o IFACE, -w FILE or --print");
		*mode = MODE_COLLECTOR;
		return 0;
	}
	if (!s->interface)
		return fail(
			"say what to mirror with -I IFACE (or -I any), or -C to be a collector");
	if (s->to && has_output(s))
		return fail("-t with -o, -w or --print: an endpoint either sends to a collector or "
			    "makes "
			    "packets itself; say one of them");
	*mode = s->to ? MODE_AGENT : MODE_ALONE;
	return 0;
}

static int take_target(struct options *o, const struct settings *s, const struct settings *cli)
{
	uint16_t in_host = 0, in_port = 0;
	int err = s->to ? split_host("-t", s->to, &o->host, &in_host) : 0;

	if (!err && s->port)
		err = take_port("-p", s->port, &in_port);
	if (err)
		return err;
	if (in_host && in_port && in_host != in_port && !cli->to == !cli->port)
		return fail("-t %s with -p %s: two different ports", s->to, s->port);
	if (cli->port && in_port)
		o->port = in_port;
	else if (in_host || in_port)
		o->port = in_host ? in_host : in_port;
	return 0;
}

static int take_files(struct options *o, const struct settings *s)
{
	int n = !!s->ca + !!s->cert + !!s->key;
	int err;

	if (n && n != 3)
		return fail("--ca, --cert and --key go together; missing:%s%s%s",
			    s->ca ? "" : " --ca", s->cert ? "" : " --cert", s->key ? "" : " --key");
	err = keep(&o->ca, s->ca);
	if (!err)
		err = keep(&o->cert, s->cert);
	if (!err)
		err = keep(&o->key, s->key);
	return err;
}

static int take_amounts(struct options *o, const struct settings *s)
{
	int err = take_compress("--compress", s->compress, &o->zstd_level);

	if (!err)
		err = take_size("--queue", s->queue, QUEUE_MIN, QUEUE_MAX, &o->queue_bytes);
	if (!err)
		err = take_size("--ring", s->ring, RING_MIN, RING_MAX, &o->ring_bytes);
	if (!err)
		err = take_duration("--expires", s->expires, &o->token_ttl_s);
	o->ring_bytes = round_up_power_of_two(o->ring_bytes);
	return err;
}

static int take_common(struct options *o, const struct settings *s)
{
	int err = keep(&o->state_dir, s->state_dir ? s->state_dir : STATE_DIR_DEFAULT);

	o->verbose = is_on(s->verbose);
	o->insecure = is_on(s->insecure);
	if (!err)
		err = take_files(o, s);
	if (!err)
		err = take_amounts(o, s);
	return err;
}

static int take_mirror(struct options *o, const struct settings *s)
{
	int err = check_iface("-I", s->interface);

	if (!err)
		err = keep(&o->iface, s->interface);
	if (!err)
		err = keep(&o->filter, s->filter);
	return err;
}

static int take_run(struct options *o, const struct settings *s, const struct settings *cli)
{
	int err = choose_mode(s, &o->mode);

	if (!err)
		err = check_fits(o->mode, cli);
	if (!err && o->mode != MODE_COLLECTOR)
		err = take_mirror(o, s);
	if (!err && o->mode == MODE_COLLECTOR)
		err = take_listen("--listen", s->listen, &o->listen_addr);
	if (!err)
		err = take_target(o, s, cli);
	return err ? err : take_outputs(o, s);
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

static int take_enroll(struct options *o, struct settings *s, const struct cli *cli)
{
	int err;

	o->mode = MODE_ENROLL;
	err = check_fits(o->mode, &cli->set);
	if (err)
		return err;
	if (cli->n_words != 3)
		return fail(
			"enroll: needs HOST[:PORT] and TOKEN (sslcollector token prints one at the "
			"collector)");
	s->to = cli->words[1];
	if (strlen(cli->words[2]) == 0)
		return fail("enroll: the token is empty");
	err = keep(&o->token, cli->words[2]);
	return err ? err
		   : take_target(o, s, &(struct settings){.to = s->to, .port = cli->set.port});
}

static int take_token(struct options *o, const struct cli *cli)
{
	o->mode = MODE_TOKEN;
	if (cli->n_words != 1)
		return fail("token: takes no further word, but got %s", cli->words[1]);
	return check_fits(o->mode, &cli->set);
}

static int take_words(struct options *o, struct settings *s, struct cli *cli)
{
	char *filter;
	int err;

	if (cli->n_words && !strcmp(cli->words[0], "enroll"))
		return take_enroll(o, s, cli);
	if (cli->n_words && !strcmp(cli->words[0], "token"))
		return take_token(o, cli);
	if (!cli->n_words)
		return take_run(o, s, &cli->set);
	filter = join(cli->words, cli->n_words);
	if (!filter)
		return fail("out of memory");
	cli->set.filter = filter;
	s->filter = filter;
	err = take_run(o, s, &cli->set);
	free(filter);
	return err;
}

static int build(struct options *o, struct cli *cli, struct settings *file)
{
	struct settings s = cli->set, said = {0};
	int err;

	if (file) {
		said = *file; /* a copy: what is forgotten in it still belongs to libcyaml */
		forget_contradicted(&said, &cli->set);
		merge(&s, &said);
	}
	err = take_common(o, &s);
	return err ? err : take_words(o, &s, cli);
}

int options_parse(struct options *o, int argc, char **argv)
{
	struct cli cli = {.set = {0}};
	struct settings *file = NULL;
	int ret;

	*o = (struct options){
		.port = SSLC_PORT,
		.zstd_level = COMPRESS_DEFAULT,
		.queue_bytes = QUEUE_DEFAULT,
		.ring_bytes = RING_DEFAULT,
		.token_ttl_s = EXPIRES_DEFAULT,
	};
	ret = parse_argv(&cli, o, argc, argv);
	if (ret)
		return ret < 0 ? ret : 0;
	ret = load_file(&file, cli.config);
	if (!ret && file)
		ret = check_file(cli.config ? cli.config : CONFIG_DEFAULT, file);
	if (!ret)
		ret = build(o, &cli, file);
	free_file(file);
	if (ret)
		options_fini(o);
	return ret;
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
	free(o->ca);
	free(o->cert);
	free(o->key);
	memset(o, 0, sizeof(*o));
}
