/* SPDX-License-Identifier: Apache-2.0 */
/*
 * doctor: files in, a text about their probe sites out. Finds them as the agent does, and places no
 * probe.
 */
#include "cli/doctor.h"

#include "probes/attach.h"
#include "sites/cheap.h"
#include "probes/harm.h"
#include "probes/libwatch.h"
#include "sites/sites.h"
#include "sites/trial.h"

#include "base/log.h"

#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define INSTRUCTION_MAX 15 /* bytes */

struct doctor {
	bool pairs, calls, records;
	int status;
};

static const char *price_text(const struct site *s)
{
	if (s->price == SITE_RECORD)
		return "record";
	if (s->price == SITE_PAIR)
		return "cheap pair";
	return s->price == SITE_FIRST ? "cheap" : "plain";
}

static void print_place(int fd, const struct site *s, const char *what)
{
	uint8_t code[INSTRUCTION_MAX];
	ssize_t n = pread(fd, code, sizeof(code), (off_t)s->offset);
	char text[96];

	cheap_describe(code, n > 0 ? (size_t)n : 0, s->offset - s->function, text, sizeof(text));
	printf("    %s +%llu: %s\n", what, (unsigned long long)(s->offset - s->function), text);
}

/* The exits of a pair follow somewhere behind its entry. */
static void print_exits(int fd, const struct sites *all, size_t entry)
{
	const struct site *e = &all->v[entry];

	for (size_t i = entry + 1; i < all->n; i++)
		if (all->v[i].at == SITE_EXIT && all->v[i].function == e->function &&
		    all->v[i].call == e->call)
			print_place(fd, &all->v[i], "exit");
}

static void print_function(int fd, const struct sites *all, size_t i)
{
	const struct site *s = &all->v[i];

	printf("  %s at %#llx: %s%s%s\n", s->name ? s->name : "(internal)",
	       (unsigned long long)s->function, price_text(s), s->why ? ": " : "",
	       s->why ? s->why : "");
	print_place(fd, s,
		    s->price == SITE_RECORD ? "each"
		    : s->at & SITE_RETURN   ? "entry and return"
					    : "entry");
	if (s->at == SITE_ENTRY && s->call != SSLC_CALL_FORGET && s->price != SITE_RECORD)
		print_exits(fd, all, i);
}

static bool look(void *ctx, int fd, const char *path)
{
	struct doctor *d = ctx;
	struct sites s = {.pairs = d->pairs, .calls = d->calls, .records = d->records};
	int n = sites_find(fd, &s);

	if (n < 0) {
		log_error("doctor: %s: %s", path,
			  n == -ENOEXEC ? "not a usable ELF file of this machine" : strerror(-n));
		d->status = 1;
	} else {
		printf("%s: %d functions that move plaintext%s%s\n", path, n, s.why_not ? "; " : "",
		       s.why_not ? s.why_not : "");
	}
	if (n > 0 && s.no_records[0])
		printf("  no probes on records: %s\n", s.no_records);
	for (size_t i = 0; n > 0 && i < s.n; i++)
		if (s.v[i].at & SITE_ENTRY)
			print_function(fd, &s, i);
	sites_fini(&s);
	return false;
}

static void look_by_name(struct doctor *d, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0) {
		log_error("doctor: %s: %s", path, strerror(errno));
		d->status = 1;
		return;
	}
	(void)look(d, fd, path);
	close(fd);
}

static bool takes_pairs(void)
{
	struct btf *btf = btf__load_vmlinux_btf();
	bool takes;

	if (libbpf_get_error(btf))
		return false;
	takes = attach_takes_pairs(btf);
	btf__free(btf);
	return takes;
}

int doctor_run(char *const files[], unsigned n_files, enum probes probes)
{
	bool takes = takes_pairs();
	struct doctor d = {.pairs = takes && probes < PROBES_FIRST,
			   .records = takes && probes <= PROBES_RECORDS,
			   .calls = !harm_has_shadow_stacks("/proc/cpuinfo")};

	trial_allow(true);
	trial_afresh();
	for (unsigned i = 0; i < n_files; i++)
		look_by_name(&d, files[i]);
	if (!n_files)
		libwatch_installed(look, &d);
	if (!fflush(stdout) && !ferror(stdout))
		return d.status;
	log_error("doctor: standard output: %s", strerror(errno));
	return 1;
}
