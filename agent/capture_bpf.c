/* SPDX-License-Identifier: Apache-2.0 */
/*
 * capture_bpf: source 1. Loads the kernel half, attaches it to every TLS library file that libwatch
 * reports, and hands on the events that its reader takes from the ring buffers. Never looks
 * into an event.
 */
#include "probes/attach.h"
#include "capture.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "probes/doubt.h"
#include "probes/libwatch.h"
#include "probes/overhead.h"
#include "probes/price.h"
#include "reader.h"
#include "rings.h"
#include "sites/sites.h"
#include "sites/trial.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "calls.h" /* types inside the next but one */
#include "ring.h"
#include "capture.skel.h"

#define POLL_BATCH 512 /* events, 8 MiB at most, between two looks at the rest of the program */
#define LOWER_MAX  16  /* more have to wait for their next doubt */
#define RATE_NS    900000000ull   /* hits are counted for so long, and no less */
#define ASKED_NS   60000000000ull /* they are counted for so long after somebody asked */
#define FINISH_MS  5000           /* for what is in the ring at the end */

static COUNTER_DEFINE(libs_attached, "capture_libs_attached",
		      "files with probes: TLS libraries, and programs with TLS inside");
static COUNTER_DEFINE(libs_failed, "capture_libs_failed",
		      "files with TLS that could not be probed");
static COUNTER_DEFINE(libs_lowered, "capture_libs_lowered",
		      "times a file's probes were replaced by simpler ones: connections carried "
		      "more than was captured");
static COUNTER_DEFINE(events_seen, "capture_events", "events read from the kernel");
static COUNTER_DEFINE(ring_high, "capture_ring_high",
		      "most bytes that were in the kernel ring buffer at once; with several: in "
		      "any of them, times their number (gauge)");
static COUNTER_DEFINE(queue_high, "capture_queue_high",
		      "most bytes that were in the queue behind it (gauge)");

static COUNTER_DEFINE(operations_missed, "capture_operations_missed",
		      "socket operations that were not looked at: another one was being looked at "
		      "on the same processor");

/* In the order of enum loss in bpf/maps.bpf.h. */
static struct counter losses[] = {
	{.name = "capture_bytes_lost_ring_full",
	 .help = "plaintext bytes: kernel ring buffer full"},
	{.name = "capture_events_lost_ring_full",
	 .help = "connection events: kernel ring buffer full"},
	{.name = "capture_bytes_lost_fault",
	 .help = "plaintext bytes: application memory unreadable"},
	{.name = "capture_calls_lost_threads", .help = "TLS calls: too many threads inside one"},
	{.name = "capture_calls_lost_objects", .help = "TLS calls: too many TLS objects"},
	{.name = "capture_flows_lost_sockets", .help = "connections: too many sockets"},
	{.name = "capture_calls_lost_nested", .help = "TLS calls nested too deep"},
	{.name = "capture_bytes_lost_call_length",
	 .help = "plaintext bytes beyond what one call can carry"},
	{.name = "capture_bytes_lost_late",
	 .help = "plaintext bytes read after the socket was gone"},
	{.name = "capture_ends_missed",
	 .help = "connections whose end was noticed by the next one only"},
	{.name = "capture_operations_unreadable",
	 .help = "socket operations whose memory is not known (io_uring, sendfile): TLS on such "
		 "connections is noticed inside TLS calls only"},
	{.name = "capture_calls_lost_entry",
	 .help = "TLS calls of Go programs whose beginning was not seen"},
	{.name = "capture_bytes_unsent",
	 .help = "plaintext bytes of Go programs that were told, but their connection broke before "
		 "they were sent"},
	{.name = "capture_bytes_lost_interrupted",
	 .help = "plaintext bytes of interrupted sends that could not be kept: told as a gap"},
	{.name = "capture_bytes_datagrams",
	 .help = "plaintext bytes of DTLS and QUIC: not mirrored"},
	{.name = "capture_bytes_lost_shed",
	 .help = "plaintext bytes of connections given up while the kernel ring buffer was "
		 "filling"},
	{.name = "capture_flows_shed",
	 .help = "connections given up while the kernel ring buffer was filling or full"},
	{.name = "capture_operations_second",
	 .help = "socket operations that the first program missed and the second one looked at"},
};
#define N_LOSSES (sizeof(losses) / sizeof(losses[0]))

