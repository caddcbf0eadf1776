/* SPDX-License-Identifier: Apache-2.0 */
/* run: finds the library beside this program or where it was installed, and executes the command.
 */
#include "cli/run.h"

#include "base/log.h"
#include "cli/settings.h"
#include "shim.h"

#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define LIBRARY "libsslcollector-preload.so"

static bool is_served(const char *run_dir)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	bool is;
	int fd;

	if (snprintf(a.sun_path, sizeof(a.sun_path), "%s/" SSLC_SHIM_SOCKET, run_dir) >=
	    (int)sizeof(a.sun_path))
		return false;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	is = fd >= 0 && (!connect(fd, (struct sockaddr *)&a, sizeof(a)) || errno == EAGAIN);
	if (fd >= 0)
		close(fd);
	return is;
}

/* Without links and dots: it goes into files that others read. */
static bool resolve(char path[PATH_MAX])
{
	char *real = realpath(path, NULL);
	bool fits = real && strlen(real) < PATH_MAX && !access(real, R_OK);

	if (fits)
		memcpy(path, real, strlen(real) + 1);
	free(real);
	return fits;
}

/* Beside this program, as in a build directory; else where it is installed, seen from there. */
bool run_find_library(char out[PATH_MAX])
{
	static const char *const places[] = {"", "../" SSLC_LIBDIR "/"};
	char self[PATH_MAX];
	const char *dir;
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (n <= 0)
		return false;
	self[n] = '\0';
	dir = dirname(self);
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++)
		if (snprintf(out, PATH_MAX, "%s/%s" LIBRARY, dir, places[i]) < PATH_MAX &&
		    resolve(out))
			return true;
	return false;
}

static int put_environment(const char *library, const char *run_dir)
{
	const char *old = getenv("LD_PRELOAD");
	char *all;

	if (asprintf(&all, old && *old ? "%s:%s" : "%s", library, old) < 0)
		return -ENOMEM;
	if (setenv("LD_PRELOAD", all, 1) ||
	    (strcmp(run_dir, RUN_DIR_DEFAULT) && setenv("SSLCOLLECTOR_RUN_DIR", run_dir, 1))) {
		free(all);
		return -errno;
	}
	free(all);
	return 0;
}

int run_command(const char *run_dir, char **command)
{
	char library[PATH_MAX];
	int err;

	if (!run_find_library(library)) {
		log_error("run: " LIBRARY " is neither beside this program nor installed");
		return 1;
	}
	err = put_environment(library, run_dir);
	if (err) {
		log_error("run: %s", strerror(-err));
		return 1;
	}
	if (is_served(run_dir))
		log_info("run: %s: mirrored by %s, for the agent at %s", command[0], library,
			 run_dir);
	else
		log_warn("run: %s: no agent serves %s: it runs, and is mirrored once one does "
			 "(sslcollector -I any ...)",
			 command[0], run_dir);
	execvp(command[0], command);
	err = errno;
	log_error("run: %s: %s", command[0], strerror(err));
	return err == ENOENT ? 127 : 126;
}
