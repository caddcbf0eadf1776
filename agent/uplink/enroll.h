/* SPDX-License-Identifier: Apache-2.0 */
/* enroll: one-time exchange of a token for this endpoint's certificate; blocking, for people. */
#ifndef SSLC_AGENT_ENROLL_H
#define SSLC_AGENT_ENROLL_H

#include <stdbool.h>
#include <stdint.h>

/**
 * `sslcollector enroll HOST TOKEN`: makes a key here (it never leaves), proves the token, checks
 * the collector against the CA fingerprint inside the token, stores ca.pem, agent.pem, agent.key
 * (0600) in state_dir (0700). onward: this host's collector is to pass on to that one, and the
 * files go into upstream/ there. Exit status 0 or 1 (logged, says what to do).
 */
int enroll_run(const char *host, uint16_t port, const char *token, const char *state_dir,
	       bool onward);

#endif
