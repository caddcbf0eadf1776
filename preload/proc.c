/* SPDX-License-Identifier: Apache-2.0 */
/*
 * proc: children, and sandboxes. A child gets a ring of its own at once, as long as it may make
 * system calls, when its parent has one; else at its first TLS call. A program that puts
 * itself under a seccomp filter makes no system call of ours any more, and neither do its children:
 * the filter may kill for it.
 */
#include "preload.h"

#include <linux/seccomp.h>
#include <pthread.h>
#include <stdarg.h>
#include <string.h>
#include <sys/prctl.h>

typedef long syscall_fn(long, ...);
extern syscall_fn *shim_real_syscall;
void shim_find_syscall(void);
void shim_before_clone(void);
void shim_in_clone(void);

static bool child_wants_ring;

static void before_fork(void)
{
	/* Even one that never uses TLS: it must not go on sharing what its parent says. */
	child_wants_ring = shim_own->ring;
	sock_share();
	ring_forks(child_wants_ring);
	if (shim_own->ring)
		__atomic_fetch_add(&shim_own->ring->forks, 1, __ATOMIC_RELAXED);
}

static void in_child(void)
{
	memset(&shim_thread, 0, sizeof(shim_thread));
	if (child_wants_ring)
		ring_set_up();
}

static __typeof__(&prctl) next_prctl;

void proc_init(void)
{
	next_prctl = (__typeof__(&prctl))lib_next("prctl");
	shim_find_syscall();
	(void)pthread_atfork(before_fork, NULL, in_child);
}

EXPORT int prctl(int option, ...)
{
	unsigned long v[4];
	va_list ap;

	va_start(ap, option);
	for (int i = 0; i < 4; i++)
		v[i] = va_arg(ap, unsigned long);
	va_end(ap);
	if (option == PR_SET_SECCOMP)
		shim_is_sandboxed = true;
	/* Linux ends a process that reads the processor's counter in the strict sandbox, or where
	 * it was asked to. */
	if ((option == PR_SET_SECCOMP && v[0] == SECCOMP_MODE_STRICT) ||
	    (option == PR_SET_TSC && v[0] == PR_TSC_SIGSEGV))
		ring_without_counter();
	if (UNLIKELY(!next_prctl))
		next_prctl = (__typeof__(&prctl))lib_next("prctl");
	return next_prctl(option, v[0], v[1], v[2], v[3]);
}

/* --- syscall(2) ---------------------------------------------------------------------------------
 * libseccomp comes this way, and so do programs that make children with flags of their own. All
 * other calls are passed on by a jump, with all arguments where they were.
 */

#define HIDDEN_USED __attribute__((visibility("hidden"), used))

HIDDEN_USED void shim_find_syscall(void)
{
	shim_real_syscall = (syscall_fn *)lib_next("syscall");
}

HIDDEN_USED void shim_before_clone(void)
{
	before_fork();
}

HIDDEN_USED void shim_in_clone(void)
{
	in_child();
}

HIDDEN_USED syscall_fn *shim_real_syscall;

