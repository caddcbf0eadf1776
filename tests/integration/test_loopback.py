#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Both ends of a connection on the monitored host: one forged flow, each byte once, not two flows."""
import time

from lib import equal, fact, flows, run, sha256

N = 20


def main(t):
    t.lab(sensor=False)
    t.nginx(listen=("443 ssl", "[::]:443 ssl"))
    body = t.www("file", 300000)
    col = t.collector("-w", t.dir / "out.pcapng")
    t.enroll()
    here = t.alone("-w", t.dir / "lo.pcapng", iface="lo")
    both = t.agent(iface="lo")
    for url in ("https://127.0.0.1/file", "https://[::1]/file"):
        for _ in range(N // 2):
            t.curl("-o", "/dev/null", url, ns=t.srv)
    time.sleep(1)
    t.drain(here)
    t.drain(both, col)
    for name in ("lo", "out"):
        seen = flows(t.dir / f"{name}.pcapng")
        equal(len(seen), N, f"{name}: flows for {N} connections")
        for f in seen:
            equal(f.server[1], 443, f"{name}: server's port")
            equal(bytes(f.data[0]).count(b"GET /file "), 1, f"{name}: requests in {f}")
            equal(sha256(bytes(f.data[1][-len(body):])), sha256(body), f"{name}: body of {f}")
            equal(bytes(f.data[1]).count(b"HTTP/1.1 200"), 1, f"{name}: answers in {f}")
            equal(f.end, "fin", f"{name}: end of {f}")
    fact(f"{N} connections over lo, {N} flows, alone and through the tunnel")


run(main, needs=["nginx", "curl"])
