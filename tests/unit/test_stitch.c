/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of agent/match/stitch.c: whole conversations in, what is left of each direction is
 * compared. Conversations are written down from the RFCs' examples and from what real servers say.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "match/stitch.h"

#include "base/buf.h"

#include <stdlib.h>
#include <string.h>

struct talk {
	const char *name; /* NULL: not recognised, all stays */
	struct span client, server, client_left, server_left;
};

#define BYTES(text)                                                                                \
	{                                                                                          \
		(const uint8_t *)(text), sizeof(text) - 1                                          \
	}

/* The bytes live in exactly their own size, so that a read beyond them is seen by ASan. */
static struct stitch_side side_of(struct span bytes)
{
	struct stitch_side s = {
		.p = malloc(bytes.len), .gone = calloc(bytes.len, sizeof(bool)), .len = bytes.len};

	if (bytes.len)
		memcpy(s.p, bytes.p, bytes.len);
	return s;
}

static void assert_left(struct stitch_side *s, struct span want, const char *what)
{
	size_t n = 0;

	for (size_t i = 0; i < s->len; i++)
		if (!s->gone[i])
			s->p[n++] = s->p[i];
	if (n != want.len || memcmp(s->p, want.p, n) != 0)
		fail_msg("%s: left '%.*s', want '%.*s'", what, (int)n, s->p, (int)want.len, want.p);
	free(s->p);
	free(s->gone);
}

static void check(const struct talk *t)
{
	struct stitch_side client = side_of(t->client), server = side_of(t->server);
	struct stitch_seam *seam;
	const char *name = stitch(&client, &server, &seam);

	if ((name == NULL) != (t->name == NULL) || (name && strcmp(name, t->name) != 0))
		fail_msg("taken for %s instead of %s", name ? name : "nothing",
			 t->name ? t->name : "nothing");
	assert_null(seam);
	assert_left(&client, t->client_left, "client");
	assert_left(&server, t->server_left, "server");
}

/* What is not recognised stays as it is. */
static void check_stays(struct span client, struct span server)
{
	const struct talk t = {NULL, client, server, client, server};

	check(&t);
}

#define STAYS(client, server) check_stays((struct span)BYTES(client), (struct span)BYTES(server))

static void check_all(const struct talk *t, size_t n)
{
	for (size_t i = 0; i < n; i++)
		check(&t[i]);
}

#define CHECK_ALL(list) check_all(list, sizeof(list) / sizeof((list)[0]))

static void test_smtp_loses_greeting_command_and_answers(void **state)
{
	static const struct talk t[] = {
		{"smtp", BYTES("EHLO c.test\r\nSTARTTLS\r\n"),
		 BYTES("220 s.test ESMTP\r\n250-s.test\r\n250-SIZE 1000\r\n250-STARTTLS\r\n250 "
		       "HELP\r\n"
		       "220 2.0.0 Ready to start TLS\r\n"),
		 BYTES(""), BYTES("220 s.test ESMTP\r\n")},
		{"smtp", BYTES("ehlo c\r\nstarttls \r\n"),
		 BYTES("220 s\r\n250-s\r\n250-SIZE\r\n250 starttls\r\n220-Go\r\n220 ahead\r\n"),
		 BYTES(""), BYTES("220 s\r\n")},
		/* a banner of several lines is not the answer */
		{"smtp", BYTES("EHLO c\nSTARTTLS\n"),
		 BYTES("220-s\n220 is here\n250-s\n250 STARTTLS\n220 go\n"), BYTES(""),
		 BYTES("220-s\n220 is here\n")},
		/* EHLO twice, the first STARTTLS refused: the offer goes from what is left of it */
		{"smtp", BYTES("EHLO c\r\nSTARTTLS\r\nEHLO c\r\nSTARTTLS\r\n"),
		 BYTES("220 s\r\n250-s\r\n250-STARTTLS\r\n250 X\r\n454 "
		       "later\r\n250-s\r\n250-X\r\n250 "
		       "STARTTLS\r\n220 go\r\n"),
		 BYTES("EHLO c\r\nSTARTTLS\r\n"),
		 BYTES("220 s\r\n250-s\r\n250 X\r\n454 later\r\n")},
		/* LMTP, behind a PROXY header */
		{"smtp", BYTES("PROXY TCP4 10.0.0.1 10.0.0.2 5000 24\r\nLHLO c\r\nSTARTTLS\r\n"),
		 BYTES("220 s LMTP\r\n250-s\r\n250-STARTTLS\r\n250 PIPELINING\r\n220 go\r\n"),
		 BYTES("PROXY TCP4 10.0.0.1 10.0.0.2 5000 24\r\n"), BYTES("220 s LMTP\r\n")},
		/* the greeting was refused: it and its answer stay */
		{"smtp", BYTES("EHLO c\r\nSTARTTLS\r\n"), BYTES("220 s\r\n550 no\r\n220 go\r\n"),
		 BYTES("EHLO c\r\n"), BYTES("220 s\r\n550 no\r\n")},
		/* no greeting at all */
		{"smtp", BYTES("STARTTLS\r\n"), BYTES("220 s\r\n220 go\r\n"), BYTES(""),
		 BYTES("220 s\r\n")},
	};

	(void)state;
	CHECK_ALL(t);
}

