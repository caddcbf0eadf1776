/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pki: the certificate authority behind enrolment. Files of one state directory in and out; signing
 * requests in, certificates out. Keys are written with mode 0600 and their buffers cleansed; tokens
 * are stored as hashes only. Never logs a key or a token.
 */
#include "base/pki.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"

#define DAY_S          (24L * 60 * 60)
#define BACKDATE_S     (60L * 60)     /* an endpoint's clock may run behind the collector's */
#define CA_VALID_S     (3652 * DAY_S) /* ten years */
#define LEAF_VALID_S   (825 * DAY_S)
#define LEAF_RENEW_S   (30 * DAY_S)
#define TOKEN_KEEP_S   (7 * DAY_S) /* so long the answer is "expired", not "wrong" */
#define FILE_MAX       (64u << 10) /* our largest file is a few KB */
#define TOKEN_HEX_LEN  64          /* SHA-256 as hex: a token's file name */
#define TOKEN_BODY_LEN (PKI_SECRET_LEN + PKI_FINGERPRINT_LEN)

#define SERVER_AUTH "serverAuth"
#define CLIENT_AUTH "clientAuth"

/* ---- files ---- */

int pki_dir_prepare(const char *dir)
{
	struct stat st;

	if (mkdir(dir, 0700) < 0 && errno != EEXIST) {
		int err = -errno;

		log_error("pki: state directory: %s path=%s", strerror(-err), dir);
		return err;
	}
	if (stat(dir, &st) < 0) {
		int err = -errno;

		log_error("pki: state directory: %s path=%s", strerror(-err), dir);
		return err;
	}
	if (!S_ISDIR(st.st_mode)) {
		log_error("pki: state directory: not a directory path=%s", dir);
		return -ENOTDIR;
	}
	if (st.st_uid != geteuid() && st.st_uid != 0) {
		log_error("pki: state directory: belongs to another user path=%s uid=%u", dir,
			  (unsigned)st.st_uid);
		return -EACCES;
	}
	if (st.st_mode & 077) {
		log_error("pki: state directory: private keys in a directory open to others; run: "
			  "chmod 700 %s (mode is %04o)",
			  dir, (unsigned)(st.st_mode & 07777));
		return -EACCES;
	}
	return 0;
}

