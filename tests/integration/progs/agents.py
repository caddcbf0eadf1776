# SPDX-License-Identifier: Apache-2.0
"""Many agents at once, each with one connection to tell of; they speak the tunnel's protocol (proto/PROTOCOL.md)
themselves. STATE_DIR HOST PORT FIRST COUNT SIZE

Agent i, from FIRST on, tells that 10.80.i/256.i%256, port 20000 + i, said pattern("i>", SIZE) to 10.90.0.1, port 443,
which said pattern("i<", SIZE). Half of it first ("half" when all of it is acknowledged), the rest and the close after
a line on stdin ("done", when all is). Who is refused says so ("refused CODE TEXT") and ends all.
"""
import asyncio
import os
import ssl
import struct
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from lib import pattern  # noqa: E402

PIECE = 30000
HELLO, WELCOME, REFUSED, OPEN, DATA, CLOSE, ACK = 1, 2, 3, 4, 6, 9, 11


def text8(s):
    return bytes([len(s)]) + s.encode()


def frame(kind, body):
    return struct.pack("!BBHI", kind, 0, 0, len(body)) + body


def envelope(kind, seq, frames):
    return struct.pack("!BBHIIQ", kind, 0, 0, len(frames), len(frames), seq) + frames


def now():
    return time.time_ns()


class Agent:
    def __init__(self, i, size):
        self.i, self.seq, self.acked = i, 0, 0
        self.said = pattern(f"{i}>", size), pattern(f"{i}<", size)
        self.at = 0

    async def answer(self):
        kind, flags, _, wire, raw, seq = struct.unpack("!BBHIIQ", await self.r.readexactly(20))
        assert (kind, flags, seq) == (1, 0, 0) and wire == raw, (kind, flags, wire, raw, seq)
        frames = await self.r.readexactly(wire)
        while frames:
            what, _, _, n = struct.unpack_from("!BBHI", frames)
            yield what, frames[8:8 + n]
            frames = frames[8 + n:]

    async def connect(self, host, port, ctx):
        self.r, self.w = await asyncio.open_connection(host, port, ssl=ctx, server_hostname="")
        body = struct.pack("!H16sHHQQ", 1, os.urandom(16), 0, 1, 1, now()) + text8(f"host{self.i}") + text8("agents.py")
        self.w.write(envelope(1, 0, frame(HELLO, body)))
        async for what, body in self.answer():
            if what == REFUSED:
                print("refused", struct.unpack_from("!H", body)[0], body[3:].decode(), flush=True)
                os._exit(0)
            assert what == WELCOME, (what, body)
            assert struct.unpack_from("!Q", body, 20)[0] == 0, "resumes with what it never had"

    def block(self, frames):
        self.seq += 1
        self.w.write(envelope(2, self.seq, frames))

    def open(self):
        client, server = bytes([10, 80, self.i >> 8, self.i & 255]), bytes([10, 90, 0, 1])
        self.block(frame(OPEN, struct.pack("!Q16sQQBBBB16s16sHHHHIII", 1, os.urandom(16), now(), 0, 6, 4, 0, 3, client,
                                           server, 20000 + self.i, 443, 1460, 0, 0, self.i, 0)
                         + text8("prog") + struct.pack("!H", 0) + text8("")))

    async def say(self, upto):
        while self.at < upto:
            n = min(PIECE, upto - self.at)
            self.block(b"".join(frame(DATA, struct.pack("!QQQBBH", 1, self.at, now(), d, 1, n) + said[self.at:self.at + n])
                                for d, said in enumerate(self.said)))
            self.at += n
            await self.w.drain()

    async def settle(self):
        while self.acked < self.seq:
            async for what, body in self.answer():
                assert what == ACK, (what, body)
                self.acked, = struct.unpack("!Q", body[:8])


async def main(state, host, port, first, count, size):
    ctx = ssl.create_default_context(cafile=f"{state}/ca.pem")
    ctx.check_hostname, ctx.minimum_version = False, ssl.TLSVersion.TLSv1_3
    ctx.load_cert_chain(f"{state}/agent.pem", f"{state}/agent.key")
    ctx.set_alpn_protocols(["sslc/1"])
    agents = [Agent(i, size) for i in range(first, first + count)]

    async def first_half(a):
        await a.connect(host, port, ctx)
        a.open()
        await a.say(size // 2)
        await a.settle()

    async def second_half(a):
        await a.say(size)
        a.block(frame(CLOSE, struct.pack("!QQB", 1, now(), 1)))
        await a.settle()
        a.w.close()

    await asyncio.gather(*map(first_half, agents))
    print("half", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await asyncio.gather(*map(second_half, agents))
    print("done", flush=True)


asyncio.run(asyncio.wait_for(main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:7])), 60))
