/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trial_child: a library in, the instructions that tell each record's plaintext out. Two objects of
 * it speak TLS through a pair of BIOs. First one write and one read are stepped through: what sees
 * the right address, length and object is a candidate. Then everything else happens, with a
 * breakpoint on each candidate, and what sees too much or too little is none.
 */
#include "sites/trial.h"

#include <linux/types.h>

#include "event.h"
#include "sites/trial_steps.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__)

#include <dlfcn.h>
#include <openssl/ssl.h>

#define FILE_FD     3
#define RECORD      16384u /* RFC 8446, 5.1 */
#define LONG        100000u
#define BATCH       200000u /* more than the most records that are made at once */
#define SMALL_BATCH (12 * SMALL + 100)
#define SMALL       512u /* the smallest records that can be asked for (RFC 8449, RFC 6066) */
#define PAIR        (17u * 1024) /* room of the transport: for one record */
#define APP         23
#define REG_SP      4
#define REG_DI      7
#define OPEN_MAX    16
#define FEW         24 /* records of one conversation that are no plaintext */
#define KEPT        6  /* candidates of one direction, after the first conversation */

/* --- the library --------------------------------------------------------------------------------
 */

#define LIBRARY(X)                                                                                 \
	X(const SSL_METHOD *, TLS_method, (void))                                                  \
	X(SSL_CTX *, SSL_CTX_new, (const SSL_METHOD *))                                            \
	X(void, SSL_CTX_free, (SSL_CTX *))                                                         \
	X(long, SSL_CTX_ctrl, (SSL_CTX *, int, long, void *))                                      \
	X(uint64_t, SSL_CTX_set_options, (SSL_CTX *, uint64_t))                                    \
	X(int, SSL_CTX_set_cipher_list, (SSL_CTX *, const char *))                                 \
	X(int, SSL_CTX_set_ciphersuites, (SSL_CTX *, const char *))                                \
	X(void, SSL_CTX_set_psk_client_callback, (SSL_CTX *, SSL_psk_client_cb_func))              \
	X(void, SSL_CTX_set_psk_server_callback, (SSL_CTX *, SSL_psk_server_cb_func))              \
	X(SSL *, SSL_new, (SSL_CTX *))                                                             \
	X(void, SSL_free, (SSL *))                                                                 \
	X(void, SSL_set_bio, (SSL *, BIO *, BIO *))                                                \
	X(void, SSL_set_connect_state, (SSL *))                                                    \
	X(void, SSL_set_accept_state, (SSL *))                                                     \
	X(int, SSL_do_handshake, (SSL *))                                                          \
	X(int, SSL_in_init, (const SSL *))                                                         \
	X(int, SSL_read, (SSL *, void *, int))                                                     \
	X(int, SSL_peek, (SSL *, void *, int))                                                     \
	X(int, SSL_write, (SSL *, const void *, int))                                              \
	X(int, SSL_read_ex, (SSL *, void *, size_t, size_t *))                                     \
	X(int, SSL_write_ex, (SSL *, const void *, size_t, size_t *))                              \
	X(void, SSL_set_psk_client_callback, (SSL *, SSL_psk_client_cb_func))                      \
	X(int, SSL_shutdown, (SSL *))                                                              \
	X(int, SSL_key_update, (SSL *, int))                                                       \
	X(int, SSL_renegotiate, (SSL *))                                                           \
	X(SSL_SESSION *, SSL_get1_session, (SSL *))                                                \
	X(int, SSL_set_session, (SSL *, SSL_SESSION *))                                            \
	X(void, SSL_SESSION_free, (SSL_SESSION *))                                                 \
	X(int, SSL_CTX_set_max_early_data, (SSL_CTX *, uint32_t))                                  \
	X(int, SSL_write_early_data, (SSL *, const void *, size_t, size_t *))                      \
	X(int, SSL_read_early_data, (SSL *, void *, size_t, size_t *))                             \
	X(int, BIO_new_bio_pair, (BIO **, size_t, BIO **, size_t))                                 \
	X(const BIO_METHOD *, BIO_f_ssl, (void))                                                   \
	X(BIO *, BIO_new, (const BIO_METHOD *))                                                    \
	X(long, BIO_ctrl, (BIO *, int, long, void *))                                              \
	X(int, BIO_read, (BIO *, void *, int))                                                     \
	X(int, BIO_write, (BIO *, const void *, int))

static struct {
#define MEMBER(type, name, args) type(*name) args;
	LIBRARY(MEMBER)
#undef MEMBER
} lib;

/* It may be another one than this program uses itself, and is to call its own functions. */
#if defined(__SANITIZE_ADDRESS__) /* which refuses that */
#define LOADED (RTLD_NOW | RTLD_LOCAL)
#else
#define LOADED (RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND)
#endif

