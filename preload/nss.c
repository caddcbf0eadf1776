/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nss: programs that use NSS read and write through NSPR's descriptors, which are stacks of layers.
 * Those with a layer of TLS are told apart by that layer's identity, which SSL_ImportFD() shows.
 * The connection is the layer's private structure: it stays when layers are pushed on top.
 */
#include "preload.h"

/* nspr/prio.h: public since NSPR 4.0 */
struct layer {
	const void *methods;
	void *secret;
	struct layer *lower, *higher;
	void (*dtor)(struct layer *);
	int identity;
};
struct part {
	char *base;
	int len;
};
typedef struct layer FD;
typedef unsigned wait_t; /* PRIntervalTime */

#define MSG_PEEK_PR 2
#define LAYERS_MAX  16

#define NSPR_FUNCTIONS(X)                                                                          \
	X(int, PR_Read, (FD *, void *, int))                                                       \
	X(int, PR_Write, (FD *, const void *, int))                                                \
	X(int, PR_Recv, (FD *, void *, int, int, wait_t))                                          \
	X(int, PR_Send, (FD *, const void *, int, int, wait_t))                                    \
	X(int, PR_Writev, (FD *, const struct part *, int, wait_t))                                \
	X(int, PR_Shutdown, (FD *, int))                                                           \
	X(int, PR_Close, (FD *))

#define NSS_FUNCTIONS(X)                                                                           \
	X(FD *, SSL_ImportFD, (FD *, FD *))                                                        \
	X(int, SSL_ForceHandshake, (FD *))                                                         \
	X(int, SSL_ForceHandshakeWithTimeout, (FD *, wait_t))

#define DECLARE(type, name, arguments) EXPORT type name arguments;
NSPR_FUNCTIONS(DECLARE)
NSS_FUNCTIONS(DECLARE)

#define NUMBER(type, name, arguments) AT_##name,
enum { NSPR_FUNCTIONS(NUMBER) N_NSPR };
enum { NSS_FUNCTIONS(NUMBER) N_NSS };

#define NAME(type, name, arguments) #name,
static const char *const nspr_names[] = {NSPR_FUNCTIONS(NAME)};
static const char *const nss_names[] = {NSS_FUNCTIONS(NAME)};

#define WRAPPER(type, name, arguments) (any_fn) name,
static const any_fn nspr_wrappers[] = {NSPR_FUNCTIONS(WRAPPER)};
static const any_fn nss_wrappers[] = {NSS_FUNCTIONS(WRAPPER)};

struct family nspr_family = {.names = nspr_names,
			     .wrappers = nspr_wrappers,
			     .n = N_NSPR,
			     .n_wrapped = N_NSPR,
			     .telling = AT_PR_Read,
			     .file = "libnspr4."};
struct family nss_family = {.names = nss_names,
			    .wrappers = nss_wrappers,
			    .n = N_NSS,
			    .n_wrapped = N_NSS,
			    .telling = AT_SSL_ImportFD,
			    .file = "libssl3."};

#define REAL(family, name) ((__typeof__(&name))lib_of_caller(&family, CALLER)->fn[AT_##name])

static _Atomic int tls_identity; /* 0: no such layer was made yet (PR_NSPR_IO_LAYER is 0) */

/* 0: no TLS. */
static uint64_t id_of(const FD *fd)
{
	int tls = atomic_load_explicit(&tls_identity, memory_order_relaxed);

	for (int i = 0; tls && fd && i < LAYERS_MAX; i++, fd = fd->lower)
		if (fd->identity == tls)
			return (uint64_t)(uintptr_t)fd->secret;
	return 0;
}

EXPORT int PR_Read(FD *fd, void *buf, int len)
{
	uint64_t id = id_of(fd);
	int at, ret;

	if (!id)
		return REAL(nspr_family, PR_Read)(fd, buf, len);
	at = call_begin(id, SSLC_CALL_READ);
	ret = REAL(nspr_family, PR_Read)(fd, buf, len);
	call_end(at, id, SSLC_CALL_READ, buf, ret > 0 ? (uint64_t)ret : 0);
	return ret;
}

