/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of agent/coverage/coverage.c: accounts of processes that live, of some that are gone,
 * and of programs made for the occasion.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "coverage/coverage.h"

#include "base/clock.h"
#include "counters.h"
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define TICK_NS 10000000ull /* one of /proc's */

static struct coverage *coverage_with(bool has_agent)
{
	const struct coverage_conf conf = {
		.has_agent = has_agent, .search_max = 64u << 20, .search_total = 256u << 20};
	struct coverage *c;

	assert_int_equal(coverage_new(&c, &conf), 0);
	return c;
}

/* No process ever has such an id: /proc/sys/kernel/pid_max is at most 2^22. */
#define NOBODY 5000000u

static struct flow_account an_account(unsigned pid, enum flow_fate fate, unsigned conf,
				      uint64_t bytes)
{
	return (struct flow_account){.start_ns = 77 * TICK_NS + 5,
				     .tgid = pid,
				     .fate = (uint8_t)fate,
				     .confidence = (uint8_t)conf,
				     .bytes = bytes};
}

static void open_and_end(struct coverage *c, struct flow_account a, const char *comm)
{
	a.comm = comm;
	coverage_opened(c, &a);
	a.comm = NULL;
	coverage_ended(c, &a);
}

static json_t *row_of(json_t *all, unsigned pid)
{
	json_t *list = json_object_get(all, "processes");

	for (size_t i = 0; i < json_array_size(list); i++) {
		json_t *row = json_array_get(list, i);

		if (json_integer_value(json_object_get(row, "pid")) == pid)
			return row;
	}
	return NULL;
}

static void assert_json(const json_t *got, const char *wanted)
{
	char *text = json_dumps(got, JSON_COMPACT | JSON_SORT_KEYS);

	assert_non_null(text);
	assert_string_equal(text, wanted);
	free(text);
}

static void test_who_captured_is_told(void **state)
{
	static const char *const want[] = {"preload", "bpf,preload", "bpf,preload"};
	static const char comm[16] = "both";
	struct coverage *c = coverage_with(true);

	(void)state;
	for (int i = 0; i < 3; i++) {
		struct flow_account a = an_account(NOBODY, FLOW_MIRRORED, CONF_EXACT, 1);
		json_t *all;

		a.by_preload = i != 1;
		open_and_end(c, a, comm);
		all = coverage_json(c);
		assert_string_equal(
			json_string_value(json_object_get(row_of(all, NOBODY), "captured_by")),
			want[i]);
		json_decref(all);
	}
	coverage_free(c);
}

static void test_a_process_that_is_gone_keeps_its_numbers(void **state)
{
	static const char comm[16] = "sixteen-letters!"; /* not ended */
	struct coverage *c = coverage_with(true);
	struct flow_account live = an_account(NOBODY, FLOW_MIRRORED, CONF_MATCHED, 30);
	json_t *all;

	(void)state;
	live.is_unexplained = true;
	open_and_end(c, an_account(NOBODY, FLOW_MIRRORED, CONF_EXACT, 1000), comm);
	open_and_end(c, an_account(NOBODY, FLOW_MIRRORED, CONF_EXACT, 1), comm);
	open_and_end(c, an_account(NOBODY, FLOW_MIRRORED, CONF_INFERRED, 5), comm);
	open_and_end(c, an_account(NOBODY, FLOW_FILTERED, CONF_EXACT, 0), comm);
	open_and_end(c, an_account(NOBODY, FLOW_STANDBY, CONF_EXACT, 0), comm);
	for (int i = 0; i < 2; i++) { /* asking twice tells the same */
		coverage_live_begin(c);
		coverage_live(c, &live);
		all = coverage_json(c);
		assert_json(
			all,
			"{\"forgotten\":0,\"libraries\":[],\"processes\":[{\"advice\":\"\","
			"\"alive\":false,\"bytes\":{\"exact\":1001,\"inferred\":5,\"matched\":30,"
			"\"unbound\":0},\"captured_by\":\"bpf\",\"command\":\"sixteen-letters\","
			"\"container\":\"\",\"exe\":\"\",\"flows\":{\"exact\":2,\"filtered\":1,"
			"\"inferred\":1,\"late\":0,\"matched\":1,\"missed\":0,\"standby\":1,"
			"\"unexplained\":1},"
			"\"libraries\":[],\"pid\":5000000,\"reason\":\"unexplained\",\"start\":77,"
			"\"tls\":[],\"words\":\"its sockets carried more than its TLS calls "
			"explain\"}]}");
		json_decref(all);
	}
	coverage_free(c);
}

