/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * wire: socket operations outside of any TLS call. They show what stands on a connection before TLS
 * begins on it (STARTTLS, CONNECT), that TLS is spoken at all where no probe sees it, and, for
 * objects without a socket of their own (memory BIOs), which connection their records went through.
 *
 * Each TCP connection is judged at its first operation. Plain ones cost a table lookup from then
 * on.
 */
#ifndef SSLC_BPF_WIRE_H
#define SSLC_BPF_WIRE_H

#define CLEAR_MAX  16384u /* bytes before TLS that are kept, per direction */
#define WIRE_STEPS 240    /* of op_track() in one operation: six a record */
#define UNTOLD_MAX 64     /* more than handshakes and what programs do before the first TLS call */

/* One operation while it is looked at, by pid_tgid: too large for the stack. */
struct op {
	struct userbuf u;
	struct emit e;
	struct sslc_ev_wire ev;
	__u64 sk;
	__u32 n, off, dir, pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct op);
} ops SEC(".maps");

static const struct op no_op;

/* Set by the agent before load. */
const volatile __u32 wire_clear = 1; /* tell the bytes before TLS */

/* How requests begin that no TLS follows; CONNECT is not among them. */
static __always_inline bool is_plain_http(const __u8 *h)
{
	__u32 w = h[0] << 24 | h[1] << 16 | h[2] << 8 | h[3];

	return w == 0x47455420 /* "GET " */ || w == 0x504f5354 /* "POST" */ ||
	       w == 0x48454144 /* "HEAD" */ || w == 0x50555420 /* "PUT " */ ||
	       w == 0x44454c45 /* "DELE" */ || w == 0x4f505449 /* "OPTI" */ ||
	       w == 0x50415443 /* "PATC" */ || w == 0x50524920 /* "PRI " */ ||
	       w == 0x5353482d /* "SSH-" */;
}

/* --- one operation ------------------------------------------------------------------------------
 */

/* Append a finished record to the event. */
static __always_inline void push_record(struct sslc_ev_wire *ev, const struct wire *w, __u32 dir)
{
	__u32 i = ev->n_rec;

	if (i >= SSLC_WIRE_RECORDS) {
		ev->flags |= SSLC_WIRE_MORE;
		return;
	}
	ev->rec[i].len = w->len[dir & 1];
	ev->rec[i].type = w->type[dir & 1];
	ev->n_rec = i + 1;
}

static __always_inline void take_header(struct wire *w, __u32 d, struct sslc_ev_wire *ev)
{
	w->have[d] = 0;
	if (!is_record(w->header[d])) {
		w->lost[d] = 1;
		return;
	}
	w->type[d] = w->header[d][0];
	w->len[d] = w->header[d][3] << 8 | w->header[d][4];
	w->left[d] = w->len[d];
}

/*
 * Follow the records of the operation for one step: up to the end of a record, of a header or of a
 * buffer. 0: go on. Global, so that the verifier looks at it once and not for each round.
 */
__noinline int op_track(__u32 round)
{
	__u64 tid = bpf_get_current_pid_tgid(), follow = 0, at;
	struct op *o = bpf_map_lookup_elem(&ops, &tid);
	struct wire *w;
	__u32 d, n, have;

	if (!o || round >= WIRE_STEPS)
		return 1;
	w = bpf_map_lookup_elem(&wires, &o->sk);
	d = o->dir & 1;
	if (!w || w->lost[d] || o->off >= o->n)
		return 1;
	if (w->left[d]) {
		n = o->n - o->off < w->left[d] ? o->n - o->off : w->left[d];
		w->left[d] -= n;
		o->off += n;
		if (!w->left[d])
			push_record(&o->ev, w, d);
		return 0;
	}
	at = userbuf_at(&o->u, o->off, &follow);
	have = w->have[d];
	if (!at || have >= TLS_HEADER) {
		w->lost[d] = 1;
		return 1;
	}
	if (bpf_probe_read_user(&w->header[d][have], 1, (void *)at)) {
		w->lost[d] = 1;
		return 1;
	}
	w->have[d] = have + 1;
	o->off++;
	if (w->have[d] == TLS_HEADER)
		take_header(w, d, &o->ev);
	return 0;
}

