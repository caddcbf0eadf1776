/* SPDX-License-Identifier: Apache-2.0 */
/* A directory that stands for the root of a system: `root` is its name, ending in XXXXXX at first.
 */
#ifndef SSLC_TEST_TREE_H
#define SSLC_TEST_TREE_H

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

static const char *under(const char *root, const char *path)
{
	static char out[256];

	snprintf(out, sizeof(out), "%s/%s", root, path);
	return out;
}

static void put(const char *root, const char *path, const char *text)
{
	FILE *f = fopen(under(root, path), "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
	assert_int_equal(chmod(under(root, path), 0644), 0);
}

/* NULL: there is none. Valid until the next one is read. */
static const char *get(const char *root, const char *path)
{
	static char text[4096];
	FILE *f = fopen(under(root, path), "r");
	size_t n = f ? fread(text, 1, sizeof(text) - 1, f) : 0;

	if (!f)
		return NULL;
	fclose(f);
	text[n] = '\0';
	return text;
}

static int plant(char *root, const char *const dirs[], size_t n)
{
	umask(022);
	if (!mkdtemp(root))
		return -1;
	for (size_t i = 0; i < n; i++)
		if (mkdir(under(root, dirs[i]), 0755))
			return -1;
	return 0;
}

static int uproot(const char *root)
{
	char command[64];

	snprintf(command, sizeof(command), "rm -rf %s", root);
	return system(command);
}

#endif
