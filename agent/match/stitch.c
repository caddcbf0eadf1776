/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stitch: see stitch.h. Each protocol is found from the end: the last thing the client said asks
 * for TLS, the last thing the server said grants it. What stands before (a PROXY header, a proxy's
 * CONNECT) is no hindrance then.
 */
#include "match/stitch.h"

#include "base/buf.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static void drop(struct stitch_side *s, size_t at, size_t end)
{
	memset(s->gone + at, true, end - at);
}

static bool ends_with(const struct stitch_side *s, const void *p, size_t len)
{
	return s->len >= len && memcmp(s->p + s->len - len, p, len) == 0;
}

/* Where `text` begins in [from, to) of the bytes; `to` when it does not. Letters' case counts. */
static size_t seek(const struct stitch_side *s, size_t from, size_t to, const char *text)
{
	const uint8_t *p = from < to ? memmem(s->p + from, to - from, text, strlen(text)) : NULL;

	return p ? (size_t)(p - s->p) : to;
}

/* Where `text` begins for the last time; false when it does not. */
static bool seek_last(const struct stitch_side *s, const char *text, size_t *at)
{
	bool found = false;

	for (size_t i = 0; (i = seek(s, i, s->len, text)) < s->len; i++) {
		*at = i;
		found = true;
	}
	return found;
}

/* --- lines --------------------------------------------------------------------------------------
 */

struct line {
	size_t at, end;   /* end: behind its line feed */
	struct span text; /* without the line's end and blanks before it */
};

/* The complete line at l->end becomes *l. */
static bool next_line(const struct stitch_side *s, struct line *l)
{
	size_t at = l->end, len;
	const uint8_t *lf = at < s->len ? memchr(s->p + at, '\n', s->len - at) : NULL;

	if (!lf)
		return false;
	len = (size_t)(lf - (s->p + at));
	*l = (struct line){.at = at, .end = at + len + 1};
	while (len && isspace(s->p[at + len - 1]))
		len--;
	l->text = span_of(s->p + at, len);
	return true;
}

/* The line that ends at `end`. */
static bool line_before(const struct stitch_side *s, size_t end, struct line *out)
{
	struct line l = {0};

	*out = l;
	while (l.end < end && next_line(s, &l))
		*out = l;
	return end && out->end == end;
}

/* The next word of a line, which is taken off it; empty at its end. */
static struct span word(struct span *line)
{
	struct span w;

	while (line->len && isblank(line->p[0]))
		*line = span_of(line->p + 1, line->len - 1);
	w = span_of(line->p, 0);
	while (w.len < line->len && !isblank(line->p[w.len]))
		w.len++;
	*line = span_of(line->p + w.len, line->len - w.len);
	return w;
}

static bool begins(struct span s, const char *text)
{
	size_t len = strlen(text);

	return s.len >= len && strncasecmp((const char *)s.p, text, len) == 0;
}

static bool is(struct span s, const char *text)
{
	return s.len == strlen(text) && begins(s, text);
}

/* --- protocols of lines -------------------------------------------------------------------------
 */

struct protocol {
	const char *name;
	bool (*asks)(struct span line);                       /* of the client */
	bool (*grants)(struct span line, struct span asking); /* of the server */
	void (*strip)(struct stitch_side *server);            /* the offer */
	bool (*greets)(struct span line); /* what the client says again inside TLS; or NULL */
};

static bool asks_starttls(struct span line)
{
	return is(line, "STARTTLS");
}

/* RFC 3207, 4.2: what was learnt before TLS is discarded, EHLO comes again. */
static bool greets_smtp(struct span line)
{
	struct span verb = word(&line);

	return is(verb, "EHLO") || is(verb, "LHLO") || is(verb, "HELO");
}

static bool asks_imap(struct span line)
{
	return word(&line).len && is(word(&line), "STARTTLS") && !word(&line).len;
}

static bool asks_pop3(struct span line)
{
	return is(line, "STLS");
}

static bool is_auth_tls(struct span line)
{
	struct span auth = word(&line), how = word(&line);

	return is(auth, "AUTH") && (begins(how, "TLS") || begins(how, "SSL"));
}

static bool grants_smtp(struct span line, struct span asking)
{
	(void)asking;
	return is(line, "220") || begins(line, "220 ");
}

