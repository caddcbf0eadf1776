/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * hooks: where the kernel shows what happens to sockets. Operations go to the TLS objects whose
 * calls they are in, or to wire.bpf.h; changes of state become events.
 */
#ifndef SSLC_BPF_HOOKS_H
#define SSLC_BPF_HOOKS_H

/* The call's own plaintext is another connection's TLS record: TLS inside TLS. */
static __always_inline bool writes_record(const struct call *call)
{
	__u8 h[8] = {};

	return direction(call->kind) == SSLC_DIR_OUT &&
	       !bpf_probe_read_user(h, TLS_HEADER, (void *)call->buf) && is_record(h);
}

/* The bound is checked where it is used: 5.10 forgets those of the stack. */
static __always_inline struct call *call_at(struct calls *cs, __u32 at)
{
	barrier_var(at);
	return &cs->v[at & CALL_MASK];
}

/* One of the calls that the thread is in; else as bind_calls(). Global, so that what it needs for
 * the kernel's structures is not kept on the stack from round to round: Linux 5.10 has 512 bytes
 * for all. */
__noinline int bind_one(__u64 key, __u32 at, __u32 how, __u32 moved)
{
	struct calls *cs = calls_here();
	struct call *call;

	if (!cs)
		return 1;
	call = call_at(cs, at);
	if (how & OP_TCP)
		return bind_call((struct sock *)key, call, how & OP_DIR, moved);
	bind_datagrams(call->ssl);
	return 1;
}

/*
 * The objects whose calls the thread is in use this socket: the innermost one, and one around it
 * when its records are what goes in. 0: none does. Arguments as those of wire_op(). Global, for a
 * stack frame of its own.
 */
__noinline int bind_calls(__u64 key, __u32 how, __u32 moved)
{
	struct calls *cs = calls_here();
	__u32 top, at = 0, above;
	__u64 ssl;

	if (!cs || !cs->depth || cs->depth > CALL_DEPTH)
		return 0;
	top = cs->depth - 1;
	ssl = call_at(cs, top)->ssl;
#pragma clang loop unroll(disable) /* each round would get stack of its own */
	for (__u32 i = 0; i < CALL_DEPTH && i <= top; i++) {
		above = at;
		at = top - i;
		if (i && call_at(cs, at)->ssl != ssl && !writes_record(call_at(cs, above)))
			break;
		if (!bind_one(key, at, how, moved) && !i)
			return 0;
	}
	return 1;
}

static __always_inline void follow(__u64 key, __u32 how, __u32 moved)
{
	int found = wire_find(key, how, moved);

	if (found & WIRE_FOREIGN && inherit(key))
		return;
	if (found)
		wire_op(key, how | (found & WIRE_NEW ? OP_NEW : 0), moved);
}

/* For a stack frame of its own. */
static __noinline struct calls *calls_of_op(void)
{
	return calls_here();
}

/*
 * Inside a TLS call the operation names the object's connection; outside, see wire.bpf.h. Runs for
 * every operation on every socket of the host: what nobody needs ends after a table lookup or two.
 */
static __always_inline void on_socket_op(struct sock *sk, bool typed, __u32 how, int ret)
{
	__u64 tid = bpf_get_current_pid_tgid(), key = (__u64)sk;
	bool was_quiet = is_quiet(tid), inside, loose;
	struct calls *cs = was_quiet ? NULL : calls_of_op();

	inside = cs && cs->depth;
	loose = cs && bpf_ktime_get_ns() - cs->loose_ns < LOOSE_NS;
	if (how & OP_NOTES && !was_quiet && !inside && !loose)
		look_whether_quiet(tid, cs);
	if (!inside &&
	    (ret <= 0 || !(how & OP_TCP) || is_settled(sk, typed, how, loose) || is_served()))
		return;
	/* Global functions take numbers, and the verifier does not let pointers pass for such. */
	if (bpf_probe_read_kernel(&key, sizeof(key), &sk))
		return;
	if (inside && bind_calls(key, how, ret))
		count_from(key, how & OP_DIR, ret);
	else if (ret > 0 && how & OP_TCP && !(inside && is_settled(sk, typed, how, loose)))
		follow(key, how | (loose ? OP_LOOSE : 0), ret);
}

