/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of agent/coverage/reason.c: facts in, the reason a person is told out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "coverage/reason.h"

#include "counters.h"

#include <ctype.h>
#include <errno.h>

#define OPENSSL FAMILY_BIT(FAMILY_OPENSSL)
#define NSS     FAMILY_BIT(FAMILY_NSS)
#define JAVA    FAMILY_BIT(FAMILY_JAVA)
#define GO      FAMILY_BIT(FAMILY_GO)
#define RUSTLS  FAMILY_BIT(FAMILY_RUSTLS)
#define OTHER   FAMILY_BIT(FAMILY_OTHER)
#define BORING  FAMILY_BIT(FAMILY_BORINGSSL)
#define WOLFSSL FAMILY_BIT(FAMILY_WOLFSSL)

/* Facts by their names; an agent runs. */
#define F(...)                                                                                     \
	(struct reason_facts)                                                                      \
	{                                                                                          \
		.has_agent = true, __VA_ARGS__                                                     \
	}

static const char *why(struct reason_facts f)
{
	return reason_code(reason_of(&f));
}

static void test_all_mirrored_is_captured(void **state)
{
	(void)state;
	assert_string_equal(why(F(.mapped = OPENSSL, .is_probed = true, .mirrored = 3)),
			    "captured");
	/* It chose not to have those. */
	assert_string_equal(
		why(F(.mapped = OPENSSL, .is_probed = true, .mirrored = 3, .filtered = 9)),
		"captured");
	/* A library that it does not use failed. */
	assert_string_equal(
		why(F(.mapped = OPENSSL, .is_probed = true, .mirrored = 3, .error = EACCES)),
		"captured");
}

static void test_without_connections_the_library_tells(void **state)
{
	(void)state;
	assert_string_equal(why(F(.mapped = OPENSSL, .is_probed = true)), "idle");
	assert_string_equal(why(F(.is_probed = true)), "idle");
	assert_string_equal(why(F(.mapped = JAVA)), "java");
	assert_string_equal(why(F(.mapped = NSS)), "library-not-probed");
	assert_string_equal(why(F(.mapped = WOLFSSL)), "unsupported-library");
	assert_string_equal(why(F(.mapped = OPENSSL)), "library-not-probed");
	assert_string_equal(why(F(.mapped = OPENSSL, .error = EPERM)), "library-not-probed");
	assert_string_equal(why(F(.mapped = OPENSSL, .error = EOWNERDEAD)), "seccomp-hazard");
	assert_string_equal(why(F(.inside = GO)), "go-unsupported");
	assert_string_equal(why(F(.inside = GO, .is_probed = true)), "idle");
	assert_string_equal(why(F(.inside = OPENSSL)), "static-stripped");
	assert_string_equal(why(F(.inside = BORING)), "static-stripped");
	assert_string_equal(why(F(.inside = OPENSSL, .has_symbols = true)), "library-not-probed");
	assert_string_equal(why(F(.inside = RUSTLS)), "rustls-or-unknown");
	assert_string_equal(why(F(.inside = OTHER)), "rustls-or-unknown");
}

static void test_what_was_missed_counts_more_than_what_was_not(void **state)
{
	(void)state;
	assert_string_equal(why(F(.unmatched = 1)), "rustls-or-unknown");
	assert_string_equal(why(F(.mirrored = 5, .unmatched = 1)), "rustls-or-unknown");
	assert_string_equal(why(F(.filtered = 5, .unmatched = 1, .mapped = JAVA)), "java");
	/* A library of Java's native part is probed: its TLS is Java's all the same. */
	assert_string_equal(why(F(.mapped = JAVA | OPENSSL, .is_probed = true, .unmatched = 2)),
			    "java");
	assert_string_equal(why(F(.mapped = WOLFSSL, .unmatched = 2)), "unsupported-library");
	assert_string_equal(why(F(.inside = OPENSSL, .unmatched = 2)), "static-stripped");
}

static void test_a_probed_library_is_not_to_blame(void **state)
{
	(void)state;
	assert_string_equal(why(F(.is_probed = true, .unmatched = 2, .unmatched_late = 2)),
			    "attached-late");
	assert_string_equal(why(F(.is_probed = true, .unmatched = 2, .unmatched_late = 1)),
			    "unseen-calls");
	assert_string_equal(why(F(.is_probed = true, .unmatched = 2)), "unseen-calls");
	assert_string_equal(
		why(F(.is_probed = true, .unmatched = 2, .unmatched_late = 2, .unbound_bytes = 1)),
		"held-unbound");
	assert_string_equal(why(F(.is_probed = true, .mirrored = 2, .is_paused = true)),
			    "overhead");
	assert_string_equal(why(F(.is_probed = true, .mirrored = 2, .unbound_bytes = 1)),
			    "held-unbound");
}

static void test_choices_of_the_user_and_of_the_host(void **state)
{
	struct reason_facts none = {.mapped = OPENSSL, .is_probed = true};

	(void)state;
	assert_string_equal(why(F(.filtered = 1)), "filtered");
	assert_string_equal(why(F(.standby = 1)), "standby");
	assert_string_equal(why(F(.standby = 1, .filtered = 1)), "filtered");
	assert_string_equal(why(F(.standby = 1, .mirrored = 1)), "captured");
	assert_string_equal(why(F(.mirrored = 2, .unexplained = 1)), "unexplained");
	assert_string_equal(
		why(F(.mirrored = 2, .unexplained = 1, .unbound_bytes = 1, .is_probed = true)),
		"held-unbound");
	assert_string_equal(why(F(.is_self = true, .mirrored = 1, .unmatched = 1)), "excluded");
	assert_string_equal(why(none), "no-agent");
}

/* Every code is a word of its own, lower case, and finds its reason. */
static void test_the_table_is_whole(void **state)
{
	(void)state;
	for (int r = 0; r < REASONS; r++) {
		const char *code = reason_code((enum reason)r);

		assert_non_null(code);
		for (int other = 0; other < r; other++)
			assert_string_not_equal(code, reason_code((enum reason)other));
		assert_true(strlen(reason_words((enum reason)r)) > 0);
		assert_non_null(reason_advice((enum reason)r));
		for (const char *p = code; *p; p++)
			assert_true(islower((unsigned char)*p) || *p == '-');
	}
}

static void test_gauges_bear_the_codes(void **state)
{
	char name[128];

	(void)state;
	for (int r = 0; r < REASONS; r++)
		reason_gauge((enum reason)r, 7);
	for (int r = 0; r < REASONS; r++) {
		bool never = r == REASON_IDLE || r == REASON_EXCLUDED || r == REASON_NO_AGENT;

		snprintf(name, sizeof(name), "coverage_processes_%s", reason_code((enum reason)r));
		for (char *p = name; *p; p++)
			if (*p == '-')
				*p = '_';
		assert_int_equal(counter_named(name), never ? 0 : 7);
	}
	reason_gauge(REASON_JAVA, 0);
	assert_int_equal(counter_named("coverage_processes_java"), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_mirrored_is_captured),
		cmocka_unit_test(test_without_connections_the_library_tells),
		cmocka_unit_test(test_what_was_missed_counts_more_than_what_was_not),
		cmocka_unit_test(test_a_probed_library_is_not_to_blame),
		cmocka_unit_test(test_choices_of_the_user_and_of_the_host),
		cmocka_unit_test(test_the_table_is_whole),
		cmocka_unit_test(test_gauges_bear_the_codes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