static bool grants_nntp(struct span line, struct span asking)
{
	(void)asking;
	return is(line, "382") || begins(line, "382 ");
}

static bool grants_sieve(struct span line, struct span asking)
{
	(void)asking;
	return is(word(&line), "OK");
}

static bool grants_ftp(struct span line, struct span asking)
{
	(void)asking;
	return is(line, "234") || begins(line, "234 ");
}

static bool grants_pop3(struct span line, struct span asking)
{
	(void)asking;
	return is(word(&line), "+OK");
}

static bool grants_imap(struct span line, struct span asking)
{
	return span_eq(word(&line), word(&asking)) && is(word(&line), "OK");
}

static bool is_offer_smtp(struct span line)
{
	return (begins(line, "250-") || begins(line, "250 ")) &&
	       is(span_of(line.p + 4, line.len - 4), "STARTTLS");
}

/* The last line of a reply has a blank behind its code, all others a hyphen (RFC 5321, 4.2.1). */
static void strip_smtp(struct stitch_side *s)
{
	struct line l = {0}, kept = {0};

	while (next_line(s, &l)) {
		bool last = !begins(l.text, "250-");

		if (!is_offer_smtp(l.text)) {
			kept = l;
			continue;
		}
		if (last && !begins(kept.text, "250-"))
			continue; /* all there is of the reply */
		if (last)
			s->p[kept.at + 3] = ' ';
		drop(s, l.at, l.end);
	}
}

/* In the list that follows the word CAPABILITY, on a line of its own or in brackets. */
static void strip_imap(struct stitch_side *s)
{
	struct line l = {0};

	while (next_line(s, &l)) {
		bool listed = false, last = false;

		for (struct span rest = l.text, w; !last && (w = word(&rest)).len;) {
			size_t i = (size_t)(w.p - s->p);

			last = listed && w.p[w.len - 1] == ']';
			w.len -= last;
			if (listed && is(w, "STARTTLS"))
				drop(s, i - 1, i + w.len); /* with the blank before it */
			listed |= is(w, "CAPABILITY") || is(w, "[CAPABILITY");
		}
	}
}

static void strip_lines(struct stitch_side *s, bool (*is_offer)(struct span line))
{
	struct line l = {0};

	while (next_line(s, &l))
		if (is_offer(l.text))
			drop(s, l.at, l.end);
}

static bool is_offer_sieve(struct span line)
{
	return is(line, "\"STARTTLS\"");
}

/* RFC 2389, 3.2: a blank before each feature; some repeat the code. */
static bool is_offer_ftp(struct span line)
{
	if (begins(line, "211-"))
		line = span_of(line.p + 4, line.len - 4);
	else if (!line.len || line.p[0] != ' ')
		return false;
	return is_auth_tls(line);
}

static void strip_pop3(struct stitch_side *s)
{
	strip_lines(s, asks_pop3);
}

static void strip_nntp(struct stitch_side *s)
{
	strip_lines(s, asks_starttls);
}

static void strip_sieve(struct stitch_side *s)
{
	strip_lines(s, is_offer_sieve);
}

static void strip_ftp(struct stitch_side *s)
{
	strip_lines(s, is_offer_ftp);
}

static const struct protocol protocols[] = {
	{"smtp", asks_starttls, grants_smtp, strip_smtp, greets_smtp},
	{"nntp", asks_starttls, grants_nntp, strip_nntp, NULL},
	{"managesieve", asks_starttls, grants_sieve, strip_sieve, NULL},
	{"imap", asks_imap, grants_imap, strip_imap, NULL},
	{"pop3", asks_pop3, grants_pop3, strip_pop3, NULL},
	{"ftp", is_auth_tls, grants_ftp, strip_ftp, NULL},
};

/* The last line that asks: what a client sent behind it without waiting stays. */
static bool find_asking(const struct stitch_side *s, const struct protocol *p, struct line *out)
{
	struct line l = {0};
	bool found = false;

	while (next_line(s, &l)) {
		if (!p->asks(l.text))
			continue;
		*out = l;
		found = true;
	}
	return found;
}

