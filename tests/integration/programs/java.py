#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Java's own TLS is out of reach: what it says must not be in the mirror at its end, under no tuple, while
the other end's mirror is whole."""
from role import PROGS, SRV, check, equal, roles, sh


def play(r):
    crt, key = r.t.cert()
    store = r.dir / "store.p12"
    sh("openssl", "pkcs12", "-export", "-in", crt, "-inkey", key, "-out", store, "-passout", "pass:password")
    sh("javac", "-d", r.dir, PROGS / "Https.java", timeout=60)
    java = ("java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", r.dir, "Https")
    s = r.on("server", "java-server", *java, "server", SRV, 8443, store)
    s.wait_line("listening", 30, "out")
    r.https("server", 8444)
    r.attach()
    equal(r.do("client", "curl", "-sSk", f"https://{SRV}:8443/x", env=r.env), b"j" * 10000, "from Java")
    got = r.do("client", *java, "client", f"https://{SRV}:8444/x-20000", timeout=60)
    check(b"old 20000" in got and b"new 20000" in got, got)
    r.row("Java HttpsServer", "JSSE", "server", 8443, mirrored=False)
    r.row("Java HttpsURLConnection, HttpClient", "JSSE", "client", 8444, mirrored=False, at_least=2)


roles(play, needs=["java", "javac", "curl"])
