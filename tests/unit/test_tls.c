/* SPDX-License-Identifier: Apache-2.0 */
/* tls: real handshakes between our contexts, over memory, with certificates that pki made. */
#include <errno.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <openssl/err.h>

#include "base/log.h"
#include "base/pki.h"
#include "base/tls.h"

static char root[64];
static char home[96], foreign[96]; /* two collectors' state directories, with an endpoint in each */

struct names {
	char ca[128], cert[128], key[128];
	struct tls_files f;
};

static struct tls_files files(struct names *n, const char *ca_dir, const char *dir, const char *who)
{
	snprintf(n->ca, sizeof(n->ca), "%s/ca.pem", ca_dir);
	snprintf(n->cert, sizeof(n->cert), "%s/%s.pem", dir, who);
	snprintf(n->key, sizeof(n->key), "%s/%s.key", dir, who);
	return (struct tls_files){.ca = n->ca, .cert = n->cert, .key = n->key};
}

static void make(const char *dir)
{
	struct buf key, csr, cert;

	buf_init(&key, 1 << 16);
	buf_init(&csr, 1 << 16);
	buf_init(&cert, 1 << 16);
	assert_int_equal(pki_collector_init(dir), 1);
	assert_int_equal(pki_request_new(&key, &csr), 0);
	assert_int_equal(pki_request_sign(dir, buf_span(&csr), "web1", &cert), 0);
	assert_int_equal(pki_file_write(dir, "agent.key", buf_span(&key), 0600), 0);
	assert_int_equal(pki_file_write(dir, "agent.pem", buf_span(&cert), 0644), 0);
	buf_cleanse(&key);
	buf_fini(&csr);
	buf_fini(&cert);
}

static int group_setup(void **state)
{
	(void)state;
	log_set_level(LOG_ERROR);
	snprintf(root, sizeof(root), "/tmp/sslc-tls-XXXXXX");
	assert_non_null(mkdtemp(root));
	snprintf(home, sizeof(home), "%s/home", root);
	snprintf(foreign, sizeof(foreign), "%s/foreign", root);
	make(home);
	make(foreign);
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
	(void)st;
	(void)type;
	(void)f;
	return remove(path);
}