static int dir_open(const char *dir)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static int write_all(int fd, struct span s)
{
	while (s.len) {
		ssize_t n = write(fd, s.p, s.len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		s = span_of(s.p + n, s.len - (size_t)n);
	}
	return 0;
}

static int write_temp(int dirfd, const char *temp, struct span contents, unsigned mode)
{
	int fd, err;

	fd = openat(dirfd, temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	err = write_all(fd, contents);
	if (!err && fchmod(fd, mode) < 0)
		err = -errno;
	if (!err && fsync(fd) < 0)
		err = -errno;
	if (close(fd) < 0 && !err)
		err = -errno;
	return err;
}

int pki_file_write(const char *dir, const char *name, struct span contents, unsigned mode)
{
	char temp[256];
	int dirfd, err;

	if (snprintf(temp, sizeof(temp), ".%s.%ld.new", name, (long)getpid()) >= (int)sizeof(temp))
		return -ENAMETOOLONG;
	dirfd = dir_open(dir);
	if (dirfd < 0)
		return dirfd;
	unlinkat(dirfd, temp, 0); /* left by a process that died under our pid */
	err = write_temp(dirfd, temp, contents, mode);
	if (!err && renameat(dirfd, temp, dirfd, name) < 0)
		err = -errno;
	if (err)
		unlinkat(dirfd, temp, 0);
	else if (fsync(dirfd) < 0)
		err = -errno;
	close(dirfd);
	return err;
}

/* The caller cleanses `out`. */
static int file_read_at(int dirfd, const char *name, struct buf *out)
{
	uint8_t chunk[4096];
	ssize_t n;
	int fd, err = 0;

	fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return -errno;
	while ((n = read(fd, chunk, sizeof(chunk))) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			err = -errno;
			break;
		}
		wr_bytes(out, chunk, (size_t)n);
	}
	if (!err && out->bad)
		err = -EFBIG;
	OPENSSL_cleanse(chunk, sizeof(chunk));
	close(fd);
	return err;
}

static int file_read(const char *dir, const char *name, struct buf *out)
{
	int dirfd = dir_open(dir), err;

	if (dirfd < 0)
		return dirfd;
	err = file_read_at(dirfd, name, out);
	close(dirfd);
	return err;
}

static bool file_exists(int dirfd, const char *name)
{
	return faccessat(dirfd, name, F_OK, 0) == 0;
}

static int cert_load(const char *dir, const char *name, X509 **out)
{
	struct buf b;
	BIO *bio = NULL;
	int err;

	buf_init(&b, FILE_MAX);
	err = file_read(dir, name, &b);
	if (!err) {
		bio = BIO_new_mem_buf(b.p, (int)b.len);
		*out = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
		if (!*out)
			err = -EINVAL;
	}
	BIO_free(bio);
	buf_fini(&b);
	ERR_clear_error();
	return err;
}

static int key_load(const char *dir, const char *name, EVP_PKEY **out)
{
	struct buf b;
	BIO *bio = NULL;
	int err;

	buf_init(&b, FILE_MAX);
	err = file_read(dir, name, &b);
	if (!err) {
		bio = BIO_new_mem_buf(b.p, (int)b.len);
		*out = bio ? PEM_read_bio_PrivateKey(bio, NULL, NULL, (void *)"") : NULL;
		if (!*out)
			err = -EINVAL;
	}
	BIO_free(bio);
	buf_cleanse(&b);
	ERR_clear_error();
	return err;
}

/* ---- shapes ---- */

static int bio_into(BIO *bio, struct buf *out)
{
	char *p = NULL;
	long n = BIO_get_mem_data(bio, &p);

	if (n <= 0)
		return -ENOMEM;
	wr_bytes(out, p, (size_t)n);
	return out->bad ? -ENOMEM : 0;
}

static int cert_to_pem(X509 *cert, struct buf *out)
{
	BIO *bio = BIO_new(BIO_s_mem());
	int err = -ENOMEM;

	if (bio && PEM_write_bio_X509(bio, cert) == 1)
		err = bio_into(bio, out);
	BIO_free(bio);
	return err;
}

/* A memory BIO overwrites what it held when it is freed (BUF_MEM_free). */
static int key_to_pem(EVP_PKEY *key, struct buf *out)
{
	BIO *bio = BIO_new(BIO_s_mem());
	int err = -ENOMEM;

	if (bio && PEM_write_bio_PKCS8PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) == 1)
		err = bio_into(bio, out);
	BIO_free(bio);
	return err;
}

static int cert_write(const char *dir, const char *name, X509 *cert, X509 *issuer)
{
	struct buf b;
	int err;

	buf_init(&b, FILE_MAX);
	err = cert_to_pem(cert, &b);
	if (!err && issuer)
		err = cert_to_pem(issuer, &b);
	if (!err)
		err = pki_file_write(dir, name, buf_span(&b), 0644);
	buf_fini(&b);
	return err;
}

static int key_write(const char *dir, const char *name, EVP_PKEY *key)
{
	struct buf b;
	int err;

	buf_init(&b, FILE_MAX);
	err = key_to_pem(key, &b);
	if (!err)
		err = pki_file_write(dir, name, buf_span(&b), 0600);
	buf_cleanse(&b);
	return err;
}

/* ---- certificates ---- */

static bool add_ext(X509 *cert, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509_EXTENSION *ext;
	bool ok;

	X509V3_set_ctx_nodb(&ctx);
	X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
	ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	ok = ext && X509_add_ext(cert, ext, -1) == 1;
	X509_EXTENSION_free(ext);
	return ok;
}

static bool set_serial(X509 *cert)
{
	uint8_t raw[16];
	BIGNUM *bn = NULL;
	bool ok = false;

	if (RAND_bytes(raw, sizeof(raw)) == 1) {
		raw[0] = (uint8_t)((raw[0] & 0x7f) |
				   0x40); /* positive, 16 bytes (RFC 5280, 4.1.2.2) */
		bn = BN_bin2bn(raw, sizeof(raw), NULL);
		ok = bn && BN_to_ASN1_INTEGER(bn, X509_get_serialNumber(cert));
	}
	BN_free(bn);
	return ok;
}

static bool set_subject(X509 *cert, const char *cn)
{
	return X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_ASC,
					  (const unsigned char *)cn, -1, -1, 0) == 1;
}

/* What all our certificates share; the caller adds extensions and signs. issuer NULL: self-signed.
 */
