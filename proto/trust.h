/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trust: whom a link to a collector believes and as whom it appears. Certificates from own files or
 * from enrolment in, TLS clients for one collector out, and for a person what to do when either
 * side does not accept the other. Never does I/O on a link, never decides when to try again.
 */
#ifndef SSLC_TRUST_H
#define SSLC_TRUST_H

#include <stdbool.h>
#include <stddef.h>

#include "base/tls.h"

struct trust_role {          /* who connects, in words for a person */
	const char *stage;   /* "tunnel" */
	const char *self;    /* "endpoint" */
	const char *enroll;  /* the command that makes the certificate */
	const char *restart; /* what is to be started again */
};

extern const struct trust_role trust_endpoint;

struct trust { /* constant after trust_open() */
	const struct trust_role *role;
	SSL_CTX *ctx;
	const char *host;       /* borrowed: the collector's name or address, as it was given */
	bool insecure, own_pki; /* no verification; files given instead of those of enrolment */
};

/**
 * A link as `role`. Load what `files` names or, when it names none, what enrolment left in
 * state_dir; warns of an end of validity that is near. host is borrowed and must outlive `out`. 0;
 * -EINVAL when state_dir is needed and missing, or too long; else -errno with one logged line that
 * says what to do. After an error `out` is ready for trust_close(), as one of zeros is.
 */
int trust_open(struct trust *out, const struct trust_role *role, const char *host,
	       const struct tls_files *files, const char *state_dir, bool insecure)
	__attribute__((warn_unused_result));
void trust_close(struct trust *t);

/**
 * A client for one link: asks for our protocol (PROTOCOL.md 1) and, where a name counts, for the
 * host's. The caller's, also when the link fails; NULL when out of memory.
 */
SSL *trust_ssl_new(const struct trust *t);
/** Why we do not accept the certificate of `where`, and what to do; verify is an X509_V_ERR_*. */
void trust_verify_text(const struct trust *t, const char *where, long verify, char *out,
		       size_t size);
/** What to do when the collector does not accept ours; in `out`, which is returned. */
const char *trust_alert_hint(const struct trust *t, char *out, size_t size);

#endif