static int group_teardown(void **state)
{
	(void)state;
	return nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

struct pair {
	SSL_CTX *cctx, *sctx;
	SSL *c, *s;
	bool client_done, server_done;
	unsigned long client_err, server_err;
};

static void pair_join(struct pair *p)
{
	BIO *a, *b;

	p->c = SSL_new(p->cctx);
	p->s = SSL_new(p->sctx);
	assert_int_equal(BIO_new_bio_pair(&a, 0, &b, 0), 1);
	SSL_set_bio(p->c, a, a);
	SSL_set_bio(p->s, b, b);
	SSL_set_connect_state(p->c);
	SSL_set_accept_state(p->s);
}

static bool step(SSL *ssl, unsigned long *err)
{
	char byte;
	int ret;

	if (*err)
		return false;
	ret = SSL_is_init_finished(ssl) ? SSL_read(ssl, &byte, 1) : SSL_do_handshake(ssl);
	if (ret <= 0 && SSL_get_error(ssl, ret) == SSL_ERROR_SSL)
		*err = ERR_peek_last_error();
	ERR_clear_error();
	return SSL_is_init_finished(ssl) && !*err;
}

/* Handshake, and then reads: a TLS 1.3 server's verdict reaches the client after the client is
 * done. */
static void pair_shake(struct pair *p)
{
	for (int i = 0; i < 10; i++) {
		p->client_done = step(p->c, &p->client_err);
		p->server_done = step(p->s, &p->server_err);
	}
}

static void pair_fini(struct pair *p)
{
	SSL_free(p->c);
	SSL_free(p->s);
	SSL_CTX_free(p->cctx);
	SSL_CTX_free(p->sctx);
}

static void client(struct pair *p, const char *ca_dir, const char *dir, const char *who)
{
	struct names n;
	struct tls_files f = files(&n, ca_dir, dir, who);

	assert_int_equal(tls_client_ctx(&p->cctx, &f, false), 0);
}

static void server(struct pair *p, const char *dir, const char *who, bool insecure)
{
	struct names n;
	struct tls_files f = files(&n, home, dir, who);

	assert_int_equal(tls_server_ctx(&p->sctx, &f, insecure), 0);
}

static void test_good_handshake_is_tls13_and_authenticates_both(void **state)
{
	struct pair p = {0};

	(void)state;
	client(&p, home, home, "agent");
	server(&p, home, "collector", false);
	pair_join(&p);
	pair_shake(&p);
	assert_true(p.client_done && p.server_done);
	assert_string_equal(SSL_get_version(p.c), "TLSv1.3");
	assert_non_null(SSL_get0_peer_certificate(p.s));
	assert_int_equal(SSL_get_verify_result(p.s), X509_V_OK);
	assert_int_equal(SSL_get_verify_result(p.c), X509_V_OK);
	pair_fini(&p);
}

static void test_server_sees_that_a_client_has_no_certificate(void **state)
{
	struct tls_files none = {0};
	struct pair p = {0};

	(void)state;
	assert_int_equal(tls_client_ctx(&p.cctx, &none, true), 0);
	server(&p, home, "collector", false);
	pair_join(&p);
	pair_shake(&p);
	assert_true(p.client_done && p.server_done);
	assert_null(SSL_get0_peer_certificate(p.s));
	pair_fini(&p);
}

static void test_client_of_a_foreign_ca_is_refused_and_told_so(void **state)
{
	struct pair p = {0};
	char text[64];

	(void)state;
	client(&p, home, foreign, "agent");
	server(&p, home, "collector", false);
	pair_join(&p);
	pair_shake(&p);
	assert_false(p.server_done);
	assert_int_not_equal(SSL_get_verify_result(p.s), X509_V_OK);
	assert_true(tls_is_auth_alert(p.client_err));
	assert_string_equal(tls_code_text(p.client_err, text, sizeof(text)), "unknown ca");
	pair_fini(&p);
}

static void test_server_of_a_foreign_ca_is_refused(void **state)
{
	struct pair p = {0};

	(void)state;
	client(&p, home, home, "agent");
	server(&p, foreign, "collector", false);
	pair_join(&p);
	pair_shake(&p);
	assert_false(p.client_done);
	assert_int_not_equal(SSL_get_verify_result(p.c), X509_V_OK);
	pair_fini(&p);
}

static void test_endpoint_cannot_pose_as_the_collector(void **state)
{
	struct pair p = {0};

	(void)state;
	client(&p, home, home, "agent");
	server(&p, home, "agent", false);
	pair_join(&p);
	pair_shake(&p);
	assert_false(p.client_done);
	assert_int_equal(SSL_get_verify_result(p.c), X509_V_ERR_INVALID_PURPOSE);
	pair_fini(&p);
}

static void test_collector_certificate_is_no_endpoint(void **state)
{
	struct pair p = {0};

	(void)state;
	client(&p, home, home, "collector");
	server(&p, home, "collector", false);
	pair_join(&p);
	pair_shake(&p);
	assert_false(p.server_done);
	assert_int_equal(SSL_get_verify_result(p.s), X509_V_ERR_INVALID_PURPOSE);
	assert_true(tls_is_auth_alert(p.client_err));
	pair_fini(&p);
}

static void test_insecure_server_does_not_free_a_client_from_verifying(void **state)
{
	struct pair p = {0};

	(void)state;
	client(&p, foreign, foreign, "agent");
	server(&p, home, "collector", true);
	pair_join(&p);
	pair_shake(&p);
	assert_false(p.client_done);
	pair_fini(&p);
}

static void test_tls12_peers_are_refused(void **state)
{
	struct pair p = {0};

	(void)state;
	p.cctx = SSL_CTX_new(TLS_client_method());
	SSL_CTX_set_max_proto_version(p.cctx, TLS1_2_VERSION);
	server(&p, home, "collector", false);
	pair_join(&p);
	pair_shake(&p);
	assert_false(p.client_done || p.server_done);
	pair_fini(&p);

	p = (struct pair){0};
	client(&p, home, home, "agent");
	server(&p, home, "collector", false);
	SSL_CTX_set_min_proto_version(p.sctx, TLS1_2_VERSION);
	SSL_CTX_set_max_proto_version(p.sctx, TLS1_2_VERSION);
	pair_join(&p);
	pair_shake(&p);
	assert_false(p.client_done || p.server_done);
	pair_fini(&p);
}

static void test_missing_and_mismatched_files_are_errors(void **state)
{
	struct names n, m;
	struct tls_files f = files(&n, home, home, "nobody"), g = files(&m, home, home, "agent");
	SSL_CTX *ctx = NULL;

	(void)state;
	assert_int_equal(tls_client_ctx(&ctx, &f, false), -ENOENT);
	assert_int_equal(tls_server_ctx(&ctx, &f, true), -ENOENT);
	g.key = NULL;
	assert_int_equal(tls_client_ctx(&ctx, &g, false), -EINVAL);
	g = files(&m, home, home, "agent");
	snprintf(m.key, sizeof(m.key), "%s/collector.key", home);
	assert_true(tls_client_ctx(&ctx, &g, false) < 0);
	assert_null(ctx);
	assert_int_equal(ERR_peek_error(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good_handshake_is_tls13_and_authenticates_both),
		cmocka_unit_test(test_server_sees_that_a_client_has_no_certificate),
		cmocka_unit_test(test_client_of_a_foreign_ca_is_refused_and_told_so),
		cmocka_unit_test(test_server_of_a_foreign_ca_is_refused),
		cmocka_unit_test(test_endpoint_cannot_pose_as_the_collector),
		cmocka_unit_test(test_collector_certificate_is_no_endpoint),
		cmocka_unit_test(test_insecure_server_does_not_free_a_client_from_verifying),
		cmocka_unit_test(test_tls12_peers_are_refused),
		cmocka_unit_test(test_missing_and_mismatched_files_are_errors),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
