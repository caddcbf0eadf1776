/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stitch: what two programs said before TLS comes in, the same without the words that brought TLS
 * about goes out, so that it joins what they said inside TLS into one conversation that looks as if
 * it had been plain. Protocols are recognised by what was said, never by port. Works on the two
 * whole directions: how the bytes were cut on their way changes nothing. Never adds a byte.
 */
#ifndef SSLC_AGENT_STITCH_H
#define SSLC_AGENT_STITCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct stitch_seam;

/* One direction, from the connection's first byte to the last one before TLS. */
struct stitch_side {
	uint8_t *p; /* a byte may be changed in place: the last of several reply lines */
	bool *gone; /* one for each byte, false at the beginning: not to be told */
	size_t len;
};

/**
 * Mark in `gone` the offer of TLS (the line, word or element in the server's list of capabilities),
 * the command that asks for it and the answer that grants it.
 * Returns the protocol's name; NULL for one that is not known, or a request for TLS that was not
 * the last thing said: then nothing is marked or changed. HTTP's CONNECT is among those: the
 * request and its answer say something that the inside of TLS does not.
 * *seam: when the inside of TLS does not go on where what is left ends, what makes it so; the
 * caller frees it. Else NULL.
 * Sources: RFC 3207 (SMTP), 9051 (IMAP), 2595 (POP3), 4217 (FTP), 4642 (NNTP), 5804 (ManageSieve),
 * 6120 (XMPP), 4511 (LDAP); PostgreSQL's and MySQL's descriptions of their protocols.
 * Fuzzed: tests/fuzz/fuzz_prelude.c
 */
const char *stitch(struct stitch_side *client, struct stitch_side *server,
		   struct stitch_seam **seam);

/**
 * MySQL numbers the packets of its handshake, and the request for TLS was one of them: alter the
 * next bytes of one direction from inside TLS. Without this the packet that names the user is
 * taken for a command. True as long as there may be more to alter; after a loss there is not.
 */
bool stitch_seam(struct stitch_seam *seam, bool from_client, uint8_t *p, size_t len);

#endif
