/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libwatch: directories, /proc and the kernel's mapping records in, open files that hold code out:
 * programs and libraries alike, since TLS may be linked into either. A file is known by device and
 * inode, so every process that maps it is covered by one report. Never attaches anything itself.
 */
#include "probes/libwatch.h"

#include "base/hmap.h"
#include "base/log.h"
#include "base/metrics.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <linux/perf_event.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define WATCH_PAGES 16    /* of one CPU's record buffer: some hundred mappings between two polls */
#define RECORD_MAX  8192  /* a record is a header and a path */
#define SEEN_MAX    16384 /* files remembered, some 100 bytes each; a busy host maps 2000 */

static COUNTER_DEFINE(watch_rescans, "capture_watch_overruns",
		      "times the kernel's mapping records overran and /proc was read again");

static COUNTER_DEFINE(watch_full, "capture_watch_ignored",
		      "program and library files not looked at: too many of them");

static const char *const lib_dirs[] = {
	"/lib",
	"/lib64",
	"/usr/lib",
	"/usr/lib64",
	"/usr/local/lib",
	"/usr/local/lib64",
	"/usr/lib/*-linux-gnu*",
};

/* How the names of TLS libraries begin: these are looked for before anybody uses them. */
static const char *const lib_names[] = {"libssl", "libgnutls"};
#define N(array) (sizeof(array) / sizeof((array)[0]))

/*
 * A file that was looked at. One without TLS is forgotten when room is needed, and looked at again
 * when its number comes with another stamp: numbers of deleted files are used again. One with
 * probes is neither: the probes keep its number from being used.
 */
struct seen {
	struct hmap_node node;
	uint64_t dev, ino, stamp;
	bool holds_tls;
};

struct watch_cpu {
	int fd;
	void *map; /* perf_event_mmap_page and the record buffer */
};

struct libwatch {
	libwatch_fn found;
	libwatch_process_fn changed; /* NULL: not wanted */
	void *ctx;                   /* borrowed */
	struct hmap seen;
	struct watch_cpu *cpus;
	int n_cpus;
};

static struct seen *find_seen(const struct libwatch *w, uint64_t dev, uint64_t ino)
{
	uint64_t key[2] = {dev, ino}, hash = hmap_hash(key, sizeof(key));

	for (struct hmap_node *n = hmap_first(&w->seen, hash); n; n = hmap_next_same(n)) {
		struct seen *s = hmap_entry(n, struct seen, node);

		if (s->dev == dev && s->ino == ino)
			return s;
	}
	return NULL;
}

static bool is_seen(const struct libwatch *w, uint64_t dev, uint64_t ino, uint64_t stamp)
{
	const struct seen *s = find_seen(w, dev, ino);

	return s && (s->holds_tls || s->stamp == stamp || !stamp);
}

/* Make room: what had no TLS can be looked at once more. */
static void forget_dull(struct libwatch *w)
{
	struct hmap_node *n, *next;

	for (n = hmap_any(&w->seen, NULL); n; n = next) {
		struct seen *s = hmap_entry(n, struct seen, node);

		next = hmap_any(&w->seen, n);
		if (s->holds_tls)
			continue;
		hmap_remove(&w->seen, n);
		free(s);
	}
}

static struct seen *remember(struct libwatch *w, uint64_t dev, uint64_t ino, uint64_t stamp)
{
	uint64_t key[2] = {dev, ino};
	struct seen *s = find_seen(w, dev, ino);

	if (s) {
		s->stamp = stamp;
		return s;
	}
	if (w->seen.count >= SEEN_MAX)
		forget_dull(w);
	if (w->seen.count >= SEEN_MAX) {
		counter_inc(&watch_full);
		return NULL;
	}
	s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	*s = (struct seen){.dev = dev, .ino = ino, .stamp = stamp};
	if (hmap_insert(&w->seen, &s->node, hmap_hash(key, sizeof(key)))) {
		free(s);
		return NULL;
	}
	return s;
}

