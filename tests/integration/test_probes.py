#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Probes that change while programs run. A library whose code deceives those who read it: connections that
carried more than was captured cost its probes their tier, and what follows is exact."""
import json
import platform
import re
import time

from lib import PROGS, Skip, binary, check, equal, fact, flows, run, run_cmd, sh, sha256, until

# Of each connection 400000 bytes go past the last instructions of sly's SSL_write, 3000 do not.
LONG, SENT, ASKED = "1000x3,20000x20", 403000, 5000


def exchange(t, exe, n, env):
    """One connection; the server's library is the one in question."""
    port, (crt, key) = 7300 + n, t.cert()
    s = t.spawn(f"sly{n}", exe, "server", "10.71.1.1", port, crt, key, LONG, ASKED, ns=t.srv, env=env)
    s.wait_line("listening", where="out")
    c = t.spawn(f"peer{n}", exe, "client", "10.71.1.1", port, "-", "-", f"{ASKED}x1", SENT, ns=t.cli)
    equal((c.wait(30), s.wait(20)), (0, 0), f"status {c.err()} {s.err()}")
    return port, dict(line.split(" ", 1) for line in s.out().splitlines() if " " in line)


def coverage(t):
    p = run_cmd(binary(), "coverage", "--json", "--run-dir", t.dir / "run", timeout=30)
    return json.loads(p.stdout)


def deceived(t):
    lib = t.dir / "libsly.so"
    sh("gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", lib, PROGS / "sly.c", timeout=60)
    check("cheap pair" in sh(binary(), "doctor", lib), "the library deceives nobody any more")
    exe = t.compile("xfer.c")
    out = t.dir / "sly.pcapng"
    agent = t.alone("-w", out, "--run-dir", t.dir / "run")
    env = {"LD_PRELOAD": str(lib)}
    exchange(t, exe, 0, env)  # the file is met here, and what comes in its first second is not judged
    agent.wait_line(rf"probes on {lib}")
    time.sleep(1.5)
    for n in (1, 2, 3):
        equal(agent.counters().get("capture_libs_lowered", 0), 0, f"before connection {n}: files with lower tiers")
        exchange(t, exe, n, env)
    until(lambda: agent.counters().get("capture_libs_lowered") == 1, 10, "a lower tier")
    after = [exchange(t, exe, n, env) for n in range(4, 9)]
    row = [r for r in coverage(t) if r["kind"] == "library" and r["path"] == str(lib)][0]
    equal((row["tier"], row["lowered_from"], row["functions"]), ("first", "pairs", 2), "what coverage says")
    text = run_cmd(binary(), "coverage", "--run-dir", t.dir / "run", timeout=30).stdout
    check(re.search(rf"{lib} +yes +first instead of pairs: ", text), "coverage as text:", text[-1500:])
    time.sleep(0.5)
    equal(agent.stop(), 0, "agent's exit status")
    seen = flows(out, sound=False)
    short = {len(f.data[1]) for f in seen if f.server[1] in (7301, 7302, 7303)}
    check(short and max(short) < SENT, f"bytes before: {short}")
    for port, said in after:
        f = [f for f in seen if f.server[1] == port][0]
        equal([f"{len(d)} {sha256(bytes(d))}" for d in f.data], [said["got"], said["sent"]], f"{port}: {f}")
        check(f.is_sound() and f.end == "fin", f"{port}: {f}")
    equal(agent.err().count("its probes are now"), 1, "lines about it")
    got = agent.counters()
    equal({k: got.get(k, 0) for k in ("capture_libs_lowered", "flow_connections_unexplained")},
          {"capture_libs_lowered": 1, "flow_connections_unexplained": 4}, "counters")
    fact(f"before: {sorted(short)} of {SENT} bytes; {len(after)} connections after: exact")


def main(t):
    if platform.machine() != "x86_64":
        raise Skip("the deceiving library is x86-64's")
    t.lab(sensor=False)
    deceived(t)


run(main, needs=["gcc"])
