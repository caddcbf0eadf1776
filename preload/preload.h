/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preload: the parts of libsslcollector-preload.so. It lives in other people's processes: it needs
 * libc alone, takes no lock, allocates nothing after set-up, makes only the system calls of its
 * own after it that proto/shim.h names, and leaves errno and the TLS library's error queue as they
 * were.
 *
 *     openssl.c bio.c gnutls.c nss.c │ sock.c  interposed calls
 *     proc.c                                   children, sandboxes
 *     lib.c module.c libc.c                    which library's function is the real one
 *     calls.c                                  objects, positions, which call counts
 *     match.c                                  descriptors of objects that have none
 *     clear.c                                  what is said before TLS begins
 *     ring.c                                   records into shared memory
 *     link.c                                   the agent's socket
 */
#ifndef SSLC_PRELOAD_PRELOAD_H
#define SSLC_PRELOAD_PRELOAD_H

#include <linux/types.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "event.h"
#include "shim.h"

#define EXPORT      __attribute__((visibility("default")))
#define CALLER      __builtin_return_address(0)
#define LIKELY(x)   __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)
/* What each call goes through lies together, and what hardly any needs elsewhere: between two calls
 * the program and the kernel use the caches for themselves. */
#define HOT  __attribute__((hot))
#define COLD __attribute__((cold, noinline))

/* --- ring.c -------------------------------------------------------------------------------------
 */

/* What belongs to this process alone: in a page that a child finds empty (MADV_WIPEONFORK), however
 * it was made. */
struct own {
	struct sslc_shim_ring *ring; /* NULL: not set up */
	uint8_t *data;
	uint64_t size;
	int pid;
	bool was_tried;
	bool is_waiting;   /* for a descriptor to make the ring with */
	uint64_t retry_ns; /* when it tries again */
	uint64_t missed;   /* bytes moved meanwhile */
};
extern struct own *shim_own; /* never NULL */

/** At load, in a program that does not look as if it would use TLS: ring_set_up_late() will be. */
void ring_prepare(void);
/** Make the ring and tell the agent: at load, and in children instead of their parent's. Once a
 * process; silent when it fails. */
void ring_set_up(void);
/** Before fork(): the agent will know the child, if that is to be mirrored. */
void ring_forks(bool is_wanted);
/** A TLS object uses the descriptor. */
void ring_bound(int fd);
/** At a TLS call of a process without a ring: of one that was made by another way than fork(), or
 * had no descriptor free for it. */
void ring_set_up_late(void);
/** The process is sandboxed from now on (seccomp): no system calls, in its children neither. */
extern bool shim_is_sandboxed;
/** The agent's generation, and the time; 0: nobody reads, say nothing. */
uint32_t ring_watched(uint64_t *now_ns);
/** The same, though the agent may be gone or stopped: for what it has to know when it goes on. */
uint32_t ring_taken(uint64_t *now_ns);
/** From now on the processor's counter must not be read: time is known to a tick. */
void ring_without_counter(void);
/** A record without plaintext. rec: filled but for word, size and thread. False: no room. */
bool ring_put(const struct sslc_shim_rec *rec);
/** Whether a good part of the ring is free. */
bool ring_has_room(void);
/** This thread gets its number, if it has none. */
void ring_number_thread(void);
/** Plaintext: len bytes at pos, in as many records as needed. rec: as above, a template. False: not
 * all of them. */
bool ring_put_bytes(const struct sslc_shim_rec *rec, const void *bytes, uint64_t len);
/** Room for a record with len bytes of plaintext, at most SSLC_SHIM_CHUNK, of which word and size
 * are written. NULL: there is none. ring_commit() must follow. */
struct sslc_shim_rec *ring_room(uint32_t len, uint64_t *at);
static inline void ring_commit(struct sslc_shim_rec *rec, uint64_t at)
{
	__atomic_store_n(&rec->word, at | SSLC_SHIM_DONE, __ATOMIC_RELEASE);
}
/** False in a child that runs in its parent's memory. */
bool ring_is_own(void);
/** A connection begins: the reader looks at it soon, if it can be told. */
void ring_wake(void);
void ring_count(enum sslc_shim_lost what, uint64_t n);

