/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of agent/flow.c: hand-made events in, the frames that a real ship hands out are
 * checked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "flow.h"

#include "base/clock.h"
#include "counters.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/sha.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOW_NS    5000000000000ull
#define WALL_NS   1700000000000000000ll
#define TOLD_MAX  64
#define GRACE_NS  (FLOW_GRACE_MS * NS_PER_MS)
#define CLIENT    SSLC_ROLE_CLIENT
#define SERVER    SSLC_ROLE_SERVER
#define EXACT     SSLC_OPEN_ROLE_EXACT
#define EXACT_ISN (SSLC_OPEN_ROLE_EXACT | SSLC_OPEN_ISN_VALID)

static const struct sslc_conn_id conn_a = {.start_ns = 11, .ssl = 0x5500001000, .tgid = 7};
static const struct sslc_conn_id conn_b = {.start_ns = 11, .ssl = 0x5500001000, .tgid = 8};

/* One frame, decoded; texts are copied because the ship's block is gone by then. */
struct told {
	uint8_t type;
	struct frame_flow_open open;
	struct frame_data data;
	struct frame_gap gap;
	struct frame_flow_fin fin;
	struct frame_flow_close close;
	char text[64], exe[1024];
	uint8_t raw[64]; /* the same as text, for bytes */
};

struct rig {
	struct ship *ship;
	struct flows *flows;
	struct filter *filter;
	struct told told[TOLD_MAX];
	size_t n_told;
	uint64_t skipped[8];
	size_t n_skipped;
	uint64_t ts_ns;
	uint8_t seq;         /* of the only thread */
	unsigned doubted[4]; /* files, in their order */
	uint64_t doubted_ns; /* when the last one's connection was opened */
	size_t n_doubted;
};

static void on_skip(void *ctx, uint64_t flow)
{
	struct rig *r = ctx;

	assert_true(r->n_skipped < 8);
	r->skipped[r->n_skipped++] = flow;
}

static void on_unexplained(void *ctx, unsigned file, uint64_t opened_ns)
{
	struct rig *r = ctx;

	assert_true(r->n_doubted < 4);
	r->doubted[r->n_doubted++] = file;
	r->doubted_ns = opened_ns;
}

static struct rig *rig_for(const char *expr, enum prelude_mode starttls)
{
	struct rig *r = calloc(1, sizeof(*r));
	struct flows_conf conf = {
		.skip = on_skip, .unexplained = on_unexplained, .ctx = r, .starttls = starttls};

	memcpy(conf.agent, "0123456789abcdef", 16);
	r->ts_ns = NOW_NS;
	assert_int_equal(ship_new(&r->ship, 64u << 20), 0);
	if (expr)
		assert_int_equal(filter_new(&r->filter, "any", expr), 0);
	conf.ship = r->ship;
	conf.filter = r->filter;
	assert_int_equal(flows_new(&r->flows, &conf), 0);
	flows_tick(r->flows, NOW_NS, WALL_NS);
	return r;
}

static struct rig *rig_with(const char *expr)
{
	return rig_for(expr, PRELUDE_STITCH);
}

static void rig_free(struct rig *r)
{
	flows_free(r->flows);
	ship_free(r->ship);
	filter_free(r->filter);
	free(r);
}

/* --- events in ----------------------------------------------------------------------------------
 */

/* The event lives in exactly its own size, so that a read beyond it is seen by ASan. */
static void feed(struct rig *r, const void *ev, size_t size)
{
	void *copy = malloc(size);

	memcpy(copy, ev, size);
	flows_event(r->flows, copy);
	free(copy);
}

static struct sslc_ev_open an_open(struct rig *r, uint64_t flow, unsigned role, uint32_t flags)
{
	struct sslc_ev_open ev = {
		.ev = {SSLC_EV_OPEN, sizeof(ev), r->ts_ns++, flow},
		.conn = conn_a,
		.local_addr = {10, 0, 0, 1},
		.remote_addr = {192, 0, 2, 7},
		.local_port = 40123,
		.remote_port = 443,
		.mss = 1448,
		.family = 4,
		.role = (uint8_t)role,
		.flags = flags,
		.netns = 4026531840u,
		.iss = 0x11223344,
		.irs = 0xa0b0c0d0,
		.uid = 33,
		.comm = "sixteen-letters",
	};

	if (role == SERVER) {
		ev.local_port = 443;
		ev.remote_port = 40123;
	}
	return ev;
}

static void feed_open(struct rig *r, uint64_t flow, unsigned role, uint32_t flags)
{
	struct sslc_ev_open ev = an_open(r, flow, role, flags);

	feed(r, &ev, sizeof(ev));
}

/* The same connection as another end sees it. */
static struct sslc_ev_open other_end(struct sslc_ev_open ev, uint64_t flow)
{
	struct sslc_ev_open o = ev;

	o.ev.flow = flow;
	o.conn = conn_b;
	memcpy(o.local_addr, ev.remote_addr, 16);
	memcpy(o.remote_addr, ev.local_addr, 16);
	o.local_port = ev.remote_port;
	o.remote_port = ev.local_port;
	o.iss = ev.irs;
	o.irs = ev.iss;
	o.role = ev.role == CLIENT ? SERVER : CLIENT;
	return o;
}

static void feed_bytes(struct rig *r, uint64_t flow, const struct sslc_conn_id *conn, unsigned dir,
		       uint64_t pos, const void *bytes, size_t len, unsigned flags)
{
	struct sslc_ev_data *ev = calloc(1, sizeof(*ev) + len);

	ev->ev = (struct sslc_event){SSLC_EV_DATA, (uint32_t)(sizeof(*ev) + len), r->ts_ns++, flow};
	ev->conn = *conn;
	ev->pos = pos;
	ev->len = (uint32_t)len;
	ev->dir = (uint8_t)dir;
	ev->flags = (uint8_t)flags;
	memcpy(ev->data, bytes, len);
	flows_event(r->flows, &ev->ev);
	free(ev);
}

static void feed_data(struct rig *r, uint64_t flow, unsigned dir, uint64_t pos, const char *text)
{
	feed_bytes(r, flow, &conn_a, dir, pos, text, strlen(text), SSLC_DATA_END);
}

static void feed_clear(struct rig *r, uint64_t flow, unsigned dir, uint64_t pos, const void *bytes,
		       size_t len)
{
	struct sslc_ev_data *ev = calloc(1, sizeof(*ev) + len);

	ev->ev =
		(struct sslc_event){SSLC_EV_CLEAR, (uint32_t)(sizeof(*ev) + len), r->ts_ns++, flow};
	ev->pos = pos;
	ev->len = (uint32_t)len;
	ev->dir = (uint8_t)dir;
	memcpy(ev->data, bytes, len);
	feed(r, ev, sizeof(*ev) + len);
	free(ev);
}

static void feed_held(struct rig *r, const struct sslc_conn_id *conn, unsigned dir, uint64_t pos,
		      const char *text)
{
	feed_bytes(r, 0, conn, dir, pos, text, strlen(text), SSLC_DATA_END);
}

/* The same by an object without a socket, numbered as the kernel does. */
static void feed_loose(struct rig *r, unsigned dir, uint64_t pos, const char *text)
{
	size_t len = strlen(text);
	struct sslc_ev_data *ev = calloc(1, sizeof(*ev) + len);

	ev->ev = (struct sslc_event){SSLC_EV_DATA, (uint32_t)(sizeof(*ev) + len), r->ts_ns++, 0};
	ev->conn = conn_a;
	ev->pos = pos;
	ev->len = (uint32_t)len;
	ev->dir = (uint8_t)dir;
	ev->flags = SSLC_DATA_END;
	ev->seq = ++r->seq;
	memcpy(ev->data, text, len);
	feed(r, ev, ev->ev.size);
	free(ev);
}

static void feed_call(struct rig *r)
{
	struct sslc_ev_call ev = {.ev = {SSLC_EV_CALL, sizeof(ev), r->ts_ns++, 0},
				  .conn = conn_a,
				  .call = SSLC_CALL_READ,
				  .seq = ++r->seq};

	feed(r, &ev, sizeof(ev));
}

/* One record, received or sent outside of TLS calls. */
static void feed_wire(struct rig *r, uint64_t flow, unsigned dir, unsigned type, unsigned len)
{
	struct sslc_ev_wire ev = {.ev = {SSLC_EV_WIRE, sizeof(ev), r->ts_ns++, flow},
				  .tgid = conn_a.tgid,
				  .len = len + 5,
				  .dir = (uint8_t)dir,
				  .n_rec = 1,
				  .seq = ++r->seq,
				  .rec = {{.len = (uint16_t)len, .type = (uint8_t)type}}};

	feed(r, &ev, sizeof(ev));
}

/* The handshake of an object without a socket, on a connection that was announced. */
static void feed_handshake(struct rig *r, uint64_t flow)
{
	feed_call(r);
	feed_wire(r, flow, SSLC_DIR_IN, 22, 300);
	feed_call(r);
	feed_wire(r, flow, SSLC_DIR_OUT, 22, 900);
	feed_wire(r, flow, SSLC_DIR_IN, 22, 60);
	feed_call(r);
	feed_wire(r, flow, SSLC_DIR_OUT, 22, 200);
}

static void feed_bind(struct rig *r, uint64_t flow, const struct sslc_conn_id *conn)
{
	struct sslc_ev_bind ev = {.ev = {SSLC_EV_BIND, sizeof(ev), r->ts_ns++, flow},
				  .conn = *conn};

	feed(r, &ev, sizeof(ev));
}

static void feed_sock(struct rig *r, uint64_t flow, unsigned what)
{
	struct sslc_ev_sock ev = {.ev = {SSLC_EV_SOCK, sizeof(ev), r->ts_ns++, flow}, .what = what};

	feed(r, &ev, sizeof(ev));
}

/* Its end, with what the kernel says that its socket moved. */
static void feed_counted_end(struct rig *r, uint64_t flow, uint64_t in, uint64_t out)
{
	struct sslc_ev_sock ev = {.ev = {SSLC_EV_SOCK, sizeof(ev), r->ts_ns++, flow},
				  .what = SSLC_SOCK_DESTROYED,
				  .is_counted = 1,
				  .file = {5, 6},
				  .moved = {in, out}};

	feed(r, &ev, sizeof(ev));
}

/* 0-RTT data of a client. */
static void feed_early(struct rig *r, uint64_t flow, uint64_t pos, const char *text)
{
	feed_bytes(r, flow, &conn_a, SSLC_DIR_OUT, pos, text, strlen(text),
		   SSLC_DATA_END | SSLC_DATA_EARLY);
}

static void feed_verdict(struct rig *r, uint64_t flow, bool accepted)
{
	struct sslc_ev_early ev = {.ev = {SSLC_EV_EARLY, sizeof(ev), r->ts_ns++, flow},
				   .conn = conn_a,
				   .accepted = accepted};

	feed(r, &ev, sizeof(ev));
}

static void feed_gap(struct rig *r, uint64_t flow, unsigned dir, uint64_t pos, uint64_t len)
{
	struct sslc_ev_gap ev = {.ev = {SSLC_EV_GAP, sizeof(ev), r->ts_ns++, flow},
				 .conn = conn_a,
				 .pos = pos,
				 .len = len,
				 .dir = (uint8_t)dir};

	feed(r, &ev, sizeof(ev));
}

/* --- frames out ---------------------------------------------------------------------------------
 */

static void keep_text(struct told *t, struct span s)
{
	snprintf(t->text, sizeof(t->text), "%.*s", (int)s.len, (const char *)s.p);
	if (s.len)
		memcpy(t->raw, s.p, s.len < sizeof(t->raw) ? s.len : sizeof(t->raw));
}

static void decode(struct told *t, const struct frame *f)
{
	t->type = f->type;
	switch (f->type) {
	case FRAME_FLOW_OPEN:
		assert_int_equal(frame_get_flow_open(f, &t->open), 0);
		keep_text(t, t->open.comm);
		snprintf(t->exe, sizeof(t->exe), "%.*s", (int)t->open.exe.len,
			 (const char *)t->open.exe.p);
		break;
	case FRAME_DATA:
		assert_int_equal(frame_get_data(f, &t->data), 0);
		keep_text(t, t->data.bytes);
		break;
	case FRAME_GAP:
		assert_int_equal(frame_get_gap(f, &t->gap), 0);
		break;
	case FRAME_FLOW_FIN:
		assert_int_equal(frame_get_flow_fin(f, &t->fin), 0);
		break;
	case FRAME_FLOW_CLOSE:
		assert_int_equal(frame_get_flow_close(f, &t->close), 0);
		break;
	default:
		fail_msg("a frame of type %u", f->type);
	}
}

/* Everything told since the last time. */
static void drain(struct rig *r)
{
	struct ship_block b;

	memset(r->told, 0, sizeof(r->told));
	r->n_told = 0;
	ship_flush(r->ship);
	while (ship_take(r->ship, &b)) {
		struct span in = b.frames;
		struct frame f;
		ssize_t n;

		while (in.len) {
			n = frame_decode(in, &f);
			assert_true(n > 0);
			assert_true(r->n_told < TOLD_MAX);
			decode(&r->told[r->n_told++], &f);
			in = span_of(in.p + n, in.len - (size_t)n);
		}
		ship_return(r->ship, true);
		ship_ack(r->ship, b.seq);
	}
}

