/* SPDX-License-Identifier: Apache-2.0 */
/* apart: closing files that others have made, which may take as long as they like. */
#ifndef SSLC_AGENT_APART_H
#define SSLC_AGENT_APART_H

#include <stdbool.h>
#include <stdint.h>

#define APART_ANYBODY UINT32_MAX

/**
 * Close it in a thread of its own: whoever has given it to us may also be who answers for it
 * (FUSE), and close() waits for that answer, whatever signal comes. Without a thread it stays open:
 * rather that than to wait. uid: whose it is, as far as that is known.
 */
void apart_close(int fd, uint32_t uid);
/** So many of this user's, or of all, wait in there that somebody seems to mean it. */
bool apart_is_crowded(uint32_t uid);

#endif
