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
#define IPPROTO_UDP  17
#define ECONNRESET   104
#define EPIPE        32
#define ETIMEDOUT    110
#define EAGAIN       11
#define EINTR        4
#define ERESTARTSYS  512
#define MSG_PEEK     2
#define MSG_ERRQUEUE 0x2000
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

/*
 * A member of a kernel structure. typed: the pointer is one whose type the verifier knows, as
 * tracepoints and function exits are given; then this is one instruction and not a call.
 */
#define SOCK_READ(sk, typed, member) ((typed) ? (sk)->member : BPF_CORE_READ(sk, member))

/* How a socket operation is told to the functions that the verifier looks at on their own. */
enum {
	OP_DIR = 1,   /* enum sslc_dir */
	OP_TCP = 2,   /* or another transport */
	OP_LOOSE = 4, /* see struct calls */
	OP_NOTES = 8, /* what is found may go into the tables of quiet.bpf.h */
	OP_NEW = 16,  /* the first outside of TLS calls on its connection */
};

/* TCP and UDP over IP; nothing else carries TLS or may be taken for it. */
static __always_inline bool sock_transport(struct sock *sk, bool typed, __u32 *how)
{
	__u16 family = SOCK_READ(sk, typed, __sk_common.skc_family), protocol;

	if (family != AF_INET && family != AF_INET6)
		return false;
	protocol = SOCK_READ(sk, typed, sk_protocol);
	*how = protocol == IPPROTO_TCP ? OP_TCP : 0;
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP;
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

struct isn {
	__u32 iss, irs; /* initial sequence number sent, received */
	bool client;
};

/*
 * Who connected, and both initial sequence numbers, from the kernel's own counters. The client's
 * SYN is acknowledged like a byte and so counted in bytes_acked (RFC 4898); a server's SYN-ACK was
 * acknowledged before its counters began. With all data ever sent = bytes_sent - bytes_retrans:
 *     bytes_acked + in flight - data sent = 1 on the client, 0 on the server.
 * Holds until this end sends FIN, and not with TCP Fast Open, whose first data goes with the SYN.
 * Read twice, because acknowledgements arrive meanwhile. False: cannot be told.
 */
static __always_inline bool read_isn(struct sock *sk, struct isn *out)
{
	struct tcp_sock *tp = (struct tcp_sock *)sk;
	__u8 state = BPF_CORE_READ(sk, __sk_common.skc_state);

	if (state != TCP_ESTABLISHED && state != TCP_CLOSE_WAIT)
		return false;
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
		if (syn > 1)
			return false;
		out->client = syn;
		out->iss = una - (__u32)acked - (syn ? 0 : 1);
		out->irs = rcv - (__u32)received - 1 - (state == TCP_CLOSE_WAIT); /* a FIN counts */
		return true;
	}
	return false;
}

static __always_inline void read_role(struct sslc_ev_open *ev, struct sock *sk)
{
	struct isn isn;
	__s8 reuse;

	if (read_isn(sk, &isn)) {
		ev->role = isn.client ? SSLC_ROLE_CLIENT : SSLC_ROLE_SERVER;
		ev->iss = isn.iss;
		ev->irs = isn.irs;
		ev->flags |= SSLC_OPEN_ISN_VALID | SSLC_OPEN_ROLE_EXACT;
		return;
	}
	/* A port chosen by connect() has no bind() policy: inet_hash_connect() marks it -1. */
	reuse = BPF_CORE_READ((struct inet_connection_sock *)sk, icsk_bind_hash, fastreuse);
	ev->role = reuse < 0 ? SSLC_ROLE_CLIENT : SSLC_ROLE_UNKNOWN;
}

/*
 * Who we are: as bpf_get_current_pid_tgid(), and when the process began. Where the verifier knows
 * the task's type, a call and some loads; each call costs more where processors speculate in a way
 * that kernels have to guard returns against.
 */
static __always_inline __u64 current_ids(__u64 *start_ns)
{
	struct task_struct *task;

	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_current_task_btf)) {
		task = (struct task_struct *)bpf_get_current_task_btf();
		*start_ns = task->group_leader->start_boottime;
		return (__u64)(__u32)task->tgid << 32 | (__u32)task->pid;
	}
	task = (void *)bpf_get_current_task();
	*start_ns = BPF_CORE_READ(task, group_leader, start_boottime);
	return bpf_get_current_pid_tgid();
}

