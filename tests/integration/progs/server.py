# SPDX-License-Identifier: Apache-2.0
"""TLS server, a thread a connection: reads, counts, answers. ADDR PORT CERT KEY MODE [N]

sink: read to EOF, then send N bytes and close without close_notify
echo: what it reads it sends back; leaves when the client does
hold: read and stay
rst:  read once, then reset the connection
late: wait a second before the first read
"""
import hashlib
import socket
import ssl
import struct
import sys
import threading
import time

addr, port, crt, key, mode = sys.argv[1:6]
n = int(sys.argv[6]) if len(sys.argv) > 6 else 0
ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
ctx.load_cert_chain(crt, key)
ctx.options |= ssl.OP_IGNORE_UNEXPECTED_EOF  # a FIN without close_notify is an end, no error


def serve(raw, peer):
    s = ctx.wrap_socket(raw, server_side=True)
    total, h = 0, hashlib.sha256()
    if mode == "late":
        time.sleep(1)
    try:
        while True:
            got = s.recv(65536)
            if not got:
                break
            total += len(got)
            h.update(got)
            if mode == "echo":
                s.sendall(got)
            if mode == "rst":
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                break
        if mode == "sink":
            s.sendall(hashlib.shake_128(b"sink").digest(n))
    except OSError as e:
        print("error", peer[1], e, flush=True)
    if mode == "hold":
        threading.Event().wait(60)
    socket.socket(fileno=s.detach()).close()
    print("served", peer[1], total, h.hexdigest(), flush=True)


listener = socket.create_server((addr, int(port)), backlog=512,
                                family=socket.AF_INET6 if ":" in addr else socket.AF_INET)
print("listening", flush=True)
while True:
    c, p = listener.accept()
    threading.Thread(target=serve, args=(c, p), daemon=True).start()