/* Hits of probes in the last second or so. */
struct rate {
	struct sslc_tally at; /* when it began */
	uint64_t began_ns;
	uint64_t entries_s, exits_s;
	uint64_t counted_ns; /* since when they are counted; 0: they are not */
	uint64_t asked_ns;   /* when somebody asked last */
};

struct source {
	struct capture base;
	struct capture_conf conf;
	struct capture_bpf *skel;
	int ring_fds[SSLC_RINGS_MAX]; /* the first is the skeleton's */
	struct reader *reader;
	struct libwatch *watch;
	int epoll_fd;
	struct attach *attach;
	struct doubts *doubts;
	uint64_t calls_lost;       /* as of the last look */
	struct overhead *overhead; /* NULL: there is no limit */
	struct rate hits;
	unsigned lower_next[LOWER_MAX]; /* files whose probes are to be replaced */
	unsigned n_lower;
};

/* Placing probes takes the kernel tens of milliseconds. */
static int attach_aside(struct source *s, int fd, struct attach_found *found)
{
	int n;

	reader_away(s->reader);
	n = attach_file(s->attach, fd, found);
	reader_back(s->reader);
	return n;
}

/* Any file with code: a program, a library. True when it holds TLS code. */
static bool on_library(void *ctx, int fd, const char *path)
{
	bool is_library = libwatch_is_library(path);
	struct source *s = ctx;
	struct attach_found found;
	int n;

	if (strstr(path, "/libsslcollector-preload.so")) /* has functions of the same names */
		return false;
	n = attach_aside(s, fd, &found);
	if (n > 0) {
		doubts_begin(s->doubts, found.number, clock_mono_ns());
		counter_inc(&libs_attached);
		log_info("capture: probes on %s", path);
	} else if (n < 0 && (n != -ENOEXEC || is_library)) {
		counter_inc(&libs_failed);
		log_warn("capture: %s: %s%s: programs using it are not mirrored", path,
			 n == -ENOEXEC ? "not a usable ELF file of this machine" : strerror(-n),
			 log_advice(-n));
	} else if (found.why_not) {
		log_info("capture: %s: %s: not mirrored", path, found.why_not);
	} else if (is_library) {
		log_debug("capture: %s: no function inside that moves plaintext", path);
	}
	if (n != -ENOEXEC || is_library)
		s->conf.on_file(s->conf.ctx, fd, path,
				&(struct capture_file){.functions = n,
						       .why_not = found.why_not,
						       .tier = n > 0 ? attach_tier_word(found.tier)
								     : NULL});
	return n > 0;
}

/* Says it to people, and to whoever keeps account of files. */
static void tell_lowered(struct source *s, unsigned file, int tier, const char *from)
{
	char link[64], path[4200];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", attach_fd(s->attach, file));
	n = readlink(link, path, sizeof(path) - 1);
	path[n > 0 ? n : 0] = '\0';
	counter_inc(&libs_lowered);
	log_warn("capture: %s: %d connections carried more than their TLS calls explain: its "
		 "probes are now \"%s\" instead of \"%s\"",
		 path, DOUBTS_ENOUGH, attach_tier_word((enum attach_tier)tier), from);
	s->conf.on_file(s->conf.ctx, attach_fd(s->attach, file), path,
			&(struct capture_file){.functions = attach_functions(s->attach, file),
					       .tier = attach_tier_word((enum attach_tier)tier),
					       .lowered_from = from});
}

/* The file's probes miss something: those of the next tier rely on less. */
static void lower(struct source *s, unsigned file)
{
	enum attach_tier from = attach_tier(s->attach, file);
	int tier;

	reader_away(s->reader);
	tier = attach_next_tier(s->attach, file);
	reader_back(s->reader);
	if (tier >= 0)
		tell_lowered(s, file, tier, attach_tier_word(from));
	else if (tier != -ENOENT)
		log_warn("capture: probes of a lower tier: %s", strerror(-tier));
	doubts_begin(s->doubts, file, clock_mono_ns());
}

