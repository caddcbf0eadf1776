/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * sock: which TCP connection a TLS object uses. A socket operation on a thread that is inside a TLS
 * call names the connection; nothing is read from the TLS library's own structures.
 */
#ifndef SSLC_BPF_SOCK_H
#define SSLC_BPF_SOCK_H

#define AF_INET      2
#define AF_INET6     10
#define IPPROTO_TCP  6
#define ECONNRESET   104
#define EPIPE        32
#define ETIMEDOUT    110
#define EAGAIN       11
#define EINTR        4
#define ERESTARTSYS  512
#define MSG_PEEK     2
#define RCV_SHUTDOWN 1

enum { /* include/net/tcp_states.h */
       TCP_ESTABLISHED = 1,
       TCP_FIN_WAIT1 = 4,
       TCP_FIN_WAIT2 = 5,
       TCP_CLOSE = 7,
       TCP_CLOSE_WAIT = 8,
       TCP_LAST_ACK = 9,
       TCP_CLOSING = 11,
};

static __always_inline bool is_tcp(struct sock *sk)
{
	__u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);

	return (family == AF_INET || family == AF_INET6) &&
	       BPF_CORE_READ(sk, sk_protocol) == IPPROTO_TCP;
}

/* ::ffff:a.b.c.d (RFC 4291, 2.5.5.2) */
static __always_inline bool is_mapped(const __u8 *a)
{
	const __u32 *w = (const __u32 *)a;

	return !w[0] && !w[1] && w[2] == bpf_htonl(0xffff);
}

static __always_inline void read_tuple(struct sslc_ev_open *ev, struct sock *sk)
{
	__builtin_memset(ev->local_addr, 0, 16);
	__builtin_memset(ev->remote_addr, 0, 16);
	ev->family = 4;
	if (BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET) {
		*(__u32 *)ev->local_addr = BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr);
		*(__u32 *)ev->remote_addr = BPF_CORE_READ(sk, __sk_common.skc_daddr);
	} else {
		struct in6_addr l = BPF_CORE_READ(sk, __sk_common.skc_v6_rcv_saddr);
		struct in6_addr r = BPF_CORE_READ(sk, __sk_common.skc_v6_daddr);

		if (is_mapped(r.in6_u.u6_addr8)) {
			*(__u32 *)ev->local_addr = ((__u32 *)&l)[3];
			*(__u32 *)ev->remote_addr = ((__u32 *)&r)[3];
		} else {
			ev->family = 6;
			__builtin_memcpy(ev->local_addr, &l, 16);
			__builtin_memcpy(ev->remote_addr, &r, 16);
		}
	}
	/* skc_num becomes 0 when the port is released; inet_sport stays. */
	ev->local_port = bpf_ntohs(BPF_CORE_READ((struct inet_sock *)sk, inet_sport));
	ev->remote_port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	ev->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
}

/*
 * Who connected, and both initial sequence numbers, from the kernel's own counters. The client's
 * SYN is acknowledged like a byte and so counted in bytes_acked (RFC 4898); a server's SYN-ACK was
 * acknowledged before its counters began. With all data ever sent = bytes_sent - bytes_retrans:
 *     bytes_acked + in flight - data sent = 1 on the client, 0 on the server.
 * Holds until this end sends FIN. Read twice, because acknowledgements arrive meanwhile.
 */
static __always_inline void read_role(struct sslc_ev_open *ev, struct sock *sk)
{
	struct tcp_sock *tp = (struct tcp_sock *)sk;
	__u8 state = BPF_CORE_READ(sk, __sk_common.skc_state);
	__s8 reuse;

	for (int i = 0; i < 4; i++) {
		__u32 una = BPF_CORE_READ(tp, snd_una), nxt = BPF_CORE_READ(tp, snd_nxt);
		__u32 rcv = BPF_CORE_READ(tp, rcv_nxt);
		__u64 acked = BPF_CORE_READ(tp, bytes_acked);
		__u64 received = BPF_CORE_READ(tp, bytes_received);
		__u64 sent = BPF_CORE_READ(tp, bytes_sent) - BPF_CORE_READ(tp, bytes_retrans);
		__u64 syn = acked + (__u32)(nxt - una) - sent;

		if (una != BPF_CORE_READ(tp, snd_una) || nxt != BPF_CORE_READ(tp, snd_nxt) ||
		    rcv != BPF_CORE_READ(tp, rcv_nxt) || acked != BPF_CORE_READ(tp, bytes_acked) ||
		    received != BPF_CORE_READ(tp, bytes_received))
			continue;
		if (state != TCP_ESTABLISHED && state != TCP_CLOSE_WAIT)
			break;
		if (syn > 1)
			break; /* TCP Fast Open: its first data went with the SYN */
		ev->role = syn ? SSLC_ROLE_CLIENT : SSLC_ROLE_SERVER;
		ev->iss = una - (__u32)acked - (syn ? 0 : 1);
		ev->irs = rcv - (__u32)received - 1 - (state == TCP_CLOSE_WAIT); /* a FIN counts */
		ev->flags |= SSLC_OPEN_ISN_VALID | SSLC_OPEN_ROLE_EXACT;
		return;
	}
	/* A port chosen by connect() has no bind() policy: inet_hash_connect() marks it -1. */
	reuse = BPF_CORE_READ((struct inet_connection_sock *)sk, icsk_bind_hash, fastreuse);
	ev->role = reuse < 0 ? SSLC_ROLE_CLIENT : SSLC_ROLE_UNKNOWN;
}

