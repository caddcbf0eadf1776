#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Agent, then collector killed with SIGKILL at full load: no application error, and the mirror goes on
after each restart, with a connection that was open all the time, too."""
import re
import signal
import time

from lib import check, equal, fact, run, settle


def has(path):
    return lambda seen: any(path.encode() in f.data[0] for f in seen)


def main(t):
    t.lab()
    t.nginx()
    t.www("kb", 1000)
    pcap, first = t.dir / "one.pcapng", t.dir / "first.pcapng"
    t.nginx(listen=("8443 ssl",), name="nginx-quiet")
    agent, col = t.pair("-o", "out0", "-w", first)
    old = t.helper("old", "client.py", "10.71.1.1", 8443, ns=t.cli)
    old.wait_line("connected", where="out")
    old.say("get /who?before-agent", "answer 200")
    wrk = t.spawn("wrk", "wrk", "-t1", "-c16", "-d22s", "https://10.71.1.1/kb", ns=t.cli)
    time.sleep(2)
    seen = col.counters()
    check(sum(seen.values()) > 0, "the collector counted nothing under load")

    agent.kick(signal.SIGKILL)
    agent.wait(5)
    time.sleep(1)
    check(wrk.alive(), "wrk ended with the agent")
    agent = t.agent()
    fact("agent killed and started again under load")

    old.say("get /who?after-agent", "answer 200")  # long before its former agent is given up
    settle(first, has("/who?after-agent"), 20)
    col.kick(signal.SIGKILL)
    col.wait(5)
    time.sleep(1)
    col = t.collector("-o", "out0", "-w", pcap)
    fact("collector killed and started again under load")
    time.sleep(4)  # the agent backs off for at most a few seconds
    old.say("get /who?after-collector", "answer 200")
    t.curl("-o", "/dev/null", "https://10.71.1.1:8443/after-collector")
    t.curl("-o", "/dev/null", "https://10.71.1.1:8443/who?once")

    equal(wrk.wait(40), 0, "wrk's status")
    out = wrk.out()
    rate = re.search(r"Requests/sec:\s*([\d.]+)", out)
    check(rate and float(rate.group(1)) > 50, "wrk made no requests:", out)
    check("Socket errors" not in out, "wrk saw socket errors:", out)
    check("Non-2xx" not in out, "wrk saw wrong answers:", out)
    settle(pcap, lambda seen: all(has(p)(seen) for p in ("/after-collector", "/who?once",
                                                         "/who?after-collector")), 20)
    fact(f"wrk: {rate.group(1)} requests/s, no errors; mirror went on")
    equal(agent.stop(timeout=30), 0, "agent's exit status")
    equal(col.stop(timeout=30), 0, "collector's exit status")


run(main, needs=["nginx", "wrk", "curl"])
