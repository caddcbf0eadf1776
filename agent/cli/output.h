/* SPDX-License-Identifier: Apache-2.0 */
/*
 * output: what was said of one output, TARGET[,KEY=VALUE]... → struct sink_conf. Commas and
 * backslashes in the target are written \, and \\. Opens nothing.
 */
#ifndef SSLC_AGENT_OUTPUT_H
#define SSLC_AGENT_OUTPUT_H

#include "../../collector/sink.h"

/* Which outputs a key is for. */
#define OF_IFACE   1u
#define OF_FILE    2u
#define OF_STREAM  4u /* PCAP-over-IP */
#define OF_TUNNEL  8u /* VXLAN, GENEVE */
#define OF_PACKETS (OF_IFACE | OF_FILE | OF_STREAM | OF_TUNNEL)

/**
 * Parse `word`, said for an output of the kind `of` (one bit). `name` is how messages name what it
 * was said for: "-o", or "FILE: output". 0 with *out, which then owns out->target; or -EINVAL after
 * one line on stderr. out->kind is not touched.
 */
int output_parse(struct sink_conf *out, const char *name, unsigned of, const char *word)
	__attribute__((warn_unused_result));
/** 443:80,8443:8080 into `shape`, in place of what is there. 0, or -EINVAL after one line. */
int output_port_map(struct sink_shape *shape, const char *name, const char *text)
	__attribute__((warn_unused_result));

#endif
