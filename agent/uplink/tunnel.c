/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tunnel: the uplink. Blocks from ship in, TLS to the collector out, acknowledgements back to ship.
 * One thread with its own event loop, which never blocks and can always be stopped: names are
 * looked up beside it, in resolve. Back-pressure stays in ship: at most one block waits here, and
 * one that is not worth compressing goes to TLS from where ship has it. Never looks into a frame of
 * a block, never touches a flow.
 */
#include "uplink/tunnel.h"

#include <errno.h>
#include <event2/event.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/clockdiff.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/resolve.h"
#include "trust.h"
#include "zblock.h"

#define BACKOFF_MIN_MS 200
#define BACKOFF_MAX_MS 10000
#define LIVED_S        10 /* a link that lived so long was a good one: back-off starts anew */
#define CONNECT_S      5  /* one address; the next may answer */
#define HANDSHAKE_S    10 /* TLS and welcome together */
#define PING_S         5
#define CLOCK_FIRST    4  /* pings in a link's first seconds, to compare clocks */
#define CLOCK_S        10 /* between those that follow */
#define SILENT_S       30
#define TICK_MS        500
#define DRAIN_POLL_MS  2
#define LOST_LINE_MS   1000
#define UNSENT_MAX     (512 << 10) /* bytes in the kernel: a ping must not wait long */
/* TLS records that leave in one call: each call costs more than to copy a record. */
#define WIRE_MAX (128u << 10)
/* Acknowledgements wake nobody: they are read when something is sent, or after ACK_MS. */
#define ACK_WAKES_AT 4096 /* bytes */
#define ACK_MS       20
/* So many blocks wait behind one, and the peer takes all we give: our own time is what is short. */
#define HURRY_BLOCKS 32
#define CALM_MS      200        /* the peer has not kept us waiting for so long */
#define OUT_KEPT     (2u << 20) /* memory for output that stays */
#define IN_MAX       (ZBLOCK_HEADER_LEN + ZBLOCK_WIRE_MAX)
#define REOPEN_MAX   (256u << 20) /* all open flows told again; a flow takes 100 to 1700 bytes */
#define OUT_MAX      (REOPEN_MAX + (2u << 20)) /* those, and one envelope */

static COUNTER_DEFINE(n_connected, "tunnel_connected", "links to the collector that came up");
static COUNTER_DEFINE(n_lost, "tunnel_lost", "links to the collector that were lost");
static COUNTER_DEFINE(n_failed, "tunnel_connect_failed", "attempts to connect that failed");
static COUNTER_DEFINE(n_refused, "tunnel_refused", "links refused by the collector, or by us");
static COUNTER_DEFINE(n_blocks, "tunnel_blocks_sent", "blocks sent, those sent again included");
static COUNTER_DEFINE(n_bytes, "tunnel_bytes_sent", "bytes of envelopes given to TLS");
static COUNTER_DEFINE(g_trip, "tunnel_trip_us",
		      "quickest round trip to the collector in the last minutes, in us (gauge)");
static COUNTER_DEFINE(g_ahead, "tunnel_clock_ahead_us",
		      "so far the collector's clock is ahead of this host's, in us (gauge)");
static COUNTER_DEFINE(g_behind, "tunnel_clock_behind_us",
		      "so far it is behind this host's, in us (gauge)");
static COUNTER_DEFINE(g_up, "tunnel_up", "1 while the link is up");

enum tunnel_state {
	TUNNEL_WAIT,      /* back-off; the retry timer is pending */
	TUNNEL_RESOLVE,   /* the name is looked up */
	TUNNEL_CONNECT,   /* TCP to addr is under way on fd */
	TUNNEL_HANDSHAKE, /* TLS */
	TUNNEL_HELLO,     /* our hello is out, the welcome is awaited */
	TUNNEL_UP,        /* blocks flow */
};

struct tunnel {
	/* Set by tunnel_start(), constant afterwards. */
	char *host;
	uint16_t port;
	char where[300]; /* "HOST:PORT" */
	int zstd_level;
	struct trust trust;
	BIO_METHOD *method;
	struct ship *ship; /* borrowed */
	uint8_t agent[16];
	char name[256]; /* of this host */
	pthread_t thread;
	int stop_fd;

