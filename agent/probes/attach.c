/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attach: an open library file in, probes on it out; and others in their place while programs run.
 * Since 6.6 a few links a file carry all its probes (uprobe_multi): quicker to place, to hit and to
 * take off than one perf event each, and CAP_SYS_ADMIN is not needed. Older kernels get perf
 * events. Never looks into what the probes deliver.
 *
 * Each file keeps an O_PATH descriptor: the one way to name it that needs neither a process that
 * maps it nor a mount namespace. Its links pin the same mount and are two to five descriptors
 * themselves, so it adds a fifth; the limit on open files is raised to what the administrator
 * allows. What sites a tier has is found again when it is needed: seldom.
 */
#include "probes/attach.h"

#include <linux/types.h>

#include "event.h"
#include "calls.h"
#include "probes/harm.h"

#include "base/clock.h"
#include "base/log.h"
#include "process.h"
#include "sites/sites.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ring.h" /* types inside the next one */
#include "capture.skel.h"

#define TRACE_UPROBE_MULTI  48 /* enum bpf_attach_type, 6.6 */
#define UPROBE_MULTI_RETURN 1u
#define AROUND_NS           (60 * NS_PER_S) /* after the last object whose connection is not known */
#define AROUND_FIRST_NS     (2 * NS_PER_S) /* with new probes: who has objects already shows them */
#define LINGER_NS           (60 * NS_PER_S) /* records pass in calls that began before */

/* The programs of one kind of call, for perf events. */
struct pair {
	struct bpf_program *enter, *leave, *leave_old;
	struct bpf_program *enter_old; /* where entries emit, too; else NULL */
};

struct link {
	int fd;                /* uprobe_multi */
	struct bpf_link *perf; /* owned; NULL with uprobe_multi */
	bool is_entry;
};

struct attach_set { /* ways out first: a call that is entered is then also seen leaving */
	struct link *v;
	size_t n;
	struct attach_set *next; /* in the bin */
};

/*
 * Sets whose probes may be taken off at any time: each link takes the kernel some ten milliseconds,
 * and events wait meanwhile. A thread of its own does it.
 */
struct bin {
	pthread_t thread;
	bool was_started; /* and not joined yet */
	pthread_mutex_t lock;
	bool is_busy; /* from here on under the lock */
	struct attach_set *sets;
};

/* The probes that one process has by itself. */
struct own {
	unsigned pid;
	uint64_t start_ticks; /* numbers are used again */
	struct attach_set *set;
	struct attach_set *around; /* as in struct probed */
};

struct probed {
	int fd; /* O_PATH; owned */
	uint64_t dev, ino;
	enum attach_tier tier;
	int functions; /* that move plaintext */
	unsigned turn; /* of its probes on records, see proto/calls.h */
	uint64_t since_ns;
	bool is_split;
	bool is_around;            /* calls around records are probed */
	struct attach_set *shared; /* NULL once it is split */
	struct attach_set *around; /* see sites.h; NULL: not needed now */
	struct own *own;
	size_t n_own;
};

/* A call that was going on when its entry's probe was taken off. */
struct underway {
	uint64_t thread, sp; /* pid_tgid */
	uint32_t kind;
};

/* Exits that calls will pass which were entered before. */
struct retired {
	struct retired *next;
	struct attach_set *set;
	struct underway *calls;
	size_t n;
	uint64_t until_ns; /* not before */
};

enum { N_MULTI = 7 };

struct attach {
	struct capture_bpf *skel;                 /* borrowed */
	struct pair pairs[SSLC_CALL_KINDS];       /* perf events */
	struct pair multi_pairs[SSLC_CALL_KINDS]; /* uprobe_multi: a cookie tells the kind */
	struct bpf_program *multi_progs[N_MULTI]; /* those, each once */
	bool multi;                               /* uprobe_multi, 6.6 */
	bool has_loop;                            /* bpf_loop(), 5.17 */
	bool calls;                               /* see sites.h */
	struct probed *files;                     /* number 1 is the first */
	size_t n_files;
	struct retired *retired;
	struct bin bin;
	enum attach_tier best; /* that is asked for and can be had */
};

/* --- choosing programs --------------------------------------------------------------------------
 */

