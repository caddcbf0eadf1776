/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libwatch: which files with TLS code are in use on this host, now and later. Finds them in the
 * standard directories and in every process, then follows new executable mappings as the kernel
 * reports them. Says each file once.
 */
#ifndef SSLC_AGENT_LIBWATCH_H
#define SSLC_AGENT_LIBWATCH_H

struct libwatch;

/* fd: the file, open for reading, borrowed. path: for people. */
typedef void (*libwatch_fn)(void *ctx, int fd, const char *path);

/**
 * epoll_fd: the descriptors to wait on are added to it; on any of them call libwatch_poll().
 * 0 or -errno: -EPERM, -EACCES without CAP_PERFMON (logged).
 * Source: perf_event_open(2), PERF_RECORD_MMAP2.
 */
int libwatch_open(struct libwatch **out, int epoll_fd, libwatch_fn found, void *ctx)
	__attribute__((warn_unused_result));
/** Look through directories and processes now. */
void libwatch_scan(struct libwatch *w);
/** Take what the kernel reported since the last call. */
void libwatch_poll(struct libwatch *w);
void libwatch_close(struct libwatch *w);

#endif
