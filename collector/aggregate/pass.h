/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pass: what an aggregator has to know of one agent's link and the link onward: who says hello,
 * where envelopes begin and end, whether the collector beyond has said welcome or why not. Bytes
 * in, "these may go on" out: they do as they are. No sockets, no clock; blocks are not opened.
 */
#ifndef SSLC_COLLECTOR_PASS_H
#define SSLC_COLLECTOR_PASS_H

#include "frame.h"
#include "zblock.h"

#define PASS_HELLO_MAX  4096 /* a hello and its envelope: what a stranger may make us hold */
#define PASS_ANSWER_MAX (ZBLOCK_HEADER_LEN + ZBLOCK_RAW_MAX)

enum pass_state {
	PASS_HELLO,   /* the agent's hello is awaited */
	PASS_ASKED,   /* it is here; the collector's answer is awaited */
	PASS_UP,      /* welcome: blocks go up, acknowledgements down */
	PASS_REFUSED, /* the collector refuses, or ends the link and says why */
};

struct pass;

int pass_new(struct pass **out) WARN_UNUSED;
void pass_free(struct pass *p);
enum pass_state pass_state(const struct pass *p);
/** The agent and the number of its link, 18 bytes; and its host's name, fit to be printed. From
 * PASS_ASKED on. */
const uint8_t *pass_key(const struct pass *p);
#define PASS_KEY_LEN 18
const char *pass_host(const struct pass *p);
/** The collector's words, fit to be printed; "" before PASS_REFUSED. */
const char *pass_refusal(const struct pass *p);

struct pass_count {
	uint64_t blocks; /* that began */
};

/**
 * What the agent says, cut anywhere. Its hello is kept here: while pass_state() is below PASS_UP
 * nothing of `in` goes on. Afterwards all of it does, when this returns 0. -EBADMSG, -EMSGSIZE,
 * -EPROTO: it breaks the protocol, *why says how.
 */
int pass_agent(struct pass *p, struct span in, struct pass_count *n, const char **why) WARN_UNUSED;
/** The hello's envelope, as it came: to be sent first. */
struct span pass_hello(const struct pass *p);
/** It was sent: the memory is free. */
void pass_hello_sent(struct pass *p);

/**
 * What the collector says: `in` begins where an envelope does. Returns how many bytes at its front
 * are whole, right envelopes and may go on, or a negative errno and *why. Up to PASS_ANSWER_MAX
 * bytes may have to be kept until one is whole. A refusal is the last that goes on.
 */
ssize_t pass_collector(struct pass *p, struct span in, const char **why) WARN_UNUSED;

#endif
