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

/* What SSL_get_early_data_status() answers (openssl/ssl.h). */
enum { EARLY_REJECTED = 1, EARLY_ACCEPTED = 2 };

/* gnutls/gnutls.h */
#define GNUTLS_E_AGAIN           -28
#define GNUTLS_E_INTERRUPTED     -52
#define GNUTLS_SFLAGS_EARLY_DATA (1u << 10)

#define PR_MSG_PEEK 2 /* nspr/prio.h: the bytes stay, and are read again */

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

static __always_inline bool is_around(enum sslc_call kind)
{
	return kind == SSLC_CALL_AROUND_IN || kind == SSLC_CALL_AROUND_OUT;
}

static __always_inline void buffer_argument(struct pt_regs *ctx, enum sslc_call kind,
					    struct call *c)
{
	__u64 second = PT_REGS_PARM2(ctx), third = PT_REGS_PARM3(ctx), fourth = PT_REGS_PARM4(ctx);
	bool typed = kind == SSLC_CALL_RECV_TYPED;

	barrier_var(second);
	barrier_var(third);
	barrier_var(fourth);
	c->buf = typed ? third : second;
	c->len = typed ? fourth : third;
}

/* Both are read, each at its own fixed offset: one load at a chosen offset is refused. */
static __always_inline __u64 out_argument(struct pt_regs *ctx, enum sslc_call kind)
{
	__u64 fourth = PT_REGS_PARM4(ctx), fifth = PT_REGS_PARM5(ctx);

	barrier_var(fourth);
	barrier_var(fifth);
	if (kind == SSLC_CALL_SEND_FILE || is_around(kind))
		return 0; /* bytes told by the calls inside, or left to it by records: none yet */
	return kind == SSLC_CALL_WRITE_EX2 ? fifth : fourth;
}

/* The library itself receives through this call, too: handshakes and alerts. */
static __always_inline bool is_other_type(struct pt_regs *ctx, enum sslc_call kind)
{
	return kind == SSLC_CALL_RECV_TYPED && (__u32)PT_REGS_PARM2(ctx) != TLS_APPLICATION;
}

/* Whether the object was bound here before its process came to be served by the preloaded library:
 * then it stays. Global, for a stack frame of its own. */
__noinline int stays_here(__u64 ssl)
{
	struct sslc_conn_id id = conn_id_of(ssl);
	struct conn *c = bpf_map_lookup_elem(&conns, &id);

	return c && c->flow;
}

/* sp: at the call's first instruction. file: 0 where cookies do not tell it. */
static __always_inline int enter(struct pt_regs *ctx, enum sslc_call kind, __u64 sp, __u32 file)
{
	__u64 tid = bpf_get_current_pid_tgid();
	struct calls *cs;
	struct call *c;
	__u32 d;

	if (tid >> 32 == self_tgid || is_other_type(ctx, kind))
		return 0;
	if (is_served() && !stays_here(PT_REGS_PARM1(ctx)))
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
	quiet_ends(tid);
	c = &cs->v[d];
	c->sp = sp;
	c->ssl = PT_REGS_PARM1(ctx);
	buffer_argument(ctx, kind, c);
	c->outp = out_argument(ctx, kind);
	c->kind = kind;
	c->file = file;
	cs->depth = d + 1;
	return 0;
}

/* Take the call that returns now off the stack. False when its entry was not seen. */
static __always_inline bool leave(__u64 tid, enum sslc_call kind, __u64 sp, struct call *out,
				  struct call *outer)
{
	struct calls *cs = bpf_map_lookup_elem(&calls, &tid);