static void on_event(void *ctx, const struct sslc_event *ev)
{
	struct source *s = ctx;

	s->conf.on_event(s->conf.ctx, ev);
}

#define LAST_WORDS 900 /* of a verifier's log: why it refuses stands at its end */

static int libbpf_log(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	char *text = NULL;
	int len;

	/* Our own line says what went wrong and what to do; the loader's are for developers. */
	if (!log_is_on(LOG_DEBUG) || level == LIBBPF_DEBUG)
		return 0;
	len = vasprintf(&text, fmt, ap);
	if (len < 0)
		return 0;
	log_debug("%s", len > LAST_WORDS ? text + len - LAST_WORDS : text);
	free(text);
	return 0;
}

/* Checked first, because the loader's own words about it help nobody. */
static int check_kernel(struct btf **out)
{
	struct btf *btf = btf__load_vmlinux_btf();

	if (libbpf_get_error(btf))
		return -ENODATA;
	*out = btf;
	return 0;
}

/* Parameters of the kernel's tcp_recvmsg(): see bpf/sock.bpf.h. 0 when it is not there. */
static unsigned recvmsg_parameters(const struct btf *btf)
{
	int id = btf__find_by_name_kind(btf, "tcp_recvmsg", BTF_KIND_FUNC);
	const struct btf_type *t = id > 0 ? btf__type_by_id(btf, (unsigned)id) : NULL;

	t = t ? btf__type_by_id(btf, t->type) : NULL;
	return t ? btf_vlen(t) : 0;
}

static void choose(struct bpf_program *prog, bool load)
{
	bpf_program__set_autoload(prog, load);
}

static int learn_self(struct source *s)
{
	LIBBPF_OPTS(bpf_test_run_opts, opts);

	return bpf_prog_test_run_opts(bpf_program__fd(s->skel->progs.learn_self), &opts);
}

/* Whether threads may be switched inside a tracepoint's program. */
static bool switches_in_tracepoints(void)
{
	struct utsname u;

	return !uname(&u) && strtoul(u.release, NULL, 10) >= 7;
}

static void choose_flow_hook(struct capture_bpf *k, enum flow_hook hook, const struct btf *btf)
{
	unsigned n = recvmsg_parameters(btf);
	bool twice = switches_in_tracepoints();

	choose(k->progs.tp_send, hook == FLOW_HOOK_TRACEPOINT && !twice);
	choose(k->progs.tp_recv, hook == FLOW_HOOK_TRACEPOINT && !twice);
	choose(k->progs.tp_send_first, hook == FLOW_HOOK_TRACEPOINT && twice);
	choose(k->progs.tp_send_second, hook == FLOW_HOOK_TRACEPOINT && twice);
	choose(k->progs.tp_recv_first, hook == FLOW_HOOK_TRACEPOINT && twice);
	choose(k->progs.tp_recv_second, hook == FLOW_HOOK_TRACEPOINT && twice);
	choose(k->progs.fexit_send, hook == FLOW_HOOK_FEXIT);
	choose(k->progs.fexit_recv4, hook == FLOW_HOOK_FEXIT && n == 4);
	choose(k->progs.fexit_recv5, hook == FLOW_HOOK_FEXIT && n == 5);
	choose(k->progs.fexit_recv6, hook == FLOW_HOOK_FEXIT && n == 6);
	choose(k->progs.kprobe_send, hook == FLOW_HOOK_KPROBE);
	choose(k->progs.kretprobe_send, hook == FLOW_HOOK_KPROBE);
	choose(k->progs.kprobe_recv, hook == FLOW_HOOK_KPROBE && n < 6);
	choose(k->progs.kprobe_recv6, hook == FLOW_HOOK_KPROBE && n == 6);
	choose(k->progs.kretprobe_recv, hook == FLOW_HOOK_KPROBE);
}

