/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* record: what TLS records look like (RFC 8446, 5.1). */
#ifndef SSLC_BPF_RECORD_H
#define SSLC_BPF_RECORD_H

#define RECORD_MAX      (16384u + 2048u) /* RFC 5246, 6.2.3 */
#define TLS_HEADER      5u
#define TLS_HANDSHAKE   22
#define TLS_APPLICATION 23

static __always_inline bool is_record(const __u8 *h)
{
	__u32 len = h[3] << 8 | h[4];

	return h[0] >= 20 && h[0] <= 23 && h[1] == 3 && h[2] <= 4 && len && len <= RECORD_MAX;
}

/* A ClientHello or ServerHello begins here (RFC 8446, 4 and 5.1). */
static __always_inline bool is_hello(const __u8 *h)
{
	return is_record(h) && h[0] == TLS_HANDSHAKE && (h[5] == 1 || h[5] == 2);
}

#endif
