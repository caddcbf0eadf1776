/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sites: where to probe a file, and what a hit there means. One finder for each family of TLS
 * libraries; input is foreign: any file, possibly broken.
 */
#ifndef SSLC_AGENT_SITES_H
#define SSLC_AGENT_SITES_H

#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "event.h"

/* site.at, or'ed */
#define SITE_ENTRY  1u /* here the call's arguments are where the calling convention puts them */
#define SITE_RETURN 2u /* a return probe on the function that begins here */
#define SITE_EXIT   4u /* an instruction that each way out passes, with the result in its place */

/* What a site costs: see cheap.h. */
enum site_price {
	SITE_PLAIN,  /* a function's first instruction; the kernel has to single-step it */
	SITE_FIRST,  /* one that the kernel emulates, before the stack pointer has moved */
	SITE_PAIR,   /* an entry and exits inside the function, all of them emulated */
	SITE_RECORD, /* one for each record, emulated */
};

struct site {
	uint64_t offset; /* in the file */
	enum sslc_call call;
	unsigned at;
	int32_t sp; /* bytes that the stack pointer is below where it was on entry; SITE_RECORD:
		     * where the values are, see event.h (SSLC_SOURCE_…) */
	const char *name;  /* static: the function's symbol; NULL: it has none */
	uint64_t function; /* where it begins */
	enum site_price price;
	const char *why; /* static: why not better; NULL: it is the best */
};

/* sites.families, or'ed: whose functions were found */
#define SITES_OPENSSL 1u /* or its kin: BoringSSL, LibreSSL */
#define SITES_GNUTLS  2u
#define SITES_GO      4u
#define SITES_NSS     8u

struct sites {          /* grows; start from {0} */
	bool pairs;     /* set before finding: sites inside functions are wanted */
	bool calls;     /* the same: call instructions may be probed, see harm.h */
	bool plain;     /* the same: public functions at their first instructions, and no more */
	bool records;   /* the same: instructions that records pass, see trial.h */
	struct site *v; /* owned */
	size_t n;
	size_t movers;       /* functions among them that move plaintext */
	unsigned families;   /* of those */
	const char *why_not; /* static text: TLS code that will not be mirrored; NULL: none seen */
	/* Instead of those that records replace: for objects whose connection is not known. */
	struct site *around; /* owned */
	size_t n_around;
	char no_records[96]; /* why there are none; "": there are, or none were asked for */
};

/* A function by its name, as a finder's table lists it. */
struct site_symbol {
	const char *name;
	enum sslc_call call;
};

/**
 * All finders on one file. Returns the number of functions found that move plaintext (0: none of
 * ours), -ENOEXEC for a broken file, -ENOMEM. What was found is in *out even then: sites_fini() it.
 */
int sites_find(int fd, struct sites *out) __attribute__((warn_unused_result));
void sites_fini(struct sites *s);

/* For finders. */

/** Add one place. Entry sites of calls that move plaintext count as movers. 0 or -ENOMEM. */
int sites_add(struct sites *s, uint64_t offset, enum sslc_call call, unsigned at)
	__attribute__((warn_unused_result));
#define SITES_SYMBOLS 64 /* names in one finder's table */
/**
 * Where the file defines n <= SITES_SYMBOLS symbols: file offsets, 0 for those it does not. Their
 * number, or -errno.
 */
int sites_lookup(int fd, const struct site_symbol table[], size_t n, uint64_t offsets[])
	__attribute__((warn_unused_result));
/**
 * Add, with entry and return, each of n symbols whose offset is not 0; SSLC_CALL_FORGET with its
 * entry only. 0 or -ENOMEM.
 */
int sites_add_found(struct sites *s, const struct site_symbol table[], size_t n,
		    const uint64_t offsets[]) __attribute__((warn_unused_result));
/** Both in one: look them up and add what is found. 0 or -errno. */
int sites_add_symbols(struct sites *s, int fd, const struct site_symbol table[], size_t n)
	__attribute__((warn_unused_result));

/**
 * After the finders: put the probes of each function where they cost least. What cannot be improved
 * stays. 0 or -ENOMEM.
 */
int sites_cheapen(struct sites *s, int fd) __attribute__((warn_unused_result));

/**
 * For an OpenSSL: where records pass instead of its reads and writes, which go to `around`. What
 * cannot be improved stays. 0 or -ENOMEM.
 */
int sites_records(struct sites *s, int fd) __attribute__((warn_unused_result));

int sites_openssl(int fd, struct sites *out) __attribute__((warn_unused_result));
int sites_gnutls(int fd, struct sites *out) __attribute__((warn_unused_result));
int sites_nss(int fd, struct sites *out) __attribute__((warn_unused_result));
int sites_go(int fd, struct sites *out) __attribute__((warn_unused_result));

#endif
