/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sites_openssl: an open file in, the probe sites of OpenSSL's functions in it out.
 *
 * SSL_read and SSL_read_ex both call one internal function, and so does OpenSSL's own SSL BIO
 * (BIO_f_ssl) without them; writing likewise. These two have no symbols. They are searched in the
 * code of the public functions and taken instead of those only when both of a direction prove it:
 * every argument of the _ex call arrives there unchanged, and the plain call goes to the same
 * place. Never goes by version; never takes what is not proven.
 */
#include "sites/sites.h"

#include "base/log.h"
#include "sites/callers.h"
#include "sites/cheap.h"
#include "sites/elfframe.h"
#include "sites/elfsym.h"
#include "sites/elfview.h"
#include "sites/x86code.h"

#include <errno.h>
#include <stdbool.h>
#include <unistd.h>

/* Those whose code is read; the order of the table's first lines. */
enum { READ, READ_EX, WRITE, WRITE_EX, WRITE_EX2, PEEK, PEEK_EX };

static const struct site_symbol table[] = {
	[READ] = {"SSL_read", SSLC_CALL_READ},
	[READ_EX] = {"SSL_read_ex", SSLC_CALL_READ_EX},
	[WRITE] = {"SSL_write", SSLC_CALL_WRITE},
	[WRITE_EX] = {"SSL_write_ex", SSLC_CALL_WRITE_EX},
	[WRITE_EX2] = {"SSL_write_ex2", SSLC_CALL_WRITE_EX2}, /* since 3.3 */
	[PEEK] = {"SSL_peek", SSLC_CALL_BIND},
	[PEEK_EX] = {"SSL_peek_ex", SSLC_CALL_BIND},
	{"SSL_do_handshake", SSLC_CALL_BIND},
	{"SSL_sendfile", SSLC_CALL_SENDFILE},
	{"SSL_write_early_data", SSLC_CALL_EARLY_WRITE},
	{"SSL_read_early_data", SSLC_CALL_EARLY_READ},
	{"SSL_get_early_data_status", SSLC_CALL_EARLY_STATUS},
	{"SSL_free", SSLC_CALL_FORGET},
	{"SSL_clear", SSLC_CALL_FORGET},
	{"SSL_set_fd", SSLC_CALL_FORGET},
	{"SSL_set_bio", SSLC_CALL_FORGET},
	{"SSL_set0_rbio", SSLC_CALL_FORGET},
	{"SSL_set0_wbio", SSLC_CALL_FORGET},
	{"SSL_set_rfd", SSLC_CALL_FORGET},
	{"SSL_set_wfd", SSLC_CALL_FORGET},
};
#define N_SYMBOLS (sizeof(table) / sizeof(table[0]))

/* --- what a public function hands on ------------------------------------------------------------
 */

struct file {
	int fd;
	uint64_t from, to; /* the executable part that holds the public functions */
};

struct exits {
	struct x86code_exit v[X86CODE_EXITS];
	int n; /* 0: nothing known */
};

/* The internal function of one direction. */
struct internal {
	uint64_t offset;
	int result; /* which argument points to the count, counted from 0 */
};

static size_t read_code(const struct file *f, uint64_t offset, uint8_t code[X86CODE_FUNCTION])
{
	size_t n = X86CODE_FUNCTION;
	ssize_t got;

	if (offset < f->from || offset >= f->to)
		return 0;
	if (f->to - offset < n)
		n = (size_t)(f->to - offset);
	got = pread(f->fd, code, n, (off_t)offset);
	return got > 0 ? (size_t)got : 0;
}

static void look(const struct file *f, uint64_t offset, struct exits *e)
{
	uint8_t code[X86CODE_FUNCTION];
	size_t n = offset ? read_code(f, offset, code) : 0;

	e->n = n ? x86code_exits(code, n, offset, e->v) : 0;
	if (e->n < 0)
		e->n = 0;
}

static bool has(const struct x86code_exit *e, int at, enum x86code_kind kind, int arg)
{
	return e->arg[at].kind == kind && e->arg[at].arg == arg;
}

/* The object, the buffer and its length arrive where they were. */
static bool hands_on_three(const struct x86code_exit *e)
{
	return has(e, 0, X86CODE_ARG, 0) && has(e, 1, X86CODE_ARG, 1) && has(e, 2, X86CODE_ARG, 2);
}

