/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* maps: what the programs remember, who creates an entry and who removes it. */
#ifndef SSLC_BPF_MAPS_H
#define SSLC_BPF_MAPS_H

/* Every way in which a byte can be missed here; agent/capture_bpf.c names them for people. */
enum loss {
	LOSS_RING_FULL,       /* bytes: no room in the ring buffer */
	LOSS_RING_FULL_EVENT, /* events other than data */
	LOSS_FAULT,           /* bytes: the buffer could not be read */
	LOSS_CALLS_FULL,      /* calls: table of threads inside a TLS call is full */
	LOSS_CONNS_FULL,      /* calls: table of TLS objects */
	LOSS_SOCKS_FULL,      /* connections: table of sockets */
	LOSS_TOO_DEEP,        /* calls nested deeper than CALL_DEPTH */
	LOSS_CALL_TOO_LONG,   /* bytes of one call beyond what this kernel's program can copy */
	LOSS_LATE,            /* bytes: read after the socket was gone */
	LOSS_STALE_SOCK,      /* connections whose end was missed, noticed by the next one */
	LOSS_WIRE_UNREADABLE, /* socket operations outside TLS calls whose memory is not known */
	LOSS_NO_ENTRY,        /* calls of Go programs that returned without having been entered */
	LOSS_UNSENT,          /* bytes that Go programs wrote to connections that broke meanwhile */
	LOSS_PENDING,         /* bytes of an interrupted send that could not be kept */
	LOSS_DATAGRAMS,       /* bytes: DTLS, QUIC */
	LOSS_SHED,            /* bytes of connections given up while the ring was filling */
	LOSS_SHED_FLOWS,      /* how many */
	LOSS_SECOND,          /* none: socket operations that the second program had to look at */
	LOSS_MAX,
};

#define MAX_CONNS 65536
#define MAX_SOCKS 65536

/* A TLS object. Made when first seen, removed when freed or given another transport; the oldest go
 * when the table is full. */
struct conn {
	__u64 sk; /* struct sock *, as a number; 0: not bound yet */
	__u64 flow;
	__u64 pos[2];     /* bytes seen while not bound, by enum sslc_dir */
	__u16 excluded;   /* belongs to this program itself */
	__u16 has_socket; /* its calls use TCP sockets themselves */
	__u32 life;       /* goes into the events' sslc_conn_id; the map's key has 0 there */
	__u32 early;      /* EARLY_… */
	__u32 pending;    /* PENDING_…: a send was interrupted */
	__u32 datagrams;  /* its calls use UDP sockets, and no TCP socket so far */
	__u32 loose;      /* one of its calls ended without using a socket: memory BIOs? */
	/* Flows on which calls of this object contained such of another one, or the reverse. */
	__u64 contains, carries;
};

/* conn.early */
#define EARLY_SENT   1u /* 0-RTT data were written, and their acceptance was not told yet */
#define EARLY_SERVER 2u /* it reads them: what it writes early is ordinary data */

/* A TCP socket that carries TLS. Made by the first nested operation, removed by tcp_destroy_sock.
 */
struct sock_info {
	__u64 flow;
	__u64 pos[2];   /* bytes seen, by enum sslc_dir */
	__u64 ident[2]; /* of its connection: see sock_ident() */
	__u64 began[2]; /* sock_moved() before its first TLS record, by enum sslc_dir */
	__u64 ended[2]; /* and when it was closed: disconnecting sets the counters back */
	__u8 counted;   /* those are known */
	__u8 eof;       /* end of stream told already */
	__u8 announced;
	__u8 shed;     /* its bytes are not told for now: see proto/ring.h */
	__u8 cut;      /* some were not told: their end is, with the connection's */
	__u8 skipped;  /* the agent does not want it */
	__u16 file[2]; /* number of the probed file by whose calls bytes were told last */
	__u16 pad;
	__u32 told;  /* 1 << enum sslc_sock_what */
	__u32 skips; /* as the variable was when `skipped` was last looked at */
	__u32 bound; /* process whose object has it, and lives; 0: none */
	__u32 ahead; /* bytes of its last record, if that was given up; or 0 */
	/* The object that has it, or had it last, and since and until when (0: it has it still), on
	 * the clock of start_ns: processes made meanwhile have a copy. */
	__u64 ssl, since_ns, until_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_CALLS);
	__type(key, __u64); /* pid_tgid */
	__type(value, struct calls);
} calls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_CONNS);
	__type(key, struct sslc_conn_id);
	__type(value, struct conn);
} conns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SOCKS);
	__type(key, __u64); /* struct sock * */
	__type(value, struct sock_info);
} socks SEC(".maps");

/* Flows that the agent does not want: written by the agent, removed with the socket. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_SOCKS);
	__type(key, __u64); /* flow */
	__type(value, __u8);
} skipped SEC(".maps");

/* How often the agent has written there: a connection looks again when it did. */
volatile __u32 skips = 0;

/* Processes whose TLS calls the preloaded library tells: written by the agent. */
#define MAX_SERVED 8192

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SERVED);
	__type(key, __u32); /* tgid */
	__type(value, __u8);
} served SEC(".maps");

__u32 n_served = 0;

static __always_inline bool is_served(void)
{
	__u32 tgid;

	if (!n_served)
		return false;
	tgid = bpf_get_current_pid_tgid() >> 32;
	return bpf_map_lookup_elem(&served, &tgid) != NULL;
}

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LOSS_MAX);
	__type(key, __u32);
	__type(value, __u64);
} losses SEC(".maps");