static X509 *cert_begin(EVP_PKEY *key, const char *cn, X509 *issuer, long valid_s)
{
	X509 *cert = X509_new();

	if (cert && X509_set_version(cert, X509_VERSION_3) == 1 && set_serial(cert) &&
	    set_subject(cert, cn) &&
	    X509_set_issuer_name(cert, X509_get_subject_name(issuer ? issuer : cert)) == 1 &&
	    X509_gmtime_adj(X509_getm_notBefore(cert), -BACKDATE_S) &&
	    X509_gmtime_adj(X509_getm_notAfter(cert), valid_s) && X509_set_pubkey(cert, key) == 1)
		return cert;
	X509_free(cert);
	return NULL;
}

static X509 *ca_cert_new(EVP_PKEY *key)
{
	char cn[48];
	uint8_t tag[4];
	X509 *cert = NULL;

	if (RAND_bytes(tag, sizeof(tag)) != 1)
		return NULL;
	/* A name of its own: two collectors' CAs must not look like one to path building. */
	snprintf(cn, sizeof(cn), "sslcollector CA %02x%02x%02x%02x", tag[0], tag[1], tag[2],
		 tag[3]);
	cert = cert_begin(key, cn, NULL, CA_VALID_S);
	if (cert && add_ext(cert, cert, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
	    add_ext(cert, cert, NID_key_usage, "critical,keyCertSign,cRLSign") &&
	    add_ext(cert, cert, NID_subject_key_identifier, "hash") &&
	    X509_sign(cert, key, EVP_sha256()) > 0)
		return cert;
	X509_free(cert);
	return NULL;
}

static X509 *leaf_cert_new(EVP_PKEY *key, const char *cn, const char *purpose, X509 *ca,
			   EVP_PKEY *ca_key)
{
	X509 *cert = cert_begin(key, cn, ca, LEAF_VALID_S);

	if (cert && add_ext(cert, ca, NID_basic_constraints, "critical,CA:FALSE") &&
	    add_ext(cert, ca, NID_key_usage, "critical,digitalSignature") &&
	    add_ext(cert, ca, NID_ext_key_usage, purpose) &&
	    add_ext(cert, ca, NID_subject_key_identifier, "hash") &&
	    add_ext(cert, ca, NID_authority_key_identifier, "keyid") &&
	    X509_sign(cert, ca_key, EVP_sha256()) > 0)
		return cert;
	X509_free(cert);
	return NULL;
}

/* ---- the collector's authority ---- */

struct authority {
	X509 *cert;
	EVP_PKEY *key;
};

static void authority_fini(struct authority *a)
{
	X509_free(a->cert);
	EVP_PKEY_free(a->key);
	*a = (struct authority){0};
}

static int authority_load(const char *dir, struct authority *a)
{
	int err = cert_load(dir, "ca.pem", &a->cert);

	if (!err)
		err = key_load(dir, "ca.key", &a->key);
	if (!err && X509_check_private_key(a->cert, a->key) != 1)
		err = -EINVAL;
	if (err)
		authority_fini(a);
	ERR_clear_error();
	return err;
}

/* The key first: a crash in between leaves a key that nobody trusts yet, and both are made again.
 */
static int authority_make(const char *dir, struct authority *a)
{
	int err = -ENOMEM;

	a->key = EVP_EC_gen("P-256");
	if (a->key)
		a->cert = ca_cert_new(a->key);
	if (a->cert)
		err = key_write(dir, "ca.key", a->key);
	if (!err)
		err = cert_write(dir, "ca.pem", a->cert, NULL);
	if (err)
		authority_fini(a);
	return err;
}

/* 0: loaded, 1: made now. */
static int authority_open(const char *dir, int dirfd, struct authority *a)
{
	int err;

	if (!file_exists(dirfd, "ca.pem")) {
		err = authority_make(dir, a);
		if (err)
			log_error("pki: cannot make the CA: %s path=%s", strerror(-err), dir);
		return err ? err : 1;
	}
	if (!file_exists(dirfd, "ca.key")) {
		log_error(
			"pki: %s holds ca.pem but no ca.key: it was enrolled as an endpoint; give "
			"the collector a --state-dir of its own",
			dir);
		return -EEXIST;
	}
	err = authority_load(dir, a);
	if (err)
		log_error("pki: cannot use ca.pem and ca.key: %s path=%s",
			  err == -EINVAL ? "broken, or not a pair" : strerror(-err), dir);
	return err;
}

static bool leaf_is_good(const char *dir, const struct authority *a)
{
	time_t horizon = time(NULL) + LEAF_RENEW_S;
	EVP_PKEY *key = NULL;
	X509 *cert = NULL;
	bool ok;

	ok = cert_load(dir, "collector.pem", &cert) == 0 &&
	     key_load(dir, "collector.key", &key) == 0 && X509_check_private_key(cert, key) == 1 &&
	     X509_verify(cert, X509_get0_pubkey(a->cert)) == 1 &&
	     X509_cmp_time(X509_get0_notAfter(cert), &horizon) > 0;
	X509_free(cert);
	EVP_PKEY_free(key);
	ERR_clear_error();
	return ok;
}

/* collector.pem carries the CA too, so that an endpoint can hold it against its token. */
static int leaf_make(const char *dir, const struct authority *a)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *cert = NULL;
	int err = -ENOMEM;

	if (key)
		cert = leaf_cert_new(key, "sslcollector", SERVER_AUTH, a->cert, a->key);
	if (cert)
		err = key_write(dir, "collector.key", key);
	if (!err)
		err = cert_write(dir, "collector.pem", cert, a->cert);
	if (err)
		log_error("pki: cannot make the collector's certificate: %s path=%s",
			  strerror(-err), dir);
	X509_free(cert);
	EVP_PKEY_free(key);
	ERR_clear_error();
	return err;
}

