#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""curl as a client of nginx: HTTP/1.1, HTTP/2, upload, several connections at once."""
from role import SRV, SRV6, check, equal, pattern, roles


def play(r):
    r.attach()
    r.nginx(("443 ssl http2", "[::]:443 ssl http2", "444 ssl http2", "445 ssl"))
    big = r.t.www("big", 3_000_000)
    r.t.www("small", 10)
    (r.dir / "up").write_bytes(pattern("up", 2_000_000))

    def curl(*args):
        return r.do("client", "curl", "-sSk", *args, env=r.env)
    equal(curl("--http1.1", f"https://{SRV}:445/small", f"https://{SRV}:445/big"),
          pattern("small", 10) + big, "what curl got")
    equal(curl("--http1.1", f"https://[{SRV6}]/small"), pattern("small", 10), "what curl got, IPv6")
    equal(curl("--http2", f"https://{SRV}/small", f"https://{SRV}/big"), pattern("small", 10) + big,
          "what curl got, h2")
    curl("--http2", "-Z", "--no-progress-meter", *[w for i in range(8) for w in ("-o", f"/dev/null",
         f"https://{SRV}/big?{i}")])
    for how in ("--http1.1", "--http2"):
        equal(curl(how, "--data-binary", f"@{r.dir / 'up'}", f"https://{SRV}:444/post"), b"stored\n",
              "answer to the upload")
    curl("--tls-max", "1.2", "--http1.1", f"https://{SRV}:445/big", "-o", "/dev/null")
    r.row("curl client h1", "libssl.so.3", "client", 445, at_least=2)
    r.row("curl client h2", "libssl.so.3", "client", 443, only=lambda c, s: c.startswith(b"PRI"))
    r.row("curl client h1, IPv6", "libssl.so.3", "client", 443)
    r.row("curl client upload", "libssl.so.3", "client", 444, at_least=2)


roles(play, needs=["curl", "nginx"])
