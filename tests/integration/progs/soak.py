# SPDX-License-Identifier: Apache-2.0
"""TLS connections of every kind of life, one after the other or for long. HOST PORT SECONDS KIND

mixed: reset before and amid an answer, closed without close_notify, idle while others come, ended well.
long: LONG connections that say something now and then, and live for all the time.
Prints "made N".
"""
import socket
import ssl
import struct
import sys
import time

host, port, seconds, kind = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
LONG, IDLE = 20, 60
ctx = ssl.create_default_context()
ctx.check_hostname, ctx.verify_mode = False, ssl.CERT_NONE
ctx.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
end = time.monotonic() + seconds
made = 0


def connect():
    global made
    s = ctx.wrap_socket(socket.create_connection((host, port), timeout=20))
    made += 1
    return s


def ask(s, path, whole=True):
    s.sendall(f"GET {path} HTTP/1.1\r\nHost: mirror.test\r\n\r\n".encode())
    return s.recv(65536) if whole else s.recv(100)


def reset(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    socket.socket(fileno=s.detach()).close()


def end_well(s):
    try:
        s.unwrap().close()
    except OSError:
        s.close()


def before(s):
    s.sendall(b"GET /half HTTP/1.1\r\nHo")
    reset(s)


def amid(s):
    ask(s, "/kb100", whole=False)
    reset(s)


def curt(s):
    ask(s, "/who?curt")
    socket.socket(fileno=s.detach()).close()


def well(s):
    for i in range(3):
        ask(s, f"/who?well{i}")
    end_well(s)


def mixed():
    idle = []
    while time.monotonic() < end:
        for life in (before, amid, curt, well):
            life(connect())
        idle.append(connect())
        ask(idle[-1], "/who?idle")
        if len(idle) > IDLE:
            end_well(idle.pop(0))
    for i, s in enumerate(idle):
        (reset if i % 2 else end_well)(s)


def long():
    lives = [connect() for _ in range(LONG)]
    while time.monotonic() < end:
        for s in lives:
            ask(s, "/who?long")
        time.sleep(min(1, max(0, end - time.monotonic())))
    for s in lives:
        end_well(s)


{"mixed": mixed, "long": long}[kind]()
print("made", made, flush=True)
