/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sock: socket calls, interposed. Inside a TLS call they name the descriptor that its object uses;
 * of descriptors that TLS objects use they tell the end. All others cost a look at one byte.
 */
#include "preload.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* What programs built with _FORTIFY_SOURCE call; and what not each C library has. */
ssize_t __read_chk(int fd, void *buf, size_t len, size_t room);
ssize_t __recv_chk(int fd, void *buf, size_t len, size_t room, int flags);
ssize_t __recvfrom_chk(int fd, void *restrict buf, size_t len, size_t room, int flags,
		       struct sockaddr *restrict addr, socklen_t *restrict addr_len);
int close_range(unsigned first, unsigned last, int flags);
void closefrom(int first);

uint8_t shim_bound[SSLC_SHIM_FDS];
uint32_t shim_gen[SSLC_SHIM_FDS];

/* The real ones. Found at load: a signal handler may be the first to call one. */
/* clang-format off */
#define SOCK_FUNCTIONS(X) \
	X(read) X(recv) X(recvfrom) X(recvmsg) X(readv) \
	X(__read_chk) X(__recv_chk) X(__recvfrom_chk) X(write) X(send) \
	X(sendto) X(sendmsg) X(writev) X(close) X(shutdown) \
	X(dup2) X(dup3) X(close_range) X(closefrom) X(fclose) \
	X(socket) X(accept) X(accept4)
/* clang-format on */

#define POINTER(name) static __typeof__(&(name)) next_##name;
SOCK_FUNCTIONS(POINTER)

/* A C library without these has them now that we are there: who looks for them finds us. */
static int own_close_range(unsigned first, unsigned last, int flags)
{
	return (int)syscall(SYS_close_range, first, last, flags);
}

static void own_closefrom(int first)
{
	(void)syscall(SYS_close_range, first > 0 ? first : 0, ~0u, 0);
}

static ssize_t own_read_chk(int fd, void *buf, size_t len, size_t room)
{
	return next_read(fd, buf, len < room ? len : room);
}

static ssize_t own_recv_chk(int fd, void *buf, size_t len, size_t room, int flags)
{
	return next_recv(fd, buf, len < room ? len : room, flags);
}

static ssize_t own_recvfrom_chk(int fd, void *restrict buf, size_t len, size_t room, int flags,
				struct sockaddr *restrict addr, socklen_t *restrict addr_len)
{
	return next_recvfrom(fd, buf, len < room ? len : room, flags, addr, addr_len);
}

#define FIND(name) next_##name = (__typeof__(&(name)))lib_next(#name);
void sock_init(void)
{
	SOCK_FUNCTIONS(FIND)
	if (!next_close_range)
		next_close_range = own_close_range;
	if (!next_closefrom)
		next_closefrom = own_closefrom;
	if (!next___read_chk)
		next___read_chk = own_read_chk;
	if (!next___recv_chk)
		next___recv_chk = own_recv_chk;
	if (!next___recvfrom_chk)
		next___recvfrom_chk = own_recvfrom_chk;
}