bool libwatch_is_library(const char *path)
{
	const char *base = strrchr(path, '/');

	base = base ? base + 1 : path;
	for (size_t i = 0; i < N(lib_names); i++)
		if (strncmp(base, lib_names[i], strlen(lib_names[i])) == 0 && strstr(base, ".so"))
			return true;
	return false;
}

/* The file's own name rather than that of a link to it. */
static const char *real_name(int fd, const char *path, char *out, size_t len)
{
	char link[64];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, out, len - 1);
	if (n <= 0)
		return path;
	out[n] = '\0';
	return out;
}

/* True when the file turned out to hold TLS code. */
static bool report(struct libwatch *w, int fd, const char *path)
{
	char name[4200];
	struct stat st;
	struct seen *s;
	uint64_t stamp;

	/* The mapping's device number and stat's may differ (btrfs, overlayfs): both count as seen.
	 */
	if (fstat(fd, &st) || !S_ISREG(st.st_mode))
		return false;
	stamp = (uint64_t)st.st_ctim.tv_sec * 1000000000u + (uint64_t)st.st_ctim.tv_nsec + 1;
	s = find_seen(w, st.st_dev, st.st_ino);
	if (s && (s->holds_tls || s->stamp == stamp))
		return s->holds_tls;
	s = remember(w, st.st_dev, st.st_ino, stamp);
	if (s)
		s->holds_tls = w->found(w->ctx, fd, real_name(fd, path, name, sizeof(name)));
	return s && s->holds_tls;
}

/*
 * The file behind a mapping: through map_files, which works for deleted files and in other mount
 * namespaces, else by name under the process's root.
 */
static bool report_mapping(struct libwatch *w, unsigned pid, uint64_t start, uint64_t end,
			   const char *path, bool *holds_tls)
{
	char name[4200];
	int fd;

	snprintf(name, sizeof(name), "/proc/%u/map_files/%llx-%llx", pid, (unsigned long long)start,
		 (unsigned long long)end);
	fd = open(name, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		snprintf(name, sizeof(name), "/proc/%u/root%s", pid, path);
		fd = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	}
	if (fd < 0) {
		log_debug("capture: %s of process %u is gone: %s", path, pid, strerror(errno));
		return false;
	}
	*holds_tls = report(w, fd, path);
	close(fd);
	return true;
}

/* A file counts as seen once it could be opened: its first process may be gone by now, the next is
 * not. */
static void take_file(struct libwatch *w, uint64_t dev, uint64_t ino, uint64_t stamp, unsigned pid,
		      uint64_t start, uint64_t end, const char *path)
{
	bool holds_tls = false;
	struct seen *s;

	dev |= 1ull << 63; /* apart from stat's numbers */
	if (path[0] != '/' || !ino || is_seen(w, dev, ino, stamp) ||
	    !report_mapping(w, pid, start, end, path, &holds_tls))
		return;
	s = remember(w, dev, ino, stamp);
	if (s)
		s->holds_tls = holds_tls;
}

/* One line of /proc/PID/maps (proc(5)). */
static void take_maps_line(struct libwatch *w, unsigned pid, const char *line)
{
	unsigned long long start, end, ino;
	unsigned maj, min;
	char perms[5];
	int at = 0;

	if (sscanf(line, "%llx-%llx %4s %*x %x:%x %llu %n", &start, &end, perms, &maj, &min, &ino,
		   &at) < 6 ||
	    !at || perms[2] != 'x')
		return;
	take_file(w, makedev(maj, min), ino, 0, pid, start, end, line + at);
}