static __always_inline void announce(struct sock *sk, struct sock_info *info,
				     const struct sslc_conn_id *conn)
{
	struct sslc_ev_open *ev = bpf_ringbuf_reserve(&events, sizeof(*ev), 0);

	if (!ev) {
		count(LOSS_RING_FULL_EVENT, 1);
		return;
	}
	__builtin_memset(ev, 0, sizeof(*ev));
	ev->ev.type = SSLC_EV_OPEN;
	ev->ev.size = sizeof(*ev);
	ev->ev.ts_ns = bpf_ktime_get_ns();
	ev->ev.flow = info->flow;
	ev->conn = *conn;
	read_tuple(ev, sk);
	read_role(ev, sk);
	ev->mss = BPF_CORE_READ((struct tcp_sock *)sk, mss_cache);
	ev->tid = (__u32)bpf_get_current_pid_tgid();
	ev->uid = (__u32)bpf_get_current_uid_gid();
	bpf_get_current_comm(ev->comm, sizeof(ev->comm));
	info->announced = 1;
	bpf_ringbuf_submit(ev, 0);
}

/*
 * What tells connections apart that use one struct sock after the other, should the end of the
 * first have been missed: addresses (IPv6 ones folded) and ports.
 */
static __always_inline void sock_ident(struct sock *sk, __u64 ident[2])
{
	__u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);

	ident[1] = (__u64)family << 32 |
		   (__u32)BPF_CORE_READ((struct inet_sock *)sk, inet_sport) << 16 |
		   BPF_CORE_READ(sk, __sk_common.skc_dport);
	if (family == AF_INET) {
		ident[0] = (__u64)BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr) << 32 |
			   BPF_CORE_READ(sk, __sk_common.skc_daddr);
	} else {
		struct in6_addr l = BPF_CORE_READ(sk, __sk_common.skc_v6_rcv_saddr);
		struct in6_addr r = BPF_CORE_READ(sk, __sk_common.skc_v6_daddr);
		__u64 *a = (__u64 *)&l, *b = (__u64 *)&r;

		ident[0] = (a[0] * 31 + a[1]) * 31 + b[0] * 7 + b[1];
	}
}

static __always_inline void tell_sock(__u64 flow, enum sslc_sock_what what)
{
	struct sslc_ev_sock *ev = bpf_ringbuf_reserve(&events, sizeof(*ev), 0);

	if (!ev) {
		count(LOSS_RING_FULL_EVENT, 1);
		return;
	}
	ev->ev.type = SSLC_EV_SOCK;
	ev->ev.size = sizeof(*ev);
	ev->ev.ts_ns = bpf_ktime_get_ns();
	ev->ev.flow = flow;
	ev->what = what;
	ev->pad = 0;
	bpf_ringbuf_submit(ev, 0);
}

/* The flow is over: nothing of it may meet the next socket at this address. */
static __always_inline void sock_info_end(__u64 key, struct sock_info *info)
{
	tell_sock(info->flow, SSLC_SOCK_DESTROYED);
	bpf_map_delete_elem(&skipped, &info->flow);
	bpf_map_delete_elem(&socks, &key);
}

