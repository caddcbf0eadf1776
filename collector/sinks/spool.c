/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spool: one directory's finished files. What is there is read anew each time: others may take
 * files away when they have used them.
 */
#include "sinks/spool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

#define STAMP_LEN  20   /* 20260102T030405.678Z */
#define NAME_TRIES 1000 /* names that are taken, before we give up: a second of them */

struct spool {
	char *dir;        /* where the files are */
	const char *file; /* the output file in it; lies within `path` */
	char *path;
	size_t stem_len;  /* of `file`, without its extension */
	uint64_t last_ms; /* in the newest name */
};

struct finished {
	char name[256];
	uint64_t bytes;
};

struct listing {
	struct finished *v;
	size_t n, cap;
};

/* Names */

static void stamp(char out[STAMP_LEN + 1], uint64_t ms)
{
	time_t s = (time_t)(ms / 1000);
	struct tm tm;
	char day[16];

	gmtime_r(&s, &tm);
	strftime(day, sizeof(day), "%Y%m%dT%H%M%S", &tm);
	snprintf(out, STAMP_LEN + 1, "%s.%03uZ", day, (unsigned)(ms % 1000));
}

/* Digits where digits belong, and the letters between them. */
static bool is_stamp(const char *p)
{
	static const char form[STAMP_LEN + 1] = "dddddddd"
						"Tdddddd"
						".ddd"
						"Z";

	for (size_t i = 0; i < STAMP_LEN; i++)
		if (form[i] == 'd' ? p[i] < '0' || p[i] > '9' : p[i] != form[i])
			return false;
	return true;
}

static bool is_finished_name(const struct spool *sp, const char *name)
{
	const char *ext = sp->file + sp->stem_len;

	return strlen(name) == sp->stem_len + 1 + STAMP_LEN + strlen(ext) &&
	       !strncmp(name, sp->file, sp->stem_len) && name[sp->stem_len] == '-' &&
	       is_stamp(name + sp->stem_len + 1) &&
	       !strcmp(name + sp->stem_len + 1 + STAMP_LEN, ext);
}

static uint64_t stamp_ms(const char *p)
{
	struct tm tm = {0};
	unsigned ms = 0;

	sscanf(p, "%4d%2d%2dT%2d%2d%2d.%3uZ", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &tm.tm_hour,
	       &tm.tm_min, &tm.tm_sec, &ms);
	tm.tm_year -= 1900;
	tm.tm_mon -= 1;
	return (uint64_t)timegm(&tm) * 1000 + ms;
}

/* What is there */

static int listing_add(struct listing *l, const char *name, uint64_t bytes)
{
	if (l->n == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 64;
		struct finished *v = reallocarray(l->v, cap, sizeof(*v));

		if (!v)
			return -ENOMEM;
		l->v = v;
		l->cap = cap;
	}
	snprintf(l->v[l->n].name, sizeof(l->v[l->n].name), "%s", name);
	l->v[l->n++].bytes = bytes;
	return 0;
}

/* Names of one length whose time stamps are digits: their order is that of time. */
static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct finished *)a)->name, ((const struct finished *)b)->name);
}

static bool is_ours(int dirfd, const char *name, struct stat *st)
{
	return !fstatat(dirfd, name, st, AT_SYMLINK_NOFOLLOW) && S_ISREG(st->st_mode) &&
	       st->st_uid == geteuid();
}

/* The finished files, the oldest first. The caller frees l->v, in any case. */
static int list_finished(const struct spool *sp, struct listing *l)
{
	DIR *d = opendir(sp->dir);
	const struct dirent *e;
	struct stat st;
	int err = 0;

	if (!d)
		return -errno;
	while (!err && (e = readdir(d)) != NULL)
		if (is_finished_name(sp, e->d_name) && is_ours(dirfd(d), e->d_name, &st))
			err = listing_add(l, e->d_name, (uint64_t)st.st_size);
	closedir(d);
	if (l->n > 1)
		qsort(l->v, l->n, sizeof(*l->v), by_name);
	return err;
}

/* Public */

void spool_free(struct spool *sp)
{
	if (!sp)
		return;
	free(sp->dir);
	free(sp->path);
	free(sp);
}

static int split(struct spool *sp, const char *name)
{
	const char *slash = strrchr(name, '/'), *dot;

	sp->path = strdup(name);
	sp->dir = !slash ? strdup(".") : strndup(name, slash == name ? 1 : (size_t)(slash - name));
	if (!sp->path || !sp->dir)
		return -ENOMEM;
	sp->file = slash ? sp->path + (slash - name) + 1 : sp->path;
	dot = strrchr(sp->file, '.');
	sp->stem_len = dot && dot != sp->file ? (size_t)(dot - sp->file) : strlen(sp->file);
	return strlen(sp->file) + 1 + STAMP_LEN > NAME_MAX ? -ENAMETOOLONG : 0;
}

int spool_new(struct spool **out, const char *name)
{
	struct spool *sp = calloc(1, sizeof(*sp));
	struct listing l = {0};
	int err;

	if (!sp)
		return -ENOMEM;
	err = split(sp, name);
	if (!err)
		err = list_finished(sp, &l);
	if (!err && l.n)
		sp->last_ms = stamp_ms(l.v[l.n - 1].name + sp->stem_len + 1);
	free(l.v);
	if (err)
		spool_free(sp);
	else
		*out = sp;
	return err;
}

int spool_finish(struct spool *sp, uint64_t began_ns)
{
	size_t size = strlen(sp->path) + STAMP_LEN + 2;
	uint64_t ms = began_ns / NS_PER_MS;
	char *name = malloc(size), when[STAMP_LEN + 1];
	int err = -EEXIST;

	if (!name)
		return -ENOMEM;
	if (ms <= sp->last_ms)
		ms = sp->last_ms + 1;
	for (unsigned i = 0; err == -EEXIST && i < NAME_TRIES; i++, ms++) {
		stamp(when, ms);
		snprintf(name, size, "%.*s%.*s-%s%s", (int)(sp->file - sp->path), sp->path,
			 (int)sp->stem_len, sp->file, when, sp->file + sp->stem_len);
		err = renameat2(AT_FDCWD, sp->path, AT_FDCWD, name, RENAME_NOREPLACE) ? -errno : 0;
		if (!err)
			sp->last_ms = ms;
	}
	free(name);
	return err;
}

static uint64_t sum_of(const struct listing *l)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < l->n; i++)
		sum += l->v[i].bytes;
	return sum;
}

int spool_trim(struct spool *sp, unsigned files, uint64_t bytes, uint64_t *left)
{
	struct listing l = {0};
	int err = list_finished(sp, &l), dir = -1, removed = 0;
	uint64_t sum = sum_of(&l);

	if (!err) {
		dir = open(sp->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		err = dir < 0 ? -errno : 0;
	}
	for (size_t i = 0; !err && i < l.n; i++) {
		if ((!files || l.n - i <= files) && sum <= bytes)
			break;
		if (!unlinkat(dir, l.v[i].name, 0))
			removed++;
		sum -= l.v[i].bytes; /* also when somebody was faster, or it cannot be done */
	}
	if (dir >= 0)
		close(dir);
	free(l.v);
	*left = sum;
	return err ? err : removed;
}
