/* SPDX-License-Identifier: Apache-2.0 */
/*
 * acceptor: TCP and TLS server. Connections in, bytes to ingest or enroll_server, answers out.
 * Refuses strangers with a reason, drops who is silent, stops reading from who does not read. One
 * link's trouble never touches another. Never logs what a peer sent.
 */
#include "acceptor.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <event2/listener.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/pki.h"
#include "base/queue.h"
#include "bevtls.h"
#include "enroll_server.h"
#include "ingest.h"

#define LISTEN_BACKLOG  512
#define CLOSING_S       2            /* how long a refused peer may take to read why */
#define PAUSE_ACCEPT_MS 100          /* after EMFILE: others may close in the meantime */
#define OUTPUT_MAX      (256u << 10) /* answers that wait for a slow reader: stop reading it */
#define OUTPUT_RESUME   (64u << 10)
#define REPLY_MAX       (4u << 20)  /* one full envelope of pings answered one by one: 1.9 MB */
#define LINE_MS         100         /* at most one line so often about strangers */
#define RECORD_LEN      16384       /* the most that one TLS record carries (RFC 8446, 5.1) */
#define READ_RECORDS    16          /* of one link before the others, the timers and a flush */
#define READ_LEN        (64u << 10) /* one read(2) of a link that is up: four full records */
#define READ_MARK       (1u << 20)  /* never reached: makes libevent ask for whole records */

static COUNTER_DEFINE(n_accepted, "link_accepted", "links that passed TLS and authentication");
static COUNTER_DEFINE(n_tls, "link_refused_tls", "connections whose TLS handshake failed");
static COUNTER_DEFINE(n_unenrolled, "link_refused_unenrolled", "links refused: no certificate");
static COUNTER_DEFINE(n_alpn, "link_refused_alpn",
		      "connections that speak another protocol over TLS");
static COUNTER_DEFINE(n_busy, "link_refused_busy", "links refused: bound of links or handshakes");
static COUNTER_DEFINE(n_late, "link_timeout_handshake", "connections closed: no handshake in time");
static COUNTER_DEFINE(n_mute, "link_timeout_hello", "connections closed: no hello in time");
static COUNTER_DEFINE(n_silent, "link_timeout_silent", "links closed: silent too long");
static COUNTER_DEFINE(n_lost, "link_lost", "links that ended without our doing");
static COUNTER_DEFINE(n_emfile, "accept_failed",
		      "accept(2) failures, mostly out of file descriptors");
static COUNTER_DEFINE(n_links_now, "links", "links up now");

enum link_state {
	LINK_HANDSHAKE, /* TLS is under way */
	LINK_HELLO,     /* authenticated; its hello is awaited */
	LINK_UP,        /* greeted: blocks come in */
	LINK_ENROLL,    /* enrolment ALPN: a request is awaited */
	LINK_CLOSING,   /* our last words are on the way; input is thrown away */
	LINK_DEAD,      /* ended; freed by reap(), when no callback of it can be on the stack */
};

struct link {
	struct queue_node node;  /* acceptor.links */
	struct queue_node dirty; /* acceptor.dirty: bytes came in that are not acknowledged */
	struct queue_node again; /* acceptor.again: OpenSSL has more */
	uint64_t dirty_ns;       /* since when dirty */
	size_t dirty_len;
	struct acceptor *a; /* borrowed */
	struct bufferevent *bev;
	SSL *ssl;    /* borrowed from bev */
	void *taker; /* who gets its bytes; NULL before the handshake and after the end */
	struct enroll_server *enroll;
	enum link_state state;
	bool counts;          /* one of a->n_links, else of a->n_strangers */
	bool paused;          /* not reading: output is over OUTPUT_MAX */
	bool held;            /* not reading: its taker takes no more now */
	bool shut;            /* close_notify is out */
	uint64_t deadline_ns; /* of this state */
	char peer[160];
};

