/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trial: where a build of OpenSSL passes each record's plaintext, found by experiment. A throw-away
 * child without privileges loads the very file and speaks TLS to itself with known plaintext, while
 * it watches which of the library's instructions see address, length and object of each record, and
 * nothing else. x86-64 only.
 */
#ifndef SSLC_AGENT_TRIAL_H
#define SSLC_AGENT_TRIAL_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Where a value is at a site. 0 to 15: a general register, by the number that instructions have for
 * it; from TRIAL_SLOT on: the 8 bytes at the stack pointer plus 8 times the rest.
 */
#define TRIAL_SLOT    16u
#define TRIAL_SOURCES 128u
#define TRIAL_NONE    255u

/* An instruction that each record passes once. */
struct trial_place {
	uint64_t offset; /* in the file; 0: there is none */
	uint8_t buf;     /* of the plaintext */
	uint8_t len;
	uint8_t ssl;   /* the object */
	uint8_t guard; /* its lower 32 bits are 23 for plaintext, and else not; or TRIAL_NONE */
	uint32_t pad;
};

struct trial_result {
	struct trial_place send, receive;
	/* Where several records pass at once instead, in one piece: some ciphers' long writes. The
	 * same as `send` when they pass there; offset 0 when there are none. */
	struct trial_place batch;
	uint64_t handshake[2]; /* functions that each handshake goes through: client's, server's */
	char why[96];          /* why there are none; "" when there are */
};

/**
 * Make the experiment with an open file, or tell the result of an earlier one with a file of the
 * same content, be it on disk. Takes up to some seconds. 0: out is filled, or says why not;
 * -ENOMEM.
 */
int trial_run(int fd, struct trial_result *out) __attribute__((warn_unused_result));

/**
 * From now on there are experiments, or only the results of earlier ones. Not before this program's
 * main() is known to know TRIAL_WORD.
 */
void trial_allow(bool allowed);
/** Results that are on disk (see trial_store.h) are not taken, but made and kept anew. */
void trial_afresh(void);

/* argv[1] of the child: no name of a mode, and not for people. */
#define TRIAL_WORD "record-trial"
/** The child: the file is descriptor 3, the result goes to descriptor 1. Returns an exit status. */
int trial_child(void);

/* For the parts of the child. */
/** No privileges, few system calls, little time. 0 or -errno. */
int trial_enter_box(void) __attribute__((warn_unused_result));

#endif