/* Tell a plain operation's bytes, one buffer a round. */
__noinline int op_clear(__u32 round)
{
	__u64 tid = bpf_get_current_pid_tgid(), follow = 0;
	struct op *o = bpf_map_lookup_elem(&ops, &tid);
	__u32 n;

	if (!o || o->off >= o->n || round >= USERBUF_PARTS)
		return 1;
	o->e.buf = userbuf_at(&o->u, o->off, &follow);
	if (!o->e.buf)
		return 1;
	n = o->n - o->off;
	if (n > follow)
		n = follow;
	if (n > CLEAR_MAX)
		n = CLEAR_MAX;
	if (!n)
		return 1;
	o->e.left = n;
	emit_chunk(0, &o->e);
	o->off += n;
	return 0;
}

/* --- connections --------------------------------------------------------------------------------
 */

/* Bytes that the process had moved in this direction before this operation; false: unknown. */
static __always_inline bool op_position(struct sock *sk, __u32 dir, __u32 n, __u32 *before)
{
	struct tcp_sock *tp = (struct tcp_sock *)sk;
	struct isn isn;

	if (!read_isn(sk, &isn))
		return false;
	if (dir == SSLC_DIR_OUT)
		*before = BPF_CORE_READ(tp, write_seq) - isn.iss - 1 - n;
	else
		*before = BPF_CORE_READ(tp, copied_seq) - isn.irs - 1 - n;
	return true;
}

/* Whether nothing at all had moved before this operation. */
static __always_inline bool is_first_op(struct sock *sk, __u32 dir, __u32 n)
{
	__u32 here, there;

	return op_position(sk, dir, n, &here) && !here && op_position(sk, !dir, 0, &there) &&
	       !there;
}

/* flow: its number, if it has one already, or 0. */
static __always_inline struct wire *wire_make(struct sock *sk, __u64 key, const __u64 ident[2],
					      __u64 flow, bool from_start)
{
	struct wire fresh = {.state = from_start ? WIRE_CLEAR : WIRE_OTHER};

	fresh.ident[0] = ident[0];
	fresh.ident[1] = ident[1];
	fresh.flow = flow ? flow : next_flow();
	if (is_self())
		fresh.state = WIRE_OTHER;
	bpf_map_update_elem(&wires, &key, &fresh, BPF_ANY);
	return bpf_map_lookup_elem(&wires, &key);
}

/* TLS begins here, as far as the wire shows. late: SSLC_OPEN_LATE or 0. */
static __always_inline void wire_is_tls(struct sock *sk, struct wire *w, __u32 late)
{
	if (!sock_info_get(sk, NULL, late))
		return;
	w->state = WIRE_TLS;
	w->left[0] = w->left[1] = 0;
	w->have[0] = w->have[1] = 0;
	w->lost[0] = w->lost[1] = 0;
	w->missed[0] = w->missed[1] = 0;
}

static __always_inline void wire_is_other(struct wire *w)
{
	w->state = WIRE_OTHER;
	if (w->told)
		tell_sock(w->flow, SSLC_SOCK_DESTROYED);
	w->told = 0;
}

static __always_inline void tell_clear(struct wire *w, struct op *o, __u32 pos)
{
	w->told = 1;
	o->e.type = SSLC_EV_CLEAR;
	o->e.ts_ns = bpf_ktime_get_ns();
	o->e.flow = w->flow;
	o->e.pos = pos;
	o->e.dir = o->dir & 1;
	o->e.tid = (__u32)bpf_get_current_pid_tgid();
	o->e.conn = conn_id_of(0);
	for (__u32 i = 0; i < USERBUF_PARTS; i++)
		if (op_clear(i))
			break;
}

/* The agent learns that bytes are missing by one at a place where none can be. */
static __always_inline void clear_too_long(struct wire *w, struct op *o)
{
	w->state = WIRE_OTHER;
	o->n = 1;
	if (wire_clear)
		tell_clear(w, o, CLEAR_MAX);
}

