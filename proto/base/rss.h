/* SPDX-License-Identifier: Apache-2.0 */
/* rss: how much memory this process has, as a gauge among the counters. */
#ifndef SSLC_BASE_RSS_H
#define SSLC_BASE_RSS_H

/** Set process_memory_bytes to what is resident now; leaves it alone where the kernel does not
 * tell. */
void rss_tell(void);

#endif
