/* SPDX-License-Identifier: Apache-2.0 */
/*
 * audit: whether the plaintext of a TLS connection explains what its socket carried. The kernel's
 * own counters against ours: shows holes in capture that nothing else would show.
 */
#ifndef SSLC_AGENT_AUDIT_H
#define SSLC_AGENT_AUDIT_H

#include <stdint.h>

/* One direction of one connection. */
struct audit {
	uint64_t plain; /* plaintext bytes that TLS calls moved, lost ones included */
	uint64_t calls; /* those calls */
	uint64_t wire;  /* bytes that the socket took from, or gave to, the process meanwhile */
};

enum audit_verdict {
	AUDIT_FITS,
	AUDIT_MISSED, /* the socket carried more than the calls explain: some were not seen */
	AUDIT_DOUBLE, /* the calls say more than the socket carried: some were seen twice */
};

/*
 * What a connection may carry beside application data, in each direction: handshakes with chains of
 * certificates, tickets, alerts; what is read from the socket and never asked for by the program.
 */
#define AUDIT_ALLOWANCE 65536u
/* What a record adds at most (RFC 5246, 6.2.3.2: header, IV, SHA-384 MAC, padding of one block). */
#define AUDIT_RECORD 85u
/* Records of one call are not smaller (RFC 8449, 4; RFC 6066, 4), unless there are no more bytes.
 */
#define AUDIT_SMALLEST 512u

/** TLS inside TLS adds its records twice: layers is 1 or 2. */
enum audit_verdict audit_judge(const struct audit *a, unsigned layers);

#endif
