/* SPDX-License-Identifier: Apache-2.0 */
/*
 * aggregate: see aggregate.h; PROTOCOL.md section 4.8. Glue between acceptor's links, dial's
 * connections and pass, which says what may go on. Memory is bounded by not reading one side while
 * the other does not take. Never opens a block, never acknowledges anything itself.
 */
#include "aggregate/aggregate.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent_ssl.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "acceptor.h"
#include "aggregate/pass.h"
#include "base/clock.h"
#include "base/hmap.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/queue.h"
#include "ingest.h"

#define OUTPUT_MAX    (256u << 10) /* waits for the collector: the agent is not read until */
#define OUTPUT_RESUME (64u << 10)  /* it is this */
#define ANSWER_S      8            /* from hello to welcome, below the ten that an agent waits */
#define SILENT_S      30           /* the agent pings each 5 s, and the collector answers */
#define DRAIN_S       5            /* for what an agent said that is gone */
#define LINE_MS       1000

static COUNTER_DEFINE(g_links, "aggregate_links", "links passed on now");
static COUNTER_DEFINE(n_bytes_up, "aggregate_bytes_up", "bytes passed on to the collector");
static COUNTER_DEFINE(n_bytes_down, "aggregate_bytes_down", "bytes of answers passed to agents");
static COUNTER_DEFINE(n_blocks, "aggregate_blocks", "blocks passed on");
static COUNTER_DEFINE(n_held, "aggregate_held", "times an agent was not read: collector behind");
static COUNTER_DEFINE(n_replaced, "aggregate_replaced", "links replaced by newer ones of an agent");
static COUNTER_DEFINE(n_refused, "link_onward_refused", "links that the next collector refused");
static COUNTER_DEFINE(n_failed, "link_onward_failed", "links with no way to the next collector");
static COUNTER_DEFINE(n_lost, "link_onward_lost", "links that lost the next collector");
static COUNTER_DEFINE(n_agent, "link_broken_agent", "links closed: the agent breaks the protocol");
static COUNTER_DEFINE(n_collector, "link_broken_collector",
		      "links closed: the next collector breaks the protocol");

/* Each has one way forward, and from everywhere to PAIR_DEAD. */
enum pair_state {
	PAIR_HELLO,   /* the agent's hello is awaited */
	PAIR_DIAL,    /* a connection onward is being made; the agent is held */
	PAIR_ASKED,   /* the hello is out, the welcome is awaited; the agent is held */
	PAIR_UP,      /* both ways are open */
	PAIR_DRAIN,   /* the agent is gone; what it said is on its way */
	PAIR_CLOSING, /* all of it is out; the collector's end is awaited */
	PAIR_DEAD,    /* ended; freed by aggregate_round() once its link is closed */
};

/* An agent's link and the one onward. */
struct pair {
	struct queue_node node; /* aggregate.pairs or .dead */
	struct hmap_node by_key;
	struct aggregate *a; /* borrowed */
	struct link *link;   /* borrowed; NULL: the agent is gone */
	struct pass *pass;
	struct dial *dial;       /* PAIR_DIAL */
	struct bufferevent *bev; /* onward, from PAIR_ASKED on */
	enum pair_state state;
	bool has_key; /* in aggregate.by_key */
	bool held;    /* the agent is not read: the collector is behind */
	bool deaf;    /* the collector is not read: the agent is behind */
	uint64_t deadline_ns;
	uint64_t given, taken; /* bytes for the collector: all; what had left us at the last tick */
	uint64_t alive_ns;     /* the collector said or took something */
	char name[192];
};

struct aggregate {
	struct dialer *dialer;
	struct queue pairs, dead; /* a pair is in one of them, or dead with a link still to close */
	struct hmap by_key;
	unsigned n_up;
	uint64_t tick_ns; /* when the once-a-second work is due */
	struct buf words; /* scratch: a refusal of ours */
	struct log_same said;
	struct log_rate rate;
};

/* ---- what people read ---- */

/* Trouble with the collector is the same for all links. */
static void say(struct aggregate *a, const char *text)
{
	if (log_same_ok(&a->said, text))
		log_warn("aggregate: %s; agents keep what they have and try again", text);
}

