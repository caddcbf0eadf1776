/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sitewatch: runs a program and looks whether probe sites that the agent's finders chose in one of
 * its files tell the truth. The sites become breakpoints of this tool; what they claim is compared
 * with what really happens: each function's first instruction and its return to its caller are
 * breakpoints, too, and the first calls of each function are single-stepped. x86-64, one thread.
 *
 * sitewatch [-v] [-p] [-c] [-s CALLS] [-w HOW] [-f NAME]... FILE COMMAND [ARG...]
 *   -p  sites inside functions (pairs)     -c  call instructions, too
 *   -s  single-step that many calls of each function
 *   -f  not what the finders say, but these symbols, as functions of several numbers of arguments
 *   -w  spoil the sites first, to see that it is noticed: sp, exit-sp, exit-lost, late, inside,
 *       caller
 * FILE is the program itself, or is mapped by it before it executes int3. Prints "FALSE …" for each
 * false claim, "UNSEEN …" for each site that no call came by, and a last line "SUMMARY …".
 * Status: 0; 1: it could not be tried; 3: a false claim; 4: somebody else has probes in the
 * program.
 */
#include <linux/types.h>

#include "sites/elfsym.h"
#include "sites/elfview.h"
#include "sites/sites.h"

#include <Zydis/Zydis.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define LIMIT_S      120
#define ARGS         6
#define EXITS_MAX    8
#define GROUPS_MAX   4096
#define POINTS_MAX   16384 /* a power of 2; twice the breakpoints there can be */
#define CALLS_MAX    4096  /* nested */
#define NAMES_MAX    512
#define FALSE_MAX    40 /* lines */
#define INT3         0xcc
#define CALL_LEN     5
#define MAPPINGS_MAX 8

enum how { RIGHT, BAD_SP, BAD_EXIT_SP, EXIT_LOST, LATE, INSIDE, CALLER };

/* What is claimed of one function as one kind of call: its entry, and its exits or return. */
struct group {
	const char *name;
	uint64_t begin; /* address of its first instruction */
	enum sslc_call call;
	unsigned args;
	bool is_fast, has_return, is_caller;
	bool has_exits;                         /* each call that returns passes one of them */
	uint64_t entry, exit[EXITS_MAX], after; /* after: a caller's return address */
	int64_t entry_sp, exit_sp[EXITS_MAX];
	unsigned n_exits;
	const char *why;
	uint64_t hits, returned, exit_hits[EXITS_MAX], stepped;
};

struct point {
	uint64_t at; /* 0: free */
	uint8_t was;
	bool is_begin, is_entry, is_exit;
};

/* A call that has begun. */
struct call {
	struct group *g;
	uint64_t sp, back, arg[ARGS];
	unsigned entries, exits;
	uint64_t result;
};

static struct {
	bool verbose;
	struct sites sites;
	struct group group[GROUPS_MAX];
	size_t n_groups;
	struct point point[POINTS_MAX];
	size_t n_points;
	struct call active[CALLS_MAX];
	size_t n_active;
	pid_t pid;
	int mem;
	bool disturbed, was_int3;
	enum how how;
	unsigned step_calls;
	uint64_t n_false, n_calls, n_returns, n_steps, n_left;
	/* the call that is stepped; NULL: none */
	const struct group *step;
	uint64_t step_sp, resume_at, resume_sp;
	/* the last call instruction that is a site */
	const struct group *pending;
	struct user_regs_struct pending_regs;
} w;

static void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("sitewatch: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	if (w.pid > 0)
		kill(w.pid, SIGKILL);
	exit(w.was_int3 ? 4 : w.n_false ? 3 : 1);
}

static void untrue(const struct group *g, const char *fmt, ...)
{
	va_list ap;

	if (w.n_false++ >= FALSE_MAX)
		return;
	printf("FALSE %s, call %d: ", g->name, (int)g->call);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}

/* --- the traced program -------------------------------------------------------------------------
 */

static bool peek(uint64_t at, void *out, size_t len)
{
	return pread(w.mem, out, len, (off_t)at) == (ssize_t)len;
}

