/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of agent/coverage/control.c: a real socket in a directory of its own, asked by this
 * process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "coverage/control.h"

#include "counters.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define BIG (8u << 20) /* an answer that no socket buffer takes at once */

struct rig {
	char dir[40], path[80];
	struct event_base *base;
	struct control *control;
	unsigned n_asked;
};

static json_t *answer_name(void *ctx)
{
	((struct rig *)ctx)->n_asked++;
	return json_pack("{s:s}", "name", "value");
}

static json_t *answer_big(void *ctx)
{
	char *text = malloc(BIG);
	json_t *j;

	(void)ctx;
	memset(text, 'x', BIG);
	j = json_pack("[s#]", text, (int)BIG);
	free(text);
	return j;
}

static json_t *answer_nothing(void *ctx)
{
	(void)ctx;
	return NULL; /* as when out of memory */
}

static const struct control_question questions[] = {
	{"name", answer_name},
	{"big", answer_big},
	{"nothing", answer_nothing},
	{.name = NULL},
};

static int set_up(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));

	snprintf(r->dir, sizeof(r->dir), "/tmp/test_control.XXXXXX");
	assert_non_null(mkdtemp(r->dir));
	snprintf(r->path, sizeof(r->path), "%s/agent-%d.sock", r->dir, (int)getpid());
	r->base = event_base_new();
	assert_int_equal(control_open(&r->control, r->base, r->dir, questions, r), 0);
	*state = r;
	return 0;
}

static int tear_down(void **state)
{
	struct rig *r = *state;

	control_close(r->control);
	event_base_free(r->base);
	assert_int_equal(rmdir(r->dir), 0); /* nothing is left in it */
	free(r);
	return 0;
}

static int connect_to(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	assert_true(fd >= 0);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	if (connect(fd, (struct sockaddr *)&a, sizeof(a))) {
		close(fd);
		return -1;
	}
	return fd;
}

static void turn(struct rig *r)
{
	for (int i = 0; i < 20; i++)
		event_base_loop(r->base, EVLOOP_NONBLOCK);
}

/* What comes until the other side closes; the caller's to free. NULL: it does not close. */
static char *listen_to(struct rig *r, int fd, size_t *len)
{
	char *text = malloc(BIG + 65536);
	size_t n = 0;
	ssize_t got = -1;

	for (int i = 0; i < 10000; i++) {
		turn(r);
		got = read(fd, text + n, BIG + 65535 - n);
		if (got == 0 || (got < 0 && errno != EAGAIN))
			break;
		n += got > 0 ? (size_t)got : 0;
		if (got < 0)
			usleep(100);
	}
	close(fd);
	text[n] = '\0';
	*len = n;
	if (got < 0 && errno != ECONNRESET) {
		free(text);
		return NULL;
	}
	return text;
}

static void assert_answer(struct rig *r, const char *question, size_t len, const char *wanted)
{
	int fd = connect_to(r->path);
	char *got;
	size_t n;

	assert_true(fd >= 0);
	assert_int_equal(send(fd, question, len, MSG_NOSIGNAL), len);
	got = listen_to(r, fd, &n);
	assert_non_null(got);
	assert_string_equal(got, wanted);
	free(got);
}
#define ASSERT_ANSWER(r, question, wanted) assert_answer(r, question, sizeof(question) - 1, wanted)

#define REFUSED "{\"error\":\"no such question\"}\n"

static void test_a_question_is_answered(void **state)
{
	struct rig *r = *state;
	uint64_t asked = counter_named("control_questions");

	ASSERT_ANSWER(r, "name\n", "{\"name\":\"value\"}\n");
	ASSERT_ANSWER(r, "name\nname\nmore", "{\"name\":\"value\"}\n"); /* one each */
	assert_int_equal(r->n_asked, 2);
	assert_int_equal(counter_named("control_questions"), asked + 2);
}

static void test_anything_else_is_refused(void **state)
{
	struct rig *r = *state;
	uint64_t refused = counter_named("control_refused");
	char noise[4096];

	ASSERT_ANSWER(r, "\n", REFUSED);
	ASSERT_ANSWER(r, "nam\n", REFUSED);
	ASSERT_ANSWER(r, "names\n", REFUSED);
	ASSERT_ANSWER(r, "NAME\n", REFUSED);
	ASSERT_ANSWER(r, "name\r\n", REFUSED);
	ASSERT_ANSWER(r, "name\0\n", REFUSED);
	ASSERT_ANSWER(r, "GET / HTTP/1.1\r\n\r\n", REFUSED);
	memset(noise, 'n', sizeof(noise)); /* no end of line within the bound */
	assert_answer(r, noise, sizeof(noise), REFUSED);
	for (size_t i = 0; i < sizeof(noise); i++)
		noise[i] = (char)(i * 37 + 11);
	assert_answer(r, noise, sizeof(noise), REFUSED);
	assert_int_equal(r->n_asked, 0);
	assert_int_equal(counter_named("control_refused"), refused + 9);
}

