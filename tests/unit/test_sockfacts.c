/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "preloaded/sockfacts.h"

static int client, server;

/* Over the loopback interface. */
static void make_connection(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t len = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM, 0);

	client = socket(AF_INET, SOCK_STREAM, 0);
	assert_true(l >= 0 && client >= 0);
	assert_int_equal(bind(l, (void *)&a, sizeof(a)), 0);
	assert_int_equal(listen(l, 1), 0);
	assert_int_equal(getsockname(l, (void *)&a, &len), 0);
	assert_int_equal(connect(client, (void *)&a, sizeof(a)), 0);
	server = accept(l, NULL, NULL);
	assert_true(server >= 0);
	close(l);
}

static void test_both_ends_of_a_connection_agree(void **state)
{
	struct sslc_ev_open a = {.flags = 0}, b = {.flags = 0};
	uint64_t cookies[2];

	(void)state;
	make_connection();
	assert_int_equal(sockfacts_of(client, &a, &cookies[0]), 0);
	assert_int_equal(sockfacts_of(server, &b, &cookies[1]), 0);
	assert_true(cookies[0] && cookies[1] && cookies[0] != cookies[1]);
	assert_int_equal(a.family, 4);
	assert_int_equal(a.local_port, b.remote_port);
	assert_int_equal(a.remote_port, b.local_port);
	assert_memory_equal(a.local_addr, "\x7f\0\0\1\0\0", 6);
	if (a.flags & SSLC_OPEN_ROLE_EXACT)
		assert_int_equal(a.role, SSLC_ROLE_CLIENT);
	if (b.flags & SSLC_OPEN_ROLE_EXACT)
		assert_int_equal(b.role, SSLC_ROLE_SERVER);
	close(client);
	close(server);
}

static void test_what_is_no_connection_is_said_so(void **state)
{
	struct sslc_ev_open out;
	int s = socket(AF_UNIX, SOCK_STREAM, 0), alone = socket(AF_INET, SOCK_STREAM, 0), files[2];
	uint64_t cookie;

	(void)state;
	assert_int_equal(sockfacts_of(s, &out, &cookie), -EPROTONOSUPPORT);
	assert_int_equal(sockfacts_of(alone, &out, &cookie), -ENOTCONN);
	assert_int_equal(pipe(files), 0);
	assert_int_equal(sockfacts_of(files[0], &out, &cookie), -ENOTSOCK);
	close(files[0]);
	close(files[1]);
	close(s);
	close(alone);
}

/* When the owner is gone the last close() would wait for the peer to read. */
static void test_nobody_makes_us_wait_for_its_last_bytes(void **state)
{
	const struct linger how = {.l_onoff = 1, .l_linger = 20};
	static const char bytes[1 << 16];
	uint64_t began_ns;

	(void)state;
	for (int i = 0; i < 3; i++) {
		make_connection();
		while (send(client, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
			;
		assert_int_equal(setsockopt(client, SOL_SOCKET, SO_LINGER, &how, sizeof(how)), 0);
		began_ns = clock_mono_ns();
		sockfacts_close(client);
		assert_true(clock_mono_ns() - began_ns < 5 * NS_PER_S);
		close(server);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_both_ends_of_a_connection_agree),
		cmocka_unit_test(test_what_is_no_connection_is_said_so),
		cmocka_unit_test(test_nobody_makes_us_wait_for_its_last_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
