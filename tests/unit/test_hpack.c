/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of collector/http/hpack.c. The blocks are those of RFC 7541, appendix C. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "counters.h"
#include "http/hpack.h"

struct text {
	char s[2048];
	size_t len;
};

static void on_field(void *ctx, struct span name, struct span value)
{
	struct text *t = ctx;

	t->len += (size_t)snprintf(t->s + t->len, sizeof(t->s) - t->len, "%.*s: %.*s\n",
				   (int)name.len, (const char *)name.p, (int)value.len,
				   (const char *)value.p);
	assert_true(t->len < sizeof(t->s));
}

static size_t unhex(const char *hex, uint8_t *out)
{
	size_t n = 0;
	unsigned v;

	for (; *hex; hex += 2) {
		while (*hex == ' ')
			hex++;
		assert_int_equal(sscanf(hex, "%2x", &v), 1);
		out[n++] = (uint8_t)v;
	}
	return n;
}

static int give(struct hpack *h, const char *hex, struct text *t)
{
	uint8_t block[512];
	size_t n = unhex(hex, block);

	*t = (struct text){0};
	return hpack_block(h, span_of(block, n), on_field, t);
}

static void expect(struct hpack *h, const char *hex, const char *fields)
{
	struct text t;

	assert_int_equal(give(h, hex, &t), 0);
	assert_string_equal(t.s, fields);
}

static struct hpack *make(bool late)
{
	struct hpack *h;

	assert_int_equal(hpack_new(&h, late), 0);
	return h;
}

/* An index has no bits to spare, and a literal may ask not to be kept. */
static void test_representations_of_appendix_c1_and_c2(void **state)
{
	struct hpack *h = make(false);
	struct text t;

	(void)state;
	expect(h, "400a637573746f6d2d6b65790d637573746f6d2d686561646572",
	       "custom-key: custom-header\n");
	expect(h, "040c2f73616d706c652f70617468", ":path: /sample/path\n");
	expect(h, "100870617373776f726406736563726574", "password: secret\n");
	expect(h, "82", ":method: GET\n");
	expect(h, "be", "custom-key: custom-header\n"); /* of the four, only the first was kept */
	assert_int_equal(give(h, "bf", &t), -EBADMSG);
	hpack_free(h);
	h = make(false);
	expect(h, "2a 3f9a0a 82", ":method: GET\n"); /* C.1: 10 and 1337, as sizes of the table */
	hpack_free(h);
}

#define FIRST  "828684410f7777772e6578616d706c652e636f6d" /* C.3.1 */
#define SECOND "828684be58086e6f2d6361636865"             /* C.3.2 */
#define THIRD  "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565"
#define HTTP   ":method: GET\n:scheme: http\n:path: /\n"
#define INDEX  ":method: GET\n:scheme: https\n:path: /index.html\n"

static void test_requests_of_appendix_c3(void **state)
{
	struct hpack *h = make(false);

	(void)state;
	expect(h, FIRST, HTTP ":authority: www.example.com\n");
	expect(h, SECOND, HTTP ":authority: www.example.com\ncache-control: no-cache\n");
	expect(h, THIRD, INDEX ":authority: www.example.com\ncustom-key: custom-value\n");
	hpack_free(h);
}

static void test_huffman_requests_of_appendix_c4(void **state)
{
	struct hpack *h = make(false);

	(void)state;
	expect(h, "828684418cf1e3c2e5f23a6ba0ab90f4ff", HTTP ":authority: www.example.com\n");
	expect(h, "828684be5886a8eb10649cbf",
	       HTTP ":authority: www.example.com\ncache-control: no-cache\n");
	expect(h, "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
	       INDEX ":authority: www.example.com\ncustom-key: custom-value\n");
	hpack_free(h);
}

#define LOCATION "location: https://www.example.com\n"
#define DATE     "date: Mon, 21 Oct 2013 20:13:21 GMT\n"

/* As those of C.6 below, without Huffman's code. */
static void test_responses_of_appendix_c5_without_their_settings(void **state)
{
	struct hpack *h = make(false);

	(void)state;
	expect(h,
	       "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a3231"
	       "20474d546e1768747470733a2f2f7777772e6578616d706c652e636f6d",
	       ":status: 302\ncache-control: private\n" DATE LOCATION);
	expect(h, "4803333037c1c0bf", ":status: 307\ncache-control: private\n" DATE LOCATION);
	expect(h,
	       "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a697077"
	       "38666f6f3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d616765"
	       "3d333630303b2076657273696f6e3d31",
	       ":status: 200\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:22 "
	       "GMT\n" LOCATION "content-encoding: gzip\n"
	       "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1\n");
	hpack_free(h);
}

/* The encoder's table has 256 bytes, which only its settings said: what it evicts stays in ours. */
static void test_responses_of_appendix_c6_without_their_settings(void **state)
{
	struct hpack *h = make(false);

	(void)state;
	expect(h,
	       "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff"
	       "6e919d29ad171863c78f0b97c8e9ae82ae43d3",
	       ":status: 302\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:21 "
	       "GMT\n" LOCATION);
	expect(h, "4883640effc1c0bf",
	       ":status: 307\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:21 "
	       "GMT\n" LOCATION);
	expect(h,
	       "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6"
	       "c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
	       ":status: 200\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:22 "
	       "GMT\n" LOCATION "content-encoding: gzip\n"
	       "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1\n");
	hpack_free(h);
}

