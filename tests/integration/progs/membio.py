# SPDX-License-Identifier: Apache-2.0
"""N TLS connections through asyncio, whose TLS objects have memory BIOs; speaks what membio.c speaks.

server|client ADDR PORT CERT KEY N ROUNDS SIZE [hold]
Each round the client sends a message of SIZE bytes ("random": up to 40000, another size each time) in
one call, and the server answers with as many. Each 32 bytes name connection, direction and offset.
hold: wait for a line on stdin after the first round. Prints "flow PORT SENT GOT" for each, then "done".
"""
import asyncio
import os
import ssl
import sys

role, addr, port, crt, key, count, rounds, size = sys.argv[1:9]
port, count, rounds = int(port), int(count), int(rounds)
size = 0 if size == "random" else int(size)
hold = "hold" in sys.argv[9:]
BLOCK = 32


def message_len(me, r):
    if size:
        return size
    x = (me * 2654435761 + r * 40503) & 0xffffffff
    x ^= x >> 15
    x = x * 2246822519 & 0xffffffff
    x ^= x >> 13
    return 1 + x % 40000


def stream(me, way, at, n):
    first, last = at // BLOCK, (at + n + BLOCK - 1) // BLOCK
    text = b"".join(b"<%05d %d %021d>\n" % (me, way, i) for i in range(first, last))
    return text[at - first * BLOCK:at - first * BLOCK + n]


async def expect(reader, me, way, at, n):
    got = await asyncio.wait_for(reader.readexactly(n), 60)
    if got != stream(me, way, at, n):
        sys.exit(f"membio: another connection's bytes on {me}")


async def serve(reader, writer):
    me, at = writer.get_extra_info("peername")[1], 0
    for r in range(rounds):
        n = message_len(me, r)
        await expect(reader, me, 0, at, n)
        writer.write(stream(me, 1, at, n))
        await writer.drain()
        at += n
    await reader.read(1)
    writer.close()
    print("flow", me, at, at, flush=True)
    left.append(me)
    if len(left) == count:
        done.set()


async def ask(gate):
    reader, writer = await asyncio.open_connection(addr, port, ssl=ctx)
    me, at = writer.get_extra_info("sockname")[1], 0
    for r in range(rounds):
        if r == 1:
            await gate()
        n = message_len(me, r)
        writer.write(stream(me, 0, at, n))
        await writer.drain()
        await expect(reader, me, 1, at, n)
        at += n
    writer.close()
    print("flow", me, at, at, flush=True)


async def run_server():
    global done
    done = asyncio.Event()
    server = await asyncio.start_server(serve, addr, port, ssl=ctx, backlog=512)
    print("listening", flush=True)
    await asyncio.wait_for(done.wait(), 90)
    server.close()


async def run_client():
    waiting, go = [], asyncio.Event()

    async def gate():
        waiting.append(1)
        if hold and len(waiting) == count:
            print("held", flush=True)
            asyncio.get_running_loop().add_reader(0, lambda: (os.read(0, 16), go.set()))
        if hold:
            await go.wait()
    await asyncio.gather(*[ask(gate) for _ in range(count)])


left, done = [], None
if role == "server":
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ctx.load_cert_chain(crt, key)
    asyncio.run(run_server())
else:
    ctx = ssl.create_default_context()
    ctx.check_hostname, ctx.verify_mode = False, ssl.CERT_NONE
    asyncio.run(run_client())
print("done", flush=True)
