# SPDX-License-Identifier: Apache-2.0
"""N concurrent TLS connections, each naming its own address and port in what it sends.

HOST PORT N ROUNDS MODE        MODE: sockets (blocking, SSL on the socket) or asyncio (memory BIOs)
Prints "flow ADDR PORT" for each, then "done N"; "bad …" when an answer names another connection.
"""
import asyncio
import random
import socket
import ssl
import sys

host, port, count, rounds, mode = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
ctx = ssl.create_default_context()
ctx.check_hostname, ctx.verify_mode = False, ssl.CERT_NONE


def request(me, r):
    return f"GET /who?me={me[0]}_{me[1]}_{r} HTTP/1.1\r\nHost: mirror.test\r\n\r\n".encode()


def judge(me, r, answer):
    want = f"{me[0]} {me[1]} /who?me={me[0]}_{me[1]}_{r}\n".encode()
    if not answer.endswith(want):
        print("bad", me, r, answer[-80:], flush=True)


def sockets():
    conns = []
    for _ in range(count):
        s = ctx.wrap_socket(socket.create_connection((host, port), timeout=30))
        conns.append((s, s.getsockname()[:2]))
    for r in range(rounds):
        random.shuffle(conns)
        for s, me in conns:
            s.sendall(request(me, r))
        for s, me in conns:
            answer = b""
            while not answer.endswith(f"_{r}\n".encode()):
                got = s.recv(4096)
                if not got:
                    break
                answer += got
            judge(me, r, answer)
    for s, me in conns:
        print("flow", *me)
        s.close()


async def one():
    reader, writer = await asyncio.open_connection(host, port, ssl=ctx)
    me = writer.get_extra_info("sockname")[:2]
    for r in range(rounds):
        writer.write(request(me, r))
        await writer.drain()
        judge(me, r, await asyncio.wait_for(reader.readuntil(f"_{r}\n".encode()), 30))
    print("flow", *me)
    writer.close()


async def memory_bios():
    gate = asyncio.Semaphore(200)

    async def gated():
        async with gate:
            await one()
    await asyncio.gather(*[gated() for _ in range(count)])


if mode == "sockets":
    sockets()
else:
    asyncio.run(memory_bios())
print("done", count, flush=True)