	/* The thread's. */
	struct event_base *base;
	struct event *stop_ev, *wake_ev, *tick_ev, *retry_ev, *resolve_ev, *connect_ev;
	struct event *read_ev, *write_ev, *ack_ev;
	enum tunnel_state state;
	struct resolve *resolve;
	const struct addrinfo *addr; /* the one being tried; borrowed from resolve */
	int fd;                      /* -1: none */
	SSL *ssl;
	bool receiving; /* inside receive() */
	struct zblock_enc *enc;
	struct zblock_dec *dec;
	struct buf in, frames;
	/* What TLS gets, in this order. */
	struct buf out;
	size_t out_at;      /* bytes of `out` that TLS has taken */
	struct span lent;   /* of a block that ship has lent us */
	struct buf behind;  /* control envelopes */
	struct buf wire;    /* what TLS has made of it, for the socket */
	size_t wire_at;     /* bytes of `wire` that the socket has taken */
	uint64_t sent_seq;  /* newest block that TLS has taken on this link */
	uint64_t waited_ns; /* the socket took no more */
	uint64_t since_ns;  /* start of TLS; once up: when it came up */
	uint64_t alive_ns;  /* last byte received, or taken by the peer */
	uint64_t tx_ns, ping_ns;
	struct clockdiff clock; /* the collector's, on this link */
	unsigned clock_pings;   /* sent to learn it */
	uint64_t clock_ns;      /* when the last one was */
	unsigned backoff_ms;
	bool acked; /* this link had a block acknowledged */
	bool was_up, knows_collector;
	uint8_t collector[16]; /* of the last link */
	uint64_t acked_seq;    /* newest number that this collector acknowledged */
	struct log_same said;
	struct log_rate lost_rate;
};

static void connect_next(struct tunnel *t, int last_err);
static void fail_tls(struct tunnel *t, unsigned long code, int sock_err);
static void receive(struct tunnel *t);

/* ---- what people read ---- */

/* Trouble of an attempt. */
static void say(struct tunnel *t, const char *text)
{
	if (log_same_ok(&t->said, text))
		log_warn("tunnel: %s; trying again", text);
}

static void say_lost(struct tunnel *t, const char *text)
{
	uint64_t held;

	if (log_rate_ok(&t->lost_rate, LOST_LINE_MS, &held))
		log_warn("tunnel: lost: %s; reconnecting to %s", text, t->where);
}

/* ---- end of a link, back-off ---- */

static void state_set(struct tunnel *t, enum tunnel_state state)
{
	log_debug("tunnel: state=%d", (int)state);
	t->state = state;
	counter_set(&g_up, state == TUNNEL_UP);
}

static void event_drop(struct event **ev)
{
	if (*ev)
		event_free(*ev);
	*ev = NULL;
}

static bool output_waits(const struct tunnel *t)
{
	return t->out_at < t->out.len || t->lent.len || t->behind.len || t->wire.len;
}

/* No memory is kept that only telling all flows again has needed. */
static void output_trim(struct buf *b)
{
	if (b->cap > OUT_KEPT)
		buf_cleanse(b);
	buf_reset(b);
}

static void output_forget(struct tunnel *t)
{
	if (t->lent.len)
		ship_return(t->ship, false);
	t->lent = span_of(NULL, 0);
	t->out_at = 0;
	output_trim(&t->out);
	output_trim(&t->behind);
	buf_reset(&t->wire);
	t->wire_at = 0;
}

/* What the socket takes of what TLS has written. 0; -EAGAIN: it takes no more; -errno. */
static int wire_flush(struct tunnel *t)
{
	while (t->wire_at < t->wire.len) {
		ssize_t n =
			send(t->fd, t->wire.p + t->wire_at, t->wire.len - t->wire_at, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		t->wire_at += (size_t)n;
		t->alive_ns = clock_mono_ns();
	}
	t->wire_at = 0;
	buf_reset(&t->wire);
	return 0;
}

/* Back to nothing: no socket, no lookup, no codec. Safe in every state. */
static void link_close(struct tunnel *t)
{
	event_drop(&t->wake_ev);
	event_drop(&t->read_ev);
	event_drop(&t->write_ev);
	event_drop(&t->ack_ev);
	event_drop(&t->connect_ev);
	event_drop(&t->resolve_ev);
	resolve_unref(t->resolve);
	t->resolve = NULL;
	t->addr = NULL;
	if (t->ssl) {
		if (t->state >= TUNNEL_HELLO && !output_waits(t)) {
			SSL_shutdown(t->ssl); /* a polite end; nobody waits for an answer */
			(void)wire_flush(t);
		}
		ERR_clear_error();
		SSL_free(t->ssl);
	}
	t->ssl = NULL;
	if (t->fd >= 0)
		close(t->fd);
	t->fd = -1;
	output_forget(t);
	zblock_enc_free(t->enc);
	zblock_dec_free(t->dec);
	t->enc = NULL;
	t->dec = NULL;
	buf_reset(&t->in);
}

/* A millisecond count between half and all of `ms`: a thousand agents must not come back as one. */
static unsigned jitter(unsigned ms)
{
	uint32_t r = 0;

	if (getrandom(&r, sizeof(r), GRND_NONBLOCK) != (ssize_t)sizeof(r))
		r = (uint32_t)clock_mono_ns();
	return ms / 2 + r % (ms / 2 + 1);
}

static void retry_later(struct tunnel *t)
{
	unsigned ms = jitter(t->backoff_ms);
	struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = (suseconds_t)(ms % 1000) * 1000};

	t->backoff_ms = t->backoff_ms * 2 < BACKOFF_MAX_MS ? t->backoff_ms * 2 : BACKOFF_MAX_MS;
	state_set(t, TUNNEL_WAIT);
	event_add(t->retry_ev, &tv);
}

