/* SPDX-License-Identifier: Apache-2.0 */
/*
 * enroll: token in; ca.pem, agent.pem and agent.key out. Blocking, for a person at a terminal. The
 * secret leaves this host only after the collector has proved that it is the one that printed the
 * token; the private key never does. Never logs a token or a key.
 */
#include "uplink/enroll.h"

#include <errno.h>
#include <netdb.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/pki.h"
#include "base/tls.h"
#include "frame.h"
#include "zblock.h"

#define WAIT_S  10          /* for each connect, read and write */
#define PEM_MAX (16u << 10) /* one certificate or key */

struct enroll {
	const char *host; /* borrowed, as are the next two */
	uint16_t port;
	const char *dir;
	char upstream[4096];
	bool onward; /* for a collector that passes on */
	uint8_t secret[PKI_SECRET_LEN], fingerprint[PKI_FINGERPRINT_LEN];
	int fd;
	SSL_CTX *ctx;
	SSL *ssl;
	struct buf key_pem, csr_der, wire;
	struct zblock_dec *dec;
};

/* ---- connect ---- */

static int socket_connect(const struct addrinfo *ai)
{
	static const struct timeval wait = {.tv_sec = WAIT_S};
	int fd, err;

	fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	/* SO_SNDTIMEO bounds connect(2) too (socket(7)). */
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
	if (connect(fd, ai->ai_addr, ai->ai_addrlen) == 0)
		return fd;
	err = errno == EINPROGRESS ? -ETIMEDOUT : -errno;
	close(fd);
	return err;
}

static int tcp_connect(struct enroll *e)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
	char service[8];
	int ret;

	snprintf(service, sizeof(service), "%u", e->port);
	ret = getaddrinfo(e->host, service, &hints, &list);
	if (ret) {
		log_error("enroll: cannot resolve %s: %s", e->host, gai_strerror(ret));
		return -EHOSTUNREACH;
	}
	e->fd = -EHOSTUNREACH;
	for (const struct addrinfo *ai = list; ai && e->fd < 0; ai = ai->ai_next)
		e->fd = socket_connect(ai);
	freeaddrinfo(list);
	if (e->fd < 0) {
		log_error(
			"enroll: cannot connect to %s port %u: %s: is the collector running there?",
			e->host, e->port, strerror(-e->fd));
		return e->fd;
	}
	return 0;
}

/* No verification by chain yet: which CA to trust is what the token is about to tell. */
static int tls_connect(struct enroll *e)
{
	static const unsigned char alpn[] = "\x0d" SSLC_ALPN_ENROLL;
	static const struct tls_files none;
	char cause[128];
	int err;

	_Static_assert(sizeof(SSLC_ALPN_ENROLL) - 1 == 0x0d, "length before the name");
	err = tls_client_ctx(&e->ctx, &none, true);
	if (err)
		return err;
	e->ssl = SSL_new(e->ctx);
	if (!e->ssl || SSL_set_alpn_protos(e->ssl, alpn, sizeof(alpn) - 1) ||
	    SSL_set_fd(e->ssl, e->fd) != 1)
		return -ENOMEM;
	if (SSL_connect(e->ssl) != 1) {
		log_error("enroll: TLS with %s port %u: %s: is an sslcollector listening there?",
			  e->host, e->port, tls_error_text(cause, sizeof(cause)));
		return -EPROTO;
	}
	return 0;
}

/* ---- is it the collector that printed the token? ---- */

static X509 *ca_in_chain(struct enroll *e)
{
	STACK_OF(X509) *chain = SSL_get_peer_cert_chain(e->ssl);
	uint8_t fp[PKI_FINGERPRINT_LEN];

	for (int i = 0; i < sk_X509_num(chain); i++) {
		X509 *cert = sk_X509_value(chain, i);

		if (pki_fingerprint(cert, fp) == 0 && memcmp(fp, e->fingerprint, sizeof(fp)) == 0)
			return cert;
	}
	return NULL;
}

/* The leaf, whose key the handshake proved, is signed by that CA and is a server's. */
static bool leaf_is_signed(struct enroll *e, X509 *ca)
{
	X509_STORE *store = X509_STORE_new();
	X509_STORE_CTX *sc = X509_STORE_CTX_new();
	X509 *leaf = SSL_get1_peer_certificate(e->ssl);
	bool ok;

	ok = store && sc && leaf && X509_STORE_add_cert(store, ca) == 1 &&
	     X509_STORE_CTX_init(sc, store, leaf, NULL) == 1 &&
	     X509_STORE_CTX_set_purpose(sc, X509_PURPOSE_SSL_SERVER) == 1 &&
	     X509_verify_cert(sc) == 1;
	X509_STORE_CTX_free(sc);
	X509_STORE_free(store);
	X509_free(leaf);
	ERR_clear_error();
	return ok;
}