static void test_the_same_id_later_is_another_process(void **state)
{
	struct coverage *c = coverage_with(true);
	struct flow_account a = an_account(NOBODY, FLOW_MIRRORED, CONF_EXACT, 1);
	json_t *all;

	(void)state;
	open_and_end(c, a, "first");
	a.start_ns += TICK_NS;
	open_and_end(c, a, "second");
	all = coverage_json(c);
	assert_int_equal(json_array_size(json_object_get(all, "processes")), 2);
	json_decref(all);
	coverage_free(c);
}

static void test_names_that_are_not_text_are_told_with_marks(void **state)
{
	struct coverage *c = coverage_with(true);
	json_t *all;

	(void)state;
	open_and_end(c, an_account(NOBODY, FLOW_MIRRORED, CONF_EXACT, 1), "a\xff\x1b[2Jb");
	all = coverage_json(c);
	assert_string_equal(json_string_value(json_object_get(row_of(all, NOBODY), "command")),
			    "a?\x1b[2Jb");
	json_decref(all);
	coverage_free(c);
}

static void told(struct coverage *c, uint64_t dev, uint64_t ino, const char *path, int functions)
{
	coverage_file(c, dev, ino, path, &(struct capture_file){.functions = functions});
}

static void test_files_without_tls_are_not_kept(void **state)
{
	const struct capture_file stripped = {.why_not = "stripped static build"};
	struct coverage *c = coverage_with(true);
	json_t *all;

	(void)state;
	told(c, 1, 1, "/usr/bin/cat", 0);
	told(c, 1, 2, "/usr/bin/alien", -ENOEXEC);
	told(c, 1, 3, "/usr/lib/libssl.so.3", 0);
	told(c, 1, 4, "/usr/lib/libssl.so.2", -ENOEXEC);
	told(c, 1, 5, "/usr/bin/node", 4);
	told(c, 1, 6, "/usr/bin/locked", -EACCES);
	coverage_file(c, 1, 7, "/usr/bin/relay", &stripped);
	all = coverage_json(c);
	for (size_t i = 0; i < 5; i++) {
		json_t *row = json_array_get(json_object_get(all, "libraries"), i);
		json_int_t ino = json_integer_value(json_object_get(row, "ino"));
		const char *why = json_string_value(json_object_get(row, "why_not"));
		static const char *const whys[] = {"no function inside that moves plaintext",
						   "not a usable ELF file of this machine", NULL,
						   "Permission denied", "stripped static build"};

		assert_true(ino >= 3 && ino <= 7);
		if (whys[ino - 3])
			assert_string_equal(why, whys[ino - 3]);
		else
			assert_null(why);
	}
	assert_int_equal(json_array_size(json_object_get(all, "libraries")), 5);
	json_decref(all);
	coverage_free(c);
}

/* --- living processes ---------------------------------------------------------------------------
 */

static void copy_file(const char *from, const char *to, const char *more)
{
	char part[65536];
	int in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0700);
	ssize_t n;

	assert_true(in >= 0 && out >= 0);
	while ((n = read(in, part, sizeof(part))) > 0)
		assert_int_equal(write(out, part, (size_t)n), n);
	assert_int_equal(write(out, more, strlen(more)), strlen(more));
	close(in);
	close(out);
}

