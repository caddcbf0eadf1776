#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""haproxy: frontend and backend both with TLS, HTTP/1.1 and HTTP/2, two threads."""
from role import CLI, SRV, equal, pattern, roles


def play(r):
    r.https("client", 9443)
    crt, key = r.t.cert()
    both = r.dir / "both.pem"
    both.write_text(crt.read_text() + key.read_text())
    (r.dir / "haproxy.cfg").write_text(f"""
global
  nbthread 2
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
frontend in
  bind {SRV}:8443 ssl crt {both} alpn h2,http/1.1
  default_backend out
backend out
  http-reuse never
  server s {CLI}:9443 ssl verify none
""")
    r.on("server", "haproxy", "haproxy", "-db", "-f", r.dir / "haproxy.cfg")
    r.listening(8443)
    r.attach()
    (r.dir / "up").write_bytes(pattern("up", 1_000_000))
    for how in ("--http1.1", "--http2"):
        got = r.do("client", "curl", "-sSk", how, f"https://{SRV}:8443/a-2000000",
                   f"https://{SRV}:8443/b-10", env=r.env)
        equal(got, pattern("a", 2000000) + pattern("b", 10), f"through haproxy, {how}")
        r.do("client", "curl", "-sSk", how, "--data-binary", f"@{r.dir / 'up'}",
             f"https://{SRV}:8443/post", env=r.env)
    r.row("haproxy frontend h2", "libssl.so.3", "server", 8443, lambda c, s: c.startswith(b"PRI"), at_least=2)
    r.row("haproxy frontend h1", "libssl.so.3", "server", 8443, at_least=2)
    r.row("haproxy backend", "libssl.so.3", "server", 9443)


roles(play, needs=["curl", "haproxy"])
