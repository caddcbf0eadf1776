#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What tshark and Suricata make of forged files: good checksums, no fault in TCP analysis, no stream event,
# HTTP recognised on 443, alerts at once (on the poke), flows closed. No root, no network.
set -euo pipefail

root=$(cd -- "$(dirname -- "$0")/../.." && pwd)
for tool in "${CC:-cc}" tshark suricata jq; do
	command -v "$tool" >/dev/null || { echo "SKIP forge_offline: no $tool"; exit 77; }
done
events=
for f in /etc/suricata/rules/stream-events.rules /usr/share/suricata/rules/stream-events.rules; do
	[ -r "$f" ] && events=$f && break
done
[ -n "$events" ] || { echo 'SKIP forge_offline: no stream-events.rules'; exit 77; }

tmp=$(mktemp -d)
trap 'rm -rf -- "$tmp"' EXIT
bad=0
equal() { # WHAT GOT WANTED
	[ "$2" = "$3" ] || { printf 'FAIL %s: got %q, wanted %q\n' "$1" "$2" "$3"; bad=1; }
}

"${CC:-cc}" -std=c17 -D_GNU_SOURCE -O1 -I"$root/proto" -I"$root/collector" -o "$tmp/forge" \
	"$root"/tests/integration/forge_offline.c "$root"/collector/{forge,outlet}.c \
	"$root"/collector/{sessions,http}/*.c "$root"/proto/frame.c "$root"/proto/base/{buf,hmap,metrics,log,clock}.c \
	-lnghttp2 -lcrypto

cp "$events" "$tmp/rules"
cat >>"$tmp/rules" <<'RULES'
alert http any any -> any any (msg:"evil"; flow:to_server,established; http.uri; content:"/evil"; sid:1; rev:1;)
alert http any any -> any any (msg:"body"; flow:to_client,established; http.stat_code; content:"200"; http.response_body; content:"aaaaaaaa"; sid:2; rev:1;)
RULES

# A window update is what opens the full window, and what a poke looks like; nothing else may be noticed.
complaints() { # FILE
	timeout 60 tshark -r "$1" -o tcp.check_checksum:TRUE -o ip.check_checksum:TRUE -T fields \
		-e frame.number -e _ws.expert.message -Y '(tcp.analysis.flags && !tcp.analysis.window_update)
		|| tcp.checksum.status != "Good" || ip.checksum.status == "Bad"' 2>/dev/null
}

look() { # CASE
	"$tmp/forge" "$1" "$tmp/$1.pcap"
	mkdir "$tmp/$1"
	timeout 120 suricata -r "$tmp/$1.pcap" -S "$tmp/rules" -l "$tmp/$1" >"$tmp/$1/out" 2>&1 ||
		{ cat "$tmp/$1/out"; exit 1; }
	eve=$tmp/$1/eve.json
	equal "$1: stream events" "$(jq -r 'select(.alert.signature_id > 2) | .alert.signature' "$eve")" ''
	equal "$1: invalid packets" "$(jq -s '[.[] | select(.event_type == "stats")][-1].stats |
		(.tcp.invalid_checksum // 0) + (.decoder.invalid // 0)' "$eve")" 0
	equal "$1: anomalies" "$(jq -c 'select(.event_type == "anomaly") | .anomaly' "$eve")" ''
}

alerts() { jq -r "select(.alert.signature_id == $1) | .alert.signature_id" "$eve" | wc -l; }
flow_list() { jq -rs '[.[] | select(.event_type == "flow") | .app_proto + "/" + .flow.state] | join(" ")' "$eve"; }
http_list() { jq -rs '[.[] | select(.event_type == "http") | .http.url + "=" + (.http.length | tostring)] | join(" ")' "$eve"; }

for c in plain plain6 poke reset jumbo; do
	look $c
	equal "$c: tshark" "$(complaints "$tmp/$c.pcap")" ''
	equal "$c: alerts" "$(alerts 1)" 1
	equal "$c: body alerts" "$(alerts 2 | sed 's/[1-9][0-9]*/some/')" some
	equal "$c: flows" "$(flow_list)" http/closed
	equal "$c: requests" "$(http_list)" '/evil=200000 /second=20'
done
# The request is packet 5, its ACK 6, the poke 7: inspected before anything else happens.
equal 'poke: alert on packet' "$(jq 'select(.alert.signature_id == 1) | .pcap_cnt' "$tmp/poke/eve.json")" 7

look gap
equal 'gap: alerts' "$(alerts 1)" 1
equal 'gap: requests' "$(http_list)" '/first=100000 /evil=20'
equal 'gap: gaps' "$(jq -s '[.[] | select(.event_type == "stats")][-1].stats.tcp.reassembly_gap' "$eve")" 1

look reuse
equal 'reuse: alerts' "$(alerts 1)" 2
equal 'reuse: flows' "$(flow_list)" 'http/closed http/closed'

# The filter does object to a fault: the first response segment, taken out.
timeout 60 tshark -r "$tmp/plain.pcap" -Y 'frame.number != 10' -w "$tmp/cut.pcap" 2>/dev/null
[ -n "$(complaints "$tmp/cut.pcap")" ] || { echo 'FAIL the filter sees no fault in a cut file'; bad=1; }

[ "$bad" -eq 0 ] && echo 'PASS forge_offline: 7 cases' || exit 1