struct program {
	char dir[32], path[64], library[64];
	pid_t pid;
	int input;
	struct sslc_conn_id id;
};

/* The path of the file that holds this function: a small shared object of this very machine. */
static void own_cmocka(char out[256])
{
	char line[512], *at;
	FILE *f = fopen("/proc/self/maps", "re");

	out[0] = '\0';
	while (fgets(line, sizeof(line), f))
		if ((at = strchr(line, '/')) && strstr(line, "libcmocka"))
			snprintf(out, 256, "%.*s", (int)strcspn(at, "\n"), at);
	fclose(f);
	assert_true(out[0]);
}

/* cat(1), waiting for input; `inside` stands at the end of its file, and a library is loaded. */
static void start_program(struct program *p, const char *inside, const char *library)
{
	char cmocka[256], preload[128];
	struct process_stat st;
	int in[2], out[2];

	snprintf(p->dir, sizeof(p->dir), "/tmp/test_cov.XXXXXX");
	assert_non_null(mkdtemp(p->dir));
	snprintf(p->path, sizeof(p->path), "%s/program", p->dir);
	snprintf(p->library, sizeof(p->library), "%s/%s", p->dir, library ? library : "none");
	copy_file("/bin/cat", p->path, inside);
	own_cmocka(cmocka);
	copy_file(cmocka, p->library, "");
	snprintf(preload, sizeof(preload), "LD_PRELOAD=%s", p->library);
	assert_int_equal(pipe(in) | pipe(out), 0);
	p->pid = fork();
	if (!p->pid) {
		char *const env[] = {library ? preload : NULL, NULL};
		char *const argv[] = {p->path, NULL};

		dup2(in[0], 0);
		dup2(out[1], 1);
		close(in[1]);
		close(out[0]);
		execve(p->path, argv, env);
		_exit(1);
	}
	assert_int_equal(write(in[1], "x", 1), 1); /* its echo: it runs, all is mapped */
	assert_int_equal(read(out[0], preload, 1), 1);
	close(in[0]);
	close(out[0]);
	close(out[1]);
	p->input = in[1];
	assert_true(process_stat((unsigned)p->pid, &st));
	p->id = (struct sslc_conn_id){.start_ns = st.start_ticks * TICK_NS + 1,
				      .tgid = (unsigned)p->pid};
}

static void stop_program(struct program *p)
{
	if (p->pid) {
		kill(p->pid, SIGKILL);
		waitpid(p->pid, NULL, 0);
		close(p->input);
	}
	p->pid = 0;
	unlink(p->path);
	unlink(p->library);
	rmdir(p->dir);
}

static struct flow_account account_of(const struct program *p, enum flow_fate fate)
{
	return (struct flow_account){.start_ns = p->id.start_ns,
				     .tgid = p->id.tgid,
				     .fate = (uint8_t)fate,
				     .confidence = CONF_EXACT,
				     .bytes = 10};
}

/* The reason of the process now; its row's other facts on request. */
static void assert_reason(struct coverage *c, const struct program *p, const char *reason,
			  const char *tls)
{
	json_t *all = coverage_json(c), *row = row_of(all, (unsigned)p->pid);
	const char *got =
		json_string_value(json_array_get(row ? json_object_get(row, "tls") : NULL, 0));

	assert_non_null(row);
	assert_string_equal(json_string_value(json_object_get(row, "reason")), reason);
	assert_string_equal(got ? got : "", tls);
	assert_string_equal(json_string_value(json_object_get(row, "exe")), p->path);
	assert_string_equal(json_string_value(json_object_get(row, "command")), "program");
	json_decref(all);
}

static void test_a_java_machine_is_known_by_its_library(void **state)
{
	struct coverage *c = coverage_with(true);
	struct program p;

	(void)state;
	start_program(&p, "", "libjvm.so");
	open_and_end(c, account_of(&p, FLOW_UNMATCHED), "HttpClient-1");
	assert_reason(c, &p, "java", "Java");
	coverage_count(c);
	assert_int_equal(counter_named("coverage_processes_java"), 1);
	stop_program(&p);
	coverage_free(c);
}

