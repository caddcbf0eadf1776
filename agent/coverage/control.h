/* SPDX-License-Identifier: Apache-2.0 */
/*
 * control: a running agent answers questions. A Unix stream socket takes one line, a question,
 * gives one line, JSON, and closes. Only root and the agent's own user may ask.
 */
#ifndef SSLC_AGENT_CONTROL_H
#define SSLC_AGENT_CONTROL_H

#include <jansson.h>
#include <stddef.h>

struct control;
struct event_base;

#define CONTROL_CLIENTS_MAX 8              /* at once; an answer may take some MiB */
#define CONTROL_LINE_MAX    64             /* bytes of a question */
#define CONTROL_PATTERN     "agent-*.sock" /* glob(7): the sockets in the directory */

/* What can be asked. Ends with name == NULL. */
struct control_question {
	const char *name;
	json_t *(*answer)(void *ctx); /* a new reference, or NULL: out of memory */
};

/**
 * Listen at dir/agent-PID.sock, mode 0600; dir is made when it is not there, mode 0700 unless
 * another part of the agent has made it before, and must not be writable by others. Sockets of
 * agents that are gone are removed. questions and ctx are borrowed. The caller ignores SIGPIPE:
 * clients may go at any time. 0, -EPERM (dir belongs to others), -ENAMETOOLONG, other -errno.
 */
int control_open(struct control **out, struct event_base *base, const char *dir,
		 const struct control_question *questions, void *ctx)
	__attribute__((warn_unused_result));
/** Removes the socket. Accepts NULL. */
void control_close(struct control *c);

/**
 * The question in a line, without its end, of len bytes: its place in the table, or NULL for any
 * other. Fuzzed: tests/fuzz/fuzz_control.c
 */
const struct control_question *control_parse(const struct control_question *table, const char *line,
					     size_t len);

#endif
