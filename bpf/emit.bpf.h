/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * emit: bytes of a returned TLS call → data events of a few sizes, the smallest that fits. Never
 * waits; what does not fit is counted, and its position is skipped so that the agent sees a hole of
 * exact size.
 */
#ifndef SSLC_BPF_EMIT_H
#define SSLC_BPF_EMIT_H

#define CHUNK_MAX      16384u /* one TLS record's plaintext (RFC 8446, 5.1) */
#define CHUNKS_MAX     8192u  /* 128 MiB in one call, with bpf_loop() */
#define CHUNKS_MAX_OLD 2048u  /* 32 MiB before 5.17 */

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
	__u64 fill;    /* bytes in the ring just now; 0: not known */
};

/* The connection of a TLS object of this process has lost bytes: see sock.bpf.h. */
int shed_conn(__u64 ssl);

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
	static __always_inline void emit_##ROOM(const struct emit *e, void *map, __u32 n,          \
						__u64 fill)                                        \
	{                                                                                          \
		struct sslc_ev_data *ev = bpf_ringbuf_reserve(map, sizeof(*ev) + (ROOM), 0);       \
		if (!ev) {                                                                         \
			count(LOSS_RING_FULL, n);                                                  \
			shed_conn(e->conn.ssl);                                                    \
			return;                                                                    \
		}                                                                                  \
		fill_header(ev, e, n, sizeof(*ev) + (ROOM));                                       \
		if (bpf_probe_read_user(ev->data, n <= (ROOM) ? n : (ROOM), (void *)e->buf)) {     \
			count(LOSS_FAULT, n);                                                      \
			bpf_ringbuf_discard(ev, BPF_RB_NO_WAKEUP);                                 \
			return;                                                                    \
		}                                                                                  \
		bpf_ringbuf_submit(ev, ring_wake_at(e->flow, fill + sizeof(*ev) + (ROOM)));        \
	}
/* At most a third of an event's room is left unused, but for the shortest. */
EMIT_ROOM(64)
EMIT_ROOM(128)
EMIT_ROOM(256)
EMIT_ROOM(384)
EMIT_ROOM(512)
EMIT_ROOM(768)
EMIT_ROOM(1024)
EMIT_ROOM(1536)
EMIT_ROOM(2048)
EMIT_ROOM(3072)
EMIT_ROOM(4096)
EMIT_ROOM(6144)
EMIT_ROOM(8192)
EMIT_ROOM(12288)
EMIT_ROOM(16384)

static __always_inline void emit_short(const struct emit *e, void *map, __u32 n, __u64 fill)
{
	if (n <= 64)
		emit_64(e, map, n, fill);
	else if (n <= 128)
		emit_128(e, map, n, fill);
	else if (n <= 256)
		emit_256(e, map, n, fill);
	else if (n <= 384)
		emit_384(e, map, n, fill);
	else if (n <= 512)
		emit_512(e, map, n, fill);
	else if (n <= 768)
		emit_768(e, map, n, fill);
	else
		emit_1024(e, map, n, fill);
}

static __always_inline void emit_long(const struct emit *e, void *map, __u32 n, __u64 fill)
{
	if (n <= 1536)
		emit_1536(e, map, n, fill);
	else if (n <= 2048)
		emit_2048(e, map, n, fill);
	else if (n <= 3072)
		emit_3072(e, map, n, fill);
	else if (n <= 4096)
		emit_4096(e, map, n, fill);
	else if (n <= 6144)
		emit_6144(e, map, n, fill);
	else if (n <= 8192)
		emit_8192(e, map, n, fill);
	else if (n <= 12288)
		emit_12288(e, map, n, fill);
	else
		emit_16384(e, map, n, fill);
}

static __always_inline long emit_one(struct emit *e)
{
	__u32 n = e->left < CHUNK_MAX ? e->left : CHUNK_MAX;
	void *map = ring_map(e->flow);
	__u64 fill;

	if (!n || !map)
		return 1; /* stop */
	fill = e->fill ? e->fill : bpf_ringbuf_query(map, BPF_RB_AVAIL_DATA);
	e->fill = 0;
	if (ring_is_full_at(fill)) { /* nor for what is left of the call */
		count(LOSS_RING_FULL, e->left);
		shed_conn(e->conn.ssl);
		e->pos += e->left;
		e->left = 0;
		return 1;
	}
	if (n <= 1024)
		emit_short(e, map, n, fill);
	else
		emit_long(e, map, n, fill);
	e->buf += n;
	e->pos += n;
	e->left -= n;
	return 0;
}

static long emit_chunk(__u32 i, struct emit *e)
{
	(void)i;
	return emit_one(e);
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
	struct sslc_ev_gap *ev = ring_reserve(e->flow, sizeof(*ev));

	if (!ev) { /* the next event's position shows the hole all the same */
		count(LOSS_RING_FULL, e->left);
		shed_conn(e->conn.ssl);
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
	ring_submit(e->flow, ev);
}

static __always_inline void emit_nothing(const struct emit *e)
{
	(void)e;
}

#endif
