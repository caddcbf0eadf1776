#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""GnuTLS's own programs, gnutls-serv and gnutls-cli: echo over TLS 1.2 and 1.3, and half of a mebibyte of
lines."""
from role import SRV, equal, roles

PORT = 4433


def play(r):
    crt, key = r.t.cert()
    r.on("server", "gnutls-serv", "gnutls-serv", "--echo", "-q", "-p", PORT, "--x509certfile", crt,
         "--x509keyfile", key)
    r.listening(PORT)
    r.attach()
    for i, (n, args) in enumerate(((1, ()), (5000, ()), (5000, ("--priority=NORMAL:-VERS-TLS1.3",)))):
        said = b"".join(b"line %d of talk %d %s\n" % (k, i, b"x" * (k % 60)) for k in range(n))
        (r.dir / "said").write_bytes(said)
        (r.dir / "got").write_bytes(b"")
        # it ends with its input: that stays open until all of the echo is there
        wait = f"for i in $(seq 200); do [ $(tail -c 4000 got | grep -c '^line {n - 1} ') = 1 ] && break; sleep 0.05; done"
        r.do("client", "sh", "-c", f"(cat said; {wait}) | exec gnutls-cli --insecure {' '.join(args)} -p {PORT} {SRV} >got",
             env=r.env)
        heard = b"".join(x for x in (r.dir / "got").read_bytes().splitlines(True) if x.startswith(b"line "))
        equal(heard == said, True, f"echo whole, {len(heard)} of {len(said)} bytes")
    r.row("gnutls-serv server", "libgnutls.so.30", "server", PORT, at_least=3)
    r.row("gnutls-cli client", "libgnutls.so.30", "client", PORT, at_least=3)


roles(play, needs=["gnutls-serv", "gnutls-cli"])
