/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preload: at load. Whatever fails here leaves the program as it would be without
 * us: every wrapper then only calls the real function.
 */
#include "preload.h"

#include <stdlib.h>
#include <string.h>

__attribute__((constructor)) static void begin(void)
{
	const char *off = getenv("SSLCOLLECTOR_PRELOAD");

	lib_init();
	sock_init();
	if ((off && !strcmp(off, "off")) || calls_init())
		return;
	gnutls_init();
	ring_set_up();
	proc_init();
}
