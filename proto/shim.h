/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause OR Apache-2.0 */
/*
 * shim: what libsslcollector-preload.so and the agent agree on. The library lives in a mirrored
 * process and writes records into shared memory, the agent reads them. Host-local, native byte
 * order, 64-bit machines.
 *
 * Who makes it. When the library is loaded, and in each child after fork(), the process makes a
 * memfd of sslc_shim_bytes() bytes, seals it (F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_SEAL), maps it
 * shared and closes the descriptor. Nothing else remains open, and after set-up the library makes
 * no system call of its own but for the wake-up below, getpid() before a TLS object's descriptor is
 * closed, questions about a socket on which something is said before TLS (preload/clear.c), a
 * random number before fork(), none of them in a sandbox, and the clock where Linux cannot tell the
 * time without: chroot, changed users, dropped capabilities, closed descriptors and seccomp filters
 * that come later do no harm, and no descriptor's number can be mistaken for another.
 *
 * How the agent gets it. Either way it checks seals and size, that the process maps this very file,
 * and only then maps it itself.
 *   1. Announced: the process connects to the agent's socket (SOCK_SEQPACKET, never waiting), sends
 *      one struct sslc_shim_hello with the memfd in SCM_RIGHTS, and closes. Nothing is answered.
 *      The agent knows the process by SO_PEERCRED. What is written from then on waits in the ring.
 *   2. Adopted: an agent that was not there then finds the mapping SSLC_SHIM_NAME in
 *      /proc/PID/maps and opens it in /proc/PID/map_files.
 * So a process is mirrored again after an agent's restart without doing anything for it. One agent
 * reads a ring at a time: another one adopts it when gen is 0 or the beat is old.
 *
 * Whom the agent believes. The ring is the process's own memory: anything may stand in it. A record
 * is copied once and then judged. A process never says addresses, it says which descriptor a TLS
 * object uses; the agent takes that descriptor for a moment (pidfd_getfd(2)) and asks the kernel.
 * Descriptor numbers are used again: fd_gen[] changes before a number can mean another file, and
 * the agent believes what it took only when fd_gen[] has not changed after it. A process can garble
 * its own connections, and no other's.
 *
 * Ends. A connection whose last bytes were lost does not end as if it were whole. A process that
 * has lost an object's last bytes says REACHED before the descriptor's END; the hole has its exact
 * size then. Where it could not, or could not say END, the agent finds at the process's end that
 * more bytes were lost than it has seen holes for, and ends its connections by a reset; and so the
 * connection of each object in writing[], from which a thread was sending when the process was
 * killed. What was received and not handed to the application yet is no loss.
 *
 * Children. fork() gives a child its parent's descriptors, and the child may end before the agent
 * can ask about them. The parent draws a number (kin) for each fork() and says it in a record FORK,
 * the child's ring has it, too, and nobody else can know it: so what a child that is gone has said
 * in HOLD is believed of descriptors that the parent used before that record, and of no others.
 *
 * Without a descriptor. A process that has none free to make a ring with tries again at its TLS
 * calls, and counts what they move until then.
 *
 * The ring. Positions only grow; a record at position p stands at data[p % data_size], in one
 * piece, because both sides map the data twice in a row. A thread takes room by moving head with
 * compare-and-swap, then writes word = p | SSLC_SHIM_BUSY and size, then everything else, then
 * word = p | SSLC_SHIM_DONE with release order. A word that names another position is what an
 * earlier lap left. A thread that dies in between leaves a busy record: the reader gives it
 * SSLC_SHIM_STALL_NS (none when the process is gone) and goes on behind it, or, when not even its
 * size was written, at the next word that names its own position. No thread ever waits for another.
 * What does not fit is dropped and counted in lost[]; the positions of the bytes go on, so that the
 * next record shows a hole of exact size. So it is with what is said while the agent's beat is old:
 * it may be gone for good, or have been stopped. What shows ends is said then all the same.
 *
 * Memory. The data is large, so that one long call fits, and touched as little as possible: a
 * reader that finds the ring empty moves head and tail to the next lap's beginning, head first,
 * with compare-and-swap; and when nothing was said for a while it gives back what lies behind the
 * first 1/SSLC_SHIM_QUIET of the data. For that moment it shows a tail that leaves room for no
 * more.
 *
 * Where the system gives no more memory than it has (vm.overcommit_memory 2) a page could be
 * missing when it is touched for the first time, and the program would be killed. There the ring is
 * small, and all of it is taken before it is used, or there is none.
 *
 * Waking. The reader looks every millisecond while there is traffic, and every few milliseconds
 * when there was none for a while. A connection may be over by then, and the kernel no longer be
 * asked about it: so a record BIND wakes two threads of the agent's that do nothing but ask, and
 * that the system prefers to ordinary ones for a fifth of a processor's time; by a futex (bell) in
 * the ring, when it says in `rests` that they wait. BIND comes with the first TLS record, and a
 * handshake takes longer than the question. That is the one system call inside the application,
 * once a connection, and none in programs that have put themselves under a seccomp filter.
 *
 * A connection that was over before is not told at all, and counted. The process may say what
 * addresses it had, and the kernel may know of such a connection (sock_diag(7)); but not, by then,
 * that it was this process's. Addresses of others' connections are no secret, so that word alone
 * would let one program speak in another's name.
 */
