/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause OR Apache-2.0 */
/*
 * event: what a capture source tells the agent. Host-local, native byte order; the only header that
 * bpf/, preload/ and agent/ share. Needs __u8 .. __u64, __s32 from <linux/types.h> or bpf/types.h.
 */
#ifndef SSLC_EVENT_H
#define SSLC_EVENT_H

enum sslc_event_type {
	SSLC_EV_OPEN =
		1, /* struct sslc_ev_open: a TCP connection carries TLS, its tuple is known */
	SSLC_EV_DATA = 2,  /* struct sslc_ev_data: plaintext */
	SSLC_EV_BIND = 3,  /* struct sslc_ev_bind: a TLS object now belongs to that connection */
	SSLC_EV_SOCK = 4,  /* struct sslc_ev_sock: the connection's TCP state changed */
	SSLC_EV_GAP = 5,   /* struct sslc_ev_gap: plaintext that moved where nobody can copy it */
	SSLC_EV_EARLY = 6, /* struct sslc_ev_early: what became of this client's 0-RTT data */
	SSLC_EV_CLEAR = 7, /* struct sslc_ev_data: bytes of a connection before TLS began on it */
	SSLC_EV_CALL =
		8, /* struct sslc_ev_call: a TLS call that moved nothing, by an unbound object */
	SSLC_EV_WIRE = 9, /* struct sslc_ev_wire: TLS records that a thread sent or received */
	SSLC_EV_LOST =
		10, /* struct sslc_ev_lost: plaintext that was lost and is not followed by any */
};

/* Seen from the captured process. */
enum sslc_dir { SSLC_DIR_IN = 0, SSLC_DIR_OUT = 1 };

/*
 * What a probed function does, by where it says how many bytes it moved. Between agent and bpf/ it
 * is the cookie of a probe.
 */
enum sslc_call {
	SSLC_CALL_READ = 0,    /* int returned: SSL_read */
	SSLC_CALL_READ_EX = 1, /* *arg4, when 1 is returned */
	SSLC_CALL_WRITE = 2,
	SSLC_CALL_WRITE_EX = 3,
	SSLC_CALL_RECV = 4, /* ssize_t returned: gnutls_record_recv */
	SSLC_CALL_SEND = 5,
	SSLC_CALL_BIND = 6, /* moves no plaintext, but its socket operations bind the object */
	SSLC_CALL_FORGET =
		7, /* the object ends, or gets another transport; only its entry is probed */
	SSLC_CALL_WRITE_EX2 = 8, /* *arg5, when 1 is returned: flags come before it */
	SSLC_CALL_SENDFILE = 9, /* ssize_t returned; the bytes were never in the process's memory */
	SSLC_CALL_EARLY_WRITE = 10,  /* what a client writes inside it is 0-RTT data */
	SSLC_CALL_EARLY_READ = 11,   /* its object is a server's */
	SSLC_CALL_EARLY_STATUS = 12, /* int returned: 1 rejected, 2 accepted */
	SSLC_CALL_READ_FLAGS = 13,   /* int returned; arg4 has flags: NSS */
	/* GnuTLS */
	SSLC_CALL_SESSION_FLAGS = 14, /* unsigned returned: whether 0-RTT data were taken */
	SSLC_CALL_UNCORK = 15,        /* what is sent inside was told when it was given */
	SSLC_CALL_SEND_FILE = 16,     /* ssize_t returned: sends inside it, or past the process */
	SSLC_CALL_RECV_PACKET = 17, /* ssize_t returned; *arg2 is a structure that has the bytes */
	SSLC_CALL_RECV_TYPED = 18,  /* int returned: (session, record type, buffer, length) */
	/* crypto/tls of Go, with arguments and results in registers (since 1.17; arm64: 1.18) */
	SSLC_CALL_GO_READ = 19,  /* (*Conn).Read(p): count returned */
	SSLC_CALL_GO_WRITE = 20, /* (*Conn).writeRecordLocked(type, data), by each Write */
	SSLC_CALL_GO_BIND = 21,  /* the handshake, client's or server's: the object is new */
	/* the same on the stack */
	SSLC_CALL_GO_OLD_READ = 22,
	SSLC_CALL_GO_OLD_WRITE = 23,
	SSLC_CALL_GO_OLD_BIND = 24,
	/* instructions of OpenSSL that each record's plaintext passes: see SSLC_SOURCE_… */
	SSLC_CALL_RECORD_IN = 25,
	SSLC_CALL_RECORD_OUT = 26,
	/* a read or write around them: what moved is what they left to it */
	SSLC_CALL_AROUND_IN = 27,
	SSLC_CALL_AROUND_OUT = 28,
	/* as RECORD_OUT, but one record or several at once */
	SSLC_CALL_BATCH_OUT = 29,
	SSLC_CALL_KINDS = 30,
};

/*
 * Where a value is at such an instruction, 8 bits each. The cookie of its probe has, from bit 8 on,
 * those of the plaintext's address, its length, the object, and of a value whose lower 32 bits are
 * 23 (TLS: application data) when it is plaintext.
 */
