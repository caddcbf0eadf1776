#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""socat as a server that forks for each connection before the handshake, and as a client."""
from role import SRV, equal, pattern, roles, sha256

ECHO, SINK = 7001, 7002
CLIENTS = 6


def play(r):
    crt, key = r.t.cert()
    listen = f"bind={SRV},reuseaddr,fork,cert={crt},key={key},verify=0"
    r.on("server", "socat", "socat", f"OPENSSL-LISTEN:{ECHO},{listen}", "EXEC:cat")
    r.on("server", "sink", "socat", "-u", f"OPENSSL-LISTEN:{SINK},{listen}",
         f"OPEN:{r.dir}/sunk,creat,append")
    for port in (ECHO, SINK):
        r.listening(port)
    r.attach()
    for i in range(CLIENTS):
        said = pattern(f"talk {i}", 1 + i * 60_000)
        version = ",openssl-max-proto-version=TLS1.2" if i % 2 else ""
        got = r.do("client", "socat", "-t5", "-", f"OPENSSL:{SRV}:{ECHO},verify=0{version}", env=r.preload(), data=said)
        equal(sha256(got), sha256(said), "echo")
    sent = pattern("one way", 2_000_000)
    r.do("client", "socat", "-u", "-", f"OPENSSL:{SRV}:{SINK},verify=0", env=r.preload(), data=sent)
    r.row("socat server, echo", "libssl.so.3", "server", ECHO, at_least=CLIENTS)
    r.row("socat server, one way", "libssl.so.3", "server", SINK)
    r.row("socat client, echo", "libssl.so.3", "client", ECHO, at_least=CLIENTS)
    r.row("socat client, one way", "libssl.so.3", "client", SINK)


roles(play, needs=["socat"])
