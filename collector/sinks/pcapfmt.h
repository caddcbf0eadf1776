/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pcapfmt: capture file formats as bytes. Packets come in, blocks of pcapng or records of classic
 * pcap are appended to a buffer. No I/O.
 */
#ifndef SSLC_COLLECTOR_PCAPFMT_H
#define SSLC_COLLECTOR_PCAPFMT_H

#include "sink.h"

#define PCAPFMT_SNAPLEN     262144
#define PCAPFMT_COMMENT_MAX 16384u /* escaping makes at most 4 of 1; an option has 16 bits */
#define PCAPFMT_OVERHEAD    64u    /* at most this around a packet and its comment */

struct pcap_format {
	/* What a file begins with. */
	void (*header)(struct buf *out);
	/* One packet. comment: may be empty; classic pcap has no place for it. */
	void (*packet)(struct buf *out, struct span l2, uint64_t ts_ns, struct span comment);
	/* Bytes of the packet's block or record that begins at `block`. */
	size_t (*block_len)(const uint8_t *block);
	bool has_comments;
};

extern const struct pcap_format pcapfmt_ng;      /* nanoseconds */
extern const struct pcap_format pcapfmt_classic; /* microseconds, which every reader takes */

/** pid=… comm=… exe=… host=… flow=… confidence=… and, when packets of that shape show another one,
 * port=…: words, so that foreign names cannot forge a field. */
void pcapfmt_comment(struct buf *out, const struct sink_flow *flow, const struct sink_shape *shape);

#endif
