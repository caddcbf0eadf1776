/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pki: the small certificate authority behind enrolment, and its tokens. EC P-256 keys, X.509 v3
 * (RFC 5280): the collector's certificate is for serverAuth only, an endpoint's for clientAuth
 * only, so that no endpoint can pose as the collector. Files are written to a temporary name and
 * renamed.
 *
 * Validity begins an hour before it is made (clocks differ); a CA's lasts 10 years, a leaf's 825
 * days: the longest that common verifiers accept. The collector renews its own leaf when it starts
 * within 30 days of the end; an endpoint is enrolled again.
 *
 * A state directory (mode 0700) holds, on a collector: ca.pem ca.key collector.pem collector.key
 * tokens/; on an endpoint: ca.pem agent.pem agent.key. A collector that passes on to another one is
 * its endpoint: these three are in upstream/ then.
 */
#ifndef SSLC_BASE_PKI_H
#define SSLC_BASE_PKI_H

#include "buf.h"

#define PKI_SECRET_LEN      16
#define PKI_FINGERPRINT_LEN 16 /* leading bytes of SHA-256 over the CA certificate's DER */
#define PKI_TOKEN_STRLEN    64 /* room for a printed token and its terminator */

/** Make the directory (0700), the CA and the collector's certificate where absent. 0, 1 when made
 * now, -errno (logged). */
int pki_collector_init(const char *state_dir) WARN_UNUSED;
/** A new token, valid ttl_s seconds, one use: base32 of secret and CA fingerprint. Only its hash is
 * stored. */
int pki_token_new(const char *state_dir, unsigned ttl_s, char out[PKI_TOKEN_STRLEN]) WARN_UNUSED;
/** Consume a token. 0; -ENOENT wrong or used; -ETIME expired; other -errno. Atomic between
 * processes. */
int pki_token_redeem(const char *state_dir, const uint8_t secret[PKI_SECRET_LEN],
		     uint64_t now_s) WARN_UNUSED;
/** Split a printed token (case and dashes do not matter). 0 or -EINVAL. */
int pki_token_parse(const char *text, uint8_t secret[PKI_SECRET_LEN],
		    uint8_t fingerprint[PKI_FINGERPRINT_LEN]) WARN_UNUSED;
/** Endpoint: a fresh key and a signing request for it. key_pem is cleansed by the caller. */
int pki_request_new(struct buf *key_pem, struct buf *csr_der) WARN_UNUSED;
/** Collector: check the request's own signature and sign it for clientAuth, subject CN = host. */
int pki_request_sign(const char *state_dir, struct span csr_der, const char *host,
		     struct buf *cert_pem) WARN_UNUSED;
/** The name of upstream/. 0 or -ENAMETOOLONG. */
int pki_upstream_dir(const char *state_dir, char *out, size_t size) WARN_UNUSED;
/** Write a file of the state directory: mode, temporary name, fsync, rename. 0 or -errno. */
int pki_file_write(const char *dir, const char *name, struct span contents,
		   unsigned mode) WARN_UNUSED;

struct x509_st;
/** The directory is made (0700) when absent. 0; -EACCES when others may enter it, -errno (logged).
 */
int pki_dir_prepare(const char *dir) WARN_UNUSED;
/** Leading bytes of SHA-256 over the certificate's DER. 0 or -EINVAL. */
int pki_fingerprint(struct x509_st *cert, uint8_t out[PKI_FINGERPRINT_LEN]) WARN_UNUSED;
/** Copy a host name so that it fits a certificate's CN: letters, digits, dot, dash, underscore;
 * others become '_', an empty one "unnamed". out is cut to size - 1 bytes and at most PKI_HOST_MAX.
 */
void pki_host_clean(struct span host, char *out, size_t size);
#define PKI_HOST_MAX 64 /* ub-common-name, RFC 5280 appendix A.1 */

#endif
