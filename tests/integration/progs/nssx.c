/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nssx: one TLS connection of NSS, with the difficult ways to call it.
 * nssx server|client ADDR PORT DBDIR SENDSPEC RECVTOTAL [OPTION...]
 * SENDSPEC: SIZE[xCOUNT],…  one call for each; "-" none. The client sends first and then receives;
 * with `nonblock` both do both at once. Prints "sent N SHA256", "got N SHA256", "port P". Counts
 * only what the library says it took. Options:
 *   nonblock  the sockets never wait; PR_Poll does         tiny    small socket buffers
 *   rw        PR_Read and PR_Write for PR_Recv, PR_Send    peek    PR_MSG_PEEK before each receive
 *   writev    three vectors for each call                  file    PR_TransmitFile for each call
 *   half      the client ends its direction, the server answers only then
 *   twice     the descriptor is imported over a model of its own
 *   plain     no TLS: a bare NSPR socket                   off     a TLS descriptor, TLS disabled
 *   wait      before the second half of the sizes: "waiting", then a line is read from stdin
 *   ones      receive byte by byte                         tls12   no newer version than that
 */
#include <cert.h>
#include <nss.h>
#include <pk11pub.h>
#include <prerror.h>
#include <prinit.h>
#include <prio.h>
#include <prnetdb.h>
#include <sechash.h>
#include <ssl.h>
#include <sslproto.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BIG (8u << 20)

enum {
	NONBLOCK = 1,
	TINY = 2,
	RW = 4,
	PEEK = 8,
	WRITEV = 16,
	SENDFILE = 32,
	HALF = 64,
	TWICE = 128,
	PLAIN = 256,
	OFF = 512,
	WAIT = 1024,
	ONES = 2048,
	TLS12 = 4096,
};

struct job {
	size_t size, count;
};

static unsigned opts;
static bool is_server;
static struct job jobs[64];
static size_t n_jobs, n_retries, n_peeked;
static uint64_t prng = 88172645463325252ull;

static void die(const char *what)
{
	fprintf(stderr, "nssx: %s: error %d\n", what, PR_GetError());
	exit(1);
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
	static const char *const names[] = {"nonblock", "tiny", "rw",    "peek",  "writev",
					    "file",     "half", "twice", "plain", "off",
					    "wait",     "ones", "tls12"};

	for (int i = 7; i < argc; i++) {
		unsigned bit = 0;

		for (unsigned n = 0; n < sizeof(names) / sizeof(names[0]); n++)
			if (!strcmp(argv[i], names[n]))
				bit = 1u << n;
		if (!bit)
			die(argv[i]);
		opts |= bit;
	}
}

/* --- connection ---------------------------------------------------------------------------------
 */

static void set_option(PRFileDesc *fd, PRSockOption what, int value)
{
	PRSocketOptionData o = {.option = what};

	if (what == PR_SockOpt_Nonblocking || what == PR_SockOpt_Reuseaddr ||
	    what == PR_SockOpt_NoDelay)
		o.value.non_blocking = value; /* all of them are PRBool */
	else
		o.value.recv_buffer_size = (PRSize)value;
	if (PR_SetSocketOption(fd, &o) != PR_SUCCESS)
		die("socket option");
}

static PRFileDesc *tcp_open(const char *addr, int port)
{
	PRFileDesc *fd, *peer;
	PRNetAddr a;

	if (PR_StringToNetAddr(addr, &a) != PR_SUCCESS)
		die("address");
	PR_SetNetAddr(PR_IpAddrNull, a.raw.family, (PRUint16)port, &a);
	fd = PR_OpenTCPSocket(a.raw.family);
	if (!fd)
		die("socket");
	if (opts & TINY) {
		set_option(fd, PR_SockOpt_SendBufferSize, 4096);
		set_option(fd, PR_SockOpt_RecvBufferSize, 4096);
	}
	if (!is_server) {
		if (PR_Connect(fd, &a, PR_SecondsToInterval(10)) != PR_SUCCESS)
			die("connect");
		return fd;
	}
	set_option(fd, PR_SockOpt_Reuseaddr, 1);
	if (PR_Bind(fd, &a) != PR_SUCCESS || PR_Listen(fd, 1) != PR_SUCCESS)
		die("listen");
	puts("listening");
	fflush(stdout);
	peer = PR_Accept(fd, NULL, PR_SecondsToInterval(30));
	if (!peer)
		die("accept");
	PR_Close(fd);
	return peer;
}

