/* SPDX-License-Identifier: Apache-2.0 */
/* process: a process id in, facts from /proc out (proc(5)). Never keeps anything. */
#include "process.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define CONTAINER_ID_LEN   64 /* hexadecimal digits, as docker, containerd and podman write it */
#define CONTAINER_ID_SHOWN 12
#define TCP_LISTEN_STATE   0x0a
#define PF_KTHREAD         0x00200000u /* include/linux/sched.h */

void process_exe(unsigned pid, char *out, size_t len)
{
	char name[64];
	ssize_t n;

	snprintf(name, sizeof(name), "/proc/%u/exe", pid);
	n = readlink(name, out, len - 1);
	out[n > 0 ? n : 0] = '\0';
}

/* The first run of exactly 64 hexadecimal digits in a line, or NULL. */
static const char *find_id(const char *line)
{
	for (const char *p = line; *p; p++) {
		size_t n = strspn(p, "0123456789abcdef");

		if (n == CONTAINER_ID_LEN)
			return p;
		if (n)
			p += n - 1;
	}
	return NULL;
}

void process_container(unsigned pid, char *out, size_t len)
{
	char name[64], line[1024];
	FILE *f;

	out[0] = '\0';
	snprintf(name, sizeof(name), "/proc/%u/cgroup", pid);
	f = fopen(name, "re");
	if (!f)
		return;
	while (!out[0] && fgets(line, sizeof(line), f)) {
		const char *id = find_id(line);

		if (id)
			snprintf(out, len, "%.*s", CONTAINER_ID_SHOWN, id);
	}
	fclose(f);
}

static bool table_has_listener(unsigned pid, const char *table, unsigned port)
{
	char name[64], line[512];
	unsigned local_port, state;
	bool found = false;
	FILE *f;

	snprintf(name, sizeof(name), "/proc/%u/net/%s", pid, table);
	f = fopen(name, "re");
	if (!f)
		return false;
	while (!found && fgets(line, sizeof(line), f))
		found = sscanf(line, " %*u: %*[0-9A-F]:%x %*[0-9A-F]:%*x %x", &local_port,
			       &state) == 2 &&
			state == TCP_LISTEN_STATE && local_port == port;
	fclose(f);
	return found;
}

bool process_listens(unsigned pid, const struct sslc_ev_open *open)
{
	/* An IPv6 listener takes IPv4 clients too. */
	return table_has_listener(pid, "tcp6", open->local_port) ||
	       (open->family == 4 && table_has_listener(pid, "tcp", open->local_port));
}

/* proc_pid_stat(5): the name may hold anything, also a parenthesis; the last one ends it. */
bool process_stat(unsigned pid, struct process_stat *out)
{
	char name[64], text[1024];
	const char *begin, *end;
	unsigned flags;
	char state;
	ssize_t n;
	int fd;

	snprintf(name, sizeof(name), "/proc/%u/stat", pid);
	fd = open(name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = '\0';
	begin = strchr(text, '(');
	end = strrchr(text, ')');
	if (!begin || !end || end < begin ||
	    sscanf(end + 1,
		   " %c %*s %*s %*s %*s %*s %u %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s"
		   " %" SCNu64,
		   &state, &flags, &out->start_ticks) != 3 ||
	    state == 'Z' || state == 'X')
		return false;
	snprintf(out->comm, sizeof(out->comm), "%.*s", (int)(end - begin - 1), begin + 1);
	out->is_kernel = flags & PF_KTHREAD;
	return true;
}

bool process_is_over(int pidfd)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};

	return poll(&p, 1, 0) == 1;
}

uint64_t process_ticks(uint64_t start_ns)
{
	long hz = sysconf(_SC_CLK_TCK); /* 100, whatever the kernel was built with */

	return start_ns / (1000000000ull / (uint64_t)(hz > 0 ? hz : 100));
}

/* One line of /proc/PID/maps. */
static bool read_mapping(char *line, struct process_mapping *m)
{
	unsigned maj, min;
	char perms[5];
	int at = 0;

	line[strcspn(line, "\n")] = '\0';
	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64 " %n", &m->from,
		   &m->to, perms, &m->offset, &maj, &min, &m->ino, &at) < 7 ||
	    !at)
		return false;
	m->dev = makedev(maj, min);
	m->is_code = perms[2] == 'x';
	m->path = line + at;
	return true;
}

bool process_mappings(unsigned pid, bool (*each)(void *ctx, const struct process_mapping *m),
		      void *ctx)
{
	char name[64], *line = NULL;
	struct process_mapping m;
	bool is_enough = false;
	size_t cap = 0;
	FILE *f;

	snprintf(name, sizeof(name), "/proc/%u/maps", pid);
	f = fopen(name, "re");
	if (!f)
		return false;
	while (!is_enough && getline(&line, &cap, f) > 0)
		is_enough = read_mapping(line, &m) && each(ctx, &m);
	free(line);
	fclose(f);
	return true;
}

struct files {
	void (*each)(void *ctx, const struct process_file *f);
	void *ctx;
};

static bool on_mapping(void *ctx, const struct process_mapping *m)
{
	const struct files *files = ctx;
	const struct process_file f = {.dev = m->dev, .ino = m->ino, .path = m->path};

	if (m->is_code && m->ino)
		files->each(files->ctx, &f);
	return false;
}

bool process_files(unsigned pid, void (*each)(void *ctx, const struct process_file *f), void *ctx)
{
	struct files files = {each, ctx};

	return process_mappings(pid, on_mapping, &files);
}

int process_each(void (*each)(void *ctx, unsigned pid), void *ctx)
{
	DIR *d = opendir("/proc");
	struct dirent *e;

	if (!d)
		return -errno;
	while ((e = readdir(d))) {
		unsigned pid = (unsigned)strtoul(e->d_name, NULL, 10);

		if (pid)
			each(ctx, pid);
	}
	closedir(d);
	return 0;
}