/* clang-format off */
#if defined(__x86_64__)
#define PUSH(r) "	pushq %" r "\n	.cfi_adjust_cfa_offset 8\n"
#define POP(r)  "	popq %" r "\n	.cfi_adjust_cfa_offset -8\n"
#define SAVE    PUSH("rdi") PUSH("rsi") PUSH("rdx") PUSH("rcx") PUSH("r8") PUSH("r9") PUSH("rax")
#define RESTORE POP("rax") POP("r9") POP("r8") POP("rcx") POP("rdx") POP("rsi") POP("rdi")
__asm__(".text\n"
	".globl syscall\n"
	".type syscall, @function\n"
	"syscall:\n"
	"	.cfi_startproc\n"
	"	endbr64\n"
	"	cmpq $0, shim_real_syscall(%rip)\n"
	"	jne 1f\n"
	SAVE
	"	call shim_find_syscall\n"
	RESTORE
	"1:	cmpq $56, %rdi\n" /* clone */
	"	je 3f\n"
	"	cmpq $57, %rdi\n" /* fork */
	"	je 4f\n"
	"	cmpq $317, %rdi\n" /* seccomp */
	"	je 2f\n"
	"	cmpq $157, %rdi\n" /* prctl */
	"	jne 5f\n"
	"	cmpl $22, %esi\n" /* PR_SET_SECCOMP */
	"	jne 5f\n"
	"2:	movb $1, shim_is_sandboxed(%rip)\n"
	"5:	jmp *shim_real_syscall(%rip)\n"
	"3:	testl $0x4100, %esi\n" /* CLONE_VM, CLONE_VFORK: the stack may be shared */
	"	jne 5b\n"
	"	testq %rdx, %rdx\n" /* a stack of its own: it does not return here */
	"	jne 5b\n"
	"4:\n"
	SAVE
	"	call shim_before_clone\n"
	RESTORE
	PUSH("rdi")
	"	call *shim_real_syscall(%rip)\n"
	"	testq %rax, %rax\n"
	"	jne 6f\n"
	"	call shim_in_clone\n"
	"	xorl %eax, %eax\n"
	"6:\n"
	POP("rdi")
	"	ret\n"
	"	.cfi_endproc\n"
	".size syscall, .-syscall\n");
#elif defined(__aarch64__)
#define SAVE    "	stp x29, x30, [sp, #-80]!\n	stp x0, x1, [sp, #16]\n	stp x2, x3, [sp, #32]\n" \
		"	stp x4, x5, [sp, #48]\n	stp x6, x7, [sp, #64]\n"
#define RESTORE "	ldp x0, x1, [sp, #16]\n	ldp x2, x3, [sp, #32]\n	ldp x4, x5, [sp, #48]\n" \
		"	ldp x6, x7, [sp, #64]\n	ldp x29, x30, [sp], #80\n"
__asm__(".text\n"
	".globl syscall\n"
	".type syscall, %function\n"
	"syscall:\n"
	"	hint #34\n" /* bti c */
	"	adrp x16, shim_real_syscall\n"
	"	ldr x16, [x16, #:lo12:shim_real_syscall]\n"
	"	cbnz x16, 1f\n"
	SAVE
	"	bl shim_find_syscall\n"
	RESTORE
	"	adrp x16, shim_real_syscall\n"
	"	ldr x16, [x16, #:lo12:shim_real_syscall]\n"
	"1:	cmp x0, #220\n" /* clone */
	"	b.eq 3f\n"
	"	cmp x0, #277\n" /* seccomp */
	"	b.eq 2f\n"
	"	cmp x0, #167\n" /* prctl */
	"	b.ne 5f\n"
	"	cmp w1, #22\n" /* PR_SET_SECCOMP */
	"	b.ne 5f\n"
	"2:	mov w10, #1\n"
	"	adrp x9, shim_is_sandboxed\n"
	"	strb w10, [x9, #:lo12:shim_is_sandboxed]\n"
	"5:	br x16\n"
	"3:	mov w9, #0x4100\n" /* CLONE_VM, CLONE_VFORK: the stack may be shared */
	"	tst w1, w9\n"
	"	b.ne 5b\n"
	"	cbnz x2, 5b\n" /* a stack of its own: it does not return here */
	SAVE
	"	bl shim_before_clone\n"
	RESTORE
	"	stp x29, x30, [sp, #-16]!\n"
	"	adrp x16, shim_real_syscall\n"
	"	ldr x16, [x16, #:lo12:shim_real_syscall]\n"
	"	blr x16\n"
	"	cbnz x0, 6f\n"
	"	bl shim_in_clone\n"
	"	mov x0, #0\n"
	"6:	ldp x29, x30, [sp], #16\n"
	"	ret\n"
	".size syscall, .-syscall\n");
#else
#error "syscall() on this machine"
#endif
/* clang-format on */