/* --- link.c -------------------------------------------------------------------------------------
 */

/** A socket for it; -1: errno says why. */
int link_socket(void);
/** What size the agent wants rings to have, or the default. */
uint64_t link_ring_size(void);
/** sslc_shim_hash() of where it is looked for. */
uint64_t link_run_dir(void);
/** Reach the agent with it and hand the ring over, both at once: who has come and says nothing is
 * sent away. Closes it. False: there is no agent. */
bool link_announce(int s, int memfd, uint64_t data_size);

/* --- calls.c ------------------------------------------------------------------------------------
 */

#define CALL_DEPTH 4

struct long_write;

struct call {
	uintptr_t sp; /* of the wrapper: calls below an outer one's have ended */
	uint64_t ssl;
	uint32_t kind; /* enum sslc_call */
	uint32_t pad;
	uint64_t told;            /* SSLC_CALL_SEND_FILE: bytes told by the calls inside */
	struct long_write *wrote; /* of a long write, of which parts are told; else NULL */
	/* Of a long write, else undefined. */
	const uint8_t *buf;
	uint64_t len; /* 0: no more parts */
};

struct object;

struct thread {
	uint32_t depth, number;
	/* A quick call: the only one on this thread, its object is bound as was told to this
	 * descriptor of that generation, and nothing else is known that would have to be looked
	 * at. 1 + the descriptor; 0: no. */
	uint32_t quick, quick_gen;
	struct object *last; /* place of the object that was looked for last; or NULL */
	struct call v[CALL_DEPTH];
	uint64_t header_of; /* the object that has read a record's header, and not its body; or 0 */
	uint8_t header[8];
};
extern __thread struct thread shim_thread __attribute__((tls_model("initial-exec")));

int calls_init(void) __attribute__((warn_unused_result));

/* A TLS call begins, of a wrapper with this frame. Returns its place for call_end(). */
int call_begin_at(uint64_t ssl, enum sslc_call kind, uintptr_t sp);

static inline int call_begin(uint64_t ssl, enum sslc_call kind)
{
	return call_begin_at(ssl, kind, (uintptr_t)__builtin_frame_address(0));
}

/* A write of so many bytes is told while it lasts: its records pass by, one after the other. */
#define CALL_LONG (1u << 20)
void call_is_long(int at, const void *buf, uint64_t len);

static inline int call_begin_write(uint64_t ssl, enum sslc_call kind, const void *buf, uint64_t len)
{
	int at = call_begin(ssl, kind);

	if (UNLIKELY(len >= CALL_LONG))
		call_is_long(at, buf, len);
	return at;
}

/* The call at this place has moved so many bytes, which are at buf. There is a ring. */
void call_moved(int at, uint64_t ssl, enum sslc_call kind, const void *buf, uint64_t n);
/* The call at this place has returned, and moved so many; or none. */
void call_end(int at, uint64_t ssl, enum sslc_call kind, const void *buf, uint64_t n);

/** The object ends, or gets another transport. */
void call_forget(uint64_t ssl);
/** The descriptor is about to end: of an object whose last bytes were lost this tells how far it
 * came. False: it could not be told. */
bool call_closes(int fd);
/** What the library answered about 0-RTT data: 1 rejected, 2 accepted. */
void call_early_status(uint64_t ssl, int status);
/** The object is a server's, and reads 0-RTT data. */
void call_early_server(uint64_t ssl);

/** A socket operation inside a TLS call on this thread moved bytes; the first of them are at p. */
void call_used_socket(int fd, enum sslc_dir dir, const void *p, size_t len);
/** The innermost TLS call on this thread has taken bytes from a BIO, or given them to one. */
void call_passed(enum sslc_dir dir, const uint8_t *p, uint64_t n);
/** A socket operation anywhere moved bytes: are they an object's that has no descriptor? Only while
 * shim_has_loose. */
void call_met(int fd, enum sslc_dir dir, const uint8_t *p, size_t n);

/* --- match.c ------------------------------------------------------------------------------------
 */

/* Some TLS object of this process has no socket of its own, or had none for a while. */
extern _Atomic bool shim_has_loose;
void match_init(void);
/** What a record is known by: its 5-byte header and so many bytes of its body. False: there is not
 * enough that is random. */
