/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * goroutine: which goroutine runs on this thread, and the TLS calls that it is inside of. A
 * goroutine moves between threads inside a call, and so do its calls: they are kept by process and
 * goroutine, not by thread.
 */
#ifndef SSLC_BPF_GOROUTINE_H
#define SSLC_BPF_GOROUTINE_H

#define MAX_GO_CALLS 32768 /* goroutines inside a TLS call: most wait in Read */
#define MAX_GO_PROCS 4096

struct go_key {
	__u64 g; /* address of the runtime's structure */
	__u32 tgid;
	__u32 pad;
};

/*
 * Made by the outermost call, removed when it returns. Nothing tells when a process dies inside
 * one: the oldest go when the table is full.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_GO_CALLS);
	__type(key, struct go_key);
	__type(value, struct calls);
} go_calls SEC(".maps");

/* Processes that have called Go's TLS, so that others' socket operations cost no more than one
 * look. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_GO_PROCS);
	__type(key, __u32); /* tgid */
	__type(value, __u8);
} go_procs SEC(".maps");

#if defined(__TARGET_ARCH_x86)
/*
 * The word below the thread pointer holds g in each thread of a Go program (its linkers lay out one
 * word of thread-local storage: ELF Handling for Thread-Local Storage, variant II). The thread
 * pointer is set by system calls only, which leave it in the task as well.
 */
static __always_inline __u64 thread_g(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u64 base = BPF_CORE_READ(task, thread.fsbase), g = 0;

	return base && !bpf_probe_read_user(&g, sizeof(g), (void *)(base - 8)) ? g : 0;
}
#else
static __always_inline __u64 thread_g(void)
{
	return 0;
}
#endif

/*
 * What the register that Go reserves for g since 1.17 (arm64: always) held when the thread entered
 * the kernel: its system call stubs leave it alone. For programs whose C parts have thread-local
 * variables of their own, and for arm64.
 */
static __always_inline __u64 user_g(void)
{
	const void *regs = user_regs();
	__u64 g = 0;
#if defined(__TARGET_ARCH_x86)
	const __u64 at = offsetof(struct pt_regs, r14);
#else
	const __u64 at = 28 * 8;
#endif

	return regs && !bpf_probe_read_kernel(&g, sizeof(g), regs + at) ? g : 0;
}

static __always_inline struct calls *go_calls_of(__u64 g)
{
	struct go_key key = {.g = g, .tgid = bpf_get_current_pid_tgid() >> 32};

	return g ? bpf_map_lookup_elem(&go_calls, &key) : NULL;
}

/* The calls of the goroutine that runs here, as seen from a socket operation; NULL: none. */
static __always_inline struct calls *go_calls_here(void)
{
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct calls *cs;

	if (!bpf_map_lookup_elem(&go_procs, &tgid))
		return NULL;
	cs = go_calls_of(thread_g());
	return cs ? cs : go_calls_of(user_g());
}

/* The TLS calls that this thread is inside of, be they the thread's or its goroutine's. */
static __always_inline struct calls *calls_here(void)
{
	__u64 tid = bpf_get_current_pid_tgid();
	struct calls *cs = bpf_map_lookup_elem(&calls, &tid), *go;

	if (cs && cs->depth)
		return cs;
	go = go_calls_here();
	return go ? go : cs;
}

#define LOOSE_NS 2000000000ull

/* The thread was not quiet; cs: its calls, or NULL. For a stack frame of its own. */
static __noinline void look_whether_quiet(__u64 tid, const struct calls *cs)
{
	__u32 epoch = quiet_epoch, tgid = tid >> 32;

	if (cs && (cs->depth || bpf_ktime_get_ns() - cs->loose_ns < LOOSE_NS))
		return;
	if (!bpf_map_lookup_elem(&go_procs, &tgid))
		quiet_begins(tid, epoch);
}

#endif