static void fill_pairs(struct attach *a)
{
#define PAIR(name)                                                                                 \
	{                                                                                          \
		a->skel->progs.enter_##name, a->skel->progs.leave_##name,                          \
			a->skel->progs.leave_old_##name, NULL                                      \
	}
#define GO_PAIR(name)                                                                              \
	{                                                                                          \
		a->skel->progs.enter_##name, a->skel->progs.leave_##name,                          \
			a->skel->progs.leave_old_##name, a->skel->progs.enter_old_##name           \
	}
	const struct pair pairs[SSLC_CALL_KINDS] = {
		[SSLC_CALL_READ] = PAIR(read),
		[SSLC_CALL_READ_EX] = PAIR(read_ex),
		[SSLC_CALL_WRITE] = PAIR(write),
		[SSLC_CALL_WRITE_EX] = PAIR(write_ex),
		[SSLC_CALL_WRITE_EX2] = PAIR(write_ex2),
		[SSLC_CALL_SENDFILE] = PAIR(sendfile),
		[SSLC_CALL_EARLY_WRITE] = PAIR(early_write),
		[SSLC_CALL_EARLY_READ] = PAIR(early_read),
		[SSLC_CALL_EARLY_STATUS] = PAIR(early_status),
		[SSLC_CALL_RECV] = PAIR(recv),
		[SSLC_CALL_SEND] = PAIR(send),
		[SSLC_CALL_BIND] = PAIR(bind),
		[SSLC_CALL_READ_FLAGS] = PAIR(read_flags),
		[SSLC_CALL_SESSION_FLAGS] = PAIR(session_flags),
		[SSLC_CALL_UNCORK] = PAIR(uncork),
		[SSLC_CALL_SEND_FILE] = PAIR(send_file),
		[SSLC_CALL_RECV_PACKET] = PAIR(recv_packet),
		[SSLC_CALL_RECV_TYPED] = PAIR(recv_typed),
		[SSLC_CALL_FORGET] = {a->skel->progs.enter_forget, NULL, NULL, NULL},
		[SSLC_CALL_GO_READ] = GO_PAIR(go_read),
		[SSLC_CALL_GO_WRITE] = GO_PAIR(go_write),
		[SSLC_CALL_GO_BIND] = GO_PAIR(go_bind),
		[SSLC_CALL_GO_OLD_READ] = GO_PAIR(go_old_read),
		[SSLC_CALL_GO_OLD_WRITE] = GO_PAIR(go_old_write),
		[SSLC_CALL_GO_OLD_BIND] = GO_PAIR(go_old_bind),
	};
#undef PAIR
#undef GO_PAIR
	memcpy(a->pairs, pairs, sizeof(pairs));
}

static void fill_multi(struct attach *a)
{
	struct bpf_program *enter = a->skel->progs.multi_enter, *leave = a->skel->progs.multi_leave,
			   *forget = a->skel->progs.multi_forget;
	struct bpf_program *go_enter = a->skel->progs.multi_go_enter,
			   *go_leave = a->skel->progs.multi_go_leave;
	struct bpf_program *record = a->skel->progs.multi_record;
	struct bpf_program *batch = a->skel->progs.multi_batch;
	struct bpf_program *const all[N_MULTI] = {enter,    leave,  forget, go_enter,
						  go_leave, record, batch};

	for (int i = 0; i < SSLC_CALL_KINDS; i++)
		a->multi_pairs[i] = i < SSLC_CALL_GO_READ
					    ? (struct pair){enter, leave, NULL, NULL}
					    : (struct pair){go_enter, go_leave, NULL, NULL};
	a->multi_pairs[SSLC_CALL_FORGET] = (struct pair){forget, NULL, NULL, NULL};
	a->multi_pairs[SSLC_CALL_RECORD_IN] = (struct pair){record, NULL, NULL, NULL};
	a->multi_pairs[SSLC_CALL_RECORD_OUT] = (struct pair){record, NULL, NULL, NULL};
	a->multi_pairs[SSLC_CALL_BATCH_OUT] = (struct pair){batch, NULL, NULL, NULL};
	a->multi_pairs[SSLC_CALL_AROUND_IN] = (struct pair){enter, leave, NULL, NULL};
	a->multi_pairs[SSLC_CALL_AROUND_OUT] = (struct pair){enter, leave, NULL, NULL};
	memcpy(a->multi_progs, all, sizeof(all));
}

static void choose_multi(const struct attach *a)
{
	for (size_t i = 0; i < N_MULTI; i++) {
		bpf_program__set_autoload(a->multi_progs[i], a->multi);
		if (a->multi)
			bpf_program__set_expected_attach_type(
				a->multi_progs[i], (enum bpf_attach_type)TRACE_UPROBE_MULTI);
	}
}

static void choose(struct bpf_program *prog, bool load)
{
	if (prog)
		bpf_program__set_autoload(prog, load);
}

static void choose_pairs(const struct attach *a)
{
	for (int i = 0; i < SSLC_CALL_KINDS; i++) {
		const struct pair *p = &a->pairs[i];

		choose(p->enter, !a->multi && (a->has_loop || !p->enter_old));
		choose(p->enter_old, !a->multi && !a->has_loop);
		choose(p->leave, !a->multi && a->has_loop);
		choose(p->leave_old, !a->multi && !a->has_loop);
	}
}

bool attach_takes_pairs(const struct btf *kernel)
{
	return btf__find_by_name_kind(kernel, "bpf_uprobe_multi_link", BTF_KIND_STRUCT) > 0;
}

const char *attach_tier_word(enum attach_tier tier)
{
	static const char *const words[ATTACH_TIERS] = {"records", "pairs", "first", "plain"};

	return words[tier];
}

static enum attach_tier best_tier(bool multi, enum probes probes)
{
	static const enum attach_tier wanted[] = {
		[PROBES_AUTO] = ATTACH_RECORDS, [PROBES_RECORDS] = ATTACH_RECORDS,
		[PROBES_PAIRS] = ATTACH_PAIRS,  [PROBES_FIRST] = ATTACH_FIRST,
		[PROBES_PLAIN] = ATTACH_PLAIN,
	};

	return !multi && wanted[probes] < ATTACH_FIRST ? ATTACH_FIRST : wanted[probes];
}

int attach_new(struct attach **out, struct capture_bpf *skel, const struct btf *kernel,
	       enum probes probes)
{
	struct attach *a = calloc(1, sizeof(*a));