#define SSLC_SOURCE_SLOT                                                                           \
	16u /* from here on words of the stack, the stack pointer's own first; below:              \
	     * general registers, as instructions number them */
#define SSLC_SOURCE_NONE 255u

/* Whether such a call moves plaintext. */
static inline int sslc_call_moves(enum sslc_call call)
{
	switch (call) {
	case SSLC_CALL_READ:
	case SSLC_CALL_READ_EX:
	case SSLC_CALL_READ_FLAGS:
	case SSLC_CALL_WRITE:
	case SSLC_CALL_WRITE_EX:
	case SSLC_CALL_WRITE_EX2:
	case SSLC_CALL_SENDFILE:
	case SSLC_CALL_RECV:
	case SSLC_CALL_SEND:
	case SSLC_CALL_SEND_FILE:
	case SSLC_CALL_RECV_PACKET:
	case SSLC_CALL_RECV_TYPED:
	case SSLC_CALL_GO_READ:
	case SSLC_CALL_GO_WRITE:
	case SSLC_CALL_GO_OLD_READ:
	case SSLC_CALL_GO_OLD_WRITE:
	case SSLC_CALL_RECORD_IN:
	case SSLC_CALL_RECORD_OUT:
	case SSLC_CALL_AROUND_IN:
	case SSLC_CALL_AROUND_OUT:
	case SSLC_CALL_BATCH_OUT:
		return 1;
	default:
		return 0;
	}
}

enum sslc_role { SSLC_ROLE_UNKNOWN = 0, SSLC_ROLE_CLIENT = 1, SSLC_ROLE_SERVER = 2 };

/* What happened to a socket, in the order in which the kernel did it. */
enum sslc_sock_what {
	SSLC_SOCK_LOCAL_FIN = 1, /* this end sent FIN: close() or shutdown(SHUT_WR) */
	SSLC_SOCK_REMOTE_FIN =
		2,               /* a FIN arrived; the process may still read what came before it */
	SSLC_SOCK_EOF = 3,       /* a receive returned 0: everything before the FIN has been read */
	SSLC_SOCK_ERROR = 4,     /* a receive failed for good (ret < 0, not EAGAIN or EINTR) */
	SSLC_SOCK_RST_IN = 5,    /* reset by the peer */
	SSLC_SOCK_RST_OUT = 6,   /* reset by this end: unread data at close, SO_LINGER 0, abort */
	SSLC_SOCK_TIMEOUT = 7,   /* given up by the kernel */
	SSLC_SOCK_CLOSED = 8,    /* both FINs done: TCP_CLOSE or TIME_WAIT reached */
	SSLC_SOCK_DESTROYED = 9, /* no process holds it any more; nothing follows for this flow */
	SSLC_SOCK_SEND_ERROR = 10, /* a send failed because the connection is broken */
};

/* The lowest bits of a flow: the number of the processor that named it, or, as no machine has that
 * many, this when it was not seen in the kernel but told by the preloaded library. */
#define SSLC_FLOW_SOURCE  0x1fffu
#define SSLC_FLOW_PRELOAD 0x1fffu

struct sslc_event {
	__u32 type;  /* enum sslc_event_type */
	__u32 size;  /* bytes of this event, this header included */
	__u64 ts_ns; /* CLOCK_MONOTONIC */
	__u64 flow;  /* the TCP connection, unique while the source lives; 0: not known yet */
};

/* A TLS object: an SSL pointer means something only together with its process. */
struct sslc_conn_id {
	__u64 start_ns; /* process start, CLOCK_BOOTTIME (task_struct.start_boottime) */
	__u64 ssl;
	__u32 tgid;
	__u32 life; /* tells objects apart that lived at the same address one after the other */
};

/* sslc_ev_open.flags */
#define SSLC_OPEN_ISN_VALID 1u /* iss and irs are the connection's initial sequence numbers */
#define SSLC_OPEN_LATE      2u /* TLS had begun on it before the first record that we saw */
#define SSLC_OPEN_ROLE_EXACT                                                                       \
	4u /* role follows from the kernel's own counters, not from a bound port */
#define SSLC_OPEN_CANDIDATE                                                                        \
	8u /* TLS records were seen on it, outside of any TLS call: no object is bound to it yet   \
	    */

struct sslc_ev_open {
	struct sslc_event ev;
	struct sslc_conn_id conn;
	__u8 local_addr[16], remote_addr[16]; /* network order; IPv4 in the first 4 bytes */
	__u16 local_port, remote_port;        /* host order */
	__u16 mss;                            /* bytes a segment, as the kernel uses it now */
	__u8 family;                          /* 4 or 6; IPv4-mapped IPv6 is 4 already */
	__u8 role;                            /* enum sslc_role: who connected */
	__u32 flags;
	__u32 netns;    /* inode number of the socket's network namespace */
	__u32 iss, irs; /* initial sequence number sent, received */
	__u32 tid, uid;
	char comm[16];
};

