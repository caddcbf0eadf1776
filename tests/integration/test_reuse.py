#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""The collector is killed while a forged connection is open, and the same addresses and ports are used again
before the next one runs: the sensor sees the request on the first connection and that on the second. So
with an endpoint alone, which forges by itself. The agent's clock is wrong, and that is told."""
import signal

from lib import PROGS, check, equal, eve, eve_stats, fact, run, sh, stream_event_rules, until

PORT = {"CLIENT_PORT": "40444"}


def urls(log):
    return [r["http"]["url"] for r in eve(log) if r.get("event_type") == "http"]


def connect(t):
    client = t.helper("client", "client.py", "10.71.1.1", 443, ns=t.cli, env=PORT)
    client.wait_line("connected", where="out")
    return client


def again(t, log, forger, restart, what):
    """A request, a kill, another request on the same tuple; what runs afterwards."""
    first = connect(t)
    first.say(f"get /who?{what}-one", "answer 200")
    until(lambda: f"/who?{what}-one" in urls(log), 20, f"the first request {what}")
    forger.kick(signal.SIGKILL)
    forger.wait(5)
    first.say("rst", "done rst")
    now = restart()
    line = now.wait_line(r"an earlier run had left open: ended=(\d+) output_gone=(\d+)")
    equal(line.groups(), ("1", "0"), "connections that were left open, and ended")
    second = connect(t)
    second.say(f"get /who?{what}-two", "answer 200")
    until(lambda: f"/who?{what}-two" in urls(log), 20, f"the second request {what}")
    fact(f"{what}: both requests on one tuple are seen")
    second.say("rst", "done rst")
    return now


def main(t):
    t.lab()
    t.nginx()
    t.link(t.srv, "own0", [], t.mon, "mon1", [])
    sensor, log = t.suricata(t.mon, "mon0", stream_event_rules())
    other, other_log = t.suricata(t.mon, "mon1", "")
    col = t.collector("-o", "out0,vlan=9")
    t.enroll()
    skew = t.dir / "skew.so"
    sh("gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-D_GNU_SOURCE", "-o", skew, PROGS / "skew.c")
    agent = t.agent(env={"LD_PRELOAD": str(skew), "SKEW_S": "90"})
    told = col.wait_line(r"clock: of an agent: differs .* ahead_ms=(\d+) trip_ms=([\d.]+)")
    check(abs(int(told.group(1)) - 90000) <= 1 + float(told.group(2)), "the clock's difference:", told.group(0))
    col.kick(signal.SIGUSR1)
    col.wait_line(r"^sslcollector: clock .* ahead_ms=(89|90)\d\d\d\.")
    check(agent.counters()["tunnel_clock_behind_us"] > 89e6, "the agent does not know")
    fact("a clock that is 90 s ahead:", told.group(0)[-40:])
    col = again(t, log, col, lambda: t.collector("-o", "out0,vlan=9"), "collector")
    state = t.dir / "col.state"
    check(any(f.name.startswith("connections.") for f in state.iterdir()), "no file while it runs")
    t.drain(agent, col)
    check(not any(f.name.startswith("connections.") for f in state.iterdir()), "a file is left")

    alone = t.dir / "alone.state"
    alone.mkdir(mode=0o700)
    begin = lambda: t.alone("-o", "own0", "--state-dir", alone)
    forger = again(t, other_log, begin(), begin, "alone")
    equal(forger.stop(), 0, "the endpoint's exit status")
    sensor.kick(signal.SIGINT)
    other.stop(timeout=60)
    sensor.wait(60)
    records = eve(log)
    equal(eve_stats(records, "tcp", "invalid_checksum"), 0, "tcp.invalid_checksum")
    equal([r["alert"]["signature"] for r in records if r.get("event_type") == "alert"], [], "stream events")


run(main, needs=["nginx", "suricata"])
