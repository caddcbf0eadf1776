# SPDX-License-Identifier: Apache-2.0
"""HTTP proxy for CONNECT. ADDR PORT [CERT KEY]: with a certificate TLS is spoken to the client first.

One line a connection on stdout when it is over, as JSON: the client's port, asked and answered (the CONNECT
exchange, hex), up and down (what was relayed after it: length and SHA-256).
"""
import hashlib
import json
import select
import socket
import ssl
import sys
import threading

addr, port = sys.argv[1], int(sys.argv[2])
ctx = None
if len(sys.argv) > 3:
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ctx.load_cert_chain(sys.argv[3], sys.argv[4])
lock = threading.Lock()
OK = b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n"


def request(s):
    got = b""
    while not got.endswith(b"\r\n\r\n"):
        c = s.recv(1)
        if not c:
            return got
        got += c
    return got


def relay(a, b):
    """Both ways until one side ends: [from a, from b]."""
    got = [bytearray(), bytearray()]
    while True:
        ready = [a] if getattr(a, "pending", int)() else select.select([a, b], [], [], 20)[0]
        if not ready:
            return got
        for i, (s, to) in enumerate(((a, b), (b, a))):
            if s not in ready:
                continue
            data = s.recv(65536)
            if not data:
                return got
            to.sendall(data)
            got[i] += data


def serve(raw, peer):
    said = {"peer": peer[1]}
    try:
        s = ctx.wrap_socket(raw, server_side=True) if ctx else raw
        asked = request(s)
        host, to = asked.split()[1].decode().rsplit(":", 1)
        up = socket.create_connection((host, int(to)), timeout=20)
        said["upstream"] = up.getsockname()[1]
        s.sendall(OK)
        got = relay(s, up)
        said.update(asked=asked.hex(), answered=OK.hex(), up=[len(got[0]), hashlib.sha256(got[0]).hexdigest()],
                    down=[len(got[1]), hashlib.sha256(got[1]).hexdigest()])
        up.close()
        s.close()
    except (OSError, IndexError, ValueError) as e:
        said["error"] = repr(e)
    raw.close()
    with lock:
        print(json.dumps(said), flush=True)


def accept(listener):
    while True:
        threading.Thread(target=serve, args=listener.accept(), daemon=True).start()


threading.Thread(target=accept, args=(socket.create_server((addr, port), backlog=16),), daemon=True).start()
print("listening", flush=True)
for _ in sys.stdin:
    pass
