/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sink_tcp: packets as a capture file over TCP (PCAP-over-IP). Either it listens and whoever
 * connects gets a header and every packet from then on, or it connects to one receiver, again and
 * again. Packets are appended to one bounded memory (tail.h) and a thread of its own sends them to
 * each reader from there: a reader that is too slow loses its connection, and nobody waits for it.
 * Nothing is encrypted.
 */
#include "sink.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/resolve.h"
#include "sinks/pcapfmt.h"
#include "sinks/tail.h"

#define TCP_TAIL           (16u << 20) /* how far readers may be behind, all together in one memory */
#define TCP_GATHER         (1u << 20) /* packets between two flushes */
#define TCP_PUT_AT         (256u << 10)
#define TCP_CHUNK          (64u << 10) /* one send; the lock is held for its copy */
#define TCP_TURN           16          /* chunks for one reader before the others have their turn */
#define TCP_SNDBUF         (1 << 20)   /* what the kernel may hold for one reader */
#define TCP_READERS        32   /* connections at the same time: descriptors, kernel memory */
#define TCP_LISTENERS      2    /* both loopback addresses */
#define TCP_CLOSE_MS       2000 /* for the last bytes */
#define TCP_RETRY_MIN_MS   1000
#define TCP_RETRY_MAX_MS   30000
#define TCP_CONNECT_MS     10000 /* then the next address is tried */
#define TCP_TELL_MS        1000  /* in which so many readers' coming and going is told: */
#define TCP_TELL_MAX       8
#define TCP_WARN_MS        30000
#define TCP_PAUSE_MS       100 /* after an accept(2) that failed */
#define TCP_KEEPALIVE_S    10  /* a reader that has gone silently is found so */
#define TCP_KEEPALIVE_LAST 3

static COUNTER_DEFINE(c_readers, "sink_tcp_readers", "PCAP-over-IP connections begun");
static COUNTER_DEFINE(c_bytes, "sink_tcp_bytes", "bytes sent over them");
static COUNTER_DEFINE(c_refused, "sink_tcp_readers_refused",
		      "connections closed at once: there were too many");
static COUNTER_DEFINE(c_failed, "sink_tcp_accept_failed",
		      "accept(2) failures, mostly out of file descriptors");
static COUNTER_DEFINE(c_dropped, "sink_tcp_readers_dropped",
		      "connections closed because the reader was too slow");
static COUNTER_DEFINE(c_lost_gone, "sink_tcp_lost_gone",
		      "packets lost: the receiver was not connected");
static COUNTER_DEFINE(c_lost_memory, "sink_tcp_lost_memory", "packets lost: out of memory");

struct reader {
	int fd;           /* -1: this place is free */
	uint32_t nth;     /* tells it from who was in this place before */
	uint64_t at;      /* in the tail */
	size_t head_sent; /* of the file's header */
	bool is_blocked;  /* until the socket is writable */
	bool is_half;     /* it has said that it will send nothing: most do that only to leave */
	bool is_told;     /* that it came: then its going is told, too */
	char name[64];    /* for log lines */
};

enum dial_state {
	DIAL_WAITING,    /* until next_ns, then it is tried again */
	DIAL_RESOLVING,  /* the name is looked up */
	DIAL_CONNECTING, /* dial.fd is on its way to dial.addr, until next_ns */
	DIAL_UP,         /* it is a reader */
};

/* The one connection that we make ourselves. */
struct dial {
	enum dial_state state;
	struct resolve *resolve;
	const struct addrinfo *addr; /* borrowed from resolve */
	int fd;
	uint64_t next_ns;
	unsigned retry_ms;
	bool told; /* that it does not work; not again until it did */
};