static size_t one_ring_bytes(const struct source *s)
{
	return s->conf.ring_bytes / s->conf.n_rings;
}

static int new_ring(size_t bytes)
{
	return bpf_map_create(BPF_MAP_TYPE_RINGBUF, "events", 0, 0, (unsigned)bytes, NULL);
}

/* What the kernel half wants to know before load. *pattern: what the table of rings takes is like
 * it, but for the size; to be closed after load. */
static int set_rings(struct source *s, int *pattern)
{
	int err;

	*pattern = new_ring((size_t)sysconf(_SC_PAGESIZE));
	if (*pattern < 0)
		return -errno;
	s->skel->rodata->n_rings = s->conf.n_rings;
	s->skel->rodata->ring_bytes = one_ring_bytes(s);
	s->skel->rodata->shed_how = s->conf.shed;
	err = bpf_map__set_max_entries(s->skel->maps.events, (unsigned)one_ring_bytes(s));
	if (!err)
		err = bpf_map__set_inner_map_fd(s->skel->maps.more_events, *pattern);
	return err;
}

static void close_rings(struct source *s)
{
	for (unsigned i = 1; i < SSLC_RINGS_MAX; i++)
		if (s->ring_fds[i] >= 0)
			close(s->ring_fds[i]);
	for (unsigned i = 0; i < SSLC_RINGS_MAX; i++)
		s->ring_fds[i] = -1;
}

/* The rings beside the first, and where the kernel half finds them all. */
static int make_rings(struct source *s)
{
	int all = bpf_map__fd(s->skel->maps.more_events);

	s->ring_fds[0] = bpf_map__fd(s->skel->maps.events);
	for (uint32_t i = 0; i < s->conf.n_rings && s->conf.n_rings > 1; i++) {
		if (i)
			s->ring_fds[i] = new_ring(one_ring_bytes(s));
		if (s->ring_fds[i] < 0 || bpf_map_update_elem(all, &i, &s->ring_fds[i], BPF_ANY))
			return -errno;
	}
	return 0;
}

static int load_with(struct source *s, enum flow_hook hook, const struct btf *btf)
{
	int err, pattern = -1;

	s->skel = capture_bpf__open();
	if (!s->skel)
		return -errno;
	bpf_program__set_autoattach(s->skel->progs.learn_self,
				    false);                          /* run by learn_self() only */
	bpf_program__set_autoattach(s->skel->progs.tell_isn, false); /* nor this by others */
	choose_flow_hook(s->skel, hook, btf);
	s->skel->rodata->wire_clear = !s->conf.inner_only;
	s->skel->rodata->outer_tls = s->conf.outer_tls;
	err = attach_new(&s->attach, s->skel, btf, s->conf.probes);
	if (!err)
		err = set_rings(s, &pattern);
	s->skel->rodata->tally_processes = s->conf.max_overhead > 0;
	if (!err)
		err = capture_bpf__load(s->skel);
	if (pattern >= 0)
		close(pattern);
	if (!err)
		err = make_rings(s);
	if (!err)
		err = learn_self(s);
	if (!err) /* uprobes have no target yet: this takes only the rest */
		err = capture_bpf__attach(s->skel);
	if (!err)
		err = attach_check_harm(s->attach);
	if (err) {
		close_rings(s);
		attach_free(s->attach);
		s->attach = NULL;
		capture_bpf__destroy(s->skel);
		s->skel = NULL;
	}
	return err;
}

static bool try_records(void *ctx, int fd, const char *path)
{
	struct sites s = {.pairs = true, .records = true};

	(void)ctx;
	if (sites_find(fd, &s) < 0)
		log_debug("capture: %s: no experiment", path);
	sites_fini(&s);
	return false;
}

/* While nothing is probed yet: whatever comes during an experiment would have to wait. */
static void make_trials(void)
{
	trial_allow(true);
	libwatch_installed(try_records, NULL);
	trial_allow(false);
}

