#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""php's streams as a client."""
from role import SRV, equal, pattern, roles

ASK = """$c = stream_context_create(["ssl" => ["verify_peer" => false, "verify_peer_name" => false]]);
foreach (array_slice($argv, 1) as $url) echo file_get_contents($url, false, $c);"""


def play(r):
    r.https("server", 8443)
    r.attach()
    got = r.do("client", "php", "-r", ASK, "--", f"https://{SRV}:8443/a-300000", f"https://{SRV}:8443/b-1")
    equal(got, pattern("a", 300_000) + pattern("b", 1), "what php got")
    r.row("php-cli stream", "libssl.so.3", "client", 8443, at_least=2)


roles(play, needs=["php"])
