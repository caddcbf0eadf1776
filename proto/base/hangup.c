/* SPDX-License-Identifier: Apache-2.0 */
#include "hangup.h"

#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <unistd.h>

enum hangup hangup_means(void)
{
	struct sigaction was;
	int tty;

	if (!sigaction(SIGHUP, NULL, &was) && was.sa_handler == SIG_IGN)
		return HANGUP_IGNORED;
	tty = open("/dev/tty", O_RDONLY | O_NOCTTY | O_CLOEXEC);
	if (tty < 0)
		return HANGUP_REOPENS;
	close(tty);
	return HANGUP_ENDS;
}
