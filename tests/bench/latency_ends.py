# SPDX-License-Identifier: Apache-2.0
"""The programs around bench/latency, one role a process.

write ADDR PORT CERT KEY   accepts one TLS connection; `go N` on stdin: N small messages, one in 20 ms, each
                           with the time just before it was given to SSL_write()
read ADDR PORT             its client
watch IFACE                `go` on stdin: how long ago each message that is seen there was written, in
                           microseconds by the kernel's own stamp of the frame, one a line; `end` ends it
"""
import re
import select
import socket
import ssl
import struct
import sys
import time

SO_TIMESTAMPNS = 35
EVERY_S = 0.02
MARK = re.compile(rb"<latency (\d{19})>")


def write(addr, port, crt, key):
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ctx.load_cert_chain(crt, key)
    listener = socket.create_server((addr, int(port)))
    print("listening", flush=True)
    raw = listener.accept()[0]
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    s = ctx.wrap_socket(raw, server_side=True)
    s.write(b"hello")
    for line in sys.stdin:
        due = time.monotonic()
        for _ in range(int(line.split()[1])):
            s.write(b"<latency %019d>" % time.time_ns())
            due += EVERY_S
            time.sleep(max(0, due - time.monotonic()))
        print("ok", flush=True)


def read(addr, port):
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ctx.check_hostname, ctx.verify_mode = False, ssl.CERT_NONE
    s = ctx.wrap_socket(socket.create_connection((addr, int(port)), timeout=60))
    while s.read(65536):
        print("read", flush=True)


def watch(iface):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    s.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    s.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
    s.bind((iface, 0))
    print("watching", flush=True)
    seen = []
    while True:
        ready = select.select([s, sys.stdin], [], [])[0]
        if s in ready:
            frame, extra, _, _ = s.recvmsg(65536, 64)
            m = MARK.search(frame)
            if m:
                sec, ns = struct.unpack("qq", extra[0][2])
                seen.append((sec * 1_000_000_000 + ns - int(m.group(1))) / 1000)
        elif sys.stdin in ready:
            word = sys.stdin.readline().strip()
            if word != "go":
                break
            for us in seen:
                print(f"{us:.1f}")
            print("ok", flush=True)
            seen = []


{"write": write, "read": read, "watch": watch}[sys.argv[1]](*sys.argv[2:])