static void test_a_static_library_is_found_inside_the_program(void **state)
{
	struct coverage *c = coverage_with(true);
	struct program p;

	(void)state;
	start_program(&p, "c hs traffic ... ssl/ssl_lib.c", NULL);
	open_and_end(c, account_of(&p, FLOW_UNMATCHED), "program");
	assert_reason(c, &p, "static-stripped", "OpenSSL (static)");
	stop_program(&p);
	coverage_free(c);
}

static void test_tls_from_nowhere_is_told_too(void **state)
{
	struct coverage *c = coverage_with(true);
	struct program p;

	(void)state;
	start_program(&p, "nothing of interest", NULL);
	open_and_end(c, account_of(&p, FLOW_UNMATCHED), "program");
	assert_reason(c, &p, "rustls-or-unknown", "");
	stop_program(&p);
	coverage_free(c);
}

static void probe(struct coverage *c, const char *path, int functions)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	told(c, st.st_dev, st.st_ino, path, functions);
}

static void test_what_became_of_the_library_decides(void **state)
{
	static const struct {
		int functions;
		const char *reason;
	} cases[] = {{0, "library-not-probed"},
		     {4, "unseen-calls"},
		     {-EACCES, "library-not-probed"},
		     {-EOWNERDEAD, "seccomp-hazard"}};
	struct coverage *c = coverage_with(true);
	struct program p;

	(void)state;
	start_program(&p, "", "libssl.so.9");
	open_and_end(c, account_of(&p, FLOW_UNMATCHED), "program");
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		probe(c, p.library, cases[i].functions);
		assert_reason(c, &p, cases[i].reason, "OpenSSL");
	}
	stop_program(&p);
	coverage_free(c);
}

/* As on btrfs or overlayfs, where a mapping's device is not the file's. */
static void test_a_library_is_recognised_under_another_device_number(void **state)
{
	struct coverage *c = coverage_with(true);
	struct program p;
	struct stat st;

	(void)state;
	start_program(&p, "", "libssl.so.9");
	assert_int_equal(stat(p.library, &st), 0);
	told(c, st.st_dev + 1, st.st_ino, "/elsewhere/other.so", 4);
	coverage_look(c, (unsigned)p.pid);
	assert_reason(c, &p, "library-not-probed", "OpenSSL");
	coverage_free(c);
	c = coverage_with(true);
	told(c, st.st_dev + 1, st.st_ino, "/elsewhere/libssl.so.9", 4);
	coverage_look(c, (unsigned)p.pid);
	assert_reason(c, &p, "idle", "OpenSSL");
	stop_program(&p);
	coverage_free(c);
}

static void test_a_probed_program_is_listed_although_no_name_tells(void **state)
{
	struct coverage *c = coverage_with(true);
	struct program p;
	json_t *all;

	(void)state;
	start_program(&p, "", NULL);
	coverage_look(c, (unsigned)p.pid);
	all = coverage_json(c);
	assert_int_equal(json_array_size(json_object_get(all, "processes")), 0);
	json_decref(all);
	probe(c, p.path, 2);
	coverage_look(c, (unsigned)p.pid);
	assert_reason(c, &p, "idle", "");
	stop_program(&p);
	coverage_free(c);
}

static void test_without_an_agent_that_is_the_reason(void **state)
{
	struct coverage *c = coverage_with(false);
	struct program p;
	json_t *all;

	(void)state;
	start_program(&p, "", "libgnutls.so.30");
	coverage_look(c, (unsigned)p.pid);
	assert_reason(c, &p, "no-agent", "GnuTLS");
	all = coverage_json(c);
	assert_string_equal(
		json_string_value(json_object_get(
			json_array_get(json_object_get(all, "libraries"), 0), "why_not")),
		"no agent is running");
	json_decref(all);
	stop_program(&p);
	coverage_free(c);
}

