/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bio: OpenSSL's BIOs. libssl takes records from one and gives them to one, whatever lies behind
 * it: inside a TLS call that shows which records are the object's. And a program may read and write
 * through an SSL BIO (BIO_f_ssl): libssl does that inside itself, so the BIO's calls are the
 * object's.
 */
#include "preload.h"

typedef struct bio_st BIO;

#define CRYPTO_FUNCTIONS(X)                                                                        \
	X(int, BIO_read, (BIO *, void *, int))                                                     \
	X(int, BIO_read_ex, (BIO *, void *, size_t, size_t *))                                     \
	X(int, BIO_write, (BIO *, const void *, int))                                              \
	X(int, BIO_write_ex, (BIO *, const void *, size_t, size_t *))

/* Asked, not wrapped. */
typedef int method_type_fn(const BIO *);
typedef long ctrl_fn(BIO *, int, long, void *);

#define DECLARE(type, name, arguments) EXPORT type name arguments;
CRYPTO_FUNCTIONS(DECLARE)

#define NUMBER(type, name, arguments) AT_##name,
enum {
	CRYPTO_FUNCTIONS(NUMBER) N_WRAPPED,
	AT_method_type = N_WRAPPED,
	AT_ctrl,
	N_CRYPTO,
};
_Static_assert(N_CRYPTO <= LIB_FUNCTIONS, "room in struct lib");

#define NAME(type, name, arguments) #name,
static const char *const names[] = {CRYPTO_FUNCTIONS(NAME) "BIO_method_type", "BIO_ctrl"};

#define WRAPPER(type, name, arguments) (any_fn) name,
static const any_fn wrappers[] = {CRYPTO_FUNCTIONS(WRAPPER)};

struct family crypto_family = {.names = names,
			       .wrappers = wrappers,
			       .n = N_CRYPTO,
			       .n_wrapped = N_WRAPPED,
			       .telling = AT_BIO_read,
			       .file = "libcrypto."};

#define LIB           (lib_of_caller(&crypto_family, CALLER))
#define REAL(l, name) ((__typeof__(&name))(l)->fn[AT_##name])

/* openssl/bio.h */
#define TYPE_SSL 0x0207
#define GET_SSL  110

/* The object of an SSL BIO; 0: another BIO. */
static uint64_t ssl_of(const struct lib *l, BIO *b)
{
	void *ssl = NULL;

	if (!b || LIKELY(((method_type_fn *)l->fn[AT_method_type])(b) != TYPE_SSL))
		return 0;
	if (((ctrl_fn *)l->fn[AT_ctrl])(b, GET_SSL, 0, &ssl) != 1)
		return 0;
	return (uint64_t)(uintptr_t)ssl;
}

/* What an _ex call says that it moved: in the program's memory, where others may write. */
static uint64_t said(int ret, const size_t *n, size_t most)
{
	size_t v = ret == 1 && n ? *(const volatile size_t *)n : 0;

	return v < most ? v : most;
}

/* What it moves needs no look: nothing but the real call, to which is jumped. */
static bool is_quiet(uint64_t ssl)
{
	return LIKELY(!ssl && (shim_thread.quick || !shim_thread.depth));
}

static void passed(enum sslc_dir dir, const void *p, uint64_t n)
{
	if (n && shim_thread.depth && shim_thread.depth <= CALL_DEPTH && shim_own->ring)
		call_passed(dir, p, n);
}

EXPORT int BIO_read(BIO *b, void *buf, int len)
{
	const struct lib *l = LIB;
	uint64_t ssl = ssl_of(l, b);
	int at, ret;

	if (is_quiet(ssl))
		return REAL(l, BIO_read)(b, buf, len);
	at = ssl ? call_begin(ssl, SSLC_CALL_READ) : 0;
	ret = REAL(l, BIO_read)(b, buf, len);
	if (ssl)
		call_end(at, ssl, SSLC_CALL_READ, buf, ret > 0 ? (uint64_t)ret : 0);
	else if (ret > 0)
		passed(SSLC_DIR_IN, buf, (uint64_t)ret);
	return ret;
}

EXPORT int BIO_read_ex(BIO *b, void *buf, size_t len, size_t *n)
{
	const struct lib *l = LIB;
	uint64_t ssl = ssl_of(l, b);
	int at, ret;

	if (is_quiet(ssl))
		return REAL(l, BIO_read_ex)(b, buf, len, n);
	at = ssl ? call_begin(ssl, SSLC_CALL_READ_EX) : 0;
	ret = REAL(l, BIO_read_ex)(b, buf, len, n);
	if (ssl)
		call_end(at, ssl, SSLC_CALL_READ_EX, buf, said(ret, n, len));
	else
		passed(SSLC_DIR_IN, buf, said(ret, n, len));
	return ret;
}

EXPORT int BIO_write(BIO *b, const void *buf, int len)
{
	const struct lib *l = LIB;
	uint64_t ssl = ssl_of(l, b);
	int at, ret;

	if (is_quiet(ssl))
		return REAL(l, BIO_write)(b, buf, len);
	at = ssl ? call_begin(ssl, SSLC_CALL_WRITE) : 0;
	ret = REAL(l, BIO_write)(b, buf, len);
	if (ssl)
		call_end(at, ssl, SSLC_CALL_WRITE, buf, ret > 0 ? (uint64_t)ret : 0);
	else if (ret > 0)
		passed(SSLC_DIR_OUT, buf, (uint64_t)ret);
	return ret;
}

EXPORT int BIO_write_ex(BIO *b, const void *buf, size_t len, size_t *n)
{
	const struct lib *l = LIB;
	uint64_t ssl = ssl_of(l, b);
	int at, ret;

	if (is_quiet(ssl))
		return REAL(l, BIO_write_ex)(b, buf, len, n);
	at = ssl ? call_begin(ssl, SSLC_CALL_WRITE_EX) : 0;
	ret = REAL(l, BIO_write_ex)(b, buf, len, n);
	if (ssl)
		call_end(at, ssl, SSLC_CALL_WRITE_EX, buf, said(ret, n, len));
	else
		passed(SSLC_DIR_OUT, buf, said(ret, n, len));
	return ret;
}