/* The one way by which an attempt or a link ends. `text` may be NULL: already told. */
static void link_fail(struct tunnel *t, const char *text)
{
	bool was_up = t->state == TUNNEL_UP;

	if (was_up) {
		counter_inc(&n_lost);
		/* It worked: start over soon. It did not: a collector in trouble is left alone for
		 * longer. */
		if (t->acked || clock_mono_ns() - t->since_ns > LIVED_S * NS_PER_S)
			t->backoff_ms = BACKOFF_MIN_MS;
	} else {
		counter_inc(&n_failed);
	}
	if (text && was_up)
		say_lost(t, text);
	else if (text)
		say(t, text);
	link_close(t);
	retry_later(t);
}

static void __attribute__((format(printf, 2, 3))) link_failf(struct tunnel *t, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	link_fail(t, text);
}

/* ---- sending ---- */

/* TLS's way out. */
static int socket_write(BIO *bio, const char *p, int len)
{
	struct tunnel *t = BIO_get_data(bio);
	int err = 0;

	BIO_clear_retry_flags(bio);
	if (t->wire.len + (size_t)len > WIRE_MAX)
		err = wire_flush(t);
	if (err == -EAGAIN)
		BIO_set_retry_write(bio);
	if (err) {
		errno = -err;
		return -1;
	}
	wr_bytes(&t->wire, p, (size_t)len);
	return t->wire.bad ? -1 : len;
}

static long socket_ctrl(BIO *bio, int cmd, long num, void *ptr)
{
	(void)bio;
	(void)num;
	(void)ptr;
	return cmd == BIO_CTRL_FLUSH;
}

static BIO_METHOD *socket_method(void)
{
	BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "tunnel");

	if (m && (!BIO_meth_set_write(m, socket_write) || !BIO_meth_set_ctrl(m, socket_ctrl))) {
		BIO_meth_free(m);
		m = NULL;
	}
	return m;
}

/* The first code of OpenSSL's own. */
static unsigned long tls_code(void)
{
	unsigned long code, found = 0;

	while ((code = ERR_get_error()))
		if (!found && (ERR_GET_LIB(code) || ERR_SYSTEM_ERROR(code)))
			found = code;
	return found;
}

/*
 * After a call of OpenSSL that returned `ret` and not success. True: it is to be repeated when the
 * socket is ready. False: the link has failed and is gone.
 */
static bool tls_waits(struct tunnel *t, int ret)
{
	int sock_err = errno;
	unsigned long code;

	switch (SSL_get_error(t->ssl, ret)) {
	case SSL_ERROR_WANT_READ:
		return true; /* read_ev is always there */
	case SSL_ERROR_WANT_WRITE:
		if (!event_add(t->write_ev, NULL))
			return true;
		link_fail(t, "out of memory");
		return false;
	case SSL_ERROR_ZERO_RETURN:
		sock_err = 0;
	}
	code = tls_code();
	if (t->state >= TUNNEL_HELLO)
		receive(t); /* a refusal may stand before the end */
	if (t->ssl)
		fail_tls(t, code, sock_err);
	return false;
}

/* As tls_waits(), for what TLS has written. */
static bool wire_push(struct tunnel *t)
{
	int err = wire_flush(t);

	if (!err)
		return true;
	if (err == -EAGAIN) {
		t->waited_ns = clock_mono_ns();
		if (!event_add(t->write_ev, NULL))
			return true;
		link_fail(t, "out of memory");
		return false;
	}
	if (t->state >= TUNNEL_HELLO)
		receive(t); /* a refusal may stand before the end */
	if (t->ssl)
		fail_tls(t, 0, -err);
	return false;
}

/* The next bytes for TLS; empty when there are none. */
static struct span output_next(struct tunnel *t)
{
	if (t->out_at == t->out.len && !t->lent.len && t->behind.len) {
		struct buf b = t->out;

		t->out = t->behind;
		t->out_at = 0;
		t->behind = b;
		buf_reset(&t->behind);
	}
	return t->out_at < t->out.len ? span_of(t->out.p + t->out_at, t->out.len - t->out_at)
				      : t->lent;
}

static void output_taken(struct tunnel *t, size_t n)
{
	if (t->out_at < t->out.len) {
		t->out_at += n;
		return;
	}
	t->lent = span_of(t->lent.p + n, t->lent.len - n);
	if (!t->lent.len)
		ship_return(t->ship, true);
}

/* Give TLS what waits, as far as the socket takes it. False: the link failed and is gone. */
static bool transmit(struct tunnel *t)
{
	struct span s;

	while ((s = output_next(t)).len) {
		size_t n = 0;
		int ret;

		ERR_clear_error();
		errno = 0;
		ret = SSL_write_ex(t->ssl, s.p, s.len, &n);
		if (ret != 1) {
			t->waited_ns = clock_mono_ns();
			return tls_waits(t, ret);
		}
		output_taken(t, n);
	}
	t->out_at = 0;
	output_trim(&t->out);
	return wire_push(t);
}

static void note_output(struct tunnel *t, size_t n)
{
	counter_add(&n_bytes, n);
	t->tx_ns = clock_mono_ns();
}