static void say_broken(struct pair *p, const char *who, const char *why)
{
	uint64_t held;

	if (log_rate_ok(&p->a->rate, LINE_MS, &held))
		log_warn("aggregate: link closed: %s: %s peer=%s", who, why, p->name);
}

/* ---- ends ---- */

static void pair_state_set(struct pair *p, enum pair_state state)
{
	struct aggregate *a = p->a;

	log_debug("aggregate: state=%d peer=%s", (int)state, p->name);
	a->n_up += state == PAIR_UP;
	a->n_up -= p->state == PAIR_UP;
	counter_set(&g_links, a->n_up);
	p->state = state;
}

static void pair_forget_key(struct pair *p)
{
	if (p->has_key)
		hmap_remove(&p->a->by_key, &p->by_key);
	p->has_key = false;
}

/* One close_notify; nobody waits for an answer. */
static void say_bye(struct pair *p)
{
	SSL_shutdown(bufferevent_openssl_get_ssl(p->bev));
	ERR_clear_error();
}

/* Nothing goes either way any more; its link, if it has one, is still to be closed. */
static void pair_kill(struct pair *p)
{
	if (p->state == PAIR_DEAD)
		return;
	dial_cancel(p->dial);
	p->dial = NULL;
	if (p->bev) {
		bufferevent_setcb(p->bev, NULL, NULL, NULL, NULL);
		bufferevent_disable(p->bev, EV_READ | EV_WRITE);
	}
	pair_forget_key(p);
	pair_state_set(p, PAIR_DEAD);
	queue_remove(&p->node);
	if (!p->link)
		queue_push(&p->a->dead, &p->node);
}

/* The agent's link ends, with these words of ours, if any. */
static void pair_end(struct pair *p, uint16_t code, const char *text)
{
	struct aggregate *a = p->a;

	pair_kill(p);
	if (!p->link)
		return;
	buf_reset(&a->words);
	if (text && ingest_put_refused(&a->words, code, text))
		buf_reset(&a->words);
	acceptor_end(p->link, buf_span(&a->words));
}

static void pair_free(struct pair *p)
{
	if (p->bev)
		bufferevent_free(p->bev);
	pass_free(p->pass);
	free(p);
}

/* ---- an agent that is gone ---- */

/* All is out. The end is the collector's: a close with unread acknowledgements would be a reset,
 * and take with it what the kernel has not sent yet. */
static void drained_out(struct pair *p)
{
	say_bye(p);
	shutdown(bufferevent_getfd(p->bev), SHUT_WR);
	pair_state_set(p, PAIR_CLOSING);
}

static void drain_start(struct pair *p)
{
	pair_forget_key(p);
	pair_state_set(p, PAIR_DRAIN);
	p->deadline_ns = clock_mono_ns() + DRAIN_S * NS_PER_S;
	bufferevent_setwatermark(p->bev, EV_WRITE, 0, 0);
	bufferevent_enable(p->bev, EV_READ);
	if (!evbuffer_get_length(bufferevent_get_output(p->bev)))
		drained_out(p);
}

static void on_link_closed(void *taker)
{
	struct pair *p = taker;

	p->link = NULL;
	p->held = false;
	if (p->state == PAIR_UP)
		drain_start(p);
	else if (p->state == PAIR_DEAD)
		queue_push(&p->a->dead, &p->node);
	else
		pair_kill(p);
}

/* ---- from the collector ---- */

static void pair_up(struct pair *p)
{
	pair_state_set(p, PAIR_UP);
	pass_hello_sent(p->pass);
	log_same_end(&p->a->said);
	log_info("aggregate: link passed on to %s peer=%s host=%s", dialer_where(p->a->dialer),
		 p->name, pass_host(p->pass));
	acceptor_greeted(p->link);
	acceptor_hold(p->link, false);
}

static void on_refused(struct pair *p)
{
	char text[DIAL_TEXT_MAX];

	counter_inc(&n_refused);
	snprintf(text, sizeof(text), "%s refuses: %s", dialer_where(p->a->dialer),
		 pass_refusal(p->pass));
	say(p->a, text);
	pair_end(p, 0, NULL); /* its words are on their way to the agent */
}