static int load(struct source *s)
{
	static const char *const names[] = {"", "tracepoint", "fexit", "kprobe"};
	enum flow_hook want = s->conf.flow_hook;
	struct btf *btf;
	int err = check_kernel(&btf);

	if (err)
		return err;
	if (s->conf.probes <= PROBES_RECORDS && attach_takes_pairs(btf))
		make_trials();
	err = -ENOTSUP;
	for (enum flow_hook h = FLOW_HOOK_TRACEPOINT; h <= FLOW_HOOK_KPROBE && err; h++) {
		int before = err;

		if (want != FLOW_HOOK_AUTO && want != h)
			continue;
		err = load_with(s, h, btf);
		log_debug("capture: sockets by %s: %s", names[h], err ? strerror(-err) : "ok");
		if (err == -EPERM && before != -ENOTSUP)
			err = before; /* its programs came further: it is no lack of privilege */
		if (err == -EPERM || err == -EOWNERDEAD)
			break;
	}
	btf__free(btf);
	return err;
}

static int open_reader(struct source *s)
{
	struct reader_conf conf = {.n_rings = s->conf.n_rings,
				   .ring_fds = s->ring_fds,
				   .wake_fds = s->ring_fds,
				   .ring_bytes = one_ring_bytes(s),
				   .queue_bytes = s->conf.queue_bytes,
				   .rings = &s->skel->data->rings,
				   .epoll_fd = s->epoll_fd};

	return reader_start(&s->reader, &conf);
}

/* --- overhead -----------------------------------------------------------------------------------
 */

static void on_changed(void *ctx, unsigned pid, uint64_t ino)
{
	struct source *s = ctx;

	overhead_changed(s->overhead, pid, ino);
}

static void on_aside(void *ctx, bool begins)
{
	struct source *s = ctx;

	if (begins)
		reader_away(s->reader);
	else
		reader_back(s->reader);
}

static void on_detached(void *ctx, unsigned pid, uint64_t start_ticks, uint64_t since_ns,
			const struct governor_verdict *why)
{
	struct source *s = ctx;
	const struct capture_pause p = {.pid = pid,
					.start_ticks = start_ticks,
					.since_ns = since_ns,
					.percent = why->percent,
					.limit = s->conf.max_overhead,
					.retry_s = why->retry_s};

	s->conf.on_pause(s->conf.ctx, &p);
}

static void on_attached(void *ctx, unsigned pid, uint64_t start_ticks, uint64_t until_ns)
{
	struct source *s = ctx;
	const struct capture_pause p = {
		.pid = pid, .start_ticks = start_ticks, .until_ns = until_ns};

	s->conf.on_pause(s->conf.ctx, &p);
}

static void on_gone(void *ctx, unsigned pid, uint64_t start_ticks)
{
	struct source *s = ctx;
	const struct capture_pause p = {.pid = pid, .start_ticks = start_ticks, .is_gone = true};

	s->conf.on_pause(s->conf.ctx, &p);
}

/* Each costs some ns: they are counted only while there is a limit, or somebody asks. */
static void begin_counting(struct source *s, uint64_t now_ns)
{
	if (s->hits.counted_ns)
		return;
	s->skel->bss->tallying = 1;
	attach_tally(s->attach, &s->hits.at);
	s->hits.began_ns = s->hits.counted_ns = now_ns;
	s->hits.entries_s = s->hits.exits_s = 0;
}

static int measure_prices(struct source *s)
{
	uint32_t ns[SSLC_PRICES];
	int err;

	begin_counting(s, clock_mono_ns());
	err = price_measure(s->attach, ns);

	if (err) {
		log_error("capture: --max-overhead: what a probe costs could not be measured: %s",
			  strerror(-err));
		return err;
	}
	log_info("capture: a probe's exception costs %u ns where the kernel emulates, %u ns where "
		 "it steps, a return's %u ns",
		 ns[SSLC_PRICE_EMULATED], ns[SSLC_PRICE_STEPPED], ns[SSLC_PRICE_RETURN]);
	memcpy((void *)s->skel->bss->prices, ns, sizeof(ns));
	return 0;
}

