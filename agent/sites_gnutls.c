/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sites_gnutls: an open file in, the probe sites of GnuTLS's functions in it out.
 * gnutls_record_send() ends in gnutls_record_send2(); uncorking and sending files call it, and so
 * does the handshake, for what gnutls_record_send_early_data() was given.
 */
#include "sites.h"

int sites_gnutls(int fd, struct sites *out)
{
	static const struct site_symbol table[] = {
		{"gnutls_record_recv", SSLC_CALL_RECV},
		{"gnutls_record_recv_seq", SSLC_CALL_RECV},
		{"gnutls_record_recv_packet", SSLC_CALL_RECV_PACKET},
		{"gnutls_record_recv_early_data", SSLC_CALL_RECV},
		{"gnutls_record_send2", SSLC_CALL_SEND},
		{"gnutls_record_send_range", SSLC_CALL_SEND},
		{"gnutls_record_send_file", SSLC_CALL_SEND_FILE},
		{"gnutls_record_uncork", SSLC_CALL_UNCORK},
		{"gnutls_session_get_flags", SSLC_CALL_SESSION_FLAGS},
		{"gnutls_handshake", SSLC_CALL_EARLY_WRITE},
		{"gnutls_rehandshake", SSLC_CALL_BIND},
		{"gnutls_reauth", SSLC_CALL_BIND},
		{"gnutls_session_key_update", SSLC_CALL_BIND},
		{"gnutls_bye", SSLC_CALL_BIND},
		{"gnutls_deinit", SSLC_CALL_FORGET},
	};

	return sites_add_symbols(out, fd, table, sizeof(table) / sizeof(table[0]));
}