/* sslc_ev_data.flags */
#define SSLC_DATA_END   1u /* last bytes of one TLS call: a message boundary */
#define SSLC_DATA_EARLY 2u /* 0-RTT data of a client: void unless the server accepts it */
#define SSLC_DATA_AHEAD                                                                            \
	4u /* told when its record was made: the socket is given it afterwards, if it still takes  \
	    * any */

struct sslc_ev_data {
	struct sslc_event ev;
	struct sslc_conn_id conn;
	__u64 pos; /* of data[0] in its direction; per flow when ev.flow is known, else per conn */
	__u32 tid;
	__u32 len; /* bytes in data[] */
	__u8 dir;  /* enum sslc_dir */
	__u8 flags;
	__u8 seq; /* see sslc_ev_wire; all parts of one call have the same */
	__u8 pad[5];
	__u8 data[];
};

struct sslc_ev_bind {
	struct sslc_event ev;
	struct sslc_conn_id conn; /* its unbound bytes, if any were held, belong to ev.flow */
	__u64 pos[2];             /* how many there were, by enum sslc_dir */
};

struct sslc_ev_sock {
	struct sslc_event ev;
	__u16 what;       /* enum sslc_sock_what */
	__u16 is_counted; /* moved[] is known; only with SSLC_SOCK_DESTROYED, as the next */
	__u16 file[2]; /* which probed file's calls moved its bytes, by enum sslc_dir; 0: unknown */
	__u32 failed;  /* with SSLC_SOCK_SEND_ERROR: bytes after the header of the TLS record that
			* the send began with; 0: not known */
	__u32 ahead;   /* with SSLC_SOCK_SEND_ERROR: bytes of the flow's last record, when they were
			* given up, and not told; else 0 */
	/* Bytes that the process took from the socket and gave to it since the first TLS record
	 * that was seen, by enum sslc_dir. */
	__u64 moved[2];
};

/* SSL_sendfile() and the like: len bytes at pos that were never in the process's memory. */
struct sslc_ev_gap {
	struct sslc_event ev;
	struct sslc_conn_id conn;
	__u64 pos, len;
	__u32 tid;
	__u8 dir;
	__u8 pad[3];
};

/* How far a connection has come: what was not told before this position is lost. Comes before its
 * ends. */
struct sslc_ev_lost {
	struct sslc_event ev;
	__u64 pos[2]; /* by enum sslc_dir */
};

struct sslc_ev_early {
	struct sslc_event ev;
	struct sslc_conn_id conn;
	__u32 accepted; /* 0: rejected, the client sends it again if it wants to */
	__u32 pad;
};

struct sslc_ev_call {
	struct sslc_event ev; /* flow: 0 */
	struct sslc_conn_id conn;
	__u32 tid;
	__u16 call; /* enum sslc_call */
	__u8 seq;   /* see sslc_ev_wire */
	__u8 pad;
};

/* sslc_wire_record.type is TLS's content type: 20 to 23 (RFC 8446, 5.1). */
struct sslc_wire_record {
	__u16 len; /* bytes after the 5-byte header */
	__u8 type;
	__u8 pad;
};

#define SSLC_WIRE_RECORDS 24
#define SSLC_WIRE_UNKNOWN 1u /* record boundaries are not known: rec[] is empty */
#define SSLC_WIRE_MORE    2u /* more records ended in this operation than rec[] has room for */
#define SSLC_WIRE_MISSED                                                                           \
	4u /* operations before it on this connection, in this direction, were not told */

/*
 * A send or receive outside of any TLS call, on a thread whose TLS objects have no connection of
 * their own (memory BIOs). The records whose last byte was in it, in order.
 */
struct sslc_ev_wire {
	struct sslc_event ev; /* flow: always known */
	__u32 tgid, tid;
	__u32 len; /* bytes sent or received */
	__u8 dir;  /* enum sslc_dir */
	__u8 flags;
	__u8 n_rec;
	__u8 seq; /* counts the thread's WIRE and CALL events, and its calls that give DATA without
		   * a flow, from 1 to 255 and around: a number left out is one that was lost.
		   * 0: not counted, the order of such events says nothing */
	struct sslc_wire_record rec[SSLC_WIRE_RECORDS];
};

_Static_assert(sizeof(struct sslc_event) == 24, "shared by bpf, preload and agent");
_Static_assert(sizeof(struct sslc_conn_id) == 24, "shared by bpf, preload and agent");
_Static_assert(sizeof(struct sslc_ev_open) == 128, "shared by bpf, preload and agent");
_Static_assert(sizeof(struct sslc_ev_data) == 72, "shared by bpf, preload and agent");
_Static_assert(sizeof(struct sslc_ev_gap) == 72, "shared by bpf, preload and agent");
_Static_assert(sizeof(struct sslc_ev_lost) == 40, "shared by bpf, preload and agent");
_Static_assert(sizeof(struct sslc_ev_early) == 56, "shared by bpf, preload and agent");
_Static_assert(sizeof(struct sslc_ev_wire) == 136, "shared by bpf, preload and agent");

#endif
