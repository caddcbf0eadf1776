/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sites_record: the sites of an OpenSSL library come in; the same come out with one site for each
 * direction in place of the calls that move plaintext, when an experiment has found such.
 */
#include "sites/sites.h"

#include "sites/elfframe.h"
#include "sites/elfview.h"
#include "sites/trial.h"

#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#if defined(__x86_64__)

_Static_assert(TRIAL_SLOT == SSLC_SOURCE_SLOT && TRIAL_NONE == SSLC_SOURCE_NONE, "the same");

static int add_record(struct sites *s, const struct elfview *e, const struct trial_place *p,
		      enum sslc_call call, const char *name)
{
	int err = sites_add(s, p->offset, call, SITE_ENTRY);
	struct site *x;

	if (err)
		return err;
	x = &s->v[s->n - 1];
	x->sp = (int32_t)(p->buf | (uint32_t)p->len << 8 | (uint32_t)p->ssl << 16 |
			  (uint32_t)p->guard << 24);
	x->name = name;
	x->price = SITE_RECORD;
	(void)elfframe_around(e, p->offset, &x->function);
	return 0;
}

static int add_handshake(struct sites *s, uint64_t offset, const char *name)
{
	int err = sites_add(s, offset, SSLC_CALL_BIND, SITE_ENTRY | SITE_RETURN);

	if (!err)
		s->v[s->n - 1].name = name;
	return err;
}

/* Reads and writes, whichever function they go through. */
static bool is_replaced(const struct site *s)
{
	return s->call == SSLC_CALL_READ || s->call == SSLC_CALL_READ_EX ||
	       s->call == SSLC_CALL_WRITE || s->call == SSLC_CALL_WRITE_EX ||
	       s->call == SSLC_CALL_WRITE_EX2;
}

static void put_around(struct sites *s, const struct site *from)
{
	struct site *to = &s->around[s->n_around++];
	bool is_read = from->call == SSLC_CALL_READ || from->call == SSLC_CALL_READ_EX;

	*to = *from;
	to->call = is_read ? SSLC_CALL_AROUND_IN : SSLC_CALL_AROUND_OUT;
	if (from->at & SITE_ENTRY)
		s->movers--;
}

static int move_out(struct sites *s)
{
	size_t n = 0;

	s->around = calloc(s->n + 1, sizeof(*s->around));
	if (!s->around)
		return -ENOMEM;
	for (size_t i = 0; i < s->n; i++)
		if (is_replaced(&s->v[i]))
			put_around(s, &s->v[i]);
		else
			s->v[n++] = s->v[i];
	s->n = n;
	return 0;
}

static int add_records(struct sites *s, const struct elfview *e, const struct trial_result *r)
{
	bool is_batch = r->batch.offset == r->send.offset;
	int err = add_record(s, e, &r->send, is_batch ? SSLC_CALL_BATCH_OUT : SSLC_CALL_RECORD_OUT,
			     is_batch ? "(records sent)" : "(record sent)");

	if (!err)
		err = add_record(s, e, &r->receive, SSLC_CALL_RECORD_IN, "(record received)");
	if (!err && r->batch.offset && !is_batch)
		err = add_record(s, e, &r->batch, SSLC_CALL_BATCH_OUT, "(records sent at once)");
	if (!err)
		err = add_handshake(s, r->handshake[0], "(client's handshake)");
	if (!err && r->handshake[1] != r->handshake[0])
		err = add_handshake(s, r->handshake[1], "(server's handshake)");
	return err;
}

int sites_records(struct sites *s, int fd)
{
	struct trial_result r;
	struct elfview e;
	int err = trial_run(fd, &r);

	if (err)
		return err;
	if (r.why[0]) {
		snprintf(s->no_records, sizeof(s->no_records), "%s", r.why);
		log_debug("sites: OpenSSL: no probes on records: %s", r.why);
		return 0;
	}
	if (elfview_open(&e, fd))
		return 0;
	err = move_out(s);
	if (!err)
		err = add_records(s, &e, &r);
	elfview_close(&e);
	if (!err)
		err = sites_cheapen(s, fd); /* the handshakes' */
	log_debug("sites: OpenSSL: probes on records");
	return err;
}

#else

int sites_records(struct sites *s, int fd)
{
	(void)fd;
	snprintf(s->no_records, sizeof(s->no_records), "not known for this machine");
	return 0;
}

#endif
