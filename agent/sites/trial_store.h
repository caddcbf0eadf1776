/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trial_store: results of experiments on disk, so that they are not made again at each start. A
 * result belongs to a library's content, to this very program and to this kind of processor. What
 * is not as we write it, or not ours alone to write, is not there.
 */
#ifndef SSLC_AGENT_TRIAL_STORE_H
#define SSLC_AGENT_TRIAL_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "sites/trial.h"

#define TRIAL_DIGEST 32 /* SHA-256 */

/** The results lie in dir/sites. NULL: nowhere, as at first. -ENAMETOOLONG or 0. */
int trial_store_open(const char *dir) __attribute__((warn_unused_result));
/** The result for a library of that content, if there is one: to be checked as one made now. */
bool trial_store_get(const uint8_t library[TRIAL_DIGEST], struct trial_result *out);
/** Keep it, if possible. Makes the directory (0700), but not the one that it is in. */
void trial_store_put(const uint8_t library[TRIAL_DIGEST], const struct trial_result *r);
/** SHA-256 of a file's content; false when it is empty, too large or cannot be read. */
bool trial_store_digest(int fd, uint8_t out[TRIAL_DIGEST]);

#endif