/* tid: as bpf_get_current_pid_tgid(). */
static __always_inline struct sslc_conn_id conn_id_and_tid(__u64 ssl, __u64 *tid)
{
	struct sslc_conn_id id = {.ssl = ssl};

	*tid = current_ids(&id.start_ns);
	id.tgid = *tid >> 32;
	return id;
}

static __always_inline struct sslc_conn_id conn_id_of(__u64 ssl)
{
	__u64 tid;

	return conn_id_and_tid(ssl, &tid);
}

/* conn: NULL when TLS was only seen on the wire. late: SSLC_OPEN_LATE or 0. */
static __always_inline void announce(struct sock *sk, struct sock_info *info,
				     const struct sslc_conn_id *conn, __u32 late)
{
	__u64 now = bpf_ktime_get_ns();
	struct sslc_ev_open *ev = ring_reserve(info->flow, sizeof(*ev));

	if (!ev) {
		count(LOSS_RING_FULL_EVENT, 1);
		return;
	}
	__builtin_memset(ev, 0, sizeof(*ev));
	ev->ev.type = SSLC_EV_OPEN;
	ev->ev.size = sizeof(*ev);
	ev->ev.ts_ns = now;
	ev->ev.flow = info->flow;
	ev->conn = conn ? *conn : conn_id_of(0);
	ev->flags = late | (conn ? 0 : SSLC_OPEN_CANDIDATE);
	read_tuple(ev, sk);
	read_role(ev, sk);
	ev->mss = BPF_CORE_READ((struct tcp_sock *)sk, mss_cache);
	ev->tid = (__u32)bpf_get_current_pid_tgid();
	ev->uid = (__u32)bpf_get_current_uid_gid();
	bpf_get_current_comm(ev->comm, sizeof(ev->comm));
	info->announced = 1;
	ring_submit(info->flow, ev);
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

/*
 * How many bytes the process has given to the socket, and taken from it, so far. Read again when an
 * acknowledgement arrived meanwhile. False: cannot be told.
 */
static __always_inline bool sock_moved(struct sock *sk, __u64 moved[2])
{
	struct tcp_sock *tp = (struct tcp_sock *)sk;

	for (int i = 0; i < 4; i++) {
		__u32 una = BPF_CORE_READ(tp, snd_una), rcv = BPF_CORE_READ(tp, rcv_nxt);

		moved[SSLC_DIR_OUT] = BPF_CORE_READ(tp, bytes_acked) +
				      (__u32)(BPF_CORE_READ(tp, write_seq) - una);
		moved[SSLC_DIR_IN] = BPF_CORE_READ(tp, bytes_received) -
				     (__u32)(rcv - BPF_CORE_READ(tp, copied_seq));
		if (una == BPF_CORE_READ(tp, snd_una) && rcv == BPF_CORE_READ(tp, rcv_nxt))
			return true;
	}
	return false;
}

/*
 * From now on what the socket moves is to be explained by TLS calls: from before the operation that
 * has just moved so many bytes. Global, for a stack frame of its own.
 */
__noinline int count_from(__u64 key, __u32 dir, __u32 moved)
{
	struct sock_info *info = bpf_map_lookup_elem(&socks, &key);

	if (!info || info->counted || !sock_moved((struct sock *)key, info->began))
		return 0;
	info->began[dir & 1] -= moved;
	info->counted = 1;
	return 0;
}

/* Closed: it will send no more, but may still be read. */
static __always_inline void count_closed(struct sock_info *info, struct sock *sk)
{
	if (info->counted && !sock_moved(sk, info->ended))
		info->counted = 0;
}

/* What was taken after it was closed counts, what was given cannot be. */
static __always_inline __u64 span(const struct sock_info *info, const __u64 now[2],
				  enum sslc_dir dir)
{
	__u64 end = info->ended[dir];

	if (!end || (dir == SSLC_DIR_IN && now[dir] > end))
		end = now[dir];
	return end > info->began[dir] ? end - info->began[dir] : 0;
}

/* ended: the socket as it is at its end, or NULL when that was missed. */
static __always_inline void count_up_to(struct sslc_ev_sock *ev, const struct sock_info *info,
					struct sock *ended)
{
	__u64 now[2];

	if (!ended || !info->counted || !sock_moved(ended, now))
		return;
	ev->moved[SSLC_DIR_IN] = span(info, now, SSLC_DIR_IN);
	ev->moved[SSLC_DIR_OUT] = span(info, now, SSLC_DIR_OUT);
	ev->is_counted = 1;
}

static __always_inline struct sslc_ev_sock *begin_sock(__u64 flow, enum sslc_sock_what what)
{
	__u64 now = bpf_ktime_get_ns();
	struct sslc_ev_sock *ev = ring_reserve(flow, sizeof(*ev));

	if (!ev) {
		count(LOSS_RING_FULL_EVENT, 1);
		return NULL;
	}
	__builtin_memset(ev, 0, sizeof(*ev));
	ev->ev.type = SSLC_EV_SOCK;
	ev->ev.size = sizeof(*ev);
	ev->ev.ts_ns = now;
	ev->ev.flow = flow;
	ev->what = what;
	return ev;
}

static __always_inline void tell_sock(__u64 flow, enum sslc_sock_what what)
{
	struct sslc_ev_sock *ev = begin_sock(flow, what);

	if (ev)
		ring_submit(flow, ev);
}

/* Where each direction's lost bytes end: nothing that follows would tell. */
static __always_inline void tell_lost(const struct sock_info *info)
{
	__u64 now = bpf_ktime_get_ns();
	struct sslc_ev_lost *ev = ring_reserve(info->flow, sizeof(*ev));

	if (!ev) {
		count(LOSS_RING_FULL_EVENT, 1);
		return;
	}
	ev->ev.type = SSLC_EV_LOST;
	ev->ev.size = sizeof(*ev);
	ev->ev.ts_ns = now;
	ev->ev.flow = info->flow;
	ev->pos[0] = info->pos[0];
	ev->pos[1] = info->pos[1];
	ring_submit(info->flow, ev);
}

/* One of a TLS connection's ends, once. failed: see struct sslc_ev_sock. */
static __always_inline void tell_end(struct sock_info *info, enum sslc_sock_what what, __u32 failed)
{
	struct sslc_ev_sock *ev;

	if (info->told & 1u << what)
		return;
	info->told |= 1u << what;
	if (info->cut)
		tell_lost(info);
	ev = begin_sock(info->flow, what);
	if (ev) {
		ev->failed = failed;
		ev->ahead = info->ahead;
		ring_submit(info->flow, ev);
	}
}

/* No more that the process writes is sent: the agent has been told why. */
static __always_inline bool is_shut(const struct sock_info *info)
{
	return info->told &
	       (1u << SSLC_SOCK_LOCAL_FIN | 1u << SSLC_SOCK_RST_IN | 1u << SSLC_SOCK_RST_OUT |
		1u << SSLC_SOCK_TIMEOUT | 1u << SSLC_SOCK_CLOSED | 1u << SSLC_SOCK_SEND_ERROR);
}

/* The flow is over: nothing of it may meet the next socket at this address. ended: see
 * count_up_to(). */
static __always_inline void sock_info_end(__u64 key, struct sock_info *info, struct sock *ended)
{
	struct sslc_ev_sock *ev;

	if (info->cut)
		tell_lost(info);
	ev = begin_sock(info->flow, SSLC_SOCK_DESTROYED);
	if (ev) {
		count_up_to(ev, info, ended);
		ev->file[0] = info->file[0];
		ev->file[1] = info->file[1];
		ring_submit(info->flow, ev);
	}
	bpf_map_delete_elem(&skipped, &info->flow);
	bpf_map_delete_elem(&socks, &key);
}

/* The id of a connection on which TLS begins: the one under which its earlier bytes were told. */
static __always_inline __u64 take_wire(const __u64 *key, const __u64 ident[2],
				       enum wire_state state)
{
	struct wire *w = bpf_map_lookup_elem(&wires, key);

	if (!w || w->ident[0] != ident[0] || w->ident[1] != ident[1])
		return next_flow();
	w->state = state;
	w->tgid = bpf_get_current_pid_tgid() >> 32;
	w->told = 0; /* its end is told as that of a TLS connection */
	return w->flow;
}

static __always_inline struct sock_info *sock_info_get(struct sock *sk,
						       const struct sslc_conn_id *conn, __u32 late)
{
	struct sock_info fresh = {}, *info;
	__u64 key = (__u64)sk;

	sock_ident(sk, fresh.ident);
	info = bpf_map_lookup_elem(&socks, &key);
	if (info && (info->ident[0] != fresh.ident[0] || info->ident[1] != fresh.ident[1])) {
		count(LOSS_STALE_SOCK, 1);
		sock_info_end(key, info, NULL);
		info = NULL;
	}
	if (!info) {
		fresh.flow = take_wire(&key, fresh.ident, conn ? WIRE_BOUND : WIRE_TLS);
		bpf_map_update_elem(&socks, &key, &fresh, BPF_NOEXIST);
		info = bpf_map_lookup_elem(&socks, &key);
		if (!info) {
			count(LOSS_SOCKS_FULL, 1);
			return NULL;
		}
	}
	if (!info->announced)
		announce(sk, info, conn, late);
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

/* An object of this process uses the socket. */
static __always_inline void take_socket(struct sock_info *info, const struct sslc_conn_id *id)
{
	if (info->bound == id->tgid && info->ssl == id->ssl)
		return;
	if (info->ssl != id->ssl || info->until_ns)
		info->since_ns = bpf_ktime_get_boot_ns();
	info->ssl = id->ssl;
	info->until_ns = 0;
	info->bound = id->tgid;
}

/* The object ends, or gets another transport: others may use its connection. */
static __always_inline void leave_socket(const struct conn *c)
{
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	__u64 key = c->sk;
	struct sock_info *info = bpf_map_lookup_elem(&socks, &key);
	struct wire *w;

	if (!info || info->flow != c->flow || info->bound != tgid)
		return; /* or a copy of it in another process goes on */
	info->bound = 0;
	info->until_ns = bpf_ktime_get_boot_ns();
	w = bpf_map_lookup_elem(&wires, &key);
	if (w && w->state == WIRE_BOUND) {
		w->state = WIRE_OTHER;
		w->tgid = tgid;
	}
	settled_ends(key);
}

static __always_inline void shed(struct sock_info *info)
{
	if (info->shed)
		return;
	count(LOSS_SHED_FLOWS, 1);
	info->shed = 1;
	info->cut = 1;
	ring_state(info->flow)->shed_ns = bpf_ktime_get_ns();
}

/* After the loss of some of its bytes; see emit.bpf.h. Without a connection yet, or where nothing
 * is shed, it is a hole. */
__noinline int shed_conn(__u64 ssl)
{
	struct sslc_conn_id id = conn_id_of(ssl);
	struct conn *c = bpf_map_lookup_elem(&conns, &id);
	struct sock_info *info = c ? bpf_map_lookup_elem(&socks, &c->sk) : NULL;

	if (!info || info->flow != c->flow)
		return 0;
	info->cut = 1;
	if (shed_how != SSLC_SHED_NONE)
		shed(info);
	return 0;
}

/* n bytes of the connection have moved, while so much of the ring is in use: whether they are given
 * up. */
static __always_inline bool is_shed(struct sock_info *info, __u64 n, __u64 fill)
{
	const struct sslc_ring *r = ring_state(info->flow);

	if (info->shed && r->line == SSLC_SHED_ABOVE &&
	    bpf_ktime_get_ns() - r->shed_ns > SSLC_SHED_REST_NS)
		info->shed = 0;
	if (!info->shed && !ring_sheds(info->flow, fill))
		return false;
	shed(info);
	count(LOSS_SHED, n);
	return true;
}

static __always_inline void tell_bind(const struct sslc_conn_id *id, const struct conn *c)
{
	__u64 now = bpf_ktime_get_ns();
	struct sslc_ev_bind *ev = ring_reserve(c->flow, sizeof(*ev));

	if (!ev) {
		count(LOSS_RING_FULL_EVENT, 1);
		return;
	}
	ev->ev.type = SSLC_EV_BIND;
	ev->ev.size = sizeof(*ev);
	ev->ev.ts_ns = now;
	ev->ev.flow = c->flow;
	ev->conn = *id;
	ev->conn.life = c->life;
	ev->pos[0] = c->pos[0];
	ev->pos[1] = c->pos[1];
	ring_submit(c->flow, ev);
}

#define NO_RECORD 0u
#define BELIEVED  1u /* no content type is that small */

/*
 * Type of the TLS record that the operation that the thread is in begins with; NO_RECORD. Not every
 * socket that is used inside a TLS call carries it: callbacks ask session caches, directories and
 * responders. Kernel TLS (an upper layer protocol on the socket) takes plaintext, and only when
 * hands have been shaken; where memory cannot be found, the operation is believed.
 */
static __always_inline __u32 record_type(struct sock *sk)
{
	__u64 at = userbuf_first();
	__u8 h[8] = {};

	if (BPF_CORE_READ((struct inet_connection_sock *)sk, icsk_ulp_ops))
		return TLS_APPLICATION;
	if (!at)
		return BELIEVED;
	return !bpf_probe_read_user(h, TLS_HEADER, (void *)at) && is_record(h) ? h[0] : NO_RECORD;
}

/* DTLS and QUIC are not mirrored: there is no connection that their bytes could wait for. */
static __always_inline void bind_datagrams(__u64 ssl)
{
	struct sslc_conn_id id = conn_id_of(ssl);
	struct conn *c = conn_get(&id);

	if (c && !c->flow && !c->has_socket)
		c->datagrams = 1;
}

static __always_inline enum sslc_dir direction(enum sslc_call kind)
{
	return kind == SSLC_CALL_WRITE || kind == SSLC_CALL_WRITE_EX ||
			       kind == SSLC_CALL_WRITE_EX2 || kind == SSLC_CALL_SEND ||
			       kind == SSLC_CALL_SENDFILE || kind == SSLC_CALL_SEND_FILE ||
			       kind == SSLC_CALL_AROUND_OUT
		       ? SSLC_DIR_OUT
		       : SSLC_DIR_IN;
}

/* An object that did without a socket so far: its callbacks may use others', and only an operation
 * that goes the way of the call is its own. */
static __always_inline bool is_stranger(const struct conn *c, enum sslc_call kind,
					enum sslc_dir dir)
{
	return c->loose && !c->flow && (!sslc_call_moves(kind) || direction(kind) != dir);
}

/* From now on the object's bytes are the connection's; those before belong there, too. */
static __always_inline void join_socket(const struct sslc_conn_id *id, struct conn *c, __u64 key,
					const struct sock_info *info)
{
	c->sk = key;
	c->flow = info->flow;
	c->has_socket = 1;
	if (c->pos[0] | c->pos[1]) {
		tell_bind(id, c);
		c->pos[0] = c->pos[1] = 0;
	}
}

/*
 * The object of a call on the thread's stack uses this socket. One that is bound elsewhere or
 * nowhere is bound here when a record begins: every flight begins with one. False: it is not its
 * socket.
 */
static __always_inline bool bind_call(struct sock *sk, const struct call *call, enum sslc_dir dir,
				      __u32 moved)
{
	struct sslc_conn_id id = conn_id_of(call->ssl);
	struct conn *c = conn_get(&id);
	struct sock_info *info;
	__u64 key = (__u64)sk;
	__u32 type, late = 0;
	bool is_bound;

	if (!c || c->excluded)
		return true;
	if (is_stranger(c, call->kind, dir))
		return false;
	if (!moved) {
		c->has_socket = 1;
		return true;
	}
	is_bound = c->sk == key && c->flow;
	if (!is_bound) {
		type = record_type(sk);
		if (type == NO_RECORD)
			return true;
		if (type != TLS_HANDSHAKE && type != BELIEVED) /* each connection begins with one */
			late = SSLC_OPEN_LATE;
	}
	c->has_socket = 1;
	c->datagrams = 0; /* those before were a look-up of the name */
	info = sock_info_get(sk, &id, late);
	if (info)
		take_socket(info, &id);
	if (!info || (is_bound && c->flow == info->flow))
		return true;
	info->file[0] = info->file[1] = call->file;
	join_socket(&id, c, key, info);
	return true;
}

/* A process that began then got a copy of the object that has the socket. */
static __always_inline bool has_copy(const struct sock_info *info, __u64 start_ns)
{
	return start_ns >= info->since_ns && (!info->until_ns || start_ns <= info->until_ns);
}

/*
 * A process uses a socket outside of all calls that are probed, and an object of another one has
 * it, or had. Where the process was made from that one meanwhile (fork), its copy of the object
 * uses the socket now, if a record begins. An equal address alone would prove nothing: servers'
 * children have one object after the other there. Returns whether an object of the process has the
 * socket. Global, for a stack frame of its own.
 */
__noinline int inherit(__u64 key)
{
	struct sock_info *info = bpf_map_lookup_elem(&socks, &key);
	struct sslc_conn_id id;
	struct wire *w;
	struct conn *c;

	if (!info)
		return 0;
	id = conn_id_of(info->ssl);
	c = bpf_map_lookup_elem(&conns, &id);
	if (!c || c->sk != key || c->flow != info->flow) { /* else they take turns */
		if (!has_copy(info, id.start_ns) || record_type((struct sock *)key) <= BELIEVED)
			return 0;
		c = conn_get(&id);
		if (!c || c->excluded || c->flow || c->loose)
			return 0;
		join_socket(&id, c, key, info);
	}
	info->until_ns = 0;
	info->bound = id.tgid;
	w = bpf_map_lookup_elem(&wires, &key);
	if (w) {
		w->state = WIRE_BOUND;
		w->tgid = id.tgid;
	}
	return 1;
}

#endif
