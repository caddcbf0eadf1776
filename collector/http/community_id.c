/* SPDX-License-Identifier: Apache-2.0 */
/* community_id: see community_id.h. Bytes in, text out; no state. */
#include "http/community_id.h"

#include <errno.h>
#include <openssl/evp.h>
#include <string.h>

#define IPPROTO_TCP_NUMBER 6u

/* The end with the smaller address, then port, comes first, whoever connected. */
static bool is_server_first(const struct frame_flow_open *open, size_t len, uint16_t client_port,
			    uint16_t server_port)
{
	int order = memcmp(open->client_addr, open->server_addr, len);

	return order > 0 || (order == 0 && client_port > server_port);
}

int community_id(char out[COMMUNITY_ID_LEN], const struct frame_flow_open *open,
		 uint16_t client_port, uint16_t server_port)
{
	size_t len = open->family == 6 ? 16 : 4;
	bool swap = is_server_first(open, len, client_port, server_port);
	unsigned char hash[EVP_MAX_MD_SIZE];
	unsigned n = 0;
	struct buf b;
	int ok;

	buf_init(&b, 64);
	wr_u16be(&b, 0); /* seed */
	wr_bytes(&b, swap ? open->server_addr : open->client_addr, len);
	wr_bytes(&b, swap ? open->client_addr : open->server_addr, len);
	wr_u8(&b, IPPROTO_TCP_NUMBER);
	wr_u8(&b, 0);
	wr_u16be(&b, swap ? server_port : client_port);
	wr_u16be(&b, swap ? client_port : server_port);
	ok = !b.bad && EVP_Digest(b.p, b.len, hash, &n, EVP_sha1(), NULL) == 1 && n == 20;
	buf_fini(&b);
	if (!ok)
		return -EIO;
	memcpy(out, "1:", 2);
	EVP_EncodeBlock((unsigned char *)out + 2, hash, 20);
	return 0;
}