/* Something was said after EHLO, so it stays, without the offer. */
static void test_smtp_offer_is_taken_out_of_a_list(void **state)
{
	static const struct talk t[] = {
		{"smtp", BYTES("EHLO c\r\nNOOP\r\nSTARTTLS\r\n"),
		 BYTES("220 s\r\n250-s\r\n250-SIZE\r\n250-STARTTLS\r\n250 HELP\r\n250 ok\r\n220 "
		       "go\r\n"),
		 BYTES("EHLO c\r\nNOOP\r\n"),
		 BYTES("220 s\r\n250-s\r\n250-SIZE\r\n250 HELP\r\n250 ok\r\n")},
		/* the offer is the last line: the one before becomes it */
		{"smtp", BYTES("EHLO c\r\nNOOP\r\nSTARTTLS\r\n"),
		 BYTES("220 s\r\n250-s\r\n250-SIZE\r\n250 starttls\r\n250 ok\r\n220 go\r\n"),
		 BYTES("EHLO c\r\nNOOP\r\n"), BYTES("220 s\r\n250-s\r\n250 SIZE\r\n250 ok\r\n")},
		/* the offer is all there is of the reply: it stays */
		{"smtp", BYTES("EHLO c\r\nNOOP\r\nSTARTTLS\r\n"),
		 BYTES("220 s\r\n250 STARTTLS\r\n250 ok\r\n220 go\r\n"),
		 BYTES("EHLO c\r\nNOOP\r\n"), BYTES("220 s\r\n250 STARTTLS\r\n250 ok\r\n")},
	};

	(void)state;
	CHECK_ALL(t);
}

/* CVE-2011-0411: what an attacker puts behind the command is for the IDS to see. */
static void test_commands_sent_behind_starttls_stay(void **state)
{
	static const struct talk t[] = {
		{"smtp", BYTES("EHLO c\r\nSTARTTLS\r\nRSET\r\nEHLO evil\r\n"),
		 BYTES("220 s\r\n250-s\r\n250-STARTTLS\r\n250 X\r\n220 go\r\n"),
		 BYTES("RSET\r\nEHLO evil\r\n"), BYTES("220 s\r\n")},
	};

	(void)state;
	CHECK_ALL(t);
}

static void test_imap_loses_words_not_lines(void **state)
{
	static const struct talk t[] = {
		{"imap", BYTES("a1 CAPABILITY\r\na2 STARTTLS\r\n"),
		 BYTES("* OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED] ready\r\n* CAPABILITY "
		       "IMAP4rev1 ID STARTTLS\r\na1 OK done\r\na2 OK Begin TLS negotiation "
		       "now.\r\n"),
		 BYTES("a1 CAPABILITY\r\n"),
		 BYTES("* OK [CAPABILITY IMAP4rev1 LOGINDISABLED] ready\r\n* CAPABILITY IMAP4rev1 "
		       "ID\r\na1 OK done\r\n")},
		{"imap", BYTES("1 starttls\r\n"),
		 BYTES("* OK [CAPABILITY IMAP4 starttls] STARTTLS is here\r\n1 ok go\r\n"),
		 BYTES(""), BYTES("* OK [CAPABILITY IMAP4] STARTTLS is here\r\n")},
	};

	(void)state;
	CHECK_ALL(t);
	/* another command's answer */
	STAYS("a1 STARTTLS\r\n", "* OK hi\r\na2 OK go\r\n");
	STAYS("a1 STARTTLS\r\n", "* OK hi\r\na1 BAD go\r\n");
	STAYS("a1 STARTTLS please\r\n", "* OK hi\r\na1 OK go\r\n");
}

