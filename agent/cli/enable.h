/* SPDX-License-Identifier: Apache-2.0 */
/* enable: services that are started with the preloaded library from now on, and no longer. */
#ifndef SSLC_AGENT_ENABLE_H
#define SSLC_AGENT_ENABLE_H

#include <stddef.h>

struct enable_conf {
	const char *root;    /* before every path; "" but in tests */
	const char *library; /* absolute path of libsslcollector-preload.so */
	const char *run_dir; /* the agent's */
};

/**
 * A drop-in below /etc/systemd/system for each of n units; ".service" is added to names that have
 * no type. Takes effect when the service manager has reloaded and the unit starts again: it says so
 * on stdout. A unit that is not installed, or whose own files set LD_PRELOAD, is refused. All or
 * none are looked at before the first is written. Logs its own errors. Returns the exit status: 0,
 * or 1.
 * Source: systemd.unit(5), systemd.exec(5).
 */
int enable_units(const struct enable_conf *c, char *const units[], size_t n);
/** Take those drop-ins away; a unit without one is no error. Exit status as above. */
int disable_units(const struct enable_conf *c, char *const units[], size_t n);

#endif