static void poke(uint64_t at, uint8_t byte)
{
	if (pwrite(w.mem, &byte, 1, (off_t)at) != 1)
		die("cannot write at %#" PRIx64 ": %s", at, strerror(errno));
}

static uint64_t peek_word(uint64_t at)
{
	uint64_t v = 0;

	return peek(at, &v, sizeof(v)) ? v : 0;
}

static struct point *point_at(uint64_t at)
{
	size_t i = (at * 0x9e3779b97f4a7c15u) >> 50 & (POINTS_MAX - 1);

	while (w.point[i].at && w.point[i].at != at)
		i = (i + 1) & (POINTS_MAX - 1);
	return &w.point[i];
}

/* A breakpoint, which stays. */
static struct point *add_point(uint64_t at)
{
	struct point *p = point_at(at);

	if (p->at)
		return p;
	if (++w.n_points > POINTS_MAX / 2)
		die("too many breakpoints");
	if (!peek(at, &p->was, 1))
		die("nothing is mapped at %#" PRIx64, at);
	w.was_int3 |= p->was == INT3;
	p->at = at;
	poke(at, INT3);
	return p;
}

/* --- what is claimed ----------------------------------------------------------------------------
 */

static unsigned arguments(enum sslc_call call)
{
	switch (call) {
	case SSLC_CALL_WRITE_EX2:
		return 5;
	case SSLC_CALL_READ_EX:
	case SSLC_CALL_WRITE_EX:
	case SSLC_CALL_READ_FLAGS:
	case SSLC_CALL_RECV_TYPED:
		return 4;
	default:
		return sslc_call_moves(call) ? 3 : 1;
	}
}

static int add_kinds(const char *name, uint64_t offset)
{
	static const enum sslc_call kinds[] = {SSLC_CALL_WRITE_EX2, SSLC_CALL_READ_EX,
					       SSLC_CALL_READ, SSLC_CALL_BIND, SSLC_CALL_FORGET};
	int err = 0;

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]) && !err; i++) {
		err = sites_add(&w.sites, offset, kinds[i],
				kinds[i] == SSLC_CALL_FORGET ? SITE_ENTRY
							     : SITE_ENTRY | SITE_RETURN);
		if (!err)
			w.sites.v[w.sites.n - 1].name = name;
	}
	return err;
}

static void find_named(int fd, char *const names[], size_t n)
{
	for (size_t i = 0; i < n; i++) {
		const char *name = names[i];
		uint64_t offset;

		if (elfsym_offsets(fd, &name, 1, &offset) != 1 || add_kinds(name, offset))
			die("no symbol %s", name);
	}
	if (sites_cheapen(&w.sites, fd))
		die("out of memory");
}

static void find_sites(const char *file, char *const names[], size_t n)
{
	int fd = open(file, O_RDONLY | O_CLOEXEC), found;

	if (fd < 0)
		die("%s: %s", file, strerror(errno));
	if (n) {
		find_named(fd, names, n);
	} else {
		found = sites_find(fd, &w.sites);
		if (found <= 0)
			die("%s: no sites", file);
	}
	close(fd);
}

struct mapping {
	unsigned long long from, to, offset;
};

/* The next executable mapping of a file. */
static bool next_mapping(FILE *maps, const char *file, struct mapping *m)
{
	char line[PATH_MAX + 128], perms[5];

	while (maps && fgets(line, sizeof(line), maps)) {
		const char *name = strchr(line, '/');

		line[strcspn(line, "\n")] = 0;
		if (name && !strcmp(name, file) &&
		    sscanf(line, "%llx-%llx %4s %llx", &m->from, &m->to, perms, &m->offset) == 4 &&
		    strchr(perms, 'x'))
			return true;
	}
	return false;
}

static FILE *open_maps(void)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)w.pid);
	return fopen(path, "re");
}

