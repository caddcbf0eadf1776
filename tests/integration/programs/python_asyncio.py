#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Python's asyncio: TLS in memory, the sockets apart. Twelve connections at once with messages of the same
length and of any length; connections older than the agents; big and small calls, reset."""
from role import PROGS, PY, SRV, pattern, roles


def midway(r):
    server, client, ports = r.talk("asyncio", 7000)
    r.pass_on(client, server, "a", 1000)
    r.pass_on(server, client, "b", 20000)
    r.midway(ports, (1000, 20000))
    r.attach()
    # Without the handshake it takes some exchanges until there is no doubt; what was held comes then.
    for i in range(6):
        r.pass_on(client, server, f"c{i}", 1001 + 97 * i)
        r.pass_on(server, client, f"d{i}", 20001 - 1013 * i)
    client.say("close", "done")


def extremes(r):
    server, client, _ = r.talk("asyncio", 7001)
    r.pass_on(client, server, "big", 10 << 20)
    r.pass_on(server, client, "back", 270_177)
    client.say("close", "done")
    server, client, _ = r.talk("asyncio", 7002)
    r.pass_on(client, server, "x", 10_000, how="ones")
    client.say("close", "done")
    server, client, _ = r.talk("asyncio", 7003)
    r.pass_on(client, server, "x", 1000)
    r.pass_on(server, client, "y", 1000)
    client.say("rst", "done")


def play(r):
    midway(r)
    crt, key = r.t.cert()
    echo = (PY, "-u", PROGS / "echo.py")
    for port in (8443, 8444, 8445):
        s = r.on("server", "echo", *echo, "server", SRV, port, crt, key)
        s.wait_line("listening", where="out")
    for port, count, rounds, sizes in ((8443, 12, 20, "equal"), (8444, 12, 20, "random"),
                                       (8445, 200, 1, "equal")):
        c = r.on("client", "clients", *echo, "client", SRV, port, count, rounds, sizes, env=r.env)
        c.wait_line(r"^done \d+", 60, "out")
    extremes(r)
    lib = "libssl.so.3"
    for end in ("server", "client"):
        r.row(f"python3 asyncio {end}, open before the agent", lib, end, 7000)
        r.row(f"python3 asyncio {end}, 12 at once, same length", lib, end, 8443, at_least=12)
        r.row(f"python3 asyncio {end}, 12 at once, any length", lib, end, 8444, at_least=12)
        r.row(f"python3 asyncio {end}, 200 at once", lib, end, 8445, at_least=200)
        r.row(f"python3 asyncio {end}, 10 MB in one call", lib, end, 7001)
        r.row(f"python3 asyncio {end}, calls of 1 byte", lib, end, 7002)
        r.row(f"python3 asyncio {end}, reset", lib, end, 7003)


roles(play)
