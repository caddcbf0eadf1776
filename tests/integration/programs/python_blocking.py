#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Python's ssl on sockets: http.server and client, pre-forked workers, listeners for both families;
one call of 50 MB, 10 000 calls of a byte, half close, reset; connections older than the agents."""
from role import PROGS, PY, SRV, equal, pattern, roles, sh, sha256

BIG = 50 << 20


def close(*ends):
    for e in ends:  # either waits for the other's close_notify
        e.say("close")
    for e in ends:
        e.wait_line("^done", where="out")


def midway(r):
    server, client, ports = r.talk("blocking", 7000)
    r.pass_on(client, server, "a", 1000)
    r.pass_on(server, client, "b", 20000)
    r.midway(ports, (1000, 20000))
    r.attach()
    r.pass_on(client, server, "c", 1001)
    r.pass_on(server, client, "d", 20001)
    close(client, server)


def extremes(r):
    server, client, _ = r.talk("blocking", 7001)
    r.pass_on(client, server, "big", BIG)
    close(client, server)
    server, client, _ = r.talk("blocking", 7002)
    r.pass_on(client, server, "x", 10_000, how="ones")
    r.pass_on(server, client, "y", 10_000, how="ones")
    close(client, server)


def endings(r):
    server, client, ports = r.talk("blocking", 7003)
    r.pass_on(client, server, "x", 1000)
    client.say("half", "done")
    r.pass_on(server, client, "y", 200_000)
    close(server, client)
    for end in ("server", "client"):
        r.own(end, ports, pattern("x", 1000), pattern("y", 200_000))
    server, client, ports = r.talk("blocking", 7004)
    r.pass_on(client, server, "x", 1000)
    server.say("send y 5000", "sent 5000")
    client.say("rst", "done")
    r.own("server", ports, pattern("x", 1000), pattern("y", 5000))
    r.own("client", ports, pattern("x", 1000), b"")


def http(r):
    r.https("server", 8443)
    c = r.on("client", "client", PY, "-u", PROGS / "client.py", SRV, 8443, env=r.env, stdin=True)
    c.wait_line("connected", where="out")
    c.say("get /x-300000", f"answer 200 300000 {sha256(pattern('x', 300000))}")
    c.say("post /y 100000", "answer 200")
    c.say("get /z-1", "answer 200 1 ")
    c.say("close", "done")
    r.https("server", 8444, addr="::")
    got = r.do("client", "curl", "-sSk", f"https://{SRV}:8444/x-1000", env=r.env)
    equal(got, pattern("x", 1000), "IPv4 on an IPv6 socket")
    r.https("server", 8445, "4")
    r.do("client", "ab", "-q", "-n", "200", "-c", "8", f"https://{SRV}:8445/x-100", env=r.preload())


def play(r):
    # So few ports that those of one role come again in another, to another port of the server.
    sh("sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40299", ns=r.cli)
    midway(r)
    extremes(r)
    endings(r)
    http(r)
    lib = "libssl.so.3"
    for end in ("client", "server"):
        r.row(f"python3 blocking {end}, open before the agent", lib, end, 7000)
        r.row(f"python3 blocking {end}, 50 MB in one call", lib, end, 7001)
        r.row(f"python3 blocking {end}, calls of 1 byte", lib, end, 7002)
        r.row(f"python3 blocking {end}, half close", lib, end, 7003)
        r.row(f"python3 blocking {end}, reset", lib, end, 7004)
    r.row("python3 blocking client", lib, "client", 8443)
    r.row("python3 http.server", lib, "server", 8443)
    r.row("python3 http.server on ::, IPv4", lib, "server", 8444)
    r.row("python3 http.server, 4 processes, 200 short", lib, "server", 8445, at_least=200)


roles(play, needs=["curl", "ab", "gcc"])
