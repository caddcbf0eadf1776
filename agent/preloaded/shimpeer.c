/* SPDX-License-Identifier: Apache-2.0 */
/* shimpeer: see shimpeer.h. */
#include "preloaded/shimpeer.h"

#include "base/clock.h"
#include "process.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static dev_t memfd_device;

static void find_memfd_device(void)
{
	int fd = memfd_create("", MFD_CLOEXEC);
	struct stat st = {.st_dev = 0};

	if (fd < 0)
		return;
	(void)fstat(fd, &st);
	close(fd);
	memfd_device = st.st_dev;
}

/* A process's mapping of the beginning of a ring. */
struct mapping {
	uint64_t ino; /* of this file; 0: of any */
	uint64_t from, to;
	bool found;
};

/* On the kernel's own device: a file of that name elsewhere may be anybody's, who answers when it
 * is opened. */
static bool is_ring(void *ctx, const struct process_mapping *m)
{
	static const char name[] = "/memfd:" SSLC_SHIM_NAME;
	struct mapping *want = ctx;

	if (m->offset || m->dev != memfd_device || (want->ino && m->ino != want->ino) ||
	    strncmp(m->path, name, sizeof(name) - 1))
		return false;
	*want = (struct mapping){m->ino, m->from, m->to, true};
	return true;
}

static bool find_mapping(uint32_t pid, struct mapping *m)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, find_memfd_device);
	return process_mappings(pid, is_ring, m) && m->found;
}

bool shimpeer_has_ring(const struct shimpeer *p)
{
	struct mapping m = {.ino = p->ino};

	return find_mapping(p->facts.pid, &m);
}

bool shimpeer_find(uint32_t pid, char path[PATH_MAX])
{
	struct mapping m = {.ino = 0};

	if (!find_mapping(pid, &m))
		return false;
	snprintf(path, PATH_MAX, "/proc/%u/map_files/%" PRIx64 "-%" PRIx64, pid, m.from, m.to);
	return true;
}

int shimpeer_new(struct shimpeer **out, uint32_t pid, uint32_t uid, int pidfd, int memfd,
		 uint64_t data_size)
{
	struct shimpeer *p = calloc(1, sizeof(*p));
	struct stat st;
	int err;

	if (!p)
		return -ENOMEM;
	err = fstat(memfd, &st) ? -errno : shimring_map(&p->ring, memfd, data_size);
	if (err) {
		free(p);
		return err;
	}
	p->ino = st.st_ino;
	p->pidfd = pidfd;
	p->facts = (struct shimproc_conf){
		.pid = pid,
		.uid = uid,
		.kin = __atomic_load_n(&p->ring.shared->kin, __ATOMIC_RELAXED),
	};
	*out = p;
	return 0;
}

int shimpeer_ask(struct shimpeer *p, struct shimask *asker)
{
	p->seat = shimask_join(asker, &p->ring, p->pidfd, p->facts.pid);
	return p->seat ? 0 : -ENOMEM;
}

static bool fill_facts(struct shimproc_conf *c)
{
	long hz = sysconf(_SC_CLK_TCK);
	struct process_stat st;
	struct stat owner;
	char name[32];

	snprintf(name, sizeof(name), "/proc/%u", c->pid);
	if (!process_stat(c->pid, &st) || stat(name, &owner))
		return false;
	c->uid = owner.st_uid;
	c->start_ns = st.start_ticks * (NS_PER_S / (uint64_t)(hz > 0 ? hz : 100));
	memcpy(c->comm, st.comm, sizeof(c->comm));
	return true;
}

int shimpeer_meet(struct shimpeer *p, bool is_sure)
{
	if (p->pidfd < 0)
		return -ESRCH;
	if (fill_facts(&p->facts) && shimpeer_has_ring(p))
		return 0;
	return is_sure && process_is_over(p->pidfd) ? 0 : -ESRCH;
}

void shimpeer_forget(struct shimpeer *p)
{
	shimask_leave(p->seat);
	p->seat = NULL;
	if (p->pidfd >= 0)
		close(p->pidfd);
	p->pidfd = -1;
}

void shimpeer_free(struct shimpeer *p)
{
	if (!p)
		return;
	shimpeer_forget(p);
	shimring_unmap(&p->ring);
	free(p);
}