enum wire_state {
	WIRE_CLEAR = 1, /* seen from its first byte, no TLS on it yet */
	WIRE_TLS,       /* records were seen outside of TLS calls */
	WIRE_BOUND, /* a process' TLS calls use it: what it does outside of them does not matter */
	WIRE_OTHER, /* not TLS, or joined in its midst */
};

/* A TCP connection that was used outside of TLS calls. Made at its first such operation, removed by
 * tcp_destroy_sock; the least recently used go when the table is full. */
struct wire {
	__u64 flow;
	__u64 ident[2]; /* see sock_ident() */
	__u32 pos[2];   /* bytes while WIRE_CLEAR, by enum sslc_dir */
	__u32 state;    /* enum wire_state */
	__u32 told;     /* the agent knows the flow by its clear bytes */
	/* While WIRE_TLS, by enum sslc_dir: the record that has begun and not ended. */
	__u32 left[2];
	__u16 len[2];
	__u8 type[2];
	__u8 have[2];   /* bytes of a header that was cut */
	__u8 lost[2];   /* no record boundary is known */
	__u8 missed[2]; /* an operation was not told */
	__u8 header[2][8];
	__u32 untold; /* operations in a row that were followed for nobody */
	__u32 tgid;   /* while WIRE_BOUND: by whom; WIRE_OTHER: whose object has left it, 0: none */
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_SOCKS);
	__type(key, __u64); /* struct sock * */
	__type(value, struct wire);
} wires SEC(".maps");

/* A send or receive that a kprobe has entered and not yet left; only where kprobes are used. */
struct entered_op {
	__u64 sk;
	__u32 flags;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH); /* a thread killed inside never returns */
	__uint(max_entries, MAX_CALLS);
	__type(key, __u64); /* pid_tgid */
	__type(value, struct entered_op);
} entered SEC(".maps");

/*
 * The kernel does not run a program that is already running on the same CPU: what happens in a
 * softirq meanwhile, or, since Linux 7, in a thread that took the CPU over inside a tracepoint,
 * would be missed. Such a tracepoint therefore has two programs, which are called one after the
 * other: the second acts when the first was not run. A thread does nothing else between the two,
 * but for softirqs, whose events have other values.
 */
enum twin { TWIN_SEND, TWIN_RECV, TWIN_SET_STATE, TWIN_DESTROY };

struct twin_key {
	__u64 tid; /* pid_tgid; of a CPU's idle task its number, which no thread has */
	__u32 which;
	__u32 pad;
};

struct twin_event {
	__u64 sk;
	__u64 value; /* what else tells events of that kind apart */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH); /* the second program may be missed */
	__uint(max_entries, MAX_CALLS);
	__type(key, struct twin_key);
	__type(value, struct twin_event);
} twins SEC(".maps");

static __always_inline struct twin_key twin_key_of(enum twin which)
{
	struct twin_key key = {.tid = bpf_get_current_pid_tgid(), .which = which};

	if (!key.tid)
		key.tid = bpf_get_smp_processor_id() + 1;
	return key;
}

/* In the first program: whether to act. If it cannot be noted, the second one will. */
static __always_inline bool twin_takes(enum twin which, const void *sk, __u64 value)
{
	struct twin_key key = twin_key_of(which);
	struct twin_event ev = {.sk = (__u64)sk, .value = value};

	return !bpf_map_update_elem(&twins, &key, &ev, BPF_ANY);
}

/* In the second program: whether the first one was missed. */
static __always_inline bool twin_missed(enum twin which, const void *sk, __u64 value)
{
	struct twin_key key = twin_key_of(which);
	struct twin_event *ev = bpf_map_lookup_elem(&twins, &key);

	if (!ev || ev->sk != (__u64)sk || ev->value != value)
		return true;
	bpf_map_delete_elem(&twins, &key);
	return false;
}

/*
 * Since 6.13 programs may get a stack for each CPU instead of the thread's, and a probe placed by
 * uprobe_multi can be preempted by another thread that runs the same program: one overwrites the
 * other's. A program with a tail call in it keeps the thread's stack; it is never taken.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} nowhere SEC(".maps");

const volatile __u32 never = 0;

static __always_inline void keep_thread_stack(void *ctx)
{
	if (never)
		bpf_tail_call(ctx, &nowhere, 0);
}

/* This program's own identity, learnt by learn_self. */
__u32 self_tgid = 0;
__u64 self_inode = 0;

static __always_inline void count(enum loss what, __u64 n)
{
	__u32 key = what;
	__u64 *v = bpf_map_lookup_elem(&losses, &key);

	if (v)
		*v += n;
}

/*
 * Unique among living flows: the time in ns and the CPU (13 bits: NR_CPUS is at most 8192). Wraps
 * after 26 days, when an equal number would need the same nanosecond again. No atomic
 * fetch-and-add: 5.12.
 */
static __always_inline __u64 next_flow(void)
{
	return bpf_ktime_get_ns() << 13 | (bpf_get_smp_processor_id() & SSLC_FLOW_SOURCE);
}

/* The number of a thread's next event: see sslc_ev_wire. */
static __always_inline __u32 next_seq(struct calls *cs)
{
	cs->seq = cs->seq >= 255 ? 1 : cs->seq + 1;
	return cs->seq;
}

#endif
