/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trust: see trust.h. PEM files in, verifying TLS clients and advice out. Never logs a key.
 */
#include "trust.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "frame.h"

#define CERT_WARN_S (30L * 24 * 60 * 60)

const struct trust_role trust_endpoint = {
	.stage = "tunnel",
	.self = "endpoint",
	.enroll = "sslcollector enroll HOST TOKEN",
	.restart = "the agent",
};

/* ---- files ---- */

static void warn_expiry(const struct trust_role *r, SSL_CTX *ctx)
{
	time_t soon = time(NULL) + CERT_WARN_S;
	X509 *cert = SSL_CTX_get0_certificate(ctx);

	if (cert && X509_cmp_time(X509_get0_notAfter(cert), &soon) < 0)
		log_warn("%s: this %s's certificate expires within 30 days, or has expired: enrol "
			 "it again",
			 r->stage, r->self);
}

static int enrolled_ctx(SSL_CTX **out, const struct trust_role *r, const char *dir)
{
	char ca[4096], cert[4096], key[4096];
	struct tls_files files = {.ca = ca, .cert = cert, .key = key};
	const int size = (int)sizeof(ca);

	if (!dir || snprintf(ca, sizeof(ca), "%s/ca.pem", dir) >= size ||
	    snprintf(cert, sizeof(cert), "%s/agent.pem", dir) >= size ||
	    snprintf(key, sizeof(key), "%s/agent.key", dir) >= size)
		return -EINVAL;
	if (access(cert, F_OK) < 0 && errno == ENOENT) {
		log_error("%s: this %s is not enrolled (no %s): run `%s` first; `sslcollector "
			  "token` on the collector at HOST prints a token",
			  r->stage, r->self, cert, r->enroll);
		return -ENOENT;
	}
	return tls_client_ctx(out, &files, false);
}

int trust_open(struct trust *out, const struct trust_role *role, const char *host,
	       const struct tls_files *files, const char *state_dir, bool insecure)
{
	int err;

	*out = (struct trust){
		.role = role,
		.host = host,
		.insecure = insecure,
		.own_pki = files->ca || files->cert || files->key,
	};
	if (insecure)
		return tls_client_ctx(&out->ctx, files, true);
	if (out->own_pki && !(files->ca && files->cert && files->key)) {
		log_error("%s: own certificates: --ca, --cert and --key belong together",
			  role->stage);
		return -EINVAL;
	}
	err = out->own_pki ? tls_client_ctx(&out->ctx, files, false)
			   : enrolled_ctx(&out->ctx, role, state_dir);
	if (!err)
		warn_expiry(role, out->ctx);
	return err;
}

void trust_close(struct trust *t)
{
	SSL_CTX_free(t->ctx);
	t->ctx = NULL;
}

/* ---- links ---- */

static bool is_address(const char *host)
{
	uint8_t raw[16];

	return inet_pton(AF_INET, host, raw) == 1 || inet_pton(AF_INET6, host, raw) == 1;
}

/*
 * With own PKI a CA signs many things: the certificate must also be for the host we asked for. The
 * CA that enrolment made exists for one collector alone, and its only serverAuth certificate is
 * that collector's: there a name would add nothing but trouble with aliases and changing addresses.
 */
static bool set_name(const struct trust *t, SSL *ssl)
{
	bool is_addr = is_address(t->host);

	if (!is_addr && SSL_set_tlsext_host_name(ssl, t->host) != 1)
		return false;
	if (t->insecure || !t->own_pki)
		return true;
	if (is_addr)
		return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), t->host) == 1;
	return SSL_set1_host(ssl, t->host) == 1;
}

SSL *trust_ssl_new(const struct trust *t)
{
	static const unsigned char alpn[] = "\x06" SSLC_ALPN;
	SSL *ssl = SSL_new(t->ctx);

	_Static_assert(sizeof(SSLC_ALPN) - 1 == 0x06, "length before the name");
	if (ssl && SSL_set_alpn_protos(ssl, alpn, sizeof(alpn) - 1) == 0 && set_name(t, ssl))
		return ssl;
	SSL_free(ssl);
	ERR_clear_error();
	return NULL;
}

/* ---- what people read ---- */

void trust_verify_text(const struct trust *t, const char *where, long verify, char *out,
		       size_t size)
{
	const char *cause = X509_verify_cert_error_string(verify);

	if (verify == X509_V_ERR_HOSTNAME_MISMATCH || verify == X509_V_ERR_IP_ADDRESS_MISMATCH)
		snprintf(out, size,
			 "the certificate of %s is for another name: give -t the name that stands "
			 "in it",
			 where);
	else if (t->own_pki)
		snprintf(out, size, "the certificate of %s is not accepted: %s: check --ca", where,
			 cause);
	else
		snprintf(out, size,
			 "%s is not the collector that this %s was enrolled with: %s: check -t, or "
			 "run `%s` and restart %s",
			 where, t->role->self, cause, t->role->enroll, t->role->restart);
}

const char *trust_alert_hint(const struct trust *t, char *out, size_t size)
{
	if (t->own_pki)
		snprintf(out, size, "check --cert here and --ca there");
	else
		snprintf(out, size, "run `%s` and restart %s", t->role->enroll, t->role->restart);
	return out;
}
