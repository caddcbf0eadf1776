/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * userbuf: where in the process's memory the bytes of the socket operation are that the current
 * thread is in. The kernel's own view of them (iov_iter) is used up by the time an operation's
 * result is known, so they are found as the program named them: in the system call's arguments.
 */
#ifndef SSLC_BPF_USERBUF_H
#define SSLC_BPF_USERBUF_H

#define USERBUF_PARTS 8 /* more buffers in one call than TLS programs use */

struct userbuf {
	__u64 base[USERBUF_PARTS], len[USERBUF_PARTS];
	__u32 n;
	__u32 pad;
};

/* include/uapi/asm-generic/unistd.h, arch/x86/entry/syscalls/syscall_64.tbl */
#if defined(__TARGET_ARCH_x86)
enum {
	NR_READ = 0,
	NR_WRITE = 1,
	NR_READV = 19,
	NR_WRITEV = 20,
	NR_SENDTO = 44,
	NR_RECVFROM = 45,
	NR_SENDMSG = 46,
	NR_RECVMSG = 47
};
#define USER_CS64 0x33 /* arch/x86/include/asm/segment.h */
#else
enum {
	NR_READ = 63,
	NR_WRITE = 64,
	NR_READV = 65,
	NR_WRITEV = 66,
	NR_SENDTO = 206,
	NR_RECVFROM = 207,
	NR_SENDMSG = 211,
	NR_RECVMSG = 212
};
#endif

struct syscall {
	__u64 nr, arg2, arg3;
};

/*
 * The registers with which the thread entered the kernel. Since 5.15 there is a helper; before, on
 * x86-64, they lie at the upper end of the kernel stack (16 KiB but for KASAN kernels).
 */
static __always_inline const void *user_regs(void)
{
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_task_pt_regs))
		return (const void *)bpf_task_pt_regs(bpf_get_current_task_btf());
#if defined(__TARGET_ARCH_x86)
	struct task_struct *task = (void *)bpf_get_current_task();
	const char *stack = BPF_CORE_READ(task, stack);

	return stack ? stack + 16384 - sizeof(struct pt_regs) : NULL;
#else
	return NULL;
#endif
}

static __always_inline bool read_syscall(struct syscall *s)
{
	const void *from = user_regs();

#if defined(__TARGET_ARCH_x86)
	struct { /* a part of struct pt_regs: the stack is small */
		__u64 dx, si, di, orig_ax, ip, cs;
	} r;

	if (!from || bpf_probe_read_kernel(&r, sizeof(r), from + offsetof(struct pt_regs, dx)) ||
	    r.cs != USER_CS64)
		return false;
	s->nr = r.orig_ax;
	s->arg2 = r.si;
	s->arg3 = r.dx;
#else
	__u64 r[9]; /* regs[0] to regs[8] */

	if (!from || bpf_probe_read_kernel(r, sizeof(r), from))
		return false;
	s->nr = r[8];
	s->arg2 = r[1];
	s->arg3 = r[2];
#endif
	return true;
}

static __always_inline void take_iovec(struct userbuf *u, __u64 iov, __u64 n)
{
	__u64 one[2]; /* struct iovec: base, length */

	for (__u32 i = 0; i < USERBUF_PARTS; i++) {
		if (i >= n ||
		    bpf_probe_read_user(one, sizeof(one), (void *)(iov + i * sizeof(one))))
			return;
		u->base[i] = one[0];
		u->len[i] = one[1];
		u->n = i + 1;
	}
}

/* The memory that a call names: a buffer, or a list of them (struct iovec) when *is_list. */
static __always_inline bool named_memory(__u64 *at, __u64 *n, bool *is_list)
{
	struct syscall s;
	__u64 msg[2]; /* struct user_msghdr: msg_iov, msg_iovlen, at 16 */

	if (!read_syscall(&s))
		return false;
	*at = s.arg2;
	*n = s.arg3;
	*is_list = true;
	switch (s.nr) {
	case NR_READ:
	case NR_WRITE:
	case NR_SENDTO:
	case NR_RECVFROM:
		*is_list = false;
		return true;
	case NR_READV:
	case NR_WRITEV:
		return true;
	case NR_SENDMSG:
	case NR_RECVMSG:
		if (bpf_probe_read_user(msg, sizeof(msg), (void *)(s.arg2 + 16)))
			return false;
		*at = msg[0];
		*n = msg[1];
		return true;
	}
	return false;
}

/* False for calls that name no memory (sendfile) or name it elsewhere (io_uring), and before 5.15
 * on arm64. */
static __always_inline bool userbuf_find(struct userbuf *u)
{
	__u64 at, n;
	bool is_list;

	u->n = 0;
	if (!named_memory(&at, &n, &is_list))
		return false;
	if (is_list) {
		take_iovec(u, at, n);
		return u->n;
	}
	u->base[0] = at;
	u->len[0] = n;
	u->n = 1;
	return true;
}

/* Where the operation's first byte is; 0: not known. */
static __always_inline __u64 userbuf_first(void)
{
	__u64 at, n, one[2];
	bool is_list;

	if (!named_memory(&at, &n, &is_list))
		return 0;
	if (!is_list)
		return at;
	return bpf_probe_read_user(one, sizeof(one), (void *)at) ? 0 : one[0];
}

/* Where the byte at offset `at` of the operation is, and how many follow it there; 0: nowhere. */
static __always_inline __u64 userbuf_at(const struct userbuf *u, __u64 at, __u64 *follow)
{
	for (__u32 i = 0; i < USERBUF_PARTS && i < u->n; i++) {
		if (at < u->len[i]) {
			*follow = u->len[i] - at;
			return u->base[i] + at;
		}
		at -= u->len[i];
	}
	return 0;
}

#endif