	if (!a)
		return -ENOMEM;
	pthread_mutex_init(&a->bin.lock, NULL);
	a->skel = skel;
	a->multi = attach_takes_pairs(kernel);
	a->has_loop = libbpf_probe_bpf_helper(BPF_PROG_TYPE_KPROBE, BPF_FUNC_loop, NULL) == 1;
	a->calls = !harm_has_shadow_stacks("/proc/cpuinfo");
	a->best = best_tier(a->multi, probes);
	fill_pairs(a);
	fill_multi(a);
	choose_multi(a);
	choose_pairs(a);
	*out = a;
	return 0;
}

/* --- links --------------------------------------------------------------------------------------
 */

/* What probes are placed for. */
struct place {
	const char *path; /* names the very file, whatever its name is now or in whose namespace */
	unsigned pid;     /* 0: every process */
	unsigned file;    /* its number */
	unsigned turn;    /* see proto/calls.h */
};

static void drop_links(struct attach_set *s, bool entries_only)
{
	size_t keep = 0;

	for (size_t i = 0; i < s->n; i++) {
		struct link l = s->v[i];

		if (entries_only && !l.is_entry)
			s->v[keep++] = l;
		else if (l.perf)
			bpf_link__destroy(l.perf);
		else
			close(l.fd);
	}
	s->n = keep;
}

void attach_set_free(struct attach_set *s)
{
	if (!s)
		return;
	drop_links(s, false);
	free(s->v);
	free(s);
}

static struct attach_set *take_from_bin(struct bin *b)
{
	struct attach_set *s;

	pthread_mutex_lock(&b->lock);
	s = b->sets;
	b->is_busy = s;
	if (s)
		b->sets = s->next;
	pthread_mutex_unlock(&b->lock);
	return s;
}

static void *empty_bin(void *ctx)
{
	struct attach_set *s;

	while ((s = take_from_bin(ctx)))
		attach_set_free(s);
	return NULL;
}

static bool bin_is_empty(struct bin *b)
{
	bool busy;

	pthread_mutex_lock(&b->lock);
	busy = b->is_busy;
	pthread_mutex_unlock(&b->lock);
	return !busy;
}

static void wait_for_bin(struct bin *b)
{
	if (b->was_started)
		pthread_join(b->thread, NULL);
	b->was_started = false;
}

/* Signals are the main thread's. */
static void start_bin(struct bin *b)
{
	sigset_t all, old;

	wait_for_bin(b);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	b->was_started = !pthread_create(&b->thread, NULL, empty_bin, b);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!b->was_started)
		empty_bin(b);
}

/* Takes the set; accepts NULL. */
static void throw_away(struct bin *b, struct attach_set *s)
{
	bool was_busy;

	if (!s)
		return;
	pthread_mutex_lock(&b->lock);
	s->next = b->sets;
	b->sets = s;
	was_busy = b->is_busy;
	b->is_busy = true;
	pthread_mutex_unlock(&b->lock);
	if (!was_busy)
		start_bin(b);
}

static int keep_link(struct attach_set *s, struct link l)
{
	struct link *v = realloc(s->v, (s->n + 1) * sizeof(*v));

	if (!v)
		return -ENOMEM;
	s->v = v;
	s->v[s->n++] = l;
	return 0;
}

/* bpf(2), BPF_LINK_CREATE for BPF_TRACE_UPROBE_MULTI as of 6.6: not in every build host's headers.
 */
struct link_create_multi {
	uint32_t prog_fd, target_fd, attach_type, flags;
	uint64_t path, offsets, ref_ctr_offsets, cookies;
	uint32_t count, multi_flags, pid, pad;
};

/* The places of one program in a file, in the shape in which the kernel takes them. */
struct batch {
	uint64_t *offsets, *cookies; /* owned by the caller: room for all sites */
	uint32_t n;
	bool is_record;
};

static int link_multi(struct attach_set *s, const struct bpf_program *prog, unsigned way,
		      const struct place *at, const struct batch *b)
{
	struct link_create_multi attr = {
		.prog_fd = (uint32_t)bpf_program__fd(prog),
		.attach_type = TRACE_UPROBE_MULTI,
		.path = (uintptr_t)at->path,
		.offsets = (uintptr_t)b->offsets,
		.cookies = (uintptr_t)b->cookies,
		.count = b->n,
		.multi_flags = way == SITE_RETURN ? UPROBE_MULTI_RETURN : 0,
		.pid = at->pid,
	};
	int fd, err;

	if (!b->n)
		return 0;
	fd = (int)syscall(SYS_bpf, BPF_LINK_CREATE, &attr, sizeof(attr));
	if (fd < 0)
		return -errno;
	err = keep_link(s, (struct link){.fd = fd, .is_entry = way == SITE_ENTRY && !b->is_record});
	if (err)
		close(fd);
	return err;
}

static int link_perf(struct attach_set *s, const struct bpf_program *prog, unsigned way,
		     const struct place *at, uint64_t offset)
{
	LIBBPF_OPTS(bpf_uprobe_opts, opts, .retprobe = way == SITE_RETURN);
	struct bpf_link *link;
	int err;

	if (!prog)
		return 0;
	link = bpf_program__attach_uprobe_opts(prog, at->pid ? (pid_t)at->pid : -1, at->path,
					       offset, &opts);
	if (!link)
		return -errno;
	err = keep_link(s, (struct link){.perf = link, .is_entry = way == SITE_ENTRY});
	if (err)
		bpf_link__destroy(link);
	return err;
}

