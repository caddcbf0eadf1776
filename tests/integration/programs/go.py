#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Go's crypto/tls: net/http as server and client over HTTP/1.1 and HTTP/2, and twelve connections at once."""
from role import GO_CACHE, PROGS, SRV, check, roles, sh


def play(r):
    exe = r.dir / "https-go"
    sh("go", "build", "-o", exe, PROGS / "https.go", timeout=300,
       env={"PATH": "/usr/local/go/bin:/usr/bin:/bin", "HOME": str(r.dir), "GOCACHE": str(GO_CACHE), "GOFLAGS": "-mod=mod",
            "GO111MODULE": "off", "GOPROXY": "off", "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"})
    for what, port in (("web", 8443), ("web", 8444), ("echo", 8445), ("echo", 8446), ("web", 8447), ("web", 8448)):
        s = r.on("server", f"go-{what}", exe, what, SRV, port, *r.t.cert(), env=r.env)
        s.wait_line("listening", where="out")
    r.attach()

    def curl(*args):
        return r.do("client", "curl", "-sSk", *args)
    for how, port in (("--http1.1", 8443), ("--http2", 8444)):
        got = curl(how, f"https://{SRV}:{port}/a-300000", f"https://{SRV}:{port}/b-1")
        check(len(got) == 300_001, how, len(got))
        curl(how, "-d", "@" + str(r.t.cert()[0]), f"https://{SRV}:{port}/post")

    def ask(*args, want):
        got = r.do("client", exe, *args).decode()
        check(want in got, f"go client {args}: {got}")
    urls = [f"https://{SRV}:%d/{x}" for x in ("a-266213", "b-1", "c-50000")]
    ask("get", "-h1", *[u % 8447 for u in urls], want="answer 1 266213")
    ask("get", *[u % 8448 for u in urls], want="answer 2 266213")
    ask("post", f"https://{SRV}:8448/post", 1_000_000, want="answer 2")
    ask("clients", SRV, 8445, 12, 20, "equal", want="done")
    ask("clients", SRV, 8446, 12, 20, "random", want="done")
    lib = "crypto/tls"
    for name, curls, own in (("h1", 8443, 8447), ("h2", 8444, 8448)):
        r.row(f"Go net/http server {name}", lib, "server", curls, at_least=2)
        r.row(f"Go net/http client {name}", lib, "client", own)
    for end in ("server", "client"):
        r.row(f"Go {end}, 12 at once, same length", lib, end, 8445, at_least=12)
        r.row(f"Go {end}, 12 at once, any length", lib, end, 8446, at_least=12)


roles(play, needs=["go", "curl"])