/* After the watch is open, before any file is probed. Logs its own error. */
static int open_overhead(struct source *s)
{
	const struct overhead_conf conf = {
		.limits = {.percent = s->conf.max_overhead, .retry_s = s->conf.overhead_retry_s},
		.attach = s->attach,
		.watch = s->watch,
		.changed = on_changed,
		.aside = on_aside,
		.hitters_fd = bpf_map__fd(s->skel->maps.hitters),
		.detached = on_detached,
		.attached = on_attached,
		.gone = on_gone,
		.ctx = s,
	};
	int err = s->conf.max_overhead ? attach_check_process(s->attach) : 0;

	if (err == -ENOTSUP)
		log_error("capture: --max-overhead: this kernel cannot probe one process alone, or "
			  "only one of its threads (Linux 6.10 can, and mended older ones)");
	else if (err)
		log_error("capture: --max-overhead: %s", strerror(-err));
	if (!err && s->conf.max_overhead)
		err = measure_prices(s);
	if (err || !s->conf.max_overhead)
		return err;
	return overhead_new(&s->overhead, &conf);
}

static void say_load_error(int err)
{
	if (err == -EPERM)
		log_error("capture: no privilege to load BPF programs: run as root, or with "
			  "CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE");
	else if (err == -ENODATA)
		log_error("capture: this kernel has no type information (/sys/kernel/btf/vmlinux): "
			  "a kernel built with CONFIG_DEBUG_INFO_BTF is needed");
	else if (err == -EOWNERDEAD)
		log_error("capture: this kernel kills sandboxed programs (seccomp) at return "
			  "probes, as Linux 6.11 and early 6.12 and 6.13 do: nothing is probed; "
			  "update the kernel");
	else
		log_error("capture: this kernel does not take the BPF programs: %s: Linux 5.10 or "
			  "newer with BTF and CONFIG_BPF_EVENTS is needed (-v tells more)",
			  strerror(-err));
}

static void source_close(struct capture *c)
{
	struct source *s = (struct source *)c;

	if (!s)
		return;
	overhead_free(s->overhead);
	libwatch_close(s->watch);
	attach_free(s->attach);
	doubts_free(s->doubts);
	reader_free(s->reader);
	close_rings(s);
	capture_bpf__destroy(s->skel);
	if (s->epoll_fd >= 0)
		close(s->epoll_fd);
	free(s);
}

static int source_open(struct capture **out, const struct capture_conf *conf)
{
	struct source *s = calloc(1, sizeof(*s));
	int err;

	if (!s)
		return -ENOMEM;
	s->base.ops = &capture_bpf_ops;
	s->conf = *conf;
	if (!s->conf.n_rings)
		s->conf.n_rings = rings_choose(sysconf(_SC_NPROCESSORS_ONLN), conf->ring_bytes);
	for (unsigned i = 0; i < SSLC_RINGS_MAX; i++)
		s->ring_fds[i] = -1;
	libbpf_set_print(libbpf_log);
	s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (s->epoll_fd < 0) {
		err = -errno;
		goto fail;
	}
	err = doubts_new(&s->doubts);
	if (!err)
		err = load(s);
	if (!err)
		err = open_reader(s);
	if (err) {
		say_load_error(err);
		goto fail;
	}
	/* Watch before the first scan: what appears in between is seen by one of the two. */
	err = libwatch_open(&s->watch, s->epoll_fd, on_library, s);
	if (!err)
		err = open_overhead(s);
	if (err)
		goto fail;
	libwatch_scan(s->watch);
	*out = &s->base;
	return 0;
fail:
	source_close(&s->base);
	return err;
}

static int source_fd(const struct capture *c)
{
	return ((const struct source *)c)->epoll_fd;
}

static int source_poll(struct capture *c, bool *more)
{
	struct source *s = (struct source *)c;
	struct epoll_event ev[8];
	unsigned n;

	(void)epoll_wait(s->epoll_fd, ev, 8, 0); /* clears the edge of whatever woke us */
	libwatch_poll(s->watch);
	n = reader_take(s->reader, POLL_BATCH, on_event, s);
	counter_add(&events_seen, n);
	while (s->n_lower)
		lower(s, s->lower_next[--s->n_lower]);
	*more = n == POLL_BATCH;
	attach_around(s->attach, clock_mono_ns());
	return (int)n;
}

