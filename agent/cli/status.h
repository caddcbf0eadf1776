/* SPDX-License-Identifier: Apache-2.0 */
/* status: `sslcollector status`: how full the agents' buffers are and were, and what was lost. */
#ifndef SSLC_AGENT_STATUS_H
#define SSLC_AGENT_STATUS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "capture.h"

/**
 * dir: where agents listen (control.h). Prints text, or an array of their answers, on stdout. Exit
 * status: 0; 1 when no agent answered, or stdout failed.
 */
int status_run(const char *dir, bool as_json);

/** The agent's side: its answer, with all counters that speak of loss. NULL: out of memory. */
json_t *status_json(const struct capture_stats *stats);

/** n answers as text; what is missing or malformed in them counts as 0. */
void status_print(FILE *out, json_t *const answers[], size_t n);

#endif
