/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * calls: entry and return of the TLS libraries' calls. Entry remembers the arguments on the
 * thread's stack of calls; return takes them off and emits what was really moved.
 *
 * A call is named by its stack pointer: entries left behind by longjmp() or a missed return have a
 * lower one than the caller's next call and are dropped then; a probe that fires twice for one call
 * (the same file reached through two mounts) finds nothing the second time.
 */
#ifndef SSLC_BPF_CALLS_H
#define SSLC_BPF_CALLS_H

#if defined(__TARGET_ARCH_x86)
#define RETURN_POPS 8 /* ret takes the return address off the stack */
#else
#define RETURN_POPS 0
#endif

static __always_inline struct calls *calls_get(__u64 tid)
{
	struct calls *cs = bpf_map_lookup_elem(&calls, &tid);
	static const struct calls empty;

	if (cs)
		return cs;
	if (bpf_map_update_elem(&calls, &tid, &empty, BPF_NOEXIST)) {
		count(LOSS_CALLS_FULL, 1);
		return NULL;
	}
	return bpf_map_lookup_elem(&calls, &tid);
}

static __always_inline int enter(struct pt_regs *ctx, enum sslc_call kind)
{
	__u64 tid = bpf_get_current_pid_tgid(), sp = PT_REGS_SP(ctx);
	struct calls *cs;
	struct call *c;
	__u32 d;

	if (tid >> 32 == self_tgid)
		return 0;
	cs = calls_get(tid);
	if (!cs)
		return 0;
	for (int i = 0; i < CALL_DEPTH; i++) { /* stacks grow down: what is below us has ended */
		d = cs->depth - 1;
		if (d < CALL_DEPTH && cs->v[d].sp <= sp)
			cs->depth = d;
	}
	d = cs->depth;
	if (d >= CALL_DEPTH) {
		count(LOSS_TOO_DEEP, 1);
		return 0;
	}
	c = &cs->v[d];
	c->sp = sp;
	c->ssl = PT_REGS_PARM1(ctx);
	c->buf = PT_REGS_PARM2(ctx);
	c->len = PT_REGS_PARM3(ctx);
	c->outp = PT_REGS_PARM4(ctx);
	c->kind = kind;
	cs->depth = d + 1;
	return 0;
}

/* Take the call that returns now off the stack. False when its entry was not seen. */
static __always_inline bool leave(struct pt_regs *ctx, enum sslc_call kind, struct call *out,
				  struct call *outer)
{
	__u64 tid = bpf_get_current_pid_tgid(), sp = PT_REGS_SP(ctx) - RETURN_POPS;
	struct calls *cs = bpf_map_lookup_elem(&calls, &tid);

	outer->ssl = 0;
	if (!cs)
		return false;
	for (__u32 i = 0; i < CALL_DEPTH; i++) {
		if (i >= cs->depth || cs->v[i].sp != sp || cs->v[i].kind != kind)
			continue;
		*out = cs->v[i];
		cs->depth = i;
		if (i)
			*outer = cs->v[0];
		return true;
	}
	return false;
}

/* Bytes that the call moved. */
static __always_inline __u64 moved(struct pt_regs *ctx, const struct call *c)
{
	__s64 wide = PT_REGS_RC(ctx);
	int ret = (int)wide;
	__u64 n = 0;

	if (c->kind == SSLC_CALL_BIND)
		return 0;
	if (c->kind == SSLC_CALL_RECV || c->kind == SSLC_CALL_SEND)
		return wide > 0 ? wide : 0;
	if (ret <= 0)
		return 0;
	if (c->kind == SSLC_CALL_READ || c->kind == SSLC_CALL_WRITE)
		return ret;
	if (bpf_probe_read_user(&n, sizeof(n), (void *)c->outp))
		count(LOSS_FAULT, 1);
	return n < c->len ? n
			  : c->len; /* *arg4 is the program's memory: another thread may write it */
}

/*
 * Positions count bytes whether or not they can be emitted: a missing one shows as a hole. Plain
 * arithmetic will do: a TLS object is used by one thread at a time.
 */
static __always_inline __u64 advance(__u64 *pos, __u64 n)
{
	__u64 at = *pos;

	*pos = at + n;
	return at;
}