	outer->ssl = 0;
	outer->kind = SSLC_CALL_BIND;
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
static __always_inline __u64 moved(__s64 wide, const struct call *c)
{
	int ret = (int)wide;
	__u64 n = 0;

	if (!sslc_call_moves(c->kind))
		return 0;
	if (c->kind == SSLC_CALL_RECV || c->kind == SSLC_CALL_SEND ||
	    c->kind == SSLC_CALL_SENDFILE || c->kind == SSLC_CALL_RECV_PACKET)
		return wide > 0 ? wide : 0;
	if (is_around(c->kind))
		return c->outp;
	if (c->kind == SSLC_CALL_SEND_FILE)
		return wide > (__s64)c->outp ? wide - c->outp : 0;
	if (ret <= 0)
		return 0;
	if (c->kind == SSLC_CALL_READ_FLAGS)
		return c->outp & PR_MSG_PEEK ? 0 : ret;
	if (c->kind == SSLC_CALL_READ || c->kind == SSLC_CALL_WRITE ||
	    c->kind == SSLC_CALL_RECV_TYPED)
		return ret;
	if (bpf_probe_read_user(&n, sizeof(n), (void *)c->outp))
		count(LOSS_FAULT, 1);
	return n < c->len ? n : c->len; /* n is the program's memory: another thread may write it */
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

/* Whether the agent does not want the connection. */
static __always_inline bool is_skipped(struct sock_info *info)
{
	__u32 now = skips;

	if (info->skips == now)
		return info->skipped;
	info->skipped = bpf_map_lookup_elem(&skipped, &info->flow) != NULL;
	info->skips = now;
	return info->skipped;
}

/*
 * Where the bytes belong; false: they are not wanted, or lost. ahead: they are a record's that the
 * socket has not been given. One that it will not take is told, as what is given up counts as lost.
 */
static __always_inline bool place(struct conn *c, struct emit *e, __u64 n, __u32 file, bool ahead)
{
	struct sock_info *info;

	e->flow = c->flow;
	if (!c->flow) {
		e->pos = advance(&c->pos[e->dir & 1], n);
		return true;
	}
	info = bpf_map_lookup_elem(&socks, &c->sk);
	if (!info || info->flow != c->flow) {
		count(LOSS_LATE, n);
		return false;
	}
	if (is_skipped(info))
		return false;
	e->pos = advance(&info->pos[e->dir & 1], n);
	info->file[e->dir & 1] = file;
	e->fill = ring_fill(e->flow);
	if (!ahead)
		return !is_shed(info, n, e->fill);
	info->ahead = !is_shut(info) && is_shed(info, n, e->fill) ? n : 0;
	return !info->ahead;
}

/* Set by the agent before load: of TLS inside TLS, tell the outer one and not the inner one. */
const volatile __u32 outer_tls = 0;

/*
 * Where gnutls_record_recv_packet() has put the bytes: the beginning of its struct mbuffer_st is
 * the same since GnuTLS 3.0. Taken only when its numbers agree with what was returned, else 0.
 */
static __always_inline __u64 packet_bytes(__u64 packetp, __u64 n)
{
	struct {
		__u64 next, prev, mark, data;
		__u32 size, pad;
		__u64 room;
	} m;
	__u64 packet;

	if (bpf_probe_read_user(&packet, sizeof(packet), (void *)packetp) ||
	    bpf_probe_read_user(&m, sizeof(m), (void *)packet) || m.mark > m.size ||
	    m.size - m.mark != n || m.size > m.room)
		return 0;
	return m.data + m.mark;
}

/*
 * Whether a call answers for the bytes of those inside it that work on the same object. Those that
 * go the other way are a program's own, made in a callback: node writes when SSL_read() has
 * finished the handshake.
 */
static __always_inline bool covers(enum sslc_call kind, enum sslc_dir dir)
{
	if (kind == SSLC_CALL_SEND_FILE)
		return false;
	if (kind == SSLC_CALL_UNCORK)
		return true;
	return sslc_call_moves(kind) && direction(kind) == dir;
}

/* gnutls_record_send_file() sends what it reads, or lets the kernel do both: only the rest of what
 * it returns is a gap. */
static __always_inline void tell_outer(const struct call *outer, __u64 ssl, __u64 n)
{
	__u64 tid = bpf_get_current_pid_tgid();
	struct calls *cs;

	if (outer->ssl != ssl || outer->kind != SSLC_CALL_SEND_FILE)
		return;
	cs = bpf_map_lookup_elem(&calls, &tid);
	if (cs)
		cs->v[0].outp += n;
}

/*
 * One TLS connection runs inside another, on the same socket: calls on the inner one's object
 * contain calls on the outer one's, which carry the inner one's records. One of them is told. A
 * carrier stays one: some calls around it, such as SSL_shutdown(), are not probed.
 */
static __always_inline bool is_other_layer(const struct conn *c)
{
	__u64 layer = outer_tls ? c->contains : c->carries;

	return layer && layer == c->flow;
}

/* Whether a call's bytes are not to be told, since those of the call that contains it are. */
static __always_inline bool is_told_elsewhere(struct conn *c, __u64 ssl, enum sslc_dir dir,
					      const struct call *by)
{
	struct sslc_conn_id id;
	struct conn *around;

	if (by->ssl && by->ssl != ssl) {
		id = conn_id_of(by->ssl);
		around = bpf_map_lookup_elem(&conns, &id);
		/* Without a connection they are strangers: a callback inside one object's call may
		 * use another one. */
		if (around && around->flow && around->flow == c->flow)
			around->contains = c->carries = c->flow;
	} else if (by->ssl && covers(by->kind, dir)) {
		return true; /* another call on the same object */
	}
	return is_other_layer(c);
}

/*
 * The object has no connection yet: perhaps it never uses a socket itself. From now on the agent is
 * told what goes through sockets on this thread, and of this call. Returns the call's number.
 */
static __always_inline __u32 is_loose(const struct sslc_conn_id *id, const struct conn *c,
				      enum sslc_call kind, __u64 moved, __u64 now)
{
	__u64 tid = bpf_get_current_pid_tgid();
	struct calls *cs = bpf_map_lookup_elem(&calls, &tid);
	struct sslc_ev_call *ev;
	__u32 seq = 0;

	if (c->has_socket && !moved)
		return 0;
	if (cs)
		seq = next_seq(cs);
	if (cs && !c->has_socket) {
		quiet_ends(tid);
		cs->loose_ns = now;
	}
	if (moved)
		return seq; /* the data says so */
	ev = ring_reserve(0, sizeof(*ev));
	if (!ev) {
		count(LOSS_RING_FULL_EVENT, 1);
		return seq;
	}
	ev->ev.type = SSLC_EV_CALL;
	ev->ev.size = sizeof(*ev);
	ev->ev.ts_ns = now;
	ev->ev.flow = 0;
	ev->conn = *id;
	ev->conn.life = c->life;
	ev->tid = (__u32)tid;
	ev->call = kind;
	ev->seq = seq;
	ev->pad = 0;
	ring_submit(0, ev);
	return seq;
}

/* What the library answers, in terms of SSL_get_early_data_status(). */
static __always_inline int early_status(int ret, enum sslc_call kind)
{
	if (kind == SSLC_CALL_EARLY_STATUS)
		return ret;
	return ret & GNUTLS_SFLAGS_EARLY_DATA ? EARLY_ACCEPTED : EARLY_REJECTED;
}

/* Before the handshake is over libraries say "rejected" too, so only acceptance ends the matter. */
static __always_inline void tell_early(const struct sslc_conn_id *id, struct conn *c, int status)
{
	struct sslc_ev_early *ev;
	__u64 now;

	if (!(c->early & EARLY_SENT) || (status != EARLY_REJECTED && status != EARLY_ACCEPTED))
		return;
	now = bpf_ktime_get_ns();
	ev = ring_reserve(c->flow, sizeof(*ev));
	if (!ev) {
		count(LOSS_RING_FULL_EVENT, 1);
		return;
	}
	if (status == EARLY_ACCEPTED)
		c->early &= ~EARLY_SENT;
	ev->ev.type = SSLC_EV_EARLY;
	ev->ev.size = sizeof(*ev);
	ev->ev.ts_ns = now;
	ev->ev.flow = c->flow;
	ev->conn = *id;
	ev->conn.life = c->life;
	ev->accepted = status == EARLY_ACCEPTED;
	ev->pad = 0;
	ring_submit(c->flow, ev);
}

/* 0-RTT: flags for what a call has written inside `outer`. */
static __always_inline __u32 early_flags(struct conn *c, enum sslc_call kind, __u64 ssl,
					 const struct call *outer)
{
	if (outer->ssl != ssl || outer->kind != SSLC_CALL_EARLY_WRITE ||
	    direction(kind) != SSLC_DIR_OUT || c->early & EARLY_SERVER)
		return 0;
	c->early |= EARLY_SENT;
	return SSLC_DATA_EARLY;
}

/* Interrupted sends: what they were given is kept, and told by the one that succeeds. */
static __always_inline __u32 pending(int ret, const struct sslc_conn_id *id, struct conn *c,
				     const struct call *call, __u64 n)
{
	__u32 was = c->pending;

	if (n)
		c->pending = PENDING_NONE;
	else if (!was && call->buf && (ret == GNUTLS_E_AGAIN || ret == GNUTLS_E_INTERRUPTED))
		c->pending = pending_keep(id, call->buf, call->len);
	return was;
}

/* What a returning call moved, ready to be emitted. False: nothing, or nothing wanted. */
static __always_inline bool finish(struct pt_regs *ctx, enum sslc_call kind, __u64 sp,
				   struct emit *e)
{
	__s64 ret = PT_REGS_RC(ctx);
	struct call call, outer;
	__u64 n, tid;
	struct conn *c;

	barrier_var(ret); /* read once: not every verifier likes how a second time is compiled */
	e->conn = conn_id_and_tid(0, &tid);
	if (!leave(tid, kind, sp, &call, &outer))
		return false;
	n = moved(ret, &call);
	e->conn.ssl = call.ssl;
	c = conn_get(&e->conn);
	if (!c || c->excluded || is_told_elsewhere(c, call.ssl, direction(kind), &outer))
		return false;
	if (kind == SSLC_CALL_EARLY_STATUS || kind == SSLC_CALL_SESSION_FLAGS) {
		tell_early(&e->conn, c, early_status((int)ret, kind));
		return false;
	}
	if (c->datagrams) {
		count(LOSS_DATAGRAMS, n);
		return false;
	}
	if (kind == SSLC_CALL_EARLY_READ)
		c->early |= EARLY_SERVER;
	if (kind == SSLC_CALL_SEND)
		e->pending = pending((int)ret, &e->conn, c, &call, n);
	e->ts_ns = bpf_ktime_get_ns();
	if (!c->flow && !c->has_socket && !outer.ssl)
		c->loose = 1; /* the outermost call has ended: no socket was used in it */
	if (!c->flow && (n || !c->has_socket))
		e->seq = is_loose(&e->conn, c, kind, n, e->ts_ns);
	e->dir = direction(kind);
	e->type = SSLC_EV_DATA;
	if (!n)
		return false;
	tell_outer(&outer, call.ssl, n);
	if (!place(c, e, n, call.file, false))
		return false;
	e->conn.life = c->life;
	e->flags = early_flags(c, kind, call.ssl, &outer);
	e->buf = kind == SSLC_CALL_RECV_PACKET ? packet_bytes(call.buf, n) : call.buf;
	e->left = n;
	e->tid = (__u32)tid;
	return true;
}

/*
 * 1. Since 6.6 one link carries all probes of a file (uprobe_multi), and a cookie tells about each:
 * see proto/calls.h. Probes lie inside functions too, wherever they cost least.
 */
static __always_inline __u64 cookie_sp(struct pt_regs *ctx, __u64 cookie)
{
	return PT_REGS_SP(ctx) + sslc_cookie_sp(cookie);
}

SEC("uprobe") int multi_enter(struct pt_regs *ctx)
{
	__u64 cookie = bpf_get_attach_cookie(ctx), began = tally_begin(false);

	keep_thread_stack(ctx);
	enter(ctx, sslc_cookie_call(cookie), cookie_sp(ctx, cookie), sslc_cookie_file(cookie));
	tally_end(cookie, began);
	return 0;
}

SEC("uprobe") int multi_leave(struct pt_regs *ctx)
{
	__u64 cookie = bpf_get_attach_cookie(ctx), began = tally_begin(true);
	enum sslc_call kind = sslc_cookie_call(cookie);
	struct emit e = {};

	keep_thread_stack(ctx);
	if (finish(ctx, kind, cookie_sp(ctx, cookie), &e)) {
		if (kind == SSLC_CALL_SENDFILE || kind == SSLC_CALL_SEND_FILE)
			emit_gap(&e);
		else
			emit_sent(&e);
	}
	tally_end(cookie, began);
	return 0;
}

static __always_inline int forget(struct pt_regs *ctx)
{
	struct sslc_conn_id id = conn_id_of(PT_REGS_PARM1(ctx));
	struct conn *c = bpf_map_lookup_elem(&conns, &id);

	if (c && c->pending)
		bpf_map_delete_elem(&pendings, &id);
	if (c && c->flow)
		leave_socket(c);
	bpf_map_delete_elem(&conns, &id);
	return 0;
}

SEC("uprobe") int multi_forget(struct pt_regs *ctx)
{
	__u64 cookie = bpf_get_attach_cookie(ctx), began = tally_begin(false);

	keep_thread_stack(ctx);
	forget(ctx);
	tally_end(cookie, began);
	return 0;
}

/*
 * 2. Before, each probe is a perf event with a program of its own, since cookies came in 5.15 only:
 * leave_… for kernels with bpf_loop(), leave_old_… for those without.
 */
#define TLS_LEAVE(program, kind, how)                                                              \
	SEC("uretprobe") int program(struct pt_regs *ctx)                                          \
	{                                                                                          \
		__u64 began = tally_begin(true);                                                   \
		struct emit e = {};                                                                \
                                                                                                   \
		if (finish(ctx, kind, PT_REGS_SP(ctx) - RETURN_POPS, &e))                          \
			how(&e);                                                                   \
		tally_end(0, began);                                                               \
		return 0;                                                                          \
	}
#define TLS_CALL_EMITS(name, kind, how, how_old)                                                   \
	SEC("uprobe") int enter_##name(struct pt_regs *ctx)                                        \
	{                                                                                          \
		__u64 began = tally_begin(false);                                                  \
                                                                                                   \
		enter(ctx, kind, PT_REGS_SP(ctx), 0);                                              \
		tally_end(0, began);                                                               \
		return 0;                                                                          \
	}                                                                                          \
	TLS_LEAVE(leave_##name, kind, how)                                                         \
	TLS_LEAVE(leave_old_##name, kind, how_old)
#define TLS_CALL(name, kind) TLS_CALL_EMITS(name, kind, emit_loop, emit_bounded)

TLS_CALL(read, SSLC_CALL_READ)
TLS_CALL(read_ex, SSLC_CALL_READ_EX)
TLS_CALL(write, SSLC_CALL_WRITE)
TLS_CALL(write_ex, SSLC_CALL_WRITE_EX)
TLS_CALL(write_ex2, SSLC_CALL_WRITE_EX2)
TLS_CALL(recv, SSLC_CALL_RECV)
TLS_CALL_EMITS(send, SSLC_CALL_SEND, emit_sent, emit_sent_bounded)
TLS_CALL(recv_typed, SSLC_CALL_RECV_TYPED)
TLS_CALL(recv_packet, SSLC_CALL_RECV_PACKET)
TLS_CALL_EMITS(send_file, SSLC_CALL_SEND_FILE, emit_gap, emit_gap)
TLS_CALL_EMITS(uncork, SSLC_CALL_UNCORK, emit_nothing, emit_nothing)
TLS_CALL_EMITS(session_flags, SSLC_CALL_SESSION_FLAGS, emit_nothing, emit_nothing)
TLS_CALL_EMITS(sendfile, SSLC_CALL_SENDFILE, emit_gap, emit_gap)
TLS_CALL(read_flags, SSLC_CALL_READ_FLAGS)
TLS_CALL_EMITS(bind, SSLC_CALL_BIND, emit_nothing, emit_nothing)
TLS_CALL_EMITS(early_write, SSLC_CALL_EARLY_WRITE, emit_nothing, emit_nothing)
TLS_CALL_EMITS(early_read, SSLC_CALL_EARLY_READ, emit_nothing, emit_nothing)
TLS_CALL_EMITS(early_status, SSLC_CALL_EARLY_STATUS, emit_nothing, emit_nothing)

SEC("uprobe") int enter_forget(struct pt_regs *ctx)
{
	return forget(ctx);
}

#endif