static void scan_process(struct libwatch *w, unsigned pid)
{
	char name[64], *line = NULL;
	size_t cap = 0;
	ssize_t len;
	FILE *f;

	snprintf(name, sizeof(name), "/proc/%u/maps", pid);
	f = fopen(name, "re");
	if (!f)
		return; /* gone, or a kernel thread */
	while ((len = getline(&line, &cap, f)) > 0) {
		if (line[len - 1] == '\n')
			line[len - 1] = '\0';
		take_maps_line(w, pid, line);
	}
	free(line);
	fclose(f);
}

static void scan_processes(struct libwatch *w)
{
	DIR *d = opendir("/proc");
	struct dirent *e;

	if (!d)
		return;
	while ((e = readdir(d))) {
		unsigned pid = (unsigned)strtoul(e->d_name, NULL, 10);

		if (pid)
			scan_process(w, pid);
		if (pid && w->changed)
			w->changed(w->ctx, pid, 0);
	}
	closedir(d);
}

void libwatch_installed(libwatch_fn found, void *ctx)
{
	char pattern[128];
	glob_t g = {0};

	for (size_t i = 0; i < N(lib_dirs) * N(lib_names); i++) {
		snprintf(pattern, sizeof(pattern), "%s/%s*.so*", lib_dirs[i / N(lib_names)],
			 lib_names[i % N(lib_names)]);
		(void)glob(pattern, i ? GLOB_APPEND : 0, NULL, &g);
	}
	for (size_t i = 0; i < g.gl_pathc; i++) {
		int fd = open(g.gl_pathv[i], O_RDONLY | O_CLOEXEC | O_NONBLOCK);

		if (fd < 0)
			continue;
		(void)found(ctx, fd, g.gl_pathv[i]);
		close(fd);
	}
	globfree(&g);
}

static bool report_installed(void *ctx, int fd, const char *path)
{
	return report(ctx, fd, path);
}

void libwatch_scan(struct libwatch *w)
{
	libwatch_installed(report_installed, w);
	scan_processes(w);
}

/* include/uapi/linux/perf_event.h, PERF_RECORD_MMAP2 */
struct mmap2_record {
	struct perf_event_header header;
	uint32_t pid, tid;
	uint64_t addr, len, pgoff;
	uint32_t maj, min;
	uint64_t ino, ino_generation;
	uint32_t prot, flags;
	char filename[];
};

/* The same, PERF_RECORD_FORK: comes along with records of mappings */
struct fork_record {
	struct perf_event_header header;
	uint32_t pid, ppid, tid, ptid;
};

static void take_fork(const struct libwatch *w, const struct fork_record *r)
{
	if (r->header.size >= sizeof(*r) && r->pid != r->ppid && w->changed)
		w->changed(w->ctx, r->pid, 0);
}

static void take_mapping(struct libwatch *w, const struct mmap2_record *r)
{
	if (r->header.size <= sizeof(*r))
		return;
	if (w->changed && r->ino)
		w->changed(w->ctx, r->pid, r->ino);
	take_file(w, makedev(r->maj, r->min), r->ino, r->ino_generation, r->pid, r->addr,
		  r->addr + r->len, r->filename);
}

static void copy_out(void *to, const uint8_t *ring, uint64_t size, uint64_t at, size_t n)
{
	size_t first = size - (at & (size - 1));

	if (first > n)
		first = n;
	memcpy(to, ring + (at & (size - 1)), first);
	memcpy((uint8_t *)to + first, ring, n - first);
}