static SECStatus any_certificate(void *arg, PRFileDesc *fd, PRBool check, PRBool server)
{
	(void)arg, (void)fd, (void)check, (void)server;
	return SECSuccess;
}

static void use_certificate(PRFileDesc *fd)
{
	CERTCertificate *cert = PK11_FindCertFromNickname("mirror.test", NULL);
	SECKEYPrivateKey *key = cert ? PK11_FindKeyByAnyCert(cert, NULL) : NULL;

	if (!key || SSL_ConfigServerCert(fd, cert, key, NULL, 0) != SECSuccess)
		die("certificate");
	SECKEY_DestroyPrivateKey(key);
	CERT_DestroyCertificate(cert);
}

static PRFileDesc *tls_open(PRFileDesc *fd)
{
	PRFileDesc *model = NULL;
	SSLVersionRange range = {SSL_LIBRARY_VERSION_TLS_1_2,
				 opts & TLS12 ? SSL_LIBRARY_VERSION_TLS_1_2
					      : SSL_LIBRARY_VERSION_TLS_1_3};

	if (opts & TWICE) {
		model = SSL_ImportFD(NULL, PR_NewTCPSocket());
		if (!model)
			die("model");
	}
	fd = SSL_ImportFD(model, fd);
	if (!fd)
		die("import");
	if (model)
		PR_Close(model);
	if (opts & OFF) {
		SSL_OptionSet(fd, SSL_SECURITY, PR_FALSE);
		return fd;
	}
	SSL_OptionSet(fd, SSL_SECURITY, PR_TRUE);
	SSL_OptionSet(fd, is_server ? SSL_HANDSHAKE_AS_SERVER : SSL_HANDSHAKE_AS_CLIENT, PR_TRUE);
	SSL_VersionRangeSet(fd, &range);
	SSL_AuthCertificateHook(fd, any_certificate, NULL);
	if (is_server)
		use_certificate(fd);
	SSL_SetURL(fd, "mirror.test");
	if (SSL_ResetHandshake(fd, is_server) != SECSuccess)
		die("reset handshake");
	/* else the first send or receive does it */
	if (!(opts & RW) && SSL_ForceHandshake(fd) != SECSuccess)
		die("handshake");
	return fd;
}

/* --- calls --------------------------------------------------------------------------------------
 */

static PRInt32 send_vectors(PRFileDesc *fd, uint8_t *p, size_t len)
{
	size_t third = len / 3;
	PRIOVec v[3] = {{(char *)p, (int)third},
			{(char *)p + third, (int)third},
			{(char *)p + 2 * third, (int)(len - 2 * third)}};

	return PR_Writev(fd, v, 3, PR_SecondsToInterval(20));
}

/* The first five bytes go as headers, the rest comes out of a file. */
static PRInt32 send_file(PRFileDesc *fd, const uint8_t *p, size_t len)
{
	char name[64];
	PRFileDesc *f;
	PRInt32 n, head = len > 5 ? 5 : (PRInt32)len;

	snprintf(name, sizeof(name), "nssx.%s.tmp", is_server ? "s" : "c");
	f = PR_Open(name, PR_RDWR | PR_CREATE_FILE | PR_TRUNCATE, 0600);
	if (!f || PR_Write(f, p + head, (PRInt32)len - head) != (PRInt32)len - head ||
	    PR_Seek(f, 0, PR_SEEK_SET))
		die("file");
	n = PR_TransmitFile(fd, f, p, head, PR_TRANSMITFILE_KEEP_OPEN, PR_SecondsToInterval(20));
	PR_Close(f);
	PR_Delete(name);
	return n;
}

