/* SPDX-License-Identifier: Apache-2.0 */
/*
 * family: a file's name or an open file in, the family of its TLS code out. Files are foreign:
 * reads are bounded and nothing in them is taken for more than a word. Never maps a file, because
 * its owner may cut it meanwhile.
 */
#include "coverage/family.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N(array)    (sizeof(array) / sizeof((array)[0]))
#define CHUNK_BYTES (256u << 10)
#define WORD_MAX    64 /* a word that is searched for, at most */

const char *family_word(enum family f)
{
	static const char *const words[FAMILIES] = {
		[FAMILY_OPENSSL] = "OpenSSL", [FAMILY_GNUTLS] = "GnuTLS",
		[FAMILY_NSS] = "NSS",         [FAMILY_JAVA] = "Java",
		[FAMILY_GO] = "Go",           [FAMILY_BORINGSSL] = "BoringSSL",
		[FAMILY_WOLFSSL] = "wolfSSL", [FAMILY_MBEDTLS] = "Mbed TLS",
		[FAMILY_S2N] = "s2n",         [FAMILY_RUSTLS] = "rustls",
		[FAMILY_OTHER] = "unknown",
	};

	return words[f];
}

int family_by_name(const char *path)
{
	/* A name ends where its version begins; the longer of two beginnings stands first. */
	static const struct {
		const char *begin;
		enum family family;
	} names[] = {
		{"libssl3.so", FAMILY_NSS},
		{"libssl.so", FAMILY_OPENSSL},
		{"libssl-", FAMILY_OPENSSL},
		{"libssl_", FAMILY_OPENSSL},
		{"libgnutls.so", FAMILY_GNUTLS},
		{"libjvm.so", FAMILY_JAVA},
		{"libj9vm", FAMILY_JAVA},
		{"libboringssl", FAMILY_BORINGSSL},
		{"libnetty_tcnative", FAMILY_BORINGSSL},
		{"libconscrypt", FAMILY_BORINGSSL},
		{"libwolfssl.so", FAMILY_WOLFSSL},
		{"libmbedtls.so", FAMILY_MBEDTLS},
		{"libs2n.so", FAMILY_S2N},
		{"librustls.so", FAMILY_RUSTLS},
	};
	const char *base = strrchr(path, '/');

	base = base ? base + 1 : path;
	for (size_t i = 0; i < N(names); i++)
		if (!strncmp(base, names[i].begin, strlen(names[i].begin)) && strstr(base, ".so"))
			return (int)names[i].family;
	return -1;
}

struct word {
	const char *bytes;
	size_t len;
};
#define WORD(literal)                                                                              \
	{                                                                                          \
		(literal), sizeof(literal) - 1                                                     \
	}

/* Labels of the key derivation: no implementation of TLS 1.3, or of 1.2, works without. */
static const struct word labels[] = {WORD("hs traffic"), WORD("key expansion")};

static const struct {
	struct word word;
	enum family family;
} marks[] = {
	/* Go's own first: a Go program may speak of any other. */
	{WORD("\xff Go buildinf:"), FAMILY_GO},
	/* Its cryptography may be BoringSSL's. */
	{WORD("rustls"), FAMILY_RUSTLS},
	{WORD("BoringSSL"), FAMILY_BORINGSSL},
	{WORD("ssl/ssl_lib.cc"), FAMILY_BORINGSSL},
	{WORD("ssl/ssl_lib.c"), FAMILY_OPENSSL},
	{WORD("wolfSSL"), FAMILY_WOLFSSL},
	{WORD("mbedtls"), FAMILY_MBEDTLS},
	{WORD("Mbed TLS"), FAMILY_MBEDTLS},
	{WORD("s2n_connection"), FAMILY_S2N},
	{WORD("gnutls_"), FAMILY_GNUTLS},
	{WORD("OpenSSL 1."), FAMILY_OPENSSL},
	{WORD("OpenSSL 3."), FAMILY_OPENSSL},
	{WORD("NSS_"), FAMILY_NSS},
};

/* Which of the words stand in the file: their bits; stops when `enough` of them are there. */
static unsigned search(int fd, uint64_t limit, const struct word *words, size_t n, unsigned enough,
		       uint64_t *bytes)
{
	uint8_t *buf = malloc(WORD_MAX + CHUNK_BYTES);
	unsigned found = 0;
	size_t kept = 0; /* the end of the last chunk: a word may begin there */
	ssize_t got;

	for (uint64_t at = 0; buf && at < limit && !(found & enough); at += (uint64_t)got) {
		got = pread(fd, buf + kept, CHUNK_BYTES, (off_t)at);
		if (got <= 0)
			break;
		*bytes += (uint64_t)got;
		for (size_t i = 0; i < n; i++)
			if (memmem(buf, kept + (size_t)got, words[i].bytes, words[i].len))
				found |= 1u << i;
		size_t have = kept + (size_t)got;

		kept = have < WORD_MAX ? have : WORD_MAX;
		memmove(buf, buf + have - kept, kept);
	}
	free(buf);
	return found;
}

int family_by_content(int fd, uint64_t limit, uint64_t *bytes)
{
	struct word words[N(marks)];
	unsigned found;

	if (!search(fd, limit, labels, N(labels), ~0u, bytes))
		return -ENOENT;
	for (size_t i = 0; i < N(marks); i++)
		words[i] = marks[i].word;
	found = search(fd, limit, words, N(marks), 1u, bytes);
	for (size_t i = 0; i < N(marks); i++)
		if (found & (1u << i))
			return (int)marks[i].family;
	return FAMILY_OTHER;
}