struct acceptor {
	struct acceptor_conf conf;
	SSL_CTX *ctx;
	struct evconnlistener *listener;
	struct event *resume;     /* listens again after EMFILE */
	struct queue links, dead; /* a link is in one of them */
	struct queue dirty;       /* longest waiting first */
	struct queue again;       /* to be read from by go_on */
	struct event *go_on;
	unsigned n_links, n_strangers;
	struct buf reply; /* scratch, empty between callbacks */
	uint8_t record[RECORD_LEN];
	struct log_rate rate, rate_accept;
	uint16_t port;
};

/* ---- links ---- */

static void link_state_set(struct link *l, enum link_state state, uint64_t wait_s)
{
	log_debug("acceptor: link state=%d peer=%s", (int)state, l->peer);
	l->state = state;
	l->deadline_ns = clock_mono_ns() + wait_s * NS_PER_S;
}

static void link_count(struct link *l, bool counts)
{
	struct acceptor *a = l->a;

	if (l->counts)
		a->n_links--;
	else
		a->n_strangers--;
	l->counts = counts;
	if (counts)
		a->n_links++;
	else
		a->n_strangers++;
	counter_set(&n_links_now, a->n_links);
}

static void link_shutdown(struct link *l)
{
	if (l->shut || l->state == LINK_HANDSHAKE)
		return;
	l->shut = true;
	SSL_shutdown(l->ssl); /* one close_notify; we do not wait for the peer's */
	ERR_clear_error();
}

/* Throw away what the kernel holds: a close with unread input would reset the connection. */
static void socket_drain(int fd)
{
	char scratch[4096];

	for (unsigned i = 0; i < 64; i++)
		if (recv(fd, scratch, sizeof(scratch), MSG_DONTWAIT) <= 0)
			return;
}

static void taker_close(struct link *l)
{
	void *t = l->taker;

	l->taker = NULL;
	if (t)
		l->a->conf.ops->close(t);
}

/* The end of a link for everyone but reap(). */
static void link_kill(struct link *l)
{
	if (l->state == LINK_DEAD)
		return;
	link_shutdown(l);
	l->state = LINK_DEAD;
	bufferevent_disable(l->bev, EV_READ | EV_WRITE);
	queue_remove(&l->dirty);
	queue_remove(&l->again);
	queue_push(&l->a->dead, &l->node);
	link_count(l, false);
	l->a->n_strangers--;
	taker_close(l);
}

static void reap(struct acceptor *a)
{
	struct queue_node *n;

	while ((n = queue_first(&a->dead))) {
		struct link *l = queue_entry(n, struct link, node);

		queue_remove(n);
		enroll_server_free(l->enroll);
		socket_drain(bufferevent_getfd(l->bev));
		bufferevent_free(l->bev);
		free(l);
	}
}

static void __attribute__((format(printf, 2, 3))) say(struct acceptor *a, const char *fmt, ...)
{
	char line[512];
	uint64_t held = 0;
	va_list ap;

	if (!log_rate_ok(&a->rate, LINE_MS, &held))
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	if (held)
		log_warn("acceptor: %s (and %llu lines like it)", line, (unsigned long long)held);
	else
		log_warn("acceptor: %s", line);
}

static bool is_stopped(const struct link *l)
{
	return l->paused || l->held;
}

/* What a->reply holds goes out; a peer that does not read what we answer is not read either. */
static void link_send(struct link *l)
{
	struct acceptor *a = l->a;

	if (a->reply.len)
		bufferevent_write(l->bev, a->reply.p, a->reply.len);
	buf_reset(&a->reply);
	if (a->reply.cap > OUTPUT_MAX)
		buf_fini(&a->reply);
	if (!l->paused && evbuffer_get_length(bufferevent_get_output(l->bev)) > OUTPUT_MAX) {
		l->paused = true;
		bufferevent_disable(l->bev, EV_READ);
	}
}

/* Send the last words, then keep reading for a while: closing with unread input would reset the
 * connection, and the peer might never see why. */
