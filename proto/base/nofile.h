/* SPDX-License-Identifier: Apache-2.0 */
/* nofile: how many descriptors this process may have (RLIMIT_NOFILE). */
#ifndef SSLC_BASE_NOFILE_H
#define SSLC_BASE_NOFILE_H

#include <stdint.h>

/**
 * As many as `most`, as far as that is allowed: the usual soft limit is for programs that use
 * select(2). Never fewer than before. Returns how many there may be now.
 */
uint64_t nofile_raise(uint64_t most);

#endif