/* The granting reply may have several lines: 220-…, then 220 …. */
static size_t reply_begin(const struct stitch_side *s, const struct line *last)
{
	size_t begin = last->at;
	struct line l = {0};
	bool inside = false;

	if (last->text.len < 3 || !isdigit(last->text.p[0]))
		return begin;
	while (next_line(s, &l) && l.at < last->at) {
		bool more = l.text.len > 3 && memcmp(l.text.p, last->text.p, 3) == 0 &&
			    l.text.p[3] == '-';

		if (more && !inside)
			begin = l.at;
		inside = more;
	}
	return inside ? begin : last->at;
}

/* A greeting right before the request for TLS, and its answer: said twice it is an anomaly. */
static void drop_greeting(const struct protocol *p, struct stitch_side *client, size_t asked,
			  struct stitch_side *server, size_t granted)
{
	struct line greeting, answer;

	if (!p->greets || !line_before(client, asked, &greeting) || !p->greets(greeting.text) ||
	    !line_before(server, granted, &answer) || !begins(answer.text, "250"))
		return;
	drop(client, greeting.at, greeting.end);
	drop(server, reply_begin(server, &answer), answer.end);
}

static const char *stitch_lines(struct stitch_side *client, struct stitch_side *server)
{
	struct line asking = {0}, granting;
	size_t granted;

	if (!line_before(server, server->len, &granting))
		return NULL;
	for (size_t i = 0; i < sizeof(protocols) / sizeof(protocols[0]); i++) {
		const struct protocol *p = &protocols[i];

		if (!find_asking(client, p, &asking) || !p->grants(granting.text, asking.text))
			continue;
		granted = reply_begin(server, &granting);
		drop(client, asking.at, asking.end);
		drop(server, granted, granting.end);
		drop_greeting(p, client, asking.at, server, granted);
		p->strip(server);
		return p->name;
	}
	return NULL;
}

/* --- XMPP ---------------------------------------------------------------------------------------
 */

/* Behind the tag that begins at `at`; 0 when it does not end. */
static size_t tag_end(const struct stitch_side *s, size_t at)
{
	uint8_t quote = 0;

	for (; at < s->len; at++) {
		uint8_t c = s->p[at];

		if (quote)
			quote = c == quote ? 0 : quote;
		else if (c == '\'' || c == '"')
			quote = c;
		else if (c == '>')
			return at + 1;
	}
	return 0;
}

/* Behind the element <name …/> or <name …>…</name> that begins at `at`; 0 when there is none. */
static size_t element_end(const struct stitch_side *s, size_t at, const char *name,
			  const char *closing)
{
	size_t end = tag_end(s, at), after = at + strlen(name);

	if (!end || (s->p[after] != '>' && s->p[after] != '/' && !isspace(s->p[after])))
		return 0; /* the name goes on */
	if (s->p[end - 2] == '/')
		return end;
	end = seek(s, end, s->len, closing);
	return end < s->len ? end + strlen(closing) : 0;
}

static bool is_blank(const struct stitch_side *s, size_t from)
{
	while (from < s->len && isspace(s->p[from]))
		from++;
	return from == s->len;
}

static void strip_xmpp(struct stitch_side *s)
{
	size_t end;

	for (size_t i = 0; (i = seek(s, i, s->len, "<starttls")) < s->len; i = end ? end : i + 1) {
		end = element_end(s, i, "<starttls", "</starttls>");
		if (end)
			drop(s, i, end);
	}
}

static const char *stitch_xmpp(struct stitch_side *client, struct stitch_side *server)
{
	size_t asking, asked, granting, granted;

	if (!seek_last(client, "<starttls", &asking) || !seek_last(server, "<proceed", &granting))
		return NULL;
	asked = element_end(client, asking, "<starttls", "</starttls>");
	granted = element_end(server, granting, "<proceed", "</proceed>");
	if (!asked || !granted || !is_blank(server, granted))
		return NULL;
	drop(client, asking, asked);
	drop(server, granting, server->len);
	strip_xmpp(server);
	return "xmpp";
}

/* --- LDAP ---------------------------------------------------------------------------------------
 */

#define LDAP_STARTTLS       "1.3.6.1.4.1.1466.20037"
#define LDAP_EXTENDED       0x77 /* RFC 4511, 4.12 */
#define LDAP_EXTENDED_REPLY 0x78
#define LDAP_OID            0x80
#define LDAP_HEADERS_MAX    24   /* what stands before the OID, lengths in their longest form */
#define LDAP_REPLY_MAX      4096 /* the granting message, with the server's text */

