# SPDX-License-Identifier: Apache-2.0
"""Conversations: by all ways to call OpenSSL (progs/calls.c), and one that goes on and on; and what a mirror must
show of them."""
import re
import time

from lib import check, equal, fact, find_flow, flows, pattern, settle, sha256

WAYS = ("plain", "ex", "peek", "peek_ex", "bio", "reuse", "fork", "threads", "renegotiation", "key_update",
        "auth", "rfd_wfd", "set0", "nonblock", "zero", "cbc", "cbc_nonblock")
SIZE = 50_000  # of what Talk uploads at a time
CALL = re.compile(r"^port (\d+)\nsent (\d+ \w+)\ngot (\d+ \w+)$", re.M)


def converse(t, cmd, port, way):
    """[(way, client's port, server's port, from client, from server)] of its connections."""
    crt, key = t.cert()
    s = t.spawn(f"server-{way}", *cmd, "server", "10.71.1.1", port, crt, key, way, ns=t.srv)
    s.wait_line("listening", where="out")
    c = t.spawn(f"client-{way}", *cmd, "client", "10.71.1.1", port, crt, key, way, ns=t.cli)
    equal((c.wait(30), s.wait(20)), (0, 0), f"{way}: status {c.err()} {s.err()}")
    said, heard = CALL.findall(c.out()), CALL.findall(s.out())
    equal([(p, got, sent) for p, sent, got in heard], said, f"{way}: TLS itself")
    equal(len(said), 3 if way in ("reuse", "set0", "rfd_wfd") else 1, f"{way}: connections")
    return [(way, int(p), port, sent, got) for p, sent, got in said]


def judge(seen, talks, end):
    """What is wrong with the mirror of these talks, as one end of them sees it."""
    wrong = []
    for way, port, srv_port, sent, got in talks:
        f = find_flow(seen, port, srv_port)
        mirrored = [f"{len(d)} {sha256(bytes(d))}" for d in f.data]
        if mirrored != [sent, got] or not f.is_sound() or f.end != "fin":
            wrong.append(f"{end}'s end, {way}: {f}, moved {sent.split()[0]} and {got.split()[0]}")
        else:
            fact(f"{end}'s end, {way}: {sent.split()[0]} + {got.split()[0]} bytes exact")
    return wrong


class Talk:
    """One connection that uploads without end; what it has said."""

    def __init__(self, t):
        self.c = t.helper("client", "client.py", "10.71.1.1", 443, ns=t.cli)
        self.port = int(self.c.wait_line(r"connected \S+ (\d+)", where="out").group(1))
        self.said, self.n = bytearray(), 0

    def some(self, until, at_least):
        """Uploads until `until()`, and no fewer."""
        begun = time.monotonic()
        for i in range(10000):
            if i >= at_least and until():
                return
            check(time.monotonic() < begun + 60, "still not after a minute of uploads")
            path = f"/post?{self.n}"
            self.c.say(f"post {path} {SIZE}", "answer 200")
            self.said += f"POST {path} HTTP/1.1\r\nHost: mirror.test\r\nContent-Length: {SIZE}\r\n\r\n".encode()
            self.said += pattern(path, SIZE)
            self.n += 1

    def judge(self, pcap, what):
        self.c.say("close", "done close")
        settle(pcap, lambda seen: any(f.client[1] == self.port and f.end for f in seen), 20)
        f = find_flow(flows(pcap, sound=False), self.port, 443)
        check(f.is_sound(), f"{what}: {f}")
        equal((f.end, len([p for _, p in f.packets if p.flags & 2])), ("fin", 2), f"{what}: end, and SYNs")
        equal((len(f.data[0]), sha256(f.data[0])), (len(self.said), sha256(self.said)), f"{what}: uploads")
        equal(bytes(f.data[1]).count(b"stored\n"), self.n, f"{what}: answers")
        fact(f"{what}: one connection, {len(self.said)} bytes, each once")