static __always_inline bool place(struct conn *c, struct emit *e, __u64 n)
{
	struct sock_info *info;

	e->flow = c->flow;
	if (!c->flow) {
		e->pos = advance(&c->pos[e->dir & 1], n);
		return true;
	}
	if (bpf_map_lookup_elem(&skipped, &c->flow))
		return false;
	info = bpf_map_lookup_elem(&socks, &c->sk);
	if (!info || info->flow != c->flow) {
		count(LOSS_LATE, n);
		return false;
	}
	e->pos = advance(&info->pos[e->dir & 1], n);
	return true;
}

/*
 * Whether an inner call's bytes are not to be told: the outer call on the same object tells them,
 * or they are the records of a TLS connection inside this one, on the same socket.
 */
static __always_inline bool is_inner(const struct conn *c, __u64 ssl, const struct call *by)
{
	struct sslc_conn_id id;
	struct conn *outer;

	if (!by->ssl)
		return false;
	if (by->ssl == ssl)
		return by->kind != SSLC_CALL_BIND;
	id = conn_id_of(by->ssl);
	outer = bpf_map_lookup_elem(&conns, &id);
	return !c->flow || !outer || !outer->flow || outer->flow == c->flow;
}

static __always_inline enum sslc_dir direction(enum sslc_call kind)
{
	return kind == SSLC_CALL_WRITE || kind == SSLC_CALL_WRITE_EX || kind == SSLC_CALL_SEND
		       ? SSLC_DIR_OUT
		       : SSLC_DIR_IN;
}

/* What a returning call moved, ready to be emitted. False: nothing, or nothing wanted. */
static __always_inline bool finish(struct pt_regs *ctx, enum sslc_call kind, struct emit *e)
{
	struct call call, outer;
	struct conn *c;
	__u64 n;

	if (!leave(ctx, kind, &call, &outer))
		return false;
	n = moved(ctx, &call);
	if (!n)
		return false;
	e->dir = direction(kind);
	e->conn = conn_id_of(call.ssl);
	c = conn_get(&e->conn);
	if (!c || c->excluded || is_inner(c, call.ssl, &outer) || !place(c, e, n))
		return false;
	e->conn.life = c->life;
	e->ts_ns = bpf_ktime_get_ns();
	e->buf = call.buf;
	e->left = n;
	e->tid = (__u32)bpf_get_current_pid_tgid();
	return true;
}

/*
 * 1. Since 6.6 one link carries all probes of a file (uprobe_multi), and a cookie says which
 * function was called.
 */
SEC("uprobe") int multi_enter(struct pt_regs *ctx)
{
	return enter(ctx, bpf_get_attach_cookie(ctx));
}

SEC("uprobe") int multi_leave(struct pt_regs *ctx)
{
	struct emit e = {};

	if (finish(ctx, bpf_get_attach_cookie(ctx), &e))
		emit_loop(&e);
	return 0;
}

static __always_inline int forget(struct pt_regs *ctx)
{
	struct sslc_conn_id id = conn_id_of(PT_REGS_PARM1(ctx));

	bpf_map_delete_elem(&conns, &id);
	return 0;
}

SEC("uprobe") int multi_forget(struct pt_regs *ctx)
{
	return forget(ctx);
}

/*
 * 2. Before, each probe is a perf event with a program of its own, since cookies came in 5.15 only:
 * leave_… for kernels with bpf_loop(), leave_old_… for those without.
 */
#define TLS_LEAVE(program, kind, how)                                                              \
	SEC("uretprobe") int program(struct pt_regs *ctx)                                          \
	{                                                                                          \
		struct emit e = {};                                                                \
                                                                                                   \
		if (finish(ctx, kind, &e))                                                         \
			how(&e);                                                                   \
		return 0;                                                                          \
	}
#define TLS_CALL(name, kind)                                                                       \
	SEC("uprobe") int enter_##name(struct pt_regs *ctx)                                        \
	{                                                                                          \
		return enter(ctx, kind);                                                           \
	}                                                                                          \
	TLS_LEAVE(leave_##name, kind, emit_loop)                                                   \
	TLS_LEAVE(leave_old_##name, kind, emit_bounded)

TLS_CALL(read, SSLC_CALL_READ)
TLS_CALL(read_ex, SSLC_CALL_READ_EX)
TLS_CALL(write, SSLC_CALL_WRITE)
TLS_CALL(write_ex, SSLC_CALL_WRITE_EX)
TLS_CALL(recv, SSLC_CALL_RECV)
TLS_CALL(send, SSLC_CALL_SEND)
TLS_CALL(bind, SSLC_CALL_BIND)

SEC("uprobe") int enter_forget(struct pt_regs *ctx)
{
	return forget(ctx);
}

#endif
