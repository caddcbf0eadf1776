/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tunnel: the real client against the real acceptor on loopback, over a relay that cuts
 * connections. The session table only takes notes. Ends are enrolled as people do it: token,
 * enroll_run().
 */
#include <arpa/inet.h>
#include <errno.h>
#include <ftw.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "acceptor.h"
#include "aggregate/aggregate.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/pki.h"
#include "uplink/enroll.h"
#include "ingest.h"
#include "uplink/tunnel.h"
#include "zblock.h"

#define LOOPBACK    "127.0.0.1"
#define SEEN_MAX    (1u << 17)
#define CUTS        10
#define PATIENCE_MS 30000
#define AHEAD_NS    (90 * NS_PER_S) /* the collector's clock */

/* ---- a session table that takes notes; replaces session.c in this program ---- */

struct sessions {
	int unused;
};
struct session_origin {
	int unused;
};

static struct sessions table;
static struct session_origin origin;
static uint64_t *seen; /* stamps of data frames, in the order of arrival */
static atomic_uint n_seen, n_reopened, n_gone;

struct session_origin *sessions_origin(struct sessions *t, const uint8_t agent[16],
				       struct span host)
{
	(void)t;
	(void)agent;
	(void)host;
	return &origin;
}

int sessions_frame(struct sessions *t, struct session_origin *o, const struct frame *f,
		   uint64_t now_ns)
{
	struct frame_flow_open open;
	struct frame_data m;

	(void)t;
	(void)o;
	(void)now_ns;
	if (f->type == FRAME_FLOW_OPEN) {
		if (frame_get_flow_open(f, &open))
			return -EBADMSG;
		if (open.flags & FLOW_OPEN_RESUMED)
			atomic_fetch_add(&n_reopened, 1);
	}
	if (f->type == FRAME_DATA) {
		if (frame_get_data(f, &m) || n_seen >= SEEN_MAX)
			return -EBADMSG;
		seen[n_seen] = m.ts_ns;
		atomic_fetch_add(&n_seen, 1);
	}
	return 0;
}

void sessions_origin_link(struct sessions *t, struct session_origin *o, bool is_up)
{
	(void)t;
	(void)o;
	(void)is_up;
}

void sessions_origin_gone(struct sessions *t, struct session_origin *o, uint64_t now_ns)
{
	(void)t;
	(void)o;
	(void)now_ns;
	atomic_fetch_add(&n_gone, 1);
}

/* ---- a collector in a thread: collector_loop() with a table that takes notes ---- */

struct server {
	pthread_t thread;
	struct event_base *base;
	struct crew *crew;
	struct ingest_hub *hub;
	struct aggregate *aggregate; /* it passes on */
	struct acceptor *acceptor;
	struct event *timer;
	atomic_bool stop, forget, pause;
	uint16_t port;
};

static char root[64], collector_dir[96], agent_dir[96], foreign_dir[96];

/* What metrics_dump() says of one counter; 0 when it does not name it. */
static unsigned long metric(const char *name)
{
	char *text = NULL, *at, key[96];
	unsigned long value = 0;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	assert_non_null(f);
	metrics_dump(f, true);
	fclose(f);
	snprintf(key, sizeof(key), " %s ", name);
	at = strstr(text, key);
	if (at)
		value = strtoul(at + strlen(key), NULL, 10);
	free(text);
	return value;
}

static void on_timer(evutil_socket_t fd, short what, void *ctx)
{
	(void)fd;
	(void)what;
	(void)ctx;
}

static void *server_main(void *arg)
{
	struct server *s = arg;
	uint64_t tick_ns = 0;

	while (!atomic_load(&s->stop)) {
		bool second;

		while (atomic_load(&s->pause) && !atomic_load(&s->stop))
			usleep(1000);
		event_base_loop(s->base, EVLOOP_ONCE);
		(void)acceptor_flushed(s->acceptor, clock_mono_ns());
		if (s->aggregate)
			(void)aggregate_round(s->aggregate, clock_mono_ns(), &second);
		if (atomic_exchange(&s->forget,
				    false)) { /* as if no link had been up for the grace */
			uint64_t later_ns = clock_mono_ns() + INGEST_AGENT_GRACE_S * NS_PER_S;

			ingest_hub_tick(s->hub, 0);
			ingest_hub_tick(s->hub, later_ns);
		}
		if (clock_mono_ns() < tick_ns)
			continue;
		tick_ns = clock_mono_ns() + NS_PER_S / 10;
		if (s->hub) {
			ingest_hub_wall(s->hub, clock_wall_offset_ns() + (int64_t)AHEAD_NS);
			ingest_hub_tick(s->hub, clock_mono_ns());
		}
		acceptor_tick(s->acceptor, clock_mono_ns());
	}
	return NULL;
}

