/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gnutls: the calls of GnuTLS 3 by which plaintext goes in and out. The library may call one of
 * them inside another: the outermost one on a session tells the bytes.
 */
#include "preload.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

typedef struct gnutls_session_int *session;
typedef struct mbuffer_st *packet;
struct datum {
	unsigned char *data;
	unsigned size;
};
struct range {
	size_t low, high;
};

/* gnutls/gnutls.h */
#define E_AGAIN           (-28)
#define E_INTERRUPTED     (-52)
#define SFLAGS_EARLY_DATA (1u << 10)

#define GNUTLS_FUNCTIONS(X)                                                                        \
	X(ssize_t, gnutls_record_recv, (session, void *, size_t))                                  \
	X(ssize_t, gnutls_record_recv_seq, (session, void *, size_t, unsigned char *))             \
	X(ssize_t, gnutls_record_recv_packet, (session, packet *))                                 \
	X(ssize_t, gnutls_record_recv_early_data, (session, void *, size_t))                       \
	X(ssize_t, gnutls_record_send, (session, const void *, size_t))                            \
	X(ssize_t, gnutls_record_send2, (session, const void *, size_t, size_t, unsigned))         \
	X(ssize_t, gnutls_record_send_range,                                                       \
	  (session, const void *, size_t, const struct range *))                                   \
	X(ssize_t, gnutls_record_send_file, (session, int, off_t *, size_t))                       \
	X(ssize_t, gnutls_record_send_early_data, (session, const void *, size_t))                 \
	X(int, gnutls_record_uncork, (session, unsigned))                                          \
	X(unsigned, gnutls_session_get_flags, (session))                                           \
	X(int, gnutls_handshake, (session))                                                        \
	X(int, gnutls_rehandshake, (session))                                                      \
	X(int, gnutls_reauth, (session, unsigned))                                                 \
	X(int, gnutls_session_key_update, (session, unsigned))                                     \
	X(int, gnutls_bye, (session, int))                                                         \
	X(void, gnutls_deinit, (session))

/* Asked, not wrapped. */
typedef void packet_get_fn(packet, struct datum *, unsigned char *);

#define DECLARE(type, name, arguments) EXPORT type name arguments;
GNUTLS_FUNCTIONS(DECLARE)

#define NUMBER(type, name, arguments) AT_##name,
enum { GNUTLS_FUNCTIONS(NUMBER) N_WRAPPED, AT_packet_get = N_WRAPPED, N_GNUTLS };
_Static_assert(N_GNUTLS <= LIB_FUNCTIONS, "room in struct lib");

#define NAME(type, name, arguments) #name,
static const char *const names[] = {GNUTLS_FUNCTIONS(NAME) "gnutls_packet_get"};

#define WRAPPER(type, name, arguments) (any_fn) name,
static const any_fn wrappers[] = {GNUTLS_FUNCTIONS(WRAPPER)};

struct family gnutls_family = {.names = names,
			       .wrappers = wrappers,
			       .n = N_GNUTLS,
			       .n_wrapped = N_WRAPPED,
			       .telling = AT_gnutls_record_recv,
			       .file = "libgnutls."};

#define REAL(name) ((__typeof__(&name))lib_of_caller(&gnutls_family, CALLER)->fn[AT_##name])

static uint64_t id_of(session s)
{
	return (uint64_t)(uintptr_t)s;
}

static uint64_t moved(ssize_t ret)
{
	return ret > 0 ? (uint64_t)ret : 0;
}

/* --- sending ------------------------------------------------------------------------------------
 */

/*
 * A send that was interrupted has made a record of its bytes already; the call that sends its rest
 * need not give them again, and says how many they were.
 */
#define KEPT_MAX 64u /* sessions whose socket is full at the same moment */
struct kept {
	uint64_t session; /* 0: free */
	uint32_t len;
	uint32_t pad;
	uint8_t data[SSLC_SHIM_CHUNK];
};
static struct kept *kept; /* KEPT_MAX of them */