/* The end of the peer's stream as the process sees it: only then is everything before it read. */
static __always_inline void on_receive_end(struct sock *sk, int ret, int flags)
{
	__u64 key = (__u64)sk;
	struct sock_info *info;

	if (ret > 0 || flags & MSG_PEEK || ret == -EAGAIN || ret == -EINTR || ret <= -ERESTARTSYS)
		return;
	if (!ret && !(BPF_CORE_READ(sk, sk_shutdown) & RCV_SHUTDOWN))
		return; /* asked for no bytes */
	info = bpf_map_lookup_elem(&socks, &key);
	if (!info || info->eof)
		return;
	info->eof = 1;
	tell_end(info, ret ? SSLC_SOCK_ERROR : SSLC_SOCK_EOF, 0);
}

/* Nobody needs this operation: the thread is in no call, and the socket is an object's. */
static __always_inline bool is_nobodys(const struct sock *sk, bool typed, int ret)
{
	__u64 tid;

	if (ret > 0 ? !typed : ret != -EAGAIN)
		return false;
	tid = bpf_get_current_pid_tgid();
	return (ret < 0 || is_settled_socket(sk, tid)) && is_quiet(tid);
}

static __always_inline bool in_call(void)
{
	struct calls *cs = calls_here();

	return cs && cs->depth;
}

/* notes: OP_NOTES or 0. */
static __always_inline int on_receive(struct sock *sk, bool typed, int ret, int flags, __u32 notes)
{
	__u32 how;

	if (is_nobodys(sk, typed, ret) || !sock_transport(sk, typed, &how))
		return 0;
	how |= notes;
	if (ret == -EAGAIN) /* nothing there, but an object whose call it is has a socket */
		on_socket_op(sk, typed, how | SSLC_DIR_IN, 0);
	else if (ret <= 0)
		on_receive_end(sk, ret, flags);
	else if (!(flags & (MSG_PEEK | MSG_ERRQUEUE)) || in_call())
		on_socket_op(sk, typed, how | SSLC_DIR_IN, ret);
	return 0;
}

/*
 * The connection is broken, and a record was not sent, or not all of it. Records are told when they
 * are made: so this one may have been. For a stack frame of its own.
 */
static __noinline void on_broken_send(struct sock *sk)
{
	struct sock_info *info;
	__u32 len = 0;
	__u8 h[8] = {};
	__u64 at;

	if (bpf_probe_read_kernel(&at, sizeof(at), &sk))
		return;
	info = bpf_map_lookup_elem(&socks, &at);
	if (!info)
		return;
	at = userbuf_first();
	if (at && !bpf_probe_read_user(h, TLS_HEADER, (void *)at) && is_record(h))
		len = h[3] << 8 | h[4];
	tell_end(info, SSLC_SOCK_SEND_ERROR, len);
}

static __always_inline bool is_broken(int ret)
{
	return ret == -EPIPE || ret == -ECONNRESET || ret == -ETIMEDOUT;
}

static __always_inline int on_send(struct sock *sk, bool typed, int ret, __u32 notes)
{
	__u32 how;

	if (is_broken(ret))
		on_broken_send(sk);
	if (ret > 0 && !is_nobodys(sk, typed, ret) && sock_transport(sk, typed, &how))
		on_socket_op(sk, typed, how | notes | SSLC_DIR_OUT, ret);
	return 0;
}

/*
 * Three ways to see a socket operation; the agent loads the first that the kernel offers.
 * 1. Tracepoints of include/trace/events/sock.h, since 6.3.
 */