struct ldap {
	struct span id, body;
	uint8_t op;
	size_t len; /* of the whole message */
};

/* One BER element with a definite length of up to four bytes. */
static struct span ber(struct rd *r, uint8_t *tag)
{
	size_t len, n;

	*tag = rd_u8(r);
	len = rd_u8(r);
	if (len >= 0x80) {
		n = len & 0x7f;
		if (!n || n > 4)
			r->bad = true;
		for (len = 0; n && !r->bad; n--)
			len = len << 8 | rd_u8(r);
	}
	return rd_bytes(r, len);
}

static bool ldap_at(const struct stitch_side *s, size_t at, struct ldap *m)
{
	struct rd r = rd_from(span_of(s->p + at, s->len - at)), inner;
	uint8_t tag, id_tag;
	struct span body = ber(&r, &tag);

	if (r.bad || tag != 0x30)
		return false;
	m->len = (size_t)(body.p + body.len - (s->p + at));
	inner = rd_from(body);
	m->id = ber(&inner, &id_tag);
	m->body = ber(&inner, &m->op);
	return !inner.bad && id_tag == 0x02;
}

static bool is_ldap_starttls(const struct ldap *m)
{
	struct rd r = rd_from(m->body);
	uint8_t tag;
	struct span oid = ber(&r, &tag);

	return m->op == LDAP_EXTENDED && !r.bad && tag == LDAP_OID &&
	       span_eq(oid, span_str(LDAP_STARTTLS));
}

static bool is_ldap_success(const struct ldap *m, struct span id)
{
	static const uint8_t success[] = {0x0a, 0x01, 0x00}; /* ENUMERATED 0 */

	return m->op == LDAP_EXTENDED_REPLY && span_eq(m->id, id) &&
	       m->body.len >= sizeof(success) && memcmp(m->body.p, success, sizeof(success)) == 0;
}

static bool find_ldap_asking(const struct stitch_side *s, size_t *at, struct ldap *m)
{
	size_t oid;

	if (!seek_last(s, LDAP_STARTTLS, &oid))
		return false;
	for (size_t back = 4; back <= LDAP_HEADERS_MAX && back <= oid; back++) {
		*at = oid - back;
		if (ldap_at(s, *at, m) && is_ldap_starttls(m))
			return true;
	}
	return false;
}

static const char *stitch_ldap(struct stitch_side *client, struct stitch_side *server)
{
	struct ldap asking, granting;
	size_t at;

	if (!find_ldap_asking(client, &at, &asking))
		return NULL;
	for (size_t back = 1; back <= LDAP_REPLY_MAX && back <= server->len; back++) {
		if (!ldap_at(server, server->len - back, &granting) || granting.len != back ||
		    !is_ldap_success(&granting, asking.id))
			continue;
		drop(client, at, at + asking.len);
		drop(server, server->len - back, server->len);
		return "ldap";
	}
	return NULL;
}

/* --- data bases ---------------------------------------------------------------------------------
 */

/* SSLRequest: length 8, code 1234.5679; granted by one letter. */
static const char *stitch_postgres(struct stitch_side *client, struct stitch_side *server)
{
	static const uint8_t request[] = {0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f};

	if (!ends_with(client, request, sizeof(request)) || !ends_with(server, "S", 1))
		return NULL;
	drop(client, client->len - sizeof(request), client->len);
	drop(server, server->len - 1, server->len);
	return "postgres";
}

/* https://dev.mysql.com/doc/dev/mysql-server/latest/ (Connection Phase) */
#define MYSQL_HEADER   4 /* length, little endian, 3 bytes; sequence number */
#define MYSQL_GREETING 10
#define MYSQL_REQUEST  32 /* bytes of the handshake response that stand before the user's name */
#define MYSQL_SALT     (4 + 8 + 1) /* thread, first part of the salt, filler: behind the version */
#define MYSQL_SSL      0x08        /* CLIENT_SSL, in the second byte of the capabilities */
#define MYSQL_OK       0x00
#define MYSQL_ERR      0xff

/* A direction of the handshake inside TLS. */
struct seam_side {
	uint32_t len; /* of the packet, as far as its header has come */
	uint32_t at;  /* bytes of the packet seen, with its header */
	uint32_t packets;
	bool done;
};

struct stitch_seam {
	struct seam_side client, server;
};

