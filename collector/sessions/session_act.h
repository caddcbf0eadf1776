/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session_act: what frames and time do to one session: private to session.c. Each of these may end
 * the session, and its other end.
 */
#ifndef SSLC_COLLECTOR_SESSION_ACT_H
#define SSLC_COLLECTOR_SESSION_ACT_H

#include "sessions/session_table.h"

void session_data(struct sessions *t, struct session *s, const struct frame_data *m,
		  uint64_t now_ns);
void session_gap(struct sessions *t, struct session *s, const struct frame_gap *m, uint64_t now_ns);
void session_told_fin(struct sessions *t, struct session *s, const struct frame_flow_fin *m,
		      uint64_t now_ns);
void session_close(struct sessions *t, struct session *s, const struct frame_flow_close *m,
		   uint64_t now_ns);
/** No frame will come of it any more: it is gone, and its connection reset unless the other end
 * goes on. */
void session_abort(struct sessions *t, struct session *s, uint64_t now_ns);
/** Its connection is reset; it stays, QUIET, and so does its other end. */
void session_give_up(struct sessions *t, struct session *s, uint64_t now_ns);
/** The sender of the last bytes of a direction has been silent for a moment. */
void session_poke(struct sessions *t, struct session *s, enum flow_dir dir, uint64_t now_ns);
/** What is kept of both ends of the LIVE `s` is told; waits: except what an end should still tell
 * itself. */
void session_merge(struct sessions *t, struct session *s, bool waits, uint64_t now_ns);
/** Both sides have ended it: nothing more is to be told. */
bool session_is_over(const struct session *s);

#endif
