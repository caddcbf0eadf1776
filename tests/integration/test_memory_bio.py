#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""TLS objects without a socket of their own (memory BIOs, BIO pairs): asyncio, node, and a C program, at
both ends. In the usual order of calls every byte is mirrored under its own connection; in misleading
orders not one byte is under another's, and those that are not mirrored are counted. The preloaded library
(SSLC_TEST_CAPTURE=preload) sees the records themselves: no order misleads it."""
import os
import re
import shutil
import time

from lib import PRELOADS, Failed, PROGS, PY, check, equal, fact, flows, run, sh, until

PYTHON = [PY, "-u", PROGS / "membio.py"]
NODE = ["node", PROGS / "membio.js"]
# name, program, connections, rounds, size, options, all must be mirrored
RUNS = [
    ("asyncio, equal sizes", PYTHON, 12, 10, 1000, "", True),
    ("asyncio, different sizes", PYTHON, 12, 10, "random", "", True),
    ("asyncio, 100 connections, equal", PYTHON, 100, 5, 500, "", True),
    ("asyncio, 100 connections, different", PYTHON, 100, 5, "random", "", True),
    ("asyncio, 270177 bytes a call", PYTHON, 12, 4, 270177, "", True),
    ("C, memory BIOs, equal", None, 12, 20, 1000, "direct", True),
    ("C, memory BIOs, one byte", None, 12, 20, 1, "direct", True),
    ("C, memory BIOs, different", None, 12, 20, "random", "direct", True),
    ("C, BIO pairs, equal", None, 12, 20, 1000, "direct pair", True),
    ("C, BIO pairs, different", None, 12, 20, "random", "direct pair", True),
    ("C, 100 connections", None, 100, 10, 777, "direct", True),
    ("C, TLS 1.2 AES-GCM", None, 12, 10, "random", "direct tls12", True),
    ("C, TLS 1.2 AES-CBC", None, 12, 10, "random", "direct cbc", True),
    ("C, TLS 1.2 ChaCha20", None, 12, 10, 4000, "direct chacha", True),
    ("batches, equal", None, 12, 30, 1000, "batch", False),
    ("batches, different", None, 12, 30, "random", "batch", False),
    ("one late, equal", None, 12, 30, 1000, "lag", False),
    ("one late, different", None, 12, 30, "random", "lag", False),
    ("another thread's sockets, equal", None, 12, 30, 1000, "apart", False),
    ("another thread's sockets, different", None, 12, 30, "random", "apart", False),
    ("threads crosswise, equal", None, 12, 30, 1000, "swap", False),
    ("threads crosswise, equal, two", None, 2, 200, 1000, "swap", False),
    ("threads crosswise, different", None, 12, 30, "random", "swap", False),
]
# of them, with the preloaded library
PRELOADED = {"asyncio, different sizes", "C, memory BIOs, equal", "C, BIO pairs, different", "C, TLS 1.2 AES-GCM",
             "C, TLS 1.2 AES-CBC", "batches, different", "one late, equal", "another thread's sockets, different",
             "threads crosswise, different"}


def stream(port, way, n):
    """What the programs send: n bytes of the connection with this client's port."""
    return b"".join(b"<%05d %d %021d>\n" % (port, way, i) for i in range((n + 31) // 32))[:n]


def exchange(t, exe, i, name, prog, n, rounds, size, options):
    crt, key = t.cert()
    args = [crt, key, n, rounds, size, *options.split()]
    cmd = prog or [exe]
    s = t.spawn("server", *cmd, "server", "10.71.1.1", 7100 + i, *args, ns=t.srv)
    s.wait_line("listening", where="out")
    c = t.spawn("client", *cmd, "client", "10.71.1.1", 7100 + i, *args, ns=t.cli, stdin=True)
    if "hold" in options:
        c.wait_line("held", where="out", timeout=30)
        return s, c
    return finish(name, s, c, n)


def finish(name, s, c, n):
    equal((c.wait(90), s.wait(30)), (0, 0), f"{name}: status {c.err()[-300:]} {s.err()[-300:]}")
    told = {int(p): (int(a), int(b)) for p, a, b in re.findall(r"^flow (\d+) (\d+) (\d+)$", c.out(), re.M)}
    equal(len(told), n, f"{name}: connections made")
    return told


def strangers(f):
    """Blocks in this flow that name another connection or the other direction."""
    out = 0
    for way in (0, 1):
        named = re.findall(rb"<(\d{5}) (\d) \d{21}>", bytes(f.data[way]))
        out += sum((int(p), int(w)) != (f.client[1], way) for p, w in named)
    return out


def judge(end, name, seen, told, server_port, must):
    mine = [f for f in seen if f.server[1] == server_port]
    wrong = sum(strangers(f) for f in mine)
    equal(wrong, 0, f"{end}, {name}: blocks of 32 bytes under another connection's address")
    check({f.client[1] for f in mine} <= set(told), f"{end}, {name}: a flow of nobody")
    equal(len({f.client[1] for f in mine}), len(mine), f"{end}, {name}: flows with the same tuple")
    whole = [f for f in mine if f.is_sound() and f.end != "open" and [bytes(d) for d in f.data] ==
             [stream(f.client[1], w, told[f.client[1]][w]) for w in (0, 1)]]
    fact(f"{end}, {name}: {len(whole)} of {len(told)} whole, {len(mine)} seen, no byte misplaced")
    if must or PRELOADS:
        equal(len(whole), len(told), f"{end}, {name}: connections mirrored whole")
    return sum(len(d) for f in mine for d in f.data)


def settle(agents, total):
    """Every byte that the programs moved was mirrored, or counted. An agent sees the processes of both
    ends, and of whoever else uses TLS on this host."""
    for a in agents:
        c = a.counters()
        got = [c.get(f"flow_bytes{x}", 0) for x in ("", "_filtered", "_lost_unbound")]
        fact(f"{a.name}: matched {c.get('flow_bindings_matched', 0)}, contradicted "
             f"{c.get('flow_bindings_contradicted', 0)}, connections unmatched "
             f"{c.get('flow_connections_unmatched', 0)}; bytes mirrored {got[0]}, of the other end "
             f"{got[1]}, without a connection {got[2]}, moved {total} at each end")
        if PRELOADS:  # each agent sees the processes of its own namespace
            equal(got, [total, 0, 0], f"{a.name}: bytes mirrored, left out, without a connection")
            continue
        check(got[2] > 0, "every byte has found its connection: the misleading orders mislead nobody")
        check(sum(got) >= 2 * total, f"{a.name}: {2 * total - sum(got)} bytes are not accounted for")


def late(t, exe):
    """Attached in mid-connection: the first round is not seen, the others are, from the first byte on."""
    runs = (("asyncio", PYTHON, 900), ("asyncio, different", PYTHON, "random"), ("C", None, 1000),
            ("C, different", None, "random"))
    pairs = [exchange(t, exe, 50 + i, name, prog, 12, 12, size, "hold")
             for i, (name, prog, size) in enumerate(runs)]
    agents = [t.alone("-w", t.dir / "late-server.pcapng", name="late-server"),
              t.alone("-w", t.dir / "late-client.pcapng", "--probes", "records", ns=t.cli, iface="cli0",
                      name="late-client")]
    for i, (s, c) in enumerate(pairs):
        c.say("go")
        told = finish(runs[i][0], s, c, 12)
        pairs[i] = told
    time.sleep(1.5)
    for a in agents:
        equal(a.stop(), 0, "exit status")
    for a in agents:
        seen = flows(t.dir / f"{a.name}.pcapng", sound=False)
        for i, told in enumerate(pairs):
            mine = [f for f in seen if f.server[1] == 7150 + i]
            equal(sum(strangers(f) for f in mine), 0, f"{a.name}, {runs[i][0]}: blocks misplaced")
            whole = [f for f in mine if f.is_sound() and all(
                stream(f.client[1], w, told[f.client[1]][w]).endswith(bytes(f.data[w])) for w in (0, 1))
                and all(len(f.data[w]) > told[f.client[1]][w] // 2 for w in (0, 1))]
            fact(f"{a.name}, {runs[i][0]}: {len(whole)} of 12 mirrored from the attachment on")
            equal(len(whole), 12, f"{a.name}, {runs[i][0]}: connections mirrored")


def sees_node(t, agents):
    """Whether node's TLS is captured: with the system's library, or within its own program, whose
    probes come a moment after it was first run."""
    node = shutil.which("node")
    if not node or "libssl" in sh("ldd", node, ok=None):
        return bool(node)
    t.spawn("node", node, "-e", "setTimeout(() => {}, 8000)")
    probed = r"probes on \S*" + re.escape(os.path.realpath(node))
    try:
        until(lambda: all(re.search(probed, a.err()) for a in agents), 8, "probes on node")
    except Failed:
        return False
    return True


def main(t):
    runs = [r for r in RUNS if not PRELOADS or r[0] in PRELOADED]
    t.lab(sensor=False)
    exe = t.compile("membio.c", libs=("-lssl", "-lcrypto", "-pthread"))
    agents = [t.alone("-w", t.dir / "server.pcapng", "tcp portrange 7100-7199", name="server"),
              t.alone("-w", t.dir / "client.pcapng", "--probes", "records", "tcp portrange 7100-7199",
                      ns=t.cli, iface="cli0", name="client")]
    if PRELOADS:
        fact("node has its TLS library in itself, out of the preloaded library's reach: not tried")
    elif sees_node(t, agents):
        runs += [("node, equal sizes", NODE, 12, 10, 1000, "", True),
                 ("node, different sizes", NODE, 12, 10, "random", "", True),
                 ("node, 270177 bytes a call", NODE, 12, 4, 270177, "", True),
                 ("node, written in another's callback", NODE, 12, 10, 1000, "cross", True)]
    else:
        fact("no node, or one with an OpenSSL of its own that the agent does not find: not tried")
    told = [exchange(t, exe, i, *r[:-1]) for i, r in enumerate(runs)]
    time.sleep(1.5)
    total = sum(a + b for x in told for a, b in x.values())
    for a in agents:
        equal(a.stop(), 0, "exit status")
    for a in agents:
        seen = flows(t.dir / f"{a.name}.pcapng", sound=False)
        for i, r in enumerate(runs):
            judge(f"{a.name}'s end", r[0], seen, told[i], 7100 + i, r[-1])
    settle(agents, total)
    late(t, exe)


run(main, needs=["gcc"])