static void source_finish(struct capture *c)
{
	uint64_t end_ns = clock_mono_ns() + FINISH_MS * NS_PER_MS;
	struct source *s = (struct source *)c;
	bool is_over;
	unsigned n;

	do {
		is_over = reader_finish(s->reader);
		n = reader_take(s->reader, POLL_BATCH, on_event, s);
		counter_add(&events_seen, n);
		if (!n && !is_over)
			usleep(1000);
	} while ((n || !is_over) && clock_mono_ns() < end_ns);
}

static void source_count_hits(struct capture *c)
{
	struct source *s = (struct source *)c;

	s->hits.asked_ns = clock_mono_ns();
	begin_counting(s, s->hits.asked_ns);
}

/* A look in between, for somebody who asks, begins no new second. */
static void take_rate(struct source *s, uint64_t now_ns)
{
	uint64_t ns = now_ns - s->hits.began_ns;
	struct sslc_tally now;

	if (!s->overhead && s->hits.counted_ns && now_ns - s->hits.asked_ns > ASKED_NS) {
		s->hits.counted_ns = 0;
		s->skel->bss->tallying = 0;
	}
	if (!s->hits.counted_ns || ns < RATE_NS)
		return;
	attach_tally(s->attach, &now);
	s->hits.entries_s = (now.entries - s->hits.at.entries) * NS_PER_S / ns;
	s->hits.exits_s = (now.exits - s->hits.at.exits) * NS_PER_S / ns;
	s->hits.at = now;
	s->hits.began_ns = now_ns;
}

static void source_stats(const struct capture *c, struct capture_stats *out)
{
	const struct source *s = (const struct source *)c;
	struct reader_stats r;
	struct sslc_tally t;

	reader_stats(s->reader, &r);
	attach_tally(s->attach, &t);
	*out = (struct capture_stats){
		.ring = {s->conf.ring_bytes, r.ring_used * s->conf.n_rings,
			 r.ring_high * s->conf.n_rings},
		.n_rings = s->conf.n_rings,
		.queue = {s->conf.queue_bytes, r.queue_used, r.queue_high},
		.events = r.events,
		.ring_bytes = r.ring_bytes,
		.naps = r.naps,
		.sleeps = r.sleeps,
		.entries = t.entries,
		.exits = t.exits,
		.entries_s = s->hits.entries_s,
		.exits_s = s->hits.exits_s,
		.counted_ms =
			s->hits.counted_ns ? (clock_mono_ns() - s->hits.counted_ns) / NS_PER_MS : 0,
		.program_ns = t.samples ? t.ns / t.samples : 0,
	};
	memcpy(out->each_ring, r.each_ring, sizeof(out->each_ring));
}

static void source_skip_flow(struct capture *c, uint64_t flow)
{
	struct source *s = (struct source *)c;
	uint8_t one = 1;

	bpf_map_update_elem(bpf_map__fd(s->skel->maps.skipped), &flow, &one, BPF_ANY);
	__atomic_fetch_add(&s->skel->bss->skips, 1, __ATOMIC_RELEASE);
}

static void source_leave_process(struct capture *c, uint32_t pid, bool to_other)
{
	struct source *s = (struct source *)c;
	int fd = bpf_map__fd(s->skel->maps.served);
	uint8_t one = 1;

	if (to_other && !bpf_map_update_elem(fd, &pid, &one, BPF_NOEXIST))
		__atomic_fetch_add(&s->skel->bss->n_served, 1, __ATOMIC_RELAXED);
	else if (!to_other && !bpf_map_delete_elem(fd, &pid))
		__atomic_fetch_sub(&s->skel->bss->n_served, 1, __ATOMIC_RELAXED);
}

/* A program that runs here and now finds the socket among our own descriptors: nothing is attached,
 * and the socket is only looked at. */
