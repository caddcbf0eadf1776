/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shimdoor: the socket that preloaded processes come to with their ring (proto/shim.h). A thread of
 * its own hears them: a process may be over within a few milliseconds, and then nobody knows which
 * connections it had. As shimask's, it comes before all ordinary ones, for a tenth of
 * one processor's time. Who comes speaks at once or is sent away.
 */
#ifndef SSLC_AGENT_SHIMDOOR_H
#define SSLC_AGENT_SHIMDOOR_H

#include <stdbool.h>

#include "preloaded/shimask.h"
#include "preloaded/shimpeer.h"

struct shimdoor;

/**
 * Listen at path and start the thread. asker: borrowed until shimdoor_free(). -EADDRINUSE:
 * somebody else is served there; other -errno.
 */
int shimdoor_open(struct shimdoor **out, const char *path, struct shimask *asker)
	__attribute__((warn_unused_result));
/** Nobody is heard any more; whoever was can still be taken. */
void shimdoor_close(struct shimdoor *d);
/** Removes the socket. Accepts NULL. */
void shimdoor_free(struct shimdoor *d);

/** Readable when somebody was heard since shimdoor_take() gave nothing. */
int shimdoor_fd(const struct shimdoor *d);
/**
 * The next one that was heard, in their order; it is the caller's. NULL: none. One whose pidfd is
 * -1 had ended, or begun another program, before it was known.
 */
struct shimpeer *shimdoor_take(struct shimdoor *d);
/** A ring was not taken: count it, and tell the log why, now and then. */
void shimdoor_refuse(int err);

#endif