/* Where the file's byte at an offset is executed. */
static uint64_t address_of(const char *file, uint64_t offset)
{
	FILE *f = open_maps();
	uint64_t at = 0;
	struct mapping m;

	while (!at && next_mapping(f, file, &m))
		if (offset >= m.offset && offset - m.offset < m.to - m.from)
			at = m.from + (offset - m.offset);
	if (f)
		fclose(f);
	if (!at)
		die("%s: offset %#" PRIx64 " is not mapped", file, offset);
	return at;
}

static uint64_t call_target(uint64_t at)
{
	uint8_t code[CALL_LEN] = {0};
	int32_t far;

	if (!peek(at, code, sizeof(code)) || code[0] != 0xe8) {
		w.was_int3 |= code[0] == INT3;
		return 0;
	}
	memcpy(&far, code + 1, sizeof(far));
	return at + CALL_LEN + (uint64_t)(int64_t)far;
}

static void add_exits(struct group *g, const struct site *s, uint64_t base)
{
	for (size_t i = 0; i < w.sites.n; i++) {
		const struct site *x = &w.sites.v[i];

		if (x->at != SITE_EXIT || x->function != s->function || x->call != s->call)
			continue;
		if (g->n_exits == EXITS_MAX)
			die("%s has too many exits", g->name);
		g->exit[g->n_exits] = base + (x->offset - s->function);
		g->exit_sp[g->n_exits++] = x->sp;
	}
}

static void add_group(const struct site *s, const char *file)
{
	struct group *g = &w.group[w.n_groups++];
	uint64_t base = address_of(file, s->function);

	if (w.n_groups == GROUPS_MAX)
		die("too many functions");
	*g = (struct group){
		.name = s->name ? s->name : "(internal)",
		.begin = base,
		.call = s->call,
		.args = arguments(s->call),
		.is_fast = s->price != SITE_PLAIN,
		.has_return = s->at & SITE_RETURN,
		.entry = base + (s->offset - s->function),
		.entry_sp = s->sp,
		.why = s->why,
	};
	if (!g->has_return)
		add_exits(g, s, base);
	g->has_exits = !g->has_return && s->call != SSLC_CALL_FORGET;
	if (s->sp < 0) { /* a call instruction: the function is where it leads */
		g->name = "(caller)";
		g->is_caller = true;
		g->begin = call_target(base);
		g->after = base + CALL_LEN;
		if (!g->begin)
			die("a call site at %#" PRIx64 " is no call", s->offset);
	}
}

/* --- spoiling -----------------------------------------------------------------------------------
 */

static void spoil(struct group *g, enum how how)
{
	if (!g->is_fast || g->is_caller || (!g->n_exits && how != BAD_SP && how != INSIDE))
		return;
	switch (how) {
	case BAD_SP:
		g->entry_sp += 8;
		break;
	case BAD_EXIT_SP:
		g->exit_sp[0] -= 8;
		break;
	case EXIT_LOST:
		g->n_exits--;
		break;
	case LATE:
		g->entry = g->exit[0];
		g->entry_sp = g->exit_sp[0];
		break;
	case INSIDE:
		if (g->entry > g->begin)
			g->entry--;
		break;
	default:
		break;
	}
}

static void spoil_all(void)
{
	for (size_t i = 0; i < w.n_groups; i++) {
		if (w.how == CALLER && w.group[i].is_caller) {
			w.group[i] = w.group[--w.n_groups];
			return;
		}
		spoil(&w.group[i], w.how);
	}
}

static void place(const char *file)
{
	for (size_t i = 0; i < w.sites.n; i++)
		if (w.sites.v[i].at & SITE_ENTRY)
			add_group(&w.sites.v[i], file);
	spoil_all();
	for (size_t i = 0; i < w.n_groups; i++) {
		const struct group *g = &w.group[i];

		add_point(g->begin)->is_begin = true;
		add_point(g->entry)->is_entry = true;
		for (unsigned k = 0; k < g->n_exits; k++)
			add_point(g->exit[k])->is_exit = true;
	}
}

/* --- what happens -------------------------------------------------------------------------------
 */

