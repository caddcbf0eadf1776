/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gather: payload that follows on a frame, as forge makes them, goes onto its end and makes it a
 * large one. Works on headers alone; the payload is the caller's to move. No I/O.
 */
#ifndef SSLC_COLLECTOR_GATHER_H
#define SSLC_COLLECTOR_GATHER_H

#include "base/buf.h"

/* Bytes of a frame: a longer one is cut by the kernel, whatever the interface takes. */
#define GATHER_MAX 65535u

/**
 * front    a frame of `len` bytes in all, large or not, whose headers may be written.
 * head     the headers that `payload` more bytes would have in a frame of their own.
 * segment  payload bytes of a packet, once the frame is cut.
 * Returns how many of these bytes belong on the frame's end, from the first on: its lengths, flags
 * and checksums (TCP's: that of the pseudo header alone) say so now, and *ip_id is the id behind
 * its last packet (IPv4). 0: they are not of the same side of one connection or do not follow on
 * it, there is no more room, or it would be no large frame; nothing was changed.
 */
size_t gather(uint8_t *front, size_t len, struct span head, size_t payload, uint16_t segment,
	      uint16_t *ip_id) WARN_UNUSED;

#endif
