/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attach: an open library file in, probes on it out. Since 6.6 three links a file carry all its
 * probes (uprobe_multi): quicker to place, to hit and to take off than one perf event each, and
 * CAP_SYS_ADMIN is not needed. Older kernels get perf events. Never looks into what the probes
 * deliver.
 */
#include "attach.h"

#include <linux/types.h>

#include "elfsym.h"
#include "event.h"
#include "harm.h"

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

#include "capture.skel.h"

/*
 * All functions that are probed, of every library; a file has those of one. A file without any that
 * moves plaintext is none of ours. gnutls_record_send() ends in gnutls_record_send2().
 */
static const struct probe {
	const char *symbol;
	enum sslc_call call;
} probes[] = {
	{"SSL_read", SSLC_CALL_READ},
	{"SSL_write", SSLC_CALL_WRITE},
	{"SSL_read_ex", SSLC_CALL_READ_EX},
	{"SSL_write_ex", SSLC_CALL_WRITE_EX},
	{"SSL_do_handshake", SSLC_CALL_BIND},
	{"SSL_peek", SSLC_CALL_BIND},
	{"SSL_peek_ex", SSLC_CALL_BIND},
	{"SSL_free", SSLC_CALL_FORGET},
	{"SSL_clear", SSLC_CALL_FORGET},
	{"SSL_set_fd", SSLC_CALL_FORGET},
	{"SSL_set_bio", SSLC_CALL_FORGET},
	{"gnutls_record_recv", SSLC_CALL_RECV},
	{"gnutls_record_recv_seq", SSLC_CALL_RECV},
	{"gnutls_record_send2", SSLC_CALL_SEND},
	{"gnutls_handshake", SSLC_CALL_BIND},
	{"gnutls_deinit", SSLC_CALL_FORGET},
};
enum { N_PROBES = sizeof(probes) / sizeof(probes[0]) };

#define TRACE_UPROBE_MULTI  48 /* enum bpf_attach_type, 6.6 */
#define UPROBE_MULTI_RETURN 1u

/* The programs of one kind of call, for perf events. */
struct pair {
	struct bpf_program *enter, *leave, *leave_old;
};

struct link {
	int fd;                /* uprobe_multi */
	struct bpf_link *perf; /* owned; NULL with uprobe_multi */
};

struct attach {
	struct capture_bpf *skel; /* borrowed */
	struct pair pairs[SSLC_CALL_KINDS];
	bool multi;    /* uprobe_multi, 6.6 */
	bool has_loop; /* bpf_loop(), 5.17 */
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
			a->skel->progs.leave_old_##name                                            \
	}
	const struct pair pairs[SSLC_CALL_KINDS] = {
		[SSLC_CALL_READ] = PAIR(read),
		[SSLC_CALL_READ_EX] = PAIR(read_ex),
		[SSLC_CALL_WRITE] = PAIR(write),
		[SSLC_CALL_WRITE_EX] = PAIR(write_ex),
		[SSLC_CALL_RECV] = PAIR(recv),
		[SSLC_CALL_SEND] = PAIR(send),
		[SSLC_CALL_BIND] = PAIR(bind),
		[SSLC_CALL_FORGET] = {a->skel->progs.enter_forget, NULL, NULL},
	};
#undef PAIR
	memcpy(a->pairs, pairs, sizeof(pairs));
}

static void choose_multi(const struct attach *a)
{
	struct bpf_program *const v[] = {a->skel->progs.multi_enter, a->skel->progs.multi_leave,
					 a->skel->progs.multi_forget};

	for (size_t i = 0; i < sizeof(v) / sizeof(v[0]); i++) {
		bpf_program__set_autoload(v[i], a->multi);
		if (a->multi)
			bpf_program__set_expected_attach_type(
				v[i], (enum bpf_attach_type)TRACE_UPROBE_MULTI);
	}
}

static void choose_pairs(const struct attach *a)
{
	for (int i = 0; i < SSLC_CALL_KINDS; i++) {
		const struct pair *p = &a->pairs[i];

		bpf_program__set_autoload(p->enter, !a->multi);
		if (p->leave)
			bpf_program__set_autoload(p->leave, !a->multi && a->has_loop);
		if (p->leave_old)
			bpf_program__set_autoload(p->leave_old, !a->multi && !a->has_loop);
	}
}

int attach_new(struct attach **out, struct capture_bpf *skel, const struct btf *kernel)
{
	struct attach *a = calloc(1, sizeof(*a));

	if (!a)
		return -ENOMEM;
	a->skel = skel;
	a->multi = btf__find_by_name_kind(kernel, "bpf_uprobe_multi_link", BTF_KIND_STRUCT) > 0;
	a->has_loop = libbpf_probe_bpf_helper(BPF_PROG_TYPE_KPROBE, BPF_FUNC_loop, NULL) == 1;
	fill_pairs(a);
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

static int attach_by_multi(struct attach *a, const char *path, const uint64_t found[N_PROBES])
{
	uint64_t calls[N_PROBES], cookies[N_PROBES], forgets[N_PROBES];
	uint32_t n_calls = 0, n_forgets = 0;
	int err;

	for (int i = 0; i < N_PROBES; i++) {
		if (!found[i])
			continue;
		if (probes[i].call == SSLC_CALL_FORGET) {
			forgets[n_forgets++] = found[i];
			continue;
		}
		calls[n_calls] = found[i];
		cookies[n_calls++] = probes[i].call;
	}
	/* Return first: a call that is entered is then also seen leaving. */
	err = link_multi(a, a->skel->progs.multi_leave, true, path, calls, cookies, n_calls);
	if (!err)
		err = link_multi(a, a->skel->progs.multi_enter, false, path, calls, cookies,
				 n_calls);
	if (!err)
		err = link_multi(a, a->skel->progs.multi_forget, false, path, forgets, NULL,
				 n_forgets);
	return err;
}

static int attach_by_perf(struct attach *a, const char *path, const uint64_t found[N_PROBES])
{
	int err = 0;

	for (int i = 0; i < N_PROBES && !err; i++) {
		const struct pair *p = &a->pairs[probes[i].call];

		if (!found[i])
			continue;
		err = link_perf(a, a->has_loop ? p->leave : p->leave_old, true, path, found[i]);
		if (!err)
			err = link_perf(a, p->enter, false, path, found[i]);
	}
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

/* File offsets of the probed functions; how many of them move plaintext, or -ENOEXEC. */
static int find_functions(int fd, uint64_t found[N_PROBES])
{
	const char *names[N_PROBES];
	int n = 0, err;

	for (int i = 0; i < N_PROBES; i++)
		names[i] = probes[i].symbol;
	err = elfsym_offsets(fd, names, N_PROBES, found);
	if (err < 0)
		return err;
	for (int i = 0; i < N_PROBES; i++)
		n += found[i] && probes[i].call < SSLC_CALL_BIND;
	return n;
}

int attach_file(struct attach *a, int fd)
{
	uint64_t found[N_PROBES];
	size_t before = a->n_links;
	char path[64];
	int n = find_functions(fd, found), err;

	if (n <= 0)
		return n;
	/* Names the very file, whatever its name is now or in whose mount namespace. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	err = a->multi ? attach_by_multi(a, path, found) : attach_by_perf(a, path, found);
	if (err) /* half of the probes would show half of a conversation */
		drop_links(a, before);
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
