/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libwatch: which programs and libraries are in use on this host, now and later. Finds TLS
 * libraries in the standard directories and all files with code in every process, then follows new
 * executable mappings as the kernel reports them. Says each file once, and perhaps again when it
 * holds no TLS.
 */
#ifndef SSLC_AGENT_LIBWATCH_H
#define SSLC_AGENT_LIBWATCH_H

#include <stdbool.h>
#include <stdint.h>

struct libwatch;

/* fd: the file, open for reading, borrowed. path: for people. True: it holds TLS code, and is never
 * to be reported again. */
typedef bool (*libwatch_fn)(void *ctx, int fd, const char *path);

/** Whether the file's name is that of a TLS library. */
bool libwatch_is_library(const char *path);

/** Each TLS library in the standard directories; one with several names several times. */
void libwatch_installed(libwatch_fn found, void *ctx);

/**
 * epoll_fd: the descriptors to wait on are added to it; on any of them call libwatch_poll().
 * 0 or -errno: -EPERM, -EACCES without CAP_PERFMON (logged).
 * Source: perf_event_open(2), PERF_RECORD_MMAP2.
 */
int libwatch_open(struct libwatch **out, int epoll_fd, libwatch_fn found, void *ctx)
	__attribute__((warn_unused_result));
/* A process has mapped the file with this number to execute it; 0: it is new, a child of another.
 */
typedef void (*libwatch_process_fn)(void *ctx, unsigned pid, uint64_t ino);
/** From now on tell of processes, too, from libwatch_poll() and libwatch_scan(); ctx as given to
 * libwatch_open(). NULL: no longer. */
void libwatch_follow(struct libwatch *w, libwatch_process_fn changed);
/** Look through directories and processes now. */
void libwatch_scan(struct libwatch *w);
/** Take what the kernel reported since the last call. */
void libwatch_poll(struct libwatch *w);
void libwatch_close(struct libwatch *w);

#endif