/* Encode one control envelope. False: it cannot be encoded. */
static bool put_control(struct tunnel *t, struct span frames)
{
	struct buf *b = t->lent.len ? &t->behind : &t->out;
	size_t before = b->len;

	if (zblock_encode(t->enc, ZBLOCK_CONTROL, 0, frames, b))
		return false;
	note_output(t, b->len - before);
	return true;
}

/* t->frames as one control envelope. False: it is not sent; the link may be gone already. */
static bool send_control(struct tunnel *t)
{
	bool ok = !t->frames.bad && put_control(t, buf_span(&t->frames));

	buf_reset(&t->frames);
	return ok && transmit(t);
}

static bool is_hurried(const struct tunnel *t, const struct ship_block *b)
{
	return b->behind >= HURRY_BLOCKS && clock_mono_ns() - t->waited_ns > CALM_MS * NS_PER_MS;
}

/* One block becomes output. False: it cannot be encoded. */
static bool put_block(struct tunnel *t, const struct ship_block *b)
{
	bool zstd = b->frames.len && zblock_enc_pays(t->enc) && !is_hurried(t, b);
	int err;

	if (zstd)
		err = zblock_encode(t->enc, ZBLOCK_DATA, b->seq, b->frames, &t->out);
	else
		err = zblock_encode_stored(t->enc, b->seq, b->frames.len, &t->out);
	if (!err && !zstd)
		t->lent = b->frames; /* ship has it back when TLS has taken it */
	if (!t->lent.len)
		ship_return(t->ship, !err);
	if (err)
		return false;
	note_output(t, t->out.len + t->lent.len);
	counter_inc(&n_blocks);
	t->sent_seq = b->seq;
	return true;
}

/* Acknowledgements that are there; for others it looks again. */
static void take_acks(struct tunnel *t)
{
	static const struct timeval later = {.tv_usec = ACK_MS * 1000};

	receive(t);
	if (t->ssl && t->acked_seq < t->sent_seq)
		event_add(t->ack_ev, &later);
}

static void pump(struct tunnel *t)
{
	struct ship_block b;

	while (!output_waits(t)) {
		if (!ship_take(t->ship, &b)) {
			take_acks(t);
			return;
		}
		if (!put_block(t, &b)) {
			link_fail(t, "cannot encode a block");
			return;
		}
		if (!transmit(t))
			return;
	}
	event_del(t->wake_ev); /* ship keeps the rest until on_writable() */
}

static void on_wake(evutil_socket_t fd, short what, void *ctx)
{
	struct tunnel *t = ctx;

	(void)fd;
	(void)what;
	pump(t);
}

/* ---- hello, welcome ---- */

static bool send_hello(struct tunnel *t)
{
	struct frame_hello m = {
		.version = SSLC_PROTO_VERSION,
		.link = 0,
		.n_links = 1,
		.next_seq = ship_first_seq(t->ship),
		.ts_ns = clock_wall_ns(),
		.host = span_str(t->name),
		.software = span_str("sslcollector " SSLC_VERSION),
	};

	memcpy(m.agent, t->agent, sizeof(m.agent));
	frame_put_hello(&t->frames, &m);
	return send_control(t);
}

/* Bytes at the front of `s` that are whole frames and fit into one envelope. */
static size_t envelope_cut(struct span s)
{
	size_t at = 0;

	while (at < s.len) {
		struct frame f;
		ssize_t n = frame_decode(span_of(s.p + at, s.len - at), &f);

		if (n <= 0 || at + (size_t)n > ZBLOCK_RAW_MAX)
			break;
		at += (size_t)n;
	}
	return at;
}

static bool send_reopen(struct tunnel *t, struct span s)
{
	while (s.len) {
		size_t n = envelope_cut(s);

		if (!n || !put_control(t, span_of(s.p, n)))
			return false;
		s = span_of(s.p + n, s.len - n);
	}
	return true;
}

static bool resume(struct tunnel *t, const struct frame_welcome *m)
{
	/* Another collector, or one that forgot us meanwhile: PROTOCOL.md 4.3. Before the first
	 * link nothing was ever acknowledged: the blocks open their flows themselves. */
	bool is_new = t->knows_collector &&
		      (memcmp(t->collector, m->collector, 16) != 0 || m->resume_seq < t->acked_seq);
	struct buf reopen;
	bool ok;

	buf_init(&reopen, REOPEN_MAX);
	ok = ship_rewind(t->ship, m->resume_seq, is_new, &reopen) == 0 &&
	     send_reopen(t, buf_span(&reopen));
	buf_fini(&reopen);
	if (ok) {
		memcpy(t->collector, m->collector, sizeof(t->collector));
		t->acked_seq = t->sent_seq = m->resume_seq;
		t->knows_collector = true;
	}
	return ok;
}

/* So many bytes that have come are a reason to read them. */
static void wakes_at(const struct tunnel *t, int bytes)
{
	setsockopt(t->fd, SOL_SOCKET, SO_RCVLOWAT, &bytes, sizeof(bytes));
}

