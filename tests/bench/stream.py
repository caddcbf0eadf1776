# SPDX-License-Identifier: Apache-2.0
"""A prepared tunnel stream and its sender, for the benches of the collector: what an agent would say (PROTOCOL.md)."""
import ctypes
import hashlib
import os
import pathlib
import random
import select
import socket
import ssl
import struct
import time

from lib import check

PORT = 3005
BEGAN = 1_700_000_000_000_000_000
FLOWS, WRITE = 32, 16384
REQUEST = b"GET /file HTTP/1.1\r\nHost: 10.2.0.1\r\nUser-Agent: bench\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n"


class InOut(ctypes.Structure):
    _fields_ = [("at", ctypes.c_void_p), ("size", ctypes.c_size_t), ("pos", ctypes.c_size_t)]


class Zstd:
    """One stream, flushed after each block (PROTOCOL.md section 2)."""
    LEVEL, WINDOW_LOG, FLUSH = 100, 101, 1

    def __init__(self):
        self.lib = ctypes.CDLL("libzstd.so.1")
        self.lib.ZSTD_createCCtx.restype = ctypes.c_void_p
        self.lib.ZSTD_compressStream2.restype = ctypes.c_size_t
        self.ctx = ctypes.c_void_p(self.lib.ZSTD_createCCtx())
        for what, value in ((self.LEVEL, 1), (self.WINDOW_LOG, 19)):
            self.lib.ZSTD_CCtx_setParameter(self.ctx, what, value)

    def block(self, raw):
        out = ctypes.create_string_buffer(len(raw) + (len(raw) >> 7) + 1024)
        to = InOut(ctypes.cast(out, ctypes.c_void_p), len(out), 0)
        src = InOut(ctypes.cast(ctypes.c_char_p(raw), ctypes.c_void_p), len(raw), 0)
        left = self.lib.ZSTD_compressStream2(self.ctx, ctypes.byref(to), ctypes.byref(src), self.FLUSH)
        check(left == 0 and src.pos == len(raw), "zstd:", left)
        return out.raw[:to.pos]


def frame(kind, body):
    return struct.pack(">BBHI", kind, 0, 0, len(body)) + body


def envelope(kind, flags, wire, raw_len, seq):
    return struct.pack(">BBHIIQ", kind, flags, 0, len(wire), raw_len, seq) + wire


def flow_open(flow):
    return frame(4, struct.pack(">Q16sQQ", flow, hashlib.sha256(b"%d" % flow).digest()[:16], BEGAN, 0)
                 + bytes([6, 4, 1, 3]) + bytes([10, 1, 0, flow]) + bytes(12) + bytes([10, 2, 0, 1]) + bytes(12)
                 + struct.pack(">HHHHIII", 40000 + flow, 443, 1460, 0, 0, 1, 33) + b"\x05nginx\0\0\0")


def data(flow, offset, direction, payload, ts):
    return frame(6, struct.pack(">QQQBBH", flow, offset, ts, direction, 1, len(payload)) + payload)


def noise():
    return random.Random(1).randbytes(4 << 20)


def text():
    """Like records of an application: zstd makes a fourth of it."""
    rng = random.Random(1)
    words = [rng.randbytes(rng.randint(2, 7)).hex() for _ in range(600)]
    lines = (f'{{"id": {rng.randrange(10**9)}, "name": "{rng.choice(words)}", "tags": ["{rng.choice(words)}", '
             f'"{rng.choice(words)}"], "seen": {rng.random() < 0.5}}}\n' for _ in range(50_000))
    return "".join(lines).encode()[:4 << 20]


def frames(total, size, content, alike):
    """Frames of exchanges on FLOWS connections, and the payload bytes of each. alike: most of an answer was in the
    one before; else the same again is far behind what zstd remembers."""
    step = 7919 if alike else size
    at = {f: [0, 0] for f in range(1, FLOWS + 1)}
    ts, done, n = BEGAN, 0, 0
    for f in at:
        yield flow_open(f), 0
    while done < total:
        flow = n % FLOWS + 1
        start = n * step % (len(content) - size)
        answer = ANSWER % size + content[start:start + size]
        parts = [(0, REQUEST)] + [(1, answer[i:i + WRITE]) for i in range(0, len(answer), WRITE)]
        for direction, part in parts:
            ts += 10_000
            yield data(flow, at[flow][direction], direction, part, ts), len(part)
            at[flow][direction] += len(part)
            done += len(part)
        n += 1
    for f in at:
        yield frame(9, struct.pack(">QQB", f, ts, 1)), 0


class Stream:
    """All that an agent says on a link after its TLS handshake: answers of `size` bytes out of `content`."""

    def __init__(self, total, size, block, content, compressed=True, alike=False):
        hello = frame(1, struct.pack(">H16sHHQQ", 1, os.urandom(16), 0, 1, 1, BEGAN) + b"\5bench\5bench")
        zstd, raw, out = Zstd(), b"", [envelope(1, 0, hello, len(hello), 0)]
        self.payload = self.blocks = 0

        def seal(raw):
            self.blocks += 1
            out.append(envelope(2, int(compressed), zstd.block(raw) if compressed else raw, len(raw), self.blocks))
        for f, n in frames(total, size, content, alike):
            raw += f
            self.payload += n
            if len(raw) >= block:
                seal(raw)
                raw = b""
        if raw:
            seal(raw)
        self.bytes = b"".join(out)

    def send(self):
        """Until the last block is acknowledged; the seconds."""
        ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        ctx.check_hostname, ctx.verify_mode = False, ssl.CERT_NONE
        ctx.minimum_version = ssl.TLSVersion.TLSv1_3
        ctx.set_alpn_protocols(["sslc/1"])
        with ctx.wrap_socket(socket.create_connection(("127.0.0.1", PORT), 20)) as s:
            view, answers = memoryview(self.bytes), Answers()
            began = time.monotonic()
            for i in range(0, len(view), 1 << 16):
                s.sendall(view[i:i + (1 << 16)])
                while s.pending() or select.select([s], [], [], 0)[0]:
                    answers.take(s.recv(1 << 16))
            while answers.acked < self.blocks:
                answers.take(s.recv(1 << 16))
            return time.monotonic() - began


class Answers:
    def __init__(self):
        self.rest, self.acked = b"", 0

    def take(self, got):
        check(got, "the collector closed the link")
        self.rest += got
        while len(self.rest) >= 20:
            n = 20 + struct.unpack(">I", self.rest[4:8])[0]
            if len(self.rest) < n:
                break
            body, self.rest = self.rest[20:n], self.rest[n:]
            if body[:1] == b"\x0b":
                self.acked = struct.unpack(">Q", body[8:16])[0]


def cpu_s(pid):
    return sum(int((f / "schedstat").read_text().split()[0])
               for f in pathlib.Path(f"/proc/{pid}/task").iterdir()) / 1e9
