#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""stunnel as a server and as a client, between plain TCP on loopback at either end."""
from role import SRV, equal, pattern, roles


def play(r):
    crt, key = r.t.cert()
    (r.dir / "server.conf").write_text(f"""
foreground = yes
pid =
[in]
accept = {SRV}:8443
connect = 127.0.0.1:7000
cert = {crt}
key = {key}
""")
    (r.dir / "client.conf").write_text(f"""
foreground = yes
pid =
[out]
client = yes
accept = 127.0.0.1:7001
connect = {SRV}:8443
""")
    r.on("server", "echo", "socat", "-t", "10", "TCP-LISTEN:7000,bind=127.0.0.1,fork,reuseaddr", "PIPE")
    r.on("server", "stunnel-server", "stunnel", r.dir / "server.conf")
    r.on("client", "stunnel-client", "stunnel", r.dir / "client.conf", env=r.preload())
    for port, end in ((7000, "server"), (8443, "server"), (7001, "client")):
        r.listening(port, end)
    r.attach()
    for size in (1, 18432, 2_000_000):
        sent = pattern("stunnel", size)
        equal(r.do("client", "socat", "-t", "10", "-", "TCP:127.0.0.1:7001", data=sent), sent, "echo")
    r.row("stunnel server", "libssl.so.3", "server", 8443, at_least=3)
    r.row("stunnel client", "libssl.so.3", "client", 8443, at_least=3)


roles(play, needs=["stunnel", "socat", "gcc"])
