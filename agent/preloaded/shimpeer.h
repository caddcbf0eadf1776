/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shimpeer: a process and the ring it has, or is said to have: what has to be found out about it at
 * once, as it may end within a millisecond. Which of its connections are shown is decided later.
 */
#ifndef SSLC_AGENT_SHIMPEER_H
#define SSLC_AGENT_SHIMPEER_H

#include <linux/types.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/queue.h"
#include "preloaded/shimask.h"
#include "preloaded/shimflow.h"
#include "preloaded/shimring.h"

struct shimpeer {
	struct queue_node node; /* of whoever holds it */
	struct shimproc_conf facts;
	struct shimring ring;
	uint64_t ino;              /* of the ring's file */
	int pidfd;                 /* -1: gone */
	struct shimask_seat *seat; /* NULL: nobody asks about its connections */
};

/**
 * Map the ring of process pid. pidfd: of that process, for shimpeer_free() to close; -1: it was
 * gone. uid: its user. memfd: stays the caller's. data_size: as for shimring_map(). -ENOMEM, or
 * what shimring_map() says; then pidfd stays the caller's.
 */
int shimpeer_new(struct shimpeer **out, uint32_t pid, uint32_t uid, int pidfd, int memfd,
		 uint64_t data_size) __attribute__((warn_unused_result));
/** Ask about its connections, now and from now on, with that one's priority. -ENOMEM. */
int shimpeer_ask(struct shimpeer *p, struct shimask *asker) __attribute__((warn_unused_result));
/**
 * Fill the facts that /proc knows, and see whether the process has this ring in its memory: else it
 * is another process, or has begun another program: -ESRCH. It may have ended: is_sure, by
 * its pidfd, that it was this one, then what was asked is as good.
 */
int shimpeer_meet(struct shimpeer *p, bool is_sure) __attribute__((warn_unused_result));
/** What it was asked is not to be trusted, and nothing can be asked any more. */
void shimpeer_forget(struct shimpeer *p);
/** Accepts NULL. */
void shimpeer_free(struct shimpeer *p);

/** Whether the process has this ring in its memory still. Without: it began another program. */
bool shimpeer_has_ring(const struct shimpeer *p);
/** Name in /proc of the file that a process has as its ring. False: it has none. */
bool shimpeer_find(uint32_t pid, char path[PATH_MAX]) __attribute__((warn_unused_result));

#endif
