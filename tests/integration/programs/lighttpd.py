#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""lighttpd with mod_openssl, HTTP/1.1 and HTTP/2."""
from role import SRV, equal, pattern, roles


def play(r):
    crt, key = r.t.cert()
    big = r.t.www("big", 2_000_000)
    (r.dir / "lighttpd.conf").write_text(f"""
server.modules = ("mod_openssl")
server.document-root = "{r.dir}/www"
server.bind = "{SRV}"
server.port = 8443
server.feature-flags += ("server.h2proto" => "enable")
ssl.engine = "enable"
ssl.pemfile = "{crt}"
ssl.privkey = "{key}"
""")
    r.on("server", "lighttpd", "lighttpd", "-D", "-f", r.dir / "lighttpd.conf")
    r.listening(8443)
    r.attach()
    for how in ("--http1.1", "--http2"):
        got = r.do("client", "curl", "-sSk", how, f"https://{SRV}:8443/big", f"https://{SRV}:8443/big",
                   env=r.env)
        equal(got, big + big, how)
    r.row("lighttpd mod_openssl h2", "libssl.so.3", "server", 8443, lambda c, s: c.startswith(b"PRI"))
    r.row("lighttpd mod_openssl h1", "libssl.so.3", "server", 8443)


roles(play, needs=["curl", "lighttpd"])
