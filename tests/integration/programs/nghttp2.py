#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""nghttpd and h2load: HTTP/2 only, six connections with interleaved streams."""
from role import SRV, pattern, roles


def play(r):
    crt, key = r.t.cert()
    r.t.www("big", 500_000)
    r.on("server", "nghttpd", "nghttpd", "-a", SRV, "-d", r.dir / "www", 8443, key, crt)
    r.listening(8443)
    r.attach()
    r.do("client", "h2load", "-n", "60", "-c", "6", "-m", "4", f"https://{SRV}:8443/big", env=r.preload())
    r.row("nghttpd", "libssl.so.3", "server", 8443, at_least=6)
    r.row("h2load", "libssl.so.3", "client", 8443, at_least=6)


roles(play, needs=["nghttpd", "h2load", "gcc"])