#if defined(__x86_64__)
#define RETURN_POPS 8 /* ret takes the return address off the stack */
#else
#define RETURN_POPS 0
#endif

/* See proto/calls.h. */
static uint64_t cookie_of(const struct site *s, unsigned way, const struct place *at)
{
	enum sslc_price stepped = s->price == SITE_PLAIN ? SSLC_PRICE_STEPPED : SSLC_PRICE_EMULATED;
	uint64_t cookie = sslc_cookie(s->call, way == SITE_RETURN ? -RETURN_POPS : s->sp, at->file,
				      way == SITE_RETURN ? SSLC_PRICE_RETURN : stepped);

	return s->price == SITE_RECORD ? sslc_cookie_in_turn(cookie, at->turn) : cookie;
}

static void collect(struct batch *b, const struct attach *a, const struct sites *s,
		    const struct bpf_program *prog, unsigned way, const struct place *at)
{
	b->n = 0;
	b->is_record = prog == a->skel->progs.multi_record || prog == a->skel->progs.multi_batch;
	for (size_t i = 0; i < s->n; i++) {
		const struct pair *p = &a->multi_pairs[s->v[i].call];

		if (!(s->v[i].at & way) || (way == SITE_ENTRY ? p->enter : p->leave) != prog)
			continue;
		b->offsets[b->n] = s->v[i].offset;
		b->cookies[b->n++] = cookie_of(&s->v[i], way, at);
	}
}

/* One link for each program and way of probing. */
static int link_sites(struct attach *a, struct attach_set *set, const struct place *at,
		      const struct sites *s, struct batch *b)
{
	static const unsigned ways[] = {SITE_RETURN, SITE_EXIT, SITE_ENTRY};
	int err = 0;

	for (size_t w = 0; w < sizeof(ways) / sizeof(ways[0]); w++)
		for (size_t i = 0; i < N_MULTI && !err; i++) {
			collect(b, a, s, a->multi_progs[i], ways[w], at);
			err = link_multi(set, a->multi_progs[i], ways[w], at, b);
		}
	return err;
}

static int place_by_multi(struct attach *a, struct attach_set *set, const struct place *at,
			  const struct sites *s)
{
	struct batch b = {.offsets = calloc(s->n, sizeof(uint64_t)),
			  .cookies = calloc(s->n, sizeof(uint64_t))};
	int err = b.offsets && b.cookies ? link_sites(a, set, at, s, &b) : -ENOMEM;

	free(b.offsets);
	free(b.cookies);
	return err;
}

static int place_by_perf(struct attach *a, struct attach_set *set, const struct place *at,
			 const struct site *s)
{
	const struct pair *p = &a->pairs[s->call];
	struct bpf_program *leave = a->has_loop ? p->leave : p->leave_old;
	struct bpf_program *enter = a->has_loop || !p->enter_old ? p->enter : p->enter_old;
	int err = 0;

	if (s->at & SITE_RETURN)
		err = link_perf(set, leave, SITE_RETURN, at, s->offset);
	if (!err && s->at & SITE_EXIT)
		err = link_perf(set, leave, SITE_EXIT, at, s->offset);
	if (!err && s->at & SITE_ENTRY)
		err = link_perf(set, enter, SITE_ENTRY, at, s->offset);
	return err;
}

/* All or none: half of the probes would show half of a conversation. */
static int place(struct attach *a, const struct place *at, const struct sites *s,
		 struct attach_set **out)
{
	struct attach_set *set = calloc(1, sizeof(*set));
	int err = 0;

	if (!set)
		return -ENOMEM;
	if (a->multi)
		err = place_by_multi(a, set, at, s);
	for (size_t i = 0; !a->multi && i < s->n && !err; i++)
		err = place_by_perf(a, set, at, &s->v[i]);
	if (err) {
		attach_set_free(set);
		return err;
	}
	*out = set;
	return 0;
}

static void name_fd(int fd, char *out, size_t room)
{
	snprintf(out, room, "/proc/self/fd/%d", fd);
}

int attach_sites(struct attach *a, int fd, const struct sites *sites, unsigned pid,
		 struct attach_set **out)
{
	char path[64];
	struct place at = {.path = path, .pid = pid};

	name_fd(fd, path, sizeof(path));
	return place(a, &at, sites, out);
}

/* --- what the kernel can do ---------------------------------------------------------------------
 */

static int place_canary(struct attach *a, unsigned way, unsigned pid, struct attach_set **out)
{
	struct site site = {
		.offset = harm_canary_offset(), .call = SSLC_CALL_BIND, .at = way, .sp = 0};
	struct sites sites = {.v = &site, .n = 1};
	struct place at = {.path = "/proc/self/exe", .pid = pid};

	return site.offset ? place(a, &at, &sites, out) : -ENOENT;
}

int attach_check_harm(struct attach *a)
{
	struct attach_set *set = NULL;
	int lives, err = place_canary(a, SITE_RETURN, 0, &set);

	if (err)
		return err == -ENOENT ? 0 : err;
	lives = harm_sandboxed_survives(harm_canary);
	attach_set_free(set);
	return lives == 0 ? -EOWNERDEAD : 0;
}

