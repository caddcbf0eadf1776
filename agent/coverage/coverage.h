/* SPDX-License-Identifier: Apache-2.0 */
/*
 * coverage: which processes hold TLS, how much of it is mirrored, and why the rest is not. Accounts
 * of connections and what /proc says come in, JSON goes out.
 */
#ifndef SSLC_AGENT_COVERAGE_H
#define SSLC_AGENT_COVERAGE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "capture.h"
#include "flow.h"

struct coverage;

#define COVERAGE_PROCESSES_MAX 4096 /* dead ones go first, then those without news for longest */
#define COVERAGE_FILES_MAX     4096 /* library files, and programs that were searched */
#define COVERAGE_DEAD_S        600  /* how long a process stays listed after its end */

struct coverage_conf {
	bool has_agent;        /* an agent runs; else every reason is that there is none */
	uint64_t search_max;   /* bytes to read of one program in search of TLS code */
	uint64_t search_total; /* of all programs together; beyond it they are not searched */
};

int coverage_new(struct coverage **out, const struct coverage_conf *conf)
	__attribute__((warn_unused_result));
void coverage_free(struct coverage *c);

/**
 * What came of probing a file, of any kind; those without TLS code are not kept. Said again about
 * the same file, it replaces what was said.
 */
void coverage_file(struct coverage *c, uint64_t dev, uint64_t ino, const char *path,
		   const struct capture_file *found);

/* Accounts: flow.h. An opened connection makes its process known, while it can be asked. */
void coverage_opened(struct coverage *c, const struct flow_account *a);
void coverage_ended(struct coverage *c, const struct flow_account *a);
void coverage_unbound(struct coverage *c, const struct sslc_conn_id *conn, uint64_t bytes);
/** Probes were taken off a process, or put on again, or it is gone. */
void coverage_pause(struct coverage *c, const struct capture_pause *p);
/** About once a second: notices, little by little, which processes are gone. now_ns: monotonic. */
void coverage_tick(struct coverage *c, uint64_t now_ns);

/** Look at one process: it is listed if it has TLS code. Reads /proc and its program. */
void coverage_look(struct coverage *c, unsigned pid);
/** Programs that were not searched, because search_total was used up. */
uint64_t coverage_unsearched(const struct coverage *c);

/**
 * Before coverage_json() or coverage_count(): forget the living connections told so far; tell them
 * with coverage_live().
 */
void coverage_live_begin(struct coverage *c);
void coverage_live(void *coverage, const struct flow_account *a);
/** Sets the gauges coverage_processes_*. */
void coverage_count(struct coverage *c);
/**
 * {"processes": [...], "libraries": [...], "forgotten": n}, as sslcollector(8) describes it; NULL
 * when out of memory. The caller's to json_decref().
 */
json_t *coverage_json(struct coverage *c);

#endif