static void test_pop3_nntp_sieve_ftp_lose_their_line(void **state)
{
	static const struct talk t[] = {
		{"pop3", BYTES("CAPA\r\nSTLS\r\n"),
		 BYTES("+OK <1@s>\r\n+OK list\r\nUSER\r\nSTLS\r\nUIDL\r\n.\r\n+OK Begin TLS\r\n"),
		 BYTES("CAPA\r\n"), BYTES("+OK <1@s>\r\n+OK list\r\nUSER\r\nUIDL\r\n.\r\n")},
		{"nntp", BYTES("CAPABILITIES\r\nSTARTTLS\r\n"),
		 BYTES("200 hi\r\n101 list:\r\nVERSION 2\r\nSTARTTLS\r\nREADER\r\n.\r\n382 go\r\n"),
		 BYTES("CAPABILITIES\r\n"),
		 BYTES("200 hi\r\n101 list:\r\nVERSION 2\r\nREADER\r\n.\r\n")},
		{"managesieve", BYTES("CAPABILITY\r\nStartTls\r\n"),
		 BYTES("\"IMPLEMENTATION\" \"x\"\r\n\"StartTLS\"\r\n\"SASL\" "
		       "\"\"\r\nOK\r\n\"STARTTLS\"\r\n"
		       "OK\r\nOK \"Begin TLS negotiation now.\"\r\n"),
		 BYTES("CAPABILITY\r\n"),
		 BYTES("\"IMPLEMENTATION\" \"x\"\r\n\"SASL\" \"\"\r\nOK\r\nOK\r\n")},
		{"ftp", BYTES("FEAT\r\nAUTH TLS\r\n"),
		 BYTES("220 hi\r\n211-Features:\r\n AUTH TLS\r\n AUTH SSL\r\n PBSZ\r\n PROT\r\n211 "
		       "End\r\n234 go\r\n"),
		 BYTES("FEAT\r\n"),
		 BYTES("220 hi\r\n211-Features:\r\n PBSZ\r\n PROT\r\n211 End\r\n")},
		{"ftp", BYTES("auth ssl\r\n"),
		 BYTES("220-a\r\n220 b\r\n211-Features\r\n211-AUTH TLS;TLS-C;\r\n211 "
		       "End\r\n234-go\r\n234 "
		       "ahead\r\n"),
		 BYTES(""), BYTES("220-a\r\n220 b\r\n211-Features\r\n211 End\r\n")},
	};

	(void)state;
	CHECK_ALL(t);
}

#define XMPP_NS "xmlns='urn:ietf:params:xml:ns:xmpp-tls'"

static void test_xmpp_loses_elements(void **state)
{
	static const struct talk t[] = {
		{"xmpp",
		 BYTES("<?xml version='1.0'?><stream:stream to='s' "
		       "xmlns='jabber:client'><starttls " XMPP_NS "/>"),
		 BYTES("<stream:stream id='1>'><stream:features><starttls " XMPP_NS
		       "><required/></starttls><mechanisms/></stream:features><proceed " XMPP_NS
		       "/>"),
		 BYTES("<?xml version='1.0'?><stream:stream to='s' xmlns='jabber:client'>"),
		 BYTES("<stream:stream id='1>'><stream:features><mechanisms/></stream:features>")},
		{"xmpp", BYTES("<stream:stream>\n<starttls " XMPP_NS "></starttls>\n"),
		 BYTES("<stream:features><starttls " XMPP_NS
		       "/></stream:features><proceed></proceed>\r\n"),
		 BYTES("<stream:stream>\n\n"), BYTES("<stream:features></stream:features>")},
	};

	(void)state;
	CHECK_ALL(t);
	STAYS("<starttls/>", "<features/><proceed/><other/>");
	STAYS("<starttls/>", "<failure/>");
	STAYS("<starttls", "<proceed/>");
	STAYS("<starttlsx/>", "<proceed/>");
	STAYS("<starttls>", "<proceed/>");
}