static __always_inline void clear_op(struct sock *sk, struct wire *w, struct op *o, const __u8 *h)
{
	__u32 d = o->dir & 1;

	if (is_hello(h)) {
		wire_is_tls(sk, w, 0);
	} else if (!w->pos[d] && is_plain_http(h)) {
		wire_is_other(w);
	} else if (w->pos[d] + o->n > CLEAR_MAX) {
		clear_too_long(w, o);
	} else {
		if (wire_clear)
			tell_clear(w, o, w->pos[d]);
		w->pos[d] += o->n;
	}
}

static __always_inline void tell_wire(const struct wire *w, struct op *o)
{
	__u64 tid = bpf_get_current_pid_tgid();
	struct calls *cs = bpf_map_lookup_elem(&calls, &tid);

	o->ev.ev.type = SSLC_EV_WIRE;
	o->ev.ev.size = sizeof(o->ev);
	o->ev.ev.ts_ns = bpf_ktime_get_ns();
	o->ev.ev.flow = w->flow;
	o->ev.tgid = tid >> 32;
	o->ev.tid = (__u32)tid;
	o->ev.len = o->n;
	o->ev.dir = o->dir;
	if (w->lost[o->dir & 1])
		o->ev.flags |= SSLC_WIRE_UNKNOWN;
	if (cs)
		o->ev.seq = next_seq(cs);
	if (ring_output(0, &o->ev, sizeof(o->ev)))
		count(LOSS_RING_FULL_EVENT, 1);
}

/* Each operation of a TLS connection is followed, so that its records are known when needed. */
static __always_inline void tls_op(struct wire *w, struct op *o, const __u8 *h, bool loose)
{
	__u32 d = o->dir & 1;

	if (w->lost[d] && is_record(h)) { /* most operations begin with a record */
		w->lost[d] = 0;
		w->left[d] = w->have[d] = 0;
	}
	for (__u32 i = 0; i < WIRE_STEPS; i++)
		if (op_track(i))
			break;
	if (o->off < o->n)
		w->lost[d] = 1;
	if (loose && w->missed[d])
		o->ev.flags |= SSLC_WIRE_MISSED;
	w->missed[d] = !loose;
	w->untold = loose ? 0 : w->untold + 1;
	if (loose)
		tell_wire(w, o);
}

static __always_inline void wire_op_buffer(struct sock *sk, struct wire *w, struct op *o,
					   bool loose, bool is_new)
{
	__u64 follow = 0, at;
	__u8 h[8] = {};

	if (!userbuf_find(&o->u)) {
		count(LOSS_WIRE_UNREADABLE, 1);
		wire_is_other(w);
		return;
	}
	at = userbuf_at(&o->u, 0, &follow);
	if (at) /* what stands behind a short operation is not its own: the length is checked */
		bpf_probe_read_user(h, TLS_HEADER + 1, (void *)at);
	if (o->n <= TLS_HEADER)
		h[0] = 0;
	if (w->state == WIRE_CLEAR)
		clear_op(sk, w, o, h);
	else if (w->state == WIRE_OTHER && (loose || is_new) && is_record(h) &&
		 (h[0] == TLS_APPLICATION || is_hello(h)))
		wire_is_tls(sk, w, h[0] == TLS_APPLICATION ? SSLC_OPEN_LATE : 0);
	if (w->state == WIRE_TLS)
		tls_op(w, o, h, loose);
}

/* The connection is over. */
static __always_inline void wire_end(__u64 key)
{
	struct wire *w = bpf_map_lookup_elem(&wires, &key);

	settled_ends(key);
	if (!w)
		return;
	wire_is_other(w);
	bpf_map_delete_elem(&wires, &key);
}

static __always_inline bool is_same(const struct wire *w, const __u64 ident[2])
{
	return w->ident[0] == ident[0] && w->ident[1] == ident[1];
}

/* What wire_find() says of an operation; 0: it matters to nobody. */
enum wire_found {
	WIRE_FOUND = 1,
	WIRE_NEW = 2,     /* the first on the connection */
	WIRE_FOREIGN = 4, /* an object of another process has it, or had */
};

static __always_inline const struct sock_info *sock_info_of(__u64 key, const __u64 ident[2])
{
	const struct sock_info *info = bpf_map_lookup_elem(&socks, &key);

	return info && info->ident[0] == ident[0] && info->ident[1] == ident[1] ? info : NULL;
}

