/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fit: whether a sequence of TLS calls can be what a sequence of TLS records carried. Lengths only:
 * a record is longer than its plaintext by what its cipher adds, and the cipher is one of a few.
 */
#ifndef SSLC_AGENT_FIT_H
#define SSLC_AGENT_FIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Ways in which ciphers make records longer: a set, one bit each (see the table in fit.c). */
typedef uint16_t fit_ciphers;
#define FIT_ANY     ((fit_ciphers)0xffff)
#define FIT_CIPHERS 12 /* such ways, numbered from 0 */

#define FIT_ITEMS 64 /* lengths that wait for their other half; a power of two */
#define FIT_SPOTS 8  /* readings of the same lengths that are kept apart */
#define FIT_SKIPS 8  /* handshake messages and tickets in a row that TLS 1.3 hides as data */

/* One way to read what was seen: items before `item` are used up, `done` bytes of it too. */
struct fit_spot {
	uint32_t item, done;
	fit_ciphers ciphers; /* with which this reading is possible */
	uint8_t skips;       /* records passed over since the last one that matched */
	uint8_t hits;        /* records that matched to the byte; saturates */
};

/*
 * Reading: the items are records, consumed by the calls that read them. Writing: the items are
 * calls, consumed by the records that they became. Readings differ in what was a hidden handshake
 * message, and in the cipher; no spot left means that the two sides do not belong together.
 */
struct fit {
	uint32_t first, next; /* items kept: [first, next) */
	uint32_t v[FIT_ITEMS];
	struct fit_spot spot[FIT_SPOTS];
	uint8_t n_spots;
};

/**
 * Bytes of plaintext, *lo to *hi, that a record of len bytes holds under one cipher; padding leaves
 * a doubt. False: this cipher makes no such record, nothing was written.
 */
bool fit_plain(unsigned cipher, uint32_t len, uint32_t *lo, uint32_t *hi);
/** Whether other messages look like data under this cipher (TLS 1.3). */
bool fit_hides(unsigned cipher);
/** Nothing kept; the next item is the first that counts. */
void fit_reset(struct fit *f, fit_ciphers ciphers);
/** A completed record waits for its readers. False: no room, nothing changed. */
bool fit_add_record(struct fit *f, unsigned type, uint32_t len);
/** A call of less than 2 GiB waits for its records. False: no room, nothing changed. */
bool fit_add_write(struct fit *f, uint32_t len);
/** A call returned len > 0 bytes of the records kept. False: it cannot have, f is spoilt. */
bool fit_read(struct fit *f, uint32_t len);
/** A record appeared that holds bytes of the calls kept. False: it cannot, f is spoilt. */
bool fit_record(struct fit *f, unsigned type, uint32_t len);
/**
 * The most records that matched to the byte in one reading that, if `whole`, ends between two
 * items; 0 when none did. *ciphers: those of all such readings with hits.
 */
unsigned fit_hits(const struct fit *f, bool whole, fit_ciphers *ciphers);
/** One reading has used up everything that holds data, and matched something. */
bool fit_is_used_up(const struct fit *f);

#endif
