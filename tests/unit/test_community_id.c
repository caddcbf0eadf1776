/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of collector/http/community_id.c; the ids are those that Suricata gives the
 * connections. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "http/community_id.h"

static void test_ends_may_be_swapped(void **state)
{
	struct frame_flow_open open = {.family = 4,
				       .client_addr = {128, 232, 110, 120},
				       .server_addr = {66, 35, 250, 204}};
	char id[COMMUNITY_ID_LEN];

	(void)state;
	assert_int_equal(community_id(id, &open, 34855, 80), 0);
	assert_string_equal(id, "1:LQU9qZlK+B5F3KDmev6m5PMibrg=");
	memcpy(open.client_addr, (uint8_t[]){66, 35, 250, 204}, 4);
	memcpy(open.server_addr, (uint8_t[]){128, 232, 110, 120}, 4);
	assert_int_equal(community_id(id, &open, 80, 34855), 0);
	assert_string_equal(id, "1:LQU9qZlK+B5F3KDmev6m5PMibrg=");
}

static void test_equal_addresses_are_ordered_by_port(void **state)
{
	struct frame_flow_open open = {
		.family = 6, .client_addr = {[15] = 1}, .server_addr = {[15] = 1}};
	char a[COMMUNITY_ID_LEN], b[COMMUNITY_ID_LEN];

	(void)state;
	assert_int_equal(community_id(a, &open, 5000, 443), 0);
	assert_int_equal(community_id(b, &open, 443, 5000), 0);
	assert_string_equal(a, b);
	assert_int_equal(strlen(a), COMMUNITY_ID_LEN - 1);
	assert_int_equal(community_id(b, &open, 443, 5001), 0);
	assert_string_not_equal(a, b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ends_may_be_swapped),
		cmocka_unit_test(test_equal_addresses_are_ordered_by_port),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
