#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""1000 concurrent connections, each naming its own address and port in every request: each forged
flow must carry the tuple that its payload names. Captured at the server (nginx, sockets) and at the
client (Python: sockets, and asyncio's memory BIOs); IPv4, IPv6, IPv4 on an IPv6 listener."""
import re
import resource
import time

from lib import check, equal, fact, flows, losses, run

ROUNDS = 3
# name, host, port, connections, how the client uses the library
RUNS = (("IPv4", "10.71.1.1", 443, 1000, "sockets"), ("IPv6", "fd71:1::1", 443, 300, "sockets"),
        ("IPv4 on an IPv6 listener", "10.71.1.1", 8443, 200, "sockets"),
        ("memory BIOs", "10.71.1.1", 443, 300, "asyncio"))


def judge(what, seen, told, host, port):
    """Compare the flows of one run with what the client said of itself."""
    mine = [f for f in seen if f.client in told and f.server == (host, port)]
    equal(len(mine), len(told), f"{what}: flows")
    equal(len({f.client for f in mine}), len(told), f"{what}: different tuples")
    wrong = 0
    for f in mine:
        asks = re.findall(rb"GET /who\?me=([0-9a-f.:]+)_(\d+)_\d+ ", bytes(f.data[0]))
        answers = re.findall(rb"^(?:::ffff:)?([0-9a-f.:]+) (\d+) /who\?me=", bytes(f.data[1]), re.M)
        equal((len(asks), len(answers)), (ROUNDS, ROUNDS), f"{what}: {f} requests and answers")
        named = {(a.decode(), int(p)) for a, p in asks + answers}
        wrong += named != {f.client}
        equal(f.family, 6 if ":" in host else 4, f"{what}: family")
    equal(wrong, 0, f"{what}: flows whose payload names another connection")


def main(t):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    t.lab(sensor=False)
    t.nginx(listen=("443 ssl", "[::]:443 ssl", "[::]:8443 ssl ipv6only=off"))
    agent, col = t.pair("-w", t.dir / "server.pcapng")
    client_end = t.alone("-w", t.dir / "client.pcapng", ns=t.cli, iface="cli0")

    told = {}
    for name, host, port, n, mode in RUNS:
        p = t.helper("many", "many.py", host, port, n, ROUNDS, mode, ns=t.cli)
        equal(p.wait(60), 0, f"{name}: client's status {p.err()[-300:]}")
        check("bad " not in p.out(), f"{name}: nginx answered someone else: {p.out()[:200]}")
        told[name] = {(a, int(b)) for a, b in re.findall(r"^flow (\S+) (\d+)$", p.out(), re.M)}
        equal(len(told[name]), n, f"{name}: connections made")
    time.sleep(1)
    t.drain(agent, col)
    t.drain(client_end)
    fact("losses:", losses(agent, col, client_end) or "none")
    for end in ("server", "client"):
        seen = flows(t.dir / f"{end}.pcapng")
        for name, host, port, n, mode in RUNS:
            judge(f"{end}'s end, {name}", seen, told[name], host, port)
        strangers = [f for f in seen if not any(f.client in x for x in told.values())]
        equal(strangers, [], f"{end}'s end: flows of nobody")
        equal([f for f in seen if f.end == "open"], [], f"{end}'s end: flows never closed")
        fact(f"{end}'s end: {len(seen)} flows, all with the tuple their payload names")


run(main, needs=["nginx"])
