/* SPDX-License-Identifier: Apache-2.0 */
/* turn: when the calling thread gets a processor that others want, too. */
#ifndef SSLC_AGENT_TURN_H
#define SSLC_AGENT_TURN_H

/** Little at a time, and soon: since Linux 6.12 that can be asked for without taking more. */
void turn_soon(void);
/**
 * Before all others, but for so many percent of one processor's time at most, and never without it
 * for longer than a millisecond. For less where the system has no more to give; as turn_soon()
 * where it grants none (CAP_SYS_NICE).
 */
void turn_first(unsigned percent);

#endif
