/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sites_go: an open file in, the probe sites of Go's crypto/tls in it out. Return probes would
 * crash such programs: each return instruction gets a probe of its own. All functions or none.
 */
#include "sites/sites.h"

#include "sites/elfview.h"
#include "sites/gocode.h"
#include "sites/gofile.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#define CODE_MAX    (1u << 20) /* of one function; the largest here has 4 KiB */
#define RETURNS_MAX 256        /* of one function; the largest has 15 */

struct go_function {
	const char *name;
	enum sslc_call call, old_call; /* arguments in registers; on the stack */
};

/*
 * Write() has no order when two goroutines use it at once, what it calls under the connection's
 * lock does. The handshake's functions are called once a connection; a client does not have the
 * server's. New objects cannot be seen being made: Client() and Server() are inlined.
 */
static const struct go_function functions[] = {
	{"crypto/tls.(*Conn).Read", SSLC_CALL_GO_READ, SSLC_CALL_GO_OLD_READ},
	{"crypto/tls.(*Conn).writeRecordLocked", SSLC_CALL_GO_WRITE, SSLC_CALL_GO_OLD_WRITE},
	{"crypto/tls.(*Conn).clientHandshake", SSLC_CALL_GO_BIND, SSLC_CALL_GO_OLD_BIND},
	{"crypto/tls.(*Conn).serverHandshake", SSLC_CALL_GO_BIND, SSLC_CALL_GO_OLD_BIND},
};
enum { N = sizeof(functions) / sizeof(functions[0]), READ = 0, WRITE = 1 };

static int add_code(struct sites *s, const struct go_function *f, uint64_t offset,
		    const uint8_t *code, size_t len, enum gocode_abi abi)
{
	uint32_t returns[RETURNS_MAX];
	int entry = gocode_entry(code, len, &abi), n, err;
	enum sslc_call call = abi == GOCODE_REGISTERS ? f->call : f->old_call;

	if (entry < 0)
		return entry;
	n = gocode_returns(code, len, returns, RETURNS_MAX);
	if (n <= 0)
		return n ? n : -ENOEXEC;
	err = sites_add(s, offset + (uint64_t)entry, call, SITE_ENTRY);
	for (int i = 0; i < n && !err; i++)
		err = sites_add(s, offset + returns[i], call, SITE_EXIT);
	return err;
}

static int add_function(struct sites *s, const struct elfview *e, const struct go_function *f,
			const struct gofile_function *at, enum gocode_abi abi)
{
	uint8_t *code = at->len <= CODE_MAX ? elfview_load(e, at->offset, at->len) : NULL;
	int err = code ? add_code(s, f, at->offset, code, at->len, abi) : -ENOEXEC;

	free(code);
	return err;
}

static int add_functions(struct sites *s, const struct elfview *e,
			 const struct gofile_function at[], enum gocode_abi abi)
{
	size_t n = s->n, movers = s->movers;
	int err = 0;

	for (size_t i = 0; i < N && !err; i++)
		if (at[i].offset)
			err = add_function(s, e, &functions[i], &at[i], abi);
	if (err) { /* half of the probes would show half of a conversation */
		s->n = n;
		s->movers = movers;
	}
	return err;
}

int sites_go(int fd, struct sites *out)
{
	struct gofile_function at[N];
	const char *names[N];
	struct elfview e;
	unsigned since;
	int err = elfview_open(&e, fd);

	if (err)
		return err;
	for (size_t i = 0; i < N; i++)
		names[i] = functions[i].name;
	err = gofile_find(&e, names, N, at, &since);
	if (err > 0 && at[READ].offset && at[WRITE].offset)
		err = add_functions(out, &e, at, since >= 18 ? GOCODE_REGISTERS : GOCODE_STACK);
	elfview_close(&e);
	if (err == -EOPNOTSUPP)
		out->why_not = "a Go program whose table of functions is in no known form";
	else if (err == -ENOEXEC || err == -E2BIG)
		out->why_not = "crypto/tls of Go in no known form";
	return err == -ENOMEM ? err : 0;
}
