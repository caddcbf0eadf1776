/* SPDX-License-Identifier: Apache-2.0 */
/* process: what /proc says about the owner of a connection. The process may be gone at any moment.
 */
#ifndef SSLC_AGENT_PROCESS_H
#define SSLC_AGENT_PROCESS_H

#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "event.h"

/** Path of the executable, or "". */
void process_exe(unsigned pid, char *out, size_t len);
/** Container id, its first 12 digits, from the control group's name; "" outside containers. */
void process_container(unsigned pid, char *out, size_t len);
/** Whether a TCP socket of the process's network namespace listens on the local port of `open`. */
bool process_listens(unsigned pid, const struct sslc_ev_open *open);

struct process_stat {
	char comm[16];
	uint64_t start_ticks; /* since boot: see process_ticks() */
	bool is_kernel;       /* a kernel thread */
};

/** False when there is no such process, or only its exit status is left. */
bool process_stat(unsigned pid, struct process_stat *out);
/** It has ended; before Linux 6.8 it is then one without descriptors. */
bool process_is_over(int pidfd);
/** A start time in the kernel's ns (struct sslc_conn_id) as /proc counts it. */
uint64_t process_ticks(uint64_t start_ns);

struct process_mapping {
	uint64_t from, to, offset; /* offset: in the file */
	uint64_t dev, ino;         /* ino 0: no file */
	bool is_code;
	const char *path; /* as the process named it; " (deleted)" may follow */
};
/** Each one, until `each` returns true. False when the process cannot be read. */
bool process_mappings(unsigned pid, bool (*each)(void *ctx, const struct process_mapping *m),
		      void *ctx);

/* A file that a process has mapped to execute; path is borrowed during the call. */
struct process_file {
	uint64_t dev, ino;
	const char *path; /* as the process named it; " (deleted)" may follow */
};
/** Each such file; one may be named several times. False when the process cannot be read. */
bool process_files(unsigned pid, void (*each)(void *ctx, const struct process_file *f), void *ctx);
/** Each process id there is, once. 0 or -errno. */
int process_each(void (*each)(void *ctx, unsigned pid), void *ctx);

#endif
