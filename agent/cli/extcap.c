/* SPDX-License-Identifier: Apache-2.0 */
/*
 * extcap: Wireshark's calls in, its grammar out (extcap(4)). A call is recognised by options that
 * nothing else of ours has. What is not known is passed over: Wireshark's versions differ.
 */
#include "cli/extcap.h"

#include <getopt.h>
#include <pcap/pcap.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cli/relay.h"
#include "cli/value.h"

#ifndef SSLC_VERSION
#define SSLC_VERSION "unknown"
#endif

#define LOCAL  "sslcollector"
#define REMOTE "sslcollector-remote"

#define MIRROR_DEFAULT    "any"
#define COLLECTOR_DEFAULT "127.0.0.1:57012"

struct call {
	bool interfaces, dlts, config, capture;
	const char *interface, *fifo, *filter;
	const char *mirror, *collector; /* our own: see answer_config() */
};

bool extcap_is_asked(int argc, char **argv)
{
	for (int i = 1; i < argc && argv[i][0] == '-' && strcmp(argv[i], "--") != 0; i++) {
		if (!strncmp(argv[i], "--extcap-", 9))
			return true;
		if (i + 1 < argc && argv[i + 1][0] != '-')
			i++; /* its value */
	}
	return false;
}

static void parse(struct call *c, int argc, char **argv)
{
	enum { INTERFACES = 1, INTERFACE, DLTS, CONFIG, FILTER, CAPTURE, FIFO, MIRROR, COLLECTOR };
	static const struct option names[] = {
		{"extcap-interfaces", no_argument, NULL, INTERFACES},
		{"extcap-interface", required_argument, NULL, INTERFACE},
		{"extcap-dlts", no_argument, NULL, DLTS},
		{"extcap-config", no_argument, NULL, CONFIG},
		{"extcap-capture-filter", required_argument, NULL, FILTER},
		{"capture", no_argument, NULL, CAPTURE},
		{"fifo", required_argument, NULL, FIFO},
		{"mirror", required_argument, NULL, MIRROR},
		{"collector", required_argument, NULL, COLLECTOR},
		{NULL, 0, NULL, 0},
	};
	int o;

	opterr = 0;
	optind = 0;
	while ((o = getopt_long(argc, argv, "", names, NULL)) != -1) {
		switch (o) {
		case INTERFACES:
			c->interfaces = true;
			break;
		case INTERFACE:
			c->interface = optarg;
			break;
		case DLTS:
			c->dlts = true;
			break;
		case CONFIG:
			c->config = true;
			break;
		case FILTER:
			c->filter = *optarg ? optarg : NULL;
			break;
		case CAPTURE:
			c->capture = true;
			break;
		case FIFO:
			c->fifo = optarg;
			break;
		case MIRROR:
			c->mirror = optarg;
			break;
		case COLLECTOR:
			c->collector = optarg;
			break;
		default: /* of another version of Wireshark */
			break;
		}
	}
}

/* Questions */

static int answer_interfaces(void)
{
	puts("extcap {version=" SSLC_VERSION "}");
	puts("interface {value=" LOCAL "}{display=TLS plaintext of this host}");
	puts("interface {value=" REMOTE "}{display=TLS plaintext from an sslcollector elsewhere}");
	return 0;
}

static int answer_dlts(void)
{
	puts("dlt {number=1}{name=EN10MB}{display=Ethernet}");
	return 0;
}

static int answer_config(bool is_remote)
{
	if (is_remote)
		puts("arg {number=0}{call=--collector}{display=Collector}{type=string}"
		     "{required=true}{default=" COLLECTOR_DEFAULT "}"
		     "{tooltip=HOST:PORT where sslcollector runs with --pcap-over-ip}");
	else
		puts("arg {number=0}{call=--mirror}{display=Connections that use}{type=string}"
		     "{default=" MIRROR_DEFAULT "}"
		     "{tooltip=A network interface, or any for all of them}");
	return 0;
}

/* Wireshark wants silence about a right one, and a reason for a wrong one. */
static int check_filter(const char *filter)
{
	pcap_t *p = pcap_open_dead(DLT_EN10MB, 262144);
	struct bpf_program prog;

	if (!p)
		return 1;
	if (pcap_compile(p, &prog, filter, 1, PCAP_NETMASK_UNKNOWN))
		puts(pcap_geterr(p));
	else
		pcap_freecode(&prog);
	pcap_close(p);
	return 0;
}

/* Captures */

static int capture_remote(const struct call *c)
{
	uint16_t port = 0;
	char *host = NULL;
	int err = value_host("Collector", c->collector ? c->collector : COLLECTOR_DEFAULT, &host,
			     &port);

	if (!err && !port)
		err = usage_error("Collector: %s: which port? Say HOST:PORT", c->collector);
	if (!err)
		err = relay_run(host, port, c->fifo, c->filter);
	free(host);
	return err < 0 ? 2 : err;
}

/* An output's target: commas and backslashes are escaped. */
static char *output_word(const char *fifo)
{
	static const char keys[] = ",stop-with-reader";
	char *word = malloc(2 * strlen(fifo) + sizeof(keys)), *p = word;

	if (!word)
		return NULL;
	for (; *fifo; fifo++) {
		if (*fifo == ',' || *fifo == '\\')
			*p++ = '\\';
		*p++ = *fifo;
	}
	memcpy(p, keys, sizeof(keys));
	return word;
}

static int capture_local(const struct call *c, char *program, char ***own, int *n)
{
	static char *argv[9];
	char *output = output_word(c->fifo);
	int i = 0;

	if (!output)
		return 1;
	argv[i++] = program;
	argv[i++] = "-I";
	argv[i++] = (char *)(c->mirror ? c->mirror : MIRROR_DEFAULT);
	argv[i++] = "-w";
	argv[i++] = output;
	if (c->filter) {
		argv[i++] = "--";
		argv[i++] = (char *)c->filter;
	}
	argv[i] = NULL;
	*own = argv;
	*n = i;
	return -1;
}

int extcap_answer(int argc, char **argv, char ***own, int *n)
{
	struct call c = {.interface = NULL};
	bool is_remote;

	parse(&c, argc, argv);
	if (c.interfaces)
		return answer_interfaces();
	is_remote = c.interface && !strcmp(c.interface, REMOTE);
	if (!is_remote && (!c.interface || strcmp(c.interface, LOCAL) != 0)) {
		log_error("extcap: %s: no such interface", c.interface ? c.interface : "(none)");
		return 1;
	}
	if (c.dlts)
		return answer_dlts();
	if (c.config)
		return answer_config(is_remote);
	if (!c.capture)
		return c.filter ? check_filter(c.filter) : 0;
	if (!c.fifo) {
		log_error("extcap: --capture without --fifo");
		return 1;
	}
	return is_remote ? capture_remote(&c) : capture_local(&c, argv[0], own, n);
}
