/* SPDX-License-Identifier: Apache-2.0 */
/* pki: a state directory in a temporary place; what it makes is read back with OpenSSL alone. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "base/log.h"
#include "base/pki.h"

static char root[64], dir[96];

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
	(void)st;
	(void)type;
	(void)f;
	return remove(path);
}

static int setup(void **state)
{
	(void)state;
	log_set_level(LOG_ERROR);
	snprintf(root, sizeof(root), "/tmp/sslc-pki-XXXXXX");
	assert_non_null(mkdtemp(root));
	snprintf(dir, sizeof(dir), "%s/state", root);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	return nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static X509 *cert_of(const char *name)
{
	char path[160];
	X509 *cert;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "r");
	assert_non_null(f);
	cert = PEM_read_X509(f, NULL, NULL, NULL);
	fclose(f);
	assert_non_null(cert);
	return cert;
}

static X509 *cert_of_pem(const struct buf *pem)
{
	BIO *bio = BIO_new_mem_buf(pem->p, (int)pem->len);
	X509 *cert = PEM_read_bio_X509(bio, NULL, NULL, NULL);

	BIO_free(bio);
	assert_non_null(cert);
	return cert;
}

static unsigned mode_of(const char *name)
{
	char path[160];
	struct stat st;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	assert_int_equal(stat(path, &st), 0);
	return st.st_mode & 07777;
}

static int verify(X509 *leaf, X509 *ca, int purpose)
{
	X509_STORE *store = X509_STORE_new();
	X509_STORE_CTX *sc = X509_STORE_CTX_new();
	int ok;

	X509_STORE_add_cert(store, ca);
	X509_STORE_CTX_init(sc, store, leaf, NULL);
	X509_STORE_CTX_set_purpose(sc, purpose);
	ok = X509_verify_cert(sc);
	X509_STORE_CTX_free(sc);
	X509_STORE_free(store);
	return ok;
}

static void test_init_makes_a_ca_once_with_private_modes(void **state)
{
	X509 *first, *again;

	(void)state;
	assert_int_equal(pki_collector_init(dir), 1);
	first = cert_of("ca.pem");
	assert_int_equal(mode_of(""), 0700);
	assert_int_equal(mode_of("tokens"), 0700);
	assert_int_equal(mode_of("ca.key"), 0600);
	assert_int_equal(mode_of("collector.key"), 0600);
	assert_int_equal(pki_collector_init(dir), 0);
	again = cert_of("ca.pem");
	assert_int_equal(X509_cmp(first, again), 0);
	assert_int_equal(X509_check_ca(first), 1);
	X509_free(first);
	X509_free(again);
}

static void test_collector_certificate_is_a_server_only(void **state)
{
	X509 *ca, *leaf;
	time_t half_hour_ago = time(NULL) - 1800;

	(void)state;
	assert_int_equal(pki_collector_init(dir), 1);
	ca = cert_of("ca.pem");
	leaf = cert_of("collector.pem");
	assert_int_equal(verify(leaf, ca, X509_PURPOSE_SSL_SERVER), 1);
	assert_int_not_equal(verify(leaf, ca, X509_PURPOSE_SSL_CLIENT), 1);
	assert_int_equal(X509_cmp_time(X509_get0_notBefore(leaf), &half_hour_ago), -1);
	X509_free(ca);
	X509_free(leaf);
}

static void test_endpoint_certificate_is_a_client_only_and_for_its_key(void **state)
{
	struct buf key, csr, cert;
	char cn[128];
	X509 *ca, *leaf;
	EVP_PKEY *pkey;
	BIO *bio;

	(void)state;
	buf_init(&key, 1 << 16);
	buf_init(&csr, 1 << 16);
	buf_init(&cert, 1 << 16);
	assert_int_equal(pki_collector_init(dir), 1);
	assert_int_equal(pki_request_new(&key, &csr), 0);
	assert_int_equal(pki_request_sign(dir, buf_span(&csr), "we b/1\n", &cert), 0);
	ca = cert_of("ca.pem");
	leaf = cert_of_pem(&cert);
	assert_int_equal(verify(leaf, ca, X509_PURPOSE_SSL_CLIENT), 1);
	assert_int_not_equal(verify(leaf, ca, X509_PURPOSE_SSL_SERVER), 1);
	X509_NAME_get_text_by_NID(X509_get_subject_name(leaf), NID_commonName, cn, sizeof(cn));
	assert_string_equal(cn, "we_b_1_");
	bio = BIO_new_mem_buf(key.p, (int)key.len);
	pkey = PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL);
	assert_int_equal(X509_check_private_key(leaf, pkey), 1);
	BIO_free(bio);
	EVP_PKEY_free(pkey);
	X509_free(ca);
	X509_free(leaf);
	buf_cleanse(&key);
	buf_fini(&csr);
	buf_fini(&cert);
}

static void test_request_with_a_flipped_bit_is_not_signed(void **state)
{
	struct buf key, csr, cert;

	(void)state;
	buf_init(&key, 1 << 16);
	buf_init(&csr, 1 << 16);
	buf_init(&cert, 1 << 16);
	assert_int_equal(pki_collector_init(dir), 1);
	assert_int_equal(pki_request_new(&key, &csr), 0);
	for (size_t i = 0; i < csr.len; i++) {
		csr.p[i] ^= 1;
		if (pki_request_sign(dir, buf_span(&csr), "h", &cert) == 0) {
			/* DER that means the same: not possible for a signed request but in the
			 * signature's own algorithm parameters */
			fail_msg("byte %zu of the request may be changed", i);
		}
		csr.p[i] ^= 1;
	}
	for (size_t n = 0; n < csr.len; n++)
		assert_int_equal(pki_request_sign(dir, span_of(csr.p, n), "h", &cert), -EBADMSG);
	assert_int_equal(cert.len, 0);
	buf_cleanse(&key);
	buf_fini(&csr);
	buf_fini(&cert);
}

