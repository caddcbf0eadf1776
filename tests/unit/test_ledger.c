/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of collector/ledger.c: a process forges and is killed; what the next one sends must
 * end, with the right numbers, what was open, and nothing else.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "counters.h"
#include "ledger.h"
#include "outlet.h"
#include "packet_check.h"

#define TS     1700000000000000000ull
#define FLOWS  3u
#define FRAMES 64u

/* A live output, or a file: keeps the last frames it got. */
struct capture {
	struct sink sink; /* first: see sink.h */
	unsigned n;
	size_t len[FRAMES];
	uint8_t frame[FRAMES][2048];
	uint16_t real_port; /* of the last one's connection */
};

static void on_packet(struct sink *s, struct span l2, uint64_t ts_ns, const struct sink_flow *flow,
		      bool first)
{
	struct capture *c = (struct capture *)s;
	unsigned i = c->n++ % FRAMES;

	(void)ts_ns, (void)first;
	if (l2.len > sizeof(c->frame[0]))
		abort();
	memcpy(c->frame[i], l2.p, l2.len);
	c->len[i] = l2.len;
	c->real_port = flow->open->server_port;
}

static const struct sink_ops live_like = {.name = "live", .packet = on_packet};

/* Outputs and sessions of one process. */
struct rig {
	char dir[64];
	struct capture c[2];
	struct sink_set sinks;
	struct outlet_set set;
	struct ledger *ledger;
	struct frame_flow_open open[FLOWS];
	_Alignas(8) uint8_t states[FLOWS][512];
};

static struct rig *rig_new(void)
{
	struct rig *r = calloc(1, sizeof(*r));

	snprintf(r->dir, sizeof(r->dir), "/tmp/ledger-XXXXXX");
	assert_non_null(mkdtemp(r->dir));
	for (unsigned i = 0; i < 2; i++) {
		r->c[i].sink = (struct sink){.ops = &live_like, .place = 1000 + i};
		r->sinks.v[r->sinks.n++] = &r->c[i].sink;
	}
	r->c[1].sink.shape = (struct sink_shape){
		.vlan = 7, .n_ports = 1, .ports = {{443, 80}}, .src_mac = {1, 2, 3}};
	return r;
}

/* The names in its directory that are not hidden. */
static unsigned files(const struct rig *r)
{
	DIR *d = opendir(r->dir);
	unsigned n = 0;

	assert_non_null(d);
	for (struct dirent *e; (e = readdir(d)) != NULL;)
		n += e->d_name[0] != '.';
	closedir(d);
	return n;
}

/* Path of the only file, or of none. */
static const char *the_file(const struct rig *r)
{
	static char path[512];
	DIR *d = opendir(r->dir);

	path[0] = '\0';
	for (struct dirent *e; (e = readdir(d)) != NULL;)
		if (e->d_name[0] != '.')
			snprintf(path, sizeof(path), "%s/%s", r->dir, e->d_name);
	closedir(d);
	return path;
}

static void rig_free(struct rig *r)
{
	assert_int_equal(files(r), 0);
	assert_int_equal(rmdir(r->dir), 0);
	free(r);
}

static struct outlet_flow flow_of(struct rig *r, unsigned i)
{
	r->open[i] = (struct frame_flow_open){.flow = i,
					      .session = {7, (uint8_t)i},
					      .transport = 6,
					      .family = i ? 4 : 6,
					      .client_addr = {10, 0, 0, 1},
					      .server_addr = {10, 0, 0, 2},
					      .client_port = (uint16_t)(5000 + i),
					      .server_port = 443,
					      .captured_end = i == 1 ? FLOW_C2S : FLOW_S2C};
	return (struct outlet_flow){.who = {.open = &r->open[i], .host = "web1"},
				    .lane = (uint16_t)(i == 2 ? 5 : 0)};
}

/* Handshake, a request, an answer, a gap; nothing ends. */
static void begin(struct rig *r, unsigned i)
{
	static const uint8_t zero[5000];
	struct outlet_flow flow = flow_of(r, i);

	outlets_begin(&r->set, r->states[i], &flow, TS);
	(void)outlets_data(&r->set, r->states[i], &flow, FLOW_C2S, span_of(zero, 100 + i), true,
			   TS + 1);
	(void)outlets_data(&r->set, r->states[i], &flow, FLOW_S2C, span_of(zero, sizeof(zero)),
			   false, TS + 2);
	(void)outlets_gap(&r->set, r->states[i], &flow, FLOW_S2C, 500, TS + 3);
}

