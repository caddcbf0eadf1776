/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gnutlsx: TLS connections of GnuTLS, with the difficult ways to call it.
 * gnutlsx server|client ADDR PORT CERT KEY SENDSPEC RECVTOTAL [OPTION...]
 * SENDSPEC: SIZE[xCOUNT],…  one call for each; "-" none. The client sends first and then receives;
 * with `nonblock` both do both at once. Prints for each connection "sent N SHA256", "got N SHA256",
 * "port P" and how often a call had to be repeated. Counts only what the library says it took.
 *   nonblock  the sockets never wait                      tiny    small socket buffers
 *   null      resume with (NULL, 0); what was given first is overwritten before
 *   cork      the calls of ten sizes go out together      file    gnutls_record_send_file
 *   range     gnutls_record_send_range                    pad     gnutls_record_send2 with padding
 *   packet    gnutls_record_recv_packet                   seq     gnutls_record_recv_seq
 *   push      push and pull functions of its own          bytes   receive one byte, then what is
 * left rekey     key updates, asked of the peer too          again   rehandshakes (TLS 1.2) reauth
 * the server asks for authentication later    half    the client ends its direction first early a
 * second connection with 0-RTT data         reject  the server does not take those silent    the
 * client does not ask what became of them dtls    over UDP tls12     no newer version than that
 */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <gnutls/dtls.h>
#include <gnutls/gnutls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define BIG   (8u << 20)
#define EARLY 5000 /* bytes */

enum {
	NONBLOCK = 1 << 0,
	TINY = 1 << 1,
	NOTHING = 1 << 2,
	CORK = 1 << 3,
	SEND_FILE = 1 << 4,
	RANGE = 1 << 5,
	PAD = 1 << 6,
	PACKET = 1 << 7,
	SEQ = 1 << 8,
	PUSH = 1 << 9,
	BYTES = 1 << 10,
	REKEY = 1 << 11,
	AGAIN = 1 << 12,
	REAUTH = 1 << 13,
	HALF = 1 << 14,
	WITH_EARLY = 1 << 15,
	REJECT = 1 << 16,
	SILENT = 1 << 17,
	DTLS = 1 << 18,
	TLS12 = 1 << 19,
};

static const char *const option_names[] = {"nonblock", "tiny",   "null",   "cork",   "file",
					   "range",    "pad",    "packet", "seq",    "push",
					   "bytes",    "rekey",  "again",  "reauth", "half",
					   "early",    "reject", "silent", "dtls",   "tls12"};

struct job {
	size_t size, count;
};

struct half {
	gnutls_hash_hd_t md;
	size_t total;
};

/* One connection. */
struct conn {
	gnutls_session_t s;
	int fd;
	struct half sent, got;
	size_t calls; /* of either kind, since the last change of keys */
};

static unsigned opts;
static bool is_server;
static struct job jobs[64];
static size_t n_jobs, n_retries, n_resumed;
static uint64_t prng = 88172645463325252ull;
static gnutls_certificate_credentials_t cred;
static gnutls_datum_t ticket_key, session_data;
static gnutls_anti_replay_t anti_replay;

static void die(const char *what, int err)
{
	fprintf(stderr, "gnutlsx: %s: %s\n", what, err ? gnutls_strerror(err) : strerror(errno));
	exit(1);
}

static void need(const char *what, int ret)
{
	if (ret < 0)
		die(what, ret);
}

static uint8_t next_byte(void)
{
	prng ^= prng << 13;
	prng ^= prng >> 7;
	prng ^= prng << 17;
	return (uint8_t)(prng >> 32);
}

static void read_spec(char *spec)
{
	for (char *w = strtok(spec, ","); w && *w != '-' && n_jobs < 64; w = strtok(NULL, ",")) {
		char *x = strchr(w, 'x');

		jobs[n_jobs].size = strtoull(w, NULL, 10);
		jobs[n_jobs++].count = x ? strtoull(x + 1, NULL, 10) : 1;
	}
}