/* What was told, for a person: "open1 c2s@0:hello! gap-c2s@5+3 fin-s2c close-fin". */
static const char *story(struct rig *r)
{
	static const char *const ends[] = {"?",    "fin",  "rst-c2s", "rst-s2c",
					   "exit", "idle", "shed",    "agent"};
	static const char *const dirs[] = {"c2s", "s2c"};
	static char s[8192];
	size_t at = 0;

	drain(r);
	s[0] = '\0';
	for (size_t i = 0; i < r->n_told; i++) {
		const struct told *t = &r->told[i];
		char *to = s + at;
		size_t room = sizeof(s) - at;

		if (at)
			at += (size_t)snprintf(to, room, " "), to++, room--;
		if (t->type == FRAME_FLOW_OPEN)
			at += (size_t)snprintf(to, room, "open%llu",
					       (unsigned long long)t->open.flow);
		else if (t->type == FRAME_DATA)
			at += (size_t)snprintf(to, room, "%s@%llu:%s%s", dirs[t->data.dir],
					       (unsigned long long)t->data.offset, t->text,
					       t->data.flags & FRAME_DATA_END ? "!" : "");
		else if (t->type == FRAME_GAP)
			at += (size_t)snprintf(to, room, "gap-%s@%llu+%llu", dirs[t->gap.dir],
					       (unsigned long long)t->gap.offset,
					       (unsigned long long)t->gap.len);
		else if (t->type == FRAME_FLOW_FIN)
			at += (size_t)snprintf(to, room, "fin-%s", dirs[t->fin.dir]);
		else
			at += (size_t)snprintf(to, room, "close-%s", ends[t->close.end]);
	}
	return s;
}

/* A rig with flow 1 open, its opening already taken out. */
static struct rig *rig_open(unsigned role)
{
	struct rig *r = rig_with(NULL);

	feed_open(r, 1, role, EXACT_ISN);
	assert_string_equal(story(r), "open1");
	return r;
}

/* --- opening ------------------------------------------------------------------------------------
 */

static void test_open_of_a_client_names_it_first(void **state)
{
	struct rig *r = rig_with(NULL);
	struct sslc_ev_open ev = an_open(r, 1, CLIENT, EXACT_ISN);
	char exe[1024] = "";
	const struct frame_flow_open *m = &r->told[0].open;

	(void)state;
	ev.conn.tgid = (uint32_t)getpid();
	assert_true(readlink("/proc/self/exe", exe, sizeof(exe) - 1) > 0);
	feed(r, &ev, sizeof(ev));
	assert_string_equal(story(r), "open1");
	assert_memory_equal(m->client_addr, "\x0a\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0", 16);
	assert_memory_equal(m->server_addr, "\xc0\0\x02\x07\0\0\0\0\0\0\0\0\0\0\0\0", 16);
	assert_int_equal(m->client_port, 40123);
	assert_int_equal(m->server_port, 443);
	assert_int_equal(m->captured_end, FLOW_C2S);
	assert_int_equal(m->confidence, CONF_EXACT);
	assert_int_equal(m->flags, 0);
	assert_int_equal(m->transport, 6);
	assert_int_equal(m->family, 4);
	assert_int_equal(m->mss, 1448);
	assert_int_equal(m->netns, 4026531840u);
	assert_int_equal(m->pid, getpid());
	assert_int_equal(m->uid, 33);
	assert_int_equal(m->ts_ns, ev.ev.ts_ns + (uint64_t)WALL_NS);
	assert_string_equal(r->told[0].text, "sixteen-letters");
	assert_string_equal(r->told[0].exe, exe);
	rig_free(r);
}

static void test_open_of_a_server_names_the_remote_first(void **state)
{
	struct rig *r = rig_with(NULL);
	const struct frame_flow_open *m = &r->told[0].open;

	(void)state;
	feed_open(r, 1, SERVER, EXACT_ISN);
	assert_string_equal(story(r), "open1");
	assert_memory_equal(m->client_addr, "\xc0\0\x02\x07", 4);
	assert_memory_equal(m->server_addr, "\x0a\0\0\x01", 4);
	assert_int_equal(m->client_port, 40123);
	assert_int_equal(m->server_port, 443);
	assert_int_equal(m->captured_end, FLOW_S2C);
	rig_free(r);
}

static void test_comm_without_terminator_ends_at_16(void **state)
{
	struct rig *r = rig_with(NULL);
	struct sslc_ev_open ev = an_open(r, 1, CLIENT, EXACT_ISN);

	(void)state;
	memcpy(ev.comm, "abcdefghijklmnop", 16);
	feed(r, &ev, sizeof(ev));
	drain(r);
	assert_string_equal(r->told[0].text, "abcdefghijklmnop");
	rig_free(r);
}

/* First 16 bytes of SHA-256 over transport, family, client, server, client's ISN, server's ISN. */
static void test_session_id_is_the_hash_of_the_connection(void **state)
{
	static const uint8_t in[] = {6, 4,    10,   0,    0,    1,    0x9c, 0xbb, 192,  0,    2,
				     7, 0x01, 0xbb, 0x11, 0x22, 0x33, 0x44, 0xa0, 0xb0, 0xc0, 0xd0};
	uint8_t digest[SHA256_DIGEST_LENGTH];
	struct rig *r = rig_open(CLIENT), *twin = rig_with(NULL);
	struct sslc_ev_open ev = other_end(an_open(r, 1, CLIENT, EXACT_ISN), 77);

	(void)state;
	SHA256(in, sizeof(in), digest);
	assert_memory_equal(r->told[0].open.session, digest, 16);
	feed(twin, &ev, sizeof(ev)); /* another host, another agent: the server's end */
	assert_string_equal(story(twin), "open77");
	assert_memory_equal(twin->told[0].open.session, digest, 16);
	rig_free(twin);
	rig_free(r);
}

static void test_session_id_of_ipv6_covers_all_of_the_address(void **state)
{
	uint8_t in[2 + 18 + 18 + 8] = {6, 6}, digest[SHA256_DIGEST_LENGTH];
	struct rig *r = rig_with(NULL);
	struct sslc_ev_open ev = an_open(r, 3, SERVER, EXACT_ISN);

	(void)state;
	ev.family = 6;
	for (int i = 0; i < 16; i++) {
		ev.local_addr[i] = (uint8_t)(0x20 + i);
		ev.remote_addr[i] = (uint8_t)(0xf0 - i);
	}
	memcpy(in + 2, ev.remote_addr, 16);
	memcpy(in + 18, "\x9c\xbb", 2);
	memcpy(in + 20, ev.local_addr, 16);
	memcpy(in + 36, "\x01\xbb\xa0\xb0\xc0\xd0\x11\x22\x33\x44", 10);
	SHA256(in, sizeof(in), digest);
	feed(r, &ev, sizeof(ev));
	drain(r);
	assert_int_equal(r->told[0].open.family, 6);
	assert_memory_equal(r->told[0].open.client_addr, ev.remote_addr, 16);
	assert_memory_equal(r->told[0].open.session, digest, 16);
	rig_free(r);
}

static void test_session_id_without_isn_is_the_agents_own(void **state)
{
	static const uint8_t in[] = "0123456789abcdef\0\0\0\0\0\0\x02\x01";
	uint8_t digest[SHA256_DIGEST_LENGTH];
	struct rig *r = rig_with(NULL);

	(void)state;
	SHA256(in, 24, digest);
	feed_open(r, 0x201, CLIENT, EXACT);
	feed_open(r, 0x202, CLIENT,
		  EXACT); /* the same tuple: not known to be the same connection */
	assert_string_equal(story(r), "open513 open514");
	assert_memory_equal(r->told[0].open.session, digest, 16);
	assert_memory_not_equal(r->told[1].open.session, digest, 16);
	rig_free(r);
}

static int listen_on_loopback(uint16_t *port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof(a);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	*port = ntohs(a.sin_port);
	return fd;
}

/* captured_end of a flow whose role the source could not tell. */
static unsigned inferred_end(uint32_t tgid, unsigned role, uint16_t local, uint16_t remote)
{
	uint64_t guesses = counter_named("flow_connections_role_inferred");
	struct rig *r = rig_with(NULL);
	struct sslc_ev_open ev = an_open(r, 1, role, 0);
	unsigned end;

	ev.conn.tgid = tgid;
	ev.local_port = local;
	ev.remote_port = remote;
	feed(r, &ev, sizeof(ev));
	assert_string_equal(story(r), "open1");
	assert_int_equal(counter_named("flow_connections_role_inferred"), guesses + 1);
	end = r->told[0].open.captured_end;
	assert_int_equal(r->told[0].open.client_port, end == FLOW_C2S ? local : remote);
	rig_free(r);
	return end;
}

static void test_unknown_role_follows_the_listener_then_the_lower_port(void **state)
{
	uint16_t port;
	int fd = listen_on_loopback(&port);
	uint32_t self = (uint32_t)getpid();

	(void)state;
	assert_int_equal(inferred_end(self, SSLC_ROLE_UNKNOWN, port, 1), FLOW_S2C);
	close(fd);
	assert_int_equal(inferred_end(self, SSLC_ROLE_UNKNOWN, port, 1), FLOW_C2S);
	assert_int_equal(inferred_end(0, SSLC_ROLE_UNKNOWN, 40000, 443), FLOW_C2S);
	assert_int_equal(inferred_end(0, SSLC_ROLE_UNKNOWN, 443, 40000), FLOW_S2C);
	assert_int_equal(inferred_end(0, CLIENT, 443, 40000),
			 FLOW_C2S); /* a bound port says more */
}

static void test_a_socket_that_carried_more_than_was_captured(void **state)
{
	struct rig *r = rig_with(NULL);
	uint64_t audited = counter_named("flow_connections_audited"),
		 missed = counter_named("flow_connections_unexplained"),
		 twice = counter_named("flow_connections_double"), opened_ns = 0;

	(void)state;
	for (uint64_t id = 1; id <= 4; id++) {
		struct sslc_ev_open ev = an_open(r, id, CLIENT, EXACT_ISN);

		ev.local_port = (uint16_t)(5000 + id);
		ev.iss = (uint32_t)id;
		feed(r, &ev, sizeof(ev));
		opened_ns = id == 3 ? ev.ev.ts_ns : opened_ns;
		feed_data(r, id, SSLC_DIR_OUT, 0, "question");
		feed_data(r, id, SSLC_DIR_IN, 0, "answer");
	}
	feed_counted_end(r, 1, 5000, 5000);
	assert_int_equal(counter_named("flow_connections_unexplained"), missed);
	feed_counted_end(r, 2, 200000, 5000);
	assert_int_equal(counter_named("flow_connections_unexplained"), missed + 1);
	feed_counted_end(r, 3, 200000, 200000); /* once a connection */
	assert_int_equal(counter_named("flow_connections_unexplained"), missed + 2);
	feed_sock(r, 4, SSLC_SOCK_DESTROYED); /* not counted: nothing to say */
	assert_int_equal(r->n_doubted, 2);
	assert_int_equal(r->doubted[0], 5);
	assert_int_equal(r->doubted[1], 5);
	assert_int_equal(r->doubted_ns, opened_ns);
	assert_int_equal(counter_named("flow_connections_audited"), audited + 3);
	assert_int_equal(counter_named("flow_connections_double"), twice);
	rig_free(r);
}

/* The process of conn_a; its start is told by the kernel in ns and by /proc in ticks. */
static void pause_process(struct rig *r)
{
	assert_true(flows_pause(r->flows, conn_a.tgid, 0, r->ts_ns++));
}

static void resume_process(struct rig *r)
{
	flows_resume(r->flows, conn_a.tgid, 0, r->ts_ns++);
}

static void feed_open_at(struct rig *r, uint64_t flow, uint16_t port, uint32_t flags)
{
	struct sslc_ev_open ev = an_open(r, flow, CLIENT, flags);

	ev.local_port = port;
	ev.iss = port;
	feed(r, &ev, sizeof(ev));
}

static void test_connections_of_a_process_without_probes_end_where_they_were(void **state)
{
	uint64_t paused = counter_named("flow_connections_paused"),
		 lost = counter_named("flow_bytes_lost_paused"),
		 missed = counter_named("flow_connections_unexplained");
	struct rig *r = rig_with(NULL);

	(void)state;
	feed_open_at(r, 1, 5001, EXACT_ISN);
	feed_open_at(r, 2, 5002, EXACT_ISN);
	feed_data(r, 1, SSLC_DIR_OUT, 0, "seen");
	pause_process(r);
	assert_string_equal(story(r), "open1 open2 c2s@0:seen!");
	feed_sock(r, 1, SSLC_SOCK_LOCAL_FIN); /* what came before it was not seen */
	assert_string_equal(story(r), "close-agent");
	resume_process(r);
	feed_data(r, 1, SSLC_DIR_OUT, 4, "somewhere");
	feed_data(r, 2, SSLC_DIR_IN, 0, "somewhere");
	feed_counted_end(r, 1, 1000000, 1000000); /* nor is that a fault of the probes */
	feed_open_at(r, 3, 5003, EXACT_ISN);
	feed_data(r, 3, SSLC_DIR_OUT, 0, "new");
	assert_string_equal(story(r), "close-agent open3 c2s@0:new!");
	assert_int_equal(counter_named("flow_connections_paused"), paused + 2);
	assert_int_equal(counter_named("flow_bytes_lost_paused"), lost + 18);
	assert_int_equal(counter_named("flow_connections_unexplained"), missed);
	assert_int_equal(r->n_skipped, 2);
	rig_free(r);
}

