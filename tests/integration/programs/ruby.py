#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""ruby: open-uri as a client, SSLServer with a thread for each connection."""
from role import PROGS, SRV, equal, pattern, roles


def play(r):
    (r.dir / "file").write_bytes(pattern("file", 300_000))
    r.https("server", 8443)
    s = r.on("server", "ruby-server", "ruby", PROGS / "https.rb", "server", SRV, 8444, *r.t.cert(),
             r.dir / "file")
    s.wait_line("listening", where="out")
    r.attach()
    got = r.do("client", "ruby", PROGS / "https.rb", "client", f"https://{SRV}:8443/a-300000",
               f"https://{SRV}:8443/b-1")
    equal(got, pattern("a", 300_000) + pattern("b", 1), "what ruby got")
    for _ in range(3):
        got = r.do("client", "curl", "-sSk", f"https://{SRV}:8444/x", env=r.env)
        equal(got, pattern("file", 300_000), "what curl got")
    r.row("ruby open-uri client", "libssl.so.3", "client", 8443, at_least=2)
    r.row("ruby SSLServer", "libssl.so.3", "server", 8444, at_least=3)


roles(play, needs=["ruby", "curl"])
