/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hpack: header blocks of one direction of an HTTP/2 connection in, fields out (RFC 7541). The
 * decoder is libnghttp2's; what is added is patience: a table whose beginning nobody saw knows the
 * entries that were made since, and never guesses the others.
 */
#ifndef SSLC_COLLECTOR_HPACK_H
#define SSLC_COLLECTOR_HPACK_H

#include "base/buf.h"

struct hpack;

/* One field; both spans die with the call. An entry that is not known has a name of its index,
 * "x-unknown-70", and no value unless the block itself gave one. */
typedef void (*hpack_field_fn)(void *ctx, struct span name, struct span value);

/* Of a dynamic table. Encoders of widely used programs stop at 4096 or 65536; beyond, the oldest
 * entries become unknown. */
#define HPACK_TABLE_MAX (64u << 10)

/** late: the connection is older than the first block that will be seen. 0 or -ENOMEM. */
int hpack_new(struct hpack **out, bool late) WARN_UNUSED;
void hpack_free(struct hpack *h); /* accepts NULL */
/** Blocks were lost: all entries so far are unknown. 0 or -ENOMEM (then no block may follow). */
int hpack_forget(struct hpack *h) WARN_UNUSED;
/**
 * One whole block. 0; -EBADMSG when it breaks RFC 7541, -ENOMEM: no further block makes sense until
 * hpack_forget().
 */
int hpack_block(struct hpack *h, struct span block, hpack_field_fn field, void *ctx) WARN_UNUSED;

#endif
