/* SPDX-License-Identifier: Apache-2.0 */
/*
 * harm: a function in, whether a strictly sandboxed process survives it out. The child makes no
 * system call but those of its sandbox and exit; nothing of another process is touched.
 */
#include "probes/harm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

__attribute__((noinline)) int harm_canary(void)
{
	__asm__ volatile(""); /* keeps the call */
	return 0;
}

/* Kernels emulate a nop (x86, arm64), and none of them a move between registers. */
#if defined(__x86_64__)
#define MOVE "mov %edi, %eax"
#else
#define MOVE "mov w0, w1"
#endif
#define FUNCTION(name, first)                                                                      \
	__asm__(".text\n"                                                                          \
		".globl " name "\n"                                                                \
		".type " name ", %function\n" name ":\n"                                           \
		"  " first "\n"                                                                    \
		"  ret\n"                                                                          \
		".size " name ", .-" name "\n")

FUNCTION("harm_emulated", "nop");
FUNCTION("harm_stepped", MOVE);

static uint64_t offset_of(int (*fn)(void))
{
	uint64_t at = (uintptr_t)fn, offset = 0;
	unsigned long long start, end, pgoff;
	char line[512], perms[5];
	FILE *f = fopen("/proc/self/maps", "re");

	if (!f)
		return 0;
	while (!offset && fgets(line, sizeof(line), f))
		if (sscanf(line, "%llx-%llx %4s %llx", &start, &end, perms, &pgoff) == 4 &&
		    at >= start && at < end)
			offset = at - start + pgoff;
	fclose(f);
	return offset;
}

uint64_t harm_canary_offset(void)
{
	return offset_of(harm_canary);
}

uint64_t harm_emulated_offset(void)
{
	return offset_of(harm_emulated);
}

uint64_t harm_stepped_offset(void)
{
	return offset_of(harm_stepped);
}

bool harm_has_shadow_stacks(const char *cpuinfo)
{
	FILE *f = fopen(cpuinfo, "re");
	bool has = false, known = false;
	char *line = NULL;
	size_t cap = 0;

	while (f && !known && getline(&line, &cap, f) > 0) {
		known = !strncmp(line, "flags", 5);
		has = known && strstr(line, " user_shstk");
	}
	free(line);
	if (f)
		fclose(f);
	return has || !known;
}

static int enter_sandbox(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog program = {.len = sizeof(code) / sizeof(code[0]), .filter = code};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -1;
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0);
}

/* Exit statuses of the child; a killed one has none. */
enum { LIVED = 0, NO_SANDBOX = 1 };

int harm_sandboxed_survives(int (*fn)(void))
{
	int status;
	pid_t pid = fork();

	if (pid < 0)
		return -errno;
	if (pid == 0) {
		if (enter_sandbox())
			syscall(SYS_exit_group, NO_SANDBOX);
		(void)fn();
		syscall(SYS_exit_group, LIVED);
	}
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	if (WIFEXITED(status) && WEXITSTATUS(status) == NO_SANDBOX)
		return -ENOTSUP; /* no seccomp, nobody to harm with it */
	return WIFEXITED(status) && WEXITSTATUS(status) == LIVED;
}

/* --- a child with threads -----------------------------------------------------------------------
 */

/* What the child is told, one byte each; it answers with a uint64_t. */
enum { CALL_CANARY = 'c', TIME_EMULATED = 'e', TIME_STEPPED = 's' };

/* The thread's own time: others may want the processor, too. */
static uint64_t thread_ns(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t time_calls(int (*fn)(void))
{
	uint64_t began = thread_ns();

	for (int i = 0; i < HARM_CALLS; i++)
		(void)fn();
	return thread_ns() - began;
}

static uint64_t obey(char order)
{
	if (order != CALL_CANARY)
		return time_calls(order == TIME_STEPPED ? harm_stepped : harm_emulated);
	(void)harm_canary();
	return (uint64_t)syscall(SYS_gettid);
}

static void *call_when_told(void *ctx)
{
	const struct harm_threaded *c = ctx;
	char order;

	while (read(c->from, &order, 1) == 1) { /* until the parent is gone, or has done with it */
		uint64_t answer = obey(order);

		if (write(c->to, &answer, sizeof(answer)) != sizeof(answer))
			break;
	}
	return NULL;
}

static void run_threaded(struct harm_threaded *c)
{
	pthread_t thread;

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (!pthread_create(&thread, NULL, call_when_told, c))
		(void)pthread_join(thread, NULL);
	_exit(0);
}

int harm_threaded_start(struct harm_threaded *c)
{
	int down[2], up[2], err;

	if (pipe2(down, O_CLOEXEC))
		return -errno;
	if (pipe2(up, O_CLOEXEC)) {
		err = -errno;
		close(down[0]);
		close(down[1]);
		return err;
	}
	*c = (struct harm_threaded){.pid = fork(), .to = down[1], .from = up[0]};
	if (!c->pid) {
		close(down[1]);
		c->to = up[1];
		c->from = down[0];
		run_threaded(c);
	}
	err = c->pid < 0 ? -errno : 0;
	close(down[0]);
	close(up[1]);
	if (err) {
		close(c->to);
		close(c->from);
	}
	return err;
}

static int order(const struct harm_threaded *c, char what, uint64_t *answer)
{
	if (write(c->to, &what, 1) != 1)
		return -errno;
	return read(c->from, answer, sizeof(*answer)) == sizeof(*answer) ? 0 : -EPIPE;
}

int harm_threaded_call(struct harm_threaded *c)
{
	uint64_t tid;
	int err = order(c, CALL_CANARY, &tid);

	if (!err)
		c->tid = (unsigned)tid;
	return err;
}

int harm_threaded_time(const struct harm_threaded *c, bool stepped, double *ns)
{
	uint64_t sum;
	int err = order(c, stepped ? TIME_STEPPED : TIME_EMULATED, &sum);

	if (!err)
		*ns = (double)sum / HARM_CALLS;
	return err;
}

void harm_threaded_stop(struct harm_threaded *c)
{
	close(c->to);
	close(c->from);
	kill(c->pid, SIGKILL);
	while (waitpid(c->pid, NULL, 0) < 0 && errno == EINTR)
		;
}
