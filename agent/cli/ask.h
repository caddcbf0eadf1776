/* SPDX-License-Identifier: Apache-2.0 */
/* ask: a question to every running agent of this host; see control.h. */
#ifndef SSLC_AGENT_ASK_H
#define SSLC_AGENT_ASK_H

#include <jansson.h>
#include <stddef.h>

#define ASK_AGENTS_MAX 64 /* more on one host are a mistake */

/**
 * dir: where agents listen. question: one line without its end; messages name it. answers: as many
 * as are returned, each a new reference to an object. Agents that do not answer are logged.
 */
size_t ask_all(const char *dir, const char *question, json_t *answers[ASK_AGENTS_MAX]);

#endif