static int tokens_dir_make(int dirfd, const char *dir)
{
	if (mkdirat(dirfd, "tokens", 0700) < 0 && errno != EEXIST) {
		int err = -errno;

		log_error("pki: tokens directory: %s path=%s", strerror(-err), dir);
		return err;
	}
	return 0;
}

int pki_collector_init(const char *state_dir)
{
	struct authority a = {0};
	int dirfd, err, made = 0;

	err = pki_dir_prepare(state_dir);
	if (err)
		return err;
	dirfd = dir_open(state_dir);
	if (dirfd < 0)
		return dirfd;
	if (flock(dirfd, LOCK_EX) < 0) { /* two collectors' first start at once; closing unlocks */
		err = -errno;
		goto out;
	}
	made = authority_open(state_dir, dirfd, &a);
	err = made < 0 ? made : tokens_dir_make(dirfd, state_dir);
	if (!err && !leaf_is_good(state_dir, &a))
		err = leaf_make(state_dir, &a);
out:
	close(dirfd);
	authority_fini(&a);
	return err ? err : made;
}

int pki_upstream_dir(const char *state_dir, char *out, size_t size)
{
	return (size_t)snprintf(out, size, "%s/upstream", state_dir) < size ? 0 : -ENAMETOOLONG;
}

int pki_fingerprint(struct x509_st *cert, uint8_t out[PKI_FINGERPRINT_LEN])
{
	uint8_t md[EVP_MAX_MD_SIZE];
	unsigned n = 0;

	if (X509_digest(cert, EVP_sha256(), md, &n) != 1 || n < PKI_FINGERPRINT_LEN)
		return -EINVAL;
	memcpy(out, md, PKI_FINGERPRINT_LEN);
	return 0;
}

/* ---- tokens ---- */

static const char base32[] = "abcdefghijklmnopqrstuvwxyz234567"; /* RFC 4648, section 6 */

static void base32_encode(const uint8_t *in, size_t len, char *out)
{
	unsigned acc = 0, bits = 0;

	for (size_t i = 0; i < len; i++) {
		acc = (acc << 8 | in[i]) & 0xfff; /* at most 4 bits wait, plus 8 */
		for (bits += 8; bits >= 5; bits -= 5)
			*out++ = base32[acc >> (bits - 5) & 31];
	}
	if (bits)
		*out++ = base32[acc << (5 - bits) & 31];
	*out = '\0';
}

static int base32_value(char c)
{
	if (c >= 'a' && c <= 'z')
		return c - 'a';
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= '2' && c <= '7')
		return c - '2' + 26;
	return -1;
}

/* Exactly `len` bytes, left-over bits zero: one token has one spelling but for case and dashes. */
static int base32_decode(const char *in, uint8_t *out, size_t len)
{
	unsigned acc = 0, bits = 0;
	size_t n = 0;

	for (; *in; in++) {
		int v;

		if (*in == '-' || *in == ' ')
			continue;
		v = base32_value(*in);
		if (v < 0)
			return -EINVAL;
		acc = (acc << 5 | (unsigned)v) & 0xfff;
		bits += 5;
		if (bits < 8)
			continue;
		if (n == len)
			return -EINVAL;
		bits -= 8;
		out[n++] = (uint8_t)(acc >> bits);
	}
	if (n != len || bits >= 5 || (acc & ((1u << bits) - 1)))
		return -EINVAL;
	return 0;
}