static void on_broken(struct pair *p, const char *why)
{
	char text[DIAL_TEXT_MAX];

	counter_inc(&n_collector);
	say_broken(p, dialer_where(p->a->dialer), why);
	snprintf(text, sizeof(text), "%s breaks the protocol: %s", dialer_where(p->a->dialer), why);
	pair_end(p, REFUSE_INTERNAL, text);
}

static void take_answers(struct pair *p)
{
	struct evbuffer *in = bufferevent_get_input(p->bev);
	size_t len = evbuffer_get_length(in);
	const uint8_t *bytes = len ? evbuffer_pullup(in, -1) : NULL;
	const char *why = "";
	ssize_t n;

	if (!bytes)
		return;
	n = pass_collector(p->pass, span_of(bytes, len), &why);
	if (n < 0 || (n == 0 && len >= PASS_ANSWER_MAX)) {
		on_broken(p, n < 0 ? why : "an envelope without end");
		return;
	}
	if (n) {
		counter_add(&n_bytes_down, (uint64_t)n);
		p->deaf = !acceptor_send(p->link, span_of(bytes, (size_t)n));
		evbuffer_drain(in, (size_t)n);
	}
	if (pass_state(p->pass) == PASS_REFUSED) {
		on_refused(p);
		return;
	}
	if (p->deaf)
		bufferevent_disable(p->bev, EV_READ);
	if (p->state == PAIR_ASKED && pass_state(p->pass) == PASS_UP)
		pair_up(p);
}

static void on_read(struct bufferevent *bev, void *ctx)
{
	struct pair *p = ctx;
	struct evbuffer *in = bufferevent_get_input(bev);

	p->alive_ns = clock_mono_ns();
	if (p->state == PAIR_ASKED || p->state == PAIR_UP)
		take_answers(p);
	else
		evbuffer_drain(in, evbuffer_get_length(in)); /* nobody is there to hear it */
}

static void on_write(struct bufferevent *bev, void *ctx)
{
	struct pair *p = ctx;

	if (p->state == PAIR_DRAIN && !evbuffer_get_length(bufferevent_get_output(bev))) {
		drained_out(p);
	} else if (p->held) {
		p->held = false;
		acceptor_hold(p->link, false);
	}
}

static void on_event(struct bufferevent *bev, short what, void *ctx)
{
	struct pair *p = ctx;
	char cause[DIAL_TEXT_MAX], text[DIAL_TEXT_MAX + 16];

	if (!(what & (BEV_EVENT_EOF | BEV_EVENT_ERROR)))
		return;
	dialer_cause(p->a->dialer, bev, what, cause, sizeof(cause));
	if (p->state == PAIR_ASKED || p->state == PAIR_UP)
		take_answers(p); /* a refusal may stand before the end */
	if (p->state == PAIR_DEAD)
		return;
	if (p->state == PAIR_DRAIN || p->state == PAIR_CLOSING) {
		pair_kill(p);
		return;
	}
	counter_inc(&n_lost);
	if (p->state == PAIR_ASKED)
		dialer_hold(p->a->dialer, cause);
	snprintf(text, sizeof(text), "lost %s", cause);
	say(p->a, text);
	pair_end(p, REFUSE_INTERNAL, text);
}

/* ---- hello ---- */

/* False: out of memory; the bytes that follow would make no sense. */
static bool pair_give(struct pair *p, struct span s)
{
	if (bufferevent_write(p->bev, s.p, s.len))
		return false;
	p->given += s.len;
	counter_add(&n_bytes_up, s.len);
	return true;
}

static void on_dialed(void *ctx, struct bufferevent *bev, const char *why)
{
	struct pair *p = ctx;

	p->dial = NULL;
	if (!bev) {
		counter_inc(&n_failed);
		say(p->a, why);
		pair_end(p, REFUSE_INTERNAL, why);
		return;
	}
	p->bev = bev;
	p->alive_ns = clock_mono_ns();
	pair_state_set(p, PAIR_ASKED);
	bufferevent_setcb(bev, on_read, on_write, on_event, p);
	bufferevent_setwatermark(bev, EV_WRITE, OUTPUT_RESUME, 0);
	bufferevent_setwatermark(bev, EV_READ, 0, PASS_ANSWER_MAX);
	bufferevent_enable(bev, EV_READ | EV_WRITE);
	if (!pair_give(p, pass_hello(p->pass)))
		pair_end(p, REFUSE_INTERNAL, "out of memory");
}

