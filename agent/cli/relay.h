/* SPDX-License-Identifier: Apache-2.0 */
/* relay: a capture that comes over TCP into a FIFO, until either end goes away or a signal comes.
 */
#ifndef SSLC_AGENT_RELAY_H
#define SSLC_AGENT_RELAY_H

#include <stdint.h>

/**
 * Connect to host:port, open the FIFO, copy what comes; with a filter (pcap-filter(7), or NULL)
 * only what it takes, as classic pcap. Returns the exit status: 0 when it was ended; 1 after a
 * line on stderr.
 */
int relay_run(const char *host, uint16_t port, const char *fifo, const char *filter);

#endif
