/* SPDX-License-Identifier: Apache-2.0 */
/*
 * report: `sslcollector coverage`. Asks every running agent of this host, looks at all processes
 * itself, and prints what is mirrored and why the rest is not.
 */
#ifndef SSLC_AGENT_REPORT_H
#define SSLC_AGENT_REPORT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

/**
 * dir: where agents listen (control.h). Prints a table, or JSON, on stdout. Exit status: 0; 1 when
 * no agent answered (what /proc tells is printed all the same), or stdout failed.
 */
int report_run(const char *dir, bool as_json);

/* The parts that do no I/O. */

/**
 * Agents' answers and what was seen without them → one array, for people's programs: objects of
 * "kind" "process" and "library". answers: n of them; what is malformed in them is left out. own:
 * coverage_json() of this process. All borrowed. NULL: out of memory.
 * Fuzzed: tests/fuzz/fuzz_report.c
 */
json_t *report_merge(json_t *const answers[], size_t n, const json_t *own);
/** That array as two tables. */
void report_print(FILE *out, const json_t *rows);

#endif
