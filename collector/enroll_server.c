/* SPDX-License-Identifier: Apache-2.0 */
/*
 * enroll_server: a token and a signing request in; a certificate and the CA's, or a refusal, out.
 * The token is used up first, so that nobody without one makes us sign. Never logs a token.
 */
#include "enroll_server.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/metrics.h"
#include "base/pki.h"
#include "frame.h"
#include "ingest.h"
#include "zblock.h"

#define REQUEST_MAX 8192 /* envelope, token, host name and a P-256 request: below 1 KB */

static COUNTER_DEFINE(n_enrolled, "enroll_done", "endpoints enrolled");
static COUNTER_DEFINE(n_token, "enroll_refused_token",
		      "enrolments refused: wrong, used or expired token");
static COUNTER_DEFINE(n_broken, "enroll_broken", "enrolments that broke the protocol");
static COUNTER_DEFINE(n_failed, "enroll_failed", "enrolments that failed here: files, memory");

struct enroll_server {
	const char *state_dir; /* borrowed; NULL: own PKI */
	struct zblock_dec *dec;
	struct buf in;
	char name[192];
};

int enroll_server_new(struct enroll_server **out, const char *state_dir, const char *name)
{
	struct enroll_server *e = calloc(1, sizeof(*e));
	int err;

	if (!e)
		return -ENOMEM;
	e->state_dir = state_dir;
	snprintf(e->name, sizeof(e->name), "%s", name);
	buf_init(&e->in, REQUEST_MAX);
	err = zblock_dec_new(&e->dec);
	if (err) {
		enroll_server_free(e);
		return err;
	}
	*out = e;
	return 0;
}

void enroll_server_free(struct enroll_server *e)
{
	if (!e)
		return;
	zblock_dec_free(e->dec);
	buf_cleanse(&e->in);
	free(e);
}

static int refuse(struct enroll_server *e, struct counter *c, uint16_t code, const char *text,
		  struct buf *reply)
{
	counter_inc(c);
	log_warn("enroll: refused: %s peer=%s", text, e->name);
	if (ingest_put_refused(reply, code, text))
		log_debug("enroll: refusal not sent peer=%s", e->name);
	return -EPROTO;
}

static int broken(struct enroll_server *e, struct buf *reply)
{
	return refuse(e, &n_broken, REFUSE_PROTOCOL, "not an enrolment request", reply);
}

static int read_ca(const char *state_dir, struct buf *out)
{
	char path[4096];
	uint8_t chunk[4096];
	size_t n;
	FILE *f;
	int err;

	if (snprintf(path, sizeof(path), "%s/ca.pem", state_dir) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	f = fopen(path, "re");
	if (!f)
		return -errno;
	while ((n = fread(chunk, 1, sizeof(chunk), f)) > 0)
		wr_bytes(out, chunk, n);
	err = ferror(f) ? -EIO : out->bad ? -EFBIG : 0;
	fclose(f);
	return err;
}

static int put_enrolled(struct span cert, struct span ca, struct buf *reply)
{
	struct frame_enrolled m = {.cert_pem = cert, .ca_pem = ca};
	struct zblock_enc *enc = NULL;
	struct buf b;
	int err;

	buf_init(&b, FRAME_HEADER_LEN + FRAME_BODY_MAX);
	frame_put_enrolled(&b, &m);
	err = b.bad ? -EMSGSIZE : zblock_enc_new(&enc, 0);
	if (!err)
		err = zblock_encode(enc, ZBLOCK_CONTROL, 0, buf_span(&b), reply);
	zblock_enc_free(enc);
	buf_fini(&b);
	return err;
}

static int sign(struct enroll_server *e, const struct frame_enroll *m, const char *host,
		struct buf *reply)
{
	struct buf cert, ca;
	int err;

	buf_init(&cert, 16u << 10);
	buf_init(&ca, 16u << 10);
	err = pki_request_sign(e->state_dir, m->csr_der, host, &cert);
	if (!err)
		err = read_ca(e->state_dir, &ca);
	if (!err)
		err = put_enrolled(buf_span(&cert), buf_span(&ca), reply);
	buf_fini(&cert);
	buf_fini(&ca);
	return err;
}

static int on_request(struct enroll_server *e, const struct frame_enroll *m, struct buf *reply,
		      uint64_t now_s)
{
	char host[PKI_HOST_MAX + 1];
	int err = pki_token_redeem(e->state_dir, m->secret, now_s);

	if (err == -ENOENT)
		return refuse(e, &n_token, REFUSE_TOKEN, "the token is wrong or was used already",
			      reply);
	if (err == -ETIME)
		return refuse(e, &n_token, REFUSE_TOKEN, "the token has expired", reply);
	pki_host_clean(m->host, host, sizeof(host));
	if (!err)
		err = sign(e, m, host, reply);
	if (err == -EBADMSG)
		return broken(e, reply);
	if (err) {
		log_error("enroll: cannot sign: %s state_dir=%s", strerror(-err), e->state_dir);
		return refuse(e, &n_failed, REFUSE_INTERNAL,
			      "the collector cannot sign now; see its log", reply);
	}
	counter_inc(&n_enrolled);
	log_info("enroll: endpoint enrolled host=%s peer=%s", host, e->name);
	return 1;
}

static int on_frames(struct enroll_server *e, struct span frames, struct buf *reply, uint64_t now_s)
{
	struct frame_enroll m;
	struct frame f;
	ssize_t n = frame_decode(frames, &f);
	int ret;

	if (n <= 0 || f.type != FRAME_ENROLL || frame_get_enroll(&f, &m))
		return broken(e, reply);
	ret = on_request(e, &m, reply, now_s);
	OPENSSL_cleanse(m.secret, sizeof(m.secret));
	return ret;
}

int enroll_server_bytes(struct enroll_server *e, struct span bytes, struct buf *reply,
			uint64_t now_s)
{
	struct zblock z;
	ssize_t n;

	if (!e->state_dir)
		return refuse(e, &n_broken, REFUSE_INTERNAL,
			      "this collector uses certificates of your own PKI: give the endpoint "
			      "--ca, --cert and --key",
			      reply);
	wr_bytes(&e->in, bytes.p, bytes.len);
	if (e->in.bad)
		return broken(e, reply);
	n = zblock_decode(e->dec, buf_span(&e->in), &z);
	if (n == 0)
		return 0;
	if (n < 0 || z.kind != ZBLOCK_CONTROL)
		return broken(e, reply);
	return on_frames(e, z.frames, reply, now_s);
}
