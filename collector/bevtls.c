/* SPDX-License-Identifier: Apache-2.0 */
/* bevtls: see bevtls.h. Errors of libevent and OpenSSL in, text out. */
#include "bevtls.h"

#include <errno.h>
#include <event2/bufferevent_ssl.h>
#include <event2/util.h>
#include <openssl/err.h>
#include <stdio.h>
#include <string.h>

#include "base/tls.h"

/* libevent mixes SSL_get_error() values, which are small, among them. What reads of our own left
 * is still with OpenSSL. */
unsigned long bevtls_code(struct bufferevent *bev)
{
	unsigned long code, found = 0;

	while ((code = bufferevent_get_openssl_error(bev)))
		if (!found && (ERR_GET_LIB(code) || ERR_SYSTEM_ERROR(code)))
			found = code;
	while ((code = ERR_get_error()))
		if (!found)
			found = code;
	return found;
}

void bevtls_cause_of(unsigned long code, int sock_err, short what, char *out, size_t len)
{
	if (!code && (what & BEV_EVENT_ERROR) && sock_err && sock_err != EAGAIN)
		snprintf(out, len, "%s", strerror(sock_err));
	else
		tls_code_text(code, out, len);
}

void bevtls_cause(struct bufferevent *bev, short what, char *out, size_t len)
{
	int err = EVUTIL_SOCKET_ERROR();

	bevtls_cause_of(bevtls_code(bev), err, what, out, len);
}
