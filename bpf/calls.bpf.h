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

/* By where a call says how many bytes it moved. */
enum call_kind {
	CALL_READ,    /* int returned: SSL_read */
	CALL_READ_EX, /* *arg4, when 1 is returned */
	CALL_WRITE,
	CALL_WRITE_EX,
	CALL_RECV, /* ssize_t returned: gnutls_record_recv */
	CALL_SEND,
	CALL_BIND, /* moves no plaintext, but its socket operations bind the object */
};

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

static __always_inline int enter(struct pt_regs *ctx, enum call_kind kind)
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
	c->outp = PT_REGS_PARM4(ctx);
	c->kind = kind;
	cs->depth = d + 1;
	return 0;
}

/* Take the call that returns now off the stack. False when its entry was not seen. */
static __always_inline bool leave(struct pt_regs *ctx, enum call_kind kind, struct call *out,
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

	if (c->kind == CALL_RECV || c->kind == CALL_SEND)
		return wide > 0 ? wide : 0;
	if (ret <= 0)
		return 0;
	if (c->kind == CALL_READ || c->kind == CALL_WRITE)
		return ret;
	if (bpf_probe_read_user(&n, sizeof(n), (void *)c->outp))
		count(LOSS_FAULT, 1);
	return n;
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
		return by->kind != CALL_BIND;
	id = conn_id_of(by->ssl);
	outer = bpf_map_lookup_elem(&conns, &id);
	return !c->flow || !outer || !outer->flow || outer->flow == c->flow;
}

/* What a returning call moved, ready to be emitted. False: nothing, or nothing wanted. */
static __always_inline bool finish(struct pt_regs *ctx, enum call_kind kind, enum sslc_dir dir,
				   struct emit *e)
{
	struct call call, outer;
	struct conn *c;
	__u64 n;

	if (!leave(ctx, kind, &call, &outer))
		return false;
	n = moved(ctx, &call);
	if (!n)
		return false;
	e->dir = dir;
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

/* leave_… for kernels with bpf_loop(), leave_old_… for those without; one of them is loaded. */
#define TLS_LEAVE(program, kind, dir, how)                                                         \
	SEC("uretprobe") int program(struct pt_regs *ctx)                                          \
	{                                                                                          \
		struct emit e = {};                                                                \
                                                                                                   \
		if (finish(ctx, kind, dir, &e))                                                    \
			how(&e);                                                                   \
		return 0;                                                                          \
	}
#define TLS_CALL(name, kind, dir)                                                                  \
	SEC("uprobe") int enter_##name(struct pt_regs *ctx)                                        \
	{                                                                                          \
		return enter(ctx, kind);                                                           \
	}                                                                                          \
	TLS_LEAVE(leave_##name, kind, dir, emit_loop)                                              \
	TLS_LEAVE(leave_old_##name, kind, dir, emit_bounded)

TLS_CALL(ssl_read, CALL_READ, SSLC_DIR_IN)
TLS_CALL(ssl_read_ex, CALL_READ_EX, SSLC_DIR_IN)
TLS_CALL(ssl_write, CALL_WRITE, SSLC_DIR_OUT)
TLS_CALL(ssl_write_ex, CALL_WRITE_EX, SSLC_DIR_OUT)

TLS_CALL(record_recv, CALL_RECV, SSLC_DIR_IN)
TLS_CALL(record_send, CALL_SEND, SSLC_DIR_OUT)

SEC("uprobe") int enter_bind(struct pt_regs *ctx)
{
	return enter(ctx, CALL_BIND);
}

SEC("uretprobe") int leave_bind(struct pt_regs *ctx)
{
	struct call call, outer;

	leave(ctx, CALL_BIND, &call, &outer);
	return 0;
}

/* The object ends, or gets another transport: what was learnt of it holds no longer. */
SEC("uprobe") int enter_forget(struct pt_regs *ctx)
{
	struct sslc_conn_id id = conn_id_of(PT_REGS_PARM1(ctx));

	bpf_map_delete_elem(&conns, &id);
	return 0;
}

#endif