/* Returns true when the kernel had to drop records. */
static bool drain_cpu(struct libwatch *w, struct watch_cpu *c)
{
	struct perf_event_mmap_page *meta = c->map;
	uint64_t head = __atomic_load_n(&meta->data_head, __ATOMIC_ACQUIRE), tail = meta->data_tail;
	union {
		struct perf_event_header header;
		struct mmap2_record mmap2;
		struct fork_record fork;
		uint8_t bytes[RECORD_MAX];
	} r;
	/* A full buffer says so only with the next record, and that may take long. */
	bool lost = head - tail + RECORD_MAX > meta->data_size;

	while (tail < head) {
		const uint8_t *ring = (uint8_t *)c->map + meta->data_offset;

		copy_out(&r.header, ring, meta->data_size, tail, sizeof(r.header));
		if (r.header.size < sizeof(r.header))
			break;
		if (r.header.size < sizeof(r)) {
			copy_out(&r, ring, meta->data_size, tail, r.header.size);
			r.bytes[r.header.size] = 0;
			if (r.header.type == PERF_RECORD_MMAP2)
				take_mapping(w, &r.mmap2);
			if (r.header.type == PERF_RECORD_FORK)
				take_fork(w, &r.fork);
		}
		lost |= r.header.type == PERF_RECORD_LOST;
		tail += r.header.size;
	}
	__atomic_store_n(&meta->data_tail, head, __ATOMIC_RELEASE);
	return lost;
}

void libwatch_poll(struct libwatch *w)
{
	bool lost = false;

	for (int i = 0; i < w->n_cpus; i++)
		if (w->cpus[i].map)
			lost |= drain_cpu(w, &w->cpus[i]);
	if (lost) {
		counter_inc(&watch_rescans);
		libwatch_scan(w);
	}
}

static size_t map_len(void)
{
	return (size_t)sysconf(_SC_PAGESIZE) * (1 + WATCH_PAGES);
}

/* A counting event that never counts, only to receive the mapping records of one CPU. */
static int open_cpu(struct watch_cpu *c, int cpu, int epoll_fd)
{
	struct perf_event_attr attr = {
		.size = sizeof(attr),
		.type = PERF_TYPE_SOFTWARE,
		.config = PERF_COUNT_SW_DUMMY,
		.mmap = 1,
		.mmap2 = 1,
		.watermark = 1,
		.wakeup_watermark = 1,
	};
	struct epoll_event ev = {.events = EPOLLIN, .data.u64 = 1};
	void *map;

	c->fd = (int)syscall(SYS_perf_event_open, &attr, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC);
	if (c->fd < 0)
		return -errno;
	map = mmap(NULL, map_len(), PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	c->map = map;
	return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &ev) ? -errno : 0;
}

int libwatch_open(struct libwatch **out, int epoll_fd, libwatch_fn found, void *ctx)
{
	struct libwatch *w = calloc(1, sizeof(*w));
	int err, n = (int)sysconf(_SC_NPROCESSORS_CONF);

	if (!w)
		return -ENOMEM;
	hmap_init(&w->seen);
	w->found = found;
	w->ctx = ctx;
	w->cpus = calloc((size_t)n, sizeof(*w->cpus));
	if (!w->cpus) {
		err = -ENOMEM;
		goto fail;
	}
	for (; w->n_cpus < n; w->n_cpus++)
		w->cpus[w->n_cpus].fd = -1;
	for (int i = 0; i < n; i++) {
		err = open_cpu(&w->cpus[i], i, epoll_fd);
		if (err == -ENODEV)
			continue; /* the CPU is offline */
		if (err) {
			log_error("capture: cannot watch new processes: %s", strerror(-err));
			goto fail;
		}
	}
	*out = w;
	return 0;
fail:
	libwatch_close(w);
	return err;
}

void libwatch_follow(struct libwatch *w, libwatch_process_fn changed)
{
	w->changed = changed;
}

void libwatch_close(struct libwatch *w)
{
	struct hmap_node *n;

	if (!w)
		return;
	for (int i = 0; i < w->n_cpus; i++) {
		if (w->cpus[i].map)
			munmap(w->cpus[i].map, map_len());
		if (w->cpus[i].fd >= 0)
			close(w->cpus[i].fd);
	}
	while ((n = hmap_any(&w->seen, NULL))) {
		hmap_remove(&w->seen, n);
		free(hmap_entry(n, struct seen, node));
	}
	hmap_fini(&w->seen);
	free(w->cpus);
	free(w);
}
