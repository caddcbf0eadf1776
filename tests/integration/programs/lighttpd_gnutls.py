#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""lighttpd with mod_gnutls, HTTP/1.1 and HTTP/2. What would have blocked it sends again by a call without a
buffer, and the answers are larger than the socket takes at once, so that this happens."""
from role import SRV, Skip, equal, lib, roles

PORT = 8444


def play(r):
    if not lib.pathlib.Path("/usr/lib/lighttpd/mod_gnutls.so").exists():
        raise Skip("lighttpd-mod-gnutls is not installed")
    crt, key = r.t.cert()
    big = r.t.www("big", 2_000_000)
    (r.dir / "lighttpd.conf").write_text(f"""
server.modules = ("mod_gnutls")
server.document-root = "{r.dir}/www"
server.bind = "{SRV}"
server.port = {PORT}
server.feature-flags += ("server.h2proto" => "enable")
ssl.engine = "enable"
ssl.pemfile = "{crt}"
ssl.privkey = "{key}"
""")
    r.on("server", "lighttpd", "lighttpd", "-D", "-f", r.dir / "lighttpd.conf")
    r.listening(PORT)
    r.attach()
    for how in ("--http1.1", "--http2"):
        for more in ((), ("--tls-max", "1.2")):
            got = r.do("client", "curl", "-sSk", how, *more, f"https://{SRV}:{PORT}/big", f"https://{SRV}:{PORT}/big",
                       env=r.env)
            equal(got == big + big, True, f"whole, {how}")
    r.row("lighttpd mod_gnutls h2", "libgnutls.so.30", "server", PORT, lambda c, s: c.startswith(b"PRI"), at_least=2)
    r.row("lighttpd mod_gnutls h1", "libgnutls.so.30", "server", PORT, at_least=2)


roles(play, needs=["curl", "lighttpd"])
