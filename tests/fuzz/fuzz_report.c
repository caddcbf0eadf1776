/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: any JSON as two agents' answers and as this process's own look for
 * agent/cli/report.c. What is printed is printable.
 */
#include "cli/report.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	json_t *answer = json_loadb((const char *)data, size, JSON_DECODE_ANY, NULL), *rows;
	json_t *answers[] = {answer, answer};
	char *text = NULL;
	size_t len = 0;
	FILE *f;

	if (!answer)
		return 0;
	rows = report_merge(answers, 2, answer);
	f = open_memstream(&text, &len);
	report_print(f, rows);
	fclose(f);
	for (size_t i = 0; i < len; i++)
		if (text[i] != '\n' && (text[i] < ' ' || text[i] > '~'))
			abort();
	free(text);
	json_decref(rows);
	json_decref(answer);
	return 0;
}