struct tcp_sink {
	struct sink sink;
	const struct pcap_format *format;
	char *name;
	char host[256];
	uint16_t port;
	bool dials;
	struct buf out, comment; /* the packets' thread's */
	struct buf head;         /* what each reader gets first; never changes */
	struct tail *tail;
	int wake; /* eventfd: there is more in the tail, or it is time to stop */
	atomic_uint n_readers;
	atomic_bool stop;
	bool has_thread;
	pthread_t thread;
	/* From here on the thread's alone. */
	int epoll;
	int listener[TCP_LISTENERS];
	struct reader reader[TCP_READERS];
	uint32_t n_begun;
	struct dial dial;
	uint64_t accept_ns; /* nobody is let in before; 0: whoever comes */
	struct log_rate refused_rate, begun_rate, dropped_rate, failed_rate;
	unsigned n_told; /* readers, since begun_rate said yes */
	uint8_t chunk[TCP_CHUNK];
};

/* Epoll tells which; of readers in the upper half which one of those that had the place. */
enum { TOKEN_WAKE, TOKEN_RESOLVE, TOKEN_DIAL, TOKEN_LISTENER, TOKEN_READER = 16 };

static uint64_t token_of(const struct tcp_sink *s, const struct reader *r)
{
	return TOKEN_READER + (uint64_t)(r - s->reader) + ((uint64_t)r->nth << 32);
}

static int watch(struct tcp_sink *s, int fd, uint32_t events, uint64_t token)
{
	struct epoll_event ev = {.events = events, .data.u64 = token};

	return epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &ev) ? -errno : 0;
}

static void watch_again(struct tcp_sink *s, struct reader *r)
{
	struct epoll_event ev = {.events = (r->is_half ? 0 : EPOLLIN) |
					   (r->is_blocked ? EPOLLOUT : 0),
				 .data.u64 = token_of(s, r)};

	(void)epoll_ctl(s->epoll, EPOLL_CTL_MOD, r->fd, &ev);
}

static void listeners_watch(struct tcp_sink *s, uint32_t events)
{
	for (unsigned i = 0; i < TCP_LISTENERS; i++) {
		struct epoll_event ev = {.events = events, .data.u64 = TOKEN_LISTENER + i};

		if (s->listener[i] >= 0)
			(void)epoll_ctl(s->epoll, EPOLL_CTL_MOD, s->listener[i], &ev);
	}
}

/* Readers */

static void dial_again(struct tcp_sink *s);

/* `broken`: it must not take what it has for all. */
static void reader_close(struct tcp_sink *s, struct reader *r, bool broken)
{
	const struct linger reset = {.l_onoff = 1};

	if (broken)
		(void)setsockopt(r->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	close(r->fd);
	r->fd = -1;
	atomic_fetch_sub(&s->n_readers, 1);
	if (s->dials)
		dial_again(s);
}

static void reader_gone(struct tcp_sink *s, struct reader *r)
{
	if (r->is_told)
		log_info("sink_tcp: %s: %s is gone", s->name, r->name);
	reader_close(s, r, false);
}

static void reader_drop(struct tcp_sink *s, struct reader *r)
{
	uint64_t held;

	counter_inc(&c_dropped);
	if (log_rate_ok(&s->dropped_rate, TCP_WARN_MS, &held))
		log_warn(
			"sink_tcp: %s: %s is too slow by more than %u MiB and loses its connection",
			s->name, r->name, TCP_TAIL >> 20);
	reader_close(s, r, true);
}

/* What comes next for it: bytes at s->chunk or of the header. 0: nothing yet; -ESTALE. */
static ssize_t reader_next(struct tcp_sink *s, const struct reader *r, const uint8_t **p)
{
	if (r->head_sent < s->head.len) {
		*p = s->head.p + r->head_sent;
		return (ssize_t)(s->head.len - r->head_sent);
	}
	*p = s->chunk;
	return tail_read(s->tail, r->at, s->chunk, sizeof(s->chunk));
}

static void reader_sent(struct tcp_sink *s, struct reader *r, size_t n)
{
	if (r->head_sent < s->head.len)
		r->head_sent += n;
	else
		r->at += n;
	counter_add(&c_bytes, n);
}

/* As much as it takes now, within its turn. True when there may be more for it. */
static bool reader_serve(struct tcp_sink *s, struct reader *r)
{
	for (unsigned i = 0; i < TCP_TURN; i++) {
		const uint8_t *p;
		ssize_t n = reader_next(s, r, &p);

		if (n == -ESTALE) {
			reader_drop(s, r);
			return false;
		}
		if (n == 0)
			return false;
		n = send(r->fd, p, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno != EAGAIN && errno != EINTR) {
			reader_gone(s, r);
			return false;
		}
		if (n < 0) {
			r->is_blocked = true;
			watch_again(s, r);
			return false;
		}
		reader_sent(s, r, (size_t)n);
	}
	return true;
}

/* A reader that waits for its socket may have lost its place meanwhile. */
static void reader_check(struct tcp_sink *s, struct reader *r)
{
	uint8_t none;

	if (tail_read(s->tail, r->at, &none, 0) == -ESTALE)
		reader_drop(s, r);
}

/* Everybody gets what is new. True when some have not had all of it. */
static bool serve_all(struct tcp_sink *s)
{
	bool more = false;

	for (unsigned i = 0; i < TCP_READERS; i++) {
		struct reader *r = &s->reader[i];

		if (r->fd >= 0 && r->is_blocked)
			reader_check(s, r);
		else if (r->fd >= 0)
			more |= reader_serve(s, r);
	}
	return more;
}

static void socket_prepare(int fd)
{
	int one = 1, idle = TCP_KEEPALIVE_S, last = TCP_KEEPALIVE_LAST, sndbuf = TCP_SNDBUF;

	(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &sndbuf, sizeof(sndbuf));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &idle, sizeof(idle));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &last, sizeof(last));
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
}