static void test_request_with_another_kind_of_key_is_not_signed(void **state)
{
	EVP_PKEY *key = EVP_EC_gen("P-384");
	X509_REQ *req = X509_REQ_new();
	unsigned char *der = NULL;
	struct buf cert;
	int n;

	(void)state;
	buf_init(&cert, 1 << 16);
	assert_int_equal(pki_collector_init(dir), 1);
	X509_REQ_set_pubkey(req, key);
	assert_true(X509_REQ_sign(req, key, EVP_sha256()) > 0);
	n = i2d_X509_REQ(req, &der);
	assert_int_equal(pki_request_sign(dir, span_of(der, (size_t)n), "h", &cert), -EBADMSG);
	OPENSSL_free(der);
	X509_REQ_free(req);
	EVP_PKEY_free(key);
	buf_fini(&cert);
}

static void test_token_is_redeemed_once(void **state)
{
	uint8_t secret[PKI_SECRET_LEN], fp[PKI_FINGERPRINT_LEN], ca_fp[PKI_FINGERPRINT_LEN];
	char token[PKI_TOKEN_STRLEN];
	uint64_t now = (uint64_t)time(NULL);
	X509 *ca;

	(void)state;
	assert_int_equal(pki_collector_init(dir), 1);
	assert_int_equal(pki_token_new(dir, 60, token), 0);
	assert_int_equal(strlen(token), 52); /* 256 bits in groups of 5 */
	assert_int_equal(pki_token_parse(token, secret, fp), 0);
	ca = cert_of("ca.pem");
	assert_int_equal(pki_fingerprint(ca, ca_fp), 0);
	assert_memory_equal(fp, ca_fp, sizeof(fp));
	X509_free(ca);
	secret[0] ^= 1;
	assert_int_equal(pki_token_redeem(dir, secret, now), -ENOENT);
	secret[0] ^= 1;
	assert_int_equal(pki_token_redeem(dir, secret, now), 0);
	assert_int_equal(pki_token_redeem(dir, secret, now), -ENOENT);
}

static void test_token_expires(void **state)
{
	uint8_t secret[PKI_SECRET_LEN], fp[PKI_FINGERPRINT_LEN];
	char token[PKI_TOKEN_STRLEN];
	uint64_t now = (uint64_t)time(NULL);

	(void)state;
	assert_int_equal(pki_collector_init(dir), 1);
	assert_int_equal(pki_token_new(dir, 60, token), 0);
	assert_int_equal(pki_token_parse(token, secret, fp), 0);
	assert_int_equal(pki_token_redeem(dir, secret, now + 62), -ETIME);
	assert_int_equal(pki_token_redeem(dir, secret, now + 58), 0);
}