static void arguments_of(const struct user_regs_struct *r, uint64_t arg[ARGS])
{
	const uint64_t v[ARGS] = {r->rdi, r->rsi, r->rdx, r->rcx, r->r8, r->r9};

	memcpy(arg, v, sizeof(v));
}

static void forget(size_t i)
{
	memmove(&w.active[i], &w.active[i + 1], (--w.n_active - i) * sizeof(w.active[0]));
}

/* Calls whose frames are gone: somebody jumped over them. */
static void drop_left(uint64_t sp)
{
	while (w.n_active && w.active[w.n_active - 1].sp + 8 < sp) {
		const struct call *c = &w.active[--w.n_active];

		w.n_left++;
		if (c->exits)
			untrue(c->g, "left by an exit, but it did not return");
	}
}

static struct call *call_of(const struct group *g, uint64_t sp)
{
	for (size_t i = w.n_active; i-- > 0;)
		if (w.active[i].g == g && w.active[i].sp == sp)
			return &w.active[i];
	return NULL;
}

static bool is_same_arguments(const struct group *g, const uint64_t want[ARGS],
			      const struct user_regs_struct *r)
{
	uint64_t got[ARGS];

	arguments_of(r, got);
	return !memcmp(want, got, g->args * sizeof(got[0]));
}

static void see_exits(const struct user_regs_struct *r)
{
	for (size_t i = 0; i < w.n_groups; i++) {
		struct group *g = &w.group[i];

		for (unsigned k = 0; k < g->n_exits; k++) {
			struct call *c;

			if (g->exit[k] != r->rip)
				continue;
			c = call_of(g, r->rsp + (uint64_t)g->exit_sp[k]);
			g->exit_hits[k]++;
			if (!c) {
				untrue(g, "exit %u belongs to no call", k);
				continue;
			}
			if (!c->entries)
				untrue(g, "exit %u before the entry", k);
			if (c->exits++)
				untrue(g, "left twice, the second time by exit %u", k);
			c->result = r->rax;
		}
	}
}

static void see_return(const struct user_regs_struct *r)
{
	for (size_t i = w.n_active; i-- > 0;) {
		const struct call c = w.active[i];

		if (c.back != r->rip || c.sp + 8 != r->rsp)
			continue;
		forget(i);
		w.n_returns++;
		c.g->returned++;
		if (c.entries != 1)
			untrue(c.g, "entered %u times in one call", c.entries);
		if (c.g->has_exits && c.exits != 1)
			untrue(c.g, "left %u times in one call", c.exits);
		if (c.exits == 1 && c.result != r->rax)
			untrue(c.g, "result at the exit %#" PRIx64 ", of the call %#llx", c.result,
			       r->rax);
	}
}

/* Whether a plain function of the same direction is what calls the internal one. */
static bool is_inside_plain(const struct group *callers)
{
	enum sslc_call plain =
		callers->call == SSLC_CALL_READ_EX ? SSLC_CALL_READ : SSLC_CALL_WRITE;

	for (size_t i = 0; i < w.n_active; i++)
		if (w.active[i].g->call == plain)
			return true;
	return false;
}

static bool begins_here(const struct group *g, const struct user_regs_struct *r, uint64_t back)
{
	return g->begin == r->rip && (!g->is_caller || g->after == back);
}

static void begin_call(struct group *g, const struct user_regs_struct *r, uint64_t back)
{
	struct call *c = call_of(g, r->rsp);

	/* The first instruction again, on the same stack: a function that jumps to itself. Probes
	 * at the first instruction see that as ever; others must not exist in such a function. */
	if (c && c->back == back) {
		if (g->n_exits || (g->entry_sp && g->is_fast))
			untrue(g, "its beginning is passed twice");
		c->entries = 0;
		c->exits = 0;
		arguments_of(r, c->arg);
		return;
	}
	if (w.n_active == CALLS_MAX)
		die("too many calls in calls");
	c = &w.active[w.n_active++];
	*c = (struct call){.g = g, .sp = r->rsp, .back = back};
	arguments_of(r, c->arg);
	w.n_calls++;
	g->hits++;
	if (g->is_caller && w.pending == g &&
	    w.pending_regs.rsp == r->rsp - (uint64_t)g->entry_sp) {
		c->entries = 1;
		if (!is_same_arguments(g, c->arg, &w.pending_regs))
			untrue(g, "other arguments at the call");
	}
}

