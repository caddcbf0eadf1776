/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hangup: what SIGHUP means to this process. With a terminal it says that the terminal is gone, and
 * whoever would read our messages with it; a service has none, and there it says: open your files
 * again.
 */
#ifndef SSLC_BASE_HANGUP_H
#define SSLC_BASE_HANGUP_H

enum hangup {
	HANGUP_IGNORED, /* whoever started us said so, as nohup(1) does */
	HANGUP_ENDS,
	HANGUP_REOPENS,
};

/** Asks once, at the start: afterwards a terminal may be gone already. */
enum hangup hangup_means(void);

#endif
