/* SPDX-License-Identifier: Apache-2.0 */
/* reason: facts about a process in, the reason out. Looks at nothing else. */
#include "coverage/reason.h"

#include "base/metrics.h"

#include <errno.h>

static struct row {
	const char *code, *words, *advice;
	struct counter counter; /* without a name: no agent can have such a process */
} rows[REASONS] = {
	[REASON_NONE] = {"captured",
			 "mirrored",
			 "",
			 {.name = "coverage_processes_captured",
			  .help = "processes whose TLS connections are all mirrored"}},
	[REASON_IDLE] = {"idle", "probed; no TLS connection seen yet", "", {.name = NULL}},
	[REASON_FILTERED] = {"filtered",
			     "left out by -I or the filter",
			     "say -I any, or widen the filter",
			     {.name = "coverage_processes_filtered",
			      .help = "processes whose connections -I or the filter left out"}},
	[REASON_STANDBY] =
		{"standby",
		 "the other end, on this host too, is mirrored",
		 "",
		 {.name = "coverage_processes_standby",
		  .help = "processes whose connections are mirrored at their other end"}},
	[REASON_ATTACHED_LATE] =
		{"attached-late",
		 "TLS had begun before the probes were there",
		 "mirrored from its next connection on",
		 {.name = "coverage_processes_attached_late",
		  .help = "processes with connections that are older than the probes"}},
	[REASON_OVERHEAD] = {"overhead",
			     "too much of its CPU time went into probes",
			     "raise --max-overhead",
			     {.name = "coverage_processes_overhead",
			      .help = "processes without probes, for those cost them too much"}},
	[REASON_HELD_UNBOUND] =
		{"held-unbound",
		 "plaintext that fits no TCP connection for certain",
		 "the program keeps TLS apart from its sockets (memory BIOs)",
		 {.name = "coverage_processes_held_unbound",
		  .help = "processes whose plaintext could not be assigned to connections"}},
	[REASON_UNSEEN_CALLS] =
		{"unseen-calls",
		 "its library is probed, and TLS goes past the probed calls",
		 "",
		 {.name = "coverage_processes_unseen_calls",
		  .help = "processes whose TLS goes past the probed calls of their library"}},
	[REASON_UNEXPLAINED] = {"unexplained",
				"its sockets carried more than its TLS calls explain",
				"",
				{.name = "coverage_processes_unexplained",
				 .help = "processes of whose TLS part goes past the probed calls"}},
	[REASON_JAVA] = {"java",
			 "Java does TLS in Java, where no probe reaches",
			 "end TLS in a proxy before it, or use a native TLS provider",
			 {.name = "coverage_processes_java",
			  .help = "Java processes with TLS connections"}},
	[REASON_GO_UNSUPPORTED] = {"go-unsupported",
				   "Go's crypto/tls inside the program is not probed",
				   "end TLS in a proxy before it",
				   {.name = "coverage_processes_go_unsupported",
				    .help = "Go processes that could not be probed"}},
	[REASON_STATIC_STRIPPED] =
		{"static-stripped",
		 "a TLS library inside the program, without symbols",
		 "use a build that is not stripped, or one with a shared library",
		 {.name = "coverage_processes_static_stripped",
		  .help = "processes with a TLS library inside and no symbols to find it by"}},
	[REASON_UNSUPPORTED_LIBRARY] =
		{"unsupported-library",
		 "a TLS library that is not probed in this version",
		 "",
		 {.name = "coverage_processes_unsupported_library",
		  .help = "processes that use a TLS library which is not supported"}},
	[REASON_RUSTLS_OR_UNKNOWN] = {"rustls-or-unknown",
				      "TLS of its own, in no library that is known",
				      "end TLS in a proxy before it",
				      {.name = "coverage_processes_rustls_or_unknown",
				       .help = "processes that speak TLS without a known library"}},
	[REASON_LIBRARY_NOT_PROBED] = {"library-not-probed",
				       "its TLS library could not be probed",
				       "see the list of library files",
				       {.name = "coverage_processes_library_not_probed",
					.help = "processes whose TLS library could not be probed"}},
	[REASON_SECCOMP_HAZARD] =
		{"seccomp-hazard",
		 "this kernel would kill it at a return probe",
		 "update the kernel",
		 {.name = "coverage_processes_seccomp_hazard",
		  .help = "processes that this kernel would kill at a return probe"}},
	[REASON_EXCLUDED] = {"excluded", "sslcollector does not mirror itself", "", {.name = NULL}},
	[REASON_NO_AGENT] = {"no-agent",
			     "no agent is running",
			     "start one: sslcollector -I any ...",
			     {.name = NULL}},
};

const char *reason_code(enum reason r)
{
	return rows[r].code;
}

const char *reason_words(enum reason r)
{
	return rows[r].words;
}

const char *reason_advice(enum reason r)
{
	return rows[r].advice;
}

void reason_gauge(enum reason r, uint64_t processes)
{
	if (rows[r].counter.name)
		counter_set(&rows[r].counter, processes);
}

#define PROBED_FAMILIES                                                                            \
	(FAMILY_BIT(FAMILY_OPENSSL) | FAMILY_BIT(FAMILY_GNUTLS) | FAMILY_BIT(FAMILY_NSS))

/* Why its TLS is out of reach; REASON_NONE when a probe is there. */
static enum reason reason_of_files(const struct reason_facts *f)
{
	unsigned all = f->mapped | f->inside;

	if (f->mapped & FAMILY_BIT(FAMILY_JAVA))
		return REASON_JAVA;
	if (f->error)
		return f->error == EOWNERDEAD ? REASON_SECCOMP_HAZARD : REASON_LIBRARY_NOT_PROBED;
	if (f->is_probed)
		return REASON_NONE;
	if (all & FAMILY_BIT(FAMILY_GO))
		return REASON_GO_UNSUPPORTED;
	if (f->mapped)
		return f->mapped & PROBED_FAMILIES ? REASON_LIBRARY_NOT_PROBED
						   : REASON_UNSUPPORTED_LIBRARY;
	if (!f->inside || f->inside & (FAMILY_BIT(FAMILY_RUSTLS) | FAMILY_BIT(FAMILY_OTHER)))
		return REASON_RUSTLS_OR_UNKNOWN;
	return f->has_symbols ? REASON_LIBRARY_NOT_PROBED : REASON_STATIC_STRIPPED;
}

/* Something of it was seen and not assigned: why? */
static enum reason reason_of_missing(const struct reason_facts *f)
{
	enum reason r = reason_of_files(f);

	if (r != REASON_NONE)
		return r;
	if (f->unbound_bytes)
		return REASON_HELD_UNBOUND;
	return f->unmatched_late == f->unmatched ? REASON_ATTACHED_LATE : REASON_UNSEEN_CALLS;
}

enum reason reason_of(const struct reason_facts *f)
{
	enum reason r;

	if (f->is_self)
		return REASON_EXCLUDED;
	if (!f->has_agent)
		return REASON_NO_AGENT;
	if (f->is_paused)
		return REASON_OVERHEAD;
	if (f->unmatched || f->unbound_bytes)
		return reason_of_missing(f);
	if (f->filtered && !f->mirrored)
		return REASON_FILTERED;
	if (f->standby && !f->mirrored)
		return REASON_STANDBY;
	if (f->mirrored)
		return f->unexplained ? REASON_UNEXPLAINED : REASON_NONE;
	r = reason_of_files(f);
	return r == REASON_NONE ? REASON_IDLE : r;
}