static void test_what_happened_before_the_probes_were_taken_off_is_told(void **state)
{
	struct rig *r = rig_with(NULL);

	(void)state;
	feed_open(r, 1, CLIENT, EXACT_ISN);
	assert_true(flows_pause(r->flows, conn_a.tgid, 0, r->ts_ns + 100));
	feed_data(r, 1, SSLC_DIR_OUT, 0, "still in the ring");
	assert_string_equal(story(r), "open1 c2s@0:still in the ring!");
	flows_tick(r->flows, r->ts_ns + 1000 * NS_PER_MS, WALL_NS);
	assert_string_equal(story(r), "");
	flows_tick(r->flows, r->ts_ns + 5000 * NS_PER_MS, WALL_NS); /* silent, and closed */
	assert_string_equal(story(r), "close-agent");
	rig_free(r);
}

static void test_what_began_while_there_were_no_probes_is_never_told(void **state)
{
	struct rig *r = rig_with(NULL);

	(void)state;
	pause_process(r);
	feed_open(r, 1, SERVER, EXACT_ISN | SSLC_OPEN_CANDIDATE);
	resume_process(r);
	feed_data(r, 1, SSLC_DIR_IN, 0, "by its socket");
	assert_string_equal(story(r), "");
	feed_open(r, 2, SERVER, EXACT_ISN | SSLC_OPEN_CANDIDATE); /* later */
	feed_data(r, 2, SSLC_DIR_IN, 0, "all of it");
	assert_string_equal(story(r), "open2 c2s@0:all of it!");
	feed_open_at(r, 3, 5003, EXACT_ISN | SSLC_OPEN_LATE); /* seen only now */
	feed_data(r, 3, SSLC_DIR_IN, 0, "the rest of it");
	assert_string_equal(story(r), "");
	rig_free(r);
}

static void test_nothing_is_matched_to_what_began_without_probes(void **state)
{
	struct rig *r = rig_with(NULL);

	(void)state;
	pause_process(r);
	feed_open(r, 1, SERVER, EXACT_ISN | SSLC_OPEN_CANDIDATE);
	resume_process(r);
	for (unsigned i = 0; i < 4; i++) {
		feed_wire(r, 1, SSLC_DIR_IN, 23, 5 + 17);
		feed_loose(r, SSLC_DIR_IN, 5 * i, "hello");
		feed_call(r);
		feed_loose(r, SSLC_DIR_OUT, 3 * i, "yes");
		feed_wire(r, 1, SSLC_DIR_OUT, 23, 3 + 17);
	}
	assert_string_equal(story(r), "");
	rig_free(r);
}

static void test_other_processes_are_told_while_one_has_no_probes(void **state)
{
	struct rig *r = rig_with(NULL);

	(void)state;
	for (uint32_t i = 0; i < FLOW_PAUSES_MAX; i++)
		assert_true(flows_pause(r->flows, 1000 + i, 0, NOW_NS));
	assert_false(flows_pause(r->flows, 7, 0, NOW_NS));
	assert_true(flows_pause(r->flows, 1000, 0, NOW_NS)); /* again */
	flows_pause_forget(r->flows, 1000, 1);               /* another one */
	assert_false(flows_pause(r->flows, 7, 1, NOW_NS));
	flows_pause_forget(r->flows, 1000, 0);
	assert_true(flows_pause(r->flows, 7, 1, NOW_NS)); /* that number's, not its process */
	feed_open(r, 1, CLIENT, EXACT_ISN);
	feed_data(r, 1, SSLC_DIR_OUT, 0, "whole");
	assert_string_equal(story(r), "open1 c2s@0:whole!");
	rig_free(r);
}

static void test_a_gap_explains_what_the_socket_carried(void **state)
{
	struct rig *r = rig_with(NULL);
	uint64_t missed = counter_named("flow_connections_unexplained"),
		 twice = counter_named("flow_connections_double");

	(void)state;
	feed_open(r, 1, CLIENT, EXACT_ISN);
	feed_data(r, 1, SSLC_DIR_IN, 1000000, "after a loss");
	feed_counted_end(r, 1, 1030000, 100);
	assert_int_equal(counter_named("flow_connections_unexplained"), missed);
	feed_open(r, 2, CLIENT, EXACT_ISN);
	feed_data(r, 2, SSLC_DIR_IN, 1000000, "more than there was");
	feed_counted_end(r, 2, 500000, 100);
	assert_int_equal(counter_named("flow_connections_double"), twice + 1);
	rig_free(r);
}

static void test_filtered_flow_is_skipped_and_its_bytes_are_counted(void **state)
{
	struct rig *r = rig_with("port 443");
	uint64_t bytes = counter_named("flow_bytes_filtered"),
		 n = counter_named("flow_connections_filtered");
	struct sslc_ev_open ev = an_open(r, 2, CLIENT, EXACT_ISN);

	(void)state;
	ev.remote_port = 8443;
	feed_open(r, 1, CLIENT, EXACT_ISN);
	feed(r, &ev, sizeof(ev));
	feed_data(r, 1, SSLC_DIR_OUT, 0, "seen");
	feed_data(r, 2, SSLC_DIR_OUT, 0, "unseen");
	feed_sock(r, 2, SSLC_SOCK_LOCAL_FIN);
	feed_sock(r, 2, SSLC_SOCK_RST_OUT);
	feed_sock(r, 2, SSLC_SOCK_DESTROYED);
	assert_string_equal(story(r), "open1 c2s@0:seen!");
	assert_int_equal(r->n_skipped, 1);
	assert_int_equal(r->skipped[0], 2);
	assert_int_equal(counter_named("flow_bytes_filtered"), bytes + 6);
	assert_int_equal(counter_named("flow_connections_filtered"), n + 1);
	assert_int_equal(flows_count(r->flows), 1);
	rig_free(r);
}

static void standby(unsigned first_role)
{
	uint64_t bytes = counter_named("flow_bytes_standby"),
		 n = counter_named("flow_connections_standby");
	struct rig *r = rig_with(NULL);
	struct sslc_ev_open first = an_open(r, 1, first_role, EXACT_ISN),
			    second = other_end(first, 2);
	const char *out = first_role == CLIENT ? "open1 c2s@0:once! close-fin"
					       : "open1 s2c@0:once! close-fin";

	feed(r, &first, sizeof(first));
	feed(r, &second, sizeof(second));
	feed_data(r, 1, SSLC_DIR_OUT, 0, "once");
	feed_data(r, 2, SSLC_DIR_IN, 0, "once");
	feed_held(r, &conn_b, SSLC_DIR_IN, 0, "and held");
	feed_bind(r, 2, &conn_b);
	feed_sock(r, 2, SSLC_SOCK_LOCAL_FIN);
	feed_sock(r, 2, SSLC_SOCK_RST_IN);
	feed_sock(r, 2, SSLC_SOCK_DESTROYED);
	feed_sock(r, 1, SSLC_SOCK_DESTROYED);
	assert_string_equal(story(r), out);
	assert_int_equal(r->n_skipped, 1);
	assert_int_equal(r->skipped[0], 2);
	assert_int_equal(counter_named("flow_bytes_standby"), bytes + 12);
	assert_int_equal(counter_named("flow_connections_standby"), n + 1);
	assert_int_equal(flows_count(r->flows), 0);
	rig_free(r);
}

static void test_second_end_stands_by_when_the_client_came_first(void **state)
{
	(void)state;
	standby(CLIENT);
}

static void test_second_end_stands_by_when_the_server_came_first(void **state)
{
	(void)state;
	standby(SERVER);
}

static void test_same_tuple_with_other_sequence_numbers_is_another_connection(void **state)
{
	struct rig *r = rig_with(NULL);
	struct sslc_ev_open first = an_open(r, 1, CLIENT, EXACT_ISN), second = other_end(first, 2);

	(void)state;
	second.irs++;
	feed(r, &first, sizeof(first));
	feed(r, &second, sizeof(second));
	assert_string_equal(story(r), "open1 open2");
	assert_int_equal(r->n_skipped, 0);
	rig_free(r);
}

static void test_connection_is_mirrored_again_after_its_speaker_is_gone(void **state)
{
	struct rig *r = rig_with(NULL);
	struct sslc_ev_open first = an_open(r, 1, CLIENT, EXACT_ISN), second = other_end(first, 2);

	(void)state;
	feed(r, &first, sizeof(first));
	feed_sock(r, 1, SSLC_SOCK_DESTROYED);
	feed(r, &second, sizeof(second));
	assert_string_equal(story(r), "open1 close-fin open2");
	rig_free(r);
}

/* --- bytes --------------------------------------------------------------------------------------
 */

static void test_client_sends_towards_the_server(void **state)
{
	struct rig *r = rig_open(CLIENT);

	(void)state;
	feed_data(r, 1, SSLC_DIR_OUT, 0, "ask");
	feed_data(r, 1, SSLC_DIR_IN, 0, "answer");
	assert_string_equal(story(r), "c2s@0:ask! s2c@0:answer!");
	rig_free(r);
}

static void test_server_sends_towards_the_client(void **state)
{
	struct rig *r = rig_open(SERVER);

	(void)state;
	feed_data(r, 1, SSLC_DIR_IN, 0, "ask");
	feed_data(r, 1, SSLC_DIR_OUT, 0, "answer");
	assert_string_equal(story(r), "c2s@0:ask! s2c@0:answer!");
	rig_free(r);
}

static void test_offsets_count_each_direction_and_boundaries_stay(void **state)
{
	struct rig *r = rig_open(CLIENT);
	uint64_t passed = counter_named("flow_bytes");

	(void)state;
	feed_bytes(r, 1, &conn_a, SSLC_DIR_OUT, 0, "abc", 3, 0);
	feed_bytes(r, 1, &conn_a, SSLC_DIR_OUT, 3, "de", 2, SSLC_DATA_END);
	feed_bytes(r, 1, &conn_a, SSLC_DIR_IN, 0, "X", 1, SSLC_DATA_END);
	feed_bytes(r, 1, &conn_a, SSLC_DIR_OUT, 5, "f", 1, 0);
	assert_string_equal(story(r), "c2s@0:abc c2s@3:de! s2c@0:X! c2s@5:f");
	assert_int_equal(r->told[0].data.ts_ns, NOW_NS + 1 + (uint64_t)WALL_NS);
	assert_int_equal(counter_named("flow_bytes"), passed + 7);
	rig_free(r);
}

static void test_long_event_is_cut_with_one_boundary(void **state)
{
	struct rig *r = rig_open(CLIENT);
	size_t len = 2 * FRAME_DATA_MAX + 1;
	uint8_t *bytes = calloc(1, len);

	(void)state;
	feed_bytes(r, 1, &conn_a, SSLC_DIR_OUT, 0, bytes, len, SSLC_DATA_END);
	drain(r);
	assert_int_equal(r->n_told, 3);
	for (size_t i = 0; i < 3; i++) {
		assert_int_equal(r->told[i].data.offset, i * FRAME_DATA_MAX);
		assert_int_equal(r->told[i].data.flags, i == 2 ? FRAME_DATA_END : 0);
	}
	free(bytes);
	rig_free(r);
}

static void test_jump_is_told_as_a_gap_of_its_exact_size(void **state)
{
	struct rig *r = rig_open(SERVER);
	uint64_t gaps = counter_named("flow_bytes_gap");

	(void)state;
	feed_data(r, 1, SSLC_DIR_OUT, 0, "abc");
	feed_data(r, 1, SSLC_DIR_OUT, 10, "k");
	feed_data(r, 1, SSLC_DIR_IN, 100, "first");
	feed_data(r, 1, SSLC_DIR_OUT, 11, "l");
	assert_string_equal(story(r),
			    "s2c@0:abc! gap-s2c@3+7 s2c@10:k! gap-c2s@0+100 c2s@100:first! "
			    "s2c@11:l!");
	assert_int_equal(counter_named("flow_bytes_gap"), gaps + 107);
	rig_free(r);
}

static void test_bytes_are_told_once_when_the_position_steps_back(void **state)
{
	struct rig *r = rig_open(CLIENT);
	uint64_t passed = counter_named("flow_bytes");

	(void)state;
	feed_data(r, 1, SSLC_DIR_OUT, 0, "abcdef");
	feed_data(r, 1, SSLC_DIR_OUT, 2, "cd");
	feed_data(r, 1, SSLC_DIR_OUT, 6, "g");
	assert_string_equal(story(r), "c2s@0:abcdef! c2s@6:g!");
	assert_int_equal(counter_named("flow_bytes"), passed + 7);
	rig_free(r);
}

