/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spool: the finished files of an output that begins a new one now and then. The file being written
 * has the name that the user said; finished, it becomes NAME-20260102T030405.678Z.EXT (UTC, of its
 * first packet) in one step, so that whoever looks for finished files never meets half of one. Old
 * ones are removed within limits. Never touches a file with another kind of name, or of another
 * user.
 */
#ifndef SSLC_COLLECTOR_SPOOL_H
#define SSLC_COLLECTOR_SPOOL_H

#include "base/buf.h"

struct spool;

/** For the output file `name`. 0, -ENOMEM, -ENAMETOOLONG, or what opening its directory gave. */
int spool_new(struct spool **out, const char *name) WARN_UNUSED;
void spool_free(struct spool *sp); /* accepts NULL */
/**
 * The output file, begun at began_ns (Unix epoch), is finished: give it its lasting name. Names
 * rise in the order of this call, whatever the clock does. 0 or -errno: -ENOENT when somebody else
 * has taken the file away.
 */
int spool_finish(struct spool *sp, uint64_t began_ns) WARN_UNUSED;
/**
 * Remove the oldest finished files until at most `files` are left (0: no limit) and they take at
 * most `bytes` (UINT64_MAX: no limit). *left: bytes that remain. Returns the number removed, or
 * -errno when the directory cannot be read.
 */
int spool_trim(struct spool *sp, unsigned files, uint64_t bytes, uint64_t *left) WARN_UNUSED;

#endif
