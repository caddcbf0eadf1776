/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ledger: which forged connections are open at live outputs, in a file that outlives this process.
 * A sensor that has not seen the end of a connection takes a new one on the same addresses and
 * ports for more of it; so whoever is started after a kill ends them first. What is kept of each is
 * its addresses and the numbers that come next: no payload.
 *
 * The file is mapped: a packet costs one store, no system call. What was stored before a SIGKILL is
 * in the file, and a connection is in it before its first packet leaves, until after its last one
 * has left. One ledger for each table of sessions, used by its thread alone.
 */
#ifndef SSLC_COLLECTOR_LEDGER_H
#define SSLC_COLLECTOR_LEDGER_H

#include "forge.h"
#include "sink.h"

struct ledger;

/* Connections in one file, 64 bytes each: 64 MiB at most. It begins with LEDGER_FIRST and doubles;
 * what does not fit is counted and not written down. */
#define LEDGER_MAX   (1u << 20)
#define LEDGER_FIRST 4096u

/**
 * A new file in `dir`, mode 0600. 0, or -errno: the caller says so, and goes on without. Its disk
 * space is taken before it is used: a full disk is an error here, or of growing, and no signal.
 */
int ledger_open(struct ledger **out, const char *dir) WARN_UNUSED;
/** The packets of outlet `index` go to these sinks, in frames with this head. */
void ledger_outlet(struct ledger *l, unsigned index, const struct forge_link *link,
		   struct sink *const *sinks, unsigned n);
/** forge_out.keep() of a flow of that outlet; `open`: the real connection. */
void ledger_keep(struct ledger *l, unsigned index, struct forge_flow *f,
		 const struct frame_flow_open *open);
/** All packets so far have left: what has ended is forgotten. */
void ledger_flushed(struct ledger *l); /* accepts NULL */
/** Nothing is open any more: the file goes. Accepts NULL. */
void ledger_close(struct ledger *l);

/**
 * Ends what processes that no longer run have left open, at those of `sinks` that go where it was
 * open, and removes their files. A file that is none of ours is removed, too; both are logged.
 * Before the first packet of this run.
 */
void ledgers_settle(const char *dir, const struct sink_set *sinks);

#endif
