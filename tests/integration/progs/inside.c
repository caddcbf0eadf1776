/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inside: TLS conversations of a program with itself, without a network where the library allows
 * it, through as many of the library's functions as there are. The library is loaded by its name;
 * which release it is of does not matter. Ends with 0 only when all bytes arrived.
 * inside openssl LIBSSL CERT KEY
 * inside gnutls LIBGNUTLS CERT KEY
 * inside nss LIBSSL3 DATABASE      (two sockets on the loopback interface)
 * Compiled with LINKED, it has OpenSSL inside, and LIBSSL is not looked at.
 * With SITEWATCH set it executes int3 when the library is loaded: see tests/tools/sitewatch.c.
 */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/ssl.h>
#ifndef LINKED
#include <gnutls/gnutls.h>
#include <nss.h>
#include <pk11pub.h>
#include <prerror.h>
#include <prio.h>
#include <private/pprio.h>
/* NSS and OpenSSL share names: none of NSS's is a macro. */
#endif

#define BIG  70000
#define TURN 40 /* attempts, wherever something is repeated */

static uint64_t prng = 88172645463325252u;

static unsigned rnd(unsigned below)
{
	prng ^= prng << 13;
	prng ^= prng >> 7;
	prng ^= prng << 17;
	return (unsigned)(prng >> 33) % below;
}

static void die(const char *what)
{
	fprintf(stderr, "inside: %s\n", what);
	exit(1);
}

