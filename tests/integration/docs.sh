#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The manual tells the truth: every counter in the source and every long option of --help is in
# sslcollector.8, and the manual names none that do not exist; the pages format without complaint.
set -euo pipefail

root=$(cd -- "$(dirname -- "$0")/../.." && pwd)
bin=${SSLCOLLECTOR:-$root/build/sslcollector}
page=$root/packaging/man/sslcollector.8
tmp=$(mktemp -d)
trap 'rm -rf -- "$tmp"' EXIT
bad=0

# compare WHAT A B: both sorted lists must be equal.
compare() {
	local extra
	extra=$(comm -23 "$2" "$3")
	[ -z "$extra" ] || { printf '%s missing in %s:\n%s\n' "$1" "${page##*/}" "$extra"; bad=1; }
	extra=$(comm -13 "$2" "$3")
	[ -z "$extra" ] || { printf '%s in %s that do not exist:\n%s\n' "$1" "${page##*/}" "$extra"; bad=1; }
	printf '%s: %s compared\n' "$1" "$(wc -l <"$2")"
}

# What a person reads: the page without its macros; \- is a hyphen.
sed 's/\\-/-/g; s/\\f[BIRP]//g' "$page" >"$tmp/page"

# Counters: COUNTER_DEFINE(variable, "name", ...), at times over several lines, and tables of
# struct counter: {.name = "name", .help = ...}.
find "$root/agent" "$root/collector" "$root/proto" -name '*.[ch]' ! -name metrics.h -print0 |
	xargs -0 cat | tr '\n' ' ' |
	grep -oE 'COUNTER_DEFINE\([[:space:]]*[a-z0-9_]+,[[:space:]]*"[a-z0-9_]+"|\.name = "[a-z0-9_]+",[[:space:]]*\.help' |
	sed 's/^[^"]*"\([^"]*\)".*/\1/' | sort -u >"$tmp/counters"
[ -s "$tmp/counters" ] || { echo 'no counter found in the source: this test looks in the wrong place'; bad=1; }
# In the page: the .B tags of section COUNTERS.
sed -n '/^\.SH COUNTERS/,/^\.SH /p' "$tmp/page" | sed -n 's/^\.B \([a-z0-9_]*\)$/\1/p' | sort -u >"$tmp/page-counters"
compare counters "$tmp/counters" "$tmp/page-counters"

if [ -x "$bin" ]; then
	timeout 20 "$bin" --help >"$tmp/help"
	grep -oE -- '(^|[^[:alnum:]-])--[a-z][a-z0-9-]+' "$tmp/help" | grep -oE -- '--.*' | sort -u >"$tmp/options"
	[ -s "$tmp/options" ] || { echo '--help prints no long option'; bad=1; }
	# Tags of sections SYNOPSIS and OPTIONS only: other sections may name other programs' options.
	sed -n '/^\.SH OPTIONS/,/^\.SH [^O]/p' "$tmp/page" | grep -E '^\.(B|BR|BI|IR|IB) ' |
		grep -oE -- '--[a-z][a-z0-9-]+' | sort -u >"$tmp/page-options"
	compare options "$tmp/options" "$tmp/page-options"
else
	echo "$bin is not there"
	bad=1
fi

if command -v mandoc >/dev/null 2>&1; then
	for p in "$root"/packaging/man/*.[58]; do
		mandoc -T lint -W warning "$p" || { echo "$p: mandoc complains"; bad=1; }
	done
fi
exit $bad
