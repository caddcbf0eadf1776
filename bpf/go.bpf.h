/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * go: entry and return instructions of Go's crypto/tls. Never a return probe: Go moves stacks, and
 * finds the return address that such a probe puts there.
 *
 * A goroutine's stack may be copied while a call lasts; what stays is the distance from its upper
 * end, and that names a call here as the stack pointer does in calls.bpf.h. A function starts again
 * when its stack had to grow: the entry's probe is therefore behind the check for that, where the
 * arguments are still in their places.
 *
 * What is written is copied at the entry: once the last record is encrypted, nothing keeps the
 * garbage collector from giving the memory to somebody else before the function has returned. A
 * write that fails afterwards ends the connection for good (crypto/tls keeps the error).
 */
#ifndef SSLC_BPF_GO_H
#define SSLC_BPF_GO_H

#define GO_STACK_MAX (1ull << 30) /* the runtime's own limit, 1 GB */
#define GO_STACK_HI  8            /* offset of g.stack.hi in the runtime's g */

/* Where a call's words are. Read: c, p.ptr, p.len. writeRecordLocked: c, typ, data.ptr, data.len.
 * Either way the first result is the number of bytes. */
struct go_args {
	__u64 c, a1, a2, a3;
};

static __always_inline bool is_stack_abi(enum sslc_call kind)
{
	return kind >= SSLC_CALL_GO_OLD_READ;
}

static __always_inline bool is_go_write(enum sslc_call kind)
{
	return kind == SSLC_CALL_GO_WRITE || kind == SSLC_CALL_GO_OLD_WRITE;
}

static __always_inline bool is_go_bind(enum sslc_call kind)
{
	return kind == SSLC_CALL_GO_BIND || kind == SSLC_CALL_GO_OLD_BIND;
}

/*
 * ABIInternal: cmd/compile/abi-internal.md. Volatile, because a load of which the compiler has
 * chosen the place beforehand is refused by the verifier.
 */
#if defined(__TARGET_ARCH_x86)
#define GO_REG(ctx, name) (((const volatile struct pt_regs *)(ctx))->name)
#define GO_G(ctx)         GO_REG(ctx, r14)
#define GO_A0(ctx)        GO_REG(ctx, ax)
#define GO_A1(ctx)        GO_REG(ctx, bx)
#define GO_A2(ctx)        GO_REG(ctx, cx)
#define GO_A3(ctx)        GO_REG(ctx, di)
#else
#define GO_REG(ctx, n) (((const volatile struct user_pt_regs *)(ctx))->regs[n])
#define GO_G(ctx)      GO_REG(ctx, 28)
#define GO_A0(ctx)     GO_REG(ctx, 0)
#define GO_A1(ctx)     GO_REG(ctx, 1)
#define GO_A2(ctx)     GO_REG(ctx, 2)
#define GO_A3(ctx)     GO_REG(ctx, 3)
#endif

/* Before 1.17 all words lie behind the return address; a slice has three. */
static __always_inline int go_args_get(struct pt_regs *ctx, enum sslc_call kind, struct go_args *a)
{
	if (is_stack_abi(kind))
		return bpf_probe_read_user(a, sizeof(*a), (void *)(PT_REGS_SP(ctx) + 8));
	a->c = GO_A0(ctx);
	a->a1 = GO_A1(ctx);
	a->a2 = GO_A2(ctx);
	a->a3 = GO_A3(ctx);
	return 0;
}

static __always_inline __u64 go_result(struct pt_regs *ctx, enum sslc_call kind)
{
	__u64 at = PT_REGS_SP(ctx) + (is_go_write(kind) ? 48 : 40), n = 0;

	if (!is_stack_abi(kind))
		return GO_A0(ctx);
	if (bpf_probe_read_user(&n, sizeof(n), (void *)at))
		count(LOSS_FAULT, 1);
	return n;
}

static __always_inline __u64 go_g(struct pt_regs *ctx, enum sslc_call kind)
{
	return is_stack_abi(kind) ? thread_g() : GO_G(ctx);
}

/* How far below its stack's upper end the goroutine is; 0: not on its own stack. */
static __always_inline __u64 go_depth(struct pt_regs *ctx, __u64 g)
{
	__u64 hi = 0;

	if (!g || bpf_probe_read_user(&hi, sizeof(hi), (void *)(g + GO_STACK_HI)))
		return 0;
	hi -= PT_REGS_SP(ctx);
	return hi < GO_STACK_MAX ? hi : 0;
}

