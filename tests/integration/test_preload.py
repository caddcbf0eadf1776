#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""The preload library instead of probes: curl and nginx, what they moved is what the mirror shows, at either end,
byte for byte; and nobody's results change."""
import os
import re
import time

from lib import check, equal, fact, flows, losses, run, sha256


def requests_of(f):
    return re.findall(rb"GET (\S+) HTTP/1.1\r\n", bytes(f.data[0]))


def main(t):
    t.lab(sensor=False)
    out = t.dir / "out.pcapng"
    agent = t.alone("--capture", "preload", "--run-dir", t.run_dir(), "-w", out, iface="any")
    os.environ.update(t.preloaded())
    try:
        t.nginx(workers=2, extra="location /x { return 200 'x'; }")
        want = {}
        for i, size in enumerate((1, 1000, 100000, 3000000)):
            want[f"/f{i}"] = t.www(f"f{i}", size)
        for path, data in want.items():
            got = t.dir / f"got{path[2:]}"
            t.curl("-o", got, f"https://10.71.1.1{path}")
            equal(sha256(got.read_bytes()), sha256(data), f"{path}: TLS itself")
    finally:
        for k in t.preloaded():
            os.environ.pop(k)
    time.sleep(1)
    equal(agent.stop(), 0, "agent's exit status")
    counters = agent.counters()
    fact("losses:", losses(agent) or "none")
    seen = flows(out, sound=False)
    fact(f"{len(seen)} flows: {seen}")
    for path, data in want.items():
        mine = [f for f in seen if requests_of(f) == [path.encode()]]
        equal(len(mine), 1, f"{path}: flows; counters {counters}")
        for f in mine:
            check(f.is_sound() and f.end == "fin", f"{path}: {f}")
            check(bytes(f.data[1]).endswith(b"\r\n\r\n" + data), f"{path}: other bytes: {f}")


run(main, needs=["nginx", "curl"])
