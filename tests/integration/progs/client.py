# SPDX-License-Identifier: Apache-2.0
"""One TLS connection that does what stdin says, one answer line a command. HOST PORT [SNDBUF]

get PATH | post PATH SIZE | send N | recv N | eof | pair N | rate BYTES CHUNK PAUSE
half: shutdown(SHUT_WR) | fin: close without close_notify | close | rst: SO_LINGER 0 | exit
"""
import hashlib
import os
import socket
import ssl
import struct
import sys
import time

host, port = sys.argv[1], int(sys.argv[2])
ctx = ssl.create_default_context()
ctx.check_hostname, ctx.verify_mode = False, ssl.CERT_NONE
ctx.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
local = int(os.environ.get("CLIENT_PORT", "0"))
raw = socket.create_connection((host, port), timeout=30, source_address=("", local) if local else None)
raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
s = ctx.wrap_socket(raw, server_hostname="mirror.test")
me = s.getsockname()
print("connected", me[0], me[1], flush=True)


def bytes_of(seed, n):
    return hashlib.shake_128(seed.encode()).digest(n)


def exact(n):
    b = bytearray()
    while len(b) < n:
        got = s.recv(min(65536, n - len(b)))
        if not got:
            break
        b += got
    return bytes(b)


def response():
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        c = s.recv(1)
        if not c:
            return "closed", b""
        head += c
    length = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return head.split()[1].decode(), exact(length)


def report(status, body):
    print("answer", status, len(body), hashlib.sha256(body).hexdigest(), flush=True)


for line in sys.stdin:
    w = line.split()
    if w[0] == "get":
        s.sendall(f"GET {w[1]} HTTP/1.1\r\nHost: mirror.test\r\n\r\n".encode())
        report(*response())
    elif w[0] == "post":
        body = bytes_of(w[1], int(w[2]))
        s.sendall(f"POST {w[1]} HTTP/1.1\r\nHost: mirror.test\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        report(*response())
    elif w[0] == "send":
        body = bytes_of(w[2] if len(w) > 2 else "send", int(w[1]))
        s.sendall(body)
        print("sent", len(body), hashlib.sha256(body).hexdigest(), flush=True)
    elif w[0] == "recv":
        body = exact(int(w[1]))
        print("received", len(body), hashlib.sha256(body).hexdigest(), flush=True)
    elif w[0] == "eof":
        body = exact(1 << 40)
        print("received", len(body), hashlib.sha256(body).hexdigest(), flush=True)
    elif w[0] == "rate":
        body = bytes_of("rate", int(w[1]))
        for i in range(0, len(body), int(w[2])):
            s.sendall(body[i:i + int(w[2])])
            time.sleep(float(w[3]))
        print("sent", len(body), hashlib.sha256(body).hexdigest(), flush=True)
    elif w[0] == "half":
        os_dup = socket.socket(fileno=os.dup(s.fileno()))
        os_dup.shutdown(socket.SHUT_WR)
        os_dup.close()
        print("done half", flush=True)
    elif w[0] == "fin":
        socket.socket(fileno=s.detach()).close()
        print("done fin", flush=True)
    elif w[0] == "rst":
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.socket(fileno=s.detach()).close()
        print("done rst", flush=True)
    elif w[0] == "close":
        try:
            s.unwrap().close()
        except OSError:
            s.close()
        print("done close", flush=True)
    elif w[0] == "exit":
        break
