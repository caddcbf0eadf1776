/* SPDX-License-Identifier: Apache-2.0 */
/* sockfacts: what the kernel says about a socket of another process. */
#ifndef SSLC_AGENT_SOCKFACTS_H
#define SSLC_AGENT_SOCKFACTS_H

#include <linux/types.h>
#include <stdbool.h>
#include <stdint.h>

#include "event.h"

/* Who can tell a socket's initial sequence numbers. read: NULL: nobody. */
struct sockfacts_isn {
	bool (*read)(void *ctx, int s, uint32_t *iss, uint32_t *irs);
	void *ctx;
};

/**
 * Take descriptor fd of the process for a moment (pidfd_getfd(2), Linux 5.6, CAP_SYS_PTRACE) and
 * fill the members of `out` that are about the connection: addresses, ports, family, mss, role,
 * netns, and the initial sequence numbers if somebody knows. cookie: the socket's number, unique
 * while the system runs (SO_COOKIE). 0; -ENOTSOCK (which costs a thread for a moment, or for as
 * long as the file's owner likes), -EPROTONOSUPPORT (not TCP over IP), -ENOTCONN (no peer, or none
 * any more), -EBADF and other -errno.
 */
int sockfacts_take(int pidfd, int fd, const struct sockfacts_isn *isn, struct sslc_ev_open *out,
		   uint64_t *cookie) __attribute__((warn_unused_result));
/** The same for a descriptor of our own, without sequence numbers. */
int sockfacts_of(int s, struct sslc_ev_open *out, uint64_t *cookie)
	__attribute__((warn_unused_result));
/** Close it; however long its owner wanted to wait for what is not sent yet (SO_LINGER). */
void sockfacts_close(int s);

#endif