static void name_peer(char out[64], const struct sockaddr *sa, socklen_t len)
{
	char host[NI_MAXHOST] = "?", port[NI_MAXSERV] = "?";

	(void)getnameinfo(sa, len, host, sizeof(host), port, sizeof(port),
			  NI_NUMERICHOST | NI_NUMERICSERV);
	snprintf(out, 64, strchr(host, ':') ? "[%.48s]:%s" : "%.48s:%s", host, port);
}

static struct reader *place_free(struct tcp_sink *s)
{
	for (unsigned i = 0; i < TCP_READERS; i++)
		if (s->reader[i].fd < 0)
			return &s->reader[i];
	for (unsigned i = 0; i < TCP_READERS; i++)
		if (s->reader[i].is_half) {
			reader_gone(s, &s->reader[i]);
			return &s->reader[i];
		}
	return NULL;
}

/* *held: how many came before that nobody was told of. */
static bool may_tell(struct tcp_sink *s, uint64_t *held)
{
	if (log_rate_ok(&s->begun_rate, TCP_TELL_MS, held)) {
		s->n_told = 1;
		return true;
	}
	if (s->n_told == TCP_TELL_MAX)
		return false;
	s->n_told++;
	s->begun_rate.held--; /* it is told */
	*held = 0;
	return true;
}

/* fd, which becomes the reader's, from here on: a header and whole packets. */
static bool reader_begin(struct tcp_sink *s, int fd, const char *name)
{
	struct reader *r = place_free(s);
	uint64_t held;

	if (r)
		r->nth = ++s->n_begun;
	if (!r || watch(s, fd, EPOLLIN, token_of(s, r))) {
		close(fd);
		return false;
	}
	*r = (struct reader){.fd = fd, .nth = r->nth, .at = tail_end(s->tail)};
	snprintf(r->name, sizeof(r->name), "%s", name);
	atomic_fetch_add(&s->n_readers, 1);
	counter_inc(&c_readers);
	r->is_told = may_tell(s, &held);
	if (r->is_told && held)
		log_info("sink_tcp: %s: %s reads (and %" PRIu64 " came before that are not told)",
			 s->name, name, held);
	else if (r->is_told)
		log_info("sink_tcp: %s: %s reads", s->name, name);
	(void)reader_serve(s, r);
	return true;
}

/* Out of descriptors, mostly: others may close in the meantime. */
static void accept_fails(struct tcp_sink *s, int err)
{
	uint64_t held;

	if (err == EAGAIN || err == EINTR || err == ECONNABORTED)
		return;
	counter_inc(&c_failed);
	if (log_rate_ok(&s->failed_rate, TCP_WARN_MS, &held))
		log_warn("sink_tcp: %s: cannot take a connection: %s%s", s->name, strerror(err),
			 log_advice(err));
	s->accept_ns = clock_mono_ns() + TCP_PAUSE_MS * NS_PER_MS;
	listeners_watch(s, 0);
}

