/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spare: bytes that one end of a connection told and that have not been passed on yet. They go when
 * they are, or when the other end has told the same ones, with which they are compared. Knows no
 * sessions, emits nothing, has no clock.
 */
#ifndef SSLC_COLLECTOR_SPARE_H
#define SSLC_COLLECTOR_SPARE_H

#include "frame.h"

struct spare;

struct spare_part {
	enum flow_dir dir;
	uint64_t offset;
	struct span bytes;   /* 1 or more */
	bool end;            /* the last is the last of a TLS call */
	uint64_t ts_ns;      /* by the clock of its host */
	uint64_t arrived_ns; /* by ours */
	uint64_t order; /* of two parts of any ends the one that came first has the smaller one */
};

/** NULL: out of memory. */
struct spare *spare_new(void);
/** Cleanses what it held. Accepts NULL. */
void spare_free(struct spare *p);
/**
 * A copy. It lies behind everything that was put before in its direction. 0, -ENOMEM.
 */
int spare_put(struct spare *p, const struct spare_part *part) WARN_UNUSED;
/**
 * What is held from `offset` on, in one piece: at most to the end of one part. Borrowed until the
 * spare changes. False: the byte at `offset` is not held.
 */
bool spare_at(const struct spare *p, enum flow_dir dir, uint64_t offset, struct spare_part *out);
/** Where the first byte at or behind `offset` lies that is held; UINT64_MAX: none. */
uint64_t spare_next(const struct spare *p, enum flow_dir dir, uint64_t offset);
/** Everything before `offset` is forgotten. Returns how many bytes that were. */
uint64_t spare_passed(struct spare *p, enum flow_dir dir, uint64_t offset);
/**
 * Whether these bytes are the same as what is held of them. *ts_ns: when the last of those was
 * told, left alone when none is held.
 */
bool spare_is_alike(const struct spare *p, enum flow_dir dir, uint64_t offset, struct span bytes,
		    uint64_t *ts_ns);
uint64_t spare_bytes(const struct spare *p);
/** Memory that it takes. */
size_t spare_held(const struct spare *p);
/** When the first of what is held came; UINT64_MAX: there is nothing. */
uint64_t spare_since(const struct spare *p);

#endif
