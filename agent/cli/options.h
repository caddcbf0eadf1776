/* SPDX-License-Identifier: Apache-2.0 */
/*
 * options: argv and /etc/sslcollector/sslcollector.yaml → one struct. The command line wins. Wrong
 * usage is one line that says what to do.
 */
#ifndef SSLC_AGENT_OPTIONS_H
#define SSLC_AGENT_OPTIONS_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../../collector/sink.h"
#include "capture.h"
#include "match/prelude.h"

enum options_mode {
	MODE_AGENT,      /* -I … -t HOST */
	MODE_ALONE,      /* -I … with -o, -w or --print */
	MODE_COLLECTOR,  /* -C with -o, -w or --print */
	MODE_AGGREGATOR, /* -C -t HOST: pass on */
	MODE_ENROLL,     /* enroll HOST TOKEN */
	MODE_TOKEN,      /* token: print a new enrolment token (on the collector's host) */
	MODE_COVERAGE,   /* coverage: who is mirrored on this host, and who is not */
	MODE_STATUS,     /* status: how full the agents' buffers are, and what was lost */
	MODE_DOCTOR,     /* doctor: where files would be probed, and at what price */
	MODE_RUN,        /* run: a command with the preloaded library */
	MODE_ENABLE,     /* enable UNIT…: services with the preloaded library */
	MODE_DISABLE,    /* disable UNIT… */
	MODE_HELP,
	MODE_VERSION,
};

#define NICE_DEFAULT INT_MIN

#define RING_MIN (64ull << 10) /* one large TLS record with its headers must fit */

struct options { /* owns its strings; options_fini() frees them */
	enum options_mode mode;
	char *iface;          /* -I */
	char *filter;         /* trailing arguments joined by spaces; NULL: none */
	char *host;           /* -t, or enroll's HOST */
	uint16_t port;        /* -t HOST:PORT or -p; default SSLC_PORT */
	uint16_t onward_port; /* -C -t: of -t HOST:PORT; its own port is the one above */
	bool onward;          /* enroll -C: as a collector that passes on */
	char *token;
	char *listen_addr; /* -C: --listen ADDR */
	char *state_dir;   /* --state-dir; default /var/lib/sslcollector */
	char *run_dir;     /* --run-dir; default /run/sslcollector */
	bool json;         /* coverage --json, status --json */
	char **files;      /* doctor FILE…: borrowed from argv */
	unsigned n_files;
	char **command; /* run COMMAND…: borrowed from argv, ends with NULL */
	char **units;   /* enable UNIT…, disable UNIT…: the same */
	unsigned n_units;
	bool system_wide; /* enable --system-wide, disable --system-wide: instead of units */
	char *ca, *cert, *key;
	bool insecure;
	int zstd_level;             /* --compress N, 0 to 19; default 1 */
	size_t queue_bytes;         /* --queue SIZE (K, M, G suffix); default 64M */
	unsigned n_rings;           /* --rings N: 1, 2, 4 or 8; 0: nothing was said */
	size_t ring_bytes;          /* --ring SIZE; rounded up to a power of two; default 64M */
	size_t backlog_bytes;       /* --backlog SIZE; the same; default 16M */
	unsigned sources;           /* --capture: CAPTURE_…; default both */
	size_t shim_bytes;          /* --preload-ring SIZE; rounded up; default 16M */
	enum sslc_shed shed;        /* --shed; default newest */
	enum flow_hook flow_hook;   /* --flow-hook; default auto */
	enum probes probes;         /* --probes; default auto */
	enum prelude_mode starttls; /* --starttls; default stitch */
	bool outer_tls;             /* --tls-in-tls outer; default peel */
	unsigned max_overhead;      /* --max-overhead N%[:DURATION]; 0: no limit */
	unsigned overhead_retry_s;  /* default 60 */
	unsigned max_sessions;      /* --max-sessions N; 0: the default */
	int nice;                   /* --nice N, -20 to 19; NICE_DEFAULT: nothing was said */
	unsigned workers;           /* --workers N; 0: nothing was said */
	unsigned token_ttl_s;       /* token --expires DURATION (s, m, h, d); default 1h */
	bool verbose;
	bool quiet; /* no option: standard error is for errors alone */
	struct sink_conf sinks[SINKS_MAX];
	unsigned n_sinks;
	struct sink_shape
		port_map; /* --port-map: its ports, for outputs that have none of their own */
};

/**
 * 0, or -EINVAL after one line on stderr (exit status 2). The configuration file is read when
 * --config names it, or when the default exists; an explicit one that cannot be read is an error.
 */
int options_parse(struct options *o, int argc, char **argv) __attribute__((warn_unused_result));
void options_fini(struct options *o);
/** Whether an output puts packets on this interface. */
bool options_has_iface(const struct sink_conf *c, const char *iface);
void options_print_help(void);
void options_print_version(void);

#endif
