#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""memcached with TLS: one thread accepts, another does the handshake inside its first read."""
from role import SRV, equal, roles

PORT = 11211
CLIENTS = 8


def play(r):
    crt, key = r.t.cert()
    r.on("server", "memcached", "memcached", "-u", "root", "-l", SRV, "-p", PORT, "-t", 2, "-Z",
         "-o", f"ssl_chain_cert={crt},ssl_key={key}")
    r.listening(PORT)
    r.attach()
    procs = [r.t.helper(f"memc{i}", "memc.py", SRV, PORT, f"c{i}", 20, *(["tls12"] if i % 2 else []),
                        ns=r.cli, env=r.env) for i in range(CLIENTS)]
    for p in procs:
        equal(p.wait(30), 0, f"client's status: {p.err()}")
    r.row("memcached server", "libssl.so.3", "server", PORT, at_least=CLIENTS)


roles(play, needs=["memcached"])
