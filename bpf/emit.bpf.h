/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * emit: bytes of a returned TLS call → data events of a few sizes. Never waits; what does not fit
 * is counted, and its position is skipped so that the agent sees a hole of exact size.
 */
#ifndef SSLC_BPF_EMIT_H
#define SSLC_BPF_EMIT_H

#define CHUNK_MAX      16384u /* one TLS record's plaintext (RFC 8446, 5.1) */
#define CHUNK_SMALL    448u
#define CHUNK_MID      4096u
#define CHUNKS_MAX     8192u /* 128 MiB in one call, with bpf_loop() */
#define CHUNKS_MAX_OLD 2048u /* 32 MiB before 5.17 */

struct emit {
	struct sslc_conn_id conn;
	__u64 ts_ns, flow, pos, buf;
	__u64 left; /* bytes not emitted yet */
	__u32 tid;
	__u32 dir;
	__u32 type;  /* SSLC_EV_DATA or SSLC_EV_CLEAR */
	__u32 flags; /* of struct sslc_ev_data, for each event */
	__u32 seq;
	__u32 pending; /* conn.pending as it was */
	__u32 pad;
};

/* What emit_bounded() is at, by pid_tgid; only before 5.17. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct emit);
} emits SEC(".maps");

static __always_inline void fill_header(struct sslc_ev_data *ev, const struct emit *e, __u32 n,
					__u32 size)
{
	ev->ev.type = e->type;
	ev->ev.size = size;
	ev->ev.ts_ns = e->ts_ns;
	ev->ev.flow = e->flow;
	ev->conn = e->conn;
	ev->pos = e->pos;
	ev->tid = e->tid;
	ev->len = n;
	ev->dir = e->dir;
	ev->flags = e->flags | (e->left == n ? SSLC_DATA_END : 0);
	ev->seq = e->seq;
	__builtin_memset(ev->pad, 0, sizeof(ev->pad));
}

/* One event with room for ROOM bytes; the reserve size must be a constant before 5.19's dynptr. */
#define EMIT_ROOM(ROOM)                                                                            \
	static __always_inline void emit_##ROOM(const struct emit *e, __u32 n)                     \
	{                                                                                          \
		struct sslc_ev_data *ev = bpf_ringbuf_reserve(&events, sizeof(*ev) + (ROOM), 0);   \
		if (!ev) {                                                                         \
			count(LOSS_RING_FULL, n);                                                  \
			return;                                                                    \
		}                                                                                  \
		fill_header(ev, e, n, sizeof(*ev) + (ROOM));                                       \
		if (bpf_probe_read_user(ev->data, n <= (ROOM) ? n : (ROOM), (void *)e->buf)) {     \
			count(LOSS_FAULT, n);                                                      \
			bpf_ringbuf_discard(ev, 0);                                                \
			return;                                                                    \
		}                                                                                  \
		bpf_ringbuf_submit(ev, 0);                                                         \
	}
EMIT_ROOM(CHUNK_SMALL)
EMIT_ROOM(CHUNK_MID)
EMIT_ROOM(CHUNK_MAX)

static long emit_chunk(__u32 i, struct emit *e)
{
	__u32 n = e->left < CHUNK_MAX ? e->left : CHUNK_MAX;

	(void)i;
	if (!n)
		return 1; /* stop */
	if (n <= CHUNK_SMALL)
		emit_CHUNK_SMALL(e, n);
	else if (n <= CHUNK_MID)
		emit_CHUNK_MID(e, n);
	else
		emit_CHUNK_MAX(e, n);
	e->buf += n;
	e->pos += n;
	e->left -= n;
	return 0;
}

/* Two ways round the same loop: programs that use bpf_loop() do not load before 5.17. */
static __always_inline void emit_loop(struct emit *e)
{
	bpf_loop(CHUNKS_MAX, emit_chunk, e, 0);
	if (e->left)
		count(LOSS_CALL_TOO_LONG, e->left);
}

/* Global, so that the verifier looks at it once and not for each round; then only scalars go in. */
__noinline int emit_stored(__u32 i)
{
	__u64 tid = bpf_get_current_pid_tgid();
	struct emit *e = bpf_map_lookup_elem(&emits, &tid);

	return e ? (int)emit_chunk(i, e) : 1;
}

static __always_inline void emit_bounded(struct emit *e)
{
	__u64 tid = bpf_get_current_pid_tgid();
	struct emit *stored;

	if (bpf_map_update_elem(&emits, &tid, e, BPF_ANY)) {
		count(LOSS_CALLS_FULL, 1);
		return;
	}
	for (__u32 i = 0; i < CHUNKS_MAX_OLD; i++)
		if (emit_stored(i))
			break;
	stored = bpf_map_lookup_elem(&emits, &tid);
	if (stored && stored->left)
		count(LOSS_CALL_TOO_LONG, stored->left);
	bpf_map_delete_elem(&emits, &tid);
}

/* Bytes that moved past the process's memory: only how many, and where they stand. */
static __always_inline void emit_gap(const struct emit *e)
{
	struct sslc_ev_gap *ev = bpf_ringbuf_reserve(&events, sizeof(*ev), 0);

	if (!ev) { /* the next event's position shows the hole all the same */
		count(LOSS_RING_FULL, e->left);
		return;
	}
	__builtin_memset(ev, 0, sizeof(*ev));
	ev->ev.type = SSLC_EV_GAP;
	ev->ev.size = sizeof(*ev);
	ev->ev.ts_ns = e->ts_ns;
	ev->ev.flow = e->flow;
	ev->conn = e->conn;
	ev->pos = e->pos;
	ev->len = e->left;
	ev->tid = e->tid;
	ev->dir = e->dir;
	bpf_ringbuf_submit(ev, 0);
}

static __always_inline void emit_nothing(const struct emit *e)
{
	(void)e;
}

#endif
