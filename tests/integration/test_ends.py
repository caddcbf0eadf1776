#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Both ends of each connection are captured, by an agent at the server and one at the client. The sensor
sees each byte once; also when either agent is killed while a connection talks and started again, and
when it is stopped in good order."""
import re
import signal

from lib import check, equal, fact, run
from lib_conversations import SIZE, Talk

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