static void link_end(struct link *l)
{
	bool silent = l->a->reply.len == 0;

	taker_close(l);
	queue_remove(&l->dirty);
	link_send(l);
	if (silent && evbuffer_get_length(bufferevent_get_output(l->bev)) == 0) {
		link_kill(l);
		return;
	}
	link_count(l, false);
	link_state_set(l, LINK_CLOSING, CLOSING_S);
	l->paused = l->held = false;
	bufferevent_setwatermark(l->bev, EV_WRITE, 0, 0);
	bufferevent_enable(l->bev, EV_READ);
}

static void link_refuse(struct link *l, struct counter *c, uint16_t code, const char *text)
{
	counter_inc(c);
	say(l->a, "link refused: %s peer=%s", text, l->peer);
	if (ingest_put_refused(&l->a->reply, code, text))
		buf_reset(&l->a->reply);
	link_end(l);
}

/* ---- after the handshake ---- */

static bool alpn_is(const SSL *ssl, const char *name)
{
	const unsigned char *p = NULL;
	unsigned n = 0;

	SSL_get0_alpn_selected(ssl, &p, &n);
	return n == strlen(name) && memcmp(p, name, n) == 0;
}

/* "10.0.0.7:41822" becomes "10.0.0.7:41822 (web1)": the name that enrolment wrote into the
 * certificate. */
static void link_name(struct link *l, X509 *cert)
{
	char cn[PKI_HOST_MAX * 4] = "", clean[PKI_HOST_MAX + 1];
	size_t at = strlen(l->peer);
	int n = X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_commonName, cn,
					  sizeof(cn));

	if (n <= 0)
		return;
	pki_host_clean(span_of(cn, (size_t)n), clean, sizeof(clean));
	snprintf(l->peer + at, sizeof(l->peer) - at, " (%s)", clean);
}

static bool link_is_authentic(struct link *l)
{
	X509 *cert;

	if (l->a->conf.insecure)
		return true;
	cert = SSL_get1_peer_certificate(l->ssl);
	if (!cert)
		return false;
	link_name(l, cert);
	X509_free(cert);
	return SSL_get_verify_result(l->ssl) == X509_V_OK;
}

static void start_link(struct link *l)
{
	struct acceptor *a = l->a;

	if (!link_is_authentic(l)) {
		link_refuse(
			l, &n_unenrolled, REFUSE_UNENROLLED,
			"it presents no certificate: run `sslcollector enroll HOST TOKEN` on the "
			"endpoint (`sslcollector token` on the collector prints a token)");
		return;
	}
	if (a->n_links >= a->conf.max_links) {
		link_refuse(l, &n_busy, REFUSE_BUSY, "the collector has as many links as it takes");
		return;
	}
	if (a->conf.ops->open(&l->taker, a->conf.hub, l, l->peer)) {
		link_refuse(l, &n_busy, REFUSE_INTERNAL, "the collector is out of memory");
		return;
	}
	counter_inc(&n_accepted);
	link_count(l, true);
	link_state_set(l, LINK_HELLO, ACCEPTOR_HANDSHAKE_S);
}