static int check_collector(struct enroll *e)
{
	X509 *ca = ca_in_chain(e);

	if (ca && leaf_is_signed(e, ca))
		return 0;
	log_error("enroll: %s port %u is not the collector that printed the token; nothing was "
		  "sent to it",
		  e->host, e->port);
	return -EACCES;
}

/* ---- the exchange ---- */

static int send_request(struct enroll *e)
{
	char name[256] = "", host[PKI_HOST_MAX + 1], cause[128];
	struct frame_enroll m = {.csr_der = buf_span(&e->csr_der)};
	struct zblock_enc *enc = NULL;
	struct buf frame;
	int err;

	if (gethostname(name, sizeof(name) - 1))
		name[0] = '\0';
	pki_host_clean(span_str(name), host, sizeof(host));
	m.host = span_str(host);
	memcpy(m.secret, e->secret, sizeof(m.secret));
	buf_init(&frame, FRAME_HEADER_LEN + FRAME_BODY_MAX);
	frame_put_enroll(&frame, &m);
	err = frame.bad ? -EMSGSIZE : zblock_enc_new(&enc, 0);
	if (!err)
		err = zblock_encode(enc, ZBLOCK_CONTROL, 0, buf_span(&frame), &e->wire);
	if (!err && SSL_write(e->ssl, e->wire.p, (int)e->wire.len) <= 0) {
		log_error("enroll: cannot send: %s", tls_error_text(cause, sizeof(cause)));
		err = -EPIPE;
	}
	explicit_bzero(m.secret, sizeof(m.secret));
	buf_cleanse(&frame);
	buf_cleanse(&e->wire);
	zblock_enc_free(enc);
	return err;
}

/* One whole control envelope; z borrows from e->dec. */
static int receive(struct enroll *e, struct zblock *z)
{
	uint8_t chunk[4096];
	char cause[128];
	ssize_t n;

	do {
		int got = SSL_read(e->ssl, chunk, sizeof(chunk));

		if (got <= 0) {
			log_error("enroll: no answer from the collector: %s",
				  tls_error_text(cause, sizeof(cause)));
			return -EPIPE;
		}
		wr_bytes(&e->wire, chunk, (size_t)got);
		n = e->wire.bad ? -EMSGSIZE : zblock_decode(e->dec, buf_span(&e->wire), z);
	} while (n == 0);
	return n < 0 || z->kind != ZBLOCK_CONTROL ? -EBADMSG : 0;
}

static X509 *cert_parse(struct span pem)
{
	BIO *bio = BIO_new_mem_buf(pem.p, (int)pem.len);
	X509 *cert = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;

	BIO_free(bio);
	ERR_clear_error();
	return cert;
}

static EVP_PKEY *key_parse(struct span pem)
{
	BIO *bio = BIO_new_mem_buf(pem.p, (int)pem.len);
	EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, NULL, (void *)"") : NULL;

	BIO_free(bio);
	ERR_clear_error();
	return key;
}

/* What came back is for our key and from the CA of the token: a wrong file is found now, not later.
 */
static bool enrolled_is_ours(struct enroll *e, const struct frame_enrolled *m)
{
	X509 *cert = cert_parse(m->cert_pem), *ca = cert_parse(m->ca_pem);
	EVP_PKEY *key = key_parse(buf_span(&e->key_pem));
	uint8_t fp[PKI_FINGERPRINT_LEN];
	bool ok;

	ok = cert && ca && key && X509_check_private_key(cert, key) == 1 &&
	     pki_fingerprint(ca, fp) == 0 && memcmp(fp, e->fingerprint, sizeof(fp)) == 0 &&
	     X509_verify(cert, X509_get0_pubkey(ca)) == 1;
	X509_free(cert);
	X509_free(ca);
	EVP_PKEY_free(key);
	ERR_clear_error();
	return ok;
}

static int store(struct enroll *e, const struct frame_enrolled *m)
{
	int err = pki_file_write(e->dir, "agent.key", buf_span(&e->key_pem), 0600);

	if (!err)
		err = pki_file_write(e->dir, "agent.pem", m->cert_pem, 0644);
	if (!err)
		err = pki_file_write(e->dir, "ca.pem", m->ca_pem, 0644);
	if (err)
		log_error("enroll: cannot write into %s: %s", e->dir, strerror(-err));
	return err;
}

static int on_refused(const struct frame *f)
{
	struct frame_refused m;
	char text[300];

	if (frame_get_refused(f, &m))
		return -EBADMSG;
	span_print(m.text, text, sizeof(text));
	log_error("enroll: refused by the collector: %s%s", text,
		  m.code == REFUSE_TOKEN ? "; print a new one there: sslcollector token" : "");
	return -EACCES;
}