static void read_options(int argc, char **argv)
{
	for (int i = 8; i < argc; i++) {
		unsigned bit = 0;

		for (unsigned n = 0; n < sizeof(option_names) / sizeof(option_names[0]); n++)
			if (!strcmp(argv[i], option_names[n]))
				bit = 1u << n;
		if (!bit)
			die(argv[i], GNUTLS_E_INVALID_REQUEST);
		opts |= bit;
	}
}

static bool is_waiting(ssize_t ret)
{
	return ret == GNUTLS_E_AGAIN || ret == GNUTLS_E_INTERRUPTED;
}

/* --- sockets ------------------------------------------------------------------------------------
 */

static socklen_t address(struct sockaddr_storage *ss, const char *addr, int port)
{
	struct sockaddr_in *v4 = (void *)ss;
	struct sockaddr_in6 *v6 = (void *)ss;

	memset(ss, 0, sizeof(*ss));
	if (inet_pton(AF_INET, addr, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons((uint16_t)port);
		return sizeof(*v4);
	}
	if (inet_pton(AF_INET6, addr, &v6->sin6_addr) != 1)
		die("address", 0);
	v6->sin6_family = AF_INET6;
	v6->sin6_port = htons((uint16_t)port);
	return sizeof(*v6);
}

static void shrink(int fd)
{
	int n = 4096;

	if (!(opts & TINY))
		return;
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &n, sizeof(n));
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &n, sizeof(n));
}

static int listen_on(const char *addr, int port)
{
	struct sockaddr_storage ss;
	socklen_t len = address(&ss, addr, port);
	int fd = socket(ss.ss_family, opts & DTLS ? SOCK_DGRAM : SOCK_STREAM, 0), one = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	shrink(fd);
	if (fd < 0 || bind(fd, (struct sockaddr *)&ss, len) || (!(opts & DTLS) && listen(fd, 2)))
		die("listen", 0);
	puts("listening");
	fflush(stdout);
	return fd;
}

static int accept_on(int lfd)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	char byte;
	int fd;

	if (opts & DTLS) { /* whoever speaks first is the peer */
		if (recvfrom(lfd, &byte, 1, MSG_PEEK, (struct sockaddr *)&ss, &len) < 0 ||
		    connect(lfd, (struct sockaddr *)&ss, len))
			die("first datagram", 0);
		return lfd;
	}
	fd = accept(lfd, NULL, NULL);
	if (fd < 0)
		die("accept", 0);
	shrink(fd);
	return fd;
}

