/* SPDX-License-Identifier: Apache-2.0 */
/* audit: three numbers in, a verdict out. Bounds only: records are not counted. */
#include "match/audit.h"

/*
 * Each call moved at least one record, and a read never more than one; writes may be cut into
 * records as small as AUDIT_SMALLEST.
 */
static uint64_t most_records(const struct audit *a)
{
	return a->calls + a->plain / AUDIT_SMALLEST;
}

enum audit_verdict audit_judge(const struct audit *a, unsigned layers)
{
	uint64_t most = a->plain + AUDIT_ALLOWANCE + most_records(a) * AUDIT_RECORD * layers;

	if (a->wire > most)
		return AUDIT_MISSED;
	return a->plain > a->wire + AUDIT_ALLOWANCE ? AUDIT_DOUBLE : AUDIT_FITS;
}