int attach_check_process(struct attach *a)
{
	struct attach_set *set = NULL;
	struct harm_threaded child;
	struct calls calls;
	uint64_t key;
	int err;

	if (!a->multi)
		return -ENOTSUP;
	err = harm_threaded_start(&child);
	if (err)
		return err;
	err = place_canary(a, SITE_ENTRY, (unsigned)child.pid, &set);
	if (!err)
		err = harm_threaded_call(&child);
	key = (uint64_t)child.pid << 32 | child.tid;
	if (!err && bpf_map_lookup_elem(bpf_map__fd(a->skel->maps.calls), &key, &calls))
		err = -ENOTSUP;
	attach_set_free(set);
	harm_threaded_stop(&child);
	return err;
}

/* --- files --------------------------------------------------------------------------------------
 */

static struct probed *file_at(const struct attach *a, unsigned number)
{
	return number && number <= a->n_files ? &a->files[number - 1] : NULL;
}

unsigned attach_count(const struct attach *a)
{
	return (unsigned)a->n_files;
}

void attach_identity(const struct attach *a, unsigned number, uint64_t *dev, uint64_t *ino)
{
	const struct probed *f = file_at(a, number);

	*dev = f ? f->dev : 0;
	*ino = f ? f->ino : 0;
}

int attach_functions(const struct attach *a, unsigned number)
{
	const struct probed *f = file_at(a, number);

	return f ? f->functions : 0;
}

enum attach_tier attach_tier(const struct attach *a, unsigned number)
{
	const struct probed *f = file_at(a, number);

	return f ? f->tier : ATTACH_PLAIN;
}

int attach_fd(const struct attach *a, unsigned number)
{
	const struct probed *f = file_at(a, number);

	return f ? f->fd : -EBADF;
}

/* Where the file is probed in a tier. sites_fini() them, whatever is returned. */
static int find_sites(const struct attach *a, int fd, enum attach_tier tier, struct sites *out)
{
	/* Perf events tell no cookie before 5.15, and inside a function one is needed. */
	*out = (struct sites){.pairs = a->multi && tier <= ATTACH_PAIRS,
			      .records = a->multi && tier == ATTACH_RECORDS,
			      .calls = a->calls,
			      .plain = tier == ATTACH_PLAIN};
	return sites_find(fd, out);
}

/* Room for one file more, with a descriptor of its own. */
static int new_file(struct attach *a, int fd, struct probed **out)
{
	struct probed *files = realloc(a->files, (a->n_files + 1) * sizeof(*files)), f = {.fd = -1};
	struct stat st;
	char path[64];

	if (!files)
		return -ENOMEM;
	a->files = files;
	name_fd(fd, path, sizeof(path));
	f.fd = open(path, O_PATH | O_CLOEXEC);
	if (f.fd < 0 || fstat(f.fd, &st)) {
		int err = -errno;

		if (f.fd >= 0)
			close(f.fd);
		return err;
	}
	f.dev = st.st_dev;
	f.ino = st.st_ino;
	f.tier = a->best;
	a->files[a->n_files] = f;
	*out = &a->files[a->n_files];
	return 0;
}

/* Those beyond the last number that a cookie can tell have none. */
static unsigned cookie_number(size_t number)
{
	return number <= SSLC_FILES_MAX ? (unsigned)number : 0;
}

static unsigned number_of(const struct attach *a, const struct probed *f)
{
	return cookie_number((size_t)(f - a->files) + 1);
}

/* For all processes (0) or for one. */
static int place_on(struct attach *a, const struct probed *f, unsigned pid, unsigned turn,
		    const struct sites *s, struct attach_set **out)
{
	char path[64];
	struct place at = {.path = path, .pid = pid, .file = number_of(a, f), .turn = turn};

	name_fd(f->fd, path, sizeof(path));
	return place(a, &at, s, out);
}

/* The calls around records. What cannot be had is done without. */
static void place_around(struct attach *a, const struct probed *f, unsigned pid,
			 const struct sites *s, struct attach_set **out)
{
	struct sites around = {.v = s->around, .n = s->n_around};
	int err = around.n && !*out ? place_on(a, f, pid, 0, &around, out) : 0;

	if (err)
		log_debug("attach: probes around records: %s", strerror(-err));
}

/* From now on those of that turn tell records, and no others. */
static void take_turn(struct attach *a, struct probed *f, unsigned turn)
{
	volatile uint8_t *turns = (volatile uint8_t *)a->skel->bss->turns;

	f->turn = turn;
	if (number_of(a, f) < SSLC_RECORD_FILES)
		turns[number_of(a, f)] = (uint8_t)turn;
}

static enum attach_tier reached(enum attach_tier tier, const struct sites *s)
{
	return tier == ATTACH_RECORDS && !s->n_around ? ATTACH_PAIRS : tier;
}

static int add_file(struct attach *a, int fd, const struct sites *s)
{
	struct probed *f = NULL;
	int err = new_file(a, fd, &f);

	if (err)
		return err;
	place_around(a, f, 0, s, &f->around);
	err = place_on(a, f, 0, f->turn, s, &f->shared);
	if (err) {
		attach_set_free(f->around);
		close(f->fd);
		return err;
	}
	f->functions = (int)s->movers;
	f->tier = reached(a->best, s);
	f->is_around = f->tier == ATTACH_RECORDS;
	f->since_ns = clock_mono_ns();
	a->n_files++;
	return 0;
}

