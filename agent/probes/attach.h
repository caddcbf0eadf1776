/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attach: the probes of library files, and how they change while programs run. Which functions
 * there are, which program goes where, by what link; for all processes, or for each by itself.
 */
#ifndef SSLC_AGENT_ATTACH_H
#define SSLC_AGENT_ATTACH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "capture.h"

struct attach;
struct attach_set; /* links that were placed together */
struct btf;
struct sites;
struct capture_bpf; /* the skeleton */
struct sslc_tally;

/* Where the probes of a file may lie, best first. Each of them shows the same, if our reading of
 * the library's code is right; the lower, the less of it is relied on. */
enum attach_tier {
	ATTACH_RECORDS, /* where OpenSSL's records pass: see trial.h; else as the next */
	ATTACH_PAIRS,   /* entries and exits inside functions, wherever they cost least */
	ATTACH_FIRST,   /* entry and return at a function's beginning; internal functions, too */
	ATTACH_PLAIN,   /* the same of public functions only, at their first instructions */
	ATTACH_TIERS,
};

/* What was found in a file. */
struct attach_found {
	unsigned families;   /* SITES_OPENSSL, …, or'ed: those that are probed */
	const char *why_not; /* static text: TLS code in it that is not; NULL: none seen */
	unsigned number;     /* of the file, from 1 on, for the functions below; 0: no probes */
	enum attach_tier tier;
};

/** Whether this kernel's probes can be placed inside functions: see sites.h, pairs. */
bool attach_takes_pairs(const struct btf *kernel);
/** "pairs", "first", "plain". */
const char *attach_tier_word(enum attach_tier tier);
/**
 * Before the skeleton is loaded: choose, by what the kernel can do, how probes will be attached,
 * and leave the other programs out. skel is borrowed and must outlive the result. 0 or -ENOMEM.
 */
int attach_new(struct attach **out, struct capture_bpf *skel, const struct btf *kernel,
	       enum probes probes) __attribute__((warn_unused_result));
/**
 * After the skeleton is loaded, before any file: place a return probe on a child of our own and see
 * whether it lives in a sandbox. 0; -EOWNERDEAD when this kernel kills it (see harm.h); other
 * -errno.
 */
int attach_check_harm(struct attach *a) __attribute__((warn_unused_result));
/**
 * At the same time: whether probes for one process only show all of its threads, tried on a child
 * of our own. Linux 6.6 to 6.9 show one of them, unless mended. 0; -ENOTSUP; other -errno.
 */
int attach_check_process(struct attach *a) __attribute__((warn_unused_result));
/**
 * Probe every known function of the file, in every present and future process: all or none.
 * fd: open file, borrowed. found: always filled. Returns the number of functions that move
 * plaintext, 0 when there are none; -ENOEXEC for a broken file or none of this machine, other
 * -errno from the kernel.
 */
int attach_file(struct attach *a, int fd, struct attach_found *found)
	__attribute__((warn_unused_result));
/** Takes all probes off. Accepts NULL. */
void attach_free(struct attach *a);

/* Files with probes: their numbers are 1 to attach_count(), and stay. */

unsigned attach_count(const struct attach *a);
/** stat(2)'s identity of a file. */
void attach_identity(const struct attach *a, unsigned number, uint64_t *dev, uint64_t *ino);
/** How many functions are probed that move plaintext. */
int attach_functions(const struct attach *a, unsigned number);
enum attach_tier attach_tier(const struct attach *a, unsigned number);
/** An O_PATH descriptor of the file; borrowed. */
int attach_fd(const struct attach *a, unsigned number);
/**
 * Replace the file's probes by those of the next tier that differs: the new ones first, so that no
 * call is lost, and a probe that fires a second time for one call does nothing. Exits of the old
 * ones stay while calls last that began under them. Returns the new tier; -ENOENT: there is none
 * below; other -errno: the old ones stay.
 */
int attach_next_tier(struct attach *a, unsigned number) __attribute__((warn_unused_result));

/* For one process each. Only where attach_check_process() found nothing against it. */

/** Replace the file's probes by such of n processes only; other processes have none then. */
int attach_split(struct attach *a, unsigned number, const unsigned pids[], size_t n)
	__attribute__((warn_unused_result));
bool attach_is_split(const struct attach *a, unsigned number);
/** One process more, for a file that was split. 0, also when it has them; -ESRCH: it is gone. */
int attach_add(struct attach *a, unsigned number, unsigned pid) __attribute__((warn_unused_result));
/** One less. What its threads were inside of is forgotten with attach_forget_calls(). */
void attach_remove(struct attach *a, unsigned number, unsigned pid);
/** Back to probes in every process. 0, also when they are; -errno: as before. */
int attach_share(struct attach *a, unsigned number) __attribute__((warn_unused_result));
/** A process has no probes any more: the calls that it was inside of will not be seen to end. */
void attach_forget_calls(struct attach *a, unsigned pid);
/**
 * Often: in files with probes on records, calls around records are probed, too, as long as there
 * are objects whose connection is not known, since nobody saw them use it. now_ns: monotonic.
 */
void attach_around(struct attach *a, uint64_t now_ns);
/** About once a second: takes off what is not needed any more. */
void attach_tick(struct attach *a);

/** Hits of probes so far, of all processors. */
void attach_tally(const struct attach *a, struct sslc_tally *out);

/** Any sites of any file, for one process (0: all). The caller's to attach_set_free(). */
int attach_sites(struct attach *a, int fd, const struct sites *sites, unsigned pid,
		 struct attach_set **out) __attribute__((warn_unused_result));
/** Takes the probes off. Accepts NULL. */
void attach_set_free(struct attach_set *s);

#endif
