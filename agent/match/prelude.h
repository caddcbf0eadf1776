/* SPDX-License-Identifier: Apache-2.0 */
/*
 * prelude: what was said on a connection before TLS began. Bytes of connections that may never
 * carry TLS come in and are kept, bounded; when TLS begins on one of them, what is to be told first
 * goes out. Says nothing about a connection whose beginning it does not know in full.
 */
#ifndef SSLC_AGENT_PRELUDE_H
#define SSLC_AGENT_PRELUDE_H

#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "event.h"

/* What is told of a connection on which TLS began later. */
enum prelude_mode {
	PRELUDE_STITCH, /* what was said before, without the words that brought TLS about */
	PRELUDE_INNER,  /* only what was inside TLS */
	PRELUDE_KEEP,   /* what was said before, as it was */
};

struct prelude;
struct stitch_seam;

struct prelude_conf {
	enum prelude_mode mode; /* not PRELUDE_INNER: then there is nothing to be kept */
	size_t side;            /* bytes of one direction */
	size_t total;           /* bytes of memory of all connections, without the lost ones */
	size_t lost;            /* records of connections whose beginning is not known in full */
	uint64_t idle_ns;
};

struct prelude_part {
	uint64_t ts_ns;    /* CLOCK_MONOTONIC, when its first byte moved */
	unsigned dir;      /* enum sslc_dir */
	struct span bytes; /* borrowed during the call; never empty */
};

int prelude_new(struct prelude **out, const struct prelude_conf *conf) WARN_UNUSED;
void prelude_free(struct prelude *p);
/** One SSLC_EV_CLEAR event, well-formed. Bytes must follow each other without a hole. */
void prelude_put(struct prelude *p, const struct sslc_ev_data *ev, uint64_t now_ns);
/**
 * TLS has begun: hand out, in the order in which it moved, what is to be told before the first byte
 * from inside TLS, and forget it. Each direction's bytes depend only on what was said, not on how
 * it was cut: both ends of a connection come to the same. *seam: what the bytes that follow have to
 * go through (see stitch.h), which the caller frees; or NULL. Returns bytes handed out.
 */
uint64_t prelude_take(struct prelude *p, uint64_t flow, bool local_is_client,
		      void (*each)(void *ctx, const struct prelude_part *part), void *ctx,
		      struct stitch_seam **seam);
/** It is not wanted, or the connection is over. Returns the bytes forgotten. */
uint64_t prelude_drop(struct prelude *p, uint64_t flow);
/** Forget what has been silent for too long. */
void prelude_expire(struct prelude *p, uint64_t now_ns);

#endif