#define MUST(x)                                                                                    \
	do {                                                                                       \
		if (!(x))                                                                          \
			die(#x);                                                                   \
	} while (0)

static unsigned char sent[BIG], got[BIG];

static size_t message(void)
{
	static const size_t sizes[] = {1, 5, 100, 1000, 16384};
	size_t n = sizes[rnd(5)];

	for (size_t i = 0; i < n; i++)
		sent[i] = (unsigned char)rnd(256);
	return n;
}

static void arrived(size_t n)
{
	if (memcmp(sent, got, n))
		die("other bytes arrived");
}

static void ready(void)
{
	if (getenv("SITEWATCH"))
		__asm__ volatile("int3" : : : "memory");
}

/* --- OpenSSL ------------------------------------------------------------------------------------
 */

#define OPENSSL(X)                                                                                 \
	X(TLS_client_method)                                                                       \
	X(TLS_server_method)                                                                       \
	X(SSL_CTX_new)                                                                             \
	X(SSL_CTX_ctrl)                                                                            \
	X(SSL_CTX_use_certificate_file)                                                            \
	X(SSL_CTX_use_PrivateKey_file)                                                             \
	X(SSL_CTX_set_max_early_data)                                                              \
	X(SSL_CTX_free)                                                                            \
	X(SSL_new)                                                                                 \
	X(SSL_set_connect_state)                                                                   \
	X(SSL_set_accept_state)                                                                    \
	X(SSL_set_session)                                                                         \
	X(SSL_get1_session)                                                                        \
	X(SSL_SESSION_free)                                                                        \
	X(SSL_do_handshake)                                                                        \
	X(SSL_shutdown)                                                                            \
	X(SSL_read)                                                                                \
	X(SSL_read_ex)                                                                             \
	X(SSL_peek)                                                                                \
	X(SSL_peek_ex)                                                                             \
	X(SSL_write)                                                                               \
	X(SSL_write_ex)                                                                            \
	X(SSL_write_early_data)                                                                    \
	X(SSL_read_early_data)                                                                     \
	X(SSL_get_early_data_status)                                                               \
	X(SSL_set_bio)                                                                             \
	X(SSL_set0_rbio)                                                                           \
	X(SSL_set0_wbio)                                                                           \
	X(SSL_set_fd)                                                                              \
	X(SSL_set_rfd)                                                                             \
	X(SSL_set_wfd)                                                                             \
	X(SSL_clear)                                                                               \
	X(SSL_free)                                                                                \
	X(BIO_f_ssl)                                                                               \
	X(BIO_new)                                                                                 \
	X(BIO_s_mem)                                                                               \
	X(BIO_new_bio_pair)                                                                        \
	X(BIO_ctrl)                                                                                \
	X(BIO_up_ref)                                                                              \
	X(BIO_read)                                                                                \
	X(BIO_write)                                                                               \
	X(BIO_free)

typedef ossl_ssize_t send_a_file(SSL *, int, off_t, size_t, int);
typedef int write_flags(SSL *, const void *, size_t, uint64_t, size_t *);

static struct {
#define MEMBER(name) __typeof__(name) *name;
	OPENSSL(MEMBER)
	send_a_file *SSL_sendfile;  /* since 3.0 */
	write_flags *SSL_write_ex2; /* since 3.3 */
} o;

static void load_openssl(const char *lib)
{
#ifdef LINKED
#define TAKE(name) o.name = name;
	(void)lib;
	o.SSL_sendfile = SSL_sendfile;
#else
#define TAKE(name) MUST(o.name = (__typeof__(name) *)dlsym(l, #name));
	void *l = dlopen(lib, RTLD_NOW);

	if (!l)
		die(dlerror());
	o.SSL_sendfile = (send_a_file *)dlsym(l, "SSL_sendfile");
	o.SSL_write_ex2 = (write_flags *)dlsym(l, "SSL_write_ex2");
#endif
	OPENSSL(TAKE)
}

struct link {
	SSL_CTX *ctx[2];
	SSL *ssl[2]; /* client, server */
};

static SSL_CTX *context(bool is_server, int version, char **files)
{
	SSL_CTX *ctx = o.SSL_CTX_new(is_server ? o.TLS_server_method() : o.TLS_client_method());

	MUST(ctx);
	o.SSL_CTX_ctrl(ctx, SSL_CTRL_SET_MIN_PROTO_VERSION, version, NULL);
	o.SSL_CTX_ctrl(ctx, SSL_CTRL_SET_MAX_PROTO_VERSION, version, NULL);
	if (!is_server)
		return ctx;
	MUST(o.SSL_CTX_use_certificate_file(ctx, files[0], SSL_FILETYPE_PEM) == 1);
	MUST(o.SSL_CTX_use_PrivateKey_file(ctx, files[1], SSL_FILETYPE_PEM) == 1);
	MUST(o.SSL_CTX_set_max_early_data(ctx, 16384) == 1);
	return ctx;
}

/* Both ends of a new connection: over a BIO pair, or over two memory BIOs. */
static void connect_both(struct link *l, bool is_pair)
{
	BIO *a, *b;

	for (int i = 0; i < 2; i++)
		MUST(l->ssl[i] = o.SSL_new(l->ctx[i]));
	o.SSL_set_connect_state(l->ssl[0]);
	o.SSL_set_accept_state(l->ssl[1]);
	if (is_pair) {
		MUST(o.BIO_new_bio_pair(&a, 65536, &b, 65536) == 1);
		o.SSL_set_bio(l->ssl[0], a, a);
		o.SSL_set_bio(l->ssl[1], b, b);
		return;
	}
	MUST((a = o.BIO_new(o.BIO_s_mem())) && (b = o.BIO_new(o.BIO_s_mem())));
	for (int i = 0; i < 2; i++)
		o.BIO_ctrl(i ? a : b, BIO_C_SET_BUF_MEM_EOF_RETURN, -1, NULL);
	o.BIO_up_ref(a);
	o.BIO_up_ref(b);
	o.SSL_set0_rbio(l->ssl[0], a);
	o.SSL_set0_wbio(l->ssl[0], b);
	o.SSL_set0_rbio(l->ssl[1], b);
	o.SSL_set0_wbio(l->ssl[1], a);
}

static void shake_hands(struct link *l)
{
	bool done = false;

	for (int i = 0; i < TURN && !done; i++) {
		done = o.SSL_do_handshake(l->ssl[0]) == 1;
		done = o.SSL_do_handshake(l->ssl[1]) == 1 && done;
	}
	MUST(done);
}

enum { PLAIN, EX, EX2, BIO_WAY, WAYS };

static size_t put(SSL *s, BIO *b, int way, size_t n)
{
	size_t done = 0;
	int ret;

	switch (way) {
	case PLAIN:
		ret = o.SSL_write(s, sent, (int)n);
		return ret > 0 ? (size_t)ret : 0;
	case EX2:
		if (o.SSL_write_ex2)
			return o.SSL_write_ex2(s, sent, n, 0, &done) == 1 ? done : 0;
		/* fall through */
	case EX:
		return o.SSL_write_ex(s, sent, n, &done) == 1 ? done : 0;
	default:
		ret = o.BIO_write(b, sent, (int)n);
		return ret > 0 ? (size_t)ret : 0;
	}
}

static size_t take(SSL *s, BIO *b, int way, size_t room)
{
	size_t done = 0, seen = 0;
	int ret;

	switch (way) {
	case PLAIN:
		ret = o.SSL_peek(s, got, (int)room);
		if (ret > 0 && o.SSL_read(s, got, ret) != ret)
			die("other bytes were read than peeked");
		return ret > 0 ? (size_t)ret : 0;
	case BIO_WAY:
		ret = o.BIO_read(b, got, (int)room);
		return ret > 0 ? (size_t)ret : 0;
	default:
		if (o.SSL_peek_ex(s, got, room, &seen) != 1)
			return 0;
		return o.SSL_read_ex(s, got, seen, &done) == 1 ? done : 0;
	}
}

static void exchange(struct link *l, int n)
{
	BIO *b[2];

	for (int i = 0; i < 2; i++) {
		MUST(b[i] = o.BIO_new(o.BIO_f_ssl()));
		o.BIO_ctrl(b[i], BIO_C_SET_SSL, BIO_NOCLOSE, l->ssl[i]);
	}
	for (int i = 0; i < n; i++) {
		int from = (int)rnd(2), way = i % WAYS;
		size_t size = message(), have = 0, part;

		MUST(put(l->ssl[from], b[from], way, size) == size);
		while (have < size) {
			part = take(l->ssl[!from], b[!from], (int)rnd(WAYS), size - have);
			MUST(part && !memcmp(sent + have, got, part));
			have += part;
		}
		if (!rnd(3)) /* there is nothing */
			MUST(!take(l->ssl[!from], b[!from], (int)rnd(WAYS), 10));
	}
	for (int i = 0; i < 2; i++)
		o.BIO_free(b[i]);
}

/* What applications do wrong. */
static void fail(struct link *l)
{
	size_t n;

	MUST(o.SSL_write(l->ssl[0], sent, -1) <= 0);
	MUST(o.SSL_read(l->ssl[0], got, -1) <= 0);
	MUST(o.SSL_read_ex(l->ssl[0], got, 0, &n) == 0);
	if (o.SSL_sendfile)
		MUST(o.SSL_sendfile(l->ssl[0], 0, 0, 10, 0) < 0);
}

static void finish(struct link *l)
{
	size_t n;

	o.SSL_shutdown(l->ssl[0]);
	MUST(o.SSL_read(l->ssl[1], got, 10) <= 0); /* the end */
	o.SSL_shutdown(l->ssl[1]);
	MUST(o.SSL_read_ex(l->ssl[0], got, 10, &n) == 0);
	MUST(o.SSL_write(l->ssl[0], sent, 10) <= 0);
	MUST(o.SSL_write_ex(l->ssl[0], sent, 10, &n) == 0);
	if (o.SSL_write_ex2)
		MUST(o.SSL_write_ex2(l->ssl[0], sent, 10, 0, &n) == 0);
	for (int i = 0; i < 2; i++)
		o.SSL_free(l->ssl[i]);
}

static void early(struct link *l, SSL_SESSION *session, bool is_taken)
{
	size_t done = 0, size;

	connect_both(l, true);
	MUST(o.SSL_set_session(l->ssl[0], session) == 1);
	size = 1 + message() % 1000;
	MUST(o.SSL_write_early_data(l->ssl[0], sent, size, &done) == 1 && done == size);
	if (is_taken) {
		MUST(o.SSL_read_early_data(l->ssl[1], got, sizeof(got), &done) ==
		     SSL_READ_EARLY_DATA_SUCCESS);
		MUST(done == size);
		arrived(size);
	}
	shake_hands(l);
	if (is_taken)
		MUST(o.SSL_read_early_data(l->ssl[1], got, sizeof(got), &done) !=
		     SSL_READ_EARLY_DATA_SUCCESS);
	MUST((o.SSL_get_early_data_status(l->ssl[0]) == SSL_EARLY_DATA_ACCEPTED) == is_taken);
	exchange(l, 4);
	finish(l);
}

/* Transports come and go, on objects without a connection. */
static void move(struct link *l)
{
	int p[2];

	MUST(!socketpair(AF_UNIX, SOCK_STREAM, 0, p));
	MUST(l->ssl[0] = o.SSL_new(l->ctx[0]));
	MUST(o.SSL_set_fd(l->ssl[0], p[0]) == 1);
	MUST(o.SSL_set_rfd(l->ssl[0], p[1]) == 1 && o.SSL_set_wfd(l->ssl[0], p[0]) == 1);
	MUST(o.SSL_set_rfd(l->ssl[0], p[0]) == 1 && o.SSL_set_wfd(l->ssl[0], p[1]) == 1);
	o.SSL_clear(l->ssl[0]);
	o.SSL_free(l->ssl[0]);
	o.SSL_free(NULL);
	close(p[0]);
	close(p[1]);
}

static void openssl(char **args)
{
	static const int versions[] = {TLS1_3_VERSION, TLS1_2_VERSION};
	SSL_SESSION *session;

	load_openssl(args[0]);
	ready();
	for (int i = 0; i < 4; i++) {
		struct link l;

		for (int k = 0; k < 2; k++)
			l.ctx[k] = context(k, versions[i % 2], args + 1);
		connect_both(&l, i / 2);
		shake_hands(&l);
		exchange(&l, 24);
		fail(&l);
		session = o.SSL_get1_session(l.ssl[0]);
		finish(&l);
		move(&l);
		if (i % 2 == 0) {
			early(&l, session, true);
			early(&l, session, false); /* replayed: a session serves once */
		}
		o.SSL_SESSION_free(session);
		for (int k = 0; k < 2; k++)
			o.SSL_CTX_free(l.ctx[k]);
	}
}

#ifndef LINKED

/* --- GnuTLS -------------------------------------------------------------------------------------
 */

#define GNUTLS(X)                                                                                  \
	X(gnutls_init)                                                                             \
	X(gnutls_deinit)                                                                           \
	X(gnutls_certificate_allocate_credentials)                                                 \
	X(gnutls_certificate_free_credentials)                                                     \
	X(gnutls_certificate_set_x509_key_file)                                                    \
	X(gnutls_credentials_set)                                                                  \
	X(gnutls_priority_set_direct)                                                              \
	X(gnutls_transport_set_ptr)                                                                \
	X(gnutls_transport_set_push_function)                                                      \
	X(gnutls_transport_set_pull_function)                                                      \
	X(gnutls_transport_set_pull_timeout_function)                                              \
	X(gnutls_transport_set_errno)                                                              \
	X(gnutls_handshake)                                                                        \
	X(gnutls_rehandshake)                                                                      \
	X(gnutls_reauth)                                                                           \
	X(gnutls_session_key_update)                                                               \
	X(gnutls_session_get_flags)                                                                \
	X(gnutls_session_get_data2)                                                                \
	X(gnutls_session_set_data)                                                                 \
	X(gnutls_session_ticket_key_generate)                                                      \
	X(gnutls_session_ticket_enable_server)                                                     \
	X(gnutls_record_send)                                                                      \
	X(gnutls_record_send2)                                                                     \
	X(gnutls_record_send_range)                                                                \
	X(gnutls_record_send_early_data)                                                           \
	X(gnutls_record_recv)                                                                      \
	X(gnutls_record_recv_seq)                                                                  \
	X(gnutls_record_recv_packet)                                                               \
	X(gnutls_record_recv_early_data)                                                           \
	X(gnutls_record_set_max_early_data_size)                                                   \
	X(gnutls_packet_get)                                                                       \
	X(gnutls_packet_deinit)                                                                    \
	X(gnutls_record_cork)                                                                      \
	X(gnutls_record_uncork)                                                                    \
	X(gnutls_bye)                                                                              \
	X(gnutls_anti_replay_init)                                                                 \
	X(gnutls_anti_replay_set_add_function)                                                     \
	X(gnutls_anti_replay_enable)                                                               \
	X(gnutls_strerror)

typedef ssize_t record_send_file(gnutls_session_t, int, off_t *, size_t);

static struct {
	GNUTLS(MEMBER)
	record_send_file *gnutls_record_send_file; /* since 3.7.4 */
} g;

static void load_gnutls(const char *lib)
{
	void *l = dlopen(lib, RTLD_NOW);

	if (!l)
		die(dlerror());
#define TAKE_G(name) MUST(g.name = (__typeof__(name) *)dlsym(l, #name));
	GNUTLS(TAKE_G)
	g.gnutls_record_send_file = (record_send_file *)dlsym(l, "gnutls_record_send_file");
}

/* One direction's bytes under way. */
struct pipe {
	unsigned char bytes[4 * BIG];
	size_t n;
	struct pipe *other;
};
static struct pipe pipes[2] = {{.other = &pipes[1]}, {.other = &pipes[0]}};
static gnutls_session_t s[2]; /* client, server */

static ssize_t push(gnutls_transport_ptr_t to, const void *data, size_t n)
{
	struct pipe *p = ((struct pipe *)to)->other;

	if (n > sizeof(p->bytes) - p->n)
		die("too much is under way");
	memcpy(p->bytes + p->n, data, n);
	p->n += n;
	return (ssize_t)n;
}

static ssize_t pull(gnutls_transport_ptr_t from, void *data, size_t n)
{
	struct pipe *p = from;

	if (!p->n) {
		g.gnutls_transport_set_errno(s[p - pipes], EAGAIN);
		return -1;
	}
	n = n < p->n ? n : p->n;
	memcpy(data, p->bytes, n);
	memmove(p->bytes, p->bytes + n, p->n - n);
	p->n -= n;
	return (ssize_t)n;
}

static int pull_timeout(gnutls_transport_ptr_t from, unsigned ms)
{
	(void)ms;
	return ((struct pipe *)from)->n > 0;
}

static int never_seen(void *ctx, time_t until, const gnutls_datum_t *key,
		      const gnutls_datum_t *data)
{
	(void)ctx, (void)until, (void)key, (void)data;
	return 0;
}

static gnutls_certificate_credentials_t cred[2];
static gnutls_datum_t ticket_key;
static gnutls_anti_replay_t replays;

static void open_both(const char *priority, const gnutls_datum_t *session)
{
	for (int i = 0; i < 2; i++) {
		unsigned flags = i ? GNUTLS_SERVER : GNUTLS_CLIENT;

		flags |= GNUTLS_NONBLOCK | GNUTLS_ENABLE_EARLY_DATA | GNUTLS_POST_HANDSHAKE_AUTH;
		MUST(!g.gnutls_init(&s[i], flags));
		MUST(!g.gnutls_priority_set_direct(s[i], priority, NULL));
		MUST(!g.gnutls_credentials_set(s[i], GNUTLS_CRD_CERTIFICATE, cred[i]));
		pipes[i].n = 0;
		g.gnutls_transport_set_ptr(s[i], &pipes[i]);
		g.gnutls_transport_set_push_function(s[i], push);
		g.gnutls_transport_set_pull_function(s[i], pull);
		g.gnutls_transport_set_pull_timeout_function(s[i], pull_timeout);
	}
	MUST(!g.gnutls_session_ticket_enable_server(s[1], &ticket_key));
	g.gnutls_record_set_max_early_data_size(s[1], 16384);
	g.gnutls_anti_replay_enable(s[1], replays);
	if (session)
		MUST(!g.gnutls_session_set_data(s[0], session->data, session->size));
}

static void agree(void)
{
	int a = 1, b = 1;

	for (int i = 0; i < TURN && (a || b); i++) {
		if (a)
			a = g.gnutls_handshake(s[0]);
		if (b)
			b = g.gnutls_handshake(s[1]);
		if ((a < 0 && a != GNUTLS_E_AGAIN) || (b < 0 && b != GNUTLS_E_AGAIN))
			die(g.gnutls_strerror(a < 0 && a != GNUTLS_E_AGAIN ? a : b));
	}
	MUST(!a && !b);
	(void)g.gnutls_session_get_flags(s[0]);
	(void)g.gnutls_session_get_flags(s[1]);
}

static size_t give(gnutls_session_t to, int way, size_t n)
{
	gnutls_range_st range = {n, n + 100};
	ssize_t ret = -1;

	if (way == 0)
		ret = g.gnutls_record_send(to, sent, n);
	if (way == 1)
		ret = g.gnutls_record_send2(to, sent, n, 0, 0);
	if (way == 2)
		ret = g.gnutls_record_send_range(to, sent, n, &range);
	if (way == 3) {
		g.gnutls_record_cork(to);
		ret = g.gnutls_record_send(to, sent, n);
		MUST(g.gnutls_record_uncork(to, 0) == (int)n);
	}
	if (way == 4) {
		int fd = memfd_create("inside", 0);
		off_t at = 0;

		MUST(fd >= 0 && write(fd, sent, n) == (ssize_t)n && !lseek(fd, 0, SEEK_SET));
		ret = g.gnutls_record_send_file(to, fd, &at, n) < 0 ? -1 : at;
		close(fd);
	}
	return ret > 0 ? (size_t)ret : 0;
}

static size_t receive(gnutls_session_t from, int way, size_t room)
{
	unsigned char seq[8];
	gnutls_packet_t packet;
	gnutls_datum_t d;
	ssize_t ret;

	if (way == 0)
		ret = g.gnutls_record_recv(from, got, room);
	else if (way == 1)
		ret = g.gnutls_record_recv_seq(from, got, room, seq);
	else {
		ret = g.gnutls_record_recv_packet(from, &packet);
		if (ret > 0) {
			g.gnutls_packet_get(packet, &d, NULL);
			memcpy(got, d.data, d.size);
			ret = d.size;
			g.gnutls_packet_deinit(packet);
		}
	}
	return ret > 0 ? (size_t)ret : 0;
}

static void exchange_records(int n)
{
	int ways = g.gnutls_record_send_file ? 5 : 4;

	for (int i = 0; i < n; i++) {
		int from = (int)rnd(2), way = i % ways, as = (int)rnd(3);
		size_t size = message(), have = 0;

		MUST(give(s[from], way, size) == size);
		for (int k = 0; k < 4 * TURN && have < size; k++) {
			/* packets are whole records: what begins so must go on so */
			size_t part = receive(s[!from], as, size - have);

			MUST(!memcmp(sent + have, got, part));
			have += part;
		}
		MUST(have == size);
		MUST(!receive(s[!from], (int)rnd(3), 10)); /* there is nothing */
	}
}

static void close_both(void)
{
	g.gnutls_bye(s[0], GNUTLS_SHUT_WR);
	MUST(!receive(s[1], 0, 10));
	g.gnutls_bye(s[1], GNUTLS_SHUT_RDWR);
	MUST(!receive(s[0], 1, 10));
	for (int i = 0; i < 2; i++)
		g.gnutls_deinit(s[i]);
}

static void change_keys(bool is_13)
{
	char byte;

	if (!is_13) {
		(void)g.gnutls_rehandshake(s[1]);
		(void)receive(s[0], 0, 10);
		return;
	}
	MUST(!g.gnutls_session_key_update(s[0], GNUTLS_KU_PEER));
	(void)receive(s[1], 0, 10);
	(void)receive(s[0], 0, 10);
	(void)g.gnutls_reauth(s[1], 0); /* the client has no certificate, which is an answer */
	byte = 0;
	(void)g.gnutls_reauth(s[0], (unsigned)byte);
}

static void gnutls(char **args)
{
	static const char *const versions[] = {
		"NORMAL:-VERS-ALL:+VERS-TLS1.3",
		"NORMAL:-VERS-ALL:+VERS-TLS1.2:-CIPHER-ALL:+AES-128-CBC"};

	load_gnutls(args[0]);
	ready();
	for (int i = 0; i < 2; i++)
		MUST(!g.gnutls_certificate_allocate_credentials(&cred[i]));
	MUST(!g.gnutls_certificate_set_x509_key_file(cred[1], args[1], args[2],
						     GNUTLS_X509_FMT_PEM));
	MUST(!g.gnutls_session_ticket_key_generate(&ticket_key));
	MUST(!g.gnutls_anti_replay_init(&replays));
	g.gnutls_anti_replay_set_add_function(replays, never_seen);
	for (int i = 0; i < 4; i++) {
		gnutls_datum_t session = {0};
		ssize_t n;

		open_both(versions[i % 2], NULL);
		agree();
		exchange_records(30);
		if (i < 2)
			MUST(!g.gnutls_session_get_data2(s[0], &session));
		if (i >= 2)
			change_keys(i % 2 == 0);
		if (i < 3)
			close_both();
		if (i)
			continue;
		open_both(versions[0], &session);
		message();
		MUST(!g.gnutls_record_send_early_data(s[0], sent, 700));
		agree();
		n = g.gnutls_record_recv_early_data(s[1], got, sizeof(got));
		MUST(n == 700);
		arrived(700);
		exchange_records(4);
		close_both();
	}
}

/* --- NSS ----------------------------------------------------------------------------------------
 */

/* ssl.h of NSS has names of OpenSSL's; what is needed of it is little. */
typedef SECStatus authenticate(void *, PRFileDesc *, PRBool, PRBool);

static struct {
	SECStatus (*NSS_Init)(const char *);
	CERTCertificate *(*PK11_FindCertFromNickname)(const char *, void *);
	SECKEYPrivateKey *(*PK11_FindKeyByAnyCert)(CERTCertificate *, void *);
	PRFileDesc *(*PR_ImportTCPSocket)(PROsfd);
	PRStatus (*PR_SetSocketOption)(PRFileDesc *, const PRSocketOptionData *);
	PRInt32 (*PR_Read)(PRFileDesc *, void *, PRInt32);
	PRInt32 (*PR_Write)(PRFileDesc *, const void *, PRInt32);
	PRInt32 (*PR_Recv)(PRFileDesc *, void *, PRInt32, PRIntn, PRIntervalTime);
	PRInt32 (*PR_Send)(PRFileDesc *, const void *, PRInt32, PRIntn, PRIntervalTime);
	PRStatus (*PR_Shutdown)(PRFileDesc *, PRShutdownHow);
	PRStatus (*PR_Close)(PRFileDesc *);
	PRErrorCode (*PR_GetError)(void);
	PRFileDesc *(*SSL_ImportFD)(PRFileDesc *, PRFileDesc *);
	SECStatus (*SSL_OptionSet)(PRFileDesc *, PRInt32, PRIntn);
	SECStatus (*SSL_ConfigServerCert)(PRFileDesc *, CERTCertificate *, SECKEYPrivateKey *,
					  const void *, unsigned);
	SECStatus (*SSL_ConfigServerSessionIDCache)(int, PRUint32, PRUint32, const char *);
	SECStatus (*SSL_AuthCertificateHook)(PRFileDesc *, authenticate *, void *);
	SECStatus (*SSL_SetURL)(PRFileDesc *, const char *);
	SECStatus (*SSL_ResetHandshake)(PRFileDesc *, PRBool);
	SECStatus (*SSL_ForceHandshake)(PRFileDesc *);
	SECStatus (*SSL_ForceHandshakeWithTimeout)(PRFileDesc *, PRIntervalTime);
} x;

#define SECURITY            1 /* SSL_SECURITY */
#define HANDSHAKE_AS_SERVER 6

static void load_nss(const char *lib)
{
	void *l = dlopen(lib, RTLD_NOW | RTLD_GLOBAL);

	if (!l)
		die(dlerror());
#define FIND(name) MUST(*(void **)&x.name = dlsym(l, #name));
	FIND(NSS_Init)
	FIND(PK11_FindCertFromNickname)
	FIND(PK11_FindKeyByAnyCert)
	FIND(PR_ImportTCPSocket)
	FIND(PR_SetSocketOption)
	FIND(PR_Read)
	FIND(PR_Write)
	FIND(PR_Recv)
	FIND(PR_Send)
	FIND(PR_Shutdown)
	FIND(PR_Close)
	FIND(PR_GetError)
	FIND(SSL_ImportFD)
	FIND(SSL_OptionSet)
	FIND(SSL_ConfigServerCert)
	FIND(SSL_ConfigServerSessionIDCache)
	FIND(SSL_AuthCertificateHook)
	FIND(SSL_SetURL)
	FIND(SSL_ResetHandshake)
	FIND(SSL_ForceHandshake)
	FIND(SSL_ForceHandshakeWithTimeout)
}

static SECStatus anybody(void *ctx, PRFileDesc *fd, PRBool check, PRBool is_server)
{
	(void)ctx, (void)fd, (void)check, (void)is_server;
	return SECSuccess;
}

/* Two ends of one connection to oneself. */
static void sockets(int fd[2])
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM, 0);

	MUST(l >= 0 && !bind(l, (struct sockaddr *)&a, sizeof(a)) && !listen(l, 1));
	MUST(!getsockname(l, (struct sockaddr *)&a, &len));
	fd[0] = socket(AF_INET, SOCK_STREAM, 0);
	MUST(fd[0] >= 0 && !connect(fd[0], (struct sockaddr *)&a, sizeof(a)));
	fd[1] = accept(l, NULL, NULL);
	MUST(fd[1] >= 0);
	close(l);
}

