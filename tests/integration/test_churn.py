#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Thousands of one-request connections, 200 at a time, so that the kernel's sockets and the library's
objects are used again and again at the same addresses: what nginx logged is what the mirror shows, each
exchange in the flow whose ports it names, once. Ends in the middle of requests."""
import re
import time
from collections import Counter

from lib import check, equal, fact, flows, losses, run

SECONDS = 5


def main(t):
    t.lab(sensor=False)
    log = t.dir / "access.log"
    t.nginx(log=f"{log} bytes")
    agent = t.alone("-w", t.dir / "out.pcapng")
    # sessions that end in every possible place: leftovers of one must not meet the next
    early = t.helper("early", "early.py", "10.71.1.1", 443, 100, ns=t.cli)
    wrk = t.spawn("wrk", "wrk", "-t1", "-c200", f"-d{SECONDS}s", "-H", "Connection: close",
                  "https://10.71.1.1/who", ns=t.cli)
    equal((early.wait(60), wrk.wait(SECONDS + 20)), (0, 0), "clients' status")
    equal(len(re.findall(r"^flow \S+ \d+ True$", early.out(), re.M)), 100, "early.py's exchanges")
    time.sleep(2)
    t.drain(agent)

    logged = Counter(int(x.split()[1]) for x in log.read_text().splitlines() if x.endswith(" 200"))
    check(sum(logged.values()) > 500, f"only {sum(logged.values())} connections")
    seen, wrong, mirrored = flows(t.dir / "out.pcapng", sound=False), [], Counter()
    for f in seen:
        asked = re.findall(rb"^GET /who\S* ", bytes(f.data[0]), re.M)
        named = re.findall(rb"^10\.71\.1\.2 (\d+) /who", bytes(f.data[1]), re.M)
        if len(asked) > 1 or len(named) > 1 or any(int(n) != f.client[1] for n in named):
            wrong.append(f"{f} asked {len(asked)} times, answer for ports {named}")
        elif not f.is_sound() or f.end == "open":
            wrong.append(f"{f}")
        mirrored[f.client[1]] += len(named)
    equal(wrong[:3], [], f"flows with another connection's bytes, or broken ({len(wrong)})")
    missing = {p: (n, mirrored[p]) for p, n in logged.items() if mirrored[p] < n}
    fact("losses:", losses(agent) or "none")
    check(not missing, f"{len(missing)} of {sum(logged.values())} exchanges missing, ports (logged, "
          f"mirrored): {list(missing.items())[:5]}")
    fact(f"{sum(logged.values())} exchanges logged by nginx, each mirrored once, under its own ports")


run(main, needs=["nginx", "wrk"])
