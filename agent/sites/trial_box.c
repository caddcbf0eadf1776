/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trial_box: what the child of an experiment may not do. It runs a library's code, as any program
 * on the host does; all the same it gets no privilege, no network, no file to write, no other
 * process, and little time.
 */
#include "sites/trial.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NOBODY    65534
#define CPU_S     20 /* under emulation; else it takes one */
#define WALL_S    40
#define FILE_MAX  (16u << 20) /* the copy of the library's code, in memory */
#define FILES_MAX 32

#if defined(__x86_64__)

/* And openat(), to read. */
static const int allowed[] = {
	SYS_read,          SYS_write,
	SYS_pread64,       SYS_pwrite64,
	SYS_close,         SYS_fstat,
	SYS_newfstatat,    SYS_lseek,
	SYS_mmap,          SYS_munmap,
	SYS_mremap,        SYS_mprotect,
	SYS_brk,           SYS_madvise,
	SYS_rt_sigaction,  SYS_rt_sigprocmask,
	SYS_rt_sigreturn,  SYS_sigaltstack,
	SYS_futex,         SYS_getrandom,
	SYS_getpid,        SYS_gettid,
	SYS_getuid,        SYS_geteuid,
	SYS_getgid,        SYS_getegid,
	SYS_clock_gettime, SYS_gettimeofday,
	SYS_time,          SYS_sched_yield,
	SYS_sysinfo,       SYS_uname,
	SYS_readlink,      SYS_access,
	SYS_memfd_create,  SYS_ftruncate,
	SYS_exit,          SYS_exit_group,
	SYS_getcwd,        SYS_set_robust_list,
	SYS_rseq,          SYS_sched_getaffinity,
	SYS_poll,
};
#define N_ALLOWED (sizeof(allowed) / sizeof(allowed[0]))

static int filter_calls(void)
{
	struct sock_filter code[N_ALLOWED + 9];
	struct sock_fprog program = {.filter = code};
	unsigned short n = 0;

	code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
						 offsetof(struct seccomp_data, arch));
	code[n++] =
		(struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
						 offsetof(struct seccomp_data, nr));
	for (size_t i = 0; i < N_ALLOWED; i++)
		code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
							 (unsigned)allowed[i],
							 (unsigned char)(N_ALLOWED - i + 3), 0);
	code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 0, 2);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
						 offsetof(struct seccomp_data, args[2]));
	code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K,
						 O_ACCMODE | O_CREAT | O_TRUNC, 0, 1);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	program.len = n;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -errno;
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) ? -errno : 0;
}

static int limit(int what, rlim_t n)
{
	const struct rlimit l = {n, n};

	return setrlimit((__rlimit_resource_t)what, &l) ? -errno : 0;
}

/* Where another user cannot be had (services have no capability for it), having no capabilities
 * and no system calls must do. */
static int drop_privileges(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	const struct __user_cap_data_struct none[2] = {{0}};

	if (!geteuid() && (setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) ||
			   setresuid(NOBODY, NOBODY, NOBODY)))
		errno = 0;
	return syscall(SYS_capset, &header, none) ? -errno : 0;
}

int trial_enter_box(void)
{
	int err = drop_privileges();

	err = err ? err : limit(RLIMIT_CORE, 0);
	err = err ? err : limit(RLIMIT_CPU, CPU_S);
	err = err ? err : limit(RLIMIT_FSIZE, FILE_MAX);
	err = err ? err : limit(RLIMIT_NOFILE, FILES_MAX);
	(void)alarm(WALL_S);
	return err ? err : filter_calls();
}

#else

int trial_enter_box(void)
{
	return -ENOTSUP;
}

#endif
