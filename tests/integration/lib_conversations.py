# SPDX-License-Identifier: Apache-2.0
"""Conversations by all ways to call OpenSSL (progs/calls.c), and what a mirror must show of them."""
import re

from lib import equal, fact, find_flow, sha256

WAYS = ("plain", "ex", "peek", "peek_ex", "bio", "reuse", "fork", "threads", "renegotiation", "key_update",
        "auth", "rfd_wfd", "set0", "nonblock", "zero", "cbc", "cbc_nonblock")
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