static void test_a_process_without_probes_says_what_they_cost_it(void **state)
{
	struct coverage *c = coverage_with(true);
	struct capture_pause pause = {
		.since_ns = 5 * NS_PER_S, .percent = 34, .limit = 10, .retry_s = 60};
	struct program p;

	(void)state;
	start_program(&p, "", "libssl.so.9");
	probe(c, p.library, 4);
	pause.pid = (unsigned)p.pid;
	pause.start_ticks = process_ticks(p.id.start_ns);
	coverage_pause(c, &pause);
	coverage_tick(c, 6 * NS_PER_S);
	assert_reason(c, &p, "overhead", "OpenSSL");
	json_t *all = coverage_json(c), *row = row_of(all, (unsigned)p.pid);

	assert_string_equal(
		json_string_value(json_object_get(row, "words")),
		"34 % of its CPU time went into probes, limit 10 %; tried again in 59 s");
	json_decref(all);
	open_and_end(c,
		     (struct flow_account){.tgid = (unsigned)p.pid,
					   .start_ns = p.id.start_ns,
					   .fate = FLOW_UNMATCHED},
		     "program");
	pause.until_ns = 65 * NS_PER_S;
	coverage_pause(c, &pause);
	assert_reason(c, &p, "attached-late", "OpenSSL"); /* what it missed meanwhile */
	stop_program(&p);
	coverage_free(c);
}

static void test_plaintext_without_a_connection_names_its_process(void **state)
{
	struct coverage *c = coverage_with(true);
	struct program p;

	(void)state;
	start_program(&p, "", "libssl.so.9");
	probe(c, p.library, 4);
	coverage_unbound(c, &p.id, 100);
	coverage_unbound(c, &p.id, 23);
	assert_reason(c, &p, "held-unbound", "OpenSSL");
	json_t *all = coverage_json(c), *row = row_of(all, (unsigned)p.pid);

	assert_json(json_object_get(row, "bytes"),
		    "{\"exact\":0,\"inferred\":0,\"matched\":0,\"unbound\":123}");
	json_decref(all);
	stop_program(&p);
	coverage_free(c);
}

static void test_another_program_in_the_process_is_looked_at(void **state)
{
	struct coverage *c = coverage_with(true);
	struct program p;

	(void)state;
	start_program(&p, "", "libssl.so.9");
	probe(c, p.library, 4);
	open_and_end(c, account_of(&p, FLOW_MIRRORED), "program");
	assert_reason(c, &p, "captured", "OpenSSL");
	coverage_tick(c, 1);
	open_and_end(c, account_of(&p, FLOW_UNMATCHED), "another");
	assert_reason(c, &p, "unseen-calls", "OpenSSL");
	stop_program(&p);
	coverage_free(c);
}

static bool is_listed(struct coverage *c, unsigned pid, bool *alive)
{
	json_t *all = coverage_json(c), *row = row_of(all, pid);
	bool listed = row;

	*alive = row && json_is_true(json_object_get(row, "alive"));
	json_decref(all);
	return listed;
}

static void test_the_dead_are_listed_for_ten_minutes(void **state)
{
	uint64_t now = 1000 * NS_PER_S;
	struct coverage *c = coverage_with(true);
	struct program p;
	unsigned pid;
	bool alive;

	(void)state;
	start_program(&p, "", "libssl.so.9");
	pid = (unsigned)p.pid;
	coverage_tick(c, now);
	open_and_end(c, account_of(&p, FLOW_MIRRORED), "program");
	assert_true(is_listed(c, pid, &alive) && alive);
	stop_program(&p);
	for (int i = 0; i < 64; i++) /* noticed without being asked for */
		coverage_tick(c, now += NS_PER_S);
	for (int i = 0; i < COVERAGE_DEAD_S - 64; i++)
		coverage_tick(c, now += NS_PER_S);
	assert_true(is_listed(c, pid, &alive) && !alive);
	for (int i = 0; i < 66; i++)
		coverage_tick(c, now += NS_PER_S);
	assert_false(is_listed(c, pid, &alive));
	coverage_free(c);
}

