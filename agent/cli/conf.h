/* SPDX-License-Identifier: Apache-2.0 */
/* conf: the YAML file → struct settings, word by word. Its keys are the names in settings_table. */
#ifndef SSLC_AGENT_CONF_H
#define SSLC_AGENT_CONF_H

#include "cli/settings.h"

/**
 * 0, and *out is the caller's, for conf_free(); it stays NULL when the file says nothing. -EINVAL
 * after one line on stderr that names the file, when it cannot be read or is not right. Values are
 * not judged yet.
 */
int conf_load(struct settings **out, const char *name) __attribute__((warn_unused_result));

/** Frees what conf_load() gave, unchanged since then; accepts NULL. */
void conf_free(struct settings *file);

#endif
