# SPDX-License-Identifier: Apache-2.0
"""A memcached client over TLS: memc.py HOST PORT NAME COUNT [tls12]. Stores COUNT values of different
sizes under its name, fetches each and compares. One request at a time: memcached may leave what is
sent ahead in its TLS library's buffer until more arrives."""
import hashlib
import ssl
import socket
import sys


def main(host, port, name, count, version=""):
    ctx = ssl.create_default_context()  # writes $SSLKEYLOGFILE
    ctx.check_hostname, ctx.verify_mode = False, ssl.CERT_NONE
    if version == "tls12":
        ctx.maximum_version = ssl.TLSVersion.TLSv1_2
    with ctx.wrap_socket(socket.create_connection((host, int(port)), 10)) as s:
        f = s.makefile("rwb")

        def ask(say, want):
            f.write(say)
            f.flush()
            got = f.read(len(want))
            if got != want:
                sys.exit(f"{name}: {got[:100]!r}")
        for k in range(int(count)):
            v = hashlib.shake_128(b"%d" % k).digest(1 + k * 977).hex().encode()
            key = f"{name}_{k}".encode()
            ask(b"set %s 0 0 %d\r\n%s\r\n" % (key, len(v), v), b"STORED\r\n")
            ask(b"get %s\r\n" % key, b"VALUE %s 0 %d\r\n%s\r\nEND\r\n" % (key, len(v), v))


main(*sys.argv[1:])
