/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dial: see dial.h. A name in, verified TLS connections out. Says nothing to a log: whoever asked
 * for a connection decides whom to tell. Never reads or writes what crosses it.
 */
#include "aggregate/dial.h"

#include <errno.h>
#include <event2/bufferevent_ssl.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/queue.h"
#include "base/resolve.h"
#include "bevtls.h"
#include "trust.h"

#define CONNECT_S    3    /* one address; the next may answer */
#define HANDSHAKE_S  5    /* TLS */
#define KNOWN_S      5    /* an answer about a name is good for those who come so soon after */
#define HOLD_MIN_MS  200  /* a collector that did not answer is left alone for so long, */
#define HOLD_MAX_MS  2000 /* and for twice as long when it did not again */
#define DEAD_AFTER_S 30   /* what the peer's host does not acknowledge */

static const struct trust_role aggregator = {
	.stage = "aggregate",
	.self = "collector",
	.enroll = "sslcollector enroll -C HOST TOKEN",
	.restart = "it",
};

struct dialer {
	struct dialer_conf conf;
	struct trust trust;
	char where[300];
	struct resolve *lookup; /* the last one, or the one under way; NULL: none yet */
	struct event *lookup_ev;
	uint64_t known_ns;    /* when it was answered */
	struct queue waiting; /* for it */
	uint64_t hold_ns;     /* nobody is let through before */
	unsigned hold_ms;
	char why[DIAL_TEXT_MAX];
};

enum dial_state {
	DIAL_LOOKUP,    /* in dialer.waiting */
	DIAL_CONNECT,   /* TCP to addr is under way on fd */
	DIAL_HANDSHAKE, /* TLS on bev */
};

struct dial {
	struct queue_node node;
	struct dialer *d;
	dial_done *done;
	void *ctx;
	enum dial_state state;
	struct resolve *lookup; /* a reference: it owns addr */
	const struct addrinfo *addr;
	int fd; /* -1: none, or bev's */
	struct event *connect_ev, *late_ev;
	struct bufferevent *bev;
};

static void connect_next(struct dial *c, int last_err);

/* ---- ends ---- */

static void event_drop(struct event **ev)
{
	if (*ev)
		event_free(*ev);
	*ev = NULL;
}

void dial_cancel(struct dial *c)
{
	if (!c)
		return;
	queue_remove(&c->node);
	event_drop(&c->connect_ev);
	event_drop(&c->late_ev);
	if (c->bev)
		bufferevent_free(c->bev);
	if (c->fd >= 0)
		close(c->fd);
	resolve_unref(c->lookup);
	free(c);
}

void dialer_hold(struct dialer *d, const char *why)
{
	uint64_t now_ns = clock_mono_ns();

	snprintf(d->why, sizeof(d->why), "%s", why);
	if (now_ns < d->hold_ns)
		return; /* many failed at once: that is one time */
	d->hold_ms = d->hold_ms ? d->hold_ms * 2 : HOLD_MIN_MS;
	if (d->hold_ms > HOLD_MAX_MS)
		d->hold_ms = HOLD_MAX_MS;
	d->hold_ns = now_ns + d->hold_ms * NS_PER_MS;
}

