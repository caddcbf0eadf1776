/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preload: at load. Whatever fails here leaves the program as it would be without
 * us: every wrapper then only calls the real function.
 */
#include "preload.h"

#include <stdlib.h>
#include <string.h>

/* By its environment; else each program of the host has us, most of which never use TLS, and some
 * start a thousand times a minute. */
static bool is_asked_for(void)
{
	const char *names = secure_getenv("LD_PRELOAD");

	return names && strstr(names, "libsslcollector-preload");
}

__attribute__((constructor)) static void begin(void)
{
	const char *off = secure_getenv("SSLCOLLECTOR_PRELOAD");

	lib_init();
	sock_init();
	if ((off && !strcmp(off, "off")) || calls_init())
		return;
	gnutls_init();
	match_init();
	clear_init();
	if (is_asked_for() || lib_is_used())
		ring_set_up();
	else
		ring_prepare();
	proc_init();
}
