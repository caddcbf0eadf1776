/* SPDX-License-Identifier: Apache-2.0 */
/*
 * enable: one file below UNIT.d, written whole or not at all. Nothing is asked of the service
 * manager, and nothing is restarted: when that may happen, the administrator knows.
 */
#include "cli/enable.h"

#include "base/log.h"
#include "cli/settings.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define OWN_DIR   "/etc/systemd/system"
#define FILE_NAME "50-sslcollector-preload.conf"
#define UNIT_MAX  255 /* systemd.unit(5) */
#define TEXT_MAX  (1u << 20)

/* Where units are installed, in systemd's own order. */
static const char *const unit_dirs[] = {OWN_DIR, "/run/systemd/system",
					"/usr/local/lib/systemd/system", "/usr/lib/systemd/system",
					"/lib/systemd/system"};
#define N_DIRS (sizeof(unit_dirs) / sizeof(unit_dirs[0]))

static bool is_unit_character(char c)
{
	return isalnum((unsigned char)c) || (c && strchr(":-_.\\@", c));
}

/* The unit's whole name. False: logged. */
static bool unit_name(const char *given, char out[UNIT_MAX + 1])
{
	const char *dot = strrchr(given, '.');
	bool is_service = dot && !strcmp(dot, ".service");
	size_t n = strlen(given);

	for (size_t i = 0; i < n; i++)
		n = is_unit_character(given[i]) ? n : 0;
	if (n && given[0] != '.' && given[0] != '@' &&
	    snprintf(out, UNIT_MAX + 1, "%s%s", given, is_service ? "" : ".service") <= UNIT_MAX)
		return true;
	log_error("%s: is no name of a service", given);
	return false;
}

/* foo@bar.service comes from foo@.service. False: it is no instance. */
static bool template_name(const char *unit, char out[UNIT_MAX + 1])
{
	const char *at = strchr(unit, '@');

	if (!at || at[1] == '.')
		return false;
	snprintf(out, UNIT_MAX + 1, "%.*s@.service", (int)(at - unit), unit);
	return true;
}

/* What a unit's files say. */
struct said_by_unit {
	bool preload; /* they set LD_PRELOAD */
	bool filter;  /* they restrict system calls, beyond what every service needs */
};

static void look_at(const char *line, struct said_by_unit *said)
{
	line += strspn(line, " \t");
	if (*line == '#' || *line == ';')
		return;
	said->preload |= !!strstr(line, "LD_PRELOAD");
	said->filter |= !strncmp(line, "SystemCallFilter=", 17) &&
			strncmp(line + 17, "@system-service", 15) && line[17] != '\n';
}

/* Whether the file is there. */
static bool look_into(const char *path, struct said_by_unit *said)
{
	char line[4096];
	size_t total = 0;
	FILE *f = fopen(path, "re");

	if (!f)
		return false;
	while (fgets(line, sizeof(line), f) && (total += strlen(line)) < TEXT_MAX)
		look_at(line, said);
	fclose(f);
	return true;
}

static void look_into_drop_ins(const char *dir, struct said_by_unit *said)
{
	char path[PATH_MAX];
	DIR *d = opendir(dir);
	struct dirent *e;

	if (!d)
		return;
	while ((e = readdir(d)))
		if (e->d_name[0] != '.' && strcmp(e->d_name, FILE_NAME) &&
		    snprintf(path, sizeof(path), "%s/%s", dir, e->d_name) < (int)sizeof(path))
			(void)look_into(path, said);
	closedir(d);
}

/* One name's files in all directories. */
static bool look_up(const struct enable_conf *c, const char *name, struct said_by_unit *said)
{
	char path[PATH_MAX];
	bool is_there = false;

	for (size_t i = 0; i < N_DIRS; i++) {
		snprintf(path, sizeof(path), "%s%s/%s", c->root, unit_dirs[i], name);
		is_there |= look_into(path, said);
		snprintf(path, sizeof(path), "%s%s/%s.d", c->root, unit_dirs[i], name);
		look_into_drop_ins(path, said);
	}
	return is_there;
}