static void test_token_ignores_case_and_dashes_and_nothing_else(void **state)
{
	uint8_t secret[PKI_SECRET_LEN], fp[PKI_FINGERPRINT_LEN], s2[PKI_SECRET_LEN];
	char token[PKI_TOKEN_STRLEN], text[2 * PKI_TOKEN_STRLEN] = "";

	(void)state;
	assert_int_equal(pki_collector_init(dir), 1);
	assert_int_equal(pki_token_new(dir, 60, token), 0);
	assert_int_equal(pki_token_parse(token, secret, fp), 0);
	for (size_t i = 0; token[i]; i++) {
		char c = token[i];

		sprintf(text + strlen(text), i % 4 ? "%c" : "-%c",
			c >= 'a' && c <= 'z' ? c - 32 : c);
	}
	assert_int_equal(pki_token_parse(text, s2, fp), 0);
	assert_memory_equal(secret, s2, sizeof(secret));
	for (size_t n = 0; n < 52; n++) {
		memcpy(text, token, n);
		text[n] = '\0';
		assert_int_equal(pki_token_parse(text, s2, fp), -EINVAL);
	}
	snprintf(text, sizeof(text), "%sa", token);
	assert_int_equal(pki_token_parse(text, s2, fp), -EINVAL);
	snprintf(text, sizeof(text), "%s", token);
	text[7] = '0';
	assert_int_equal(pki_token_parse(text, s2, fp), -EINVAL);
	snprintf(text, sizeof(text), "%s", token);
	text[51] = 'b'; /* value 1: a bit that belongs to no byte */
	assert_int_equal(pki_token_parse(text, s2, fp), -EINVAL);
}

static void test_token_secret_is_not_on_disk(void **state)
{
	char token[PKI_TOKEN_STRLEN], command[512];

	(void)state;
	assert_int_equal(pki_collector_init(dir), 1);
	assert_int_equal(pki_token_new(dir, 60, token), 0);
	token[20] = '\0'; /* the secret's part */
	snprintf(command, sizeof(command), "grep -rqi %s %s || ls -R %s | grep -qi %s", token, dir,
		 dir, token);
	assert_int_not_equal(system(command), 0);
}

static void test_directory_open_to_others_is_refused(void **state)
{
	(void)state;
	assert_int_equal(mkdir(dir, 0755), 0);
	assert_int_equal(chmod(dir, 0750), 0);
	assert_int_equal(pki_collector_init(dir), -EACCES);
	assert_int_equal(chmod(dir, 0700), 0);
	assert_int_equal(pki_collector_init(dir), 1);
}

static void test_directory_of_an_endpoint_is_refused(void **state)
{
	(void)state;
	assert_int_equal(pki_dir_prepare(dir), 0);
	assert_int_equal(pki_file_write(dir, "ca.pem", span_str("x"), 0644), 0);
	assert_int_equal(pki_collector_init(dir), -EEXIST);
}

static void test_broken_collector_certificate_is_made_again(void **state)
{
	X509 *leaf, *ca;

	(void)state;
	assert_int_equal(pki_collector_init(dir), 1);
	assert_int_equal(pki_file_write(dir, "collector.pem", span_str("x"), 0644), 0);
	assert_int_equal(pki_collector_init(dir), 0);
	leaf = cert_of("collector.pem");
	ca = cert_of("ca.pem");
	assert_int_equal(verify(leaf, ca, X509_PURPOSE_SSL_SERVER), 1);
	X509_free(leaf);
	X509_free(ca);
}

static void test_file_write_replaces_and_leaves_nothing_else(void **state)
{
	char path[160], text[8] = "";
	FILE *f;

	(void)state;
	assert_int_equal(pki_dir_prepare(dir), 0);
	assert_int_equal(pki_file_write(dir, "f", span_str("old"), 0600), 0);
	assert_int_equal(pki_file_write(dir, "f", span_str("new"), 0640), 0);
	assert_int_equal(mode_of("f"), 0640);
	snprintf(path, sizeof(path), "%s/f", dir);
	f = fopen(path, "r");
	assert_non_null(f);
	assert_int_equal(fread(text, 1, 7, f), 3);
	fclose(f);
	assert_string_equal(text, "new");
	assert_int_equal(unlink(path), 0);
	assert_int_equal(rmdir(dir), 0); /* empty: no temporary file stayed */
	assert_int_equal(pki_file_write(dir, "f", span_str("x"), 0600), -ENOENT);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_init_makes_a_ca_once_with_private_modes),
		T(test_collector_certificate_is_a_server_only),
		T(test_endpoint_certificate_is_a_client_only_and_for_its_key),
		T(test_request_with_a_flipped_bit_is_not_signed),
		T(test_request_with_another_kind_of_key_is_not_signed),
		T(test_token_is_redeemed_once),
		T(test_token_expires),
		T(test_token_ignores_case_and_dashes_and_nothing_else),
		T(test_token_secret_is_not_on_disk),
		T(test_directory_open_to_others_is_refused),
		T(test_directory_of_an_endpoint_is_refused),
		T(test_broken_collector_certificate_is_made_again),
		T(test_file_write_replaces_and_leaves_nothing_else),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
