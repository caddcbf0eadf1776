#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Thousands of short connections: descriptors, threads and memory of agent and collector do not grow
between the end of the warm-up and the end of the run."""
import os
import re
import time

from lib import check, equal, fact, losses, run

WARM_S, RUN_S = 8, 20
GROWTH_KB = 6 << 10


def look(p):
    return {"fds": p.n_fds(), "threads": len(os.listdir(f"/proc/{p.pid}/task")), "rss": p.rss_kb()}


def storm(t, seconds):
    p = t.spawn("wrk", "wrk", "-t1", "-c16", f"-d{seconds}s", "-H", "Connection: close",
                "https://10.71.1.1/who", ns=t.cli)
    equal(p.wait(seconds + 20), 0, "wrk's status")
    return int(re.search(r"(\d+) requests in", p.out()).group(1))


def main(t):
    t.lab()
    t.nginx()
    agent, col = t.pair("-o", "out0")
    warm = storm(t, WARM_S)
    time.sleep(3)
    before = {p.name: look(p) for p in (agent, col)}
    n = storm(t, RUN_S)
    time.sleep(3)
    after = {p.name: look(p) for p in (agent, col)}
    check(n > warm and n > 300, f"only {n} connections")
    fact(f"{warm} connections to warm up, then {n}")
    wrong = []
    for p in (agent, col):
        a, b = before[p.name], after[p.name]
        fact(f"{p.name}: {a} then {b}")
        if b["fds"] > a["fds"] + 3 or b["threads"] > a["threads"] or b["rss"] > a["rss"] + GROWTH_KB:
            wrong.append(f"{p.name} grew: {a} then {b}")
    check(not wrong, "; ".join(wrong))
    fact("losses:", losses(agent, col) or "none")
    t.drain(agent, col)


run(main, needs=["nginx", "wrk"])