static void test_a_question_may_come_in_pieces(void **state)
{
	static const char question[] = "name\n";
	struct rig *r = *state;
	int fd = connect_to(r->path);
	size_t n;
	char *got;

	for (size_t i = 0; i < sizeof(question) - 1; i++) {
		assert_int_equal(r->n_asked, 0);
		assert_int_equal(send(fd, question + i, 1, 0), 1);
		turn(r);
	}
	got = listen_to(r, fd, &n);
	assert_string_equal(got, "{\"name\":\"value\"}\n");
	free(got);
}

static void test_a_large_answer_arrives_whole_though_read_slowly(void **state)
{
	struct rig *r = *state;
	int fd = connect_to(r->path);
	size_t n;
	char *got;

	assert_int_equal(send(fd, "big\n", 4, 0), 4);
	turn(r);
	ASSERT_ANSWER(r, "name\n", "{\"name\":\"value\"}\n"); /* others do not wait for it */
	got = listen_to(r, fd, &n);
	assert_int_equal(n, BIG + 5);
	assert_memory_equal(got, "[\"xx", 4);
	assert_memory_equal(got + n - 4, "x\"]\n", 4);
	free(got);
}

static void test_nothing_to_answer_closes(void **state)
{
	ASSERT_ANSWER(*state, "nothing\n", "");
}

static void test_clients_that_go_away_leave_no_trace(void **state)
{
	struct rig *r = *state;

	for (int i = 0; i < 100; i++) {
		int fd = connect_to(r->path);

		if (i % 3 == 0)
			assert_int_equal(send(fd, "na", 2, 0), 2);
		if (i % 3 == 1)
			assert_int_equal(send(fd, "big\n", 4, 0), 4);
		if (i % 2)
			turn(r);
		close(fd);
		turn(r);
	}
	ASSERT_ANSWER(r, "name\n", "{\"name\":\"value\"}\n");
}

static void test_so_many_may_ask_at_once_and_no_more(void **state)
{
	struct rig *r = *state;
	int fd[CONTROL_CLIENTS_MAX];
	uint64_t refused = counter_named("control_refused");

	for (int i = 0; i < CONTROL_CLIENTS_MAX; i++)
		fd[i] = connect_to(r->path);
	turn(r);
	assert_int_equal(counter_named("control_refused"), refused);
	ASSERT_ANSWER(r, "name\n", "");
	assert_int_equal(counter_named("control_refused"), refused + 1);
	close(fd[0]);
	turn(r);
	ASSERT_ANSWER(r, "name\n", "{\"name\":\"value\"}\n");
	for (int i = 1; i < CONTROL_CLIENTS_MAX; i++)
		close(fd[i]);
}

static void test_only_the_owner_sees_the_socket(void **state)
{
	struct rig *r = *state;
	struct stat st;

	assert_int_equal(lstat(r->path, &st), 0);
	assert_true(S_ISSOCK(st.st_mode));
	assert_int_equal(st.st_mode & 07777, 0600);
}

/* Even if the file's mode were opened. */
static void test_other_users_are_not_answered(void **state)
{
	struct rig *r = *state;
	char got[64];
	int status;
	pid_t pid;

	if (geteuid()) {
		print_message("SKIP: needs root to be somebody else\n");
		skip();
	}
	assert_int_equal(chmod(r->dir, 0711) | chmod(r->path, 0666), 0);
	pid = fork();
	if (!pid) {
		int fd;

		if (setresuid(65534, 65534, 65534))
			_exit(77);
		fd = connect_to(r->path);
		if (fd < 0 || fcntl(fd, F_SETFL, 0))
			_exit(2);
		(void)!send(fd, "name\n", 5, MSG_NOSIGNAL);
		_exit(read(fd, got, sizeof(got)) <= 0 ? 0 : 1);
	}
	for (int i = 0; i < 500 && !waitpid(pid, &status, WNOHANG); i++) {
		turn(r);
		usleep(10000);
	}
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	assert_int_equal(r->n_asked, 0);
}

