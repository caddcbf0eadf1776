# SPDX-License-Identifier: Apache-2.0
"""asyncio over TLS: an echo server, or many clients of one, all at the same time.

server ADDR PORT CERT KEY
client ADDR PORT CONNECTIONS ROUNDS equal|random
In each round every connection sends a message of its own contents: all of the same length, or each of
a random one, in the air together. Prints "done BYTES" when every echo was right.
"""
import asyncio
import hashlib
import os
import random
import ssl
import sys


async def serve(addr, port, crt, key):
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ctx.load_cert_chain(crt, key)

    async def echo(reader, writer):
        try:
            while True:
                got = await reader.read(65536)
                if not got:
                    break
                writer.write(got)
                await writer.drain()
        except OSError:
            pass
        writer.close()
    server = await asyncio.start_server(echo, addr, int(port), ssl=ctx, backlog=256)
    print("listening", flush=True)
    await server.serve_forever()


async def clients(addr, port, count, rounds, sizes):
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ctx.check_hostname, ctx.verify_mode = False, ssl.CERT_NONE
    if os.environ.get("SSLKEYLOGFILE"):
        ctx.keylog_filename = os.environ["SSLKEYLOGFILE"]
    rng = random.Random(f"{count} {rounds} {sizes}")
    plan = [[(600 if sizes == "equal" else rng.choice((1, 16, 700, 16384, 20000, rng.randrange(1, 100000))))
             for _ in range(count)] for _ in range(rounds)]
    gate, total = asyncio.Barrier(count) if hasattr(asyncio, "Barrier") else None, 0

    async def one(i):
        nonlocal total
        reader, writer = await asyncio.open_connection(addr, int(port), ssl=ctx)
        for r in range(rounds):
            if gate:
                await gate.wait()
            data = hashlib.shake_128(f"{i} {r}".encode()).digest(plan[r][i])
            writer.write(data)
            await writer.drain()
            if await asyncio.wait_for(reader.readexactly(len(data)), 30) != data:
                print("wrong echo", i, r, flush=True)
                return
            total += len(data)
        writer.close()
        await writer.wait_closed()
    await asyncio.gather(*[one(i) for i in range(count)])
    print("done", total, flush=True)


if sys.argv[1] == "server":
    asyncio.run(serve(*sys.argv[2:6]))
else:
    asyncio.run(clients(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), sys.argv[6]))
