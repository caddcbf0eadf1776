/* SPDX-License-Identifier: Apache-2.0 */
/*
 * family: whose TLS code a file holds, by its name or by what every TLS implementation has to carry
 * along. Says what a person is told about a program; never where a probe goes.
 */
#ifndef SSLC_AGENT_FAMILY_H
#define SSLC_AGENT_FAMILY_H

#include <stddef.h>
#include <stdint.h>

enum family {
	FAMILY_OPENSSL,
	FAMILY_GNUTLS,
	FAMILY_NSS,
	FAMILY_JAVA, /* a Java virtual machine: JSSE is Java, whatever else it has loaded */
	FAMILY_GO,
	FAMILY_BORINGSSL,
	FAMILY_WOLFSSL,
	FAMILY_MBEDTLS,
	FAMILY_S2N,
	FAMILY_RUSTLS,
	FAMILY_OTHER, /* TLS code without a name we know */
	FAMILIES,
};

#define FAMILY_BIT(family) (1u << (family))
#define FAMILY_SEARCH_MAX  (256ull << 20) /* bytes of one program: browsers have some 200 MiB */

/** As people write it: "OpenSSL". */
const char *family_word(enum family f);
/** The family of a library by its file name (a path, " (deleted)" may follow), or -1. */
int family_by_name(const char *path);
/**
 * The family of the TLS code inside a file that links it statically: a search for the labels that
 * TLS derives its keys with, then for the implementation's own words. Reads at most limit bytes.
 *
 * fd: an open file; its position is not used. bytes: adds what was read.
 * Returns enum family, or -ENOENT: none found.
 * Source: RFC 5246 (6.3), RFC 8446 (7.1).
 */
int family_by_content(int fd, uint64_t limit, uint64_t *bytes) __attribute__((warn_unused_result));

#endif
