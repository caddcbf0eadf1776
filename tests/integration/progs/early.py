# SPDX-License-Identifier: Apache-2.0
"""TLS clients whose last handshake message and first request leave in one segment: a server that reads
ahead has the request in its buffer before any call for it was made. HOST PORT N"""
import socket
import ssl
import sys

host, port, n = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
ctx = ssl.create_default_context()
ctx.check_hostname, ctx.verify_mode = False, ssl.CERT_NONE


def exchange():
    raw = socket.create_connection((host, port), timeout=20)
    inward, outward = ssl.MemoryBIO(), ssl.MemoryBIO()
    s = ctx.wrap_bio(inward, outward)
    while True:
        try:
            s.do_handshake()
            break
        except ssl.SSLWantReadError:
            raw.sendall(outward.read())
            inward.write(raw.recv(65536))
    me = raw.getsockname()
    s.write(f"GET /who?early_{me[1]} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    raw.sendall(outward.read())
    answer = b""
    while got := raw.recv(65536):
        inward.write(got)
        try:
            while piece := s.read(65536):
                answer += piece
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
    raw.close()
    print("flow", *me[:2], answer.endswith(f"early_{me[1]}\n".encode()), flush=True)


for _ in range(n):
    exchange()