static void see_begin(const struct user_regs_struct *r)
{
	uint64_t back = peek_word(r->rsp);
	const struct group *callers = NULL;
	bool known = false;

	for (size_t i = 0; i < w.n_groups; i++) {
		struct group *g = &w.group[i];

		if (g->is_caller && g->begin == r->rip)
			callers = g;
		if (!begins_here(g, r, back))
			continue;
		known = known || g->is_caller;
		begin_call(g, r, back);
		if (!w.step && g->stepped < w.step_calls && !g->is_caller) {
			w.step = g;
			w.step_sp = r->rsp;
		}
		g->stepped += w.step && w.step->begin == g->begin;
	}
	if (callers && !known && !is_inside_plain(callers))
		untrue(callers, "called from elsewhere, to return to %#" PRIx64, back);
	add_point(back);
}

static void see_entries(const struct user_regs_struct *r)
{
	for (size_t i = 0; i < w.n_groups; i++) {
		struct group *g = &w.group[i];
		struct call *c;

		if (g->entry != r->rip)
			continue;
		if (g->is_caller) {
			w.pending = g;
			w.pending_regs = *r;
			continue;
		}
		c = call_of(g, r->rsp + (uint64_t)g->entry_sp);
		if (!c) {
			untrue(g, "the entry belongs to no call");
			continue;
		}
		if (c->entries++)
			untrue(g, "entered twice");
		if (!is_same_arguments(g, c->arg, r))
			untrue(g, "arguments at the entry are not those of the call");
		if (g->has_return && peek_word(r->rsp) != c->back)
			untrue(g, "a return probe finds no return address");
	}
}

static void see(const struct user_regs_struct *r)
{
	const struct point *p = point_at(r->rip);

	if (!p->at)
		return;
	drop_left(r->rsp);
	if (p->is_exit)
		see_exits(r);
	see_return(r);
	if (p->is_begin)
		see_begin(r);
	if (p->is_entry)
		see_entries(r);
}

/* --- running ------------------------------------------------------------------------------------
 */

static void open_memory(void)
{
	char path[64];

	if (w.mem > 0)
		close(w.mem);
	snprintf(path, sizeof(path), "/proc/%d/mem", (int)w.pid);
	w.mem = open(path, O_RDWR | O_CLOEXEC);
	if (w.mem < 0)
		die("%s: %s", path, strerror(errno));
}

static int await(void)
{
	int status;

	while (waitpid(w.pid, &status, 0) < 0)
		if (errno != EINTR)
			die("wait: %s", strerror(errno));
	return status;
}

/*
 * Another process's uprobes write over our breakpoints, or are there before us and take the hits
 * for themselves. The kernel adds a mapping to a process that one of them has stopped.
 */
static bool is_disturbed(void)
{
	char line[PATH_MAX + 128];
	FILE *f = open_maps();
	bool found = false;
	uint8_t byte;

	for (size_t i = 0; i < POINTS_MAX; i++)
		found |= w.point[i].at && peek(w.point[i].at, &byte, 1) && byte != INT3;
	while (f && !found && fgets(line, sizeof(line), f))
		found = strstr(line, "[uprobes]");
	if (f)
		fclose(f);
	return found;
}

/* env and the dynamic linker begin as other programs; and each ends. */
static int pass_events(int status)
{
	while (status >> 8 == (SIGTRAP | PTRACE_EVENT_EXEC << 8) ||
	       status >> 8 == (SIGTRAP | PTRACE_EVENT_EXIT << 8)) {
		if (status >> 16 == PTRACE_EVENT_EXEC)
			open_memory();
		else
			w.disturbed |= is_disturbed();
		if (ptrace(PTRACE_CONT, w.pid, 0, 0))
			die("cannot go on: %s", strerror(errno));
		status = await();
	}
	return status;
}