static void on_welcome(struct tunnel *t, const struct frame_welcome *m)
{
	if (m->version != SSLC_PROTO_VERSION) {
		link_failf(t,
			   "the collector speaks protocol %u, this agent %u: update the older one",
			   m->version, SSLC_PROTO_VERSION);
		return;
	}
	if (!resume(t, m)) {
		link_fail(t, "cannot resume: out of memory");
		return;
	}
	t->wake_ev = event_new(t->base, ship_wake_fd(t->ship), EV_READ | EV_PERSIST, on_wake, t);
	if (!t->wake_ev || event_add(t->wake_ev, NULL)) {
		link_fail(t, "out of memory");
		return;
	}
	wakes_at(t, ACK_WAKES_AT);
	state_set(t, TUNNEL_UP);
	counter_inc(&n_connected);
	log_info("tunnel: %s to %s", t->was_up ? "reconnected" : "connected", t->where);
	t->since_ns = clock_mono_ns();
	t->was_up = true;
	t->acked = false;
	log_same_end(&t->said);
	if (transmit(t)) /* flows told again; the blocks when we are out of receive() */
		event_active(t->wake_ev, EV_READ, 0);
}

/* ---- receiving ---- */

static void on_refused(struct tunnel *t, const struct frame_refused *m)
{
	char text[300];

	counter_inc(&n_refused);
	span_print(m->text, text, sizeof(text));
	link_failf(t, "%s refuses this agent: %s", t->where, text);
}

/* What the pong says of the collector's clock. Its number is the time when the ping left. */
static void on_pong(struct tunnel *t, const struct frame_ping *m)
{
	uint64_t now_ns = clock_mono_ns(), wall_ns = (uint64_t)clock_wall_offset_ns();
	struct clockdiff_stamps s = {.left = m->ts_ns + wall_ns,
				     .came = m->came_ns,
				     .answered = m->left_ns,
				     .back = now_ns + wall_ns};
	struct clockdiff_sample best;

	wakes_at(t, ACK_WAKES_AT);
	if (!m->came_ns || m->ts_ns > now_ns || now_ns - m->ts_ns > SILENT_S * NS_PER_S ||
	    !clockdiff_add(&t->clock, &s, now_ns) || !clockdiff_best(&t->clock, now_ns, &best))
		return;
	counter_set(&g_trip, best.trip_ns / 1000);
	counter_set(&g_ahead, best.ahead_ns > 0 ? (uint64_t)best.ahead_ns / 1000 : 0);
	counter_set(&g_behind, best.ahead_ns < 0 ? (uint64_t)-best.ahead_ns / 1000 : 0);
}

static void on_frame(struct tunnel *t, const struct frame *f)
{
	struct frame_ping p;
	struct frame_welcome w;
	struct frame_refused r;
	struct frame_ack a;

	if (f->type == FRAME_WELCOME && t->state == TUNNEL_HELLO && !frame_get_welcome(f, &w)) {
		on_welcome(t, &w);
	} else if (f->type == FRAME_REFUSED && !frame_get_refused(f, &r)) {
		on_refused(t, &r);
	} else if (f->type == FRAME_ACK && t->state == TUNNEL_UP && !frame_get_ack(f, &a)) {
		t->acked = true;
		if (a.seq > t->acked_seq)
			t->acked_seq = a.seq;
		ship_ack(t->ship, a.seq);
	} else if (f->type == FRAME_HELLO || f->type == FRAME_WELCOME || f->type == FRAME_REFUSED ||
		   f->type == FRAME_ACK) {
		link_fail(t, "the collector breaks the protocol");
	} else if (f->type == FRAME_PONG && !frame_get_ping(f, &p)) {
		on_pong(t, &p);
	} /* types of a later version: being heard of is all they are for */
}

/* False: the link is gone. */
static bool on_envelope(struct tunnel *t, struct span frames)
{
	while (frames.len) {
		struct frame f;
		ssize_t n = frame_decode(frames, &f);

		if (n <= 0) {
			link_fail(t, "the collector breaks the protocol");
			return false;
		}
		on_frame(t, &f);
		if (!t->ssl)
			return false;
		frames = span_of(frames.p + n, frames.len - (size_t)n);
	}
	return true;
}

static void take_envelopes(struct tunnel *t)
{
	size_t used = 0;

	while (used < t->in.len) {
		struct zblock z;
		ssize_t n = zblock_decode(t->dec, span_of(t->in.p + used, t->in.len - used), &z);

		if (n < 0 || (n > 0 && z.kind != ZBLOCK_CONTROL)) {
			link_fail(t, "the collector breaks the protocol");
			return;
		}
		if (n == 0)
			break;
		if (!on_envelope(t, z.frames))
			return;
		used += (size_t)n;
	}
	buf_consume(&t->in, used);
}

