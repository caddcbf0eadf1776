/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libwatch: directories, /proc and the kernel's mapping records in, open files of TLS libraries
 * out. A file is known by device and inode, so every process that maps it is covered by one report.
 * Never attaches anything itself.
 */
#include "libwatch.h"

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

#define WATCH_PAGES 16   /* of one CPU's record buffer: some hundred mappings between two polls */
#define RECORD_MAX  8192 /* a record is a header and a path */
#define SEEN_MAX    4096 /* files remembered; a host that shows more has lost its bearings */

static COUNTER_DEFINE(watch_rescans, "capture_watch_overruns",
		      "times the kernel's mapping records overran and /proc was read again");

static COUNTER_DEFINE(watch_full, "capture_watch_ignored",
		      "TLS library files not looked at: too many of them");

static const char *const lib_dirs[] = {
	"/lib",
	"/lib64",
	"/usr/lib",
	"/usr/lib64",
	"/usr/local/lib",
	"/usr/local/lib64",
	"/usr/lib/*-linux-gnu*",
};

/* How the names of libraries begin that may hold TLS functions; their symbols decide. */
static const char *const lib_names[] = {"libssl", "libgnutls"};
#define N(array) (sizeof(array) / sizeof((array)[0]))

struct seen {
	struct hmap_node node;
	uint64_t dev, ino;
};

struct watch_cpu {
	int fd;
	void *map; /* perf_event_mmap_page and the record buffer */
};

struct libwatch {
	libwatch_fn found;
	void *ctx; /* borrowed */
	struct hmap seen;
	struct watch_cpu *cpus;
	int n_cpus;
};

static bool is_seen(const struct libwatch *w, uint64_t dev, uint64_t ino)
{
	uint64_t key[2] = {dev, ino}, hash = hmap_hash(key, sizeof(key));
	const struct seen *s;

	for (struct hmap_node *n = hmap_first(&w->seen, hash); n; n = hmap_next_same(n)) {
		s = hmap_entry(n, struct seen, node);
		if (s->dev == dev && s->ino == ino)
			return true;
	}
	return false;
}

/* True the first time a file is named. */
static bool is_new(struct libwatch *w, uint64_t dev, uint64_t ino)
{
	uint64_t key[2] = {dev, ino};
	struct seen *s;

	if (is_seen(w, dev, ino))
		return false;
	if (w->seen.count >= SEEN_MAX) {
		counter_inc(&watch_full);
		return false;
	}
	s = calloc(1, sizeof(*s));
	if (!s)
		return false;
	s->dev = dev;
	s->ino = ino;
	if (hmap_insert(&w->seen, &s->node, hmap_hash(key, sizeof(key)))) {
		free(s);
		return false;
	}
	return true;
}

static bool is_tls_library(const char *path)
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

static void report(struct libwatch *w, int fd, const char *path)
{
	char name[4200];
	struct stat st;

	/* The mapping's device number and stat's may differ (btrfs, overlayfs): both count as seen.
	 */
	if (!fstat(fd, &st) && S_ISREG(st.st_mode) && is_new(w, st.st_dev, st.st_ino))
		w->found(w->ctx, fd, real_name(fd, path, name, sizeof(name)));
}

/*
 * The file behind a mapping: through map_files, which works for deleted files and in other mount
 * namespaces, else by name under the process's root.
 */
static bool report_mapping(struct libwatch *w, unsigned pid, uint64_t start, uint64_t end,
			   const char *path)
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
	report(w, fd, path);
	close(fd);
	return true;
}

/* A file counts as seen once it could be opened: its first process may be gone by now, the next is
 * not. */
static void take_file(struct libwatch *w, uint64_t dev, uint64_t ino, unsigned pid, uint64_t start,
		      uint64_t end, const char *path)
{
	dev |= 1ull << 63; /* apart from stat's numbers */
	if (!is_seen(w, dev, ino) && report_mapping(w, pid, start, end, path))
		(void)is_new(w, dev, ino);
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
	    !at || perms[2] != 'x' || !is_tls_library(line + at))
		return;
	take_file(w, makedev(maj, min), ino, pid, start, end, line + at);
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
	}
	closedir(d);
}

static void scan_directories(struct libwatch *w)
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
		report(w, fd, g.gl_pathv[i]);
		close(fd);
	}
	globfree(&g);
}

void libwatch_scan(struct libwatch *w)
{
	scan_directories(w);
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

static void take_mapping(struct libwatch *w, const struct mmap2_record *r)
{
	if (r->header.size <= sizeof(*r) || !is_tls_library(r->filename))
		return;
	take_file(w, makedev(r->maj, r->min), r->ino, r->pid, r->addr, r->addr + r->len,
		  r->filename);
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