/* A decoder refuses offsets that wrap, and with them the whole link. */
static void test_positions_at_the_end_of_the_range_break_no_frame(void **state)
{
	struct rig *r = rig_open(CLIENT);

	(void)state;
	feed_data(r, 1, SSLC_DIR_OUT, UINT64_MAX, "ab");
	feed_data(r, 1, SSLC_DIR_OUT, UINT64_MAX - 2, "ab");
	feed_data(r, 1, SSLC_DIR_OUT, UINT64_MAX / 2, "cd");
	for (int i = 0; i < 8; i++) {
		feed_held(r, &conn_a, SSLC_DIR_OUT, UINT64_MAX / 4, "held");
		feed_bind(r, 1, &conn_a);
	}
	drain(r); /* decodes each frame */
	rig_free(r);
}

static void test_held_bytes_come_first_after_bind(void **state)
{
	struct rig *r = rig_with(NULL);
	uint64_t held = counter_named("flow_bytes_held");

	(void)state;
	feed_held(r, &conn_a, SSLC_DIR_OUT, 0, "early ");
	feed_held(r, &conn_b, SSLC_DIR_OUT, 0, "foreign");
	feed_held(r, &conn_a, SSLC_DIR_IN, 0, "reply ");
	feed_held(r, &conn_a, SSLC_DIR_OUT, 6, "bird");
	assert_string_equal(story(r), "");
	assert_int_equal(counter_named("flow_bytes_held"), held + 23);
	feed_open(r, 1, CLIENT, EXACT_ISN);
	feed_bind(r, 1, &conn_a);
	feed_data(r, 1, SSLC_DIR_OUT, 0, "now");
	assert_string_equal(story(r), "open1 c2s@0:early ! s2c@0:reply ! c2s@6:bird! c2s@10:now!");
	feed_bind(r, 1, &conn_a); /* nothing is left of it */
	assert_string_equal(story(r), "");
	rig_free(r);
}

static void test_hole_among_held_bytes_is_told_as_a_gap(void **state)
{
	struct rig *r = rig_with(NULL);

	(void)state;
	feed_held(r, &conn_a, SSLC_DIR_OUT, 0, "abc");
	feed_held(r, &conn_a, SSLC_DIR_OUT, 8, "i"); /* the kernel's ring was full in between */
	feed_held(r, &conn_a, SSLC_DIR_IN, 4, "E");
	feed_open(r, 1, CLIENT, EXACT_ISN);
	feed_bind(r, 1, &conn_a);
	feed_data(r, 1, SSLC_DIR_OUT, 0, "now");
	assert_string_equal(story(r), "open1 c2s@0:abc! gap-c2s@3+5 c2s@8:i! gap-s2c@0+4 s2c@4:E! "
				      "c2s@9:now!");
	rig_free(r);
}

static void test_held_bytes_of_an_unknown_flow_are_counted(void **state)
{
	struct rig *r = rig_with(NULL);
	uint64_t unknown = counter_named("flow_bytes_lost_unknown");

	(void)state;
	feed_held(r, &conn_a, SSLC_DIR_OUT, 0, "abc");
	feed_bind(r, 9, &conn_a);
	feed_data(r, 9, SSLC_DIR_OUT, 0, "defg");
	assert_string_equal(story(r), "");
	assert_int_equal(counter_named("flow_bytes_lost_unknown"), unknown + 7);
	rig_free(r);
}

static void test_held_bytes_expire_and_are_counted(void **state)
{
	struct rig *r = rig_with(NULL);
	uint64_t lost = counter_named("flow_bytes_lost_unbound");

	(void)state;
	feed_held(r, &conn_a, SSLC_DIR_OUT, 0, "abc");
	flows_tick(r->flows, NOW_NS + FLOW_HELD_MS * NS_PER_MS - NS_PER_MS, WALL_NS);
	assert_int_equal(counter_named("flow_bytes_lost_unbound"), lost);
	flows_tick(r->flows, NOW_NS + FLOW_HELD_MS * NS_PER_MS + NS_PER_MS, WALL_NS);
	assert_int_equal(counter_named("flow_bytes_lost_unbound"), lost + 3);
	rig_free(r);
}

static void test_tick_moves_the_wall_clock(void **state)
{
	struct rig *r = rig_open(CLIENT);

	(void)state;
	flows_tick(r->flows, NOW_NS, WALL_NS + 1000);
	feed_data(r, 1, SSLC_DIR_OUT, 0, "x");
	drain(r);
	assert_int_equal(r->told[0].data.ts_ns, NOW_NS + 1 + (uint64_t)WALL_NS + 1000);
	rig_free(r);
}

/* --- ends ---------------------------------------------------------------------------------------
 */

static void test_remote_fin_waits_until_the_process_has_read_it(void **state)
{
	struct rig *r = rig_open(CLIENT);

	(void)state;
	feed_sock(r, 1, SSLC_SOCK_REMOTE_FIN);
	feed_data(r, 1, SSLC_DIR_IN, 0, "still in the buffer");
	assert_string_equal(story(r), "s2c@0:still in the buffer!");
	feed_sock(r, 1, SSLC_SOCK_EOF);
	assert_string_equal(story(r), "fin-s2c");
	feed_data(r, 1, SSLC_DIR_OUT, 0, "half closed");
	feed_sock(r, 1, SSLC_SOCK_LOCAL_FIN);
	feed_sock(r, 1, SSLC_SOCK_CLOSED);
	assert_string_equal(story(r), "c2s@0:half closed! fin-c2s close-fin");
	feed_sock(r, 1, SSLC_SOCK_DESTROYED);
	assert_string_equal(story(r), "");
	assert_int_equal(flows_count(r->flows), 0);
	rig_free(r);
}

static void test_remote_fin_is_told_before_the_local_one_that_followed_it(void **state)
{
	struct rig *r = rig_open(SERVER);

	(void)state;
	feed_sock(r, 1, SSLC_SOCK_REMOTE_FIN);
	feed_sock(r, 1, SSLC_SOCK_LOCAL_FIN);
	feed_sock(r, 1, SSLC_SOCK_CLOSED);
	assert_string_equal(story(r), "");
	feed_sock(r, 1, SSLC_SOCK_DESTROYED);
	assert_string_equal(story(r), "fin-c2s fin-s2c close-fin");
	rig_free(r);
}

static void test_bytes_read_after_both_fins_are_told_before_them(void **state)
{
	struct rig *r = rig_open(SERVER);

	(void)state;
	feed_sock(r, 1, SSLC_SOCK_REMOTE_FIN);
	feed_sock(r, 1, SSLC_SOCK_LOCAL_FIN); /* shutdown(SHUT_WR), and the process reads on */
	feed_data(r, 1, SSLC_DIR_IN, 0, "late");
	feed_sock(r, 1, SSLC_SOCK_EOF);
	assert_string_equal(story(r), "c2s@0:late! fin-c2s fin-s2c");
	rig_free(r);
}

static void test_unbound_bytes_that_were_not_held_are_a_gap(void **state)
{
	struct rig *r = rig_open(SERVER);
	struct sslc_ev_bind ev = {.ev = {SSLC_EV_BIND, sizeof(ev), r->ts_ns++, 1},
				  .conn = conn_a,
				  .pos = {[SSLC_DIR_IN] = 7}};

	(void)state;
	feed(r, &ev, sizeof(ev));
	feed_data(r, 1, SSLC_DIR_IN, 0, "next");
	assert_string_equal(story(r), "gap-c2s@0+7 c2s@7:next!");
	rig_free(r);
}

static void test_remote_fin_is_told_at_destruction_at_the_latest(void **state)
{
	struct rig *r = rig_open(CLIENT);

	(void)state;
	feed_sock(r, 1, SSLC_SOCK_LOCAL_FIN);
	feed_sock(r, 1, SSLC_SOCK_REMOTE_FIN);
	assert_string_equal(story(r), "fin-c2s");
	feed_sock(r, 1, SSLC_SOCK_DESTROYED);
	assert_string_equal(story(r), "fin-s2c close-fin");
	rig_free(r);
}

static void test_end_of_file_alone_is_the_remote_fin(void **state)
{
	struct rig *r = rig_open(CLIENT);

	(void)state;
	feed_sock(r, 1, SSLC_SOCK_EOF); /* the event of its arrival was lost */
	feed_sock(r, 1, SSLC_SOCK_EOF);
	assert_string_equal(story(r), "fin-s2c");
	rig_free(r);
}

static void test_bytes_between_closed_and_destroyed_are_told(void **state)
{
	struct rig *r = rig_open(CLIENT);

	(void)state;
	feed_sock(r, 1, SSLC_SOCK_LOCAL_FIN);
	feed_sock(r, 1, SSLC_SOCK_REMOTE_FIN);
	feed_sock(r, 1, SSLC_SOCK_CLOSED);
	feed_data(r, 1, SSLC_DIR_IN, 0, "late");
	assert_string_equal(story(r), "fin-c2s s2c@0:late!");
	feed_sock(r, 1, SSLC_SOCK_DESTROYED);
	assert_string_equal(story(r), "fin-s2c close-fin");
	rig_free(r);
}

static void test_bytes_after_the_told_end_are_counted(void **state)
{
	struct rig *r = rig_open(CLIENT);
	uint64_t after = counter_named("flow_bytes_lost_after_end");

	(void)state;
	feed_sock(r, 1, SSLC_SOCK_LOCAL_FIN);
	feed_data(r, 1, SSLC_DIR_OUT, 0, "abc");
	feed_sock(r, 1, SSLC_SOCK_RST_OUT);
	feed_data(r, 1, SSLC_DIR_IN, 0, "de");
	assert_string_equal(story(r), "fin-c2s close-rst-c2s");
	assert_int_equal(counter_named("flow_bytes_lost_after_end"), after + 5);
	rig_free(r);
}

static void test_reset_by_the_peer_waits_for_the_failed_read(void **state)
{
	struct rig *r = rig_open(CLIENT);

	(void)state;
	feed_sock(r, 1, SSLC_SOCK_RST_IN);
	feed_data(r, 1, SSLC_DIR_IN, 0, "queued");
	assert_string_equal(story(r), "s2c@0:queued!");
	feed_sock(r, 1, SSLC_SOCK_ERROR);
	assert_string_equal(story(r), "close-rst-s2c");
	feed_sock(r, 1, SSLC_SOCK_DESTROYED);
	assert_string_equal(story(r), "");
	rig_free(r);
}

static void test_reset_by_the_peer_is_told_at_destruction(void **state)
{
	struct rig *r = rig_open(SERVER);

	(void)state;
	feed_sock(r, 1, SSLC_SOCK_RST_IN);
	assert_string_equal(story(r), "");
	feed_sock(r, 1, SSLC_SOCK_DESTROYED);
	assert_string_equal(story(r), "close-rst-c2s");
	rig_free(r);
}

/* send() takes the reset's error away; receive says 0 afterwards, though no FIN ever came. */
static void test_end_of_file_after_a_reset_is_no_fin(void **state)
{
	struct rig *r = rig_open(CLIENT);

	(void)state;
	feed_sock(r, 1, SSLC_SOCK_RST_IN);
	feed_sock(r, 1, SSLC_SOCK_EOF);
	assert_string_equal(story(r), "close-rst-s2c");
	rig_free(r);
}

/* A record told when it was made, of so many equal bytes. */
static void feed_record(struct rig *r, unsigned dir, uint64_t pos, char c, size_t len)
{
	char bytes[300];

	memset(bytes, c, len);
	feed_bytes(r, 1, &conn_a, dir, pos, bytes, len, SSLC_DATA_END | SSLC_DATA_AHEAD);
}

/* Its socket cannot be given it: what the other end never sees is not shown. */
static void test_records_made_after_the_break_are_not_told(void **state)
{
	static const unsigned what[] = {SSLC_SOCK_RST_IN, SSLC_SOCK_RST_OUT, SSLC_SOCK_TIMEOUT,
					SSLC_SOCK_LOCAL_FIN, SSLC_SOCK_SEND_ERROR};

	(void)state;
	for (size_t i = 0; i < sizeof(what) / sizeof(what[0]); i++) {
		struct rig *r = rig_open(SERVER);
		uint64_t unsent = counter_named("flow_bytes_unsent");
		uint64_t lost = counter_named("flow_bytes_lost_after_end");

		feed_record(r, SSLC_DIR_OUT, 0, 'a', 3);
		feed_sock(r, 1, what[i]);
		(void)story(r);
		feed_record(r, SSLC_DIR_OUT, 3, 'b', 4);
		assert_string_equal(story(r), "");
		assert_int_equal(counter_named("flow_bytes_unsent"), unsent + 4);
		assert_int_equal(counter_named("flow_bytes_lost_after_end"), lost);
		rig_free(r);
	}
}

/* A call that has returned says what the kernel took, be it before a reset; reads go on. */
static void test_what_was_sent_before_the_break_is_told_after_it(void **state)
{
	struct rig *r = rig_open(SERVER);
	uint64_t unsent = counter_named("flow_bytes_unsent");

	(void)state;
	feed_sock(r, 1, SSLC_SOCK_RST_IN);
	feed_data(r, 1, SSLC_DIR_OUT, 0, "sent");
	feed_record(r, SSLC_DIR_IN, 0, 'r', 2);
	feed_record(r, SSLC_DIR_OUT, 4, 'x', 3);
	feed_data(r, 1, SSLC_DIR_OUT, 7, "too"); /* no hole before it */
	assert_string_equal(story(r), "s2c@0:sent! c2s@0:rr! s2c@4:too!");
	assert_int_equal(counter_named("flow_bytes_unsent"), unsent + 3);
	rig_free(r);
}

