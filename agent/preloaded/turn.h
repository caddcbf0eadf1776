/* SPDX-License-Identifier: Apache-2.0 */
/* turn: when the calling thread gets a processor that others want, too. */
#ifndef SSLC_AGENT_TURN_H
#define SSLC_AGENT_TURN_H

/** Little at a time, and soon: since Linux 6.12 that can be asked for without taking more. */
void turn_soon(void);
/** Before all others, but for a fifth of one processor's time at most; where the system does not
 * grant that (CAP_SYS_NICE), as turn_soon(). */
void turn_first(void);

#endif