int pki_token_parse(const char *text, uint8_t secret[PKI_SECRET_LEN],
		    uint8_t fingerprint[PKI_FINGERPRINT_LEN])
{
	uint8_t raw[TOKEN_BODY_LEN];
	int err = base32_decode(text, raw, sizeof(raw));

	if (!err) {
		memcpy(secret, raw, PKI_SECRET_LEN);
		memcpy(fingerprint, raw + PKI_SECRET_LEN, PKI_FINGERPRINT_LEN);
	}
	OPENSSL_cleanse(raw, sizeof(raw));
	return err;
}

/* A token's file is named by the hash of its secret: the directory tells nobody a usable token. */
static void token_name(const uint8_t secret[PKI_SECRET_LEN], char out[TOKEN_HEX_LEN + 1])
{
	uint8_t md[SHA256_DIGEST_LENGTH];

	SHA256(secret, PKI_SECRET_LEN, md);
	for (size_t i = 0; i < sizeof(md); i++)
		snprintf(out + 2 * i, 3, "%02x", md[i]);
}

static int tokens_path(const char *state_dir, char *out, size_t len)
{
	return snprintf(out, len, "%s/tokens", state_dir) >= (int)len ? -ENAMETOOLONG : 0;
}

/* The only content of a token's file is when it expires. */
static int token_expiry(int dirfd, const char *name, uint64_t *expires_s)
{
	struct buf b;
	char text[32], *end;
	int err;

	buf_init(&b, sizeof(text) - 1);
	err = file_read_at(dirfd, name, &b);
	if (!err) {
		memcpy(text, b.len ? b.p : (const uint8_t *)"", b.len);
		text[b.len] = '\0';
		*expires_s = strtoull(text, &end, 10);
		if (end == text || *end != '\n')
			err = -EINVAL;
	}
	buf_fini(&b);
	return err;
}

static void tokens_sweep(int dirfd, uint64_t now_s)
{
	DIR *d;
	struct dirent *e;
	uint64_t expires_s;
	int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return;
	d = fdopendir(fd);
	if (!d) {
		close(fd);
		return;
	}
	while ((e = readdir(d)))
		if (strlen(e->d_name) == TOKEN_HEX_LEN &&
		    token_expiry(dirfd, e->d_name, &expires_s) == 0 &&
		    expires_s + TOKEN_KEEP_S < now_s)
			unlinkat(dirfd, e->d_name, 0);
	closedir(d);
}

static int token_store(const char *state_dir, const uint8_t secret[PKI_SECRET_LEN], unsigned ttl_s)
{
	char dir[4096], name[TOKEN_HEX_LEN + 1], text[32];
	uint64_t now_s = (uint64_t)time(NULL);
	int dirfd, err;

	err = tokens_path(state_dir, dir, sizeof(dir));
	if (err)
		return err;
	dirfd = dir_open(dir);
	if (dirfd < 0)
		return dirfd;
	tokens_sweep(dirfd, now_s);
	close(dirfd);
	token_name(secret, name);
	snprintf(text, sizeof(text), "%llu\n", (unsigned long long)(now_s + ttl_s));
	return pki_file_write(dir, name, span_str(text), 0600);
}

int pki_token_new(const char *state_dir, unsigned ttl_s, char out[PKI_TOKEN_STRLEN])
{
	uint8_t raw[TOKEN_BODY_LEN];
	X509 *ca = NULL;
	int err;

	err = cert_load(state_dir, "ca.pem", &ca);
	if (err) {
		log_error("pki: no CA to print a token for: %s path=%s: start `sslcollector -C` "
			  "once, "
			  "or give its --state-dir",
			  strerror(-err), state_dir);
		return err;
	}
	err = RAND_bytes(raw, PKI_SECRET_LEN) == 1 ? 0 : -EIO;
	if (!err)
		err = pki_fingerprint(ca, raw + PKI_SECRET_LEN);
	if (!err)
		err = token_store(state_dir, raw, ttl_s);
	if (!err)
		base32_encode(raw, sizeof(raw), out);
	else
		log_error(
			"pki: cannot store a token: %s path=%s/tokens: is this a collector's state "
			"directory?",
			strerror(-err), state_dir);
	OPENSSL_cleanse(raw, sizeof(raw));
	X509_free(ca);
	return err;
}