#ifndef SSLC_SHIM_H
#define SSLC_SHIM_H

#define SSLC_SHIM_MAGIC   0x676e6972636c7373ull /* "sslcring" */
#define SSLC_SHIM_VERSION 2u                    /* equal at both ends, or not used */
#define SSLC_SHIM_NAME    "sslcollector-ring"   /* of the memfd */
#define SSLC_SHIM_SOCKET  "preload.sock"        /* in the agent's run directory */
#define SSLC_SHIM_SIZE    "preload.size"        /* there too: the rings' size, a decimal number */

#define SSLC_SHIM_BELLS     2           /* threads of the agent that a bell wakes */
#define SSLC_SHIM_DATA_OFF  0x90000u    /* of data[] in the file: a multiple of any page's size */
#define SSLC_SHIM_FDS       65536u      /* descriptors beyond share an entry */
#define SSLC_SHIM_DATA      (16u << 20) /* bytes of data[] when the agent says nothing else */
#define SSLC_SHIM_DATA_MIN  (256u << 10)
#define SSLC_SHIM_DATA_MAX  (256u << 20)
#define SSLC_SHIM_DATA_KEPT (1u << 20) /* at most, where all of it is taken */
#define SSLC_SHIM_QUIET     16u        /* see above */
#define SSLC_SHIM_CHUNK     16384u     /* bytes of plaintext in one record, at most */
#define SSLC_SHIM_WRITERS   8160u      /* threads beyond share an entry */
#define SSLC_SHIM_CLEAR_MAX 16384u     /* bytes before TLS of one direction, at most */
#define SSLC_SHIM_STALL_NS  2000000000ull
#define SSLC_SHIM_SILENT_NS 3000000000ull /* an agent whose beat is older is gone */

enum sslc_shim_type {
	SSLC_SHIM_PAD = 0,
	SSLC_SHIM_DATA_BYTES = 1, /* len bytes of plaintext follow, at pos of direction dir */
	SSLC_SHIM_BIND = 2,   /* the object uses descriptor fd of generation fd_gen; pos, pos2: how
			       * far   it has come in and out. Comes before the first bytes of each
			       * object,   and again for each new generation of the agent's. */
	SSLC_SHIM_END = 3,    /* what (enum sslc_sock_what) happened to descriptor fd of that
			       * generation;    SSLC_SOCK_DESTROYED: this process closes it */
	SSLC_SHIM_FORGET = 4, /* the object is gone; pos, pos2: how far it came in and out */
	SSLC_SHIM_GAP = 5,    /* pos2 bytes at pos that were never in the process's memory */
	SSLC_SHIM_HOLD = 7,   /* a child says that it has its parent's descriptor fd, too; the
			       * generation is   its own ring's */
	SSLC_SHIM_EARLY = 6,  /* 0-RTT data of the object: what is 1 when they were accepted */
	SSLC_SHIM_CLEAR_BYTES = 8, /* len bytes follow, at pos of direction dir, said before TLS
				    * began on the descriptor that the object's next BIND names */
	SSLC_SHIM_REACHED = 9,     /* pos, pos2: how far the object has come in and out; its last
				    * bytes were lost, and its descriptor's end comes next */
	SSLC_SHIM_FORK = 10,       /* a child is about to be made; pos: kin, a random number */
	SSLC_SHIM_TYPES = 11,
};

/* sslc_shim_rec.flags */
#define SSLC_SHIM_LAST   1u  /* DATA_BYTES: the last ones of a call */
#define SSLC_SHIM_0RTT   2u  /* DATA_BYTES: see SSLC_DATA_EARLY */
#define SSLC_SHIM_FORKED 4u  /* END: children may hold the descriptor, too */
#define SSLC_SHIM_LATE   8u  /* BIND: the object had moved bytes before it was watched */
#define SSLC_SHIM_PART   32u /* DATA_BYTES: the call goes on; never with LAST */
#define SSLC_SHIM_CUT    16u /* BIND: something was said before TLS that is not told, or not all */

/* sslc_shim_rec.word: position, a multiple of SSLC_SHIM_ALIGN, and one of these. */
#define SSLC_SHIM_ALIGN 16u
#define SSLC_SHIM_BUSY  1u
#define SSLC_SHIM_DONE  2u