static void feed_send_error(struct rig *r, uint32_t record, uint32_t lost)
{
	struct sslc_ev_sock ev = {.ev = {SSLC_EV_SOCK, sizeof(ev), r->ts_ns++, 1},
				  .what = SSLC_SOCK_SEND_ERROR,
				  .failed = record,
				  .ahead = lost};

	feed(r, &ev, sizeof(ev));
}

/* told: bytes of the last record; failed: of the record that the failing send began with. */
static uint64_t told_unsent(size_t told, uint32_t failed, bool next)
{
	struct rig *r = rig_open(SERVER);
	uint64_t before = counter_named("flow_bytes_unsent_told");

	feed_record(r, SSLC_DIR_OUT, 0, 'a', told);
	feed_sock(r, 1, SSLC_SOCK_RST_IN);
	if (next)
		feed_record(r, SSLC_DIR_OUT, told, 'b', told);
	feed_send_error(r, failed, 0);
	rig_free(r);
	return counter_named("flow_bytes_unsent_told") - before;
}

/* The record after the last one told was given up: it is counted as lost, but nobody missed it. */
static void test_a_record_lost_in_vain_is_counted(void **state)
{
	struct rig *r = rig_open(SERVER);
	uint64_t before = counter_named("flow_bytes_unsent_told");

	(void)state;
	feed_record(r, SSLC_DIR_OUT, 0, 'a', 250);
	feed_send_error(r, 217, 200);
	assert_int_equal(counter_named("flow_bytes_unsent_told"), before + 200);
	feed_send_error(r, 267, 0); /* and 'a' had been sent before it */
	assert_int_equal(counter_named("flow_bytes_unsent_told"), before + 200);
	rig_free(r);
}

static void test_a_record_told_in_vain_is_counted(void **state)
{
	(void)state;
	assert_int_equal(told_unsent(200, 217, false), 200);
	assert_int_equal(told_unsent(200, 285, false), 200);
	assert_int_equal(told_unsent(200, 217, true), 0); /* the next one's */
	assert_int_equal(told_unsent(200, 19, false), 0); /* an alert */
	assert_int_equal(told_unsent(200, 286, false), 0);
	assert_int_equal(told_unsent(200, 0, false), 0);
	assert_int_equal(told_unsent(2, 19, false), 0); /* may be an alert, too */
}

static void test_failed_read_alone_ends_nothing(void **state)
{
	struct rig *r = rig_open(CLIENT);

	(void)state;
	feed_sock(r, 1, SSLC_SOCK_ERROR);
	feed_data(r, 1, SSLC_DIR_IN, 0, "more");
	assert_string_equal(story(r), "s2c@0:more!");
	rig_free(r);
}

static void test_reset_by_this_end_is_told_at_once_and_once(void **state)
{
	static const unsigned what[2] = {SSLC_SOCK_RST_OUT, SSLC_SOCK_TIMEOUT};

	(void)state;
	for (int i = 0; i < 2; i++) {
		struct rig *r = rig_open(SERVER);

		feed_sock(r, 1, what[i]);
		assert_string_equal(story(r), "close-rst-s2c");
		feed_sock(r, 1, SSLC_SOCK_RST_OUT);
		feed_sock(r, 1, SSLC_SOCK_RST_IN);
		feed_sock(r, 1, SSLC_SOCK_LOCAL_FIN);
		feed_sock(r, 1, SSLC_SOCK_EOF);
		feed_sock(r, 1, SSLC_SOCK_CLOSED);
		feed_sock(r, 1, SSLC_SOCK_DESTROYED);
		assert_string_equal(story(r), "");
		assert_int_equal(flows_count(r->flows), 0);
		rig_free(r);
	}
}

static void test_reset_by_this_end_overtakes_a_held_end(void **state)
{
	struct rig *r = rig_open(CLIENT);

	(void)state;
	feed_sock(r, 1, SSLC_SOCK_RST_IN);
	feed_sock(r, 1, SSLC_SOCK_RST_OUT);
	assert_string_equal(story(r), "close-rst-c2s");
	flows_tick(r->flows, NOW_NS + 2 * GRACE_NS, WALL_NS);
	assert_string_equal(story(r), "");
	rig_free(r);
}

static void test_held_ends_are_told_when_the_grace_is_over(void **state)
{
	struct rig *r = rig_with(NULL);

	(void)state;
	for (uint64_t id = 1; id <= 3; id++)
		feed_open(r, id, CLIENT, EXACT);
	drain(r);
	feed_sock(r, 1, SSLC_SOCK_RST_IN);
	feed_sock(r, 2, SSLC_SOCK_REMOTE_FIN);
	feed_sock(r, 2, SSLC_SOCK_CLOSED);
	flows_tick(r->flows, NOW_NS + GRACE_NS - 1, WALL_NS);
	assert_string_equal(story(r), "");
	flows_tick(r->flows, NOW_NS + GRACE_NS + 1000, WALL_NS);
	assert_string_equal(story(r), "close-rst-s2c fin-s2c close-fin");
	assert_int_equal(r->told[0].close.flow, 1);
	assert_int_equal(r->told[2].close.flow, 2);
	flows_tick(r->flows, NOW_NS + 10 * GRACE_NS, WALL_NS);
	assert_string_equal(story(r), ""); /* flow 3 is merely idle */
	assert_int_equal(flows_count(r->flows), 3);
	rig_free(r);
}

static void test_close_all_settles_held_ends_and_closes_the_rest(void **state)
{
	struct rig *r = rig_with(NULL);

	(void)state;
	for (uint64_t id = 1; id <= 4; id++)
		feed_open(r, id, CLIENT, EXACT);
	drain(r);
	feed_sock(r, 1, SSLC_SOCK_RST_IN);
	feed_sock(r, 2, SSLC_SOCK_REMOTE_FIN);
	feed_sock(r, 2, SSLC_SOCK_CLOSED);
	feed_sock(r, 3, SSLC_SOCK_RST_OUT);
	feed_held(r, &conn_b, SSLC_DIR_OUT, 0, "never bound");
	drain(r);
	flows_close_all(r->flows, NOW_NS + 77);
	assert_string_equal(story(r), "close-rst-s2c fin-s2c close-fin close-agent");
	assert_int_equal(r->told[3].close.flow, 4);
	assert_int_equal(r->told[3].close.ts_ns, NOW_NS + 77 + (uint64_t)WALL_NS);
	assert_int_equal(flows_count(r->flows), 0);
	rig_free(r);
}

/* --- foreign input ------------------------------------------------------------------------------
 */

static void test_malformed_events_are_counted_and_ignored(void **state)
{
	struct rig *r = rig_open(CLIENT);
	uint64_t bad = counter_named("flow_events_malformed");
	struct sslc_ev_open o = an_open(r, 2, CLIENT, EXACT);
	union {
		uint8_t bytes[sizeof(struct sslc_ev_data) + 8];
		struct sslc_ev_data d;
	} d = {{0}};
	struct sslc_event short_one = {0, sizeof(short_one), 1, 1};
	struct sslc_ev_sock s = {.ev = {SSLC_EV_SOCK, sizeof(s), 1, 1}, .what = 99};

	(void)state;
	d.d.ev = (struct sslc_event){SSLC_EV_DATA, sizeof(d), 1, 1};
	d.d.conn = conn_a;
	d.d.len = 9;
	feed(r, &d, sizeof(d)); /* one byte more than it holds */
	d.d.len = UINT32_MAX;
	feed(r, &d, sizeof(d));
	d.d.len = 0;
	feed(r, &d, sizeof(d));
	d.d.len = 8;
	d.d.dir = 2;
	feed(r, &d, sizeof(d));
	assert_int_equal(counter_named("flow_events_malformed"), bad + 4);
	for (uint32_t type = 0; type <= 5; type++) { /* none of them fits into a bare header */
		short_one.type = type;
		feed(r, &short_one, sizeof(short_one));
	}
	assert_int_equal(counter_named("flow_events_malformed"), bad + 10);
	o.family = 10;
	feed(r, &o, sizeof(o));
	o.family = 4;
	o.ev.flow = 0;
	feed(r, &o, sizeof(o));
	o.ev.flow = 1; /* open already */
	feed(r, &o, sizeof(o));
	feed(r, &s, sizeof(s));
	assert_int_equal(counter_named("flow_events_malformed"), bad + 14);
	assert_string_equal(story(r), "");
	assert_int_equal(flows_count(r->flows), 1);
	rig_free(r);
}

static void test_events_of_unknown_flows_tell_nothing(void **state)
{
	struct rig *r = rig_with(NULL);

	(void)state;
	for (unsigned what = 1; what <= 9; what++)
		feed_sock(r, 42, what);
	feed_bind(r, 0, &conn_a);
	assert_string_equal(story(r), "");
	rig_free(r);
}

static void test_free_with_open_flows_and_held_bytes_leaks_nothing(void **state)
{
	struct rig *r = rig_with(NULL);

	(void)state;
	for (uint64_t id = 1; id <= 50; id++)
		feed_open(r, id, CLIENT, EXACT);
	feed_sock(r, 7, SSLC_SOCK_RST_IN);
	feed_held(r, &conn_b, SSLC_DIR_OUT, 0, "never bound");
	assert_int_equal(flows_count(r->flows), 50);
	rig_free(r); /* LeakSanitizer watches */
	flows_free(NULL);
}

/* --- 0-RTT, and bytes that only the kernel sees -------------------------------------------------
 */

static void test_accepted_early_bytes_come_first_and_once(void **state)
{
	struct rig *r = rig_open(CLIENT);

	(void)state;
	feed_early(r, 1, 0, "GET /");
	feed_early(r, 1, 5, " HTTP");
	assert_string_equal(story(r), "");
	feed_verdict(r, 1, true);
	feed_verdict(r, 1, true);
	assert_string_equal(story(r), "c2s@0:GET /! c2s@5: HTTP!");
	feed_data(r, 1, SSLC_DIR_OUT, 10, "next");
	feed_data(r, 1, SSLC_DIR_IN, 0, "answer");
	assert_string_equal(story(r), "c2s@10:next! s2c@0:answer!");
	rig_free(r);
}

static void test_rejected_early_bytes_are_not_told_and_leave_no_hole(void **state)
{
	uint64_t void_before = counter_named("flow_bytes_early_rejected"),
		 gap = counter_named("flow_bytes_gap");
	struct rig *r = rig_open(CLIENT);

	(void)state;
	feed_early(r, 1, 0, "GET /");
	feed_verdict(r, 1, false);
	assert_string_equal(story(r), "");
	feed_data(r, 1, SSLC_DIR_OUT, 5, "GET /");
	feed_data(r, 1, SSLC_DIR_OUT, 10, "more");
	assert_string_equal(story(r), "c2s@0:GET /! c2s@5:more!");
	assert_int_equal(counter_named("flow_bytes_early_rejected"), void_before + 5);
	assert_int_equal(counter_named("flow_bytes_gap"), gap);
	feed_early(r, 1, 14, "never said again");
	feed_verdict(r, 1, false);
	feed_sock(r, 1, SSLC_SOCK_LOCAL_FIN);
	assert_string_equal(story(r), "fin-c2s");
	rig_free(r);
}

static void test_early_rejection_before_the_handshake_is_over_is_not_final(void **state)
{
	struct rig *r = rig_open(CLIENT);

	(void)state;
	feed_early(r, 1, 0, "hello");
	feed_verdict(r, 1, false);
	feed_early(r, 1, 5, " world");
	feed_verdict(r, 1, true);
	assert_string_equal(story(r), "c2s@0:hello! c2s@5: world!");
	rig_free(r);
}

static void test_early_bytes_of_a_client_that_never_asks(void **state)
{
	uint64_t assumed = counter_named("flow_bytes_early_assumed");
	struct rig *r = rig_open(CLIENT);

	(void)state;
	feed_early(r, 1, 0, "GET /");
	feed_data(r, 1, SSLC_DIR_IN, 0, "answer");
	assert_string_equal(story(r), "c2s@0:GET /! s2c@0:answer!");
	feed_data(r, 1, SSLC_DIR_OUT, 5, "GET /");
	assert_string_equal(story(r), "c2s@5:GET /!");
	assert_int_equal(counter_named("flow_bytes_early_assumed"), assumed + 5);
	rig_free(r);
	r = rig_open(CLIENT);
	feed_early(r, 1, 0, "one ");
	feed_data(r, 1, SSLC_DIR_OUT, 4, "two");
	assert_string_equal(story(r), "c2s@0:one ! c2s@4:two!");
	rig_free(r);
	r = rig_open(CLIENT);
	feed_early(r, 1, 0, "again");
	feed_data(r, 1, SSLC_DIR_OUT, 5, "again and more");
	assert_string_equal(story(r), "c2s@0:again and more!");
	rig_free(r);
}