/* Returns ms until it is to be called again, -1: not. */
static int accept_tick(struct tcp_sink *s)
{
	uint64_t now = clock_mono_ns();

	if (!s->accept_ns)
		return -1;
	if (now < s->accept_ns)
		return (int)((s->accept_ns - now) / NS_PER_MS) + 1;
	s->accept_ns = 0;
	listeners_watch(s, EPOLLIN);
	return -1;
}

static void on_listener(struct tcp_sink *s, int listener)
{
	struct sockaddr_storage peer;
	socklen_t len = sizeof(peer);
	int fd = accept4(listener, (struct sockaddr *)&peer, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
	char name[64];
	uint64_t held;

	if (fd < 0) {
		accept_fails(s, errno);
		return;
	}
	socket_prepare(fd);
	name_peer(name, (struct sockaddr *)&peer, len);
	if (reader_begin(s, fd, name))
		return;
	counter_inc(&c_refused);
	if (log_rate_ok(&s->refused_rate, TCP_WARN_MS, &held))
		log_warn("sink_tcp: %s: %s is refused: %d connections are the limit", s->name, name,
			 TCP_READERS);
}

/* What a reader says does not matter, only that it leaves. */
static void reader_heard(struct tcp_sink *s, struct reader *r)
{
	char nothing[4096];
	ssize_t n = recv(r->fd, nothing, sizeof(nothing), MSG_DONTWAIT);

	if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)))
		return;
	if (n < 0) {
		reader_gone(s, r);
		return;
	}
	r->is_half = true;
	watch_again(s, r);
}

static void on_reader(struct tcp_sink *s, struct reader *r, uint32_t events)
{
	if (r->fd >= 0 && events & (EPOLLERR | EPOLLHUP)) {
		reader_gone(s, r);
		return;
	}
	if (r->fd >= 0 && events & EPOLLIN)
		reader_heard(s, r);
	if (r->fd >= 0 && events & EPOLLOUT) {
		r->is_blocked = false;
		watch_again(s, r);
	}
}

/* Connecting */

static void dial_say(struct tcp_sink *s, const char *why, const char *advice)
{
	if (!s->dial.told)
		log_warn("sink_tcp: %s: %s%s; trying again, and packets are counted as lost until "
			 "then",
			 s->name, why, advice);
	s->dial.told = true;
}

static void dial_complain(struct tcp_sink *s, int err)
{
	dial_say(s, strerror(err), log_advice(err));
}

static void dial_stop(struct tcp_sink *s)
{
	if (s->dial.fd >= 0)
		close(s->dial.fd);
	s->dial.fd = -1;
	resolve_unref(s->dial.resolve);
	s->dial.resolve = NULL;
}

static void dial_again(struct tcp_sink *s)
{
	struct dial *d = &s->dial;

	dial_stop(s);
	d->state = DIAL_WAITING;
	d->next_ns = clock_mono_ns() + d->retry_ms * NS_PER_MS;
	d->retry_ms = d->retry_ms * 2 > TCP_RETRY_MAX_MS ? TCP_RETRY_MAX_MS : d->retry_ms * 2;
}

static void dial_up(struct tcp_sink *s)
{
	struct dial *d = &s->dial;
	int fd = d->fd;
	char name[64];

	name_peer(name, d->addr->ai_addr, d->addr->ai_addrlen);
	(void)epoll_ctl(s->epoll, EPOLL_CTL_DEL, fd, NULL);
	d->fd = -1;
	dial_stop(s);
	d->state = DIAL_UP;
	d->retry_ms = TCP_RETRY_MIN_MS;
	d->told = false;
	if (!reader_begin(s, fd, name))
		dial_again(s);
}

