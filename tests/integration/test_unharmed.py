#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Programs do not notice: results, errno and error queue of TLS calls stay the same while probes come and
go; processes killed or replaced inside a call, or in the strictest sandbox, end as they would have.
--times N: how often the agent is started and stopped under load (30)."""
import os
import random
import re
import signal
import sys
import time

from lib import check, equal, fact, flows, run, sha256

TALK = re.compile(r"^port (\d+)\nsent (\d+ \w+)\ngot (\d+ \w+)$", re.M)


def times():
    return int(sys.argv[sys.argv.index("--times") + 1]) if "--times" in sys.argv else 30


def agent(t, n, how="-w"):
    return t.alone(how, t.dir / f"{n}.pcapng", ns=t.space, iface="lo", name=f"agent-{n}")


def come_and_go(t, load, n):
    """Start and stop agents; every fourth is killed."""
    rng, seen = random.Random(7), 0
    for i in range(n):
        a = agent(t, "load")
        time.sleep(rng.uniform(0, 0.3))
        check(load.alive(), "load:", load.err())
        if i % 4 == 3:
            a.stop(signal.SIGKILL)
        else:
            equal(a.stop(), 0, "agent's exit status")
            seen += a.counters().get("flow_bytes", 0)
        check(load.alive(), "load:", load.err())
    check(seen > 0, "no agent saw anything: no test")
    return seen


def under_load(t, exe):
    load = t.spawn("load", exe, *t.cert(), "load", ns=t.space)
    load.wait_line("baseline", where="out")
    n = times()
    seen = come_and_go(t, load, n)
    equal(load.stop(signal.SIGTERM), 0, f"load's status: {load.err()}")
    calls = int(re.search(r"^calls (\d+)$", load.out(), re.M).group(1))
    fact(f"{n} agents came and went during {calls} calls ({seen} bytes mirrored): answers, errno, error queue equal")


def killed_inside_call(t, exe, n):
    for _ in range(n):
        p = t.spawn("block", exe, *t.cert(), "block", ns=t.space)
        p.wait_line("blocked", where="out")
        time.sleep(0.05)
        check(p.alive(), "block:", p.err())
        equal(p.stop(signal.SIGKILL), -signal.SIGKILL, "status of the killed one")


def exchange(t, exe, what):
    p = t.spawn(what, exe, *t.cert(), what, ns=t.space)
    equal(p.wait(20), 0, f"{what}: status: {p.err()}")
    return what, TALK.findall(p.out())[0]


def judge(seen, what, port, sent, got):
    f = [x for x in seen if x.client[1] == int(port)]
    equal(len(f), 1, f"{what}: flows")
    equal([f"{len(d)} {sha256(bytes(d))}" for d in f[0].data], [sent, got], f"{what}: {f[0]}")
    fact(f"{what}: {sent.split()[0]} + {got.split()[0]} bytes exact, status 0")


def main(t):
    t.space = t.ns("u")
    exe = t.compile("unharmed.c", ("-lssl", "-lcrypto", "-lpthread"))
    plain = exchange(t, exe, "strict")  # without an agent it must work, or the test says nothing
    under_load(t, exe)
    a = agent(t, "talks")
    killed_inside_call(t, exe, 20)
    talks = [exchange(t, exe, what) for what in ("talk", "exec", "strict") for _ in range(3)]
    check(a.alive(), "the agent ended:", a.err())
    time.sleep(0.5)
    equal(a.stop(), 0, "agent's exit status")
    seen = flows(t.dir / "talks.pcapng", sound=False)
    for what, said in talks:
        judge(seen, what, *said)
    equal(plain[1][1:], talks[-1][1][1:], "what the sandboxed one moved with and without an agent")
    fact("killed inside SSL_read: 20 of 20, the agent went on")


if "--times" in sys.argv and os.geteuid() == 0:
    check(times() > 0, "--times", times())
run(main, needs=["gcc"])
