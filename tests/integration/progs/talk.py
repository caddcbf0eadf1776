# SPDX-License-Identifier: Apache-2.0
"""One end of one TLS connection, doing what stdin says, one answer line a command, and nothing between
commands: no call into TLS is waiting then (with asyncio, only the event loop).

blocking|asyncio listen|connect ADDR PORT CERT KEY
send SEED SIZE: one call | ones SEED SIZE: a call a byte | recv SIZE
half: shutdown(SHUT_WR) | rst: SO_LINGER 0 | fin: close without close_notify | close
"""
import asyncio
import hashlib
import os
import socket
import ssl
import struct
import sys

mode, side, addr, port, crt, key = sys.argv[1:7]
if side == "listen":
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ctx.load_cert_chain(crt, key)
else:
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ctx.check_hostname, ctx.verify_mode = False, ssl.CERT_NONE
    if os.environ.get("SSLKEYLOGFILE"):
        ctx.keylog_filename = os.environ["SSLKEYLOGFILE"]
ctx.options |= ssl.OP_IGNORE_UNEXPECTED_EOF


def bytes_of(w):
    return hashlib.shake_128(w[1].encode()).digest(int(w[2]))


def say(what, data=b""):
    print(what, len(data), hashlib.sha256(data).hexdigest(), flush=True)


def connected(me, peer):
    print("connected", (me if side == "connect" else peer)[1], flush=True)


def end(sock, how):
    """sock: the bare socket, no longer TLS's."""
    if how == "half":
        sock.shutdown(socket.SHUT_WR)
    if how == "rst":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def blocking():
    if side == "listen":
        raw = socket.create_server((addr, int(port)), family=socket.AF_INET6 if ":" in addr else socket.AF_INET,
                                   dualstack_ipv6=addr == "::")
        print("listening", flush=True)
        raw = raw.accept()[0]
    else:
        raw = socket.create_connection((addr, int(port)), timeout=30)
    s = ctx.wrap_socket(raw, server_side=side == "listen")
    connected(s.getsockname(), s.getpeername())
    for line in sys.stdin:
        w = line.split()
        if w[0] == "send":
            s.sendall(bytes_of(w))
            say("sent", bytes_of(w))
        elif w[0] == "ones":
            for b in bytes_of(w):
                s.send(bytes([b]))
            say("sent", bytes_of(w))
        elif w[0] == "recv":
            got = bytearray()
            while len(got) < int(w[1]):
                more = s.recv(min(65536, int(w[1]) - len(got)))
                if not more:
                    break
                got += more
            say("received", bytes(got))
        elif w[0] == "half":
            copy = socket.socket(fileno=os.dup(s.fileno()))
            end(copy, "half")
            copy.close()
            say("done")
        elif w[0] in ("rst", "fin"):
            end(s, w[0])
            socket.socket(fileno=s.detach()).close()
            say("done")
        elif w[0] == "close":
            try:
                s.unwrap().close()
            except OSError:
                s.close()
            say("done")


async def commands(reader, writer):
    loop = asyncio.get_running_loop()
    connected(writer.get_extra_info("sockname"), writer.get_extra_info("peername"))
    while True:
        w = (await loop.run_in_executor(None, sys.stdin.readline)).split()
        if not w:
            return
        if w[0] == "send":
            writer.write(bytes_of(w))
            await writer.drain()
            say("sent", bytes_of(w))
        elif w[0] == "ones":
            for b in bytes_of(w):
                writer.write(bytes([b]))
                await writer.drain()
            say("sent", bytes_of(w))
        elif w[0] == "recv":
            try:
                say("received", await reader.readexactly(int(w[1])))
            except asyncio.IncompleteReadError as e:
                say("received", e.partial)
        elif w[0] == "rst":
            end(writer.get_extra_info("socket"), "rst")
            writer.transport.abort()
            await asyncio.sleep(0.1)
            say("done")
        elif w[0] == "close":
            writer.close()
            try:
                await asyncio.wait_for(writer.wait_closed(), 5)
            except (OSError, asyncio.TimeoutError):
                pass
            say("done")


async def memory_bios():
    if side == "connect":
        await commands(*await asyncio.open_connection(addr, int(port), ssl=ctx, limit=1 << 27))
        return
    over = asyncio.Event()

    async def serve(reader, writer):
        await commands(reader, writer)
        over.set()
    await asyncio.start_server(serve, addr, int(port), ssl=ctx, limit=1 << 27)
    print("listening", flush=True)
    await over.wait()


if mode == "blocking":
    blocking()
else:
    asyncio.run(memory_bios())
