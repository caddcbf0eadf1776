#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""OpenSSL 1.1: a library file that is no part of this system, first mapped after the agent started."""
import os
import pathlib
import time

from lib import PROGS, PY, check, equal, fact, flows, run, sh, sha256
from lib_debs import Suite


def fetch(t):
    """libssl1.1 of Debian 11, unpacked but not installed."""
    top = Suite("bullseye").unpack(t.dir / "ossl11", "libssl1.1")
    lib = next(top.glob("usr/lib/*/libssl.so.1.1"))
    return lib.parent / "libcrypto.so.1.1", lib


def main(t):
    crypto, ssl = fetch(t)
    t.lab(sensor=False)
    t.nginx()
    body = t.www("file", 300000)
    agent = t.alone("-w", t.dir / "c.pcapng", iface="cli0", ns=t.cli)
    check(str(ssl) not in agent.err(), "the library was known before anybody used it")
    p = t.spawn("old", PY, PROGS / "client11.py", crypto, ssl, "10.71.1.1", 443, "/file", ns=t.cli)
    equal(p.wait(20), 0, "client's exit status")
    answer = pathlib.Path(p.out_path).read_bytes()
    time.sleep(0.5)
    equal(agent.stop(), 0, "agent's exit status")
    check(os.path.basename(ssl) in agent.err(), "probes on", ssl, "not reported:", agent.err()[-400:])
    seen = flows(t.dir / "c.pcapng")
    equal(len(seen), 1, "flows")
    f = seen[0]
    equal(bytes(f.data[0]).split(b"\r\n")[0], b"GET /file HTTP/1.1", "request")
    equal(sha256(bytes(f.data[1])), sha256(answer), "answer as the client got it")
    check(answer.endswith(body), "the client did not get the file")
    fact(f"OpenSSL 1.1: {len(answer)} bytes mirrored, library attached while its first user ran")


run(main, needs=["nginx", "apt-get", "dpkg-deb"])
