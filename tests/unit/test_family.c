/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of agent/coverage/family.c: names of real libraries, and files made of words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "coverage/family.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void test_libraries_are_known_by_their_names(void **state)
{
	static const struct {
		const char *path;
		int family;
	} cases[] = {
		{"/usr/lib/x86_64-linux-gnu/libssl.so.3", FAMILY_OPENSSL},
		{"/usr/lib/libssl.so.1.1 (deleted)", FAMILY_OPENSSL},
		{"libssl-8a1b2c3d.so.1.1", FAMILY_OPENSSL}, /* Python wheels */
		{"/usr/lib/x86_64-linux-gnu/libssl3.so", FAMILY_NSS},
		{"/usr/lib/firefox/libssl3.so", FAMILY_NSS},
		{"/usr/lib/x86_64-linux-gnu/libgnutls.so.30.34.3", FAMILY_GNUTLS},
		{"/usr/lib/jvm/java-17-openjdk-amd64/lib/server/libjvm.so", FAMILY_JAVA},
		{"/opt/java/lib/default/libj9vm29.so", FAMILY_JAVA},
		{"/usr/lib/libwolfssl.so.35", FAMILY_WOLFSSL},
		{"/usr/lib/x86_64-linux-gnu/libmbedtls.so.14", FAMILY_MBEDTLS},
		{"/usr/lib/libs2n.so.1", FAMILY_S2N},
		{"/tmp/libnetty_tcnative_linux_x86_6412.so (deleted)", FAMILY_BORINGSSL},
		{"/usr/lib/x86_64-linux-gnu/libcrypto.so.3", -1},
		{"/usr/lib/x86_64-linux-gnu/libc.so.6", -1},
		{"/home/libssl.so.3/notes.txt", -1},
		{"/tmp/libssl.socks", FAMILY_OPENSSL}, /* a guess by name: symbols decide later */
		{"/tmp/libssl-notes.txt", -1},
		{"/usr/bin/openssl", -1},
		{"", -1},
		{"/", -1},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (family_by_name(cases[i].path) != cases[i].family)
			fail_msg("%s: %d, wanted %d", cases[i].path, family_by_name(cases[i].path),
				 cases[i].family);
}

static void test_each_family_has_a_word_of_its_own(void **state)
{
	(void)state;
	for (int a = 0; a < FAMILIES; a++)
		for (int b = 0; b < a; b++)
			assert_string_not_equal(family_word((enum family)a),
						family_word((enum family)b));
}

/* A file of `size` bytes with words at places; returns what is found in it. */
struct placed {
	size_t at;
	const char *word;
	size_t len;
};
#define AT(place, literal)                                                                         \
	{                                                                                          \
		(place), (literal), sizeof(literal) - 1                                            \
	}

static int found_in(size_t size, const struct placed *words, size_t n, uint64_t limit,
		    uint64_t *bytes)
{
	char name[] = "/tmp/test_family.XXXXXX", *text = calloc(1, size);
	int fd = mkstemp(name), family;

	assert_true(fd >= 0 && text);
	unlink(name);
	memset(text, '.', size);
	for (size_t i = 0; i < n; i++)
		memcpy(text + words[i].at, words[i].word, words[i].len);
	assert_int_equal(write(fd, text, size), size);
	free(text);
	family = family_by_content(fd, limit, bytes);
	close(fd);
	return family;
}

static void test_words_alone_are_no_tls(void **state)
{
	const struct placed talk[] = {AT(0, "OpenSSL 3.0"), AT(40, "BoringSSL"),
				      AT(80, "\xff Go buildinf:"), AT(120, "rustls")};
	uint64_t bytes = 0;

	(void)state;
	assert_int_equal(found_in(1000, talk, 4, UINT64_MAX, &bytes), -ENOENT);
	assert_int_equal(bytes, 1000);
}

static void test_labels_and_a_word_tell_the_family(void **state)
{
	const struct placed openssl[] = {AT(5, "c hs traffic"), AT(50, "../ssl/ssl_lib.c")};
	const struct placed boring[] = {AT(5, "key expansion"), AT(50, "src/ssl/ssl_lib.cc")};
	const struct placed rust[] = {AT(5, "c hs traffic"), AT(50, "rustls"), AT(90, "BoringSSL")};
	const struct placed go[] = {AT(5, "c hs traffic"), AT(50, "OpenSSL 1."),
				    AT(90, "\xff Go buildinf:")};
	const struct placed bare[] = {AT(5, "s hs traffic")};
	uint64_t bytes = 0;

	(void)state;
	assert_int_equal(found_in(200, openssl, 2, UINT64_MAX, &bytes), FAMILY_OPENSSL);
	assert_int_equal(found_in(200, boring, 2, UINT64_MAX, &bytes), FAMILY_BORINGSSL);
	assert_int_equal(found_in(200, rust, 3, UINT64_MAX, &bytes), FAMILY_RUSTLS);
	assert_int_equal(found_in(200, go, 3, UINT64_MAX, &bytes), FAMILY_GO);
	assert_int_equal(found_in(200, bare, 1, UINT64_MAX, &bytes), FAMILY_OTHER);
	assert_int_equal(bytes, 5 * 400);
}

static void test_words_are_found_wherever_reads_are_cut(void **state)
{
	(void)state;
	for (size_t at = (256u << 10) - 14; at <= (256u << 10) + 2; at++) {
		const struct placed words[] = {AT(at, "key expansion"),
					       AT(at + (256u << 10), "wolfSSL")};
		uint64_t bytes = 0;

		assert_int_equal(found_in(1u << 20, words, 2, UINT64_MAX, &bytes), FAMILY_WOLFSSL);
	}
}

static void test_no_more_is_read_than_the_limit_says(void **state)
{
	const struct placed words[] = {AT(3u << 20, "key expansion")};
	uint64_t bytes = 0;

	(void)state;
	assert_int_equal(found_in(4u << 20, words, 1, 1u << 20, &bytes), -ENOENT);
	assert_int_equal(bytes, 1u << 20);
	assert_int_equal(found_in(4u << 20, words, 1, 0, &bytes), -ENOENT);
	assert_int_equal(bytes, 1u << 20);
}

static void test_empty_or_unreadable_files_have_no_family(void **state)
{
	uint64_t bytes = 0;

	(void)state;
	assert_int_equal(found_in(0, NULL, 0, UINT64_MAX, &bytes), -ENOENT);
	assert_int_equal(family_by_content(-1, UINT64_MAX, &bytes), -ENOENT);
	assert_int_equal(bytes, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_libraries_are_known_by_their_names),
		cmocka_unit_test(test_each_family_has_a_word_of_its_own),
		cmocka_unit_test(test_words_alone_are_no_tls),
		cmocka_unit_test(test_labels_and_a_word_tell_the_family),
		cmocka_unit_test(test_words_are_found_wherever_reads_are_cut),
		cmocka_unit_test(test_no_more_is_read_than_the_limit_says),
		cmocka_unit_test(test_empty_or_unreadable_files_have_no_family),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
