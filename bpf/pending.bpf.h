/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * pending: bytes of a gnutls_record_send() that was interrupted (GNUTLS_E_AGAIN, _INTERRUPTED). The
 * library has made a record of them already, and the call that sends its rest need not give them
 * again: (NULL, 0) will do, and the program's memory may be gone by then. So they are copied when
 * the interrupted call returns, and told when one succeeds; how many they were, only that one says.
 */
#ifndef SSLC_BPF_PENDING_H
#define SSLC_BPF_PENDING_H

#define PENDINGS_MAX 256 /* 4 MiB: connections whose socket is full at the same moment */

/* conn.pending */
enum { PENDING_NONE, PENDING_KEPT, PENDING_LOST };

struct pending {
	__u32 len;
	__u32 pad;
	__u8 data[CHUNK_MAX]; /* the library makes no more than one record of them */
};

/* Made when a send is interrupted, removed when one succeeds or with the object; the least recently
 * used go when the table is full. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, PENDINGS_MAX);
	__type(key, struct sslc_conn_id); /* life: 0 */
	__type(value, struct pending);
} pendings SEC(".maps");

/* Returns PENDING_…, for conn.pending. */
static __always_inline __u32 pending_keep(const struct sslc_conn_id *id, __u64 buf, __u64 len)
{
	static const struct pending empty;
	struct pending *p;
	__u64 n;

	bpf_map_update_elem(&pendings, id, &empty, BPF_ANY);
	p = bpf_map_lookup_elem(&pendings, id);
	if (!p)
		return PENDING_LOST;
	n = len < CHUNK_MAX ? len : CHUNK_MAX;
	p->len = n;
	barrier_var(n); /* the bound is checked where it is used: 5.10 forgets those of the stack */
	if (n > CHUNK_MAX || bpf_probe_read_user(p->data, n, (void *)buf)) {
		bpf_map_delete_elem(&pendings, id);
		return PENDING_LOST;
	}
	return PENDING_KEPT;
}

/* The event of what was kept; false when that is not all of e->left. */
static __always_inline bool pending_emit_kept(const struct emit *e, const struct sslc_conn_id *id)
{
	const struct pending *p = bpf_map_lookup_elem(&pendings, id);
	struct sslc_ev_data *ev;
	__u64 n = e->left;

	barrier_var(n);
	if (!p || p->len < e->left || n > CHUNK_MAX)
		return false;
	ev = ring_is_full(e->flow) ? NULL : ring_reserve(e->flow, sizeof(*ev) + CHUNK_MAX);
	if (!ev) {
		count(LOSS_RING_FULL, n);
		shed_conn(e->conn.ssl);
		return true;
	}
	fill_header(ev, e, n, sizeof(*ev) + CHUNK_MAX);
	barrier_var(n);
	if (n > CHUNK_MAX || bpf_probe_read_kernel(ev->data, n, p->data)) {
		bpf_ringbuf_discard(ev, BPF_RB_NO_WAKEUP);
		return false;
	}
	ring_submit(e->flow, ev);
	return true;
}

/* True: told, or lost. False: e->buf has them, as in any other call. */
static __always_inline bool pending_emit(const struct emit *e)
{
	struct sslc_conn_id id = e->conn;
	bool told;

	if (!e->pending)
		return false;
	id.life = 0;
	told = e->pending == PENDING_KEPT && pending_emit_kept(e, &id);
	bpf_map_delete_elem(&pendings, &id);
	if (told)
		return true;
	if (e->buf)
		return false;
	count(LOSS_PENDING, e->left); /* the next event's position shows the hole */
	return true;
}

static __always_inline void emit_sent(struct emit *e)
{
	if (!pending_emit(e))
		emit_loop(e);
}

static __always_inline void emit_sent_bounded(struct emit *e)
{
	if (!pending_emit(e))
		emit_bounded(e);
}

#endif
