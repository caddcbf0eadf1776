/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attach: an open library file in, probes on it out. Since 6.6 three links a file carry all its
 * probes (uprobe_multi): quicker to place, to hit and to take off than one perf event each, and
 * CAP_SYS_ADMIN is not needed. Older kernels get perf events. Never looks into what the probes
 * deliver.
 */
#include "attach.h"

#include <linux/types.h>

#include "event.h"
#include "harm.h"
#include "sites.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ring.h" /* types inside the next one */
#include "capture.skel.h"

#define TRACE_UPROBE_MULTI  48 /* enum bpf_attach_type, 6.6 */
#define UPROBE_MULTI_RETURN 1u

/* The programs of one kind of call, for perf events. */
struct pair {
	struct bpf_program *enter, *leave, *leave_old;
	struct bpf_program *enter_old; /* where entries emit, too; else NULL */
};

struct link {
	int fd;                /* uprobe_multi */
	struct bpf_link *perf; /* owned; NULL with uprobe_multi */
};

enum { N_MULTI = 5 };

struct attach {
	struct capture_bpf *skel;                 /* borrowed */
	struct pair pairs[SSLC_CALL_KINDS];       /* perf events */
	struct pair multi_pairs[SSLC_CALL_KINDS]; /* uprobe_multi: a cookie tells the kind */
	struct bpf_program *multi_progs[N_MULTI]; /* those, each once */
	bool multi;                               /* uprobe_multi, 6.6 */
	bool has_loop;                            /* bpf_loop(), 5.17 */
	bool calls;                               /* see sites.h */
	struct link *links;
	size_t n_links;
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
	struct bpf_program *const all[N_MULTI] = {enter, leave, forget, go_enter, go_leave};