void gnutls_init(void)
{
	void *p = mmap(NULL, KEPT_MAX * sizeof(*kept), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	kept = p == MAP_FAILED ? NULL : p;
}

static struct kept *find_kept(uint64_t id)
{
	for (unsigned i = 0; kept && i < KEPT_MAX; i++)
		if (__atomic_load_n(&kept[i].session, __ATOMIC_ACQUIRE) == id)
			return &kept[i];
	return NULL;
}

static void keep(uint64_t id, const void *data, size_t len)
{
	struct kept *k = find_kept(id);

	for (unsigned i = 0; !k && kept && i < KEPT_MAX; i++) {
		uint64_t none = 0;

		if (!__atomic_compare_exchange_n(&kept[i].session, &none, id, false,
						 __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
			continue;
		k = &kept[i];
		k->len = len < sizeof(k->data) ? (uint32_t)len : (uint32_t)sizeof(k->data);
		memcpy(k->data, data, k->len);
	}
}

static void drop_kept(struct kept *k)
{
	explicit_bzero(k->data, k->len);
	__atomic_store_n(&k->session, 0, __ATOMIC_RELEASE);
}

/* Sessions with a send that waits are rare: until there is one, a look at one word. */
static bool may_be_kept;

/* Another call on the session contains this one, and answers for it. */
static bool is_inner(int at, session s)
{
	return at && (at == CALL_DEPTH || shim_thread.v[at - 1].ssl == id_of(s));
}

static void send_ended(int at, session s, const void *data, size_t len, ssize_t ret)
{
	struct kept *k = UNLIKELY(may_be_kept) ? find_kept(id_of(s)) : NULL;
	int saved = errno;

	if (is_inner(at, s)) {
		call_end(at, id_of(s), SSLC_CALL_SEND, data, data ? moved(ret) : 0);
		return;
	}
	if (ret > 0 && k && k->len >= (size_t)ret)
		call_end(at, id_of(s), SSLC_CALL_SEND, k->data, moved(ret));
	else if (ret > 0 && !data)
		call_end(at, id_of(s), SSLC_CALL_SENDFILE, NULL, moved(ret)); /* a gap */
	else
		call_end(at, id_of(s), SSLC_CALL_SEND, data, moved(ret));
	if (ret > 0 && k) {
		drop_kept(k);
	} else if ((ret == E_AGAIN || ret == E_INTERRUPTED) && data && shim_own->ring) {
		may_be_kept = true;
		keep(id_of(s), data, len);
	}
	errno = saved;
}

EXPORT ssize_t gnutls_record_send(session s, const void *data, size_t len)
{
	int at = call_begin(id_of(s), SSLC_CALL_SEND);
	ssize_t ret = REAL(gnutls_record_send)(s, data, len);

	send_ended(at, s, data, len, ret);
	return ret;
}

EXPORT ssize_t gnutls_record_send2(session s, const void *data, size_t len, size_t pad,
				   unsigned flags)
{
	int at = call_begin(id_of(s), SSLC_CALL_SEND);
	ssize_t ret = REAL(gnutls_record_send2)(s, data, len, pad, flags);

	send_ended(at, s, data, len, ret);
	return ret;
}

EXPORT ssize_t gnutls_record_send_range(session s, const void *data, size_t len,
					const struct range *r)
{
	int at = call_begin(id_of(s), SSLC_CALL_SEND);
	ssize_t ret = REAL(gnutls_record_send_range)(s, data, len, r);

	send_ended(at, s, data, len, ret);
	return ret;
}

/* Sends what it reads, or lets the kernel do both: what the calls inside did not tell is a gap. */
EXPORT ssize_t gnutls_record_send_file(session s, int fd, off_t *offset, size_t count)
{
	int at = call_begin(id_of(s), SSLC_CALL_SEND_FILE);
	ssize_t ret = REAL(gnutls_record_send_file)(s, fd, offset, count);
	uint64_t told = at < CALL_DEPTH ? shim_thread.v[at].told : 0, n = moved(ret);

	call_end(at, id_of(s), SSLC_CALL_SEND_FILE, NULL, n > told ? n - told : 0);
	return ret;
}

/* Sent with the handshake, and void when the server does not take them. */
EXPORT ssize_t gnutls_record_send_early_data(session s, const void *data, size_t len)
{
	int at = call_begin(id_of(s), SSLC_CALL_EARLY_WRITE);
	ssize_t ret = REAL(gnutls_record_send_early_data)(s, data, len);

	call_end(at, id_of(s), SSLC_CALL_EARLY_WRITE, data, ret == 0 ? len : 0);
	return ret;
}

/* What is sent inside was told when it was given. */
EXPORT int gnutls_record_uncork(session s, unsigned flags)
{
	int at = call_begin(id_of(s), SSLC_CALL_UNCORK);
	int ret = REAL(gnutls_record_uncork)(s, flags);

	call_end(at, id_of(s), SSLC_CALL_UNCORK, NULL, 0);
	return ret;
}

/* --- receiving ----------------------------------------------------------------------------------
 */

EXPORT ssize_t gnutls_record_recv(session s, void *data, size_t len)
{
	int at = call_begin(id_of(s), SSLC_CALL_RECV);
	ssize_t ret = REAL(gnutls_record_recv)(s, data, len);

	call_end(at, id_of(s), SSLC_CALL_RECV, data, moved(ret));
	return ret;
}

EXPORT ssize_t gnutls_record_recv_seq(session s, void *data, size_t len, unsigned char *seq)
{
	int at = call_begin(id_of(s), SSLC_CALL_RECV);
	ssize_t ret = REAL(gnutls_record_recv_seq)(s, data, len, seq);

	call_end(at, id_of(s), SSLC_CALL_RECV, data, moved(ret));
	return ret;
}

EXPORT ssize_t gnutls_record_recv_packet(session s, packet *p)
{
	const struct lib *lib = lib_of_caller(&gnutls_family, CALLER);
	int at = call_begin(id_of(s), SSLC_CALL_RECV);
	ssize_t ret =
		((__typeof__(&gnutls_record_recv_packet))lib->fn[AT_gnutls_record_recv_packet])(s,
												p);
	struct datum d = {.size = 0};

	if (ret > 0 && p && *p)
		((packet_get_fn *)lib->fn[AT_packet_get])(*p, &d, NULL);
	call_end(at, id_of(s), SSLC_CALL_RECV, d.data, d.data ? d.size : 0);
	return ret;
}

EXPORT ssize_t gnutls_record_recv_early_data(session s, void *data, size_t len)
{
	int at = call_begin(id_of(s), SSLC_CALL_RECV);
	ssize_t ret = REAL(gnutls_record_recv_early_data)(s, data, len);

	call_end(at, id_of(s), SSLC_CALL_RECV, data, moved(ret));
	return ret;
}

EXPORT unsigned gnutls_session_get_flags(session s)
{
	unsigned ret = REAL(gnutls_session_get_flags)(s);

	call_early_status(id_of(s), ret & SFLAGS_EARLY_DATA ? 2 : 1);
	return ret;
}

/* --- the rest -----------------------------------------------------------------------------------
 */

#define BIND_END                                                                                   \
	call_end(at, id_of(s), SSLC_CALL_BIND, NULL, 0);                                           \
	return ret

EXPORT int gnutls_handshake(session s)
{
	int at = call_begin(id_of(s), SSLC_CALL_BIND);
	int ret = REAL(gnutls_handshake)(s);

	BIND_END;
}

EXPORT int gnutls_rehandshake(session s)
{
	int at = call_begin(id_of(s), SSLC_CALL_BIND);
	int ret = REAL(gnutls_rehandshake)(s);

	BIND_END;
}

EXPORT int gnutls_reauth(session s, unsigned flags)
{
	int at = call_begin(id_of(s), SSLC_CALL_BIND);
	int ret = REAL(gnutls_reauth)(s, flags);

	BIND_END;
}

EXPORT int gnutls_session_key_update(session s, unsigned flags)
{
	int at = call_begin(id_of(s), SSLC_CALL_BIND);
	int ret = REAL(gnutls_session_key_update)(s, flags);

	BIND_END;
}

EXPORT int gnutls_bye(session s, int how)
{
	int at = call_begin(id_of(s), SSLC_CALL_BIND);
	int ret = REAL(gnutls_bye)(s, how);

	BIND_END;
}

EXPORT void gnutls_deinit(session s)
{
	struct kept *k = UNLIKELY(may_be_kept) ? find_kept(id_of(s)) : NULL;

	if (k)
		drop_kept(k);
	call_forget(id_of(s));
	REAL(gnutls_deinit)(s);
}
