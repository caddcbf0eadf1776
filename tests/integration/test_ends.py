#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Both ends of each connection are captured, by an agent at the server and one at the client. The sensor
sees each byte once; also when either agent is killed while a connection talks and started again, and
when it is stopped in good order."""
import re
import signal
import time

from lib import check, equal, fact, find_flow, flows, pattern, run, settle, sha256

SIZE = 50_000


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


class Ends:
    def __init__(self, t):
        self.t = t
        t.link(t.cli, "tun1", ["10.71.3.1/24"], t.col, "col1", ["10.71.3.2/24"])
        t.enroll()
        t.enroll(host="10.71.3.2", ns=t.cli, state="client.state")
        self.agents = {"server": self.start("server"), "client": self.start("client")}

    def start(self, end, **kw):
        if end == "server":
            return self.t.agent(name="at-server", **kw)
        return self.t.agent(ns=self.t.cli, iface="cli0", host="10.71.3.2", state="client.state", name="at-client",
                            **kw)

    def hurt(self, end, how, pcap):
        """An agent goes while a connection talks, and comes back."""
        talk = Talk(self.t)
        talk.some(lambda: True, 30)
        old = self.agents[end]
        old.kick(how)
        talk.some(lambda: not old.alive(), 10)
        equal(old.wait(1), 0 if how == signal.SIGTERM else -how, "agent's status")
        new = self.agents[end] = self.start(end, ready=0)
        talk.some(lambda: re.search(r"^ready$", new.err(), re.M), 30)
        talk.some(lambda: True, 30)
        talk.judge(pcap, f"agent at the {end} gone by {how.name} and back")


def main(t):
    t.lab(sensor=False)
    t.nginx()
    pcap = t.dir / "out.pcapng"
    col = t.collector("-w", pcap)
    ends = Ends(t)
    talk = Talk(t)
    talk.some(lambda: True, 50)
    talk.judge(pcap, "both there")
    for end in list(ends.agents):
        for how in (signal.SIGKILL, signal.SIGTERM):
            ends.hurt(end, how, pcap)
    for a in ends.agents.values():
        t.drain(a)
    equal(col.stop(), 0, "collector's exit status")
    counters = col.counters()
    check(counters.get("session_bytes_standby", 0) > 50 * SIZE, "nothing came from two ends", counters)
    check(counters.get("session_bytes_filled", 0) + counters.get("session_takeovers", 0),
          "no end went on for the other", counters)
    for name in ("session_bytes_gap", "session_ends_differ", "session_tuple_conflicts"):
        equal(counters.get(name, 0), 0, name)
    fact({k: v for k, v in counters.items() if k.startswith(("session_takeovers", "session_bytes"))})


run(main, needs=["nginx"])