static __always_inline struct calls *go_calls_get(__u64 g)
{
	struct go_key key = {.g = g, .tgid = bpf_get_current_pid_tgid() >> 32};
	struct calls *cs = bpf_map_lookup_elem(&go_calls, &key);
	static const struct calls empty;
	__u8 one = 1;

	if (cs)
		return cs;
	if (!bpf_map_lookup_elem(&go_procs, &key.tgid) &&
	    !bpf_map_update_elem(&go_procs, &key.tgid, &one, BPF_ANY))
		__sync_fetch_and_add(&quiet_epoch, 1);
	bpf_map_update_elem(&go_calls, &key, &empty, BPF_NOEXIST);
	cs = bpf_map_lookup_elem(&go_calls, &key);
	if (!cs)
		count(LOSS_CALLS_FULL, 1);
	return cs;
}

/* False: not to be followed. */
static __always_inline bool go_call_of(struct pt_regs *ctx, enum sslc_call kind, struct call *c)
{
	struct go_args a;

	if (go_args_get(ctx, kind, &a))
		return false;
	*c = (struct call){.ssl = a.c, .buf = a.a1, .len = a.a2, .kind = kind};
	if (!is_go_write(kind))
		return true;
	c->buf = a.a2;
	c->len = a.a3;
	return (__u8)a.a1 == TLS_APPLICATION;
}

/* The same write again, by a second probe at one place: while the agent exchanges probes. A read
 * takes its own place on the stack of calls again. */
static __always_inline bool is_told_already(const struct calls *cs, const struct call *c)
{
	__u32 d = cs->depth - 1;
	const struct call *top;

	barrier_var(d); /* 5.10 forgets its bound */
	top = &cs->v[d & CALL_MASK];
	return d < CALL_DEPTH && is_go_write(c->kind) && top->kind == c->kind && top->sp == c->sp &&
	       top->ssl == c->ssl && top->buf == c->buf && top->len == c->len;
}

static __always_inline bool go_push(struct calls *cs, const struct call *c)
{
	__u32 d;

	if (is_told_already(cs, c))
		return false;
	for (int i = 0; i < CALL_DEPTH; i++) { /* what is not above us has ended, by a panic */
		d = cs->depth - 1;
		if (d < CALL_DEPTH && cs->v[d].sp >= c->sp)
			cs->depth = d;
	}
	d = cs->depth;
	if (d >= CALL_DEPTH) {
		count(LOSS_TOO_DEEP, 1);
		return false;
	}
	cs->v[d] = *c;
	cs->depth = d + 1;
	return true;
}

/* A new connection begins, maybe in the memory of an old one: the collector frees objects, and
 * nothing says when. */
static __always_inline void go_renew(__u64 ssl)
{
	struct sslc_conn_id id = conn_id_of(ssl);

	bpf_map_delete_elem(&conns, &id);
}

/* n bytes that a call has read or is about to write, ready to be emitted. */
static __always_inline bool go_tell(const struct call *call, const struct call *outer, __u64 n,
				    enum sslc_dir dir, struct emit *e)
{
	struct conn *c;

	e->conn = conn_id_of(call->ssl);
	c = conn_get(&e->conn);
	e->dir = dir;
	e->type = SSLC_EV_DATA;
	if (!n || !c || c->excluded || is_told_elsewhere(c, call->ssl, dir, outer) ||
	    !place(c, e, n, call->file, false))
		return false;
	e->conn.life = c->life;
	e->ts_ns = bpf_ktime_get_ns();
	e->buf = call->buf;
	e->left = n;
	e->tid = (__u32)bpf_get_current_pid_tgid();
	return true;
}

/* True when *e is to be emitted. */
static __always_inline bool go_enter(struct pt_regs *ctx, enum sslc_call kind, __u32 file,
				     struct emit *e)
{
	struct call c, outer = {};
	struct calls *cs;
	__u64 g;

	if (bpf_get_current_pid_tgid() >> 32 == self_tgid || !go_call_of(ctx, kind, &c))
		return false;
	c.file = file;
	if (is_go_bind(kind))
		go_renew(c.ssl);
	g = go_g(ctx, kind);
	c.sp = go_depth(ctx, g);
	cs = c.sp ? go_calls_get(g) : NULL;
	if (!cs || !go_push(cs, &c) || !is_go_write(kind))
		return false;
	if (cs->depth > 1)
		outer = cs->v[0];
	return go_tell(&c, &outer, c.len, SSLC_DIR_OUT, e);
}