static void test_early_bytes_are_told_before_an_end(void **state)
{
	struct rig *r = rig_open(CLIENT);

	(void)state;
	feed_early(r, 1, 0, "last words");
	feed_sock(r, 1, SSLC_SOCK_LOCAL_FIN);
	assert_string_equal(story(r), "c2s@0:last words! fin-c2s");
	rig_free(r);
	r = rig_open(CLIENT);
	feed_early(r, 1, 0, "last words");
	feed_sock(r, 1, SSLC_SOCK_RST_OUT);
	assert_string_equal(story(r), "c2s@0:last words! close-rst-c2s");
	rig_free(r);
	r = rig_open(CLIENT);
	feed_early(r, 1, 0, "last words");
	flows_close_all(r->flows, r->ts_ns);
	assert_string_equal(story(r), "c2s@0:last words! close-agent");
	rig_free(r);
}

static void test_early_bytes_may_wait_for_their_connection_first(void **state)
{
	struct rig *r = rig_open(CLIENT);

	(void)state;
	feed_early(r, 0, 0, "GET /");
	feed_bind(r, 1, &conn_a);
	assert_string_equal(story(r), "");
	feed_early(r, 1, 0, "more");
	feed_verdict(r, 1, true);
	feed_data(r, 1, SSLC_DIR_OUT, 4, "!");
	assert_string_equal(story(r), "c2s@0:GET /! c2s@5:more! c2s@9:!!");
	rig_free(r);
}

static void test_early_bytes_lost_in_the_kernel_are_a_gap_when_accepted(void **state)
{
	struct rig *r = rig_open(CLIENT);

	(void)state;
	feed_early(r, 1, 0, "a");
	feed_early(r, 1, 11, "b");
	feed_verdict(r, 1, true);
	feed_data(r, 1, SSLC_DIR_OUT, 12, "c");
	assert_string_equal(story(r), "c2s@0:a! gap-c2s@1+11 c2s@12:c!");
	feed_early(r, 1, 20, "d");
	feed_verdict(r, 1, false);
	feed_data(r, 1, SSLC_DIR_OUT, 21, "e");
	assert_string_equal(story(r), "c2s@13:e!");
	rig_free(r);
}

static void test_early_bytes_beyond_what_is_held_are_a_gap_when_accepted(void **state)
{
	uint64_t overflows = counter_named("flow_early_overflows");
	struct rig *r = rig_open(CLIENT);
	char *big = calloc(1, FLOW_EARLY_MAX);

	(void)state;
	feed_bytes(r, 1, &conn_a, SSLC_DIR_OUT, 0, big, FLOW_EARLY_MAX, SSLC_DATA_EARLY);
	feed_early(r, 1, FLOW_EARLY_MAX, "over");
	feed_early(r, 1, FLOW_EARLY_MAX + 4, "flow");
	feed_verdict(r, 1, true);
	feed_data(r, 1, SSLC_DIR_OUT, FLOW_EARLY_MAX + 8, "x");
	assert_string_equal(story(r), "c2s@0: c2s@32768: gap-c2s@65536+8 c2s@65544:x!");
	assert_int_equal(counter_named("flow_early_overflows"), overflows + 1);
	free(big);
	rig_free(r);
}

static void test_bytes_that_only_the_kernel_saw_are_a_gap_of_their_size(void **state)
{
	uint64_t sendfile = counter_named("flow_bytes_gap_sendfile"),
		 gap = counter_named("flow_bytes_gap");
	struct rig *r = rig_open(SERVER);

	(void)state;
	feed_data(r, 1, SSLC_DIR_OUT, 0, "head");
	feed_gap(r, 1, SSLC_DIR_OUT, 4, 1000000);
	feed_data(r, 1, SSLC_DIR_OUT, 1000004, "tail");
	feed_gap(r, 1, SSLC_DIR_OUT, 1000010, 5); /* two lost before it */
	assert_string_equal(story(r), "s2c@0:head! gap-s2c@4+1000000 s2c@1000004:tail! "
				      "gap-s2c@1000008+2 gap-s2c@1000010+5");
	assert_int_equal(counter_named("flow_bytes_gap_sendfile"), sendfile + 1000005);
	assert_int_equal(counter_named("flow_bytes_gap"), gap + 2);
	rig_free(r);
}

static void test_gap_in_an_impossible_place_is_counted_and_not_told(void **state)
{
	uint64_t late = counter_named("flow_bytes_lost_late"),
		 unknown = counter_named("flow_bytes_lost_unknown");
	struct rig *r = rig_open(SERVER);

	(void)state;
	feed_data(r, 1, SSLC_DIR_OUT, 0, "head");
	feed_gap(r, 1, SSLC_DIR_OUT, 3, 7);
	feed_gap(r, 1, SSLC_DIR_OUT, 4, UINT64_MAX);
	feed_gap(r, 1, SSLC_DIR_OUT, UINT64_MAX, 9);
	feed_gap(r, 2, SSLC_DIR_OUT, 0, 100);
	feed_gap(r, 1, SSLC_DIR_OUT, 4, 0);
	feed_gap(r, 1, 2, 4, 1);
	assert_string_equal(story(r), "s2c@0:head!");
	assert_int_equal(counter_named("flow_bytes_lost_late"), late + 7 + UINT64_MAX + 9);
	assert_int_equal(counter_named("flow_bytes_lost_unknown"), unknown + 100);
	rig_free(r);
}

static void feed_lost(struct rig *r, uint64_t flow, uint64_t in, uint64_t out)
{
	struct sslc_ev_lost ev = {.ev = {SSLC_EV_LOST, sizeof(ev), r->ts_ns++, flow},
				  .pos = {in, out}};

	feed(r, &ev, sizeof(ev));
}

static void test_what_was_lost_at_the_end_is_a_gap_before_it(void **state)
{
	uint64_t gap = counter_named("flow_bytes_gap");
	struct rig *r = rig_open(SERVER);

	(void)state;
	feed_data(r, 1, SSLC_DIR_IN, 0, "GET");
	feed_data(r, 1, SSLC_DIR_OUT, 0, "200");
	feed_lost(r, 1, 3, 1003);
	feed_sock(r, 1, SSLC_SOCK_LOCAL_FIN);
	feed_lost(r, 1, 13, 1003);
	feed_lost(r, 1, 13, 1003);
	feed_sock(r, 1, SSLC_SOCK_EOF);
	feed_sock(r, 1, SSLC_SOCK_CLOSED);
	feed_lost(r, 1, 99, 1009); /* after its end */
	assert_string_equal(story(r), "c2s@0:GET! s2c@0:200! gap-s2c@3+1000 fin-s2c gap-c2s@3+10 "
				      "fin-c2s close-fin");
	assert_int_equal(counter_named("flow_bytes_gap"), gap + 1010);
	rig_free(r);
}

static void test_losses_in_an_impossible_place_are_not_told(void **state)
{
	uint64_t bad = counter_named("flow_events_malformed");
	struct rig *r = rig_open(SERVER);

	(void)state;
	feed_data(r, 1, SSLC_DIR_OUT, 0, "head");
	feed_lost(r, 1, UINT64_MAX, 3);
	feed_lost(r, 2, 1, 1);
	assert_string_equal(story(r), "s2c@0:head!");
	assert_int_equal(counter_named("flow_events_malformed"), bad + 2);
	rig_free(r);
}

static void test_bytes_go_on_behind_what_was_lost(void **state)
{
	struct rig *r = rig_open(SERVER);

	(void)state;
	feed_data(r, 1, SSLC_DIR_OUT, 0, "head");
	feed_lost(r, 1, 0, 10);
	feed_data(r, 1, SSLC_DIR_OUT, 12, "tail");
	assert_string_equal(story(r), "s2c@0:head! gap-s2c@4+6 gap-s2c@10+2 s2c@12:tail!");
	rig_free(r);
}

/* --- accounts -----------------------------------------------------------------------------------
 */

static struct {
	struct flow_account last;
	char comm[16];
	unsigned opened, ended, listed;
	uint64_t unbound;
} acc;

static void on_opened(void *ctx, const struct flow_account *a)
{
	(void)ctx;
	acc.opened++;
	acc.last = *a;
	memcpy(acc.comm, a->comm, 16);
}

static void on_ended(void *ctx, const struct flow_account *a)
{
	(void)ctx;
	acc.ended++;
	acc.last = *a;
	assert_null(a->comm);
}

static void on_listed(void *ctx, const struct flow_account *a)
{
	assert_ptr_equal(ctx, &acc);
	acc.listed++;
	acc.last = *a;
}

static void on_unbound(void *ctx, const struct sslc_conn_id *conn, uint64_t bytes)
{
	(void)ctx;
	assert_memory_equal(conn, &conn_b, sizeof(conn_b));
	acc.unbound += bytes;
}

static struct rig *rig_accounting(const char *expr)
{
	struct rig *r = rig_with(expr);
	struct flows_conf conf = {.ship = r->ship,
				  .filter = r->filter,
				  .skip = on_skip,
				  .opened = on_opened,
				  .ended = on_ended,
				  .unbound = on_unbound,
				  .ctx = r};

	memset(&acc, 0, sizeof(acc));
	flows_free(r->flows);
	assert_int_equal(flows_new(&r->flows, &conf), 0);
	flows_tick(r->flows, NOW_NS, WALL_NS);
	return r;
}

static void assert_account(enum flow_fate fate, unsigned confidence, uint64_t bytes)
{
	assert_int_equal(acc.last.fate, fate);
	assert_int_equal(acc.last.confidence, confidence);
	assert_int_equal(acc.last.bytes, bytes);
	assert_int_equal(acc.last.tgid, conn_a.tgid);
	assert_int_equal(acc.last.start_ns, conn_a.start_ns);
}

static void test_account_of_a_flow_counts_what_was_told(void **state)
{
	struct rig *r = rig_accounting(NULL);

	(void)state;
	feed_open(r, 1, CLIENT, EXACT_ISN);
	assert_int_equal(acc.opened, 1);
	assert_memory_equal(acc.comm, "sixteen-letters", 16);
	assert_account(FLOW_MIRRORED, CONF_EXACT, 0);
	feed_data(r, 1, SSLC_DIR_OUT, 0, "hello");
	feed_data(r, 1, SSLC_DIR_IN, 3, "you"); /* three were lost: told as a gap, not mirrored */
	flows_each(r->flows, on_listed, &acc);
	assert_int_equal(acc.listed, 1);
	assert_account(FLOW_MIRRORED, CONF_EXACT, 8);
	feed_sock(r, 1, SSLC_SOCK_DESTROYED);
	assert_int_equal(acc.ended, 1);
	assert_account(FLOW_MIRRORED, CONF_EXACT, 8);
	flows_each(r->flows, on_listed, &acc);
	assert_int_equal(acc.listed, 1);
	rig_free(r);
}

static void test_account_of_a_flow_left_out_says_why(void **state)
{
	struct rig *r = rig_accounting("port 1");
	struct sslc_ev_open ev, other;

	(void)state;
	feed_open(r, 1, CLIENT, EXACT_ISN);
	assert_account(FLOW_FILTERED, CONF_EXACT, 0);
	feed_data(r, 1, SSLC_DIR_OUT, 0, "hello");
	flows_close_all(r->flows, NOW_NS);
	assert_account(FLOW_FILTERED, CONF_EXACT, 0);
	rig_free(r);

	r = rig_accounting(NULL);
	ev = an_open(r, 1, CLIENT, EXACT_ISN);
	other = other_end(ev, 2);
	other.conn = conn_a;
	feed(r, &ev, sizeof(ev));
	feed(r, &other, sizeof(other));
	assert_account(FLOW_STANDBY, CONF_EXACT, 0);
	assert_int_equal(acc.opened, 2);
	rig_free(r);
	assert_int_equal(acc.ended, 2);
}

static void test_account_of_an_inferred_role_and_of_a_late_start(void **state)
{
	struct rig *r = rig_accounting(NULL);
	uint64_t late = counter_named("flow_connections_late");

	(void)state;
	feed_open(r, 1, SERVER, SSLC_OPEN_LATE);
	assert_string_equal(story(r), "open1");
	assert_int_equal(r->told[0].open.flags, FLOW_OPEN_LATE);
	assert_account(FLOW_MIRRORED, CONF_INFERRED, 0);
	assert_true(acc.last.is_late);
	assert_int_equal(counter_named("flow_connections_late"), late + 1);
	rig_free(r);
}

static void test_account_of_bytes_that_found_no_flow(void **state)
{
	struct rig *r = rig_accounting(NULL);

	(void)state;
	feed_held(r, &conn_b, SSLC_DIR_OUT, 0, "nobody's");
	assert_int_equal(acc.unbound, 0);
	flows_tick(r->flows, NOW_NS + FLOW_HELD_MS * NS_PER_MS + NS_PER_S, WALL_NS);
	assert_int_equal(acc.unbound, 8);
	rig_free(r);
}

/* --- objects without a socket -------------------------------------------------------------------
 */

/* A server's connection 1, its handshake done, "hello" received and read: nothing is told yet. */
static struct rig *rig_candidate(const char *filter, uint32_t flags)
{
	struct rig *r = rig_with(filter);

	feed_open(r, 1, SERVER, flags | SSLC_OPEN_CANDIDATE);
	feed_handshake(r, 1);
	feed_wire(r, 1, SSLC_DIR_IN, 23, 5 + 17);
	feed_loose(r, SSLC_DIR_IN, 0, "hello");
	assert_string_equal(story(r), "");
	return r;
}

