/* SPDX-License-Identifier: Apache-2.0 */
/* attach: the probes of library files. Which functions there are, which program goes where, by what
 * link. */
#ifndef SSLC_AGENT_ATTACH_H
#define SSLC_AGENT_ATTACH_H

#include <stdbool.h>

struct attach;
struct btf;

/* What was found in a file. */
struct attach_found {
	unsigned families;   /* SITES_OPENSSL, …, or'ed: those that are probed */
	const char *why_not; /* static text: TLS code in it that is not; NULL: none seen */
};
struct capture_bpf; /* the skeleton */

/** Whether this kernel's probes can be placed inside functions: see sites.h, pairs. */
bool attach_takes_pairs(const struct btf *kernel);
/**
 * Before the skeleton is loaded: choose, by what the kernel can do, how probes will be attached,
 * and leave the other programs out. skel is borrowed and must outlive the result. 0 or -ENOMEM.
 */
int attach_new(struct attach **out, struct capture_bpf *skel, const struct btf *kernel)
	__attribute__((warn_unused_result));
/**
 * Probe every known function of the file, in every present and future process: all or none.
 * fd: open file, borrowed. found: always filled. Returns the number of functions that move
 * plaintext, 0 when there are none; -ENOEXEC for a broken file or none of this machine, other
 * -errno from the kernel.
 */
int attach_file(struct attach *a, int fd, struct attach_found *found)
	__attribute__((warn_unused_result));
/**
 * After the skeleton is loaded, before any file: place a return probe on a child of our own and see
 * whether it lives in a sandbox. 0; -EOWNERDEAD when this kernel kills it (see harm.h); other
 * -errno.
 */
int attach_check_harm(struct attach *a) __attribute__((warn_unused_result));
/** Takes all probes off. Accepts NULL. */
void attach_free(struct attach *a);

#endif