/* onward: port of the collector that it passes on to; 0: it takes notes itself. */
static void server_start_as(struct server *s, const char *dir, uint16_t port, bool insecure,
			    unsigned max_links, uint16_t onward)
{
	static const struct timeval often = {.tv_usec = 20000};
	char ca[128], cert[128], key[128];
	struct acceptor_conf conf = {
		.files = {.ca = ca, .cert = cert, .key = key},
		.listen_addr = LOOPBACK,
		.port = port,
		.insecure = insecure,
		.enroll_dir = dir,
		.max_links = max_links,
	};

	snprintf(ca, sizeof(ca), "%s/ca.pem", dir);
	snprintf(cert, sizeof(cert), "%s/collector.pem", dir);
	snprintf(key, sizeof(key), "%s/collector.key", dir);
	*s = (struct server){0};
	s->base = event_base_new();
	assert_non_null(s->base);
	conf.base = s->base;
	if (onward) {
		const struct dialer_conf dc = {.base = s->base,
					       .host = LOOPBACK,
					       .port = onward,
					       .dir = agent_dir,
					       .insecure = insecure};

		assert_int_equal(aggregate_open(&s->aggregate, &dc), 0);
		conf.ops = &aggregate_taker;
		conf.hub = s->aggregate;
	} else {
		s->crew = crew_new_direct(&table);
		assert_non_null(s->crew);
		assert_int_equal(ingest_hub_new(&s->hub, s->crew), 0);
		conf.ops = &ingest_taker;
		conf.hub = s->hub;
	}
	assert_int_equal(acceptor_open(&s->acceptor, &conf), 0);
	s->port = acceptor_port(s->acceptor);
	s->timer = event_new(s->base, -1, EV_PERSIST, on_timer, s);
	event_add(s->timer, &often);
	assert_int_equal(pthread_create(&s->thread, NULL, server_main, s), 0);
}

static void server_start_dir(struct server *s, const char *dir, uint16_t port, bool insecure,
			     unsigned max_links)
{
	server_start_as(s, dir, port, insecure, max_links, 0);
}

static void server_start(struct server *s)
{
	server_start_dir(s, collector_dir, 0, false, 0);
}

static void server_stop(struct server *s)
{
	atomic_store(&s->stop, true);
	pthread_join(s->thread, NULL);
	acceptor_close(s->acceptor);
	ingest_hub_free(s->hub);
	aggregate_close(s->aggregate);
	crew_free(s->crew);
	event_free(s->timer);
	event_base_free(s->base);
}

/* ---- a relay that can cut ---- */

struct relay {
	pthread_t thread;
	int listener;
	uint16_t port, to;
	atomic_bool stop, cut, hold;
	atomic_uint n_cut;
};