static void test_a_matched_connection_is_told_with_what_was_held(void **state)
{
	struct rig *r = rig_candidate(NULL, EXACT_ISN);

	(void)state;
	feed_call(r);
	assert_string_equal(story(r), "open1 c2s@0:hello!");
	assert_int_equal(r->told[0].open.confidence, CONF_MATCHED);
	assert_int_equal(r->told[0].open.pid, 7);
	feed_loose(r, SSLC_DIR_OUT, 0, "answer");
	assert_string_equal(story(r), "s2c@0:answer!");
	feed_wire(r, 1, SSLC_DIR_OUT, 23, 6 + 17);
	feed_sock(r, 1, SSLC_SOCK_EOF);
	feed_sock(r, 1, SSLC_SOCK_DESTROYED);
	assert_string_equal(story(r), "fin-c2s close-fin");
	rig_free(r);
}

static void test_a_matched_connection_with_an_inferred_role_says_so(void **state)
{
	struct rig *r = rig_candidate(NULL, 0);

	(void)state;
	feed_call(r);
	assert_string_equal(story(r), "open1 c2s@0:hello!");
	assert_int_equal(r->told[0].open.confidence, CONF_INFERRED);
	rig_free(r);
}

static void test_the_ends_of_a_candidate_are_told_after_its_bytes(void **state)
{
	struct rig *r = rig_candidate(NULL, EXACT_ISN);

	(void)state;
	feed_sock(r, 1, SSLC_SOCK_LOCAL_FIN);
	feed_sock(r, 1, SSLC_SOCK_REMOTE_FIN);
	feed_sock(r, 1, SSLC_SOCK_CLOSED);
	assert_string_equal(story(r), "");
	feed_sock(r, 1, SSLC_SOCK_DESTROYED); /* the last moment to conclude what can be */
	assert_string_equal(story(r), "open1 c2s@0:hello! fin-s2c fin-c2s close-fin");
	rig_free(r);

	r = rig_candidate(NULL, EXACT_ISN);
	feed_sock(r, 1, SSLC_SOCK_RST_OUT);
	feed_call(r);
	assert_string_equal(story(r), "open1 c2s@0:hello! close-rst-s2c");
	rig_free(r);
}

static void test_a_candidate_without_an_object_is_counted(void **state)
{
	uint64_t before = counter_named("flow_connections_unmatched");
	struct rig *r = rig_with(NULL);

	(void)state;
	feed_open(r, 1, SERVER, EXACT_ISN | SSLC_OPEN_CANDIDATE);
	feed_wire(r, 1, SSLC_DIR_IN, 23, 22);
	feed_sock(r, 1, SSLC_SOCK_DESTROYED);
	feed_open(r, 2, SERVER, EXACT_ISN | SSLC_OPEN_CANDIDATE);
	flows_close_all(r->flows, r->ts_ns);
	assert_string_equal(story(r), "");
	assert_int_equal(counter_named("flow_connections_unmatched"), before + 2);
	rig_free(r);
}

static void test_the_filter_judges_a_candidate_when_it_is_matched(void **state)
{
	uint64_t before = counter_named("flow_bytes_filtered");
	struct rig *r = rig_candidate("port 1", EXACT_ISN);

	(void)state;
	assert_int_equal(r->n_skipped, 0);
	feed_call(r);
	assert_string_equal(story(r), "");
	assert_int_equal(r->n_skipped, 1);
	assert_int_equal(counter_named("flow_bytes_filtered"), before + 5);
	rig_free(r);
}

static void test_bytes_that_refute_a_match_are_not_told(void **state)
{
	struct rig *r = rig_candidate(NULL, EXACT_ISN);

	(void)state;
	feed_call(r);
	feed_wire(r, 1, SSLC_DIR_IN, 23, 3 + 17);
	feed_loose(r, SSLC_DIR_IN, 5, "abc");
	assert_string_equal(story(r), "open1 c2s@0:hello! c2s@5:abc!");
	feed_wire(r, 1, SSLC_DIR_IN, 23, 3 + 17);
	feed_loose(r, SSLC_DIR_IN, 8, "someone else's");
	feed_loose(r, SSLC_DIR_OUT, 0, "answer");
	assert_string_equal(story(r), "");
	feed_call(r);
	r->ts_ns += NS_PER_S;
	for (int i = 0; i < 4; i++) { /* but it is this connection after all */
		feed_loose(r, SSLC_DIR_OUT, 6 + 2 * (uint64_t)i, "xy");
		feed_wire(r, 1, SSLC_DIR_OUT, 23, 2 + 17);
		feed_wire(r, 1, SSLC_DIR_IN, 23, 1 + 17);
		feed_loose(r, SSLC_DIR_IN, 22 + (uint64_t)i, "z");
		feed_call(r);
	}
	assert_non_null(
		strstr(story(r), "c2s@8:someone else's! s2c@0:answer! s2c@6:xy! c2s@22:z!"));
	rig_free(r);
}

static void test_held_bytes_that_expired_are_a_gap_when_matched(void **state)
{
	struct rig *r = rig_with(NULL);

	(void)state;
	feed_open(r, 1, SERVER, EXACT_ISN | SSLC_OPEN_CANDIDATE);
	feed_loose(r, SSLC_DIR_IN, 0, "before");
	feed_call(r);
	r->ts_ns += (FLOW_HELD_MS + 1000) * NS_PER_MS;
	flows_tick(r->flows, r->ts_ns, WALL_NS);
	for (unsigned i = 0; i < 2; i++) {
		feed_wire(r, 1, SSLC_DIR_IN, 23, 5 + 17);
		feed_loose(r, SSLC_DIR_IN, 6 + 5 * i, "hello");
		feed_call(r);
		feed_loose(r, SSLC_DIR_OUT, 3 * i, "yes");
		feed_wire(r, 1, SSLC_DIR_OUT, 23, 3 + 17);
	}
	assert_string_equal(story(r),
			    "open1 gap-c2s@0+6 c2s@6:hello! s2c@0:yes! c2s@11:hello! s2c@3:yes!");
	rig_free(r);
}

static void test_the_kernel_goes_on_where_the_match_stopped(void **state)
{
	struct rig *r = rig_candidate(NULL, EXACT_ISN);
	struct sslc_ev_bind bind = {
		.ev = {SSLC_EV_BIND, sizeof(bind), 0, 1}, .conn = conn_a, .pos = {5, 0}};

	(void)state;
	feed_call(r);
	assert_string_equal(story(r), "open1 c2s@0:hello!");
	bind.ev.ts_ns = r->ts_ns++;
	feed(r, &bind, sizeof(bind));
	feed_data(r, 1, SSLC_DIR_IN, 0, "more");
	feed_data(r, 1, SSLC_DIR_OUT, 0, "answer");
	assert_string_equal(story(r), "c2s@5:more! s2c@0:answer!");
	rig_free(r);
}

static void test_the_kernel_takes_a_connection_from_a_wrong_object(void **state)
{
	uint64_t before = counter_named("flow_bindings_contradicted");
	struct rig *r = rig_candidate(NULL, EXACT_ISN);

	(void)state;
	feed_call(r);
	feed_bytes(r, 1, &conn_b, SSLC_DIR_IN, 0, "exact", 5, SSLC_DATA_END);
	feed_loose(r, SSLC_DIR_IN, 5, "wrong");
	assert_string_equal(story(r), "open1 c2s@0:hello! c2s@5:exact!");
	assert_int_equal(counter_named("flow_bindings_contradicted"), before + 1);
	rig_free(r);
}

static void test_a_gap_of_a_candidate_makes_it_exact(void **state)
{
	struct rig *r = rig_with(NULL);

	(void)state;
	feed_open(r, 1, SERVER, EXACT_ISN | SSLC_OPEN_CANDIDATE);
	feed_gap(r, 1, SSLC_DIR_OUT, 0, 1000);
	feed_data(r, 1, SSLC_DIR_OUT, 1000, "rest");
	assert_string_equal(story(r), "open1 gap-s2c@0+1000 s2c@1000:rest!");
	rig_free(r);
}

static void test_operations_of_unannounced_connections_bind_nothing(void **state)
{
	struct rig *r = rig_with(NULL);

	(void)state;
	feed_handshake(r, 9);
	feed_wire(r, 9, SSLC_DIR_IN, 23, 22);
	feed_loose(r, SSLC_DIR_IN, 0, "hello");
	feed_call(r);
	feed_open(r, 1, SERVER, EXACT_ISN); /* exact: not to be had either */
	feed_wire(r, 1, SSLC_DIR_IN, 23, 22);
	assert_string_equal(story(r), "open1");
	rig_free(r);
}

static void test_broken_wire_events_are_counted(void **state)
{
	uint64_t before = counter_named("flow_events_malformed");
	struct rig *r = rig_with(NULL);
	struct sslc_ev_wire ev = {.ev = {SSLC_EV_WIRE, sizeof(ev), NOW_NS, 1}};

	(void)state;
	ev.n_rec = SSLC_WIRE_RECORDS + 1;
	feed(r, &ev, sizeof(ev));
	ev.n_rec = 0;
	ev.dir = 2;
	feed(r, &ev, sizeof(ev));
	ev.dir = 0;
	ev.ev.flow = 0;
	feed(r, &ev, sizeof(ev));
	ev.ev.size = sizeof(struct sslc_event);
	feed(r, &ev, sizeof(struct sslc_event));
	ev.ev.type = SSLC_EV_CALL;
	feed(r, &ev, sizeof(struct sslc_event));
	assert_int_equal(counter_named("flow_events_malformed"), before + 5);
	rig_free(r);
}

static void test_a_candidate_has_an_account_and_nothing_else(void **state)
{
	struct rig *r = rig_accounting(NULL);

	(void)state;
	feed_open(r, 1, CLIENT, EXACT_ISN | SSLC_OPEN_CANDIDATE);
	assert_account(FLOW_UNMATCHED, CONF_UNKNOWN, 0);
	feed_sock(r, 1, SSLC_SOCK_LOCAL_FIN);
	feed_sock(r, 1, SSLC_SOCK_EOF);
	feed_sock(r, 1, SSLC_SOCK_CLOSED);
	feed_sock(r, 1, SSLC_SOCK_DESTROYED);
	assert_int_equal(acc.ended, 1);
	assert_account(FLOW_UNMATCHED, CONF_UNKNOWN, 0);
	assert_string_equal(story(r), "");
	assert_int_equal(r->n_skipped, 0);
	rig_free(r);

	r = rig_accounting("port 1");
	feed_open(r, 1, CLIENT, EXACT_ISN | SSLC_OPEN_CANDIDATE);
	assert_account(FLOW_FILTERED, CONF_UNKNOWN, 0);
	rig_free(r);
}

static void test_account_of_a_candidate_that_is_bound_later(void **state)
{
	struct rig *r = rig_accounting(NULL);

	(void)state;
	feed_open(r, 1, CLIENT, EXACT_ISN | SSLC_OPEN_CANDIDATE);
	assert_int_equal(acc.opened, 1);
	feed_data(r, 1, SSLC_DIR_OUT, 0, "hello");
	assert_int_equal(acc.opened, 2);
	flows_each(r->flows, on_listed, &acc);
	assert_account(FLOW_MIRRORED, CONF_EXACT, 5);
	feed_sock(r, 1, SSLC_SOCK_DESTROYED);
	assert_int_equal(acc.ended, 1);
	assert_account(FLOW_MIRRORED, CONF_EXACT, 5);
	rig_free(r);
}

/* --- before TLS ---------------------------------------------------------------------------------
 */

static void feed_pop3(struct rig *r, uint64_t flow)
{
	feed_clear(r, flow, SSLC_DIR_IN, 0, "+OK hi\n", 7);
	feed_clear(r, flow, SSLC_DIR_OUT, 0, "STLS\n", 5);
	feed_clear(r, flow, SSLC_DIR_IN, 7, "+OK go\n", 7);
}

static void test_what_was_said_before_tls_goes_first(void **state)
{
	static const char stitched[] =
		"open1 s2c@0:+OK hi\n! c2s@0:USER! gap-c2s@4+3 c2s@7:x! s2c@7:+OK!";
	static const char inner[] = "open1 c2s@0:USER! gap-c2s@4+3 c2s@7:x! s2c@0:+OK!";
	static const char kept[] = "open1 s2c@0:+OK hi\n! c2s@0:STLS\n! s2c@7:+OK go\n! "
				   "c2s@5:USER! gap-c2s@9+3 c2s@12:x! s2c@14:+OK!";
	static const char *const stories[] = {stitched, inner, kept};
	static const unsigned bytes[] = {7, 0, 19};

	(void)state;
	for (unsigned mode = PRELUDE_STITCH; mode <= PRELUDE_KEEP; mode++) {
		struct rig *r = rig_for(NULL, (enum prelude_mode)mode);
		uint64_t before = counter_named("flow_bytes_prelude");

		feed_pop3(r, 1);
		assert_string_equal(story(r), "");
		feed_open(r, 1, CLIENT, EXACT_ISN);
		feed_data(r, 1, SSLC_DIR_OUT, 0, "USER");
		feed_data(r, 1, SSLC_DIR_OUT, 7,
			  "x"); /* the source counts from the first byte inside */
		feed_data(r, 1, SSLC_DIR_IN, 0, "+OK");
		assert_string_equal(story(r), stories[mode]);
		assert_int_equal(counter_named("flow_bytes_prelude") - before, bytes[mode]);
		rig_free(r);
	}
}

