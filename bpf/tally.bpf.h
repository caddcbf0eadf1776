/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * tally: how often probes are hit and what they cost. Each program is framed by tally_begin() and
 * tally_end(). They are counted when somebody asks; whose they were, only when the agent governs
 * overhead.
 */
#ifndef SSLC_BPF_TALLY_H
#define SSLC_BPF_TALLY_H

#define MAX_HITTERS 4096

/* One hit in so many is timed. */
#define TALLY_SAMPLE 64
/* A program does not run longer; the thread was interrupted. */
#define TALLY_LONGEST_NS 100000

/* Set by the agent before load. */
const volatile __u32 tally_processes = 0;

/* Set by the agent while somebody wants to know: else this costs a hit one load. */
volatile __u32 tallying = 0;

/* Set by the agent once it has measured them: ns, by enum sslc_price. */
volatile __u32 prices[SSLC_PRICES] = {};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sslc_tally);
} tallies SEC(".maps");

/* The least recently used go when the table is full. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_PERCPU_HASH);
	__uint(max_entries, MAX_HITTERS);
	__type(key, __u32); /* tgid */
	__type(value, struct sslc_hits);
} hitters SEC(".maps");

/* Plain additions: a thread that is interrupted inside may cost a hit, an atomic one would cost all
 * hits. Returns when the program began, if it is one of those that are timed. */
static __always_inline __u64 tally_begin(bool is_exit)
{
	struct sslc_tally *t;
	__u32 zero = 0;
	__u64 n;

	if (!tallying)
		return 0;
	t = bpf_map_lookup_elem(&tallies, &zero);
	if (!t)
		return 0;
	n = is_exit ? ++t->exits : ++t->entries;
	return n % TALLY_SAMPLE ? 0 : bpf_ktime_get_ns();
}

/* Global, for a stack frame of its own. */
__noinline int tally_timed(__u64 ns)
{
	__u32 zero = 0;
	struct sslc_tally *t = bpf_map_lookup_elem(&tallies, &zero);

	if (!t)
		return 0;
	t->ns += ns;
	t->samples++;
	return 0;
}

__noinline int tally_process(__u64 ns)
{
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct sslc_hits *h = bpf_map_lookup_elem(&hitters, &tgid), fresh = {.n = 1, .ns = ns};

	if (h) {
		h->n++;
		h->ns += ns;
	} else {
		bpf_map_update_elem(&hitters, &tgid, &fresh, BPF_NOEXIST);
	}
	return 0;
}

/* The exception's cost is known by its kind; the program's is that of the timed ones. */
static __always_inline void tally_end(__u64 cookie, __u64 began)
{
	__u64 ns = 0;

	if (began) {
		ns = bpf_ktime_get_ns() - began;
		if (ns > TALLY_LONGEST_NS)
			ns = TALLY_LONGEST_NS;
		tally_timed(ns);
	}
	if (tally_processes)
		tally_process(ns * TALLY_SAMPLE + prices[sslc_cookie_price(cookie)]);
}

#endif