/* By the position of the _ex call's fourth argument; -1 when that is not there. */
static int result_of(const struct x86code_exit *e)
{
	if (!hands_on_three(e))
		return -1;
	return has(e, 3, X86CODE_ARG, 3) ? 3 : has(e, 4, X86CODE_ARG, 3) ? 4 : -1;
}

/* --- proofs -------------------------------------------------------------------------------------
 */

/* An _ex function that does nothing but call it. */
static bool called_by_ex(const struct exits *e, struct internal *out)
{
	if (e->n != 1 || e->v[0].way != X86CODE_CALL)
		return false;
	out->result = result_of(&e->v[0]);
	out->offset = e->v[0].target;
	return out->result > 0;
}

/* SSL_write_ex since 3.3: jumps to SSL_write_ex2 with flags put before the result. */
static bool called_by_ex2(const struct exits *ex, const struct exits *ex2, struct internal *out)
{
	if (ex->n != 1 || ex->v[0].way != X86CODE_JUMP || result_of(&ex->v[0]) != 4)
		return false;
	if (ex2->n != 1 || ex2->v[0].way != X86CODE_CALL || !hands_on_three(&ex2->v[0]) ||
	    !has(&ex2->v[0], 3, X86CODE_ARG, 3) || !has(&ex2->v[0], 4, X86CODE_ARG, 4))
		return false;
	*out = (struct internal){.offset = ex2->v[0].target, .result = 4};
	return true;
}

/* The plain function calls it too, with its int widened and a result of its own. */
static bool called_by_plain(const struct exits *e, const struct internal *in)
{
	for (int i = 0; i < e->n; i++)
		if (e->v[i].way == X86CODE_CALL && e->v[i].target == in->offset)
			return has(&e->v[i], 0, X86CODE_ARG, 0) &&
			       has(&e->v[i], 1, X86CODE_ARG, 1) &&
			       has(&e->v[i], 2, X86CODE_ARG_INT, 2) &&
			       has(&e->v[i], in->result, X86CODE_FRAME, 0);
	return false;
}

static bool goes_to(const struct exits *e, uint64_t target)
{
	for (int i = 0; i < e->n; i++)
		if (e->v[i].target == target)
			return true;
	return false;
}

/* A peek that ended in the same function as a read could not be told from it. */
static bool find_read(const struct file *f, const uint64_t *offsets, struct internal *in)
{
	struct exits ex, plain, peek, peek_ex;

	look(f, offsets[READ_EX], &ex);
	look(f, offsets[READ], &plain);
	look(f, offsets[PEEK], &peek);
	look(f, offsets[PEEK_EX], &peek_ex);
	return called_by_ex(&ex, in) && in->result == 3 && called_by_plain(&plain, in) && peek.n &&
	       peek_ex.n && !goes_to(&peek, in->offset) && !goes_to(&peek_ex, in->offset);
}

static bool find_write(const struct file *f, const uint64_t *offsets, struct internal *in)
{
	struct exits ex, ex2, plain;

	look(f, offsets[WRITE_EX], &ex);
	look(f, offsets[WRITE_EX2], &ex2);
	look(f, offsets[WRITE], &plain);
	return (called_by_ex(&ex, in) || called_by_ex2(&ex, &ex2, in)) &&
	       called_by_plain(&plain, in);
}

/* Where to probe it: behind the mark for indirect jumps, which kernels cannot emulate. 0: nowhere.
 */
static uint64_t probe_at(const struct file *f, uint64_t offset)
{
	uint8_t code[X86CODE_FUNCTION];
	size_t n = read_code(f, offset, code);
	int mark = n ? x86code_mark(code, n) : -1;

	return mark < 0 ? 0 : offset + (uint64_t)mark;
}

/* --- what is cheap ------------------------------------------------------------------------------
 */

#define CALLERS_MAX 8 /* of an internal function: SSL_read_ex, the SSL BIO and few others */

/* One direction. */
struct way {
	struct internal in;
	uint64_t at; /* where to probe it */
	enum sslc_call call;
	int plain; /* SSL_read or SSL_write */
};

static enum cheap_kind price_of(const struct elfview *e, uint64_t offset, uint64_t size)
{
	uint8_t code[CHEAP_FUNCTION];
	struct cheap_places p;

	if (size > sizeof(code) || !elfview_read(e, offset, code, size ? size : CHEAP_FIRST))
		return CHEAP_NOTHING;
	return cheap_find(code, size, 4, &p);
}