static void test_prelude_has_its_own_times(void **state)
{
	struct rig *r = rig_for(NULL, PRELUDE_KEEP);

	(void)state;
	feed_pop3(r, 1);
	feed_open(r, 1, SERVER, EXACT_ISN);
	drain(r);
	assert_int_equal(r->n_told, 4);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(r->told[i + 1].data.ts_ns, NOW_NS + i + WALL_NS);
	assert_int_equal(r->told[1].data.dir, FLOW_C2S); /* what a server receives */
	rig_free(r);
}

static void test_prelude_of_an_unwanted_flow_is_dropped(void **state)
{
	struct rig *r = rig_with("not port 443");
	uint64_t filtered = counter_named("flow_bytes_filtered");

	(void)state;
	feed_pop3(r, 1);
	feed_open(r, 1, CLIENT, EXACT_ISN);
	feed_data(r, 1, SSLC_DIR_OUT, 0, "USER");
	assert_string_equal(story(r), "");
	assert_int_equal(counter_named("flow_bytes_filtered") - filtered, 19 + 4);
	assert_int_equal(counter_named("flow_bytes_prelude_held"), 0);
	rig_free(r);
}

static void test_second_end_drops_its_prelude_too(void **state)
{
	struct rig *r = rig_with(NULL);
	struct sslc_ev_open ev = an_open(r, 1, CLIENT, EXACT_ISN), other = other_end(ev, 2);

	(void)state;
	feed_pop3(r, 1);
	feed_pop3(r, 2);
	feed(r, &ev, sizeof(ev));
	feed(r, &other, sizeof(other));
	assert_string_equal(story(r), "open1 s2c@0:+OK hi\n!");
	assert_int_equal(counter_named("flow_bytes_prelude_held"), 0);
	rig_free(r);
}

static void test_plain_connection_is_forgotten_at_its_end(void **state)
{
	struct rig *r = rig_with(NULL);

	(void)state;
	feed_pop3(r, 1);
	assert_int_equal(counter_named("flow_bytes_prelude_held"), 19);
	feed_sock(r, 1, SSLC_SOCK_DESTROYED);
	assert_int_equal(counter_named("flow_bytes_prelude_held"), 0);
	feed_open(r, 1, CLIENT, EXACT_ISN);
	assert_string_equal(story(r), "open1");
	rig_free(r);
}

static void test_prelude_waits_until_a_candidate_is_bound(void **state)
{
	struct rig *r = rig_with(NULL);

	(void)state;
	feed_pop3(r, 1);
	feed_open(r, 1, CLIENT, EXACT_ISN | SSLC_OPEN_CANDIDATE);
	assert_string_equal(story(r), "");
	feed_data(r, 1, SSLC_DIR_OUT, 0, "USER");
	assert_string_equal(story(r), "open1 s2c@0:+OK hi\n! c2s@0:USER!");
	rig_free(r);
}

static void test_clear_bytes_after_tls_began_are_counted(void **state)
{
	struct rig *r = rig_open(CLIENT);
	uint64_t late = counter_named("flow_bytes_lost_late"),
		 bad = counter_named("flow_events_malformed");

	(void)state;
	feed_clear(r, 1, SSLC_DIR_OUT, 0, "x", 1);
	assert_string_equal(story(r), "");
	assert_int_equal(counter_named("flow_bytes_lost_late") - late, 1);
	feed_clear(r, 0, SSLC_DIR_OUT, 0, "x", 1);
	assert_int_equal(counter_named("flow_events_malformed") - bad, 1);
	rig_free(r);
}

static void feed_mysql(struct rig *r)
{
	static const char greeting[] = "\x20\0\0\0\x0a"
				       "5.7.1\0"
				       "\x01\0\0\0saltsalt\0\xff\xff\x21\x02\0rest...";
	static const char request[] =
		"\x20\0\0\x01\x05\xae\x3f\0\0\0\0\x01\x21......................";

	feed_clear(r, 1, SSLC_DIR_IN, 0, greeting, sizeof(greeting) - 1);
	feed_clear(r, 1, SSLC_DIR_OUT, 0, request, sizeof(request));
	feed_open(r, 1, CLIENT, EXACT_ISN);
}

static void test_mysql_inside_goes_on_where_the_greeting_ends(void **state)
{
	struct rig *r = rig_with(NULL);

	(void)state;
	feed_mysql(r);
	feed_bytes(r, 1, &conn_a, SSLC_DIR_OUT, 0, "\x05\0\0\x02\x01\xff\x03\x04u", 9, 0);
	feed_bytes(r, 1, &conn_a, SSLC_DIR_IN, 0, "\x01\0\0\x03\0", 5, 0);
	feed_bytes(r, 1, &conn_a, SSLC_DIR_OUT, 9, "\x01\0\0\0\x0e", 5, 0);
	drain(r);
	assert_int_equal(r->n_told, 5);
	assert_memory_equal(r->told[2].raw, "\x05\0\0\x01\x01\xf7\x03\x04u", 9);
	assert_memory_equal(r->told[3].raw, "\x01\0\0\x02\0", 5);
	assert_memory_equal(r->told[4].raw, "\x01\0\0\0\x0e", 5);
	rig_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_open_of_a_client_names_it_first),
		cmocka_unit_test(test_open_of_a_server_names_the_remote_first),
		cmocka_unit_test(test_comm_without_terminator_ends_at_16),
		cmocka_unit_test(test_session_id_is_the_hash_of_the_connection),
		cmocka_unit_test(test_session_id_of_ipv6_covers_all_of_the_address),
		cmocka_unit_test(test_session_id_without_isn_is_the_agents_own),
		cmocka_unit_test(test_unknown_role_follows_the_listener_then_the_lower_port),
		cmocka_unit_test(test_a_socket_that_carried_more_than_was_captured),
		cmocka_unit_test(test_connections_of_a_process_without_probes_end_where_they_were),
		cmocka_unit_test(test_what_happened_before_the_probes_were_taken_off_is_told),
		cmocka_unit_test(test_what_began_while_there_were_no_probes_is_never_told),
		cmocka_unit_test(test_nothing_is_matched_to_what_began_without_probes),
		cmocka_unit_test(test_other_processes_are_told_while_one_has_no_probes),
		cmocka_unit_test(test_a_gap_explains_what_the_socket_carried),
		cmocka_unit_test(test_filtered_flow_is_skipped_and_its_bytes_are_counted),
		cmocka_unit_test(test_second_end_stands_by_when_the_client_came_first),
		cmocka_unit_test(test_second_end_stands_by_when_the_server_came_first),
		cmocka_unit_test(test_same_tuple_with_other_sequence_numbers_is_another_connection),
		cmocka_unit_test(test_connection_is_mirrored_again_after_its_speaker_is_gone),
		cmocka_unit_test(test_client_sends_towards_the_server),
		cmocka_unit_test(test_server_sends_towards_the_client),
		cmocka_unit_test(test_offsets_count_each_direction_and_boundaries_stay),
		cmocka_unit_test(test_long_event_is_cut_with_one_boundary),
		cmocka_unit_test(test_jump_is_told_as_a_gap_of_its_exact_size),
		cmocka_unit_test(test_bytes_are_told_once_when_the_position_steps_back),
		cmocka_unit_test(test_positions_at_the_end_of_the_range_break_no_frame),
		cmocka_unit_test(test_held_bytes_come_first_after_bind),
		cmocka_unit_test(test_hole_among_held_bytes_is_told_as_a_gap),
		cmocka_unit_test(test_held_bytes_of_an_unknown_flow_are_counted),
		cmocka_unit_test(test_held_bytes_expire_and_are_counted),
		cmocka_unit_test(test_tick_moves_the_wall_clock),
		cmocka_unit_test(test_remote_fin_waits_until_the_process_has_read_it),
		cmocka_unit_test(test_remote_fin_is_told_before_the_local_one_that_followed_it),
		cmocka_unit_test(test_bytes_read_after_both_fins_are_told_before_them),
		cmocka_unit_test(test_unbound_bytes_that_were_not_held_are_a_gap),
		cmocka_unit_test(test_remote_fin_is_told_at_destruction_at_the_latest),
		cmocka_unit_test(test_end_of_file_alone_is_the_remote_fin),
		cmocka_unit_test(test_bytes_between_closed_and_destroyed_are_told),
		cmocka_unit_test(test_bytes_after_the_told_end_are_counted),
		cmocka_unit_test(test_reset_by_the_peer_waits_for_the_failed_read),
		cmocka_unit_test(test_reset_by_the_peer_is_told_at_destruction),
		cmocka_unit_test(test_end_of_file_after_a_reset_is_no_fin),
		cmocka_unit_test(test_records_made_after_the_break_are_not_told),
		cmocka_unit_test(test_what_was_sent_before_the_break_is_told_after_it),
		cmocka_unit_test(test_a_record_told_in_vain_is_counted),
		cmocka_unit_test(test_a_record_lost_in_vain_is_counted),
		cmocka_unit_test(test_failed_read_alone_ends_nothing),
		cmocka_unit_test(test_reset_by_this_end_is_told_at_once_and_once),
		cmocka_unit_test(test_reset_by_this_end_overtakes_a_held_end),
		cmocka_unit_test(test_held_ends_are_told_when_the_grace_is_over),
		cmocka_unit_test(test_close_all_settles_held_ends_and_closes_the_rest),
		cmocka_unit_test(test_malformed_events_are_counted_and_ignored),
		cmocka_unit_test(test_events_of_unknown_flows_tell_nothing),
		cmocka_unit_test(test_free_with_open_flows_and_held_bytes_leaks_nothing),
		cmocka_unit_test(test_accepted_early_bytes_come_first_and_once),
		cmocka_unit_test(test_rejected_early_bytes_are_not_told_and_leave_no_hole),
		cmocka_unit_test(test_early_rejection_before_the_handshake_is_over_is_not_final),
		cmocka_unit_test(test_early_bytes_of_a_client_that_never_asks),
		cmocka_unit_test(test_early_bytes_are_told_before_an_end),
		cmocka_unit_test(test_early_bytes_may_wait_for_their_connection_first),
		cmocka_unit_test(test_early_bytes_lost_in_the_kernel_are_a_gap_when_accepted),
		cmocka_unit_test(test_early_bytes_beyond_what_is_held_are_a_gap_when_accepted),
		cmocka_unit_test(test_bytes_that_only_the_kernel_saw_are_a_gap_of_their_size),
		cmocka_unit_test(test_gap_in_an_impossible_place_is_counted_and_not_told),
		cmocka_unit_test(test_what_was_lost_at_the_end_is_a_gap_before_it),
		cmocka_unit_test(test_losses_in_an_impossible_place_are_not_told),
		cmocka_unit_test(test_bytes_go_on_behind_what_was_lost),
		cmocka_unit_test(test_account_of_a_flow_counts_what_was_told),
		cmocka_unit_test(test_account_of_a_flow_left_out_says_why),
		cmocka_unit_test(test_account_of_an_inferred_role_and_of_a_late_start),
		cmocka_unit_test(test_account_of_bytes_that_found_no_flow),
		cmocka_unit_test(test_a_matched_connection_is_told_with_what_was_held),
		cmocka_unit_test(test_a_matched_connection_with_an_inferred_role_says_so),
		cmocka_unit_test(test_the_ends_of_a_candidate_are_told_after_its_bytes),
		cmocka_unit_test(test_a_candidate_without_an_object_is_counted),
		cmocka_unit_test(test_the_filter_judges_a_candidate_when_it_is_matched),
		cmocka_unit_test(test_bytes_that_refute_a_match_are_not_told),
		cmocka_unit_test(test_held_bytes_that_expired_are_a_gap_when_matched),
		cmocka_unit_test(test_the_kernel_goes_on_where_the_match_stopped),
		cmocka_unit_test(test_the_kernel_takes_a_connection_from_a_wrong_object),
		cmocka_unit_test(test_a_gap_of_a_candidate_makes_it_exact),
		cmocka_unit_test(test_operations_of_unannounced_connections_bind_nothing),
		cmocka_unit_test(test_broken_wire_events_are_counted),
		cmocka_unit_test(test_a_candidate_has_an_account_and_nothing_else),
		cmocka_unit_test(test_account_of_a_candidate_that_is_bound_later),
		cmocka_unit_test(test_what_was_said_before_tls_goes_first),
		cmocka_unit_test(test_prelude_has_its_own_times),
		cmocka_unit_test(test_prelude_of_an_unwanted_flow_is_dropped),
		cmocka_unit_test(test_second_end_drops_its_prelude_too),
		cmocka_unit_test(test_plain_connection_is_forgotten_at_its_end),
		cmocka_unit_test(test_prelude_waits_until_a_candidate_is_bound),
		cmocka_unit_test(test_clear_bytes_after_tls_began_are_counted),
		cmocka_unit_test(test_mysql_inside_goes_on_where_the_greeting_ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
