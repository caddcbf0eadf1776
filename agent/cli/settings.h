/* SPDX-License-Identifier: Apache-2.0 */
/*
 * settings: everything that can be said, on the command line and in the file, described once in one
 * table. The words come in as they were said (struct settings, from options.c and conf.c) and leave
 * as values in struct options.
 */
#ifndef SSLC_AGENT_SETTINGS_H
#define SSLC_AGENT_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>

#include "cli/options.h"

#define CONFIG_DEFAULT    "/etc/sslcollector/sslcollector.yaml"
#define STATE_DIR_DEFAULT "/var/lib/sslcollector"
#define RUN_DIR_DEFAULT   "/run/sslcollector"

#define SETTINGS_MAX 48 /* rows of the table, its end included */

/* What was said about one setting; its kind tells the member that counts. All zero: nothing. What
 * the pointers reach belongs to argv, or to the file as it was loaded. */
struct said {
	union {
		char *word;
		char **words; /* n of them */
		bool *flag;
		void *any; /* NULL: nothing was said */
	};
	unsigned n;
};

struct settings {
	struct said interface, filter, collect, listen, port;
	struct said to, output, write, pcap_over_ip, pcap_over_ip_to, vxlan, geneve, print,
		port_map, stream_log;
	struct said state_dir, ca, cert, key, insecure, expires;
	struct said starttls, tls_in_tls, compress, queue, ring, backlog, shed, max_overhead,
		flow_hook, probes;
	struct said preload_ring, capture, nice, max_sessions, workers, rings;
	struct said run_dir, json, system_wide;
	struct said config, verbose, help, version;
};

enum setting_kind {
	KIND_WORD, /* once, with a value */
	KIND_LIST, /* repeated, each with a value; in the file a list */
	KIND_FLAG, /* without a value; in the file yes or no */
	KINDS,
};

enum setting_place {
	PLACE_BOTH,
	PLACE_ARGV,
	PLACE_FILE, /* on the command line it has a form of its own */
};

struct setting {
	const char *name;   /* the long option, and the key in the file */
	const char *spoken; /* messages say: "-I"; "--ring" where there is no letter */
	enum setting_kind kind;
	enum setting_place place;
	unsigned modes; /* IN(mode) | …: where it has a meaning */
	size_t offset;  /* its struct said in struct settings */
	/* Puts one word (a flag that is on: NULL) where it belongs. 0, or -EINVAL after one line.
	 * NULL: it decides about the others and is asked for by its name. */
	int (*take)(struct options *o, const char *name, const char *word);
	const char *group; /* heading in the help */
	const char *value; /* the help's word for it, or NULL */
	const char *help;  /* NULL: not in the list of options */
};

#define IN(mode) (1u << (mode))

extern const struct setting settings_table[]; /* ends with name == NULL */

/** The place of one setting in `s`. */
static inline struct said *settings_slot(struct settings *s, const struct setting *d)
{
	return (struct said *)((char *)s + d->offset);
}

static inline bool settings_is_on(const struct said *flag)
{
	return flag->flag && *flag->flag;
}

/** What `s` does not say is taken over from `file`. The pointers stay their owners'. */
void settings_merge(struct settings *s, struct settings *file);

/**
 * Check all words of `s` that have a meaning in one of `modes`, in the order of the table, and put
 * them into `o`, which then owns copies. `file`: its name, when `s` is what it says, for messages;
 * or NULL. 0, or -EINVAL after one line on stderr.
 */
int settings_take(struct settings *s, unsigned modes, const char *file, struct options *o)
	__attribute__((warn_unused_result));

/** The list of options in the help. */
void settings_print_help(void);

#endif
