# SPDX-License-Identifier: Apache-2.0
"""TLS on which a process shakes hands and another one, made from it, goes on.

server ADDR PORT CERT KEY HOW
client ADDR PORT SEED   says SIZE bytes in two pieces and prints what it was told until the end
"""
import hashlib
import os
import socket
import ssl
import sys

HOW = ("reads", "hands over", "frees", "grandchild", "splits", "greets")
SIZE, FIRST = 30_001, 5  # bytes from the client, those of its first piece


def pattern(seed, n):
    return hashlib.shake_128(seed.encode()).digest(n)


def read(s, n):
    got = bytearray()
    while len(got) < n:
        more = s.recv(n - len(got))
        if not more:
            sys.exit(f"only {len(got)} of {n} bytes")
        got += more
    return bytes(got)


def child(work):
    """A process that does that and ends."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def answer(s, said=b""):
    s.sendall((said + read(s, SIZE - len(said)))[::-1])


def greet(s):
    s.sendall(b"hello\n")
    answer(s)


def after(gate, s):
    os.read(gate, 1)
    answer(s)


def serve(ctx, sock, how):
    s = ctx.wrap_socket(sock, server_side=True)
    if how == "splits":  # either direction has keys and numbers of its own
        pid = child(lambda: read(s, SIZE))
        s.sendall(pattern("split", SIZE))
    elif how == "hands over":
        said = read(s, FIRST)
        pid = child(lambda: answer(s, said))
    elif how == "frees":
        gate, opens = os.pipe()
        pid = child(lambda: after(gate, s))
        os.close(gate)
    elif how == "grandchild":
        pid = child(lambda: os.waitpid(child(lambda: answer(s)), 0))
    else:
        pid = child(lambda: (greet if how == "greets" else answer)(s))
    if how in ("frees", "reads"):
        s.close()
    if how == "frees":
        del s
        os.write(opens, b"x")
        os.close(opens)
    print(how, os.waitpid(pid, 0)[1], flush=True)


def server(addr, port, crt, key, how):
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ctx.load_cert_chain(crt, key)
    at = socket.create_server((addr, int(port)))
    print("listening", flush=True)
    while True:
        serve(ctx, at.accept()[0], how)


def client(addr, port, seed):
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ctx.check_hostname, ctx.verify_mode = False, ssl.CERT_NONE
    ctx.keylog_filename = os.environ["SSLKEYLOGFILE"]
    ctx.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    with ctx.wrap_socket(socket.create_connection((addr, int(port)), timeout=20)) as s:
        s.sendall(pattern(seed, SIZE)[:FIRST])
        s.sendall(pattern(seed, SIZE)[FIRST:])
        while more := s.recv(65536):
            sys.stdout.buffer.write(more)


if __name__ == "__main__":
    {"server": server, "client": client}[sys.argv[1]](*sys.argv[2:])
