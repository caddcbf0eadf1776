/* SPDX-License-Identifier: Apache-2.0 */
/* process: what /proc says about the owner of a connection. The process may be gone at any moment.
 */
#ifndef SSLC_AGENT_PROCESS_H
#define SSLC_AGENT_PROCESS_H

#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>

#include "event.h"

/** Path of the executable, or "". */
void process_exe(unsigned pid, char *out, size_t len);
/** Container id, its first 12 digits, from the control group's name; "" outside containers. */
void process_container(unsigned pid, char *out, size_t len);
/** Whether a TCP socket of the process's network namespace listens on the local port of `open`. */
bool process_listens(unsigned pid, const struct sslc_ev_open *open);

#endif
