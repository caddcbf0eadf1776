#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""openssl s_client and s_server: s_server with SSL_read and SSL_write, and as the little web server -WWW
whose bytes go through OpenSSL's own SSL BIO."""
from role import SRV, check, equal, pattern, roles


def play(r):
    crt, key = r.t.cert()
    (r.dir / "file").write_bytes(pattern("file", 100_000))
    serve = ("openssl", "s_server", "-cert", crt, "-key", key)
    r.on("server", "www", *serve, "-accept", f"{SRV}:8443", "-WWW", "-naccept", 2, cwd=r.dir)
    r.on("server", "rev", *serve, "-accept", f"{SRV}:8444", "-rev", "-naccept", 2)
    plain = r.on("server", "plain", *serve, "-accept", f"{SRV}:8445", "-naccept", 2, stdin=True)
    for port in (8443, 8444, 8445):
        r.listening(port)
    r.attach()
    client = ("openssl", "s_client", "-quiet", "-keylogfile", r.keylog, "-connect")
    for version in ("-tls1_2", "-tls1_3"):
        got = r.do("client", *client, f"{SRV}:8443", version, "-ign_eof",
                   data=b"GET /file HTTP/1.0\r\n\r\n", ok=None)
        check(got.endswith(pattern("file", 100_000)), version, len(got))
        got = r.do("client", *client, f"{SRV}:8444", version, data=b"abcdef\nCLOSE\n", ok=None)
        equal(got.split(b"\n")[0], b"fedcba", "what -rev says")
        c = r.on("client", "talk", *client, f"{SRV}:8445", version, stdin=True)
        c.say("from the client")
        plain.wait_line("from the client", where="out")
        plain.say(f"from the server {version}")
        c.wait_line(f"from the server {version}", where="out")
        c.stop()
    r.row("openssl s_client", "libssl.so.3", "client", 8445, at_least=2)
    r.row("openssl s_server", "libssl.so.3", "server", 8445, at_least=2)
    r.row("openssl s_server -rev", "BIO_f_ssl", "server", 8444, at_least=2)
    r.row("openssl s_server -WWW", "BIO_f_ssl", "server", 8443, at_least=2)


roles(play)
