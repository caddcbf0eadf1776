/* SPDX-License-Identifier: Apache-2.0 */
/*
 * http1: one HTTP/2 exchange in, the text of an HTTP/1.1 exchange out (RFC 9112): request line,
 * status line, field names as people write them, body framing, trailers. What could be read as more
 * than it is, line ends in a value, two lengths, bytes behind the end, is never written. Keeps no
 * body; bodies pass by outside.
 */
#ifndef SSLC_COLLECTOR_HTTP1_H
#define SSLC_COLLECTOR_HTTP1_H

#include "http/h2.h"

enum http1_part {
	HTTP1_HEAD,    /* no final head yet */
	HTTP1_LENGTH,  /* a body of `left` more bytes */
	HTTP1_CHUNKED, /* a body in chunks */
	HTTP1_TUNNEL,  /* bytes of another protocol, to the end of the connection */
	HTTP1_REFUSED, /* the same, but the server does not want them: they are not shown */
	HTTP1_NO_BODY, /* the head was all, but the end has not been said */
	HTTP1_DONE,
};

struct http1_way {     /* one direction of an exchange */
	uint64_t left; /* LENGTH: bytes to come */
	uint8_t part;  /* enum http1_part */
	bool in_frame; /* a DATA frame with bytes has begun and not ended */
};

#define HTTP1_PROTOCOL_MAX 24u /* registered names are shorter; a longer one is cut */

/* One exchange. Zeroed at its beginning, but for nonce. */
struct http1 {
	struct http1_way way[2];           /* FLOW_C2S: the request */
	uint8_t nonce[16];                 /* what an invented Sec-WebSocket-Key is made of */
	bool is_head;                      /* a HEAD request: its answer has no body */
	bool connect;                      /* a 2xx answer makes it a tunnel */
	bool opened;                       /* it has */
	char protocol[HTTP1_PROTOCOL_MAX]; /* ... told as an upgrade to it (RFC 8441), if not "" */
};

/*
 * Each appends what the direction says now to `out`. 0; -EBADMSG when the exchange breaks HTTP:
 * its connection has to be reset, and nothing more may be told; -EMSGSIZE when out is full.
 */

/** A head, an interim head, or trailers. end: END_STREAM came with it. */
int http1_headers(struct http1 *x, enum flow_dir dir, const struct h2_list *list, bool end,
		  struct buf *out) WARN_UNUSED;
/** `len` bytes of body follow, which the caller passes on behind what is in `out`. */
int http1_data_begin(struct http1 *x, enum flow_dir dir, uint64_t len, struct buf *out) WARN_UNUSED;
/** They have followed. end: END_STREAM. */
int http1_data_end(struct http1 *x, enum flow_dir dir, bool end, struct buf *out) WARN_UNUSED;

/** Nothing is missing if the direction says no more without saying so. */
static inline bool http1_is_whole(const struct http1 *x, enum flow_dir dir)
{
	const struct http1_way *way = &x->way[dir];

	return way->part == HTTP1_TUNNEL || way->part == HTTP1_REFUSED ||
	       way->part == HTTP1_NO_BODY ||
	       (way->part == HTTP1_LENGTH && way->left == 0 && !way->in_frame);
}
/** The client speaks through a tunnel that the server has not opened yet. */
static inline bool http1_is_early(const struct http1 *x)
{
	return x->way[FLOW_C2S].part == HTTP1_TUNNEL && x->way[FLOW_S2C].part == HTTP1_HEAD;
}
/** The direction says no more. */
static inline bool http1_is_done(const struct http1 *x, enum flow_dir dir)
{
	return x->way[dir].part == HTTP1_DONE;
}

#endif
