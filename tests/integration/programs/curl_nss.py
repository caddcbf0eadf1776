#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""libcurl over NSS as a client, by a program of our own."""
from role import SRV, Skip, equal, lib, pattern, roles, sha256

PORT = 8443


def play(r):
    if not list(lib.pathlib.Path("/usr/lib").glob("*/libcurl-nss.so.4")):
        raise Skip("libcurl3-nss is not installed")
    exe = r.t.compile("curlnss.c", ("-l:libcurl-nss.so.4",))
    r.https("server", PORT)  # Debian's NSS writes no secrets: the other end does
    up = pattern("up", 400_000)
    (r.dir / "up").write_bytes(up)
    r.attach()
    got = r.do("client", exe, *(f"https://{SRV}:{PORT}/f-{n}" for n in (1, 70_000, 2_000_000)))
    equal(sha256(got), sha256(b"".join(pattern("f", n) for n in (1, 70_000, 2_000_000))), "what libcurl got")
    equal(r.do("client", exe, "-u", r.dir / "up", f"https://{SRV}:{PORT}/post"), f"{len(up)} {sha256(up)}\n".encode(), "answer")
    r.row("libcurl-nss client", "libnss3", "client", PORT, at_least=2)


roles(play, needs=["gcc"])