static void test_leftover_sockets_go_and_living_ones_stay(void **state)
{
	struct rig *r = *state;
	char stale[96], alive[96], other[96];
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int gone = socket(AF_UNIX, SOCK_STREAM, 0), here = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(stale, sizeof(stale), "%s/agent-1.sock", r->dir);
	snprintf(alive, sizeof(alive), "%s/agent-2.sock", r->dir);
	snprintf(other, sizeof(other), "%s/other.txt", r->dir);
	close(open(other, O_CREAT | O_WRONLY, 0600));
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", stale);
	assert_int_equal(bind(gone, (struct sockaddr *)&a, sizeof(a)), 0);
	close(gone);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", alive);
	assert_int_equal(bind(here, (struct sockaddr *)&a, sizeof(a)) | listen(here, 1), 0);
	control_close(r->control);
	assert_int_equal(access(r->path, F_OK), -1);
	/* One of our own name, from a process that had this id before. */
	gone = socket(AF_UNIX, SOCK_STREAM, 0);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", r->path);
	assert_int_equal(bind(gone, (struct sockaddr *)&a, sizeof(a)), 0);
	close(gone);
	assert_int_equal(control_open(&r->control, r->base, r->dir, questions, r), 0);
	assert_int_equal(access(stale, F_OK), -1);
	assert_int_equal(access(alive, F_OK), 0);
	assert_int_equal(access(other, F_OK), 0);
	ASSERT_ANSWER(r, "name\n", "{\"name\":\"value\"}\n");
	close(here);
	unlink(alive);
	unlink(other);
}

static int try_open(struct rig *r, const char *dir)
{
	struct control *c = NULL;
	int err = control_open(&c, r->base, dir, questions, r);

	control_close(c);
	return err;
}

static void test_the_directory_is_made_and_must_be_private(void **state)
{
	struct rig *r = *state;
	char dir[64], deep[128], link[64];
	struct stat st;

	snprintf(dir, sizeof(dir), "%s/run", r->dir);
	snprintf(link, sizeof(link), "%s/link", r->dir);
	assert_int_equal(try_open(r, dir), 0);
	assert_int_equal(stat(dir, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	assert_int_equal(try_open(r, dir), 0); /* again */
	assert_int_equal(symlink(dir, link), 0);
	assert_int_equal(try_open(r, link), -ENOTDIR);
	assert_int_equal(chmod(dir, 0770), 0);
	assert_int_equal(try_open(r, dir), -EPERM);
	assert_int_equal(chmod(dir, 0702), 0);
	assert_int_equal(try_open(r, dir), -EPERM);
	if (!geteuid()) {
		assert_int_equal(chmod(dir, 0700) | chown(dir, 65534, 65534), 0);
		assert_int_equal(try_open(r, dir), -EPERM);
	}
	assert_int_equal(rmdir(dir), 0);
	assert_int_equal(unlink(link), 0);
	snprintf(deep, sizeof(deep), "%s/no/such", r->dir);
	assert_int_equal(try_open(r, deep), -ENOENT);
	snprintf(deep, sizeof(deep), "%s/%080d", r->dir, 0);
	assert_int_equal(try_open(r, deep), -ENAMETOOLONG);
	assert_int_equal(rmdir(deep), 0);
}

static void test_questions_are_whole_words(void **state)
{
	(void)state;
	assert_ptr_equal(control_parse(questions, "big", 3), &questions[1]);
	assert_null(control_parse(questions, "big", 2));
	assert_null(control_parse(questions, "bigger", 6));
	assert_null(control_parse(questions, "", 0));
	assert_null(control_parse(questions, "big\0x", 5));
}

int main(void)
{
#define RIG(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		RIG(test_a_question_is_answered),
		RIG(test_anything_else_is_refused),
		RIG(test_a_question_may_come_in_pieces),
		RIG(test_a_large_answer_arrives_whole_though_read_slowly),
		RIG(test_nothing_to_answer_closes),
		RIG(test_clients_that_go_away_leave_no_trace),
		RIG(test_so_many_may_ask_at_once_and_no_more),
		RIG(test_only_the_owner_sees_the_socket),
		RIG(test_other_users_are_not_answered),
		RIG(test_leftover_sockets_go_and_living_ones_stay),
		RIG(test_the_directory_is_made_and_must_be_private),
		cmocka_unit_test(test_questions_are_whole_words),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
