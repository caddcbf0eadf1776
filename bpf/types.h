/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * types: the kernel structures that our programs read, cut down to the members used. Offsets are
 * relocated at load time against the running kernel's BTF (CO-RE), so members only need right names
 * and types, and a build host needs no BTF of its own.
 */
#ifndef SSLC_BPF_TYPES_H
#define SSLC_BPF_TYPES_H

/* Tells bpf_tracing.h that struct pt_regs has the kernel's member names. */
#define __VMLINUX_H__

typedef unsigned char __u8;
typedef signed char __s8;
typedef unsigned short __u16;
typedef short __s16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)
#ifndef offsetof
#define offsetof(type, member) __builtin_offsetof(type, member)
#endif

enum bpf_map_type_used { /* include/uapi/linux/bpf.h */
			 BPF_MAP_TYPE_HASH = 1,
			 BPF_MAP_TYPE_PROG_ARRAY = 3,
			 BPF_MAP_TYPE_PERCPU_ARRAY = 6,
			 BPF_MAP_TYPE_LRU_HASH = 9,
			 BPF_MAP_TYPE_LRU_PERCPU_HASH = 10,
			 BPF_MAP_TYPE_ARRAY_OF_MAPS = 12,
			 BPF_MAP_TYPE_RINGBUF = 27,
};
/* include/uapi/linux/bpf.h; flags of the ring buffer's helpers, all since 5.8 */
enum { BPF_RB_NO_WAKEUP = 1, BPF_RB_FORCE_WAKEUP = 2 };
enum { BPF_RB_AVAIL_DATA = 0 };
/* include/uapi/linux/bpf.h; whether the running kernel has it is looked up at load. */
enum bpf_func_id {
	BPF_FUNC_get_current_task_btf = 158, /* 5.11 */
	BPF_FUNC_task_pt_regs = 175,         /* 5.15 */
};
#define BPF_ANY     0
#define BPF_NOEXIST 1

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
	__u32 inum;
};
struct net {
	struct ns_common ns;
};
typedef struct {
	struct net *net;
} possible_net_t;
struct in6_addr {
	union {
		__u8 u6_addr8[16];
	} in6_u;
};
struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
};
struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
	int sk_err;
	__u8 sk_shutdown;
};
struct msghdr;
struct inet_sock {
	__be16 inet_sport;
};
struct inet_bind_bucket {
	__s8 fastreuse;
};
struct inet_connection_sock {
	struct inet_bind_bucket *icsk_bind_hash;
	const void *icsk_ulp_ops;
};
struct tcp_sock { /* include/linux/tcp.h */
	__u32 mss_cache;
	__u32 rcv_nxt;
	__u32 snd_nxt;
	__u32 snd_una;
	__u32 write_seq;
	__u32 copied_seq;
	__u64 bytes_sent;
	__u64 bytes_received;
	__u64 bytes_acked;
	__u64 bytes_retrans;
};
struct inode {
	unsigned long i_ino;
};
struct file {
	struct inode *f_inode;
	void *private_data;
};
struct socket {
	struct sock *sk;
};
struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};
struct files_struct {
	struct fdtable *fdt;
};
struct mm_struct {
	struct file *exe_file;
};
#if defined(__TARGET_ARCH_x86)
struct thread_struct {
	unsigned long fsbase;
};
#endif
struct task_struct {
	void *stack;
	struct mm_struct *mm;
	struct files_struct *files;
	struct task_struct *group_leader;
	int pid;
	int tgid;
	__u64 start_boottime;
#if defined(__TARGET_ARCH_x86)
	struct thread_struct thread;
#endif
};

#pragma clang attribute pop

#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip,
		cs, flags, sp, ss;
};
#elif defined(__TARGET_ARCH_arm64)
struct user_pt_regs {
	__u64 regs[31], sp, pc, pstate;
};
struct pt_regs;
#else
#error "only x86-64 and arm64 are known"
#endif

#endif