	for (int i = 0; i < SSLC_CALL_KINDS; i++)
		a->multi_pairs[i] = i < SSLC_CALL_GO_READ
					    ? (struct pair){enter, leave, NULL, NULL}
					    : (struct pair){go_enter, go_leave, NULL, NULL};
	a->multi_pairs[SSLC_CALL_FORGET] = (struct pair){forget, NULL, NULL, NULL};
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

int attach_new(struct attach **out, struct capture_bpf *skel, const struct btf *kernel)
{
	struct attach *a = calloc(1, sizeof(*a));

	if (!a)
		return -ENOMEM;
	a->skel = skel;
	a->multi = attach_takes_pairs(kernel);
	a->has_loop = libbpf_probe_bpf_helper(BPF_PROG_TYPE_KPROBE, BPF_FUNC_loop, NULL) == 1;
	a->calls = !harm_has_shadow_stacks("/proc/cpuinfo");
	fill_pairs(a);
	fill_multi(a);
	choose_multi(a);
	choose_pairs(a);
	*out = a;
	return 0;
}

/* --- links --------------------------------------------------------------------------------------
 */

static void drop_links(struct attach *a, size_t keep)
{
	while (a->n_links > keep) {
		struct link *l = &a->links[--a->n_links];

		if (l->perf)
			bpf_link__destroy(l->perf);
		else
			close(l->fd);
	}
}

static int keep_link(struct attach *a, struct link l)
{
	struct link *links = realloc(a->links, (a->n_links + 1) * sizeof(*links));

	if (!links)
		return -ENOMEM;
	a->links = links;
	a->links[a->n_links++] = l;
	return 0;
}

/* bpf(2), BPF_LINK_CREATE for BPF_TRACE_UPROBE_MULTI as of 6.6: not in every build host's headers.
 */
struct link_create_multi {
	uint32_t prog_fd, target_fd, attach_type, flags;
	uint64_t path, offsets, ref_ctr_offsets, cookies;
	uint32_t count, multi_flags, pid, pad;
};

static int link_multi(struct attach *a, struct bpf_program *prog, bool at_return, const char *path,
		      const uint64_t *offsets, const uint64_t *cookies, uint32_t count)
{
	struct link_create_multi attr = {
		.prog_fd = (uint32_t)bpf_program__fd(prog),
		.attach_type = TRACE_UPROBE_MULTI,
		.path = (uintptr_t)path,
		.offsets = (uintptr_t)offsets,
		.cookies = (uintptr_t)cookies,
		.count = count,
		.multi_flags = at_return ? UPROBE_MULTI_RETURN : 0,
	};
	int fd, err;

	if (!count)
		return 0;
	fd = (int)syscall(SYS_bpf, BPF_LINK_CREATE, &attr, sizeof(attr));
	if (fd < 0)
		return -errno;
	err = keep_link(a, (struct link){.fd = fd});
	if (err)
		close(fd);
	return err;
}

static int link_perf(struct attach *a, struct bpf_program *prog, bool at_return, const char *path,
		     uint64_t offset)
{
	LIBBPF_OPTS(bpf_uprobe_opts, opts, .retprobe = at_return);
	struct bpf_link *link;
	int err;

	if (!prog)
		return 0;
	link = bpf_program__attach_uprobe_opts(prog, -1, path, offset, &opts);
	if (!link)
		return -errno;
	err = keep_link(a, (struct link){.perf = link});
	if (err)
		bpf_link__destroy(link);
	return err;
}

/* --- files --------------------------------------------------------------------------------------
 */

/* The places of one program in a file, in the shape in which the kernel takes them. */
struct batch {
	uint64_t *offsets, *cookies; /* owned by the caller: room for all sites */
	uint32_t n;
};

#if defined(__x86_64__)
#define RETURN_POPS 8 /* ret takes the return address off the stack */
#else
#define RETURN_POPS 0
#endif

/* See bpf/calls.bpf.h. */
static uint64_t cookie_of(const struct site *s, unsigned way)
{
	int64_t sp = way == SITE_RETURN ? -RETURN_POPS : (int64_t)s->sp;

	return (uint64_t)sp << 8 | (uint64_t)s->call;
}

static void collect(struct batch *b, const struct attach *a, const struct sites *s,
		    const struct bpf_program *prog, unsigned at)
{
	b->n = 0;
	for (size_t i = 0; i < s->n; i++) {
		const struct pair *p = &a->multi_pairs[s->v[i].call];

		if (!(s->v[i].at & at) || (at & SITE_ENTRY ? p->enter : p->leave) != prog)
			continue;
		b->offsets[b->n] = s->v[i].offset;
		b->cookies[b->n++] = cookie_of(&s->v[i], at);
	}
}

/* One link for each program and way of probing. Ways out first: a call that is entered is then also
 * seen leaving. */
static int link_sites(struct attach *a, const char *path, const struct sites *s, struct batch *b)
{
	static const unsigned ways[] = {SITE_RETURN, SITE_EXIT, SITE_ENTRY};
	int err = 0;

	for (size_t w = 0; w < sizeof(ways) / sizeof(ways[0]); w++)
		for (size_t i = 0; i < N_MULTI && !err; i++) {
			struct bpf_program *prog = a->multi_progs[i];

			collect(b, a, s, prog, ways[w]);
			err = link_multi(a, prog, ways[w] == SITE_RETURN, path, b->offsets,
					 b->cookies, b->n);
		}
	return err;
}

static int attach_by_multi(struct attach *a, const char *path, const struct sites *s)
{
	struct batch b = {.offsets = calloc(s->n, sizeof(uint64_t)),
			  .cookies = calloc(s->n, sizeof(uint64_t))};
	int err = b.offsets && b.cookies ? link_sites(a, path, s, &b) : -ENOMEM;

	free(b.offsets);
	free(b.cookies);
	return err;
}

static int attach_site_by_perf(struct attach *a, const char *path, const struct site *s)
{
	const struct pair *p = &a->pairs[s->call];
	struct bpf_program *leave = a->has_loop ? p->leave : p->leave_old;
	struct bpf_program *enter = a->has_loop || !p->enter_old ? p->enter : p->enter_old;
	int err = 0;

	if (s->at & SITE_RETURN)
		err = link_perf(a, leave, true, path, s->offset);
	if (!err && s->at & SITE_EXIT)
		err = link_perf(a, leave, false, path, s->offset);
	if (!err && s->at & SITE_ENTRY)
		err = link_perf(a, enter, false, path, s->offset);
	return err;
}

static int attach_by_perf(struct attach *a, const char *path, const struct sites *s)
{
	int err = 0;

	for (size_t i = 0; i < s->n && !err; i++)
		err = attach_site_by_perf(a, path, &s->v[i]);
	return err;
}

int attach_check_harm(struct attach *a)
{
	static const char self[] = "/proc/self/exe";
	const uint64_t offset = harm_canary_offset(), cookie = SSLC_CALL_BIND;
	const struct pair *p = &a->pairs[SSLC_CALL_BIND];
	size_t before = a->n_links;
	int lives, err;

	if (!offset)
		return 0;
	err = a->multi ? link_multi(a, a->skel->progs.multi_leave, true, self, &offset, &cookie, 1)
		       : link_perf(a, a->has_loop ? p->leave : p->leave_old, true, self, offset);
	if (err)
		return err;
	lives = harm_sandboxed_survives(harm_canary);
	drop_links(a, before);
	return lives == 0 ? -EOWNERDEAD : 0;
}

int attach_file(struct attach *a, int fd, struct attach_found *found)
{
	/* Perf events tell no cookie before 5.15, and inside a function one is needed. */
	struct sites s = {.pairs = a->multi, .calls = a->calls};
	size_t before = a->n_links;
	char path[64];
	int n = sites_find(fd, &s), err = 0;

	if (n > 0) {
		/* Names the very file, whatever its name is now or in whose mount namespace. */
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		err = a->multi ? attach_by_multi(a, path, &s) : attach_by_perf(a, path, &s);
	}
	if (err) /* half of the probes would show half of a conversation */
		drop_links(a, before);
	*found = (struct attach_found){err ? 0 : s.families, s.why_not};
	sites_fini(&s);
	return err ? err : n;
}

void attach_free(struct attach *a)
{
	if (!a)
		return;
	drop_links(a, 0);
	free(a->links);
	free(a);
}
