/* SPDX-License-Identifier: Apache-2.0 */
/* bevtls: what went wrong on a bufferevent with OpenSSL, as one code or one line. */
#ifndef SSLC_COLLECTOR_BEVTLS_H
#define SSLC_COLLECTOR_BEVTLS_H

#include <event2/bufferevent.h>
#include <stddef.h>

/**
 * The first code of OpenSSL's own among what `bev` and this thread's queue hold; 0: none. Empties
 * both.
 */
unsigned long bevtls_code(struct bufferevent *bev);
/** The cause of a BEV_EVENT_*; called first in its callback, while errno is still its. */
void bevtls_cause(struct bufferevent *bev, short what, char *out, size_t len);
/** The same, when the code was taken already. */
void bevtls_cause_of(unsigned long code, int sock_err, short what, char *out, size_t len);

#endif
