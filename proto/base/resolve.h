/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resolve: a name in, addresses to connect to out, without ever blocking the caller. getaddrinfo(3)
 * can neither be polled nor interrupted: each lookup has a thread of its own, which nobody waits
 * for. Never connects, never tries again.
 */
#ifndef SSLC_BASE_RESOLVE_H
#define SSLC_BASE_RESOLVE_H

#include <netdb.h>
#include <stdbool.h>
#include <stdint.h>

/* One lookup. Shared with its thread: whoever leaves last frees it. */
struct resolve;

/**
 * Prepare a lookup of `host`, a name or an address (copied), for TCP to `port`; no thread yet, so
 * that the caller can listen to resolve_fd() first. NULL when out of memory or descriptors.
 */
struct resolve *resolve_new(const char *host, uint16_t port);
/**
 * Begin, once. The thread inherits the caller's signal mask: a caller that wants no signals there
 * blocks them. False: no thread to be had; the lookup is still the caller's to resolve_unref().
 */
bool resolve_start(struct resolve *r) __attribute__((warn_unused_result));
/** Readable from when the lookup is done; borrowed, dies with the caller's reference. */
int resolve_fd(const struct resolve *r);
/** Whether resolve_error() and resolve_list() may be asked. */
bool resolve_is_done(const struct resolve *r);
/** 0, or the EAI_* that gai_strerror(3) explains. */
int resolve_error(const struct resolve *r);
/** The addresses in the order in which to try them; borrowed, die with the caller's reference. */
const struct addrinfo *resolve_list(const struct resolve *r);
/** Another reference, for another resolve_unref(). Returns `r`. */
struct resolve *resolve_ref(struct resolve *r);
/** Leave, in any state and without waiting: a lookup under way ends unheard. Accepts NULL. */
void resolve_unref(struct resolve *r);

#endif
