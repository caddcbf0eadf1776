/* SPDX-License-Identifier: Apache-2.0 */
/* price: what the exceptions cost that probes are made of, on this machine. */
#ifndef SSLC_AGENT_PRICE_H
#define SSLC_AGENT_PRICE_H

#include <linux/types.h>
#include <stdint.h>

#include "calls.h"

struct attach;

/**
 * After the skeleton is loaded: some thousand calls of functions of our own, in a child of our own,
 * with probes of its own; tens of milliseconds. The programs' own time is taken off. ns: by enum
 * sslc_price. 0; -errno when there could be no such child or no such probes.
 */
int price_measure(struct attach *a, uint32_t ns[SSLC_PRICES]) __attribute__((warn_unused_result));

#endif
