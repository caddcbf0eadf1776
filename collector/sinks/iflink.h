/* SPDX-License-Identifier: Apache-2.0 */
/*
 * iflink: what the kernel says of a network interface, and a look at what is sent on it. Asks
 * rtnetlink and /proc/net/packet; changes nothing.
 */
#ifndef SSLC_COLLECTOR_IFLINK_H
#define SSLC_COLLECTOR_IFLINK_H

#include <stdbool.h>

#include "base/buf.h"

struct iflink {
	char kind[16]; /* "veth", "dummy", "bridge", …; empty: hardware, as far as one can tell */
	int peer;      /* where its packets arrive, in this namespace; 0: elsewhere */
	uint64_t tx_dropped; /* packets that it had taken */
};

/** 0, or -errno with nothing in *out. */
int iflink_query(int ifindex, struct iflink *out) WARN_UNUSED;
/** Whether some program in this namespace reads all packets of this very interface. */
bool iflink_is_listened(int ifindex);
/** Whether this host has an address there: an IPv4 one, or IPv6 beyond the link's own. */
bool iflink_is_addressed(const char *name);
/** A packet socket that reads all frames, also those sent here. fd, or -errno. */
int iflink_listen(int ifindex) WARN_UNUSED;
/** Whether this frame, of at most 256 bytes, comes out of such a socket within wait_ms. */
bool iflink_saw(int fd, struct span frame, unsigned wait_ms);

#endif
