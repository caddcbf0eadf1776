/* SPDX-License-Identifier: Apache-2.0 */
/* doctor: for people: where library files would be probed, at what price, and why not better. */
#ifndef SSLC_AGENT_DOCTOR_H
#define SSLC_AGENT_DOCTOR_H

#include "capture.h"

/**
 * Print the probe sites of the files, or of all TLS libraries in the standard directories when
 * n_files is 0. Probes nothing. Returns the exit status: 1 when a file could not be read.
 */
int doctor_run(char *const files[], unsigned n_files, enum probes probes);

#endif
