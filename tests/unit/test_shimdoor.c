/* SPDX-License-Identifier: Apache-2.0 */
/* shimdoor: processes that come, this one and children of it, with rings made here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "counters.h"
#include "preloaded/shimdoor.h"

#define SIZE    SSLC_SHIM_DATA_MIN
#define WAIT_MS 10000
#define CROWD   300 /* more than may wait to be taken */

static char dir[32], path[64];
static struct shimask *asker;
static struct shimdoor *door;

/* A ring as the library makes it, in this process's memory; its descriptor. */
static int make_ring(void)
{
	int fd = memfd_create(SSLC_SHIM_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct sslc_shim_ring *r;

	if (fd < 0 || ftruncate(fd, (off_t)sslc_shim_bytes(SIZE)) ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		return -1;
	r = mmap(NULL, sslc_shim_bytes(SIZE), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (r == MAP_FAILED)
		return -1;
	r->magic = SSLC_SHIM_MAGIC;
	r->version = SSLC_SHIM_VERSION;
	r->rec_size = sizeof(struct sslc_shim_rec);
	r->data_size = SIZE;
	r->kin = 77;
	return fd;
}

static int knock(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	memcpy(a.sun_path, path, strlen(path) + 1);
	return connect(s, (struct sockaddr *)&a, sizeof(a)) ? -1 : s;
}

static bool say(int s, int memfd, uint32_t version)
{
	struct sslc_shim_hello hello = {
		.magic = SSLC_SHIM_MAGIC, .version = version, .data_size = SIZE};
	struct iovec iov = {.iov_base = &hello, .iov_len = sizeof(hello)};
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control = {.room = {0}};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = control.room,
			   .msg_controllen = sizeof(control.room)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &memfd, sizeof(int));
	return sendmsg(s, &m, MSG_NOSIGNAL) == (ssize_t)sizeof(hello);
}

static bool greet(int memfd, uint32_t version)
{
	int s = knock();
	bool done = s >= 0 && say(s, memfd, version);

	if (s >= 0)
		close(s);
	return done;
}

/* The next one that was heard, waiting for it. */
static struct shimpeer *take(void)
{
	struct pollfd p = {.fd = shimdoor_fd(door), .events = POLLIN};
	struct shimpeer *peer = shimdoor_take(door);

	for (int i = 0; !peer && i < 100 && poll(&p, 1, WAIT_MS) == 1; i++)
		peer = shimdoor_take(door);
	assert_non_null(peer);
	return peer;
}

static int begin(void **state)
{
	const struct sockfacts_isn nobody = {.read = NULL};

	(void)state;
	strcpy(dir, "/tmp/shimdoor-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/sock", dir);
	return shimask_new(&asker, &nobody) || shimdoor_open(&door, path, asker) ? -1 : 0;
}

static int end(void **state)
{
	(void)state;
	shimdoor_free(door);
	shimask_free(asker);
	return access(path, F_OK) ? rmdir(dir) : -1;
}

static void test_who_comes_is_known(void **state)
{
	int fd = make_ring();
	struct shimpeer *peer;

	(void)state;
	assert_true(greet(fd, SSLC_SHIM_VERSION));
	peer = take();
	assert_int_equal(peer->facts.pid, getpid());
	assert_int_equal(peer->facts.uid, getuid());
	assert_int_equal(peer->facts.kin, 77);
	assert_string_equal(peer->facts.comm, "test_shimdoor");
	assert_true(peer->facts.start_ns > 0);
	assert_true(peer->pidfd >= 0);
	assert_non_null(peer->seat);
	assert_true(shimpeer_has_ring(peer));
	shimpeer_free(peer);
	close(fd);
}

/* It lets a child come that ends at once, and is waited for. */
static void let_a_child_come(int fd)
{
	int status;
	pid_t pid = fork();

	if (!pid)
		_exit(!greet(fd, SSLC_SHIM_VERSION));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void test_who_has_ended_is_told_all_the_same(void **state)
{
	int fd = make_ring();

	(void)state;
	for (int i = 0; i < 50; i++) {
		struct shimpeer *peer;

		let_a_child_come(fd);
		peer = take();
		assert_int_not_equal(peer->facts.pid, getpid());
		assert_true(peer->pidfd < 0 || peer->seat); /* heard in time, or not */
		assert_int_equal(peer->facts.kin, 77);
		shimpeer_free(peer);
	}
	close(fd);
}

/* It has the file, but not in its memory: so it began another program since. */
static void test_who_does_not_have_the_ring_cannot_be_asked(void **state)
{
	const uint64_t bytes = sslc_shim_bytes(SIZE);
	int fd = make_ring(), copy = memfd_create("other", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct shimpeer *peer;
	char head[4096];

	(void)state;
	assert_int_equal(ftruncate(copy, (off_t)bytes), 0);
	assert_int_equal(fcntl(copy, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), 0);
	assert_int_equal(pread(fd, head, sizeof(head), 0), sizeof(head));
	assert_int_equal(pwrite(copy, head, sizeof(head), 0), sizeof(head));
	assert_true(greet(copy, SSLC_SHIM_VERSION));
	peer = take();
	assert_int_equal(peer->pidfd, -1);
	assert_null(peer->seat);
	shimpeer_free(peer);
	close(fd);
	close(copy);
}

static void test_what_is_no_ring_is_refused(void **state)
{
	uint64_t refused = counter_named("preload_processes_refused");
	int fd = make_ring(), other = memfd_create("other", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	(void)state;
	assert_true(greet(fd, SSLC_SHIM_VERSION + 1));
	assert_true(greet(other, SSLC_SHIM_VERSION));
	assert_true(greet(0, SSLC_SHIM_VERSION));
	assert_true(greet(fd, SSLC_SHIM_VERSION));
	shimpeer_free(take()); /* the last one; and nobody else */
	assert_null(shimdoor_take(door));
	assert_int_equal(counter_named("preload_processes_refused"), refused + 3);
	close(fd);
	close(other);
}

static void test_who_says_nothing_keeps_nobody_out(void **state)
{
	int fd = make_ring(), silent[5];
	char byte;

	(void)state;
	for (int i = 0; i < 5; i++)
		silent[i] = knock();
	assert_true(greet(fd, SSLC_SHIM_VERSION));
	shimpeer_free(take());
	for (int i = 0; i < 5; i++) { /* and is sent away */
		struct pollfd p = {.fd = silent[i], .events = POLLIN};

		assert_int_equal(poll(&p, 1, WAIT_MS), 1);
		assert_int_equal(recv(silent[i], &byte, 1, 0), 0);
		close(silent[i]);
	}
	close(fd);
}

static void test_a_crowd_is_heard_as_it_is_taken(void **state)
{
	int fd = make_ring();
	unsigned n = 0;
	int status;
	pid_t pid;

	(void)state;
	pid = fork();
	if (!pid) {
		for (unsigned i = 0; i < CROWD; i++)
			if (!greet(fd, SSLC_SHIM_VERSION)) /* waits for its place */
				_exit(1);
		_exit(0);
	}
	for (; n < CROWD; n++)
		shimpeer_free(take());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_null(shimdoor_take(door));
	close(fd);
}

static void test_closed_nobody_is_heard_and_the_rest_can_be_taken(void **state)
{
	int fd = make_ring(), s;

	(void)state;
	assert_true(greet(fd, SSLC_SHIM_VERSION));
	shimpeer_free(take());
	assert_true(greet(fd, SSLC_SHIM_VERSION));
	assert_int_equal(
		poll(&(struct pollfd){.fd = shimdoor_fd(door), .events = POLLIN}, 1, WAIT_MS), 1);
	shimdoor_close(door);
	s = knock();
	assert_true(s < 0 || say(s, fd, SSLC_SHIM_VERSION));
	usleep(20000);
	shimpeer_free(take());
	assert_null(shimdoor_take(door));
	if (s >= 0)
		close(s);
	close(fd);
}

static void test_a_second_door_at_the_same_place_is_refused(void **state)
{
	struct shimdoor *other = NULL;

	(void)state;
	assert_int_equal(shimdoor_open(&other, path, asker), -EADDRINUSE);
	assert_null(other);
	assert_int_equal(access(path, F_OK), 0);
}

static int quiet(void **state)
{
	(void)state;
	log_set_level(LOG_ERROR);
	return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_who_comes_is_known),
		TEST(test_who_has_ended_is_told_all_the_same),
		TEST(test_who_does_not_have_the_ring_cannot_be_asked),
		TEST(test_what_is_no_ring_is_refused),
		TEST(test_who_says_nothing_keeps_nobody_out),
		TEST(test_a_crowd_is_heard_as_it_is_taken),
		TEST(test_closed_nobody_is_heard_and_the_rest_can_be_taken),
		TEST(test_a_second_door_at_the_same_place_is_refused),
	};

	return cmocka_run_group_tests(tests, quiet, NULL);
}