/* The one way by which an attempt fails. */
static void __attribute__((format(printf, 2, 3))) dial_fail(struct dial *c, const char *fmt, ...)
{
	dial_done *done = c->done;
	void *ctx = c->ctx;
	char why[DIAL_TEXT_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	dialer_hold(c->d, why);
	dial_cancel(c);
	done(ctx, NULL, why);
}

/* ---- TLS ---- */

/* `lead` and `tail` go around a cause that says nothing of who and what to do. */
static void cause_text(const struct dialer *d, struct bufferevent *bev, short what,
		       const char *lead, const char *tail, char *out, size_t size)
{
	int sock_err = EVUTIL_SOCKET_ERROR();
	unsigned long code = bevtls_code(bev);
	long verify = SSL_get_verify_result(bufferevent_openssl_get_ssl(bev));
	char cause[128], hint[128];

	bevtls_cause_of(code, sock_err, what, cause, sizeof(cause));
	if (!d->trust.insecure && verify != X509_V_OK)
		trust_verify_text(&d->trust, d->where, verify, out, size);
	else if (tls_is_auth_alert(code))
		snprintf(out, size, "%s does not accept this collector's certificate: %s: %s",
			 d->where, cause, trust_alert_hint(&d->trust, hint, sizeof(hint)));
	else
		snprintf(out, size, "%s%s: %s%s", lead, d->where, cause, tail);
}

void dialer_cause(const struct dialer *d, struct bufferevent *bev, short what, char *out,
		  size_t size)
{
	cause_text(d, bev, what, "", "", out, size);
}

static void on_tls(struct bufferevent *bev, short what, void *ctx)
{
	struct dial *c = ctx;
	dial_done *done = c->done;
	void *owner = c->ctx;
	char why[DIAL_TEXT_MAX];

	if (!(what & BEV_EVENT_CONNECTED)) {
		cause_text(c->d, bev, what, "TLS with ", ": is an sslcollector listening there?",
			   why, sizeof(why));
		dial_fail(c, "%s", why);
		return;
	}
	c->d->hold_ms = 0;
	c->bev = NULL;
	dial_cancel(c);
	bufferevent_setcb(bev, NULL, NULL, NULL, NULL);
	bufferevent_disable(bev, EV_READ | EV_WRITE);
	done(owner, bev, NULL);
}

static void on_late(evutil_socket_t fd, short what, void *ctx)
{
	struct dial *c = ctx;

	(void)fd;
	(void)what;
	dial_fail(c, "%s does not answer: is an sslcollector listening there?", c->d->where);
}

static void start_tls(struct dial *c)
{
	static const struct timeval wait = {.tv_sec = HANDSHAKE_S};
	SSL *ssl = trust_ssl_new(&c->d->trust);

	c->state = DIAL_HANDSHAKE;
	if (ssl)
		c->bev = bufferevent_openssl_socket_new(c->d->conf.base, c->fd, ssl,
							BUFFEREVENT_SSL_CONNECTING,
							BEV_OPT_CLOSE_ON_FREE);
	if (!c->bev) {
		SSL_free(ssl);
		dial_fail(c, "cannot start TLS with %s: out of memory", c->d->where);
		return;
	}
	c->fd = -1; /* bev's now */
	c->late_ev = evtimer_new(c->d->conf.base, on_late, c);
	if (!c->late_ev || event_add(c->late_ev, &wait)) {
		dial_fail(c, "out of memory");
		return;
	}
	bufferevent_setcb(c->bev, NULL, NULL, on_tls, c);
	bufferevent_enable(c->bev, EV_READ | EV_WRITE);
}

/* ---- TCP ---- */

static void socket_tune(int fd)
{
	int one = 1, dead_ms = DEAD_AFTER_S * 1000;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &dead_ms, sizeof(dead_ms));
}

static void connect_undo(struct dial *c)
{
	event_drop(&c->connect_ev);
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
}

static void on_connect(evutil_socket_t fd, short what, void *ctx)
{
	struct dial *c = ctx;
	socklen_t len = sizeof(int);
	int err = ETIMEDOUT;

	event_drop(&c->connect_ev);
	if (!(what & EV_TIMEOUT) && getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0)
		err = errno;
	if (!err) {
		start_tls(c);
		return;
	}
	connect_undo(c);
	c->addr = c->addr->ai_next;
	connect_next(c, err);
}