/* Bytes taken, 0 when it has to be repeated. */
static size_t write_some(PRFileDesc *fd, uint8_t *p, size_t len)
{
	PRInt32 n;

	if (opts & RW)
		n = PR_Write(fd, p, (PRInt32)len);
	else if (opts & WRITEV)
		n = send_vectors(fd, p, len);
	else if (opts & SENDFILE)
		n = send_file(fd, p, len);
	else
		n = PR_Send(fd, p, (PRInt32)len, 0, PR_SecondsToInterval(20));
	if (n >= 0)
		return (size_t)n;
	if (PR_GetError() != PR_WOULD_BLOCK_ERROR)
		die("send");
	n_retries++;
	return 0;
}

static PRInt32 receive(PRFileDesc *fd, uint8_t *p, size_t len)
{
	static uint8_t seen[BIG];
	PRInt32 n, peeked = 0;

	if (opts & PEEK) {
		peeked = PR_Recv(fd, seen, (PRInt32)(1 + len / 2), PR_MSG_PEEK,
				 PR_SecondsToInterval(20));
		n_peeked += peeked > 0 ? (size_t)peeked : 0;
	}
	n = opts & RW ? PR_Read(fd, p, (PRInt32)len)
		      : PR_Recv(fd, p, (PRInt32)len, 0, PR_SecondsToInterval(20));
	if (n > 0 && peeked > 0 && memcmp(p, seen, (size_t)(n < peeked ? n : peeked)))
		die("peeked bytes differ");
	return n;
}

/* Bytes read, 0 when none are there now, -1 at the end. */
static ssize_t read_some(PRFileDesc *fd, uint8_t *p, size_t len)
{
	PRInt32 n = receive(fd, p, opts & ONES ? 1 : len);

	if (n > 0)
		return n;
	if (n < 0 && PR_GetError() == PR_WOULD_BLOCK_ERROR) {
		n_retries++;
		return 0;
	}
	if (n < 0)
		fprintf(stderr, "nssx: receive: error %d\n", PR_GetError());
	return -1;
}

/* --- the exchange -------------------------------------------------------------------------------
 */

struct half {
	HASHContext *md;
	size_t total;
};

static void count(struct half *h, const uint8_t *p, size_t n)
{
	HASH_Update(h->md, p, (unsigned)n);
	h->total += n;
}

static void tell(const char *what, struct half *h)
{
	uint8_t out[32];
	unsigned n;

	HASH_End(h->md, out, &n, sizeof(out));
	printf("%s %zu ", what, h->total);
	for (unsigned i = 0; i < n; i++)
		printf("%02x", out[i]);
	putchar('\n');
}

/* The current call's buffer: fresh bytes for every call, sent from `done` onwards. */
struct out {
	uint8_t *buf;
	size_t job, turn, len, done;
};

static void wait_in_the_middle(const struct out *o)
{
	char line[8];

	if (!(opts & WAIT) || o->job != n_jobs / 2 || o->turn)
		return;
	puts("waiting");
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		die("stdin");
}

static bool next_call(struct out *o)
{
	while (o->job < n_jobs && o->turn == jobs[o->job].count) {
		o->job++;
		o->turn = 0;
	}
	if (o->job == n_jobs)
		return false;
	wait_in_the_middle(o);
	o->turn++;
	o->len = jobs[o->job].size;
	o->done = 0;
	for (size_t i = 0; i < o->len; i++)
		o->buf[i] = next_byte();
	return true;
}

static void wait_for(PRFileDesc *fd, bool more_out)
{
	PRPollDesc p = {.fd = fd,
			.in_flags = (PRInt16)(PR_POLL_READ | (more_out ? PR_POLL_WRITE : 0))};

	if (PR_Poll(&p, 1, PR_SecondsToInterval(20)) == 0)
		die("nothing for 20 s");
}