static __always_inline bool is_bound_by(const struct wire *w, __u64 tid)
{
	return w->state == WIRE_BOUND && w->tgid == tid >> 32;
}

/* Its object is gone, and another process may have a copy. */
static __always_inline bool is_left_by_other(const struct wire *w)
{
	return w->state == WIRE_OTHER && w->tgid && w->tgid != bpf_get_current_pid_tgid() >> 32;
}

/* Bound by a process, and used by another that has no copy of its object: its records are followed
 * from the next one on, for an object that has not been met yet. */
static __always_inline void wire_follow_again(struct wire *w)
{
	w->state = WIRE_TLS;
	w->left[0] = w->left[1] = 0;
	w->have[0] = w->have[1] = 0;
	w->lost[0] = w->lost[1] = 1;
	w->missed[0] = w->missed[1] = 1;
	w->untold = 0;
}

/*
 * Whether this operation outside of TLS calls matters to nobody. So are those of TLS that is not
 * captured, once enough have passed: following them would cost programs for nothing. Should a
 * thread with memory BIOs take the connection up after all, it begins anew at a record.
 */
static __always_inline bool is_settled(struct sock *sk, bool typed, __u32 how, bool loose)
{
	__u64 key = (__u64)sk;
	struct wire *w = bpf_map_lookup_elem(&wires, &key);
	__u32 dir = how & OP_DIR;

	if (!w || w->state == WIRE_CLEAR)
		return false;
	if (w->state == WIRE_BOUND) {
		__u64 tid = bpf_get_current_pid_tgid();

		if (!is_bound_by(w, tid))
			return false;
		if (typed && how & OP_NOTES)
			settled_begins(sk, tid);
		return true;
	}
	if (loose || (w->state == WIRE_TLS && w->untold < UNTOLD_MAX) || is_left_by_other(w))
		return false;
	if (w->state == WIRE_TLS)
		w->lost[dir & 1] = w->missed[dir & 1] = 1;
	return true;
}

/*
 * The connection of a send or receive of n bytes outside of TLS calls, on struct sock * key, which
 * is TCP and not settled; how: OP_…. Returns enum wire_found, as a set. Global, and so of scalars,
 * for a stack frame of its own.
 */
__noinline int wire_find(__u64 key, __u32 how, __u32 n)
{
	struct sock *sk = (struct sock *)key;
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct wire *w = bpf_map_lookup_elem(&wires, &key);
	const struct sock_info *info;
	int found = WIRE_FOUND;
	__u64 ident[2];

	sock_ident(sk, ident);
	if (w && !is_same(w, ident)) {
		wire_end(key);
		w = NULL;
	}
	info = sock_info_of(key, ident);
	if (!w) {
		w = wire_make(sk, key, ident, info ? info->flow : 0,
			      is_first_op(sk, how & OP_DIR, n));
		found |= WIRE_NEW;
	}
	if (!w)
		return 0;
	if (info && info->bound == tgid) { /* its calls are not all probed, or were not */
		w->state = WIRE_BOUND;
		w->tgid = tgid;
		return 0;
	}
	return info && info->ssl ? found | WIRE_FOREIGN : found;
}

/* The operation, on a connection that no object of the process has; how: with OP_NEW for WIRE_NEW.
 * Global as well. */
__noinline int wire_op(__u64 key, __u32 how, __u32 n)
{
	__u64 tid = bpf_get_current_pid_tgid();
	struct wire *w = bpf_map_lookup_elem(&wires, &key);
	struct op *o;

	if (!w || bpf_map_update_elem(&ops, &tid, &no_op, BPF_ANY))
		return 0;
	if (w->state == WIRE_BOUND)
		wire_follow_again(w);
	else if (is_left_by_other(w))
		w->tgid = 0;
	o = bpf_map_lookup_elem(&ops, &tid);
	if (o) {
		o->sk = key;
		o->n = n;
		o->dir = how & OP_DIR;
		wire_op_buffer((struct sock *)key, w, o, how & OP_LOOSE, how & OP_NEW);
		bpf_map_delete_elem(&ops, &tid);
	}
	return 0;
}

#endif
