/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shim_copy: a library for LD_PRELOAD that only copies what SSL_write and SSL_read moved, behind a
 * header, into memory as a ring's, round and round: the least that tests/bench/shim could measure,
 * with the caches as a TLS call leaves them.
 */
#include <linux/types.h>
#include <dlfcn.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../../proto/event.h"
#include "../../../proto/shim.h"

#define RING (16u << 20)

typedef int write_fn(void *, const void *, int);
typedef int read_fn(void *, void *, int);

static write_fn *real_write;
static read_fn *real_read;
static uint8_t *ring;
static size_t at;

/* As the real one is: of a memfd, mapped twice in a row. */
__attribute__((constructor)) static void begin(void)
{
	int fd = memfd_create("copy", MFD_CLOEXEC);
	uint8_t *p = mmap(NULL, 2 * RING, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	real_write = (write_fn *)dlsym(RTLD_NEXT, "SSL_write");
	real_read = (read_fn *)dlsym(RTLD_NEXT, "SSL_read");
	if (fd < 0 || p == MAP_FAILED || ftruncate(fd, RING))
		return;
	for (int i = 0; i < 2; i++)
		if (mmap(p + i * RING, RING, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
			 0) == MAP_FAILED)
			return;
	ring = p;
}

static void copy(const void *buf, int n)
{
	static const struct sslc_shim_rec rec;

	if (!ring || n <= 0)
		return;
	memcpy(ring + at, &rec, sizeof(rec));
	memcpy(ring + at + sizeof(rec), buf, (size_t)n);
	at = (at + sizeof(rec) + (size_t)n + SSLC_SHIM_ALIGN - 1) & (RING - 1) &
	     ~(size_t)(SSLC_SHIM_ALIGN - 1);
}

int SSL_write(void *ssl, const void *buf, int n);
int SSL_write(void *ssl, const void *buf, int n)
{
	int ret = real_write(ssl, buf, n);

	copy(buf, ret);
	return ret;
}

int SSL_read(void *ssl, void *buf, int n);
int SSL_read(void *ssl, void *buf, int n)
{
	int ret = real_read(ssl, buf, n);

	copy(buf, ret);
	return ret;
}
