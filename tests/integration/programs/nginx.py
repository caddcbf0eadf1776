#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""nginx: server over HTTP/1.1, HTTP/2 and with early data, client of an upstream, four workers under
many short connections."""
from role import CLI, SRV, check, equal, pattern, roles


def early_data(r):
    """A first visit for the session, a second whose request comes with the ClientHello."""
    ask = f"GET /%s HTTP/1.1\r\nHost: {SRV}\r\nConnection: close\r\n\r\n"
    (r.dir / "early").write_bytes((ask % "early").encode())
    client = ("openssl", "s_client", "-connect", f"{SRV}:446", "-keylogfile", r.keylog, "-ign_eof")
    r.do("client", *client, "-sess_out", r.dir / "session", data=(ask % "small").encode())
    got = r.do("client", *client, "-sess_in", r.dir / "session", "-early_data", r.dir / "early")
    check(b"Early data was accepted" in got and got.count(b"HTTP/1.1 200") == 1, got[-300:])


def play(r):
    r.https("client", 9443)
    r.nginx(("443 ssl http2", "444 ssl"), workers=4, extra=f"""
    location /up/ {{ proxy_pass https://{CLI}:9443/; proxy_http_version 1.1; }}
  }}
  server {{
    listen 446 ssl; ssl_protocols TLSv1.3; ssl_early_data on; root {r.dir}/www;
    lingering_close always; # else it resets the connection when it answers before the client's handshake is read
""")
    r.attach()
    big = r.t.www("big", 3_000_000)
    r.t.www("small", 10)
    r.t.www("early", 70000)

    def curl(*args):
        return r.do("client", "curl", "-sSk", *args, env=r.env)
    equal(curl("--http1.1", f"https://{SRV}:444/big"), big, "h1")
    equal(curl("--http2", f"https://{SRV}/big", f"https://{SRV}/small"), big + pattern("small", 10), "h2")
    equal(curl("--http1.1", f"https://{SRV}:444/up/x-300000"), pattern("x", 300000), "through nginx")
    early_data(r)
    r.do("client", "ab", "-q", "-n", "200", "-c", "8", f"https://{SRV}:444/small", env=r.preload())
    r.row("nginx server h1", "libssl.so.3", "server", 444, only=lambda c, s: b"User-Agent: curl" in c,
          at_least=2)
    r.row("nginx server, 4 workers, 200 short", "libssl.so.3", "server", 444, at_least=200)
    r.row("nginx server h2", "libssl.so.3", "server", 443)
    r.row("nginx server, early data", "libssl.so.3", "server", 446, at_least=2)
    r.row("nginx upstream client", "libssl.so.3", "server", 9443)


roles(play, needs=["curl", "nginx", "ab", "gcc"])
