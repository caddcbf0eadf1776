/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reason: why a program's TLS connections are not mirrored. One table: code, counter, words for
 * people, what they can do; and the decision, from what is known about the program.
 */
#ifndef SSLC_AGENT_REASON_H
#define SSLC_AGENT_REASON_H

#include <stdbool.h>
#include <stdint.h>

#include "coverage/family.h"

enum reason {
	REASON_NONE, /* all that was seen of it is mirrored */
	REASON_IDLE,
	REASON_FILTERED,
	REASON_STANDBY,
	REASON_ATTACHED_LATE,
	REASON_OVERHEAD,
	REASON_HELD_UNBOUND,
	REASON_UNSEEN_CALLS,
	REASON_UNEXPLAINED,
	REASON_JAVA,
	REASON_GO_UNSUPPORTED,
	REASON_STATIC_STRIPPED,
	REASON_UNSUPPORTED_LIBRARY,
	REASON_RUSTLS_OR_UNKNOWN,
	REASON_LIBRARY_NOT_PROBED,
	REASON_SECCOMP_HAZARD,
	REASON_EXCLUDED,
	REASON_NO_AGENT,
	REASONS,
};

/* What is known about one process. */
struct reason_facts {
	bool has_agent;   /* an agent runs that tells about this process */
	bool is_self;     /* it is this program */
	unsigned mapped;  /* FAMILY_BIT()s of the libraries that it has mapped */
	unsigned inside;  /* FAMILY_BIT()s of TLS code inside the program file */
	bool has_symbols; /* the program file names its TLS functions */
	bool is_probed;   /* a file that it has mapped has probes */
	bool is_paused;   /* its probes were taken off: they cost it too much */
	int error;        /* errno of a mapped TLS library that could not be probed; 0: none */
	/* Connections; each is in one of them. */
	uint64_t mirrored, filtered, standby, unmatched;
	uint64_t unmatched_late; /* part of unmatched: TLS had begun before it was watched */
	uint64_t unexplained;    /* part of mirrored: sockets that carried more than was captured */
	uint64_t unbound_bytes;  /* plaintext seen whose connection was not found */
};

/** Why not everything of this process is mirrored. */
enum reason reason_of(const struct reason_facts *f);
/** As in JSON and in the counter's name: "java". REASON_NONE: "captured". */
const char *reason_code(enum reason r);
/** One half sentence. */
const char *reason_words(enum reason r);
/** What to do about it, or "". */
const char *reason_advice(enum reason r);
/** How many processes have this reason now: its counter coverage_processes_CODE, where an agent can
 * have such processes at all. */
void reason_gauge(enum reason r, uint64_t processes);

#endif