static bool await_stop(int *sig)
{
	int status = pass_events(await());

	if (WIFEXITED(status)) {
		w.pid = 0;
		if (WEXITSTATUS(status))
			die("the program ended with %d", WEXITSTATUS(status));
		return false;
	}
	if (WIFSIGNALED(status)) {
		w.pid = 0;
		printf("FALSE the program was killed by signal %d\n", WTERMSIG(status));
		w.n_false++;
		return false;
	}
	*sig = WSTOPSIG(status);
	return true;
}

static void get_regs(struct user_regs_struct *r)
{
	if (ptrace(PTRACE_GETREGS, w.pid, 0, r))
		die("registers: %s", strerror(errno));
}

static bool run_on(int how, int *sig)
{
	if (ptrace(how, w.pid, 0, (long)(*sig == SIGTRAP ? 0 : *sig)))
		die("cannot go on: %s", strerror(errno));
	return await_stop(sig);
}

/* One instruction, the breakpoint at it left out. Signals that come meanwhile are for later. */
static bool step_over(uint64_t at, int *sig)
{
	struct point *p = point_at(at);
	bool lives;

	if (p->at)
		poke(at, p->was);
	*sig = SIGTRAP;
	lives = run_on(PTRACE_SINGLESTEP, sig);
	if (p->at && lives)
		poke(at, INT3);
	w.n_steps++;
	return lives;
}

/* The instruction, with all breakpoints taken out. */
static unsigned decode(uint64_t at, ZydisDecodedInstruction *is, ZydisDecodedOperand *op)
{
	uint8_t code[ZYDIS_MAX_INSTRUCTION_LENGTH];
	ZydisDecoder d;

	if (!peek(at, code, sizeof(code)))
		return 0; /* the last bytes of a mapping: not in a function that is looked at */
	for (size_t i = 0; i < sizeof(code); i++) {
		const struct point *p = point_at(at + i);

		if (p->at)
			code[i] = p->was;
	}
	ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&d, code, sizeof(code), is, op)) ? is->length
										    : 0;
}

