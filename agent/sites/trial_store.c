/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trial_store: a digest in, the result of an earlier run of this program out; and the reverse. One
 * small file a library, written as a whole or not at all.
 */
#include "sites/trial_store.h"

#include "base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX    (64u << 20) /* larger ones are no libraries, nor is this program */
#define NAME_ROOM   4096
#define STORED_MAX  256 /* files; then all go: so many libraries no host has */
#define CPU_LINES   64  /* of /proc/cpuinfo: those of the first processor, and more */
#define MAGIC       "SSLCtri1"
#define DIGEST_NAME (2 * TRIAL_DIGEST + 1)

struct stored {
	char magic[8];
	uint8_t program[TRIAL_DIGEST], processor[TRIAL_DIGEST], library[TRIAL_DIGEST];
	struct trial_result result;
	uint8_t sum[TRIAL_DIGEST]; /* of all before */
};

static char state_dir[NAME_ROOM]; /* "": nowhere */

int trial_store_open(const char *dir)
{
	int n = snprintf(state_dir, sizeof(state_dir), "%s", dir ? dir : "");

	if (n < 0 || (size_t)n >= sizeof(state_dir) - 1) {
		state_dir[0] = '\0';
		return -ENAMETOOLONG;
	}
	return 0;
}

/* --- digests ------------------------------------------------------------------------------------
 */

static bool digest(const void *bytes, size_t n, uint8_t out[TRIAL_DIGEST])
{
	return EVP_Digest(bytes, n, out, NULL, EVP_sha256(), NULL) == 1;
}

bool trial_store_digest(int fd, uint8_t out[TRIAL_DIGEST])
{
	struct stat s;
	uint8_t *bytes;
	bool ok;

	if (fstat(fd, &s) || s.st_size <= 0 || s.st_size > FILE_MAX)
		return false;
	bytes = malloc((size_t)s.st_size);
	ok = bytes && pread(fd, bytes, (size_t)s.st_size, 0) == s.st_size &&
	     digest(bytes, (size_t)s.st_size, out);
	free(bytes);
	return ok;
}

static bool digest_program(uint8_t out[TRIAL_DIGEST])
{
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	bool ok = fd >= 0 && trial_store_digest(fd, out);

	if (fd >= 0)
		close(fd);
	return ok;
}

/* Which processor it is and what it can do: libcrypto goes by that. */
static bool digest_processor(uint8_t out[TRIAL_DIGEST])
{
	FILE *f = fopen("/proc/cpuinfo", "re");
	static char text[16384]; /* model and flags of the first one */
	char line[8192];
	size_t n = 0;

	for (int i = 0; f && i < CPU_LINES && fgets(line, sizeof(line), f) && line[0] != '\n'; i++)
		if (!strncmp(line, "model", 5) || !strncmp(line, "flags", 5))
			n += (size_t)snprintf(text + n, sizeof(text) - n, "%.4000s", line);
	if (f)
		fclose(f);
	return n && n < sizeof(text) && digest(text, n, out);
}

/* What a result of ours would say about everything but the result. */
static bool begin(struct stored *s, const uint8_t library[TRIAL_DIGEST])
{
	static struct stored once;
	static bool is_known;

	if (!is_known) {
		memcpy(once.magic, MAGIC, sizeof(once.magic));
		is_known = digest_program(once.program) && digest_processor(once.processor);
	}
	*s = once;
	memcpy(s->library, library, TRIAL_DIGEST);
	return is_known;
}

static bool sum(const struct stored *s, uint8_t out[TRIAL_DIGEST])
{
	return digest(s, offsetof(struct stored, sum), out);
}

/* --- files --------------------------------------------------------------------------------------
 */

/* Ours or root's, and nobody else may write it. */
static bool is_ours(int fd, mode_t type)
{
	struct stat s;

	return !fstat(fd, &s) && (s.st_mode & S_IFMT) == type &&
	       (s.st_uid == geteuid() || !s.st_uid) && !(s.st_mode & (S_IWGRP | S_IWOTH));
}

/* The directory of the results. make: that is not there yet. -1: there is none. */
static int open_dir(bool make)
{
	char path[NAME_ROOM + 8];
	int fd;

	if (!state_dir[0])
		return -1;
	snprintf(path, sizeof(path), "%s/sites", state_dir);
	if (make)
		(void)mkdir(path, 0700);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd >= 0 && is_ours(fd, S_IFDIR))
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

static void name_of(const uint8_t library[TRIAL_DIGEST], char out[DIGEST_NAME])
{
	for (int i = 0; i < TRIAL_DIGEST; i++)
		snprintf(out + 2 * i, 3, "%02x", library[i]);
}

static bool read_stored(int dir, const char *name, struct stored *s)
{
	int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	bool ok = fd >= 0 && is_ours(fd, S_IFREG);
	uint8_t more;

	ok = ok && read(fd, s, sizeof(*s)) == sizeof(*s) && !read(fd, &more, 1);
	if (fd >= 0)
		close(fd);
	return ok;
}

bool trial_store_get(const uint8_t library[TRIAL_DIGEST], struct trial_result *out)
{
	uint8_t right[TRIAL_DIGEST];
	char name[DIGEST_NAME];
	struct stored s, want;
	int dir = open_dir(false);
	bool ok;

	if (dir < 0)
		return false;
	name_of(library, name);
	ok = read_stored(dir, name, &s);
	close(dir);
	ok = ok && begin(&want, library) && !memcmp(&s, &want, offsetof(struct stored, result)) &&
	     sum(&s, right) && !memcmp(s.sum, right, TRIAL_DIGEST) && !s.result.why[0];
	if (ok)
		*out = s.result;
	return ok;
}

/* Before one more is added. */
static void make_room(int dir)
{
	DIR *d = fdopendir(dup(dir));
	struct dirent *e;
	unsigned n = 0;

	for (; d && n < STORED_MAX && (e = readdir(d));)
		n += e->d_name[0] != '.';
	if (n == STORED_MAX)
		for (rewinddir(d); (e = readdir(d));)
			if (strlen(e->d_name) == DIGEST_NAME - 1)
				(void)unlinkat(dir, e->d_name, 0);
	if (d)
		closedir(d);
}

static bool write_stored(int dir, const char *name, const struct stored *s)
{
	char new[32];
	bool ok;
	int fd;

	snprintf(new, sizeof(new), ".new-%d", (int)getpid());
	(void)unlinkat(dir, new, 0);
	fd = openat(dir, new, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	ok = fd >= 0 && write(fd, s, sizeof(*s)) == sizeof(*s);
	if (fd >= 0 && close(fd))
		ok = false;
	ok = ok && !renameat(dir, new, dir, name);
	if (!ok && fd >= 0)
		(void)unlinkat(dir, new, 0);
	return ok;
}

void trial_store_put(const uint8_t library[TRIAL_DIGEST], const struct trial_result *r)
{
	char name[DIGEST_NAME];
	struct stored s;
	int dir = r->why[0] ? -1 : open_dir(true);
	bool ok;

	if (dir < 0)
		return;
	name_of(library, name);
	make_room(dir);
	ok = begin(&s, library);
	s.result = *r;
	ok = ok && sum(&s, s.sum) && write_stored(dir, name, &s);
	close(dir);
	if (!ok)
		log_debug("trial: a result could not be kept in %s/sites", state_dir);
}
