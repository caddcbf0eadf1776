/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * records: instructions that OpenSSL passes once for each record of plaintext, found by experiment
 * (agent/sites/trial.h). One probe there tells what entry and return of the calls around it would,
 * and is not hit by calls that move nothing. Since 6.6 only: a cookie says where the values are.
 */
#ifndef SSLC_BPF_RECORDS_H
#define SSLC_BPF_RECORDS_H

/*
 * The register with that number, 0 to 15: as instructions count them. Each is a load of its own at
 * a fixed offset; one at a chosen offset is refused.
 */
static __always_inline __u64 reg_value(const struct pt_regs *ctx, __u32 number)
{
	__u64 v = 0;

#if defined(__TARGET_ARCH_x86)
#define REG(n, name)                                                                               \
	case n:                                                                                    \
		v = ctx->name;                                                                     \
		barrier_var(v);                                                                    \
		break
	switch (number) {
		REG(0, ax);
		REG(1, cx);
		REG(2, dx);
		REG(3, bx);
		REG(4, sp);
		REG(5, bp);
		REG(6, si);
		REG(7, di);
		REG(8, r8);
		REG(9, r9);
		REG(10, r10);
		REG(11, r11);
		REG(12, r12);
		REG(13, r13);
		REG(14, r14);
		REG(15, r15);
	}
#undef REG
#endif
	return v;
}

static __always_inline __u64 value_of(struct pt_regs *ctx, __u32 source)
{
	__u64 v = 0;

	if (source < SSLC_SOURCE_SLOT)
		return reg_value(ctx, source);
	bpf_probe_read_user(&v, sizeof(v),
			    (void *)(PT_REGS_SP(ctx) + 8 * (source - SSLC_SOURCE_SLOT)));
	return v;
}

#define BATCH_RECORDS 8u /* that OpenSSL makes at once, at most */

/* What passes. */
struct passing {
	__u64 ssl, buf, len, sp;
	enum sslc_dir dir;
};

static __always_inline bool read_passing(struct pt_regs *ctx, __u64 cookie, __u64 most,
					 struct passing *p)
{
	__u32 guard = cookie >> 32 & 0xff;

	if (guard != SSLC_SOURCE_NONE && (__u32)value_of(ctx, guard) != TLS_APPLICATION)
		return false;
	p->buf = value_of(ctx, cookie >> 8 & 0xff);
	p->len = value_of(ctx, cookie >> 16 & 0xff);
	p->ssl = value_of(ctx, cookie >> 24 & 0xff);
	p->sp = PT_REGS_SP(ctx);
	p->dir = (cookie & 0xff) == SSLC_CALL_RECORD_IN ? SSLC_DIR_IN : SSLC_DIR_OUT;
	if (p->len > most)
		count(LOSS_CALL_TOO_LONG, p->len);
	return p->len && p->len <= most;
}

/* When an object was met last whose connection nobody has seen. Read by the agent, which then
 * probes the calls around records, too. */
volatile __u64 unknown_ns[SSLC_RECORD_FILES] = {};

/* Whose turn it is, by file; set by the agent, which exchanges probes so. */
volatile __u8 turns[SSLC_RECORD_FILES] = {};

static __always_inline bool is_in_turn(__u64 cookie)
{
	return turns[sslc_cookie_file(cookie) & (SSLC_RECORD_FILES - 1)] ==
	       sslc_cookie_turn(cookie);
}

/*
 * The object's call of some kind that this thread is inside of. What is not above the record's
 * stack pointer has ended.
 */
static __always_inline struct call *call_of(struct calls *cs, const struct passing *p,
					    enum sslc_call kind)
{
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < CALL_DEPTH; i++)
		if (i < cs->depth && cs->v[i].ssl == p->ssl && cs->v[i].kind == kind &&
		    cs->v[i].sp > p->sp)
			return &cs->v[i];
	return NULL;
}

/*
 * An object without a connection may find it before the call ends: then the call tells what passes.
 * True when it does.
 */
static __always_inline bool leave_to_call(struct calls *cs, const struct conn *c,
					  const struct passing *p)
{
	struct call *around =
		call_of(cs, p, p->dir == SSLC_DIR_OUT ? SSLC_CALL_AROUND_OUT : SSLC_CALL_AROUND_IN);

	if (!around || (c->flow && !around->outp))
		return false;
	if (!around->outp)
		around->buf = p->buf;
	around->outp += p->len;
	return true;
}

/*
 * The object's plaintext is a record of the one whose handshake it is inside of: TLS inside TLS,
 * and the inner one's first record has not come to a socket yet.
 */