static bool stores_elsewhere(const ZydisDecodedInstruction *is, const ZydisDecodedOperand *op)
{
	for (unsigned i = 0; i < is->operand_count; i++)
		if (op[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    op[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE &&
		    op[i].mem.base != ZYDIS_REGISTER_RSP && op[i].mem.base != ZYDIS_REGISTER_RBP)
			return true;
	return false;
}

/* Of one instruction of a function that is stepped. */
static void judge_step(const struct group *g, uint64_t at, unsigned len, bool is_way, bool stores)
{
	for (size_t i = 0; i < w.n_groups; i++) {
		const struct group *o = &w.group[i];
		const struct call *c;

		if (o->begin != g->begin || o->is_caller)
			continue;
		if (o->entry > at && o->entry < at + len)
			untrue(o, "the entry is inside an instruction");
		for (unsigned k = 0; k < o->n_exits; k++)
			if (o->exit[k] > at && o->exit[k] < at + len)
				untrue(o, "exit %u is inside an instruction", k);
		c = call_of(o, w.step_sp);
		if (c && !c->entries && (is_way || stores))
			untrue(o, "something was done before the entry");
	}
}

/* Step through the function, not through what it calls, until the call is over. False: the program
 * has ended. */
static bool step_through(struct user_regs_struct *r, int *sig)
{
	while (w.step && call_of(w.step, w.step_sp)) {
		ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
		ZydisDecodedInstruction is;
		uint64_t at = r->rip;
		unsigned len = decode(at, &is, op);
		bool is_call = len && is.meta.category == ZYDIS_CATEGORY_CALL;
		bool is_way = is_call || (len && (is.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE ||
						  is.meta.category == ZYDIS_CATEGORY_RET));

		judge_step(w.step, at, len, is_way, len && stores_elsewhere(&is, op));
		if (!step_over(at, sig))
			return false;
		get_regs(r);
		if (*sig != SIGTRAP) /* told to the program when it goes on */
			break;
		if (is_call) {
			w.resume_at = at + len;
			w.resume_sp = r->rsp + 8;
			add_point(w.resume_at);
			see(r);
			return true;
		}
		see(r);
		/* It went on in another function: that one's return ends this call, too. */
		if (w.step && (r->rip < w.step->begin || r->rip >= w.step->begin + 4096))
			break;
	}
	w.step = NULL;
	return true;
}

static bool at_point(struct user_regs_struct *r, int *sig)
{
	bool was_stepping = w.step, resumes;

	r->rip--;
	resumes = w.step && r->rip == w.resume_at && r->rsp == w.resume_sp;
	if (ptrace(PTRACE_SETREGS, w.pid, 0, r))
		die("registers: %s", strerror(errno));
	see(r);
	if (was_stepping && !call_of(w.step, w.step_sp))
		w.step = NULL;
	if (w.step && (resumes || !was_stepping) && !step_through(r, sig))
		return false;
	/* It stands before an instruction that was looked at, but after a signal. */
	return point_at(r->rip)->at && *sig == SIGTRAP ? step_over(r->rip, sig) : true;
}

/* A system call of the program's, where it stands. */
static void inject(const struct user_regs_struct *at, uint64_t nr, uint64_t a, uint64_t b,
		   uint64_t c)
{
	static const uint8_t call[] = {0x0f, 0x05};
	struct user_regs_struct r = *at;
	uint8_t was[sizeof(call)];
	int sig = SIGTRAP;

	if (!peek(at->rip, was, sizeof(was)))
		die("nothing is mapped at %#llx", at->rip);
	for (size_t i = 0; i < sizeof(call); i++)
		poke(at->rip + i, call[i]);
	r.rax = nr;
	r.orig_rax = UINT64_MAX;
	r.rdi = a;
	r.rsi = b;
	r.rdx = c;
	if (ptrace(PTRACE_SETREGS, w.pid, 0, &r) || !run_on(PTRACE_SINGLESTEP, &sig))
		die("cannot make a system call");
	get_regs(&r);
	for (size_t i = 0; i < sizeof(call); i++)
		poke(at->rip + i, was[i]);
	if (r.rax || ptrace(PTRACE_SETREGS, w.pid, 0, at))
		die("system call %" PRIu64 ": %lld", nr, (long long)r.rax);
}

/* Kernels put no uprobes where a program may write. */
static void shield(const char *file)
{
	struct mapping m[MAPPINGS_MAX];
	struct user_regs_struct r;
	FILE *f = open_maps();
	size_t n = 0;

	while (n < MAPPINGS_MAX && next_mapping(f, file, &m[n]))
		n++;
	if (f)
		fclose(f);
	get_regs(&r);
	for (size_t i = 0; i < n; i++)
		inject(&r, SYS_mprotect, m[i].from, m[i].to - m[i].from,
		       PROT_READ | PROT_WRITE | PROT_EXEC);
}

static void begin(const char *file)
{
	shield(file);
	place(file);
}

static void watch(const char *file, bool is_ready)
{
	bool has_said = false; /* that it is ready */
	int sig = SIGTRAP;

	if (is_ready)
		begin(file);
	while (run_on(PTRACE_CONT, &sig)) {
		struct user_regs_struct r;

		if (sig != SIGTRAP)
			continue;
		get_regs(&r);
		if (is_ready && point_at(r.rip - 1)->at) {
			if (!at_point(&r, &sig))
				return;
		} else if (!has_said) {
			if (!is_ready)
				begin(file);
			is_ready = has_said = true;
		} else {
			die("a breakpoint at %llx that is none of ours", r.rip - 1);
		}
	}
	if (!is_ready)
		die("the program never said that it is ready");
}

static void start(char **command)
{
	int sig;

	w.pid = fork();
	if (w.pid < 0)
		die("fork: %s", strerror(errno));
	if (!w.pid) {
		if (ptrace(PTRACE_TRACEME, 0, 0, 0))
			_exit(126);
		setenv("SITEWATCH", "1", 1);
		execvp(command[0], command);
		_exit(127);
	}
	if (!await_stop(&sig))
		die("%s does not start", command[0]);
	if (ptrace(PTRACE_SETOPTIONS, w.pid, 0,
		   (long)(PTRACE_O_EXITKILL | PTRACE_O_TRACEEXEC | PTRACE_O_TRACEEXIT)))
		die("options: %s", strerror(errno));
	open_memory();
}

/* --- report -------------------------------------------------------------------------------------
 */

static const char *kind_of(const struct group *g)
{
	if (g->is_caller)
		return "at a call";
	if (!g->is_fast)
		return "plain";
	return g->has_return ? "cheap" : g->n_exits ? "pair" : "entry";
}

static void report(void)
{
	uint64_t fast = 0, pairs = 0, plain = 0, callers = 0, seen = 0, unseen_exits = 0, exits = 0;

	for (size_t i = 0; i < w.n_groups; i++) {
		const struct group *g = &w.group[i];

		fast += g->is_fast;
		pairs += g->is_fast && g->n_exits;
		plain += !g->is_fast && !g->is_caller;
		callers += g->is_caller;
		seen += g->hits > 0;
		exits += g->n_exits;
		if (!g->hits)
			printf("UNSEEN %s, call %d, %s\n", g->name, (int)g->call, kind_of(g));
		for (unsigned k = 0; k < g->n_exits; k++)
			unseen_exits += !g->exit_hits[k];
		if (w.verbose)
			printf("%s call %d %s: %" PRIu64 " calls, %" PRIu64 " returned%s%s\n",
			       g->name, (int)g->call, kind_of(g), g->hits, g->returned,
			       g->why ? "; " : "", g->why ? g->why : "");
	}
	printf("SUMMARY functions %zu fast %" PRIu64 " pairs %" PRIu64 " callers %" PRIu64
	       " plain %" PRIu64 " seen %" PRIu64 " exits %" PRIu64 " unseen %" PRIu64
	       " calls %" PRIu64 " returns %" PRIu64 " left %" PRIu64 " steps %" PRIu64
	       " false %" PRIu64 "\n",
	       w.n_groups, fast, pairs, callers, plain, seen, exits, unseen_exits, w.n_calls,
	       w.n_returns, w.n_left, w.n_steps, w.n_false);
}

static enum how how_of(const char *name)
{
	static const char *const names[] = {"",     "sp",     "exit-sp", "exit-lost",
					    "late", "inside", "caller"};

	for (int i = 1; i <= CALLER; i++)
		if (!strcmp(name, names[i]))
			return (enum how)i;
	die("-w %s is not known", name);
	return RIGHT;
}

int main(int argc, char **argv)
{
	static char *names[NAMES_MAX];
	char file[PATH_MAX], exe[PATH_MAX];
	size_t n_names = 0;
	int opt;

	while ((opt = getopt(argc, argv, "+vpcs:w:f:")) != -1) {
		w.verbose |= opt == 'v';
		w.sites.pairs |= opt == 'p';
		w.sites.calls |= opt == 'c';
		if (opt == 's')
			w.step_calls = (unsigned)atoi(optarg);
		if (opt == 'w')
			w.how = how_of(optarg);
		if (opt == 'f' && n_names < NAMES_MAX)
			names[n_names++] = optarg;
		if (opt == '?')
			return 1;
	}
	if (argc - optind < 2 || !realpath(argv[optind], file))
		die("FILE COMMAND [ARG...]");
	alarm(LIMIT_S);
	find_sites(file, names, n_names);
	start(argv + optind + 1);
	watch(file, realpath(argv[optind + 1], exe) && !strcmp(exe, file));
	report();
	sites_fini(&w.sites);
	if (w.disturbed || w.was_int3)
		return 4;
	return w.n_false ? 3 : 0;
}
