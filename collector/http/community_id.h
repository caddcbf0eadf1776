/* SPDX-License-Identifier: Apache-2.0 */
/* community_id: a TCP connection's name that IDSes agree on (Community ID v1, seed 0). */
#ifndef SSLC_COLLECTOR_COMMUNITY_ID_H
#define SSLC_COLLECTOR_COMMUNITY_ID_H

#include "frame.h"

#define COMMUNITY_ID_LEN 31 /* "1:", 28 characters of base64, the end of a string */

/** The connection of `open` with these ports instead of its own. 0 or -EIO (the hash failed). */
int community_id(char out[COMMUNITY_ID_LEN], const struct frame_flow_open *open,
		 uint16_t client_port, uint16_t server_port) WARN_UNUSED;

#endif
