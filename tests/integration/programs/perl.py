#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""perl with IO::Socket::SSL as a client and as a server that reads by lines: peeks, then reads."""
from role import PROGS, SRV, check, equal, pattern, roles, run_cmd, sha256, Skip


def play(r):
    if run_cmd("perl", "-MIO::Socket::SSL", "-e", "1").returncode:
        raise Skip("perl has no IO::Socket::SSL")
    (r.dir / "file").write_bytes(pattern("file", 300_000))
    r.https("server", 8443)
    s = r.on("server", "perl-server", "perl", PROGS / "https.pl", "server", SRV, 8444, *r.t.cert(),
             r.dir / "file", 3)
    s.wait_line("listening", where="out")
    r.attach()
    got = r.do("client", "perl", PROGS / "https.pl", "client", SRV, 8443, "/post", r.dir / "file")
    check(sha256(pattern("file", 300_000)).encode() in got, got[-200:])
    for _ in range(3):
        got = r.do("client", "curl", "-sSk", f"https://{SRV}:8444/x", env=r.env)
        equal(got, pattern("file", 300_000), "what curl got")
    r.row("perl IO::Socket::SSL client", "libssl.so.3", "client", 8443)
    r.row("perl IO::Socket::SSL server", "libssl.so.3", "server", 8444, at_least=3)


roles(play, needs=["perl", "curl"])
