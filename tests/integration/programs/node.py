#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""node: https and http2 as servers and as clients, and bare TLS with twelve connections at once. TLS in
memory, the sockets apart; OpenSSL in the program itself or in a library, as it was built."""
import shutil

from role import PROGS, SRV, check, equal, pattern, roles, sh, sha256


def play(r):
    js = ("node", f"--tls-keylog={r.keylog}", PROGS / "https.js")
    plain = ("node", PROGS / "https.js")
    lib = "libssl.so.3" if "libssl" in sh("ldd", shutil.which("node")) else "OpenSSL in node"
    for what, port in (("web", 8443), ("web2", 8444), ("echo", 8445), ("echo", 8446), ("web2", 8448)):
        s = r.on("server", f"node-{what}", *js, what, SRV, port, *r.t.cert())
        s.wait_line("listening", where="out")
    r.https("server", 8447)
    r.attach()

    def curl(*args):
        return r.do("client", "curl", "-sSk", *args)
    equal(curl("--http1.1", f"https://{SRV}:8443/a-300000", f"https://{SRV}:8443/b-1"),
          pattern("a", 300_000) + pattern("b", 1), "https server")
    equal(curl("--http2", f"https://{SRV}:8444/a-300000", f"https://{SRV}:8444/b-1"),
          pattern("a", 300_000) + pattern("b", 1), "http2 server")

    def ask(*args, want):
        got = r.do("client", *plain, *args).decode()
        check(want in got, f"node client {args}: {got}")
    big = f"answer 270364 {sha256(pattern('a', 270_364))}"
    ask("get", SRV, 8443, "/a-270364", "/b-1", want=big)
    ask("get", SRV, 8447, "/a-270364", "/b-1", want=big)
    ask("post", SRV, 8447, 1_000_000, want=f"1000000 {sha256(pattern('post', 1_000_000))}")
    ask("get2", SRV, 8448, "/a-270364", "/b-1", "/c-50000", want=big)
    ask("clients", SRV, 8445, 12, 20, "equal", want="done 144000")
    ask("clients", SRV, 8446, 12, 20, "random", want="done ")
    for end in ("server", "client"):
        r.row(f"node {end}, 12 at once, same length", lib, end, 8445, at_least=12)
        r.row(f"node {end}, 12 at once, any length", lib, end, 8446, at_least=12)
    # A fresh client opens two connections at once. What it says on them may leave a
    # doubt: they are told as unmatched then, rather than under an address that may be the other's.
    for end, what in (("server", "node https server"), ("client", "node https client of node")):
        r.row(what, lib, end, 8443, at_least=1)
    # curl has all it asked for and does not wait for the empty frame that ends the stream
    r.row("node http2 server", lib, "server", 8444, peer_unread=64)
    r.row("node https client", lib, "client", 8447, at_least=1)
    r.row("node http2 client", lib, "client", 8448)


roles(play, needs=["node", "curl", "ldd"])