static void move_both(PRFileDesc *fd, struct half *sent, struct half *got, size_t expect)
{
	static uint8_t in[70000];
	struct out o = {.buf = malloc(BIG)};
	bool more = next_call(&o);

	set_option(fd, PR_SockOpt_Nonblocking, 1);
	while (more || got->total < expect) {
		size_t w = more ? write_some(fd, o.buf + o.done, o.len - o.done) : 0;
		ssize_t r = 0;

		if (got->total < expect)
			r = read_some(fd, in, 1 + got->total % sizeof(in));
		if (r < 0)
			die("peer left early");
		count(got, in, (size_t)r);
		count(sent, o.buf + o.done, w);
		o.done += w;
		if (more && o.done == o.len)
			more = next_call(&o);
		if (!w && !r)
			wait_for(fd, more);
	}
	set_option(fd, PR_SockOpt_Nonblocking, 0);
	free(o.buf);
}

static void send_all(PRFileDesc *fd, struct half *sent)
{
	struct out o = {.buf = malloc(BIG)};

	while (next_call(&o)) {
		while (o.done < o.len) {
			size_t w = write_some(fd, o.buf + o.done, o.len - o.done);

			count(sent, o.buf + o.done, w);
			o.done += w;
		}
	}
	free(o.buf);
}

static void receive_all(PRFileDesc *fd, struct half *got, size_t expect)
{
	static uint8_t in[70000];

	while (got->total < expect) {
		ssize_t r = read_some(fd, in, 1 + got->total % sizeof(in));

		if (r < 0)
			die("peer left early");
		count(got, in, (size_t)r);
	}
}

static void talk(PRFileDesc *fd, struct half *sent, struct half *got, size_t expect)
{
	uint8_t end;

	if (opts & NONBLOCK) {
		move_both(fd, sent, got, expect);
	} else if (is_server) {
		receive_all(fd, got, expect);
		if (opts & HALF && read_some(fd, &end, 1) >= 0)
			die("the client did not end its direction");
		send_all(fd, sent);
	} else {
		send_all(fd, sent);
		if (opts & HALF && PR_Shutdown(fd, PR_SHUTDOWN_SEND) != PR_SUCCESS)
			die("shutdown");
		receive_all(fd, got, expect);
	}
	if (!is_server && !(opts & HALF) && PR_Shutdown(fd, PR_SHUTDOWN_SEND) != PR_SUCCESS)
		die("shutdown");
	if (read_some(fd, &end, 1) >= 0)
		die("more than expected");
}

static int client_port(PRFileDesc *fd)
{
	PRNetAddr a;

	if ((is_server ? PR_GetPeerName(fd, &a) : PR_GetSockName(fd, &a)) != PR_SUCCESS)
		die("name");
	return PR_ntohs(PR_NetAddrInetPort(&a));
}

int main(int argc, char **argv)
{
	struct half sent = {0}, got = {0};
	PRFileDesc *fd;
	int port;

	if (argc < 7)
		return 2;
	is_server = !strcmp(argv[1], "server");
	read_options(argc, argv);
	read_spec(argv[5]);
	if (is_server)
		prng ^= 0x9e3779b97f4a7c15ull;
	if (NSS_Init(argv[4]) != SECSuccess)
		die("NSS_Init");
	NSS_SetDomesticPolicy();
	if (is_server && SSL_ConfigServerSessionIDCache(0, 0, 0, NULL) != SECSuccess)
		die("session cache");
	sent.md = HASH_Create(HASH_AlgSHA256);
	got.md = HASH_Create(HASH_AlgSHA256);
	HASH_Begin(sent.md);
	HASH_Begin(got.md);
	fd = tcp_open(argv[2], atoi(argv[3]));
	port = client_port(fd);
	if (!(opts & PLAIN))
		fd = tls_open(fd);
	talk(fd, &sent, &got, strtoull(argv[6], NULL, 10));
	PR_Close(fd);
	tell("sent", &sent);
	tell("got", &got);
	printf("port %d\nretries %zu peeked %zu\n", port, n_retries, n_peeked);
	return 0;
}