/* The address at hand, or one behind it; none left: later. */
static void dial_connect(struct tcp_sink *s)
{
	struct dial *d = &s->dial;
	int err = 0;

	for (; d->addr; d->addr = d->addr->ai_next) {
		d->fd = socket(d->addr->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		if (d->fd < 0) {
			err = errno;
			continue;
		}
		socket_prepare(d->fd);
		if (connect(d->fd, d->addr->ai_addr, d->addr->ai_addrlen) && errno != EINPROGRESS)
			err = errno;
		else if (!watch(s, d->fd, EPOLLOUT, TOKEN_DIAL)) {
			d->state = DIAL_CONNECTING;
			d->next_ns = clock_mono_ns() + TCP_CONNECT_MS * NS_PER_MS;
			return;
		}
		close(d->fd);
		d->fd = -1;
	}
	if (err)
		dial_complain(s, err);
	dial_again(s);
}

static void dial_failed(struct tcp_sink *s, int err)
{
	dial_complain(s, err);
	close(s->dial.fd);
	s->dial.fd = -1;
	s->dial.addr = s->dial.addr->ai_next;
	dial_connect(s);
}

static void on_dialled(struct tcp_sink *s)
{
	socklen_t len = sizeof(int);
	int err = 0;

	if (s->dial.state != DIAL_CONNECTING)
		return;
	if (getsockopt(s->dial.fd, SOL_SOCKET, SO_ERROR, &err, &len))
		err = errno;
	if (err)
		dial_failed(s, err);
	else
		dial_up(s);
}

static void on_resolved(struct tcp_sink *s)
{
	struct dial *d = &s->dial;

	if (d->state != DIAL_RESOLVING || !resolve_is_done(d->resolve))
		return;
	(void)epoll_ctl(s->epoll, EPOLL_CTL_DEL, resolve_fd(d->resolve), NULL);
	if (resolve_error(d->resolve)) {
		dial_say(s, gai_strerror(resolve_error(d->resolve)), "");
		dial_again(s);
		return;
	}
	d->addr = resolve_list(d->resolve);
	dial_connect(s);
}

static void dial_resolve(struct tcp_sink *s)
{
	struct dial *d = &s->dial;

	d->resolve = resolve_new(s->host, s->port);
	d->state = DIAL_RESOLVING;
	if (!d->resolve || watch(s, resolve_fd(d->resolve), EPOLLIN, TOKEN_RESOLVE) ||
	    !resolve_start(d->resolve)) {
		dial_say(s, "cannot look up its name: out of descriptors, memory or threads", "");
		dial_again(s);
	}
}

/* What is due; returns ms until the next time, -1: nothing is waited for. */
static int dial_tick(struct tcp_sink *s)
{
	struct dial *d = &s->dial;
	uint64_t now = clock_mono_ns();

	if (!s->dials || d->state == DIAL_UP || d->state == DIAL_RESOLVING)
		return -1;
	if (now >= d->next_ns && d->state == DIAL_CONNECTING)
		dial_failed(s, ETIMEDOUT);
	else if (now >= d->next_ns)
		dial_resolve(s);
	if (d->state == DIAL_UP || d->state == DIAL_RESOLVING)
		return -1;
	return now >= d->next_ns ? 0 : (int)((d->next_ns - now) / NS_PER_MS) + 1;
}

/* The thread */

static void on_wake(struct tcp_sink *s)
{
	uint64_t n;

	if (read(s->wake, &n, sizeof(n)) < 0)
		return; /* somebody else's turn */
}

static void on_event(struct tcp_sink *s, const struct epoll_event *ev)
{
	unsigned token = (uint32_t)ev->data.u64;

	if (token == TOKEN_WAKE)
		on_wake(s);
	else if (token == TOKEN_RESOLVE)
		on_resolved(s);
	else if (token == TOKEN_DIAL)
		on_dialled(s);
	else if (token < TOKEN_READER)
		on_listener(s, s->listener[token - TOKEN_LISTENER]);
	else if (s->reader[token - TOKEN_READER].nth == ev->data.u64 >> 32)
		on_reader(s, &s->reader[token - TOKEN_READER], ev->events);
}

static void turn(struct tcp_sink *s, int wait_ms)
{
	struct epoll_event ev[16];
	int n = epoll_wait(s->epoll, ev, 16, wait_ms);

	for (int i = 0; i < n; i++)
		on_event(s, &ev[i]);
}

static bool is_all_sent(struct tcp_sink *s)
{
	uint64_t end = tail_end(s->tail);

	for (unsigned i = 0; i < TCP_READERS; i++)
		if (s->reader[i].fd >= 0 &&
		    (s->reader[i].at < end || s->reader[i].head_sent < s->head.len))
			return false;
	return true;
}

/* Of two waits in ms; -1: for ever. */
static int sooner(int a, int b)
{
	return a < 0 || (b >= 0 && b < a) ? b : a;
}

static void *tcp_thread(void *ctx)
{
	struct tcp_sink *s = ctx;
	uint64_t deadline;
	bool more = false;

	while (!atomic_load(&s->stop)) {
		int wait_ms = sooner(dial_tick(s), accept_tick(s));

		turn(s, more ? 0 : wait_ms);
		more = serve_all(s);
	}
	deadline = clock_mono_ns() + TCP_CLOSE_MS * NS_PER_MS;
	while (serve_all(s) || (!is_all_sent(s) && clock_mono_ns() < deadline))
		turn(s, 10);
	return NULL;
}

/* Packets, from their own thread */

static void tcp_put(struct tcp_sink *s)
{
	const uint64_t one = 1;

	if (!s->out.len)
		return;
	tail_put(s->tail, buf_span(&s->out));
	buf_reset(&s->out);
	if (write(s->wake, &one, sizeof(one)) < 0)
		log_debug("sink_tcp: %s: wake: %s", s->name, strerror(errno));
}

static void tcp_packet(struct sink *sink, struct span l2, uint64_t ts_ns,
		       const struct sink_flow *flow, bool first)
{
	struct tcp_sink *s = (struct tcp_sink *)sink;

	if (!atomic_load(&s->n_readers)) {
		if (s->dials)
			counter_inc(&c_lost_gone);
		return;
	}
	buf_reset(&s->comment);
	if (first && flow && flow->open && s->format->has_comments)
		pcapfmt_comment(&s->comment, flow, &s->sink.shape);
	if (buf_reserve(&s->out, PCAPFMT_OVERHEAD + l2.len + s->comment.len)) {
		s->out.bad = false;
		counter_inc(&c_lost_memory);
		return;
	}
	s->format->packet(&s->out, l2, ts_ns, buf_span(&s->comment));
	if (s->out.len >= TCP_PUT_AT)
		tcp_put(s);
}

static void tcp_flush(struct sink *sink)
{
	tcp_put((struct tcp_sink *)sink);
}

/* Opening */

static int listen_on(struct tcp_sink *s, unsigned i, const char *addr)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
				       .ai_flags = AI_NUMERICHOST | AI_PASSIVE};
	struct addrinfo *list = NULL;
	char port[8];
	int fd, one = 1, err = 0;

	snprintf(port, sizeof(port), "%u", s->port);
	if (getaddrinfo(addr, port, &hints, &list))
		return -EINVAL;
	fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
	    bind(fd, list->ai_addr, list->ai_addrlen) || listen(fd, TCP_READERS))
		err = -errno;
	freeaddrinfo(list);
	if (!err)
		err = watch(s, fd, EPOLLIN, TOKEN_LISTENER + i);
	if (!err)
		s->listener[i] = fd;
	else if (fd >= 0)
		close(fd);
	return err;
}