static __always_inline void join_inner(const struct conn *c, const struct passing *p,
				       const struct call *outer)
{
	struct sslc_conn_id id;
	struct conn *inner;
	__u8 h[8] = {};

	if (!outer->ssl || outer->ssl == p->ssl || !c->flow || p->dir != SSLC_DIR_OUT)
		return;
	id = conn_id_of(outer->ssl);
	inner = conn_get(&id);
	if (!inner || inner->flow || inner->excluded ||
	    bpf_probe_read_user(h, TLS_HEADER, (void *)p->buf) || !is_record(h))
		return;
	inner->sk = c->sk;
	inner->flow = c->flow;
	inner->has_socket = 1;
}

/* Neither in a handshake nor in any other call has the object been seen with a socket, or without,
 * nor has a child process with its copy of it: see inherit(). */
static __always_inline void note_unknown(const struct conn *c, __u32 file)
{
	if (!c->flow && !c->has_socket && !c->loose)
		unknown_ns[file & (SSLC_RECORD_FILES - 1)] = bpf_ktime_get_ns();
}

/* Inside of which calls it passes. False: it is none of the record's business. */
static __always_inline bool look_around(struct calls *cs, const struct conn *c,
					const struct passing *p, struct call *outer)
{
	/* What a handshake takes is no plaintext; what SSL_peek() takes will be read again. */
	if (p->dir == SSLC_DIR_IN && call_of(cs, p, SSLC_CALL_BIND))
		return false;
	if (leave_to_call(cs, c, p))
		return false;
	if (cs->v[0].ssl == p->ssl && is_around(cs->v[0].kind))
		return true;
	*outer = cs->v[0];
	join_inner(c, p, outer);
	return true;
}

static __always_inline struct calls *calls_unless_quiet(__u64 tid)
{
	struct calls *cs;

	if (is_quiet(tid))
		return NULL;
	cs = bpf_map_lookup_elem(&calls, &tid);
	look_whether_quiet(tid, cs);
	return cs;
}

/* What passes, ready to be emitted. False: nothing, or nothing wanted. */
static __always_inline bool pass(const struct passing *p, __u32 file, struct emit *e)
{
	struct call outer = {.kind = SSLC_CALL_BIND};
	struct calls *cs;
	struct conn *c;
	__u64 tid;

	e->conn = conn_id_and_tid(p->ssl, &tid);
	if (tid >> 32 == self_tgid)
		return false;
	c = conn_get(&e->conn);
	if (!c || c->excluded || (!c->flow && is_served())) /* as in enter() */
		return false;
	note_unknown(c, file);
	cs = c->flow ? calls_unless_quiet(tid) : calls_get(tid);
	if (cs && cs->depth && cs->v[0].sp > p->sp && !look_around(cs, c, p, &outer))
		return false;
	if (is_told_elsewhere(c, p->ssl, p->dir, &outer))
		return false;
	e->ts_ns = bpf_ktime_get_ns();
	if (!c->flow)
		e->seq = is_loose(&e->conn, c, SSLC_CALL_BIND, p->len, e->ts_ns);
	e->dir = p->dir;
	e->type = SSLC_EV_DATA;
	if (!place(c, e, p->len, file, p->dir == SSLC_DIR_OUT))
		return false;
	e->conn.life = c->life;
	e->flags = early_flags(c, p->dir == SSLC_DIR_OUT ? SSLC_CALL_WRITE : SSLC_CALL_READ, p->ssl,
			       &outer) |
		   (p->dir == SSLC_DIR_OUT ? SSLC_DATA_AHEAD : 0);
	e->buf = p->buf;
	e->left = p->len;
	e->tid = (__u32)tid;
	return true;
}

SEC("uprobe") int multi_record(struct pt_regs *ctx)
{
	__u64 cookie = bpf_get_attach_cookie(ctx), began = tally_begin(false);
	struct passing p;
	struct emit e = {};

	keep_thread_stack(ctx);
	if (is_in_turn(cookie) && read_passing(ctx, cookie, CHUNK_MAX, &p) &&
	    pass(&p, sslc_cookie_file(cookie), &e))
		emit_one(&e);
	tally_end(cookie, began);
	return 0;
}

SEC("uprobe") int multi_batch(struct pt_regs *ctx)
{
	__u64 cookie = bpf_get_attach_cookie(ctx), began = tally_begin(false);
	struct passing p;
	struct emit e = {};

	keep_thread_stack(ctx);
	if (is_in_turn(cookie) && read_passing(ctx, cookie, BATCH_RECORDS * CHUNK_MAX, &p) &&
	    pass(&p, sslc_cookie_file(cookie), &e))
		emit_loop(&e);
	tally_end(cookie, began);
	return 0;
}

#endif
