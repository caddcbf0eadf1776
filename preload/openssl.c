/* SPDX-License-Identifier: Apache-2.0 */
/*
 * openssl: the calls of OpenSSL 1.1 and 3 by which plaintext goes in and out, and those by which an
 * object begins anew or ends. Each calls the real one first; only what that returned counts.
 * Declared here, not taken from OpenSSL's headers: one library for all versions.
 */
#include "preload.h"

typedef struct ssl_st SSL;
typedef struct bio_st BIO;

#define OPENSSL_FUNCTIONS(X)                                                                       \
	X(int, SSL_read, (SSL *, void *, int))                                                     \
	X(int, SSL_read_ex, (SSL *, void *, size_t, size_t *))                                     \
	X(int, SSL_peek, (SSL *, void *, int))                                                     \
	X(int, SSL_peek_ex, (SSL *, void *, size_t, size_t *))                                     \
	X(int, SSL_write, (SSL *, const void *, int))                                              \
	X(int, SSL_write_ex, (SSL *, const void *, size_t, size_t *))                              \
	X(int, SSL_write_ex2, (SSL *, const void *, size_t, uint64_t, size_t *))                   \
	X(ssize_t, SSL_sendfile, (SSL *, int, off_t, size_t, int))                                 \
	X(int, SSL_read_early_data, (SSL *, void *, size_t, size_t *))                             \
	X(int, SSL_write_early_data, (SSL *, const void *, size_t, size_t *))                      \
	X(int, SSL_get_early_data_status, (const SSL *))                                           \
	X(int, SSL_do_handshake, (SSL *))                                                          \
	X(int, SSL_accept, (SSL *))                                                                \
	X(int, SSL_connect, (SSL *))                                                               \
	X(int, SSL_shutdown, (SSL *))                                                              \
	X(void, SSL_free, (SSL *))                                                                 \
	X(int, SSL_clear, (SSL *))                                                                 \
	X(int, SSL_set_fd, (SSL *, int))                                                           \
	X(int, SSL_set_rfd, (SSL *, int))                                                          \
	X(int, SSL_set_wfd, (SSL *, int))                                                          \
	X(void, SSL_set_bio, (SSL *, BIO *, BIO *))                                                \
	X(void, SSL_set0_rbio, (SSL *, BIO *))                                                     \
	X(void, SSL_set0_wbio, (SSL *, BIO *))

#define DECLARE(type, name, arguments) EXPORT type name arguments;
OPENSSL_FUNCTIONS(DECLARE)

#define NUMBER(type, name, arguments) AT_##name,
enum { OPENSSL_FUNCTIONS(NUMBER) N_OPENSSL };
_Static_assert(N_OPENSSL <= LIB_FUNCTIONS, "room in struct lib");

#define NAME(type, name, arguments) #name,
static const char *const names[] = {OPENSSL_FUNCTIONS(NAME)};

#define WRAPPER(type, name, arguments) (any_fn) name,
static const any_fn wrappers[] = {OPENSSL_FUNCTIONS(WRAPPER)};

struct family openssl_family = {.names = names,
				.wrappers = wrappers,
				.n = N_OPENSSL,
				.n_wrapped = N_OPENSSL,
				.telling = AT_SSL_read,
				.file = "libssl."};

#define REAL(name) ((__typeof__(&name))lib_of_caller(&openssl_family, CALLER)->fn[AT_##name])

static uint64_t id_of(const SSL *ssl)
{
	return (uint64_t)(uintptr_t)ssl;
}

/* What an _ex call says that it moved: in the program's memory, where others may write. */
static uint64_t said(int ret, const size_t *n, size_t most)
{
	size_t v = ret == 1 && n ? *(const volatile size_t *)n : 0;

	return v < most ? v : most;
}

/* --- bytes --------------------------------------------------------------------------------------
 */

EXPORT int SSL_read(SSL *ssl, void *buf, int num)
{
	int at = call_begin(id_of(ssl), SSLC_CALL_READ);
	int ret = REAL(SSL_read)(ssl, buf, num);

	call_end(at, id_of(ssl), SSLC_CALL_READ, buf, ret > 0 ? (uint64_t)ret : 0);
	return ret;
}

EXPORT int SSL_read_ex(SSL *ssl, void *buf, size_t num, size_t *n)
{
	int at = call_begin(id_of(ssl), SSLC_CALL_READ_EX);
	int ret = REAL(SSL_read_ex)(ssl, buf, num, n);

	call_end(at, id_of(ssl), SSLC_CALL_READ_EX, buf, said(ret, n, num));
	return ret;
}

/* The bytes stay, and are read again. */
EXPORT int SSL_peek(SSL *ssl, void *buf, int num)
{
	int at = call_begin(id_of(ssl), SSLC_CALL_BIND);
	int ret = REAL(SSL_peek)(ssl, buf, num);

	call_end(at, id_of(ssl), SSLC_CALL_BIND, NULL, 0);
	return ret;
}