/* Other libraries' constructors may come before ours. */
#define NEXT(name)                                                                                 \
	({                                                                                         \
		if (UNLIKELY(!next_##name))                                                        \
			sock_init();                                                               \
		next_##name;                                                                       \
	})

void sock_share(void)
{
	for (uint32_t i = 0; i < SSLC_SHIM_FDS; i++)
		if (shim_bound[i])
			shim_bound[i] |= SOCK_SHARED;
}

static void tell_end(int fd, enum sslc_sock_what what, uint8_t bits)
{
	struct sslc_shim_rec rec = {.type = SSLC_SHIM_END, .fd = fd, .pos2 = what};

	if (!ring_taken((uint64_t *)&rec.ts_ns))
		return;
	rec.fd_gen = __atomic_load_n(&shim_gen[sock_slot(fd)], __ATOMIC_RELAXED);
	rec.flags = bits & SOCK_SHARED ? SSLC_SHIM_FORKED : 0;
	(void)ring_put(&rec);
}

/*
 * The number will mean another file, or does already. Never changes errno. Not so in a child that
 * still shares its parent's memory (vfork): it closes what is its parent's, too, and stays there.
 */
static void gone(int fd)
{
	uint32_t slot = sock_slot(fd);
	uint8_t bits = shim_bound[slot];
	bool is_clear = fd >= 0 && fd < (int)SSLC_SHIM_FDS && shim_clear[fd];

	if (LIKELY(!bits && !is_clear) || fd < 0 || !ring_is_own())
		return;
	if (is_clear)
		clear_gone(fd);
	if (!bits)
		return;
	shim_bound[slot] = 0;
	if (shim_own->ring && call_closes(fd))
		tell_end(fd, SSLC_SOCK_DESTROYED, bits);
	__atomic_fetch_add(&shim_gen[slot], 1, __ATOMIC_RELEASE);
	if (shim_own->ring)
		ring_bound(fd);
}

/* A number that the system has just given: if it was in use, its end was not seen. */
static int fresh(int fd)
{
	if (fd >= 0)
		gone(fd);
	return fd;
}

static void failed(int fd)
{
	int saved = errno;

	if (saved == ECONNRESET || saved == EPIPE)
		tell_end(fd, SSLC_SOCK_RST_IN, 0);
	else if (saved == ETIMEDOUT)
		tell_end(fd, SSLC_SOCK_TIMEOUT, 0);
	if (saved != EAGAIN && saved != EINTR && saved != EWOULDBLOCK)
		tell_end(fd, SSLC_SOCK_ERROR, 0);
	errno = saved;
}

static bool has_loose(void)
{
	return UNLIKELY(atomic_load_explicit(&shim_has_loose, memory_order_relaxed));
}

static bool is_clear(int fd)
{
	return fd >= 0 && fd < (int)SSLC_SHIM_FDS && UNLIKELY(shim_clear[fd]);
}

/* Bytes went through; the first of them are at p. */
static void passed(int fd, enum sslc_dir dir, const void *p, size_t n)
{
	if (shim_thread.depth)
		call_used_socket(fd, dir, p, n);
	if (has_loose() && fd >= 0 && shim_own->ring)
		call_met(fd, dir, p, n);
}

/* Inside a quick call: neither its bytes nor that there are none just now tell anything. */
static inline bool is_quick(int fd, ssize_t n)
{
	return LIKELY(shim_thread.quick == (uint32_t)fd + 1 && fd >= 0) &&
	       __atomic_load_n(&shim_gen[sock_slot(fd)], __ATOMIC_RELAXED) ==
		       shim_thread.quick_gen &&
	       (n > 0 || (n < 0 && errno == EAGAIN));
}

/* is_asked: for one byte at least. */
static COLD ssize_t received_slowly(int fd, const void *p, ssize_t n, bool is_asked, bool is_peek)
{
	if (n > 0) {
		if (!is_peek && is_clear(fd))
			clear_op(fd, SSLC_DIR_IN, &(struct iovec){(void *)(uintptr_t)p, (size_t)n},
				 1, (size_t)n);
		if (!is_peek)
			passed(fd, SSLC_DIR_IN, p, (size_t)n);
		return n;
	}
	if (LIKELY(!shim_bound[sock_slot(fd)]) || !shim_own->ring)
		return n;
	if (n < 0) {
		failed(fd);
	} else if (is_asked && !(shim_bound[sock_slot(fd)] & SOCK_EOF)) {
		shim_bound[sock_slot(fd)] |= SOCK_EOF;
		tell_end(fd, SSLC_SOCK_EOF, 0);
	}
	return n;
}

static inline ssize_t received(int fd, const void *p, ssize_t n, bool is_asked, bool is_peek)
{
	return is_quick(fd, n) ? n : received_slowly(fd, p, n, is_asked, is_peek);
}

static ssize_t sent_from(int fd, const void *p, size_t first, ssize_t n)
{
	if (n > 0)
		passed(fd, SSLC_DIR_OUT, p, first < (size_t)n ? first : (size_t)n);
	else if (n < 0 && UNLIKELY(shim_bound[sock_slot(fd)]) && shim_own->ring)
		failed(fd);
	return n;
}

static COLD ssize_t sent_slowly(int fd, const void *p, ssize_t n)
{
	if (n > 0 && is_clear(fd))
		clear_op(fd, SSLC_DIR_OUT, &(struct iovec){(void *)(uintptr_t)p, (size_t)n}, 1,
			 (size_t)n);
	return sent_from(fd, p, n > 0 ? (size_t)n : 0, n);
}

static inline ssize_t sent(int fd, const void *p, ssize_t n)
{
	return is_quick(fd, n) ? n : sent_slowly(fd, p, n);
}

/* The first part that is not empty. */
static const struct iovec *first_of(const struct iovec *v, size_t n)
{
	static const struct iovec none;

	for (size_t i = 0; v && i < n; i++)
		if (v[i].iov_len)
			return &v[i];
	return &none;
}

static ssize_t received_parts(int fd, const struct iovec *v, size_t n_v, ssize_t n, bool is_peek)
{
	const struct iovec *first =
		n > 0 && !shim_thread.depth && !has_loose() ? NULL : first_of(v, n_v);
	size_t had;

	if (n > 0 && v && !is_peek && is_clear(fd))
		clear_op(fd, SSLC_DIR_IN, v, n_v, (size_t)n);

	if (!first)
		return n;
	had = n > 0 && (size_t)n < first->iov_len ? (size_t)n : first->iov_len;
	if (n > 0 && !is_peek)
		passed(fd, SSLC_DIR_IN, first->iov_base, had);
	return n > 0 ? n : received(fd, NULL, n, first->iov_len, is_peek);
}

static ssize_t sent_parts(int fd, const struct iovec *v, size_t n_v, ssize_t n)
{
	const struct iovec *first;

	if (n > 0 && v && is_clear(fd))
		clear_op(fd, SSLC_DIR_OUT, v, n_v, (size_t)n);
	if (n > 0 && !shim_thread.depth && !has_loose())
		return n;
	first = first_of(v, n_v);
	return sent_from(fd, first->iov_base, first->iov_len, n);
}

/* --- receiving ----------------------------------------------------------------------------------
 */

EXPORT ssize_t read(int fd, void *buf, size_t len)
{
	return received(fd, buf, NEXT(read)(fd, buf, len), len, false);
}

EXPORT ssize_t recv(int fd, void *buf, size_t len, int flags)
{
	return received(fd, buf, NEXT(recv)(fd, buf, len, flags), len, flags & MSG_PEEK);
}

EXPORT ssize_t recvfrom(int fd, void *restrict buf, size_t len, int flags,
			struct sockaddr *restrict addr, socklen_t *restrict addr_len)
{
	return received(fd, buf, NEXT(recvfrom)(fd, buf, len, flags, addr, addr_len), len,
			flags & MSG_PEEK);
}

EXPORT ssize_t recvmsg(int fd, struct msghdr *m, int flags)
{
	ssize_t n = NEXT(recvmsg)(fd, m, flags);

	if (flags & MSG_ERRQUEUE)
		return n;
	return received_parts(fd, m ? m->msg_iov : NULL, m ? m->msg_iovlen : 0, n,
			      flags & MSG_PEEK);
}

EXPORT ssize_t readv(int fd, const struct iovec *v, int n_v)
{
	return received_parts(fd, v, n_v > 0 ? (size_t)n_v : 0, NEXT(readv)(fd, v, n_v), false);
}

EXPORT ssize_t __read_chk(int fd, void *buf, size_t len, size_t room)
{
	return received(fd, buf, NEXT(__read_chk)(fd, buf, len, room), len, false);
}

EXPORT ssize_t __recv_chk(int fd, void *buf, size_t len, size_t room, int flags)
{
	return received(fd, buf, NEXT(__recv_chk)(fd, buf, len, room, flags), len,
			flags & MSG_PEEK);
}

EXPORT ssize_t __recvfrom_chk(int fd, void *restrict buf, size_t len, size_t room, int flags,
			      struct sockaddr *restrict addr, socklen_t *restrict addr_len)
{
	return received(fd, buf, NEXT(__recvfrom_chk)(fd, buf, len, room, flags, addr, addr_len),
			len, flags & MSG_PEEK);
}

/* --- sending ------------------------------------------------------------------------------------
 */

EXPORT ssize_t write(int fd, const void *buf, size_t len)
{
	return sent(fd, buf, NEXT(write)(fd, buf, len));
}

EXPORT ssize_t send(int fd, const void *buf, size_t len, int flags)
{
	return sent(fd, buf, NEXT(send)(fd, buf, len, flags));
}

EXPORT ssize_t sendto(int fd, const void *buf, size_t len, int flags, const struct sockaddr *addr,
		      socklen_t addr_len)
{
	return sent(fd, buf, NEXT(sendto)(fd, buf, len, flags, addr, addr_len));
}

EXPORT ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
	ssize_t n = NEXT(sendmsg)(fd, m, flags);

	return sent_parts(fd, m ? m->msg_iov : NULL, m ? m->msg_iovlen : 0, n);
}

EXPORT ssize_t writev(int fd, const struct iovec *v, int n_v)
{
	return sent_parts(fd, v, n_v > 0 ? (size_t)n_v : 0, NEXT(writev)(fd, v, n_v));
}

/* --- beginning and end --------------------------------------------------------------------------
 */

EXPORT int close(int fd)
{
	gone(fd); /* before: afterwards another thread may have the number already */
	return NEXT(close)(fd);
}

EXPORT int shutdown(int fd, int how)
{
	int ret = NEXT(shutdown)(fd, how);
	int saved = errno;

	if (!ret && how != SHUT_RD && UNLIKELY(shim_bound[sock_slot(fd)]) && shim_own->ring &&
	    call_closes(fd))
		tell_end(fd, SSLC_SOCK_LOCAL_FIN, 0);
	errno = saved;
	return ret;
}

static int duplicated(int from, int to)
{
	int saved = errno;

	if (to >= 0 && to != from && to < (int)SSLC_SHIM_FDS && is_clear(from) && ring_is_own())
		clear_dup(from, to);
	errno = saved;
	return to;
}

EXPORT int dup2(int from, int to)
{
	if (from != to)
		gone(to);
	return duplicated(from, NEXT(dup2)(from, to));
}

EXPORT int dup3(int from, int to, int flags)
{
	if (from != to)
		gone(to);
	return duplicated(from, NEXT(dup3)(from, to, flags));
}

static void all_gone(unsigned first, unsigned last)
{
	for (unsigned fd = first; fd <= last && fd < SSLC_SHIM_FDS; fd++)
		gone((int)fd);
}

EXPORT int close_range(unsigned first, unsigned last, int flags)
{
	if (!(flags & 4)) /* CLOSE_RANGE_CLOEXEC closes nothing */
		all_gone(first, last);
	return NEXT(close_range)(first, last, flags);
}

EXPORT void closefrom(int first)
{
	all_gone(first > 0 ? (unsigned)first : 0, SSLC_SHIM_FDS - 1);
	NEXT(closefrom)(first);
}

EXPORT int fclose(FILE *f)
{
	if (f)
		gone(fileno_unlocked(f));
	return NEXT(fclose)(f);
}

EXPORT int socket(int domain, int type, int protocol)
{
	int fd = fresh(NEXT(socket)(domain, type, protocol));

	if ((domain == AF_INET || domain == AF_INET6) && (type & 0xf) == SOCK_STREAM)
		clear_fresh(fd, true);
	return fd;
}

EXPORT int accept(int fd, struct sockaddr *restrict addr, socklen_t *restrict len)
{
	fd = fresh(NEXT(accept)(fd, addr, len));
	clear_fresh(fd, false);
	return fd;
}

EXPORT int accept4(int fd, struct sockaddr *restrict addr, socklen_t *restrict len, int flags)
{
	fd = fresh(NEXT(accept4)(fd, addr, len, flags));
	clear_fresh(fd, false);
	return fd;
}