bool match_print(const uint8_t *header, const uint8_t *body, size_t n, uint64_t *out);
/** A descriptor has received it, an object has written it. */
void match_put_received(uint64_t print, int fd, uint32_t fd_gen);
void match_put_written(uint64_t print, uint64_t ssl, uint32_t life);
/** Who; once. */
bool match_take_received(uint64_t print, int *fd, uint32_t *fd_gen);
bool match_take_written(uint64_t print, uint64_t *ssl, uint32_t *life);

/* --- sock.c -------------------------------------------------------------------------------------
 */

/* Bits: a TLS object uses the descriptor; its end of stream was told; children have it, too. */
#define SOCK_BOUND  1
#define SOCK_EOF    2
#define SOCK_SHARED 4
extern uint8_t shim_bound[SSLC_SHIM_FDS];
/* As fd_gen[] of the ring, which has it of bound descriptors: here a child finds what it was when
 * the child was made. */
extern uint32_t shim_gen[SSLC_SHIM_FDS];
static inline uint32_t sock_slot(int fd)
{
	return (uint32_t)fd & (SSLC_SHIM_FDS - 1);
}
void sock_init(void);
/** Before fork(): from now on all descriptors are shared. */
void sock_share(void);

/* --- clear.c ------------------------------------------------------------------------------------
 */

/* What is known of a descriptor on which TLS may begin; 0: nothing, and operations on it cost no
 * more than this look. Below SSLC_SHIM_FDS. */
extern uint32_t shim_clear[SSLC_SHIM_FDS];
void clear_init(void);
/** A new socket. */
void clear_fresh(int fd, bool is_client);
/** An operation on a descriptor with shim_clear[] has moved n bytes, the first ones of v. */
void clear_op(int fd, enum sslc_dir dir, const struct iovec *v, size_t n_v, size_t n);
/** Of descriptors with shim_clear[]: the number will mean another file; another number means the
 * same; the object is bound to it, so what was said before is told (false: it is not whole). */
void clear_gone(int fd);
void clear_dup(int from, int to);
bool clear_tell(int fd, uint64_t ssl, uint32_t life);

/* --- proc.c -------------------------------------------------------------------------------------
 */

/** Children get rings of their own. */
void proc_init(void);

/* --- lib.c --------------------------------------------------------------------------------------
 */

#define LIB_FUNCTIONS 40
#define LIBS_MAX      8 /* of one family in one process */
#define CALLER_ROWS   32

typedef void (*any_fn)(void);

struct lib {
	const void *map; /* where it begins */
	any_fn fn[LIB_FUNCTIONS];
};

struct family {
	const char *const *names;
	const any_fn *wrappers; /* ours, in the same order */
	unsigned n, n_wrapped;  /* functions, and those that we wrap: the first ones */
	unsigned telling;       /* place of a function that each such library has */
	const char *file;       /* how the names of such libraries begin */
	bool is_global; /* the first of libs[] is the one that the program was linked with */
	_Atomic uint32_t n_libs;
	struct lib libs[LIBS_MAX];
	_Atomic uint32_t latest; /* 1 + place of the one that dlsym() was last asked about */
	/* By their hash; each row is one line of the cache. */
	_Alignas(64) _Atomic uint64_t callers[CALLER_ROWS][8];
};

extern struct family openssl_family, crypto_family, gnutls_family, nspr_family, nss_family;
void gnutls_init(void);

/** The library that a wrapper's caller means. Never NULL; its functions may be. */
struct lib *lib_of_caller(struct family *f, const void *caller);
void lib_init(void);
/** A libc function of that name, after ours. */
any_fn lib_next(const char *name);
/* libc.c: the C library's own dlsym(), not ours. Takes no lock of ours; asked once. */
any_fn libc_dlsym(void);
/** Whether the program was linked with a TLS library, or has called one. Takes no lock. */
bool lib_is_used(void);

/* --- module.c -----------------------------------------------------------------------------------
 */

void module_init(void);
/** Place of the library that the caller's module means; -1: it is not known without asking the
 * linker. */
int module_lib(const struct family *f, const void *caller);

#endif
