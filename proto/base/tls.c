/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tls: contexts for the two ends of the tunnel. PEM files in, SSL_CTX out; OpenSSL's errors become
 * one line. Never talks to a peer and never asks a terminal for a passphrase.
 */
#include "base/tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"

/* What an alert is called differs by the TLS version that introduced it; people need the last
 * words. */
static const char *const alert_prefixes[] = {
	"ssl/tls alert ",
	"tlsv13 alert ",
	"tlsv1 alert ",
	"sslv3 alert ",
};

const char *tls_code_text(unsigned long code, char *buf, size_t len)
{
	const char *reason = NULL;

	if (ERR_SYSTEM_ERROR(code))
		reason = strerror(ERR_GET_REASON(code));
	else if (code && ERR_GET_REASON(code) != SSL_R_UNEXPECTED_EOF_WHILE_READING)
		reason = ERR_reason_error_string(code);
	if (!reason)
		reason = "connection closed";
	for (size_t i = 0; i < sizeof(alert_prefixes) / sizeof(alert_prefixes[0]); i++) {
		size_t n = strlen(alert_prefixes[i]);

		if (strncmp(reason, alert_prefixes[i], n) == 0) {
			reason += n;
			break;
		}
	}
	snprintf(buf, len, "%s", reason);
	return buf;
}

const char *tls_error_text(char *buf, size_t len)
{
	unsigned long code = ERR_peek_last_error();

	ERR_clear_error();
	return tls_code_text(code, buf, len);
}

bool tls_is_auth_alert(unsigned long code)
{
	if (ERR_GET_LIB(code) != ERR_LIB_SSL)
		return false;
	switch (ERR_GET_REASON(code)) {
	case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
	case SSL_R_TLSV1_ALERT_ACCESS_DENIED:
	case SSL_R_TLSV1_ALERT_DECRYPT_ERROR:
	case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
	case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
	case SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE:
	case SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED:
	case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
	case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
		return true;
	default:
		return false;
	}
}

/* A service has nobody to type a passphrase: an encrypted key is an error, not a prompt. */
static int no_passphrase(char *buf, int size, int rwflag, void *ctx)
{
	(void)rwflag;
	(void)ctx;
	if (size > 0)
		buf[0] = '\0';
	return -1;
}

/* One line naming the file, and -errno. fopen() failures reach us through OpenSSL's queue. */
static int file_error(const char *what, const char *file)
{
	unsigned long first = ERR_peek_error();
	char text[160];
	int err = ERR_SYSTEM_ERROR(first) ? -ERR_GET_REASON(first) : -EINVAL;

	if (ERR_SYSTEM_ERROR(first)) {
		ERR_clear_error();
		snprintf(text, sizeof(text), "%s", strerror(-err));
	} else {
		tls_error_text(text, sizeof(text));
	}
	log_error("tls: %s: %s file=%s", what, text, file);
	return err;
}

static int load_identity(SSL_CTX *ctx, const struct tls_files *files)
{
	if (!files->cert || !files->key) {
		log_error("tls: certificate: both a certificate and its key are needed");
		return -EINVAL;
	}
	if (SSL_CTX_use_certificate_chain_file(ctx, files->cert) != 1)
		return file_error("certificate", files->cert);
	if (SSL_CTX_use_PrivateKey_file(ctx, files->key, SSL_FILETYPE_PEM) != 1)
		return file_error("private key", files->key);
	if (SSL_CTX_check_private_key(ctx) != 1)
		return file_error("private key does not belong to the certificate", files->key);
	return 0;
}

static int load_ca(SSL_CTX *ctx, const struct tls_files *files)
{
	if (!files->ca) {
		log_error("tls: CA certificate: none given");
		return -EINVAL;
	}
	if (SSL_CTX_load_verify_file(ctx, files->ca) != 1)
		return file_error("CA certificate", files->ca);
	return 0;
}

static int ctx_new(SSL_CTX **out, const SSL_METHOD *method)
{
	SSL_CTX *ctx = SSL_CTX_new(method);

	if (!ctx)
		return -ENOMEM;
	if (SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) != 1 ||
	    SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) != 1) {
		SSL_CTX_free(ctx);
		return -ENOMEM;
	}
	SSL_CTX_set_default_passwd_cb(ctx, no_passphrase);
	/* Each link proves itself anew: no tickets, no resumption past a removed certificate. */
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION);
	SSL_CTX_set_num_tickets(ctx, 0);
	SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
	*out = ctx;
	return 0;
}

/*
 * Purpose: while it verifies, OpenSSL checks a server's chain for serverAuth and a client's for
 * clientAuth (X509_check_purpose); a leaf that says the other one fails. Certificates from our own
 * CA always say which they are; with own PKI a leaf without any extended key usage counts as both
 * (RFC 5280, 4.2.1.12), and the name check keeps endpoints from posing as the collector.
 */
int tls_client_ctx(SSL_CTX **out, const struct tls_files *files, bool insecure)
{
	SSL_CTX *ctx = NULL;
	int err;

	err = ctx_new(&ctx, TLS_client_method());
	if (err)
		goto fail;
	if (insecure) {
		SSL_CTX_set_verify(ctx, SSL_VERIFY_NONE, NULL);
		*out = ctx;
		return 0;
	}
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
	err = load_ca(ctx, files);
	if (!err)
		err = load_identity(ctx, files);
	if (err)
		goto fail;
	*out = ctx;
	return 0;
fail:
	SSL_CTX_free(ctx);
	ERR_clear_error();
	return err;
}

int tls_server_ctx(SSL_CTX **out, const struct tls_files *files, bool insecure)
{
	SSL_CTX *ctx = NULL;
	int err;

	err = ctx_new(&ctx, TLS_server_method());
	if (err)
		goto fail;
	err = load_identity(ctx, files);
	if (err)
		goto fail;
	if (!insecure) {
		/* No FAIL_IF_NO_PEER_CERT: who comes without one is told what to do, in a frame. */
		SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
		err = load_ca(ctx, files);
		if (err)
			goto fail;
	}
	*out = ctx;
	return 0;
fail:
	SSL_CTX_free(ctx);
	ERR_clear_error();
	return err;
}