/* What can be asked for, for the next file. */
static enum attach_tier best_next(const struct attach *a)
{
	return a->best == ATTACH_RECORDS && a->n_files + 1 >= SSLC_RECORD_FILES ? ATTACH_PAIRS
										: a->best;
}

int attach_file(struct attach *a, int fd, struct attach_found *found)
{
	struct sites s;
	int n = find_sites(a, fd, best_next(a), &s), err = n > 0 ? add_file(a, fd, &s) : 0;

	*found = (struct attach_found){.families = err ? 0 : s.families,
				       .why_not = s.why_not,
				       .number = n > 0 && !err ? attach_count(a) : 0,
				       .tier = reached(a->best, &s)};
	sites_fini(&s);
	return err ? err : n;
}

/* --- exchange -----------------------------------------------------------------------------------
 */

static bool is_underway(int map, const struct underway *u)
{
	struct calls cs;

	if (bpf_map_lookup_elem(map, &u->thread, &cs))
		return false;
	for (unsigned i = 0; i < cs.depth && i < CALL_DEPTH; i++)
		if (cs.v[i].sp == u->sp && cs.v[i].kind == u->kind)
			return true;
	return false;
}

static int note_thread(struct retired *r, uint64_t thread, const struct calls *cs)
{
	for (unsigned i = 0; i < cs->depth && i < CALL_DEPTH; i++) {
		struct underway *calls = realloc(r->calls, (r->n + 1) * sizeof(*calls));

		if (!calls)
			return -ENOMEM;
		r->calls = calls;
		r->calls[r->n++] = (struct underway){
			.thread = thread, .sp = cs->v[i].sp, .kind = cs->v[i].kind};
	}
	return 0;
}

/* All calls of the host that last now. Goroutines' are not among them: their probes lie in the same
 * places in each tier. */
static int note_calls(int map, struct retired *r)
{
	uint64_t key, *at = NULL;
	struct calls cs;
	int err = 0;

	for (unsigned i = 0; i < 2 * MAX_CALLS && !err; i++) {
		if (bpf_map_get_next_key(map, at, &key))
			break;
		at = &key;
		if (!bpf_map_lookup_elem(map, &key, &cs))
			err = note_thread(r, key, &cs);
	}
	return err;
}

static void free_retired(struct retired *r)
{
	attach_set_free(r->set);
	free(r->calls);
	free(r);
}

/*
 * Takes the set: no call is entered by it any more, and those that were may still leave. Records
 * are seen for a while: in a call that began before the probes that replace these, nothing else
 * tells them, and in others they leave it to the call.
 */
static void retire(struct attach *a, struct attach_set *set, uint64_t linger_ns)
{
	struct retired *r;

	if (!set)
		return;
	drop_links(set, true);
	r = calloc(1, sizeof(*r));
	if (!r) {
		attach_set_free(set);
		return;
	}
	r->set = set;
	r->until_ns = clock_mono_ns() + linger_ns;
	if (note_calls(bpf_map__fd(a->skel->maps.calls), r) || (!r->n && !linger_ns)) {
		free_retired(r);
		return;
	}
	r->next = a->retired;
	a->retired = r;
}

/* While both old and new probes are there: see bpf/go.bpf.h. */
static void begin_exchange(struct attach *a)
{
	a->skel->bss->exchanging = 1;
}

static void end_exchange(struct attach *a)
{
	if (bin_is_empty(&a->bin))
		a->skel->bss->exchanging = 0;
}

/* Its sets are the caller's. */
static struct own take_own(struct probed *f, struct own *o)
{
	struct own taken = *o;

	*o = f->own[--f->n_own];
	return taken;
}

static void throw_own(struct attach *a, struct own o)
{
	throw_away(&a->bin, o.set);
	throw_away(&a->bin, o.around);
}

static void drop_dead(struct attach *a, struct probed *f)
{
	struct process_stat st;

	for (size_t i = 0; i < f->n_own;)
		if (process_stat(f->own[i].pid, &st) && st.start_ticks == f->own[i].start_ticks)
			i++;
		else
			throw_own(a, take_own(f, &f->own[i]));
}

/* The sites of the file in its present tier, read anew. */
static int sites_now(const struct attach *a, const struct probed *f, struct sites *out)
{
	char path[64];
	int fd, n;

	*out = (struct sites){0};
	name_fd(f->fd, path, sizeof(path));
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = find_sites(a, fd, f->tier, out);
	close(fd);
	return n > 0 ? 0 : n ? n : -ENOENT;
}

static void begin_around(struct attach *a, struct probed *f)
{
	struct sites s;

	if (!sites_now(a, f, &s)) {
		if (!f->is_split)
			place_around(a, f, 0, &s, &f->around);
		for (size_t i = 0; i < f->n_own; i++)
			place_around(a, f, f->own[i].pid, &s, &f->own[i].around);
	}
	sites_fini(&s);
	f->is_around = true;
}

static void end_around(struct attach *a, struct probed *f)
{
	retire(a, f->around, 0);
	f->around = NULL;
	for (size_t i = 0; i < f->n_own; i++) {
		retire(a, f->own[i].around, 0);
		f->own[i].around = NULL;
	}
	f->is_around = false;
}