static int connect_to(const char *addr, int port)
{
	struct sockaddr_storage ss;
	socklen_t len = address(&ss, addr, port);
	int fd = socket(ss.ss_family, opts & DTLS ? SOCK_DGRAM : SOCK_STREAM, 0), one = 1;

	shrink(fd);
	if (fd < 0 || connect(fd, (struct sockaddr *)&ss, len))
		die("connect", 0);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

static int client_port(int fd)
{
	struct sockaddr_storage ss = {0};
	socklen_t len = sizeof(ss);

	if (is_server)
		getpeername(fd, (struct sockaddr *)&ss, &len);
	else
		getsockname(fd, (struct sockaddr *)&ss, &len);
	return ntohs(((struct sockaddr_in *)&ss)->sin_port); /* same place in sockaddr_in6 */
}

static ssize_t push(gnutls_transport_ptr_t p, const void *data, size_t len)
{
	return send(((struct conn *)p)->fd, data, len, MSG_NOSIGNAL);
}

static ssize_t pull(gnutls_transport_ptr_t p, void *data, size_t len)
{
	return recv(((struct conn *)p)->fd, data, len, 0);
}

/* --- sessions -----------------------------------------------------------------------------------
 */

static int any_certificate(gnutls_session_t s)
{
	(void)s;
	return 0;
}

static int remember_session(gnutls_session_t s, unsigned type, unsigned when, unsigned in,
			    const gnutls_datum_t *msg)
{
	(void)type, (void)in, (void)msg;
	if (!is_server && when == GNUTLS_HOOK_POST && !session_data.data)
		need("session data", gnutls_session_get_data2(s, &session_data));
	return 0;
}

static unsigned session_flags(bool second)
{
	unsigned f = is_server ? GNUTLS_SERVER : GNUTLS_CLIENT;

	if (opts & DTLS)
		f |= GNUTLS_DATAGRAM;
	if (opts & NONBLOCK)
		f |= GNUTLS_NONBLOCK;
	if (opts & REAUTH)
		f |= GNUTLS_POST_HANDSHAKE_AUTH;
	if (opts & WITH_EARLY && is_server && !(second && opts & REJECT))
		f |= GNUTLS_ENABLE_EARLY_DATA;
	return f;
}

static void session_for_early(struct conn *c, bool second)
{
	if (!(opts & WITH_EARLY))
		return;
	gnutls_handshake_set_hook_function(c->s, GNUTLS_HANDSHAKE_NEW_SESSION_TICKET,
					   GNUTLS_HOOK_POST, remember_session);
	if (is_server) {
		need("tickets", gnutls_session_ticket_enable_server(c->s, &ticket_key));
		gnutls_anti_replay_enable(c->s, anti_replay);
		need("early size", gnutls_record_set_max_early_data_size(c->s, 16384));
	} else if (second) {
		need("resume", gnutls_session_set_data(c->s, session_data.data, session_data.size));
	}
}

static void session_open(struct conn *c, int fd, bool second)
{
	const char *prio = opts & TLS12  ? "NORMAL:-VERS-TLS-ALL:+VERS-TLS1.2"
			   : opts & DTLS ? "NORMAL"
					 : "NORMAL:-VERS-TLS-ALL:+VERS-TLS1.3";

	c->fd = fd;
	need("init", gnutls_init(&c->s, session_flags(second)));
	need("priority", gnutls_priority_set_direct(c->s, prio, NULL));
	need("credentials", gnutls_credentials_set(c->s, GNUTLS_CRD_CERTIFICATE, cred));
	gnutls_hash_init(&c->sent.md, GNUTLS_DIG_SHA256);
	gnutls_hash_init(&c->got.md, GNUTLS_DIG_SHA256);
	if (opts & PUSH) {
		gnutls_transport_set_ptr(c->s, c);
		gnutls_transport_set_push_function(c->s, push);
		gnutls_transport_set_pull_function(c->s, pull);
	} else {
		gnutls_transport_set_int(c->s, fd);
	}
	if (!is_server)
		gnutls_server_name_set(c->s, GNUTLS_NAME_DNS, "mirror.test", 11);
	session_for_early(c, second);
}

static void shake(struct conn *c)
{
	int ret;

	do
		ret = gnutls_handshake(c->s);
	while (ret < 0 && !gnutls_error_is_fatal(ret));
	need("handshake", ret);
}

static void wait_for(struct conn *c, bool more_out)
{
	struct pollfd p = {.fd = c->fd, .events = (short)(POLLIN | (more_out ? POLLOUT : 0))};

	if (poll(&p, 1, 20000) == 0)
		die("nothing for 20 s", GNUTLS_E_TIMEDOUT);
}

static void authenticate(struct conn *c)
{
	int ret;

	while ((ret = gnutls_reauth(c->s, 0)) < 0) {
		if (!is_waiting(ret) && ret != GNUTLS_E_GOT_APPLICATION_DATA)
			die("reauth", ret);
		if (opts & NONBLOCK)
			wait_for(c, false);
	}
}

/* --- calls --------------------------------------------------------------------------------------
 */

static void count(struct half *h, const uint8_t *p, size_t n)
{
	if (n)
		gnutls_hash(h->md, p, n);
	h->total += n;
}

static void tell(const char *what, struct half *h)
{
	uint8_t out[32];

	gnutls_hash_deinit(h->md, out);
	printf("%s %zu ", what, h->total);
	for (int i = 0; i < 32; i++)
		printf("%02x", out[i]);
	putchar('\n');
}

static ssize_t send_range(struct conn *c, const uint8_t *p, size_t len)
{
	size_t n = len < 50000 ? len : 50000;
	gnutls_range_st r = {.low = n, .high = n + 1000};

	return gnutls_record_send_range(c->s, p, n, &r);
}

/*
 * The bytes lie in a file of the kernel's; how far it came, its offset says. Looked up by name: the
 * program has to start with libraries that do not have it (before 3.7.4).
 */
static ssize_t send_file(struct conn *c, const uint8_t *p, size_t len)
{
	ssize_t (*send_it)(gnutls_session_t, int, off_t *, size_t) =
		dlsym(RTLD_DEFAULT, "gnutls_record_send_file");
	int fd = memfd_create("gnutlsx", 0);
	off_t at = 0;
	ssize_t ret;

	if (!send_it)
		die("gnutls_record_send_file", GNUTLS_E_UNIMPLEMENTED_FEATURE);
	if (fd < 0 || write(fd, p, len) != (ssize_t)len || lseek(fd, 0, SEEK_SET))
		die("memfd", 0);
	do
		ret = send_it(c->s, fd, &at, len - (size_t)at);
	while (is_waiting(ret) && ++n_retries && (wait_for(c, true), true));
	close(fd);
	return ret < 0 ? ret : at;
}

static ssize_t send_once(struct conn *c, const uint8_t *p, size_t len)
{
	if (opts & RANGE)
		return send_range(c, p, len);
	if (opts & SEND_FILE)
		return send_file(c, p, len);
	if (opts & PAD)
		return gnutls_record_send2(c->s, p, len, len < 16000 ? len % 200 : 0, 0);
	return gnutls_record_send(c->s, p, len);
}

/*
 * The library has made a record of the first bytes, and takes no others before that has gone: what
 * it was given is overwritten, so whoever looks there later finds something else.
 */
static ssize_t send_resumed(struct conn *c, const uint8_t *p, size_t len)
{
	uint8_t *copy = malloc(len);
	ssize_t ret;

	memcpy(copy, p, len);
	ret = gnutls_record_send(c->s, copy, len);
	memset(copy, 0xee, len);
	free(copy);
	while (is_waiting(ret)) {
		n_retries++;
		n_resumed++;
		wait_for(c, true);
		ret = gnutls_record_send(c->s, NULL, 0);
	}
	return ret;
}

static void uncork(struct conn *c)
{
	int ret;

	while ((ret = gnutls_record_uncork(c->s, opts & NONBLOCK ? 0 : GNUTLS_RECORD_WAIT)) < 0) {
		if (!is_waiting(ret))
			die("uncork", ret);
		n_retries++;
		wait_for(c, true);
	}
}

static void change_keys(struct conn *c)
{
	int ret;

	if (!(opts & REKEY) || ++c->calls % 20 || c->calls > 100) /* more are taken for an attack */
		return;
	do
		ret = gnutls_session_key_update(c->s, c->calls % 40 ? 0 : GNUTLS_KU_PEER);
	while (is_waiting(ret));
	need("key update", ret);
}

/* Bytes taken, 0 when it has to be repeated. */
static size_t write_some(struct conn *c, const uint8_t *p, size_t len)
{
	ssize_t n;

	change_keys(c);
	n = opts & NOTHING ? send_resumed(c, p, len) : send_once(c, p, len);
	if (n >= 0)
		return (size_t)n;
	if (!is_waiting(n))
		die("send", (int)n);
	n_retries++;
	return 0;
}

static ssize_t receive_packet(struct conn *c, uint8_t *p, size_t room)
{
	gnutls_packet_t packet = NULL;
	gnutls_datum_t d = {0};
	ssize_t n = gnutls_record_recv_packet(c->s, &packet);

	if (n <= 0)
		return n;
	gnutls_packet_get(packet, &d, NULL);
	if (d.size != (size_t)n || d.size > room)
		die("packet", GNUTLS_E_INTERNAL_ERROR);
	memcpy(p, d.data, d.size);
	gnutls_packet_deinit(packet);
	return n;
}

static ssize_t receive(struct conn *c, uint8_t *p, size_t len, size_t room)
{
	unsigned char seq[8];
	size_t left;

	if (opts & PACKET)
		return receive_packet(c, p, room);
	if (opts & SEQ)
		return gnutls_record_recv_seq(c->s, p, len, seq);
	if (opts & BYTES) {
		left = gnutls_record_check_pending(c->s);
		return gnutls_record_recv(c->s, p, left ? left : 1);
	}
	return gnutls_record_recv(c->s, p, len);
}

/* Bytes read, 0 when none are there now, -1 at the end. */
static ssize_t read_some(struct conn *c, uint8_t *p, size_t len, size_t room)
{
	ssize_t n = receive(c, p, len, room);

	if (n > 0)
		return n;
	if (n == 0)
		return -1;
	if (n == GNUTLS_E_REAUTH_REQUEST)
		authenticate(c);
	else if (n == GNUTLS_E_REHANDSHAKE && (opts & AGAIN))
		shake(c);
	else if (!is_waiting(n))
		die("receive", (int)n);
	n_retries++;
	return 0;
}

/* --- the exchange -------------------------------------------------------------------------------
 */

/* The current call's buffer: fresh bytes for every call, sent from `done` onwards. */
struct out {
	uint8_t *buf;
	size_t job, turn, len, done;
};

static bool next_call(struct out *o)
{
	while (o->job < n_jobs && o->turn == jobs[o->job].count) {
		o->job++;
		o->turn = 0;
	}
	if (o->job == n_jobs)
		return false;
	o->turn++;
	o->len = jobs[o->job].size;
	o->done = 0;
	for (size_t i = 0; i < o->len; i++)
		o->buf[i] = next_byte();
	return true;
}

static uint8_t in[70000];

static void move_both(struct conn *c, size_t expect)
{
	struct out o = {.buf = malloc(BIG)};
	bool more = next_call(&o);

	fcntl(c->fd, F_SETFL, O_NONBLOCK);
	while (more || c->got.total < expect) {
		size_t w = more ? write_some(c, o.buf + o.done, o.len - o.done) : 0;
		ssize_t r = 0;

		if (c->got.total < expect)
			r = read_some(c, in, 1 + c->got.total % sizeof(in), sizeof(in));
		if (r < 0)
			die("peer left early", GNUTLS_E_PREMATURE_TERMINATION);
		count(&c->got, in, (size_t)r);
		count(&c->sent, o.buf + o.done, w);
		o.done += w;
		if (more && o.done == o.len)
			more = next_call(&o);
		if (!w && !r)
			wait_for(c, more);
	}
	fcntl(c->fd, F_SETFL, 0);
	free(o.buf);
}

static void send_all(struct conn *c)
{
	struct out o = {.buf = malloc(BIG)};
	size_t calls = 0;

	if (opts & CORK && opts & NONBLOCK)
		fcntl(c->fd, F_SETFL, O_NONBLOCK);
	while (next_call(&o)) {
		while (o.done < o.len) {
			size_t w;

			if (opts & CORK && calls % 10 == 0)
				gnutls_record_cork(c->s);
			w = write_some(c, o.buf + o.done, o.len - o.done);
			count(&c->sent, o.buf + o.done, w);
			o.done += w;
			if (opts & CORK && calls++ % 10 == 9)
				uncork(c);
		}
	}
	if (opts & CORK)
		uncork(c);
	fcntl(c->fd, F_SETFL, 0);
	free(o.buf);
}

static void receive_all(struct conn *c, size_t expect)
{
	while (c->got.total < expect) {
		ssize_t r = read_some(c, in, 1 + c->got.total % sizeof(in), sizeof(in));

		if (r < 0)
			die("peer left early", GNUTLS_E_PREMATURE_TERMINATION);
		count(&c->got, in, (size_t)r);
	}
}

/* The client has sent all, and waits. */
static void ask_again(struct conn *c)
{
	if (opts & REAUTH) {
		gnutls_certificate_server_set_request(c->s, GNUTLS_CERT_REQUEST);
		authenticate(c);
	} else if (opts & AGAIN) {
		need("rehandshake", gnutls_rehandshake(c->s));
		shake(c);
	}
}

static void expect_end(struct conn *c)
{
	uint8_t end;
	ssize_t n;

	while ((n = read_some(c, &end, 1, 1)) == 0)
		wait_for(c, false);
	if (n > 0)
		die("more than expected", GNUTLS_E_INTERNAL_ERROR);
}

static void talk(struct conn *c, size_t expect)
{
	if (opts & NONBLOCK && !(opts & CORK)) {
		move_both(c, expect);
	} else if (is_server) {
		receive_all(c, expect);
		ask_again(c);
		if (opts & HALF)
			expect_end(c);
		send_all(c);
	} else {
		send_all(c);
		if (opts & HALF)
			need("bye", gnutls_bye(c->s, GNUTLS_SHUT_WR));
		receive_all(c, expect);
	}
}

/* 0-RTT: what the server takes of it is not sent again. */
static void send_early(struct conn *c, uint8_t data[EARLY])
{
	for (size_t i = 0; i < EARLY; i++)
		data[i] = next_byte();
	need("early data", (int)gnutls_record_send_early_data(c->s, data, EARLY));
}

static void early_sent(struct conn *c, const uint8_t data[EARLY])
{
	bool taken = !(opts & REJECT);

	if (!(opts & SILENT))
		taken = gnutls_session_get_flags(c->s) & GNUTLS_SFLAGS_EARLY_DATA;
	printf("early %s\n", taken ? "taken" : "rejected");
	for (size_t done = 0; !taken && done < EARLY;)
		done += write_some(c, data + done, EARLY - done);
	count(&c->sent, data, EARLY);
}

static void early_got(struct conn *c)
{
	ssize_t n;

	while ((n = gnutls_record_recv_early_data(c->s, in, 700)) > 0)
		count(&c->got, in, (size_t)n);
	if (n < 0 && n != GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE)
		die("early data", (int)n);
}

static void converse(int fd, size_t expect, bool second)
{
	uint8_t early[EARLY];
	struct conn c = {0};
	int port = client_port(fd);

	session_open(&c, fd, second);
	if (second && !is_server)
		send_early(&c, early);
	shake(&c);
	if (second && is_server)
		early_got(&c);
	else if (second)
		early_sent(&c, early);
	talk(&c, expect + (second && is_server ? EARLY : 0));
	/* The client waits for the server's goodbye: nothing is left unread at close. */
	if (!is_server && !(opts & HALF))
		gnutls_bye(c.s, GNUTLS_SHUT_WR);
	if (opts & DTLS) {
		gnutls_bye(c.s, GNUTLS_SHUT_WR);
	} else if (is_server) {
		if (!(opts & HALF))
			expect_end(&c);
		gnutls_bye(c.s, GNUTLS_SHUT_WR);
	} else {
		expect_end(&c);
	}
	tell("sent", &c.sent);
	tell("got", &c.got);
	printf("port %d\nretries %zu resumed %zu\n", port, n_retries, n_resumed);
	gnutls_deinit(c.s);
	close(fd);
}

static int no_replays(void *ctx, time_t expires, const gnutls_datum_t *key,
		      const gnutls_datum_t *data)
{
	(void)ctx, (void)expires, (void)key, (void)data;
	return 0;
}

static void credentials(const char *cert, const char *key)
{
	need("credentials", gnutls_certificate_allocate_credentials(&cred));
	gnutls_certificate_set_verify_function(cred, any_certificate);
	if (is_server || opts & REAUTH)
		need("certificate",
		     gnutls_certificate_set_x509_key_file(cred, cert, key, GNUTLS_X509_FMT_PEM));
	if (!is_server || !(opts & WITH_EARLY))
		return;
	need("ticket key", gnutls_session_ticket_key_generate(&ticket_key));
	need("anti-replay", gnutls_anti_replay_init(&anti_replay));
	gnutls_anti_replay_set_add_function(anti_replay, no_replays);
	gnutls_anti_replay_set_window(anti_replay, 10000);
}

int main(int argc, char **argv)
{
	int port, lfd = -1, turns;
	size_t expect;

	if (argc < 8)
		return 2;
	is_server = !strcmp(argv[1], "server");
	read_options(argc, argv);
	read_spec(argv[6]);
	port = atoi(argv[3]);
	expect = strtoull(argv[7], NULL, 10);
	turns = opts & WITH_EARLY ? 2 : 1;
	if (is_server)
		prng ^= 0x9e3779b97f4a7c15ull;
	credentials(argv[4], argv[5]);
	if (is_server)
		lfd = listen_on(argv[2], port);
	for (int i = 0; i < turns; i++)
		converse(is_server ? accept_on(lfd) : connect_to(argv[2], port), expect, i == 1);
	return 0;
}