static void end(struct rig *r, unsigned i)
{
	struct outlet_flow flow = flow_of(r, i);

	(void)outlets_fin(&r->set, r->states[i], &flow, FLOW_C2S, TS + 5);
	(void)outlets_fin(&r->set, r->states[i], &flow, FLOW_S2C, TS + 6);
}

static void open_all(struct rig *r)
{
	outlets_init(&r->set, &r->sinks);
	if (outlets_open(&r->set, &r->sinks, 1) || ledger_open(&r->ledger, r->dir))
		abort();
	outlets_keep(&r->set, r->ledger);
	for (unsigned i = 0; i < FLOWS; i++)
		begin(r, i);
}

/* In a child, which ends so. */
static void killed(struct rig *r, void (*life)(struct rig *r))
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		life(r);
		(void)raise(SIGKILL);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGKILL);
}

/* What the child had in mind: forge's numbers are the same in each process. */
static void repeat(struct rig *r)
{
	outlets_init(&r->set, &r->sinks);
	assert_int_equal(outlets_open(&r->set, &r->sinks, 1), 0);
	for (unsigned i = 0; i < FLOWS; i++)
		begin(r, i);
	r->c[0].n = r->c[1].n = 0;
}

/* Frame `at` is from side `dir` of flow i as it was at the end of begin(). */
static void assert_packet(struct rig *r, unsigned output, unsigned at, unsigned i,
			  enum flow_dir dir, unsigned flags)
{
	struct capture *c = &r->c[output];
	struct forge_flow *f = (void *)(r->states[i] + r->set.v[output].state_at);
	struct check check = {.mtu = 1500, .outer_vlan = output ? 7 : 0};
	struct check_packet k;

	if (output)
		memcpy(check.macs, r->set.v[output].link.mac, sizeof(check.macs));
	assert_true(check_parse(&check, &k, c->frame[at], c->len[at]));
	assert_null(check.err);
	assert_int_equal(k.flags, flags);
	assert_int_equal(k.len, 0);
	assert_int_equal(k.family, i ? 4 : 6);
	assert_int_equal(k.vlan, i == 2 ? 5 : 0);
	assert_int_equal(k.sport, f->port[dir]);
	assert_int_equal(k.dport, f->port[!dir]);
	assert_int_equal(k.seq, f->side[dir].nxt);
	assert_int_equal(k.ack, f->side[!dir].nxt);
}

/* Three frames from `at` on end flow i. */
static void assert_ended(struct rig *r, unsigned output, unsigned at, unsigned i)
{
	enum flow_dir from = i == 1 ? FLOW_C2S : FLOW_S2C;

	assert_packet(r, output, at, i, !from, CF_ACK);
	assert_packet(r, output, at + 1, i, from, CF_ACK);
	assert_packet(r, output, at + 2, i, from, CF_RST | CF_ACK);
}

static void test_what_a_killed_process_left_open_is_reset_at_each_output(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	killed(r, open_all);
	assert_int_equal(files(r), 1);
	repeat(r);
	ledgers_settle(r->dir, &r->sinks);
	assert_int_equal(files(r), 0);
	for (unsigned output = 0; output < 2; output++) {
		assert_int_equal(r->c[output].n, 3 * FLOWS);
		for (unsigned i = 0; i < FLOWS; i++)
			assert_ended(r, output, 3 * i, i);
		assert_int_equal(r->c[output].real_port, 443);
	}
	ledgers_settle(r->dir, &r->sinks); /* once */
	assert_int_equal(r->c[0].n, 3 * FLOWS);
	rig_free(r);
}

static void life_ended(struct rig *r)
{
	open_all(r);
	end(r, 0);
	ledger_flushed(r->ledger);
	end(r, 1); /* its last packets may still wait */
}