static struct pair *pair_find(struct aggregate *a, const uint8_t *key, uint64_t hash)
{
	struct hmap_node *n = hmap_first(&a->by_key, hash);

	for (; n; n = hmap_next_same(n)) {
		struct pair *p = hmap_entry(n, struct pair, by_key);

		if (memcmp(pass_key(p->pass), key, PASS_KEY_LEN) == 0)
			return p;
	}
	return NULL;
}

/* The newest link of an agent and index is the one that counts, as at the collector. */
static void replace(struct pair *old, const struct pair *by)
{
	counter_inc(&n_replaced);
	log_info("aggregate: link replaced by a newer one of the same agent peer=%s by=%s",
		 old->name, by->name);
	pair_kill(old);
}

static int refuse(struct pair *p, const char *text, struct buf *reply)
{
	counter_inc(&n_failed);
	say(p->a, text);
	if (ingest_put_refused(reply, REFUSE_INTERNAL, text))
		buf_reset(reply);
	pair_kill(p);
	return -EHOSTUNREACH;
}

static int on_hello(struct pair *p, struct buf *reply, uint64_t now_ns)
{
	uint64_t hash = hmap_hash(pass_key(p->pass), PASS_KEY_LEN);
	struct pair *old = pair_find(p->a, pass_key(p->pass), hash);
	const char *why = dialer_held(p->a->dialer, now_ns);

	if (old && old->state != PAIR_UP) /* in a circle no hello ever meets its welcome */
		return refuse(p, "this link is being passed on already: does -t lead back here?",
			      reply);
	if (why)
		return refuse(p, why, reply);
	if (old)
		replace(old, p);
	if (hmap_insert(&p->a->by_key, &p->by_key, hash))
		return refuse(p, "out of memory", reply);
	p->has_key = true;
	p->dial = dial_start(p->a->dialer, on_dialed, p);
	if (!p->dial)
		return refuse(p, "out of descriptors, memory or threads", reply);
	pair_state_set(p, PAIR_DIAL);
	p->deadline_ns = now_ns + ANSWER_S * NS_PER_S;
	acceptor_hold(p->link, true);
	return 0;
}

/* ---- from the agent ---- */

static int on_agent(void *taker, struct span in, struct buf *reply, uint64_t now_ns)
{
	struct pair *p = taker;
	struct pass_count c;
	const char *why = "";
	int err;

	if (p->state == PAIR_DEAD)
		return -EPROTO;
	err = pass_agent(p->pass, in, &c, &why);
	if (err) {
		counter_inc(&n_agent);
		say_broken(p, "the agent breaks the protocol", why);
		if (ingest_put_refused(reply, REFUSE_PROTOCOL, why))
			buf_reset(reply);
		pair_kill(p);
		return err;
	}
	if (p->state == PAIR_HELLO)
		return pass_state(p->pass) == PASS_ASKED ? on_hello(p, reply, now_ns) : 0;
	counter_add(&n_blocks, c.blocks);
	if (!pair_give(p, in)) {
		say_broken(p, "here", "out of memory");
		pair_kill(p);
		return -ENOMEM;
	}
	if (!p->held && evbuffer_get_length(bufferevent_get_output(p->bev)) > OUTPUT_MAX) {
		p->held = true;
		counter_inc(&n_held);
		acceptor_hold(p->link, true);
	}
	return 0;
}

static int on_link(void **out, void *hub, struct link *l, const char *name)
{
	struct aggregate *a = hub;
	struct pair *p = calloc(1, sizeof(*p));
	int err;

	if (!p)
		return -ENOMEM;
	err = pass_new(&p->pass);
	if (err) {
		free(p);
		return err;
	}
	p->a = a;
	p->link = l;
	snprintf(p->name, sizeof(p->name), "%s", name);
	queue_push(&a->pairs, &p->node);
	*out = p;
	return 0;
}

