/* SPDX-License-Identifier: Apache-2.0 */
/* h2_build: HTTP/2 frames by hand (RFC 9113, 4 and 6), for tests. Knows nothing of the reader. */
#ifndef SSLC_TEST_H2_BUILD_H
#define SSLC_TEST_H2_BUILD_H

#include <string.h>

#include "base/buf.h"

#define H2_END_STREAM  1u
#define H2_END_HEADERS 4u
#define H2_PADDED      8u
#define H2_PRIORITY    32u

static inline void h2_frame(struct buf *b, uint8_t kind, uint8_t flags, uint32_t stream,
			    const void *payload, size_t len)
{
	wr_u8(b, (uint8_t)(len >> 16));
	wr_u16be(b, (uint16_t)len);
	wr_u8(b, kind);
	wr_u8(b, flags);
	wr_u32be(b, stream);
	wr_bytes(b, payload, len);
}

static inline void h2_string(struct buf *b, const char *text, size_t len)
{
	if (len < 127) {
		wr_u8(b, (uint8_t)len);
	} else {
		size_t rest = len - 127;

		for (wr_u8(b, 127); rest >= 128; rest >>= 7)
			wr_u8(b, (uint8_t)(rest | 128));
		wr_u8(b, (uint8_t)rest);
	}
	wr_bytes(b, text, len);
}

/* "name: value\nname: value\n" as literals that are not indexed. A value may be empty. */
static inline void h2_literals(struct buf *b, const char *fields)
{
	while (*fields) {
		const char *colon = strstr(fields + 1, ": "), *end = strchr(fields, '\n');

		wr_u8(b, 0);
		h2_string(b, fields, (size_t)(colon - fields));
		h2_string(b, colon + 2, (size_t)(end - colon - 2));
		fields = end + 1;
	}
}

static inline void h2_headers(struct buf *b, uint32_t stream, const char *fields, bool end)
{
	struct buf block;

	buf_init(&block, 1 << 20);
	h2_literals(&block, fields);
	h2_frame(b, 1, (uint8_t)(H2_END_HEADERS | (end ? H2_END_STREAM : 0)), stream, block.p,
		 block.len);
	buf_fini(&block);
}

static inline void h2_data(struct buf *b, uint32_t stream, const char *text, bool end)
{
	h2_frame(b, 0, end ? H2_END_STREAM : 0, stream, text, strlen(text));
}

static inline void h2_start(struct buf *client, struct buf *server)
{
	wr_bytes(client, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
	h2_frame(client, 4, 0, 0, "\0\3\0\0\0\x64", 6);
	h2_frame(server, 4, 0, 0, NULL, 0);
}

#endif