static void test_the_list_is_bounded_and_the_dead_go_first(void **state)
{
	struct coverage *c = coverage_with(true);
	struct program p;
	json_t *all;
	bool alive;

	(void)state;
	start_program(&p, "", "libssl.so.9");
	open_and_end(c, account_of(&p, FLOW_MIRRORED), "program");
	for (unsigned i = 0; i < COVERAGE_PROCESSES_MAX + 100; i++)
		open_and_end(c, an_account(NOBODY + i, FLOW_MIRRORED, CONF_EXACT, 1), "x");
	assert_true(is_listed(c, (unsigned)p.pid, &alive) && alive);
	all = coverage_json(c);
	assert_int_equal(json_array_size(json_object_get(all, "processes")),
			 COVERAGE_PROCESSES_MAX);
	assert_int_equal(json_integer_value(json_object_get(all, "forgotten")), 0);
	assert_null(row_of(all, NOBODY));
	assert_non_null(row_of(all, NOBODY + COVERAGE_PROCESSES_MAX + 99));
	json_decref(all);
	stop_program(&p);
	coverage_free(c);
}

static void test_files_are_bounded(void **state)
{
	struct coverage *c = coverage_with(true);
	json_t *all;

	(void)state;
	for (unsigned i = 0; i < COVERAGE_FILES_MAX + 10; i++)
		told(c, 1, i, "/lib/libssl.so.1", 4);
	told(c, 1, 0, "/lib/libssl.so.1", -EPERM);
	all = coverage_json(c);
	assert_int_equal(json_array_size(json_object_get(all, "libraries")), COVERAGE_FILES_MAX);
	json_decref(all);
	coverage_free(c);
}

static void test_what_programs_say_is_searched_once_and_within_a_limit(void **state)
{
	const struct coverage_conf conf = {.has_agent = true, .search_max = 1u << 20};
	struct coverage *c;
	struct program p;

	(void)state;
	assert_int_equal(coverage_new(&c, &conf), 0); /* search_total 0: none */
	start_program(&p, "c hs traffic ssl/ssl_lib.c", NULL);
	open_and_end(c, account_of(&p, FLOW_UNMATCHED), "program");
	assert_reason(c, &p, "rustls-or-unknown", "");
	assert_int_equal(coverage_unsearched(c), 1);
	stop_program(&p);
	coverage_free(c);
	coverage_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_who_captured_is_told),
		cmocka_unit_test(test_a_process_that_is_gone_keeps_its_numbers),
		cmocka_unit_test(test_the_same_id_later_is_another_process),
		cmocka_unit_test(test_names_that_are_not_text_are_told_with_marks),
		cmocka_unit_test(test_files_without_tls_are_not_kept),
		cmocka_unit_test(test_a_java_machine_is_known_by_its_library),
		cmocka_unit_test(test_a_static_library_is_found_inside_the_program),
		cmocka_unit_test(test_tls_from_nowhere_is_told_too),
		cmocka_unit_test(test_what_became_of_the_library_decides),
		cmocka_unit_test(test_a_library_is_recognised_under_another_device_number),
		cmocka_unit_test(test_a_probed_program_is_listed_although_no_name_tells),
		cmocka_unit_test(test_without_an_agent_that_is_the_reason),
		cmocka_unit_test(test_a_process_without_probes_says_what_they_cost_it),
		cmocka_unit_test(test_plaintext_without_a_connection_names_its_process),
		cmocka_unit_test(test_another_program_in_the_process_is_looked_at),
		cmocka_unit_test(test_the_dead_are_listed_for_ten_minutes),
		cmocka_unit_test(test_the_list_is_bounded_and_the_dead_go_first),
		cmocka_unit_test(test_files_are_bounded),
		cmocka_unit_test(test_what_programs_say_is_searched_once_and_within_a_limit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
