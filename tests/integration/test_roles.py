#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Who connected and how it ended, captured at the server only and at the client only; connections that
were open before the agent started; RST, FIN, half close, a killed program."""
import re
import signal
import time

from lib import check, equal, fact, find_flow, flows, run, sha256, pattern


def connect(t, port=443):
    c = t.helper("client", "client.py", "10.71.1.1", port, ns=t.cli)
    return c, (int(c.wait_line(r"connected \S+ (\d+)", where="out").group(1)), port)


def serve(t, port, mode, *args):
    crt, key = t.cert()
    s = t.helper(f"server-{mode}", "server.py", "10.71.1.1", port, crt, key, mode, *args, ns=t.srv)
    s.wait_line("listening", where="out")
    return s


def closings(t):
    """{what: (client port, server port)}, one connection for each way to end."""
    ports = {}
    c, ports["close"] = connect(t)
    c.say("get /who", "answer 200")
    c.say("close", "done close")
    c, ports["fin"] = connect(t)
    c.say("get /who", "answer 200")
    c.say("fin", "done fin")
    c, ports["rst by client"] = connect(t)
    c.say("get /who", "answer 200")
    c.say("rst", "done rst")
    c, ports["killed client"] = connect(t)
    c.say("get /who", "answer 200")
    c.kick(signal.SIGKILL)
    c, ports["rst by server"] = connect(t, 7001)
    c.say("send 1000", "sent 1000")
    c, ports["half close"] = connect(t, 7002)
    c.say("send 1000", "sent 1000")
    c.say("half", "done half")
    time.sleep(0.3)
    got = c.say("eof", r"received (\d+) (\w+)")
    equal(got.group(1), "200000", "half close: bytes after the client's FIN")
    c.say("fin", "done fin")
    for how in ("fin", "rst"):
        c, ports[f"{how} before the read"] = connect(t, 7004)
        c.say("send 1000", "sent 1000")
        c.say(how, f"done {how}")
    c, ports["killed server"] = connect(t, 7003)
    c.say("send 1000", "sent 1000")
    return ports


def judge(end, seen, ports):
    def flow(what):
        f = find_flow(seen, *ports[what])
        check(f.is_sound(), f"{end}, {what}: {f}")
        equal(f.client[0], "10.71.1.2", f"{end}, {what}: who sent SYN")
        return f
    for what in ("close", "fin"):
        equal(flow(what).end, "fin", f"{end}, {what}")
    equal(flow("fin").fins, [0, 1], f"{end}: who closed first")
    equal(flow("rst by client").end, "rst", f"{end}: reset by the client")
    equal(flow("rst by client").rsts, [0], f"{end}: who reset")
    equal(flow("rst by server").end, "rst", f"{end}: reset by the server")
    equal(flow("rst by server").rsts, [1], f"{end}: who reset")
    for what in ("killed client", "killed server"):
        check(flow(what).end in ("fin", "rst"), f"{end}, {what}: {flow(what)}")
    for how in ("fin", "rst"):  # what the program reads after its peer's end was still said
        f = flow(f"{how} before the read")  # unread session tickets turn a close into RST, too
        check(f.end in ("fin", "rst"), f"{end}: {how} before the server reads: {f}")
        equal(len(f.data[0]), 1000, f"{end}: {how} before the server reads: bytes")
    h = flow("half close")
    equal((h.end, h.fins), ("fin", [0, 1]), f"{end}: half close")
    equal(len(h.data[1]), 200000, f"{end}: bytes after the client's FIN")
    at = {d: i for i, (d, p) in enumerate(h.packets) if p.payload}
    fin = next(i for i, (d, p) in enumerate(h.packets) if d == 0 and p.flags & 1)
    check(fin < at[1], f"{end}: the client's FIN came after the answer")
    fact(f"{end}: 9 ways to end, SYN and end from the right side")


def main(t):
    t.lab(sensor=False)
    t.nginx()
    serve(t, 7001, "rst")
    serve(t, 7002, "sink", 200000)
    late = serve(t, 7004, "late")
    victim = serve(t, 7003, "hold")
    # open before any agent; a first request that nobody mirrors
    early, early_ports = connect(t)
    early.say("get /who?before", "answer 200")

    ends = {"server": t.alone("-w", t.dir / "server.pcapng", name="at-server"),
            "client": t.alone("-w", t.dir / "client.pcapng", ns=t.cli, iface="cli0",
                              name="at-client")}
    early.say("get /who?after", "answer 200")
    early.say("post /post 30000", "answer 200")
    early.say("close", "done close")
    ports = closings(t)
    time.sleep(0.3)
    victim.kick(signal.SIGKILL)
    time.sleep(1.5)
    equal(len(re.findall(r"^served \d+ 1000 ", late.out(), re.M)), 2, "late server's reads")
    for p in ends.values():
        t.drain(p)
    for end in ends:
        seen = flows(t.dir / f"{end}.pcapng", sound=False)
        judge(f"{end}'s end", seen, ports)
        f = find_flow(seen, *early_ports)
        check(f.is_sound() and f.end == "fin", f"{end}'s end, open before the agent: {f}")
        equal(f.client[0], "10.71.1.2", f"{end}'s end, open before the agent: SYN from")
        asked, answered = bytes(f.data[0]), bytes(f.data[1])
        equal(re.findall(rb"^(?:GET|POST) (\S+)", asked, re.M), [b"/who?after", b"/post"],
              f"{end}'s end, open before the agent: requests")
        equal(sha256(asked[-30000:]), sha256(pattern("/post", 30000)), "its upload")
        equal(answered.count(b"HTTP/1.1 200"), 2, "its answers")
        fact(f"{end}'s end: connection that was open before the agent goes on")


run(main, needs=["nginx"])