#define OID "1.3.6.1.4.1.1466.20037"

static void test_ldap_loses_request_and_response(void **state)
{
	static const struct talk t[] = {
		{"ldap", BYTES("\x30\x1d\x02\x01\x01\x77\x18\x80\x16" OID),
		 BYTES("\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00"), BYTES(""),
		 BYTES("")},
		/* behind a bind, long forms, the response names the OID too */
		{"ldap",
		 BYTES("\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\x00\x80\x00"
		       "\x30\x84\x00\x00\x00\x1f\x02\x01\x02\x77\x81\x19\x80\x81\x16" OID),
		 BYTES("\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04\x00"
		       "\x30\x24\x02\x01\x02\x78\x1f\x0a\x01\x00\x04\x00\x04\x00\x8a\x16" OID),
		 BYTES("\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\x00\x80\x00"),
		 BYTES("\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04\x00")},
	};

	(void)state;
	CHECK_ALL(t);
	/* refused; another message's response; another request; cut */
	STAYS("\x30\x1d\x02\x01\x01\x77\x18\x80\x16" OID,
	      "\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x01\x04\x00\x04\x00");
	STAYS("\x30\x1d\x02\x01\x01\x77\x18\x80\x16" OID,
	      "\x30\x0c\x02\x01\x02\x78\x07\x0a\x01\x00\x04\x00\x04\x00");
	STAYS("\x30\x1d\x02\x01\x01\x77\x18\x80\x16"
	      "1.3.6.1.4.1.1466.20038",
	      "\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00");
	STAYS("\x30\x1d\x02\x01\x01\x77\x18\x80\x16" OID,
	      "\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04");
	STAYS(OID, "\x30\x80\x02\x01\x01\x78\x85\x01\x01\x01\x01\x01");
}

static void test_postgres_loses_request_and_letter(void **state)
{
	static const struct talk t[] = {
		{"postgres", BYTES("\0\0\0\x08\x04\xd2\x16\x2f"), BYTES("S"), BYTES(""), BYTES("")},
		/* encryption by GSSAPI was refused before */
		{"postgres", BYTES("\0\0\0\x08\x04\xd2\x16\x30\0\0\0\x08\x04\xd2\x16\x2f"),
		 BYTES("NS"), BYTES("\0\0\0\x08\x04\xd2\x16\x30"), BYTES("N")},
	};

	(void)state;
	CHECK_ALL(t);
	STAYS("\0\0\0\x08\x04\xd2\x16\x2f", "N");
	STAYS("\0\0\0\x08\x04\xd2\x16\x2f", "");
	STAYS("\x08\x04\xd2\x16\x2f", "S");
}

#define GREETING(caps)                                                                             \
	"\x20\0\0\0\x0a"                                                                           \
	"5.7.1\0"                                                                                  \
	"\x01\0\0\0saltsalt\0\xff" caps "\x21\x02\0rest..."
#define SSL_REQUEST "\x20\0\0\x01\x05\xae\x3f\0\0\0\0\x01\x21......................\0"

static void assert_seam(struct stitch_seam *s, bool client, struct span in, struct span want,
			bool more)
{
	uint8_t *p = malloc(in.len);

	memcpy(p, in.p, in.len);
	assert_int_equal(stitch_seam(s, client, p, in.len), more);
	assert_memory_equal(p, want.p, want.len);
	free(p);
}

#define SEAM(client, in, want, more)                                                               \
	assert_seam(seam, client, (struct span)BYTES(in), (struct span)BYTES(want), more)

static struct stitch_seam *mysql_seam(void)
{
	struct stitch_side client = side_of((struct span)BYTES(SSL_REQUEST));
	struct stitch_side server = side_of((struct span)BYTES(GREETING("\xff")));
	struct stitch_seam *seam = NULL;

	assert_string_equal(stitch(&client, &server, &seam), "mysql");
	assert_non_null(seam);
	assert_left(&client, (struct span)BYTES(""), "client");
	assert_left(&server, (struct span)BYTES(GREETING("\xf7")), "server");
	return seam;
}