static bool may_enable(const struct enable_conf *c, const char *unit)
{
	char template[UNIT_MAX + 1];
	struct said_by_unit said = {false, false};
	bool is_there = look_up(c, unit, &said);

	if (template_name(unit, template))
		is_there |= look_up(c, template, &said);
	if (!is_there)
		log_error("enable: %s: no such unit is installed (systemctl list-unit-files)",
			  unit);
	else if (said.preload)
		log_error("enable: %s: its own files set LD_PRELOAD already; add %s there by hand",
			  unit, c->library);
	else if (said.filter)
		log_warn("enable: %s: has a SystemCallFilter; see that it allows memfd_create, "
			 "socket, connect, sendmsg and futex, as @system-service does",
			 unit);
	return is_there && !said.preload;
}

static void paths_of(const struct enable_conf *c, const char *unit, char dir[PATH_MAX],
		     char file[PATH_MAX])
{
	snprintf(dir, PATH_MAX, "%s" OWN_DIR "/%s.d", c->root, unit);
	snprintf(file, PATH_MAX, "%s" OWN_DIR "/%s.d/" FILE_NAME, c->root, unit);
}

static bool put_text(const struct enable_conf *c, const char *path)
{
	FILE *f = fopen(path, "wxe");
	bool done;

	if (!f)
		return false;
	fprintf(f,
		"# Made by `sslcollector enable`; `sslcollector disable` takes it away.\n"
		"[Service]\nEnvironment=\"LD_PRELOAD=%s\"\n",
		c->library);
	if (strcmp(c->run_dir, RUN_DIR_DEFAULT))
		fprintf(f, "Environment=\"SSLCOLLECTOR_RUN_DIR=%s\"\n", c->run_dir);
	done = !fflush(f) && !fsync(fileno(f)) && !fchmod(fileno(f), 0644);
	return !fclose(f) && done;
}

/* Whole or not at all: a service must not start with half a path. */
static bool enable_unit(const struct enable_conf *c, const char *unit)
{
	char dir[PATH_MAX], file[PATH_MAX], fresh[PATH_MAX + 8];
	bool done;

	paths_of(c, unit, dir, file);
	snprintf(fresh, sizeof(fresh), "%s.new", file);
	(void)unlink(fresh);
	done = (!mkdir(dir, 0755) || errno == EEXIST) && put_text(c, fresh) && !rename(fresh, file);
	if (!done) {
		log_error("enable: %s: %s", file, strerror(errno));
		(void)unlink(fresh);
		(void)rmdir(dir); /* stays when something else is in it */
		return false;
	}
	printf("%s written\n", file);
	return true;
}

/* 0: taken away; -ENOENT: there was none; -1: logged. */
static int disable_unit(const struct enable_conf *c, const char *unit)
{
	char dir[PATH_MAX], file[PATH_MAX];

	paths_of(c, unit, dir, file);
	if (unlink(file)) {
		if (errno == ENOENT)
			return -ENOENT;
		log_error("disable: %s: %s", file, strerror(errno));
		return -1;
	}
	(void)rmdir(dir); /* the same */
	printf("%s removed\n", file);
	return 0;
}

static void say_next(char *const units[], size_t n)
{
	printf("takes effect with: systemctl daemon-reload && systemctl restart");
	for (size_t i = 0; i < n; i++)
		printf(" %s", units[i]);
	printf("\n");
}

/* A path goes between quotation marks, where systemd knows specifiers and escapes. */
static bool is_plain_path(const char *path)
{
	return path[0] == '/' && !strpbrk(path, "\"'\\%$ \t\n:");
}

int enable_units(const struct enable_conf *c, char *const units[], size_t n)
{
	char unit[UNIT_MAX + 1];
	bool ok = is_plain_path(c->library) && is_plain_path(c->run_dir);

	if (!ok)
		log_error("enable: %s, %s: one of these paths cannot stand in a unit's file",
			  c->library, c->run_dir);
	for (size_t i = 0; ok && i < n; i++)
		ok = unit_name(units[i], unit) && may_enable(c, unit);
	for (size_t i = 0; ok && i < n; i++)
		ok = unit_name(units[i], unit) && enable_unit(c, unit);
	if (ok)
		say_next(units, n);
	return ok ? 0 : 1;
}

int disable_units(const struct enable_conf *c, char *const units[], size_t n)
{
	char unit[UNIT_MAX + 1];
	bool removed = false, ok = true;

	for (size_t i = 0; i < n; i++) {
		int err = unit_name(units[i], unit) ? disable_unit(c, unit) : -1;

		removed |= !err;
		ok &= !err || err == -ENOENT;
		if (err == -ENOENT)
			printf("%s was not enabled\n", unit);
	}
	if (removed)
		say_next(units, n);
	return ok ? 0 : 1;
}
