/* SPDX-License-Identifier: Apache-2.0 */
/*
 * filter: which connections are mirrored: those of an interface (-I) that a pcap filter accepts.
 * Judged once a connection, on the client's SYN.
 */
#ifndef SSLC_AGENT_FILTER_H
#define SSLC_AGENT_FILTER_H

#include <linux/types.h>
#include <stdbool.h>

#include "event.h"

struct filter;

/**
 * iface  a name, or "any". A named interface takes connections of this process's own network
 *        namespace whose local address is one of the interface's, or whose route to the peer uses
 * it. expr   pcap-filter(7), or NULL for all. 0; -ENODEV unknown interface, -EINVAL wrong filter,
 * other -errno; each logged.
 */
int filter_new(struct filter **out, const char *iface, const char *expr)
	__attribute__((warn_unused_result));
bool filter_wants(struct filter *f, const struct sslc_ev_open *open);
/** About once a second: addresses and index of the interface may have changed. */
void filter_refresh(struct filter *f);
void filter_free(struct filter *f);

#endif