static __always_inline struct sock_info *sock_info_get(struct sock *sk,
						       const struct sslc_conn_id *conn)
{
	struct sock_info fresh = {}, *info;
	__u64 key = (__u64)sk;

	sock_ident(sk, fresh.ident);
	info = bpf_map_lookup_elem(&socks, &key);
	if (info && (info->ident[0] != fresh.ident[0] || info->ident[1] != fresh.ident[1])) {
		count(LOSS_STALE_SOCK, 1);
		sock_info_end(key, info);
		info = NULL;
	}
	if (!info) {
		fresh.flow = next_flow();
		bpf_map_update_elem(&socks, &key, &fresh, BPF_NOEXIST);
		info = bpf_map_lookup_elem(&socks, &key);
		if (!info) {
			count(LOSS_SOCKS_FULL, 1);
			return NULL;
		}
	}
	if (!info->announced)
		announce(sk, info, conn);
	return info;
}

static __always_inline bool is_self(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return self_inode && (__u64)BPF_CORE_READ(task, mm, exe_file, f_inode) == self_inode;
}

static __always_inline struct conn *conn_get(const struct sslc_conn_id *id)
{
	struct conn *c = bpf_map_lookup_elem(&conns, id);

	if (!c) {
		struct conn fresh = {.excluded = is_self(), .life = (__u32)bpf_ktime_get_ns()};

		bpf_map_update_elem(&conns, id, &fresh, BPF_NOEXIST);
		c = bpf_map_lookup_elem(&conns, id);
		if (!c)
			count(LOSS_CONNS_FULL, 1);
	}
	return c;
}

static __always_inline struct sslc_conn_id conn_id_of(__u64 ssl)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct sslc_conn_id id = {
		.start_ns = BPF_CORE_READ(task, group_leader, start_boottime),
		.ssl = ssl,
		.tgid = bpf_get_current_pid_tgid() >> 32,
	};

	return id;
}

static __always_inline void tell_bind(const struct sslc_conn_id *id, const struct conn *c)
{
	struct sslc_ev_bind *ev = bpf_ringbuf_reserve(&events, sizeof(*ev), 0);

	if (!ev) {
		count(LOSS_RING_FULL_EVENT, 1);
		return;
	}
	ev->ev.type = SSLC_EV_BIND;
	ev->ev.size = sizeof(*ev);
	ev->ev.ts_ns = bpf_ktime_get_ns();
	ev->ev.flow = c->flow;
	ev->conn = *id;
	ev->conn.life = c->life;
	ev->pos[0] = c->pos[0];
	ev->pos[1] = c->pos[1];
	bpf_ringbuf_submit(ev, 0);
}

/* Each TLS object on the thread's stack uses this socket: the last observation wins. */
static __always_inline void bind_call(struct sock *sk, __u64 ssl)
{
	struct sslc_conn_id id = conn_id_of(ssl);
	struct conn *c = conn_get(&id);
	struct sock_info *info;

	if (!c || c->excluded)
		return;
	info = sock_info_get(sk, &id);
	if (!info || (c->sk == (__u64)sk && c->flow == info->flow))
		return;
	c->sk = (__u64)sk;
	c->flow = info->flow;
	if (c->pos[0] | c->pos[1]) {
		tell_bind(&id, c);
		c->pos[0] = c->pos[1] = 0;
	}
}

static __always_inline void on_socket_op(struct sock *sk)
{
	__u64 tid = bpf_get_current_pid_tgid();
	struct calls *cs = bpf_map_lookup_elem(&calls, &tid);

	if (!cs || !cs->depth || !is_tcp(sk))
		return;
	for (__u32 i = 0; i < CALL_DEPTH; i++)
		if (i < cs->depth)
			bind_call(sk, cs->v[i].ssl);
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
	tell_sock(info->flow, ret ? SSLC_SOCK_ERROR : SSLC_SOCK_EOF);
}

static __always_inline int on_receive(struct sock *sk, int ret, int flags)
{
	if (ret > 0)
		on_socket_op(sk);
	else
		on_receive_end(sk, ret, flags);
	return 0;
}

/*
 * Three ways to see a socket operation; the agent loads the first that the kernel offers.
 * 1. Tracepoints of include/trace/events/sock.h, since 6.3.
 */