EXPORT int PR_Recv(FD *fd, void *buf, int len, int flags, wait_t timeout)
{
	enum sslc_call kind = flags & MSG_PEEK_PR ? SSLC_CALL_BIND : SSLC_CALL_READ;
	uint64_t id = id_of(fd);
	int at, ret;

	if (!id)
		return REAL(nspr_family, PR_Recv)(fd, buf, len, flags, timeout);
	at = call_begin(id, kind);
	ret = REAL(nspr_family, PR_Recv)(fd, buf, len, flags, timeout);
	call_end(at, id, kind, buf, ret > 0 && kind == SSLC_CALL_READ ? (uint64_t)ret : 0);
	return ret;
}

EXPORT int PR_Write(FD *fd, const void *buf, int len)
{
	uint64_t id = id_of(fd);
	int at, ret;

	if (!id)
		return REAL(nspr_family, PR_Write)(fd, buf, len);
	at = call_begin(id, SSLC_CALL_WRITE);
	ret = REAL(nspr_family, PR_Write)(fd, buf, len);
	call_end(at, id, SSLC_CALL_WRITE, buf, ret > 0 ? (uint64_t)ret : 0);
	return ret;
}

EXPORT int PR_Send(FD *fd, const void *buf, int len, int flags, wait_t timeout)
{
	uint64_t id = id_of(fd);
	int at, ret;

	if (!id)
		return REAL(nspr_family, PR_Send)(fd, buf, len, flags, timeout);
	at = call_begin(id, SSLC_CALL_WRITE);
	ret = REAL(nspr_family, PR_Send)(fd, buf, len, flags, timeout);
	call_end(at, id, SSLC_CALL_WRITE, buf, ret > 0 ? (uint64_t)ret : 0);
	return ret;
}

static void parts_moved(int at, uint64_t id, const struct part *v, int n_v, int left)
{
	for (int i = 0; i < n_v && left > 0 && shim_own->ring; i++) {
		int n = v[i].len < left ? v[i].len : left;

		if (n > 0)
			call_moved(at, id, SSLC_CALL_WRITE, v[i].base, (uint64_t)n);
		left -= n > 0 ? n : 0;
	}
}

EXPORT int PR_Writev(FD *fd, const struct part *v, int n_v, wait_t timeout)
{
	uint64_t id = id_of(fd);
	int at, ret;

	if (!id)
		return REAL(nspr_family, PR_Writev)(fd, v, n_v, timeout);
	at = call_begin(id, SSLC_CALL_WRITE);
	ret = REAL(nspr_family, PR_Writev)(fd, v, n_v, timeout);
	parts_moved(at, id, v, n_v, ret);
	call_end(at, id, SSLC_CALL_WRITE, NULL, 0);
	return ret;
}

EXPORT int PR_Shutdown(FD *fd, int how)
{
	uint64_t id = id_of(fd);
	int at, ret;

	if (!id)
		return REAL(nspr_family, PR_Shutdown)(fd, how);
	at = call_begin(id, SSLC_CALL_BIND);
	ret = REAL(nspr_family, PR_Shutdown)(fd, how);
	call_end(at, id, SSLC_CALL_BIND, NULL, 0);
	return ret;
}

EXPORT int PR_Close(FD *fd)
{
	uint64_t id = id_of(fd);

	if (id)
		call_forget(id);
	return REAL(nspr_family, PR_Close)(fd);
}

/* The new layer is on top. */
EXPORT FD *SSL_ImportFD(FD *model, FD *fd)
{
	FD *ret = REAL(nss_family, SSL_ImportFD)(model, fd);

	if (ret && !atomic_load_explicit(&tls_identity, memory_order_relaxed))
		atomic_store_explicit(&tls_identity, ret->identity, memory_order_relaxed);
	return ret;
}

EXPORT int SSL_ForceHandshake(FD *fd)
{
	uint64_t id = id_of(fd);
	int at = call_begin(id, SSLC_CALL_BIND);
	int ret = REAL(nss_family, SSL_ForceHandshake)(fd);

	call_end(at, id, SSLC_CALL_BIND, NULL, 0);
	return ret;
}

EXPORT int SSL_ForceHandshakeWithTimeout(FD *fd, wait_t timeout)
{
	uint64_t id = id_of(fd);
	int at = call_begin(id, SSLC_CALL_BIND);
	int ret = REAL(nss_family, SSL_ForceHandshakeWithTimeout)(fd, timeout);

	call_end(at, id, SSLC_CALL_BIND, NULL, 0);
	return ret;
}