static bool source_isn(struct capture *c, int s, uint32_t *iss, uint32_t *irs)
{
	const struct source *src = (const struct source *)c;
	uint64_t fd = (uint64_t)s;
	LIBBPF_OPTS(bpf_test_run_opts, opts, .ctx_in = &fd, .ctx_size_in = sizeof(fd));

	if (bpf_prog_test_run_opts(bpf_program__fd(src->skel->progs.tell_isn), &opts) ||
	    !src->skel->bss->told_isn.is_known)
		return false;
	*iss = src->skel->bss->told_isn.iss;
	*irs = src->skel->bss->told_isn.irs;
	return true;
}

/* How often the kernel did not run this program, because it was running already. Since 5.12. */
static uint64_t misses(const struct bpf_program *prog)
{
	struct bpf_prog_info info = {0};
	__u32 len = sizeof(info);
	int fd = bpf_program__fd(prog); /* negative: not loaded */

	return fd >= 0 && !bpf_obj_get_info_by_fd(fd, &info, &len) ? info.recursion_misses : 0;
}

static void count_operations_missed(const struct capture_bpf *k)
{
	const struct bpf_program *const progs[] = {
		k->progs.tp_send,        k->progs.tp_recv,        k->progs.fexit_send,
		k->progs.fexit_recv4,    k->progs.fexit_recv5,    k->progs.fexit_recv6,
		k->progs.kprobe_send,    k->progs.kretprobe_send, k->progs.kprobe_recv,
		k->progs.kprobe_recv6,   k->progs.kretprobe_recv, k->progs.tp_send_second,
		k->progs.tp_recv_second, /* those of the first do no harm */
	};
	uint64_t sum = 0;

	for (size_t i = 0; i < sizeof(progs) / sizeof(progs[0]); i++)
		sum += misses(progs[i]);
	counter_set(&operations_missed, sum);
}

/* Calls of which nothing is known, not even how much they moved. */
static bool is_call_lost(const struct counter *c)
{
	return strstr(c->name, "_calls_lost_");
}

static void read_losses(struct source *s)
{
	int n_cpus = libbpf_num_possible_cpus(), fd = bpf_map__fd(s->skel->maps.losses);
	uint64_t *v = calloc(n_cpus > 0 ? (size_t)n_cpus : 1, sizeof(*v)), calls = 0;

	for (uint32_t key = 0; v && n_cpus > 0 && key < N_LOSSES; key++) {
		uint64_t sum = 0;

		if (bpf_map_lookup_elem(fd, &key, v))
			continue;
		for (int i = 0; i < n_cpus; i++)
			sum += v[i];
		counter_set(&losses[key], sum);
		calls += is_call_lost(&losses[key]) ? sum : 0;
	}
	free(v);
	if (calls != s->calls_lost)
		doubts_lost(s->doubts, clock_mono_ns());
	s->calls_lost = calls;
}

static void source_doubt(struct capture *c, unsigned file, uint64_t opened_ns)
{
	struct source *s = (struct source *)c;

	read_losses(s);
	if (doubts_add(s->doubts, file, opened_ns) && s->n_lower < LOWER_MAX)
		s->lower_next[s->n_lower++] = file; /* not while events are read */
}

static void source_tick(struct capture *c)
{
	struct source *s = (struct source *)c;
	struct reader_stats stats;

	read_losses(s);
	take_rate(s, clock_mono_ns());
	attach_tick(s->attach);
	if (s->overhead)
		overhead_tick(s->overhead, clock_mono_ns());
	reader_stats(s->reader, &stats);
	counter_set(&ring_high, stats.ring_high * s->conf.n_rings);
	counter_set(&queue_high, stats.queue_high);
	count_operations_missed(s->skel);
}

const struct capture_ops capture_bpf_ops = {
	.name = "bpf",
	.open = source_open,
	.fd = source_fd,
	.poll = source_poll,
	.finish = source_finish,
	.stats = source_stats,
	.count_hits = source_count_hits,
	.skip_flow = source_skip_flow,
	.leave_process = source_leave_process,
	.isn = source_isn,
	.doubt = source_doubt,
	.tick = source_tick,
	.close = source_close,
};