static bool is_loopback(const char *addr)
{
	struct in6_addr in6;
	struct in_addr in;

	return (inet_pton(AF_INET, addr, &in) == 1 && ntohl(in.s_addr) >> 24 == 127) ||
	       (inet_pton(AF_INET6, addr, &in6) == 1 && IN6_IS_ADDR_LOOPBACK(&in6));
}

static int open_listeners(struct tcp_sink *s)
{
	int err;

	if (s->host[0] && !is_loopback(s->host))
		log_warn("sink_tcp: %s: whoever can connect to it reads all plaintext, and so does "
			 "the network on the way: nothing is encrypted",
			 s->name);
	err = listen_on(s, 0, s->host[0] ? s->host : "127.0.0.1");
	if (err)
		log_error("sink_tcp: %s: cannot listen: %s", s->name, strerror(-err));
	else if (!s->host[0])
		(void)listen_on(s, 1, "::1"); /* not every host has IPv6 */
	return err;
}

static int start_thread(struct tcp_sink *s)
{
	sigset_t all, old;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are the main thread's */
	err = -pthread_create(&s->thread, NULL, tcp_thread, s);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	s->has_thread = !err;
	return err;
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

static void tcp_close(struct sink *sink)
{
	struct tcp_sink *s = (struct tcp_sink *)sink;
	const uint64_t one = 1;

	if (!s)
		return;
	if (s->has_thread) {
		tcp_put(s);
		atomic_store(&s->stop, true);
		if (write(s->wake, &one, sizeof(one)) < 0)
			log_debug("sink_tcp: %s: wake: %s", s->name, strerror(errno));
		pthread_join(s->thread, NULL);
	}
	dial_stop(s);
	for (unsigned i = 0; i < TCP_READERS; i++)
		close_fd(s->reader[i].fd);
	for (unsigned i = 0; i < TCP_LISTENERS; i++)
		close_fd(s->listener[i]);
	close_fd(s->epoll);
	close_fd(s->wake);
	tail_free(s->tail);
	buf_cleanse(&s->out);
	buf_fini(&s->comment);
	buf_fini(&s->head);
	free(s->name);
	explicit_bzero(s->chunk, sizeof(s->chunk));
	free(s);
}

static struct tcp_sink *tcp_alloc(const struct sink_conf *conf)
{
	struct tcp_sink *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->dials = !strcmp(conf->kind, sink_dial_ops.name);
	s->sink.ops = s->dials ? &sink_dial_ops : &sink_tcp_ops;
	s->format = conf->pcapng ? &pcapfmt_ng : &pcapfmt_classic;
	s->wake = s->epoll = s->dial.fd = -1;
	s->dial.retry_ms = TCP_RETRY_MIN_MS;
	for (unsigned i = 0; i < TCP_READERS; i++)
		s->reader[i].fd = -1;
	for (unsigned i = 0; i < TCP_LISTENERS; i++)
		s->listener[i] = -1;
	buf_init(&s->out, TCP_GATHER);
	buf_init(&s->comment, PCAPFMT_COMMENT_MAX);
	buf_init(&s->head, PCAPFMT_COMMENT_MAX);
	s->format->header(&s->head);
	s->name = strdup(conf->target);
	if (s->name && !s->head.bad && !tail_new(&s->tail, TCP_TAIL))
		return s;
	tcp_close(&s->sink);
	return NULL;
}

static int tcp_start(struct tcp_sink *s)
{
	int err;

	s->epoll = epoll_create1(EPOLL_CLOEXEC);
	s->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->epoll < 0 || s->wake < 0)
		return -errno;
	err = watch(s, s->wake, EPOLLIN, TOKEN_WAKE);
	if (!err && !s->dials)
		err = open_listeners(s);
	return err ? err : start_thread(s);
}

static int tcp_open(struct sink **out, const struct sink_conf *conf)
{
	struct tcp_sink *s = tcp_alloc(conf);
	int err = -ENOMEM;

	if (!s)
		goto fail;
	err = sink_split_address(conf->target, s->host, &s->port);
	if (err)
		goto fail;
	err = tcp_start(s);
	if (err)
		goto fail;
	*out = &s->sink;
	return 0;
fail:
	log_error("sink_tcp: %s: not opened: %s", conf->target, strerror(-err));
	if (s)
		tcp_close(&s->sink);
	return err;
}

const struct sink_ops sink_tcp_ops = {
	.name = "pcap-over-ip",
	.open = tcp_open,
	.packet = tcp_packet,
	.flush = tcp_flush,
	.close = tcp_close,
};

const struct sink_ops sink_dial_ops = {
	.name = "pcap-over-ip-to",
	.open = tcp_open,
	.packet = tcp_packet,
	.flush = tcp_flush,
	.close = tcp_close,
};