int pki_token_redeem(const char *state_dir, const uint8_t secret[PKI_SECRET_LEN], uint64_t now_s)
{
	char dir[4096], name[TOKEN_HEX_LEN + 1];
	uint64_t expires_s = 0;
	int dirfd, err;

	err = tokens_path(state_dir, dir, sizeof(dir));
	if (err)
		return err;
	dirfd = dir_open(dir);
	if (dirfd < 0)
		return dirfd;
	token_name(secret, name);
	err = token_expiry(dirfd, name, &expires_s);
	if (!err && now_s >= expires_s)
		err = -ETIME;
	/* Of several processes only one can remove a name: that one has redeemed it. */
	if (!err && unlinkat(dirfd, name, 0) < 0)
		err = -errno;
	close(dirfd);
	return err;
}

/* ---- requests ---- */

void pki_host_clean(struct span host, char *out, size_t size)
{
	size_t n = host.len < PKI_HOST_MAX ? host.len : PKI_HOST_MAX;

	if (n > size - 1)
		n = size - 1;
	for (size_t i = 0; i < n; i++) {
		char c = (char)host.p[i];
		bool ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
			  (c >= '0' && c <= '9') || c == '.' || c == '-' || c == '_';

		out[i] = c;
		if (!ok)
			out[i] = '_';
	}
	out[n] = '\0';
	if (!n)
		snprintf(out, size, "unnamed");
}

static int request_to_der(EVP_PKEY *key, struct buf *out)
{
	X509_REQ *req = X509_REQ_new();
	unsigned char *der = NULL;
	int n = -1, err = -ENOMEM;

	if (req && X509_REQ_set_pubkey(req, key) == 1 && X509_REQ_sign(req, key, EVP_sha256()) > 0)
		n = i2d_X509_REQ(req, &der);
	if (n > 0) {
		wr_bytes(out, der, (size_t)n);
		err = out->bad ? -ENOMEM : 0;
	}
	OPENSSL_free(der);
	X509_REQ_free(req);
	return err;
}

int pki_request_new(struct buf *key_pem, struct buf *csr_der)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	int err = -ENOMEM;

	if (key)
		err = key_to_pem(key, key_pem);
	if (!err)
		err = request_to_der(key, csr_der);
	EVP_PKEY_free(key);
	ERR_clear_error();
	return err;
}

/* P-256 only: what our endpoints send; a foreign key type could make verification expensive. */
static bool is_p256(EVP_PKEY *key)
{
	char group[32];

	return key && EVP_PKEY_is_a(key, "EC") &&
	       EVP_PKEY_get_group_name(key, group, sizeof(group), NULL) == 1 &&
	       strcmp(group, "prime256v1") == 0;
}

/* Nothing of the request is copied into the certificate but its key. */
static int request_open(struct span csr_der, X509_REQ **out)
{
	const unsigned char *p = csr_der.p;
	X509_REQ *req = d2i_X509_REQ(NULL, &p, (long)csr_der.len);
	EVP_PKEY *key = req ? X509_REQ_get0_pubkey(req) : NULL;

	if (p == csr_der.p + csr_der.len && is_p256(key) && X509_REQ_verify(req, key) == 1) {
		*out = req;
		return 0;
	}
	X509_REQ_free(req);
	ERR_clear_error();
	return -EBADMSG;
}

int pki_request_sign(const char *state_dir, struct span csr_der, const char *host,
		     struct buf *cert_pem)
{
	char cn[PKI_HOST_MAX + 1];
	struct authority a = {0};
	X509_REQ *req = NULL;
	X509 *cert = NULL;
	int err;

	if (!csr_der.len || csr_der.len > FILE_MAX)
		return -EBADMSG;
	pki_host_clean(span_str(host), cn, sizeof(cn));
	err = request_open(csr_der, &req);
	if (!err)
		err = authority_load(state_dir, &a);
	if (!err) {
		cert = leaf_cert_new(X509_REQ_get0_pubkey(req), cn, CLIENT_AUTH, a.cert, a.key);
		err = cert ? cert_to_pem(cert, cert_pem) : -ENOMEM;
	}
	X509_free(cert);
	X509_REQ_free(req);
	authority_fini(&a);
	ERR_clear_error();
	return err;
}
