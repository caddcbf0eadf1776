#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""gnutls-serv and gnutls-cli: a connection that is older than the agents, and one that is not."""
import re

from role import SRV, check, roles


def talk(r, port):
    """(client, (its port, the server's))"""
    c = r.on("client", "gnutls-cli", "gnutls-cli", "--insecure", "-p", port, SRV, env=r.env, stdin=True)
    c.wait_line("Simple Client Mode", where="out")
    peers = r.do("client", "ss", "-Htn", f"dport = :{port}").decode()
    return c, (int(re.search(rf":(\d+)\s+{re.escape(SRV)}:{port}", peers).group(1)), port)


def play(r):
    crt, key = r.t.cert()
    for port in (8443, 8444):
        r.on("server", "gnutls-serv", "gnutls-serv", "--echo", "-p", port, "--x509certfile", crt,
             "--x509keyfile", key, "-q")
        r.listening(port)
    old, ports = talk(r, 8443)
    old.say("said before", "said before")
    n = len("said before\n")
    r.midway(ports, (n, n))
    r.attach()
    new, _ = talk(r, 8444)
    for c in (old, new):
        for i in range(20):
            c.say(f"line {i} of many", f"line {i} of many")
    for c in (old, new):
        c.p.stdin.close()
        check(c.wait(15) == 0, c.err())
    for end, name in (("server", "gnutls-serv"), ("client", "gnutls-cli")):
        r.row(f"{name}, open before the agent", "libgnutls.so.30", end, 8443)
        r.row(name, "libgnutls.so.30", end, 8444)


roles(play, needs=["gnutls-cli", "gnutls-serv"])
