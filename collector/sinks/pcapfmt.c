/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pcapfmt: packets in, bytes of a capture file out. pcapng: draft-ietf-opsawg-pcapng, sections 4.1
 * to 4.3; classic: draft-ietf-opsawg-pcap. Both in native byte order: readers look at the magic.
 */
#include "sinks/pcapfmt.h"

#include <pcap/dlt.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "base/clock.h"

#ifndef SSLC_VERSION
#define SSLC_VERSION "unknown"
#endif

#define NG_SHB          0x0a0d0d0au
#define NG_IDB          1u
#define NG_EPB          6u
#define NG_BYTE_ORDER   0x1a2b3c4du
#define NG_OPT_END      0
#define NG_OPT_COMMENT  1
#define NG_SHB_HARDWARE 2
#define NG_SHB_OS       3
#define NG_SHB_USERAPPL 4
#define NG_IF_NAME      2
#define NG_IF_TSRESOL   9
#define CLASSIC_MAGIC   0xa1b2c3d4u
#define CLASSIC_RECORD  16u

static void put_u16(struct buf *b, uint16_t v)
{
	wr_bytes(b, &v, sizeof(v));
}

static void put_u32(struct buf *b, uint32_t v)
{
	wr_bytes(b, &v, sizeof(v));
}

/* pcapng */

static void put_padded(struct buf *b, struct span v)
{
	wr_bytes(b, v.p, v.len);
	wr_zero(b, -v.len & 3);
}

static void put_option(struct buf *b, uint16_t code, struct span value)
{
	put_u16(b, code);
	put_u16(b, (uint16_t)value.len);
	put_padded(b, value);
}

static size_t block_begin(struct buf *b, uint32_t type)
{
	size_t at = b->len;

	put_u32(b, type);
	put_u32(b, 0); /* length: see block_end() */
	return at;
}

static void block_end(struct buf *b, size_t at)
{
	uint32_t len = (uint32_t)(b->len - at) + 4;

	put_u32(b, len);
	if (!b->bad)
		memcpy(b->p + at + 4, &len, sizeof(len));
}

static void put_section(struct buf *b)
{
	size_t at = block_begin(b, NG_SHB);
	struct utsname u = {.machine = "unknown"};
	char os[sizeof(u.sysname) + sizeof(u.release) + 1];

	(void)uname(&u);
	snprintf(os, sizeof(os), "%s %s", u.sysname, u.release);
	put_u32(b, NG_BYTE_ORDER);
	put_u16(b, 1); /* version 1.0 */
	put_u16(b, 0);
	put_u32(b, UINT32_MAX); /* section length -1: not known */
	put_u32(b, UINT32_MAX);
	put_option(b, NG_SHB_HARDWARE, span_str(u.machine));
	put_option(b, NG_SHB_OS, span_str(os));
	put_option(b, NG_SHB_USERAPPL, span_str("sslcollector " SSLC_VERSION));
	put_option(b, NG_OPT_END, span_of(NULL, 0));
	block_end(b, at);
}

static void put_interface(struct buf *b)
{
	size_t at = block_begin(b, NG_IDB);
	const uint8_t tsresol = 9; /* 10^-9 s */

	put_u16(b, DLT_EN10MB); /* same value as LINKTYPE_ETHERNET */
	put_u16(b, 0);
	put_u32(b, PCAPFMT_SNAPLEN);
	put_option(b, NG_IF_NAME, span_str("sslcollector"));
	put_option(b, NG_IF_TSRESOL, span_of(&tsresol, 1));
	put_option(b, NG_OPT_END, span_of(NULL, 0));
	block_end(b, at);
}

static void ng_header(struct buf *out)
{
	put_section(out);
	put_interface(out);
}

static void ng_packet(struct buf *out, struct span l2, uint64_t ts_ns, struct span comment)
{
	size_t at = block_begin(out, NG_EPB);

	put_u32(out, 0); /* interface */
	put_u32(out, (uint32_t)(ts_ns >> 32));
	put_u32(out, (uint32_t)ts_ns);
	put_u32(out, (uint32_t)l2.len);
	put_u32(out, (uint32_t)l2.len);
	put_padded(out, l2);
	if (comment.len) {
		put_option(out, NG_OPT_COMMENT, comment);
		put_option(out, NG_OPT_END, span_of(NULL, 0));
	}
	block_end(out, at);
}

static size_t ng_block_len(const uint8_t *block)
{
	uint32_t len;

	memcpy(&len, block + 4, sizeof(len));
	return len;
}

const struct pcap_format pcapfmt_ng = {ng_header, ng_packet, ng_block_len, true};

/* Classic pcap */

static void classic_header(struct buf *out)
{
	put_u32(out, CLASSIC_MAGIC);
	put_u16(out, 2); /* version 2.4 */
	put_u16(out, 4);
	put_u32(out, 0);
	put_u32(out, 0);
	put_u32(out, PCAPFMT_SNAPLEN);
	put_u32(out, DLT_EN10MB);
}

static void classic_packet(struct buf *out, struct span l2, uint64_t ts_ns, struct span comment)
{
	(void)comment;
	put_u32(out, (uint32_t)(ts_ns / NS_PER_S));
	put_u32(out, (uint32_t)(ts_ns % NS_PER_S / 1000));
	put_u32(out, (uint32_t)l2.len);
	put_u32(out, (uint32_t)l2.len);
	wr_bytes(out, l2.p, l2.len);
}

static size_t classic_block_len(const uint8_t *block)
{
	uint32_t caplen;

	memcpy(&caplen, block + 8, sizeof(caplen));
	return CLASSIC_RECORD + (size_t)caplen;
}

const struct pcap_format pcapfmt_classic = {classic_header, classic_packet, classic_block_len,
					    false};

/* Comments */

void pcapfmt_comment(struct buf *out, const struct sink_flow *flow, const struct sink_shape *shape)
{
	const struct frame_flow_open *o = flow->open;
	char num[80];

	wr_bytes(out, num, (size_t)snprintf(num, sizeof(num), "pid=%u comm=", o->pid));
	sink_put_word(out, o->comm);
	wr_bytes(out, " exe=", 5);
	sink_put_word(out, o->exe);
	wr_bytes(out, " host=", 6);
	sink_put_word(out, span_str(flow->host ? flow->host : ""));
	wr_bytes(out, num,
		 (size_t)snprintf(num, sizeof(num), " flow=%llu confidence=%s",
				  (unsigned long long)o->flow, frame_confidence(o->confidence)));
	if (sink_port(shape, o->server_port) != o->server_port)
		wr_bytes(out, num, (size_t)snprintf(num, sizeof(num), " port=%u", o->server_port));
}