SEC("tp_btf/sock_send_length")
int BPF_PROG(tp_send, struct sock *sk, int ret, int flags)
{
	return on_send(sk, true, ret, OP_NOTES);
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(tp_recv, struct sock *sk, int ret, int flags)
{
	return on_receive(sk, true, ret, flags, OP_NOTES);
}

/*
 * Since Linux 7, each twice: see struct twin_event. The first notes nothing in the tables of
 * quiet.bpf.h, lest the second find there that nobody needs the operation, and leave the first
 * one's mark behind. The second does, after some.
 */
#define NOTE_EACH 16u

volatile __u32 n_seconds = 0;

static __always_inline int note_some(struct sock *sk)
{
	__u64 tid = bpf_get_current_pid_tgid(), key = (__u64)sk;
	struct wire *w;

	if (++n_seconds % NOTE_EACH)
		return 0;
	if (!is_quiet(tid))
		look_whether_quiet(tid, calls_here());
	w = bpf_map_lookup_elem(&wires, &key);
	if (w && is_bound_by(w, tid))
		settled_begins(sk, tid);
	return 0;
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(tp_send_first, struct sock *sk, int ret, int flags)
{
	if (is_nobodys(sk, true, ret))
		return 0;
	return twin_takes(TWIN_SEND, sk, (__u32)ret) ? on_send(sk, true, ret, 0) : 0;
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(tp_send_second, struct sock *sk, int ret, int flags)
{
	if (is_nobodys(sk, true, ret))
		return 0;
	if (!twin_missed(TWIN_SEND, sk, (__u32)ret))
		return note_some(sk);
	count(LOSS_SECOND, 1);
	return on_send(sk, true, ret, 0);
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(tp_recv_first, struct sock *sk, int ret, int flags)
{
	if (is_nobodys(sk, true, ret))
		return 0;
	return twin_takes(TWIN_RECV, sk, (__u32)ret) ? on_receive(sk, true, ret, flags, 0) : 0;
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(tp_recv_second, struct sock *sk, int ret, int flags)
{
	if (is_nobodys(sk, true, ret))
		return 0;
	if (!twin_missed(TWIN_RECV, sk, (__u32)ret))
		return note_some(sk);
	count(LOSS_SECOND, 1);
	return on_receive(sk, true, ret, flags, 0);
}

/*
 * 2. Function exits, since 5.5 on x86-64, 6.4 on arm64. tcp_recvmsg() has six parameters
 * before 5.19, which took `nonblock` away, five after it, and four (no `addr_len`) in 7.x; `flags`
 * stays before addr_len.
 */
SEC("fexit/tcp_sendmsg")
int BPF_PROG(fexit_send, struct sock *sk, struct msghdr *msg, unsigned long size, int ret)
{
	return on_send(sk, true, ret, OP_NOTES);
}

SEC("fexit/tcp_recvmsg")
int BPF_PROG(fexit_recv4, struct sock *sk, struct msghdr *msg, unsigned long len, int flags,
	     int ret)
{
	return on_receive(sk, true, ret, flags, OP_NOTES);
}

SEC("fexit/tcp_recvmsg")
int BPF_PROG(fexit_recv5, struct sock *sk, struct msghdr *msg, unsigned long len, int flags,
	     int *addr_len, int ret)
{
	return on_receive(sk, true, ret, flags, OP_NOTES);
}

SEC("fexit/tcp_recvmsg")
int BPF_PROG(fexit_recv6, struct sock *sk, struct msghdr *msg, unsigned long len, int nonblock,
	     int flags, int *addr_len, int ret)
{
	return on_receive(sk, true, ret, flags, OP_NOTES);
}

/* 3. Kprobes: the return knows no arguments, so the entry leaves them for it. */
static __always_inline int remember_op(struct sock *sk, int flags)
{
	__u64 tid = bpf_get_current_pid_tgid();
	struct entered_op op = {.sk = (__u64)sk, .flags = flags};

	bpf_map_update_elem(&entered, &tid, &op, BPF_ANY);
	return 0;
}

static __always_inline struct sock *recall_op(int *flags)
{
	__u64 tid = bpf_get_current_pid_tgid();
	struct entered_op *op = bpf_map_lookup_elem(&entered, &tid);
	struct sock *sk;

	if (!op)
		return NULL;
	sk = (struct sock *)op->sk;
	*flags = op->flags;
	bpf_map_delete_elem(&entered, &tid);
	return sk;
}

SEC("kprobe/tcp_sendmsg")
int BPF_KPROBE(kprobe_send, struct sock *sk)
{
	return remember_op(sk, 0);
}

SEC("kretprobe/tcp_sendmsg")
int BPF_KRETPROBE(kretprobe_send, int ret)
{
	int flags;
	struct sock *sk = recall_op(&flags);

	return sk ? on_send(sk, false, ret, OP_NOTES) : 0;
}

SEC("kprobe/tcp_recvmsg")
int BPF_KPROBE(kprobe_recv, struct sock *sk, void *msg, unsigned long len, int flags)
{
	return remember_op(sk, flags);
}

SEC("kprobe/tcp_recvmsg")
int BPF_KPROBE(kprobe_recv6, struct sock *sk, void *msg, unsigned long len, int nonblock, int flags)
{
	return remember_op(sk, flags);
}

SEC("kretprobe/tcp_recvmsg")
int BPF_KRETPROBE(kretprobe_recv, int ret)
{
	int flags;
	struct sock *sk = recall_op(&flags);

	return sk ? on_receive(sk, false, ret, flags, OP_NOTES) : 0;
}

static __always_inline enum sslc_sock_what closed_how(struct sock *sk, int old)
{
	int err = BPF_CORE_READ(sk, sk_err);

	/* tcp_reset(): EPIPE when in CLOSE_WAIT, else ECONNRESET */
	if (err == ECONNRESET || err == EPIPE)
		return SSLC_SOCK_RST_IN;
	if (err == ETIMEDOUT)
		return SSLC_SOCK_TIMEOUT;
	if (old == TCP_ESTABLISHED || old == TCP_CLOSE_WAIT)
		return SSLC_SOCK_RST_OUT; /* tcp_close() with unread data, SO_LINGER 0, abort */
	return SSLC_SOCK_CLOSED;
}

static __always_inline void tell_closed(struct sock *sk, struct sock_info *info, int old)
{
	count_closed(info, sk);
	tell_end(info, closed_how(sk, old), 0);
}

static __always_inline void set_state(struct sock *sk, int old, int new)
{
	__u64 key = (__u64)sk;
	struct sock_info *info = bpf_map_lookup_elem(&socks, &key);

	if (new == TCP_ESTABLISHED)
		wire_end(key);
	if (!info)
		return;
	if (new == TCP_FIN_WAIT1 || new == TCP_LAST_ACK)
		tell_end(info, SSLC_SOCK_LOCAL_FIN, 0);
	else if (new == TCP_CLOSE_WAIT || new == TCP_CLOSING)
		tell_end(info, SSLC_SOCK_REMOTE_FIN, 0);
	else if (new == TCP_CLOSE)
		tell_closed(sk, info, old);
	else if (new == TCP_ESTABLISHED) /* a new connection: the end of the last one was missed */
		sock_info_end(key, info, NULL);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(on_set_state, struct sock *sk, int old, int new)
{
	if (twin_takes(TWIN_SET_STATE, sk, new))
		set_state(sk, old, new);
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(on_set_state_second, struct sock *sk, int old, int new)
{
	if (twin_missed(TWIN_SET_STATE, sk, new))
		set_state(sk, old, new);
	return 0;
}

static __always_inline void destroy(struct sock *sk)
{
	__u64 key = (__u64)sk;
	struct sock_info *info = bpf_map_lookup_elem(&socks, &key);

	if (info)
		sock_info_end(key, info, sk);
	wire_end(key);
}

/* Fires for every socket once no process can read it any more; since 4.16. */
SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(on_destroy_sock, struct sock *sk)
{
	if (twin_takes(TWIN_DESTROY, sk, 0))
		destroy(sk);
	return 0;
}

SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(on_destroy_sock_second, struct sock *sk)
{
	if (twin_missed(TWIN_DESTROY, sk, 0))
		destroy(sk);
	return 0;
}

#endif
