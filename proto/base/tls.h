/* SPDX-License-Identifier: Apache-2.0 */
/* tls: TLS 1.3 contexts for the tunnel, and OpenSSL's errors as one line. */
#ifndef SSLC_BASE_TLS_H
#define SSLC_BASE_TLS_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>

struct tls_files { /* PEM file names, borrowed; NULL: not given */
	const char *ca, *cert, *key;
};

/**
 * A client context: TLS 1.3 only, verifies the server against files->ca, presents cert and key.
 * insecure: no verification, no certificate needed. 0, or -errno with one logged line naming the
 * file.
 */
int tls_client_ctx(SSL_CTX **out, const struct tls_files *files, bool insecure)
	__attribute__((warn_unused_result));
/** A server context; asks for a client certificate and verifies one that is given (not with
 * insecure). */
int tls_server_ctx(SSL_CTX **out, const struct tls_files *files, bool insecure)
	__attribute__((warn_unused_result));
/** The newest entry of this thread's OpenSSL error queue as text for a person, e.g. "unknown ca";
 * empties it. */
const char *tls_error_text(char *buf, size_t len);
/** The same for one error code, taken elsewhere from the queue; 0: "connection closed". */
const char *tls_code_text(unsigned long code, char *buf, size_t len);
/** True for alerts by which a peer says that it does not accept our certificate. */
bool tls_is_auth_alert(unsigned long code);

#endif
