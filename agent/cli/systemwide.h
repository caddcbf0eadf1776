/* SPDX-License-Identifier: Apache-2.0 */
/*
 * systemwide: the preloaded library in every program that starts from now on, by a line in
 * /etc/ld.so.preload, and no longer. A mistake there is paid by each program of the host: what is
 * doubtful is refused.
 */
#ifndef SSLC_AGENT_SYSTEMWIDE_H
#define SSLC_AGENT_SYSTEMWIDE_H

#include <sys/types.h>

struct systemwide_conf {
	const char *root;    /* before every path that is looked at; "" but in tests */
	const char *library; /* absolute path of libsslcollector-preload.so, without links */
	const char *trial;   /* a program that starts, says nothing on stderr and ends with 0 */
	uid_t owner;         /* whose the library and the file must be: 0 but in tests */
};

/**
 * The line is added behind the others, which stay; the file is replaced as a whole. Says on stdout
 * what it did and how to undo it, logs its own errors. Returns the exit status: 0, also when the
 * line is there already, or 1: nothing was changed.
 * Source: ld.so(8).
 */
int systemwide_enable(const struct systemwide_conf *c);
/** Every line that names nothing but this library, wherever it lies, is taken away. None is no
 * error. Exit status as above. */
int systemwide_disable(const struct systemwide_conf *c);

#endif