struct sslc_shim_rec {
	__u64 word;
	__u32 size; /* of the record with what follows it, a multiple of SSLC_SHIM_ALIGN */
	__u16 type; /* enum sslc_shim_type */
	__u8 dir;   /* enum sslc_dir */
	__u8 flags;
	__u64 ts_ns;  /* CLOCK_MONOTONIC */
	__u64 obj;    /* the TLS object's address */
	__u32 life;   /* tells objects apart that lived at that address one after the other */
	__u32 thread; /* the thread's number in this process, from 1; not the kernel's */
	__u64 pos;
	union {
		struct {
			__u32 len;
			__u32 pad;
		};
		struct {
			__s32 fd;
			__u32 fd_gen;
		};
	};
	__u64 pos2; /* END, EARLY: what */
};

/* sslc_shim_ring.lost[] */
enum sslc_shim_lost {
	SSLC_SHIM_LOST_FULL,    /* bytes: no room in the ring, or nobody who reads it just now */
	SSLC_SHIM_LOST_EVENTS,  /* records other than bytes */
	SSLC_SHIM_LOST_OBJECTS, /* bytes of objects for which there was no place in the table */
	SSLC_SHIM_LOST_DEEP,    /* calls nested too deep */
	SSLC_SHIM_LOST_NO_RING, /* bytes: no descriptor was free to make a ring with */
	SSLC_SHIM_LOST_KINDS = 8,
};

#define SSLC_SHIM_ADOPTED 0x80000000u

/* sslc_shim_ring.flags */
#define SSLC_SHIM_OUTER 1u /* of TLS inside TLS the outer one is wanted, not the inner one */
#define SSLC_SHIM_CLEAR 2u /* what is said before TLS is wanted; a process begins with it */

struct sslc_shim_ring {
	/* Written once by the process, before anybody else sees it. */
	__u64 magic;
	__u32 version;
	__u32 rec_size; /* sizeof(struct sslc_shim_rec) */
	__u64 data_size;
	__u64 run_dir; /* sslc_shim_hash() of the directory where it looked for an agent */
	__u64 kin;     /* of FORK, by which its parent has made it; 0: none */
	__u64 is_kept; /* all of its memory was taken beforehand: none is to be given back */
	__u64 pad0[2];

	/* Of the agent. gen: 0 while nobody reads: nothing is written then. The process sets it to
	 * 1 when it has announced itself; an agent that adopts the ring, to a number of its own. */
	__u64 tail;
	__u64 beat_ns; /* CLOCK_MONOTONIC, about once a second */
	__u32 gen;
	__u32 flags;
	__u32 rests; /* it waits for the bell */
	__u32 pad1[9];

	/* Of the process. */
	__u64 head;
	__u32 forks; /* how often it has forked */
	__u32 bell;  /* a futex, counted up before it is woken */
	__u32 pad2[12];
	__u64 lost[SSLC_SHIM_LOST_KINDS];

	__u64 writing[SSLC_SHIM_WRITERS]; /* of threads: the object that each is sending from */

	__u32 fd_gen[SSLC_SHIM_FDS];  /* of the process */
	__u32 fd_skip[SSLC_SHIM_FDS]; /* of the agent: sslc_shim_skip() of what is not wanted */
};

struct sslc_shim_hello {
	__u64 magic;
	__u32 version;
	__u32 pad;
	__u64 data_size;
};

/* Bytes of the memfd. data_size: a power of two. */
static inline __u64 sslc_shim_bytes(__u64 data_size)
{
	return SSLC_SHIM_DATA_OFF + data_size;
}

static inline int sslc_shim_is_size(__u64 data_size)
{
	return data_size >= SSLC_SHIM_DATA_MIN && data_size <= SSLC_SHIM_DATA_MAX &&
	       !(data_size & (data_size - 1));
}

/* Place in writing[]: neighbours are on different lines of the cache. */
static inline __u32 sslc_shim_writer(__u32 thread)
{
	const __u32 lines = SSLC_SHIM_WRITERS / 8;

	return thread % lines * 8 + thread / lines % 8;
}

/* In fd_skip[]: this generation's bytes are not wanted by the agent that has this gen. */
static inline __u32 sslc_shim_skip(__u32 fd_gen, __u32 gen)
{
	return fd_gen + gen;
}

/* An agent adopts only rings of processes that would have come to it (FNV-1a). */
static inline __u64 sslc_shim_hash(const char *path)
{
	__u64 h = 0xcbf29ce484222325ull;

	for (; *path; path++)
		h = (h ^ (unsigned char)*path) * 0x100000001b3ull;
	return h;
}

/* Above it only records without plaintext go in, so that those are not lost. */
static inline __u64 sslc_shim_data_max(__u64 data_size)
{
	return data_size / 16 * 15;
}

_Static_assert(sizeof(struct sslc_shim_rec) == 64, "shared by preload and agent");
_Static_assert(sizeof(struct sslc_shim_ring) == SSLC_SHIM_DATA_OFF, "shared by preload and agent");

#endif