/* All that has come. The link may be gone afterwards. */
static void receive(struct tunnel *t)
{
	uint8_t chunk[4096];
	size_t n;
	int ret;

	if (t->receiving) /* whoever does sees the rest, and the end */
		return;
	t->receiving = true;
	while (t->ssl) {
		ERR_clear_error();
		errno = 0;
		ret = SSL_read_ex(t->ssl, chunk, sizeof(chunk), &n);
		if (ret != 1) {
			(void)tls_waits(t, ret);
			break;
		}
		t->alive_ns = clock_mono_ns();
		wr_bytes(&t->in, chunk, n);
		if (t->in.bad)
			link_fail(t, "the collector breaks the protocol");
		else
			take_envelopes(t);
	}
	t->receiving = false;
	if (t->ssl && t->wire.len) /* what TLS had to answer itself */
		(void)wire_push(t);
}

/* ---- TLS ---- */

/* We do not accept the collector's certificate. */
static void fail_verify(struct tunnel *t, long verify)
{
	char text[512];

	counter_inc(&n_refused);
	trust_verify_text(&t->trust, t->where, verify, text, sizeof(text));
	link_fail(t, text);
}

static void fail_tls(struct tunnel *t, unsigned long code, int sock_err)
{
	long verify = SSL_get_verify_result(t->ssl);
	char cause[128], hint[128];

	tls_code_text(code, cause, sizeof(cause));
	if (!code && sock_err && sock_err != EAGAIN)
		snprintf(cause, sizeof(cause), "%s", strerror(sock_err));
	if (t->state == TUNNEL_HANDSHAKE && !t->trust.insecure && verify != X509_V_OK) {
		fail_verify(t, verify);
	} else if (tls_is_auth_alert(code)) {
		counter_inc(&n_refused);
		link_failf(t, "%s does not accept this endpoint's certificate: %s: %s", t->where,
			   cause, trust_alert_hint(&t->trust, hint, sizeof(hint)));
	} else if (t->state == TUNNEL_HANDSHAKE) {
		link_failf(t, "TLS with %s: %s: is an sslcollector listening there?", t->where,
			   cause);
	} else {
		link_fail(t, cause);
	}
}

static void handshake(struct tunnel *t)
{
	int ret;

	ERR_clear_error();
	errno = 0;
	ret = SSL_do_handshake(t->ssl);
	if (ret != 1) {
		if (tls_waits(t, ret))
			(void)wire_push(t);
		return;
	}
	state_set(t, TUNNEL_HELLO);
	t->alive_ns = clock_mono_ns();
	if (!send_hello(t) && t->ssl)
		link_fail(t, "cannot say hello: out of memory");
}

static void on_readable(evutil_socket_t fd, short what, void *ctx)
{
	struct tunnel *t = ctx;

	(void)fd;
	(void)what;
	if (t->state == TUNNEL_HANDSHAKE)
		handshake(t);
	else
		receive(t);
}

static void on_writable(evutil_socket_t fd, short what, void *ctx)
{
	struct tunnel *t = ctx;

	(void)fd;
	(void)what;
	if (t->state == TUNNEL_HANDSHAKE) {
		handshake(t);
		return;
	}
	if (!transmit(t))
		return;
	receive(t);
	if (!t->ssl || t->state != TUNNEL_UP || output_waits(t))
		return;
	event_add(t->wake_ev, NULL);
	pump(t);
}

static void on_ack_due(evutil_socket_t fd, short what, void *ctx)
{
	(void)fd;
	(void)what;
	take_acks(ctx);
}

/* TLS over t->fd. False: out of memory. */
static bool tls_open(struct tunnel *t)
{
	BIO *in, *out;

	t->ssl = trust_ssl_new(&t->trust);
	if (!t->ssl)
		return false;
	in = BIO_new_socket(t->fd, BIO_NOCLOSE);
	out = BIO_new(t->method);
	if (!in || !out) {
		BIO_free(in);
		BIO_free(out);
		return false;
	}
	BIO_set_data(out, t);
	BIO_set_init(out, 1);
	SSL_set_bio(t->ssl, in, out);
	SSL_set_connect_state(t->ssl);
	SSL_set_mode(t->ssl, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_clear_mode(t->ssl, SSL_MODE_RELEASE_BUFFERS); /* there is one link, and it is busy */
	return true;
}

static bool events_open(struct tunnel *t)
{
	t->read_ev = event_new(t->base, t->fd, EV_READ | EV_PERSIST, on_readable, t);
	t->write_ev = event_new(t->base, t->fd, EV_WRITE, on_writable, t);
	t->ack_ev = evtimer_new(t->base, on_ack_due, t);
	return t->read_ev && t->write_ev && t->ack_ev && !event_add(t->read_ev, NULL);
}

static void start_tls(struct tunnel *t)
{
	if (!tls_open(t) || !events_open(t)) {
		link_fail(t, "cannot start TLS: out of memory");
		return;
	}
	if (zblock_enc_new(&t->enc, t->zstd_level) || zblock_dec_new(&t->dec)) {
		link_fail(t, "out of memory");
		return;
	}
	state_set(t, TUNNEL_HANDSHAKE);
	t->since_ns = t->alive_ns = t->tx_ns = t->ping_ns = clock_mono_ns();
	t->clock = (struct clockdiff){0};
	t->clock_pings = 0;
	t->clock_ns = 0;
	handshake(t);
}

/* ---- TCP ---- */

static void socket_tune(int fd)
{
	int one = 1, unsent = UNSENT_MAX, dead_ms = SILENT_S * 1000;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof(unsent));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &dead_ms, sizeof(dead_ms));
}

