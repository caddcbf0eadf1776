/* SPDX-License-Identifier: Apache-2.0 */
/*
 * extcap: this program as an interface of Wireshark, called by it through a link in its extcap
 * folder. Answers its questions (extcap(4)), and captures: what this host says over TLS, or what an
 * sslcollector elsewhere serves with --pcap-over-ip.
 */
#ifndef SSLC_AGENT_EXTCAP_H
#define SSLC_AGENT_EXTCAP_H

#include <stdbool.h>

/** Whether argv is one of Wireshark's calls. */
bool extcap_is_asked(int argc, char **argv);
/**
 * Answer it: what Wireshark wants to know goes to standard output. Returns the exit status; or -1
 * when this host is to be captured: then *own is the argv for that, which ends with NULL and is
 * never freed, and *n its length.
 */
int extcap_answer(int argc, char **argv, char ***own, int *n);

#endif
