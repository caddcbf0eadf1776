/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offload: whether a network interface leaves checksums, and with them the cutting of large frames,
 * to others. One that does not gets packets as they are on a wire: the kernel cuts a large frame
 * and sums it before anyone sees it. Asks and tells by ethtool's ioctl(2).
 */
#ifndef SSLC_COLLECTOR_OFFLOAD_H
#define SSLC_COLLECTOR_OFFLOAD_H

#include <stdbool.h>

#include "base/buf.h"

/** 1: it does, 0: it does not, or -errno. */
int offload_is_on(const char *interface) WARN_UNUSED;
/** From now on it does not, for anybody's packets. 0, -EOPNOTSUPP: it cannot; or -errno. */
int offload_switch_off(const char *interface) WARN_UNUSED;

#endif