static void on_connected(struct link *l)
{
	int one = 1;

	setsockopt(bufferevent_getfd(l->bev), IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	l->state = LINK_HELLO; /* from here on link_shutdown() may speak TLS */
	if (alpn_is(l->ssl, SSLC_ALPN)) {
		start_link(l);
	} else if (alpn_is(l->ssl, SSLC_ALPN_ENROLL) &&
		   enroll_server_new(&l->enroll, l->a->conf.enroll_dir, l->peer) == 0) {
		link_state_set(l, LINK_ENROLL, ACCEPTOR_HANDSHAKE_S);
	} else {
		counter_inc(&n_alpn);
		say(l->a, "connection refused: not an agent: no known ALPN peer=%s", l->peer);
		link_kill(l);
	}
}

/* ---- bytes ---- */

/*
 * Fewer and larger read(2). Not before the link is up: strangers get no such buffer, and what is
 * read along with the end of the handshake, libevent would not ask for.
 */
static void link_read_ahead(struct link *l)
{
	SSL_set_default_read_buffer_len(l->ssl, READ_LEN);
	SSL_set_read_ahead(l->ssl, 1);
}

static void link_dirty(struct link *l, size_t len, uint64_t now_ns)
{
	if (!l->a->conf.ops->flushed)
		return;
	if (!queue_is_in(&l->dirty)) {
		queue_push(&l->a->dirty, &l->dirty);
		l->dirty_ns = now_ns;
		l->dirty_len = 0;
	}
	l->dirty_len += len;
}

static void link_up(struct link *l)
{
	link_state_set(l, LINK_UP, ACCEPTOR_SILENT_S);
	link_read_ahead(l);
	log_info("acceptor: link up peer=%s links=%u", l->peer, l->a->n_links);
}

static void read_link(struct link *l, struct span bytes)
{
	struct acceptor *a = l->a;
	uint64_t now_ns = clock_mono_ns();
	int err;

	err = a->conf.ops->bytes(l->taker, bytes, &a->reply, now_ns);
	if (err) {
		link_end(l);
		return;
	}
	if (l->state == LINK_HELLO && a->conf.ops->is_greeted(l->taker))
		link_up(l);
	if (l->state == LINK_UP)
		l->deadline_ns = now_ns + ACCEPTOR_SILENT_S * NS_PER_S;
	link_dirty(l, bytes.len, now_ns);
	link_send(l);
}

static void read_enroll(struct link *l, struct span bytes)
{
	int ret = enroll_server_bytes(l->enroll, bytes, &l->a->reply, clock_wall_ns() / NS_PER_S);

	if (ret != 0)
		link_end(l);
}

static void read_bytes(struct link *l, struct span bytes)
{
	switch (l->state) {
	case LINK_HELLO:
	case LINK_UP:
		read_link(l, bytes);
		break;
	case LINK_ENROLL:
		read_enroll(l, bytes);
		break;
	case LINK_HANDSHAKE:
	case LINK_CLOSING:
	case LINK_DEAD:
		break; /* thrown away */
	}
}

/* Hand over what libevent has read. Returns how much that was. */
static size_t read_input(struct link *l, struct bufferevent *bev)
{
	struct evbuffer *in = bufferevent_get_input(bev);
	size_t len = evbuffer_get_length(in);
	struct evbuffer_iovec v;

	while (evbuffer_peek(in, -1, NULL, &v, 1) > 0 && v.iov_len) {
		read_bytes(l, span_of(v.iov_base, v.iov_len));
		evbuffer_drain(in, v.iov_len);
	}
	return len;
}

static void on_event(struct bufferevent *bev, short what, void *ctx);

/* OpenSSL holds bytes that the socket will not announce again. */
static void link_again(struct link *l)
{
	static const struct timeval now = {0};

	if (l->state != LINK_UP || !SSL_has_pending(l->ssl))
		return;
	queue_push(&l->a->again, &l->again);
	event_add(l->a->go_on, &now);
}

/*
 * libevent reads one record and returns to its loop. A link that is up has OpenSSL read many at
 * once (link_read_ahead): the rest of them is taken here, and what follows a full record, where
 * there is mostly more. n: length of the record before.
 */
static void read_more(struct link *l, int n)
{
	struct acceptor *a = l->a;

	for (unsigned i = 0; i < READ_RECORDS && n > 0; i++) {
		if (l->state != LINK_UP || is_stopped(l))
			return;
		if (n < RECORD_LEN && !SSL_has_pending(l->ssl))
			return;
		ERR_clear_error();
		n = SSL_read(l->ssl, a->record, RECORD_LEN);
		if (n > 0)
			read_bytes(l, span_of(a->record, (size_t)n));
	}
	if (n > 0) {
		link_again(l);
		return;
	}
	switch (SSL_get_error(l->ssl, n)) {
	case SSL_ERROR_WANT_READ:
	case SSL_ERROR_WANT_WRITE: /* libevent asks again when the socket has more */
		break;
	case SSL_ERROR_ZERO_RETURN:
		on_event(l->bev, BEV_EVENT_READING | BEV_EVENT_EOF, l);
		break;
	default:
		on_event(l->bev, BEV_EVENT_READING | BEV_EVENT_ERROR, l);
	}
}

static void on_go_on(evutil_socket_t fd, short what, void *ctx)
{
	struct acceptor *a = ctx;
	struct queue_node *last = a->again.head.prev, *n;

	(void)fd;
	(void)what;
	/* those that are queued meanwhile wait for the next turn */
	for (bool more = last != &a->again.head; more && (n = queue_first(&a->again));) {
		more = n != last;
		queue_remove(n);
		read_more(queue_entry(n, struct link, again), 1);
	}
}

static void on_read(struct bufferevent *bev, void *ctx)
{
	struct link *l = ctx;

	size_t len = read_input(l, bev);

	read_more(l, len < RECORD_LEN ? 1 : RECORD_LEN);
}

/* Nothing stands against it any more: read on. */
static void link_go_on(struct link *l)
{
	if (is_stopped(l))
		return;
	l->deadline_ns = clock_mono_ns() + ACCEPTOR_SILENT_S * NS_PER_S;
	bufferevent_enable(l->bev, EV_READ);
	link_again(l);
}

static void on_write(struct bufferevent *bev, void *ctx)
{
	struct link *l = ctx;

	if (l->state == LINK_CLOSING && evbuffer_get_length(bufferevent_get_output(bev)) == 0) {
		link_shutdown(l);
		shutdown(bufferevent_getfd(bev), SHUT_WR);
	} else if (l->paused && l->state == LINK_UP) {
		l->paused = false;
		link_go_on(l);
		if (l->a->conf.ops->drained)
			l->a->conf.ops->drained(l->taker);
	}
}

/* ---- for takers ---- */

bool acceptor_send(struct link *l, struct span bytes)
{
	wr_bytes(&l->a->reply, bytes.p, bytes.len);
	link_send(l);
	return !l->paused;
}

void acceptor_greeted(struct link *l)
{
	if (l->state == LINK_HELLO)
		link_up(l);
}

void acceptor_hold(struct link *l, bool hold)
{
	l->held = hold;
	if (hold)
		bufferevent_disable(l->bev, EV_READ);
	else
		link_go_on(l);
}

void acceptor_end(struct link *l, struct span last_words)
{
	wr_bytes(&l->a->reply, last_words.p, last_words.len);
	link_end(l);
}

/* ---- ends ---- */

static void handshake_failed(struct link *l, short what)
{
	long verify = SSL_get_verify_result(l->ssl);
	char cause[128];

	counter_inc(&n_tls);
	if (verify != X509_V_OK) {
		say(l->a,
		    "link refused: its certificate is not accepted: %s: run `sslcollector enroll "
		    "HOST "
		    "TOKEN` on the endpoint peer=%s",
		    X509_verify_cert_error_string(verify), l->peer);
		return;
	}
	bevtls_cause(l->bev, what, cause, sizeof(cause));
	if (strcmp(cause, "unknown ca") == 0 || strcmp(cause, "bad certificate") == 0 ||
	    strcmp(cause, "certificate unknown") == 0)
		say(l->a,
		    "connection closed: the endpoint does not accept this collector's certificate: "
		    "%s: "
		    "it was enrolled with another collector peer=%s",
		    cause, l->peer);
	else
		say(l->a, "connection closed: TLS handshake: %s peer=%s", cause, l->peer);
}

/* The alert that says why is on its way: keep the socket until the peer had time to read it. */
static void link_linger(struct link *l)
{
	l->shut = true; /* after a fatal alert no close_notify may follow */
	bufferevent_disable(l->bev, EV_READ | EV_WRITE);
	shutdown(bufferevent_getfd(l->bev), SHUT_WR);
	link_state_set(l, LINK_CLOSING, CLOSING_S);
}

static void link_lost(struct link *l, short what)
{
	char cause[128];

	bevtls_cause(l->bev, what, cause, sizeof(cause));
	counter_inc(&n_lost);
	if (l->state == LINK_UP)
		log_info("acceptor: link closed: %s peer=%s links=%u",
			 what & BEV_EVENT_EOF ? "by the agent" : cause, l->peer, l->a->n_links - 1);
	else
		say(l->a, "connection closed: before a hello: %s peer=%s", cause, l->peer);
}

static void on_event(struct bufferevent *bev, short what, void *ctx)
{
	struct link *l = ctx;

	if (what & BEV_EVENT_CONNECTED) {
		on_connected(l);
		return;
	}
	if (!(what & (BEV_EVENT_EOF | BEV_EVENT_ERROR)) || l->state == LINK_DEAD)
		return;
	(void)read_input(l, bev); /* what came before the end */
	if (l->state == LINK_HANDSHAKE) {
		handshake_failed(l, what);
		if (what & BEV_EVENT_ERROR) {
			link_linger(l);
			return;
		}
	} else if (l->state == LINK_HELLO || l->state == LINK_UP) {
		link_lost(l, what);
	}
	link_kill(l);
}

static void link_late(struct link *l)
{
	switch (l->state) {
	case LINK_HANDSHAKE:
		counter_inc(&n_late);
		say(l->a, "connection closed: no TLS handshake in time peer=%s", l->peer);
		break;
	case LINK_HELLO:
	case LINK_ENROLL:
		counter_inc(&n_mute);
		say(l->a, "connection closed: nothing said in time peer=%s", l->peer);
		break;
	case LINK_UP:
		counter_inc(&n_silent);
		log_warn("acceptor: link closed: silent too long peer=%s", l->peer);
		break;
	case LINK_CLOSING:
	case LINK_DEAD:
		break;
	}
	link_kill(l);
}

void acceptor_tick(struct acceptor *a, uint64_t now_ns)
{
	struct queue_node *n = queue_first(&a->links), *next;

	for (; n; n = next) {
		struct link *l = queue_entry(n, struct link, node);

		next = queue_next(&a->links, n);
		if (now_ns >= l->deadline_ns && !(l->held && l->state == LINK_UP))
			link_late(l);
		else if (l->taker && a->conf.ops->is_replaced(l->taker))
			link_kill(l);
	}
	reap(a);
}

/* ns until what came in on a link is to be acknowledged. */
static uint64_t ack_wait(const struct link *l, uint64_t now_ns)
{
	uint64_t due_ns = l->dirty_ns + ACCEPTOR_ACK_MS * NS_PER_MS;

	return l->dirty_len >= ACCEPTOR_ACK_BYTES || now_ns >= due_ns ? 0 : due_ns - now_ns;
}

static void link_ack(struct link *l, uint64_t now_ns)
{
	enum taker_acked acked = l->a->conf.ops->flushed(l->taker, &l->a->reply);

	if (acked != TAKER_ACK_WAITS)
		queue_remove(&l->dirty);
	if (acked == TAKER_ACKED_SOME)
		link_dirty(l, 0, now_ns);
	link_send(l);
}

uint64_t acceptor_flushed(struct acceptor *a, uint64_t now_ns)
{
	struct queue_node *n = queue_first(&a->dirty), *next;
	uint64_t wait_ns = UINT64_MAX;

	for (; n; n = next) {
		struct link *l = queue_entry(n, struct link, dirty);
		uint64_t ns = ack_wait(l, now_ns);

		next = queue_next(&a->dirty, n);
		if (ns && l->state == LINK_UP) {
			wait_ns = ns < wait_ns ? ns : wait_ns;
			continue;
		}
		if (l->state == LINK_UP)
			link_ack(l, now_ns);
		else
			queue_remove(n);
	}
	reap(a);
	return wait_ns;
}

/* ---- listening ---- */

static void peer_text(const struct sockaddr *sa, socklen_t len, char *out, size_t size)
{
	char host[64] = "?", port[8] = "?";
	const char *shown = host;

	if (getnameinfo(sa, len, host, sizeof(host), port, sizeof(port),
			NI_NUMERICHOST | NI_NUMERICSERV))
		snprintf(host, sizeof(host), "?");
	if (strncmp(host, "::ffff:", 7) == 0 && strchr(host, '.'))
		shown = host + 7; /* an IPv4 peer on the dual-stack socket */
	snprintf(out, size, strchr(shown, ':') ? "[%s]:%s" : "%s:%s", shown, port);
}

static struct link *link_new(struct acceptor *a, evutil_socket_t fd)
{
	struct link *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->a = a;
	l->ssl = SSL_new(a->ctx);
	if (l->ssl)
		l->bev = bufferevent_openssl_socket_new(
			a->conf.base, fd, l->ssl, BUFFEREVENT_SSL_ACCEPTING, BEV_OPT_CLOSE_ON_FREE);
	if (!l->bev) {
		SSL_free(l->ssl);
		free(l);
		return NULL;
	}
	queue_push(&a->links, &l->node);
	a->n_strangers++;
	return l;
}

static void on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *sa,
		      int socklen, void *ctx)
{
	struct acceptor *a = ctx;
	struct link *l = NULL;
	char peer[96];

	(void)listener;
	peer_text(sa, (socklen_t)socklen, peer, sizeof(peer));
	if (a->n_strangers < ACCEPTOR_HANDSHAKES_MAX)
		l = link_new(a, fd);
	if (!l) {
		counter_inc(&n_busy);
		say(a, "connection closed: too many handshakes at once, or no memory peer=%s",
		    peer);
		close(fd);
		return;
	}
	snprintf(l->peer, sizeof(l->peer), "%s", peer);
	link_state_set(l, LINK_HANDSHAKE, ACCEPTOR_HANDSHAKE_S);
	bufferevent_setcb(l->bev, on_read, on_write, on_event, l);
	bufferevent_setwatermark(l->bev, EV_WRITE, OUTPUT_RESUME, 0);
	bufferevent_setwatermark(l->bev, EV_READ, 0, READ_MARK);
	bufferevent_enable(l->bev, EV_READ | EV_WRITE);
}

