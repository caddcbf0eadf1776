/* SPDX-License-Identifier: Apache-2.0 */
/* notify: tells people and the service manager that we are ready, or stopping (sd_notify(3)). */
#ifndef SSLC_BASE_NOTIFY_H
#define SSLC_BASE_NOTIFY_H

/** One line `ready` on stderr, and READY=1 to $NOTIFY_SOCKET when that is set. */
void notify_ready(void);
/** STOPPING=1. */
void notify_stopping(void);

#endif
