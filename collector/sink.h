/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sink: where forged packets go. A kind is a struct sink_ops in its own file and one line in the
 * table of sink.c; a set is the outputs of one run, or of one worker in it. Used by one thread.
 */
#ifndef SSLC_COLLECTOR_SINK_H
#define SSLC_COLLECTOR_SINK_H

#include "frame.h"

struct sink;

/* What a packet or message belongs to; borrowed, valid during the call. */
struct sink_flow {
	const struct frame_flow_open *open; /* tuple, process */
	const char *host;                   /* the agent's host name, printable */
	/* Of a frame that the network stack has to cut: payload bytes of a segment. Its TCP
	 * checksum is that of the pseudo header alone. 0: a packet as it is. Only for sinks whose
	 * cuts() says so. */
	uint16_t segment;
};

/* One stream of an HTTP/2 connection, and the HTTP/1.1 connection on which it is shown. */
struct sink_stream {
	const struct sink_flow *flow; /* the real connection */
	uint32_t id;
	bool pushed;                       /* the server began it */
	bool serial;                       /* it shares that connection with others */
	uint16_t client_port, server_port; /* shown, with the real addresses */
};

/* How HTTP/2 is shown. */
enum sink_h2 {
	SINK_H2_NATIVE, /* as it is */
	SINK_H2_HTTP1,  /* as HTTP/1.1, a connection for each stream */
	SINK_H2_SERIAL, /* ... one after the other on one connection, as far as that goes */
};

#define SINK_PORTS_MAX 16 /* pairs of one port map: a line that people still read */

/* What the packets of an output shall look like; outputs that want the same share them (outlet.h).
 * All zero: as they are by default. Members of 16 bits only: compared as bytes. */
struct sink_shape {
	uint16_t mtu;        /* at most; 0: what the output takes */
	uint16_t vlan;       /* 802.1Q tag outside of all others; 0: none */
	uint16_t src_mac[3]; /* network order; all zero: forge's own */
	uint16_t dst_mac[3];
	uint16_t gso;   /* 1: large frames, as long as its sinks take them: see cuts(); found out
			 * when they are opened */
	uint16_t http1; /* enum sink_h2 */
	uint16_t n_ports;
	uint16_t ports[SINK_PORTS_MAX][2]; /* a server's real port, the one shown */
};

enum sink_choice { SINK_AUTO, SINK_YES, SINK_NO };
/* When a file is finished and the next one begins, and how many are kept. 0: never, all. */
struct sink_rotation {
	uint64_t bytes; /* no file becomes larger; but each takes one packet at least */
	unsigned seconds;
	uint64_t keep_bytes; /* of all files together, the one being written included */
	unsigned keep_files; /* finished ones */
};

struct sink_conf {
	const char *kind;   /* a name in the table of sink.c */
	const char *target; /* interface, or several with | between them; file or "-";
			       [ADDR:]PORT or HOST[:PORT]; "-" for text */
	struct sink_shape shape;
	/* Of an interface: */
	enum sink_choice bypass; /* past its queue and whoever listens on it */
	enum sink_choice xdp;    /* AF_XDP, which is past both as well */
	enum sink_choice large;  /* several packets go to the kernel as one; by itself only where it
				  * cuts that before anybody sees it */
	struct sink_rotation rotation; /* pcap, a file */
	bool with_reader; /* pcap, a pipe: when its reader goes away, end this process (SIGTERM) */
	bool pcapng;      /* PCAP-over-IP: not classic pcap */
	uint32_t vni;     /* VXLAN, GENEVE */
	bool gso;         /* the same: several packets go to the kernel as one, to be cut */
	/* The same output of the first worker, which looks after what is outside for all of them
	 * and speaks of it. Borrowed, and open for longer. NULL: this is the first, or only one. */
	const struct sink *leader;
	unsigned index; /* of the worker */
};

struct sink_ops {
	const char *name;
	int (*open)(struct sink **out, const struct sink_conf *conf); /* logs its own error */
	/* Of a sink that spreads connections over several: the one for this. NULL: takes all
	 * itself. */
	struct sink *(*pick)(struct sink *s, const struct sink_flow *flow);
	/* Where the next frame of at most `len` bytes may be built, for packet() to take it without
	 * a copy; good until the next call. NULL: nowhere. May be NULL. */
	uint8_t *(*room)(struct sink *s, size_t len);
	/* Bytes that go onto the end of the last large frame, which waits yet, instead of into one
	 * of their own. head: the headers that they would have there; segment: as of sink_flow.
	 * Returns how many of them it took, from the front; then *ip_id is that of the next packet
	 * of their side. Only of sinks that have cuts(). May be NULL. */
	size_t (*more)(struct sink *s, struct span head, struct span payload, uint16_t segment,
		       uint16_t *ip_id);
	/* One whole Ethernet frame. first: it begins a message or a connection (where a comment
	 * belongs). May be NULL. Copies what it keeps. Trouble is counted and logged by the sink,
	 * never returned. */
	void (*packet)(struct sink *s, struct span l2, uint64_t ts_ns, const struct sink_flow *flow,
		       bool first);
	/* Bytes of one direction in order, as the application moved them. end: last of a TLS call.
	 * May be NULL. */
	void (*message)(struct sink *s, const struct sink_flow *flow, enum flow_dir dir,
			struct span bytes, bool end, uint64_t ts_ns);
	/* A stream begins. May be NULL. */
	void (*stream)(struct sink *s, const struct sink_stream *stream, uint64_t ts_ns);
	void (*flush)(struct sink *s); /* everything given so far leaves now; may be NULL */
	void (*tick)(struct sink *s,
		     uint64_t now_ns);  /* about once a second: reopen, self-check; may be NULL */
	void (*reopen)(struct sink *s); /* its file may have been moved away; may be NULL */
	uint32_t (*mtu)(const struct sink *s); /* largest IP packet it takes; NULL: any */
	bool (*cuts)(const struct sink *s);    /* takes large frames now; NULL: never */
	bool counts_tags; /* VLAN tags are not free beyond mtu() as on Ethernet */
	bool is_many;     /* each worker can have one of its own; else they share one */
	void (*close)(struct sink *s); /* flushes; accepts NULL */
};