static PRFileDesc *secure(int fd, bool is_server, CERTCertificate *cert, SECKEYPrivateKey *key)
{
	PRSocketOptionData nonblock = {.option = PR_SockOpt_Nonblocking, .value.non_blocking = 1};
	PRFileDesc *d = x.PR_ImportTCPSocket(fd);

	MUST(d && x.PR_SetSocketOption(d, &nonblock) == PR_SUCCESS);
	MUST(d = x.SSL_ImportFD(NULL, d));
	if (is_server)
		MUST(x.SSL_ConfigServerCert(d, cert, key, NULL, 0) == SECSuccess);
	MUST(x.SSL_AuthCertificateHook(d, anybody, NULL) == SECSuccess);
	MUST(x.SSL_SetURL(d, "mirror.test") == SECSuccess);
	MUST(x.SSL_ResetHandshake(d, is_server) == SECSuccess);
	return d;
}

static void converse_nss(PRFileDesc *d[2], int n)
{
	for (int i = 0; i < n; i++) {
		int from = (int)rnd(2);
		size_t size = message(), given = 0, have = 0;

		for (int k = 0; k < 100000 && have < size; k++) {
			int left = (int)(size - given), ret = -1;

			if (left)
				ret = i % 2 ? x.PR_Send(d[from], sent + given, left, 0, 0)
					    : x.PR_Write(d[from], sent + given, left);
			given += ret > 0 ? (size_t)ret : 0;
			left = (int)(size - have);
			ret = k % 2 ? x.PR_Recv(d[!from], got + have, left, 0, 0)
				    : x.PR_Read(d[!from], got + have, left);
			have += ret > 0 ? (size_t)ret : 0;
		}
		MUST(have == size);
		arrived(size);
	}
}