static void on_resume(evutil_socket_t fd, short what, void *ctx)
{
	struct acceptor *a = ctx;

	(void)fd;
	(void)what;
	if (a->listener)
		evconnlistener_enable(a->listener);
}

/* Out of descriptors: the connection stays in the kernel's queue and would wake us without end. */
static void on_accept_error(struct evconnlistener *listener, void *ctx)
{
	static const struct timeval pause = {.tv_usec = PAUSE_ACCEPT_MS * 1000};
	struct acceptor *a = ctx;
	int err = EVUTIL_SOCKET_ERROR();
	uint64_t held;

	counter_inc(&n_emfile);
	if (log_rate_ok(&a->rate_accept, 10000, &held))
		log_error("acceptor: accept: %s%s links=%u", strerror(err), log_advice(err),
			  a->n_links);
	evconnlistener_disable(listener);
	event_add(a->resume, &pause);
}

static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *outlen,
		   const unsigned char *in, unsigned inlen, void *arg)
{
	static const unsigned char ours[] = "\x06" SSLC_ALPN "\x0d" SSLC_ALPN_ENROLL;
	unsigned char *chosen = NULL;

	(void)ssl;
	(void)arg;
	_Static_assert(sizeof(SSLC_ALPN) - 1 == 0x06, "length before the name");
	_Static_assert(sizeof(SSLC_ALPN_ENROLL) - 1 == 0x0d, "length before the name");
	if (SSL_select_next_proto(&chosen, outlen, ours, sizeof(ours) - 1, in, inlen) !=
	    OPENSSL_NPN_NEGOTIATED)
		return SSL_TLSEXT_ERR_ALERT_FATAL;
	*out = chosen;
	return SSL_TLSEXT_ERR_OK;
}

