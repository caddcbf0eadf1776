/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shimring: the reader of one ring that a mirrored process writes (proto/shim.h). Memory that
 * somebody else may change at any moment in, checked records out: each is copied once, then judged.
 */
#ifndef SSLC_AGENT_SHIMRING_H
#define SSLC_AGENT_SHIMRING_H

#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "event.h"
#include "shim.h"

struct shimring {
	struct sslc_shim_ring *shared; /* the process's memory; data follows, twice in a row */
	uint64_t size, tail;
	uint64_t high;       /* how far into the data it went since the last shimring_trim() */
	uint64_t stalled_ns; /* since when the record at tail is not finished; 0: it is not so */
	uint64_t broken;     /* records that made no sense, and rings given up with them */
	uint64_t abandoned;  /* records that were never finished */
	bool is_mapped;      /* by shimring_map() */
};

struct shimring_record {
	struct sslc_shim_rec rec; /* type, dir, len and fd are in their ranges */
	/* rec.len of them, in the process's memory: to be copied once, and looked at afterwards;
	 * until shimring_release(). */
	const uint8_t *bytes;
};

/**
 * Check a process's memfd and map it. data_size: what the process said, or 0 to take it from the
 * file's size. -EPERM (seals), -EINVAL (size), -EPROTO (not our ring, or of another version), other
 * -errno. fd stays the caller's.
 */
int shimring_map(struct shimring *s, int fd, uint64_t data_size)
	__attribute__((warn_unused_result));
void shimring_unmap(struct shimring *s);
/** A ring in the caller's own memory: SSLC_SHIM_DATA_OFF + 2 * size bytes. For tests. */
void shimring_of_memory(struct shimring *s, void *memory, uint64_t size);

/**
 * The next record, its header copied. False: there is none that is finished. is_dead: the process
 * is gone, nothing will be finished any more. Fuzzed: tests/fuzz/fuzz_shimring.c
 */
bool shimring_next(struct shimring *s, uint64_t now_ns, bool is_dead, struct shimring_record *out);
/**
 * The next record that names a descriptor, beyond what has been taken, and each of them once: so
 * that the kernel is asked about it before it is too late. ahead: how far it has come. looks: at
 * how many records there may be a look; less those that there were. Only the header is copied.
 * False: there is none that is finished. Another thread may take records meanwhile.
 */
bool shimring_ahead(const struct shimring *s, uint64_t *ahead, unsigned *looks,
		    struct sslc_shim_rec *out);
/** Positions below it are the process's again. */
uint64_t shimring_shown_tail(const struct shimring *s);
/** How far the process has written. */
uint64_t shimring_head(const struct shimring *s);
/** Give the room of what was taken back to the process. */
void shimring_release(struct shimring *s);
/** The ring is empty: go on at the beginning of its memory, when it is not far from there anyway.
 */
void shimring_rewind(struct shimring *s);
/** It is empty, and there is nothing to rewind. */
bool shimring_rests(const struct shimring *s);
/** Nothing was said for a while: give back memory that a burst has used. */
void shimring_trim(struct shimring *s);
/** Forget what is in the ring: it was written for somebody else. */
void shimring_skip_all(struct shimring *s);
/** The descriptor's generation now. */
uint32_t shimring_generation(const struct shimring *s, int fd);

#endif
