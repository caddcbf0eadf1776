/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session_pair: the two captured ends of one connection: private to session.c. One is LIVE: what it
 * tells is passed on. The other is on STANDBY: what the LIVE one has not told yet is kept
 * (spare.h), and passed on where the LIVE one is known to have a hole; and the two can change
 * places. Offsets count from the first byte at either end, unless one was captured late: then
 * neither can speak for the other. Nothing here emits.
 */
#ifndef SSLC_COLLECTOR_SESSION_PAIR_H
#define SSLC_COLLECTOR_SESSION_PAIR_H

#include "sessions/session_table.h"
#include "sessions/spare.h"

/* What one end may be ahead before it takes over, and what is kept of all connections together. */
#define PAIR_AHEAD_MAX (4u << 20)
#define PAIR_HELD_MAX  (64u << 20)
/* So long one end waits for what the other one should tell. */
#define PAIR_STALL_NS NS_PER_S

/**
 * `owner` is LIVE, `s` becomes its STANDBY, unless it has one that is not lost, or memory is short:
 * then what `s` tells is of no use.
 */
void session_pair(struct sessions *t, struct session *s, struct session *owner);
/** Memory of what two ends share, but for what is kept of them. */
size_t session_pair_size(void);
/** The connection's other end, or NULL. */
struct session *session_twin(const struct session *s);
/** The same when each can speak for the other. */
struct session *session_heir(const struct session *s);
/**
 * Neither knows the other any more. What was kept is counted and forgotten, unless the other end is
 * LIVE and about to tell it.
 */
void session_unpair(struct sessions *t, struct session *s);
/** `s` itself, not its other end, has told everything before `end`, be it that it is missing. */
void session_said(struct session *s, enum flow_dir dir, uint64_t end);
/** It tells nothing more in that direction. */
void session_said_fin(struct session *s, enum flow_dir dir);
/** It tells nothing more at all. */
void session_said_close(struct session *s, enum flow_end how, uint64_t ts_ns);
/** Whether it did. */
bool session_has_fin(const struct session *s, enum flow_dir dir);
bool session_has_closed(const struct session *s);
/** How, and when in the connection's time, when it has. */
enum flow_end session_closed_how(const struct session *s, uint64_t *ts_ns);
/** Whether the LIVE `s` has told, or said to be missing, more than its connection has. */
bool session_is_ahead(const struct session *s, enum flow_dir dir);
/**
 * Bytes of either end: what the connection has not told of them is kept, the rest counted. False:
 * there is no room, or no memory; then nothing is kept, and those of a STANDBY are counted.
 */
bool session_keep(struct sessions *t, struct session *s, const struct spare_part *part);
/** What the connection tells next of what is kept of both ends of the LIVE `s`. */
struct session_step {
	enum flow_dir dir;
	uint64_t gap;           /* bytes that neither end has; 0: `part` is to be told */
	struct spare_part part; /* borrowed until something is told */
	struct session *source; /* whose it is */
};
/** True: `out` is to be told now. waits: not what an end should still tell, and the other waits
 * for. */
bool session_next_step(const struct session *s, bool waits, struct session_step *out);
/** The connection of the LIVE `s` has told these bytes; `source`: from which end. */
void session_pair_told(struct sessions *t, struct session *s, struct session *source,
		       const struct spare_part *part);
/** What lies before `offset` is told, or nobody has it. */
void session_pair_passed(struct sessions *t, struct session *s, enum flow_dir dir, uint64_t offset);
/** Whether bytes beyond what the connection of `s` has told are kept, in that direction, in any. */
bool session_has_more(const struct session *s, enum flow_dir dir);
bool session_has_any_more(const struct session *s);
/** Whether the other end of the LIVE `s` should go on in its place: it is lost, or far behind. */
bool session_is_outrun(const struct session *s);
/**
 * LIVE `from` and STANDBY `to` change places: what was told, the tuple, and what the outlets know
 * are now the other's.
 */
void session_swap(struct sessions *t, struct session *from, struct session *to);
/** How much later than its host's clock the connection's time is, in ns. */
int64_t session_skew_ns(const struct session *s);
/**
 * The LIVE session of a pair in which something has been kept for too long; NULL: there is none.
 * *next_ns: so many ns until there may be; UINT64_MAX: not for now.
 */
struct session *session_stalled(const struct sessions *t, uint64_t now_ns, uint64_t *next_ns);

#endif
