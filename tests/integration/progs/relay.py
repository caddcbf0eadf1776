# SPDX-License-Identifier: Apache-2.0
"""TCP relay that loses its connections on command. LADDR LPORT HOST PORT

stdin: cut (reset every connection through it), stop (refuse new ones, cut), go, exit. One answer line.
"""
import select
import socket
import struct
import sys
import threading

laddr, lport, host, port = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
lock, live, moved, open_gate = threading.Lock(), set(), [0], [True]


def drop(s):
    try:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def pump(a):
    try:
        b = socket.create_connection((host, port), timeout=5)
    except OSError:
        a.close()
        return
    with lock:
        live.update((a, b))
    try:
        while True:
            r, _, _ = select.select([a, b], [], [], 60)
            if not r:
                continue
            for s in r:
                data = s.recv(65536)
                if not data:
                    return
                (b if s is a else a).sendall(data)
                moved[0] += len(data)
    except (OSError, ValueError):
        pass
    finally:
        with lock:
            live.difference_update((a, b))
        a.close()
        b.close()


def accept(listener):
    while True:
        s, _ = listener.accept()
        if open_gate[0]:
            threading.Thread(target=pump, args=(s,), daemon=True).start()
        else:
            drop(s)
            s.close()


listener = socket.create_server((laddr, lport), backlog=64)
threading.Thread(target=accept, args=(listener,), daemon=True).start()
print("listening", flush=True)
for line in sys.stdin:
    w = line.split()
    if w[0] == "exit":
        break
    if w[0] in ("stop", "go"):
        open_gate[0] = w[0] == "go"
    with lock:
        n = len(live) // 2
        if w[0] in ("cut", "stop"):
            for s in list(live):
                drop(s)
    print("ok", w[0], n, moved[0], flush=True)