static int socket_bind(const struct addrinfo *ai)
{
	int fd, on = 1, off = 0, err;

	fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on,
		   sizeof(on)); /* inherited by what it accepts */
	if (ai->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, LISTEN_BACKLOG) < 0) {
		err = -errno;
		close(fd);
		return err;
	}
	return fd;
}

static int socket_listen(const char *addr, uint16_t port)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
				 .ai_flags = AI_PASSIVE | AI_NUMERICHOST};
	struct addrinfo *list = NULL;
	char service[8];
	int fd, ret;

	snprintf(service, sizeof(service), "%u", port);
	ret = getaddrinfo(addr ? addr : "::", service, &hints, &list);
	if (ret) {
		log_error("acceptor: listen: %s address=%s: give an address of this host",
			  gai_strerror(ret), addr ? addr : "::");
		return -EINVAL;
	}
	fd = socket_bind(list);
	freeaddrinfo(list);
	if (fd == -EAFNOSUPPORT && !addr)
		return socket_listen("0.0.0.0", port); /* a kernel without IPv6 */
	if (fd == -EADDRINUSE)
		log_error("acceptor: listen: port %u is in use: is another collector running? stop "
			  "it, "
			  "or choose another port with -p",
			  port);
	else if (fd < 0)
		log_error("acceptor: listen: %s address=%s port=%u", strerror(-fd),
			  addr ? addr : "::", port);
	return fd;
}

