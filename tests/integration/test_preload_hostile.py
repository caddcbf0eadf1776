#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Programs that come to the agent like the preloaded library and then lie (progs/shim_hostile.c): noise instead of a
ring, invented lengths, positions and descriptors, files that are no rings. The agent goes on; a connection
of others that is whole in the mirror has their bytes, and no connection is there that nobody made. Liars keep the agent
busy, and others lose nothing by that.
--seconds N: for how long (6); --seed N."""
import pathlib
import sys
import time

from lib import PROGS, PY, check, equal, fact, flows, is_sanitized, run
from test_preload_faults import agent, conns_of, env, judge_seen, talk

LIARS = 2
GROWTH_KB = 200 << 10  # tables for 65536 objects of each liar, and what is held of connections not known yet


def option(name, default):
    return int(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else default


def honest(t, exe, threads, end):
    """Connections of programs that say the truth, one program after the other."""
    told, n = [], 0
    while time.monotonic() < end:
        told += [("talk", *c) for c in talk(t, exe, "talk")[1]]
        p = t.spawn("threads", threads, "127.0.0.1", 7200 + n % 50, *t.cert(), 4, 20, 20000, ns=t.space, env=env(t))
        equal(p.wait(60), 0, f"threads: status {p.err()}")
        told += conns_of(p)
        n += 1
    return told


def cpu_s(p):
    return sum(int(f.read_text().split()[0]) for f in pathlib.Path(f"/proc/{p.pid}/task").glob("*/schedstat")) / 1e9


def ringer(t, liar, a):
    """A program that rings all the time for nothing does not keep the agent from sleeping."""
    p = t.spawn("ringer", liar, t.dir / "run", 2500, "bell", ns=t.space)
    p.wait_line("port", where="out")
    time.sleep(0.5)
    before, since = cpu_s(a), time.monotonic()
    time.sleep(1.5)
    share = (cpu_s(a) - before) / (time.monotonic() - since)
    equal(p.wait(60), 0, f"ringer's status: {p.err()}")
    fact(f"a bell that does not stop costs the agent {share:.3f} of a processor")
    check(is_sanitized() or share < 0.1, "the agent does not sleep")


def fuse(t, exe):
    """A file that answers nobody who closes it costs the agent a thread, and nobody else a byte."""
    if not pathlib.Path("/dev/fuse").exists():
        fact("not tried: a file whose file system is the liar (no /dev/fuse)")
        return
    t.dir.chmod(0o711)  # the liar is another user
    at = t.dir / "mnt"
    at.mkdir()
    a = agent(t, "fuse")
    p = t.spawn("liar", PY, "-u", PROGS / "shim_fuse.py", t.dir / "run", at, stdin=True)
    p.wait_line("named", where="out")
    p.wait_line("closing", where="out")
    told = [("talk", *c) for _ in range(3) for c in talk(t, exe, "talk")[1]]
    time.sleep(3)  # it looks for rings in the meantime
    told += [("talk", *c) for c in talk(t, exe, "talk")[1]]
    time.sleep(1)
    check(p.out().count("closing") < 20 and "opening" not in p.out(), "what the agent did with the liar's files:", p.out())
    p.p.stdin.close()
    equal(p.wait(10), 0, f"liar's status: {p.err()}")
    equal(a.stop(), 0, "agent's exit status")
    judge_seen("fuse", flows(t.dir / "fuse.pcapng", sound=False), a, told, most=0.0)


def main(t):
    t.space = t.ns("h")
    exe = t.compile("unharmed.c", ("-lssl", "-lcrypto", "-lpthread"))
    threads = t.compile("threads.c", ("-lssl", "-lcrypto", "-lpthread"))
    liar = t.compile("shim_hostile.c", ())
    fuse(t, exe)
    seconds, seed = option("--seconds", 6), option("--seed", 1)
    a = agent(t, "hostile")
    told = [("talk before", *c) for c in talk(t, exe, "talk")[1]]
    ringer(t, liar, a)
    before = a.rss_kb()
    liars = [t.spawn("liar", liar, t.dir / "run", seconds * 1000, seed + i, ns=t.space) for i in range(LIARS)]
    theirs = {tuple(map(int, p.wait_line(r"port (\d+) of (\d+)", where="out").groups())) for p in liars}
    told += honest(t, exe, threads, time.monotonic() + seconds)
    for p in liars:
        equal(p.wait(60), 0, f"liar's status: {p.err()}")
        fact("liar:", p.out().split("\n")[1])
    check(a.alive(), "the agent ended:", a.err()[-500:])
    grown = a.rss_kb() - before
    check(is_sanitized() or grown < GROWTH_KB, f"the agent grew by {grown} KB")
    told += [("talk after", *c) for c in talk(t, exe, "talk")[1]]
    time.sleep(1)
    equal(a.stop(), 0, "agent's exit status")
    c = a.counters()
    for name in ("preload_processes_refused", "preload_records_broken", "preload_records_malformed", "preload_bytes_other",
                 "preload_bytes_lost_gone"):
        fact(f"{name} = {c.get(name, 0)}")
        check(name == "preload_bytes_other" or c.get(name), f"{name}: the liars did not get that far")
    seen = flows(t.dir / "hostile.pcapng", sound=False)
    liars_own = [f for f in seen if (f.client[1], f.server[1]) in theirs or (f.server[1], f.client[1]) in theirs]
    judge_seen("hostile", [f for f in seen if f not in liars_own], a, told, most=0.0)
    fact(f"agent grew by {grown} KB; liars' own connections: {len(liars_own)}, {liars_own[:2]}")


run(main, needs=["gcc"])
