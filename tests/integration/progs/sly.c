/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sly: a library to be preloaded before OpenSSL's. Its SSL_read and SSL_write do what the real ones
 * do; but of a call that moved more than 4000 bytes the helper that SSL_write calls does not return
 * to it: it goes back to SSL_write's own caller at once. Code like this is legal, no compiler makes
 * it, and who reads only SSL_write will believe that each call passes its last instructions.
 * x86-64.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <openssl/ssl.h>

#if !defined(__x86_64__)
#error "x86-64 only"
#endif

/* Read by the code below. */
void *sly_read, *sly_write;

__attribute__((constructor)) static void find_real(void)
{
	sly_read = dlsym(RTLD_NEXT, "SSL_read");
	sly_write = dlsym(RTLD_NEXT, "SSL_write");
}

/* The branches that both begin with are taken for a length below 0, and those that they end with
 * never. */
#define FUNCTION(name, helper)                                                                     \
	__asm__(".text\n"                                                                          \
		".globl " name "\n"                                                                \
		".type " name ", @function\n" name ":\n"                                           \
		".cfi_startproc\n"                                                                 \
		"  sub $24, %rsp\n"                                                                \
		".cfi_def_cfa_offset 32\n"                                                         \
		"  mov %fs:0x28, %rax\n"                                                           \
		"  mov %rax, 8(%rsp)\n"                                                            \
		"  test %edx, %edx\n"                                                              \
		"  js 2f\n"                                                                        \
		"  call " helper "\n"                                                              \
		"1: mov 8(%rsp), %rdx\n"                                                           \
		"  sub %fs:0x28, %rdx\n"                                                           \
		"  jne 3f\n"                                                                       \
		"  add $24, %rsp\n"                                                                \
		".cfi_remember_state\n"                                                            \
		".cfi_def_cfa_offset 8\n"                                                          \
		"  ret\n"                                                                          \
		".cfi_restore_state\n"                                                             \
		"2: mov $-1, %eax\n"                                                               \
		"  jmp 1b\n"                                                                       \
		"3: call __stack_chk_fail@PLT\n"                                                   \
		".cfi_endproc\n"                                                                   \
		".size " name ", .-" name "\n")

FUNCTION("SSL_read", "sly_reads");
FUNCTION("SSL_write", "sly_writes");

__asm__(".text\n"
	"sly_reads:\n"
	"  mov sly_read@GOTPCREL(%rip), %rax\n"
	"  jmp *(%rax)\n"
	"sly_writes:\n"
	"  sub $8, %rsp\n"
	"  mov sly_write@GOTPCREL(%rip), %rax\n"
	"  call *(%rax)\n"
	"  add $8, %rsp\n"
	"  cmp $4000, %eax\n"
	"  jle 1f\n"
	"  add $32, %rsp\n" /* the way back to SSL_write, and its frame */
	"1: ret\n");