static bool is_greeted(const void *taker)
{
	const struct pair *p = taker;

	return p->state == PAIR_UP;
}

static bool is_replaced(const void *taker)
{
	const struct pair *p = taker;

	return p->state == PAIR_DEAD;
}

static void on_drained(void *taker)
{
	struct pair *p = taker;

	if (p->deaf && p->state == PAIR_UP)
		bufferevent_enable(p->bev, EV_READ);
	p->deaf = false;
	p->alive_ns = clock_mono_ns();
}

const struct taker_ops aggregate_taker = {
	.open = on_link,
	.close = on_link_closed,
	.bytes = on_agent,
	.is_greeted = is_greeted,
	.is_replaced = is_replaced,
	.drained = on_drained,
};

/* ---- time ---- */

static bool is_silent(struct pair *p, uint64_t now_ns)
{
	uint64_t taken = p->given - evbuffer_get_length(bufferevent_get_output(p->bev));

	if (taken != p->taken || p->deaf)
		p->alive_ns = now_ns;
	p->taken = taken;
	return now_ns - p->alive_ns > SILENT_S * NS_PER_S;
}

static void pair_tick(struct pair *p, uint64_t now_ns)
{
	char text[DIAL_TEXT_MAX];

	switch (p->state) {
	case PAIR_DIAL:
	case PAIR_ASKED:
		if (now_ns < p->deadline_ns)
			return;
		counter_inc(&n_failed);
		snprintf(text, sizeof(text), "%s does not answer", dialer_where(p->a->dialer));
		dialer_hold(p->a->dialer, text);
		say(p->a, text);
		pair_end(p, REFUSE_INTERNAL, text);
		return;
	case PAIR_UP:
		if (!is_silent(p, now_ns))
			return;
		counter_inc(&n_lost);
		snprintf(text, sizeof(text), "lost %s: silent too long",
			 dialer_where(p->a->dialer));
		say(p->a, text);
		pair_end(p, REFUSE_INTERNAL, text);
		return;
	case PAIR_DRAIN:
	case PAIR_CLOSING:
		if (now_ns >= p->deadline_ns)
			pair_kill(p);
		return;
	case PAIR_HELLO: /* acceptor's deadline */
	case PAIR_DEAD:
		return;
	}
}

static void tick(struct aggregate *a, uint64_t now_ns)
{
	struct queue_node *n = queue_first(&a->pairs), *next;

	for (; n; n = next) {
		next = queue_next(&a->pairs, n);
		pair_tick(queue_entry(n, struct pair, node), now_ns);
	}
}

static void reap(struct aggregate *a)
{
	struct queue_node *n;

	while ((n = queue_first(&a->dead))) {
		queue_remove(n);
		pair_free(queue_entry(n, struct pair, node));
	}
}

uint64_t aggregate_round(struct aggregate *a, uint64_t now_ns, bool *second)
{
	*second = now_ns >= a->tick_ns;
	if (*second) {
		a->tick_ns = now_ns + NS_PER_S;
		tick(a, now_ns);
	}
	reap(a);
	return a->tick_ns - now_ns;
}

/* ---- life ---- */

int aggregate_open(struct aggregate **out, const struct dialer_conf *conf)
{
	struct aggregate *a = calloc(1, sizeof(*a));
	int err;

	if (!a)
		return -ENOMEM;
	queue_init(&a->pairs);
	queue_init(&a->dead);
	hmap_init(&a->by_key);
	counter_set(&g_links, 0);
	buf_init(&a->words, ZBLOCK_HEADER_LEN + FRAME_HEADER_LEN + FRAME_BODY_MAX);
	err = dialer_open(&a->dialer, conf);
	if (err) {
		aggregate_close(a);
		return err;
	}
	*out = a;
	return 0;
}

void aggregate_close(struct aggregate *a)
{
	struct queue_node *n;

	if (!a)
		return;
	while ((n = queue_first(&a->pairs))) {
		struct pair *p = queue_entry(n, struct pair, node);

		if (p->state == PAIR_DRAIN)
			say_bye(p);
		pair_kill(p);
	}
	reap(a);
	dialer_close(a->dialer);
	hmap_fini(&a->by_key);
	buf_fini(&a->words);
	free(a);
}