static bool is_mysql_request(const struct stitch_side *s)
{
	static const uint8_t header[MYSQL_HEADER] = {MYSQL_REQUEST, 0, 0, 1};
	const size_t len = MYSQL_HEADER + MYSQL_REQUEST;
	const uint8_t *p;

	if (s->len < len)
		return false;
	p = s->p + s->len - len;
	return memcmp(p, header, sizeof(header)) == 0 && p[MYSQL_HEADER + 1] & MYSQL_SSL;
}

/* Where the capabilities' second byte is, when the server's last packet is a greeting that offers
 * TLS; else NULL. */
static uint8_t *mysql_offer(const struct stitch_side *s, size_t at)
{
	struct rd r = rd_from(span_of(s->p + at, s->len - at));
	struct span low = rd_bytes(&r, 2), rest;
	const uint8_t *nul, *caps;

	if (rd_u8(&r) || rd_u8(&r) || rd_u8(&r) != MYSQL_GREETING || r.bad ||
	    (size_t)(low.p[0] | low.p[1] << 8) != s->len - at - MYSQL_HEADER)
		return NULL;
	nul = memchr(r.in.p, 0, r.in.len);
	if (!nul)
		return NULL;
	(void)rd_bytes(&r, (size_t)(nul - r.in.p) + 1);
	(void)rd_bytes(&r, MYSQL_SALT);
	rest = rd_bytes(&r, 2);
	caps = r.bad ? NULL : rest.p;
	return caps && caps[1] & MYSQL_SSL ? s->p + (caps + 1 - s->p) : NULL;
}

static const char *stitch_mysql(struct stitch_side *client, struct stitch_side *server,
				struct stitch_seam **seam)
{
	uint8_t *offer = NULL;

	if (!is_mysql_request(client))
		return NULL;
	for (size_t back = MYSQL_HEADER; !offer && back <= server->len; back++)
		offer = mysql_offer(server, server->len - back);
	if (!offer)
		return NULL;
	*seam = calloc(1, sizeof(**seam));
	if (!*seam)
		return NULL;
	*offer &= (uint8_t)~MYSQL_SSL;
	drop(client, client->len - MYSQL_HEADER - MYSQL_REQUEST, client->len);
	return "mysql";
}

/* One byte of a header. False: this direction's handshake is over. */
static bool seam_header(struct seam_side *s, bool from_client, uint8_t *p)
{
	if (s->at < 3) {
		s->len |= (uint32_t)*p << 8 * s->at;
		return true;
	}
	if (from_client && !*p)
		return false; /* each command begins to count anew */
	if (*p)
		--*p;
	return true;
}

/* One byte of a packet's contents. False as above. */
static bool seam_body(struct seam_side *s, bool from_client, uint8_t *p)
{
	uint32_t at = s->at - MYSQL_HEADER;

	if (from_client && !s->packets && at == 1)
		*p &= (uint8_t)~MYSQL_SSL;
	return from_client || at || (*p != MYSQL_OK && *p != MYSQL_ERR);
}

static void seam_byte(struct seam_side *s, bool from_client, uint8_t *p)
{
	s->done = s->at < MYSQL_HEADER ? !seam_header(s, from_client, p)
				       : !seam_body(s, from_client, p);
	s->at++;
	if (s->at < MYSQL_HEADER || s->at < MYSQL_HEADER + s->len)
		return;
	s->at = s->len = 0;
	s->packets++;
}

bool stitch_seam(struct stitch_seam *seam, bool from_client, uint8_t *p, size_t len)
{
	struct seam_side *s = from_client ? &seam->client : &seam->server;

	for (size_t i = 0; i < len && !s->done; i++)
		seam_byte(s, from_client, p + i);
	return !seam->client.done || !seam->server.done;
}

static const char *stitch_binary(struct stitch_side *client, struct stitch_side *server,
				 struct stitch_seam **seam)
{
	const char *name = stitch_postgres(client, server);

	if (!name)
		name = stitch_mysql(client, server, seam);
	return name ? name : stitch_ldap(client, server);
}

const char *stitch(struct stitch_side *client, struct stitch_side *server,
		   struct stitch_seam **seam)
{
	const char *name;

	*seam = NULL;
	name = stitch_binary(client, server, seam);
	if (!name)
		name = stitch_xmpp(client, server);
	return name ? name : stitch_lines(client, server);
}