/* Take the call that returns now off the goroutine's stack of calls. */
static __always_inline bool go_pop(struct pt_regs *ctx, enum sslc_call kind, struct call *out,
				   struct call *outer)
{
	__u64 g = go_g(ctx, kind), sp = go_depth(ctx, g);
	struct go_key key = {.g = g, .tgid = bpf_get_current_pid_tgid() >> 32};
	struct calls *cs = bpf_map_lookup_elem(&go_calls, &key);

	for (__u32 i = 0; cs && i < CALL_DEPTH; i++) {
		if (i >= cs->depth || cs->v[i].sp != sp || cs->v[i].kind != kind)
			continue;
		*out = cs->v[i];
		cs->depth = i;
		if (i)
			*outer = cs->v[0];
		else
			bpf_map_delete_elem(&go_calls, &key);
		return true;
	}
	return false;
}

/* Set by the agent while a file has old and new probes: each call may leave twice. */
volatile __u32 exchanging = 0;

/* True when *e is to be emitted. */
static __always_inline bool go_leave(struct pt_regs *ctx, enum sslc_call kind, struct emit *e)
{
	struct call c, outer = {};
	__u64 n = is_go_bind(kind) ? 0 : go_result(ctx, kind);

	if (!go_pop(ctx, kind, &c, &outer)) {
		/* Other records than data are written, too. */
		if (!is_go_write(kind) && n && !exchanging)
			count(LOSS_NO_ENTRY, 1);
		return false;
	}
	if (n > c.len)
		return false; /* cannot be */
	if (is_go_write(kind)) {
		if (n < c.len)
			count(LOSS_UNSENT, c.len - n);
		return false;
	}
	return go_tell(&c, &outer, n, SSLC_DIR_IN, e);
}

/* As in calls.bpf.h: one pair for all since 6.6, where the cookie tells the kind of call. */
SEC("uprobe") int multi_go_enter(struct pt_regs *ctx)
{
	__u64 cookie = bpf_get_attach_cookie(ctx), began = tally_begin(false);
	struct emit e = {};

	keep_thread_stack(ctx);
	if (go_enter(ctx, sslc_cookie_call(cookie), sslc_cookie_file(cookie), &e))
		emit_loop(&e);
	tally_end(cookie, began);
	return 0;
}

SEC("uprobe") int multi_go_leave(struct pt_regs *ctx)
{
	__u64 cookie = bpf_get_attach_cookie(ctx), began = tally_begin(true);
	struct emit e = {};

	keep_thread_stack(ctx);
	if (go_leave(ctx, sslc_cookie_call(cookie), &e))
		emit_loop(&e);
	tally_end(cookie, began);
	return 0;
}

#define GO_PROGRAM(program, what, how, is_exit)                                                    \
	SEC("uprobe") int program(struct pt_regs *ctx)                                             \
	{                                                                                          \
		__u64 began = tally_begin(is_exit);                                                \
		struct emit e = {};                                                                \
                                                                                                   \
		if (what)                                                                          \
			how(&e);                                                                   \
		tally_end(0, began);                                                               \
		return 0;                                                                          \
	}
#define GO_CALL(name, kind)                                                                        \
	GO_PROGRAM(enter_##name, go_enter(ctx, kind, 0, &e), emit_loop, false)                     \
	GO_PROGRAM(enter_old_##name, go_enter(ctx, kind, 0, &e), emit_bounded, false)              \
	GO_PROGRAM(leave_##name, go_leave(ctx, kind, &e), emit_loop, true)                         \
	GO_PROGRAM(leave_old_##name, go_leave(ctx, kind, &e), emit_bounded, true)

GO_CALL(go_read, SSLC_CALL_GO_READ)
GO_CALL(go_write, SSLC_CALL_GO_WRITE)
GO_CALL(go_bind, SSLC_CALL_GO_BIND)
GO_CALL(go_old_read, SSLC_CALL_GO_OLD_READ)
GO_CALL(go_old_write, SSLC_CALL_GO_OLD_WRITE)
GO_CALL(go_old_bind, SSLC_CALL_GO_OLD_BIND)

#endif