static void test_a_connection_is_forgotten_when_its_end_has_left(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	killed(r, life_ended);
	repeat(r);
	end(r, 1);
	r->c[0].n = 0;
	ledgers_settle(r->dir, &r->sinks);
	assert_int_equal(r->c[0].n, 6);
	assert_ended(r, 0, 0, 1);
	assert_ended(r, 0, 3, 2);
	rig_free(r);
}

static void life_reused(struct rig *r)
{
	open_all(r);
	end(r, 0);
	ledger_flushed(r->ledger);
	begin(r, 0); /* in the slot that is free */
}

static void test_a_slot_is_used_again(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	killed(r, life_reused);
	repeat(r);
	ledgers_settle(r->dir, &r->sinks);
	assert_int_equal(r->c[0].n, 3 * FLOWS);
	assert_ended(r, 0, 0, 0);
	rig_free(r);
}

static void test_an_output_that_changed_is_left_alone(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	killed(r, open_all);
	r->c[0].sink.place = 77;
	repeat(r);
	ledgers_settle(r->dir, &r->sinks);
	assert_int_equal(r->c[0].n, 0);
	assert_int_equal(r->c[1].n, 3 * FLOWS);
	rig_free(r);
}

static void test_files_are_not_written_down(void **state)
{
	struct rig *r = rig_new();
	struct stat st;

	(void)state;
	r->c[0].sink.place = r->c[1].sink.place = 0;
	killed(r, open_all);
	assert_int_equal(stat(the_file(r), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	ledgers_settle(r->dir, &r->sinks);
	assert_int_equal(r->c[0].n + r->c[1].n, 0);
	rig_free(r);
}

static void test_a_living_process_keeps_its_file(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	open_all(r);
	r->c[0].n = 0;
	ledgers_settle(r->dir, &r->sinks);
	assert_int_equal(r->c[0].n, 0);
	assert_int_equal(files(r), 1);
	ledger_close(r->ledger);
	rig_free(r);
}

static void foreign(const struct rig *r, const char *suffix, bool remove)
{
	char path[600];
	struct stat st;

	for (unsigned i = 0; i < 100; i++) {
		snprintf(path, sizeof(path), "%s/connections.%ld.%u%s", r->dir, (long)getpid(), i,
			 suffix);
		if (remove) {
			assert_int_equal(stat(path, &st), 0);
			assert_int_equal(st.st_size, 0);
			assert_int_equal(unlink(path), 0);
		} else {
			close(creat(path, 0600));
		}
	}
}

/* In a container the same process id may be another process's, too. */
static void test_names_that_others_have_are_left_to_them(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	foreign(r, "", false);
	open_all(r);
	assert_int_equal(files(r), 101);
	ledger_close(r->ledger);
	foreign(r, "", true);
	foreign(r, ".new", false);
	open_all(r);
	assert_int_equal(files(r), 101);
	ledger_close(r->ledger);
	foreign(r, ".new", true);
	rig_free(r);
}

static void flip(const char *path, off_t at)
{
	int fd = open(path, O_RDWR);
	uint8_t byte;

	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	close(fd);
}

static void test_a_damaged_slot_is_left_out(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	r->sinks.n = 1;
	killed(r, open_all);
	flip(the_file(r), 4096 + 2 * 64 + 33); /* a port of the second one */
	repeat(r);
	ledgers_settle(r->dir, &r->sinks);
	assert_int_equal(r->c[0].n, 6);
	assert_ended(r, 0, 0, 0);
	assert_ended(r, 0, 3, 2);
	rig_free(r);
}

static void test_another_version_and_garbage_are_removed_unread(void **state)
{
	struct rig *r = rig_new();
	char path[128];
	FILE *f;

	(void)state;
	killed(r, open_all);
	flip(the_file(r), 8); /* the version */
	ledgers_settle(r->dir, &r->sinks);
	assert_int_equal(files(r), 0);
	for (unsigned len = 0; len < 20000; len += 4999) {
		snprintf(path, sizeof(path), "%s/connections.1.%u", r->dir, len);
		f = fopen(path, "w");
		for (unsigned i = 0; i < len; i++)
			fputc((int)(i * 7), f);
		fclose(f);
	}
	snprintf(path, sizeof(path), "%s/connections.link", r->dir);
	assert_int_equal(symlink("/etc/passwd", path), 0);
	ledgers_settle(r->dir, &r->sinks);
	assert_int_equal(r->c[0].n, 0);
	assert_string_equal(the_file(r), path); /* not ours to follow */
	unlink(path);
	rig_free(r);
}

static void test_a_cut_file_ends_where_it_was_cut(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	r->sinks.n = 1;
	killed(r, open_all);
	assert_int_equal(truncate(the_file(r), 4096 + 2 * 64 + 30), 0);
	repeat(r);
	ledgers_settle(r->dir, &r->sinks);
	assert_int_equal(r->c[0].n, 3);
	assert_ended(r, 0, 0, 0);
	rig_free(r);
}

#define MANY 10000u

/* Each a flow of forge's own: no session around it. */
static void life_many(struct rig *r)
{
	struct outlet_emission e = {.outlet = &r->set.v[0]};
	struct outlet_flow flow = flow_of(r, 1);
	struct forge_out out;
	struct forge_flow f;

	r->sinks.n = 1;
	outlets_init(&r->set, &r->sinks);
	if (ledger_open(&r->ledger, r->dir))
		abort();
	outlets_keep(&r->set, r->ledger);
	e.who = &flow.who;
	out = outlet_out(&e);
	for (unsigned i = 0; i < MANY; i++) {
		r->open[1].client_port = (uint16_t)(i + 1);
		outlet_forge_init(&r->set.v[0], &f, &flow);
		forge_handshake(&f, &out, TS);
	}
}

static void test_a_file_grows(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	killed(r, life_many);
	r->sinks.n = 1;
	ledgers_settle(r->dir, &r->sinks);
	assert_int_equal(r->c[0].n, 3 * MANY);
	rig_free(r);
}

static void life_limited(struct rig *r)
{
	const struct rlimit limit = {300u << 10, RLIM_INFINITY};

	setrlimit(RLIMIT_FSIZE, &limit);
	life_many(r);
	if (counter_named("ledger_lost_full") != MANY - (LEDGER_FIRST - 1) ||
	    counter_named("ledger_connections") != LEDGER_FIRST - 1)
		abort();
}

static void test_without_room_the_others_are_counted(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	killed(r, life_limited);
	r->sinks.n = 1;
	ledgers_settle(r->dir, &r->sinks);
	assert_int_equal(r->c[0].n, 3 * (LEDGER_FIRST - 1));
	rig_free(r);
}

static void life_no_room(struct rig *r)
{
	const struct rlimit limit = {8u << 10, RLIM_INFINITY};

	setrlimit(RLIMIT_FSIZE, &limit);
	if (ledger_open(&r->ledger, r->dir) != -EFBIG ||
	    ledger_open(&r->ledger, "/nowhere") != -ENOENT)
		abort();
}

static void test_no_file_without_room_for_one(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	killed(r, life_no_room);
	rig_free(r);
}

static void test_what_ends_well_leaves_no_file(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	open_all(r);
	for (unsigned i = 0; i < FLOWS; i++)
		end(r, i);
	ledger_flushed(r->ledger);
	assert_int_equal(counter_named("ledger_connections"), 0);
	ledger_close(r->ledger);
	ledger_close(NULL);
	ledger_flushed(NULL);
	ledgers_settle("/nowhere", &r->sinks);
	rig_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_ends_well_leaves_no_file),
		cmocka_unit_test(test_what_a_killed_process_left_open_is_reset_at_each_output),
		cmocka_unit_test(test_a_connection_is_forgotten_when_its_end_has_left),
		cmocka_unit_test(test_a_slot_is_used_again),
		cmocka_unit_test(test_an_output_that_changed_is_left_alone),
		cmocka_unit_test(test_files_are_not_written_down),
		cmocka_unit_test(test_a_living_process_keeps_its_file),
		cmocka_unit_test(test_names_that_others_have_are_left_to_them),
		cmocka_unit_test(test_a_damaged_slot_is_left_out),
		cmocka_unit_test(test_another_version_and_garbage_are_removed_unread),
		cmocka_unit_test(test_a_cut_file_ends_where_it_was_cut),
		cmocka_unit_test(test_a_file_grows),
		cmocka_unit_test(test_without_room_the_others_are_counted),
		cmocka_unit_test(test_no_file_without_room_for_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