EXPORT int SSL_peek_ex(SSL *ssl, void *buf, size_t num, size_t *n)
{
	int at = call_begin(id_of(ssl), SSLC_CALL_BIND);
	int ret = REAL(SSL_peek_ex)(ssl, buf, num, n);

	call_end(at, id_of(ssl), SSLC_CALL_BIND, NULL, 0);
	return ret;
}

EXPORT int SSL_write(SSL *ssl, const void *buf, int num)
{
	int at = call_begin_write(id_of(ssl), SSLC_CALL_WRITE, buf, num > 0 ? (uint64_t)num : 0);
	int ret = REAL(SSL_write)(ssl, buf, num);

	call_end(at, id_of(ssl), SSLC_CALL_WRITE, buf, ret > 0 ? (uint64_t)ret : 0);
	return ret;
}

EXPORT int SSL_write_ex(SSL *ssl, const void *buf, size_t num, size_t *n)
{
	int at = call_begin_write(id_of(ssl), SSLC_CALL_WRITE_EX, buf, num);
	int ret = REAL(SSL_write_ex)(ssl, buf, num, n);

	call_end(at, id_of(ssl), SSLC_CALL_WRITE_EX, buf, said(ret, n, num));
	return ret;
}

EXPORT int SSL_write_ex2(SSL *ssl, const void *buf, size_t num, uint64_t flags, size_t *n)
{
	int at = call_begin_write(id_of(ssl), SSLC_CALL_WRITE_EX2, buf, num);
	int ret = REAL(SSL_write_ex2)(ssl, buf, num, flags, n);

	call_end(at, id_of(ssl), SSLC_CALL_WRITE_EX2, buf, said(ret, n, num));
	return ret;
}

EXPORT ssize_t SSL_sendfile(SSL *ssl, int fd, off_t offset, size_t size, int flags)
{
	int at = call_begin(id_of(ssl), SSLC_CALL_SENDFILE);
	ssize_t ret = REAL(SSL_sendfile)(ssl, fd, offset, size, flags);

	call_end(at, id_of(ssl), SSLC_CALL_SENDFILE, NULL, ret > 0 ? (uint64_t)ret : 0);
	return ret;
}

/* --- 0-RTT --------------------------------------------------------------------------------------
 */

EXPORT int SSL_read_early_data(SSL *ssl, void *buf, size_t num, size_t *n)
{
	int at = call_begin(id_of(ssl), SSLC_CALL_EARLY_READ);
	int ret = REAL(SSL_read_early_data)(ssl, buf, num, n);

	call_early_server(id_of(ssl));
	call_end(at, id_of(ssl), SSLC_CALL_EARLY_READ, buf, said(ret, n, num));
	return ret;
}

EXPORT int SSL_write_early_data(SSL *ssl, const void *buf, size_t num, size_t *n)
{
	int at = call_begin(id_of(ssl), SSLC_CALL_EARLY_WRITE);
	int ret = REAL(SSL_write_early_data)(ssl, buf, num, n);

	call_end(at, id_of(ssl), SSLC_CALL_EARLY_WRITE, buf, said(ret, n, num));
	return ret;
}

EXPORT int SSL_get_early_data_status(const SSL *ssl)
{
	int ret = REAL(SSL_get_early_data_status)(ssl);

	call_early_status(id_of(ssl), ret);
	return ret;
}

/* --- calls that move nothing, but whose socket operations name the descriptor -------------------
 */

#define BINDS(name)                                                                                \
	EXPORT int name(SSL *ssl)                                                                  \
	{                                                                                          \
		int at = call_begin(id_of(ssl), SSLC_CALL_BIND);                                   \
		int ret = REAL(name)(ssl);                                                         \
                                                                                                   \
		call_end(at, id_of(ssl), SSLC_CALL_BIND, NULL, 0);                                 \
		return ret;                                                                        \
	}
BINDS(SSL_do_handshake)
BINDS(SSL_accept)
BINDS(SSL_connect)
BINDS(SSL_shutdown)

/* --- calls after which the object is another one ------------------------------------------------
 */

EXPORT void SSL_free(SSL *ssl)
{
	call_forget(id_of(ssl));
	REAL(SSL_free)(ssl);
}

EXPORT int SSL_clear(SSL *ssl)
{
	call_forget(id_of(ssl));
	return REAL(SSL_clear)(ssl);
}

#define SETS_FD(name)                                                                              \
	EXPORT int name(SSL *ssl, int fd)                                                          \
	{                                                                                          \
		call_forget(id_of(ssl));                                                           \
		return REAL(name)(ssl, fd);                                                        \
	}
SETS_FD(SSL_set_fd)
SETS_FD(SSL_set_rfd)
SETS_FD(SSL_set_wfd)

EXPORT void SSL_set_bio(SSL *ssl, BIO *in, BIO *out)
{
	call_forget(id_of(ssl));
	REAL(SSL_set_bio)(ssl, in, out);
}

EXPORT void SSL_set0_rbio(SSL *ssl, BIO *bio)
{
	call_forget(id_of(ssl));
	REAL(SSL_set0_rbio)(ssl, bio);
}

EXPORT void SSL_set0_wbio(SSL *ssl, BIO *bio)
{
	call_forget(id_of(ssl));
	REAL(SSL_set0_wbio)(ssl, bio);
}
