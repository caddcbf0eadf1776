/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fakegnutls: a library that looks like GnuTLS with kernel TLS to whoever probes it. Here the
 * session is a descriptor. What it is given goes out as if encrypted: in records, but as it is.
 */
#include <stdint.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define RECORD 16384

static ssize_t put_record(int fd, const void *data, size_t len)
{
	uint8_t record[5 + RECORD] = {23, 3, 3, (uint8_t)(len >> 8), (uint8_t)len};

	memcpy(record + 5, data, len);
	return write(fd, record, 5 + len) == (ssize_t)(5 + len) ? (ssize_t)len : -1;
}

ssize_t gnutls_record_send2(intptr_t fd, const void *data, size_t len, size_t pad, unsigned flags);
ssize_t gnutls_record_send_file(intptr_t fd, int file, off_t *offset, size_t count);

ssize_t gnutls_record_send2(intptr_t fd, const void *data, size_t len, size_t pad, unsigned flags)
{
	(void)pad, (void)flags;
	return put_record((int)fd, data, len < RECORD ? len : RECORD);
}

/* The first half by itself, the rest past whoever watches. */
ssize_t gnutls_record_send_file(intptr_t fd, int file, off_t *offset, size_t count)
{
	ssize_t (*volatile visibly)(intptr_t, const void *, size_t, size_t, unsigned) =
		gnutls_record_send2;
	uint8_t buf[RECORD];
	size_t sent = 0;

	(void)offset;
	while (sent < count) {
		ssize_t n = read(file, buf, count - sent < 4096 ? count - sent : 4096);

		if (n <= 0)
			break;
		n = sent < count / 2 ? visibly(fd, buf, (size_t)n, 0, 0)
				     : put_record((int)fd, buf, (size_t)n);
		if (n < 0)
			return -1;
		sent += (size_t)n;
	}
	return (ssize_t)sent;
}
