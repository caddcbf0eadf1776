/* SPDX-License-Identifier: Apache-2.0 */
/* process: a process id in, facts from /proc out (proc(5)). Never keeps anything. */
#include "process.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define CONTAINER_ID_LEN   64 /* hexadecimal digits, as docker, containerd and podman write it */
#define CONTAINER_ID_SHOWN 12
#define TCP_LISTEN_STATE   0x0a

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