/* The internal function would cost more than the plain public one, which most programs call. */
static bool is_dear(const struct elfview *e, const struct way *w, const uint64_t *offsets)
{
	uint64_t plain = offsets[w->plain];
	enum cheap_kind kind = price_of(e, plain, elfframe_size(e, plain));

	return price_of(e, w->at, 0) == CHEAP_NOTHING &&
	       (kind == CHEAP_PAIR || kind == CHEAP_RETURN);
}

/* A call of the internal function: there it begins with the next lower stack pointer, and behind it
 * it has ended. */
static int add_caller(struct sites *out, const struct way *w, uint64_t call)
{
	int err = sites_add(out, call, w->call, SITE_ENTRY);

	if (!err)
		err = sites_add(out, call + 5, w->call, SITE_EXIT);
	for (size_t i = out->n - 2; !err && i < out->n; i++) {
		out->v[i].sp = -8;
		out->v[i].function = call;
		out->v[i].why = "the internal function is entered and left at its callers";
	}
	return err;
}

/* Instead of the internal function: the plain public one, and all other calls of it. 1, 0 (not
 * certain), -ENOMEM. */
static int add_callers(struct sites *out, const struct elfview *e, const struct way *w,
		       const uint64_t *offsets)
{
	struct caller c[CALLERS_MAX];
	int n = callers_find(e, w->in.offset, c, CALLERS_MAX), err = 0;
	bool has_plain = false;

	for (int i = 0; i < n; i++)
		has_plain |= c[i].function == offsets[w->plain];
	if (!has_plain)
		return n == -ENOMEM ? n : 0;
	for (int i = 0; i < n && !err; i++)
		if (c[i].function != offsets[w->plain])
			err = add_caller(out, w, c[i].call);
	return err ? err : 1;
}

/* The plain function stays among the public ones when its own pair is better. */
static int add_way(struct sites *out, const struct elfview *e, const struct way *w,
		   uint64_t *offsets)
{
	int n = out->pairs && out->calls && is_dear(e, w, offsets) ? add_callers(out, e, w, offsets)
								   : 0;

	if (n)
		return n < 0 ? n : 0;
	offsets[w->plain] = 0;
	return sites_add(out, w->at, w->call, SITE_ENTRY | SITE_RETURN);
}

static int add_ways(struct sites *out, int fd, const struct way w[2], uint64_t *offsets)
{
	static const int others[] = {READ_EX, WRITE_EX, WRITE_EX2};
	struct elfview e;
	int err = elfview_open(&e, fd);

	if (err)
		return err;
	for (int i = 0; i < 2 && !err; i++)
		err = add_way(out, &e, &w[i], offsets);
	elfview_close(&e);
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		offsets[others[i]] = 0;
	return err ? err : 1;
}

/*
 * Take the internal functions instead of the public ones, if they are certain. 1, 0 (not certain),
 * -errno.
 */
static int add_internals(struct sites *out, int fd, uint64_t *offsets)
{
	struct file f = {.fd = fd};
	struct way w[2] = {{.call = SSLC_CALL_READ_EX, .plain = READ}, {.plain = WRITE}};

	if (!offsets[READ] || elfsym_code(fd, offsets[READ], &f.from, &f.to))
		return 0;
	if (!find_read(&f, offsets, &w[0].in) || !find_write(&f, offsets, &w[1].in) ||
	    w[0].in.offset == w[1].in.offset)
		return 0;
	w[0].at = probe_at(&f, w[0].in.offset);
	w[1].at = probe_at(&f, w[1].in.offset);
	w[1].call = w[1].in.result == 3 ? SSLC_CALL_WRITE_EX : SSLC_CALL_WRITE_EX2;
	return w[0].at && w[1].at ? add_ways(out, fd, w, offsets) : 0;
}

int sites_openssl(int fd, struct sites *out)
{
	uint64_t offsets[N_SYMBOLS];
	int n = sites_lookup(fd, table, N_SYMBOLS, offsets);

	if (n <= 0)
		return n;
	n = out->plain ? 0 : add_internals(out, fd, offsets);
	if (n < 0)
		return n;
	log_debug("sites: OpenSSL: probes on %s",
		  n ? "the internal read and write functions" : "the public functions");
	return sites_add_found(out, table, N_SYMBOLS, offsets);
}