static void test_late_table_knows_what_was_added_and_guesses_nothing(void **state)
{
	uint64_t before = counter_named("http1_fields_unknown");
	struct hpack *h = make(true);

	(void)state;
	/* The first block was not seen. */
	expect(h, SECOND, HTTP "x-unknown-62: \ncache-control: no-cache\n");
	/* 62 is the newest, 63 and beyond are older than what was seen. */
	expect(h, "82be bf", ":method: GET\ncache-control: no-cache\nx-unknown-63: \n");
	/* A name that is not known is an entry under its placeholder from then on. */
	expect(h, "7f04 0161", "x-unknown-67: a\n");
	expect(h, "be bf", "x-unknown-67: a\ncache-control: no-cache\n");
	assert_int_equal(counter_named("http1_fields_unknown") - before, 3);
	hpack_free(h);
}

static void test_forgetting_makes_entries_unknown(void **state)
{
	struct hpack *h = make(false);

	(void)state;
	expect(h, FIRST, HTTP ":authority: www.example.com\n");
	assert_int_equal(hpack_forget(h), 0);
	expect(h, SECOND, HTTP "x-unknown-62: \ncache-control: no-cache\n");
	hpack_free(h);
}

static void test_index_that_nobody_made_breaks_the_connection(void **state)
{
	struct hpack *h = make(false);
	struct text t;

	(void)state;
	assert_int_equal(give(h, "be", &t), -EBADMSG);
	assert_int_equal(give(h, "82", &t), -EBADMSG); /* for good */
	assert_int_equal(hpack_forget(h), 0);
	expect(h, "82", ":method: GET\n");
	hpack_free(h);
}

static void test_cut_and_impossible_blocks_are_refused(void **state)
{
	static const char *const blocks[] = {
		"80",               /* index 0 */
		"40",               /* a name is missing */
		"400a6375",         /* cut within the name */
		"4001610561",       /* cut within the value */
		"7fffffffffffff7f", /* an index without end */
		"0001618140",       /* Huffman padding that is not of ones */
	};
	struct text t;

	(void)state;
	for (size_t i = 0; i < sizeof(blocks) / sizeof(blocks[0]); i++) {
		for (int late = 0; late < 2; late++) {
			struct hpack *h = make(late);

			assert_int_equal(give(h, blocks[i], &t), -EBADMSG);
			hpack_free(h);
		}
	}
}

static void test_table_sizes_are_followed(void **state)
{
	struct hpack *h = make(false);
	struct text t;

	(void)state;
	expect(h, FIRST, HTTP ":authority: www.example.com\n");
	expect(h, "20 3fe11f 82", ":method: GET\n"); /* 0, which evicts all, then 4096 */
	assert_int_equal(give(h, "be", &t), -EBADMSG);
	hpack_free(h);
	h = make(false);
	expect(h, "3fe1ffff03 41 0161", ":authority: a\n"); /* 8 MiB: kept at 64 KiB */
	expect(h, "be c6", ":authority: a\nx-unknown-70: \n");
	hpack_free(h);
}

/* Some servers take a field of 1 MiB: the others of the connection are still told. */
static void test_a_huge_field_is_left_out_and_the_rest_goes_on(void **state)
{
	static const uint8_t forms[] = {0x40, 0x00, 0x10};
	size_t len = 200000;
	uint8_t *block = malloc(len + 16);

	(void)state;
	for (size_t i = 0; i < sizeof(forms); i++) {
		uint64_t before = counter_named("http1_fields_huge");
		/* name "a", a value of 200000 bytes; then :method: GET */
		uint8_t head[] = {forms[i], 1, 'a', 0x7f, 0xc1, 0x99, 0x0c};
		struct hpack *h = make(false);
		struct text t = {0};

		expect(h, FIRST, HTTP ":authority: www.example.com\n");
		memcpy(block, head, sizeof(head));
		memset(block + sizeof(head), 'v', len);
		block[sizeof(head) + len] = 0x82;
		assert_int_equal(
			hpack_block(h, span_of(block, sizeof(head) + len + 1), on_field, &t), 0);
		assert_string_equal(t.s, ":method: GET\n");
		assert_int_equal(counter_named("http1_fields_huge") - before, 1);
		/* It would be the newest entry, or it has emptied the table. */
		expect(h, "be",
		       forms[i] == 0x40 ? "x-unknown-62: \n" : ":authority: www.example.com\n");
		hpack_free(h);
	}
	free(block);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_representations_of_appendix_c1_and_c2),
		cmocka_unit_test(test_requests_of_appendix_c3),
		cmocka_unit_test(test_huffman_requests_of_appendix_c4),
		cmocka_unit_test(test_responses_of_appendix_c5_without_their_settings),
		cmocka_unit_test(test_responses_of_appendix_c6_without_their_settings),
		cmocka_unit_test(test_late_table_knows_what_was_added_and_guesses_nothing),
		cmocka_unit_test(test_forgetting_makes_entries_unknown),
		cmocka_unit_test(test_index_that_nobody_made_breaks_the_connection),
		cmocka_unit_test(test_cut_and_impossible_blocks_are_refused),
		cmocka_unit_test(test_table_sizes_are_followed),
		cmocka_unit_test(test_a_huge_field_is_left_out_and_the_rest_goes_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
