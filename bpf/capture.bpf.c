/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * capture: the kernel half. In: calls of TLS libraries and the socket operations inside them. Out:
 * struct sslc_event in one ring buffer. Never blocks, never changes what it watches.
 */
#include "types.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>
#include "event.h"
#include "calls.h"
#include "ring.h"
#include "maps.bpf.h"
#include "quiet.bpf.h"
#include "tally.bpf.h"
#include "ring.bpf.h"
#include "emit.bpf.h"
#include "pending.bpf.h"
#include "record.bpf.h"
#include "userbuf.bpf.h"
#include "goroutine.bpf.h"
#include "sock.bpf.h"
#include "wire.bpf.h"
#include "hooks.bpf.h"
#include "calls.bpf.h"
#include "records.bpf.h"
#include "go.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* A thread that dies inside a call never returns from it. */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_thread_exit, struct task_struct *task)
{
	__u64 tid = bpf_get_current_pid_tgid();

	(void)task;
	bpf_map_delete_elem(&calls, &tid);
	return 0;
}

/* Run once by the agent in its own context: who we are, in the kernel's terms. */
SEC("raw_tp")
int learn_self(void *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	(void)ctx;
	self_tgid = bpf_get_current_pid_tgid() >> 32;
	self_inode = (__u64)BPF_CORE_READ(task, mm, exe_file, f_inode);
	return 0;
}

/* What tell_isn() found. */
struct {
	__u32 iss, irs, is_known;
} told_isn = {};

/* Run by the agent in its own context: the initial sequence numbers of its own descriptor of that
 * number, a TCP socket that it has borrowed from a preloaded program. */
SEC("raw_tp")
int tell_isn(__u64 *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file **slots = BPF_CORE_READ(table, fd), *file = NULL;
	struct socket *socket;
	struct isn isn = {};
	__u32 fd = ctx[0];

	told_isn.is_known = 0;
	if (fd >= BPF_CORE_READ(table, max_fds) ||
	    bpf_probe_read_kernel(&file, sizeof(file), &slots[fd]) || !file)
		return 0;
	socket = BPF_CORE_READ(file, private_data);
	if (!read_isn(BPF_CORE_READ(socket, sk), &isn))
		return 0;
	told_isn.iss = isn.iss;
	told_isn.irs = isn.irs;
	told_isn.is_known = 1;
	return 0;
}