static void nss(char **args)
{
	CERTCertificate *cert;
	SECKEYPrivateKey *key;
	PRFileDesc *d[2];
	int fd[2], a = 1, b = 1;

	load_nss(args[0]);
	MUST(x.NSS_Init(args[1]) == SECSuccess);
	MUST(cert = x.PK11_FindCertFromNickname("mirror.test", NULL));
	MUST(key = x.PK11_FindKeyByAnyCert(cert, NULL));
	MUST(x.SSL_ConfigServerSessionIDCache(0, 0, 0, NULL) == SECSuccess);
	ready();
	for (int i = 0; i < 3; i++) {
		sockets(fd);
		d[0] = secure(fd[0], false, cert, key);
		d[1] = secure(fd[1], true, cert, key);
		a = b = 1;
		for (int k = 0; k < 10000 && (a || b); k++) {
			a = x.SSL_ForceHandshake(d[0]);
			b = x.SSL_ForceHandshakeWithTimeout(d[1], 0);
		}
		MUST(!a && !b);
		converse_nss(d, 24);
		x.PR_Shutdown(d[0], PR_SHUTDOWN_SEND);
		for (int k = 0; k < 2; k++)
			x.PR_Close(d[k]);
	}
}
#endif

int main(int argc, char **argv)
{
	if (argc == 5 && !strcmp(argv[1], "openssl"))
		openssl(argv + 2);
#ifndef LINKED
	else if (argc == 5 && !strcmp(argv[1], "gnutls"))
		gnutls(argv + 2);
	else if (argc == 4 && !strcmp(argv[1], "nss"))
		nss(argv + 2);
#endif
	else
		die("openssl|gnutls|nss FILE…");
	puts("done");
	return 0;
}
