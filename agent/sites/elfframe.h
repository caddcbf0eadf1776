/* SPDX-License-Identifier: Apache-2.0 */
/* elfframe: how far a function reaches, by the file's unwind table. Input is foreign: any file. */
#ifndef SSLC_AGENT_ELFFRAME_H
#define SSLC_AGENT_ELFFRAME_H

#include <stdint.h>

struct elfview;

/**
 * Size in bytes of the function that begins at a file offset. Compilers write the table for all
 * functions, those without a symbol too; a part that was put elsewhere (".cold") is an entry of its
 * own. 0: the table has no function that begins there, or is of a kind that is not known.
 * Source: Linux Standard Base 5.0, core, chapter 10 (.eh_frame, .eh_frame_hdr).
 */
uint64_t elfframe_size(const struct elfview *e, uint64_t offset);
/**
 * The same for the function that a file offset lies in. start: file offset of its first byte;
 * filled when the size is not 0.
 */
uint64_t elfframe_around(const struct elfview *e, uint64_t offset, uint64_t *start);

#endif
