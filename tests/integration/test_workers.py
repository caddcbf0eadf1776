#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""The same blocks to a collector with one worker and to one with four: each connection's packets are the same, in a
file and on an interface, and the text is the same. Two agents tell of all connections, so both ends of each must meet.
Then four are killed in the middle, and stopped in the middle."""
import ctypes
import hashlib
import os
import signal
import socket
import ssl
import struct

from lib import FIN, RST, SYN, binary, check, equal, fact, flows, pattern, run, sh, until

PORT = 3005
FLOWS, SAID, PIECES = 60, 40_000, 8
BEGAN = 1_700_000_000_000_000_000


def frame(kind, body):
    return struct.pack("!BBHI", kind, 0, 0, len(body)) + body


def envelope(kind, seq, frames):
    return struct.pack("!BBHIIQ", kind, 0, 0, len(frames), len(frames), seq) + frames


class Agent:
    """A link to the collector (proto/PROTOCOL.md)."""

    def __init__(self, name):
        ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        ctx.check_hostname, ctx.verify_mode = False, ssl.CERT_NONE
        ctx.set_alpn_protocols(["sslc/1"])
        self.s = ctx.wrap_socket(socket.create_connection(("127.0.0.1", PORT), 20))
        self.seq, self.acked, self.rest = 0, 0, b""
        host = bytes([len(name)]) + name.encode()
        self.s.sendall(envelope(1, 0, frame(1, struct.pack("!H16sHHQQ", 1, os.urandom(16), 0, 1, 1, BEGAN) + host * 2)))

    def block(self, frames):
        self.seq += 1
        self.s.sendall(envelope(2, self.seq, b"".join(frames)))

    def settle(self):
        """Until the last block is acknowledged."""
        while self.acked < self.seq:
            got = self.s.recv(1 << 16)
            check(got, "the collector closed the link")
            self.rest += got
            while len(self.rest) >= 20 + (n := struct.unpack("!I", self.rest.ljust(8)[4:8])[0]):
                body, self.rest = self.rest[20:20 + n], self.rest[20 + n:]
                if body[0] == 11:
                    self.acked = struct.unpack("!Q", body[8:16])[0]


def opened(i, end):
    client, server = bytes([10, 1, i % 7, i]), bytes([10, 2, 0, i % 3])
    return frame(4, struct.pack("!Q16sQQBBBB", i + 1, hashlib.sha256(b"%d" % i).digest()[:16], BEGAN, 0, 6, 4, end, 3)
                 + client + bytes(12) + server + bytes(12)
                 + struct.pack("!HHHHIII", 20000 + i, 443, 1460, 0, 0, i, 0) + b"\4prog" + b"\0\0" + b"\0")


def said(i, d, piece, of={}):
    size = SAID // PIECES
    whole = of.setdefault((i, d), pattern(f"{i}{'><'[d]}", SAID))
    return frame(6, struct.pack("!QQQBBH", i + 1, piece * size, BEGAN + (2 * piece + d + 1) * 1_000_000, d, 1, size)
                 + whole[piece * size:(piece + 1) * size])


def first_half(agents):
    for end, a in enumerate(agents):
        a.block(opened(i, end) for i in range(FLOWS))
        a.settle()
    for piece in range(PIECES // 2):
        for a in agents:
            a.block(said(i, d, piece) for i in range(FLOWS) for d in (0, 1))
            a.settle()  # one after the other, so that it is the same each time


def second_half(agents):
    for piece in range(PIECES // 2, PIECES):
        for a in agents:
            a.block(said(i, d, piece) for i in range(FLOWS) for d in (0, 1))
            a.settle()
    for a in agents:
        a.block(frame(9, struct.pack("!QQB", i + 1, BEGAN + 100_000_000, 1)) for i in range(FLOWS))


def shown(path):
    """Each connection's packets by its client's port. Bare acknowledgements differ: a poke is a matter of time."""
    out = {}
    for f in flows(path):
        equal((bytes(f.data[0]), bytes(f.data[1])), tuple(pattern(f"{f.client[1] - 20000}{c}", SAID) for c in "><"),
              f"bytes of {f}")
        check(f.client[1] not in out, f"port {f.client[1]} twice")
        out[f.client[1]] = [(d, p.src, p.dst, p.seq, p.ack, p.flags, p.win, p.payload) for d, p in f.packets
                            if p.payload or p.flags & (SYN | FIN | RST)]
    equal(len(out), FLOWS, f"connections in {path}")
    return out


def through(t, ns, workers):
    """What is in the file, what arrives at the interface, and the lines on standard output."""
    pcap, wire = t.dir / f"{workers}.pcapng", t.dir / f"{workers}.wire.pcap"
    tap = t.spawn("tcpdump", "tcpdump", "-i", "in0", "-w", wire, "-U", "-B", "65536", "tcp", ns=ns)
    tap.wait_line("listening on")
    p = start(t, ns, workers, "-w", pcap, "--print")
    agents = Agent("web"), Agent("db")
    first_half(agents)
    second_half(agents)
    for a in agents:
        a.settle()
    is_over = [f"forge/{i}" for i in range(workers)] if workers > 1 else []
    equal(sorted(n for n in names(p) if n.startswith("forge/")), is_over, "threads")
    equal(len(shown(pcap)), FLOWS, "connections in the file once all is acknowledged")
    equal(p.stop(), 0, "collector's exit status")
    got = p.counters()
    equal(got["session_bytes"], FLOWS * SAID * 2, "bytes forged")
    equal(got["session_bytes_standby"], FLOWS * SAID * 2, "bytes told by the other end")
    check(not any(v for k, v in got.items() if k.startswith("sink_") and "lost" in k), "lost:", got)
    size = 24 + 16 * got["sink_iface_packets"] + got["sink_iface_bytes"]
    until(lambda: wire.exists() and wire.stat().st_size >= size, 10, "all packets at the other end")
    tap.stop()
    sh("editcap", "-F", "pcapng", wire, wire.with_suffix(".pcapng"))
    lines = sorted(line.split(" ", 1)[1] for line in p.out().splitlines())  # but for the time: pokes move it on
    return shown(pcap), shown(wire.with_suffix(".pcapng")), lines


def names(p):
    return [open(f"/proc/{p.pid}/task/{n}/comm").read().strip() for n in os.listdir(f"/proc/{p.pid}/task")]


def start(t, ns, workers, *args):
    """On one processor: else packets of a thread that moves overtake each other."""
    p = t.spawn("collector", "taskset", "-c", min(os.sched_getaffinity(0)), binary(), "-C", "--insecure", "-p", PORT,
                "--workers", workers, "--state-dir", t.dir / "state", "-o", "out0", *args, ns=ns)
    p.wait_line(r"\bready\b")
    return p


def main(t):
    ns = t.ns("w")
    t.link(ns, "out0", [], ns, "in0", [])
    ctypes.CDLL(None).setns(os.open(f"/run/netns/{ns}", os.O_RDONLY), 0)
    one, four = through(t, ns, 1), through(t, ns, 4)
    for a, b, what in zip(one, four, ("in the file", "at the interface", "printed")):
        check(a == b, f"{what}: not the same from four workers")
    check(one[0] == one[1] and len(one[2]) == FLOWS * 2 * PIECES, f"{len(one[2])} lines")
    fact(f"{FLOWS} connections, told from both ends: the same packets and lines from one worker and from four")

    p = start(t, ns, 4)
    first_half([Agent("web"), Agent("db")])
    until(lambda: p.counters().get("ledger_connections") == FLOWS, 10, "all connections open")
    p.kick(signal.SIGKILL)
    p.wait(5)
    half = t.dir / "half.pcapng"
    p = start(t, ns, 4, "-w", half)
    check(f"ended={FLOWS} " in p.err(), "not all that was open is ended:", p.err())
    agents = [Agent("web"), Agent("db")]
    first_half(agents)
    for a in agents:
        a.settle()
    equal(p.stop(), 0, "collector's exit status")
    got = flows(half)
    equal({f.end for f in got}, {"rst"}, "ends")
    equal([len(f.data[d]) for f in got for d in (0, 1)], [SAID // 2] * FLOWS * 2, "bytes")
    fact("four workers, killed: all are reset by the next ones; stopped: by themselves")


run(main, needs=["tcpdump", "editcap", "taskset"])