void attach_around(struct attach *a, uint64_t now_ns)
{
	const volatile uint64_t *met_ns = (const volatile uint64_t *)a->skel->bss->unknown_ns;

	for (size_t i = 0; i < a->n_files; i++) {
		struct probed *f = &a->files[i];
		uint64_t last = met_ns[number_of(a, f) % SSLC_RECORD_FILES];
		bool wanted = (last && now_ns < last + AROUND_NS) ||
			      now_ns < f->since_ns + AROUND_FIRST_NS;

		if (f->tier != ATTACH_RECORDS || wanted == f->is_around)
			continue;
		if (wanted)
			begin_around(a, f);
		else
			end_around(a, f);
	}
}

void attach_tick(struct attach *a)
{
	int map = bpf_map__fd(a->skel->maps.calls);

	end_exchange(a);
	for (size_t i = 0; i < a->n_files; i++)
		drop_dead(a, &a->files[i]);

	for (struct retired **at = &a->retired; *at;) {
		struct retired *r = *at;

		while (r->n && !is_underway(map, &r->calls[r->n - 1]))
			r->n--;
		if (r->n || clock_mono_ns() < r->until_ns) {
			at = &r->next;
			continue;
		}
		*at = r->next;
		free_retired(r);
	}
}

static bool same_sites(const struct sites *a, const struct sites *b)
{
	if (a->n != b->n)
		return false;
	for (size_t i = 0; i < a->n; i++)
		if (a->v[i].offset != b->v[i].offset || a->v[i].call != b->v[i].call ||
		    a->v[i].at != b->v[i].at || a->v[i].sp != b->v[i].sp)
			return false;
	return true;
}

/* The sites of the next tier that has others than the present one. */
static int find_next(const struct attach *a, const struct probed *f, int fd, struct sites *out)
{
	struct sites now;
	int n = find_sites(a, fd, f->tier, &now);

	*out = (struct sites){0};
	for (int tier = (int)f->tier + 1; n > 0 && tier < ATTACH_TIERS; tier++) {
		n = find_sites(a, fd, (enum attach_tier)tier, out);
		if (n <= 0 || !same_sites(&now, out)) {
			sites_fini(&now);
			return n > 0 ? tier : n ? n : -ENOENT;
		}
		sites_fini(out);
	}
	sites_fini(&now);
	return n < 0 ? n : -ENOENT;
}

/* For all processes that have their own, or for none of them. */
static int replace_own(struct attach *a, struct probed *f, const struct sites *s)
{
	struct attach_set **sets = calloc(f->n_own + 1, sizeof(struct attach_set *));
	int err = sets ? 0 : -ENOMEM;

	for (size_t i = 0; i < f->n_own && !err; i++) {
		err = place_on(a, f, f->own[i].pid, f->turn, s, &sets[i]);
		if (err == -ESRCH)
			err = 0; /* the process is gone */
	}
	for (size_t i = 0; sets && i < f->n_own; i++) {
		if (err) {
			attach_set_free(sets[i]);
			continue;
		}
		retire(a, f->own[i].set, f->tier == ATTACH_RECORDS ? LINGER_NS : 0);
		f->own[i].set = sets[i];
	}
	free(sets);
	return err;
}

static int replace(struct attach *a, struct probed *f, const struct sites *s)
{
	struct attach_set *set;
	int err = f->is_split ? replace_own(a, f, s) : place_on(a, f, 0, f->turn, s, &set);

	if (err)
		return err;
	end_around(a, f);
	if (f->is_split)
		return 0;
	retire(a, f->shared, f->tier == ATTACH_RECORDS ? LINGER_NS : 0);
	f->shared = set;
	return 0;
}

int attach_next_tier(struct attach *a, unsigned number)
{
	struct probed *f = file_at(a, number);
	struct sites s = {0};
	int fd, tier, err;
	char path[64];

	if (!f)
		return -ENOENT;
	name_fd(f->fd, path, sizeof(path));
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	tier = find_next(a, f, fd, &s);
	err = tier < 0 ? tier : 0;
	if (!err) {
		begin_exchange(a);
		err = replace(a, f, &s);
		end_exchange(a);
	}
	if (!err) {
		f->tier = (enum attach_tier)tier;
		f->functions = (int)s.movers;
	}
	sites_fini(&s);
	close(fd);
	return err ? err : tier;
}

/* --- one process each ---------------------------------------------------------------------------
 */

static struct own *find_own(const struct probed *f, unsigned pid)
{
	for (size_t i = 0; i < f->n_own; i++)
		if (f->own[i].pid == pid)
			return &f->own[i];
	return NULL;
}

static void remove_all_own(struct attach *a, struct probed *f)
{
	while (f->n_own)
		throw_own(a, take_own(f, &f->own[f->n_own - 1]));
	free(f->own);
	f->own = NULL;
}

/* Probes of the turn that comes next are all gone. */
static void clear_turn(struct attach *a, const struct probed *f)
{
	if (f->tier == ATTACH_RECORDS)
		wait_for_bin(&a->bin);
}