static int tcp_to(uint16_t port)
{
	struct sockaddr_in sa = {.sin_family = AF_INET,
				 .sin_port = htons(port),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd >= 0 && connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static bool move_bytes(int from, int to)
{
	char chunk[8192];
	ssize_t n = read(from, chunk, sizeof(chunk));

	for (ssize_t at = 0; at < n;) {
		ssize_t k = send(to, chunk + at, (size_t)(n - at), MSG_NOSIGNAL);

		if (k <= 0)
			return false;
		at += k;
	}
	return n > 0;
}

static void relay_one(struct relay *r, int a, int b)
{
	struct pollfd p[2] = {{.fd = a, .events = POLLIN}, {.fd = b, .events = POLLIN}};

	while (!atomic_load(&r->stop)) {
		if (atomic_exchange(&r->cut, false)) {
			atomic_fetch_add(&r->n_cut, 1);
			return;
		}
		poll(p, 2, 5);
		if (p[0].revents && !move_bytes(a, b))
			return;
		if (p[1].revents && !move_bytes(b, a))
			return;
	}
}

static void *relay_main(void *arg)
{
	struct linger hard = {.l_onoff = 1};
	struct relay *r = arg;

	while (!atomic_load(&r->stop)) {
		struct pollfd p = {.fd = r->listener, .events = POLLIN};
		int a, b;

		if (atomic_load(&r->hold) || poll(&p, 1, 10) <= 0)
			continue;
		a = accept(r->listener, NULL, NULL);
		b = tcp_to(r->to);
		if (a >= 0 && b >= 0)
			relay_one(r, a, b);
		setsockopt(a, SOL_SOCKET, SO_LINGER, &hard,
			   sizeof(hard)); /* a reset, half the time */
		close(a);
		close(b);
	}
	return NULL;
}

static void relay_start(struct relay *r, uint16_t to)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(sa);

	*r = (struct relay){.to = to};
	r->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(r->listener, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(r->listener, 8), 0);
	assert_int_equal(getsockname(r->listener, (struct sockaddr *)&sa, &len), 0);
	r->port = ntohs(sa.sin_port);
	assert_int_equal(pthread_create(&r->thread, NULL, relay_main, r), 0);
}

static void relay_stop(struct relay *r)
{
	atomic_store(&r->stop, true);
	pthread_join(r->thread, NULL);
	close(r->listener);
}

/* ---- an agent ---- */

struct client {
	struct ship *ship;
	struct tunnel *tunnel;
	uint64_t next;
};

static void client_start(struct client *c, uint16_t port, const char *dir, bool insecure)
{
	struct tunnel_conf conf = {.host = LOOPBACK,
				   .port = port,
				   .state_dir = dir,
				   .insecure = insecure,
				   .zstd_level = 1};
	struct frame_flow_open open = {.flow = 1,
				       .transport = 6,
				       .family = 4,
				       .confidence = CONF_EXACT,
				       .client_port = 1,
				       .server_port = 443};

	*c = (struct client){0};
	assert_int_equal(ship_new(&c->ship, 64u << 20), 0);
	assert_int_equal(tunnel_start(&c->tunnel, &conf, c->ship), 0);
	ship_flow_open(c->ship, &open);
}

static void client_send(struct client *c, unsigned n)
{
	uint8_t bytes[1000];
	uint32_t x = 7;

	for (unsigned i = 0; i < n; i++, c->next++) {
		struct frame_data m = {.flow = 1,
				       .offset = c->next * sizeof(bytes),
				       .ts_ns = c->next,
				       .bytes = span_of(bytes, sizeof(bytes))};

		for (size_t k = 0; k < sizeof(bytes); k++) {
			x = x * 1664525 + 1013904223;
			bytes[k] = (uint8_t)(x >> 24);
		}
		ship_data(c->ship, &m);
	}
	ship_flush(c->ship);
}

static void client_stop(struct client *c, unsigned drain_ms)
{
	tunnel_stop(c->tunnel, drain_ms);
	ship_free(c->ship);
}

static void wait_begun(unsigned n)
{
	for (int ms = 0; atomic_load(&n_seen) < n && ms < PATIENCE_MS; ms++)
		usleep(1000);
	assert_true(atomic_load(&n_seen) >= n);
}

static void wait_seen(unsigned n)
{
	wait_begun(n);
	assert_int_equal(atomic_load(&n_seen), n);
}

static void wait_acked(struct client *c)
{
	for (int ms = 0; !ship_is_empty(c->ship) && ms < PATIENCE_MS; ms += 2)
		usleep(2000);
	assert_true(ship_is_empty(c->ship));
}

/* Each stamp once, in order: nothing lost, doubled or overtaken. */
static void assert_in_order(unsigned n)
{
	assert_int_equal(atomic_load(&n_seen), n);
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(seen[i], i);
}

static void enroll_into(const char *dir)
{
	char token[PKI_TOKEN_STRLEN];
	struct server s;

	server_start(&s);
	assert_int_equal(pki_token_new(collector_dir, 60, token), 0);
	assert_int_equal(enroll_run(LOOPBACK, s.port, token, dir, false), 0);
	server_stop(&s);
}

static int group_setup(void **state)
{
	(void)state;
	log_set_level(LOG_ERROR);
	snprintf(root, sizeof(root), "/tmp/sslc-tunnel-XXXXXX");
	assert_non_null(mkdtemp(root));
	snprintf(collector_dir, sizeof(collector_dir), "%s/collector", root);
	snprintf(agent_dir, sizeof(agent_dir), "%s/agent", root);
	snprintf(foreign_dir, sizeof(foreign_dir), "%s/foreign", root);
	assert_int_equal(pki_collector_init(collector_dir), 1);
	assert_int_equal(pki_collector_init(foreign_dir), 1);
	seen = calloc(SEEN_MAX, sizeof(*seen));
	assert_non_null(seen);
	enroll_into(agent_dir);
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
	(void)st;
	(void)type;
	(void)f;
	return remove(path);
}

static int group_teardown(void **state)
{
	(void)state;
	free(seen);
	return nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static int setup(void **state)
{
	(void)state;
	atomic_store(&n_seen, 0);
	atomic_store(&n_reopened, 0);
	atomic_store(&n_gone, 0);
	return 0;
}

/* ---- tests ---- */

static void test_blocks_arrive_in_order_and_are_acknowledged(void **state)
{
	struct server s;
	struct client c;

	(void)state;
	server_start(&s);
	client_start(&c, s.port, agent_dir, false);
	for (int i = 0; i < 20; i++)
		client_send(&c, 500);
	wait_seen(10000);
	wait_acked(&c);
	client_stop(&c, 1000);
	server_stop(&s);
	assert_in_order(10000);
}

static unsigned clock_error_ms(void)
{
	uint64_t ahead_us = metric("tunnel_clock_ahead_us"), true_us = AHEAD_NS / 1000;

	return (unsigned)((ahead_us > true_us ? ahead_us - true_us : true_us - ahead_us) / 1000);
}

static void test_both_sides_learn_how_far_their_clocks_differ(void **state)
{
	struct server s;
	struct client c;
	unsigned waited_ms = 0;

	(void)state;
	server_start(&s);
	client_start(&c, s.port, agent_dir, false);
	for (; waited_ms < PATIENCE_MS && metric("link_clocks_off") == 0; waited_ms += 20)
		usleep(20000);
	assert_int_equal(metric("link_clocks_off"), 1);
	assert_true(clock_error_ms() <= metric("tunnel_trip_us") / 2000 + 1);
	assert_int_equal(metric("tunnel_clock_behind_us"), 0);
	client_stop(&c, 1000);
	server_stop(&s);
	assert_int_equal(metric("link_clocks_off"), 0);
}

static void test_stop_drains_what_is_queued(void **state)
{
	struct server s;
	struct client c;

	(void)state;
	server_start(&s);
	client_start(&c, s.port, agent_dir, false);
	client_send(&c, 3000);
	client_stop(&c, 10000);
	server_stop(&s);
	assert_in_order(3000);
}

static void test_link_cut_ten_times_loses_and_repeats_nothing(void **state)
{
	unsigned sent = 0;
	struct server s;
	struct relay r;
	struct client c;

	(void)state;
	server_start(&s);
	relay_start(&r, s.port);
	client_start(&c, r.port, agent_dir, false);
	for (unsigned i = 0; i < CUTS; i++) {
		client_send(&c, 2000);
		sent += 2000;
		wait_begun(sent - 2000 +
			   1); /* the transfer is under way: in the middle of it, cut */
		atomic_store(&r.cut, true);
		for (int ms = 0; atomic_load(&r.n_cut) <= i && ms < PATIENCE_MS; ms++)
			usleep(1000);
	}
	wait_seen(sent);
	wait_acked(&c);
	client_stop(&c, 1000);
	relay_stop(&r);
	server_stop(&s);
	assert_int_equal(atomic_load(&r.n_cut), CUTS);
	assert_in_order(sent);
}

static void test_restarted_collector_is_told_the_open_flows_again(void **state)
{
	struct server s;
	struct client c;
	uint16_t port;

	(void)state;
	server_start(&s);
	port = s.port;
	client_start(&c, port, agent_dir, false);
	client_send(&c, 100);
	wait_seen(100);
	wait_acked(&c);
	assert_int_equal(atomic_load(&n_reopened), 0);
	server_stop(&s);
	client_send(&c, 100);
	server_start_dir(&s, collector_dir, port, false, 0);
	wait_seen(200);
	client_stop(&c, 2000);
	server_stop(&s);
	assert_int_equal(atomic_load(&n_reopened), 1);
	assert_in_order(200);
}

static void test_collector_that_forgot_the_agent_is_told_the_open_flows_again(void **state)
{
	struct server s;
	struct relay r;
	struct client c;

	(void)state;
	server_start(&s);
	relay_start(&r, s.port);
	client_start(&c, r.port, agent_dir, false);
	client_send(&c, 100);
	wait_seen(100);
	wait_acked(&c);
	atomic_store(&r.hold, true);
	atomic_store(&r.cut, true);
	for (int ms = 0; !atomic_load(&n_gone) && ms < PATIENCE_MS; ms += 20) {
		atomic_store(&s.forget, true);
		usleep(20000);
	}
	assert_int_equal(atomic_load(&n_gone), 1);
	client_send(&c, 100);
	atomic_store(&r.hold, false);
	wait_seen(200);
	client_stop(&c, 2000);
	relay_stop(&r);
	server_stop(&s);
	assert_int_equal(atomic_load(&n_reopened), 1);
	assert_in_order(200);
}

static void test_stop_is_bounded_when_nobody_listens(void **state)
{
	uint64_t start_ns;
	struct client c;

	(void)state;
	client_start(&c, 1, agent_dir, false);
	client_send(&c, 10);
	usleep(100000);
	start_ns = clock_mono_ns();
	client_stop(&c, 300);
	assert_true(clock_mono_ns() - start_ns < 2 * NS_PER_S);
}

/* Trouble for `ms`: no frame may get through. */
static void assert_silent(struct client *c, unsigned ms)
{
	client_send(c, 10);
	usleep(ms * 1000);
	assert_int_equal(atomic_load(&n_seen), 0);
	assert_false(ship_is_empty(c->ship));
}

static void test_agent_without_certificate_is_refused(void **state)
{
	unsigned long there = metric("link_refused_unenrolled"), here = metric("tunnel_refused");
	struct server s;
	struct client c;

	(void)state;
	server_start(&s);
	client_start(&c, s.port, NULL, true);
	assert_silent(&c, 600);
	client_stop(&c, 0);
	server_stop(&s);
	assert_true(metric("link_refused_unenrolled") > there);
	assert_true(metric("tunnel_refused") > here);
}

/* Certificate and key of another collector's endpoint, and the right CA: only the server can
 * object. */
static void make_mixed(char *dir, size_t len)
{
	struct buf key, csr, cert, ca;
	uint8_t chunk[8192];
	char path[160];
	FILE *f;

	buf_init(&key, 1 << 16);
	buf_init(&csr, 1 << 16);
	buf_init(&cert, 1 << 16);
	buf_init(&ca, 1 << 16);
	snprintf(dir, len, "%s/mixed", root);
	assert_int_equal(pki_dir_prepare(dir), 0);
	assert_int_equal(pki_request_new(&key, &csr), 0);
	assert_int_equal(pki_request_sign(foreign_dir, buf_span(&csr), "x", &cert), 0);
	snprintf(path, sizeof(path), "%s/ca.pem", collector_dir);
	f = fopen(path, "r");
	assert_non_null(f);
	wr_bytes(&ca, chunk, fread(chunk, 1, sizeof(chunk), f));
	fclose(f);
	assert_int_equal(pki_file_write(dir, "agent.key", buf_span(&key), 0600), 0);
	assert_int_equal(pki_file_write(dir, "agent.pem", buf_span(&cert), 0644), 0);
	assert_int_equal(pki_file_write(dir, "ca.pem", buf_span(&ca), 0644), 0);
	buf_cleanse(&key);
	buf_fini(&csr);
	buf_fini(&cert);
	buf_fini(&ca);
}

static void test_agent_of_a_foreign_ca_is_refused_and_learns_it(void **state)
{
	unsigned long there = metric("link_refused_tls"), here = metric("tunnel_refused");
	char dir[128];
	struct server s;
	struct client c;

	(void)state;
	make_mixed(dir, sizeof(dir));
	server_start(&s);
	client_start(&c, s.port, dir, false);
	assert_silent(&c, 600);
	client_stop(&c, 0);
	server_stop(&s);
	assert_true(metric("link_refused_tls") > there);
	assert_true(metric("tunnel_refused") > here); /* the alert arrived, not just a reset */
}

static void test_insecure_said_on_both_sides_works(void **state)
{
	struct server s;
	struct client c;

	(void)state;
	server_start_dir(&s, collector_dir, 0, true, 0);
	client_start(&c, s.port, NULL, true);
	client_send(&c, 10);
	wait_seen(10);
	client_stop(&c, 1000);
	server_stop(&s);
}

static void test_agent_never_sends_to_a_foreign_collector(void **state)
{
	struct server s;
	struct client c;

	(void)state;
	server_start_dir(&s, foreign_dir, 0, true, 0); /* would take anyone */
	client_start(&c, s.port, agent_dir, false);
	assert_silent(&c, 600);
	client_stop(&c, 0);
	server_stop(&s);
}

static void test_full_collector_says_so_and_others_go_on(void **state)
{
	struct client first, second;
	struct server s;

	(void)state;
	server_start_dir(&s, collector_dir, 0, false, 1);
	client_start(&first, s.port, agent_dir, false);
	client_send(&first, 10);
	wait_seen(10);
	client_start(&second, s.port, agent_dir, false);
	client_send(&second, 10);
	usleep(500000);
	assert_int_equal(atomic_load(&n_seen), 10);
	client_send(&first, 10);
	wait_seen(20);
	client_stop(&second, 0);
	client_stop(&first, 1000);
	server_stop(&s);
}

static void test_strangers_do_not_disturb_a_link(void **state)
{
	static const char noise[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
	struct server s;
	struct client c;
	int fd[20];

	(void)state;
	server_start(&s);
	client_start(&c, s.port, agent_dir, false);
	client_send(&c, 10);
	wait_seen(10);
	for (size_t i = 0; i < 20; i++) {
		fd[i] = tcp_to(s.port);
		assert_true(fd[i] >= 0);
		if (i % 2)
			assert_true(send(fd[i], noise, sizeof(noise), MSG_NOSIGNAL) > 0);
	}
	client_send(&c, 10);
	wait_seen(20);
	for (size_t i = 0; i < 20; i++)
		close(fd[i]);
	client_stop(&c, 1000);
	server_stop(&s);
	assert_in_order(20);
}

/* ---- passed on ---- */

static void aggregator_start(struct server *s, uint16_t port, uint16_t onward)
{
	server_start_as(s, collector_dir, port, false, 0, onward);
}

static void test_links_cut_on_both_sides_of_an_aggregator_lose_and_repeat_nothing(void **state)
{
	struct server s, first, second;
	struct relay near, far;
	unsigned sent = 0;
	struct client c;

	(void)state;
	server_start(&s);
	relay_start(&far, s.port);
	aggregator_start(&second, 0, far.port);
	aggregator_start(&first, 0, second.port);
	relay_start(&near, first.port);
	client_start(&c, near.port, agent_dir, false);
	for (unsigned i = 0; i < CUTS; i++) {
		struct relay *r = i % 2 ? &near : &far;

		client_send(&c, 2000);
		sent += 2000;
		wait_begun(sent - 2000 + 1);
		atomic_store(&r->cut, true);
		for (int ms = 0; atomic_load(&r->n_cut) <= i / 2 && ms < PATIENCE_MS; ms++)
			usleep(1000);
	}
	wait_seen(sent);
	wait_acked(&c);
	client_stop(&c, 1000);
	relay_stop(&near);
	relay_stop(&far);
	server_stop(&first);
	server_stop(&second);
	server_stop(&s);
	assert_int_equal(atomic_load(&near.n_cut) + atomic_load(&far.n_cut), CUTS);
	assert_in_order(sent);
}

/* More than what the sockets in between hold, and the client's queue in front of it. */
static void test_a_collector_that_takes_nothing_holds_the_agent_not_the_aggregator(void **state)
{
	const unsigned n = 40000, bytes = n * 1000;
	unsigned long before = metric("aggregate_bytes_up"), held = metric("aggregate_held");
	struct server s, a;
	struct client c;

	(void)state;
	server_start(&s);
	aggregator_start(&a, 0, s.port);
	client_start(&c, a.port, agent_dir, false);
	client_send(&c, 1);
	wait_seen(1);
	atomic_store(&s.pause, true);
	client_send(&c, n);
	for (int ms = 0; metric("aggregate_held") == held && ms < PATIENCE_MS; ms++)
		usleep(1000);
	usleep(200000);
	assert_true(metric("aggregate_held") > held);
	assert_true(metric("aggregate_bytes_up") - before < bytes / 2);
	atomic_store(&s.pause, false);
	wait_seen(n + 1);
	wait_acked(&c);
	client_stop(&c, 1000);
	server_stop(&a);
	server_stop(&s);
	assert_in_order(n + 1);
}

static void test_a_collector_that_is_away_is_found_again(void **state)
{
	unsigned long failed = metric("link_onward_failed");
	struct server s, a;
	struct client c;
	uint16_t port;

	(void)state;
	server_start(&s);
	port = s.port;
	aggregator_start(&a, 0, port);
	client_start(&c, a.port, agent_dir, false);
	client_send(&c, 10);
	wait_seen(10);
	wait_acked(&c);
	server_stop(&s);
	client_send(&c, 10);
	for (int ms = 0; metric("link_onward_failed") < failed + 2 && ms < PATIENCE_MS; ms++)
		usleep(1000);
	server_start_dir(&s, collector_dir, port, false, 0);
	wait_seen(20);
	wait_acked(&c);
	client_stop(&c, 1000);
	server_stop(&a);
	server_stop(&s);
	assert_in_order(20);
}

static void test_what_the_collector_refuses_reaches_the_agent(void **state)
{
	unsigned long refused = metric("tunnel_refused"), onward = metric("link_onward_refused");
	struct client first, second;
	struct server s, a;

	(void)state;
	server_start_dir(&s, collector_dir, 0, false, 1);
	aggregator_start(&a, 0, s.port);
	client_start(&first, a.port, agent_dir, false);
	client_send(&first, 10);
	wait_seen(10);
	client_start(&second, a.port, agent_dir, false);
	for (int ms = 0; metric("tunnel_refused") == refused && ms < PATIENCE_MS; ms++)
		usleep(1000);
	assert_true(metric("link_onward_refused") > onward);
	assert_true(metric("tunnel_refused") > refused);
	client_send(&first, 10);
	wait_seen(20);
	client_stop(&second, 0);
	client_stop(&first, 1000);
	server_stop(&a);
	server_stop(&s);
}

/* Two that pass on to each other. */
static void test_a_circle_is_refused_after_one_round(void **state)
{
	unsigned long refused = metric("tunnel_refused"), accepted = metric("link_accepted");
	struct server a, b;
	struct client c;
	uint16_t port;

	(void)state;
	aggregator_start(&a, 0, 1);
	port = a.port;
	aggregator_start(&b, 0, port);
	server_stop(&a);
	aggregator_start(&a, port, b.port);
	client_start(&c, port, agent_dir, false);
	for (int ms = 0; metric("tunnel_refused") == refused && ms < PATIENCE_MS; ms++)
		usleep(1000);
	assert_true(metric("tunnel_refused") > refused);
	usleep(300000);
	/* each of its attempts: one at a, one at b, one at a again */
	assert_true(metric("link_accepted") - accepted <=
		    3 * (metric("tunnel_refused") - refused + 1));
	client_stop(&c, 0);
	server_stop(&a);
	server_stop(&b);
}

static void test_an_aggregator_of_a_foreign_collector_sends_it_nothing(void **state)
{
	unsigned long failed = metric("link_onward_failed");
	struct server s, a;
	struct client c;

	(void)state;
	server_start_dir(&s, foreign_dir, 0, true, 0); /* would take anyone */
	aggregator_start(&a, 0, s.port);
	client_start(&c, a.port, agent_dir, false);
	assert_silent(&c, 600);
	assert_true(metric("link_onward_failed") > failed);
	client_stop(&c, 0);
	server_stop(&a);
	server_stop(&s);
}

static void test_insecure_said_everywhere_passes_on(void **state)
{
	struct server s, a;
	struct client c;

	(void)state;
	server_start_dir(&s, collector_dir, 0, true, 0);
	server_start_as(&a, collector_dir, 0, true, 0, s.port);
	client_start(&c, a.port, NULL, true);
	client_send(&c, 10);
	wait_seen(10);
	wait_acked(&c);
	client_stop(&c, 1000);
	server_stop(&a);
	server_stop(&s);
}

static void test_an_aggregator_without_credentials_is_an_error_at_once(void **state)
{
	const struct dialer_conf dc = {.host = LOOPBACK, .port = 1, .dir = root};
	struct aggregate *a = NULL;

	(void)state;
	assert_int_equal(aggregate_open(&a, &dc), -ENOENT);
	assert_null(a);
}

/* An agent's certificate, and words that are no envelopes; or none at all. */
static void test_garbage_ends_its_own_pair_of_links_alone(void **state)
{
	static const char noise[64] = "neither";
	unsigned long broken = metric("link_broken_agent");
	char ca[128], cert[128], key[128];
	const struct tls_files files = {.ca = ca, .cert = cert, .key = key};
	struct server s, a;
	struct client c;
	SSL_CTX *ctx;

	(void)state;
	snprintf(ca, sizeof(ca), "%s/ca.pem", agent_dir);
	snprintf(cert, sizeof(cert), "%s/agent.pem", agent_dir);
	snprintf(key, sizeof(key), "%s/agent.key", agent_dir);
	assert_int_equal(tls_client_ctx(&ctx, &files, false), 0);
	server_start(&s);
	aggregator_start(&a, 0, s.port);
	client_start(&c, a.port, agent_dir, false);
	client_send(&c, 10);
	wait_seen(10);
	for (unsigned i = 0; i < 4; i++) {
		SSL *ssl = SSL_new(ctx);
		char answer[512];
		int fd = tcp_to(a.port);

		SSL_set_alpn_protos(ssl, (const unsigned char *)"\x06" SSLC_ALPN, 7);
		SSL_set_fd(ssl, fd);
		assert_int_equal(SSL_connect(ssl), 1);
		if (i % 2)
			assert_int_equal(SSL_write(ssl, noise, sizeof(noise)), sizeof(noise));
		if (i % 2) /* told why */
			assert_true(SSL_read(ssl, answer, sizeof(answer)) > ZBLOCK_HEADER_LEN);
		SSL_free(ssl);
		close(fd);
	}
	assert_int_equal(metric("link_broken_agent") - broken, 2);
	client_send(&c, 10);
	wait_seen(20);
	client_stop(&c, 1000);
	server_stop(&a);
	server_stop(&s);
	SSL_CTX_free(ctx);
	assert_in_order(20);
}

static void test_missing_credentials_are_an_error_at_once(void **state)
{
	struct tunnel_conf conf = {.host = LOOPBACK, .port = 1, .state_dir = root};
	struct tunnel *t = NULL;
	struct ship *ship;

	(void)state;
	assert_int_equal(ship_new(&ship, 1u << 20), 0);
	assert_int_equal(tunnel_start(&t, &conf, ship), -ENOENT);
	assert_null(t);
	ship_free(ship);
}

static void test_enrolment_takes_a_token_once_and_only_its_own_collectors(void **state)
{
	char token[PKI_TOKEN_STRLEN], dir[128];
	struct server home, foreign;

	(void)state;
	snprintf(dir, sizeof(dir), "%s/second", root);
	server_start(&home);
	server_start_dir(&foreign, foreign_dir, 0, false, 0);
	assert_int_equal(pki_token_new(collector_dir, 60, token), 0);
	/* The wrong collector must not learn the secret: the token still works afterwards. */
	assert_int_equal(enroll_run(LOOPBACK, foreign.port, token, dir, false), 1);
	assert_int_equal(enroll_run(LOOPBACK, home.port, token, dir, false), 0);
	assert_int_equal(enroll_run(LOOPBACK, home.port, token, dir, false), 1);
	assert_int_equal(enroll_run(LOOPBACK, home.port, "nonsense", dir, false), 1);
	server_stop(&home);
	server_stop(&foreign);
}

static void test_enrolment_spares_another_collectors_directory(void **state)
{
	char token[PKI_TOKEN_STRLEN];
	struct server s;

	(void)state;
	server_start(&s);
	assert_int_equal(pki_token_new(collector_dir, 60, token), 0);
	assert_int_equal(enroll_run(LOOPBACK, s.port, token, foreign_dir, false), 1);
	assert_int_equal(enroll_run(LOOPBACK, s.port, token, collector_dir, false), 0);
	server_stop(&s);
}

static void test_port_in_use_is_an_error(void **state)
{
	struct acceptor_conf conf = {.listen_addr = LOOPBACK};
	struct acceptor *a = NULL;
	char cert[128], key[128];
	struct server s;

	(void)state;
	server_start(&s);
	snprintf(cert, sizeof(cert), "%s/collector.pem", collector_dir);
	snprintf(key, sizeof(key), "%s/collector.key", collector_dir);
	conf.base = s.base;
	conf.hub = s.hub;
	conf.port = s.port;
	conf.insecure = true;
	conf.files = (struct tls_files){.cert = cert, .key = key};
	assert_int_equal(acceptor_open(&a, &conf), -EADDRINUSE);
	assert_null(a);
	server_stop(&s);
}

#define T(name) cmocka_unit_test_setup(name, setup)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_blocks_arrive_in_order_and_are_acknowledged),
		T(test_both_sides_learn_how_far_their_clocks_differ),
		T(test_stop_drains_what_is_queued),
		T(test_link_cut_ten_times_loses_and_repeats_nothing),
		T(test_restarted_collector_is_told_the_open_flows_again),
		T(test_collector_that_forgot_the_agent_is_told_the_open_flows_again),
		T(test_stop_is_bounded_when_nobody_listens),
		T(test_agent_without_certificate_is_refused),
		T(test_agent_of_a_foreign_ca_is_refused_and_learns_it),
		T(test_insecure_said_on_both_sides_works),
		T(test_agent_never_sends_to_a_foreign_collector),
		T(test_full_collector_says_so_and_others_go_on),
		T(test_strangers_do_not_disturb_a_link),
		T(test_links_cut_on_both_sides_of_an_aggregator_lose_and_repeat_nothing),
		T(test_a_collector_that_takes_nothing_holds_the_agent_not_the_aggregator),
		T(test_a_collector_that_is_away_is_found_again),
		T(test_what_the_collector_refuses_reaches_the_agent),
		T(test_a_circle_is_refused_after_one_round),
		T(test_an_aggregator_of_a_foreign_collector_sends_it_nothing),
		T(test_insecure_said_everywhere_passes_on),
		T(test_an_aggregator_without_credentials_is_an_error_at_once),
		T(test_garbage_ends_its_own_pair_of_links_alone),
		T(test_missing_credentials_are_an_error_at_once),
		T(test_enrolment_takes_a_token_once_and_only_its_own_collectors),
		T(test_enrolment_spares_another_collectors_directory),
		T(test_port_in_use_is_an_error),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