static void on_connect(evutil_socket_t fd, short what, void *ctx)
{
	struct tunnel *t = ctx;
	socklen_t len = sizeof(int);
	int err = ETIMEDOUT;

	event_drop(&t->connect_ev);
	if (!(what & EV_TIMEOUT) && getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0)
		err = errno;
	if (!err) {
		start_tls(t);
		return;
	}
	close(t->fd);
	t->fd = -1;
	t->addr = t->addr->ai_next;
	connect_next(t, err);
}

/* Begin with t->addr; 0, or the errno that makes us try the next. */
static int connect_start(struct tunnel *t)
{
	static const struct timeval wait = {.tv_sec = CONNECT_S};

	t->fd = socket(t->addr->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (t->fd < 0)
		return errno;
	socket_tune(t->fd);
	if (connect(t->fd, t->addr->ai_addr, t->addr->ai_addrlen) < 0 && errno != EINPROGRESS)
		return errno;
	t->connect_ev = event_new(t->base, t->fd, EV_WRITE, on_connect, t);
	if (!t->connect_ev || event_add(t->connect_ev, &wait))
		return ENOMEM;
	return 0;
}

static void connect_next(struct tunnel *t, int last_err)
{
	state_set(t, TUNNEL_CONNECT);
	for (; t->addr; t->addr = t->addr->ai_next) {
		int err = connect_start(t);

		if (!err)
			return;
		last_err = err;
		event_drop(&t->connect_ev);
		if (t->fd >= 0)
			close(t->fd);
		t->fd = -1;
	}
	link_failf(t, "cannot connect to %s: %s%s", t->where, strerror(last_err),
		   log_advice(last_err));
}

/* ---- names ---- */

static void on_resolved(evutil_socket_t fd, short what, void *ctx)
{
	struct tunnel *t = ctx;
	const struct resolve *r = t->resolve;

	(void)fd;
	(void)what;
	if (!resolve_is_done(r))
		return;
	event_drop(&t->resolve_ev);
	if (resolve_error(r)) {
		link_failf(t, "cannot resolve %s: %s", t->host, gai_strerror(resolve_error(r)));
		return;
	}
	t->addr = resolve_list(r);
	connect_next(t, EHOSTUNREACH);
}

static void attempt(struct tunnel *t)
{
	state_set(t, TUNNEL_RESOLVE);
	t->resolve = resolve_new(t->host, t->port);
	if (t->resolve)
		t->resolve_ev = event_new(t->base, resolve_fd(t->resolve), EV_READ, on_resolved, t);
	if (!t->resolve_ev || event_add(t->resolve_ev, NULL) || !resolve_start(t->resolve))
		link_fail(t, "cannot resolve: out of descriptors, memory or threads");
}

/* ---- timers ---- */

static void on_retry(evutil_socket_t fd, short what, void *ctx)
{
	(void)fd;
	(void)what;
	attempt(ctx);
}

/* Silence of either side: the collector wants to hear us, and we want to hear it. */
static bool is_idle(const struct tunnel *t, uint64_t now_ns)
{
	uint64_t idle_ns = PING_S * NS_PER_S;

	return now_ns - t->ping_ns >= idle_ns &&
	       (now_ns - t->tx_ns >= idle_ns || now_ns - t->alive_ns >= idle_ns);
}

static bool wants_clock(const struct tunnel *t, uint64_t now_ns)
{
	return now_ns - t->clock_ns >= (t->clock_pings < CLOCK_FIRST ? 1 : CLOCK_S) * NS_PER_S;
}

static void ping_when_due(struct tunnel *t, uint64_t now_ns)
{
	struct frame_ping m = {.ts_ns = now_ns};
	struct clockdiff_sample best;

	if (!is_idle(t, now_ns) && !wants_clock(t, now_ns))
		return;
	t->ping_ns = t->clock_ns = now_ns;
	t->clock_pings++;
	if (clockdiff_best(&t->clock, now_ns, &best)) {
		m.ahead_ns = best.ahead_ns;
		m.trip_ns = best.trip_ns ? best.trip_ns : 1; /* 0 would say that it is not known */
	}
	wakes_at(t, 1); /* for the pong, which is timed */
	frame_put_ping(&t->frames, &m, false);
	if (!send_control(t) && t->ssl)
		link_fail(t, "cannot ping: out of memory");
}

static void on_tick(evutil_socket_t fd, short what, void *ctx)
{
	struct tunnel *t = ctx;
	uint64_t now_ns = clock_mono_ns();

	(void)fd;
	(void)what;
	switch (t->state) {
	case TUNNEL_WAIT:
	case TUNNEL_RESOLVE:
	case TUNNEL_CONNECT:
		break; /* these have timers of their own */
	case TUNNEL_HANDSHAKE:
	case TUNNEL_HELLO:
		if (now_ns - t->since_ns > HANDSHAKE_S * NS_PER_S)
			link_failf(t, "%s does not answer: is an sslcollector listening there?",
				   t->where);
		break;
	case TUNNEL_UP:
		receive(t);
		if (t->state != TUNNEL_UP)
			break;
		now_ns = clock_mono_ns(); /* not before what has just come */
		if (now_ns - t->alive_ns > SILENT_S * NS_PER_S)
			link_fail(t, "the collector is silent");
		else
			ping_when_due(t, now_ns);
		break;
	}
}

/* ---- the thread ---- */

static void on_stop(evutil_socket_t fd, short what, void *ctx)
{
	struct tunnel *t = ctx;

	(void)fd;
	(void)what;
	event_base_loopbreak(t->base);
}

static void *tunnel_main(void *arg)
{
	struct tunnel *t = arg;

	attempt(t);
	event_base_dispatch(t->base);
	link_close(t);
	return NULL;
}

static int loop_open(struct tunnel *t)
{
	static const struct timeval tick = {.tv_usec = TICK_MS * 1000};

	t->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (t->stop_fd < 0)
		return -errno;
	t->base = event_base_new();
	if (!t->base)
		return -ENOMEM;
	t->stop_ev = event_new(t->base, t->stop_fd, EV_READ, on_stop, t);
	t->tick_ev = event_new(t->base, -1, EV_PERSIST, on_tick, t);
	t->retry_ev = evtimer_new(t->base, on_retry, t);
	if (!t->stop_ev || !t->tick_ev || !t->retry_ev || event_add(t->stop_ev, NULL) ||
	    event_add(t->tick_ev, &tick))
		return -ENOMEM;
	return 0;
}

static void tunnel_free(struct tunnel *t)
{
	event_drop(&t->stop_ev);
	event_drop(&t->tick_ev);
	event_drop(&t->retry_ev);
	if (t->base)
		event_base_free(t->base);
	if (t->stop_fd >= 0)
		close(t->stop_fd);
	buf_fini(&t->in);
	buf_cleanse(&t->out);
	buf_fini(&t->behind);
	buf_fini(&t->wire);
	buf_fini(&t->frames);
	BIO_meth_free(t->method);
	trust_close(&t->trust);
	free(t->host);
	free(t);
}

/* ---- start, stop ---- */

/* Signals are for the main thread: this one, and the resolvers it starts, have them all blocked. */
static int thread_start(struct tunnel *t)
{
	sigset_t all, before;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	err = pthread_create(&t->thread, NULL, tunnel_main, t);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -err;
}

int tunnel_start(struct tunnel **out, const struct tunnel_conf *conf, struct ship *ship)
{
	struct tunnel *t = calloc(1, sizeof(*t));
	int err;

	if (!t)
		return -ENOMEM;
	t->stop_fd = t->fd = -1;
	t->port = conf->port;
	t->zstd_level = conf->zstd_level;
	t->ship = ship;
	t->backoff_ms = BACKOFF_MIN_MS;
	buf_init(&t->in, IN_MAX);
	buf_init(&t->out, OUT_MAX);
	buf_init(&t->behind, OUT_MAX);
	buf_init(&t->wire, WIRE_MAX);
	buf_init(&t->frames, FRAME_HEADER_LEN + FRAME_BODY_MAX);
	snprintf(t->where, sizeof(t->where), strchr(conf->host, ':') ? "[%s]:%u" : "%s:%u",
		 conf->host, conf->port);
	if (gethostname(t->name, sizeof(t->name) - 1))
		t->name[0] = '\0';
	t->host = strdup(conf->host);
	t->method = socket_method();
	err = t->host && t->method ? 0 : -ENOMEM;
	if (!err && getrandom(t->agent, sizeof(t->agent), 0) != (ssize_t)sizeof(t->agent))
		err = -EIO;
	if (!err)
		err = trust_open(&t->trust, &trust_endpoint, t->host, &conf->files, conf->state_dir,
				 conf->insecure);
	if (!err)
		err = loop_open(t);
	if (!err)
		err = thread_start(t);
	if (err) {
		tunnel_free(t);
		return err;
	}
	*out = t;
	return 0;
}

void tunnel_stop(struct tunnel *t, unsigned drain_ms)
{
	static const struct timespec poll = {.tv_nsec = DRAIN_POLL_MS * 1000000};
	uint64_t end_ns = clock_mono_ns() + drain_ms * NS_PER_MS, one = 1;

	if (!t)
		return;
	while (!ship_is_empty(t->ship) && clock_mono_ns() < end_ns)
		nanosleep(&poll, NULL);
	if (write(t->stop_fd, &one, sizeof(one)) < 0)
		log_debug("tunnel: stop: %s", strerror(errno));
	pthread_join(t->thread, NULL); /* it never blocks: all its waiting is in the event loop */
	tunnel_free(t);
}