SEC("tp_btf/sock_send_length")
int BPF_PROG(tp_send, struct sock *sk, int ret, int flags)
{
	if (ret > 0)
		on_socket_op(sk);
	return 0;
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(tp_recv, struct sock *sk, int ret, int flags)
{
	return on_receive(sk, ret, flags);
}

/*
 * 2. Function exits, since 5.5 on x86-64, 6.4 on arm64. tcp_recvmsg() has six parameters
 * before 5.19, which took `nonblock` away, five after it, and four (no `addr_len`) in 7.x; `flags`
 * stays before addr_len.
 */
SEC("fexit/tcp_sendmsg")
int BPF_PROG(fexit_send, struct sock *sk, struct msghdr *msg, unsigned long size, int ret)
{
	if (ret > 0)
		on_socket_op(sk);
	return 0;
}

SEC("fexit/tcp_recvmsg")
int BPF_PROG(fexit_recv4, struct sock *sk, struct msghdr *msg, unsigned long len, int flags,
	     int ret)
{
	return on_receive(sk, ret, flags);
}

SEC("fexit/tcp_recvmsg")
int BPF_PROG(fexit_recv5, struct sock *sk, struct msghdr *msg, unsigned long len, int flags,
	     int *addr_len, int ret)
{
	return on_receive(sk, ret, flags);
}

SEC("fexit/tcp_recvmsg")
int BPF_PROG(fexit_recv6, struct sock *sk, struct msghdr *msg, unsigned long len, int nonblock,
	     int flags, int *addr_len, int ret)
{
	return on_receive(sk, ret, flags);
}

/* 3. Kprobes: the return knows no arguments, so the entry leaves them for it. */
SEC("kprobe/tcp_sendmsg")
int BPF_KPROBE(kprobe_send, struct sock *sk)
{
	on_socket_op(sk);
	return 0;
}

static __always_inline int remember_receive(struct sock *sk, int flags)
{
	__u64 tid = bpf_get_current_pid_tgid();
	struct receive r = {.sk = (__u64)sk, .flags = flags};

	bpf_map_update_elem(&receives, &tid, &r, BPF_ANY);
	return 0;
}

SEC("kprobe/tcp_recvmsg")
int BPF_KPROBE(kprobe_recv, struct sock *sk, void *msg, unsigned long len, int flags)
{
	return remember_receive(sk, flags);
}

SEC("kprobe/tcp_recvmsg")
int BPF_KPROBE(kprobe_recv6, struct sock *sk, void *msg, unsigned long len, int nonblock, int flags)
{
	return remember_receive(sk, flags);
}

SEC("kretprobe/tcp_recvmsg")
int BPF_KRETPROBE(kretprobe_recv, int ret)
{
	__u64 tid = bpf_get_current_pid_tgid();
	struct receive *r = bpf_map_lookup_elem(&receives, &tid), copy;

	if (!r)
		return 0;
	copy = *r;
	bpf_map_delete_elem(&receives, &tid);
	return on_receive((struct sock *)copy.sk, ret, copy.flags);
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

static __always_inline void set_state(struct sock *sk, int old, int new)
{
	__u64 key = (__u64)sk;
	struct sock_info *info = bpf_map_lookup_elem(&socks, &key);

	if (!info)
		return;
	if (new == TCP_FIN_WAIT1 || new == TCP_LAST_ACK)
		tell_sock(info->flow, SSLC_SOCK_LOCAL_FIN);
	else if (new == TCP_CLOSE_WAIT || new == TCP_CLOSING)
		tell_sock(info->flow, SSLC_SOCK_REMOTE_FIN);
	else if (new == TCP_CLOSE)
		tell_sock(info->flow, closed_how(sk, old));
	else if (new == TCP_ESTABLISHED) /* a new connection: the end of the last one was missed */
		sock_info_end(key, info);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(on_set_state, struct sock *sk, int old, int new)
{
	set_first_running(FIRST_SET_STATE, 1);
	set_state(sk, old, new);
	set_first_running(FIRST_SET_STATE, 0);
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(on_set_state_nested, struct sock *sk, int old, int new)
{
	if (is_first_running(FIRST_SET_STATE))
		set_state(sk, old, new);
	return 0;
}

static __always_inline void destroy(struct sock *sk)
{
	__u64 key = (__u64)sk;
	struct sock_info *info = bpf_map_lookup_elem(&socks, &key);

	if (info)
		sock_info_end(key, info);
}

/* Fires for every socket once no process can read it any more; since 4.16. */
SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(on_destroy_sock, struct sock *sk)
{
	set_first_running(FIRST_DESTROY, 1);
	destroy(sk);
	set_first_running(FIRST_DESTROY, 0);
	return 0;
}

SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(on_destroy_sock_nested, struct sock *sk)
{
	if (is_first_running(FIRST_DESTROY))
		destroy(sk);
	return 0;
}

#endif