struct sink { /* first member of each kind's own struct */
	const struct sink_ops *ops;
	struct sink_shape shape; /* from its configuration, once it is open */
	/* Where its packets go, when somebody there may remember an earlier run's: the same in each
	 * run, from open(). 0: what it writes begins anew with each run. */
	uint64_t place;
};

extern const struct sink_ops sink_iface_ops; /* AF_XDP or AF_PACKET */
extern const struct sink_ops sink_fan_ops;   /* one of several interfaces, a connection each */
extern const struct sink_ops sink_pcap_ops;  /* pcapng, or classic when the name ends in .pcap */
extern const struct sink_ops sink_tcp_ops;   /* PCAP-over-IP: listens */
extern const struct sink_ops sink_dial_ops;  /* PCAP-over-IP: connects */
extern const struct sink_ops sink_vxlan_ops;
extern const struct sink_ops sink_geneve_ops;
extern const struct sink_ops sink_text_ops;    /* one readable line a message on stdout */
extern const struct sink_ops sink_streams_ops; /* a line of JSON for each stream; no packets */

#define SINKS_MAX 16

struct sink_set {
	struct sink *v[SINKS_MAX];
	unsigned n;
};

/** Open all of conf[n]; on failure those already open are closed again. 0 or -errno (logged). */
int sinks_open(struct sink_set *set, const struct sink_conf *conf, unsigned n) WARN_UNUSED;
/** The same for n_sets workers: each gets sinks of its own, or its share of one that there is once;
 * several may be called at the same time. sinks_close() in the reverse order. */
int sinks_open_for(struct sink_set *sets, unsigned n_sets, const struct sink_conf *conf,
		   unsigned n) WARN_UNUSED;
void sinks_message(struct sink_set *set, const struct sink_flow *flow, enum flow_dir dir,
		   struct span bytes, bool end, uint64_t ts_ns);
void sinks_stream(const struct sink_set *set, const struct sink_stream *stream, uint64_t ts_ns);
void sinks_flush(struct sink_set *set);
void sinks_tick(struct sink_set *set, uint64_t now_ns);
/** Files that were moved away are begun anew (SIGHUP). */
void sinks_reopen(struct sink_set *set);
void sinks_close(struct sink_set *set);

/** The port to show for a server's real one. */
static inline uint16_t sink_port(const struct sink_shape *shape, uint16_t server_port)
{
	for (unsigned i = 0; i < shape->n_ports; i++)
		if (shape->ports[i][0] == server_port)
			return shape->ports[i][1];
	return server_port;
}

/* What the kinds share. */

/**
 * One of n, 0 to n - 1, by the addresses and ports of a real connection: the same for both
 * directions, for whatever is forged from it, after a restart and at every collector.
 */
unsigned sink_flow_choice(const struct frame_flow_open *o, unsigned n);
/** The sink.place of these bytes: never 0. */
uint64_t sink_place(uint64_t from, const void *p, size_t len);
/** Append `foreign` as one word: printable ASCII stays; spaces, backslashes and all else become
 * \xHH. */
void sink_put_word(struct buf *out, struct span foreign);
/**
 * PORT, ADDR:PORT, HOST[:PORT] or [ADDR][:PORT] → host, "" when there is none, and *port, which is
 * left alone when there is none. 0, or -EINVAL.
 */
int sink_split_address(const char *text, char host[256], uint16_t *port) WARN_UNUSED;
/**
 * A descriptor of one's own for standard output; the caller closes it. Pipes and terminals become
 * non-blocking (only for us: a new open file description). fd, or -errno.
 */
int sink_stdout_open(void) WARN_UNUSED;
/**
 * A reader that goes away is an error of write(2), not the end of this process: ignores SIGPIPE,
 * and SIGXFSZ (file size limit) for the same reason.
 */
void sink_ignore_write_signals(void);
/**
 * Write `bytes`; wait at most `wait_ms` in all for a reader that is slow.
 * Returns bytes written; *err is 0 when that is all of them, -EAGAIN when the reader was too slow,
 * or another -errno of write(2).
 */
size_t sink_write(int fd, struct span bytes, unsigned wait_ms, int *err);

#endif