static uint16_t socket_port(int fd)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);

	if (getsockname(fd, (struct sockaddr *)&ss, &len) < 0)
		return 0;
	return ntohs(ss.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&ss)->sin6_port
					      : ((struct sockaddr_in *)&ss)->sin_port);
}

static int acceptor_listen(struct acceptor *a)
{
	int fd = socket_listen(a->conf.listen_addr, a->conf.port);

	if (fd < 0)
		return fd;
	a->port = socket_port(fd);
	a->listener = evconnlistener_new(a->conf.base, on_accept, a,
					 LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, fd);
	if (!a->listener) {
		close(fd);
		return -ENOMEM;
	}
	evconnlistener_set_error_cb(a->listener, on_accept_error);
	return 0;
}

int acceptor_open(struct acceptor **out, const struct acceptor_conf *conf)
{
	struct acceptor *a = calloc(1, sizeof(*a));
	int err;

	if (!a)
		return -ENOMEM;
	a->conf = *conf;
	if (!a->conf.max_links)
		a->conf.max_links = ACCEPTOR_LINKS_MAX;
	queue_init(&a->links);
	queue_init(&a->dirty);
	queue_init(&a->again);
	queue_init(&a->dead);
	buf_init(&a->reply, REPLY_MAX);
	err = tls_server_ctx(&a->ctx, &conf->files, conf->insecure);
	if (err)
		goto fail;
	SSL_CTX_set_alpn_select_cb(a->ctx, on_alpn, NULL);
	a->resume = event_new(conf->base, -1, 0, on_resume, a);
	a->go_on = evtimer_new(conf->base, on_go_on, a);
	err = a->resume && a->go_on ? acceptor_listen(a) : -ENOMEM;
	if (err)
		goto fail;
	*out = a;
	return 0;
fail:
	acceptor_close(a);
	return err;
}

uint16_t acceptor_port(const struct acceptor *a)
{
	return a->port;
}

void acceptor_stop(struct acceptor *a)
{
	if (a->listener)
		evconnlistener_free(a->listener);
	a->listener = NULL;
}

void acceptor_close(struct acceptor *a)
{
	struct queue_node *n;

	if (!a)
		return;
	acceptor_stop(a);
	while ((n = queue_first(&a->links)))
		link_kill(queue_entry(n, struct link, node));
	reap(a);
	if (a->resume)
		event_free(a->resume);
	if (a->go_on)
		event_free(a->go_on);
	buf_fini(&a->reply);
	explicit_bzero(a->record, sizeof(a->record)); /* held plaintext */
	SSL_CTX_free(a->ctx);
	free(a);
}
