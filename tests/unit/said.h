/* SPDX-License-Identifier: Apache-2.0 */
/* What is written on standard error between said_begin() and said_lines(). */
#ifndef SSLC_TESTS_SAID_H
#define SSLC_TESTS_SAID_H

#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct said {
	FILE *f;
	int before; /* standard error itself */
};

static inline struct said said_begin(void)
{
	struct said s = {.f = tmpfile(), .before = dup(STDERR_FILENO)};

	if (s.f)
		dup2(fileno(s.f), STDERR_FILENO);
	return s;
}

/* How many lines have `what` in them. */
static inline unsigned said_lines(struct said *s, const char *what)
{
	char line[2048];
	unsigned n = 0;

	dup2(s->before, STDERR_FILENO);
	close(s->before);
	if (!s->f)
		return 0;
	rewind(s->f);
	while (fgets(line, sizeof(line), s->f))
		n += strstr(line, what) != NULL;
	fclose(s->f);
	return n;
}

#endif