/* Begin with c->addr; 0, or the errno that makes us try the next. */
static int connect_start(struct dial *c)
{
	static const struct timeval wait = {.tv_sec = CONNECT_S};

	c->fd = socket(c->addr->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		return errno;
	socket_tune(c->fd);
	if (connect(c->fd, c->addr->ai_addr, c->addr->ai_addrlen) < 0 && errno != EINPROGRESS)
		return errno;
	c->connect_ev = event_new(c->d->conf.base, c->fd, EV_WRITE, on_connect, c);
	if (!c->connect_ev || event_add(c->connect_ev, &wait))
		return ENOMEM;
	return 0;
}

static void connect_next(struct dial *c, int last_err)
{
	c->state = DIAL_CONNECT;
	for (; c->addr; c->addr = c->addr->ai_next) {
		int err = connect_start(c);

		if (!err)
			return;
		last_err = err;
		connect_undo(c);
	}
	dial_fail(c, "cannot connect to %s: %s%s", c->d->where, strerror(last_err),
		  log_advice(last_err));
}

/* ---- names ---- */

static void on_looked_up(evutil_socket_t fd, short what, void *ctx)
{
	struct dialer *d = ctx;
	struct queue_node *n;
	int err;

	(void)fd;
	(void)what;
	if (!resolve_is_done(d->lookup))
		return;
	event_drop(&d->lookup_ev);
	d->known_ns = clock_mono_ns();
	err = resolve_error(d->lookup);
	while ((n = queue_first(&d->waiting))) {
		struct dial *c = queue_entry(n, struct dial, node);

		queue_remove(n);
		if (err) {
			dial_fail(c, "cannot resolve %s: %s", d->conf.host, gai_strerror(err));
			continue;
		}
		c->lookup = resolve_ref(d->lookup);
		c->addr = resolve_list(c->lookup);
		connect_next(c, EHOSTUNREACH);
	}
	if (err) {
		resolve_unref(d->lookup);
		d->lookup = NULL;
	}
}

/* A lookup is under way afterwards, or was answered just now. The resolver's thread gets no
 * signals. */
static bool lookup_start(struct dialer *d)
{
	sigset_t all, before;
	bool ok;

	if (d->lookup_ev)
		return true;
	if (!d->lookup || clock_mono_ns() - d->known_ns > KNOWN_S * NS_PER_S) {
		resolve_unref(d->lookup);
		d->lookup = resolve_new(d->conf.host, d->conf.port);
		if (!d->lookup)
			return false;
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &before);
		ok = resolve_start(d->lookup);
		pthread_sigmask(SIG_SETMASK, &before, NULL);
		if (!ok) {
			resolve_unref(d->lookup);
			d->lookup = NULL;
			return false;
		}
	}
	d->lookup_ev = event_new(d->conf.base, resolve_fd(d->lookup), EV_READ, on_looked_up, d);
	if (d->lookup_ev && !event_add(d->lookup_ev, NULL))
		return true;
	event_drop(&d->lookup_ev);
	return false;
}

struct dial *dial_start(struct dialer *d, dial_done *done, void *ctx)
{
	struct dial *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	*c = (struct dial){.d = d, .done = done, .ctx = ctx, .fd = -1};
	queue_push(&d->waiting, &c->node);
	if (lookup_start(d))
		return c;
	dial_cancel(c);
	return NULL;
}

/* ---- a dialer ---- */

int dialer_open(struct dialer **out, const struct dialer_conf *conf)
{
	struct dialer *d = calloc(1, sizeof(*d));
	int err;

	if (!d)
		return -ENOMEM;
	d->conf = *conf;
	queue_init(&d->waiting);
	snprintf(d->where, sizeof(d->where), strchr(conf->host, ':') ? "[%s]:%u" : "%s:%u",
		 conf->host, conf->port);
	err = trust_open(&d->trust, &aggregator, conf->host, &conf->files, conf->dir,
			 conf->insecure);
	if (err) {
		dialer_close(d);
		return err;
	}
	*out = d;
	return 0;
}

void dialer_close(struct dialer *d)
{
	if (!d)
		return;
	event_drop(&d->lookup_ev);
	resolve_unref(d->lookup);
	trust_close(&d->trust);
	free(d);
}

const char *dialer_where(const struct dialer *d)
{
	return d->where;
}

const char *dialer_held(const struct dialer *d, uint64_t now_ns)
{
	return now_ns < d->hold_ns ? d->why : NULL;
}