static const char *load(void)
{
	void *handle = dlopen("/proc/self/fd/3", LOADED);

	if (!handle)
		return "the library cannot be loaded";
#define SYMBOL(type, name, args)                                                                   \
	*(void **)&lib.name = dlsym(handle, #name);                                                \
	if (!lib.name)                                                                             \
		return "the library lacks " #name;
	LIBRARY(SYMBOL)
#undef SYMBOL
	return NULL;
}

/* --- evidence -----------------------------------------------------------------------------------
 */

/* A set of sources (see trial.h). */
struct set {
	uint64_t w[TRIAL_SOURCES / 64];
};

static const struct set everything = {{~0ull, ~0ull}};

static void add(struct set *s, unsigned i)
{
	s->w[i / 64] |= 1ull << i % 64;
}

static struct set both(struct set a, struct set b)
{
	return (struct set){{a.w[0] & b.w[0], a.w[1] & b.w[1]}};
}

static bool is_empty(struct set s)
{
	return !(s.w[0] | s.w[1]);
}

static uint8_t first(struct set s)
{
	if (s.w[0])
		return (uint8_t)__builtin_ctzll(s.w[0]);
	return s.w[1] ? (uint8_t)(64 + __builtin_ctzll(s.w[1])) : TRIAL_NONE;
}

struct candidate {
	uint64_t offset;
	enum sslc_dir dir;
	struct set buf, len, ssl, guard; /* what has been right each time */
	uint32_t at;                     /* bytes seen of the present expectation */
	unsigned bad;                    /* other things that passed */
	bool is_batch;                   /* records pass in batches */
	bool unguarded;                  /* it was never passed by anything else */
	const char *why;                 /* it is none; NULL: it still is one */
};

/* What passes next. */
static struct {
	enum sslc_dir dir;
	const SSL *ssl;
	const uint8_t *buf;
	uint32_t from, n; /* bytes of buf */
	uint32_t chunk;   /* most in one record */
	uint32_t batch; /* bytes in each record of a batch: 8 of them, then 4; 0: there are none */
	bool ignore;    /* what passes says nothing */
} want;

static struct candidate candidates[TRIAL_BREAKS];
static unsigned n_candidates, n_talks;
static uint8_t plain[BATCH], got[LONG];

/* Once it is known where single records are sent: where it tells of them, without judging. */
static struct {
	const struct candidate *at;
	uint32_t n;             /* bytes */
	uint32_t most;          /* in one piece */
	uint64_t address, next; /* of the first, and behind the last */
	bool is_torn;           /* they do not follow each other */
} heard;

static uint64_t value_at(const struct trial_state *s, unsigned i)
{
	uint64_t v;

	if (i < TRIAL_SLOT)
		return s->reg[i];
	memcpy(&v, (const void *)(uintptr_t)(s->reg[REG_SP] + 8ull * (i - TRIAL_SLOT)), sizeof(v));
	return v;
}

/* Sources with that value; narrow: in their lower 32 bits. */
static struct set sources(const struct trial_state *s, uint64_t value, bool narrow)
{
	struct set found = {{0}};

	for (unsigned i = 0; i < TRIAL_SOURCES; i++) {
		uint64_t v = value_at(s, i);

		if (v == value || (narrow && (uint32_t)v == (uint32_t)value))
			add(&found, i);
	}
	return found;
}

static struct set complement(struct set s)
{
	return (struct set){{~s.w[0], ~s.w[1]}};
}

/* Whether the candidate passes the very next bytes here; what a read gives must be there already.
 */
static bool is_next(struct candidate *c, const struct trial_state *s)
{
	const uint8_t *at = want.buf + want.from + c->at;
	uint32_t left = want.n - c->at, n = left < want.chunk ? left : want.chunk;
	struct set buf, len, ssl;

	if (want.batch)
		n = want.batch * (c->at ? 4 : 8);
	if (c->dir != want.dir || !left || c->is_batch != (want.batch != 0))
		return false;
	if (want.dir == SSLC_DIR_IN && memcmp(at, plain + want.from + c->at, n))
		return false;
	buf = both(c->buf, sources(s, (uintptr_t)at, false));
	len = both(c->len, sources(s, n, false));
	ssl = both(c->ssl, sources(s, (uintptr_t)want.ssl, false));
	if (is_empty(buf) || is_empty(len) || is_empty(ssl))
		return false;
	c->buf = buf;
	c->len = len;
	c->ssl = ssl;
	c->at += n;
	return true;
}

static void refuse(struct candidate *c, const char *why)
{
	c->why = why;
	trial_steps_unbreak(c->offset);
}

/* What a handshake reads is known as such by the thread being inside it; what it writes is not,
 * since programs write in its callbacks. */
static void take(struct candidate *c, const struct trial_state *s)
{
	struct set app = sources(s, APP, true);

	if (is_next(c, s)) {
		c->guard = both(c->guard, app);
		if (is_empty(c->guard) && !c->unguarded)
			refuse(c, "it is passed by other things, too");
		return;
	}
	c->bad++;
	if (!is_empty(both(c->guard, complement(app)))) {
		c->guard = both(c->guard, complement(app));
		c->unguarded = false;
		return;
	}
	/* An empty record, as TLS 1.0 sends before others: no bytes do no harm. */
	c->len = both(c->len, sources(s, 0, false));
	if (is_empty(c->len))
		refuse(c, "it is passed by other things, too");
}

static void on_step(void *ctx, const struct trial_state *s)
{
	struct candidate *c = &candidates[n_candidates];

	(void)ctx;
	if (!trial_steps_cheap(s->code) || n_candidates == TRIAL_BREAKS)
		return;
	*c = (struct candidate){.offset = s->pc,
				.dir = want.dir,
				.is_batch = want.batch != 0,
				.buf = everything,
				.len = everything,
				.ssl = everything,
				.guard = everything,
				.unguarded = true};
	for (unsigned i = 0; i < n_candidates; i++)
		if (candidates[i].offset == s->pc)
			return;
	if (is_next(c, s))
		n_candidates++;
}

static void hear(const struct trial_state *s)
{
	const struct candidate *c = heard.at;
	uint64_t at;
	uint32_t n;

	if (!c->unguarded && (uint32_t)value_at(s, first(c->guard)) != APP)
		return;
	at = value_at(s, first(c->buf));
	n = (uint32_t)value_at(s, first(c->len));
	if (!heard.n)
		heard.address = at;
	else if (at != heard.next)
		heard.is_torn = true;
	heard.n += n;
	heard.next = at + n;
	if (n > heard.most)
		heard.most = n;
}

static void listen_anew(void)
{
	heard.n = heard.most = 0;
	heard.is_torn = false;
}

/* Batches pass where nothing else does. */
static void on_batch(struct candidate *c, const struct trial_state *s)
{
	if (!is_next(c, s))
		refuse(c, "it is passed by other things, too");
}

static void on_hit(void *ctx, unsigned which, const struct trial_state *s)
{
	(void)ctx;
	if (which >= n_candidates || want.ignore || candidates[which].why)
		return;
	if (heard.at == &candidates[which])
		hear(s);
	if (candidates[which].is_batch || want.batch) {
		if (candidates[which].is_batch)
			on_batch(&candidates[which], s);
		return;
	}
	if (candidates[which].dir == SSLC_DIR_OUT || !trial_steps_is_inside())
		take(&candidates[which], s);
}

static void expect(enum sslc_dir dir, const SSL *ssl, const uint8_t *buf, uint32_t from, uint32_t n)
{
	want.dir = dir;
	want.ssl = ssl;
	want.buf = buf;
	want.from = from;
	want.n = n;
	want.chunk = RECORD;
	want.batch = 0;
	trial_steps_calm();
	for (unsigned i = 0; i < n_candidates; i++)
		candidates[i].at = 0;
}

/* All that was expected must have passed, or more than that: n bytes. */
static void judge(uint32_t n, const char *what)
{
	for (unsigned i = 0; i < n_candidates; i++)
		if (candidates[i].dir == want.dir && candidates[i].at != n && !candidates[i].why &&
		    candidates[i].is_batch == (want.batch != 0))
			refuse(&candidates[i], what);
	want.n = want.batch = 0;
}

/* --- handshakes ---------------------------------------------------------------------------------
 */

/* The function that the library calls by a pointer, with the object, around all its input and
 * output: the state machine, however the handshake was begun. */
static struct {
	const SSL *ssl;
	bool by_pointer; /* the last instruction called or jumped so */
	struct {
		uint64_t offset, sp;
		bool entered;
	} open[OPEN_MAX];
	unsigned n_open;
	bool is_done; /* input or output was reached */
} machine;

static bool goes_by_pointer(const uint8_t *c)
{
	if (c[0] == 0x3e) /* notrack */
		c++;
	if (c[0] == 0x41)
		c++;
	if (c[0] != 0xff || c[1] == 0x25) /* through the linkage table: jmp [rip + …] */
		return false;
	return (c[1] >> 3 & 7) == 2 || (c[1] >> 3 & 7) == 4;
}

static void on_machine_step(void *ctx, const struct trial_state *s)
{
	(void)ctx;
	while (machine.n_open && s->reg[REG_SP] > machine.open[machine.n_open - 1].sp)
		machine.n_open--;
	if (machine.by_pointer && s->reg[REG_DI] == (uintptr_t)machine.ssl &&
	    machine.n_open < OPEN_MAX) {
		machine.open[machine.n_open].offset = s->pc;
		machine.open[machine.n_open++].sp = s->reg[REG_SP];
	}
	machine.by_pointer = goes_by_pointer(s->code);
}

static void on_machine_out(void *ctx, uint64_t address, const struct trial_state *s)
{
	(void)ctx;
	while (machine.n_open && s->reg[REG_SP] > machine.open[machine.n_open - 1].sp)
		machine.n_open--;
	machine.by_pointer = false;
	if (address != (uintptr_t)lib.BIO_read && address != (uintptr_t)lib.BIO_write)
		return;
	machine.is_done = true;
	trial_steps_end();
}

/* --- two ends -----------------------------------------------------------------------------------
 */

struct kind {
	const char *name;
	int version;
	const char *ciphers; /* NULL: the protocol's own */
	uint64_t options;
	long mode;
	bool read_ahead;
	bool is_optional; /* not every build has it */
	bool is_short;    /* no long writes: they go another way */
	uint32_t record;  /* bytes in a record, at most; 0: as many as there may be */
};

struct ends {
	SSL_CTX *ctx[2];
	SSL *v[2]; /* client, server */
	BIO *transport[2];
	BIO *bio[2]; /* around them; BY_BIO */
	int way;     /* enum call_way */
};

static size_t pair_room = PAIR;

static const unsigned char key[16] = "not a secret one";

static unsigned client_psk(SSL *ssl, const char *hint, char *identity, unsigned max_identity,
			   unsigned char *psk, unsigned max)
{
	(void)ssl, (void)hint;
	if (max < sizeof(key) || max_identity < 2)
		return 0;
	memcpy(identity, "x", 2);
	memcpy(psk, key, sizeof(key));
	return sizeof(key);
}

static unsigned server_psk(SSL *ssl, const char *identity, unsigned char *psk, unsigned max)
{
	(void)ssl;
	if (max < sizeof(key) || strcmp(identity, "x")) /* tickets are asked for, too */
		return 0;
	memcpy(psk, key, sizeof(key));
	return sizeof(key);
}

static SSL_CTX *make_ctx(const struct kind *k, bool is_server)
{
	SSL_CTX *ctx = lib.SSL_CTX_new(lib.TLS_method());

	if (!ctx)
		return NULL;
	if (is_server)
		lib.SSL_CTX_set_psk_server_callback(ctx, server_psk);
	else
		lib.SSL_CTX_set_psk_client_callback(ctx, client_psk);
	lib.SSL_CTX_set_options(ctx, k->options);
	(void)lib.SSL_CTX_set_max_early_data(ctx, RECORD);
	(void)lib.SSL_CTX_ctrl(ctx, SSL_CTRL_MODE, k->mode, NULL);
	(void)lib.SSL_CTX_ctrl(ctx, SSL_CTRL_SET_READ_AHEAD, k->read_ahead, NULL);
	/* Few of them: what is stepped through goes through lists. */
	(void)lib.SSL_CTX_set_cipher_list(ctx, "PSK-AES128-GCM-SHA256:@SECLEVEL=0");
	(void)lib.SSL_CTX_ctrl(ctx, SSL_CTRL_SET_GROUPS_LIST, 0, (void *)(uintptr_t) "P-256");
	(void)lib.SSL_CTX_ctrl(ctx, SSL_CTRL_SET_SIGALGS_LIST, 0,
			       (void *)(uintptr_t) "ECDSA+SHA256");
	if (k->record)
		(void)lib.SSL_CTX_ctrl(ctx, SSL_CTRL_SET_MAX_SEND_FRAGMENT, k->record, NULL);
	if (!lib.SSL_CTX_ctrl(ctx, SSL_CTRL_SET_MIN_PROTO_VERSION, k->version, NULL) ||
	    !lib.SSL_CTX_ctrl(ctx, SSL_CTRL_SET_MAX_PROTO_VERSION, k->version, NULL) ||
	    (k->ciphers &&
	     (k->version == TLS1_3_VERSION ? !lib.SSL_CTX_set_ciphersuites(ctx, k->ciphers)
					   : !lib.SSL_CTX_set_cipher_list(ctx, k->ciphers)))) {
		lib.SSL_CTX_free(ctx);
		return NULL;
	}
	return ctx;
}

static bool connect_ends(struct ends *e)
{
	BIO *a = NULL, *b = NULL;

	if (!lib.BIO_new_bio_pair(&a, pair_room, &b, pair_room))
		return false;
	for (int i = 0; i < 2; i++) {
		e->v[i] = lib.SSL_new(e->ctx[i]);
		if (!e->v[i])
			return false;
	}
	e->transport[0] = a;
	e->transport[1] = b;
	lib.SSL_set_bio(e->v[0], a, a);
	lib.SSL_set_bio(e->v[1], b, b);
	lib.SSL_set_connect_state(e->v[0]);
	lib.SSL_set_accept_state(e->v[1]);
	return true;
}

static bool open_ends(struct ends *e, const struct kind *k)
{
	*e = (struct ends){.ctx = {NULL}};
	for (int i = 0; i < 2; i++) {
		e->ctx[i] = make_ctx(k, i);
		if (!e->ctx[i])
			return false;
	}
	return connect_ends(e);
}

static void close_ends(struct ends *e)
{
	for (int i = 0; i < 2; i++) {
		if (e->v[i])
			lib.SSL_free(e->v[i]);
		if (e->ctx[i])
			lib.SSL_CTX_free(e->ctx[i]);
	}
}

/* By one of three calls. */
enum begun { BY_HANDSHAKE, BY_READ, BY_WRITE };

static void shake_once(SSL *ssl, enum begun by)
{
	uint8_t byte = 0;

	expect(SSLC_DIR_IN, ssl, got, 0, 0);
	if (by == BY_HANDSHAKE)
		(void)lib.SSL_do_handshake(ssl);
	else if (by == BY_READ)
		(void)lib.SSL_read(ssl, &byte, 1);
	else
		(void)lib.SSL_write(ssl, &byte, 1);
}

static bool shake(struct ends *e, enum begun by)
{
	for (int i = 0; i < 20; i++)
		shake_once(e->v[i & 1], by);
	return !lib.SSL_in_init(e->v[0]) && !lib.SSL_in_init(e->v[1]);
}

/* --- calls --------------------------------------------------------------------------------------
 */

/* What programs call; below them all is the same but for where things lie on the stack. */
enum call_way { BY_PLAIN, BY_EX, BY_BIO, CALL_WAYS };

#define DIRT 2048 /* words: deeper than the library's calls reach */

/* What earlier calls have left on the stack and in registers is not to be relied upon. */
static __attribute__((noinline)) void scribble(void)
{
	static uint64_t seed = 88172645463325252ull;
	volatile uint64_t dirt[DIRT];

	for (unsigned i = 0; i < DIRT; i++) {
		seed ^= seed << 13; /* xorshift */
		seed ^= seed >> 7;
		seed ^= seed << 17;
		dirt[i] = seed;
	}
	__asm__ volatile("" ::"r"(dirt) : "rbx", "r12", "r13", "r14", "r15", "memory");
}

static int call_write(const struct ends *e, int from, const uint8_t *buf, uint32_t n)
{
	size_t done = 0;

	scribble();
	if (e->way == BY_EX)
		return lib.SSL_write_ex(e->v[from], buf, n, &done) == 1 ? (int)done : -1;
	if (e->way == BY_BIO)
		return lib.BIO_write(e->bio[from], buf, (int)n);
	return lib.SSL_write(e->v[from], buf, (int)n);
}

static int call_read(const struct ends *e, int to, uint8_t *buf, uint32_t room)
{
	size_t done = 0;

	scribble();
	if (e->way == BY_EX)
		return lib.SSL_read_ex(e->v[to], buf, room, &done) == 1 ? (int)done : -1;
	if (e->way == BY_BIO)
		return lib.BIO_read(e->bio[to], buf, (int)room);
	return lib.SSL_read(e->v[to], buf, (int)room);
}

/* --- scenes -------------------------------------------------------------------------------------
 */

static bool write_all(struct ends *e, int from, uint32_t n)
{
	expect(SSLC_DIR_OUT, e->v[from], plain, 0, n);
	if (call_write(e, from, plain, n) != (int)n)
		return false;
	judge(n, "a write does not pass it");
	return true;
}

/* As much of what was written first as one call gives. */
static bool read_some(struct ends *e, int to, uint32_t from, uint32_t room, uint32_t n)
{
	memset(got + from, 0, room);
	expect(SSLC_DIR_IN, e->v[to], got, from, n);
	if (call_read(e, to, got + from, room) != (int)n)
		return false;
	judge(n, "a read does not pass it");
	return true;
}

static bool read_nothing(struct ends *e, int to)
{
	expect(SSLC_DIR_IN, e->v[to], got, 0, 0);
	return call_read(e, to, got, 100) <= 0;
}

static bool peek(struct ends *e, int to, uint32_t n)
{
	bool ok;

	expect(SSLC_DIR_IN, e->v[to], got, 0, 0);
	want.ignore = true;
	ok = lib.SSL_peek(e->v[to], got, (int)n) == (int)n;
	want.ignore = false;
	return ok;
}

/* One part of a write that takes several calls; what has passed so far is kept in at[]. */
static int write_part(struct ends *e, int from, uint32_t at[])
{
	int r;

	expect(SSLC_DIR_OUT, e->v[from], plain, 0, LONG);
	for (unsigned k = 0; k < n_candidates; k++)
		candidates[k].at = at[k];
	r = call_write(e, from, plain, LONG);
	for (unsigned k = 0; k < n_candidates; k++)
		at[k] = candidates[k].at;
	return r;
}

static void judge_parts(const uint32_t at[])
{
	want.dir = SSLC_DIR_OUT;
	for (unsigned k = 0; k < n_candidates; k++)
		candidates[k].at = at[k];
	judge(LONG, "a write in parts does not pass it once a record");
}

/* More than the transport takes: the call is made again and again, and the peer reads meanwhile. */
static bool write_long(struct ends *e, int from)
{
	uint32_t n, read = 0, at[TRIAL_BREAKS] = {0};
	int r = -1;

	for (int i = 0; i < 100 && (r < 0 || read < LONG); i++) {
		if (r < 0)
			r = write_part(e, from, at);
		n = LONG - read < RECORD ? LONG - read : RECORD;
		if (read < LONG && !read_some(e, !from, read, n, n))
			return false;
		read += n;
	}
	judge_parts(at);
	return r == (int)LONG;
}

/*
 * An alert has to go out before the next record, and cannot: the client refuses to shake hands
 * again while its transport is full. The server, which takes offence, only empties it.
 */
static bool write_behind_alert(struct ends *e)
{
	uint32_t at[TRIAL_BREAKS] = {0};
	int r = write_part(e, 0, at);

	(void)lib.SSL_renegotiate(e->v[1]);
	expect(SSLC_DIR_IN, e->v[1], got, 0, 0);
	(void)lib.SSL_do_handshake(e->v[1]);
	(void)read_nothing(e, 0);
	for (int i = 0; i < 100 && r < 0; i++) {
		while (lib.BIO_read(e->transport[1], got, sizeof(got)) > 0)
			;
		r = write_part(e, 0, at);
	}
	judge_parts(at);
	return r == (int)LONG;
}

static bool talk(struct ends *e, int from, bool is_short)
{
	int to = !from;

	return write_all(e, from, 1) && read_some(e, to, 0, 1, 1) && write_all(e, from, 100) &&
	       read_some(e, to, 0, 100, 100) && write_all(e, from, 100) &&
	       read_some(e, to, 0, 40, 40) && read_some(e, to, 40, 100, 60) &&
	       read_nothing(e, to) && write_all(e, from, 3000) && write_all(e, from, 23) &&
	       peek(e, to, 10) && read_some(e, to, 0, 4000, 3000) && peek(e, to, 23) &&
	       read_some(e, to, 0, 23, 23) && write_all(e, from, RECORD) &&
	       read_some(e, to, 0, 1000, 1000) && read_some(e, to, 1000, RECORD, RECORD - 1000) &&
	       read_nothing(e, to) && (is_short || (write_long(e, from) && read_nothing(e, to)));
}

/* What is no plaintext. */
static void disturb(struct ends *e, const struct kind *k)
{
	expect(SSLC_DIR_OUT, e->v[0], plain, 0, 0);
	if (k->version == TLS1_3_VERSION)
		(void)lib.SSL_key_update(e->v[0], SSL_KEY_UPDATE_REQUESTED);
	else
		(void)lib.SSL_renegotiate(e->v[1]); /* clients may not, by default */
	(void)lib.SSL_do_handshake(e->v[k->version != TLS1_3_VERSION]);
	(void)shake(e, BY_READ);
}

static void say_bye(struct ends *e)
{
	expect(SSLC_DIR_OUT, e->v[0], plain, 0, 0);
	for (int i = 0; i < 4; i++)
		(void)lib.SSL_shutdown(e->v[i & 1]);
}

/* The object's own BIO; it stays behind when the object is gone. */
static bool wrap_ends(struct ends *e)
{
	for (int i = 0; i < 2; i++) {
		e->bio[i] = lib.BIO_new(lib.BIO_f_ssl());
		if (!e->bio[i] || lib.BIO_ctrl(e->bio[i], BIO_C_SET_SSL, BIO_NOCLOSE, e->v[i]) <= 0)
			return false;
	}
	return true;
}

static bool run_kind(const struct kind *k, enum begun by, enum call_way way)
{
	struct ends e;
	bool ok = open_ends(&e, k) && wrap_ends(&e);

	e.way = way;
	n_talks++;
	ok = ok && shake(&e, by);
	if (!ok && k->is_optional) {
		close_ends(&e);
		return true;
	}
	ok = ok && talk(&e, 0, k->is_short) && talk(&e, 1, k->is_short);
	if (ok) {
		disturb(&e, k);
		ok = talk(&e, 0, k->is_short) && talk(&e, 1, k->is_short);
		say_bye(&e);
	}
	close_ends(&e);
	return ok;
}

static bool run_alert(const struct kind *k)
{
	struct ends e = {.ctx = {make_ctx(k, false), make_ctx(k, true)}};
	bool ok = e.ctx[0] && e.ctx[1];

	if (ok) {
		lib.SSL_CTX_set_options(e.ctx[0], SSL_OP_NO_RENEGOTIATION);
		ok = connect_ends(&e) && shake(&e, BY_HANDSHAKE) && write_behind_alert(&e);
	}
	close_ends(&e);
	return ok;
}

/* 0-RTT data of a client that has been here before, and an early answer. */
static bool write_early(struct ends *e, int from, uint32_t n)
{
	size_t done = 0;

	scribble();
	expect(SSLC_DIR_OUT, e->v[from], plain, 0, n);
	if (lib.SSL_write_early_data(e->v[from], plain, n, &done) != 1 || done != n)
		return false;
	judge(n, "early data do not pass it");
	return true;
}

static bool read_early(struct ends *e, int to, uint32_t n)
{
	size_t done = 0;

	scribble();
	memset(got, 0, n);
	expect(SSLC_DIR_IN, e->v[to], got, 0, n);
	if (lib.SSL_read_early_data(e->v[to], got, n, &done) != SSL_READ_EARLY_DATA_SUCCESS ||
	    done != n)
		return false;
	judge(n, "a read of early data does not pass it");
	return true;
}

static bool talk_early(struct ends *e)
{
	size_t done = 0;

	if (!write_early(e, 0, 100) || !read_early(e, 1, 100) || !write_early(e, 1, 200) ||
	    !write_early(e, 0, 23) || !read_early(e, 1, 23))
		return false;
	expect(SSLC_DIR_IN, e->v[0], got, 0, 0);
	(void)lib.SSL_do_handshake(e->v[0]);
	if (!read_some(e, 0, 0, 300, 200))
		return false;
	expect(SSLC_DIR_IN, e->v[1], got, 0, 0);
	if (lib.SSL_read_early_data(e->v[1], got, 10, &done) != SSL_READ_EARLY_DATA_FINISH)
		return false;
	return shake(e, BY_HANDSHAKE) && talk(e, 0, false) && talk(e, 1, false);
}

static bool run_early(const struct kind *k)
{
	SSL_SESSION *session = NULL;
	struct ends e, again;
	bool ok = open_ends(&e, k);

	ok = ok && shake(&e, BY_HANDSHAKE) && read_nothing(&e, 0) &&
	     (session = lib.SSL_get1_session(e.v[0]));
	again = (struct ends){.ctx = {e.ctx[0], e.ctx[1]}};
	ok = ok && connect_ends(&again);
	if (ok) {
		lib.SSL_set_psk_client_callback(again.v[0], NULL);
		ok = lib.SSL_set_session(again.v[0], session) == 1 && talk_early(&again);
	}
	if (session)
		lib.SSL_SESSION_free(session);
	again.ctx[0] = again.ctx[1] = NULL;
	close_ends(&again);
	close_ends(&e);
	return ok;
}

static const struct kind kinds[] = {
	{.name = "TLS 1.3, AES-GCM",
	 .version = TLS1_3_VERSION,
	 .ciphers = "TLS_AES_128_GCM_SHA256"},
	{.name = "TLS 1.3, ChaCha20",
	 .version = TLS1_3_VERSION,
	 .ciphers = "TLS_CHACHA20_POLY1305_SHA256",
	 .mode = SSL_MODE_RELEASE_BUFFERS},
	{.name = "TLS 1.2, AES-GCM",
	 .version = TLS1_2_VERSION,
	 .ciphers = "PSK-AES128-GCM-SHA256:@SECLEVEL=0",
	 .read_ahead = true},
	{.name = "TLS 1.0, CBC",
	 .version = TLS1_VERSION,
	 .ciphers = "PSK-AES128-CBC-SHA:@SECLEVEL=0",
	 .is_optional = true},
	{.name = "TLS 1.2, CBC",
	 .version = TLS1_2_VERSION,
	 .ciphers = "PSK-AES128-CBC-SHA:@SECLEVEL=0"},
	{.name = "TLS 1.2, CBC without encrypt-then-MAC",
	 .version = TLS1_2_VERSION,
	 .ciphers = "PSK-AES128-CBC-SHA:@SECLEVEL=0",
	 .options = SSL_OP_NO_ENCRYPT_THEN_MAC,
	 .is_short = true},
};
#define TLS12   2 /* the first of that */
#define N_KINDS (sizeof(kinds) / sizeof(kinds[0]))
#define BATCHED (N_KINDS - 1) /* the one that may make several records at once */

static void step_into(SSL *ssl, enum begun by)
{
	machine.ssl = ssl;
	machine.n_open = 0;
	machine.by_pointer = false;
	machine.is_done = false;
	trial_steps_begin();
	shake_once(ssl, by);
	trial_steps_end();
}

static void on_enter(void *ctx, const struct trial_state *s)
{
	(void)ctx;
	for (unsigned i = 0; i < machine.n_open; i++)
		if (machine.open[i].offset == s->pc && s->reg[REG_DI] == (uintptr_t)machine.ssl)
			machine.open[i].entered = true;
}

/* Of the functions that were open, those remain that this beginning enters, too. */
static bool confirm(int role, enum begun by)
{
	struct ends e;
	bool ok = open_ends(&e, &kinds[0]);
	unsigned n = 0;

	for (unsigned i = 0; i < machine.n_open && ok; i++) {
		machine.open[i].entered = false;
		ok = !trial_steps_watch(machine.open[i].offset);
	}
	machine.ssl = e.v[role];
	if (ok)
		shake_once(e.v[role], by);
	for (unsigned i = 0; i < machine.n_open; i++) {
		trial_steps_unwatch(machine.open[i].offset);
		if (machine.open[i].entered)
			machine.open[n++] = machine.open[i];
	}
	machine.n_open = n;
	close_ends(&e);
	return ok && n;
}

/* The outermost one of those that are there whichever call begins it. 0: none. */
static uint64_t find_machine(int role)
{
	struct ends e;

	machine.is_done = false;
	if (open_ends(&e, &kinds[0]))
		step_into(e.v[role], BY_HANDSHAKE);
	close_ends(&e);
	if (!machine.is_done || !confirm(role, BY_READ) || !confirm(role, BY_WRITE))
		return 0;
	return machine.open[0].offset;
}

/* One write and one read, instruction by instruction. */
static bool step_data(void)
{
	struct ends e;
	bool ok = open_ends(&e, &kinds[0]) && shake(&e, BY_HANDSHAKE);

	if (ok) {
		expect(SSLC_DIR_OUT, e.v[0], plain, 0, 100);
		trial_steps_begin();
		ok = lib.SSL_write(e.v[0], plain, 100) == 100;
		trial_steps_end();
		expect(SSLC_DIR_IN, e.v[1], got, 0, 100);
		trial_steps_begin();
		ok = ok && lib.SSL_read(e.v[1], got, 100) == 100;
		trial_steps_end();
	}
	close_ends(&e);
	return ok;
}

/* --- the whole ----------------------------------------------------------------------------------
 */

static void on_any_step(void *ctx, const struct trial_state *s)
{
	if (want.n)
		on_step(ctx, s);
	else
		on_machine_step(ctx, s);
}

static void on_any_out(void *ctx, uint64_t address, const struct trial_state *s)
{
	if (!want.n)
		on_machine_out(ctx, address, s);
}

/*
 * Handshakes and alerts are few, and so are hits for them. Many other hits are in vain, and their
 * guard may be chance. Each word of the stack must be fetched. The earliest sees most: kernel TLS
 * and compression part ways later.
 */
static uint64_t price(const struct candidate *c)
{
	unsigned slots = (first(c->buf) >= TRIAL_SLOT) + (first(c->len) >= TRIAL_SLOT) +
			 (first(c->ssl) >= TRIAL_SLOT) +
			 (!c->unguarded && first(c->guard) >= TRIAL_SLOT);

	return (uint64_t)(c->bad / (FEW * n_talks)) << 40 | (uint64_t)slots << 32 |
	       (uint64_t)(c - candidates);
}

/* The cheapest ones are as good as all. */
static void prune(enum sslc_dir dir)
{
	for (;;) {
		struct candidate *worst = NULL;
		unsigned n = 0;

		for (unsigned i = 0; i < n_candidates; i++) {
			struct candidate *c = &candidates[i];

			if (c->dir != dir || c->why)
				continue;
			n++;
			if (!worst || price(c) >= price(worst))
				worst = c;
		}
		if (n <= KEPT)
			return;
		refuse(worst, "others cost less");
	}
}

static const struct candidate *best_of(enum sslc_dir dir, bool is_batch)
{
	const struct candidate *best = NULL;

	for (unsigned i = 0; i < n_candidates; i++) {
		const struct candidate *c = &candidates[i];

		if (c->dir == dir && c->is_batch == is_batch && !c->why &&
		    (!best || price(c) < price(best)))
			best = c;
	}
	return best;
}

static bool choose(enum sslc_dir dir, bool is_batch, struct trial_place *out)
{
	const struct candidate *best = best_of(dir, is_batch);

	if (!best)
		return false;
	*out = (struct trial_place){.offset = best->offset,
				    .buf = first(best->buf),
				    .len = first(best->len),
				    .ssl = first(best->ssl),
				    .guard = best->unguarded ? TRIAL_NONE : first(best->guard)};
	return true;
}

/* --- several records at once --------------------------------------------------------------------
 */

/*
 * A long write of a cipher that makes several records at once, when the processor can: how many
 * bytes do not pass where single records do. They come first; else it is nothing that we know.
 */
static bool count_batched(const struct kind *k, uint32_t written, uint32_t *n)
{
	struct ends e;
	bool ok = open_ends(&e, k) && shake(&e, BY_HANDSHAKE);

	expect(SSLC_DIR_OUT, NULL, plain, 0, 0);
	want.ignore = false;
	want.batch = SMALL; /* nothing is judged */
	listen_anew();
	ok = ok && call_write(&e, 0, plain, written) == (int)written && heard.n <= written;
	*n = written - heard.n;
	ok = ok && !heard.is_torn && (!heard.n || heard.address == (uintptr_t)plain + *n);
	close_ends(&e);
	return ok;
}

/* A write whose batches pass in one piece where single records do; the transport takes less. */
static bool hear_all(const struct kind *k, uint32_t n, enum call_way way)
{
	struct ends e;
	bool ok = open_ends(&e, k) && wrap_ends(&e);
	int r = -1;

	e.way = way;
	ok = ok && shake(&e, BY_HANDSHAKE);
	listen_anew();
	for (int i = 0; i < 100 && r < 0 && ok; i++) {
		expect(SSLC_DIR_OUT, NULL, plain, 0, 0);
		want.batch = SMALL; /* nothing is judged */
		r = call_write(&e, 0, plain, n);
		while (lib.BIO_read(e.transport[1], got, sizeof(got)) > 0)
			;
	}
	want.batch = 0;
	close_ends(&e);
	return ok && r == (int)n && heard.n == n && !heard.is_torn &&
	       heard.address == (uintptr_t)plain;
}

/* Instructions that the batches pass. */
static bool step_batches(uint32_t record)
{
	struct ends e;
	unsigned before = n_candidates;
	bool ok = open_ends(&e, &kinds[BATCHED]) && shake(&e, BY_HANDSHAKE);

	if (ok) {
		expect(SSLC_DIR_OUT, e.v[0], plain, 0, 12 * record);
		want.batch = record;
		trial_steps_begin();
		ok = lib.SSL_write(e.v[0], plain, BATCH) == (int)BATCH;
		trial_steps_end();
		want.n = want.batch = 0;
	}
	close_ends(&e);
	for (unsigned i = before; i < n_candidates && ok; i++)
		ok = !trial_steps_break(candidates[i].offset);
	return ok;
}

/* A write of n bytes, of which so many go in batches of such records; the transport takes less. */
static bool write_batches(struct ends *e, uint32_t n, uint32_t record)
{
	uint32_t at[TRIAL_BREAKS] = {0};
	int r = -1;

	listen_anew();
	for (int i = 0; i < 100 && r < 0; i++) {
		expect(SSLC_DIR_OUT, e->v[0], plain, 0, 12 * record);
		want.batch = record;
		for (unsigned k = 0; k < n_candidates; k++)
			candidates[k].at = at[k];
		r = call_write(e, 0, plain, n);
		for (unsigned k = 0; k < n_candidates; k++)
			at[k] = candidates[k].at;
		while (lib.BIO_read(e->transport[1], got, sizeof(got)) > 0)
			;
	}
	judge(12 * record, "records in batches do not pass it");
	return r == (int)n && heard.n == n - 12 * record && !heard.is_torn;
}

static bool run_batches(const struct kind *k, uint32_t n, uint32_t record, enum call_way way)
{
	struct ends e;
	bool ok = open_ends(&e, k) && wrap_ends(&e);

	e.way = way;
	ok = ok && shake(&e, BY_HANDSHAKE) && write_all(&e, 0, 100) && write_batches(&e, n, record);
	close_ends(&e);
	return ok;
}

/* With the largest and the smallest records; and all that is no batch, once more. */
static bool try_batches(uint32_t record)
{
	struct kind small = kinds[BATCHED];
	bool ok = true;

	small.record = SMALL;
	for (enum call_way way = BY_PLAIN; way < CALL_WAYS && ok; way++)
		ok = run_batches(&kinds[BATCHED], BATCH, record, way) &&
		     run_batches(&small, SMALL_BATCH, SMALL, way);
	for (size_t k = 0; k < N_KINDS && ok; k++)
		ok = run_kind(&kinds[k], BY_HANDSHAKE, BY_PLAIN);
	return ok;
}

/* They pass where single records do, in one piece. */
static const char *hear_batches(const struct kind *small, struct trial_place *out)
{
	pair_room = PAIR;
	for (enum call_way way = BY_PLAIN; way < CALL_WAYS; way++)
		if (!hear_all(&kinds[BATCHED], BATCH, way) || !hear_all(small, SMALL_BATCH, way))
			return "several records that are sent at once do not pass as a whole";
	return choose(SSLC_DIR_OUT, false, out) ? NULL : "";
}

/* NULL, also when there are none; or why they cannot be told. */
static const char *find_batches(struct trial_place *out)
{
	static const char why[] = "no instruction that sees several records sent at once";
	struct kind small = kinds[BATCHED];
	uint32_t batched, few;

	small.record = SMALL;
	heard.at = best_of(SSLC_DIR_OUT, false);
	pair_room = 2 * BATCH;
	if (!count_batched(&small, SMALL_BATCH, &few) ||
	    !count_batched(&kinds[BATCHED], BATCH, &batched) || batched % 12 ||
	    (few != 0) != (batched != 0))
		return why;
	if (!batched)
		return heard.most > RECORD ? hear_batches(&small, out) : NULL;
	if (!step_batches(batched / 12))
		return why;
	pair_room = PAIR;
	if (!try_batches(batched / 12) || !choose(SSLC_DIR_OUT, true, out))
		return why;
	return out->guard == TRIAL_NONE ? NULL : why;
}

/* --- all of it ----------------------------------------------------------------------------------
 */

static const char *experiment(struct trial_result *out)
{
	static const enum begun begun[] = {BY_HANDSHAKE, BY_READ};

	for (size_t i = 0; i < sizeof(plain); i++)
		plain[i] = (uint8_t)(i * 7 + (i >> 8) * 13 + 1);
	for (int i = 0; i < 2; i++) {
		out->handshake[i] = find_machine(i);
		if (!out->handshake[i])
			return "no function that each handshake goes through";
	}
	for (int i = 0; i < 2; i++)
		if (trial_steps_watch(out->handshake[i]))
			return "its handshakes cannot be watched";
	if (!step_data())
		return "no conversation of its own";
	for (unsigned i = 0; i < n_candidates; i++)
		if (trial_steps_break(candidates[i].offset))
			return "a candidate cannot be watched";
	for (size_t k = 0; k < N_KINDS; k++)
		for (enum call_way way = BY_PLAIN; way < CALL_WAYS; way++) {
			if (!run_kind(&kinds[k], begun[way & 1], way))
				return kinds[k].name;
			prune(SSLC_DIR_IN);
			prune(SSLC_DIR_OUT);
		}
	if (!run_alert(&kinds[TLS12]))
		return "TLS 1.2, a write behind an alert";
	if (!run_early(&kinds[0]))
		return "TLS 1.3, early data";
	if (!choose(SSLC_DIR_OUT, false, &out->send))
		return "no instruction that sees each record sent, and nothing else";
	if (!choose(SSLC_DIR_IN, false, &out->receive))
		return "no instruction that sees each record received, and nothing else";
	return find_batches(&out->batch);
}

int trial_child(void)
{
	static const struct trial_watcher w = {
		.step = on_any_step, .out = on_any_out, .hit = on_hit, .enter = on_enter};
	struct trial_result result = {.why = ""};
	const char *why = trial_enter_box() ? "no sandbox" : load();

	if (!why && trial_steps_open((const void *)lib.SSL_write, FILE_FD, &w))
		why = "its code cannot be watched";
	if (!why)
		why = experiment(&result);
	if (why)
		snprintf(result.why, sizeof(result.why), "%s", why);
	return write(STDOUT_FILENO, &result, sizeof(result)) == sizeof(result) ? 0 : 1;
}

#else

int trial_child(void)
{
	return 1;
}

#endif