static void test_mysql_loses_request_and_counts_on(void **state)
{
	struct stitch_seam *seam = mysql_seam();

	(void)state;
	/* a response, cut in its header; a switch of the method, and its empty answer */
	SEAM(true, "\x04\0", "\x04\0", true);
	SEAM(true, "\0\x02\x05\xae\x3f\x08", "\0\x01\x05\xa6\x3f\x08", true);
	SEAM(false, "\x03\0\0\x03\xfe\0\xff", "\x03\0\0\x02\xfe\0\xff", true);
	SEAM(true, "\0\0\0\x04", "\0\0\0\x03", true);
	SEAM(false, "\x03\0\0\x05\0\0\x07\x01\0\0\x01\x09", "\x03\0\0\x04\0\0\x07\x01\0\0\x01\x09",
	     true);
	SEAM(true, "\x02\0\0\0\x03\x08\x01\0\0\x01", "\x02\0\0\0\x03\x08\x01\0\0\x01", false);
	free(seam);
}

static void test_mysql_seam_is_the_same_byte_by_byte(void **state)
{
	static const char in[] = "\x04\0\0\x02\x05\xae\x3f\x08\x02\0\0\x04\x08\x08\x01\0\0\0\x01";
	static const char want[] = "\x04\0\0\x01\x05\xa6\x3f\x08\x02\0\0\x03\x08\x08\x01\0\0\0\x01";
	struct stitch_seam *seam = mysql_seam();
	uint8_t got[sizeof(in)];

	(void)state;
	memcpy(got, in, sizeof(in));
	for (size_t i = 0; i < sizeof(in); i++)
		assert_true(stitch_seam(seam, true, got + i, 1));
	assert_memory_equal(got, want, sizeof(in));
	free(seam);
}

static void test_mysql_without_both_ends_stays(void **state)
{
	(void)state;
	STAYS(SSL_REQUEST, GREETING("\xf7"));
	STAYS(SSL_REQUEST, "\x04\0\0\0\x0a"
			   "5.7");
	STAYS(SSL_REQUEST, "");
	STAYS("\x20\0\0\x01\x05\xa6\x3f\0\0\0\0\x01\x21......................\0", GREETING("\xff"));
	STAYS("\x20\0\0\x01\x05\xae", GREETING("\xff"));
}

static void test_unknown_stays(void **state)
{
	(void)state;
	STAYS("", "");
	STAYS("\n", "\n");
	STAYS("CONNECT s.test:443 HTTP/1.1\r\nHost: s.test:443\r\n\r\n",
	      "HTTP/1.1 200 Connection established\r\n\r\n");
	STAYS("PROXY TCP4 10.0.0.1 10.0.0.2 5000 443\r\n", "");
	STAYS("STARTTLS\r\n", "");
	STAYS("", "220 go\r\n");
	STAYS("EHLO c\r\nSTARTTLS\r\n", "220 s\r\n250-s\r\n250 STARTTLS\r\n454 no\r\n");
	STAYS("EHLO c\r\nSTARTTLS\r\n", "220 s\r\n250-s\r\n250 STARTTLS\r\n220 go");
	STAYS("EHLO c\r\nSTARTTLS", "220 s\r\n250-s\r\n250 STARTTLS\r\n220 go\r\n");
	STAYS("NOSTARTTLS\r\n", "220 s\r\n220 go\r\n");
	STAYS("AUTH PLAIN\r\n", "220 s\r\n234 go\r\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_smtp_loses_greeting_command_and_answers),
		cmocka_unit_test(test_smtp_offer_is_taken_out_of_a_list),
		cmocka_unit_test(test_commands_sent_behind_starttls_stay),
		cmocka_unit_test(test_imap_loses_words_not_lines),
		cmocka_unit_test(test_pop3_nntp_sieve_ftp_lose_their_line),
		cmocka_unit_test(test_xmpp_loses_elements),
		cmocka_unit_test(test_ldap_loses_request_and_response),
		cmocka_unit_test(test_postgres_loses_request_and_letter),
		cmocka_unit_test(test_mysql_loses_request_and_counts_on),
		cmocka_unit_test(test_mysql_seam_is_the_same_byte_by_byte),
		cmocka_unit_test(test_mysql_without_both_ends_stays),
		cmocka_unit_test(test_unknown_stays),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
