/* SPDX-License-Identifier: Apache-2.0 */
/* run: a command with the preloaded library in it. */
#ifndef SSLC_AGENT_RUN_H
#define SSLC_AGENT_RUN_H

#include <limits.h>
#include <stdbool.h>

/**
 * Become the command, a list that ends with NULL, with libsslcollector-preload.so before what
 * LD_PRELOAD names already. Says on stderr what it does, and when no agent serves run_dir. Returns
 * only when it failed: exit status 127 (no such command), 126 (it cannot be run) or 1 (logged).
 */
int run_command(const char *run_dir, char **command);
/** Where the preloaded library is: beside this program, or installed. False: nowhere. */
bool run_find_library(char out[PATH_MAX]) __attribute__((warn_unused_result));

#endif