static int add_own(struct attach *a, struct probed *f, unsigned pid, unsigned turn,
		   const struct sites *s)
{
	struct own *own = realloc(f->own, (f->n_own + 1) * sizeof(*own)), *old, new = {.pid = pid};
	struct process_stat st;
	int err;

	if (!own)
		return -ENOMEM;
	f->own = own;
	if (!process_stat(pid, &st))
		return -ESRCH;
	new.start_ticks = st.start_ticks;
	old = find_own(f, pid);
	if (old && old->start_ticks == st.start_ticks)
		return 0;
	if (old)
		throw_own(a, take_own(f, old));
	if (f->is_around)
		place_around(a, f, pid, s, &new.around);
	err = place_on(a, f, pid, turn, s, &new.set);
	if (err)
		attach_set_free(new.around);
	else
		f->own[f->n_own++] = new;
	return err;
}

int attach_split(struct attach *a, unsigned number, const unsigned pids[], size_t n)
{
	struct probed *f = file_at(a, number);
	struct sites s = {0};
	int err;

	if (!f || f->is_split)
		return f ? -EALREADY : -ENOENT;
	begin_exchange(a);
	clear_turn(a, f);
	err = sites_now(a, f, &s);
	for (size_t i = 0; i < n && !err; i++) {
		err = add_own(a, f, pids[i], !f->turn, &s);
		if (err == -ESRCH)
			err = 0;
	}
	if (err) {
		remove_all_own(a, f);
	} else { /* the same places: who was entered by these leaves by the others */
		take_turn(a, f, !f->turn);
		attach_set_free(f->shared);
		attach_set_free(f->around);
		f->shared = f->around = NULL;
		f->is_split = true;
	}
	end_exchange(a);
	sites_fini(&s);
	return err;
}

bool attach_is_split(const struct attach *a, unsigned number)
{
	const struct probed *f = file_at(a, number);

	return f && f->is_split;
}

int attach_add(struct attach *a, unsigned number, unsigned pid)
{
	struct probed *f = file_at(a, number);
	struct sites s = {0};
	int err = f && f->is_split ? sites_now(a, f, &s) : -ENOENT;

	if (!err)
		err = add_own(a, f, pid, f->turn, &s);
	sites_fini(&s);
	return err;
}

void attach_remove(struct attach *a, unsigned number, unsigned pid)
{
	struct probed *f = file_at(a, number);
	struct own *o = f ? find_own(f, pid) : NULL, taken;

	if (!o)
		return;
	taken = take_own(f, o);
	attach_set_free(taken.set);
	attach_set_free(taken.around);
}

int attach_share(struct attach *a, unsigned number)
{
	struct probed *f = file_at(a, number);
	struct sites s = {0};
	int err;

	if (!f || !f->is_split)
		return f ? 0 : -ENOENT;
	begin_exchange(a);
	clear_turn(a, f);
	err = sites_now(a, f, &s);
	if (!err)
		err = place_on(a, f, 0, !f->turn, &s, &f->shared);
	if (!err) {
		if (f->is_around)
			place_around(a, f, 0, &s, &f->around);
		take_turn(a, f, !f->turn);
		f->is_split = false;
		remove_all_own(a, f);
	}
	end_exchange(a);
	sites_fini(&s);
	return err;
}

/* Keys of both maps of calls; the first members are all that is looked at. */
static void forget_goroutines(int map, unsigned pid)
{
	struct {
		uint64_t g;
		uint32_t tgid, pad;
	} key, next;
	bool more = !bpf_map_get_next_key(map, NULL, &next);

	for (unsigned i = 0; more && i < 8 * MAX_CALLS; i++) {
		key = next;
		more = !bpf_map_get_next_key(map, &key, &next);
		if (key.tgid == pid)
			bpf_map_delete_elem(map, &key);
	}
}

void attach_tally(const struct attach *a, struct sslc_tally *out)
{
	int n = libbpf_num_possible_cpus();
	struct sslc_tally *v = calloc(n > 0 ? (size_t)n : 1, sizeof(*v));
	uint32_t zero = 0;

	*out = (struct sslc_tally){0};
	if (v && n > 0 && !bpf_map_lookup_elem(bpf_map__fd(a->skel->maps.tallies), &zero, v))
		for (int i = 0; i < n; i++) {
			out->entries += v[i].entries;
			out->exits += v[i].exits;
			out->ns += v[i].ns;
			out->samples += v[i].samples;
		}
	free(v);
}

void attach_forget_calls(struct attach *a, unsigned pid)
{
	char path[64];
	struct dirent *e;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%u/task", pid);
	d = opendir(path);
	while (d && (e = readdir(d))) {
		uint64_t key = (uint64_t)pid << 32 | strtoul(e->d_name, NULL, 10);

		bpf_map_delete_elem(bpf_map__fd(a->skel->maps.calls), &key);
	}
	if (d)
		closedir(d);
	forget_goroutines(bpf_map__fd(a->skel->maps.go_calls), pid);
}

void attach_free(struct attach *a)
{
	if (!a)
		return;
	wait_for_bin(&a->bin);
	pthread_mutex_destroy(&a->bin.lock);
	while (a->retired) {
		struct retired *r = a->retired;

		a->retired = r->next;
		free_retired(r);
	}
	for (size_t i = 0; i < a->n_files; i++) {
		attach_set_free(a->files[i].shared);
		attach_set_free(a->files[i].around);
		while (a->files[i].n_own) {
			struct own o = take_own(&a->files[i], a->files[i].own);

			attach_set_free(o.set);
			attach_set_free(o.around);
		}
		free(a->files[i].own);
		close(a->files[i].fd);
	}
	free(a->files);
	free(a);
}