static int on_answer(struct enroll *e, struct span frames)
{
	struct frame_enrolled m;
	struct frame f;
	ssize_t n = frame_decode(frames, &f);

	if (n <= 0)
		return -EBADMSG;
	if (f.type == FRAME_REFUSED)
		return on_refused(&f);
	if (f.type != FRAME_ENROLLED || frame_get_enrolled(&f, &m) || m.cert_pem.len > PEM_MAX ||
	    m.ca_pem.len > PEM_MAX || !enrolled_is_ours(e, &m))
		return -EBADMSG;
	return store(e, &m);
}

static int exchange(struct enroll *e)
{
	struct zblock z;
	int err;

	err = pki_request_new(&e->key_pem, &e->csr_der);
	if (!err)
		err = zblock_dec_new(&e->dec);
	if (!err)
		err = send_request(e);
	if (!err)
		err = receive(e, &z);
	if (!err)
		err = on_answer(e, z.frames);
	if (err == -EBADMSG || err == -EMSGSIZE)
		log_error("enroll: the collector's answer makes no sense: is it the same version?");
	return err;
}

/* ---- all of it ---- */

/* ca.pem of a collector's directory must stay that collector's own. */
static int check_dir(struct enroll *e)
{
	char path[4096];
	uint8_t fp[PKI_FINGERPRINT_LEN] = {0};
	X509 *ca = NULL;
	FILE *f;
	int err;

	err = pki_dir_prepare(e->dir);
	if (err)
		return err;
	if (snprintf(path, sizeof(path), "%s/ca.key", e->dir) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	if (access(path, F_OK) < 0)
		return 0;
	snprintf(path, sizeof(path), "%s/ca.pem", e->dir);
	f = fopen(path, "re");
	if (f) {
		ca = PEM_read_X509(f, NULL, NULL, NULL);
		fclose(f);
	}
	if (!ca || pki_fingerprint(ca, fp) || memcmp(fp, e->fingerprint, sizeof(fp)) != 0)
		err = -EEXIST;
	X509_free(ca);
	ERR_clear_error();
	if (err)
		log_error(
			"enroll: %s belongs to a collector of this host, and the token is another "
			"collector's: give this endpoint a --state-dir of its own, or say enroll "
			"-C "
			"to have this host's collector pass on to that one",
			e->dir);
	return err;
}

static void print_done(const struct enroll *e)
{
	char port[8] = "";

	if (e->port != SSLC_PORT)
		snprintf(port, sizeof(port), ":%u", e->port);
	fprintf(stderr,
		"sslcollector: enrolled: key and certificates are in %s (agent.key, agent.pem, "
		"ca.pem).\n"
		"%s\n    sslcollector %s -t ",
		e->dir,
		e->onward ? "Pass on with:" : "Start mirroring with:", e->onward ? "-C" : "-I any");
	fprintf(stderr, strchr(e->host, ':') ? "[%s]%s\n" : "%s%s\n", e->host, port);
}

static void enroll_fini(struct enroll *e)
{
	SSL_free(e->ssl);
	SSL_CTX_free(e->ctx);
	if (e->fd >= 0)
		close(e->fd);
	zblock_dec_free(e->dec);
	buf_cleanse(&e->key_pem);
	buf_fini(&e->csr_der);
	buf_cleanse(&e->wire);
	explicit_bzero(e->secret, sizeof(e->secret));
}

/* Where the files go. With `onward` the directory above has to be there before. */
static int choose_dir(struct enroll *e, const char *state_dir, bool onward)
{
	int err = 0;

	e->dir = state_dir;
	if (!onward)
		return 0;
	err = pki_upstream_dir(state_dir, e->upstream, sizeof(e->upstream));
	e->dir = e->upstream;
	return err ? err : pki_dir_prepare(state_dir);
}

int enroll_run(const char *host, uint16_t port, const char *token, const char *state_dir,
	       bool onward)
{
	struct enroll e = {.host = host, .port = port, .onward = onward, .fd = -1};
	int err;

	signal(SIGPIPE, SIG_IGN); /* a collector that hangs up is an error here, not the end */
	buf_init(&e.key_pem, PEM_MAX);
	buf_init(&e.csr_der, PEM_MAX);
	buf_init(&e.wire, ZBLOCK_HEADER_LEN + ZBLOCK_WIRE_MAX);
	err = pki_token_parse(token, e.secret, e.fingerprint);
	if (err)
		log_error("enroll: this is not a token: copy the whole line that the collector "
			  "printed");
	if (!err)
		err = choose_dir(&e, state_dir, onward);
	if (!err)
		err = check_dir(&e);
	if (!err)
		err = tcp_connect(&e);
	if (!err)
		err = tls_connect(&e);
	if (!err)
		err = check_collector(&e);
	if (!err)
		err = exchange(&e);
	if (err == -ENOMEM)
		log_error("enroll: out of memory");
	if (!err)
		print_done(&e);
	enroll_fini(&e);
	return err ? 1 : 0;
}
