/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sites_gnutls: an open file in, the probe sites of GnuTLS's functions in it out.
 * gnutls_record_send() ends in gnutls_record_send2(); uncorking and sending files call it, and so
 * does the handshake, for what gnutls_record_send_early_data() was given.
 *
 * gnutls_record_recv() and _seq() end in one internal function, or in two where the kernel may do
 * TLS. These cost less to probe. They have no symbols, and are taken only when the code of both
 * public functions proves that nothing else receives there.
 */
#include "sites/sites.h"

#include "base/log.h"
#include "sites/elfframe.h"
#include "sites/elfview.h"
#include "sites/x86code.h"

#include <stdbool.h>

enum { RECV, RECV_SEQ }; /* the table's first lines */

static const struct site_symbol table[] = {
	[RECV] = {"gnutls_record_recv", SSLC_CALL_RECV},
	[RECV_SEQ] = {"gnutls_record_recv_seq", SSLC_CALL_RECV},
	{"gnutls_record_recv_packet", SSLC_CALL_RECV_PACKET},
	{"gnutls_record_recv_early_data", SSLC_CALL_RECV},
	{"gnutls_record_send2", SSLC_CALL_SEND},
	{"gnutls_record_send_range", SSLC_CALL_SEND},
	{"gnutls_record_send_file", SSLC_CALL_SEND_FILE},
	{"gnutls_record_uncork", SSLC_CALL_UNCORK},
	{"gnutls_session_get_flags", SSLC_CALL_SESSION_FLAGS},
	{"gnutls_handshake", SSLC_CALL_EARLY_WRITE},
	{"gnutls_rehandshake", SSLC_CALL_BIND},
	{"gnutls_reauth", SSLC_CALL_BIND},
	{"gnutls_session_key_update", SSLC_CALL_BIND},
	{"gnutls_bye", SSLC_CALL_BIND},
	{"gnutls_deinit", SSLC_CALL_FORGET},
};
#define N_SYMBOLS (sizeof(table) / sizeof(table[0]))

#define RECEIVERS_MAX 2
#define TARGETS_MAX   8 /* of one function: what it calls beside them only logs */

/* What is known of one public function. */
struct code {
	struct x86code_exit exit[X86CODE_EXITS];
	int n_exits;
	uint64_t target[TARGETS_MAX];
	int n_targets;
};

static bool read_code(const struct elfview *e, uint64_t offset, struct code *c)
{
	uint64_t size = elfframe_size(e, offset);
	uint8_t bytes[X86CODE_FUNCTION];

	if (!offset || !size || size > sizeof(bytes) || !elfview_read(e, offset, bytes, size))
		return false;
	c->n_exits = x86code_exits(bytes, size, offset, c->exit);
	c->n_targets = x86code_targets(bytes, size, offset, c->target, TARGETS_MAX);
	return c->n_exits > 0 && c->n_targets > 0;
}

static bool has(const struct x86code_exit *x, int at, int arg)
{
	return x->arg[at].kind == X86CODE_ARG && x->arg[at].arg == arg;
}

/* (session, type, buffer, length, …) of (session, buffer, length) */
static bool is_receiver(const struct x86code_exit *x)
{
	return has(x, 0, 0) && has(x, 2, 1) && has(x, 3, 2);
}

/* It gets neither the session nor the buffer, and so receives nothing for the caller. */
static bool is_stranger(const struct x86code_exit *x)
{
	for (int at = 0; at < X86CODE_ARGS; at++)
		if (has(x, at, 0) || has(x, at, 1))
			return false;
	return true;
}

static bool is_among(const uint64_t v[], int n, uint64_t x)
{
	for (int i = 0; i < n; i++)
		if (v[i] == x)
			return true;
	return false;
}

/* Sort a function's exits into receivers and strangers; *n receivers are known already. */
static bool add_receivers(const struct code *c, uint64_t receiver[], int *n)
{
	uint64_t seen[X86CODE_EXITS];
	int n_seen = 0;

	for (int i = 0; i < c->n_exits; i++) {
		const struct x86code_exit *x = &c->exit[i];

		if (x->way == X86CODE_END)
			continue;
		seen[n_seen++] = x->target;
		if (!is_receiver(x) && is_stranger(x) && !is_among(receiver, *n, x->target))
			continue;
		if (!is_receiver(x))
			return false;
		if (is_among(receiver, *n, x->target))
			continue;
		if (*n == RECEIVERS_MAX)
			return false;
		receiver[(*n)++] = x->target;
	}
	/* Behind a call nothing was followed: it must not go to yet another place there. */
	for (int i = 0; i < c->n_targets; i++)
		if (!is_among(seen, n_seen, c->target[i]))
			return false;
	return true;
}

/* The functions that both of the public ones end in: their number, 0 when that is not certain. */
static int find_receivers(int fd, const uint64_t offsets[], uint64_t receiver[RECEIVERS_MAX])
{
	struct code plain, seq;
	struct elfview e;
	int n = 0;

	if (elfview_open(&e, fd))
		return 0;
	if (!read_code(&e, offsets[RECV_SEQ], &seq) || !read_code(&e, offsets[RECV], &plain) ||
	    seq.n_exits != 1 || seq.exit[0].way != X86CODE_JUMP ||
	    !add_receivers(&seq, receiver, &n) || n != 1 || !add_receivers(&plain, receiver, &n))
		n = 0;
	elfview_close(&e);
	return n;
}

int sites_gnutls(int fd, struct sites *out)
{
	uint64_t offsets[N_SYMBOLS], receiver[RECEIVERS_MAX];
	int n = sites_lookup(fd, table, N_SYMBOLS, offsets), err = 0;

	if (n <= 0)
		return n;
	n = find_receivers(fd, offsets, receiver);
	for (int i = 0; i < n && !err; i++)
		err = sites_add(out, receiver[i], SSLC_CALL_RECV_TYPED, SITE_ENTRY | SITE_RETURN);
	if (err)
		return err;
	if (n)
		offsets[RECV] = offsets[RECV_SEQ] = 0;
	log_debug("sites: GnuTLS: probes on %s",
		  n ? "the internal receive function" : "the public functions");
	return sites_add_found(out, table, N_SYMBOLS, offsets);
}
